"""The rooms of the code: imports run one way, SQL has one home, pages that only read never wait for torch."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Low to high, as docs/architecture.md says; a room may import what lies lower, and its own height where named.
HEIGHTS = (
    {"settings", "errors", "wording", "difference", "paper"},
    {"circuits", "models", "stats"},
    {"probing", "interventions"},
    {"comparison"},
    {"store", "charts", "compare_stats"},
    {"sweep_rows", "snippets"},
    {"sweeping", "sweep_charts", "compare_words"},
    {"response_charts", "window_charts", "coupling_charts", "neuron_charts", "playground_charts"},
    {"jobs", "training", "compare_charts", "pictures"},
    {"sweep_report", "playground"},
    {"meaning"},
    {"report"},
    {"compare_frames"},
    {"compare_report"},
    {"reproduction", "api"},
    {"html_report"},
    {"recording"},
    {"cli", "ui"},
    {"__main__", "pages", "app"},
)
HEIGHT = {room: height for height, rooms in enumerate(HEIGHTS) for room in rooms}
# Same height, and yet one may know the other.
ALLOWED = {("interventions", "probing")}

HEAVY = ("torch", "transformers", "tokenizers", "accelerate", "safetensors")


def sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    return files


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, as dotted names, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(module: str) -> str | None:
    """The room of the project a dotted name belongs to; None for other packages."""
    parts = module.split(".")
    if parts[0] == "pprobe_core":
        return parts[1] if len(parts) > 1 and parts[1] in HEIGHT else None
    return parts[0] if parts[0] in HEIGHT else None


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "pprobe_core" and len(parts) > 1 else parts[0]


def test_every_room_is_known() -> None:
    rooms = {room_of(path) for path in sources("pprobe_core", "ui", "pages")} - {"__init__"}
    assert rooms <= set(HEIGHT), "name the new room in docs/architecture.md and here"


def test_imports_run_one_way() -> None:
    wrong = []
    for path in [*sources("pprobe_core", "ui", "pages"), ROOT / "app.py"]:
        mine = room_of(path)
        for module in imported(path):
            theirs = room(module)
            if theirs is None or theirs == mine or mine == "__init__" or (mine, theirs) in ALLOWED:
                continue
            if HEIGHT[theirs] >= HEIGHT[mine]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_the_core_never_imports_streamlit() -> None:
    for path in sources("pprobe_core"):
        assert not any(module.split(".")[0] == "streamlit" for module in imported(path)), path


def test_the_core_prints_nothing_but_through_the_command_line() -> None:
    for path in sources("pprobe_core"):
        if room_of(path) in ("cli", "__main__") or path.name == "__main__.py":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path
        assert not any(module.split(".")[0] == "tqdm" for module in imported(path)), path


READERS = (
    "pprobe_core.store",
    "pprobe_core.charts",
    "pprobe_core.circuits.schema",
    "pprobe_core.circuits.library",
    "pprobe_core.circuits.prompt_sets",
    "pprobe_core.models.catalogue",
    "pprobe_core.jobs",
    "pprobe_core.report",
    "pprobe_core.meaning",
    "pprobe_core.sweep_report",
    "pprobe_core.recording",
    "pprobe_core.compare_report",
    "pprobe_core.html_report",
    "pprobe_core.snippets",
    "pprobe_core.compare_charts",
    "pprobe_core.cli.parser",
    "ui.shell",
)


@pytest.fixture(scope="module")
def heavy_after() -> dict[str, list[str]]:
    """Module of READERS -> the heavy libraries that are there after it was imported, in one fresh process for all."""
    code = (
        "import importlib, json, sys\nfound = {}\n"
        f"for module in {READERS!r}:\n"
        "    importlib.import_module(module)\n"
        f"    found[module] = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", READERS)
def test_what_only_reads_does_not_wait_for_torch(heavy_after: dict[str, list[str]], module: str) -> None:
    assert heavy_after[module] == []


def test_no_page_imports_torch_or_talks_to_the_database() -> None:
    for path in [*sources("pages", "ui"), ROOT / "app.py"]:
        roots = {module.split(".")[0] for module in imported(path)}
        assert not roots & {*HEAVY, "duckdb"}, path


SQL = re.compile(
    r"\b(select\s.+\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|create\s+table\s|alter\s+table\s)",
    re.IGNORECASE | re.DOTALL,
)


def test_sql_lives_in_the_store_only() -> None:
    for path in [*sources("pprobe_core", "ui", "pages"), ROOT / "app.py"]:
        if "store" in path.relative_to(ROOT).parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                assert not looks_like_sql(node.value), f"{path}: {node.value[:60]!r}"
        assert "duckdb" not in {module.split(".")[0] for module in imported(path)}, path


def looks_like_sql(text: str) -> bool:
    return bool(SQL.match(text.strip()))


def test_the_search_for_sql_finds_sql() -> None:
    assert looks_like_sql("\n  select layer from neuron_scores where true")
    assert looks_like_sql("INSERT INTO runs VALUES (1)")
    assert not looks_like_sql("Delete this run?")


def test_every_public_function_and_class_has_a_docstring() -> None:
    bare = []
    for path in [*sources("pprobe_core", "ui", "pages"), ROOT / "app.py", ROOT / "run.py"]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        bare += [f"{path.relative_to(ROOT)}: {node.name}" for node in named if ast.get_docstring(node) is None]
        if tree.body and path.name != "__init__.py" and ast.get_docstring(tree) is None:
            bare.append(str(path.relative_to(ROOT)))
    assert bare == []


def test_every_folder_of_the_package_is_one() -> None:
    for folder in {path.parent for path in sources("pprobe_core")}:
        assert (folder / "__init__.py").exists(), folder
