"""Sentences of comparisons: what they claim follows from their numbers, and how sure it is stands beside it."""

import numpy as np
import pytest

from pprobe_core import compare_stats, compare_words, paper
from pprobe_core.compare_stats import Difference
from tests import compare_frames
from tests.compare_frames import MODELS


def row(label: str, mean: float, **change: object) -> dict[str, object]:
    base: dict[str, object] = {
        "label": label,
        "circuit": "safety_refusal",
        "circuit_title": "Safety refusal",
        "mean": mean,
        "low": mean - 0.02,
        "high": mean + 0.02,
        "n": 120,
        "flip_rate": 0.9,
        "n_pairs": 60,
        "note": "",
    }
    return base | change


CLEAR = Difference(0.39, 0.12, 0.27, 0.20, 0.34, 60, 60, paired=True)
OPEN = Difference(0.39, 0.36, 0.03, -0.05, 0.11, 60, 60, paired=True)


def test_a_clear_difference_is_named_with_its_interval_n_and_the_papers_lines() -> None:
    assert compare_words.pair_sentence(row("mini-qwen3", 0.39), row("mini-llama", 0.12), CLEAR) == (
        "FFN/Skip of safety refusal is 0.39 in mini-qwen3 and 0.12 in mini-llama; the difference +0.27 [0.20, 0.34] is "
        "clear of zero (60 shared pairs), so the last FFN weighs more against what was there before in mini-qwen3. By "
        "the paper's lines mini-qwen3 lies above 0.3 (opposition), mini-llama below 0.2 (routing)."
    )


def test_a_difference_that_includes_zero_claims_nothing() -> None:
    sentence = compare_words.pair_sentence(row("a", 0.39), row("b", 0.36), OPEN)
    assert sentence.endswith("[−0.05, 0.11] includes zero (60 shared pairs), so the two cannot be told apart by it.")
    assert "weighs more" not in sentence


def test_swapping_two_models_swaps_the_sign_and_nothing_else() -> None:
    there = compare_words.pair_sentence(row("a", 0.39), row("b", 0.12))
    back = compare_words.pair_sentence(row("b", 0.12), row("a", 0.39))
    assert "weighs more against what was there before in a" in there
    assert "weighs more against what was there before in a" in back
    assert "+0.27" in there
    assert "−0.27" in back
    assert "not shared" in there


def test_a_run_that_failed_or_waits_or_is_undefined_is_told_instead_of_a_number() -> None:
    failed = row("b", np.nan, low=np.nan, high=np.nan, note="cannot be run: it is a mixture of experts.")
    assert compare_words.pair_sentence(row("a", 0.3), failed) == (
        "Safety refusal: there is nothing to compare; b cannot be run: it is a mixture of experts."
    )
    waiting = failed | {"note": "not run yet"}
    assert compare_words.pair_sentence(row("a", 0.3), waiting).endswith("b is not run yet.")
    undefined = compare_words.pair_sentence(row("a", np.nan), row("b", 0.3))
    assert undefined.startswith("FFN/Skip of safety refusal is undefined in a:")


def test_few_pairs_and_pairs_that_do_not_flip_weaken_the_sentence() -> None:
    weak = compare_words.pair_sentence(
        row("a", 0.39, n_pairs=4), row("b", 0.12, flip_rate=0.25), Difference(0.39, 0.12, 0.27, 0.2, 0.3, 4, 4, True)
    )
    assert "With 4 pairs this is a hint at most." in weak
    assert "In b only 25\u00a0% of the pairs change sides" in weak


def test_a_difference_without_interval_says_nothing_about_the_two() -> None:
    sentence = compare_words.pair_sentence(row("a", 0.39, low=np.nan), row("b", 0.12))
    assert "(no interval)" in sentence
    assert "nothing is said about the two" in sentence


@pytest.mark.parametrize(
    ("other", "reading"),
    [(-0.10, "clearly larger in a"), (-0.80, "does not tell the two apart"), (0.60, "go opposite ways")],
)
def test_ablation_effects_are_compared_by_their_intervals(other: float, reading: str) -> None:
    effects = tuple(
        {"effect": e, "effect_low": e - 0.1, "effect_high": e + 0.1, "n_neurons": 50, "label": label}
        for label, e in (("a", -0.84), ("b", other))
    )
    sentence = compare_words.pair_sentence(row("a", 0.39), row("b", 0.36), OPEN, (effects[0], effects[1]))
    assert "Switching off the first 50 neurons moves F by −84\u00a0% [−94, −74] of its size in a" in sentence
    assert reading in sentence
    assert "random neurons subtracted" in sentence


def test_every_pair_of_models_has_a_sentence_for_every_circuit_both_have() -> None:
    ratios = compare_frames.ratios()
    table = compare_words.pair_sentences(ratios, MODELS, {}, compare_frames.points())
    assert list(table.columns) == list(compare_words.PAIR_COLUMNS)
    assert len(table) == 8 * 15 - 5  # one model lacks one circuit
    failed = table[(table["label_b"] == MODELS[-1])]
    assert failed["clear"].isna().all()
    assert failed["sentence"].str.contains("cannot be run").all()
    for line in table.dropna(subset=["clear"]).to_dict("records"):
        assert ("clear of zero" in line["sentence"]) == line["clear"]
    assert compare_words.pair_sentences(ratios.head(0), MODELS).empty


def test_given_differences_are_used_and_models_outside_the_list_are_not() -> None:
    ratios = compare_frames.ratios(MODELS[:3], ("code",), failed=False)
    given = Difference(0.5, 0.5, 0.0, -0.1, 0.1, 7, 7, paired=True)
    table = compare_words.pair_sentences(ratios, MODELS[:2], {("code", MODELS[0], MODELS[1]): given})
    assert len(table) == 1
    assert "7 shared pairs" in table["sentence"].iloc[0]


@pytest.mark.parametrize(("n", "words"), [(6, "at times one"), (20, "about one"), (120, "about 6")])
def test_many_comparisons_are_warned_of(n: int, words: str) -> None:
    assert words in compare_words.many_words(n)
    assert compare_words.many_words(1) == ""


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (1.0, "leans to the target side in 40 of 40 pairs, its base a-1B-base in 0, so alignment creates this side"),
        (0.0, "so the side is already there before alignment; alignment strengthens it"),
        (0.5, "so it cannot be told whether alignment creates it"),
    ],
)
def test_opposition_says_what_its_reading_says(turned: float, words: str) -> None:
    test = compare_stats.opposition_tests(compare_frames.twins(("a-1B",), turned=turned), seed=0)[0]
    sentence = compare_words.opposition_sentence(test, "Safety refusal")
    assert sentence.startswith("Safety refusal: on the original prompt a-1B")
    assert words in sentence
    assert f"Of 40 pairs of written answers {round(40 * turned)} are opposite." in sentence


def test_opposition_of_few_pairs_or_without_answers_says_so() -> None:
    rows = compare_frames.twins(("a-1B",), n=5).assign(side_base=None)
    sentence = compare_words.opposition_sentence(compare_stats.opposition_tests(rows, seed=0)[0])
    assert "too few pairs to tell" in sentence
    assert sentence.endswith("this is about first tokens only.")


def test_an_overlap_is_read_against_chance_inside_the_layers() -> None:
    table = compare_stats.overlaps(compare_frames.tops(shared=12), 8, 384).assign(label="mini-qwen3")
    shared = table[table["n_shared"] == 12].iloc[0]
    sentence = compare_words.overlap_sentence(shared)
    # Twelve of 50 are far beyond chance over the whole model, and not inside the one layer all of them lie in.
    assert shared["p_holm"] < 0.001
    assert "share 12 of their first 50 neurons; chance gives 0.81, inside the same layers 6.5" in sentence
    assert "nothing beyond chance is shown" in sentence
    assert "0 of the 12 push the same way in both." in sentence
    without_layers = shared.drop(["expected_by_layer", "p_by_layer", "p_by_layer_holm"])
    assert "more in common than chance (p < 0.001, Holm)" in compare_words.overlap_sentence(without_layers)


def test_the_fit_states_own_number_interval_n_and_the_papers_as_the_papers() -> None:
    points = compare_frames.points(noise=0.2)
    fit = compare_stats.fit(points)
    assert fit is not None
    sentence = compare_words.fit_sentence(fit, len(points))
    assert sentence.startswith(f"On your 48 runs FFN/Skip explains {100 * fit.r_squared:.0f}\u00a0% [")
    assert "the paper says 81\u00a0% on 13 models (Figure 3)" in sentence
    assert "resample the 6 models" in sentence
    two = compare_frames.points(MODELS[:2], noise=0.2)
    assert "too narrow" in compare_words.fit_sentence(compare_stats.fit(two), len(two))
    assert compare_words.fit_sentence(None, 1).startswith("1 run has both numbers: too few for a line")


@pytest.mark.parametrize(
    ("mean", "zone"), [(0.31, "opposition"), (0.3, "between"), (0.2, "between"), (0.19, "routing")]
)
def test_the_lines_themselves_belong_to_neither_side(mean: float, zone: str) -> None:
    assert compare_words.ratio_zone(mean) == zone
    assert compare_words.ratio_zone(float("nan")) == ""


def test_numbers_of_the_paper_have_a_place_and_shares_are_fractions() -> None:
    for number in paper.NUMBERS:
        assert number.place
        assert 0 <= number.value <= 1
        assert number.n > 0
        assert paper.cited(number) == f"arXiv 2604.27401, {number.place}"
    assert all(paper.cited(number) == paper.TOOL for number in paper.RATIOS.values())
    window = paper.LANGUAGE_WINDOW
    assert window.destructive[1] < window.causal[0] < window.causal[1] < window.committed_from < window.n_layers
    assert (window.depth(0), window.depth(35)) == (0.0, 1.0)


def test_signed_percentages_use_a_real_minus_and_never_say_minus_zero() -> None:
    assert [compare_words.percents(v) for v in (-0.84, 0.12, -0.001, float("nan"))] == [
        "−84\u00a0%",
        "+12\u00a0%",
        "0\u00a0%",
        "–",
    ]
    assert compare_words.joined(["a", "b", "c"]) == "a, b and c"
