"""Laws of reading and editing that must hold on every family: padding, caches, edits, answers, nothing left behind."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pprobe_core.interventions.edits import AddVector, Edits, Neuron, Patch, PatchOutput, Scale, ScaleOutput
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.generation import GenerationSettings, respond
from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing.capture import reading_last_position
from pprobe_core.probing.tokens import left_pad
from tests.intervention_models import LAYERS, loaded_tiny, n_hooks, random_prompts, some_edits, vector
from tests.tiny_models import FAMILIES, MORE_FAMILIES

PROMPTS = random_prompts((5, 11, 9))  # of several lengths, so that there is padding
# Layers with a window, with linear attention or convolutions, or with attention of their own: the cache is copied.
COPIED = {
    *("mistral", "gemma2", "gemma3_text", "gemma3", "gemma4_text", "gemma4", "cohere2", "olmo3", "exaone4"),
    *("lfm2", "qwen3_5_text", "qwen3_5", "bloom", "mpt", "gptj", "falcon", "falcon_new", "falcon_alibi"),
}


@pytest.fixture(scope="module", params=[*FAMILIES, *MORE_FAMILIES])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_tiny(request.param)


@pytest.fixture(scope="module")
def evaluator(loaded: LoadedModel) -> Evaluator:
    return Evaluator(loaded, PROMPTS)


@pytest.fixture(autouse=True)
def nothing_stays_behind(loaded: LoadedModel) -> Iterator[None]:
    before = n_hooks(loaded.model)
    yield
    assert n_hooks(loaded.model) == before


def logit_diffs(evaluator: Evaluator, rows: list[Edits]) -> np.ndarray:
    return np.stack([one.logit_diff for one in evaluator.evaluate(rows)])


def plain_logits(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits after one prompt, by nothing but the model itself."""
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()


def logit_diff_of(loaded: LoadedModel, prompt: int, final: torch.Tensor) -> float:
    """F of a made-up final residual stream."""
    structure, p = loaded.structure, PROMPTS[prompt]
    ids = (*p.target_ids, *p.control_ids)
    logits = structure.unembed_rows(ids) @ structure.final_norm.normed(final)
    bias, cap, n = structure.unembed_bias(ids), structure.softcap, len(p.target_ids)
    logits = logits if bias is None else logits + bias
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return float(logits[:n].mean() - logits[n:].mean())


def test_the_baseline_is_the_models_own_on_the_bare_prompt(loaded: LoadedModel, evaluator: Evaluator) -> None:
    for prompt, found in zip(PROMPTS, evaluator.baseline(), strict=True):
        logits = plain_logits(loaded, list(prompt.input_ids))
        expected = logits[list(prompt.target_ids)].mean() - logits[list(prompt.control_ids)].mean()
        assert found == pytest.approx(float(expected), abs=1e-4)


def test_what_is_read_in_a_padded_batch_is_what_is_read_alone(loaded: LoadedModel, evaluator: Evaluator) -> None:
    together = evaluator.values("own")
    for i in range(len(PROMPTS)):
        alone = Evaluator(loaded, PROMPTS[i : i + 1]).values("own")
        for site in ("acts", "attention", "ffn", "residual"):
            both, one = getattr(together, site)[i], getattr(alone, site)[0]
            torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-4)
            assert one.abs().max() > 1e-3


def test_cached_last_tokens_equal_full_forwards_for_every_kind_of_edit(
    loaded: LoadedModel, evaluator: Evaluator
) -> None:
    rows = some_edits()
    found = logit_diffs(evaluator, rows)
    expected = logit_diffs(Evaluator(loaded, PROMPTS, method="full"), rows)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(expected - expected[2]).max() > 1e-2  # the edits do something
    assert evaluator._chosen() == ("copied" if loaded.family in COPIED else "shared")


def test_scaling_by_one_and_editing_no_neuron_change_nothing(loaded: LoadedModel, evaluator: Evaluator) -> None:
    every = tuple(Neuron(layer, n) for layer in range(LAYERS) for n in range(loaded.structure.d_mlp))
    empty, *points = evaluator.evaluate(
        [
            (),
            (Scale(()),),
            (Scale(every, 1.0),),
            (Scale(every, 1.0, "all"),),
            (ScaleOutput((0, 1, 2), "ffn", 1.0), ScaleOutput((0, 1, 2), "attention", 1.0)),
        ]
    )
    assert np.array_equal(empty.logit_diff, evaluator.baseline())
    assert np.array_equal(empty.delta, np.zeros(len(PROMPTS)))
    assert max(np.abs(point.delta).max() for point in points) < 1e-5


def test_patching_all_parts_of_all_layers_leaves_the_embedding_alone(loaded: LoadedModel, evaluator: Evaluator) -> None:
    layers = tuple(range(LAYERS))
    (found,) = evaluator.evaluate([(PatchOutput(layers, "ffn"), PatchOutput(layers, "attention"))])
    scale = np.cumprod([b.resid_scale for b in loaded.structure.blocks][::-1])[::-1]
    other = evaluator.values("other")
    for i, prompt in enumerate(PROMPTS):
        batch = left_pad([prompt.input_ids], 0, "cpu")
        with torch.inference_mode(), reading_last_position(loaded.structure, batch) as reading:
            loaded.model(input_ids=batch.input_ids)
        final = float(scale[0]) * reading.parts.resid_pre[0, 0]
        for layer in layers:
            final = final + float(scale[layer]) * (other.attention[i, layer] + other.ffn[i, layer])
        assert logit_diff_of(loaded, i, final) == pytest.approx(float(found.logit_diff[i]), abs=2e-4)


def test_patching_all_neurons_of_the_last_layer_swaps_what_its_ffn_writes(
    loaded: LoadedModel, evaluator: Evaluator
) -> None:
    last = loaded.structure.blocks[-1]
    own, other = evaluator.values("own"), evaluator.values("other")
    every = tuple(Neuron(last.layer, n) for n in range(loaded.structure.d_mlp))
    (found,) = evaluator.evaluate([(Patch(every),)])
    for i in range(len(PROMPTS)):
        written = other.acts[i, -1] @ last.W_out()
        written = written if (bias := last.b_out()) is None else written + bias
        written = written if last.ffn_post_norm is None else last.ffn_post_norm.normed(written)
        final = own.residual[i, -1] + last.resid_scale * (last.ffn_scale * written - own.ffn[i, -1])
        assert logit_diff_of(loaded, i, final) == pytest.approx(float(found.logit_diff[i]), abs=2e-4)


def test_a_vector_injected_after_the_last_layer_is_added_to_the_final_stream(
    loaded: LoadedModel, evaluator: Evaluator
) -> None:
    (found,) = evaluator.evaluate([(AddVector.along(LAYERS - 1, vector(0), 3.0),)])
    v = 3.0 * torch.nn.functional.normalize(vector(0), dim=0)
    for i in range(len(PROMPTS)):
        final = evaluator.values("own").residual[i, -1] + v
        assert logit_diff_of(loaded, i, final) == pytest.approx(float(found.logit_diff[i]), abs=2e-4)


def test_edits_at_all_positions_are_those_of_the_weights_and_hold_while_answering(
    loaded: LoadedModel, evaluator: Evaluator
) -> None:
    """Columns of the down projection scaled in place, then a plain forward per token, against hooks over a cache."""
    neurons = tuple(Neuron(layer, n) for layer in (0, 1) for n in range(0, loaded.structure.d_mlp, 2))
    edits: Edits = (Scale(neurons, -1.0, "all"),)
    (hooked,) = evaluator.evaluate([edits])
    settings = GenerationSettings(max_new_tokens=4)
    answers = {(r.prompt, r.edit): r.token_ids for r in respond(evaluator, [(), edits], settings)}
    assert plain_answers(loaded) == [answers[i, 0] for i in range(len(PROMPTS))]
    saved = {layer: loaded.structure.blocks[layer].weight.clone() for layer in (0, 1)}
    try:
        for n in neurons:
            block = loaded.structure.blocks[n.layer]
            (block.weight[n.neuron] if block.weight_is_in_out else block.weight[:, n.neuron]).mul_(-1.0)
        assert np.abs(Evaluator(loaded, PROMPTS, method="full").baseline() - hooked.logit_diff).max() < 1e-4
        assert plain_answers(loaded) == [answers[i, 1] for i in range(len(PROMPTS))]
    finally:
        for layer, weight in saved.items():
            loaded.structure.blocks[layer].weight.copy_(weight)
    assert np.abs(hooked.delta).max() > 1e-3


def plain_answers(loaded: LoadedModel, n: int = 4) -> list[tuple[int, ...]]:
    """Greedy answers by one whole forward pass per token; they end before the end token."""
    answers = []
    for prompt in PROMPTS:
        new: list[int] = []
        while len(new) < n and (token := int(plain_logits(loaded, [*prompt.input_ids, *new]).argmax())) != 2:
            new.append(token)
        answers.append(tuple(new))
    return answers


def test_hooks_are_gone_after_an_error(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise ValueError("in the middle of a forward pass")

    monkeypatch.setattr(loaded.structure.blocks[1].module, "forward", failing)
    for rows in ([(Scale((Neuron(0, 1),)),)], [(Scale((Neuron(0, 1),), 0.0, "all"),)]):
        with pytest.raises(ValueError, match="middle"):
            list(Evaluator(loaded, PROMPTS[:1]).evaluate(rows))
