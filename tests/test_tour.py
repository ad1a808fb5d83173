"""The tour of a first visit and the presenter view: when they are there, where they lead, what the browser keeps."""

import re
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from tests.app_pages import MAIN, open_app
from ui import presenter, tour

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty results file of the test's own."""
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    st.cache_data.clear()
    st.cache_resource.clear()
    yield
    core_jobs.close()


def step_shown(app: AppTest) -> int:
    """The step whose card is there, 0 without one."""
    assert not app.exception
    found = [re.search(rf"(\d) of {len(tour.STEPS)} · ", str(element.value)) for element in app.main.markdown]
    return next((int(match[1]) for match in found if match), 0)


@pytest.mark.usefixtures("results")
def test_a_first_visit_is_led_through_three_pages_and_can_be_led_again() -> None:
    app = open_app()
    for step in range(1, len(tour.STEPS)):
        assert step_shown(app) == step
        app.button(key="tour_next").click().run()
    assert step_shown(app) == len(tour.STEPS) == 3
    app.button(key="tour_back").click().run()
    assert step_shown(app) == 2
    app.button(key="tour_close").click().run()
    assert step_shown(app) == 0
    app.switch_page("../pages/start.py").run()
    assert step_shown(app) == 0
    app.button(key="tour_start").click().run()
    assert step_shown(app) == 1


@pytest.mark.usefixtures("results")
def test_whoever_follows_a_link_to_a_result_is_not_stopped_by_the_tour() -> None:
    app = open_app("probe")
    assert step_shown(app) == 0
    app.button(key="tour_start")  # it is offered all the same


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(("kept", "step"), [("0", 0), ("2", 2), ("9", 1), ("<script>", 1)])
def test_the_browser_keeps_the_place_and_nonsense_is_a_first_visit(
    monkeypatch: pytest.MonkeyPatch, kept: str, step: int
) -> None:
    monkeypatch.setattr(type(st.context), "cookies", {tour.COOKIE: kept})
    app = open_app()
    assert step_shown(app) == step
    assert bool([b for b in app.main.button if b.key == "tour_go"]) == (step == 2)  # the card is not on its page


def test_every_step_names_things_that_stand_on_its_page() -> None:
    source = "".join(path.read_text() for path in (ROOT / "ui").glob("*.py") if path.name != "tour.py")
    for step in tour.STEPS:
        page = (ROOT / "ui" / step.page).resolve().read_text()
        for name in re.findall(r"\*\*(.+?)\*\*", step.text):
            assert name == "?" or name.lower() in (page + source).lower(), name
        assert f'title="{step.page_name}"' in MAIN.read_text()


@pytest.mark.usefixtures("results")
def test_the_presenter_view_stays_over_pages_until_it_is_left() -> None:
    app = open_app(present="1")
    assert step_shown(app) == 0
    assert app.button(key="present_back").disabled
    app.button(key="present_next").click().run()
    assert list(app.query_params["present"]) == ["1"]
    assert not app.button(key="present_back").disabled
    app.button(key="present_leave").click().run()
    assert "present" not in app.query_params
    assert not [button for button in app.button if button.key == "present_next"]
    app.button(key="present_button").click().run()
    assert list(app.query_params["present"]) == ["1"]


@pytest.mark.usefixtures("results")
def test_a_wrong_value_in_the_address_does_not_turn_the_presenter_view_on() -> None:
    app = open_app(present="<script>")
    assert not [button for button in app.button if button.key == "present_next"]
    assert "present" not in app.query_params


def test_charts_of_the_presenter_view_have_larger_texts_and_the_charts_themselves_stay() -> None:
    rows = pd.DataFrame({"x": [1.0], "y": [2.0], "text": ["a"]})
    text = alt.Chart(rows).mark_text(fontSize=10).encode(x="x:Q", y="y:Q", text="text:N")
    chart = alt.layer(alt.Chart(rows).mark_point().encode(x="x:Q", y="y:Q"), text).properties(height=300)
    larger = presenter.larger(chart)
    assert larger.height == 390
    assert larger.layer[1].mark.fontSize == 13
    assert (chart.height, chart.layer[1].mark.fontSize) == (300, 10)
    assert larger.to_dict()["datasets"] == chart.to_dict()["datasets"]


def test_tables_of_the_presenter_view_have_wider_columns() -> None:
    columns = {
        "rank": st.column_config.NumberColumn("Rank", width=48),
        "name": st.column_config.TextColumn("Neuron", width="small"),
        "plain": "Title",
    }
    wider = presenter.wider(columns)
    assert wider["rank"]["width"] == round(48 * presenter.LARGER)
    assert wider["rank"]["label"] == "Rank"
    assert (wider["name"]["width"], wider["plain"]) == ("small", "Title")
    assert columns["rank"]["width"] == 48
