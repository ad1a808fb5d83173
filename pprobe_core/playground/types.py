"""What a visitor of the playground asks and gets. Plain values; nothing here needs torch."""

import functools
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pprobe_core.circuits.prompt_sets import MAX_PROMPT_CHARS
from pprobe_core.circuits.schema import Condition, Prompt, Side
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Position
from pprobe_core.interventions.types import N_DRAWS, DirectionKind
from pprobe_core.probing.types import RANKINGS, Ranking

MAX_NEURONS = 1000  # of a ranking that can be switched off at once here; sweeps know no such limit
MAX_FACTOR = 10.0
MAX_STRENGTH = 5.0  # lengths of the residual stream
DEFAULT_NEW_TOKENS, MAX_NEW_TOKENS = 48, 256
N_TOKENS = 10  # first tokens that are shown: the likeliest over the three answers

State = Literal["waiting", "working", "done", "failed", "left"]


@dataclass(frozen=True)
class Change:
    """What is done to the model: the first neurons of a ranking scaled, a direction added after a layer, or both."""

    n_neurons: int = 0  # 0: no neuron is touched
    factor: float = 0.0
    ranking: Ranking = "ablation"
    strength: float = 0.0  # in lengths of the residual stream, above zero towards the target; 0: nothing is added
    layer: int = 0
    direction: DirectionKind = "difference_of_means"
    position: Position = "decision"
    draw: int = 0  # which of the random controls is written out

    @property
    def scales(self) -> bool:
        """Whether some activation is changed."""
        return self.n_neurons > 0 and self.factor != 1.0

    @property
    def pushes(self) -> bool:
        """Whether a direction is added."""
        return self.strength != 0.0

    @property
    def nothing(self) -> bool:
        """Whether the model stays as it is."""
        return not (self.scales or self.pushes)

    def normal(self) -> "Change":
        """The same with everything at its default that plays no part, so that equal changes are equal values."""
        plain, change = Change(), self
        if not self.scales:
            change = replace(change, n_neurons=0, factor=plain.factor, ranking=plain.ranking)
        if not self.pushes:
            change = replace(change, strength=0.0, layer=plain.layer, direction=plain.direction)
        if self.nothing:
            change = replace(change, position=plain.position, draw=plain.draw)
        return change


@dataclass(frozen=True)
class Ask:
    """One question: a prompt to a model, with a change whose neurons and direction come from a run of that model.

    `pair_id` names a pair of the run when the prompt is that pair's `condition` side, word for word: it is then put to
    the model as the run put it, and its own target tokens and right answers are known. Without a run the model answers
    as it is, and `circuit` says whose classes name the answer.
    """

    model: str
    prompt: Prompt
    run_id: str = ""
    circuit: str = ""
    pair_id: str = ""
    condition: Condition = "original"
    change: Change = Change()
    max_new_tokens: int = DEFAULT_NEW_TOKENS

    @functools.cached_property
    def key(self) -> str:
        """Everything that decides the answer, as text: what answers are kept under."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Written:
    """One answer and how it began. `logit_diff` is F at the decision position, in logits; None where it has none."""

    text: str
    finish: Literal["stop", "limit", "broken"]
    class_name: str | None = None  # of the circuit's response classes
    side: Side = "other"  # of the observable, that the class stands for
    logit_diff: float | None = None
    looks_harmful: bool = False  # goes along with what the unedited model refuses


@dataclass(frozen=True)
class TokenChance:
    """How likely a first token is, unedited, edited and under the random control written out (fractions of 1)."""

    token_id: int
    token: str
    side: Side
    unedited: float
    edited: float | None
    random: float | None


@dataclass(frozen=True)
class Reply:
    """The answers to an Ask. Without a change there is only the unedited one."""

    ask: Ask
    unedited: Written
    edited: Written | None
    random: Written | None
    random_logit_diffs: tuple[float | None, ...]  # F under each random draw
    tokens: tuple[TokenChance, ...]  # likeliest first
    circuit: str  # id; "" when none is known
    neurons: tuple[str, ...] = ()  # the first few that are scaled, as L3.N12
    n_direction_pairs: int | None = None  # discovery pairs that the direction rests on
    target_ids: tuple[int, ...] = ()
    control_ids: tuple[int, ...] = ()
    device: str = ""
    dtype: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Standing:
    """Where a visitor's question stands.

    `ahead` counts the visitors whose turn comes before (the one being answered included). `note` says in words what is
    going on; `waits_for_model` is true while somebody else (a running job) holds the model. `reply` is the answer to
    `ask`, and `last` the newest answer to anything this visitor asked: what a page may show dimmed meanwhile.
    """

    ask: Ask
    state: State
    ahead: int = 0
    note: str = ""
    waits_for_model: bool = False
    reply: Reply | None = None
    last: Reply | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("done", "failed", "left")


def checked_ask(ask: Ask) -> Ask:
    """The question in its normal form. Raises BadRequest for what cannot be met: seen, accepted, what to do."""
    text = ask.prompt.text if ask.prompt.messages else ""
    if not text.strip():
        raise BadRequest("The prompt is empty. Write what the model should answer, or pick an example.")
    length = sum(len(message["content"]) for message in ask.prompt.messages)
    if length > MAX_PROMPT_CHARS:
        raise BadRequest(
            f"The prompt has {length:,} characters; at most {MAX_PROMPT_CHARS:,} are accepted. Shorten it."
        )
    if not 1 <= ask.max_new_tokens <= MAX_NEW_TOKENS:
        raise BadRequest(f"{ask.max_new_tokens} new tokens were asked for; 1 to {MAX_NEW_TOKENS} are accepted.")
    change = ask.change
    if change.ranking not in RANKINGS:
        raise BadRequest(f"There is no ranking {change.ranking!r}. Choose one of {', '.join(RANKINGS)}.")
    if not 0 <= change.n_neurons <= MAX_NEURONS:
        raise BadRequest(f"{change.n_neurons:,} neurons were asked for; 0 to {MAX_NEURONS:,} are accepted here.")
    if not 0 <= change.draw < N_DRAWS:
        raise BadRequest(f"There is no random draw {change.draw + 1}; there are {N_DRAWS}.")
    for what, value, limit in (("factor", change.factor, MAX_FACTOR), ("strength", change.strength, MAX_STRENGTH)):
        if not math.isfinite(value) or abs(value) > limit:
            raise BadRequest(f"The {what} is {value}; a number from {-limit:g} to {limit:g} is accepted here.")
    if not change.nothing and not ask.run_id:
        raise BadRequest(
            "Which neurons to switch off, and where to push, comes from a run of this model, and none was named. "
            "Run a behaviour on the Start page first."
        )
    return replace(ask, change=change.normal())
