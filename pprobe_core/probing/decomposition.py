"""Where the logit difference comes from: direct logit attribution, FFN/Skip ratio, logit lens. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pprobe_core.models.structure import Norm, Structure

RATIO_MIN_SKIP = (
    1e-4  # ours: a ratio needs |d_F . h| of at least this share of |d_F| |h|; below it float32 rounding decides
)


@dataclass(frozen=True)
class Directions:
    """The direction of every observable of a run in the residual stream, and which pair uses which.

    d_F = mean(W_U[T]) - mean(W_U[C]); F = d_F . normed(h_final) + head bias difference (before a soft-cap).
    """

    plain: Float[Tensor, "observable d_model"]  # d_F
    folded: Float[
        Tensor, "observable d_model"
    ]  # with the final norm's gain (and centring): F = folded . h * scale(h) + constant
    constant: Float[Tensor, "observable"]  # logits: d_F . final norm's bias + head bias difference
    index: Int[Tensor, "pair"]  # pair -> observable


def directions(structure: Structure, observables: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Directions:
    """Directions of the observables (target ids, control ids) of each pair; equal ones are computed once."""
    unique = list(dict.fromkeys(observables))
    plain = torch.stack([behavioural_direction(structure, target, control) for target, control in unique])
    constant = torch.stack([_head_bias(structure, target, control) for target, control in unique]).to(plain)
    norm = structure.final_norm
    if norm.bias is not None:
        constant = constant + plain @ norm.bias.to(plain)
    position = {observable: i for i, observable in enumerate(unique)}
    index = torch.tensor([position[observable] for observable in observables], dtype=torch.long)
    return Directions(plain, fold_norm(plain, norm), constant, index)


def behavioural_direction(
    structure: Structure, target: Sequence[int], control: Sequence[int]
) -> Float[Tensor, "d_model"]:
    """d_F = mean(W_U[T]) - mean(W_U[C]), rows of the unembedding (logit scale included), float32."""
    return structure.unembed_rows(target).mean(0) - structure.unembed_rows(control).mean(0)


def _head_bias(structure: Structure, target: Sequence[int], control: Sequence[int]) -> Float[Tensor, ""]:
    of_target, of_control = structure.unembed_bias(target), structure.unembed_bias(control)
    if of_target is None or of_control is None:
        return torch.zeros((), dtype=torch.float32)
    return of_target.float().mean() - of_control.float().mean()


def fold_norm(direction: Float[Tensor, "*any d_model"], norm: Norm | None) -> Float[Tensor, "*any d_model"]:
    """g with d . normed(x) = (g . x) * scale(x) + d . bias: the norm's gain and centring, moved onto the direction."""
    if norm is None:
        return direction
    folded = direction * norm.gain.to(direction)
    return folded - folded.mean(-1, keepdim=True) if norm.centred else folded


def write_scales(structure: Structure) -> Float[Tensor, "layer"]:
    """Factor with which what a layer adds arrives in the final residual stream: product of resid_scale from there."""
    own = torch.tensor([block.resid_scale for block in structure.blocks], dtype=torch.float64)
    return own.flip(0).cumprod(0).flip(0).float()


@dataclass(frozen=True)
class ResidualParts:
    """Residual stream of the last prompt position in every layer, as the model computed it; float32."""

    resid_pre: Float[Tensor, "layer row d_model"]
    attention: Float[Tensor, "layer row d_model"]  # as added: attention_scale included
    ffn: Float[Tensor, "layer row d_model"]  # as added: ffn_scale included
    resid_post: Float[Tensor, "layer row d_model"]


@dataclass(frozen=True)
class Signals:
    """What each part of each layer says about the logit difference, one row per prompt."""

    skip: Float[Tensor, "row layer"]  # logits, direct logit attribution of the stream entering the layer
    attention: Float[Tensor, "row layer"]  # logits
    ffn: Float[Tensor, "row layer"]  # logits
    ffn_skip: Float[Tensor, "row layer"]  # |d_F . ffn| / |d_F . h|, NaN where undefined
    attention_skip: Float[Tensor, "row layer"]
    lens_after_attention: Float[
        Tensor, "row layer"
    ]  # logits: F if the network ended there (final norm applied, no soft-cap)
    lens_after_ffn: Float[Tensor, "row layer"]
    constant: Float[Tensor, "row"]  # logits: biases of final norm and head
    final_scale: Float[Tensor, "row"]  # 1 / rms (or 1 / std) of the final residual stream


def read_signals(
    parts: ResidualParts,
    final_norm: Norm,
    write_scale: Float[Tensor, "layer"],
    plain: Float[Tensor, "row d_model"],
    folded: Float[Tensor, "row d_model"],
    constant: Float[Tensor, "row"],
) -> Signals:
    """All signals of one batch of prompts.

    Exact by identity: skip[:, 0] + attention.sum(1) + ffn.sum(1) + constant = F (before a soft-cap), because the final
    norm is linear once its scale is frozen at the value it has on this prompt. Lens values after attention use
    resid_pre + attention, also where attention and FFN run in parallel.
    """
    final_scale = final_norm.scale(parts.resid_post[-1])
    to_final = write_scale.to(folded)[:, None] * final_scale
    after_attention = parts.resid_pre + parts.attention
    skip = _along(parts.resid_pre, plain)
    # Cauchy-Schwarz gives the natural unit: the largest |d . h| these two lengths allow.
    floor = RATIO_MIN_SKIP * plain.norm(dim=-1) * parts.resid_pre.norm(dim=-1)

    def ratio(part: Float[Tensor, "layer row d_model"]) -> Float[Tensor, "row layer"]:
        return signal_ratio(_along(part, plain), skip, floor).T

    def lens(resid: Float[Tensor, "layer row d_model"]) -> Float[Tensor, "row layer"]:
        return (_along(resid, folded) * final_norm.scale(resid) + constant).T

    return Signals(
        skip=(_along(parts.resid_pre, folded) * to_final).T,
        attention=(_along(parts.attention, folded) * to_final).T,
        ffn=(_along(parts.ffn, folded) * to_final).T,
        ffn_skip=ratio(parts.ffn),
        attention_skip=ratio(parts.attention),
        lens_after_attention=lens(after_attention),
        lens_after_ffn=lens(parts.resid_post),
        constant=constant,
        final_scale=final_scale,
    )


def signal_ratio(
    part: Float[Tensor, "*any"], skip: Float[Tensor, "*any"], floor: Float[Tensor, "*any"]
) -> Float[Tensor, "*any"]:
    """|part| / |skip|, NaN where |skip| is below `floor` (or zero): there the ratio says nothing."""
    undefined = (skip.abs() < floor) | (skip == 0)
    return torch.where(undefined, torch.nan, part.abs() / torch.where(undefined, 1.0, skip.abs()))


def soft_cap_remainder(
    logits: Float[Tensor, "row vocab"],
    targets: Sequence[Sequence[int]],
    controls: Sequence[Sequence[int]],
    softcap: float,
) -> Float[Tensor, "row"]:
    """F minus what F would be without the soft-cap cap * tanh(x / cap), from the model's own capped logits."""
    logits = logits.cpu()  # float64, because near the cap the inverse is steep; some accelerators have none
    uncapped = {}
    for row, ids in enumerate(zip(targets, controls, strict=True)):
        for side, chosen in enumerate(ids):
            capped = (logits[row, list(chosen)].double() / softcap).clamp(-1 + 1e-12, 1 - 1e-12)
            uncapped[row, side] = (softcap * torch.atanh(capped)).mean()
    without = torch.stack([uncapped[row, 0] - uncapped[row, 1] for row in range(len(targets))])
    return (logit_diff(logits, targets, controls).double() - without).float()


def logit_diff(
    logits: Float[Tensor, "row vocab"], targets: Sequence[Sequence[int]], controls: Sequence[Sequence[int]]
) -> Float[Tensor, "row"]:
    """F = mean(logits[T]) - mean(logits[C]) of each row, in logits (the paper's logit gap)."""
    return torch.stack(
        [
            logits[row, list(target)].float().mean() - logits[row, list(control)].float().mean()
            for row, (target, control) in enumerate(zip(targets, controls, strict=True))
        ]
    )


def _along(
    x: Float[Tensor, "layer row d_model"], direction: Float[Tensor, "row d_model"]
) -> Float[Tensor, "layer row"]:
    return torch.einsum("lrd,rd->lr", x, direction)
