"""The model pool: one user per model, idle ones dropped, memory really freed, waiting can be cancelled."""

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from pprobe_core.errors import Cancelled, ModelUnavailable
from pprobe_core.models import devices
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.models.pool import ModelPool
from pprobe_core.models.watching import LoadPhase, Watch
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("pool")
    return [str(write_tiny_model(root / f"m{seed}", "llama", seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def size(folders: list[str]) -> int:
    return load_model(folders[0]).n_bytes


def test_two_threads_never_share_a_model(folders: list[str]) -> None:
    pool, users, most, errors = ModelPool(10**9), dict.fromkeys(folders, 0), dict.fromkeys(folders, 0), []

    def work(start: int) -> None:
        try:
            for k in range(6):
                name = folders[(start + k) % 2]
                with pool.lease(name) as loaded:
                    assert loaded.path == name
                    users[name] += 1
                    most[name] = max(most[name], users[name])
                    time.sleep(0.003)
                    users[name] -= 1
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert max(most.values()) == 1
    assert set(pool.loaded_ids()) == set(folders[:2])


def test_a_model_is_loaded_once_and_only_one_at_a_time(folders: list[str]) -> None:
    now, most, loads = [0], [0], []

    def load(name: str, *, watch: Watch | None = None) -> LoadedModel:
        now[0] += 1
        most[0] = max(most[0], now[0])
        loads.append(name)
        time.sleep(0.02)
        loaded = load_model(name)
        now[0] -= 1
        return loaded

    pool = ModelPool(10**9, load)

    def work(name: str) -> None:
        with pool.lease(name):
            time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(folders[i % 3],)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert sorted(loads) == sorted(folders)
    assert most[0] == 1


def test_the_least_recently_used_idle_model_goes_first_and_its_memory_is_freed(folders: list[str], size: int) -> None:
    pool = ModelPool(int(size * 2.5))
    refs = {}
    for name in (folders[0], folders[1], folders[0]):
        with pool.lease(name) as loaded:
            refs[name] = weakref.ref(loaded.model)
    del loaded
    with pool.lease(folders[2]) as third:
        assert third.path == folders[2]
        assert pool.loaded_ids() == [folders[0], folders[2]]
        assert refs[folders[1]]() is None, "the evicted network is still alive"
        assert refs[folders[0]]() is not None
    assert pool.n_bytes() <= pool.byte_limit


def test_a_model_in_use_is_never_dropped(folders: list[str], size: int) -> None:
    pool, order = ModelPool(int(size * 1.5)), []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pool.lease(folders[0]):
            inside.set()
            leave.wait(30)
            order.append("first leaves")

    def want() -> None:
        with pool.lease(folders[1]):
            order.append("second enters")

    first, second = threading.Thread(target=hold), threading.Thread(target=want)
    first.start()
    assert inside.wait(30)
    second.start()
    time.sleep(0.3)
    assert pool.loaded_ids() == [folders[0]]
    leave.set()
    first.join(30)
    second.join(30)
    assert order == ["first leaves", "second enters"]
    assert pool.loaded_ids() == [folders[1]]


def test_a_model_larger_than_the_limit_is_admitted_alone_and_stays(folders: list[str], size: int) -> None:
    pool = ModelPool(size // 2)
    with pool.lease(folders[0]) as loaded:
        assert loaded.n_bytes > pool.byte_limit
    assert pool.loaded_ids() == [folders[0]]
    with pool.lease(folders[1]):
        assert pool.loaded_ids() == [folders[1]]


def test_one_thread_may_hold_two_models_even_over_the_limit(folders: list[str], size: int) -> None:
    pool = ModelPool(int(size * 1.5))
    with pool.lease(folders[0]) as one, pool.lease(folders[1]) as two:
        assert one.path != two.path
    assert len(pool.loaded_ids()) == 1, "over the limit, one of the idle models is dropped"


def test_leasing_the_same_model_twice_in_one_thread_is_an_error_not_a_deadlock(folders: list[str]) -> None:
    pool, said = ModelPool(10**9), []
    with pool.lease(folders[0]):
        with pytest.raises(RuntimeError, match="already leased"), pool.lease(folders[0]):
            pass
        thread = lent_to(pool, folders[0], said)  # also while another stands in line before it
        with pytest.raises(RuntimeError, match="already leased"), pool.lease(folders[0]):
            pass
    thread.join(10)
    assert said[-1] == "given back"


def test_waiting_for_a_model_can_be_cancelled(folders: list[str]) -> None:
    pool, cancelled, raised = ModelPool(10**9), threading.Event(), []

    def wait() -> None:
        try:
            with pool.lease(folders[0], cancelled):
                raised.append("leased")
        except Cancelled as e:
            raised.append(str(e))

    with pool.lease(folders[0]):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.1)
        start = time.monotonic()
        cancelled.set()
        waiter.join(10)
        assert time.monotonic() - start < 2
    assert len(raised) == 1
    assert raised[0].startswith("Stopped")
    with pool.lease(folders[0]) as loaded:
        assert loaded.path == folders[0], "a cancelled waiter leaves no ticket behind"


def test_an_error_inside_the_lease_gives_the_model_back(folders: list[str]) -> None:
    pool = ModelPool(10**9)
    with pytest.raises(ZeroDivisionError), pool.lease(folders[0]):
        _ = 1 / 0
    with pool.lease(folders[0]) as loaded:
        assert loaded.path == folders[0]


def test_a_failed_load_is_reported_and_blocks_nobody(folders: list[str], tmp_path: Path) -> None:
    pool, broken = ModelPool(10**9), tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="not valid JSON"), pool.lease(str(broken)):
            pass
    with pool.lease(folders[0]) as loaded:
        assert loaded.path == folders[0]


def test_changed_files_on_disk_are_loaded_again(tmp_path: Path) -> None:
    folder, pool = write_tiny_model(tmp_path / "m", "llama", seed=0), ModelPool(10**9)
    with pool.lease(str(folder)) as loaded:
        before = loaded.weights_sha256
    write_tiny_model(folder, "llama", seed=1)
    with pool.lease(str(folder)) as loaded:
        assert loaded.weights_sha256 != before


def test_clear_drops_idle_models(folders: list[str]) -> None:
    pool = ModelPool(10**9)
    with pool.lease(folders[0]) as loaded:
        ref = weakref.ref(loaded.model)
    del loaded
    pool.clear()
    gc.collect()
    assert pool.loaded_ids() == []
    assert ref() is None


def test_two_asking_for_two_large_models_wait_in_order_and_both_finish(folders: list[str], size: int) -> None:
    pool, order, errors = ModelPool(int(size * 1.2)), [], []
    first_in, go_on = threading.Event(), threading.Event()

    def work(name: str, first: bool) -> None:
        try:
            with pool.lease(name) as loaded:
                order.append(Path(loaded.path).name)
                if first:
                    first_in.set()
                    go_on.wait(30)
                assert pool.loaded_ids() == [name], "the other one is not in memory at the same time"
        except BaseException as e:
            errors.append(e)

    first = threading.Thread(target=work, args=(folders[0], True))
    second = threading.Thread(target=work, args=(folders[1], False))
    first.start()
    assert first_in.wait(60)
    second.start()
    time.sleep(0.2)
    assert order == ["m0"]
    go_on.set()
    first.join(60)
    second.join(60)
    assert not errors
    assert order == ["m0", "m1"]


def test_a_model_larger_than_the_memory_is_refused_by_the_loaders_sentence(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ModelPool(10**9)
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # the memory of an accelerator is another one
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ModelUnavailable, match="needs about"), pool.lease(folders[0]):
        pass
    monkeypatch.undo()
    with pool.lease(folders[0]) as loaded:
        assert loaded.path == folders[0]


def test_the_room_of_idle_models_counts_where_a_new_one_is_measured(folders: list[str], size: int) -> None:
    pool, seen = ModelPool(int(size * 1.5)), []
    with pool.lease(folders[0]) as loaded:
        assert pool.idle_bytes() == 0
        assert loaded.n_bytes == pool.n_bytes()
    assert pool.idle_bytes() == pool.n_bytes() > 0

    class Told(Watch):
        def enter(self, phase: LoadPhase, total: int = 0, done: int = 0) -> None:
            seen.append((phase, pool.loaded_ids()))

    with pool.lease(folders[1], watch=Told()):
        pass
    assert seen == [("loading", []), ("proving", [])], "room was made before the new one was loaded"


def lent_to(pool: ModelPool, name: str, said: list[str], stop: threading.Event | None = None) -> threading.Thread:
    """A thread that stands in line for a model by the time this returns; notes when it has it and gives it back."""

    def use() -> None:
        try:
            with pool.lease(name, stop) as loaded:
                said.append(f"borrowed {loaded.weights_sha256[:4]}")
                time.sleep(0.2)
                said.append("given back")
        except Cancelled:
            said.append("stopped")

    thread, before = threading.Thread(target=use), len(pool._queues.get(name, ()))
    thread.start()
    limit = time.monotonic() + 10
    while len(pool._queues.get(name, ())) == before:
        assert time.monotonic() < limit
        time.sleep(0.005)
    return thread


def test_who_holds_a_model_for_long_lets_others_use_it_between_two_steps(folders: list[str], size: int) -> None:
    pool, said = ModelPool(int(size * 1.5)), []
    with pool.lease(folders[0]) as loaded:
        pool.lend(folders[0], threading.Event())  # nobody waits: at once
        first, second = (lent_to(pool, folders[0], said) for _ in range(2))
        pool.lend(folders[0], threading.Event())
        said.append("mine again")
        name = f"borrowed {loaded.weights_sha256[:4]}"
        assert said == [name, "given back", name, "given back", "mine again"]
    for thread in (first, second):
        thread.join(10)
    assert all(slot.holder is None for slot in pool._slots.values())


def test_a_model_that_is_lent_is_not_dropped_for_another(folders: list[str], size: int) -> None:
    pool, said = ModelPool(int(size * 1.5)), []
    with pool.lease(folders[0]) as loaded:
        threads = [lent_to(pool, folders[0], said), lent_to(pool, folders[1], said)]
        pool.lend(folders[0], threading.Event())
        assert pool._slots[folders[0]].loaded is loaded
        assert said[-1] == "given back"
        assert len(said) == 2, "the other model must wait until this one is given back for good"
    for thread in threads:
        thread.join(10)
    assert len(said) == 4


def test_a_job_that_is_stopped_while_its_model_is_lent_leaves_it_to_the_borrower(folders: list[str]) -> None:
    pool, said, stop = ModelPool(10**9), [], threading.Event()
    stop.set()
    with pool.lease(folders[0]):
        thread = lent_to(pool, folders[0], said)
        with pytest.raises(Cancelled, match="was lent"):
            pool.lend(folders[0], stop)
    thread.join(10)
    assert said[-1] == "given back"
    with pool.lease(folders[0]) as loaded:
        assert loaded.path == folders[0]


def test_a_lender_goes_on_with_the_weights_it_had_when_the_files_change(tmp_path: Path) -> None:
    folder, pool, said = write_tiny_model(tmp_path / "m", "llama", seed=0), ModelPool(10**9), []
    with pool.lease(str(folder)) as loaded:
        write_tiny_model(folder, "llama", seed=1)
        thread = lent_to(pool, str(folder), said)  # wants the new ones
        pool.lend(str(folder), threading.Event())
        assert said == []
        assert pool._slots[str(folder)].loaded is loaded
    thread.join(20)
    assert said[0].startswith("borrowed")
    assert said[0] != f"borrowed {loaded.weights_sha256[:4]}"
