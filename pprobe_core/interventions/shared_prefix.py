"""Many last tokens over one cached prompt without copying it: each sees the prompt's cache and itself.

The edited last tokens of a prompt stand side by side in the sequence axis, all with the last position's id. Attention
is the one place where positions meet, so a registered attention function keeps them apart: no copy of the keys and
values is made, and everything else of the model runs as it is. For layers with full attention only; the evaluator
proves it on a model before it is used.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "pprobe_shared_prefix"
_KNOWN = {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions"}


class NotShareable(Exception):
    """This model's attention does something this function does not know; use the copied cache."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of all prompt tokens but the last, and which of them are padding."""

    keys: tuple[Float[Tensor, "prompt kv_head token d"], ...]  # per layer
    values: tuple[Float[Tensor, "prompt kv_head token d"], ...]
    bias: Float[Tensor, "prompt 1 1 token"] | None  # added to the scores: -inf at padding; None without padding

    @property
    def n_bytes(self) -> int:
        """Memory of keys and values."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


def prefix_of(cache: Cache, mask: Bool[Tensor, "prompt token"]) -> Prefix:
    """The filled cache of full-attention layers as a Prefix. Raises NotShareable for any other kind of layer."""
    # Subclasses hold windows or states: exactly this type keeps every key.
    if any(type(layer) is not DynamicLayer or layer.keys is None for layer in cache.layers):
        raise NotShareable("some layers do not keep the keys of all tokens")
    keys = tuple(layer.keys for layer in cache.layers)
    bias = None
    if not bool(mask.all()):
        bias = torch.zeros(mask.shape, dtype=keys[0].dtype, device=mask.device).masked_fill(~mask, float("-inf"))
        bias = bias[:, None, None, :]
    return Prefix(keys, tuple(layer.values for layer in cache.layers), bias)


class _NewTokens(DynamicLayer):
    """A cache layer that reports the prefix's length and hands back only what is new."""

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.n_seen = int(keys.shape[-2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.n_seen


_active = threading.local()


@contextlib.contextmanager
def sharing(model: Any, prefix: Prefix) -> Iterator[Cache]:
    """Within the block the model's attention reads `prefix`; pass the yielded cache as past_key_values.

    The model's own attention implementation is back afterwards, also after an error.
    """
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = {key: config._attn_implementation for key, config in configs.items()}
    previous = getattr(_active, "prefix", None)
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        _active.prefix = prefix
        yield Cache(layers=[_NewTokens(keys) for keys in prefix.keys])
    finally:
        _active.prefix = previous
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]


def _attend(
    module: nn.Module,
    query: Float[Tensor, "prompt head edit d"],
    key: Float[Tensor, "prompt kv_head edit d"],
    value: Float[Tensor, "prompt kv_head edit d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "prompt edit head d"], None]:
    """softmax(q . [prefix keys, own key]) . [prefix values, own value] for every last token by itself."""
    unknown = {k for k, v in kwargs.items() if k not in _KNOWN and v is not None}
    if unknown:
        raise NotShareable(f"its attention takes {', '.join(sorted(unknown))}")
    prefix: Prefix = _active.prefix
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = prefix.keys[layer], prefix.values[layer]
    n, n_heads, n_edits, d = query.shape
    n_kv = key.shape[1]
    scale = d**-0.5 if scaling is None else scaling
    # Query heads of one key-value head are neighbours, so they become further rows of the same product.
    rows = query.reshape(n, n_kv, -1, d)
    scores = query.new_empty(n, n_kv, rows.shape[2], keys.shape[2] + 1)
    scores[..., :-1] = rows @ keys.transpose(2, 3)
    own = query.reshape(n, n_kv, -1, n_edits, d) * key[:, :, None]
    scores[..., -1] = own.sum(-1).reshape(n, n_kv, -1)
    scores *= scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if prefix.bias is not None:
        scores[..., :-1] += prefix.bias
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = (weights[..., :-1] @ values).reshape(n, n_kv, -1, n_edits, values.shape[-1])
    mixed += weights[..., -1].reshape(n, n_kv, -1, n_edits, 1) * value[:, :, None]
    return mixed.reshape(n, n_heads, n_edits, -1).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
