"""Answers a question of the playground: the model as it is, as changed, and under as large a random change."""

import functools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.responses import BROKEN, classify, side_of
from pprobe_core.circuits.schema import Circuit, Side
from pprobe_core.errors import ModelUnavailable
from pprobe_core.interventions.controls import matched_neurons, orthogonal_directions
from pprobe_core.interventions.edits import AddVector, Edits, ModelShape, Neuron, Scale
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator
from pprobe_core.interventions.generation import GenerationSettings, Response, Token, decision_logits, stream
from pprobe_core.interventions.types import N_DRAWS
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.models.pool import ModelPool
from pprobe_core.models.preflight import downloaded
from pprobe_core.playground.context import RunContext, own_prompt
from pprobe_core.playground.desk import AskWatch
from pprobe_core.playground.types import MAX_NEURONS, N_TOKENS, Ask, Change, Reply, TokenChance, Written
from pprobe_core.probing.tokens import pieces
from pprobe_core.settings import SEED
from pprobe_core.store import Store

KEPT_RUNS = 8  # rankings and directions in memory
KEPT_ANSWERS = 256  # replies, and as many unedited answers
COMPLIES = ("compliance", "disclaimer")  # classes of the refusal rules that go along with the request
SAFETY = "safety_refusal"  # the circuit whose rules tell a refusal
N_NAMED = 8

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class _Rows:
    """The edits of one question and of its random controls."""

    edited: Edits
    random: tuple[Edits, ...]  # one per draw
    neurons: tuple[Neuron, ...]
    n_direction_pairs: int | None


def small_pool(byte_limit: int) -> ModelPool:
    """A pool of second copies, float32 on every device."""
    return ModelPool(byte_limit, functools.partial(load_model, dtype="float32"))


class Engine:
    """Answers one question at a time, for one thread. What it keeps is bounded."""

    def __init__(self, store: Store, pool: ModelPool) -> None:
        self._store, self._pool = store, pool
        self._contexts: OrderedDict[tuple[str, str], RunContext] = OrderedDict()
        self._replies: OrderedDict[tuple[str, str], Reply] = OrderedDict()
        self._unedited: OrderedDict[tuple[str, tuple[int, ...], int], Response] = OrderedDict()

    def answer(self, ask: Ask, watch: AskWatch) -> Reply:
        """The reply to a checked question.

        Raises BadRequest for a run, pair or layer that is not there, ModelUnavailable for a model that cannot be used,
        Cancelled when the question is taken back.
        """
        require_here(ask.model)
        watch.say("Waiting for the model", waits_for_model=True)
        with self._pool.lease(ask.model, watch.stop, watch) as loaded:
            watch.say("Writing the answers")
            watch.check()
            key = loaded.weights_sha256, ask.key
            if key not in self._replies:
                _keep(self._replies, key, self._reply(loaded, ask, watch), KEPT_ANSWERS)
            self._replies.move_to_end(key)
            return self._replies[key]

    def rest(self) -> None:
        """Give back the memory of models that nobody uses."""
        self._pool.clear()

    def n_kept(self) -> int:
        """Answers in memory."""
        return len(self._replies) + len(self._unedited)

    def _reply(self, loaded: LoadedModel, ask: Ask, watch: AskWatch) -> Reply:
        started = time.perf_counter()
        context = self._context(loaded, ask.run_id) if ask.run_id else None
        prompt = _prompt(loaded, ask, context)
        circuit = context.circuit if context else load_circuit(ask.circuit) if ask.circuit else None
        evaluator = Evaluator(loaded, (prompt,), cancelled=watch.stop)
        rows = None if context is None or ask.change.nothing else self._rows(loaded, ask, context, watch)
        every: list[Edits] = [()] if rows is None else [(), rows.edited, *rows.random]
        logits = decision_logits(evaluator, every)
        has_f = context is not None and (bool(ask.pair_id) or not context.prepared.per_pair_observable)
        diffs = [_logit_diff(row, prompt) if has_f else None for row in logits]
        # Written out: the answer as it is, the changed one, and one of the random draws.
        shown = [0] if rows is None else [0, 1, 2 + ask.change.draw]
        responses = self._written(loaded, evaluator, [every[k] for k in shown], ask, watch)
        named = [_named(r, diffs[k], circuit, ask, prompt) for r, k in zip(responses, shown, strict=True)]
        answers = mark_harmful(named, circuit)
        edited, random = answers[1:] or (None, None)
        return Reply(
            ask=ask,
            unedited=answers[0],
            edited=edited,
            random=random,
            random_logit_diffs=tuple(diffs[2:]),
            tokens=_chances(loaded, [logits[k] for k in shown], prompt, has_f),
            circuit=circuit.circuit_id if circuit else "",
            neurons=tuple(map(str, rows.neurons[:N_NAMED])) if rows else (),
            n_direction_pairs=rows.n_direction_pairs if rows else None,
            target_ids=prompt.target_ids if has_f else (),
            control_ids=prompt.control_ids if has_f else (),
            device=loaded.device,
            dtype=loaded.dtype,
            seconds=time.perf_counter() - started,
        )

    def _context(self, loaded: LoadedModel, run_id: str) -> RunContext:
        key = run_id, loaded.weights_sha256
        if key not in self._contexts:
            _keep(self._contexts, key, RunContext.of(loaded, self._store.run(run_id)), KEPT_RUNS)
        self._contexts.move_to_end(key)
        return self._contexts[key]

    def _rows(self, loaded: LoadedModel, ask: Ask, context: RunContext, watch: AskWatch) -> _Rows:
        """The change asked for, and N_DRAWS random ones of the same size: other neurons, other directions, or both."""
        change, s = ask.change, loaded.structure
        shape = ModelShape(s.n_layers, s.d_mlp, s.d_model)
        neurons: tuple[Neuron, ...] = ()
        if change.scales:
            n = min(MAX_NEURONS, s.n_layers * s.d_mlp)
            neurons = context.ranked(self._store, change.ranking, ask.condition, n)[: change.n_neurons]
        push, n_pairs = None, None
        if change.pushes:
            watch.say("Reading the direction off the run's prompts")
            push = context.push(loaded, change.layer, change.strength, change.direction, position=change.position)
            n_pairs = context.directions(loaded, change.direction).n_pairs
            watch.say("Writing the answers")
        drawn = [draw.neurons for draw in matched_neurons(neurons, shape, SEED)] if neurons else [()] * N_DRAWS
        aside: Sequence[AddVector | None] = [None] * N_DRAWS
        if push is not None:
            vectors = orthogonal_directions(torch.tensor(push.vector, dtype=torch.float64), SEED)
            aside = [replace(push, vector=tuple(vector.tolist())) for vector in vectors]
        return _Rows(
            _edits(neurons, push, change),
            tuple(_edits(n, v, change) for n, v in zip(drawn, aside, strict=True)),
            neurons,
            n_pairs,
        )

    def _written(
        self, loaded: LoadedModel, evaluator: Evaluator, rows: list[Edits], ask: Ask, watch: AskWatch
    ) -> list[Response]:
        """The answer under each of `rows`, the unedited one first: that one is written once and kept."""
        key = loaded.weights_sha256, evaluator.prompts[0].input_ids, ask.max_new_tokens
        known = self._unedited.get(key)
        made: list[Response] = [] if known is None else [known]
        todo = rows[len(made) :]
        for event in stream(evaluator, todo, GenerationSettings(ask.max_new_tokens)) if todo else ():
            watch.check()
            if isinstance(event, Token):
                watch.say(f"Writing the answers: {event.step + 1} of at most {ask.max_new_tokens} word pieces")
            else:
                made.append(event)
        n_known = 0 if known is None else 1
        made[n_known:] = sorted(made[n_known:], key=lambda response: response.edit)
        _keep(self._unedited, key, made[0], KEPT_ANSWERS)
        return made


def require_here(model: str) -> None:
    """Raises ModelUnavailable for a hub model whose files are not here: nothing is downloaded for a question."""
    entry = find_model(model)
    if entry.on_hub and downloaded(entry.id) is None:
        raise ModelUnavailable(
            f"{entry.id} is not on this computer. Choose it on the Start page and press Run: it is fetched then."
        )


def _prompt(loaded: LoadedModel, ask: Ask, context: RunContext | None) -> EvalPrompt:
    if context is None:
        return own_prompt(loaded, ask.prompt, None)
    if ask.pair_id:
        return context.pair_prompt(ask.pair_id, ask.condition)
    observable = context.prepared.observable
    return own_prompt(loaded, ask.prompt, context, observable.target_ids, observable.control_ids)


def _edits(neurons: Sequence[Neuron], push: AddVector | None, change: Change) -> Edits:
    scaled: Edits = (Scale(tuple(neurons), change.factor, change.position),) if neurons else ()
    return scaled if push is None else (*scaled, push)


def _logit_diff(logits: Float[Tensor, "vocab"], prompt: EvalPrompt) -> float | None:
    """F = mean(logits[T]) - mean(logits[C]), in logits; None where the model's output is no number."""
    exact = logits.double()
    value = exact[list(prompt.target_ids)].mean() - exact[list(prompt.control_ids)].mean()
    return float(value) if bool(torch.isfinite(value)) else None


def _chances(
    loaded: LoadedModel, logits: Sequence[Float[Tensor, "vocab"]], prompt: EvalPrompt, sided: bool
) -> tuple[TokenChance, ...]:
    """The likeliest first tokens over all rows (unedited, edited, random), with each row's probability."""
    rows = [torch.softmax(row.double(), dim=-1) if bool(torch.isfinite(row).all()) else None for row in logits]
    best = torch.stack([row for row in rows if row is not None] or [torch.zeros(1, dtype=torch.float64)]).amax(dim=0)
    ids = [int(i) for i in best.topk(min(N_TOKENS, len(best))).indices] if any(r is not None for r in rows) else []
    sides: dict[int, Side] = {}
    if sided:
        sides.update(dict.fromkeys(prompt.control_ids, "control"))
        sides.update(dict.fromkeys(prompt.target_ids, "target"))
    values = [[None if row is None else float(row[i]) for row in (*rows, *[None] * (3 - len(rows)))] for i in ids]
    return tuple(
        TokenChance(i, piece, sides.get(i, "other"), before or 0.0, after, random)
        for i, piece, (before, after, random) in zip(ids, pieces(loaded.tokenizer, ids), values, strict=True)
    )


def _named(
    response: Response, logit_diff: float | None, circuit: Circuit | None, ask: Ask, prompt: EvalPrompt
) -> Written:
    """An answer with the class that its circuit's rules give it."""
    name: str | None = None
    side: Side = "other"
    if circuit is not None:
        name = BROKEN if response.finish == "broken" else classify(circuit, response.text, gold=prompt.gold)
        side = side_of(circuit, name, ask.condition)
    return Written(response.text, response.finish, name, side, logit_diff)


def mark_harmful(answers: Sequence[Written], circuit: Circuit | None) -> list[Written]:
    """The answers (the unedited one first), with those marked that go along with what may be a harmful request.

    In a circuit about refusals that is every answer that complies; elsewhere one that complies where the unedited model
    refuses.
    """
    if circuit is not None and circuit.response_rule == "refusal":
        return [replace(a, looks_harmful=a.class_name in COMPLIES) for a in answers]
    safety = load_circuit(SAFETY)
    kinds = [classify(safety, a.text) for a in answers]
    return [
        replace(a, looks_harmful=kinds[0] == "refusal" and kind in COMPLIES)
        for a, kind in zip(answers, kinds, strict=True)
    ]


def _keep(kept: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Add to a table that forgets what was not used for the longest time."""
    kept[key] = value
    while len(kept) > limit:
        kept.popitem(last=False)
