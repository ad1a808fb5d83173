"""A probe from prompts to result: prepare, run the two passes block by block, answer, score, judge."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version

import pandas as pd
import torch

from pprobe_core.circuits.perturbations import NoSwap, perturb_prompt
from pprobe_core.circuits.prompt_sets import gold_answers, limit_pairs, pair_note
from pprobe_core.circuits.responses import RULES_VERSION
from pprobe_core.circuits.schema import Circuit, PromptPair, PromptSet, Split
from pprobe_core.errors import BadRequest
from pprobe_core.models.loading import Fingerprint, LoadedModel
from pprobe_core.probing import frames, summary
from pprobe_core.probing.capture import ORIGINAL, PERTURBED, CaptureBlock, capture_block
from pprobe_core.probing.collected import collect
from pprobe_core.probing.decomposition import Directions, directions
from pprobe_core.probing.generation import MAX_NEW_TOKENS, GenerationBlock, generate_block
from pprobe_core.probing.neurons import score_neurons
from pprobe_core.probing.observable import resolve_circuit, resolve_given, resolve_pair
from pprobe_core.probing.tokens import encode_prompt, pieces, plan_blocks, thinking_state
from pprobe_core.probing.types import (
    ENGINE_VERSION,
    Observable,
    Prepared,
    PreparedPair,
    ProbeRequest,
    ProbeResult,
    Thinking,
    ThinkingState,
)
from pprobe_core.probing.verdict import judge

RUN_ID_DIGITS = 12  # of the request key
MAX_BLOCK_PAIRS = 32
BLOCK_WORK_CPU = 5e11  # multiply-adds of one block: some seconds on two cores, so that cancelling is prompt
BLOCK_WORK_ACCELERATOR = 5e13

# Before the passes -------------------------------------------------------------------------------------------------


def request_key(
    loaded: LoadedModel | Fingerprint, circuit: Circuit, prompt_set: PromptSet, request: ProbeRequest
) -> str:
    """SHA-256 over everything that decides a run's numbers, as 64 hex digits; the first 12 are the run id."""
    return _key(loaded, circuit, prompt_set.sha256, request)


def key_of(loaded: LoadedModel, prepared: Prepared, request: ProbeRequest) -> str:
    """`request_key` from prepared pairs."""
    return _key(loaded, prepared.circuit, prepared.prompt_set_sha256, request)


def _key(loaded: LoadedModel | Fingerprint, circuit: Circuit, prompt_set_sha256: str, request: ProbeRequest) -> str:
    document = {
        "engine": ENGINE_VERSION,
        "weights": [loaded.weights_sha256, loaded.config_sha256],
        "tokenizer": loaded.tokenizer_sha256,
        "circuit": [circuit.circuit_id, circuit.sha256],
        "prompt_set": prompt_set_sha256,
        "coupling": request.coupling,
        "limit": request.limit,
        "dtype": loaded.dtype,
        "device": torch.device(loaded.device).type,  # results differ between kinds of device by rounding
        "seed": request.seed,
        "generate": [MAX_NEW_TOKENS, RULES_VERSION] if request.generate else None,
    }
    if request.thinking != "auto":  # named only where it is: requests from before there was a choice keep their key
        document["thinking"] = request.thinking
    if request.strings_from != "circuit":
        document["strings"] = [request.target, request.control, request.harvested_from]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def prepare(loaded: LoadedModel, circuit: Circuit, prompt_set: PromptSet, request: ProbeRequest) -> Prepared:
    """Token ids of both prompts of every pair, and the observable; no forward pass.

    A pair that cannot be used (no swap changes its tokens, no token for its answer, too long) is skipped, with why.
    Strings of the request stand in place of the circuit's; pairs that bring strings of their own keep them.
    Raises BadRequest when no pair is left, the strings give no token, or no pair would use those of the request,
    ModelUnavailable when the tokeniser has no chat template.
    """
    circuit = circuit.for_set(prompt_set.prompt_set_id)
    thinking = _leaves_room_to_think(circuit, request.thinking)
    asked = request.thinking != "auto"
    given = limit_pairs(prompt_set.pairs, request.limit)
    # Pairs may bring their own strings, whatever the circuit's: its own are read only where some pair needs them.
    own = {pair.pair_id for pair in given if circuit.per_pair_observable or (pair.target and pair.control)}
    shared = None if len(own) == len(given) else _shared_observable(loaded, circuit, request)
    if shared is None and request.strings_from != "circuit":
        raise BadRequest(
            "Every prompt pair brings target and control strings of its own, which stay as they are, so strings for "
            "all pairs would change nothing. Leave them out."
        )
    prepared, previews, skipped = [], [], []

    @cache
    def piece(token: int) -> str:
        return pieces(loaded.tokenizer, (token,))[0]

    for pair in given:
        try:
            mine = shared is None or pair.pair_id in own
            observable = resolve_pair(loaded.tokenizer, pair) if mine or shared is None else shared
            prepared.append(_prepare_pair(loaded, circuit, pair, observable, request.seed, thinking, asked, piece))
        except (BadRequest, NoSwap) as error:
            skipped.append((pair.pair_id, str(error)))
        else:
            previews.append(observable.preview)
    if not prepared:
        reason = f" The first one: {skipped[0][1]}" if skipped else ""
        none = "The prompt pair cannot" if len(given) == 1 else f"None of the {len(given)} prompt pairs can"
        raise BadRequest(f"{none} be used with this model.{reason}")
    state = thinking_state(loaded.tokenizer, prepared[0].original, prepared[0].input_ids_original)
    kept = tuple(pair.pair_id for pair in prepared if pair.pair_id in own)
    return Prepared(
        pairs=tuple(prepared),
        observable=shared if shared is not None and not own else _union(prepared, previews),
        per_pair_observable=bool(own),
        skipped=pd.DataFrame(skipped, columns=["pair_id", "reason"]),
        block_size=block_size(loaded, prepared),
        circuit=circuit,
        prompt_set_id=prompt_set.prompt_set_id,
        prompt_set_sha256=prompt_set.sha256,
        thinking=thinking,
        thinking_state=state,
        own_strings=kept,
        notes=_notes(request, state, len(kept), len(prepared)),
    )


def _leaves_room_to_think(circuit: Circuit, thinking: Thinking) -> bool:
    """What the chat template is asked for: as the user says, else room for <think> where the circuit looks for it."""
    if thinking != "auto":
        return thinking == "on"
    return any("<think>" in s for s in (*circuit.target, *circuit.target_fallback, *circuit.control))


def _shared_observable(loaded: LoadedModel, circuit: Circuit, request: ProbeRequest) -> Observable:
    """The token sets of all pairs that bring none: from the request's strings, else the circuit's."""
    if request.strings_from == "circuit":
        return resolve_circuit(loaded.tokenizer, circuit)
    strict = request.strings_from == "given"
    return resolve_given(loaded.tokenizer, request.target, request.control, strict=strict)


def _notes(request: ProbeRequest, state: ThinkingState, n_own: int, n_pairs: int) -> tuple[str, ...]:
    """What came out otherwise than one could think from the request."""
    notes = []
    if request.thinking != "auto" and state == "no_switch":
        notes.append(
            f"Thinking was asked to be {request.thinking}, but this model's chat template has no switch for it: the "
            "prompts are the same either way."
        )
    if request.strings_from != "circuit" and n_own:
        notes.append(
            f"Pairs that bring target and control strings of their own keep them ({n_own} of {n_pairs} here); the "
            f"{request.strings_from} strings count for the others."
        )
    return tuple(notes)


def _prepare_pair(
    loaded: LoadedModel,
    circuit: Circuit,
    pair: PromptPair,
    observable: Observable,
    seed: int,
    thinking: bool,
    asked: bool,
    piece: Callable[[int], str],
) -> PreparedPair:
    tokenizer = loaded.tokenizer
    note, perturbed = pair_note(pair), pair.perturbed
    if perturbed is None:
        if not pair.keyword:
            raise BadRequest("It has neither a perturbed prompt nor a keyword to change. Give one of them.")
        perturbed, swap = perturb_prompt(
            pair.original, pair.keyword, lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], seed
        )
        note = note or f"{pair.keyword} -> {swap.swapped_keyword}"
    ids = [encode_prompt(tokenizer, prompt, thinking=thinking, asked=asked) for prompt in (pair.original, perturbed)]
    longest, limit = max(map(len, ids)), _context_length(loaded)
    if limit is not None and longest > limit:
        raise BadRequest(f"It has {longest} tokens and the model reads at most {limit}. Use a shorter prompt.")
    if ids[ORIGINAL] == ids[PERTURBED]:
        note = note or "both prompts are the same tokens, so this pair scores zero"
    gold = gold_answers(circuit, pair)
    return PreparedPair(
        pair_id=pair.pair_id,
        split=pair.split,
        original=pair.original,
        perturbed=perturbed,
        input_ids_original=ids[ORIGINAL],
        input_ids_perturbed=ids[PERTURBED],
        tokens_original=tuple(piece(i) for i in ids[ORIGINAL]),
        tokens_perturbed=tuple(piece(i) for i in ids[PERTURBED]),
        target_ids=observable.target_ids,
        control_ids=observable.control_ids,
        gold_original=gold[ORIGINAL],
        gold_perturbed=gold[PERTURBED],
        note=note,
    )


def _context_length(loaded: LoadedModel) -> int | None:
    """Tokens a prompt may have, so that the answer still fits; None when the configuration does not say."""
    config = loaded.model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    return length - MAX_NEW_TOKENS if isinstance(length, int) else None


def _union(pairs: Sequence[PreparedPair], previews: Sequence[pd.DataFrame]) -> Observable:
    """All tokens that are a target or control of some pair."""
    preview = pd.concat(previews, ignore_index=True).drop_duplicates(["side", "string"], ignore_index=True)
    return Observable(
        tuple(dict.fromkeys(i for pair in pairs for i in pair.target_ids)),
        tuple(dict.fromkeys(i for pair in pairs for i in pair.control_ids)),
        preview,
    )


def block_size(loaded: LoadedModel, pairs: Sequence[PreparedPair]) -> int:
    """Pairs per block: as many as the work of one block allows."""
    tokens = sum(len(pair.input_ids_original) + len(pair.input_ids_perturbed) for pair in pairs) / len(pairs)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    work = BLOCK_WORK_CPU if loaded.device == "cpu" else BLOCK_WORK_ACCELERATOR
    return int(min(MAX_BLOCK_PAIRS, max(1, work // (tokens * parameters))))


# The passes --------------------------------------------------------------------------------------------------------


def capture_blocks(loaded: LoadedModel, prepared: Prepared, start: int = 0) -> Iterator[CaptureBlock]:
    """The two passes, block by block from block `start`; the caller may stop between any two of them."""
    run_directions = _directions(loaded, prepared)
    for index, indices in blocks_of(prepared)[start:]:
        yield capture_block(loaded, run_directions, prepared.pairs, indices, index)


def generation_blocks(loaded: LoadedModel, prepared: Prepared, start: int = 0) -> Iterator[GenerationBlock]:
    """The first generated words, block by block from block `start`, over the same pairs as the capture's blocks."""
    for index, indices in blocks_of(prepared)[start:]:
        yield generate_block(loaded, prepared.pairs, indices, index)


def run(loaded: LoadedModel, circuit: Circuit, prompt_set: PromptSet, request: ProbeRequest) -> ProbeResult:
    """A whole probe in one call."""
    prepared = prepare(loaded, circuit, prompt_set, request)
    blocks = list(capture_blocks(loaded, prepared))
    generations = list(generation_blocks(loaded, prepared)) if request.generate else []
    return summarise(loaded, prepared, blocks, generations, request)


def blocks_of(prepared: Prepared) -> list[tuple[int, list[int]]]:
    """Index and pairs of each block, pairs of similar length together."""
    lengths = [max(len(pair.input_ids_original), len(pair.input_ids_perturbed)) for pair in prepared.pairs]
    return list(enumerate(plan_blocks(lengths, prepared.block_size)))


@torch.inference_mode()
def _directions(loaded: LoadedModel, prepared: Prepared) -> Directions:
    return directions(loaded.structure, [(pair.target_ids, pair.control_ids) for pair in prepared.pairs])


# After the passes --------------------------------------------------------------------------------------------------


def summarise(
    loaded: LoadedModel,
    prepared: Prepared,
    blocks: Sequence[CaptureBlock],
    generations: Sequence[GenerationBlock],
    request: ProbeRequest,
) -> ProbeResult:
    """Scores, frames, summary and verdict of finished blocks. Means over all pairs, neuron scores over ranking splits.

    The summary is the command line's contract without the lists built from frames, and:
      logit_diff, ffn_skip: + intervals; ffn_skip + median, n_defined
      layers: rows of summary.layer_means; additive: summary.additive_check
      couplings: what either coupling makes of the FFNs' exact change (couplings.compare_couplings)
      notes, thinking_asked, thinking_state, observable.strings_from: how the request was met
      null: the sign-flip null's threshold for |mean I|, and how many neurons pass it
      coverage, margins, flip_interval, topk_share, generation, splits, skipped, token_warnings, hashes.
    Raises ValueError when a block is missing.
    """
    started = time.perf_counter()
    collected = collect(blocks, len(prepared.pairs))
    ranking_splits, ranked = ranking_pairs(prepared)
    neurons = score_neurons(
        loaded.structure, _directions(loaded, prepared), collected, ranked, request.coupling, request.seed
    )
    pairs = frames.pairs_frame(prepared, collected.signals, neurons.predicted_delta, generations)
    measured = summary.measurements(loaded.structure, collected, neurons, pairs, len(ranked), request.seed)
    generation = summary.generation_summary(prepared, pairs, generations)
    verdict = judge(summary.evidence(measured, generation, request), prepared.circuit)
    key = key_of(loaded, prepared, request)
    contents = {
        "run_id": key[:RUN_ID_DIGITS],
        "request_key": key,
        **summary.identity_of_run(loaded, prepared, request),
        **measured,
        "ranking_splits": list(ranking_splits),
        "n_ranking_pairs": len(ranked),
        "structure_check": asdict(loaded.structure.check),
        "generation": generation,
        "verdict": asdict(verdict),
        "seconds": collected.seconds + time.perf_counter() - started,
    }
    return ProbeResult(
        request=request,
        request_key=key,
        run_id=key[:RUN_ID_DIGITS],
        summary=summary.plain(contents),
        pairs=pairs,
        first_tokens=frames.first_tokens_frame(prepared, collected.signals, loaded.tokenizer),
        layers=frames.layers_frame(prepared, collected.signals),
        neurons=neurons.frame,
        token_preview=prepared.observable.preview,
        environment=_environment(loaded),
    )


def ranking_pairs(prepared: Prepared) -> tuple[tuple[Split, ...], list[int]]:
    """The splits whose pairs select neurons, and those pairs: discovery, or all that there are when it is empty."""
    discovery = [i for i, pair in enumerate(prepared.pairs) if pair.split == "discovery"]
    if discovery:
        return ("discovery",), discovery
    return tuple(dict.fromkeys(pair.split for pair in prepared.pairs)), list(range(len(prepared.pairs)))


@cache
def _versions() -> dict[str, str]:
    """Versions of the libraries that make the numbers; reading them takes as long as scoring a small model."""
    libraries = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pandas", "scipy", "statsmodels")
    return {name: version(name) for name in libraries}


def _environment(loaded: LoadedModel) -> dict[str, str]:
    return _versions() | {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": loaded.device,
        "dtype": loaded.dtype,
        "threads": str(torch.get_num_threads()),
    }
