"""A job whose model is on the hub: it shows the download, can be stopped in it, and goes on where it stopped."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pprobe_core.errors import ModelUnavailable
from pprobe_core.jobs import Jobs, JobStatus
from pprobe_core.models.pool import ModelPool
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store
from tests.hub_server import COMMIT, Hub, use_hub
from tests.tiny_models import write_tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    with Hub(write_tiny_model(tmp_path / "upstream", "qwen3")).serving() as found:
        use_hub(monkeypatch, found.address)
        yield found


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    opened = Jobs(Store(tmp_path / "pprobe.duckdb"), ModelPool())
    yield opened
    opened.close()


@pytest.fixture
def request_(tmp_path: Path) -> ProbeRequest:
    prompts = tmp_path / "pairs.csv"
    rows = [f"How do I bake bread {i}?,How do I bkae bread {i}?,Paris,Sorry" for i in range(4)]
    prompts.write_text("\n".join(["original,perturbed,target,control", *rows]), encoding="utf-8")
    return ProbeRequest(model="own/tiny", circuit="factual_recall", prompts=str(prompts), generate=False)


def seen(jobs: Jobs, job_id: str, when: Callable[[JobStatus], bool], seconds: float = 60) -> JobStatus:
    """The first status for which `when` holds."""
    until = time.monotonic() + seconds
    while not when(status := jobs.status(job_id)):
        assert time.monotonic() < until, f"not seen; last was {status}"
        time.sleep(0.02)
    return status


def test_the_download_is_shown_stopped_and_taken_up_again(server: Hub, jobs: Jobs, request_: ProbeRequest) -> None:
    server.pause = 0.2
    job_id = jobs.submit(request_)
    status = seen(jobs, job_id, lambda s: s.phase == "downloading" and s.eta_seconds is not None)
    assert status.message == "Downloading the model"
    assert status.unit == "bytes"
    assert 0 < status.done < status.total
    assert status.count.endswith(" of 0.2 MB")
    started = time.monotonic()
    jobs.cancel(job_id)
    assert jobs.wait(job_id, 30).state == "cancelled"
    assert time.monotonic() - started < 2.5
    time.sleep(0.5)  # the last piece under way
    server.pause = 0.0
    before = server.sent[WEIGHTS]
    assert jobs.submit(request_) == job_id
    done = jobs.wait(job_id, 120)
    assert done.state == "done", done.error
    assert server.sent[WEIGHTS] - before < len(server.files[WEIGHTS])
    run = jobs.store.run(str(done.run_id))
    assert run.summary["revision"] == COMMIT
    assert run.request.model == "own/tiny"


def test_a_network_that_is_gone_fails_the_job_with_its_sentence(
    server: Hub, jobs: Jobs, request_: ProbeRequest
) -> None:
    server.drop_after = 0
    status = jobs.wait(jobs.submit(request_), 60)
    assert (status.state, status.exit_code) == ("failed", ModelUnavailable.exit_code)
    assert "connection to the hub was lost" in str(status.error)
    server.drop_after = None
    again = jobs.wait(jobs.submit(request_), 120)
    assert again.state == "done", again.error


def test_idle_models_count_as_room(server: Hub, jobs: Jobs, request_: ProbeRequest) -> None:
    assert jobs.reclaimable() == 0
    assert jobs.wait(jobs.submit(request_), 120).state == "done"
    limit = time.monotonic() + 10
    while jobs.reclaimable() < 4 * 42000:  # the run is stored a moment before the worker lets go of its model
        assert time.monotonic() < limit
        time.sleep(0.01)
