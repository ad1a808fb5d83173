"""A user's own prompt sets: kept in the cache folder as pairs (NAME.jsonl) beside what they are (NAME.json)."""

import contextlib
import datetime
import hashlib
import json
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pprobe_core.circuits.pairing import Columns, Pairs, require_some
from pprobe_core.circuits.prompt_sets import BUILT_IN, is_own, own_file, own_folder, parse
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest

MAX_TITLE = 80
_STALE_SECONDS = 3600  # a half-written file this old was left by a program that was killed


@dataclass(frozen=True)
class Origin:
    """Where prompts come from."""

    kind: str  # upload, paste, hub, known, recipe, file
    source: str  # file name, or data set with its commit and file, as a person reads it
    sha256: str = ""  # over the source's bytes
    licence: str = ""  # "" when nobody said
    url: str = ""


@dataclass(frozen=True)
class OwnSet:
    """What is known of a user's set. `left_out` counts rows by reason, `sha256` is over the stored pairs."""

    name: str
    title: str
    circuit: str
    origin: Origin
    n_seen: int
    n_pairs: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    columns: Mapping[str, str]
    sha256: str
    created_at: str  # UTC, ISO 8601


def add_set(circuit: Circuit, title: str, pairs: Pairs, origin: Origin, columns: Columns | None = None) -> OwnSet:
    """Store prompt pairs under a title; the same pairs under the same title again are the set that is there.

    The pairs are read as a probe would read them before anything is stored. Both files appear whole, the one that
    makes the set visible last. Raises BadRequest for pairs that cannot be used and where nothing can be written.
    """
    require_some(pairs)
    title = tidied(title)
    if not title:
        raise BadRequest("Give the prompt set a title: a few words by which you know it again.")
    raw = pairs.as_bytes()
    parse(f"{title}.jsonl", raw, circuit)
    sha256 = hashlib.sha256(raw).hexdigest()
    name = f"{_slug(title)}-{hashlib.sha256(f'{circuit.circuit_id}|{sha256}'.encode()).hexdigest()[:12]}"
    with contextlib.suppress(BadRequest):
        known = find_set(name)
        if known.title == title:
            return known
    made = OwnSet(
        name=name,
        title=title,
        circuit=circuit.circuit_id,
        origin=origin,
        n_seen=pairs.n_seen,
        n_pairs=len(pairs.lines),
        left_out=pairs.counts,
        notes=pairs.notes,
        columns={} if columns is None else {part: spec for part, spec in asdict(columns).items() if spec},
        sha256=sha256,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_whole(own_file(name), raw)
    write_whole(_card_file(name), json.dumps(asdict(made), ensure_ascii=False, indent=1).encode())
    return made


def list_sets(circuit_id: str | None = None) -> list[OwnSet]:
    """The user's sets, of one circuit or of all, the newest first. A damaged card is passed over."""
    found = []
    for path in own_folder().glob("*.json") if own_folder().is_dir() else ():
        with contextlib.suppress(BadRequest):
            found.append(find_set(path.stem))
    wanted = [s for s in found if circuit_id is None or s.circuit == circuit_id]
    return sorted(wanted, key=lambda s: (s.created_at, s.name), reverse=True)


def find_set(name: str) -> OwnSet:
    """What is known of a set. Raises BadRequest when there is none of this name."""
    unknown = (
        f"There is no prompt set {name[:80]!r} on this computer. `prompts list` and the page Prompt sets name them."
    )
    if not is_own(name) or not own_file(name).is_file():
        raise BadRequest(unknown)
    try:
        card: dict[str, Any] = json.loads(_card_file(name).read_text("utf-8"))
        origin = Origin(**card.pop("origin"))
        return OwnSet(**card | {"origin": origin, "notes": tuple(card["notes"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise BadRequest(unknown) from None


def exists(prompts: str) -> bool:
    """Whether this names a user's set that is on this computer."""
    with contextlib.suppress(BadRequest):
        return find_set(prompts).name == prompts
    return False


def delete_set(name: str) -> None:
    """Delete a set; runs made with it stay. Raises BadRequest when there is none, or when it cannot be deleted."""
    find_set(name)
    try:
        for path in (_card_file(name), own_file(name)):  # without its card a set is gone for every reader
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"The prompt set cannot be deleted ({error.strerror}). Allow writing there.") from error


def title_of(prompts: str) -> str:
    """How a prompt set is called in a sentence: the title of a user's set, a file's name, mini or general."""
    if prompts in BUILT_IN:
        return prompts
    if not is_own(prompts):
        return Path(prompts).name
    try:
        return find_set(prompts).title
    except BadRequest:
        return prompts[:-13]  # deleted since: its title's letters


def tidied(text: str, longest: int = MAX_TITLE) -> str:
    """A title or file name as it is kept: one line, without invisible characters."""
    shown = (c if unicodedata.category(c)[0] not in "CZ" else " " for c in text if unicodedata.category(c) != "Cf")
    return " ".join("".join(shown).split())[:longest].strip()


def write_whole(path: Path, raw: bytes, what: str = "prompts") -> None:
    """A file that appears whole or not at all. Raises BadRequest when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                    old.unlink()
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
        try:
            with part.open("wb") as whole:
                whole.write(raw)
                whole.flush()
                os.fsync(whole.fileno())
            part.replace(path)  # closed before: Windows moves no open file
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadRequest(
            f"The {what} cannot be kept in {path.parent} ({error.strerror or error}). Free some space or allow "
            "writing there, or set PPROBE_CACHE to another folder."
        ) from error


def _card_file(name: str) -> Path:
    return own_folder() / f"{name}.json"


def _slug(title: str) -> str:
    """Letters and digits of a title for a file name; "prompts" where it has none of ours."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "prompts"
