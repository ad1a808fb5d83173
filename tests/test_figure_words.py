"""Every chart says in one sentence what to see and in one what it does not show."""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pprobe_core import charts
from tests import test_charts, test_compare_charts, test_sweep_charts

CORE = Path(charts.__file__).parent
LAW = "Does not show "


def literals(node: ast.expr) -> list[str]:
    """The texts that an argument can be; an f-string's values are left out."""
    if isinstance(node, ast.IfExp):
        return [*literals(node.body), *literals(node.orelse)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def figures() -> list[tuple[str, ast.Call]]:
    """Every place where a figure is made, with the name of the function it stands in."""
    found = []
    for path in sorted(CORE.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
                named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "as_figure"]
                found += [(f"{path.stem}.{function.name}", call) for call in named]
    return found


@pytest.mark.parametrize(("name", "call"), figures(), ids=[name for name, _ in figures()])
def test_a_figure_says_in_one_sentence_what_it_does_not_show(name: str, call: ast.Call) -> None:
    omits = next((keyword.value for keyword in call.keywords if keyword.arg == "omits"), None)
    assert omits is not None, f"{name} leaves out what it does not show"
    texts = literals(omits)
    assert texts
    for text in texts:
        assert text.startswith(LAW)
        assert text.endswith(".")
        assert ". " not in text
        assert len(text) < 130


def test_there_are_as_many_charts_as_there_were() -> None:
    assert len(figures()) > 35


THREE = test_compare_charts.THREE
ALL: list[tuple[str, Callable[[], charts.Figure]]] = [
    *test_charts.EVERY_CHART.items(),
    *((name, partial(test_sweep_charts.made, name)) for name in test_sweep_charts.EVERY_CHART),
    *(
        (name, partial(test_compare_charts.figure, name, rows(THREE), THREE))
        for name, rows in test_compare_charts.FRAMES.items()
    ),
]


@pytest.mark.parametrize(("name", "make"), ALL, ids=[name for name, _ in ALL])
def test_what_stands_above_below_and_for_screen_readers_is_whole(name: str, make: Callable[[], charts.Figure]) -> None:
    figure = make()
    assert figure.caption == f"{figure.reading} {figure.omits}".strip()
    assert figure.omits.startswith(LAW)
    assert figure.title in figure.description
    assert len(figure.description) > len(figure.title) + 15
    assert not figure.title.endswith(".")
    for text in (figure.title, figure.reading, figure.omits):
        assert text == text.strip()
        assert "  " not in text
