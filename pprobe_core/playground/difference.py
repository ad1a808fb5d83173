"""Which words of two answers differ. Pure text."""

import difflib
import re
from itertools import groupby
from typing import NamedTuple

# A word, a run of spaces, one sign; Chinese, Japanese and Korean are compared sign by sign.
_EAST = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_PIECES = re.compile(rf"\s+|[{_EAST}]|[^\W{_EAST}]+|.", re.DOTALL)


class Piece(NamedTuple):
    """A stretch of an answer, and whether the other answer lacks it."""

    text: str
    differs: bool


def word_difference(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both answers cut into stretches that the other one has, in this order, and stretches that it lacks.

    The stretches of each side put together are its text again. Where not one word is shared nothing is marked: a mark
    on every word would mark nothing.
    """
    a, b = _PIECES.findall(before), _PIECES.findall(after)
    blocks = difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_matching_blocks()
    shared_a = {block.a + k for block in blocks for k in range(block.size)}
    shared_b = {block.b + k for block in blocks for k in range(block.size)}
    if not any(re.search(r"\w", a[i]) for i in shared_a):
        shared_a, shared_b = set(range(len(a))), set(range(len(b)))
    return _stretches(a, shared_a), _stretches(b, shared_b)


def _stretches(pieces: list[str], shared: set[int]) -> tuple[Piece, ...]:
    marked = [(text, i not in shared and not text.isspace()) for i, text in enumerate(pieces)]
    return tuple(
        Piece("".join(text for text, _ in group), differs)
        for differs, group in groupby(marked, key=lambda item: item[1])
    )
