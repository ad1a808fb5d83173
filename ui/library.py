"""The behaviours and models that pickers offer, and what a behaviour is called."""

from collections.abc import Callable, Iterable

import streamlit as st

from pprobe_core.circuits import own_sets
from pprobe_core.circuits.editor import folder_state
from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.models import catalogue
from ui import words


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


def shipped_circuits() -> list[str]:
    """Ids of the circuits that come with the product, whose prompt sets are the same everywhere."""
    return [circuit_id for circuit_id, circuit in circuits().items() if not circuit.own]


def comparable_circuits() -> list[str]:
    """Ids of the circuits that have prompts: those that come with the product, and own ones with a set."""
    with_sets = {one.circuit for one in own_sets.list_sets()}
    return [circuit_id for circuit_id, circuit in circuits().items() if not circuit.own or circuit_id in with_sets]


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


def set_titles(named: Iterable[str]) -> list[str]:
    """`own_sets.title_of` of many rows."""
    return _each_once(named, own_sets.title_of)


def circuit_titles(named: Iterable[str]) -> list[str]:
    """`circuit_title` of many rows."""
    return _each_once(named, circuit_title)


def _each_once(names: Iterable[str], title_of: Callable[[str], str]) -> list[str]:
    """The title of each name, each looked up once."""
    names = list(names)
    titles = {name: title_of(name) for name in set(names)}
    return [titles[name] for name in names]
