"""What every page shares: selections that live in the address, the run chooser, the job panel, calm error messages."""

import contextlib
import html
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.prompt_sets import default_prompts, load_prompt_set
from pprobe_core.circuits.schema import Circuit
from pprobe_core.comparison import CompareRequest, labels
from pprobe_core.errors import BadRequest, ModelUnavailable, PprobeError, StoreUnavailable
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.jobs import JobStatus
from pprobe_core.models import catalogue
from pprobe_core.probing.strings import parse_strings, written_strings
from pprobe_core.probing.types import RANKINGS, ProbeRequest
from pprobe_core.store import Request, Run, Store
from pprobe_core.wording import duration, plural, verified
from ui import backend, words

START, PROBE, DOSE, WINDOW, CONTROLS, COMPARE, GLOSSARY = (
    f"../pages/{name}.py" for name in ("start", "probe", "dose", "window", "controls", "compare", "glossary")
)
ACTIVE = ("queued", "running")
BUSY_SECONDS, IDLE_SECONDS = 1.0, 4.0

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- calm messages


@contextlib.contextmanager
def calm_errors() -> Iterator[None]:
    """Show whatever goes wrong as a message with what to do; a traceback goes to the log only."""
    try:
        yield
    except StoreUnavailable as error:
        message_page(
            "The results file cannot be used", str(error), "Stored runs were not changed. Reload this page afterwards."
        )
    except ModelUnavailable as error:
        message_page("This model cannot be used", str(error), "Choose another model on the Start page.")
    except PprobeError as error:
        message_page("This cannot be done", str(error), "Change the choice and try again.")
    except Exception as error:  # the last net: a page must never end in a traceback
        log.exception("a page failed")
        message_page(
            "Something unexpected happened",
            f"{type(error).__name__}: {error}",
            "Stored runs are safe. Reload the page; the terminal that started the dashboard shows the details.",
        )


def message_page(title: str, text: str, advice: str) -> None:
    """One calm card instead of a page that cannot be shown."""
    with st.container(border=True, key="message"):
        st.markdown(f"### :material/info: {title}")
        st.text(text)
        st.caption(advice)


# ------------------------------------------------------------------------------- selections and their address


@dataclass(frozen=True)
class Selection:
    """A choice that pages share and the address carries: its default and what is accepted from an address."""

    default: str
    accepts: Callable[[str], bool]


@st.cache_resource(show_spinner=False)
def circuits() -> dict[str, Circuit]:
    """All circuits, read once, in the order of the pickers."""
    known = load_circuits()
    order = {circuit_id: place for place, circuit_id in enumerate(words.CIRCUIT_ORDER)}
    return dict(sorted(known.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


@st.cache_resource(show_spinner=False)
def model_titles() -> dict[str, str]:
    """Shipped models: id -> what the picker shows."""
    return {entry.id: entry.title or entry.id for entry in catalogue.shipped_models()}


def selections() -> Mapping[str, Selection]:
    """Everything the address carries."""
    known = circuits()
    models = list(model_titles())
    first_model = backend.FIRST_MODEL if backend.FIRST_MODEL in models else (models or [backend.FIRST_MODEL])[0]
    first_circuit = backend.FIRST_CIRCUIT if backend.FIRST_CIRCUIT in known else next(iter(known))
    return {
        "model": Selection(first_model, lambda v: 0 < len(v) <= 300),
        "circuit": Selection(first_circuit, lambda v: v in known),
        "prompts": Selection("mini", lambda v: v in words.PROMPT_SETS),
        "coupling": Selection("plain", lambda v: v in words.COUPLINGS),
        "thinking": Selection("auto", lambda v: v in words.THINKING),
        "run": Selection("", _is_id),
        "sweep": Selection("", _is_id),
        "ranking": Selection("shared", lambda v: v in RANKINGS),
        "models": Selection("", lambda v: 0 < len(v) <= 2000),
        "circuits": Selection("", lambda v: bool(v) and all(circuit in known for circuit in v.split(","))),
        "view": Selection("overview", lambda v: v in words.COMPARE_VIEWS),
    }


def _is_id(value: str) -> bool:
    return len(value) == 12 and set(value) <= set("0123456789abcdef")


def sync_selection() -> None:
    """Take over what a link or the back button says, and keep the address in step with the widgets.

    Widgets are plain keyed ones with `persist_state="session"`; this mirror is ours because bound query parameters
    break page switches. Values an address gets wrong are dropped.
    """
    state = st.session_state
    last = state.setdefault("_address", {})
    choices = selections()
    for key, choice in choices.items():
        state.setdefault(key, choice.default)
        given = st.query_params.get_all(key)
        if given and given[-1] != last.get(key) and choice.accepts(given[-1]):
            state[key] = given[-1]
        if state[key] is None:
            state[key] = choice.default
    want = {
        key: state[key]
        for key, choice in choices.items()
        if state[key] != choice.default and choice.accepts(str(state[key]))
    }
    state["_address"] = want
    if {key: st.query_params.get_all(key) for key in st.query_params} != {key: [value] for key, value in want.items()}:
        st.query_params.from_dict(want)


def pick_prompts_for_model() -> None:
    """After another model was chosen: the prompt set that fits it."""
    st.session_state["prompts"] = default_prompts(st.session_state["model"] in model_titles())


def show_run(run_id: str) -> None:
    """Make a run the one that the Probe page shows, and the pickers say what it is."""
    state = st.session_state
    state["run"], state["sweep"] = run_id, ""
    request = store().run(run_id).request
    for key in ("model", "circuit", "prompts", "coupling", "thinking"):
        if selections()[key].accepts(str(getattr(request, key))):
            state[key] = getattr(request, key)
    state["limit"], state["seed"] = request.limit or 0, request.seed
    # A harvest belongs to its run; the pickers ask for strings that a person gave.
    given = request.strings_from == "given"
    for side, strings in (("target", request.target), ("control", request.control)):
        state[f"{side}_strings"] = written_strings(strings) if given else ""


# ------------------------------------------------------------------------------------------------------- data


def store() -> Store:
    """The results file."""
    return backend.jobs().store


@st.cache_data(max_entries=12, show_spinner=False)
def table(name: str, run_id: str, where: str) -> pd.DataFrame:
    """A table of a finished run (pairs, layers, neurons ...). Runs never change, so the id is the key."""
    return getattr(store(), name)(run_id)


def read(name: str, run_id: str) -> pd.DataFrame:
    """`table` of the results file in use."""
    return table(name, run_id, str(store().path))


def check_own_file(circuit: Circuit) -> bool:
    """Say how many pairs the uploaded file holds, or what is wrong with it; True when it can be run."""
    path = st.session_state.get("own_prompts")
    if not path:
        return False
    try:
        pairs = load_prompt_set(circuit, path).pairs
    except BadRequest as error:
        st.error(escaped(in_users_words(str(error))), icon=":material/error:")
        return False
    st.caption(f":material/check: {plural(len(pairs), 'pair')} in {escaped(in_users_words(Path(path).name))}")
    return True


def in_users_words(text: str) -> str:
    """A sentence about an uploaded file with the name the user gave it, in place of the one it is kept under."""
    path = str(st.session_state.get("own_prompts") or "")
    if not path:
        return text
    name = readable_name(str(st.session_state.get("own_name") or Path(path).name))
    return text.replace(path, name).replace(Path(path).name, name)


def readable_name(name: str, longest: int = 60) -> str:
    """A file name as it can stand in a sentence: no invisible or direction-changing characters, its middle shortened.

    A right-to-left name is isolated, so that it does not turn the words around it.
    """
    seen = (c for c in name if unicodedata.category(c) != "Cf")
    name = " ".join("".join(c if c.isprintable() else " " for c in seen).split()) or "the file"
    if len(name) > longest:
        name = f"{name[: longest - 16]}…{name[-15:]}"
    turns = any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)
    return f"\u2068{name}\u2069" if turns else name


def request_from_pickers() -> ProbeRequest:
    """What the pickers on the Start page ask for."""
    state = st.session_state
    return ProbeRequest(
        model=state["model"].strip(),
        circuit=state["circuit"],
        prompts=str(state.get("own_prompts") or "") if state["prompts"] == words.OWN_FILE else state["prompts"],
        coupling=state["coupling"],
        limit=int(state.get("limit") or 0) or None,
        seed=int(state.get("seed") or ProbeRequest.seed),
        thinking=state["thinking"],
        target=parse_strings(state.get("target_strings") or ""),
        control=parse_strings(state.get("control_strings") or ""),
    )


def circuit_title(circuit_id: str) -> str:
    """The circuit's title, or its id when its file is gone."""
    known = circuits().get(circuit_id)
    return known.title if known else circuit_id


def run_title(row: Mapping[Any, Any]) -> str:
    """One line that tells a run from its neighbours."""
    text = f"{circuit_title(row['circuit'])} · {row['model']} · {Path(str(row['prompts'])).name}"
    if row["coupling"] != "plain":
        text += " · norm-aware"
    if row["thinking"] != "auto":
        text += f" · thinking {row['thinking']}"
    if row["strings_from"] != "circuit":
        text += f" · {words.STRINGS_FROM[row['strings_from']].lower()}"
    when = pd.Timestamp(row["created_at"])
    return f"{text} · {plural(row['n_pairs'], 'pair')} · {when:%d %b %H:%M} UTC"


def chosen_run() -> Run | None:
    """The run to show: the address's, else that of its sweep, else the pickers', else the newest; None without any."""
    runs = store().runs()
    wanted = st.session_state["run"]
    if wanted:
        return store().run(wanted)
    if runs.empty:
        return None
    if st.session_state["sweep"]:
        sweeps = store().sweeps()
        of_sweep = sweeps[sweeps["sweep_id"] == st.session_state["sweep"]]["run_id"]
        if len(of_sweep):
            return store().run(str(of_sweep.iloc[0]))
    return store().run(store().run_of(request_from_pickers()) or str(runs.iloc[0]["run_id"]))


# ------------------------------------------------------------------------------------------------ drawing bits


def figure(figure: charts.Figure, key: str, **options: Any) -> Any:
    """A chart with its title above and its caption below."""
    st.markdown(f"**{escaped(figure.title)}**")
    event = st.altair_chart(figure.chart, key=key, **options)
    st.caption(escaped(figure.caption))
    return event


def escaped(text: str) -> str:
    """Text as it is, with Markdown's own signs made harmless."""
    for sign in "\\`*_{}[]<>#$|~:":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else html.escape(sign))
    return text


def interval(values: Any, digits: int = 2) -> str:
    """`[low, high]` of a stored interval, or that there is none."""
    if not values or values[0] is None or values[1] is None:
        return "no interval"
    return f"[{charts.number(values[0], digits)}, {charts.number(values[1], digits)}]"


def no_run_yet() -> None:
    """What a results page shows while there is no run."""
    with st.container(border=True, key="no_run"):
        st.markdown("### :material/hourglass_empty: No run yet")
        st.markdown("Choose a model and a behaviour on the Start page and press **Run**. It takes seconds.")
        st.page_link(START, label="Go to Start", icon=":material/arrow_forward:")


# ---------------------------------------------------------------------------------------------- sidebar, jobs


def sidebar() -> None:
    """Job panel and a word about this place, below the navigation."""
    with st.sidebar:
        busy = any(job.state in ACTIVE for job in backend.jobs().list())
        st.fragment(_job_panel, run_every=BUSY_SECONDS if busy else IDLE_SECONDS)(busy)
        if notice := backend.jobs().notice:
            st.warning(escaped(notice), icon=":material/warning:")


@calm_errors()
def _job_panel(was_busy: bool) -> None:
    """What the worker is doing, on every page. Slow timer when idle, so that work started elsewhere is seen too."""
    jobs = backend.jobs().list()
    active = [job for job in jobs if job.state in ACTIVE]
    if bool(active) != was_busy:
        st.rerun()
    with st.container(border=True, key="job_panel"):
        if active:
            job_progress(next((job for job in active if job.state == "running"), active[0]), "panel")
            if len(active) > 1:
                st.caption(f"{len(active) - 1} more waiting")
            return
        st.markdown(":material/check_circle: **Nothing is running**")
        last = jobs[0] if jobs else None
        if last is None:
            st.caption("Start a run on the Start page; it goes on while you look at other pages.")
            return
        st.caption(f"Last: {escaped(job_title(last.request))}")
        if last.state == "done" and (last.run_id or isinstance(last.request, CompareRequest)):
            page, query = result_page(last)
            st.page_link(page, label="Open result", icon=":material/open_in_new:", query_params=query)
        elif last.state == "failed":
            st.error(f"Failed. {escaped(in_users_words(last.error or ''))}", icon=":material/error:")
        else:
            st.caption(":material/stop_circle: Stopped; what was finished is kept.")


def job_title(request: Request) -> str:
    """What a job is about, in a line."""
    if isinstance(request, SweepRequest):
        kind = words.SWEEP_KINDS[request.kind]
        try:
            run = store().run(request.run_id).request
        except BadRequest:
            return kind
        return f"{kind}: {circuit_title(run.circuit)}, {run.model}"
    if isinstance(request, CompareRequest):
        names = ", ".join(labels(request.models)[model] for model in request.models)
        return f"Comparison of {names}: {plural(len(request.circuits), 'behaviour')}"
    return f"{circuit_title(request.circuit)}, {request.model}"


def result_page(job: JobStatus) -> tuple[str, dict[str, str]]:
    """The page that shows what a finished job made, and the address it is opened with."""
    if isinstance(job.request, CompareRequest):
        query = {"models": ",".join(job.request.models)}
        return COMPARE, query | (
            {} if len(job.request.circuits) == len(circuits()) else {"circuits": ",".join(job.request.circuits)}
        )
    query = {"run": str(job.run_id)}
    if not isinstance(job.request, SweepRequest):
        return PROBE, query
    page = {"window": WINDOW, "strength": WINDOW, "dose": DOSE, "factor": DOSE, "patch": DOSE}
    return page.get(job.request.kind, CONTROLS), query | {"sweep": str(job.sweep_id)}


def job_progress(job: JobStatus, key: str) -> None:
    """One job under way: what, phase, bar, time left, cancel."""
    st.markdown(f"**{escaped(job_title(job.request))}**")
    share = min(job.done / job.total, 1.0) if job.total else 0.0
    text = job.message or "Starting"
    if job.unit_at is not None:
        unit = job.unit_at
        st.progress(
            min((job.n_units_done + share / 2) / max(job.n_units, 1), 1.0),
            text=escaped(
                f"Part {job.n_units_done + 1} of {job.n_units}: {labels([unit.model])[unit.model]}, "
                f"{circuit_title(unit.circuit).lower()}, {unit.kind}"
            ),
        )
    if job.total:
        text += f": {job.count}"
    if job.eta_seconds is not None:
        text += f", about {duration(job.eta_seconds)} left"
    st.progress(share, text=escaped(text))
    if st.button(
        "Cancel", key=f"cancel_{key}", icon=":material/stop_circle:", help="Stop; what is finished so far is kept."
    ):
        backend.jobs().cancel(job.job_id)
        st.rerun()


def watch_job(job_id: str) -> None:
    """Progress of one job in the page; the page is drawn again when it ends."""
    st.fragment(_watched, run_every=BUSY_SECONDS)(job_id)


@calm_errors()
def _watched(job_id: str) -> None:
    job = backend.jobs().status(job_id)
    if job.state not in ACTIVE:
        st.rerun()
    with st.container(border=True, key="watched_job"):
        job_progress(job, "page")
        st.caption("A real computation on this computer; it goes on while you look at other pages.")


def submit(request: Request) -> None:
    """Ask for a run or a sweep and remember the job; a request that cannot be met is said at once."""
    try:
        st.session_state["asked"] = backend.jobs().submit(request)
        st.session_state.pop("refused", None)
    except (BadRequest, ModelUnavailable) as error:
        st.session_state["refused"] = str(error)


# ---------------------------------------------------------------------------------------- the shown run's parts


def run_picker(run_id: str) -> None:
    """Chooser of the run that a results page shows; the choice goes into the address."""
    titles = {str(row["run_id"]): run_title(row) for row in store().runs().to_dict("records")}
    st.session_state["run_picker"] = run_id
    st.selectbox(
        "Run",
        list(titles),
        key="run_picker",
        format_func=lambda i: titles.get(i, i),
        help=words.HELP["run"],
        width=420,
        on_change=lambda: show_run(st.session_state["run_picker"]),
    )


def run_facts(run: Run) -> str:
    """One line under the title: what was run, on how much, at what cost."""
    s = run.summary
    passes = plural(int(s.get("n_forward_passes") or 0), "forward pass", suffix="es")
    proved = verified(s.get("structure_check"))
    return (
        f"Prompt set {escaped(Path(run.request.prompts).name)} · "
        f"{plural(int(s.get('n_pairs') or 0), 'pair')} · {words.COUPLINGS.get(run.request.coupling, '')} coupling · "
        f"seed {run.request.seed} · {passes} in {charts.number(s.get('seconds'), 1)} s · "
        f"{proved + ' · ' if proved else ''}run `{run.run_id}`"
    )


def top_neurons(run_id: str, ranking: str, k: int) -> pd.DataFrame:
    """The first k neurons of a ranking."""
    return _top_neurons(run_id, ranking, k, str(store().path))


@st.cache_data(max_entries=24, show_spinner=False)
def _top_neurons(run_id: str, ranking: Any, k: int, where: str) -> pd.DataFrame:
    return store().top_neurons(run_id, ranking, k)


def ranked_neurons(run_id: str, ranking: str, brush: Mapping[str, Any] | None, k: int) -> pd.DataFrame:
    """The first k neurons of a ranking, or the ones (500 at most) inside a region drawn in the neuron map."""
    if not brush:
        return top_neurons(run_id, ranking, k)
    ranked = top_neurons(run_id, ranking, 2**31 - 1)
    return charts.inside(ranked, ranking, brush).head(500)


def null_threshold(run: Run, ranking: str) -> float | None:
    """Threshold of the sign-flip control; it is about the mean importance, so only the shared ranking has one."""
    return (run.summary.get("null") or {}).get("importance_threshold") if ranking == "shared" else None


def delete_run(run_id: str) -> None:
    """Delete a run and forget it where it was the one shown."""
    store().delete_run(run_id)
    table.clear()
    st.session_state["_deleted"] = st.session_state.get("_deleted", 0) + 1
    if st.session_state.get("run") == run_id:
        st.session_state["run"] = st.session_state["sweep"] = ""
