"""Whether a circuit measures what it says, on the prompts and the model of one run. Pure: stored rows in, findings out.

The thresholds are those of the verdict. A circuit that misses one is no error of the run, but what is read from it
would not be about the behaviour.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pprobe_core.circuits import by_example
from pprobe_core.circuits.responses import BROKEN, BY_EXAMPLE, classify, examples_of, side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.probing.verdict import (
    MIN_AGREEMENT,
    MIN_AGREEMENT_LOW,
    MIN_COVERAGE,
    MIN_FLIP_RATE,
    MIN_PAIRS,
    answers_agree,
)
from pprobe_core.stats import wilson
from pprobe_core.wording import plural

Level = Literal["good", "weak", "bad"]  # weak: worth knowing; bad: the circuit should not be used as it is
MAX_NAMED = 3  # tokens or answers named in one sentence

_CONDITIONS: tuple[Literal["original", "perturbed"], ...] = ("original", "perturbed")


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: what was measured, with n and interval, and what to change where it is not good."""

    name: str
    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Validity:
    """Everything that was checked about a circuit with one run."""

    findings: tuple[Finding, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is bad."""
        return all(finding.level != "bad" for finding in self.findings)


@dataclass(frozen=True)
class Confusion:
    """Examples classified without themselves: how many of each class (row) were taken for each class (column).

    `n_openings`: opening phrases too short to be compared, which take no part: without itself such an example says
    nothing.
    """

    counts: pd.DataFrame  # index: the class an example was given for, columns: the class it got; class names
    n: int
    n_right: int
    mistaken: tuple[tuple[str, str, str], ...]  # example, its class, the class it got
    n_openings: int = 0

    @property
    def share(self) -> float | None:
        """Share of examples that get their own class, None without any."""
        return self.n_right / self.n if self.n else None


def validity(circuit: Circuit, summary: Mapping[str, Any], pairs: pd.DataFrame, first_tokens: pd.DataFrame) -> Validity:
    """What a run says about its circuit; `pairs` and `first_tokens` as in ProbeResult.

    Bad: fewer than MIN_FLIP_RATE of the pairs flip; the likeliest first token lies in the token sets on fewer than
    MIN_COVERAGE of the prompts of a kind; the written answers do not lie on the side of F (`answers_agree`), or there
    are none. Weak: few pairs, sides that lean the other way round, answers without a class.
    """
    findings = [
        _enough_pairs(summary),
        _flips(summary),
        *(_covered(circuit, condition, summary, pairs, first_tokens) for condition in _CONDITIONS),
        _margins(circuit, summary),
        _answers(circuit, summary, pairs),
    ]
    return Validity(tuple(finding for finding in findings if finding is not None))


def _enough_pairs(summary: Mapping[str, Any]) -> Finding | None:
    n = int(summary["n_pairs"])
    if n >= MIN_PAIRS:
        return None
    return Finding(
        "Pairs", "weak", f"Only {plural(n, 'pair')}.", f"Add pairs: {MIN_PAIRS} are few, 40 or more are better."
    )


def _flips(summary: Mapping[str, Any]) -> Finding:
    n, k = int(summary["n_pairs"]), int(summary["n_flipped"])
    text = f"The decision changes sides on {_share(k, n, 'pair')}."
    if k / n >= MIN_FLIP_RATE:
        return Finding("Pairs that flip", "good", text)
    return Finding(
        "Pairs that flip",
        "bad",
        f"{text} At least {_percent(MIN_FLIP_RATE)} are needed.",
        "The second prompts do not change what the model does. Make them differ in what decides the behaviour, or "
        "choose words for the two sides that stand further apart.",
    )


def _covered(
    circuit: Circuit,
    condition: Literal["original", "perturbed"],
    summary: Mapping[str, Any],
    pairs: pd.DataFrame,
    first_tokens: pd.DataFrame,
) -> Finding:
    """Whether the likeliest first token is in a token set often enough; else which tokens it is instead."""
    n, k = int(summary["n_pairs"]), int(summary["coverage"][f"n_{condition}"])
    text = f"The likeliest first token is one of yours on {_share(k, n, f'{condition} prompt')}."
    name = f"First tokens, {condition} prompts"
    missed = missed_tokens(pairs, first_tokens, condition)
    if k / n >= MIN_COVERAGE:
        return Finding(name, "good", text, "" if not missed else f"Missed: {_counted(missed, n)}.")
    side = _likely_side(circuit, condition, pairs, {token for token, _ in missed[:1]}, first_tokens)
    where = f"the {side} side" if side else "the side it stands for"
    token = missed[0][0]
    return Finding(
        name,
        "bad",
        f"{text} At least {_percent(MIN_COVERAGE)} are needed.",
        f"Of {plural(n, 'prompt')} {_counted(missed, n)}: add “{_visible(token)}” to {where}.",
    )


def missed_tokens(
    pairs: pd.DataFrame, first_tokens: pd.DataFrame, condition: Literal["original", "perturbed"]
) -> list[tuple[str, int]]:
    """Likeliest first tokens that lie in no token set, with how many prompts they start; most frequent first."""
    first = _first(first_tokens, condition)
    outside = first[(first["side"] == "other") & first["pair_id"].isin(pairs["pair_id"])]
    return Counter(str(token) for token in outside["token"]).most_common()


def _first(first_tokens: pd.DataFrame, condition: str) -> pd.DataFrame:
    return first_tokens[(first_tokens["rank"] == 1) & (first_tokens["condition"] == condition)]


def _likely_side(
    circuit: Circuit,
    condition: Literal["original", "perturbed"],
    pairs: pd.DataFrame,
    tokens: set[str],
    first_tokens: pd.DataFrame,
) -> str:
    """The side that most answers beginning with a token stand for; "" where they stand for none."""
    first = _first(first_tokens, condition)
    ids = set(first.loc[first["token"].isin(tokens), "pair_id"])
    classes = pairs.loc[pairs["pair_id"].isin(ids), f"class_{condition}"]
    sides = Counter(side_of(circuit, name, condition) for name in classes if isinstance(name, str))
    del sides["other"]
    return sides.most_common(1)[0][0] if sides else ""


def _margins(circuit: Circuit, summary: Mapping[str, Any]) -> Finding:
    """Which way either kind of prompt leans on average; by convention the original one leans to the target."""
    f = summary["logit_diff"]
    original, perturbed = float(f["original_mean"]), float(f["perturbed_mean"])
    spans = [f"[{low:+.2f}, {high:+.2f}]" if low is not None else "no interval" for low, high in _intervals(f)]
    text = (
        f"Mean lead of the target over the control words: {original:+.2f} logits {spans[0]} on original and "
        f"{perturbed:+.2f} {spans[1]} on perturbed prompts (n = {summary['n_pairs']}, 95 % intervals)."
    )
    if original > 0 > perturbed:
        return Finding("Lead", "good", text)
    if original < 0 < perturbed:
        return Finding(
            "Lead",
            "weak",
            text,
            f"The original prompts lean to “{circuit.control_meaning}”. Charts read more easily with the sides the "
            "other way round: swap the two sides, or the two prompts.",
        )
    side = circuit.target_meaning if original > 0 else circuit.control_meaning
    return Finding(
        "Lead", "weak", text, f"On average both kinds of prompt lean to “{side}”: the pairs part less than they could."
    )


def _intervals(f: Mapping[str, Any]) -> list[tuple[float | None, float | None]]:
    return [tuple(f.get(f"{c}_interval") or (None, None)) for c in _CONDITIONS]


def _answers(circuit: Circuit, summary: Mapping[str, Any], pairs: pd.DataFrame) -> Finding:
    """Whether what the model writes lies on the side that its first token leans to."""
    generation = summary.get("generation") or {}
    n, k = int(generation.get("n_answers") or 0), int(generation.get("n_agree") or 0)
    if not n:
        return Finding("Written answers", "bad", "No answers were written.", "Run the check with answers.")
    text = f"The written answer lies on the side that the first token leans to in {_share(k, n, 'answer')}."
    unsorted = unsorted_answers(circuit, pairs)
    shown = "; ".join(f"“{answer}”" for answer, _ in unsorted[:MAX_NAMED])
    if answers_agree(k, n):
        return Finding("Written answers", "good", text, f"Without a class: {shown}." if unsorted else "")
    needed = (
        f"{_percent(MIN_AGREEMENT)} are needed, and {_percent(MIN_AGREEMENT_LOW)} at the lower end of the interval: "
        "at least 12 answers, all of them right."
    )
    if k / n >= MIN_AGREEMENT:
        return Finding("Written answers", "bad", f"{text} {needed}", "These are too few to be sure. Add pairs.")
    if unsorted:
        total = sum(count for _, count in unsorted)
        advice = (
            f"{plural(total, 'answer')} {'has' if total == 1 else 'have'} no class that stands for a side: {shown}."
        )
        advice += " Add " + ("such answers to the examples of a class." if _made(circuit) else "a class for them.")
    else:
        advice = "The classes and the first words tell different stories: check which class stands for which side."
    return Finding("Written answers", "bad", f"{text} {needed}", advice)


def _made(circuit: Circuit) -> bool:
    return circuit.response_rule == BY_EXAMPLE


def unsorted_answers(circuit: Circuit, pairs: pd.DataFrame) -> list[tuple[str, int]]:
    """Answers of a run that fall into a class of neither side, with how often each was given; most frequent first.

    Empty and broken ones are left out: no example could sort them.
    """
    found: Counter[str] = Counter()
    for condition in _CONDITIONS:
        for text, name in zip(pairs[f"response_{condition}"], pairs[f"class_{condition}"], strict=True):
            if isinstance(name, str) and name != BROKEN and side_of(circuit, name, condition) == "other":
                found[" ".join(str(text).split())[:80]] += 1
    return [(text, n) for text, n in found.most_common() if text]


# Example answers ---------------------------------------------------------------------------------------------------


def confusion(circuit: Circuit) -> Confusion:
    """Every example of a circuit classified by all the others: what its classes would do with an answer like it.

    Optimistic where examples of a class are copies of each other, and pessimistic where a class has few.
    """
    examples = examples_of(circuit)
    seen: list[tuple[str, str, str]] = []
    n_openings = 0
    for name, of_class in examples.items():
        for place, example in enumerate(of_class):
            if by_example.is_opening(example):
                n_openings += 1
                continue
            rest = {**examples, name: (*of_class[:place], *of_class[place + 1 :])}
            seen.append((example, name, by_example.decide(rest, example).class_name))
    tally = Counter((name, got) for _, name, got in seen)
    counts = pd.DataFrame(
        {got: [tally[name, got] for name in examples] for got in (*examples, by_example.OTHER)}, index=list(examples)
    )
    mistaken = tuple(row for row in seen if row[1] != row[2])
    return Confusion(counts, len(seen), len(seen) - len(mistaken), mistaken, n_openings)


def wasted_examples(circuit: Circuit) -> list[tuple[str, str]]:
    """Examples that their own circuit puts elsewhere, with the class they get: empty-looking ones, mostly."""
    return [
        (example, got)
        for name, of_class in examples_of(circuit).items()
        for example in of_class
        if (got := classify(circuit, example)) != name
    ]


def _counted(tokens: Sequence[tuple[str, int]], n: int) -> str:
    """For example: 12 start with “Well”, 3 with “So”."""
    named = [
        f"{k} {'start with ' if i == 0 else 'with '}“{_visible(t)}”" for i, (t, k) in enumerate(tokens[:MAX_NAMED])
    ]
    return ", ".join(named)


def _visible(token: str) -> str:
    return token.replace("\n", "\\n") if token.strip() else repr(token)[1:-1] or "nothing"


def _share(k: int, n: int, noun: str) -> str:
    """For example: 43 of 48 pairs (90 %, 95 % interval 78 to 95 %)."""
    interval = wilson(k, n)
    span = "" if interval is None else f", 95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %"
    return f"{k} of {plural(n, noun)} ({_percent(k / n)}{span})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
