"""Charts of sweeps: every one renders on ordinary and on awkward rows, and its words state what the rows say."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pprobe_core import charts, response_charts, sweep_charts, sweep_rows, window_charts
from tests.test_charts import luminance, seen_without

N_PROMPTS = {"discovery": 30, "validation": 10, "heldout": 10}
SPLITS = tuple(N_PROMPTS)


def point(split: str, arm: str, delta: float | None, *, draw: int | None = None, **place: Any) -> dict[str, Any]:
    """One row as the store gives it; a delta of None is a point that broke. The unedited F is 5."""
    group = "/".join(f"{k}={v}" for k, v in place.items() if k not in ("kind", "variant", "layers"))
    key = f"{place.get('kind', 'dose')}/{place.get('variant', 'neurons')}/{group}"
    row: dict[str, Any] = {
        "kind": "dose",
        "variant": "neurons",
        "n_neurons": None,
        "layer": None,
        "layers": (),
        "strength": None,
        "factor": None,
        "class_counts": None,
        **place,
    }
    broken = delta is None
    return row | {
        "key": f"{key}/{arm}" + ("" if draw is None else f"-{draw}"),
        "group": f"{key}/{split}",
        "arm": arm,
        "draw": draw,
        "split": split,
        "n_prompts": N_PROMPTS[split],
        "logit_diff_mean": None if broken else 5 + delta,
        "low": None if broken else 4.5 + delta,
        "high": None if broken else 5.5 + delta,
        "delta_mean": delta,
        "delta_low": None if broken else delta - 0.2,
        "delta_high": None if broken else delta + 0.2,
        "n_broken": 3 if broken else 0,
    }


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows with the types of the store's frame."""
    table = pd.DataFrame(rows)
    for name in ("draw", "n_neurons", "layer"):
        table[name] = table[name].astype("Int64")
    return table


def arms(effect: float | None, places: Sequence[dict[str, Any]], draws: int = 5) -> pd.DataFrame:
    """Every place on every split: a ranked effect growing with the place, random draws from -0.1 to +0.1."""
    rows = []
    for i, place in enumerate(places, start=1):
        for split in SPLITS:
            size = None if effect is None else effect * i / len(places) + (0.1 if split == "discovery" else 0.0)
            rows.append(point(split, "ranked", size, **place))
            for draw, value in enumerate(np.linspace(-0.1, 0.1, draws) if draws > 1 else [0.05] * draws):
                rows.append(point(split, "random", float(value), draw=draw, **place))
    return frame(rows)


BASELINE = [{"split": s, "n_prompts": n, "logit_diff_mean": 5.0, "low": 4.5, "high": 5.5} for s, n in N_PROMPTS.items()]
SUMMARY = {"direction": "difference_of_means", "relative": True, "toward_other": -1}


def doses(effect: float | None = -4.0, ns: Sequence[int] = (1, 2, 5, 10, 100), **words: Any) -> pd.DataFrame:
    return arms(effect, [{"n_neurons": n, "factor": 0.0, **words} for n in ns])


def factors() -> pd.DataFrame:
    return arms(3.0, [{"kind": "factor", "n_neurons": 20, "factor": f} for f in (-1.0, 0.0, 1.0, 2.0)])


def strengths() -> pd.DataFrame:
    place = {"kind": "strength", "variant": "difference_of_means relative", "layer": 4}
    return arms(-6.0, [{**place, "strength": s} for s in (-0.5, -1.0, -2.0)])


def window(n_layers: int = 4, effect: float | None = -6.0, strengths: Sequence[float] = (-0.5, -2.0)) -> pd.DataFrame:
    variant = "difference_of_means relative"
    places = [
        {"kind": "window", "variant": variant, "layer": layer, "strength": s}
        for layer in range(n_layers)
        for s in strengths
    ]
    return arms(effect, places)


def layer_points(n_layers: int = 3) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        for variant, size in (("ffn", -1.0), ("attention", -2.0)):
            for layer in range(n_layers):
                rows.append(
                    point(split, "ranked", size * (layer + 1), kind="layers", variant=variant, layer=layer, factor=0.0)
                )
            band = tuple(range(n_layers))
            rows.append(point(split, "ranked", size * 10, kind="layers", variant=variant, layers=band, factor=0.0))
    return frame(rows)


def patched(n_layers: int = 3) -> pd.DataFrame:
    counts = doses(-8.0, (1, 5, 20), kind="patch", variant="patch").assign(factor=None)
    rows = [
        point(
            split, "ranked", share * -8.0 * (layer + 1) / n_layers, kind="patch", variant=f"patch {part}", layer=layer
        )
        for split in SPLITS
        for part, share in (("ffn", 0.5), ("attention", 0.25), ("residual", 1.0))
        for layer in range(n_layers)
    ]
    return pd.concat([counts, frame(rows)], ignore_index=True)


def held_points(n_layers: int = 3) -> pd.DataFrame:
    rows = [
        point(split, "ranked", size, kind="held", variant=variant, layer=layer)
        for split in SPLITS
        for layer in range(n_layers)
        for variant, size in (("free", -8.0), ("attention held", -7.0), ("ffn held", -1.0 - layer))
        if variant == "free" or layer < n_layers - 1
    ]
    return frame(rows)


def with_answers(
    points: pd.DataFrame,
    shares: dict[str, float] | None = None,
    n_seeds: int = 1,
    only: Callable[[dict[str, Any]], bool] = lambda row: True,
) -> pd.DataFrame:
    """Outcome rates with the points' coordinates: ranked answers as `shares` say, random ones never."""
    titles = {"switched": "Switched sides", "switched_and_right": "Switched, still right", "broken": "Empty or broken"}
    rows = []
    for row in points.to_dict("records"):
        for outcome, share in (shares or {"switched": 0.6, "switched_and_right": 0.4, "broken": 0.1}).items():
            n = row["n_prompts"] * n_seeds
            yes = round(share * n) if row["arm"] == "ranked" and only(row) else 0
            by_seed = tuple(np.linspace(max(share - 0.2, 0), min(share + 0.2, 1), n_seeds)) if n_seeds > 1 else ()
            rows.append(
                {k: row[k] for k in ("key", "split", "arm", "draw", "n_neurons", "layer", "strength", "factor", "kind")}
                | {
                    "outcome": outcome,
                    "title": titles.get(outcome, outcome),
                    "n": n,
                    "n_yes": yes,
                    "n_before": 0,
                    "share": yes / n,
                    "low": max(yes / n - 0.1, 0.0),
                    "high": min(yes / n + 0.1, 1.0),
                    "p_value": None if n_seeds > 1 else 0.01,
                    "p_holm": None if n_seeds > 1 else 0.03,
                    "by_seed": by_seed,
                }
            )
    return pd.DataFrame(rows)


def regime_rows(rates: pd.DataFrame, regime: Callable[[int], str]) -> pd.DataFrame:
    keys = rates.drop_duplicates(["key", "split"])
    names = [regime(int(layer)) for layer in keys["layer"]]
    return pd.DataFrame({"key": keys["key"], "split": keys["split"], "n": keys["n"], "regime": names})


def collateral_frame() -> pd.DataFrame:
    rows = []
    for n in (1, 10, 100):
        for about, name, delta in (
            ("circuit", "language", -0.05 * n / 100),
            ("circuit", "math", -0.8 * n / 100),
            ("circuit", "tool_use", 0.3 * n / 100),
            ("text", "neutral text", 0.02 * n / 100),
        ):
            rows.append(
                {
                    "about": about,
                    "name": name,
                    "group": f"dose/neurons/n_neurons={n}/factor=0.0",
                    "n_neurons": n,
                    "layer": None,
                    "strength": None,
                    "factor": 0.0,
                    "n": 12,
                    "baseline_mean": 2.0,
                    "delta_mean": delta,
                    "low": delta - 0.1,
                    "high": delta + 0.1,
                    "random_low": -0.05,
                    "random_high": 0.04,
                }
            )
    return pd.DataFrame(rows)


def class_rows() -> pd.DataFrame:
    counts = {
        "unedited": {"Refusal": 10},
        "edited": {"Refusal": 3, "Compliance": 5, "Disclaimer, then answer": 1, "Broken": 1},
        "random": {"Refusal": 48, "Compliance": 2},
    }
    sides = {"Refusal": "target", "Compliance": "control", "Disclaimer, then answer": "control", "Broken": "other"}
    rows = [(when, name, n, sides[name]) for when, found in counts.items() for name, n in found.items()]
    return pd.DataFrame(rows, columns=["when", "class_title", "n", "side"])


def separability_frame(accuracy: Sequence[float | None] = (0.5, 0.7, 0.95)) -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "accuracy": share,
            "low": None if share is None else share - 0.05,
            "high": None if share is None else min(share + 0.05, 1.0),
            "auc": None if share is None else min(share + 0.02, 1.0),
            "n_prompts": 20 if share is not None else 0,
        }
        for layer, share in enumerate(accuracy)
    ]
    return pd.DataFrame(rows)


GROUP = "dose/neurons/n_neurons=100/factor=0.0"
PREDICTED = pd.DataFrame({"n_neurons": [1, 5, 20], "predicted": [-0.5, -2.0, -3.0]})
OTHER_MEAN = dict.fromkeys(SPLITS, -3.0)

# name -> (chart of points and answers, the points it is fed)
Make = Callable[[pd.DataFrame], charts.Figure]
OF_POINTS: dict[str, tuple[Make, Callable[[], pd.DataFrame]]] = {
    "dose_curve": (lambda p: sweep_charts.dose_curve(p, BASELINE, "n_neurons", 10, 3072), doses),
    "dose_curve by factor": (lambda p: sweep_charts.dose_curve(p, BASELINE, "factor"), factors),
    "dose_curve by strength": (lambda p: sweep_charts.dose_curve(p, BASELINE, "strength"), strengths),
    "threshold_curve": (lambda p: sweep_charts.threshold_curve(p, 100_000), doses),
    "patch_by_count": (lambda p: sweep_charts.patch_by_count(p, PREDICTED), patched),
    "heads_against_neurons": (
        lambda p: sweep_charts.heads_against_neurons(p.assign(kind="heads", variant="heads"), p),
        doses,
    ),
    "window_map": (lambda p: window_charts.window_map(p, SUMMARY), window),
    "window_map of the excess": (lambda p: window_charts.window_map(p, SUMMARY, "heldout", "excess"), window),
    "layer_ablation": (window_charts.layer_ablation, layer_points),
    "patch_by_layer": (lambda p: window_charts.patch_by_layer(p, BASELINE, OTHER_MEAN), patched),
    "held": (window_charts.held, held_points),
    "collateral": (lambda p: sweep_charts.collateral(collateral_frame(), GROUP, p, "safety_refusal"), doses),
    "collateral alone": (lambda p: sweep_charts.collateral(collateral_frame(), GROUP), doses),
    "collateral_text": (lambda p: sweep_charts.collateral_text(collateral_frame(), "n_neurons", 10), doses),
}
OF_ANSWERS: dict[str, tuple[Make, Callable[[], pd.DataFrame]]] = {
    "outcome_curve": (
        lambda r: response_charts.outcome_curve(r, "switched", "n_neurons", 10),
        lambda: with_answers(doses()),
    ),
    "outcome_curve over seeds": (
        lambda r: response_charts.outcome_curve(r, "switched", "n_neurons"),
        lambda: with_answers(doses(), n_seeds=5),
    ),
    "seeds": (lambda r: response_charts.seeds(r, "switched"), lambda: with_answers(doses(), n_seeds=5)),
    "outcome_map": (
        lambda r: window_charts.outcome_map(r, "heldout", "switched"),
        lambda: with_answers(window()),
    ),
    "switch_by_layer": (
        lambda r: window_charts.switch_by_layer(r, -2.0),
        lambda: with_answers(window()),
    ),
    "class_bars": (response_charts.class_bars, class_rows),
    "separability": (window_charts.separability, separability_frame),
}
EVERY_CHART = OF_POINTS | OF_ANSWERS


def made(name: str, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows) -> charts.Figure:
    make, rows = EVERY_CHART[name]
    return make(change(rows()))


def png(figure: charts.Figure) -> bytes:
    out = io.BytesIO()
    figure.chart.properties(width=420).save(out, format="png", ppi=50)
    return out.getvalue()


def spec(figure: charts.Figure) -> dict[str, Any]:
    return json.loads(figure.chart.to_json())


def data_of(figure: charts.Figure) -> list[dict[str, Any]]:
    return [row for rows in spec(figure)["datasets"].values() for row in rows]


def inside(value: Any, key: str) -> list[Any]:
    """Every value of a key anywhere in a specification, rows left out."""
    if isinstance(value, list):
        return [found for item in value for found in inside(item, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if key in value else []
    return own + [found for name, item in value.items() if name != "datasets" for found in inside(item, key)]


def colours(figure: charts.Figure) -> dict[str, str]:
    """Name -> colour of every colour legend."""
    scales = [c["scale"] for c in inside(spec(figure), "color") if isinstance(c, dict) and "scale" in c]
    return {n: c for s in scales for n, c in zip(s["domain"], s["range"], strict=False)}


def holds(figure: charts.Figure) -> None:
    """What is true of every figure whatever its rows."""
    text = figure.chart.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    for words in (figure.title, figure.caption, figure.description):
        assert words.strip()
        assert not {"nan", "None", "<NA>"} & set(words.replace(",", " ").replace(";", " ").split())
    assert spec(figure)["description"] == figure.description
    assert spec(figure)["width"] == "container"


# ------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", EVERY_CHART)
def test_every_chart_renders_with_its_words(name: str) -> None:
    figure = made(name)
    holds(figure)
    assert png(figure).startswith(b"\x89PNG")
    assert len(figure.caption) > 40
    assert inside(spec(figure), "tooltip")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda rows: rows.iloc[:0], id="no rows"),
        pytest.param(lambda rows: rows.iloc[:0, :0], id="no rows and no columns"),
        pytest.param(lambda rows: rows.iloc[:1], id="one row"),
        pytest.param(lambda rows: rows[rows["arm"] != "random"] if "arm" in rows else rows, id="no random"),
        pytest.param(lambda rows: rows[rows["arm"] == "random"] if "arm" in rows else rows, id="only random"),
        pytest.param(lambda rows: rows[rows["split"] == "discovery"] if "split" in rows else rows, id="no held-out"),
    ],
)
@pytest.mark.parametrize("name", EVERY_CHART)
def test_missing_rows_leave_a_chart_with_words(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    holds(made(name, change))


@pytest.mark.parametrize("name", EVERY_CHART)
def test_charts_of_nothing_still_render(name: str) -> None:
    assert png(made(name, lambda rows: rows.iloc[:0])).startswith(b"\x89PNG")


def broken(rows: pd.DataFrame) -> pd.DataFrame:
    """The same points, each of them broken."""
    numbers = ["logit_diff_mean", "low", "high", "delta_mean", "delta_low", "delta_high"]
    return rows.assign(n_broken=3, **dict.fromkeys(numbers))


@pytest.mark.parametrize("name", OF_POINTS)
def test_points_that_all_broke_are_said_not_drawn_as_numbers(name: str) -> None:
    figure = made(name, broken)
    holds(figure)
    assert png(figure).startswith(b"\x89PNG")
    if name not in ("collateral alone", "collateral_text", "heads_against_neurons", "collateral"):
        assert "br" in figure.title or "No dose" in figure.title or "not all measured" in figure.title


@pytest.mark.parametrize("name", [n for n in EVERY_CHART if n != "class_bars"])  # whose classes are of any name
def test_colours_keep_their_meaning_and_nothing_else_has_them(name: str) -> None:
    """What a colour of these groups stands for, in the words of every legend."""
    meaning = {
        "Ranked, discovery": charts.RANKED,
        "Ranked, held out": charts.HELDOUT,
        "Direction, discovery": charts.RANKED,
        "Direction, held out": charts.HELDOUT,
        "Random directions": charts.RANDOM,
        "Random draws": charts.RANDOM,
        "Random: switched": charts.RANDOM,
        "FFN": charts.FFN,
        "Neurons": charts.FFN,
        "Attention": charts.ATTENTION,
        "Attention heads": charts.ATTENTION,
        "Edited": charts.RANKED,
        "Later attention held": charts.ATTENTION,
        "Later FFNs held": charts.FFN,
        "Later layers free": charts.SKIP,
        "Whole residual stream": charts.SKIP,
        "Random": charts.RANDOM,
    }
    fixed = {colour for group in ("component", "condition", "side", "arm") for colour in charts.PALETTES[group]}
    for entry, colour in colours(made(name)).items():
        assert meaning.get(entry, colour) == colour
        assert colour not in fixed or entry in meaning


@pytest.mark.parametrize("background", ["#FFFFFF", "#12171B"])
def test_the_colours_of_outcomes_and_regimes_stand_out_on_light_and_dark_pages(background: str) -> None:
    used = [c for _, c in (*window_charts.OUTCOMES.values(), *window_charts.REGIMES.values())]
    for colour in used:
        light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_outcomes_differ_for_colour_blind_eyes(kind: str) -> None:
    seen = [seen_without(colour, kind) for _, colour in window_charts.OUTCOMES.values()]
    assert min(np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[i + 1 :]) > 0.15


def test_charts_of_sweeps_need_neither_torch_nor_streamlit() -> None:
    modules = "sweep_charts, response_charts, window_charts"
    code = (
        f"import sys; from pprobe_core import {modules}; print({{'torch', 'streamlit', 'duckdb'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------------------------------------------- curves and doses


def test_the_dose_title_states_the_effect_against_random() -> None:
    figure = sweep_charts.dose_curve(doses(), BASELINE, "n_neurons", None, 3072)
    assert figure.title == (
        "Switching off 100 of 3,072 neurons (3.3\u00a0%) moves F by −4.00 logits on held-out prompts; "
        "random neurons by −0.10 to +0.10"
    )
    assert figure.caption.startswith("n = 30 discovery and 10 held-out prompts.")
    assert "5 random draws" in figure.caption


def test_the_highlighted_dose_is_the_one_the_title_is_about() -> None:
    figure = sweep_charts.dose_curve(doses(), BASELINE, "n_neurons", 5)
    assert figure.title.startswith("Switching off 5 neurons moves F by −2.40 logits")
    assert len(inside(spec(figure), "layer")[0]) == 1 + len(
        inside(spec(sweep_charts.dose_curve(doses(), BASELINE, "n_neurons")), "layer")[0]
    )


@pytest.mark.parametrize(
    ("rows", "axis", "start"),
    [
        (factors, "factor", "Scaling 20 neurons by −1 moves F"),
        (strengths, "strength", "Adding the direction after layer 4 at strength −2 moves F by −6.00"),
        (lambda: doses(kind="heads", variant="heads"), "n_neurons", "Switching off 100 heads"),
        (lambda: doses(kind="patch", variant="patch"), "n_neurons", "Patching 100 neurons"),
        (lambda: doses(kind="patch", variant="restore"), "n_neurons", "Restoring 100 neurons"),
    ],
)
def test_titles_say_what_was_edited(rows: Callable[[], pd.DataFrame], axis: Any, start: str) -> None:
    assert sweep_charts.dose_curve(rows(), BASELINE, axis).title.startswith(start)


def test_a_band_of_layers_is_named() -> None:
    band = strengths().assign(layer=pd.Series([pd.NA] * len(strengths()), dtype="Int64"))
    band["layers"] = [(2, 3, 4, 5)] * len(band)
    title = sweep_charts.dose_curve(band, BASELINE, "strength").title
    assert "after each of layers 2 to 5 at strength −2" in title


def test_a_curve_over_counts_begins_at_the_unedited_model_unless_that_was_measured() -> None:
    drawn = [r for r in data_of(sweep_charts.dose_curve(doses(), BASELINE, "n_neurons")) if r.get("x") == 0]
    assert {(r["arm"], r["split"]) for r in drawn} == {(a, s) for a in ("ranked", "random") for s in sweep_rows.SPLITS}
    assert {r["mean"] for r in drawn} == {5.0}
    measured = doses(ns=(0, 1, 10))
    again = [r for r in data_of(sweep_charts.dose_curve(measured, BASELINE, "n_neurons")) if r.get("x") == 0]
    assert len(again) == 4
    assert {r["mean"] for r in again if r["arm"] == "ranked"} != {5.0}


def test_the_band_is_the_smallest_to_the_largest_draw_of_each_split() -> None:
    rows = data_of(sweep_charts.dose_curve(doses(), BASELINE, "n_neurons"))
    bands = [r for r in rows if r.get("arm") == "random" and r["x"] == 100]
    assert len(bands) == 2
    assert all((r["low"], r["high"], r["n"]) == (pytest.approx(4.9), pytest.approx(5.1), 5) for r in bands)


def test_validation_prompts_are_not_drawn() -> None:
    rows = data_of(sweep_charts.dose_curve(doses(), BASELINE, "n_neurons"))
    assert "validation" not in {r.get("split") for r in rows}


def test_a_missing_control_or_split_is_said() -> None:
    rows = doses()
    alone = sweep_charts.dose_curve(rows[rows["arm"] == "ranked"], BASELINE, "n_neurons")
    assert alone.title.endswith("no random control was measured")
    assert "No random control was measured, so nothing here shows a cause" in alone.caption
    only = sweep_charts.dose_curve(rows[rows["split"] == "discovery"], BASELINE, "n_neurons")
    assert "on discovery prompts" in only.title
    assert "There are no held-out prompts" in only.caption


def test_broken_doses_are_marked_and_counted() -> None:
    rows = pd.concat([doses(ns=(1, 10)), broken(doses(ns=(100,)))], ignore_index=True)
    figure = sweep_charts.dose_curve(rows, BASELINE, "n_neurons")
    assert figure.title == "Switching off 100 neurons breaks the model: its logits are no numbers"
    assert [r["x"] for r in data_of(figure) if r.get("text") == "×"] == [100]
    assert "6 points (×) broke the model" in figure.caption  # the ranked one and five draws
    assert sweep_charts.dose_curve(rows, BASELINE, "n_neurons", 10).title.startswith("Switching off 10 neurons moves")


def test_the_threshold_curve_marks_the_referees_range() -> None:
    figure = sweep_charts.threshold_curve(doses(ns=(1, 10, 50, 1000)), 100_000)
    spans = [r for r in data_of(figure) if "from" in r]
    assert spans == [{"from": 0.00005, "to": 0.001}]
    assert figure.title.startswith("Between 0.01\u00a0% and 0.05\u00a0% of the neurons (10 to 50)")
    assert "−2.00 to −3.00 logits on held-out prompts; random neurons by −0.10 to +0.10" in figure.title
    assert "No dose lies between" in sweep_charts.threshold_curve(doses(ns=(1,)), 100).title
    assert "One dose lies between" in sweep_charts.threshold_curve(doses(ns=(10,)), 100_000).title


def test_patching_by_count_shows_the_prediction_beside_the_measurement() -> None:
    figure = sweep_charts.patch_by_count(patched(), PREDICTED)
    assert figure.title.startswith("Patching 20 neurons moves F by −8.00 logits")
    assert figure.title.endswith("predicted −3.00")
    assert "predicted" not in sweep_charts.patch_by_count(patched()).title


def test_heads_and_neurons_each_have_their_random_band() -> None:
    heads = doses(-9.0, (1, 4), kind="heads", variant="heads")
    figure = sweep_charts.heads_against_neurons(heads, doses())
    assert figure.title == "Switching off 4 heads moves F by −9.00 logits, 100 neurons by −4.00 (held-out prompts)"
    assert {r["unit"] for r in data_of(figure) if r.get("arm") == "random"} == {"Neurons", "Attention heads"}


# -------------------------------------------------------------------------------------------------------- side effects


def test_collateral_puts_the_edited_circuit_first_and_sorts_the_rest_by_size() -> None:
    figure = sweep_charts.collateral(collateral_frame(), GROUP, doses(), "safety_refusal")
    (order,) = {tuple(s) for s in inside(spec(figure), "sort") if isinstance(s, list)}
    assert order == ("Safety refusal (edited)", "Math", "Tool use", "Language")
    assert figure.title == (
        "The edit moves its own circuit by −4.00 logits; elsewhere math moves most, by −0.80 (random −0.05 to +0.04)"
    )
    assert "Loss of 12 neutral texts: +0.0200 nats per token" in figure.caption
    assert "not measured" in sweep_charts.collateral(collateral_frame(), "elsewhere").title


def test_neutral_text_is_drawn_in_its_own_unit() -> None:
    figure = sweep_charts.collateral_text(collateral_frame(), "n_neurons", 10)
    assert figure.title == (
        "Neutral text: the loss changes by +0.0020 nats per token with 10 neurons switched off; "
        "random −0.0500 to +0.0400"
    )
    assert {r["name"] for r in data_of(figure) if "name" in r} == {"neutral text"}


def test_broken_collateral_is_written_not_drawn() -> None:
    rows = collateral_frame()
    rows.loc[rows["name"] == "math", ["delta_mean", "low", "high"]] = np.nan
    figure = sweep_charts.collateral(rows, GROUP, doses(), "safety_refusal")
    assert [r["label"] for r in data_of(figure) if r.get("text") == "× broken"] == ["Math"]
    assert "elsewhere tool use moves most" in figure.title


# --------------------------------------------------------------------------------------------------------- the answers


def test_the_outcome_title_counts_answers_beside_unedited_and_random() -> None:
    figure = response_charts.outcome_curve(with_answers(doses()), "switched", "n_neurons")
    assert figure.title == (
        "Switched sides: 6 of 10 held-out answers (60\u00a0%) with 100 neurons switched off; unedited 0, "
        "random 0\u00a0%"
    )
    assert figure.caption.startswith("n = 30 discovery and 10 held-out answers at each point.")


def test_rows_of_the_unedited_answers_do_not_disturb_a_curve() -> None:
    rates = with_answers(doses())
    base = rates.iloc[:1].assign(key="baseline", arm=None, n_neurons=pd.NA, factor=None, kind=None)
    with_base = pd.concat([rates, base], ignore_index=True)
    one, two = (response_charts.outcome_curve(r, "switched", "n_neurons") for r in (rates, with_base))
    assert (one.title, one.caption) == (two.title, two.caption)


def test_rates_say_what_was_edited_by_kind_or_variant() -> None:
    rates = with_answers(doses(kind="patch", variant="patch"))
    by_variant = rates.drop(columns="kind").assign(variant="patch")
    for rows in (rates, by_variant):
        assert "with 100 neurons patched" in response_charts.outcome_curve(rows, "switched", "n_neurons").title
    heads = rates.assign(kind="heads")
    assert "with 100 heads switched off" in response_charts.outcome_curve(heads, "switched", "n_neurons").title


def test_seeds_get_thin_bars_and_a_warning() -> None:
    figure = response_charts.outcome_curve(with_answers(doses(), n_seeds=5), "switched", "n_neurons")
    assert "5 sampling seeds" in figure.caption
    assert any(m.get("type") == "errorbar" for m in inside(spec(figure), "mark") if isinstance(m, dict))
    assert "seeds" not in response_charts.outcome_curve(with_answers(doses()), "switched", "n_neurons").caption


def test_the_seed_chart_states_mean_and_range() -> None:
    figure = response_charts.seeds(with_answers(doses(), n_seeds=5), "switched")
    assert figure.title == (
        "Switched sides: 60\u00a0% of held-out answers with 100 neurons switched off, "
        "from 40\u00a0% to 80\u00a0% by seed"
    )
    assert figure.caption.startswith("n = 10 answers for each of 5 seeds.")
    assert response_charts.seeds(with_answers(doses()), "switched").title == "There are no answers of several seeds"


def test_class_bars_name_the_class_that_changes_most_and_colour_by_side() -> None:
    figure = response_charts.class_bars(class_rows())
    assert figure.title == (
        "Refusal: 100\u00a0% of the unedited answers, 30\u00a0% after the edit, 96\u00a0% under random controls"
    )
    found = colours(figure)
    assert found["Refusal"] == charts.TARGET
    assert found["Compliance"] == charts.CONTROL
    assert found["Disclaimer, then answer"] in response_charts.SIDE_TINTS["control"]
    assert found["Broken"] == charts.OTHER
    assert len(set(found.values())) == len(found)


def test_class_bars_without_sides_still_have_a_colour_each() -> None:
    figure = response_charts.class_bars(class_rows().drop(columns="side"))
    assert len(set(colours(figure).values())) == 4
    same = class_rows().query("when == 'unedited'")
    both = pd.concat([same, same.assign(when="edited")])
    assert "the same before and after" in response_charts.class_bars(both).title


# ---------------------------------------------------------------------------------------------------------- the layers


def test_the_map_is_selectable_and_its_colours_are_centred() -> None:
    figure = window_charts.window_map(window(), SUMMARY)
    (parameter,) = spec(figure)["params"]
    assert parameter["name"] == "cell"
    assert parameter["select"]["fields"] == ["layer", "strength"]
    (domain,) = [c["scale"]["domain"] for c in inside(spec(figure), "color") if isinstance(c, dict) and "scale" in c]
    assert domain == [-6.0, 0, 6.0]
    assert figure.title == (
        "Injected after layer 3 at strength −2, the direction moves F most: −6.00 logits on held-out prompts; "
        "random directions by −0.10 to +0.10"
    )


def test_broken_cells_carry_a_sign() -> None:
    rows = window()
    some = (rows["layer"] == 3) & (rows["arm"] == "ranked")
    rows.loc[some, ["logit_diff_mean", "delta_mean", "delta_low", "delta_high"]] = np.nan
    rows.loc[some, "n_broken"] = 4
    figure = window_charts.window_map(rows, SUMMARY)
    marked = {(r["layer"], r["strength"]) for r in data_of(figure) if r.get("text") == "×" and r.get("shown") is None}
    assert marked == {(3, -0.5), (3, -2.0)}
    assert "2 points (×) broke the model" in figure.caption


def test_the_excess_takes_the_mean_random_change_away() -> None:
    rows = window()
    rows.loc[rows["arm"] == "random", "delta_mean"] = 1.0
    cells = [r for r in data_of(window_charts.window_map(rows, SUMMARY, "heldout", "excess")) if "shown" in r]
    assert all(r["shown"] == pytest.approx(r["delta_mean"] - 1.0) for r in cells)


def test_a_deep_model_keeps_the_map_readable() -> None:
    figure = window_charts.window_map(window(36, strengths=(-0.25, -0.5, -1.0, -2.0)), SUMMARY)
    assert not any(isinstance(m, dict) and m.get("type") == "text" for m in inside(spec(figure), "mark"))
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("n_layers", [4, 36])
def test_regimes_stand_as_letters_on_the_map(n_layers: int) -> None:
    rates = with_answers(window(n_layers))
    names = ("destructive", "causal", "committed", "mixed")
    regimes = regime_rows(rates, lambda layer: names[layer % 4])
    figure = window_charts.outcome_map(rates, "heldout", "switched", regimes)
    texts = {r["text"] for r in data_of(figure) if r.get("text")}
    assert {t.split()[-1] for t in texts} == {"D", "C", "–", "M"}
    assert "at most 6 of 10 held-out answers (60\u00a0%)" in figure.title
    assert "Letters: D destructive" in figure.caption
    assert "Letters" not in window_charts.outcome_map(rates, "heldout", "switched").caption
    assert png(figure).startswith(b"\x89PNG")


def test_nothing_that_switches_is_said() -> None:
    rates = with_answers(window(), {"switched": 0.0, "broken": 0.0})
    assert "none of 10 held-out answers" in window_charts.outcome_map(rates, "heldout", "switched").title
    assert "none of 10 answers switches" in window_charts.switch_by_layer(rates, -2.0).title


def test_switches_by_layer_name_the_best_layer_and_the_runs_of_regimes() -> None:
    rates = with_answers(window(9), only=lambda row: row["layer"] >= 3)
    regimes = regime_rows(rates, lambda layer: "destructive" if layer < 3 else "causal" if layer < 6 else "committed")
    figure = window_charts.switch_by_layer(rates, -2.0, regimes)
    assert figure.title == (
        "At strength −2 the answers switch most after layer 3: 6 of 10 (60\u00a0%), 4 of them still right; "
        "random at most 0\u00a0%"
    )
    runs = {(r["regime"], r["first"], r["last"]) for r in data_of(figure) if "first" in r}
    assert runs == {("destructive", 0, 2), ("causal", 3, 5), ("committed", 6, 8)}
    assert "Strip" not in window_charts.switch_by_layer(rates, -2.0).caption


def test_separability_says_whether_it_is_above_chance() -> None:
    title = window_charts.separability(separability_frame()).title
    assert title == (
        "The direction separates held-out prompts best after layer 2: 95\u00a0% of 20 on the right side, which is "
        "above chance"
    )
    assert "not clear of chance" in window_charts.separability(separability_frame((0.5, 0.52))).title
    assert "no held-out prompts" in window_charts.separability(separability_frame((None, None))).title


def test_layer_ablation_tells_of_all_layers_in_words() -> None:
    figure = window_charts.layer_ablation(layer_points())
    assert figure.title == (
        "Switched off alone, the FFN of layer 2 (−3.00) and the attention of layer 2 (−6.00) move F most on held-out "
        "prompts"
    )
    assert "the 3 FFN outputs −10.00, the 3 attention outputs −20.00" in figure.caption
    assert len({r["layer"] for r in data_of(figure) if "component" in r}) == 3


def test_patching_by_layer_gives_shares_of_the_whole_change() -> None:
    figure = window_charts.patch_by_layer(patched(), BASELINE, OTHER_MEAN)  # unedited 5, other prompts -3
    shown = {(r["part"], r["layer"]): r["mean"] for r in data_of(figure) if "part" in r}
    assert shown["Whole residual stream", 2] == pytest.approx(1.0)
    assert shown["FFN", 2] == pytest.approx(0.5)
    assert "FFN of layer 2 50\u00a0%, the attention of layer 2 25\u00a0% of the change of −8.00 logits" in figure.title
    assert all(r["low"] <= r["mean"] <= r["high"] for r in data_of(figure) if "part" in r)
    same = window_charts.patch_by_layer(patched(), BASELINE, 5.0)
    holds(same)
    assert "do not differ" in same.title


def test_held_outputs_are_compared_where_they_differ_most() -> None:
    assert window_charts.held(held_points()).title == (
        "Exchanged after layer 0, F moves −8.00 logits; −7.00 with later attention held, −1.00 with later FFNs held"
    )


# ------------------------------------------------------------------------------------------------------------ in words


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (100 / 3072, "3.3\u00a0%"),
        (50 / 350_208, "0.014\u00a0%"),
        (0.7, "70\u00a0%"),
        (1.0, "100\u00a0%"),
        (0.0, "0\u00a0%"),
        (float("nan"), "–"),
    ],
)
def test_shares_are_written_as_people_read_them(share: float, shown: str) -> None:
    assert sweep_rows.percent(share) == shown


def test_small_changes_are_not_written_as_powers_of_ten() -> None:
    assert sweep_rows.logits(-1e-7) == "0.00"
    assert sweep_rows.logits(-3.456) == "−3.46"
    assert sweep_rows.nats(0.00012) == "+0.0001"
    assert sweep_rows.nats(1.5) == "+1.50"


def test_one_of_something_is_not_some() -> None:
    assert sweep_rows.count_words(1, "neuron") == "1 neuron"
    assert sweep_rows.count_words(2000, "neuron") == "2,000 neurons"
