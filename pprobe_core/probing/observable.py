"""Target and control strings -> the token ids of the observable F = mean(logits[T]) - mean(logits[C])."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pprobe_core.circuits.schema import Circuit, PromptPair
from pprobe_core.errors import BadRequest
from pprobe_core.probing.tokens import pieces
from pprobe_core.probing.types import Observable

PREVIEW_COLUMNS = ["side", "string", "ids", "pieces", "used", "note"]
# Ends in a line break, as most chat templates do before the answer: pieces after it carry no invented leading space.
_ANCHOR = "assistant\n"


@dataclass(frozen=True)
class _Row:
    side: str
    string: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    used: bool
    note: str


def resolve(
    tokenizer: Any,
    target: Sequence[str],
    control: Sequence[str],
    *,
    first_piece: bool = False,
    target_fallback: Sequence[str] = (),
) -> Observable:
    """The observable's token ids, and one preview row per string that says how it was read.

    A string counts when it is exactly one token as the assistant's first token. A string of several tokens is flagged
    and left out, except with `first_piece` (answers that belong to a pair): there its first piece stands for it,
    flagged too. An id on both sides tells nothing about their difference and is dropped from both. `target_fallback`
    is read only when no string of `target` is one token of this tokeniser. A variant with a leading space counts only
    when the string without it does not: an answer starts with one of the two, and the other would dilute the mean.

    Raises BadRequest when a side is left without a token; the message names the strings and how they were split.
    """
    return _observable(_rows(tokenizer, target, control, first_piece, target_fallback))


def preview(tokenizer: Any, target: Sequence[str], control: Sequence[str]) -> pd.DataFrame:
    """How a tokeniser reads a circuit's strings: the preview of `resolve`, also where a side is left without any."""
    return _preview(_rows(tokenizer, target, control, False, ()))


def _rows(
    tokenizer: Any, target: Sequence[str], control: Sequence[str], first_piece: bool, target_fallback: Sequence[str]
) -> list[_Row]:
    start = _answer_start(tokenizer)

    def read(side: str, strings: Sequence[str]) -> list[_Row]:
        return _without_needless_variants([_read(tokenizer, start, side, string, first_piece) for string in strings])

    rows = read("target", target)
    if not any(row.used for row in rows):
        rows += read("target", target_fallback)
    return _without_duplicates(_without_overlap(rows + read("control", control)))


def _preview(rows: Sequence[_Row]) -> pd.DataFrame:
    return pd.DataFrame(
        [(r.side, r.string, list(r.ids), list(r.pieces), r.used, r.note) for r in rows], columns=PREVIEW_COLUMNS
    )


def _observable(rows: Sequence[_Row]) -> Observable:
    """Ids of the rows that count, and all rows as the preview. Raises BadRequest when a side has none."""
    ids = {side: tuple(row.ids[0] for row in rows if row.side == side and row.used) for side in ("target", "control")}
    for side, found in ids.items():
        if not found:
            raise BadRequest(_nothing_left(side, [row for row in rows if row.side == side]))
    return Observable(ids["target"], ids["control"], _preview(rows))


def resolve_given(tokenizer: Any, target: Sequence[str], control: Sequence[str], *, strict: bool) -> Observable:
    """The observable of strings that a request brings in place of the circuit's.

    `strict` (a person gave them): each must be exactly one token as the assistant's first token, and of one side only.
    Else (harvested from answers) they are read as a circuit's are, except that every variant counts: each was seen.

    Raises BadRequest naming the string and how this model reads it.
    """
    start = _answer_start(tokenizer)
    rows = [
        _read(tokenizer, start, side, string, False)
        for side, strings in (("target", target), ("control", control))
        for string in strings
    ]
    unusable = next((row for row in rows if not row.used), None)
    if strict and unusable is not None:
        raise BadRequest(
            f"The {unusable.side} string {unusable.string!r} is not one token of this model ({unusable.note}). "
            "Give strings that are a single token where the answer starts."
        )
    apart = _without_overlap(rows)
    both = next((row for row, kept in zip(rows, apart, strict=True) if row.used and not kept.used), None)
    if strict and both is not None:
        raise BadRequest(
            f"The string {both.string!r} is the same token of this model as one of the other side. "
            "Give each token to one side only."
        )
    return _observable(_without_duplicates(apart))


def resolve_circuit(tokenizer: Any, circuit: Circuit) -> Observable:
    """The observable of a circuit whose strings are the same for all pairs."""
    return resolve(tokenizer, circuit.target, circuit.control, target_fallback=circuit.target_fallback)


def resolve_pair(tokenizer: Any, pair: PromptPair) -> Observable:
    """The observable of one pair that brings its own answers; a long answer is read by its first piece."""
    return resolve(tokenizer, pair.target, pair.control, first_piece=True)


def first_token_ids(tokenizer: Any, string: str, start: tuple[str, str] | None = None) -> tuple[int, ...]:
    """Token ids of `string` where the assistant's answer begins.

    `start` is the text before the answer and the space the template puts between them (default: the chat template's).

    A tokeniser may read the same letters differently after a space, at the start of a text or after a special token
    (SentencePiece vocabularies put a space in front of a text: "Sure" alone becomes "▁Sure"). What counts is the piece
    after the chat template's generation prompt, so the string is encoded behind that prompt and the prompt's own ids
    are taken off; where the template writes answers behind a space ("[/INST] Sure"), so is the string. Special tokens
    written in the string (<think>) come out as their single id.
    """
    prompt, gap = _answer_start(tokenizer) if start is None else start
    # Without the gap too: a special token swallows no space, so " <think>" would be two tokens.
    found = [
        ids
        for prefix, text in dict.fromkeys(((prompt, gap + string), (prompt, string), (_ANCHOR, string)))
        if (ids := _continuation(tokenizer, prefix, text))
    ]
    if found:
        return found[0] if len(found[0]) == 1 or not gap else min(found[:2], key=len)
    # The string merges with whatever stands before it. The vocabulary may still hold it as it is written.
    piece = tokenizer.convert_tokens_to_ids(string)
    if isinstance(piece, int) and piece >= 0 and piece != tokenizer.unk_token_id:
        return (piece,)
    return tuple(_encode(tokenizer, string))


def _answer_start(tokenizer: Any) -> tuple[str, str]:
    """The text before the assistant's first token, and the space the template itself puts before an answer ("" or " ").

    Both are read off the tokeniser's chat template: once with the generation prompt, once with an answer in place.
    """
    if not getattr(tokenizer, "chat_template", None):
        return _ANCHOR, ""
    question, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "ANSWER"}
    try:
        prompt = str(tokenizer.apply_chat_template([question], add_generation_prompt=True, tokenize=False))
        whole = str(tokenizer.apply_chat_template([question, answer], tokenize=False))
    except Exception:  # a template is a program of the model's author and may raise anything
        return _ANCHOR, ""
    between = whole[len(prompt) :].split("ANSWER", 1)[0] if whole.startswith(prompt) else ""
    return prompt, " " if between == " " else ""


def _continuation(tokenizer: Any, prefix: str, text: str) -> tuple[int, ...]:
    """Ids that `text` adds behind `prefix`; empty when the two merge at their border."""
    before, both = _encode(tokenizer, prefix), _encode(tokenizer, prefix + text)
    return tuple(both[len(before) :]) if both[: len(before)] == before else ()


def _encode(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _read(tokenizer: Any, start: tuple[str, str], side: str, string: str, first_piece: bool) -> _Row:
    ids = first_token_ids(tokenizer, string, start)
    read = pieces(tokenizer, ids)
    if not ids:
        return _Row(side, string, ids, read, False, "not a token of this model")
    if tokenizer.unk_token_id in ids:
        return _Row(side, string, ids, read, False, "unknown to this model's tokeniser")
    if len(ids) == 1:
        return _Row(side, string, ids, read, True, "")
    split = f"{len(ids)} tokens ({' + '.join(read)})"
    if first_piece:
        return _Row(side, string, ids, read, True, f"{split}: read by its first piece {read[0]!r}")
    return _Row(side, string, ids, read, False, f"{split}: only single tokens count, left out")


def _without_needless_variants(rows: list[_Row]) -> list[_Row]:
    plain = {row.string for row in rows if row.used}
    return [
        replace(row, used=False, note=f"not needed: {row.string.lstrip()!r} is one token here")
        if row.used and row.string != row.string.lstrip() and row.string.lstrip() in plain
        else row
        for row in rows
    ]


def _without_overlap(rows: list[_Row]) -> list[_Row]:
    sides: dict[int, set[str]] = {}
    for row in rows:
        if row.used:
            sides.setdefault(row.ids[0], set()).add(row.side)
    return [
        replace(row, used=False, note=f"{row.pieces[0]!r} is a token of both sides, dropped from both")
        if row.used and len(sides[row.ids[0]]) > 1
        else row
        for row in rows
    ]


def _without_duplicates(rows: list[_Row]) -> list[_Row]:
    first: dict[int, str] = {}
    out: list[_Row] = []
    for row in rows:
        if row.used and row.ids[0] in first:
            row = replace(row, used=False, note=f"same token as {first[row.ids[0]]!r}")
        elif row.used:
            first[row.ids[0]] = row.string
        out.append(row)
    return out


def _nothing_left(side: str, rows: Sequence[_Row]) -> str:
    if not rows:
        return f"The observable has no {side} strings. Give at least one string for each side."
    shown = "; ".join(f"{row.string!r}: {row.note}" for row in rows[:6]) + ("; ..." if len(rows) > 6 else "")
    return (
        f"None of the {side} strings is a single first token of this model on this side only ({shown}). "
        f"Choose other {side} strings, or another model."
    )
