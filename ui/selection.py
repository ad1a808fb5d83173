"""What a visitor has chosen: kept for the session, carried by the address, so that a link and the back button work."""

import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import streamlit as st

from pprobe_core.circuits import own_sets
from pprobe_core.circuits.library import OWN_ID
from pprobe_core.circuits.prompt_sets import default_prompts, is_own
from pprobe_core.circuits.schema import VERSION_DIGITS, Circuit
from pprobe_core.comparison import AUTO, SWEEP_PARTS
from pprobe_core.interventions.types import N_DRAWS, SweepRequest
from pprobe_core.neuron_charts import region_of
from pprobe_core.playground import MAX_NEURONS
from pprobe_core.probing.strings import MAX_CHARS, MAX_STRINGS, parse_strings, written_strings
from pprobe_core.probing.types import RANKINGS, ProbeRequest, tupled
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
RESULT_PAGES = ("probe", "dose", "window", "controls", "playground")  # they show a run
MAX_TEXT_CHARS = 2_000  # of words of one's own: an address is copied, sent and kept by programs that cut long ones
MAX_REQUEST_CHARS = 4_000  # of what a probe was asked for beyond the plain words of an address
HEARD_SECONDS = 0.7  # how long after writing an address a script run may still be the one that wrote it
ABOUT = {"request": "run", "ask": "sweep"}  # what a link asks for -> what it would be
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
        "request": Selection("", lambda v: bool(probe_wishes(v)), pages=RESULT_PAGES),
        "ask": Selection("", lambda v: bool(sweep_wishes(v)), pages=("dose", "window", "controls")),
    }


def sweep_wishes(text: str) -> dict[str, Any]:
    """What a link asks of a sweep (JSON: fields of SweepRequest but the run's), {} where it is nothing of the kind."""
    asked = {field.name for field in fields(SweepRequest)} - {"run_id"}
    try:
        wishes = json.loads(text) if 0 < len(text) <= 1000 else {}
    except (ValueError, RecursionError):  # the latter: brackets in brackets
        return {}
    return wishes if isinstance(wishes, dict) and set(wishes) <= asked else {}


def request_in_words(request: ProbeRequest) -> dict[str, str]:
    """A probe's request as an address writes it: model, behaviour, prompts and coupling, and what is not as usual.

    What plain words do not say (strings that were harvested, the version of an own behaviour, answers left out, values
    no picker takes) stands under `request` as JSON. {} for a request that is more than an address holds.
    """
    choices = _more_of_a_request()
    given = request.strings_from == "given"
    words_of_it = {
        "thinking": "" if request.thinking == ProbeRequest.thinking else request.thinking,
        "limit": str(request.limit or ""),
        "seed": "" if request.seed == ProbeRequest.seed else str(request.seed),
        "target_strings": written_strings(request.target) if given else "",
        "control_strings": written_strings(request.control) if given else "",
    }
    strings = ("target_strings", "control_strings")
    if not all(choices[key].accepts(words_of_it[key]) for key in strings):
        words_of_it |= dict.fromkeys(strings, "")  # one alone would say something else
    address = {
        "model": request.model,
        "circuit": request.circuit.partition("@")[0],
        "prompts": request.prompts,
        "coupling": request.coupling,
        **{k: v for k, v in words_of_it.items() if v and (k not in choices or choices[k].accepts(v))},
    }
    beyond = {name: value for name, value in asdict(request).items() if value != getattr(_of_words(address), name)}
    if beyond:
        address["request"] = json.dumps(beyond, separators=(",", ":"))
    return address if not beyond or probe_wishes(address["request"]) else {}


def _of_words(address: Mapping[str, str]) -> ProbeRequest:
    """The request that the plain words of an address make."""
    plain = {key: address[key] for key in ("model", "circuit", "prompts", "coupling", "thinking") if key in address}
    return ProbeRequest.from_json(
        {
            **plain,
            "limit": int(address.get("limit", 0)) or None,
            "seed": int(address.get("seed", ProbeRequest.seed)),
            "target": parse_strings(address.get("target_strings", "")),
            "control": parse_strings(address.get("control_strings", "")),
        }
    )


def probe_wishes(text: str) -> dict[str, Any]:
    """What an address asks of a probe beyond its plain words: fields of ProbeRequest; {} where any of it is amiss."""
    try:
        wishes = json.loads(text) if 0 < len(text) <= MAX_REQUEST_CHARS else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(wishes, dict) or not all(name in WISHES and WISHES[name](wish) for name, wish in wishes.items()):
        return {}
    if ("target" in wishes) != ("control" in wishes) or ("harvested_from" in wishes and "target" not in wishes):
        return {}
    return tupled(wishes)


def _are_strings(wish: object) -> bool:
    return (
        isinstance(wish, list)
        and 0 < len(wish) <= MAX_STRINGS
        and all(isinstance(s, str) and 0 < len(s) <= MAX_CHARS and not _half_signs(s) for s in wish)
    )


def _half_signs(text: str) -> bool:
    """Whether there is half of a character in it, as JSON can write and nothing can store."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


WISHES: Mapping[str, Callable[[object], bool]] = {
    "circuit": lambda v: (
        isinstance(v, str) and re.fullmatch(rf"{OWN_ID.pattern}@[0-9a-f]{{{VERSION_DIGITS}}}", v, re.ASCII) is not None
    ),
    "limit": lambda v: type(v) is int and 0 < v < 2**31,
    "seed": lambda v: type(v) is int and 0 <= v < 2**63,
    "generate": lambda v: type(v) is bool,
    "target": _are_strings,
    "control": _are_strings,
    "harvested_from": lambda v: isinstance(v, str) and _is_id(v),
}  # fields of a request that an address may have to say beyond its plain words -> what is accepted


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
        "play_text": Selection(None, lambda v: 0 < len(v) <= MAX_TEXT_CHARS, pages=play),
        "play_n": Selection(None, whole_number(0, MAX_NEURONS), int, play),
        "play_factor": Selection(0.0, decimal, float, play),
        "play_ranking": Selection("ablation", lambda v: v in RANKINGS, pages=play),
        "play_strength": Selection(None, decimal, float, play),
        "play_layer": Selection(None, whole_number(0, 100_000), int, play),
        "play_position": Selection("decision", lambda v: v in words.POSITIONS, pages=play),
        "play_draw": Selection(0, whole_number(0, N_DRAWS - 1), int, play),
        "filter_circuit": Selection([], lambda v: 0 < len(v) <= 2000, _words_of, runs),
        "filter_model": Selection([], lambda v: 0 < len(v) <= 2000, _words_of, runs),
        "run_a": Selection("", _is_id, pages=runs),
        "run_b": Selection("", _is_id, pages=runs),
        "overlay": Selection("ffn", lambda v: v in words.QUANTITIES, pages=runs),
        "circuit_looked_at": Selection(
            None, lambda v: OWN_ID.fullmatch(v.removeprefix("draft:")) is not None, pages=("circuits",)
        ),
        "set_looked_at": Selection("", is_own, pages=("prompts",)),
        "glossary_search": replace(word, accepts=lambda v: 0 < len(v) <= 200, pages=("glossary",)),
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
        set_aside = state.get("_not_here", {}).get(key)
        if key in OF_A_REQUEST and set_aside is not None and choice.accepts(set_aside):
            choose(key, choice.value(set_aside))  # it has come here since
        state.setdefault(key, choice.default)
        text = given.get(key)
        if state[key] is None or (key == "circuit" and not choice.accepts(state[key])):  # an own one, deleted since
            state[key] = choice.default
        if late:
            continue
        if text is not None and text != last.get(key):
            if choice.accepts(text):
                choose(key, choice.value(text))
            elif _may_be_elsewhere(key, text, bool(given.get("run"))):
                _set_aside(key, text)
        elif text is None and key in last and same_page and (page == "" or key not in OF_A_REQUEST):
            state[key] = choice.default  # a step back to where it was not chosen yet
            let_go(key)
    for key, about in ABOUT.items():
        if not late and key in given and (given[key], given.get(about)) != (last.get(key), last.get(about)):
            state[f"_{key}_about"] = state[about]
    state["_page"] = page
    write_address()


def write_address() -> None:
    """Let the address say what the widgets do, where that is not what the page would show anyway."""
    state, given = st.session_state, _given()
    want = {}
    for key, about in ABOUT.items():
        if state.get(key) and state.get(f"_{key}_about") != state.get(about):
            state[key] = ""  # it was about another one
    choices = known()
    for key, choice in choices.items():
        text = as_text(state.get(key))
        if choice.pages and state.get("_page") not in choice.pages:
            continue
        if not choice.accepts(text) or (text == as_text(_start_of(key, choice)) and given.get(key) != text):
            continue
        want[key] = text
    for key, text in state.get("_not_here", {}).items():
        if not choices[key].pages or state.get("_page") in choices[key].pages:
            want[key] = text
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
        put(key, default)
    starts[key] = default


def put(key: str, value: Any) -> None:
    """Let a widget that is drawn next hold a value.

    What it holds already is not written again: Streamlit would send it to the browser as news, and a slider that is
    moved at that moment would jump back.
    """
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value


def choose(key: str, value: Any) -> None:
    """Make a choice for the user (a link, a click in a chart), before its picker is drawn."""
    put(key, value)
    st.session_state.setdefault("_starts", {}).pop(key, None)
    let_go(key)


# ------------------------------------------------------------------------------------ what an address names in vain


def not_here(*keys: str) -> dict[str, str]:
    """What the address names under these keys and this computer lacks. It keeps naming it: a reload says the same."""
    set_aside: Mapping[str, str] = st.session_state.get("_not_here", {})
    return {key: set_aside[key] for key in keys if key in set_aside}


def keep_offered(key: str, options: Collection[Any]) -> None:
    """Before a picker is drawn: leave what it offers of a choice, and set the choice aside where that is not all.

    A picker of one thing is left as if nothing was chosen, for `start_at`.
    """
    state = st.session_state
    chosen = state.get(key)
    if chosen in (None, "", []):
        return
    if isinstance(chosen, list):
        offered = [one for one in chosen if one in options]
        if len(offered) < len(chosen):
            _set_aside(key, as_text(chosen))
            state[key] = offered
    elif chosen not in options:
        if chosen != state.get("_starts", {}).get(key):  # else nobody chose it
            _set_aside(key, as_text(chosen))
        state[key] = known()[key].default


def let_go(*keys: str) -> None:
    """Another choice was made: what the address named in vain is no longer asked for. Without keys, of everything."""
    set_aside: Mapping[str, str] = st.session_state.get("_not_here", {})
    st.session_state["_not_here"] = {k: v for k, v in set_aside.items() if keys and k not in keys}


def _set_aside(key: str, text: str) -> None:
    st.session_state["_not_here"] = {**st.session_state.get("_not_here", {}), key: text}


def _may_be_elsewhere(key: str, text: str, with_run: bool) -> bool:
    """Whether a behaviour or prompt set may be called so on another computer; that of a run may be a file's path."""
    if with_run and key in ("circuit", "prompts"):
        return 0 < len(text) <= 300
    return (key == "circuit" and OWN_ID.fullmatch(text) is not None) or (key == "prompts" and is_own(text))


def too_long(key: str) -> bool:
    """Whether a choice was made that no address holds."""
    choice, text = known()[key], as_text(st.session_state.get(key))
    return bool(text) and not choice.accepts(text) and text != as_text(_start_of(key, choice))


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
    let_go()
    request = backend.jobs().store.run(run_id).request
    asked = {key: str(getattr(request, key)) for key in ("model", "circuit", "prompts", "coupling", "thinking")}
    asked["circuit"] = asked["circuit"].partition("@")[0]  # the pickers offer an own circuit as it is now
    choices = known()
    for key, value in asked.items():
        if choices[key].accepts(value):
            state[key] = value
    for key, number in (("limit", request.limit or 0), ("seed", request.seed)):  # the command line takes larger ones
        state[key] = number if choices[key].accepts(str(number)) else choices[key].default
    state["request"], state["_request_about"] = request_in_words(request).get("request", ""), run_id
    # A harvest belongs to its run; the pickers ask for strings that a person gave.
    given = request.strings_from == "given"
    for side, strings in (("target", request.target), ("control", request.control)):
        state[f"{side}_strings"] = written_strings(strings) if given else ""
