"""Models that accelerate has spread over devices: proved, read and edited as whole ones, or refused in plain words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import cpu_offload, disk_offload, dispatch_model

from pprobe_core.errors import ModelUnavailable
from pprobe_core.interventions.edits import Edits, ScaleOutput
from pprobe_core.interventions.evaluator import Evaluator
from pprobe_core.interventions.generation import GenerationSettings, respond
from pprobe_core.models.structure import discover
from tests.intervention_models import loaded_tiny, random_prompts, some_edits
from tests.tiny_models import random_model, tiny_config, tiny_model, tiny_tokenizer

PROMPTS = random_prompts((5, 11, 9))


def logit_diffs(evaluator: Evaluator, rows: list[Edits]) -> np.ndarray:
    return np.stack([one.logit_diff for one in evaluator.evaluate(rows)])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom", "qwen3_5_text"])
def test_a_model_spread_by_accelerate_is_proved_read_and_edited_as_a_whole_one(family: str) -> None:
    """accelerate wraps every module's forward, to move what it is given to the module's device."""
    whole = Evaluator(loaded_tiny(family), PROMPTS)
    spread_out = dispatch_model(random_model(tiny_config(family)), {"": "cpu"}, force_hooks=True)
    assert hasattr(spread_out, "_hf_hook")
    spread_out.config._attn_implementation = whole.loaded.model.config._attn_implementation
    structure = discover(spread_out.requires_grad_(False), tiny_tokenizer())
    loaded = replace(whole.loaded, model=spread_out, structure=structure)
    evaluator = Evaluator(loaded, PROMPTS)
    rows = some_edits()
    assert np.abs(logit_diffs(evaluator, rows) - logit_diffs(whole, rows)).max() < 1e-4
    edits: list[Edits] = [(), (ScaleOutput((1,), "ffn", 0.0, "all"),)]
    settings = GenerationSettings(max_new_tokens=4)
    answers = [{(r.prompt, r.edit): r.token_ids for r in respond(e, edits, settings)} for e in (evaluator, whole)]
    assert answers[0] == answers[1]


def test_layers_that_are_fetched_for_each_pass_are_refused(tmp_path: Path) -> None:
    """Such weights lie elsewhere between passes, so they can be neither read nor edited."""
    model, tokenizer = tiny_model("llama")
    cpu_offload(model, "cpu")
    with pytest.raises(ModelUnavailable, match="does not fit in memory"):
        discover(model, tokenizer)
    model, tokenizer = tiny_model("llama")
    disk_offload(model, str(tmp_path), "cpu")
    with pytest.raises(ModelUnavailable, match="does not fit in memory"):
        discover(model, tokenizer)
