"""Rows of sweeps as charts read them, and the words for what was edited, on which prompts, against which controls.

Plain frames and strings; the charts are in `sweep_charts` and `window_charts`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pprobe_core.charts import number
from pprobe_core.circuits.library import load_circuit
from pprobe_core.errors import BadRequest

Axis = Literal["n_neurons", "factor", "strength"]
SPLIT_NAMES: Mapping[str, str] = {"discovery": "discovery", "validation": "validation", "heldout": "held-out"}
SPLITS = ("discovery", "heldout")  # what selected, and what took no part in it
SENSITIVITY = (0.00005, 0.001)  # shares of all neurons between which a referee asks for the curve
AXIS_TITLES: Mapping[str, str] = {"n_neurons": "Neurons edited", "factor": "Factor", "strength": "Strength"}
UNCHANGED: Mapping[str, float] = {"n_neurons": 0.0, "factor": 1.0, "strength": 0.0}  # where an edit does nothing
SHARE_TICKS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_PLACE = ("n_neurons", "layer", "strength", "factor")
_POINT_NUMBERS = ("logit_diff_mean", "low", "high", "delta_mean", "delta_low", "delta_high", "n_prompts", "n_broken")
_RATE_NUMBERS = ("n", "n_yes", "n_before", "share", "low", "high", "p_value", "p_holm")
_COLLATERAL_NUMBERS = ("n", "baseline_mean", "delta_mean", "low", "high", "random_low", "random_high")
_BASELINE_NUMBERS = ("n_prompts", "logit_diff_mean", "low", "high")


@dataclass(frozen=True)
class ArmWords:
    """What the two arms of a sweep are called."""

    ranked: str  # in a legend
    draws: str  # in a legend
    random: str  # in a sentence

    @property
    def series(self) -> list[str]:
        """Legend entries, in the order of ARM_COLOURS."""
        return [f"{self.ranked}, discovery", f"{self.ranked}, held out", self.draws]

    @property
    def names(self) -> dict[str, str]:
        """Legend entry of each split's ranked arm, and of the random one."""
        return dict(zip(("discovery", "heldout", "random"), self.series, strict=True))


# ------------------------------------------------------------------------------------------- rows (also for layers)


def point_rows(points: pd.DataFrame) -> pd.DataFrame:
    """The points with every column charts read, numbers as floats (NaN where there is none)."""
    texts = ("key", "group", "kind", "variant", "arm", "split", "layers", "neurons")
    return _columns(points, texts, (*_PLACE, "draw", *_POINT_NUMBERS))


def rate_rows(rates: pd.DataFrame) -> pd.DataFrame:
    """The rates with every column charts read, numbers as floats (NaN where there is none)."""
    texts = ("key", "split", "outcome", "title", "by_seed", "kind", "variant", "arm", "layers")
    rows = _columns(rates, texts, (*_PLACE, "draw", *_RATE_NUMBERS))
    of_variant = {"patch": "patch", "restore": "patch", "heads": "heads", "neurons": "dose"}
    kinds = pd.Series([of_variant.get(str(v).split()[0]) for v in rows["variant"]], index=rows.index, dtype=object)
    return rows.assign(kind=rows["kind"].astype(object).where(rows["kind"].notna(), kinds))


def collateral_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Collateral rows with every column charts read, numbers as floats."""
    return _columns(rows, ("about", "name", "group"), (*_PLACE, *_COLLATERAL_NUMBERS))


def baseline_rows(baseline: Any) -> pd.DataFrame:
    """The unedited means by split, from the sweep's summary or a frame of the same columns."""
    return _columns(pd.DataFrame(baseline if baseline is not None else []), ("split",), _BASELINE_NUMBERS)


def _columns(rows: pd.DataFrame, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    out = rows.reindex(columns=[*texts, *numbers])
    for name in numbers:  # whole numbers with gaps, None and NaN all become floats
        out[name] = pd.to_numeric(out[name], errors="coerce").astype("float64")
    return out


def curve_rows(rows: pd.DataFrame, axis: str, value: str, low: str, high: str, words: ArmWords) -> pd.DataFrame:
    """Rows to draw: x, series, arm, split, mean, low, high, n; the random draws as one row per x and split."""
    counted = "n_prompts" if "n_prompts" in rows else "n"
    keep = rows[rows[axis].notna() & rows[value].notna() & rows["split"].isin(SPLITS)]
    ranked = keep[keep["arm"] == "ranked"]
    lines = pd.DataFrame(
        {
            "x": ranked[axis],
            "series": ranked["split"].map(words.names),
            "arm": "ranked",
            "split": ranked["split"],
            "mean": ranked[value],
            "low": ranked[low],
            "high": ranked[high],
            "n": ranked[counted],
            "p": ranked["p_holm"] if "p_holm" in rows else np.nan,
        }
    )
    draws = keep[keep["arm"] == "random"].groupby([axis, "split"], as_index=False)
    bands = draws.agg(mean=(value, "mean"), low=(value, "min"), high=(value, "max"), n=(value, "size"))
    bands = bands.rename(columns={axis: "x"}).assign(series=words.names["random"], arm="random")
    out = pd.concat([lines, bands], ignore_index=True) if len(bands) else lines.reset_index(drop=True)
    return out.sort_values(["arm", "split", "x"], ignore_index=True)


def with_start(drawn: pd.DataFrame, axis: str, starts: Mapping[str, tuple[float, float, float]]) -> pd.DataFrame:
    """The rows to draw, each curve with the unedited model put where the edit does nothing: split -> mean, low, high.

    Left alone where that place was measured, or where `starts` says nothing about a split.
    """
    added = []
    for arm, split in drawn[["arm", "split"]].drop_duplicates().itertuples(index=False):
        own = drawn[(drawn["arm"] == arm) & (drawn["split"] == split)]
        if split not in starts or np.isclose(own["x"], UNCHANGED[axis]).any():
            continue
        mean, low, high = starts[split]
        place = {"x": UNCHANGED[axis], "series": own["series"].iloc[0], "arm": arm, "split": split, "mean": mean}
        ends = {"low": low, "high": high} if arm == "ranked" else {"low": mean, "high": mean}
        added.append(place | ends | {"n": own["n"].iloc[0]})
    if not added:
        return drawn
    return pd.concat([pd.DataFrame(added), drawn], ignore_index=True).sort_values(
        ["arm", "split", "x"], ignore_index=True
    )


def largest(rows: pd.DataFrame, column: str) -> pd.Series:
    """The row with the largest size of a column that has no gaps."""
    return rows.iloc[int(rows[column].abs().to_numpy().argmax())]


def shown_split(rows: pd.DataFrame) -> str:
    """Held-out where there are such rows, else discovery, else whatever there is."""
    there = set(rows["split"].dropna())
    return next((s for s in ("heldout", "discovery", *sorted(there)) if s in there), "heldout")


def main_row(rows: pd.DataFrame, axis: str, highlight: float | None = None) -> pd.Series | None:
    """The ranked row a title is about: the highlighted one, or the one that edits most; held-out where there is one."""
    ranked = rows[(rows["arm"] == "ranked") & rows[axis].notna()]
    ranked = ranked[ranked["split"] == shown_split(ranked)]
    return chosen_row(ranked, axis, highlight) if len(ranked) else None


# ------------------------------------------------------------------------------------------------------- in words


def percent(share: float, digits: int | None = None) -> str:
    """A fraction as a percentage people read: two significant digits unless told how many decimals."""
    if not np.isfinite(share):
        return "–"
    if digits is None:
        digits = 0 if share == 0 or abs(share) >= 0.1 else int(max(0, 1 - np.floor(np.log10(abs(100 * share)))))
    text = f"{100 * share:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text.replace('-', '−')}\u00a0%"


def logits(value: float) -> str:
    """A signed number of logits with two decimals; what rounds to nothing is 0.00."""
    if not np.isfinite(value):
        return "–"
    rounded = round(float(value), 2)
    return number(rounded, signed=True) if rounded else "0.00"


def nats(value: float) -> str:
    """A signed change of a loss: small ones with more decimals."""
    digits = 2 if abs(value) >= 0.1 else 4
    rounded = round(float(value), digits) if np.isfinite(value) else float("nan")
    return number(rounded, digits, signed=True) if rounded else "0.00"


def count_words(n: float, one: str) -> str:
    """`1 neuron`, `20 neurons`."""
    return f"{int(n):,} {one}" + ("" if int(n) == 1 else "s")


def circuit_words(name: str) -> str:
    """A circuit's id as words; of a user's own, `id@version`, its title where its file is still here."""
    circuit_id, version, _ = str(name).partition("@")
    if version:
        with contextlib.suppress(BadRequest):
            return load_circuit(str(name)).title
    return circuit_id.replace("_", " ").capitalize()


def arm_words(rows: pd.DataFrame) -> ArmWords:
    """The arms' names, by what the sweep edits."""
    kinds = set(rows["kind"].dropna()) if "kind" in rows else set()
    if kinds & {"window", "strength"} or (not kinds and len(rows) and rows["strength"].notna().any()):
        return ArmWords("Direction", "Random directions", "random directions")
    if "heads" in kinds:
        return ArmWords("Ranked", "Random draws", "random heads")
    return ArmWords("Ranked", "Random draws", "random neurons")


def edit_words(row: Mapping[str, Any] | pd.Series, n_total: int | None = None) -> str:
    """What a point does, as the start of a sentence: `Switching off 100 of 3,072 neurons (3.3 %)`."""
    kind, factor, n = row["kind"], row["factor"], row["n_neurons"]
    if np.isfinite(row["strength"]):
        return f"Adding the direction {place_words(row)} at strength {signed_number(row['strength'])}"
    if not np.isfinite(n):
        return "The edit"
    unit = "head" if kind == "heads" else "neuron"
    what = count_words(n, unit)
    if n_total:
        what = f"{int(n):,} of {n_total:,} {unit}s ({percent(n / n_total)})"
    if kind == "patch":
        return f"{'Restoring' if str(row['variant']).startswith('restore') else 'Patching'} {what}"
    if np.isfinite(factor) and factor != 0:
        return f"Scaling {what} by {plain_number(factor)}"
    return f"Switching off {what}"


def place_words(row: Mapping[str, Any] | pd.Series) -> str:
    """Where a direction is added: after a layer, or after each layer of a band."""
    if np.isfinite(row["layer"]):
        return f"after layer {int(row['layer'])}"
    layers = listed(row.get("layers"))
    return f"after each of layers {int(min(layers))} to {int(max(layers))}" if layers else "after a layer"


def signed_number(value: float) -> str:
    """A strength: sign, and no more digits than it has."""
    return f"{value:+g}".replace("-", "−")


def plain_number(value: float) -> str:
    """A factor: no more digits than it has."""
    return f"{value:g}".replace("-", "−")


def effect_title(rows: pd.DataFrame, axis: str, highlight: float | None = None, n_total: int | None = None) -> str:
    """What the highlighted or largest edit does to F, against what random controls do."""
    row = main_row(rows, axis, highlight)
    if row is None:
        return "No point was measured"
    what, where = edit_words(row, n_total), SPLIT_NAMES.get(row["split"], str(row["split"]))
    if not np.isfinite(row["delta_mean"]):
        return f"{what} breaks the model: its logits are no numbers"
    title = f"{what} moves F by {logits(row['delta_mean'])} logits on {where} prompts"
    return title + f"; {random_words(rows, row, axis)}"


def draws_beside(rows: pd.DataFrame, row: pd.Series, axis: str) -> pd.DataFrame:
    """The random draws at the place of one ranked row."""
    draws = rows[(rows["arm"] == "random") & (rows["split"] == row["split"]) & np.isclose(rows[axis], row[axis])]
    return draws[draws["layer"] == row["layer"]] if np.isfinite(row["layer"]) else draws


def random_words(rows: pd.DataFrame, row: pd.Series, axis: str) -> str:
    """The range of the random draws beside one ranked row."""
    draws = draws_beside(rows, row, axis)
    means = draws["delta_mean"].dropna()
    name = arm_words(rows).random
    if not len(means):
        return "no random control was measured" if not len(draws) else f"{name} broke the model"
    return f"{name} by {logits(means.min())} to {logits(means.max())}"


def outcome_title(rows: pd.DataFrame, outcome: str) -> str:
    """The outcome's title, from its rows or made from its name."""
    titles = rows["title"].dropna()
    return str(titles.iloc[0]) if len(titles) else outcome.replace("_", " ").capitalize()


def chosen_row(rows: pd.DataFrame, axis: str, highlight: float | None) -> pd.Series:
    """The row at the highlighted place, or the one furthest from where the edit does nothing; ties by size."""
    if highlight is not None:
        at = rows[np.isclose(rows[axis], highlight)]
        if len(at):
            return at.iloc[0]
    value = "delta_mean" if "delta_mean" in rows else "share" if "share" in rows else "mean"
    order = rows.assign(
        distance=(rows[axis] - UNCHANGED[axis]).abs().round(9), size=rows[value].abs().fillna(-1.0)
    ).sort_values(["distance", "size"], ascending=False, kind="stable")
    return order.iloc[0]


def listed(values: Any) -> list[float]:
    """A list cell of a frame, whatever holds it; empty where there is none."""
    return list(values) if isinstance(values, list | tuple | np.ndarray) else []


def range_words(values: pd.Series) -> str:
    """`12`, or `8 to 12`; 0 where there is none."""
    there = sorted({int(v) for v in values.dropna()})
    if not there:
        return "0"
    return f"{there[0]:,}" if len(there) == 1 else f"{there[0]:,} to {there[-1]:,}"


def n_words(rows: pd.DataFrame) -> str:
    """`n = 20 discovery and 8 held-out prompts.`"""
    counts = rows.dropna(subset=["n_prompts"]).groupby("split")["n_prompts"].max()
    parts = [f"{int(counts[s])} {SPLIT_NAMES[s]}" for s in SPLITS if s in counts.index]
    return f"n = {' and '.join(parts)} prompts." if parts else "No prompts."


def answer_words(rows: pd.DataFrame) -> str:
    """`n = 30 discovery and 10 held-out answers at each point.`"""
    counts = rows[rows["arm"] == "ranked"].dropna(subset=["n"]).groupby("split")["n"].max()
    parts = [f"{int(counts[s])} {SPLIT_NAMES[s]}" for s in SPLITS if s in counts.index]
    return f"n = {' and '.join(parts)} answers at each point." if parts else "No answers."


def draw_words(rows: pd.DataFrame) -> str:
    """`5 random draws`."""
    draws = rows.loc[rows["arm"] == "random", "draw"].nunique()
    return f"{draws} random draws" if draws != 1 else "1 random draw"


def missing_words(rows: pd.DataFrame) -> str:
    """What is not there: held-out prompts, random draws, points that broke."""
    words = []
    if len(rows) and not (rows["split"] == "heldout").any():
        words.append("There are no held-out prompts, so it is open whether this repeats.")
    if len(rows) and not (rows["arm"] == "random").any():
        words.append("No random control was measured, so nothing here shows a cause.")
    broken = rows[rows["n_broken"] > 0] if "n_broken" in rows else rows.iloc[:0]
    if len(broken):
        keys = broken.drop_duplicates(["arm", "draw", "n_neurons", "layer", "strength", "factor"])
        words.append(f"{broken_words(len(keys)).strip()}")
    return " ".join(words) + (" " if words else "")


def broken_words(n: int) -> str:
    """How many points broke, as a sentence with a space before it; empty for none."""
    if n == 0:
        return ""
    return f" {n} point{'s' if n > 1 else ''} (×) broke the model and {'have' if n > 1 else 'has'} no number."


def dose_place(axis: str, value: float, rows: pd.DataFrame | pd.Series) -> str:
    """`with 100 neurons switched off`, `at factor −2`, `at strength +1`."""
    if axis == "factor":
        return f"at factor {plain_number(value)}"
    if axis == "strength":
        return f"at strength {signed_number(value)}"
    kinds, factors = (set(np.atleast_1d(rows[name])) if name in rows else set() for name in ("kind", "factor"))
    what = count_words(value, "head" if "heads" in kinds else "neuron")
    if "patch" in kinds:
        return f"with {what} patched"
    scaled = {f for f in factors if np.isfinite(f)} - {0.0}
    return f"with {what} {'scaled' if scaled else 'switched off'}"


def axis_title(rows: pd.DataFrame, axis: str) -> str:
    """What stands under the x axis, by what is edited."""
    if axis != "n_neurons":
        return {
            "factor": "Factor on the neurons' activation (1 = unedited)",
            "strength": "Strength (positive: towards the target)",
        }[axis]
    unit = "Heads" if (rows["kind"] == "heads").any() else "Neurons"
    if (rows["kind"] == "patch").any():
        return f"{unit} with the other prompt's values"
    factors = set(rows["factor"].dropna())
    return f"{unit} switched off" if factors <= {0.0} else f"{unit} scaled"
