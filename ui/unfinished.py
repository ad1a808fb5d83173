"""Behaviours that were begun and neither saved nor thrown away: kept while they are typed, and taken up again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import streamlit as st

from pprobe_core.circuits import unfinished
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest
from ui import circuits, shell, words

SHOWN = 3  # in the list; the others behind a fold
_PASSING = ("edit_pasted", "edit_put_pasted")  # what is pasted is kept once it is in the table; a button has no value


def keep(edit: circuits.Editing) -> None:
    """Write down what stands in the editor when it is not what was there before. To be called when all is drawn."""
    content = _content(edit)
    seen = json.dumps(content, sort_keys=True)
    if edit.seen is not None and seen != edit.seen:  # what it begins with is not worth keeping
        try:
            unfinished.keep(edit.name, content)
        except BadRequest as error:
            st.warning(f"What you type is not kept. {shell.escaped(str(error))}", icon=":material/warning:")
            return
    edit.seen = seen


def _content(edit: circuits.Editing) -> dict[str, Any]:
    state = st.session_state
    typed = {
        str(key): value
        for key, value in state.items()
        if str(key).startswith("edit_") and key not in _PASSING and isinstance(value, str | bool | list | None)
    }
    pairs = state["edit_pairs_now"]
    about = {name: value for name, value in asdict(edit).items() if name not in ("request", "name", "seen", "names")}
    return {
        "typed": typed,
        "pairs": pairs[(pairs != "").any(axis=1)].to_dict("records"),
        "names": {str(uid): name for uid, name in edit.names.items()},
        "request": edit.request.as_json() if edit.request else None,
        "about": about,
    }


def take_up(one: unfinished.Unfinished) -> None:
    """Open the editor with what was kept. Raises BadRequest where it does not fit this version's editor."""
    content = one.content
    try:
        typed, about = dict(content["typed"]), dict(content["about"])
        edit = circuits.Editing(**about, name=one.name)
        edit.names = {int(uid): str(name) for uid, name in content["names"].items()}
        edit.request = ProbeRequest.from_json(content["request"]) if content["request"] else None
        pairs = [{name: str(row.get(name, "")) for name in circuits.PAIR_COLUMNS} for row in content["pairs"]]
        fits = circuits.can_show(edit, typed)
    except (KeyError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise BadRequest("This was kept by another version of pprobe and cannot be opened by this one.")
    circuits.open_editor(edit, typed, pairs)


def offers() -> None:
    """The list of what is unfinished, each with a button to go on and one to throw it away."""
    kept = unfinished.listed()
    for one in kept[:SHOWN]:
        _offer(one)
    if len(kept) > SHOWN:
        with st.expander(f"{len(kept) - SHOWN} more unfinished", icon=":material/edit_note:"):
            for one in kept[SHOWN:]:
                _offer(one)


def _offer(one: unfinished.Unfinished) -> None:
    title = _title(one.content)
    with st.container(
        horizontal=True, vertical_alignment="center", border=True, key=f"unfinished_{one.name}", gap="small"
    ):
        st.markdown(
            f":material/edit_note: **Unfinished:** {shell.escaped(title)}, last changed "
            f"{one.changed_at:%d %b %H:%M} UTC",
            width="stretch",
        )
        if st.button("Go on", key=f"go_on_{one.name}", help=words.HELP["go_on"]):
            try:
                take_up(one)
            except BadRequest as error:
                st.error(str(error), icon=":material/error:")
                return
            st.rerun()
        if st.button("Throw away", key=f"throw_away_{one.name}", help=words.HELP["throw_away"]):
            try:
                unfinished.forget(one.name)
            except BadRequest as error:
                st.error(shell.escaped(str(error)), icon=":material/error:")
                return
            st.rerun()


def _title(content: Mapping[str, Any]) -> str:
    typed = content.get("typed")
    title = str(typed.get("edit_title") or "").strip() if isinstance(typed, Mapping) else ""
    return f"“{shell.readable_name(title, 80)}”" if title else "a behaviour without a name"
