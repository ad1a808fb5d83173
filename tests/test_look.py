"""The look as laws: colours that everyone can tell apart, text that can be read, columns that explain themselves."""

import ast
import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pprobe_core import charts, compare_charts, window_charts
from pprobe_core.compare_charts import ratios

ROOT = Path(__file__).resolve().parent.parent
THEME = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
BACKGROUNDS = {mode: THEME[mode]["backgroundColor"] for mode in ("light", "dark")}
# Colours that stand beside each other and mean different things.
GROUPS = {
    **charts.PALETTES,
    "models": compare_charts.MODEL_COLOURS,
    "outcomes": tuple(colour for _, colour in window_charts.OUTCOMES.values()),
    "regimes": tuple(colour for _, colour in window_charts.REGIMES.values()),
}
# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
EYES = {
    "all three cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    """Linear RGB of an sRGB colour."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, white point D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("group", GROUPS)
def test_colours_beside_each_other_differ_for_every_kind_of_eye(group: str, eyes: str) -> None:
    least = 15.0 if eyes in ("protanopia", "deuteranopia") else 25.0 if eyes == "all three cones" else 10.0
    seen = {colour: lab(EYES[eyes] @ linear(colour)) for colour in GROUPS[group]}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= least, (one, other)


@pytest.mark.parametrize("mode", BACKGROUNDS)
@pytest.mark.parametrize("colour", sorted({colour for group in GROUPS.values() for colour in group}))
def test_marks_stand_out_on_both_pages(colour: str, mode: str) -> None:
    assert contrast(colour, BACKGROUNDS[mode]) >= 3.0


@pytest.mark.parametrize("mode", BACKGROUNDS)
def test_text_and_links_can_be_read_on_every_ground_of_the_theme(mode: str) -> None:
    grounds = [THEME[mode][name] for name in ("backgroundColor", "secondaryBackgroundColor")]
    grounds += THEME[mode]["sidebar"].values()
    for ground in grounds:
        assert contrast(THEME[mode]["textColor"], ground) >= 7.0
        assert contrast(THEME[mode]["linkColor"], ground) >= 4.5
        assert contrast(THEME[mode]["primaryColor"], ground) >= 3.0
    assert contrast(THEME[mode]["primaryColor"], "#FFFFFF") >= 4.5  # labels of buttons are white in both modes


def test_numbers_on_coloured_cells_can_be_read() -> None:
    assert all(contrast("#FFFFFF", colour) >= 4.5 for colour in ratios.ZONE_COLOURS)
    for scale in (window_charts.DIVERGING, window_charts.SEQUENTIAL):
        pale = max(scale, key=lambda colour: linear(colour).sum())
        for colour in scale:
            assert contrast("#1E262C" if colour == pale else "#FFFFFF", colour) >= 4.5


def columns_of_tables() -> Iterator[tuple[str, ast.Call]]:
    """Every column that a page's table states: where, and the call that makes it."""
    for path in sorted([*(ROOT / "ui").glob("*.py"), *(ROOT / "pages").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "column_config" and isinstance(node.value, ast.Dict):
                for column in node.value.values:
                    if isinstance(column, ast.Call):
                        yield f"{path.name}:{column.lineno}", column


def test_every_column_of_every_table_explains_itself() -> None:
    columns = list(columns_of_tables())
    assert len(columns) > 30
    for where, column in columns:
        assert any(keyword.arg == "help" for keyword in column.keywords), f"{where} has no help"


def test_every_table_has_a_text_for_screen_readers() -> None:
    for path in sorted([*(ROOT / "ui").glob("*.py"), *(ROOT / "pages").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            made = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and made in ("st.dataframe", "st.data_editor", "exports.table"):
                passed_on = [keyword.arg for keyword in node.keywords]  # None: **options of the one who calls
                assert "alt" in passed_on or None in passed_on, f"{path.name}:{node.lineno} has no alt"
