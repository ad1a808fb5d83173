"""What pages say about recorded results: that they were not computed here, the button that does so, how both agree."""

import streamlit as st

from pprobe_core import recording
from pprobe_core.compare_frames import Compared
from pprobe_core.errors import PprobeError
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.reproduction import Agreement
from pprobe_core.store import Run, Sweep, job_id_of
from pprobe_core.wording import plural
from ui import backend, exports, job_panel, shell, terms, words

BADGE = ":gray-badge[:material/history: Recorded]"


def date_of(shown: Run | Sweep) -> str:
    """The day of a result, such as 26 November 2026."""
    return f"{shown.created_at.day} {shown.created_at:%B %Y}"


def run_notice(run: Run, *, watched: bool = False) -> None:
    """That a run is a recorded one, with the button that computes it here; nothing for a run computed here.

    `watched`: the page shows the progress of this run's job itself.
    """
    if not run.recorded:
        return
    _notice("run was", date_of(run), run.request, job_id_of(run.request), watched)


def sweep_notice(run: Run, sweep: Sweep | None) -> None:
    """The same for the sweep that a page shows, and its run; the page's own panel shows the progress."""
    if sweep is None or not sweep.recorded:
        run_notice(run)
        return
    what = "sweep and its run were" if run.recorded else "sweep was"
    _notice(what, date_of(sweep), sweep.request, job_id_of(sweep.request), watched=True)


def _notice(what: str, date: str, request: ProbeRequest | SweepRequest, job_id: str, watched: bool) -> None:
    job = backend.find_job(job_id)
    if job is not None and job.state in job_panel.ACTIVE:
        st.fragment(_progress, run_every=job_panel.BUSY_SECONDS)(job.job_id, date, watched)
        return
    with st.container(horizontal=True, vertical_alignment="center", key="recorded_notice"):
        st.markdown(
            terms.said(f"{BADGE} This {what} recorded on {date}, not computed on this computer."),
            help=words.HELP["recorded"],
            width="content",
        )
        pressed = st.button(
            "Compute it here",
            key="compute_here",
            icon=":material/play_arrow:",
            type="tertiary",
            help=words.HELP["compute_here"],
        )
    if job is not None and job.state == "failed":
        st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    if pressed:
        if isinstance(request, SweepRequest):
            st.session_state["sweep"] = ""
        job_panel.submit(request, here=True)
        st.rerun()


@shell.calm_errors()
def _progress(job_id: str, date: str, watched: bool) -> None:
    """The notice while the result is computed here, as high as before; the page is drawn again when that ends."""
    job = backend.jobs().status(job_id)
    if job.state not in job_panel.ACTIVE:
        st.rerun()
    where = "" if watched else f" {job.message or 'Starting'}{f': {job.count}' if job.total else ''}."
    with st.container(horizontal=True, vertical_alignment="center", key="recorded_notice"):
        st.markdown(
            f"{BADGE} {terms.marked(f'Recorded on {date}; it is being computed here now.{where}')}",
            width="content",
        )
        if not watched and st.button(
            "Cancel",
            key="cancel_recorded",
            icon=":material/stop_circle:",
            type="tertiary",
            help="Stop; the recorded result stays.",
        ):
            backend.jobs().cancel(job_id)
            st.rerun()


def comparison_line(found: Compared) -> None:
    """How much of a comparison is recorded."""
    results: list[Run | Sweep] = [*found.runs.values(), *found.sweeps.values()]
    n = sum(result.recorded for result in results)
    if n:
        last = max((result for result in results if result.recorded), key=lambda result: result.created_at)
        st.markdown(
            terms.said(
                f"{BADGE} {n} of {plural(len(results), 'result')} here were recorded on {date_of(last)}, not computed "
                "on this computer. Open one on its own page to compute it here."
            ),
            help=words.HELP["recorded"],
        )


# ---------------------------------------------------------------------------------------------------- how it agrees


def agreement(run: Run, sweep: Sweep | None = None) -> None:
    """How a result that was computed here agrees with its recording; nothing where none is recorded."""
    shown = run if sweep is None else sweep
    if shown.recorded:
        return
    found = _agreement(run.run_id, None if sweep is None else sweep.sweep_id, shell.store().edition)
    if found is None:
        return
    icon = ":material/check_circle:" if found.agrees else ":material/difference:"
    with st.expander(f"Computed on this computer, and recorded before. {found.sentence}", icon=icon):
        table = found.by_what()
        exports.table(
            table.assign(
                what=table["what"].str.capitalize(),
                agree=[f"{a} of {n}" for a, n in zip(table["n_agree"], table["n"], strict=True)],
                largest=[_digits(value) for value in table["largest"]],
                tolerance=[_digits(value) for value in table["tolerance"]],
            )[["what", "agree", "largest", "tolerance"]],
            hide_index=True,
            height="content",
            key=f"agreement_{shown.created_at.isoformat()}",
            alt="How the result computed here agrees with its recording",
            column_config={
                "what": st.column_config.TextColumn("What", help="Which number is compared."),
                "agree": st.column_config.TextColumn("Agree", help="How many lie within the tolerance."),
                "largest": st.column_config.TextColumn(
                    "Largest difference", help="Between here and the recording; empty where words are compared."
                ),
                "tolerance": st.column_config.TextColumn(
                    "Tolerance", help="What two processors may differ by: it grows with the number."
                ),
            },
        )
        for note in found.notes:
            st.caption(shell.escaped(note))


def _digits(value: float | None) -> str:
    """A small number in two digits; what only rounding leaves is zero."""
    if value is None:
        return ""
    return "0" if value < 1e-9 else f"{value:.2g}"


@st.cache_data(max_entries=24, show_spinner=False)
def _agreement(run_id: str, sweep_id: str | None, edition: str) -> Agreement | None:
    return recording.agreement_with_recording(shell.store(), run_id, sweep_id)


# ---------------------------------------------------------------------------------------------------- the whole set


def set_controls() -> None:
    """On the Runs page: how many recorded results are here, and the buttons that take them out or bring them back."""
    try:
        there = recording.recorded_set()
    except PprobeError as error:
        st.caption(f":material/info: {shell.escaped(str(error))}")
        return
    n_runs, n_sweeps = shell.store().n_recorded()
    if there is None and not n_runs:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="recorded_set"):
        text = (
            f"{plural(n_runs, 'recorded run')} and {plural(n_sweeps, 'recorded sweep')} are shown."
            if n_runs
            else "No recorded runs are shown."
        )
        st.markdown(terms.said(f"{BADGE} {text}"), help=words.HELP["recorded"], width="content")
        if n_runs and st.button(
            "Remove recorded runs",
            key="remove_recorded",
            icon=":material/visibility_off:",
            type="tertiary",
            help="Take them out of the list and the results file. Your own runs stay; they can be brought back.",
        ):
            shell.store().remove_recorded()
            forget()
            st.rerun()
        lacking = there is not None and (n_runs < len(there.runs) or n_sweeps < len(there.sweeps))
        if lacking and st.button(
            "Bring recorded runs back",
            key="restore_recorded",
            icon=":material/restore:",
            type="tertiary",
            help="Bring in all that came with pprobe, except what you computed yourself.",
        ):
            recording.load_recorded(shell.store(), again=True)
            forget()
            st.rerun()


def forget() -> None:
    """After the set changed: nothing shown may rest on what is gone."""
    st.session_state["_deleted"] = st.session_state.get("_deleted", 0) + 1
    run_id = st.session_state.get("run")
    if run_id and not shell.store().has_run(run_id):
        st.session_state["run"] = st.session_state["sweep"] = ""
