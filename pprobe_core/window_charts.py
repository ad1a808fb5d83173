"""Charts of one sweep over layers: injection windows, layer-wise ablation, patching and held outputs.

`points` are the store's points of a sweep, `rates` the outcome rates of its answers with their points' coordinates.
One function per chart; every one returns a `charts.Figure`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core.charts import (
    ATTENTION,
    BROKEN,
    COMPONENT_NAMES,
    FFN,
    MIXED,
    MUTED,
    RANDOM,
    RANKED,
    SEPARATED,
    SKIP,
    STILL_RIGHT,
    SWITCHED,
    Figure,
    as_figure,
    colour_by,
    layer_tick_axis,
    number,
    zero_line,
)
from pprobe_core.sweep_charts import interval_tooltip, number_tooltip
from pprobe_core.sweep_rows import (
    SPLIT_NAMES,
    baseline_rows,
    broken_words,
    largest,
    listed,
    logits,
    n_words,
    outcome_title,
    percent,
    point_rows,
    range_words,
    rate_rows,
    signed_number,
)

Value = Literal["delta_mean", "excess"]
REGIMES: Mapping[str, tuple[str, str]] = {  # letter on a map, colour
    "destructive": ("D", BROKEN),
    "causal": ("C", SWITCHED),
    "committed": ("–", MUTED),
    "mixed": ("M", MIXED),
}
# What becomes of the answers; a regime has the colour of the outcome that names it.
OUTCOMES: Mapping[str, tuple[str, str]] = {
    "switched": ("Switched", SWITCHED),
    "switched_and_right": ("Switched, still right", STILL_RIGHT),
    "broken": ("Broken", BROKEN),
}
DIVERGING = ("#8F6500", "#D9DDE1", "#6A4CC4")  # control, nothing, target
SEQUENTIAL = ("#E1E6E9", "#0B5A7A")
MAX_TEXT_CELLS = 14  # columns of a map up to which every cell shows its number
DIRECTION_WORDS = {"d_F": "d_F", "difference_of_means": "the difference of means"}


# --------------------------------------------------------------------------------------------- layer by strength


def window_map(
    points: pd.DataFrame, summary: Mapping[str, Any], split: str = "heldout", value: Value = "delta_mean"
) -> Figure:
    """Layer by strength: mean change of F by the injected direction, or its excess over the mean random direction.

    The selection is `cell` (fields layer, strength). A cell whose logits were no numbers shows ×.
    """
    rows = point_rows(points)
    here = rows[(rows["split"] == split) & rows["layer"].notna() & rows["strength"].notna()]
    cells = _with_random(here)
    cells["shown"] = cells["delta_mean"] if value == "delta_mean" else cells["delta_mean"] - cells["random_mean"]
    cells["text"] = [number(v, 1, signed=True) if np.isfinite(v) else "×" for v in cells["shown"]]
    limit = float(cells["shown"].abs().max()) if cells["shown"].notna().any() else 1.0
    limit = limit or 1.0
    cells["strong"] = cells["shown"].abs() > 0.55 * limit
    what = "Change of F" if value == "delta_mean" else "Excess over random"
    colour = alt.Color(
        "shown:Q",
        scale=alt.Scale(domain=[-limit, 0, limit], range=list(DIVERGING), interpolate="lab"),
        legend=_gradient(f"{what} (logits)", "+.3~g"),
    )
    tooltip = [
        alt.Tooltip("layer:O", title="After layer"),
        alt.Tooltip("strength:O", title="Strength"),
        number_tooltip("delta_mean", "Change of F"),
        number_tooltip("delta_low", "95 % from"),
        number_tooltip("delta_high", "95 % to"),
        number_tooltip("random_low", "Random from"),
        number_tooltip("random_high", "Random to"),
        alt.Tooltip("n_prompts:Q", title="Prompts"),
        alt.Tooltip("n_broken:Q", title="Prompts without numbers"),
    ]
    title = "No point of this map was measured on these prompts"
    known = cells.dropna(subset=["shown"])
    if len(cells):
        title = "The model broke at every layer and strength"
    if len(known):
        top = largest(known, "shown")
        title = (
            f"Injected after layer {int(top['layer'])} at strength {signed_number(top['strength'])}, the direction "
            "moves "
            f"F most: {logits(top['delta_mean'])} logits on {SPLIT_NAMES.get(split, split)} prompts; "
            + _random_range(top)
        )
    n_broken = int((cells["n_broken"] > 0).sum())
    return as_figure(
        _map(cells, colour, tooltip),
        title,
        f"{n_words(here)} Each cell is one injection of {_direction(summary)} at one layer; purple: "
        f"towards the target tokens, ochre: towards the control tokens. "
        f"{_strength_words(summary)}{_draws(here)}{_none_random(here)}F "
        f"is measured at the first token.{broken_words(n_broken)}",
        f"Heat map of {len(cells)} cells, layer by strength.",
        height=_map_height(cells),
        omits="Does not show whether answers switch or break: a large change can also come from a wrecked model.",
    )


def outcome_map(rates: pd.DataFrame, split: str, outcome: str, regimes: pd.DataFrame | None = None) -> Figure:
    """Layer by strength: share of the answers that count for an outcome; letters name the regimes where given.

    `regimes` has key, split, regime. The selection is `cell` (fields layer, strength).
    """
    every = rate_rows(rates)
    rows = every[(every["outcome"] == outcome) & (every["split"] == split)]
    here = rows[rows["layer"].notna() & rows["strength"].notna()]
    cells = here[here["arm"] == "ranked"].copy()
    draws = here[here["arm"] == "random"].groupby(["layer", "strength"])["share"].agg(["min", "max"])
    cells = cells.join(draws.rename(columns={"min": "random_low", "max": "random_high"}), on=["layer", "strength"])
    cells = _with_regimes(cells, regimes)
    cells["shown"] = cells["share"]
    letters = cells["regime"].map({name: letter for name, (letter, _) in REGIMES.items()}).fillna("")
    many = cells["layer"].nunique() > MAX_TEXT_CELLS
    cells["text"] = [
        letter if many else f"{percent(share, 0)} {letter}".strip()
        for share, letter in zip(cells["share"], letters, strict=True)
    ]
    cells["strong"] = cells["shown"] > 0.45
    name = outcome_title(rows, outcome)
    colour = alt.Color(
        "shown:Q",
        scale=alt.Scale(domain=[0, 1], range=list(SEQUENTIAL)),
        legend=_gradient(f"{name}, share of answers", ".0%"),
    )
    tooltip = [
        alt.Tooltip("layer:O", title="After layer"),
        alt.Tooltip("strength:O", title="Strength"),
        alt.Tooltip("share:Q", title="Share", format=".0%"),
        alt.Tooltip("low:Q", title="95 % from", format=".0%"),
        alt.Tooltip("high:Q", title="95 % to", format=".0%"),
        alt.Tooltip("random_low:Q", title="Random from", format=".0%"),
        alt.Tooltip("random_high:Q", title="Random to", format=".0%"),
        alt.Tooltip("regime:N", title="Regime"),
        alt.Tooltip("n:Q", title="Answers"),
    ]
    title = f"{name}: there are no answers to count"
    known = cells.dropna(subset=["shown"])
    if len(known):
        top = known.sort_values(["shown", "strength", "layer"], ascending=[False, True, True]).iloc[0]
        title = (
            f"{name}: at most {int(top['n_yes'])} of {int(top['n'])} {SPLIT_NAMES.get(split, split)} answers "
            f"({percent(top['share'], 0)}), after layer {int(top['layer'])} at strength "
            f"{signed_number(top['strength'])}"
        )
        if np.isfinite(top["random_high"]):
            title += f"; random directions at most {percent(top['random_high'], 0)} there"
        if top["shown"] == 0:
            title = f"{name}: none of {int(top['n'])} {SPLIT_NAMES.get(split, split)} answers at any layer and strength"
    key = (
        "Letters: D destructive (at least half broken), C causal (at least half switched), – committed (at least half "
        "as before), M mixed. "
        if letters.any()
        else ""
    )
    return as_figure(
        _map(cells, colour, tooltip, force_text=bool(letters.any())),
        title,
        f"n = {range_words(cells['n'])} answers in each cell. {key}{_none_random(here)}Classes come "
        "from rules, which can err: the texts are below.",
        f"Heat map of {len(cells)} cells, layer by strength: {name.lower()}.",
        height=_map_height(cells),
        omits="Does not show whether an answer is true or useful, only which class it falls into.",
    )


def switch_by_layer(
    rates: pd.DataFrame, strength: float, regimes: pd.DataFrame | None = None, split: str = "heldout"
) -> Figure:
    """Per layer the shares of answers that switch, switch and stay right, and break, with the regimes as a strip above.

    One strength; the grey band is the smallest to largest share that switches under random directions.
    """
    every = rate_rows(rates)
    rows = every[
        (every["split"] == split) & every["layer"].notna() & np.isclose(every["strength"].fillna(np.inf), strength)
    ]
    rows = rows[rows["outcome"].isin(OUTCOMES)].sort_values("layer")
    ranked = _with_regimes(rows[rows["arm"] == "ranked"], regimes)
    ranked = ranked.assign(name=ranked["outcome"].map({k: v[0] for k, v in OUTCOMES.items()}), mean=ranked["share"])
    random = rows[(rows["arm"] == "random") & (rows["outcome"] == "switched")]
    bands = random.groupby("layer", as_index=False)["share"].agg(["min", "max"])
    bands = bands.rename(columns={"min": "low", "max": "high"}).assign(name="Random: switched")
    x = _layer_x(rows, "Injected after layer")
    ceiling = 1.16 if ranked["regime"].notna().any() else 1.02
    y = alt.Y(
        "mean:Q",
        title="Share of answers",
        scale=alt.Scale(domain=[0, ceiling], nice=False),
        axis=alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1.0]),
    )
    domain = [*(title for title, _ in OUTCOMES.values()), "Random: switched"]
    colour = colour_by("name", domain, [*(c for _, c in OUTCOMES.values()), RANDOM])
    base = alt.Chart(ranked).encode(x=x, color=colour)
    tooltip = [
        alt.Tooltip("layer:Q", title="After layer"),
        alt.Tooltip("name:N", title="Outcome"),
        alt.Tooltip("n_yes:Q", title="Answers that do"),
        *interval_tooltip("share", "Answers"),
        alt.Tooltip("regime:N", title="Regime"),
    ]
    band = alt.Chart(bands).encode(x=x, color=colour, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    marks: list[Any] = [
        band.mark_bar(width=10, opacity=0.4) if bands["layer"].nunique() <= 1 else band.mark_area(opacity=0.3),
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tooltip),
        *_regime_strip(ranked),
    ]
    title = "There are no answers at this strength"
    switched = ranked[(ranked["outcome"] == "switched") & (ranked["n"] > 0)]
    if len(switched):
        top = largest(switched, "share")
        title = (
            f"At strength {signed_number(strength)} the answers switch most after layer {int(top['layer'])}: "
            f"{int(top['n_yes'])} of {int(top['n'])} ({percent(top['share'], 0)})"
        )
        if top["share"] == 0:
            title = f"At strength {signed_number(strength)} none of {int(top['n'])} answers switches after any layer"
        right = ranked[(ranked["outcome"] == "switched_and_right") & (ranked["layer"] == top["layer"])]
        if len(right) and top["share"] > 0:
            title += f", {int(right['n_yes'].iloc[0])} of them still right"
        at = bands[bands["layer"] == top["layer"]]
        title += f"; random at most {percent(at['high'].iloc[0], 0)}" if len(at) else "; no random control"
    strip = (
        "Strip: the regime by the answers (at least half broken: destructive; half switched: causal; half as before: "
        "committed; else mixed; D, C, –, M where narrow). "
        if ranked["regime"].notna().any()
        else ""
    )
    return as_figure(
        alt.layer(*marks),
        title,
        f"n = {range_words(ranked['n'])} {SPLIT_NAMES.get(split, split)} answers at each layer; bands: "
        "95 % Wilson interval; grey: smallest to largest share that switches under random directions. "
        f"{strip}Classes come from rules, which can err.",
        f"Shares of switched and broken answers over {rows['layer'].nunique()} layers at one strength.",
        omits="Does not show other strengths: layers that do nothing at this one may switch answers at another.",
    )


def separability(rows: pd.DataFrame, threshold: float = 0.5) -> Figure:
    """How well each layer's difference of means tells held-out prompts apart; `threshold` is what guessing reaches."""
    columns = ["layer", "accuracy", "low", "high", "auc", "n_prompts"]
    table = rows.reindex(columns=columns).astype("float64").sort_values("layer")
    x = _layer_x(table, "After layer")
    names = ["Accuracy", "AUC"]
    shape = alt.Shape(
        "measure:N",
        scale=alt.Scale(domain=names, range=["circle", "diamond"]),
        legend=alt.Legend(title=None, orient="top", symbolFillColor=SEPARATED, symbolStrokeWidth=0),
    )
    y = alt.Y(
        "value:Q", title="Held-out prompts", scale=alt.Scale(domain=[0, 1.03], nice=False), axis=alt.Axis(format="%")
    )
    accuracy = table.dropna(subset=["accuracy"]).assign(measure="Accuracy").rename(columns={"accuracy": "value"})
    auc = table.dropna(subset=["auc"]).assign(measure="AUC").rename(columns={"auc": "value"})
    tooltip = [
        alt.Tooltip("layer:Q", title="After layer"),
        alt.Tooltip("measure:N", title="Measure"),
        alt.Tooltip("value:Q", title="Value", format=".1%"),
        alt.Tooltip("n_prompts:Q", title="Prompts"),
    ]
    own = [
        *tooltip,
        alt.Tooltip("low:Q", title="95 % from", format=".1%"),
        alt.Tooltip("high:Q", title="95 % to", format=".1%"),
    ]
    base = alt.Chart(accuracy).encode(x=x)
    chance = alt.Chart(pd.DataFrame({"y": [threshold], "text": ["chance"]}))
    marks = [
        chance.mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=alt.Y("y:Q")),
        chance.mark_text(align="left", dx=4, dy=9, color=MUTED, fontSize=11).encode(
            x=alt.value(0), y=alt.Y("y:Q"), text=alt.Text("text:N")
        ),
        base.mark_rule(strokeWidth=1.6, color=SEPARATED).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2, color=SEPARATED).encode(y=y),
        base.mark_point(filled=True, size=48, opacity=1, color=SEPARATED).encode(y=y, shape=shape, tooltip=own),
        alt.Chart(auc)
        .mark_point(filled=True, size=80, opacity=1, color=SEPARATED)
        .encode(x=x, y=y, shape=shape, tooltip=tooltip),
    ]
    title = "There are no held-out prompts to test the direction on"
    if len(accuracy):
        top = largest(accuracy, "value")
        reading = "which is above chance" if top["low"] > threshold else "which is not clear of chance"
        title = (
            f"The direction separates held-out prompts best after layer {int(top['layer'])}: "
            f"{percent(top['value'], 0)} of {int(top['n_prompts'])} on the right side, {reading}"
        )
    return as_figure(
        alt.layer(*marks),
        title,
        f"n = {range_words(accuracy['n_prompts'])} held-out prompts, two per pair. Direction and threshold "
        "come from the discovery pairs; bars: 95 % Wilson interval of the accuracy; diamonds: AUC, "
        "which needs no threshold. The best layer is picked after looking, so its number is a little "
        "flattering.",
        f"Accuracy and AUC of a linear direction over {len(table)} layers.",
        height=300,
        omits="Does not show that the model uses this direction: what can be separated need not be what decides.",
    )


# --------------------------------------------------------------------------------------------------- whole outputs


def layer_ablation(points: pd.DataFrame, split: str = "heldout") -> Figure:
    """Change of F when the FFN output, or the attention output, of one layer is switched off at the decision "
    "position."""
    rows = point_rows(points)
    rows = rows[(rows["split"] == split) & rows["variant"].isin(["ffn", "attention"])]
    rows = rows.assign(component=rows["variant"].map(COMPONENT_NAMES), mean=rows["delta_mean"], n=rows["n_prompts"])
    single = rows[rows["layer"].notna()].assign(low=rows["delta_low"], high=rows["delta_high"])
    names = [COMPONENT_NAMES["ffn"], COMPONENT_NAMES["attention"]]
    shown = single.dropna(subset=["mean"])
    base = alt.Chart(shown).encode(
        x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True, format="d")),
        xOffset=alt.XOffset("component:N", scale=alt.Scale(domain=names)),
    )
    bars = base.mark_bar().encode(
        y=alt.Y("mean:Q", title="Change of F (logits)"),
        color=colour_by("component", names, (FFN, ATTENTION)),
        tooltip=[
            alt.Tooltip("layer:O", title="Layer"),
            alt.Tooltip("component:N", title="Switched off"),
            *interval_tooltip("logits"),
        ],
    )
    marks: list[Any] = [
        zero_line(),
        bars,
        base.mark_rule(strokeWidth=1.2, color=MUTED).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
    ]
    broken = single[single["mean"].isna()].assign(text="×", zero=0.0)
    if len(broken):
        sign = alt.Chart(broken).mark_text(color=MUTED, fontSize=18, fontWeight="bold")
        marks.append(
            sign.encode(
                x=alt.X("layer:O"),
                xOffset=alt.XOffset("component:N", scale=alt.Scale(domain=names)),
                y=alt.Y("zero:Q"),
                text=alt.Text("text:N"),
            )
        )
    title = "No layer was switched off on these prompts"
    if len(single):
        title = "The model broke whichever layer was switched off"
    if len(shown):
        tops = [largest(part, "mean") for name in names if len(part := shown[shown["component"] == name])]
        told = [f"the {_lower(t['component'])} of layer {int(t['layer'])} ({logits(t['mean'])})" for t in tops]
        title = f"Switched off alone, {' and '.join(told)} move F most on {SPLIT_NAMES.get(split, split)} prompts"
    return as_figure(
        alt.layer(*marks),
        title,
        f"{n_words(rows)} Bars: mean change with 95 % interval over prompts. {_all_layers(rows)}Output "
        "set to zero at the decision position, everything later recomputed. No random control: layers "
        f"are compared with each other.{broken_words(len(broken))}",
        f"Bars of the change of the logit difference by {len(single)} single-layer ablations.",
        omits=(
            "Does not show whether a layer serves this behaviour alone: one that breaks the model counts as large too."
        ),
    )


def patch_by_layer(
    points: pd.DataFrame, baseline: Any, other_mean: float | Mapping[str, float], split: str = "heldout"
) -> Figure:
    """Share of the change between the two prompts that one layer's output brings when patched in.

    Share = (F patched - F unedited) / (F of the other prompts - F unedited), from means on `split`. `other_mean` is the
    mean logit difference of the pairs' other prompts, on that split or by split. 1 is all of it, 0 nothing.
    """
    rows = point_rows(points)
    rows = rows[(rows["split"] == split) & rows["layer"].notna()]
    parts = rows["variant"].astype(str).str.split().str[-1]
    restore = rows["variant"].astype(str).str.startswith("restore").any()
    verb, what = ("Restoring", "restored") if restore else ("Patching", "moved")
    bases = baseline_rows(baseline)
    unedited = bases.loc[bases["split"] == split, "logit_diff_mean"].to_numpy(dtype=float)
    other = other_mean.get(split, np.nan) if isinstance(other_mean, Mapping) else other_mean
    whole = float(other) - float(unedited[0]) if len(unedited) else float("nan")
    usable = np.isfinite(whole) and abs(whole) > 1e-6
    names = {"ffn": "FFN", "attention": "Attention", "residual": "Whole residual stream"}
    table = rows.assign(part=parts.map(names), n=rows["n_prompts"])
    for name, source in (("mean", "delta_mean"), ("one", "delta_low"), ("two", "delta_high")):
        table[name] = table[source] / whole if usable else np.nan
    table["low"], table["high"] = table[["one", "two"]].min(axis=1), table[["one", "two"]].max(axis=1)
    shown = table.dropna(subset=["mean", "part"])
    colour = colour_by("part", names.values(), (FFN, ATTENTION, SKIP))
    base = alt.Chart(shown).encode(x=_layer_x(rows, "Layer whose output is exchanged"), color=colour)
    y = alt.Y("mean:Q", title="Share of the change F(X~) − F(X)", axis=alt.Axis(format="%"))
    tooltip = [
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("part:N", title="Exchanged"),
        *interval_tooltip("share"),
        number_tooltip("delta_mean", "Change of F (logits)"),
    ]
    whole_line = alt.Chart(pd.DataFrame({"y": [1.0], "text": ["all of it"]}))
    marks = [
        zero_line(),
        whole_line.mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=alt.Y("y:Q")),
        whole_line.mark_text(align="left", dx=4, dy=-8, color=MUTED, fontSize=11).encode(
            x=alt.value(0), y=alt.Y("y:Q"), text=alt.Text("text:N")
        ),
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    title = "No layer was patched on these prompts"
    if len(rows):
        title = "The two prompts' mean F do not differ, so no share can be given" if not usable else "Every patch broke"
    if len(shown):
        told = []
        for name in ("FFN", "Attention"):
            part = shown[shown["part"] == name]
            if len(part):
                top = part.iloc[int(part["mean"].to_numpy().argmax())]
                told.append(f"the {_lower(name)} of layer {int(top['layer'])} {percent(top['mean'], 0)}")
        title = f"{verb} one output brings at most: {', '.join(told)} of the change of {logits(whole)} logits"
        if not told:
            title = f"{verb} the residual stream, layer by layer"
    broken = int((rows["n_broken"] > 0).sum())
    return as_figure(
        alt.layer(*marks),
        title,
        f"{n_words(rows)} Band: 95 % interval over prompts of the change that is {what}; the whole "
        "change is taken as given. The residual stream after the last layer brings everything by "
        f"construction. No random control applies here.{broken_words(broken)}",
        "Share of the change between the two prompts by patched layer, for FFN, attention and residual stream.",
        omits=(
            "Does not show parts of one whole: shares need not add up to one, since later layers answer to each output."
        ),
    )


HELD: Mapping[str, tuple[str, str]] = {
    "free": ("Later layers free", SKIP),
    "attention held": ("Later attention held", ATTENTION),
    "ffn held": ("Later FFNs held", FFN),
}


def held(points: pd.DataFrame, split: str = "heldout") -> Figure:
    """Change of F when a layer's residual stream is exchanged: later layers free, their attention or FFNs held."""
    rows = point_rows(points)
    rows = rows[(rows["split"] == split) & rows["layer"].notna() & rows["variant"].isin(HELD)]
    shown = rows.assign(
        name=rows["variant"].map({k: v[0] for k, v in HELD.items()}),
        mean=rows["delta_mean"],
        low=rows["delta_low"],
        high=rows["delta_high"],
        n=rows["n_prompts"],
    ).dropna(subset=["mean"])
    colour = colour_by("name", [t for t, _ in HELD.values()], [c for _, c in HELD.values()])
    base = alt.Chart(shown).encode(x=_layer_x(rows, "Residual stream exchanged after layer"), color=colour)
    y = alt.Y("mean:Q", title="Change of F (logits)")
    tooltip = [
        alt.Tooltip("layer:Q", title="After layer"),
        alt.Tooltip("name:N", title="Variant"),
        *interval_tooltip("logits"),
    ]
    marks = [
        zero_line(),
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    wide = shown.pivot_table(index="layer", columns="variant", values="mean").reindex(columns=list(HELD)).dropna()
    title = "No layer was exchanged on these prompts"
    if len(rows):
        title = "The variants were not all measured after the same layer"
    if len(wide):
        row = largest(wide.assign(gap=wide["attention held"] - wide["ffn held"]).reset_index(), "gap")
        free, attention, ffn = (logits(row[name]) for name in HELD)
        title = (
            f"Exchanged after layer {int(row['layer'])}, F moves {free} logits; {attention} with later attention "
            f"held, {ffn} with "
            "later FFNs held"
        )
    return as_figure(
        alt.layer(*marks),
        title,
        f"{n_words(rows)} Bands: 95 % interval over prompts. Held: the part's outputs in all later "
        "layers stay what they were on the unedited prompt. Where a line falls towards zero, the "
        "held part carries the change on; where it stays, the change needs only the other part, or "
        f"goes straight to the output. After the last layer nothing is left to "
        f"hold.{broken_words(int((rows['n_broken'] > 0).sum()))}",
        "Change of the logit difference by layer, with later layers free, their attention held, or their FFNs held.",
        omits="Does not show what exchanging with unrelated prompts would do: no random control applies here.",
    )


# ----------------------------------------------------------------------------------------------------- the pieces


def _map(cells: pd.DataFrame, colour: alt.Color, tooltip: list[alt.Tooltip], force_text: bool = False) -> Any:
    """Rectangles with their numbers where there is room; clicking one selects it as `cell`."""
    drawn = cells.assign(layer=cells["layer"].astype("int64"))
    cell = alt.selection_point(name="cell", fields=["layer", "strength"])
    n_layers = drawn["layer"].nunique()
    x = alt.X("layer:O", title="After layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y(
        "strength:O",
        title="Strength",
        sort="descending",
        axis=alt.Axis(labelExpr="replace(format(datum.value, '+~g'), '-', '−')"),
    )
    base = alt.Chart(drawn).encode(x=x, y=y)
    ground = base.mark_rect(color=MUTED, opacity=0.22)
    filled = (
        base.mark_rect(cursor="pointer")
        .encode(
            color=colour,
            opacity=alt.condition("isValid(datum.shown)", alt.value(1), alt.value(0)),
            stroke=alt.condition(cell, alt.value(RANKED), alt.value("transparent"), empty=False),
            strokeWidth=alt.condition(cell, alt.value(3), alt.value(0), empty=False),
            tooltip=tooltip,
        )
        .add_params(cell)
    )
    marks = [ground, filled]
    if n_layers <= MAX_TEXT_CELLS or force_text:
        size = 12 if n_layers <= MAX_TEXT_CELLS else 10
        for strong, shade in ((True, "white"), (False, "#1E262C")):
            known = drawn[(drawn["strong"].astype(bool) == strong) & drawn["shown"].notna()]
            if len(known):
                marks.append(
                    alt.Chart(known).mark_text(fontSize=size, color=shade).encode(x=x, y=y, text=alt.Text("text:N"))
                )
    broken = drawn[drawn["shown"].isna()].assign(text="×")
    if len(broken):
        marks.append(
            alt.Chart(broken)
            .mark_text(fontSize=16, fontWeight="bold", color=MUTED)
            .encode(x=x, y=y, text=alt.Text("text:N"))
        )
    return alt.layer(*marks)


def _map_height(cells: pd.DataFrame) -> int:
    # Legend, axis and title stand inside the height.
    return int(np.clip(44 * cells["strength"].nunique() + 130, 220, 560))


def _gradient(title: str, form: str) -> alt.Legend:
    return alt.Legend(
        title=title, titleLimit=320, orient="top", gradientLength=220, gradientThickness=11, format=form, tickCount=5
    )


def _with_random(rows: pd.DataFrame) -> pd.DataFrame:
    """The ranked points with mean, smallest and largest mean change of the random points at their coordinates."""
    random = rows[rows["arm"] == "random"].groupby(["layer", "strength"])["delta_mean"].agg(["mean", "min", "max"])
    random = random.rename(columns={"mean": "random_mean", "min": "random_low", "max": "random_high"})
    return rows[rows["arm"] == "ranked"].join(random, on=["layer", "strength"])


def _with_regimes(rows: pd.DataFrame, regimes: pd.DataFrame | None) -> pd.DataFrame:
    if regimes is None or not len(regimes):
        return rows.assign(regime=None)
    table = regimes[["key", "split", "regime"]].drop_duplicates(["key", "split"])
    return rows.merge(table, on=["key", "split"], how="left")


def _regime_strip(rows: pd.DataFrame) -> list[alt.Chart]:
    """Bars above 100 %, one per run of layers of the same regime, each with the regime's name or letter."""
    layers = rows.dropna(subset=["regime"]).drop_duplicates("layer").sort_values("layer")
    if layers.empty:
        return []
    number_of_run = (layers["regime"] != layers["regime"].shift()).cumsum()
    runs = layers.groupby(number_of_run, sort=True).agg(
        regime=("regime", "first"), first=("layer", "min"), last=("layer", "max")
    )
    wide = max(float(layers["layer"].max() - layers["layer"].min() + 1), 1.0)
    runs["share"] = (runs["last"] - runs["first"] + 1) / wide
    runs["letter"] = [REGIMES[name][0] for name in runs["regime"]]
    runs = runs.assign(
        start=runs["first"] - 0.42,
        end=runs["last"] + 0.42,
        middle=(runs["first"] + runs["last"]) / 2,
        low=1.05,
        high=1.08,
    )
    tooltip = [
        alt.Tooltip("regime:N", title="Regime"),
        alt.Tooltip("first:Q", title="From layer"),
        alt.Tooltip("last:Q", title="To layer"),
    ]
    fitting = "width * datum.share > 7 * length(datum.regime) ? datum.regime : datum.letter"
    marks = []
    for name, (_, colour) in REGIMES.items():  # a chart each: a colour scale would run into that of the outcomes
        own = alt.Chart(runs[runs["regime"] == name])
        if (runs["regime"] == name).any():
            marks += [
                own.mark_rect(color=colour).encode(
                    x=alt.X("start:Q"), x2=alt.X2("end:Q"), y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), tooltip=tooltip
                ),
                own.transform_calculate(text=fitting)
                .mark_text(dy=-9, fontSize=11, fontWeight=600, color=colour)
                .encode(x=alt.X("middle:Q"), y=alt.Y("high:Q"), text=alt.Text("text:N")),
            ]
    return marks


def _layer_x(rows: pd.DataFrame, title: str) -> alt.X:
    count = int(rows["layer"].max()) + 1 if rows["layer"].notna().any() else 1
    scale = alt.Scale(domain=[-0.5, count - 0.5], nice=False)
    return alt.X("layer:Q", title=title, scale=scale, axis=layer_tick_axis(count))


def _direction(summary: Mapping[str, Any]) -> str:
    return DIRECTION_WORDS.get(str(summary.get("direction")), "the direction")


def _strength_words(summary: Mapping[str, Any]) -> str:
    if summary.get("relative"):
        return "Strength 1 is as long as the residual stream is there. "
    return "Strength is absolute, in the residual stream's own unit. "


def _random_range(row: pd.Series) -> str:
    if not np.isfinite(row["random_low"]):
        return "no random direction was measured there"
    return f"random directions by {logits(row['random_low'])} to {logits(row['random_high'])}"


def _draws(rows: pd.DataFrame) -> str:
    draws = rows[rows["arm"] == "random"]
    if draws.empty:
        return ""
    means = draws["delta_mean"].dropna()
    spread = f", over the whole map {logits(means.min())} to {logits(means.max())}" if len(means) else ""
    return f"{draws['draw'].nunique()} random directions of the same length at each cell{spread}. "


def _none_random(rows: pd.DataFrame) -> str:
    if len(rows) and not (rows["arm"] == "random").any():
        return "No random control was measured, so nothing here shows a cause. "
    return ""


def _all_layers(rows: pd.DataFrame) -> str:
    """What switching off all layers' outputs does, from the points over a band of layers."""
    band = rows[rows["layer"].isna()]
    told = [
        f"the {len(listed(row['layers']))} {_lower(str(row['component']))} outputs {logits(row['delta_mean'])}"
        for row in band.to_dict("records")
    ]
    return f"Switched off together (not drawn): {', '.join(told)}. " if told else ""


def _lower(component: str) -> str:
    return component if component == "FFN" else component.lower()
