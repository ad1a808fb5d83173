"""The catalogue: facts that fit together, marks that say what the tests cover, and no fact that is typed twice."""

import subprocess
import sys

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from pprobe_core import settings
from pprobe_core.models import known
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.known import KnownModel, checked_families, known_model, known_models
from tests.tiny_models import FAMILIES, MORE_FAMILIES, WRAPPERS

MODELS = list(known_models().values())


def test_there_are_about_thirty_models_and_the_papers_families_come_first() -> None:
    assert 28 <= len(MODELS) <= 45
    assert MODELS[0].family == "qwen2"
    first = list(dict.fromkeys(m.family for m in MODELS))[:6]
    assert first == ["qwen2", "qwen3", "qwen3_5", "llama", "gemma2", "gemma3_text"]
    assert {"mistral", "phi3", "olmo2", "granite", "smollm3", "exaone4", "glm4", "cohere"} <= {m.family for m in MODELS}
    assert len({m.id for m in MODELS}) == len(MODELS)


def test_the_marks_are_what_the_tests_cover() -> None:
    covered = {model_type for model_type, *_ in (FAMILIES | MORE_FAMILIES | WRAPPERS).values()}
    assert checked_families() == covered, "write these families into catalogue.yaml, under structure_checked"
    for model in MODELS:
        assert model.structure_checked == (model.family in covered), model.id


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.id)
def test_the_facts_of_a_model_fit_together(model: KnownModel) -> None:
    assert find_model(model.id).on_hub
    assert model.bf16_bytes == 2 * model.parameters
    assert 1 < model.d_mlp / model.d_model < 8
    if model.base_id is not None:
        assert find_model(model.base_id).on_hub
        assert model.base_id != model.id
        assert model.base_id not in known_models(), "base models answer no chats and are not offered"


_LINEAR = {"head_dim": 256, "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
# Configurations as far as they decide the number of parameters; the rest is each family's default.
_SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": {"heads": 14, "kv": 2, "vocab": 151936, "tied": True},
    "Qwen/Qwen2.5-1.5B-Instruct": {"heads": 12, "kv": 2, "vocab": 151936, "tied": True},
    "Qwen/Qwen2.5-3B-Instruct": {"heads": 16, "kv": 2, "vocab": 151936, "tied": True},
    "Qwen/Qwen2.5-7B-Instruct": {"heads": 28, "kv": 4, "vocab": 152064, "tied": False},
    "Qwen/Qwen3-0.6B": {"heads": 16, "kv": 8, "vocab": 151936, "tied": True, "head_dim": 128},
    "Qwen/Qwen3-1.7B": {"heads": 16, "kv": 8, "vocab": 151936, "tied": True, "head_dim": 128},
    "Qwen/Qwen3-4B": {"heads": 32, "kv": 8, "vocab": 151936, "tied": True, "head_dim": 128},
    "Qwen/Qwen3-8B": {"heads": 32, "kv": 8, "vocab": 151936, "tied": False, "head_dim": 128},
    "Qwen/Qwen3.5-0.8B": {"heads": 8, "kv": 2, "vocab": 248320, "tied": True, "linear_num_value_heads": 16} | _LINEAR,
    "Qwen/Qwen3.5-2B": {"heads": 8, "kv": 2, "vocab": 248320, "tied": True, "linear_num_value_heads": 16} | _LINEAR,
    "Qwen/Qwen3.5-4B": {"heads": 16, "kv": 4, "vocab": 248320, "tied": True, "linear_num_value_heads": 32} | _LINEAR,
    "Qwen/Qwen3.5-9B": {"heads": 16, "kv": 4, "vocab": 248320, "tied": False, "linear_num_value_heads": 32} | _LINEAR,
    "meta-llama/Llama-3.2-1B-Instruct": {"heads": 32, "kv": 8, "vocab": 128256, "tied": True, "head_dim": 64},
    "meta-llama/Llama-3.2-3B-Instruct": {"heads": 24, "kv": 8, "vocab": 128256, "tied": True, "head_dim": 128},
    "meta-llama/Llama-3.1-8B-Instruct": {"heads": 32, "kv": 8, "vocab": 128256, "tied": False},
    "google/gemma-2-2b-it": {"heads": 8, "kv": 4, "vocab": 256000, "tied": True, "head_dim": 256},
    "google/gemma-2-9b-it": {"heads": 16, "kv": 8, "vocab": 256000, "tied": True, "head_dim": 256},
    "google/gemma-3-270m-it": {"heads": 4, "kv": 1, "vocab": 262144, "tied": True, "head_dim": 256},
    "google/gemma-3-1b-it": {"heads": 4, "kv": 1, "vocab": 262144, "tied": True, "head_dim": 256},
    "mistralai/Mistral-7B-Instruct-v0.3": {"heads": 32, "kv": 8, "vocab": 32768, "tied": False},
    "mistralai/Mistral-Nemo-Instruct-2407": {"heads": 32, "kv": 8, "vocab": 131072, "tied": False, "head_dim": 128},
    "microsoft/Phi-4-mini-instruct": {"heads": 24, "kv": 8, "vocab": 200064, "tied": True},
    "microsoft/phi-4": {"heads": 40, "kv": 10, "vocab": 100352, "tied": False},
    "allenai/OLMo-2-0425-1B-Instruct": {"heads": 16, "kv": 16, "vocab": 100352, "tied": False},
    "allenai/OLMo-2-1124-7B-Instruct": {"heads": 32, "kv": 32, "vocab": 100352, "tied": False},
    "ibm-granite/granite-3.3-2b-instruct": {"heads": 32, "kv": 8, "vocab": 49159, "tied": True},
    "ibm-granite/granite-3.3-8b-instruct": {"heads": 32, "kv": 8, "vocab": 49159, "tied": True},
    "HuggingFaceTB/SmolLM2-360M-Instruct": {"heads": 15, "kv": 5, "vocab": 49152, "tied": True},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {"heads": 32, "kv": 32, "vocab": 49152, "tied": True},
    "HuggingFaceTB/SmolLM3-3B": {"heads": 16, "kv": 4, "vocab": 128256, "tied": True},
    "tiiuae/Falcon3-1B-Instruct": {"heads": 8, "kv": 4, "vocab": 131072, "tied": False, "head_dim": 256},
    "tiiuae/Falcon3-7B-Instruct": {"heads": 12, "kv": 4, "vocab": 131072, "tied": False, "head_dim": 256},
    "01-ai/Yi-1.5-6B-Chat": {"heads": 32, "kv": 4, "vocab": 64000, "tied": False},
    "LGAI-EXAONE/EXAONE-4.0-1.2B": {"heads": 32, "kv": 8, "vocab": 102400, "tied": True},
    "zai-org/GLM-4-9B-0414": {"heads": 32, "kv": 2, "vocab": 151552, "tied": False, "head_dim": 128},
    "CohereLabs/aya-expanse-8b": {"heads": 32, "kv": 8, "vocab": 256000, "tied": True},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {"heads": 12, "kv": 2, "vocab": 151936, "tied": False},
}


def test_only_a_model_with_a_vision_encoder_is_not_counted_below() -> None:
    assert {m.id for m in MODELS} - set(_SHAPES) == {"google/gemma-3-4b-it"}


@pytest.mark.parametrize("model_id", _SHAPES)
def test_layers_and_widths_give_the_number_of_parameters(model_id: str) -> None:
    model, shape = known_models()[model_id], _SHAPES[model_id]
    named = ("heads", "kv", "vocab", "tied")
    config = AutoConfig.for_model(
        {"qwen3_5": "qwen3_5_text"}.get(model.family, model.family),
        hidden_size=model.d_model,
        intermediate_size=model.d_mlp,
        num_hidden_layers=model.n_layers,
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=shape["tied"],
        pad_token_id=0,
        **{key: value for key, value in shape.items() if key not in named},
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in network.parameters()) == model.parameters


def test_a_model_is_known_with_and_without_its_revision() -> None:
    model = known_model("Qwen/Qwen3-4B@main")
    assert model is not None
    assert model == known_model("Qwen/Qwen3-4B")
    assert known_model("owner/name") is None


@pytest.mark.parametrize("change", [{"layers": 0}, {"layers": "many"}, {"size": 1}])
def test_a_wrong_entry_is_named(change: dict[str, object]) -> None:
    row = yaml.safe_load(known.CATALOGUE.read_text("utf-8"))["models"][0] | change
    with pytest.raises(ValueError, match=r"Qwen/Qwen2\.5-0\.5B-Instruct"):
        known._model(row, frozenset())


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys; import pprobe_core.models.known as k; k.known_models(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
