"""What is taken away: rows and pictures of every chart, tables without formulas, plain names, the Save menus."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import altair as alt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

from pprobe_core import charts, pictures, report
from pprobe_core import jobs as core_jobs
from tests import test_charts, test_compare_charts, test_sweep_charts
from tests.app_pages import amiss_at_tables, unfolded

SOURCE = "Run 0123456789ab · mini-qwen3 · Safety refusal · prompt set mini, 24 pairs · pprobe"
HOSTILE = '<script>alert("x")</script> & \u202eevil\u0007 =1+1 🙂'
FIGURES: dict[str, Callable[[], charts.Figure]] = {
    **test_charts.EVERY_CHART,
    **{name: lambda name=name: test_sweep_charts.made(name) for name in test_sweep_charts.EVERY_CHART},  # type: ignore[misc]
    **{
        name: lambda name=name: test_compare_charts.figure(  # type: ignore[misc]
            name, test_compare_charts.FRAMES[name](test_compare_charts.THREE), test_compare_charts.THREE
        )
        for name in test_compare_charts.FRAMES
    },
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_rows_of_every_chart_have_the_names_a_reader_knows(name: str) -> None:
    rows = pictures.rows(FIGURES[name]())
    assert len(rows)
    assert len(set(rows.columns)) == len(rows.columns)
    assert not [column for column in rows if "_" in column or not column.strip()]
    assert report.csv_bytes(rows)
    assert pq.read_table(io.BytesIO(report.parquet_bytes(rows))).num_rows == len(rows)


def test_the_rows_are_those_that_are_drawn() -> None:
    pairs = test_charts.pairs_frame(12)
    rows = pictures.rows(charts.margins(pairs))
    originals = rows[rows["Pass"].eq("Original prompt")].set_index("Pair")["Logit difference"]
    assert originals.to_dict() == pairs.set_index("pair_id")["logit_diff_original"].to_dict()


def test_a_curve_keeps_its_random_draws_beside_it() -> None:
    rows = pictures.rows(test_sweep_charts.made("dose_curve"))
    random = rows[rows["Mean of the draws"].notna()]
    ranked = rows[rows["Mean (logits)"].notna()]
    assert len(random)
    assert len(ranked)
    assert {"Smallest draw", "Largest draw", "Draws", "95 % from", "95 % to", "n"} <= set(rows.columns)


@pytest.mark.parametrize(
    "name", ["neuron_map", "first_tokens", "dose_curve", "window_map", "class_bars", "ratio_matrix"]
)
def test_a_picture_holds_the_words_and_where_it_comes_from(name: str) -> None:
    figure = FIGURES[name]()
    root = ET.fromstring(pictures.svg(figure, SOURCE))  # noqa: S314  (our own)
    written = "".join(root.itertext())
    for words in (figure.title, figure.caption, SOURCE):
        assert words.split()[0] in written
        assert words.split()[-1] in written
    picture = Image.open(io.BytesIO(pictures.png(figure, SOURCE, scale=1)))
    assert picture.width == pytest.approx(float(root.get("width", "0")), abs=2)
    assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("words", [HOSTILE, "\x00\x1b[0m\x0b", "\ufffe\uffff\ufdd0\U0001fffe", "م" * 300])
def test_words_of_others_are_harmless_in_a_picture(words: str) -> None:
    """A control character in them would end the process that draws."""
    rows = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 1.5], "who": [words] * 3})
    chart = alt.Chart(rows).mark_bar().encode(x="x:Q", y="y:Q", color="who:N", tooltip=["who:N"])
    figure = charts.Figure(chart, words, words, words, words)
    svg = pictures.svg(figure, words)
    tags = {element.tag.split("}")[-1] for element in ET.fromstring(svg).iter()}  # noqa: S314  (our own)
    assert tags <= {"svg", "g", "path", "rect", "text", "tspan", "title", "desc", "line", "defs", "clipPath"}
    assert pictures.png(figure, words, scale=0.5).startswith(b"\x89PNG")


def test_drawings_of_one_page_do_not_share_inner_names() -> None:
    figure = FIGURES["window_map"]()
    drawn = [pictures.drawing(figure, name=name) for name in ("a", "b")]
    names = [set(re.findall(r'\sid="([^"]+)"', text)) for text in drawn]
    assert names[0]
    assert not names[0] & names[1]
    assert set(re.findall(r"url\(#([^)]+)\)", drawn[0])) <= names[0]
    assert pictures.PAGE_INK in pictures.drawing(figure, ink=pictures.PAGE_INK)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    text = f"{start}SUM(A1)"
    written = report.csv_bytes(pd.DataFrame({text: [text], "list": [[text]], "n": [-1.5]})).decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[0][0].startswith("'")
    assert rows[1][0] == f"'{text}"
    assert json.loads(rows[1][1]) == [text]
    assert rows[1][2] == "-1.5"


def test_numbers_stay_numbers_in_a_csv() -> None:
    frame = pd.DataFrame({"a": [-1.5, np.nan], "b": pd.array([3, None], dtype="Int64"), "c": ["-2e-3", "+7"]})
    again = pd.read_csv(io.BytesIO(report.csv_bytes(frame)))
    assert [again["a"].iloc[0], again["b"].iloc[0]] == [-1.5, 3]
    assert again["c"].tolist() == [-0.002, 7]


def test_a_parquet_keeps_types_and_says_what_it_is_about() -> None:
    frame = pd.DataFrame({"n": [1, 2], "mixed": [1.5, "x"], "ids": [[1, 2], []], "text": ["=1", None]})
    table = pq.read_table(io.BytesIO(report.parquet_bytes(frame, {"source": SOURCE})))
    assert table.column("n").to_pylist() == [1, 2]
    assert table.column("ids").to_pylist() == [[1, 2], []]
    assert table.column("mixed").to_pylist() == ["1.5", "x"]
    assert table.column("text").to_pylist() == ["=1", None]
    assert table.schema.metadata[b"source"].decode() == SOURCE


@pytest.mark.parametrize("part", ["../../etc/passwd", HOSTILE, "x" * 500, "\u202etxt.exe", "", "a/b\\c:d"])
def test_file_names_are_plain(part: str) -> None:
    name = report.file_name("0123456789ab", part, suffix="csv")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}\.csv", name)
    assert ".." not in name


def test_text_is_broken_where_a_line_is_full() -> None:
    lines = pictures.wrapped("three short words " + "很" * 40 + " end", ems=12)
    assert "".join(lines).replace(" ", "") == "threeshortwords" + "很" * 40 + "end"
    assert max(len(line) for line in lines if "很" in line) <= 12


# -- the menus on the pages --


@pytest.fixture
def probe_page(recorded_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    path = tmp_path / "pprobe.duckdb"
    path.write_bytes(recorded_file.read_bytes())
    monkeypatch.setenv("PPROBE_DB", str(path))
    st.cache_data.clear()
    st.cache_resource.clear()
    app = unfolded()
    app.query_params["model"] = "mini-qwen3"
    app.switch_page("../pages/probe.py")
    yield app.run()
    core_jobs.close()


def test_every_chart_and_table_of_a_page_can_be_saved(probe_page: AppTest) -> None:
    labels = [button.proto.label for button in probe_page.get("download_button")]
    n_charts = len(probe_page.get("arrow_vega_lite_chart")) or len(probe_page.get("vega_lite_chart"))
    assert n_charts >= 8
    for label in ("Picture (PNG)", "Drawing (SVG)", "Numbers (CSV)", "Numbers (Parquet)"):
        assert labels.count(label) == n_charts
    assert labels.count("Table (CSV)") == labels.count("Table (Parquet)") == len(probe_page.dataframe) == 4
    assert not amiss_at_tables(probe_page)


def three_tables() -> None:
    """Three tables, one that can be edited; what their menus give is left in the session, by file name."""
    import pandas as pd
    import streamlit as st
    from streamlit import runtime

    from ui import exports

    text = st.column_config.TextColumn
    frame, rest = pd.DataFrame({"word": ["=1+1", "b"]}), pd.DataFrame({"word": ["c"], "more": ["d"]})
    heading = {"word": text("Word", help="A word."), "more": text("More", help="More of it.")}
    exports.table(frame.set_index("word"), key="plain", column_config=heading)
    exports.table(frame, key="first", rest=lambda: rest, column_config=heading, hide_index=True)
    exports.editor(frame, key="edited", rest=lambda: rest, column_config=heading, hide_index=True, num_rows="dynamic")
    offered = runtime.get_instance().media_file_mgr._deferred_callables.values()
    st.session_state["saved"] = {entry["filename"]: entry["callable"]() for entry in offered}


def test_a_menu_gives_the_rows_shown_with_their_edits_and_those_behind_them() -> None:
    app = AppTest.from_function(three_tables)
    app.session_state["edited"] = {
        "edited_rows": {1: {"word": "changed"}},
        "added_rows": [{"word": "added"}],
        "deleted_rows": [],
    }
    app.run()
    assert not app.exception
    assert not amiss_at_tables(app)
    saved = {name: data.decode("utf-8-sig") for name, data in app.session_state["saved"].items() if "csv" in name}
    assert {name: text.split() for name, text in saved.items()} == {
        "pprobe-plain.csv": ["Word", "'=1+1", "b"],
        "pprobe-first.csv": ["Word,More", "'=1+1,", "b,", "c,d"],
        "pprobe-edited.csv": ["Word,More", "'=1+1,", "changed,", "added,", "c,d"],
    }
    kept = pq.read_table(io.BytesIO(app.session_state["saved"]["pprobe-edited.parquet"]))
    assert kept.column("Word").to_pylist() == ["=1+1", "changed", "added", "c"]


def pairs_left_out() -> None:
    from types import SimpleNamespace

    from ui import cards

    skipped = [{"pair_id": "own-3", "reason": "The prompt is too long for this model."}]
    cards.left_out(SimpleNamespace(summary={"skipped": skipped}))  # type: ignore[arg-type]


def test_pairs_that_could_not_be_used_can_be_saved_with_their_reasons() -> None:
    app = AppTest.from_function(pairs_left_out).run()
    assert not app.exception
    assert not amiss_at_tables(app)
    (shown,) = app.dataframe
    assert shown.value.to_dict("records") == [{"pair_id": "own-3", "reason": "The prompt is too long for this model."}]


def a_bare_table() -> None:
    import pandas as pd
    import streamlit as st

    config = {"a": st.column_config.TextColumn(help="Said."), "c": st.column_config.TextColumn("C")}
    st.dataframe(pd.DataFrame({"a": [1], "b": [2], "c": [3]}), alt="Bare", hide_index=True, column_config=config)
    st.table(pd.DataFrame({"a": [1]}))


def test_the_look_at_the_tables_of_a_page_finds_what_they_lack() -> None:
    assert amiss_at_tables(AppTest.from_function(a_bare_table).run()) == [
        "st.table has no help on its headings",
        "Bare: cannot be saved",
        "Bare: no help on 'b'",
        "Bare: no help on 'c'",
    ]


def test_the_tables_own_download_is_off() -> None:
    """It writes texts that a spreadsheet runs as formulas."""
    config = (Path(__file__).parent.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    assert re.search(r"^disableDataExport = true$", config, re.MULTILINE)
