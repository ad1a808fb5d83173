"""The captured blocks of a run, put back into prompt order."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pprobe_core.probing.capture import ORIGINAL, CaptureBlock, PromptSignals


@dataclass(frozen=True)
class Collected:
    """All pairs of a run in prompt order. Activations stay in their blocks and are gathered layer by layer."""

    signals: PromptSignals
    blocks: tuple[CaptureBlock, ...]
    back: Int[Tensor, "pair"]  # row of each pair when the blocks are laid end to end
    n_sequences: int
    seconds: float

    def acts(self, condition: int, layer: int) -> Float[Tensor, "pair one d_mlp"]:
        """Activations of one layer, that layer's axis kept."""
        one = slice(layer, layer + 1)
        parts = [(b.acts_original if condition == ORIGINAL else b.acts_perturbed)[:, one] for b in self.blocks]
        return torch.cat(parts)[self.back]


def collect(blocks: Sequence[CaptureBlock], n_pairs: int) -> Collected:
    """The blocks as one. Raises ValueError when a pair is missing or stands in two blocks."""
    order = torch.cat([block.pair_index for block in blocks]) if blocks else torch.empty(0, dtype=torch.long)
    if sorted(order.tolist()) != list(range(n_pairs)):
        raise ValueError(f"The blocks hold {len(order)} of {n_pairs} pairs: every pair is needed exactly once.")
    back = order.argsort()
    signals = {
        f.name: torch.cat([getattr(block.signals, f.name) for block in blocks], dim=1)[:, back]
        for f in fields(PromptSignals)
    }
    return Collected(
        signals=PromptSignals(**signals),
        blocks=tuple(blocks),
        back=back,
        n_sequences=sum(block.n_sequences for block in blocks),
        seconds=sum(block.seconds for block in blocks),
    )
