"""Maths of comparing models: concentration, overlap, opposition of twins, paired differences, and the fit over runs.

Pure functions of numbers and frames; None where nothing can be said. Every random draw is seeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

from pprobe_core.interventions.statistics import ALPHA, before_after, holm
from pprobe_core.stats import BOOTSTRAP_RESAMPLES, LEVEL, Interval, bootstrap_mean, wilson

Floats = NDArray[np.float64]

MIN_FIT_POINTS = 4  # ours: a line through three points says nothing about its own spread
MIN_FIT_MODELS = 3  # ours: with fewer models than this there is nothing to resample models from
MIN_SHARED = 0.5  # ours: share of the smaller run's pairs that both must have before they are compared pair by pair
MIN_TWINS = 10  # ours: pairs below which a test of twins is not read

# ------------------------------------------------------------------------------------------------- concentration


@dataclass(frozen=True)
class Concentration:
    """How few neurons carry a circuit's importance; shares are fractions of the total |mean I| of all neurons."""

    n_neurons: int
    share_top10: float | None
    share_top50: float | None
    gini: float | None
    n_half: int | None


def gini(values: ArrayLike) -> float | None:
    """Gini coefficient of |values|: 0 when all are alike, 1 - 1/n when one holds everything.

    NaN are left out; None where nothing is left or all are zero.
    """
    sizes = np.sort(_sizes(values))
    total = sizes.sum()
    if not sizes.size or total == 0:
        return None
    places = np.arange(1, sizes.size + 1)
    return float(np.clip(2 * (places * sizes).sum() / (sizes.size * total) - (sizes.size + 1) / sizes.size, 0.0, 1.0))


def n_half(values: ArrayLike, share: float = 0.5) -> int | None:
    """The fewest values that together hold `share` of the total |values|; None where the total is zero."""
    sizes = np.sort(_sizes(values))[::-1]
    total = sizes.sum()
    if not sizes.size or total == 0:
        return None
    # Rounding must not ask for one value more than half of them when all are alike.
    return int(np.searchsorted(np.cumsum(sizes), share * total * (1 - 1e-12))) + 1


def share_of_top(values: ArrayLike, k: int) -> float | None:
    """Share of the total |values| that the k largest hold (all of them when there are fewer); None for a total of 0."""
    sizes = np.sort(_sizes(values))[::-1]
    total = sizes.sum()
    return float(sizes[:k].sum() / total) if sizes.size and total > 0 else None


def concentration(importance: ArrayLike) -> Concentration:
    """All measures of how few neurons carry a circuit, from the mean importance of every neuron of the model."""
    values = np.asarray(importance, dtype=np.float64)
    return Concentration(
        int(values.size), share_of_top(values, 10), share_of_top(values, 50), gini(values), n_half(values)
    )


# ------------------------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True)
class Overlap:
    """Neurons two circuits share, against two kinds of chance; p are one-sided (as many shared, or more)."""

    k: int  # neurons of each circuit
    n_shared: int
    n_neurons: int  # of the model
    expected: float  # shared by k neurons drawn anywhere in the model: k * k / N
    p: float
    expected_by_layer: float  # shared by neurons drawn in the same layers as the circuits' own
    p_by_layer: float
    jaccard: float  # shared / union
    sign_agreement: float | None  # share of the shared neurons that push the same way in both; None for none shared


def overlap(a: pd.DataFrame, b: pd.DataFrame, n_layers: int, d_mlp: int) -> Overlap:
    """Overlap of two circuits' first neurons in one model of `n_layers` layers with `d_mlp` neurons each.

    `a` and `b`: one row per neuron (layer, neuron, importance), each neuron once. Two circuits that live in the same
    layers share more than chance over the whole model even when they have nothing to do with each other: that is what
    the second kind of chance, inside the layers, is for. Raises ValueError for unequal or impossible counts.
    """
    n_neurons = n_layers * d_mlp
    if len(a) != len(b) or len(a) > n_neurons:
        raise ValueError(f"The two lists have {len(a)} and {len(b)} of {n_neurons} neurons; they must be equally long.")
    both = a.merge(b, on=["layer", "neuron"], suffixes=("_a", "_b"))
    k, shared = len(a), len(both)
    agreement = None
    if shared:
        agreement = float((np.sign(both["importance_a"]) == np.sign(both["importance_b"])).mean())
    counts = [frame["layer"].value_counts().reindex(range(n_layers), fill_value=0) for frame in (a, b)]
    by_layer = np.ones(1)
    for in_a, in_b in zip(*counts, strict=True):
        there = scipy_stats.hypergeom.pmf(np.arange(min(in_a, in_b) + 1), d_mlp, in_a, in_b)
        by_layer = np.convolve(by_layer, there)
    return Overlap(
        k=k,
        n_shared=shared,
        n_neurons=n_neurons,
        expected=k * k / n_neurons if n_neurons else 0.0,
        p=float(scipy_stats.hypergeom.sf(shared - 1, n_neurons, k, k)) if k else 1.0,
        expected_by_layer=float(sum(x * y for x, y in zip(*counts, strict=True)) / d_mlp),
        p_by_layer=float(np.clip(by_layer[shared:].sum(), 0.0, 1.0)),
        jaccard=shared / (2 * k - shared) if k else 0.0,
        sign_agreement=agreement,
    )


OVERLAP_COLUMNS = (
    *("circuit_a", "circuit_b", "k", "n_shared", "n_neurons", "expected", "p", "p_holm"),
    *("expected_by_layer", "p_by_layer", "p_by_layer_holm", "jaccard", "sign_agreement"),
)


def overlaps(tops: Mapping[str, pd.DataFrame], n_layers: int, d_mlp: int) -> pd.DataFrame:
    """Overlap of every two circuits of one model, p corrected by Holm over all of them: columns OVERLAP_COLUMNS.

    `tops`: circuit -> its first neurons (layer, neuron, importance), equally many for each.
    """
    rows = []
    for circuit_a, circuit_b in combinations(tops, 2):
        found = overlap(tops[circuit_a], tops[circuit_b], n_layers, d_mlp)
        rows.append({"circuit_a": circuit_a, "circuit_b": circuit_b, **found.__dict__})
    table = pd.DataFrame(rows, columns=[name for name in OVERLAP_COLUMNS if "holm" not in name])
    table["p_holm"], table["p_by_layer_holm"] = holm(list(table["p"])), holm(list(table["p_by_layer"]))
    return table[list(OVERLAP_COLUMNS)]


# --------------------------------------------------------------------------------------- two models, same circuit


@dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B with its 95 % interval, and whether it was taken pair by pair."""

    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    n_a: int  # prompt pairs that enter
    n_b: int
    paired: bool

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return _clear(self.low, self.high)


def paired_difference(
    a: pd.DataFrame,
    b: pd.DataFrame,
    seed: int,
    values: Sequence[str] = ("ffn_skip_original", "ffn_skip_perturbed"),
) -> Difference | None:
    """Difference of the mean FFN/Skip of two runs, bootstrapped over the prompt pairs they share.

    `a` and `b`: rows of pair_id and the columns `values`, which are averaged within each pair, NaN left out. Where less
    than MIN_SHARED of the smaller run's pairs are in both runs, all pairs enter and are resampled independently. None
    where one run has no value.
    """
    means = [_pair_means(frame, values) for frame in (a, b)]
    if not all(len(mean) for mean in means):
        return None
    shared = means[0].index.intersection(means[1].index)
    if len(shared) >= 2 and len(shared) >= MIN_SHARED * min(map(len, means)):
        both = [mean.loc[shared].to_numpy(dtype=np.float64) for mean in means]
        return _difference(both[0], both[1], bootstrap_mean(both[0] - both[1], seed), paired=True)
    both = [mean.to_numpy(dtype=np.float64) for mean in means]
    return _difference(both[0], both[1], _unpaired_interval(both[0], both[1], seed), paired=False)


def _pair_means(rows: pd.DataFrame, values: Sequence[str]) -> pd.Series:
    long = rows.melt(id_vars="pair_id", value_vars=list(values), value_name="shown")
    long["shown"] = pd.to_numeric(long["shown"], errors="coerce")
    return long.dropna(subset=["shown"]).groupby("pair_id")["shown"].mean()


def difference_of_means(
    mean_a: float, low_a: float, high_a: float, mean_b: float, low_b: float, high_b: float
) -> Interval | None:
    """Interval of the difference of two independent means from their own intervals; None where one is missing.

    The distances to the ends add in squares (Newcombe's way), so that intervals that are not symmetric keep their
    shape.
    """
    values = np.array([mean_a, low_a, high_a, mean_b, low_b, high_b], dtype=np.float64)
    if not np.isfinite(values).all():
        return None
    down = np.hypot(mean_a - low_a, high_b - mean_b)
    up = np.hypot(high_a - mean_a, mean_b - low_b)
    return Interval(float(mean_a - mean_b - down), float(mean_a - mean_b + up))


def _difference(a: Floats, b: Floats, interval: Interval | None, paired: bool) -> Difference:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Difference(float(a.mean()), float(b.mean()), float(a.mean() - b.mean()), low, high, len(a), len(b), paired)


def _unpaired_interval(a: Floats, b: Floats, seed: int) -> Interval | None:
    if len(a) < 2 or len(b) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = [data[rng.integers(len(data), size=(BOOTSTRAP_RESAMPLES, len(data)))].mean(axis=1) for data in (a, b)]
    return _percentiles(draws[0] - draws[1])


# -------------------------------------------------------------------------------------------- base against aligned

OppositionReading = Literal["created", "already_there", "unclear"]


@dataclass(frozen=True)
class Opposition:
    """Whether aligned model and base twin lie on opposite sides of F, on the prompts of one circuit.

    Counts are prompt pairs with F known in both; `n_*_target` lie above zero. F in logits. The behaviour is what the
    aligned model mostly does: `behaviour` names its side.
    """

    circuit: str
    condition: str  # "original" or "perturbed": the prompts of the pairs on which the behaviour shows
    label_base: str
    label_aligned: str
    n: int
    n_base_target: int
    n_aligned_target: int
    n_opposite: int
    opposite_low: float | None  # Wilson interval of n_opposite / n
    opposite_high: float | None
    p_value: float  # McNemar, exact
    p_holm: float  # over the circuits of the same twins
    mean_base: float
    mean_aligned: float
    difference: float  # aligned - base
    difference_low: float | None  # bootstrap over pairs
    difference_high: float | None
    n_answers: int  # pairs whose two written answers have a side
    n_answers_opposite: int
    behaviour: Literal["target", "control"]
    reading: OppositionReading

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference lies on one side of zero."""
        return _clear(self.difference_low, self.difference_high)


def opposition_tests(twins: pd.DataFrame, seed: int) -> tuple[Opposition, ...]:
    """One test per circuit and pair of twins, in the order of the rows.

    `twins`: one row per prompt pair (circuit, pair_id, label_base, label_aligned, f_base, f_aligned,
    side_base, side_aligned), NaN or None where something was not measured. `created`: most pairs of the aligned model
    lie on one side and most of the base on the other (both Wilson intervals clear of one half) and McNemar's p,
    corrected over circuits, is below ALPHA. `already_there`: most pairs of both lie on the same side. Else, or below
    MIN_TWINS pairs, `unclear`.
    """
    known = twins.dropna(subset=["f_base", "f_aligned"])
    groups = list(known.groupby(["label_base", "label_aligned", "circuit"], sort=False))
    p_values = [_changed_sides(rows) for _, rows in groups]
    twins_of = [(base, aligned) for (base, aligned, _), _ in groups]
    corrected = [float("nan")] * len(groups)
    for own in dict.fromkeys(twins_of):
        places = [i for i, other in enumerate(twins_of) if other == own]
        for i, p in zip(places, holm([p_values[i] for i in places]), strict=True):
            corrected[i] = float("nan") if p is None else p
    return tuple(
        _opposition(rows, p, adjusted, seed) for (_, rows), p, adjusted in zip(groups, p_values, corrected, strict=True)
    )


def _changed_sides(rows: pd.DataFrame) -> float:
    return before_after(list(rows["f_base"] > 0), list(rows["f_aligned"] > 0)).p_value


def _opposition(rows: pd.DataFrame, p_value: float, p_holm: float, seed: int) -> Opposition:
    base, aligned = (rows[f"f_{twin}"].to_numpy(dtype=np.float64) for twin in ("base", "aligned"))
    n = len(rows)
    n_base, n_aligned = int((base > 0).sum()), int((aligned > 0).sum())
    opposite = int(((base > 0) != (aligned > 0)).sum())
    share, change = wilson(opposite, n), bootstrap_mean(aligned - base, seed)
    answers = rows.reindex(columns=["side_base", "side_aligned"])
    answers = answers[answers.isin(["target", "control"]).all(axis=1)]
    first = rows.iloc[0]
    behaviour: Literal["target", "control"] = "target" if 2 * n_aligned >= n else "control"
    return Opposition(
        circuit=str(first["circuit"]),
        condition=str(first.get("condition", "original")),
        label_base=str(first["label_base"]),
        label_aligned=str(first["label_aligned"]),
        n=n,
        n_base_target=n_base,
        n_aligned_target=n_aligned,
        n_opposite=opposite,
        opposite_low=None if share is None else share.low,
        opposite_high=None if share is None else share.high,
        p_value=p_value,
        p_holm=p_holm,
        mean_base=float(base.mean()),
        mean_aligned=float(aligned.mean()),
        difference=float((aligned - base).mean()),
        difference_low=None if change is None else change.low,
        difference_high=None if change is None else change.high,
        n_answers=len(answers),
        n_answers_opposite=int((answers["side_base"] != answers["side_aligned"]).sum()),
        behaviour=behaviour,
        reading=_reading(n, n_base, n_aligned, behaviour, p_holm),
    )


def _reading(n: int, n_base: int, n_aligned: int, behaviour: str, p_holm: float) -> OppositionReading:
    if n < MIN_TWINS:
        return "unclear"
    with_it = [k if behaviour == "target" else n - k for k in (n_base, n_aligned)]
    base, aligned = (wilson(k, n) for k in with_it)
    if base is None or aligned is None or aligned.low <= 0.5:
        return "unclear"
    if base.low > 0.5:
        return "already_there"
    return "created" if base.high < 0.5 and p_holm < ALPHA else "unclear"


# ----------------------------------------------------------------------------------------------- the fit over runs


@dataclass(frozen=True)
class Fit:
    """Least-squares line effect = intercept + slope * x over runs, x the ratio or its logarithm to base 10."""

    slope: float
    intercept: float
    r_squared: float
    slope_low: float | None  # 95 % bootstrap percentiles
    slope_high: float | None
    r_squared_low: float | None
    r_squared_high: float | None
    n: int  # runs (one model, one circuit)
    n_models: int
    n_left_out: int  # runs without ratio or effect, or, with log_x, with a ratio of zero
    resampled: Literal["models", "runs"]
    log_x: bool

    @property
    def clear(self) -> bool:
        """Whether the slope's interval lies on one side of zero."""
        return _clear(self.slope_low, self.slope_high)

    def at(self, ratio: ArrayLike) -> Floats:
        """The line's effect at given ratios."""
        x = np.asarray(ratio, dtype=np.float64)
        return np.asarray(self.intercept + self.slope * (np.log10(x) if self.log_x else x), dtype=np.float64)


def fit(points: pd.DataFrame, *, log_x: bool = False, seed: int = 0) -> Fit | None:
    """Line and R^2 of the ablation effect on FFN/Skip over runs (label, ffn_skip, effect); other columns are ignored.

    The intervals are bootstrap percentiles. With MIN_FIT_MODELS models or more whole models are resampled, because the
    circuits of one model are not independent; with fewer, single runs, which makes the interval too narrow. None below
    MIN_FIT_POINTS usable runs, or where ratio or effect do not vary.
    """
    known = _usable(points, log_x)
    if len(known) < MIN_FIT_POINTS:
        return None
    x = known["ffn_skip"].to_numpy(dtype=np.float64)
    x = np.log10(x) if log_x else x
    y = known["effect"].to_numpy(dtype=np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    slope, intercept, r_squared = _line(x, y)
    labels, codes = np.unique(known["label"].astype(str).to_numpy(), return_inverse=True)
    by_model = len(labels) >= MIN_FIT_MODELS
    units = [np.flatnonzero(codes == i) for i in range(len(labels))] if by_model else list(np.arange(len(x))[:, None])
    slopes, shares = _resampled_lines(x, y, units, seed)
    slope_interval, share_interval = _percentiles(slopes), _percentiles(shares)
    return Fit(
        slope=slope,
        intercept=intercept,
        r_squared=r_squared,
        slope_low=None if slope_interval is None else slope_interval.low,
        slope_high=None if slope_interval is None else slope_interval.high,
        r_squared_low=None if share_interval is None else share_interval.low,
        r_squared_high=None if share_interval is None else share_interval.high,
        n=len(known),
        n_models=len(labels),
        n_left_out=len(points) - len(known),
        resampled="models" if by_model else "runs",
        log_x=log_x,
    )


def _usable(points: pd.DataFrame, log_x: bool) -> pd.DataFrame:
    numbers = points[["ffn_skip", "effect"]].apply(pd.to_numeric, errors="coerce")
    keep = np.isfinite(numbers).all(axis=1)
    if log_x:
        keep &= numbers["ffn_skip"] > 0
    return points[keep]


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    centred_x, centred_y = x - x.mean(), y - y.mean()
    slope = float((centred_x * centred_y).sum() / (centred_x**2).sum())
    r_squared = float((centred_x * centred_y).sum() ** 2 / ((centred_x**2).sum() * (centred_y**2).sum()))
    return slope, float(y.mean() - slope * x.mean()), min(r_squared, 1.0)


def _resampled_lines(x: Floats, y: Floats, units: Sequence[NDArray[np.intp]], seed: int) -> tuple[Floats, Floats]:
    """Slope and R^2 of lines through resampled units; resamples through which there is no one line are left out."""
    rng = np.random.default_rng(seed)
    slopes, shares = [], []
    for drawn in rng.integers(len(units), size=(BOOTSTRAP_RESAMPLES, len(units))):
        rows = np.concatenate([units[i] for i in drawn])
        if len(np.unique(x[rows])) < 3 or np.ptp(y[rows]) == 0:
            continue
        slope, _, share = _line(x[rows], y[rows])
        slopes.append(slope)
        shares.append(share)
    return np.array(slopes), np.array(shares)


# ----------------------------------------------------------------------------------------------------- the pieces


def _clear(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def _sizes(values: ArrayLike) -> Floats:
    sizes = np.abs(np.asarray(values, dtype=np.float64).ravel())
    return np.asarray(sizes[~np.isnan(sizes)], dtype=np.float64)


def _percentiles(draws: Floats) -> Interval | None:
    """The middle LEVEL of bootstrap draws; None where more than half of them could not be computed."""
    if len(draws) < BOOTSTRAP_RESAMPLES / 2:
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
