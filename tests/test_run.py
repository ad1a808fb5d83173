"""The set-up script: packages are installed when they changed, and an attempt that failed leaves no mark."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py with a folder of its own and nothing to install."""
    (tmp_path / "requirements.txt").write_text("", encoding="utf-8")
    (tmp_path / "requirements-dev.txt").write_text("-r requirements.txt\n", encoding="utf-8")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what is not there cannot be found: no network in this test
    return run


def test_the_environment_is_made_once_and_again_when_it_broke_or_changed(
    project: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    real = subprocess.call
    monkeypatch.setattr(
        subprocess, "call", lambda command, **options: calls.append(command) or real(command, **options)
    )

    python = project.environment("requirements.txt")
    assert subprocess.run([str(python), "-c", "import pip"], check=False).returncode == 0
    assert len(calls) == 1
    assert project.environment("requirements.txt") == python
    assert len(calls) == 1  # nothing changed, nothing installed

    marker = tmp_path / ".venv" / ".requirements.txt.sha256"
    (tmp_path / "requirements.txt").write_text("no-such-package-of-pprobe==1\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="could not be installed"):
        project.environment("requirements.txt")
    assert not marker.exists()  # the next start tries again

    (tmp_path / "requirements.txt").write_text("", encoding="utf-8")
    python.unlink()
    assert not project.works(python)
    assert project.works(project.environment("requirements.txt"))
    assert marker.exists()


def test_a_changed_requirements_file_changes_both_fingerprints(project: ModuleType, tmp_path: Path) -> None:
    before = project.fingerprint("requirements.txt"), project.fingerprint("requirements-dev.txt")
    (tmp_path / "requirements.txt").write_text("six\n", encoding="utf-8")
    after = project.fingerprint("requirements.txt"), project.fingerprint("requirements-dev.txt")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_port_in_use_is_seen() -> None:
    with socket.socket() as holder:
        holder.bind((run.HOST, 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert not run.is_free(port)
    assert run.is_free(run.free_port())
    assert not run.is_free(99_999)


def test_the_checks_stop_at_the_first_failure_and_pass_its_exit_code_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(command: list[str], **_: object) -> int:
        called.append(command[2])
        return 7 if command[2] == "mypy" else 0

    monkeypatch.setattr(run, "environment", lambda _: Path(sys.executable))
    monkeypatch.setattr(subprocess, "call", call)
    assert run.main(["test"]) == 7
    assert called == ["ruff", "ruff", "mypy"]


def test_no_browser_opens_in_ci_or_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    assert not run.has_screen()
    monkeypatch.delenv("CI")
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not run.has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert run.has_screen()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_ci_script_is_valid_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_what_the_tests_installed_serves_the_dashboard_too(project: ModuleType, tmp_path: Path) -> None:
    assert not project.is_installed("requirements.txt")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".requirements-dev.txt.sha256").write_text(project.fingerprint("requirements-dev.txt"))
    assert project.is_installed("requirements.txt")
    assert project.is_installed("requirements-dev.txt")
    (tmp_path / "requirements.txt").write_text("six\n", encoding="utf-8")
    assert not project.is_installed("requirements.txt")


def test_the_packages_of_the_dashboard_do_not_serve_the_tests(project: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".requirements.txt.sha256").write_text(project.fingerprint("requirements.txt"))
    assert project.is_installed("requirements.txt")
    assert not project.is_installed("requirements-dev.txt")


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
def test_a_server_ended_by_a_signal_gives_a_shell_s_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]
    real = subprocess.Popen
    monkeypatch.setattr(run, "environment", lambda _: Path(sys.executable))
    monkeypatch.setattr(run, "announce", lambda *_: None)
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real(stand_in, **options))
    assert run.dashboard(None, open_browser=False) == 128 + 15
