"""The model picker's choices, and the card of a model that does not come with the product: before it is fetched."""

from collections.abc import Callable, Mapping

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pprobe_core.errors import ModelUnavailable, PprobeError
from pprobe_core.models import card
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.known import known_model, known_models
from pprobe_core.models.preflight import Preflight
from pprobe_core.wording import gigabytes
from ui import backend, library, shell, terms, words

SHORT = ("Download", "Memory", "Licence")  # facts that stand first, side by side


@st.cache_resource(show_spinner=False)
def choices() -> Mapping[str, str]:
    """What the picker offers: shipped models first, then the catalogue with sizes. Anything else can be typed."""
    return library.model_titles() | {m.id: card.known_line(m) for m in known_models().values()}


def picker(label: str, help_text: str, on_change: Callable[[], None] | None = None) -> None:
    """The model that all pages share; one that is not in the list can be typed, and stays in it while it is chosen."""
    titles, chosen = choices(), st.session_state["model"]
    st.selectbox(
        label,
        list(titles) if chosen in titles else [*titles, chosen],
        key="model",
        format_func=lambda m: titles.get(m, m),
        help=help_text,
        accept_new_options=True,
        on_change=on_change,
        persist_state="session",
    )


def looked_at(model: str) -> Preflight | str | None:
    """What is known of a model that does not come with the product: its card, why there is none, None if not asked.

    A folder and a model that was fetched before are looked at by themselves, a model of the hub when asked for:
    nothing talks to the network while somebody types.
    """
    seen: dict[str, Preflight | str] = st.session_state.setdefault("_flights", {})
    known = seen.get(model)
    if known is None or (isinstance(known, Preflight) and known.missing_bytes > 0):
        found = _without_network(model)
        if found is not None:
            seen[model] = found
    return seen.get(model)


def usable(model: str) -> bool:
    """True when nothing known speaks against running this model."""
    if model in library.model_titles():
        return True
    flight = looked_at(model)
    return isinstance(flight, Preflight) and flight.ready


def show_card(model: str, place: str = "") -> None:
    """The bordered card below the pickers; nothing for a shipped model. `place` tells several on a page apart."""
    if model in library.model_titles():
        return
    flight = looked_at(model)
    with st.container(border=True, key=f"model_card{place}"):
        heading, button = st.columns([5, 1.6], vertical_alignment="center")
        heading.subheader(shell.escaped(model), anchor=False)
        asked = _button(button, flight is not None, place)
        if asked:
            with st.spinner("Asking about the model"):
                st.session_state["_flights"][model] = _ask(model)
            st.rerun()
        if isinstance(flight, Preflight):
            _facts(flight)
        elif flight is not None:
            st.error(shell.escaped(flight), icon=":material/error:")
        else:
            _unasked(model)


def _button(column: DeltaGenerator, again: bool, place: str) -> bool:
    return column.button(
        "Check again" if again else "Check this model",
        key=f"check_model{place}",
        type="secondary" if again else "primary",
        icon=":material/fact_check:",
        width="stretch",
        help=words.HELP["check_model"],
    )


def _unasked(model: str) -> None:
    """What can be said before anybody is asked."""
    if (known := known_model(model)) is not None:
        facts = (
            f"{card.parameters(known.parameters)} parameters",
            f"{known.n_layers} layers of {known.d_mlp:,} neurons",
            f"{gigabytes(known.bf16_bytes)} in bfloat16",
            known.licence or "",
            "its licence has to be accepted" if known.gated else "",
        )
        st.markdown(terms.marked(" · ".join(fact for fact in facts if fact)))
    st.caption(terms.said(words.UNCHECKED))


def _facts(flight: Preflight) -> None:
    """Whether it can be used, the three facts people ask for first, the others below."""
    if flight.ready:
        st.success(shell.escaped(card.headline(flight)), icon=":material/check_circle:")
    else:
        st.error(shell.escaped(str(flight.refusal)), icon=":material/error:")
    rows = dict(card.facts(flight))
    first = [(label, rows.pop(label)) for label in SHORT if label in rows]
    if first:
        with st.grid(len(first), min_column_width=220, gap="small"):
            for label, text in first:
                _fact(label, text)
    with st.grid(2, min_column_width=320, gap="small"):
        for label, text in rows.items():
            _fact(label, text)
    if flight.link:
        st.page_link(flight.link, label="The model's page", icon=":material/open_in_new:")
    for note in flight.notes:
        st.caption(shell.escaped(note))


def _fact(label: str, text: str) -> None:
    st.markdown(f":small[:gray[{label}]]  \n{terms.marked(text)}")


def _ask(model: str) -> Preflight | str:
    """The card of a model, from the hub where it is there; else the sentence that says why there is none."""
    try:
        return backend.preflight(model)
    except PprobeError as error:
        return str(error)


def _without_network(model: str) -> Preflight | str | None:
    """The same for what is on this computer; None for a hub model that is not."""
    try:
        return backend.downloaded(model) if find_model(model).on_hub else backend.preflight(model)
    except ModelUnavailable as error:
        return str(error)
