"""Rankings of neurons for a sweep; among them `measured`: each shortlisted neuron's own effect, by cached passes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pprobe_core.circuits.schema import Condition
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Edits, Neuron, Position, Scale
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.types import Side

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


def ranked_neurons(
    neurons: pd.DataFrame, ranking: str, side: Side = "both", *, condition: Condition = "original"
) -> tuple[Neuron, ...]:
    """All neurons of a run's score table in the order of a two-pass ranking, ties by layer, then neuron.

    `shared` and `magnitude` put the largest values first, `ablation` the neurons that fit the question "what if it is
    off" on the prompts of `condition` best. `side` keeps neurons of one sign of the mean importance.
    """
    if ranking not in _KEYS:
        raise BadRequest(f"There is no ranking “{ranking}”. Choose one of {', '.join(_KEYS)} or measured.")
    kept = neurons
    if side != "both":
        sign = 1 if side == "positive" else -1
        kept = neurons[np.sign(neurons["importance_mean"]) == sign]
    if ranking == "ablation" and condition == "perturbed":
        key = mirrored_ablation_score(neurons).loc[kept.index]
    else:
        key = kept[_KEYS[ranking]].abs() if ranking == "shared" else kept[_KEYS[ranking]]
    return _ordered(kept.assign(_key=-key))


def zeroing_effect(neurons: pd.DataFrame, condition: Condition) -> pd.Series:
    """Direct effect, in logits, of switching each neuron off on the prompts of `condition`: mean of -c * a.

    The table holds it for the original prompts; on the perturbed ones a(X~) = a(X) + delta_a, so it is that minus I.
    """
    if condition == "original":
        return neurons["zeroing_effect"]
    return neurons["zeroing_effect"] - neurons["importance_mean"]


def mirrored_ablation_score(neurons: pd.DataFrame) -> pd.Series:
    """The ablation score for switching neurons off on the *perturbed* prompts, from the same two passes; logits.

    With the two prompts exchanged, I changes its sign, the sought direction is the opposite one, and a(X~) takes the
    place of a(X): min(sign * I, -sign * (-c * a(X~))) with the `sign` of the table's own score.
    """
    effect = zeroing_effect(neurons, "perturbed")
    # The table's score is min(sign * I, sign * zeroing effect): the sign under which that holds for every neuron.
    importance, own = neurons["importance_mean"], neurons["zeroing_effect"]
    scores = {s: np.minimum(s * importance, s * own) for s in (1, -1)}
    sign = min(scores, key=lambda s: float((scores[s] - neurons["ablation_score"]).abs().sum()))
    return pd.Series(np.minimum(sign * importance, -sign * effect), index=neurons.index)


def shortlist(neurons: pd.DataFrame, n: int = SHORTLIST, *, condition: Condition = "original") -> tuple[Neuron, ...]:
    """The neurons worth measuring: the first n by |mean I| and the first n by |c * a|, ordered by the former."""
    if n < 1:
        raise BadRequest(f"A shortlist of {n} neurons was asked for; at least 1 is needed.")
    frame = neurons.assign(_key=-neurons["importance_mean"].abs())
    by_importance = _ordered(frame)
    by_zeroing = _ordered(neurons.assign(_key=-zeroing_effect(neurons, condition).abs()))
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


def measured_ranking(effects: Mapping[Neuron, float | None], sign: int) -> tuple[Neuron, ...]:
    """The measured neurons, first those whose own effect moves F most in the direction `sign` (+1 raises, -1 lowers).

    For neurons that carry what the perturbation changes, `sign` is scores.lowering_or_raising(F(other) - F(own)).
    Neurons whose effect broke the model (None) come last; ties by layer, then neuron.
    """
    return tuple(sorted(effects, key=lambda n: (effects[n] is None, -sign * (effects[n] or 0.0), n)))


def _ordered(frame: pd.DataFrame) -> tuple[Neuron, ...]:
    rows = frame.sort_values(["_key", "layer", "neuron"], kind="stable")
    return tuple(Neuron(int(layer), int(n)) for layer, n in zip(rows["layer"], rows["neuron"], strict=True))
