"""Made-up frames of a comparison, with effects that are known: what the comparing tests draw and read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

MODELS = ("mini-qwen3", "mini-llama", "mini-gemma3", "a-1B", "a-model-with-a-long-name-7B-instruct", "b-3B")
CIRCUITS = (
    "safety_refusal",
    "sycophancy",
    "language",
    "factual_recall",
    "code",
    "math",
    "chain_of_thought",
    "tool_use",
)
N_LAYERS = (8, 8, 10, 24, 36, 16)
QUANTITIES = ("ffn", "attention", "skip", "ffn_skip", "attention_skip", "lens_after_ffn")


def ratios(models: Sequence[str] = MODELS, circuits: Sequence[str] = CIRCUITS, failed: bool = True) -> pd.DataFrame:
    """The ratio of circuit i in model j is 0.05 * 2 ** (i % 5) + 0.03 j; with `failed` the last model cannot be run."""
    rows = []
    for j, label in enumerate(models):
        for i, circuit in enumerate(circuits):
            mean = 0.05 * 2 ** (i % 5) + 0.03 * j
            row: dict[str, Any] = {
                "run_id": f"r{i}{j}",
                "model": label,
                "label": label,
                "family": "qwen3",
                "circuit": circuit,
                "circuit_title": circuit.replace("_", " ").capitalize(),
                "mean": mean,
                "median": mean * 0.9,
                "low": mean * 0.8,
                "high": mean * 1.25,
                "n": 120,
                "flip_rate": 0.3 if (i, j) == (1, 1) else 0.9,
                "n_pairs": 60,
                "structure": "opposition" if mean > 0.3 else "routing",
                "stage": "observed",
                "expected_structure": "opposition",
                "coupling": "plain",
                "note": None,
            }
            if failed and len(models) > 1 and j == len(models) - 1:
                row |= dict.fromkeys(("mean", "median", "low", "high", "flip_rate"), np.nan)
                row |= {"note": "cannot be run: it is a mixture of experts.", "n": 0, "n_pairs": 0, "structure": None}
            elif failed and (i, j) == (2, 0):
                row |= dict.fromkeys(("mean", "median", "low", "high"), np.nan)  # undefined
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(index=table.index[3]) if failed and len(table) > 4 else table  # one combination was not run


def profile(models: Sequence[str] = MODELS, circuit: str = "safety_refusal") -> pd.DataFrame:
    """FFN/Skip grows with depth to 0.1 * (place of the model + 1); logits are ten times as large, mirrored when
    perturbed."""
    rows = []
    for label in models:
        place = MODELS.index(label) + 1
        n_layers = N_LAYERS[MODELS.index(label)]
        for condition, sign in (("original", 1.0), ("perturbed", -0.5)):
            for quantity in QUANTITIES:
                for layer in range(n_layers):
                    depth = layer / (n_layers - 1)
                    size = 0.1 * place * depth**2
                    ratio = quantity.endswith("_skip")
                    mean = abs(sign) * size + (3.0 if layer == 0 else 0.0) if ratio else 10 * sign * size
                    rows.append(
                        {
                            "run_id": label,
                            "label": label,
                            "circuit": circuit,
                            "condition": condition,
                            "quantity": quantity,
                            "layer": layer,
                            "n_layers": n_layers,
                            "depth": depth,
                            "mean": mean,
                            "low": mean - 0.05,
                            "high": mean + 0.05,
                            "n": 60,
                        }
                    )
    return pd.DataFrame(rows)


def topology(models: Sequence[str] = MODELS, circuit: str = "safety_refusal") -> pd.DataFrame:
    rows = [
        {
            "run_id": label,
            "label": label,
            "circuit": circuit,
            "n_neurons": 384 * N_LAYERS[j],
            "share_top10": 0.3 - 0.04 * j,
            "share_top50": 0.7 - 0.08 * j,
            "concentration": 0.9 - 0.05 * j,
            "n_half": 20 + 30 * j,
            "ffn_share": 0.4 + 0.05 * j,
            "low": 0.35 + 0.05 * j,
            "high": 0.46 + 0.05 * j,
        }
        for j, label in enumerate(models)
    ]
    return pd.DataFrame(rows)


def layer_mass(models: Sequence[str] = MODELS, circuit: str = "safety_refusal") -> pd.DataFrame:
    """Nine tenths of the first 50 neurons in the last layer, one tenth in the one before."""
    rows = []
    for j, label in enumerate(models):
        n_layers = N_LAYERS[j]
        for layer in range(n_layers):
            share = {n_layers - 1: 0.9, n_layers - 2: 0.1}.get(layer, 0.0)
            depth = layer / (n_layers - 1)
            row = {"run_id": label, "label": label, "circuit": circuit, "layer": layer, "depth": depth}
            rows.append(row | {"share_top50": share, "mass": share * 0.6 + 0.4 / n_layers})
    return pd.DataFrame(rows)


def doses(
    models: Sequence[str] = MODELS,
    circuit: str = "safety_refusal",
    ns: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    draws: int = 5,
    splits: Sequence[str] = ("discovery", "heldout"),
) -> pd.DataFrame:
    """The effect at 100 neurons is -100 % for the first model, 15 % less for every next; random draws within 3 %."""
    rows = []
    for j, label in enumerate(models):
        total = 384 * N_LAYERS[j]
        for n in ns:
            size = -(1 - 0.15 * j) * np.log1p(n) / np.log1p(100)
            for split in splits:
                arms = [("ranked", None, size), *(("random", k, 0.03 * (k - 2) / 2) for k in range(draws))]
                for arm, draw, mean in arms:
                    rows.append(
                        {
                            "run_id": label,
                            "sweep_id": f"s-{label}",
                            "label": label,
                            "circuit": circuit,
                            "arm": arm,
                            "draw": draw,
                            "n_neurons": n,
                            "fraction": n / total,
                            "split": split,
                            "relative": mean,
                            "low": mean - 0.06,
                            "high": mean + 0.06,
                            "n": 12,
                            "changed": min(1.0, abs(mean)),
                            "changed_low": max(0.0, abs(mean) - 0.1),
                            "changed_high": min(1.0, abs(mean) + 0.1),
                        }
                    )
    return pd.DataFrame(rows)


def windows(models: Sequence[str] = MODELS, circuit: str = "language", draws: int = 3) -> pd.DataFrame:
    """Answers switch in a bell around 40 % of the depth, less in every next model; early layers break them."""
    rows = []
    for j, label in enumerate(models):
        n_layers = N_LAYERS[j]
        for layer in range(n_layers):
            depth = layer / (n_layers - 1)
            for strength in (-0.5, -1.0, -2.0):
                bell = float(np.exp(-(((depth - 0.4) / 0.2) ** 2)))
                switched = round(12 * bell * (1 - 0.15 * j) * min(1.0, -strength)) / 12
                broken = 0.75 if depth < 0.15 else 0.0
                arms = [("ranked", None, switched), *(("random", k, k / 12) for k in range(draws))]
                for arm, draw, share in arms:
                    rows.append(
                        {
                            "run_id": label,
                            "sweep_id": f"w-{label}",
                            "label": label,
                            "circuit": circuit,
                            "layer": layer,
                            "depth": depth,
                            "n_layers": n_layers,
                            "strength": strength,
                            "toward_other": -1,
                            "arm": arm,
                            "draw": draw,
                            "split": "heldout",
                            "switched": share,
                            "switched_low": max(0.0, share - 0.15),
                            "switched_high": min(1.0, share + 0.15),
                            "broken": broken if arm == "ranked" else 0.0,
                            "n": 12,
                            "relative": -2.0 * share,
                            "low": -2.0 * share - 0.1,
                            "high": -2.0 * share + 0.1,
                            "regime": "causal" if share >= 0.5 else "committed",
                        }
                    )
    return pd.DataFrame(rows)


def twins(
    models: Sequence[str] = MODELS[:3], circuit: str = "safety_refusal", n: int = 40, turned: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    """Aligned models lie on the target side; in a share `turned` of the pairs their base lies on the other."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in models:
        for i in range(n):
            base = float(abs(rng.normal(2, 0.5)) * (-1 if i < turned * n else 1))
            aligned = float(abs(rng.normal(3, 0.5)))
            rows.append(
                {
                    "circuit": circuit,
                    "pair_id": f"p{i:03d}",
                    "condition": "original",
                    "label_base": f"{label}-base",
                    "label_aligned": label,
                    "f_base": base,
                    "f_aligned": aligned,
                    "class_base": "refusal" if base > 0 else "compliance",
                    "class_aligned": "refusal",
                    "side_base": "target" if base > 0 else "control",
                    "side_aligned": "target",
                }
            )
    return pd.DataFrame(rows)


def points(
    models: Sequence[str] = MODELS, circuits: Sequence[str] = CIRCUITS, noise: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Effect = -0.1 - 0.5 * FFN/Skip, with noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in models:
        for circuit in circuits:
            ratio = float(rng.uniform(0.02, 1.2))
            effect = -0.1 - 0.5 * ratio + float(rng.normal(0, noise) if noise else 0.0)
            rows.append(
                {
                    "run_id": f"{label}-{circuit}",
                    "label": label,
                    "circuit": circuit,
                    "ffn_skip": ratio,
                    "ffn_skip_low": ratio * 0.8,
                    "ffn_skip_high": ratio * 1.2,
                    "effect": effect,
                    "effect_low": effect - 0.1,
                    "effect_high": effect + 0.1,
                    "n_neurons": 50,
                    "n": 12,
                }
            )
    return pd.DataFrame(rows)


def tops(
    circuits: Sequence[str] = CIRCUITS, k: int = 50, d_mlp: int = 384, shared: int = 12
) -> dict[str, pd.DataFrame]:
    """First k neurons of each circuit, all in layer 7; neighbours share `shared` neurons."""
    out = {}
    for i, circuit in enumerate(circuits):
        numbers = (np.arange(k) + i * (k - shared)) % d_mlp
        out[circuit] = pd.DataFrame({"layer": 7, "neuron": numbers, "importance": np.linspace(1, 0.1, k) * (-1) ** i})
    return out
