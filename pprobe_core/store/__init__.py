"""The results file (DuckDB): all SQL of the project lives here."""

from pprobe_core.store.database import NotWritable
from pprobe_core.store.jobs import JobRow, JobTable, job_id_of
from pprobe_core.store.runs import Run, Runs


class Store(Runs, JobTable):
    """The results file: `Store(path)`, or `Store(":memory:")` for one that ends with the process."""


__all__ = ["JobRow", "NotWritable", "Run", "Store", "job_id_of"]
