"""Taking things away: every table, and a small Save menu beside each chart and table, made from the rows on screen.

Nothing is drawn or written before somebody asks for it. Every file says what it was measured on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import __version__, report
from pprobe_core.charts import Figure
from ui import presenter

PNG, SVG, CSV, PARQUET = "image/png", "image/svg+xml", "text/csv", "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Source:
    """What the shown numbers were measured on: the beginning of file names, and a line inside the files."""

    name: str = "pprobe"
    text: str = f"pprobe {__version__}"


def measured_on(name: str, *parts: str) -> None:
    """Say what the charts and tables that follow on this page are about; `parts` make the line in their files."""
    st.session_state["_source"] = Source(name, " · ".join([*(part for part in parts if part), f"pprobe {__version__}"]))


def forget() -> None:
    """At the start of a page: nothing is said yet, so that no file names a run it does not show."""
    st.session_state.pop("_source", None)


def _source() -> Source:
    return st.session_state.get("_source", Source())


def save_figure(draw: Callable[[], Figure], title: str, caption: str, key: str) -> None:
    """The Save menu of a chart: the picture with its words, and the rows it draws; `draw` makes it when it is asked."""
    source = _source()

    def rows() -> pd.DataFrame:
        from pprobe_core import pictures

        return pictures.rows(draw())

    def png() -> bytes:
        from pprobe_core import pictures

        return pictures.png(draw(), source.text)

    def svg() -> bytes:
        from pprobe_core import pictures

        return pictures.svg(draw(), source.text).encode()

    about = {"title": title, "caption": caption, "source": source.text}
    with _menu(key, "Save this chart as a picture, or its numbers as a table."):
        _offer("Picture (PNG)", png, "png", PNG, key)
        _offer("Drawing (SVG)", svg, "svg", SVG, key)
        _offer("Numbers (CSV)", lambda: report.csv_bytes(rows()), "csv", CSV, key)
        _offer("Numbers (Parquet)", lambda: report.parquet_bytes(rows(), about), "parquet", PARQUET, key)


def table(
    frame: pd.DataFrame,
    *,
    key: str,
    column_config: Mapping[str, Any],
    rest: Callable[[], pd.DataFrame] | None = None,
    **options: Any,
) -> Any:
    """A table with its Save menu below; `options` are those of st.dataframe, whose answer is returned.

    `rest`: rows that are saved behind those shown, where the page shows only the first of them.
    """
    event = st.dataframe(frame, key=key, column_config=_wide(column_config), **options)
    _save_table(frame, rest, key, column_config)
    return event


def editor(
    frame: pd.DataFrame,
    *,
    key: str,
    column_config: Mapping[str, Any],
    rest: Callable[[], pd.DataFrame] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """A table whose cells can be changed, with its Save menu below; returns, and saves, what stands in it then.

    `options` are those of st.data_editor; `rest` as in `table`.
    """
    edited = st.data_editor(frame, key=key, column_config=_wide(column_config), **options)
    _save_table(edited, rest, key, column_config)
    return edited


def _wide(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return presenter.wider(columns) if presenter.on() else columns


def _save_table(
    frame: pd.DataFrame, rest: Callable[[], pd.DataFrame] | None, key: str, columns: Mapping[str, Any]
) -> None:
    """The Save menu of a table, with the headings the page shows (`columns`: its column_config)."""
    source = _source()
    headings = {name: str(config["label"]) for name, config in columns.items() if config.get("label")}

    def rows() -> pd.DataFrame:
        more = None if rest is None else rest()
        whole = frame if more is None or more.empty else pd.concat([frame, more], ignore_index=True)
        return (whole if whole.index.name is None else whole.reset_index()).rename(columns=headings)

    with (
        st.container(horizontal=True, horizontal_alignment="right"),
        _menu(key, "Save this table. Texts that a spreadsheet would run as a formula are made harmless."),
    ):
        _offer("Table (CSV)", lambda: report.csv_bytes(rows()), "csv", CSV, key)
        _offer(
            "Table (Parquet)", lambda: report.parquet_bytes(rows(), {"source": source.text}), "parquet", PARQUET, key
        )


def _menu(key: str, help_text: str) -> Any:
    return st.popover("Save", icon=":material/download:", type="tertiary", help=help_text, key=f"save_{key}")


def _offer(label: str, data: Callable[[], bytes], suffix: str, mime: str, key: str) -> None:
    name = _source().name
    st.download_button(
        label,
        data,
        file_name=report.file_name(name, "_".join(part for part in key.split("_") if part not in name), suffix=suffix),
        mime=mime,
        key=f"save_{key}_{suffix}",
        on_click="ignore",
        type="tertiary",
        help=f"Download as {suffix.upper()}. It is made when you press this.",
    )
