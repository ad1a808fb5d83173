"""Charts of one sweep over doses, factors and strengths: stored rows in, a `charts.Figure` out. One function per chart.

`points` are the store's points of a sweep: one row per planned point, arm and split. Effects stand beside their random
controls; what broke is counted, not drawn as a number. Charts of the answers are in `response_charts`, charts over
layers in `window_charts`.
"""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core.charts import (
    ATTENTION,
    FFN,
    HEIGHT,
    HELDOUT,
    MUTED,
    OTHERS,
    PREDICTED,
    RANDOM,
    RANKED,
    Figure,
    as_figure,
    colour_by,
    number,
    zero_line,
)
from pprobe_core.sweep_rows import (
    AXIS_TITLES,
    SENSITIVITY,
    SHARE_TICKS,
    SPLIT_NAMES,
    SPLITS,
    UNCHANGED,
    ArmWords,
    Axis,
    arm_words,
    axis_title,
    baseline_rows,
    broken_words,
    chosen_row,
    circuit_words,
    collateral_rows,
    count_words,
    curve_rows,
    dose_place,
    draw_words,
    effect_title,
    logits,
    main_row,
    missing_words,
    n_words,
    nats,
    percent,
    point_rows,
    random_words,
    range_words,
    shown_split,
    with_start,
)

ARM_COLOURS = (RANKED, HELDOUT, RANDOM)  # of ranked on discovery, ranked on held-out prompts, random draws

# ------------------------------------------------------------------------------------------------------ the doses


def dose_curve(
    points: pd.DataFrame,
    baseline: Any,
    axis: Axis,
    highlight: float | None = None,
    n_total: int | None = None,
) -> Figure:
    """Mean logit difference over the dose: ranked on discovery and held-out prompts, beside the random draws' range.

    `baseline` is the sweep's own (rows of split, logit_diff_mean, low, high, n_prompts), `n_total` how many neurons (or
    heads) there are in all.
    """
    rows = point_rows(points)
    words = arm_words(rows)
    unedited = baseline_rows(baseline)
    drawn = curve_rows(rows, axis, "logit_diff_mean", "low", "high", words)
    known = unedited.dropna(subset=["logit_diff_mean"]).set_index("split")
    starts = {str(split): tuple(known.loc[split, ["logit_diff_mean", "low", "high"]]) for split in known.index}
    drawn = with_start(drawn, axis, starts)
    x = dose_axis(axis, rows[axis], axis_title(rows, axis))
    y = alt.Y("mean:Q", title="Mean logit difference F")
    marks = [zero_line(), *unedited_rules(unedited, "logit_diff_mean", words), *highlight_rule(highlight, x)]
    marks += arm_marks(drawn, words, x, y, "logits")
    marks += _broken_marks(rows, axis, x)
    return as_figure(
        alt.layer(*marks),
        effect_title(rows, axis, highlight, n_total),
        f"{n_words(rows)} Bands around the lines: 95 % interval over prompts; grey: smallest to largest "
        f"of {draw_words(rows)}; dashed: unedited. {missing_words(rows)}Only discovery prompts rank "
        "and select.",
        f"Mean logit difference by {AXIS_TITLES[axis].lower()}, ranked arm against random draws, {len(drawn)} points.",
        omits="Does not show what the answers do: the first token's logits are measured here.",
    )


def threshold_curve(points: pd.DataFrame, n_total: int) -> Figure:
    """Change of the logit difference over the share of all neurons: how much the result hangs on the threshold.

    The range from 0.005 % to 0.1 % is shaded. Points without neurons are left out.
    """
    rows = point_rows(points)
    rows = rows[rows["n_neurons"] > 0].assign(share=lambda r: r["n_neurons"] / max(n_total, 1))
    words = arm_words(rows)
    drawn = curve_rows(rows, "share", "delta_mean", "delta_low", "delta_high", words)
    shares = rows["share"].dropna()
    low = min([SENSITIVITY[0], *shares]) * 0.8
    high = max([SENSITIVITY[1], *shares]) * 1.25
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    x = alt.X(
        "x:Q",
        title=f"Share of all {n_total:,} neurons switched off",
        scale=scale,
        axis=alt.Axis(
            values=[t for t in SHARE_TICKS if low <= t <= high],
            labelExpr="format(datum.value * 100, '~r') + ' %'",
            labelOverlap="greedy",
            grid=False,
        ),
    )
    y = alt.Y("mean:Q", title="Change of F (logits)")
    span = pd.DataFrame({"from": [SENSITIVITY[0]], "to": [SENSITIVITY[1]]})
    shade = (
        alt.Chart(span).mark_rect(color=MUTED, opacity=0.13).encode(x=alt.X("from:Q", scale=scale), x2=alt.X2("to:Q"))
    )
    inside = rows[(rows["arm"] == "ranked") & rows["share"].between(*SENSITIVITY) & rows["delta_mean"].notna()]
    split = shown_split(inside)
    inside = inside[inside["split"] == split].sort_values("share")
    title = "No dose lies between 0.005\u00a0% and 0.1\u00a0% of the neurons"
    if len(inside):
        first, last = inside.iloc[0], inside.iloc[-1]
        counts = f"{int(first['n_neurons']):,} to {int(last['n_neurons']):,}"
        title = (
            f"Between {percent(first['share'])} and {percent(last['share'])} of the neurons ({counts}) the change of F "
            f"goes from {logits(first['delta_mean'])} to {logits(last['delta_mean'])} logits on "
            f"{SPLIT_NAMES[split]} prompts"
        )
        title += f"; {random_words(rows, last, 'n_neurons')}"
        if len(inside) == 1:
            title = (
                f"One dose lies between 0.005\u00a0% and 0.1\u00a0% of the neurons: "
                f"{count_words(first['n_neurons'], 'neuron')}, moving F by {logits(first['delta_mean'])} logits on "
                f"{SPLIT_NAMES[split]} prompts; {random_words(rows, first, 'n_neurons')}"
            )
    return as_figure(
        alt.layer(shade, zero_line(), *arm_marks(drawn, words, x, y, "logits")),
        title,
        f"{n_words(rows)} Shaded: 0.005 % to 0.1 % of all neurons. Bands: 95 % interval over prompts; "
        f"grey: smallest to largest of {draw_words(rows)}. {missing_words(rows)}A result that holds "
        "only at one threshold is weak.",
        f"Change of the logit difference by share of all {n_total:,} neurons.",
        omits="Does not show shares below one neuron, which in a small model is a large share already.",
    )


def patch_by_count(points: pd.DataFrame, predicted: pd.DataFrame | None = None) -> Figure:
    """Change of F when the first n neurons take their values from the pairs' other prompt, beside random neurons.

    `predicted` (n_neurons, predicted in logits) is the sum of the importance of the same neurons, where it is known.
    """
    rows = point_rows(points)
    rows = rows[rows["n_neurons"].notna()]
    words = arm_words(rows)
    drawn = curve_rows(rows, "n_neurons", "delta_mean", "delta_low", "delta_high", words)
    drawn = with_start(drawn, "n_neurons", dict.fromkeys(SPLITS, (0.0, 0.0, 0.0)))
    x = dose_axis("n_neurons", rows["n_neurons"], "Neurons with the other prompt's values")
    y = alt.Y("mean:Q", title="Change of F (logits)")
    marks = [zero_line(), *arm_marks(drawn, words, x, y, "logits")]
    expected = pd.DataFrame(columns=["n_neurons", "predicted"]) if predicted is None else predicted
    expected = (
        expected.rename(columns={"n_neurons": "x", "predicted": "mean"})[["x", "mean"]].astype("float64").dropna()
    )
    text = "The prediction from the importance scores is not shown. "
    title = effect_title(rows, "n_neurons")
    if len(expected):
        line = alt.Chart(expected).encode(
            x=x, y=y, tooltip=[x_tooltip("n_neurons"), number_tooltip("mean", "Predicted")]
        )
        marks.append(line.mark_line(color=PREDICTED, strokeDash=[6, 3], strokeWidth=2))
        marks.append(line.mark_point(color=PREDICTED, shape="diamond", filled=True, size=46))
        text = "Dashes with diamonds: sum of the neurons' mean importance I, predicted along the direct path. "
        row = main_row(rows, "n_neurons")
        at = expected[np.isclose(expected["x"], row["n_neurons"])] if row is not None else expected.iloc[:0]
        if row is not None and len(at):
            title += f"; predicted {logits(at['mean'].iloc[0])}"
    return as_figure(
        alt.layer(*marks),
        title,
        f"{n_words(rows)} {text}Bands: 95 % interval over prompts; grey: smallest to largest of "
        f"{draw_words(rows)}. {missing_words(rows)}",
        "Change of the logit difference by number of patched neurons, ranked against random, with the prediction.",
        omits="Does not show exchanges at other positions: values are exchanged where the answer starts.",
    )


def heads_against_neurons(head_points: pd.DataFrame, neuron_points: pd.DataFrame, split: str = "heldout") -> Figure:
    """Change of F by number of units switched off: attention heads against neurons, each beside its random range."""
    names = ["Neurons", "Attention heads"]
    tables = [point_rows(points) for points in (neuron_points, head_points)]
    parts = []
    for name, rows in zip(names, tables, strict=True):
        here = rows[(rows["split"] == split) & rows["n_neurons"].notna()]
        drawn = curve_rows(here, "n_neurons", "delta_mean", "delta_low", "delta_high", arm_words(here))
        parts.append(with_start(drawn, "n_neurons", {split: (0.0, 0.0, 0.0)}).assign(unit=name))
    drawn = pd.concat(parts, ignore_index=True)
    both = pd.concat(tables, ignore_index=True)
    x = dose_axis("n_neurons", both["n_neurons"], "Units switched off")
    y = alt.Y("mean:Q", title="Change of F (logits)")
    base = alt.Chart(drawn).encode(x=x, color=colour_by("unit", names, (FFN, ATTENTION)))
    random = base.transform_filter("datum.arm == 'random'")
    ranked = base.transform_filter("datum.arm == 'ranked'")
    tooltip = [alt.Tooltip("unit:N", title="Unit"), x_tooltip("n_neurons"), *interval_tooltip("logits")]
    of_draws = [*tooltip[:2], *draw_tooltip("logits")]
    marks = [
        zero_line(),
        random.mark_area(opacity=0.2).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        random.mark_line(strokeWidth=1.2, strokeDash=[4, 3]).encode(y=y, tooltip=of_draws),
        ranked.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        ranked.mark_line(strokeWidth=2.2).encode(y=y, tooltip=tooltip),
        ranked.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    found = {}
    for name, rows in zip(names, tables, strict=True):
        found[name] = main_row(rows[rows["split"] == split], "n_neurons")
    neurons, heads = found["Neurons"], found["Attention heads"]
    title = "Heads and neurons were not both measured on these prompts"
    if neurons is not None and heads is not None:
        title = (
            f"Switching off {count_words(heads['n_neurons'], 'head')} moves F by {logits(heads['delta_mean'])} logits, "
            f"{count_words(neurons['n_neurons'], 'neuron')} by {logits(neurons['delta_mean'])} "
            f"({SPLIT_NAMES[split]} prompts)"
        )
    return as_figure(
        alt.layer(*marks),
        title,
        f"{n_words(both[both['split'] == split])} Lines: units ranked by the same two passes, with "
        "95 % interval over prompts; dashed: mean of the random draws of the same unit, with their "
        "smallest to largest.",
        "Change of the logit difference by number of attention heads and of neurons switched off.",
        omits="Does not show equal shares of the model: one head writes more than one neuron.",
    )


# --------------------------------------------------------------------------------------------------- side effects


def collateral(
    rows: pd.DataFrame,
    group: str,
    points: pd.DataFrame | None = None,
    circuit: str | None = None,
    split: str = "heldout",
) -> Figure:
    """What one point's edit does to the other circuits' logit differences, beside the edited circuit's own change.

    `rows` are the sweep's collateral rows, `group` names the point (without its split). `points` and `circuit` give the
    edited circuit's own change on `split`, or on discovery prompts where there is none. Neutral text has another unit
    and is told in words; `collateral_text` draws it.
    """
    table = collateral_rows(rows)
    here = table[(table["group"] == group) & (table["about"] == "circuit")].assign(own=False)
    own = _own_change(points, group, circuit, split)
    here = here.assign(size=here["delta_mean"].abs()).sort_values(["size", "name"], ascending=[False, True])
    here["label"] = here["name"].map(circuit_words)
    drawn = pd.concat([own, here], ignore_index=True) if len(own) else here.reset_index(drop=True)
    drawn["kind"] = np.where(drawn["own"].astype(bool), "Edited", "Others")
    shown = drawn.dropna(subset=["delta_mean"])
    order = list(drawn["label"])
    domain = ["Edited", "Others", "Random"]
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(labelLimit=200, ticks=False, grid=False))
    x = alt.X("delta_mean:Q", title="Change of F (logits)", scale=alt.Scale(padding=12))
    base = alt.Chart(shown).encode(y=y)
    colour = colour_by("kind", domain, (RANKED, OTHERS, RANDOM))
    tooltip = [
        alt.Tooltip("label:N", title="Circuit"),
        number_tooltip("baseline_mean", "Unedited F"),
        number_tooltip("delta_mean", "Change of F"),
        number_tooltip("low", "95 % from"),
        number_tooltip("high", "95 % to"),
        number_tooltip("random_low", "Random from"),
        number_tooltip("random_high", "Random to"),
        alt.Tooltip("n:Q", title="Prompts"),
    ]
    ranges = (
        alt.Chart(drawn.dropna(subset=["random_low"]).assign(kind="Random"))
        .mark_bar(height=16, opacity=0.4)
        .encode(y=y, x=alt.X("random_low:Q"), x2=alt.X2("random_high:Q"), color=colour)
    )
    marks = [
        alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=MUTED).encode(x=alt.X("zero:Q")),
        ranges,
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=colour),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, color=colour, tooltip=tooltip),
    ]
    broken = drawn[drawn["delta_mean"].isna()].assign(zero=0.0, text="× broken")
    if len(broken):
        marks.append(alt.Chart(broken).mark_text(color=MUTED).encode(y=y, x=alt.X("zero:Q"), text=alt.Text("text:N")))
    return as_figure(
        alt.layer(*marks),
        _collateral_sentence(own, here),
        f"Means over {range_words(drawn['n'])} prompts with 95 % interval; grey: smallest to largest "
        f"of the random draws' means. {_text_words(table, group)}The same edit on prompts it is not "
        "about: compare each with its own grey range.",
        f"Change of the logit difference of {len(drawn)} circuits under one edit.",
        height=max(120, 40 * len(drawn) + 30),
        omits="Does not show which behaviour suffers most: logits of different circuits are not on one scale.",
    )


def collateral_text(rows: pd.DataFrame, axis: Axis, highlight: float | None = None) -> Figure:
    """Change of the loss of neutral text over the doses, beside the random draws' range. Nats per token."""
    table = collateral_rows(rows)
    table = table[(table["about"] == "text") & table[axis].notna()].sort_values(axis)
    shown = table.dropna(subset=["delta_mean"]).rename(columns={"delta_mean": "mean"}).assign(x=lambda r: r[axis])
    shown["series"], shown["band"] = "Edited", "Random draws"
    names = ["Edited", "Random draws"]
    x = dose_axis(axis, table[axis], AXIS_TITLES[axis])
    colour = colour_by("series", names, (RANKED, RANDOM))
    base = alt.Chart(shown).encode(x=x, color=colour)
    banded = shown.dropna(subset=["random_low"]).assign(series="Random draws", low=lambda r: r["random_low"])
    banded = banded.assign(high=banded["random_high"])
    y = alt.Y("mean:Q", title="Change of the loss (nats per token)")
    tooltip = [
        x_tooltip(axis),
        *interval_tooltip("nats per token", "Texts"),
        number_tooltip("random_low", "Random from"),
        number_tooltip("random_high", "Random to"),
    ]
    marks = [
        zero_line(),
        *highlight_rule(highlight, x),
        spread(alt.Chart(banded).encode(x=x, color=colour), banded, 0.34),
        spread(base, shown, 0.15),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    title = "The loss of neutral text was not measured"
    if len(table):
        title = "The model breaks on neutral text at every dose"
    if len(shown):
        row = chosen_row(shown, axis, highlight)
        title = (
            f"Neutral text: the loss changes by {nats(row['mean'])} nats per token {dose_place(axis, row[axis], row)}"
        )
        if np.isfinite(row["random_low"]):
            title += f"; random {nats(row['random_low'])} to {nats(row['random_high'])}"
    base_loss = number(shown["baseline_mean"].iloc[0], 3) if len(shown) else "–"
    return as_figure(
        alt.layer(*marks),
        title,
        f"n = {range_words(table['n'])} neutral texts, unedited loss {base_loss} nats per token. Band: "
        "95 % interval over texts; grey: smallest to largest of the random draws. The edit acts at "
        f"every position of a text, which is more than at the decision position of a "
        f"prompt.{broken_words(int(table['delta_mean'].isna().sum()))}",
        f"Change of the loss of neutral text by {AXIS_TITLES[axis].lower()}.",
        height=260,
        omits="Does not show what the model would write: it is the loss of given texts.",
    )


# ----------------------------------------------------------------------------------------------------- the pieces


def dose_axis(axis: str, values: pd.Series, title: str) -> alt.X:
    """The x axis: numbers of neurons on a scale that keeps 0 and spreads the small ones, others as they are."""
    there = sorted({UNCHANGED[axis], *(float(v) for v in values.dropna())})
    if axis == "n_neurons":
        scale = alt.Scale(type="symlog", constant=1, domain=[0, max([1.0, *there])], nice=False, padding=6)
        ticks_axis = alt.Axis(
            values=there, format=",d", labelOverlap="greedy", labelSeparation=6, grid=False, labelAngle=0
        )
        return alt.X("x:Q", title=title, scale=scale, axis=ticks_axis)
    low, high = there[0], there[-1]
    pad = 0.03 * (high - low) or 0.5
    scale = alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False)
    return alt.X(
        "x:Q", title=title, scale=scale, axis=alt.Axis(values=there, format="~g", grid=False, labelOverlap="greedy")
    )


def arm_marks(drawn: pd.DataFrame, words: ArmWords, x: alt.X, y: alt.Y, unit: str) -> list[alt.Chart]:
    """Random range, intervals, lines and points of the arms, in the colours of the palette `arm`."""
    colour = colour_by("series", words.series, ARM_COLOURS)
    ranked, random = drawn[drawn["arm"] == "ranked"], drawn[drawn["arm"] == "random"]
    p_value = [alt.Tooltip("p:Q", title="p (McNemar, Holm)", format=".2g")] if unit == "share" else []
    lines = alt.Chart(ranked).encode(x=x, color=colour)
    bands = alt.Chart(random).encode(x=x, color=colour, detail=alt.Detail("split:N"))
    axis_tooltip = alt.Tooltip("x:Q", title="At", format=",.4~g")
    tooltip = [alt.Tooltip("series:N", title="Arm"), axis_tooltip, *interval_tooltip(unit, "n"), *p_value]
    of_draws = [alt.Tooltip("series:N", title="Arm"), axis_tooltip, *draw_tooltip(unit)]
    return [
        spread(bands, random, 0.3, tooltip=of_draws),
        bands.mark_line(strokeWidth=1).encode(y=y),
        spread(lines, ranked, 0.14),
        lines.mark_line(strokeWidth=2.2).encode(y=y),
        lines.mark_circle(size=44, opacity=1).encode(y=y, tooltip=tooltip),
    ]


def interval_tooltip(unit: str, n: str = "Prompts") -> list[alt.Tooltip]:
    """Mean, its interval and n."""
    form = _unit_format(unit)
    return [
        alt.Tooltip("mean:Q", title="Share" if unit == "share" else f"Mean ({unit})", format=form),
        alt.Tooltip("low:Q", title="95 % from", format=form),
        alt.Tooltip("high:Q", title="95 % to", format=form),
        alt.Tooltip("n:Q", title=n),
    ]


def draw_tooltip(unit: str) -> list[alt.Tooltip]:
    """Range of the random draws and how many there are."""
    form = _unit_format(unit)
    return [
        alt.Tooltip("mean:Q", title="Mean of the draws", format=form),
        alt.Tooltip("low:Q", title="Smallest draw", format=form),
        alt.Tooltip("high:Q", title="Largest draw", format=form),
        alt.Tooltip("n:Q", title="Draws"),
    ]


def _unit_format(unit: str) -> str:
    return ".0%" if unit == "share" else "+.3f"


def number_tooltip(field: str, title: str) -> alt.Tooltip:
    """A signed number in a tooltip."""
    return alt.Tooltip(f"{field}:Q", title=title, format="+.3f")


def x_tooltip(axis: str) -> alt.Tooltip:
    """The place on the x axis, in a tooltip."""
    return alt.Tooltip("x:Q", title=AXIS_TITLES[axis], format=",.4~g")


def spread(base: alt.Chart, rows: pd.DataFrame, opacity: float, tooltip: Any = None, **mark: Any) -> alt.Chart:
    """From `low` to `high`: an area, or a bar where there is only one x."""
    one = rows["x"].nunique() <= 1
    chart = base.mark_bar(width=9, opacity=opacity, **mark) if one else base.mark_area(opacity=opacity, **mark)
    encoded = chart.encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return encoded if tooltip is None else encoded.encode(tooltip=tooltip)


def unedited_rules(rows: pd.DataFrame, value: str, words: ArmWords) -> list[alt.Chart]:
    """A dashed rule per split at the unedited model's `value`, in the split's colour."""
    rules = rows[rows["split"].isin(SPLITS) & rows[value].notna()]
    rules = pd.DataFrame({"y": rules[value], "series": rules["split"].map(words.names)})
    if rules.empty:
        return []
    form = ".0%" if value == "unedited" else "+.3f"
    return [
        alt.Chart(rules)
        .mark_rule(strokeDash=[5, 4], strokeWidth=1.3, opacity=0.85)
        .encode(
            y=alt.Y("y:Q"),
            color=colour_by("series", words.series, ARM_COLOURS),
            tooltip=[
                alt.Tooltip("series:N", title="Unedited, prompts of"),
                alt.Tooltip("y:Q", title="Unedited", format=form),
            ],
        )
    ]


def highlight_rule(highlight: float | None, x: alt.X) -> list[alt.Chart]:
    """A broad muted rule at the highlighted place."""
    if highlight is None or not np.isfinite(highlight):
        return []
    place = pd.DataFrame({"x": [float(highlight)]})
    return [alt.Chart(place).mark_rule(color=MUTED, strokeWidth=9, opacity=0.28).encode(x=x)]


def _broken_marks(rows: pd.DataFrame, axis: str, x: alt.X) -> list[alt.Chart]:
    broken = rows[(rows["arm"] == "ranked") & (rows["n_broken"] > 0) & rows[axis].notna()]
    if broken.empty:
        return []
    counts = broken.groupby(axis)["n_broken"].max()
    marks = pd.DataFrame({"x": counts.index, "n_broken": counts.to_numpy(), "text": "×"})
    return [
        alt.Chart(marks)
        .mark_text(color=MUTED, fontSize=18, fontWeight="bold")
        .encode(
            x=x,
            y=alt.value(HEIGHT - 14),
            text=alt.Text("text:N"),
            tooltip=[x_tooltip(axis), alt.Tooltip("n_broken:Q", title="Prompts without numbers")],
        )
    ]


def _own_change(points: pd.DataFrame | None, group: str, circuit: str | None, split: str) -> pd.DataFrame:
    """The edited circuit's own row, as collateral rows are."""
    if points is None:
        return pd.DataFrame()
    rows = point_rows(points)
    rows = rows[rows["group"].isin([f"{group}/{split}", f"{group}/discovery"])]
    ranked = rows[rows["arm"] == "ranked"]
    if ranked.empty:
        return pd.DataFrame()
    where = split if (ranked["split"] == split).any() else "discovery"
    row = ranked[ranked["split"] == where].iloc[0]
    draws = rows[(rows["arm"] == "random") & (rows["split"] == where)]["delta_mean"].dropna()
    name = circuit_words(circuit) if circuit else "Edited"
    return pd.DataFrame(
        [
            {
                "label": f"{name} (edited)",
                "own": True,
                "n": row["n_prompts"],
                "baseline_mean": row["logit_diff_mean"] - row["delta_mean"],
                "delta_mean": row["delta_mean"],
                "low": row["delta_low"],
                "high": row["delta_high"],
                "random_low": draws.min() if len(draws) else np.nan,
                "random_high": draws.max() if len(draws) else np.nan,
            }
        ]
    )


def _collateral_sentence(own: pd.DataFrame, others: pd.DataFrame) -> str:
    there = others.dropna(subset=["delta_mean"])
    start = ""
    if len(own) and np.isfinite(own["delta_mean"].iloc[0]):
        start = f"The edit moves its own circuit by {logits(own['delta_mean'].iloc[0])} logits; "
    if there.empty:
        text = "what it does to other circuits was not measured" if others.empty else "every other circuit broke"
        return start + text if start else text.capitalize()
    top = there.iloc[0]
    text = f"elsewhere {circuit_words(top['name']).lower()} moves most, by {logits(top['delta_mean'])}"
    if np.isfinite(top["random_low"]):
        text += f" (random {logits(top['random_low'])} to {logits(top['random_high'])})"
    return start + text if start else text[0].upper() + text[1:]


def _text_words(table: pd.DataFrame, group: str) -> str:
    text = table[(table["group"] == group) & (table["about"] == "text")]
    if text.empty or not np.isfinite(text["delta_mean"].iloc[0]):
        return "" if text.empty else "Neutral text: the model broke. "
    row = text.iloc[0]
    random = ""
    if np.isfinite(row["random_low"]):
        random = f", random {nats(row['random_low'])} to {nats(row['random_high'])}"
    return f"Loss of {int(row['n'])} neutral texts: {nats(row['delta_mean'])} nats per token{random}. "
