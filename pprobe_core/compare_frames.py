"""The frames of a comparison, read from stored runs and sweeps: one row each, with n and 95 % interval.

Tables only: what is computed from them lies in compare_stats, what is drawn in compare_charts. No torch.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from pprobe_core import compare_stats, stats
from pprobe_core.charts import over_pairs
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.responses import side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.comparison import CompareRequest, Unit, bases_of, labels, units
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.interventions.outcomes import FORMAT_CHANGE, IS_BROKEN, SWITCHED, as_rows, regimes
from pprobe_core.interventions.requests import checked_sweep, sweep_id_of
from pprobe_core.jobs import shape_of
from pprobe_core.store import Run, Store, job_id_of
from pprobe_core.store.sweeps import Sweep
from pprobe_core.sweep_report import outcomes_of

PROFILE_QUANTITIES = ("ffn", "attention", "skip", "ffn_skip", "attention_skip", "lens_after_ffn")
TOP = 50  # neurons of a circuit that its topology and overlaps are about
FIT_DOSE = 50  # neurons switched off in the paper's fit of FFN/Skip against the ablation effect
State = Literal["done", "missing", "queued", "running", "failed", "cancelled", "blocked"]


@dataclass(frozen=True)
class Part:
    """One cell of the matrix: a unit of the comparison, where it stands, and what it made."""

    unit: Unit
    state: State
    run_id: str | None = None
    sweep_id: str | None = None
    error: str | None = None  # why it failed, in a sentence


@dataclass(frozen=True)
class Compared:
    """What a comparison has so far: its parts, and the runs and sweeps that are there."""

    request: CompareRequest
    parts: tuple[Part, ...]
    labels: Mapping[str, str]  # model -> short name
    bases: Mapping[str, str]  # model -> its twin before alignment
    circuits: Mapping[str, Circuit]  # every circuit there is, read once
    runs: Mapping[tuple[str, str], Run] = field(default_factory=dict)  # (model, circuit)
    sweeps: Mapping[tuple[str, str, str], Sweep] = field(default_factory=dict)  # (kind, model, circuit)

    @property
    def n_missing(self) -> int:
        """Parts that one press of the button would compute or try again."""
        return sum(part.state in ("missing", "failed", "cancelled", "blocked") for part in self.parts)

    def label(self, model: str) -> str:
        """Short name of a model of the comparison."""
        return self.labels.get(model, model)


def compared(store: Store, request: CompareRequest) -> Compared:
    """Where every part of a checked comparison stands in a results file."""
    parts: list[Part] = []
    runs: dict[tuple[str, str], Run] = {}
    sweeps: dict[tuple[str, str, str], Sweep] = {}
    circuits = circuits_of(request)
    for unit in units(request):
        place = (unit.model, unit.circuit)
        if unit.kind == "probe":
            part = _probe_part(store, unit)
            if part.run_id is not None:
                runs[place] = store.run(part.run_id)
        else:
            part = _sweep_part(store, unit, circuits.get(unit.circuit), runs.get(place), parts)
            if part.sweep_id is not None and part.state == "done":
                sweeps[unit.kind, *place] = store.sweep(part.sweep_id)
        parts.append(part)
    models = dict.fromkeys(part.unit.model for part in parts)
    bases = {model: base for model, base in bases_of(request.models).items() if request.bases or base in models}
    return Compared(request, tuple(parts), labels(list(models)), bases, circuits, runs, sweeps)


def circuits_of(request: CompareRequest) -> dict[str, Circuit]:
    """The circuits of a comparison by what the request calls them; one whose file is gone is left out."""
    found = {}
    for named in request.circuits:
        with contextlib.suppress(BadRequest):
            found[named] = load_circuit(named)
    return found


def _probe_part(store: Store, unit: Unit) -> Part:
    run_id = store.run_of(unit.probe)
    if run_id is not None:
        return Part(unit, "done", run_id)
    return _unfinished(store, unit, job_id_of(unit.probe))


def _sweep_part(store: Store, unit: Unit, circuit: Circuit | None, run: Run | None, before: Sequence[Part]) -> Part:
    """A sweep needs its probe's run first; without one it is blocked where the probe failed, missing where not."""
    if run is None:
        probe = next(p for p in reversed(before) if p.unit.kind == "probe")
        return Part(unit, "blocked" if probe.state == "failed" else "missing")
    try:
        request = checked_sweep(unit.sweep(run.run_id, circuit), shape_of(run))
    except PprobeError as error:
        return Part(unit, "failed", run.run_id, error=str(error))
    sweep_id = sweep_id_of(run.request_key, request)
    if store.has_sweep(sweep_id):
        return Part(unit, "done", run.run_id, sweep_id)
    return _unfinished(store, unit, job_id_of(request), run.run_id)


def _unfinished(store: Store, unit: Unit, job_id: str, run_id: str | None = None) -> Part:
    job = store.job(job_id)
    if job is None or job.state == "done" or job.state == "interrupted":  # done, but its result was deleted since
        return Part(unit, "missing", run_id)
    return Part(unit, job.state, run_id, error=job.error)


def failures(found: Compared, name: Callable[[Part], str]) -> dict[str, list[str]]:
    """Why parts could not be made -> their names: each reason once, whatever it kept from being made."""
    reasons: dict[str, list[str]] = {}
    for part in found.parts:
        if part.state == "failed" and part.error:
            reasons.setdefault(part.error, []).append(name(part))
    return reasons


# ------------------------------------------------------------------------------------------------------ the frames


def matrix(found: Compared) -> pd.DataFrame:
    """One row per part: label, model, circuit, kind, state, run_id, sweep_id, error."""
    return pd.DataFrame(
        [
            {
                "label": found.label(part.unit.model),
                "model": part.unit.model,
                "circuit": part.unit.circuit,
                "kind": part.unit.kind,
                "state": part.state,
                "run_id": part.run_id,
                "sweep_id": part.sweep_id,
                "error": part.error,
            }
            for part in found.parts
        ],
        columns=["label", "model", "circuit", "kind", "state", "run_id", "sweep_id", "error"],
    )


def ratios(found: Compared) -> pd.DataFrame:
    """FFN/Skip of the last layer per model and circuit; a pair without a run is a row with its reason in `note`.

    Columns: run_id, model, label, family, circuit, circuit_title, mean, median, low, high, n (prompts where it is
    defined), flip_rate, n_pairs, structure, stage, expected_structure, coupling, note.
    """
    rows = []
    for part in found.parts:
        if part.unit.kind != "probe":
            continue
        circuit = found.circuits.get(part.unit.circuit)
        row: dict[str, Any] = {
            "run_id": part.run_id,
            "model": part.unit.model,
            "label": found.label(part.unit.model),
            "circuit": part.unit.circuit,
            "circuit_title": circuit.title if circuit else part.unit.circuit,
            "expected_structure": circuit.expected_structure if circuit else None,
            "coupling": part.unit.probe.coupling,
            "note": _why_not(part),
        }
        run = found.runs.get((part.unit.model, part.unit.circuit))
        if run is not None:
            s = run.summary
            ratio, verdict = s.get("ffn_skip") or {}, s.get("verdict") or {}
            low, high = ratio.get("interval") or (None, None)
            row |= {
                "family": s.get("family"),
                "mean": ratio.get("mean"),
                "median": ratio.get("median"),
                "low": low,
                "high": high,
                "n": ratio.get("n_defined", 0),
                "flip_rate": s.get("flip_rate"),
                "n_pairs": s.get("n_pairs"),
                "structure": verdict.get("structure"),
                "stage": run.stage,
            }
        rows.append(row)
    columns = (
        *("run_id", "model", "label", "family", "circuit", "circuit_title", "mean", "median", "low", "high", "n"),
        *("flip_rate", "n_pairs", "structure", "stage", "expected_structure", "coupling", "note"),
    )
    frame = pd.DataFrame(rows, columns=list(columns))
    return _numeric(frame, ("mean", "median", "low", "high", "flip_rate", "n", "n_pairs"))


def _why_not(part: Part) -> str:
    if part.state == "done":
        return ""
    if part.state == "failed":
        return f"cannot be run: {part.error}"
    return {"queued": "waits for its turn", "running": "is being computed", "cancelled": "was cancelled"}.get(
        part.state, "not run yet"
    )


def profiles(found: Compared, store: Store, quantity: str) -> pd.DataFrame:
    """One layer-wise quantity of every run over relative depth.

    Columns: run_id, label, circuit, condition, quantity, layer, n_layers, depth, mean, low, high, n (pairs).
    """
    parts = []
    for (model, circuit), run in found.runs.items():
        layers = store.layers(run.run_id)
        n_layers = int(run.summary["n_layers"])
        rows = over_pairs(layers, ["condition", "layer"], quantity)
        parts.append(
            rows.assign(
                run_id=run.run_id,
                label=found.label(model),
                circuit=circuit,
                quantity=quantity,
                n_layers=n_layers,
                depth=rows["layer"] / max(n_layers - 1, 1),
            )
        )
    columns = (
        *("run_id", "label", "circuit", "condition", "quantity", "layer", "n_layers", "depth", "mean", "low", "high"),
        "n",
    )
    return _together(parts, columns)


def topology(found: Compared, store: Store) -> pd.DataFrame:
    """How few neurons hold a circuit: one row per run.

    Columns: run_id, label, circuit, n_neurons, share_top10, share_top50, concentration (Gini of |mean I|), n_half,
    ffn_share (of the change that attention and FFN layers write, from |mean change| per layer), low, high, n (pairs).
    """
    rows = []
    for (model, circuit), run in found.runs.items():
        held = compare_stats.concentration(store.importance(run.run_id))
        share, low, high, n = _ffn_share(store.layers(run.run_id), run.request.seed)
        rows.append(
            {
                "run_id": run.run_id,
                "label": found.label(model),
                "circuit": circuit,
                "n_neurons": held.n_neurons,
                "share_top10": held.share_top10,
                "share_top50": held.share_top50,
                "concentration": held.gini,
                "n_half": held.n_half,
                "ffn_share": share,
                "low": low,
                "high": high,
                "n": n,
            }
        )
    columns = (
        *("run_id", "label", "circuit", "n_neurons", "share_top10", "share_top50", "concentration", "n_half"),
        *("ffn_share", "low", "high", "n"),
    )
    return pd.DataFrame(rows, columns=list(columns))


def top_layers(found: Compared, store: Store) -> pd.DataFrame:
    """Where the neurons of a circuit lie: one row per run and layer.

    Columns: run_id, label, circuit, layer, depth, share_top50 (of the first 50 neurons), mass (of all |mean I|).
    """
    rows = []
    for (model, circuit), run in found.runs.items():
        n_layers = int(run.summary["n_layers"])
        first = store.top_neurons(run.run_id, "shared", TOP)["layer"].value_counts()
        for layer, mass in store.layer_mass(run.run_id)[["layer", "mass"]].itertuples(index=False):
            rows.append(
                {
                    "run_id": run.run_id,
                    "label": found.label(model),
                    "circuit": circuit,
                    "layer": int(layer),
                    "depth": int(layer) / max(n_layers - 1, 1),
                    "share_top50": int(first.get(layer, 0)) / TOP,
                    "mass": mass,
                }
            )
    return pd.DataFrame(rows, columns=["run_id", "label", "circuit", "layer", "depth", "share_top50", "mass"])


def _ffn_share(layers: pd.DataFrame, seed: int) -> tuple[float | None, float | None, float | None, int]:
    """FFN layers' share of what all layers write differently on the two prompts: mean over pairs, interval, pairs."""
    if layers.empty:
        return None, None, None, 0
    values = layers.set_index(["pair_id", "layer"])[["condition", "ffn", "attention"]]
    one, two = (values[values["condition"] == c][["ffn", "attention"]] for c in ("original", "perturbed"))
    of_pair = (two - one).abs().groupby(level="pair_id").sum()
    total = of_pair["ffn"] + of_pair["attention"]
    shares = (of_pair["ffn"] / total.where(total > 0)).dropna().to_numpy(dtype=float)
    interval = stats.bootstrap_mean(shares, seed)
    mean = stats.mean_or_none(shares)
    return mean, *((None, None) if interval is None else (interval.low, interval.high)), len(shares)


Rates = Callable[[str], pd.DataFrame]


def outcome_table(store: Store, sweep_id: str) -> pd.DataFrame:
    """Outcome rates of a sweep's answers as rows: key, split, outcome, n, share, low, high and `regime`.

    The outcomes are those that every behaviour has.
    """
    rates = outcomes_of(store, sweep_id, of_classes=True)
    if not rates:
        return pd.DataFrame(columns=["key", "split", "outcome", "n", "share", "low", "high", "regime"])
    frame = pd.DataFrame(as_rows(rates))
    named = pd.DataFrame([(r.key, r.split, r.regime) for r in regimes(rates)], columns=["key", "split", "regime"])
    return frame.merge(named, on=["key", "split"], how="left")


def doses(found: Compared, store: Store, rates: Rates, only: str | None = None) -> pd.DataFrame:
    """Dose-response curves in units of each model's own baseline, of all behaviours or of `only` one.

    `rates(sweep_id)` gives `outcome_table`.

    `relative` is the mean change of F over the unedited mean F of the same prompts: -1 where the decision is gone, -2
    where it is as strong the other way. Columns: run_id, sweep_id, label, circuit, arm, draw, n_neurons, fraction,
    split, relative, low, high, n, changed, changed_low, changed_high (share of the answers whose class changed).
    """
    parts = []
    for (kind, model, circuit), sweep in found.sweeps.items():
        if kind != "dose" or only not in (None, circuit):
            continue
        points = _relative(store.sweep_points(sweep.sweep_id, per_prompt=False), sweep)
        points = points.merge(_rate(rates(sweep.sweep_id), FORMAT_CHANGE, "changed"), on=["key", "split"], how="left")
        n_neurons = int(sweep.summary["n_layers"]) * int(sweep.summary["d_mlp"])
        parts.append(
            points.assign(
                run_id=sweep.run_id,
                sweep_id=sweep.sweep_id,
                label=found.label(model),
                circuit=circuit,
                fraction=points["n_neurons"].astype(float) / n_neurons,
                n=points["n_prompts"],
            )
        )
    columns = (
        *("run_id", "sweep_id", "label", "circuit", "arm", "draw", "n_neurons", "fraction", "split", "relative", "low"),
        *("high", "n", "changed", "changed_low", "changed_high"),
    )
    return _together(parts, columns)


def windows(found: Compared, store: Store, rates: Rates, only: str | None = None) -> pd.DataFrame:
    """Injection windows over relative depth, of all behaviours or of `only` one; `rates` as for `doses`.

    Columns: run_id, sweep_id, label, circuit, layer, depth, n_layers, strength, toward_other (sign of the strengths
    that push towards what the other prompts do), arm, draw, split, relative (as in `doses`), low, high, n, switched,
    switched_low, switched_high, broken (shares of the answers), regime.
    """
    parts = []
    for (kind, model, circuit), sweep in found.sweeps.items():
        if kind != "window" or only not in (None, circuit):
            continue
        points = _relative(store.sweep_points(sweep.sweep_id, per_prompt=False), sweep)
        table = rates(sweep.sweep_id)
        points = points.merge(_rate(table, SWITCHED, "switched"), on=["key", "split"], how="left")
        points = points.merge(_rate(table, IS_BROKEN, "broken"), on=["key", "split"], how="left")
        named = table[["key", "split", "regime"]].drop_duplicates(["key", "split"])
        points = points.merge(named, on=["key", "split"], how="left")
        n_layers = int(sweep.summary["n_layers"])
        parts.append(
            points.assign(
                run_id=sweep.run_id,
                sweep_id=sweep.sweep_id,
                label=found.label(model),
                circuit=circuit,
                n_layers=n_layers,
                depth=points["layer"].astype(float) / max(n_layers - 1, 1),
                toward_other=sweep.summary.get("toward_other"),
                n=points["n_prompts"],
            )
        )
    columns = (
        *("run_id", "sweep_id", "label", "circuit", "layer", "depth", "n_layers", "strength", "toward_other", "arm"),
        *("draw", "split", "relative", "low", "high", "n", "switched", "switched_low", "switched_high", "broken"),
        "regime",
    )
    return _together(parts, columns)


def _relative(points: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """Points with `relative`, `low`, `high`: change of F divided by the unedited mean F of their split."""
    before = {row["split"]: row["logit_diff_mean"] for row in sweep.summary["baseline"]}
    unit = points["split"].map(before).astype(float)
    unit = unit.where(unit.abs() > 1e-9)
    ends = [points[name].astype(float) / unit for name in ("delta_low", "delta_high")]
    return points.assign(
        relative=points["delta_mean"].astype(float) / unit,
        low=pd.concat(ends, axis=1).min(axis=1),
        high=pd.concat(ends, axis=1).max(axis=1),
    )


def _rate(table: pd.DataFrame, outcome: str, name: str) -> pd.DataFrame:
    rows = table[table["outcome"] == outcome]
    return rows[["key", "split", "share", "low", "high"]].rename(
        columns={"share": name, "low": f"{name}_low", "high": f"{name}_high"}
    )


def twins(found: Compared, store: Store) -> pd.DataFrame:
    """F and written answers of each aligned model and its base on the same prompts, pair by pair.

    The prompts are those on which the behaviour shows, as each circuit's file says: the original ones, or the perturbed
    ones for sycophancy, whose premise is false there. Columns: circuit, pair_id, condition, label_base, label_aligned,
    f_base, f_aligned, class_base, class_aligned, side_base, side_aligned.
    """
    parts = []
    for model, base in found.bases.items():
        for circuit_id in found.request.circuits:
            aligned, before = found.runs.get((model, circuit_id)), found.runs.get((base, circuit_id))
            circuit = found.circuits.get(circuit_id)
            if aligned is None or before is None or circuit is None:
                continue
            condition = circuit.sweep.condition
            frames = [store.pairs(run.run_id) for run in (before, aligned)]
            both = frames[0].merge(frames[1], on="pair_id", suffixes=("_base", "_aligned"))
            rows = pd.DataFrame({"pair_id": both["pair_id"]})
            for twin in ("base", "aligned"):
                rows[f"f_{twin}"] = both[f"logit_diff_{condition}_{twin}"]
                rows[f"class_{twin}"] = both[f"class_{condition}_{twin}"]
                rows[f"side_{twin}"] = [
                    side_of(circuit, name, condition) if isinstance(name, str) else None
                    for name in rows[f"class_{twin}"]
                ]
            named = {"label_base": found.label(base), "label_aligned": found.label(model)}
            parts.append(rows.assign(circuit=circuit_id, condition=condition, **named))
    columns = (
        *("circuit", "pair_id", "condition", "label_base", "label_aligned", "f_base", "f_aligned"),
        *("class_base", "class_aligned", "side_base", "side_aligned"),
    )
    return _together(parts, columns)


def overlaps(
    found: Compared,
    store: Store,
    model: str,
    ranking: Literal["shared", "magnitude", "ablation"] = "shared",
    k: int = TOP,
) -> pd.DataFrame:
    """Neurons that the circuits of one model share: `label` and the columns of compare_stats.overlaps."""
    runs = {circuit: run for (of, circuit), run in found.runs.items() if of == model}
    tops = {
        circuit: store.top_neurons(run.run_id, ranking, k).rename(columns={"importance_mean": "importance"})
        for circuit, run in runs.items()
    }
    if len(tops) < 2:
        return pd.DataFrame(columns=["label", *compare_stats.OVERLAP_COLUMNS])
    s = next(iter(runs.values())).summary
    table = compare_stats.overlaps(
        {c: top[["layer", "neuron", "importance"]] for c, top in tops.items()}, int(s["n_layers"]), int(s["d_mlp"])
    )
    return table.assign(label=found.label(model))


def fit_points(found: Compared) -> pd.DataFrame:
    """FFN/Skip beside what switching neurons off does, for every run with a dose sweep.

    `effect`: change of F by the first FIT_DOSE neurons beyond what random ones do, in units of the unedited F, on
    held-out prompts where there are some: -1 where nothing is left of the decision. The dose nearest to FIT_DOSE
    counts. Columns: run_id, label, circuit, ffn_skip, ffn_skip_low, ffn_skip_high, effect, effect_low,
    effect_high, n_neurons, n (prompts), split.
    """
    rows = []
    for (kind, model, circuit), sweep in found.sweeps.items():
        run = found.runs.get((model, circuit))
        point = None if kind != "dose" or run is None else _at_dose(sweep)
        if point is None or run is None:
            continue
        before = {row["split"]: row["logit_diff_mean"] for row in sweep.summary["baseline"]}[point["split"]]
        ratio = run.summary.get("ffn_skip") or {}
        low, high = ratio.get("interval") or (None, None)
        ends = sorted(point[name] / before for name in ("excess_low", "excess_high") if point[name] is not None)
        rows.append(
            {
                "run_id": run.run_id,
                "label": found.label(model),
                "circuit": circuit,
                "ffn_skip": ratio.get("mean"),
                "ffn_skip_low": low,
                "ffn_skip_high": high,
                "effect": point["excess"] / before,
                "effect_low": ends[0] if ends else None,
                "effect_high": ends[-1] if ends else None,
                "n_neurons": point["n_neurons"],
                "n": point["n_prompts"],
                "split": point["split"],
            }
        )
    columns = (
        *("run_id", "label", "circuit", "ffn_skip", "ffn_skip_low", "ffn_skip_high", "effect", "effect_low"),
        *("effect_high", "n_neurons", "n", "split"),
    )
    frame = pd.DataFrame(rows, columns=list(columns))
    return _numeric(frame, ("ffn_skip", "ffn_skip_low", "ffn_skip_high", "effect", "effect_low", "effect_high"))


def _at_dose(sweep: Sweep) -> dict[str, Any] | None:
    """The comparison with random neurons at the dose nearest to FIT_DOSE, held-out prompts before others."""
    known = [c for c in sweep.summary["controls"]["comparisons"] if c["excess"] is not None and c["n_neurons"]]
    before = {row["split"]: row["logit_diff_mean"] for row in sweep.summary["baseline"]}
    for split in ("heldout", "validation", "discovery"):
        here = [c for c in known if c["split"] == split and abs(before.get(split) or 0.0) > 1e-9]
        if here:
            return dict(min(here, key=lambda c: (abs(c["n_neurons"] - FIT_DOSE), c["n_neurons"])))
    return None


def _together(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=list(columns))
    return pd.concat([part.reindex(columns=list(columns)) for part in parts], ignore_index=True)


def _numeric(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    for name in columns:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame
