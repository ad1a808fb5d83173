"""The response rule whose classes a user makes from examples: an answer belongs to the class it reads most like.

Two steps, both on the opening of the answer, since only its first words are generated. An example that the answer
begins with decides at once, the longest one first. Else the nearest example decides, if it is near enough and no other
class is about as near; anything else is `other`. No training and no randomness: the same examples give the same class.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OTHER = "other"  # like none of the examples, or like those of two classes

MAX_WORDS = 24  # of an answer and of an example are compared: about what a run generates
MAX_EXAMPLES = 200  # per class
MAX_EXAMPLE_CHARS = 1_000
# Chosen on the answers in tests/data/responses.jsonl, five to ten of each class as examples; docs/circuits.md has the
# share of right classes on answers that took no part.
MIN_COMPARED_WORDS = 3  # a shorter example is an opening phrase and no more: one shared "is" would make it near
N_NEAREST = 2  # one look-alike may be an accident
MIN_SIMILARITY = 0.20  # of 1 (same opening): below it an answer is like no example
MIN_MARGIN = 0.05  # by which the best class must lead
WORDS_WEIGHT = 0.5  # of the words in the similarity; the rest is characters in threes, which forgive endings


@dataclass(frozen=True)
class Guess:
    """Which class an answer gets and why: the example it is nearest to (or begins with) and how alike they are."""

    class_name: str
    similarity: float  # 0 to 1; 1 where the answer begins with the example
    example: str  # "" without any example
    begins: bool  # whether the answer begins with it
    runner_up: str = ""  # the class that came second, "" where no other is near
    margin: float = 0.0  # lead over it


def decide(examples: Mapping[str, Sequence[str]], answer: str) -> Guess:
    """The class of an answer, given example answers or opening phrases per class. Never raises on any text.

    Ties between equally long openings of two classes go on to the second step. `other` is given where no example has a
    similarity of MIN_SIMILARITY, or two classes lie within MIN_MARGIN of each other.
    """
    words = opening(answer)
    begun = [
        (len(read), name, example)
        for name, of_class in examples.items()
        for example in of_class
        if (read := opening(example)) and words[: len(read)] == read
    ]
    if begun:
        longest = max(length for length, *_ in begun)
        names = {name for length, name, _ in begun if length == longest}
        if len(names) == 1:
            _, name, example = next(row for row in begun if row[0] == longest)
            return Guess(name, 1.0, example, begins=True, margin=1.0)
    scored = sorted(
        ((*_nearest(words, of_class), name) for name, of_class in examples.items()),
        key=lambda row: (-row[0], row[2]),
    )
    if not scored:
        return Guess(OTHER, 0.0, "", begins=False)
    best, example, name = scored[0]
    second, _, runner_up = scored[1] if len(scored) > 1 else (0.0, "", "")
    sure = best >= MIN_SIMILARITY and best - second >= MIN_MARGIN
    return Guess(name if sure else OTHER, best, example, False, runner_up if second > 0 else "", best - second)


def _nearest(words: Sequence[str], examples: Sequence[str]) -> tuple[float, str]:
    """How near an answer is to a class, the mean over its N_NEAREST nearest examples, and the nearest one."""
    compared = ((opening(example), example) for example in examples)
    ranked = sorted(
        ((similarity(words, read), example) for read, example in compared if len(read) >= MIN_COMPARED_WORDS),
        key=lambda row: -row[0],
    )
    nearest = ranked[:N_NEAREST]
    return (sum(value for value, _ in nearest) / len(nearest), nearest[0][1]) if nearest else (0.0, "")


def is_opening(example: str) -> bool:
    """Whether an example is too short to be compared: it counts only for answers that begin with it."""
    return len(opening(example)) < MIN_COMPARED_WORDS


def opening(text: str) -> tuple[str, ...]:
    """The first words of a text as they are compared: small letters, compatibility forms folded, no marks.

    Each Chinese or Japanese character is a word of its own, and so is a sign that opens the answer ("```", "{", "<b>"),
    since it may be all there is to tell code from prose.
    """
    folded = unicodedata.normalize("NFKC", text[: 40 * MAX_WORDS]).casefold().replace("’", "'").strip()
    sign = re.match(r"[^\w\s\"'“”‘’(*#_-]+", folded)
    words = _WORD.findall(folded)
    return ((sign.group(),) if sign else ()) + tuple(words[:MAX_WORDS])


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:'[^\W\d]+)?")


def similarity(one: Sequence[str], two: Sequence[str]) -> float:
    """How alike two openings are, 0 to 1: overlap (Dice) of their words and of their characters in threes.

    The longer one is cut to a little more than the shorter's length first: what follows is not in the other's place.
    """
    if not one or not two:
        return 0.0
    n = max(4, round(1.5 * min(len(one), len(two))))
    one, two = one[:n], two[:n]
    return WORDS_WEIGHT * _dice(one, two) + (1 - WORDS_WEIGHT) * _dice(_threes(one), _threes(two))


def _threes(words: Sequence[str]) -> list[str]:
    text = f" {' '.join(words)} "
    return [text[i : i + 3] for i in range(len(text) - 2)]


def _dice(one: Iterable[str], two: Iterable[str]) -> float:
    left, right = Counter(one), Counter(two)
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0
