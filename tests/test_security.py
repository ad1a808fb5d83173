"""What the README promises about safety: nothing runs that should not, and hostile names and prompts stay text."""

import ast
import csv
import http.client
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core.circuits import own_sets
from pprobe_core.circuits.importing import read_table
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.pairing import guess_columns, make_pairs
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest
from tests.app_pages import open_app
from tests.browsing import Server

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p for folder in ("pprobe_core", "ui", "pages") for p in (ROOT / folder).rglob("*.py"))
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
HOSTILE = {
    "markup": "<script>alert('x')</script><img src=x onerror=alert(1)> [link](javascript:alert(1)) ![i](http://evil.example/i.png)",
    "path": "../../../../etc/passwd",
    "long": "very " * 900 + "long",
    "right to left": "\u202eמה בירת צרפת\u202c؟ ما هي عاصمة فرنسا",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 " + "😀" * 40,
    "formula": '=HYPERLINK("http://evil.example","x")',
    "sql": "'; drop table runs; --",
    "markdown": "# heading\n\n| a | b |\n|---|---|\n$\\frac{1}{0}$ :material/delete: :red[x]",
}  # fmt: skip


# -- the code --


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_unpickles_or_runs_what_comes_with_a_model() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
        }
        assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}, path
        for name, call in calls(tree):
            assert name not in ("eval", "exec", "os.system", "pd.read_pickle"), path
            assert name != "yaml.load" or "SafeLoader" in path.read_text(encoding="utf-8"), path
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert name != "torch.load" or keywords.get("weights_only") == "True", path  # the trainer's own checkpoints
            assert keywords.get("trust_remote_code", "False") == "False", path
            assert keywords.get("shell", "False") == "False", path
            assert keywords.get("allow_pickle", "False") == "False", path


def test_the_server_is_local_silent_and_takes_small_uploads() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert config["server"]["address"] == "127.0.0.1"
    assert set(config["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
    assert config["server"]["maxUploadSize"] <= 20
    assert config["browser"]["gatherUsageStats"] is False
    assert config["client"]["showErrorDetails"] == "none"
    assert not config["server"].keys() & {"enableCORS", "enableXsrfProtection"}, "both are on unless switched off"


def test_every_package_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            wanted = line.split("#")[0].strip()
            if wanted and not wanted.startswith("-r "):
                assert re.fullmatch(r"[\w.\-\[\]]+==[\w.]+", wanted), line


def test_pages_load_nothing_from_elsewhere() -> None:
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|link|img|iframe)[^>]+https?://", source), path
        assert "@import url" not in source, path


# -- hostile text through the pages --


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A results file with a run on prompts that try to be something else than text, from a file with such a name."""
    folder = tmp_path_factory.mktemp("hostile")
    before = os.environ.get("PPROBE_CACHE")
    os.environ["PPROBE_CACHE"] = str(folder)
    file = folder / "<b>\u202ebold😀.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "original", "perturbed"])
        for name, text in HOSTILE.items():
            writer.writerow([f"<i>{name}</i>", f"{text} What is one plus one?", f"{text} What is one plus two?"])
    jobs = core_jobs.shared(folder / "pprobe.duckdb")
    status = jobs.wait(jobs.submit(ProbeRequest("mini-qwen3", "sycophancy", str(file))), 120)
    assert status.state == "done", status.error
    core_jobs.close()
    yield folder / "pprobe.duckdb", str(status.run_id)
    if before is None:
        os.environ.pop("PPROBE_CACHE")
    else:
        os.environ["PPROBE_CACHE"] = before


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch, hostile_run: tuple[Path, str]) -> Iterator:
    def opened(page: str, **address: str) -> AppTest:
        monkeypatch.setenv("PPROBE_DB", str(hostile_run[0]))
        st.cache_data.clear()
        st.cache_resource.clear()
        return open_app(page, **address)

    yield opened
    core_jobs.close()


def check_text_only(app: AppTest) -> None:
    """No exception, and no element draws markup, links or pictures of the hostile text."""
    assert not app.exception
    for element in [*app.markdown, *app.caption, *app.title, *app.header, *app.subheader, *app.info, *app.error]:
        value = str(element.value)
        assert "Something unexpected" not in value, value
        html = bool(getattr(element.proto, "allow_html", False))
        assert not (html and re.search(r"alert\(|evil\.example|<i>|<b>", value)), value[:300]
        assert "](javascript:" not in value, value[:300]
        assert "](http://evil.example" not in value, value[:300]


@pytest.mark.parametrize("page", PAGES)
def test_hostile_prompts_and_file_names_stay_text(open_page, hostile_run: tuple[Path, str], page: str) -> None:
    check_text_only(open_page(page, run=hostile_run[1]))


@pytest.mark.parametrize(
    ("page", "name"),
    [("start", name) for name in HOSTILE]
    + [(page, "markup") for page in ("probe", "compare", "runs", "circuits", "prompts", "glossary")],
)
def test_hostile_values_in_an_address_are_dropped_or_said_in_words(open_page, page: str, name: str) -> None:
    names = (
        "model", "circuit", "prompts", "run", "sweep", "ranking", "models", "circuits", "view", "layer", "prompt",
        "request", "ask", "play_text", "filter_circuit", "filter_model", "circuit_looked_at", "set_looked_at",
        "glossary_search", "run_a",
    )  # fmt: skip
    check_text_only(open_page(page, **dict.fromkeys(names, HOSTILE[name])))


@pytest.mark.parametrize(
    "name",
    ["../../evil.csv", "<script>.jsonl", "x" * 300 + ".csv", "con\x00.csv", "\u202egpj.csv", "😀.csv", "....", ""],
)
def test_a_prompt_set_never_leaves_its_folder_whatever_its_title(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path))
    table = read_table("questions.csv", b"original,perturbed\nOne plus one?,One plus two?\nTwo?,Three?\n")
    circuit = load_circuit("sycophancy")
    made = make_pairs(table, guess_columns(table, circuit), circuit)
    try:
        kept = own_sets.add_set(circuit, name, made, own_sets.Origin("upload", name))
    except BadRequest:  # an empty title is refused
        assert not name.strip()
        return
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.parent == tmp_path / "prompt_sets" for path in files)
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in files), files
    assert own_sets.find_set(kept.name).title


# -- the connection --


def test_only_its_own_pages_may_connect(tmp_path: Path) -> None:
    """A page of another site, or another name that points here, gets no connection; the dashboard's own does."""
    with Server(tmp_path, recorded=False) as server:
        port = server.port
        assert connect(port, f"localhost:{port}", f"http://localhost:{port}") == 101
        assert connect(port, f"evil.example:{port}", f"http://evil.example:{port}") == 403
        assert connect(port, f"localhost:{port}", "http://evil.example") == 403


def connect(port: int, host: str, origin: str) -> int:
    """Status of a WebSocket handshake."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/_stcore/stream", skip_host=True)
    for name, value in (
        ("Host", host), ("Origin", origin), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13"),
    ):  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    try:
        return connection.getresponse().status
    finally:
        connection.close()
