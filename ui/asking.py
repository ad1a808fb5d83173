"""Asking for a sweep: the pickers that the pages of interventions share, what they ask for, and its state."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import streamlit as st

from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.types import SWEEP_RANKINGS, SweepKind, SweepRequest
from pprobe_core.store import Run
from ui import backend, job_panel, selection, shell, words


def numbers_of(text: str, what: str) -> tuple[float, ...]:
    """Numbers separated by commas or spaces. Raises BadRequest naming the first that is none."""
    found = []
    for item in re.split(r"[\s,;]+", text.replace("−", "-").strip()):
        if not item:
            continue
        try:
            found.append(float(item))
        except ValueError:
            raise BadRequest(
                f"“{item}” in {what} is no number. Write numbers separated by commas, such as 1, 5, 20."
            ) from None
    return tuple(found)


def whole_numbers_of(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers and ranges such as 5-8. Raises BadRequest naming the first that is none."""
    found: list[int] = []
    for item in re.split(r"[\s,;]+", text.strip()):
        if not item:
            continue
        match = re.fullmatch(r"(\d{1,9})(?:[-–](\d{1,9}))?", item)
        if match is None or (match[2] and int(match[2]) < int(match[1])) or (match[2] and int(match[2]) > 100_000):
            raise BadRequest(f"“{item}” in {what} is no whole number. Write numbers such as 1, 5, 20 or ranges as 5-8.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))


def use_defaults_of(run: Run, circuit: Circuit | None) -> None:
    """When another run is shown, the pickers go back to what its circuit states."""
    state = st.session_state
    if state.get("_sweep_run") == run.run_id:
        return
    state["_sweep_run"] = run.run_id
    base = default_request(circuit, run.run_id, "dose")
    for key, value in (
        ("sweep_condition", base.condition),
        ("sweep_position", base.position),
        ("sweep_draws", base.draws),
        ("sweep_answers", True),
        ("sweep_seeds", 1),
        ("sweep_doses", ""),
        ("sweep_factors", ""),
        ("sweep_layers", ""),
        ("sweep_strengths", ""),
        ("sweep_direction", base.direction),
        ("sweep_scale", "relative"),
    ):
        state[key] = value
    if state.get("_chosen_in") != run.run_id:
        state["sweep_ranking"] = base.ranking


def switch_off(run_id: str, names: Sequence[str]) -> None:
    """Make these neurons of a run the ones that the Dose response page switches off."""
    state = st.session_state
    state["run"], state["sweep"] = run_id, ""
    state["chosen_neurons"], state["sweep_ranking"], state["dose_kind"] = ", ".join(names), "chosen", "dose"
    state["sweep_doses"] = ""
    state["_chosen_in"] = run_id


def condition_picker() -> None:
    """Which prompts are edited."""
    st.selectbox(
        "Edited on",
        list(words.CONDITIONS),
        key="sweep_condition",
        format_func=lambda c: words.CONDITIONS[c],
        help=words.HELP["condition"],
        persist_state="session",
    )


def position_picker() -> None:
    """At which positions."""
    st.selectbox(
        "Position",
        list(words.POSITIONS),
        key="sweep_position",
        format_func=lambda p: words.POSITIONS[p],
        help=words.HELP["position"],
        persist_state="session",
    )


def ranking_picker() -> None:
    """Which neurons come first, with the question that order answers."""
    st.selectbox(
        "Neurons by",
        SWEEP_RANKINGS,
        key="sweep_ranking",
        format_func=lambda r: words.SWEEP_RANKINGS[r][0],
        help=words.HELP["sweep_ranking"],
        persist_state="session",
    )


def keep_known(key: str, options: Sequence[Any]) -> None:
    """Let a picker whose kept choice is not there in this sweep start at its first option."""
    selection.start_at(key, options, options[0])


def text_option(label: str, key: str, help_key: str, placeholder: str = "default") -> None:
    """A list of numbers as text."""
    st.text_input(label, key=key, help=words.HELP[help_key], placeholder=placeholder, persist_state="session")


def common_options() -> None:
    """Draws and sampling, in the fold for the few who change them."""
    columns = st.columns(2)
    with columns[0]:
        st.number_input("Random draws", 1, 50, key="sweep_draws", help=words.HELP["draws"], persist_state="session")
    with columns[1]:
        st.number_input("Answer seeds", 1, 20, key="sweep_seeds", help=words.HELP["n_seeds"], persist_state="session")


def request_of(run: Run, circuit: Circuit | None, kind: SweepKind) -> SweepRequest:
    """What the pickers ask for. Raises BadRequest for a list of numbers that is none."""
    state = st.session_state
    request = replace(
        default_request(circuit, run.run_id, kind),
        condition=state["sweep_condition"],
        draws=int(state["sweep_draws"]),
        responses=bool(state["sweep_answers"]) and kind not in ("layers", "held"),
        n_seeds=int(state["sweep_seeds"]),
    )
    if kind not in ("patch", "held"):
        request = replace(request, position=state["sweep_position"])
    if kind in ("window", "strength"):
        return replace(
            request,
            direction=state["sweep_direction"],
            relative=state["sweep_scale"] == "relative",
            layers=whole_numbers_of(state["sweep_layers"], "the layers"),
            strengths=numbers_of(state["sweep_strengths"], "the strengths"),
        )
    if kind in ("dose", "factor", "patch"):
        chosen = state["sweep_ranking"] == "chosen"
        names = re.split(r"[\s,;]+", str(state.get("chosen_neurons") or "").strip()) if chosen else []
        request = replace(
            request,
            ranking=state["sweep_ranking"],
            neurons=tuple(name for name in names if name),
            doses=whole_numbers_of(state["sweep_doses"], "the numbers of neurons"),
        )
    if kind == "factor":
        request = replace(request, factors=numbers_of(state["sweep_factors"], "the factors"))
    return request


def run_button(
    request: SweepRequest | None,
    label: str = "Run sweep",
    key: str = "sweep_button",
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """The button that asks for a sweep; what stands in its way is said below it."""
    job = job_of(request) if request is not None else None
    busy = job is not None and job.state in job_panel.ACTIVE
    if st.button(
        label,
        key=key,
        type="primary",
        icon=":material/play_arrow:",
        help=words.HELP["sweep_button"],
        disabled=request is None or busy,
        width=width,
    ):
        assert request is not None  # noqa: S101  (the button is disabled without)
        st.session_state["sweep"] = ""
        job_panel.submit(request)
        st.rerun()


def job_of(request: SweepRequest) -> Any:
    """The job of this request, None when it was never asked for (or cannot be)."""
    try:
        return backend.find_job(backend.sweep_job_id(request))
    except BadRequest:
        return None


def state_of(request: SweepRequest | None) -> None:
    """What is going on with the request of the pickers: progress, failure, cancelled, refused."""
    if refused := st.session_state.pop("refused", None):
        st.error(shell.escaped(refused), icon=":material/error:")
    job = job_of(request) if request is not None else None
    if job is None:
        return
    if job.state in job_panel.ACTIVE:
        job_panel.watch_job(job.job_id)
    elif job.state == "failed":
        st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    elif job.state == "cancelled":
        st.info("This sweep was cancelled. The points it measured are kept: Run goes on from there.")
    else:
        job_panel.finished_job(job)
