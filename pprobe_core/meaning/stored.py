"""The paragraph of a stored run or sweep: what it rests on is read from a results file."""

from collections.abc import Sequence

from pprobe_core import sweep_report
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.meaning.of_run import run_meaning
from pprobe_core.meaning.of_sweep import sweep_meaning
from pprobe_core.meaning.parts import Meaning, Tested
from pprobe_core.store import Run, Store, Sweep


def meaning_of_run(store: Store, run_id: str) -> Meaning:
    """The paragraph of a stored run, with its dose response and injection window. Raises BadRequest if unknown."""
    run = store.run(run_id)
    sweeps = [store.sweep(str(sweep_id)) for sweep_id in store.sweeps(run_id)["sweep_id"]]
    tested = [tested_in(store, sweep) for sweep in to_tell_of(sweeps)]
    return run_meaning(run, circuit_of(run), tested, [sweep.request.kind for sweep in sweeps])


def to_tell_of(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The dose response and the injection window that a run's paragraph tells of.

    Of each kind the first with one answer to a prompt, so that answers are as independent as prompts; else with several
    answers, else without.
    """
    chosen = []
    for kind in ("dose", "window"):
        of_kind = [sweep for sweep in sweeps if sweep.request.kind == kind]
        answered = [sweep for sweep in of_kind if sweep.summary.get("generation")]
        once = [sweep for sweep in answered if sweep.request.n_seeds == 1]
        chosen += (once or answered or of_kind)[:1]
    return chosen


def meaning_of_sweep(store: Store, sweep_id: str) -> Meaning:
    """The paragraph of a stored sweep. Raises BadRequest for an unknown one."""
    sweep = store.sweep(sweep_id)
    return sweep_meaning(store.run(sweep.run_id), tested_in(store, sweep))


def tested_in(store: Store, sweep: Sweep) -> Tested:
    """A stored sweep with its points and outcome rates; without rates where its behaviour's file is gone."""
    try:
        rates = sweep_report.outcomes_of(store, sweep.sweep_id)
    except BadRequest:
        rates = ()
    return Tested(sweep, store.points(sweep.sweep_id, per_prompt=False), rates)


def circuit_of(run: Run) -> Circuit | None:
    """The run's behaviour, or None when its file is gone."""
    try:
        return load_circuit(run.request.circuit)
    except BadRequest:
        return None
