"""The look as laws: colours that everyone can tell apart, text that can be read, columns that explain themselves."""

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pprobe_core import charts, compare_charts, playground_charts, window_charts
from pprobe_core.compare_charts import ratios
from ui import playground

ROOT = Path(__file__).resolve().parent.parent
THEME = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"]
BACKGROUNDS = {mode: THEME[mode]["backgroundColor"] for mode in ("light", "dark")}
# Colours that stand beside each other and mean different things.
GROUPS = {
    **charts.PALETTES,
    "models": compare_charts.MODEL_COLOURS,
    "outcomes": (*(colour for _, colour in window_charts.OUTCOMES.values()), charts.RANDOM),
    "regimes": tuple(colour for _, colour in window_charts.REGIMES.values()),
    "playground": tuple(playground_charts.ARM_COLOURS.values()),
    "separability": (charts.SEPARATED,),
}
# Colours with one meaning on every page. Neurons are ranked in FFNs and share their colour; skip path, random, other
# and lines without a meaning are grey; held-out prompts share the blue of attention.
FIXED = sorted({colour for group in ("component", "condition", "side", "arm") for colour in charts.PALETTES[group]})
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


@pytest.mark.parametrize("colour", sorted({colour for group in GROUPS.values() for colour in group} - set(FIXED)))
def test_other_colours_look_like_none_with_a_meaning(colour: str) -> None:
    for fixed in FIXED:
        assert np.linalg.norm(lab(linear(colour)) - lab(linear(fixed))) >= 25.0, fixed


def test_colours_with_a_meaning_are_named_where_they_are_used() -> None:
    """Written out in one place, so that no chart takes one for something else."""
    for path in sorted([*(ROOT / "pprobe_core").rglob("*.py"), *(ROOT / "ui").glob("*.py")]):
        written = set(re.findall(r"#[0-9A-F]{6}", path.read_text().upper())) & set(FIXED)
        assert not written or path.name == "charts.py", (path, written)


@pytest.mark.parametrize("mode", BACKGROUNDS)
@pytest.mark.parametrize("side", ["target", "control"])
def test_badges_of_the_sides_have_the_colours_of_the_charts(side: str, mode: str) -> None:
    name = playground.SIDE_BADGE[side]
    colour, text, ground = (THEME[mode][f"{name}{part}"] for part in ("Color", "TextColor", "BackgroundColor"))
    assert colour == {"target": charts.TARGET, "control": charts.CONTROL}[side]
    assert contrast(text, ground) >= 4.5
    hues = [np.arctan2(*lab(linear(one))[:0:-1]) for one in (colour, text)]
    assert abs(hues[0] - hues[1]) < np.radians(12)


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


FILES = sorted([*(ROOT / "ui").glob("*.py"), *(ROOT / "pages").glob("*.py")])
TABLES = {"dataframe", "table", "data_editor"}  # what Streamlit draws tables with
DRAWN = ("exports.table", "exports.editor")


def calls(of: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call in some code: what is called, and the call."""
    for node in ast.walk(of):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def short_names(of: ast.AST) -> dict[str, str]:
    """Names that stand for something of st.column_config in a file, such as NUMBER or text."""
    found: dict[str, str] = {}
    for node in ast.walk(of):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if len(names) == len(values):
                pairs = zip(map(ast.unparse, names), map(ast.unparse, values), strict=True)
                found |= {name: value for name, value in pairs if value.startswith("st.column_config")}
    return found


def columns_of_tables() -> Iterator[tuple[str, ast.Call]]:
    """Every column that a page's table states: where, and the call that makes it."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        short = short_names(tree)
        for called, call in calls(tree):
            first, _, then = called.partition(".")
            whole = f"{short[first]}.{then}".rstrip(".") if first in short else called
            if whole.startswith("st.column_config.") and whole.endswith("Column"):
                yield f"{path.name}:{call.lineno}", call


def test_every_column_that_is_stated_explains_itself() -> None:
    """Wherever the settings of a column are written, a help text is among them; `calm` in test_pages looks at the rest:
    that each column a page shows has settings."""
    columns = list(columns_of_tables())
    assert len(columns) > 130
    for where, column in columns:
        assert any(keyword.arg == "help" for keyword in column.keywords), f"{where} has no help"


def test_every_table_states_its_columns_and_has_a_text_for_screen_readers() -> None:
    tables = [(path, call) for path in FILES for called, call in calls(ast.parse(path.read_text())) if called in DRAWN]
    assert len(tables) > 15
    for path, call in tables:
        lacking = {"key", "column_config", "alt"} - {keyword.arg for keyword in call.keywords}
        assert not lacking, f"{path.name}:{call.lineno} has no {', '.join(lacking)}"


def test_tables_are_drawn_in_one_place_which_puts_a_save_menu_below_each() -> None:
    """Nothing else names st.dataframe, st.table or st.data_editor, or calls them on a container, or uses st.write."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        called = {id(call.func) for _, call in calls(tree)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or path.name == "exports.py":
                continue
            of = ast.unparse(node.value)
            bare = node.attr in TABLES and (of == "st" or id(node) in called) and of != "exports"
            assert not bare, f"{path.name}:{node.lineno}: {of}.{node.attr} bypasses exports.table"
            assert (of, node.attr) != ("st", "write"), f"{path.name}:{node.lineno}: st.write draws tables too"
    functions = [f for f in ast.parse((ROOT / "ui" / "exports.py").read_text()).body if isinstance(f, ast.FunctionDef)]
    drawing = {f.name: [name for name, _ in calls(f)] for f in functions}
    drawing = {name: made for name, made in drawing.items() if {f"st.{table}" for table in TABLES} & set(made)}
    assert set(drawing) == {"table", "editor"}
    assert all("_save_table" in made for made in drawing.values())
