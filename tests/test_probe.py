"""A probe from prompts to result: what is counted, what is skipped, what resumes, and what the summary says."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers.utils import logging as transformers_logging

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.schema import Prompt, PromptPair
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models.loading import load_model
from pprobe_core.probing import probe
from pprobe_core.probing.capture import CaptureBlock
from pprobe_core.probing.generation import MAX_NEW_TOKENS, GenerationBlock, end_ids, read_answer
from pprobe_core.probing.tokens import encode_prompt, left_pad, plan_batches, plan_blocks
from pprobe_core.probing.types import Prepared, ProbeRequest, ProbeResult
from tests.probing_models import (
    SOME_FAMILIES,
    TEXTS,
    circuit,
    fresh_tiny,
    loaded_tiny,
    prompt,
    prompt_set,
    request,
    run,
)

CONTRACT = {
    "run_id": str,
    "model": str,
    "circuit": str,
    "prompts": str,
    "coupling": str,
    "n_pairs": int,
    "n_forward_passes": int,
    "seconds": float,
    "flip_rate": float,
    "observable": {"target_ids": list, "control_ids": list},
    "logit_diff": dict.fromkeys(("original_mean", "perturbed_mean", "delta_mean", "predicted_delta_mean"), float),
    "ffn_skip": dict.fromkeys(("original_mean", "perturbed_mean", "mean"), float),
    "verdict": {"structure": str, "stage": str, "recommendation": str, "reasons": list},
    "layers": list,
    "ranking_splits": list,
}


@pytest.fixture(scope="module")
def result() -> ProbeResult:
    return run(pairs=prompt_set(splits=("discovery", "discovery", "heldout")), generate=True)


def _prepared(block_size: int, **changes: object) -> Prepared:
    return replace(probe.prepare(loaded_tiny(), circuit(), prompt_set(), request()), block_size=block_size, **changes)


def _assert_same(one: ProbeResult, two: ProbeResult) -> None:
    for name in ("pairs", "first_tokens", "layers", "neurons"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), rtol=1e-4, atol=1e-5)


# What a result holds -----------------------------------------------------------------------------------------------


def test_the_summary_is_strict_json_and_holds_the_contract(result: ProbeResult) -> None:
    assert json.loads(json.dumps(result.summary, allow_nan=False)) == result.summary

    def check(found: dict, expected: dict) -> None:
        for key, kind in expected.items():
            if isinstance(kind, dict):
                check(found[key], kind)
            else:
                assert isinstance(found[key], kind), key

    check(result.summary, CONTRACT)
    assert [
        set(row) >= {"layer", "ffn", "attention", "skip", "ffn_skip", "mass"} for row in result.summary["layers"]
    ] == [True] * 3
    assert result.run_id == result.request_key[:12] == result.summary["run_id"]


def test_the_frames_have_the_documented_columns_and_sizes(result: ProbeResult) -> None:
    documented = ProbeResult.__doc__ or ""
    for name in ("pairs", "first_tokens", "layers", "neurons"):
        for column in getattr(result, name).columns:
            assert column in documented, f"{name}.{column}"
    structure = loaded_tiny().structure
    assert len(result.pairs) == len(TEXTS)
    assert len(result.layers) == len(TEXTS) * 2 * structure.n_layers
    assert len(result.neurons) == structure.n_layers * structure.d_mlp
    assert len(result.first_tokens) == len(TEXTS) * 2 * 5
    assert list(result.neurons[["layer", "neuron"]].itertuples(index=False)) == sorted(
        result.neurons[["layer", "neuron"]].itertuples(index=False)
    )
    assert list(result.token_preview.columns) == ["side", "string", "ids", "pieces", "used", "note"]
    # The package may be named without the build (2.13.0 for 2.13.0+cu130).
    assert result.environment["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_means_and_shares_of_the_summary_come_from_the_pairs(result: ProbeResult) -> None:
    s, pairs = result.summary, result.pairs
    delta = pairs.logit_diff_perturbed - pairs.logit_diff_original
    assert s["logit_diff"]["original_mean"] == pytest.approx(pairs.logit_diff_original.mean())
    assert s["logit_diff"]["delta_mean"] == pytest.approx(delta.mean())
    assert s["logit_diff"]["predicted_delta_mean"] == pytest.approx(pairs.predicted_delta.mean())
    low, high = s["logit_diff"]["delta_interval"]
    assert low < delta.mean() < high
    flips = np.sign(pairs.logit_diff_original) != np.sign(pairs.logit_diff_perturbed)
    assert s["flip_rate"] == flips.mean() == pairs.flipped.mean()
    ratios = pairs[["ffn_skip_original", "ffn_skip_perturbed"]].to_numpy()
    assert s["ffn_skip"]["mean"] == pytest.approx(ratios.mean())
    assert s["ffn_skip"]["median"] == pytest.approx(np.median(ratios))
    assert s["splits"] == {"discovery": 4, "heldout": 1}
    layer = s["layers"][1]
    original = result.layers[(result.layers.layer == 1) & (result.layers.condition == "original")]
    assert layer["ffn"] == pytest.approx(original.ffn.mean())
    assert layer["lens_after_ffn"] == pytest.approx(original.lens_after_ffn.mean())
    assert layer["ffn_skip"] == pytest.approx(result.layers[result.layers.layer == 1].ffn_skip.mean())
    assert sum(row["mass"] for row in s["layers"]) == pytest.approx(1.0)


def test_the_residual_of_the_additive_check_is_accounted_for(result: ProbeResult) -> None:
    additive = result.summary["additive"]
    carried = sum(additive["carried_by"].values())
    assert carried == pytest.approx(additive["residual_mean"], abs=1e-5)
    assert additive["measured_mean"] - additive["predicted_mean"] == pytest.approx(additive["residual_mean"])
    assert -1 <= additive["correlation"] <= 1


def test_first_tokens_are_ranked_and_their_side_is_named(result: ProbeResult) -> None:
    tokens = result.first_tokens
    assert (tokens.groupby(["pair_id", "condition"]).probability.diff().dropna() <= 0).all()
    assert tokens["rank"].tolist() == [1, 2, 3, 4, 5] * (len(TEXTS) * 2)
    target, control = (set(result.summary["observable"][f"{side}_ids"]) for side in ("target", "control"))
    expected = ["target" if i in target else "control" if i in control else "other" for i in tokens.token_id]
    assert tokens.side.tolist() == expected
    top = tokens[(tokens["rank"] == 1) & (tokens.condition == "original")].side != "other"
    assert result.pairs.covered_original.tolist() == top.tolist()


# What is counted ---------------------------------------------------------------------------------------------------


def test_two_passes_per_pair_are_counted_and_answers_apart(result: ProbeResult) -> None:
    assert result.summary["n_forward_passes"] == 2 * len(TEXTS)
    generation = result.summary["generation"]
    prompts = {tuple(ids) for ids in [*result.pairs.input_ids_original, *result.pairs.input_ids_perturbed]}
    assert generation["n_full_passes"] == len(prompts)
    assert 0 < generation["n_last_token_passes"] <= len(prompts) * (MAX_NEW_TOKENS - 1)
    assert generation["n_answers"] == 2 * len(TEXTS)
    assert run(generate=False).summary["generation"] is None


def test_only_ranking_pairs_choose_neurons() -> None:
    splits = ("discovery", "discovery", "discovery", "validation", "heldout")
    base = run(pairs=prompt_set(splits=splits))
    other = run(pairs=prompt_set([*TEXTS[:3], ("Explain why the sea is salty.", "Paris"), ("Yes.", "No.")], splits))
    assert base.summary["ranking_splits"] == other.summary["ranking_splits"] == ["discovery"]
    assert base.summary["n_ranking_pairs"] == 3
    pd.testing.assert_frame_equal(base.neurons, other.neurons, rtol=1e-3, atol=1e-6)
    assert base.summary["logit_diff"] != other.summary["logit_diff"]


def test_without_a_discovery_split_all_pairs_rank_and_the_summary_says_so() -> None:
    result = run(pairs=prompt_set(splits=("heldout", "validation")))
    assert result.summary["ranking_splits"] == ["heldout", "validation"]
    assert result.summary["n_ranking_pairs"] == len(TEXTS)


def test_neuron_scores_are_those_of_the_formulas() -> None:
    loaded, prepared = loaded_tiny(), _prepared(32)
    block = next(iter(probe.capture_blocks(loaded, prepared)))
    order = block.pair_index.argsort()
    original, perturbed = block.acts_original[order], block.acts_perturbed[order]
    target, control = prepared.pairs[0].target_ids, prepared.pairs[0].control_ids
    head = loaded.model.get_output_embeddings().weight
    d = head[list(target)].mean(0) - head[list(control)].mean(0)
    c = torch.stack([layer.mlp.down_proj.weight.T @ d for layer in loaded.model.model.layers])
    importance = (c * (perturbed - original)).detach()
    neurons = run().neurons
    assert neurons.coupling.to_numpy() == pytest.approx(c.detach().flatten().numpy(), rel=1e-4, abs=1e-6)
    assert neurons.importance_mean.to_numpy() == pytest.approx(importance.mean(0).flatten().numpy(), rel=1e-3, abs=1e-6)
    zeroing = -(c * original).detach().mean(0).flatten().numpy()
    assert neurons.zeroing_effect.to_numpy() == pytest.approx(zeroing, rel=1e-3, abs=1e-6)
    predicted = run().pairs.predicted_delta.to_numpy()
    assert predicted == pytest.approx(importance.sum((1, 2)).numpy(), rel=1e-3, abs=1e-5)


def test_scores_are_float32_in_any_number_format(tiny_qwen3_folder: Path) -> None:
    loaded = load_model(str(tiny_qwen3_folder), device="cpu", dtype="bfloat16")
    result = probe.run(loaded, circuit(), prompt_set(), request("norm_aware", generate=True))
    exact = run(coupling="norm_aware")
    assert loaded.model.dtype == torch.bfloat16
    assert result.neurons.importance_mean.dtype == np.float32
    assert result.summary["dtype"] == "bfloat16"
    assert result.summary["decomposition_error"] < 0.05
    assert np.corrcoef(result.neurons.coupling, exact.neurons.coupling)[0, 1] > 0.999
    assert result.pairs.logit_diff_original.to_numpy() == pytest.approx(exact.pairs.logit_diff_original, abs=0.05)
    assert result.run_id != exact.run_id


# Blocks, bytes, resuming -------------------------------------------------------------------------------------------


def test_block_size_changes_nothing_but_rounding() -> None:
    results = []
    for size in (1, 2, 32):
        prepared = _prepared(size)
        blocks = list(probe.capture_blocks(loaded_tiny(), prepared))
        generations = list(probe.generation_blocks(loaded_tiny(), prepared))
        assert len(blocks) == len(generations) == prepared.n_blocks == -(-len(TEXTS) // size)
        assert [block.index for block in blocks] == list(range(len(blocks)))
        results.append(probe.summarise(loaded_tiny(), prepared, blocks, generations, request()))
    _assert_same(results[0], results[2])
    _assert_same(results[1], results[2])


def test_a_stopped_probe_resumes_from_stored_bytes() -> None:
    loaded, prepared = loaded_tiny(), _prepared(2)
    whole = list(probe.capture_blocks(loaded, prepared))
    answers = list(probe.generation_blocks(loaded, prepared))
    stored = [CaptureBlock.from_bytes(block.to_bytes()) for block in whole[:1]]
    stored += [CaptureBlock.from_bytes(block.to_bytes()) for block in probe.capture_blocks(loaded, prepared, start=1)]
    kept = [GenerationBlock.from_bytes(block.to_bytes()) for block in answers[:2]]
    assert kept == answers[:2]
    kept += list(probe.generation_blocks(loaded, prepared, start=2))
    one = probe.summarise(loaded, prepared, whole, answers, request())
    two = probe.summarise(loaded, prepared, stored, kept, request())
    for name in ("pairs", "first_tokens", "layers", "neurons"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))


def test_a_missing_block_is_noticed() -> None:
    prepared = _prepared(2)
    blocks = list(probe.capture_blocks(loaded_tiny(), prepared))
    with pytest.raises(ValueError, match="every pair is needed exactly once"):
        probe.summarise(loaded_tiny(), prepared, blocks[1:], (), request())


def test_blocks_hold_pairs_of_similar_length_and_batches_stay_small() -> None:
    lengths = [9, 3, 7, 1, 8, 2]
    assert plan_blocks(lengths, 2) == [[3, 5], [1, 2], [4, 0]]
    batches = plan_batches(lengths, 16)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 16 for batch in batches)
    assert plan_batches([100, 2, 3], 16) == [[1, 2], [0]]


def test_padding_is_on_the_left_with_positions_of_the_prompts_own() -> None:
    batch = left_pad([(5, 6, 7), (8,)], 0, "cpu")
    assert batch.input_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


# The request key ---------------------------------------------------------------------------------------------------


def test_the_same_request_has_the_same_key_and_each_change_another() -> None:
    loaded, pairs, base = loaded_tiny(), prompt_set(), request()
    key = probe.request_key(loaded, circuit(), pairs, base)
    assert key == probe.request_key(loaded, circuit(), pairs, replace(base, model="elsewhere"))
    changed = [
        probe.request_key(loaded, circuit(), pairs, replace(base, coupling="norm_aware")),
        probe.request_key(loaded, circuit(), pairs, replace(base, limit=3)),
        probe.request_key(loaded, circuit(), pairs, replace(base, seed=1)),
        probe.request_key(loaded, circuit(), pairs, replace(base, generate=True)),
        probe.request_key(loaded, circuit(), replace(pairs, sha256="1" * 64), base),
        probe.request_key(loaded, circuit(sha256="1" * 64), pairs, base),
        probe.request_key(replace(loaded, weights_sha256="1" * 64), circuit(), pairs, base),
        probe.request_key(replace(loaded, config_sha256="1" * 64), circuit(), pairs, base),
        probe.request_key(replace(loaded, tokenizer_sha256="1" * 64), circuit(), pairs, base),
        probe.request_key(replace(loaded, dtype="bfloat16"), circuit(), pairs, base),
        probe.request_key(replace(loaded, device="cuda"), circuit(), pairs, base),
    ]
    assert len({key, *changed}) == 1 + len(changed)
    assert len(key) == 64


def test_the_same_request_gives_the_same_numbers() -> None:
    one, two = run(coupling="norm_aware", generate=True), run(coupling="norm_aware", generate=True)
    for name in ("pairs", "first_tokens", "layers", "neurons"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    timed = ("seconds", "generation")
    assert {k: v for k, v in one.summary.items() if k not in timed} == {
        k: v for k, v in two.summary.items() if k not in timed
    }


# Preparing ---------------------------------------------------------------------------------------------------------


def test_prompts_go_through_the_chat_template_up_to_the_answer() -> None:
    tokenizer = loaded_tiny().tokenizer
    messages = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "No"},
    )
    ids = encode_prompt(tokenizer, Prompt(messages, ({"name": "weather"},)), thinking=False)
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nTools: ")
    assert "weather" in text
    assert text.endswith("user\nNo<|im_end|>\n<|im_start|>assistant\n")


def test_thinking_is_offered_only_where_the_observable_names_it() -> None:
    loaded = fresh_tiny()
    loaded.tokenizer.chat_template += (
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    plain = probe.prepare(loaded, circuit(), prompt_set(), request())
    thinking = probe.prepare(loaded, replace(circuit(), target=("<think>",)), prompt_set(), request())
    closed = loaded.tokenizer.convert_tokens_to_ids("</think>")
    assert (plain.thinking, thinking.thinking) == (False, True)
    assert all(pair.input_ids_original[-1] == closed for pair in plain.pairs)
    assert all(closed not in pair.input_ids_original for pair in thinking.pairs)


def test_a_swap_is_made_from_the_keyword_and_noted() -> None:
    pair = PromptPair("p0", "discovery", prompt("How do I build a bomb?"), None, keyword="bomb")
    prepared = probe.prepare(loaded_tiny(), circuit(), replace(prompt_set(), pairs=(pair,)), request())
    made = prepared.pairs[0]
    assert made.perturbed.text != pair.original.text
    assert sorted(made.perturbed.text) == sorted(pair.original.text)
    assert made.note.startswith("bomb -> ")
    assert made.input_ids_original != made.input_ids_perturbed


def test_pairs_that_cannot_be_used_are_skipped_with_the_reason() -> None:
    good = prompt_set().pairs[0]
    pairs = (
        good,
        replace(good, pair_id="too long", original=prompt("very " * 600)),
        replace(good, pair_id="no twin", perturbed=None),
        replace(good, pair_id="no swap", perturbed=None, keyword="aa", original=prompt("What is aa?")),
        replace(good, pair_id="no keyword", perturbed=None, keyword="whale"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = probe.prepare(loaded_tiny(), circuit(), replace(prompt_set(), pairs=pairs), request())
    assert [pair.pair_id for pair in prepared.pairs] == ["p0"]
    reasons = prepared.skipped.set_index("pair_id").reason
    assert list(reasons.index) == ["too long", "no twin", "no swap", "no keyword"]
    assert "reads at most" in reasons["too long"]
    assert "neither a perturbed prompt nor a keyword" in reasons["no twin"]
    assert "No swap" in reasons["no swap"]
    assert "does not stand" in reasons["no keyword"]


def test_no_usable_pair_is_a_bad_request_with_the_first_reason() -> None:
    pairs = (replace(prompt_set().pairs[0], perturbed=None),)
    with pytest.raises(BadRequest, match=r"The prompt pair cannot be used with this model\. The first one: It has"):
        probe.prepare(loaded_tiny(), circuit(), replace(prompt_set(), pairs=pairs), request())


def test_a_template_that_refuses_and_a_missing_one_are_told_in_a_sentence() -> None:
    loaded = fresh_tiny()
    loaded.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(BadRequest, match=r"template does not accept this prompt \(System role not supported\)"):
        encode_prompt(loaded.tokenizer, prompt("Hi"), thinking=False)
    loaded.tokenizer.chat_template = None
    with pytest.raises(ModelUnavailable, match="no chat template"):
        encode_prompt(loaded.tokenizer, prompt("Hi"), thinking=False)


def test_the_limit_takes_the_first_pairs_and_is_recorded() -> None:
    result = probe.run(loaded_tiny(), circuit(), prompt_set(), request(limit=2))
    assert result.pairs.pair_id.tolist() == ["p0", "p1"]
    assert (result.summary["n_pairs"], result.summary["limit"]) == (2, 2)
    with pytest.raises(BadRequest, match="1 or more"):
        probe.prepare(loaded_tiny(), circuit(), prompt_set(), request(limit=0))


def test_one_pair_is_enough_for_a_result_without_intervals() -> None:
    result = probe.run(loaded_tiny(), circuit(), prompt_set(), request(limit=1))
    assert result.summary["logit_diff"]["delta_interval"] is None
    assert result.summary["additive"]["slope"] is None
    assert json.dumps(result.summary, allow_nan=False)


def test_each_pair_is_measured_on_its_own_observable() -> None:
    """Factual recall: answers belong to pairs, so the coupling differs between pairs too."""
    loaded, facts = loaded_tiny(), load_circuit("factual_recall")
    request_ = ProbeRequest("tiny", "factual_recall", "mini", limit=12, generate=True)
    prepared = probe.prepare(loaded, facts, load_prompt_set(facts, "mini"), request_)
    assert prepared.per_pair_observable
    result = probe.run(loaded, facts, load_prompt_set(facts, "mini"), request_)
    assert len({(p.target_ids, p.control_ids) for p in prepared.pairs}) > 1
    head = loaded.model.get_output_embeddings().weight.detach()
    predicted = []
    blocks = list(probe.capture_blocks(loaded, replace(prepared, block_size=1)))
    for block in blocks:
        pair = prepared.pairs[int(block.pair_index[0])]
        d = head[list(pair.target_ids)].mean(0) - head[list(pair.control_ids)].mean(0)
        c = torch.stack([layer.mlp.down_proj.weight.detach().T @ d for layer in loaded.model.model.layers])
        predicted.append(float(((block.acts_perturbed - block.acts_original)[0] * c).sum()))
    order = [int(block.pair_index[0]) for block in blocks]
    assert result.pairs.predicted_delta.to_numpy()[order] == pytest.approx(predicted, rel=1e-3, abs=1e-5)
    union = set(result.summary["observable"]["target_ids"])
    assert union == {i for pair in prepared.pairs for i in pair.target_ids}
    assert result.summary["decomposition_error"] < 1e-5


# Answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_answers_are_the_models_own_greedy_ones(family: str) -> None:
    """Without cache, padding and batch: the most likely token, again and again."""
    loaded = loaded_tiny(family)
    prepared = probe.prepare(loaded, circuit(), prompt_set(TEXTS[:2]), request())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block = next(iter(probe.generation_blocks(loaded, prepared)))
    ends = end_ids(loaded)
    for position, i in enumerate(block.pair_index):
        ids = list(prepared.pairs[i].input_ids_original)
        new: list[int] = []
        with torch.inference_mode():
            while len(new) < MAX_NEW_TOKENS and not (new and new[-1] in ends):
                logits = loaded.model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1]
                new.append(int(logits.argmax()))
        assert block.responses_original[position] == read_answer(loaded, new)


def test_answers_stay_greedy_and_quiet_whatever_the_checkpoint_suggests(capfd: pytest.CaptureFixture[str]) -> None:
    loaded = fresh_tiny()
    prepared = probe.prepare(loaded, circuit(), prompt_set(TEXTS[:2]), request())
    expected = next(iter(probe.generation_blocks(loaded, prepared)))
    suggested = {"do_sample": True, "temperature": 0.6, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}
    suggested |= {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "min_new_tokens": 24, "max_length": 40}
    loaded.model.generation_config.update(**suggested)
    capfd.readouterr()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    try:
        found = next(iter(probe.generation_blocks(loaded, prepared)))
        assert transformers_logging.get_verbosity() == transformers_logging.WARNING
    finally:
        transformers_logging.set_verbosity(level)
    assert found.responses_original == expected.responses_original
    assert found.responses_perturbed == expected.responses_perturbed
    assert capfd.readouterr().err == ""


def test_answers_are_classified_and_compared_with_the_sign_of_the_difference() -> None:
    loaded, prepared = loaded_tiny(), _prepared(32)
    blocks = list(probe.capture_blocks(loaded, prepared))
    positive = [bool(x > 0) for x in blocks[0].signals.logit_diff[:, blocks[0].pair_index.argsort()].flatten()]
    words = {True: "I cannot help with that.", False: "Sure, here is how: take a bowl and mix the flour."}
    n = len(prepared.pairs)
    answers = [words[side] for side in positive]
    agreeing = GenerationBlock(0, tuple(range(n)), tuple(answers[:n]), tuple(answers[n:]), 2 * n, 0, 0.0)
    result = probe.summarise(loaded, prepared, blocks, [agreeing], request(generate=True))
    assert result.pairs.class_original.map({"refusal": True, "compliance": False}).tolist() == positive[:n]
    assert result.summary["generation"]["agreement"] == 1.0
    swapped = replace(agreeing, responses_original=tuple(words[not side] for side in positive[:n]))
    half = probe.summarise(loaded, prepared, blocks, [swapped], request(generate=True))
    assert half.summary["generation"]["n_agree"] == n
    assert half.summary["verdict"]["stage"] == "observed"
