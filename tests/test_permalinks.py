"""Links: everything on screen is in them, they open elsewhere as they were, and say what is missing where it is not."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import playground
from pprobe_core.circuits import editor, own_sets
from pprobe_core.circuits.library import load_circuit, own_folder
from pprobe_core.probing.harvest import harvest, harvested_request, own_pairs
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Run, Store, job_id_of
from tests.app_pages import open_app
from tests.page_words import without_terms
from ui import job_panel, selection, sharing, shell

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


@pytest.fixture
def open_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """The same on another installation: its results file is empty, and it has nobody's own behaviours or prompts."""
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "another.duckdb"))
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv("PPROBE_RECORDED", "0")

    def opened(page: str, **address: str) -> AppTest:
        core_jobs.close()
        st.cache_data.clear()
        return open_app(page, **address)

    yield opened
    playground.close()
    core_jobs.close()


def probed(file: Path, request: ProbeRequest) -> Run:
    """A finished run in a results file, which is closed again."""
    jobs = core_jobs.shared(file)
    status = jobs.wait(jobs.submit(request), 240)
    assert status.state == "done", status.error
    run = jobs.store.run(str(status.run_id))
    core_jobs.close()
    return run


def harvested(file: Path, request: ProbeRequest) -> Run:
    """The same with the tokens that the answers of a first run suggest."""
    first = probed(file, request)
    with Store(file) as store:
        pairs, tokens = store.pairs(first.run_id), store.first_tokens(first.run_id)
    found = harvest(load_circuit(request.circuit), pairs, tokens, own_pairs(first.summary))
    assert found.usable
    return probed(file, harvested_request(first.request, first.run_id, found))


def address_of(run: Run) -> dict[str, str]:
    """What the Share menu's link of a run carries."""
    return {"run": run.run_id, **selection.request_in_words(run.request)}


def computed_here(app: AppTest) -> AppTest:
    """The page after "Compute it here", when the run is done."""
    next(button for button in app.button if button.key == "compute_link").click()
    app.run()
    until = time.monotonic() + 240
    while any(job.state in job_panel.ACTIVE for job in shell.backend.jobs().list()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return app.run()


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
    text = without_terms("\n".join(str(element.value) for group in groups for element in group)).replace("\\", "")
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
    # Without a mouse: by numbers.
    app.slider(key="region_layers").set_value((2, 3)).run()
    app.number_input(key="region_low_shared").set_value(0.0).run()
    app.button(key="take_region").click().run()
    assert "inside the selection" in words_on(app)
    assert app.query_params["region"].startswith("1.5,3.5,0,")
    listed = next(frame for frame in app.dataframe if "ablation_score" in frame.value.columns).value
    assert {name.partition(".")[0] for name in listed["name"]} == {"L2", "L3"}
    assert listed["importance_mean"].min() >= 0
    app.button(key="forget_region").click().run()
    assert "region" not in app.query_params
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
    words = words_on(computed_here(app))
    assert "which is not in this results file" not in words
    assert f"run `{run_id}`" in words


@pytest.mark.parametrize("kind", ["harvested", "without answers", "given tokens"])
def test_a_run_asked_for_in_another_way_is_asked_for_so_elsewhere(
    open_elsewhere: Open, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "theirs.duckdb"
    if kind == "harvested":
        run = harvested(file, ProbeRequest("mini-qwen3", "math", "general", limit=20))
        assert run.request.harvested_from
    elif kind == "without answers":
        run = probed(file, replace(SMALL, generate=False))
    else:
        run = probed(file, replace(SMALL, target=("Sorry",), control=("Sure",)))
    app = open_elsewhere("probe", **address_of(run))
    assert "which is not in this results file" in words_on(app)
    words = words_on(computed_here(app))
    assert "which is not in this results file" not in words
    assert f"run `{run.run_id}`" in words
    assert [job.job_id for job in shell.backend.jobs().list()] == [job_id_of(run.request)]
    assert app.query_params["run"] == run.run_id
    assert app.query_params.get("request") == address_of(run).get("request")


def test_a_run_with_answers_is_not_taken_for_one_without(open_link: Open, tmp_path: Path) -> None:
    asked = ProbeRequest("mini-qwen3", "safety_refusal", generate=False)
    run = probed(tmp_path / "theirs.duckdb", asked)
    app = open_link("probe", **address_of(run))  # here is the recorded run of the same with answers
    assert shell.store().run_of(asked) is not None
    assert "has been computed here as run" not in words_on(app)
    assert [button for button in app.button if button.key == "compute_link"]


def test_the_address_of_the_run_that_is_picked_says_how_it_was_asked_for(open_link: Open, tmp_path: Path) -> None:
    run = probed(tmp_path / "pprobe.duckdb", replace(SMALL, generate=False))
    app = open_link("probe")
    other = app.selectbox(key="run_picker").value
    app.selectbox(key="run_picker").set_value(run.run_id).run()
    assert app.query_params["request"] == '{"generate":false}'
    app.run()
    assert app.query_params["request"] == '{"generate":false}'
    app.selectbox(key="run_picker").set_value(other).run()
    words_on(app)
    assert "request" not in app.query_params


def test_the_version_of_an_own_behaviour_is_in_the_link_and_named_where_it_is_not_here(
    open_elsewhere: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_circuit("code")

    def with_own(title: str) -> str:
        circuit = editor.save(editor.copy_of(base, "mini") | {"title": title, "circuit_id": "mine"})
        pairs = editor.pairs_of(base, "mini")
        few = type(pairs)(pairs.lines[:6], 6, {})
        return own_sets.add_set(circuit, "Six", few, own_sets.Origin("file", "mini")).name

    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "theirs"))
    name = with_own("Mine")
    run = probed(tmp_path / "theirs.duckdb", ProbeRequest("mini-qwen3", "mine", name))
    version = run.request.circuit.partition("@")[2]
    link, file = address_of(run), (own_folder() / "mine.yaml").read_bytes()
    assert link["circuit"] == "mine"
    assert version in link["request"]

    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "another"))
    app = open_elsewhere("probe", **link)
    assert "**Behaviour** mine: it is not here." in words_on(app)
    assert f"**Prompt set** {name}: it is not here." in words_on(app)
    assert not [button for button in app.button if button.key == "compute_link"]

    assert with_own("Mine, changed") == name
    app = open_elsewhere("probe", **link)
    assert f"is here in another version than the link's ({version}), so the run will be another" in words_on(app)
    words = words_on(computed_here(app))
    assert "The same request has been computed here as run" in words
    assert "the version of the behaviour" in words

    (own_folder() / "mine.yaml").write_bytes(file)
    words = words_on(computed_here(open_elsewhere("probe", **link)))
    assert f"run `{run.run_id}`" in words


REQUESTS = {
    "plain": SMALL,
    "harvested": replace(SMALL, target=("Sorry",), control=("Sure", " |\n"), harvested_from="0123456789ab"),
    "without answers": replace(SMALL, generate=False),
    "given": replace(SMALL, target=("a|b", "c\\d"), control=("日本",), thinking="on", coupling="norm_aware"),
    "long": replace(SMALL, target=tuple(f"{i}{'x' * 60}" for i in range(12)), control=("y",)),
    "own": replace(SMALL, circuit="mine@0123456789ab", prompts="mine-0123456789ab", limit=None),
    "large": replace(SMALL, limit=200_000, seed=2**40),
    "zero": replace(SMALL, seed=0),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_comes_back_from_its_address(
    open_elsewhere: Open, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = REQUESTS[kind]
    asked: list[ProbeRequest] = []
    whole = sharing.asked_probe
    monkeypatch.setattr(sharing, "asked_probe", lambda: (asked.append(whole()), asked[-1])[1])
    app = open_elsewhere("probe", run="0123456789ab", **selection.request_in_words(request))
    assert "which is not in this results file" in words_on(app)
    # Of somebody's own prompts and behaviour the pickers show another, and the page says that they are not here.
    assert replace(asked[0], prompts=request.prompts) == request
    app.run()
    assert asked[-1] == asked[0]


def test_every_part_of_a_request_has_its_place_in_an_address() -> None:
    plain = {"model", "prompts", "coupling", "thinking"}  # any value of these is said in plain words
    assert plain | set(selection.WISHES) == {field.name for field in fields(ProbeRequest)}
    assert not plain & set(selection.WISHES)


STRINGS = '"target":["a"],"control":["b"]'


@pytest.mark.parametrize(
    "wrong",
    [
        "1", "[]", "null", "{", "[" * 3000, '{"model":"x"}', '{"evil":1}', '{"generate":0}', '{"generate":"false"}',
        '{"seed":true}', '{"seed":-1}', '{"seed":1.0}', '{"seed":NaN}', '{"limit":0}', '{"limit":1e3}',
        '{"circuit":"mine"}', '{"circuit":"../x@0123456789ab"}', '{"circuit":"mine@0123456789AB"}',
        '{"target":["a"]}', '{"target":"a","control":"b"}', '{"target":[],"control":["b"]}',
        '{"target":["a",1],"control":["b"]}', '{"target":["\\ud800"],"control":["b"]}',
        '{"target":[["a"]],"control":["b"]}',
        json.dumps({"target": ["a" * 101], "control": ["b"]}),
        json.dumps({"target": [str(i) for i in range(51)], "control": ["b"]}),
        '{"harvested_from":"0123456789ab"}', "{" + STRINGS + ',"harvested_from":"<script>"}',
        '{"generate":false}' + " " * 5000,
    ],
)  # fmt: skip
def test_a_request_that_is_amiss_is_dropped_whole(wrong: str) -> None:
    assert selection.probe_wishes(wrong) == {}


def test_requests_of_a_link_that_are_amiss_do_not_stand_in_the_address(open_elsewhere: Open) -> None:
    for wrong in ("[" * 3000, '{"generate":false,"evil":1}'):
        app = open_elsewhere("probe", run="0123456789ab", request=wrong, ask=wrong[:999])
        words_on(app)
        assert not {"request", "ask"} & set(app.query_params)
    assert selection.sweep_wishes("[" * 1000) == {}


def test_a_run_asked_with_more_than_a_link_holds_says_so(
    open_link: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(f"{'x' * 90}{i}" for i in range(50))
    assert selection.request_in_words(replace(SMALL, target=many, control=("y",))) == {}
    tokens = {"target": ("Sorry",), "control": ("Sure",), "harvested_from": "0123456789ab"}
    run = probed(tmp_path / "pprobe.duckdb", replace(SMALL, **tokens))
    monkeypatch.setattr(selection, "MAX_REQUEST_CHARS", 40)
    app = open_link("probe", run=run.run_id)
    link = link_on(app, f"share_{run.run_id}")
    assert "tokens that this run was asked with are too long for a link" in words_on(app)
    assert not {"model", "circuit", "request", "target_strings"} & set(link)
    assert not any("target_strings" in key for key in app.query_params)


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


# -- the other pages --


def test_a_run_to_compare_that_is_not_here_is_named(open_link: Open, swept: tuple[str, str]) -> None:
    app = open_link("runs", run_a=swept[0], run_b="0123456789ab")
    assert "what is not in this results file: run `0123456789ab`" in words_on(app)
    assert app.session_state["run_a"] == swept[0]
    assert app.query_params["run_b"] == "0123456789ab"  # a reload says the same
    app.run()
    assert "run `0123456789ab`" in words_on(app)
    other = next(run_id for run_id in shell.store().runs()["run_id"] if run_id not in app.session_state["run_b"])
    app.selectbox(key="run_b").set_value(other).run()
    assert "0123456789ab" not in words_on(app)
    assert app.query_params.get("run_b") in (None, other)


def test_runs_to_compare_are_named_where_there_are_none_at_all(open_elsewhere: Open) -> None:
    app = open_elsewhere("runs", run_a="0123456789ab", run_b="ba9876543210")
    assert "run `0123456789ab` and `ba9876543210`" in words_on(app)
    assert {"run_a", "run_b"} <= set(app.query_params)


def test_the_filters_of_the_history_are_in_the_address(open_link: Open) -> None:
    app = open_link("runs")
    n_all = len(shell.store().runs())
    app.multiselect(key="filter_circuit").set_value(["language", "code"]).run()
    address = {key: app.query_params[key] for key in app.query_params}
    assert address == {"filter_circuit": "language,code"}
    shown = next(caption.value for caption in app.caption if f"of {n_all} runs" in caption.value)
    assert not shown.startswith(f"{n_all} of")
    app = open_link("runs", **address, filter_model="mini-qwen3,no/such model <b>")
    assert list(app.multiselect(key="filter_circuit").value) == ["language", "code"]
    assert list(app.multiselect(key="filter_model").value) == ["mini-qwen3"]
    assert "The filter names what no run of this results file has: model mini-qwen3,no/such model" in words_on(app)
    app.multiselect(key="filter_model").set_value([]).run()
    assert "The filter names" not in words_on(app)
    assert "filter_model" not in app.query_params


def test_a_behaviour_and_prompts_that_are_not_here_are_named_on_start(open_elsewhere: Open) -> None:
    link = {"circuit": "somebody_elses", "prompts": "their-words-0123456789ab", "coupling": "norm_aware"}
    app = open_elsewhere("start", **link)
    words = words_on(app)
    assert "the behaviour **somebody_elses**, which is not on this computer. Ask for its YAML file" in words
    assert "the prompt set **their-words-0123456789ab**, which is not on this computer" in words
    assert app.session_state["circuit"] == "safety_refusal"
    assert app.session_state["coupling"] == "norm_aware"
    assert dict(app.query_params) == link  # a reload says the same
    next(button for button in app.button if button.key == "without_prompts").click().run()
    words = words_on(app)
    assert "their-words" not in words
    assert "somebody_elses" in words
    base = load_circuit("code")
    editor.save(editor.copy_of(base, "mini") | {"title": "Theirs", "circuit_id": "somebody_elses"})
    app.run()  # it has been imported since
    assert "which is not on this computer" not in words_on(app)
    assert app.session_state["circuit"] == "somebody_elses"
    app = open_elsewhere("start", circuit="unknown_one")
    assert "unknown_one" in words_on(app)
    app.selectbox(key="circuit").set_value("math").run()
    assert "unknown_one" not in words_on(app)
    assert app.query_params["circuit"] == "math"


def test_a_model_that_is_not_here_has_its_card_on_start(open_elsewhere: Open) -> None:
    app = open_elsewhere("start", model="somebody/their-model")
    assert "somebody/their-model" in words_on(app)
    assert app.button(key="run_button").disabled


@pytest.mark.parametrize("n", [1500, 2500])
def test_a_long_text_is_in_the_link_or_the_menu_says_that_it_is_not(
    open_link: Open, swept: tuple[str, str], n: int
) -> None:
    app = open_link("playground", run=swept[0])
    app.selectbox(key="play_pair").set_value("own").run()
    text = ("Tell me. " * n)[:n]
    app.text_area(key="play_text").set_value(text).run()
    link = link_on(app, f"share_{swept[0]}")
    lost = f"has {n:,} characters. A link holds 2,000, so it is not in this one" in words_on(app)
    assert lost == (n > 2000)
    assert (link.get("play_text") == text) == (n <= 2000)


def test_which_random_change_is_shown_is_in_the_address(open_link: Open, swept: tuple[str, str]) -> None:
    app = open_link("playground", run=swept[0], play_draw="3")
    assert app.session_state["play_draw"] == 3
    assert link_on(app, f"share_{swept[0]}")["play_draw"] == "3"
    assert "play_draw" not in open_link("playground", run=swept[0], play_draw="5").query_params


def test_what_is_looked_at_on_the_other_pages_is_in_the_address(open_elsewhere: Open) -> None:
    app = open_elsewhere("circuits")
    assert "circuit_looked_at" not in app.query_params
    app.selectbox(key="circuit_looked_at").set_value("math").run()
    assert app.query_params["circuit_looked_at"] == "math"
    assert open_elsewhere("circuits", circuit_looked_at="code").selectbox(key="circuit_looked_at").value == "code"
    app = open_elsewhere("circuits", circuit_looked_at="somebody_elses")
    assert "“somebody_elses” is not on this computer" in words_on(app)
    assert app.query_params["circuit_looked_at"] == "somebody_elses"
    app.selectbox(key="circuit_looked_at").set_value("math").run()
    assert "is not on this computer" not in words_on(app)
    app = open_elsewhere("glossary")
    app.text_input(key="glossary_search").set_value("kappa").run()
    assert app.query_params["glossary_search"] == "kappa"
    app = open_elsewhere("glossary", glossary_search="kappa")
    assert app.text_input(key="glossary_search").value == "kappa"


def test_the_prompt_set_that_is_looked_at_is_in_the_address(open_elsewhere: Open) -> None:
    base = load_circuit("code")
    pairs = editor.pairs_of(base, "mini")
    names: Sequence[str] = [
        own_sets.add_set(base, title, type(pairs)(pairs.lines[:n], n, {}), own_sets.Origin("file", "mini")).name
        for title, n in (("Five", 5), ("Six", 6))
    ]
    for name in names:
        app = open_elsewhere("prompts", set_looked_at=name)
        assert own_sets.find_set(name).sha256 in words_on(app)
        assert app.query_params["set_looked_at"] == name
    app = open_elsewhere("prompts")
    assert "SHA-256 of the pairs" not in words_on(app)
    assert "set_looked_at" not in app.query_params
    app = open_elsewhere("prompts", set_looked_at="their-words-0123456789ab")
    assert "The prompt set their-words-0123456789ab is not on this computer" in words_on(app)
