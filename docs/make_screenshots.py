"""Makes the pictures of the documents: `python docs/make_screenshots.py` writes docs/images/*.png from real runs.

Starts a dashboard on an empty results file in a temporary folder, computes the runs that the pictures show, and takes
them with the browser the tests use. Nothing in the pictures is drawn by hand. `--walk FOLDER` takes every page instead,
light and dark, in three widths and as a presenter sees it, for a person to look through.
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pprobe_core import jobs  # noqa: E402
from pprobe_core.circuits.library import load_circuit, load_circuits  # noqa: E402
from pprobe_core.comparison import CompareRequest  # noqa: E402
from pprobe_core.interventions.requests import default_request  # noqa: E402
from pprobe_core.interventions.types import SweepKind  # noqa: E402
from pprobe_core.probing.types import ProbeRequest  # noqa: E402
from tests.browsing import Server, launch  # noqa: E402
from ui import tour  # noqa: E402

Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
WIDTHS = (1280, 1920, 420)
PRESENTED = ((1280, 720), (1920, 1080))
# Nothing is a placeholder, no answer of the playground is waited for, every chart has its marks.
DRAWN = """() => !document.querySelector('[data-testid=stSkeleton]') &&
    !document.querySelector('.st-key-play_head')?.innerText.includes('hourglass') &&
    [...document.querySelectorAll('[data-testid=stVegaLiteChart]')].every(
        chart => chart.querySelector('svg.marks, canvas.marks'))"""

REQUESTS = (
    ProbeRequest(model="mini-qwen3", circuit="language"),
    ProbeRequest(model="mini-qwen3-base", circuit="safety_refusal"),
    ProbeRequest(model="mini-qwen3", circuit="safety_refusal"),
)
COMPARED = ("mini-qwen3", "mini-llama", "mini-gemma3")
# Sweeps of the shipped model's runs: circuit, kind, whether answers are read.
SWEEPS: tuple[tuple[str, SweepKind, bool], ...] = (
    ("safety_refusal", "heads", False),
    ("safety_refusal", "layers", False),
    ("safety_refusal", "held", False),
    ("safety_refusal", "dose", True),
    ("language", "window", True),
)


def main() -> None:
    """Compute the runs, open the pages, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    parser.add_argument("--walk", type=Path, metavar="FOLDER", help="take every page in every look, into this folder")
    parser.add_argument("--results", type=Path, help="show this results file (a copy of it) in place of new runs")
    parser.add_argument("--only", help="names of the pages to walk, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pprobe.duckdb"
        if options.results:
            shutil.copy(options.results, path)
        runs = {} if options.walk and options.results else compute(path)
        with Server(Path(folder), path) as server, sync_playwright() as playwright:
            browser = launch(playwright)
            if browser is None:
                sys.exit("There is no Chromium or Chrome to take the pictures with.")
            if options.walk:
                walk(browser, server.url, options.walk, options.only.split(",") if options.only else None)
            else:
                pictures_of_the_documents(browser, server.url, runs, options.out)


def pictures_of_the_documents(browser: Browser, url: str, runs: dict[tuple[str, str], str], out: Path) -> None:
    """The pictures that README.md and docs/reading.md show."""
    out.mkdir(parents=True, exist_ok=True)
    probe = f"{url}/probe?run={runs['mini-qwen3', 'safety_refusal']}"
    language = runs["mini-qwen3", "language"]
    take(browser, f"{url}/", out / "start.png", "light", 1280, 1500)
    take(browser, probe.replace("/probe", "/playground"), out / "playground.png", "light", 1280)
    take(browser, probe, out / "probe.png", "light", 1440)
    take(browser, probe.replace("/probe", "/dose"), out / "dose.png", "light", 1440)
    take(browser, f"{url}/window?run={language}", out / "window.png", "light", 1440)
    take(browser, probe.replace("/probe", "/controls"), out / "controls-dark.png", "dark", 1440)
    take(browser, f"{url}/compare", out / "compare.png", "light", 1280)
    take(browser, f"{url}/runs", out / "runs.png", "light", 1280)
    take(browser, probe.replace("/probe", "/playground") + "&present=1", out / "presenter.png", "dark", 1280, 720)


def walk(browser: Browser, url: str, out: Path, only: Sequence[str] | None = None) -> None:
    """Every page in every look: OUT/page-theme-width.png, and page-present-size.png."""
    out.mkdir(parents=True, exist_ok=True)
    for name in only or sorted(path.stem for path in (ROOT / "pages").glob("*.py")):
        address = f"{url}/{'' if name == 'start' else name}"
        for theme in THEMES:
            for width in WIDTHS:
                take(browser, address, out / f"{name}-{theme}-{width}.png", theme, width)
        for width, height in PRESENTED:
            take(browser, f"{address}?present=1", out / f"{name}-present-{width}.png", "light", width, height)


def compute(path: Path) -> dict[tuple[str, str], str]:
    """Run the probes and sweeps the pictures show: (model, circuit) -> run_id."""
    queue = jobs.shared(path)
    found = {}
    for request in REQUESTS:
        status = queue.wait(queue.submit(request))
        if status.run_id is None:
            sys.exit(f"{request.circuit} on {request.model} did not finish: {status.error}")
        found[request.model, request.circuit] = status.run_id
    for name, kind, answers in SWEEPS:
        sweep = default_request(load_circuit(name), found["mini-qwen3", name], kind, responses=answers)
        status = queue.wait(queue.submit(sweep))
        if status.sweep_id is None:
            sys.exit(f"The sweep {kind} of {name} did not finish: {status.error}")
    comparison = queue.wait(queue.submit(CompareRequest(COMPARED, tuple(load_circuits()), sweeps=())))
    if comparison.state != "done":
        sys.exit(f"The comparison did not finish: {comparison.error}")
    jobs.close()
    return found


def take(browser: Browser, url: str, file: Path, theme: Theme, width: int, height: int | None = None) -> None:
    """One picture of a page; without a height the window is made as high as the page."""
    with opened(browser, url, theme, width, height) as page:
        whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture = whole.quantize(256, Image.Quantize.MAXCOVERAGE)  # a quarter of the bytes, no visible difference
        picture.save(file, optimize=True)
        print(file, flush=True)


@contextlib.contextmanager
def opened(browser: Browser, url: str, theme: Theme, width: int, height: int | None = None) -> Iterator[Page]:
    """A page in a fresh browser whose visitor has seen the tour, drawn to its end; as high as the page by default."""
    context = browser.new_context(
        reduced_motion="reduce", viewport={"width": width, "height": height or 900}, color_scheme=theme
    )
    context.add_cookies([{"name": tour.COOKIE, "value": "0", "url": url.split("?")[0]}])
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    settle(page)
    if height is None:
        content = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": int(content)})
        settle(page)
    yield page
    context.close()


def settle(page: Page) -> None:
    """Until scripts and charts are done."""
    page.wait_for_timeout(1200)
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    main()
