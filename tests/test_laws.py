"""Laws of the two passes that hold on any weights of any supported family."""

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
import torch

from pprobe_core.errors import ModelUnavailable
from pprobe_core.probing import probe
from pprobe_core.probing.capture import capture_block, last_logits, reading_last_position
from pprobe_core.probing.collected import collect
from pprobe_core.probing.decomposition import behavioural_direction, directions
from pprobe_core.probing.neurons import score_neurons
from pprobe_core.probing.tokens import TokenBatch, left_pad
from pprobe_core.probing.types import Prepared
from tests.probing_models import (
    ALL_FAMILIES,
    SOME_FAMILIES,
    TEXTS,
    circuit,
    fresh_tiny,
    loaded_tiny,
    n_hooks,
    prompt_set,
    request,
    run,
)


@cache
def _prepared(family: str) -> Prepared:
    return probe.prepare(loaded_tiny(family), circuit(), prompt_set(), request())


def _batch(family: str) -> TokenBatch:
    prepared = _prepared(family)
    return left_pad([ids for p in prepared.pairs for ids in (p.input_ids_original, p.input_ids_perturbed)], 0, "cpu")


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_parts_sum_to_the_logit_difference(family: str) -> None:
    result = run(family)
    layers = result.layers
    parts = layers.groupby(["pair_id", "condition"])[["attention", "ffn"]].sum().sum(axis=1)
    skip = layers[layers.layer == 0].set_index(["pair_id", "condition"]).skip
    for condition in ("original", "perturbed"):
        pairs = result.pairs.set_index("pair_id")
        total = parts.xs(condition, level=1) + skip.xs(condition, level=1) + pairs[f"constant_{condition}"]
        expected = pairs[f"logit_diff_{condition}"]
        assert expected.abs().max() > 1e-3
        pd.testing.assert_series_equal(total, expected, check_names=False, rtol=1e-4, atol=2e-5)
    assert result.summary["decomposition_error"] < 2e-5


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_activations_times_w_out_are_the_ffn_contribution(family: str) -> None:
    loaded, batch = loaded_tiny(family), _batch(family)
    with torch.inference_mode(), reading_last_position(loaded.structure, batch) as reading:
        last_logits(loaded.model, batch)
    for block in loaded.structure.blocks:
        ffn = reading.acts[block.layer] @ block.W_out()
        if block.b_out() is not None:
            ffn = ffn + block.b_out()
        if block.ffn_post_norm is not None:
            assert torch.allclose(block.ffn_post_norm.scale(ffn), reading.ffn_post_scale[block.layer], rtol=1e-4)
            ffn = block.ffn_post_norm.normed(ffn)
        assert torch.allclose(ffn * block.ffn_scale, reading.parts.ffn[block.layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_logit_difference_is_the_models_own_on_the_bare_prompt(family: str) -> None:
    loaded, prepared = loaded_tiny(family), _prepared(family)
    signals = collect(list(probe.capture_blocks(loaded, prepared)), len(prepared.pairs)).signals
    for i, pair in enumerate(prepared.pairs):
        for c, ids in enumerate((pair.input_ids_original, pair.input_ids_perturbed)):
            with torch.inference_mode():
                logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            expected = logits[list(pair.target_ids)].mean() - logits[list(pair.control_ids)].mean()
            assert float(signals.logit_diff[c, i]) == pytest.approx(float(expected), abs=1e-4)
            assert int(signals.first_ids[c, i, 0]) == int(logits.argmax())
            assert float(signals.first_probabilities[c, i, 0]) == pytest.approx(
                float(logits.softmax(0).max()), abs=1e-5
            )


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_batched_equals_alone(family: str) -> None:
    loaded, prepared = loaded_tiny(family), _prepared(family)
    with torch.inference_mode():
        run_directions = directions(loaded.structure, [(p.target_ids, p.control_ids) for p in prepared.pairs])
    indices = list(range(len(prepared.pairs)))
    together = capture_block(loaded, run_directions, prepared.pairs, indices, 0)
    assert len({len(p.input_ids_original) for p in prepared.pairs}) > 1  # so that there is padding
    for i in indices:
        alone = capture_block(loaded, run_directions, prepared.pairs, [i], 0)
        assert torch.allclose(together.acts_original[i], alone.acts_original[0], atol=1e-4)
        assert torch.allclose(together.acts_perturbed[i], alone.acts_perturbed[0], atol=1e-4)
        for name in ("logit_diff", "skip", "attention", "ffn", "lens_after_attention", "lens_after_ffn"):
            both, one = getattr(together.signals, name)[:, i], getattr(alone.signals, name)[:, 0]
            assert torch.allclose(both, one, atol=1e-4), name


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_a_pair_of_identical_prompts_scores_exactly_zero(family: str) -> None:
    texts = [(original, original) for original, _ in TEXTS]
    result = run(family, prompt_set(texts), coupling="norm_aware", generate=True)
    assert (result.pairs.logit_diff_original == result.pairs.logit_diff_perturbed).all()
    assert (result.pairs.predicted_delta == 0).all()
    neurons = result.neurons
    zero = ["importance_mean", "importance_rms", "sign_consistency", "coherence"]
    assert (neurons[zero] == 0).all(axis=None)
    assert (neurons.act_original_mean == neurons.act_perturbed_mean).all()
    assert not neurons.coupling.eq(0).all()
    assert result.summary["n_forward_passes"] == len(texts)
    assert result.summary["null"] == {"importance_threshold": 0.0, "n_above": 0, "draws": 200}
    assert result.summary["verdict"]["structure"] == "uninformative"
    assert result.summary["n_identical"] == len(texts)
    assert all(share == 0 for share in result.summary["topk_share"].values())


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_an_identical_pair_among_others_scores_zero(family: str) -> None:
    result = run(family, prompt_set([*TEXTS[:2], (TEXTS[2][0], TEXTS[2][0]), *TEXTS[3:]]))
    assert result.pairs.predicted_delta[2] == 0
    assert (result.pairs.predicted_delta.drop(2) != 0).all()
    assert result.summary["n_forward_passes"] == 2 * len(TEXTS) - 1
    assert result.summary["n_identical"] == 1
    assert any("both prompts are the same to the model" in reason for reason in result.summary["verdict"]["reasons"])


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_hooks_are_gone_after_an_error(family: str) -> None:
    loaded, batch = loaded_tiny(family), _batch(family)
    before = n_hooks(loaded.model)

    def fail(*args: object) -> None:
        raise RuntimeError("in the middle of the pass")

    handle = loaded.structure.blocks[1].module.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            list(probe.capture_blocks(loaded, _prepared(family)))
    finally:
        handle.remove()
    assert n_hooks(loaded.model) == before
    with reading_last_position(loaded.structure, batch):
        assert n_hooks(loaded.model) > before
    assert n_hooks(loaded.model) == before


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_reading_changes_nothing(family: str) -> None:
    loaded, batch = loaded_tiny(family), _batch(family)
    with torch.inference_mode():
        plain = last_logits(loaded.model, batch)
        with reading_last_position(loaded.structure, batch):
            read = last_logits(loaded.model, batch)
        full = loaded.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
        )
    assert torch.equal(plain, read)
    assert torch.allclose(plain, full.logits[:, -1].float(), atol=1e-5)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_norm_aware_effects_of_zeroing_sum_to_the_ffn_contribution(family: str) -> None:
    """With the norms frozen at X everything is linear: all neurons together carry what the FFNs contribute."""
    loaded, pairs = loaded_tiny(family), prompt_set(TEXTS[:1])
    result = run(family, pairs, coupling="norm_aware")
    prepared = probe.prepare(loaded, circuit(), pairs, request())
    with torch.inference_mode():
        run_directions = probe._directions(loaded, prepared)
        signals = collect(list(probe.capture_blocks(loaded, prepared)), 1).signals
        total = -result.neurons.zeroing_effect.astype("float64").sum()
        later = 1.0
        for block in reversed(loaded.structure.blocks):
            later *= block.resid_scale
            scale = float(signals.final_scale[0, 0]) * later * block.ffn_scale
            if (bias := block.b_out()) is not None:
                norm = block.ffn_post_norm
                assert norm is None, "no family here has both"
                total += float(run_directions.folded[0] @ bias) * scale
            if block.ffn_post_norm is not None and block.ffn_post_norm.bias is not None:
                total += float(run_directions.folded[0] @ block.ffn_post_norm.bias) * scale
    assert total == pytest.approx(float(signals.ffn[0, 0].sum()), abs=5e-5)


@pytest.mark.parametrize("family", ["qwen3", "llama_bias", "gpt2", "granite"])
def test_plain_coupling_is_norm_aware_where_the_norm_is_trivial(family: str) -> None:
    loaded, prepared = loaded_tiny(family), _prepared(family)
    collected = collect(list(probe.capture_blocks(loaded, prepared)), len(prepared.pairs))
    own = probe._directions(loaded, prepared)
    trivial = replace(own, folded=own.plain)  # gain 1, not centred
    ones = torch.ones_like(collected.signals.final_scale)
    collected = replace(collected, signals=replace(collected.signals, final_scale=ones))
    scored = [
        score_neurons(loaded.structure, trivial, collected, [0, 1, 2], coupling, 0).frame
        for coupling in ("plain", "norm_aware")
    ]
    pd.testing.assert_frame_equal(scored[0], scored[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_lens_after_the_last_layer_is_the_logit_difference(family: str) -> None:
    result = run(family)
    if loaded_tiny(family).structure.softcap is not None:
        return  # the lens is read before the cap
    last = result.layers[result.layers.layer == result.layers.layer.max()]
    original = last[last.condition == "original"].lens_after_ffn.to_numpy()
    assert original == pytest.approx(result.pairs.logit_diff_original.to_numpy(), abs=2e-5)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_the_ratio_is_what_the_last_layer_adds_over_what_enters_it(family: str) -> None:
    loaded, prepared, result = loaded_tiny(family), _prepared(family), run(family)
    pair = prepared.pairs[0]
    batch = left_pad([pair.input_ids_original], 0, "cpu")
    with torch.inference_mode(), reading_last_position(loaded.structure, batch) as reading:
        last_logits(loaded.model, batch)
        d = behavioural_direction(loaded.structure, pair.target_ids, pair.control_ids)
        for name, part in (("ffn_skip", reading.parts.ffn), ("attention_skip", reading.parts.attention)):
            expected = (part[:, 0] @ d).abs() / (reading.parts.resid_pre[:, 0] @ d).abs()
            rows = result.layers[(result.layers.pair_id == "p0") & (result.layers.condition == "original")]
            assert rows[name].to_numpy() == pytest.approx(expected.numpy(), rel=1e-3)
    assert result.pairs.ffn_skip_original[0] == pytest.approx(rows.ffn_skip.iloc[-1])


@pytest.mark.parametrize(("layer", "value"), [(1, float("nan")), (2, float("inf"))])
def test_weights_that_give_no_number_are_refused_naming_the_layer(layer: int, value: float) -> None:
    loaded = fresh_tiny()
    prepared = probe.prepare(loaded, circuit(), prompt_set(), request())
    loaded.structure.blocks[layer].down_proj.weight.data[3, 5] = value
    with pytest.raises(ModelUnavailable, match=f"NaN or infinity in layer {layer}"):
        list(probe.capture_blocks(loaded, prepared))
    assert n_hooks(loaded.model) == 0


def test_the_head_slices_to_the_last_position_where_the_model_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, batch = loaded_tiny(), _batch("qwen3")
    with torch.inference_mode():
        expected = last_logits(loaded.model, batch)
        whole, widths = loaded.model.forward, []
        handle = loaded.model.lm_head.register_forward_hook(lambda module, args, out: widths.append(out.shape[1]))

        def forward(input_ids=None, attention_mask=None, position_ids=None, use_cache=None):
            return whole(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache)

        monkeypatch.setattr(loaded.model, "forward", forward)
        try:
            found = last_logits(loaded.model, batch)
        finally:
            handle.remove()
    assert torch.allclose(found, expected, atol=1e-6)
    assert widths == [1]
    assert n_hooks(loaded.model) == 0
