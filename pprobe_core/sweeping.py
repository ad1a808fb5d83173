"""A sweep from request to stored result: what the worker does with the model of a run.

Every piece is committed as it is made, so a sweep that was stopped goes on with what is missing.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.neutral_texts import load_neutral_texts
from pprobe_core.circuits.prompt_sets import BUILT_IN, default_prompts, load_prompt_set
from pprobe_core.circuits.responses import RULES_VERSION
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions import plans
from pprobe_core.interventions.collateral import Collateral, NeutralText, circuit_collateral, text_collateral
from pprobe_core.interventions.directions import Directions, find_directions, selecting, separability
from pprobe_core.interventions.edits import ModelShape, Neuron, check_neurons, parse_neurons
from pprobe_core.interventions.evaluator import Evaluator, prompts_of
from pprobe_core.interventions.generation import GenerationSettings
from pprobe_core.interventions.heads import score_heads
from pprobe_core.interventions.measured import measure_neurons, measured_ranking, ranked_neurons, shortlist
from pprobe_core.interventions.plans import Planned
from pprobe_core.interventions.requests import sweep_id_of, sweep_key
from pprobe_core.interventions.statistics import StageReached, compare, reached_stage
from pprobe_core.interventions.sweeps import baselines, run_sweep, sweep_responses
from pprobe_core.interventions.types import (
    INJECTION_KINDS,
    NEURON_KINDS,
    STAGE_KINDS,
    SweepPoint,
    SweepRequest,
    SweepResponse,
)
from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing import probe
from pprobe_core.probing.scores import lowering_or_raising
from pprobe_core.probing.tokens import encode_chat
from pprobe_core.probing.types import Prepared, ProbeRequest
from pprobe_core.store import Run, Spent, Store

COLLATERAL_PROMPTS = 24  # of each other circuit: held-out ones first
RESPONSE_BATCH = 64  # answers committed together


class Progress(Protocol):
    """What the worker offers to a sweep: where it stands, whether to go on, and pauses for others."""

    done: int
    stop: Any  # threading.Event

    def enter(self, phase: Any, total: int = 0, done: int = 0) -> None: ...
    def check(self) -> None: ...
    def pause(self) -> None: ...  # check, and let others use the model: only while no hook is on it


@dataclass
class Work:
    """A sweep in hand: the model, the prompts, what is planned and where it is stored."""

    store: Store
    loaded: LoadedModel
    run: Run
    circuit: Circuit
    prepared: Prepared
    request: SweepRequest
    sweep_id: str  # under which its pieces are stored while it runs (Store.place_of)
    evaluator: Evaluator
    progress: Progress

    @property
    def shape(self) -> ModelShape:
        """What there is to edit."""
        s = self.loaded.structure
        return ModelShape(s.n_layers, s.d_mlp, s.d_model)


def perform(store: Store, loaded: LoadedModel, run: Run, request: SweepRequest, job_id: str, progress: Progress) -> str:
    """Measure a sweep, or what is missing of it, and store it; returns its id. A recorded one stays until then.

    Raises BadRequest when the model or the prompts are not those of the run any more, or the request names what the
    model does not have; Cancelled when stopped (what was measured is kept).
    """
    key = sweep_key(run.request_key, request)
    work = _work(store, loaded, run, request, store.place_of(key[:12]), progress)
    with _counted(work):
        ranked = _ranked(work)
        plan, directions = _plan(work, ranked)
        _measure(work, plan)
        if request.responses:
            _answer(work, plan)
        collateral = _collateral(work, plan) if request.collateral else ()
        progress.enter("saving")
        base = [asdict(b) for b in baselines(work.evaluator, request.seed)]
        separable = separability(work.evaluator) if request.kind in INJECTION_KINDS else ()
    summary = _summary(work, plan, directions)
    summary |= {
        "baseline": base,
        "collateral": [asdict(row) for row in collateral],
        "separability": [asdict(row) for row in separable],
    }
    progress.check()
    sweep_id = str(summary["sweep_id"])
    store.save_sweep(sweep_id, key, request, summary, job_id, measured_as=work.sweep_id)
    return sweep_id


def _work(
    store: Store, loaded: LoadedModel, run: Run, request: SweepRequest, sweep_id: str, progress: Progress
) -> Work:
    circuit, prepared = prepare_run(loaded, run)
    evaluator = Evaluator(
        loaded, prompts_of(prepared.pairs, request.condition), request.condition, cancelled=progress.stop
    )
    return Work(store, loaded, run, circuit, prepared, request, sweep_id, evaluator, progress)


def prepare_run(loaded: LoadedModel, run: Run) -> tuple[Circuit, Prepared]:
    """The circuit and the prepared pairs of a stored run. Raises BadRequest when they are not those of the run."""
    summary = run.summary
    if loaded.id != summary.get("model"):
        raise BadRequest(
            f"The run {run.run_id} was made on {summary.get('model')}, and this is {loaded.id}. "
            "Use the run's own model."
        )
    circuit = load_circuit(run.request.circuit)
    prompt_set = load_prompt_set(circuit, run.request.prompts)
    for what, now, then in (
        ("model's weights", loaded.weights_sha256, summary.get("weights_sha256")),
        ("model's tokeniser", loaded.tokenizer_sha256, summary.get("tokenizer_sha256")),
        ("circuit's file", circuit.sha256, summary.get("circuit_sha256")),
        ("prompt set", prompt_set.sha256, summary.get("prompt_set_sha256")),
    ):
        if now != then:
            raise BadRequest(
                f"The {what} changed since the run {run.run_id} was made, so its neurons would not fit. "
                "Run the probe again and sweep the new run."
            )
    return circuit, probe.prepare(loaded, circuit, prompt_set, run.request)


@contextmanager
def _counted(work: Work) -> Iterator[None]:
    """Note the forward passes of this attempt in the store, however it ends."""
    started, passes = time.perf_counter(), work.evaluator.passes
    try:
        yield
    finally:
        spent = Spent(passes.full, passes.last_token, time.perf_counter() - started)
        work.store.add_passes(work.sweep_id, spent)


# What is edited ----------------------------------------------------------------------------------------------------


def _ranked(work: Work) -> tuple[Neuron, ...]:
    """The neurons in the order asked for; () where none are edited."""
    request = work.request
    if request.kind not in NEURON_KINDS:
        return ()
    if request.ranking == "chosen":
        neurons = parse_neurons(", ".join(request.neurons))
        check_neurons(neurons, work.shape)
        return neurons
    table = work.store.neurons(work.run.run_id)
    if request.ranking == "measured":
        ranked = _measured(work)
        if request.side == "both":
            return ranked
        kept = set(ranked_neurons(table, "shared", request.side))
        return tuple(neuron for neuron in ranked if neuron in kept)
    return ranked_neurons(table, request.ranking, request.side, condition=request.condition)


def _measured(work: Work) -> tuple[Neuron, ...]:
    """The shortlist by each neuron's own effect on the selecting prompts; measured once for a run and kept."""
    request, store, run_id = work.request, work.store, work.run.run_id
    chosen = shortlist(store.neurons(run_id), condition=request.condition)
    known = store.effects(run_id, request.condition, request.position)
    rows = selecting(work.evaluator)
    prompts = tuple(work.evaluator.prompts[i] for i in rows)
    # From the sweep's own evaluator, whose passes are counted with the sweep.
    sign = lowering_or_raising(torch.from_numpy((work.evaluator.other_baseline() - work.evaluator.baseline())[rows]))
    evaluator = Evaluator(work.loaded, prompts, request.condition, cancelled=work.progress.stop)
    work.progress.enter("measuring neurons", len(chosen), len(set(chosen) & set(known)))
    full = last = 0
    started = time.perf_counter()
    for block in measure_neurons(evaluator, chosen, position=request.position, skip=known.keys()):
        spent = Spent(block.n_full_passes - full, block.n_last_token_passes - last, time.perf_counter() - started)
        full, last, started = block.n_full_passes, block.n_last_token_passes, time.perf_counter()
        effects = list(zip(block.neurons, block.effects, strict=True))
        store.add_effects(run_id, request.condition, request.position, effects, len(prompts), spent)
        known.update(effects)
        work.progress.done = block.n_done
        work.progress.pause()
    return measured_ranking({n: known[n] for n in chosen}, sign)


def _plan(work: Work, ranked: tuple[Neuron, ...]) -> tuple[tuple[Planned, ...], Directions | None]:
    request, shape, seed = work.request, work.shape, work.request.seed
    draws, position = request.draws, request.position
    if request.kind in INJECTION_KINDS:
        directions = find_directions(work.evaluator, request.direction)
        # Without strengths of one's own: towards what the other prompts do.
        strengths = request.strengths or tuple(
            directions.toward_other * s
            for s in (plans.RELATIVE_STRENGTHS if request.relative else plans.ABSOLUTE_STRENGTHS)
        )
        options: dict[str, Any] = {
            "strengths": strengths,
            "relative": request.relative,
            "position": position,
            "n_draws": draws,
        }
        if request.kind == "window":
            return plans.window_plan(directions, seed, layers=request.layers or None, **options), directions
        layers = request.layers or (shape.n_layers // 2,)
        return plans.strength_plan(directions, seed, layers=layers, **options), directions
    if request.kind == "layers":
        return plans.layers_plan(shape.n_layers, position=position), None
    if request.kind == "held":
        return plans.held_plan(shape.n_layers), None
    if request.kind == "heads":
        return _heads_plan(work), None
    if not ranked:
        raise BadRequest("The ranking has no neuron of that side. Choose both sides, or another ranking.")
    if request.kind == "factor":
        n = (request.doses or (len(ranked) if request.neurons else min(20, len(ranked)),))[0]
        factors = request.factors or plans.FACTORS
        return plans.factor_plan(ranked[:n], shape, seed, factors=factors, position=position, n_draws=draws), None
    doses = request.doses or plans.default_doses(shape, len(ranked))
    if request.kind == "patch":
        return plans.patch_plan(request.condition, ranked, shape, seed, doses=doses, n_draws=draws), None
    factor = request.factors[0] if request.factors else 0.0
    return (
        plans.dose_plan(ranked, shape, seed, doses=doses, factor=factor, position=position, n_draws=draws),
        None,
    )


def _heads_plan(work: Work) -> tuple[Planned, ...]:
    """The attention-only baseline: heads ranked by the same two passes, for the same question as the neurons."""
    evaluator, heads = work.evaluator, work.evaluator.heads
    if heads is None:
        raise BadRequest("This model's attention heads cannot be told apart, so there is no attention-only baseline.")
    chosen = [evaluator.prompts[i] for i in selecting(evaluator)]
    delta = evaluator.other_baseline() - evaluator.baseline()
    scores = score_heads(
        work.loaded,
        heads,
        [p.input_ids for p in chosen],
        [p.other_ids for p in chosen],
        [(p.target_ids, p.control_ids) for p in chosen],
        lowering_or_raising(torch.from_numpy(delta[selecting(evaluator)])),
    )
    evaluator.passes.full += 2 * len(chosen)
    ranked = scores.ranked("ablation")
    shape = work.shape._replace(n_heads=heads.n_heads)
    doses = work.request.doses or plans.default_doses(shape, len(ranked), n_all=len(ranked))
    return plans.heads_plan(
        ranked, shape, work.request.seed, doses=doses, position=work.request.position, n_draws=work.request.draws
    )


# What is measured --------------------------------------------------------------------------------------------------


def _measure(work: Work, plan: Sequence[Planned]) -> None:
    """All points, committed one planned point (its splits together) at a time."""
    store, sweep_id, progress = work.store, work.sweep_id, work.progress
    have = store.point_ids(sweep_id)
    n_splits = len({p.split for p in work.evaluator.prompts})
    progress.enter("sweeping", len(plan), sum(1 for p in plan if f"{p.key}/{work.evaluator.prompts[0].split}" in have))
    waiting: list[SweepPoint] = []
    for point in run_sweep(work.evaluator, plan, work.request.seed, skip=have):
        if waiting and waiting[0].key != point.key:
            store.add_points(sweep_id, waiting)
            waiting = []
        waiting.append(point)
        if len(waiting) == n_splits:
            store.add_points(sweep_id, waiting)
            waiting = []
            progress.done += 1
            progress.pause()
    if waiting:
        store.add_points(sweep_id, waiting)


def _answer(work: Work, plan: Sequence[Planned]) -> None:
    """The classified answers under every planned point, for every seed."""
    store, sweep_id, request = work.store, work.sweep_id, work.request
    seeds = [request.seed + k for k in range(request.n_seeds)]
    have = {seed: store.response_ids(sweep_id, seed) for seed in seeds}
    total = (len(plan) + 1) * len(work.evaluator.prompts) * len(seeds)
    work.progress.enter("answering", total, sum(map(len, have.values())))
    for seed in seeds:
        settings = GenerationSettings(request.max_new_tokens, request.temperature, seed=seed)
        waiting: list[SweepResponse] = []
        for response in sweep_responses(work.evaluator, plan, work.circuit, settings, skip=have[seed]):
            waiting.append(response)
            if len(waiting) == RESPONSE_BATCH:
                store.add_responses(sweep_id, waiting, RULES_VERSION)
                work.progress.done += len(waiting)
                waiting = []
                work.progress.pause()
        if waiting:
            store.add_responses(sweep_id, waiting, RULES_VERSION)
            work.progress.done += len(waiting)


def _collateral(work: Work, plan: Sequence[Planned]) -> tuple[Collateral, ...]:
    """What the same edits do to the other circuits and to neutral text, with the random draws' range beside it."""
    chosen = _for_collateral(plan)
    # Own circuits bring no set that every user has, so what a sweep means would hang on what lies in the folder.
    others = [c for c in load_circuits().values() if c.circuit_id != work.circuit.circuit_id and not c.own]
    work.progress.enter("collateral", len(others) + 1)
    prompts = work.run.request.prompts
    if prompts not in BUILT_IN:
        prompts = default_prompts(work.loaded.entry.shipped)
    rows: list[Collateral] = []
    for circuit in others:
        evaluator = _evaluator_of(work, circuit, prompts)
        if evaluator is not None:
            rows += circuit_collateral(circuit.circuit_id, evaluator, chosen, work.request.seed)
            work.evaluator.passes.full += evaluator.passes.full
            work.evaluator.passes.last_token += evaluator.passes.last_token
        work.progress.done += 1
        work.progress.pause()
    texts = [NeutralText(*encode_chat(work.loaded.tokenizer, chat)) for chat in load_neutral_texts(prompts)]
    rows += text_collateral(work.evaluator, texts, chosen, work.request.seed)
    return tuple(rows)


def _for_collateral(plan: Sequence[Planned]) -> tuple[Planned, ...]:
    """Every point of a curve; of a window one strength, the one nearest to a length of the residual stream."""
    strengths = {p.strength for p in plan if p.kind == "window" and p.strength is not None}
    if not strengths:
        return tuple(plan)
    nearest = min(strengths, key=lambda s: (abs(abs(s) - 1.0), s))
    return tuple(p for p in plan if p.strength == nearest)


def _evaluator_of(work: Work, circuit: Circuit, prompts: str) -> Evaluator | None:
    """Prompts of another circuit on the same model; None where it has no such set or no usable pair."""
    try:
        prompt_set = load_prompt_set(circuit, prompts)
        mine = work.run.request
        request = ProbeRequest(work.loaded.id, circuit.circuit_id, prompts, seed=mine.seed, thinking=mine.thinking)
        prepared = probe.prepare(work.loaded, circuit, prompt_set, request)
    except BadRequest:
        return None
    condition = circuit.sweep.condition
    ordered = sorted(prompts_of(prepared.pairs, condition), key=lambda p: p.split != "heldout")
    return Evaluator(work.loaded, tuple(ordered[:COLLATERAL_PROMPTS]), condition, cancelled=work.progress.stop)


# What is stored ----------------------------------------------------------------------------------------------------


def _summary(work: Work, plan: Sequence[Planned], directions: Directions | None) -> dict[str, Any]:
    request, store = work.request, work.store
    points = store.points(work.sweep_id)
    with_controls = {p.group for p in points if p.arm == "random"}
    comparisons = compare([p for p in points if p.group in with_controls], request.seed)
    before = str((work.run.summary.get("verdict") or {}).get("stage") or "observed")
    reached = (
        reached_stage(before, comparisons)  # type: ignore[arg-type]
        if request.kind in STAGE_KINDS
        else StageReached(before, ("This sweep compares parts of the network; it raises no stage.",))  # type: ignore[arg-type]
    )
    spent = store.sweep_spent(work.sweep_id)
    measuring = store.effects_spent(work.run.run_id, request.condition, request.position)
    uses_measured = request.ranking == "measured" and request.kind in NEURON_KINDS
    n_measured = len(store.effects(work.run.run_id, request.condition, request.position))
    largest = max((p.n_neurons or 0 for p in plan), default=0)
    return {
        "sweep_id": sweep_id_of(work.run.request_key, request),
        "run_id": work.run.run_id,
        "model": work.loaded.id,
        "circuit": work.circuit.circuit_id,
        "kind": request.kind,
        "ranking": request.ranking if request.kind in NEURON_KINDS else None,
        "side": request.side if request.kind in NEURON_KINDS else None,
        "condition": request.condition,
        "position": request.position,
        "direction": request.direction if request.kind in INJECTION_KINDS else None,
        "relative": request.relative if request.kind in INJECTION_KINDS else None,
        "toward_other": None if directions is None else directions.toward_other,
        "n_selecting_pairs": len(selecting(work.evaluator)),
        "n_layers": work.shape.n_layers,
        "d_mlp": work.shape.d_mlp,
        "seed": request.seed,
        "method": work.evaluator.method,
        "n_full_passes": spent.n_full_passes,
        "n_last_token_passes": spent.n_last_token_passes,
        "seconds": spent.seconds,
        "measuring": asdict(measuring) | {"n_neurons": n_measured} if uses_measured else None,
        "controls": {
            "kind": _CONTROLS[request.kind],
            "n_draws": request.draws if with_controls else 0,
            "n_neurons": largest,
            "comparisons": [asdict(c) for c in comparisons],
        },
        "stage": reached.stage,
        "stage_reasons": list(reached.reasons),
        "generation": {
            "n_seeds": request.n_seeds,
            "temperature": request.temperature,
            "max_new_tokens": request.max_new_tokens,
            "rules_version": RULES_VERSION,
        }
        if request.responses
        else None,
        "device": work.loaded.device,
        "dtype": work.loaded.dtype,
    }


_CONTROLS: dict[str, str] = {
    "dose": "random neurons of the same layers",
    "factor": "random neurons of the same layers",
    "patch": "random neurons of the same layers",
    "window": "random directions orthogonal to the injected one, of the same length",
    "strength": "random directions orthogonal to the injected one, of the same length",
    "heads": "random attention heads",
    "layers": "none: layers are compared with each other",
    "held": "none: variants are compared with each other",
}
