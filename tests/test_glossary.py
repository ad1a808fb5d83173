"""The glossary and its terms in running text: nothing undefined, nothing unused, nothing marked that others wrote."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core import window_charts
from ui import glossary, terms, words
from ui.glossary import ENTRIES, GROUPS

ROOT = Path(__file__).resolve().parent.parent
MAIN = ROOT / "ui" / "main.py"
# Words of the field that a reader without it cannot know. Where one is shown, the glossary must have it.
JARGON = (
    "ablation", "attention", "AUC", "base model", "bfloat16", "bootstrap", "chat template", "coherence", "collateral",
    "coupling", "coverage", "difference of means", "discovery", "embedding", "excess", "FFN", "FFN/Skip", "flip rate",
    "forward pass", "Gini", "gradients", "held-out", "Holm", "hypergeometric", "importance", "injection", "kappa",
    "layer", "logit", "logit difference", "logit lens", "logits", "loss", "McNemar", "nats per token", "neuron",
    "norm-aware", "opposition", "output head", "p values", "patching", "permutation test", "perturbation",
    "playground", "random draws", "ranking", "read-out", "regime", "residual stream", "RMS", "routing", "seed",
    "SHA-256", "sign-flip", "skip path", "slope", "Spearman's rho", "sweep", "thinking", "token", "tokeniser",
    "variance", "verdict", "weights",
)  # fmt: skip


def texts(*places: str) -> Iterator[str]:
    """Every text in some source files, docstrings and definitions of the glossary itself left out."""
    paths = [path for place in places for path in sorted(ROOT.glob(place))]
    assert paths
    for path in paths:
        if path.name == "glossary.py" and path.parent.name == "ui":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


SHOWN = " \n ".join(
    texts(
        "ui/*.py", "pages/*.py", "pprobe_core/*chart*.py", "pprobe_core/compare_charts/*.py",
        "pprobe_core/meaning/*.py", "pprobe_core/compare_words.py", "pprobe_core/probing/verdict.py",
        "pprobe_core/interventions/*.py",
    )
)  # fmt: skip


@cache
def written() -> set[str]:
    """The forms of terms that are shown somewhere, in small letters."""
    return {match.lower() for match in terms.PATTERN.findall(SHOWN)}


# ---------------------------------------------------------------------------------------------------- the entries


@pytest.mark.parametrize("term", ENTRIES)
def test_an_entry_is_whole(term: str) -> None:
    entry = ENTRIES[term]
    assert entry.group in GROUPS
    assert entry.text.endswith(".")
    assert 30 < len(entry.text) < 420
    assert entry.forms
    assert set(entry.related) <= set(ENTRIES) - {term}
    assert (ROOT / "pages" / f"{entry.page}.py").exists()
    assert entry.text.count("*") % 2 == 0
    assert entry.text.count("`") % 2 == 0


def test_no_form_and_no_address_stands_for_two_terms() -> None:
    forms = [form.lower() if len(form) > 1 else form for entry in ENTRIES.values() for form in entry.forms]
    assert sorted(forms) == sorted(set(forms))
    assert len({terms.slug(term) for term in ENTRIES}) == len(ENTRIES)


def test_every_group_has_entries() -> None:
    assert {entry.group for entry in ENTRIES.values()} == set(GROUPS)


@pytest.mark.parametrize("term", ENTRIES)
def test_no_entry_is_unused(term: str) -> None:
    assert any(form.lower() in written() for form in ENTRIES[term].forms), (
        f"no page writes any of {ENTRIES[term].forms}"
    )


@pytest.mark.parametrize("word", JARGON)
def test_a_word_of_the_field_that_is_shown_is_explained(word: str) -> None:
    assert re.search(rf"(?i)\b{re.escape(word)}\b", SHOWN), "shown nowhere any more: take it off the list"
    assert terms.marked(f"What {word} means").count(f"]({terms.ADDRESS}#") >= 1


def test_the_words_of_stages_structures_and_regimes_are_defined() -> None:
    stages = words.GLOSSARY["Stage"].lower()
    assert all(name in stages for name, _ in words.STAGES)
    assert {words.STRUCTURES[name] for name in ("opposition", "routing", "read_out")} <= set(words.GLOSSARY)
    window = words.GLOSSARY["Injection window"].lower()
    assert all(name in window for name in window_charts.REGIMES if name != "mixed")


def test_every_help_text_is_used_and_every_used_one_is_there() -> None:
    used = set()
    for path in [*(ROOT / "ui").glob("*.py"), *(ROOT / "pages").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        used |= set(re.findall(r'HELP\[f?"(\w+)"\]', source)) | set(re.findall(r"HELP\[f?'(\w+)'\]", source))
        if re.search(r"HELP\[(?![\"'f])", source):  # by a variable: the keys stand as texts in the same file
            used |= {key for key in words.HELP if f'"{key}"' in source}
    assert used <= set(words.HELP)


# ------------------------------------------------------------------------------------------------- in running text


def test_only_the_first_occurrence_of_a_term_is_explained() -> None:
    marked = terms.marked("Neurons and neurons, a neuron, the FFN and the FFNs.")
    assert marked.count("glossary#neuron") == 1
    assert marked.count("glossary#ffn ") == 1
    assert marked.startswith('[Neurons](glossary#neuron "One unit')


def test_what_was_explained_before_is_not_explained_again() -> None:
    seen: set[str] = set()
    assert "glossary#neuron" in terms.marked("a neuron", seen=seen)
    assert terms.marked("another neuron", seen=seen) == "another neuron"


def test_in_markdown_of_ours_code_links_and_quotations_stay_as_they_are() -> None:
    seen = {"Sweep"}
    said = terms.said("**Run sweep**: `seed` [layer](x) “F” of *neurons* \\<b\\>seed", ["\\<b\\>seed"], seen)
    assert said.startswith('**Run sweep**: `seed` [layer](x) “F” of *[neurons](glossary#neuron "')
    assert said.endswith('")* \\<b\\>seed')
    assert seen == {"Sweep", "Neuron"}
    assert terms.said(said, ["\\<b\\>seed"], {"Sweep"}) == said


def test_what_a_person_wrote_is_found_as_whole_words_only() -> None:
    assert "glossary#layer" in terms.marked("a layer of a model", own=["a"])
    assert "glossary#" not in terms.marked("my layer of a model", own=["my layer", " "])


@pytest.mark.parametrize("text", ["neuron-7b", "org/neuron", "L3.N12", "xlayers", "neuron_x", "ffn", "f moves", "P"])
def test_names_paths_and_other_words_are_left_alone(text: str) -> None:
    assert "glossary#" not in terms.marked(text) or text == "ffn"
    assert "F" not in re.findall(r"\[(\w)\]\(glossary", terms.marked(text))


def test_nothing_that_others_wrote_is_marked() -> None:
    name = "my neuron ](http://evil) <script>alert(1)</script>"
    marked = terms.marked(f"{name} has neurons", own=[name])
    assert marked.count("glossary#") == 1
    assert marked.endswith(terms.marked(" has neurons"))
    assert "<script>" not in marked
    assert "](http" not in marked.replace("\\]", "")


@pytest.mark.parametrize(
    "text",
    ["<script>x</script>", "[a](b)", "**b** `c`", "$x$", ":red[y]", "~~z~~", "# h", "\u202e\U0001f600 rtl", "../x", ""],
)
def test_text_is_shown_as_it_is(text: str) -> None:
    assert terms.marked(text) == terms.escaped(text)


@pytest.mark.parametrize("term", ENTRIES)
def test_a_definition_fits_into_the_title_of_a_link(term: str) -> None:
    marked = terms.link(term, "shown")
    found = re.fullmatch(r'\[shown\]\(glossary#([a-z0-9-]+) "((?:[^"\\]|\\.)*)"\)', marked)
    assert found
    assert found[1] == terms.slug(term)
    assert not {"*", "`", "\n"} & set(found[2])


def test_the_search_finds_names_before_mentions_and_everything_without_a_query() -> None:
    assert terms.search("") == list(ENTRIES)
    assert terms.search("flip rate")[0] == "Flip rate"
    found = terms.search("RANDOM draws")
    assert found[0] == "Random draws"
    assert "p value" in found
    assert terms.search("zebra") == []


# ------------------------------------------------------------------------------------------------- the Glossary page


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AppTest]:
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "none.duckdb"))
    monkeypatch.setenv("PPROBE_RECORDED", "0")
    st.cache_data.clear()
    st.cache_resource.clear()
    yield AppTest.from_file(str(MAIN), default_timeout=60).switch_page("../pages/glossary.py").run()
    core_jobs.close()


def test_the_glossary_shows_every_term_and_finds_one(page: AppTest) -> None:
    assert not page.exception
    assert {header.value for header in page.subheader} == set(ENTRIES)
    assert [header.value for header in page.header] == list(GROUPS)
    assert {header.anchor for header in page.subheader if hasattr(header, "anchor")} == {
        terms.slug(term) for term in ENTRIES
    }
    page.text_input(key="glossary_search").set_value("kappa").run()
    assert page.subheader[0].value in ("Class of an answer", "Cohen's kappa")
    assert len(page.subheader) < 5
    page.text_input(key="glossary_search").set_value("<script>](x)").run()
    assert not page.exception
    assert len(page.subheader) == 0
    assert "No term has to do with" in page.info[0].value
    assert "<script>" not in page.info[0].value


def test_links_to_the_glossary_lead_to_its_page() -> None:
    main = MAIN.read_text(encoding="utf-8")
    assert re.search(rf'pages/glossary\.py".*url_path="{terms.ADDRESS}"', main)
    assert glossary.GROUPS
