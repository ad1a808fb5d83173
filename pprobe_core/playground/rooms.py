"""The playground of this process: which desk a question goes to, and when it opens and closes.

The worker of jobs.py owns the models of its pool, sometimes for minutes. A question must not wait that long where it
can be helped, and a sweep's hooks must never touch an answer, so models come from two places:

- *Small models* (float32 weights up to SMALL_BYTES; all shipped ones) are second copies in a pool of the playground's
  own. They share no module with the worker's, so neither sees the other's hooks, and both may compute at once. The
  copies are float32 on every device: loading one leaves torch's default dtype as it is for whoever computes meanwhile.
- *Larger models* are leased from the worker's pool, one user at a time, in order of arrival; the question waits for
  the next pause of the job that holds the model (between two blocks, points or answers), and says so. Another large
  model that does not fit beside the job's waits until the job has ended.

Each place has a desk (queue and thread) and an engine of its own, so a question that waits for a large model keeps
nobody waiting who asks a small one. Memory is bounded: the second copies by POOL_BYTES, the rest by the engine; when
nobody asks for ten minutes the copies are dropped.
"""

import threading
from typing import TYPE_CHECKING

from pprobe_core.errors import BadRequest
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.libraries import import_libraries
from pprobe_core.playground.desk import Desk
from pprobe_core.playground.types import Ask, Standing, checked_ask

if TYPE_CHECKING:
    from pprobe_core.jobs import Jobs
    from pprobe_core.playground.engine import Engine

SMALL_BYTES = 10**9  # float32 weights of a model that the playground may hold a second copy of
POOL_BYTES = 3 * SMALL_BYTES // 2  # all second copies together


def is_small(model: str) -> bool:
    """Whether the playground holds a copy of its own. Raises ModelUnavailable for a model that is not known."""
    return 0 < 4 * find_model(model).parameters <= SMALL_BYTES


class Playground:
    """Two desks on one results file. Every method may be called from any thread; none of them runs a model."""

    def __init__(self, jobs: "Jobs") -> None:
        self.jobs = jobs
        self._desks: dict[bool, Desk] = {}  # by whether the model is small; opened at the first question
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, visitor: str, ask: Ask, *, again: bool = False) -> None:
        """Put a visitor's question into its line, in place of the one before; `again` asks anew for the same.

        Raises BadRequest or ModelUnavailable for what is seen to be wrong already.
        """
        ask = checked_ask(ask)
        small = is_small(ask.model)
        with self._lock:
            other = self._desks.get(not small)
        if other is not None:
            other.leave(visitor)
        self._desk(small).ask(visitor, ask, again=again)

    def look(self, visitor: str) -> Standing | None:
        """Where a visitor's question stands, None when he has none. Looking is what keeps his place."""
        return self.wait(visitor, 0.0)

    def wait(self, visitor: str, timeout: float) -> Standing | None:
        """`look`, once the question has been answered or `timeout` seconds have passed."""
        with self._lock:
            desks = list(self._desks.values())
        for desk in desks:
            if desk.look(visitor) is not None:
                return desk.wait(visitor, timeout)
        return None

    def leave(self, visitor: str) -> None:
        """Forget a visitor and what he asked."""
        with self._lock:
            desks = list(self._desks.values())
        for desk in desks:
            desk.leave(visitor)

    def close(self) -> bool:
        """Give up what is being computed; False when a thread did not end in time (it ends with the process)."""
        with self._lock:
            self._closed = True
            desks, self._desks = list(self._desks.values()), {}
        closed = [desk.close() for desk in desks]  # every one of them, also after one that did not end
        return all(closed)

    def _desk(self, small: bool) -> Desk:
        def opens() -> "Engine":
            import_libraries()
            from pprobe_core.playground.engine import Engine, small_pool

            return Engine(self.jobs.store, small_pool(POOL_BYTES) if small else self.jobs.models())

        with self._lock:
            if self._closed:
                raise BadRequest("The program is closing, so no question can be answered.")
            if small not in self._desks:
                self._desks[small] = Desk(opens, name="playground" if small else "playground-large")
            return self._desks[small]


_lock = threading.Lock()
_the_playground: Playground | None = None


def shared(jobs: "Jobs") -> Playground:
    """The process-wide playground beside the process-wide queue of jobs; another queue closes the former one's."""
    global _the_playground
    with _lock:
        if _the_playground is None or _the_playground.jobs is not jobs:
            if _the_playground is not None:
                _the_playground.close()
            _the_playground = Playground(jobs)
        return _the_playground


def close() -> None:
    """Close the process-wide playground, if there is one."""
    global _the_playground
    with _lock:
        if _the_playground is not None:
            _the_playground.close()
            _the_playground = None
