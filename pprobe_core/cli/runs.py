"""The commands that read, export and delete stored runs."""

import argparse
from pathlib import Path

import pandas as pd

from pprobe_core import report, settings
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.errors import BadRequest
from pprobe_core.store import Store
from pprobe_core.store.plain import records

FORMATS = (*report.EXPORT_FORMATS, "html", "reproduce")
_COLUMNS = (
    "run_id", "created_at", "model", "circuit", "prompts", "coupling", "thinking", "strings_from", "n_pairs",
    "flip_rate", "ffn_skip_mean",
)  # fmt: skip


def list_runs(options: argparse.Namespace) -> int:
    """`runs list`: the history, newest first."""
    history = pd.DataFrame()
    if results_file(options).exists():  # reading makes no files
        with Store(results_file(options), reading=True) as store:
            history = store.runs()
    if options.json:
        write_answer(records(history), options.json)
    elif history.empty:
        example = "`python -m pprobe_core probe --model ... --circuit ...` makes one."
        say(f"No runs yet in {results_file(options)}. {example}")
    else:
        history["created_at"] = history["created_at"].dt.strftime("%Y-%m-%d %H:%M")
        columns = (*_COLUMNS, "structure", "stage", "n_sweeps", "recorded")
        say(table(list(history[list(columns)].itertuples(index=False, name=None)), columns))
    return 0


def show_run(options: argparse.Namespace) -> int:
    """`runs show ID`: the report of a run, or its JSON."""
    with _holding(options, reading=True) as store:
        if options.json:
            write_answer(report.run_json(store, options.run_id, options.ranking), options.json)
        else:
            say(report.run_text(store, options.run_id, options.ranking))
    return 0


def export(options: argparse.Namespace) -> int:
    """`runs export ID`: a run's tables as files."""
    with _holding(options, reading=True) as store:
        if options.format == "reproduce":
            return _export_reproduction(store, options)
        if options.format == "html":
            return _export_html(store, options)
        written = report.export_run(store, options.run_id, options.format, options.out.expanduser())
    say("\n".join(str(path) for path in written))
    return 0


def _export_reproduction(store: Store, options: argparse.Namespace) -> int:
    from pprobe_core import reproduction

    document = reproduction.reproduce_json(store, options.run_id, options.sweep_id)
    out = options.out.expanduser()
    if out.is_dir() or out.suffix.lower() != ".json":
        out = out / f"{options.sweep_id or options.run_id}.reproduce.json"
    reproduction.write_document(document, out)
    say(str(out))
    return 0


def _export_html(store: Store, options: argparse.Namespace) -> int:
    from pprobe_core import html_report

    out = options.out.expanduser()
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        out = out / f"{options.run_id}.html"
    html_report.write(html_report.run_html(store, options.run_id), out)
    say(str(out))
    return 0


def delete(options: argparse.Namespace) -> int:
    """`runs delete ID --yes`: a run is gone for good."""
    with _holding(options) as store:
        store.run(options.run_id)
        if not options.yes:
            raise BadRequest(
                f"Run {options.run_id} and everything measured in it would be deleted. Add --yes to do it."
            )
        store.delete_run(options.run_id)
    say(f"Run {options.run_id} was deleted.")
    return 0


def results_file(options: argparse.Namespace) -> Path:
    """The results file that a command works on."""
    return Path(options.db or settings.default_db()).expanduser()


def opened(options: argparse.Namespace, wanted: str, *, reading: bool = False) -> Store:
    """The results file that should hold what is `wanted`. Raises BadRequest, making none, when there is no file.

    `reading` is enough with a file that cannot be written.
    """
    path = results_file(options)
    if not path.exists():
        raise BadRequest(f"There is no {wanted}: there is no results file {path} yet.")
    return Store(path, reading=reading)


def _holding(options: argparse.Namespace, *, reading: bool = False) -> Store:
    """The results file that should hold the run asked for."""
    return opened(options, f"run {options.run_id!r}", reading=reading)
