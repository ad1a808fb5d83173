"""How much memory a model needs and how much is free, before anything is loaded. Imports no torch."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

OVERHEAD = 200 * 2**20  # bytes beside the weights: activations of a batch, buffers, the file being read


def free_memory() -> int:
    """Bytes of RAM this process may still take: the system's available memory, or less inside a limited container."""
    available = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        reclaimable = next(
            int(line.split()[1])
            for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used + reclaimable))


def give_back() -> None:
    """Hand memory that was freed back to the system, where the C library keeps it.

    glibc does, as a sweep frees its memory in pieces: a server would hold a little more after every job.
    """
    if trim := _trim():
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return None
