"""What edits do to several models: dose responses and injection windows laid over each other."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core import paper
from pprobe_core.charts import (
    MUTED,
    RANDOM,
    Figure,
    as_figure,
    zero_line,
)
from pprobe_core.compare_charts.marks import (
    depth_axis,
    interval_tips,
    model_colour,
    model_shape,
    present_in,
    typed,
    with_depth,
)
from pprobe_core.compare_words import (
    in_sentence,
    joined,
    over_models,
    percents,
)
from pprobe_core.sweep_charts import dose_axis
from pprobe_core.sweep_rows import (
    SHARE_TICKS,
    SPLIT_NAMES,
    circuit_words,
    largest,
    percent,
    range_words,
    shown_split,
    signed_number,
)
from pprobe_core.wording import plural

Effect = Literal["relative", "changed"]
WindowValue = Literal["switched", "relative"]
EFFECT_TITLES: Mapping[str, str] = {
    "relative": "Change of F, in units of the unedited F",
    "changed": "Answers whose class changes",
}


def dose_overlay(
    doses: pd.DataFrame,
    models: Sequence[str],
    circuit: str,
    axis: Literal["n_neurons", "fraction"] = "n_neurons",
    value: Effect = "relative",
    split: str = "heldout",
    with_paper: bool = False,
) -> Figure:
    """Dose response of several models: the effect of switching off the first neurons, beside each model's random draws.

    `doses`: run_id, sweep_id, label, circuit, arm ("ranked" / "random"), draw, n_neurons, fraction (of all neurons),
    split, relative (change of F in units of the model's own unedited F: -1 where nothing is left of the decision), low,
    high, n, changed (share of answers whose class changed), changed_low, changed_high. A model without `split` rows is
    shown on what it has.
    """
    rows = _effect_rows(doses, models, circuit, value)
    rows = rows[rows[axis].notna() & (rows[axis] > 0)]
    rows = _on_split(rows, split)
    rows["x"] = rows[axis]
    ranked, random = _arms(rows, ["label", "x"])
    if axis == "n_neurons":
        x = dose_axis("n_neurons", rows["x"], "Neurons switched off (log scale)")
        starts = [
            pd.DataFrame({"label": own["label"].unique(), "x": 0.0, "mean": 0.0, "low": 0.0, "high": 0.0})
            for own in (ranked, random)
        ]
        ranked, random = (
            pd.concat([start, own], ignore_index=True) if len(own) else own
            for start, own in zip(starts, (ranked, random), strict=True)
        )
    else:
        x = _share_axis(rows["x"], with_paper)
    unit = ".0%"
    y = alt.Y("mean:Q", title=EFFECT_TITLES[value], axis=alt.Axis(format="%"))
    tooltip = [
        alt.Tooltip("label:N", title="Model"),
        alt.Tooltip("n_neurons:Q", title="Neurons", format=",d"),
        alt.Tooltip("fraction:Q", title="Of all neurons", format=".3%"),
        alt.Tooltip("split:N", title="Prompts"),
        *interval_tips("mean", unit),
    ]
    marks: list[Any] = [
        zero_line(),
        *_random_bands(random, x, unit),
        *_model_lines(ranked, models, x, y, tooltip),
    ]
    overlay = ""
    if with_paper and axis == "fraction":
        share, changed = paper.SAFETY_NEURONS, paper.SAFETY_CHANGED
        at = pd.DataFrame({"x": [share.value], "text": [f"paper: {changed.model}, 50 neurons"]})
        marks.append(alt.Chart(at).mark_rule(color=MUTED, strokeDash=[2, 3], strokeWidth=1.6).encode(x=x))
        marks.append(
            alt.Chart(at)
            .mark_text(align="left", baseline="top", dx=5, dy=2, color=MUTED, fontSize=11)
            .encode(x=x, y=alt.value(0), text=alt.Text("text:N"))
        )
        overlay = (
            f" Dotted rule, not yours: in the paper ({paper.cited(changed)}) 50 of {share.n:,} neurons of "
            f"{share.model} change the format of {percent(changed.value, 0)} of {changed.n} refusals."
        )
    return as_figure(
        alt.layer(*marks),
        _dose_title(ranked, random, models, circuit, axis, value),
        f"{_split_words(rows)} Bands: 95 % interval over prompts; grey: smallest to largest of each "
        f"model's random draws. {_effect_unit(value)} "
        f"{_broken_words(rows)}{_without_random(ranked, random)}{overlay}",
        f"Effect of switching off neurons in {ranked['label'].nunique()} models, by "
        f"{'number' if axis == 'n_neurons' else 'share'} of neurons.",
        omits="Does not show equal shares of the models: the same number of neurons is more of a small one."
        if axis == "n_neurons"
        else "Does not show equal numbers of neurons: the same share is more of them in a large model.",
    )


def window_overlay(
    windows: pd.DataFrame,
    models: Sequence[str],
    circuit: str,
    strength: float,
    value: WindowValue = "switched",
    split: str = "heldout",
    with_paper: bool = False,
) -> Figure:
    """Injection windows of several models over relative depth, each at its strength nearest to `strength`.

    Strengths count towards what the other prompts do: where F has the other sign, a direction is added backwards.

    `windows`: run_id, sweep_id, label, circuit, layer, depth, n_layers, strength, toward_other (sign of the strengths
    that push towards the other prompts; 1 where it is missing), arm, draw, split, switched (share of answers that
    change class), switched_low, switched_high, broken (share), n, relative, low, high, regime.
    `switched` draws the answers (dashed: broken ones), `relative` the change of F, which is there without answers too.
    """
    rows = _effect_rows(windows, models, circuit, value)
    rows = _on_split(rows[rows["layer"].notna() & rows["strength"].notna()], split)
    rows = with_depth(rows)
    rows["push"] = rows["strength"] * rows["toward_other"].fillna(1.0)
    used = {label: _nearest(rows.loc[rows["label"] == label, "push"], strength) for label in present_in(rows, models)}
    rows = rows[np.isclose(rows["push"], rows["label"].map(used).astype("float64"))] if len(rows) else rows
    rows["x"] = rows["depth"]
    ranked, random = _arms(rows, ["label", "x"])
    x = depth_axis("x")
    # Room above 100 % for the paper's name.
    scale = alt.Scale(domain=[0, 1.12 if with_paper else 1.03], nice=False) if value == "switched" else alt.Scale()
    y = alt.Y(
        "mean:Q",
        title="Share of answers that switch" if value == "switched" else EFFECT_TITLES["relative"],
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1.0]) if value == "switched" else alt.Axis(format="%"),
        scale=scale,
    )
    tooltip = [
        alt.Tooltip("label:N", title="Model"),
        alt.Tooltip("layer:Q", title="After layer"),
        alt.Tooltip("x:Q", title="Depth", format=".0%"),
        alt.Tooltip("strength:Q", title="Strength added", format="+~g"),
        alt.Tooltip("split:N", title="Prompts"),
        *interval_tips("mean", ".0%"),
        alt.Tooltip("broken:Q", title="Broken", format=".0%"),
        alt.Tooltip("regime:N", title="Regime"),
    ]
    marks: list[Any] = []
    overlay = ""
    window = paper.LANGUAGE_WINDOW
    if with_paper and circuit == "language":
        first, last = (window.depth(layer) for layer in window.causal)
        span = pd.DataFrame({"x": [first], "end": [last], "text": [f"paper: causal window of {window.model}"]})
        ground = alt.Chart(span).encode(x=x)
        marks += [
            ground.mark_rect(color=MUTED, opacity=0.16).encode(x2=alt.X2("end:Q")),
            ground.mark_text(align="left", baseline="top", dx=4, dy=3, color=MUTED, fontSize=11).encode(
                y=alt.value(0), text=alt.Text("text:N")
            ),
        ]
        overlay = (
            f" Shaded, not yours: layers {window.causal[0]} to {window.causal[1]} of {window.n_layers} of "
            f"{window.model} at absolute strength {window.strength:g} ({paper.PAPER}, {window.place}, {window.n} "
            "prompts a layer)."
        )
    marks += [zero_line(), *_random_bands(random, x, ".0%"), *_model_lines(ranked, models, x, y, tooltip)]
    broken = ranked.dropna(subset=["broken"])
    if value == "switched" and len(broken):
        marks.append(
            alt.Chart(broken)
            .mark_line(strokeDash=[5, 3], strokeWidth=1.6)
            .encode(x=x, y=alt.Y("broken:Q", scale=scale), color=model_colour(ranked, models))
        )
    strengths = joined([f"{signed_number(used[label])} in {label}" for label in used])
    if len(set(used.values())) == 1:
        strengths = f"{signed_number(next(iter(used.values())))} everywhere"
    return as_figure(
        alt.layer(*marks),
        _window_title(ranked, random, models, circuit, value),
        f"{_split_words(rows)} Strength {strengths or '–'} (nearest to {signed_number(strength)}, towards what the "
        "other prompts do; its unit is each sweep's own). "
        f"{'Dashed: broken answers. ' if value == 'switched' else ''}"
        "Bands: 95 % interval; grey: smallest to largest of the random directions of each model. "
        f"{_effect_unit(value)} {_broken_words(rows)}{_without_random(ranked, random)}{overlay}",
        f"Injection by relative depth in {ranked['label'].nunique()} models.",
        omits="Does not show the same place in each model: layers at equal depth need not do equal work.",
    )


def _effect_rows(frame: pd.DataFrame, models: Sequence[str], circuit: str, value: str) -> pd.DataFrame:
    """Rows of one circuit with mean, low and high of `value`."""
    low, high = ("low", "high") if value == "relative" else (f"{value}_low", f"{value}_high")
    places = ("draw", "n_neurons", "fraction", "layer", "n_layers", "depth", "strength", "toward_other")
    numbers = (*places, "broken", "n", value, low, high)
    rows = typed(frame, ("run_id", "sweep_id", "label", "circuit", "arm", "split", "regime"), numbers)
    rows = rows[(rows["circuit"] == circuit) & rows["label"].isin(models)]
    if value != "relative":  # a missing share is an answer that was not written; a missing F is a model that broke
        rows = rows.dropna(subset=[value])
    return rows.assign(mean=rows[value], low=rows[low], high=rows[high])


def _broken_words(rows: pd.DataFrame) -> str:
    """How many of the ranked points have no number, as a sentence with a space after it; empty for none."""
    n = int(rows.loc[rows["arm"] == "ranked", "mean"].isna().sum())
    return f"{plural(n, 'point', ('has', 'have'))} no number: the model broke there. " if n else ""


def _on_split(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Each model's rows of `split`, or of the split it has."""
    parts = []
    for _, own in rows.groupby("label", sort=False):
        chosen = split if (own["split"] == split).any() else shown_split(own)
        parts.append(own[own["split"] == chosen])
    return pd.concat(parts, ignore_index=True) if parts else rows.copy()


def _arms(rows: pd.DataFrame, by: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ranked rows, and the random draws as mean, low and high of their means."""
    rows = rows.dropna(subset=["mean"])
    ranked = rows[rows["arm"] == "ranked"].sort_values(by).reset_index(drop=True)
    draws = rows[rows["arm"] == "random"].groupby(by, as_index=False, sort=True)
    random = draws.agg(mean=("mean", "mean"), low=("mean", "min"), high=("mean", "max"), n=("mean", "size"))
    return ranked, random


def _random_bands(random: pd.DataFrame, x: alt.X, unit: str) -> list[alt.Chart]:
    """A grey band per model from its smallest to its largest random draw; a bar where there is only one place."""
    tooltip = [
        alt.Tooltip("label:N", title="Random draws of"),
        alt.Tooltip("low:Q", title="Smallest", format=unit),
        alt.Tooltip("high:Q", title="Largest", format=unit),
        alt.Tooltip("n:Q", title="Draws"),
    ]
    single = random.groupby("label")["x"].transform("nunique") <= 1
    opacity = max(0.09, 0.3 / max(random["label"].nunique(), 1))  # bands of several models lie on each other
    marks = []
    for one, rows in ((False, random[~single]), (True, random[single])):
        if len(rows):
            base = alt.Chart(rows).encode(
                x=x, detail=alt.Detail("label:N"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), tooltip=tooltip
            )
            bar, area = base.mark_bar(width=9, color=RANDOM), base.mark_area(color=RANDOM)
            marks.append(bar.encode(opacity=alt.value(0.4)) if one else area.encode(opacity=alt.value(opacity)))
    return marks


def _model_lines(
    rows: pd.DataFrame, models: Sequence[str], x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip]
) -> list[alt.Chart]:
    base = alt.Chart(rows).encode(x=x)
    plain = model_colour(rows, models)
    return [
        base.mark_area(opacity=0.13).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=plain),
        base.mark_line(strokeWidth=2.2).encode(y=y, color=plain),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            y=y, color=model_colour(rows, models), shape=model_shape(rows, models), tooltip=tooltip
        ),
    ]


def _dose_title(
    ranked: pd.DataFrame, random: pd.DataFrame, models: Sequence[str], circuit: str, axis: str, value: str
) -> str:
    rows = ranked[ranked["x"] > 0] if len(ranked) else ranked
    name = in_sentence(circuit_words(circuit))
    if rows.empty:
        what = "No answers were compared" if value == "changed" else "No dose was measured"
        return f"{what} for {name} on these models"
    present = present_in(rows, models)
    doses = [set(rows.loc[rows["label"] == label, "x"]) for label in present]
    common = set.intersection(*doses)
    # At one dose where there is one that all have; else each model at its own largest.
    chosen = {label: max(common) if common else max(own) for label, own in zip(present, doses, strict=True)}
    told = []
    for label in present:
        row = rows[(rows["label"] == label) & (rows["x"] == chosen[label])].iloc[0]
        size = _size_words(row["mean"], value)
        at = "" if common else f" ({int(row['n_neurons']):,} neurons)"
        told.append((label, abs(row["mean"]), f"{size}{at}"))
    what = "moves F of" if value == "relative" else "changes the class of"
    dose = ""
    if common:
        n = rows.loc[rows["x"] == max(common), "n_neurons"].iloc[0]
        dose = f"{int(n):,} neurons" if axis == "n_neurons" else f"{percent(max(common))} of the neurons"
    subject = f"Switching off {dose or 'the largest measured number of neurons'} {what} {name} "
    subject += ("by " if value == "relative" else "answers: ") + over_models(told)
    at_random = pd.concat(
        [random[(random["label"] == label) & np.isclose(random["x"], chosen[label])] for label in present]
    )
    if at_random.empty:
        return f"{subject}; no random control was measured"
    return f"{subject}; random draws reach {_furthest(at_random, value)}"


def _window_title(ranked: pd.DataFrame, random: pd.DataFrame, models: Sequence[str], circuit: str, value: str) -> str:
    name = in_sentence(circuit_words(circuit))
    if ranked.empty:
        what = "No answers were written under an injection" if value == "switched" else "No injection was measured"
        return f"{what} for {name} on these models"
    told = []
    for label in present_in(ranked, models):
        own = ranked[ranked["label"] == label]
        top = largest(own, "mean")
        words = f"{_size_words(top['mean'], value)} ({percent(top['x'], 0)} deep)" if top["mean"] else "none"
        told.append((label, abs(top["mean"]), words))
    what = (
        f"moves F of {name} by at most" if value == "relative" else f"switches at most these shares of {name} answers:"
    )
    title = f"Injection {what} {over_models(told)}"
    if random.empty:
        return f"{title}; no random control was measured"
    return f"{title}; random directions reach {_furthest(random, value)}"


def _size_words(size: float, value: str) -> str:
    return percents(size) if value == "relative" else percent(size, 0)


def _furthest(random: pd.DataFrame, value: str) -> str:
    """The random draw that goes furthest, in words."""
    ends = random[["low", "high"]].to_numpy(dtype=np.float64).ravel()
    return _size_words(float(ends[np.abs(ends).argmax()]), value)


def _nearest(strengths: pd.Series, asked: float) -> float:
    there = np.sort(strengths.dropna().unique())
    return float(there[np.abs(there - asked).argmin()])


def _split_words(rows: pd.DataFrame) -> str:
    """`n = 10 to 12 held-out prompts.`, with the models shown on other prompts named."""
    ranked = rows[rows["arm"] == "ranked"]
    if ranked.empty:
        return "No prompts."
    parts = [
        f"{range_words(own['n'])} {SPLIT_NAMES.get(str(split), str(split))}"
        for split, own in ranked.groupby("split", sort=False)
    ]
    text = f"n = {' and '.join(parts)} prompts."
    if ranked["split"].nunique() > 1:
        main = ranked["split"].value_counts().index[0]
        others = ranked.loc[ranked["split"] != main].drop_duplicates("label")
        named = [
            f"{row['label']} on {SPLIT_NAMES.get(row['split'], row['split'])}" for row in others.to_dict("records")
        ]
        text += f" Not the same prompts everywhere: {joined(named)} prompts."
    return text


def _effect_unit(value: str) -> str:
    if value == "relative":
        return "100 % is the size of the model's own unedited F: −100 % brings it to zero, −200 % turns it round."
    return "Classes come from rules, which can err."


def _without_random(ranked: pd.DataFrame, random: pd.DataFrame) -> str:
    without = sorted(set(ranked["label"]) - set(random["label"]))
    return f"No random control in {joined(without)}: that shows no cause. " if without else ""


def _share_axis(shares: pd.Series, with_paper: bool) -> alt.X:
    there = [float(v) for v in shares.dropna()] + ([paper.SAFETY_NEURONS.value] if with_paper else [])
    low, high = (0.7 * min(there), 1.4 * max(there)) if there else (1e-4, 1.0)
    axis = alt.Axis(
        values=[tick for tick in SHARE_TICKS if low <= tick <= high],
        labelExpr="format(datum.value * 100, '~r') + ' %'",
        labelOverlap="greedy",
        grid=False,
    )
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X("x:Q", title="Share of all neurons switched off (log scale)", scale=scale, axis=axis)
