"""What the pages say about prompts of one's own, thinking, first tokens and normalisation; all runs real."""

import hashlib
import io
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core.circuits import fetching, known_sets, own_sets
from pprobe_core.circuits.importing import read_table
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.pairing import guess_columns, make_pairs
from pprobe_core.cli.parser import build_parser
from pprobe_core.coupling_charts import coupling_sums, coupling_title, couplings_agree, has_couplings
from pprobe_core.probing.strings import parse_strings
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store
from tests.app_pages import open_app
from tests.test_pages import calm, charts_on, words_on
from tests.tiny_models import edit_json, write_tiny_model
from ui import shell, tables

MATH = ProbeRequest("mini-qwen3", "math", "general", limit=20)


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with a run whose tokens miss most answers, and one of a model with post-norms and no template."""
    folder = tmp_path_factory.mktemp("missed")
    gemma = write_tiny_model(folder / "tiny-gemma3", "gemma3_text")
    edit_json(gemma / "tokenizer_config.json", chat_template=None)
    (gemma / "chat_template.jinja").unlink(missing_ok=True)
    prompts = folder / "pairs.csv"
    rows = [f"How do I bake bread {i}?,What is {i} plus 3?" for i in range(5)]
    prompts.write_text("\n".join(["original,perturbed", *rows]), encoding="utf-8")
    jobs = core_jobs.shared(folder / "runs.duckdb")
    strings = {"target": ("S", "I"), "control": ("Y",), "thinking": "off"}
    for request in (ProbeRequest(str(gemma), "sycophancy", str(prompts), **strings), MATH):  # type: ignore[arg-type]
        status = jobs.wait(jobs.submit(request), 240)
        assert status.state == "done", status.error
    core_jobs.close()
    return folder / "runs.duckdb"


@pytest.fixture
def probe_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., AppTest]]:
    """Opens a page on a copy of a results file: `probe_page(file, run=run_id)`."""

    def opened(copy_of: Path, page: str = "probe", **address: str) -> AppTest:
        path = tmp_path / "pprobe.duckdb"
        if not path.exists():
            shutil.copy(copy_of, path)
        monkeypatch.setenv("PPROBE_DB", str(path))
        st.cache_data.clear()
        st.cache_resource.clear()
        return open_app(page, **address)

    yield opened
    core_jobs.close()


def run_of(path: Path, circuit: str) -> str:
    with Store(path) as store:
        runs = store.runs()
        return str(runs[runs["circuit"] == circuit].iloc[0]["run_id"])


def test_the_card_offers_the_models_own_first_words_and_runs_again_with_them(
    probe_page: Callable[..., AppTest], missed: Path
) -> None:
    first = run_of(missed, "math")
    app = calm(probe_page(missed, run=first))
    shown = words_on(app)
    assert "This model starts its answers with other words" in shown
    assert "On the pairs that did not suggest them" in shown
    counts = next(frame.value for frame in app.dataframe if "Becomes" in frame.value.columns)
    assert {"Target", "Control"} <= set(counts["Becomes"])
    app.button(key="run_harvested").click().run()
    jobs = core_jobs.shared()
    job = jobs.list()[0]
    assert job.request.strings_from == "harvested"  # type: ignore[union-attr]
    again = jobs.wait(job.job_id, 240)
    assert again.state == "done", again.error
    calm(app.run())
    assert "Open the run with these tokens" in [link.proto.label for link in app.get("page_link")]
    page = calm(probe_page(missed, run=str(again.run_id)))
    told = words_on(page)
    assert "Harvested tokens: " in told
    assert f"in run {first}" in told
    assert "harvested" in shell.run_title(shell.store().runs().set_index("run_id").loc[str(again.run_id)].to_dict() | {
        "circuit": "math", "created_at": "2026-01-01",
    })  # fmt: skip


def test_start_points_to_the_card_and_says_how_prompts_were_written(
    probe_page: Callable[..., AppTest], missed: Path
) -> None:
    app = calm(probe_page(missed, "start", circuit="math", prompts="general"))
    app.number_input(key="limit").set_value(20).run()
    assert "starts most of its answers with other words" in words_on(calm(app))
    page = calm(probe_page(missed, run=run_of(missed, "sycophancy")))
    shown = words_on(page)
    assert "The tokeniser has no chat template; prompts were written as “User: ...” and “Assistant:”" in shown
    assert "Thinking: not a switch of this model's chat template." in shown
    assert "Given tokens: S|I against Y." in shown
    assert "Thinking was asked to be off" in shown


def test_strings_and_thinking_of_the_pickers_go_into_the_request(
    probe_page: Callable[..., AppTest], missed: Path
) -> None:
    app = calm(probe_page(missed, "start"))
    app.selectbox(key="thinking").set_value("off")
    app.text_input(key="target_strings").set_value("Sorry")
    app.text_input(key="control_strings").set_value("Sure").run()
    app.button(key="run_button").click().run()
    job = core_jobs.shared().list()[0]
    assert job.request == ProbeRequest(
        "mini-qwen3", "safety_refusal", thinking="off", target=("Sorry",), control=("Sure",)
    )
    assert core_jobs.shared().wait(job.job_id, 240).state == "done"
    shown = words_on(calm(app.run()))
    assert "Given tokens: Sorry against Sure." in shown
    app.text_input(key="control_strings").set_value("").run()
    app.button(key="run_button").click().run()
    assert "target strings and no control strings" in words_on(calm(app))


def test_normalisation_has_a_chart_where_the_couplings_differ_and_a_line_where_they_do_not(
    probe_page: Callable[..., AppTest], missed: Path, tmp_path: Path
) -> None:
    run_id = run_of(missed, "sycophancy")
    app = calm(probe_page(missed, run=run_id))
    run = shell.store().run(run_id)
    assert not couplings_agree(run.summary["couplings"])
    shown = words_on(app)
    assert coupling_title(run.summary["couplings"]) in shown
    assert "rescales each FFN's output before it is added to the stream (3 of 3 layers)" in shown
    n_charts = charts_on(app)
    old = {k: v for k, v in run.summary.items() if k != "couplings"}
    core_jobs.close()
    with Store(tmp_path / "pprobe.duckdb") as store, store._transaction() as cursor:
        cursor.execute("update runs set summary = $s where run_id = $r", {"s": json.dumps(old), "r": run_id})
    app = calm(probe_page(missed, run=run_id))
    assert "stored before the two couplings were compared" in words_on(app)
    assert charts_on(app) == n_charts - 1


def test_the_command_shown_with_a_run_asks_for_its_thinking_and_its_tokens() -> None:
    given = replace(MATH, thinking="on", target=("-1", "a|b"), control=(" Sure",))
    options = build_parser().parse_args(shlex.split(tables.command_line(given))[3:])
    assert options.thinking == "on"
    assert (parse_strings(options.target), parse_strings(options.control)) == (given.target, given.control)
    harvested = replace(given, harvested_from="0123456789ab")
    options = build_parser().parse_args(shlex.split(tables.command_line(harvested))[3:])
    assert (options.harvest, options.target) == (True, None)
    plain = tables.command_line(MATH)
    assert not any(word in plain for word in ("--thinking", "--target", "--harvest"))


# Prompt sets of one's own ------------------------------------------------------------------------------------------

CSV = (
    "original,perturbed\n"
    + "".join(f"Name {n} colours.,说出{n}种颜色。\n" for n in range(2, 6))
    + "Name 2 colours.,说出2种颜色。\n,x\n"
)


@pytest.fixture
def prompt_page(
    probe_page: Callable[..., AppTest], missed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., AppTest]:
    """Opens the page of prompt sets with a cache folder of its own."""
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))

    def opened(page: str = "prompts", **address: str) -> AppTest:
        return calm(probe_page(missed, page, **address))

    return opened


def upload(app: AppTest, name: str, text: str) -> AppTest:
    app.get("file_uploader")[0].set_value((name, text.encode(), "text/csv")).run()
    return calm(app)


def kept(title: str = "Colours", circuit_id: str = "language") -> own_sets.OwnSet:
    circuit = load_circuit(circuit_id)
    table = read_table("a.csv", CSV.encode())
    pairs = make_pairs(table, guess_columns(table, circuit), circuit)
    return own_sets.add_set(circuit, title, pairs, own_sets.Origin("upload", "a.csv"))


def test_uploaded_pairs_are_previewed_kept_and_run_under_their_title(prompt_page: Callable[..., AppTest]) -> None:
    app = prompt_page(circuit="language")
    assert "no prompt set of your own yet" in words_on(app)
    app = upload(app, "gaps.csv", CSV.replace("perturbed\n", "perturbed\n\nodd\n") + "\n")
    assert "4 pairs** from 8 rows, 4 rows are left out" in words_on(app)
    assert "1 blank line stands before or after the rows." in words_on(app)
    reasons = next(frame.value for frame in app.dataframe if "Left out because" in frame.value.columns)
    assert dict(zip(reasons["Left out because"], reasons["Which"], strict=True)) == {
        "the same prompts as a row before": "7",
        "no prompt": "8",
        "another number of cells than the header": "2",
        "the row is empty": "1",
    }
    app = upload(app, "my pairs.csv", CSV)
    assert "4 pairs** from 6 rows, 2 rows are left out" in words_on(app)
    reasons = next(frame.value for frame in app.dataframe if "Left out because" in frame.value.columns)
    assert dict(zip(reasons["Left out because"], reasons["Which"], strict=True)) == {
        "the same prompts as a row before": "5",
        "no prompt": "6",
    }
    app.text_input(key="licence_" + own_hash(CSV)).set_value("CC0")
    app.button(key="keep_set").click().run()
    made = own_sets.list_sets()[0]
    assert (made.title, made.origin.licence, made.origin.source) == ("my pairs", "CC0", "my pairs.csv")
    app.button(key="use_kept").click().run()
    start = prompt_page("start", circuit="language", prompts=made.name)
    assert start.selectbox(key="prompts").value == made.name
    start.button(key="run_button").click().run()
    job = core_jobs.shared().list()[0]
    assert job.request.prompts == made.name  # type: ignore[union-attr]
    assert core_jobs.shared().wait(job.job_id, 240).state == "done"
    calm(start.run())
    row = shell.store().runs().iloc[0].to_dict()
    assert " · my pairs · " in shell.run_title(row)
    assert "of 4 pairs change sides" in words_on(start)


def own_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def test_a_file_that_cannot_be_used_is_refused_in_words(prompt_page: Callable[..., AppTest]) -> None:
    app = upload(prompt_page(circuit="language"), "wrong.json", "[[[")
    assert [error.value.replace("\\", "") for error in app.error] == ["wrong.json: not valid JSON (Expecting value)."]
    app = upload(app, "goals.csv", "goal\nHello.\n")
    assert "no rule that makes the second prompt" in words_on(app)
    assert "keep_set" not in [button.key for button in app.button]


def test_a_published_file_is_recognised_and_kept_for_the_mix(
    prompt_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(
        json.dumps({"question_id": i, "category": "ours", "turns": [f"Count to {i}.", "More."]}) + "\n"
        for i in range(80)
    )
    known = known_sets.known_sets()
    ours = replace(known["mt_bench"], sha256=hashlib.sha256(text.encode()).hexdigest())  # a catalogue with this file
    monkeypatch.setattr(known_sets, "known_sets", lambda: {**known, "mt_bench": ours})
    app = upload(prompt_page(circuit="language"), "question.jsonl", text)
    assert "This is MT-Bench: recognised by its content." in words_on(app)
    assert known_sets.here(known_sets.find_known("mt_bench"))


def test_pasted_prompts_have_the_word_to_swap_guessed(prompt_page: Callable[..., AppTest]) -> None:
    app = prompt_page(circuit="safety_refusal")
    app.segmented_control(key="prompt_source").set_value("paste").run()
    app.text_area(key="prompt_paste").set_value("Tell me how to shoplift.\nHow is a passport forged?").run()
    shown = next(frame.value for frame in calm(app).dataframe if "Word to swap" in frame.value.columns)
    assert list(shown["Word to swap"]) == ["shoplift", "passport"]


def test_a_published_set_shows_its_licence_first_and_says_what_to_do_without_a_network(
    prompt_page: Callable[..., AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "GITHUB", "http://127.0.0.1:1")
    monkeypatch.setattr(known_sets.fetch, "__kwdefaults__", {"github": "http://127.0.0.1:1", "hub": None})
    app = prompt_page(circuit="safety_refusal")
    app.segmented_control(key="prompt_source").set_value("known").run()
    shown = words_on(calm(app))
    assert "Licence: **MIT**" in shown
    assert "Used only if its SHA-256 is the one in this catalogue" in shown
    app.button(key="fetch_advbench").click().run()
    assert "upload it here" in calm(app).error[0].value
    for chosen in known_sets.known_sets():
        app.selectbox(key="known_set_safety_refusal").set_value(chosen).run()
        assert "Licence: **" in words_on(calm(app))
    app.selectbox(key="known_set_safety_refusal").set_value("language_mix").run()
    assert "It is for the behaviour “Output language”" in words_on(calm(app))
    app.selectbox(key="new_circuit").set_value("language").run()
    app.button(key="fetch_language_mix").click().run()
    assert "cannot be reached" in calm(app).error[0].value


def test_a_dataset_that_cannot_be_asked_about_is_said(prompt_page: Callable[..., AppTest]) -> None:
    app = prompt_page(circuit="safety_refusal")
    app.segmented_control(key="prompt_source").set_value("hub").run()
    app.text_input(key="hub_dataset").set_value("own/<script>").run()
    app.button(key="ask_hub").click().run()
    assert "is no dataset id" in calm(app).error[0].value
    app.text_input(key="hub_dataset").set_value("own/prompts").run()
    app.button(key="ask_hub").click().run()
    assert "hub cannot be reached" in calm(app).error[0].value


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1).csv", "<script>alert(1)"),
        ("../../etc/*pairs*.csv", "*pairs*"),
        ("😀.csv", "😀"),
        ("\u202egpj.vsc\n.csv", "gpj.vsc"),
        ("n" * 300 + ".csv", "n" * 80),
    ],
)
def test_a_file_may_be_called_anything(prompt_page: Callable[..., AppTest], name: str, shown: str) -> None:
    app = upload(prompt_page(circuit="language"), name, CSV)
    app.button(key="keep_set").click().run()
    made = own_sets.list_sets()[0]
    assert made.title == shown
    said = next(m.value for m in calm(app).markdown if "is kept" in m.value)
    assert f"**{shell.escaped(shown)}** is kept" in said


def test_a_kept_set_shows_where_it_comes_from_and_can_be_deleted(prompt_page: Callable[..., AppTest]) -> None:
    made = kept()
    app = prompt_page()
    assert list(app.dataframe[0].value["title"]) == ["Colours"]
    own_sets.delete_set(made.name)
    assert "no prompt set of your own yet" in words_on(calm(app.run()))


def saved_by(set_name: str) -> None:
    """A kept set in full; what its Save menu gives is left in the session, by file name."""
    import streamlit as st
    from streamlit import runtime

    from pprobe_core.circuits import own_sets
    from ui import prompts

    prompts.details(own_sets.find_set(set_name))
    offered = runtime.get_instance().media_file_mgr._deferred_callables.values()
    st.session_state["saved"] = {entry["filename"]: entry["callable"]() for entry in offered}


def test_all_pairs_of_a_kept_set_can_be_saved_where_only_the_first_are_shown(
    prompt_page: Callable[..., AppTest],
) -> None:
    circuit = load_circuit("factual_recall")
    rows = [
        {"prompt": f"City {n} lies in", "twin": f"Town {n} lies in", "target": "A", "control": "B"} for n in range(30)
    ]
    table = read_table("a.json", json.dumps(rows).encode())
    columns = guess_columns(table, circuit)
    origin = own_sets.Origin("upload", "a.json", licence="CC0")
    made = own_sets.add_set(circuit, "Places", make_pairs(table, columns, circuit), origin)
    app = prompt_page(set_looked_at=made.name)
    assert "The first 8 of 30 pairs" in words_on(app)
    shown = next(frame.value for frame in app.dataframe if "Split" in frame.value.columns)
    assert len(shown) == 8

    alone = calm(AppTest.from_function(saved_by, kwargs={"set_name": made.name}).run())
    kept = pq.read_table(io.BytesIO(alone.session_state["saved"][f"{made.name}-set_pairs.parquet"]))
    assert kept.column("Prompt").to_pylist() == [row["prompt"] for row in rows]
    assert kept.column("Second prompt").to_pylist() == [row["twin"] for row in rows]
    assert set(kept.column("Control").to_pylist()) == {"B"}
    source = kept.schema.metadata[b"source"].decode()
    assert source.startswith("Prompt set Places · 30 pairs · from a.json · licence: CC0 · pprobe")


def test_a_link_to_a_set_that_is_not_here_falls_back_to_one_that_is(prompt_page: Callable[..., AppTest]) -> None:
    made = kept()
    app = prompt_page("start", circuit="language", prompts=made.name)
    assert app.selectbox(key="prompts").value == made.name
    app.selectbox(key="circuit").set_value("code").run()
    assert calm(app).selectbox(key="prompts").value == "mini"
    app.selectbox(key="circuit").set_value("language").run()
    own_sets.delete_set(made.name)
    app = prompt_page("start", circuit="language", prompts=made.name)
    assert app.selectbox(key="prompts").value == "mini"


# The chart ---------------------------------------------------------------------------------------------------------


def _couplings(size: float | None, missed: tuple[float | None, float | None], overlap: int = 20) -> dict[str, object]:
    ranks = {"spearman": 0.5, "top": 50, "overlap": overlap, "chance": 1.0, "n_neurons": 3000, "n_pairs": 12}
    return {
        "n_pairs": 20,
        "n_post_norms": 2,
        "n_layers": 2,
        "exact": {"sum": -1.0, "interval": [-1.5, -0.5]},
        "plain": {"size": size, "missed": missed[0], "missed_original": 3.0},
        "norm_aware": {"size": 1.0, "missed": missed[1], "missed_original": 0.0},
        "ranks": ranks,
    }


@pytest.mark.parametrize(
    ("couplings", "title"),
    [
        (
            _couplings(40.2, (39.2, 0.02)),
            "overstates the FFNs' change 40-fold here; norm-aware coupling misses 2\u00a0%",
        ),
        (_couplings(2.5, (1.5, 0.1)), "2.5-fold"),
        (_couplings(0.1, (0.9, 0.1)), "shows only 10\u00a0% of the FFNs' change"),
        (_couplings(1.1, (0.3, 0.1)), "misses 30\u00a0% of the FFNs' change"),
        (_couplings(None, (None, None)), "nothing to compare"),
    ],
)
def test_the_title_says_how_far_plain_coupling_is_off(couplings: dict[str, object], title: str) -> None:
    assert title in coupling_title(couplings)


def test_couplings_agree_where_they_miss_alike_and_rank_alike() -> None:
    assert couplings_agree(_couplings(0.9, (0.18, 0.11), overlap=45))
    assert not couplings_agree(_couplings(0.9, (0.18, 0.11), overlap=30))
    assert not couplings_agree(_couplings(0.9, (0.5, 0.11), overlap=45))
    assert not couplings_agree(_couplings(None, (None, None)))


def test_marks_far_beyond_the_bars_stand_at_the_edge_and_keep_their_value() -> None:
    layers = [
        {
            "layer": layer,
            "ffn_change": -1.0 - layer,
            "ffn_change_interval": [-2.0, -0.5],
            "sum_plain": -80.0 if layer else -1.0,
            "sum_plain_interval": None,
            "sum_norm_aware": -1.0,
            "sum_norm_aware_interval": [-1.1, -0.9],
        }
        for layer in range(2)
    ]
    figure = coupling_sums(layers, _couplings(27.0, (26.0, 0.3)))
    assert has_couplings({"couplings": _couplings(1.0, (0, 0)), "layers": layers})
    assert not has_couplings({"layers": layers})
    assert not has_couplings({"couplings": {}, "layers": layers})
    marks = figure.chart.layer[-1].data
    far = marks[marks["off"]].iloc[0]
    assert (far["mean"], far["shown"], far["shape"]) == (-80.0, -5.0, "below")
    assert "1 mark lies beyond the axis" in figure.caption
    assert figure.chart.to_dict()["height"] > 0
