"""Terms on the pages: with the recorded results, every glossary term that a page writes is explained on that page."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import playground
from tests.app_pages import open_app
from tests.page_words import TERM
from ui import terms, words
from ui.glossary import ENTRIES

SHOWN = ("title", "header", "subheader", "markdown", "caption", "info", "warning", "error", "success")
WIDGETS = (
    "selectbox", "multiselect", "slider", "select_slider", "checkbox", "toggle", "text_input", "text_area",
    "number_input", "button_group", "radio", "button", "metric",
)  # fmt: skip
PLACES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    **{page: (page, {}) for page in ("start", "playground", "probe", "dose", "window", "controls", "circuits")},
    **{page: (page, {}) for page in ("prompts", "runs")},
    **{f"compare {view}": ("compare", {"view": view}) for view in words.COMPARE_VIEWS},
    "probe of a routing circuit": ("probe", {"circuit": "language"}),
    "playground of a routing circuit": ("playground", {"circuit": "language"}),
}


@dataclass
class Read:
    """What one page writes: term -> where, and which terms it explains in running text."""

    written: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # the same of widgets, columns and axes, which hold no links
    explained: set[str] = field(default_factory=set)

    def note(self, text: str, help_text: str) -> None:
        """Take in running text; a term that its help defines is explained there."""
        for term in terms_in(text):
            if terms.plain(ENTRIES[term].text) not in terms.plain(help_text):
                self.written.setdefault(term, text)

    def note_label(self, text: str, help_text: str) -> None:
        """Take in a label, which can hold no link: its help says in a line what it means."""
        if len(help_text) < 20:
            self.labels |= dict.fromkeys(terms_in(text), text)


def terms_in(text: str) -> set[str]:
    """The terms that a text of a page writes, outside code, quotations and the signs of Markdown."""
    text = re.sub(r"`[^`]*`|“[^“”]*”|:material/\w+:|:[a-z-]+(?=\[)|]\([^)]*\)", " ", TERM.sub(r" \1 ", text))
    marked = terms.marked(text.replace("\\", ""))
    return {by_slug()[slug] for slug in re.findall(rf"\]\({terms.ADDRESS}#([a-z0-9-]+) ", marked)}


def by_slug() -> dict[str, str]:
    return {terms.slug(term): term for term in ENTRIES}


def read(app: AppTest) -> Read:
    """Everything that the page writes, its charts and tables included."""
    assert not app.exception
    page = Read()
    for kind in SHOWN:
        for element in app.main.get(kind):
            text = str(element.value)
            page.explained |= {by_slug()[slug] for slug in re.findall(rf"\]\({terms.ADDRESS}#([a-z0-9-]+) ", text)}
            page.note(text, str(getattr(element.proto, "help", "")))
    for kind in WIDGETS:
        for element in app.main.get(kind):
            page.note_label(str(element.label), str(getattr(element.proto, "help", "")))
    for label in (fold.label for fold in app.main.get("expander")):
        page.note_label(str(label), "")
    for element in app.main.get("dataframe"):
        for column in json.loads(element.proto.columns or "{}").values():
            if isinstance(column, dict):
                page.note_label(str(column.get("label") or ""), str(column.get("help") or ""))
    for element in app.main.get("vega_lite_chart"):
        for title in titles(json.loads(element.proto.spec)):
            page.note_label(title, "")
    return page


def titles(part: Any) -> Iterator[str]:
    """The titles of axes and legends in a chart's specification."""
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            yield part["title"]
        for name, inner in part.items():
            if name not in ("datasets", "tooltip"):
                yield from titles(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from titles(inner)


@pytest.fixture(scope="module")
def workplace(recorded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A results file with the recorded runs that stays open for all pages."""
    path = tmp_path_factory.mktemp("terms") / "pprobe.duckdb"
    shutil.copy(recorded_file, path)
    st.cache_data.clear()
    st.cache_resource.clear()
    yield path
    playground.close()
    core_jobs.close()


def opened(page: str, address: Mapping[str, str]) -> AppTest:
    """The page; the playground's, once its first answer is there."""
    app = open_app(page, **address)
    limit = time.monotonic() + 60
    while any("hourglass_top" in m.value for m in app.markdown):
        assert time.monotonic() < limit, "no answer came"
        app.run()
    return app


def test_words_columns_and_axes_are_all_read(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    monkeypatch.setenv("PPROBE_DB", str(workplace))
    app = open_app("probe")
    assert {"FFN", "Layer", "Coupling", "Seed", "Forward pass", "Logit lens"} <= read(app).explained
    columns = [json.loads(frame.proto.columns or "{}") for frame in app.main.get("dataframe")]
    assert any("coherence" in names for names in columns)
    specs = [json.loads(chart.proto.spec) for chart in app.main.get("vega_lite_chart")]
    assert "Logit difference read off" in [title for spec in specs for title in titles(spec)]
    page = Read()
    page.note("The [Gini](x) of `layers` and “F” is a flip rate", "")
    page.note_label("Seed", "")
    assert (set(page.written), set(page.labels)) == ({"Concentration", "Flip rate"}, {"Seed"})


def test_the_editor_of_a_behaviour_explains_its_terms(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    monkeypatch.setenv("PPROBE_DB", str(workplace))
    page = read(open_app("circuits").button(key="new_behaviour").click().run())
    assert {"Token", "Circuit"} & page.explained
    assert not {term: text for term, text in {**page.written, **page.labels}.items() if term not in page.explained}


@pytest.mark.parametrize("place", PLACES)
def test_every_term_that_a_page_writes_is_explained_on_it(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, place: str
) -> None:
    monkeypatch.setenv("PPROBE_DB", str(workplace))
    page = read(opened(*PLACES[place]))
    assert page.explained
    for where in (page.written, page.labels):
        unexplained = {term: text for term, text in where.items() if term not in page.explained}
        assert not unexplained, f"written and nowhere explained: {unexplained}"
