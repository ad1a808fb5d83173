"""The way from the last layer to the logits: final norm, unembedding, scale and soft-cap, proved on the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.models.blocks import Block, SelfCheck, Structure
from pprobe_core.models.norms import Norm, relative_error
from pprobe_core.models.scalars import ratio, snap, stated_scalars
from pprobe_core.models.trace import Call, Trace, same

_MIN_LOGITS = 2**15  # compared with the model's own, whatever the vocabulary: those of one token where it is as large
_ROWS = 8192  # rows of W_U in float32 at a time, so that a large vocabulary needs no second copy
_MAX_CAP = 1000  # above it a soft-cap would change no logit


def n_compared(vocab_size: int) -> int:
    """Of how many last tokens the logits are compared, each over the whole vocabulary."""
    return -(-_MIN_LOGITS // vocab_size)


def prove_final_norm(trace: Trace, layers: Sequence[nn.Module], head: nn.Module) -> tuple[Call, Norm, float]:
    """The call of the norm outside the layers that receives the last layer's output, the Norm, and its error."""
    last = trace.only(layers[-1], "the last layer")
    inside = {m for layer in layers for m in layer.modules()} | {head}
    for module, calls in trace.calls.items():
        for call in calls if module not in inside else []:
            if same(call.x, last.y) and call.changes and call.returned.shape == last.returned.shape:
                return call, *trace.norm(call, "before the output")
    raise trace.refusal("no normalisation receives the last layer's output")


def prove_head(
    trace: Trace, model: Any, config: Any, head: nn.Module, blocks: tuple[Block, ...], normed: Call, final_norm: Norm
) -> Structure:
    """The whole Structure, its logits equal to the model's own; the other errors of its check are left at 0.

    logits = softcap * tanh(post * (W_U (pre * normed) + b) / softcap): pre and post are fitted and snapped to numbers
    that the configuration states (or their inverses), the soft-cap is read from it, and the result is compared with the
    logits: those of the whole vocabulary, so that every row of W_U counts, for the last tokens that the trace holds
    logits of. What is the same step for every token needs no more of them; `normed` itself is proved on all.
    """
    call = trace.only(head, "the unembedding")
    into_head = normed.returned[-len(trace.logits) :]
    d_model = into_head.shape[-1]
    stated = stated_scalars(config, model)
    stated += [1 / s for s in stated]
    widths = [v for k, v in vars(config).items() if isinstance(v, int) and v > 1 and "dim" in k]
    pre = None
    if call.received.shape == into_head.shape:
        pre = snap(ratio(call.received, into_head), [*stated, *(v / d_model for v in widths)], trace.tolerance)
    if pre is None:
        raise trace.refusal("something stands between the final normalisation and the unembedding")
    post, cap = _scale_and_cap(trace, call, config, stated)
    structure = Structure(
        blocks=blocks,
        final_norm=final_norm,
        n_layers=len(blocks),
        d_model=d_model,
        d_mlp=blocks[0].d_mlp,
        vocab_size=trace.logits.shape[-1],
        logit_scale=pre * post,
        softcap=cap,
        head=head,
        head_bias_scale=post,
        check=SelfCheck(0.0, 0.0, 0.0, 0.0, trace.tolerance),
    )
    error = relative_error(_recomputed(structure, blocks[-1], trace), trace.logits)
    if error > trace.tolerance:
        raise trace.refusal(f"its logits cannot be recomputed from the last layer's output (off by {error:.1e})")
    return replace(structure, check=replace(structure.check, head_error=error))


def _scale_and_cap(trace: Trace, head: Call, config: Any, stated: list[float]) -> tuple[float, float | None]:
    """Scale and soft-cap between the unembedding's output and the logits: the pair that gives the logits best.

    Small logits hardly feel a soft-cap, so the step is repeated in the dtype of the model: there the right pair leaves
    no rounding noise in which a missing cap could hide. Numbers of the configuration that are not called a soft-cap are
    tried only where nothing else leaves no more than rounding.
    """
    raw = head.returned.to(head.y.dtype if head.y is not None else trace.dtype).to(trace.logits.device)
    rounding = 8 * torch.finfo(trace.dtype).eps
    tried: list[tuple[float, float, float | None]] = []
    for named, cap in _caps(config):
        if not named and min((t[0] for t in tried), default=1.0) <= rounding:
            break
        logits = trace.logits
        if cap is not None:  # undo the cap to fit the scale; values at the cap itself carry no information
            logits = cap * torch.atanh((logits.cpu().double() / cap).clamp(-1 + 1e-9, 1 - 1e-9))
        post = snap(ratio(logits, raw), stated, trace.tolerance)
        if post is not None:
            scaled = raw if post == 1 else raw * post
            capped = scaled if cap is None else torch.tanh(scaled / cap) * cap
            tried.append((relative_error(capped, trace.logits), post, cap))
    if not tried:
        raise trace.refusal("its logits are not the unembedding's output, scaled or soft-capped")
    return min(tried, key=lambda t: t[0])[1:]


def _caps(config: Any) -> Iterator[tuple[bool, float | None]]:
    """No soft-cap, then every one the configuration names, then its other numbers, each with whether it is named."""
    yield True, None
    numbers = {k: float(v) for k, v in vars(config).items() if isinstance(v, int | float) and 0 < v < _MAX_CAP}
    yield from ((True, v) for k, v in numbers.items() if "softcap" in k)
    yield from ((False, v) for v in sorted({v for k, v in numbers.items() if "softcap" not in k and v > 1}))


def _recomputed(structure: Structure, last: Block, trace: Trace) -> Float[Tensor, "last vocab"]:
    """The trace's logits from the last layer's output by the stored parts, in float32, some thousand rows at a time."""
    norm, home = structure.final_norm, trace.logits.device
    h_last = trace.calls[last.module][0].returned[-len(trace.logits) :]
    normed, out = norm.normed(h_last.to(norm.gain.device)), []
    for start in range(0, structure.vocab_size, _ROWS):
        ids = range(start, min(start + _ROWS, structure.vocab_size))
        rows, bias = structure.unembed_rows(ids), structure.unembed_bias(ids)
        raw = (rows @ normed.to(rows.device).T).T  # with few tokens faster than the other way round
        raw = (raw if bias is None else raw + bias).to(home)
        out.append(raw if structure.softcap is None else structure.softcap * torch.tanh(raw / structure.softcap))
    return torch.cat(out, dim=-1)
