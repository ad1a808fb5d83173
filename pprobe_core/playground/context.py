"""A stored run on its loaded model: prompts written as the run writes them, its rankings, its directions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pprobe_core.circuits.schema import Circuit, Condition, Prompt
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.directions import Directions, find_directions
from pprobe_core.interventions.edits import AddVector, Neuron, Position
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator, prompts_of
from pprobe_core.interventions.measured import ranked_neurons
from pprobe_core.interventions.types import DirectionKind
from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing.tokens import encode_prompt
from pprobe_core.probing.types import Prepared, Ranking
from pprobe_core.store import Run, Store
from pprobe_core.sweeping import prepare_run


@dataclass
class RunContext:
    """What edits take from a run, read once. Holds no model: the caller lends it."""

    run: Run
    circuit: Circuit
    prepared: Prepared
    _directions: dict[DirectionKind, Directions] = field(default_factory=dict)
    _ranked: dict[tuple[Ranking, Condition], tuple[Neuron, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel, run: Run) -> "RunContext":
        """Raises BadRequest when model, circuit or prompts are not those of the run any more."""
        return cls(run, *prepare_run(loaded, run))

    def directions(self, loaded: LoadedModel, kind: DirectionKind) -> Directions:
        """The direction after every layer, from the run's discovery pairs; found at first use.

        The same for both prompts of the pairs. Raises BadRequest when a direction has length zero.
        """
        if kind not in self._directions:
            evaluator = Evaluator(loaded, prompts_of(self.prepared.pairs, "original"))
            self._directions[kind] = find_directions(evaluator, kind)
        return self._directions[kind]

    def push(
        self,
        loaded: LoadedModel,
        layer: int,
        strength: float,
        kind: DirectionKind,
        *,
        relative: bool = True,
        position: Position = "decision",
    ) -> AddVector:
        """The run's direction added after a layer. Raises BadRequest for a layer that is not there."""
        n_layers = loaded.structure.n_layers
        if not 0 <= layer < n_layers:
            raise BadRequest(f"There is no layer {layer}: this model's layers are numbered 0 to {n_layers - 1}.")
        vector = self.directions(loaded, kind).vectors[layer]
        return AddVector.along(layer, vector, strength, relative=relative, position=position)

    def ranked(self, store: Store, ranking: Ranking, condition: Condition, n: int) -> tuple[Neuron, ...]:
        """The run's neurons in the order of a two-pass ranking, the first `n` of them; read once per ranking."""
        key = ranking, condition
        if len(self._ranked.get(key, ())) < n:
            table = store.neurons(self.run.run_id)
            self._ranked[key] = ranked_neurons(table, ranking, condition=condition)[:n]
        return self._ranked[key][:n]

    def pair_prompt(self, pair_id: str, condition: Condition) -> EvalPrompt:
        """One prompt of a pair as the run measured it. Raises BadRequest for a pair that is not in the run."""
        found = [pair for pair in self.prepared.pairs if pair.pair_id == pair_id]
        if not found:
            raise BadRequest(f"The run {self.run.run_id} has no pair {pair_id!r}. Pick another example.")
        return prompts_of(found, condition)[0]


def own_prompt(
    loaded: LoadedModel,
    prompt: Prompt,
    context: RunContext | None,
    target_ids: Sequence[int] = (0,),
    control_ids: Sequence[int] = (1,),
) -> EvalPrompt:
    """A prompt of one's own, written as the run's prompts are (thinking on or off), with the tokens that F reads.

    Raises what encode_prompt raises.
    """
    thinking = context is not None and context.prepared.thinking
    asked = context is not None and context.run.request.thinking != "auto"
    ids = encode_prompt(loaded.tokenizer, prompt, thinking=thinking, asked=asked)
    return EvalPrompt("prompt", "heldout", ids, ids, tuple(target_ids), tuple(control_ids))
