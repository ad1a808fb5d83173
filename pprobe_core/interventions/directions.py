"""Directions to inject, from the prompts that may select, and how well they separate the prompts that may not.

Every direction points towards the target: adding it is meant to raise the logit difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import mannwhitneyu
from torch import Tensor

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.types import DirectionKind
from pprobe_core.probing.decomposition import behavioural_direction
from pprobe_core.probing.scores import lowering_or_raising
from pprobe_core.stats import wilson


@dataclass(frozen=True)
class Directions:
    """One direction per layer, for the residual stream after it."""

    kind: DirectionKind
    vectors: Float[Tensor, "layer d_model"]  # towards the target
    n_pairs: int  # discovery pairs they rest on
    toward_other: int  # +1 or -1: the sign of a strength that pushes these prompts towards what the other ones do


@dataclass(frozen=True)
class Separability:
    """How well one layer's difference of means tells held-out original from perturbed prompts (shares, fractions)."""

    layer: int
    accuracy: float | None  # with the threshold halfway between the discovery means; None without held-out prompts
    low: float | None  # Wilson interval
    high: float | None
    auc: float | None  # chance that a prompt of the target side lies further along the direction
    n_prompts: int  # held-out prompts, two per pair


def selecting(evaluator: Evaluator) -> list[int]:
    """The prompts that may select: discovery, or all where a set has no discovery split."""
    chosen = [i for i, p in enumerate(evaluator.prompts) if p.split == "discovery"]
    return chosen or list(range(len(evaluator.prompts)))


def find_directions(evaluator: Evaluator, kind: DirectionKind) -> Directions:
    """d_F, or the difference of means of every layer, from the evaluator's discovery pairs.

    d_F = mean(W_U[T]) - mean(W_U[C]) (averaged where pairs bring their own observables), the same after every layer.
    Difference of means: mean residual stream at the decision position of the prompts on the target's side minus that of
    their twins. Raises BadRequest when a direction has length zero.
    """
    chosen = selecting(evaluator)
    sign = _toward_other(evaluator, chosen)
    if kind == "d_F":
        observables = [(evaluator.prompts[i].target_ids, evaluator.prompts[i].control_ids) for i in chosen]
        structure = evaluator.structure
        with torch.inference_mode():
            unique = {o: behavioural_direction(structure, *o).cpu() for o in dict.fromkeys(observables)}
            one = torch.stack([unique[o] for o in observables]).mean(0)
            vectors = one.expand(structure.n_layers, -1).clone()
    else:
        own, other = evaluator.values("own").residual[chosen], evaluator.values("other").residual[chosen]
        vectors = sign * (other - own).mean(0)
    empty = [layer for layer, vector in enumerate(vectors) if float(vector.norm()) == 0]
    if empty:
        raise BadRequest(
            f"The direction has length zero after layer {empty[0]}: the two prompts of the pairs do not differ there. "
            "Choose prompts, or token sets, that differ."
        )
    return Directions(kind, vectors, len(chosen), sign)


def separability(evaluator: Evaluator) -> tuple[Separability, ...]:
    """Per layer: direction and threshold from discovery pairs, shares of held-out prompts on their side of it."""
    chosen = selecting(evaluator)
    held_out = [i for i, p in enumerate(evaluator.prompts) if p.split == "heldout" and i not in chosen]
    vectors = find_directions(evaluator, "difference_of_means").vectors
    sign = _toward_other(evaluator, chosen)
    # rows: prompts on the target's side and their twins
    target, control = evaluator.values("own").residual, evaluator.values("other").residual
    if sign > 0:
        target, control = control, target
    out = []
    for layer, vector in enumerate(vectors):
        of_target, of_control = target[:, layer] @ vector, control[:, layer] @ vector
        threshold = (of_target[chosen].mean() + of_control[chosen].mean()) / 2
        if not held_out:
            out.append(Separability(layer, None, None, None, None, 0))
            continue
        n = 2 * len(held_out)
        right = int((of_target[held_out] > threshold).sum()) + int((of_control[held_out] < threshold).sum())
        interval = wilson(right, n)
        auc = mannwhitneyu(of_target[held_out].numpy(), of_control[held_out].numpy()).statistic / len(held_out) ** 2
        out.append(
            Separability(
                layer,
                right / n,
                None if interval is None else interval.low,
                None if interval is None else interval.high,
                float(auc),
                n,
            )
        )
    return tuple(out)


def _toward_other(evaluator: Evaluator, chosen: Sequence[int]) -> int:
    """+1 when the other prompts of the chosen pairs have the larger mean logit difference, else -1."""
    delta = evaluator.other_baseline() - evaluator.baseline()
    return lowering_or_raising(torch.from_numpy(delta[list(chosen)]))
