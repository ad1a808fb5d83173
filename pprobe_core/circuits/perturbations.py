"""Perturbations that are made at run time, because they depend on the model's tokeniser."""

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import BadRequest, PprobeError

Encode = Callable[[str], list[int]]


class NoSwap(PprobeError):
    """No swap of two neighbouring characters of the keyword changes the tokens of the text."""


@dataclass(frozen=True)
class Swap:
    """A text with two neighbouring characters of its keyword swapped.

    `pieces_before` / `pieces_after` are the token ids that differ between the two texts: what they share at both ends
    is left off.
    """

    text: str
    swapped_keyword: str
    pieces_before: tuple[int, ...]
    pieces_after: tuple[int, ...]


@dataclass(frozen=True)
class _Candidate:
    swap: Swap
    merit: tuple[bool, bool, bool]


def bpe_swap(text: str, keyword: str, encode: Encode, seed: int) -> Swap:
    """The text with two neighbouring characters of `keyword` swapped so that the keyword's token pieces change.

    Preferred, in this order: the first character of a word stays, the keyword falls into more pieces than before (a
    swap that makes another whole word would change the meaning), the last character stays. Among equally good swaps
    the seed chooses. Every occurrence of the keyword is changed alike, in its own upper and lower case.

    Raises BadRequest when the keyword does not stand in the text, NoSwap when no swap changes the tokens.
    """
    spans = _occurrences(text, keyword)
    if not spans:
        raise BadRequest(
            f"The keyword {keyword!r} does not stand as a word in the prompt {_short(text)!r}. "
            "Give a keyword that occurs in the prompt exactly as a whole word."
        )
    before = list(encode(text))
    candidates = []
    for i in range(len(keyword) - 1):
        if not _may_swap(keyword[i], keyword[i + 1]):
            continue
        swapped_text = _swap_all(text, spans, i)
        after = list(encode(swapped_text))
        old, new = _changed_middle(before, after)
        if not new and not old:
            continue
        swap = Swap(swapped_text, _swap_at(keyword, i), old, new)
        first_stays = i > 0 and keyword[i - 1].isalnum()
        last_stays = i + 2 < len(keyword) and keyword[i + 2].isalnum()
        merit = (first_stays, len(after) > len(before), last_stays)
        candidates.append(_Candidate(swap, merit))
    if not candidates:
        raise NoSwap(
            f"No swap of two neighbouring characters of {keyword!r} changes the tokens of this model. "
            "Use a longer keyword."
        )
    best = max(candidate.merit for candidate in candidates)
    # A text seed makes the draw of one prompt independent of every other prompt's.
    draw = random.Random(f"{seed}|{keyword}|{text}")
    return draw.choice([candidate.swap for candidate in candidates if candidate.merit == best])


def perturb_prompt(prompt: Prompt, keyword: str, encode: Encode, seed: int) -> tuple[Prompt, Swap]:
    """The prompt with `bpe_swap` applied to its last user turn. Raises what bpe_swap raises."""
    swap = bpe_swap(prompt.text, keyword, encode, seed)
    last = {**prompt.messages[-1], "content": swap.text}
    return replace(prompt, messages=(*prompt.messages[:-1], last)), swap


def contains_keyword(text: str, keyword: str) -> bool:
    """Whether the keyword stands in the text as a whole word (upper and lower case alike)."""
    return bool(_occurrences(text, keyword))


def _occurrences(text: str, keyword: str) -> list[tuple[int, int]]:
    """Spans of the keyword as a whole word; in Chinese and Japanese, written without spaces, any place counts."""
    if not keyword.strip():
        return []
    spans = [match.span() for match in re.finditer(re.escape(keyword), text, flags=re.IGNORECASE)]
    return [(a, b) for a, b in spans if b - a == len(keyword) and not _inside_word(text, a, b)]


def _inside_word(text: str, start: int, end: int) -> bool:
    """Whether a letter of the same spaced script touches the span, so that it is only part of a word."""
    left = start > 0 and _is_spaced_letter(text[start]) and _is_spaced_letter(text[start - 1])
    right = end < len(text) and _is_spaced_letter(text[end - 1]) and _is_spaced_letter(text[end])
    return left or right


def _is_spaced_letter(char: str) -> bool:
    return char.isalnum() and not _is_cjk(char)


def _is_cjk(char: str) -> bool:
    return unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


def _may_swap(left: str, right: str) -> bool:
    """Equal characters change nothing; a space or a combining mark in the swap would break the word or its letter."""
    if left.casefold() == right.casefold():
        return False
    return all(char.isalnum() and not unicodedata.combining(char) for char in (left, right))


def _swap_at(word: str, i: int) -> str:
    """The word with characters i and i+1 swapped; a capital stays at its place ("Poison" -> "Opison")."""
    left, right = word[i], word[i + 1]
    if left.isupper() and right.islower() and len(right.upper()) == 1 and len(left.lower()) == 1:
        left, right = left.lower(), right.upper()
    return word[:i] + right + left + word[i + 2 :]


def _swap_all(text: str, spans: Sequence[tuple[int, int]], i: int) -> str:
    for start, end in spans:
        text = text[:start] + _swap_at(text[start:end], i) + text[end:]
    return text


def _changed_middle(before: Sequence[int], after: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two sequences without their common beginning and end."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return tuple(before[start : len(before) - end]), tuple(after[start : len(after) - end])


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
