"""Pages with recorded results: they say so, compute them here on request, and the Runs page takes them out and back."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import settings
from pprobe_core.probing.types import ProbeRequest
from tests.app_pages import amiss_at_tables, open_app
from tests.page_words import without_terms
from ui import backend

BADGE = ":gray-badge[:material/history: Recorded]"
MATH = ProbeRequest(model="mini-qwen3", circuit="math")

Open = Callable[..., AppTest]


@pytest.fixture
def open_page(recorded_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Opens a page on a copy of the results file with the recorded runs; `empty` on a new one."""

    def opened(page: str, *, empty: bool = False, **address: str) -> AppTest:
        path = tmp_path / "pprobe.duckdb"
        if not empty and not path.exists():
            shutil.copy(recorded_file, path)
        monkeypatch.setenv("PPROBE_DB", str(path))
        st.cache_data.clear()
        return open_app(page, **address)

    yield opened
    core_jobs.close()


def notices(app: AppTest) -> list[str]:
    assert not app.exception
    return [without_terms(m.value) for m in app.markdown if m.value.startswith(BADGE)]


def button(app: AppTest, key: str) -> AppTest:
    return next(b for b in app.button if b.key == key)


def test_a_page_of_a_run_says_that_it_is_recorded_and_offers_to_compute_it(open_page: Open) -> None:
    app = open_page("controls")
    assert len(notices(app)) == 1
    assert "not computed on this computer" in notices(app)[0]
    assert button(app, "compute_here").label == "Compute it here"


def test_the_dose_page_says_it_of_the_sweep_and_its_run_together(open_page: Open) -> None:
    app = open_page("dose")
    assert len(notices(app)) == 1
    assert "This sweep and its run were recorded on" in notices(app)[0]


def test_the_compare_page_counts_recorded_results(open_page: Open) -> None:
    (line,) = notices(open_page("compare", models="mini-qwen3,mini-llama", circuits="math"))
    assert "results here were recorded" in line


def test_a_run_is_computed_here_and_then_shows_how_it_agrees(open_page: Open) -> None:
    app = open_page("probe", circuit="math")
    run_id = backend.jobs().store.run_of(MATH)
    button(app, "compute_here").click().run()
    deadline = time.monotonic() + 90
    while backend.jobs().busy and time.monotonic() < deadline:
        time.sleep(0.1)
    app.run()
    assert notices(app) == []
    assert not backend.jobs().store.run(str(run_id)).recorded
    assert any("All 193 numbers agree" in expander.label for expander in app.expander)
    assert any("tolerance" in frame.value.columns for frame in app.dataframe)
    assert not amiss_at_tables(app)


def test_the_runs_page_tells_them_apart_takes_them_out_and_brings_them_back(open_page: Open) -> None:
    app = open_page("runs")
    n = len(backend.jobs().store.runs())
    table = next(d for d in app.dataframe if "source" in d.value)
    assert set(table.value["source"]) == {"Recorded"}
    button(app, "remove_recorded").click().run()
    assert not app.exception
    assert backend.jobs().store.runs().empty
    button(app, "restore_recorded").click().run()
    assert not app.exception
    assert len(backend.jobs().store.runs()) == n


def test_the_start_of_the_server_brings_them_in_and_computes_nothing(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    backend.open_dashboard()
    assert not backend.jobs().busy
    assert backend.jobs().list() == []
    assert len(notices(open_page("start", empty=True))) == 1


def test_without_them_the_server_asks_for_a_first_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    monkeypatch.setenv("PPROBE_RECORDED", "0")
    backend.open_dashboard()
    try:
        assert backend.jobs().store.runs().empty
        (job,) = backend.jobs().list()
        assert job.request == ProbeRequest(model=backend.FIRST_MODEL, circuit=backend.FIRST_CIRCUIT)
        backend.jobs().cancel(job.job_id)
    finally:
        core_jobs.close()


def test_damaged_recordings_do_not_keep_the_server_from_starting(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text("{", "utf-8")
    monkeypatch.setattr(settings, "RECORDED", tmp_path)
    app = open_page("runs", empty=True)
    assert not app.exception
    assert any("list of recorded results" in caption.value for caption in app.caption)
    backend.bring_recorded(backend.jobs().store)
    assert backend.jobs().store.runs().empty


@pytest.mark.parametrize("page", [path.stem for path in sorted((settings.ROOT / "pages").glob("*.py"))])
def test_no_widget_is_told_again_what_it_holds(open_page: Open, page: str) -> None:
    """What is written into the state counts as news for the browser: a slider moved meanwhile would jump back."""
    app = open_page(page).run()
    assert not app.exception
    kinds = ("selectbox", "select_slider", "slider", "text_input", "multiselect", "checkbox", "radio", "number_input")
    told = [widget.key for kind in kinds for widget in app.get(kind) if widget.proto.set_value]
    assert told == []
