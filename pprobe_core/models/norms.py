"""What a normalisation layer computes, found by probing it rather than by its name."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable

# Largest relative error accepted of a float32 recomputation against the model's own dtype. Measured: about 1e-7 in
# float32, 2e-3 to 6e-3 in bfloat16.
TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
_MAX_EPS = 0.1  # a larger number of a norm is something else


@dataclass(frozen=True)
class Norm:
    """normed(x) = (x - mean(x) if centred else x) * scale(x) * gain + bias, all over the last axis.

    `gain` is the effective factor: 1 + weight where the module adds one, ones where it has no weight. float32.
    """

    module: nn.Module
    gain: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"] | None
    eps: float
    centred: bool

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "..."]:
        """1 / rms(x), or 1 / std(x) when centred, with eps inside the root; float32."""
        x = x.float()
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.pow(2).mean(-1) + self.eps)

    def normed(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the module returns for x, recomputed in float32 from gain, bias, eps and centred."""
        x = x.float()
        direction = x - x.mean(-1, keepdim=True) if self.centred else x
        out = direction * self.scale(x).unsqueeze(-1) * self.gain
        return out if self.bias is None else out + self.bias


def relative_error(found: Float[Tensor, "... d"], expected: Float[Tensor, "... d"]) -> float:
    """Largest error of any token, relative to that token's own length (L2); infinite when any value is not finite."""
    found, expected = found.float().to(expected.device), expected.float()
    error = float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)).max())
    return error if math.isfinite(error) else math.inf


@torch.no_grad()
def characterise_norm(
    module: nn.Module, d_model: int, dtype: torch.dtype, device: torch.device, what: str, name: str
) -> tuple[Norm, float]:
    """The Norm that reproduces `module`, with the relative error seen.

    RMS or LayerNorm; weight, 1 + weight or none; bias or none. The bias is the module's output for zeros; the rest is
    tried and verified on inputs of three sizes, the smallest of which makes eps visible. Raises ModelUnavailable when
    no form fits.
    """
    generator = torch.Generator().manual_seed(0)
    unit = torch.randn(8, d_model, generator=generator) + 0.5  # off-centre, so that RMS and LayerNorm differ
    unit = unit.to(device, dtype)

    def run(x: Tensor) -> Tensor:
        y = module(x.unsqueeze(0))
        return (y[0] if isinstance(y, tuple) else y).squeeze(0).float()

    try:
        at_zero = run(torch.zeros_like(unit))[0]
        measured = run(unit) - at_zero
    except (TypeError, ValueError, RuntimeError, IndexError) as e:
        raise ModelUnavailable(
            f"The model {name} is not supported: its normalisation {what} cannot be run alone ({type(e).__name__})."
        ) from e
    bias = at_zero if bool(at_zero.abs().max() > 0) else None
    own = [p.detach().float().reshape(-1) for p in module.parameters() if p.numel() == d_model]

    def closest(gains: Callable[[float, bool], list[Tensor]]) -> tuple[float, Norm]:
        tried = []
        for centred, eps in itertools.product((False, True), _epsilons(module, dtype)):
            probes = [unit, 30 * unit, unit * max(eps, 1e-8) ** 0.5]
            for gain in gains(eps, centred):
                norm = Norm(module, gain, bias, eps, centred)
                tried.append((max(relative_error(norm.normed(x) - at_zero, run(x) - at_zero) for x in probes), norm))
        return min(tried, key=lambda t: t[0])

    def fitted(eps: float, centred: bool) -> list[Tensor]:
        shape = Norm(module, ones, None, eps, centred).normed(unit)
        return [(measured * shape).sum(0) / shape.pow(2).sum(0).clamp_min(1e-30)]

    ones = torch.ones(d_model, device=device)
    error, norm = closest(lambda eps, centred: [ones, *own, *(1 + p for p in own)])
    if error > TOLERANCE[dtype]:  # only then: a fitted gain carries the rounding noise of the probe
        error, norm = closest(fitted)
    if error > TOLERANCE[dtype]:
        raise ModelUnavailable(
            f"The model {name} is not supported: its normalisation {what} is neither RMS nor LayerNorm (the closest "
            f"form is off by {error:.1e}, accepted is {TOLERANCE[dtype]:.0e})."
        )
    return norm, error


def _epsilons(module: nn.Module, dtype: torch.dtype) -> tuple[float, ...]:
    """The small numbers the module states, else the usual ones (torch's RMSNorm uses the dtype's own for None)."""
    stated = tuple(v for v in vars(module).values() if isinstance(v, float) and 0 < v < _MAX_EPS)
    return stated or (torch.finfo(dtype).eps, 1e-6, 1e-5, 1e-12, 0.0)
