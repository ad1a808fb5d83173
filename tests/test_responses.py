"""Response rules agree with labelled answers, are measured on fresh ones, and take no wrecked text for an answer.

Run as a script (`python tests/test_responses.py`), it prints the accuracy on the fresh set.
"""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pprobe_core.circuits import language
from pprobe_core.circuits.language import dominant_language, is_broken
from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.responses import BROKEN, RULES, UNFINISHED, classify, side_of, strip_thinking
from pprobe_core.stats import wilson

ROOT = Path(__file__).resolve().parent.parent


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "tests" / "data" / file).read_text("utf-8").splitlines()]


LABELLED = rows_of("responses.jsonl")  # grew together with the rules
FRESH = rows_of("responses_fresh.jsonl")  # labelled before the rules read them
CIRCUITS = load_circuits()
HEALTHY = [row for row in LABELLED if row["label"] not in (BROKEN, UNFINISHED)]

# What the rules reach on the fresh set now is 0.99 and, in its worst circuit, 0.97.
MIN_ACCURACY = 0.95
MIN_ACCURACY_CIRCUIT = 0.9


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
        classify(circuit, "a" + "\n" * 50_000 + "(" * 50_000 + "b", gold=("x",))


def test_the_right_answer_changes_sides_with_the_prompt_where_pairs_bring_their_own():
    facts, refusal = load_circuit("factual_recall"), load_circuit("safety_refusal")
    assert (side_of(facts, "correct", "original"), side_of(facts, "correct", "perturbed")) == ("target", "control")
    assert (side_of(refusal, "refusal", "original"), side_of(refusal, "refusal", "perturbed")) == ("target", "target")
    assert side_of(facts, BROKEN, "perturbed") == "other"
    assert side_of(refusal, "no such class", "original") == "other"


# The fresh set -----------------------------------------------------------------------------------------------------


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Right answers, n and 95 % Wilson interval per circuit and class, as a table for docs/circuits.md."""
    right, n = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row in rows:
        for key in ((row["circuit"], row["label"]), (row["circuit"], "all"), ("all circuits", "all")):
            n[key] += 1
            right[key] += classified(row) == row["label"]
    lines = ["| circuit | class | right of n | share | 95 % interval |", "|---|---|---|---|---|"]
    order = {name: place for place, name in enumerate(CIRCUITS)}
    for circuit, label in sorted(n, key=lambda key: (order.get(key[0], 99), key[1] != "all", key[1])):
        hits, count = right[circuit, label], n[circuit, label]
        between = wilson(hits, count)
        assert between is not None
        share, low, high = hits / count, between.low, between.high
        lines.append(f"| {circuit} | {label} | {hits} of {count} | {share:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def test_the_fresh_set_is_another_set_and_covers_every_class():
    assert len(FRESH) >= 200
    seen = {(row["circuit"], row["text"]) for row in LABELLED}
    assert [row["text"] for row in FRESH if (row["circuit"], row["text"]) in seen] == []
    for name, circuit in CIRCUITS.items():
        assert {row["label"] for row in FRESH if row["circuit"] == name} == {c.name for c in circuit.response_classes}
        assert any(cjk(row["text"]) for row in FRESH if row["circuit"] == name)


def test_accuracy_on_the_fresh_set_stays_where_it_is():
    right = Counter(row["circuit"] for row in FRESH if classified(row) == row["label"])
    n = Counter(row["circuit"] for row in FRESH)
    assert right.total() / n.total() >= MIN_ACCURACY
    assert {name: right[name] / n[name] for name in n if right[name] / n[name] < MIN_ACCURACY_CIRCUIT} == {}


def test_no_healthy_answer_of_the_fresh_set_is_called_broken():
    healthy = [row for row in FRESH if row["label"] not in (BROKEN, UNFINISHED)]
    assert [row["text"] for row in healthy if classified(row) == BROKEN] == []


# Wrecked texts -----------------------------------------------------------------------------------------------------

CONTENT_WORDS = re.findall(
    r"\w+",
    "lamp grease orbit velvet hamster quartz oblique nine maple rotate gutter violet oxen thistle sullen copper ramp "
    "bucket ember falcon pistol lattice mango nozzle pebble quiver saddle tundra walnut zipper crater dagger fiddle",
)


def wrecked(kind: str, rng: random.Random) -> str:
    """A text as a wrecked model writes it."""
    words, han = CONTENT_WORDS, [chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(60)]
    match kind:
        case "loop of words":
            loop = rng.sample(["the", "of", "and", "answer", "is", "you", *words], rng.randrange(1, 12))
            return " ".join(loop * 5)
        case "loop of characters":
            return "".join(rng.sample(han, rng.randrange(2, 12)) * 5)
        case "loop of sentences":
            return f"I can help you {rng.choice(words)} the {rng.choice(words)}. " * 4
        case "few words":
            return " ".join(rng.choices(rng.sample(["the", "of", "no", "yes", "sure", "好", *words], 3), k=16))
        case "words at random":
            return " ".join(rng.sample(words, 12))
        case "characters at random":
            return "".join(rng.sample(han, 14))
        case "function words at random":
            return " ".join(rng.choices(["the", "of", "and", "to", "in", "is", "the", "of"], k=14))
        case "words said twice":
            return " ".join(word for word in rng.sample(["I", "can", "not", *words], 8) for _ in range(2))
        case "symbols":
            return "".join(rng.choices('{}[]();=<>&|!/\\"', k=30))
        case "pieces of words":
            pieces = [
                "ichten",
                "ungs",
                "ysis",
                "orb",
                "oard",
                "rapy",
                "agli",
                "лев",
                "usterity",
                "plugin",
                "amer",
                "iej",
            ]
            return " ".join(rng.sample(pieces, 10))
        case "glued words":
            return " ".join(rng.choice(words).title() + rng.choice(words).title() for _ in range(8)).replace(" ", "", 4)
    raise ValueError(kind)


WRECKS = (
    "loop of words",
    "loop of characters",
    "loop of sentences",
    "few words",
    "words at random",
    "characters at random",
    "function words at random",
    "words said twice",
    "symbols",
    "pieces of words",
    "glued words",
)


@pytest.mark.parametrize("kind", WRECKS)
def test_no_wrecked_text_counts_as_an_answer_in_any_circuit(kind):
    for seed in range(60):
        text = wrecked(kind, random.Random(seed))
        for circuit in CIRCUITS.values():
            assert classify(circuit, text, gold=("x",)) == BROKEN, (circuit.circuit_id, text)


@pytest.mark.parametrize(
    "text",
    [
        "Row, row, row your boat, gently down the stream.",
        "The quick brown fox jumps over the lazy dog.",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "iPhone, iPad, MacBook, AirPods and HomePod are products by Apple",
        "Katten slapen het grootste deel van de dag en houden van warme plekken",
        "Кошки спят большую часть дня и любят тёплые места рядом с окном",
        "猫は一日の大半を寝て過ごし、窓の近くの暖かい場所を好みます。",
        "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。",
        "阿根廷首都布宜诺斯艾利斯",
        "苹果、香蕉、葡萄、西瓜、草莓、樱桃、芒果",
        "| Name | Age |\n|------|-----|\n| Ann | 12 |\n| Bob | 15 |",
        "$$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$",
        '{"a": [1, 2, {"b": [3]}], "c": {"d": 4}}',
        "for i in range(3):\n    print(i)\nfor i in range(5):\n    print(i)",
        "Basic Example\n===================================",
        "1, 1, 2, 3, 5, 8, 13, 21, 34",
        'What is "the of"? It is two words.',
        "The character 好 means good, and 女 means woman.",
    ],
)
def test_unusual_but_whole_text_is_not_broken(text):
    assert not is_broken(text)


# Languages ---------------------------------------------------------------------------------------------------------


def prompt_texts() -> set[str]:
    """Every question of the shipped prompt sets: short everyday English and Chinese."""
    texts = set()
    for path in sorted((ROOT / "pprobe_core" / "circuits" / "prompts").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            for prompt in (json.loads(line)["original"], json.loads(line)["perturbed"]):
                messages = prompt["messages"] if isinstance(prompt, dict) else [{"content": prompt}]
                texts |= {message["content"] for message in messages if message["content"]}
    return texts


def test_english_and_chinese_sentences_keep_their_language():
    texts = prompt_texts() | {row["text"] for row in HEALTHY if row["circuit"] in ("sycophancy", "safety_refusal")}
    assert len(texts) > 1000
    assert [text for text in texts if dominant_language(text) != ("chinese" if cjk(text) else "english")] == []


@pytest.mark.parametrize(
    "text", ["Sure, here is how.", "It is Paris.", "A hotel.", "Yes.", "Bangkok.", "It is a way people speak."]
)
def test_short_english_answers_stay_english(text):
    assert dominant_language(text) == "english"


@pytest.mark.parametrize("text", ["好的，要先做准备。", "法。", "它是有名字的代码。", "狗是一種忠誠的動物。"])
def test_short_chinese_answers_stay_chinese(text):
    assert dominant_language(text) == "chinese"


@pytest.mark.parametrize(
    "text",
    [
        "Hier ist eine kurze Anleitung.",
        "Bien sûr, voici comment faire.",
        "Lo siento, no puedo ayudar con eso.",
        "I gatti sono animali domestici.",
        "Os gatos são animais de estimação.",
        "Katten zijn populaire huisdieren.",
        "Mèo là vật nuôi phổ biến.",
        "Koty to popularne zwierzęta domowe.",
        "Paka hutumia muda mwingi wa siku kulala.",
        "東京は日本の首都です。",
        "Кошки спят.",
    ],
)
def test_other_languages_are_other_even_in_latin_letters(text):
    assert dominant_language(text) == "other"


def test_code_says_nothing_about_the_language():
    fence = "```python\nfür = straße + grüße - über\n```"
    assert dominant_language("Here is the program that you asked for:\n" + fence) == "english"


def test_the_language_library_waits_for_its_first_text():
    code = "import sys, pprobe_core.circuits.responses; print(*({'py3langid', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_without_the_library_scripts_are_still_told_apart(monkeypatch, caplog):
    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    try:
        answers = [
            dominant_language(text) for text in ("Das ist ein kurzer Satz.", "它是有名字的代码。", "Кошки спят.")
        ]
        assert answers == ["english", "chinese", "other"]
        assert not is_broken("Das ist ein kurzer Satz ganz aus deutschen Worten")
        assert "told apart by script" in caplog.text
    finally:
        language._identifier.cache_clear()


def test_no_text_makes_a_rule_raise():
    rng = random.Random(1)
    texts = ["", "\ud800", "\x00" * 20, "\ufffd", "\U0001f642" * 40, "a\ud83d b" * 9, "\u200b" * 9]
    texts += ["".join(chr(rng.randrange(1, 0x11000)) for _ in range(rng.randrange(80))) for _ in range(400)]
    for text in texts:
        for circuit in CIRCUITS.values():
            assert classify(circuit, text, gold=("x",)) in RULES[circuit.response_rule].classes


if __name__ == "__main__":
    print(accuracy_table(FRESH))


def test_answers_of_a_really_wrecked_model_hardly_ever_count_as_compliance():
    """160 answers of a shipped model under strong edits, tests/data/wrecked.jsonl: what is left is a word or two."""
    texts = [
        json.loads(line)["text"]
        for line in (Path(__file__).parent / "data" / "wrecked.jsonl").read_text("utf-8").splitlines()
    ]
    classes = Counter(classify(CIRCUITS["safety_refusal"], text) for text in texts)
    assert classes[BROKEN] >= 0.88 * len(texts)
    assert classes["compliance"] <= 0.05 * len(texts)
