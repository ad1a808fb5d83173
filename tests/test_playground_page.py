"""The playground's page and words: the shipped model's own answers under the sliders, and every state it can be in."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import playground, playground_charts
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Prompt
from pprobe_core.difference import word_difference
from pprobe_core.playground import Ask, Change, Reply, TokenChance, Written
from pprobe_core.playground.finding import headline, logit_sentence
from pprobe_core.store import Store
from tests.app_pages import open_app
from tests.page_words import without_terms
from ui import marked
from ui import playground as parts

MODEL = "mini-qwen3"

Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def results_file(recorded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A results file with the recorded runs that stays open, with its playground, for all tests here."""
    path = tmp_path_factory.mktemp("playground") / "pprobe.duckdb"
    shutil.copy(recorded_file, path)
    yield path
    playground.close()
    core_jobs.close()


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch, results_file: Path) -> Open:
    """Opens the page, waits for its first answer and draws it."""

    def opened(file: Path = results_file, wait: bool = True, **address: str) -> AppTest:
        monkeypatch.setenv("PPROBE_DB", str(file))
        app = open_app("playground", **address)
        return answered(app) if wait else app

    return opened


def answered(app: AppTest) -> AppTest:
    """The page once the answer is there: the timer that a browser has is ours here."""
    limit = time.monotonic() + 60
    while any("hourglass" in m.value for m in app.markdown):
        assert time.monotonic() < limit, "no answer came"
        app.run()
    assert not app.exception
    return app


@pytest.fixture(scope="module")
def runs(recorded_file: Path) -> dict[str, str]:
    with Store(recorded_file) as store:
        rows = store.runs().to_dict("records")
    return {str(row["circuit"]): str(row["run_id"]) for row in rows if row["model"] == MODEL}


def said(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.error, *app.info, *app.title]
    return without_terms("\n".join(part.value for part in parts)).replace("\\", "")


def texts(app: AppTest) -> str:
    return "\n".join(block.value for block in app.main if block.type == "html")


def test_the_first_look_shows_an_edit_its_control_and_what_changed(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(run=runs["safety_refusal"])
    words = said(app)
    assert "Refuses → Goes along. A random change of the same size leaves it: Refuses." in words
    assert ", further than 5 random changes of the same size" in words
    assert [e.label for e in app.expander] == ["Show the compliant answer"]
    assert "Likeliest first token: “Sorry”" in words
    assert "F goes from" in words


def test_sliders_and_prompt_stand_in_the_address_and_come_back_from_it(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(run=runs["language"])
    assert "English → Chinese" in said(app)
    assert (app.select_slider(key="play_n").value, app.slider(key="play_strength").value) == (0, 1.0)
    app.slider(key="play_layer").set_value(2).run()
    app.slider(key="play_strength").set_value(0.0).run()
    app.select_slider(key="play_n").set_value(20).run()
    app.text_area(key="play_text").set_value("Where is the fox?").run()
    address = {key: value if isinstance(value, str) else value[-1] for key, value in app.query_params.items()}
    assert {key: value for key, value in address.items() if key.startswith("play_")} == {
        "play_layer": "2", "play_strength": "0", "play_n": "20", "play_text": "Where is the fox?",
    }  # fmt: skip
    again = open_page(**address)
    assert again.text_area(key="play_text").value == "Where is the fox?"
    assert again.select_slider(key="play_n").value == 20
    assert again.slider(key="play_layer").value == 2


def test_an_address_out_of_range_is_brought_back_into_it(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(
        run=runs["language"], play_layer="99", play_n="7", play_strength="400", play_pair="nobody",
        play_factor="x", play_text="<script>alert(1)</script> ../../etc",
    )  # fmt: skip
    assert app.slider(key="play_layer").value == 4
    assert app.select_slider(key="play_n").value == 7
    assert app.slider(key="play_strength").value == 5.0
    assert app.slider(key="play_factor").value == 0.0
    assert "<script>" not in texts(app)


def test_an_example_the_twin_and_own_words(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(run=runs["factual_recall"], play_n="0")
    assert "F = " in said(app)
    original = app.text_area(key="play_text").value
    app.button_group(key="play_condition").set_value("perturbed").run()
    twin = answered(app).text_area(key="play_text").value
    assert twin != original
    app.text_area(key="play_text").set_value("What is the capital of Spain?").run()
    words = said(answered(app))
    assert "belong to each example" in words
    assert "No known answer to compare with" in words
    app.text_area(key="play_text").set_value("   ").run()
    assert "The prompt is empty" in said(app)
    app.selectbox(key="play_pair").set_value(parts.OWN_WORDS).run()
    assert app.text_area(key="play_text").value in ("", None)


def test_earlier_turns_and_tools_of_an_example_are_kept(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(run=runs["tool_use"], play_n="0")
    assert "With 1 tool on offer, as in the example." in said(app)
    text = str(app.text_area(key="play_text").value)
    app.text_area(key="play_text").set_value(f"{text} Please.").run()
    assert "tool_call" in texts(answered(app))


def test_another_draw_writes_out_another_random_change(open_page: Open, runs: dict[str, str]) -> None:
    app = open_page(run=runs["language"])
    button = app.button(key="play_redraw")
    assert button.label == "Another one (1 of 5)"
    button.click().run()
    assert answered(app).button(key="play_redraw").label == "Another one (2 of 5)"


def test_without_a_run_the_model_still_answers_and_one_that_is_gone_is_a_sentence(
    open_page: Open, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.duckdb"
    app = open_page(empty, wait=False, model=MODEL)
    assert "There is no run of" in said(app)
    assert "The prompt is empty" in said(app)
    app.text_area(key="play_text").set_value("How can I hack a truck?").run()
    assert "As it is: Refuses." in said(answered(app))
    assert not app.slider
    assert not app.select_slider
    for model, words in ((str(tmp_path / "gone"), "no model or folder"), ("nobody/nothing", "not on this computer")):
        app = open_page(empty, wait=False, model=model)
        app.text_area(key="play_text").set_value("Hello").run()
        assert words in said(answered(app))


# -- words and charts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("The capital is Rome.", "The capital is Paris.", (["Rome"], ["Paris"])),
        ("same words", "same words", ([], [])),
        ("好的，要先做准备。", "好的，我先做。", (["要", "准备"], ["我"])),
        ("Sure, here", "好的", ([], [])),  # nothing shared: a mark on every word would mark nothing
        ("", "anything", ([], [])),
        ("a  b", "a b", ([], [])),  # spaces alone are no difference to show
        (
            "Hi \U0001f469\u200d\U0001f4bb!",
            "Hi \U0001f469\u200d\U0001f52c!",
            (["\U0001f469\u200d\U0001f4bb"], ["\U0001f469\u200d\U0001f52c"]),
        ),
        ("go \U0001f44d\U0001f3fb", "go \U0001f44d\U0001f3ff", (["\U0001f44d\U0001f3fb"], ["\U0001f44d\U0001f3ff"])),
        ("to \U0001f1ee\U0001f1f9", "to \U0001f1ee\U0001f1ea", (["\U0001f1ee\U0001f1f9"], ["\U0001f1ee\U0001f1ea"])),
        ("यह हिन्दी है", "यह हिन्दू है", (["हिन्दी"], ["हिन्दू"])),  # vowel signs belong to their word
        ("un cafe\u0301", "un cafe", (["cafe\u0301"], ["cafe"])),
        ("من می\u200cخواهم", "من می\u200cروم", (["می\u200cخواهم"], ["می\u200cروم"])),
    ],
)
def test_words_that_differ_are_marked(before: str, after: str, marked: tuple[list[str], list[str]]) -> None:
    found = word_difference(before, after)
    assert tuple([p.text.strip() for p in side if p.differs] for side in found) == marked
    assert ["".join(p.text for p in side) for side in found] == [before, after]


def test_spaces_of_any_width_and_joiners_are_kept_as_they_are() -> None:
    text = "a\u00a0b\u3000c\u202fd \u0645\u06cc\u200c\u0631\u0648\u0645 \U0001f469\u200d\U0001f4bb\r\n\t"
    assert marked.readable(text) == text


def one_answer(before: str, after: str) -> None:
    """A page of an answer beside another."""
    from pprobe_core.difference import word_difference
    from ui import cards

    for pieces, text, changed in zip(word_difference(before, after), (before, after), (False, True), strict=True):
        cards.response(None, text, "any", "Answer", pieces=pieces, changed=changed)


def test_differing_words_are_marked_in_both_answers_of_a_pair_and_markup_stays_text() -> None:
    app = AppTest.from_function(one_answer, kwargs={"before": "No, <b>Rome</b>.", "after": "No, <img> Paris."}).run()
    assert not app.exception
    old, new = (block.value for block in app.main if block.type == "html")
    assert "No, &lt;<u>b</u>&gt;" in old
    assert "<u>Rome" in old
    assert "<b><u>" in new
    assert "Paris</u></b>." in new
    assert "<img" not in new
    assert 'dir="auto"' in old


def test_an_empty_answer_is_called_empty() -> None:
    app = AppTest.from_function(one_answer, kwargs={"before": "", "after": "Yes."}).run()
    assert [text.value for text in app.text] == ["(empty)"]


def test_an_answer_cannot_bring_its_own_html() -> None:
    assert marked.readable("<b onclick='x'>\x1b[31m\u202e&") == "&lt;b onclick=&#x27;x&#x27;&gt;\ufffd[31m\ufffd&amp;"


ASK = Ask(MODEL, Prompt(({"role": "user", "content": "x"},)), "0" * 12, change=Change(n_neurons=5))
TITLES = {c.name: c.title for c in load_circuit("safety_refusal").response_classes}


def reply(before: str, after: str, random: str, diffs: tuple[float | None, ...] = (2.0, -1.0, 2.1, 1.9)) -> Reply:
    names = {"no": "refusal", "yes": "compliance"}
    made = [
        Written(text, "stop", names[text.split()[0]], "other", f)
        for text, f in zip((before, after, random), diffs[:3], strict=True)
    ]
    tokens = (TokenChance(5, " a", "target", 0.7, 0.2, 0.69), TokenChance(6, "b", "control", 0.1, 0.6, 0.1))
    return Reply(ASK, *made, diffs[2:], tokens, "safety_refusal")


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (("no", "yes", "no"), "Refuses → Goes along. A random change of the same size leaves it: Refuses."),
        (("no", "yes", "yes"), "Refuses → Goes along, but a random change of the same size does so, too."),
        (("no", "no", "no"), "Still: Refuses, word for word."),
        (("no", "no thanks", "no"), "Still: Refuses, in other words."),
        (("no", "no", "yes"), "Still: Refuses. The random change of the same size makes it: Goes along."),
    ],
)
def test_the_headline_names_the_classes_and_the_control(answers: tuple[str, str, str], sentence: str) -> None:
    assert headline(reply(*answers), TITLES) == sentence


@pytest.mark.parametrize(
    ("diffs", "words"),
    [
        ((2.0, -1.0, 2.1, 1.9), ["+2.00 to −1.00", "(−3.00)", ", further than 2 random", "−0.10 to +0.10"]),
        ((2.0, 2.05, 2.1, 1.9), ["no further than 2 random changes"]),
        ((2.0, -1.0, 2.0, None), ["further than 1 random change of", "(+0.00); 4 more break the model."]),
        ((2.0, -1.0, None, None), ["random changes break the model"]),
        ((2.0, None, 2.1, 1.9), ["no number any more"]),
    ],
)
def test_the_logit_sentence_stands_beside_its_control(diffs: tuple[float | None, ...], words: list[str]) -> None:
    found = logit_sentence(reply("no", "yes", "no", diffs))
    assert all(word in found for word in words), found


def test_one_reply_draws_its_tokens_and_its_logit_differences() -> None:
    one = reply("no", "yes", "no")
    rows = parts.token_rows(one, list(parts.ARM_TITLES))
    figure = playground_charts.first_tokens(rows)
    assert figure.title == "Likeliest first token: “␣a” (70%), changed “b” (60%), under a random change “␣a” (69%)"
    drawn = pd.DataFrame(figure.chart.data)
    assert set(drawn["label"]) == {"▲ ␣a", "▼ b"}
    assert len(drawn) == 6
    moved = playground_charts.logit_diffs(parts.logit_rows(one), "a refusal", "an answer")
    assert moved.title == "F goes from +2.00 to −1.00; random changes give +1.90 to +2.10"
    assert "2 grey marks" in moved.reading


def test_charts_hold_without_a_change_and_with_a_broken_model() -> None:
    alone = replace(reply("no", "yes", "no"), edited=None, random=None, random_logit_diffs=())
    assert playground_charts.first_tokens(parts.token_rows(alone, ["unedited"])).title.endswith("“␣a” (70%)")
    assert playground_charts.logit_diffs(parts.logit_rows(alone), "a", "b").title == "The logit difference F is +2.00"
    broken = reply("no", "yes", "no", (2.0, None, None, None))
    assert playground_charts.logit_diffs(parts.logit_rows(broken), "a", "b").title == "The logit difference F is +2.00"
    assert playground_charts.first_tokens(parts.token_rows(replace(broken, tokens=()), ["unedited"])).title


def test_tokens_that_would_read_the_same_are_told_apart() -> None:
    twins = (TokenChance(5, "a", "other", 0.7, None, None), TokenChance(6, "a", "other", 0.2, None, None))
    one = replace(reply("no", "yes", "no"), tokens=twins)
    drawn = pd.DataFrame(playground_charts.first_tokens(parts.token_rows(one, ["unedited"])).chart.data)
    assert set(drawn["label"]) == {"a (5)", "a (6)"}


def test_examples_that_took_no_part_come_first() -> None:
    assert parts.conversation("not json") == ((), ())
    stored = '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "tools": [{}]}'
    assert parts.conversation(stored) == (({"role": "user", "content": "a"},), ({},))


def test_a_place_in_the_line_is_said_in_words() -> None:
    standing = playground.Standing(ASK, "waiting", ahead=2)
    assert parts.place_in_words(standing) == "2 before you"
    assert parts.place_in_words(replace(standing, ahead=0)) == "Computing"
    assert parts.place_in_words(replace(standing, state="working", ahead=0, note="Loading the model")).startswith(
        "Load"
    )
