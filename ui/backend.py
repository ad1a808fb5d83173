"""The one worker and its results file, as the pages see them. No page opens either on its own."""

import logging
import threading
from collections.abc import Sequence

import pandas as pd

from pprobe_core import jobs as core_jobs
from pprobe_core import playground as core_playground
from pprobe_core import recording
from pprobe_core.circuits import language
from pprobe_core.errors import BadRequest, ModelUnavailable, PprobeError
from pprobe_core.interventions.requests import checked_sweep, sweep_id_of
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.models import catalogue, memory
from pprobe_core.models import preflight as core_preflight
from pprobe_core.models.libraries import import_libraries
from pprobe_core.models.preflight import Preflight
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store, job_id_of

FIRST_MODEL, FIRST_CIRCUIT = "mini-qwen3", "safety_refusal"

log = logging.getLogger(__name__)


def jobs() -> core_jobs.Jobs:
    """The process-wide worker. Raises StoreUnavailable when the results file cannot be used."""
    return core_jobs.shared()


def playground() -> core_playground.Playground:
    """Where questions to the edited model are answered, beside the worker. Raises StoreUnavailable as `jobs` does."""
    return core_playground.shared(jobs())


def open_dashboard() -> None:
    """Start the worker and bring in the recorded results, so that every page has something to show at once.

    Where there are none (left out, or taken out by the user) and the results file is empty, a first run is asked for.
    Damaged recordings keep nothing else from being shown, and a results file that cannot be used does not keep the
    server from starting: every page then says what is wrong.
    """
    memory.share_pools()
    threading.Thread(target=language.prepare, name="pprobe-languages", daemon=True).start()
    try:
        worker = jobs()
        bring_recorded(worker.store)
        shipped = [entry.id for entry in catalogue.shipped_models()]
        if worker.store.runs().empty and not worker.list() and FIRST_MODEL in shipped:
            worker.submit(ProbeRequest(model=FIRST_MODEL, circuit=FIRST_CIRCUIT))
    except PprobeError as error:
        log.warning("%s", error)


def bring_recorded(store: Store) -> None:
    """Bring the recorded results into the results file, unless PPROBE_RECORDED=0 or the user took them out."""
    if not recording.wanted():
        return
    try:
        recording.load_recorded(store)
    except PprobeError as error:
        log.warning("%s", error)


def close_dashboard() -> None:
    """Stop the worker between two blocks and let the results file go; unfinished jobs go on at the next start."""
    core_playground.close()
    core_jobs.close()


def preflight(model: str) -> Preflight:
    """What is known about a model before it is used; memory that idle models would free counts as free.

    Asks the hub about a hub id. Raises ModelUnavailable when nothing is known about the model.
    """
    return core_preflight.preflight(model, reclaimable=jobs().reclaimable())


def downloaded(model: str) -> Preflight | None:
    """The same for a hub model that was fetched before, without asking the hub; None when it was not."""
    return core_preflight.downloaded(model, reclaimable=jobs().reclaimable())


def tokenizer_is_far(model: str) -> bool:
    """Whether a model's tokeniser would have to be fetched from the hub. False for what cannot be named at all."""
    try:
        return catalogue.find_model(model).on_hub and downloaded(model) is None
    except ModelUnavailable:
        return False


def first_words(model: str, target: Sequence[str], control: Sequence[str]) -> pd.DataFrame:
    """How a model's tokeniser reads strings (probing.first_words). The first call imports torch. ModelUnavailable."""
    import_libraries()
    from pprobe_core.probing.first_words import first_words as read

    return read(model, target, control)


def find_job(job_id: str) -> core_jobs.JobStatus | None:
    """Status of a job, None when there is none of this id."""
    return jobs().status(job_id) if jobs().store.job(job_id) is not None else None


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
