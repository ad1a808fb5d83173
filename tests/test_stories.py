"""What people come for, in a real browser, on the results that come with the product and on new ones.

`PPROBE_PICTURES=folder` also takes a picture at the end of each story.
"""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from pprobe_core.settings import SHIPPED_MODELS
from tests.browsing import Server
from tests.test_browser import PATIENCE, charts_with_marks, choose, go_to, settled

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
PICTURES = os.environ.get("PPROBE_PICTURES")
RESULT_PAGES = (
    "probe",
    "dose",
    "window",
    "controls",
    "compare",
    "playground",
    "runs",
    "glossary",
    "prompts",
    "circuits",
)


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dashboard with the recorded results."""
    with Server(tmp_path_factory.mktemp("stories")) as running:
        yield running
    assert "Traceback" not in running.log, running.log[-3000:]


def visitor(browser: Browser, server: Server, *, toured: bool = True) -> BrowserContext:
    """A browser of its own; `toured`: the tour was closed in it before."""
    context = browser.new_context(
        reduced_motion="reduce", viewport={"width": 1280, "height": 900}, base_url=server.url, accept_downloads=True
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=60_000)
    if toured:
        context.add_cookies([{"name": "pprobe_tour", "value": "0", "url": server.url}])
    return context


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = visitor(browser, server)
    opened = context.new_page()
    yield opened
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=Path(PICTURES) / f"{request.node.name.removeprefix('test_')}.png")
    context.close()


def main(page: Page) -> str:
    return page.get_by_test_id("stMain").inner_text()


def test_a_first_visit_shows_an_explained_result_on_every_page(browser: Browser, server: Server) -> None:
    context = visitor(browser, server, toured=False)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_role("heading", name="Safety refusal in mini-qwen3")).to_be_visible(timeout=PATIENCE)
    settled(page)
    expect(page.get_by_text("not computed on this computer").first).to_be_visible()
    expect(page.get_by_text("What this means").first).to_be_visible()
    charts_with_marks(page, 2)

    # The tour: three cards, and it is over for good.
    for step, press in ((1, "tour_next"), (2, "tour_next"), (3, "tour_close")):
        expect(page.locator(".st-key-tour").get_by_text(f"{step} of 3")).to_be_visible()
        page.locator(f".st-key-{press}").get_by_role("button").click()
        settled(page)
    expect(page.locator(".st-key-tour")).to_have_count(0)
    page.reload()
    settled(page)
    expect(page.locator(".st-key-tour")).to_have_count(0)

    for name in RESULT_PAGES:
        page.locator(f'[data-testid="stSidebarNavLink"][href$="/{name}"]').click()
        expect(page).to_have_url(re.compile(f"/{name}([?]|$)"))
        expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=PATIENCE)
        settled(page)
        assert "No run yet" not in main(page), name
    outside = [
        url for url in asked if not url.startswith((server.url, server.url.replace("http", "ws"), "data:", "blob:"))
    ]
    assert not outside, "something was asked of another server"
    context.close()


def progress_box(page: Page) -> list[float]:
    """Left, top, width and height of the progress in the page, or of what stands in its place when it is done."""
    box = page.locator(".st-key-watched_job").bounding_box()
    assert box is not None
    return [box[name] for name in ("x", "y", "width", "height")]


def top_of(heading: Locator) -> float:
    """Where a heading stands on the screen."""
    box = heading.bounding_box()
    assert box is not None
    return box["y"]


def test_a_window_of_an_own_run(page: Page) -> None:
    page.goto("/?circuit=language")
    expect(page.get_by_role("heading", name="Output language in mini-qwen3")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_test_id("stMain").get_by_text("Advanced").click()
    box = page.get_by_role("spinbutton", name="Pairs at most")
    box.fill("10")
    box.press("Enter")
    expect(page.get_by_text("has not been run yet")).to_be_visible()
    page.get_by_test_id("stMain").get_by_role("button", name="Run", exact=True).click()
    under_way = progress_box(page)
    expect(page.get_by_text("n = 10 pairs").first).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert progress_box(page) == pytest.approx(under_way, abs=2), "something moved when the job ended"
    go_to(page, "Injection window")
    page.get_by_test_id("stMain").get_by_text("Advanced").click()
    for label, value in (("Layers", "1, 4"), ("Strengths", "-1, 1")):
        field_ = page.get_by_role("textbox", name=label)
        field_.fill(value)
        field_.press("Enter")
        settled(page)
    page.get_by_role("button", name="Run sweep").click()
    under_way = progress_box(page)
    expect(page.get_by_role("heading", name="Is it more than chance?")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert progress_box(page) == pytest.approx(under_way, abs=2), "something moved when the job ended"
    charts_with_marks(page, 1)
    panel = page.locator(".st-key-job_panel")
    assert "sweep=" in (panel.get_by_role("link", name="Open result").get_attribute("href") or "")


def test_three_architectures_side_by_side(page: Page) -> None:
    page.goto("/compare?models=mini-qwen3,mini-llama,mini-gemma3")
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=PATIENCE)
    settled(page)
    charts_with_marks(page, 2)
    text = main(page)
    for model in ("mini-qwen3", "mini-llama", "mini-gemma3"):
        assert model in text
    for view in ("Dose response", "Injection window", "In words"):
        page.get_by_test_id("stButtonGroup").get_by_role("radio", name=view).or_(
            page.get_by_test_id("stMain").get_by_role("button", name=view)
        ).first.click()
        settled(page)
        assert "has been run yet" not in main(page), view
    assert "view=words" in page.url


def test_the_playground_answers_while_a_slider_moves(page: Page) -> None:
    page.goto("/playground?model=mini-qwen3&circuit=safety_refusal")
    settled(page)
    expect(page.locator(".st-key-play_unedited")).not_to_be_empty(timeout=PATIENCE)
    expect(page.locator(".st-key-play_edited")).to_be_visible(timeout=PATIENCE)
    slider = page.locator(".st-key-play_n").get_by_role("slider")
    slider.focus()
    for _ in range(12):
        slider.press("ArrowLeft")
    settled(page)
    expect(slider).to_have_attribute("aria-valuetext", "0")
    for _ in range(7):
        slider.press("ArrowRight")
    settled(page)
    expect(slider).to_have_attribute("aria-valuetext", "100")
    # Class before and after in words, and beside each answer; the words that differ; a bar per first token and answer.
    expect(page.locator(".st-key-play_head h2")).to_contain_text("Refuses → Goes along")
    for arm, named, answered in (
        ("unedited", "As it is", "Refuses"),
        ("edited", "Changed", "Goes along"),
        ("random", "Random change", "Refuses"),
    ):
        card = page.locator(f".st-key-play_{arm}")
        expect(card).to_contain_text(named)
        expect(card).to_contain_text(answered)
    folded = page.locator(".st-key-play_edited").get_by_text("Show the compliant answer")
    if folded.count():
        folded.click()
    expect(page.locator(".st-key-play_edited u").first).to_be_visible()
    charts_with_marks(page, 2)
    bars = page.get_by_test_id("stVegaLiteChart").first.locator(".mark-rect.role-mark path")
    assert len({bar.get_attribute("fill") for bar in bars.all()}) == 3, "a colour for each of the three answers"


def test_an_own_prompt_file_from_upload_to_result(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "questions.csv"
    rows = [
        f"{a} plus {b} is {a + b}, right?,{a} plus {b} is {a + b + 3}, right?"
        for a, b in zip(range(2, 12), range(3, 13), strict=True)
    ]
    lines = [row.replace(", right?", "; right?") for row in rows]
    file.write_text("question,perturbed\n" + "\n".join([*lines, lines[0]]) + "\n", encoding="utf-8")
    page.goto("/prompts?circuit=sycophancy")
    settled(page)
    choose(page, "For the behaviour", "Sycophancy")
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(file)
    expect(page.get_by_text("Which column holds what")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert re.search(r"10 pairs", main(page)), "the row that stands twice is left out"
    page.locator(".st-key-keep_set").get_by_role("button").click()
    settled(page)
    page.get_by_role("button", name="Use it on the Start page").first.click()
    expect(page.get_by_text("has not been run yet")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_test_id("stMain").get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Sycophancy in mini-qwen3")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert "questions" in main(page)


def type_model(page: Page, folder: Path) -> None:
    """Name a folder in the model picker."""
    page.get_by_role("heading", level=1).scroll_into_view_if_needed()
    box = page.get_by_role("combobox", name="Model")
    box.click()
    box.fill(str(folder))
    box.press("Enter")
    settled(page)
    expect(page.get_by_test_id("stMain")).to_contain_text(str(folder))


def test_a_model_that_cannot_be_used_is_said_in_words_and_nothing_is_lost(page: Page, tmp_path: Path) -> None:
    experts, damaged = tmp_path / "experts", tmp_path / "damaged"
    for folder in (experts, damaged):
        shutil.copytree(SHIPPED_MODELS / "mini-qwen3", folder)
    config = json.loads((experts / "config.json").read_text("utf-8"))
    (experts / "config.json").write_text(json.dumps(config | {"num_experts": 8}), "utf-8")
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-400_000:] = b"\xff" * 400_000  # as numbers: no number
    (damaged / "model.safetensors").write_bytes(weights)

    page.goto("/")
    settled(page)
    run = page.get_by_test_id("stMain").get_by_role("button", name="Run", exact=True)
    for folder, said in ((tmp_path / "no such folder", "no such folder"), (experts, "mixture of experts")):
        type_model(page, folder)
        expect(run).to_be_disabled()
        expect(page.get_by_test_id("stAlert").filter(has_text=said)).to_be_visible()
    type_model(page, damaged)  # what is wrong with it shows when it is loaded
    run.click()
    expect(page.get_by_text("The last try failed")).to_contain_text("damaged", timeout=PATIENCE)
    settled(page)
    assert "Traceback" not in main(page)
    go_to(page, "Probe")
    expect(page.get_by_role("heading", name="Pair by pair")).to_be_visible(timeout=PATIENCE)


ANSWERS_READ = re.compile(r"answers: (\d+) of")
SOME_READ = re.compile(r"answers: (19[2-9]|[2-9]\d\d) of")  # three times as many as are kept together
# Every text of the progress from now on.
NOTE_PROGRESS = """() => {
    window.progress = [];
    new MutationObserver(() => {
        const box = document.querySelector('.st-key-watched_job');
        if (box) window.progress.push(box.innerText);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def answers_read(text: str) -> int:
    """How many answers a progress says are read."""
    found = ANSWERS_READ.search(text)
    assert found is not None, text
    return int(found[1])


def start_a_long_sweep(page: Page, circuit: str, draws: int = 7) -> None:
    """A dose sweep with answers that is not among the recorded ones, some seconds long."""
    page.goto(f"/dose?model=mini-qwen3&circuit={circuit}")
    expect(page.get_by_role("button", name="Run sweep")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_test_id("stMain").get_by_text("Advanced").click()
    for role, label, value in (("textbox", "Numbers of neurons", "90"), ("spinbutton", "Random draws", str(draws))):
        box = page.get_by_role(role, name=label)  # type: ignore[arg-type]
        box.fill(value)
        box.press("Enter")
        settled(page)
    page.get_by_role("button", name="Run sweep").click()
    expect(page.locator(".st-key-watched_job")).to_be_visible(timeout=PATIENCE)


def test_a_sweep_is_cancelled_and_goes_on_where_it_stopped(page: Page) -> None:
    start_a_long_sweep(page, "code", draws=12)
    progress = page.locator(".st-key-watched_job")
    expect(progress).to_contain_text(SOME_READ, timeout=PATIENCE)
    kept = answers_read(progress.inner_text())
    page.locator(".st-key-cancel_page").get_by_role("button").click()
    expect(page.get_by_text("This sweep was cancelled")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.evaluate(NOTE_PROGRESS)
    page.get_by_role("button", name="Run sweep").click()
    expect(progress).to_be_visible()
    # Below it stands the recorded sweep, and then the new one: neither the box nor its heading may move.
    shown = page.get_by_role("heading", name="Number of neurons")
    under_way, below = progress_box(page), top_of(shown)
    panel = page.locator(".st-key-job_panel")
    expect(panel.get_by_text("Nothing is running")).to_be_visible(timeout=PATIENCE)
    settled(page)
    assert progress_box(page) == pytest.approx(under_way, abs=2), "something moved when the job ended"
    assert top_of(shown) == pytest.approx(below, abs=2), "what stands below the progress moved when the job ended"
    seen = [answers_read(text) for text in page.evaluate("window.progress") if ANSWERS_READ.search(text)]
    assert min(seen, default=kept) >= kept > 0, "answers that were kept were read again"
    expect(page.get_by_role("heading", name="Is it more than chance?")).to_be_visible()
    expect(page.get_by_text("with 90 of 3,072 neurons").or_(page.get_by_text("90 of 3,072")).first).to_be_attached()


def test_two_visitors_do_not_disturb_each_other(browser: Browser, server: Server, page: Page) -> None:
    other_context = visitor(browser, server)
    other = other_context.new_page()
    page.goto("/probe?model=mini-qwen3&circuit=math")
    other.goto("/probe?model=mini-gemma3&circuit=sycophancy")
    for one in (page, other):
        expect(one.get_by_role("heading", name="Pair by pair")).to_be_visible(timeout=PATIENCE)
        settled(one)
    go_to(other, "Dose response")
    go_to(page, "Injection window")
    go_to(page, "Probe")
    expect(page.get_by_role("heading", level=1)).to_contain_text("mini-qwen3")
    go_to(other, "Probe")
    expect(other.get_by_role("heading", level=1)).to_contain_text("mini-gemma3")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Arithmetic")
    other_context.close()


def test_a_killed_server_goes_on_with_its_sweep_and_the_page_comes_back(page: Page, server: Server) -> None:
    start_a_long_sweep(page, "math")
    server.stop(signal.SIGKILL)
    server.start()
    page.goto("/runs")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible(timeout=PATIENCE)
    settled(page)
    panel = page.locator(".st-key-job_panel")
    expect(panel.get_by_text("Nothing is running")).to_be_visible(timeout=PATIENCE)
    expect(panel.get_by_role("link", name="Open result")).to_be_visible()
    panel.get_by_role("link", name="Open result").click()
    expect(page.get_by_role("heading", name="Is it more than chance?")).to_be_visible(timeout=PATIENCE)


def test_a_copied_link_opens_the_same_thing_in_another_browser(browser: Browser, server: Server, page: Page) -> None:
    page.goto("/dose?model=mini-llama&circuit=safety_refusal")
    expect(page.get_by_role("heading", name="Is it more than chance?")).to_be_visible(timeout=PATIENCE)
    settled(page)
    slider = page.locator(".st-key-dose").get_by_role("slider")
    slider.press("ArrowLeft")
    settled(page)
    chosen = slider.get_attribute("aria-valuetext")
    page.get_by_role("button", name="Share").first.click()
    address = page.get_by_test_id("stCode").first.inner_text().strip()
    assert address.startswith(server.url), address
    other_context = visitor(browser, server)
    other = other_context.new_page()
    other.goto(address)
    expect(other.get_by_role("heading", name="Is it more than chance?")).to_be_visible(timeout=PATIENCE)
    settled(other)
    expect(other.locator(".st-key-dose").get_by_role("slider")).to_have_attribute("aria-valuetext", chosen or "")
    assert "mini-llama" in main(other)
    other_context.close()
