"""The same probe, sweeps and answers on the CPU and on an accelerator: do the numbers agree, and what is gained?

    python bench/devices.py [--device cuda|mps] [--json [FILE|-]] [--pairs N] [--only shipped|large]

Shipped models: logit differences, first neurons, dose and window sweeps and answers of two circuits, on the CPU in
float32 (the reference) beside the accelerator in float32 and in bfloat16. Large: random models of Qwen3-0.6B's and
Qwen3-4B's shape in bfloat16 on the accelerator; a probe against plain forward passes of the same tokens there
(medians), and the accelerator's memory. Without an accelerator it says so and measures nothing.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from transformers import Qwen3Config

from bench import probe as bench_probe
from pprobe_core import settings
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.interventions.directions import find_directions
from pprobe_core.interventions.edits import ModelShape, Neuron
from pprobe_core.interventions.evaluator import Evaluator, prompts_of
from pprobe_core.interventions.generation import GenerationSettings, respond
from pprobe_core.interventions.measured import ranked_neurons
from pprobe_core.interventions.plans import Planned, dose_plan, window_plan
from pprobe_core.models.catalogue import shipped_models
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.probing import probe
from pprobe_core.probing.capture import last_logits
from pprobe_core.probing.types import ProbeRequest

Result = TypeVar("Result")

CIRCUITS = ("safety_refusal", "language")
TOP = 50
SHAPES = {
    "0.6B": bench_probe.LARGE,
    "4B": Qwen3Config(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
}


def accelerator(wanted: str | None) -> str | None:
    """The accelerator to measure, None when there is none."""
    if wanted:
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def wait_for(device: str) -> None:
    """Return when the accelerator has done what it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


class Side:
    """A model on one device: what a probe, sweeps and answers give there, and the seconds of each."""

    def __init__(self, loaded: LoadedModel, circuit_id: str, n_pairs: int | None) -> None:
        circuit = load_circuit(circuit_id)
        prompts = load_prompt_set(circuit, "mini")
        request = ProbeRequest(loaded.id, circuit_id, limit=n_pairs)
        self.device, self.seconds = loaded.device, dict[str, float]()
        result = self.timed("probe", lambda: probe.run(loaded, circuit, prompts, request))
        self.logit_diff = result.pairs[["logit_diff_original", "logit_diff_perturbed"]].to_numpy(float)
        self.flipped = result.pairs["flipped"].to_numpy(bool)
        self.answers = result.pairs[["response_original", "response_perturbed"]].to_numpy(str)
        self.ranked = ranked_neurons(result.neurons, "ablation", "target")
        prepared = probe.prepare(loaded, circuit, prompts, request)
        condition = circuit.sweep.condition
        self.evaluator = Evaluator(loaded, prompts_of(prepared.pairs, condition), condition)
        s = loaded.structure
        self.shape = ModelShape(s.n_layers, s.d_mlp, s.d_model)

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        """Do something and note its seconds, until the device has done it."""
        start = time.perf_counter()
        result = work()
        wait_for(self.device)
        self.seconds[name] = time.perf_counter() - start
        return result

    def sweep(self, ranked: Sequence[Neuron]) -> None:
        """Dose, window and edited answers, over the same neurons on every side."""
        doses = dose_plan(ranked[:100], self.shape, settings.SEED)
        self.dose = self.timed("dose", lambda: self._deltas(doses))
        directions = find_directions(self.evaluator, "difference_of_means")
        window = window_plan(directions, settings.SEED, strengths=(-1.0, 1.0))
        self.window = self.timed("window", lambda: self._deltas(window))
        edits = [(), next(p.edits for p in doses if p.arm == "ranked" and p.n_neurons == TOP)]
        answers = self.timed("edited answers", lambda: list(respond(self.evaluator, edits, GenerationSettings(16))))
        self.edited = np.array([a.text for a in sorted(answers, key=lambda a: (a.edit, a.prompt))])

    def _deltas(self, plan: Sequence[Planned]) -> np.ndarray:
        return np.stack([measured.delta for measured in self.evaluator.evaluate([planned.edits for planned in plan])])


def agreement(reference: Side, other: Side) -> dict[str, float]:
    """How far one side's numbers are from the reference's; differences in logits, shares as fractions."""
    top = {str(neuron) for neuron in reference.ranked[:TOP]}
    return {
        "F, largest difference": float(np.abs(reference.logit_diff - other.logit_diff).max()),
        "same flips": float((reference.flipped == other.flipped).mean()),
        "same first 50": len(top & {str(neuron) for neuron in other.ranked[:TOP]}) / TOP,
        "dose, largest": float(np.abs(reference.dose - other.dose).max()),
        "window, largest": float(np.nanmax(np.abs(reference.window - other.window))),
        "same answers": float((reference.answers == other.answers).mean()),
        "same edited answers": float((reference.edited == other.edited).mean()),
    }


def shipped(device: str, n_pairs: int | None) -> list[dict[str, Any]]:
    """One row per shipped aligned model, circuit and dtype on the accelerator."""
    rows = []
    for entry in shipped_models():
        if entry.id.endswith("-base"):
            continue
        sides = {("cpu", "float32"): load_model(entry.id, device="cpu", dtype="float32")}
        for dtype in ("float32", "bfloat16"):
            sides[device, dtype] = load_model(entry.id, device=device, dtype=dtype)
        for circuit in CIRCUITS:
            found = {side: Side(loaded, circuit, n_pairs) for side, loaded in sides.items()}
            reference = found.pop(("cpu", "float32"))
            for side in (reference, *found.values()):
                side.sweep(reference.ranked)
            for (where, dtype), side in found.items():
                rows.append(
                    {"case": f"{entry.id} {circuit} {where} {dtype}"}
                    | agreement(reference, side)
                    | {f"{k} s": v for k, v in side.seconds.items()}
                    | {f"{k} s cpu": v for k, v in reference.seconds.items()}
                )
    return rows


def large(device: str, repeats: int = 5) -> list[dict[str, Any]]:
    """A probe against plain passes of the same tokens, for random models of two shapes in bfloat16."""
    rows = []
    for name, config in SHAPES.items():
        loaded, prepared, request = bench_probe.large(config=config, device=device, dtype=torch.bfloat16)
        batches = bench_probe.same_batches(loaded, prepared)

        def plain(loaded: LoadedModel = loaded, batches: Sequence[Any] = batches) -> None:
            with torch.inference_mode():
                for batch in batches:
                    last_logits(loaded.model, batch)
            wait_for(device)

        def probed(loaded: LoadedModel = loaded, prepared: Any = prepared, request: Any = request) -> None:
            probe.summarise(loaded, prepared, list(probe.capture_blocks(loaded, prepared)), (), request)
            wait_for(device)

        plain(), probed()
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            probed()
            extra = (torch.cuda.max_memory_allocated() - before) / 2**20
        else:
            extra = float("nan")
        times: dict[str, list[float]] = {"plain": [], "probe": []}
        for _ in range(repeats):
            for side, work in (("plain", plain), ("probe", probed)):
                times[side].append(bench_probe.seconds(work)[0])
        middle = {side: statistics.median(values) for side, values in times.items()}
        rows.append(
            {
                "case": f"random {name} {device} bfloat16",
                "plain s": middle["plain"],
                "probe s": middle["probe"],
                "ratio": middle["probe"] / middle["plain"],
                "extra MiB": extra,
                "layer error": loaded.structure.check.layer_error,
                "tolerance": loaded.structure.check.tolerance,
            }
        )
        del loaded, prepared, batches, plain, probed
    return rows


def main() -> int:
    """Measure and print one line per case, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", nargs="?", const="-", help="file for the numbers, or - (or nothing) for the output")
    parser.add_argument("--device", help="cuda, cuda:1 or mps; default: the one there is")
    parser.add_argument("--pairs", type=int, help="first pairs of each set only")
    parser.add_argument("--only", choices=("shipped", "large"))
    args = parser.parse_args()
    device = accelerator(args.device)
    rows: list[dict[str, Any]] = []
    if device is not None:
        if args.only in (None, "shipped"):
            rows += shipped(device, args.pairs)
        if args.only in (None, "large"):
            rows += large(device)
    name = torch.cuda.get_device_name() if device and device.startswith("cuda") else device
    text = json.dumps({"bench": "devices", "device": name, "torch": torch.__version__, "rows": rows})
    if args.json == "-":
        print(text)
        return 0
    if args.json:
        Path(args.json).write_text(text, "utf-8")
    print(f"{name or 'There is no accelerator here, so nothing was measured.'}")
    for row in rows:
        print(row.pop("case"))
        print("   " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
