"""Which ranking of neurons to trust for which question: every ranking against the effect of every single neuron.

    python bench/fidelity.py [--json [FILE|-]] [--model M] [--circuits a,b] [--prompts SET] [--heldout N]
                             [--all-positions N]

Truth: each neuron of the model alone is switched off (at the decision position, and at all positions), and alone is
patched to its value on the perturbed prompt; its effect is the mean change of the logit difference over held-out pairs.
The rankings see discovery pairs only. Two targets per question: `size`, neurons whose effect is large either way;
`direction`, neurons whose effect moves the logit difference as the perturbation does. Reported: Spearman's rank
correlation over all neurons, and the share of a ranking's first 20, 50 and 100 neurons that are among the true first
20, 50 and 100. Gradient scores stand beside the two-pass ones because they cost a backward pass and follow every path,
not the direct one alone; integrated gradients use the first IG_PROMPTS discovery pairs only.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from bench import _report
from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.errors import PprobeError
from pprobe_core.interventions.edits import Edits, Neuron, Patch, Scale
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator, prompts_of
from pprobe_core.interventions.measured import SHORTLIST, measure_neurons, shortlist
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.probing import probe
from pprobe_core.probing.decomposition import logit_diff
from pprobe_core.probing.scores import lowering_or_raising
from pprobe_core.probing.tokens import TokenBatch, left_pad, pad_id
from pprobe_core.probing.types import ProbeRequest

TOP = (20, 50, 100)
IG_STEPS = 5
IG_PROMPTS = 8
BATCH = 16  # prompts of one backward pass
RANDOM_SEEDS = 5
Key = np.ndarray  # one number per neuron in the order (layer, neuron), largest first


# Truth -------------------------------------------------------------------------------------------------------------


def single_neuron_effects(evaluator: Evaluator, edit: Callable[[Neuron], Edits]) -> np.ndarray:
    """Mean change of the logit difference, in logits, by an edit of each neuron alone, in the order (layer, neuron)."""
    s = evaluator.structure
    rows = [edit(Neuron(layer, n)) for layer in range(s.n_layers) for n in range(s.d_mlp)]
    return np.array([one.delta.mean() for one in evaluator.evaluate(rows)])


# Gradient scores ---------------------------------------------------------------------------------------------------


@contextmanager
def shifted(loaded: LoadedModel, shifts: dict[int, Tensor], batch: TokenBatch) -> Iterator[None]:
    """The neuron activations of some layers at the last position plus a tensor [prompt, d_mlp]."""

    def hook_of(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x = args[0].reshape(*batch.input_ids.shape, args[0].shape[-1])
            moved = torch.cat([x[:, :-1], x[:, -1:] + shifts[layer][:, None]], dim=1)
            return (moved.reshape(args[0].shape), *args[1:])

        return hook

    handles = [loaded.structure.blocks[layer].down_proj.register_forward_pre_hook(hook_of(layer)) for layer in shifts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradients(loaded: LoadedModel, prompts: tuple[EvalPrompt, ...], shifts: Tensor | None, layers: list[int]) -> Tensor:
    """dF/da at the decision position, [prompt, layer of `layers`, d_mlp]; `shifts` are added to those layers first."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        batch = left_pad([p.input_ids for p in some], pad_id(loaded.tokenizer), loaded.device)
        moved = torch.zeros(len(some), len(layers), loaded.structure.d_mlp)
        leaf = (moved if shifts is None else shifts[start : start + BATCH].clone()).requires_grad_(True)
        with torch.enable_grad(), shifted(loaded, dict(zip(layers, leaf.unbind(1), strict=True)), batch):
            logits = loaded.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
            ).logits[:, -1]
            diff = logit_diff(logits, [p.target_ids for p in some], [p.control_ids for p in some])
            parts += torch.autograd.grad(diff.sum(), leaf)
    return torch.cat(parts)


def path_gradients(loaded: LoadedModel, prompts: tuple[EvalPrompt, ...], change: Tensor) -> Tensor:
    """Integrated gradients: mean of dF/da while one layer's activations move by `change` [prompt, layer, d_mlp]."""
    total = torch.zeros_like(change)
    for layer in range(change.shape[1]):
        for step in range(IG_STEPS):
            moved = change[:, layer : layer + 1] * (step + 0.5) / IG_STEPS
            total[:, layer] += gradients(loaded, prompts, moved, [layer])[:, 0] / IG_STEPS
    return total


# Rankings ----------------------------------------------------------------------------------------------------------


def keys_of(
    loaded: LoadedModel, frames: dict[str, pd.DataFrame], selecting: Evaluator, sign: int, seed: int
) -> tuple[dict[str, Key], dict[str, dict[str, float]]]:
    """What each ranking sorts by, and what it cost: full passes, last-token passes, backward passes, seconds."""
    plain = frames["plain"].sort_values(["layer", "neuron"])
    aware = frames["norm_aware"].sort_values(["layer", "neuron"])
    n = len(selecting.prompts)
    change = selecting.values("other").acts - selecting.values("own").acts
    acts = selecting.values("own").acts
    two_passes = {"full": 2 * n, "last_token": 0, "backward": 0}
    keys: dict[str, Key] = {
        "shared": plain["importance_mean"].abs().to_numpy(),
        "magnitude": plain["importance_rms"].to_numpy(),
        "ablation": plain["ablation_score"].to_numpy(),
        "shared, norm-aware": aware["importance_mean"].abs().to_numpy(),
        "ablation, norm-aware": aware["ablation_score"].to_numpy(),
        "c * a(X), size": plain["zeroing_effect"].abs().to_numpy(),
        "c * a(X), direction": sign * plain["zeroing_effect"].to_numpy(),
        "I, direction": sign * plain["importance_mean"].to_numpy(),
        "activation change": change.mean(0).abs().flatten().numpy(),
    }
    costs: dict[str, dict[str, float]] = {name: dict(two_passes) for name in keys}

    started = time.perf_counter()
    chosen = shortlist(plain)
    evaluator = Evaluator(loaded, selecting.prompts)
    effects = {m: e for b in measure_neurons(evaluator, chosen) for m, e in zip(b.neurons, b.effects, strict=True)}
    own = np.full(len(plain), np.nan)
    d_mlp = loaded.structure.d_mlp
    for neuron, effect in effects.items():
        own[neuron.layer * d_mlp + neuron.neuron] = np.nan if effect is None else effect
    # What was not measured comes after everything that was, in the order of the two-pass score.
    for name, values, rest in (
        ("measured, size", np.abs(own), keys["shared"]),
        ("measured, direction", sign * own, keys["ablation"]),
    ):
        behind = np.nanmin(values) - 1.0 - (rest.max() - rest) / max(1e-12, float(np.ptp(rest)))
        keys[name] = np.where(np.isnan(values), behind, values)
        costs[name] = {
            "full": 2 * n + evaluator.passes.full,
            "last_token": evaluator.passes.last_token,
            "backward": 0,
            "seconds": time.perf_counter() - started,
            "shortlist": len(chosen),
        }

    every = list(range(loaded.structure.n_layers))
    started = time.perf_counter()
    gradient = gradients(loaded, selecting.prompts, None, every)
    spent = time.perf_counter() - started
    scores = {"attribution patching": (gradient * change).mean(0), "gradient x activation": -(gradient * acts).mean(0)}
    for name, score in scores.items():
        costs[name] = {"full": 2 * n, "last_token": 0, "backward": n, "seconds": spent}
        keys[f"{name}, size"], keys[f"{name}, direction"] = (
            score.abs().flatten().numpy(),
            sign * score.flatten().numpy(),
        )
    for name, path in (("integrated gradients to X~", change), ("integrated gradients to 0", -acts)):
        started = time.perf_counter()
        first = selecting.prompts[:IG_PROMPTS]
        score = (path_gradients(loaded, first, path[:IG_PROMPTS]) * path[:IG_PROMPTS]).mean(0)
        n_passes = len(first) * len(every) * IG_STEPS
        costs[name] = {
            "full": n_passes,
            "last_token": 0,
            "backward": n_passes,
            "seconds": time.perf_counter() - started,
        }
        keys[f"{name}, size"], keys[f"{name}, direction"] = (
            score.abs().flatten().numpy(),
            sign * score.flatten().numpy(),
        )
    for k in range(RANDOM_SEEDS):
        keys[f"random {k}"] = np.random.default_rng([seed, k]).random(len(plain))
    return keys, costs


# Comparison --------------------------------------------------------------------------------------------------------


def agreement(key: Key, truth: np.ndarray) -> dict[str, float]:
    """Spearman's correlation over all neurons, and precision of the first 20, 50 and 100."""
    usable = np.isfinite(truth)
    order, true_order = (np.argsort(-np.where(usable, v, -np.inf), kind="stable") for v in (key, truth))
    found = {"spearman": float(spearmanr(key[usable], truth[usable]).statistic)}
    for k in TOP:
        found[f"precision@{k}"] = len(set(order[:k]) & set(true_order[:k])) / k
    return found


def measure(
    loaded: LoadedModel, circuit_id: str, prompts: str, n_held_out: int, n_all_positions: int
) -> dict[str, Any]:
    """The table of one circuit."""
    circuit, prompt_set = load_circuit(circuit_id), load_prompt_set(circuit_id, prompts)
    request = ProbeRequest(loaded.id, circuit_id, prompts, generate=False)
    prepared = probe.prepare(loaded, circuit, prompt_set, request)
    blocks = list(probe.capture_blocks(loaded, prepared))
    frames = {
        coupling: probe.summarise(loaded, prepared, blocks, (), replace(request, coupling=coupling)).neurons
        for coupling in ("plain", "norm_aware")
    }
    discovery = tuple(p for p in prompts_of(prepared.pairs, "original") if p.split == "discovery")
    held_out = tuple(p for p in prompts_of(prepared.pairs, "original") if p.split == "heldout")[:n_held_out]
    if not discovery or not held_out:
        return {"circuit": circuit_id, "skipped": "the prompt set has no discovery or no held-out pairs"}
    selecting, judging = Evaluator(loaded, discovery), Evaluator(loaded, held_out)
    sign = lowering_or_raising(torch.from_numpy(selecting.other_baseline() - selecting.baseline()))
    keys, costs = keys_of(loaded, frames, selecting, sign, request.seed)

    started = time.perf_counter()
    truths = {
        "zeroing, decision position": single_neuron_effects(judging, lambda n: (Scale((n,), 0.0),)),
        "patching, decision position": single_neuron_effects(judging, lambda n: (Patch((n,)),)),
    }
    if n_all_positions:
        few = Evaluator(loaded, held_out[:n_all_positions])
        truths["zeroing, all positions"] = single_neuron_effects(few, lambda n: (Scale((n,), 0.0, "all"),))
        judging.passes.full += few.passes.full
    table = {}
    for question, truth in truths.items():
        for target, values in (("size", np.abs(truth)), ("direction", sign * truth)):
            rows = {name: agreement(key, values) for name, key in keys.items()}
            random = [rows.pop(name) for name in list(rows) if name.startswith("random")]
            rows["random"] = {k: float(np.mean([r[k] for r in random])) for k in random[0]}
            table[f"{question}: {target}"] = rows
    first = shortlist(frames["plain"])
    chosen = {n.layer * loaded.structure.d_mlp + n.neuron for n in first}
    recall = {
        question: {
            f"recall of the true first {k}": len(chosen & set(np.argsort(-np.abs(truth), kind="stable")[:k])) / k
            for k in TOP
        }
        for question, truth in truths.items()
    }
    return {
        "circuit": circuit_id,
        "model": loaded.id,
        "prompts": prompts,
        "n_neurons": len(frames["plain"]),
        "n_discovery": len(discovery),
        "n_heldout": len(held_out),
        "n_heldout_all_positions": min(n_all_positions, len(held_out)),
        "direction": "raises F" if sign > 0 else "lowers F",
        "shortlist": {"asked": SHORTLIST, "size": len(first), **recall},
        "costs": costs,
        "truth_costs": {
            "full": judging.passes.full,
            "last_token": judging.passes.last_token,
            "seconds": time.perf_counter() - started,
        },
        "agreement": table,
    }


def show(row: dict[str, Any]) -> None:
    """One circuit as text."""
    if "skipped" in row:
        print(f"\n{row['circuit']}: skipped: {row['skipped']}")
        return
    print(
        f"\n{row['circuit']} on {row['model']}: {row['n_neurons']:,} neurons, {row['n_discovery']} discovery and "
        f"{row['n_heldout']} held-out pairs; the perturbation {row['direction']}. "
        f"Shortlist: {row['shortlist']['size']:,}."
    )
    for question, rows in row["agreement"].items():
        print(f"\n  {question}\n  {'ranking':36}{'Spearman':>10}" + "".join(f"{'p@' + str(k):>8}" for k in TOP))
        for name, values in rows.items():
            numbers = "".join(f"{values[f'precision@{k}']:8.2f}" for k in TOP)
            print(f"  {name:36}{values['spearman']:10.2f}{numbers}")


def main() -> int:
    """Measure the circuits and print tables; --json also writes everything, costs included."""
    parser = _report.options(__doc__)
    parser.add_argument("--model", default="mini-qwen3")
    parser.add_argument("--circuits", default="safety_refusal", help="separated by commas, or all")
    parser.add_argument("--prompts", default="mini")
    parser.add_argument("--heldout", type=int, default=16, help="held-out pairs at most")
    parser.add_argument("--all-positions", type=int, default=4, help="held-out pairs for zeroing at all positions")
    args = parser.parse_args()
    try:
        loaded = load_model(args.model, device="cpu")
        circuits = list(load_circuits()) if args.circuits == "all" else args.circuits.split(",")
        rows = [measure(loaded, c, args.prompts, args.heldout, args.all_positions) for c in circuits]
    except PprobeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if _report.handed_in({"bench": "fidelity", "rows": rows}, args.json):
        return 0
    for row in rows:
        show(row)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
