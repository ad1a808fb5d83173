"""What the charts of several models share: a model's colour and shape, relative depth, typed columns."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from pprobe_core.charts import legend_columns
from pprobe_core.sweep_rows import circuit_words
from pprobe_core.window_charts import SEQUENTIAL

# Six models at most: told apart by people with protanopia and deuteranopia, at least 3:1 on white and near-black, and
# far from the colours that mean something on other pages.
MODEL_COLOURS = ("#029EBF", "#BF2E5A", "#6E9F00", "#CA7892", "#447426", "#ED655F")
MODEL_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DEPTH_TITLE = "Depth of the layer (0 % first, 100 % last)"


def typed(frame: pd.DataFrame, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """The frame with every column a chart reads; numbers are floats, NaN where there is none."""
    out = frame.reindex(columns=list(dict.fromkeys([*texts, *numbers])))
    for name in numbers:
        out[name] = pd.to_numeric(out[name], errors="coerce").astype("float64")
    return out


def present_in(rows: pd.DataFrame, models: Sequence[str]) -> list[str]:
    """The models that have rows, in the order of `models`."""
    there = set(rows["label"])
    return [label for label in models if label in there]


def in_order(rows: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The rows sorted by the place of their model."""
    return rows.assign(place=rows["label"].map({label: i for i, label in enumerate(models)})).sort_values("place")


def _model_legend(present: Sequence[str]) -> alt.Legend | None:
    if not present:  # a legend without entries has no size, and a chart without size cannot be drawn
        return None
    columns = legend_columns(present)
    return alt.Legend(title=None, orient="top", columns=columns, labelLimit=220, symbolOpacity=1, symbolSize=80)


def model_colour(rows: pd.DataFrame, models: Sequence[str]) -> alt.Color:
    """Colour by model, fixed by its place in `models`, with the legend of those that have rows."""
    present = present_in(rows, models)
    colours = [MODEL_COLOURS[list(models).index(label) % len(MODEL_COLOURS)] for label in present]
    scale = alt.Scale(domain=present, range=colours)
    return alt.Color("label:N", scale=scale, legend=_model_legend(present))


def model_shape(rows: pd.DataFrame, models: Sequence[str]) -> alt.Shape:
    """Shape by model, fixed like its colour; the two share one legend."""
    present = present_in(rows, models)
    shapes = [MODEL_SHAPES[list(models).index(label) % len(MODEL_SHAPES)] for label in present]
    return alt.Shape("label:N", scale=alt.Scale(domain=present, range=shapes), legend=_model_legend(present))


def share_colour(field: str, limit: float, title: str) -> alt.Color:
    """Shades of one colour from 0 to `limit`, a share; the legend above the chart."""
    return alt.Color(
        f"{field}:Q",
        scale=alt.Scale(domain=[0, limit], range=list(SEQUENTIAL)),
        legend=alt.Legend(
            title=title,
            titleLimit=260,
            orient="top",
            gradientLength=200,
            gradientThickness=11,
            format=".0%",
            tickCount=4,
        ),
    )


def numbers_on_shades(rows: pd.DataFrame, field: str, limit: float, size: float, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The column `text` over shaded cells, white on the dark half of the scale and dark on the light one."""
    strong = rows[field] > 0.5 * limit
    return [
        alt.Chart(here).mark_text(fontSize=size, color=colour).encode(x=x, y=y, text=alt.Text("text:N"))
        for here, colour in ((rows[strong], "white"), (rows[~strong], "#1E262C"))
        if len(here)
    ]


def depth_axis(field: str = "depth") -> alt.X:
    """Relative depth, from 0 % to 100 %."""
    return alt.X(
        f"{field}:Q",
        title=DEPTH_TITLE,
        scale=alt.Scale(domain=[-0.01, 1.01], nice=False),
        axis=alt.Axis(format="%", grid=False, values=[0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    )


def with_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with n_layers (from the layers there are, where it is not given) and relative depth; one layer is 0."""
    if rows.empty:
        return rows.assign(depth=pd.Series(dtype="float64"), n_layers=pd.Series(dtype="float64"))
    seen = rows.groupby("label")["layer"].transform("max") + 1
    n_layers = rows["n_layers"].fillna(seen) if "n_layers" in rows else seen
    return rows.assign(n_layers=n_layers, depth=rows["layer"] / (n_layers - 1).clip(lower=1))


def interval_tips(mean: str, form: str) -> list[alt.Tooltip]:
    """Mean, ends of its interval and n, in a tooltip."""
    return [
        alt.Tooltip(f"{mean}:Q", title="Mean", format=form),
        alt.Tooltip("low:Q", title="95 % from", format=form),
        alt.Tooltip("high:Q", title="95 % to", format=form),
        alt.Tooltip("n:Q", title="n"),
    ]


def circuit_titles(rows: pd.DataFrame, circuits: Sequence[str] = ()) -> dict[str, str]:
    """Circuit -> title: `circuits` first, in their order, then the others in the order of the rows."""
    titles = {}
    for row in rows.drop_duplicates("circuit").to_dict("records"):
        known = isinstance(row["circuit_title"], str) and row["circuit_title"]
        titles[str(row["circuit"])] = str(row["circuit_title"]) if known else circuit_words(str(row["circuit"]))
    order = [circuit for circuit in circuits if circuit in titles]
    return {circuit: titles[circuit] for circuit in dict.fromkeys([*order, *titles])}
