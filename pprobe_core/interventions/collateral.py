"""What else an edit changes: the logit differences of other circuits, and how well the model predicts neutral text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from pprobe_core import stats
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import AddVector, Edits, Scale, ScaleHeads, ScaleOutput
from pprobe_core.interventions.evaluator import MAX_FULL_TOKENS, Evaluator
from pprobe_core.interventions.hooks import applying
from pprobe_core.interventions.plans import Planned
from pprobe_core.probing.tokens import left_pad, pad_id, plan_batches

NEUTRAL_TEXT = "neutral text"


@dataclass(frozen=True)
class NeutralText:
    """A text as token ids; the loss counts the tokens from `start` on (the answer of a conversation)."""

    ids: tuple[int, ...]
    start: int = 1


@dataclass(frozen=True)
class Collateral:
    """What one point of a sweep does to something it is not about, beside what its random draws do.

    Of a circuit: mean logit difference over its prompts and the edit's change of it, in logits. Of text: mean
    next-token loss in nats per token, each text weighing the same, and the change of it. None where the model broke.
    """

    about: Literal["circuit", "text"]
    name: str  # the circuit's id, or "neutral text"
    group: str  # the point's
    n_neurons: int | None
    layer: int | None
    strength: float | None
    factor: float | None
    n: int  # prompts, or texts
    baseline_mean: float
    delta_mean: float | None
    low: float | None  # bootstrap interval of delta_mean over prompts or texts
    high: float | None
    random_low: float | None  # smallest and largest mean change over the random draws
    random_high: float | None


def circuit_collateral(
    circuit: str, evaluator: Evaluator, plan: Sequence[Planned], seed: int
) -> tuple[Collateral, ...]:
    """The effect of a sweep's points on another circuit, given an evaluator of its prompts on the same model."""
    deltas = [found.delta for found in evaluator.evaluate([p.edits for p in plan])]
    baseline = float(evaluator.baseline().mean())
    return tuple(_rows("circuit", circuit, plan, deltas, baseline, seed))


def text_collateral(
    evaluator: Evaluator, texts: Sequence[NeutralText], plan: Sequence[Planned], seed: int
) -> tuple[Collateral, ...]:
    """The change of the loss of neutral texts by a sweep's points; the evaluator gives model and counts.

    In a text every position is one where the model decides on the next token, so edits at the decision position act on
    all of them. Raises BadRequest for patches and held outputs, which have no values outside their prompts, and for
    texts with nothing to predict.
    """
    usable = [text for text in texts if 1 <= text.start < len(text.ids)]
    if not usable:
        raise BadRequest("There is no neutral text with a token to predict, so no loss can be measured. Give one.")
    spread = [_everywhere(p.edits) for p in plan]
    for edits in spread:
        evaluator.check(edits)
    unedited = _losses(evaluator, usable, ())
    deltas = [_losses(evaluator, usable, edits) - unedited for edits in spread]
    return tuple(_rows("text", NEUTRAL_TEXT, plan, deltas, float(unedited.mean()), seed))


def _rows(
    about: Literal["circuit", "text"],
    name: str,
    plan: Sequence[Planned],
    deltas: Sequence[Float[np.ndarray, "item"]],
    baseline: float,
    seed: int,
) -> Iterator[Collateral]:
    """One row per ranked point, with the range of its draws."""
    of_draws: dict[str, list[float]] = {}
    for planned, delta in zip(plan, deltas, strict=True):
        if planned.arm == "random" and np.isfinite(delta).all():
            of_draws.setdefault(planned.group, []).append(float(delta.mean()))
    for planned, delta in zip(plan, deltas, strict=True):
        if planned.arm != "ranked":
            continue
        mean, low, high = stats.mean_interval(delta, seed)
        draws = of_draws.get(planned.group, [])
        yield Collateral(
            about=about,
            name=name,
            group=planned.group,
            n_neurons=planned.n_neurons,
            layer=planned.layer,
            strength=planned.strength,
            factor=planned.factor,
            n=len(delta),
            baseline_mean=baseline,
            delta_mean=mean,
            low=low,
            high=high,
            random_low=min(draws, default=None),
            random_high=max(draws, default=None),
        )


def _everywhere(edits: Edits) -> Edits:
    """The same edits at all positions."""
    if not all(isinstance(edit, Scale | ScaleHeads | ScaleOutput | AddVector) for edit in edits):
        raise BadRequest(
            "Patched and held values belong to their prompts; the loss of other text has no meaning there."
        )
    return tuple(
        replace(edit, position="all")
        for edit in edits
        if isinstance(edit, Scale | ScaleHeads | ScaleOutput | AddVector)
    )


@torch.inference_mode()
def _losses(evaluator: Evaluator, texts: Sequence[NeutralText], edits: Edits) -> Float[np.ndarray, "text"]:
    """Mean loss of every text over its counted tokens, nats per token."""
    out = np.empty(len(texts))
    context = evaluator.context([], [edits])
    for rows in plan_batches([len(t.ids) for t in texts], MAX_FULL_TOKENS):
        evaluator.stop_if_cancelled()
        some = [texts[r] for r in rows]
        batch = left_pad([t.ids for t in some], pad_id(evaluator.loaded.tokenizer), evaluator.loaded.device)
        with applying(evaluator.structure, [edits], n_prompts=len(rows), context=context):
            logits = evaluator.all_logits(batch)
        evaluator.passes.full += len(rows)
        predicted = logits[:, :-1].float().log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        width = batch.input_ids.shape[1]
        counted = torch.zeros_like(predicted, dtype=torch.bool)
        for row, text in enumerate(some):
            counted[row, width - len(text.ids) + text.start - 1 :] = True  # aligned at the last token
        mean = -predicted.masked_fill(~counted, 0.0).sum(-1) / counted.sum(-1)
        out[rows] = mean.cpu().numpy()
    return out
