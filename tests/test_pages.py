"""Pages in every state: no run, running, finished, failed, and a results file that cannot be used; all runs real."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import sweep_report
from pprobe_core.circuits.library import load_circuits
from pprobe_core.cli.parser import build_parser
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import default_request
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store
from pprobe_core.wording import with_minus
from tests.app_pages import MAIN, amiss_at_tables, open_app
from tests.page_words import without_terms
from ui import backend, shell, sweeps, tables, words

ROOT = Path(__file__).resolve().parent.parent
SWEEP_PAGES = ("dose", "window", "controls")
PAGES = ("probe", *SWEEP_PAGES, "runs", "glossary", "start")
SAFETY = ProbeRequest(model="mini-qwen3", circuit="safety_refusal")
LANGUAGE = ProbeRequest(model="mini-qwen3", circuit="language", limit=12)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with two runs of the shipped model."""
    path = tmp_path_factory.mktemp("finished") / "runs.duckdb"
    jobs = core_jobs.shared(path)
    for request in (LANGUAGE, SAFETY):
        status = jobs.wait(jobs.submit(request), 120)
        assert status.state == "done", status.error
    core_jobs.close()
    return path


Open = Callable[..., AppTest]


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Opens a page on a results file of its own: `open_page("probe", copy_of=file, circuit="language")`."""

    def opened(page: str, copy_of: Path | None = None, **address: str) -> AppTest:
        path = tmp_path / "pprobe.duckdb"
        if copy_of is not None and not path.exists():
            shutil.copy(copy_of, path)
        monkeypatch.setenv("PPROBE_DB", str(path))
        st.cache_data.clear()
        st.cache_resource.clear()
        return open_app(page, **address)

    yield opened
    core_jobs.close()


def words_on(app: AppTest) -> str:
    """Everything a reader sees as text."""
    parts = [
        app.title,
        app.header,
        app.subheader,
        app.markdown,
        app.caption,
        app.text,
        app.info,
        app.error,
        app.warning,
    ]
    return without_terms("\n".join(str(element.value) for group in parts for element in group)).replace("\\", "")


def calm(app: AppTest) -> AppTest:
    """The page ended without an exception, and without the net for unforeseen ones; its tables lack nothing."""
    assert not app.exception
    assert "Something unexpected" not in words_on(app)
    assert not amiss_at_tables(app)
    return app


def charts_on(app: AppTest) -> int:
    return len(app.get("arrow_vega_lite_chart")) or len(app.get("vega_lite_chart"))


# -- no run yet --


@pytest.mark.parametrize("page", ["start", "probe", "runs", *SWEEP_PAGES])
def test_without_a_run_every_page_says_what_to_do(open_page: Open, page: str) -> None:
    app = calm(open_page(page))
    assert "press **run**" in words_on(app).lower()
    assert charts_on(app) == 0


def test_an_empty_results_file_without_recorded_results_gets_a_real_first_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PPROBE_RECORDED", "0")
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "new.duckdb"))
    backend.open_dashboard()
    (job,) = backend.jobs().list()
    assert (job.request.model, job.request.circuit) == ("mini-qwen3", "safety_refusal")
    assert backend.jobs().wait(job.job_id, 120).state == "done"
    assert len(backend.jobs().store.runs()) == 1
    backend.close_dashboard()
    backend.open_dashboard()  # a second start finds the run and asks for nothing
    assert len(backend.jobs().list()) == 1
    backend.close_dashboard()


# -- a finished run --


def test_start_shows_the_finished_run_of_the_choice(open_page: Open, finished: Path) -> None:
    app = calm(open_page("start", finished))
    shown = words_on(app)
    assert "Safety refusal in mini-qwen3" in shown
    assert charts_on(app) == 2
    labels = [metric.label for metric in app.metric]
    assert labels == ["FFN/Skip, last layer", "Pairs that flip", "Coverage", "Change in logits", "Answers that agree"]
    assert re.search(r"\[[−\d., ]+\] · n = \d+ prompts", shown)  # interval and n stand beside the number
    assert "causal" in shown  # the ladder shows what has not been reached, too


def test_the_token_preview_stands_before_any_ranking(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished))
    assert [header.value for header in app.header] == [
        "Can these prompts tell something?",
        "Where in the network",
        "Which neurons",
        "Do the neurons explain the change?",
        "Does normalisation hide or inflate this circuit?",
        "Pair by pair",
    ]
    preview = next(frame.value for frame in app.dataframe if "string" in frame.value.columns)
    store = Store(finished)
    stored = store.token_preview(str(store.runs().iloc[0]["run_id"]))
    store.close()
    assert len(preview) == len(stored)
    assert set(preview["side"]) == {"target", "control"}


def test_probe_shows_verdict_charts_tables_and_provenance(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished))
    shown = words_on(app)
    assert charts_on(app) == 9
    run = shell.store().run(app.session_state["run"] or str(shell.store().runs().iloc[0]["run_id"]))
    for reason in run.summary["verdict"]["reasons"]:
        assert with_minus(reason) in shown.replace("\\", "")
    assert words.STRUCTURES[run.summary["verdict"]["structure"]] in shown
    neurons = next(frame.value for frame in app.dataframe if "importance_rms" in frame.value.columns)
    top = shell.store().top_neurons(run.run_id, "shared", 50)
    assert [f"L{r.layer}.N{r.neuron}" for r in top.itertuples()] == list(neurons["name"])
    facts = next(frame.value["Value"] for frame in app.dataframe if "Value" in frame.value.columns)
    assert run.summary["weights_sha256"] in list(facts)
    assert facts["Largest error of the exact parts (logits)"] == str(run.summary["decomposition_error"])
    app.session_state["provenance_of"] = False
    app.run()
    assert not [frame for frame in app.dataframe if "Value" in frame.value.columns]  # made when somebody opens it


def test_the_command_shown_with_a_run_asks_for_the_same_run() -> None:
    request = ProbeRequest("my models/a", "code", "my pairs.csv", "norm_aware", limit=8, seed=5, generate=False)
    words_of_command = shlex.split(tables.command_line(request))
    assert words_of_command[:3] == ["python", "-m", "pprobe_core"]
    given = build_parser().parse_args(words_of_command[3:])
    asked = (given.model, given.circuit, given.prompts, given.coupling, given.limit, given.seed, not given.no_generate)
    assert asked == (request.model, request.circuit, request.prompts, request.coupling, 8, 5, request.generate)
    assert "--seed" not in tables.command_line(ProbeRequest("mini-qwen3", "code", "mini"))


@pytest.mark.parametrize("ranking", ["magnitude", "ablation"])
def test_a_ranking_orders_the_table_and_says_its_question(open_page: Open, finished: Path, ranking: str) -> None:
    app = calm(open_page("probe", finished, ranking=ranking))
    assert words.RANKING_QUESTION[ranking] in words_on(app)
    neurons = next(frame.value for frame in app.dataframe if "importance_rms" in frame.value.columns)
    top = shell.store().top_neurons(str(shell.store().runs().iloc[0]["run_id"]), ranking, 50)  # type: ignore[arg-type]
    assert [f"L{r.layer}.N{r.neuron}" for r in top.itertuples()] == list(neurons["name"])


def test_the_changed_pieces_of_a_pair_are_marked(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished))
    bodies = [element.proto.body for element in app.get("html")]
    chips = [body for body in bodies if body.startswith("<div")]  # the others are the page's style
    assert len(chips) == 2
    assert all("#C45FB5" in body for body in chips)


def one_answer(circuit_id: str, response_class: str) -> None:
    """A page of one generated answer."""
    from pprobe_core.circuits.library import load_circuit
    from ui import cards

    cards.response(load_circuit(circuit_id), "Here is how to do it.", response_class, "Answer")


def test_compliant_answers_of_the_safety_circuit_are_folded() -> None:
    for name in (c.name for c in load_circuits()["safety_refusal"].response_classes):
        app = AppTest.from_function(one_answer, kwargs={"circuit_id": "safety_refusal", "response_class": name}).run()
        folded = [box for box in app.expander if box.label == "Show the compliant answer"]
        assert len(folded) == (name in ("compliance", "disclaimer"))
        assert not any(box.proto.expanded for box in folded)
        assert [text.value for text in app.text] == ["Here is how to do it."]


def test_answers_of_other_circuits_are_shown_as_they_are() -> None:
    name = load_circuits()["sycophancy"].response_classes[0].name
    app = AppTest.from_function(one_answer, kwargs={"circuit_id": "sycophancy", "response_class": name}).run()
    assert not app.expander
    assert [text.value for text in app.text] == ["Here is how to do it."]


def test_compare_lays_two_runs_side_by_side(open_page: Open, finished: Path) -> None:
    app = calm(open_page("runs", finished))
    table = next(frame for frame in app.dataframe if list(frame.value.columns) == ["A", "B"])
    assert set(table.value.loc["Behaviour"]) == {"Safety refusal", "Output language"}
    assert set(table.value.loc["Coupling"]) == {words.COUPLINGS["plain"]}
    assert charts_on(app) == 1
    app.segmented_control(key="overlay").set_value("ffn_skip").run()
    assert "FFN/Skip ratio: the two prompts differ most at" in words_on(calm(app))


def test_compare_says_how_many_top_neurons_two_runs_share(open_page: Open, finished: Path) -> None:
    app = calm(open_page("runs", finished))
    a, b = (str(run_id) for run_id in shell.store().runs()["run_id"])
    first = [
        {(r.layer, r.neuron) for r in shell.store().top_neurons(run_id, "shared", 50).itertuples()} for run_id in (a, b)
    ]
    assert f"{len(first[0] & first[1])} of the first 50 neurons" in words_on(app)


def test_the_run_picker_changes_the_run_and_the_address(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished))
    other = str(shell.store().runs().set_index("circuit").loc["language", "run_id"])
    app.selectbox(key="run_picker").set_value(other).run()
    assert "Output language in mini-qwen3" in words_on(calm(app))
    assert app.query_params["run"] in (other, [other])


def test_the_filter_keeps_matching_runs(open_page: Open, finished: Path) -> None:
    app = calm(open_page("runs", finished))
    app.multiselect(key="filter_circuit").set_value(["language"]).run()
    assert "1 of 2 runs" in words_on(calm(app))
    history = next(frame.value for frame in app.dataframe if "run_id" in frame.value.columns)
    assert len(history) == 1


def test_a_deleted_run_is_gone_and_no_longer_shown(open_page: Open, finished: Path) -> None:
    app = open_page("runs", finished)
    gone = str(shell.store().runs().iloc[0]["run_id"])
    shell.store().delete_run(gone)
    assert "Two finished runs are needed" in words_on(calm(app.run()))
    again = calm(open_page("probe", run=gone))
    assert f"run `{gone}`, which is not in this results file" in words_on(again)


# -- the address --


def test_a_permalink_sets_the_choices_and_drops_what_is_wrong(open_page: Open, finished: Path) -> None:
    app = calm(open_page("start", finished, circuit="sycophancy", coupling="norm_aware", prompts="nonsense", other="x"))
    assert app.session_state["circuit"] == "sycophancy"
    assert app.session_state["coupling"] == "norm_aware"
    assert app.session_state["prompts"] == "mini"
    assert "has not been run yet" in words_on(app)
    assert set(app.query_params) == {"circuit", "coupling"}


def test_a_link_to_a_run_opens_that_run(open_page: Open, finished: Path) -> None:
    open_page("probe", finished)
    runs = shell.store().runs().set_index("circuit")
    core_jobs.close()
    app = calm(open_page("probe", run=str(runs.loc["language", "run_id"])))
    assert "Output language in mini-qwen3" in words_on(app)


def test_a_link_to_a_run_that_is_not_there_says_so(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished, run="0123456789ab"))
    assert "run `0123456789ab`, which is not in this results file" in words_on(app)


def test_choosing_something_else_lets_go_of_the_linked_run(open_page: Open, finished: Path) -> None:
    app = open_page("start", finished, run="0123456789ab")
    app.selectbox(key="circuit").set_value("math").run()
    assert calm(app).session_state["run"] == ""


# -- running, failing, stopping --


def wait_for(app: AppTest, done: Callable[[], bool], seconds: float = 60) -> AppTest:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "the worker did not come to an end"
        time.sleep(0.1)
    return app.run()


def test_run_computes_and_shows_the_result(open_page: Open) -> None:
    app = open_page("start")
    app.number_input(key="limit").set_value(6).run()
    app.button(key="run_button").click().run()
    wait_for(app, lambda: not backend.jobs().busy)
    assert "6 of 6" in words_on(calm(app)) or "of 6 pairs change sides" in words_on(app)
    assert len(backend.jobs().store.runs()) == 1


@pytest.fixture
def held_model() -> Iterator[None]:
    """The shipped model is in someone else's hands, so that a job has to wait for it."""
    pool = core_jobs._shared_pool()
    with pool.lease("mini-qwen3"):
        yield


def test_a_job_under_way_shows_progress_and_can_be_cancelled(held_model: None, open_page: Open) -> None:
    app = open_page("start")
    app.button(key="run_button").click().run()
    backend.jobs().submit(LANGUAGE)
    until = time.monotonic() + 20
    while not any(job.state == "running" for job in backend.jobs().list()) and time.monotonic() < until:
        time.sleep(0.05)
    shown = words_on(calm(app.run()))
    assert "1 more waiting" in shown
    assert app.button(key="run_button").disabled
    assert [bar.proto.value for bar in app.get("progress")] == [
        0,
        0,
    ]  # the page's and the sidebar's: nothing is invented
    assert "Loading the model" in app.get("progress")[0].proto.text
    app.button(key="cancel_page").click().run()
    wait_for(app, lambda: not any(j.state == "running" and j.request == SAFETY for j in backend.jobs().list()))
    assert "was cancelled" in words_on(calm(app))


def test_a_job_that_fails_shows_its_stored_sentence(open_page: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken-model"
    shutil.copytree(find_model("mini-qwen3").path, broken)
    config = broken / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size"', '"intermediate_size_of_another_model"'))
    app = open_page("start", model=str(broken))
    app.button(key="run_button").click().run()
    wait_for(app, lambda: not backend.jobs().busy)
    (job,) = backend.jobs().list()
    assert job.state == "failed"
    assert any(shell.escaped(str(job.error)) in error.value for error in calm(app).error)
    assert "has not been run yet" not in words_on(app)


def test_a_request_that_cannot_be_met_is_refused_in_words(open_page: Open) -> None:
    app = open_page("start", model="no such model")
    assert app.button(key="run_button").disabled
    assert any("There is no model or folder" in error.value for error in calm(app).error)
    assert not backend.jobs().list()


# -- a results file that cannot be used --


def damaged(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)


def newer(path: Path) -> None:
    Store(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("insert into schema_version values (999, now())")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("spoil", "said"), [(damaged, "not a results file"), (newer, "newer pprobe")])
def test_a_results_file_that_cannot_be_used_gives_a_calm_page(
    open_page: Open, tmp_path: Path, page: str, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(tmp_path / "pprobe.duckdb")
    before = (tmp_path / "pprobe.duckdb").read_bytes()
    app = calm(open_page(page))
    shown = words_on(app)
    assert "The results file cannot be used" in shown
    assert said in shown
    assert (tmp_path / "pprobe.duckdb").read_bytes() == before


def test_a_results_file_in_use_elsewhere_names_the_other_process(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "pprobe.duckdb"
    code = f"from pprobe_core.store import Store; s = Store({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        shown = words_on(calm(open_page("start")))
        other.communicate("\n")
    assert f"in use by process {other.pid}" in shown


def test_runs_kept_in_memory_are_announced(open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Store:
        if str(path) == ":memory:":
            return Store(path)
        raise core_jobs.NotWritable(f"The results file {path} cannot be written.")

    monkeypatch.setattr(core_jobs, "Store", refuse)  # as the root user every folder can be written
    app = calm(open_page("start"))
    assert any("kept in memory" in warning.value for warning in app.warning)
    assert not (tmp_path / "pprobe.duckdb").exists()


# -- words, help, imports --


@pytest.mark.parametrize("page", ["start", "probe", "runs", *SWEEP_PAGES])
def test_every_control_has_a_line_of_help(open_page: Open, finished: Path, swept: Path, page: str) -> None:
    app = open_page(page, swept if page in SWEEP_PAGES else finished)
    groups = (
        app.text_input,
        app.checkbox,
        app.selectbox,
        app.multiselect,
        app.number_input,
        app.segmented_control,
        app.select_slider,
        app.button,
    )
    without = [control.label for group in groups for control in group if not control.proto.help]
    assert without == []


def test_every_circuit_can_be_chosen(open_page: Open) -> None:
    app = open_page("start")
    for circuit in load_circuits().values():
        app.selectbox(key="circuit").set_value(circuit.circuit_id).run()
        assert circuit.question in words_on(calm(app))


@pytest.mark.parametrize(("pages", "runs"), [(("probe", "runs", "start"), "finished"), (SWEEP_PAGES, "swept")])
def test_result_pages_do_not_load_torch(
    request: pytest.FixtureRequest, tmp_path: Path, pages: tuple[str, ...], runs: str
) -> None:
    shutil.copy(request.getfixturevalue(runs), tmp_path / "runs.duckdb")
    code = (
        "import sys\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(MAIN)!r}, default_timeout=60)\n"
        f"for page in {pages}:\n"
        "    app.switch_page(f'../pages/{page}.py').run()\n"
        "    assert not app.exception and app.dataframe, page\n"
        "print('torch' in sys.modules)\n"
    )
    environment = os.environ | {"PPROBE_DB": str(tmp_path / "runs.duckdb")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr[-2000:]


def test_pages_hold_widgets_only() -> None:
    for file in [*(ROOT / "pages").glob("*.py"), *(ROOT / "ui").glob("*.py")]:
        text = file.read_text()
        assert not re.search(r"^\s*(import|from) (duckdb|numpy|torch|scipy)", text, re.MULTILINE), file.name
        assert not re.search(r"\bselect\b.+\bfrom\b", text, re.IGNORECASE), file.name


# -- the pages of interventions --

DOSE = {"doses": (1, 5), "draws": 2, "responses": True, "max_new_tokens": 12}
SWEEPS: dict[str, dict[str, object]] = {
    "dose": DOSE,
    "window": {"layers": (2, 4), "strengths": (0.5, 2.0), "draws": 2, "responses": True, "max_new_tokens": 6},
    "strength": {"layers": (3,), "strengths": (1.0,), "draws": 2},
    "patch": {"doses": (5,), "draws": 2},
    "factor": {"doses": (5,), "factors": (0.0, 2.0), "draws": 2},
    "layers": {},
    "heads": {"doses": (1, 3), "draws": 2},
    "held": {},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with a small run and one small sweep of every kind."""
    path = tmp_path_factory.mktemp("swept") / "runs.duckdb"
    jobs = core_jobs.shared(path)
    request = replace(SAFETY, limit=10)
    run_id = str(jobs.wait(jobs.submit(request), 120).run_id)
    for kind, options in SWEEPS.items():
        asked = default_request(load_circuits()["safety_refusal"], run_id, kind, **options)  # type: ignore[arg-type]
        status = jobs.wait(jobs.submit(asked), 240)
        assert status.state == "done", status.error
    core_jobs.close()
    return path


def sweep_of(kind: str) -> str:
    """Id of the sweep of a kind in the open results file."""
    known = shell.store().sweeps()
    return str(known[known["kind"] == kind]["sweep_id"].iloc[0])


@pytest.mark.parametrize(
    ("page", "said"),
    [("dose", "Press **Run sweep**"), ("window", "Press **Run sweep**"), ("controls", "Press **Run what is missing**")],
)
def test_a_run_without_sweeps_says_what_to_press(open_page: Open, finished: Path, page: str, said: str) -> None:
    app = calm(open_page(page, finished))
    assert said in words_on(app)
    assert charts_on(app) == 0


@pytest.mark.parametrize(
    ("page", "kind", "n_charts"),
    [
        ("dose", "dose", 4),
        ("dose", "factor", 2),
        ("dose", "patch", 3),
        ("window", "window", 5),
        ("window", "strength", 3),
    ],
)
def test_a_link_opens_that_sweep_with_its_charts(
    open_page: Open, swept: Path, page: str, kind: str, n_charts: int
) -> None:
    open_page(page, swept)
    sweep_id = sweep_of(kind)
    core_jobs.close()
    app = calm(open_page(page, swept, sweep=sweep_id))
    assert f"sweep `{sweep_id}`" in words_on(app)
    assert words.SWEEP_KINDS[kind] in [header.value for header in app.header]
    assert charts_on(app) == n_charts
    assert app.query_params["sweep"] in (sweep_id, [sweep_id])
    if kind not in ("dose", "window"):
        assert "another sweep of the run" in words_on(app)


def test_a_link_to_a_sweep_alone_opens_its_run(open_page: Open, swept: Path) -> None:
    open_page("dose", swept)
    sweep_id = sweep_of("dose")
    status = backend.jobs().wait(backend.jobs().submit(replace(LANGUAGE, limit=5)), 120)
    assert status.state == "done", status.error
    core_jobs.close()
    assert "Output language in mini-qwen3" in words_on(open_page("dose"))
    core_jobs.close()
    app = calm(open_page("dose", sweep=sweep_id))
    assert f"sweep `{sweep_id}`" in words_on(app)
    assert "Safety refusal in mini-qwen3" in words_on(app)


def test_controls_answer_every_question_that_has_its_sweeps(open_page: Open, swept: Path) -> None:
    app = calm(open_page("controls", swept))
    assert "4 of 4 questions" in words_on(app)
    assert charts_on(app) == 4
    assert "Answers were not drawn at random with five seeds yet" in words_on(app)


def test_the_slider_moves_the_curve_and_the_answers(open_page: Open, swept: Path) -> None:
    open_page("dose", swept)
    sweep_id = sweep_of("dose")
    core_jobs.close()
    app = calm(open_page("dose", swept, sweep=sweep_id))
    assert app.select_slider(key="dose").value == 5
    app.select_slider(key="dose").set_value(1).run()
    assert app.session_state["dose"] == 1
    assert charts_on(calm(app)) == 4


@pytest.mark.parametrize("page", ["dose", "window"])
def test_a_label_is_stored_and_can_be_taken_back(open_page: Open, swept: Path, page: str) -> None:
    open_page(page, swept)
    sweep_id = sweep_of(page)
    core_jobs.close()
    app = calm(open_page(page, swept, sweep=sweep_id))
    labels = [box for box in app.selectbox if str(box.key).startswith("label_")]
    assert len(labels) == 2
    assert any('<div dir="auto"' in block.proto.body for block in app.get("html"))  # answers whose words can be marked
    key = str(labels[1].key)
    app.selectbox(key=key).set_value("disclaimer").run()
    stored = shell.store().sweep_responses(sweep_id)["label"].dropna()
    assert list(stored) == ["disclaimer"]
    assert "Labelled by hand: 1 answer" in words_on(calm(app))
    again = calm(open_page(page, sweep=sweep_id))
    assert again.selectbox(key=key).value == "disclaimer"
    again.selectbox(key=key).set_value("").run()
    assert shell.store().sweep_responses(sweep_id)["label"].isna().all()


def test_labels_change_the_rates_only_where_asked(open_page: Open, swept: Path) -> None:
    open_page("dose", swept)
    sweep_id = sweep_of("dose")
    sweep = shell.store().sweep(sweep_id)
    row = shell.store().sweep_responses(sweep_id).iloc[-1]
    other = next(name for name in ("refusal", "compliance") if name != row["class_name"])
    before = sweeps.rates(sweep, use_labels=True)
    shell.store().add_label(sweep_id, row["key"], row["pair_id"], int(row["seed"]), other)
    assert before.equals(sweeps.rates(sweep))
    assert not before.equals(sweeps.rates(sweep, use_labels=True))


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("sweep_doses", "1, five", "“five” in the numbers of neurons is no whole number"),
        ("sweep_doses", "9-2", "“9-2” in the numbers of neurons"),
        ("sweep_factors", "0; x", "“x” in the factors is no number"),
    ],
)
def test_numbers_that_are_none_are_named(open_page: Open, finished: Path, key: str, text: str, said: str) -> None:
    app = open_page("dose", finished)
    if key == "sweep_factors":
        app.segmented_control(key="dose_kind").set_value("factor").run()
    app.text_input(key=key).set_value(text).run()
    assert said in words_on(calm(app))
    assert app.button(key="sweep_button").disabled
    app.text_input(key=key).set_value("1").run()
    assert not calm(app).error
    assert not app.button(key="sweep_button").disabled


def test_a_dose_beyond_the_model_is_refused_in_words(open_page: Open, finished: Path) -> None:
    app = open_page("dose", finished)
    app.text_input(key="sweep_doses").set_value("99999").run()
    app.button(key="sweep_button").click().run()
    assert any("99,999 neurons was asked for" in error.value.replace("\\", "") for error in calm(app).error)


@pytest.mark.parametrize(
    ("page", "button"), [("dose", "sweep_button"), ("window", "sweep_button"), ("controls", "run_missing")]
)
def test_a_failed_sweep_shows_its_stored_sentence(
    open_page: Open, finished: Path, monkeypatch: pytest.MonkeyPatch, page: str, button: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BadRequest("The model *fell* over: nothing was measured. " + "path/" * 40)

    monkeypatch.setattr("pprobe_core.sweeping.run_sweep", fail)
    app = open_page(page, finished)
    app.button(key=button).click().run()
    wait_for(app, lambda: not backend.jobs().busy)
    assert any("fell" in str(job.error) for job in backend.jobs().list())
    errors = [error.value.replace("\\", "") for error in calm(app).error]
    assert len(errors) >= 2  # on the page and in the panel
    assert all("The model *fell* over: nothing was measured." in error for error in errors)


def test_a_sweep_is_run_from_the_page(open_page: Open, swept: Path) -> None:
    app = open_page("dose", swept)
    app.text_input(key="sweep_doses").set_value("2").run()
    app.number_input(key="sweep_draws").set_value(1).run()
    app.checkbox(key="sweep_answers").uncheck().run()
    app.button(key="sweep_button").click().run()
    wait_for(app, lambda: not backend.jobs().busy)
    assert "Switching off 2 of 3,072 neurons" in words_on(calm(app))
    assert "This sweep holds no answers" in words_on(app)


# -- from ticked neurons to a sweep of them --


def test_ticked_places_become_names_in_the_tables_order() -> None:
    names = ["L3.N12", "L4.N7", "L0.N1"]
    assert tables.names_at(names, [2, 0, 0]) == ["L3.N12", "L0.N1"]
    assert tables.names_at(names, [7, -1, 1]) == ["L4.N7"]
    assert tables.names_at(names, []) == []


def chosen_neurons(run_id: str, other: str) -> None:
    """A page that chooses neurons of one run, then shows it, then another run."""
    import streamlit as st

    from pprobe_core.circuits.library import load_circuits
    from ui import asking, shell

    circuit = load_circuits()["safety_refusal"]
    first = shell.store().run(run_id)
    asking.use_defaults_of(first, circuit)
    asking.switch_off(run_id, ["L3.N12", "L4.N7"])
    asking.use_defaults_of(first, circuit)
    request = asking.request_of(first, circuit, "dose")
    st.text(f"{request.ranking} {' '.join(request.neurons)} {st.session_state['chosen_neurons']}")
    asking.use_defaults_of(shell.store().run(other), circuit)
    st.text(st.session_state["sweep_ranking"])
    asking.switch_off(run_id, ["L3.N12"])
    asking.use_defaults_of(first, circuit)
    st.text(st.session_state["sweep_ranking"])


def test_chosen_neurons_stay_with_their_run(open_page: Open, finished: Path) -> None:
    open_page("probe", finished)
    a, b = (str(run_id) for run_id in shell.store().runs()["run_id"])
    app = AppTest.from_function(chosen_neurons, kwargs={"run_id": a, "other": b}, default_timeout=60).run()
    assert not app.exception
    default = load_circuits()["safety_refusal"].sweep.ranking
    assert [text.value for text in app.text] == ["chosen L3.N12 L4.N7 L3.N12, L4.N7", default, "chosen"]


def test_nothing_ticked_leaves_the_button_off(open_page: Open, finished: Path) -> None:
    app = calm(open_page("probe", finished))
    assert app.button(key="switch_off").disabled


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("dose/neurons/n=1/factor=0", "1 neuron"),
        ("factor/neurons/n=20/factor=0", "20 neurons, factor 0"),
        ("heads/heads/n=3/factor=0", "3 heads"),
        ("window/difference_of_means_relative/layer=0/strength=0.25", "layer 0, strength 0.25"),
        ("unknown", "unknown"),
    ],
)
def test_a_point_is_named_in_words(group: str, name: str) -> None:
    assert sweep_report.point_words(group) == name
