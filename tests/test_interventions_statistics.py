"""What sweeps prove: tests that hold their level, and a stage that never rises without controls."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from pprobe_core.interventions.statistics import (
    Comparison,
    before_after,
    compare,
    holm,
    permutation_p,
    rate,
    reached_stage,
    regime,
)
from pprobe_core.interventions.types import SweepPoint


def point(deltas: np.ndarray, arm: str = "ranked", draw: int | None = None, n: int = 5, **change: object) -> SweepPoint:
    values = tuple(float(d) for d in deltas)
    split = change.get("split", "discovery")
    made = SweepPoint(
        point_id=f"dose/n={n}/{arm}-{draw}/{split}",
        group=f"dose/n={n}/{split}",
        kind="dose",
        variant="neurons",
        arm=arm,  # type: ignore[arg-type]
        draw=draw,
        n_neurons=n,
        layer=None,
        layers=(),
        strength=None,
        factor=0.0,
        split="discovery",
        n_prompts=len(values),
        logit_diff_mean=float(np.mean(values)),
        low=None,
        high=None,
        delta_mean=float(np.mean(values)),
        delta_low=None,
        delta_high=None,
        n_broken=0,
        neurons=(),
        pair_ids=tuple(f"p{i}" for i in range(len(values))),
        logit_diffs=values,
        deltas=values,
    )
    return replace(made, **change)  # type: ignore[arg-type]


def sweep(
    effect: float, *, n_prompts: int = 16, n_draws: int = 5, n: int = 5, seed: int = 0, **change: object
) -> list[SweepPoint]:
    generator = np.random.default_rng([seed, n, n_draws])
    points = [point(effect + 0.1 * generator.normal(size=n_prompts), n=n, **change)]
    for k in range(n_draws):
        points.append(point(0.1 * generator.normal(size=n_prompts), "random", k, n=n, **change))
    return points


def test_rates_have_intervals_at_both_ends() -> None:
    none, every = rate(0, 20), rate(20, 20)
    assert (none.share, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.161, abs=1e-3)
    assert every.high == pytest.approx(1.0)
    assert every.low == pytest.approx(0.839, abs=1e-3)
    assert rate(0, 0).share is None


def test_mcnemar_is_the_exact_binomial_of_the_changed_prompts() -> None:
    before = [True] * 12 + [False] * 8
    after = [False] * 9 + [True] * 3 + [True] + [False] * 7
    found = before_after(before, after)
    assert (found.n, found.n_before, found.n_after, found.n_lost, found.n_gained) == (20, 12, 4, 9, 1)
    assert found.p_value == pytest.approx(binomtest(1, 10, 0.5).pvalue)
    assert before_after([True, False], [True, False]).p_value == 1.0
    with pytest.raises(ValueError):
        before_after([True], [])


def test_the_permutation_test_finds_an_effect_and_no_more_false_ones_than_it_says() -> None:
    generator = np.random.default_rng(0)
    random = generator.normal(size=(5, 16))
    p = permutation_p(random.mean() - 2 + generator.normal(size=16), random, seed=0)
    assert p is not None
    assert p < 0.01
    null = [permutation_p(generator.normal(size=8), generator.normal(size=(3, 8)), seed=k) for k in range(60)]
    assert np.mean([p is not None and p < 0.1 for p in null]) < 0.25
    assert 0.3 < np.mean([p for p in null if p is not None]) < 0.7


def test_arms_that_are_all_alike_prove_nothing() -> None:
    assert permutation_p(np.ones(6), np.ones((5, 6)), seed=0) == pytest.approx(1.0)
    assert permutation_p(np.ones(1), np.ones((5, 1)), seed=0) is None
    assert permutation_p(np.ones(6), np.empty((0, 6)), seed=0) is None


def test_holm_multiplies_the_smallest_by_how_many_there_are_and_leaves_gaps() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_is_the_librarys() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        p_values = np.round(generator.uniform(size=n) ** 3, 2)  # with ties
        assert holm(list(p_values)) == list(multipletests(p_values, method="holm")[1])


def test_a_comparison_says_what_its_points_say() -> None:
    points = sweep(-2.0)
    (found,) = compare(points, seed=0)
    draws = [p.delta_mean for p in points[1:]]
    assert found.n_draws == 5
    assert found.delta_mean == points[0].delta_mean
    assert (found.random_low, found.random_high) == (pytest.approx(min(draws)), pytest.approx(max(draws)))  # type: ignore[type-var]
    assert found.excess == pytest.approx(points[0].delta_mean - np.mean(draws))  # type: ignore[operator]
    assert found.excess_low is not None
    assert found.excess_high is not None
    assert found.excess_low < found.excess < found.excess_high < 0  # type: ignore[operator]
    assert found.beats_every_draw
    assert found.beats_controls


def test_doses_are_corrected_together_per_split() -> None:
    points = [p for n in (1, 5, 20) for p in sweep(-0.1, n=n)]
    found = compare(points, seed=0)
    raw = [c.p_value for c in found]
    assert [c.p_holm for c in found] == holm(raw)
    held = [replace(p, split="heldout", group=p.group.replace("discovery", "heldout")) for p in points]
    both = compare([*points, *held], seed=0)
    assert [c.p_holm for c in both if c.split == "discovery"] == [c.p_holm for c in found]


def test_no_effect_too_few_draws_or_a_broken_point_do_not_beat_controls() -> None:
    assert not compare(sweep(0.0), seed=0)[0].beats_controls
    assert not compare(sweep(-2.0, n_draws=4), seed=0)[0].beats_controls
    assert not compare(sweep(-2.0)[:1], seed=0)[0].beats_controls
    points = sweep(-2.0)
    broken = replace(points[0], n_broken=1, delta_mean=None, deltas=(None,) * 16)
    (found,) = compare([broken, *points[1:]], seed=0)
    assert not found.beats_controls
    assert found.p_value is None
    (fewer,) = compare([points[0], *points[1:5], replace(points[5], n_broken=1)], seed=0)
    assert fewer.n_draws == 4


def test_one_draw_as_strong_as_the_ranking_is_enough_to_prove_nothing() -> None:
    points = sweep(-2.0)
    strong = replace(points[3], deltas=tuple(d - 3.0 for d in points[3].deltas if d is not None))
    (found,) = compare([*points[:3], strong, *points[4:]], seed=0)
    assert not found.beats_every_draw
    assert not found.beats_controls


def staged(effect: float, held_effect: float | None, n_draws: int = 5) -> tuple[Comparison, ...]:
    points = sweep(effect, n_draws=n_draws)
    if held_effect is not None:
        held = sweep(held_effect, n_draws=n_draws, seed=1, split="heldout")
        points += [replace(p, group=p.group.replace("discovery", "heldout")) for p in held]
    return compare(points, seed=0)


@pytest.mark.parametrize(
    ("before", "effect", "held", "n_draws", "stage", "word"),
    [
        ("qualified", -2.0, -2.0, 5, "replicated", "held-out"),
        ("qualified", -2.0, 0.0, 5, "causal", "None of them"),
        ("qualified", -2.0, +2.0, 5, "causal", "None of them"),  # the other way round is no replication
        ("qualified", -2.0, None, 5, "causal", "no held-out"),
        ("qualified", 0.0, -2.0, 5, "qualified", "None of 1"),
        ("qualified", -2.0, -2.0, 0, "qualified", "no random controls"),
        ("observed", -2.0, -2.0, 5, "observed", "stand for the answers"),
        ("replicated", -2.0, 0.0, 5, "replicated", "None of them"),
        ("causal", 0.0, 0.0, 5, "causal", "None of 1"),
    ],
)
def test_the_stage_rises_by_the_stated_rule_only(
    before: str, effect: float, held: float | None, n_draws: int, stage: str, word: str
) -> None:
    found = reached_stage(before, staged(effect, held, n_draws))  # type: ignore[arg-type]
    assert found.stage == stage
    assert any(word in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("broken", "switched", "n", "name"),
    [(8, 2, 10, "destructive"), (1, 6, 10, "causal"), (1, 2, 10, "committed"), (4, 4, 12, "mixed"), (0, 0, 0, None)],
)
def test_regimes_are_named_from_shares_of_answers(broken: int, switched: int, n: int, name: str | None) -> None:
    assert regime(broken, switched, n) == name
