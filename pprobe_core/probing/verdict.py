"""What the numbers of a probe say about the circuit, in words. Pure: a verdict is a function of the evidence alone."""

from dataclasses import dataclass
from typing import Literal

from pprobe_core.circuits.schema import Circuit
from pprobe_core.probing.types import StringSource
from pprobe_core.stats import Interval, wilson

VerdictStructure = Literal["opposition", "routing", "undetermined", "read_out", "uninformative"]
Stage = Literal["observed", "qualified"]

OPPOSITION_MIN_FFN_SKIP = 0.3  # arXiv 2604.27401: opposition circuits lie above about 0.3 (empirical, 13 models)
ROUTING_MAX_FFN_SKIP = 0.2  # arXiv 2604.27401: routing circuits lie below about 0.2 (empirical, 13 models)
MIN_FLIP_RATE = 0.5  # ours: where fewer pairs change the sign of F, the perturbation does not reach the behaviour
MIN_AGREEMENT = 0.9  # ours: share of answers on the side of sign(F) from which F stands for the behaviour
MIN_AGREEMENT_LOW = 0.75  # ours: lower end of its Wilson interval, so that a handful of answers is not enough
MIN_COVERAGE = 0.5  # ours: below it most answers begin with a token the observable does not know
MIN_PAIRS = 10  # ours: with fewer the intervals are so wide that nearly any structure is possible

RECOMMENDATIONS: dict[VerdictStructure, str] = {
    "opposition": "Ablate or amplify neurons: switch off the first few of the ablation ranking, and compare with "
    "random neurons of the same layers.",
    "routing": "Inject a direction into the residual stream, if the model was trained on both behaviours and the "
    "direction separates held-out prompts. Switching neurons off is expected to do little.",
    "undetermined": "None yet: first ablate the top-ranked neurons against random ones, to tell the structures apart.",
    "read_out": "None: these neurons report the behaviour and do not cause it.",
    "uninformative": "None yet: choose prompts or token sets on which the perturbation changes the model's decision.",
}
READ_OUT_ROUTING = (
    "None yet: in the paper neither switching off neurons nor injecting a direction changed this circuit. Test an "
    "ablation against random neurons before anything else."
)


@dataclass(frozen=True)
class Evidence:
    """The numbers a verdict rests on. Logit differences in logits; None where undefined."""

    n_pairs: int
    n_flipped: int
    logit_diff_original: float
    logit_diff_perturbed: float
    ffn_skip_mean: float | None
    ffn_skip_median: float | None
    ffn_skip_interval: Interval | None
    n_ffn_skip: int  # prompts on which the ratio is defined, of 2 * n_pairs
    n_covered_original: int
    n_covered_perturbed: int
    n_agree: int | None  # answers on the side of sign(F); None when nothing was generated
    n_answers: int = 0
    n_identical: int = 0  # pairs whose two prompts are the same tokens
    strings_from: StringSource = "circuit"  # harvested: n_agree and n_answers leave the discovery pairs out
    harvested_from: str = ""
    n_unseen_pairs: int = 0  # pairs outside the discovery split
    n_unseen_covered: tuple[int, int] = (0, 0)  # of those, covered original and covered perturbed prompts

    @property
    def flips(self) -> bool:
        """Whether enough pairs change the sign of F."""
        return self.n_flipped / self.n_pairs >= MIN_FLIP_RATE

    @property
    def agrees(self) -> bool:
        """Whether the generated answers support F as a measure of the behaviour."""
        return self.n_agree is not None and answers_agree(self.n_agree, self.n_answers)


@dataclass(frozen=True)
class Verdict:
    """The reading of a run: structure, how well it is established, what fits, and why in sentences."""

    structure: VerdictStructure
    stage: Stage
    recommendation: str
    reasons: tuple[str, ...]


def judge(evidence: Evidence, circuit: Circuit) -> Verdict:
    """The verdict of two passes, and of generated answers where there are any.

    Structure: uninformative when fewer than MIN_FLIP_RATE of the pairs flip; else by the mean FFN/Skip ratio of the
    last layer against the paper's two thresholds. The point estimate decides, and the reasons say when its interval
    crosses one. Two passes cannot tell opposition from read-out: where the paper found a read-out, a high ratio leaves
    the structure undetermined. Stage: qualified when the pairs flip and the answers agree with the sign of F.
    """
    structure = _structure(evidence, circuit)
    recommendation = RECOMMENDATIONS[structure]
    if structure == "routing" and circuit.expected_structure == "read_out" and not circuit.own:
        recommendation = READ_OUT_ROUTING
    stage: Stage = "qualified" if evidence.flips and evidence.agrees else "observed"
    reasons = (
        *_about_pairs(evidence),
        *_about_flips(evidence),
        *_about_ratio(evidence),
        *_about_cause(circuit, structure),
        *_about_strings(evidence),
        *_about_coverage(evidence),
        *_about_answers(evidence),
    )
    return Verdict(structure, stage, recommendation, reasons)


def answers_agree(n_agree: int, n_answers: int) -> bool:
    """At least MIN_AGREEMENT of the answers on the side of sign(F), with a Wilson low of at least MIN_AGREEMENT_LOW."""
    interval = wilson(n_agree, n_answers)
    return interval is not None and n_agree / n_answers >= MIN_AGREEMENT and interval.low >= MIN_AGREEMENT_LOW


def _structure(evidence: Evidence, circuit: Circuit) -> VerdictStructure:
    if not evidence.flips:
        return "uninformative"
    zone = 0 if evidence.ffn_skip_mean is None else _zone(evidence.ffn_skip_mean)
    if zone < 0:
        return "routing"
    return "opposition" if zone > 0 and circuit.expected_structure != "read_out" else "undetermined"


def _zone(ratio: float) -> int:
    """1 above the opposition threshold, -1 below the routing threshold, 0 between."""
    return (ratio > OPPOSITION_MIN_FFN_SKIP) - (ratio < ROUTING_MAX_FFN_SKIP)


def _about_pairs(evidence: Evidence) -> list[str]:
    reasons = []
    n = evidence.n_pairs
    if n < MIN_PAIRS:
        measured = "1 prompt pair was" if n == 1 else f"{n} prompt pairs were"
        reasons.append(
            f"Only {measured} measured: too few to rest a reading on. Use at least {MIN_PAIRS}, better 40 or more."
        )
    if evidence.n_identical:
        reasons.append(
            f"In {evidence.n_identical} of {n} pairs both prompts are the same to the model, so every score of such a "
            "pair is zero. Give pairs whose two prompts differ."
        )
    return reasons


def _about_flips(evidence: Evidence) -> list[str]:
    share = _share(evidence.n_flipped, evidence.n_pairs)
    means = (
        f"the mean logit difference goes from {evidence.logit_diff_original:+.2f} to "
        f"{evidence.logit_diff_perturbed:+.2f} logits"
    )
    if evidence.flips:
        return [f"The perturbation flips the sign of the logit difference on {share} pairs; {means}."]
    return [
        f"The perturbation flips the sign of the logit difference on only {share} pairs; {means}.",
        f"With fewer than {_percent(MIN_FLIP_RATE)} of the pairs flipped, this prompt set is uninformative for this "
        "model: what differs between the two passes need not be the behaviour.",
    ]


def _about_ratio(evidence: Evidence) -> list[str]:
    mean, median, interval = evidence.ffn_skip_mean, evidence.ffn_skip_median, evidence.ffn_skip_interval
    total = 2 * evidence.n_pairs
    if mean is None or median is None:
        return [
            f"The FFN/Skip ratio of the last layer is undefined on all {total} prompts: the stream that enters the "
            "layer says nothing about the decision."
        ]
    place = {
        1: f"above {OPPOSITION_MIN_FFN_SKIP}, where the paper found opposition circuits",
        -1: f"below {ROUTING_MAX_FFN_SKIP}, where the paper found routing circuits",
        0: f"between {ROUTING_MAX_FFN_SKIP} and {OPPOSITION_MIN_FFN_SKIP}, where the paper's thresholds decide nothing",
    }[_zone(mean)]
    span = "" if interval is None else f", 95 % interval {interval.low:.2f} to {interval.high:.2f}"
    numbers = f"n = {evidence.n_ffn_skip} of {total} prompts{span}, median {median:.2f}"
    reasons = [f"The mean FFN/Skip ratio of the last layer is {mean:.2f} ({numbers}): {place}."]
    crossed = [
        str(threshold)
        for threshold in (ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP)
        if interval is not None and interval.contains(threshold)
    ]
    if crossed:
        names = f"the threshold {crossed[0]}" if len(crossed) == 1 else f"both thresholds ({' and '.join(crossed)})"
        reasons.append(f"That interval crosses {names}: with other prompts the reading could differ.")
    if _zone(median) != _zone(mean):
        reasons.append(
            f"The median ({median:.2f}) and the mean ({mean:.2f}) lie on different sides of a threshold: a few prompts "
            "with a small skip signal move the mean."
        )
    return reasons


def _about_cause(circuit: Circuit, structure: VerdictStructure) -> list[str]:
    if circuit.expected_structure == "read_out":
        known = "This behaviour is expected to be" if circuit.own else "In the paper this circuit is"
        return [
            f"{known} a read-out: the ratio can be high and yet switching the neurons off changes "
            "nothing. A high ratio alone proves nothing; only an ablation can tell."
        ]
    if structure == "opposition":
        return ["A high ratio alone proves nothing: that these neurons cause the behaviour, only an ablation can show."]
    return []


def _about_strings(evidence: Evidence) -> list[str]:
    if evidence.strings_from == "circuit":
        return []
    if evidence.strings_from == "given":
        return ["The target and control tokens were given with this run; they are not the circuit's own."]
    n = evidence.n_unseen_pairs
    reasons = [
        "The target and control tokens were harvested from the model's own answers to the discovery prompts in run "
        f"{evidence.harvested_from}; they are not the circuit's own."
    ]
    if not n:
        return [*reasons, "No pair is left that did not suggest them, so how well they fit is open."]
    original, perturbed = (_share(covered, n) for covered in evidence.n_unseen_covered)
    return [
        *reasons,
        f"On the pairs that did not suggest them, the most likely first token is one of them on {original} original "
        f"and {perturbed} perturbed prompts.",
    ]


def _about_coverage(evidence: Evidence) -> list[str]:
    reasons = []
    for covered, name in ((evidence.n_covered_original, "original"), (evidence.n_covered_perturbed, "perturbed")):
        if covered / evidence.n_pairs < MIN_COVERAGE:
            missed = _share(evidence.n_pairs - covered, evidence.n_pairs)
            reasons.append(
                f"The most likely first token lies outside both token sets on {missed} {name} prompts; there the logit "
                "difference does not describe what the model would say."
            )
    return reasons


def _about_answers(evidence: Evidence) -> list[str]:
    harvested = evidence.strings_from == "harvested"
    if evidence.n_agree is None or (evidence.n_answers == 0 and not harvested):
        return ["No answers were generated, so it is open whether the logit difference stands for what the model says."]
    if not evidence.n_answers:
        return ["Every answer took part in suggesting the tokens, so none can say whether F stands for the behaviour."]
    which = "prompts that did not suggest the tokens" if harvested else "prompts"
    share = f"{_share(evidence.n_agree, evidence.n_answers)} {which}"
    if evidence.agrees:
        return [f"The generated answers are on the side that the logit difference predicts on {share}."]
    if evidence.n_agree / evidence.n_answers >= MIN_AGREEMENT:
        return [
            f"The generated answers are on the side that the logit difference predicts on {share}; that is too "
            f"few to be sure: {_percent(MIN_AGREEMENT_LOW)} at the interval's lower end are needed before it stands "
            "for the behaviour."
        ]
    return [
        f"The generated answers are on the side that the logit difference predicts on only {share}; "
        f"{_percent(MIN_AGREEMENT)}, and {_percent(MIN_AGREEMENT_LOW)} at the interval's lower end, are needed before "
        "it stands for the behaviour."
    ]


def _share(k: int, n: int) -> str:
    """For example: 43 of 48 (90 %, 95 % interval 78 to 95 %)."""
    interval = wilson(k, n)
    span = "" if interval is None else f", 95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %"
    return f"{k} of {n} ({_percent(k / n)}{span})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
