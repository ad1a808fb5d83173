"""The page of behaviours: made, checked by a real run, mended, saved, used, deleted, and never a page that fails."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import compare_frames, html_report
from pprobe_core import jobs as core_jobs
from pprobe_core.circuits import editor, own_sets, unfinished
from pprobe_core.circuits.library import load_circuit, load_circuits, own_folder
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.cli import main
from pprobe_core.comparison import CompareRequest, checked_comparison
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import default_request
from pprobe_core.probing.types import ProbeRequest
from tests.app_pages import open_app
from tests.test_own_circuits import GREETING, changed
from tests.test_pages import calm, words_on
from ui import circuit_check, circuits
from ui.words import COMPARE_VIEWS

Open = Callable[..., AppTest]
N_PAIRS = 12


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Opens a page on a results file and a cache folder of the test's own."""
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    monkeypatch.setenv("PPROBE_RECORDED", "0")
    st.cache_data.clear()
    st.cache_resource.clear()

    def opened(page: str = "circuits", **address: str) -> AppTest:
        return open_app(page, **address)

    yield opened
    core_jobs.close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A cache folder with an own circuit and a results file with its run and a sweep; ids of both."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PPROBE_CACHE", str(folder / "cache"))
        base = load_circuit("code")
        circuit = editor.save(editor.copy_of(base, "mini") | {"title": "Mine", "circuit_id": "mine"})
        pairs = editor.pairs_of(base, "mini")
        few = type(pairs)(pairs.lines[:N_PAIRS], N_PAIRS, {})
        kept = own_sets.add_set(circuit, "Twelve", few, own_sets.Origin("file", "mini"))
        jobs = core_jobs.shared(folder / "pprobe.duckdb")
        probe = jobs.wait(jobs.submit(ProbeRequest("mini-qwen3", "mine", kept.name)), 120)
        assert probe.run_id, probe.error
        dose = default_request(circuit, probe.run_id, "dose", doses=(1, 5), responses=True, collateral=False)
        swept = jobs.wait(jobs.submit(dose), 240)
        assert swept.sweep_id, swept.error
        core_jobs.close()
    return folder, probe.run_id, swept.sweep_id


def labels(app: AppTest) -> list[str]:
    return [str(button.label) for button in app.button]


# Looking -----------------------------------------------------------------------------------------------------------


def test_without_an_own_behaviour_the_shipped_ones_can_be_looked_at_and_copied(open_page: Open) -> None:
    app = calm(open_page())
    assert len(app.selectbox(key="circuit_looked_at").options) == 8
    assert "none of your own yet" in words_on(app)
    for named in ("factual_recall", "tool_use"):
        calm(app.selectbox(key="circuit_looked_at").set_value(named).run())
        assert load_circuit(named).question in words_on(app)
        assert "Delete…" not in labels(app)


def test_what_is_still_to_be_filled_in_is_said_and_nothing_can_be_checked_before(open_page: Open) -> None:
    app = calm(open_page())
    calm(app.button(key="new_behaviour").click().run())
    assert "Still to fill in: a name" in words_on(app)
    assert app.button(key="check_circuit").disabled
    assert app.button(key="save_circuit").disabled
    app.text_input(key="edit_title").set_value("Greets <script>alert(1)</script> `x` back").run()
    shown = words_on(calm(app))
    assert "Still to fill in: what the behaviour is" in shown
    assert app.title[0].value == "Greets &lt;script&gt;alert(1)&lt;/script&gt; \\`x\\` back"
    calm(app.button(key="close_editor").click().run())
    assert app.title[0].value == "Behaviours"


def test_a_shipped_behaviour_opens_as_a_copy_that_could_be_checked(open_page: Open) -> None:
    app = calm(open_page())
    for named in ("factual_recall", "chain_of_thought"):
        app.selectbox(key="circuit_looked_at").set_value(named).run()
        calm(app.button(key="copy_circuit").click().run())
        assert not app.button(key="check_circuit").disabled, words_on(app)
        assert app.button(key="save_circuit").disabled
        app.button(key="close_editor").click().run()


def test_a_sentence_can_be_tried_on_the_examples(open_page: Open) -> None:
    editor.save(GREETING)
    app = calm(open_page())
    calm(app.button(key="change_circuit").click().run())
    for sentence, said in (
        ("Hi there, nice to meet you!", "**Greets back** (it begins with"),
        ("Zebra", "**Like none of"),
    ):
        app.text_input(key="edit_try").set_value(sentence).run()
        assert said in words_on(calm(app))
    app.text_area(key="edit_class_examples_1").set_value("Hello\nBananas are").run()
    app.text_input(key="edit_try").set_value("Bananas are yellow").run()
    assert "**Greets back** (it begins with" in words_on(calm(app))
    calm(app.button(key="add_class").click().run())
    assert "a name for every class of answers" in words_on(app)


def test_the_preview_says_which_first_words_are_one_token_and_which_stand_on_both_sides(open_page: Open) -> None:
    editor.save(changed(target=["Sure", "Zebracadabra"], control=["No"]))
    app = calm(open_page())
    calm(app.button(key="change_circuit").click().run())
    preview = next(frame.value for frame in app.dataframe if "used" in frame.value.columns)
    assert dict(zip(preview["string"], preview["used"], strict=True))["Sure"]
    assert not dict(zip(preview["string"], preview["used"], strict=True))["Zebracadabra"]
    assert "only single tokens count" in " ".join(preview["note"])
    app.multiselect(key="edit_target").set_value(["Zebracadabra"]).run()
    assert "No target word takes part" in words_on(calm(app))


# The whole way -----------------------------------------------------------------------------------------------------


def test_a_behaviour_is_made_refused_mended_by_presses_saved_and_run_from_start(open_page: Open) -> None:
    base = load_circuit("code")
    app = open_page()
    app.selectbox(key="circuit_looked_at").set_value("code").run()
    app.button(key="copy_circuit").click().run()
    app.text_input(key="edit_title").set_value("Program or words")
    app.multiselect(key="edit_control").set_value([]).run()
    app.selectbox(key="edit_response_rule").set_value("by_example").run()
    for uid, words, examples in ((1, "Program", "```\n```python"), (2, "Words", "This explains how it is done.")):
        app.text_input(key=f"edit_class_title_{uid}").set_value(words)
        app.text_area(key=f"edit_class_examples_{uid}").set_value(examples).run()
    assert "control first words" in words_on(calm(app))
    app.session_state["edit_control"] = ["A"]
    app.session_state["edit_pairs_now"] = pd.DataFrame(
        [
            {
                "original": pair.original.text,
                "perturbed": pair.perturbed.text,
                "keyword": "",
                "target": "",
                "control": "",
            }
            for pair in load_prompt_set(base, "mini").pairs[:N_PAIRS]
            if pair.perturbed is not None
        ]
    )
    app.selectbox(key="edit_pairs_from").set_value("table").run()
    press_check(app)
    shown = words_on(calm(app))
    assert f"Checked on mini-qwen3 with {N_PAIRS} pairs" in shown
    assert "It cannot be saved like this" in shown
    assert f"Of {N_PAIRS} prompts {N_PAIRS} start with “It”" in shown
    assert app.button(key="save_circuit").disabled
    app.button(key="take_control_0").click().run()
    assert app.multiselect(key="edit_control").value == ["A", "It"]
    assert "Something changed since the last check" in words_on(calm(app))
    while offered := [b for b in app.button if str(b.key).startswith("sort_0_") and "Words" in b.label]:
        offered[0].click().run()
        press_check(app)
    app.text_area(key="edit_class_examples_2").set_value("It means to\nThis explains how it is done.").run()
    press_check(app)
    shown = words_on(calm(app))
    assert "It cannot be saved like this" not in shown, shown
    assert "examples tell the classes apart" in shown
    app.button(key="save_circuit").click().run()
    assert "Checked on mini-qwen3 with 12 pairs" in " ".join(str(s.value) for s in calm(app).success)
    saved = load_circuits()["program_or_words"]
    assert saved.own
    assert saved.control == ("A", "It")
    assert len(own_sets.list_sets("program_or_words")) == 1, "sets of earlier checks go"
    app.switch_page("../pages/start.py").run()
    assert app.selectbox(key="circuit").value == "program_or_words"
    assert "Program or words in mini-qwen3" in words_on(calm(app)), "the check is its first run"


def test_a_set_that_was_there_before_a_check_is_not_deleted_at_saving(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_circuit("code")
    circuit = editor.save(editor.copy_of(base, "mini") | {"title": "Mine", "circuit_id": "mine"})
    typed = [
        {"original": pair.original.text, "perturbed": pair.perturbed.text if pair.perturbed else "", "keyword": ""}
        for pair in load_prompt_set(base, "mini").pairs[:N_PAIRS]
    ]
    state = {"edit_pairs_from": circuits.TABLE, "edit_pairs_now": pd.DataFrame(typed)}
    monkeypatch.setattr(st, "session_state", state)
    first_day, another_day = circuits.Editing({}), circuits.Editing({})
    name = circuit_check._stored_pairs(first_day, circuit)
    assert circuit_check._stored_pairs(first_day, circuit) == name
    assert first_day.made_sets == [name]
    assert circuit_check._stored_pairs(another_day, circuit) == name
    assert another_day.made_sets == [], "saving deletes what its own checks stored, and this is older"


def press_check(app: AppTest) -> None:
    app.button(key="check_circuit").click().run()
    calm(app)
    job = core_jobs.shared().list()[0]
    assert core_jobs.shared().wait(job.job_id, 120).state == "done"
    calm(app.run())


def test_a_draft_is_kept_opened_again_and_deleted_only_after_asking(open_page: Open) -> None:
    app = open_page()
    app.selectbox(key="circuit_looked_at").set_value("language").run()
    app.button(key="copy_circuit").click().run()
    app.button(key="draft_circuit").click().run()
    assert list(editor.drafts()) == ["output_language_copy"]
    assert app.selectbox(key="circuit_looked_at").value == "draft:output_language_copy"
    assert "output_language_copy" not in load_circuits()
    calm(app.button(key="change_circuit").click().run())
    assert app.text_input(key="edit_title").value == "Output language (copy)"
    app.button(key="close_editor").click().run()
    calm(app.button(key="delete_circuit").click().run())
    assert "really_delete_circuit" in [button.key for button in app.button]
    assert list(editor.drafts()) == ["output_language_copy"], "asked first"


def test_nothing_typed_into_the_table_is_a_sentence(open_page: Open) -> None:
    editor.save(GREETING)
    app = open_page()
    app.button(key="change_circuit").click().run()
    calm(app.button(key="check_circuit").click().run())
    assert "There is no pair yet" in words_on(app)


# What is typed is not lost -------------------------------------------------------------------------------------------


def test_what_was_typed_is_offered_after_a_reload_and_goes_on_as_it_stood(open_page: Open) -> None:
    editor.save(GREETING)
    app = open_page()
    app.button(key="change_circuit").click().run()
    app.text_input(key="edit_title").set_value("Greets <b>back</b>").run()
    app.multiselect(key="edit_target").set_value(["Hello", "Hi"]).run()
    first = str(next(iter(circuits_of(app).names)))
    app.text_area(key=f"edit_class_examples_{first}").set_value("Hello!\nHi you").run()
    app.selectbox(key="edit_pairs_from").set_value("table").run()
    app.text_area(key="edit_pasted").set_value("Hello, 2 and 2? | 2 and 2?\nHi, 3 and 3? | 3 and 3?").run()
    calm(app.button(key="edit_put_pasted").click().run())

    again = calm(open_page())  # another session: the browser was reloaded, or it is another one
    (kept,) = unfinished.listed()
    assert "Unfinished:" in words_on(again)
    assert "<b>" not in words_on(again)
    assert "2 and 2" not in words_on(again)
    calm(again.button(key=f"go_on_{kept.name}").click().run())
    assert again.text_input(key="edit_title").value == "Greets <b>back</b>"
    assert again.multiselect(key="edit_target").value == ["Hello", "Hi"]
    assert again.text_area(key=f"edit_class_examples_{first}").value == "Hello!\nHi you"
    assert again.selectbox(key="edit_pairs_from").value == "table"
    now = again.session_state["edit_pairs_now"]
    assert now["original"].tolist()[:3] == ["Hello, 2 and 2?", "Hi, 3 and 3?", ""]
    assert circuits_of(again).circuit_id == "greeting", "still a change of that behaviour, not a new one"
    calm(again.button(key="draft_circuit").click().run())
    assert unfinished.listed() == [], "it is a draft now"
    assert list(editor.drafts()) == ["greeting"]


def test_only_what_was_changed_is_kept_and_closing_keeps_it(open_page: Open) -> None:
    app = open_page()
    app.button(key="new_behaviour").click().run()
    app.button(key="close_editor").click().run()
    assert unfinished.listed() == []
    app.button(key="new_behaviour").click().run()
    app.text_area(key="edit_question").set_value("Who?").run()
    calm(app.button(key="close_editor").click().run())
    (kept,) = unfinished.listed()
    assert "a behaviour without a name" in words_on(app)
    calm(app.button(key=f"throw_away_{kept.name}").click().run())
    assert unfinished.listed() == []
    assert "Unfinished" not in words_on(app)


def test_a_check_that_was_made_still_counts_after_a_reload(open_page: Open) -> None:
    app = open_page()
    app.selectbox(key="circuit_looked_at").set_value("code").run()
    app.button(key="copy_circuit").click().run()
    calm(app.button(key="check_circuit").click().run())
    jobs = core_jobs.shared()
    latest = jobs.latest()
    assert latest is not None
    jobs.wait(latest.job_id, 120)
    app.run()
    again = calm(open_page())
    (kept,) = unfinished.listed()
    calm(again.button(key=f"go_on_{kept.name}").click().run())
    assert "Checked on mini-qwen3" in words_on(again)
    assert not again.button(key="save_circuit").disabled
    calm(again.button(key="save_circuit").click().run())
    assert unfinished.listed() == []


def test_unfinished_files_that_fit_nothing_are_a_sentence_or_left_out(open_page: Open) -> None:
    unfinished.keep("0" * 16, {"typed": {"edit_title": "Old"}})
    folder = own_folder() / "unfinished"
    folder.joinpath(f"{'1' * 16}.json").write_text("{")
    folder.joinpath("notes.json").write_text("{}")
    app = calm(open_page())
    assert "“Old”" in words_on(app)
    calm(app.button(key=f"go_on_{'0' * 16}").click().run())
    assert "another version of pprobe" in words_on(app)
    for n in range(unfinished.MAX_KEPT + 3):
        unfinished.keep(f"{n:016x}", {"typed": {"edit_title": str(n)}})
    assert len(unfinished.listed()) == unfinished.MAX_KEPT
    with pytest.raises(BadRequest, match="is no name"):
        unfinished.keep("../up", {})
    with pytest.raises(BadRequest, match="larger than"):
        unfinished.keep("2" * 16, {"typed": "x" * unfinished.MAX_BYTES})
    calm(open_page())


def circuits_of(app: AppTest) -> circuits.Editing:
    """What is being edited in a session."""
    found = app.session_state["_editing"]
    assert isinstance(found, circuits.Editing)
    return found


# Other pages -------------------------------------------------------------------------------------------------------


def test_what_another_browser_saves_or_deletes_is_seen_at_the_next_click(open_page: Open) -> None:
    app = open_page()
    editor.save(GREETING)
    app.run()
    assert "greeting" in app.selectbox(key="circuit_looked_at").options or any(
        "Polite greeting" in option for option in app.selectbox(key="circuit_looked_at").options
    )
    start = open_page("start", circuit="greeting")
    assert start.selectbox(key="circuit").value == "greeting"
    assert "has no prompts yet" in words_on(calm(start))
    editor.delete("greeting")
    start = calm(open_page("start", circuit="greeting"))
    assert start.selectbox(key="circuit").value == "safety_refusal"
    calm(open_page())


def test_a_damaged_file_is_named_and_the_page_goes_on(open_page: Open) -> None:
    app = open_page()
    own_folder().mkdir(parents=True)
    (own_folder() / "bad.yaml").write_text("circuit_id: [", "utf-8")
    assert "This file is left out. bad.yaml" in words_on(calm(app.run()))
    calm(open_page("start"))


@pytest.mark.parametrize("gone", [False, True])
def test_runs_of_a_deleted_behaviour_stay_readable_even_without_any_of_its_files(
    open_page: Open, measured: tuple[Path, str, str], tmp_path: Path, gone: bool
) -> None:
    folder, run_id, sweep_id = measured
    shutil.copytree(folder / "cache", tmp_path / "cache")
    shutil.copy(folder / "pprobe.duckdb", tmp_path / "pprobe.duckdb")
    if gone:
        shutil.rmtree(own_folder())
    else:
        editor.delete("mine")
    for page in ("start", "probe", "dose", "controls", "runs", "circuits") if gone else ("probe", "dose"):
        address = {"run": run_id} | ({"sweep": sweep_id} if page == "dose" else {})
        app = calm(open_page(page, **address))
        if page in ("probe", "dose"):
            shown = words_on(app)
            assert ("Mine (not listed)" if not gone else "mine") in shown, page
            assert "cannot be done" not in shown, shown


def test_a_saved_behaviour_tells_how_its_last_check_went(
    open_page: Open, measured: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, *_ = measured
    shutil.copytree(folder / "cache", tmp_path / "cache")
    shutil.copy(folder / "pprobe.duckdb", tmp_path / "pprobe.duckdb")
    app = calm(open_page())
    assert "Checked on mini-qwen3 with 12 pairs of “Twelve”: it holds." in " ".join(
        str(s.value).replace("\\", "") for s in app.success
    )
    editor.save(editor.document_of(load_circuit("mine")) | {"title": "Mine, changed"})
    assert "Not checked on this computer yet" in words_on(calm(open_page()))


# The command line --------------------------------------------------------------------------------------------------


def test_the_command_line_checks_shows_hands_on_and_deletes(
    measured: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run_id, _ = measured
    shutil.copytree(folder / "cache", tmp_path / "cache")
    shutil.copy(folder / "pprobe.duckdb", tmp_path / "x.duckdb")
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    name = own_sets.list_sets("mine")[0].name
    check = [
        "circuits",
        "check",
        "mine",
        "--model",
        "mini-qwen3",
        "--prompts",
        name,
        "--db",
        str(tmp_path / "x.duckdb"),
    ]
    assert main(check) == 0
    said = capsys.readouterr().out
    assert f"(run {run_id})" in said
    assert said.rstrip().endswith("It holds.")
    assert main(["circuits", "show", "mine"]) == 0
    assert name in capsys.readouterr().out
    out = tmp_path / "out.yaml"
    assert main(["circuits", "export", "mine", "--out", str(out)]) == 0
    assert main(["circuits", "delete", "mine"]) == 2
    assert main(["circuits", "delete", "mine", "--yes"]) == 0
    assert "mine" not in load_circuits()
    assert main(["circuits", "import", str(out)]) == 0
    assert "mine" in load_circuits()
    assert main(["circuits", "import", str(tmp_path)]) == 2
    assert main(["circuits", "export", "mine", "--out", str(tmp_path)]) == 2
    assert main(["circuits", "show", "nobody"]) == 2
    assert main(["circuits"]) == 0
    listed = capsys.readouterr().out
    assert "mine" in listed
    assert f"{name} {N_PAIRS}" in listed


# Comparing models on it --------------------------------------------------------------------------------------------


def test_models_are_compared_on_an_own_behaviour_and_its_prompts(
    open_page: Open, measured: tuple[Path, str, str]
) -> None:
    folder = measured[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PPROBE_CACHE", str(folder / "cache"))
        patched.setenv("PPROBE_DB", str(folder / "pprobe.duckdb"))
        address = {"models": "mini-qwen3,mini-llama", "circuits": "mine,code", "compare_bases": "0"}
        app = open_page("compare", **address)
        calm(app)
        assert "Mine" in list(app.multiselect(key="compare_circuits").options)
        app.session_state["compare_sweeps"] = []
        app.run()
        assert "1 of 4 parts are there" in words_on(app)  # the run that was made on its own page
        asked = checked_comparison(CompareRequest(("mini-qwen3", "mini-llama"), ("mine", "code"), (), bases=False))
        jobs = core_jobs.shared()
        assert jobs.wait(jobs.submit(asked), 120).state == "done"
        for view in COMPARE_VIEWS:
            app.session_state["view"] = view
            app.run()
            calm(app)
            assert "4 of 4 parts are there" in words_on(app)
            assert "different prompt sets" not in words_on(app)
        assert {row.prompts for row in jobs.store.runs().itertuples() if row.circuit.startswith("mine@")} == {
            own_sets.list_sets("mine")[0].name
        }
        report = html_report.comparison_html(jobs.store, compare_frames.compared(jobs.store, asked))
        assert "Mine" in report
        name = own_sets.list_sets("mine")[0].name
        app = open_page("compare", compare_own=name, **address)
        assert list(app.multiselect(key="compare_own").value) == [name]
        assert "compare_own" in app.query_params
        core_jobs.close()


def test_a_chosen_behaviour_that_lost_its_prompts_leaves_the_comparison(open_page: Open) -> None:
    base = load_circuit("code")
    circuit = editor.save(editor.copy_of(base, "mini") | {"title": "Mine", "circuit_id": "mine"})
    kept = own_sets.add_set(circuit, "All", editor.pairs_of(base, "mini"), own_sets.Origin("file", "mini"))
    app = open_page("compare", models="mini-qwen3,mini-llama", circuits="mine,code")
    calm(app)
    assert list(app.multiselect(key="compare_circuits").value) == ["mine", "code"]
    app.multiselect(key="compare_own").set_value([kept.name]).run()
    calm(app)
    own_sets.delete_set(kept.name)
    app.run()
    calm(app)
    assert list(app.multiselect(key="compare_circuits").value) == ["code"]
    assert "has no prompts yet: mine" in words_on(app)
