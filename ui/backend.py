"""The one worker and its results file, as the pages see them. No page opens either on its own."""

import hashlib
import logging
import tempfile
from pathlib import Path

from pprobe_core import jobs as core_jobs
from pprobe_core import settings
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.interventions.requests import checked_sweep, sweep_id_of
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.models import catalogue
from pprobe_core.models import preflight as core_preflight
from pprobe_core.models.preflight import Preflight
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import job_id_of

FIRST_MODEL, FIRST_CIRCUIT = "mini-qwen3", "safety_refusal"

log = logging.getLogger(__name__)


def jobs() -> core_jobs.Jobs:
    """The process-wide worker. Raises StoreUnavailable when the results file cannot be used."""
    return core_jobs.shared()


def open_workplace() -> None:
    """Start the worker; in an empty results file ask for a first real run, so that there is something to look at.

    A results file that cannot be used does not keep the server from starting: every page then says what is wrong.
    """
    try:
        worker = jobs()
        shipped = [entry.id for entry in catalogue.shipped_models()]
        if worker.store.runs().empty and not worker.list() and FIRST_MODEL in shipped:
            worker.submit(ProbeRequest(model=FIRST_MODEL, circuit=FIRST_CIRCUIT))
    except PprobeError as error:
        log.warning("%s", error)


def close_workplace() -> None:
    """Stop the worker between two blocks and let the results file go; unfinished jobs go on at the next start."""
    core_jobs.close()


def keep_upload(name: str, data: bytes) -> Path:
    """Store an uploaded prompt file in the cache folder under a name made from its content; returns its path.

    A page calls this at every rerun, while the worker may be reading the file: it is written once, and appears whole.
    Raises BadRequest when the folder cannot be written.
    """
    stem = "".join(c for c in Path(name).stem if c.isalnum() or c in "-_")[:40] or "prompts"
    suffix = ".jsonl" if name.lower().endswith((".jsonl", ".json")) else ".csv"
    folder = settings.cache_dir() / "prompts"
    path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(
            f"The uploaded file cannot be kept in {folder} ({reason}). Free some space or allow writing there, "
            "or set PPROBE_CACHE to another folder."
        ) from error
    return path


def preflight(model: str) -> Preflight:
    """What is known about a model before it is used; memory that idle models would free counts as free.

    Asks the hub about a hub id. Raises ModelUnavailable when nothing is known about the model.
    """
    return core_preflight.preflight(model, reclaimable=jobs().reclaimable())


def downloaded(model: str) -> Preflight | None:
    """The same for a hub model that was fetched before, without asking the hub; None when it was not."""
    return core_preflight.downloaded(model, reclaimable=jobs().reclaimable())


def find_job(job_id: str) -> core_jobs.JobStatus | None:
    """Status of a job, None when there is none of this id."""
    return next((job for job in jobs().list() if job.job_id == job_id), None)


def sweep_job_id(request: SweepRequest) -> str:
    """Id of the job that this request would meet. Raises BadRequest for one that cannot be met."""
    run = jobs().store.run(request.run_id)
    return job_id_of(checked_sweep(request, core_jobs.shape_of(run)))


def sweep_id(request: SweepRequest) -> str | None:
    """Id of the sweep that this request would give, None for one that cannot be met."""
    try:
        run = jobs().store.run(request.run_id)
        return sweep_id_of(run.request_key, checked_sweep(request, core_jobs.shape_of(run)))
    except BadRequest:
        return None
