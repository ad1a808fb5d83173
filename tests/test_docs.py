"""The documents keep their word: commands are accepted and run, named files and functions exist, links resolve,
code runs, pictures are shown.
"""

import ast
import csv
import importlib
import re
import shlex
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from pprobe_core.circuits import editor
from pprobe_core.circuits.library import load_circuit
from pprobe_core.cli import main
from pprobe_core.cli.parser import build_parser
from pprobe_core.store import Store

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "cache" / "README.md", *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"python(?:3)? -m pprobe_core\b(.*)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)")
# Shown commands that are not run here: how they start, and why. The others must do what they say.
ONLY_PARSED = {
    "models check Qwen/Qwen3-0.6B": "asks the hub",
    "probe --model path/to/model": "needs a model of one's own: tests/test_cli.py",
    "sweep dose --run latest": "answers at four points and in their random draws: tests/test_cli_sweep.py",
    "sweep window": "minutes: tests/test_cli_sweep.py",
    "compare --models mini-qwen3,mini-llama,mini-gemma3": "computes what is not recorded: tests/test_comparison.py",
    "runs export RUN --format html": "seconds of drawing: tests/test_html_report.py",
    "circuits check FILE|ID": "the one of the README is run",
    "recorded check --fast": "a part of the next one",
    "recorded check": "runs models: tests/test_recording.py",
    "reproduce run.json": "the one of the README is run",
    "recorded build": "minutes: tests/test_recording.py",
    "train": "hours: tests/test_training.py",
}


def blocks(document: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.S | re.M)


def code_spans(document: Path) -> set[str]:
    """Everything between single backticks, outside fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)
    return set(re.findall(r"`([^`\n]+)`", text))


def commands_of(document: Path) -> list[str]:
    """Every command line of the product in a document's blocks that can be copied, in their order, without comments."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    return [shlex.join(shlex.split(match[1], comments=True)) for line in lines if (match := COMMAND.search(line))]


def commands() -> set[tuple[str, str]]:
    """Every command line of the product in a block that can be copied, with its document."""
    return {(document.name, line) for document in DOCUMENTS for line in commands_of(document)}


def only_parsed(line: str) -> str | None:
    """The start under which ONLY_PARSED names a command line."""
    return next((start for start in ONLY_PARSED if line.replace("'", "").startswith(start)), None)


def mentions() -> set[tuple[str, str]]:
    """The same in running text, where placeholders may stand: document and name of the command."""
    return {
        (document.name, match[1].split()[0])
        for document in DOCUMENTS
        for span in code_spans(document)
        if (match := COMMAND.search(span)) and match[1].strip()
    }


def anchors(document: Path) -> set[str]:
    """Names that links into a document may have: its headings, numbered where two are alike."""
    found: dict[str, int] = {}
    names = set()
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names.add(name if name not in found else f"{name}-{found[name]}")
        found[name] = found.get(name, 0) + 1
    return names


@cache
def defined() -> frozenset[str]:
    """Every class, function, method, module-level name and file stem of the product."""
    names: set[str] = set()
    for folder in ("pprobe_core", "ui"):
        for path in (ROOT / folder).rglob("*.py"):
            names.add(path.stem)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {t.id for t in targets if isinstance(t, ast.Name)}
                    names |= {t.attr for t in targets if isinstance(t, ast.Attribute)}
    return frozenset(names)


@pytest.mark.parametrize(("document", "line"), sorted(commands()))
def test_a_shown_command_is_one_that_is_accepted(document: str, line: str) -> None:
    assert callable(build_parser().parse_args(shlex.split(line)).run), document


@pytest.fixture
def placeholders(recorded_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """What a reader of the documents puts in their place, in a folder with the recorded results and the named files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PPROBE_DB", str(shutil.copy(recorded_file, tmp_path / "pprobe.duckdb")))
    with Store(tmp_path / "pprobe.duckdb", reading=True) as store:
        runs, sweeps = store.runs(), store.sweeps()
    run = runs[(runs["model"] == "mini-qwen3") & (runs["circuit"] == "math")]["run_id"].iloc[0]
    sweep = sweeps[sweeps["run_id"] == run]["sweep_id"].iloc[0]
    (tmp_path / "my_behaviour.yaml").write_bytes(editor.export_bytes("code"))
    pairs = editor.pairs_of(load_circuit("code"), "mini").lines[:24]
    for name in ("my_pairs.csv", "questions.csv"):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("original", "perturbed"), *((p["original"], p["perturbed"]) for p in pairs)])
    mine = editor.import_circuit("my_behaviour.yaml", (tmp_path / "my_behaviour.yaml").read_bytes())
    return {"RUN": run, "SWEEP": sweep, "ID": mine.circuit_id, "FILE": "my_behaviour.yaml"}


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if any(only_parsed(line) is None for line in commands_of(d))],
    ids=lambda d: d.name,
)
def test_the_commands_of_a_document_run_one_after_the_other(
    document: Path, placeholders: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands_of(document):
        if only_parsed(line) is None:
            code = main([placeholders.get(word, word) for word in shlex.split(line)])
            assert code == 0, f"{line}: {capsys.readouterr().err}"


def test_what_is_only_parsed_is_still_shown() -> None:
    shown = {only_parsed(line) for _, line in commands()}
    assert set(ONLY_PARSED) <= shown, "take those off the list"


def test_every_picture_is_shown_in_a_document_with_a_text_and_can_be_made_again() -> None:
    found = [
        (alt, (document.parent / target).resolve())
        for document in DOCUMENTS
        for alt, target in PICTURE.findall(document.read_text(encoding="utf-8"))
    ]
    assert all(len(alt) > 30 for alt, _ in found)
    made = re.findall(r'out / "([\w-]+\.png)"', (ROOT / "docs" / "make_screenshots.py").read_text(encoding="utf-8"))
    folder = ROOT / "docs" / "images"
    assert sorted(path for _, path in found) == sorted(folder.iterdir()) == sorted(folder / name for name in made)


@pytest.mark.parametrize(("document", "command"), sorted(mentions()))
def test_a_command_named_in_the_text_exists(document: str, command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0, document


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_inside_the_repository_resolve(document: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{document.name} links to {target}, which is not there"
        assert ROOT in (path, *path.parents), f"{document.name} links out of the repository: {target}"
        if anchor:
            assert anchor in anchors(path), f"{document.name}: there is no heading #{anchor} in {path.name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_named_files_exist(document: Path) -> None:
    shown = {span.strip("./") for span in code_spans(document)}
    for name in shown:
        if re.fullmatch(r"(pprobe_core|ui|pages|tests|bench|docs)(/[\w.-]+)+/?", name) and "*" not in name:
            assert (ROOT / name).exists(), f"{document.name} names {name}, which is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_scripts_of_shown_commands_exist_and_know_their_options(document: Path) -> None:
    shown = "\n".join([*blocks(document, "bash"), *code_spans(document)])
    for script, rest in re.findall(r"((?:bench|docs)/\w+\.py)((?: [^\n`#]*)?)", shown):
        path = ROOT / script
        assert path.is_file(), f"{document.name} runs {script}, which is not there"
        source = path.read_text(encoding="utf-8") + "".join(p.read_text("utf-8") for p in path.parent.glob("_*.py"))
        for option in re.findall(r"--[a-z][\w-]*", rest):
            assert f'"{option}"' in source, f"{document.name}: {script} does not know {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_dotted_names_of_the_product_exist(document: Path) -> None:
    for name in re.findall(r"\bpprobe_core(?:\.\w+)+", document.read_text(encoding="utf-8")):
        parts = name.split(".")
        for n in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:n]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[n:]:
                assert hasattr(found, attribute), f"{document.name} names {name}; {found} has no {attribute}"
                found = getattr(found, attribute)
            break
        else:
            raise AssertionError(f"{document.name} names {name}, which cannot be imported")


def test_the_interfaces_in_the_description_of_the_code_exist() -> None:
    text = "\n".join(blocks(ROOT / "docs" / "architecture.md", "python"))
    names = set(re.findall(r"^\s*(?:def|class) (\w+)", text, re.M))
    assert len(names) > 20
    assert names <= defined(), f"described but not there: {sorted(names - defined())}"


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d, "python") and d.name != "architecture.md"], ids=lambda d: d.name
)
def test_shown_code_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a document run one after the other in one namespace, as a reader would in a notebook."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path))
    monkeypatch.delenv("PPROBE_DB", raising=False)
    namespace: dict[str, object] = {"__name__": "notebook"}
    for number, block in enumerate(blocks(document, "python"), start=1):
        exec(compile(block, f"{document.name}, block {number}", "exec"), namespace)  # noqa: S102  (our own text)


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        seen.add(document)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", document.read_text(encoding="utf-8")):
            path = (document.parent / target).resolve()
            if path.exists() and path not in seen:
                waiting.append(path)
    assert {d for d in DOCUMENTS if d.parent.name == "docs"} <= seen
