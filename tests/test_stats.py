"""Intervals and nulls: known values, seeds, and what happens with too little data."""

import numpy as np
import pytest

from pprobe_core import stats


def test_wilson_agrees_with_its_formula() -> None:
    k, n, z = 43, 48, 1.959963984540054
    centre = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    found = stats.wilson(k, n)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


def test_wilson_of_all_and_none_stays_inside_zero_and_one() -> None:
    everything, nothing = stats.wilson(20, 20), stats.wilson(0, 20)
    assert everything is not None
    assert nothing is not None
    assert 0.8 < everything.low < everything.high <= 1
    assert 0 <= nothing.low < nothing.high < 0.2
    assert stats.wilson(0, 0) is None


def test_bootstrap_interval_is_seeded_and_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 40)
    one, again, other = (stats.bootstrap_mean(values, seed) for seed in (1, 1, 2))
    assert one is not None
    assert one == again != other
    assert one.contains(float(values.mean()))
    standard_error = values.std(ddof=1) / np.sqrt(40)
    assert one.high - one.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    intervals = [stats.bootstrap_mean(rng.normal(0, 1, 30), seed) for seed in range(60)]
    covered = sum(interval is not None and interval.contains(0.0) for interval in intervals)
    assert 51 <= covered <= 60


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([1.0], None), ([np.nan, 2.0], None), ([2.0, 2.0, 2.0], stats.Interval(2.0, 2.0))],
)
def test_bootstrap_says_none_where_nothing_can_be_said(values: list[float], expected: stats.Interval | None) -> None:
    assert stats.bootstrap_mean(values, 0) == expected


def test_missing_values_are_left_out() -> None:
    values = [1.0, np.nan, 3.0, 2.0]
    assert stats.bootstrap_mean(values, 5) == stats.bootstrap_mean([1.0, 3.0, 2.0], 5)
    assert stats.mean_or_none(values) == 2.0
    assert stats.median_or_none([np.nan, 1.0, 9.0, 2.0]) == 2.0
    assert stats.mean_or_none([np.nan]) is stats.median_or_none([]) is None


def test_linear_fit_finds_the_line_and_its_control() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    fit = stats.linear_fit(x, 0.5 * x + 1.0 + 0.1 * rng.normal(size=30), 0)
    assert fit is not None
    assert (fit.slope, fit.intercept) == pytest.approx((0.5, 1.0), abs=0.1)
    assert fit.correlation > 0.95
    assert 0.2 < fit.null_correlation_95 < 0.5
    assert fit.p_value == pytest.approx(1 / (stats.PERMUTATIONS + 1))


def test_unrelated_series_do_not_pass_their_control() -> None:
    rng = np.random.default_rng(2)
    fit = stats.linear_fit(rng.normal(size=30), rng.normal(size=30), 0)
    assert fit is not None
    assert abs(fit.correlation) < fit.null_correlation_95
    assert fit.p_value > 0.05


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])])
def test_no_line_through_too_little(x: list[float], y: list[float]) -> None:
    assert stats.linear_fit(x, y, 0) is None


def test_sign_patterns_are_seeded_signs() -> None:
    signs = stats.sign_patterns(200, 40, 4)
    assert signs.shape == (200, 40)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.05
    assert (signs == stats.sign_patterns(200, 40, 4)).all()
    assert (signs != stats.sign_patterns(200, 40, 5)).any()
