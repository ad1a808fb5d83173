"""What else an edit changes: the logit differences of other circuits, and how well the model predicts neutral text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from pprobe_core import stats
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import AddVector, Edits, Scale, ScaleHeads, ScaleOutput
from pprobe_core.interventions.evaluator import MAX_FULL_TOKENS, Evaluator
from pprobe_core.interventions.hooks import applying
from pprobe_core.probing.tokens import left_pad, pad_id, plan_batches


@dataclass(frozen=True)
class CircuitEffect:
    """What an edit does to another circuit's logit difference, over that circuit's prompts; logits."""

    circuit: str
    n_prompts: int
    baseline_mean: float
    delta_mean: float | None  # None where the model broke
    low: float | None  # bootstrap interval of delta_mean
    high: float | None


@dataclass(frozen=True)
class TextLoss:
    """Mean next-token loss of neutral texts in nats per token, each text weighing the same; None where it broke."""

    n_texts: int
    n_tokens: int  # predicted ones
    loss_mean: float | None
    delta_mean: float | None  # against the unedited model
    low: float | None  # bootstrap interval of delta_mean over texts
    high: float | None


def circuit_effects(evaluators: Mapping[str, Evaluator], edits: Edits, seed: int) -> Iterator[CircuitEffect]:
    """Yield the effect of one edit on every other circuit, given an evaluator of its prompts on the same model."""
    for circuit, evaluator in evaluators.items():
        (found,) = evaluator.evaluate([edits])
        mean, low, high = _mean(found.delta, seed)
        baseline = float(evaluator.baseline().mean())
        yield CircuitEffect(circuit, len(evaluator.prompts), baseline, mean, low, high)


def text_losses(
    evaluator: Evaluator, texts: Sequence[tuple[int, ...]], rows: Sequence[Edits], seed: int
) -> tuple[TextLoss, ...]:
    """Loss of the texts (token ids, two or more each) under each of `rows`; the evaluator gives model and counts.

    In a text every position is one where the model decides on the next token, so edits at the decision position act on
    all of them. Raises BadRequest for patches and held outputs, which have no values outside their prompts, and for
    texts with nothing to predict.
    """
    usable = [tuple(ids) for ids in texts if len(ids) >= 2]
    if not usable:
        raise BadRequest("There is no neutral text of at least two tokens to measure the loss on. Give one.")
    spread = [_everywhere(edits) for edits in rows]
    for edits in spread:
        evaluator.check(edits)
    losses = np.stack([_losses(evaluator, usable, edits) for edits in [(), *spread]])
    n_tokens = sum(len(ids) - 1 for ids in usable)
    out = []
    for loss in losses[1:]:
        mean, _, _ = _mean(loss, seed)
        delta, low, high = _mean(loss - losses[0], seed)
        out.append(TextLoss(len(usable), n_tokens, mean, delta, low, high))
    return tuple(out)


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
def _losses(evaluator: Evaluator, texts: Sequence[tuple[int, ...]], edits: Edits) -> Float[np.ndarray, "text"]:
    """Mean loss of every text, nats per predicted token."""
    out = np.empty(len(texts))
    context = evaluator.context([], [edits])
    for rows in plan_batches([len(t) for t in texts], MAX_FULL_TOKENS):
        evaluator.stop_if_cancelled()
        batch = left_pad([texts[r] for r in rows], pad_id(evaluator.loaded.tokenizer), evaluator.loaded.device)
        with applying(evaluator.structure, [edits], n_prompts=len(rows), context=context):
            logits = evaluator.all_logits(batch)
        evaluator.passes.full += len(rows)
        predicted = logits[:, :-1].float().log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        counted = batch.attention_mask[:, :-1].bool()  # padding predicts nothing
        mean = -predicted.masked_fill(~counted, 0.0).sum(-1) / counted.sum(-1)
        out[rows] = mean.cpu().numpy()
    return out


def _mean(values: Float[np.ndarray, "item"], seed: int) -> tuple[float | None, float | None, float | None]:
    if not np.isfinite(values).all():
        return None, None, None
    interval = stats.bootstrap_mean(values, seed)
    return float(values.mean()), None if interval is None else interval.low, None if interval is None else interval.high
