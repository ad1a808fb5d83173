"""Comparisons of models in sentences: what differs and how sure that is. Every sentence is computed from its numbers.

No number goes without its interval or the words that it has none, and without its n. Charts are in `compare_charts`.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pprobe_core import paper
from pprobe_core.charts import number
from pprobe_core.compare_stats import ALPHA, MIN_TWINS, Difference, Fit, Opposition, difference_of_means
from pprobe_core.probing.verdict import MIN_FLIP_RATE, MIN_PAIRS, OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from pprobe_core.sweep_rows import circuit_words, percent
from pprobe_core.wording import plural

PairKey = tuple[str, str, str]  # circuit, label of A, label of B
PAIR_COLUMNS = ("circuit", "label_a", "label_b", "clear", "sentence")

# ------------------------------------------------------------------------------------------------------ the pieces


def joined(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def over_models(parts: Sequence[tuple[str, float, str]]) -> str:
    """`a in X, b in Y and c in Z` from (label, size, words); from four models on only the largest and the smallest."""
    if len(parts) <= 3:
        return joined([f"{words} in {label}" for label, _, words in parts])
    order = sorted(parts, key=lambda part: part[1])
    (low_label, _, low), (high_label, _, high) = order[0], order[-1]
    if low == high:
        return f"{high} in all {len(parts)} models"
    return f"{high} in {high_label} down to {low} in {low_label} ({len(parts)} models)"


def interval_words(low: float | None, high: float | None, digits: int = 2) -> str:
    """`[0.20, 0.34]`, or that there is none."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return "(no interval)"
    return f"[{number(low, digits)}, {number(high, digits)}]"


def percents(share: float) -> str:
    """A signed whole percentage: `+12 %`, `−84 %`."""
    if not np.isfinite(share):
        return "–"
    rounded = round(100 * share)
    return f"{rounded:+,d}".replace("-", "−") + "\u00a0%" if rounded else "0\u00a0%"


def percent_interval(low: float | None, high: float | None) -> str:
    """`[−90, −70] %`, or that there is none."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return "(no interval)"
    ends = [f"{round(100 * end):,d}".replace("-", "−") for end in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"


def p_words(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    if not np.isfinite(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def expected_words(expected: float) -> str:
    """A number of neurons that chance gives: two significant digits."""
    if not np.isfinite(expected):
        return "–"
    return f"{expected:.2g}" if expected < 10 else f"{expected:.0f}"


def ratio_zone(ratio: float) -> str:
    """On which side of the paper's two lines a ratio lies: opposition, routing or between; empty for NaN."""
    if not np.isfinite(ratio):
        return ""
    if ratio > OPPOSITION_MIN_FFN_SKIP:
        return "opposition"
    return "routing" if ratio < ROUTING_MAX_FFN_SKIP else "between"


ZONES: Mapping[str, str] = {
    "opposition": f"above {OPPOSITION_MIN_FFN_SKIP:g} (opposition)",
    "between": f"between {ROUTING_MAX_FFN_SKIP:g} and {OPPOSITION_MIN_FFN_SKIP:g} (neither)",
    "routing": f"below {ROUTING_MAX_FFN_SKIP:g} (routing)",
}


def title_of(row: Mapping[str, Any] | pd.Series) -> str:
    """A circuit's title in the middle of a sentence."""
    title = row.get("circuit_title")
    text = title if isinstance(title, str) and title else circuit_words(str(row["circuit"]))
    return in_sentence(text)


def in_sentence(title: str) -> str:
    """A title as it stands inside a sentence: a small first letter."""
    return title[:1].lower() + title[1:]


def failure_of(row: Mapping[Any, Any] | pd.Series) -> str:
    """Why a run has no numbers, as what follows its name (`cannot be run: ...`, `is not run yet`); else empty."""
    note = row.get("note")
    text = note.strip().rstrip(".") if isinstance(note, str) else ""
    return f"is {text}" if text.startswith("not ") else text


# ------------------------------------------------------------------------------------------------- pairs of models


def pair_sentence(
    a: Mapping[str, Any] | pd.Series,
    b: Mapping[str, Any] | pd.Series,
    difference: Difference | None = None,
    effects: tuple[Mapping[str, Any] | pd.Series, Mapping[str, Any] | pd.Series] | None = None,
) -> str:
    """What differs between two models on one circuit, and how sure that is.

    `a` and `b` are rows of the ratios frame, `effects` their rows of the fit points (the effect of switching neurons
    off, random neurons subtracted). Without `difference` the two intervals are taken as independent.
    """
    found = _known_difference(a, b, difference)
    parts = [_ratio_words(a, b, found), *_weakness_words(a, b, found)]
    if effects is not None:
        parts.append(_effect_words(*effects))
    return " ".join(part for part in parts if part)


def pair_sentences(
    ratios: pd.DataFrame,
    models: Sequence[str],
    differences: Mapping[PairKey, Difference | None] | None = None,
    points: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per circuit and pair of `models`, in their order: PAIR_COLUMNS.

    `clear` says whether the difference of the ratios is clear of zero (None where there is no interval). `differences`
    are keyed by circuit and the two labels in the order of `models`. Combinations without both rows are left out.
    """
    rows = []
    for circuit in ratios["circuit"].drop_duplicates():
        of_circuit = ratios[ratios["circuit"] == circuit].drop_duplicates("label").set_index("label", drop=False)
        for label_a, label_b in combinations(models, 2):
            if label_a not in of_circuit.index or label_b not in of_circuit.index:
                continue
            a, b = of_circuit.loc[label_a], of_circuit.loc[label_b]
            found = _known_difference(a, b, (differences or {}).get((circuit, label_a, label_b)))
            effects = None if points is None else _effects(points, circuit, label_a, label_b)
            clear = None if found is None or found.low is None else found.clear
            sentence = pair_sentence(a, b, found, effects)
            rows.append(
                {"circuit": circuit, "label_a": label_a, "label_b": label_b, "clear": clear, "sentence": sentence}
            )
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def many_words(n_compared: int) -> str:
    """What the number of comparisons does to them; empty for one or none."""
    if n_compared < 2:
        return ""
    expected = 0.05 * n_compared
    about = "about one" if 0.5 <= expected < 1.5 else f"about {expected:.0f}" if expected >= 1.5 else "at times one"
    return (
        f"Each interval stands alone: of {n_compared} comparisons {about} would look clear even if no two models "
        "differed."
    )


def _known_difference(a: Any, b: Any, difference: Difference | None) -> Difference | None:
    if difference is not None or not np.isfinite([a["mean"], b["mean"]]).all():
        return difference
    interval = difference_of_means(*(float(row[name]) for row in (a, b) for name in ("mean", "low", "high")))
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    mean_a, mean_b = float(a["mean"]), float(b["mean"])
    return Difference(mean_a, mean_b, mean_a - mean_b, low, high, _count(a["n"]), _count(b["n"]), paired=False)


def _ratio_words(a: Any, b: Any, found: Difference | None) -> str:
    name = title_of(a)
    failed = [f"{row['label']} {failure_of(row)}" for row in (a, b) if failure_of(row)]
    if failed:
        return f"{_capital(name)}: there is nothing to compare; {joined(failed)}."
    if found is None:
        undefined = [str(row["label"]) for row in (a, b) if not np.isfinite(row["mean"])]
        return (
            f"FFN/Skip of {name} is undefined in {joined(undefined)}: the skip path carries next to no signal there, "
            "so there is nothing to compare."
        )
    start = (
        f"FFN/Skip of {name} is {number(found.mean_a)} in {a['label']} and {number(found.mean_b)} in {b['label']}; "
        f"the difference {number(found.difference, signed=True)} {interval_words(found.low, found.high)}"
    )
    pairs = plural(found.n_a, "shared pair") if found.paired else f"{found.n_a:,} and {found.n_b:,} pairs, not shared"
    if found.low is None or found.high is None:
        return f"{start} has no interval ({pairs}), so nothing is said about the two."
    if not found.clear:
        return f"{start} includes zero ({pairs}), so the two cannot be told apart by it."
    heavier = a["label"] if found.difference > 0 else b["label"]
    zones = [ZONES[ratio_zone(mean)] for mean in (found.mean_a, found.mean_b)]
    lines = f"both lie {zones[0]}" if zones[0] == zones[1] else f"{a['label']} lies {zones[0]}, {b['label']} {zones[1]}"
    return (
        f"{start} is clear of zero ({pairs}), so the last FFN weighs more against what was there before in {heavier}. "
        f"By the paper's lines {lines}."
    )


def _weakness_words(a: Any, b: Any, difference: Difference | None) -> list[str]:
    if any(failure_of(row) for row in (a, b)):
        return []
    words = []
    for row in (a, b):
        rate = row.get("flip_rate")
        if rate is not None and np.isfinite(rate) and rate < MIN_FLIP_RATE:
            words.append(
                f"In {row['label']} only {percent(rate, 0)} of the pairs change sides, so its number says little about "
                "this behaviour."
            )
    few = min(_count(row.get("n_pairs")) for row in (a, b))
    if difference is not None:
        few = min(few or difference.n_a, difference.n_a, difference.n_b)
    if 0 < few < MIN_PAIRS:
        words.append(f"With {plural(few, 'pair')} this is a hint at most.")
    return words


def _effects(points: pd.DataFrame, circuit: str, label_a: str, label_b: str) -> tuple[Any, Any] | None:
    of_circuit = points[points["circuit"] == circuit]
    rows = [of_circuit[of_circuit["label"] == label] for label in (label_a, label_b)]
    if any(own.empty or not np.isfinite(own["effect"].iloc[0]) for own in rows):
        return None
    return rows[0].iloc[0], rows[1].iloc[0]


def _effect_words(a: Any, b: Any) -> str:
    counts = _count(a["n_neurons"]), _count(b["n_neurons"])
    what = f"the first {counts[0]:,}" if counts[0] == counts[1] else f"the first {counts[0]:,} and {counts[1]:,}"
    told = []
    for row in (a, b):
        interval_text = percent_interval(row["effect_low"], row["effect_high"])
        told.append(f"{percents(row['effect'])} {interval_text} of its size in {row['label']}")
    start = f"Switching off {what} neurons moves F by {joined(told)}, random neurons subtracted"
    ends = ("effect", "effect_low", "effect_high")
    interval = difference_of_means(*(float(row[name]) for row in (a, b) for name in ends))
    if interval is None:
        return f"{start}; there is no interval for the difference."
    if interval.low <= 0 <= interval.high:
        return f"{start}; this does not tell the two apart."
    if np.sign(a["effect"]) * np.sign(b["effect"]) < 0:
        return f"{start}; the two clearly differ and go opposite ways."
    stronger = a if abs(a["effect"]) > abs(b["effect"]) else b
    return f"{start}; the effect is clearly larger in {stronger['label']}."


# ------------------------------------------------------------------------------------------------ base and aligned


def opposition_sentence(test: Opposition, title: str = "") -> str:
    """Whether alignment creates the circuit, in one or two sentences."""
    name = title or circuit_words(test.circuit).lower()
    side = test.behaviour
    aligned = test.n_aligned_target if side == "target" else test.n - test.n_aligned_target
    base = test.n_base_target if side == "target" else test.n - test.n_base_target
    start = (
        f"{_capital(name)}: on the {test.condition} prompt {test.label_aligned} leans to the {side} side in {aligned} "
        f"of {test.n} pairs, its base {test.label_base} in {base}"
    )
    change = (
        f"F moves by {number(test.difference, signed=True)} logits "
        f"{interval_words(test.difference_low, test.difference_high)} from base to aligned"
    )
    if test.reading == "created":
        end = f"so alignment creates this side ({p_words(test.p_holm)}, McNemar, Holm); {change}"
    elif test.reading == "already_there":
        more = (test.difference > 0) == (side == "target")
        extent = f"; alignment {'strengthens' if more else 'weakens'} it" if test.clear else ""
        end = f"so the side is already there before alignment{extent}; {change}"
    elif test.n < MIN_TWINS:
        end = f"which is too few pairs to tell whether alignment creates it; {change}"
    else:
        end = f"so it cannot be told whether alignment creates it; {change}"
    return f"{start}, {end}.{_answer_words(test)}"


def _answer_words(test: Opposition) -> str:
    if not test.n_answers:
        return " No written answers were compared, so this is about first tokens only."
    opposite = test.n_answers_opposite
    verb = "is" if opposite == 1 else "are"
    return f" Of {plural(test.n_answers, 'pair')} of written answers {opposite} {verb} opposite."


# --------------------------------------------------------------------------------------------------------- overlap


def overlap_sentence(row: Mapping[str, Any] | pd.Series) -> str:
    """How many neurons two circuits of one model share, against chance. `row` is one row of the overlap frame."""
    names = f"{circuit_words(row['circuit_a'])} and {circuit_words(row['circuit_b']).lower()}"
    shared, k = int(row["n_shared"]), int(row["k"])
    start = (
        f"In {row['label']} {names[0].lower() + names[1:]} share {shared} of their first {k} neurons; chance gives "
        f"{expected_words(float(row['expected']))}"
    )
    layered = float(row.get("expected_by_layer", np.nan))
    p = float(row["p_holm"])
    if np.isfinite(layered):
        p = float(row["p_by_layer_holm"])
        start += f", inside the same layers {expected_words(layered)}"
    if p < ALPHA:
        end = f", so they have more in common than chance ({p_words(p)}, Holm)"
    else:
        end = f", so nothing beyond chance is shown ({p_words(p)}, Holm)"
    agreement = row.get("sign_agreement")
    signs = ""
    if shared and agreement is not None and np.isfinite(agreement):
        same = round(float(agreement) * shared)
        signs = f" {same} of the {shared} {'pushes' if same == 1 else 'push'} the same way in both."
    return f"{start}{end}.{signs}"


# --------------------------------------------------------------------------------------------------------- the fit


def fit_sentence(found: Fit | None, n_points: int) -> str:
    """What one's own runs say about the paper's claim that FFN/Skip explains the ablation effect."""
    reference = paper.FIT_R_SQUARED
    claim = f"the paper says {percent(reference.value, 0)} on {reference.n} models ({reference.place})"
    if found is None:
        return (
            f"{_capital(plural(n_points, 'run', ('has', 'have')))} both numbers: too few for a line, or all alike; "
            f"{claim}."
        )
    share = f"{percent(found.r_squared, 0)} {percent_interval(found.r_squared_low, found.r_squared_high)}"
    text = (
        f"On your {found.n} runs FFN/Skip{' (logarithm)' if found.log_x else ''} explains {share} of the variance of "
    )
    text += f"the ablation effect; {claim}."
    slope = f"{number(found.slope, signed=True)} {interval_words(found.slope_low, found.slope_high)}"
    reading = (
        "clear of zero" if found.clear else "not clear of zero" if found.slope_low is not None else "of unknown spread"
    )
    text += f" The slope, {slope}, is {reading}."
    if found.resampled == "models":
        how = f" The intervals resample the {found.n_models} models"
        text += how + (", which are few: take them as rough." if found.n_models < 10 else ".")
    else:
        text += (
            f" With {plural(found.n_models, 'model')} the intervals resample single runs, which are not independent: "
            "they are too narrow."
        )
    return text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(value: Any) -> int:
    return int(value) if value is not None and np.isfinite(value) else 0
