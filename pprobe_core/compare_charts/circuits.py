"""Base models against their aligned twins, and the neurons that circuits of one model share."""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core.charts import (
    MUTED,
    Figure,
    as_figure,
)
from pprobe_core.compare_charts.marks import (
    model_colour,
    model_shape,
    numbers_on_shades,
    present_in,
    share_colour,
    typed,
)
from pprobe_core.compare_stats import ALPHA
from pprobe_core.compare_words import (
    expected_words,
    in_sentence,
    over_models,
    p_words,
)
from pprobe_core.sweep_rows import circuit_words


def opposition_pairs(twins: pd.DataFrame, models: Sequence[str], circuit: str) -> Figure:
    """F of one prompt of every pair in the base model (across) and in its aligned twin (up): who turned round.

    `twins`: circuit, pair_id, condition (which prompt), label_base, label_aligned, f_base, f_aligned, class_base,
    class_aligned, side_base, side_aligned. Colours are those of the aligned models.
    """
    texts = ("circuit", "pair_id", "condition", "label_base", "label_aligned", "class_base", "class_aligned")
    rows = typed(twins, texts, ("f_base", "f_aligned"))
    rows = rows[(rows["circuit"] == circuit) & rows["label_aligned"].isin(models)].assign(label=rows["label_aligned"])
    rows = rows.dropna(subset=["f_base", "f_aligned"])
    sizes = rows[["f_base", "f_aligned"]].abs().to_numpy()
    limit = 1.12 * float(sizes.max()) if sizes.size and sizes.max() > 0 else 1.0
    scale = alt.Scale(domain=[-limit, limit], nice=False)
    axis = alt.Axis(grid=False, tickCount=7, format=".3~r")
    x = alt.X(
        "f_base:Q",
        title="Logit difference F, base model",
        scale=scale,
        axis=axis,
    )
    y = alt.Y(
        "f_aligned:Q",
        title="F, aligned model",
        scale=scale,
        axis=axis,
    )
    zeros = pd.DataFrame({"zero": [0.0]})
    ends = pd.DataFrame({"x": [-limit, limit]})
    marks: list[Any] = [
        alt.Chart(zeros).mark_rule(color=MUTED, opacity=0.8).encode(x=alt.X("zero:Q", scale=scale)),
        alt.Chart(zeros).mark_rule(color=MUTED, opacity=0.8).encode(y=alt.Y("zero:Q", scale=scale)),
        alt.Chart(ends)
        .mark_line(color=MUTED, strokeDash=[4, 4], opacity=0.7)
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("x:Q", scale=scale)),
        alt.Chart(rows)
        .mark_point(filled=True, size=52, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=model_colour(rows, models),
            shape=model_shape(rows, models),
            tooltip=[
                alt.Tooltip("pair_id:N", title="Pair"),
                alt.Tooltip("label_base:N", title="Base"),
                alt.Tooltip("label_aligned:N", title="Aligned"),
                alt.Tooltip("f_base:Q", title="F, base", format="+.2f"),
                alt.Tooltip("f_aligned:Q", title="F, aligned", format="+.2f"),
                alt.Tooltip("class_base:N", title="Base answers"),
                alt.Tooltip("class_aligned:N", title="Aligned answers"),
            ],
        ),
        *_quadrant_names(limit, scale),
    ]
    condition = str(rows["condition"].iloc[0]) if len(rows) else "original"
    told = []
    for label in present_in(rows, models):
        own = rows[rows["label"] == label]
        opposite = (own["f_base"] > 0) != (own["f_aligned"] > 0)
        told.append((label, float(opposite.mean()), f"{int(opposite.sum())} of {len(own)} pairs"))
    title = f"No base model was measured beside its aligned twin on {in_sentence(circuit_words(circuit))}"
    if told:
        title = f"{circuit_words(circuit)}: base and aligned twin lie on opposite sides in {over_models(told)}"
    return as_figure(
        alt.layer(*marks),
        title,
        f"One point per prompt pair (n = {len(rows)}), {condition} prompt. On the dashed line alignment "
        "changes nothing; above zero a model leans to the target tokens.",
        f"Scatter of the aligned model's F against the base model's F, {len(rows)} pairs.",
        height=430,
        omits=(
            "Does not show whether the base model knows the chat format at all: read its answers before its margin."
        ),
    )


def _quadrant_names(limit: float, scale: alt.Scale) -> list[alt.Chart]:
    corners: tuple[tuple[float, float, Literal["left", "right"], Literal["top", "bottom"], str], ...] = (
        (-limit, limit, "left", "top", "alignment turns to target"),
        (limit, limit, "right", "top", "target in both"),
        (-limit, -limit, "left", "bottom", "control in both"),
        (limit, -limit, "right", "bottom", "alignment turns to control"),
    )
    return [
        alt.Chart(pd.DataFrame({"x": [x], "y": [y], "text": [text]}))
        .mark_text(
            align=align,
            baseline=baseline,
            dx=6 if align == "left" else -6,
            dy=6 if baseline == "top" else -6,
            color=MUTED,
            fontSize=11.5,
            fontStyle="italic",
        )
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=scale), text=alt.Text("text:N"))
        for x, y, align, baseline, text in corners
    ]


def overlap_matrix(overlap: pd.DataFrame, label: str) -> Figure:
    """How many of their first neurons every two circuits of one model share, against chance.

    `overlap`: label, circuit_a, circuit_b, k, n_shared, n_neurons, expected, p, p_holm, jaccard, sign_agreement and,
    where known, expected_by_layer, p_by_layer_holm (chance inside the circuits' own layers).
    """
    numbers = ("k", "n_shared", "n_neurons", "expected", "p_holm", "jaccard", "sign_agreement")
    rows = typed(overlap, ("label", "circuit_a", "circuit_b"), (*numbers, "expected_by_layer", "p_by_layer_holm"))
    rows = rows[rows["label"] == label].dropna(subset=["n_shared", "k"])
    circuits = list(dict.fromkeys([*rows["circuit_a"], *rows["circuit_b"]]))
    place = {circuit: i for i, circuit in enumerate(circuits)}
    swapped = rows["circuit_a"].map(place) > rows["circuit_b"].map(place)  # one triangle, whatever order the rows have
    rows = rows.assign(
        first=rows["circuit_b"].where(swapped, rows["circuit_a"]).map(circuit_words),
        second=rows["circuit_a"].where(swapped, rows["circuit_b"]).map(circuit_words),
        share=rows["n_shared"] / rows["k"].replace(0, np.nan),
        chance=rows["expected_by_layer"].fillna(rows["expected"]),
        p_used=rows["p_by_layer_holm"].fillna(rows["p_holm"]),
    )
    rows["beyond"] = rows["p_used"] < ALPHA
    rows["text"] = [
        f"{int(n)}{'*' if beyond else ''}" for n, beyond in zip(rows["n_shared"], rows["beyond"], strict=True)
    ]
    names = [circuit_words(circuit) for circuit in circuits]
    limit = max(float(rows["share"].max()), 0.1) if len(rows) else 1.0
    x = alt.X(
        "first:N", sort=names[:-1], title=None, axis=alt.Axis(labelAngle=-30, labelLimit=130, ticks=False, domain=False)
    )
    y = alt.Y("second:N", sort=names[1:], title=None, axis=alt.Axis(labelLimit=150, ticks=False, domain=False))
    marks: list[Any] = [
        alt.Chart(rows)
        .mark_rect(stroke=MUTED, strokeOpacity=0.4)
        .encode(
            x=x,
            y=y,
            color=share_colour("share", limit, "Shared, of the first neurons"),
            tooltip=[
                alt.Tooltip("first:N", title="Circuit"),
                alt.Tooltip("second:N", title="and"),
                alt.Tooltip("n_shared:Q", title="Shared"),
                alt.Tooltip("k:Q", title="Of the first"),
                alt.Tooltip("expected:Q", title="Chance, whole model", format=".2f"),
                alt.Tooltip("expected_by_layer:Q", title="Chance, same layers", format=".2f"),
                alt.Tooltip("p_used:Q", title="p (Holm)", format=".2g"),
                alt.Tooltip("jaccard:Q", title="Jaccard", format=".2f"),
                alt.Tooltip("sign_agreement:Q", title="Same sign", format=".0%"),
            ],
        )
    ]
    marks += numbers_on_shades(rows, "share", limit, 12.5, x, y)
    title = f"No two circuits were measured in {label}"
    if len(rows):
        top = rows.sort_values(["n_shared", "p_used"], ascending=[False, True]).iloc[0]
        title = (
            f"In {label} {in_sentence(top['first'])} and {in_sentence(top['second'])} share most: "
            f"{int(top['n_shared'])} of {int(top['k'])} neurons, chance {expected_words(top['chance'])} "
            f"({p_words(top['p_used'])}, Holm)"
        )
        if top["n_shared"] == 0:
            title = f"In {label} no two circuits share any of their first {int(top['k'])} neurons"
    layered = rows["expected_by_layer"].notna().any()
    chance = "drawn from the same layers" if layered else "drawn from the whole model, although layers differ"
    return as_figure(
        alt.layer(*marks),
        title,
        "Neurons that are among the first of both circuits by |mean I|; * more than chance (neurons "
        f"{chance}), hypergeometric, p < 0.05 after Holm over all pairs.",
        f"Triangle of shared neurons of {len(circuits)} circuits in {label}.",
        height=int(np.clip(40 * max(len(circuits) - 1, 1) + 170, 230, 520)),
        omits="Does not show a common mechanism: neurons that write large vectors rank high in many circuits.",
    )
