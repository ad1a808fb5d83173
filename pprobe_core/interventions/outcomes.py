"""What generated answers say about an edit: class changes against the unedited answers, with intervals and controls.

Pure functions from answers (rows of SweepResponse) to one row per point. Rates are fractions with Wilson intervals.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pprobe_core import stats
from pprobe_core.circuits.responses import BROKEN, side_of, strip_thinking
from pprobe_core.circuits.schema import Circuit, Condition
from pprobe_core.interventions.statistics import Rate, Regime, holm, mcnemar_p, rate, regime
from pprobe_core.interventions.types import BASELINE_KEY, SweepResponse

MIN_CONTENT_OVERLAP = 0.6  # ours: word overlap (F1) from which two answers say the same

FORMAT_CHANGE, SWITCHED, KEPT, IS_BROKEN = "format_change", "switched", "switched_and_right", "broken"
TITLES: Mapping[str, str] = {
    FORMAT_CHANGE: "Class changed",
    SWITCHED: "Switched sides",
    KEPT: "Switched, still the right answer",
    IS_BROKEN: "Empty or broken",
}
OF_CLASSES = (FORMAT_CHANGE, SWITCHED, IS_BROKEN)  # what the classes of the answers alone decide, in every circuit


@dataclass(frozen=True)
class Reference:
    """What is known about one prompt beside its answers."""

    multi_turn: bool = False  # an earlier answer of the assistant stands in it
    twin_answer: str | None = None  # the unedited model's answer to the pair's other prompt
    gold: tuple[str, ...] = ()  # right answers to the pair's other prompt, where the circuit has them


@dataclass(frozen=True)
class OutcomeRate:
    """How many answers of one point and split count for one outcome; `p_value` against the unedited model."""

    key: str
    split: str
    outcome: str
    title: str
    n: int  # answers: prompts times seeds
    n_yes: int
    n_before: int  # the same prompts and seeds, unedited
    share: float | None
    low: float | None  # Wilson interval; with several seeds a bootstrap over prompts
    high: float | None
    # McNemar, exact, of ranked points; of one seed only, since answers of several seeds are not independent
    p_value: float | None
    p_holm: float | None = None
    by_seed: tuple[float, ...] = ()  # share per seed, where there are several


class Tally(NamedTuple):
    """Answers of one point and split whose class went the same way; of answers that are alike only the number counts.

    `pair_id` and `seed` matter where there are several seeds: intervals are then over prompts.
    """

    key: str
    split: str
    before: str  # class of the unedited answer to the same prompt with the same seed
    after: str
    n: int = 1
    multi_turn: bool = False  # of the prompt
    kept: bool | None = (
        None  # the edited answer says what the pair's other prompt asks for; None: not known what that is
    )
    pair_id: str = ""
    seed: int = 0


def outcome_rates(
    circuit: Circuit,
    condition: Condition,
    responses: Sequence[SweepResponse],
    references: Mapping[str, Reference],
    only: Collection[str] | None = None,
) -> tuple[OutcomeRate, ...]:
    """One row per point, split and outcome, from answers; see `rates_of`.

    The unedited answer of the same prompt and seed is the comparison; answers without one are left out.
    """
    before = {(r.pair_id, r.seed): r.class_name for r in responses if r.key == BASELINE_KEY}
    tallies = []
    for r in responses:
        old = before.get((r.pair_id, r.seed))
        if old is None:
            continue
        reference = references.get(r.pair_id, Reference())
        kept = None
        if has_content(reference):
            kept = is_switched(circuit, condition, old, r.class_name) and keeps_content(r.text, reference)
        tallies.append(Tally(r.key, r.split, old, r.class_name, 1, reference.multi_turn, kept, r.pair_id, r.seed))
    return rates_of(circuit, condition, tallies, only)


def rates_of(
    circuit: Circuit, condition: Condition, tallies: Iterable[Tally], only: Collection[str] | None = None
) -> tuple[OutcomeRate, ...]:
    """One row per point, split and outcome. Outcomes: class changed, switched sides, broken, the circuit's own; and
    switched with the right answer kept, where the tallies say whether it is. `only` names those that are wanted.
    """
    groups: dict[tuple[str, str], list[Tally]] = {}
    for tally in tallies:
        groups.setdefault((tally.key, tally.split), []).append(tally)
    ways = {(t.before, t.after) for of_group in groups.values() for t in of_group}
    switches = {way for way in ways if is_switched(circuit, condition, *way)}
    rates: list[OutcomeRate] = []
    for (key, split), of_group in groups.items():
        for name, title, counted in _counted(circuit, of_group, switches):
            if counted and (only is None or name in only):
                rates.append(_rate(key, split, name, title, counted))
    return tuple(_corrected(rates))


# Each row: answers that are alike, whether they count before, and after
_Rows = list[tuple[Tally, bool, bool]]


def _counted(
    circuit: Circuit, tallies: Sequence[Tally], switches: set[tuple[str, str]]
) -> Iterable[tuple[str, str, _Rows]]:
    switched = [(t, False, (t.before, t.after) in switches) for t in tallies]
    yield FORMAT_CHANGE, TITLES[FORMAT_CHANGE], [(t, False, t.before != t.after) for t in tallies]
    yield SWITCHED, TITLES[SWITCHED], switched
    yield KEPT, TITLES[KEPT], [(t, False, yes and t.kept) for t, _, yes in switched if t.kept is not None]
    yield IS_BROKEN, TITLES[IS_BROKEN], [(t, t.before == BROKEN, t.after == BROKEN) for t in tallies]
    for outcome in circuit.outcomes:
        yield (
            outcome.name,
            outcome.title,
            [
                (t, t.before in outcome.classes, t.after in outcome.classes)
                for t in tallies
                if outcome.prompts == "all" or t.multi_turn
            ],
        )


def is_switched(circuit: Circuit, condition: Condition, before: str, after: str) -> bool:
    """Whether an answer went from one side of the observable to the other."""
    sides = side_of(circuit, before, condition), side_of(circuit, after, condition)
    return "other" not in sides and sides[0] != sides[1]


def keeps_content(text: str, reference: Reference) -> bool:
    """Whether an answer says what the pair's other prompt is rightly answered with.

    By the right answers where they are known, else by word overlap (F1, Chinese characters one by one) of at least
    MIN_CONTENT_OVERLAP with the answer that the unedited model gives to the other prompt.
    """
    answer, _ = strip_thinking(text)
    if reference.gold:
        return any(gold.casefold() in answer.casefold() for gold in reference.gold)
    return content_overlap(answer, strip_thinking(reference.twin_answer or "")[0]) >= MIN_CONTENT_OVERLAP


def content_overlap(one: str, two: str) -> float:
    """F1 of the words of two texts, with repetitions: 1 for the same words, 0 for none in common."""
    words = [_words(text) for text in (one, two)]
    if not words[0] or not words[1]:
        return 0.0
    left = list(words[1])
    common = 0
    for word in words[0]:
        if word in left:
            left.remove(word)
            common += 1
    return 2 * common / (len(words[0]) + len(words[1]))


def _words(text: str) -> list[str]:
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", text.casefold())


def has_content(reference: Reference | None) -> bool:
    """Whether it is known what the pair's other prompt is rightly answered with."""
    return reference is not None and bool(reference.gold or reference.twin_answer)


def _rate(key: str, split: str, name: str, title: str, rows: _Rows) -> OutcomeRate:
    n = n_yes = n_before = lost = 0  # a window has tens of thousands of rates: each is counted in one go
    seen: set[int] = set()
    for tally, before, after in rows:
        n += tally.n
        n_yes += tally.n if after else 0
        n_before += tally.n if before else 0
        lost += tally.n if before and not after else 0
        seen.add(tally.seed)
    gained, seeds = n_yes - (n_before - lost), sorted(seen)
    found: Rate = rate(n_yes, n)
    low, high = found.low, found.high
    by_seed: tuple[float, ...] = ()
    if len(seeds) > 1:
        # Several answers to one prompt are not independent: the interval is over prompts.
        of_prompt: dict[str, list[bool]] = {}
        of_seed: dict[int, list[bool]] = {seed: [] for seed in seeds}
        for tally, _, after in rows:
            of_prompt.setdefault(tally.pair_id, []).append(after)
            of_seed[tally.seed].append(after)
        interval = stats.bootstrap_mean([sum(v) / len(v) for v in of_prompt.values()], seeds[0])
        low, high = (None, None) if interval is None else (interval.low, interval.high)
        by_seed = tuple(sum(v) / len(v) for v in of_seed.values())
    return OutcomeRate(
        key=key,
        split=split,
        outcome=name,
        title=title,
        n=n,
        n_yes=n_yes,
        n_before=n_before,
        share=found.share,
        low=low,
        high=high,
        p_value=mcnemar_p(gained, lost) if _is_ranked(key) and len(seeds) == 1 else None,
        by_seed=by_seed,
    )


def _is_ranked(key: str) -> bool:
    """Whether a key is a ranked point's: neither the unedited model's nor a random draw's."""
    return key != BASELINE_KEY and key.rsplit("/", 1)[-1] == "ranked"


def _corrected(rates: Sequence[OutcomeRate]) -> list[OutcomeRate]:
    """Holm over the points of each split and outcome."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, one in enumerate(rates):
        if one.p_value is not None:
            places.setdefault((one.split, one.outcome), []).append(i)
    out = list(rates)
    for of_group in places.values():
        adjusted = holm([rates[i].p_value for i in of_group])
        for i, p in zip(of_group, adjusted, strict=True):
            out[i] = replace(out[i], p_holm=p)
    return out


@dataclass(frozen=True)
class LayerRegime:
    """What an injection after one layer at one strength does to the answers, in a word, with the counts behind it."""

    key: str
    split: str
    n: int
    n_broken: int
    n_switched: int
    regime: Regime | None


def regimes(rates: Sequence[OutcomeRate]) -> tuple[LayerRegime, ...]:
    """The regime of every point that has answers (statistics.regime states the rule)."""
    table = {(one.key, one.split, one.outcome): one for one in rates}
    out = []
    for (key, split, name), one in table.items():
        if name != SWITCHED or key == BASELINE_KEY:
            continue
        broken = table[key, split, IS_BROKEN].n_yes
        out.append(LayerRegime(key, split, one.n, broken, one.n_yes, regime(broken, one.n_yes, one.n)))
    return tuple(out)


def as_rows(rates: Sequence[OutcomeRate]) -> list[dict[str, object]]:
    """Plain rows for a frame or JSON."""
    return [dict(vars(one)) for one in rates]
