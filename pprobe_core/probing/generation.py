"""The first words of the model's own answers to both prompts of each pair, to check the observable on them."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing.tokens import left_pad, pad_id, plan_batches
from pprobe_core.probing.types import PreparedPair

MAX_NEW_TOKENS = 24  # enough to tell a refusal from an answer, a script from another, a code fence from prose
MAX_BATCH_TOKENS = 2048  # padded tokens of one batch, the new ones included


@dataclass(frozen=True)
class GenerationBlock:
    """Generated first responses of some pairs."""

    index: int  # of the block
    pair_index: tuple[int, ...]  # positions in Prepared.pairs
    responses_original: tuple[str, ...]
    responses_perturbed: tuple[str, ...]
    n_full_passes: int  # prompts run in full, to fill the cache
    n_last_token_passes: int  # single-token passes over that cache, summed over prompts
    seconds: float

    def to_bytes(self) -> bytes:
        """The block as JSON bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "GenerationBlock":
        """The block that to_bytes wrote."""
        values: dict[str, Any] = json.loads(data)
        tuples: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**(values | tuples))


@torch.inference_mode()
def generate_block(
    loaded: LoadedModel, pairs: Sequence[PreparedPair], indices: Sequence[int], index: int
) -> GenerationBlock:
    """Greedy answers to both prompts of the pairs `indices`; identical prompts of a pair are answered once."""
    started = time.perf_counter()
    sequences = list(
        dict.fromkeys(ids for i in indices for ids in (pairs[i].input_ids_original, pairs[i].input_ids_perturbed))
    )
    answers: dict[tuple[int, ...], str] = {}
    n_last_token_passes = 0
    for rows in plan_batches([len(s) + MAX_NEW_TOKENS for s in sequences], MAX_BATCH_TOKENS):
        new = _greedy(loaded, [sequences[r] for r in rows])
        n_last_token_passes += len(rows) * (max(len(ids) for ids in new) - 1)
        for row, ids in zip(rows, new, strict=True):
            answers[sequences[row]] = read_answer(loaded, ids)
    return GenerationBlock(
        index=index,
        pair_index=tuple(indices),
        responses_original=tuple(answers[pairs[i].input_ids_original] for i in indices),
        responses_perturbed=tuple(answers[pairs[i].input_ids_perturbed] for i in indices),
        n_full_passes=len(sequences),
        n_last_token_passes=n_last_token_passes,
        seconds=time.perf_counter() - started,
    )


def read_answer(loaded: LoadedModel, ids: Sequence[int]) -> str:
    """The answer's text up to the end of the turn. Markers such as <think> stay: they are classified too."""
    ends = end_ids(loaded)
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return str(loaded.tokenizer.decode(list(ids[:stop]), skip_special_tokens=False))


def end_ids(loaded: LoadedModel) -> tuple[int, ...]:
    """Token ids that end an answer: what the model's generation settings name, and the tokeniser's own."""
    named = loaded.model.generation_config.eos_token_id
    ids = list(named) if isinstance(named, list | tuple) else [named]
    return tuple(dict.fromkeys(int(i) for i in (*ids, loaded.tokenizer.eos_token_id) if i is not None))


def _greedy(loaded: LoadedModel, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """New token ids of each sequence, the end token and what pads after it included."""
    batch = left_pad(sequences, pad_id(loaded.tokenizer), loaded.device)
    # What is unset here is taken from the checkpoint: how to sample is idle then, what bends greedy decoding is not.
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=list(end_ids(loaded)) or None,
        pad_token_id=pad_id(loaded.tokenizer),
    )
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would warn of suggestions that are overruled here on purpose
    try:
        out = loaded.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=settings
        )
    finally:
        transformers_logging.set_verbosity(level)
    return [[int(i) for i in row] for row in out[:, batch.input_ids.shape[1] :]]
