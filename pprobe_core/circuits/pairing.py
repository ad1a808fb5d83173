"""Prompt pairs made from a table: which columns hold what, and what becomes of every row."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pprobe_core.circuits.importing import USUAL_NAMES, Table, plain_name
from pprobe_core.circuits.keywords import Keywords
from pprobe_core.circuits.perturbations import contains_keyword
from pprobe_core.circuits.prompt_sets import MAX_FILE_BYTES, MAX_PAIRS, MAX_PROMPT_CHARS
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.wording import plural

_FIELD = re.compile(r"\{([^{}]+)\}")  # {column} in a template


@dataclass(frozen=True)
class Columns:
    """Where each part of a pair comes from: a column, or a text with {column} in it; "" where there is none."""

    original: str
    perturbed: str = ""
    keyword: str = ""
    target: str = ""
    control: str = ""
    gold: str = ""
    split: str = ""


@dataclass(frozen=True)
class Pairs:
    """What a table's columns gave. `lines` are rows of a prompt file; `left_out` names rows of the source by reason.

    A row's number is its place in the source, from 1; a header is not counted.
    """

    lines: tuple[Mapping[str, Any], ...]
    n_seen: int
    left_out: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Rows left out, by reason."""
        return {reason: len(rows) for reason, rows in self.left_out.items()}

    def as_bytes(self) -> bytes:
        """The pairs as a prompt file (JSONL)."""
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines).encode()


NO_PROMPT = "no prompt"
NO_TEXT = "the prompt is no text and no chat"
DUPLICATE = "the same prompts as a row before"
TOO_LONG = f"longer than {MAX_PROMPT_CHARS:,} characters"
NO_TWIN = "no second prompt"
NO_KEYWORD = "no word whose letters can be swapped"
NOT_IN_PROMPT = "the word to swap does not stand in the prompt"
NO_ANSWERS = "no right answer to both prompts"
DAMAGED = "another number of cells than the header"
EMPTY = "the row is empty"
OVER = f"beyond the first {MAX_PAIRS:,} pairs or {MAX_FILE_BYTES // 1_000_000} MB"


# Columns -----------------------------------------------------------------------------------------------------------


def guess_columns(table: Table, circuit: Circuit) -> Columns:
    """The columns that a pair's parts probably stand in: by the usual names, else the column with the longest texts."""
    by_name: dict[str, str] = {}
    for column in table.columns:
        by_name.setdefault(plain_name(column), column)
    wanted = [f.name for f in fields(Columns)]
    if not circuit.per_pair_observable:  # `target` is also what attacks call the answer they want
        wanted = [name for name in wanted if name not in ("target", "control")]
    found = {part: next((by_name[n] for n in USUAL_NAMES[part] if n in by_name), "") for part in wanted}
    if not found["original"]:
        lengths = {c: sum(len(r[c]) for r in table.rows[:200] if isinstance(r.get(c), str)) for c in table.columns}
        found["original"] = max(table.columns, key=lambda c: lengths[c])
    if found["split"] and any(row.get(found["split"]) not in _SPLITS for row in table.rows):
        found["split"] = ""  # train, test: another meaning
    return Columns(**found)


_SPLITS = ("discovery", "validation", "heldout", "", None)


def cannot_make(circuit: Circuit, columns: Columns) -> str:
    """Why pairs of this circuit cannot be made from these columns; "" when they can."""
    if not columns.original:
        return "Choose the column that holds the prompts."
    if circuit.perturbation == "given" and not columns.perturbed:
        return (
            f"“{circuit.title}” has no rule that makes the second prompt of a pair. {circuit.perturbation_text} Choose "
            "the column that holds it, or write a text with a column's name in braces, such as {question}."
        )
    if circuit.per_pair_observable and not (columns.target and columns.control):
        return (
            f"In “{circuit.title}” every pair brings its own right answers: choose the column with the answer to the "
            "first prompt (target) and the one with the answer to the second (control)."
        )
    return ""


def unknown_fields(table: Table, columns: Columns) -> list[str]:
    """Columns that are asked for and are not there."""
    missing = []
    for f in fields(columns):
        spec = getattr(columns, f.name)
        if spec and spec not in table.columns:
            names = _FIELD.findall(spec) or [spec]
            missing += [name for name in names if name.split(".")[0] not in table.columns and name not in table.columns]
    return missing


def _value(row: Mapping[str, Any], spec: str) -> Any:
    """What a column, or a text with {column} and {column.0.key} in it, gives for a row; None when a part is missing."""
    if not spec or spec in row:
        return row.get(spec)
    names = _FIELD.findall(spec)
    values = {name: _reached(row, name) for name in names}
    if not names or any(value is None for value in values.values()):
        return None
    return _FIELD.sub(lambda match: str(values[match[1]]).strip(), spec)


def _reached(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        value = row[name]
    else:
        value = row
        for step in name.split("."):
            if isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list):
                value = value[int(step)] if step.isdigit() and int(step) < len(value) else None
            else:
                return None
    return None if isinstance(value, str) and not value.strip() else value


# Pairs -------------------------------------------------------------------------------------------------------------


def make_pairs(table: Table, columns: Columns, circuit: Circuit, *, prefix: str = "row", n: int = MAX_PAIRS) -> Pairs:
    """The first n prompt pairs that the columns of a table give; every other row is named with the reason.

    Where the circuit swaps letters of a word and none is given, the word is guessed (see `keywords`). `prefix` starts
    the pairs' ids, which end in the row's number. Raises BadRequest when the columns cannot give pairs of this circuit
    (`cannot_make`) or do not exist.
    """
    if unknown := unknown_fields(table, columns):
        raise BadRequest(
            f"{table.name}: there is no column {unknown[0]!r}. The columns are {', '.join(table.columns[:20])}."
        )
    if reason := cannot_make(circuit, columns):
        raise BadRequest(reason)
    keywords = Keywords(circuit, _texts(table, columns)) if circuit.perturbation == "bpe_swap" else None
    lines: list[Mapping[str, Any]] = []
    left_out: dict[str, list[int]] = {}
    seen: set[str] = set()
    guessed, size = 0, 0
    for number, row in table.numbered():
        if len(lines) >= n:
            left_out.setdefault(OVER, []).append(number)
            continue
        line, reason, was_guessed = _line(row, columns, circuit, keywords)
        if not reason:
            key = " ".join(json.dumps([line["original"], line["perturbed"]], ensure_ascii=False).split())
            line = {"id": f"{prefix}-{number:04d}", **line}
            n_bytes = len(json.dumps(line, ensure_ascii=False).encode()) + 1
            if key in seen:
                reason = DUPLICATE
            elif size + n_bytes > MAX_FILE_BYTES:
                reason = OVER
            else:
                seen.add(key)
                lines.append(line)
                size += n_bytes
                guessed += was_guessed
        if reason:
            left_out.setdefault(reason, []).append(number)
    for reason, rows in ((DAMAGED, table.damaged), (EMPTY, table.empty)):
        if rows:
            left_out[reason] = list(rows)
    notes = []
    if guessed:
        notes.append(f"In {plural(guessed, 'pair')} the word to swap was guessed.")
    same = sum(line["original"] == line["perturbed"] for line in lines)
    if same:
        notes.append(f"In {plural(same, 'pair')} both prompts are the same: such a pair scores zero.")
    if table.n_more:
        notes.append(f"{table.n_more:,} more rows of the file were not looked at.")
    if table.n_blank:
        notes.append(f"{plural(table.n_blank, 'blank line', ('stands', 'stand'))} before or after the rows.")
    n_seen = len(table.rows) + len(table.damaged) + len(table.empty)
    return Pairs(tuple(lines), n_seen, {reason: tuple(rows) for reason, rows in left_out.items()}, tuple(notes))


def _texts(table: Table, columns: Columns) -> Iterator[str]:
    for row in table.rows:
        prompt = _prompt(_value(row, columns.original))
        if isinstance(prompt, str):
            yield prompt


def with_keywords(pairs: Pairs, keywords: Mapping[int, str]) -> Pairs:
    """The pairs with other words to swap, by their place from 0. Raises BadRequest for a word its prompt lacks."""
    lines = list(pairs.lines)
    for place, word in keywords.items():
        line, word = lines[place], word.strip()
        original = line["original"]
        text = original if isinstance(original, str) else original["messages"][-1]["content"]
        if not word or not contains_keyword(text, word):
            raise BadRequest(
                f"Pair {place + 1}: the word {word!r} does not stand in the prompt as a whole word. Write one that "
                "does."
            )
        lines[place] = {**line, "keyword": word}
    return replace(pairs, lines=tuple(lines))


def require_some(pairs: Pairs) -> None:
    """Raises BadRequest, with what became of the rows, when no pair is left."""
    if not pairs.lines:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in pairs.counts.items())
        raise BadRequest(f"No row gives a prompt pair ({why}). Choose other columns.")


def _line(
    row: Mapping[str, Any], columns: Columns, circuit: Circuit, keywords: Keywords | None
) -> tuple[dict[str, Any], str, bool]:
    """One row as a line of a prompt file, why it is left out (or ""), and whether its keyword was guessed."""
    original, perturbed = (_value(row, spec) for spec in (columns.original, columns.perturbed))
    prompts = []
    for value in (original, perturbed):
        prompt = _prompt(value)
        if prompt is _NO_TEXT:
            return {}, NO_TEXT, False
        if prompt is not None and len(json.dumps(prompt, ensure_ascii=False)) > MAX_PROMPT_CHARS:
            return {}, TOO_LONG, False
        prompts.append(prompt)
    first, second = prompts
    if first is None:
        return {}, NO_PROMPT, False
    text = first if isinstance(first, str) else first["messages"][-1]["content"]
    line: dict[str, Any] = {"original": first, "perturbed": second}
    guessed = False
    if second is None:
        if keywords is None:
            return {}, NO_TWIN, False
        keyword = str(_value(row, columns.keyword) or "").strip()
        if keyword and not contains_keyword(text, keyword):
            return {}, NOT_IN_PROMPT, False
        guessed = not keyword
        keyword = keyword or keywords.guess(text)
        if not keyword:
            return {}, NO_KEYWORD, False
        line["keyword"] = keyword
    for name in ("target", "control", "gold"):
        if answers := _answers(_value(row, getattr(columns, name))):
            line[name] = answers
    if circuit.per_pair_observable and not ("target" in line and "control" in line):
        return {}, NO_ANSWERS, False
    if split := _value(row, columns.split):
        line["split"] = split
    return line, "", guessed


_NO_TEXT = object()
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


def _prompt(value: Any) -> Any:
    """A cell as a prompt: a text, a chat that ends with the user's turn, None when empty, _NO_TEXT when neither."""
    if isinstance(value, bool | int | float):
        value = str(value)
    if isinstance(value, str):
        return _NO_TEXT if "\x00" in value else value.strip() or None
    if value is None or value == []:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        chat = _chat(value["messages"])
        tools = value.get("tools") or []
        if chat is None or not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            return _NO_TEXT
        return {"messages": chat} | ({"tools": tools} if tools else {})
    if isinstance(value, list):
        if isinstance(value[0], str):  # turns of the user, one after the other
            return _prompt(value[0])
        chat = _chat(value)
        if chat is not None:
            return chat[0]["content"] if len(chat) == 1 else {"messages": chat}
    return _NO_TEXT


def _chat(messages: Sequence[Any]) -> list[dict[str, str]] | None:
    """Messages up to the user's last turn, as role and content; None where they are no chat."""
    chat = []
    for message in messages:
        if not isinstance(message, Mapping):
            return None
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if role == "tool" and isinstance(content, str):
            role = "tool"
        elif not isinstance(role, str) or role not in _ROLES:
            return None
        else:
            role = _ROLES[role]
        if not isinstance(content, str) or not content.strip() or "\x00" in content:
            return None
        chat.append({"role": role, "content": content})
    while chat and chat[-1]["role"] != "user":
        chat.pop()
    return chat or None


def _answers(value: Any) -> list[str]:
    """Right answers in a cell: a list, or a text in which | separates them."""
    if isinstance(value, str):
        value = value.split("|")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [str(value)]
    if not isinstance(value, list):
        return []
    return [text for item in value if isinstance(item, str | int | float) and (text := str(item).strip())]


def interleaved(parts: Iterable[Pairs]) -> tuple[Mapping[str, Any], ...]:
    """The lines of several parts mixed evenly, so that any first n hold each part in its share."""
    placed = [
        ((k + 0.5) / len(part.lines), i, line) for i, part in enumerate(parts) for k, line in enumerate(part.lines)
    ]
    return tuple(line for _, _, line in sorted(placed, key=lambda item: item[:2]))
