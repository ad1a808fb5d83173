"""Which of the two writers of a layer is attention: the one whose output at a token depends on other tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.models.layer_sum import LayerSum
from pprobe_core.models.norms import relative_error
from pprobe_core.models.search import Output
from pprobe_core.models.trace import (
    BOTH_WAYS,
    Call,
    Trace,
    first_tensor,
    last_tokens_only,
    stream,
    with_first_tensor,
    with_stream,
)

_TOKENS = 6  # enough for some before the turned one and some after it; each costs time


@torch.no_grad()
def tell_apart(trace: Trace, model: Any, sums: Sequence[LayerSum]) -> list[tuple[Output, Output]]:
    """(attention, feed-forward) of every layer, found by one more pass of the prompt's first tokens.

    In it each layer receives what it received before, with the residual stream of a token in the middle turned end to
    end, and each writer's output is replaced by the recorded one as soon as it is computed. So whatever a writer sees
    differs from before at that token only, also where the second writer reads what the first one wrote: the writer
    whose output changes at later tokens mixes tokens, the other one works on each by itself; where an earlier token
    changes, the model reads in both directions.

    Raises ModelUnavailable unless exactly one writer of each layer mixes tokens, and none looks ahead.
    """
    input_ids = trace.input_ids[:, :_TOKENS]
    n = input_ids.numel()
    middle = n // 2
    found: dict[nn.Module, Tensor] = {}
    handles = []

    def turned(call: Call) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            seen = stream(args, kwargs)
            if call.x is None or seen is None:
                return None
            x = _first(call.x, n).clone()
            x[middle] = x[middle].flip(0)
            return with_stream(args, kwargs, x.reshape(seen.shape).to(seen.device))

        return hook

    def held(call: Call) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            now = first_tensor(output)
            if now is None or call.y is None:
                return None
            found[module] = now.detach().clone()
            return with_first_tensor(output, _first(call.y, n).clone().reshape(now.shape))

        return hook

    try:
        for one in sums:
            handles.append(one.layer.module.register_forward_pre_hook(turned(one.layer), with_kwargs=True))
            for output in (one.first, one.second):
                handles.append(output.outer.module.register_forward_hook(held(output.outer)))
        with last_tokens_only(model, 1):  # its logits are of no interest
            model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()

    def differs(output: Output, tokens: slice) -> bool:
        now, before = (_first(v, n)[tokens] for v in (found[output.outer.module], output.value))
        return relative_error(now, before) > trace.tolerance

    pairs = []
    for i, one in enumerate(sums):
        if any(differs(output, slice(middle)) for output in (one.first, one.second)):
            raise trace.refusal(BOTH_WAYS)
        mixers = [output for output in (one.first, one.second) if differs(output, slice(middle + 1, None))]
        if len(mixers) != 1:
            seen = "neither mixes tokens" if not mixers else "both mix tokens"
            raise trace.refusal(
                f"layer {i} adds two values to the residual stream of which {seen}, where attention and a feed-forward "
                "that works on each token by itself are expected"
            )
        pairs.append((one.first, one.second) if mixers[0] is one.first else (one.second, one.first))
    return pairs


def _first(x: Tensor, n: int) -> Float[Tensor, "token d"]:
    """The first n tokens, one row each: some families lay batch and position side by side."""
    return x.reshape(-1, x.shape[-1])[:n]
