"""A chart as something to take away: its own rows as a table, a drawing (SVG) with its words, a picture (PNG).

Drawn on this computer by vl-convert, without a browser and without the network. A file to take away is always on
white, so that it looks the same in every document. Nothing here knows torch, the results file or the pages.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import altair as alt
import pandas as pd
import vl_convert

from pprobe_core.charts import Figure
from pprobe_core.store.plain import records

WIDTH = 760  # of the chart between the margins, in pixels
MARGIN = 26
INK, QUIET, PAPER = "#1E262C", "#59636B", "#FFFFFF"
FONT = "'Source Sans 3', 'Liberation Sans', Arial, 'Noto Sans CJK SC', sans-serif"
SIGNS_FONT = "'DejaVu Sans', 'Noto Sans CJK SC', 'Noto Sans', sans-serif"
PNG_SCALE = 2.0
PAGE_INK = "currentColor"  # the ink of a drawing inside a page: what the page writes with, light or dark

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
_GROUPS = ("color", "detail", "strokeDash", "shape", "xOffset", "yOffset", "row", "column", "facet")
_PLACES = ("x", "x2", "y", "y2")
_ADDRESS = ("layer", "neuron")  # tell a point from its neighbours, even where the chart writes them nowhere
_NOT_IN_XML = re.compile("[^\\t\\n\\r\\u0020-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
# Signs that the text font may lack: a whole line would else be written in whatever font has them.
_OTHER_SCRIPT = re.compile("([^\\u0000-\\u024f\\u2010-\\u2027\\u2030-\\u205e\\u2212\\u2260-\\u2265]+)")
_GUIDES = ("rule", "text")  # marks that guide the eye, unless they say something when pointed at

ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)


# ---------------------------------------------------------------------------------------------------------- its rows


def rows(figure: Figure) -> pd.DataFrame:
    """The rows that a chart draws, their columns named as its axes and hover texts name them.

    What is only there to guide the eye (zero lines, thresholds, labels) is left out. Where a chart draws rows of
    several kinds they stand below each other, and a column that one kind lacks is empty there.
    """
    frames: list[tuple[pd.DataFrame, list[Any]]] = []
    for frame, layer in _drawn(figure.chart):
        same = next((layers for known, layers in frames if known is frame), None)
        if same is None:
            frames.append((frame, [layer]))
        else:
            same.append(layer)
    kept = [(frame, layers) for frame, layers in frames if not _guides_only(frame, layers)]
    tables = [
        _named(frame, layers)
        for frame, layers in kept
        if not any(other is not frame and _is_part(frame, other) for other, _ in kept)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _drawn(chart: Any, inherited: Any = None) -> Iterator[tuple[pd.DataFrame, Any]]:
    """Every single layer of a chart with the rows it draws."""
    data = chart.data if isinstance(chart.data, pd.DataFrame) else inherited
    parts = [part for name in ("layer", "hconcat", "vconcat", "concat") for part in _set(chart, name) or ()]
    if inner := _set(chart, "spec"):
        parts.append(inner)
    for part in parts:
        yield from _drawn(part, data)
    if not parts and data is not None:
        yield data, chart


def _set(chart: Any, name: str) -> Any:
    value = getattr(chart, name, None)
    return None if value is alt.Undefined else value


def _guides_only(frame: pd.DataFrame, layers: Sequence[Any]) -> bool:
    if frame.empty:
        return True
    if any("tooltip" in _encoded(layer) for layer in layers):
        return False
    return frame.shape[1] < 3 or all(_mark(layer) in _GUIDES for layer in layers)


def _is_part(frame: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether all rows of a frame stand in another, longer one: rows picked out to be drawn in another way."""
    if set(frame.columns) != set(other.columns) or len(frame) >= len(other):
        return False
    columns = list(other.columns)
    known = set(other.astype(str).itertuples(index=False, name=None))
    return all(row in known for row in frame[columns].astype(str).itertuples(index=False, name=None))


def _named(frame: pd.DataFrame, layers: Sequence[Any]) -> pd.DataFrame:
    """The columns that a reader is shown, under the names he is shown: hover texts, else what the marks stand for."""
    titles: dict[str, str] = {}
    shown: list[str] = []
    with_tooltip = [layer for layer in layers if "tooltip" in _encoded(layer)]
    for layer in with_tooltip or layers:
        encoded = _encoded(layer)
        for channel in _GROUPS if with_tooltip else (*_GROUPS, *_PLACES):
            for field, title in encoded.get(channel, ()):
                shown.append(field)
                titles.setdefault(field, title)
        for field, title in encoded.get("tooltip", ()):
            shown.append(field)
            titles[field] = title or titles.get(field, "")
    fields = [field for field in dict.fromkeys(shown) if field in frame]
    if not with_tooltip:
        fields = [*(name for name in _ADDRESS if name in frame and name not in fields), *fields]
    names: dict[str, str] = {}
    for field in fields:
        words = field.replace("_", " ")
        name = titles.get(field) or words[:1].upper() + words[1:]
        names[field] = name if name not in names.values() else f"{name} ({words})"
    return frame[fields].rename(columns=names)


def _encoded(layer: Any) -> dict[str, list[tuple[str, str]]]:
    """Channel -> the fields it shows with their titles ("" where the chart gives none)."""
    encoding = _set(layer, "encoding")
    if encoding is None:
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for channel, value in encoding._kwds.items():
        items = value if isinstance(value, list) else [value]
        fields = [_field(item) for item in items if item is not alt.Undefined]
        if any(fields):
            found[channel] = [field for field in fields if field]
    return found


def _field(channel: Any) -> tuple[str, str] | None:
    if isinstance(channel, str):
        return channel.split(":")[0], ""
    said: dict[str, Any] = getattr(channel, "_kwds", {})
    shorthand, title = said.get("shorthand"), said.get("title")
    if not isinstance(shorthand, str):
        return None
    return re.sub(r":[A-Z]$", "", shorthand), title if isinstance(title, str) else ""


def _mark(layer: Any) -> str:
    mark = _set(layer, "mark")
    return mark if isinstance(mark, str) else str(getattr(mark, "type", ""))


# ------------------------------------------------------------------------------------------------------- its drawing


def drawing(figure: Figure, *, name: str = "chart", width: int = WIDTH, ink: str = INK) -> str:
    """The chart alone as an SVG element without its words, for the place inside a page.

    `name` keeps its inner ids apart from those of other drawings of the page; `ink` is the colour of axes and labels:
    PAGE_INK takes the page's own. The figure's description is its text for screen readers.
    """
    root = _chart(figure, name, width, ink)
    root.set("role", "img")
    root.set("aria-label", figure.description)
    return ET.tostring(root, encoding="unicode")


def svg(figure: Figure, source: str = "") -> str:
    """The chart as an SVG file with its title, its caption and a line that says what it was measured on."""
    chart = _chart(figure, "chart", WIDTH, INK)
    width, height = (float(str(chart.get(side)).removesuffix("px")) for side in ("width", "height"))
    inner = max(width, float(WIDTH))
    root = ET.Element(f"{{{_SVG}}}svg", {"version": "1.1", "role": "img", "font-family": FONT})
    ET.SubElement(root, f"{{{_SVG}}}title").text = printable(figure.title)
    ET.SubElement(root, f"{{{_SVG}}}desc").text = printable(f"{figure.description} {figure.caption}")
    paper = ET.SubElement(root, f"{{{_SVG}}}rect", {"width": "100%", "height": "100%", "fill": PAPER})
    y = _write(root, figure.title, float(MARGIN), inner, size=17, weight="600", ink=INK)
    chart.set("x", str(MARGIN))
    chart.set("y", f"{y + 12:g}")
    root.append(chart)
    y = _write(root, figure.caption, y + 12 + height + 14, inner, size=12.5, weight="400", ink=QUIET)
    if source:
        y = _write(root, source, y + 8, inner, size=11, weight="400", ink=QUIET)
    whole = (f"{inner + 2 * MARGIN:g}", f"{y + MARGIN:g}")
    for element in (root, paper):
        element.set("width", whole[0])
        element.set("height", whole[1])
    root.set("viewBox", f"0 0 {whole[0]} {whole[1]}")
    return ET.tostring(root, encoding="unicode")


def png(figure: Figure, source: str = "", scale: float = PNG_SCALE) -> bytes:
    """The same as a picture, `scale` pixels for each pixel of the drawing."""
    return vl_convert.svg_to_png(svg(figure, source), scale=scale)


def _chart(figure: Figure, name: str, width: int, ink: str) -> ET.Element:
    # The chart was made by our own code: checking it against the whole schema takes longer than drawing it.
    spec = _inlined(figure.chart).properties(width=width).to_dict(validate=False)
    spec.pop("usermeta", None)
    spec["config"] = {**spec.get("config", {}), **_look(ink)}
    spec["background"] = None
    text = vl_convert.vegalite_to_svg(_without_bad_signs(spec), vl_version=_VEGA_LITE, allowed_base_urls=[])
    root = ET.fromstring(text)  # noqa: S314  (written by vl-convert just now)
    _rename_ids(root, name)
    return root


def _inlined(chart: Any) -> Any:
    """The chart with its rows as plain values.

    Altair turns frames into rows by a setting of the whole process, which Streamlit changes while it draws; a chart
    without frames does not depend on it.
    """
    copy = chart.copy(deep=False)
    if isinstance(chart.data, pd.DataFrame):
        copy.data = alt.InlineData(values=records(chart.data))
    for name in ("layer", "hconcat", "vconcat", "concat"):
        if parts := _set(chart, name):
            setattr(copy, name, [_inlined(part) for part in parts])
    return copy


def _without_bad_signs(value: Any) -> Any:
    """A specification in which every text can stand in XML.

    One sign that cannot (a control character in a prompt, half of a pair) ends the whole process inside vl-convert.
    """
    if isinstance(value, str):
        return _NOT_IN_XML.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_without_bad_signs(key): _without_bad_signs(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_bad_signs(item) for item in value]
    return value


def _look(ink: str) -> Mapping[str, Any]:
    """Fonts, ink and faint lines of a drawing."""
    words = {"labelFont": FONT, "titleFont": FONT, "labelColor": ink, "titleColor": ink}
    return {
        "aria": False,  # the drawing has one text of its own; one on each of thousands of marks helps nobody
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **words,
            "titleFontWeight": 400,
            "titleFontSize": 12,
            "labelFontSize": 11,
            "gridColor": ink,
            "gridOpacity": 0.13,
            "domainColor": ink,
            "domainOpacity": 0.4,
            "tickColor": ink,
            "tickOpacity": 0.4,
        },
        "legend": {**words, "titleFontWeight": 400, "labelFontSize": 12, "titleFontSize": 12},
        "header": words,
        "text": {"font": FONT},
    }


def _rename_ids(root: ET.Element, name: str) -> None:
    """Inner ids with the drawing's name before them, so that drawings of one page do not meet."""
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == "id" and value in ids:
                element.set(attribute, f"{name}-{value}")
            elif attribute.split("}")[-1] == "href" and value.removeprefix("#") in ids:
                element.set(attribute, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value))


def _write(root: ET.Element, words: str, y: float, width: float, *, size: float, weight: str, ink: str) -> float:
    """Words in lines of at most `width` below `y`; returns where they end."""
    bold = 1.09 if weight == "600" else 1.0
    for line in wrapped(printable(words), width / size / bold):
        y += size * 1.32
        attributes = {"x": str(MARGIN), "y": f"{y - size * 0.3:g}", "font-size": f"{size:g}", "font-weight": weight}
        text = ET.SubElement(root, f"{{{_SVG}}}text", {**attributes, "fill": ink})
        for piece in _OTHER_SCRIPT.split(line):
            other = _OTHER_SCRIPT.fullmatch(piece)
            ET.SubElement(text, f"{{{_SVG}}}tspan", {"font-family": SIGNS_FONT} if other else {}).text = piece
    return y


def wrapped(text: str, ems: float) -> list[str]:
    """Text in lines of about `ems` times the font's size; what has no space to break at is broken where it is full."""
    lines, line, used = [], "", 0.0
    for piece in re.findall(r"\S+\s*|\s+", text):
        length = sum(map(_em, piece.rstrip()))
        if line and used + length > ems:
            lines.append(line.rstrip())
            line, used = "", 0.0
        for character in piece:
            if used + _em(character) > ems and not character.isspace():
                lines.append(line.rstrip())
                line, used = "", 0.0
            line += character
            used += _em(character)
    return [*lines, line.rstrip()] if line.strip() else lines


def _em(character: str) -> float:
    """About how wide a character is, as a share of the font's size."""
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "iljtfrI.,:;'|!()[] \u00a0":
        return 0.31
    return 0.68 if character.isupper() or character in "mwMW%" else 0.53


def printable(text: str) -> str:
    """Text as lines can hold it: no sign that XML does not know, and spaces for what cannot be seen."""
    known = _NOT_IN_XML.sub(" ", text)
    return "".join(c if c.isprintable() or c == "\u00a0" else " " for c in known)
