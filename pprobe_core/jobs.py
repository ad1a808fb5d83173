"""Probes, sweeps and comparisons in the background: one worker owns the models; requests queue and can be stopped."""

import atexit
import contextlib
import functools
import gc
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pprobe_core import settings
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import limit_pairs, load_prompt_set, whole_name
from pprobe_core.comparison import CompareRequest, Unit, checked_comparison, units
from pprobe_core.errors import BadRequest, Cancelled, ModelUnavailable, PprobeError, StoreUnavailable
from pprobe_core.interventions.edits import ModelShape
from pprobe_core.interventions.requests import checked_sweep, sweep_id_of
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.checkpoint import weights_sha256
from pprobe_core.models.libraries import import_libraries
from pprobe_core.models.memory import give_back
from pprobe_core.models.watching import Watch
from pprobe_core.probing.strings import check_strings
from pprobe_core.probing.types import THINKING, Coupling, ProbeRequest
from pprobe_core.store import JobRow, NotWritable, Request, Run, Store, job_id_of
from pprobe_core.store.jobs import BlockKind, State
from pprobe_core.wording import parts_of_bytes, plural

if TYPE_CHECKING:  # torch comes with these; pages that only read must not wait for it
    import pandas as pd

    from pprobe_core.models.loading import LoadedModel
    from pprobe_core.models.pool import ModelPool
    from pprobe_core.probing.types import Prepared

Phase = Literal[
    "",
    "downloading",
    "loading",
    "proving",
    "two passes",
    "generating",
    "scoring",
    "measuring neurons",
    "sweeping",
    "answering",
    "collateral",
    "saving",
]
COUPLINGS: tuple[Coupling, ...] = ("plain", "norm_aware")
INTERNAL_ERROR = 1  # exit code of the command line for an error nobody foresaw
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled", "interrupted"})
MESSAGES: dict[Phase, str] = {
    "": "",
    "downloading": "Downloading the model",
    "loading": "Loading the model",
    "proving": "Checking how the model is built",
    "two passes": "Running both prompts of each pair",
    "generating": "Reading the first words of the model's answers",
    "scoring": "Scoring every neuron",
    "measuring neurons": "Switching off single neurons, one at a time",
    "sweeping": "Editing the model at every point",
    "answering": "Reading the edited model's answers",
    "collateral": "Looking at what else the edits change",
    "saving": "Saving the result",
}
_BLOCK_PHASES: dict[BlockKind, Phase] = {"capture": "two passes", "generation": "generating"}
UNITS: dict[Phase, str] = {  # what `done` of `total` counts in a phase
    "downloading": "bytes",
    "two passes": "pairs",
    "generating": "pairs",
    "measuring neurons": "neurons",
    "sweeping": "points",
    "answering": "answers",
    "collateral": "circuits",
}


@dataclass(frozen=True)
class JobStatus:
    """A job as a page or the command line shows it.

    `done` of `total` are steps of the present phase, counted in `unit` (0 of 0 where a phase has no steps);
    `eta_seconds` is the time this phase still needs at the pace seen so far, None until there is one. `position` is the
    place in the queue, from 1; 0 when it does not wait. `message` says in words what goes on; `error` is a sentence for
    the user.
    """

    job_id: str
    state: State
    phase: Phase
    done: int
    total: int
    eta_seconds: float | None
    message: str
    error: str | None
    exit_code: int | None  # what the command line ends with where the job failed
    run_id: str | None
    sweep_id: str | None
    position: int
    request: Request
    unit_at: Unit | None = None  # of a comparison: the piece in hand, the n_units_done-th of n_units
    n_units_done: int = 0
    n_units: int = 0

    @property
    def unit(self) -> str:
        """What the steps of the present phase are."""
        return UNITS.get(self.phase, "steps")

    @property
    def count(self) -> str:
        """What is done of the present phase, in words: "12 of 96 pairs", "1.2 of 3.4 GB"; "" without steps."""
        if not self.total:
            return ""
        if self.unit == "bytes":
            return parts_of_bytes(self.done, self.total)
        return f"{self.done:,} of {self.total:,} {self.unit}"

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself."""
        return self.state in ENDED


@dataclass
class _Live(Watch):
    """What the worker knows about the job in its hands."""

    job_id: str
    begun: bool = False  # the file says that it runs: if it is "queued" again, it was asked for again
    stop: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False  # by the user; else the process is closing
    again: bool = False  # to be queued once more: asked for while it was being stopped
    gave_way: bool = False  # ended in the middle to let others go first
    part: str | None = None  # job_id of the piece of a comparison in hand
    unit: Unit | None = None  # that piece
    n_units_done: int = 0
    n_units: int = 0
    phase: Phase = "loading"
    done: int = 0
    total: int = 0
    resumed: int = 0  # of `done`, not computed in this phase's time
    started: float = field(default_factory=time.monotonic)
    lend: Callable[[], None] | None = None  # lets others use the model that this job has leased

    def enter(self, phase: Phase, total: int = 0, done: int = 0) -> None:
        self.phase, self.total, self.done, self.resumed, self.started = phase, total, done, done, time.monotonic()

    def advance(self, n: int) -> None:
        self.done += n

    @property
    def at(self) -> str:
        """The job whose pieces are being computed: this one, or the part of the comparison."""
        return self.part or self.job_id

    def eta_seconds(self) -> float | None:
        fresh = self.done - self.resumed
        if fresh <= 0:
            return None
        return (time.monotonic() - self.started) / fresh * (self.total - self.done)

    def check(self) -> None:
        if self.stop.is_set():
            raise Cancelled("The job was stopped; what was finished is kept and used when it is asked for again.")

    def pause(self) -> None:
        """Between two steps, with no hook on the model: `check`, and a question that waits for the model goes first."""
        self.check()
        if self.lend is not None:
            self.lend()


class Jobs:
    """The queue and its worker. Every method may be called from any thread; none of them runs a model.

    With `resume`, jobs that a former process left unfinished are taken up again at once; finished blocks are not
    computed a second time. `notice` is a sentence to show when runs cannot be kept, else "".
    """

    def __init__(self, store: Store, pool: "ModelPool | None" = None, *, resume: bool = True, notice: str = "") -> None:
        self.store = store
        self.notice = notice
        self._pool = pool
        self._queue: list[str] = []
        self._live: _Live | None = None
        self._outcomes: dict[str, tuple[State, str | None, int | None]] = {}  # ends that the file could not take
        self._closing = False
        self._changed = threading.Condition()
        store.mark_interrupted()
        if resume:
            store.clean_jobs()
            for row in store.unfinished_jobs():
                self._queue.append(store.add_job(row.request, here=row.here).job_id)
        self._thread = threading.Thread(target=self._work, name="pprobe-worker", daemon=True)
        self._thread.start()

    # -- what pages and the command line call --

    def submit(self, request: Request, *, here: bool = False) -> str:
        """Ask for a probe, a sweep or a comparison and return its job_id at once.

        A request that is under way is the same job; one whose result exists ends at once with that result; one that was
        stopped goes on where it stopped. With `here` a recorded result is no answer: the probe or sweep is computed on
        this computer and takes its place when it is complete. Raises BadRequest or ModelUnavailable for what is seen to
        be wrong already.
        """
        if isinstance(request, SweepRequest):
            request = checked_sweep(request, shape_of(self.store.run(request.run_id)))
        elif isinstance(request, CompareRequest):
            request = checked_comparison(request)
        else:
            request = checked(request)
        with self._changed:
            if self._closing:
                raise StoreUnavailable("The program is closing, so nothing new can start.")
            if self._outcomes.pop(job_id_of(request), None) is not None:
                # It ended here, but the file could not take that and still says "running".
                self.store.set_job_state(job_id_of(request), "interrupted")
            row = self.store.add_job(request, here=here)
            live = self._live if self._live is not None and self._live.job_id == row.job_id else None
            if live is not None and live.cancelled:
                live.again = True
            about_to_begin = live is not None and not live.begun
            if row.state == "queued" and row.job_id not in self._queue and not about_to_begin:
                self._queue.append(row.job_id)
                self._changed.notify_all()
        return row.job_id

    def status(self, job_id: str) -> JobStatus:
        """Where a job stands. Raises BadRequest when there is no such job."""
        row = self.store.job(job_id)
        if row is None:
            raise BadRequest(f"There is no job {job_id!r}. Ask for it again.")
        return self._status(row)

    def cancel(self, job_id: str) -> None:
        """Stop a job: at once when it waits, after the block at hand when it runs; an ended job is left as it is.

        Stopping the part of a comparison that is in hand stops the comparison.
        """
        with self._changed:
            if self._live is not None and job_id in (self._live.job_id, self._live.part):
                self._live.cancelled, self._live.again = True, False
                self._live.stop.set()
            else:
                if job_id in self._queue:
                    self._queue.remove(job_id)
                row = self.store.job(job_id)
                if row is not None and row.state in ("queued", "interrupted"):
                    self.store.set_job_state(job_id, "cancelled")
            self._changed.notify_all()

    def wait(self, job_id: str, timeout: float | None = None) -> JobStatus:
        """Block until the job has ended or `timeout` seconds have passed; the status then."""
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status(job_id)
            left = 1.0 if limit is None else limit - time.monotonic()
            if status.ended or left <= 0:
                return status
            with self._changed:
                self._changed.wait(min(left, 0.1))

    def close(self, timeout: float = 10.0) -> bool:
        """Stop the worker after the block at hand; its job becomes "interrupted" and goes on at the next start.

        Lets the results file go. False when the worker did not stop in `timeout` seconds (it ends with the process).
        """
        with self._changed:
            self._closing = True
            if self._live is not None:
                self._live.stop.set()
            self._changed.notify_all()
        self._thread.join(timeout)
        stopped = not self._thread.is_alive()
        live = self._live
        if not stopped and live is not None and live.cancelled:
            with contextlib.suppress(StoreUnavailable):  # it was the user who stopped it: it must not go on by itself
                self.store.set_job_state(live.job_id, "cancelled")
        self.store.close()
        return stopped

    def reclaimable(self) -> int:
        """Bytes of memory that idle models would give back to another one."""
        return 0 if self._pool is None else self._pool.idle_bytes()

    def models(self) -> "ModelPool":
        """The models that the worker uses; a lease waits for its turn. The first call imports torch."""
        if self._pool is None:
            self._pool = _shared_pool()
        return self._pool

    @property
    def busy(self) -> bool:
        """True while a job runs or waits."""
        with self._changed:
            return self._live is not None or bool(self._queue)

    def _status(self, row: JobRow) -> JobStatus:
        with self._changed:
            mine = self._live is not None and row.job_id in (self._live.job_id, self._live.part)
            live = replace(self._live) if self._live is not None and mine else None
            position = self._queue.index(row.job_id) + 1 if row.job_id in self._queue else 0
            state, error, code = self._outcomes.get(row.job_id, (row.state, row.error, row.exit_code))
        status = JobStatus(
            row.job_id, state, "", 0, 0, None, "", error, code, row.run_id, row.sweep_id, position, row.request
        )
        if state == "queued":
            return replace(status, message=f"Waiting, place {position} in the queue" if position else "Starting")
        if state != "running" or live is None:
            return status
        message = "Stopping after the piece at hand" if live.stop.is_set() else MESSAGES[live.phase]
        eta = live.eta_seconds()
        status = replace(status, phase=live.phase, done=live.done, total=live.total, eta_seconds=eta, message=message)
        if row.job_id != live.job_id:
            return status
        return replace(status, unit_at=live.unit, n_units_done=live.n_units_done, n_units=live.n_units)

    # -- the worker --

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._queue))
                if self._closing:
                    return
                live = self._live = _Live(self._queue.pop(0))
            try:
                self._run(live)
            finally:
                give_back()
                with self._changed:
                    self._live = None
                    if live.gave_way and live.cancelled and not live.again:  # stopped a moment after it gave way
                        self._end(live.job_id, "cancelled")
                    elif (live.again or live.gave_way) and not self._closing and live.job_id not in self._queue:
                        with contextlib.suppress(StoreUnavailable):
                            self.store.set_job_state(live.job_id, "queued")
                            self._queue.append(live.job_id)
                    self._changed.notify_all()

    def _run(self, live: _Live) -> None:
        """One job from start to end; whatever happens becomes a state of the job."""
        try:
            with self._changed:
                live.begun = True
                self.store.set_job_state(live.job_id, "running")
            row = self.store.job(live.job_id)
            if row is None:
                return
            if isinstance(row.request, CompareRequest):
                self._compare(live, row.request)
            else:
                self._perform(live, row.request)
        except Cancelled:
            self._end(live.job_id, "cancelled" if live.cancelled else "interrupted")
        except BaseException as error:
            self._fail(live.job_id, error)

    def _perform(self, live: _Live, request: ProbeRequest | SweepRequest) -> None:
        """Compute what a probe or a sweep asks for, in the name of `live.at`."""
        if isinstance(request, SweepRequest):
            self._sweep(live, request)
        else:
            self._probe(live, request)

    def _fail(self, job_id: str, error: BaseException) -> None:
        """End a job with a sentence about what went wrong."""
        if isinstance(error, PprobeError):
            self._end(job_id, "failed", str(error), error.exit_code)
            return
        self._end(job_id, "failed", self._explain(error), INTERNAL_ERROR)
        with contextlib.suppress(StoreUnavailable):
            self.store.drop_blocks(job_id)  # the fault may lie in them: the next attempt starts afresh

    def _end(self, job_id: str, state: State, error: str | None = None, exit_code: int | None = None) -> None:
        try:
            self.store.set_job_state(job_id, state, error=error, exit_code=exit_code)
        except StoreUnavailable:  # a full disk: the user still learns how it ended
            with self._changed:
                self._outcomes[job_id] = (state, error, exit_code)

    def _compare(self, live: _Live, request: CompareRequest) -> None:
        """Every part of a comparison that is not there yet, each as the job it would be on its own.

        A part that fails is noted and the others go on. Between two parts other jobs that wait get their turn.
        """
        planned = units(request)
        live.n_units = len(planned)
        unusable: dict[str, str] = {}  # model -> why none of its parts can be made
        failures: list[PprobeError] = []
        n_there = 0
        for place, unit in enumerate(planned):
            live.n_units_done, live.unit, live.part = place, unit, None
            live.enter("loading")
            live.check()
            if self._others_wait():
                live.gave_way = True
                return
            if unit.model in unusable and unit.kind == "probe":
                self._end(
                    self.store.add_job(unit.probe).job_id, "failed", unusable[unit.model], ModelUnavailable.exit_code
                )
                continue
            try:
                n_there += self._unit(live, unit)
            except (Cancelled, StoreUnavailable):
                raise
            except PprobeError as error:
                failures.append(error)
                if isinstance(error, ModelUnavailable):
                    unusable[unit.model] = str(error)
        live.part, live.unit, live.n_units_done = None, None, len(planned)
        if not n_there and failures:
            raise failures[0]
        note = f"{plural(len(failures), 'part')} could not be made: {failures[0]}" if failures else None
        self._end(live.job_id, "done", note)

    def _unit(self, live: _Live, unit: Unit) -> bool:
        """Compute a part of a comparison as the job it would be on its own; False where it cannot be without its probe.

        Raises what went wrong as a PprobeError, after that job has been ended with it.
        """
        part: ProbeRequest | SweepRequest = unit.probe
        try:
            if unit.kind != "probe":
                run_id = self.store.run_of(checked(unit.probe))
                if run_id is None:
                    return False
                run = self.store.run(run_id)
                part = checked_sweep(unit.sweep(run_id, load_circuit(unit.circuit)), shape_of(run))
                if self.store.has_sweep(sweep_id_of(run.request_key, part)):
                    return True
            else:
                part = checked(unit.probe)
                known = self.store.run_of(part)
                if known is not None and self._holds(self.store.run(known)):
                    return True
            live.part = self.store.add_job(part).job_id
            self.store.set_job_state(live.part, "running")
            self._perform(live, part)
        except Cancelled:
            if live.part:
                self._end(live.part, "cancelled" if live.cancelled else "interrupted")
            raise
        except BaseException as error:  # a panic of a library is no Exception
            job_id = live.part or self.store.add_job(part).job_id
            self._fail(job_id, error)
            if isinstance(error, PprobeError):
                raise
            raise PprobeError(self.status(job_id).error or "It failed.") from error
        return True

    def _holds(self, run: Run) -> bool:
        """Whether a run's model, circuit and prompts are what is there now, as far as files tell."""
        circuit, s = load_circuit(run.request.circuit), run.summary
        prompts = load_prompt_set(circuit, run.request.prompts)
        entry = find_model(run.request.model)
        weights = None if entry.on_hub else weights_sha256(Path(entry.path))
        return (circuit.sha256, prompts.sha256, weights or s.get("weights_sha256")) == (
            s.get("circuit_sha256"),
            s.get("prompt_set_sha256"),
            s.get("weights_sha256"),
        )

    def _others_wait(self) -> bool:
        """Whether anything but a comparison stands in the queue: a long one must not keep short ones waiting."""
        with self._changed:
            waiting = list(self._queue)
        rows = [self.store.job(job_id) for job_id in waiting]
        return any(row is not None and not isinstance(row.request, CompareRequest) for row in rows)

    def _sweep(self, live: _Live, request: SweepRequest) -> None:
        """Run one sweep, committing every point and answer, and store it."""
        run = self.store.run(request.run_id)
        sweep_id = sweep_id_of(run.request_key, request)
        if self.store.has_sweep(sweep_id, here=self._asked_here(live)):
            self.store.set_job_state(live.at, "done", run_id=run.run_id, sweep_id=sweep_id)
            return
        self.store.set_job_state(live.at, "running", run_id=run.run_id, sweep_id=sweep_id)
        prepare_libraries()
        from pprobe_core import sweeping

        with self._leased(run.request.model, live) as loaded:
            sweeping.perform(self.store, loaded, run, request, live.at, live)

    def _probe(self, live: _Live, request: ProbeRequest) -> None:
        """Run one probe, committing every block, and store its run."""
        prepare_libraries()
        import pandas as pd

        from pprobe_core.probing import probe
        from pprobe_core.probing.units import result_of

        circuit = load_circuit(request.circuit)
        prompt_set = load_prompt_set(circuit, request.prompts)
        live.check()
        with self._leased(request.model, live) as loaded:
            key = probe.request_key(loaded, circuit, prompt_set, request)
            known = self.store.find(key, here=self._asked_here(live))
            if known is not None:
                self.store.set_job_state(live.at, "done", run_id=known)
                return
            self.store.start_job(live.at, key)
            prepared = probe.prepare(loaded, circuit, prompt_set, request)
            tables = [
                made
                for kind, phase in _BLOCK_PHASES.items()
                for made in self._blocks(live, loaded, prepared, request, kind, phase)
            ]
            live.enter("scoring")
            result = result_of(loaded, request, pd.concat(tables), prepared)
            live.check()
            live.enter("saving")
            summary = result.summary | {"model_path": loaded.path}
            self.store.save_run(replace(result, summary=summary), live.at)

    @contextlib.contextmanager
    def _leased(self, model: str, live: _Live) -> "Iterator[LoadedModel]":
        """The model for the job in hand, which lends it in its pauses."""
        pool = self.models()
        with pool.lease(model, live.stop, live) as loaded:
            live.lend = lambda: pool.lend(loaded.id, live.stop)
            try:
                yield loaded
            finally:
                live.lend = None

    def _asked_here(self, live: _Live) -> bool:
        """Whether the job in hand is to be computed although a recorded result is there."""
        row = self.store.job(live.at)
        return row is not None and row.here

    def _blocks(
        self,
        live: _Live,
        loaded: "LoadedModel",
        prepared: "Prepared",
        request: ProbeRequest,
        kind: BlockKind,
        phase: Phase,
    ) -> Iterator["pd.DataFrame"]:
        """The tables of all units of one kind: those committed before, then the others, committed as they are made."""
        from pprobe_core.probing.units import measure, n_pairs, plan_units, table

        pieces = [unit for unit in plan_units(prepared, request) if unit.kind == kind]
        if not pieces:
            return
        sizes = n_pairs(prepared)
        known = self.store.blocks(live.at, kind)
        live.enter(phase, sum(sizes), sum(sizes[: len(known)]))
        live.check()
        for unit in pieces:
            if unit.block < len(known):
                yield table(loaded, prepared, unit, known[unit.block])
                continue
            made = measure(loaded, unit, prepared)
            self.store.add_block(live.at, kind, unit.block, made["payload"].iloc[0])
            live.done += sizes[unit.block]
            live.pause()
            yield made

    def _explain(self, error: BaseException) -> str:
        """A sentence for an error nobody foresaw; the details go to a log file beside the results file."""
        text = str(error).lower()
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
            return "The computer's memory is too small for this. Use a smaller model, or fewer or shorter prompts."
        log = self._log_file()
        try:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\n{datetime.now(UTC).isoformat(timespec='seconds')}\n")
                traceback.print_exception(error, file=file)
        except OSError:
            return f"It stopped because of an internal error ({type(error).__name__}). Stored runs are unharmed."
        return (
            f"It stopped because of an internal error ({type(error).__name__}). Stored runs are unharmed; "
            f"the details for a bug report are in {log}."
        )

    def _log_file(self) -> Path:
        folder = Path(tempfile.gettempdir()) if self.store.in_memory else self.store.path.parent
        return folder / "pprobe.log"

    def active(self) -> Sequence[JobStatus]:
        """Jobs that wait or run, newest first."""
        found = [self._status(row) for row in self.store.active_jobs()]
        return [status for status in found if status.state in ("queued", "running")]

    def latest(self) -> JobStatus | None:
        """The job that was asked for last; None when there is none."""
        row = self.store.latest_job()
        return None if row is None else self._status(row)

    def list(self) -> Sequence[JobStatus]:
        """All jobs, newest first."""
        return [self._status(row) for row in self.store.jobs()]


@functools.cache
def prepare_libraries() -> None:
    """Import torch and transformers, once."""
    # Read when torch is loaded: threads that spin while they wait make small models ten times slower on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import_libraries()
    # Hundreds of thousands of objects are there to stay. Looking through them again, each time Python collects garbage,
    # would hold up every page for half a second.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # what is let go at the end finds everything as it was


def shape_of(run: Run) -> ModelShape:
    """How much there is to edit in the model of a run."""
    return ModelShape(*(int(run.summary[name]) for name in ("n_layers", "d_mlp", "d_model")))


def checked(request: ProbeRequest) -> ProbeRequest:
    """The request with whole paths, so that it means the same in whatever folder it is taken up again.

    Raises BadRequest or ModelUnavailable for one that cannot be met, as far as that shows without a model.
    """
    circuit = load_circuit(request.circuit)
    model = find_model(request.model).id
    if request.coupling not in COUPLINGS:
        raise BadRequest(f"There is no coupling {request.coupling!r}. The couplings are {', '.join(COUPLINGS)}.")
    if request.thinking not in THINKING:
        raise BadRequest(f"There is no state of thinking {request.thinking!r}. Choose auto, on or off.")
    check_strings(circuit, request.target, request.control)
    limit_pairs(load_prompt_set(circuit, request.prompts).pairs, request.limit)
    return replace(request, model=model, circuit=circuit.address, prompts=whole_name(request.prompts))


_lock = threading.Lock()
_pool_lock = threading.Lock()
_the_jobs: tuple[Path, Jobs] | None = None
_the_pool: "ModelPool | None" = None


def shared(db_path: Path | None = None) -> Jobs:
    """The process-wide queue on the results file `db_path` (default: settings.default_db()).

    Where that file cannot be written, runs are kept in memory and `notice` says so. Raises StoreUnavailable when the
    file is damaged, newer or in use by another process. Another path closes the queue of the former one.
    """
    global _the_jobs
    path = Path(db_path or settings.default_db()).expanduser().resolve()
    with _lock:
        if _the_jobs is not None:
            if _the_jobs[0] == path:
                return _the_jobs[1]
            _the_jobs[1].close()
            _the_jobs = None
        try:
            jobs = Jobs(Store(path))
        except NotWritable as error:
            notice = f"{error} Until then runs are kept in memory and are gone when the program ends."
            jobs = Jobs(Store(":memory:"), notice=notice)
        _the_jobs = (path, jobs)
        return jobs


def close() -> None:
    """Close the process-wide queue, if there is one; unfinished jobs go on at the next start."""
    global _the_jobs
    with _lock:
        if _the_jobs is not None:
            _the_jobs[1].close()
            _the_jobs = None


def _shared_pool() -> "ModelPool":
    """One pool for the whole process, so that a model is never in memory twice."""
    global _the_pool
    from pprobe_core.models.pool import ModelPool

    with _pool_lock:
        if _the_pool is None:
            _the_pool = ModelPool()
        return _the_pool
