"""Intervals and null distributions: thin seeded wrappers of scipy and statsmodels; None where nothing can be said."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95  # of every interval shown
BOOTSTRAP_RESAMPLES = 2000
PERMUTATIONS = 1999


@dataclass(frozen=True)
class Interval:
    """Two-sided confidence interval at LEVEL."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether the value lies strictly inside."""
        return self.low < value < self.high


def wilson(successes: int, n: int) -> Interval | None:
    """Wilson score interval of a share, as fractions; None for n = 0."""
    if n == 0:
        return None
    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    # Rounding leaves 3e-17 where the interval ends at 0 or 1.
    return Interval(0.0 if successes == 0 else float(low), 1.0 if successes == n else float(high))


def bootstrap_mean(values: ArrayLike, seed: int) -> Interval | None:
    """BCa bootstrap interval of the mean over independent values; NaN are left out; None for fewer than two values.

    Where BCa is undefined (all resamples alike) the percentile interval stands in.
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    if data.size < 2:
        return None
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]))
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # degenerate data make scipy warn; the result is checked below
            interval = scipy_stats.bootstrap(
                (data,),
                np.mean,
                confidence_level=LEVEL,
                n_resamples=BOOTSTRAP_RESAMPLES,
                method=method,
                vectorized=True,
                axis=-1,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([interval.low, interval.high]).all():
            return Interval(float(interval.low), float(interval.high))
    return None


def mean_interval(values: Float[np.ndarray, "value"], seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean and the two ends of its interval; all None where one value is not a number: the rest would flatter it."""
    if not np.isfinite(values).all():
        return None, None, None
    interval = bootstrap_mean(values, seed)
    return float(values.mean()), None if interval is None else interval.low, None if interval is None else interval.high


@dataclass(frozen=True)
class LinearFit:
    """Least-squares line measured = intercept + slope * predicted, and Pearson's r with its permutation control."""

    slope: float
    intercept: float
    correlation: float
    null_correlation_95: float  # 95th percentile of |r| when measured values are shuffled over pairs
    p_value: float  # share of shuffles with |r| at least as large (two-sided, counting the observed one)


def linear_fit(predicted: ArrayLike, measured: ArrayLike, seed: int) -> LinearFit | None:
    """Line and correlation of two series; None for fewer than three pairs or where one of them does not vary."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    line = scipy_stats.linregress(x, y)

    def correlation(shuffled: Float[np.ndarray, "*draw pair"], axis: int = -1) -> Float[np.ndarray, "*draw"]:
        centred = shuffled - shuffled.mean(axis=axis, keepdims=True)
        other = x - x.mean()
        return np.abs((centred * other).sum(axis=axis) / np.sqrt((centred**2).sum(axis=axis) * (other**2).sum()))

    test = scipy_stats.permutation_test(
        (y,),
        correlation,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return LinearFit(
        slope=float(line.slope),
        intercept=float(line.intercept),
        correlation=float(line.rvalue),
        null_correlation_95=float(np.quantile(test.null_distribution, LEVEL)),
        p_value=float(test.pvalue),
    )


def sign_patterns(n_draws: int, n_pairs: int, seed: int) -> Float[np.ndarray, "draw pair"]:
    """Random signs per pair: under the null that a pair's two prompts are exchangeable, I may change its sign."""
    return np.random.default_rng(seed).choice(np.array([-1.0, 1.0], dtype=np.float32), size=(n_draws, n_pairs))


def mean_or_none(values: Sequence[float] | ArrayLike) -> float | None:
    """Mean without NaN; None where nothing is left."""
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    return float(data.mean()) if data.size else None


def median_or_none(values: Sequence[float] | ArrayLike) -> float | None:
    """Median without NaN; None where nothing is left."""
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    return float(np.median(data)) if data.size else None
