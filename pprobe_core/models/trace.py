"""One short forward pass with every module's inputs and outputs kept."""

import contextlib
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.norms import TOLERANCE, Norm, characterise_norm, relative_error
from pprobe_core.wording import plural

BOTH_WAYS = "it reads the text in both directions (an encoder such as BERT), so it predicts no next token"
_KEPT = 4  # calls per module: a norm without weights may serve several places
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)


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

    @property
    def changes(self) -> bool:
        """Whether the module returned something else than it was given."""
        return self.x is not None and self.y is not None and not same(self.x, self.y)


@dataclass(frozen=True)
class Trace:
    """All recorded calls of one pass by module, the logits, and what a recomputation is measured against."""

    name: str  # of the model, for messages
    input_ids: Int[Tensor, "1 token"]
    calls: dict[nn.Module, list[Call]]  # outer modules before those they hold
    logits: Float[Tensor, "last vocab"]  # of the last tokens, or of all
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        """Largest relative error accepted for this dtype."""
        return TOLERANCE[self.dtype]

    def refusal(self, reason: str) -> ModelUnavailable:
        """The error for something that could not be proved."""
        return refusal(self.name, reason)

    def once(self, module: nn.Module) -> Call | None:
        """The module's call, None where it did not run exactly once with tensors."""
        calls = self.calls.get(module, [])
        return calls[0] if len(calls) == 1 and calls[0].x is not None and calls[0].y is not None else None

    def only(self, module: nn.Module, what: str) -> Call:
        """The module's call, which must have happened exactly once and with tensors."""
        call = self.once(module)
        if call is None:
            n = len(self.calls.get(module, []))
            raise self.refusal(f"{what} runs {plural(n, 'time')} in one pass, where once is expected")
        return call

    def norm(self, call: Call, what: str) -> tuple[Norm, float]:
        """The called module as a Norm, proved on made-up inputs and on the values of the pass; the larger error."""
        x, y = call.received, call.returned
        norm, error = characterise_norm(
            call.module, x.shape[-1], self.dtype, y.device, f"{what} ({call.path})", self.name
        )
        error = max(error, relative_error(norm.normed(x.to(y.device)), y))
        if error > self.tolerance:
            raise self.refusal(f"the normalisation {what} ({call.path}) is off by {error:.1e} when recomputed")
        return norm, error


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """True when two recorded tensors are equal in every bit, wherever they lie."""
    if a is None or b is None or a.shape != b.shape:
        return False
    return a is b or bool(torch.equal(a, b.to(a.device)))


@torch.no_grad()
def record(
    name: str,
    model: Any,
    input_ids: Int[Tensor, "1 token"],
    dtype: torch.dtype,
    modules: Collection[nn.Module] | None = None,
    n_logits: int | None = None,
) -> Trace:
    """Run the prompt once with these modules, or every one, recorded; the hooks are gone afterwards, errors included.

    With `n_logits`, only that many last tokens pass through the unembedding: with a large vocabulary it costs as much
    as all layers together.
    Raises ModelUnavailable when the model cannot read a text, or computes values that are not numbers.
    """
    calls: dict[nn.Module, list[Call]] = {}
    paths: dict[nn.Module, str] = {}
    copied = _Copies()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = stream(args, kwargs)
        keep = x is not None and len(calls[module]) < _KEPT
        calls[module].append(Call(paths[module], module, copied.of(x) if keep and x is not None else None))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        y = first_tensor(output)
        if y is not None and len(calls[module]) <= _KEPT:
            calls[module][-1].y = copied.of(y)

    with contextlib.ExitStack() as hooks:
        if n_logits is not None:  # first, so that the recorded input is what the unembedding works on
            hooks.enter_context(last_tokens_only(model, n_logits))
        for path, module in model.named_modules():
            if path and (modules is None or module in modules):
                calls[module], paths[module] = [], path
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        logits = _logits(name, model, input_ids)
    if not torch.isfinite(logits).all():
        raise ModelUnavailable(
            f"The model {name} computes values that are not numbers in {str(dtype).removeprefix('torch.')}. "
            "Load it in float32 or bfloat16."
        )
    return Trace(name, input_ids, calls, _rows(logits), dtype)


@torch.no_grad()
def require_causal(name: str, model: Any, input_ids: Int[Tensor, "1 token"]) -> None:
    """Changing the last token must not change the logits before it. Raises ModelUnavailable otherwise."""
    other = input_ids.clone()
    other[0, -1] = other[0, 0] if other[0, 0] != other[0, -1] else other[0, 1]
    one, two = (_rows(_logits(name, model, ids))[:-1] for ids in (input_ids, other))
    if one.shape == two.shape and float((one - two).abs().max()) > 0.05 * float(one.std()):
        raise refusal(name, BOTH_WAYS)


@contextlib.contextmanager
def last_tokens_only(model: Any, n: int) -> Iterator[None]:
    """While it holds, the unembedding works on the last n tokens only, so the model returns logits for no others."""

    def last(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = stream(args, kwargs)
        return None if x is None or x.dim() < 2 else with_stream(args, kwargs, x[..., -n:, :])

    handle = model.get_output_embeddings().register_forward_pre_hook(last, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a module works on: its first argument, else the first one of decimal numbers by keyword."""
    x = next((a for a in args if isinstance(a, Tensor)), None)
    if x is not None:
        return x
    preferred = kwargs.get("hidden_states")  # beside it there may be masks and position embeddings
    if isinstance(preferred, Tensor):
        return preferred
    return next((v for v in kwargs.values() if isinstance(v, Tensor) and v.is_floating_point()), None)


def with_stream(args: tuple[Any, ...], kwargs: dict[str, Any], new: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with `new` where `stream` finds its tensor."""
    old = stream(args, kwargs)
    if any(a is old for a in args):
        place = next(i for i, a in enumerate(args) if a is old)
        return (*args[:place], new, *args[place + 1 :]), kwargs
    return args, {k: new if v is old else v for k, v in kwargs.items()}


def first_tensor(output: Any) -> Tensor | None:
    """What a module returned: the tensor itself, or the first item of a tuple or output object."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_first_tensor(output: Any, new: Tensor) -> Any:
    """The same output with `new` as its first tensor."""
    return (new, *output[1:]) if isinstance(output, tuple | list) else new


class _Copies:
    """Clones of the tensors seen, one per tensor as long as it lives and nothing has been written into it."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def of(self, x: Tensor) -> Tensor:
        known = self._last.get(id(x))
        if known is not None and known[0]() is x and known[1] == x._version:
            return known[2]
        clone = x.detach().clone()
        self._last[id(x)] = (weakref.ref(x), x._version, clone)
        return clone


def _logits(name: str, model: Any, input_ids: Int[Tensor, "1 token"]) -> Float[Tensor, "1 last vocab"]:
    try:
        logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits
    except _FAILURES as e:
        raise refusal(name, f"it cannot read a short text ({type(e).__name__}: {str(e)[:120]})") from e
    if not isinstance(logits, Tensor):
        raise refusal(name, "it gives no logits")
    return logits


def _rows(x: Tensor | None) -> Float[Tensor, "token d"]:
    if x is None:
        raise TypeError("no tensor was recorded here")
    return x.reshape(-1, x.shape[-1]).float()
