"""Fitted factors, and the numbers a model states about itself that can explain them."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

# A fitted factor must lie this close (relative) to a number that the model states, whatever its dtype: the fit averages
# over thousands of values.
_CLOSE = 5e-3


def stated_scalars(*owners: Any) -> list[float]:
    """1, and the positive float attributes, one-element buffers and parameters of these modules and configurations."""
    found = [1.0]
    for owner in owners:
        found += [v for k, v in vars(owner).items() if isinstance(v, float) and not k.startswith("_") and 0 < v < 1e6]
        if isinstance(owner, nn.Module):
            tensors = (*owner.buffers(recurse=False), *owner.parameters(recurse=False))
            found += [float(t) for t in tensors if t.numel() == 1 and float(t) > 0]
    return found


def snap(value: float, stated: Iterable[float], tolerance: float) -> float | None:
    """The stated number nearest to a fitted positive one, or None when none is close; 1 wins ties."""
    close = min(tolerance, _CLOSE)
    near = [s for s in stated if s > 0 and abs(s - value) <= close * s]
    return min(near, key=lambda s: (abs(s - value), s != 1.0), default=None)


def ratio(a: Tensor, b: Tensor) -> float:
    """The factor that turns b into a, by least squares."""
    a, b = a.cpu().double(), b.cpu().double()  # not every accelerator has float64
    return float((a * b).sum() / b.pow(2).sum().clamp_min(1e-30))
