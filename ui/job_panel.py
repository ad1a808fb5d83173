"""What the worker is doing: the panel in the sidebar, progress in the page, asking for a run or a sweep."""

import streamlit as st

from pprobe_core.comparison import CompareRequest, labels
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.jobs import JobStatus
from pprobe_core.store import Request
from pprobe_core.wording import duration, plural
from ui import backend, library, selection, shell, words
from ui.terms import escaped

ACTIVE = ("queued", "running")
BUSY_SECONDS, IDLE_SECONDS = 1.0, 4.0


def sidebar() -> None:
    """Job panel and a word about this place, below the navigation."""
    with st.sidebar:
        busy = bool(backend.jobs().active())
        st.fragment(_job_panel, run_every=BUSY_SECONDS if busy else IDLE_SECONDS)(busy)
        if notice := backend.jobs().notice:
            st.warning(escaped(notice), icon=":material/warning:")


@shell.calm_errors()
def _job_panel(was_busy: bool) -> None:
    """What the worker is doing, on every page. Slow timer when idle, so that work started elsewhere is seen too."""
    selection.heard()
    active = backend.jobs().active()
    if bool(active) != was_busy:
        st.rerun()
    with st.container(border=True, key="job_panel"):
        if active:
            job_progress(next((job for job in active if job.state == "running"), active[0]), "panel")
            if len(active) > 1:
                st.caption(f"{len(active) - 1} more waiting")
            return
        st.markdown(":material/check_circle: **Nothing is running**")
        last = backend.jobs().latest()
        if last is None:
            st.caption("Start a run on the Start page; it goes on while you look at other pages.")
            return
        st.caption(f"Last: {escaped(job_title(last.request))}")
        if last.state == "done" and (last.run_id or isinstance(last.request, CompareRequest)):
            page, query = result_page(last)
            st.page_link(page, label="Open result", icon=":material/open_in_new:", query_params=query)
        elif last.state == "failed":
            st.error(f"Failed. {escaped(last.error or '')}", icon=":material/error:")
        else:
            st.caption(":material/stop_circle: Stopped; what was finished is kept.")


def job_title(request: Request) -> str:
    """What a job is about, in a line."""
    if isinstance(request, SweepRequest):
        kind = words.SWEEP_KINDS[request.kind]
        try:
            run = shell.store().run(request.run_id).request
        except BadRequest:
            return kind
        return f"{kind}: {library.circuit_title(run.circuit)}, {run.model}"
    if isinstance(request, CompareRequest):
        names = ", ".join(labels(request.models)[model] for model in request.models)
        return f"Comparison of {names}: {plural(len(request.circuits), 'behaviour')}"
    return f"{library.circuit_title(request.circuit)}, {request.model}"


def result_page(job: JobStatus) -> tuple[str, dict[str, str]]:
    """The page that shows what a finished job made, and the address it is opened with."""
    if isinstance(job.request, CompareRequest):
        query = {"models": ",".join(job.request.models)}
        circuits = [named.partition("@")[0] for named in job.request.circuits]
        if circuits != library.shipped_circuits():
            query["circuits"] = ",".join(circuits)
        return shell.COMPARE, query
    query = {"run": str(job.run_id)}
    if not isinstance(job.request, SweepRequest):
        return shell.PROBE, query
    page = {
        "window": shell.WINDOW,
        "strength": shell.WINDOW,
        "dose": shell.DOSE,
        "factor": shell.DOSE,
        "patch": shell.DOSE,
    }
    return page.get(job.request.kind, shell.CONTROLS), query | {"sweep": str(job.sweep_id)}


def job_progress(job: JobStatus, key: str) -> None:
    """One job under way: what, phase, bar, time left, cancel."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"**{escaped(job_title(job.request))}**", width="content")
        if st.button(
            "Cancel", key=f"cancel_{key}", icon=":material/stop_circle:", help="Stop; what is finished so far is kept."
        ):
            backend.jobs().cancel(job.job_id)
            st.rerun()
    share = min(job.done / job.total, 1.0) if job.total else 0.0
    text = job.message or "Starting"
    if job.unit_at is not None:
        unit = job.unit_at
        st.progress(
            min((job.n_units_done + share / 2) / max(job.n_units, 1), 1.0),
            text=escaped(
                f"Part {job.n_units_done + 1} of {job.n_units}: {labels([unit.model])[unit.model]}, "
                f"{library.circuit_title(unit.circuit).lower()}, {unit.kind}"
            ),
        )
    if job.total:
        text += f": {job.count}"
    if job.eta_seconds is not None:
        text += f", about {duration(job.eta_seconds)} left"
    st.progress(share, text=escaped(text))


def watch_job(job_id: str) -> None:
    """Progress of one job in the page; the page is drawn again when it ends."""
    st.session_state["_watched"] = job_id
    st.fragment(_watched, run_every=BUSY_SECONDS)(job_id)


def finished_job(job: JobStatus | None) -> None:
    """In the place of the progress that was watched here: that it is done. Nothing below moves when a job ends."""
    if job is None or job.state != "done" or st.session_state.get("_watched") != job.job_id:
        return
    with st.container(border=True, key="watched_job"):
        st.markdown(f"**{escaped(job_title(job.request))}**")
        st.progress(1.0, text="Done")
        st.caption(":material/check_circle: What it found stands below.")


def turn_to(page: str) -> None:
    """On another page than before: what was watched on the last one is no longer news."""
    if st.session_state.get("_page", page) != page:
        st.session_state.pop("_watched", None)
    st.session_state["_page"] = page


@shell.calm_errors()
def _watched(job_id: str) -> None:
    job = backend.jobs().status(job_id)
    if job.state not in ACTIVE:
        st.rerun()
    with st.container(border=True, key="watched_job"):
        job_progress(job, "page")
        st.caption("A real computation on this computer; it goes on while you look at other pages.")


def submit(request: Request, *, here: bool = False) -> None:
    """Ask for a run or a sweep and remember the job; a request that cannot be met is said at once.

    With `here` a recorded result is no answer: it is computed on this computer.
    """
    try:
        st.session_state["asked"] = backend.jobs().submit(request, here=here)
        st.session_state.pop("refused", None)
    except (BadRequest, ModelUnavailable) as error:
        st.session_state["refused"] = str(error)
