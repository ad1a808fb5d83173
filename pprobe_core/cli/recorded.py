"""The commands about recorded results, and `reproduce`: what is recorded elsewhere, computed again here."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pprobe_core import settings
from pprobe_core.cli.following import finished, worker
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.cli.runs import results_file
from pprobe_core.errors import BadRequest
from pprobe_core.store import Store
from pprobe_core.store.plain import records

if TYPE_CHECKING:  # charts come with these; `--help` and the listings must not wait for them
    from pprobe_core.jobs import Jobs
    from pprobe_core.recording import RecordedSet
    from pprobe_core.reproduction import Agreement

AGREES, DIFFERS = 0, 1
SHOWN = 12  # rows that differ, in a text


def list_recorded(options: argparse.Namespace) -> int:
    """`recorded list`: what is recorded, when, with what."""
    there = _there(options)
    runs = {run["run_id"]: run["request"] for run in there.runs}
    rows = [("probe", run_id, r["model"], r["circuit"], r["coupling"]) for run_id, r in runs.items()] + [
        (s["request"]["kind"], s["sweep_id"], runs[s["run_id"]]["model"], runs[s["run_id"]]["circuit"], "")
        for s in there.sweeps
    ]
    header = ("kind", "id", "model", "circuit", "coupling")
    if options.json:
        listed = records(pd.DataFrame(rows, columns=list(header)))
        about = {"set_id": there.set_id, "recorded_at": there.recorded_at, "n_bytes": there.n_bytes, **there.about}
        write_answer(about | {"results": listed}, options.json)
        return 0
    versions = there.about["versions"]
    devices = " and ".join(sorted({"the CPU" if run["device"] == "cpu" else run["device"] for run in there.runs}))
    say(table(rows, header))
    say(
        f"\n{len(there.runs)} runs and {len(there.sweeps)} sweeps, recorded until "
        f"{there.recorded_at:%Y-%m-%d %H:%M} UTC with torch {versions.get('torch')} and "
        f"transformers {versions.get('transformers')} on {devices} "
        f"({there.about['processor']}); {there.n_bytes / 1e6:.1f} MB, set {there.set_id}."
    )
    return 0


def build(options: argparse.Namespace) -> int:
    """`recorded build`: compute everything the plan names and write the set. With --db it goes on where it stopped."""
    from pprobe_core import recording

    with _bench(options.db) as jobs:
        there = recording.build(jobs, lambda request: finished(jobs, request), options.out.expanduser())
    say(
        f"{len(there.runs)} runs and {len(there.sweeps)} sweeps were written to {there.folder} "
        f"({there.n_bytes / 1e6:.1f} MB, set {there.set_id})."
    )
    return 0


def check(options: argparse.Namespace) -> int:
    """`recorded check`: today's ids against the recorded ones, then some results computed again, number by number."""
    from pprobe_core import recording

    there = _there(options)
    identities = recording.check_identities(there)
    with Store(":memory:") as store:
        store.load_recorded_set(there.paths(), there.set_id)
        lacking = recording.missing(store)
    changed = identities[~identities["agrees"]]
    agreements: list[Agreement] = []
    if not options.fast and changed.empty:
        with _bench(None) as jobs:
            agreements = list(recording.recompute(there, jobs, lambda request: finished(jobs, request), options.only))
    fine = changed.empty and not lacking and all(found.agrees for found in agreements)
    if options.json:
        write_answer(
            {
                "agrees": fine,
                "identities": records(identities),
                "missing": lacking,
                "recomputed": [agreement_json(found) for found in agreements],
            },
            options.json,
        )
        return AGREES if fine else DIFFERS
    n = len(identities)
    say(f"{n - len(changed)} of {n} ids are what today's models, circuits, prompts and settings give.")
    for row in records(changed):
        say(f"  {row['id']} ({row['what']}) would be {row['now'][: len(row['id'])]} now")
    for what in lacking:
        say(f"  not recorded, but named by the plan: {what}")
    for found in agreements:
        say(f"\n{agreement_text(found)}")
    if not fine:
        say("\nBuild the set again: python -m pprobe_core recorded build")
    return AGREES if fine else DIFFERS


def load(options: argparse.Namespace) -> int:
    """`recorded load`: bring the recorded results into a results file, those deleted before included."""
    from pprobe_core import recording

    _there(options)
    with Store(results_file(options)) as store:
        runs, sweeps = recording.load_recorded(store, again=True)
    say(f"{runs} recorded runs and {sweeps} sweeps were brought into {results_file(options)}.")
    return 0


def remove(options: argparse.Namespace) -> int:
    """`recorded remove`: take the recorded results out of a results file."""
    path = results_file(options)
    if not path.exists():
        raise BadRequest(f"There is no results file {path} yet, so nothing recorded is in it.")
    with Store(path) as store:
        left, _ = store.remove_recorded()
    kept = f" {left} stay, as sweeps that were computed here belong to them." if left else ""
    say(f"The recorded results were taken out of {path}.{kept} `recorded load` brings them back.")
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """`reproduce FILE`: compute a run or sweep again from its reproduce.json; 0 when it agrees, 1 when not."""
    from pprobe_core import reproduction

    document = reproduction.read_document(options.file.expanduser())
    with tempfile.TemporaryDirectory(prefix="pprobe-reproduce-") as folder, _bench(None) as jobs:
        found = reproduction.reproduce(
            document,
            jobs,
            lambda request: finished(jobs, request),
            Path(folder),
            model=options.model,
            download=options.download,
        )
    if options.json:
        write_answer(agreement_json(found), options.json)
    else:
        say(agreement_text(found))
    return AGREES if found.agrees else DIFFERS


# ------------------------------------------------------------------------------------------------------- how it reads


def agreement_json(found: "Agreement") -> dict[str, Any]:
    """An agreement as JSON: whether it agrees, every row, what else is not the same."""
    return {
        "title": found.title,
        "agrees": found.agrees,
        "sentence": found.sentence,
        "notes": list(found.notes),
        "rows": records(found.rows),
    }


def agreement_text(found: "Agreement") -> str:
    """An agreement in words: a line per quantity, then the rows that differ."""
    lines = [found.title[:1].upper() + found.title[1:], ""]
    counted = found.by_what()
    rows = [
        (row["what"], f"{row['n_agree']} of {row['n']}", _digits(row["largest"]), _digits(row["tolerance"]))
        for row in records(counted)
    ]
    lines.append(table(rows, ("what", "agree", "largest difference", "tolerance")))
    differing = found.rows[~found.rows["agrees"]]
    if len(differing):
        lines += ["", "What differs"]
        lines += [
            f"  {row['what']}{' ' if row['place'] else ''}{row['place']}: "
            f"{_value(row['recorded'])} recorded, {_value(row['now'])} now"
            for row in records(differing.head(SHOWN))
        ]
        if len(differing) > SHOWN:
            lines.append(f"  and {len(differing) - SHOWN} more (--json lists all)")
    lines += ["", found.sentence, *found.notes]
    return "\n".join(lines)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _value(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _there(options: argparse.Namespace) -> "RecordedSet":
    from pprobe_core import recording

    there = recording.recorded_set()
    if there is None:
        raise BadRequest(f"Nothing is recorded in {settings.RECORDED}. `recorded build` computes and writes the set.")
    return there


@contextmanager
def _bench(db: str | None) -> Iterator["Jobs"]:
    """A worker on a results file of its own, which is thrown away afterwards unless it was named."""
    keep = nullcontext(None) if db else tempfile.TemporaryDirectory(prefix="pprobe-")
    with keep as folder:
        path = db or str(Path(str(folder)) / "results.duckdb")
        with worker(argparse.Namespace(db=path)) as jobs:
            yield jobs
