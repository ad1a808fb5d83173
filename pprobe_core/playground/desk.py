"""The fair queue: visitors ask, one thread answers one question at a time, everybody sees how many are before him.

A visitor has one question: a newer one takes the place of his older one, at the same place in the line; when the older
one is being answered at that moment it is given up, and the visitor goes to the end. So nobody gets a second turn
before everybody who waits has had one. A visitor who stops looking (a closed tab) loses his place, and what is being
computed for him is given up. One question's failure is that visitor's alone.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pprobe_core.errors import BadRequest, Cancelled, PprobeError
from pprobe_core.models.watching import LoadPhase, Watch
from pprobe_core.playground.types import Ask, Reply, Standing, State

IDLE_SECONDS = 10.0  # without a look, after which a visitor counts as gone
REST_SECONDS = 600.0
KEEP_SECONDS = 900.0  # that a visitor's last answer is kept for when he looks again
MAX_VISITORS = 500

log = logging.getLogger(__name__)


class Answering(Protocol):
    """What answers: the engine. `rest` is called when nobody has asked for a while, to give memory back."""

    def answer(self, ask: Ask, watch: "AskWatch") -> Reply: ...
    def rest(self) -> None: ...


@dataclass
class _Seat:
    """One visitor."""

    ask: Ask
    state: State = "waiting"
    note: str = ""
    waits_for_model: bool = False
    reply: Reply | None = None
    last: Reply | None = None
    error: str | None = None
    seen: float = field(default_factory=time.monotonic)


class AskWatch(Watch):
    """What the engine tells about the question in its hands, and asks whether to go on."""

    def __init__(self, seat: _Seat, idle_seconds: float) -> None:
        self.stop = threading.Event()
        self._seat = seat
        self._idle_seconds = idle_seconds

    def enter(self, phase: LoadPhase, total: int = 0, done: int = 0) -> None:
        """The model is being loaded."""
        self.say("Loading the model" if phase == "loading" else "Checking how the model is built")

    def say(self, note: str, waits_for_model: bool = False) -> None:
        """What is going on, in words."""
        self._seat.note, self._seat.waits_for_model = note, waits_for_model

    def check(self) -> None:
        """Raises Cancelled when a newer question took this one's place, the visitor left, or the program ends."""
        if time.monotonic() - self._seat.seen > self._idle_seconds:
            self.stop.set()
        if self.stop.is_set():
            raise Cancelled("The question was taken back.")


class Desk:
    """The line and its thread. Every method may be called from any thread; none of them runs a model.

    `opens` makes the engine, in the desk's own thread at the first question: large libraries come with it.
    `rest_seconds`: after so long without a question the engine is told to give memory back.
    """

    def __init__(
        self,
        opens: Callable[[], Answering],
        *,
        idle_seconds: float = IDLE_SECONDS,
        rest_seconds: float = REST_SECONDS,
        name: str = "desk",
    ) -> None:
        self._opens = opens
        self._engine: Answering | None = None
        self._idle_seconds, self._rest_seconds = idle_seconds, rest_seconds
        self._seats: dict[str, _Seat] = {}
        self._line: deque[str] = deque()
        self._served: str | None = None
        self._watch: AskWatch | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"pprobe-{name}", daemon=True)
        self._thread.start()

    def ask(self, visitor: str, ask: Ask, *, again: bool = False) -> None:
        """Put a visitor's question into the line, in place of his older one; the same question again only counts as a
        look, unless `again` asks for it anew. Raises BadRequest when too many people are here.
        """
        with self._changed:
            if self._closing:
                raise BadRequest("The program is closing, so no question can be answered.")
            self._forget_old()
            seat = self._seats.get(visitor)
            if seat is None and len(self._seats) >= MAX_VISITORS:
                raise BadRequest(f"{MAX_VISITORS} people are using the playground. Try again in a few minutes.")
            if seat is not None:
                seat.seen = time.monotonic()
                if seat.ask == ask and not again and seat.state != "left":
                    return
            seat = self._seats.setdefault(visitor, _Seat(ask))
            if self._served == visitor and self._watch is not None:
                self._watch.stop.set()
            seat.ask, seat.state, seat.note, seat.error, seat.reply = ask, "waiting", "", None, None
            seat.waits_for_model = False
            if visitor not in self._line:
                self._line.append(visitor)
            self._changed.notify_all()

    def look(self, visitor: str) -> Standing | None:
        """Where a visitor's question stands, None when he has none. Looking is what keeps his place."""
        with self._changed:
            seat = self._seats.get(visitor)
            if seat is None:
                return None
            seat.seen = time.monotonic()
            self._give_up_for_one_who_left()
            return self._standing(visitor, seat)

    def wait(self, visitor: str, timeout: float) -> Standing | None:
        """`look`, once the question has been answered or `timeout` seconds have passed."""
        limit = time.monotonic() + timeout
        with self._changed:
            while True:
                standing = self.look(visitor)
                left = limit - time.monotonic()
                if standing is None or standing.ended or left <= 0:
                    return standing
                self._changed.wait(min(left, self._idle_seconds / 4))

    def leave(self, visitor: str) -> None:
        """Forget a visitor and what he asked."""
        with self._changed:
            if self._served == visitor and self._watch is not None:
                self._watch.stop.set()
            if visitor in self._line:
                self._line.remove(visitor)
            self._seats.pop(visitor, None)
            self._changed.notify_all()

    def close(self, timeout: float = 10.0) -> bool:
        """Give up what is being computed and end the thread; False when it did not end in `timeout` seconds."""
        with self._changed:
            self._closing = True
            if self._watch is not None:
                self._watch.stop.set()
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _standing(self, visitor: str, seat: _Seat) -> Standing:
        ahead = 0
        if seat.state == "waiting" and visitor in self._line:
            ahead = self._line.index(visitor) + (self._served not in (None, visitor))
        return Standing(seat.ask, seat.state, ahead, seat.note, seat.waits_for_model, seat.reply, seat.last, seat.error)

    def _give_up_for_one_who_left(self) -> None:
        """Others who look notice it: the one who is served may be waiting for a model, where nobody asks."""
        served = self._seats.get(self._served) if self._served is not None else None
        if served is None or self._watch is None:
            return
        if time.monotonic() - served.seen > self._idle_seconds:
            self._watch.stop.set()

    def _forget_old(self) -> None:
        now = time.monotonic()
        for visitor in [v for v, seat in self._seats.items() if now - seat.seen > KEEP_SECONDS]:
            if visitor != self._served:
                self._seats.pop(visitor)
                if visitor in self._line:
                    self._line.remove(visitor)

    # -- the thread --

    def _work(self) -> None:
        rested = True
        while True:
            with self._changed:
                found = self._changed.wait_for(
                    lambda: self._closing or bool(self._line), None if rested else self._rest_seconds
                )
                if self._closing:
                    return
                turn = self._next() if found else None
            if not found and self._engine is not None:
                self._engine.rest()
            rested = not found
            if turn is not None:
                self._serve(*turn)

    def _next(self) -> tuple[str, _Seat, Ask, AskWatch] | None:
        """The first of the line who is still here, marked as being served."""
        visitor = self._line.popleft()
        seat = self._seats[visitor]
        if time.monotonic() - seat.seen > self._idle_seconds:
            seat.state = "left"
            return None
        self._served, seat.state = visitor, "working"
        self._watch = AskWatch(seat, self._idle_seconds)
        return visitor, seat, seat.ask, self._watch

    def _serve(self, visitor: str, seat: _Seat, ask: Ask, watch: AskWatch) -> None:
        """One question from start to end; whatever happens becomes a state of its visitor."""
        reply: Reply | None = None
        error: str | None = None
        try:
            if self._engine is None:
                watch.say("Starting")
                self._engine = self._opens()
            reply = self._engine.answer(ask, watch)
        except Cancelled:
            pass
        except PprobeError as problem:
            error = str(problem)
        except MemoryError:
            error = "The computer's memory is too small for this. Shorten the prompt or choose a smaller model."
        except BaseException as problem:  # a panic of a library is no Exception, and the next visitor waits
            log.exception("a question in the playground failed")
            error = (
                f"It stopped because of an internal error ({type(problem).__name__}). Change something and ask again; "
                "the terminal that started the dashboard shows the details."
            )
        with self._changed:
            self._served = self._watch = None
            if reply is not None:
                seat.last = reply
            if seat.ask is ask and seat.state == "working":  # else a newer question took its place meanwhile
                seat.reply, seat.error = reply, error
                seat.state = "done" if reply is not None else "failed" if error is not None else "left"
                seat.note, seat.waits_for_model = "", False
            self._changed.notify_all()
