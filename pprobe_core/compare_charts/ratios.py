"""FFN/Skip of several models: the matrix of all runs, the intervals, and the fit to the ablation effect."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core import paper
from pprobe_core.charts import (
    MUTED,
    Figure,
    as_figure,
    legend_columns,
    neutral_legend,
    number,
    zero_line,
)
from pprobe_core.compare_charts.marks import (
    circuit_titles,
    model_colour,
    model_shape,
    typed,
)
from pprobe_core.compare_stats import Fit
from pprobe_core.compare_words import (
    failure_of,
    in_sentence,
    interval_words,
    percent_interval,
    ratio_zone,
)
from pprobe_core.probing.verdict import MIN_FLIP_RATE, OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from pprobe_core.sweep_rows import (
    circuit_words,
    percent,
    range_words,
)

CIRCUIT_SHAPES = (
    *("circle", "square", "triangle-up", "diamond"),
    *("triangle-down", "cross", "triangle-left", "triangle-right"),
)
ZONE_NAMES: Mapping[str, str] = {
    "opposition": f"Above {OPPOSITION_MIN_FFN_SKIP:g} (opposition)",
    "between": f"{ROUTING_MAX_FFN_SKIP:g} to {OPPOSITION_MIN_FFN_SKIP:g}",
    "routing": f"Below {ROUTING_MAX_FFN_SKIP:g} (routing)",
    "none": "No number",
}
ZONE_COLOURS = ("#B84E00", "#75701F", "#22699F", "#6E7780")  # white text on each reads at 4.5:1
REFERENCE = "paper's authors"  # their tool's numbers, in the rows of a model


def ratio_matrix(ratios: pd.DataFrame, models: Sequence[str], circuits: Sequence[str] = ()) -> Figure:
    """FFN/Skip of every circuit (rows) in every model (columns), by the paper's two lines; failures keep their cell.

    `ratios`: one row per model and circuit (label, circuit, circuit_title, mean, median, low, high, n, flip_rate,
    n_pairs, structure, stage, coupling, note). `circuits` come first, in their order; one without a row is not shown.
    """
    rows = _ratio_rows(ratios, models)
    titles = circuit_titles(rows, circuits)
    grid = pd.MultiIndex.from_product([list(titles), list(models)], names=["circuit", "label"]).to_frame(index=False)
    cells = grid.merge(rows, on=["circuit", "label"], how="left", indicator="found")
    cells["title"] = cells["circuit"].map(titles)
    cells["reason"] = [_reason(row) for row in cells.to_dict("records")]
    cells["zone"] = [ZONE_NAMES[ratio_zone(mean) or "none"] for mean in cells["mean"]]
    cells["text"] = [_cell_text(row) for row in cells.to_dict("records")]
    cells["ends"] = [
        interval_words(low, high) if np.isfinite([low, high]).all() else ""
        for low, high in zip(cells["low"], cells["high"], strict=True)
    ]
    wide = f"width > {85 * max(len(models), 1)}"  # room for names side by side, and for intervals in the cells
    x = alt.X(
        "label:N",
        sort=list(models),
        title=None,
        axis=alt.Axis(
            orient="top",
            labelAngle=alt.ExprRef(f"{wide} ? 0 : -60"),
            labelAlign=alt.ExprRef(f"{wide} ? 'center' : 'left'"),
            labelLimit=130,
            labelOverlap=False,
            ticks=False,
            domain=False,
        ),
    )
    y = alt.Y(
        "title:N", sort=list(titles.values()), title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False)
    )
    colour = alt.Color(
        "zone:N",
        scale=alt.Scale(domain=list(ZONE_NAMES.values()), range=list(ZONE_COLOURS)),
        legend=alt.Legend(
            title=None,
            orient="bottom",
            symbolType="square",
            symbolStrokeWidth=0,
            labelLimit=200,
            columns=legend_columns(ZONE_NAMES.values()),
        ),
    )
    base = alt.Chart(cells).encode(x=x, y=y)
    marks: list[Any] = [
        base.mark_rect(stroke="white", strokeOpacity=0.35, cornerRadius=3).encode(
            color=colour,
            opacity=alt.condition("datum.reason == ''", alt.value(1.0), alt.value(0.32)),
            tooltip=[
                alt.Tooltip("label:N", title="Model"),
                alt.Tooltip("title:N", title="Circuit"),
                alt.Tooltip("mean:Q", title="FFN/Skip, mean", format=".3f"),
                alt.Tooltip("low:Q", title="95 % from", format=".3f"),
                alt.Tooltip("high:Q", title="95 % to", format=".3f"),
                alt.Tooltip("median:Q", title="Median", format=".3f"),
                alt.Tooltip("n:Q", title="n"),
                alt.Tooltip("n_pairs:Q", title="Pairs"),
                alt.Tooltip("flip_rate:Q", title="Flip rate", format=".0%"),
                alt.Tooltip("structure:N", title="Structure"),
                alt.Tooltip("stage:N", title="Stage"),
                alt.Tooltip("reason:N", title="Why no number"),
            ],
        )
    ]
    known, missing = cells[cells["reason"] == ""], cells[cells["reason"] != ""]
    if len(known):
        shift = -6 if (known["ends"] != "").any() else 0
        base = alt.Chart(known).encode(x=x, y=y)
        marks.append(
            base.mark_text(color="white", fontSize=14, fontWeight=600, dy=shift).encode(text=alt.Text("text:N"))
        )
        ends = base.mark_text(color="white", fontSize=10.5, dy=9, opacity=alt.ExprRef(f"{wide} ? 1 : 0"))
        marks.append(ends.encode(text=alt.Text("ends:N")))
    if len(missing):
        marks.append(alt.Chart(missing).mark_text(color=MUTED, fontSize=11.5).encode(x=x, y=y, text=alt.Text("text:N")))
    doubtful = (
        " † fewer than half of the pairs change sides, so the number says little." if _doubtful(rows).any() else ""
    )
    return as_figure(
        alt.layer(*marks),
        _matrix_title(cells, models),
        "Mean over prompts at the last layer, with its 95 % interval over prompt pairs. The two lines "
        f"are empirical limits of the paper; small skip signals inflate the ratio.{doubtful}",
        f"Matrix of FFN/Skip for {len(titles)} circuits and {len(models)} models.",
        height=int(np.clip(46 * max(len(titles), 1) + 90, 150, 620)),
        omits="Does not show a cause: a high ratio alone does not prove that these neurons decide.",
    )


def ratio_intervals(
    ratios: pd.DataFrame, models: Sequence[str], circuits: Sequence[str] = (), with_paper: bool = False
) -> Figure:
    """FFN/Skip of every model and circuit as a dot with its interval, the paper's two lines as rules.

    With `with_paper` the values that the first author's own tool gives for Qwen3-0.6B stand beside them in grey.
    """
    rows = _ratio_rows(ratios, models)
    titles = circuit_titles(rows, circuits)
    rows = rows.assign(title=rows["circuit"].map(titles), reason=[_reason(row) for row in rows.to_dict("records")])
    known = rows[rows["reason"] == ""]
    references = _reference_ratios(titles) if with_paper else pd.DataFrame(columns=["title", "mean", "label"])
    scale = _ratio_scale([*known["mean"], *known["low"], *known["high"], *references["mean"]])
    floor = float(scale.domain[0])
    known = known.assign(low=known["low"].clip(lower=floor), drawn=known["mean"].clip(lower=floor))
    y = alt.Y(
        "title:N",
        sort=list(titles.values()),
        title=None,
        axis=alt.Axis(labelLimit=170, ticks=False, domain=False, grid=False, tickBand="extent"),
    )
    offsets = [*models, REFERENCE] if len(references) else list(models)
    offset = alt.YOffset("label:N", scale=alt.Scale(domain=offsets, paddingOuter=0.3))
    x_title = "FFN/Skip at the last layer" + (" (log scale)" if scale.type == "log" else "")
    x = alt.X("drawn:Q", title=x_title, scale=scale, axis=alt.Axis(format="~g", grid=False, labelOverlap="greedy"))
    base = alt.Chart(known).encode(y=y, yOffset=offset)
    tooltip = [
        alt.Tooltip("label:N", title="Model"),
        alt.Tooltip("title:N", title="Circuit"),
        alt.Tooltip("mean:Q", title="FFN/Skip, mean", format=".3f"),
        alt.Tooltip("low:Q", title="95 % from", format=".3f"),
        alt.Tooltip("high:Q", title="95 % to", format=".3f"),
        alt.Tooltip("n:Q", title="n"),
        alt.Tooltip("flip_rate:Q", title="Flip rate", format=".0%"),
    ]
    marks: list[Any] = [
        *_threshold_rules(scale),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale), x2=alt.X2("high:Q"), color=model_colour(rows, models)
        ),
        base.mark_point(filled=True, size=62, opacity=1).encode(
            x=x, color=model_colour(rows, models), shape=model_shape(rows, models), tooltip=tooltip
        ),
    ]
    missing = rows[rows["reason"] != ""].assign(
        text=lambda r: [f"{a}: {b}" for a, b in zip(r["label"], r["short"], strict=True)]
    )
    if len(missing):
        marks.append(
            alt.Chart(missing)
            .mark_text(align="left", dx=6, color=MUTED, fontSize=11)
            .encode(
                y=y,
                yOffset=offset,
                x=alt.value(0),
                text=alt.Text("text:N"),
                tooltip=[alt.Tooltip("label:N", title="Model"), alt.Tooltip("reason:N", title="Why no number")],
            )
        )
    if len(references):
        ground = alt.Chart(references).encode(y=y, yOffset=offset, x=alt.X("mean:Q", scale=scale))
        told = [
            alt.Tooltip("source:N", title="Reference"),
            alt.Tooltip("title:N", title="Circuit"),
            alt.Tooltip("mean:Q", title="FFN/Skip", format=".2f"),
            alt.Tooltip("n:Q", title="Pairs"),
        ]
        marks.append(
            ground.mark_point(shape="diamond", filled=False, size=70, strokeWidth=1.8, color=MUTED, opacity=1).encode(
                tooltip=told
            )
        )
        marks.append(ground.mark_text(align="left", dx=9, fontSize=10.5, color=MUTED).encode(text=alt.Text("label:N")))
    overlay = ""
    if len(references):
        number_of = next(iter(paper.RATIOS.values()))
        overlay = (
            f" Grey diamonds are not yours: {number_of.model} in {paper.TOOL}, {number_of.n} pairs each, without "
            "intervals."
        )
    return as_figure(
        alt.layer(*marks),
        _intervals_title(known, titles),
        "Mean over prompts with 95 % interval over prompt pairs; without a bar there is no interval. "
        f"Dashed: the paper's empirical lines. Models without a number are named in their row.{overlay}",
        f"Dots with intervals of FFN/Skip for {len(known)} runs.",
        height=int(np.clip((12 * len(offsets) + 12) * max(len(titles), 1) + 110, 180, 900)),
        omits="Does not show a cause: a high ratio alone does not prove that these neurons decide.",
    )


def _reference_ratios(titles: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        {
            "title": title,
            "mean": own.value,
            "label": REFERENCE,
            "n": own.n,
            "source": f"{own.model}, {paper.cited(own)}",
        }
        for circuit, title in titles.items()
        if (own := paper.RATIOS.get(circuit)) is not None
    ]
    return pd.DataFrame(rows, columns=["title", "mean", "label", "n", "source"])


def _ratio_rows(ratios: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    texts = ("run_id", "label", "circuit", "circuit_title", "structure", "stage", "coupling", "note")
    rows = typed(ratios, texts, ("mean", "median", "low", "high", "n", "flip_rate", "n_pairs"))
    rows = rows[rows["label"].isin(models)].drop_duplicates(["label", "circuit"])
    return rows.assign(short=[_short_reason(row) for row in rows.to_dict("records")])


def _reason(row: Mapping[Any, Any]) -> str:
    """Why a cell has no number; empty where it has one."""
    if np.isfinite(row["mean"]):
        return ""
    if row.get("found") == "left_only":
        return "This circuit was not run on this model."
    return failure_of(row) or "Undefined: the skip path carries next to no signal at the last layer."


def _short_reason(row: Mapping[Any, Any]) -> str:
    if np.isfinite(row["mean"]):
        return ""
    return failure_of(row).partition(":")[0].removeprefix("is ") or "undefined"


def _cell_text(row: Mapping[Any, Any]) -> str:
    if np.isfinite(row["mean"]):
        return number(row["mean"]) + ("\u00a0†" if row["flip_rate"] < MIN_FLIP_RATE else "")
    if row["found"] == "left_only":
        return "not run"
    return f"× {row['short']}" if ":" in failure_of(row) else str(row["short"])


def _doubtful(rows: pd.DataFrame) -> pd.Series:
    return rows["mean"].notna() & (rows["flip_rate"] < MIN_FLIP_RATE)


def _matrix_title(cells: pd.DataFrame, models: Sequence[str]) -> str:
    if cells.empty:
        return "No circuit has been run on these models yet"
    counts = cells["zone"].value_counts()
    above, below = counts.get(ZONE_NAMES["opposition"], 0), counts.get(ZONE_NAMES["routing"], 0)
    known = int(cells["mean"].notna().sum())
    if not known:
        return f"None of the {len(cells)} combinations has a number"
    title = (
        f"{above} of {known} combinations with a number lie above the opposition line of {OPPOSITION_MIN_FFN_SKIP:g}, "
        f"{below} below the routing line of {ROUTING_MAX_FFN_SKIP:g}"
    )
    missing = len(cells) - known
    return title + (f"; {missing} {'has' if missing == 1 else 'have'} no number" if missing else "")


def _intervals_title(known: pd.DataFrame, titles: Mapping[str, str]) -> str:
    if known.empty:
        return "No run of these models has an FFN/Skip ratio"
    spans = known.groupby("circuit", sort=False)["mean"].agg(["min", "max", "size"])
    spans = spans[spans["size"] >= 2]
    if spans.empty:
        low, high = _ends(known)
        if len(known) == 1:
            return f"FFN/Skip of {in_sentence(low['title'])} is {number(low['mean'])} in {low['label']}"
        return (
            f"FFN/Skip goes from {number(low['mean'])} ({in_sentence(low['title'])}, {low['label']}) to "
            f"{number(high['mean'])} ({in_sentence(high['title'])}, {high['label']})"
        )
    with np.errstate(divide="ignore"):
        # By their ratio, because the numbers span decades; a smallest value of zero counts as far apart.
        widest = str((np.log(spans["max"]) - np.log(spans["min"])).idxmax())
    low, high = _ends(known[known["circuit"] == widest])
    text = (
        f"Furthest apart on {in_sentence(titles[widest])}: FFN/Skip {number(high['mean'])} in {high['label']}, "
        f"{number(low['mean'])} in {low['label']}"
    )
    return text + ("; their intervals overlap" if low["high"] >= high["low"] else "")


def _ends(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The rows with the smallest and the largest mean."""
    order = rows.sort_values("mean", kind="stable")
    return order.iloc[0], order.iloc[-1]


def _ratio_scale(values: Sequence[float]) -> alt.Scale:
    there = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
    there = np.append(there, [ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP])
    high, positive = float(there.max()), there[there > 0]
    if high / positive.min() > 12:
        return alt.Scale(type="log", domain=[max(float(positive.min()) * 0.8, high / 1e4), high * 1.25], nice=False)
    return alt.Scale(type="linear", domain=[0, max(high * 1.08, 1.4 * OPPOSITION_MIN_FFN_SKIP)], nice=False)


def _threshold_rules(scale: alt.Scale) -> list[alt.Chart]:
    limits = pd.DataFrame(
        {
            "at": [ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP],
            "text": [f"routing < {ROUTING_MAX_FFN_SKIP:g}", f"opposition > {OPPOSITION_MIN_FFN_SKIP:g}"],
        }
    )
    x = alt.X("at:Q", scale=scale)
    sides: tuple[tuple[int, Literal["left", "right"], int], ...] = ((0, "right", -5), (1, "left", 5))
    return [
        alt.Chart(limits).mark_rule(strokeDash=[4, 4], color=MUTED).encode(x=x),
        *(
            alt.Chart(limits.iloc[[i]])
            .mark_text(align=align, baseline="bottom", dx=shift, dy=-2, color=MUTED, fontSize=11)
            .encode(x=x, y=alt.value(0), text=alt.Text("text:N"))
            for i, align, shift in sides
        ),
    ]


def fit_scatter(
    points: pd.DataFrame,
    models: Sequence[str],
    fit: Fit | None,
    circuits: Sequence[str] = (),
    with_paper: bool = True,
) -> Figure:
    """FFN/Skip against the ablation effect, one point per model and circuit, with the fitted line.

    `points`: run_id, label, circuit, ffn_skip, ffn_skip_low, ffn_skip_high, effect (change of F in units of the
    unedited F with the first neurons off, minus the mean of the random draws), effect_low, effect_high, n_neurons, n.
    `circuits` fixes the shapes, by place. With `with_paper` the title states the paper's R^2 as the paper's.
    """
    numbers = ("ffn_skip", "ffn_skip_low", "ffn_skip_high", "effect", "effect_low", "effect_high", "n_neurons", "n")
    every = typed(points, ("label", "circuit"), numbers)
    every = every[every["label"].isin(models)]
    rows = every.dropna(subset=["ffn_skip", "effect"])
    log_x = fit is not None and fit.log_x
    if log_x:
        rows = rows[rows["ffn_skip"] > 0]
    order = list(dict.fromkeys([*circuits, *sorted(rows["circuit"].unique())]))
    shapes = {name: CIRCUIT_SHAPES[i % len(CIRCUIT_SHAPES)] for i, name in enumerate(order)}
    present = [name for name in order if (rows["circuit"] == name).any()]
    scale = _fit_scale(rows, log_x)
    floor = float(scale.domain[0])
    rows = rows.assign(name=rows["circuit"].map(circuit_words), ffn_skip_low=rows["ffn_skip_low"].clip(lower=floor))
    x_title = "FFN/Skip at the last layer" + (" (log scale)" if log_x else "")
    x = alt.X("ffn_skip:Q", title=x_title, scale=scale, axis=alt.Axis(format="~g", grid=False, labelOverlap="greedy"))
    y = alt.Y("effect:Q", title="Ablation effect, in units of the unedited F", axis=alt.Axis(format="%"))
    base = alt.Chart(rows).encode(y=y)
    plain = model_colour(rows, models)
    marks: list[Any] = [
        zero_line(),
        base.mark_rule(opacity=0.4).encode(
            x=alt.X("ffn_skip_low:Q", scale=scale), x2=alt.X2("ffn_skip_high:Q"), color=plain
        ),
        alt.Chart(rows)
        .mark_rule(opacity=0.4)
        .encode(x=alt.X("ffn_skip:Q", scale=scale), y=alt.Y("effect_low:Q"), y2=alt.Y2("effect_high:Q"), color=plain),
        base.mark_point(filled=True, size=84, opacity=1).encode(
            x=x,
            color=model_colour(rows, models),
            shape=alt.Shape(
                "name:N",
                scale=alt.Scale(
                    domain=[circuit_words(name) for name in present], range=[shapes[name] for name in present]
                ),
                legend=neutral_legend(),
            ),
            tooltip=[
                alt.Tooltip("label:N", title="Model"),
                alt.Tooltip("name:N", title="Circuit"),
                alt.Tooltip("ffn_skip:Q", title="FFN/Skip", format=".3f"),
                alt.Tooltip("effect:Q", title="Effect", format="+.0%"),
                alt.Tooltip("effect_low:Q", title="95 % from", format="+.0%"),
                alt.Tooltip("effect_high:Q", title="95 % to", format="+.0%"),
                alt.Tooltip("n_neurons:Q", title="Neurons off"),
                alt.Tooltip("n:Q", title="Prompts"),
            ],
        ),
    ]
    if fit is not None and len(rows):
        ends = rows["ffn_skip"].min(), rows["ffn_skip"].max()
        at = np.geomspace(*ends, 40) if log_x else np.linspace(*ends, 40)
        line = pd.DataFrame({"ffn_skip": at, "effect": fit.at(at)})
        drawn = alt.Chart(line).mark_line(color=MUTED, strokeWidth=2.2, strokeDash=[] if fit.clear else [6, 4])
        marks.insert(1, drawn.encode(x=alt.X("ffn_skip:Q", scale=scale), y=y))
    missing = len(every) - len(rows)
    left = f" {missing} run{'s have' if missing > 1 else ' has'} no ratio or no effect." if missing else ""
    return as_figure(
        alt.layer(*marks),
        _fit_title(fit, rows, with_paper),
        f"A point is one circuit in one model ({len(rows)} runs), FFN/Skip that of its last layer; the effect is what "
        f"the first {range_words(rows['n_neurons'])} neurons do to F, minus the mean of as many random neurons; bars: "
        f"95 % interval. {_fit_words(fit)}{left}",
        f"Scatter of the ablation effect against FFN/Skip, {len(rows)} runs.",
        height=420,
        omits=(
            "Does not show that circuits are alike: their F means different things, and one line runs over all of them."
        ),
    )


def _fit_scale(rows: pd.DataFrame, log_x: bool) -> alt.Scale:
    values = rows[["ffn_skip", "ffn_skip_low", "ffn_skip_high"]].to_numpy().ravel()
    values = values[np.isfinite(values)]
    if log_x:
        values = values[values > 0]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.01, 1.0)
        # An interval that touches zero must not stretch the axis over many decades.
        smallest = float(rows["ffn_skip"].min()) if len(rows) else low
        return alt.Scale(type="log", domain=[max(low, smallest / 4) * 0.85, high * 1.2], nice=False)
    high = float(values.max()) if values.size else 1.0
    return alt.Scale(type="linear", domain=[0, 1.06 * high or 1.0], nice=False)


def _fit_title(fit: Fit | None, rows: pd.DataFrame, with_paper: bool) -> str:
    reference = paper.FIT_R_SQUARED
    said = f"; the paper: {percent(reference.value, 0)} on {reference.n} models" if with_paper else ""
    if fit is None:
        count = f"{len(rows)} run{'' if len(rows) == 1 else 's'}"
        return f"{count} cannot carry a line of the ablation effect over FFN/Skip{said}"
    share = f"{percent(fit.r_squared, 0)} {percent_interval(fit.r_squared_low, fit.r_squared_high)}"
    return f"On {fit.n} runs FFN/Skip explains {share} of the variance of the ablation effect{said}"


def _fit_words(fit: Fit | None) -> str:
    if fit is None:
        return "There is no line: it needs four runs with different numbers."
    how = (
        f"resampling the {fit.n_models} models"
        if fit.resampled == "models"
        else "resampling single runs, which are not independent, so it is too narrow"
    )
    line = "clear of flat" if fit.clear else "not clear of flat, so dashed"
    return (
        f"The line is {line}: slope {number(fit.slope, signed=True)} {interval_words(fit.slope_low, fit.slope_high)}"
        f"{' per decade' if fit.log_x else ''}, interval by {how}."
    )
