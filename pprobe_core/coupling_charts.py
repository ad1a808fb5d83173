"""The chart of what either coupling makes of the FFNs' change, and its words; `charts` says how charts are made."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from pprobe_core.charts import FFN, MUTED, NORM_AWARE, PLAIN, Figure, as_figure, colour_by, number, zero_line
from pprobe_core.wording import plural

COUPLING_NAMES: Mapping[str, str] = {"plain": "Sum of I, plain", "norm_aware": "Sum of I, norm-aware"}
EXACT = "FFN, exact"
AGREE = 0.1  # ours: below this share missed a coupling counts as right, and two that differ by less as alike
FOLD = 2.0  # ours: from twice (or half) the size on, a title names the factor
ROOM = 2.5  # marks beyond so many times the largest exact change are drawn at the edge, or the bars would vanish


def has_couplings(summary: Mapping[str, Any]) -> bool:
    """Whether a run compared both couplings; older ones did not."""
    rows = summary.get("layers") or []
    return bool(summary.get("couplings")) and bool(rows) and "ffn_change" in rows[0]


def couplings_agree(couplings: Mapping[str, Any]) -> bool:
    """Whether both couplings tell the same: what they miss differs by less than AGREE, and the first neurons too."""
    missed = [couplings[name]["missed"] for name in COUPLING_NAMES]
    ranks = couplings["ranks"]
    if None in missed or ranks["overlap"] is None:
        return False
    return bool(abs(missed[0] - missed[1]) < AGREE and ranks["overlap"] >= (1 - 2 * AGREE) * ranks["top"])


def coupling_title(couplings: Mapping[str, Any]) -> str:
    """What is seen, in one sentence: how far plain coupling is off, and how far norm-aware coupling."""
    plain, aware = couplings["plain"], couplings["norm_aware"]
    if plain["missed"] is None or aware["missed"] is None:
        return "The FFNs' contributions do not change between the two prompts, so there is nothing to compare"
    size, fits = plain["size"], f"norm-aware coupling misses {_percent(aware['missed'])}"
    if size is not None and size >= FOLD:
        return f"Plain coupling overstates the FFNs' change {number(size, 1 if size < 10 else 0)}-fold here; {fits}"
    if size is not None and size <= 1 / FOLD:
        return f"Plain coupling shows only {_percent(size)} of the FFNs' change here; {fits}"
    return f"Plain coupling misses {_percent(plain['missed'])} of the FFNs' change; {fits}"


def coupling_sums(layers: Sequence[Mapping[str, Any]], couplings: Mapping[str, Any]) -> Figure:
    """Exact mean change of each FFN's contribution as bars, the sums of I under either coupling as marks.

    `layers` and `couplings` are those of a run's summary (probing.couplings).
    """
    exact, marks = _rows(layers)
    names = [EXACT, *COUPLING_NAMES.values()]
    colour = colour_by("part", names, (FFN, PLAIN, NORM_AWARE))
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("shown:Q", title="Change, perturbed − original (logits)")
    tooltip = [
        alt.Tooltip("layer:O", title="Layer"),
        alt.Tooltip("part:N", title="Part"),
        alt.Tooltip("mean:Q", title="Mean (logits)", format="+.3f"),
        alt.Tooltip("low:Q", title="95 % from", format="+.3f"),
        alt.Tooltip("high:Q", title="95 % to", format="+.3f"),
    ]
    bars = alt.Chart(exact).mark_bar(opacity=0.75).encode(x=x, y=y, color=colour, tooltip=tooltip)
    whisker = (
        alt.Chart(exact).mark_rule(strokeWidth=1.2, color=MUTED).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    )
    shape = alt.Shape(
        "shape:N",
        legend=None,
        scale=alt.Scale(
            domain=[*COUPLING_NAMES.values(), "above", "below"],
            range=["diamond", "circle", "triangle-up", "triangle-down"],
        ),
    )
    points = (
        alt.Chart(marks)
        .mark_point(filled=True, size=80, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip)
    )
    n_off = int(marks["off"].sum())
    edge = (
        f" {plural(n_off, 'mark', ('lies', 'lie'))} beyond the axis, drawn as triangles at its edge." if n_off else ""
    )
    return as_figure(
        alt.layer(zero_line(), bars, whisker, points),
        coupling_title(couplings),
        f"Mean over {plural(couplings['n_pairs'], 'pair')}; whiskers: 95 % interval.{edge} Norm-aware "
        "holds the norms at their scale on the original prompt; what it misses is the change of that "
        "scale.",
        f"Bars of each FFN's exact change for {len(exact)} layers, with the sums of importance under both couplings.",
        omits=(
            "Does not show neurons that push against each other, which cancel in these sums, nor effects "
            "through later layers."
        ),
    )


def _rows(layers: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars and marks: layer, part, mean, low, high, shown; marks also off (beyond the axis) and shape."""

    def values(key: str, name: str) -> pd.DataFrame:
        spans = [row.get(f"{key}_interval") or (None, None) for row in layers]
        return pd.DataFrame(
            {
                "layer": [row["layer"] for row in layers],
                "part": name,
                "mean": [row[key] for row in layers],
                "low": [low for low, _ in spans],
                "high": [high for _, high in spans],
            }
        )

    exact = values("ffn_change", EXACT)
    marks = pd.concat([values(f"sum_{key}", name) for key, name in COUPLING_NAMES.items()], ignore_index=True)
    aware = marks[marks["part"] == COUPLING_NAMES["norm_aware"]]
    room = ROOM * float(max(exact["mean"].abs().max(), aware["mean"].abs().max()))
    exact["shown"] = exact["mean"]
    marks["off"] = marks["mean"].abs() > room
    marks["shown"] = marks["mean"].clip(-room, room)
    marks["shape"] = marks["part"].where(~marks["off"], marks["mean"].gt(0).map({True: "above", False: "below"}))
    return exact, marks


def _percent(share: float) -> str:
    return f"{number(100 * share, 0 if share >= 0.02 else 1)}\u00a0%"
