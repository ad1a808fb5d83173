"""The paragraph of a sweep: what was edited, what moved, what the answers did, how sure that is, what is open."""

from collections.abc import Mapping, Sequence

from pprobe_core.charts import number
from pprobe_core.interventions.outcomes import FORMAT_CHANGE, IS_BROKEN, KEPT, OutcomeRate, regimes
from pprobe_core.interventions.statistics import ALPHA
from pprobe_core.interventions.steering import best_switch, percent_range
from pprobe_core.interventions.types import INJECTION_KINDS, N_DRAWS, NEURON_KINDS
from pprobe_core.meaning.numbers import logits, percent, percents
from pprobe_core.meaning.parts import Meaning, Page, Tested, flips, meaning
from pprobe_core.meaning.points import (
    SPLIT_NAMES,
    delta_words,
    end_of_curve,
    largest,
    other_word,
    place_words,
    random_shares,
    rate_at,
    split_of,
)
from pprobe_core.store import Run
from pprobe_core.wording import plural

FEW_ANSWERS = 10  # ours: with fewer, the paragraph says that little can be said
MANY_BROKEN = 0.1  # ours: share of empty or broken answers from which a paragraph says so
RANKINGS: Mapping[str, str] = {
    "ablation": "those that should matter when switched off, judged by the two passes",
    "measured": "those that each matter most when switched off alone",
    "shared": "those that carry the change between the two prompts",
    "magnitude": "those that change the decision most in whichever direction",
}


def sweep_meaning(run: Run, tested: Tested) -> Meaning:
    """What a sweep shows: what was edited, how far the logit difference and the answers moved, how sure, what not."""
    if tested.kind in NEURON_KINDS:
        done, moved, answered = (
            _neurons_edited(tested),
            f"{_moved(tested)} {_first_dose(tested)}",
            _answers_at_end(tested),
        )
    elif tested.kind in INJECTION_KINDS:
        done, moved, answered = _direction_added(tested), _regimes(tested), pushed(tested)
    else:
        done, moved, answered = _parts_edited(tested), _largest_parts(tested), ""
    step, page = _next_of_sweep(run, tested)
    return meaning(
        headline_of_sweep(tested),
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


def headline_of_sweep(tested: Tested) -> str:
    """What a sweep found in one sentence: about the answers if they changed, else about the logit difference."""
    if found := effect_on_answers(tested):
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
        so = (
            "; the answers change too, but not clearly more often than under random edits"
            if any_answer_changed(tested)
            else ", but the answers do not follow"
        )
        return f"{edit} moves the first word's score more than chance{so}."
    return f"{edit} changes nothing clearly beyond chance, neither the first word's score nor the answers."


def any_answer_changed(tested: Tested) -> bool:
    """Whether at least one answer changes at the told point, by chance or not."""
    if tested.kind in INJECTION_KINDS:
        best = best_switch(tested.points, tested.rates)
        return best is not None and best.shown.n_yes > 0
    point = end_of_curve(tested)
    rate = None if point is None else rate_at(tested, point.group, FORMAT_CHANGE)
    return rate is not None and rate.n_yes > 0


def effect_on_answers(tested: Tested) -> str:
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
    point = end_of_curve(tested)
    rate = None if point is None else rate_at(tested, point.group, FORMAT_CHANGE)
    random = [] if point is None else random_shares(tested, point.group, FORMAT_CHANGE)
    if point is None or rate is None or not random or (rate.low or 0.0) <= max(random):
        return ""
    return (
        f"With {place_words(tested, point)}, {rate.n_yes} of {_answers(rate)} change class; with random neurons "
        f"{percent_range(min(random), max(random))} do."
    )


def answers_moved(tested: Tested) -> bool | None:
    """Whether at some point the answers change more often than under every random draw; None without answers.

    Two sides of the same rule that the Start page uses: the lower end of a point's interval lies above the largest
    share of all random draws.
    """
    split = split_of(one.split for one in tested.rates)
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
    point = end_of_curve(tested)
    if point is None:
        return "No point was measured that can be compared."
    return f"With {place_words(tested, point)} the logit difference moves by {delta_words(tested, point)}."


def edited(tested: Tested) -> str:
    """What the end of the curve does to the answers; where none were written, what it does to F."""
    return _answers_at_end(tested) or f"{_moved(tested)} No answers were written, so what they would do is open."


def _answers_at_end(tested: Tested) -> str:
    """What the end of the curve does to the answers, beside its random draws; empty without answers."""
    point = end_of_curve(tested)
    rate = None if point is None else rate_at(tested, point.group, FORMAT_CHANGE)
    if point is None or rate is None or rate.share is None:
        return ""
    random = random_shares(tested, point.group, FORMAT_CHANGE)
    beside = f"; under random {other_word(tested)} {percent_range(min(random), max(random))}" if random else ""
    text = (
        f"With {place_words(tested, point)}, {percent(rate.share)} of the {_answers(rate)} "
        f"{'changes' if rate.n == 1 else 'change'} class (95 % interval {percents(rate.low, rate.high)}{beside})"
    )
    if not random:
        text += ", but no random edit stands beside it, so this proves nothing"
    elif (rate.low or 0.0) <= max(random):
        text += ", not clearly more than by chance"
        if any(c.beats_controls for c in tested.comparisons):
            text += (
                ": only the logit difference moves beyond chance"
                if rate.n_yes
                else ": the logit difference moves beyond chance, the answers do not follow"
            )
    broken = rate_at(tested, point.group, IS_BROKEN)
    if broken is not None and (broken.share or 0.0) >= MANY_BROKEN:
        text += f"; {percent(broken.share)} of the answers are empty or broken then"
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
    split = split_of(one.split for one in found)
    of_split = [one for one in found if one.split == split and one.key.endswith("/ranked")]
    if not of_split:
        return ""
    count = {name: sum(one.regime == name for one in of_split) for name in ("causal", "destructive", "committed")}
    return (
        f"Of {plural(len(of_split), 'tested place')} (layer and strength) {count['causal']} switch at least half of "
        f"the {SPLIT_NAMES[split]} answers, {count['destructive']} break them and {count['committed']} leave them as "
        "they were."
    )


def pushed(tested: Tested) -> str:
    """Whether pushing worked at the place that did best on the discovery prompts, by the rule of `steering`."""
    best = best_switch(tested.points, tested.rates)
    if best is None:
        point = largest(tested)
        if point is None:
            return "The pushes were measured without a point that can be compared."
        return (
            f"Adding a direction {place_words(tested, point)} moves the logit difference by "
            f"{delta_words(tested, point)}; no answers were written, so whether it switches them is open."
        )
    shown = best.shown
    if not any(one.n_yes for one in tested.rates if one.outcome == shown.outcome and one.key.endswith("/ranked")):
        return f"No direction that was added switches an answer (n = {shown.n} {SPLIT_NAMES[shown.split]} answers)."
    what = "switches, with the right content," if shown.outcome == KEPT else "switches"
    where = f"after layer {best.place.layer}" if best.place.layer is not None else "in a band of layers"
    strength = "" if best.place.strength is None else f" at strength {number(best.place.strength, 1, signed=True)}"
    beside = f"; random directions {percent_range(min(best.random), max(best.random))}" if best.random else ""
    return (
        f"Adding a direction {where}{strength} {what} {percent(shown.share)} of the {_answers(shown)} (95 % interval "
        f"{percents(shown.low, shown.high)}{beside}){'' if best.worked else ', which does not count as steering it'}"
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
    split = split_of(p.split for p in ranked)
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
            f"{logits(p.delta_mean)} logits without {names.get(p.variant, p.variant)} of layer {p.layer}"
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
        f"{on}, put in after layer {layer}, it moves the logit difference by {logits(row['free'])} logits; by "
        f"{logits(row['attention held'])} with later attention held and by {logits(row['ffn held'])} with later FFNs "
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
    beside = "" if low is None else f"; random edits {logits(low)} to {logits(high)}"
    name = str(worst["name"]).replace("_", " ")
    return (
        f"Of the other behaviours the same edits move {name} most, by up to {logits(worst['delta_mean'])} "
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


def _is_random(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith("random")


def _joined(parts: Sequence[str], word: str = "and") -> str:
    return "".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
