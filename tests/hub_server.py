"""A small hub on this computer: what a model holds, its files in ranges; it can be slow, gated or break connections."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

from pprobe_core.models import hub, transfer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
PIECE = 2**13  # bytes sent at a time


class Hub(ThreadingHTTPServer):
    """One model, `own/tiny`, with the files of a folder, at the commits main (COMMIT) and OLDER.

    `gated` closes its files; `pause` seconds pass between two pieces of a weight file; after `drop_after` bytes of a
    weight file the connection breaks, `drops` times in all; `ranges` off makes it send whole files only.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {f.name: f.read_bytes() for f in sorted(folder.iterdir())}
        self.gated = False
        self.licence: str | None = "apache-2.0"
        self.pause = 0.0
        self.drop_after: int | None = None
        self.drops = 10**9
        self.ranges = True
        self.counted = True  # says how many parameters a model has
        self.hashes = True  # says the hashes of files; some mirrors do not
        self.asked: list[str] = []  # method and path
        self.sent: dict[str, int] = {}  # bytes by file name
        self.tokens: set[str] = set()  # that came with a question

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetched(self) -> set[str]:
        """Names of files whose bytes were asked for."""
        return {line.rsplit("/", 1)[-1] for line in self.asked if line.startswith("GET") and "/resolve/" in line}

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


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
        if token := self.headers.get("Authorization"):
            self.server.tokens.add(token)
        if not path.startswith(("/api/models/own/tiny", "/own/tiny")):
            return self._send(404, b"{}", X_Error_Code="RepoNotFound")
        revision = path.split("/revision/" if path.startswith("/api/") else "/resolve/")[-1].split("/")[0]
        commit = {"main": COMMIT, COMMIT: COMMIT, OLDER: OLDER, "v1": OLDER}.get(revision)
        if "/tree/" in path:
            return self._send(200, self._tree(), Content_Type="application/json")
        if path.startswith("/api/"):
            if "/revision/" in path and commit is None:
                return self._send(404, b"{}", X_Error_Code="RevisionNotFound")
            return self._send(200, self._info(commit or COMMIT), Content_Type="application/json")
        if self.server.gated:
            return self._send(403, b"{}", X_Error_Code="GatedRepo")
        name = path.rsplit("/", 1)[-1]
        if name not in self.server.files:
            return self._send(404, b"", X_Error_Code="EntryNotFound")
        return self._file(name, commit or COMMIT)

    do_HEAD = do_GET

    def _info(self, commit: str) -> bytes:
        """What the hub says about the model: large files with their SHA-256, as for Git LFS."""
        siblings = []
        for name, data in self.server.files.items():
            row: dict[str, object] = {"rfilename": name, "size": len(data)}
            if self.server.hashes:
                row["blobId"] = _etag(name, data)
            if self.server.hashes and name.endswith(".safetensors"):
                row["lfs"] = {"size": len(data), "sha256": _etag(name, data), "pointerSize": 130}
            siblings.append(row)
        info: dict[str, object] = {
            "_id": "1",
            "id": "own/tiny",
            "modelId": "own/tiny",
            "sha": commit,
            "siblings": siblings,
            "gated": "manual" if self.server.gated else False,
            "cardData": {"license": self.server.licence} if self.server.licence else {},
        }
        if self.server.counted:
            info["safetensors"] = {"parameters": {"F32": 42000}, "total": 42000}
        return json.dumps(info).encode()

    def _tree(self) -> bytes:
        """The list of files, which the hub's own download asks for."""
        rows = [{"type": "file", "path": n, "size": len(d), "oid": _etag(n, d)} for n, d in self.server.files.items()]
        return json.dumps(rows).encode()

    def _file(self, name: str, commit: str) -> None:
        server, data = self.server, self.server.files[name]
        start = 0
        asked = self.headers.get("Range", "")
        if server.ranges and asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{_etag(name, data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        large, sent = name.endswith(".safetensors"), 0
        for at in range(start, len(data), PIECE):
            if large and server.drop_after is not None and sent >= server.drop_after and server.drops > 0:
                server.drops -= 1
                self.close_connection = True
                self.connection.shutdown(2)
                return
            piece = data[at : at + PIECE]
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:  # the other side has gone
                return
            sent += len(piece)
            server.sent[name] = server.sent.get(name, 0) + len(piece)
            if large and server.pause:
                time.sleep(server.pause)


def _etag(name: str, data: bytes) -> str:
    """Content hash: SHA-256 of large files, Git's own of small ones."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT does when it is set before the program starts; no pauses, and nothing remembered."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "_PAUSE", 0.05)
    monkeypatch.setattr(hub, "_answers", {})
