"""A long day of the dashboard: visitors click through all pages while sweeps run; nothing may break, grow or get lost.

    python bench/soak.py [--json [FILE|-]] [--minutes 30] [--visitors 4] [--seed 0]

Real Chromium windows, each a session of its own, on a server with a results file of its own. All at once, each in an
order drawn from the seed and with pauses in which a person reads, they open pages, reload, go back, tick options, and
ask for dose sweeps that nobody asked for before. Looked for: an exception or an error card on any page; a traceback in
the server's log; a sweep that was asked for and is not in the results file at the end; growth of the server's resident
memory. The minutes count after a warm-up, in which everything is used once: every page on every one of four
behaviours, and a sweep of each. `growth` is the median of the last quarter over that of the first, in which the working
memory of the sweeps that run at the time has its part; `floor_growth` compares the lowest tenths, which is what stays
when none runs; `slope` is a straight line through all samples. Ends with 1 when something broke, was lost, or `growth`
is more than a tenth.
"""

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from playwright.async_api import Browser, Page, async_playwright  # noqa: E402
from playwright.async_api import Error as BrowserError  # noqa: E402

from bench import _report  # noqa: E402
from bench.pages import IDLE  # noqa: E402
from pprobe_core.interventions.types import SweepRequest  # noqa: E402
from pprobe_core.store import Store  # noqa: E402
from tests.browsing import ARGUMENTS, Server, system_browser  # noqa: E402

PAGES = [path.stem for path in sorted((ROOT / "pages").glob("*.py"))]
CIRCUITS = ("safety_refusal", "language", "sycophancy", "factual_recall")
SAMPLE_SECONDS = 2.0
ALLOWED_GROWTH = 1.10
READING = (1.0, 7.0)  # seconds between two steps of a visitor
ERROR_CARD = ".st-key-message"  # stands where a page cannot be shown, whatever the reason (shell.message_page)
OPTIONS = ':is([data-testid="stBaseButton-segmented_control"], details summary):visible'
CLICK = 8_000  # ms until a click is given up: what stood there may have been drawn anew


@dataclass
class Seen:
    """What the visitors met so far."""

    visits: Counter[str] = field(default_factory=Counter)
    n_tried: int = 0  # sweeps that a visitor set out to ask for
    sweeps: list[tuple[int, ...]] = field(default_factory=list)  # the doses that were asked for
    errors: list[str] = field(default_factory=list)
    slow: Counter[str] = field(default_factory=Counter)  # steps given up: what was to be clicked was gone or too slow


@dataclass
class Visitor:
    """One browser session and what it does next."""

    name: int
    page: Page
    chance: random.Random
    where: str = "start"
    patience: int = CLICK

    async def step(self, url: str, seen: Seen) -> None:
        """One thing a visitor does, and a look at what came of it."""
        action = self.chance.choices(
            [self.open, self.option, self.reload, self.back, self.sweep], weights=[10, 8, 2, 2, 1]
        )[0]
        try:
            await action(url, seen)
            await self.page.wait_for_selector(IDLE)
            await self.look(seen)
        except BrowserError as error:
            if "Timeout" not in str(error):
                raise
            seen.slow[f"{action.__name__} on {self.where}"] += 1

    async def open(self, url: str, seen: Seen) -> None:
        """Another page, sometimes on another behaviour."""
        self.where = self.chance.choice(PAGES)
        query = f"?circuit={self.chance.choice(CIRCUITS)}" if self.chance.random() < 0.3 else ""
        await self.page.goto(f"{url}/{'' if self.where == 'start' else self.where}{query}")
        seen.visits[self.where] += 1

    async def option(self, url: str, seen: Seen) -> None:
        """A choice or a fold on the page, where there is one."""
        found = self.page.get_by_test_id("stMain").locator(OPTIONS)
        if n := await found.count():
            await found.nth(self.chance.randrange(n)).click(timeout=CLICK)
            await self.page.wait_for_timeout(300)

    async def reload(self, url: str, seen: Seen) -> None:
        """The browser's reload button: a new session."""
        await self.page.reload()

    async def back(self, url: str, seen: Seen) -> None:
        """The browser's back button, while there is something to go back to."""
        await self.page.go_back()
        if not self.page.url.startswith(url):
            await self.page.go_forward()

    async def sweep(self, url: str, seen: Seen, circuit: str = "") -> None:
        """Ask for a dose sweep, of any behaviour, whose numbers of neurons nobody asked for before."""
        self.where = "dose"
        await self.page.goto(f"{url}/dose?circuit={circuit or self.chance.choice(CIRCUITS)}")
        await self.page.wait_for_selector(IDLE)
        seen.n_tried += 1
        doses = (seen.n_tried, 300 + self.chance.randrange(1_000))
        folds = self.page.get_by_test_id("stMain").locator("details summary:visible")
        await folds.filter(has_text="Advanced").first.click(timeout=self.patience)
        numbers = self.page.locator(".st-key-sweep_doses input:visible").last
        await numbers.fill(", ".join(map(str, doses)), timeout=self.patience)
        await numbers.press("Enter")
        await self.page.wait_for_timeout(300)
        await self.page.wait_for_selector(IDLE)
        await self.page.locator(".st-key-sweep_button button:enabled:visible").last.click(timeout=self.patience)
        taken = self.page.locator(".st-key-watched_job").first  # the dashboard has it
        await taken.wait_for(timeout=2 * self.patience)
        seen.sweeps.append(doses)

    async def look(self, seen: Seen) -> None:
        """Whether the page shows an exception or an error card."""
        for broken in (self.page.get_by_test_id("stException"), self.page.locator(ERROR_CARD)):
            if await broken.count():
                seen.errors.append(f"{self.where}: {(await broken.first.inner_text())[:300]}")

    async def look_around(self, url: str, seen: Seen, circuit: str) -> None:
        """Every page on one behaviour, and a sweep of it, however long it takes."""
        self.patience = 100_000
        for self.where in PAGES:
            await self.page.goto(f"{url}/{'' if self.where == 'start' else self.where}?circuit={circuit}")
            await self.page.wait_for_selector(IDLE)
            await self.look(seen)
        await self.sweep(url, seen, circuit)
        self.patience = CLICK

    async def walk(self, url: str, seen: Seen, until: float) -> None:
        """Steps with pauses between them until the clock says `until`, or far too much has gone wrong."""
        await self.open(url, seen)
        while time.monotonic() < until and len(seen.errors) <= 20:
            await asyncio.sleep(self.chance.uniform(*READING))
            await self.step(url, seen)


async def visitors_of(browser: Browser, n: int, seed: int) -> list[Visitor]:
    """Sessions of their own, in windows of different width, light and dark."""
    made = []
    for i in range(n):
        context = await browser.new_context(
            viewport={"width": (1280, 1920, 1280, 420)[i % 4], "height": 900},
            color_scheme="dark" if i % 2 else "light",
            reduced_motion="reduce",
        )
        page = await context.new_page()
        page.set_default_timeout(60_000)
        made.append(Visitor(i, page, random.Random(f"{seed}/{i}")))
    return made


@contextlib.contextmanager
def sampled(server: int) -> Iterator[list[tuple[float, float]]]:
    """(minute, resident MiB) of a process, growing until the block ends."""
    memory: list[tuple[float, float]] = []
    process, started, over = psutil.Process(server), time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            memory.append(((time.monotonic() - started) / 60, process.memory_info().rss / 2**20))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


async def all_done(page: Page, url: str) -> None:
    """Return when what was asked for is finished."""
    await page.goto(f"{url}/glossary")
    await page.get_by_text("Nothing is running").wait_for(timeout=1_800_000)


async def walk(
    url: str, server: int, minutes: float, n: int, seed: int
) -> tuple[Seen, list[tuple[float, float]], list[tuple[float, float]]]:
    """Let the visitors walk; what they saw, and (minute, resident MiB) of the server in the warm-up and after it."""
    seen = Seen()
    with sampled(server) as memory:
        async with async_playwright() as playwright:
            try:
                browser = await playwright.chromium.launch(executable_path=system_browser(), args=ARGUMENTS)
            except BrowserError:
                raise SystemExit("There is no Chromium or Chrome for the visitors.") from None
            visitors = await visitors_of(browser, n, seed)
            for first in range(0, len(CIRCUITS), n):
                together = zip(visitors, CIRCUITS[first : first + n], strict=False)
                await asyncio.gather(*(visitor.look_around(url, seen, circuit) for visitor, circuit in together))
            await all_done(visitors[0].page, url)
            warm = len(memory)
            until = time.monotonic() + 60 * minutes
            await asyncio.gather(*(visitor.walk(url, seen, until) for visitor in visitors))
            walked = len(memory)
            await all_done(visitors[0].page, url)  # before the server is stopped
            await browser.close()
        return seen, memory[:warm], memory[warm:walked]


def growth_of(rows: list[tuple[float, float]]) -> dict[str, float]:
    """How resident memory went: ratios of quarters, slope in MiB per minute, smallest and largest."""
    quarter = max(1, len(rows) // 4)
    values = [mib for _, mib in rows]
    slope = float(np.polyfit(*zip(*rows, strict=True), 1)[0]) if len(rows) > 2 else 0.0
    first, last = values[:quarter], values[-quarter:]
    return {
        "growth": statistics.median(last) / statistics.median(first),
        "floor_growth": float(np.percentile(last, 10) / np.percentile(first, 10)),
        "slope_mib_per_minute": slope,
        "min_mib": min(values),
        "max_mib": max(values),
        "samples": len(rows),
    }


def by_minute(memory: list[tuple[float, float]]) -> list[float]:
    """Median resident MiB of each minute from the start."""
    minutes: dict[int, list[float]] = {}
    for minute, mib in memory:
        minutes.setdefault(int(minute), []).append(mib)
    return [round(statistics.median(values), 1) for values in minutes.values()]


def lost_of(db: Path, asked: list[tuple[int, ...]]) -> tuple[list[str], int]:
    """Sweeps that were asked for and are not in the results file, or jobs that ended otherwise; and those found."""
    with Store(db) as store:
        wrong = [f"job {job.job_id}: {job.state} {job.error or ''}" for job in store.jobs() if job.state != "done"]
        stored = [store.sweep(str(sweep_id)).request.doses for sweep_id in store.sweeps()["sweep_id"]]
        wrong += [f"job {job.job_id}: done without its sweep" for job in store.jobs() if _is_lost(store, job)]
    missing = [f"doses {doses} were asked for and are not there" for doses in asked if doses not in stored]
    return wrong + missing, len(asked) - len(missing)


def _is_lost(store: Store, job: Any) -> bool:
    return isinstance(job.request, SweepRequest) and not store.has_sweep(str(job.sweep_id))


def main() -> int:
    """Walk, then look at memory, log and results file; prints a report, or one JSON object; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of what the visitors do")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "soak.duckdb"
        with Server(Path(folder), db) as server:
            seen, warm_up, memory = asyncio.run(
                walk(server.url, server.process.pid, args.minutes, args.visitors, args.seed)
            )
        log = server.log
        lost, n_found = lost_of(db, seen.sweeps)
    tracebacks = log.count("Traceback (most recent call last)")
    numbers = {
        "bench": "soak",
        "minutes": args.minutes,
        "visitors": args.visitors,
        "seed": args.seed,
        "visits": dict(sorted(seen.visits.items())),
        "sweeps_asked": len(seen.sweeps),
        "sweeps_found": n_found,
        "lost": lost,
        "errors": seen.errors[:20],
        "n_errors": len(seen.errors),
        "tracebacks": tracebacks,
        "slow_steps": dict(seen.slow.most_common()),
        "memory": growth_of(memory),
        "warm_up_mib_by_minute": by_minute(warm_up),
        "mib_by_minute": by_minute(memory),
    }
    grown = numbers["memory"]["growth"] > ALLOWED_GROWTH
    bad = bool(lost or seen.errors or tracebacks or grown)
    if not _report.handed_in(numbers, args.json):
        m = numbers["memory"]
        print(
            f"{args.visitors} visitors, {args.minutes:g} minutes, {sum(seen.visits.values())} pages opened: "
            f"{numbers['visits']}"
        )
        print(f"sweeps: {len(seen.sweeps)} asked for, {n_found} in the results file; lost: {lost or 'none'}")
        print(f"errors on pages: {seen.errors[:5] or 'none'}; tracebacks: {tracebacks}")
        print(f"steps given up: {numbers['slow_steps'] or 'none'}")
        print(
            f"memory after the warm-up: {m['min_mib']:.0f} to {m['max_mib']:.0f} MiB, last quarter / first "
            f"{m['growth']:.3f}, of their lowest tenths {m['floor_growth']:.3f}; {m['slope_mib_per_minute']:+.2f} MiB "
            f"a minute over {m['samples']} samples"
        )
        for name, values in (("warm-up", numbers["warm_up_mib_by_minute"]), ("after it", numbers["mib_by_minute"])):
            print(f"MiB minute by minute, {name}: " + " ".join(f"{mib:.0f}" for mib in values))
        if tracebacks:
            print(log[log.index("Traceback (most recent call last)") :][:3000])
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
