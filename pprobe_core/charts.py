"""Charts of one run: DataFrames in, a `Figure` (an Altair chart with its words) out. One function per chart.

Every title is computed from the rows it stands over; every caption says what the chart leaves out. Colours are fixed by
meaning and hold on a light and on a dark page. Nothing here knows torch, the store or the pages.

Channels are written out, alt.Y2("high:Q") for y2="high:Q": for every bare text Altair looks through its whole schema.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

# Colours by meaning (colour-blind safe inside each group, at least 3:1 against a white and a near-black page).
FFN, ATTENTION, SKIP = "#D55E00", "#2B83C6", "#7D8590"
ORIGINAL, PERTURBED = "#008F74", "#C45FB5"
TARGET, CONTROL, OTHER = "#8A6FD6", "#B07D00", "#7D8590"
RANKED, RANDOM, HELDOUT = "#D55E00", "#7D8590", "#2B83C6"
MUTED = "#7D8590"  # rules, thresholds and their labels
# Colours of single charts, each far from all of the above: whoever learnt those reads nothing wrong into these.
SWITCHED, STILL_RIGHT, BROKEN, MIXED = "#029EBF", "#4C8B24", "#BF2E5A", "#9B5721"  # what becomes of answers
AS_IT_IS = "#029EBF"  # the answer of the unedited model, whichever of the two prompts is asked
OTHERS = "#8C5B5C"  # behaviours that an edit is not about
PREDICTED = "#857D40"  # what the importance scores lead one to expect
PLAIN, NORM_AWARE = "#8C5B5C", "#029EBF"  # the two couplings
SEPARATED = "#81669F"  # how well a direction tells prompts apart
RUN_A, RUN_B = "#029EBF", "#BF2E5A"
PALETTES: Mapping[str, tuple[str, ...]] = {
    "component": (FFN, ATTENTION, SKIP),
    "condition": (ORIGINAL, PERTURBED),
    "side": (TARGET, CONTROL, OTHER),
    "arm": (RANKED, RANDOM, HELDOUT),
    "run": (RUN_A, RUN_B),
    "outcome": (SWITCHED, STILL_RIGHT, BROKEN, RANDOM),
    "regime": (BROKEN, SWITCHED, MUTED, MIXED),
    "answer": (AS_IT_IS, RANKED, RANDOM),
    "behaviour": (RANKED, OTHERS, RANDOM),
    "prediction": (RANKED, HELDOUT, RANDOM, PREDICTED),
    "coupling": (FFN, PLAIN, NORM_AWARE),
}

CONFIDENCE = 0.95
HEIGHT = 350

CONDITION_NAMES = {"original": "Original prompt", "perturbed": "Perturbed prompt"}
COMPONENT_NAMES = {"ffn": "FFN", "attention": "Attention", "skip": "Skip path"}
RANKING_COLUMN = {"shared": "importance_mean", "magnitude": "importance_rms", "ablation": "ablation_score"}
RANKING_TITLE = {
    "shared": "Mean importance I (logits)",
    "magnitude": "RMS importance I (logits)",
    "ablation": "Ablation score (logits)",
}


@dataclass(frozen=True)
class Figure:
    """A chart and the words that belong to it."""

    chart: alt.Chart | alt.LayerChart
    title: str  # what to see: one sentence, computed from the rows
    reading: str  # how to read it: n, intervals, controls, what the marks are
    omits: str  # what it does not show: one sentence
    description: str  # what is drawn and what to see, for screen readers

    @property
    def caption(self) -> str:
        """What stands below the chart: how to read it, and what it does not show."""
        return f"{self.reading} {self.omits}".strip()


def neuron_name(layer: int, neuron: int) -> str:
    """`L12.N3405`: how a neuron is written everywhere."""
    return f"L{int(layer)}.N{int(neuron)}"


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A number as people read it: fixed digits, a real minus sign, an en dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    if 0.0005 <= abs(value) < 10**-digits / 2:
        digits = 3  # 0.003 reads better than 2.7e-03
    if abs(value) >= 10_000 or 0 < abs(value) < 10**-digits / 2:
        text = f"{value:{'+' if signed else ''}.1e}"
    else:
        text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text.replace("-", "−")


def over_pairs(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of `value` over pairs within each group of `by`, with a Student-t interval: mean, low, high, n.

    The interval (95 %) is about the mean, not about single pairs. It is missing where fewer than two values are.
    """
    (rows,) = _each_over_pairs(frame, by, [value])
    return rows


def _each_over_pairs(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> list[pd.DataFrame]:
    """`over_pairs` of several columns, for which the groups are found once."""
    groups = frame.groupby(list(by), sort=True, observed=True)
    return [_with_interval(groups[value].agg(["mean", "std", "count"])) for value in values]


def _with_interval(groups: pd.DataFrame) -> pd.DataFrame:
    out = groups[groups["count"] > 0].reset_index().rename(columns={"count": "n"})
    n = out["n"].to_numpy(dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = stats.t.ppf(0.5 + CONFIDENCE / 2, np.maximum(n - 1, 1)) * out["std"].to_numpy(dtype=float) / np.sqrt(n)
    half = np.where(n >= 2, half, np.nan)
    out["low"], out["high"] = out["mean"] - half, out["mean"] + half
    return out.drop(columns="std")


# ------------------------------------------------------------------------------------------------ layer by layer


def layer_signals(layers: pd.DataFrame) -> Figure:
    """What FFN, attention and the skip path contribute to the logit difference at each layer, in both passes."""
    rows = _layer_means(layers, COMPONENT_NAMES)
    n = _n_pairs(layers)
    colour = colour_by("component", COMPONENT_NAMES.values(), PALETTES["component"])
    base = alt.Chart(rows).encode(x=_layer_axis(layers), color=colour)
    dash = dash_by("condition", list(CONDITION_NAMES.values()), ([1, 0], [5, 3]))
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), detail=alt.Detail("condition:N"))
    tooltip = [
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("component:N", title="Part"),
        alt.Tooltip("condition:N", title="Pass"),
        *_interval_tooltip("logits"),
    ]
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title="Contribution to the logit difference"), strokeDash=dash, tooltip=tooltip
    )
    points = base.mark_circle(size=28, opacity=1).encode(y=alt.Y("mean:Q"), tooltip=tooltip)
    title = "What FFN, attention and skip path hold at each layer"
    last = rows[rows["layer"] == n_layers(layers) - 1].set_index(["component", "condition"])["mean"].to_dict()
    values = [last.get((part, name)) for part in ("Skip path", "FFN") for name in CONDITION_NAMES.values()]
    if None not in values:
        skip, ffn = [number(v, signed=True) for v in values[:2]], [number(v, signed=True) for v in values[2:]]
        title = (
            f"Entering the last layer the decision stands at {skip[0]} (original) and {skip[1]} (perturbed); "
            f"its FFN adds {ffn[0]} and {ffn[1]}"
        )
    return as_figure(
        alt.layer(zero_line(), band, line, points),
        title,
        f"Mean over {n} pairs with 95 % interval; positive pushes towards the target tokens. The skip "
        "path is everything earlier layers wrote.",
        f"Lines over {n_layers(layers)} layers for FFN, attention and skip path, original and perturbed pass.",
        omits="Does not show what a layer changes through later layers: contributions are direct ones.",
    )


def layer_change(layers: pd.DataFrame) -> Figure:
    """Perturbed minus original contribution of attention and FFN at each layer: where the change is written."""
    rows = _change_rows(layers)
    n = _n_pairs(layers)
    names = [COMPONENT_NAMES["ffn"], COMPONENT_NAMES["attention"]]
    base = alt.Chart(rows).encode(
        x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        xOffset=alt.XOffset("component:N", scale=alt.Scale(domain=names)),
    )
    bars = base.mark_bar().encode(
        y=alt.Y("mean:Q", title="Change, perturbed − original (logits)"),
        color=colour_by("component", names, (FFN, ATTENTION)),
        tooltip=[
            alt.Tooltip("layer:O", title="Layer"),
            alt.Tooltip("component:N", title="Part"),
            *_interval_tooltip("logits"),
        ],
    )
    whisker = base.mark_rule(strokeWidth=1.2, color=MUTED).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    title = "No change between the two prompts was recorded"
    if not rows.empty:
        mass = rows.assign(size=rows["mean"].abs()).groupby("component")["size"].sum()
        share = mass.get("FFN", 0.0) / mass.sum() if mass.sum() > 0 else float("nan")
        title = "The two prompts write the same at every layer"
        if np.isfinite(share):
            top = rows.iloc[int(np.argmax(rows["mean"].abs().to_numpy()))].to_dict()
            title = (
                f"{_article(top['component'])} of layer {int(top['layer'])} changes most ("
                f"{number(top['mean'], signed=True)}); FFN layers carry {number(100 * share, 0)}\u00a0% of the written "
                "change"
            )
    return as_figure(
        alt.layer(zero_line(), bars, whisker),
        title,
        f"Mean over {n} pairs with 95 % interval. The share counts absolute mean changes, so opposite "
        "pushes do not cancel.",
        f"Bars of FFN and attention change for {n_layers(layers)} layers.",
        omits=(
            "Does not show where a change was computed: an attention layer may only move what an earlier "
            "FFN layer made."
        ),
    )


def layer_ratio(layers: pd.DataFrame, routing_below: float, opposition_above: float) -> Figure:
    """FFN/Skip ratio of every layer in both passes, attention/Skip beside it, with the two thresholds."""
    rows = _layer_means(layers, {"ffn_skip": "FFN / skip", "attention_skip": "Attention / skip"})
    n = _n_pairs(layers)
    last = int(layers["layer"].max()) if len(layers) else 0
    at_last = rows[(rows["layer"] == last) & (rows["component"] == "FFN / skip")]
    top = max(1.2 * opposition_above, 1.15 * float(np.nanmax([*at_last["high"], *at_last["mean"], 0.0])), 1.0)
    rows["off_scale"] = rows["mean"] > top
    rows["shown"] = rows["mean"].clip(upper=top)
    rows["low"], rows["high"] = rows["low"].clip(lower=0, upper=top), rows["high"].clip(upper=top)

    scale = alt.Scale(domain=[0, top], nice=False)
    colour = colour_by("condition", CONDITION_NAMES.values(), PALETTES["condition"])
    base = alt.Chart(rows).encode(x=_layer_axis(layers, room=0.24), color=colour)
    dash = dash_by("component", ["FFN / skip", "Attention / skip"], ([1, 0], [2, 4]))
    band = (
        base.transform_filter("datum.component == 'FFN / skip'")
        .mark_area(opacity=0.16)
        .encode(y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"))
    )
    tooltip = [
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("component:N", title="Ratio"),
        alt.Tooltip("condition:N", title="Pass"),
        *_interval_tooltip(""),
    ]
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("shown:Q", title="Share of the skip path's signal", scale=scale), strokeDash=dash, tooltip=tooltip
    )
    points = base.mark_point(filled=True, opacity=1).encode(
        y=alt.Y("shown:Q", scale=scale),
        shape=alt.ShapeValue("circle", condition={"test": "datum.off_scale", "value": "triangle-up"}),
        size=alt.SizeValue(28, condition={"test": "datum.off_scale", "value": 80}),
        tooltip=tooltip,
    )
    limits = pd.DataFrame(
        {
            "y": [routing_below, opposition_above],
            "text": [f"routing < {routing_below:g}", f"opposition > {opposition_above:g}"],
            "layer": [last + 0.15, last + 0.15],
        }
    )
    rule = alt.Chart(limits).mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=alt.Y("y:Q", scale=scale))
    labels = [
        alt.Chart(limits.iloc[[i]])
        .mark_text(align="left", dy=offset, color=MUTED, fontSize=11)
        .encode(x=alt.X("layer:Q"), y=alt.Y("y:Q", scale=scale), text=alt.Text("text:N"))
        for i, offset in ((0, 8), (1, -7))
    ]
    title = "The FFN/Skip ratio is undefined at the last layer: the skip path carries next to no signal there"
    if len(at_last):
        values = {row.condition: row.mean_value for row in at_last.rename(columns={"mean": "mean_value"}).itertuples()}
        where = float(np.nanmean(list(values.values())))
        reading = (
            "above the opposition line"
            if where > opposition_above
            else "below the routing line"
            if where < routing_below
            else "between the two lines"
        )
        title = f"At the last layer the FFN adds {number(where)} of the skip path's signal: {reading}"
    return as_figure(
        alt.layer(rule, band, line, points, *labels),
        title,
        f"Mean over {n} pairs, band = 95 % interval of FFN/Skip; a triangle is a value above the axis. "
        "Only the last layer enters the verdict. The lines are empirical limits of the paper; small "
        "skip signals inflate the ratio.",
        f"FFN over skip ratio by layer for {n_layers(layers)} layers and both passes.",
        omits="Does not show a cause: a high ratio alone does not prove that these neurons decide.",
    )


def trajectory(layers: pd.DataFrame, target_meaning: str = "target", control_meaning: str = "control") -> Figure:
    """Logit lens: the logit difference read off after attention and after FFN of every layer, both passes."""
    rows = _layer_means(layers, {"lens_after_attention": "attention", "lens_after_ffn": "FFN"}, "after")
    rows["step"] = rows["layer"] + np.where(rows["after"] == "FFN", 0.5, 0.0)
    n = _n_pairs(layers)
    count = n_layers(layers)
    x = alt.X(
        "step:Q",
        title="Layer (attention on the tick, FFN half a step later)",
        scale=alt.Scale(domain=[-0.25, max(count - 0.25, 0.75)], nice=False),
        axis=layer_tick_axis(count),
    )
    colour = colour_by("condition", CONDITION_NAMES.values(), PALETTES["condition"])
    base = alt.Chart(rows).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2.4).encode(y=alt.Y("mean:Q", title="Logit difference read off"))
    points = base.mark_point(filled=True, size=34, opacity=1).encode(
        y=alt.Y("mean:Q"),
        shape=alt.Shape(
            "after:N",
            legend=neutral_legend(),
            scale=alt.Scale(domain=["attention", "FFN"], range=["circle", "square"]),
        ),
        tooltip=[
            alt.Tooltip("layer:Q", title="Layer"),
            alt.Tooltip("after:N", title="Read after"),
            alt.Tooltip("condition:N", title="Pass"),
            *_interval_tooltip("logits"),
        ],
    )
    return as_figure(
        alt.layer(zero_line(), band, line, points),
        _trajectory_title(rows),
        f"Above zero the model leans towards {target_meaning}, below towards {control_meaning}. Mean "
        f"over {n} pairs with 95 % interval, read through the final norm and head at every step (logit "
        "lens), which is rough in early layers: the head was trained for the last one.",
        f"Logit difference through {count} layers, original against perturbed prompt.",
        omits=(
            "Does not show which neurons do it, nor what later layers would still undo: every step is "
            "read as if the network ended there."
        ),
    )


def compare_layers(layers_a: pd.DataFrame, layers_b: pd.DataFrame, name_a: str, name_b: str, quantity: str) -> Figure:
    """One quantity of two runs over relative depth, so that models of different depth can be laid over each other.

    `quantity` is a column of the layers frame: ffn, attention, skip, ffn_skip, lens_after_ffn.
    """
    titles = {
        "ffn": "FFN contribution (logits)",
        "attention": "Attention contribution (logits)",
        "skip": "Skip path (logits)",
        "ffn_skip": "FFN/Skip ratio",
        "lens_after_ffn": "Logit difference after the layer",
    }
    names = [f"A: {name_a}", f"B: {name_b}"]
    parts = []
    for name, layers in zip(names, (layers_a, layers_b), strict=True):
        rows = over_pairs(layers, ["condition", "layer"], quantity)
        depth = max(n_layers(layers) - 1, 1)
        parts.append(rows.assign(run=name, depth=rows["layer"] / depth))
    rows = _named_conditions(pd.concat(parts, ignore_index=True))
    base = alt.Chart(rows).encode(
        x=alt.X("depth:Q", title="Depth of the layer (0 % first, 100 % last)", axis=alt.Axis(format="%", grid=False)),
        color=alt.Color(
            "run:N",
            scale=alt.Scale(domain=names, range=list(PALETTES["run"])),
            legend=colour_legend(names, label_limit=460),
        ),
    )
    band = base.mark_area(opacity=0.13).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), detail=alt.Detail("condition:N"))
    tooltip = [
        alt.Tooltip("run:N", title="Run"),
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("condition:N", title="Pass"),
        *_interval_tooltip(""),
    ]
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", title=titles[quantity]),
        strokeDash=dash_by("condition", list(CONDITION_NAMES.values()), ([1, 0], [5, 3])),
        tooltip=tooltip,
    )
    points = base.mark_circle(size=26, opacity=1).encode(y=alt.Y("mean:Q"), tooltip=tooltip)
    return as_figure(
        alt.layer(zero_line(), band, line, points),
        _compared_title(rows, titles[quantity].split(" (")[0], names),
        f"Means over {_n_pairs(layers_a)} (A) and {_n_pairs(layers_b)} (B) pairs with 95 % intervals. "
        "Compare shapes over the layers, and heights only for the same model and circuit.",
        f"{titles[quantity]} by relative depth for two runs.",
        omits="Does not show which of two different models or circuits does more: their logits are not on one scale.",
    )


# ------------------------------------------------------------------------------------------------------ pairs


def predicted_change(
    pairs: pd.DataFrame, correlation: float | None = None, null_correlation: float | None = None
) -> Figure:
    """Measured change of the logit difference of each pair against the sum of all neurons' importance."""
    rows = pairs.assign(measured=pairs["logit_diff_perturbed"] - pairs["logit_diff_original"]).dropna(
        subset=["measured", "predicted_delta"]
    )
    values = rows[["measured", "predicted_delta"]].to_numpy()
    low, high = (float(values.min()), float(values.max())) if len(rows) else (-1.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    pad = 0.05 * (high - low)
    scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
    identity = (
        alt.Chart(pd.DataFrame({"x": [low - pad, high + pad]}))
        .mark_line(strokeDash=[4, 4], color=MUTED)
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("x:Q", scale=scale))
    )
    splits = {"discovery": "Discovery", "validation": "Validation", "heldout": "Held out"}
    rows = rows.assign(split_name=rows["split"].map(splits).fillna(rows["split"]))
    points = (
        alt.Chart(rows[["pair_id", "split_name", "original_text", "perturbed_text", "measured", "predicted_delta"]])
        .mark_point(filled=True, size=60, opacity=0.75)
        .encode(
            x=alt.X("measured:Q", title="Measured change F(X~) − F(X) (logits)", scale=scale),
            y=alt.Y("predicted_delta:Q", title="Sum of all I (logits)", scale=scale),
            color=colour_by("split_name", splits.values(), (RANKED, OTHER, HELDOUT)),
            shape=alt.Shape("split_name:N", legend=None),
            tooltip=[
                alt.Tooltip("pair_id:N", title="Pair"),
                alt.Tooltip("original_text:N", title="Original"),
                alt.Tooltip("perturbed_text:N", title="Perturbed"),
                alt.Tooltip("measured:Q", title="Measured", format="+.2f"),
                alt.Tooltip("predicted_delta:Q", title="Predicted", format="+.2f"),
            ],
        )
    )
    title = "No pair has both numbers"
    if len(rows):
        measured, predicted = rows["measured"].mean(), rows["predicted_delta"].mean()
        title = f"Predicted {number(predicted, signed=True)}, measured {number(measured, signed=True)} logits"
        if correlation is not None and np.isfinite(correlation):
            title += f"; across pairs r = {number(correlation)}"
            if null_correlation is not None and np.isfinite(null_correlation):
                title += f" (shuffled pairs reach {number(null_correlation)})"
    return as_figure(
        alt.layer(identity, points),
        title,
        f"{len(rows)} pairs; only discovery pairs rank neurons. On the dashed line both agree; points "
        "off it are what attention and normalisation carry, or what the plain coupling misjudges.",
        "Scatter of measured against predicted change of the logit difference, one point per pair.",
        height=380,
        omits="Does not show what neurons do through later layers: the prediction follows the direct path.",
    )


def margins(pairs: pd.DataFrame) -> Figure:
    """Logit difference of both prompts of every pair, joined: how far each pair stands from flipping."""
    sides = ["logit_diff_original", "logit_diff_perturbed"]
    rows = pairs.dropna(subset=sides)
    rows = rows.sort_values(["logit_diff_original", "pair_id"], ascending=[False, True]).reset_index(drop=True)
    rows["place"] = rows.index + 1
    long = rows.melt(
        id_vars=["place", "pair_id", "original_text", "perturbed_text"],
        value_vars=sides,
        var_name="condition",
        value_name="logit_diff",
    )
    long["condition"] = long["condition"].str.removeprefix("logit_diff_")
    long = _named_conditions(long)
    x = alt.X(
        "place:Q",
        title="Pairs, by the original prompt's margin",
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
        scale=alt.Scale(domain=[0, len(rows) + 1], nice=False),
    )
    join = (
        alt.Chart(rows[["place", *sides]])
        .mark_rule(color=MUTED, opacity=0.5)
        .encode(x=x, y=alt.Y("logit_diff_original:Q"), y2=alt.Y2("logit_diff_perturbed:Q"))
    )
    points = (
        alt.Chart(long)
        .mark_circle(size=44 if len(rows) <= 80 else 18, opacity=0.95)
        .encode(
            x=x,
            y=alt.Y("logit_diff:Q", title="Logit difference F"),
            color=colour_by("condition", CONDITION_NAMES.values(), PALETTES["condition"]),
            tooltip=[
                alt.Tooltip("pair_id:N", title="Pair"),
                alt.Tooltip("condition:N", title="Pass"),
                alt.Tooltip("original_text:N", title="Original"),
                alt.Tooltip("perturbed_text:N", title="Perturbed"),
                alt.Tooltip("logit_diff:Q", title="Logit difference", format="+.2f"),
            ],
        )
    )
    flipped = int((np.sign(rows["logit_diff_original"]) != np.sign(rows["logit_diff_perturbed"])).sum())
    return as_figure(
        alt.layer(zero_line(), join, points),
        f"{flipped} of {len(rows)} pairs change sides",
        "A pair tells something when its two points lie on different sides of zero.",
        f"Logit difference of {len(rows)} pairs, original and perturbed, joined by lines.",
        height=320,
        omits="Does not show how good an answer is: the height is a margin between first tokens.",
    )


def first_tokens(tokens: pd.DataFrame) -> Figure:
    """Probabilities of the five likeliest first tokens of one pair, in both passes, coloured by side."""
    rows = _named_conditions(tokens.sort_values(["condition", "rank"]))
    rows["label"] = [visible(str(token)) for token in rows["token"]]
    rows["side"] = rows["side"].fillna("other").map({"target": "Target", "control": "Control"}).fillna("Other")
    rows["place"] = rows["rank"].astype(int)
    conditions = list(CONDITION_NAMES.values())
    base = alt.Chart(rows).encode(
        y=alt.Y("place:O", title=None, axis=alt.Axis(domain=False, ticks=False)),
        yOffset=alt.YOffset("condition:N", scale=alt.Scale(domain=conditions)),
    )
    bars = base.mark_bar().encode(
        x=alt.X(
            "probability:Q",
            title="Probability of the first token",
            axis=alt.Axis(format="%"),
            scale=alt.Scale(domain=[0, 1]),
        ),
        color=colour_by("side", ("Target", "Control", "Other"), PALETTES["side"]),
        opacity=alt.Opacity(
            "condition:N", legend=neutral_legend(), scale=alt.Scale(domain=conditions, range=[1.0, 0.55])
        ),
        tooltip=[
            alt.Tooltip("condition:N", title="Pass"),
            alt.Tooltip("label:N", title="Token"),
            alt.Tooltip("token_id:Q", title="Id"),
            alt.Tooltip("probability:Q", title="Probability", format=".1%"),
            alt.Tooltip("side:N", title="Side"),
        ],
    )
    text = base.mark_text(align="left", dx=5, color=MUTED, fontSize=11).encode(
        x=alt.X("probability:Q"), text=alt.Text("label:N")
    )
    words = []
    for condition in conditions:
        best = rows[(rows["condition"] == condition) & (rows["place"] == 1)]
        if len(best):
            words.append(f"“{best['label'].iloc[0]}” ({best['probability'].iloc[0]:.0%})")
    title = f"Likeliest first token: {', perturbed '.join(words)}" if words else "No first tokens were stored"
    return as_figure(
        alt.layer(bars, text),
        title,
        "Five likeliest first tokens of each pass; only the first token is scored.",
        "Bars of first-token probabilities for the original and the perturbed prompt.",
        height=340,
        omits="Does not show how the answer goes on: the responses do.",
    )


def carriers(additive: Mapping[str, Any]) -> Figure:
    """Exact parts of the mean change of the logit difference, with the neurons' prediction beside the FFN's part.

    `additive` is the run summary's additive check: measured_mean, predicted_mean, ffn_mean, carried_by.
    """
    rest = additive.get("carried_by") or {}
    parts = [
        ("Measured change", additive.get("measured_mean"), "total"),
        ("FFN layers", additive.get("ffn_mean"), "FFN"),
        ("Attention layers", rest.get("attention"), "Attention"),
        ("Token embedding", rest.get("embedding"), "other"),
        ("Constant terms", rest.get("constant"), "other"),
        ("Sum of all I", additive.get("predicted_mean"), "predicted"),
    ]
    rows = pd.DataFrame([part for part in parts if part[1] is not None], columns=["part", "value", "kind"])
    rows["text"] = [number(value, signed=True) for value in rows["value"]]
    base = alt.Chart(rows).encode(
        y=alt.Y("part:N", sort=[name for name, _, _ in parts], title=None, axis=alt.Axis(labelLimit=160, ticks=False)),
        tooltip=[alt.Tooltip("part:N", title="Part"), alt.Tooltip("value:Q", title="Mean (logits)", format="+.3f")],
    )
    bars = base.mark_bar().encode(
        x=alt.X("value:Q", title="Mean over pairs (logits)", scale=padded([*rows["value"], 0.0], share=0.16)),
        color=alt.Color(
            "kind:N",
            legend=None,
            scale=alt.Scale(
                domain=["total", "FFN", "Attention", "other", "predicted"],
                range=[PERTURBED, FFN, ATTENTION, SKIP, TARGET],
            ),
        ),
    )
    labels = [
        base.transform_filter(f"datum.value {sign} 0")
        .mark_text(align=align, dx=shift, color=MUTED, fontSize=11)
        .encode(x=alt.X("value:Q"), text=alt.Text("text:N"))
        for sign, align, shift in _LABEL_SIDES
    ]
    title = "The parts of the change were not stored"
    measured, ffn = additive.get("measured_mean"), additive.get("ffn_mean")
    if measured is not None and ffn is not None:
        title = f"FFN layers write {number(ffn, signed=True)} of the measured {number(measured, signed=True)} logits"
    return as_figure(
        alt.layer(
            alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=MUTED).encode(x=alt.X("zero:Q")), bars, *labels
        ),
        title,
        "FFN, attention, embedding and constant terms add up to the measured change exactly. The "
        "sum of all I stands for the FFN part; where it differs, normalisation makes the difference.",
        "Bars of the parts of the mean change of the logit difference.",
        height=380,
        omits="Does not show what a part does through later parts: contributions are direct ones.",
    )


# ----------------------------------------------------------------------------------------------------- pieces

_LABEL_SIDES: tuple[tuple[str, Literal["left", "right"], int], ...] = ((">=", "left", 5), ("<", "right", -5))


def as_figure(
    chart: Any, title: str, reading: str, description: str, height: int = HEIGHT, *, omits: str = ""
) -> Figure:
    """The chart as wide as its place, with its words; a screen reader hears what is drawn and what is to be seen."""
    described = f"{description} {title}."
    # In place: Altair's own `properties` copies every layer several times.
    chart.padding = dict.fromkeys(("left", "right", "top", "bottom"), 5)
    chart.height, chart.width, chart.description = height, "container", described
    return Figure(chart, title, re.sub(" +", " ", reading).strip(), omits, described)


def legend_columns(names: Iterable[Any]) -> alt.ExprRef:
    """How many entries of a legend stand side by side: as many as the chart is wide enough for, four at most."""
    longest = max((len(str(name)) for name in names), default=0)
    return alt.ExprRef(f"clamp(floor(width / {30 + 6.3 * longest:.0f}), 1, 4)")


def colour_legend(names: Iterable[Any], label_limit: int = 220) -> alt.Legend:
    """Colour legend above the chart: full colours, even where the marks are translucent."""
    return alt.Legend(
        title=None,
        columns=legend_columns(names),
        orient="top",
        labelLimit=label_limit,
        symbolType="circle",
        symbolOpacity=1,
        symbolStrokeWidth=0,
    )


def neutral_legend(stroke: bool = False, names: Iterable[Any] = ()) -> alt.Legend:
    """Legend below the chart for a channel that is not colour (dash, shape, opacity), in the muted colour."""
    look: dict[str, Any] = (
        {"symbolType": "stroke", "symbolStrokeColor": MUTED, "symbolStrokeWidth": 2.5}
        if stroke
        else {"symbolFillColor": MUTED, "symbolStrokeWidth": 0}
    )
    return alt.Legend(title=None, orient="bottom", columns=legend_columns(names), **look)


def dash_by(field: str, names: Sequence[str], dashes: Sequence[Sequence[int]]) -> alt.StrokeDash:
    """Dashes by name, with their legend below the chart."""
    scale = alt.Scale(domain=list(names), range=[list(dash) for dash in dashes])
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=neutral_legend(stroke=True, names=names))


def colour_by(field: str, names: Any, colours: Sequence[str]) -> alt.Color:
    """Colours by name, with their legend above the chart."""
    names = list(names)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=list(colours)), legend=colour_legend(names))


def layer_tick_axis(count: int) -> alt.Axis:
    """Ticks on layers only, at most about a dozen."""
    return alt.Axis(values=list(range(0, count, max(1, -(-count // 12)))), format="d", grid=False)


def _layer_axis(layers: pd.DataFrame, room: float = 0.0) -> alt.X:
    """The layer axis; `room` leaves that share of the width free on the right, for labels."""
    count = n_layers(layers)
    end = max(count - 0.7, 0.3)
    scale = alt.Scale(domain=[-0.3, end + room * (end + 0.3)], nice=False)
    return alt.X("layer:Q", title="Layer", scale=scale, axis=layer_tick_axis(count))


def zero_line() -> alt.Chart:
    """A muted rule at zero of the y axis."""
    return alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=MUTED, opacity=0.8).encode(y=alt.Y("zero:Q"))


def _interval_tooltip(unit: str) -> list[alt.Tooltip]:
    suffix = f" ({unit})" if unit else ""
    return [
        alt.Tooltip("mean:Q", title=f"Mean{suffix}", format="+.3f" if unit else ".3f"),
        alt.Tooltip("low:Q", title="95 % from", format="+.3f" if unit else ".3f"),
        alt.Tooltip("high:Q", title="95 % to", format="+.3f" if unit else ".3f"),
        alt.Tooltip("n:Q", title="Pairs"),
    ]


def _layer_means(layers: pd.DataFrame, names: Mapping[str, str], called: str = "component") -> pd.DataFrame:
    """Mean and interval of some columns at every layer, in both passes; the column's name stands in `called`."""
    parts = _each_over_pairs(layers, ["condition", "layer"], list(names))
    named = [part.assign(**{called: name}) for part, name in zip(parts, names.values(), strict=True)]
    return _named_conditions(pd.concat(named, ignore_index=True))


def _named_conditions(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(condition=rows["condition"].map(CONDITION_NAMES).fillna(rows["condition"]))


def padded(values: Sequence[float], share: float = 0.06) -> alt.Scale:
    """A scale that holds all values with that share of their range free at both ends."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = share * (high - low) or 0.5
    return alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)


def _n_pairs(layers: pd.DataFrame) -> int:
    return int(layers["pair_id"].nunique())


def n_layers(frame: pd.DataFrame) -> int:
    """How many layers the rows are about, counted from their largest layer number."""
    return int(frame["layer"].max()) + 1 if len(frame) else 1


def _article(component: str) -> str:
    return "The FFN" if component == "FFN" else component


def _change_rows(layers: pd.DataFrame) -> pd.DataFrame:
    """Mean change (perturbed minus original) of FFN and attention contribution per layer, over pairs that have both."""
    wide = layers.pivot_table(
        index=["pair_id", "layer"], columns="condition", values=["ffn", "attention"], observed=True
    )
    parts = []
    for part in ("ffn", "attention"):
        if (part, "original") in wide and (part, "perturbed") in wide:
            change = (wide[(part, "perturbed")] - wide[(part, "original")]).rename("change").reset_index()
            parts.append(over_pairs(change, ["layer"], "change").assign(component=COMPONENT_NAMES[part]))
    if not parts:
        return pd.DataFrame(columns=["layer", "mean", "n", "low", "high", "component"])
    return pd.concat(parts, ignore_index=True)


def _compared_title(rows: pd.DataFrame, what: str, names: Sequence[str]) -> str:
    """At which depth of each run the two prompts differ most."""
    wide = rows.pivot_table(index=["run", "depth"], columns="condition", values="mean")
    original, perturbed = CONDITION_NAMES.values()
    if original not in wide or perturbed not in wide:
        return f"{what} by depth, A over B"
    gap = (wide[perturbed] - wide[original]).abs()
    places = [
        f"{number(100 * gap[name].idxmax(), 0)}\u00a0% of the depth in {letter}"
        for name, letter in zip(names, "AB", strict=True)
        if name in gap.index and gap[name].notna().any()
    ]
    return f"{what}: the two prompts differ most at {' and '.join(places)}" if places else f"{what} by depth, A over B"


def _trajectory_title(rows: pd.DataFrame) -> str:
    """Names the first step from which the two passes' intervals stay apart to the end."""
    wide = rows.pivot_table(index=["step", "layer", "after"], columns="condition", values=["mean", "low", "high"])
    names = list(CONDITION_NAMES.values())
    if any(("mean", name) not in wide for name in names) or wide.empty:
        return "Only one of the two passes was recorded"
    gap = wide[("mean", names[1])] - wide[("mean", names[0])]
    last = [number(float(wide[("mean", name)].iloc[-1]), signed=True) for name in names]
    ends = f"{last[0]} against {last[1]} logits"
    if any(("low", name) not in wide for name in names):
        return f"The two prompts end at {ends}"
    apart = (wide[("low", names[0])] > wide[("high", names[1])]) | (wide[("low", names[1])] > wide[("high", names[0])])
    apart &= np.sign(gap) == np.sign(gap.iloc[-1])
    if not apart.iloc[-1]:
        return f"The two prompts do not come apart clearly: they end at {ends}"
    first = len(apart) - int(apart[::-1].cumprod().sum())
    _, layer, after = wide.index[first]
    part = "the FFN" if after == "FFN" else "attention"
    return f"The two prompts part for good after {part} of layer {int(layer)} and end at {ends}"


def visible(token: str) -> str:
    """A token as it can be read: spaces and line breaks made visible."""
    return token.replace(" ", "␣").replace("\n", "⏎") or "∅"
