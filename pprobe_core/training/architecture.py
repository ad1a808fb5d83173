"""Untrained small models: one configuration builder for each family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "sdpa_float32"


def _sdpa_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention in float32 inside bfloat16 autocast: on CPUs its bfloat16 backward pass is several times slower."""
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)


AttentionInterface.register(ATTENTION, _sdpa_float32)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@dataclass(frozen=True)
class Shape:
    """Sizes of a small model."""

    n_layers: int = 8
    d_model: int = 128
    d_mlp: int = 384
    n_heads: int = 4
    n_kv_heads: int = 2


def _sizes(shape: Shape, vocab_size: int, eos: int, pad: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_mlp,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.d_model // shape.n_heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }


def _qwen3(sizes: dict[str, Any]) -> PretrainedConfig:
    return Qwen3Config(**sizes)


def _llama(sizes: dict[str, Any]) -> PretrainedConfig:
    return LlamaConfig(**sizes)


def _gemma3(sizes: dict[str, Any]) -> PretrainedConfig:
    """As in the large ones most layers see a window only; every fourth sees all."""
    n_layers = sizes["num_hidden_layers"]
    layer_types = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(n_layers)]
    return Gemma3TextConfig(
        **sizes, query_pre_attn_scalar=sizes["head_dim"], sliding_window=SLIDING_WINDOW, layer_types=layer_types
    )


SLIDING_WINDOW = 64  # tokens
FAMILIES: Mapping[str, Callable[[dict[str, Any]], PretrainedConfig]] = {
    "qwen3": _qwen3,
    "llama": _llama,
    "gemma3": _gemma3,
}


def build_model(family: str, shape: Shape, vocab_size: int, eos: int, pad: int, seed: int) -> PreTrainedModel:
    """A freshly initialised float32 model of the family; the seed decides its weights."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family](_sizes(shape, vocab_size, eos, pad)))
    model.set_attn_implementation(ATTENTION)
    return model.float()
