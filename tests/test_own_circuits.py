"""A user's own circuits: read beside the product's, kept by version, checked, and never able to break anything else."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pprobe_core import settings
from pprobe_core.circuits import by_example, editor, own_sets
from pprobe_core.circuits.library import load_circuit, load_circuits, own_folder, parse_circuit, unreadable
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.responses import BROKEN, UNFINISHED, classify, side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.comparison import CompareRequest, checked_comparison, units
from pprobe_core.errors import BadRequest
from pprobe_core.probing.strings import check_strings
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.probing.validity import confusion, missed_tokens, unsorted_answers, validity, wasted_examples
from pprobe_core.probing.verdict import judge
from tests.test_verdict import evidence

DATA = Path(__file__).parent / "data"
GREETING: dict[str, Any] = {
    "circuit_id": "greeting",
    "title": "Polite greeting",
    "description": "Whether the model greets back.",
    "question": "Which neurons make the model greet back?",
    "perturbation": "given",
    "perturbation_text": "The greeting is left out.",
    "target_meaning": "starts of a greeting",
    "control_meaning": "starts of the bare answer",
    "target": ["Hello", "Hi"],
    "control": ["The", "It"],
    "response_rule": "by_example",
    "response_classes": [
        {
            "name": "greets",
            "title": "Greets back",
            "side": "target",
            "examples": ["Hello", "Hi there, nice to meet you."],
        },
        {"name": "bare", "title": "Answers at once", "side": "control", "examples": ["The capital is Rome.", "It is"]},
    ],
}
GREETS, BARE = GREETING["response_classes"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (GREETING | fields).items() if value is not None}


# Files -------------------------------------------------------------------------------------------------------------


def test_a_saved_circuit_stands_behind_the_products_and_its_hash_is_over_the_files_bytes() -> None:
    saved = editor.save(GREETING)
    known = load_circuits()
    assert list(known)[-1] == "greeting"
    assert known["greeting"].own
    assert not any(circuit.own for name, circuit in known.items() if name != "greeting")
    raw = (own_folder() / "greeting.yaml").read_bytes()
    assert saved.sha256 == hashlib.sha256(raw).hexdigest()
    assert saved.address == f"greeting@{saved.sha256[:12]}"
    assert load_circuit("greeting") == load_circuit(saved.address) == saved
    assert load_circuit("code").address == "code"


def test_fields_survive_the_file_and_the_same_fields_give_the_same_bytes() -> None:
    for circuit in load_circuits(settings.CIRCUITS).values():
        document = editor.copy_of(circuit, "general")
        made = editor.made(document)
        assert editor.document_of(made) == document
        assert editor.written(document) == editor.written(editor.document_of(made))
        kept = ("target", "control", "response_rule", "response_classes", "outcomes", "sweep", "same_content")
        assert [getattr(made, name) for name in kept] == [getattr(circuit, name) for name in kept]


def test_a_copy_brings_the_strings_of_the_set_it_starts_from() -> None:
    assert editor.copy_of(load_circuit("safety_refusal"), "mini")["target"] == ["Sorry"]
    assert len(editor.copy_of(load_circuit("safety_refusal"), "general")["target"]) == 5


def test_what_was_measured_with_an_earlier_version_keeps_its_meaning() -> None:
    first = editor.save(GREETING)
    second = editor.save(changed(target=["Hello"]))
    assert first.address != second.address
    assert load_circuit(first.address).target == ("Hello", "Hi")
    assert load_circuit("greeting").target == ("Hello",)
    editor.delete("greeting")
    assert "greeting" not in load_circuits()
    assert load_circuit(first.address).target == ("Hello", "Hi")
    assert load_circuit(second.address).target == ("Hello",)
    with pytest.raises(BadRequest, match="no circuit called 'greeting'"):
        load_circuit("greeting")
    with pytest.raises(BadRequest, match="not on this computer any more"):
        load_circuit("greeting@000000000000")


def test_a_version_edited_by_hand_on_the_disk_is_another_version() -> None:
    first = editor.save(GREETING)
    path = own_folder() / "greeting.yaml"
    path.write_text(path.read_text("utf-8").replace("Polite greeting", "Impolite greeting"), "utf-8")
    assert load_circuit("greeting").title == "Impolite greeting"
    assert load_circuit(first.address).title == "Polite greeting"
    editor.delete("greeting")  # keeps what was never saved by us, too


def test_a_checked_circuit_is_found_by_its_version_and_stands_in_no_list() -> None:
    circuit = editor.keep_version(GREETING)
    assert "greeting" not in load_circuits()
    assert not editor.drafts()
    assert load_circuit(circuit.address) == circuit


def test_a_draft_stands_in_no_list_and_goes_when_it_is_saved() -> None:
    editor.save_draft(GREETING)
    assert list(editor.drafts()) == ["greeting"]
    assert "greeting" not in load_circuits()
    assert editor.new_id("Greeting") == "greeting_2"
    drafted = editor.export_bytes("greeting")
    editor.save(GREETING)
    editor.save_draft(changed(title="Rude greeting"))
    assert b"Rude" not in editor.export_bytes("greeting"), "what is saved is handed on, not what is being changed"
    assert b"Rude" in editor.export_bytes("greeting", draft=True)
    assert b"Polite" in drafted
    editor.save(GREETING)
    assert not editor.drafts()
    assert "greeting" in load_circuits()


def test_a_damaged_own_file_keeps_nothing_else_from_being_used() -> None:
    editor.save(GREETING)
    (own_folder() / "bad.yaml").write_text("title: [", "utf-8")
    (own_folder() / "safety_refusal.yaml").write_bytes(editor.written(changed(circuit_id="safety_refusal")))
    assert "greeting" in load_circuits()
    assert "bad" not in load_circuits()
    assert not load_circuits()["safety_refusal"].own
    assert set(unreadable()) == {"bad.yaml", "safety_refusal.yaml"}
    assert "comes with pprobe" in unreadable()["safety_refusal.yaml"]


def test_an_id_is_made_of_the_titles_letters_and_is_never_taken() -> None:
    assert editor.new_id("Höflicher Gruß!") == "hoflicher_gru"
    assert editor.new_id("Safety refusal") == "safety_refusal_2"
    assert editor.new_id("礼貌") == "own"
    assert editor.new_id("123") == "own_123"
    assert editor.new_id("../../etc/passwd") == "etc_passwd"
    assert len(editor.new_id("a" * 200)) <= 40


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"colour": "red"}, "'colour' is not known"),
        ({"title": None}, "'title' is missing"),
        ({"title": "a" * 81}, "at most 80"),
        ({"title": "bell \x07"}, "control character"),
        ({"circuit_id": "code"}, "comes with pprobe"),
        ({"circuit_id": "../evil"}, "small letters, digits"),
        ({"circuit_id": "con.yaml"}, "small letters, digits"),
        ({"circuit_id": ["greeting"]}, "small letters, digits"),
        ({"target": ["a"] * 2}, "lists 'a' twice"),
        ({"target": [str(n) for n in range(51)]}, "50 strings"),
        ({"target": ["x" * 101]}, "100 characters"),
        ({"expected_structure": "unknown"}, "or left out"),
        ({"response_rule": "code"}, "three keys name, title and side"),
        ({"response_classes": []}, "needs a class that stands for the target side"),
        ({"response_classes": [GREETS]}, "stands for the control side"),
        ({"response_classes": [{**GREETS, "name": "other"}]}, "always there"),
        ({"response_classes": [{**GREETS, "name": "A b"}]}, "small letters"),
        ({"response_classes": [GREETS, GREETS, BARE]}, "names the class 'greets' twice"),
        ({"response_classes": [{**GREETS, "examples": []}, BARE]}, "1 to 200 examples"),
        ({"response_classes": [{**GREETS, "examples": [" "]}, BARE]}, "without a letter"),
        (
            {"response_classes": [GREETS, {**BARE, "examples": ["hello!"]}]},
            "it can stand for one class",
        ),
    ],
)  # fmt: skip
def test_wrong_fields_are_refused_with_a_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as error:
        editor.save(changed(**fields))
    assert said in str(error.value)
    assert not own_folder().exists() or not list(own_folder().rglob("*.yaml"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"a: &x [1]\nb: *x\n", "references"),
        (b"&a [*a]", "references"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"title: a\ntitle: b\n", "stands twice"),
        (b"[" * 5000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        (b"just words", "expected a mapping"),
        (b"circuit_id: 2026-99-99\n", "not valid YAML"),
        (b"a: " + b"x" * 300_000, "too large"),
        (b"", "expected a mapping"),
    ],
)
def test_hostile_files_are_refused_with_a_sentence(raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as error:
        editor.import_circuit("../../evil\x00.yaml", raw)
    assert said in str(error.value)
    assert "/" not in str(error.value).split(":")[0]


def test_an_export_can_be_imported_elsewhere_and_keeps_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = editor.save(GREETING)
    raw = editor.export_bytes("greeting")
    editor.save(changed(title="Another"))
    assert editor.export_bytes(saved.address) == raw
    with pytest.raises(BadRequest, match="another behaviour with the id 'greeting'"):
        editor.import_circuit("greeting.yaml", raw)
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "elsewhere"))
    assert editor.import_circuit("whatever name.yaml", raw) == saved
    assert editor.import_circuit("again.yaml", raw) == saved


def test_the_export_of_a_shipped_circuit_is_a_copy_that_can_be_imported() -> None:
    imported = editor.import_circuit("code.yaml", editor.export_bytes("code"))
    assert imported.own
    assert imported.circuit_id == "code_or_prose_copy"


def test_only_own_circuits_can_be_deleted() -> None:
    for name in ("code", "nobody", "../greeting", "*"):
        with pytest.raises(BadRequest):
            editor.delete(name)
    assert (settings.CIRCUITS / "code.yaml").is_file()


# Pairs -------------------------------------------------------------------------------------------------------------


def test_the_pairs_of_a_shipped_circuit_start_a_set_of_an_own_one() -> None:
    for name in ("safety_refusal", "tool_use", "factual_recall", "math"):
        base = load_circuit(name)
        circuit = editor.keep_version(editor.copy_of(base, "mini"))
        kept = own_sets.add_set(circuit, "Taken along", editor.pairs_of(base, "mini"), own_sets.Origin("file", "mini"))
        assert load_prompt_set(circuit, kept.name).pairs == load_prompt_set(base, "mini").pairs
        assert [s.name for s in own_sets.list_sets(circuit.circuit_id)] == [kept.name]


def test_typed_pairs_leave_empty_rows_out_and_guess_the_word_to_swap() -> None:
    rows = [{"original": "Hello! Who are you?", "perturbed": "Who are you?"}, {"original": "", "perturbed": None}]
    assert len(editor.typed_pairs(rows, editor.made(GREETING)).lines) == 1
    swap = editor.made(changed(perturbation="bpe_swap"))
    lines = editor.typed_pairs([{"original": "How do I build a bomb?", "keyword": ""}], swap).lines
    assert lines[0]["keyword"] in lines[0]["original"]
    for none in ([], [{"original": " ", "perturbed": ""}], [{"perturbed": "x"}], [{"original": "x"}]):
        with pytest.raises(BadRequest):
            editor.typed_pairs(none, editor.made(GREETING))


def test_a_pasted_list_becomes_rows() -> None:
    columns = ("original", "perturbed")
    assert editor.pasted_rows("a\tb\n\n c | d | e \nf", columns) == [
        {"original": "a", "perturbed": "b"},
        {"original": "c", "perturbed": "d | e"},
        {"original": "f"},
    ]


# Where own circuits meet the rest ----------------------------------------------------------------------------------


def test_a_request_names_the_version_and_a_shipped_circuit_by_its_id_alone() -> None:
    from pprobe_core.jobs import checked

    circuit = editor.save(GREETING)
    rows = [{"original": f"Hello! What is {n}?", "perturbed": f"What is {n}?"} for n in range(3)]
    name = own_sets.add_set(circuit, "Three", editor.typed_pairs(rows, circuit), own_sets.Origin("paste", "here")).name
    assert checked(ProbeRequest("mini-qwen3", "greeting", name)).circuit == circuit.address
    assert checked(ProbeRequest("mini-qwen3", circuit.address, name)).circuit == circuit.address
    assert checked(ProbeRequest("mini-qwen3", "code")).circuit == "code"
    with pytest.raises(BadRequest, match="has no prompt set 'mini'"):
        checked(ProbeRequest("mini-qwen3", "greeting", "mini"))


def add_greetings(title: str, n: int) -> str:
    """A set of n pairs for the saved circuit GREETING; its name."""
    circuit = load_circuit("greeting")
    rows = [{"original": f"Hello! What is {i}?", "perturbed": f"What is {i}?"} for i in range(n)]
    return own_sets.add_set(circuit, title, editor.typed_pairs(rows, circuit), own_sets.Origin("paste", "here")).name


MODELS = ("mini-qwen3", "mini-llama")


def test_a_comparison_takes_own_circuits_with_a_set_of_theirs() -> None:
    circuit = editor.save(GREETING)
    with pytest.raises(BadRequest, match="'greeting' has no prompts yet"):
        checked_comparison(CompareRequest(MODELS, ("code", "greeting")))
    three, four = add_greetings("Three", 3), add_greetings("Four", 4)
    newest = own_sets.list_sets("greeting")[0].name
    asked = checked_comparison(CompareRequest(MODELS, ("code", "greeting"), bases=False))
    assert asked.circuits == ("code", circuit.address)
    assert asked.own_sets == (f"greeting:{newest}",)
    assert checked_comparison(asked) == asked
    assert [(u.kind, u.circuit, u.probe.prompts) for u in units(asked) if u.model == "mini-llama"] == [
        *((kind, "code", "mini") for kind in ("probe", "dose", "window")),
        *((kind, circuit.address, newest) for kind in ("probe", "dose", "window")),
    ]
    other = three if newest == four else four
    named = checked_comparison(CompareRequest(MODELS, ("greeting",), own_sets=(other,)))
    assert {unit.probe.prompts for unit in units(named)} == {other}


def test_own_sets_of_a_comparison_are_of_its_circuits_and_one_for_each() -> None:
    editor.save(GREETING)
    three, four = add_greetings("Three", 3), add_greetings("Four", 4)
    for sets, why in (
        ((three, four), "Two prompt sets of the circuit 'greeting'"),
        (("no-such-set-0123456789ab",), "no prompt set"),
    ):
        with pytest.raises(BadRequest, match=why):
            checked_comparison(CompareRequest(MODELS, ("greeting",), own_sets=sets))
    with pytest.raises(BadRequest, match="'Three' is of the circuit 'greeting', which is not compared"):
        checked_comparison(CompareRequest(MODELS, ("code",), own_sets=(three,)))


def test_an_own_set_takes_the_place_of_a_shipped_circuits_set_for_every_model() -> None:
    code = load_circuit("code")
    rows = [{"original": f"Write a function that adds {i}.", "perturbed": f"Say who adds {i}."} for i in range(3)]
    name = own_sets.add_set(code, "Mine", editor.typed_pairs(rows, code), own_sets.Origin("paste", "here")).name
    asked = checked_comparison(CompareRequest(MODELS, ("code", "math"), own_sets=(name,), bases=False, sweeps=()))
    assert [(u.circuit, u.probe.prompts) for u in units(asked)] == 2 * [("code", name), ("math", "mini")]


def test_a_verdict_claims_nothing_of_the_paper_about_an_own_circuit() -> None:
    for structure in ("read_out", "routing", "opposition", None):
        own = editor.made(changed(expected_structure=structure))
        said = " ".join(judge(evidence(), own).reasons) + judge(evidence(), own).recommendation
        assert "In the paper this circuit" not in said


def test_strings_of_a_request_are_checked_against_an_own_circuit_too() -> None:
    own = editor.made(changed(per_pair_observable=True, target=[], control=[]))
    with pytest.raises(BadRequest, match="brings target and control strings of its own"):
        check_strings(own, ("a",), ("b",))


# Classes by example ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Hello! The capital is Rome.", "greets"),
        ("HELLO", "greets"),
        ("**Hi there**, nice to meet you", "greets"),
        ("Hi there, so nice to meet you both.", "greets"),
        ("It is Rome.", "bare"),
        ("The capital is Oslo.", "bare"),
        ("Helloworld is a program.", "other"),
        ("Bananas grow on tall plants in warm places.", "other"),
        ("", BROKEN),
        ("!!! ??? ###", BROKEN),
        ("Hello Hello Hello Hello Hello Hello Hello Hello Hello Hello", BROKEN),
        ("<think>\nHello", UNFINISHED),
        ("<think>\nThe\n</think>\n\nHello!", "greets"),
    ],
)
def test_an_answer_gets_the_class_of_the_example_it_begins_with_or_is_nearest_to(answer: str, expected: str) -> None:
    assert classify(editor.made(GREETING), answer) == expected


def test_the_longest_opening_decides_and_classes_stand_for_their_side() -> None:
    classes = [
        {"name": "yes", "title": "Yes", "side": "target", "examples": ["Yes"]},
        {"name": "yes_but", "title": "Yes, but", "side": "other", "examples": ["Yes, but"]},
        {"name": "no", "title": "No", "side": "control", "examples": ["No", "不", "```"]},
    ]
    circuit = editor.made(changed(response_classes=classes))
    assert classify(circuit, "Yes, that is so.") == "yes"
    assert classify(circuit, "Yes, but not here.") == "yes_but"
    assert classify(circuit, "不是这样。") == "no"
    assert classify(circuit, "```python\nprint(1)\n```") == "no"
    sides = {c.name: side_of(circuit, c.name, "original") for c in circuit.response_classes}
    assert sides == {"yes": "target", "yes_but": "other", "no": "control"} | dict.fromkeys(
        ("other", BROKEN, UNFINISHED), "other"
    )


def test_an_answer_like_two_classes_gets_neither() -> None:
    guess = by_example.decide({"a": ("the red house",), "b": ("the red mouse",)}, "a red louse")
    assert guess.class_name == by_example.OTHER
    assert guess.margin < by_example.MIN_MARGIN


def test_sorting_is_deterministic_and_takes_any_text() -> None:
    circuit = editor.made(GREETING)
    for text in (
        "\u202eolleH",
        "🙂" * 50,
        "a" * 100_000,
        "\x00\ud7ff",
        "<script>alert(1)</script>",
        "مرحبا بك",
        "{}[]",
    ):
        assert classify(circuit, text) == classify(circuit, text)
    assert by_example.decide({}, "x").class_name == by_example.OTHER


def test_similarity_is_symmetric_one_for_the_same_opening_and_zero_for_nothing_in_common() -> None:
    one, two = by_example.opening("the cat sat on the mat"), by_example.opening("the dog sat on the log")
    assert by_example.similarity(one, two) == by_example.similarity(two, one)
    assert by_example.similarity(one, one) == 1
    assert by_example.similarity(one, by_example.opening("zzz qqq")) == 0
    assert by_example.similarity(one, ()) == 0


def test_leave_one_out_counts_each_example_once_and_finds_the_odd_one() -> None:
    classes = [
        {"name": "no", "title": "No", "side": "target",
         "examples": ["I cannot help with that.", "I cannot help you.", "I cannot help with it.", "Purple rain on"]},
        {"name": "yes", "title": "Yes", "side": "control",
         "examples": ["Sure, here is how it goes.", "Sure, here is how to do it.", "Sure, here is how"]},
    ]  # fmt: skip
    found = confusion(editor.made(changed(response_classes=classes)))
    assert found.n == 7
    assert found.counts.to_numpy().sum() == 7
    assert found.counts.loc["no", "no"] == 3
    assert found.counts.loc["yes", "yes"] == 3
    assert found.mistaken == (("Purple rain on", "no", "other"),)
    assert found.n_right == 6
    assert confusion(editor.made(GREETING)).n_openings == 2, "opening phrases say nothing without themselves"
    assert found.share == pytest.approx(6 / 7)


def test_an_example_that_counts_as_broken_is_named() -> None:
    odd = [{**GREETS, "examples": ["Hello", "ha ha ha ha ha ha ha ha ha ha ha ha"]}]
    circuit = editor.made(changed(response_classes=[*odd, BARE]))
    assert wasted_examples(circuit) == [("ha ha ha ha ha ha ha ha ha ha ha ha", BROKEN)]
    assert wasted_examples(editor.made(GREETING)) == []


def test_on_answers_worded_as_differently_as_possible_few_are_sorted_wrongly() -> None:
    """Ten labelled answers a class as examples, sorting other people's answers: docs/circuits.md states the shares."""
    right, other, n = by_example_shares(10)
    assert n > 300
    assert 1 - right - other < 0.08  # wrong
    assert right > 0.33


def by_example_shares(n_examples: int, circuits: tuple[str, ...] = ()) -> tuple[float, float, int]:
    """Shares of fresh answers that get their class, and that get none, from the first examples of the grown set."""
    always = ("broken", "unfinished", "other")
    rows = {
        name: [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("responses", "responses_fresh")
    }
    wanted = circuits or ("safety_refusal", "sycophancy", "code", "chain_of_thought", "tool_use")
    right = other = n = 0
    for circuit in wanted:
        examples: dict[str, list[str]] = {}
        for row in rows["responses"]:
            if row["circuit"] == circuit and row["label"] not in always:
                examples.setdefault(row["label"], []).append(row["text"])
        given = {label: texts[:n_examples] for label, texts in examples.items()}
        for row in rows["responses_fresh"]:
            if row["circuit"] == circuit and row["label"] in given:
                got = by_example.decide(given, row["text"]).class_name
                n += 1
                right += got == row["label"]
                other += got == by_example.OTHER
    return right / n, other / n, n


# The check ---------------------------------------------------------------------------------------------------------


def a_run(circuit: Circuit, n: int = 20, **changes: Any) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Summary, pairs and first tokens of a run in which all goes well, unless told otherwise."""
    answers = changes.pop("answers", ("Hello there", "The answer is"))
    tokens = changes.pop("tokens", (("Hello", "target"), ("The", "control")))
    pairs = pd.DataFrame(
        [
            {
                "pair_id": f"p{i}",
                **{f"response_{c}": text for c, text in zip(("original", "perturbed"), answers, strict=True)},
                **{
                    f"class_{c}": classify(circuit, text)
                    for c, text in zip(("original", "perturbed"), answers, strict=True)
                },
            }
            for i in range(n)
        ]
    )
    first = pd.DataFrame(
        [
            {"pair_id": f"p{i}", "condition": c, "rank": 1, "token": token, "side": side}
            for i in range(n)
            for c, (token, side) in zip(("original", "perturbed"), tokens, strict=True)
        ]
    )
    covered = {
        f"n_{c}": int((first[first["condition"] == c]["side"] != "other").sum()) for c in ("original", "perturbed")
    }
    summary = {
        "n_pairs": n,
        "n_flipped": n,
        "coverage": covered,
        "logit_diff": {"original_mean": 2.0, "perturbed_mean": -3.0, "original_interval": [1.5, 2.5]},
        "generation": {"n_answers": 2 * n, "n_agree": 2 * n},
    }
    return summary | changes, pairs, first


def test_a_run_in_which_all_goes_well_passes_with_numbers_n_and_intervals() -> None:
    circuit = editor.made(GREETING)
    found = validity(circuit, *a_run(circuit))
    assert found.passes
    assert {finding.level for finding in found.findings} == {"good"}
    said = " ".join(finding.text for finding in found.findings)
    assert "20 of 20 pairs (100 %, 95 % interval 84 to 100 %)" in said
    assert "+2.00 logits [+1.50, +2.50]" in said
    assert "40 of 40 answers" in said


def test_pairs_that_do_not_flip_are_refused() -> None:
    circuit = editor.made(GREETING)
    assert validity(circuit, *a_run(circuit, n_flipped=10)).passes
    found = validity(circuit, *a_run(circuit, n_flipped=9))
    assert not found.passes
    assert "9 of 20 pairs" in found.findings[0].text
    assert "At least 50 %" in found.findings[0].text


def test_a_missed_first_token_is_named_with_the_side_its_answers_stand_for() -> None:
    circuit = editor.made(GREETING)
    run = a_run(circuit, tokens=(("Well", "other"), ("The", "control")))
    found = validity(circuit, *run)
    bad = [finding for finding in found.findings if finding.level == "bad"]
    assert [finding.name for finding in bad] == ["First tokens, original prompts"]
    assert "Of 20 prompts 20 start with “Well”: add “Well” to the target side." in bad[0].advice
    assert missed_tokens(run[1], run[2], "original") == [("Well", 20)]
    assert missed_tokens(run[1], run[2], "perturbed") == []


def test_answers_that_disagree_are_refused_and_those_without_a_class_are_named() -> None:
    circuit = editor.made(GREETING)
    run = a_run(
        circuit, answers=("Bananas are yellow fruit", "The answer is"), generation={"n_answers": 40, "n_agree": 20}
    )
    found = validity(circuit, *run)
    bad = [finding for finding in found.findings if finding.level == "bad"]
    assert [finding.name for finding in bad] == ["Written answers"]
    assert "“Bananas are yellow fruit”" in bad[0].advice
    assert "examples of a class" in bad[0].advice
    assert unsorted_answers(circuit, run[1]) == [("Bananas are yellow fruit", 20)]
    without = a_run(circuit, generation=None)
    assert not validity(circuit, *without).passes


def test_too_few_answers_cannot_be_sure_and_few_pairs_are_said() -> None:
    circuit = editor.made(GREETING)
    found = validity(circuit, *a_run(circuit, n=5))
    assert not found.passes
    assert found.findings[0].level == "weak"
    assert "Only 5 pairs" in found.findings[0].text
    assert "too few to be sure" in found.findings[-1].advice
    assert validity(circuit, *a_run(circuit, n=6)).passes


def test_sides_that_lean_the_wrong_way_are_a_hint_and_no_refusal() -> None:
    circuit = editor.made(GREETING)
    other_way = {"original_mean": -2.0, "perturbed_mean": 3.0}
    found = validity(circuit, *a_run(circuit, logit_diff=other_way))
    lead = next(finding for finding in found.findings if finding.name == "Lead")
    assert found.passes
    assert lead.level == "weak"
    assert "swap the two sides" in lead.advice
    same_side = {"original_mean": 2.0, "perturbed_mean": 1.0}
    lead = next(f for f in validity(circuit, *a_run(circuit, logit_diff=same_side)).findings if f.name == "Lead")
    assert lead.level == "weak"
    assert "starts of a greeting" in lead.advice


def test_classes_of_a_pairs_own_answers_change_sides_with_the_prompt() -> None:
    own = editor.made(changed(per_pair_observable=True, target=[], control=[]))
    assert side_of(own, "greets", "perturbed") == "control"
    assert replace(own, per_pair_observable=False).own


def test_yaml_files_hold_plain_text_for_people() -> None:
    editor.save(changed(title="礼貌的问候 🙂"))
    text = (own_folder() / "greeting.yaml").read_text("utf-8")
    assert "礼貌的问候" in text
    assert yaml.safe_load(text)["response_classes"][0]["examples"][0] == "Hello"
    assert parse_circuit(text.encode(), "x", own=True, circuit_id="greeting").title == "礼貌的问候 🙂"
