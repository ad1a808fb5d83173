"""Neuron scores of the two passes: pure functions of activations and coupling (docs/method.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOP_K = (1, 10, 50, 100)  # neuron counts of the top-k share


def coupling(
    direction: Float[Tensor, "*observable d_model"], W_out: Float[Tensor, "d_mlp d_model"], write_scale: float = 1.0
) -> Float[Tensor, "*observable d_mlp"]:
    """Logits that one unit of each neuron's activation adds to the logit difference on the direct path (the paper's c).

    c[n] = d . (write_scale * W_out[n]), where write_scale * W_out[n] is what the neuron writes into the final residual
    stream (1 in most families; granite and others scale the FFN's output). `direction` is d_F for the plain coupling;
    with the norms folded in (decomposition.fold_norm) this is the factor c0 of the norm-aware one.
    """
    return (direction @ W_out.T) * write_scale


def neuron_importance(
    acts_original: Float[Tensor, "pair layer d_mlp"],
    acts_perturbed: Float[Tensor, "pair layer d_mlp"],
    coupling: Float[Tensor, "*#pair layer d_mlp"],
) -> Float[Tensor, "pair layer d_mlp"]:
    """Direct effect, in logits, of each neuron's activation change on the logit difference (the paper's I).

    Direct path only: what later layers make of the change is left out. `coupling` is one for all pairs or one per pair.
    """
    return (acts_perturbed - acts_original) * coupling


@dataclass(frozen=True)
class ImportanceStatistics:
    """What the pairs say about each neuron's importance; logits for mean and rms, shares for the other two."""

    mean: Float[Tensor, "layer d_mlp"]
    rms: Float[Tensor, "layer d_mlp"]
    sign_consistency: Float[
        Tensor, "layer d_mlp"
    ]  # share of pairs whose I has the sign of the mean; 0 where the mean is 0
    coherence: Float[Tensor, "layer d_mlp"]  # |mean| / rms, from 0 to 1; 0 where rms is 0


def importance_statistics(importance: Float[Tensor, "pair layer d_mlp"]) -> ImportanceStatistics:
    """Mean, RMS, sign consistency and coherence of I over pairs."""
    mean = importance.mean(0)
    rms = importance.pow(2).mean(0).sqrt()
    agrees = (importance.sign() == mean.sign()) & (mean != 0)
    coherence = torch.where(rms > 0, mean.abs() / rms.clamp_min(torch.finfo(rms.dtype).tiny), 0.0)
    return ImportanceStatistics(mean, rms, agrees.float().mean(0), coherence.clamp_max(1.0))


def lowering_or_raising(delta: Float[Tensor, "pair"]) -> int:
    """+1 or -1: whether the perturbation raises or lowers the logit difference on average; +1 when it does neither."""
    return -1 if float(delta.double().mean()) < 0 else 1


def ablation_score(
    importance_mean: Float[Tensor, "layer d_mlp"], direct_mean: Float[Tensor, "layer d_mlp"], sign: int
) -> Float[Tensor, "layer d_mlp"]:
    """How well a neuron fits the question "what if it is switched off?", in logits, larger is better.

    min(sign * I, -sign * c * a(X)), both as means over pairs: the neuron responds to the perturbation in the direction
    of the observed change (`sign`), and zeroing it on X moves F the same way. For a perturbation that lowers F this is
    min(-I, c * a(X)). `direct_mean` is the mean of c * a(X).
    """
    return torch.minimum(sign * importance_mean, -sign * direct_mean)


def rank_neurons(key: Float[Tensor, "layer d_mlp"], k: int | None = None) -> Int[Tensor, "rank two"]:
    """The (layer, neuron) of the k largest values, largest first; ties in order of layer, then neuron."""
    flat = key.flatten()
    # The flat order is (layer, neuron), and a stable sort keeps it among equals.
    order = torch.sort(flat, descending=True, stable=True).indices[:k]
    return torch.stack((order // key.shape[1], order % key.shape[1]), dim=-1)


def layer_mass(importance_mean: Float[Tensor, "layer d_mlp"]) -> Float[Tensor, "layer"]:
    """Share of the summed |mean I| that lies in each layer; zeros when there is none at all."""
    per_layer = importance_mean.abs().double().sum(-1)
    total = per_layer.sum()
    return (per_layer / total if total > 0 else torch.zeros_like(per_layer)).float()


def topk_share(importance_mean: Float[Tensor, "layer d_mlp"], ks: Sequence[int] = TOP_K) -> dict[int, float]:
    """Share of the summed |mean I| carried by the k neurons with the largest; 0 when there is none at all."""
    ordered = importance_mean.abs().double().flatten().sort(descending=True).values
    total = float(ordered.sum())
    return {k: float(ordered[:k].sum()) / total if total > 0 else 0.0 for k in ks}


def sign_flip_maxima(
    importance: Float[Tensor, "pair layer d_mlp"], signs: Float[Tensor, "draw pair"]
) -> Float[Tensor, "draw"]:
    """Largest |mean I| over all neurons when each pair's I gets a random sign, per draw, in logits.

    The null behind it: original and perturbed prompt of a pair are exchangeable. Take the maximum over layers too, to
    control for having looked at every neuron.
    """
    means = (signs @ importance.flatten(1)) / importance.shape[0]
    return means.abs().amax(-1)
