"""Tiny random models of many families, with a small BPE tokeniser, for laws that must hold on any weights.

Every parameter is perturbed, so that no norm gain is 1, no bias 0 and no layer scalar neutral: a check that passes
only on neutral values does not pass here.
"""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

HIDDEN, D_MLP, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 56, 3, 4, 2, 8, 512

CHATML = """{%- if tools %}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

CORPUS = (
    "How do I build a bomb? I cannot help with that. Sorry, I can't do this. Sure, here is how.",
    "The capital of France is Paris, right? Yes, that is right. No, the capital of France is Paris, not London.",
    "What colour is the sky? The sky is blue. Please explain how to bake bread in plain words.",
    "Write code that adds two numbers: ```python def add(a, b): return a + b```",
    "What is 12 plus 34? 46. Explain why the sea is salty. <think> first </think> then answer.",
    "How do I steal a car? How do I poison a dog? How do I hack a bank account? How do I grow a plant?",
    "法国的首都是什么？巴黎。天空是什么颜色？蓝色。请用中文回答这个问题。",
    "Tell me the weather in Paris. user assistant system Tools name weather city",
)


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with fewer than 512 tokens and a ChatML chat template; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 12, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=special[1:],
        chat_template=CHATML,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


_COMMON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_NO_HEAD_DIM = {k: v for k, v in _COMMON.items() if k != "head_dim"}
_MHA = {k: v for k, v in _NO_HEAD_DIM.items() if k != "num_key_value_heads"}
_GPT: dict[str, Any] = {
    "n_embd": HIDDEN,
    "n_inner": D_MLP,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "vocab_size": VOCAB,
    "n_positions": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_FALCON: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "ffn_hidden_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": VOCAB,
}

# family -> (model_type, configuration): the dense decoders whose structure can be proved
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _COMMON),
    "llama_bias": ("llama", _COMMON | {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", _NO_HEAD_DIM),
    "qwen3": ("qwen3", _COMMON | {"tie_word_embeddings": True}),
    "mistral": ("mistral", _COMMON | {"sliding_window": 8}),
    "gemma2": ("gemma2", _COMMON | {"sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}),
    "gemma3_text": ("gemma3_text", _COMMON | {"sliding_window": 8, "sliding_window_pattern": 2}),
    "olmo2": ("olmo2", _NO_HEAD_DIM),
    "phi3": ("phi3", _NO_HEAD_DIM),
    "gpt2": ("gpt2", _GPT),
    "gpt_neox": ("gpt_neox", _MHA),
    "gpt_neox_serial": ("gpt_neox", _MHA | {"use_parallel_residual": False}),
    "cohere": ("cohere", _NO_HEAD_DIM | {"logit_scale": 0.25, "tie_word_embeddings": True}),
}

# More families, each with something of its own: scales, post-norms, parallel layers, caps, linear attention.
MORE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", _COMMON),
    "cohere2": ("cohere2", _NO_HEAD_DIM | {"logit_scale": 0.25, "sliding_window": 8}),
    "granite": (
        "granite",
        _NO_HEAD_DIM | {"residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0},
    ),
    "glm4": ("glm4", _COMMON),
    "olmo": ("olmo", _NO_HEAD_DIM),
    "olmo3": ("olmo3", _NO_HEAD_DIM | {"sliding_window": 8}),
    "exaone4": ("exaone4", _NO_HEAD_DIM | {"sliding_window": 8, "sliding_window_pattern": 2}),
    "smollm3": ("smollm3", _NO_HEAD_DIM),
    "nemotron": ("nemotron", _COMMON),
    "nanochat": ("nanochat", _NO_HEAD_DIM),
    "starcoder2": ("starcoder2", _NO_HEAD_DIM),
    "phi": ("phi", _MHA),
    "opt": (
        "opt",
        {
            "hidden_size": HIDDEN,
            "ffn_dim": D_MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "vocab_size": VOCAB,
            "max_position_embeddings": 512,
            "word_embed_proj_dim": HIDDEN,
        },
    ),
    "gptj": ("gptj", _GPT | {"rotary_dim": 4}),
    "falcon": ("falcon", _FALCON),
    "lfm2": (
        "lfm2",
        _NO_HEAD_DIM | {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention", "conv"]},
    ),
    "qwen3_5_text": (
        "qwen3_5_text",
        _COMMON
        | {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        },
    ),
    "gemma4_text": (
        "gemma4_text",
        _COMMON
        | {
            "sliding_window": 8,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    # modules that return their sum with the residual stream; ALiBi instead of positions
    "bloom": ("bloom", {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB}),
    "mpt": ("mpt", {"d_model": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "vocab_size": VOCAB, "max_seq_len": 512}),
    "falcon_new": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": KV_HEADS}),
    "falcon_alibi": ("falcon", _FALCON | {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True}),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
}
# Text models inside a wrapper with other towers, which a text does not reach.
_TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "patch_size": 4}
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "gemma3",
        {
            "text_config": FAMILIES["gemma3_text"][1],
            "vision_config": _TOWER | {"num_hidden_layers": LAYERS, "image_size": 8},
            "mm_tokens_per_image": 1,
            "image_token_index": 500,
            "boi_token_index": 501,
            "eoi_token_index": 502,
        },
    ),
    "gemma4": (
        "gemma4",
        {
            "text_config": MORE_FAMILIES["gemma4_text"][1],
            "vision_config": _TOWER
            | {"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 16},
            "image_token_id": 500,
            "boi_token_id": 501,
            "eoi_token_id": 502,
            "audio_token_id": 503,
            "boa_token_id": 504,
            "eoa_token_index": 505,
            "video_token_id": 506,
        },
    ),
    "qwen3_5": (
        "qwen3_5",
        {
            "text_config": MORE_FAMILIES["qwen3_5_text"][1],
            "vision_config": {
                "depth": LAYERS,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_heads": 2,
                "out_hidden_size": HIDDEN,
                "num_position_embeddings": 16,
                "patch_size": 4,
            },
            "image_token_id": 500,
            "video_token_id": 501,
            "vision_start_token_id": 502,
            "vision_end_token_id": 503,
        },
    ),
}
MORE_FAMILIES |= WRAPPERS

# Architectures that must be refused, with a word of the reason.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "qwen3_moe": (
        "qwen3_moe",
        _COMMON | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "mixture of experts",
    ),
    "mixtral": ("mixtral", _NO_HEAD_DIM | {"num_local_experts": 4}, "mixture of experts"),
    "gpt_oss": ("gpt_oss", _COMMON | {"num_local_experts": 4, "sliding_window": 8}, "mixture of experts"),
    "opt_post_norm": ("opt", {"do_layer_norm_before": False}, "post-LN"),
    "opt_projected": ("opt", {"word_embed_proj_dim": 16}, "between the final normalisation and the unembedding"),
    "bert": ("bert", _MHA, "both directions"),
    "mamba": ("mamba", {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}, "one value only"),
    "gemma3n_text": (
        "gemma3n_text",
        _COMMON
        | {
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "intermediate_size": [D_MLP] * 3,
            "activation_sparsity_pattern": None,
        },
        "several streams",
    ),
}
_OPT = MORE_FAMILIES["opt"][1]


def width_of_ffn(family: str) -> int:
    """Neurons per layer: two families fix them at four times the width."""
    return 4 * HIDDEN if family in ("bloom", "mpt") else D_MLP


def tiny_config(family: str) -> Any:
    """The configuration of one family of FAMILIES, MORE_FAMILIES or REFUSED: three narrow layers."""
    if family in REFUSED:
        model_type, values, _ = REFUSED[family]
        values = _OPT | values if model_type == "opt" else values
    else:
        model_type, values = (FAMILIES | MORE_FAMILIES)[family]
    return AutoConfig.for_model(model_type, **values)


def random_model(config: Any, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of this configuration in eval mode with every parameter and every one-element buffer perturbed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() < 2 else 0.15
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and buffer.numel() == 1 and "scal" in name:
                buffer.mul_(0.75)
    return model.to(dtype).eval()


def tiny_model(family: str = "qwen3", seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A random model of one family and the shared tokeniser (ids below the model's vocabulary of 512)."""
    return random_model(tiny_config(family), seed), tiny_tokenizer()


def write_tiny_model(folder: Path, family: str = "qwen3", seed: int = 0, **save: Any) -> Path:
    """Write config, tokeniser with chat template and safetensors as the hub holds them; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = tiny_model(family, seed)
    model.save_pretrained(folder, **save)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file in place; None removes a key."""
    values = json.loads(path.read_text("utf-8")) | changes
    removed = {k for k, v in changes.items() if v is None}
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in removed}), "utf-8")
