"""Hub models, against a small hub on this computer: what is fetched, and what is said when something is wrong."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models import hub, loading
from pprobe_core.models.catalogue import find_model
from pprobe_core.models.loading import load_model
from tests.tiny_models import write_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The four questions a download asks: what a model holds, its tree, a file's size, its bytes."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {f.name: f.read_bytes() for f in sorted(folder.iterdir())}
        self.gated = False
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        files = self.server.files
        if not path.startswith(("/api/models/own/tiny", "/own/tiny")):
            return self._send(404, b"{}", X_Error_Code="RepoNotFound")
        if self.server.gated:
            return self._send(403, b"{}", X_Error_Code="GatedRepo")
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha256(b).hexdigest()[:40]}
                for n, b in files.items()
            ]
            return self._send(200, json.dumps(tree).encode(), Content_Type="application/json")
        if path.startswith("/api/"):
            siblings = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
            info = {"_id": "1", "id": "own/tiny", "modelId": "own/tiny", "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(info).encode(), Content_Type="application/json")
        name = path.rsplit("/", 1)[-1]
        if name not in files:
            return self._send(404, b"", X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return self._send(200, files[name], ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT does when it is set before the program starts."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = write_tiny_model(tmp_path / "upstream", "qwen3")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("# Tiny")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    hub_server = Hub(folder)
    thread = threading.Thread(target=hub_server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    use_hub(monkeypatch, hub_server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield hub_server
    hub_server.shutdown()
    hub_server.server_close()


def refusal(model: str) -> str:
    with pytest.raises(ModelUnavailable) as e:
        load_model(model, device="cpu")
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_hub_model_is_fetched_loaded_and_known_by_its_commit(server: Hub, tmp_path: Path) -> None:
    loaded = load_model("own/tiny", device="cpu")
    assert (loaded.id, loaded.revision, loaded.family) == ("own/tiny", COMMIT, "qwen3")
    assert loaded.weights_sha256 == hashlib.sha256(server.files["model.safetensors"]).hexdigest()
    assert (loaded.entry.n_layers, loaded.entry.parameters, loaded.entry.on_hub) == (3, 42000, False)
    assert Path(loaded.path).is_relative_to(tmp_path / "cache" / "hub")
    assert find_model(loaded.id).on_hub


def test_only_weights_configuration_and_tokeniser_are_fetched(server: Hub) -> None:
    folder = Path(load_model("own/tiny", device="cpu").path)
    fetched = {f.name for f in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling_own.py", "README.md", "consolidated.safetensors"}


def test_a_model_fetched_once_loads_without_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model("own/tiny", device="cpu")
    use_hub(monkeypatch, "http://127.0.0.1:9")
    again = load_model("own/tiny", device="cpu")
    assert (again.weights_sha256, again.revision) == (first.weights_sha256, first.revision)


def test_without_a_network_the_message_says_so(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refusal("own/tiny")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "the hub cannot be reached" in refusal("own/tiny")


def test_a_name_that_does_not_exist(server: Hub) -> None:
    assert "no public model of that name" in refusal("own/other")


def test_a_gated_model_says_how_to_get_in(server: Hub) -> None:
    server.gated = True
    message = refusal("own/tiny")
    assert "gated" in message
    assert "hf auth login" in message


def test_a_model_with_pickles_only_is_refused_before_anything_is_fetched(server: Hub) -> None:
    del server.files["model.safetensors"]
    assert "no model.safetensors" in refusal("own/tiny")
    assert not any("/resolve/" in line for line in server.asked)


def test_a_model_too_large_for_memory_is_refused_before_anything_is_fetched(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda: 1000)
    assert "of memory" in refusal("own/tiny")
    assert not any("/resolve/" in line for line in server.asked)


def test_a_model_too_large_for_the_disk_is_refused_before_anything_is_fetched(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: Full)
    message = refusal("own/tiny")
    assert "on disk" in message
    assert "PPROBE_CACHE" in message
    assert not any("/resolve/" in line for line in server.asked)


def test_the_hubs_own_cache_is_used_where_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/somewhere")
    assert hub.hub_cache() is None
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("PPROBE_CACHE", "/elsewhere")
    assert hub.hub_cache() == Path("/elsewhere/hub")


def test_an_access_token_is_never_written_down(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "a" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    load_model("own/tiny", device="cpu")
    for file in (tmp_path / "cache").rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()
