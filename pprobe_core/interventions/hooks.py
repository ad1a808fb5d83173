"""Edits applied to a model by hooks while a `with` block lasts; rows of one batch may carry different edits."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import (
    AddVector,
    Edit,
    Edits,
    Patch,
    Position,
    Restore,
    Scale,
    ScaleHeads,
    ScaleOutput,
)
from pprobe_core.interventions.heads import HeadOutputs
from pprobe_core.models.structure import Block, Structure

Site = Literal["acts", "heads", "ffn", "attention", "residual"]


@dataclass(frozen=True)
class SiteValues:
    """What some prompts give at the decision position, unedited; float32. One row per prompt of the batch."""

    acts: Float[Tensor, "prompt layer d_mlp"]
    attention: Float[Tensor, "prompt layer d_model"]  # as added: attention_scale included
    ffn: Float[Tensor, "prompt layer d_model"]  # as added: ffn_scale included
    residual: Float[Tensor, "prompt layer d_model"]  # after the layer

    def of(self, prompts: Sequence[int]) -> "SiteValues":
        """The rows of some prompts."""
        rows = torch.tensor(list(prompts), dtype=torch.long)
        return SiteValues(self.acts[rows], self.attention[rows], self.ffn[rows], self.residual[rows])


@dataclass(frozen=True)
class EditContext:
    """What edits may need beside themselves: values of the same prompts unedited, and of the pairs' other prompts."""

    own: SiteValues | None = None
    other: SiteValues | None = None
    heads: HeadOutputs | None = None


# A change gets the tensor of a site as [prompt, edit, position, d], a copy, and writes into it.
Change = Callable[[Float[Tensor, "prompt edit position d"]], None]


@contextlib.contextmanager
def applying(
    structure: Structure,
    rows: Sequence[Edits],
    *,
    n_prompts: int = 1,
    context: EditContext | None = None,
    at_decision: bool = True,
    one_prompt_per_row: bool = False,
) -> Iterator[None]:
    """Apply `rows[e]` to batch row p * len(rows) + e of every prompt p, for every forward pass inside the block.

    The batch holds n_prompts * len(rows) rows, or one row per prompt with len(rows) positions (shared_prefix.py). The
    last position is the decision position when `at_decision`, otherwise a generated one, which only edits at "all"
    positions touch. With `one_prompt_per_row` every row is a prompt of its own, with its own row of the context's
    values. Where no row edits a place, no hook stands there. The hooks are gone on leaving, also after an error.
    """
    changes = _compile(rows, context or EditContext(), structure, at_decision, one_prompt_per_row)
    handles = []
    try:
        for (site, layer), of_site in sorted(changes.items()):
            module = _module(structure, context, site, layer)
            change = _changing(of_site, n_prompts, len(rows))
            if site in ("acts", "heads"):
                handles.append(module.register_forward_pre_hook(_on_input(change), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_on_output(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module(structure: Structure, context: EditContext | None, site: Site, layer: int) -> nn.Module:
    block = structure.blocks[layer]
    if site == "heads":
        if context is None or context.heads is None:
            raise BadRequest(
                "This model's attention heads cannot be told apart, so none can be edited. Edit neurons instead."
            )
        return context.heads.modules[layer]
    return {
        "acts": block.down_proj,
        "ffn": block.ffn_out,
        "attention": block.attention_out,
        "residual": block.module,
    }[site]


def _changing(changes: Sequence[Change], n_prompts: int, n_edits: int) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        # A copy: the tensor may be one that the model still needs, or writes into later.
        grid = x.detach().clone().reshape(n_prompts, n_edits, -1, x.shape[-1])
        for one in changes:
            one(grid)
        return grid.reshape(x.shape)

    return change


def _on_input(change: Callable[[Tensor], Tensor]) -> Any:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        return args, kwargs | {name: change(kwargs[name])}

    return hook


def _on_output(change: Callable[[Tensor], Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


# From edits to changes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Edits of one kind at one place are applied together. `order`: a row's edits keep their order."""

    site: Site
    layer: int
    order: int
    kind: str
    position: Position


def _compile(
    rows: Sequence[Edits], context: EditContext, structure: Structure, at_decision: bool, per_row: bool
) -> dict[tuple[Site, int], list[Change]]:
    """The changes at every place some row edits, in the order of the rows' edits."""
    gathered: dict[_Place, list[tuple[int, Edit]]] = defaultdict(list)
    for row, edits in enumerate(rows):
        for order, edit in enumerate(edits):
            if edit.position == "decision" and not at_decision:
                continue
            for site, layer in _places(edit):
                gathered[_Place(site, layer, order, type(edit).__name__, edit.position)].append((row, edit))
    changes: dict[tuple[Site, int], list[Change]] = defaultdict(list)
    for place in sorted(gathered, key=lambda p: (p.site, p.layer, p.order, p.kind, p.position)):
        block = structure.blocks[place.layer]
        changes[place.site, place.layer].append(_change(place, gathered[place], context, block, per_row))
    return changes


def _places(edit: Edit) -> list[tuple[Site, int]]:
    if isinstance(edit, Scale | Patch | Restore):
        return [("acts", layer) for layer in sorted({n.layer for n in edit.neurons})]
    if isinstance(edit, ScaleHeads):
        return [("heads", layer) for layer in sorted({h.layer for h in edit.heads})]
    if isinstance(edit, AddVector):
        return [("residual", edit.layer)]
    return [(edit.kind, layer) for layer in edit.layers]


def _change(place: _Place, edits: list[tuple[int, Edit]], context: EditContext, block: Block, per_row: bool) -> Change:
    """One vectorised change for all rows that carry an edit of this kind at this place."""
    layer, device = place.layer, block.weight.device
    all_positions = place.position == "all"
    row_ids = torch.tensor([row for row, _ in edits], device=device)
    if place.kind in ("Scale", "ScaleHeads"):
        width = 1 if place.kind == "Scale" else _heads(context).head_dim
        index, columns, factors = _columns(edits, layer, width, device)
        return _scale_columns(index, columns, factors, all_positions)
    if place.kind in ("Patch", "Restore"):
        index, columns, _ = _columns(edits, layer, 1, device)
        acts = _values(context.other, "the pairs' other prompts").acts[:, layer].to(device)
        return _replace_columns(index, columns, acts[index, columns][None] if per_row else acts[:, columns])
    if place.kind == "ScaleOutput":
        by_row = [e.factor for _, e in edits if isinstance(e, ScaleOutput)]
        factors = torch.tensor(by_row, dtype=torch.float32, device=device)
        return _scale_rows(row_ids, factors, all_positions)
    if place.kind in ("PatchOutput", "HoldOutput"):
        source = context.other if place.kind == "PatchOutput" else context.own
        values = getattr(_values(source, "these prompts"), place.site)[:, layer].to(device)
        # The values are as added to the stream; the hook stands before the layer's own factor.
        scale = {"attention": block.attention_scale, "ffn": block.ffn_scale}.get(place.site, 1.0)
        values = values / scale
        return _replace_rows(row_ids, values[row_ids][None] if per_row else values[:, None])
    vectors = [e for _, e in edits if isinstance(e, AddVector)]
    return _add_vectors(row_ids, vectors, all_positions, device)


def _heads(context: EditContext) -> HeadOutputs:
    if context.heads is None:
        raise BadRequest(
            "This model's attention heads cannot be told apart, so none can be edited. Edit neurons instead."
        )
    return context.heads


def _values(values: SiteValues | None, whose: str) -> SiteValues:
    if values is None:
        raise ValueError(f"The edit needs values of {whose}, which were not read.")
    return values


def _columns(
    edits: list[tuple[int, Edit]], layer: int, width: int, device: torch.device
) -> tuple[Int[Tensor, "item"], Int[Tensor, "item"], Float[Tensor, "item"]]:
    """Row, column and factor of every neuron (or of every dimension of every head) edited in this layer."""
    index: list[int] = []
    columns: list[int] = []
    factors: list[float] = []
    for row, edit in edits:
        items: tuple[Any, ...] = edit.heads if isinstance(edit, ScaleHeads) else edit.neurons  # type: ignore[union-attr]
        for item in items:
            if item[0] == layer:
                index += [row] * width
                columns += range(item[1] * width, (item[1] + 1) * width)
                factors += [getattr(edit, "factor", 1.0)] * width
    return (
        torch.tensor(index, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(factors, dtype=torch.float32, device=device),
    )


def _scale_columns(index: Tensor, columns: Tensor, factors: Tensor, all_positions: bool) -> Change:
    def change(x: Tensor) -> None:
        if all_positions:
            # Indices apart from each other: the result's axes are item, prompt, position.
            x[:, index, :, columns] = x[:, index, :, columns] * factors.to(x.dtype)[:, None, None]
        else:
            last = x[:, :, -1]
            last[:, index, columns] = last[:, index, columns] * factors.to(x.dtype)

    return change


def _replace_columns(index: Tensor, columns: Tensor, values: Float[Tensor, "prompt item"]) -> Change:
    def change(x: Tensor) -> None:
        x[:, :, -1][:, index, columns] = values.to(x.dtype)

    return change


def _scale_rows(rows: Tensor, factors: Tensor, all_positions: bool) -> Change:
    def change(x: Tensor) -> None:
        if all_positions:
            x[:, rows] = x[:, rows] * factors.to(x.dtype)[:, None, None]
        else:
            last = x[:, :, -1]
            last[:, rows] = last[:, rows] * factors.to(x.dtype)[:, None]

    return change


def _replace_rows(rows: Tensor, values: Float[Tensor, "prompt #row d"]) -> Change:
    def change(x: Tensor) -> None:
        x[:, :, -1][:, rows] = values.to(x.dtype).expand(-1, len(rows), -1)

    return change


def _add_vectors(rows: Tensor, edits: Sequence[AddVector], all_positions: bool, device: torch.device) -> Change:
    distinct = {e.vector: i for i, e in enumerate(dict.fromkeys(edits))}  # equal directions are converted once
    unit = {v: torch.nn.functional.normalize(torch.tensor(v, dtype=torch.float64), dim=0).float() for v in distinct}
    vectors = torch.stack([unit[e.vector] for e in edits]).to(device)
    strengths = torch.tensor([e.strength for e in edits], dtype=torch.float32, device=device)
    relative = torch.tensor([e.relative for e in edits], device=device)

    def change(x: Tensor) -> None:
        target = x if all_positions else x[:, :, -1:]
        old = target[:, rows].float()
        length = torch.where(relative[:, None, None], old.norm(dim=-1, keepdim=True), 1.0)
        target[:, rows] = (old + strengths[:, None, None] * length * vectors[:, None]).to(x.dtype)

    return change
