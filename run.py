"""One command for everything: `python3 run.py` opens the dashboard, `python3 run.py test` runs lint, types and tests.

Standard library only, on Linux, macOS and Windows. Keeps its packages in .venv beside this file and installs again only
when a requirements file has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

MIN_PYTHON = (3, 11)
if sys.version_info < MIN_PYTHON:
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(
        f"pprobe needs Python 3.11 or newer, and this is Python {found}. Install a newer one and run this with it."
    )

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
HOST, DEFAULT_PORT = "127.0.0.1", 8501
CHECKS = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    # Two processes: the suite in about half the time. Files in the order tests/conftest.py gives them.
    ("tests", ["pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen command and return its exit code."""
    parser = argparse.ArgumentParser(description="Open the pprobe dashboard, or run its tests.")
    parser.add_argument("command", nargs="?", choices=("dashboard", "test"), default="dashboard")
    parser.add_argument("--port", type=int, help=f"port of the dashboard (default: {DEFAULT_PORT}, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "test":
        parser.error(f"unrecognised: {' '.join(rest)}")
    try:
        if options.command == "test":
            return test(rest)
        return dashboard(options.port, open_browser=not options.no_browser and has_screen())
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130


def test(pytest_arguments: list[str]) -> int:
    """Lint, format, types and tests; stops at the first that fails. Further arguments go to pytest."""
    python = environment("requirements-dev.txt")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of the tests are small: one thread for each process
    for name, command in CHECKS:
        extra = pytest_arguments if command[0] == "pytest" else []
        print(f"== {name}: {' '.join([*command, *extra])}", flush=True)
        code = subprocess.call([str(python), "-m", *command, *extra], cwd=ROOT)
        if code:
            print(f"== {name} failed (exit code {code})", flush=True)
            return code
    print("== all checks passed", flush=True)
    return 0


def dashboard(port: int | None, open_browser: bool) -> int:
    """Serve the dashboard on this computer until Ctrl-C."""
    python = environment("requirements.txt")
    if port is not None and not is_free(port):
        print(f"Port {port} cannot be used here. Name another one, or none to let one be chosen.", file=sys.stderr)
        return 2
    port = port or (DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port())
    url = f"http://localhost:{port}"
    command = [str(python), "-m", "streamlit", "run", "app.py", f"--server.port={port}", "--server.headless=true"]
    # Streamlit's own greeting names the same address; errors still go to stderr. A session of its own, so that Ctrl-C
    # reaches this process only, which then asks the server to end in good order.
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: server.terminate())
    threading.Thread(target=announce, args=(server, url, open_browser), daemon=True).start()
    try:
        code = server.wait()
        return code if code >= 0 else 128 - code  # ended by a signal: what a shell reports
    except KeyboardInterrupt:
        print("\nStopping; a probe under way goes on at the next start.", flush=True)
        stop(server)
        return 0


def announce(server: subprocess.Popen[bytes], url: str, open_browser: bool) -> None:
    """Say where the dashboard is once it answers, and open it."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1) as answer:  # noqa: S310
                if answer.status == 200:
                    break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    else:
        return
    print(f"The dashboard is at {url} (Ctrl-C stops it).", flush=True)
    if open_browser:
        webbrowser.open(url)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and kill it when it does not within 15 seconds."""
    server.terminate()
    try:
        server.wait(15)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()


def environment(requirements: str) -> Path:
    """The Python of .venv with the packages of a requirements file; made or brought up to date where needed.

    The marker of what is installed is written after pip has succeeded, so an interrupted installation starts again.
    """
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not works(python):
        make_venv()
    marker, wanted = VENV / f".{requirements}.sha256", fingerprint(requirements)
    if not is_installed(requirements):
        marker.unlink(missing_ok=True)
        print(
            f"Installing the packages of {requirements} into {VENV.name} (a few minutes the first time) ...", flush=True
        )
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        code = subprocess.call(
            [*pip, "-r", requirements], cwd=ROOT, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
        )
        if code:
            sys.exit(f"The packages could not be installed (see above). Check the network and run this again: {ROOT}")
        marker.write_text(wanted, encoding="utf-8")
    return python


def is_installed(requirements: str) -> bool:
    """Whether .venv holds the packages of a requirements file as it is now; those of the tests hold all others."""
    for name in {requirements, "requirements-dev.txt"}:
        marker = VENV / f".{name}.sha256"
        if marker.exists() and marker.read_text(encoding="utf-8") == fingerprint(name):
            return True
    return False


def works(python: Path) -> bool:
    """Whether this interpreter runs, is new enough and has pip."""
    check = f"import sys, pip; sys.exit(sys.version_info < {MIN_PYTHON})"
    try:
        return subprocess.run([str(python), "-c", check], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def make_venv() -> None:
    """A fresh .venv in place of a missing or broken one."""
    print(f"Making {VENV} ...", flush=True)
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        reason = " ".join((done.stdout + done.stderr).split())[-400:]
        sys.exit(
            f"{VENV} could not be made. On Debian and Ubuntu install python3-venv first; else check that the folder "
            f"can be written. Python said: {reason}"
        )


def fingerprint(requirements: str) -> str:
    """SHA-256 over the requirements files and the Python version: what the packages in .venv depend on."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for name in sorted({requirements, "requirements.txt"}):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of this computer."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def free_port() -> int:
    """A port that the system says is free."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def has_screen() -> bool:
    """Whether a browser window can be expected to open: not in CI, not on a Linux machine without a display."""
    if os.environ.get("CI"):
        return False
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main())
