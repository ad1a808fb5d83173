"""Collateral: losses of neutral text are the model's own, edits reach every position, padding counts nothing."""

import numpy as np
import pytest
import torch

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.collateral import circuit_effects, text_losses
from pprobe_core.interventions.edits import Edits, Neuron, Patch, Scale, ScaleOutput
from pprobe_core.interventions.evaluator import Evaluator
from tests.intervention_models import D_MLP, loaded_tiny, random_prompts

TEXTS = [p.input_ids for p in random_prompts((5, 9, 14), seed=3)]


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_the_loss_of_a_text_is_the_models_own(family: str) -> None:
    evaluator = Evaluator(loaded_tiny(family), random_prompts((7,)))
    (found,) = text_losses(evaluator, TEXTS, [()], seed=0)
    own = []
    for text in TEXTS:
        ids = torch.tensor([text])
        own.append(float(evaluator.loaded.model(input_ids=ids, labels=ids).loss))
    assert found.loss_mean == pytest.approx(np.mean(own), abs=1e-4)
    assert found.delta_mean == 0
    assert (found.n_texts, found.n_tokens) == (3, 4 + 8 + 13)
    assert evaluator.passes.full == 6


def test_a_decision_edit_acts_on_every_position_of_a_text() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    rows: list[Edits] = [
        (ScaleOutput((1,), "ffn"),),
        (ScaleOutput((1,), "ffn", 0.0, "all"),),
        (Scale((Neuron(0, 1),), 1.0),),
    ]
    one, two, nothing = text_losses(evaluator, TEXTS, rows, seed=0)
    assert one == two
    assert abs(one.delta_mean or 0.0) > 1e-3
    assert nothing.delta_mean == pytest.approx(0.0, abs=1e-6)


def test_an_edit_that_breaks_the_model_has_no_loss() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    wreck: Edits = (Scale(tuple(Neuron(0, n) for n in range(D_MLP)), 3e38),)
    (found,) = text_losses(evaluator, TEXTS, [wreck], seed=0)
    assert found.loss_mean is None
    assert found.delta_mean is None


def test_texts_with_nothing_to_predict_and_patches_are_refused() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    with pytest.raises(BadRequest, match="neutral text"):
        text_losses(evaluator, [(5,)], [()], seed=0)
    with pytest.raises(BadRequest, match="belong to their prompts"):
        text_losses(evaluator, TEXTS, [(Patch((Neuron(0, 0),)),)], seed=0)


def test_other_circuits_are_measured_on_their_own_prompts() -> None:
    loaded = loaded_tiny("qwen3")
    others = {name: Evaluator(loaded, random_prompts((6, 8), seed=k)) for k, name in enumerate(("math", "code"))}
    edits: Edits = (ScaleOutput((1,), "ffn"),)
    found = {effect.circuit: effect for effect in circuit_effects(others, edits, seed=0)}
    assert set(found) == {"math", "code"}
    for name, effect in found.items():
        (alone,) = Evaluator(loaded, others[name].prompts).evaluate([edits])
        assert effect.delta_mean == pytest.approx(float(alone.delta.mean()), abs=1e-5)
        assert effect.baseline_mean == pytest.approx(float(others[name].baseline().mean()))
