"""The parts of a decoder, discovered by dataflow on one short prompt and proved on its numbers; no per-family code.

Nothing is told by its name: `post_attention_layernorm` normalises the input of the feed-forward in one family and
attention's output in another, and `mlp` may return its sum with the residual stream. A part is what the recorded
values say it is; what cannot be proved is refused with the reason.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.blocks import Block, SelfCheck, Structure
from pprobe_core.models.head_proof import n_compared, prove_final_norm, prove_head
from pprobe_core.models.layer_proof import prove_layer
from pprobe_core.models.layer_sum import prove_sum
from pprobe_core.models.norms import Norm
from pprobe_core.models.search import find_layers
from pprobe_core.models.token_mixing import tell_apart
from pprobe_core.models.trace import Trace, record, refusal, require_causal
from pprobe_core.models.weights import check_weights, has_experts

__all__ = ["Block", "Norm", "SelfCheck", "Structure", "discover"]

PROBE_TEXT = "The quick brown fox asks: what is 12 plus 34? Let us see."
_MAX_PROBE_TOKENS = 12  # each costs time at loading; a dozen times the width are values enough


def discover(model: Any, tokenizer: Any) -> Structure:
    """Find and prove the structure of a causal language model in eval mode, by two forward passes of a short prompt.

    The first is recorded; the second tells attention from feed-forward and tests that no token sees a later one.
    Raises ModelUnavailable with the reason for mixtures of experts, quantised, offloaded or non-finite weights,
    normalisation after the addition (post-LN), encoders, other writers to the residual stream, and whatever else does
    not check out.
    """
    name = _name(model)
    check_weights(model, name)
    try:
        return _proved(name, model, tokenizer)
    except ModelUnavailable as e:
        if has_experts(model):
            raise ModelUnavailable(
                f"The model {name} is not supported: it is a mixture of experts, whose feed-forward neurons are split "
                "over experts chosen per token. Choose a dense model of the same family."
            ) from e
        require_causal(name, model, _input_ids(model, tokenizer))  # where that is the reason, it says more
        raise


def _proved(name: str, model: Any, tokenizer: Any) -> Structure:
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise refusal(name, "it has no output embedding, so it predicts no next token")
    n_logits = n_compared(head.weight.shape[0])
    trace = record(name, model, _input_ids(model, tokenizer), head.weight.dtype, n_logits=n_logits)
    layers = find_layers(trace, model, int(getattr(config, "num_hidden_layers", 0) or 0))
    sums = [prove_sum(trace, i, layer, config) for i, layer in enumerate(layers)]
    parts = tell_apart(trace, model, sums)
    proved = [prove_layer(trace, i, one, *pair) for i, (one, pair) in enumerate(zip(sums, parts, strict=True))]
    blocks = tuple(p.block for p in proved)
    _require_own_neurons(trace, blocks)
    normed, final_norm, norm_error = prove_final_norm(trace, layers, head)
    structure = prove_head(trace, model, config, head, blocks, normed, final_norm)
    check = replace(
        structure.check,
        ffn_error=max(p.ffn_error for p in proved),
        layer_error=max(p.layer_error for p in proved),
        norm_error=max(norm_error, *(p.norm_error for p in proved)),
    )
    return replace(structure, check=check)


def _name(model: Any) -> str:
    """What to call the model in messages: its folder's or hub name where it has one, and its family."""
    family = str(getattr(model.config, "model_type", type(model).__name__))
    path = str(getattr(model.config, "_name_or_path", "") or "")
    return f"{Path(path).name} ({family})" if path else family


def _require_own_neurons(trace: Trace, blocks: Sequence[Block]) -> None:
    """Every layer must have the same number of neurons, and weights of its own."""
    widths = sorted({b.d_mlp for b in blocks})
    if len(widths) != 1:
        raise trace.refusal(f"its layers have different numbers of neurons ({', '.join(map(str, widths))})")
    if len({b.weight.data_ptr() for b in blocks}) != len(blocks):
        raise trace.refusal("several layers share the weights of one down projection, so a neuron belongs to no layer")


def _input_ids(model: Any, tokenizer: Any) -> Int[Tensor, "1 token"]:
    weight = model.get_input_embeddings().weight
    return _probe_ids(tokenizer, weight.shape[0]).to(weight.device)


def _probe_ids(tokenizer: Any, vocab_size: int) -> Int[Tensor, "1 token"]:
    """Token ids of a short sentence; evenly spread ids when the tokeniser yields too few."""
    ids: list[int] = [] if tokenizer is None else list(tokenizer(PROBE_TEXT)["input_ids"])[:_MAX_PROBE_TOKENS]
    if len(set(ids)) < 6 or max(ids) >= vocab_size:
        ids = [(1 + k * max(1, vocab_size // 17)) % vocab_size for k in range(16)]
    return torch.tensor([ids])
