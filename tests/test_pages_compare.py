"""The Compare page: empty, partly there, every view, its address, and a comparison asked for and stopped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core.comparison import CompareRequest
from tests.app_pages import amiss_at_tables, unfolded
from tests.page_words import without_terms
from ui import backend, words

TWO = {"models": "mini-qwen3,mini-llama", "circuits": "safety_refusal,code"}
REQUEST = CompareRequest(("mini-qwen3", "mini-llama"), ("safety_refusal", "code"), sweeps=(), limit=6)

Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with a comparison of two models and their bases, without sweeps."""
    path = tmp_path_factory.mktemp("compared") / "runs.duckdb"
    jobs = core_jobs.shared(path)
    assert jobs.wait(jobs.submit(REQUEST), 200).state == "done"
    core_jobs.close()
    return path


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the Compare page by an address, on a results file of its own."""

    def opened(copy_of: Path | None = None, limit: int = 0, **address: str) -> AppTest:
        path = tmp_path / "pprobe.duckdb"
        if copy_of is not None and not path.exists():
            shutil.copy(copy_of, path)
        monkeypatch.setenv("PPROBE_DB", str(path))
        st.cache_data.clear()
        st.cache_resource.clear()
        app = unfolded()
        for key, value in address.items():
            app.query_params[key] = value
        app.session_state["compare_limit"] = limit
        app.switch_page("../pages/compare.py")
        return app.run()

    yield opened
    core_jobs.close()


def words_on(app: AppTest) -> str:
    assert not app.exception
    assert not amiss_at_tables(app)
    groups = (app.title, app.header, app.markdown, app.caption, app.text, app.info, app.error, app.warning)
    text = without_terms("\n".join(str(element.value) for group in groups for element in group)).replace("\\", "")
    assert "Something unexpected" not in text
    return text


def charts_on(app: AppTest) -> int:
    return len(app.get("arrow_vega_lite_chart")) or len(app.get("vega_lite_chart"))


def test_an_empty_place_says_what_to_do(compare: Open) -> None:
    app = compare()
    text = words_on(app)
    assert "0 of 96 parts are there" in text  # three models with sweeps and their bases, eight behaviours
    assert "Nothing of this comparison has been run yet" in text
    assert "96 parts" in app.button(key="compare_button").label


def test_the_address_names_models_and_behaviours(compare: Open, finished: Path) -> None:
    app = compare(finished, limit=6, **TWO)
    assert list(app.multiselect(key="compare_models").value) == ["mini-qwen3", "mini-llama"]
    assert list(app.multiselect(key="compare_circuits").value) == ["safety_refusal", "code"]
    app.multiselect(key="compare_circuits").set_value(["code"]).run()
    assert app.query_params["circuits"] in ("code", ["code"])
    assert "of 8 parts are there" in words_on(app)


@pytest.mark.parametrize("view", list(words.COMPARE_VIEWS))
def test_every_view_shows_what_is_there_or_what_to_do(compare: Open, finished: Path, view: str) -> None:
    app = compare(finished, limit=6, view=view, **TWO)
    text = words_on(app)
    assert "8 of 16 parts are there" in text
    if view in ("dose", "window", "fit"):
        assert "No sweep of this kind is there yet" in text
    elif view == "words":
        assert "FFN/Skip of safety refusal is " in text
    else:
        assert charts_on(app) >= 1
    if view == "alignment":
        assert "Safety refusal: on the original prompt mini-qwen3 leans to the target side in 6 of 6 pairs" in text


def test_the_papers_numbers_are_laid_over_on_request_and_named_as_such(compare: Open, finished: Path) -> None:
    app = compare(finished, limit=6, **TWO)
    assert "none was computed here" not in words_on(app)
    app.toggle(key="with_paper").set_value(True).run()
    assert "none was computed here" in words_on(app)


def test_too_few_models_are_said_to_be_too_few(compare: Open, finished: Path) -> None:
    app = compare(finished, limit=6, models="mini-qwen3")
    assert "a comparison takes 2 to 6" in words_on(app)


def test_models_on_one_prompt_set_get_no_warning_about_it(compare: Open, finished: Path) -> None:
    app = compare(finished, limit=6, **TWO)
    assert "different prompt sets" not in words_on(app)


def test_the_button_asks_for_what_is_missing_and_it_can_be_stopped(compare: Open, finished: Path) -> None:
    app = compare(finished, limit=6, models="mini-qwen3,mini-gemma3", circuits="code")
    app.pills(key="compare_sweeps").set_value([]).run()
    assert "2 of 4 parts are there" in words_on(app)
    app.button(key="compare_button").click().run()
    jobs = backend.jobs()
    job = next(j for j in jobs.list() if isinstance(j.request, CompareRequest) and "mini-gemma3" in j.request.models)
    words_on(app)
    jobs.cancel(job.job_id)
    assert jobs.wait(job.job_id, 60).state in ("cancelled", "done")
    app.run()
    assert "parts are there" in words_on(app)


def test_a_model_of_the_hub_is_checked_before_anything_is_fetched(compare: Open) -> None:
    app = compare(models="mini-qwen3,Qwen/Qwen3-0.6B", circuits="code")
    assert "596 M parameters" in words_on(app)
    assert "first: nothing is fetched unseen" in words_on(app)
    assert app.button(key="compare_button").disabled
    assert app.button(key="check_model_0").label == "Check this model"
