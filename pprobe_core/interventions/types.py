"""What sweeps hand to the store, the charts and the command line. Plain values; nothing here needs torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pprobe_core.circuits.schema import Condition, Split
from pprobe_core.interventions.edits import Position
from pprobe_core.settings import SEED

Arm = Literal["ranked", "random"]
SweepKind = Literal["dose", "factor", "window", "strength", "layers", "patch", "heads", "held"]
SweepRanking = Literal["shared", "magnitude", "ablation", "measured", "chosen"]
Side = Literal["both", "positive", "negative"]  # of the signed mean importance
DirectionKind = Literal["d_F", "difference_of_means"]

KINDS: tuple[SweepKind, ...] = get_args(SweepKind)
SWEEP_RANKINGS: tuple[SweepRanking, ...] = get_args(SweepRanking)
NEURON_KINDS: tuple[SweepKind, ...] = ("dose", "factor", "patch")  # edit neurons of a ranking
INJECTION_KINDS: tuple[SweepKind, ...] = ("window", "strength")  # add a direction to the residual stream
# What these show is about the circuit's neurons or its direction; the others compare parts of the network.
STAGE_KINDS: tuple[SweepKind, ...] = (*NEURON_KINDS, *INJECTION_KINDS)

N_DRAWS = 5  # random controls beside every point: the least the product shows, and the least a stage rests on
MAX_DRAWS = 50
MAX_SEEDS = 20
SWEEP_VERSION = 1  # raise when the numbers of an identical request would change; part of the request key


@dataclass(frozen=True)
class SweepRequest:
    """What a user asks of the model of a run. The same request on the same run gives the same sweep.

    Empty lists stand for the plan's own values (plans.py). `ranking`, `side`, `neurons` matter where neurons are edited
    (dose, factor, patch), `direction` and `relative` where a direction is added (window, strength); `factors` lists the
    curve of a factor sweep, whose set is the first `doses[0]` neurons.
    """

    run_id: str
    kind: SweepKind
    condition: Condition = "original"
    position: Position = "decision"
    ranking: SweepRanking = "ablation"
    side: Side = "both"
    neurons: tuple[str, ...] = ()  # chosen by hand ("L3.N12"), in their order; the ranking is then "chosen"
    doses: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    layers: tuple[int, ...] = ()
    strengths: tuple[float, ...] = ()  # above zero towards the target tokens
    relative: bool = True
    direction: DirectionKind = "difference_of_means"
    draws: int = N_DRAWS
    responses: bool = False
    n_seeds: int = 1  # of sampled answers; 1 with temperature 0 is greedy
    temperature: float = 0.0
    max_new_tokens: int = 24
    collateral: bool = True
    seed: int = SEED


def without_split(name: str) -> str:
    """A point's id or group without the split it ends in."""
    return name.rsplit("/", 1)[0]


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
    neurons: tuple[str, ...]
    pair_ids: tuple[str, ...]
    logit_diffs: tuple[float | None, ...]  # per prompt, in the order of pair_ids
    deltas: tuple[float | None, ...]

    @property
    def broken(self) -> bool:
        """Whether the edit made some prompt's logits something that is no number."""
        return self.n_broken > 0

    @property
    def key(self) -> str:
        """The planned point's key, shared by its splits."""
        return without_split(self.point_id)

    @property
    def place(self) -> str:
        """The group without its split: what was done, whoever was asked."""
        return without_split(self.group)

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
