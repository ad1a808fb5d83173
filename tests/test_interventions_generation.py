"""Answers of the edited model: equal to the library's own decoding, seeded, batched as alone, nothing left behind."""

import threading
from dataclasses import replace

import pytest
import torch

from pprobe_core.errors import BadRequest, Cancelled
from pprobe_core.interventions import generation
from pprobe_core.interventions.edits import AddVector, Edits, Neuron, Patch, PatchOutput, Scale, ScaleOutput
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.generation import GenerationSettings, Response, Token, respond, stream
from tests.intervention_models import HIDDEN, LAYERS, loaded_tiny, n_hooks, random_prompts

GREEDY = GenerationSettings(max_new_tokens=8)
VECTOR = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(5))
ALL_NEURONS: Edits = (Scale(tuple(Neuron(1, n) for n in range(56)), 0.0, "all"),)


def texts(evaluator: Evaluator, rows: list[Edits], settings: GenerationSettings = GREEDY) -> dict[tuple[int, int], str]:
    return {(r.prompt, r.edit): r.text for r in respond(evaluator, rows, settings)}


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "gpt2"])
def test_unedited_greedy_answers_are_the_librarys_own(family: str) -> None:
    loaded = loaded_tiny(family)
    evaluator = Evaluator(loaded, random_prompts((7, 12, 20)))
    found = {r.prompt: r for r in respond(evaluator, [()], GREEDY)}
    for i, prompt in enumerate(evaluator.prompts):
        ids = torch.tensor([prompt.input_ids])
        expected = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, eos_token_id=2, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        ends = [k for k, token in enumerate(expected) if token == 2]
        assert list(found[i].token_ids) == expected[: ends[0] if ends else None]
        assert found[i].finish == ("stop" if ends else "limit")


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_an_edit_at_all_positions_equals_edited_weights_during_generation(family: str) -> None:
    loaded = loaded_tiny(family)
    evaluator = Evaluator(loaded, random_prompts((7, 12)))
    hooked = texts(evaluator, [ALL_NEURONS])
    weight = loaded.structure.blocks[1].weight
    saved = weight.clone()
    try:
        weight.zero_()
        assert texts(evaluator, [()]) == hooked
    finally:
        weight.copy_(saved)
    assert texts(evaluator, [()]) != hooked


def test_a_decision_edit_acts_on_the_prompt_and_not_on_generated_tokens() -> None:
    """The first token is chosen under the edit; what follows is what the unedited model says after the edited cache."""
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    push: Edits = (AddVector.along(1, VECTOR, 200.0),)
    always: Edits = (AddVector.along(1, VECTOR, 200.0, position="all"),)
    found = {r.edit: r.token_ids for r in respond(evaluator, [(), push, always], GREEDY)}
    assert found[1][0] != found[0][0]
    assert found[1] != found[2]


def test_batched_answers_equal_those_of_one_prompt_and_edit_alone() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 9, 12))
    rows: list[Edits] = [
        (),
        ALL_NEURONS,
        (Patch((Neuron(2, 4), Neuron(1, 3))),),
        (PatchOutput((LAYERS - 1,), "residual"),),
        (AddVector.along(0, VECTOR, 3.0, relative=True),),
        (ScaleOutput((0,), "attention"),),
    ]
    together = texts(Evaluator(loaded, prompts), rows)
    assert len(together) == 18
    for i in range(3):
        for e, row in enumerate(rows):
            assert texts(Evaluator(loaded, prompts[i : i + 1]), [row])[0, 0] == together[i, e]


def test_patching_the_last_residual_stream_makes_the_first_token_that_of_the_other_prompt() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 12))
    swapped = tuple(replace(p, input_ids=p.other_ids, other_ids=p.input_ids) for p in prompts)
    one = GenerationSettings(max_new_tokens=1)
    patched = texts(Evaluator(loaded, prompts), [(PatchOutput((LAYERS - 1,), "residual"),)], one)
    assert patched == texts(Evaluator(loaded, swapped), [()], one)


def test_samples_depend_on_seed_and_pair_alone() -> None:
    loaded, prompts = loaded_tiny("qwen3"), random_prompts((7, 12, 12))
    warm = GenerationSettings(max_new_tokens=8, temperature=1.5, seed=1)
    found = texts(Evaluator(loaded, prompts), [(), (Scale((Neuron(0, 1),), 1.0),)], warm)
    assert found == texts(Evaluator(loaded, prompts), [(), ()], warm)
    assert found[1, 0] == texts(Evaluator(loaded, prompts[1:2]), [()], warm)[0, 0]
    assert found != texts(Evaluator(loaded, prompts), [(), ()], replace(warm, seed=2))


def test_nearly_zero_temperature_or_top_p_is_greedy() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 12)))
    greedy = texts(evaluator, [()])
    assert texts(evaluator, [()], GenerationSettings(8, temperature=1e-4)) == greedy
    assert texts(evaluator, [()], GenerationSettings(8, temperature=1.0, top_p=1e-9)) == greedy


def test_stop_tokens_end_an_answer_and_are_not_part_of_it() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    (plain,) = respond(evaluator, [()], GREEDY)
    stop = plain.token_ids[3]
    (stopped,) = respond(evaluator, [()], replace(GREEDY, stop_ids=(stop,)))
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(stop)]
    assert stopped.finish == "stop"


def test_tokens_stream_before_the_answer_and_make_it_up() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9)))
    tokens: dict[int, list[int]] = {0: [], 1: []}
    for event in stream(evaluator, [()], GREEDY):
        if isinstance(event, Token):
            tokens[event.prompt].append(event.token_id)
        else:
            assert tuple(tokens[event.prompt]) == event.token_ids
            assert event.text == evaluator.loaded.tokenizer.decode(list(event.token_ids))


def test_passes_are_counted() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9)))
    answers = list(respond(evaluator, [(), ALL_NEURONS], GREEDY))
    assert evaluator.passes.full == 4
    steps = sum(len(a.token_ids) + (a.finish == "stop") - 1 for a in answers)
    assert evaluator.passes.last_token == steps


def test_no_hook_is_on_the_model_while_the_caller_holds_the_turn_or_after_closing_early() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9)))
    hooks = n_hooks(evaluator.loaded.model)
    events = stream(evaluator, [ALL_NEURONS], GREEDY)
    for _ in range(3):
        next(events)
        assert n_hooks(evaluator.loaded.model) == hooks
    events.close()
    assert n_hooks(evaluator.loaded.model) == hooks


def test_cancelling_stops_between_tokens() -> None:
    stop = threading.Event()
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9)), cancelled=stop)
    events = stream(evaluator, [()], GREEDY)
    next(events)
    next(events)
    stop.set()
    with pytest.raises(Cancelled):
        list(events)


def test_a_broken_model_ends_its_answer_as_broken_and_the_others_go_on() -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7,)))
    overflow: Edits = (Scale(tuple(Neuron(0, n) for n in range(56)), 3e38, "all"),)
    found = {r.edit: r for r in respond(evaluator, [overflow, ()], GREEDY)}
    assert found[0].finish == "broken"
    assert found[0].text == ""
    assert found[1].text == texts(evaluator, [()])[0, 0]


def test_out_of_memory_makes_smaller_batches_and_loses_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9, 12)))
    rows: list[Edits] = [(), ALL_NEURONS]
    expected = texts(evaluator, rows)
    forward = Evaluator._forward

    def with_little_memory(self: Evaluator, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(ids) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return forward(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "_forward", with_little_memory)
    answers = [e for e in stream(evaluator, rows, GREEDY) if isinstance(e, Response)]
    assert {(r.prompt, r.edit): r.text for r in answers} == expected
    assert len(answers) == 6


def test_small_batches_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(loaded_tiny("qwen3"), random_prompts((7, 9, 12)))
    expected = texts(evaluator, [(), ALL_NEURONS])
    monkeypatch.setattr(generation, "MAX_BATCH_TOKENS", 1)
    assert texts(evaluator, [(), ALL_NEURONS]) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        GenerationSettings(**change)  # type: ignore[arg-type]


def test_an_answer_ends_where_the_models_context_ends() -> None:
    evaluator = Evaluator(loaded_tiny("gpt2"), random_prompts((508,)))
    (answer,) = respond(evaluator, [()], GenerationSettings(max_new_tokens=50))
    assert len(answer.token_ids) <= 4
