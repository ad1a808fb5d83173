"""The HTML report: whole, self-contained, harmless whatever prompts and names hold, and with the numbers it claims."""

import base64
import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pprobe_core import __main__ as command_line
from pprobe_core import compare_frames, html_report
from pprobe_core.comparison import CompareRequest, checked_comparison
from pprobe_core.errors import BadRequest
from pprobe_core.reproduction import document_sha256, reproduce_json
from pprobe_core.store import Store
from tests.results_by_hand import result_by_hand

HOSTILE = "</p><script>alert('x')</script>\u202e \x07 <img src=x onerror=alert(1)>"
VOID = {"meta", "br", "link", "img"}


class Parsed(HTMLParser):
    """The tags of a page, with what is left open, and every attribute value."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.folded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "details" in self.open:
            self.folded.append(data)


def whole(text: str) -> Parsed:
    """The page parses, closes what it opens, and neither runs nor loads anything."""
    page = Parsed(text)
    assert page.open == []
    assert not {"script", "iframe", "img", "link", "object", "embed", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:application/json;base64,"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    return page


@pytest.fixture(scope="module")
def recorded(recorded_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("report") / "pprobe.duckdb"
    path.write_bytes(recorded_file.read_bytes())
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def run_id(recorded: Store) -> str:
    """A recorded run of the refusal circuit that has sweeps."""
    runs = recorded.runs()
    mine = runs[(runs["model"] == "mini-qwen3") & (runs["circuit"] == "safety_refusal") & (runs["n_sweeps"] > 0)]
    return str(mine.iloc[0]["run_id"])


@pytest.fixture(scope="module")
def report_of_run(recorded: Store, run_id: str) -> str:
    return html_report.run_html(recorded, run_id)


def test_the_report_of_a_run_is_whole_and_small(report_of_run: str) -> None:
    page = whole(report_of_run)
    assert len(report_of_run) < 3_000_000
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") == page.tags.count("figure") >= 10


def test_every_chart_has_a_text_of_its_own(report_of_run: str) -> None:
    labels = re.findall(r'<svg [^>]*aria-label="([^"]+)"', report_of_run)
    assert len(labels) == report_of_run.count("<figure>")
    assert min(map(len, labels)) > 20


def test_the_numbers_are_the_runs_with_interval_and_n(report_of_run: str, recorded: Store, run_id: str) -> None:
    words = " ".join(whole(report_of_run).text)
    s = recorded.run(run_id).summary
    low, high = s["ffn_skip"]["interval"]
    assert f"{s['ffn_skip']['mean']:.2f}" in words
    assert f"[{low:.2f}, {high:.2f}]" in words
    assert f"{s['n_pairs']} pairs" in words
    assert s["weights_sha256"] in words
    assert s["prompt_set_sha256"] in words
    for sweep_id in recorded.sweeps(run_id)["sweep_id"]:
        assert str(sweep_id) in words


def test_before_and_after_count_the_answers_of_one_split(report_of_run: str, recorded: Store, run_id: str) -> None:
    told = re.findall(r"(\d+) of (\d+) (\S+) answers change class at ([^<]+)\.</p>", report_of_run)
    sizes = set()
    for sweep_id in recorded.sweeps(run_id)["sweep_id"]:
        answers = recorded.sweep_responses(str(sweep_id))
        sizes.add(answers.loc[answers["split"] == "heldout", "pair_id"].nunique())
    assert told
    for n_changed, n, split, place in told:
        assert split == "held-out"
        assert int(n_changed) <= int(n)
        assert int(n) in sizes
        assert "heldout" not in place


def test_words_that_an_edit_changed_are_marked_on_both_sides(report_of_run: str, recorded: Store, run_id: str) -> None:
    cells = re.findall(
        r'<h4>(Unedited|Edited)</h4>.*?<span dir="auto" class="words">(.*?)</span></p>', report_of_run, re.DOTALL
    )
    assert len(cells) > 10
    answers = set[str]()
    for sweep_id in recorded.sweeps(run_id)["sweep_id"]:
        answers |= set(recorded.sweep_responses(str(sweep_id))["text"])
    pairs = list(zip(cells[::2], cells[1::2], strict=True))
    n_marked = 0
    for (one, before), (other, after) in pairs:
        assert (one, other) == ("Unedited", "Edited")
        texts = [html.unescape(re.sub("</?mark>", "", side)) for side in (before, after)]
        assert texts[0] in answers | {"(empty)"}
        assert texts[1] in answers | {"(empty)"}
        if texts[0] == texts[1]:
            assert "<mark>" not in before + after
        n_marked += "<mark>" in before + after
    assert n_marked


def test_answers_that_go_along_stay_folded(report_of_run: str, recorded: Store, run_id: str) -> None:
    page = whole(report_of_run)
    pairs = recorded.pairs(run_id)
    complied = pairs[pairs["class_perturbed"] == "compliance"]["response_perturbed"].head(html_report.N_EXAMPLES)
    assert len(complied)
    openly = " ".join(page.text)
    for answer in set(complied):
        assert openly.count(answer) == " ".join(page.folded).count(answer) > 0


def test_the_file_that_reproduces_it_is_inside(report_of_run: str, recorded: Store, run_id: str) -> None:
    (data,) = re.findall(r'href="data:application/json;base64,([^"]+)"', report_of_run)
    document = json.loads(base64.b64decode(data))
    assert document["sha256"] == document_sha256(document) == reproduce_json(recorded, run_id)["sha256"]


def test_texts_of_others_are_harmless(tmp_path: Path) -> None:
    result = result_by_hand(model=f"by-hand{HOSTILE}", note=HOSTILE)
    result.pairs["original_text"] = HOSTILE
    result.pairs["response_perturbed"] = HOSTILE
    result.summary["verdict"]["reasons"] = [HOSTILE]
    with Store(tmp_path / "x.duckdb") as store:
        store.save_run(result)
        text = html_report.run_html(store, result.run_id)
    page = whole(text)
    assert any("<script>alert" in part for part in page.text)  # shown, not run
    assert re.search(r'<p dir="auto" class="words">&lt;/p&gt;', text)


def test_a_comparison_is_whole_also_where_parts_are_missing(recorded: Store) -> None:
    request = checked_comparison(
        CompareRequest(("mini-qwen3", "mini-llama"), ("safety_refusal",), sweeps=("dose", "window"))
    )
    page = whole(html_report.comparison_html(recorded, compare_frames.compared(recorded, request)))
    words = " ".join(page.text)
    assert "mini-qwen3 and mini-llama side by side" in words
    assert page.tags.count("figure") >= 3


def test_a_comparison_of_nothing_says_so(tmp_path: Path) -> None:
    request = checked_comparison(CompareRequest(("mini-qwen3", "mini-llama"), ("code",), sweeps=()))
    with Store(tmp_path / "x.duckdb") as store:
        words = " ".join(whole(html_report.comparison_html(store, compare_frames.compared(store, request))).text)
    assert "Nothing of it has been run yet" in words


def test_the_command_line_writes_it(recorded_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(recorded_store.runs().query("n_sweeps == 0").iloc[0]["run_id"])
    path = str(recorded_store.path)
    recorded_store.close()
    out = tmp_path / "reports"
    assert command_line.main(["runs", "export", run, "--db", path, "--format", "html", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / f"{run}.html")
    whole((out / f"{run}.html").read_text(encoding="utf-8"))


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match=r"cannot be written .* Name another one"):
        html_report.write("", tmp_path / "file" / "report.html")
