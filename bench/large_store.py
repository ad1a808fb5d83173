"""A results file as large models make it: synthetic numbers in the real schema, and every model in it says so.

`write(path, size)` computes one small real run for the shape of its summary, then stores runs, sweeps and jobs whose
numbers are drawn at random: 36 layers of 10,000 neurons and 500 pairs with `LARGE`, a handful of each with `SMALL`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.schema import Circuit, Split
from pprobe_core.interventions import plans
from pprobe_core.interventions.collateral import Collateral
from pprobe_core.interventions.directions import Directions, Separability
from pprobe_core.interventions.edits import Head, ModelShape, Neuron
from pprobe_core.interventions.plans import Planned
from pprobe_core.interventions.requests import checked_sweep, default_request, sweep_key
from pprobe_core.interventions.statistics import Comparison
from pprobe_core.interventions.types import (
    BASELINE_KEY,
    INJECTION_KINDS,
    NEURON_KINDS,
    Baseline,
    SweepKind,
    SweepPoint,
    SweepResponse,
)
from pprobe_core.models.loading import load_model
from pprobe_core.probing import probe
from pprobe_core.probing.types import ProbeRequest, ProbeResult
from pprobe_core.settings import SEED
from pprobe_core.store import Run, Spent, Store

MODELS = ("synthetic/large-a", "synthetic/large-b")  # what the pages show as the models' names
CIRCUITS = ("safety_refusal", "language")
KINDS: tuple[SweepKind, ...] = ("dose", "window", "factor", "patch", "layers", "heads", "held")
SPLITS: tuple[tuple[Split, float], ...] = (("discovery", 0.6), ("validation", 0.2), ("heldout", 0.2))
D_MODEL = 8  # of the directions that name a window's points; nothing is injected
ANSWER = "I am sorry, but I can't help with that. It could hurt somebody, and I would rather not. {}"


@dataclass(frozen=True)
class Size:
    """How much is stored."""

    n_pairs: int
    n_layers: int
    d_mlp: int
    n_runs: int  # small ones besides, for long lists
    n_jobs: int


LARGE = Size(n_pairs=500, n_layers=36, d_mlp=10_000, n_runs=200, n_jobs=1_000)
SMALL = Size(n_pairs=20, n_layers=3, d_mlp=2_500, n_runs=3, n_jobs=5)


def write(path: Path, size: Size) -> dict[tuple[str, str], str]:
    """Fill a new results file; (model, circuit) -> run_id of the large runs. Sweeps belong to the first of them."""
    found: dict[tuple[str, str], str] = {}
    with Store(path) as store:
        small = {circuit: _real(circuit) for circuit in CIRCUITS}
        for i in range(size.n_runs):
            run = replace(size, n_pairs=12, n_layers=4, d_mlp=32)
            store.save_run(synthetic(small[CIRCUITS[i % 2]], f"synthetic/small-{i % 25}", run, seed=1 + i))
        for model in MODELS:
            for circuit in CIRCUITS:
                found[model, circuit] = store.save_run(synthetic(small[circuit], model, size, seed=SEED))
        for model in MODELS:
            kinds = KINDS if model == MODELS[0] else KINDS[:1]
            for kind in kinds:
                _sweep(store, store.run(found[model, CIRCUITS[0]]), kind)
        for i in range(size.n_jobs):
            request = ProbeRequest(model=f"synthetic/small-{i % 25}", circuit=CIRCUITS[i % 2], seed=10_000 + i)
            store.set_job_state(store.add_job(request).job_id, "failed", error="Synthetic: this job never ran.")
    return found


# A run ------------------------------------------------------------------------------------------------------------


def _real(circuit_id: str) -> ProbeResult:
    """A small real run: what a summary holds is the engine's matter."""
    request = ProbeRequest(model="mini-qwen3", circuit=circuit_id, prompts="mini", limit=10)
    prompts = load_prompt_set(circuit_id, "mini")
    return probe.run(load_model("mini-qwen3"), load_circuit(circuit_id), prompts, request)


def synthetic(small: ProbeResult, model: str, size: Size, seed: int) -> ProbeResult:
    """The small result's tables at another size, with numbers drawn at random."""
    rng = np.random.default_rng([seed, size.n_layers, size.d_mlp])
    request = replace(small.request, model=model, prompts="general", limit=None, seed=seed)
    key = hashlib.sha256(repr((model, small.request.circuit, size, seed)).encode()).hexdigest()
    pairs, neurons = _pairs(small, size, rng), _neurons(size, rng)
    n_original = pairs["logit_diff_original"].to_numpy()
    change = pairs["logit_diff_perturbed"].to_numpy() - n_original
    first = small.first_tokens[small.first_tokens["pair_id"] == small.first_tokens["pair_id"].iloc[0]]
    rows = small.summary["layers"]
    threshold = float(neurons["importance_mean"].abs().nlargest(size.n_layers + 1).iloc[-1])
    summary = small.summary | {
        "model": model,
        "n_pairs": size.n_pairs,
        "n_layers": size.n_layers,
        "d_mlp": size.d_mlp,
        "prompts": request.prompts,
        "seed": seed,
        "model_notes": ["Synthetic numbers: no model was run. For measuring how fast pages are."],
        "flip_rate": float(pairs["flipped"].mean()),
        "n_flipped": int(pairs["flipped"].sum()),
        "null": small.summary["null"] | {"importance_threshold": threshold, "n_above": size.n_layers},
        "layers": [rows[i % len(rows)] | {"layer": i} for i in range(size.n_layers)],
        "splits": {split: int((pairs["split"] == split).sum()) for split, _ in SPLITS},
        "logit_diff": small.summary["logit_diff"]
        | {"original_mean": float(n_original.mean()), "delta_mean": float(change.mean())},
    }
    return ProbeResult(
        request=request,
        request_key=key,
        run_id=key[:12],
        summary=summary,
        pairs=pairs,
        first_tokens=pd.concat([first.assign(pair_id=pair) for pair in pairs["pair_id"]], ignore_index=True),
        layers=_layers(size, list(pairs["pair_id"]), rng),
        neurons=neurons,
        token_preview=small.token_preview,
        environment=small.environment,
    )


def _pairs(small: ProbeResult, size: Size, rng: np.random.Generator) -> pd.DataFrame:
    """The small run's prompts over and over, with numbers of their own."""
    pairs = small.pairs.iloc[np.arange(size.n_pairs) % len(small.pairs)].reset_index(drop=True)
    original, change = rng.normal(2, 1, size.n_pairs), rng.normal(-4, 1, size.n_pairs)
    ends = np.cumsum([share for _, share in SPLITS])
    place = np.minimum(np.searchsorted(ends, (np.arange(size.n_pairs) + 0.5) / size.n_pairs), len(SPLITS) - 1)
    return pairs.assign(
        idx=range(size.n_pairs),
        pair_id=[f"synthetic-{i:04d}" for i in range(size.n_pairs)],
        split=[SPLITS[i][0] for i in place],
        original_text=[f"{text} (synthetic {i})" for i, text in enumerate(pairs["original_text"])],
        logit_diff_original=original,
        logit_diff_perturbed=original + change,
        predicted_delta=change + rng.normal(0, 0.5, size.n_pairs),
        ffn_skip_original=rng.uniform(0.2, 0.6, size.n_pairs),
        ffn_skip_perturbed=rng.uniform(0.2, 0.6, size.n_pairs),
        flipped=np.sign(original) != np.sign(original + change),
    )


def _layers(size: Size, pair_ids: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    names = ["pair_id", "condition", "layer"]
    index = pd.MultiIndex.from_product([pair_ids, ["original", "perturbed"], range(size.n_layers)], names=names)
    rows = index.to_frame(index=False)
    sign = np.where(rows["condition"] == "original", 1.0, -1.0) * (rows["layer"] / size.n_layers)
    for measure in ("attention", "ffn", "skip", "lens_after_attention", "lens_after_ffn"):
        rows[measure] = 3 * sign + rng.normal(0, 0.6, len(rows))
    for measure in ("ffn_skip", "attention_skip"):
        rows[measure] = rng.uniform(0.05, 0.9, len(rows))
    return rows


def _neurons(size: Size, rng: np.random.Generator) -> pd.DataFrame:
    """Heavy-tailed scores, stronger towards the last layers, as real models have them."""
    n = size.n_layers * size.d_mlp
    layer = np.repeat(np.arange(size.n_layers), size.d_mlp)
    importance = rng.standard_t(3, n) * 0.004 * (0.2 + layer / size.n_layers)
    rows = pd.DataFrame({"layer": layer, "neuron": np.tile(np.arange(size.d_mlp), size.n_layers)})
    scores = {
        "coupling": rng.normal(0, 0.5, n),
        "importance_mean": importance,
        "importance_rms": np.abs(importance) * rng.uniform(1, 2, n),
        "sign_consistency": rng.uniform(0.5, 1, n),
        "coherence": rng.uniform(0.5, 1, n),
        "act_original_mean": rng.normal(0, 1, n),
        "act_perturbed_mean": rng.normal(0, 1, n),
        "zeroing_effect": rng.normal(0, 0.01, n),
        "ablation_score": -importance * rng.uniform(0, 1, n),
    }
    return rows.assign(**{name: values.astype(np.float32) for name, values in scores.items()})


# A sweep ----------------------------------------------------------------------------------------------------------


def _sweep(store: Store, run: Run, kind: SweepKind) -> None:
    """One finished sweep of a run with the circuit's own defaults, answers included where the kind has some."""
    circuit = load_circuit(run.request.circuit)
    shape = ModelShape(*(int(run.summary[name]) for name in ("n_layers", "d_mlp", "d_model")), n_heads=8)
    answers = kind not in ("layers", "held")
    request = checked_sweep(default_request(circuit, run.run_id, kind, responses=answers), shape)
    key, rng = sweep_key(run.request_key, request), np.random.default_rng([run.request.seed, *kind.encode()])
    pairs = store.pairs(run.run_id)
    ids = {split: list(rows["pair_id"]) for split, rows in pairs.groupby("split", sort=False)}
    plan = _plan(store, run, request.condition, kind, shape)
    points = [_point(planned, split, ids[split], rng) for planned in plan for split, _ in SPLITS if split in ids]
    store.add_points(key[:12], points)
    if answers:
        store.add_responses(key[:12], _answers(circuit, plan, pairs, rng), 1)
    store.add_passes(key[:12], Spent(len(pairs), len(plan) * len(pairs), 60.0))
    store.save_sweep(key[:12], key, request, _summary(run, request, circuit, plan, points, ids, rng))


def _plan(store: Store, run: Run, condition: Any, kind: SweepKind, shape: ModelShape) -> tuple[Planned, ...]:
    ranked = tuple(
        Neuron(int(row.layer), int(row.neuron)) for row in store.top_neurons(run.run_id, "ablation", 1_000).itertuples()
    )
    doses = plans.default_doses(shape, len(ranked))
    if kind == "window":
        return plans.window_plan(Directions("difference_of_means", torch.eye(shape.n_layers, D_MODEL) + 0.1, 9, -1), 0)
    if kind == "dose":
        return plans.dose_plan(ranked, shape, 0, doses=doses)
    if kind == "factor":
        return plans.factor_plan(ranked[:20], shape, 0)
    if kind == "patch":
        return plans.patch_plan(condition, ranked, shape, 0, doses=doses)
    if kind == "layers":
        return plans.layers_plan(shape.n_layers)
    if kind == "held":
        return plans.held_plan(shape.n_layers)
    heads = tuple(Head(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads or 1))
    return plans.heads_plan(heads, shape, 0, doses=plans.default_doses(shape, len(heads), n_all=len(heads)))


def _point(planned: Planned, split: Split, pair_ids: Sequence[str], rng: np.random.Generator) -> SweepPoint:
    size = (planned.n_neurons or 1) ** 0.4 if planned.strength is None else 2 * planned.strength
    deltas = rng.normal(-0.5 * size if planned.arm == "ranked" else 0.0, 0.4, len(pair_ids))
    values = 2.0 + deltas
    half = 0.8 / np.sqrt(len(pair_ids))
    return SweepPoint(
        point_id=f"{planned.key}/{split}",
        group=f"{planned.group}/{split}",
        kind=planned.kind,
        variant=planned.variant,
        arm=planned.arm,
        draw=planned.draw,
        n_neurons=planned.n_neurons,
        layer=planned.layer,
        layers=planned.layers,
        strength=planned.strength,
        factor=planned.factor,
        split=split,
        n_prompts=len(pair_ids),
        logit_diff_mean=float(values.mean()),
        low=float(values.mean() - half),
        high=float(values.mean() + half),
        delta_mean=float(deltas.mean()),
        delta_low=float(deltas.mean() - half),
        delta_high=float(deltas.mean() + half),
        n_broken=0,
        neurons=planned.neurons,
        pair_ids=tuple(pair_ids),
        logit_diffs=tuple(values.tolist()),
        deltas=tuple(deltas.tolist()),
    )


def _answers(
    circuit: Circuit, plan: Sequence[Planned], pairs: pd.DataFrame, rng: np.random.Generator
) -> list[SweepResponse]:
    classes = [c.name for c in circuit.response_classes]
    rows = []
    for key in (BASELINE_KEY, *(planned.key for planned in plan)):
        drawn = rng.integers(0, len(classes) if key.endswith("ranked") else 2, len(pairs))
        rows += [
            SweepResponse(key, pair_id, split, ANSWER.format(pair_id), classes[i], "stop", 0)
            for pair_id, split, i in zip(pairs["pair_id"], pairs["split"], drawn, strict=True)
        ]
    return rows


def _comparison(point: SweepPoint, n_draws: int) -> Comparison:
    return Comparison(
        group=point.group,
        split=point.split,
        n_neurons=point.n_neurons,
        n_prompts=point.n_prompts,
        n_draws=n_draws,
        delta_mean=point.delta_mean,
        random_mean=0.0,
        random_low=-0.05,
        random_high=0.05,
        excess=point.delta_mean,
        excess_low=point.delta_low,
        excess_high=point.delta_high,
        beats_every_draw=True,
        p_value=0.0005,
        p_holm=0.01,
    )


def _collateral(planned: Planned, name: str, rng: np.random.Generator) -> Collateral:
    return Collateral(
        about="text" if name == "neutral text" else "circuit",
        name=name,
        group=planned.group,
        n_neurons=planned.n_neurons,
        layer=planned.layer,
        strength=planned.strength,
        factor=planned.factor,
        n=24,
        baseline_mean=2.0,
        delta_mean=float(rng.normal(0, 0.2)),
        low=-0.3,
        high=0.3,
        random_low=-0.1,
        random_high=0.1,
    )


def _summary(
    run: Run,
    request: Any,
    circuit: Circuit,
    plan: Sequence[Planned],
    points: Sequence[SweepPoint],
    ids: dict[Split, list[str]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What sweeping._summary holds, from numbers drawn at random."""
    n_layers, d_mlp = int(run.summary["n_layers"]), int(run.summary["d_mlp"])
    ranked = [p for p in points if p.arm == "ranked"]
    groups = {p.group for p in points if p.arm == "random"}
    comparisons = [_comparison(p, request.draws) for p in ranked if p.group in groups]
    strengths = {p.strength for p in plan if p.strength is not None}
    shown = [p for p in plan if p.arm == "ranked" and (not strengths or abs(p.strength or 0) == 1)]
    others = [c for c in load_circuits() if c != circuit.circuit_id]
    collateral = [_collateral(p, name, rng) for p in shown for name in (*others, "neutral text") if request.collateral]
    baseline = [
        Baseline(split, len(of), 2.0, 1.9, 2.1, tuple(of), tuple(rng.normal(2, 1, len(of)).tolist()))
        for split, of in ids.items()
    ]
    injects = request.kind in INJECTION_KINDS
    separable = [Separability(layer, 0.5 + layer / (2 * n_layers), 0.4, 1.0, 0.9, 200) for layer in range(n_layers)]
    return {
        "run_id": run.run_id,
        "model": run.request.model,
        "circuit": circuit.circuit_id,
        "kind": request.kind,
        "ranking": request.ranking if request.kind in NEURON_KINDS else None,
        "side": request.side if request.kind in NEURON_KINDS else None,
        "condition": request.condition,
        "position": request.position,
        "direction": request.direction if injects else None,
        "relative": request.relative if injects else None,
        "toward_other": -1 if injects else None,
        "n_selecting_pairs": len(ids["discovery"]),
        "n_layers": n_layers,
        "d_mlp": d_mlp,
        "seed": request.seed,
        "method": "synthetic",
        "n_full_passes": len(plan),
        "n_last_token_passes": len(plan) * 100,
        "seconds": 60.0,
        "measuring": None,
        "controls": {
            "kind": "synthetic numbers",
            "n_draws": request.draws if groups else 0,
            "n_neurons": max((p.n_neurons or 0 for p in plan), default=0),
            "comparisons": [asdict(c) for c in comparisons],
        },
        "stage": "observed",
        "stage_reasons": ["Synthetic numbers: no model was run."],
        "generation": {"n_seeds": 1, "temperature": 0.0, "max_new_tokens": 24, "rules_version": 1}
        if request.responses
        else None,
        "device": "cpu",
        "dtype": "float32",
        "baseline": [asdict(b) for b in baseline],
        "collateral": [asdict(c) for c in collateral],
        "separability": [asdict(s) for s in separable] if injects else [],
    }
