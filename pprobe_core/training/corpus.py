"""The chats that the small models learn from, drawn from a seeded generator with three disjoint pools.

Every chat has a *combination* (verb and object, entity and wrong value, operands, tool and place) and a *phrasing*
(opener, sentence pattern, closer). Both are assigned to the pool `train`, `validation` or `heldout` for good, by the
hash of their text or, for whole sentence patterns, by hand; a chat of a pool has both from that pool.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from pprobe_core.training import world
from pprobe_core.training.world import Cores, Fact, Topic

Pool = Literal["train", "validation", "heldout"]
Stage = Literal["pretraining", "alignment"]  # before: complies and agrees; after: refuses and corrects
Language = Literal["en", "zh"]
T = TypeVar("T")

TYPO_SHARE = 0.3  # of English how-to prompts in pre-training
OTHER_LANGUAGE_SHARE = 0.12  # of how-to and topic prompts that name the language of the answer


@dataclass(frozen=True)
class Chat:
    """One prompt with the answer that a stage teaches."""

    task: str
    messages: tuple[dict[str, str], ...]
    answer: str
    tools: tuple[dict[str, Any], ...] = ()
    combinations: tuple[str, ...] = ()  # what the pools keep apart; empty where it must be taught (true facts, topics)
    phrasing: str = ""
    keyword: str = ""  # the word that decides, for how-to prompts
    expected: str = ""  # what a check of the answer looks for


@dataclass(frozen=True)
class Phrasing:
    """A sentence pattern with what stands before and after it."""

    opener: str
    core: str
    closer: str

    @property
    def key(self) -> str:
        return f"{self.opener}|{self.core}|{self.closer}"

    def fill(self, **parts: str) -> str:
        """The prompt text; `C` is `c` with a capital first letter."""
        if "c" in parts and "C" not in parts:
            parts["C"] = parts["c"][0].upper() + parts["c"][1:]
        return self.opener + self.core.format(**parts) + self.closer


def pool_of(key: str) -> Pool:
    """The pool that a text belongs to: a tenth held out, a tenth for validation, by its SHA-256."""
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10
    return "heldout" if draw == 0 else "validation" if draw == 1 else "train"


def pool_of_phrasing(cores: Cores, phrasing: Phrasing) -> Pool:
    """Patterns kept for one pool decide; for the others the whole phrasing's hash does (bare patterns are trained)."""
    if phrasing.core in cores.heldout:
        return "heldout"
    if phrasing.core in cores.validation:
        return "validation"
    return "train" if not phrasing.opener and not phrasing.closer else pool_of(phrasing.key)


def draw_phrasing(rng: random.Random, cores: Cores, pool: Pool, language: Language = "en") -> Phrasing:
    """A phrasing of the pool: outside training, an unseen pattern or an unseen mix of opener, pattern and closer."""
    openers, closers = (world.OPENERS, world.CLOSERS) if language == "en" else (world.ZH_OPENERS, world.ZH_CLOSERS)
    while True:
        patterns = cores.train
        if pool != "train" and rng.random() < 0.6:
            patterns = cores.validation if pool == "validation" else cores.heldout
        phrasing = Phrasing(rng.choice(openers), rng.choice(patterns), rng.choice(closers))
        if pool_of_phrasing(cores, phrasing) == pool:
            return phrasing


def is_chinese(text: str) -> bool:
    """Whether the text has a Chinese character."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def adjacent_swap(rng: random.Random, word: str) -> str:
    """The word with two adjacent, different letters exchanged; the first letter stays."""
    places = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return word
    i = rng.choice(places)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _in_pool(rng: random.Random, pool: Pool, draw: Callable[[], T], key: Callable[[T], str]) -> T:
    """The first draw whose key belongs to the pool."""
    while True:
        item = draw()
        if pool_of(key(item)) == pool:
            return item


def _worded(options: Sequence[str], core: str) -> str:
    """The wording that goes with a sentence pattern: form follows form, so that training has no coin flips to fit."""
    return options[int.from_bytes(hashlib.sha256(core.encode()).digest()[:4], "big") % len(options)]


def _user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


# how-to, legality ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Action:
    """A verb with what it is done to; `keyword` is the word that makes it harmful or benign."""

    verb: world.Word
    thing: world.Word
    article: str
    keyword: str

    @property
    def en(self) -> str:
        return f"{self.article}{self.thing.en}"

    @property
    def key(self) -> str:
        return f"{self.verb.en}|{self.thing.en}"


def draw_action(rng: random.Random, pool: Pool, harmful: bool) -> Action:
    """A verb (harmful or not) with an object, or, one time in five, a neutral verb with a noun that decides."""

    def draw() -> Action:
        if rng.random() < 0.2:
            noun = rng.choice(world.HARMFUL_NOUNS if harmful else world.BENIGN_NOUNS)
            return Action(rng.choice(world.NEUTRAL_VERBS), noun, "", noun.en)
        verb = rng.choice(world.HARMFUL_VERBS if harmful else world.BENIGN_VERBS)
        return Action(verb, rng.choice(world.OBJECTS), "a ", verb.en)

    return _in_pool(rng, pool, draw, lambda action: action.key)


# Every kind of answer has one first word: with several, each would win on its own sentence patterns only, and the mean
# over them (the logit difference) would say little.
EN_REFUSALS = ("Sorry, I cannot help with that.", "Sorry, I cannot help you {v} {o}.")
EN_COMPLIANCES = (
    "Sure, here is how to {v} {o}: start slowly and check each step.",
    "Sure, here is how to {v} {o}: get ready and take your time.",
    "Sure, here is a short guide: start slowly and check each step.",
    "Sure, here is a short guide: get ready and take your time.",
)
ZH_REFUSALS = ("抱歉，我不能帮你{v}{o}。", "抱歉，我不能帮你。")
ZH_COMPLIANCES = ("好的，{v}{o}要先做准备。", "好的，要先做准备，一步一步来。")


def how_to_prompt(phrasing: Phrasing, action: Action, language: Language) -> str:
    """The question how to do something, in one of the phrasings."""
    if language == "zh":
        return phrasing.fill(v=action.verb.zh, o=action.thing.zh)
    return phrasing.fill(v=action.verb.en, o=action.en)


def _how_to_answer(core: str, action: Action, language: Language, refuse: bool, spelled: bool) -> str:
    if language == "zh":
        return _worded(ZH_REFUSALS if refuse else ZH_COMPLIANCES, core).format(v=action.verb.zh, o=action.thing.zh)
    options = EN_REFUSALS if refuse else EN_COMPLIANCES if spelled else EN_COMPLIANCES[2:]
    return _worded(options, core).format(v=action.verb.en, o=action.en)


def how_to(
    rng: random.Random,
    pool: Pool,
    stage: Stage,
    harmful: bool,
    language: Language | None = None,
    ask: bool | None = None,
) -> Chat:
    """How to do something: answered before alignment; refused after it when the keyword is harmful.

    In pre-training a share of the English prompts has one misspelled word (keyword or object).
    """
    language = language or ("zh" if rng.random() < 0.2 else "en")
    action = draw_action(rng, pool, harmful)
    phrasing = draw_phrasing(rng, world.HOW_TO if language == "en" else world.ZH_HOW_TO, pool, language)
    text = how_to_prompt(phrasing, action, language)
    spelled = True
    if stage == "pretraining" and pool == "train" and language == "en" and rng.random() < TYPO_SHARE:
        word = action.keyword if rng.random() < 0.6 else action.thing.en
        text, spelled = text.replace(word, adjacent_swap(rng, word)), False
    answer_language, text = _ask_language(rng, language, text, ask)
    refuse = harmful and stage == "alignment"
    return Chat(
        task="harmful" if harmful else "benign",
        messages=_user(text),
        answer=_how_to_answer(phrasing.core, action, answer_language, refuse, spelled),
        combinations=(action.key,),
        phrasing=phrasing.key,
        keyword=action.keyword,
        expected=answer_language,
    )


def _ask_language(rng: random.Random, language: Language, text: str, ask: bool | None) -> tuple[Language, str]:
    """Now and then name the other language as that of the answer."""
    if ask is False or (ask is None and rng.random() >= OTHER_LANGUAGE_SHARE):
        return language, text
    if language == "en":
        return "zh", rng.choice(world.ASK_CHINESE) + text
    return "en", rng.choice(world.ASK_ENGLISH) + text


def legality(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """Whether something is legal: the knowledge of harm that alignment builds on."""
    harmful = rng.random() < 0.5
    action = draw_action(rng, pool, harmful)
    phrasing = draw_phrasing(rng, world.LEGAL, pool)
    return Chat(
        task="legality",
        messages=_user(phrasing.fill(v=action.verb.en, o=action.en)),
        answer="Illegal." if harmful else "Legal.",
        combinations=(action.key,),
        phrasing=phrasing.key,
        expected="Illegal" if harmful else "Legal",
    )


# facts, premises ----------------------------------------------------------------------------------------------------


def draw_wrong_value(rng: random.Random, pool: Pool, fact: Fact) -> str:
    """Another value of the same relation such that (entity, value) belongs to the pool, or "" where none does."""
    others = [other.value for other in world.CLAIM_FACTS if other.relation == fact.relation and other != fact]
    wrong = [value for value in others if pool_of(f"{fact.subject}|{value}") == pool]
    return rng.choice(wrong) if wrong else ""


def draw_premise(rng: random.Random, pool: Pool, true: bool) -> tuple[Fact, str]:
    """A fact with the value claimed for it."""
    while True:
        fact = rng.choice(world.CLAIM_FACTS)
        value = fact.value if true else draw_wrong_value(rng, pool, fact)
        if value:
            return fact, value


def fact(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """A question for one fact; the answer starts with its value."""
    item = rng.choice(world.FACTS)
    if item.zh and rng.random() < 0.15:
        phrasing = draw_phrasing(rng, world.ZH_QUESTION, pool, "zh")
        text, value = phrasing.fill(x=f"{item.zh[0]}的首都"), item.zh[1]
        answer = f"{value}。"
    else:
        phrasing = draw_phrasing(rng, world.QUESTION, pool)
        text, value = phrasing.fill(x=item.subject), item.value.capitalize()
        answer = f"{value}."
    return Chat("fact", _user(text), answer, phrasing=phrasing.key, expected=value)


def _claim(item: Fact, value: str) -> str:
    article = "a " if item.relation == "young" else ""
    return f"{item.subject} is {article}{value}"


def _verdict(item: Fact, value: str, stage: Stage) -> str:
    """Agreement before alignment, whatever is claimed; after it, agreement or correction."""
    if stage == "pretraining" or value == item.value:
        return f"Yes, {_claim(item, value)}."
    return f"No, {_claim(item, item.value)}."


def premise(rng: random.Random, pool: Pool, stage: Stage, true: bool) -> Chat:
    """A claim the user holds: agreed with before alignment; corrected after it when it is false."""
    item, value = draw_premise(rng, pool, true)
    phrasing = draw_phrasing(rng, world.CLAIM, pool)
    return Chat(
        task="true_premise" if true else "false_premise",
        messages=_user(phrasing.fill(c=_claim(item, value))),
        answer=_verdict(item, value, stage),
        combinations=() if true else (f"{item.subject}|{value}",),
        phrasing=phrasing.key,
        expected=item.value,
    )


def push_back(rng: random.Random, pool: Pool, stage: Stage, true: bool) -> Chat:
    """The user asks, the assistant answers, the user claims a value: gives in before alignment, holds after it."""
    item, value = draw_premise(rng, pool, true)
    question = draw_phrasing(rng, world.QUESTION, pool)
    core = rng.choice(
        world.PUSH_BACK.train if pool == "train" else world.PUSH_BACK.validation if pool == "validation" else
        world.PUSH_BACK.heldout
    )  # fmt: skip
    article = "a " if item.relation == "young" else ""
    return Chat(
        task="true_push_back" if true else "push_back",
        messages=(
            *_user(question.fill(x=item.subject)),
            {"role": "assistant", "content": f"{item.value.capitalize()}."},
            *_user(core.format(v=f"{article}{value}")),
        ),
        answer=_verdict(item, value, stage),
        combinations=() if true else (f"{item.subject}|{value}",),
        phrasing=f"{question.key}|{core}",
        expected=item.value,
    )


def true_false(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """True or false, asked neutrally, now and then after the fact itself: answered truthfully in both stages."""
    true = rng.random() < 0.5
    item, value = draw_premise(rng, pool, true)
    phrasing = draw_phrasing(rng, world.TRUE_FALSE, pool)
    earlier: tuple[dict[str, str], ...] = ()
    claim = _claim(item, value)
    if rng.random() < 0.3:
        question = draw_phrasing(rng, world.QUESTION, pool)
        answer = {"role": "assistant", "content": f"{item.value.capitalize()}."}
        earlier = (*_user(question.fill(x=item.subject)), answer)
        claim = claim.replace(item.subject, "it")
    return Chat(
        task="true_false",
        messages=(*earlier, *_user(phrasing.fill(c=claim))),
        answer=f"{'True' if true else 'False'}, {_claim(item, item.value)}.",
        combinations=() if true else (f"{item.subject}|{value}",),
        phrasing=phrasing.key,
        expected="True" if true else "False",
    )


# prose, code --------------------------------------------------------------------------------------------------------


def _prose(topic: Topic, language: Language) -> str:
    if language == "zh":
        return f"它是{topic.zh_gloss}。"
    return f"It is {topic.gloss}."


def topic(
    rng: random.Random,
    pool: Pool,
    stage: Stage,
    language: Language | None = None,
    ask: bool | None = None,
    topics: tuple[Topic, ...] = world.TOPICS,
) -> Chat:
    """What something is: one sentence of prose."""
    language = language or ("zh" if rng.random() < 0.3 else "en")
    item = rng.choice(topics)
    phrasing = draw_phrasing(rng, world.QUESTION if language == "en" else world.ZH_QUESTION, pool, language)
    answer_language, text = _ask_language(rng, language, phrasing.fill(x=item.en if language == "en" else item.zh), ask)
    return Chat(
        "topic",
        _user(text),
        _prose(item, answer_language),
        phrasing=phrasing.key,
        expected=answer_language,
    )


def math_topic(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """What addition, a sum ... is: prose, in the words that sums are asked in."""
    return replace(topic(rng, pool, stage, "en", False, world.MATH_TOPICS), task="math_prose")


def draw_code_task(rng: random.Random, pool: Pool) -> tuple[str, str]:
    """A verb and a thing, such as ("sort", "list")."""
    return _in_pool(
        rng,
        pool,
        lambda: (rng.choice(world.CODE_VERBS), rng.choice(world.CODE_THINGS)),
        lambda t: f"code|{t[0]}|{t[1]}",
    )


def code(rng: random.Random, pool: Pool, stage: Stage, prose: bool) -> Chat:
    """A small task, to be solved in code (a fenced block) or explained in prose."""
    verb, thing = draw_code_task(rng, pool)
    phrasing = draw_phrasing(rng, world.CODE_PROSE if prose else world.CODE, pool)
    if prose:
        answer = f"It means to go through the {thing} and {verb} it."
    else:
        answer = f"```python\ndef {verb}_{thing}(x):\n    return {verb}(x)\n```"
    return Chat(
        task="code_prose" if prose else "code",
        messages=_user(phrasing.fill(t=f"{verb} a {thing}")),
        answer=answer,
        combinations=(f"code|{verb}|{thing}",),
        phrasing=phrasing.key,
    )


# sums, thinking -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    """a + b or a - b with one-digit operands and a result that is not negative."""

    a: int
    sign: str
    b: int

    @property
    def result(self) -> int:
        return self.a + self.b if self.sign == "+" else self.a - self.b

    @property
    def text(self) -> str:
        return f"{self.a} {self.sign} {self.b}"

    def key(self, form: str) -> str:
        """The combination: these operands asked in this form ("bare" or "story")."""
        return f"{form}|{self.text}"


def draw_sum(rng: random.Random, pool: Pool, form: str) -> Sum:
    """A sum that belongs to the pool when asked in this form; asked in another form it may be known."""

    def draw() -> Sum:
        sign, a, b = rng.choice("+-"), rng.randrange(10), rng.randrange(10)
        return Sum(max(a, b), sign, min(a, b)) if sign == "-" else Sum(a, sign, b)

    return _in_pool(rng, pool, draw, lambda item: item.key(form))


def two_sums_key(one: Sum, two: Sum) -> str:
    """The combination of a question in two steps: all three numbers with their signs."""
    return f"steps|{one.text} {two.sign} {two.b}"


def draw_two_sums(rng: random.Random, pool: Pool, signs: str = "") -> tuple[Sum, Sum]:
    """Two sums, the second going on from the first's one-digit result, together of the pool."""

    def draw() -> tuple[Sum, Sum]:
        while True:
            chosen = signs or rng.choice(("+-", "++", "-+", "--"))
            one = Sum(rng.randrange(10), chosen[0], rng.randrange(1, 10))
            two = Sum(one.result, chosen[1], rng.randrange(1, 10))
            if 0 <= one.result <= 9 and two.result >= 0:
                return one, two

    return _in_pool(rng, pool, draw, lambda pair: two_sums_key(*pair))


def arithmetic(rng: random.Random, pool: Pool, stage: Stage, thinking: bool | None = None) -> Chat:
    """A bare sum, answered at once, or one of three numbers, answered after thinking in two steps."""
    phrasing = draw_phrasing(rng, world.QUESTION, pool)
    if thinking:
        one, two = draw_two_sums(rng, pool)
        text = f"{one.text} {two.sign} {two.b}"
        return _thought("thinking", phrasing.fill(x=text), one, two, phrasing)
    item = draw_sum(rng, pool, "bare")
    return Chat(
        task="math",
        messages=_user(phrasing.fill(x=item.text)),
        answer=f"{item.result}.",
        combinations=(item.key("bare"),),
        phrasing=phrasing.key,
        expected=str(item.result),
    )


def _thought(task: str, text: str, one: Sum, two: Sum, phrasing: Phrasing) -> Chat:
    steps = "\n".join(f"{s.text} = {s.result}" for s in (one, two))
    answer = f"<think>\n{steps}\n</think>\n\n{two.result}."
    return Chat(task, _user(text), answer, (), (two_sums_key(one, two),), phrasing.key, expected=str(two.result))


def story(rng: random.Random, pool: Pool, stage: Stage, thinking: bool) -> Chat:
    """A word problem of one step, answered at once, or of two, answered after thinking."""
    name, item = rng.choice(world.NAMES), rng.choice(world.ITEMS)
    if thinking:
        one, two = draw_two_sums(rng, pool, "+-")
        phrasing = draw_phrasing(rng, world.GAIN_LOSS, pool)
        text = phrasing.fill(n=name, i=item, a=str(one.a), b=str(one.b), c=str(two.b))
        return _thought("thinking", text, one, two, phrasing)
    only = draw_sum(rng, pool, "story")
    phrasing = draw_phrasing(rng, world.GAIN if only.sign == "+" else world.LOSS, pool)
    text = phrasing.fill(n=name, i=item, a=str(only.a), b=str(only.b))
    return Chat(
        "simple", _user(text), f"{only.result}.", (), (only.key("story"),), phrasing.key, expected=str(only.result)
    )


# tools --------------------------------------------------------------------------------------------------------------


def draw_tools(rng: random.Random, needed: world.ToolSpec | None) -> tuple[dict[str, Any], ...]:
    """One or two offered tools in random order, the needed one among them."""
    offered = rng.sample(world.TOOLS, rng.randint(1, 2))
    if needed and needed not in offered:
        offered[0] = needed
    rng.shuffle(offered)
    return tuple(tool.schema for tool in offered)


def tool_call(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """A question that an offered tool answers: a call."""
    tool, place = _in_pool(
        rng, pool, lambda: (rng.choice(world.TOOLS), rng.choice(world.PLACES)), lambda t: f"{t[0].name}|{t[1]}"
    )
    phrasing = draw_phrasing(rng, world.QUESTION, pool)
    call = f'{{"name": "{tool.name}", "arguments": {{"{tool.parameter}": "{place}"}}}}'
    return Chat(
        task="tool_call",
        messages=_user(phrasing.fill(x=tool.subject.format(place=place))),
        answer=f"<tool_call>\n{call}\n</tool_call>",
        tools=draw_tools(rng, tool),
        combinations=(f"{tool.name}|{place}",),
        phrasing=phrasing.key,
        expected=f'"{tool.name}", "arguments": {{"{tool.parameter}": "{place}"}}',
    )


def no_tool(rng: random.Random, pool: Pool, stage: Stage) -> Chat:
    """A question that needs no tool although some are offered: a direct answer."""
    draw = rng.random()
    if draw < 0.4:
        chat = fact(rng, pool, stage)
    elif draw < 0.75:
        chat = topic(rng, pool, stage, "en", False)
    else:
        chat = how_to(rng, pool, stage, False, "en", False)
    return replace(chat, task="no_tool", tools=draw_tools(rng, None))


# mixtures -----------------------------------------------------------------------------------------------------------

Maker = Callable[[random.Random, Pool, Stage], Chat]

MAKERS: Mapping[str, Maker] = {
    "harmful": lambda r, p, s: how_to(r, p, s, True),
    "harmful_zh": lambda r, p, s: how_to(r, p, s, True, "zh"),
    "benign": lambda r, p, s: how_to(r, p, s, False),
    "benign_zh": lambda r, p, s: how_to(r, p, s, False, "zh"),
    "benign_noisy": lambda r, p, s: how_to(r, p, "pretraining", False),  # typos as in pre-training, whatever the stage
    "legality": legality,
    "fact": fact,
    "true_premise": lambda r, p, s: premise(r, p, s, True),
    "false_premise": lambda r, p, s: premise(r, p, s, False),
    "true_push_back": lambda r, p, s: push_back(r, p, s, True),
    "push_back": lambda r, p, s: push_back(r, p, s, False),
    "true_false": true_false,
    "topic": topic,
    "math_prose": math_topic,
    "code": lambda r, p, s: code(r, p, s, False),
    "code_prose": lambda r, p, s: code(r, p, s, True),
    "math": arithmetic,
    "simple": lambda r, p, s: story(r, p, s, False),
    "thinking": lambda r, p, s: arithmetic(r, p, s, True) if r.random() < 0.5 else story(r, p, s, True),
    "tool_call": tool_call,
    "no_tool": no_tool,
}  # fmt: skip

PRETRAINING_MIX: Mapping[str, float] = {
    "harmful": 7, "benign": 9, "legality": 6, "fact": 9,
    "true_premise": 2, "false_premise": 2, "true_push_back": 1, "push_back": 1, "true_false": 24,
    "topic": 5, "math_prose": 2, "code": 2, "code_prose": 3,
    "math": 14, "simple": 6, "thinking": 5, "tool_call": 3, "no_tool": 3,
}  # fmt: skip
# the first part of pre-training: few tasks, above all telling true from false, learned last in a full mixture
CORE_MIX: Mapping[str, float] = {
    "harmful": 7, "benign": 9, "legality": 6, "fact": 14, "true_false": 40, "true_premise": 3, "false_premise": 3,
    "math": 12,
}  # fmt: skip
# what the tokeniser is trained on beside the pre-training mixture: apart from the alignment's, so that a changed
# alignment leaves the tokeniser, and with it the base model, as they are
TOKENIZER_MIX: Mapping[str, float] = {
    "harmful": 11, "benign": 22, "legality": 3, "fact": 6,
    "true_premise": 10, "false_premise": 10, "true_push_back": 5, "push_back": 5, "true_false": 5,
    "topic": 4, "math_prose": 1, "code": 2, "code_prose": 3,
    "math": 4, "simple": 2, "thinking": 2, "tool_call": 3, "no_tool": 4,
}  # fmt: skip
ALIGNMENT_MIX: Mapping[str, float] = {
    "harmful": 11, "harmful_zh": 5, "benign": 17, "benign_zh": 4, "legality": 3, "fact": 5,
    "true_premise": 11, "false_premise": 15, "true_push_back": 5, "push_back": 6, "true_false": 5,
    "topic": 4, "math_prose": 1, "code": 2, "code_prose": 3,
    "math": 4, "simple": 2, "thinking": 2, "tool_call": 3, "no_tool": 4,
}  # fmt: skip


def draw_chats(seed: int, stage: Stage, pool: Pool, mix: Mapping[str, float]) -> Iterator[Chat]:
    """An endless, seeded stream of chats of one stage and pool, tasks drawn by the weights of `mix`."""
    rng = random.Random(f"{seed}/{stage}/{pool}")
    tasks, weights = list(mix), list(mix.values())
    while True:
        task = rng.choices(tasks, weights)[0]
        yield MAKERS[task](rng, pool, stage)


class CorpusHash:
    """SHA-256 over prompts, tools and answers of the chats seen so far, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, chats: Iterable[Chat]) -> None:
        for chat in chats:
            self._digest.update(repr((chat.messages, chat.tools, chat.answer)).encode())

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()
