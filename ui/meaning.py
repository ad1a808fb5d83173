"""What this means: the paragraph of a run or a sweep as a card, its terms explained, its next step a link."""

from collections.abc import Callable, Collection, Iterable

import streamlit as st

from pprobe_core import meaning
from pprobe_core.meaning import Meaning, Part, Tested
from pprobe_core.store import Run, Sweep
from ui import library, shell, sweeps, terms, words

FOLDED = ("How sure", "Where")  # where the paragraph stands open: what is read second
PAGES = {
    "start": (shell.START, "Start"),
    "probe": (shell.PROBE, "Probe"),
    "dose": (shell.DOSE, "Dose response"),
    "window": (shell.WINDOW, "Injection window"),
    "controls": (shell.CONTROLS, "Controls"),
    "compare": (shell.COMPARE, "Compare"),
}


def run_card(run: Run, *, opened: bool = False) -> None:
    """What a run means, with the tests there are: in full, or folded until asked for."""
    if not opened:
        _folded("run", run, lambda: _of_run(run))
        return
    with st.container(border=True, key="meaning"):
        st.subheader(":material/lightbulb: What this means", anchor=False, help=words.HELP["meaning"])
        _paragraph(_of_run(run), run, folded=FOLDED)


def sweep_card(run: Run, sweep: Sweep) -> None:
    """What a sweep means, folded until asked for."""
    _folded(sweep.request.kind, run, lambda: _of_sweep(run.run_id, sweep.sweep_id, shell.store().edition))


def _folded(about: str, run: Run, told: Callable[[], Meaning]) -> None:
    shell.folded("What this means", ":material/lightbulb:", f"meaning_{about}", lambda: _paragraph(told(), run))


def _of_run(run: Run) -> Meaning:
    known = shell.sweeps(run.run_id)
    return _of_run_and_sweeps(run.run_id, tuple(known["sweep_id"]), shell.store().edition)


@st.cache_data(max_entries=24, show_spinner="Putting it into words")
def _of_run_and_sweeps(run_id: str, sweep_ids: tuple[str, ...], edition: str) -> Meaning:
    """The newest dose response and window of a run, one with answers first, go into its paragraph."""
    store = shell.store()
    run = store.run(run_id)
    found = [store.sweep(sweep_id) for sweep_id in sweep_ids]
    chosen = meaning.to_tell_of(found)
    tested = [sweeps.tested_with(sweep) for sweep in chosen]
    return meaning.run_meaning(run, library.circuit_of(run.request.circuit), tested, [s.request.kind for s in found])


@st.cache_data(max_entries=24, show_spinner="Putting it into words")
def _of_sweep(run_id: str, sweep_id: str, edition: str) -> Meaning:
    store = shell.store()
    sweep: Sweep = store.sweep(sweep_id)
    tested: Tested = sweeps.tested_with(sweep)
    return meaning.sweep_meaning(store.run(run_id), tested)


def _paragraph(told: Meaning, run: Run, folded: Collection[str] = ()) -> None:
    """Part by part, the `folded` ones behind a click; every glossary term explained where it comes first."""
    own, seen = _quoted(run), set[str]()

    def text(parts: Iterable[Part]) -> str:
        return "  \n".join(f"*{part.topic}.* {terms.marked(part.text, own, seen)}" for part in parts)

    st.markdown(f"**{terms.marked(told.headline, own, seen)}**")
    st.markdown(text(part for part in told.parts if part.topic not in folded))
    if rest := [part for part in told.parts if part.topic in folded]:
        with st.expander(", ".join([rest[0].topic, *(part.topic.lower() for part in rest[1:])])):
            st.markdown(text(rest))
    page, name = PAGES[told.page]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{terms.escaped(told.next_step)}**", width="content")
        st.page_link(page, label=name, icon=":material/arrow_forward:", query_params={"run": run.run_id})
        with st.popover("Copy", icon=":material/content_copy:", type="tertiary", help=words.HELP["copy_meaning"]):
            st.code(f"{told.headline}\n\n{told.text}", language=None, wrap_lines=True)


def _quoted(run: Run) -> list[str]:
    """What the paragraph quotes of other people: the model's name, and the words of a behaviour of one's own."""
    circuit = library.circuit_of(run.request.circuit)
    names = [str(run.summary.get("model") or ""), run.request.model]
    return names if circuit is None else [*names, circuit.target_meaning, circuit.control_meaning]
