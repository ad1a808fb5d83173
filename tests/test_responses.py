"""Response rules agree with a labelled set of answers, and no wrecked text passes for an answer."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.responses import BROKEN, RULES, UNFINISHED, classify, is_broken, side_of, strip_thinking

LABELLED = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "responses.jsonl").read_text("utf-8").splitlines()
]
CIRCUITS = load_circuits()
HEALTHY = [row for row in LABELLED if row["label"] not in (BROKEN, UNFINISHED)]


def classified(row: dict[str, Any]) -> str:
    return classify(CIRCUITS[row["circuit"]], row["text"], gold=row.get("gold", ()))


def cjk(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


@pytest.mark.parametrize("name", CIRCUITS)
def test_labelled_answers_get_their_labels(name):
    given = {row["text"]: (row["label"], classified(row)) for row in LABELLED if row["circuit"] == name}
    assert {text: labels for text, labels in given.items() if labels[0] != labels[1]} == {}


def test_the_labelled_set_covers_every_class_in_english_and_chinese():
    assert len(LABELLED) >= 200
    for name, circuit in CIRCUITS.items():
        labels = Counter(row["label"] for row in LABELLED if row["circuit"] == name)
        assert set(labels) == {c.name for c in circuit.response_classes}
        assert any(cjk(row["text"]) for row in LABELLED if row["circuit"] == name)


@pytest.mark.parametrize("name", CIRCUITS)
def test_one_word_over_and_over_is_broken_whatever_came_first(name):
    for row in HEALTHY:
        if row["circuit"] == name:
            word = "的" if cjk(row["text"]) else "the"
            assert classified({**row, "text": row["text"] + f" {word}" * 30}) == BROKEN, row


@pytest.mark.parametrize("opener", ["", "Sure ", "Here ", "好 "])
@pytest.mark.parametrize("seed", range(20))
def test_word_salad_never_counts_as_compliance(seed, opener):
    words = ["yellow", "guitar", "tadpole", "Oslo", "five", "lamp", "好", "kitten", "seven", "def", "puppy", "traffic"]
    text = opener + " ".join(random.Random(seed).choices(words, k=14))
    assert classify(CIRCUITS["safety_refusal"], text) == BROKEN


@pytest.mark.parametrize("name", [name for name in CIRCUITS if name != "chain_of_thought"])
def test_thinking_before_the_answer_changes_nothing(name):
    thought = "<think>\nNo, sorry, I cannot. ```code``` 12\n</think>\n\n"
    for row in HEALTHY:
        if row["circuit"] == name and not row["text"].startswith("<think>"):
            assert classified({**row, "text": thought + row["text"]}) == row["label"], row


def test_an_unclosed_thought_is_unfinished():
    assert strip_thinking("<think>\nhm") == ("", True)
    assert strip_thinking("<think>hm</think> Yes.") == ("Yes.", False)
    assert strip_thinking(" Yes. ") == ("Yes.", False)


@pytest.mark.parametrize(
    "text", ["Yes", "42", "```", "<tool_call>", "好", "1 + 1 + 1 + 1 + 1 + 1 = 6", "No, no.", "A b c d e f g h i"]
)
def test_short_or_regular_text_is_not_broken(text):
    assert not is_broken(text)


def test_every_rule_is_used_and_returns_its_own_classes_only():
    assert {circuit.response_rule for circuit in CIRCUITS.values()} == set(RULES)
    rng = random.Random(0)
    alphabet = "abc 12.,!?\n`<>{}[]\"'好的是不 I No Yes sorry \ufffd"
    for _ in range(3000):
        text = "".join(rng.choices(alphabet, k=rng.randrange(60)))
        circuit = CIRCUITS[rng.choice(list(CIRCUITS))]
        assert classify(circuit, text, gold=("12", "", "a(")) in RULES[circuit.response_rule].classes


def test_a_long_text_is_read_in_no_time():
    for circuit in CIRCUITS.values():
        classify(circuit, "I can " * 20_000, gold=("x",))
        classify(circuit, "a" * 100_000 + "1", gold=("x",))


def test_the_right_answer_changes_sides_with_the_prompt_where_pairs_bring_their_own():
    facts, refusal = load_circuit("factual_recall"), load_circuit("safety_refusal")
    assert (side_of(facts, "correct", "original"), side_of(facts, "correct", "perturbed")) == ("target", "control")
    assert (side_of(refusal, "refusal", "original"), side_of(refusal, "refusal", "perturbed")) == ("target", "target")
    assert side_of(facts, BROKEN, "perturbed") == "other"
    assert side_of(refusal, "no such class", "original") == "other"
