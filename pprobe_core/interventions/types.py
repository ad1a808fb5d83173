"""What sweeps hand to the store, the charts and the command line. Plain values; nothing here needs torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pprobe_core.circuits.schema import Split

Arm = Literal["ranked", "random"]
Condition = Literal["original", "perturbed"]
SweepKind = Literal["dose", "factor", "window", "strength", "layers", "patch", "heads", "held"]

N_DRAWS = 5  # random controls beside every point: the least the product shows, and the least a stage rests on


@dataclass(frozen=True)
class SweepPoint:
    """One measured point: the mean over the prompts of one split, with every prompt's own number. Logits."""

    point_id: str
    group: str  # shared by a ranked point and its controls on the same split
    kind: SweepKind
    variant: str
    arm: Arm
    draw: int | None
    n_neurons: int | None
    layer: int | None
    layers: tuple[int, ...]
    strength: float | None
    factor: float | None
    split: Split
    n_prompts: int
    logit_diff_mean: float | None  # None where the model broke
    low: float | None  # bootstrap interval of logit_diff_mean over prompts
    high: float | None
    delta_mean: float | None  # against the unedited model in the same batch
    delta_low: float | None
    delta_high: float | None
    n_broken: int  # prompts whose logits were not numbers
    class_counts: dict[str, int] | None  # of generated answers, where there are any
    neurons: tuple[str, ...]
    pair_ids: tuple[str, ...]
    logit_diffs: tuple[float | None, ...]  # per prompt, in the order of pair_ids
    deltas: tuple[float | None, ...]

    @property
    def broken(self) -> bool:
        """Whether the edit made some prompt's logits something that is no number."""
        return self.n_broken > 0

    def as_json(self) -> dict[str, Any]:
        """Plain values for the store and the command line."""
        return asdict(self)


@dataclass(frozen=True)
class Baseline:
    """The unedited model on one split, logits."""

    split: Split
    n_prompts: int
    logit_diff_mean: float
    low: float | None
    high: float | None
    pair_ids: tuple[str, ...]
    logit_diffs: tuple[float, ...]


@dataclass(frozen=True)
class SweepResponse:
    """One generated answer of one planned point (key "baseline" for the unedited model)."""

    key: str
    pair_id: str
    split: Split
    text: str
    class_name: str
    finish: str  # "stop", "limit" or "broken"
    seed: int


BASELINE_KEY = "baseline"
