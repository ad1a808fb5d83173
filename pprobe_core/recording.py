"""The recorded results that come with the program: what they hold, building them, bringing them in, checking them.

They are real runs and sweeps of the shipped models, computed by the same worker as any other and kept as one Parquet
file per table beside `manifest.json`, so that every page has something to show before anything was run. They are marked
as recorded wherever they appear, and can be computed again on any computer: the checks say whether today's program
still asks for exactly them, and whether it still gets the same numbers.
"""

import hashlib
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pprobe_core import settings
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import default_prompts, load_prompt_set
from pprobe_core.circuits.responses import RULES_VERSION
from pprobe_core.errors import BadRequest, StoreUnavailable
from pprobe_core.interventions.requests import checked_sweep, default_request, sweep_key
from pprobe_core.interventions.types import SWEEP_VERSION, SweepRequest
from pprobe_core.jobs import Jobs, shape_of
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.types import ENGINE_VERSION, Coupling, ProbeRequest, tupled
from pprobe_core.reproduction import Agreement, Follow, agreement, reproduce_json
from pprobe_core.store import Store
from pprobe_core.store.plain import plain
from pprobe_core.store.recorded import RECORDED_TABLES
from pprobe_core.store.sweeps import sweep_request

FORMAT_VERSION = 1
PLAN, MANIFEST = "plan.yaml", "manifest.json"
SET_ID_DIGITS = 12
# Computed again in full by `check`: small, and together they use capture, generation, edits and controls.
RECOMPUTED = (("mini-qwen3", "safety_refusal", "layers"), ("mini-llama", "math", None), ("mini-gemma3", "code", None))


@dataclass(frozen=True)
class Planned:
    """One line of the plan: these models on these circuits, and sweeps of every run."""

    models: tuple[str, ...]
    circuits: tuple[str, ...]
    sweeps: tuple[Mapping[str, Any], ...] = ()  # settings of a SweepRequest, `kind` among them
    coupling: Coupling = "plain"

    def probes(self) -> Iterator[ProbeRequest]:
        """The probes of this line, model by model."""
        for model in self.models:
            prompts = default_prompts(find_model(model).shipped)
            for circuit in self.circuits:
                yield ProbeRequest(model=model, circuit=circuit, prompts=prompts, coupling=self.coupling)

    def sweeps_of(self, run_id: str, circuit_id: str) -> list[SweepRequest]:
        """What is swept of one run: the circuit's own defaults, with what the line changes."""
        circuit = load_circuit(circuit_id)
        return [default_request(circuit, run_id, **tupled(settings_)) for settings_ in self.sweeps]


@dataclass(frozen=True)
class RecordedSet:
    """A recorded set as its manifest describes it."""

    folder: Path
    set_id: str
    recorded_at: datetime
    about: Mapping[str, Any]  # engine, versions, processor, models, circuits, prompts
    files: Mapping[str, Mapping[str, Any]]  # table -> file, sha256, bytes, rows
    runs: Sequence[Mapping[str, Any]] = field(default=())  # run_id, request_key, request, dtype, device, shape
    sweeps: Sequence[Mapping[str, Any]] = field(default=())  # sweep_id, request_key, run_id, request

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(int(file["bytes"]) for file in self.files.values())

    def paths(self) -> dict[str, Path]:
        """Table -> its file, after a look at every byte. Raises StoreUnavailable for a missing or changed file."""
        paths = {}
        for table in RECORDED_TABLES:
            path = self.folder / str(self.files[table]["file"])
            try:
                whole = hashlib.sha256(path.read_bytes()).hexdigest() == self.files[table]["sha256"]
            except OSError as error:
                raise StoreUnavailable(
                    f"The recorded results are incomplete: {path} cannot be read ({error.strerror or error}). "
                    "Install pprobe again; your own runs are not touched."
                ) from error
            if not whole:
                raise StoreUnavailable(
                    f"The recorded results are damaged: {path} is not the file that was recorded. Install pprobe "
                    "again; your own runs are not touched."
                )
            paths[table] = path
        return paths


def plan(folder: Path | None = None) -> tuple[Planned, ...]:
    """What is to be recorded. Raises BadRequest when the file does not hold a plan."""
    path = (folder or settings.RECORDED) / PLAN
    try:
        lines = yaml.safe_load(path.read_text("utf-8"))
        return tuple(Planned(**tupled(line)) for line in lines)
    except (OSError, TypeError, yaml.YAMLError) as error:
        raise BadRequest(f"{path} holds no plan of what to record ({error}).") from None


def recorded_set(folder: Path | None = None) -> RecordedSet | None:
    """The set that comes with the program; None when there is none. Raises StoreUnavailable for a damaged manifest."""
    path = (folder or settings.RECORDED) / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != FORMAT_VERSION:
            raise KeyError("format")
        return RecordedSet(
            folder=path.parent,
            set_id=values["set_id"],
            recorded_at=datetime.fromisoformat(values["recorded_at"]),
            about=values["about"],
            files={table: values["files"][table] for table in RECORDED_TABLES},
            runs=tuple(values["runs"]),
            sweeps=tuple(values["sweeps"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(
            f"The list of recorded results {path} cannot be read ({error}). Install pprobe again; your own runs are "
            "not touched."
        ) from None


# -------------------------------------------------------------------------------------------------- bringing them in


def wanted() -> bool:
    """Whether recorded results are to be shown at all: PPROBE_RECORDED=0 leaves them out."""
    return os.environ.get("PPROBE_RECORDED", "1").strip() != "0"


def load_recorded(store: Store, *, again: bool = False, folder: Path | None = None) -> tuple[int, int]:
    """Bring the recorded set into a results file, once; how many runs and sweeps came in.

    A newer set takes the place of an older one. Nothing that was computed here is touched, and what a user deleted, or
    took out as a whole, stays away unless `again` asks for it. Raises StoreUnavailable when files are damaged.
    """
    there = recorded_set(folder)
    if there is None or not (again or store.wants_recorded()):
        return 0, 0
    if not again and store.recorded_set() == there.set_id:
        return 0, 0
    return store.load_recorded_set(there.paths(), there.set_id, again=again)


def recording_of(run_id: str, sweep_id: str | None = None, folder: Path | None = None) -> dict[str, Any] | None:
    """The recorded run, or sweep of it, as a document to compare with; None where none is recorded."""
    there = recorded_set(folder)
    wanted_id = sweep_id or run_id
    if there is None or wanted_id not in {r["run_id"] for r in there.runs} | {s["sweep_id"] for s in there.sweeps}:
        return None
    only = {run_id} | ({sweep_id} if sweep_id else set())
    with Store(":memory:") as store:
        store.load_recorded_set(there.paths(), there.set_id, only=only)
        return reproduce_json(store, run_id, sweep_id)


def agreement_with_recording(store: Store, run_id: str, sweep_id: str | None = None) -> Agreement | None:
    """A run or sweep computed here beside the recorded one of the same request; None where none is recorded."""
    recorded = recording_of(run_id, sweep_id)
    return None if recorded is None else agreement(recorded, reproduce_json(store, run_id, sweep_id))


# --------------------------------------------------------------------------------------------------------- building


def build(jobs: Jobs, follow: Follow, folder: Path, lines: Sequence[Planned] | None = None) -> RecordedSet:
    """Compute what the plan names, as far as it is not in the results file of `jobs` yet, and write it to `folder`.

    Raises whatever a job fails with, BadRequest when a result to record was itself recorded elsewhere or the files
    cannot be written.
    """
    runs: dict[str, None] = {}
    sweeps: dict[str, None] = {}
    for line in plan() if lines is None else lines:
        for request in line.probes():
            run_id = str(follow(request).run_id)
            runs[run_id] = None
            for sweep in line.sweeps_of(run_id, request.circuit):
                sweeps[str(follow(sweep).sweep_id)] = None
    return write(jobs.store, folder, list(runs), list(sweeps))


def write(store: Store, folder: Path, run_ids: Collection[str], sweep_ids: Collection[str]) -> RecordedSet:
    """Write runs and sweeps that were computed here as a recorded set.

    Raises BadRequest for one that was not, or is of a model that does not come with the program, and when the folder
    cannot be written.
    """
    runs = [_run_entry(store, run_id) for run_id in run_ids]
    sweeps = [_sweep_entry(store, sweep_id) for sweep_id in sweep_ids]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = store.write_recorded_set(folder, run_ids, sweep_ids)
        files = {
            table: {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
                "rows": rows,
            }
            for table, (path, rows) in written.items()
        }
        hashes = "\n".join(f"{table} {file['sha256']}" for table, file in files.items())
        document = {
            "format": FORMAT_VERSION,
            "set_id": hashlib.sha256(hashes.encode()).hexdigest()[:SET_ID_DIGITS],
            "recorded_at": max(store.run(run_id).created_at for run_id in run_ids),
            "about": _about(store, run_ids),
            "files": files,
            "runs": runs,
            "sweeps": sweeps,
        }
        text = json.dumps(plain(document), indent=1, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, "utf-8")
    except OSError as error:
        raise BadRequest(
            f"The recorded set cannot be written to {folder} ({error.strerror or error}). Name another folder."
        ) from error
    there = recorded_set(folder)
    assert there is not None  # noqa: S101  (just written)
    return there


def _run_entry(store: Store, run_id: str) -> dict[str, Any]:
    run = store.run(run_id)
    if run.recorded or not find_model(run.request.model).shipped:
        raise BadRequest(
            f"The run {run_id} cannot be recorded: only runs of shipped models that were computed here can. "
            "Compute it here first."
        )
    return {
        "run_id": run_id,
        "request_key": run.request_key,
        "request": run.request.as_json(),
        "dtype": run.summary["dtype"],
        "device": run.summary["device"],
    }


def _sweep_entry(store: Store, sweep_id: str) -> dict[str, Any]:
    sweep = store.sweep(sweep_id)
    if sweep.recorded:
        raise BadRequest(f"The sweep {sweep_id} is itself a recorded one. Compute it here first.")
    key = sweep_key(store.run(sweep.run_id).request_key, sweep.request)
    return {"sweep_id": sweep_id, "request_key": key, "run_id": sweep.run_id, "request": asdict(sweep.request)}


def _about(store: Store, run_ids: Collection[str]) -> dict[str, Any]:
    """Versions, hashes and the processor: what a reader needs to judge the numbers."""
    runs = [store.run(run_id) for run_id in run_ids]
    summaries = [run.summary for run in runs]
    return {
        "engine": {"probe": ENGINE_VERSION, "sweeps": SWEEP_VERSION, "rules": RULES_VERSION},
        "versions": runs[0].environment,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "models": {
            s["model"]: {name: s.get(name) for name in ("weights_sha256", "config_sha256", "tokenizer_sha256")}
            for s in summaries
        },
        "circuits": {s["circuit"]: s["circuit_sha256"] for s in summaries},
        "prompts": {f"{s['circuit']}.{s['prompts']}": s["prompt_set_sha256"] for s in summaries},
    }


# --------------------------------------------------------------------------------------------------------- checking


def check_identities(there: RecordedSet) -> pd.DataFrame:
    """Whether today's models, circuits, prompts and settings give every recorded id; no model is run.

    One row per run and sweep of the set: kind, id, what, recorded, now, agrees. Includes what the plan names and the
    set lacks (recorded is None).
    """
    from pprobe_core.models.loading import fingerprint
    from pprobe_core.probing.probe import request_key

    rows: list[tuple[str, str, str, str | None, str, bool]] = []
    keys: dict[str, str] = {}
    prints: dict[tuple[str, str, str], Any] = {}
    for run in there.runs:
        request = ProbeRequest.from_json(run["request"])
        place = (request.model, run["dtype"], run["device"])
        if place not in prints:
            prints[place] = fingerprint(*place)
        circuit = load_circuit(request.circuit)
        key = request_key(prints[place], circuit, load_prompt_set(circuit, request.prompts), request)
        keys[run["run_id"]] = key
        what = f"{request.circuit} on {request.model}, {request.coupling}"
        rows.append(("run", run["run_id"], what, run["request_key"], key, key == run["request_key"]))
    for sweep in there.sweeps:
        swept = sweep_request(dict(sweep["request"]))
        key = sweep_key(keys[sweep["run_id"]], swept)
        what = f"{swept.kind} of run {sweep['run_id']}"
        rows.append(("sweep", sweep["sweep_id"], what, sweep["request_key"], key, key == sweep["request_key"]))
    return pd.DataFrame(rows, columns=["kind", "id", "what", "recorded", "now", "agrees"])


def missing(store: Store, lines: Sequence[Planned] | None = None) -> list[str]:
    """What the plan names and a results file with the recorded set lacks, in words; [] when it is complete."""
    lacking = []
    for line in plan() if lines is None else lines:
        for request in line.probes():
            what = f"{request.circuit} on {request.model}"
            run_id = store.run_of(request)
            if run_id is None:
                lacking.append(what)
                continue
            run = store.run(run_id)
            for sweep in line.sweeps_of(run_id, request.circuit):
                key = sweep_key(run.request_key, checked_sweep(sweep, shape_of(run)))
                if not store.has_sweep(key[: len(run_id)]):
                    lacking.append(f"{sweep.kind} of {what}")
    return lacking


def recompute(there: RecordedSet, jobs: Jobs, follow: Follow, only: Collection[str] = ()) -> Iterator[Agreement]:
    """Some recorded results computed again in the fresh results file of `jobs`, each beside its recording.

    `only` names run and sweep ids; without any those of RECOMPUTED that are in the set.
    """
    runs = {run["run_id"]: ProbeRequest.from_json(run["request"]) for run in there.runs}
    sweeps = {sweep["sweep_id"]: sweep_request(dict(sweep["request"])) for sweep in there.sweeps}
    chosen = tuple(only) or tuple(_recomputed(runs, sweeps))
    for wanted_id in chosen:
        sweep = sweeps.get(wanted_id)
        run_id = wanted_id if sweep is None else sweep.run_id
        if run_id not in runs:
            raise BadRequest(f"Nothing of the id {wanted_id!r} is recorded. `recorded list` shows what is.")
        now_run = str(follow(runs[run_id]).run_id)
        # another kind of device gives the run another id, and the sweep is asked of that run
        now_sweep = None if sweep is None else follow(replace(sweep, run_id=now_run)).sweep_id
        recorded = recording_of(run_id, None if sweep is None else wanted_id, there.folder)
        assert recorded is not None  # noqa: S101  (its id is in the set)
        yield agreement(recorded, reproduce_json(jobs.store, now_run, now_sweep))


def _recomputed(runs: Mapping[str, ProbeRequest], sweeps: Mapping[str, SweepRequest]) -> Iterator[str]:
    for model, circuit, kind in RECOMPUTED:
        run_id = next((i for i, r in runs.items() if (r.model, r.circuit, r.coupling) == (model, circuit, "plain")), "")
        if run_id:
            yield run_id
        yield from (i for i, sweep in sweeps.items() if sweep.run_id == run_id and sweep.kind == kind)
