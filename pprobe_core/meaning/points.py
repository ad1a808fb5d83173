"""The point of a sweep that a paragraph tells of: which one it is, its place and effect in words, its answers."""

from collections.abc import Iterable, Mapping

from pprobe_core.charts import number
from pprobe_core.interventions.outcomes import OutcomeRate
from pprobe_core.interventions.statistics import Comparison
from pprobe_core.interventions.types import INJECTION_KINDS
from pprobe_core.meaning.numbers import logits
from pprobe_core.meaning.parts import Tested
from pprobe_core.wording import plural

SPLIT_NAMES: Mapping[str, str] = {"heldout": "held-out", "validation": "validation", "discovery": "discovery"}


def end_of_curve(tested: Tested) -> Comparison | None:
    """The point to tell of: the largest number of neurons or heads, else the factor that moves F most."""
    counted = [c for c in tested.comparisons if c.n_neurons is not None]
    if tested.kind == "factor":
        return largest(tested)
    split = split_of(c.split for c in counted)
    of_split = [c for c in counted if c.split == split]
    return max(of_split, key=lambda c: c.n_neurons or 0, default=None)


def largest(tested: Tested) -> Comparison | None:
    """The point that moves F most on discovery prompts, as it is on held-out ones where there are some."""
    known = [c for c in tested.comparisons if c.delta_mean is not None]
    choosing = [c for c in known if c.split == "discovery"] or known
    if not choosing:
        return None
    best = max(choosing, key=lambda c: abs(c.delta_mean or 0.0))
    split = split_of(c.split for c in known)
    return next((c for c in known if c.group == best.group and c.split == split), best)


def place_words(tested: Tested, point: Comparison) -> str:
    """`20 of 3,072 neurons switched off`, `5 neurons at factor −2`, `after layer 3 at strength +1`."""
    values = dict(part.split("=", 1) for part in point.group.split("/") if "=" in part)
    n = point.n_neurons or 0
    if tested.kind == "heads":
        return f"{plural(n, 'attention head')} switched off"
    if tested.kind in INJECTION_KINDS:
        where = f"after layer {values['layer']}" if "layer" in values else "in a band of layers"
        return f"{where} at strength {number(float(values['strength']), 1, signed=True)}"
    s = tested.sweep.summary
    count = f"{n:,} of {int(s['n_layers']) * int(s['d_mlp']):,} neurons"
    if tested.kind == "patch":
        return f"{count} given the other prompt's values"
    factor = float(values.get("factor", 0.0))
    return f"{count} switched off" if factor == 0 else f"{count} at factor {number(factor, 1)}"


def delta_words(tested: Tested, point: Comparison) -> str:
    """`−0.41 logits on 12 held-out prompts (random neurons −0.00 to +0.01)`."""
    on = f"on {plural(point.n_prompts, SPLIT_NAMES[point.split] + ' prompt')}"
    if point.delta_mean is None:
        return f"a number that cannot be computed, since the edit breaks the model {on}"
    beside = "no random edit beside it"
    if point.random_low is not None and point.random_high is not None:
        low, high = logits(point.random_low), logits(point.random_high)
        beside = f"random {other_word(tested)} {low if low == high else f'{low} to {high}'}"
    return f"{logits(point.delta_mean)} logits {on} ({beside})"


def other_word(tested: Tested) -> str:
    """What the random draws of a sweep edit, in a word."""
    return {"window": "directions", "strength": "directions", "heads": "heads"}.get(tested.kind, "neurons")


def rate_at(tested: Tested, group: str, outcome: str) -> OutcomeRate | None:
    """The outcome at a point, on held-out answers where there are some."""
    found = [one for one in tested.rates if one.key == f"{group}/ranked" and one.outcome == outcome]
    split = split_of(one.split for one in found)
    return next((one for one in found if one.split == split), None)


def random_shares(tested: Tested, group: str, outcome: str) -> list[float]:
    """Shares of the random draws of a point, on the same prompts as `rate_at`."""
    found = [one for one in tested.rates if one.key.startswith(f"{group}/random") and one.outcome == outcome]
    split = split_of(one.split for one in found)
    return [one.share for one in found if one.split == split and one.share is not None]


def split_of(splits: Iterable[str]) -> str:
    """Held-out where there is such a thing, else validation, else discovery."""
    there = set(splits)
    return next((split for split in SPLIT_NAMES if split in there), "discovery")
