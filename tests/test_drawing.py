"""Charts on the pages: kept ones are drawn as if they had just been made, and the guard sees one that is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from altair.utils import schemapi
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs


@pytest.fixture(autouse=True)
def results_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    st.cache_resource.clear()
    yield
    core_jobs.close()
    st.cache_resource.clear()


def page() -> None:
    """Two charts of as many pairs as the session says; the first one is kept as if it were of run 1 only."""
    import streamlit as st

    from pprobe_core import charts
    from tests.test_charts import pairs_frame
    from ui import drawing

    n = st.session_state.get("n", 12)
    for key, of in (("kept", 1), ("made", None)):
        drawn = drawing.drawn(lambda: charts.margins(pairs_frame(n)), key, of)
        st.caption(drawn.title)
        try:
            drawn.show(key)
        except AssertionError as error:
            st.error(str(error))


def drawn_charts(app: AppTest) -> list[Any]:
    """What goes to the browser: specification, then the packed rows, which are drawn by their names."""
    return [chart.proto for chart in app.get("vega_lite_chart")]


@pytest.mark.parametrize("quickly", [False, True])
def test_a_kept_chart_is_drawn_a_second_time_as_the_first_time(quickly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemapi, "DEBUG_MODE", not quickly)
    app = AppTest.from_function(page).run()
    assert not app.exception
    first = drawn_charts(app)
    second = drawn_charts(app.run())
    assert len(first) == len(second) == 2
    for before, now in zip(first, second, strict=True):
        assert now.spec == before.spec
        assert [(d.name, d.data.data) for d in now.datasets] == [(d.name, d.data.data) for d in before.datasets]
        assert all(dataset.data.data for dataset in now.datasets)
    kept, made = second
    assert {d.name for d in kept.datasets} == {d.name for d in made.datasets}


def test_a_chart_that_depends_on_more_than_it_says_is_noticed() -> None:
    app = AppTest.from_function(page).run()
    app.session_state["n"] = 13
    app.run()
    assert [error.value for error in app.error] == [
        f"A chart depends on more than its `of` says: {app.caption[0].value}"
    ]


def test_without_the_checks_only_what_is_kept_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemapi, "DEBUG_MODE", False)
    app = AppTest.from_function(page).run()
    app.session_state["n"] = 13
    app.run()
    assert ["of 12 pairs" in caption.value for caption in app.caption] == [True, False]


@pytest.mark.parametrize(("n", "painted"), [(12, False), (400, True)])
def test_a_chart_of_hundreds_of_marks_is_painted_and_keeps_its_description(n: int, painted: bool) -> None:
    app = AppTest.from_function(page)
    app.session_state["n"] = n
    for chart in drawn_charts(app.run()):
        spec = json.loads(chart.spec)
        assert (spec.get("usermeta") == {"embedOptions": {"renderer": "canvas"}}) == painted
        assert spec["description"].startswith(f"Logit difference of {n} pairs")
        assert spec["config"]["mark"]["tooltip"] is None  # a mark without words of its own does not show column names
