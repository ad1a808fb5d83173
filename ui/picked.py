"""What is picked inside a chart or a table (a region, ticked rows): carried by the address like any other choice.

Such widgets tell what was picked, but cannot be told it again later: they start with what a link says, and from then on
the address follows them.
"""

from typing import Any

import streamlit as st


def start(key: str, of: Any) -> str:
    """What the widget begins with: what the address said under `key` when the widget of `of` came to be.

    `of` says what the pick is about, such as run and ranking; about another thing an earlier pick says nothing.
    """
    state = st.session_state
    kept = state.get(f"_picked_{key}")
    if kept is None or kept["of"] != of or state[key] not in (kept["start"], kept["now"]):
        if kept is not None and kept["of"] != of and state[key] == kept["now"]:
            state[key] = ""
        kept = state[f"_picked_{key}"] = {"of": of, "start": state[key], "now": state[key], "used": False}
    return str(kept["start"])


def told(key: str, picked: str) -> str:
    """Let the address follow what the widget says now, and return what is picked.

    As long as nothing was picked in it, that is what it began with.
    """
    kept = st.session_state[f"_picked_{key}"]
    if picked or kept["used"]:
        kept["now"], kept["used"] = picked, True
    st.session_state[key] = kept["now"]
    return str(kept["now"])


def forget(key: str) -> None:
    """Nothing is picked any more."""
    st.session_state[key] = ""
    st.session_state.pop(f"_picked_{key}", None)


def is_of_link(key: str) -> bool:
    """Whether what is picked came with a link and not from the widget."""
    kept = st.session_state.get(f"_picked_{key}")
    return kept is not None and bool(kept["now"]) and not kept["used"]
