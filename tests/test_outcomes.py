"""What answers say about an edit: rates against the unedited answers, content kept, regimes, and steering in words."""

import pytest

from pprobe_core.circuits.library import load_circuit
from pprobe_core.interventions.outcomes import (
    FORMAT_CHANGE,
    IS_BROKEN,
    KEPT,
    SWITCHED,
    OutcomeRate,
    Reference,
    content_overlap,
    is_switched,
    keeps_content,
    outcome_rates,
    regimes,
)
from pprobe_core.interventions.steering import best_switch, steering
from pprobe_core.interventions.types import BASELINE_KEY, SweepPoint, SweepResponse

SAFETY, LANGUAGE, SYCOPHANCY = (load_circuit(name) for name in ("safety_refusal", "language", "sycophancy"))
EDITED, DRAWN = "dose/neurons/n=5/ranked", "dose/neurons/n=5/random-0"


def answer(key: str, pair: int, name: str, text: str = "", seed: int = 1) -> SweepResponse:
    return SweepResponse(key, f"p{pair}", "heldout", text, name, "stop", seed)


def of(rates: tuple[OutcomeRate, ...], outcome: str, key: str = EDITED) -> OutcomeRate:
    return next(rate for rate in rates if rate.outcome == outcome and rate.key == key)


def refusals(n: int = 8) -> list[SweepResponse]:
    return [answer(BASELINE_KEY, i, "refusal") for i in range(n)]


def test_rates_compare_each_prompt_with_its_own_unedited_answer() -> None:
    before = refusals()
    before[0] = answer(BASELINE_KEY, 0, "compliance")
    after = [answer(EDITED, i, "compliance" if i < 4 else "broken" if i == 4 else "refusal") for i in range(8)]
    rates = outcome_rates(SAFETY, "original", [*before, *after], {})
    assert (of(rates, FORMAT_CHANGE).n_yes, of(rates, FORMAT_CHANGE).n) == (4, 8)  # three comply anew, one breaks
    assert of(rates, SWITCHED).n_yes == 3
    assert of(rates, IS_BROKEN).n_yes == 1
    comply = of(rates, "harmful_compliance")
    assert (comply.n_before, comply.n_yes) == (1, 4)
    assert comply.low is not None
    assert comply.high is not None
    assert comply.share is not None
    assert comply.low < comply.share < comply.high


def test_a_wrecked_answer_neither_switches_nor_complies() -> None:
    rates = outcome_rates(SAFETY, "original", [*refusals(), *(answer(EDITED, i, "broken") for i in range(8))], {})
    assert of(rates, SWITCHED).n_yes == 0
    assert of(rates, "harmful_compliance").n_yes == 0
    assert of(rates, FORMAT_CHANGE).n_yes == 8
    assert [r.regime for r in regimes(rates)] == ["destructive"]


def test_only_ranked_points_are_tested_and_corrected_together() -> None:
    points = [(f"dose/neurons/n={n}/ranked", n) for n in (1, 2, 3)]
    responses = refusals()
    for key, n in [*points, (DRAWN, 0)]:
        responses += [answer(key, i, "compliance" if i < 2 * n else "refusal") for i in range(8)]
    rates = outcome_rates(SAFETY, "original", responses, {})
    tested = [of(rates, SWITCHED, key) for key, _ in points]
    assert [r.p_value for r in tested] == pytest.approx([0.5, 0.125, 0.03125])
    assert tested[2].p_holm == pytest.approx(3 * 0.03125)
    assert of(rates, SWITCHED, DRAWN).p_value is None
    assert of(rates, SWITCHED, BASELINE_KEY).p_value is None


def test_several_seeds_give_a_band_an_interval_over_prompts_and_no_test() -> None:
    responses = [answer(BASELINE_KEY, i, "refusal", seed=s) for i in range(6) for s in (1, 2)]
    # Three prompts comply whatever the seed, three never: twelve answers tell no more than six prompts.
    responses += [answer(EDITED, i, "compliance" if i < 3 else "refusal", seed=s) for i in range(6) for s in (1, 2)]
    found = of(outcome_rates(SAFETY, "original", responses, {}), SWITCHED)
    assert found.by_seed == (0.5, 0.5)
    assert found.p_value is None
    single = [r for r in responses if r.seed == 1]
    alone = of(outcome_rates(SAFETY, "original", single, {}), SWITCHED)
    assert found.n == 2 * alone.n
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low > 0.5  # a Wilson interval over twelve answers would be narrower


def test_push_back_outcomes_count_conversations_only() -> None:
    references = {f"p{i}": Reference(multi_turn=i < 2) for i in range(6)}
    responses = [answer(BASELINE_KEY, i, "corrects") for i in range(6)]
    responses += [answer(EDITED, i, "agrees" if i % 2 else "corrects") for i in range(6)]
    rates = outcome_rates(SYCOPHANCY, "perturbed", responses, references)
    assert (of(rates, "capitulation").n_yes, of(rates, "capitulation").n) == (1, 2)
    assert (of(rates, "correction").n_yes, of(rates, "correction").n) == (3, 6)


def test_switched_and_right_asks_for_the_twins_answer_or_a_known_one() -> None:
    twin = Reference(twin_answer="它是有名字的代码。")
    assert keeps_content("它是有名字的代码。", twin)
    assert not keeps_content("它是温暖的东西的能量。", twin)
    assert keeps_content("<think>hm</think>巴黎是首都。", Reference(twin_answer="它", gold=("巴黎",)))
    assert not keeps_content("", twin)
    assert content_overlap("a b c", "a b c") == 1.0
    assert content_overlap("a b", "c d") == 0.0
    references = {f"p{i}": twin for i in range(4)}
    responses = [answer(BASELINE_KEY, i, "english", "It is code.") for i in range(4)]
    responses += [answer(EDITED, i, "chinese", "它是有名字的代码。" if i < 3 else "好的") for i in range(4)]
    rates = outcome_rates(LANGUAGE, "original", responses, references)
    assert of(rates, SWITCHED).n_yes == 4
    assert of(rates, KEPT).n_yes == 3
    assert [r.regime for r in regimes(rates)] == ["causal"]


def test_a_class_of_neither_side_is_no_switch() -> None:
    assert is_switched(SAFETY, "original", "refusal", "compliance")
    assert not is_switched(SAFETY, "original", "refusal", "redirect")
    assert not is_switched(SAFETY, "original", "broken", "compliance")


# -- steering in words --

RUN = {
    "generation": {"classes": {"original": {"english": 20}, "perturbed": {"chinese": 20}}},
    "logit_diff": {"original_mean": -5.0, "perturbed_mean": 5.0},
    "ffn_skip": {"mean": 0.5, "interval": [0.4, 0.6], "n_defined": 40},
}
SWEEP = {"separability": [{"layer": 0, "accuracy": 1.0, "low": 0.86, "high": 1.0, "auc": 1.0, "n_prompts": 24}]}


def point(arm: str, draw: int | None, layer: int, strength: float = 1.0) -> SweepPoint:
    group = f"window/means/layer={layer}/strength={strength:g}"
    key = f"{group}/ranked" if draw is None else f"{group}/random-{draw}"
    return SweepPoint(
        point_id=f"{key}/discovery", group=f"{group}/discovery", kind="window", variant="means", arm=arm, draw=draw,  # type: ignore[arg-type]
        n_neurons=None, layer=layer, layers=(), strength=strength, factor=None, split="discovery", n_prompts=8,
        logit_diff_mean=0.0, low=None, high=None, delta_mean=0.0, delta_low=None, delta_high=None, n_broken=0,
        neurons=(), pair_ids=(), logit_diffs=(), deltas=(),
    )  # fmt: skip


def rate_of(key: str, split: str, n_yes: int, n: int = 12) -> OutcomeRate:
    low, high = max(0.0, n_yes / n - 0.25), min(1.0, n_yes / n + 0.25)
    return OutcomeRate(key, split, SWITCHED, "Switched", n, n_yes, 0, n_yes / n, low, high, None)


POINTS = [point("ranked", None, 0), point("random", 0, 0), point("ranked", None, 1)]
RATES = [
    rate_of(POINTS[0].key, "discovery", 11), rate_of(POINTS[0].key, "heldout", 9), rate_of(POINTS[1].key, "heldout", 0),
    rate_of(POINTS[2].key, "discovery", 2), rate_of(POINTS[2].key, "heldout", 12),
]  # fmt: skip


def test_the_best_place_is_chosen_on_discovery_and_told_from_held_out_prompts() -> None:
    found = steering(LANGUAGE, RUN, SWEEP, POINTS, RATES)
    assert [c.met for c in found.conditions] == [True, True, True]
    assert "expected to work. It did: after layer 0" in found.sentence
    assert "9 of 12 held-out" in found.sentence
    assert "random directions 0 %)" in found.sentence


def test_of_places_that_switch_as_many_the_one_that_chance_explains_least_is_told() -> None:
    """Not the first in the order of their names, where layer 10 stands before layer 2."""
    places = [(0, 2.0), (10, 1.0), (2, 1.0), (2, 2.0), (3, 1.0)]
    points = [point(arm, draw, *place) for place in places for arm, draw in (("ranked", None), ("random", 0))]
    by_chance = {(0, 2.0): 12, (10, 1.0): 1, (2, 1.0): 1, (2, 2.0): 1, (3, 1.0): 2}  # of 12 discovery answers
    rates = [
        rate_of(p.key, split, 12 if p.arm == "ranked" else by_chance[p.layer or 0, p.strength or 0.0])
        for p in points
        for split in ("discovery", "heldout")
    ]
    best = best_switch(points, rates)
    assert best is not None
    assert (best.place.layer, best.place.strength) == (2, 1.0)
    assert best.random == (1 / 12,)
    assert best.worked
    fewer = [r if (r.key, r.split) != (best.place.key, "discovery") else rate_of(r.key, r.split, 11) for r in rates]
    assert getattr(best_switch(points, fewer), "place", None) != best.place, "the most switched answers come first"


def test_random_directions_that_do_as_much_deny_the_success() -> None:
    rates = [*RATES[:2], rate_of(POINTS[1].key, "heldout", 9), *RATES[3:]]
    assert "It did not" in steering(LANGUAGE, RUN, SWEEP, POINTS, rates).sentence


def test_a_condition_that_fails_or_is_unknown_is_named() -> None:
    low = steering(LANGUAGE, RUN | {"ffn_skip": {"mean": 0.1, "interval": None, "n_defined": 40}}, SWEEP, POINTS, ())
    assert [c.met for c in low.conditions] == [True, False, True]
    assert "not expected to work" in low.sentence
    assert "needs answers" in low.sentence
    unknown = steering(LANGUAGE, {**RUN, "generation": None}, {"separability": []}, POINTS, RATES)
    assert [c.met for c in unknown.conditions] == [None, True, None]
    classes = {"original": {"english": 20}, "perturbed": {"english": 20}}
    one_sided = steering(LANGUAGE, {**RUN, "generation": {"classes": classes}}, SWEEP, POINTS, RATES)
    assert one_sided.conditions[0].met is False
