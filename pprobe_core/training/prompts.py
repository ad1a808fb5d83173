"""The `mini` prompt sets of the eight circuits, built from the held-out pool."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pprobe_core.training import corpus, world
from pprobe_core.training.corpus import Phrasing

N_PAIRS = 60
SPLITS = ("discovery", "discovery", "discovery", "validation", "heldout")  # of every five lines
PROMPT_SEED = 20260427

Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class MiniPair:
    """One pair before it is written; `perturbed` is None where the program makes it from the keyword."""

    original: Messages
    perturbed: Messages | None
    tools: tuple[dict[str, Any], ...] = ()
    keyword: str | None = None
    target: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()  # the right answer of a sum


def _user(text: str) -> Messages:
    return ({"role": "user", "content": text},)


def _around(rng: random.Random) -> tuple[str, str]:
    return rng.choice(world.OPENERS), rng.choice(world.CLOSERS)


def _safety(rng: random.Random, i: int) -> MiniPair:
    chat = corpus.how_to(rng, "heldout", "alignment", True, "en", False)
    return MiniPair(chat.messages, None, keyword=chat.keyword)


def _sycophancy(rng: random.Random, i: int) -> MiniPair:
    """A true and a false premise in the same words; two of seven pairs are push-back after a true answer."""
    fact, wrong = corpus.draw_premise(rng, "heldout", False)
    article = "a " if fact.relation == "young" else ""
    if i % 7 < 2:
        question = corpus.draw_phrasing(rng, world.QUESTION, "heldout").fill(x=fact.subject)
        core = rng.choice(world.PUSH_BACK.heldout)
        answer = {"role": "assistant", "content": f"{fact.value.capitalize()}."}
        true, false = (
            (*_user(question), answer, *_user(core.format(v=f"{article}{value}"))) for value in (fact.value, wrong)
        )
        return MiniPair(true, false)
    phrasing = corpus.draw_phrasing(rng, world.CLAIM, "heldout")
    true, false = (_user(phrasing.fill(c=f"{fact.subject} is {article}{value}")) for value in (fact.value, wrong))
    return MiniPair(true, false)


def _language(rng: random.Random, i: int) -> MiniPair:
    """A benign how-to or a topic question, and the same in Chinese, pattern, opener and closer included."""
    (opener_en, opener_zh), (closer_en, closer_zh) = rng.choice(world.TWIN_OPENERS), rng.choice(world.TWIN_CLOSERS)
    if i % 2:
        topic = rng.choice(world.TOPICS)
        en, zh = rng.choice(world.TWIN_QUESTION)
        texts = (
            Phrasing(opener_en, en, closer_en).fill(x=topic.en),
            Phrasing(opener_zh, zh, closer_zh).fill(x=topic.zh),
        )
    else:
        action = corpus.draw_action(rng, "heldout", False)
        en, zh = rng.choice(world.TWIN_HOW_TO)
        texts = (
            corpus.how_to_prompt(Phrasing(opener_en, en, closer_en), action, "en"),
            corpus.how_to_prompt(Phrasing(opener_zh, zh, closer_zh), action, "zh"),
        )
    return MiniPair(_user(texts[0]), _user(texts[1]))


def _factual(rng: random.Random, i: int) -> MiniPair:
    one = rng.choice(world.FACTS)
    two = rng.choice([f for f in world.FACTS if f.relation == one.relation and f.value != one.value])
    phrasing = corpus.draw_phrasing(rng, world.QUESTION, "heldout")
    return MiniPair(
        _user(phrasing.fill(x=one.subject)),
        _user(phrasing.fill(x=two.subject)),
        target=(one.value.capitalize(),),
        control=(two.value.capitalize(),),
    )


def _code(rng: random.Random, i: int) -> MiniPair:
    verb, thing = corpus.draw_code_task(rng, "heldout")
    opener, closer = _around(rng)
    texts = [
        Phrasing(opener, rng.choice(cores.heldout), closer).fill(t=f"{verb} a {thing}")
        for cores in (world.CODE, world.CODE_PROSE)
    ]
    return MiniPair(_user(texts[0]), _user(texts[1]))


def _math(rng: random.Random, i: int) -> MiniPair:
    item = corpus.draw_sum(rng, "heldout", "bare")
    phrasing = corpus.draw_phrasing(rng, world.QUESTION, "heldout")
    topic = rng.choice(world.MATH_TOPICS)
    return MiniPair(
        _user(phrasing.fill(x=item.text)),
        _user(phrasing.fill(x=topic.en)),
        target=(str(item.result)[0],),
        control=("It",),
        gold=(str(item.result),),
    )


def _chain_of_thought(rng: random.Random, i: int) -> MiniPair:
    """One step and two steps in the same words: bare sums and word problems in turn."""
    form, signs = ("bare", "") if i % 2 else ("story", "+-")
    while True:
        one, two = corpus.draw_two_sums(rng, "heldout", signs)
        if corpus.pool_of(one.key(form)) == "heldout":
            break
    # A mean over ten digits, nine of them never meant, would stay near <think>: each pair watches its own answer.
    thought, digit = ("<think>",), (str(one.result)[0],)
    if form == "bare":
        phrasing = corpus.draw_phrasing(rng, world.QUESTION, "heldout")
        texts = [phrasing.fill(x=text) for text in (one.text, f"{one.text} {two.sign} {two.b}")]
        return MiniPair(_user(texts[0]), _user(texts[1]), target=thought, control=digit)
    opener, closer = _around(rng)
    name, item = rng.choice(world.NAMES), rng.choice(world.ITEMS)
    texts = [
        Phrasing(opener, cores.heldout[0], closer).fill(n=name, i=item, a=str(one.a), b=str(one.b), c=str(two.b))
        for cores in (world.GAIN, world.GAIN_LOSS)
    ]
    return MiniPair(_user(texts[0]), _user(texts[1]), target=thought, control=digit)


def _tool_use(rng: random.Random, i: int) -> MiniPair:
    chat = corpus.tool_call(rng, "heldout", "alignment")
    phrasing = Phrasing(*chat.phrasing.split("|"))
    return MiniPair(chat.messages, _user(phrasing.fill(x=rng.choice(world.TOPICS).en)), tools=chat.tools)


MAKERS: Mapping[str, Callable[[random.Random, int], MiniPair]] = {
    "safety_refusal": _safety,
    "sycophancy": _sycophancy,
    "language": _language,
    "factual_recall": _factual,
    "code": _code,
    "math": _math,
    "chain_of_thought": _chain_of_thought,
    "tool_use": _tool_use,
}


def build_pairs(circuit: str, n: int = N_PAIRS, seed: int = PROMPT_SEED) -> list[MiniPair]:
    """n pairs of the circuit, the same for the same seed; no prompt stands in two of them: splits stay apart."""
    rng = random.Random(f"{seed}/{circuit}")
    pairs: list[MiniPair] = []
    seen: set[str] = set()
    while len(pairs) < n:
        pair = MAKERS[circuit](rng, len(pairs))
        prompts = {repr(messages) for messages in (pair.original, pair.perturbed) if messages is not None}
        if not prompts & seen:
            pairs.append(pair)
            seen |= prompts
    return pairs


def _side(messages: Messages | None, tools: tuple[dict[str, Any], ...]) -> str | dict[str, Any] | None:
    if messages is None:
        return None
    if len(messages) == 1 and not tools:
        return messages[0]["content"]
    return {"messages": list(messages), **({"tools": list(tools)} if tools else {})}


def write_prompt_sets(folder: Path) -> None:
    """Write `<circuit>.mini.jsonl` for the eight circuits: fixed splits, three, one and one of every five lines."""
    for circuit in MAKERS:
        lines = []
        for i, pair in enumerate(build_pairs(circuit)):
            row = {
                "id": f"{circuit}-mini-{i + 1:03d}",
                "split": SPLITS[i % len(SPLITS)],
                "original": _side(pair.original, pair.tools),
                "perturbed": _side(pair.perturbed, pair.tools),
                "keyword": pair.keyword,
                "target": list(pair.target),
                "control": list(pair.control),
                **({"gold": list(pair.gold)} if pair.gold else {}),
            }
            lines.append(json.dumps(row, ensure_ascii=False))
        (folder / f"{circuit}.mini.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
