"""What a run or a sweep means, in a short paragraph of plain words, by rules on its numbers: no language model.

A paragraph says what the model did, how sure that is, where in the network, what tests found beside their random
controls, what all this does not show, and one thing to do next. It repeats the verdict and the sweep's own statistics
in plainer words and never goes beyond the stage that they reached.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pprobe_core import sweep_report
from pprobe_core.charts import number
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.outcomes import FORMAT_CHANGE, IS_BROKEN, KEPT, OutcomeRate, regimes
from pprobe_core.interventions.statistics import ALPHA, Comparison
from pprobe_core.interventions.steering import best_switch, percent_range
from pprobe_core.interventions.types import INJECTION_KINDS, N_DRAWS, NEURON_KINDS, SweepPoint
from pprobe_core.probing.verdict import (
    MIN_COVERAGE,
    MIN_FLIP_RATE,
    MIN_PAIRS,
    OPPOSITION_MIN_FFN_SKIP,
    ROUTING_MAX_FFN_SKIP,
    answers_agree,
)
from pprobe_core.store import Run, Store, Sweep
from pprobe_core.wording import plural

Page = Literal["start", "probe", "dose", "window", "controls", "compare"]

FEW_ANSWERS = 10  # ours: with fewer, the paragraph says that little can be said
MANY_BROKEN = 0.1  # ours: share of empty or broken answers from which a paragraph says so
SPLIT_NAMES: Mapping[str, str] = {"heldout": "held-out", "validation": "validation", "discovery": "discovery"}
RANKINGS: Mapping[str, str] = {
    "ablation": "those that should matter when switched off, judged by the two passes",
    "measured": "those that each matter most when switched off alone",
    "shared": "those that carry the change between the two prompts",
    "magnitude": "those that change the decision most in whichever direction",
}
REFEREE_KINDS = ("heads", "layers", "held")  # sweeps that the Controls page asks for besides the dose response


@dataclass(frozen=True)
class Part:
    """One part of a paragraph: what it is about, in a word or two, and its sentences."""

    topic: str
    text: str


@dataclass(frozen=True)
class Meaning:
    """The finding in one sentence, a paragraph, part by part, and what to do next with the page to do it on."""

    headline: str
    parts: tuple[Part, ...]
    next_step: str
    page: Page

    @property
    def text(self) -> str:
        """Everything below the headline as one paragraph of plain text."""
        return " ".join((*(part.text for part in self.parts), self.next_step))

    def lines(self, width: int = 110) -> list[str]:
        """The same for a terminal: a heading, then part by part."""
        told = [self.headline, *(f"{part.topic}: {part.text}" for part in self.parts), self.next_step]
        wrapped = (textwrap.wrap(text, width - 2, initial_indent="  ", subsequent_indent="    ") for text in told)
        return ["What this means", *(line for lines in wrapped for line in lines)]


@dataclass(frozen=True)
class Tested:
    """A finished sweep with its points and what its answers say; no rates where no answers were written."""

    sweep: Sweep
    points: tuple[SweepPoint, ...] = ()
    rates: tuple[OutcomeRate, ...] = ()

    @property
    def kind(self) -> str:
        """What kind of sweep it is."""
        return self.sweep.request.kind

    @property
    def comparisons(self) -> list[Comparison]:
        """Every point against its random controls; empty where the sweep has none."""
        return [Comparison(**row) for row in (self.sweep.summary.get("controls") or {}).get("comparisons") or ()]


# ---------------------------------------------------------------------------------------------- from a results file


def meaning_of_run(store: Store, run_id: str) -> Meaning:
    """The paragraph of a stored run, with its dose response and injection window. Raises BadRequest if unknown."""
    run = store.run(run_id)
    sweeps = [store.sweep(str(sweep_id)) for sweep_id in store.sweeps(run_id)["sweep_id"]]
    tested = [tested_in(store, sweep) for sweep in to_tell_of(sweeps)]
    return run_meaning(run, circuit_of(run), tested, [sweep.request.kind for sweep in sweeps])


def to_tell_of(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The dose response and the injection window that a run's paragraph tells of.

    Of each kind the first with one answer to a prompt, so that answers are as independent as prompts; else with several
    answers, else without.
    """
    chosen = []
    for kind in ("dose", "window"):
        of_kind = [sweep for sweep in sweeps if sweep.request.kind == kind]
        answered = [sweep for sweep in of_kind if sweep.summary.get("generation")]
        once = [sweep for sweep in answered if sweep.request.n_seeds == 1]
        chosen += (once or answered or of_kind)[:1]
    return chosen


def meaning_of_sweep(store: Store, sweep_id: str) -> Meaning:
    """The paragraph of a stored sweep. Raises BadRequest for an unknown one."""
    sweep = store.sweep(sweep_id)
    return sweep_meaning(store.run(sweep.run_id), tested_in(store, sweep))


def tested_in(store: Store, sweep: Sweep) -> Tested:
    """A stored sweep with its points and outcome rates; without rates where its behaviour's file is gone."""
    try:
        rates = sweep_report.outcomes_of(store, sweep.sweep_id)
    except BadRequest:
        rates = ()
    return Tested(sweep, store.points(sweep.sweep_id, per_prompt=False), rates)


def circuit_of(run: Run) -> Circuit | None:
    """The run's behaviour, or None when its file is gone."""
    try:
        return load_circuit(run.request.circuit)
    except BadRequest:
        return None


# --------------------------------------------------------------------------------------------------------- of a run


def run_meaning(
    run: Run, circuit: Circuit | None = None, tested: Sequence[Tested] = (), kinds: Sequence[str] = ()
) -> Meaning:
    """What a run shows. `tested`: the sweeps to tell of, at most one of a kind; `kinds`: of all sweeps there are."""
    s = run.summary
    of_kind = {one.kind: one for one in tested}
    dose, window = of_kind.get("dose"), of_kind.get("window")
    where = f"{_where(s)} {_structure(s)}".strip() if flips(s) else ""
    step, page = _next_of_run(run, dose, window, set(kinds) | set(of_kind))
    return _meaning(
        _headline_of_run(run, dose, window),
        (
            ("What it did", _what_it_did(run, circuit)),
            ("How sure", _what_it_wrote(s)),
            ("Where", where),
            ("When tested", _what_tests_found(run, dose, window)),
            ("Not shown", _what_is_left_out(s)),
        ),
        step,
        page,
    )


def _meaning(headline: str, parts: Sequence[tuple[str, str]], step: str, page: Page) -> Meaning:
    return Meaning(headline, tuple(Part(topic, text) for topic, text in parts if text), step, page)


def _headline_of_run(run: Run, dose: Tested | None, window: Tested | None) -> str:
    s = run.summary
    flipped, n = _n_flipped(s), int(s.get("n_pairs") or 0)
    share = "" if flipped is None else f"{flipped} of {plural(n, 'pair')}"
    if not flips(s):
        few = f"only {share}" if share else "too few pairs"
        return f"These prompts do not tell what decides here: {few} change sides."
    for tested in (dose, window):
        if tested is not None and (found := _effect_on_answers(tested)):
            return found
    model = s.get("model") or run.request.model
    if dose is None and window is None:
        return f"A small change of the prompt turns {model} around in {share}; what causes it was not tested yet."
    tested = dose or window
    assert tested is not None  # noqa: S101  (one of them is there)
    return _headline_of_sweep(tested)


def _headline_of_sweep(tested: Tested) -> str:
    """What a sweep found in one sentence: about the answers if they changed, else about the logit difference."""
    if found := _effect_on_answers(tested):
        return found
    if tested.kind not in (*NEURON_KINDS, *INJECTION_KINDS):
        return _largest_parts(tested).split(". ")[0].rstrip(".") + "."
    edit = {"dose": "Switching these neurons off", "factor": "Turning these neurons up and down",
            "patch": "Exchanging these neurons' values"}.get(tested.kind, "Pushing in this direction")  # fmt: skip
    moved = any(c.beats_controls for c in tested.comparisons)
    if not tested.rates:
        so = "more than chance" if moved else "not clearly more than chance"
        return f"{edit} moves the first word's score {so}; no answers were written."
    if moved:
        return f"{edit} moves the first word's score more than chance, but the answers do not follow."
    return f"{edit} changes nothing clearly beyond chance, neither the first word's score nor the answers."


def _effect_on_answers(tested: Tested) -> str:
    """The effect on the answers where it is clearly more than under the random draws; else empty."""
    if tested.kind in INJECTION_KINDS:
        best = best_switch(tested.points, tested.rates)
        if best is None or not best.worked or not best.random:
            return ""
        where = f" after layer {best.place.layer}" if best.place.layer is not None else ""
        return (
            f"Adding a direction{where} switches {best.shown.n_yes} of {_answers(best.shown)}; random directions "
            f"switch {percent_range(min(best.random), max(best.random))}."
        )
    point = _end_of_curve(tested)
    rate = None if point is None else _rate_at(tested, point.group, FORMAT_CHANGE)
    random = [] if point is None else _random_shares(tested, point.group, FORMAT_CHANGE)
    if point is None or rate is None or not random or (rate.low or 0.0) <= max(random):
        return ""
    return (
        f"With {_place_words(tested, point)}, {rate.n_yes} of {_answers(rate)} change class; with random neurons "
        f"{percent_range(min(random), max(random))} do."
    )


def flips(s: Mapping[str, Any]) -> bool:
    """Whether enough pairs change sides for a run to tell something."""
    return (s.get("flip_rate") or 0.0) >= MIN_FLIP_RATE


def _n_flipped(s: Mapping[str, Any]) -> int | None:
    """How many pairs change sides; from their share where only that was stored, None where nothing was."""
    n, share = int(s.get("n_pairs") or 0), s.get("flip_rate")
    if not n or share is None:
        return None
    return int(s["n_flipped"]) if s.get("n_flipped") is not None else round(share * n)


def _what_it_did(run: Run, circuit: Circuit | None) -> str:
    s, gap = run.summary, run.summary.get("logit_diff") or {}
    n, flipped = int(s.get("n_pairs") or 0), _n_flipped(s)
    if flipped is None:
        return "How many pairs change sides was not stored with this run."
    share = f"{flipped} of {plural(n, 'prompt pair')} ({_percent(flipped / n)}{_percent_span(s.get('flip_interval'))})"
    model = s.get("model") or run.request.model
    if not flips(s):
        return (
            f"In only {share} the small change between the two prompts makes {model} lean to the other side when it "
            "starts its answer, so these prompts do not tell what decides here: the numbers need not be about this "
            "behaviour."
        )
    target, control = (
        (circuit.target_meaning, circuit.control_meaning) if circuit else ("the target words", "the control words")
    )
    stored = (gap.get(f"{condition}_mean") for condition in ("original", "perturbed"))
    means = [float(mean) for mean in stored if mean is not None]
    lean = ""
    if len(means) == 2:
        sides = [target if mean > 0 else control for mean in means]
        lean = (
            f": on average towards {sides[0]} after the original prompt and towards {sides[1]} after the changed one"
            if sides[0] != sides[1]
            else f", though on average it leans towards {sides[0]} after both"
        )
    return (
        f"In {share} a small change of the prompt makes {model} lean to the other side when it starts its answer{lean}."
    )


def _what_it_wrote(s: Mapping[str, Any]) -> str:
    written = s.get("generation") or {}
    n, agree = int(written.get("n_answers") or 0), written.get("n_agree")
    if not n or agree is None:
        return "No answers were written in this run, so it is open whether that lean shows in what the model says."
    share = (
        f"{agree} of {plural(n, 'answer')} ({_percent(agree / n)}{_percent_span(written.get('agreement_interval'))})"
    )
    if not answers_agree(int(agree), n):
        return f"What it then writes fits that lean in {share}: not enough to take the lean for the behaviour."
    so = ", so the lean stands for the behaviour" if flips(s) else ""
    return f"What it then writes fits that lean in {share}{so}."


def _where(s: Mapping[str, Any]) -> str:
    """Which parts write the change, and how many neurons stand out; empty where that was not stored."""
    check = s.get("additive") or {}
    measured, ffn = check.get("measured_mean"), check.get("ffn_mean")
    attention = (check.get("carried_by") or {}).get("attention")
    if measured is None or ffn is None or attention is None:
        return ""
    shares = ffn / measured if measured else -1.0, attention / measured if measured else -1.0
    if min(shares) >= 0:
        first, second = sorted(
            (("feed-forward layers (FFN)", shares[0]), ("attention", shares[1])), key=lambda p: -p[1]
        )
        text = (
            f"Counted directly, {first[0]} {'write' if 'layers' in first[0] else 'writes'} {_percent(first[1])} of the "
            f"change and {second[0]} {_percent(second[1])}"
        )
    else:
        text = (
            f"Of the change of {_logits(measured)} logits, counted directly, feed-forward layers (FFN) write "
            f"{_logits(ffn)} and attention {_logits(attention)}"
        )
    text += _strongest_layer(s)
    null, neurons = s.get("null") or {}, int(s.get("n_layers") or 0) * int(s.get("d_mlp") or 0)
    if null.get("n_above") is not None and neurons:
        few = int(null["n_above"])
        text += f"; {few:,} of {neurons:,} neurons {'stands' if few == 1 else 'stand'} out beyond what chance gives"
    return f"{text}."


def _strongest_layer(s: Mapping[str, Any]) -> str:
    """The layer whose FFN or attention changes most between the two prompts."""
    sizes = {
        (part, int(row["layer"])): abs(row[f"{part}_perturbed"] - row[part])
        for row in s.get("layers") or ()
        for part in ("ffn", "attention")
        if row.get(part) is not None and row.get(f"{part}_perturbed") is not None
    }
    if not sizes:
        return ""
    part, layer = max(sizes, key=lambda key: sizes[key])
    return f", the most {'the FFN' if part == 'ffn' else 'attention'} of layer {layer} (layers count from 0)"


def _structure(s: Mapping[str, Any]) -> str:
    """The reading of the FFN/Skip ratio, never more than the verdict's."""
    structure = str((s.get("verdict") or {}).get("structure") or "undetermined")
    ratio = s.get("ffn_skip") or {}
    mean, span = ratio.get("mean"), ratio.get("interval")
    if structure == "read_out":
        return (
            "The neurons respond to the change, yet switching them off changes nothing: they report, they do not "
            "decide."
        )
    if mean is None:
        return (
            "How much the last layer adds to what was there before (FFN/Skip) cannot be said, so the kind of circuit "
            "is open."
        )
    ends = [end for end in span or () if end is not None]
    numbers = f"FFN/Skip {_ratio(mean)}"
    if len(ends) == 2:
        numbers += f", 95 % interval {_ratio(ends[0])} to {_ratio(ends[1])}"
    beside = f"beside what was there before ({numbers})"
    if structure == "opposition":
        reading = (
            f"What the last FFN adds is large {beside}; in the paper that went with circuits in which a few neurons "
            "override an older habit"
        )
    elif structure == "routing":
        reading = (
            f"What the last FFN adds is small {beside}; in the paper that went with behaviours that attention carries"
        )
    elif mean > OPPOSITION_MIN_FFN_SKIP:
        reading = (
            f"What the last FFN adds is large {beside}, but in the paper the neurons of this behaviour report and do "
            "not decide, so the kind of circuit is open"
        )
    else:
        reading = f"What the last FFN adds {beside} lies between the paper's two limits, so the kind of circuit is open"
    limits = (ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP)
    if len(ends) == 2 and any(ends[0] <= limit <= ends[1] for limit in limits):
        reading += ". The interval crosses a limit, so other prompts could give another reading"
    check = s.get("additive") or {}
    measured, ffn = check.get("measured_mean"), check.get("ffn_mean")
    if structure == "routing" and measured and ffn is not None and ffn / measured > 0.5:
        reading += ". All FFN layers together say otherwise, so only a test can tell"
    return f"{reading}."


def _ratio(value: float) -> str:
    """Two digits, or three where two would hide on which side of a limit the ratio lies."""
    hidden = any(round(value, 2) == limit != value for limit in (ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP))
    return number(value, 3 if hidden else 2)


def _what_tests_found(run: Run, dose: Tested | None, window: Tested | None) -> str:
    if dose is None and window is None:
        return "Nothing was switched off or pushed yet, so nothing here shows a cause."
    found = []
    if dose is not None:
        found.append(_edited(dose))
        structure = str((run.summary.get("verdict") or {}).get("structure"))
        if structure == "routing" and answers_moved(dose):
            found.append("That is more than such a ratio lets one expect, and the test counts.")
        if structure == "opposition" and answers_moved(dose) is False:
            found.append("That is less than such a ratio lets one expect, and the test counts.")
    if window is not None:
        found.append(_pushed(window))
    reached = {
        "causal": "By the logit difference this is a cause, on the prompts that chose the neurons or the place.",
        "replicated": "By the logit difference this is a cause that repeats on prompts that took no part in choosing.",
    }
    found.append(reached.get(run.stage, "So far no cause is shown."))
    answers = any(_effect_on_answers(one) or answers_moved(one) for one in (dose, window) if one is not None)
    if run.stage in reached and dose is not None and dose.rates and not answers:
        found.append("It is a cause of the first word's score, not of what is said.")
    return " ".join(sentence for sentence in found if sentence)


def _what_is_left_out(s: Mapping[str, Any]) -> str:
    """How far the numbers carry: pairs, coverage, identical prompts, and what no run can say."""
    parts = []
    n, coverage = int(s.get("n_pairs") or 0), s.get("coverage") or {}
    if n < MIN_PAIRS:
        parts.append(f"only {plural(n, 'pair', ('was', 'were'))} measured, too few to rest a reading on")
    if s.get("n_identical"):
        k = int(s["n_identical"])
        parts.append(f"in {plural(k, 'pair')} both prompts are the same to the model")
    missed = [
        f"{_percent(1 - coverage[condition])} of the {name} prompts"
        for condition, name in (("original", "original"), ("perturbed", "changed"))
        if (coverage[condition] if coverage.get(condition) is not None else 1.0) < MIN_COVERAGE
    ]
    if missed:
        parts.append(f"on {' and '.join(missed)} the model would start with a word that is not watched here")
    care = f"Read it with care: {'; '.join(parts)}. " if parts else ""
    return f"{care}All of it is about the first word of answers to prompts like these, in this one model."


def _next_of_run(run: Run, dose: Tested | None, window: Tested | None, kinds: set[str]) -> tuple[str, Page]:
    s = run.summary
    coverage = [v for name in ("original", "perturbed") if (v := (s.get("coverage") or {}).get(name)) is not None]
    structure = str((s.get("verdict") or {}).get("structure"))
    written = s.get("generation") or {}
    if not flips(s):
        return "Next: on the Start page, choose prompts on which the small change flips the decision.", "start"
    if int(s.get("n_pairs") or 0) < MIN_PAIRS:
        return f"Next: run it on the Start page with at least {MIN_PAIRS} pairs, better 40 or more.", "start"
    if any(share < MIN_COVERAGE for share in coverage):
        return "Next: look on the Probe page at the first words this model really uses, and watch those.", "probe"
    if written.get("n_answers") and not answers_agree(int(written.get("n_agree") or 0), int(written["n_answers"])):
        return (
            "Next: read the answers pair by pair on the Probe page, to see where the lean and the words part.",
            "probe",
        )
    draws = 0 if dose is None else int((dose.sweep.summary.get("controls") or {}).get("n_draws") or 0)
    if dose is None:
        return "Next: switch its first neurons off on the Dose response page, beside random ones.", "dose"
    if draws < N_DRAWS:
        return f"Next: run the dose response again with at least {N_DRAWS} random draws beside every point.", "dose"
    if not dose.rates:
        return "Next: run the dose response again with the answers, to see whether they change too.", "dose"
    if window is None and (structure == "routing" or not answers_moved(dose)):
        return "Next: push the network in one direction on the Injection window page, layer by layer.", "window"
    if run.stage == "causal" or not kinds.issuperset(REFEREE_KINDS):
        return "Next: see on the Controls page what a referee would ask about this.", "controls"
    return "Next: put other models beside this one on the Compare page.", "compare"


# ------------------------------------------------------------------------------------------------------- of a sweep


def sweep_meaning(run: Run, tested: Tested) -> Meaning:
    """What a sweep shows: what was edited, how far the logit difference and the answers moved, how sure, what not."""
    if tested.kind in NEURON_KINDS:
        done, moved, answered = (
            _neurons_edited(tested),
            f"{_moved(tested)} {_first_dose(tested)}",
            _answers_at_end(tested),
        )
    elif tested.kind in INJECTION_KINDS:
        done, moved, answered = _direction_added(tested), _regimes(tested), _pushed(tested)
    else:
        done, moved, answered = _parts_edited(tested), _largest_parts(tested), ""
    step, page = _next_of_sweep(run, tested)
    return _meaning(
        _headline_of_sweep(tested),
        (
            ("What was done", done),
            ("What moved", moved.strip()),
            ("The answers", answered),
            ("What else moved", _collateral(tested)),
            ("How sure", _reached(tested)),
            ("Not shown", _limits(tested)),
        ),
        step,
        page,
    )


def answers_moved(tested: Tested) -> bool | None:
    """Whether at some point the answers change more often than under every random draw; None without answers.

    Two sides of the same rule that the Start page uses: the lower end of a point's interval lies above the largest
    share of all random draws.
    """
    split = _split_of(one.split for one in tested.rates)
    counted = [
        one for one in tested.rates if one.outcome == "switched" and one.split == split and one.share is not None
    ]
    ranked = [one.low or 0.0 for one in counted if one.key.endswith("/ranked")]
    if not ranked:
        return None
    random = [one.share or 0.0 for one in counted if _is_random(one.key)]
    return max(ranked) > max(random, default=0.0)


def _neurons_edited(tested: Tested) -> str:
    request, s = tested.sweep.request, tested.sweep.summary
    ranking = str(s.get("ranking") or request.ranking)
    what = (
        f"The first neurons of the {ranking} ranking ({RANKINGS[ranking]})" if ranking in RANKINGS else "Chosen neurons"
    )
    factors = set(request.factors) or {0.0}
    done = {
        "dose": "were switched off" if factors == {0.0} else f"were multiplied by {number(min(factors), 1)}",
        "factor": "were turned up and down",
        "patch": "got their values from the pair's other prompt",
    }[tested.kind]
    return f"{what} {done} on the {_prompts(tested)} prompts, {_position(tested)}{_beside(tested)}."


def _prompts(tested: Tested) -> str:
    return {"original": "original", "perturbed": "changed"}[tested.sweep.request.condition]


def _beside(tested: Tested) -> str:
    draws = int((tested.sweep.summary.get("controls") or {}).get("n_draws") or 0)
    if not draws:
        return "; no random controls were made"
    other = "directions" if tested.kind in INJECTION_KINDS else "neurons of the same layers"
    few = "" if draws >= N_DRAWS else f", fewer than the {N_DRAWS} that a proof needs"
    return f", beside {plural(draws, 'draw')} of random {other}{few}"


def _position(tested: Tested) -> str:
    return {"decision": "where the answer starts", "all": "everywhere, generated words included"}[
        tested.sweep.request.position
    ]


def _moved(tested: Tested) -> str:
    """How far the logit difference moves at the largest point, beside its random draws."""
    point = _end_of_curve(tested)
    if point is None:
        return "No point was measured that can be compared."
    return f"With {_place_words(tested, point)} the logit difference moves by {_delta_words(tested, point)}."


def _edited(tested: Tested) -> str:
    """What the end of the curve does to the answers; where none were written, what it does to F."""
    return _answers_at_end(tested) or f"{_moved(tested)} No answers were written, so what they would do is open."


def _answers_at_end(tested: Tested) -> str:
    """What the end of the curve does to the answers, beside its random draws; empty without answers."""
    point = _end_of_curve(tested)
    rate = None if point is None else _rate_at(tested, point.group, FORMAT_CHANGE)
    if point is None or rate is None or rate.share is None:
        return ""
    random = _random_shares(tested, point.group, FORMAT_CHANGE)
    beside = f"; under random {_other(tested)} {percent_range(min(random), max(random))}" if random else ""
    text = (
        f"With {_place_words(tested, point)}, {_percent(rate.share)} of the {_answers(rate)} "
        f"{'changes' if rate.n == 1 else 'change'} class (95 % interval {_range(rate.low, rate.high)}{beside})"
    )
    if not random:
        text += ", but no random edit stands beside it, so this proves nothing"
    elif (rate.low or 0.0) <= max(random):
        text += ", not clearly more than by chance"
        if any(c.beats_controls for c in tested.comparisons):
            text += ": the logit difference moves beyond chance, the answers do not follow"
    broken = _rate_at(tested, point.group, IS_BROKEN)
    if broken is not None and (broken.share or 0.0) >= MANY_BROKEN:
        text += f"; {_percent(broken.share)} of the answers are empty or broken then"
    return f"{text}{_few(rate)}."


def _answers(rate: OutcomeRate) -> str:
    return plural(rate.n, f"{SPLIT_NAMES[rate.split]} answer")


def _few(rate: OutcomeRate) -> str:
    return (
        f"; {plural(rate.n, 'answer')} {'is' if rate.n == 1 else 'are'} too few to be sure"
        if rate.n < FEW_ANSWERS
        else ""
    )


def _first_dose(tested: Tested) -> str:
    """The smallest dose that beats its random draws on the prompts that chose the neurons."""
    if tested.kind != "dose":
        return ""
    doses = [c.n_neurons for c in tested.comparisons if c.split == "discovery" and c.beats_controls and c.n_neurons]
    if not doses:
        return ""
    return f"{'One neuron is' if min(doses) == 1 else f'{min(doses):,} neurons are'} enough to move it beyond chance."


def _direction_added(tested: Tested) -> str:
    layers = sorted({p.layer for p in tested.points if p.arm == "ranked" and p.layer is not None})
    where = f"after {'each of ' if len(layers) > 1 else ''}{plural(len(layers), 'layer')}" if layers else "after layers"
    return (
        f"A direction was added to the network's residual stream {where}, on the {_prompts(tested)} "
        f"prompts, {_position(tested)}{_beside(tested)}."
    )


def _regimes(tested: Tested) -> str:
    """How many of the tested places switch, break or keep the answers."""
    found = regimes(tested.rates)
    split = _split_of(one.split for one in found)
    of_split = [one for one in found if one.split == split and one.key.endswith("/ranked")]
    if not of_split:
        return ""
    count = {name: sum(one.regime == name for one in of_split) for name in ("causal", "destructive", "committed")}
    return (
        f"Of {plural(len(of_split), 'tested place')} (layer and strength) {count['causal']} switch at least half of "
        f"the {SPLIT_NAMES[split]} answers, {count['destructive']} break them and {count['committed']} leave them as "
        "they were."
    )


def _pushed(tested: Tested) -> str:
    """Whether pushing worked at the place that did best on the discovery prompts, by the rule of `steering`."""
    best = best_switch(tested.points, tested.rates)
    if best is None:
        point = _largest(tested)
        if point is None:
            return "The pushes were measured without a point that can be compared."
        return (
            f"Adding a direction {_place_words(tested, point)} moves the logit difference by "
            f"{_delta_words(tested, point)}; no answers were written, so whether it switches them is open."
        )
    shown = best.shown
    if not any(one.n_yes for one in tested.rates if one.outcome == shown.outcome and one.key.endswith("/ranked")):
        return f"No direction that was added switches an answer (n = {shown.n} {SPLIT_NAMES[shown.split]} answers)."
    what = "switches, with the right content," if shown.outcome == KEPT else "switches"
    where = f"after layer {best.place.layer}" if best.place.layer is not None else "in a band of layers"
    strength = "" if best.place.strength is None else f" at strength {number(best.place.strength, 1, signed=True)}"
    beside = f"; random directions {percent_range(min(best.random), max(best.random))}" if best.random else ""
    return (
        f"Adding a direction {where}{strength} {what} {_percent(shown.share)} of the {_answers(shown)} (95 % interval "
        f"{_range(shown.low, shown.high)}{beside}){'' if best.worked else ', which does not count as steering it'}"
        f"{_few(shown)}."
    )


def _parts_edited(tested: Tested) -> str:
    return {
        "layers": "The whole FFN output, and the whole attention output, of one layer at a time was removed where the "
        "answer starts.",
        "heads": "The attention heads that carry most of the change were switched off, as many as neurons elsewhere.",
        "held": "The other prompt's residual stream was put in after each layer, with later attention or FFNs held "
        "at what they do unedited.",
    }[tested.kind]


def _largest_parts(tested: Tested) -> str:
    """Layers: the FFN and the attention that move F most. Held: the layer at which the two held parts differ most."""
    if tested.kind == "heads":
        return _moved(tested)
    ranked = [p for p in tested.points if p.arm == "ranked" and p.delta_mean is not None and p.layer is not None]
    split = _split_of(p.split for p in ranked)
    of_split = [p for p in ranked if p.split == split]
    if not of_split:
        return "No layer was measured that can be compared."
    on = f"On {plural(of_split[0].n_prompts, SPLIT_NAMES[split] + ' prompt')}"
    if tested.kind == "layers":
        best = [
            max((p for p in of_split if p.variant == variant), key=lambda p: abs(p.delta_mean or 0.0))
            for variant in dict.fromkeys(p.variant for p in of_split)
        ]
        names = {"ffn": "the FFN", "attention": "attention"}
        parts = [
            f"{_logits(p.delta_mean)} logits without {names.get(p.variant, p.variant)} of layer {p.layer}"
            for p in sorted(best, key=lambda p: -abs(p.delta_mean or 0.0))
        ]
        return f"{on} the logit difference moves most by {_joined(parts)}."
    by_layer: dict[int, dict[str, float]] = {}
    for p in of_split:
        by_layer.setdefault(p.layer or 0, {})[p.variant] = p.delta_mean or 0.0
    whole = {layer: row for layer, row in by_layer.items() if {"free", "attention held", "ffn held"} <= row.keys()}
    if not whole:
        return "The variants were not all measured after the same layer."
    layer = max(whole, key=lambda i: abs(whole[i]["attention held"] - whole[i]["ffn held"]))
    row = whole[layer]
    return (
        f"{on}, put in after layer {layer}, it moves the logit difference by {_logits(row['free'])} logits; by "
        f"{_logits(row['attention held'])} with later attention held and by {_logits(row['ffn held'])} with later FFNs "
        "held. The part whose holding takes more of the effect away carries more of it on."
    )


def _collateral(tested: Tested) -> str:
    """The other behaviour that the same edit moves most; empty where it was not measured."""
    rows = [
        row
        for row in tested.sweep.summary.get("collateral") or ()
        if row.get("about") == "circuit" and row.get("delta_mean") is not None
    ]
    if not rows:
        return ""
    worst = max(rows, key=lambda row: abs(row["delta_mean"]))
    low, high = worst.get("random_low"), worst.get("random_high")
    beside = "" if low is None else f"; random edits {_logits(low)} to {_logits(high)}"
    name = str(worst["name"]).replace("_", " ")
    return (
        f"Of the other behaviours the same edits move {name} most, by up to {_logits(worst['delta_mean'])} "
        f"logits (n = {worst['n']}{beside})."
    )


def _reached(tested: Tested) -> str:
    """What the sweep's stage means; the rule stands in `statistics.reached_stage`."""
    stage = str(tested.sweep.summary.get("stage") or "observed")
    if tested.kind not in (*NEURON_KINDS, *INJECTION_KINDS):
        return "This compares parts of the network with each other and proves no cause."
    if stage == "observed":
        return "Since the lean is not shown to stand for what the model writes, no cause can be shown yet."
    if stage == "qualified":
        if not (tested.sweep.summary.get("controls") or {}).get("n_draws"):
            return "Without random controls this proves no cause."
        return (
            "No point beats its random controls by every rule (further out than each of at least "
            f"{N_DRAWS}, interval clear of zero, corrected p below {ALPHA:g}), so no cause is shown."
        )
    if any(c.beats_controls for c in tested.comparisons):
        repeats = {
            "causal": ", on the prompts that chose what to edit; that it repeats on others is not shown",
            "replicated": ", and again on held-out prompts, which took no part in choosing what to edit",
        }[stage]
        return f"The logit difference moves further than under every random edit{repeats}."
    return "This sweep by itself beats no random controls; another one of this run did."


def _limits(tested: Tested) -> str:
    left = []
    if not tested.rates:
        left.append("what the answers do")
    if not any(c.split == "heldout" for c in tested.comparisons) and tested.kind in (*NEURON_KINDS, *INJECTION_KINDS):
        left.append("whether it holds on held-out prompts")
    if tested.kind in NEURON_KINDS:
        left.append("what neurons further down the list do one by one")
    left.append("what happens with other kinds of prompt or in another model")
    return f"It does not show {_joined(left, 'or')}."


def _next_of_sweep(run: Run, tested: Tested) -> tuple[str, Page]:
    if not flips(run.summary):
        return "Next: on the Start page, choose prompts on which the small change flips the decision.", "start"
    if tested.kind in (*NEURON_KINDS, *INJECTION_KINDS):
        page: Page = "dose" if tested.kind in NEURON_KINDS else "window"
        draws = int((tested.sweep.summary.get("controls") or {}).get("n_draws") or 0)
        if draws < N_DRAWS:
            return f"Next: run it again with at least {N_DRAWS} random draws.", page
        if not tested.rates:
            return "Next: run it again with the answers, to see whether they change too.", page
        if tested.kind in NEURON_KINDS and not answers_moved(tested):
            return "Next: push the network in one direction on the Injection window page.", "window"
        return "Next: read the answers before and after, further down on this page, then open Controls.", "controls"
    return "Next: see on the Dose response page what the neurons do to the answers.", "dose"


# ------------------------------------------------------------------------------------------------- points and words


def _end_of_curve(tested: Tested) -> Comparison | None:
    """The point to tell of: the largest number of neurons or heads, else the factor that moves F most."""
    counted = [c for c in tested.comparisons if c.n_neurons is not None]
    if tested.kind == "factor":
        return _largest(tested)
    split = _split_of(c.split for c in counted)
    of_split = [c for c in counted if c.split == split]
    return max(of_split, key=lambda c: c.n_neurons or 0, default=None)


def _largest(tested: Tested) -> Comparison | None:
    """The point that moves F most on discovery prompts, as it is on held-out ones where there are some."""
    known = [c for c in tested.comparisons if c.delta_mean is not None]
    choosing = [c for c in known if c.split == "discovery"] or known
    if not choosing:
        return None
    best = max(choosing, key=lambda c: abs(c.delta_mean or 0.0))
    split = _split_of(c.split for c in known)
    return next((c for c in known if c.group == best.group and c.split == split), best)


def _place_words(tested: Tested, point: Comparison) -> str:
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


def _delta_words(tested: Tested, point: Comparison) -> str:
    """`−0.41 logits on 12 held-out prompts (random neurons −0.00 to +0.01)`."""
    on = f"on {plural(point.n_prompts, SPLIT_NAMES[point.split] + ' prompt')}"
    if point.delta_mean is None:
        return f"a number that cannot be computed, since the edit breaks the model {on}"
    beside = "no random edit beside it"
    if point.random_low is not None and point.random_high is not None:
        low, high = _logits(point.random_low), _logits(point.random_high)
        beside = f"random {_other(tested)} {low if low == high else f'{low} to {high}'}"
    return f"{_logits(point.delta_mean)} logits {on} ({beside})"


def _other(tested: Tested) -> str:
    return {"window": "directions", "strength": "directions", "heads": "heads"}.get(tested.kind, "neurons")


def _rate_at(tested: Tested, group: str, outcome: str) -> OutcomeRate | None:
    """The outcome at a point, on held-out answers where there are some."""
    found = [one for one in tested.rates if one.key == f"{group}/ranked" and one.outcome == outcome]
    split = _split_of(one.split for one in found)
    return next((one for one in found if one.split == split), None)


def _random_shares(tested: Tested, group: str, outcome: str) -> list[float]:
    """Shares of the random draws of a point, on the same prompts as `_rate_at`."""
    found = [one for one in tested.rates if one.key.startswith(f"{group}/random") and one.outcome == outcome]
    split = _split_of(one.split for one in found)
    return [one.share for one in found if one.split == split and one.share is not None]


def _is_random(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith("random")


def _split_of(splits: Iterable[str]) -> str:
    """Held-out where there is such a thing, else validation, else discovery."""
    there = set(splits)
    return next((split for split in SPLIT_NAMES if split in there), "discovery")


def _joined(parts: Sequence[str], word: str = "and") -> str:
    return "".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _logits(value: float | None) -> str:
    """A signed number of logits with two digits; what rounds to nothing is 0.00."""
    return "0.00" if value is not None and abs(value) < 0.005 else number(value, signed=True)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _range(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def _percent_span(interval: Sequence[float | None] | None) -> str:
    if not interval or interval[0] is None or interval[1] is None:
        return ""
    return f", 95 % interval {_range(interval[0], interval[1])}"
