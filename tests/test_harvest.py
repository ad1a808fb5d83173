"""First tokens taken from the model's own answers: which are proposed, on whose word, and what they cover elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.cli import main
from pprobe_core.models.loading import load_model
from pprobe_core.probing import probe
from pprobe_core.probing.harvest import (
    MAX_STRINGS,
    Harvest,
    harvest,
    harvested_request,
    misses_answers,
    own_pairs,
)
from pprobe_core.probing.types import ProbeRequest, ProbeResult
from pprobe_core.store import Store

SAFETY = load_circuit("safety_refusal")
IDS = {token: number for number, token in enumerate(["Sorry", "No", "Sure", "Here", "Well", "<0xE5>", "I"], start=10)}


def _rows(answers: list[tuple[str, str, str, str, str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs and first tokens from (split, first original, class, first perturbed, class); "I" alone is covered."""
    pairs, tokens = [], []
    for i, (split, original, class_original, perturbed, class_perturbed) in enumerate(answers):
        pairs.append((f"p{i}", split, class_original or None, class_perturbed or None))
        for condition, token in (("original", original), ("perturbed", perturbed)):
            for rank, text in enumerate((token, "Well"), start=1):
                side = "target" if text == "I" else "other"
                tokens.append((f"p{i}", condition, rank, IDS.setdefault(text, len(IDS) + 10), text, 0.5, side))
    return (
        pd.DataFrame(pairs, columns=["pair_id", "split", "class_original", "class_perturbed"]),
        pd.DataFrame(tokens, columns=["pair_id", "condition", "rank", "token_id", "token", "probability", "side"]),
    )


def _harvested(answers: list[tuple[str, str, str, str, str]], own: tuple[str, ...] | None = ()) -> Harvest:
    return harvest(SAFETY, *_rows(answers), own)


REFUSES_THEN_COMPLIES = ("discovery", "Sorry", "refusal", "Sure", "compliance")


def test_first_tokens_go_to_the_side_their_answers_stand_for_most_frequent_first() -> None:
    found = _harvested([REFUSES_THEN_COMPLIES] * 3 + [("discovery", "No", "refusal", "Here", "compliance")] * 2)
    assert (found.target, found.control) == (("Sorry", "No"), ("Sure", "Here"))
    assert [(c.token, c.n_target, c.n_control, c.kept) for c in found.counts] == [
        ("Sorry", 3, 0, "target"), ("Sure", 0, 3, "control"), ("No", 2, 0, "target"), ("Here", 0, 2, "control"),
    ]  # fmt: skip
    assert found.usable


def test_a_token_that_starts_answers_of_both_sides_is_never_proposed() -> None:
    both = [("discovery", "Well", "refusal", "Well", "compliance")] * 4
    found = _harvested([REFUSES_THEN_COMPLIES] * 2 + both)
    assert (found.target, found.control) == (("Sorry",), ("Sure",))
    assert {c.token: c.kept for c in found.counts}["Well"] == "both"
    assert not set(found.target) & set(found.control)


@pytest.mark.parametrize(("n_against", "kept"), [(1, "control"), (2, "both")])
def test_a_clear_majority_of_nine_in_ten_is_enough(n_against: int, kept: str) -> None:
    found = _harvested(
        [("discovery", "Sorry", "refusal", "Sure", "compliance")] * (10 - n_against)
        + [("discovery", "Sure", "refusal", "Sorry", "refusal")] * n_against
    )
    assert {c.token: c.kept for c in found.counts}["Sure"] == kept


def test_answers_that_stand_for_neither_side_suggest_nothing() -> None:
    found = _harvested([REFUSES_THEN_COMPLIES] * 2 + [("discovery", "Here", "disclaimer", "No", "broken")] * 5)
    assert {c.token for c in found.counts} == {"Sorry", "Sure"}


def test_a_token_seen_once_counts_only_where_its_side_has_nothing_else() -> None:
    once = ("discovery", "No", "refusal", "Here", "compliance")
    assert _harvested([REFUSES_THEN_COMPLIES, REFUSES_THEN_COMPLIES, once]).target == ("Sorry",)
    assert _harvested([REFUSES_THEN_COMPLIES, once]).target == ("Sorry", "No")


def test_there_are_at_most_so_many_strings_of_a_side() -> None:
    many = [("discovery", f"word {i}", "refusal", "Sure", "compliance") for i in range(MAX_STRINGS + 5)]
    found = _harvested(many * 2)
    assert len(found.target) == MAX_STRINGS
    assert sum(c.kept == "rare" for c in found.counts) == 5


def test_a_piece_of_a_character_cannot_be_written_and_is_left_out() -> None:
    found = _harvested([REFUSES_THEN_COMPLIES] * 2 + [("discovery", "<0xE5>", "refusal", "Sure", "compliance")] * 3)
    assert found.target == ("Sorry",)
    assert {c.token: c.kept for c in found.counts}["<0xE5>"] == "unwritable"


def test_only_discovery_pairs_suggest_and_only_the_others_are_counted() -> None:
    others = [
        ("validation", "Sorry", "refusal", "Here", "compliance"),
        ("heldout", "I", "refusal", "Sure", "compliance"),
        ("heldout", "I", "refusal", "Here", "compliance"),
    ]
    found = _harvested([REFUSES_THEN_COMPLIES] * 4 + others)
    assert (found.target, found.control) == (("Sorry",), ("Sure",))  # "Here" stands in no discovery answer
    before, after = found.coverage_before, found.coverage_after
    assert (before.n_original, before.n_perturbed, before.n_pairs) == (2, 0, 3)
    assert (after.n_original, after.n_perturbed, after.n_pairs) == (1, 1, 3)
    assert (before.lowest, after.lowest) == (0.0, pytest.approx(1 / 3))
    alone = _harvested([REFUSES_THEN_COMPLIES] * 4)
    assert alone.coverage_after.n_pairs == 0
    assert alone.coverage_after.lowest is None


def test_pairs_with_strings_of_their_own_take_no_part() -> None:
    answers = [REFUSES_THEN_COMPLIES] * 2 + [("discovery", "No", "refusal", "Here", "compliance")] * 2
    assert _harvested(answers, own=("p2", "p3")).target == ("Sorry",)
    everything = _harvested(answers, own=None)
    assert not everything.usable
    assert "strings of its own" in everything.note


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            [("discovery", "Sure", "compliance", "Sure", "compliance")],
            "no target token: 0 answers stand for the target",
        ),
        ([("discovery", "Well", "refusal", "Well", "compliance")], "no target and no control token: 1 answer stands"),
        ([("heldout", "Sorry", "refusal", "Sure", "compliance")], "No pair of this run belongs to the discovery split"),
        ([("discovery", "Sorry", "", "Sure", "")], "has no answers"),
    ],
)
def test_where_nothing_can_be_proposed_it_is_said_why(answers: list[tuple[str, str, str, str, str]], said: str) -> None:
    found = _harvested(answers)
    assert (found.target, found.control, found.usable) == ((), (), False)
    assert said in found.note


def test_the_right_answer_changes_sides_with_the_prompt_where_pairs_bring_their_own() -> None:
    pairs, tokens = _rows([("discovery", "Sorry", "correct", "Sure", "correct")] * 2)
    found = harvest(load_circuit("factual_recall"), pairs, tokens)
    assert (found.target, found.control) == (("Sorry",), ("Sure",))


def test_a_harvest_is_offered_where_either_kind_of_prompt_is_missed() -> None:
    def summary(original: float | None, perturbed: float | None) -> dict[str, object]:
        return {"coverage": {"original": original, "perturbed": perturbed}}

    assert misses_answers(summary(0.49, 1.0))
    assert misses_answers(summary(1.0, 0.0))
    assert not misses_answers(summary(0.5, 0.5))
    assert not misses_answers({})


def test_pairs_of_older_runs_that_do_not_say_whose_strings_they_use_are_left_alone() -> None:
    assert own_pairs({}) == own_pairs({"observable": {"per_pair": False}}) == []
    assert own_pairs({"observable": {"per_pair": True}}) is None
    assert own_pairs({"observable": {"per_pair": True, "own_pairs": ["a"]}}) == ["a"]


# A real model whose answers the general strings miss ---------------------------------------------------------------

MATH = ProbeRequest("mini-qwen3", "math", "general", limit=25)


@pytest.fixture(scope="module")
def two_runs() -> tuple[ProbeResult, ProbeResult, Harvest]:
    """The arithmetic circuit with the general strings on the small model, and again with its own first words."""
    loaded, known = load_model("mini-qwen3", device="cpu"), load_circuit("math")
    pairs = load_prompt_set(known, "general")
    first = probe.run(loaded, known, pairs, MATH)
    found = harvest(known, first.pairs, first.first_tokens, own_pairs(first.summary))
    return first, probe.run(loaded, known, pairs, harvested_request(MATH, first.run_id, found)), found


def test_harvested_tokens_are_the_ones_the_model_says_and_cover_pairs_that_did_not_suggest_them(
    two_runs: tuple[ProbeResult, ProbeResult, Harvest],
) -> None:
    first, again, found = two_runs
    assert misses_answers(first.summary)
    assert found.usable
    assert again.run_id != first.run_id
    observable = again.summary["observable"]
    proposed = {c.token_id for c in found.counts if c.kept in ("target", "control")}
    assert {*observable["target_ids"], *observable["control_ids"]} == proposed
    promised = found.coverage_after
    assert again.summary["coverage"]["unseen"] == {
        "n_original": promised.n_original, "n_perturbed": promised.n_perturbed, "n_pairs": promised.n_pairs,
    }  # fmt: skip
    assert promised.n_perturbed > found.coverage_before.n_perturbed == 0
    assert not again.pairs.equals(first.pairs)


def test_a_harvested_run_says_so_and_rests_on_answers_that_did_not_suggest_its_tokens(
    two_runs: tuple[ProbeResult, ProbeResult, Harvest],
) -> None:
    first, again, _ = two_runs
    assert again.summary["observable"]["strings_from"] == "harvested"
    assert again.summary["observable"]["harvested_from"] == first.run_id
    reasons = " ".join(again.summary["verdict"]["reasons"])
    assert f"harvested from the model's own answers to the discovery prompts in run {first.run_id}" in reasons
    unseen = again.summary["generation"]["unseen"]
    others = again.pairs[again.pairs.split != "discovery"]
    assert unseen["n_answers"] == 2 * len(others) < again.summary["generation"]["n_answers"]
    assert f"{unseen['n_agree']} of {unseen['n_answers']} (" in reasons
    assert "prompts that did not suggest the tokens" in reasons


def test_a_run_of_discovery_pairs_alone_cannot_qualify_its_own_tokens() -> None:
    loaded, known = load_model("mini-qwen3", device="cpu"), load_circuit("math")
    pairs = load_prompt_set(known, "general")
    asked = replace(MATH, limit=3, target=("1",), control=("Sure",), harvested_from="0123456789ab")
    verdict = probe.run(loaded, known, pairs, asked).summary["verdict"]
    assert verdict["stage"] == "observed"
    assert any("No pair is left that did not suggest them" in reason for reason in verdict["reasons"])
    assert any("Every answer took part in suggesting" in reason for reason in verdict["reasons"])


# On the command line -----------------------------------------------------------------------------------------------

COMMAND = ["probe", "--model", "mini-qwen3", "--circuit", "math", "--prompts", "general", "--limit", "25"]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harvest") / "runs.duckdb"


def test_harvest_runs_twice_and_says_so(
    db: Path, two_runs: tuple[ProbeResult, ProbeResult, Harvest], capsys: pytest.CaptureFixture[str]
) -> None:
    first, again, found = two_runs
    assert main([*COMMAND, "--harvest", "--db", str(db), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run_id"] == again.run_id
    assert document["harvest"]["from_run"] == first.run_id
    assert document["harvest"]["used"] is True
    assert tuple(document["harvest"]["target"]) == found.target == tuple(document["request"]["target"])
    assert main([*COMMAND, "--harvest", "--db", str(db)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"First tokens harvested from the model's own answers in run {first.run_id}")
    assert f"0 of {found.coverage_before.n_pairs} perturbed before" in text
    assert f"First tokens (harvested from run {first.run_id}): target {found.target[0]!r}" in text
    with Store(db) as store:
        assert sorted(store.runs()["strings_from"]) == ["circuit", "harvested"]
    assert main(["runs", "list", "--db", str(db)]) == 0
    assert "harvested" in capsys.readouterr().out


def test_nothing_is_harvested_where_the_circuits_tokens_cover_the_answers(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", "--model", "mini-qwen3", "--circuit", "safety_refusal", "--limit", "10", "--db", str(db)]
    assert main([*command, "--harvest"]) == 0
    assert capsys.readouterr().out.startswith("The circuit's own tokens cover the first tokens of most answers")
    assert main([*command, "--harvest", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["harvest"]["used"] is False


def test_given_strings_and_thinking_are_told_in_the_report(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--target", "1|2|4", "--control", "Sure", "--thinking", "off", "--db", str(db)]
    assert main([*COMMAND, *given]) == 0
    text = capsys.readouterr().out
    assert "First tokens (given): target '1', '2', '4'; control 'Sure'" in text
    assert "were given with this run" in text
    assert "Thinking: not a switch of this model's chat template\n" in text
    assert "Note: Thinking was asked to be off" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "1"], "no control strings"),
        (["--target", "|", "--control", "Sure"], "--target names no string"),
        (["--target", "hello there you", "--control", "Sure"], "not one token"),
        (["--harvest", "--target", "1", "--control", "Sure"], "Leave out --harvest"),
        (["--harvest", "--no-generate"], "Leave out --harvest"),
        (["--thinking", "maybe"], "invalid choice"),
    ],
)
def test_what_cannot_be_met_is_one_sentence(
    db: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, *arguments, "--db", str(db)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
