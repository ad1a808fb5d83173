"""What discovery hands out: the decoder layers, the final norm and the unembedding of one model, as proved values."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.models.norms import Norm


def _weight(module: nn.Module) -> Tensor:
    """The weight of a module that has been proved to hold one."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} holds no weight tensor")
    return weight.detach()


def _picked(x: Tensor, ids: Sequence[int]) -> Tensor:
    """The rows `ids` of x: a view of them where they are neighbours, else a copy."""
    if isinstance(ids, range) and ids.step == 1:
        return x[ids.start : ids.stop]
    return x[torch.as_tensor(list(ids), dtype=torch.long, device=x.device)]


@dataclass(frozen=True)
class Block:
    """One decoder layer: h_out = resid_scale * (h_in + attention_scale * attn + ffn_scale * ffn).

    `attention_out` and `ffn_out` are the modules whose outputs are attn and ffn, after a post-norm if there is one (an
    output may be a tuple: its first item counts). The input of `down_proj` is the neuron activations `acts [..,
    d_mlp]`. attn and ffn may both read h_in (parallel layers): the identity is the same.
    """

    layer: int
    module: nn.Module
    attention_out: nn.Module
    ffn_out: nn.Module
    down_proj: nn.Module
    ffn_post_norm: Norm | None  # between down_proj's output and the residual stream
    attention_scale: float
    ffn_scale: float
    resid_scale: float
    weight_is_in_out: bool = False  # the checkpoint stores [d_mlp, d_model] (Conv1D), not [d_model, d_mlp]
    attention_proj: nn.Module | None = None  # the matrix product whose output is attn, before a post-norm

    @property
    def weight(self) -> Tensor:
        """The down projection's weight as the checkpoint stores it."""
        return _weight(self.down_proj)

    @property
    def d_mlp(self) -> int:
        """Number of neurons."""
        return int(self.weight.shape[0 if self.weight_is_in_out else 1])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.weight.shape[1 if self.weight_is_in_out else 0])

    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Row n is what neuron n writes; float32 on the model's device, a view where the weights are."""
        return (self.weight if self.weight_is_in_out else self.weight.T).float()

    def b_out(self) -> Float[Tensor, "d_model"] | None:
        """Bias of the down projection, float32, or None."""
        bias = getattr(self.down_proj, "bias", None)
        return None if bias is None else bias.detach().float()


@dataclass(frozen=True)
class SelfCheck:
    """Largest relative error of any token seen when the structure was proved at load, and the largest accepted."""

    ffn_error: float  # acts @ W_out + b_out against the down projection's output
    layer_error: float  # the layer identity, relative to the layer's own update of that token, beyond rounding
    head_error: float  # logits recomputed from the last layer's output against the model's own
    norm_error: float  # final norm and post-norms recomputed
    tolerance: float


@dataclass(frozen=True)
class Structure:
    """A decoder whose parts are proved: logits = softcap(unembed_rows @ final_norm(h_last) + unembed_bias)."""

    blocks: tuple[Block, ...]
    final_norm: Norm
    n_layers: int
    d_model: int
    d_mlp: int
    vocab_size: int
    logit_scale: float  # folded into unembed_rows
    softcap: float | None  # logits = softcap * tanh(raw / softcap)
    head: nn.Module
    head_bias_scale: float
    check: SelfCheck

    def unembed_rows(self, ids: Sequence[int]) -> Float[Tensor, "ids d_model"]:
        """Rows of W_U for these token ids, float32, logit_scale folded in; never to be written into.

        A range is read in place: where it needs neither widening nor scaling, it is the model's own memory.
        """
        rows = _picked(_weight(self.head), ids).float()
        return rows if self.logit_scale == 1 else rows * self.logit_scale

    def unembed_bias(self, ids: Sequence[int]) -> Float[Tensor, "ids"] | None:
        """Biases of the unembedding for these token ids, float32, or None where there are none."""
        bias = getattr(self.head, "bias", None)
        if bias is None:
            return None
        return _picked(bias.detach(), ids).float() * self.head_bias_scale
