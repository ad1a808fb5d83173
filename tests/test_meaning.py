"""What a run or a sweep means: every sentence follows from the numbers, and none goes beyond the stage reached."""

import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from pprobe_core import meaning
from pprobe_core.circuits.library import load_circuit
from pprobe_core.interventions.outcomes import FORMAT_CHANGE, IS_BROKEN, SWITCHED, OutcomeRate
from pprobe_core.interventions.statistics import Comparison, SweepStage, rate
from pprobe_core.interventions.types import INJECTION_KINDS, KINDS, NEURON_KINDS, SweepPoint, SweepRequest
from pprobe_core.meaning import Meaning, meaning_of_run, meaning_of_sweep, run_meaning, sweep_meaning
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.probing.verdict import VerdictStructure
from pprobe_core.store import Run, Store, Sweep
from tests.results_by_hand import result_by_hand

SAFETY = load_circuit("safety_refusal")
NOW = datetime(2026, 11, 26, tzinfo=UTC)
STRUCTURES = get_args(VerdictStructure)
STAGES = get_args(SweepStage)
CLAIMS = ("is a cause", "By the logit difference this is a cause")


def summary(
    structure: str = "routing", n_pairs: int = 40, n_flipped: int = 38, ratio: float | None = 0.1, **more: Any
) -> dict[str, Any]:
    """The parts of a run's summary that its paragraph rests on."""
    return {
        "model": "mini-qwen3",
        "n_layers": 8,
        "d_mlp": 384,
        "n_pairs": n_pairs,
        "n_flipped": n_flipped,
        "flip_rate": n_flipped / n_pairs,
        "flip_interval": [0.8, 0.99],
        "n_identical": 0,
        "coverage": {"original": 1.0, "perturbed": 0.9},
        "logit_diff": {"original_mean": 2.4, "perturbed_mean": -11.0},
        "additive": {"measured_mean": -13.4, "ffn_mean": -11.4, "carried_by": {"attention": -1.9}},
        "ffn_skip": {"mean": ratio, "interval": None if ratio is None else [ratio - 0.02, ratio + 0.02]},
        "null": {"n_above": 5},
        "layers": [
            {"layer": i, "ffn": 0.0, "ffn_perturbed": -1.0 * i, "attention": 0.0, "attention_perturbed": 0.5}
            for i in range(8)
        ],
        "verdict": {"structure": structure},
        "generation": {"n_answers": 80, "n_agree": 78, "agreement_interval": [0.91, 0.99]},
    } | more


def run_of(stage: str = "qualified", **more: Any) -> Run:
    request = ProbeRequest(model="mini-qwen3", circuit="safety_refusal")
    return Run("0" * 12, "0" * 64, NOW, request, summary(**more), {}, stage)


def comparison(
    group: str,
    *,
    split: str = "heldout",
    n: int | None = 20,
    delta: float | None = -3.1,
    beats: bool = True,
    draws: int = 5,
) -> dict[str, Any]:
    """A row of the comparisons that a sweep keeps."""
    made = Comparison(
        group=group, split=split, n_neurons=n, n_prompts=12, n_draws=draws, delta_mean=delta, random_mean=0.0,  # type: ignore[arg-type]
        random_low=-0.2, random_high=0.1, excess=delta, excess_low=-4.0, excess_high=-2.0, beats_every_draw=beats,
        p_value=0.001, p_holm=0.002 if beats else 0.5,
    )  # fmt: skip
    return vars(made)


def outcome(key: str, name: str, n_yes: int, n: int = 12, split: str = "heldout") -> OutcomeRate:
    found = rate(n_yes, n)
    return OutcomeRate(key, split, name, name, n, n_yes, 0, found.share, found.low, found.high, None)


def point(key: str, kind: str, split: str, **more: Any) -> SweepPoint:
    values: dict[str, Any] = {
        "point_id": f"{key}/{split}", "group": f"{key.rsplit('/', 1)[0]}/{split}", "kind": kind, "variant": "",
        "arm": "random" if "random" in key else "ranked", "draw": None, "n_neurons": None, "layer": None, "layers": (),
        "strength": None, "factor": None, "split": split, "n_prompts": 12, "logit_diff_mean": 0.0, "low": None,
        "high": None, "delta_mean": -2.0, "delta_low": None, "delta_high": None, "n_broken": 0, "neurons": (),
        "pair_ids": (), "logit_diffs": (), "deltas": (),
    }  # fmt: skip
    return SweepPoint(**(values | more))


GROUPS = {
    "dose": "dose/neurons/n=20/factor=0",
    "factor": "factor/neurons/n=20/factor=-2",
    "patch": "patch/patch/n=20",
    "heads": "heads/heads/n=20/factor=0",
    "window": "window/difference_of_means_relative/layer=3/strength=-1",
    "strength": "strength/difference_of_means_relative/layer=3/strength=-1",
}


def edited(
    kind: str = "dose", stage: str = "causal", *, n_yes: int | None = 11, random: int | None = 0, broken: int = 0,
    beats: bool = True, draws: int = 5, n: int = 12,
) -> meaning.Tested:  # fmt: skip
    """A sweep with one point on discovery and held-out prompts; `n_yes` None: no answers, `random` None: no draws."""
    request = SweepRequest(run_id="0" * 12, kind=kind, responses=n_yes is not None)  # type: ignore[arg-type]
    group = GROUPS.get(kind, "")
    count = 20 if kind in (*NEURON_KINDS, "heads") else None
    rows = (
        [comparison(group, split=s, n=count, beats=beats, draws=draws) for s in ("discovery", "heldout")]
        if group
        else []
    )
    where: dict[str, Any] = {"n_neurons": count}
    if kind in INJECTION_KINDS:
        where = {"layer": 3, "strength": -1.0}
    arms = ["ranked", *(["random-0"] if random is not None else [])]
    points = [point(f"{group}/{arm}", kind, s, **where) for arm in arms for s in ("discovery", "heldout")]
    if kind in ("layers", "held"):
        variants = ("ffn", "attention") if kind == "layers" else ("free", "attention held", "ffn held")
        points = [
            point(f"{kind}/{v}/layer={i}/ranked", kind, "heldout", layer=i, variant=v, delta_mean=-1.0 * i - len(v))
            for v in variants
            for i in range(3)
        ]
    rates = []
    for split in ("discovery", "heldout") if n_yes is not None and group else ():
        for arm, k in zip(arms, (n_yes, random), strict=False):
            for name in (FORMAT_CHANGE, SWITCHED):
                rates.append(outcome(f"{group}/{arm}", name, int(k or 0), n, split))
            rates.append(outcome(f"{group}/{arm}", IS_BROKEN, broken, n, split))
    kept = {
        "n_layers": 8, "d_mlp": 384, "ranking": "ablation" if kind in NEURON_KINDS else None, "stage": stage,
        "generation": {} if n_yes is None else {"n_seeds": 1}, "collateral": [],
        "controls": {"n_draws": draws, "comparisons": rows},
    }  # fmt: skip
    return meaning.Tested(Sweep("1" * 12, "0" * 12, NOW, request, kept), tuple(points), tuple(rates))


def sound(told: Meaning) -> None:
    """What holds for every paragraph."""
    assert told.headline.endswith(".")
    assert len(told.headline) < 190
    assert 3 <= len(told.parts) <= 6
    assert told.next_step.startswith("Next: ")
    assert len(told.text.split()) < 330
    for text in (told.headline, told.next_step, *(part.text for part in told.parts)):
        assert text == text.strip()
        assert text.endswith(".")
        assert "  " not in text
        assert ".." not in text
        assert not re.search(r"\b(None|nan|inf)\b", text)
    assert told.parts[-1].topic == "Not shown"


# ----------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(("structure", "stage"), list(itertools.product(STRUCTURES, STAGES)))
def test_every_run_gets_a_sound_paragraph_that_claims_no_more_than_its_stage(structure: str, stage: str) -> None:
    tested: tuple[list[meaning.Tested], ...] = (
        [],
        [edited(stage=stage)],
        [edited(stage=stage, n_yes=0)],
        [edited(stage=stage, n_yes=None)],
    )
    for flipped, answers, sweeps in itertools.product((38, 5), (None, 78, 40), tested):
        written = None if answers is None else {"n_answers": 80, "n_agree": answers, "agreement_interval": [0.5, 0.9]}
        run = run_of(stage, structure=structure, n_flipped=flipped, generation=written, ratio=0.5)
        told = run_meaning(run, SAFETY, sweeps)
        sound(told)
        claims = "this is a cause" in told.text
        assert claims == (stage in ("causal", "replicated") and bool(sweeps))
        assert ("repeats on prompts" in told.text) == (stage == "replicated" and bool(sweeps))
        if flipped == 5:
            assert told.headline.startswith("These prompts do not tell")
            assert told.page == "start"
            assert "FFN/Skip" not in told.text  # no structure is read from a set that does not flip
        if not sweeps:
            assert "nothing here shows a cause" in told.text


def test_a_run_that_lacks_everything_still_gets_words() -> None:
    bare = replace(run_of(), summary={})
    sound(run_meaning(bare))
    for name in ("flip_interval", "coverage", "logit_diff", "additive", "ffn_skip", "null", "layers", "verdict"):
        for value in (None, {}):
            sound(run_meaning(run_of(**{name: value}), SAFETY, [edited()]))


def test_the_sides_are_named_in_the_behaviours_own_words() -> None:
    text = run_meaning(run_of(), SAFETY).text
    assert "towards starts of a refusal after the original prompt" in text
    assert "towards starts of an answer that goes along after the changed one" in text
    same = run_of(logit_diff={"original_mean": 3.0, "perturbed_mean": 1.0})
    assert "towards starts of a refusal after both" in run_meaning(same, SAFETY).text


def test_few_pairs_low_coverage_and_equal_prompts_are_said() -> None:
    text = run_meaning(run_of(n_pairs=6, n_flipped=6), SAFETY).text
    assert "only 6 pairs were measured" in text
    one = run_meaning(run_of(n_pairs=1, n_flipped=1), SAFETY).text
    assert "only 1 pair was measured" in one
    text = run_meaning(run_of(coverage={"original": 0.2, "perturbed": 1.0}, n_identical=2), SAFETY).text
    assert "on 80 % of the original prompts the model would start with a word that is not watched here" in text
    assert "in 2 pairs both prompts are the same" in text


def test_an_interval_that_crosses_a_limit_is_said() -> None:
    crossing = run_of(ffn_skip={"mean": 0.19, "interval": [0.18, 0.22]})
    assert "The interval crosses a limit" in run_meaning(crossing, SAFETY).text
    clear = run_of(ffn_skip={"mean": 0.1, "interval": [0.08, 0.12]})
    assert "crosses a limit" not in run_meaning(clear, SAFETY).text


def test_parts_that_pull_apart_are_told_in_logits_and_not_as_shares() -> None:
    apart = {"measured_mean": -2.0, "ffn_mean": 3.0, "carried_by": {"attention": -5.0}}
    text = run_meaning(run_of(additive=apart), SAFETY).text
    assert (
        "Of the change of −2.00 logits, counted directly, feed-forward layers (FFN) write +3.00 and attention −5.00"
        in text
    )
    assert "write 85 % of the change and attention 14 %" in run_meaning(run_of(), SAFETY).text


def test_a_test_that_contradicts_the_reading_says_so() -> None:
    routing = run_meaning(run_of("causal"), SAFETY, [edited()]).text
    assert "more than such a ratio lets one expect" in routing
    opposition = run_of("causal", structure="opposition", ratio=0.6)
    assert "less than such a ratio lets one expect" in run_meaning(opposition, SAFETY, [edited(n_yes=0)]).text
    assert "such a ratio lets one expect" not in run_meaning(opposition, SAFETY, [edited()]).text


def test_a_ratio_near_a_limit_keeps_the_digit_that_decides() -> None:
    assert (
        "FFN/Skip 0.199, 95 % interval 0.18 to 0.22"
        in run_meaning(run_of(ffn_skip={"mean": 0.199, "interval": [0.181, 0.219]}), SAFETY).text
    )
    assert "FFN/Skip 0.25" in run_meaning(run_of(structure="undetermined", ratio=0.2501), SAFETY).text


def test_a_cause_of_the_score_alone_is_told_apart_from_a_cause_of_answers() -> None:
    words = "It is a cause of the first word's score, not of what is said."
    assert words in run_meaning(run_of("replicated"), SAFETY, [edited(n_yes=0)]).text
    some = run_meaning(run_of("replicated"), SAFETY, [edited(n_yes=9, random=9)]).text
    assert "that it is one of what is said is not shown" in some
    for sweeps in ([edited()], [edited(n_yes=0), edited("window")], [edited(n_yes=None)], [edited(n_yes=9, random=9)]):
        assert words not in run_meaning(run_of("replicated"), SAFETY, sweeps).text


def test_the_next_step_is_the_first_thing_that_is_missing() -> None:
    def page(run: Run, *sweeps: meaning.Tested, kinds: tuple[str, ...] = ()) -> str:
        return run_meaning(run, SAFETY, sweeps, kinds).page

    assert page(run_of(n_flipped=3)) == "start"
    assert page(run_of(n_pairs=6, n_flipped=6)) == "start"
    assert page(run_of(coverage={"original": 0.1, "perturbed": 1.0})) == "probe"
    assert page(run_of(generation={"n_answers": 80, "n_agree": 40})) == "probe"
    assert page(run_of()) == "dose"
    assert page(run_of(), edited(draws=2)) == "dose"
    assert page(run_of("causal"), edited(n_yes=None)) == "dose"
    assert page(run_of(structure="opposition"), edited(n_yes=0)) == "window"
    assert page(run_of("causal"), edited(), edited("window")) == "controls"
    every = ("dose", "window", "heads", "layers", "held")
    assert page(run_of("replicated"), edited(), edited("window"), kinds=every) == "compare"


# --------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize(("kind", "stage"), list(itertools.product(KINDS, STAGES)))
def test_every_sweep_gets_a_sound_paragraph_that_claims_no_more_than_its_stage(kind: str, stage: str) -> None:
    for n_yes, random, beats in itertools.product((None, 0, 11), (None, 0, 9), (True, False)):
        told = sweep_meaning(run_of(stage), edited(kind, stage, n_yes=n_yes, random=random, beats=beats))
        sound(told)
        sure = next(part.text for part in told.parts if part.topic == "How sure")
        proves = "moves further than under every random edit" in sure
        if kind not in (*NEURON_KINDS, *INJECTION_KINDS):
            assert "proves no cause" in sure
        else:
            assert proves == (stage in ("causal", "replicated") and beats)
        assert ("again on held-out prompts" in sure) == (proves and stage == "replicated")


@pytest.mark.parametrize("kind", ["dose", "window"])
def test_an_effect_on_answers_heads_the_paragraph_only_where_it_beats_the_draws(kind: str) -> None:
    run = run_of("causal")
    assert "11 of 12 held-out answers" in sweep_meaning(run, edited(kind)).headline
    for other in (edited(kind, n_yes=9, random=9), edited(kind, random=None), edited(kind, n_yes=0)):
        assert "11 of 12" not in sweep_meaning(run, other).headline
        assert "of 12 held-out answers" not in sweep_meaning(run, other).headline
    assert "the answers do not follow" in sweep_meaning(run, edited("dose", n_yes=0)).headline
    some = sweep_meaning(run, edited(kind, n_yes=9, random=9))
    assert "do not follow" not in some.text, "nine of twelve changed"
    assert "the answers change too, but not clearly more often than under random edits" in some.headline


def test_only_the_score_moved_is_said_in_so_many_words() -> None:
    told = sweep_meaning(run_of("causal"), edited(n_yes=0)).text
    assert "0 % of the 12 held-out answers change class" in told
    assert "the logit difference moves beyond chance, the answers do not follow" in told


def test_broken_answers_and_few_answers_are_said() -> None:
    assert "75 % of the answers are empty or broken then" in sweep_meaning(run_of(), edited(broken=9)).text
    assert "empty or broken" not in sweep_meaning(run_of(), edited(broken=0)).text
    assert "2 answers are too few to be sure" in sweep_meaning(run_of(), edited(n_yes=2, n=2)).text


def test_fewer_draws_than_a_proof_needs_are_said() -> None:
    told = sweep_meaning(run_of(), edited(draws=2, beats=False, stage="qualified"))
    assert "fewer than the 5 that a proof needs" in told.text
    assert told.page == "dose"


def test_layers_and_held_parts_are_compared_with_each_other() -> None:
    layers = sweep_meaning(run_of(), edited("layers")).text
    assert "−11.00 logits without attention of layer 2 and −5.00 logits without the FFN of layer 2" in layers
    held = sweep_meaning(run_of(), edited("held")).text
    assert "with later attention held" in held
    assert "with later FFNs held" in held


# ------------------------------------------------------------------------------------------------------- from a file


def test_a_stored_run_without_sweeps_is_told_and_the_report_prints_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from pprobe_core.report import run_text

    with Store(tmp_path / "runs.duckdb") as store:
        run_id = store.save_run(result_by_hand())
        told = meaning_of_run(store, run_id)
        sound(told)
        assert told.lines()[0] == "What this means"
        assert "\n".join(told.lines()) in run_text(store, run_id)


def test_recorded_runs_and_sweeps_are_told_without_contradicting_their_stage(recorded_store: Store) -> None:
    runs = recorded_store.runs().drop_duplicates(["circuit", "model"]).head(12)
    for run_id, stage in zip(runs["run_id"], runs["stage"], strict=True):
        told = meaning_of_run(recorded_store, str(run_id))
        sound(told)
        assert ("this is a cause" in told.text) == (stage in ("causal", "replicated"))
    sweeps = recorded_store.sweeps().drop_duplicates(["kind"])
    for sweep_id in sweeps["sweep_id"]:
        sound(meaning_of_sweep(recorded_store, str(sweep_id)))


def test_a_paragraph_tells_of_the_sweep_whose_answers_are_as_independent_as_its_prompts() -> None:
    def swept(name: str, n_seeds: int, answered: bool, kind: str = "dose") -> Sweep:
        request = SweepRequest("0" * 12, kind=kind, n_seeds=n_seeds)  # type: ignore[arg-type]
        return Sweep(name, "0" * 12, NOW, request, {"generation": {"n_answers": 60} if answered else None})

    five, bare, one = swept("five", 5, True), swept("bare", 1, False), swept("one", 1, True)
    window = swept("window", 1, False, "window")
    assert meaning.to_tell_of([five, bare, one, window]) == [one, window]
    assert meaning.to_tell_of([bare, five]) == [five]
    assert meaning.to_tell_of([bare, swept("heads", 1, True, "heads")]) == [bare]
    assert meaning.to_tell_of([]) == []
