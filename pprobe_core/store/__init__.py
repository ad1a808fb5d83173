"""The results file (DuckDB): all SQL of the project lives here."""

from pprobe_core.store.database import NotWritable
from pprobe_core.store.jobs import JobRow, JobTable, Request, job_id_of
from pprobe_core.store.runs import Run, Runs
from pprobe_core.store.sweeps import Spent, Sweep


class Store(Runs, JobTable):
    """The results file: `Store(path)`, or `Store(":memory:")` for one that ends with the process."""


__all__ = ["JobRow", "NotWritable", "Request", "Run", "Spent", "Store", "Sweep", "job_id_of"]
