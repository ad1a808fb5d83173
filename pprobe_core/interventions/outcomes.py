"""What generated answers say about an edit: class changes against the unedited answers, with intervals and controls.

Pure functions from answers (rows of SweepResponse) to one row per point. Rates are fractions with Wilson intervals.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


class OutcomeRate(NamedTuple):  # a window has tens of thousands: a dataclass takes several times as long to make
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
    ways = {_way(tally) for of_group in groups.values() for tally in of_group}
    counts = {way: _counts(circuit, condition, way) for way in ways}
    titles = [*TITLES.items(), *((outcome.name, outcome.title) for outcome in circuit.outcomes)]
    wanted = [(i, *named) for i, named in enumerate(titles) if only is None or named[0] in only]
    rates: list[OutcomeRate] = []
    for (key, split), of_group in groups.items():
        counted = [(tally, counts[_way(tally)]) for tally in of_group]
        found = (_rate(key, split, name, title, counted, i) for i, name, title in wanted)
        rates += [one for one in found if one.n]
    return tuple(_corrected(rates))


_Way = tuple[str, str, bool, bool | None]  # of a tally, what decides which outcomes it counts for
_Counts = tuple[tuple[bool, bool] | None, ...]  # for each outcome, whether it counts before and after


def _way(tally: Tally) -> _Way:
    return tally.before, tally.after, tally.multi_turn, tally.kept


def _counts(circuit: Circuit, condition: Condition, way: _Way) -> _Counts:
    """For the outcomes in the order of TITLES, then for the circuit's own; None where an outcome does not apply."""
    before, after, multi_turn, kept = way
    switched = is_switched(circuit, condition, before, after)
    return (
        (False, before != after),
        (False, switched),
        None if kept is None else (False, switched and kept),
        (before == BROKEN, after == BROKEN),
        *(
            (before in outcome.classes, after in outcome.classes) if outcome.prompts == "all" or multi_turn else None
            for outcome in circuit.outcomes
        ),
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


def _rate(
    key: str, split: str, name: str, title: str, counted: Sequence[tuple[Tally, _Counts]], place: int
) -> OutcomeRate:
    """The outcome that stands at `place` of the counts; n = 0 where it applies to none of the answers."""
    n = n_yes = n_before = lost = 0
    seen: set[int] = set()
    for tally, counts in counted:
        yes = counts[place]
        if yes is None:
            continue
        n += tally.n
        n_before += tally.n * yes[0]
        n_yes += tally.n * yes[1]
        lost += tally.n * (yes[0] and not yes[1])
        seen.add(tally.seed)
    gained, seeds = n_yes - (n_before - lost), sorted(seen)
    found: Rate = rate(n_yes, n)
    low, high = found.low, found.high
    by_seed: tuple[float, ...] = ()
    if len(seeds) > 1:
        # Several answers to one prompt are not independent: the interval is over prompts.
        of_prompt: dict[str, list[bool]] = {}
        of_seed: dict[int, list[bool]] = {seed: [] for seed in seeds}
        for tally, counts in counted:
            if (yes := counts[place]) is not None:
                of_prompt.setdefault(tally.pair_id, []).append(yes[1])
                of_seed[tally.seed].append(yes[1])
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
            out[i] = out[i]._replace(p_holm=p)
    return out


class LayerRegime(NamedTuple):
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
    return [one._asdict() for one in rates]
