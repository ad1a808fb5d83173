"""How fast this computer downloads and loads, remembered from the last time. Imports no torch."""

import json
from dataclasses import dataclass
from typing import Literal

from pprobe_core import settings

What = Literal["download", "load"]

# Bytes of the checkpoint per second where nothing was measured yet: a common home connection, a common disk.
ASSUMED: dict[What, float] = {"download": 10e6, "load": 250e6}
# Shorter or smaller pieces say more about the start of the work than about its speed.
LEAST_BYTES, LEAST_SECONDS = 5_000_000, 0.5


@dataclass(frozen=True)
class Pace:
    """Bytes per second, and whether they were measured on this computer or are assumed."""

    bytes_per_second: float
    measured: bool

    def seconds(self, n_bytes: int) -> float:
        """Time that so many bytes take."""
        return n_bytes / self.bytes_per_second


def pace(what: What) -> Pace:
    """The speed of the last download or load, else the assumed one."""
    value = _known().get(what)
    if isinstance(value, int | float) and value > 0:
        return Pace(float(value), True)
    return Pace(ASSUMED[what], False)


def remember(what: What, n_bytes: int, seconds: float) -> None:
    """Keep a measured speed for the next estimate; too small a sample, and a read-only folder, change nothing."""
    if n_bytes < LEAST_BYTES or seconds < LEAST_SECONDS:
        return
    file = settings.cache_dir() / "pace.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_known() | {what: n_bytes / seconds}), "utf-8")
    except OSError:
        pass


def _known() -> dict[str, object]:
    try:
        value = json.loads((settings.cache_dir() / "pace.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
