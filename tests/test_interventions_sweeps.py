"""Sweeps: stable ids, resumable, cancellable, recomputable from what a point says, and broken points reported."""

import json
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pprobe_core.circuits.library import load_circuit
from pprobe_core.errors import BadRequest, Cancelled
from pprobe_core.interventions.directions import find_directions
from pprobe_core.interventions.edits import Edits, Head, ModelShape, Neuron, Scale, parse_neurons
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.generation import GenerationSettings
from pprobe_core.interventions.heads import find_heads, read_heads, score_heads
from pprobe_core.interventions.measured import (
    measure_neurons,
    measured_ranking,
    ranked_neurons,
    shortlist,
    zeroing_effect,
)
from pprobe_core.interventions.plans import (
    Planned,
    dose_plan,
    factor_plan,
    heads_plan,
    held_plan,
    layers_plan,
    patch_plan,
    strength_plan,
    threshold_doses,
    window_plan,
)
from pprobe_core.interventions.sweeps import baselines, run_sweep, sweep_responses
from pprobe_core.interventions.types import BASELINE_KEY, SweepPoint
from tests.intervention_models import D_MLP, LAYERS, loaded_tiny, random_prompts

SHAPE = ModelShape(LAYERS, D_MLP, 32, 4)
RANKED = tuple(Neuron(n % LAYERS, n) for n in range(30))


def evaluator(condition: str = "original", **change: object) -> Evaluator:
    return Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9, 9, 12, 12, 8)), condition, **change)  # type: ignore[arg-type]


def every_plan(e: Evaluator) -> tuple[Planned, ...]:
    d_F, means = (find_directions(e, kind) for kind in ("d_F", "difference_of_means"))  # type: ignore[arg-type]
    return (
        *dose_plan(RANKED, SHAPE, 0, doses=(0, 1, 5), n_draws=2),
        *factor_plan(RANKED[:4], SHAPE, 0, factors=(-2.0, 1.0), n_draws=2),
        *window_plan(d_F, 0, strengths=(0.5, -1.0), n_draws=2),
        *window_plan(means, 0, strengths=(3.0,), relative=False, n_draws=2),
        *strength_plan(means, 0, layers=(0, 1), strengths=(0.5,), n_draws=2),
        *layers_plan(LAYERS),
        *patch_plan("original", RANKED, SHAPE, 0, doses=(1, 5), n_draws=2),
        *held_plan(LAYERS),
        *heads_plan((Head(0, 1), Head(2, 3)), SHAPE, 0, doses=(1, 2), n_draws=2),
    )


def close(one: SweepPoint, two: SweepPoint) -> bool:
    """The same point up to what batches of another size round differently."""
    same = replace(one, logit_diffs=(), deltas=(), **dict.fromkeys(FLOATS)) == replace(
        two, logit_diffs=(), deltas=(), **dict.fromkeys(FLOATS)
    )
    return same and np.allclose(np.array(one.deltas, float), np.array(two.deltas, float), atol=1e-4)


FLOATS = ("logit_diff_mean", "low", "high", "delta_mean", "delta_low", "delta_high")


def test_every_kind_of_sweep_gives_every_planned_point_on_every_split_once() -> None:
    e = evaluator()
    plan = every_plan(e)
    points = list(run_sweep(e, plan, seed=0))
    assert len(points) == 2 * len(plan)
    assert len({p.point_id for p in points}) == len(points)
    assert {p.split for p in points} == {"discovery", "heldout"}
    assert not any(p.broken for p in points)
    for point in points:
        assert point.n_prompts == len(point.logit_diffs) == (4 if point.split == "discovery" else 2)
        assert point.low is not None
        assert point.high is not None
        assert point.logit_diff_mean is not None
        assert point.low <= point.logit_diff_mean <= point.high
        assert point.logit_diff_mean == pytest.approx(np.mean([v for v in point.logit_diffs if v is not None]))
    json.dumps([p.as_json() for p in points], allow_nan=False)


def test_plans_and_points_do_not_depend_on_when_they_are_made() -> None:
    first, second = evaluator(), evaluator()
    assert every_plan(first) == every_plan(second)
    plan = dose_plan(RANKED, SHAPE, 3, doses=(1, 5))
    assert list(run_sweep(first, plan, seed=0)) == list(run_sweep(second, plan, seed=0))


def test_a_resumed_sweep_measures_only_what_is_missing_and_agrees() -> None:
    plan = every_plan(evaluator())
    points = list(run_sweep(evaluator(), plan, seed=0))
    have = {p.point_id for p in points[:30]} | {points[40].point_id}
    e = evaluator()
    e.baseline()
    before = e.passes.last_token
    rest = list(run_sweep(e, plan, seed=0, skip=have))
    assert [p.point_id for p in rest] == [p.point_id for p in points if p.point_id not in have]
    expected = {p.point_id: p for p in points}
    assert all(close(p, expected[p.point_id]) for p in rest)
    assert list(run_sweep(e, plan, seed=0, skip={p.point_id for p in points})) == []
    assert e.passes.last_token - before < len(plan) * 6 + 200


def test_a_point_can_be_recomputed_from_what_it_says() -> None:
    plan = dose_plan(RANKED, SHAPE, 0, doses=(5,), factor=0.0)
    for point in run_sweep(evaluator(), plan, seed=0):
        neurons = parse_neurons(", ".join(point.neurons))
        (again,) = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9, 9, 12, 12, 8)), method="full").evaluate(
            [(Scale(neurons, 0.0),)]
        )
        rows = [i for i, p in enumerate(evaluator().prompts) if p.split == point.split]
        assert np.allclose(np.array(point.logit_diffs, float), again.logit_diff[rows], atol=1e-4)


def test_dose_zero_and_factor_one_are_the_baseline() -> None:
    e = evaluator()
    zero = list(run_sweep(e, dose_plan(RANKED, SHAPE, 0, doses=(0,)), seed=0))
    assert all(p.delta_mean == 0 for p in zero)
    base = {b.split: b for b in baselines(e, seed=0)}
    assert all(p.logit_diff_mean == base[p.split].logit_diff_mean for p in zero)
    one = list(run_sweep(e, factor_plan(RANKED, SHAPE, 0, factors=(1.0,)), seed=0))
    assert all(abs(p.delta_mean or 0.0) < 1e-5 for p in one)


def test_ranked_points_and_their_draws_share_a_group_and_nothing_else_does() -> None:
    plan = dose_plan(RANKED, SHAPE, 0, doses=(1, 5), n_draws=5)
    groups = [p.group for p in plan]
    assert sorted({groups.count(g) for g in groups}) == [6]
    assert len(set(groups)) == 2
    assert len({p.key for p in plan}) == 12


def test_doses_of_one_ranking_are_nested() -> None:
    plan = [p for p in dose_plan(RANKED, SHAPE, 0, doses=(1, 5, 20)) if p.arm == "random" and p.draw == 3]
    assert plan[0].neurons == plan[1].neurons[:1]
    assert plan[1].neurons == plan[2].neurons[:5]


def test_patching_every_neuron_restores_what_restoring_undoes() -> None:
    """Patch per dose runs on the original prompts, restore on the perturbed ones; each refuses the other's place."""
    original = patch_plan("original", RANKED, SHAPE, 0, doses=(5,), n_draws=1)
    perturbed = patch_plan("perturbed", RANKED, SHAPE, 0, doses=(5,), n_draws=1)
    assert {p.variant for p in original} == {"patch", "patch ffn", "patch attention", "patch residual"}
    assert {p.variant for p in perturbed} == {"restore", "restore ffn", "restore attention", "restore residual"}
    assert len(list(run_sweep(evaluator("perturbed"), perturbed, seed=0))) == 2 * len(perturbed)
    with pytest.raises(BadRequest, match="Restoring"):
        list(run_sweep(evaluator("original"), perturbed, seed=0))
    with pytest.raises(BadRequest, match="Patching"):
        list(run_sweep(evaluator("perturbed"), original, seed=0))


def test_holding_attention_and_ffn_says_which_of_them_carries_a_patched_residual_stream() -> None:
    e = evaluator()
    points = {(p.layer, p.variant, p.split): p for p in run_sweep(e, held_plan(LAYERS), seed=0)}
    last = points[LAYERS - 1, "free", "discovery"]
    discovery = [i for i, p in enumerate(e.prompts) if p.split == "discovery"]
    # After the last layer nothing is left to answer: F is that of the other prompt.
    assert np.allclose(np.array(last.logit_diffs, float), e.other_baseline()[discovery], atol=1e-4)
    free, attention, ffn = (points[0, v, "discovery"].delta_mean for v in ("free", "attention held", "ffn held"))
    assert len({free, attention, ffn}) == 3


def test_cancelling_in_the_middle_keeps_the_points_before() -> None:
    stop = threading.Event()
    plan = dose_plan(RANKED, SHAPE, 0, doses=(1, 2, 5, 10, 20))
    sweep = run_sweep(evaluator(cancelled=stop, max_rows=12), plan, seed=0)
    got = [next(sweep), next(sweep)]
    stop.set()
    with pytest.raises(Cancelled):
        got += list(sweep)
    resumed = list(run_sweep(evaluator(), plan, seed=0, skip={p.point_id for p in got}))
    assert len(got) + len(resumed) == 2 * len(plan)


def test_a_broken_point_says_so_and_the_sweep_goes_on() -> None:
    every = tuple(Neuron(0, n) for n in range(D_MLP))
    plan = factor_plan(every, SHAPE, 0, factors=(3e38, 0.0), n_draws=1)
    points = list(run_sweep(evaluator(), plan, seed=0))
    broken = [p for p in points if p.factor == 3e38 and p.arm == "ranked"]
    assert all(p.broken and p.logit_diff_mean is None and p.delta_low is None for p in broken)
    assert all(not p.broken for p in points if p.factor == 0.0)
    json.dumps([p.as_json() for p in points], allow_nan=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dose_plan(RANKED, SHAPE, 0, doses=(31,)), "31 were asked for and the ranking has 30"),
        (lambda: dose_plan(RANKED, SHAPE, 0, doses=()), "No number of neurons"),
        (lambda: dose_plan(RANKED, SHAPE, 0, doses=(-1,)), "-1 neurons"),
        (lambda: dose_plan((*RANKED, RANKED[0]), SHAPE, 0, doses=(1,)), "named twice"),
        (lambda: dose_plan((Neuron(9, 0),), SHAPE, 0, doses=(1,)), "no layer 9"),
        (lambda: factor_plan(RANKED, SHAPE, 0, factors=(float("inf"),)), "finite"),
        (lambda: factor_plan((), SHAPE, 0), "No neuron"),
        (lambda: layers_plan(LAYERS, factor=float("nan")), "finite"),
        (lambda: heads_plan((Head(0, 0),), SHAPE, 0, doses=(2,)), "ranking has 1"),
    ],
)
def test_plans_that_cannot_be_met_are_refused_before_anything_runs(make: object, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        make()  # type: ignore[operator]


def test_injections_after_layers_that_do_not_exist_or_of_infinite_strength_are_refused() -> None:
    directions = find_directions(evaluator(), "d_F")
    with pytest.raises(BadRequest, match="no layer 3"):
        window_plan(directions, 0, layers=(3,))
    with pytest.raises(BadRequest, match="finite"):
        window_plan(directions, 0, strengths=(float("inf"),))
    with pytest.raises(BadRequest, match="No layer"):
        strength_plan(directions, 0, layers=())


def test_threshold_doses_are_shares_of_all_neurons() -> None:
    assert threshold_doses(ModelShape(36, 9728, 2560)) == (18, 35, 70, 175, 350)  # 0.005 % to 0.1 % of 350,208
    assert threshold_doses(SHAPE) == (1,)


def test_answers_are_classified_counted_and_resumable() -> None:
    circuit = load_circuit("safety_refusal")
    e = evaluator()
    plan = dose_plan(RANKED, SHAPE, 0, doses=(5,), n_draws=1)
    settings = GenerationSettings(max_new_tokens=4)
    answers = list(sweep_responses(e, plan, circuit, settings))
    assert len(answers) == 3 * 6
    assert [a.key for a in answers[:6]] == [BASELINE_KEY] * 6
    names = {c.name for c in circuit.response_classes} | {"broken", "unfinished"}
    assert {a.class_name for a in answers} <= names
    have = {(a.key, a.pair_id) for a in answers[:8]}
    rest = list(sweep_responses(e, plan, circuit, settings, skip=have))
    assert {(a.key, a.pair_id, a.text) for a in rest} == {(a.key, a.pair_id, a.text) for a in answers[8:]}


def test_a_model_wrecked_to_no_numbers_counts_as_broken_and_never_as_compliant() -> None:
    wreck: Edits = (Scale(tuple(Neuron(0, n) for n in range(D_MLP)), 3e38, "all"),)
    planned = Planned("factor", "neurons", "ranked", wreck, factor=3e38)
    answers = list(sweep_responses(evaluator(), [planned], load_circuit("safety_refusal"), GenerationSettings(4)))
    assert {a.class_name for a in answers if a.key == planned.key} == {"broken"}


# Rankings ----------------------------------------------------------------------------------------------------------


def scores() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    n = LAYERS * D_MLP
    return pd.DataFrame(
        {
            "layer": np.repeat(np.arange(LAYERS), D_MLP),
            "neuron": np.tile(np.arange(D_MLP), LAYERS),
            "importance_mean": generator.normal(size=n).round(1),
            "importance_rms": generator.random(n),
            "zeroing_effect": generator.normal(size=n),
            "ablation_score": generator.normal(size=n),
        }
    )


def test_rankings_sort_by_their_key_and_break_ties_by_layer_then_neuron() -> None:
    frame = scores()
    by_place = frame.set_index(["layer", "neuron"])
    for ranking, column in (("magnitude", "importance_rms"), ("ablation", "ablation_score")):
        values = [by_place.loc[tuple(n), column] for n in ranked_neurons(frame, ranking)]  # type: ignore[arg-type]
        assert values == sorted(values, reverse=True)
    order = ranked_neurons(frame.sample(frac=1, random_state=1), "shared")
    assert sorted(order) == [Neuron(layer, n) for layer in range(LAYERS) for n in range(D_MLP)]
    keys = [(-abs(by_place.loc[tuple(n), "importance_mean"]), *n) for n in order]
    assert keys == sorted(keys)
    positive, negative = (ranked_neurons(frame, "shared", side) for side in ("positive", "negative"))  # type: ignore[arg-type]
    assert not set(positive) & set(negative)
    assert all(by_place.loc[tuple(n), "importance_mean"] > 0 for n in positive)
    with pytest.raises(BadRequest, match="no ranking"):
        ranked_neurons(frame, "best")


def test_the_shortlist_holds_the_first_by_both_scores() -> None:
    frame = scores()
    chosen = shortlist(frame, 10)
    assert set(ranked_neurons(frame, "shared")[:10]) <= set(chosen)
    by_zeroing = frame.reindex(frame["zeroing_effect"].abs().sort_values(ascending=False).index)[:10]
    assert {Neuron(int(r.layer), int(r.neuron)) for r in by_zeroing.itertuples()} <= set(chosen)
    assert 10 <= len(chosen) <= 20
    with pytest.raises(BadRequest):
        shortlist(frame, 0)


def test_on_the_perturbed_prompts_zeroing_scores_are_those_of_the_exchanged_pair() -> None:
    """A table made from the pair the other way round must give what the mirrored score reads off the first one."""
    generator = np.random.default_rng(1)
    coupling, before, after = generator.normal(size=(3, LAYERS * D_MLP))
    place = {"layer": np.repeat(np.arange(LAYERS), D_MLP), "neuron": np.tile(np.arange(D_MLP), LAYERS)}

    def table(own: np.ndarray, other: np.ndarray, sign: int) -> pd.DataFrame:
        importance, zeroing = coupling * (other - own), -coupling * own
        score = np.minimum(sign * importance, sign * zeroing)
        return pd.DataFrame(place | {"importance_mean": importance, "zeroing_effect": zeroing, "ablation_score": score})

    for sign in (1, -1):
        here, there = table(before, after, sign), table(after, before, -sign)
        assert np.allclose(zeroing_effect(here, "perturbed"), there["zeroing_effect"])
        assert ranked_neurons(here, "ablation", condition="perturbed") == ranked_neurons(there, "ablation")
        assert set(shortlist(here, 5, condition="perturbed")) == set(shortlist(there, 5))


def test_measured_effects_are_those_of_full_forwards_one_neuron_at_a_time() -> None:
    e = evaluator()
    neurons = (Neuron(2, 1), Neuron(0, 5), Neuron(1, 7))
    (block,) = measure_neurons(e, neurons)
    assert block.neurons == tuple(sorted(neurons))
    assert (block.n_done, block.n_total) == (3, 3)
    full = evaluator(method="full")
    for neuron, effect in zip(block.neurons, block.effects, strict=True):
        (one,) = full.evaluate([(Scale((neuron,)),)])
        assert effect == pytest.approx(one.delta.mean(), abs=1e-4)
    effects = dict(zip(block.neurons, block.effects, strict=True))
    lowering = measured_ranking(effects, sign=-1)
    assert [effects[n] for n in lowering] == sorted(effects.values())  # type: ignore[type-var]
    assert measured_ranking(effects, sign=1) == lowering[::-1]


def test_measuring_reports_progress_and_resumes() -> None:
    e = evaluator()
    every = tuple(Neuron(layer, n) for layer in range(LAYERS) for n in range(D_MLP)) * 2
    first = next(iter(measure_neurons(e, every[: LAYERS * D_MLP])))
    assert first.n_done == first.n_total == LAYERS * D_MLP
    rest = list(measure_neurons(evaluator(), every, skip=first.neurons[:100]))
    assert rest[-1].n_done == LAYERS * D_MLP
    assert sum(len(b.neurons) for b in rest) == LAYERS * D_MLP - 100
    assert rest[-1].n_last_token_passes > 0


# Heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "llama_bias", "gpt2", "gpt_neox"])
def test_what_the_heads_write_is_the_attention_output(family: str) -> None:
    loaded = loaded_tiny(family)
    prompts = random_prompts((7, 12))
    heads = find_heads(loaded)
    assert heads is not None
    with torch.inference_mode():
        read = read_heads(loaded, heads, [p.input_ids for p in prompts])
    values = Evaluator(loaded, prompts).values("own")
    for layer, block in enumerate(loaded.structure.blocks):
        bias = getattr(heads.modules[layer], "bias", None)
        written = torch.einsum("phd,hdm->pm", read[:, layer], heads.W_O(layer)) + (0 if bias is None else bias)
        assert torch.allclose(written * block.attention_scale, values.attention[:, layer], atol=1e-4)


def test_head_scores_sum_to_the_direct_effect_of_attention() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 12, 9))
    e = Evaluator(loaded, prompts)
    assert e.heads is not None
    observables = [(p.target_ids, p.control_ids) for p in prompts]
    own, other = [p.input_ids for p in prompts], [p.other_ids for p in prompts]
    found = score_heads(loaded, e.heads, own, other, observables, sign=-1)
    change = e.values("other").attention - e.values("own").attention
    d_F = torch.stack(
        [loaded.structure.unembed_rows(t).mean(0) - loaded.structure.unembed_rows(c).mean(0) for t, c in observables]
    )
    expected = torch.einsum("plm,pm->pl", change, d_F).mean(0)
    assert torch.allclose(found.importance_mean.sum(-1), expected, atol=1e-4)
    assert len(found.ranked("shared")) == LAYERS * 4
    assert set(found.ranked("ablation")) == set(found.ranked("shared"))
