"""The map of a run's neurons, layer by importance: single points, or counts where there are too many to draw."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd

from pprobe_core.charts import (
    FFN,
    MUTED,
    RANKING_COLUMN,
    RANKING_TITLE,
    Figure,
    as_figure,
    layer_tick_axis,
    n_layers,
    neuron_name,
    number,
    padded,
)

SCATTER_LIMIT = 6_000  # neurons drawn one by one; above it the crowd is counted and only the top neurons stay points
BINS = 80  # steps of importance that counts are taken in
SPREAD = 0.7  # share of a layer's width over which its neurons are spread
MAX_LABELS = 8
LABEL_WIDTH, LABEL_HEIGHT = 0.19, 0.05  # of a name beside its point, as shares of a chart of about 370 by 330 pixels
RIGHT_SIDE = 0.8  # share of the width from which names stand left of their points


def neuron_map(
    crowd: pd.DataFrame,
    top: pd.DataFrame,
    ranking: str,
    null_threshold: float | None = None,
    n_beyond: int | None = None,
    selectable: bool = True,
    brush: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """All neurons, layer by importance, with the top ones of `ranking` named and the control's threshold drawn.

    `crowd` has every neuron (layer, neuron and the ranking's column) or, of large models, their counts as `cells_of`
    and `Store.neuron_map` give them; `top` the first neurons in the ranking's order. `n_beyond` neurons pass the
    threshold (counted here where the crowd has every neuron). The selection is `brush`: a rectangle in the form that
    `region_of` gives, drawn from the start.
    """
    column = RANKING_COLUMN[ranking]
    top = top.dropna(subset=[column])
    if "n_neurons" not in crowd:
        crowd = crowd.dropna(subset=[column])
        if null_threshold is not None:
            n_beyond = int((crowd[column].abs() > null_threshold).sum())
        if len(crowd) > SCATTER_LIMIT:
            crowd = cells_of(crowd, ranking)
    counted = "n_neurons" in crowd
    n_neurons = int(crowd["n_neurons"].sum()) if counted else len(crowd)
    extremes = crowd[["low", "high"]].to_numpy().ravel() if counted else crowd[column].to_numpy()
    count = n_layers(crowd)
    x = alt.X(
        "position:Q",
        title="Layer",
        scale=alt.Scale(domain=[-0.5, max(count - 0.5, 0.5)], nice=False),
        axis=layer_tick_axis(count),
    )
    y_scale = padded([*extremes, null_threshold or 0.0, 0.0])
    y = alt.Y(f"{column}:Q", title=RANKING_TITLE[ranking], scale=y_scale)
    ground = _cells(crowd, x, y) if counted else _points(crowd, column, x, y)
    marks: list[Any] = [ground, *_marked(_placed(top, column, crowd), column, count, x, y, selectable, brush)]
    reading = (
        f"The fuller a grey cell, the more of the {n_neurons:,} neurons lie there; "
        if counted
        else f"Each grey point is one of {n_neurons:,} neurons; "
    )
    title = _leader(top, column, signed=ranking == "shared")
    if null_threshold is None or not np.isfinite(null_threshold):
        reading += "the sign-flip control's threshold is known for the shared ranking only. "
    else:
        marks.insert(1, _threshold(null_threshold, both_signs=ranking == "shared"))
        reading += "dashed: what chance alone reaches when the signs of the pairs are flipped at random. "
        if len(top) and n_beyond is not None:
            title += f"; {n_beyond:,} of {n_neurons:,} neurons pass the control's threshold"
    return as_figure(
        alt.layer(*marks),
        title,
        reading,
        f"Neurons of {count} layers by {RANKING_TITLE[ranking]}; the first {len(top)} are marked.",
        height=430,
        omits="Does not show what a neuron does through later layers, nor what happens when it is switched off.",
    )


def cells_of(neurons: pd.DataFrame, ranking: str, bins: int = BINS) -> pd.DataFrame:
    """How many neurons of each layer lie in each of `bins` equal steps of a ranking's score.

    Columns: layer, low, high (ends of the step, from the smallest to the largest score of all), n_neurons; empty steps
    are left out. `Store.neuron_map` gives the same without reading every neuron.
    """
    scores = neurons.dropna(subset=[RANKING_COLUMN[ranking]])
    values = scores[RANKING_COLUMN[ranking]].to_numpy(dtype=float)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    width = (high - low) / bins or 1e-12
    step = np.clip(np.floor((values - low) / width), 0, bins - 1).astype(int)
    counted = pd.DataFrame({"layer": scores["layer"].to_numpy(), "step": step})
    cells = counted.value_counts().rename("n_neurons").reset_index().sort_values(["layer", "step"], ignore_index=True)
    return pd.DataFrame(
        {
            "layer": cells["layer"],
            "low": low + cells["step"] * width,
            "high": low + (cells["step"] + 1) * width,
            "n_neurons": cells["n_neurons"],
        }
    )


Ends = tuple[float, float]


def region_text(brush: Mapping[str, Sequence[float]], ranking: str) -> str:
    """A rectangle drawn in the map as an address carries it: left, right, low, high; "" for none."""
    sides = [brush.get(name) or () for name in ("position", RANKING_COLUMN[ranking])]
    if any(len(ends) != 2 for ends in sides):
        return ""
    return ",".join(f"{end:.5g}" for ends in sides for end in sorted(ends))


def around(first: int, last: int, scores: Sequence[float], ranking: str) -> dict[str, tuple[float, float]]:
    """The rectangle around whole layers, `last` included, and scores between two ends, in whatever order they are."""
    return {"position": (first - 0.5, last + 0.5), RANKING_COLUMN[ranking]: (min(scores), max(scores))}


def score_range(crowd: pd.DataFrame, ranking: str) -> Ends:
    """Smallest and largest score of the neurons that the map draws, one by one or counted; (0, 0) without any."""
    column = RANKING_COLUMN[ranking]
    low, high = (crowd[column], crowd[column]) if column in crowd else (crowd["low"], crowd["high"])
    return (float(low.min()), float(high.max())) if len(crowd) else (0.0, 0.0)


def region_of(text: str, ranking: str) -> dict[str, tuple[float, float]] | None:
    """The rectangle that an address carries, None where it carries none that can be drawn."""
    try:
        left, right, low, high = map(float, text.split(","))
    except ValueError:
        return None
    if not np.isfinite((left, right, low, high)).all() or left > right or low > high:
        return None
    return {"position": (left, right), RANKING_COLUMN[ranking]: (low, high)}


def region(brush: Mapping[str, Sequence[float]], ranking: str) -> tuple[Ends, Ends]:
    """A rectangle drawn in the map as ends of position (layers, each spread by SPREAD) and of the ranking's score."""
    sides = [brush.get(name) or () for name in ("position", RANKING_COLUMN[ranking])]
    position, score = ((min(ends), max(ends)) if len(ends) == 2 else (-np.inf, np.inf) for ends in sides)
    return position, score


def _positions(rows: pd.DataFrame, width: int) -> pd.Series:
    """Where neurons stand on the x axis: at their layer, spread by their index inside it (0 to `width`)."""
    return rows["layer"] + (rows["neuron"] / max(width, 1) - 0.5) * SPREAD


def _points(crowd: pd.DataFrame, column: str, x: alt.X, y: alt.Y) -> alt.Chart:
    width = int(crowd["neuron"].max()) if len(crowd) else 1
    rows = crowd[["layer", "neuron", column]].assign(position=_positions(crowd, width))
    return alt.Chart(rows).mark_circle(size=12, opacity=0.45, color=MUTED).encode(x=x, y=y)


def _cells(cells: pd.DataFrame, x: alt.X, y: alt.Y) -> alt.Chart:
    """A rectangle per cell; its opacity grows with the logarithm of the count, so that single neurons stay visible."""
    rows = cells.assign(left=cells["layer"] - SPREAD / 2, right=cells["layer"] + SPREAD / 2)
    tooltip = [
        alt.Tooltip("layer:Q", title="Layer"),
        alt.Tooltip("low:Q", title="From", format="+.3f"),
        alt.Tooltip("high:Q", title="To", format="+.3f"),
        alt.Tooltip("n_neurons:Q", title="Neurons here", format=","),
    ]
    fullest = max(int(cells["n_neurons"].max()), 2) if len(cells) else 2
    return (
        alt.Chart(rows)
        .mark_rect(color=MUTED)
        .encode(
            x=alt.X("left:Q", title=x["title"], scale=x["scale"], axis=x["axis"]),
            x2=alt.X2("right:Q"),
            y=alt.Y("low:Q", title=y["title"], scale=y["scale"]),
            y2=alt.Y2("high:Q"),
            opacity=alt.Opacity(
                "n_neurons:Q", scale=alt.Scale(type="log", domain=[1, fullest], range=[0.22, 0.95]), legend=None
            ),
            tooltip=tooltip,
        )
    )


def _placed(top: pd.DataFrame, column: str, crowd: pd.DataFrame) -> pd.DataFrame:
    """The top neurons with position, name and label; labels that would be written over one already placed are empty."""
    counted = "n_neurons" in crowd
    width = int(crowd.groupby("layer")["n_neurons"].sum().max()) - 1 if counted and len(crowd) else 1
    if not counted and len(crowd):
        width = int(crowd["neuron"].max())
    values = crowd[["low", "high"]] if counted else crowd[[column]]
    spread = float(values.max().max() - values.min().min()) if len(crowd) else 1.0
    rows = top.assign(
        position=_positions(top, width),
        name=[neuron_name(a, b) for a, b in zip(top["layer"], top["neuron"], strict=True)],
    )
    count = max(n_layers(crowd), 1)
    labels: list[str] = []
    taken: list[tuple[float, float]] = []  # where a written name begins, and its height, as shares of the chart
    for row in rows.to_dict("records"):
        x, y = (row["position"] + 0.5) / count, row[column] / (spread or 1.0)
        x -= LABEL_WIDTH if x > RIGHT_SIDE else 0.0
        free = all(abs(x - px) > LABEL_WIDTH or abs(y - py) > LABEL_HEIGHT for px, py in taken)
        written = free and len(taken) < MAX_LABELS
        labels.append(row["name"] if written else "")
        if written:
            taken.append((x, y))
    return rows.assign(label=labels)


def _marked(
    rows: pd.DataFrame,
    column: str,
    count: int,
    x: alt.X,
    y: alt.Y,
    selectable: bool,
    brush: Mapping[str, Sequence[float]] | None,
) -> list[alt.Chart | alt.LayerChart]:
    """The top neurons as points that a rectangle can be drawn over, and the names beside some of them."""
    extras = (("sign_consistency", "Same sign in", ".0%"), ("coherence", "Coherence", ".2f"))
    tooltip = [
        alt.Tooltip("name:N", title="Neuron"),
        alt.Tooltip(f"{column}:Q", title=y["title"], format="+.3f"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=form) for name, title, form in extras if name in rows),
    ]
    points = alt.Chart(rows).mark_circle(size=52, color=FFN, opacity=0.95).encode(x=x, y=y, tooltip=tooltip)
    if selectable:
        drawn: Any = {"x": list(brush["position"]), "y": list(brush[column])} if brush else alt.Undefined
        points = points.add_params(alt.selection_interval(name="brush", encodings=["x", "y"], value=drawn))
    marks: list[alt.Chart | alt.LayerChart] = [points]
    at_right = (rows["position"] + 0.5) / count > RIGHT_SIDE
    sides: tuple[tuple[Any, Literal["left", "right"], int], ...] = ((~at_right, "left", 7), (at_right, "right", -7))
    for here, align, shift in sides:
        named = rows[here & (rows["label"] != "")]
        if len(named):
            text = alt.Chart(named).mark_text(align=align, dx=shift, fontSize=11, color=FFN)
            marks.append(text.encode(x=alt.X("position:Q"), y=alt.Y(f"{column}:Q"), text=alt.Text("label:N")))
    return marks


def _threshold(value: float, both_signs: bool) -> alt.Chart:
    limits = pd.DataFrame({"y": [value, -value] if both_signs else [value]})
    return alt.Chart(limits).mark_rule(strokeDash=[4, 4], color=MUTED).encode(y=alt.Y("y:Q"))


def _leader(top: pd.DataFrame, column: str, signed: bool) -> str:
    if top.empty:
        return "No neuron has a score"
    first = top.iloc[0]
    return f"{neuron_name(first['layer'], first['neuron'])} leads with {number(first[column], signed=signed)} logits"
