"""Attention heads: their output projections, proved on one short pass, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pprobe_core.interventions.edits import Head
from pprobe_core.models.layer_proof import orientation
from pprobe_core.models.loading import LoadedModel
from pprobe_core.models.trace import record, stream
from pprobe_core.probing.capture import MAX_BATCH_TOKENS, last_logits
from pprobe_core.probing.decomposition import directions, write_scales
from pprobe_core.probing.scores import ablation_score, rank_neurons
from pprobe_core.probing.tokens import left_pad, pad_id, plan_batches


@dataclass(frozen=True)
class HeadOutputs:
    """Per layer the module whose input is the heads' outputs laid side by side: [.., n_heads * head_dim]."""

    modules: tuple[nn.Module, ...]
    n_heads: int
    head_dim: int
    weight_is_in_out: bool = False  # stored [n_heads * head_dim, d_model] (Conv1D), not the other way round

    def W_O(self, layer: int) -> Float[Tensor, "n_heads head_dim d_model"]:
        """What each dimension of each head writes (before a post-norm), float32."""
        module = self.modules[layer]
        weight = module.get_parameter("weight").detach().float()
        in_out = weight if self.weight_is_in_out else weight.T
        return in_out.reshape(self.n_heads, self.head_dim, -1)


def find_heads(loaded: LoadedModel) -> HeadOutputs | None:
    """The heads' output projections, or None where they cannot be proved.

    Proved: attention is of one kind in all layers, it ends in a plain matrix product, and that product's input divides
    evenly into the configured number of heads. Models in which some layers have no softmax attention (linear attention,
    convolutions) give None.
    """
    n_heads = getattr(loaded.model.config.get_text_config(), "num_attention_heads", None)
    blocks = loaded.structure.blocks
    modules = tuple(b.attention_proj for b in blocks if b.attention_proj is not None)
    holders = {child: type(holder) for holder in loaded.model.modules() for child in holder.children()}
    if len(modules) != len(blocks) or len({holders.get(module) for module in modules}) != 1:
        return None
    ids = torch.tensor([[(1 + 7 * k) % loaded.structure.vocab_size for k in range(6)]], device=loaded.device)
    trace = record(loaded.id, loaded.model, ids, blocks[0].weight.dtype, modules)
    found = set()
    for module in modules:
        call = trace.once(module)
        is_in_out, error = (None, 0.0) if call is None else orientation(call)
        if call is None or is_in_out is None or error > trace.tolerance:
            return None
        found.add((call.received.shape[-1], is_in_out))
    if not isinstance(n_heads, int) or len(found) != 1:
        return None
    width, is_in_out = found.pop()
    return None if width % n_heads else HeadOutputs(modules, n_heads, width // n_heads, is_in_out)


@dataclass(frozen=True)
class HeadScores:
    """Scores of every attention head by the same two passes as the neurons', over the selecting pairs; logits."""

    importance_mean: Float[Tensor, "layer head"]  # d_F . what the head's change between the two prompts writes
    zeroing_effect: Float[Tensor, "layer head"]  # mean of minus d_F . what it writes on these prompts
    ablation_score: Float[Tensor, "layer head"]  # min(sign * importance, sign * zeroing effect), as for neurons

    def ranked(self, ranking: Literal["shared", "ablation"]) -> tuple[Head, ...]:
        """Heads, largest first; ties by layer, then head."""
        key = self.importance_mean.abs() if ranking == "shared" else self.ablation_score
        return tuple(Head(int(layer), int(head)) for layer, head in rank_neurons(key).tolist())


def score_heads(
    loaded: LoadedModel,
    heads: HeadOutputs,
    own: Sequence[tuple[int, ...]],
    other: Sequence[tuple[int, ...]],
    observables: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    sign: int,
) -> HeadScores:
    """The attention-only baseline of the neuron ranking: coupling of each head's write with d_F, plain, direct path.

    `own` and `other` are the token ids of both prompts of the selecting pairs, `observables` their (target, control)
    ids; `sign` says whether the other prompts raise (+1) or lower (-1) the logit difference. Where attention's output
    passes a post-norm before it is added, that norm is left out, as the plain coupling of neurons does.
    """
    with torch.inference_mode():
        of_pair = directions(loaded.structure, observables)
        to_final = write_scales(loaded.structure)
        reads = [read_heads(loaded, heads, ids) for ids in (own, other)]
        importance, direct = [], []
        for layer, block in enumerate(loaded.structure.blocks):
            scale = block.attention_scale * float(to_final[layer])
            written = torch.einsum("hkd,od->ohk", heads.W_O(layer).to(of_pair.plain), of_pair.plain)
            per_dim = written.cpu()[of_pair.index] * scale
            importance.append((per_dim * (reads[1][:, layer] - reads[0][:, layer])).sum(-1).mean(0))
            direct.append((per_dim * reads[0][:, layer]).sum(-1).mean(0))
        mean, zeroing = torch.stack(importance), -torch.stack(direct)
        return HeadScores(mean, zeroing, ablation_score(mean, -zeroing, sign))


def read_heads(
    loaded: LoadedModel, heads: HeadOutputs, sequences: Sequence[tuple[int, ...]]
) -> Float[Tensor, "prompt layer n_heads head_dim"]:
    """Outputs of every head at the decision position, before the output projection; float32, one pass per prompt."""
    found = torch.empty(len(sequences), len(heads.modules), heads.n_heads, heads.head_dim, dtype=torch.float32)
    for rows in plan_batches([len(s) for s in sequences], MAX_BATCH_TOKENS):
        batch = left_pad([sequences[r] for r in rows], pad_id(loaded.tokenizer), loaded.device)
        shape = batch.input_ids.shape

        def reading(layer: int, rows: list[int] = rows, shape: torch.Size = shape) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = stream(args, kwargs)
                if x is None:
                    raise TypeError("an output projection of attention was called without a tensor")
                last = x.detach().reshape(*shape, heads.n_heads, heads.head_dim)[:, -1]
                found[rows, layer] = last.float().cpu()

            return hook

        handles = []
        try:
            for layer, module in enumerate(heads.modules):
                handles.append(module.register_forward_pre_hook(reading(layer), with_kwargs=True))
            last_logits(loaded.model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return found
