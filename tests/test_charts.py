"""Charts: every one renders, on ordinary and on awkward rows, and its words state what the rows say."""

import io
import json
import subprocess
import sys
from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd
import pytest

from pprobe_core import charts, neuron_charts

alt.data_transformers.disable_max_rows()  # the pages send rows as Arrow, where this limit does not exist


def layers_frame(n_pairs: int, n_layers: int, seed: int = 0) -> pd.DataFrame:
    """Original pushes up and perturbed down from the middle layer on; FFN twice as strong as attention."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [[f"p{i:03d}" for i in range(n_pairs)], ["original", "perturbed"], range(n_layers)],
        names=["pair_id", "condition", "layer"],
    )
    frame = index.to_frame(index=False)
    sign = np.where(frame["condition"] == "original", 1.0, -1.0)
    on = frame["layer"] >= n_layers // 2
    frame["ffn"] = sign * on * 0.4 + rng.normal(0, 0.05, len(frame))
    frame["attention"] = sign * on * 0.2 + rng.normal(0, 0.05, len(frame))
    written = (frame["ffn"] + frame["attention"]).groupby([frame["pair_id"], frame["condition"]]).cumsum()
    frame["skip"] = written - frame["ffn"] - frame["attention"]
    frame["ffn_skip"] = rng.uniform(0.35, 0.55, len(frame))
    frame["attention_skip"] = rng.uniform(0.1, 0.2, len(frame))
    frame["lens_after_attention"] = frame["skip"] + frame["attention"]
    frame["lens_after_ffn"] = written
    return frame


def neurons_frame(n_layers: int, d_mlp: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"layer": np.repeat(np.arange(n_layers), d_mlp), "neuron": np.tile(np.arange(d_mlp), n_layers)}
    )
    frame["importance_mean"] = rng.normal(0, 0.01, len(frame))
    frame.loc[len(frame) // 2, "importance_mean"] = -1.25
    frame["importance_rms"] = frame["importance_mean"].abs() + 0.01
    frame["ablation_score"] = -frame["importance_mean"]
    frame["sign_consistency"], frame["coherence"] = 0.9, 0.8
    return frame


def pairs_frame(n_pairs: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    original, perturbed = rng.normal(2, 0.5, n_pairs), rng.normal(-2, 0.5, n_pairs)
    return pd.DataFrame(
        {
            "pair_id": [f"p{i:03d}" for i in range(n_pairs)],
            "split": [("discovery", "validation", "heldout")[i % 3] for i in range(n_pairs)],
            "original_text": "How do I bake bread?",
            "perturbed_text": "怎么烤面包？",
            "logit_diff_original": original,
            "logit_diff_perturbed": perturbed,
            "predicted_delta": (perturbed - original) * 1.5,
        }
    )


def tokens_frame() -> pd.DataFrame:
    rows = [
        ("p000", condition, rank, 10 * rank, token, 0.5 / rank, side)
        for condition in ("original", "perturbed")
        for rank, (token, side) in enumerate(
            ((" I", "target"), ("抱", "target"), ("Sure", "control"), ("\n", "other"), ("<b>", None)), start=1
        )
    ]
    return pd.DataFrame(rows, columns=["pair_id", "condition", "rank", "token_id", "token", "probability", "side"])


ADDITIVE = {
    "measured_mean": -4.0,
    "predicted_mean": -6.0,
    "ffn_mean": -3.0,
    "carried_by": {"attention": -1.0, "embedding": 0.0, "constant": 0.0, "normalisation": 3.0},
}


def first(neurons: pd.DataFrame, k: int = 20, column: str = "importance_mean") -> pd.DataFrame:
    return neurons.reindex(neurons[column].abs().sort_values(ascending=False, kind="stable").index).head(k)


def neuron_map(n_layers: int, d_mlp: int, ranking: str = "shared", threshold: float | None = 0.5) -> charts.Figure:
    neurons = neurons_frame(n_layers, d_mlp)
    return neuron_charts.neuron_map(neurons, first(neurons, column=charts.RANKING_COLUMN[ranking]), ranking, threshold)


EVERY_CHART: dict[str, Callable[[], charts.Figure]] = {
    "layer_signals": lambda: charts.layer_signals(layers_frame(12, 6)),
    "layer_change": lambda: charts.layer_change(layers_frame(12, 6)),
    "layer_ratio": lambda: charts.layer_ratio(layers_frame(12, 6), 0.2, 0.3),
    "trajectory": lambda: charts.trajectory(layers_frame(12, 6), "a refusal", "an answer"),
    "compare_layers": lambda: charts.compare_layers(layers_frame(12, 6), layers_frame(5, 9), "a", "b", "ffn"),
    "neuron_map": lambda: neuron_map(6, 40),
    "predicted_change": lambda: charts.predicted_change(pairs_frame(12), 0.9, 0.3),
    "carriers": lambda: charts.carriers(ADDITIVE),
    "margins": lambda: charts.margins(pairs_frame(12)),
    "first_tokens": lambda: charts.first_tokens(tokens_frame()),
}


def png(figure: charts.Figure) -> bytes:
    out = io.BytesIO()
    figure.chart.properties(width=420).save(out, format="png", ppi=50)
    return out.getvalue()


def spec(figure: charts.Figure) -> dict[str, object]:
    return json.loads(figure.chart.to_json())


def encodings(value: object) -> list[dict[str, object]]:
    """All encoding blocks of a specification."""
    if isinstance(value, list):
        return [found for item in value for found in encodings(item)]
    if not isinstance(value, dict):
        return []
    here = [value["encoding"]] if "encoding" in value else []
    return here + [found for key, item in value.items() if key != "datasets" for found in encodings(item)]


@pytest.mark.parametrize("name", EVERY_CHART)
def test_every_chart_renders_with_its_words(name: str) -> None:
    figure = EVERY_CHART[name]()
    assert png(figure).startswith(b"\x89PNG")
    assert figure.title
    assert len(figure.caption) > 40
    assert spec(figure)["description"] == figure.description
    assert any("tooltip" in encoding for encoding in encodings(spec(figure)))


def colour_ranges(figure: charts.Figure) -> list[list[str]]:
    colours = (encoding.get("color") for encoding in encodings(spec(figure)))
    return [c["scale"]["range"] for c in colours if isinstance(c, dict) and "scale" in c]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("layer_signals", "component"),
        ("layer_ratio", "condition"),
        ("trajectory", "condition"),
        ("margins", "condition"),
        ("first_tokens", "side"),
        ("compare_layers", "run"),
    ],
)
def test_a_meaning_has_one_colour_everywhere(name: str, group: str) -> None:
    ranges = colour_ranges(EVERY_CHART[name]())
    assert ranges
    assert all(tuple(found) == charts.PALETTES[group] for found in ranges)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", ["#FFFFFF", "#12171B"])
@pytest.mark.parametrize("colour", sorted({c for group in charts.PALETTES.values() for c in group}))
def test_colours_stand_out_on_light_and_dark_pages(colour: str, background: str) -> None:
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def seen_without(colour: str, kind: str) -> np.ndarray:
    """A colour as people with protanopia or deuteranopia see it (Viénot 1999, linear RGB)."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    share = {"protan": (0.11238, 0.88762, 0.00401), "deutan": (0.29275, 0.70725, -0.02234)}[kind]
    red, green, blue = linear
    mixed = share[0] * red + share[1] * green
    return np.clip([mixed, mixed, share[2] * (red - green) + blue], 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("kind", ["protan", "deutan"])
@pytest.mark.parametrize("group", sorted(charts.PALETTES))
def test_colours_of_one_group_differ_for_colour_blind_eyes(group: str, kind: str) -> None:
    seen = [seen_without(colour, kind) for colour in charts.PALETTES[group]]
    distances = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[i + 1 :]]
    assert min(distances) > 0.15


def test_one_layer_and_one_pair_give_charts_without_intervals() -> None:
    layers, pairs = layers_frame(1, 1), pairs_frame(1)
    figures = [
        charts.layer_signals(layers),
        charts.layer_change(layers),
        charts.layer_ratio(layers, 0.2, 0.3),
        charts.trajectory(layers),
        charts.compare_layers(layers, layers, "a", "a", "ffn_skip"),
        charts.predicted_change(pairs),
        charts.margins(pairs),
        neuron_map(1, 1, threshold=None),
    ]
    assert all(png(figure).startswith(b"\x89PNG") for figure in figures)
    one = charts.over_pairs(layers, ["condition", "layer"], "ffn")
    assert one["low"].isna().all()
    assert (one["n"] == 1).all()


def test_undefined_values_are_left_out_not_drawn_as_zero() -> None:
    layers = layers_frame(8, 4)
    layers.loc[layers["layer"] == 3, "ffn_skip"] = np.nan
    layers.loc[layers["pair_id"] == "p000", "attention"] = np.nan
    figure = charts.layer_ratio(layers, 0.2, 0.3)
    assert "undefined at the last layer" in figure.title
    for drawn in (figure, charts.layer_signals(layers), charts.layer_change(layers), charts.trajectory(layers)):
        assert png(drawn).startswith(b"\x89PNG")
        assert "NaN" not in drawn.chart.to_json()
    pairs = pairs_frame(8)
    pairs.loc[0, "predicted_delta"] = np.nan
    assert charts.predicted_change(pairs).caption.startswith("7 pairs")
    neurons = neurons_frame(2, 10)
    neurons.loc[0, "importance_mean"] = np.nan
    assert "of 19 neurons" in neuron_charts.neuron_map(neurons, first(neurons, 5), "shared", 0.5).title


@pytest.mark.parametrize("ranking", sorted(charts.RANKING_COLUMN))
def test_a_large_model_is_binned_and_keeps_its_top_neurons(ranking: str) -> None:
    figure = neuron_map(36, 10_000, ranking)
    text = figure.chart.to_json()
    assert len(text) < 1_500_000  # 360,000 neurons one by one would be 30 MB
    assert "of the 360,000 neurons" in figure.caption
    rows = [row for data in spec(figure)["datasets"].values() for row in data]
    assert sum(row.get("n_neurons", 0) for row in rows) == 360_000  # every neuron is in one cell
    assert "L18.N0" in {row.get("name") for row in rows}
    assert png(figure).startswith(b"\x89PNG")


def test_five_hundred_pairs_of_36_layers_are_drawn() -> None:
    layers, pairs = layers_frame(500, 36), pairs_frame(500)
    for figure in (charts.layer_signals(layers), charts.trajectory(layers), charts.layer_change(layers)):
        assert len(figure.chart.to_json()) < 200_000  # means, not pairs, go to the browser
    assert png(charts.margins(pairs)).startswith(b"\x89PNG")
    assert png(charts.predicted_change(pairs)).startswith(b"\x89PNG")


def test_the_interval_over_pairs_is_students() -> None:
    frame = pd.DataFrame({"g": ["a"] * 4, "v": [1.0, 2.0, 3.0, 4.0]})
    row = charts.over_pairs(frame, ["g"], "v").iloc[0]
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2
    assert row["mean"] == pytest.approx(2.5)
    assert (row["low"], row["high"]) == (pytest.approx(2.5 - half, abs=1e-5), pytest.approx(2.5 + half, abs=1e-5))


def test_the_trajectory_names_the_layer_where_the_passes_part() -> None:
    title = charts.trajectory(layers_frame(40, 8)).title
    assert title.startswith("The two prompts part for good after")
    assert "of layer 4" in title
    same = layers_frame(40, 8)
    same.loc[:, ["lens_after_attention", "lens_after_ffn"]] = np.random.default_rng(1).normal(0, 1, (len(same), 2))
    assert "do not come apart" in charts.trajectory(same).title


def test_the_change_title_gives_the_ffns_share() -> None:
    layers = layers_frame(200, 6)
    assert "67\u00a0%" in charts.layer_change(layers).title  # FFN changes by 0.8, attention by 0.4 at each active layer


@pytest.mark.parametrize(
    ("ratio", "reading"), [(0.1, "below the routing"), (0.25, "between"), (0.8, "above the opposition")]
)
def test_the_ratio_title_reads_the_last_layer_against_the_thresholds(ratio: float, reading: str) -> None:
    layers = layers_frame(5, 3)
    layers.loc[layers["layer"] == 2, "ffn_skip"] = ratio
    title = charts.layer_ratio(layers, 0.2, 0.3).title
    assert reading in title
    assert charts.number(ratio) in title


def test_a_value_above_the_ratio_axis_is_marked_and_keeps_its_number() -> None:
    layers = layers_frame(5, 3)
    layers.loc[layers["layer"] == 0, "ffn_skip"] = 80.0
    rows = [row for data in spec(charts.layer_ratio(layers, 0.2, 0.3))["datasets"].values() for row in data]
    off = [row for row in rows if row.get("off_scale")]
    assert {row["layer"] for row in off} == {0}
    assert all(row["mean"] == pytest.approx(80.0) and row["shown"] == pytest.approx(1.0) for row in off)


def test_the_neuron_map_names_the_leader_and_counts_those_beyond_the_control() -> None:
    figure = neuron_map(6, 40, threshold=0.5)
    assert figure.title == "L3.N0 leads with −1.25 logits; 1 of 240 neurons pass the control's threshold"
    rules = [layer for layer in spec(figure)["layer"] if layer["mark"]["type"] == "rule"]
    assert len(rules) == 1
    assert "threshold" in neuron_map(6, 40, "ablation", None).caption


def test_a_rectangle_drawn_in_the_map_has_two_sides() -> None:
    brush = {"position": [3.5, 2.5], "importance_mean": [-2.0, -1.0]}
    assert neuron_charts.region(brush, "shared") == ((2.5, 3.5), (-2.0, -1.0))
    assert neuron_charts.region(brush, "ablation") == ((2.5, 3.5), (-np.inf, np.inf))
    assert [p["name"] for p in spec(neuron_map(6, 40))["params"]] == ["brush"]


def test_the_map_of_counted_neurons_is_the_map_of_the_neurons() -> None:
    neurons = neurons_frame(36, 400)
    top = first(neurons)
    counted = neuron_charts.cells_of(neurons, "shared")
    drawn = [neuron_charts.neuron_map(crowd, top, "shared", 0.5, 1) for crowd in (neurons, counted)]
    assert drawn[0].title == drawn[1].title
    assert drawn[0].chart.to_dict() == drawn[1].chart.to_dict()


def test_margins_count_the_pairs_that_change_sides() -> None:
    pairs = pairs_frame(10)
    pairs.loc[:2, "logit_diff_perturbed"] = 1.0
    assert charts.margins(pairs).title == "7 of 10 pairs change sides"


def test_the_prediction_title_has_the_correlation_and_its_control() -> None:
    title = charts.predicted_change(pairs_frame(12), 0.91, 0.34).title
    assert "r = 0.91" in title
    assert "shuffled pairs reach 0.34" in title
    assert "r =" not in charts.predicted_change(pairs_frame(12)).title


def test_carriers_draw_every_exact_part_and_survive_a_run_without_them() -> None:
    rows = [row for data in spec(charts.carriers(ADDITIVE))["datasets"].values() for row in data]
    parts = {row["part"]: row["value"] for row in rows if "part" in row}
    assert parts["Measured change"] == parts["FFN layers"] + parts["Attention layers"] + parts["Token embedding"]
    assert png(charts.carriers({})).startswith(b"\x89PNG")


def test_tokens_are_written_visibly() -> None:
    rows = [row for data in spec(EVERY_CHART["first_tokens"]())["datasets"].values() for row in data]
    assert {row["label"] for row in rows} == {"␣I", "抱", "Sure", "⏎", "<b>"}
    assert "␣I" in EVERY_CHART["first_tokens"]().title


@pytest.mark.parametrize(
    ("value", "signed", "shown"),
    [
        (1.234, True, "+1.23"),
        (-1.234, False, "−1.23"),
        (None, False, "–"),
        (float("nan"), True, "–"),
        (0.0, False, "0.00"),
        (0.00012, False, "1.2e−04"),
        (-0.0027, False, "−0.003"),
        (123456.0, False, "1.2e+05"),
        (1234.5, False, "1,234.50"),
    ],
)
def test_numbers_are_written_with_sensible_digits(value: float | None, signed: bool, shown: str) -> None:
    assert charts.number(value, signed=signed) == shown


def test_charts_need_neither_torch_nor_streamlit() -> None:
    code = "import sys, pprobe_core.charts; print({'torch', 'streamlit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
