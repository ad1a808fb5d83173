"""The paragraph of a run: what the model did, how sure that is, where in the network, what tests show, what is open."""

from collections.abc import Mapping, Sequence
from typing import Any

from pprobe_core.charts import number
from pprobe_core.circuits.schema import Circuit
from pprobe_core.interventions.types import N_DRAWS
from pprobe_core.meaning.numbers import logits, percent, percent_span
from pprobe_core.meaning.of_sweep import (
    answers_moved,
    any_answer_changed,
    edited,
    effect_on_answers,
    headline_of_sweep,
    pushed,
)
from pprobe_core.meaning.parts import Meaning, Page, Tested, flips, meaning
from pprobe_core.probing.verdict import (
    MIN_COVERAGE,
    MIN_PAIRS,
    OPPOSITION_MIN_FFN_SKIP,
    ROUTING_MAX_FFN_SKIP,
    answers_agree,
)
from pprobe_core.store import Run
from pprobe_core.wording import plural

REFEREE_KINDS = ("heads", "layers", "held")  # sweeps that the Controls page asks for besides the dose response


def run_meaning(
    run: Run, circuit: Circuit | None = None, tested: Sequence[Tested] = (), kinds: Sequence[str] = ()
) -> Meaning:
    """What a run shows. `tested`: the sweeps to tell of, at most one of a kind; `kinds`: of all sweeps there are."""
    s = run.summary
    of_kind = {one.kind: one for one in tested}
    dose, window = of_kind.get("dose"), of_kind.get("window")
    where = f"{_where(s)} {_structure(s)}".strip() if flips(s) else ""
    step, page = _next_of_run(run, dose, window, set(kinds) | set(of_kind))
    return meaning(
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


def _headline_of_run(run: Run, dose: Tested | None, window: Tested | None) -> str:
    s = run.summary
    flipped, n = _n_flipped(s), int(s.get("n_pairs") or 0)
    share = "" if flipped is None else f"{flipped} of {plural(n, 'pair')}"
    if not flips(s):
        few = f"only {share}" if share else "too few pairs"
        return f"These prompts do not tell what decides here: {few} change sides."
    for tested in (dose, window):
        if tested is not None and (found := effect_on_answers(tested)):
            return found
    model = s.get("model") or run.request.model
    if dose is None and window is None:
        return f"A small change of the prompt turns {model} around in {share}; what causes it was not tested yet."
    tested = dose or window
    assert tested is not None  # noqa: S101  (one of them is there)
    return headline_of_sweep(tested)


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
    share = f"{flipped} of {plural(n, 'prompt pair')} ({percent(flipped / n)}{percent_span(s.get('flip_interval'))})"
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
    share = f"{agree} of {plural(n, 'answer')} ({percent(agree / n)}{percent_span(written.get('agreement_interval'))})"
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
            f"Counted directly, {first[0]} {'write' if 'layers' in first[0] else 'writes'} {percent(first[1])} of the "
            f"change and {second[0]} {percent(second[1])}"
        )
    else:
        text = (
            f"Of the change of {logits(measured)} logits, counted directly, feed-forward layers (FFN) write "
            f"{logits(ffn)} and attention {logits(attention)}"
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
        found.append(edited(dose))
        structure = str((run.summary.get("verdict") or {}).get("structure"))
        if structure == "routing" and answers_moved(dose):
            found.append("That is more than such a ratio lets one expect, and the test counts.")
        if structure == "opposition" and answers_moved(dose) is False:
            found.append("That is less than such a ratio lets one expect, and the test counts.")
    if window is not None:
        found.append(pushed(window))
    reached = {
        "causal": "By the logit difference this is a cause, on the prompts that chose the neurons or the place.",
        "replicated": "By the logit difference this is a cause that repeats on prompts that took no part in choosing.",
    }
    found.append(reached.get(run.stage, "So far no cause is shown."))
    answers = any(effect_on_answers(one) or answers_moved(one) for one in (dose, window) if one is not None)
    if run.stage in reached and dose is not None and dose.rates and not answers:
        changed = any(any_answer_changed(one) for one in (dose, window) if one is not None)
        found.append(
            "It is a cause of the first word's score; that it is one of what is said is not shown."
            if changed
            else "It is a cause of the first word's score, not of what is said."
        )
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
        f"{percent(1 - coverage[condition])} of the {name} prompts"
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
