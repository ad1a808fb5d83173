"""Captured tensors -> DataFrames: the one crossing from tensors to rows (columns as in types.ProbeResult)."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from pprobe_core.circuits.responses import classify
from pprobe_core.circuits.schema import Prompt
from pprobe_core.probing.capture import ORIGINAL, PERTURBED, PromptSignals
from pprobe_core.probing.generation import GenerationBlock
from pprobe_core.probing.tokens import pieces
from pprobe_core.probing.types import Prepared

CONDITIONS: tuple[Literal["original"], Literal["perturbed"]] = ("original", "perturbed")
LAYER_COLUMNS = ("attention", "ffn", "skip", "ffn_skip", "attention_skip", "lens_after_attention", "lens_after_ffn")


def pairs_frame(
    prepared: Prepared,
    signals: PromptSignals,
    predicted_delta: Float[np.ndarray, "pair"],
    generations: Sequence[GenerationBlock],
) -> pd.DataFrame:
    """One row per pair, in prompt order."""
    answers = _answers(prepared, generations)
    logit_diff, constant = signals.logit_diff.tolist(), signals.constant.tolist()
    ffn_skip, first = signals.ffn_skip[:, :, -1].tolist(), signals.first_ids[:, :, 0].tolist()
    rows = []
    for i, pair in enumerate(prepared.pairs):
        known = {*pair.target_ids, *pair.control_ids}
        original, perturbed = logit_diff[ORIGINAL][i], logit_diff[PERTURBED][i]
        rows.append(
            {
                "idx": i,
                "pair_id": pair.pair_id,
                "split": pair.split,
                "original_text": pair.original.text,
                "perturbed_text": pair.perturbed.text,
                "original_prompt": _prompt_json(pair.original),
                "perturbed_prompt": _prompt_json(pair.perturbed),
                "input_ids_original": list(pair.input_ids_original),
                "input_ids_perturbed": list(pair.input_ids_perturbed),
                "tokens_original": list(pair.tokens_original),
                "tokens_perturbed": list(pair.tokens_perturbed),
                "target_ids": list(pair.target_ids),
                "control_ids": list(pair.control_ids),
                "logit_diff_original": original,
                "logit_diff_perturbed": perturbed,
                "predicted_delta": float(predicted_delta[i]),
                "constant_original": constant[ORIGINAL][i],
                "constant_perturbed": constant[PERTURBED][i],
                "ffn_skip_original": ffn_skip[ORIGINAL][i],
                "ffn_skip_perturbed": ffn_skip[PERTURBED][i],
                "flipped": original * perturbed < 0,
                "covered_original": first[ORIGINAL][i] in known,
                "covered_perturbed": first[PERTURBED][i] in known,
                **answers.get(i, _NO_ANSWER),
                "note": pair.note,
            }
        )
    return pd.DataFrame(rows)


_NO_ANSWER: dict[str, str | None] = dict.fromkeys(
    ("response_original", "response_perturbed", "class_original", "class_perturbed")
)


def _answers(prepared: Prepared, generations: Sequence[GenerationBlock]) -> dict[int, dict[str, str | None]]:
    """Pair position -> generated texts and their response classes."""
    answers: dict[int, dict[str, str | None]] = {}
    for block in generations:
        for i, original, perturbed in zip(
            block.pair_index, block.responses_original, block.responses_perturbed, strict=True
        ):
            pair = prepared.pairs[i]
            answers[i] = {
                "response_original": original,
                "response_perturbed": perturbed,
                "class_original": classify(prepared.circuit, original, gold=pair.gold_original),
                "class_perturbed": classify(prepared.circuit, perturbed, gold=pair.gold_perturbed),
            }
    return answers


def _prompt_json(prompt: Prompt) -> str:
    return json.dumps({"messages": list(prompt.messages), "tools": list(prompt.tools)}, ensure_ascii=False)


def layers_frame(prepared: Prepared, signals: PromptSignals) -> pd.DataFrame:
    """One row per condition, pair and layer; ratios are NaN where undefined."""
    n_pairs, n_layers = signals.skip.shape[1:]
    ids = np.array([pair.pair_id for pair in prepared.pairs], dtype=object)
    frames = [
        pd.DataFrame(
            {
                "pair_id": np.repeat(ids, n_layers),
                "condition": condition,
                "layer": np.tile(np.arange(n_layers, dtype=np.int32), n_pairs),
            }
            | {name: getattr(signals, name)[c].flatten().numpy() for name in LAYER_COLUMNS}
        )
        for c, condition in enumerate(CONDITIONS)
    ]
    return pd.concat(frames, ignore_index=True)


def first_tokens_frame(prepared: Prepared, signals: PromptSignals, tokenizer: Any) -> pd.DataFrame:
    """The most likely first tokens of every prompt, and on which side of the pair's observable they are."""
    ids, probabilities = signals.first_ids.tolist(), signals.first_probabilities.tolist()
    rows = []
    for i, pair in enumerate(prepared.pairs):
        for c, condition in enumerate(CONDITIONS):
            for rank, (token, p) in enumerate(zip(ids[c][i], probabilities[c][i], strict=True), start=1):
                side = "target" if token in pair.target_ids else "control" if token in pair.control_ids else "other"
                rows.append((pair.pair_id, condition, rank, token, pieces(tokenizer, (token,))[0], p, side))
    return pd.DataFrame(rows, columns=["pair_id", "condition", "rank", "token_id", "token", "probability", "side"])
