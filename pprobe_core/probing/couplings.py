"""Plain against norm-aware coupling: which of them adds up to what the FFNs really change. Pure functions of sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats as scipy_stats

from pprobe_core import stats
from pprobe_core.probing.neurons import NeuronScores
from pprobe_core.probing.types import COUPLINGS, Coupling

TOP = 50  # neurons whose overlap between the two rankings is counted
MIN_SHARE = 1e-6  # ours: a change smaller than this beside the sums is rounding, and no ratio to it says anything


def compare_couplings(
    exact: Float[np.ndarray, "pair layer"],
    exact_original: Float[np.ndarray, "pair layer"],
    neurons: NeuronScores,
    n_post_norms: int,
    n_ranking_pairs: int,
    seed: int,
) -> dict[str, Any]:
    """How the sum of I under either coupling stands to the exact change of the FFNs' contributions; JSON-able.

    `exact`: change, perturbed minus original, of each layer's direct logit attribution; `exact_original`: that
    attribution on the original prompts. Per coupling:
      sum, interval: mean over pairs of the sum over layers (logits), with its bootstrap interval
      ratio: that sum over the exact one
      size: summed size of the layers' mean changes over that of the exact ones (1 is right)
      missed: summed size of what differs from the exact change per layer, over the summed size of the exact ones
      missed_original: the same share for the contributions on the original prompts, where the norm-aware coupling is
        exact (up to biases); what it misses of the change is the change of the norms' scales between the two prompts
      correlation_layers, correlation_pairs: Pearson's r with the exact change, over layers (means) and pairs (sums)
    `ranks` compares the rankings by |mean I|: Spearman's rho over all neurons, how many of the first TOP both share,
    and how many two random rankings would. None where undefined.
    """
    return {
        "n_pairs": exact.shape[0],
        "n_layers": exact.shape[1],
        "n_post_norms": n_post_norms,
        "exact": {"sum": float(exact.sum(1).mean()), "interval": stats.bootstrap_mean(exact.sum(1), seed)},
        **{
            name: _against(exact, neurons.sums[name], seed)
            | {"missed_original": _missed(exact_original.mean(0), neurons.direct_sums[name].mean(0))}
            for name in COUPLINGS
        },
        "ranks": _ranks(neurons.importance_means) | {"n_pairs": n_ranking_pairs},
    }


def layer_rows(
    exact: Float[np.ndarray, "pair layer"], sums: Mapping[Coupling, Float[np.ndarray, "pair layer"]]
) -> list[dict[str, Any]]:
    """Per layer: ffn_change (exact), sum_plain, sum_norm_aware; means over pairs in logits, each with `*_interval`."""
    rows: list[dict[str, Any]] = [{} for _ in range(exact.shape[1])]
    for name, values in (("ffn_change", exact), *((f"sum_{coupling}", sums[coupling]) for coupling in COUPLINGS)):
        mean, half = values.mean(0), _half_width(values)
        for layer, row in enumerate(rows):
            row[name] = float(mean[layer])
            row[f"{name}_interval"] = (
                None if half is None else [float(mean[layer] - half[layer]), float(mean[layer] + half[layer])]
            )
    return rows


def _half_width(values: Float[np.ndarray, "pair layer"]) -> Float[np.ndarray, "layer"] | None:
    """Half of the Student-t interval of the mean over pairs; None for a single pair."""
    n = values.shape[0]
    if n < 2:
        return None
    t = float(scipy_stats.t.ppf(0.5 + stats.LEVEL / 2, n - 1))
    return t * values.std(0, ddof=1) / np.sqrt(n)


def _against(
    exact: Float[np.ndarray, "pair layer"], sums: Float[np.ndarray, "pair layer"], seed: int
) -> dict[str, Any]:
    of_pair, exact_of_pair = sums.sum(1), exact.sum(1)
    of_layer, exact_of_layer = sums.mean(0), exact.mean(0)
    size = float(np.abs(exact_of_layer).sum())
    return {
        "sum": float(of_pair.mean()),
        "interval": stats.bootstrap_mean(of_pair, seed),
        "ratio": _share(float(of_pair.mean()), float(exact_of_pair.mean()), size),
        "size": _share(float(np.abs(of_layer).sum()), size, float(np.abs(of_layer).sum())),
        "missed": _missed(exact_of_layer, of_layer),
        "correlation_layers": _correlation(of_layer, exact_of_layer),
        "correlation_pairs": _correlation(of_pair, exact_of_pair),
    }


def _missed(exact: Float[np.ndarray, "layer"], summed: Float[np.ndarray, "layer"]) -> float | None:
    """Summed size of the differences over the summed size of the exact values."""
    return _share(float(np.abs(summed - exact).sum()), float(np.abs(exact).sum()), float(np.abs(summed).sum()))


def _share(part: float, whole: float, beside: float) -> float | None:
    """part / whole; None where `whole` is nothing, also beside what it is compared with."""
    return part / whole if abs(whole) > MIN_SHARE * abs(beside) and whole != 0 else None


def _correlation(x: Float[np.ndarray, "value"], y: Float[np.ndarray, "value"]) -> float | None:
    """Pearson's r; None for fewer than three values or where one of them does not vary."""
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(means: Mapping[Coupling, Float[np.ndarray, "layer d_mlp"]]) -> dict[str, Any]:
    one, two = (np.abs(means[coupling]).ravel() for coupling in COUPLINGS)
    top = min(TOP, one.size)
    varies = one.size > 2 and np.ptp(one) > 0 and np.ptp(two) > 0
    first = [set(_first(values, top)) for values in (one, two)]
    return {
        "spearman": float(scipy_stats.spearmanr(one, two).statistic) if varies else None,
        "top": top,
        "overlap": len(first[0] & first[1]) if varies else None,
        "chance": top * top / one.size,
        "n_neurons": int(one.size),
    }


def _first(values: Float[np.ndarray, "neuron"], k: int) -> Sequence[int]:
    """Places of the k largest, ties in order of layer and neuron."""
    return [int(place) for place in np.argsort(-values, kind="stable")[:k]]
