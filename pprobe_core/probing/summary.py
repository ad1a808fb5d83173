"""The one-page summary of a run: plain JSON values, None where something is undefined."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pprobe_core import stats
from pprobe_core.circuits.responses import RULES_VERSION, side_of
from pprobe_core.models.loading import LoadedModel
from pprobe_core.models.structure import Structure
from pprobe_core.probing.capture import ORIGINAL, PERTURBED, PromptSignals
from pprobe_core.probing.collected import Collected
from pprobe_core.probing.couplings import compare_couplings, layer_rows
from pprobe_core.probing.frames import CONDITIONS, LAYER_COLUMNS
from pprobe_core.probing.generation import MAX_NEW_TOKENS, GenerationBlock
from pprobe_core.probing.neurons import NULL_DRAWS, NeuronScores
from pprobe_core.probing.types import ENGINE_VERSION, Prepared, ProbeRequest
from pprobe_core.probing.verdict import Evidence


def identity_of_run(loaded: LoadedModel, prepared: Prepared, request: ProbeRequest) -> dict[str, Any]:
    """What was run on what: ids, hashes, sizes and settings."""
    structure, circuit = loaded.structure, prepared.circuit
    return {
        "model": loaded.id,
        "family": loaded.family,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "config_sha256": loaded.config_sha256,
        "tokenizer_sha256": loaded.tokenizer_sha256,
        "n_layers": structure.n_layers,
        "d_mlp": structure.d_mlp,
        "d_model": structure.d_model,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "model_notes": list(loaded.notes),
        "circuit": circuit.circuit_id,
        "circuit_sha256": circuit.sha256,
        "expected_structure": circuit.expected_structure,
        "prompts": prepared.prompt_set_id,
        "prompt_set_sha256": prepared.prompt_set_sha256,
        "coupling": request.coupling,
        "limit": request.limit,
        "seed": request.seed,
        "engine_version": ENGINE_VERSION,
        "thinking": prepared.thinking,
        "thinking_asked": request.thinking,
        "thinking_state": prepared.thinking_state,
        "notes": list(prepared.notes),
        "splits": {
            split: sum(pair.split == split for pair in prepared.pairs)
            for split in dict.fromkeys(pair.split for pair in prepared.pairs)
        },
        "skipped": prepared.skipped.to_dict("records"),
        "observable": {
            "target_ids": list(prepared.observable.target_ids),
            "control_ids": list(prepared.observable.control_ids),
            "per_pair": prepared.per_pair_observable,
            "own_pairs": list(prepared.own_strings),
            "strings_from": request.strings_from,
            "harvested_from": request.harvested_from or None,
        },
        "token_warnings": [
            f"{row['side']} {row['string']!r}: {row['note']}"
            for row in prepared.observable.preview.to_dict("records")
            if row["note"]
        ],
    }


def measurements(
    structure: Structure,
    collected: Collected,
    neurons: NeuronScores,
    pairs: pd.DataFrame,
    n_ranking_pairs: int,
    seed: int,
) -> dict[str, Any]:
    """What was measured, over all pairs: means with bootstrap intervals, shares with Wilson intervals.

    `coverage.unseen` is over the pairs outside the discovery split, which suggest no harvested token.
    """
    exact = _change(collected.signals.ffn).numpy()
    n_post_norms = sum(block.ffn_post_norm is not None for block in structure.blocks)
    unseen = pairs[pairs["split"] != "discovery"]
    original, perturbed = pairs["logit_diff_original"].to_numpy(), pairs["logit_diff_perturbed"].to_numpy()
    predicted = pairs["predicted_delta"].to_numpy()
    n_flipped, n_pairs = int(pairs["flipped"].sum()), len(pairs)
    return {
        "n_pairs": n_pairs,
        "n_forward_passes": collected.n_sequences,
        "n_flipped": n_flipped,
        "n_identical": _n_identical(pairs),
        "flip_rate": n_flipped / n_pairs,
        "flip_interval": stats.wilson(n_flipped, n_pairs),
        "coverage": {
            "original": float(pairs["covered_original"].mean()),
            "perturbed": float(pairs["covered_perturbed"].mean()),
            "n_original": int(pairs["covered_original"].sum()),
            "n_perturbed": int(pairs["covered_perturbed"].sum()),
            "unseen": {
                "n_original": int(unseen["covered_original"].sum()),
                "n_perturbed": int(unseen["covered_perturbed"].sum()),
                "n_pairs": len(unseen),
            },
        },
        "margins": {"original": float(np.abs(original).mean()), "perturbed": float(np.abs(perturbed).mean())},
        "logit_diff": {
            "original_mean": float(original.mean()),
            "perturbed_mean": float(perturbed.mean()),
            "delta_mean": float((perturbed - original).mean()),
            "predicted_delta_mean": float(predicted.mean()),
            "original_interval": stats.bootstrap_mean(original, seed),
            "perturbed_interval": stats.bootstrap_mean(perturbed, seed),
            "delta_interval": stats.bootstrap_mean(perturbed - original, seed),
            "predicted_delta_interval": stats.bootstrap_mean(predicted, seed),
        },
        "additive": additive_check(collected.signals, predicted, seed),
        "ffn_skip": _ffn_skip(collected.signals, seed),
        "null": {"importance_threshold": neurons.null_threshold, "n_above": neurons.n_above_null, "draws": NULL_DRAWS},
        "topk_share": {str(k): share for k, share in neurons.topk_share.items()},
        "layers": [
            row | more
            for row, more in zip(
                layer_means(collected.signals, neurons.layer_mass), layer_rows(exact, neurons.sums), strict=True
            )
        ],
        "couplings": compare_couplings(
            exact, collected.signals.ffn[ORIGINAL].double().numpy(), neurons, n_post_norms, n_ranking_pairs, seed
        ),
        "decomposition_error": decomposition_error(collected.signals),
    }


def _n_identical(pairs: pd.DataFrame) -> int:
    """How many pairs have two prompts of the same tokens."""
    both = zip(pairs["input_ids_original"], pairs["input_ids_perturbed"], strict=True)
    return sum(tuple(original) == tuple(perturbed) for original, perturbed in both)


def _ffn_skip(signals: PromptSignals, seed: int) -> dict[str, Any]:
    """FFN/Skip ratio of the last layer over the prompts where it is defined."""
    ratios = signals.ffn_skip[:, :, -1].double()
    # The two prompts of a pair belong together, so they are resampled together.
    of_pair = ratios.nanmean(0).numpy()
    original, perturbed = ratios[ORIGINAL].numpy(), ratios[PERTURBED].numpy()
    return {
        "original_mean": stats.mean_or_none(original),
        "perturbed_mean": stats.mean_or_none(perturbed),
        "mean": stats.mean_or_none(ratios.flatten().numpy()),
        "median": stats.median_or_none(ratios.flatten().numpy()),
        "interval": stats.bootstrap_mean(of_pair, seed),
        "original_interval": stats.bootstrap_mean(original, seed),
        "perturbed_interval": stats.bootstrap_mean(perturbed, seed),
        "n_defined": int(ratios.isfinite().sum()),
    }


def layer_means(signals: PromptSignals, layer_mass: Sequence[float]) -> list[dict[str, Any]]:
    """One row per layer: means over pairs of the original prompts, `*_perturbed` of the others, and the layer's mass.

    Ratios are means over the prompts where they are defined: `ffn_skip` and `attention_skip` over both conditions,
    `*_original` and `*_perturbed` over one.
    """
    rows: list[dict[str, Any]] = [{"layer": layer, "mass": mass} for layer, mass in enumerate(layer_mass)]
    for name in LAYER_COLUMNS:
        values: Float[Tensor, "condition pair layer"] = getattr(signals, name).double()
        original, perturbed = values[ORIGINAL].nanmean(0).tolist(), values[PERTURBED].nanmean(0).tolist()
        both = values.flatten(0, 1).nanmean(0).tolist()
        is_ratio = name.endswith("_skip")
        for layer, row in enumerate(rows):
            row[name] = both[layer] if is_ratio else original[layer]
            row[f"{name}_perturbed"] = perturbed[layer]
            if is_ratio:
                row[f"{name}_original"] = original[layer]
    return rows


def additive_check(signals: PromptSignals, predicted: Float[np.ndarray, "pair"], seed: int) -> dict[str, Any]:
    """Sum of I against the measured change of F, and what carries the difference (means over pairs, logits).

    measured = embedding + attention + ffn + constant, each the change of an exact part. What lies between `ffn` and the
    sum of I comes from freezing the norms (norm-aware coupling) or leaving them out (plain): `normalisation`.
    """
    measured = _change(signals.logit_diff).numpy()
    carried_by = {
        "attention": float(_change(signals.attention.sum(-1)).mean()),
        "embedding": float(_change(signals.skip[..., 0]).mean()),
        "constant": float(_change(signals.constant).mean()),
    }
    ffn = float(_change(signals.ffn.sum(-1)).mean())
    carried_by["normalisation"] = ffn - float(predicted.mean())
    fit = stats.linear_fit(predicted, measured, seed)
    ratio = np.divide(predicted, measured, out=np.full_like(measured, np.nan), where=measured != 0)
    line = dict.fromkeys(("slope", "intercept", "correlation", "null_correlation_95", "p_value"))
    return (asdict(fit) if fit is not None else line) | {
        "median_ratio": stats.median_or_none(ratio),
        "measured_mean": float(measured.mean()),
        "predicted_mean": float(predicted.mean()),
        "residual_mean": float((measured - predicted).mean()),
        "ffn_mean": ffn,
        "carried_by": carried_by,
    }


def _change(values: Float[Tensor, "condition *rest"]) -> Float[Tensor, "*rest"]:
    return (values[PERTURBED] - values[ORIGINAL]).double()


def decomposition_error(signals: PromptSignals) -> float:
    """Largest |skip of layer 0 + attention + ffn + constant - F| in logits: the engine's numerical self-check."""
    total = signals.skip[..., 0] + signals.attention.sum(-1) + signals.ffn.sum(-1) + signals.constant
    return float((total - signals.logit_diff).abs().max())


def generation_summary(
    prepared: Prepared, pairs: pd.DataFrame, generations: Sequence[GenerationBlock]
) -> dict[str, Any] | None:
    """Passes spent on answers, and how many answers fall on the side of sign(F); None when nothing was generated.

    `unseen` counts the answers outside the discovery split alone: where the tokens were harvested from the answers of
    that split, those agree with F by construction.
    """
    if not generations:
        return None
    n_agree, n_answers = _agreement(prepared, pairs)
    unseen = _agreement(prepared, pairs[pairs["split"] != "discovery"])
    return {
        "n_full_passes": sum(block.n_full_passes for block in generations),
        "n_last_token_passes": sum(block.n_last_token_passes for block in generations),
        "max_new_tokens": MAX_NEW_TOKENS,
        "seconds": sum(block.seconds for block in generations),
        "rules_version": RULES_VERSION,
        "n_answers": n_answers,
        "n_agree": n_agree,
        "unseen": {"n_agree": unseen[0], "n_answers": unseen[1]},
        "agreement": n_agree / n_answers if n_answers else None,
        "agreement_interval": stats.wilson(n_agree, n_answers),
        "classes": {c: {str(k): int(n) for k, n in pairs[f"class_{c}"].value_counts().items()} for c in CONDITIONS},
    }


def _agreement(prepared: Prepared, pairs: pd.DataFrame) -> tuple[int, int]:
    """How many answers to the prompts of these pairs lie on the side of sign(F), and how many there are."""
    n_agree = n_answers = 0
    for condition in CONDITIONS:
        for name, value in zip(pairs[f"class_{condition}"], pairs[f"logit_diff_{condition}"], strict=True):
            if isinstance(name, str):
                n_answers += 1
                n_agree += side_of(prepared.circuit, name, condition) == ("target" if value > 0 else "control")
    return n_agree, n_answers


def evidence(measured: dict[str, Any], generation: dict[str, Any] | None, request: ProbeRequest) -> Evidence:
    """The numbers of `measurements` and `generation_summary` on which a verdict rests.

    With harvested tokens only answers that did not suggest them can say whether F stands for the behaviour.
    """
    ratio, coverage, logit_diff = measured["ffn_skip"], measured["coverage"], measured["logit_diff"]
    unseen = coverage["unseen"]
    answers = generation["unseen"] if generation and request.strings_from == "harvested" else generation
    return Evidence(
        n_pairs=measured["n_pairs"],
        n_flipped=measured["n_flipped"],
        logit_diff_original=logit_diff["original_mean"],
        logit_diff_perturbed=logit_diff["perturbed_mean"],
        ffn_skip_mean=ratio["mean"],
        ffn_skip_median=ratio["median"],
        ffn_skip_interval=ratio["interval"],
        n_ffn_skip=ratio["n_defined"],
        n_covered_original=coverage["n_original"],
        n_covered_perturbed=coverage["n_perturbed"],
        n_agree=None if answers is None else answers["n_agree"],
        n_answers=0 if answers is None else answers["n_answers"],
        n_identical=measured["n_identical"],
        strings_from=request.strings_from,
        harvested_from=request.harvested_from,
        n_unseen_pairs=unseen["n_pairs"],
        n_unseen_covered=(unseen["n_original"], unseen["n_perturbed"]),
    )


def plain(value: Any) -> Any:
    """The value as plain JSON: intervals as [low, high], Python numbers, None instead of NaN and infinity."""
    if isinstance(value, stats.Interval):
        return [plain(value.low), plain(value.high)]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | torch.Tensor):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
