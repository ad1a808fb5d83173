"""One decoder layer as a Block: attention and feed-forward followed back to their projections, and proved."""

from dataclasses import dataclass

from torch import Tensor

from pprobe_core.models.blocks import Block
from pprobe_core.models.layer_sum import LayerSum
from pprobe_core.models.norms import relative_error
from pprobe_core.models.search import Output, before_norm
from pprobe_core.models.trace import Call, Trace


@dataclass(frozen=True)
class ProvedLayer:
    """A Block with the largest relative errors seen while it was proved."""

    block: Block
    ffn_error: float
    layer_error: float
    norm_error: float


def prove_layer(trace: Trace, i: int, added: LayerSum, attention: Output, ffn: Output) -> ProvedLayer:
    """Layer i as a Block. Raises ModelUnavailable when anything does not check out."""
    down, post_norm, norm_error = ffn.projection, None, 0.0
    if down is None:
        step = before_norm(ffn, added.outputs)
        down = None if step is None else step[0].projection
        if step is None or down is None:
            raise trace.refusal(f"the feed-forward of layer {i} does not end in one matrix product and a normalisation")
        post_norm, norm_error = trace.norm(step[1], f"after the feed-forward of layer {i}")
    is_in_out, ffn_error = orientation(down)
    if is_in_out is None or ffn_error > trace.tolerance:
        seen = "its shapes do not fit" if is_in_out is None else f"it is off by {ffn_error:.1e} when recomputed"
        raise trace.refusal(f"the down projection of layer {i} is not a plain matrix product ({seen})")
    out = attention.projection
    if out is None and (step := before_norm(attention, added.outputs)) is not None:
        out = step[0].projection
    block = Block(
        layer=i,
        module=added.layer.module,
        attention_out=attention.outer.module,
        ffn_out=ffn.outer.module,
        down_proj=down.module,
        ffn_post_norm=post_norm,
        resid_scale=added.g,
        attention_scale=added.factor,
        ffn_scale=added.factor,
        weight_is_in_out=is_in_out,
        attention_proj=None if out is None else out.module,
    )
    return ProvedLayer(block, ffn_error, added.error, norm_error)


def orientation(call: Call) -> tuple[bool | None, float]:
    """Whether a projection's weight is stored [in, out], and the error of x @ W + b against what it returned.

    None where the shapes fit neither way.
    """
    weight, bias = call.module.weight, getattr(call.module, "bias", None)
    if not isinstance(weight, Tensor):
        return None, float("inf")
    x, y = (v.to(weight.device) for v in (call.received, call.returned))
    errors = {}
    for is_in_out in (False, True):
        matrix = (weight if is_in_out else weight.T).detach()
        if matrix.shape == (x.shape[-1], y.shape[-1]):
            out = x @ matrix.float()
            errors[is_in_out] = relative_error(out if bias is None else out + bias.detach().float(), y)
    best = min(errors, key=lambda k: errors[k], default=None)
    return best, float("inf") if best is None else errors[best]
