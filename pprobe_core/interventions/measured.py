"""Rankings of neurons for a sweep; among them `measured`: each shortlisted neuron's own effect, by cached passes."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Edits, Neuron, Position, Scale
from pprobe_core.interventions.evaluator import Evaluator

Side = Literal["both", "positive", "negative"]  # of the signed mean importance

SHORTLIST = 1000  # neurons by |I|, and as many by |c * a(X)|
CHUNK = 256  # neurons per stored block: progress and cancelling stay prompt

_KEYS: dict[str, str] = {
    "shared": "importance_mean",
    "magnitude": "importance_rms",
    "ablation": "ablation_score",
}


@dataclass(frozen=True)
class MeasuredEffects:
    """Single-neuron effects of some neurons: mean over the selecting prompts of F(edited) - F, in logits."""

    neurons: tuple[Neuron, ...]
    effects: tuple[float | None, ...]  # None where the model broke
    n_done: int  # of the shortlist, these included
    n_total: int
    n_full_passes: int  # of the evaluator so far
    n_last_token_passes: int


def ranked_neurons(neurons: pd.DataFrame, ranking: str, side: Side = "both") -> tuple[Neuron, ...]:
    """All neurons of a run's score table in the order of a two-pass ranking, ties by layer, then neuron.

    `shared` and `magnitude` put the largest values first, `ablation` the neurons that fit the question "what if it is
    off" best. `side` keeps neurons of one sign of the mean importance.
    """
    if ranking not in _KEYS:
        raise BadRequest(f"There is no ranking “{ranking}”. Choose one of {', '.join(_KEYS)} or measured.")
    kept = neurons
    if side != "both":
        sign = 1 if side == "positive" else -1
        kept = neurons[np.sign(neurons["importance_mean"]) == sign]
    key = kept[_KEYS[ranking]].abs() if ranking == "shared" else kept[_KEYS[ranking]]
    return _ordered(kept.assign(_key=-key))


def shortlist(neurons: pd.DataFrame, n: int = SHORTLIST) -> tuple[Neuron, ...]:
    """The neurons worth measuring: the first n by |mean I| and the first n by |c * a(X)|, ordered by the former."""
    if n < 1:
        raise BadRequest(f"A shortlist of {n} neurons was asked for; at least 1 is needed.")
    frame = neurons.assign(_key=-neurons["importance_mean"].abs())
    by_importance = _ordered(frame)
    by_zeroing = _ordered(neurons.assign(_key=-neurons["zeroing_effect"].abs()))
    chosen = set(by_importance[:n]) | set(by_zeroing[:n])
    return tuple(neuron for neuron in by_importance if neuron in chosen)


def measure_neurons(
    evaluator: Evaluator,
    neurons: Sequence[Neuron],
    *,
    factor: float = 0.0,
    position: Position = "decision",
    skip: Collection[Neuron] = frozenset(),
) -> Iterator[MeasuredEffects]:
    """Yield the effect of scaling each neuron alone by `factor`, some hundred at a time; those in `skip` are left out.

    The evaluator must hold the prompts that may select, and no others: whatever it holds takes part in the ranking.
    Neurons of one layer are measured together, so that few layers carry hooks at a time.
    """
    waiting = sorted(set(neurons) - set(skip))
    n_done = len(set(neurons)) - len(waiting)
    for start in range(0, len(waiting), CHUNK):
        chunk = waiting[start : start + CHUNK]
        rows: list[Edits] = [(Scale((neuron,), factor, position),) for neuron in chunk]
        effects = [float(one.delta.mean()) for one in evaluator.evaluate(rows)]
        n_done += len(chunk)
        yield MeasuredEffects(
            neurons=tuple(chunk),
            effects=tuple(e if np.isfinite(e) else None for e in effects),
            n_done=n_done,
            n_total=len(set(neurons)),
            n_full_passes=evaluator.passes.full,
            n_last_token_passes=evaluator.passes.last_token,
        )


def measured_ranking(blocks: Sequence[MeasuredEffects], sign: int) -> tuple[Neuron, ...]:
    """The measured neurons, first those whose own effect moves F most in the direction `sign` (+1 raises, -1 lowers).

    For neurons that carry what the perturbation changes, `sign` is scores.lowering_or_raising(F(X~) - F(X)). Neurons
    whose effect broke the model come last; ties by layer, then neuron.
    """
    effects = {n: e for block in blocks for n, e in zip(block.neurons, block.effects, strict=True)}
    return tuple(sorted(effects, key=lambda n: (effects[n] is None, -sign * (effects[n] or 0.0), n)))


def _ordered(frame: pd.DataFrame) -> tuple[Neuron, ...]:
    rows = frame.sort_values(["_key", "layer", "neuron"], kind="stable")
    return tuple(Neuron(int(layer), int(n)) for layer, n in zip(rows["layer"], rows["neuron"], strict=True))
