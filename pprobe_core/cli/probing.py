"""The commands that compute: a probe, and the training of the shipped models."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pprobe_core import settings
from pprobe_core.circuits.prompt_sets import default_prompts
from pprobe_core.cli.output import STDOUT, fail, progress, say, write_answer
from pprobe_core.errors import BadRequest, Cancelled, PprobeError
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.types import ProbeRequest

if TYPE_CHECKING:
    from pprobe_core.jobs import Jobs

PATIENCE = 20.0  # seconds a stopped probe may take for the block at hand


def probe(options: argparse.Namespace) -> int:
    """`probe`: run it (or find the run that exists) and print the report, or write the JSON."""
    from pprobe_core import report
    from pprobe_core.jobs import Jobs, checked
    from pprobe_core.store import Store

    request = ProbeRequest(
        model=options.model,
        circuit=options.circuit,
        prompts=options.prompts or default_prompts(find_model(options.model).shipped),
        coupling=options.coupling,
        limit=options.limit,
        seed=options.seed,
        generate=not options.no_generate,
    )
    request = checked(request)  # before a results file is made for nothing
    jobs = Jobs(Store(options.db or settings.default_db()), resume=False)
    try:
        with _stdout_is_ours():
            run_id = _follow(jobs, jobs.submit(request))
        if options.json:
            _write_run(report.run_json(jobs.store, run_id, options.ranking), run_id, options.json)
        else:
            say(report.run_text(jobs.store, run_id, options.ranking))
    except Cancelled as error:
        if not jobs.close(timeout=0.5):
            # A thread inside a forward pass would crash the interpreter's own clean-up.
            os._exit(fail(str(error), error.exit_code))
        raise
    finally:
        jobs.close(timeout=PATIENCE)
    return 0


def _follow(jobs: "Jobs", job_id: str) -> str:
    """Wait for a job, showing its progress on a terminal; its run_id. Ctrl-C cancels the job."""
    try:
        while not (status := jobs.wait(job_id, timeout=0.2)).ended:
            count = f" {status.done} of {status.total} pairs" if status.total else ""
            eta = f", about {status.eta_seconds:.0f} s left" if status.eta_seconds is not None else ""
            progress(f"{status.message}{count}{eta}")
    except KeyboardInterrupt:
        progress("Stopping after the block at hand (Ctrl-C again: at once)")
        jobs.cancel(job_id)
        status = jobs.wait(job_id, timeout=PATIENCE)
    progress("")
    if status.state == "done" and status.run_id is not None:
        return status.run_id
    if status.state == "failed":
        failure = PprobeError(status.error or "The probe failed.")
        failure.exit_code = status.exit_code or BadRequest.exit_code
        raise failure
    raise Cancelled("Cancelled. The same command goes on where it stopped.")


def _write_run(document: dict[str, object], run_id: str, target: str) -> None:
    try:
        write_answer(document, target)
    except BadRequest as error:
        raise BadRequest(f"{error} The run itself is stored as {run_id}.") from error
    if target != STDOUT:
        say(f"Run {run_id}: JSON written to {target}.")


@contextmanager
def _stdout_is_ours() -> Iterator[None]:
    """Whatever a library prints while the model works goes to nowhere: stdout carries the answer only."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        ours, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = ours


def train(options: argparse.Namespace) -> int:
    """`train`: both checkpoints of a shipped model from a seed; an interrupted training goes on when asked again."""
    from pprobe_core.training.architecture import FAMILIES
    from pprobe_core.training.train import Recipe, rebuild

    if options.family not in FAMILIES:
        raise BadRequest(
            f"There is no recipe for the family {options.family!r}. There is one for {', '.join(FAMILIES)}."
        )
    out = options.out.expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(f"The folder {out} cannot be made ({reason}). Name another one with --out.") from error
    rebuilt = rebuild(options.seed, out, recipe=Recipe(family=options.family), on_progress=_tell)
    say(f"{rebuilt.base}\n{rebuilt.aligned}")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
