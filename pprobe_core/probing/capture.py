"""The two passes: original and perturbed prompts through the model, read at the last position by hooks."""

import contextlib
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.loading import LoadedModel
from pprobe_core.models.structure import Norm, Structure
from pprobe_core.probing.decomposition import (
    Directions,
    ResidualParts,
    logit_diff,
    read_signals,
    soft_cap_remainder,
    write_scales,
)
from pprobe_core.probing.tokens import TokenBatch, left_pad, pad_id, plan_batches
from pprobe_core.probing.types import PreparedPair

MAX_BATCH_TOKENS = (
    1024  # padded tokens of one forward pass: bounds memory beyond the weights and keeps a block within seconds
)
N_FIRST_TOKENS = 5
ORIGINAL, PERTURBED = 0, 1  # the condition axis


@dataclass(frozen=True)
class PromptSignals:
    """Scalars of both prompts of some pairs, at the last position; logits where nothing else is said. On the CPU."""

    logit_diff: Float[Tensor, "condition pair"]
    skip: Float[Tensor, "condition pair layer"]  # direct logit attribution, see decomposition.Signals
    attention: Float[Tensor, "condition pair layer"]
    ffn: Float[Tensor, "condition pair layer"]
    constant: Float[Tensor, "condition pair"]  # norm and head biases, soft-cap remainder
    ffn_skip: Float[Tensor, "condition pair layer"]  # ratios, NaN where undefined
    attention_skip: Float[Tensor, "condition pair layer"]
    lens_after_attention: Float[Tensor, "condition pair layer"]
    lens_after_ffn: Float[Tensor, "condition pair layer"]
    final_scale: Float[Tensor, "condition pair"]  # 1 / rms (or 1 / std) at the final norm
    ffn_post_scale: Float[Tensor, "condition pair layer"]  # the same at the FFN post-norms; ones where there is none
    first_ids: Int[Tensor, "condition pair rank"]  # most likely first tokens
    first_probabilities: Float[Tensor, "condition pair rank"]


@dataclass(frozen=True)
class CaptureBlock:
    """What both passes of some pairs left behind: activations of every neuron at the last position, and scalars."""

    index: int  # of the block
    pair_index: Int[Tensor, "pair"]  # positions in Prepared.pairs
    acts_original: Float[Tensor, "pair layer d_mlp"]
    acts_perturbed: Float[Tensor, "pair layer d_mlp"]
    signals: PromptSignals
    n_sequences: int  # prompts run: two per pair, one where both prompts are identical
    seconds: float

    def to_bytes(self) -> bytes:
        """The block as safetensors bytes."""
        tensors = {f.name: getattr(self.signals, f.name) for f in fields(PromptSignals)}
        tensors |= {name: getattr(self, name) for name in _BLOCK_TENSORS}
        rest = {"index": self.index, "n_sequences": self.n_sequences, "seconds": self.seconds}
        return bytes(save_safetensors({k: v.contiguous() for k, v in tensors.items()}, {"block": json.dumps(rest)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> "CaptureBlock":
        """The block that to_bytes wrote."""
        # safetensors: an 8-byte length, then JSON; the library gives the metadata of files only.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load_safetensors(data)
        own = {name: tensors.pop(name) for name in _BLOCK_TENSORS}
        return cls(**own, signals=PromptSignals(**tensors), **json.loads(header["__metadata__"]["block"]))


_BLOCK_TENSORS = ("pair_index", "acts_original", "acts_perturbed")


@torch.inference_mode()
def capture_block(
    loaded: LoadedModel, directions: Directions, pairs: Sequence[PreparedPair], indices: Sequence[int], index: int
) -> CaptureBlock:
    """Run both prompts of the pairs `indices` and read the last position.

    The two prompts of a pair are one sequence where they are identical, so such a pair scores exactly zero. Sequences
    are sorted by length; what a prompt gives depends on its neighbours by rounding only (1e-4 logits in float32).
    Raises ModelUnavailable naming the layer when the model computes NaN or infinity.
    """
    started = time.perf_counter()
    structure = loaded.structure
    sequences: list[tuple[int, ...]] = []
    owner: list[int] = []  # sequence -> position in `indices`
    places: list[list[tuple[int, int]]] = []  # sequence -> the (condition, position) it stands for
    for position, i in enumerate(indices):
        prompts = (pairs[i].input_ids_original, pairs[i].input_ids_perturbed)
        for condition, ids in enumerate(prompts):
            if condition == PERTURBED and ids == prompts[ORIGINAL]:
                places[-1].append((PERTURBED, position))
            else:
                sequences.append(ids)
                owner.append(position)
                places.append([(condition, position)])
    of_pair = directions.index[torch.tensor(indices)]
    acts = torch.empty(2, len(indices), structure.n_layers, structure.d_mlp, dtype=torch.float32)
    signals: dict[str, Tensor] = {}
    for rows in plan_batches([len(s) for s in sequences], MAX_BATCH_TOKENS):
        batch = left_pad([sequences[r] for r in rows], pad_id(loaded.tokenizer), loaded.device)
        chosen = [pairs[indices[owner[r]]] for r in rows]
        reading, logits = _forward(loaded, batch)
        values = _signals(structure, reading, logits, directions, of_pair[[owner[r] for r in rows]], chosen)
        # rows of the batch -> where they belong; an identical perturbed prompt has its original's row
        filled = [(condition, position, row) for row, r in enumerate(rows) for condition, position in places[r]]
        for condition, position, row in filled:
            acts[condition, position] = reading.acts[:, row]
        conditions, positions, taken = (list(column) for column in zip(*filled, strict=True))
        for name, value in values.items():
            if name not in signals:
                signals[name] = value.new_empty(2, len(indices), *value.shape[1:])
            signals[name][conditions, positions] = value[taken]
    return CaptureBlock(
        index=index,
        pair_index=torch.tensor(indices, dtype=torch.long),
        acts_original=acts[ORIGINAL],
        acts_perturbed=acts[PERTURBED],
        signals=PromptSignals(**signals),
        n_sequences=len(sequences),
        seconds=time.perf_counter() - started,
    )


def _forward(loaded: LoadedModel, batch: TokenBatch) -> tuple["Reading", Float[Tensor, "row vocab"]]:
    """One forward pass: what the hooks read, and the logits of the last position."""
    with reading_last_position(loaded.structure, batch) as reading:
        logits = last_logits(loaded.model, batch)
    _require_finite(loaded, reading, logits)
    return reading, logits


def _signals(
    structure: Structure,
    reading: "Reading",
    logits: Float[Tensor, "row vocab"],
    directions: Directions,
    observable: Int[Tensor, "row"],
    pairs: Sequence[PreparedPair],
) -> dict[str, Tensor]:
    """Every field of PromptSignals for one batch, with its rows as first axis, on the CPU."""
    observable = observable.to(directions.plain.device)
    signals = read_signals(
        reading.parts,
        structure.final_norm,
        write_scales(structure),
        directions.plain[observable],
        directions.folded[observable],
        directions.constant[observable],
    )
    targets, controls = [p.target_ids for p in pairs], [p.control_ids for p in pairs]
    constant = signals.constant
    if structure.softcap is not None:
        constant = constant + soft_cap_remainder(logits, targets, controls, structure.softcap).to(constant)
    top = logits.topk(min(N_FIRST_TOKENS, logits.shape[-1]), dim=-1)
    values = {
        "logit_diff": logit_diff(logits, targets, controls),
        "skip": signals.skip,
        "attention": signals.attention,
        "ffn": signals.ffn,
        "constant": constant,
        "ffn_skip": signals.ffn_skip,
        "attention_skip": signals.attention_skip,
        "lens_after_attention": signals.lens_after_attention,
        "lens_after_ffn": signals.lens_after_ffn,
        "final_scale": signals.final_scale,
        "ffn_post_scale": reading.ffn_post_scale.T,
        "first_ids": top.indices,
        "first_probabilities": (top.values - logits.logsumexp(-1, keepdim=True)).exp(),
    }
    return {name: value.cpu() for name, value in values.items()}


@dataclass(frozen=True)
class Reading:
    """What the hooks of one forward pass read at the last position; float32.

    Allocated before the pass and filled during it: small tensors that are made between a layer's large ones and outlive
    them would keep the allocator from using that memory again (half a gigabyte at 0.6B).
    """

    parts: ResidualParts
    acts: Float[Tensor, "layer row d_mlp"]
    ffn_post_scale: Float[Tensor, "layer row"]


@contextlib.contextmanager
def reading_last_position(structure: Structure, batch: TokenBatch) -> Iterator[Reading]:
    """Hooks that read the last position of one forward pass of `batch`; removed on leaving, also after an error."""
    rows, width = batch.input_ids.shape

    def unread(*shape: int) -> Tensor:
        return torch.full(
            (structure.n_layers, rows, *shape), torch.nan, dtype=torch.float32, device=batch.input_ids.device
        )

    resid_pre, attention, ffn, resid_post = (unread(structure.d_model) for _ in range(4))
    reading = Reading(ResidualParts(resid_pre, attention, ffn, resid_post), unread(structure.d_mlp), unread())

    def last(x: Any) -> Float[Tensor, "row d"]:
        x = x[0] if isinstance(x, tuple) else x
        return x.detach().reshape(rows, width, -1)[:, -1]  # some families flatten batch and position

    def reads_input(store: Float[Tensor, "row d"]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            store.copy_(last(args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))))

        return hook

    def reads_output(store: Float[Tensor, "row d"], scale: float = 1.0) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            store.copy_(last(output)).mul_(scale)

        return hook

    def reads_scale(store: Float[Tensor, "row"], norm: Norm) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            store.copy_(norm.scale(last(output)))

        return hook

    handles = []
    try:
        for i, block in enumerate(structure.blocks):
            handles += [
                block.module.register_forward_pre_hook(reads_input(resid_pre[i]), with_kwargs=True),
                block.attention_out.register_forward_hook(reads_output(attention[i], block.attention_scale)),
                block.down_proj.register_forward_pre_hook(reads_input(reading.acts[i]), with_kwargs=True),
                block.ffn_out.register_forward_hook(reads_output(ffn[i], block.ffn_scale)),
                block.module.register_forward_hook(reads_output(resid_post[i])),
            ]
            if block.ffn_post_norm is None:
                reading.ffn_post_scale[i] = 1.0
            else:
                scale = reads_scale(reading.ffn_post_scale[i], block.ffn_post_norm)
                handles.append(block.down_proj.register_forward_hook(scale))
        yield reading
    finally:
        for handle in handles:
            handle.remove()


def last_logits(model: Any, batch: TokenBatch) -> Float[Tensor, "row vocab"]:
    """Logits of the last position in float32; no other position passes through the unembedding."""
    accepted = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if "position_ids" in accepted:  # ALiBi families have none
        inputs["position_ids"] = batch.position_ids
    if "logits_to_keep" in accepted:
        logits = model(**inputs, logits_to_keep=1).logits
    else:
        handle = model.get_output_embeddings().register_forward_pre_hook(
            lambda module, args: (args[0][:, -1:], *args[1:])
        )
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
    return logits[:, -1].float()


def _require_finite(loaded: LoadedModel, reading: Reading, logits: Float[Tensor, "row vocab"]) -> None:
    finite = torch.isfinite(reading.acts).all((1, 2)) & torch.isfinite(reading.parts.resid_post).all((1, 2))
    if not bool(finite.all()):
        raise ModelUnavailable(_not_finite(loaded, f"in layer {finite.tolist().index(False)}"))
    if not bool(torch.isfinite(logits).all()):
        raise ModelUnavailable(_not_finite(loaded, "in its output"))


def _not_finite(loaded: LoadedModel, where: str) -> str:
    return (
        f"The model {loaded.id} computes NaN or infinity {where}, so nothing can be measured. "
        "Its weights are damaged, or overflow in this number format: load it in float32, or use another copy of it."
    )
