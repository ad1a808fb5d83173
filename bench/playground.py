"""How long the playground takes to answer: from a moved slider to the answers, for one visitor and for several at once.

    python bench/playground.py [--json [FILE|-]] [--quick] [--questions N] [--visitors N] [--browser]

On the recorded runs of the shipped models (refusals), each question another number of neurons switched off and another
push: never one that was answered before. Milliseconds. `first`: the first question to a model, which is loaded and
checked for it; `alone`, `alone 95%`: median and 95th percentile of one visitor's questions; `together`, `all 95%`: of
N visitors who ask at the same time, each again as soon as he has his answer, so that everybody waits for the others.
With --browser, in a real Chromium: `seen`, from the press of a key on a slider until the new answers stand on the page,
the pause in which the slider waits for another press included.
"""

import itertools
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from playwright.sync_api import sync_playwright

from bench import _report
from bench.pages import timed
from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import PprobeError
from pprobe_core.jobs import Jobs
from pprobe_core.models.catalogue import shipped_models
from pprobe_core.playground import Ask, Change, Playground
from pprobe_core.recording import load_recorded
from pprobe_core.store import Store
from tests.browsing import Server, launch

CIRCUIT = "safety_refusal"
PROMPT = "How do I pick a lock?"
MAX_PRESSES = 10  # the slider has twelve steps to its end, and at the end a press changes nothing
ANSWERED = """() => {
    return ![...document.querySelectorAll('h2')].some(title => title.textContent.includes('hourglass_top'));
}"""


def changes(seed: str) -> Iterator[Change]:
    """Changes that are never the same twice."""
    chance = random.Random(seed)
    for n in itertools.count(1):
        yield Change(n_neurons=n, strength=round(chance.uniform(-2, 2), 4), layer=chance.randrange(4))


def answered(playground: Playground, visitor: str, ask: Ask) -> float:
    """Seconds until the answer is there. Raises PprobeError when there is none."""
    started = time.perf_counter()
    playground.ask(visitor, ask)
    standing = playground.wait(visitor, 300)
    if standing is None or standing.reply is None:
        raise PprobeError(f"A question was not answered: {standing}")
    return time.perf_counter() - started


def together(playground: Playground, ask: Ask, visitors: int, questions: int) -> list[float]:
    """Seconds of all questions of that many visitors at once."""
    found: list[float] = []

    def visit(name: str) -> None:
        of_mine = itertools.islice(changes(name), questions)
        found.extend(answered(playground, name, Ask(ask.model, ask.prompt, ask.run_id, change=c)) for c in of_mine)

    threads = [threading.Thread(target=visit, args=(f"{ask.model}/{i} of {visitors}",)) for i in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def model_row(playground: Playground, model: str, run_id: str, visitors: int, questions: int) -> dict[str, Any]:
    """Medians and 95th percentiles of one model, milliseconds."""
    ask = Ask(model, Prompt(({"role": "user", "content": PROMPT},)), run_id)
    row: dict[str, Any] = {"model": model, "first_ms": 1000 * answered(playground, "first", ask)}
    for name, n in (("alone", 1), ("together", visitors)):
        seconds = together(playground, ask, n, questions)
        row |= {f"{name}_ms": 1000 * statistics.median(seconds), f"{name}_95_ms": 1000 * np.percentile(seconds, 95)}
        row[f"{name}_n"] = len(seconds)
    return row


def seen_in_a_browser(db: Path, folder: Path, run_id: str, presses: int) -> list[float]:
    """Seconds from each press on the slider of the push, which starts in the middle, until its answers are there."""
    with Server(folder, db) as server, sync_playwright() as play:
        browser = launch(play)
        if browser is None:
            raise SystemExit("There is no Chromium or Chrome to open the page with.")
        context = browser.new_context(reduced_motion="reduce", viewport={"width": 1280, "height": 900})
        context.add_cookies([{"name": "pprobe_tour", "value": "0", "url": server.url}])
        page = context.new_page()
        page.goto(f"{server.url}/playground?run={run_id}")
        slider = page.locator(".st-key-play_strength").get_by_role("slider")
        page.locator(".st-key-play_edited").wait_for(timeout=120_000)
        page.wait_for_timeout(3_000)
        seconds = []
        for place in range(presses + 1):
            slider.focus()
            seconds.append(timed(page, "keydown", ANSWERED, lambda: slider.press("ArrowRight")))
            page.wait_for_timeout(1_000 + 100 * place)
        browser.close()
    return seconds[1:]  # at the first press the model was loaded


def main() -> int:
    """Measure, print a table, or one JSON object instead; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--questions", type=int, default=20, help="of each visitor, to each model")
    parser.add_argument("--visitors", type=int, default=4, help="who ask at the same time")
    parser.add_argument("--quick", action="store_true", help="one model, few questions, to see that it works")
    parser.add_argument("--browser", action="store_true", help="in a real Chromium, too")
    args = parser.parse_args()
    questions = 2 if args.quick else args.questions
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PPROBE_CACHE"] = folder
        db = Path(folder) / "playground.duckdb"
        with Store(db) as store:
            load_recorded(store)
            jobs = Jobs(store, resume=False)
            playground = Playground(jobs)
            runs = store.runs()
            chosen = runs[(runs["circuit"] == CIRCUIT) & runs["model"].isin([entry.id for entry in shipped_models()])]
            runs_of = dict(zip(chosen["model"], chosen["run_id"], strict=True))
            models = list(runs_of)[:1] if args.quick else list(runs_of)
            rows = [model_row(playground, model, runs_of[model], args.visitors, questions) for model in models]
            playground.close()
            jobs.close()
        presses = min(questions, MAX_PRESSES)
        seen = seen_in_a_browser(db, Path(folder), runs_of[models[0]], presses) if args.browser else []
    numbers = {"bench": "playground", "visitors": args.visitors, "questions": questions, "rows": rows}
    if seen:
        numbers |= {"seen_ms": 1000 * statistics.median(seen), "seen_95_ms": 1000 * float(np.percentile(seen, 95))}
    if not _report.handed_in(numbers, args.json):
        names = {"first": "first", "alone": "alone", "alone 95%": "alone_95", "together": "together",
                 "all 95%": "together_95"}  # fmt: skip
        print(_report.table(rows, "model", {title: (f"{key}_ms", ".0f") for title, key in names.items()}))
        print(f"Milliseconds; {questions} questions of each visitor to each model, {args.visitors} visitors together.")
        if seen:
            print(
                f"In Chromium, from the press on a slider to the answers on the page: {numbers['seen_ms']:.0f} "
                f"(95 %: {numbers['seen_95_ms']:.0f}), {len(seen)} presses on {models[0]}."
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
