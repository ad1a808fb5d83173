"""What a visitor has chosen: kept for the session, carried by the address, so that a link and the back button work."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

from pprobe_core.circuits import own_sets
from pprobe_core.circuits.library import OWN_ID
from pprobe_core.circuits.prompt_sets import default_prompts, is_own
from pprobe_core.circuits.schema import Circuit
from pprobe_core.comparison import AUTO, SWEEP_PARTS
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.neuron_charts import region_of
from pprobe_core.playground import MAX_NEURONS
from pprobe_core.probing.strings import written_strings
from pprobe_core.probing.types import RANKINGS, ProbeRequest
from ui import backend, library, words

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


@dataclass(frozen=True)
class Selection:
    """A choice that the address carries: its default, what is accepted from an address, and what a widget makes of it.

    `pages` names the pages on which it says something (their url_path); without any it does so everywhere.
    """

    default: Any
    accepts: Callable[[str], bool]
    value: Callable[[str], Any] = str
    pages: tuple[str, ...] = ()


def known() -> Mapping[str, Selection]:
    """Everything the address carries."""
    circuits = library.circuits()
    models = list(library.model_titles())
    first_model = backend.FIRST_MODEL if backend.FIRST_MODEL in models else (models or [backend.FIRST_MODEL])[0]
    first_circuit = backend.FIRST_CIRCUIT if backend.FIRST_CIRCUIT in circuits else next(iter(circuits))
    return {
        "model": Selection(first_model, lambda v: 0 < len(v) <= 300),
        "circuit": Selection(first_circuit, lambda v: v in circuits),
        "prompts": Selection("mini", lambda v: v in words.PROMPT_SETS or own_sets.exists(v)),
        "coupling": Selection("plain", lambda v: v in words.COUPLINGS),
        "thinking": Selection("auto", lambda v: v in words.THINKING),
        "run": Selection("", _is_id),
        "sweep": Selection("", _is_id),
        "ranking": Selection("shared", lambda v: v in RANKINGS),
        "models": Selection("", lambda v: 0 < len(v) <= 2000),
        "circuits": Selection("", _are_circuits),  # of another computer too: the page says which are not here
        "view": Selection("overview", lambda v: v in words.COMPARE_VIEWS),
        "present": Selection("", lambda v: v == "1"),
        **_more_of_a_request(),
        **_places_on_pages(circuits),
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
    asked = {field.name for field in fields(SweepRequest)} - {"run_id"}
    try:
        wishes = json.loads(text) if 0 < len(text) <= 1000 else {}
    except ValueError:
        return {}
    return wishes if isinstance(wishes, dict) and set(wishes) <= asked else {}


def _places_on_pages(circuits: Mapping[str, Circuit]) -> dict[str, Selection]:
    """Where one stands on a page: the dose, layer, strength, outcome or pair looked at, the view of a comparison."""
    neurons, window, runs, compare, play = ("dose",), ("window",), ("runs",), ("compare",), ("playground",)
    word = Selection("", lambda v: 0 < len(v) <= 80)
    flag = Selection(False, lambda v: v in ("0", "1"), lambda v: v == "1")
    split = Selection("", lambda v: v in words.SPLITS, pages=window)
    return {
        "region": Selection("", lambda v: region_of(v, "shared") is not None, pages=("probe",)),
        "ticked": Selection("", _are_neurons, pages=("probe",)),
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
        "compare_own": Selection([], lambda v: all(is_own(name) for name in v.split(",")), _words_of, compare),
        "compare_coupling": Selection("plain", lambda v: v in words.COUPLINGS, pages=compare),
        "compare_limit": Selection(0, whole_number(1, 10_000), int, compare),
        "compare_seed": Selection(ProbeRequest.seed, whole_number(0, 2**31 - 1), int, compare),
        "shown_circuit": Selection("", lambda v: v.partition("@")[0] in circuits, pages=compare),
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


def _are_circuits(value: str) -> bool:
    return len(value) <= 2000 and all(OWN_ID.fullmatch(circuit_id) for circuit_id in value.split(","))


def _are_neurons(value: str) -> bool:
    return re.fullmatch(r"L\d+\.N\d+(,L\d+\.N\d+){0,499}", value, re.ASCII) is not None


def _is_id(value: str) -> bool:
    return len(value) == 12 and set(value) <= set("0123456789abcdef")


def sync(page: str = "") -> None:
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
    for key, choice in known().items():
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
    for key, choice in known().items():
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
    st.session_state["prompts"] = default_prompts(st.session_state["model"] in library.model_titles())


def show_run(run_id: str) -> None:
    """Make a run the one that the Probe page shows, and the pickers say what it is."""
    state = st.session_state
    state["run"], state["sweep"] = run_id, ""
    state.pop("_not_here", None)
    request = backend.jobs().store.run(run_id).request
    asked = {key: str(getattr(request, key)) for key in ("model", "circuit", "prompts", "coupling", "thinking")}
    asked["circuit"] = asked["circuit"].partition("@")[0]  # the pickers offer an own circuit as it is now
    choices = known()
    for key, value in asked.items():
        if choices[key].accepts(value):
            state[key] = value
    state["limit"], state["seed"] = request.limit or 0, request.seed
    # A harvest belongs to its run; the pickers ask for strings that a person gave.
    given = request.strings_from == "given"
    for side, strings in (("target", request.target), ("control", request.control)):
        state[f"{side}_strings"] = written_strings(strings) if given else ""
