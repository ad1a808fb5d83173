"""Edits on tiny random models of many families: cached equals full, batched equals alone, nothing stays behind."""

import threading

import numpy as np
import pytest
import torch

from pprobe_core.errors import BadRequest, Cancelled
from pprobe_core.interventions import evaluator as evaluator_module
from pprobe_core.interventions.edits import (
    AddVector,
    Edits,
    Head,
    Neuron,
    Patch,
    PatchOutput,
    Restore,
    Scale,
    ScaleHeads,
    ScaleOutput,
)
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.hooks import applying
from pprobe_core.probing.capture import reading_last_position
from pprobe_core.probing.tokens import left_pad
from tests.intervention_models import (
    D_MLP,
    HIDDEN,
    LAYERS,
    loaded_tiny,
    n_hooks,
    random_prompts,
    some_edits,
    vector,
)

FAMILIES = ("qwen3", "llama_bias", "mistral", "gemma2", "gemma3_text", "olmo2", "gpt2", "gpt_neox", "cohere", "phi3")
FULL_ATTENTION = ("qwen3", "llama_bias", "olmo2", "gpt2", "gpt_neox", "cohere", "phi3")


def everywhere() -> list[Edits]:
    """Edits at every position."""
    return [
        (Scale((Neuron(0, 3), Neuron(1, 7)), 0.0, "all"),),
        (Scale((Neuron(2, 5),), 1.0, "all"),),
        (ScaleOutput((1,), "ffn", 0.5, "all"),),
        (AddVector.along(0, vector(3), 1.0, relative=True, position="all"),),
    ]


def logit_diffs(evaluator: Evaluator, rows: list[Edits]) -> np.ndarray:
    return np.stack([one.logit_diff for one in evaluator.evaluate(rows)])


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_full_for_every_kind_of_edit_and_family(family: str) -> None:
    loaded, prompts = loaded_tiny(family), random_prompts((9, 14, 14, 23))
    cached = Evaluator(loaded, prompts)
    full = Evaluator(loaded, prompts, method="full")
    rows = some_edits()
    found, expected = logit_diffs(cached, rows), logit_diffs(full, rows)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(expected - expected[2]).max() > 1e-2  # the edits do something
    assert cached._chosen() == ("shared" if family in FULL_ATTENTION else "copied")


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_shared_and_copied_cache_agree(family: str) -> None:
    loaded, prompts = loaded_tiny(family), random_prompts((6, 11, 11))
    both = [logit_diffs(Evaluator(loaded, prompts, method=m), some_edits()) for m in ("shared", "copied")]
    assert np.abs(both[0] - both[1]).max() < 1e-4


@pytest.mark.parametrize("method", ["shared", "copied", "full"])
def test_batched_edits_equal_one_at_a_time(method: str) -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8, 8, 12))
    rows = some_edits() + everywhere()
    together = logit_diffs(Evaluator(loaded, prompts, method=method), rows)  # type: ignore[arg-type]
    for row, expected in zip(rows, together, strict=True):
        alone = Evaluator(loaded, prompts, method=method)  # type: ignore[arg-type]
        assert np.abs(logit_diffs(alone, [row])[0] - expected).max() < 1e-4
    for i in range(len(prompts)):
        one = Evaluator(loaded, prompts[i : i + 1], method=method)  # type: ignore[arg-type]
        assert np.abs(logit_diffs(one, rows)[:, 0] - together[:, i]).max() < 1e-4


def test_the_empty_edit_is_the_baseline_in_every_bit() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 12)))
    one, two = evaluator.evaluate([(), (Scale(()),)])
    assert np.array_equal(one.logit_diff, evaluator.baseline())
    assert np.array_equal(one.delta, np.zeros(2))
    assert np.array_equal(two.delta, np.zeros(2))  # ablating zero neurons


@pytest.mark.parametrize("method", ["shared", "copied", "full"])
def test_scaling_by_one_changes_nothing(method: str) -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 12)), method=method)  # type: ignore[arg-type]
    every = tuple(Neuron(layer, n) for layer in range(LAYERS) for n in range(D_MLP))
    rows: list[Edits] = [(Scale(every, 1.0),), (Scale(every, 1.0, "all"),), (ScaleOutput((0, 1, 2), "ffn", 1.0),)]
    for one in evaluator.evaluate(rows):
        assert np.abs(one.delta).max() < 1e-5


def test_hooks_that_scale_by_one_leave_every_logit_in_every_bit() -> None:
    loaded = loaded_tiny("qwen3")
    batch = left_pad([p.input_ids for p in random_prompts((8, 12))], 0, "cpu")
    with torch.inference_mode():
        plain = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        for edits in ((), (Scale((Neuron(0, 1),), 1.0, "all"),), (AddVector.along(1, vector(0), 0.0),)):
            with applying(loaded.structure, [edits], n_prompts=2):
                edited = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            assert torch.equal(plain, edited)


def test_an_edit_reaches_only_its_own_row_and_position() -> None:
    loaded = loaded_tiny("qwen3")
    prompts = random_prompts((8, 8))
    batch = left_pad([prompts[0].input_ids] * 3 + [prompts[1].input_ids] * 3, 0, "cpu")
    rows: list[Edits] = [(), (Scale((Neuron(1, 4),), 0.0),), (Scale((Neuron(1, 4),), 0.0, "all"),)]
    seen = []
    block = loaded.structure.blocks[1]
    with torch.inference_mode(), applying(loaded.structure, rows, n_prompts=2):
        handle = block.down_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
        try:
            loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        finally:
            handle.remove()
    acts = seen[0].reshape(2, 3, 8, D_MLP)
    assert (acts[:, 0, :, 4] != 0).all()
    assert (acts[:, 1, -1, 4] == 0).all()
    assert (acts[:, 1, :-1, 4] != 0).all()
    assert (acts[:, 2, :, 4] == 0).all()
    assert (acts[:, :, :, 5] != 0).all()


def test_ablating_a_layers_ffn_equals_scaling_all_its_neurons_where_the_projection_has_no_bias() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 12)))
    whole = tuple(Neuron(1, n) for n in range(D_MLP))
    one, two = evaluator.evaluate([(Scale(whole, 0.0),), (ScaleOutput((1,), "ffn"),)])
    assert np.abs(one.logit_diff - two.logit_diff).max() < 1e-5


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma2"])
def test_scaling_columns_of_the_down_projection_equals_the_hook_at_all_positions(family: str) -> None:
    loaded, prompts = loaded_tiny(family), random_prompts((8, 12))
    neurons = (Neuron(0, 3), Neuron(1, 7), Neuron(1, 8))
    hooked = logit_diffs(Evaluator(loaded, prompts), [(Scale(neurons, 0.0, "all"),), (Scale(neurons, 2.0, "all"),)])
    for factor, expected in zip((0.0, 2.0), hooked, strict=True):
        saved = {n.layer: loaded.structure.blocks[n.layer].weight.clone() for n in neurons}
        try:
            for n in neurons:
                block = loaded.structure.blocks[n.layer]
                row = block.weight[n.neuron] if block.weight_is_in_out else block.weight[:, n.neuron]
                row.mul_(factor)
            assert np.abs(Evaluator(loaded, prompts, method="full").baseline() - expected).max() < 1e-5
        finally:
            for layer, weight in saved.items():
                loaded.structure.blocks[layer].weight.copy_(weight)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt_neox"])
def test_patching_all_parts_of_all_layers_gives_what_the_other_prompt_adds(family: str) -> None:
    """With FFN and attention outputs of X~ on X, only the embedding of the last token is still that of X."""
    loaded = loaded_tiny(family)
    prompts = random_prompts((8, 12))
    layers = tuple(range(LAYERS))
    row: Edits = (PatchOutput(layers, "ffn"), PatchOutput(layers, "attention"))
    (found,) = Evaluator(loaded, prompts).evaluate([row])
    norm = loaded.structure.final_norm
    for prompt, value in zip(prompts, found.logit_diff, strict=True):
        parts = []
        for ids in (prompt.input_ids, prompt.other_ids):
            batch = left_pad([ids], 0, "cpu")
            with torch.inference_mode(), reading_last_position(loaded.structure, batch) as reading:
                loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            parts.append(reading.parts)
        scale = np.cumprod([b.resid_scale for b in loaded.structure.blocks][::-1])[::-1]
        resid = parts[0].resid_pre[0, 0] * scale[0]
        for layer in layers:
            resid = resid + scale[layer] * (parts[1].attention[layer, 0] + parts[1].ffn[layer, 0])
        ids_tc = (*prompt.target_ids, *prompt.control_ids)
        logits = loaded.structure.unembed_rows(ids_tc) @ norm.normed(resid)
        bias = loaded.structure.unembed_bias(ids_tc)
        logits = logits if bias is None else logits + bias
        cap = loaded.structure.softcap
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        n = len(prompt.target_ids)
        assert float(logits[:n].mean() - logits[n:].mean()) == pytest.approx(float(value), abs=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_patching_all_neurons_of_the_last_layer_changes_the_ffn_by_the_sum_of_importances(family: str) -> None:
    """Frozen norm aside, what patched neurons add is (a(X~) - a(X)) @ W_out: read it off the residual stream."""
    loaded = loaded_tiny(family)
    prompt = random_prompts((9,))[0]
    last = LAYERS - 1
    block = loaded.structure.blocks[last]
    evaluator = Evaluator(loaded, (prompt,))
    own, other = evaluator.values("own"), evaluator.values("other")
    resid = own.residual[0, last] + (other.acts[0, last] - own.acts[0, last]) @ block.W_out()
    logits = loaded.structure.unembed_rows((*prompt.target_ids, *prompt.control_ids))
    logits = logits @ loaded.structure.final_norm.normed(resid)
    n = len(prompt.target_ids)
    (found,) = evaluator.evaluate([(Patch(tuple(Neuron(last, k) for k in range(D_MLP))),)])
    assert float(logits[:n].mean() - logits[n:].mean()) == pytest.approx(float(found.logit_diff[0]), abs=1e-4)


def test_patching_the_last_residual_stream_gives_the_other_prompts_logit_difference() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8, 12))
    swapped = tuple(
        p.__class__(p.pair_id, p.split, p.other_ids, p.input_ids, p.target_ids, p.control_ids) for p in prompts
    )
    (found,) = Evaluator(loaded, prompts).evaluate([(PatchOutput((LAYERS - 1,), "residual"),)])
    assert np.abs(found.logit_diff - Evaluator(loaded, swapped, condition="perturbed").baseline()).max() < 1e-4


def test_ablating_all_heads_of_a_layer_equals_ablating_its_attention_output() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 12)))
    heads = evaluator.heads
    assert heads is not None
    assert heads.n_heads == 4
    every = tuple(Head(1, h) for h in range(4))
    one, two, three = evaluator.evaluate(
        [(ScaleHeads(every),), (ScaleOutput((1,), "attention"),), (ScaleHeads(every[:1]),)]
    )
    assert np.abs(one.logit_diff - two.logit_diff).max() < 1e-5
    assert np.abs(three.delta).max() > 1e-4


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "phi3"])
def test_heads_are_found_in_other_families(family: str) -> None:
    evaluator = Evaluator(loaded_tiny(family), random_prompts((8,)))
    (one,) = evaluator.evaluate([(ScaleHeads((Head(0, 1),)),)])
    assert np.abs(one.delta).max() > 1e-5


def test_a_relative_vector_is_as_long_as_the_residual_stream() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8,))
    length = float(Evaluator(loaded, prompts).values("own").residual[0, 1].norm())
    rows: list[Edits] = [
        (AddVector.along(1, vector(0), 0.7, relative=True),),
        (AddVector.along(1, 5 * vector(0), 0.7 * length),),
    ]
    one, two = Evaluator(loaded, prompts).evaluate(rows)
    assert one.logit_diff == pytest.approx(two.logit_diff, abs=1e-4)


def test_passes_are_counted_separately() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 8, 12)), method="shared")
    list(evaluator.evaluate([(Scale((Neuron(0, k),)),) for k in range(10)]))
    assert evaluator.passes.full == 3  # each prompt once
    assert evaluator.passes.last_token == 3 + 3 * 11  # the baseline, then ten edits and the unedited row
    list(evaluator.evaluate([(Scale((Neuron(0, 1),), 0.0, "all"),)]))
    assert evaluator.passes.full == 3 + 6
    list(evaluator.evaluate([(Patch((Neuron(0, 1),)),)]))
    assert evaluator.passes.full == 3 + 6 + 3  # the other prompts are read once


@pytest.mark.parametrize("method", ["shared", "copied", "full"])
def test_out_of_memory_halves_the_batch_and_goes_on(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8, 8, 8, 12))
    rows: list[Edits] = [(Scale((Neuron(0, k),)),) for k in range(20)]
    expected = logit_diffs(Evaluator(loaded, prompts, method=method), rows)  # type: ignore[arg-type]
    forward = Evaluator._forward
    limit = 24 if method == "full" else 6
    failures = []

    def with_little_memory(self: Evaluator, ids: torch.Tensor, *rest: object) -> None:
        prefill = method != "full" and ids.shape[1] in (7, 11) and ids.shape[0] <= 4
        if ids.numel() > limit and not prefill:
            failures.append(ids.shape)
            raise torch.OutOfMemoryError("CUDA out of memory")
        forward(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "_forward", with_little_memory)
    found = logit_diffs(Evaluator(loaded, prompts, method=method), rows)  # type: ignore[arg-type]
    assert failures
    assert np.abs(found - expected).max() < 1e-4


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Evaluator, *rest: object) -> None:
        raise RuntimeError("shapes do not match")

    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8,)), method="copied")
    monkeypatch.setattr(Evaluator, "_forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluator.baseline()


@pytest.mark.parametrize("method", ["shared", "copied", "full"])
def test_nothing_stays_behind_after_success_error_and_cancel(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8, 12))
    hooks, implementation = n_hooks(loaded.model), loaded.model.config._attn_implementation
    stop = threading.Event()
    evaluator = Evaluator(loaded, prompts, method=method, cancelled=stop)  # type: ignore[arg-type]
    before = evaluator.baseline()
    list(evaluator.evaluate(some_edits()))
    assert n_hooks(loaded.model) == hooks

    stop.set()
    with pytest.raises(Cancelled):
        list(evaluator.evaluate(some_edits()[:1]))
    stop.clear()
    assert n_hooks(loaded.model) == hooks

    def failing(*args: object, **kwargs: object) -> None:
        raise ValueError("in the middle of a forward pass")

    with monkeypatch.context() as patch:
        patch.setattr(loaded.structure.blocks[1].module, "forward", failing)
        with pytest.raises(ValueError, match="middle"):
            list(evaluator.evaluate(some_edits()[:1]))
    assert n_hooks(loaded.model) == hooks
    assert loaded.model.config._attn_implementation == implementation

    halfway = evaluator.evaluate([(Scale((Neuron(0, k),)),) for k in range(5)])
    next(halfway)
    halfway.close()
    assert n_hooks(loaded.model) == hooks
    assert np.array_equal(Evaluator(loaded, prompts, method=method).baseline(), before)  # type: ignore[arg-type]


def test_between_two_points_the_model_is_unedited() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8,))
    plain = Evaluator(loaded, prompts).baseline()
    points = Evaluator(loaded, prompts, max_rows=2).evaluate([(ScaleOutput((0,), "ffn"),), (ScaleOutput((1,), "ffn"),)])
    next(points)
    assert np.array_equal(Evaluator(loaded, prompts).baseline(), plain)


def test_an_edit_that_breaks_the_model_is_reported_and_the_rest_goes_on() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8, 12)))
    rows: list[Edits] = [(Scale((Neuron(0, 1),), 1e38),), (Scale((Neuron(0, 1),), 0.0),)]
    rows.insert(0, (Scale(tuple(Neuron(0, n) for n in range(D_MLP)), 3e38),))
    broken, _, fine = evaluator.evaluate(rows)
    assert broken.broken
    assert not fine.broken
    assert fine.logit_diff == pytest.approx(next(iter(evaluator.evaluate([rows[-1]]))).logit_diff, abs=1e-5)


def test_a_cache_that_does_not_fit_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((8, 8, 12, 12))
    rows = some_edits()[:3]
    expected = logit_diffs(Evaluator(loaded, prompts, method="shared"), rows)
    monkeypatch.setattr(evaluator_module, "MAX_CACHE_BYTES", 1)
    monkeypatch.setattr(evaluator_module, "MAX_GROUP", 2)
    small = Evaluator(loaded, prompts, method="shared")
    assert np.abs(logit_diffs(small, rows) - expected).max() < 1e-4
    assert small.passes.full > 4  # and counted


def test_bfloat16_differences_are_taken_within_one_batch() -> None:
    loaded, prompts = loaded_tiny("qwen3", torch.bfloat16), random_prompts((8, 12))
    exact = loaded_tiny("qwen3")
    rows: list[Edits] = [(ScaleOutput((layer,), "ffn"),) for layer in range(LAYERS)]
    found = [one.delta for one in Evaluator(loaded, prompts).evaluate(rows)]
    expected = [one.delta for one in Evaluator(exact, prompts).evaluate(rows)]
    assert np.abs(np.array(found) - np.array(expected)).max() < 0.15


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ((Scale((Neuron(3, 0),)),), "no layer 3"),
        ((Scale((Neuron(0, D_MLP),)),), "no neuron 56"),
        ((Scale((Neuron(-1, 0),)),), "no layer -1"),
        ((Scale((Neuron(0, 0),)), Scale((Neuron(0, 0),), 2.0)), "named twice"),
        ((Scale(tuple(Neuron(0, n) for n in range(1000))),), "this model has 168"),
        ((AddVector(9, (1.0,) * HIDDEN, 1.0),), "no layer 9"),
        ((AddVector(0, (1.0, 2.0), 1.0),), "2 values"),
        ((ScaleHeads((Head(0, 4),)),), "no head 4"),
        ((ScaleOutput((7,), "ffn"),), "no layer 7"),
        ((Restore((Neuron(0, 0),)),), "perturbed"),
    ],
)
def test_edits_the_model_has_no_parts_for_are_refused_in_plain_words(edits: Edits, message: str) -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((8,)))
    with pytest.raises(BadRequest, match=message):
        list(evaluator.evaluate([edits]))
    assert evaluator.passes.last_token == 0


def test_an_evaluator_without_prompts_is_refused() -> None:
    with pytest.raises(BadRequest, match="no prompt"):
        Evaluator(loaded_tiny("qwen3"), ())


def test_a_prompt_of_one_token_is_run_in_full() -> None:
    loaded = loaded_tiny("qwen3")
    prompts = random_prompts((1, 5))
    (one,) = Evaluator(loaded, prompts).evaluate([(Scale((Neuron(0, 1),)),)])
    (two,) = Evaluator(loaded, prompts, method="full").evaluate([(Scale((Neuron(0, 1),)),)])
    assert one.logit_diff == pytest.approx(two.logit_diff, abs=1e-5)
