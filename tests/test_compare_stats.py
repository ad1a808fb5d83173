"""Maths of comparisons: laws of concentration, overlap, opposition, differences and the fit."""

import math

import numpy as np
import pandas as pd
import pytest

from pprobe_core import compare_stats
from tests import compare_frames

# -------------------------------------------------------------------------------------------------- concentration


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_equal_importance_is_not_concentrated_at_all(n: int) -> None:
    values = np.full(n, -0.3)
    assert compare_stats.gini(values) == pytest.approx(0.0, abs=1e-12)
    assert compare_stats.n_half(values) == math.ceil(n / 2)
    assert compare_stats.share_of_top(values, 10) == pytest.approx(min(1.0, 10 / n))


@pytest.mark.parametrize("n", [1, 2, 50, 3072])
def test_one_neuron_with_everything_is_as_concentrated_as_can_be(n: int) -> None:
    values = np.zeros(n)
    values[n // 2] = -4.0
    assert compare_stats.gini(values) == pytest.approx(1 - 1 / n)
    assert compare_stats.n_half(values) == 1
    assert compare_stats.share_of_top(values, 1) == 1.0


def test_gini_is_the_mean_difference_of_two_neurons_over_twice_the_mean() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    by_hand = np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())
    assert compare_stats.gini(values) == pytest.approx(by_hand)


def test_concentration_asks_for_sizes_and_neither_scale_nor_order_nor_sign_matters() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=500)
    other = rng.permutation(-12.5 * values)
    first, second = compare_stats.concentration(values), compare_stats.concentration(other)
    assert first.n_half == second.n_half
    assert [first.gini, first.share_top10, first.share_top50] == pytest.approx(
        [second.gini, second.share_top10, second.share_top50]
    )


def test_the_neurons_of_n_half_hold_half_and_one_fewer_does_not() -> None:
    values = np.random.default_rng(2).normal(size=301)
    sizes = np.sort(np.abs(values))[::-1]
    k = compare_stats.n_half(values)
    assert k is not None
    assert sizes[:k].sum() >= 0.5 * sizes.sum() > sizes[: k - 1].sum()


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan")]])
def test_nothing_is_said_about_no_importance(values: list[float]) -> None:
    assert compare_stats.gini(values) is None
    assert compare_stats.n_half(values) is None
    assert compare_stats.share_of_top(values, 10) is None


# -------------------------------------------------------------------------------------------------------- overlap


def drawn(rng: np.random.Generator, k: int, n_layers: int, d_mlp: int) -> pd.DataFrame:
    chosen = rng.choice(n_layers * d_mlp, size=k, replace=False)
    return pd.DataFrame({"layer": chosen // d_mlp, "neuron": chosen % d_mlp, "importance": rng.normal(size=k)})


def test_random_neurons_share_what_chance_says_and_p_is_calibrated() -> None:
    rng = np.random.default_rng(3)
    found = [compare_stats.overlap(drawn(rng, 20, 4, 25), drawn(rng, 20, 4, 25), 4, 25) for _ in range(600)]
    shared = np.array([one.n_shared for one in found])
    assert found[0].expected == pytest.approx(20 * 20 / 100)
    assert shared.mean() == pytest.approx(4.0, abs=0.25)
    assert np.mean([one.expected_by_layer for one in found]) == pytest.approx(4.0, abs=0.25)
    for p in ("p", "p_by_layer"):
        assert np.mean([getattr(one, p) <= 0.05 for one in found]) <= 0.07


def test_circuits_of_one_layer_share_by_chance_what_that_layer_gives() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        a, b = (drawn(rng, 20, 1, 50).assign(layer=3) for _ in range(2))
        found.append(compare_stats.overlap(a, b, 8, 50))
    assert found[0].expected == pytest.approx(1.0)
    assert found[0].expected_by_layer == pytest.approx(8.0)
    # Against the whole model nearly every pair looks shared; inside the layer, as few as the level says.
    assert np.mean([one.p < 0.05 for one in found]) > 0.9
    assert np.mean([one.p_by_layer < 0.05 for one in found]) <= 0.08


def test_a_circuit_shares_everything_with_itself_and_signs_are_compared() -> None:
    a = drawn(np.random.default_rng(5), 30, 4, 100)
    itself = compare_stats.overlap(a, a, 4, 100)
    mirrored = compare_stats.overlap(a, a.assign(importance=-a["importance"]), 4, 100)
    assert (itself.n_shared, itself.jaccard, itself.sign_agreement) == (30, 1.0, 1.0)
    assert mirrored.sign_agreement == 0.0
    assert itself.p < 1e-20
    assert itself.p_by_layer < 1e-15


def test_circuits_without_a_common_neuron_have_no_sign_agreement_and_p_of_one() -> None:
    a = pd.DataFrame({"layer": 0, "neuron": range(10), "importance": 1.0})
    found = compare_stats.overlap(a, a.assign(layer=1), 2, 40)
    assert (found.n_shared, found.sign_agreement, found.jaccard) == (0, None, 0.0)
    assert found.p == found.p_by_layer == 1.0


def test_lists_of_different_length_are_refused() -> None:
    a = drawn(np.random.default_rng(6), 10, 2, 40)
    with pytest.raises(ValueError, match="10 and 9"):
        compare_stats.overlap(a, a.head(9), 2, 40)


def test_every_two_circuits_are_compared_once_and_corrected_together() -> None:
    table = compare_stats.overlaps(compare_frames.tops(shared=40), 8, 384)
    n = len(compare_frames.CIRCUITS)
    assert list(table.columns) == list(compare_stats.OVERLAP_COLUMNS)
    assert len(table) == n * (n - 1) // 2 == len(table[["circuit_a", "circuit_b"]].drop_duplicates())
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(min(1.0, table["p"].min() * len(table)))
    assert compare_stats.overlaps({"code": compare_frames.tops()["code"]}, 8, 384).empty


# ---------------------------------------------------------------------------------------------------- differences


def run(values: np.ndarray, ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"pair_id": ids, "ffn_skip_original": values - 0.01, "ffn_skip_perturbed": values + 0.01})


def test_shared_pairs_take_what_the_pairs_have_in_common_out_of_the_difference() -> None:
    rng = np.random.default_rng(7)
    hard, ids = rng.uniform(0, 2, 40), [f"p{i}" for i in range(40)]
    a, b = run(hard + 0.2 + rng.normal(0, 0.02, 40), ids), run(hard, ids)
    paired = compare_stats.paired_difference(a, b.sample(frac=1, random_state=0), seed=0)
    unpaired = compare_stats.paired_difference(a, b.assign(pair_id=[f"q{i}" for i in range(40)]), seed=0)
    assert paired is not None
    assert unpaired is not None
    assert (paired.paired, unpaired.paired) == (True, False)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert paired.clear
    assert paired.low is not None
    assert paired.low < 0.2 < (paired.high or 0) < 0.22
    assert not unpaired.clear  # the pairs differ among each other far more than the two runs do
    assert paired.difference == pytest.approx(paired.mean_a - paired.mean_b)


def test_only_shared_pairs_enter_a_paired_difference() -> None:
    a, b = run(np.array([1.0, 2.0, 3.0, 9.0]), list("abcx")), run(np.array([1.0, 2.0, 3.0]), list("abc"))
    found = compare_stats.paired_difference(a, b, seed=0)
    assert found is not None
    assert (found.n_a, found.n_b, found.difference, found.clear) == (3, 3, 0.0, False)


def test_undefined_ratios_are_left_out_and_a_run_of_them_gives_no_difference() -> None:
    a = run(np.array([1.0, 2.0, np.nan]), list("abc"))
    a.loc[0, "ffn_skip_perturbed"] = None
    found = compare_stats.paired_difference(a, run(np.array([1.0, 2.0, 5.0]), list("abc")), seed=0)
    assert found is not None
    assert found.n_a == 2
    assert compare_stats.paired_difference(a, run(np.full(3, np.nan), list("abc")), seed=0) is None


def test_one_pair_gives_a_difference_without_interval() -> None:
    found = compare_stats.paired_difference(run(np.array([2.0]), ["a"]), run(np.array([1.0]), ["a"]), seed=0)
    assert found is not None
    assert (found.difference, found.low, found.high, found.clear) == (1.0, None, None, False)


def test_independent_intervals_add_in_squares() -> None:
    found = compare_stats.difference_of_means(5.0, 2.0, 9.0, 1.0, -3.0, 4.0)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((4 - math.hypot(3, 3), 4 + math.hypot(4, 4)))
    assert compare_stats.difference_of_means(1.0, float("nan"), 2.0, 1.0, 0.0, 2.0) is None


# ------------------------------------------------------------------------------------------------------ opposition


def test_a_base_on_the_other_side_means_alignment_creates_it() -> None:
    found = compare_stats.opposition_tests(compare_frames.twins(("a-1B",), n=40, turned=1.0), seed=0)[0]
    assert (found.n, found.n_base_target, found.n_aligned_target, found.n_opposite) == (40, 0, 40, 40)
    assert found.reading == "created"
    assert found.behaviour == "target"
    assert found.p_value == pytest.approx(2 * 0.5**40)
    assert found.difference == pytest.approx(found.mean_aligned - found.mean_base)
    assert found.clear
    assert (found.n_answers, found.n_answers_opposite) == (40, 40)


def test_a_base_on_the_same_side_means_it_is_already_there() -> None:
    found = compare_stats.opposition_tests(compare_frames.twins(("a-1B",), n=40, turned=0.1), seed=0)[0]
    assert found.reading == "already_there"
    assert found.n_opposite == 4
    assert found.p_value == pytest.approx(2 * 0.5**4)


@pytest.mark.parametrize(("n", "turned"), [(40, 0.5), (6, 1.0)])
def test_half_turned_or_few_pairs_cannot_tell(n: int, turned: float) -> None:
    found = compare_stats.opposition_tests(compare_frames.twins(("a-1B",), n=n, turned=turned), seed=0)[0]
    assert found.reading == "unclear"


def test_mirroring_f_mirrors_the_side_and_nothing_else() -> None:
    rows = compare_frames.twins(("a-1B",), n=40, turned=0.9)
    mirrored = rows.assign(f_base=-rows["f_base"], f_aligned=-rows["f_aligned"])
    found, other = (compare_stats.opposition_tests(frame, seed=0)[0] for frame in (rows, mirrored))
    assert (found.behaviour, other.behaviour) == ("target", "control")
    assert found.reading == other.reading == "created"
    assert found.p_value == other.p_value
    assert other.difference == pytest.approx(-found.difference)


def test_tests_are_corrected_over_the_circuits_of_the_same_twins_only() -> None:
    frame = pd.concat(
        [
            compare_frames.twins(("a-1B", "b-3B"), "safety_refusal", n=12, turned=0.5),
            compare_frames.twins(("a-1B",), "code", n=12, turned=1.0),
        ]
    )
    found = {(one.label_aligned, one.circuit): one for one in compare_stats.opposition_tests(frame, seed=0)}
    assert len(found) == 3
    alone = found["b-3B", "safety_refusal"]
    assert alone.p_holm == pytest.approx(alone.p_value)
    assert found["a-1B", "code"].p_holm == pytest.approx(2 * found["a-1B", "code"].p_value)


def test_pairs_without_f_and_answers_without_a_side_do_not_count() -> None:
    rows = compare_frames.twins(("a-1B",), n=20)
    rows.loc[:4, "f_base"] = np.nan
    rows.loc[5:9, "side_base"] = None
    found = compare_stats.opposition_tests(rows, seed=0)[0]
    assert (found.n, found.n_answers) == (15, 10)
    assert compare_stats.opposition_tests(rows.assign(f_base=np.nan), seed=0) == ()
    assert compare_stats.opposition_tests(rows.head(0), seed=0) == ()


# ---------------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize("log_x", [False, True])
def test_the_fit_recovers_a_made_line(log_x: bool) -> None:
    points = compare_frames.points()
    x = np.log10(points["ffn_skip"]) if log_x else points["ffn_skip"]
    found = compare_stats.fit(points.assign(effect=0.25 - 0.75 * x), log_x=log_x)
    assert found is not None
    assert (found.slope, found.intercept, found.r_squared) == pytest.approx((-0.75, 0.25, 1.0))
    assert (found.r_squared_low, found.slope_high) == pytest.approx((1.0, -0.75))
    assert found.clear
    assert found.at(points["ffn_skip"]) == pytest.approx(0.25 - 0.75 * x.to_numpy())


def test_r_squared_is_the_squared_correlation_and_its_interval_holds_it() -> None:
    points = compare_frames.points(noise=0.2)
    found = compare_stats.fit(points)
    assert found is not None
    assert found.r_squared == pytest.approx(np.corrcoef(points["ffn_skip"], points["effect"])[0, 1] ** 2)
    assert found.r_squared_low is not None
    assert found.r_squared_low < found.r_squared < (found.r_squared_high or 0)


def test_what_is_the_same_inside_a_model_makes_the_interval_wider_when_models_are_resampled() -> None:
    """All runs of a model lie on one spot: the information is that of the models, not of the runs."""
    rng = np.random.default_rng(8)
    models = [f"m{i}" for i in range(6)]
    spots = {label: (rng.uniform(0.1, 1.0), rng.normal()) for label in models}
    rows = [
        {
            "label": label,
            "ffn_skip": spots[label][0] + rng.normal(0, 1e-3),
            "effect": spots[label][1] + rng.normal(0, 1e-3),
        }
        for label in models
        for _ in range(8)
    ]
    points = pd.DataFrame(rows)
    clustered = compare_stats.fit(points)
    single = compare_stats.fit(points.assign(label=["m0", "m1"] * 24))
    assert clustered is not None
    assert single is not None
    assert (clustered.resampled, single.resampled) == ("models", "runs")
    assert (clustered.n_models, single.n_models) == (6, 2)
    assert (clustered.slope, clustered.r_squared) == pytest.approx((single.slope, single.r_squared))
    widths = [(f.slope_high or 0) - (f.slope_low or 0) for f in (clustered, single)]
    assert widths[0] > 2 * widths[1]


def test_runs_without_numbers_are_counted_and_left_out() -> None:
    points = compare_frames.points(compare_frames.MODELS[:3])
    points.loc[0, "effect"] = None
    points.loc[1, "ffn_skip"] = np.inf
    points.loc[2, "ffn_skip"] = 0.0
    linear, logarithm = compare_stats.fit(points), compare_stats.fit(points, log_x=True)
    assert linear is not None
    assert logarithm is not None
    assert (linear.n, linear.n_left_out) == (22, 2)
    assert (logarithm.n, logarithm.n_left_out) == (21, 3)


def test_too_few_runs_or_runs_all_alike_carry_no_line() -> None:
    points = compare_frames.points()
    assert compare_stats.fit(points.head(3)) is None
    assert compare_stats.fit(points.head(4)) is not None
    assert compare_stats.fit(points.assign(ffn_skip=0.3)) is None
    assert compare_stats.fit(points.assign(effect=-0.3)) is None
    assert compare_stats.fit(points.head(0)) is None


def test_the_same_seed_gives_the_same_intervals() -> None:
    points = compare_frames.points(noise=0.2)
    assert compare_stats.fit(points, seed=3) == compare_stats.fit(points, seed=3)
    assert compare_stats.fit(points, seed=3) != compare_stats.fit(points, seed=4)
