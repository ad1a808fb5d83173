"""One decoder layer: its two writers found by dataflow, and the identity that adds them up proved on the numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pprobe_core.models.blocks import Block
from pprobe_core.models.norms import relative_error
from pprobe_core.models.scalars import snap, stated_scalars
from pprobe_core.models.search import Parts
from pprobe_core.models.trace import Call, Trace, same


@dataclass(frozen=True)
class ProvedLayer:
    """A Block with the largest relative errors seen while it was proved."""

    block: Block
    ffn_error: float
    layer_error: float
    norm_error: float


@dataclass(frozen=True)
class _Writers:
    """The recorded calls of one layer that its identity is about."""

    layer: Call
    attention: Call  # returns attn, after a post-norm if there is one
    ffn: Call  # returns ffn, after a post-norm if there is one


def prove_layer(trace: Trace, i: int, parts: Parts, config: object) -> ProvedLayer:
    """Layer i as a Block. Raises ModelUnavailable when anything does not check out."""
    layer = trace.only(parts.module, f"layer {i}")
    down = trace.only(parts.down_proj, f"the down projection of layer {i}")
    is_in_out, ffn_error = _orientation(trace, i, down)
    mixer = next((m for m in parts.mixers if trace.calls[m]), parts.mixers[0])
    attention = _follow(trace, parts, trace.only(mixer, f"the attention of layer {i}"), outside=parts.ffn)
    ffn = _follow(trace, parts, down, outside=mixer)
    post_norm, norm_error = None, 0.0
    if ffn is not down:
        if not same(ffn.x, down.y):
            raise trace.refusal(f"more than one operation follows the down projection of layer {i}")
        post_norm, norm_error = trace.norm(ffn, f"after the feed-forward of layer {i}")
    elif (whole := trace.calls[parts.ffn]) and same(whole[0].y, down.y):
        ffn = whole[0]
    g, a, b, layer_error = _identity(trace, i, parts, _Writers(layer, attention, ffn), config)
    block = Block(
        layer=i,
        module=parts.module,
        attention_out=attention.module,
        ffn_out=ffn.module,
        down_proj=parts.down_proj,
        ffn_post_norm=post_norm,
        resid_scale=g,
        attention_scale=a,
        ffn_scale=b,
        weight_is_in_out=is_in_out,
    )
    return ProvedLayer(block, ffn_error, layer_error, norm_error)


def _orientation(trace: Trace, i: int, down: Call) -> tuple[bool, float]:
    """Whether the weight is stored [d_mlp, d_model]; proves that acts @ W_out + b_out is the module's output."""
    weight, bias = down.module.weight, getattr(down.module, "bias", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise trace.refusal(f"the down projection of layer {i} has no weight matrix")
    x, y, errors = down.received, down.returned, {}
    for is_in_out in (False, True):
        matrix = (weight if is_in_out else weight.T).detach()
        if matrix.shape == (x.shape[-1], y.shape[-1]):
            out = x @ matrix.float()
            errors[is_in_out] = relative_error(out if bias is None else out + bias.detach().float(), y)
    best = min(errors, key=lambda k: errors[k], default=None)
    if best is None or errors[best] > trace.tolerance:
        seen = "its shapes do not fit" if best is None else f"it is off by {errors[best]:.1e} when recomputed"
        raise trace.refusal(f"the down projection of layer {i} is not a plain matrix product ({seen})")
    return best, errors[best]


def _follow(trace: Trace, parts: Parts, call: Call, outside: nn.Module) -> Call:
    """The last module of this layer that is fed `call`'s output and changes it (a post-norm), else `call`."""
    excluded = {*outside.modules(), parts.module, call.module}
    for module in parts.module.modules():
        for step in trace.calls.get(module, []) if module not in excluded else []:
            if same(step.x, call.y) and step.y is not None and not same(step.y, step.x):
                return _follow(trace, parts, step, outside)
    return call


def _identity(trace: Trace, i: int, parts: Parts, w: _Writers, config: object) -> tuple[float, float, float, float]:
    """(g, a, b, error) of h_out = g (h_in + a attn + b ffn): fitted, snapped to numbers the model states, proved."""
    h_in, attn, ffn, h_out = w.layer.received, w.attention.returned, w.ffn.returned, w.layer.returned
    if not (h_in.shape == attn.shape == ffn.shape == h_out.shape):
        raise trace.refusal(f"layer {i} keeps several streams, of other shapes than attention and feed-forward")
    # Every token weighs the same in the fit: one with a massive activation must not hide the others.
    weight = 1 / (h_in.norm(dim=-1) + attn.norm(dim=-1) + ffn.norm(dim=-1)).clamp_min(1e-30)
    columns = torch.stack([(v * weight[:, None]).reshape(-1) for v in (h_in, attn, ffn)], dim=1).cpu().double()
    target = (h_out * weight[:, None]).reshape(-1, 1).cpu().double()
    fit = [float(v) for v in torch.linalg.lstsq(columns, target).solution[:, 0]]
    stated = stated_scalars(parts.module, config)
    g = snap(fit[0], stated, trace.tolerance)
    a = snap(fit[1] / g, stated, trace.tolerance) if g else None
    b = snap(fit[2] / g, stated, trace.tolerance) if g else None
    if g is None or a is None or b is None or a != b:  # a free fit also "explains" modules that return a sum
        raise trace.refusal(_why_no_sum(trace, i, parts, w, fit))
    # Adding in a low precision rounds the whole residual stream, which can be far larger than the update.
    rounding = 2 * torch.finfo(trace.dtype).eps * h_out.norm(dim=-1)
    update = (h_out - g * h_in).norm(dim=-1).clamp_min(1e-30)
    off = (g * (h_in + a * attn + b * ffn) - h_out).norm(dim=-1)
    error = float(((off - rounding).clamp_min(0) / update).max())
    if not error <= trace.tolerance:
        raise trace.refusal(
            f"something besides attention and feed-forward writes to the residual stream in layer {i} "
            f"({error:.1%} of the update is unexplained)"
        )
    return g, a, b, error


def _why_no_sum(trace: Trace, i: int, parts: Parts, w: _Writers, fit: list[float]) -> str:
    """The reason, as far as the recorded values tell, why a layer is not h_in + attn + ffn."""
    if any(same(call.y, w.layer.y) for m in parts.ffn.modules() for call in trace.calls.get(m, [])):
        return "its feed-forward modules return their sum with the residual stream, not their own contribution"
    for module in parts.module.modules():
        if module is not parts.module and any(same(call.y, w.layer.y) for call in trace.calls.get(module, [])):
            return "it normalises after adding to the residual stream (post-LN), so no contribution is a term of a sum"
    found = ", ".join(f"{v:.3f}" for v in fit)
    return (
        f"layer {i} is not the sum of residual stream, attention and feed-forward (fitted factors {found} match no "
        "numbers of its configuration)"
    )
