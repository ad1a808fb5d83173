"""The Start page with models that do not come with the product: the card before anything is fetched, then the run."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import settings
from pprobe_core.models import devices
from pprobe_core.models.known import known_models
from tests.hub_server import COMMIT, Hub, use_hub
from tests.page_words import without_terms
from tests.tiny_models import edit_json, write_tiny_model
from ui import backend, models

MAIN = Path(__file__).resolve().parent.parent / "ui" / "main.py"
WEIGHTS = "model.safetensors"

Open = Callable[[str], AppTest]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(settings.SHIPPED_MODELS / "mini-qwen3").serving() as found:  # it can run every circuit
        use_hub(monkeypatch, found.address)
        yield found


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the Start page with a model chosen, on an empty results file."""
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(core_jobs, "_the_pool", None)  # of former tests, with this model in memory
    st.cache_data.clear()
    st.cache_resource.clear()

    def opened(model: str) -> AppTest:
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        app.query_params["model"] = model
        return app.run()

    yield opened
    core_jobs.close()


def words_on(app: AppTest) -> str:
    assert not app.exception
    groups = (app.markdown, app.caption, app.text, app.info, app.error, app.success)
    text = without_terms("\n".join(str(element.value) for group in groups for element in group)).replace("\\", "")
    assert "Something unexpected" not in text
    return text


def test_the_picker_offers_shipped_models_first_then_the_catalogue_with_sizes(start: Open) -> None:
    app = start("mini-qwen3")
    options = app.selectbox(key="model").options
    assert options[0].startswith("mini-")
    assert options[-len(known_models()) :] == [models.choices()[i] for i in known_models()]
    assert "Qwen/Qwen3-4B (4.0 B, 7.5 GB)" in options
    assert "meta-llama/Llama-3.1-8B-Instruct (8.0 B, 15.0 GB, gated)" in options
    assert "check_model" not in {button.key for button in app.button}, "a shipped model needs no card"


def test_a_hub_model_is_asked_about_only_when_the_button_is_pressed(start: Open, server: Hub) -> None:
    app = start("own/tiny")
    assert server.asked == []
    assert "Nothing is fetched before you press Run" in words_on(app)
    assert app.button(key="run_button").disabled
    app.button(key="check_model").click().run()
    shown = words_on(app)
    for fact in (
        "Ready to be fetched: 4 MB",
        "qwen3, 8 layers, 384 neurons in each",
        "apache-2.0",
        COMMIT,
        "free on disk",
    ):
        assert fact in shown
    assert "needed in float32" in shown
    assert not app.button(key="run_button").disabled
    assert server.fetched == {"config.json"}
    n_asked = len(server.asked)
    app.run()
    assert len(server.asked) == n_asked, "a rerun asks nobody"


def test_a_checked_hub_model_is_fetched_run_and_shown(start: Open, server: Hub) -> None:
    app = start("own/tiny")
    app.button(key="check_model").click().run()
    app.button(key="run_button").click().run()
    (job,) = backend.jobs().list()
    status = backend.jobs().wait(job.job_id, 120)
    assert status.state == "done", status.error
    assert server.sent[WEIGHTS] == len(server.files[WEIGHTS])
    assert "own/tiny" in "\n".join(header.value for header in app.run().header)


def test_a_model_that_was_fetched_before_needs_no_question(start: Open, server: Hub) -> None:
    app = start("own/tiny")
    app.button(key="check_model").click().run()
    app.button(key="run_button").click().run()
    (job,) = backend.jobs().list()
    backend.jobs().wait(job.job_id, 120)
    server.asked.clear()
    again = AppTest.from_file(str(MAIN), default_timeout=60)
    again.query_params["model"] = "own/tiny"
    again.query_params["circuit"] = "language"
    again.run()
    assert "Ready to be loaded" in words_on(again)
    assert not again.button(key="run_button").disabled
    assert server.asked == []


@pytest.mark.parametrize(
    ("what", "said"),
    [("gated", "is gated: accept its licence on"), ("missing", "no public model of that name"), ("large", "of memory")],
)
def test_run_is_closed_with_the_reason_when_a_hub_model_cannot_be_used(
    start: Open, server: Hub, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    server.gated = what == "gated"
    if what == "large":
        monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    app = start("own/other" if what == "missing" else "own/tiny")
    app.button(key="check_model").click().run()
    assert any(said in error.value.replace("\\", "") for error in app.error)
    assert app.button(key="run_button").disabled
    assert not app.exception


def test_without_a_network_the_card_shows_what_the_catalogue_knows(
    start: Open, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    app = start("Qwen/Qwen3-0.6B")
    assert "596 M parameters · 28 layers of 3,072 neurons · 1.1 GB in bfloat16 · apache-2.0" in words_on(app)
    app.button(key="check_model").click().run()
    shown = words_on(app)
    assert "the hub cannot be reached" in shown
    assert "119 languages and dialects" in shown
    assert app.button(key="run_button").disabled


def test_a_folder_is_looked_at_by_itself(start: Open, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "own", "llama")
    app = start(str(folder))
    shown = words_on(app)
    assert "Ready to be loaded" in shown
    assert "llama, 3 layers" in shown
    assert not app.button(key="run_button").disabled
    broken = Path(shutil.copytree(folder, tmp_path / "experts"))
    edit_json(broken / "config.json", model_type="mixtral", num_local_experts=8)
    app = start(str(broken))
    assert "mixture of experts" in words_on(app)
    assert app.button(key="run_button").disabled


def test_the_download_is_shown_on_the_page_and_can_be_stopped_there(start: Open, server: Hub) -> None:
    server.pause = 0.1
    app = start("own/tiny")
    app.button(key="check_model").click().run()
    app.button(key="run_button").click().run()
    until = time.monotonic() + 60
    while not any("Downloading the model" in bar.proto.text for bar in app.get("progress")):
        assert time.monotonic() < until, "the download was not shown"
        app.run()
    assert any(" of 3.6 MB" in bar.proto.text for bar in app.get("progress"))
    app.button(key="cancel_page").click().run()
    (job,) = backend.jobs().list()
    assert backend.jobs().wait(job.job_id, 10).state == "cancelled"
    assert "was cancelled" in words_on(app.run())
