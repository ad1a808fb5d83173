"""Collateral: losses of neutral text are the model's own, edits reach every position, padding counts nothing."""

import numpy as np
import pytest
import torch

from pprobe_core.circuits.neutral_texts import load_neutral_texts
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.collateral import NeutralText, circuit_collateral, text_collateral
from pprobe_core.interventions.edits import Edits, ModelShape, Neuron, Patch, Scale, ScaleOutput
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.plans import Planned, dose_plan
from pprobe_core.probing.tokens import encode_chat
from tests.intervention_models import D_MLP, LAYERS, loaded_tiny, random_prompts

IDS = [p.input_ids for p in random_prompts((5, 9, 14), seed=3)]
TEXTS = [NeutralText(ids) for ids in IDS]
RANKED = tuple(Neuron(n % LAYERS, n) for n in range(6))


def planned(edits: Edits, name: str = "x") -> Planned:
    return Planned("dose", name, "ranked", edits)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_the_loss_of_a_text_is_the_models_own(family: str) -> None:
    evaluator = Evaluator(loaded_tiny(family), random_prompts((7,)))
    (found,) = text_collateral(evaluator, TEXTS, [planned(())], seed=0)
    own = []
    for text in IDS:
        ids = torch.tensor([text])
        own.append(float(evaluator.loaded.model(input_ids=ids, labels=ids).loss))
    assert found.baseline_mean == pytest.approx(np.mean(own), abs=1e-4)
    assert found.delta_mean == 0
    assert found.n == 3
    assert evaluator.passes.full == 6


def test_only_the_answer_of_a_conversation_counts() -> None:
    loaded = loaded_tiny("qwen3")
    ids, start = IDS[2], 9
    (found,) = text_collateral(
        Evaluator(loaded, random_prompts((7,))), [NeutralText(ids, start), NeutralText(IDS[0], 3)], [planned(())], 0
    )
    losses = []
    for text, first in ((ids, start), (IDS[0], 3)):
        labels = torch.tensor([text])
        labels[0, :first] = -100
        losses.append(float(loaded.model(input_ids=torch.tensor([text]), labels=labels).loss))
    assert found.baseline_mean == pytest.approx(np.mean(losses), abs=1e-4)


def test_a_decision_edit_acts_on_every_position_of_a_text() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    rows = [
        planned((ScaleOutput((1,), "ffn"),)),
        planned((ScaleOutput((1,), "ffn", 0.0, "all"),)),
        planned((Scale((Neuron(0, 1),), 1.0),)),
    ]
    one, two, nothing = text_collateral(evaluator, TEXTS, rows, seed=0)
    assert one == two
    assert abs(one.delta_mean or 0.0) > 1e-3
    assert nothing.delta_mean == pytest.approx(0.0, abs=1e-6)


def test_an_edit_that_breaks_the_model_has_no_loss() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    wreck: Edits = (Scale(tuple(Neuron(0, n) for n in range(D_MLP)), 3e38),)
    (found,) = text_collateral(evaluator, TEXTS, [planned(wreck)], seed=0)
    assert found.delta_mean is None
    assert found.low is None


def test_texts_with_nothing_to_predict_and_patches_are_refused() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    with pytest.raises(BadRequest, match="neutral text"):
        text_collateral(evaluator, [NeutralText((5,))], [planned(())], seed=0)
    with pytest.raises(BadRequest, match="belong to their prompts"):
        text_collateral(evaluator, TEXTS, [planned((Patch((Neuron(0, 0),)),))], seed=0)


def test_other_circuits_are_measured_on_their_own_prompts_beside_the_draws() -> None:
    loaded = loaded_tiny("qwen3")
    plan = dose_plan(RANKED, ModelShape(LAYERS, D_MLP, 32), 0, doses=(2, 5), n_draws=3)
    evaluator = Evaluator(loaded, random_prompts((6, 8), seed=1))
    rows = circuit_collateral("math", evaluator, plan, seed=0)
    assert [row.n_neurons for row in rows] == [2, 5]
    for row in rows:
        of_group = [p for p in plan if p.group == row.group]
        means = [
            float(found.delta.mean())
            for found in Evaluator(loaded, evaluator.prompts).evaluate([p.edits for p in of_group])
        ]
        assert row.delta_mean == pytest.approx(means[0], abs=1e-5)
        assert row.random_low == pytest.approx(min(means[1:]), abs=1e-5)
        assert row.random_high == pytest.approx(max(means[1:]), abs=1e-5)
        assert row.baseline_mean == pytest.approx(float(evaluator.baseline().mean()))


def test_the_neutral_conversations_are_there_for_both_kinds_of_prompt_sets(tiny_qwen3_folder) -> None:
    from pprobe_core.models.loading import load_model

    for name in ("mini", "general", "my own file.csv"):
        chats = load_neutral_texts(name)
        assert len(chats) >= 20
        assert all(chat[-1]["role"] == "assistant" for chat in chats)
    tokenizer = load_model(str(tiny_qwen3_folder)).tokenizer
    ids, start = encode_chat(tokenizer, load_neutral_texts("general")[0])
    answer = load_neutral_texts("general")[0][-1]["content"]
    assert tokenizer.decode(ids[start:]) == answer
