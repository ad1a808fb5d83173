"""How much memory a model needs and how much is free, before anything is loaded. Imports no torch."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

M_ARENA_MAX, POOLS = -8, 2  # malloc.h; two, so that threads seldom wait for each other
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
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def share_pools() -> None:
    """Let all threads allocate from few pools, where the C library would give each thread its own.

    What one thread frees is then no use to the others: a server whose threads come and go holds more and more that
    nobody needs. The same goes for Arrow's own pool, in which all text of tables is: it is exchanged for the library's.
    For a process that serves many; call it before the threads are there.
    """
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    if mallopt := _of_glibc("mallopt"):
        mallopt(M_ARENA_MAX, POOLS)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (other libraries have functions of the same name)
        return getattr(library, name)
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return None
