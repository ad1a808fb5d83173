"""Links: everything on screen is in them, they open elsewhere as they were, and say what is missing where it is not."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store
from tests.app_pages import open_app
from ui import job_panel, selection, shell

ROOT = Path(__file__).resolve().parent.parent
SMALL = ProbeRequest("mini-qwen3", "safety_refusal", limit=3, seed=5)

Open = Callable[..., AppTest]


@pytest.fixture
def open_link(recorded_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A fresh browser that opens an address: `open_link("dose", run=..., dose="20")`."""
    path = tmp_path / "pprobe.duckdb"
    shutil.copy(recorded_file, path)
    monkeypatch.setenv("PPROBE_DB", str(path))

    def opened(page: str, **address: str) -> AppTest:
        st.cache_data.clear()
        return open_app(page, **address)

    yield opened
    core_jobs.close()


@pytest.fixture(scope="module")
def swept(recorded_file: Path) -> tuple[str, str]:
    """A recorded run with a dose sweep of twelve points or so, and that sweep."""
    with Store(recorded_file, reading=True) as store:
        runs = store.runs()
        for run_id in runs[(runs["circuit"] == "safety_refusal") & (runs["n_sweeps"] > 0)]["run_id"]:
            sweeps = store.sweeps(str(run_id))
            of_kind = sweeps[sweeps["kind"] == "dose"]
            if len(of_kind):
                return str(run_id), str(of_kind.iloc[0]["sweep_id"])
    raise AssertionError("no recorded dose sweep of the refusal circuit")


def words_on(app: AppTest) -> str:
    assert not app.exception
    groups = (app.title, app.header, app.subheader, app.markdown, app.caption, app.text, app.info, app.error)
    text = "\n".join(str(element.value) for group in groups for element in group).replace("\\", "")
    assert "Something unexpected" not in text
    return text


def link_on(app: AppTest, key: str) -> dict[str, str]:
    """The address that the Share menu shows, as page and choices."""
    app.session_state[key] = True  # the menu is open
    app.run()
    (address,) = [code.value for code in app.code if code.value.startswith(("/", "http"))]
    found = urlsplit(address)
    return {"page": found.path.strip("/"), **{key: values[0] for key, values in parse_qs(found.query).items()}}


def test_a_link_opens_elsewhere_as_it_was(open_link: Open, swept: tuple[str, str]) -> None:
    run_id, sweep_id = swept
    app = open_link("dose", run=run_id, sweep=sweep_id)
    steps = app.select_slider(key="dose").options
    app.select_slider(key="dose").set_value(float(steps[1]))
    app.run()
    app.selectbox(key="outcome").select("switched")
    app.run()
    link = link_on(app, f"share_{sweep_id}")
    assert link.pop("page") == "dose"
    assert link["dose"] == steps[1]
    assert link["outcome"] == "switched"
    assert {"run", "sweep", "model", "circuit", "prompts", "coupling", "ask", "pair"} <= set(link)
    again = open_link("dose", **link)
    for key in ("dose", "outcome", "pair"):
        assert selection.as_text(again.session_state[key]) == link[key]
    assert again.session_state["sweep"] == sweep_id


def test_a_region_of_the_map_and_ticked_neurons_are_in_the_link(open_link: Open, swept: tuple[str, str]) -> None:
    with_region = {"run": swept[0], "region": "-0.5,7.5,0.01,50", "top_k": "20"}
    app = open_link("probe", **with_region)
    assert "inside the selection" in words_on(app)
    table = next(frame for frame in app.dataframe if "ablation_score" in frame.value.columns)
    assert (table.value["importance_mean"] > 0).all()
    names = list(table.value["name"][:2])
    app = open_link("probe", **with_region, ticked=",".join(names))
    words_on(app)
    assert not app.button(key="switch_off").disabled
    assert app.query_params["ticked"] == ",".join(names)
    link = link_on(app, f"share_{swept[0]}")
    assert (link["region"], link["ticked"]) == (with_region["region"], ",".join(names))
    app.button(key="forget_region").click().run()
    assert "inside the selection" not in words_on(app)
    assert not {"region", "ticked"} & set(app.query_params)
    for wrong in ({"region": "1,2,x,4"}, {"region": "2,1,0,1"}, {"ticked": "L0.N1<script>"}, {"ticked": "L99.N9"}):
        assert not set(wrong) & set(open_link("probe", run=swept[0], **wrong).query_params)


def test_the_address_leaves_out_what_a_page_shows_anyway(open_link: Open, swept: tuple[str, str]) -> None:
    app = open_link("dose", run=swept[0])
    assert "dose" not in app.query_params
    app.select_slider(key="dose").set_value(float(app.select_slider(key="dose").options[0]))
    app.run()
    assert app.query_params["dose"] == app.select_slider(key="dose").options[0]
    app.switch_page("../pages/probe.py").run()
    assert "dose" not in app.query_params  # it says nothing there


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("dose", {"dose": "12345", "outcome": "nonsense", "pair": "<script>", "ask": '{"evil":1}'}),
        ("dose", {"dose": "nan", "sweep": "zzz", "limit": "-3", "seed": "9" * 30, "outcome": "x" * 5000}),
        ("window", {"window_layer": "-1", "window_strength": "1e99", "window_split": "..", "window_value": "x" * 99}),
        ("probe", {"top_k": "7", "ranking": "worst", "pair": "🙂" * 100, "circuit": "../etc", "prompts": "/etc/x"}),
        ("compare", {"view": "x", "compare_sweeps": "all", "compare_limit": "0", "models": ",", "shown_circuit": "?"}),
        ("runs", {"run_a": "'; drop table runs; --", "run_b": "0123456789ab", "overlay": "all"}),
    ],
)  # fmt: skip
def test_values_an_address_gets_wrong_are_dropped(open_link: Open, page: str, wrong: dict[str, str]) -> None:
    app = open_link(page, **wrong)
    words_on(app)
    assert not set(app.query_params) & (set(wrong) - {"run_b", "models"})


def test_a_comparison_is_in_its_link(open_link: Open) -> None:
    address = {
        "models": "mini-qwen3,mini-llama", "circuits": "safety_refusal,language", "view": "layers",
        "shown_circuit": "language", "compare_quantity": "ffn", "compare_scaled": "1",
    }  # fmt: skip
    app = open_link("compare", **address)
    words_on(app)
    assert dict(app.query_params) == address
    for key, value in address.items():
        assert selection.as_text(app.session_state[key]) == value


def test_a_comparison_from_elsewhere_says_which_behaviours_and_prompts_are_not_here(open_link: Open) -> None:
    link = {"circuits": "code,somebody_elses", "compare_own": "their-words-0123456789ab", "compare_bases": "0"}
    app = open_link("compare", **link)
    said = "not on this computer, or has no prompts yet: somebody_elses, their-words-0123456789ab"
    assert said in words_on(app)
    assert list(app.multiselect(key="compare_circuits").value) == ["code"]
    assert app.query_params["circuits"] == link["circuits"]  # the link still says what it said
    app.run()
    assert said in words_on(app)
    app.multiselect(key="compare_circuits").set_value(["code", "math"]).run()
    assert "not on this computer" not in words_on(app)
    assert app.query_params["circuits"] == "code,math"
    for wrong in ("../etc", "code,<script>", ",", "x" * 3000):
        assert "circuits" not in open_link("compare", circuits=wrong).query_params


def test_a_step_back_undoes_a_choice(open_link: Open, swept: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LATE_SECONDS", 0.0)
    app = open_link("dose", run=swept[0])
    start = app.session_state["dose"]
    first = float(app.select_slider(key="dose").options[0])
    app.select_slider(key="dose").set_value(first)
    app.run()
    del app.query_params["dose"]
    app.run()
    assert app.session_state["dose"] == start
    app.query_params["dose"] = selection.as_text(first)  # and forward again
    app.run()
    assert app.session_state["dose"] == first


def test_an_address_that_the_browser_still_holds_does_not_undo_a_choice(
    open_link: Open, swept: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "LATE_SECONDS", 300.0)
    app = open_link("dose", run=swept[0])
    steps = app.select_slider(key="dose").options
    app.select_slider(key="dose").set_value(float(steps[0]))
    app.run()
    app.select_slider(key="dose").set_value(float(steps[1]))
    del app.query_params["dose"]  # moved on before the first move's address arrived
    app.run()
    assert app.session_state["dose"] == float(steps[1])
    assert app.query_params["dose"] == steps[1]
    monkeypatch.setattr(selection, "HEARD_SECONDS", 0.0)
    app.run()  # it has heard of it now, so the same address is a step back
    del app.query_params["dose"]
    app.run()
    assert app.session_state["dose"] == float(steps[-1])


# -- on an installation that does not have it --


def test_a_link_without_its_request_says_what_to_ask_for(open_link: Open) -> None:
    words = words_on(open_link("probe", run="0123456789ab"))
    assert "run `0123456789ab`, which is not in this results file" in words
    assert "A link from the **Share** menu does" in words


def test_what_is_missing_is_named(open_link: Open) -> None:
    link = {"run": "0123456789ab", "model": "no such/model here", "circuit": "my_own", "prompts": "mine-0123456789ab"}
    app = open_link("dose", **link)
    words = words_on(app)
    for name, value in (("Model", "no such/model here"), ("Behaviour", "my_own"), ("Prompt set", "mine-0123456789ab")):
        assert f"**{name}** {value}: " in words
    assert not [button for button in app.button if button.key == "compute_link"]
    assert {key: app.query_params[key] for key in link} == link  # a reload says the same
    next(button for button in app.button if button.key == "forget_link").click()
    assert "which is not in this results file" not in words_on(app.run())


def test_the_run_of_a_link_is_computed_here_and_is_the_same(open_link: Open, tmp_path: Path) -> None:
    jobs = core_jobs.shared(tmp_path / "elsewhere.duckdb")
    run_id = str(jobs.wait(jobs.submit(SMALL), 120).run_id)
    core_jobs.close()
    link = {"run": run_id, "model": SMALL.model, "circuit": SMALL.circuit, "prompts": "mini", "limit": "3", "seed": "5"}
    app = open_link("probe", **link)
    assert "which is not in this results file" in words_on(app)
    next(button for button in app.button if button.key == "compute_link").click()
    app.run()
    until = time.monotonic() + 120
    while any(job.state in job_panel.ACTIVE for job in shell.backend.jobs().list()):
        assert time.monotonic() < until
        time.sleep(0.1)
    words = words_on(app.run())
    assert "which is not in this results file" not in words
    assert f"run `{run_id}`" in words


def test_a_sweep_that_is_not_here_is_offered(open_link: Open, swept: tuple[str, str]) -> None:
    run_id, _ = swept
    ask = '{"kind":"dose","doses":[1,3],"responses":false}'
    app = open_link("dose", run=run_id, sweep="0123456789ab", ask=ask)
    assert "sweep `0123456789ab` of this run, which is not here. Another sweep of the run is shown" in words_on(app)
    assert [button for button in app.button if button.key == "compute_sweep"]
    for wrong in ('{"kind":"nonsense"}', '{"kind":"dose","doses":"x"}'):
        app = open_link("dose", run=run_id, sweep="0123456789ab", ask=wrong)
        assert "which is not here" in words_on(app)
        assert not [button for button in app.button if button.key == "compute_sweep"]
