"""A decoder's parts found in a recorded pass: by what each module received and returned, never by its name."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from pprobe_core.models.trace import Call, Trace, same


@dataclass(frozen=True)
class Output:
    """One value computed inside a layer, and the modules that return it, outer ones first.

    A projection, the container around it and a dropout behind it return the same value.
    """

    calls: tuple[Call, ...]

    @property
    def value(self) -> Tensor:
        """The recorded tensor."""
        y = self.calls[0].y
        if y is None:
            raise TypeError("no tensor was recorded here")
        return y

    @property
    def outer(self) -> Call:
        """The outermost of the modules that hold weights (a dropout holds none), or the outermost."""
        return next((c for c in self.calls if next(c.module.parameters(), None) is not None), self.calls[0])

    @property
    def projection(self) -> Call | None:
        """The innermost of the modules that hold a weight matrix of their own."""
        return next((c for c in reversed(self.calls) if _is_matrix(c.module)), None)


def find_layers(trace: Trace, model: nn.Module, n_layers: int) -> tuple[nn.Module, ...]:
    """The `n_layers` decoder layers: a list whose members all run once, each fed what the one before returned.

    Raises ModelUnavailable when there is none.
    """
    if n_layers < 1:
        raise trace.refusal("its configuration states no number of layers")
    lists = [
        tuple(m.children())
        for m in model.modules()
        if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) == n_layers
    ]
    run = [layers for layers in lists if all(trace.once(layer) is not None for layer in layers)]
    if not run:
        raise trace.refusal(f"it has no list of {n_layers} decoder layers that each run once")
    # The largest, where several are in question: lists of norms, or parts of a single layer.
    run.sort(key=lambda layers: -sum(p.numel() for layer in layers for p in layer.parameters()))
    for layers in run:
        if next(_breaks(trace, layers), None) is None:
            return layers
    i = next(_breaks(trace, run[0]))
    raise trace.refusal(f"something writes to the residual stream between layers {i} and {i + 1}")


def _breaks(trace: Trace, layers: tuple[nn.Module, ...]) -> Iterator[int]:
    """The layers whose output is not exactly what the next one receives."""
    calls = [trace.only(layer, f"layer {i}") for i, layer in enumerate(layers)]
    return (i for i, (one, two) in enumerate(itertools.pairwise(calls)) if not same(one.y, two.x))


def outputs_inside(trace: Trace, layer: nn.Module) -> list[Output]:
    """Every value as large as the residual stream that some module inside the layer returns, once each.

    Modules that run several times in a pass are left out: one hook on them would stand at several places.
    """
    h = trace.only(layer, "a layer").y
    found: list[list[Call]] = []
    for module in layer.modules():
        call = trace.once(module) if module is not layer else None
        value = None if call is None else call.y
        if call is None or value is None or h is None or (value.numel(), value.shape[-1]) != (h.numel(), h.shape[-1]):
            continue
        known = next((calls for calls in found if same(_flat(calls[0].y), _flat(value))), None)
        if known is None:
            found.append([call])
        else:
            known.append(call)
    return [Output(tuple(calls)) for calls in found]


def before_norm(output: Output, outputs: list[Output]) -> tuple[Output, Call] | None:
    """What the last operation on an output was fed, where a module returned that, and that operation (a post-norm)."""
    for call in reversed(output.calls):
        fed = next((o for o in outputs if o is not output and same(_flat(o.value), _flat(call.x))), None)
        if fed is not None and call.changes:
            return fed, call
    return None


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


def _flat(x: Tensor | None) -> Tensor | None:
    """One row per token: some families lay batch and position side by side."""
    return None if x is None else x.reshape(-1, x.shape[-1])
