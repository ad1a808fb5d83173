"""What every page shares: calm error messages, the run that is shown and its parts, how charts are drawn."""

import contextlib
import functools
import logging
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts, neuron_charts
from pprobe_core.circuits import own_sets
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import ModelUnavailable, PprobeError, StoreUnavailable
from pprobe_core.probing.strings import parse_strings
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Run, Store, Sweep
from pprobe_core.wording import plural, verified
from ui import backend, drawing, exports, kept, library, presenter, selection, terms, words
from ui.terms import escaped

START, PLAYGROUND, PROBE, DOSE, WINDOW, CONTROLS, COMPARE, PROMPTS, CIRCUITS, GLOSSARY = (
    f"../pages/{name}.py"
    for name in (
        "start", "playground", "probe", "dose", "window", "controls", "compare", "prompts", "circuits", "glossary",
    )
)  # fmt: skip
BRUSHED = 500  # neurons listed at most from a region drawn in the neuron map

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


# ------------------------------------------------------------------------------------------------------- data


def store() -> Store:
    """The results file."""
    return backend.jobs().store


@kept.frames(12)
def table(name: str, run_id: str, edition: str) -> pd.DataFrame:
    """A table of a finished run (pairs, layers, neurons ...), which changes only with the edition."""
    return getattr(store(), name)(run_id)


def read(name: str, run_id: str) -> pd.DataFrame:
    """`table` of the results file in use."""
    return table(name, run_id, store().edition)


def runs() -> pd.DataFrame:
    """The history (`Store.runs`), read again when something was stored or deleted."""
    return _runs(store().listing)


@kept.frames(2)
def _runs(listing: str) -> pd.DataFrame:
    return store().runs()


def sweeps(run_id: str | None = None) -> pd.DataFrame:
    """Finished sweeps of one run or of all (`Store.sweeps`), read again when something was stored or deleted."""
    return _sweeps(run_id, store().listing)


@kept.frames(24)
def _sweeps(run_id: str | None, listing: str) -> pd.DataFrame:
    return store().sweeps(run_id)


@functools.lru_cache(1024)  # pickers ask again for every one of hundreds of prompts
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
        circuit=library.circuits()[state["circuit"]].address,
        prompts=state["prompts"] or "",  # nothing is offered for a behaviour without prompts
        coupling=state["coupling"],
        limit=int(state.get("limit") or 0) or None,
        seed=int(ProbeRequest.seed if state.get("seed") is None else state["seed"]),
        thinking=state["thinking"],
        target=parse_strings(state.get("target_strings") or ""),
        control=parse_strings(state.get("control_strings") or ""),
    )


def run_heading(run: Run) -> str:
    """What a run is about, as Markdown: the behaviour's title, which may be a user's words, and the model."""
    return f"{escaped(library.circuit_title(run.request.circuit))} in {escaped(run.request.model)}"


_IN_A_TITLE = ["run_id", "model", "coupling", "thinking", "strings_from", "created_at", "recorded", "n_pairs"]


def run_titles(runs: pd.DataFrame) -> dict[str, str]:
    """A line for each run, by run_id, in their order; the titles of behaviours are looked up once."""
    titles = library.circuit_titles(runs["circuit"]), library.set_titles(runs["prompts"])
    return {
        str(row["run_id"]): _run_line(row, circuit, prompts)
        for row, circuit, prompts in zip(runs[_IN_A_TITLE].to_dict("records"), *titles, strict=True)
    }


def run_title(row: Mapping[Any, Any]) -> str:
    """One line that tells a run from its neighbours."""
    return _run_line(row, library.circuit_title(row["circuit"]), own_sets.title_of(str(row["prompts"])))


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
    known = runs()
    wanted = st.session_state["run"]
    if wanted:
        return store().run(wanted)
    if known.empty:
        return None
    if st.session_state["sweep"]:
        swept = sweeps()
        of_sweep = swept[swept["sweep_id"] == st.session_state["sweep"]]["run_id"]
        if len(of_sweep):
            return store().run(str(of_sweep.iloc[0]))
    return store().run(store().run_of(request_from_pickers()) or str(known.iloc[0]["run_id"]))


# ------------------------------------------------------------------------------------------------ drawing bits


def figure(draw: drawing.Draw, key: str, *, of: Hashable = None, **options: Any) -> Any:
    """A chart with what to see above, how to read it and what it does not show below, and a menu to save it.

    `of`, everything that a chart is made from: it is then made once (`drawing.drawn`). None: whenever it is shown, and
    what is saved is what was shown.
    """
    if of is None:
        draw = partial(_same, draw())
    drawn = drawing.drawn(draw, key, of)
    own, seen = own_words(), set[str]()
    st.markdown(f"**{terms.marked(drawn.title, own, seen)}**")
    event = drawn.show(key, **options)
    with st.container(horizontal=True, vertical_alignment="top", gap="small", key=f"below_{key}"):
        lines = [(":material/visibility: ", drawn.reading), (":material/visibility_off: ", drawn.omits)]
        told = [icon + terms.marked(text, own, seen) for icon, text in lines if text]
        st.caption("  \n".join(told), width="stretch")
        exports.save_figure(draw, drawn.title, drawn.caption, key)
    return event


@st.fragment
@calm_errors()
def folded(title: str, icon: str, key: str, show: Callable[[], object]) -> None:
    """A part that few open: `show` makes it when somebody does, so that it costs nobody else of the page's second."""
    with st.expander(title, icon=icon, key=key, on_change="rerun") as part:
        if part.open:
            show()


def _same(figure: charts.Figure) -> charts.Figure:
    return figure


def of_circuit(circuit: Circuit, text: str, seen: set[str] | None = None) -> str:
    """A text of a behaviour as Markdown, its terms explained; one of a user's own behaviour stays as it was written."""
    return escaped(text) if circuit.own else terms.marked(text, seen=seen)


def own_words() -> list[str]:
    """What people of this place wrote and sentences quote: the words of their own behaviours."""
    own = (circuit for circuit in library.circuits().values() if circuit.own)
    return [text for circuit in own for text in (circuit.title, circuit.target_meaning, circuit.control_meaning)]


def measured_on(run: Run, sweep: Sweep | None = None) -> None:
    """Say what the charts and tables that follow are about, for the files that are saved from them."""
    n, swept = int(run.summary.get("n_pairs") or 0), "" if sweep is None else f"sweep {sweep.sweep_id}"
    exports.measured_on(
        f"{run.run_id}-{sweep.sweep_id}" if sweep else run.run_id,
        f"Run {run.run_id}",
        swept,
        run.request.model,
        library.circuit_title(run.request.circuit),
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
        st.markdown(terms.said("Choose a model and a behaviour on the Start page and press **Run**. It takes seconds."))
        st.page_link(START, label="Go to Start", icon=":material/arrow_forward:")


# ---------------------------------------------------------------------------------------- the shown run's parts


def run_picker(run_id: str) -> None:
    """Chooser of the run that a results page shows; the choice goes into the address."""
    titles = run_titles(runs())
    selection.put("run_picker", run_id)
    st.selectbox(
        "Run",
        list(titles),
        key="run_picker",
        format_func=lambda i: titles.get(i, i),
        help=words.HELP["run"],
        width=640 if presenter.on() else 420,
        label_visibility=presenter.label_visibility(),
        on_change=lambda: selection.show_run(st.session_state["run_picker"]),
    )


def run_facts(run: Run) -> str:
    """One line under the title: what was run, on how much, at what cost."""
    s = run.summary
    passes = plural(int(s.get("n_forward_passes") or 0), "forward pass", suffix="es")
    proved = verified(s.get("structure_check"))
    prompts = escaped(readable_name(own_sets.title_of(run.request.prompts)))
    return terms.said(
        f"Prompt set {prompts} · "
        f"{plural(int(s.get('n_pairs') or 0), 'pair')} · {words.COUPLINGS.get(run.request.coupling, '')} coupling · "
        f"seed {run.request.seed} · {passes} in {charts.number(s.get('seconds'), 1)} s · "
        f"{proved + ' · ' if proved else ''}run `{run.run_id}`",
        [prompts],
    )


def top_neurons(run_id: str, ranking: str, k: int) -> pd.DataFrame:
    """The first k neurons of a ranking."""
    return _top_neurons(run_id, ranking, k, store().edition)


@kept.frames(24)
def _top_neurons(run_id: str, ranking: Any, k: int, edition: str) -> pd.DataFrame:
    return store().top_neurons(run_id, ranking, k)


def ranked_neurons(run_id: str, ranking: Any, brush: Mapping[str, Any] | None, k: int) -> pd.DataFrame:
    """The first k neurons of a ranking, or the ones (BRUSHED at most) inside a region drawn in the neuron map."""
    if not brush:
        return top_neurons(run_id, ranking, k)
    position, score = neuron_charts.region(brush, ranking)
    return store().neurons_inside(run_id, ranking, position, score, spread=neuron_charts.SPREAD, k=BRUSHED)


def neuron_crowd(run_id: str, ranking: str) -> pd.DataFrame:
    """All neurons of a run where they can be drawn one by one, else how many lie where."""
    return _neuron_crowd(run_id, ranking, store().edition)


@kept.frames(12)
def _neuron_crowd(run_id: str, ranking: Any, edition: str) -> pd.DataFrame:
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
    st.session_state["_deleted"] = st.session_state.get("_deleted", 0) + 1
    if st.session_state.get("run") == run_id:
        st.session_state["run"] = st.session_state["sweep"] = ""
