"""What a sweep will measure, as a list of planned points made before anything runs. Pure functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pprobe_core.circuits.schema import Condition
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.controls import matched_neurons, orthogonal_directions, random_heads
from pprobe_core.interventions.directions import Directions
from pprobe_core.interventions.edits import (
    AddVector,
    Edits,
    Head,
    HoldOutput,
    ModelShape,
    Neuron,
    Output,
    Patch,
    PatchOutput,
    Position,
    Restore,
    Scale,
    ScaleHeads,
    ScaleOutput,
    check_neurons,
)
from pprobe_core.interventions.types import N_DRAWS, Arm, SweepKind

DOSES = (1, 2, 5, 10, 20, 50, 100)  # the paper's, and the product's default
FACTORS = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
RELATIVE_STRENGTHS = (0.25, 0.5, 1.0, 2.0)  # lengths of the residual stream
ABSOLUTE_STRENGTHS = (12.5, 25.0, 50.0, 100.0)  # the residual stream's own unit; the paper's on Qwen3-4B is 50
THRESHOLD_SHARES = (0.00005, 0.0001, 0.0002, 0.0005, 0.001)  # of all neurons: the sensitivity curve a referee asks for


@dataclass(frozen=True)
class Planned:
    """One point of a sweep: what is edited, and the coordinates it is shown at (None where they do not apply)."""

    kind: SweepKind
    variant: str  # what is edited, in a word or two: "neurons", "ffn", "patch", "attention held", ...
    arm: Arm
    edits: Edits
    draw: int | None = None  # of the random arm
    n_neurons: int | None = None
    layer: int | None = None
    layers: tuple[int, ...] = ()  # of a band
    strength: float | None = None
    factor: float | None = None
    neurons: tuple[str, ...] = ()  # "L3.N12" (heads: "L3.H1"), in the order of the ranking

    @property
    def group(self) -> str:
        """The same for a ranked point and its random controls: everything but arm and draw."""
        place = "" if not self.layers else f"L{self.layers[0]}-{self.layers[-1]}x{len(self.layers)}"
        coordinates = {
            "n": self.n_neurons,
            "layer": self.layer,
            "band": place or None,
            "strength": None if self.strength is None else f"{self.strength:.6g}",
            "factor": None if self.factor is None else f"{self.factor:.6g}",
        }
        shown = [f"{name}={value}" for name, value in coordinates.items() if value is not None]
        return "/".join([self.kind, self.variant.replace(" ", "_"), *shown])

    @property
    def key(self) -> str:
        """Stable name of the planned point; with the split it is the id of the stored one."""
        return f"{self.group}/{self.arm}" + ("" if self.draw is None else f"-{self.draw}")


def dose_plan(
    ranked: Sequence[Neuron],
    shape: ModelShape,
    seed: int,
    *,
    doses: Sequence[int] = DOSES,
    factor: float = 0.0,
    position: Position = "decision",
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """The first n neurons of a ranking times `factor`, for every dose n, each with its matched random draws."""
    largest = _check_doses(doses, len(ranked))
    check_neurons(ranked, shape)
    scaling = _scaling(factor, position)
    return tuple(_top_n("dose", "neurons", ranked[:largest], shape, seed, doses, n_draws, scaling, factor))


def factor_plan(
    neurons: Sequence[Neuron],
    shape: ModelShape,
    seed: int,
    *,
    factors: Sequence[float] = FACTORS,
    position: Position = "decision",
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """One fixed set of neurons at several factors (the amplification curve), each with the same random draws."""
    if not neurons:
        raise BadRequest("No neuron was chosen. Choose at least one, for example the first 20 of a ranking.")
    plan: list[Planned] = []
    for factor in _check_values("factor", factors):
        scaling = _scaling(factor, position)
        plan += _top_n("factor", "neurons", neurons, shape, seed, (len(neurons),), n_draws, scaling, factor)
    return tuple(plan)


def window_plan(
    directions: Directions,
    seed: int,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = RELATIVE_STRENGTHS,
    relative: bool = True,
    position: Position = "decision",
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """The direction added after each layer at each strength, beside random orthogonal ones of the same length.

    Positive strengths push towards the target; `directions.toward_other` is the sign that pushes towards what the other
    prompts do.
    """
    chosen = range(len(directions.vectors)) if layers is None else layers
    plan = []
    for layer in chosen:
        plan += _injections("window", directions, (layer,), strengths, relative, position, seed, n_draws)
    return tuple(plan)


def strength_plan(
    directions: Directions,
    seed: int,
    *,
    layers: Sequence[int],
    strengths: Sequence[float] = RELATIVE_STRENGTHS,
    relative: bool = True,
    position: Position = "decision",
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """The direction added after one layer or after every layer of a band, at several strengths."""
    return tuple(_injections("strength", directions, tuple(layers), strengths, relative, position, seed, n_draws))


def layers_plan(n_layers: int, *, factor: float = 0.0, position: Position = "decision") -> tuple[Planned, ...]:
    """The FFN output, and the attention output, of each layer alone and of all layers, times `factor`.

    A comparison of layers with each other: random controls do not apply.
    """
    _check_values("factor", (factor,))
    kinds: tuple[Literal["ffn", "attention"], ...] = ("ffn", "attention")
    plan = []
    for kind in kinds:
        for layers in [*((layer,) for layer in range(n_layers)), tuple(range(n_layers))]:
            one = layers[0] if len(layers) == 1 else None
            band = () if one is not None else layers
            edits: Edits = (ScaleOutput(layers, kind, factor, position),)
            plan.append(Planned("layers", kind, "ranked", edits, layer=one, layers=band, factor=factor))
    return tuple(plan)


def patch_plan(
    condition: Condition,
    ranked: Sequence[Neuron],
    shape: ModelShape,
    seed: int,
    *,
    doses: Sequence[int] = DOSES,
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """Values of the pairs' other prompt put in: the first n neurons of a ranking, and each part of each layer.

    On the original prompts this is patching (a(X~) into X), on the perturbed ones restoring (a(X) into X~).
    """
    variant = "patch" if condition == "original" else "restore"

    def exchange(neurons: tuple[Neuron, ...]) -> Edits:
        return (Patch(neurons) if condition == "original" else Restore(neurons),)

    plan: list[Planned] = []
    if ranked:
        largest = _check_doses(doses, len(ranked))
        plan += _top_n("patch", variant, ranked[:largest], shape, seed, doses, n_draws, exchange, None)
    outputs: tuple[Output, ...] = ("ffn", "attention", "residual")
    for kind in outputs:
        for layer in range(shape.n_layers):
            edits: Edits = (PatchOutput((layer,), kind),)
            plan.append(Planned("patch", f"{variant} {kind}", "ranked", edits, layer=layer))
    return tuple(plan)


def held_plan(n_layers: int) -> tuple[Planned, ...]:
    """The other prompt's residual stream put in after each layer, and what later layers make of it.

    Three variants: later layers free; their attention held at what it gives on the unedited prompt, so that only FFNs
    can answer; their FFNs held. The difference says which of the two carries the change, instead of assuming it.
    """
    plan = []
    for layer in range(n_layers):
        later = tuple(range(layer + 1, n_layers))
        patch = PatchOutput((layer,), "residual")
        variants: dict[str, Edits] = {"free": (patch,)}
        if later:
            variants["attention held"] = (patch, HoldOutput(later, "attention"))
            variants["ffn held"] = (patch, HoldOutput(later, "ffn"))
        plan += [Planned("held", name, "ranked", edits, layer=layer) for name, edits in variants.items()]
    return tuple(plan)


def heads_plan(
    ranked: Sequence[Head],
    shape: ModelShape,
    seed: int,
    *,
    doses: Sequence[int],
    position: Position = "decision",
    n_draws: int = N_DRAWS,
) -> tuple[Planned, ...]:
    """The first n attention heads switched off, beside as many random ones: the attention-only baseline."""
    _check_doses(doses, len(ranked))
    plan = []
    for n in sorted(set(doses)):
        arms: list[tuple[Arm, int | None, Sequence[Head]]] = [("ranked", None, ranked[:n])]
        arms += [("random", k, heads) for k, heads in enumerate(random_heads(n, shape, seed, n_draws))]
        for arm, draw, heads in arms:
            edits: Edits = (ScaleHeads(tuple(heads), 0.0, position),) if n else ()
            names = tuple(map(str, heads))
            plan.append(Planned("heads", "heads", arm, edits, draw, n, factor=0.0, neurons=names))
    return tuple(plan)


def threshold_doses(shape: ModelShape, shares: Sequence[float] = THRESHOLD_SHARES) -> tuple[int, ...]:
    """Neuron counts for shares of all neurons, at least one each, without repeats."""
    total = shape.n_layers * shape.d_mlp
    return tuple(sorted({max(1, round(share * total)) for share in shares}))


def default_doses(shape: ModelShape, available: int, n_all: int | None = None) -> tuple[int, ...]:
    """The paper's doses and the counts of the sensitivity curve, as far as there are as many; at least one.

    `n_all`: where something else than neurons is counted, how many of it there are; its sensitivity curve is left out.
    """
    doses = {*DOSES, *(threshold_doses(shape) if n_all is None else ())}
    return tuple(sorted(n for n in doses if n <= available)) or (available,)


# Shared parts ------------------------------------------------------------------------------------------------------


def _scaling(factor: float, position: Position) -> Callable[[tuple[Neuron, ...]], Edits]:
    return lambda neurons: (Scale(neurons, factor, position),)


def _top_n(
    kind: SweepKind,
    variant: str,
    ranked: Sequence[Neuron],
    shape: ModelShape,
    seed: int,
    doses: Sequence[int],
    n_draws: int,
    edit: Callable[[tuple[Neuron, ...]], Edits],
    factor: float | None,
) -> list[Planned]:
    """For every dose n: the first n of the ranking, then the first n of every matched draw."""
    arms: list[tuple[Arm, int | None, tuple[Neuron, ...]]] = [("ranked", None, tuple(ranked))]
    arms += [("random", d.draw, d.neurons) for d in matched_neurons(ranked, shape, seed, n_draws)]
    plan = []
    for n in sorted(set(doses)):
        for arm, draw, neurons in arms:
            edits = edit(neurons[:n]) if n else ()
            names = tuple(map(str, neurons[:n]))
            plan.append(Planned(kind, variant, arm, edits, draw, n, factor=factor, neurons=names))
    return plan


def _injections(
    kind: SweepKind,
    directions: Directions,
    layers: tuple[int, ...],
    strengths: Sequence[float],
    relative: bool,
    position: Position,
    seed: int,
    n_draws: int,
) -> list[Planned]:
    n_layers = len(directions.vectors)
    if not layers:
        raise BadRequest("No layer was chosen. Choose at least one.")
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise BadRequest(f"There is no layer {layer}: this model's layers are numbered 0 to {n_layers - 1}.")
    variant = f"{directions.kind} {'relative' if relative else 'absolute'}"
    # One random direction per draw and layer: where layers have directions of their own, so have the controls.
    random = {layer: orthogonal_directions(directions.vectors[layer], seed, n_draws) for layer in layers}
    one, band = (layers[0], ()) if len(layers) == 1 else (None, layers)
    plan = []
    for strength in _check_values("strength", strengths):
        arms: list[tuple[Arm, int | None]] = [("ranked", None), *(("random", k) for k in range(n_draws))]
        for arm, draw in arms:
            edits: Edits = tuple(
                AddVector.along(
                    layer,
                    directions.vectors[layer] if draw is None else random[layer][draw],
                    strength,
                    relative=relative,
                    position=position,
                )
                for layer in layers
            )
            plan.append(Planned(kind, variant, arm, edits, draw, None, one, band, strength))
    return plan


def _check_doses(doses: Sequence[int], available: int) -> int:
    """The largest dose. Raises BadRequest when there is none, one is negative or more than there are."""
    if not doses:
        raise BadRequest("No number of neurons was given. Give at least one, for example 1, 5, 20.")
    if min(doses) < 0:
        raise BadRequest(f"{min(doses)} neurons cannot be switched off. Give numbers from 0 up.")
    if max(doses) > available:
        raise BadRequest(f"{max(doses):,} were asked for and the ranking has {available:,}. Ask for fewer.")
    return max(doses)


def _check_values(what: str, values: Sequence[float]) -> list[float]:
    """The values, sorted and without repeats. Raises BadRequest when there is none or one is not finite."""
    if not values:
        raise BadRequest(f"No {what} was given. Give at least one.")
    for value in values:
        if not math.isfinite(value):
            raise BadRequest(f"The {what} is {value}; it must be a finite number such as 0, 0.5 or -2.")
    return sorted({float(value) for value in values})
