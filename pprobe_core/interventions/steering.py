"""Whether injecting a direction is expected to work, by the paper's three observed conditions, and whether it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pprobe_core import stats
from pprobe_core.circuits.responses import side_of
from pprobe_core.circuits.schema import Circuit, Condition, Side
from pprobe_core.interventions.outcomes import KEPT, SWITCHED, OutcomeRate
from pprobe_core.interventions.types import BASELINE_KEY, SweepPoint

# arXiv 2604.27401: language steering works in the 3 of 19 models that are bilingual, have an FFN/Skip ratio in this
# range and separate the two kinds of prompts linearly.
MIN_FFN_SKIP, MAX_FFN_SKIP = 0.3, 1.1
MIN_BOTH = 0.9  # ours: share of answers on the expected side, on each kind of prompt
MIN_SEPARABILITY = 0.9  # ours: accuracy on held-out prompts at the best layer, with the interval above a half
WORKS = 0.5  # ours: share of switched held-out answers from which steering is said to work


@dataclass(frozen=True)
class SteeringCondition:
    """One of the three: whether it is met (None: it cannot be said), and the numbers in a sentence."""

    name: str
    title: str
    met: bool | None
    text: str


@dataclass(frozen=True)
class Steering:
    """The three conditions, and one sentence that says whether steering is expected to work and did."""

    conditions: tuple[SteeringCondition, ...]
    sentence: str


def steering(
    circuit: Circuit,
    run_summary: Mapping[str, Any],
    sweep_summary: Mapping[str, Any],
    points: Sequence[SweepPoint],
    rates: Sequence[OutcomeRate],
) -> Steering:
    """Conditions from the run and the sweep's separability; the outcome from the sweep's answers.

    The layer and strength are chosen on the discovery prompts, what happened there is told from held-out ones.
    """
    conditions = (
        both_behaviours(circuit, run_summary),
        ffn_skip_range(run_summary),
        linear_representability(sweep_summary),
    )
    return Steering(conditions, f"{_expectation(conditions)} {_outcome(points, rates)}")


def both_behaviours(circuit: Circuit, run_summary: Mapping[str, Any]) -> SteeringCondition:
    """Whether the unedited model gives each kind of prompt its own kind of answer (language: it is bilingual)."""
    title = "The model does both (bilingual, where the circuit is language)"
    classes = (run_summary.get("generation") or {}).get("classes")
    diffs = run_summary.get("logit_diff") or {}
    if not classes:
        return SteeringCondition("both", title, None, "The run generated no answers, so this cannot be said.")
    texts, met = [], True
    conditions: tuple[Condition, ...] = ("original", "perturbed")
    for condition in conditions:
        counts: Mapping[str, int] = classes.get(condition) or {}
        side: Side = "target" if float(diffs.get(f"{condition}_mean") or 0.0) > 0 else "control"
        n = sum(counts.values())
        k = sum(m for name, m in counts.items() if side_of(circuit, name, condition) == side)
        interval = stats.wilson(k, n)
        titles = [c.title for c in circuit.response_classes if side_of(circuit, c.name, condition) == side]
        span = "" if interval is None else f", 95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %"
        texts.append(f"{k} of {n} {condition} prompts get an answer of the class {' or '.join(titles)}{span}")
        met = met and n > 0 and k / n >= MIN_BOTH
    return SteeringCondition("both", title, met, "; ".join(texts) + ".")


def ffn_skip_range(run_summary: Mapping[str, Any]) -> SteeringCondition:
    """Whether the FFN/Skip ratio of the last layer lies in the range in which the paper saw steering work."""
    title = f"FFN/Skip lies between {MIN_FFN_SKIP} and {MAX_FFN_SKIP}"
    ratio = run_summary.get("ffn_skip") or {}
    mean, interval = ratio.get("mean"), ratio.get("interval")
    if mean is None:
        return SteeringCondition("ffn_skip", title, None, "The ratio is undefined on these prompts.")
    span = f", 95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval and None not in interval else ""
    text = f"It is {mean:.2f} (n = {ratio.get('n_defined')} prompts{span})."
    return SteeringCondition("ffn_skip", title, MIN_FFN_SKIP <= mean <= MAX_FFN_SKIP, text)


def linear_representability(sweep_summary: Mapping[str, Any]) -> SteeringCondition:
    """Whether a difference-of-means direction tells held-out prompts of the two kinds apart."""
    title = "A direction separates the two kinds of prompts"
    rows = [row for row in sweep_summary.get("separability") or [] if row.get("accuracy") is not None]
    if not rows:
        return SteeringCondition("linear", title, None, "There are no held-out prompts to measure it on.")
    best = max(rows, key=lambda row: (row["accuracy"], -row["layer"]))
    worst = min(rows, key=lambda row: row["accuracy"])
    text = (
        f"On {best['n_prompts']} held-out prompts it is right on {100 * best['accuracy']:.0f} % after layer "
        f"{best['layer']} (95 % interval {100 * best['low']:.0f} to {100 * best['high']:.0f} %); at the worst layer, "
        f"{worst['layer']}, on {100 * worst['accuracy']:.0f} %. Chance is 50 %."
    )
    return SteeringCondition("linear", title, best["accuracy"] >= MIN_SEPARABILITY and best["low"] > 0.5, text)


def percent_range(low: float, high: float) -> str:
    """Two shares as "20 to 40 %", or one number where they do not differ."""
    ends = [f"{100 * end:.0f}" for end in (low, high)]
    return f"{ends[0]} %" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} %"


def _expectation(conditions: Sequence[SteeringCondition]) -> str:
    missing = [c.title for c in conditions if not c.met]
    if not missing:
        return "All three conditions are met, so steering is expected to work."
    named = "; ".join(f"“{title}”" for title in missing)
    return f"Not met or unknown: {named}. By the paper's observation steering is not expected to work."


@dataclass(frozen=True)
class BestSwitch:
    """The injected point that did best on discovery answers, what it does to held-out ones, and its random draws."""

    place: SweepPoint
    shown: OutcomeRate  # on held-out answers where there are some
    random: tuple[float, ...]  # the same share under each random direction

    @property
    def worked(self) -> bool:
        """At least WORKS of the answers, and the interval's lower end above every random direction."""
        return (self.shown.share or 0.0) >= WORKS and max(self.random, default=0.0) < (self.shown.low or 0.0)


def best_switch(points: Sequence[SweepPoint], rates: Sequence[OutcomeRate]) -> BestSwitch | None:
    """The point that did best on the discovery prompts; None without answers.

    Most answers that switch and, where that can be told, still give the right answer. Of several that switch as many:
    the one beside which random directions switch fewest, then the weakest push, then the earliest layer.
    """
    coordinates = {p.key: p for p in points}
    outcome = KEPT if any(r.outcome == KEPT for r in rates) else SWITCHED
    of_outcome = [r for r in rates if r.outcome == outcome and r.key != BASELINE_KEY and r.key in coordinates]
    ranked = [r for r in of_outcome if coordinates[r.key].arm == "ranked" and r.split == "discovery"]
    if not ranked:
        return None
    random: dict[tuple[str, str], list[float]] = {}  # (place, split) -> the share under each random direction
    for r in of_outcome:
        if coordinates[r.key].arm == "random" and r.share is not None:
            random.setdefault((coordinates[r.key].place, r.split), []).append(r.share)

    def rank(rate: OutcomeRate) -> tuple[float, float, float, int]:
        point = coordinates[rate.key]
        beside = max(random.get((point.place, "discovery"), ()), default=0.0)
        layer = -1 if point.layer is None else point.layer
        return -(rate.share or 0.0), beside, abs(point.strength or 0.0), layer

    best = min(ranked, key=rank)
    place = coordinates[best.key]
    shown = next((r for r in of_outcome if r.key == best.key and r.split == "heldout"), best)
    return BestSwitch(place, shown, tuple(random.get((place.place, shown.split), ())))


def _outcome(points: Sequence[SweepPoint], rates: Sequence[OutcomeRate]) -> str:
    """What happened on held-out prompts at the point that did best on the discovery prompts."""
    best = best_switch(points, rates)
    if best is None:
        return "Whether it did work needs answers: run the sweep with them."
    place, shown, random = best.place, best.shown, best.random
    beside = f", random directions {percent_range(min(random), max(random))}" if random else ""
    did = "It did" if best.worked else "It did not"
    where = f"after layer {place.layer}" if place.layer is not None else "in that band of layers"
    what = "switch and still give the right answer" if shown.outcome == KEPT else "switch"
    prompts = "held-out" if shown.split == "heldout" else "discovery"
    return (
        f"{did}: {where} at strength {place.strength:g}, the best place on the discovery prompts, {shown.n_yes} of "
        f"{shown.n} {prompts} answers {what} ({100 * (shown.share or 0):.0f} %, 95 % interval "
        f"{100 * (shown.low or 0):.0f} to {100 * (shown.high or 0):.0f} %{beside})."
    )
