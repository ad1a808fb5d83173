"""Numbers of the paper (arXiv 2604.27401), each with its place: references beside one's own runs, never mixed in.

Numbers of the paper and of its first author's open tool are told apart: `source` says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PAPER = "arXiv 2604.27401"
TOOL = "the tool of the paper's first author"

Source = Literal["paper", "tool"]


@dataclass(frozen=True)
class PaperNumber:
    """One number: shares are fractions; `n` is what it was counted over, in `of`."""

    value: float
    what: str
    model: str
    n: int
    of: str
    place: str  # in the paper; empty for a number of the tool
    source: Source = "paper"


@dataclass(frozen=True)
class PaperWindow:
    """Regimes of an injection window: first and last layer, from 0; `committed_from` runs to the last layer."""

    model: str
    n_layers: int
    strength: float  # absolute
    destructive: tuple[int, int]
    causal: tuple[int, int]
    committed_from: int
    n: int  # prompts at each layer
    place: str

    def depth(self, layer: int) -> float:
        """A layer's relative depth: 0 for the first, 1 for the last."""
        return layer / (self.n_layers - 1)


FIT_R_SQUARED = PaperNumber(
    0.81, "Variance of the ablation effect (50 neurons) explained by FFN/Skip", "13 models", 13, "models", "Figure 3"
)
SAFETY_NEURONS = PaperNumber(
    50 / 350_208, "Neurons switched off for safety refusal", "Qwen3-4B", 350_208, "neurons", "Abstract"
)
SAFETY_CHANGED = PaperNumber(
    0.80, "Refusals whose format changes, 50 neurons off", "Qwen3-4B", 520, "AdvBench prompts", "Abstract"
)
LANGUAGE_WINDOW = PaperWindow("Qwen3-4B", 36, 50.0, (0, 5), (9, 22), 24, 90, "Figure 4")
RATIOS: Mapping[str, PaperNumber] = {  # circuit -> FFN/Skip
    circuit: PaperNumber(value, "FFN/Skip", "Qwen3-0.6B", 3, "prompt pairs", "", "tool")
    for circuit, value in (
        ("language", 0.12),
        ("chain_of_thought", 0.06),
        ("factual_recall", 0.43),
        ("safety_refusal", 0.77),
        ("code", 0.95),
    )
}
NUMBERS: tuple[PaperNumber, ...] = (  # every share of the paper that a user may want beside their own
    FIT_R_SQUARED,
    SAFETY_NEURONS,
    SAFETY_CHANGED,
    PaperNumber(
        3 / 520,
        "Harmful answers, all with a disclaimer, 50 neurons off",
        "Qwen3-4B",
        520,
        "AdvBench prompts",
        "Abstract",
    ),
    PaperNumber(
        0.991, "Answers that switch from English to Chinese", "3 of 19 models", 580, "benchmark prompts", "Abstract"
    ),
    PaperNumber(
        1.0, "Best layer of the language injection, strength 50", "Qwen3-4B", 90, "prompts at each layer", "Figure 4"
    ),
    PaperNumber(
        0.0, "Best layer of the language injection, strength 50", "Gemma-3-4B", 90, "prompts at each layer", "Figure 4"
    ),
    PaperNumber(0.367, "Multi-turn capitulation, unedited", "Qwen3.5-2B", 30, "questions", "Figure 5"),
    PaperNumber(0.0, "Multi-turn capitulation, 20 neurons off", "Qwen3.5-2B", 30, "questions", "Figure 5"),
    PaperNumber(0.52, "Factual correction, unedited", "Qwen3.5-2B", 200, "TruthfulQA prompts", "Abstract"),
    PaperNumber(0.88, "Factual correction, 10 neurons amplified", "Qwen3.5-2B", 200, "TruthfulQA prompts", "Abstract"),
)


def cited(number: PaperNumber) -> str:
    """Where a number comes from: `arXiv 2604.27401, Figure 3`."""
    return f"{PAPER}, {number.place}" if number.source == "paper" else TOOL
