"""The commands about sweeps: run one on the model of a stored run, list, show and delete them."""

import argparse
from typing import Any

from pprobe_core.circuits.library import load_circuit
from pprobe_core.cli.following import finished, worker, write_result
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.cli.runs import opened, results_file
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import checked_sweep, default_request
from pprobe_core.interventions.types import INJECTION_KINDS, KINDS, NEURON_KINDS, SweepKind, SweepRequest
from pprobe_core.store import Store
from pprobe_core.store.plain import records

LATEST = "latest"
MIN_PREFIX = 4  # characters of an id that may stand for it

# The kinds of sweep an option says something about; options that are not here fit all.
FITS: dict[str, tuple[SweepKind, ...]] = {
    "ranking": NEURON_KINDS,
    "side": NEURON_KINDS,
    "neurons": NEURON_KINDS,
    "doses": (*NEURON_KINDS, "heads"),
    "factors": ("factor",),
    "factor": ("dose",),
    "layers": INJECTION_KINDS,
    "strengths": INJECTION_KINDS,
    "absolute": INJECTION_KINDS,
    "direction": INJECTION_KINDS,
    "draws": (*NEURON_KINDS, *INJECTION_KINDS, "heads"),
}
_OF_ANSWERS = ("seeds", "temperature", "max_new_tokens")
_COLUMNS = (
    "sweep_id", "run_id", "created_at", "kind", "ranking", "condition", "position", "stage", "n_full_passes",
    "n_last_token_passes",
)  # fmt: skip


def sweep(options: argparse.Namespace) -> int:
    """`sweep KIND --run RUN`: run it (or find the sweep that exists) and print the report, or write the JSON."""
    from pprobe_core import sweep_report
    from pprobe_core.jobs import shape_of

    _check_options(options)
    with opened(options, f"run {options.run_id!r}") as store:
        run = store.run(find_run(store, options.run_id))
        request = _request(options, run.run_id, run.request.circuit)
        checked_sweep(request, shape_of(run))  # before a worker starts for nothing
    with worker(options) as jobs:
        sweep_id = str(finished(jobs, request, here=options.here).sweep_id)
        if options.json:
            write_result(sweep_report.sweep_json(jobs.store, sweep_id), "sweep", sweep_id, options.json)
        else:
            say(_told(jobs.store, sweep_id))
    return 0


def list_sweeps(options: argparse.Namespace) -> int:
    """`sweep list`: finished sweeps, newest first, of one run or of all."""
    rows: list[dict[str, Any]] = []
    if results_file(options).exists():  # reading makes no files
        with Store(results_file(options), reading=True) as store:
            run_id = None if options.run_id is None else store.run(find_run(store, options.run_id)).run_id
            rows = records(store.sweeps(run_id).drop(columns="summary"))
    if options.json:
        write_answer(rows, options.json)
    elif not rows:
        say("No sweeps yet. `python -m pprobe_core sweep dose --run latest` makes one.")
    else:
        columns = [tuple(_short(name, row[name]) for name in _COLUMNS) for row in rows]
        say(table(columns, _COLUMNS))
    return 0


def show_sweep(options: argparse.Namespace) -> int:
    """`sweep show ID`: the report of a sweep, or its JSON."""
    from pprobe_core import sweep_report

    with opened(options, f"sweep {options.sweep_id!r}", reading=True) as store:
        sweep_id = _match(store.sweeps()["sweep_id"].tolist(), options.sweep_id, "sweep")
        if options.json:
            write_answer(sweep_report.sweep_json(store, sweep_id), options.json)
        else:
            say(_told(store, sweep_id))
    return 0


def _told(store: Store, sweep_id: str) -> str:
    """The report of a sweep, with what it means below."""
    from pprobe_core import meaning, sweep_report

    told = meaning.meaning_of_sweep(store, sweep_id).lines()
    return "\n".join([sweep_report.sweep_text(store, sweep_id), "", *told])


def delete_sweep(options: argparse.Namespace) -> int:
    """`sweep delete ID --yes`: a sweep with its answers and labels is gone for good."""
    with opened(options, f"sweep {options.sweep_id!r}") as store:
        store.sweep(options.sweep_id)
        if not options.yes:
            raise BadRequest(
                f"Sweep {options.sweep_id} with its answers and labels would be deleted. Add --yes to do it."
            )
        store.delete_sweep(options.sweep_id)
    say(f"Sweep {options.sweep_id} was deleted.")
    return 0


def find_run(store: Store, text: str) -> str:
    """The id a user means: "latest", the unique beginning of one, or the id as it is (unknown ones included)."""
    return _match(store.runs()["run_id"].tolist(), text, "run")


def _match(newest_first: list[str], text: str, what: str) -> str:
    if text == LATEST and newest_first:
        return newest_first[0]
    found = [one for one in newest_first if one.startswith(text)] if len(text) >= MIN_PREFIX else []
    if text in newest_first or not found:
        return text
    if len(found) > 1:
        raise BadRequest(f"{len(found)} {what}s begin with {text!r}: {', '.join(found[:3])}. Give more of the id.")
    return found[0]


def _short(name: str, value: Any) -> Any:
    return value[:16].replace("T", " ") if name == "created_at" else value


# -- options to request --


def _check_options(options: argparse.Namespace) -> None:
    """Raise BadRequest for an option that would do nothing in this kind of sweep, or beside another option."""
    kind = options.kind
    for name, kinds in FITS.items():
        if _is_set(options, name) and kind not in kinds:
            raise BadRequest(
                f"{_flag(name)} says nothing about a {kind} sweep; it belongs to {_listed(kinds)}. Leave it out, or "
                "sweep something else."
            )
    if options.neurons is not None:
        for name in ("ranking", "side"):
            if _is_set(options, name):
                raise BadRequest(f"--neurons names the neurons and their order itself. Leave {_flag(name)} out.")
    for name in _OF_ANSWERS:
        if _is_set(options, name) and not options.responses:
            raise BadRequest(f"{_flag(name)} is about generated answers. Add --responses, or leave it out.")


def _request(options: argparse.Namespace, run_id: str, circuit_id: str) -> SweepRequest:
    """The sweep asked for; what is not set takes the circuit's own defaults."""
    factors = options.factors if options.factor is None else (options.factor,)
    return default_request(
        load_circuit(circuit_id),
        run_id,
        options.kind,
        condition=options.condition,
        position=options.position,
        ranking=options.ranking,
        side=options.side,
        neurons=options.neurons,
        doses=options.doses,
        factors=factors,
        layers=options.layers,
        strengths=options.strengths,
        relative=False if options.absolute else None,
        direction=options.direction,
        draws=options.draws,
        responses=True if options.responses else None,
        n_seeds=options.seeds,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        collateral=False if options.no_collateral else None,
        seed=options.seed,
    )


def _is_set(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) not in (None, False)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(kinds: tuple[SweepKind, ...]) -> str:
    return ", ".join(kind for kind in KINDS if kind in kinds)


# -- lists as one word --


def whole_numbers(text: str) -> tuple[int, ...]:
    """ "1,5,20" as numbers; for argparse."""
    try:
        return tuple(int(part) for part in _parts(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 1,5,20") from None


def numbers(text: str) -> tuple[float, ...]:
    """ "-0.5,1,2" as numbers; for argparse."""
    try:
        return tuple(float(part) for part in _parts(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.5,1,2") from None


def layer_list(text: str) -> tuple[int, ...]:
    """ "3,5-7" as layers 3, 5, 6, 7; for argparse."""
    layers: list[int] = []
    try:
        for part in _parts(text):
            first, dash, last = part.partition("-")
            ends = int(first), int(last if dash else first)
            if not 0 <= ends[0] <= ends[1] < 10_000:
                raise ValueError
            layers += range(ends[0], ends[1] + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no layers; write them as 3,4 or 3-8") from None
    return tuple(layers)


def names(text: str) -> tuple[str, ...]:
    """ "L1.N2,L3.N4" as names, whatever they are; for argparse."""
    return _parts(text)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise argparse.ArgumentTypeError("nothing was given; separate several by commas")
    return parts
