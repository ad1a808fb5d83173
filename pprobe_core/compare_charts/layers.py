"""Where several models do their work: layer by layer over relative depth, how few neurons, in which layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core.charts import (
    CONDITION_NAMES,
    MUTED,
    Figure,
    as_figure,
    dash_by,
    number,
    zero_line,
)
from pprobe_core.compare_charts.marks import (
    depth_axis,
    in_order,
    interval_tips,
    model_colour,
    model_shape,
    numbers_on_shades,
    present_in,
    share_colour,
    typed,
    with_depth,
)
from pprobe_core.compare_words import (
    in_sentence,
    over_models,
)
from pprobe_core.probing.verdict import OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from pprobe_core.sweep_rows import (
    circuit_words,
    largest,
    percent,
    range_words,
)

QUANTITY_TITLES: Mapping[str, str] = {
    "ffn": "FFN contribution",
    "attention": "Attention contribution",
    "skip": "Skip path",
    "ffn_skip": "FFN/Skip ratio",
    "attention_skip": "Attention/Skip ratio",
    "lens_after_ffn": "Logit difference after the layer",
}
RATIOS = ("ffn_skip", "attention_skip")
MEASURES: Mapping[str, str] = {
    "share_top10": "First 10 neurons",
    "share_top50": "First 50 neurons",
    "concentration": "Concentration (Gini)",
    "ffn_share": "FFN part of the change",
}


def depth_profile(
    profile: pd.DataFrame,
    models: Sequence[str],
    circuit: str,
    quantity: str,
    condition: str | None = None,
    scaled: bool = False,
) -> Figure:
    """One quantity over relative depth, a line per model, with bands; both prompts (dashed: perturbed) or one.

    `profile`: run_id, label, circuit, condition, quantity, layer, n_layers, depth, mean, low, high, n. With `scaled`
    each model's line is divided by its own largest size, so that shapes can be compared where logits cannot.
    """
    rows = typed(
        profile, ("label", "circuit", "condition", "quantity"), ("layer", "n_layers", "mean", "low", "high", "n")
    )
    rows = rows[(rows["circuit"] == circuit) & (rows["quantity"] == quantity) & rows["label"].isin(models)]
    if condition is not None:
        rows = rows[rows["condition"] == condition]
    rows = with_depth(rows).dropna(subset=["mean"])
    scaled = scaled and quantity not in RATIOS
    if scaled:
        largest = rows.groupby("label")["mean"].transform(lambda mean: mean.abs().max())
        rows[["mean", "low", "high"]] = rows[["mean", "low", "high"]].div(largest.replace(0, np.nan), axis=0)
    top = _ceiling(rows) if quantity in RATIOS else np.inf
    rows = rows.assign(
        name=rows["condition"].map(CONDITION_NAMES).fillna(rows["condition"]),
        shown=rows["mean"].clip(upper=top),
        low=rows["low"].clip(lower=0.0 if quantity in RATIOS else None, upper=top),
        high=rows["high"].clip(upper=top),
        over=rows["mean"] > top,
    )
    title = QUANTITY_TITLES[quantity] + (
        "" if quantity in RATIOS else " (share of the model's largest)" if scaled else " (logits)"
    )
    scale = alt.Scale(domain=[0, top], nice=False) if quantity in RATIOS else alt.Scale()
    y = alt.Y("shown:Q", title=title, scale=scale)
    base = alt.Chart(rows).encode(x=depth_axis(), detail=[alt.Detail("condition:N")])
    colour = model_colour(rows, models)
    dash = dash_by("name", list(CONDITION_NAMES.values()), ([1, 0], [5, 3])) if condition is None else alt.StrokeDash()
    band = base.mark_area(opacity=0.13).encode(y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), color=colour)
    line = base.mark_line(strokeWidth=2).encode(y=y, color=colour, strokeDash=dash)
    # What lies above the axis is a triangle at its edge.
    points = (
        base.transform_filter("!datum.over")
        .mark_point(filled=True, size=38, opacity=1)
        .encode(
            y=y,
            color=colour,
            shape=model_shape(rows, models),
            tooltip=[
                alt.Tooltip("label:N", title="Model"),
                alt.Tooltip("layer:Q", title="Layer"),
                alt.Tooltip("depth:Q", title="Depth", format=".0%"),
                alt.Tooltip("name:N", title="Prompt"),
                *interval_tips("mean", ".3f" if quantity in RATIOS else "+.3f"),
            ],
        )
    )
    marks: list[Any] = [*_ratio_lines(quantity, top), band, line, points]
    over = rows[rows["over"]]
    if len(over):
        beyond = alt.Chart(over).mark_text(text="▲", fontSize=12, dy=-4)
        tooltip = [alt.Tooltip("label:N", title="Model"), alt.Tooltip("mean:Q", title="Above the axis", format=".1f")]
        marks.append(beyond.encode(x=depth_axis(), y=alt.value(0), color=colour, tooltip=tooltip))
    where = f"on {CONDITION_NAMES[condition].lower()}s" if condition else "on both prompts"
    units = (
        "Ratios have no unit, so heights compare; where the skip path carries little they are inflated, and ▲ stands "
        "for a value above the axis."
        if quantity in RATIOS
        else "Each line is divided by its own largest size, so only shapes compare."
        if scaled
        else "Logits of different models are not on one scale: compare shapes."
    )
    return as_figure(
        alt.layer(*marks),
        _profile_title(rows, models, circuit, quantity, condition or "original", scaled),
        f"Means over {range_words(rows['n'])} pairs {where} with 95 % interval. {units}",
        f"{QUANTITY_TITLES[quantity]} over relative depth for {rows['label'].nunique()} models.",
        omits="Does not show equal work at equal depth, nor what a layer changes through later ones.",
    )


def _ceiling(rows: pd.DataFrame) -> float:
    """Upper end of an axis of ratios: what the last layers need, so that early layers without signal do not set it."""
    last = rows[np.isclose(rows["depth"], 1.0)]
    highs = pd.concat([last["high"], last["mean"]]).dropna()
    return max(4 * OPPOSITION_MIN_FFN_SKIP, 1.15 * float(highs.max())) if len(highs) else 4 * OPPOSITION_MIN_FFN_SKIP


def _ratio_lines(quantity: str, top: float) -> list[alt.Chart]:
    if quantity not in RATIOS:
        return [zero_line()]
    if quantity != "ffn_skip":
        return []
    limits = pd.DataFrame({"at": [ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP]})
    y = alt.Y("at:Q", scale=alt.Scale(domain=[0, top], nice=False))
    return [alt.Chart(limits).mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=y)]


def _profile_title(
    rows: pd.DataFrame, models: Sequence[str], circuit: str, quantity: str, condition: str, scaled: bool
) -> str:
    name = QUANTITY_TITLES[quantity].removesuffix(" ratio").removesuffix(" after the layer")
    own = rows[rows["condition"] == condition]
    if own.empty:
        own, condition = rows, str(rows["condition"].iloc[0]) if len(rows) else condition
    if own.empty:
        return f"{name} of {in_sentence(circuit_words(circuit))} was not measured on these models"
    told = []
    for label in present_in(own, models):
        of_model = own[own["label"] == label]
        if quantity in (*RATIOS, "lens_after_ffn", "skip"):
            last = of_model.iloc[int(of_model["layer"].to_numpy().argmax())]
            told.append((label, last["mean"], number(last["mean"], signed=quantity not in RATIOS)))
        else:
            top = largest(of_model, "mean")
            told.append((label, top["depth"], f"{percent(top['depth'], 0)} deep (layer {int(top['layer'])})"))
    what = f"{name} of {in_sentence(circuit_words(circuit))} ({condition} prompts)"
    if quantity in (*RATIOS, "lens_after_ffn", "skip"):
        return f"{what} ends at {over_models(told)}" + (" of its own largest" if scaled else "")
    return f"{what} is largest {over_models(told)}"


def topology_bars(topology: pd.DataFrame, models: Sequence[str], circuit: str) -> Figure:
    """How few neurons carry a circuit in each model, and how much of the change FFN layers write.

    `topology`: run_id, label, circuit, n_neurons, share_top10, share_top50, concentration (Gini of |mean I|), n_half,
    ffn_share, low, high (of ffn_share). All shares are fractions.
    """
    rows = typed(topology, ("label", "circuit"), ("n_neurons", *MEASURES, "n_half", "low", "high"))
    rows = rows[(rows["circuit"] == circuit) & rows["label"].isin(models)].drop_duplicates("label")
    long = rows.melt(
        id_vars=["label", "n_neurons", "n_half", "low", "high"],
        value_vars=list(MEASURES),
        var_name="measure",
        value_name="value",
    ).dropna(subset=["value"])
    is_ffn = long["measure"] == "ffn_share"
    long["low"], long["high"] = long["low"].where(is_ffn), long["high"].where(is_ffn)
    long["name"] = long["measure"].map(MEASURES)
    long["text"] = [
        number(value) if measure == "concentration" else percent(value, 0)
        for value, measure in zip(long["value"], long["measure"], strict=True)
    ]
    long["end"] = long["high"].fillna(long["value"]).clip(lower=long["value"])
    present = present_in(long, models)
    y = alt.Y(
        "name:N",
        sort=list(MEASURES.values()),
        title=None,
        axis=alt.Axis(labelLimit=170, ticks=False, domain=False),
        scale=alt.Scale(paddingInner=0.25),
    )
    base = alt.Chart(long).encode(y=y, yOffset=alt.YOffset("label:N", scale=alt.Scale(domain=present)))
    x = alt.X(
        "value:Q",
        title="Share (of all importance, or of the written change)",
        axis=alt.Axis(format="%", grid=False, values=[0, 0.25, 0.5, 0.75, 1.0]),
        scale=alt.Scale(domain=[0, 1.12], nice=False),
    )
    bars = base.mark_bar().encode(
        x=x,
        color=model_colour(long, models),
        tooltip=[
            alt.Tooltip("label:N", title="Model"),
            alt.Tooltip("name:N", title="Measure"),
            alt.Tooltip("value:Q", title="Value", format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="95 % to", format=".3f"),
            alt.Tooltip("n_half:Q", title="Neurons that hold half", format=",d"),
            alt.Tooltip("n_neurons:Q", title="Neurons in all", format=",d"),
        ],
    )
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(color=MUTED, strokeWidth=1.6)
    text = base.mark_text(align="left", dx=5, color=MUTED, fontSize=10.5).encode(
        x=alt.X("end:Q"), text=alt.Text("text:N")
    )
    told = []
    for row in in_order(rows.dropna(subset=["n_half", "n_neurons"]), models).to_dict("records"):
        share = row["n_half"] / row["n_neurons"]
        words = f"{int(row['n_half']):,} of {int(row['n_neurons']):,} neurons ({percent(share)})"
        told.append((str(row["label"]), share, words))
    title = f"The topology of {in_sentence(circuit_words(circuit))} was not measured on these models"
    if told:
        title = f"Half of all importance for {in_sentence(circuit_words(circuit))} lies in {over_models(told)}"
    return as_figure(
        alt.layer(bars, whisker.encode(x=alt.X("low:Q"), x2=alt.X2("high:Q")), text),
        title,
        "Shares of the summed |mean I| over all neurons; Gini: 0 when all neurons matter alike, near "
        "1 when few do. Models differ in their number of neurons, so ten are not the same share everywhere. "
        "The FFN part counts absolute mean changes of FFN and attention layers (the rest is attention's), "
        "bar: 95 % interval.",
        f"Bars of concentration and of the FFN part for {len(present)} models.",
        height=int(np.clip(4 * (13 * max(len(present), 1) + 12) + 110, 220, 560)),
        omits="Does not show what happens when these neurons are switched off: shares follow the direct path.",
    )


def layer_heat(layers: pd.DataFrame, models: Sequence[str], circuit: str) -> Figure:
    """Where the first 50 neurons lie: a strip per model over relative depth, a cell per layer.

    `layers`: run_id, label, circuit, layer, depth, share_top50 (of the first 50 neurons, a fraction), mass (share
    of all importance).
    """
    rows = typed(layers, ("label", "circuit"), ("layer", "n_layers", "depth", "share_top50", "mass"))
    rows = rows[(rows["circuit"] == circuit) & rows["label"].isin(models)].dropna(subset=["layer", "share_top50"])
    rows = with_depth(rows)
    rows["start"], rows["end"] = rows["layer"] / rows["n_layers"], (rows["layer"] + 1) / rows["n_layers"]
    rows["middle"] = (rows["start"] + rows["end"]) / 2
    rows["text"] = [f"{100 * share:.0f}" if share >= 0.005 else "" for share in rows["share_top50"]]
    present = present_in(rows, models)
    limit = max(float(rows["share_top50"].max()), 0.1) if len(rows) else 1.0
    x = alt.X(
        "start:Q",
        title="Share of the model's layers, from the first to the last",
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format="%", grid=False),
    )
    y = alt.Y("label:N", sort=present, title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False))
    marks: list[Any] = [
        alt.Chart(rows)
        .mark_rect(stroke=MUTED, strokeOpacity=0.5, strokeWidth=0.5)
        .encode(
            x=x,
            x2=alt.X2("end:Q"),
            y=y,
            color=share_colour("share_top50", limit, "Share of the first 50 neurons"),
            tooltip=[
                alt.Tooltip("label:N", title="Model"),
                alt.Tooltip("layer:Q", title="Layer"),
                alt.Tooltip("n_layers:Q", title="Layers in all"),
                alt.Tooltip("share_top50:Q", title="Of the first 50", format=".0%"),
                alt.Tooltip("mass:Q", title="Of all importance", format=".1%"),
            ],
        )
    ]
    marks += numbers_on_shades(rows[rows["n_layers"] <= 24], "share_top50", limit, 11, alt.X("middle:Q"), y)
    centres = [(label, _centre(rows[rows["label"] == label])) for label in present]
    told = [(label, centre, f"{percent(centre, 0)} deep") for label, centre in centres if centre is not None]
    title = f"Where the first neurons of {in_sentence(circuit_words(circuit))} lie was not measured"
    if told:
        title = f"The first 50 neurons of {in_sentence(circuit_words(circuit))} lie on average {over_models(told)}"
    return as_figure(
        alt.layer(*marks),
        title,
        "Numbers: per cent of the first 50 neurons by |mean I| that lie in the layer. A cell is one "
        "layer, so models with few layers have wide cells.",
        f"Strips of layers for {len(present)} models, shaded by their share of the first 50 neurons.",
        height=int(np.clip(44 * max(len(present), 1) + 110, 150, 400)),
        omits=(
            "Does not show where the decision is made: the ranking follows the direct path, which favours late layers."
        ),
    )


def _centre(rows: pd.DataFrame) -> float | None:
    """Mean relative depth of the first neurons; None where they are in no layer."""
    weight = rows["share_top50"].sum()
    return float((rows["depth"] * rows["share_top50"]).sum() / weight) if weight > 0 else None
