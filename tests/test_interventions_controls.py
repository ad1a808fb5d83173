"""Controls and directions: matched, seeded, orthogonal, and made from the prompts that may select."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.controls import matched_neurons, orthogonal_directions, random_heads
from pprobe_core.interventions.directions import find_directions, separability
from pprobe_core.interventions.edits import AddVector, ModelShape, Neuron
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator
from pprobe_core.probing.decomposition import behavioural_direction
from tests.intervention_models import LAYERS, loaded_tiny, random_prompts

SHAPE = ModelShape(n_layers=3, d_mlp=10, d_model=4, n_heads=2)
RANKED = tuple(Neuron(layer, n) for n in (7, 2, 5) for layer in (2, 0))


def test_every_prefix_of_a_draw_has_the_layers_of_the_rankings_prefix() -> None:
    for draw in matched_neurons(RANKED, SHAPE, seed=0):
        for n in range(len(RANKED) + 1):
            assert [x.layer for x in draw.neurons[:n]] == [x.layer for x in RANKED[:n]]
        assert len(set(draw.neurons)) == len(RANKED)
        assert not set(draw.neurons) & set(RANKED)
        assert draw.n_overlap == 0


def test_draws_are_seeded_different_and_do_not_depend_on_their_number() -> None:
    five = matched_neurons(RANKED, SHAPE, seed=1)
    assert five == matched_neurons(RANKED, SHAPE, seed=1)
    assert five[:2] == matched_neurons(RANKED, SHAPE, seed=1, n_draws=2)
    assert len({d.neurons for d in five}) == 5
    assert five != matched_neurons(RANKED, SHAPE, seed=2)


def test_where_a_layer_has_too_few_others_the_overlap_is_said() -> None:
    most = tuple(Neuron(0, n) for n in range(7))
    for draw in matched_neurons(most, SHAPE, seed=0):
        assert len(set(draw.neurons)) == 7
        assert draw.n_overlap == len(set(draw.neurons) & set(most)) > 0


def test_random_neurons_are_spread_evenly() -> None:
    draws = matched_neurons((Neuron(0, 0),), SHAPE, seed=0, n_draws=900)
    counts = np.bincount([d.neurons[0].neuron for d in draws], minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 60


def test_controls_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(BadRequest, match="at least 1"):
        matched_neurons(RANKED, SHAPE, seed=0, n_draws=0)
    with pytest.raises(BadRequest, match="no layer 3"):
        matched_neurons((Neuron(3, 0),), SHAPE, seed=0)
    with pytest.raises(BadRequest, match="this model has 6"):
        random_heads(7, SHAPE, seed=0)
    with pytest.raises(BadRequest, match="length zero"):
        orthogonal_directions(torch.zeros(4), seed=0)


def test_random_heads_are_different_and_exist() -> None:
    for heads in random_heads(4, SHAPE, seed=0):
        assert len(set(heads)) == 4
        assert all(0 <= h.layer < 3 and 0 <= h.head < 2 for h in heads)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_directions_are_orthogonal_and_of_the_same_length(seed: int) -> None:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 7
    drawn = orthogonal_directions(direction, seed)
    assert drawn.shape == (5, 64)
    assert (drawn @ direction).abs().max() < 1e-4 * direction.norm() ** 2
    assert torch.allclose(drawn.norm(dim=-1), direction.norm(), rtol=1e-5)
    assert torch.linalg.matrix_rank(drawn) == 5


def test_d_F_is_the_mean_over_discovery_observables_at_every_layer() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 9, 9, 12))
    found = find_directions(Evaluator(loaded, prompts), "d_F")
    own = [behavioural_direction(loaded.structure, p.target_ids, p.control_ids) for p in prompts]
    expected = torch.stack([d for d, p in zip(own, prompts, strict=True) if p.split == "discovery"]).mean(0)
    assert found.n_pairs == 3
    assert found.vectors.shape[0] == LAYERS
    assert all(torch.allclose(v, expected) for v in found.vectors)


def test_the_difference_of_means_uses_discovery_only_and_points_to_the_target() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 9, 9, 12, 8))
    evaluator = Evaluator(loaded, prompts)
    found = find_directions(evaluator, "difference_of_means")
    discovery = [i for i, p in enumerate(prompts) if p.split == "discovery"]
    without = find_directions(Evaluator(loaded, tuple(prompts[i] for i in discovery)), "difference_of_means")
    assert torch.allclose(found.vectors, without.vectors, atol=1e-4)
    higher_is_other = (evaluator.other_baseline() - evaluator.baseline())[discovery].mean() > 0
    assert found.toward_other == (1 if higher_is_other else -1)
    difference = (evaluator.values("other").residual - evaluator.values("own").residual)[discovery].mean(0)
    assert torch.allclose(found.vectors, difference * found.toward_other)


def test_the_other_prompts_baseline_is_what_running_them_gives() -> None:
    for family in ("qwen3", "gemma2", "gpt2"):
        loaded, prompts = loaded_tiny(family), random_prompts((7, 12))
        swapped = tuple(replace(p, input_ids=p.other_ids, other_ids=p.input_ids) for p in prompts)
        expected = Evaluator(loaded, swapped, condition="perturbed").baseline()
        assert np.abs(Evaluator(loaded, prompts).other_baseline() - expected).max() < 1e-4


def test_injecting_after_the_last_layer_moves_the_logit_difference_to_the_target() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9, 12)))
    vector = find_directions(evaluator, "d_F").vectors[-1]
    up, down = evaluator.evaluate([(AddVector.along(LAYERS - 1, vector, s, relative=True),) for s in (0.5, -0.5)])
    assert (up.delta > 0).all()
    assert (down.delta < 0).all()


def test_a_direction_that_does_not_exist_is_refused_in_plain_words() -> None:
    prompt = random_prompts((7,))[0]
    same = replace(prompt, other_ids=prompt.input_ids)
    with pytest.raises(BadRequest, match="length zero"):
        find_directions(Evaluator(loaded_tiny("qwen3"), (same,)), "difference_of_means")


def last_token_prompts(n: int) -> tuple[EvalPrompt, ...]:
    """Pairs whose two prompts end in different fixed tokens: separable by construction."""
    made = random_prompts((8,) * n)
    return tuple(replace(p, input_ids=(*p.input_ids, 100), other_ids=(*p.input_ids, 200)) for p in made)


def test_prompts_that_end_differently_are_separable_and_random_ones_are_not() -> None:
    loaded = loaded_tiny("qwen3")
    clear = separability(Evaluator(loaded, last_token_prompts(18)))
    assert [s.layer for s in clear] == list(range(LAYERS))
    assert all(s.n_prompts == 12 for s in clear)
    assert clear[0].accuracy == 1.0
    assert clear[0].auc == 1.0
    assert clear[0].low is not None
    assert 0.7 < clear[0].low < 1.0
    noise = separability(Evaluator(loaded, random_prompts((8,) * 60)))
    assert noise[0].accuracy is not None
    assert 0.25 < noise[0].accuracy < 0.75


def test_without_held_out_prompts_separability_is_unknown() -> None:
    prompts = tuple(replace(p, split="discovery") for p in random_prompts((7, 9)))
    assert all(s.accuracy is None and s.n_prompts == 0 for s in separability(Evaluator(loaded_tiny("qwen3"), prompts)))
