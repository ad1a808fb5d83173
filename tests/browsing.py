"""A dashboard of one's own and a browser to look at it: for tests, benches, and the pictures of the README."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from playwright.sync_api import Browser, Playwright
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 120  # until a dashboard answers; seconds suffice on a free computer
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Server:
    """A dashboard on the results file `db` (default: in the folder). It can be killed and started again.

    Its cache and its log, server.log, are in `folder`; `recorded` brings the recorded results in; `options` are
    Streamlit's own.
    """

    folder: Path
    db: Path | None = None
    recorded: bool = True
    port: int = field(default_factory=lambda: free_port())
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said so far, over all its starts."""
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log when it does not."""
        environment = os.environ | {
            "PPROBE_DB": str(self.db or self.folder / "pprobe.duckdb"),
            "PPROBE_CACHE": str(self.folder),
            "PPROBE_RECORDED": str(int(self.recorded)),
        }
        command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={self.port}", *self.options]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until = time.monotonic() + PATIENCE_SECONDS
        while not answers(self.url):
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"The dashboard does not answer:\n{self.log[-3000:]}")
            time.sleep(0.2)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and kill it when it does not end within half a minute."""
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def system_browser() -> str | None:
    """Where the system's Chromium or Chrome is; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser | None:
    """The system's browser, else Playwright's own; None when there is neither."""
    system = system_browser()
    for executable in [system, None] if system else [None]:
        try:
            return playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        except PlaywrightError:
            continue
    return None


def free_port() -> int:
    """A port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a dashboard says that it is well."""
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as response:
            return response.read() == b"ok"
    except (urllib.error.URLError, OSError):
        return False
