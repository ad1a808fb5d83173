"""A job from the command line: the worker for one command, its progress on a terminal, Ctrl-C, its result written."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pprobe_core import settings
from pprobe_core.cli.output import STDOUT, fail, progress, say, write_answer
from pprobe_core.errors import BadRequest, Cancelled, PprobeError
from pprobe_core.wording import duration

if TYPE_CHECKING:
    from pprobe_core.jobs import Jobs, JobStatus
    from pprobe_core.store import Request

PATIENCE = 20.0  # seconds a stopped job may take for the piece at hand


@contextmanager
def worker(options: argparse.Namespace) -> Iterator["Jobs"]:
    """The queue on the command's results file, for as long as the command runs."""
    from pprobe_core.jobs import Jobs
    from pprobe_core.store import Store

    jobs = Jobs(Store(options.db or settings.default_db()), resume=False)
    try:
        yield jobs
    except Cancelled as error:
        if not jobs.close(timeout=0.5):
            # A thread inside a forward pass would crash the interpreter's own clean-up.
            os._exit(fail(str(error), error.exit_code))
        raise
    finally:
        jobs.close(timeout=PATIENCE)


def finished(jobs: "Jobs", request: "Request", *, here: bool = False) -> "JobStatus":
    """Ask for a job and wait, showing its progress on a terminal; how it ended. Ctrl-C cancels it.

    With `here` a recorded result is computed again.
    Raises Cancelled when it was stopped, and the job's own error, with its exit code, when it failed.
    """
    with stdout_is_ours():
        job_id = jobs.submit(request, here=here)
        try:
            while not (status := jobs.wait(job_id, timeout=0.2)).ended:
                count = f" {status.count}" if status.total else ""
                eta = f", about {duration(status.eta_seconds)} left" if status.eta_seconds is not None else ""
                part = "" if status.unit_at is None else f"{_part(status)}: "
                progress(f"{part}{status.message}{count}{eta}")
        except KeyboardInterrupt:
            progress("Stopping after the piece at hand (Ctrl-C again: at once)")
            jobs.cancel(job_id)
            status = jobs.wait(job_id, timeout=PATIENCE)
    progress("")
    if status.state == "done":
        return status
    if status.state == "failed":
        failure = PprobeError(status.error or "It failed.")
        failure.exit_code = status.exit_code or BadRequest.exit_code
        raise failure
    raise Cancelled("Cancelled. The same command goes on where it stopped.")


def _part(status: "JobStatus") -> str:
    """The piece of a comparison in hand: "4 of 24, mini-llama, language, dose"."""
    unit = status.unit_at
    assert unit is not None  # noqa: S101  (the caller has looked)
    return f"{status.n_units_done + 1} of {status.n_units}, {unit.model}, {unit.circuit}, {unit.kind}"


def write_result(document: dict[str, object], what: str, result_id: str, target: str) -> None:
    """The JSON of a stored run or sweep to stdout or a file. Raises BadRequest, naming what is stored all the same."""
    try:
        write_answer(document, target)
    except BadRequest as error:
        raise BadRequest(f"{error} The {what} itself is stored as {result_id}.") from error
    if target != STDOUT:
        say(f"{what.capitalize()} {result_id}: JSON written to {target}.")


@contextmanager
def stdout_is_ours() -> Iterator[None]:
    """Whatever a library prints while the model works goes to nowhere: stdout carries the answer only."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        ours, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = ours
