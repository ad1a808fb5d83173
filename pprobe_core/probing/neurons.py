"""Scores of every neuron of a run, computed one layer at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pprobe_core import stats
from pprobe_core.models.structure import Block, Structure
from pprobe_core.probing import scores
from pprobe_core.probing.capture import ORIGINAL, PERTURBED
from pprobe_core.probing.collected import Collected
from pprobe_core.probing.decomposition import Directions, fold_norm, write_scales
from pprobe_core.probing.types import COUPLINGS, Coupling

NULL_DRAWS = 200  # random sign patterns of the sign-flip null


@dataclass(frozen=True)
class NeuronScores:
    """Scores of all neurons over the ranking pairs, and what they sum to."""

    frame: pd.DataFrame  # columns as ProbeResult.neurons
    predicted_delta: Float[np.ndarray, "pair"]  # sum of I over all neurons, every pair, logits
    layer_mass: list[float]
    topk_share: dict[int, float]
    null_threshold: float  # logits: 95th percentile over draws of the largest |mean I| under random signs
    n_above_null: int
    sums: Mapping[Coupling, Float[np.ndarray, "pair layer"]]  # sum of I over a layer's neurons, logits, either coupling
    direct_sums: Mapping[Coupling, Float[np.ndarray, "pair layer"]]  # sum of c * a(X), the contribution on X, likewise
    importance_means: Mapping[Coupling, Float[np.ndarray, "layer d_mlp"]]  # mean I over the ranking pairs, likewise


@torch.inference_mode()
def score_neurons(
    structure: Structure, directions: Directions, collected: Collected, ranked: list[int], coupling: Coupling, seed: int
) -> NeuronScores:
    """All neuron scores; `ranked` are the pairs that select neurons. No tensor larger than [pair, d_mlp] is made.

    The norm-aware coupling is c0[observable, n] * s[pair]: c0 holds the gains of the final norm and of the FFN
    post-norm, s their scales, frozen at the original prompt. `coupling` decides the scores; the other one is summed
    beside it, so that a reader sees what the choice changes.
    """
    signals, to_final = collected.signals, write_scales(structure)
    signs = torch.from_numpy(stats.sign_patterns(NULL_DRAWS, len(ranked), seed))
    maxima = torch.zeros(NULL_DRAWS, dtype=torch.float32)
    n_pairs = signals.logit_diff.shape[1]
    predicted = torch.zeros(n_pairs, dtype=torch.float64)
    sums = {name: torch.zeros(n_pairs, structure.n_layers, dtype=torch.float64) for name in COUPLINGS}
    direct_sums = {name: torch.zeros_like(values) for name, values in sums.items()}
    means: dict[Coupling, list[Float[Tensor, "one d_mlp"]]] = {name: [] for name in COUPLINGS}
    sign = scores.lowering_or_raising((signals.logit_diff[PERTURBED] - signals.logit_diff[ORIGINAL])[ranked])
    layers: list[dict[str, Float[Tensor, "one d_mlp"]]] = []
    for layer, block in enumerate(structure.blocks):
        couplings = _couplings(block, directions, collected, float(to_final[layer]))
        original, perturbed = collected.acts(ORIGINAL, layer), collected.acts(PERTURBED, layer)
        for name in COUPLINGS:
            other = scores.neuron_importance(original, perturbed, couplings[name])
            sums[name][:, layer] = other.sum((1, 2), dtype=torch.float64)
            direct_sums[name][:, layer] = (couplings[name] * original).sum((1, 2), dtype=torch.float64)
            means[name].append(other[ranked].mean(0))
        c = couplings[coupling]
        importance = scores.neuron_importance(original, perturbed, c)
        predicted += sums[coupling][:, layer]
        direct = (c * original)[ranked].mean(0)
        importance = importance[ranked]
        statistics = scores.importance_statistics(importance)
        maxima = torch.maximum(maxima, scores.sign_flip_maxima(importance, signs))
        layers.append(
            {
                "coupling": (c if len(c) == 1 else c[ranked]).mean(0),
                "importance_mean": statistics.mean,
                "importance_rms": statistics.rms,
                "sign_consistency": statistics.sign_consistency,
                "coherence": statistics.coherence,
                "act_original_mean": original[ranked].mean(0),
                "act_perturbed_mean": perturbed[ranked].mean(0),
                "zeroing_effect": -direct,
                "ablation_score": scores.ablation_score(statistics.mean, direct, sign),
            }
        )
    mean = torch.cat([values["importance_mean"] for values in layers])
    threshold = float(torch.quantile(maxima.double(), stats.LEVEL))
    return NeuronScores(
        frame=_frame(layers),
        predicted_delta=predicted.numpy(),
        layer_mass=scores.layer_mass(mean).tolist(),
        topk_share=scores.topk_share(mean),
        null_threshold=threshold,
        n_above_null=int((mean.abs() > threshold).sum()),
        sums={name: values.numpy() for name, values in sums.items()},
        direct_sums={name: values.numpy() for name, values in direct_sums.items()},
        importance_means={name: torch.cat(values).numpy() for name, values in means.items()},
    )


def _couplings(
    block: Block, directions: Directions, collected: Collected, to_final: float
) -> dict[Coupling, Float[Tensor, "#pair one d_mlp"]]:
    """Either coupling of one layer's neurons: one row for all pairs, or one per pair where they differ."""
    signals, W_out = collected.signals, block.W_out()
    folded = fold_norm(directions.folded, block.ffn_post_norm)
    frozen = signals.final_scale[ORIGINAL] * signals.ffn_post_scale[ORIGINAL, :, block.layer]
    found: dict[Coupling, Float[Tensor, "#pair one d_mlp"]] = {}
    for name in COUPLINGS:
        direction = directions.plain if name == "plain" else folded
        c = scores.coupling(direction, W_out, block.ffn_scale * to_final).cpu()[:, None]
        # One row serves all pairs unless observables or frozen norms differ between them.
        c = c if len(c) == 1 else c[directions.index]
        found[name] = c if name == "plain" else c * frozen[:, None, None]
    return found


def _frame(layers: list[dict[str, Float[Tensor, "one d_mlp"]]]) -> pd.DataFrame:
    """One row per neuron, in the order of layer and neuron."""
    columns = {name: torch.cat([values[name] for values in layers]) for name in layers[0]}
    n_layers, d_mlp = columns["coupling"].shape
    place = {
        "layer": np.repeat(np.arange(n_layers, dtype=np.int32), d_mlp),
        "neuron": np.tile(np.arange(d_mlp, dtype=np.int32), n_layers),
    }
    return pd.DataFrame(place | {name: column.flatten().numpy() for name, column in columns.items()})
