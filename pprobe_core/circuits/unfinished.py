"""What is being typed into the editor of behaviours, kept as it is typed: a reload, a closed tab, a crash lose nothing.

It need not be a circuit yet, so it is no draft (editor.save_draft): fields as they stand, in a small file each.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pprobe_core.circuits.library import own_folder
from pprobe_core.circuits.own_sets import write_whole
from pprobe_core.errors import BadRequest

MAX_KEPT = 20  # the oldest goes
MAX_BYTES = 1_000_000
_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Unfinished:
    """What somebody typed and neither saved nor threw away."""

    name: str
    changed_at: datetime
    content: Mapping[str, Any]


def keep(name: str, content: Mapping[str, Any]) -> None:
    """Write what is typed now in place of what was kept under this name (16 hex digits).

    Raises BadRequest where it cannot be written or is too large.
    """
    raw = json.dumps(content, ensure_ascii=False, sort_keys=True).encode("utf-8")
    if len(raw) > MAX_BYTES:
        raise BadRequest(f"It is larger than {MAX_BYTES // 1000:,} kB. Store its pairs as a prompt set.")
    write_whole(_file(name), raw, "unfinished behaviour")
    for _, old in _files()[MAX_KEPT:]:
        forget(old.stem)


def listed() -> list[Unfinished]:
    """All that is kept, the last changed first; files that cannot be read are left out."""
    found = []
    for changed, path in _files():
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            found.append(Unfinished(path.stem, datetime.fromtimestamp(changed, UTC), content))
    return found


def forget(name: str) -> None:
    """Throw away what is kept under a name; nothing happens where there is nothing."""
    try:
        _file(name).unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"It cannot be deleted ({error.strerror}). Allow writing in {_folder()}.") from error


def _files() -> list[tuple[float, Path]]:
    """When they were written, and the files, the newest first; only those that `keep` can have written."""
    found = []
    for path in _folder().glob("*.json"):
        try:
            seen = path.stat()
        except OSError:  # thrown away meanwhile
            continue
        if _NAME.fullmatch(path.stem) and seen.st_size <= MAX_BYTES:
            found.append((seen.st_mtime, path))
    return sorted(found, reverse=True)


def _folder() -> Path:
    return own_folder() / "unfinished"


def _file(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name[:40]!r} is no name of something unfinished.")
    return _folder() / f"{name}.json"
