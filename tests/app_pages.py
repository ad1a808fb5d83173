"""A page of the dashboard without a browser, as a visitor with this address gets it."""

import json
from pathlib import Path

from streamlit.testing.v1 import AppTest

from pprobe_core.interventions.types import KINDS

MAIN = Path(__file__).resolve().parent.parent / "ui" / "main.py"
# Parts that are made when somebody opens them (shell.folded).
FOLDED = (
    "provenance_of", "ratios_as_table", "parts_of_layers", "pair_as_read",
    *(f"meaning_{about}" for about in ("run", *KINDS)),
)  # fmt: skip


def unfolded() -> AppTest:
    """The dashboard before it is run, for a visitor who opens every folded part."""
    app = AppTest.from_file(str(MAIN), default_timeout=90)
    for key in FOLDED:
        app.session_state[key] = True
    return app


def open_app(page: str = "start", **address: str) -> AppTest:
    """The page of this file name, drawn once; `address` are the choices that the address carries."""
    app = unfolded()
    for key, value in address.items():
        app.query_params[key] = value
    if page != "start":
        app.switch_page(f"../pages/{page}.py")
    return app.run()


def amiss_at_tables(app: AppTest) -> list[str]:
    """What the tables drawn on a page lack: help on the heading of a column that is shown, a Save menu right below."""
    amiss = ["st.table has no help on its headings"] * len(app.table)
    drawn = [node for node in app._tree if node.type in ("dataframe", "download_button", "arrow_vega_lite_chart")]
    for place, table in enumerate(drawn):
        if table.type != "dataframe":  # which also is a table that can be edited
            continue
        below = [node.label for node in drawn[place + 1 : place + 3] if node.type == "download_button"]
        if below != ["Table (CSV)", "Table (Parquet)"]:
            amiss.append(f"{table.proto.alt}: cannot be saved")
        settings, frame = json.loads(table.proto.columns or "{}"), table.value
        index = [] if settings.get("_index", {}).get("hidden") else [frame.index.name]
        amiss += [
            f"{table.proto.alt}: no help on {column!r}"
            for column in [*index, *frame.columns]
            if not settings.get(column, {}).get("help")
        ]
    return amiss
