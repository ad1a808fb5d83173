"""Models in memory: loaded once, lent to one user at a time, the longest idle ones dropped when memory runs short."""

import contextlib
import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pprobe_core.errors import Cancelled
from pprobe_core.models import devices, memory
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.loading import LoadedModel, estimated_bytes, load_model
from pprobe_core.models.watching import Watch

_POLL = 0.1  # seconds between two looks at the cancel flag while waiting
_GRACE = 1.0  # seconds that a model is offered to whoever stands in line for it, who may not be able to use it


@dataclass
class _Slot:
    """One model in memory and the thread that is using it."""

    loaded: LoadedModel
    n_bytes: int
    files: tuple[tuple[str, int, int], ...]  # name, size and time of its files when it was loaded
    user: int | None = None
    last_used: float = 0.0
    lender: int | None = None  # the thread that lets others use it for a moment and will go on with it

    @property
    def holder(self) -> int | None:
        """Whose it is: the thread that will give it back in the end; None where it is idle."""
        return self.user if self.lender is None else self.lender


class ModelPool:
    """Lends loaded models: `with pool.lease("mini-qwen3") as loaded: ...`.

    One user per model at a time (hooks change a shared module), in order of arrival; one load at a time. Idle models
    stay in memory up to the byte limit, then the least recently used goes first; a model in use is never dropped. Who
    holds one for long lets others use it between two steps (`lend`). The limit says how much is kept, not what fits: a
    model larger than the limit is admitted when it is alone, and whether it fits at all is the loader's question.
    Default limit: half of the memory that is free at the start, of the GPU where there is one.
    `load(model_id, watch=...)` is what loads a model that is not in memory.
    """

    def __init__(self, byte_limit: int | None = None, load: Callable[..., LoadedModel] = load_model) -> None:
        self.byte_limit = _free_where_models_live() // 2 if byte_limit is None else byte_limit
        self._load = load
        self._slots: dict[str, _Slot] = {}
        self._loading = False
        self._queues: dict[str, deque[object]] = {}  # tickets by model id, first come first served
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def lease(
        self, model: str, cancelled: threading.Event | None = None, watch: Watch | None = None
    ) -> Iterator[LoadedModel]:
        """The model for the caller alone until the block ends; waits for its turn.

        `watch` is told what loading does where the model is not in memory yet, and may stop it. Raises Cancelled when
        `cancelled` is set while waiting, ModelUnavailable when the model cannot be loaded.
        """
        model_id = find_model(model).id
        yielded = self._acquire(model_id, cancelled or threading.Event(), watch)
        try:
            yield yielded
        finally:
            del yielded
            with self._changed:
                slot = self._slots.get(model_id)
                if slot is not None and slot.user == threading.get_ident():  # else it was lent and did not come back
                    slot.user, slot.last_used = None, time.monotonic()
                del slot
                self._make_room(0)
                self._changed.notify_all()

    def lend(self, model_id: str, cancelled: threading.Event) -> None:
        """Let whoever stands in line for a model that this thread leased use it first; at once where nobody does.

        Call it while the model is as it was leased: no hook on it. It stays in memory meanwhile. Raises Cancelled when
        `cancelled` is set before it is back; then it is not this thread's any more.
        """
        with self._changed:
            queue, slot = self._queues[model_id], self._slots[model_id]
            if not queue:
                return
            ticket, idle_since = object(), time.monotonic()
            slot.user, slot.lender = None, threading.get_ident()
            queue.append(ticket)
            self._changed.notify_all()
            try:
                while True:
                    if slot.user is not None:
                        idle_since = time.monotonic()
                    elif queue[0] is ticket or time.monotonic() - idle_since > _GRACE:
                        slot.user = slot.lender
                        return
                    if cancelled.is_set():
                        raise Cancelled(f"Stopped while the model {model_id} was lent.")
                    self._changed.wait(_POLL)
            finally:
                queue.remove(ticket)
                slot.lender = None
                self._changed.notify_all()

    def loaded_ids(self) -> list[str]:
        """Ids of the models in memory, least recently used first."""
        with self._changed:
            return sorted(self._slots, key=lambda i: self._slots[i].last_used)

    def n_bytes(self) -> int:
        """Bytes of weights in memory."""
        with self._changed:
            return sum(slot.n_bytes for slot in self._slots.values())

    def idle_bytes(self) -> int:
        """Bytes of weights in memory that nobody is using: what making room for another model would free."""
        with self._changed:
            return self._idle_bytes()

    def clear(self) -> None:
        """Drop every idle model and hand its memory back to the system."""
        with self._changed:
            self._drop([i for i, slot in self._slots.items() if slot.holder is None])
            self._changed.notify_all()

    def _acquire(self, model_id: str, cancelled: threading.Event, watch: Watch | None) -> LoadedModel:
        """Wait in line, then take the idle model or load it."""
        files, ticket = _file_times(model_id), object()
        needed: int | None = None  # bytes, looked up only when the model has to be loaded: it may take the network
        with self._changed:
            slot = self._slots.get(model_id)
            if slot is not None and slot.user == threading.get_ident():
                raise RuntimeError(f"{model_id} is already leased by this thread; use that lease.")
            del slot
            queue = self._queues.setdefault(model_id, deque())
            queue.append(ticket)
        try:
            while True:
                with self._changed:
                    taken, idle = self._turn(model_id, files, ticket, needed, cancelled)
                if taken is not None:
                    return taken
                if idle is None:
                    break
                needed = estimated_bytes(model_id, reclaimable=idle)
        finally:
            with self._changed:
                queue.remove(ticket)
                self._changed.notify_all()
        try:
            loaded = self._load(model_id, watch=watch)  # outside the lock: others may go on with models that are there
        except BaseException:
            with self._changed:
                self._loading = False
                self._changed.notify_all()
            raise
        with self._changed:
            self._loading = False
            slot = _Slot(loaded, loaded.n_bytes, files, threading.get_ident(), time.monotonic())
            self._slots[model_id] = slot
            if cancelled.is_set():
                slot.user = None
            self._make_room(0)
            self._changed.notify_all()
        if cancelled.is_set():
            raise Cancelled(f"Stopped while the model {model_id} was being loaded.")
        return loaded

    def _turn(
        self,
        model_id: str,
        files: tuple[tuple[str, int, int], ...],
        ticket: object,
        needed: int | None,
        cancelled: threading.Event,
    ) -> tuple[LoadedModel | None, int | None]:
        """Wait for this ticket's turn: (the model, None) when it is in memory, (None, None) when the caller may load
        it, (None, bytes that idle models take) when it must first find out how much room it needs.
        """
        while True:
            if cancelled.is_set():
                raise Cancelled(f"Stopped while waiting for the model {model_id}.")
            if self._queues[model_id][0] is ticket:
                taken = self._take(model_id, files)
                if taken is not None:
                    return taken, None
                if model_id not in self._slots and not self._loading:
                    if needed is None:
                        return None, self._idle_bytes()
                    if self._make_room(needed):
                        self._loading = True
                        return None, None
            self._changed.wait(_POLL)

    def _idle_bytes(self) -> int:
        return sum(slot.n_bytes for slot in self._slots.values() if slot.holder is None)

    def _take(self, model_id: str, files: tuple[tuple[str, int, int], ...]) -> LoadedModel | None:
        """The model if it is in memory and idle; one whose files have changed on disk since is dropped instead."""
        slot = self._slots.get(model_id)
        if slot is None:
            return None
        if slot.user is not None:
            return None
        if slot.files != files:
            if slot.lender is not None:  # who goes on with it needs it as it was
                return None
            del slot
            self._drop([model_id])
            return None
        slot.user = threading.get_ident()
        return slot.loaded

    def _make_room(self, needed: int) -> bool:
        """Drop idle models, least recently used first, until `needed` more bytes fit; False when others are in the way.

        One model may always stay. Models that this thread itself is using do not count as being in the way: waiting
        for them would never end.
        """
        idle = sorted(
            (i for i, slot in self._slots.items() if slot.holder is None), key=lambda i: self._slots[i].last_used
        )
        used = sum(slot.n_bytes for slot in self._slots.values())
        dropped: list[str] = []
        while idle and used + needed > self.byte_limit and (needed or len(self._slots) - len(dropped) > 1):
            dropped.append(idle.pop(0))
            used -= self._slots[dropped[-1]].n_bytes
        self._drop(dropped)
        others = any(slot.holder not in (None, threading.get_ident()) for slot in self._slots.values())
        return used + needed <= self.byte_limit or not others

    def _drop(self, model_ids: list[str]) -> None:
        """Forget these models and give their memory back."""
        for model_id in model_ids:
            del self._slots[model_id]
        if not model_ids:
            return
        gc.collect()  # networks hold reference cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
        memory.give_back()


def _free_where_models_live() -> int:
    """Free bytes of the GPUs when models go there, else of RAM."""
    found = devices.detect()
    return sum(d.free for d in found if d.kind == found[0].kind)


def _file_times(model_id: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of a local folder's files, () for a hub model: its files never change."""
    entry = find_model(model_id)
    if entry.on_hub:
        return ()
    files = sorted(f for f in Path(entry.path).iterdir() if f.suffix in (".safetensors", ".json", ".jinja"))
    return tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
