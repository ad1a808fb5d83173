"""The main path in a real headless browser: first run, another behaviour, result, ranking, comparison, deletion, links.

Takes the system's Chromium or Chrome, else Playwright's own download. Without either the tests are skipped, unless
PPROBE_REQUIRE_BROWSER=1 says that they must run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browsing import Server

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
FIRST_RUN = "Safety refusal in mini-qwen3"
PATIENCE = 240_000  # ms; seconds suffice on a free computer, but a shared one may be busy
ROW_HEIGHT = 35  # of the tables, which are drawn on a canvas


@pytest.fixture(scope="module")
def dashboard(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a dashboard on an empty results file of its own.

    Without recorded results: what is on screen was computed in front of the visitor.
    """
    with Server(tmp_path_factory.mktemp("dashboard"), recorded=False) as server:
        yield server.url
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def recorded_dashboard(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a dashboard with the recorded results."""
    with Server(tmp_path_factory.mktemp("recorded_dashboard")) as server:
        yield server.url
    assert "Traceback" not in server.log


@pytest.fixture
def page(browser: Browser, dashboard: str) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 1280, "height": 900}, base_url=dashboard)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    expect.set_options(timeout=60_000)
    yield opened
    context.close()


def settled(page: Page) -> Page:
    """The page has stopped working, and shows no error."""
    page.wait_for_timeout(300)
    page.wait_for_selector(
        '[data-testid="stApp"][data-test-script-state="notRunning"][data-test-connection-state="CONNECTED"]'
    )
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_text("Something unexpected happened").count() == 0
    return page


def charts_with_marks(page: Page, at_least: int) -> None:
    """That many charts are drawn, each with marks in it."""
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts.nth(at_least - 1)).to_be_attached(timeout=PATIENCE)
    for place in range(charts.count()):
        chart = charts.nth(place)
        chart.scroll_into_view_if_needed()
        expect(chart.locator("svg.marks, canvas.marks").first).to_be_visible(timeout=PATIENCE)
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('[data-testid=stVegaLiteChart]')].map(chart => {
            const svg = chart.querySelector('svg.marks');
            if (svg) return svg.querySelectorAll('.role-mark path, .role-mark line, .role-mark rect').length;
            const canvas = chart.querySelector('canvas');
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(pixels).size;
        })"""
    )
    assert min(drawn) > 1, drawn


def unfolded(page: Page) -> Page:
    """The Probe page with the charts that are drawn when somebody opens them."""
    for title in ("What the ratio is made of", "The same prompts as the model reads them"):
        settled(page).locator("summary", has_text=title).click()
    return settled(page)


def go_to(page: Page, name: str) -> Page:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    return settled(page)


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("heading", level=1).scroll_into_view_if_needed()  # an open list closes when the page scrolls
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).click()
    settled(page)


def tick_row(table: Locator, row: int, enables: Locator | None = None) -> None:
    """Tick a row of a table drawn on a canvas; `enables` is a button that the tick enables, else the tick is repeated.

    A canvas that was just drawn anew may not take the first click.
    """
    for _ in range(5):
        table.scroll_into_view_if_needed()
        table.click(position={"x": 18, "y": ROW_HEIGHT * row + ROW_HEIGHT * 1.5})
        if enables is None:
            return
        try:
            expect(enables).to_be_enabled(timeout=5_000)
        except AssertionError:
            continue
        return


def test_the_main_path(page: Page) -> None:
    # A first run of the shipped model appears by itself.
    page.goto("/")
    expect(page.get_by_role("heading", name=FIRST_RUN)).to_be_visible(timeout=PATIENCE)
    charts_with_marks(settled(page), 2)

    # Another behaviour: Run, wait, result.
    choose(page, "Behaviour", "Output language")
    expect(page.get_by_text("has not been run yet")).to_be_visible()
    page.get_by_test_id("stMain").get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Output language in mini-qwen3")).to_be_visible(timeout=PATIENCE)
    settled(page)

    # The full result: all charts, Chinese text, the prompts' tokens.
    page.get_by_role("link", name="Open the full result").click()
    expect(page.get_by_role("heading", name="Pair by pair")).to_be_visible(timeout=PATIENCE)
    assert re.search(r"/probe\?.*run=[0-9a-f]{12}", page.url)
    charts_with_marks(settled(page), 7)
    charts_with_marks(unfolded(page), 9)
    assert re.search(r"[\u4e00-\u9fff]", page.get_by_test_id("stMain").inner_text())
    assert (
        page.evaluate(
            """() => {
            const draw = text => {
                const canvas = document.createElement('canvas');
                const context = canvas.getContext('2d');
                context.font = '20px ' + getComputedStyle(document.body).fontFamily;
                context.fillText(text, 5, 30);
                return canvas.toDataURL();
            };
            return new Set(['语', '言', '\\u{10FFFD}'].map(draw)).size;  // a missing glyph is the same box for all
        }"""
        )
        == 3
    )

    # Another ranking: sentence, address, map.
    page.get_by_test_id("stButtonGroup").get_by_role("radio", name="Ablation").or_(
        page.get_by_role("button", name="Ablation")
    ).first.click()
    expect(page.get_by_text("would change the original answer if switched off")).to_be_visible()
    settled(page)
    assert "ranking=ablation" in page.url

    # A rectangle drawn in the neuron map filters the table beside it.
    neuron_map = page.locator('[class*="st-key-map_ablation"] canvas, [class*="st-key-map_ablation"] svg.marks').first
    neuron_map.scroll_into_view_if_needed()
    box = neuron_map.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.7, steps=8)
    page.mouse.up()
    expect(page.get_by_text(re.compile(r"\d+ neurons inside the selection"))).to_be_visible()

    # Runs: compare the two, then delete one after confirming.
    go_to(page, "Runs")
    expect(page.get_by_text("2 of 2 runs")).to_be_visible()
    charts_with_marks(page, 1)
    page.get_by_role("radio", name="FFN/Skip").or_(page.get_by_role("button", name="FFN/Skip")).first.click()
    expect(page.get_by_text(re.compile("FFN/Skip ratio"))).not_to_have_count(0)
    history = page.locator('[class*="st-key-history"] [data-testid="stDataFrame"]').first
    tick_row(history, 0, page.get_by_role("button", name="Delete…"))
    settled(page)
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Output language")).to_be_visible()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("1 of 1 runs")).to_be_visible()
    settled(page)

    # The one that is left opens from the history.
    tick_row(history, 0, page.locator(".st-key-open").get_by_role("button"))
    settled(page)
    page.locator(".st-key-open").get_by_role("button").click()
    expect(page.get_by_role("heading", name=FIRST_RUN)).to_be_visible(timeout=PATIENCE)


def pick(page: Page, label: str, option: str, place: int) -> None:
    """Choose in the picker of this label and place, in the middle of the page: an open list closes when it scrolls."""
    box = page.get_by_role("combobox", name=label).nth(place)
    box.evaluate("element => element.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(500)
    box.click()
    page.get_by_role("option", name=option).click()
    settled(page)


def test_a_dose_sweep_with_its_answers_and_a_label_that_stays(page: Page) -> None:
    # A small run of its own, and from it to the Dose response page.
    page.goto("/?circuit=safety_refusal")
    expect(page.get_by_role("heading", name=FIRST_RUN)).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.get_by_test_id("stMain").get_by_text("Advanced").click()
    limit = page.get_by_role("spinbutton", name="Pairs at most")
    limit.fill("10")
    limit.press("Enter")
    expect(page.get_by_text("has not been run yet")).to_be_visible()
    page.get_by_test_id("stMain").get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("n = 10 pairs")).to_be_visible(timeout=PATIENCE)
    settled(page)
    go_to(page, "Dose response")
    expect(page.get_by_text("Nothing was switched off yet in this run")).to_be_visible()

    # Few doses, few draws, answers read.
    page.get_by_test_id("stMain").get_by_text("Advanced").click()
    for role, label, value in (("textbox", "Numbers of neurons", "1, 400"), ("spinbutton", "Random draws", "2")):
        box = page.get_by_role(role, name=label)  # type: ignore[arg-type]
        box.fill(value)
        box.press("Enter")
        settled(page)
    page.get_by_role("button", name="Run sweep").click()
    expect(page.get_by_role("heading", name="What the answers do")).to_be_visible(timeout=PATIENCE)
    charts_with_marks(settled(page), 4)

    # The slider moves to the smaller dose and back to the larger one.
    slider = page.locator(".st-key-dose").get_by_role("slider")
    slider.press("ArrowLeft")
    settled(page)
    expect(slider).to_have_attribute("aria-valuetext", "1")
    slider.press("ArrowRight")
    settled(page)
    expect(slider).to_have_attribute("aria-valuetext", "400")

    # A changed answer stays folded until it is asked for.
    tick_row(page.locator('[class*="st-key-answers_dose"] [data-testid="stDataFrame"]').first, 0)
    settled(page)
    folded = page.locator(".st-key-in_full_dose").get_by_text("Show the compliant answer")
    expect(folded).to_be_visible()
    answer = page.locator('.st-key-in_full_dose [data-testid="stExpander"] [data-testid="stHtml"]')
    expect(answer).not_to_be_visible()
    folded.click()
    expect(answer).to_be_visible()

    # A label is stored: it is there again after a reload.
    pick(page, "Your label", "Warns and answers", 1)
    expect(page.get_by_text("Labelled by hand: 1 answer")).to_be_visible()
    link = page.locator(".st-key-job_panel").get_by_role("link", name="Open result").get_attribute("href") or ""
    assert re.fullmatch(r"dose\?run=[0-9a-f]{12}&sweep=[0-9a-f]{12}", link.rpartition("/")[2])
    page.goto(f"/{link.rpartition('/')[2]}")
    expect(page.get_by_role("heading", name="What the answers do")).to_be_visible(timeout=PATIENCE)
    settled(page)
    page.reload()
    expect(page.get_by_role("heading", name="What the answers do")).to_be_visible(timeout=PATIENCE)
    settled(page)
    expect(page.get_by_text("Labelled by hand: 1 answer")).to_be_visible(timeout=PATIENCE)
    tick_row(page.locator('[class*="st-key-answers_dose"] [data-testid="stDataFrame"]').first, 0)
    settled(page)
    expect(page.get_by_role("combobox", name="Your label").nth(1)).to_have_value("Warns and answers")


def background(page: Page) -> tuple[int, ...]:
    colour = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    return tuple(int(value) for value in re.findall(r"\d+", colour)[:3])


def test_prompts_of_ones_own_are_uploaded_kept_and_run(page: Page) -> None:
    page.goto("/prompts?circuit=language")
    settled(page)
    rows = "question\n" + "".join(f"Name {n} colours.\n" for n in range(2, 7)) + "Name 2 colours.\n"
    page.locator("input[type=file]").set_input_files(
        [{"name": "<b>colours.csv", "mimeType": "text/csv", "buffer": rows.encode()}]
    )
    expect(page.get_by_text("has no rule that makes the second prompt")).to_be_visible()
    second = page.get_by_role("combobox", name="Second prompt")
    second.fill("{question} 请用中文回答。")
    second.press("Enter")
    expect(page.get_by_text("5 pairs from 6 rows, 1 row is left out.")).to_be_visible()
    settled(page).get_by_role("button", name="Keep", exact=True).click()
    page.get_by_role("button", name="Use it on the Start page").click()
    expect(page).to_have_url(re.compile(r"circuit=language&prompts=b-colours-[0-9a-f]{12}$"))
    expect(page.get_by_role("combobox", name="Prompt set")).to_have_value("<b>colours (5 pairs)")
    settled(page).get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("heading", name="Output language in mini-qwen3")).to_be_visible(timeout=PATIENCE)


def test_a_deep_link_in_a_fresh_dark_browser_opens_the_run(browser: Browser, dashboard: str, page: Page) -> None:
    page.goto("/")
    link = page.get_by_role("link", name="Open the full result")
    expect(link).to_be_visible(timeout=PATIENCE)
    run = re.search(r"run=[0-9a-f]{12}", link.get_attribute("href") or "")
    assert run is not None
    assert min(background(page)) > 200
    context = browser.new_context(
        reduced_motion="reduce", viewport={"width": 1920, "height": 1080}, color_scheme="dark"
    )
    fresh = context.new_page()
    fresh.set_default_timeout(PATIENCE)
    fresh.goto(f"{dashboard}/probe?{run[0]}&ranking=magnitude")
    expect(fresh.get_by_role("heading", name=FIRST_RUN)).to_be_visible(timeout=PATIENCE)
    expect(fresh.get_by_text("RMS importance.")).to_be_visible()
    charts_with_marks(unfolded(fresh), 9)
    assert max(background(fresh)) < 60
    context.close()


def test_a_narrow_window_shows_everything_without_scrolling_sideways(browser: Browser, dashboard: str) -> None:
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 420, "height": 900})
    narrow = context.new_page()
    narrow.set_default_timeout(PATIENCE)
    for path, heading in (
        ("/", FIRST_RUN),
        ("/probe", FIRST_RUN),
        ("/dose", "What happens without its neurons?"),
        ("/window", "Can a push in one direction switch it?"),
        ("/controls", "What would a referee ask?"),
        ("/runs", "Runs"),
        ("/glossary", "Glossary"),
    ):
        narrow.goto(f"{dashboard}{path}")
        expect(narrow.get_by_role("heading", name=heading, exact=True)).to_be_visible(timeout=PATIENCE)
        settled(narrow)
        wide, seen = narrow.evaluate(
            "() => { const m = document.querySelector('[data-testid=stMain]'); return [m.scrollWidth, m.clientWidth]; }"
        )
        assert wide <= seen + 1, path
    context.close()


def test_the_browser_remembers_the_tour_and_keys_turn_the_pages_of_a_presentation(page: Page) -> None:
    page.goto("/")
    card = page.locator(".st-key-tour")
    expect(card).to_contain_text("1 of 3")
    settled(page)
    card.get_by_role("button", name="Close the tour").click()
    expect(card).to_have_count(0)
    settled(page)
    page.goto("/?present=1")
    expect(page.get_by_role("button", name="Next").first).to_be_visible()
    settled(page)
    expect(card).to_have_count(0)
    expect(page.get_by_test_id("stSidebar")).not_to_be_visible()
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile(r"/playground\?.*present=1"))
    settled(page)
    page.keyboard.press("p")
    expect(page).to_have_url(re.compile(r"/\?.*present=1"))
    settled(page)
    page.keyboard.press("l")
    expect(page.get_by_test_id("stSidebar")).to_be_visible()
    assert "present" not in page.url


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_a_presentation_has_dials_answers_and_bars_on_one_screen(
    browser: Browser, recorded_dashboard: str, size: tuple[int, int]
) -> None:
    width, height = size
    context = browser.new_context(
        reduced_motion="reduce", viewport={"width": width, "height": height}, base_url=recorded_dashboard
    )
    context.add_cookies([{"name": "pprobe_tour", "value": "0", "url": recorded_dashboard}])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto("/playground?present=1")
    expect(page.get_by_text("Refuses → Goes along")).to_be_visible(timeout=PATIENCE)
    bars = page.locator('.st-key-play_figures [data-testid="stVegaLiteChart"] :is(svg.marks, canvas.marks)').first
    expect(bars).to_be_visible(timeout=PATIENCE)
    settled(page)
    foot = page.locator('[data-testid="stBottomBlockContainer"]').bounding_box()
    assert foot is not None
    for part in (".st-key-play_sliders", ".st-key-play_random", ".st-key-play_redraw"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= foot["y"], part
    chart = bars.bounding_box()
    assert chart is not None
    assert chart["y"] + chart["height"] <= foot["y"]
    for key in ("play_unedited", "play_edited", "play_random"):  # nothing in a card is cut off
        cut = page.locator(f".st-key-{key}").evaluate("card => card.scrollHeight - card.clientHeight")
        assert cut <= 1, key
    picker = page.locator(".st-key-run_picker input").evaluate("field => field.scrollWidth - field.clientWidth")
    assert picker <= 1
    context.close()
