"""The pure scores: formulas on numbers small enough to check by hand, and shapes checked at run time."""

import jaxtyping
import pytest
import torch
from beartype import beartype

from pprobe_core.probing import decomposition, scores

checked = jaxtyping.jaxtyped(typechecker=beartype)
coupling = checked(scores.coupling)
neuron_importance = checked(scores.neuron_importance)
importance_statistics = checked(scores.importance_statistics)
ablation_score = checked(scores.ablation_score)
rank_neurons = checked(scores.rank_neurons)
layer_mass = checked(scores.layer_mass)
topk_share = checked(scores.topk_share)
sign_flip_maxima = checked(scores.sign_flip_maxima)
signal_ratio = checked(decomposition.signal_ratio)
logit_diff = checked(decomposition.logit_diff)
soft_cap_remainder = checked(decomposition.soft_cap_remainder)

GENERATOR = torch.Generator().manual_seed(7)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def test_coupling_is_what_one_unit_of_activation_writes_along_the_direction() -> None:
    direction, w_out = _random(3, 8), _random(5, 8)
    assert torch.allclose(coupling(direction, w_out, 0.5)[1, 4], 0.5 * direction[1] @ w_out[4])
    assert coupling(direction[0], w_out).shape == (5,)


def test_importance_is_coupling_times_activation_change() -> None:
    original, perturbed, c = _random(4, 2, 3), _random(4, 2, 3), _random(2, 3)
    found = neuron_importance(original, perturbed, c)
    assert float(found[2, 1, 0]) == pytest.approx(float((perturbed[2, 1, 0] - original[2, 1, 0]) * c[1, 0]))
    own = c.expand(4, 2, 3)
    assert torch.equal(neuron_importance(original, perturbed, own), found)
    assert torch.equal(neuron_importance(original, perturbed, c[None]), found)


def test_wrong_shapes_are_caught_by_the_annotations() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        neuron_importance(_random(4, 2, 3), _random(4, 2, 4), _random(2, 3))


def test_statistics_over_pairs() -> None:
    # neurons: always +1; signs +3 -1; never moves; signs that cancel
    importance = torch.tensor([[[1.0, 3.0, 0.0, 2.0]], [[1.0, -1.0, 0.0, -2.0]]])
    found = importance_statistics(importance)
    assert found.mean.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert found.rms[0].tolist() == pytest.approx([1.0, 5**0.5, 0.0, 2.0])
    assert found.sign_consistency.tolist() == [[1.0, 0.5, 0.0, 0.0]]
    assert found.coherence[0].tolist() == pytest.approx([1.0, 1 / 5**0.5, 0.0, 0.0])


def test_coherence_lies_between_zero_and_one() -> None:
    coherence = importance_statistics(_random(6, 3, 50) * 1e-20).coherence
    assert bool(((coherence >= 0) & (coherence <= 1)).all())


def test_ablation_score_asks_for_activity_on_x_and_for_a_response() -> None:
    # F falls. Neurons: active on X and responding; firing on X~ only; active but not responding; pushing the wrong way
    importance_mean = torch.tensor([[-2.0, -3.0, 0.0, 1.0]])
    direct_mean = torch.tensor([[1.5, 0.0, 4.0, -1.0]])  # c * a(X)
    assert ablation_score(importance_mean, direct_mean, -1).tolist() == [[1.5, 0.0, 0.0, -1.0]]


def test_ablation_score_is_mirrored_where_the_perturbation_raises_the_difference() -> None:
    importance_mean, direct_mean = _random(2, 5), _random(2, 5)
    lowering = ablation_score(importance_mean, direct_mean, -1)
    assert torch.equal(ablation_score(-importance_mean, -direct_mean, 1), lowering)


@pytest.mark.parametrize(("delta", "sign"), [([-2.0, 1.0], -1), ([2.0, -1.0], 1), ([1.0, -1.0], 1)])
def test_the_sign_of_the_mean_change_decides_which_way_counts(delta: list[float], sign: int) -> None:
    assert scores.lowering_or_raising(torch.tensor(delta)) == sign


def test_ties_break_by_layer_then_neuron() -> None:
    key = torch.zeros(40, 60)
    key[30, 7] = key[2, 50] = key[2, 9] = 1.0
    order = rank_neurons(key)
    assert order[:5].tolist() == [[2, 9], [2, 50], [30, 7], [0, 0], [0, 1]]
    assert order.shape == (2400, 2)
    assert rank_neurons(key, k=2).tolist() == [[2, 9], [2, 50]]


def test_layer_mass_and_topk_share_are_shares_of_summed_magnitude() -> None:
    mean = torch.tensor([[1.0, -2.0], [3.0, 0.0], [-4.0, 0.0]])
    assert layer_mass(mean).tolist() == pytest.approx([0.3, 0.3, 0.4])
    assert topk_share(mean, (1, 2, 100)) == pytest.approx({1: 0.4, 2: 0.7, 100: 1.0})


def test_nothing_moves_gives_zero_shares() -> None:
    assert layer_mass(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    assert topk_share(torch.zeros(2, 3), (1,)) == {1: 0.0}


def test_sign_flips_give_the_largest_mean_of_each_draw() -> None:
    importance = _random(5, 2, 7)
    signs = torch.tensor([[1.0, 1, 1, 1, 1], [1, -1, 1, -1, -1]])
    found = sign_flip_maxima(importance, signs)
    assert float(found[0]) == pytest.approx(float(importance.mean(0).abs().max()))
    flipped = (signs[1][:, None, None] * importance).mean(0)
    assert float(found[1]) == pytest.approx(float(flipped.abs().max()))


def test_a_ratio_over_almost_nothing_is_undefined() -> None:
    part, skip = torch.tensor([2.0, 2.0, 0.0, -3.0]), torch.tensor([-4.0, 1e-6, 0.0, 0.5])
    found = signal_ratio(part, skip, torch.full((4,), 1e-3))
    assert found[0] == 0.5
    assert found[3] == 6.0
    assert found.isnan().tolist() == [False, True, True, False]
    assert signal_ratio(part[2:3], skip[2:3], torch.zeros(1)).isnan().all()


def test_logit_difference_is_between_means_of_the_two_sets() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 1.0, 0.0, 3.0]])
    assert logit_diff(logits, [(3, 1), (0,)], [(0, 2), (3,)]).tolist() == [2.5, -3.0]


def test_the_soft_cap_remainder_is_what_the_cap_takes_away() -> None:
    raw = _random(3, 20) * 20
    capped = 30.0 * torch.tanh(raw / 30.0)
    sets = [(0, 1), (2,), (3,)], [(4,), (5, 6), (7,)]
    remainder = soft_cap_remainder(capped, *sets, 30.0)
    assert remainder.abs().max() > 0.1
    assert torch.allclose(logit_diff(raw, *sets) + remainder, logit_diff(capped, *sets), atol=1e-3)
