"""One short forward pass with every interesting module's inputs and outputs kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.norms import TOLERANCE, Norm, characterise_norm, relative_error
from pprobe_core.wording import plural

_KEPT = 4  # calls per module: a norm without weights may serve several places


def refusal(name: str, reason: str) -> ModelUnavailable:
    """The error for a model whose structure cannot be proved."""
    return ModelUnavailable(
        f"The model {name} is not supported: {reason}. Choose a dense decoder model, for example of the Llama, Qwen, "
        "Gemma, Mistral, Phi, OLMo, Granite or GPT-NeoX families."
    )


@dataclass
class Call:
    """What one module received and returned (first tensor of each), cloned because some families write in place."""

    path: str
    module: nn.Module
    x: Tensor | None = None
    y: Tensor | None = None

    @property
    def received(self) -> Float[Tensor, "token d"]:
        """The input in float32, one row per token."""
        return _rows(self.x)

    @property
    def returned(self) -> Float[Tensor, "token d"]:
        """The output in float32, one row per token."""
        return _rows(self.y)


@dataclass(frozen=True)
class Trace:
    """All recorded calls of one pass by module, the logits, and what a recomputation is measured against."""

    name: str  # of the model, for messages
    calls: dict[nn.Module, list[Call]]
    logits: Float[Tensor, "token vocab"]
    dtype: torch.dtype
    device: torch.device

    @property
    def tolerance(self) -> float:
        """Largest relative error accepted for this dtype."""
        return TOLERANCE[self.dtype]

    def refusal(self, reason: str) -> ModelUnavailable:
        """The error for something that could not be proved."""
        return refusal(self.name, reason)

    def only(self, module: nn.Module, what: str) -> Call:
        """The module's call, which must have happened exactly once and with tensors."""
        calls = self.calls[module]
        if len(calls) != 1 or calls[0].x is None or calls[0].y is None:
            raise self.refusal(f"{what} runs {plural(len(calls), 'time')} in one pass, where once is expected")
        return calls[0]

    def norm(self, call: Call, what: str) -> tuple[Norm, float]:
        """The called module as a Norm, proved on made-up inputs and on the values of the pass; the larger error."""
        d_model = call.received.shape[-1]
        norm, error = characterise_norm(
            call.module, d_model, self.dtype, self.device, f"{what} ({call.path})", self.name
        )
        error = max(error, relative_error(norm.normed(call.received), call.returned))
        if error > self.tolerance:
            raise self.refusal(f"the normalisation {what} ({call.path}) is off by {error:.1e} when recomputed")
        return norm, error


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """True when two recorded tensors are equal in every bit."""
    return a is not None and b is not None and a.shape == b.shape and bool(torch.equal(a, b))


@torch.no_grad()
def record(
    name: str,
    model: Any,
    modules: Iterable[tuple[str, nn.Module]],
    input_ids: Int[Tensor, "1 token"],
    dtype: torch.dtype,
) -> Trace:
    """Run the prompt once with every module recorded; the hooks are gone afterwards, errors included."""
    calls: dict[nn.Module, list[Call]] = {}
    paths: dict[nn.Module, str] = {}
    handles = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = _first_tensor(args)
        x = _first_tensor(kwargs) if x is None else x
        keep = x is not None and len(calls[module]) < _KEPT
        calls[module].append(Call(paths[module], module, x.clone() if keep and x is not None else None))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        y = _first_tensor(output)
        if y is not None and len(calls[module]) <= _KEPT:
            calls[module][-1].y = y.clone()

    try:
        for path, module in modules:
            if module not in calls:
                calls[module], paths[module] = [], path
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after))
        logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    if not torch.isfinite(logits).all():
        raise ModelUnavailable(
            f"The model {name} computes values that are not numbers in {str(dtype).removeprefix('torch.')}. "
            "Load it in float32 or bfloat16."
        )
    return Trace(name, calls, _rows(logits), dtype, input_ids.device)


def _first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, the first item of a tuple, or the hidden states among keyword arguments."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return value[0]
    if isinstance(value, dict):
        preferred = value.get("hidden_states")
        if isinstance(preferred, Tensor):
            return preferred
        return next((v for v in value.values() if isinstance(v, Tensor) and v.is_floating_point()), None)
    return None


def _rows(x: Tensor | None) -> Float[Tensor, "token d"]:
    if x is None:
        raise TypeError("no tensor was recorded here")
    return x.reshape(-1, x.shape[-1]).float()
