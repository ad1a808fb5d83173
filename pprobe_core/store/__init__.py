"""The results file (DuckDB): all SQL of the project lives here."""

from dataclasses import replace
from pathlib import Path

from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store.database import NotWritable
from pprobe_core.store.jobs import JobRow, JobTable, Request, job_id_of
from pprobe_core.store.recorded import Recorded
from pprobe_core.store.runs import Run
from pprobe_core.store.sweeps import Spent, Sweep


class Store(Recorded, JobTable):
    """The results file: `Store(path)`, or `Store(":memory:")` for one that ends with the process."""

    def run_of(self, request: ProbeRequest) -> str | None:
        """The finished run of exactly this request, else the newest one with the same settings; None without any.

        The newest may rest on other weights than are on the disk now: only the worker, which reads them, knows.
        """
        job = self.job(job_id_of(request))
        if job is not None and job.run_id is not None and self.has_run(job.run_id):
            return job.run_id
        runs = self.runs_like(request.model, request.circuit, Path(request.prompts).name, request.coupling)
        return next((run.run_id for run in runs if same_settings(run.request, request)), None)


__all__ = ["JobRow", "NotWritable", "Request", "Run", "Spent", "Store", "Sweep", "job_id_of"]


def same_settings(one: ProbeRequest, other: ProbeRequest) -> bool:
    """Whether two requests of one model, circuit and prompt set ask for the same, wherever the prompt file lay."""
    return replace(one, model=other.model, prompts=other.prompts, generate=other.generate) == other
