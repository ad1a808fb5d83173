"""The verdict as a function of its evidence: every structure, both stages, and numbers in every sentence."""

from dataclasses import replace

import pytest

from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.probing.verdict import (
    OPPOSITION_MIN_FFN_SKIP,
    ROUTING_MAX_FFN_SKIP,
    Evidence,
    answers_agree,
    judge,
)
from pprobe_core.stats import Interval

SAFETY, LANGUAGE, CODE = (load_circuit(name) for name in ("safety_refusal", "language", "code"))


def evidence(ratio: float | None = 0.39, **changes: object) -> Evidence:
    """48 pairs of which 45 flip, a narrow interval around the ratio, answers that agree."""
    base = Evidence(
        n_pairs=48,
        n_flipped=45,
        logit_diff_original=4.25,
        logit_diff_perturbed=-2.5,
        ffn_skip_mean=ratio,
        ffn_skip_median=ratio,
        ffn_skip_interval=None if ratio is None else Interval(ratio - 0.02, ratio + 0.02),
        n_ffn_skip=0 if ratio is None else 96,
        n_covered_original=48,
        n_covered_perturbed=47,
        n_agree=92,
        n_answers=96,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def text(given: Evidence, circuit=SAFETY) -> str:  # type: ignore[no-untyped-def]
    return " ".join(judge(given, circuit).reasons)


@pytest.mark.parametrize(
    ("ratio", "structure"),
    [(0.31, "opposition"), (0.3, "undetermined"), (0.25, "undetermined"), (0.2, "undetermined"), (0.19, "routing")],
)
def test_the_ratio_decides_against_the_two_thresholds(ratio: float, structure: str) -> None:
    assert (ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP) == (0.2, 0.3)
    assert judge(evidence(ratio), SAFETY).structure == structure
    assert judge(evidence(ratio), LANGUAGE).structure == structure


@pytest.mark.parametrize("ratio", [None, 0.05, 0.9])
def test_pairs_that_do_not_flip_are_uninformative_whatever_the_ratio(ratio: float | None) -> None:
    verdict = judge(evidence(ratio, n_flipped=23), SAFETY)
    assert verdict.structure == "uninformative"
    assert verdict.stage == "observed"
    assert "only 23 of 48 (48 %" in verdict.reasons[0]
    assert any("uninformative" in reason for reason in verdict.reasons)
    assert verdict.recommendation.startswith("None yet")
    assert judge(evidence(ratio, n_flipped=24), SAFETY).structure != "uninformative"


@pytest.mark.parametrize("circuit", [c for c in load_circuits().values() if c.expected_structure == "read_out"])
def test_two_passes_cannot_tell_a_read_out_from_an_opposition(circuit) -> None:  # type: ignore[no-untyped-def]
    verdict = judge(evidence(0.95), circuit)
    assert verdict.structure == "undetermined"
    assert any("high ratio alone proves nothing; only an ablation can tell" in reason for reason in verdict.reasons)
    assert "ablate" in verdict.recommendation
    low = judge(evidence(0.05), circuit)
    assert low.structure == "routing"
    assert low.recommendation.startswith("None yet")


def test_read_out_is_never_claimed_from_two_passes() -> None:
    for circuit in load_circuits().values():
        for ratio in (None, 0.0, 0.25, 5.0):
            assert judge(evidence(ratio), circuit).structure != "read_out"


def test_reasons_carry_their_numbers() -> None:
    said = text(evidence(0.39))
    assert "45 of 48 (94 %, 95 % interval 83 to 98 %)" in said
    assert "from +4.25 to -2.50 logits" in said
    assert "0.39 (n = 96 of 96 prompts, 95 % interval 0.37 to 0.41, median 0.39): above 0.3" in said
    assert "92 of 96 (96 %" in said


@pytest.mark.parametrize(
    ("interval", "crossed"),
    [((0.28, 0.5), "the threshold 0.3"), ((0.1, 0.5), "both thresholds (0.2 and 0.3)"), ((0.31, 0.5), None)],
)
def test_an_interval_over_a_threshold_is_said(interval: tuple[float, float], crossed: str | None) -> None:
    said = text(evidence(0.39, ffn_skip_interval=Interval(*interval)))
    assert ("That interval crosses" in said) == (crossed is not None)
    if crossed:
        assert f"That interval crosses {crossed}: with other prompts" in said


def test_a_mean_pulled_over_a_threshold_by_few_prompts_is_said() -> None:
    assert "different sides of a threshold" in text(evidence(0.39, ffn_skip_median=0.15))
    assert "different sides of a threshold" not in text(evidence(0.39, ffn_skip_median=0.35))


def test_an_undefined_ratio_decides_nothing() -> None:
    verdict = judge(evidence(None), SAFETY)
    assert verdict.structure == "undetermined"
    assert any("undefined on all 96 prompts" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("n_agree", "n_answers", "enough"),
    [(96, 96, True), (87, 96, True), (86, 96, False), (10, 10, False), (12, 12, True), (0, 0, False)],
)
def test_agreement_needs_a_share_and_enough_answers(n_agree: int, n_answers: int, enough: bool) -> None:
    assert answers_agree(n_agree, n_answers) == enough


def test_qualified_needs_flips_and_agreeing_answers() -> None:
    assert judge(evidence(), SAFETY).stage == "qualified"
    assert judge(evidence(n_flipped=10), SAFETY).stage == "observed"
    assert judge(evidence(n_agree=60), SAFETY).stage == "observed"
    assert "only 60 of 96" in text(evidence(n_agree=60))
    assert judge(evidence(n_agree=None, n_answers=0), SAFETY).stage == "observed"
    assert "No answers were generated" in text(evidence(n_agree=None, n_answers=0))


def test_first_tokens_outside_both_sets_are_said() -> None:
    assert "outside both token sets" not in text(evidence())
    said = text(evidence(n_covered_perturbed=20))
    assert "outside both token sets on 28 of 48 (58 %" in said
    assert "perturbed prompts" in said


def test_recommendations_follow_the_structure() -> None:
    assert judge(evidence(0.5), SAFETY).recommendation.startswith("Ablate or amplify")
    assert judge(evidence(0.1), LANGUAGE).recommendation.startswith("Inject a direction")
    assert judge(evidence(0.25), LANGUAGE).recommendation.startswith("None yet")
    assert judge(evidence(0.5), CODE).recommendation.startswith("None yet")


def test_a_handful_of_pairs_is_called_too_few() -> None:
    reasons = judge(evidence(n_pairs=1, n_flipped=1, n_agree=2, n_answers=2), SAFETY).reasons
    assert reasons[0].startswith("Only 1 prompt pair was measured")
    assert not any("only 2 of 2" in reason for reason in reasons)
    assert any("2 of 2 (100 %" in reason and "too few to be sure" in reason for reason in reasons)
    assert "Only 9 prompt pairs were measured" in text(evidence(n_pairs=9, n_flipped=9))
    assert "too few" not in text(evidence(n_pairs=10, n_flipped=10))


def test_pairs_of_twice_the_same_prompt_are_named() -> None:
    assert "In 3 of 48 pairs both prompts are the same to the model" in text(evidence(n_identical=3))
    assert "are the same to the model" not in text(evidence())
