"""Who is told what goes on while a model is fetched and loaded, and may stop it. Imports no torch."""

import threading
from collections.abc import Callable
from typing import Literal, TypeVar

LoadPhase = Literal["downloading", "loading", "proving"]
T = TypeVar("T")

_POLL = 0.1  # seconds between two looks at whether to go on


class Watch:
    """Told about every phase and its steps, and asked whether to go on. This one tells nobody and never stops.

    `enter(phase, total, done)` starts a phase of `total` steps, `done` of which were there before; steps of a download
    are bytes. `advance(n)` reports n more (n < 0: some were lost). `check()` raises Cancelled to stop.
    """

    def enter(self, phase: LoadPhase, total: int = 0, done: int = 0) -> None:
        """A phase starts."""

    def advance(self, n: int) -> None:
        """n more steps of this phase are done."""

    def check(self) -> None:
        """Raises Cancelled when the work is to stop."""


def interruptible(work: Callable[[], T], watch: Watch) -> T:
    """What `work()` returns, or the error it raises; leaves it behind as soon as `watch.check()` says stop.

    For waiting on a network: a call that hangs cannot be stopped, but nobody has to wait for it. Work that is left
    behind must look at the same watch itself, to end soon.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pprobe-network", daemon=True)
    thread.start()
    while thread.is_alive():
        watch.check()
        thread.join(_POLL)
    if errors:
        raise errors[0]
    return results[0]
