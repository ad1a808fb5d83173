"""The tour: three small cards on the first visit. Where a visitor is in it, the browser remembers in a cookie."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from ui import cookies, shell, terms

COOKIE = "pprobe_tour"


@dataclass(frozen=True)
class Step:
    """One card: what it is about, what it says, and the page it stands on."""

    title: str
    text: str
    page: str
    page_name: str


STEPS = (
    Step(
        "Ask a question",
        "Choose a **Model** and a **Behaviour** and press **Run**: the model reads every prompt twice, once as it is "
        "and once slightly changed. Below stands what came out of such a run.",
        shell.START,
        "Start",
    ),
    Step(
        "Read the result",
        "The card at the top says what kind of circuit it looks like and **how far the evidence goes**. Every number "
        "stands with its interval and with what it was measured on; the **?** beside a word explains it.",
        shell.PROBE,
        "Probe",
    ),
    Step(
        "Test it",
        "A number is no proof: here the model is changed while you look. Move **Neurons changed** and read the answer "
        "**As it is**, **Changed**, and after a **Random change** of the same size. The page Dose response counts the "
        "same over all prompts.",
        shell.PLAYGROUND,
        "Playground",
    ),
)


def begin(page: Any) -> None:
    """Take the visitor's place from the browser; a first visit to the Start page begins the tour."""
    state = st.session_state
    if "tour" in state:
        return
    kept = cookies.kept(COOKIE)
    if kept in [str(step) for step in range(len(STEPS) + 1)]:
        state["tour"] = int(kept)
    elif page.url_path == "":
        state["tour"] = 1


def card(page: Any) -> None:
    """The step the visitor is at: 1 to 3; nothing when the tour is over or was closed."""
    at = st.session_state.get("tour", 0)
    if not 1 <= at <= len(STEPS):
        return
    step = STEPS[at - 1]
    here = page.title == step.page_name
    with st.container(border=True, key="tour"):
        st.markdown(f":material/signpost: **{at} of {len(STEPS)} · {step.title}.** {terms.said(step.text)}")
        with st.container(horizontal=True):
            if not here and st.button(
                f"Go to {step.page_name}",
                key="tour_go",
                icon=":material/arrow_forward:",
                help="Open the page of this step.",
            ):
                st.switch_page(step.page)
            if at > 1 and st.button("Back", key="tour_back", help="The step before."):
                _go(at - 1)
            if at < len(STEPS) and st.button(
                f"Next: {STEPS[at].title.lower()}",
                key="tour_next",
                icon=":material/arrow_forward:",
                icon_position="right",
                help=f"Opens {STEPS[at].page_name}.",
            ):
                _go(at + 1)
            st.button(
                "Close the tour" if at < len(STEPS) else "Done",
                key="tour_close",
                type="tertiary",
                on_click=_set,
                args=(0,),
                help="It can be taken again from the sidebar.",
            )


def button() -> None:
    """Starts the tour over."""
    if st.button(
        "Take the tour", key="tour_start", icon=":material/signpost:", type="tertiary", help="Three small cards."
    ):
        _go(1)


def remember() -> None:
    """Let the browser keep the visitor's place."""
    if "tour" in st.session_state:
        cookies.keep(COOKIE, str(st.session_state["tour"]))


def _set(step: int) -> None:
    st.session_state["tour"] = step


def _go(step: int) -> None:
    _set(step)
    st.switch_page(STEPS[step - 1].page)
