"""Charts of a sweep's answers: rates of outcomes over the dose, over seeds, and the classes before and after.

`rates` are outcome rates (a row per point, split and outcome) with the coordinates of their points beside them.
"""

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from pprobe_core.charts import CONTROL, HELDOUT, OTHER, RANKED, TARGET, Figure, as_figure, colour_by
from pprobe_core.stats import wilson
from pprobe_core.sweep_charts import (
    ARM_COLOURS,
    arm_marks,
    dose_axis,
    highlight_rule,
    spread,
    unedited_rules,
    x_tooltip,
)
from pprobe_core.sweep_rows import (
    AXIS_TITLES,
    SPLIT_NAMES,
    SPLITS,
    UNCHANGED,
    ArmWords,
    Axis,
    answer_words,
    arm_words,
    axis_title,
    curve_rows,
    dose_place,
    draw_words,
    draws_beside,
    listed,
    main_row,
    missing_words,
    outcome_title,
    percent,
    rate_rows,
    with_start,
)

# Tints of one side's colour, for several classes of the same side.
SIDE_TINTS: Mapping[str, tuple[str, ...]] = {
    "target": (TARGET, "#6A4CC4", "#A48FE0"),
    "control": (CONTROL, "#8F6500", "#CF9C24"),
    "other": (OTHER, "#5C646D", "#A2A9B1"),
}


def outcome_curve(rates: pd.DataFrame, outcome: str, axis: Axis, highlight: float | None = None) -> Figure:
    """Share of answers that count for an outcome over the dose, beside the random draws and the unedited share."""
    every = rate_rows(rates)
    rows = every[every["outcome"] == outcome]
    words = arm_words(rows)
    drawn = curve_rows(rows, axis, "share", "low", "high", words)
    name = outcome_title(rows, outcome)
    x = dose_axis(axis, rows[axis], axis_title(rows, axis))
    y = alt.Y("mean:Q", title=f"{name}, share of answers", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    base = rows[(rows["arm"] == "ranked") & (rows["n"] > 0)].drop_duplicates("split")
    base = base.assign(unedited=base["n_before"] / base["n"])
    starts = {str(r["split"]): _unedited_share(int(r["n_before"]), int(r["n"])) for r in base.to_dict("records")}
    drawn = with_start(drawn, axis, starts)
    marks = [*unedited_rules(base, "unedited", words), *highlight_rule(highlight, x)]
    marks += arm_marks(drawn, words, x, y, "share")
    spread = _seed_ranges(rows, axis, words)
    seeds = ""
    if len(spread):
        marks.append(_seed_whiskers(spread, words, x))
        seeds = (
            f"Thin bars: smallest to largest of {int(spread['n_seeds'].max())} sampling seeds; the interval counts all "
            "seeds' answers as if they were independent, so it is somewhat too narrow. "
        )
    return as_figure(
        alt.layer(*marks),
        _outcome_sentence(rows, name, axis, highlight),
        f"{answer_words(rows)} Bands around the lines: 95 % Wilson interval; grey: smallest to largest "
        f"of {draw_words(rows)}; dashed: unedited. {seeds}{missing_words(rows)}Classes come from rules, "
        "which can err: the texts are below.",
        f"Share of answers ({name}) by {AXIS_TITLES[axis].lower()}, ranked arm against random draws.",
        omits="Does not show whether an answer is true or useful, only which class it falls into.",
    )


def seeds(rates: pd.DataFrame, outcome: str, axis: Axis = "n_neurons", split: str = "heldout") -> Figure:
    """Share of answers per sampling seed over the doses, with the band from the smallest to the largest seed."""
    every = rate_rows(rates)
    rows = every[(every["outcome"] == outcome) & (every["arm"] == "ranked") & (every["split"] == split)]
    name = outcome_title(rows, outcome)
    long = pd.DataFrame(
        [
            {"x": row[axis], "seed": f"seed {k + 1}", "mean": share}
            for row in rows.to_dict("records")
            for k, share in enumerate(listed(row.get("by_seed")))
        ],
        columns=["x", "seed", "mean"],
    )
    groups = long.groupby("x")["mean"].agg(["min", "max", "mean", "count"]).reset_index()
    groups = groups.rename(columns={"min": "low", "max": "high", "count": "n"})
    x = dose_axis(axis, rows[axis], axis_title(rows, axis))
    y = alt.Y("mean:Q", title=f"{name}, share of answers", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    colour = RANKED if split == "discovery" else HELDOUT
    base = alt.Chart(groups).encode(x=x)
    tooltip = [
        x_tooltip(axis),
        alt.Tooltip("mean:Q", title="Mean over seeds", format=".0%"),
        alt.Tooltip("low:Q", title="Smallest seed", format=".0%"),
        alt.Tooltip("high:Q", title="Largest seed", format=".0%"),
        alt.Tooltip("n:Q", title="Seeds"),
    ]
    marks = [
        spread(base, groups, 0.2, color=colour),
        alt.Chart(long)
        .mark_line(color=colour, strokeWidth=0.8, opacity=0.6)
        .encode(x=x, y=y, detail=alt.Detail("seed:N")),
        base.mark_line(color=colour, strokeWidth=2.6).encode(y=y),
        base.mark_circle(color=colour, size=44, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    title = "There are no answers of several seeds"
    if len(groups):
        last = groups.iloc[int((groups["x"] - UNCHANGED[axis]).abs().argmax())]
        title = (
            f"{name}: {percent(last['mean'], 0)} of {SPLIT_NAMES[split]} answers {dose_place(axis, last['x'], rows)}, "
            f"from {percent(last['low'], 0)} to {percent(last['high'], 0)} by seed"
        )
    n = int((rows["n"] / rows["by_seed"].map(lambda s: max(len(listed(s)), 1))).max()) if len(rows) else 0
    n_seeds = int(groups["n"].max()) if len(groups) else 0
    return as_figure(
        alt.layer(*marks),
        title,
        f"n = {n} answers for each of {n_seeds} seeds. Thick line: mean over seeds; thin lines: single "
        "seeds; band: smallest to largest seed, which is what sampling alone does.",
        f"Share of answers ({name}) per sampling seed.",
        omits="Does not show how prompts differ, nor what random edits do.",
    )


WHEN = {"unedited": "Unedited", "edited": "Edited", "random": "Random control"}


def class_bars(rows: pd.DataFrame) -> Figure:
    """Response classes before the edit, after it, and under the random controls, as shares of the answers.

    `rows`: `when` (unedited, edited, random), `class_title`, `n`, and where known `side` (target, control, other),
    whose colour the class then takes.
    """
    table = rows.reindex(columns=["when", "class_title", "n", "side"])
    table = table.assign(n=table["n"].astype("float64").fillna(0.0), when=table["when"].map(WHEN).fillna(table["when"]))
    table["side"] = table["side"].fillna("other") if rows.get("side") is not None else None
    counts = table.groupby(["when", "class_title"], sort=False, as_index=False).agg({"n": "sum", "side": "first"})
    counts = counts[counts["n"] > 0]
    totals = counts.groupby("when")["n"].sum()
    counts["share"] = counts["n"] / counts["when"].map(totals) if len(counts) else 0.0
    order = _class_order(counts)
    counts["place"] = counts["class_title"].map({name: i for i, (name, _) in enumerate(order)})
    counts = counts.sort_values(["when", "place"])
    counts["end"] = counts.groupby("when")["share"].cumsum() if len(counts) else 0.0
    counts["middle"] = counts["end"] - counts["share"] / 2 if len(counts) else 0.0
    counts["text"] = [percent(s, 0) if s >= 0.06 else "" for s in counts["share"]]
    labels = [f"{name} (n = {int(totals[name])})" for name in WHEN.values() if name in totals.index]
    counts["row"] = [f"{w} (n = {int(totals[w])})" for w in counts["when"]]
    places = alt.Scale(domain=labels or ["No answers"])
    y = alt.Y("row:N", scale=places, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False))
    colours = dict(zip((name for name, _ in order), _class_colours(order), strict=True))
    base = alt.Chart(counts).encode(y=y)
    tooltip = [
        alt.Tooltip("row:N", title="Answers"),
        alt.Tooltip("class_title:N", title="Class"),
        alt.Tooltip("n:Q", title="Answers of this class", format=","),
        alt.Tooltip("share:Q", title="Share", format=".1%"),
    ]
    bars = base.mark_bar(stroke="white", strokeWidth=1, height={"band": 0.72}).encode(
        x=alt.X("n:Q", stack="normalize", title="Share of the answers", axis=alt.Axis(format="%")),
        color=colour_by("class_title", list(colours) or ["No answers"], list(colours.values()) or [OTHER]),
        order=alt.Order("place:Q"),
        tooltip=tooltip,
    )
    light = counts["class_title"].map(colours).isin([tints[2] for tints in SIDE_TINTS.values()])
    texts = [
        alt.Chart(counts[light == is_light])
        .mark_text(color=shade, fontSize=12, fontWeight=600)
        .encode(y=y, x=alt.X("middle:Q", scale=alt.Scale(domain=[0, 1])), text=alt.Text("text:N"))
        for is_light, shade in ((False, "white"), (True, "#1E262C"))
    ]
    return as_figure(
        alt.layer(bars, *texts),
        _class_sentence(counts, totals),
        "Every answer falls into one class by the stated rules, which can err. The random control "
        "counts the answers of all draws together. Broken means empty, repeating or noise, and never "
        "counts as compliance.",
        f"Stacked bars of {len(order)} response classes for {', '.join(labels) or 'no answers'}.",
        height=110 + 46 * max(len(labels), 1),
        omits="Does not show what the answers say: read the texts.",  # legend, axis and title stand inside the height
    )


def _unedited_share(n_before: int, n: int) -> tuple[float, float, float]:
    """Share before the edit with its Wilson interval."""
    interval = wilson(n_before, n)
    share = n_before / n
    return (share, share, share) if interval is None else (share, interval.low, interval.high)


def _seed_ranges(rows: pd.DataFrame, axis: str, words: ArmWords) -> pd.DataFrame:
    """Smallest and largest share over seeds, of the ranked points that have several."""
    found = []
    for row in rows[(rows["arm"] == "ranked") & rows["split"].isin(SPLITS) & rows[axis].notna()].to_dict("records"):
        shares = listed(row["by_seed"])
        if len(shares) > 1:
            place = {"x": row[axis], "series": words.names[row["split"]], "n_seeds": len(shares)}
            found.append(place | {"low": min(shares), "high": max(shares)})
    return pd.DataFrame(found, columns=["x", "series", "n_seeds", "low", "high"])


def _seed_whiskers(spread: pd.DataFrame, words: ArmWords, x: alt.X) -> alt.Chart:
    return (
        alt.Chart(spread)
        .mark_errorbar(ticks=True, thickness=1.4)
        .encode(
            x=x,
            y=alt.Y("low:Q", title=""),
            y2=alt.Y2("high:Q"),
            color=colour_by("series", words.series, ARM_COLOURS),
        )
    )


def _outcome_sentence(rows: pd.DataFrame, name: str, axis: str, highlight: float | None) -> str:
    row = main_row(rows[rows["n"] > 0], axis, highlight)
    if row is None:
        return f"{name}: there are no answers to count"
    n, yes, before = (int(row[c]) for c in ("n", "n_yes", "n_before"))
    split, where = SPLIT_NAMES[row["split"]], dose_place(axis, row[axis], row)
    title = f"{name}: {yes} of {n} {split} answers ({percent(yes / n, 0)}) {where}; unedited {before}"
    shares = draws_beside(rows, row, axis)["share"].dropna()
    if not len(shares):
        return title + ", no random control"
    low, high = percent(shares.min(), 0), percent(shares.max(), 0)
    return title + f", random {low if low == high else f'{low} to {high}'}"


def _class_order(counts: pd.DataFrame) -> list[tuple[str, str | None]]:
    """Classes with their sides: target first, then control, then the rest, each by number of answers."""
    if counts.empty:
        return []
    by_class = counts.groupby("class_title", as_index=False, sort=False).agg({"n": "sum", "side": "first"})
    rank = by_class["side"].map({"target": 0, "control": 1}).fillna(2)
    by_class = by_class.assign(rank=rank).sort_values(["rank", "n", "class_title"], ascending=[True, False, True])
    return [(str(r["class_title"]), r["side"]) for r in by_class.to_dict("records")]


def _class_colours(order: Sequence[tuple[str, str | None]]) -> list[str]:
    """A tint of its side for each class; without sides the tints in turn."""
    if not any(side for _, side in order):
        tints = [tint for group in zip(*SIDE_TINTS.values(), strict=True) for tint in group]
        return [tints[i % len(tints)] for i in range(len(order))]
    used: dict[str, int] = {}
    colours = []
    for _, side in order:
        name = side if side is not None and side in SIDE_TINTS else "other"
        colours.append(SIDE_TINTS[name][used.get(name, 0) % len(SIDE_TINTS[name])])
        used[name] = used.get(name, 0) + 1
    return colours


def _class_sentence(counts: pd.DataFrame, totals: pd.Series) -> str:
    """The class whose share changes most by the edit, before, after and under the control."""
    shares = counts.pivot_table(index="class_title", columns="when", values="share", sort=False).fillna(0.0)
    before, after, control = WHEN.values()
    if before not in shares or after not in shares:
        return "There are no answers before and after the edit to compare"
    change = (shares[after] - shares[before]).abs()
    if change.max() == 0:
        return f"The classes of the {int(totals[after])} answers are the same before and after the edit"
    name = str(change.idxmax())
    row = {when: percent(share, 0) for when, share in shares.loc[name].to_dict().items()}
    title = f"{name}: {row[before]} of the unedited answers, {row[after]} after the edit"
    if control in row:
        title += f", {row[control]} under random controls"
    return title
