"""The parts of a decoder, discovered by dataflow on one short prompt and proved on its numbers; no per-family code.

Norms are told apart by what they are fed, never by their names: `post_attention_layernorm` normalises the input of the
feed-forward in one family and attention's output in another. What cannot be proved is refused with the reason.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.blocks import Block, SelfCheck, Structure
from pprobe_core.models.head_proof import prove_final_norm, prove_head
from pprobe_core.models.layer_proof import prove_layer
from pprobe_core.models.norms import Norm
from pprobe_core.models.search import Parts, find_layers, find_parts
from pprobe_core.models.trace import Trace, record, refusal, same
from pprobe_core.models.weights import check_weights, has_experts

__all__ = ["Block", "Norm", "SelfCheck", "Structure", "discover"]

PROBE_TEXT = "The quick brown fox asks: what is 12 plus 34? Let us see."
_MAX_PROBE_TOKENS = 24


def discover(model: Any, tokenizer: Any) -> Structure:
    """Find and prove the structure of a causal language model in eval mode, by two forward passes of a short prompt.

    Raises ModelUnavailable with the reason for mixtures of experts, quantised, offloaded or non-finite weights,
    normalisation after the addition (post-LN), encoders, other writers to the residual stream, and whatever else does
    not check out.
    """
    name, config = _name(model), model.config.get_text_config()
    check_weights(model, name)
    if has_experts(model):
        raise ModelUnavailable(
            f"The model {name} is not supported: it is a mixture of experts, whose feed-forward neurons are split over "
            "experts chosen per token. Choose a dense model of the same family."
        )
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise refusal(name, "it has no output embedding, so it predicts no next token")
    input_ids = _probe_ids(tokenizer, head.weight.shape[0]).to(head.weight.device)
    _require_causal(name, model, input_ids)
    layers = find_layers(model, int(getattr(config, "num_hidden_layers", 0) or 0), name)
    parts = [p for layer in layers if (p := find_parts(layer)) is not None]
    trace = record(name, model, _watched(model, layers, parts), input_ids, head.weight.dtype)
    _require_chain(trace, layers)
    proved = [prove_layer(trace, i, p, config) for i, p in enumerate(parts)]
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


@torch.no_grad()
def _require_causal(name: str, model: Any, input_ids: Int[Tensor, "1 token"]) -> None:
    """Changing the last token must not change the logits before it."""
    other = input_ids.clone()
    other[0, -1] = input_ids[0, 0] if input_ids[0, 0] != input_ids[0, -1] else input_ids[0, 1]
    mask = torch.ones_like(input_ids)
    try:
        one, two = (model(input_ids=i, attention_mask=mask, use_cache=False).logits[0, :-1] for i in (input_ids, other))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError) as e:
        raise refusal(name, f"it cannot read a short text ({type(e).__name__}: {str(e)[:120]})") from e
    if one.shape == two.shape and float((one - two).abs().max()) > 0.05 * float(one.std()):
        raise refusal(
            name, "it reads the text in both directions (an encoder such as BERT), so it predicts no next token"
        )


def _watched(model: nn.Module, layers: nn.ModuleList, parts: list[Parts]) -> Iterator[tuple[str, nn.Module]]:
    """Every module worth recording: all but the insides of the mixers and whatever holds the layers."""
    inside_mixers = {m for p in parts for mixer in p.mixers for m in mixer.modules() if m is not mixer}
    for path, module in model.named_modules():
        if module not in inside_mixers and not any(m is layers for m in module.modules()):
            yield path, module


def _require_chain(trace: Trace, layers: nn.ModuleList) -> None:
    """Each layer must receive exactly what the one before returned."""
    calls = [trace.only(layer, f"layer {i}") for i, layer in enumerate(layers)]
    for i, (one, two) in enumerate(itertools.pairwise(calls)):
        if not same(one.y, two.x):
            raise trace.refusal(f"something writes to the residual stream between layers {i} and {i + 1}")


def _require_own_neurons(trace: Trace, blocks: Sequence[Block]) -> None:
    """Every layer must have the same number of neurons, and weights of its own."""
    widths = sorted({b.d_mlp for b in blocks})
    if len(widths) != 1:
        raise trace.refusal(f"its layers have different numbers of neurons ({', '.join(map(str, widths))})")
    if len({b.weight.data_ptr() for b in blocks}) != len(blocks):
        raise trace.refusal("several layers share the weights of one down projection, so a neuron belongs to no layer")


def _probe_ids(tokenizer: Any, vocab_size: int) -> Int[Tensor, "1 token"]:
    """Token ids of a short sentence; evenly spread ids when the tokeniser yields too few."""
    ids: list[int] = [] if tokenizer is None else list(tokenizer(PROBE_TEXT)["input_ids"])[:_MAX_PROBE_TOKENS]
    if len(set(ids)) < 6 or max(ids) >= vocab_size:
        ids = [(1 + k * max(1, vocab_size // 17)) % vocab_size for k in range(16)]
    return torch.tensor([ids])
