"""Presenter view: larger type, no sidebar, and keys for the next and the previous page. `?present=1` opens it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import altair as alt
import streamlit as st

STYLE = Path(__file__).with_name("style")
LARGER = 1.3  # what a chart states in pixels; what it takes from the theme grows with the page's type


def on() -> bool:
    """Whether the presenter view is on."""
    return st.session_state.get("present") == "1"


def label_visibility() -> Literal["visible", "collapsed"]:
    """A presentation leaves out the labels of what explains itself; screen readers have them all the same."""
    return "collapsed" if on() else "visible"


def switch(present: bool) -> None:
    """Turn the presenter view on or off; the address follows."""
    st.session_state["present"] = "1" if present else ""


def style() -> None:
    """The few rules that the theme cannot say, and those of the presenter view while it is on."""
    st.html(STYLE / "base.css")
    if on():
        st.html(STYLE / "presenter.css")


def button() -> None:
    """Turns the presenter view on."""
    st.button(
        "Presenter view",
        key="present_button",
        icon=":material/present_to_all:",
        type="tertiary",
        on_click=switch,
        args=(True,),
        help="Larger type and no sidebar, for a projector. N and P turn the pages, L leaves.",
    )


def bar(page: Any, pages: Sequence[Any]) -> None:
    """At the foot of the presenter view: previous and next page, where one is, and the way out."""
    at = [p.url_path for p in pages].index(page.url_path) if page in pages else 0
    with (
        st.bottom,
        st.container(
            horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="presenter_bar"
        ),
    ):
        if st.button("Previous", key="present_back", icon=":material/chevron_left:", shortcut="P", disabled=at == 0):
            st.switch_page(pages[at - 1])
        st.caption(f"{page.title} · {at + 1} of {len(pages)}", width="content")
        st.button("Leave", key="present_leave", shortcut="L", type="tertiary", on_click=switch, args=(False,))
        if st.button(
            "Next",
            key="present_next",
            icon=":material/chevron_right:",
            icon_position="right",
            shortcut="N",
            disabled=at + 1 == len(pages),
        ):
            st.switch_page(pages[at + 1])


def larger(chart: Any) -> Any:
    """The chart with its heights and its texts of a fixed size enlarged; axes and legends follow the page's type."""
    chart = chart.copy(deep=True)
    for part in parts(chart):
        if isinstance(part.height, (int, float)):
            part.height = round(LARGER * part.height)
        mark = getattr(part, "mark", alt.Undefined)
        if isinstance(mark, alt.MarkDef) and isinstance(mark.fontSize, (int, float)):
            mark.fontSize = round(LARGER * mark.fontSize)
    return chart


def wider(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A table's column settings with the widths that are given in pixels enlarged, as its texts are."""
    return {
        name: {**settings, "width": round(LARGER * settings["width"])}
        if isinstance(settings, dict) and isinstance(settings.get("width"), int)
        else settings
        for name, settings in columns.items()
    }


def parts(chart: Any) -> list[Any]:
    """The chart and every chart inside it."""
    inside = [getattr(chart, name, alt.Undefined) for name in ("layer", "hconcat", "vconcat", "concat")]
    found = [part for listed in inside if isinstance(listed, list) for part in listed]
    return [chart, *(deeper for part in found for deeper in parts(part))]
