"""How charts get to the browser: made once for all visitors, and without Altair's checks, which are for the tests."""

import copy
import json
import re
from collections.abc import Callable, Hashable
from typing import Any, cast

import altair as alt
import pandas as pd
import streamlit as st
from altair.utils import schemapi

from pprobe_core.charts import Figure
from ui import backend, presenter

KEPT = 64  # charts; a page has up to nine
MANY_MARKS = 100  # rows behind one kind of mark, from which a chart is painted instead of built from elements

Draw = Callable[[], Figure]


def quickly() -> None:
    """Leave Altair's checks of every chart against its schema out: half of the time of a page with nine charts.

    The tests draw every chart with them.
    """
    schemapi.disable_debug_mode()


class Drawn:
    """A figure as the pages draw it: its words, and what goes to the browser, for which the rows are packed once.

    Then it lets go of the chart, which holds whole tables, and those of a sweep are large.
    """

    def __init__(self, figure: Figure) -> None:
        self.title, self.reading, self.omits, self.caption = figure.title, figure.reading, figure.omits, figure.caption
        self._chart: Any = presenter.larger(figure.chart) if presenter.on() else figure.chart
        self._painted = _rows_behind_a_mark(self._chart) > MANY_MARKS
        self._made: dict[str, Any] | None = None

    def show(self, key: str, **options: Any) -> Any:
        """`st.altair_chart`, whose `options` and answer these are: all it asks of a chart is `to_dict`."""
        return st.altair_chart(cast(alt.Chart, self), key=key, **options)

    def to_dict(self) -> dict[str, Any]:
        """The chart's specification, checked unless `quickly` was called.

        While Streamlit asks for it, Altair puts the packed rows into `datasets` of Streamlit's instead of the text.
        """
        if self._made is None:
            made = self._chart.to_dict(validate=schemapi.DEBUG_MODE)
            made["datasets"] = {**made.get("datasets", {}), **alt.data_transformers.options.get("datasets", {})}
            _without_raw_tooltips(made)
            if self._painted:
                _paint(made)
            self._made, self._chart = made, None
        rows = self._made["datasets"]  # bytes; only what is around them is changed on its way to the browser
        around = copy.deepcopy({name: part for name, part in self._made.items() if name != "datasets"})
        return around | {"datasets": dict(rows)}


def _rows_behind_a_mark(chart: Any) -> int:
    """Rows of the largest table that the chart or a part of it draws."""
    tables = (getattr(part, "data", None) for part in presenter.parts(chart))
    return max((len(table) for table in tables if isinstance(table, pd.DataFrame)), default=0)


def _without_raw_tooltips(made: dict[str, Any]) -> None:
    """Marks that say nothing of their own stay silent: Streamlit's theme has them show the names of their columns."""
    config = made.get("config", {})
    made["config"] = {**config, "mark": {**config.get("mark", {}), "tooltip": None}}


def _paint(made: dict[str, Any]) -> None:
    """Have the browser paint the chart on one canvas, which is quicker than as many elements with a text each.

    A screen reader hears the chart's description either way; the numbers are in the table of its Save menu.
    """
    made["usermeta"] = {**made.get("usermeta", {}), "embedOptions": {"renderer": "canvas"}}
    made["config"] = {**made.get("config", {}), "aria": False}


def drawn(draw: Draw, key: str, of: Hashable) -> Drawn:
    """What `draw` makes, kept for all visitors under its key and `of`: everything it is made from.

    That is ids of runs and sweeps, which never change, and chosen values. None: it may change, so nothing is kept.
    """
    if of is None:
        return Drawn(draw())
    kept = _kept((key, of, presenter.on(), backend.jobs().store.edition), _draw=draw)
    return _Compared(draw(), kept) if schemapi.DEBUG_MODE else kept


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _kept(place: Hashable, _draw: Draw) -> Drawn:
    return Drawn(_draw())


class _Compared(Drawn):
    """In the tests: a figure made again. Raises AssertionError where it is another than the one that was kept."""

    def __init__(self, figure: Figure, kept: Drawn) -> None:
        super().__init__(figure)
        self._kept = kept

    def to_dict(self) -> dict[str, Any]:
        """The specification as it would be now."""
        made = super().to_dict()
        now, before = (_without_numbers(one) for one in (made, self._kept.to_dict()))
        if (self.title, self.caption, now) != (self._kept.title, self._kept.caption, before):
            raise AssertionError(f"A chart depends on more than its `of` says: {self.title}")
        return made


def _without_numbers(specification: dict[str, Any]) -> str:
    """Without the numbers that Altair gives to the parts of a chart, and without the rows: their names are hashes."""
    around = {name: part for name, part in specification.items() if name != "datasets"}
    return re.sub(r"(param|view)_\d+", r"\1", json.dumps(around, sort_keys=True, default=str))
