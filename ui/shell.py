"""What every page shares: selections that live in the address, the run chooser, the job panel, calm error messages."""

import contextlib
import json
import logging
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts, neuron_charts
from pprobe_core.circuits import own_sets
from pprobe_core.circuits.editor import folder_state
from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.prompt_sets import default_prompts
from pprobe_core.circuits.schema import Circuit
from pprobe_core.comparison import AUTO, SWEEP_PARTS, CompareRequest, labels
from pprobe_core.errors import BadRequest, ModelUnavailable, PprobeError, StoreUnavailable
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.jobs import JobStatus
from pprobe_core.models import catalogue
from pprobe_core.playground import MAX_NEURONS
from pprobe_core.probing.strings import parse_strings, written_strings
from pprobe_core.probing.types import RANKINGS, ProbeRequest
from pprobe_core.store import Request, Run, Store, Sweep
from pprobe_core.wording import duration, plural, verified
from ui import backend, exports, presenter, terms, words
from ui.terms import escaped

START, PLAYGROUND, PROBE, DOSE, WINDOW, CONTROLS, COMPARE, PROMPTS, CIRCUITS, GLOSSARY = (
    f"../pages/{name}.py"
    for name in (
        "start", "playground", "probe", "dose", "window", "controls", "compare", "prompts", "circuits", "glossary",
    )
)  # fmt: skip
ACTIVE = ("queued", "running")
BUSY_SECONDS, IDLE_SECONDS = 1.0, 4.0
BRUSHED = 500  # neurons listed at most from a region drawn in the neuron map
OF_A_REQUEST = (
    "model",
    "circuit",
    "prompts",
    "coupling",
    "thinking",
    "limit",
    "seed",
    "target_strings",
    "control_strings",
)  # fmt: skip  (what the Start page asks for; other pages only carry it along)
HEARD_SECONDS = 0.7  # how long after writing an address a script run may still be the one that wrote it
LATE_SECONDS = 5.0  # how long a request may wait that a browser sent before it heard of a new address

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
        st.markdown(f"## :material/info: {title}")
        st.text(text)
        st.caption(advice)


# ------------------------------------------------------------------------------- selections and their address


@dataclass(frozen=True)
class Selection:
    """A choice that the address carries: its default, what is accepted from an address, and what a widget makes of it.

    `pages` names the pages on which it says something (their url_path); without any it does so everywhere.
    """

    default: Any
    accepts: Callable[[str], bool]
    value: Callable[[str], Any] = str
    pages: tuple[str, ...] = ()


def circuits() -> dict[str, Circuit]:
    """All circuits in the order of the pickers, a user's own last; read again only when one of those changed."""
    return _circuits(folder_state())


@st.cache_resource(max_entries=4, show_spinner=False)
def _circuits(state: object) -> dict[str, Circuit]:
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
        "prompts": Selection("mini", lambda v: v in words.PROMPT_SETS or own_sets.exists(v)),
        "coupling": Selection("plain", lambda v: v in words.COUPLINGS),
        "thinking": Selection("auto", lambda v: v in words.THINKING),
        "run": Selection("", _is_id),
        "sweep": Selection("", _is_id),
        "ranking": Selection("shared", lambda v: v in RANKINGS),
        "models": Selection("", lambda v: 0 < len(v) <= 2000),
        "circuits": Selection("", lambda v: bool(v) and all(circuit in known for circuit in v.split(","))),
        "view": Selection("overview", lambda v: v in words.COMPARE_VIEWS),
        "present": Selection("", lambda v: v == "1"),
        **_more_of_a_request(),
        **_places_on_pages(known),
    }


def _more_of_a_request() -> dict[str, Selection]:
    """What a probe is asked for beside its model, behaviour and prompts: a link can then ask for the same run."""
    strings = Selection("", lambda v: 0 < len(v) <= 500)
    return {
        "limit": Selection(0, whole_number(1, 10_000), int),
        "seed": Selection(ProbeRequest.seed, whole_number(0, 2**31 - 1), int),
        "target_strings": strings,
        "control_strings": strings,
        "ask": Selection("", lambda v: bool(sweep_wishes(v)), pages=("dose", "window", "controls")),
    }


def sweep_wishes(text: str) -> dict[str, Any]:
    """What a link asks of a sweep (JSON: fields of SweepRequest but the run's), {} where it is nothing of the kind."""
    known = {field.name for field in fields(SweepRequest)} - {"run_id"}
    try:
        wishes = json.loads(text) if 0 < len(text) <= 1000 else {}
    except ValueError:
        return {}
    return wishes if isinstance(wishes, dict) and set(wishes) <= known else {}


def _places_on_pages(known: Mapping[str, Circuit]) -> dict[str, Selection]:
    """Where one stands on a page: the dose, layer, strength, outcome or pair looked at, the view of a comparison."""
    neurons, window, runs, compare, play = ("dose",), ("window",), ("runs",), ("compare",), ("playground",)
    word = Selection("", lambda v: 0 < len(v) <= 80)
    flag = Selection(False, lambda v: v in ("0", "1"), lambda v: v == "1")
    split = Selection("", lambda v: v in words.SPLITS, pages=window)
    return {
        "top_k": Selection(50, lambda v: v in map(str, words.TOP_K), int, ("probe",)),
        "pair": replace(word, accepts=lambda v: 0 < len(v) <= 200, pages=("probe", *neurons, *window)),
        "dose": Selection(None, decimal, float, neurons),
        "outcome": replace(word, pages=neurons),
        "use_labels": replace(flag, pages=neurons),
        "window_split": split,
        "window_value": replace(word, pages=window),
        "window_strength": Selection(None, decimal, float, window),
        "window_layer": Selection(None, whole_number(0, 100_000), int, window),
        "collateral_layer": Selection(None, whole_number(0, 100_000), int, window),
        "play_pair": Selection(None, lambda v: 0 < len(v) <= 200, pages=play),
        "play_condition": Selection(None, lambda v: v in words.CONDITIONS, pages=play),
        "play_text": Selection(None, lambda v: 0 < len(v) <= 500, pages=play),
        "play_n": Selection(None, whole_number(0, MAX_NEURONS), int, play),
        "play_factor": Selection(0.0, decimal, float, play),
        "play_ranking": Selection("ablation", lambda v: v in RANKINGS, pages=play),
        "play_strength": Selection(None, decimal, float, play),
        "play_layer": Selection(None, whole_number(0, 100_000), int, play),
        "play_position": Selection("decision", lambda v: v in words.POSITIONS, pages=play),
        "run_a": Selection("", _is_id, pages=runs),
        "run_b": Selection("", _is_id, pages=runs),
        "overlay": Selection("ffn", lambda v: v in words.QUANTITIES, pages=runs),
        "compare_sweeps": Selection(
            list(SWEEP_PARTS), lambda v: set(v.split(",")) <= {*SWEEP_PARTS, ""}, _words_of, compare
        ),
        "compare_bases": replace(flag, default=True, pages=compare),
        "compare_prompts": Selection(AUTO, lambda v: v in (AUTO, *words.PROMPT_SETS), pages=compare),
        "compare_coupling": Selection("plain", lambda v: v in words.COUPLINGS, pages=compare),
        "compare_limit": Selection(0, whole_number(1, 10_000), int, compare),
        "compare_seed": Selection(ProbeRequest.seed, whole_number(0, 2**31 - 1), int, compare),
        "shown_circuit": Selection("", lambda v: v in known, pages=compare),
        "with_paper": replace(flag, pages=compare),
        "compare_quantity": Selection("lens_after_ffn", lambda v: v in words.QUANTITIES, pages=compare),
        "compare_scaled": replace(flag, pages=compare),
        "dose_value": Selection("relative", lambda v: v in words.EFFECTS, pages=compare),
        "dose_axis": Selection("n_neurons", lambda v: v in words.DOSE_AXES, pages=compare),
        "compare_strength": Selection(None, decimal, float, compare),
        "overlap_model": replace(word, accepts=lambda v: 0 < len(v) <= 300, pages=compare),
        "fit_log": replace(flag, pages=compare),
    }


def whole_number(low: int, high: int) -> Callable[[str], bool]:
    """Accepts whole numbers of a range, written with digits only."""
    return lambda v: v.isascii() and v.isdigit() and len(v) <= 10 and low <= int(v) <= high


def decimal(value: str) -> bool:
    """Accepts decimal numbers as people write them."""
    return re.fullmatch(r"-?\d{1,6}(\.\d{1,6})?", value, re.ASCII) is not None


def _words_of(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _is_id(value: str) -> bool:
    return len(value) == 12 and set(value) <= set("0123456789abcdef")


def sync_selection(page: str = "") -> None:
    """Take over what a link or the back button says, and keep the address in step with the widgets.

    Widgets are plain keyed ones with `persist_state="session"`; this mirror is ours because bound query parameters
    break page switches. Values an address gets wrong are dropped, and a choice that is as it would be anyway is left
    out. `page` is the page's url_path. Runs before anything is drawn; a part of a page that is drawn again on its own
    calls `write_address` after its widgets.
    """
    heard()
    state, given = st.session_state, _given()
    last, same_page = state.get("_address", {}), state.get("_page") == page
    late = same_page and _is_late(given)
    if not late and given.get("run") != last.get("run"):
        state.pop("_not_here", None)  # of another link
    for key, choice in selections().items():
        state.setdefault(key, choice.default)
        text = given.get(key)
        if state[key] is None or (key == "circuit" and not choice.accepts(state[key])):  # an own one, deleted since
            state[key] = choice.default
        if late:
            continue
        if text is not None and text != last.get(key):
            if choice.accepts(text):
                choose(key, choice.value(text))
            elif key in ("circuit", "prompts") and given.get("run") and 0 < len(text) <= 300:
                state["_not_here"] = {**state.get("_not_here", {}), key: text}
        elif text is None and key in last and same_page and (page == "" or key not in OF_A_REQUEST):
            state[key] = choice.default  # a step back to where it was not chosen yet
    if "ask" in given:
        state["_asked_of"] = state["sweep"]
    state["_page"] = page
    write_address()


def write_address() -> None:
    """Let the address say what the widgets do, where that is not what the page would show anyway."""
    state, given = st.session_state, _given()
    want = {}
    if state.get("ask") and state.get("_asked_of") != state.get("sweep"):
        state["ask"] = ""  # it was about another sweep
    for key, choice in selections().items():
        text = as_text(state.get(key))
        if choice.pages and state.get("_page") not in choice.pages:
            continue
        if not choice.accepts(text) or (text == as_text(_start_of(key, choice)) and given.get(key) != text):
            continue
        want[key] = text
    want |= state.get("_not_here", {})
    state["_address"] = want
    if given != want:
        now = time.monotonic()
        late = [(when, address) for when, address in state.get("_late", []) if when > now - LATE_SECONDS]
        state["_late"] = [*late, (now, given)]
        st.query_params.from_dict(want)


def heard() -> None:
    """Once the browser sends the address that was written last, no older one is on its way any more.

    In the script run that wrote it, it stands there before the browser knows: that is moments ago.
    """
    late = st.session_state.get("_late", [])
    if late and late[-1][0] < time.monotonic() - HEARD_SECONDS and _given() == st.session_state.get("_address"):
        st.session_state["_late"] = []


def _given() -> dict[str, str]:
    """The address as it stands."""
    return {key: values[-1] for key in st.query_params if (values := st.query_params.get_all(key))}


def start_at(key: str, options: Sequence[Any], default: Any) -> None:
    """Where a picker starts on what is shown now: at `default`, unless a choice was made that it offers.

    What stands where the picker started before was no choice: it moves on with the start. The address leaves it out.
    """
    state = st.session_state
    starts = state.setdefault("_starts", {})
    if state.get(key) is None or state[key] not in options or (key in starts and state[key] == starts[key]):
        state[key] = default
    starts[key] = default


def choose(key: str, value: Any) -> None:
    """Make a choice for the user (a link, a click in a chart), before its picker is drawn."""
    st.session_state[key] = value
    st.session_state.setdefault("_starts", {}).pop(key, None)


def as_text(value: Any) -> str:
    """A choice as an address writes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if value is None or isinstance(value, bool):
        return "" if value is None else str(int(value))
    return str(value) if isinstance(value, str) else f"{value:.10g}"


def _start_of(key: str, choice: Selection) -> Any:
    return st.session_state.get("_starts", {}).get(key, choice.default)


def _is_late(given: Mapping[str, str]) -> bool:
    """Whether the browser sent an address that was replaced since: it had not heard of the new one yet."""
    since = time.monotonic() - LATE_SECONDS
    replaced = [address for when, address in st.session_state.get("_late", []) if when > since]
    return given in replaced and given != st.session_state.get("_address")


def pick_prompts_for_model() -> None:
    """After another model was chosen: the prompt set that fits it."""
    st.session_state["prompts"] = default_prompts(st.session_state["model"] in model_titles())


def show_run(run_id: str) -> None:
    """Make a run the one that the Probe page shows, and the pickers say what it is."""
    state = st.session_state
    state["run"], state["sweep"] = run_id, ""
    state.pop("_not_here", None)
    request = store().run(run_id).request
    asked = {key: str(getattr(request, key)) for key in ("model", "circuit", "prompts", "coupling", "thinking")}
    asked["circuit"] = asked["circuit"].partition("@")[0]  # the pickers offer an own circuit as it is now
    known = selections()
    for key, value in asked.items():
        if known[key].accepts(value):
            state[key] = value
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


def readable_name(name: str, longest: int = 60) -> str:
    """A file name as it can stand in a sentence: no invisible or direction-changing characters, its middle shortened.

    A right-to-left name is isolated, so that it does not turn the words around it.
    """
    plain = name.isascii() and name.isprintable()  # nothing to look up then, which matters in long lists
    seen = name if plain else "".join(c for c in name if unicodedata.category(c) != "Cf")
    name = " ".join("".join(c if c.isprintable() else " " for c in seen).split()) or "the file"
    if len(name) > longest:
        name = f"{name[: longest - 16]}…{name[-15:]}"
    turns = not plain and any(unicodedata.bidirectional(c) in ("R", "AL") for c in name)
    return f"\u2068{name}\u2069" if turns else name


def request_from_pickers() -> ProbeRequest:
    """What the pickers on the Start page ask for."""
    state = st.session_state
    return ProbeRequest(
        model=state["model"].strip(),
        circuit=circuits()[state["circuit"]].address,
        prompts=state["prompts"] or "",  # nothing is offered for a behaviour without prompts
        coupling=state["coupling"],
        limit=int(state.get("limit") or 0) or None,
        seed=int(state.get("seed") or ProbeRequest.seed),
        thinking=state["thinking"],
        target=parse_strings(state.get("target_strings") or ""),
        control=parse_strings(state.get("control_strings") or ""),
    )


def circuit_of(named: str) -> Circuit | None:
    """The circuit that a request names, in the very version it names; None when its file is gone."""
    known = circuits().get(named.partition("@")[0])
    if known is not None and named in (known.circuit_id, known.address):
        return known
    return _circuit_not_listed(named, folder_state())


@st.cache_resource(max_entries=256, show_spinner=False)
def _circuit_not_listed(named: str, state: object) -> Circuit | None:
    try:
        return load_circuit(named)
    except BadRequest:
        return None


def circuit_title(named: str) -> str:
    """The title of the circuit that a request names, or its id when its file is gone."""
    known = circuit_of(named)
    if known is None:
        return named.partition("@")[0]
    listed = circuits().get(known.circuit_id)
    if listed is None:
        return f"{known.title} (not listed)"
    return known.title if listed.sha256 == known.sha256 else f"{known.title} (earlier version)"


def circuit_titles(named: Iterable[str]) -> list[str]:
    """The titles of many rows, each circuit looked up once."""
    names = list(named)
    titles = {name: circuit_title(name) for name in set(names)}
    return [titles[name] for name in names]


def run_heading(run: Run) -> str:
    """What a run is about, as Markdown: the behaviour's title, which may be a user's words, and the model."""
    return f"{escaped(circuit_title(run.request.circuit))} in {escaped(run.request.model)}"


def shipped_circuits() -> list[str]:
    """Ids of the circuits that come with the product, whose prompt sets are the same everywhere."""
    return [circuit_id for circuit_id, circuit in circuits().items() if not circuit.own]


def run_titles(runs: pd.DataFrame) -> dict[str, str]:
    """A line for each run, by run_id, in their order; the titles of behaviours are looked up once."""
    prompts = {named: own_sets.title_of(str(named)) for named in runs["prompts"].unique()}
    return {
        str(row["run_id"]): _run_line(row, circuit, prompts[row["prompts"]])
        for row, circuit in zip(runs.to_dict("records"), circuit_titles(runs["circuit"]), strict=True)
    }


def run_title(row: Mapping[Any, Any]) -> str:
    """One line that tells a run from its neighbours."""
    return _run_line(row, circuit_title(row["circuit"]), own_sets.title_of(str(row["prompts"])))


def _run_line(row: Mapping[Any, Any], circuit: str, prompts: str) -> str:
    text = f"{circuit} · {row['model']} · {prompts}"
    if row["coupling"] != "plain":
        text += " · norm-aware"
    if row["thinking"] != "auto":
        text += f" · thinking {row['thinking']}"
    if row["strings_from"] != "circuit":
        text += f" · {words.STRINGS_FROM[row['strings_from']].lower()}"
    when = pd.Timestamp(row["created_at"])
    made = f"{'recorded ' if row['recorded'] else ''}{when:%d %b %H:%M} UTC"
    return f"{text} · {plural(row['n_pairs'], 'pair')} · {made}"


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
    """A chart with what to see above, how to read it and what it does not show below, and a menu to save it."""
    st.markdown(f"**{escaped(figure.title)}**")
    chart = presenter.larger(figure.chart) if presenter.on() else figure.chart
    event = st.altair_chart(chart, key=key, **options)
    with st.container(horizontal=True, vertical_alignment="top", gap="small", key=f"below_{key}"):
        seen: set[str] = set()
        lines = [(":material/visibility: ", figure.reading), (":material/visibility_off: ", figure.omits)]
        told = [icon + terms.marked(text, own_words(), seen) for icon, text in lines if text]
        st.caption("  \n".join(told), width="stretch")
        exports.save_figure(figure, key)
    return event


def own_words() -> list[str]:
    """What people of this place wrote and captions quote: the words of their own behaviours."""
    own = (circuit for circuit in circuits().values() if circuit.own)
    return [text for circuit in own for text in (circuit.title, circuit.target_meaning, circuit.control_meaning)]


def measured_on(run: Run, sweep: Sweep | None = None) -> None:
    """Say what the charts and tables that follow are about, for the files that are saved from them."""
    n, swept = int(run.summary.get("n_pairs") or 0), "" if sweep is None else f"sweep {sweep.sweep_id}"
    exports.measured_on(
        f"{run.run_id}-{sweep.sweep_id}" if sweep else run.run_id,
        f"Run {run.run_id}",
        swept,
        run.request.model,
        circuit_title(run.request.circuit),
        f"prompt set {readable_name(own_sets.title_of(run.request.prompts))}, {plural(n, 'pair')}",
    )


def interval(values: Any, digits: int = 2) -> str:
    """`[low, high]` of a stored interval, or that there is none."""
    if not values or values[0] is None or values[1] is None:
        return "no interval"
    return f"[{charts.number(values[0], digits)}, {charts.number(values[1], digits)}]"


def no_run_yet() -> None:
    """What a results page shows while there is no run."""
    with st.container(border=True, key="no_run"):
        st.markdown("## :material/hourglass_empty: No run yet")
        st.markdown("Choose a model and a behaviour on the Start page and press **Run**. It takes seconds.")
        st.page_link(START, label="Go to Start", icon=":material/arrow_forward:")


# ---------------------------------------------------------------------------------------------- sidebar, jobs


def sidebar() -> None:
    """Job panel and a word about this place, below the navigation."""
    with st.sidebar:
        busy = bool(backend.jobs().active())
        st.fragment(_job_panel, run_every=BUSY_SECONDS if busy else IDLE_SECONDS)(busy)
        if notice := backend.jobs().notice:
            st.warning(escaped(notice), icon=":material/warning:")


@calm_errors()
def _job_panel(was_busy: bool) -> None:
    """What the worker is doing, on every page. Slow timer when idle, so that work started elsewhere is seen too."""
    heard()
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
            {} if len(job.request.circuits) == len(shipped_circuits()) else {"circuits": ",".join(job.request.circuits)}
        )
    query = {"run": str(job.run_id)}
    if not isinstance(job.request, SweepRequest):
        return PROBE, query
    page = {"window": WINDOW, "strength": WINDOW, "dose": DOSE, "factor": DOSE, "patch": DOSE}
    return page.get(job.request.kind, CONTROLS), query | {"sweep": str(job.sweep_id)}


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
                f"{circuit_title(unit.circuit).lower()}, {unit.kind}"
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


@calm_errors()
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


# ---------------------------------------------------------------------------------------- the shown run's parts


def run_picker(run_id: str) -> None:
    """Chooser of the run that a results page shows; the choice goes into the address."""
    titles = run_titles(store().runs())
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
        f"Prompt set {escaped(readable_name(own_sets.title_of(run.request.prompts)))} · "
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


def ranked_neurons(run_id: str, ranking: Any, brush: Mapping[str, Any] | None, k: int) -> pd.DataFrame:
    """The first k neurons of a ranking, or the ones (BRUSHED at most) inside a region drawn in the neuron map."""
    if not brush:
        return top_neurons(run_id, ranking, k)
    position, score = neuron_charts.region(brush, ranking)
    return store().neurons_inside(run_id, ranking, position, score, spread=neuron_charts.SPREAD, k=BRUSHED)


def neuron_crowd(run_id: str, ranking: str) -> pd.DataFrame:
    """All neurons of a run where they can be drawn one by one, else how many lie where."""
    return _neuron_crowd(run_id, ranking, str(store().path))


@st.cache_data(max_entries=12, show_spinner=False)
def _neuron_crowd(run_id: str, ranking: Any, where: str) -> pd.DataFrame:
    if store().n_neurons(run_id) <= neuron_charts.SCATTER_LIMIT:
        return store().neurons(run_id)
    return store().neuron_map(run_id, ranking, neuron_charts.BINS)


def null_threshold(run: Run, ranking: str) -> float | None:
    """Threshold of the sign-flip control; it is about the mean importance, so only the shared ranking has one."""
    return (run.summary.get("null") or {}).get("importance_threshold") if ranking == "shared" else None


def n_beyond(run: Run) -> int | None:
    """How many neurons pass that threshold."""
    return (run.summary.get("null") or {}).get("n_above")


def delete_run(run_id: str) -> None:
    """Delete a run and forget it where it was the one shown."""
    store().delete_run(run_id)
    table.clear()
    st.session_state["_deleted"] = st.session_state.get("_deleted", 0) + 1
    if st.session_state.get("run") == run_id:
        st.session_state["run"] = st.session_state["sweep"] = ""
