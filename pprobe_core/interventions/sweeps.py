"""Sweeps as generators: every planned point measured on every prompt, handed out as soon as it is known.

The caller owns progress, saving and cancelling: it gets points, may stop at any time, and later names the ones it has.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from pprobe_core import stats
from pprobe_core.circuits.responses import BROKEN, classify
from pprobe_core.circuits.schema import Circuit, Split
from pprobe_core.interventions.edits import Edits
from pprobe_core.interventions.evaluator import Evaluated, Evaluator
from pprobe_core.interventions.generation import GenerationSettings, respond
from pprobe_core.interventions.plans import Planned
from pprobe_core.interventions.types import BASELINE_KEY, Baseline, SweepPoint, SweepResponse

ANSWERS_AT_ONCE = 512  # prompts times points handed to the generator together; it cuts them to what memory allows


def point_id(planned: Planned, split: Split) -> str:
    """Stable id of a point: the same plan gives the same ids, whatever was measured before."""
    return f"{planned.key}/{split}"


def baselines(evaluator: Evaluator, seed: int) -> tuple[Baseline, ...]:
    """The unedited logit difference per split, with its bootstrap interval over prompts."""
    values = evaluator.baseline()
    out = []
    for split, rows in _splits(evaluator).items():
        interval = stats.bootstrap_mean(values[rows], seed)
        out.append(
            Baseline(
                split=split,
                n_prompts=len(rows),
                logit_diff_mean=float(values[rows].mean()),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                pair_ids=tuple(evaluator.prompts[i].pair_id for i in rows),
                logit_diffs=tuple(float(v) for v in values[rows]),
            )
        )
    return tuple(out)


def run_sweep(
    evaluator: Evaluator, plan: Sequence[Planned], seed: int, *, skip: Collection[str] = frozenset()
) -> Iterator[SweepPoint]:
    """Measure the planned points in order, one SweepPoint per split; those whose ids are in `skip` are left out.

    An edit that breaks the model gives a point that says so, and the sweep goes on. Raises BadRequest for an edit the
    model has no parts for before anything is measured; Cancelled when asked to stop (points handed out stay valid).
    """
    splits = _splits(evaluator)
    waiting = [p for p in plan if any(point_id(p, split) not in skip for split in splits)]
    for planned, measured in zip(waiting, evaluator.evaluate([p.edits for p in waiting]), strict=True):
        for split, rows in splits.items():
            if point_id(planned, split) not in skip:
                yield _point(evaluator, planned, measured, split, rows, seed)


def sweep_responses(
    evaluator: Evaluator,
    plan: Sequence[Planned],
    circuit: Circuit,
    settings: GenerationSettings | None = None,
    *,
    skip: Collection[tuple[str, str]] = frozenset(),
) -> Iterator[SweepResponse]:
    """Yield the classified answer of every prompt under every planned point, the unedited model's first.

    `skip` holds (key, pair_id) of answers that are there already. An answer that ended in logits that are no numbers is
    broken, whatever its text.
    """
    settings = settings or GenerationSettings()
    edits_of: dict[str, Edits] = {BASELINE_KEY: (), **{p.key: p.edits for p in plan}}
    # Points that lack the same answers are answered together: small models are fast only in large batches.
    waiting: dict[tuple[int, ...], list[str]] = {}
    for key in edits_of:
        missing = tuple(i for i, p in enumerate(evaluator.prompts) if (key, p.pair_id) not in skip)
        if missing:
            waiting.setdefault(missing, []).append(key)
    for missing, keys in waiting.items():
        first = [[BASELINE_KEY]] if BASELINE_KEY in keys else []
        rest = [key for key in keys if key != BASELINE_KEY]
        n = max(1, ANSWERS_AT_ONCE // len(missing))
        for some in [*first, *(rest[start : start + n] for start in range(0, len(rest), n))]:
            for answer in respond(evaluator, [edits_of[key] for key in some], settings, missing):
                prompt = evaluator.prompts[answer.prompt]
                broken = answer.finish == "broken"
                name = BROKEN if broken else classify(circuit, answer.text, gold=prompt.gold)
                yield SweepResponse(
                    some[answer.edit], prompt.pair_id, prompt.split, answer.text, name, answer.finish, settings.seed
                )


def _splits(evaluator: Evaluator) -> Mapping[Split, list[int]]:
    """The prompts of each split that has some."""
    names: tuple[Split, ...] = ("discovery", "validation", "heldout")
    rows: dict[Split, list[int]] = {s: [i for i, p in enumerate(evaluator.prompts) if p.split == s] for s in names}
    return {split: indices for split, indices in rows.items() if indices}


def _point(
    evaluator: Evaluator, planned: Planned, measured: Evaluated, split: Split, rows: Sequence[int], seed: int
) -> SweepPoint:
    values, deltas = measured.logit_diff[list(rows)], measured.delta[list(rows)]
    n_broken = int((~np.isfinite(values)).sum())
    mean, low, high = stats.mean_interval(values, seed)
    delta_mean, delta_low, delta_high = stats.mean_interval(deltas, seed)
    return SweepPoint(
        point_id=point_id(planned, split),
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
        n_prompts=len(rows),
        logit_diff_mean=mean,
        low=low,
        high=high,
        delta_mean=delta_mean,
        delta_low=delta_low,
        delta_high=delta_high,
        n_broken=n_broken,
        neurons=planned.neurons,
        pair_ids=tuple(evaluator.prompts[i].pair_id for i in rows),
        logit_diffs=tuple(_or_none(v) for v in values),
        deltas=tuple(_or_none(v) for v in deltas),
    )


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
