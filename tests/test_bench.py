"""Benches run from start to end on a small model and say what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import load
from bench.soak import growth_of
from pprobe_core.settings import ROOT


def test_the_bench_of_loading_prints_one_json_object_with_the_ratio_of_its_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path))
    in_a_process = load.one

    def one(side: str, folder: Path) -> dict[str, float]:
        if side == "plain":
            return in_a_process(side, folder)
        load.child(side, str(folder))  # here: a third process that imports torch would show nothing new
        found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    monkeypatch.setattr(load, "one", one)
    monkeypatch.setattr(sys, "argv", ["load.py", "--quick", "--repeats", "1", "--json", "-"])
    assert load.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "load"
    (row,) = found["rows"]
    assert (row["case"], row["repeats"]) == ("small", 1)
    for side in ("plain", "probe"):
        assert 0 < row[f"{side}_load_seconds"] < row[f"{side}_seconds"]
        assert row[f"{side}_peak_mib"] > 50
    assert row["ratio"] == pytest.approx(row["probe_seconds"] / row["plain_seconds"])
    assert row["ratios"] == [pytest.approx(row["ratio"])]


def test_growth_of_memory_is_told_from_a_wave() -> None:
    wave = [(i / 10, 500.0 + 5 * (i % 2)) for i in range(300)]
    assert growth_of(wave)["growth"] == pytest.approx(1.0, abs=0.02)
    leaking = [(minute, mib + 20 * minute) for minute, mib in wave]
    found = growth_of(leaking)
    assert found["slope_mib_per_minute"] == pytest.approx(20, abs=0.1)
    assert found["growth"] > 1.5
    assert found["floor_growth"] > 1.4
    working = [(minute, 500.0 + 200 * (i % 10 < (3 if minute < 18 else 7))) for i, (minute, _) in enumerate(wave)]
    found = growth_of(working)
    assert found["growth"] == pytest.approx(1.4)
    assert found["floor_growth"] == pytest.approx(1.0), "more is under way at the end, nothing more is held"


def test_the_bench_of_pages_measures_a_page_on_a_small_file() -> None:
    command = [sys.executable, "bench/pages.py", "--quick", "--repeats", "1", "--only", "probe", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["bench"] == "pages"
    (row,) = found["rows"]
    assert row["page"] == "probe"
    assert 0 < row["warm_ms"] < row["cold_ms"] * 5
