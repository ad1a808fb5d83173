"""Tables of prompts: read from files, pasted text and data sets, whatever their columns are called."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pprobe_core.circuits.prompt_sets import utf8_text
from pprobe_core.errors import BadRequest

FORMATS = ("csv", "tsv", "jsonl", "ndjson", "json", "txt", "parquet")
MAX_SOURCE_BYTES = 20_000_000
MAX_ROWS = 50_000  # looked at in one file
MAX_DECODED_BYTES = 200_000_000  # of a Parquet file, which may be packed a thousandfold

# The usual names of columns by the part of a pair they hold, the surest first.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {  # the usual column names, the surest first
    "original": (
        "original", "prompt", "goal", "behavior", "behaviour", "forbidden_prompt", "question", "instruction", "text",
        "query", "input", "request", "turns", "messages", "conversations", "conversation", "problem", "sentence",
        "claim", "content",
    ),
    "perturbed": ("perturbed", "perturbed_prompt", "counterfactual", "counterpart", "twin", "contrast"),
    "keyword": ("keyword", "key_word"),
    "target": ("target", "answer_original", "right_answer"),
    "control": ("control", "answer_perturbed", "other_answer"),
    "gold": ("gold",),
    "split": ("split",),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of a source, each a mapping from column to value, in their order. `sha256` is over the source's bytes.

    `numbers` are the rows' places in the source, from 1 (empty: as they come); a header is not counted, everything else
    is. The rows at `empty` hold nothing, those at `damaged` have another number of cells than the header: neither is in
    `rows`. `n_blank` blank lines stood before or after the rows, `n_more` rows behind the last one looked at.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    sha256: str
    numbers: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()
    n_blank: int = 0
    n_more: int = 0

    def numbered(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Each row with its place in the source."""
        return zip(self.numbers or range(1, len(self.rows) + 1), self.rows, strict=True)


class _Gap(Enum):
    """A place in a source without a row that can be read."""

    EMPTY = 1
    DAMAGED = 2


_Record = dict[str, Any] | _Gap


def read_table(name: str, raw: bytes) -> Table:
    """The rows of a file called `name`: CSV, TSV, JSONL, a JSON list, text with a prompt a line, or Parquet.

    Lists of choices with the right answer's number also give the columns `right choice` and `wrong choice` (the first
    other one). Raises BadRequest saying what was seen and what is accepted.
    """
    path = Path(name)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise BadRequest(
            f"{path.name}: the name must end in {', '.join('.' + f for f in FORMATS)}; found "
            f"{path.suffix or 'no ending'}."
        )
    if len(raw) > MAX_SOURCE_BYTES:
        raise BadRequest(
            f"{path.name}: {len(raw) / 1e6:.1f} MB, at most {MAX_SOURCE_BYTES // 1_000_000} MB are accepted. "
            "Give a part of it."
        )
    if not raw.strip():
        raise BadRequest(f"{path.name}: the file is empty.")
    found: Sequence[_Record]
    n_blank = n_more = 0
    if kind == "parquet":
        found, n_more = _parquet_rows(path, raw)
    else:
        text = utf8_text(path, raw)
        if kind in ("csv", "tsv"):
            found, n_blank = _csv_rows(path, text)
        elif kind == "json":
            found = _json_rows(path, text)
        elif kind == "txt":
            found = [{"text": line.strip()} if line.strip() else _Gap.EMPTY for line in text.splitlines()]
        else:
            found = _jsonl_rows(path, text)
    last = max((i for i, one in enumerate(found, start=1) if one is not _Gap.EMPTY), default=0)
    n_blank += len(found) - last
    n_more += sum(one is not _Gap.EMPTY for one in found[MAX_ROWS:last])
    looked_at = found[: min(last, MAX_ROWS)]
    rows = {i: one | _choices(one) for i, one in enumerate(looked_at, start=1) if not isinstance(one, _Gap)}
    damaged = _places(looked_at, _Gap.DAMAGED)
    if not rows:
        why = ": all have another number of cells than the header. Quote cells that hold a comma" if damaged else ""
        raise BadRequest(f"{path.name}: there is no row in the file that can be read{why}.")
    return Table(
        name=path.name,
        columns=tuple(dict.fromkeys(name for row in rows.values() for name in row)),
        rows=tuple(rows.values()),
        sha256=hashlib.sha256(raw).hexdigest(),
        numbers=tuple(rows),
        empty=_places(looked_at, _Gap.EMPTY),
        damaged=damaged,
        n_blank=n_blank,
        n_more=n_more,
    )


def _places(found: Iterable[_Record], gap: _Gap) -> tuple[int, ...]:
    return tuple(i for i, one in enumerate(found, start=1) if one is gap)


def read_pasted(text: str) -> Table:
    """The rows of a pasted text: JSON, cells from a spreadsheet with their header, else one prompt a line."""
    start = text.lstrip()
    first, _, rest = start.partition("\n")
    kind = "txt"
    if start.startswith("["):
        kind = "json"
    elif start.startswith("{"):
        kind = "jsonl"
    elif rest.strip():
        cells = first.split(max(",;\t", key=first.count))
        known = {name for names in USUAL_NAMES.values() for name in names}
        if len(cells) > 1 and any(plain_name(cell) in known for cell in cells):
            kind = "csv"
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise BadRequest("The pasted text has half of a character in it. Copy it again.") from None
    return read_table(f"pasted.{kind}", raw)


def _csv_rows(path: Path, text: str) -> tuple[list[_Record], int]:
    """The rows under the header, and how many blank lines stand before it."""
    first_line = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=first_line.count)
    previous = csv.field_size_limit(MAX_SOURCE_BYTES)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lines = [cells if any(cell.strip() for cell in cells) else None for cells in reader]
    except csv.Error as error:
        raise BadRequest(f"{path.name}: not a valid CSV file ({error}). Quote cells that hold line breaks.") from None
    finally:
        csv.field_size_limit(previous)
    first = next(((i, cells) for i, cells in enumerate(lines) if cells is not None), None)
    if first is None:  # separators and quotes only
        return [], 0
    at, names = first
    header = _unique([name.strip() for name in names])
    return [_csv_row(header, cells) for cells in lines[at + 1 :]], at


def _csv_row(header: Sequence[str], cells: Sequence[str] | None) -> _Record:
    if cells is None:
        return _Gap.EMPTY
    return dict(zip(header, cells, strict=True)) if len(cells) == len(header) else _Gap.DAMAGED


def _unique(names: Sequence[str]) -> list[str]:
    """Column names that are not empty and differ."""
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        name = name[:80] or f"column {number}"
        found.append(name if name not in found else f"{name} ({number})")
    return found


def _jsonl_rows(path: Path, text: str) -> list[_Record]:
    rows: list[_Record] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        where = f", line {number}"
        rows.append(_as_row(path, _json(path, line, where), where) if line.strip() else _Gap.EMPTY)
    return rows


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    value = _json(path, text, "")
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item]
        if len(lists) != 1:
            raise BadRequest(f"{path.name}: expected a list of rows, or an object that holds one such list.")
        value = lists[0]
    if not isinstance(value, list):
        raise BadRequest(f"{path.name}: expected a list of rows, found {type(value).__name__}.")
    return [_as_row(path, item, f", row {number}") for number, item in enumerate(value, start=1)]


def _json(path: Path, text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except UnicodeEncodeError:
        raise BadRequest(f"{path.name}{where}: there is an escape that is no character (half of a pair).") from None
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested or too large a number"
        raise BadRequest(f"{path.name}{where}: not valid JSON ({reason}).") from None
    return value


def _as_row(path: Path, value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    raise BadRequest(f"{path.name}{where}: expected an object or a text, found {type(value).__name__}.")


def _parquet_rows(path: Path, raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """The first rows, and how many more there are; columns of bytes (pictures, sounds) are passed over."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > MAX_DECODED_BYTES:
            raise BadRequest(
                f"{path.name}: {size / 1e6:,.0f} MB when unpacked, at most {MAX_DECODED_BYTES // 1_000_000} MB are "
                "accepted. Give a part of it."
            )
        names = [
            f.name for f in file.schema_arrow if not (pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type))
        ]
        rows: list[dict[str, Any]] = []
        n_bytes = 0
        for batch in file.iter_batches(batch_size=1000, columns=names):
            n_bytes += batch.nbytes
            if n_bytes > MAX_DECODED_BYTES or len(rows) >= MAX_ROWS:
                break
            rows += batch.to_pylist()
        return rows, file.metadata.num_rows - len(rows)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise BadRequest(f"{path.name}: not a Parquet file that can be read ({str(error)[:120]}).") from None


def _choices(row: Mapping[str, Any]) -> dict[str, Any]:
    """The right choice of a multiple-choice row, and the first wrong one; {} where there is no such thing."""
    choices: Any = row.get("choices")
    answer, labels = row.get("answer", row.get("answerKey")), None
    if isinstance(choices, Mapping):
        choices, labels = choices.get("text"), choices.get("label")
    if not isinstance(choices, list) or answer is None or not all(isinstance(c, str) for c in choices):
        return {}
    if isinstance(labels, list):
        at = labels.index(answer) if answer in labels else -1
    else:
        at = answer if isinstance(answer, int) else "ABCDEFGH".find(str(answer).strip().upper() or "?")
    wrong = [choice for i, choice in enumerate(choices) if i != at]
    return {"right choice": choices[at], "wrong choice": wrong[0]} if 0 <= at < len(choices) and wrong else {}


def plain_name(name: str) -> str:
    """A column's name without the ways it is written: "Forbidden Prompt" is forbidden_prompt."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())
