"""From asking for a model to the first result, against loading it plainly and running two forward passes.

    python bench/load.py [--json [FILE|-]] [--repeats N] [--quick] [--folder FOLDER]

`probe`: load_model (files checked and hashed, structure proved), then the two passes of one prompt pair with scores,
statistics and verdict. `plain`: tokeniser and AutoModelForCausalLM.from_pretrained in the same dtype, then a forward
pass of each of the two prompts. Each in a fresh process with an empty cache folder, the two sides in turns; libraries
are imported before the clock starts. Medians; `ratio` is probe / plain, `memory` the same for the largest resident
size. The model is a random Qwen3 of 0.6B shape, written in bfloat16 as the hub holds it (`--quick`: a small one;
`--folder`: one that is there), and measured in float32 on the CPU. Its files have been read before: they come from
memory on both sides.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from bench import _report
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import limit_pairs, load_prompt_set
from pprobe_core.models.loading import load_model
from pprobe_core.probing import probe
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.settings import SHIPPED_MODELS

MIB = 2**20
CIRCUIT = "safety_refusal"
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "small": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 8192,
    },
}


def write_model(folder: Path, shape: str) -> None:
    """A random model of this shape in bfloat16 safetensors, with the shipped model's tokeniser."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPES[shape], tie_word_embeddings=True))
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(SHIPPED_MODELS / "mini-qwen3" / name, folder / name)


def run_probe(folder: str) -> dict[str, float]:
    """Seconds of the whole and of its stages."""
    prompts, circuit = load_prompt_set(CIRCUIT, "mini"), load_circuit(CIRCUIT)
    started = time.perf_counter()
    loaded = load_model(folder, device="cpu", dtype="float32")
    ready = time.perf_counter()
    probe.run(loaded, circuit, prompts, ProbeRequest(folder, CIRCUIT, "mini", limit=1, generate=False))
    return {"seconds": time.perf_counter() - started, "load_seconds": ready - started}


def run_plain(folder: str) -> dict[str, float]:
    """The same for the plain way: the same prompts, logits of the last position."""
    pair = limit_pairs(load_prompt_set(CIRCUIT, "mini").pairs, 1)[0]
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ready = time.perf_counter()
    for prompt in (pair.original, pair.perturbed or pair.original):  # about as long where it is made while preparing
        inputs = tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            model(**inputs, logits_to_keep=1)
    return {"seconds": time.perf_counter() - started, "load_seconds": ready - started}


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(side: str, folder: str) -> int:
    """One side in this process; its numbers as JSON on the last line."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    before = time.process_time()
    numbers = run_probe(folder) if side == "probe" else run_plain(folder)
    numbers |= {"processor_seconds": time.process_time() - before, "peak_mib": peak_bytes() / MIB}
    print(json.dumps(numbers))
    return 0


def one(side: str, folder: Path) -> dict[str, float]:
    """One side in a fresh process with an empty cache, so that nothing is remembered from an earlier run."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
        done = subprocess.run(command, env=os.environ | {"PPROBE_CACHE": cache}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The side “{side}” failed:\n{done.stderr[-2000:]}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def measure(folder: Path, case: str, repeats: int) -> dict[str, Any]:
    """Both sides in turns; every number in the printed table."""
    if repeats > 1:
        one("plain", folder)  # reads the files into memory
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "probe": []}
    for _ in range(repeats):
        for side, found in runs.items():
            found.append(one(side, folder))
    medians = {
        f"{side}_{key}": statistics.median(run[key] for run in found)
        for side, found in runs.items()
        for key in found[0]
    }
    return {
        "case": case,
        "repeats": repeats,
        **medians,
        "ratio": medians["probe_seconds"] / medians["plain_seconds"],
        "ratio_processor_time": medians["probe_processor_seconds"] / medians["plain_processor_seconds"],
        "ratio_memory": medians["probe_peak_mib"] / medians["plain_peak_mib"],
        "ratios": [b["seconds"] / a["seconds"] for a, b in zip(runs["plain"], runs["probe"], strict=True)],
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Measure and print a table, or one JSON object instead; with a file, both."""
    parser = _report.options(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side")
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--folder", help="a model folder to measure instead of a random model")
    parser.add_argument("--side", choices=("probe", "plain"), help=argparse.SUPPRESS)  # the process of one run
    args = parser.parse_args()
    if args.side:
        return child(args.side, args.folder)
    if args.folder:
        row = measure(Path(args.folder), Path(args.folder).name, args.repeats)
    else:
        shape = "small" if args.quick else "0.6b"
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder), shape)
            row = measure(Path(folder), shape, args.repeats)
    if _report.handed_in({"bench": "load", "rows": [row]}, args.json):
        return 0
    columns = {
        "plain s": ("plain_seconds", ".2f"),
        "probe s": ("probe_seconds", ".2f"),
        "ratio": ("ratio", ".2f"),
        "cpu": ("ratio_processor_time", ".2f"),
        "plain MiB": ("plain_peak_mib", ".0f"),
        "probe MiB": ("probe_peak_mib", ".0f"),
        "memory": ("ratio_memory", ".2f"),
    }
    print(_report.table([row], "case", columns))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
