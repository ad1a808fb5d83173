"""The sum that a decoder layer is: which two of the values computed inside it are added to the residual stream."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.models.scalars import snap, stated_scalars
from pprobe_core.models.search import Output, outputs_inside
from pprobe_core.models.trace import Call, Trace, same


@dataclass(frozen=True)
class LayerSum:
    """h_out = g * (h_in + factor * (first + second)), proved; which of the two is attention is not said here."""

    layer: Call
    outputs: list[Output]  # all values computed inside the layer
    first: Output
    second: Output
    g: float
    factor: float
    error: float  # largest of any token, relative to the layer's own update of that token, beyond rounding


@dataclass(frozen=True)
class _Fit:
    """Factors of h_in, first and second that come closest to h_out, and how close, relative to h_out."""

    first: Output
    second: Output
    factors: tuple[float, float, float]
    residual: float


def prove_sum(trace: Trace, i: int, module: nn.Module, config: object) -> LayerSum:
    """Layer i as a sum. Raises ModelUnavailable with the reason when no two outputs explain it.

    Every pair of outputs is fitted; a pair counts when its factors are numbers that the model states, h_in's is above 0
    and both others are equal (else a module that returns its sum with the residual stream would pass, with a factor 0
    for h_in), and when the sum then gives h_out for every token.
    """
    layer = trace.only(module, f"layer {i}")
    outputs = outputs_inside(trace, module)
    if len(layer.received) != trace.input_ids.numel() or layer.received.shape != layer.returned.shape:
        raise trace.refusal(f"layer {i} keeps several streams, of other shapes than attention and feed-forward")
    stated = stated_scalars(*module.modules(), config)
    fits = _fits(layer, outputs)
    unexplained = None
    for fit in fits:
        g = snap(fit.factors[0], stated, trace.tolerance)
        a, b = (snap(f / g, stated, trace.tolerance) if g else None for f in fit.factors[1:])
        if g is None or a is None or a != b:
            continue
        error = _error(trace, layer, fit, g, a)
        if error <= trace.tolerance:
            return LayerSum(layer, outputs, fit.first, fit.second, g, a, error)
        unexplained = error if unexplained is None else min(error, unexplained)
    if unexplained is not None:
        raise trace.refusal(
            f"something besides attention and feed-forward writes to the residual stream in layer {i} "
            f"({unexplained:.1%} of the update is unexplained)"
        )
    raise trace.refusal(_why_no_sum(trace, i, layer, outputs, fits))


def _fits(layer: Call, outputs: list[Output]) -> list[_Fit]:
    """The fit of every pair of outputs, the closest first."""
    h_in, h_out = layer.received.cpu(), layer.returned.cpu()
    # Every token weighs the same: one with a massive activation must not hide the others.
    weight = 1 / (h_in.norm(dim=-1, keepdim=True) + h_out.norm(dim=-1, keepdim=True)).clamp_min(1e-30)
    values = [h_in, *(o.value.reshape(h_out.shape).float().cpu() for o in outputs), h_out]
    columns = torch.stack([(v * weight).reshape(-1) for v in values]).double()
    products = columns @ columns.T  # all that least squares needs, for every pair at once
    pairs = [(0, j, k) for j, k in itertools.combinations(range(1, len(outputs) + 1), 2)]
    if not pairs:
        return []
    index = torch.tensor(pairs)
    gram = products[index[:, :, None], index[:, None, :]]
    right = products[index, -1]
    factors = (torch.linalg.pinv(gram, hermitian=True) @ right[..., None])[..., 0]
    left = products[-1, -1] - 2 * (factors * right).sum(-1) + torch.einsum("pi,pij,pj->p", factors, gram, factors)
    residuals = (left.clamp_min(0) / products[-1, -1].clamp_min(1e-30)).sqrt()
    found = [
        _Fit(outputs[j - 1], outputs[k - 1], (f[0], f[1], f[2]), r)
        for (_, j, k), f, r in zip(pairs, factors.tolist(), residuals.tolist(), strict=True)
    ]
    return sorted(found, key=lambda fit: fit.residual)


def _error(trace: Trace, layer: Call, fit: _Fit, g: float, factor: float) -> float:
    """Largest error of any token's h_out recomputed with these factors, relative to its update and beyond rounding."""
    h_out = layer.returned
    h_in, first, second = (
        v.reshape(h_out.shape).float().to(h_out.device) for v in (layer.received, fit.first.value, fit.second.value)
    )
    # Adding in a low precision rounds the whole residual stream, which can be far larger than the update.
    rounding = 2 * torch.finfo(trace.dtype).eps * h_out.norm(dim=-1)
    update = (h_out - g * h_in).norm(dim=-1).clamp_min(1e-30)
    off = (g * (h_in + factor * (first + second)) - h_out).norm(dim=-1)
    return _largest((off - rounding).clamp_min(0) / update)


def _largest(errors: Float[Tensor, "token"]) -> float:
    return float(errors.max()) if bool(torch.isfinite(errors).all()) else float("inf")


def _why_no_sum(trace: Trace, i: int, layer: Call, outputs: list[Output], fits: list[_Fit]) -> str:
    """The reason, as far as the recorded values tell, why a layer is not h_in + attn + ffn."""
    for output in outputs:
        if same(output.value, layer.y) and output.projection is None:
            return "it normalises after adding to the residual stream (post-LN), so no contribution is a term of a sum"
    # A pair that explains all with a factor 0 for one of its members has one writer only.
    alone = [f for f in fits if f.residual <= trace.tolerance and min(abs(v) for v in f.factors[1:]) <= trace.tolerance]
    if alone and all(abs(f.factors[0]) > trace.tolerance for f in alone):
        return f"layer {i} adds one value only to the residual stream, where attention and feed-forward are expected"
    found = ", ".join(f"{v:.3f}" for v in fits[0].factors) if fits else "none"
    return (
        f"layer {i} is not the sum of residual stream, attention and feed-forward (fitted factors {found} match no "
        "numbers of its configuration)"
    )
