"""Benches run from start to end on a small model and say what they measured."""

import json
import subprocess
import sys

import pytest

from pprobe_core.settings import ROOT


def test_the_bench_of_loading_prints_one_json_object_with_the_ratio_of_its_medians() -> None:
    command = [sys.executable, "bench/load.py", "--quick", "--repeats", "1", "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["bench"] == "load"
    (row,) = found["rows"]
    assert (row["case"], row["repeats"]) == ("small", 1)
    for side in ("plain", "probe"):
        assert 0 < row[f"{side}_load_seconds"] < row[f"{side}_seconds"]
        assert row[f"{side}_peak_mib"] > 50
    assert row["ratio"] == pytest.approx(row["probe_seconds"] / row["plain_seconds"])
    assert row["ratios"] == [pytest.approx(row["ratio"])]
