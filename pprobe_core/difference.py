"""Which words of two answers differ. Pure text."""

import difflib
import re
import unicodedata
from itertools import groupby
from typing import NamedTuple

# A word, a run of spaces, one sign; Chinese, Japanese and Korean are compared sign by sign.
_EAST = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_PIECES = re.compile(rf"\s+|[{_EAST}]|[^\W{_EAST}]+|.", re.DOTALL)
_JOINERS = "\u200c\u200d"  # inside words of Persian and Hindi, and between the parts of an emoji


class Piece(NamedTuple):
    """A stretch of an answer, and whether the other answer lacks it."""

    text: str
    differs: bool


def word_difference(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both answers cut into stretches that the other one has, in this order, and stretches that it lacks.

    The stretches of each side put together are its text again. Where not one word is shared nothing is marked: a mark
    on every word would mark nothing.
    """
    a, b = _pieces(before), _pieces(after)
    blocks = difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_matching_blocks()
    shared_a = {block.a + k for block in blocks for k in range(block.size)}
    shared_b = {block.b + k for block in blocks for k in range(block.size)}
    if not any(re.search(r"\w", a[i]) for i in shared_a):
        shared_a, shared_b = set(range(len(a))), set(range(len(b)))
    return _stretches(a, shared_a), _stretches(b, shared_b)


def answers_difference(before: object, after: object) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """`word_difference` of two stored answers; nothing to mark where one of them was not generated."""
    return word_difference(before, after) if isinstance(before, str) and isinstance(after, str) else ((), ())


def _pieces(text: str) -> list[str]:
    """Words and signs of a text; accents, vowel signs, joiners and the colours of an emoji stay with their bearer."""
    pieces: list[str] = []
    for piece in _PIECES.findall(text):
        if pieces and not piece.isspace() and not pieces[-1].isspace() and _belongs(pieces[-1], piece):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _belongs(before: str, piece: str) -> bool:
    """Whether a piece goes on with the one before it: parting the two would draw something else."""
    first, last = piece[0], before[-1]
    if {first, last} & set(_JOINERS) or unicodedata.category(first)[0] == "M" or "\U0001f3fb" <= first <= "\U0001f3ff":
        return True
    if unicodedata.category(last)[0] == "M" and before[0].isalpha():
        return piece[0].isalnum() and not re.match(f"[{_EAST}]", piece)  # the rest of a word after a vowel sign
    flags = ["\U0001f1e6" <= sign <= "\U0001f1ff" for sign in (*before, piece)]
    return all(flags) and len(flags) == 2  # a flag is two letters


def _stretches(pieces: list[str], shared: set[int]) -> tuple[Piece, ...]:
    marked = [(text, i not in shared and not text.isspace()) for i, text in enumerate(pieces)]
    return tuple(
        Piece("".join(text for text, _ in group), differs)
        for differs, group in groupby(marked, key=lambda item: item[1])
    )
