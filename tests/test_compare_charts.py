"""Charts of several models: every one renders on ordinary and awkward rows, and its words state what the rows say."""

import io
import json
from collections.abc import Callable
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest

from pprobe_core import charts, compare_charts, compare_stats, paper
from tests import compare_frames
from tests.compare_frames import CIRCUITS, MODELS
from tests.test_charts import encodings, luminance, seen_without

alt.data_transformers.disable_max_rows()  # the pages send rows as Arrow, where this limit does not exist

SAFETY = "safety_refusal"
THREE = MODELS[:3]


def overlap_rows(circuits: tuple[str, ...] = CIRCUITS) -> pd.DataFrame:
    table = compare_stats.overlaps(compare_frames.tops(circuits, shared=30), 8, 384)
    return table.assign(label="mini-qwen3")


FRAMES: dict[str, Callable[[tuple[str, ...]], pd.DataFrame]] = {
    "ratio_matrix": compare_frames.ratios,
    "ratio_intervals": compare_frames.ratios,
    "depth_profile": compare_frames.profile,
    "depth_profile scaled": compare_frames.profile,
    "topology_bars": compare_frames.topology,
    "layer_heat": compare_frames.layer_mass,
    "dose_overlay": compare_frames.doses,
    "dose_overlay share": compare_frames.doses,
    "window_overlay": compare_frames.windows,
    "window_overlay F": compare_frames.windows,
    "opposition_pairs": compare_frames.twins,
    "overlap_matrix": lambda models: overlap_rows(),
    "fit_scatter": compare_frames.points,
    "fit_scatter log": compare_frames.points,
}


def figure(name: str, frame: pd.DataFrame, models: tuple[str, ...]) -> charts.Figure:
    """One chart of the made-up frames."""
    return {
        "ratio_matrix": lambda: compare_charts.ratio_matrix(frame, models, CIRCUITS),
        "ratio_intervals": lambda: compare_charts.ratio_intervals(frame, models, with_paper=True),
        "depth_profile": lambda: compare_charts.depth_profile(frame, models, SAFETY, "ffn_skip"),
        "depth_profile scaled": lambda: compare_charts.depth_profile(
            frame, models, SAFETY, "ffn", "original", scaled=True
        ),
        "topology_bars": lambda: compare_charts.topology_bars(frame, models, SAFETY),
        "layer_heat": lambda: compare_charts.layer_heat(frame, models, SAFETY),
        "dose_overlay": lambda: compare_charts.dose_overlay(frame, models, SAFETY),
        "dose_overlay share": lambda: compare_charts.dose_overlay(
            frame, models, SAFETY, "fraction", "changed", with_paper=True
        ),
        "window_overlay": lambda: compare_charts.window_overlay(frame, models, "language", 1.0, with_paper=True),
        "window_overlay F": lambda: compare_charts.window_overlay(frame, models, "language", 1.0, "relative"),
        "opposition_pairs": lambda: compare_charts.opposition_pairs(frame, models, SAFETY),
        "overlap_matrix": lambda: compare_charts.overlap_matrix(frame, "mini-qwen3"),
        "fit_scatter": lambda: compare_charts.fit_scatter(frame, models, compare_stats.fit(frame), CIRCUITS),
        "fit_scatter log": lambda: compare_charts.fit_scatter(
            frame, models, compare_stats.fit(frame, log_x=True), with_paper=False
        ),
    }[name]()


def png(made: charts.Figure) -> bytes:
    out = io.BytesIO()
    made.chart.properties(width=420).save(out, format="png", ppi=50)
    return out.getvalue()


def spec(made: charts.Figure) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.chart.to_json())
    return found


def drawn(made: charts.Figure) -> pd.DataFrame:
    """All rows that stand in the chart's data sets."""
    return pd.concat([pd.DataFrame(rows) for rows in spec(made)["datasets"].values()], ignore_index=True)


def scales(made: charts.Figure, channel: str, field: str = "label") -> list[dict[str, str]]:
    """Name -> colour (or shape) of every encoding of a field by a channel."""
    found = [encoding.get(channel) for encoding in encodings(spec(made))]
    own = [c for c in found if isinstance(c, dict) and c.get("field") == field]
    return [dict(zip(c["scale"]["domain"], c["scale"]["range"], strict=True)) for c in own]


# ------------------------------------------------------------------------------------------------------- rendering


@pytest.mark.parametrize("name", FRAMES)
def test_every_chart_renders_with_its_words_for_six_models(name: str) -> None:
    made = figure(name, FRAMES[name](MODELS), MODELS)
    assert png(made).startswith(b"\x89PNG")
    assert made.title
    assert len(made.title) < 220
    assert len(made.caption) > 60
    assert spec(made)["description"] == made.description
    assert any("tooltip" in encoding for encoding in encodings(spec(made)))


@pytest.mark.parametrize("name", FRAMES)
def test_every_chart_says_so_when_there_is_nothing(name: str) -> None:
    made = figure(name, FRAMES[name](THREE).head(0), THREE)
    assert png(made).startswith(b"\x89PNG")
    assert any(word in made.title.lower() for word in ("no ", "not ", "none", "cannot"))


@pytest.mark.parametrize("name", FRAMES)
def test_every_chart_renders_where_numbers_are_missing(name: str) -> None:
    frame = FRAMES[name](THREE)
    numbers = [c for c in frame.select_dtypes("number") if c not in ("layer", "n_layers", "n_neurons", "k", "n_shared")]
    some = frame.copy()
    some[numbers] = some[numbers].astype("float64")
    some.loc[some.index[::2], numbers] = np.nan
    none = frame.assign(**dict.fromkeys(numbers, np.nan))
    assert png(figure(name, some, THREE)).startswith(b"\x89PNG")
    for rows in (some, none):
        made = figure(name, rows, THREE)
        assert "nan" not in f"{made.title} {made.caption}".lower()


@pytest.mark.parametrize("name", FRAMES)
def test_columns_that_are_not_there_are_missing_numbers(name: str) -> None:
    frame = FRAMES[name](THREE)
    needed = {"label", "circuit", "circuit_a", "circuit_b", "label_aligned", "arm", "split", "condition", "quantity"}
    needed |= {"ffn_skip", "effect", "layer", "n_shared", "k"}
    assert spec(figure(name, frame[[c for c in frame if c in needed]], THREE))["layer"]


# --------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("background", ["#FFFFFF", "#12171B"])
@pytest.mark.parametrize("colour", compare_charts.MODEL_COLOURS)
def test_colours_of_models_stand_out_on_light_and_dark_pages(colour: str, background: str) -> None:
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_colours_of_models_differ_for_colour_blind_eyes(kind: str) -> None:
    seen = [seen_without(colour, kind) for colour in compare_charts.MODEL_COLOURS]
    distances = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[i + 1 :]]
    assert min(distances) > 0.15


@pytest.mark.parametrize("name", [n for n in FRAMES if n not in ("ratio_matrix", "layer_heat", "overlap_matrix")])
def test_a_model_keeps_its_colour_and_shape_when_others_are_missing(name: str) -> None:
    frame = FRAMES[name](MODELS)
    column = "label_aligned" if name == "opposition_pairs" else "label"
    fewer = frame[frame[column] != MODELS[0]]
    for channel, fixed in (("color", compare_charts.MODEL_COLOURS), ("shape", compare_charts.MODEL_SHAPES)):
        expected = dict(zip(MODELS, fixed, strict=True))
        for rows in (frame, fewer):
            for names in scales(figure(name, rows, MODELS), channel):
                assert names.items() <= expected.items()
                assert (MODELS[0] in names) == (rows is frame)
    assert scales(figure(name, frame, MODELS), "color")


def test_white_numbers_in_the_matrix_can_be_read() -> None:
    made = compare_charts.ratio_matrix(compare_frames.ratios(), MODELS)
    zones = scales(made, "color", "zone")[0]
    for colour in zones.values():
        if zones["No number"] != colour:
            assert 1.05 / (luminance(colour) + 0.05) >= 4.5


# -------------------------------------------------------------------------------------------- titles and what is told


def test_the_matrix_counts_what_it_draws_and_keeps_what_failed() -> None:
    ratios = compare_frames.ratios()
    made = compare_charts.ratio_matrix(ratios, MODELS)
    cells = drawn(made).drop_duplicates(["label", "circuit"])
    known = ratios.dropna(subset=["mean"])
    assert len(cells) == len(MODELS) * len(CIRCUITS)
    assert made.title.startswith(f"{(known['mean'] > 0.3).sum()} of {len(known)} combinations")
    assert f"{(known['mean'] < 0.2).sum()} below" in made.title
    assert f"{len(cells) - len(known)} have no number" in made.title
    text = cells.set_index(["label", "circuit"])["text"]
    reason = cells.set_index(["label", "circuit"])["reason"]
    assert text[MODELS[-1], SAFETY] == "× cannot be run"
    assert reason[MODELS[-1], SAFETY] == "cannot be run: it is a mixture of experts"
    assert text[MODELS[0], "language"] == "undefined"
    assert text[MODELS[0], "factual_recall"] == "not run"
    assert text["mini-llama", "sycophancy"].endswith("†")
    assert "†" in made.caption


def test_the_matrix_says_what_a_run_still_waits_for() -> None:
    ratios = compare_frames.ratios(THREE, ("code",), failed=False)
    ratios.loc[0, ["mean", "note"]] = [np.nan, "waits for its turn"]
    made = compare_charts.ratio_matrix(ratios, THREE)
    assert "waits for its turn" in set(drawn(made)["text"])
    assert "†" not in made.caption


def test_circuits_stand_in_the_given_order() -> None:
    asked = tuple(reversed(CIRCUITS))
    for chart in (compare_charts.ratio_matrix, compare_charts.ratio_intervals):
        y = next(
            e["y"] for e in encodings(spec(chart(compare_frames.ratios(), MODELS, asked))) if "sort" in e.get("y", {})
        )
        assert y["sort"] == [name.replace("_", " ").capitalize() for name in asked]


def test_intervals_name_the_circuit_on_which_models_lie_furthest_apart() -> None:
    ratios = compare_frames.ratios(THREE, failed=False)
    made = compare_charts.ratio_intervals(ratios, THREE)
    assert made.title == ("Furthest apart on safety refusal: FFN/Skip 0.11 in mini-gemma3, 0.05 in mini-qwen3")
    close = compare_charts.ratio_intervals(ratios.assign(low=0.01, high=1.0), THREE)
    assert close.title.endswith("their intervals overlap")


def test_the_papers_numbers_are_drawn_on_request_only_and_named_as_such() -> None:
    ratios = compare_frames.ratios(THREE)
    with_paper = compare_charts.ratio_intervals(ratios, THREE, with_paper=True)
    without = compare_charts.ratio_intervals(ratios, THREE)
    marked = drawn(with_paper)
    marked = marked[marked["label"] == "paper's authors"]
    assert sorted(marked["mean"]) == sorted(number.value for number in paper.RATIOS.values())
    assert "not yours" in with_paper.caption
    assert not (drawn(without)["label"] == "paper's authors").any()
    assert "not yours" not in without.caption
    assert "paper's authors" not in scales(with_paper, "color")[0]


def test_one_overlay_of_the_paper_needs_its_own_circuit() -> None:
    shown = compare_charts.window_overlay(compare_frames.windows(THREE), THREE, "language", 1.0, with_paper=True)
    other = compare_frames.windows(THREE, "code")
    not_shown = compare_charts.window_overlay(other, THREE, "code", 1.0, with_paper=True)
    assert "Qwen3-4B" in shown.caption
    assert "Qwen3-4B" not in not_shown.caption
    assert drawn(shown)["text"].dropna().tolist() == ["paper: causal window of Qwen3-4B"]


def test_a_profile_ends_at_the_last_layers_and_clips_what_early_layers_inflate() -> None:
    made = compare_charts.depth_profile(compare_frames.profile(THREE), THREE, SAFETY, "ffn_skip")
    assert made.title == (
        "FFN/Skip of safety refusal (original prompts) ends at 0.10 in mini-qwen3, 0.20 in mini-llama and 0.30 in "
        "mini-gemma3"
    )
    rows = drawn(made)
    assert rows["shown"].max() <= 1.2
    assert set(rows.loc[rows["over"] == True, "layer"]) == {0}  # noqa: E712 - other data sets have no such column


def test_scaled_profiles_reach_one_and_keep_their_shape() -> None:
    frame = compare_frames.profile(THREE)
    plain = drawn(compare_charts.depth_profile(frame, THREE, SAFETY, "ffn", "original"))
    scaled = drawn(compare_charts.depth_profile(frame, THREE, SAFETY, "ffn", "original", scaled=True))
    for label in THREE:
        one, other = (rows.loc[rows["label"] == label, "mean"].to_numpy() for rows in (plain, scaled))
        assert np.abs(other).max() == pytest.approx(1.0)
        assert other * np.abs(one).max() == pytest.approx(one)


def test_more_than_three_models_are_told_by_their_ends() -> None:
    made = compare_charts.dose_overlay(compare_frames.doses(), MODELS, SAFETY)
    assert made.title == (
        "Switching off 100 neurons moves F of safety refusal by −100\u00a0% in mini-qwen3 down to −25\u00a0% in b-3B "
        "(6 models); random draws reach −3\u00a0%"
    )


def test_doses_are_compared_at_the_largest_number_all_models_have() -> None:
    frame = pd.concat(
        [compare_frames.doses(MODELS[:1], ns=(5, 20, 100)), compare_frames.doses(MODELS[:2], ns=(5, 20)).iloc[24:]]
    )
    frame = frame.drop_duplicates(["label", "n_neurons", "split", "arm", "draw"])
    assert compare_charts.dose_overlay(frame, THREE, SAFETY).title.startswith("Switching off 20 neurons")


def test_doses_of_a_model_without_held_out_prompts_are_shown_and_named() -> None:
    frame = compare_frames.doses(THREE)
    frame = frame[(frame["label"] != "mini-llama") | (frame["split"] == "discovery")]
    made = compare_charts.dose_overlay(frame, THREE, SAFETY)
    assert "mini-llama on discovery prompts" in made.caption
    assert "n = 12 held-out and 12 discovery prompts" in made.caption


def test_a_missing_control_and_a_broken_model_are_told() -> None:
    frame = compare_frames.doses(THREE)
    frame = frame[(frame["label"] != "mini-llama") | (frame["arm"] == "ranked")]
    frame.loc[(frame["label"] == "mini-qwen3") & (frame["n_neurons"] == 100), "relative"] = np.nan
    made = compare_charts.dose_overlay(frame, THREE, SAFETY)
    assert "No random control in mini-llama" in made.caption
    assert "1 point has no number" in made.caption
    alone = compare_charts.dose_overlay(frame[frame["arm"] == "ranked"], THREE, SAFETY)
    assert alone.title.endswith("no random control was measured")


def test_random_bands_span_the_draws_of_each_model() -> None:
    made = compare_charts.dose_overlay(compare_frames.doses(THREE), THREE, SAFETY)
    rows = drawn(made)
    bands = rows[rows["arm"].isna() & (rows["x"] == 100)]
    assert sorted(bands["label"]) == sorted(THREE)
    assert bands["low"].tolist() == pytest.approx([-0.03] * 3)
    assert bands["high"].tolist() == pytest.approx([0.03] * 3)
    assert bands["n"].tolist() == [5, 5, 5]


def test_windows_use_each_models_nearest_strength_towards_the_other_prompts() -> None:
    frame = compare_frames.windows(THREE)
    frame = frame[(frame["label"] != "mini-llama") | (frame["strength"] == -2.0)]
    turned = frame["label"] == "mini-gemma3"
    frame.loc[turned, ["strength", "toward_other"]] = -frame.loc[turned, ["strength", "toward_other"]].to_numpy()
    made = compare_charts.window_overlay(frame, THREE, "language", 0.9)
    assert "+1 in mini-qwen3, +2 in mini-llama and +1 in mini-gemma3" in made.caption
    rows = drawn(made).dropna(subset=["strength"])
    assert set(zip(rows["label"], rows["strength"], strict=True)) == {
        ("mini-qwen3", -1.0),
        ("mini-llama", -2.0),
        ("mini-gemma3", 1.0),
    }


def test_window_titles_name_the_peak_and_where_it_is() -> None:
    made = compare_charts.window_overlay(compare_frames.windows(THREE), THREE, "language", 2.0)
    assert "100\u00a0% (43\u00a0% deep) in mini-qwen3" in made.title
    assert made.title.endswith("random directions reach 17\u00a0%")
    frame = compare_frames.windows(THREE).assign(switched=np.nan)
    assert compare_charts.window_overlay(frame, THREE, "language", 2.0).title == (
        "No answers were written under an injection for language on these models"
    )


def test_topology_and_heat_say_where_the_neurons_are() -> None:
    topology = compare_charts.topology_bars(compare_frames.topology(THREE), THREE, SAFETY)
    assert "20 of 3,072 neurons (0.65\u00a0%) in mini-qwen3" in topology.title
    heat = compare_charts.layer_heat(compare_frames.layer_mass(THREE), THREE, SAFETY)
    assert "99\u00a0% deep in mini-qwen3" in heat.title
    rows = drawn(heat)
    for _, strip in rows.drop_duplicates(["label", "layer"]).groupby("label"):
        assert strip["start"].min() == 0.0
        assert strip["end"].max() == 1.0
        assert (strip["end"] - strip["start"]).sum() == pytest.approx(1.0)


def test_twins_on_opposite_sides_are_counted() -> None:
    made = compare_charts.opposition_pairs(compare_frames.twins(("mini-llama",), n=20, turned=0.75), THREE, SAFETY)
    assert made.title == "Safety refusal: base and aligned twin lie on opposite sides in 15 of 20 pairs in mini-llama"


def test_the_overlap_is_one_triangle_whatever_order_its_rows_have() -> None:
    rows = overlap_rows(CIRCUITS[:4])
    shuffled = rows.sample(frac=1, random_state=1)
    shuffled.loc[shuffled.index[:3], ["circuit_a", "circuit_b"]] = shuffled.loc[
        shuffled.index[:3], ["circuit_b", "circuit_a"]
    ].to_numpy()
    for frame in (rows, shuffled):
        cells = drawn(compare_charts.overlap_matrix(frame, "mini-qwen3")).drop_duplicates(["first", "second"])
        assert len(cells) == 6
        assert not set(zip(cells["first"], cells["second"], strict=True)) & set(
            zip(cells["second"], cells["first"], strict=True)
        )


def test_a_star_stands_where_sharing_goes_beyond_chance_inside_the_layers() -> None:
    rows = overlap_rows(CIRCUITS[:3])
    made = compare_charts.overlap_matrix(rows, "mini-qwen3")
    starred = drawn(made)["text"].str.endswith("*")
    assert starred.any() == (rows["p_by_layer_holm"] < 0.05).any()
    without = compare_charts.overlap_matrix(rows.assign(p_by_layer_holm=1.0), "mini-qwen3")
    assert not drawn(without)["text"].str.endswith("*").any()
    assert compare_charts.overlap_matrix(rows.assign(n_shared=0), "mini-qwen3").title == (
        "In mini-qwen3 no two circuits share any of their first 50 neurons"
    )


def test_the_fit_is_stated_with_interval_n_and_the_papers_beside_it() -> None:
    points = compare_frames.points(noise=0.1)
    points.loc[0, "effect"] = np.nan
    fit = compare_stats.fit(points)
    assert fit is not None
    made = compare_charts.fit_scatter(points, MODELS, fit, CIRCUITS)
    assert made.title.startswith(f"On 47 runs FFN/Skip explains {100 * fit.r_squared:.0f}\u00a0% [")
    assert made.title.endswith("the paper: 81\u00a0% on 13 models")
    assert "1 run has no ratio or no effect" in made.caption
    assert "paper" not in compare_charts.fit_scatter(points, MODELS, fit, with_paper=False).title
    line = drawn(made)
    line = line[line["label"].isna() & line["ffn_skip"].notna()]
    assert line["effect"].to_numpy() == pytest.approx(fit.at(line["ffn_skip"]))


def test_a_circuit_keeps_its_shape_when_others_are_missing() -> None:
    points = compare_frames.points()
    fewer = points[points["circuit"] != CIRCUITS[0]]
    every, some = (
        scales(compare_charts.fit_scatter(frame, MODELS, None, CIRCUITS), "shape", "name")[0]
        for frame in (points, fewer)
    )
    assert len(set(every.values())) == len(CIRCUITS)
    assert some.items() <= every.items()


def test_no_line_is_claimed_where_there_is_none() -> None:
    made = compare_charts.fit_scatter(compare_frames.points(MODELS[:1]).head(3), MODELS, None)
    assert made.title.startswith("3 runs cannot carry a line")
    assert "There is no line" in made.caption
