"""A sweep at the decision position against the ways it could be done with hooks alone, on the same edits and prompts.

    python bench/sweep.py [--json [FILE|-]] [--only mini|large] [--edits N] [--prompts N] [--length N] [--repeats N]

Ways, all measured per edit and prompt in the same process: `one by one`, a full forward with hooks per edit and prompt;
`full batches`, full forwards of many edits and prompts; `copied`, last tokens over a cache copied per row; `shared`,
last tokens over one cache (what the product uses where it can), with the prefill and without it; `matmul`, the bare
matrix products of that many last tokens and nothing else. Slow ways are timed on a part of the points (`n_timed`) and
scaled. Each way's numbers are compared with those of `one by one`. TransformerLens and nnsight are no dependencies;
where they are installed, `one by one` is also done with them (sweep_others.py). Times are processor seconds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from bench import _report
from bench.probe import large
from bench.sweep_others import other_ways, versions
from pprobe_core.errors import PprobeError
from pprobe_core.interventions.edits import Edits, Neuron, Scale
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator, Method
from pprobe_core.models.loading import LoadedModel, load_model

N_NEURONS = 20  # switched off by each edit
# Points timed one by one, with whatever library, and in full batches, each (prompts, edits); the rest is scaled.
SLOW_PARTS = {"mini": ((4, 6), (2, 150)), "large": ((2, 2), (1, 32))}


def points(
    loaded: LoadedModel, n_edits: int, n_prompts: int, length: int
) -> tuple[list[Edits], tuple[EvalPrompt, ...]]:
    """Edits that switch off 20 random neurons each, and random prompts of one length."""
    generator = torch.Generator().manual_seed(0)
    s = loaded.structure

    def draw(high: int, n: int) -> list[int]:
        return torch.randint(0, high, (n,), generator=generator).tolist()

    edits: list[Edits] = []
    for _ in range(n_edits):
        chosen = {Neuron(a, b) for a, b in zip(draw(s.n_layers, N_NEURONS), draw(s.d_mlp, N_NEURONS), strict=True)}
        edits.append((Scale(tuple(sorted(chosen))),))
    prompts = tuple(
        EvalPrompt(str(i), "discovery", tuple(draw(s.vocab_size, length)), (1,), (10, 11, 12), (20, 21))
        for i in range(n_prompts)
    )
    return edits, prompts


def one_by_one(loaded: LoadedModel, edits: Sequence[Edits], prompts: Sequence[EvalPrompt]) -> np.ndarray:
    """Logit differences [edit, prompt], each by a full forward of its own."""
    out = np.empty((len(edits), len(prompts)))
    for i, prompt in enumerate(prompts):
        single = Evaluator(loaded, (prompt,), method="full")
        for e, edit in enumerate(edits):
            out[e, i] = single._full((0,), [edit])[0, 0]  # without the unedited row, which this way does not need
    return out


def by_evaluator(method: Method) -> Callable[[LoadedModel, Sequence[Edits], Sequence[EvalPrompt]], np.ndarray]:
    """Logit differences [edit, prompt] by the product's evaluator in one of its ways."""

    def run(loaded: LoadedModel, edits: Sequence[Edits], prompts: Sequence[EvalPrompt]) -> np.ndarray:
        evaluator = Evaluator(loaded, tuple(prompts), method=method)
        return np.stack([one.logit_diff for one in evaluator.evaluate(edits)])

    return run


def matrix_products(loaded: LoadedModel, n_tokens: int, rows: int) -> Callable[[], None]:
    """The products of every weight matrix of the layers with `n_tokens` vectors, `rows` at a time."""
    weights = [
        m.weight for block in loaded.structure.blocks for m in block.module.modules() if isinstance(m, nn.Linear)
    ]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]) for w in weights}

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, n_tokens, rows):
                n = min(rows, n_tokens - start)
                for weight in weights:
                    nn.functional.linear(inputs[weight.shape[1]][:n], weight)

    return run


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, which other programs on the machine disturb least, and its result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def measure(case: str, loaded: LoadedModel, n_edits: int, n_prompts: int, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of all points by each way (medians of interleaved repetitions), and how far their numbers lie apart."""
    edits, prompts = points(loaded, n_edits, n_prompts, length)
    total = n_edits * n_prompts
    rows = Evaluator(loaded, prompts).max_rows
    multiply = matrix_products(loaded, total, rows)
    singles, batches = ((prompts[:p], edits[:e]) for p, e in SLOW_PARTS[case])
    seconds: dict[str, list[float]] = {}
    found: dict[str, np.ndarray] = {}

    def note(way: str, spent: float, part: float = 1.0) -> None:
        seconds.setdefault(way, []).append(spent / part)

    others, skipped = other_ways(loaded, edits[0], prompts[0])  # empty where no library is installed
    multiply()
    by_evaluator("shared")(loaded, edits[:2], prompts[:2])  # libraries and threads start outside the measurement
    for _ in range(repeats):
        spent, found["one by one"] = timed(lambda: one_by_one(loaded, singles[1], singles[0]))
        note("one by one", spent, len(singles[0]) * len(singles[1]) / total)
        for way, run in others.items():
            spent, found[way] = timed(lambda r=run: r(singles[1], singles[0]))
            note(way, spent, len(singles[0]) * len(singles[1]) / total)
        spent, found["full batches"] = timed(lambda: by_evaluator("full")(loaded, batches[1], batches[0]))
        note("full batches", spent, len(batches[0]) * len(batches[1]) / total)
        ways: tuple[Method, ...] = ("copied", "shared")
        for method in ways:
            spent, found[method] = timed(lambda m=method: by_evaluator(m)(loaded, edits, prompts))
            note(f"{method}, with prefill", spent)
        filled = Evaluator(loaded, prompts, method="shared")
        filled.baseline()  # fills the cache
        spent, _ = timed(lambda e=filled: list(e.evaluate(edits)))
        note("shared", spent)
        spent, _ = timed(multiply)
        note("matmul", spent)
    median = {way: statistics.median(values) for way, values in seconds.items()}
    expected = found["one by one"]
    differences = {
        way: float(np.abs(values[: len(expected), : expected.shape[1]] - expected[:, : values.shape[1]]).max())
        for way, values in found.items()
    }
    return {
        "model": loaded.id,
        "n_edits": n_edits,
        "n_prompts": n_prompts,
        "length": length,
        "repeats": repeats,
        "n_timed": {way: len(singles[0]) * len(singles[1]) for way in ("one by one", *others)}
        | {"full batches": len(batches[0]) * len(batches[1])},
        "skipped_ways": skipped,
        "versions": versions(),
        "seconds": median,
        "times_faster_than_one_by_one": median["one by one"] / median["shared"],
        "times_faster_than_full_batches": median["full batches"] / median["shared"],
        "with_prefill": {
            "times_faster_than_one_by_one": median["one by one"] / median["shared, with prefill"],
            "times_faster_than_full_batches": median["full batches"] / median["shared, with prefill"],
        },
        "times_of_matrix_products": {way: value / median["matmul"] for way, value in median.items()},
        "largest_difference": differences,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Measure both models and print a table, or one JSON object instead; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--only", choices=("mini", "large"))
    parser.add_argument("--model", default="mini-qwen3", help="shipped id or folder measured as `mini`")
    parser.add_argument("--edits", type=int, default=150)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--large-prompts", type=int, default=4, help="prompts of the 0.6B shape; time grows with them")
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in ("mini", "large"):
        if args.only not in (None, case):
            continue
        try:
            if case == "mini":
                loaded, n_prompts, repeats = load_model(args.model, device="cpu"), args.prompts, args.repeats
            else:
                loaded, n_prompts, repeats = large()[0], args.large_prompts, 1
            rows.append({"case": case} | measure(case, loaded, args.edits, n_prompts, args.length, repeats))
        except PprobeError as error:
            rows.append({"case": case, "skipped": str(error)})
    if _report.handed_in({"bench": "sweep", "rows": rows}, args.json):
        return 0
    for row in rows:
        if "skipped" in row:
            print(f"{row['case']}: skipped: {row['skipped']}")
            continue
        size = f"{row['n_edits']} edits x {row['n_prompts']} prompts of {row['length']} tokens"
        print(f"{row['case']} ({row['model']}): {size}; {', '.join(map(' '.join, row['versions'].items()))}")
        print(f"  {'way':36}{'seconds':>10}{'x matmul':>10}{'largest difference':>22}")
        for way, value in row["seconds"].items():
            difference = row["largest_difference"].get(way.removesuffix(", with prefill"))
            shown = "" if difference is None else f"{difference:.1e}"
            print(f"  {way:36}{value:10.3f}{row['times_of_matrix_products'][way]:10.2f}{shown:>22}")
        for way, reason in row["skipped_ways"].items():
            print(f"  {way:36}skipped: {reason}")
        print(
            f"  shared: {row['times_faster_than_one_by_one']:.0f} times faster than one by one, "
            f"{row['times_faster_than_full_batches']:.0f} times faster than full batches; with the prefill counted "
            f"{row['with_prefill']['times_faster_than_one_by_one']:.0f} and "
            f"{row['with_prefill']['times_faster_than_full_batches']:.0f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
