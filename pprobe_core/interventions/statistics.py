"""What a sweep proves: intervals, exact tests and permutation tests against the random draws, and the stage reached."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import mcnemar

from pprobe_core import stats
from pprobe_core.circuits.schema import Split
from pprobe_core.interventions.types import N_DRAWS, SweepPoint

SweepStage = Literal["observed", "qualified", "causal", "replicated"]

ALPHA = 0.05  # of the family-wise error over the doses of one sweep


@dataclass(frozen=True)
class Rate:
    """A share with its Wilson interval, as fractions; the interval is one-sided in effect at 0 and at 1."""

    n_yes: int
    n: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BeforeAfter:
    """A yes-or-no class of the same prompts before and after an edit, with McNemar's exact test."""

    n: int
    n_before: int
    n_after: int
    n_gained: int  # no before, yes after
    n_lost: int  # yes before, no after
    p_value: float  # 1 where no prompt changed


@dataclass(frozen=True)
class Comparison:
    """One ranked point against its random controls on one split. Logits; None where nothing can be said."""

    group: str
    split: Split
    n_neurons: int | None
    n_prompts: int
    n_draws: int
    delta_mean: float | None  # of the ranked arm
    random_mean: float | None  # over draws
    random_low: float | None  # smallest and largest draw: the band shown beside the curve
    random_high: float | None
    excess: float | None  # delta_mean - random_mean
    excess_low: float | None  # bootstrap interval over prompts
    excess_high: float | None
    beats_every_draw: bool  # further in its own direction than every draw
    p_value: float | None  # two-sided permutation test, arms exchanged within prompts
    p_holm: float | None = None  # corrected over the comparisons it was tested with

    @property
    def beats_controls(self) -> bool:
        """Enough draws, further out than each, interval of the excess clear of zero, corrected p below ALPHA."""
        if self.excess_low is None or self.excess_high is None or self.p_holm is None:
            return False
        clear = self.excess_low > 0 or self.excess_high < 0
        return self.n_draws >= N_DRAWS and self.beats_every_draw and clear and self.p_holm < ALPHA


Regime = Literal["destructive", "causal", "committed", "mixed"]
REGIME_SHARE = 0.5  # ours: share of the answers that names a layer's regime


def regime(n_broken: int, n_switched: int, n: int) -> Regime | None:
    """What an injection does after one layer, named from the answers; None for none.

    Destructive: at least REGIME_SHARE of the answers are broken. Causal: as many switch to the other behaviour and are
    not broken. Committed: as many stay as they were. Mixed: none of these.
    """
    if n == 0:
        return None
    counts: dict[Regime, int] = {
        "destructive": n_broken,
        "causal": n_switched,
        "committed": n - n_broken - n_switched,
    }
    return next((name for name, k in counts.items() if k / n >= REGIME_SHARE), "mixed")


@dataclass(frozen=True)
class StageReached:
    """The stage after a sweep, and why in sentences."""

    stage: SweepStage
    reasons: tuple[str, ...]


@lru_cache(maxsize=16_384)  # answers of a sweep ask for the same few counts thousands of times
def rate(n_yes: int, n: int) -> Rate:
    """Share of n with its Wilson interval; all None for n = 0."""
    interval = stats.wilson(n_yes, n)
    if interval is None:
        return Rate(n_yes, n, None, None, None)
    return Rate(n_yes, n, n_yes / n, interval.low, interval.high)


def before_after(before: Sequence[bool], after: Sequence[bool]) -> BeforeAfter:
    """McNemar's exact test on paired classes. Raises ValueError for lists of different length."""
    pairs = list(zip(before, after, strict=True))
    gained = sum(a and not b for b, a in pairs)
    lost = sum(b and not a for b, a in pairs)
    return BeforeAfter(len(pairs), sum(map(bool, before)), sum(map(bool, after)), gained, lost, mcnemar_p(gained, lost))


@lru_cache(maxsize=16_384)  # points of a sweep ask for the same few counts many times
def mcnemar_p(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p value from how many prompts changed either way; 1 where none did."""
    return float(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue) if gained + lost else 1.0


def permutation_p(
    ranked: Float[np.ndarray, "prompt"],
    random: Float[np.ndarray, "draw prompt"],
    seed: int,
    n_resamples: int = stats.PERMUTATIONS,
) -> float | None:
    """Two-sided p that the ranked arm is one more random draw: arms are exchanged within each prompt.

    Statistic: |mean of the ranked arm - mean of the draws|. None with fewer than two prompts or without draws. Its null
    takes the drawn neurons as given; that further draws would differ is what `beats_every_draw` is for.
    """
    if len(random) == 0 or len(ranked) < 2:
        return None

    def distance(*arms: Float[np.ndarray, "*resample prompt"], axis: int = -1) -> Float[np.ndarray, "*resample"]:
        of_draws = sum(arm.mean(axis=axis) for arm in arms[1:]) / (len(arms) - 1)
        # Rounding must not make two equal statistics different, or ties with the observed one would be missed.
        return np.asarray(np.round(np.abs(arms[0].mean(axis=axis) - of_draws), 9))

    test = permutation_test(
        (ranked, *random),
        distance,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the p values that there are.

    Ours, as statsmodels' collects all garbage of the process at every call: half a second beside torch. A test holds
    the two together.
    """
    places = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i] or 0.0)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(places):
        largest = max(largest, (len(places) - rank) * float(p_values[i] or 0.0))
        adjusted[i] = min(1.0, largest)
    return adjusted


def compare(points: Sequence[SweepPoint], seed: int) -> tuple[Comparison, ...]:
    """Every ranked point against the random points of its group, Holm-corrected over the groups of each split.

    Points that broke, and groups without controls, get a comparison that can prove nothing.
    """
    groups: dict[str, list[SweepPoint]] = defaultdict(list)
    for point in points:
        groups[point.group].append(point)
    # The smallest p that resampling can give must survive the correction over as many points.
    n_resamples = max(stats.PERMUTATIONS, int(2 * len(groups) / ALPHA))
    found = []
    for of_group in groups.values():
        ranked = next((p for p in of_group if p.arm == "ranked"), None)
        if ranked is not None:
            draws = sorted((p for p in of_group if p.arm == "random"), key=lambda p: p.draw or 0)
            found.append(_compare(ranked, draws, seed, n_resamples))
    out: list[Comparison] = []
    for split in dict.fromkeys(c.split for c in found):
        of_split = [c for c in found if c.split == split]
        adjusted = holm([c.p_value for c in of_split])
        out += [replace(c, p_holm=p) for c, p in zip(of_split, adjusted, strict=True)]
    return tuple(out)


def _compare(ranked: SweepPoint, draws: Sequence[SweepPoint], seed: int, n_resamples: int) -> Comparison:
    usable = [d for d in draws if not d.broken and d.pair_ids == ranked.pair_ids]
    empty = Comparison(
        group=ranked.place,
        split=ranked.split,
        n_neurons=ranked.n_neurons,
        n_prompts=ranked.n_prompts,
        n_draws=len(usable),
        delta_mean=ranked.delta_mean,
        random_mean=None,
        random_low=None,
        random_high=None,
        excess=None,
        excess_low=None,
        excess_high=None,
        beats_every_draw=False,
        p_value=None,
    )
    if ranked.broken or not usable:
        return empty
    own = np.array(ranked.deltas, dtype=np.float64)
    random = np.array([d.deltas for d in usable], dtype=np.float64)
    means = random.mean(axis=1)
    excess = own - random.mean(axis=0)
    interval = stats.bootstrap_mean(excess, seed)
    mean = float(own.mean())
    beyond = bool((means < mean).all()) if excess.mean() > 0 else bool((means > mean).all())
    return replace(
        empty,
        random_mean=float(means.mean()),
        random_low=float(means.min()),
        random_high=float(means.max()),
        excess=float(excess.mean()),
        excess_low=None if interval is None else interval.low,
        excess_high=None if interval is None else interval.high,
        beats_every_draw=beyond,
        p_value=permutation_p(own, random, seed, n_resamples),
    )


def reached_stage(before: SweepStage, comparisons: Sequence[Comparison]) -> StageReached:
    """The stage a sweep raises a circuit to.

    Rule. Causal: on discovery prompts at least one point beats its controls (beats_controls: N_DRAWS or more draws,
    further out than every draw, 95 % interval of the excess over the draws clear of zero, p below ALPHA after
    Holm over all points of the sweep). Replicated: one of those points also beats its controls, in the same direction,
    on held-out prompts, with Holm over the points that were causal on discovery. An observable that is not yet
    qualified (its logit difference does not stand for the answers) cannot rise: what moves is then a number and not the
    behaviour. A stage never falls.
    """
    if before == "observed":
        return StageReached(
            before,
            ("The logit difference is not yet shown to stand for the answers, so no cause of them can be shown.",),
        )
    discovery = [c for c in comparisons if c.split == "discovery"]
    held_out = {c.group: c for c in comparisons if c.split == "heldout"}
    if not any(c.n_draws for c in comparisons):
        return StageReached(before, ("There are no random controls beside this sweep, so it proves no cause.",))
    causal = [c for c in discovery if c.beats_controls]
    if not causal:
        return StageReached(
            before,
            (
                f"None of {len(discovery)} points beats its random controls on the discovery prompts ({N_DRAWS} or "
                "more draws, further out than each, interval clear of zero, corrected p below 0.05).",
            ),
        )
    reasons = [
        f"{len(causal)} of {len(discovery)} points beat their random controls on the discovery prompts; the largest "
        f"excess is {max((c.excess or 0.0 for c in causal), key=abs):+.2f} logits (n = {causal[0].n_prompts})."
    ]
    stage: SweepStage = "replicated" if before == "replicated" else "causal"
    tested = [held_out[c.group] for c in causal if c.group in held_out]
    corrected = [replace(c, p_holm=p) for c, p in zip(tested, holm([c.p_value for c in tested]), strict=True)]
    signs = {c.group: np.sign(c.excess or 0.0) for c in causal}
    repeated = [c for c in corrected if c.beats_controls and np.sign(c.excess or 0.0) == signs[c.group]]
    if repeated:
        stage = "replicated"
        reasons.append(
            f"{len(repeated)} of them do so on the held-out prompts too (n = {repeated[0].n_prompts}), which took no "
            "part in selecting neurons."
        )
    elif not tested:
        reasons.append("There are no held-out prompts, so it is open whether the effect repeats.")
    else:
        reasons.append(f"None of them does so on the held-out prompts (n = {tested[0].n_prompts}).")
    return StageReached(stage, tuple(reasons))
