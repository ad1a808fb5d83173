"""Edits as values: what is changed in a forward pass, and at which positions. Pure; hooks.py applies them."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pprobe_core.errors import BadRequest

Position = Literal["decision", "all"]  # the last prompt position, or every position including generated ones
# What a layer's parts return: FFN, attention, the stream after the layer.
Output = Literal["ffn", "attention", "residual"]


class Neuron(NamedTuple):
    """One FFN neuron; sorts by layer, then neuron."""

    layer: int
    neuron: int

    def __str__(self) -> str:
        return f"L{self.layer}.N{self.neuron}"


class Head(NamedTuple):
    """One attention head."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}.H{self.head}"


@dataclass(frozen=True)
class Scale:
    """Activations of chosen neurons times `factor`: 0 ablates, below 1 weakens, above 1 amplifies."""

    neurons: tuple[Neuron, ...]
    factor: float = 0.0
    position: Position = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.neurons)
        _check_finite("factor", self.factor)


@dataclass(frozen=True)
class ScaleHeads:
    """Attention heads' outputs (what the output projection reads) times `factor`."""

    heads: tuple[Head, ...]
    factor: float = 0.0
    position: Position = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.heads)
        _check_finite("factor", self.factor)


@dataclass(frozen=True)
class ScaleOutput:
    """The whole FFN or attention output of some layers, as it is added to the residual stream, times `factor`."""

    layers: tuple[int, ...]
    kind: Literal["ffn", "attention"]
    factor: float = 0.0
    position: Position = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.layers)
        _check_finite("factor", self.factor)


@dataclass(frozen=True)
class Patch:
    """Run on the original prompt X, with a(X~) in place of the neurons' activations at the decision position."""

    neurons: tuple[Neuron, ...]
    position: Literal["decision"] = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.neurons)


@dataclass(frozen=True)
class Restore:
    """Run on the perturbed prompt X~, with a(X) in place of the neurons' activations at the decision position."""

    neurons: tuple[Neuron, ...]
    position: Literal["decision"] = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.neurons)


@dataclass(frozen=True)
class PatchOutput:
    """Outputs of whole layers at the decision position replaced by what the pair's other prompt gives there."""

    layers: tuple[int, ...]
    kind: Output
    position: Literal["decision"] = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.layers)


@dataclass(frozen=True)
class HoldOutput:
    """Outputs of whole layers at the decision position kept at what the same prompt gives there unedited.

    Beside another edit this says what that edit does when, for example, attention cannot answer to it.
    """

    layers: tuple[int, ...]
    kind: Output
    position: Literal["decision"] = "decision"

    def __post_init__(self) -> None:
        _check_unique(self.layers)


@dataclass(frozen=True)
class AddVector:
    """Add strength * vector / |vector| to the residual stream after a layer.

    `relative`: the strength counts in lengths of the residual stream there (1.0 adds a vector as long as the residual
    of that prompt and position); otherwise in the residual stream's own unit.
    """

    layer: int
    vector: tuple[float, ...]
    strength: float
    relative: bool = False
    position: Position = "decision"

    def __post_init__(self) -> None:
        _check_finite("strength", self.strength)
        if not all(math.isfinite(value) for value in self.vector):
            raise BadRequest(
                "The direction holds values that are not numbers (NaN or infinite). Give a finite direction."
            )
        if not any(self.vector):
            raise BadRequest(
                "The direction has length zero, so it points nowhere. Give one with at least one value not 0."
            )

    @classmethod
    def along(
        cls,
        layer: int,
        direction: Any,
        strength: float,
        *,
        relative: bool = False,
        position: Position = "decision",
    ) -> "AddVector":
        """The edit for a direction given as a tensor or array [d_model]."""
        return cls(layer, tuple(direction.tolist()), strength, relative, position)


Edit = Scale | ScaleHeads | ScaleOutput | Patch | Restore | PatchOutput | HoldOutput | AddVector
Edits = tuple[Edit, ...]  # all that is changed in one forward pass of one prompt; () leaves it as it is


class ModelShape(NamedTuple):
    """How much there is to edit. `n_heads` is None where attention heads cannot be told apart."""

    n_layers: int
    d_mlp: int
    d_model: int
    n_heads: int | None = None


def check_edits(edits: Edits, shape: ModelShape) -> None:
    """Raise BadRequest, in one plain sentence, for an edit that this model does not have the parts for.

    Too many or unknown neurons, heads or layers, a direction of another width, and the same thing edited twice.
    """
    neurons = [n for edit in edits if isinstance(edit, Scale | Patch | Restore) for n in edit.neurons]
    check_neurons(neurons, shape)
    heads = [h for edit in edits if isinstance(edit, ScaleHeads) for h in edit.heads]
    if heads:
        if shape.n_heads is None:
            raise BadRequest(
                "This model's attention heads cannot be told apart, so none can be edited. Edit neurons instead."
            )
        _check_layers((h.layer for h in heads), shape)
        _check_range("head", (h.head for h in heads), shape.n_heads)
        _check_unique(heads)
    outputs = []
    for edit in edits:
        if isinstance(edit, ScaleOutput | PatchOutput | HoldOutput):
            outputs += [f"the {edit.kind} output of layer {layer}" for layer in edit.layers]
            _check_layers(edit.layers, shape)
        elif isinstance(edit, AddVector):
            _check_layers((edit.layer,), shape)
            if len(edit.vector) != shape.d_model:
                raise BadRequest(
                    f"The direction has {len(edit.vector)} values; this model's residual stream has {shape.d_model}. "
                    "Use a direction computed on this model."
                )
    _check_unique(outputs)


def check_neurons(neurons: Sequence[Neuron], shape: ModelShape) -> None:
    """Raise BadRequest for more neurons than exist, a layer or neuron out of range, or one named twice."""
    total = shape.n_layers * shape.d_mlp
    if len(neurons) > total:
        raise BadRequest(f"{len(neurons):,} neurons were asked for; this model has {total:,}. Ask for fewer.")
    _check_layers((n.layer for n in neurons), shape)
    _check_range("neuron", (n.neuron for n in neurons), shape.d_mlp)
    _check_unique(neurons)


def parse_neurons(text: str) -> tuple[Neuron, ...]:
    """Neurons written as "L3.N12, L4.N7". Raises BadRequest naming the first item that is none."""
    items = [item for item in re.split(r"[\s,;]+", text.strip()) if item]
    neurons = []
    for item in items:
        match = re.fullmatch(r"[Ll](\d{1,6})\.[Nn](\d{1,9})", item)
        if match is None:
            raise BadRequest(f"“{item}” is no neuron. Write neurons as L3.N12, separated by commas.")
        neurons.append(Neuron(int(match[1]), int(match[2])))
    _check_unique(neurons)
    return tuple(neurons)


def is_decision_only(edits: Edits) -> bool:
    """Whether nothing before the last prompt position is touched, so that a cached prompt can be used."""
    return all(edit.position == "decision" for edit in edits)


def _check_layers(layers: Iterable[int], shape: ModelShape) -> None:
    _check_range("layer", layers, shape.n_layers)


def _check_range(what: str, values: Iterable[int], n: int) -> None:
    for value in values:
        if not 0 <= value < n:
            raise BadRequest(
                f"There is no {what} {value}: this model's {what}s are numbered 0 to {n - 1}. Choose one of them."
            )


def _check_unique(items: Sequence[object]) -> None:
    seen = set()
    for item in items:
        if item in seen:
            name = f"layer {item}" if isinstance(item, int) else str(item)
            raise BadRequest(f"{name[0].upper()}{name[1:]} is named twice in one edit. Name each once.")
        seen.add(item)


def _check_finite(what: str, value: float) -> None:
    if not math.isfinite(value):
        raise BadRequest(f"The {what} is {value}; it must be a finite number such as 0, 0.5 or -2.")
