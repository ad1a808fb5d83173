"""The two-pass probe against plain forward passes of the same tokens.

    python bench/probe.py [--json [FILE|-]] [--repeats N] [--large-repeats N] [--only mini|large]

32 prompt pairs. `probe`: capture of both prompts, scores, statistics and verdict (no generation). `plain`: the same
padded batches through the same model, logits of the last position, no hooks and no scores. Repetitions are interleaved,
medians compared: `ratio` is probe / plain, `capture` the same for the passes alone, `cpu` in processor time. Extra
memory is the largest resident size seen during one probe minus the size before it.
"""

import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench import _report
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import PprobeError
from pprobe_core.models.catalogue import ModelEntry
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.models.structure import discover
from pprobe_core.probing import probe
from pprobe_core.probing.capture import MAX_BATCH_TOKENS, last_logits
from pprobe_core.probing.tokens import TokenBatch, left_pad, pad_id, plan_batches
from pprobe_core.probing.types import Observable, Prepared, PreparedPair, ProbeRequest

N_PAIRS = 32
MIB = 2**20
CIRCUIT = "safety_refusal"
LARGE = Qwen3Config(  # the shape of Qwen3-0.6B
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    tie_word_embeddings=True,
)


class _NumberTokenizer:
    """Stands in for a tokeniser where prompts are random ids: a token reads as its number."""

    pad_token_id = 0
    eos_token_id = 0
    chat_template = None

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def mini() -> tuple[LoadedModel, Prepared, ProbeRequest]:
    """The shipped model on its own prompts."""
    loaded = load_model("mini-qwen3", device="cpu")
    request = ProbeRequest("mini-qwen3", CIRCUIT, "mini", limit=N_PAIRS, generate=False)
    return loaded, probe.prepare(loaded, load_circuit(CIRCUIT), load_prompt_set(CIRCUIT, "mini"), request), request


def large(
    seed: int = 0, config: Qwen3Config = LARGE, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[LoadedModel, Prepared, ProbeRequest]:
    """A random model (default: of 0.6B shape) on random prompts of 32 to 48 tokens."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(dtype).eval().requires_grad_(False)
    n_parameters = sum(p.numel() for p in model.parameters())
    name = f"random-qwen3-{n_parameters / 1e9:.1f}b"
    loaded = LoadedModel(
        id=name,
        path="",
        family="qwen3",
        revision=None,
        weights_sha256="",
        config_sha256="",
        tokenizer_sha256="",
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        model=model,
        tokenizer=_NumberTokenizer(),
        structure=discover(model, None),
        entry=ModelEntry(
            name,
            "",
            "qwen3",
            config.num_hidden_layers,
            config.intermediate_size,
            config.hidden_size,
            n_parameters,
            False,
            name,
            None,
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(N_PAIRS):
        length = 32 + i % 17
        original = torch.randint(5, config.vocab_size, (length,), generator=generator).tolist()
        perturbed = [
            *original[:10],
            *torch.randint(5, config.vocab_size, (3,), generator=generator).tolist(),
            *original[12:],
        ]
        prompt = Prompt(({"role": "user", "content": str(i)},))
        words = [tuple(map(str, ids)) for ids in (original, perturbed)]
        ids = (tuple(original), tuple(perturbed))
        pairs.append(
            PreparedPair(str(i), "discovery", prompt, prompt, *ids, *words, tuple(range(100, 120)), (200, 201, 202))
        )
    request = ProbeRequest(name, CIRCUIT, generate=False)
    preview = pd.DataFrame(columns=["side", "string", "ids", "pieces", "used", "note"])
    observable = Observable(pairs[0].target_ids, pairs[0].control_ids, preview)
    skipped = pd.DataFrame(columns=["pair_id", "reason"])
    circuit = load_circuit(CIRCUIT)
    size = probe.block_size(loaded, pairs)
    return loaded, Prepared(tuple(pairs), observable, False, skipped, size, circuit, "random", "", False), request


def same_batches(loaded: LoadedModel, prepared: Prepared) -> list[TokenBatch]:
    """The padded batches that the probe runs."""
    batches = []
    for _, indices in probe.blocks_of(prepared):
        pairs = [prepared.pairs[i] for i in indices]
        sequences = [ids for p in pairs for ids in dict.fromkeys((p.input_ids_original, p.input_ids_perturbed))]
        for rows in plan_batches([len(s) for s in sequences], MAX_BATCH_TOKENS):
            batches.append(left_pad([sequences[r] for r in rows], pad_id(loaded.tokenizer), loaded.device))
    return batches


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list that holds, afterwards, the largest growth of the resident size in bytes."""
    process, done, result = psutil.Process(), threading.Event(), [0.0]
    gc.collect()
    with suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that the allocator keeps would hide what is taken anew
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            result[0] = max(result[0], float(process.memory_info().rss - before))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        done.set()
        thread.join()


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock time of one call, and the processor time of the process meanwhile (steadier on a busy machine)."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(loaded: LoadedModel, prepared: Prepared, request: ProbeRequest, repeats: int) -> dict[str, Any]:
    """Times and memory of both sides; every number in the printed table."""
    batches = same_batches(loaded, prepared)
    capture: list[float] = []

    def run_plain() -> None:
        with torch.inference_mode():
            for batch in batches:
                last_logits(loaded.model, batch)

    def run_probe() -> None:
        blocks = list(probe.capture_blocks(loaded, prepared))
        capture.append(sum(block.seconds for block in blocks))
        probe.summarise(loaded, prepared, blocks, (), request)

    with torch.inference_mode():  # libraries load and threads start outside the measurement
        last_logits(loaded.model, left_pad([prepared.pairs[0].input_ids_original[:4]], 0, loaded.device))
    with peak_memory() as peak:
        run_probe()
    run_plain()
    capture.clear()
    plain_times, probe_times = [], []
    for _ in range(repeats):
        plain_times.append(seconds(run_plain))
        probe_times.append(seconds(run_probe))
    weights = loaded.n_bytes
    plain, plain_cpu = (statistics.median(column) for column in zip(*plain_times, strict=True))
    whole, whole_cpu = (statistics.median(column) for column in zip(*probe_times, strict=True))
    return {
        "model": loaded.id,
        "n_pairs": len(prepared.pairs),
        "n_sequences": sum(len(b.input_ids) for b in batches),
        "n_tokens_padded": sum(b.input_ids.numel() for b in batches),
        "repeats": repeats,
        "plain_seconds": plain,
        "probe_seconds": whole,
        "capture_seconds": statistics.median(capture),
        "ratio": whole / plain,
        "ratio_capture": statistics.median(capture) / plain,
        "ratio_processor_time": whole_cpu / plain_cpu,
        "ratios": [probed[0] / plain_[0] for plain_, probed in zip(plain_times, probe_times, strict=True)],
        "weights_mib": weights / MIB,
        "peak_extra_mib": peak[0] / MIB,
        "allowed_extra_mib": (weights / 20) / MIB + 200,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Measure both models and print a table, or one JSON object instead; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="repetitions with the shipped model")
    parser.add_argument("--large-repeats", type=int, default=3, help="repetitions with the model of 0.6B shape")
    parser.add_argument("--only", choices=("mini", "large"))
    args = parser.parse_args()
    cases = {"mini": (mini, args.repeats), "large": (large, args.large_repeats)}
    rows: list[dict[str, Any]] = []
    for name, (build, repeats) in cases.items():
        if args.only in (None, name):
            try:
                rows.append({"case": name} | measure(*build(), repeats))
            except PprobeError as error:
                rows.append({"case": name, "skipped": str(error)})
    if _report.handed_in({"bench": "probe", "rows": rows}, args.json):
        return 0
    columns = {
        "plain s": ("plain_seconds", ".3f"),
        "probe s": ("probe_seconds", ".3f"),
        "ratio": ("ratio", ".2f"),
        "capture": ("ratio_capture", ".2f"),
        "cpu": ("ratio_processor_time", ".2f"),
        "extra MiB": ("peak_extra_mib", ".0f"),
        "allowed": ("allowed_extra_mib", ".0f"),
    }
    print(f"{'case':6}" + "".join(f"{title:>11}" for title in columns))
    for row in rows:
        if "skipped" in row:
            print(f"{row['case']:6} skipped: {row['skipped']}")
        else:
            print(f"{row['case']:6}" + "".join(f"{row[key]:11{form}}" for key, form in columns.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
