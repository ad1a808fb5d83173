"""The queue on a real small model: what is asked once is computed once, and what is stopped or killed goes on."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pprobe_core import jobs as jobs_module
from pprobe_core.errors import BadRequest, ModelUnavailable, StoreUnavailable
from pprobe_core.jobs import Jobs, JobStatus
from pprobe_core.models.pool import ModelPool
from pprobe_core.probing import probe
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store

ROOT = Path(__file__).resolve().parent.parent
SMALL_BLOCKS = 4  # pairs per block in these tests, so that a probe has many


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "pairs.csv", 40)


def write_prompts(path: Path, n: int) -> Path:
    rows = [f"How do I bake bread {i}?,How do I bkae bread {i}?,Paris,Sorry" for i in range(n)]
    path.write_text("\n".join(["original,perturbed,target,control", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def request_(tiny_qwen3_folder: Path, prompts: Path) -> ProbeRequest:
    return ProbeRequest(model=str(tiny_qwen3_folder), circuit="factual_recall", prompts=str(prompts))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "pprobe.duckdb"


@pytest.fixture
def jobs(db: Path, pool: ModelPool) -> Iterator[Jobs]:
    opened = Jobs(Store(db), pool)
    yield opened
    opened.close()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BLOCK_PAIRS", SMALL_BLOCKS)


def assert_same_run(one: Store, two: Store, run_id: str) -> None:
    """Equal to the last bit but for the time it took."""
    for table in ("pairs", "layers", "neurons", "first_tokens", "token_preview"):
        pd.testing.assert_frame_equal(getattr(one, table)(run_id), getattr(two, table)(run_id), check_exact=True)
    a, b = one.run(run_id).summary, two.run(run_id).summary
    for summary in (a, b):
        summary.pop("seconds")
        summary["generation"].pop("seconds")
    assert a == b


def test_a_probe_ends_with_a_stored_run_and_no_leftovers(jobs: Jobs, request_: ProbeRequest) -> None:
    job_id = jobs.submit(request_)
    status = jobs.wait(job_id, timeout=300)
    assert status.state == "done", status.error
    assert status.run_id is not None
    run = jobs.store.run(status.run_id)
    assert run.request == request_
    assert run.summary["n_pairs"] == 40
    assert run.summary["n_forward_passes"] == 80
    assert run.summary["model_path"] == request_.model
    assert jobs.store.n_neurons(status.run_id) == run.summary["n_layers"] * run.summary["d_mlp"]
    assert jobs.store._rows("select count(*) from job_blocks") == [(0,)]
    assert not jobs.busy


def test_the_same_request_twice_is_one_run_and_the_second_runs_nothing(
    jobs: Jobs, request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jobs.wait(jobs.submit(request_), timeout=300)
    monkeypatch.setattr(probe, "capture_block", None)  # a second computation would fail here
    second = jobs.wait(jobs.submit(dataclasses.replace(request_)), timeout=300)
    assert second.state == "done"
    assert second.run_id == first.run_id
    assert len(jobs.store.runs()) == 1
    assert len(jobs.list()) == 1


def test_requests_that_differ_queue_in_order(jobs: Jobs, request_: ProbeRequest, small_blocks: None) -> None:
    requests = [dataclasses.replace(request_, limit=n) for n in (40, 30, 20)]
    ids = [jobs.submit(r) for r in requests]
    assert [jobs.submit(r) for r in requests] == ids  # asked twice, queued once
    places = [jobs.status(i).position for i in ids]
    assert places[-1] in (1, 2, 3)
    ended = [jobs.wait(i, timeout=300) for i in ids]
    assert [s.state for s in ended] == ["done"] * 3
    created = jobs.store.runs().sort_values("created_at")["n_pairs"].tolist()
    assert created == [40, 30, 20]


def test_progress_counts_pairs_up_to_all_of_them(jobs: Jobs, request_: ProbeRequest, small_blocks: None) -> None:
    job_id = jobs.submit(request_)
    seen: list[JobStatus] = []
    while not (status := jobs.status(job_id)).ended:
        seen.append(status)
        time.sleep(0.001)
    assert status.state == "done"
    counted = [s for s in seen if s.total]
    assert {s.phase for s in counted} <= {"two passes", "generating"}
    assert any(s.phase == "two passes" for s in counted)
    assert all(s.total == 40 and 0 <= s.done <= 40 and s.done % SMALL_BLOCKS == 0 for s in counted)
    for phase in ("two passes", "generating"):
        dones = [s.done for s in counted if s.phase == phase]
        assert dones == sorted(dones)
    assert any(s.eta_seconds is not None and s.eta_seconds >= 0 for s in counted)
    assert all(s.message for s in counted)


def test_a_cancelled_job_keeps_its_blocks_and_goes_on_where_it_stopped(
    jobs: Jobs, request_: ProbeRequest, small_blocks: None, db: Path, pool: ModelPool, tmp_path: Path
) -> None:
    job_id = jobs.submit(request_)
    while not jobs.status(job_id).done:
        time.sleep(0.001)
    jobs.cancel(job_id)
    status = jobs.wait(job_id, timeout=300)
    assert (status.state, status.error, status.run_id) == ("cancelled", None, None)
    kept = len(jobs.store.blocks(job_id, "capture")) + len(jobs.store.blocks(job_id, "generation"))
    assert 0 < kept < 20
    assert jobs.store.runs().empty

    done = jobs.wait(jobs.submit(request_), timeout=300)
    assert done.state == "done"
    assert done.run_id is not None
    other = Jobs(Store(tmp_path / "whole.duckdb"), pool)
    whole = other.wait(other.submit(request_), timeout=300)
    assert whole.run_id == done.run_id
    assert_same_run(jobs.store, other.store, done.run_id)
    other.close()


def test_a_waiting_job_is_cancelled_at_once(jobs: Jobs, request_: ProbeRequest, small_blocks: None) -> None:
    first = jobs.submit(request_)
    second = jobs.submit(dataclasses.replace(request_, limit=10))
    jobs.cancel(second)
    assert jobs.status(second).state == "cancelled"
    assert jobs.wait(first, timeout=300).state == "done"
    assert jobs.status(second).state == "cancelled"


def test_asking_again_while_it_is_being_stopped_runs_it(jobs: Jobs, request_: ProbeRequest, small_blocks: None) -> None:
    job_id = jobs.submit(request_)
    while not jobs.status(job_id).done:
        time.sleep(0.001)
    jobs.cancel(job_id)
    assert jobs.submit(request_) == job_id
    limit = time.monotonic() + 300
    while jobs.wait(job_id, timeout=1).state != "done" and time.monotonic() < limit:
        time.sleep(0.01)
    assert jobs.status(job_id).state == "done"


def test_closing_leaves_the_job_interrupted_and_the_next_start_finishes_it(
    db: Path, pool: ModelPool, request_: ProbeRequest, small_blocks: None
) -> None:
    first = Jobs(Store(db), pool)
    job_id = first.submit(request_)
    waiting = first.submit(dataclasses.replace(request_, limit=8))
    while not first.status(job_id).done:
        time.sleep(0.001)
    assert first.close()
    store = Store(db)
    assert {row.job_id: row.state for row in store.jobs()} == {job_id: "interrupted", waiting: "queued"}

    later = Jobs(store, pool)
    assert later.wait(job_id, timeout=300).state == "done"
    assert later.wait(waiting, timeout=300).state == "done"
    later.close()


def test_without_resume_unfinished_jobs_wait_for_the_dashboard(
    db: Path, pool: ModelPool, request_: ProbeRequest
) -> None:
    store = Store(db)
    job_id = store.add_job(request_).job_id
    store.set_job_state(job_id, "running")
    jobs = Jobs(store, pool, resume=False)
    time.sleep(0.2)
    assert jobs.status(job_id).state == "interrupted"
    jobs.close()


KILLED = """
import sys
import time
from pathlib import Path
from pprobe_core.jobs import Jobs
from pprobe_core.probing import probe
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store

probe.MAX_BLOCK_PAIRS = int(sys.argv[4])
jobs = Jobs(Store(Path(sys.argv[1])))
job_id = jobs.submit(ProbeRequest(model=sys.argv[2], circuit="factual_recall", prompts=sys.argv[3]))
print(job_id, flush=True)
while not (status := jobs.status(job_id)).ended:
    if status.done:
        print("block", flush=True)
    time.sleep(0.01)
print(status.state, flush=True)
"""


def test_a_run_killed_in_the_middle_is_resumed_to_the_same_run(
    db: Path, pool: ModelPool, request_: ProbeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_BLOCK_PAIRS", 2)
    command = [sys.executable, "-c", KILLED, str(db), request_.model, request_.prompts, "2"]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    job_id = victim.stdout.readline().strip()
    assert victim.stdout.readline().strip() == "block"  # at least one block is committed
    victim.kill()
    victim.wait()

    store = Store(db)
    row = store.job(job_id)
    assert row is not None
    assert row.state == "running"  # nobody could tidy up
    committed = store.blocks(job_id, "capture") + store.blocks(job_id, "generation")
    assert 1 <= len(committed) < 40

    computed: list[int] = []
    real = probe.capture_block
    monkeypatch.setattr(probe, "capture_block", lambda *args: computed.append(args[-1]) or real(*args))
    n_before = len(store.blocks(job_id, "capture"))
    resumed = Jobs(store, pool)  # no one asks again: it goes on by itself
    status = resumed.wait(job_id, timeout=300)
    assert status.state == "done", status.error
    assert computed == list(range(n_before, 20))  # committed blocks were not run again

    monkeypatch.setattr(probe, "capture_block", real)
    whole = Jobs(Store(tmp_path / "whole.duckdb"), pool)
    expected = whole.wait(whole.submit(request_), timeout=300)
    assert status.run_id == expected.run_id
    assert status.run_id is not None
    assert resumed.store.run(status.run_id).summary["n_forward_passes"] == 80  # paid once each
    pairs, fresh = resumed.store.pairs(status.run_id), whole.store.pairs(status.run_id)
    assert np.allclose(pairs["logit_diff_original"], fresh["logit_diff_original"], atol=1e-5)
    assert pairs["input_ids_perturbed"].tolist() == fresh["input_ids_perturbed"].tolist()
    neurons, fresh = resumed.store.neurons(status.run_id), whole.store.neurons(status.run_id)
    assert np.allclose(neurons["importance_mean"], fresh["importance_mean"], atol=1e-5)
    resumed.close()
    whole.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is a POSIX signal")
def test_a_second_process_cannot_take_the_queue_of_a_living_one(db: Path, request_: ProbeRequest) -> None:
    command = [sys.executable, "-c", KILLED, str(db), request_.model, request_.prompts, "2"]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match=f"in use by process {holder.pid}"):
            Jobs(Store(db))
    finally:
        holder.kill()
        holder.wait()


def test_a_failed_job_says_why_in_its_own_words(jobs: Jobs, request_: ProbeRequest, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in Path(request_.model).iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    status = jobs.wait(jobs.submit(dataclasses.replace(request_, model=str(folder))), timeout=300)
    assert (status.state, status.exit_code) == ("failed", ModelUnavailable.exit_code)
    assert status.error
    assert "Traceback" not in status.error
    assert jobs.wait(jobs.submit(request_), timeout=300).state == "done"  # the worker lives on


def test_a_job_is_asked_for_once_until_it_begins_and_anew_as_soon_as_it_ended(
    jobs: Jobs, request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both presses come while the worker holds the job: before the file says that it runs, and after it has failed."""
    begin, summarise, asked = jobs._run, probe.summarise, []

    def before(live: object) -> None:
        jobs.submit(request_)
        asked.append(list(jobs._queue))
        begin(live)  # type: ignore[arg-type]

    def after() -> None:
        if len(asked) == 1:
            monkeypatch.setattr(probe, "summarise", summarise)
            jobs.submit(request_)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(probe, "summarise", broken)
    monkeypatch.setattr(jobs, "_run", before)
    monkeypatch.setattr(jobs_module, "give_back", after)
    job_id = jobs.submit(request_)
    limit = time.monotonic() + 60
    while jobs.status(job_id).state != "done":
        assert time.monotonic() < limit, jobs.status(job_id)
        time.sleep(0.01)
    assert asked == [[], []]


def test_an_unforeseen_error_becomes_a_sentence_and_its_details_go_to_a_log(
    jobs: Jobs, request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch, db: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail 4711")

    monkeypatch.setattr(probe, "summarise", broken)
    status = jobs.wait(jobs.submit(request_), timeout=300)
    assert (status.state, status.exit_code) == ("failed", 1)
    assert status.error is not None
    assert "internal error (ZeroDivisionError)" in status.error
    assert "4711" not in status.error
    assert "4711" in (db.parent / "pprobe.log").read_text(encoding="utf-8")
    assert jobs.store._rows("select count(*) from job_blocks") == [(0,)]  # the next attempt starts afresh
    monkeypatch.undo()
    assert jobs.wait(jobs.submit(request_), timeout=300).state == "done"


def test_memory_that_is_too_small_is_said_in_plain_words(
    jobs: Jobs, request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(probe, "summarise", hungry)
    status = jobs.wait(jobs.submit(request_), timeout=300)
    assert status.state == "failed"
    assert status.error is not None
    assert "memory is too small" in status.error


def test_an_end_that_the_full_disk_cannot_take_is_still_told(
    jobs: Jobs, request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreUnavailable("The disk is full.")

    real = jobs.store.set_job_state
    monkeypatch.setattr(jobs.store, "save_run", full)
    monkeypatch.setattr(
        jobs.store, "set_job_state", lambda job, state, **kw: full() if state == "failed" else real(job, state, **kw)
    )
    status = jobs.wait(jobs.submit(request_), timeout=300)
    assert (status.state, status.error) == ("failed", "The disk is full.")
    monkeypatch.undo()
    assert jobs.wait(jobs.submit(request_), timeout=300).state == "done"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"circuit": "nonsense"}, BadRequest, "factual_recall"),
        ({"model": "no-such-model"}, ModelUnavailable, "no-such-model"),
        ({"prompts": "/no/such/file.csv"}, BadRequest, "file.csv"),
        ({"limit": 0}, BadRequest, "1 or more"),
        ({"coupling": "loose"}, BadRequest, "plain, norm_aware"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused_before_it_queues(
    jobs: Jobs, request_: ProbeRequest, change: dict[str, object], error: type[Exception], words: str
) -> None:
    request = dataclasses.replace(request_)
    for name, value in change.items():
        object.__setattr__(request, name, value)  # what a type checker would stop, a permalink does not
    with pytest.raises(error, match=words):
        jobs.submit(request)
    assert jobs.list() == []


def test_a_request_means_the_same_from_any_folder(
    request_: ProbeRequest, monkeypatch: pytest.MonkeyPatch, prompts: Path
) -> None:
    monkeypatch.chdir(prompts.parent)
    relative = dataclasses.replace(request_, prompts=prompts.name)
    assert jobs_module.checked(relative) == jobs_module.checked(request_)
    assert Path(jobs_module.checked(relative).prompts).is_absolute()


def test_an_unknown_job_is_a_plain_error(jobs: Jobs) -> None:
    with pytest.raises(BadRequest, match="no job 'nope'"):
        jobs.status("nope")
    jobs.cancel("nope")  # nothing to stop


def test_the_shared_queue_is_one_per_process_and_follows_the_path(tmp_path: Path) -> None:
    one = jobs_module.shared(tmp_path / "one.duckdb")
    assert jobs_module.shared(tmp_path / "one.duckdb") is one
    assert one.notice == ""
    two = jobs_module.shared(tmp_path / "two.duckdb")
    assert two is not one
    with pytest.raises(StoreUnavailable, match="closed"):
        one.store.runs()
    jobs_module.close()
    jobs_module.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        two.store.runs()


def test_where_the_file_cannot_be_written_runs_are_kept_in_memory_with_a_notice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    path = tmp_path / "file" / "pprobe.duckdb"
    try:
        jobs = jobs_module.shared(path)
        assert jobs.store.in_memory
        assert "kept in memory" in jobs.notice
        assert jobs_module.shared(path) is jobs
        assert jobs.store.runs().empty
    finally:
        jobs_module.close()


def test_a_damaged_file_is_not_hidden_behind_memory(tmp_path: Path) -> None:
    path = tmp_path / "pprobe.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="not a results file"):
        jobs_module.shared(path)
