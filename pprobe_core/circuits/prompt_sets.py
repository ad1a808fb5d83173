"""Prompt pairs of a circuit: the two sets that come with it, a user's own set, or a CSV or JSONL file."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pprobe_core import settings
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.perturbations import contains_keyword
from pprobe_core.circuits.schema import Circuit, Prompt, PromptPair, PromptSet, Split
from pprobe_core.errors import BadRequest

BUILT_IN = ("mini", "general")
COLUMNS = ("id", "split", "original", "perturbed", "keyword", "target", "control", "gold")
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}-[0-9a-f]{12}")  # a user's set: its title's letters, its content's hash
MAX_FILE_BYTES = 20_000_000
MAX_PAIRS = 5_000
MAX_PROMPT_CHARS = 20_000
# Three of five pairs choose neurons, one tests the choice, one takes no part. The file's order carries it, so that any
# first n pairs hold all three splits.
SPLIT_PATTERN: tuple[Split, ...] = ("discovery", "discovery", "discovery", "validation", "heldout")
IDENTICAL = "The two prompts are identical: every score of this pair is zero."

_ROLES = ("system", "user", "assistant", "tool")
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FORMAT_HELP = (
    "A prompt file has the columns original and perturbed (optional: id, split, keyword, target, control, gold); "
    "see docs/circuits.md."
)


def default_prompts(shipped: bool) -> str:
    """The prompt set that fits a model: "mini" for the small shipped ones, "general" for real chat models."""
    return "mini" if shipped else "general"


def load_prompt_set(circuit: str | Circuit, prompts: str, *, folder: Path | None = None) -> PromptSet:
    """A circuit's prompt pairs called `prompts`: "mini", "general", a user's set, or the path of a CSV / JSONL file.

    `folder` holds the circuits (default: those of the product). Raises BadRequest in plain words for anything that
    cannot be read: what was seen, where, and what is accepted.
    """
    folder = settings.CIRCUITS if folder is None else folder
    if isinstance(circuit, str):
        circuit = load_circuit(circuit, folder)
    if prompts in BUILT_IN:
        path = folder / "prompts" / f"{circuit.circuit_id}.{prompts}.jsonl"
        if not path.is_file():
            instead = "use a set you added for it" if circuit.own else f"add {path.name} to the circuit's prompts"
            raise BadRequest(
                f"The circuit {circuit.circuit_id!r} has no prompt set {prompts!r}. "
                f"Give a CSV or JSONL file, or {instead}."
            )
        return _read(path, circuit, prompts, "written for this project")
    if not prompts.strip():
        raise BadRequest(
            f"No prompt set was named. Choose {' or '.join(BUILT_IN)}, or the path of a CSV or JSONL file."
        )
    if is_own(prompts):
        path = own_file(prompts)
        if not path.is_file():
            raise BadRequest(
                f"There is no prompt set {prompts!r} on this computer: it was deleted, or added on another one. "
                "Add the same prompts again on the page Prompt sets, or choose another set."
            )
        return _read(path, circuit, prompts, "a user's set")
    return _read(Path(prompts).expanduser(), circuit, None, "a user's file")


def built_in(circuit: Circuit, folder: Path | None = None) -> tuple[str, ...]:
    """The sets that come with a circuit; a user's own circuit has none."""
    prompts = (settings.CIRCUITS if folder is None else folder) / "prompts"
    return tuple(name for name in BUILT_IN if (prompts / f"{circuit.circuit_id}.{name}.jsonl").is_file())


def is_own(prompts: str) -> bool:
    """Whether this is the name of a user's set, as `own_sets` gives it: no path, and the same on every computer."""
    return OWN_NAME.fullmatch(prompts) is not None


def own_folder() -> Path:
    """Where users' sets lie, each as NAME.jsonl beside NAME.json."""
    return settings.cache_dir() / "prompt_sets"


def own_file(name: str) -> Path:
    """The pairs of a user's set."""
    return own_folder() / f"{name}.jsonl"


def whole_name(prompts: str) -> str:
    """The name of a prompt set as it means the same in every folder: a file's whole path, others as they are."""
    return prompts if prompts in BUILT_IN or is_own(prompts) else str(Path(prompts).expanduser().resolve())


def limit_pairs(pairs: Sequence[PromptPair], n: int | None) -> tuple[PromptPair, ...]:
    """The first n pairs in file order (None: all). Raises BadRequest when n is below 1."""
    if n is None:
        return tuple(pairs)
    if n < 1:
        raise BadRequest(f"The limit of prompt pairs must be 1 or more, found {n}.")
    return tuple(pairs[:n])


def gold_answers(circuit: Circuit, pair: PromptPair) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Right answers to the original and to the perturbed prompt; empty where none is known."""
    if circuit.per_pair_observable:
        return pair.target, pair.control
    return pair.gold, ()


def pair_note(pair: PromptPair) -> str:
    """What a reader should know about a pair, "" when nothing."""
    return IDENTICAL if pair.perturbed == pair.original else ""


# Reading -----------------------------------------------------------------------------------------------------------


def _read(path: Path, circuit: Circuit, set_id: str | None, origin: str) -> PromptSet:
    return parse(path.name, _bytes(path), circuit, set_id, origin)


def parse(name: str, raw: bytes, circuit: Circuit, set_id: str | None = None, origin: str = "") -> PromptSet:
    """The prompt set in the bytes of a file called `name`. Raises BadRequest naming the file and the line."""
    path = Path(name)
    text = utf8_text(path, raw)
    rows = _csv_rows(path, text) if _SUFFIXES[path.suffix.lower()] == "csv" else _jsonl_rows(path, text)
    if not rows:
        raise BadRequest(f"{path.name}: there is no prompt pair in the file. {_FORMAT_HELP}")
    if len(rows) > MAX_PAIRS:
        raise BadRequest(
            f"{path.name}: {len(rows):,} prompt pairs, at most {MAX_PAIRS:,} are accepted. Give fewer pairs."
        )
    pairs = tuple(_pair(_Row(path, line, row), circuit, position) for position, (line, row) in enumerate(rows))
    _check_ids(path, pairs)
    if not any(pair.split == "discovery" for pair in pairs):
        raise BadRequest(
            f"{path.name}: no pair has the split discovery, which chooses the neurons. Mark some pairs with it, or "
            f"leave the column split out."
        )
    return PromptSet(set_id or path.name, circuit.circuit_id, pairs, hashlib.sha256(raw).hexdigest(), origin)


def _bytes(path: Path) -> bytes:
    """The file's bytes, after everything that can be told without reading them."""
    known = f"Choose {' or '.join(BUILT_IN)}, or the path of a .csv or .jsonl file."
    try:
        if not path.exists():
            raise BadRequest(f"There is no prompt file {str(path)!r}. {known}")
        if path.is_dir():
            raise BadRequest(f"{str(path)!r} is a folder, not a prompt file. {known}")
        if not path.is_file():
            raise BadRequest(f"{str(path)!r} is not a regular file. {known}")
        if path.suffix.lower() not in _SUFFIXES:
            raise BadRequest(f"{path.name}: the name must end in .csv or .jsonl, found {path.suffix or 'no ending'!r}.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BadRequest(
                f"{path.name}: the file has {size / 1e6:.1f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} MB are "
                f"accepted. Give fewer or shorter prompts."
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(f"The prompt file {str(path)!r} cannot be read ({reason}).") from None
    if not raw.strip():
        raise BadRequest(f"{path.name}: the file is empty. {_FORMAT_HELP}")
    return raw


def utf8_text(path: Path, raw: bytes) -> str:
    """The text in a file's bytes. Raises BadRequest, with the line, where it is not UTF-8."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadRequest(f"{path.name}: the file is UTF-16 (Unicode text). Save it as UTF-8.")
    if b"\x00" in raw:
        line = raw.count(b"\n", 0, raw.index(b"\x00")) + 1
        raise BadRequest(
            f"{path.name}, line {line}: there is a NUL byte, so this is not a text file. Save it as UTF-8 text."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte-order mark the decoder counts from after it.
        at = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, at) + 1
        raise BadRequest(
            f"{path.name}, line {line}: byte {at + 1} of the file (0x{raw[at]:02x}) is not UTF-8; the file may mix "
            f"encodings. Save it as UTF-8."
        ) from None


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    first_line = text.lstrip("\r\n").split("\n", 1)[0]
    # Spreadsheets write ; or a tab where the comma is the decimal mark.
    separator = max(",;\t", key=first_line.count)
    # A cell may be as long as the file: the limit on a prompt's length is checked with its row number later.
    previous = csv.field_size_limit(MAX_FILE_BYTES)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows: list[tuple[int, list[str]]] = [
            (reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)
        ]
    except csv.Error as error:
        raise BadRequest(
            f"{path.name}: not a valid CSV file ({error}). Quote cells that hold commas or line breaks."
        ) from None
    finally:
        csv.field_size_limit(previous)
    if not rows:
        raise BadRequest(f"{path.name}: there is no row in the file. {_FORMAT_HELP}")
    header = [name.strip().lower() for name in rows[0][1]]
    _check_columns(path, header)
    for number, (line, cells) in enumerate(rows[1:], start=1):
        if len(cells) != len(header):
            raise BadRequest(
                f"{path.name}, row {number} (line {line}): {len(cells)} cells, but the header has {len(header)} "
                f"columns. "
                "Quote cells that hold commas."
            )
    return [(line, dict(zip(header, cells, strict=True))) for line, cells in rows[1:]]


def _jsonl_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    # Only a line break ends a line of JSONL; splitlines would also cut at U+2028, which may stand inside a prompt.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
        except UnicodeEncodeError:
            raise BadRequest(
                f"{path.name}, line {number}: there is an escape that is no character (half of a surrogate pair)."
            ) from None
        except (ValueError, RecursionError) as error:  # also a number with too many digits
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deeply nested or too large a number"
            raise BadRequest(
                f"{path.name}, line {number}: not valid JSON ({reason}). Each line must be one object with "
                f"original and perturbed."
            ) from None
        if not isinstance(row, dict):
            raise BadRequest(
                f"{path.name}, line {number}: expected an object with original and perturbed, found "
                f"{line.strip()[:40]!r}."
            )
        if "\\u0000" in line and "\x00" in "".join(_texts(row)):
            raise BadRequest(f"{path.name}, line {number}: there is a NUL character (\\u0000). Remove it.")
        _check_columns(path, list(row), f", line {number}")
        rows.append((number, row))
    return rows


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)


def _check_columns(path: Path, seen: Sequence[str], where: str = "") -> None:
    unknown = [name for name in seen if name not in COLUMNS]
    twice = sorted({name for name in seen if seen.count(name) > 1})
    if "original" in seen and ("perturbed" in seen or "keyword" in seen) and not unknown and not twice:
        return
    problem = f"the column {twice[0]!r} stands twice" if twice else "wrong columns"
    raise BadRequest(
        f"{path.name}{where}: {problem}. Seen: {', '.join(repr(name[:40]) for name in seen[:12]) or 'none'}"
        f"{', ...' if len(seen) > 12 else ''}. Needed: original, perturbed. Optional: id, split, keyword, target, "
        f"control, gold."
    )


# One row -----------------------------------------------------------------------------------------------------------


class _Row:
    """One line of a prompt file with the place it came from, so that every error names it."""

    def __init__(self, path: Path, line: int, values: dict[str, Any]) -> None:
        self.path, self.line, self.values = path, line, values

    def wrong(self, message: str) -> BadRequest:
        return BadRequest(f"{self.path.name}, line {self.line}: {message}")

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and name == "id":
            value = str(value)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"{name} must be a text, found {type(value).__name__}.")
        return value.strip() or None if value is not None else None

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of texts; in one text several are separated by |."""
        value = self.values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            value = [part.strip() for part in value.split("|") if part.strip()]
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.wrong(f"{name} must be a text or a list of texts that are not empty.")
        return tuple(value)


def _pair(row: _Row, circuit: Circuit, position: int) -> PromptPair:
    original = _prompt(row, "original")
    if original is None:
        raise row.wrong("original is empty. Every pair needs an original prompt.")
    perturbed = _prompt(row, "perturbed")
    keyword = row.text("keyword")
    if perturbed is None:
        if circuit.perturbation == "given":
            raise row.wrong(
                f"perturbed is empty. The circuit {circuit.circuit_id!r} cannot make it by itself: give the "
                f"perturbed prompt."
            )
        if keyword is None:
            raise row.wrong(
                "perturbed and keyword are both empty. Give the perturbed prompt, or the keyword whose letters are "
                "to be swapped."
            )
        if not contains_keyword(original.text, keyword):
            raise row.wrong(
                f"the keyword {keyword!r} does not stand as a word in the original prompt. Give one that does."
            )
    target, control = row.strings("target"), row.strings("control")
    if circuit.per_pair_observable and not (target and control):
        raise row.wrong(
            f"target and control are needed in every pair of the circuit {circuit.circuit_id!r}: "
            "the right answers to the original and to the perturbed prompt."
        )
    return PromptPair(
        pair_id=row.text("id") or f"row-{position + 1:04d}",
        split=_split(row, position),
        original=original,
        perturbed=perturbed,
        keyword=keyword,
        target=target,
        control=control,
        gold=row.strings("gold"),
    )


def _split(row: _Row, position: int) -> Split:
    value = row.text("split")
    if value is None:
        return SPLIT_PATTERN[position % len(SPLIT_PATTERN)]
    accepted: tuple[Split, ...] = get_args(Split)
    for split in accepted:
        if value == split:
            return split
    raise row.wrong(f"split {value[:40]!r} is not known. Accepted: {', '.join(accepted)}, or leave the column out.")


def _prompt(row: _Row, name: str) -> Prompt | None:
    """A prompt as a text (one user turn) or as {"messages": [...], "tools": [...]}; None when empty."""
    value = row.values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        prompt = Prompt(({"role": "user", "content": value},))
    elif isinstance(value, dict):
        prompt = _chat(row, name, value)
    else:
        raise row.wrong(
            f'{name} must be a text or an object such as {{"messages": [...]}}, found {type(value).__name__}.'
        )
    length = sum(len(message["content"]) for message in prompt.messages) + (
        len(json.dumps(prompt.tools)) if prompt.tools else 0
    )
    if length > MAX_PROMPT_CHARS:
        raise row.wrong(
            f"{name} has {length:,} characters, at most {MAX_PROMPT_CHARS:,} are accepted. Shorten the prompt."
        )
    return prompt


def _chat(row: _Row, name: str, value: dict[str, Any]) -> Prompt:
    messages, tools = value.get("messages"), value.get("tools") or []
    unknown = [key for key in value if key not in ("messages", "tools")]
    if unknown:
        raise row.wrong(f"{name} has the key {unknown[0]!r}. Accepted: messages, tools.")
    if not isinstance(messages, list) or not messages:
        raise row.wrong(f"{name} needs a list of messages.")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise row.wrong(f"each message of {name} must have exactly the keys role and content.")
        if message["role"] not in _ROLES:
            raise row.wrong(f"{name} has a message with role {message['role']!r}. Accepted: {', '.join(_ROLES)}.")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise row.wrong(f"{name} has a message without content. Every message needs a text.")
    if messages[-1]["role"] != "user":
        raise row.wrong(
            f"the last message of {name} must be the user's, found {messages[-1]['role']!r}: the model answers it."
        )
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise row.wrong(f"tools of {name} must be a list of tool definitions.")
    return Prompt(tuple(dict(message) for message in messages), tuple(tools))


def _check_ids(path: Path, pairs: Sequence[PromptPair]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.pair_id in seen:
            raise BadRequest(
                f"{path.name}: the id {pair.pair_id[:40]!r} stands twice. Ids must differ, or leave the column out."
            )
        seen.add(pair.pair_id)
