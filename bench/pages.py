"""How long every page takes on a results file of the size that large models make.

    python bench/pages.py [--json [FILE|-]] [--quick] [--repeats N] [--browser] [--only PAGE] [--db FILE]

The file holds synthetic runs of two models of 36 layers with 10,000 neurons each and 500 prompt pairs, sweeps of all
kinds with their answers, 200 small runs and 1,000 jobs (`--quick`: a few small ones, to see that it works; `--db`
keeps the file, and takes it where it is there). Medians of N openings, milliseconds:

`cold`, `warm`: the page's Python from start to end without a browser, with nothing cached as after a start, and once
more as after any click. `cpu`: the processor time of the warm one, which other work on the computer changes little.
With --browser, in a real Chromium on a server that has shown the page before, until the script has ended and all of the
page is drawn, also what lies below the window: `clicked`, from a click on the page's name beside the glossary (of a
comparison's view: beside its first one), in a tab that has shown charts, as visitors go about; `loaded`, from the
address, with the dashboard's own code still to be read.
"""

import logging
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402
from playwright.sync_api import Locator, Page, sync_playwright  # noqa: E402
from streamlit.testing.v1 import AppTest  # noqa: E402

from bench import _report, large_store  # noqa: E402
from pprobe_core import jobs  # noqa: E402
from pprobe_core.store import Store  # noqa: E402
from tests.browsing import Server, launch  # noqa: E402
from ui import drawing, words  # noqa: E402

FAILED = ":material/info:"  # of the card that stands in for a page (shell.message_page)
IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"][data-test-connection-state="CONNECTED"]'
ALL_DRAWN = """() => {
    const charts = [...document.querySelectorAll('[data-testid=stVegaLiteChart]')];
    const waiting = document.querySelector('[data-testid=stSkeleton]');  // where the code for it is still to come
    return !waiting && charts.every(chart => chart.querySelector('svg.marks, canvas.marks'));
}"""
TIMED = """() => {
    const app = document.querySelector('[data-testid="stApp"]'), isDone = DONE;
    let since = null, ran = false;
    document.addEventListener('EVENT', () => { since = performance.now(); }, {once: true, capture: true});
    window.timed = new Promise(resolve => {
        const observer = new MutationObserver(() => {
            const state = app.dataset.testScriptState;
            ran ||= since !== null && state === 'running';
            if (ran && state === 'notRunning' && isDone()) {
                observer.disconnect();
                resolve((performance.now() - since) / 1000);
            }
        });
        observer.observe(document.documentElement, {subtree: true, childList: true, attributes: true});
    });
}"""


def timed(page: Page, event: str, done: str, act: Callable[[], object]) -> float:
    """Seconds from the event that `act` causes until the script has run and ended and `done` (JavaScript) is true."""
    page.evaluate(TIMED.replace("DONE", done).replace("EVENT", event))
    act()
    return float(page.evaluate("() => window.timed"))


@dataclass(frozen=True)
class Opening:
    """One address of the dashboard."""

    name: str
    page: str  # a file of pages/, without .py
    query: Mapping[str, str]

    @property
    def address(self) -> str:
        """Path and query."""
        return f"/{'' if self.page == 'start' else self.page}?{urlencode(self.query)}"


def openings(run_id: str) -> list[Opening]:
    """Every page on the large run, and every view of the comparison of the two large models."""
    pages = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
    compared = {"models": ",".join(large_store.MODELS), "circuits": ",".join(large_store.CIRCUITS)}
    found = [Opening(page, page, {"run": run_id}) for page in pages if page != "compare"]
    return found + [Opening(f"compare, {view}", "compare", compared | {"view": view}) for view in words.COMPARE_VIEWS]


# Without a browser -------------------------------------------------------------------------------------------------


def script_seconds(opening: Opening) -> tuple[float, float]:
    """Seconds and processor seconds of one run of the page's script. Raises SystemExit where the page has failed."""
    app = AppTest.from_file(str(ROOT / "ui" / "main.py"), default_timeout=600)
    for key, value in opening.query.items():
        app.query_params[key] = value
    if opening.page != "start":
        app.switch_page(f"../pages/{opening.page}.py")
    started, busy = time.perf_counter(), time.process_time()
    app.run()
    taken = time.perf_counter() - started, time.process_time() - busy
    said = [str(element.value) for element in (*app.markdown, *app.text, *app.exception)]
    if app.exception or any(text.startswith("#") and FAILED in text for text in said):
        raise SystemExit(f"The page {opening.name} failed:\n" + "\n".join(said[:5]))
    return taken


def script_row(opening: Opening, repeats: int) -> dict[str, Any]:
    """Cold and warm medians of one opening."""
    cold, warm = [], []
    for _ in range(repeats):
        st.cache_data.clear()
        st.cache_resource.clear()
        cold.append(script_seconds(opening))
        warm.append(script_seconds(opening))
    return {
        "page": opening.name,
        "cold_ms": 1000 * statistics.median(seconds for seconds, _ in cold),
        "warm_ms": 1000 * statistics.median(seconds for seconds, _ in warm),
        "warm_cpu_ms": 1000 * statistics.median(busy for _, busy in warm),
    }


# In a browser ------------------------------------------------------------------------------------------------------


def loaded_seconds(page: Page, url: str) -> float:
    """Seconds from the navigation until the script has ended and the charts are drawn."""
    started = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(IDLE)
    page.wait_for_function(ALL_DRAWN)
    return time.perf_counter() - started


def clicked_seconds(page: Page, url: str, opening: Opening) -> float:
    """Seconds from the click that opens it until the script has ended and the charts are drawn."""
    view, first = opening.query.get("view"), next(iter(words.COMPARE_VIEWS))
    if view is None or view == first:
        loaded_seconds(page, url + Opening("", "probe" if opening.page == "dose" else "dose", opening.query).address)
        click_seconds(page, _in_the_sidebar(page, "runs" if opening.page == "glossary" else "glossary"))
        target = _in_the_sidebar(page, "" if opening.page == "start" else opening.page)
    else:
        loaded_seconds(page, url + Opening("", opening.page, {**opening.query, "view": first}).address)
        name = re.compile(f"^{re.escape(words.COMPARE_VIEWS[view])}$")
        target = page.locator('[data-testid="stButtonGroup"] button').filter(has_text=name).first
    time.sleep(1)  # a person reads
    return click_seconds(page, target)


def click_seconds(page: Page, target: Locator) -> float:
    """Seconds from a click until everything it brings is drawn."""
    return timed(page, "click", ALL_DRAWN, lambda: target.evaluate("element => element.click()"))


def _in_the_sidebar(page: Page, path: str) -> Locator:
    return page.locator(f'[data-testid="stSidebarNavLink"][href$="/{path}"]').first


def add_drawn(rows: Sequence[dict[str, Any]], chosen: Sequence[Opening], db: Path, repeats: int) -> None:
    """Measure every opening in Chromium; the first visit of each only warms the server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), db, recorded=False) as server,
        sync_playwright() as play,
    ):
        browser = launch(play)
        if browser is None:
            raise SystemExit("There is no Chromium or Chrome to open the pages with.")
        page = browser.new_context(reduced_motion="reduce", viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(240_000)
        for row, opening in zip(rows, chosen, strict=True):
            times = [loaded_seconds(page, server.url + opening.address) for _ in range(repeats + 1)]
            row["loaded_ms"] = 1000 * statistics.median(times[1:])
            clicks = [clicked_seconds(page, server.url, opening) for _ in range(repeats)]
            row["clicked_ms"] = 1000 * statistics.median(clicks)
        browser.close()


# -------------------------------------------------------------------------------------------------------------------


def measure(db: Path, repeats: int, only: str | None, browser: bool) -> list[dict[str, Any]]:
    """One row per page and view, in the order of their names."""
    os.environ["PPROBE_DB"] = str(db)
    drawing.quickly()
    with Store(db) as store:
        runs = store.runs()
    large = runs[(runs["model"] == large_store.MODELS[0]) & (runs["circuit"] == large_store.CIRCUITS[0])]
    every = openings(str(large["run_id"].iloc[0]))
    chosen = [o for o in every if only is None or o.name.startswith(only)]
    if not chosen:
        raise SystemExit(f"There is no page {only!r}. Pages: {', '.join(o.name for o in every)}.")
    script_seconds(every[0])  # imports
    jobs.prepare_libraries()  # as after any job
    rows = [script_row(opening, repeats) for opening in chosen]
    jobs.close()
    if browser:
        add_drawn(rows, chosen, db, repeats)
    return rows


def main() -> int:
    """Make the file where it is not there, measure, print a table, or one JSON object instead; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="openings of each page")
    parser.add_argument("--quick", action="store_true", help="a small results file, to see that it works")
    parser.add_argument("--browser", action="store_true", help="in a real Chromium, too")
    parser.add_argument("--only", help="the page (or view: “compare, layers”) to measure")
    parser.add_argument("--db", type=Path, help="keep the results file here, or take the one that is")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # Streamlit says at every call that no server runs
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PPROBE_CACHE": folder, "PPROBE_RECORDED": "0"}
        db = args.db or Path(folder) / "large.duckdb"
        size = large_store.SMALL if args.quick else large_store.LARGE
        if not db.exists():
            large_store.write(db, size)
        rows = measure(db, args.repeats, args.only, args.browser)
        numbers = {"bench": "pages", "mib": db.stat().st_size / 2**20, "repeats": args.repeats, "rows": rows}
    if not _report.handed_in(numbers, args.json):
        columns = {
            name: (f"{name.replace(' ', '_')}_ms", ".0f") for name in ("cold", "warm", "warm cpu", "clicked", "loaded")
        }
        print(_report.table(rows, "page", columns))
        print(f"Milliseconds, medians of {args.repeats}; a results file of {numbers['mib']:.0f} MiB.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
