"""A stored sweep as other programs and people read it: the JSON contract, a short text, outcomes, agreement."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from statsmodels.stats.inter_rater import cohens_kappa

from pprobe_core import stats
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import gold_answers, load_prompt_set
from pprobe_core.circuits.schema import Circuit, Condition
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.outcomes import (
    FORMAT_CHANGE,
    IS_BROKEN,
    OF_CLASSES,
    LayerRegime,
    OutcomeRate,
    Reference,
    Tally,
    as_rows,
    has_content,
    is_switched,
    keeps_content,
    outcome_rates,
    rates_of,
    regimes,
)
from pprobe_core.interventions.types import BASELINE_KEY, INJECTION_KINDS, SweepPoint, SweepResponse
from pprobe_core.store import Run, Store, Sweep
from pprobe_core.store.plain import plain
from pprobe_core.wording import plural

COORDINATES = ("kind", "arm", "draw", "n_neurons", "layer", "layers", "strength", "factor", "variant", "group")
PAPER_PASSES = 150  # what the paper spends on a whole circuit
MAX_CURVE_ROWS = 12  # of the text; the JSON has all points
_SPLITS: dict[str, str] = {"discovery": "discovery", "heldout": "held-out", "validation": "validation"}
_SHOWN = ("discovery", "heldout")
_HEADS = {
    "dose": "Neurons switched off, dose by dose",
    "factor": "One set of neurons at several factors",
    "window": "A direction added after each layer",
    "strength": "A direction added at several strengths",
    "layers": "Whole FFN and attention outputs of layers switched off",
    "patch": "Values of the pairs' other prompts put in",
    "heads": "Attention heads switched off",
    "held": "The other prompt's residual stream put in, with later parts held",
}


# -- outcomes and agreement --


@dataclass(frozen=True)
class Agreement:
    """How far the rules' classes and a person's labels agree on the labelled answers. Shares are fractions."""

    n: int
    n_agree: int
    share: float
    low: float  # Wilson interval of the share
    high: float
    kappa: float | None  # Cohen's; None where both gave one class to everything, so chance alone agrees
    kappa_low: float | None  # None where the agreement is perfect: the asymptotic interval has no width then
    kappa_high: float | None


def references(run: Run, pairs: pd.DataFrame, circuit: Circuit, condition: Condition) -> dict[str, Reference]:
    """What is known about each pair's prompt beside its answers, by pair_id, from a stored run (`store.pairs`).

    The other prompt's answer counts only where both prompts of a pair ask for the same, so that a switched answer can
    be the right one; a right answer from the prompt file goes before it.
    """
    other = "perturbed" if condition == "original" else "original"
    gold = _gold(run, circuit, other) if circuit.same_content else {}
    known = {}
    for row in pairs.to_dict("records"):
        pair_id = str(row["pair_id"])
        answer = row[f"response_{other}"] if circuit.same_content else None
        known[pair_id] = Reference(
            multi_turn=_has_an_answer(row[f"{condition}_prompt"]),
            twin_answer=answer if isinstance(answer, str) else None,
            gold=gold.get(pair_id, ()),
        )
    return known


def outcomes_of(
    store: Store, sweep_id: str, use_labels: bool = False, *, of_classes: bool = False
) -> tuple[OutcomeRate, ...]:
    """Outcome rates over the stored answers of a sweep; () without answers.

    `use_labels`: where a person labelled an answer, edited or not, the label counts instead of the rules' class.
    `of_classes`: only the outcomes that every circuit has, which are counted without reading a text. Where the
    circuit's file is gone, nobody knows which class stands for which side: changed and broken answers remain.
    Raises BadRequest for an unknown sweep.
    """
    sweep = store.sweep(sweep_id)
    seeds = store.answer_seeds(sweep_id)
    if not seeds:
        return ()
    run, condition = store.run(sweep.run_id), sweep.request.condition
    try:
        circuit, gone = load_circuit(run.request.circuit), False
    except BadRequest:
        circuit, gone = _without_classes(run), True
    known = {} if of_classes else references(run, store.pairs(run.run_id), circuit, condition)
    only = OF_CLASSES if of_classes else None
    if len(seeds) > 1:  # intervals are over prompts then, so every answer is looked at
        answers = _responses(store.sweep_responses(sweep_id), use_labels)
        rates = outcome_rates(circuit, condition, answers, known, only)
    else:
        rates = rates_of(circuit, condition, _tallies(store, sweep_id, circuit, condition, known, use_labels), only)
    return tuple(rate for rate in rates if rate.outcome in (FORMAT_CHANGE, IS_BROKEN)) if gone else rates


def _without_classes(run: Run) -> Circuit:
    """A stand-in for a circuit whose file is gone: no class stands for a side."""
    return Circuit(
        circuit_id=run.request.circuit,
        title="",
        description="",
        question="",
        perturbation="given",
        perturbation_text="",
        target_meaning="",
        control_meaning="",
        target=(),
        control=(),
        per_pair_observable=False,
        expected_structure=None,
        expected_note="",
        response_rule="",
    )


def _tallies(
    store: Store,
    sweep_id: str,
    circuit: Circuit,
    condition: Condition,
    known: Mapping[str, Reference],
    use_labels: bool,
) -> list[Tally]:
    """The answers of one seed, counted in the store; texts are read only where an answer switched sides."""
    multi_turn = [pair for pair, reference in known.items() if reference.multi_turn]
    with_content = [pair for pair, reference in known.items() if has_content(reference)]
    ways = store.answer_ways(sweep_id, use_labels, multi_turn, with_content)
    switches = {way for way in {(w.before, w.after) for w in ways} if is_switched(circuit, condition, *way)}
    kept: Counter[tuple[str, str, str, str, bool]] = Counter()
    if with_content and switches:
        for answer in store.answer_texts(sweep_id, switches, with_content, use_labels):
            reference = known[answer.pair_id]
            if keeps_content(answer.text, reference):
                kept[answer.key, answer.split, answer.before, answer.after, reference.multi_turn] += 1
    tallies = []
    for way in ways:
        place = (way.key, way.split, way.before, way.after)
        if not way.known:
            tallies.append(Tally(*place, way.n, way.multi_turn))
            continue
        n_kept = kept[*place, way.multi_turn]
        tallies += [Tally(*place, k, way.multi_turn, yes) for k, yes in ((n_kept, True), (way.n - n_kept, False)) if k]
    return tallies


def kappa(store: Store, sweep_id: str) -> Agreement | None:
    """Cohen's kappa and plain agreement between rules and labels over a sweep's labelled answers; None without any."""
    labelled = store.labelled_answers(sweep_id)
    n = len(labelled)
    if n == 0:
        return None
    rules, labels = labelled["class_name"].astype(str), labelled["label"].astype(str)
    n_agree = int((rules.to_numpy() == labels.to_numpy()).sum())
    wilson = stats.wilson(n_agree, n)
    assert wilson is not None  # noqa: S101  (n > 0)
    classes = sorted({*rules, *labels})
    value = low = high = None
    if len(classes) > 1:
        table = pd.crosstab(rules.to_numpy(), labels.to_numpy()).reindex(index=classes, columns=classes, fill_value=0)
        found = cohens_kappa(table.to_numpy())
        value = float(found.kappa)
        if n_agree < n:
            low, high = max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))
    return Agreement(n, n_agree, n_agree / n, wilson.low, wilson.high, plain(value), plain(low), plain(high))


def _responses(answers: pd.DataFrame, use_labels: bool) -> list[SweepResponse]:
    rows = answers.to_dict("records")
    return [
        SweepResponse(
            key=row["key"],
            pair_id=row["pair_id"],
            split=row["split"],
            text=row["text"],
            class_name=row["label"] if use_labels and isinstance(row["label"], str) else row["class_name"],
            finish=row["finish"],
            seed=int(row["seed"]),
        )
        for row in rows
    ]


def _has_an_answer(prompt_json: str) -> bool:
    """Whether the assistant has spoken in a stored prompt."""
    return any(message.get("role") == "assistant" for message in json.loads(prompt_json)["messages"])


def _gold(run: Run, circuit: Circuit, condition: str) -> dict[str, tuple[str, ...]]:
    """Right answers to the prompts of one condition, from the run's prompt file if that is still what it was."""
    try:
        prompt_set = load_prompt_set(circuit, run.request.prompts)
    except BadRequest:
        return {}
    if prompt_set.sha256 != run.summary.get("prompt_set_sha256"):
        return {}
    place = 0 if condition == "original" else 1
    return {pair.pair_id: gold_answers(circuit, pair)[place] for pair in prompt_set.pairs}


# -- the JSON contract --


def sweep_json(store: Store, sweep_id: str) -> dict[str, Any]:
    """A sweep as one JSON-able object, with everything it takes to recompute a point; null where nothing applies.

    Logit differences in logits, rates as fractions. `logit_diffs` and `deltas` of a point stand in the order of the
    `pair_ids` of its split's baseline. Raises BadRequest for an unknown sweep.
    """
    sweep = store.sweep(sweep_id)
    s, rates = sweep.summary, outcomes_of(store, sweep_id)
    counts = store.class_counts(sweep_id)
    injects, agreement = sweep.request.kind in INJECTION_KINDS, kappa(store, sweep_id)
    names = (
        "ranking", "side", "condition", "position", "direction", "relative", "toward_other", "n_full_passes",
        "n_last_token_passes",
    )  # fmt: skip
    document = {
        "sweep_id": sweep_id,
        "run_id": sweep.run_id,
        "created_at": sweep.created_at,
        "recorded": sweep.recorded,
        "model": s.get("model"),
        "circuit": s.get("circuit"),
        "kind": sweep.request.kind,
        **{name: s.get(name) for name in names},
        "seconds": s.get("seconds"),
        "baseline": [row | {"class_counts": counts.get((BASELINE_KEY, row["split"]))} for row in s["baseline"]],
        "points": [_point(point, counts.get((point.key, point.split))) for point in store.points(sweep_id)],
        "controls": s["controls"],
        "collateral": s.get("collateral") or [],
        "stage": s["stage"],
        "stage_reasons": s.get("stage_reasons") or [],
        "outcomes": as_rows(rates),
        "regimes": [row._asdict() for row in regimes(rates)] if injects and rates else None,
        "agreement": None if agreement is None else asdict(agreement),
        "separability": s.get("separability") or None,
        "measuring": s.get("measuring"),
        "generation": s.get("generation"),
        "method": s.get("method"),
        "device": s.get("device"),
        "dtype": s.get("dtype"),
        "request": asdict(sweep.request),
    }
    return dict(plain(document))


def _point(point: SweepPoint, counts: dict[str, int] | None) -> dict[str, Any]:
    """A point's row; `key` names the planned point, as in `outcomes`, and `group` the same for its random draws."""
    row = point.as_json() | {"key": point.key, "class_counts": counts}
    for name in ("pair_ids", "kind"):  # of the baseline, and of the sweep
        del row[name]
    for name in ("layers", "neurons"):
        row[name] = row[name] or None
    return row


# -- the short text --


def sweep_text(store: Store, sweep_id: str) -> str:
    """A sweep in about thirty lines of plain words: what was edited, the curve beside its controls, answers, cost."""
    sweep = store.sweep(sweep_id)
    s, points = sweep.summary, store.points(sweep_id)
    lines = [
        f"Sweep {sweep_id} of run {sweep.run_id}: {s.get('circuit')} on {s.get('model')}"
        f"{'; recorded, not computed on this computer' if sweep.recorded else ''}",
        f"{heading(sweep)}; {_what(sweep)}",
        f"On the {sweep.request.condition} prompts, {_position(sweep)}: {_counts(s['baseline'])}",
        "Unedited logit difference: " + "; ".join(_baseline(row) for row in s["baseline"]),
        "",
        *_curve(points, s),
        *_answers(points, outcomes_of(store, sweep_id)),
        *_agreement(kappa(store, sweep_id)),
        *_collateral(s),
        "",
        f"Stage: {s['stage']}",
        *(f"  - {reason}" for reason in s.get("stage_reasons") or ()),
        *_spent(s),
    ]
    return "\n".join(lines)


def with_places(rows: Sequence[OutcomeRate] | Sequence[LayerRegime], points: pd.DataFrame) -> pd.DataFrame:
    """Rates or regimes as a frame with the coordinates of their points; the unedited model's have none."""
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(list(rows), columns=rows[0]._fields)
    return frame.merge(points.drop_duplicates("key")[["key", *COORDINATES]], on="key", how="left")


def point_words(group: str) -> str:
    """A stored group in words: "layer 3, strength 0.5" for "window/difference_of_means/layer=3/strength=0.5"."""
    kind, variant = [*group.split("/"), ""][:2]
    names = []
    for part in group.split("/")[2:]:
        name, _, value = part.partition("=")
        if name == "n" and value.isdigit():
            names.append(plural(int(value), "head" if variant == "heads" else "neuron"))
        elif part != "factor=0" or kind == "factor":
            names.append(f"{name} {value}")
    return ", ".join(names) or group


def heading(sweep: Sweep) -> str:
    """What a sweep did, as a heading."""
    kind, factors = sweep.request.kind, sweep.request.factors
    if kind == "dose" and factors and factors[0] != 0:
        return f"Neurons times {factors[0]:g}, dose by dose"
    return _HEADS[kind]


def _what(sweep: Sweep) -> str:
    s, request = sweep.summary, sweep.request
    if request.kind in INJECTION_KINDS:
        unit = "lengths of the residual stream" if request.relative else "the residual stream's own unit"
        towards = f"; {s['toward_other']:+d} is the sign towards what the other prompts do" if s["toward_other"] else ""
        return f"direction {request.direction}, strength in {unit}, above zero towards the target{towards}"
    if s.get("ranking") == "chosen":
        return f"{len(request.neurons)} neurons chosen by hand"
    if s.get("ranking"):
        side = "" if request.side == "both" else f", {request.side} importance only"
        return f"ranking {s['ranking']}{side}, from {s['n_selecting_pairs']} pairs"
    return "one point after the other" if request.kind != "heads" else "ranked by the same two passes"


def _position(sweep: Sweep) -> str:
    at = {"decision": "at the decision position", "all": "at every position, generated ones included"}
    return at[sweep.request.position]


def _counts(baseline: Sequence[dict[str, Any]]) -> str:
    parts = ", ".join(f"{row['n_prompts']} {_SPLITS[row['split']]}" for row in baseline)
    return f"{sum(row['n_prompts'] for row in baseline)} prompts ({parts})"


def _baseline(row: dict[str, Any]) -> str:
    interval = f" ({_range(row['low'], row['high'])})" if row["low"] is not None else ""
    return f"{_SPLITS[row['split']]} {_number(row['logit_diff_mean'])}{interval}"


def _curve(points: Sequence[SweepPoint], s: dict[str, Any]) -> list[str]:
    """The change at every ranked point on discovery and held-out prompts, beside the range of its random draws."""
    there = {p.split for p in points}
    shown = [split for split in _SHOWN if split in there] or sorted(there)
    ranked: dict[tuple[str, str], SweepPoint] = {(p.key, p.split): p for p in points if p.arm == "ranked"}
    keys = _in_order(p.key for p in points if p.arm == "ranked")
    draws: dict[str, list[float]] = {}
    for p in points:
        if p.arm == "random" and p.delta_mean is not None:
            draws.setdefault(p.group, []).append(p.delta_mean)
    chosen, note = _largest(keys, ranked, shown[0])
    table = [["point", *(f"{_SPLITS[split]} (interval) [random draws]" for split in shown)]]
    for key in chosen:
        of_key = [ranked.get((key, split)) for split in shown]
        first = next(p for p in of_key if p is not None)
        table.append([_place(first), *(_cell(p, draws) for p in of_key)])
    n_draws = s["controls"]["n_draws"]
    control = s["controls"]["kind"] + (f", {n_draws} draws" if n_draws else "")
    return [
        f"Change of the logit difference, in logits, with 95 % intervals{note}; controls: {control}",
        *aligned(table),
    ]


def _largest(keys: Sequence[str], ranked: Mapping[tuple[str, str], SweepPoint], split: str) -> tuple[list[str], str]:
    """The points to print, in order, and a note where some are left out: neurons first, then the largest changes."""
    if len(keys) <= MAX_CURVE_ROWS:
        return list(keys), ""

    def weight(key: str) -> tuple[bool, float]:
        point = ranked.get((key, split))
        if point is None:
            return False, 0.0
        return point.n_neurons is not None, abs(point.delta_mean or 0.0)

    kept = set(sorted(keys, key=weight, reverse=True)[:MAX_CURVE_ROWS])
    note = f"; {MAX_CURVE_ROWS} of {len(keys)} points, those that change it most on {_SPLITS[split]} prompts"
    return [key for key in keys if key in kept], note


def _place(point: SweepPoint) -> str:
    """Where a point stands on its curve."""
    parts = []
    if point.kind in ("layers", "patch", "held"):
        parts.append(point.variant)
    if point.n_neurons is not None:
        what = "heads" if point.kind == "heads" else "neurons"
        parts.append(f"{point.n_neurons} {what if point.n_neurons != 1 else what[:-1]}")
    if point.layer is not None:
        parts.append(f"layer {point.layer}")
    elif point.layers:
        parts.append(f"layers {point.layers[0]}-{point.layers[-1]}")
    if point.strength is not None:
        parts.append(f"strength {point.strength:g}")
    if point.factor is not None and (point.kind == "factor" or point.factor != 0):
        parts.append(f"factor {point.factor:g}")
    return ", ".join(parts)


def _cell(point: SweepPoint | None, draws: dict[str, list[float]]) -> str:
    if point is None:
        return ""
    if point.broken:
        return f"broken on {point.n_broken} of {point.n_prompts}"
    interval = f" ({_range(point.delta_low, point.delta_high)})" if point.delta_low is not None else ""
    random = draws.get(point.group)
    band = f" [{_range(min(random), max(random))}]" if random else ""
    return f"{_number(point.delta_mean)}{interval}{band}"


def _answers(points: Sequence[SweepPoint], rates: Sequence[OutcomeRate]) -> list[str]:
    """Outcome rates at one point, chosen on discovery prompts and shown on held-out ones where there are some."""
    of_point = {(one.key, one.split, one.outcome): one for one in rates}
    keys = _in_order(p.key for p in points if p.arm == "ranked")
    splits = {one.split for one in rates}
    if not splits:
        return []
    choosing = "discovery" if "discovery" in splits else min(splits)
    showing = "heldout" if "heldout" in splits else choosing

    def changed(key: str) -> float:
        one = of_point.get((key, choosing, FORMAT_CHANGE))
        return -1.0 if one is None or one.share is None else one.share

    best = max(keys, key=changed)  # the first of equal ones, so the smallest dose
    on = f"on {_SPLITS[choosing]} prompts"
    why = f"where most classes change {on}"
    if changed(best) <= 0:
        best, why = keys[-1], f"the last point (no class changes {on} at any)"
    first = next(p for p in points if p.key == best)
    draws = _in_order(p.key for p in points if p.arm == "random" and p.place == first.place)
    lines = [
        "",
        f"Answers at {_place(first)}, {why}; counted on {_SPLITS[showing]} ones",
    ]
    for one in (one for one in rates if one.key == best and one.split == showing):
        random = [
            other.share
            for key in draws
            if (other := of_point.get((key, showing, one.outcome))) is not None and other.share is not None
        ]
        band = f"; random draws {min(random):.0%} to {max(random):.0%}" if random else ""
        p = f", corrected p {one.p_holm:.2g}" if one.p_holm is not None else ""
        seeds = f", seeds {min(one.by_seed):.0%} to {max(one.by_seed):.0%}" if one.by_seed else ""
        share = "no answer" if one.share is None else f"{one.share:.0%} ({one.low:.0%} to {one.high:.0%})"
        lines.append(f"  {one.title}: {one.n_yes} of {one.n}, {share}, before {one.n_before}{p}{seeds}{band}")
    return lines


def _agreement(found: Agreement | None) -> list[str]:
    if found is None:
        return []
    value = "undefined" if found.kappa is None else f"{found.kappa:.2f}"
    interval = "" if found.kappa_low is None else f" ({found.kappa_low:.2f} to {found.kappa_high:.2f})"
    return [
        f"  Rules and labels agree on {found.n_agree} of {found.n} labelled answers, {found.share:.0%} "
        f"({found.low:.0%} to {found.high:.0%}); Cohen's kappa {value}{interval}"
    ]


def _collateral(s: dict[str, Any]) -> list[str]:
    """The three other circuits that change most, each at its worst point, and neutral text."""
    rows = [row for row in s.get("collateral") or () if row["delta_mean"] is not None]
    worst: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["name"] not in worst or abs(row["delta_mean"]) > abs(worst[row["name"]]["delta_mean"]):
            worst[row["name"]] = row
    circuits = sorted(
        (row for row in worst.values() if row["about"] == "circuit"), key=lambda row: -abs(row["delta_mean"])
    )
    shown = [*circuits[:3], *(row for row in worst.values() if row["about"] == "text")]
    if not shown:
        return []
    return ["", "What else changes, at the point where it changes most", *(_collateral_line(row) for row in shown)]


def _collateral_line(row: dict[str, Any]) -> str:
    unit, digits = ("logits", "+.2f") if row["about"] == "circuit" else ("nats per token", "+.3f")
    values = {"n": row["n_neurons"], "layer": row["layer"], "strength": row["strength"]}
    at = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
    interval = f" ({_range(row['low'], row['high'], digits)})" if row["low"] is not None else ""
    band = "" if row["random_low"] is None else f" [{_range(row['random_low'], row['random_high'], digits)}]"
    place = f" at {at}" if at else ""
    return f"  {row['name']}{place}: {_number(row['delta_mean'], digits)}{interval}{band} {unit}, n = {row['n']}"


def _spent(s: dict[str, Any]) -> list[str]:
    lines = [
        f"Spent: {s['n_full_passes']:,} full passes and {s['n_last_token_passes']:,} of single last tokens in "
        f"{s['seconds']:.1f} s; the paper spends about {PAPER_PASSES} passes for a whole circuit."
    ]
    measuring = s.get("measuring")
    if measuring:
        lines.append(
            f"  Measuring the {measuring['n_neurons']:,} neurons of the ranking one by one, once for this run: "
            f"{measuring['n_full_passes']:,} full and {measuring['n_last_token_passes']:,} last-token passes, "
            f"{measuring['seconds']:.1f} s."
        )
    return lines


def _in_order(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(keys))


def aligned(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows as lines of text, their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: Any, spec: str = "+.2f") -> str:
    return "undefined" if value is None else format(value, spec)


def _range(low: float | None, high: float | None, spec: str = "+.2f") -> str:
    return f"{_number(low, spec)} to {_number(high, spec)}"
