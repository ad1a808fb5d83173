"""The results file: what is saved is read back, nothing is half-saved or lost, every bad file gets a sentence."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from pprobe_core import neuron_charts
from pprobe_core.errors import BadRequest, StoreUnavailable
from pprobe_core.probing.types import ProbeRequest, Ranking
from pprobe_core.store import NotWritable, Store, database, job_id_of
from pprobe_core.store.database import migrations
from pprobe_core.store.plain import plain, records
from pprobe_core.store.runs import LAYER_COLUMNS, NEURON_COLUMNS, PAIR_COLUMNS, TABLES
from tests.results_by_hand import result_by_hand

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "pprobe.duckdb"


@pytest.fixture
def store(db: Path) -> Iterator[Store]:
    opened = Store(db)
    yield opened
    opened.close()


def test_a_run_is_read_back_as_it_was_saved(store: Store) -> None:
    result = result_by_hand(n_pairs=7)
    assert store.save_run(result) == result.run_id

    pd.testing.assert_frame_equal(
        store.pairs(result.run_id), result.pairs[list(PAIR_COLUMNS)], check_dtype=False, check_exact=True
    )
    pd.testing.assert_frame_equal(
        store.neurons(result.run_id), result.neurons[list(NEURON_COLUMNS)], check_dtype=False, check_exact=True
    )
    pd.testing.assert_frame_equal(
        store.layers(result.run_id)[list(LAYER_COLUMNS)], result.layers[list(LAYER_COLUMNS)], check_dtype=False
    )
    pd.testing.assert_frame_equal(store.first_tokens(result.run_id), result.first_tokens, check_dtype=False)
    pd.testing.assert_frame_equal(store.token_preview(result.run_id), result.token_preview, check_dtype=False)
    run = store.run(result.run_id)
    assert run.request == result.request
    assert run.environment == result.environment
    assert run.summary["verdict"] == result.summary["verdict"]
    assert run.summary["ffn_skip"]["undefined"] is None  # NaN is not JSON
    assert run.created_at.utcoffset() is not None
    assert run.created_at.utcoffset().total_seconds() == 0  # type: ignore[union-attr]


def test_the_history_has_one_row_per_run_newest_first(store: Store) -> None:
    ids = [store.save_run(result_by_hand(seed=seed)) for seed in range(3)]
    history = store.runs()
    assert history["run_id"].tolist() == ids[::-1]
    assert history["flip_rate"].between(0, 1).all()
    assert str(history["created_at"].dt.tz) == "UTC"


def test_an_empty_file_has_an_empty_history(store: Store) -> None:
    assert store.runs().empty
    assert {"run_id", "created_at", "model"} <= set(store.runs().columns)


def test_a_run_never_changes_once_saved(store: Store) -> None:
    first = result_by_hand()
    store.save_run(first)
    before = store.pairs(first.run_id)
    changed = dataclasses.replace(first, pairs=first.pairs.assign(note="rewritten"), summary={})
    assert store.save_run(changed) == first.run_id
    pd.testing.assert_frame_equal(store.pairs(first.run_id), before)
    assert store.run(first.run_id).summary["family"] == "qwen3"
    assert len(store.runs()) == 1


def test_a_run_whose_tables_do_not_fit_leaves_nothing_behind(store: Store) -> None:
    result = result_by_hand()
    broken = dataclasses.replace(result, neurons=result.neurons.assign(layer="not a number"))
    with pytest.raises(StoreUnavailable):
        store.save_run(broken)
    assert store.runs().empty
    assert store.pairs(result.run_id).empty
    store.save_run(result)  # and the way is free
    assert len(store.runs()) == 1


def test_deleting_a_run_deletes_all_of_it_and_nothing_else(store: Store) -> None:
    keep, gone = result_by_hand(seed=1), result_by_hand(seed=2)
    store.save_run(keep)
    store.save_run(gone)
    assert store.delete_run(gone.run_id)
    assert not store.delete_run(gone.run_id)
    assert store.runs()["run_id"].tolist() == [keep.run_id]
    for table in TABLES:
        left = store._rows(f"select distinct run_id from {table}")  # noqa: S608
        assert left == [(keep.run_id,)]
    with pytest.raises(BadRequest, match=f"no run '{gone.run_id}'.*runs list"):
        store.run(gone.run_id)


def test_a_deleted_run_can_be_saved_again(store: Store) -> None:
    result = result_by_hand()
    for _ in range(2):
        store.save_run(result)
        assert len(store.pairs(result.run_id)) == 6
        assert store.delete_run(result.run_id)
    assert store.runs().empty


def test_a_run_is_found_by_its_whole_request_key(store: Store) -> None:
    result = result_by_hand()
    assert store.find(result.request_key) is None
    store.save_run(result)
    assert store.find(result.request_key) == result.run_id
    assert store.find(result.request_key[:12]) is None


@pytest.mark.parametrize(
    ("ranking", "score"),
    [("shared", "importance_mean"), ("magnitude", "importance_rms"), ("ablation", "ablation_score")],
)
def test_top_neurons_follow_the_ranking_and_break_ties_by_place(store: Store, ranking: str, score: str) -> None:
    result = result_by_hand(n_layers=4, d_mlp=16)
    neurons = result.neurons.assign(**{score: np.float32(0.5)})  # all equal but one, and its sign does not matter
    neurons.loc[40, score] = np.float32(-0.75 if ranking == "shared" else 0.75)
    store.save_run(dataclasses.replace(result, neurons=neurons))
    top = store.top_neurons(result.run_id, ranking, 5)  # type: ignore[arg-type]
    assert top["rank"].tolist() == [1, 2, 3, 4, 5]
    assert list(zip(top["layer"], top["neuron"], strict=True)) == [(2, 8), (0, 0), (0, 1), (0, 2), (0, 3)]


def test_an_unknown_ranking_names_the_known_ones(store: Store) -> None:
    with pytest.raises(BadRequest, match="shared, magnitude, ablation"):
        store.top_neurons("x", "best", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranking", ["shared", "magnitude", "ablation"])
def test_the_neuron_map_counts_every_neuron_once_in_its_step(store: Store, ranking: Ranking) -> None:
    result = result_by_hand(n_layers=5, d_mlp=300)
    result.neurons.loc[7, ["importance_mean", "importance_rms", "ablation_score"]] = np.nan
    store.save_run(result)
    cells = store.neuron_map(result.run_id, ranking, bins=20)
    assert cells["n_neurons"].sum() == 1499
    pd.testing.assert_frame_equal(cells, neuron_charts.cells_of(result.neurons, ranking, 20), check_dtype=False)


@pytest.mark.parametrize("ranking", ["shared", "magnitude", "ablation"])
def test_the_neurons_inside_a_region_keep_their_ranks(store: Store, ranking: Ranking) -> None:
    result = result_by_hand(n_layers=4, d_mlp=101)
    store.save_run(result)
    every = store.top_neurons(result.run_id, ranking, 404)
    column = neuron_charts.RANKING_COLUMN[ranking]
    place = every["layer"] + (every["neuron"] / 100 - 0.5) * 0.7
    expected = every[place.between(0.9, 2.0) & every[column].between(-0.5, 0.8)].reset_index(drop=True)
    found = store.neurons_inside(result.run_id, ranking, (0.9, 2.0), (-0.5, 0.8), spread=0.7)
    assert 0 < len(expected) < 404
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert len(store.neurons_inside(result.run_id, ranking, k=3)) == 3


def test_the_importance_of_named_neurons_is_read_alone(store: Store) -> None:
    result = result_by_hand()
    store.save_run(result)
    table = result.neurons.set_index(["layer", "neuron"])["importance_mean"]
    found = store.importance_of(result.run_id, [(0, 1), (2, 7), (9, 9)])
    assert found == {place: pytest.approx(float(table[place])) for place in ((0, 1), (2, 7))}
    assert store.importance_of(result.run_id, []) == {}


def test_the_neuron_map_of_scores_that_are_all_zero_is_not_a_division_by_zero(store: Store) -> None:
    result = result_by_hand()
    store.save_run(dataclasses.replace(result, neurons=result.neurons.assign(importance_mean=np.float32(0))))
    assert store.neuron_map(result.run_id)["n_neurons"].sum() == len(result.neurons)
    assert store.layer_mass(result.run_id)["mass"].isna().all()


def test_layer_mass_is_the_share_of_absolute_importance(store: Store) -> None:
    result = result_by_hand(n_layers=4)
    store.save_run(result)
    size = result.neurons.assign(size=result.neurons["importance_mean"].abs()).groupby("layer")["size"].sum()
    assert np.allclose(store.layer_mass(result.run_id)["mass"], size / size.sum(), atol=1e-6)


def test_layer_means_leave_undefined_ratios_out(store: Store) -> None:
    result = result_by_hand(n_pairs=9)
    store.save_run(result)
    means = store.layer_means(result.run_id).set_index(["measure", "condition", "layer"])
    expected = result.layers.query("condition == 'original' and layer == 1")["ffn_skip"]
    row = means.loc[("ffn_skip", "original", 1)]
    assert np.isclose(row["mean"], expected.mean())
    assert np.isclose(row["sd"], expected.std(ddof=1))
    assert row["n"] == 9
    assert ("ffn_skip", "original", 0) not in means.index  # undefined on every pair
    assert ("attention", "perturbed", 0) in means.index


def test_comparing_a_run_with_itself_gives_equal_ranks(store: Store) -> None:
    a, b = result_by_hand(seed=1), result_by_hand(seed=2)
    store.save_run(a)
    store.save_run(b)
    same = store.compare_neurons(a.run_id, a.run_id, k=5)
    assert same["rank_a"].tolist() == same["rank_b"].tolist() == [1, 2, 3, 4, 5]
    both = store.compare_neurons(a.run_id, b.run_id, k=5)
    assert set(range(1, 6)) <= set(both["rank_a"])
    assert set(range(1, 6)) <= set(both["rank_b"])
    assert set(store.compare_layers(a.run_id, b.run_id)["run_id"]) == {a.run_id, b.run_id}


def test_two_writers_in_one_process_lose_nothing(db: Path) -> None:
    errors: list[Exception] = []

    def write(first_seed: int) -> None:
        try:
            mine = Store(db)
            for seed in range(first_seed, first_seed + 8):
                mine.save_run(result_by_hand(seed=seed))
                mine.save_run(result_by_hand(seed=999))  # both write this one
                assert len(mine.pairs(result_by_hand(seed=seed).run_id)) == 6
            mine.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    store = Store(db)
    assert len(store.runs()) == 25
    assert store._rows("select count(*) from pairs")[0][0] == 25 * 6
    store.close()


def test_a_second_process_is_told_which_process_holds_the_file(store: Store, db: Path) -> None:
    code = (
        "import sys; from pprobe_core.store import Store; from pprobe_core.errors import StoreUnavailable\n"
        "try: Store(sys.argv[1])\nexcept StoreUnavailable as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(db)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"in use by process {os.getpid()}" in said
    assert "--db FILE" in said
    assert store.runs().empty  # the holder is not disturbed


def test_a_closed_store_says_so_and_frees_the_file_for_others(db: Path) -> None:
    first, second = Store(db), Store(db)
    first.close()
    first.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        first.runs()
    second.save_run(result_by_hand())
    second.close()
    duckdb.connect(str(db)).close()  # nobody holds it any more


def test_a_run_that_was_saved_survives_kill_9(db: Path) -> None:
    code = (
        "import sys, os; from pprobe_core.store import Store; from tests.results_by_hand import result_by_hand\n"
        "store = Store(sys.argv[1])\n"
        "for seed in range(1000):\n"
        "    store.save_run(result_by_hand(seed=seed)); print(seed, flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(db)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 5:
            break
    writer.kill()
    confirmed = max([5, *(int(line) for line in writer.stdout.read().split())])
    writer.wait()
    store = Store(db)
    history = store.runs()
    assert len(history) >= confirmed + 1
    for run_id in history["run_id"]:  # no half-saved run
        assert len(store.pairs(run_id)) == 6
        assert store.n_neurons(run_id) == 24
    store.close()


# -- migrations --


def old_file(path: Path, version: int) -> None:
    """A file as the program of that version left it: the first migrations applied, one run in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table schema_version (version integer primary key, applied_at timestamp not null)")
        for number, sql in migrations():
            if number <= version:
                connection.execute(sql)
                connection.execute("insert into schema_version values (?, now()::timestamp)", [number])
        if version >= 1:
            connection.execute(
                """
                insert into runs (run_id, request_key, created_at, model, circuit, prompts, coupling, seed, generated,
                                  n_pairs, request, summary, environment)
                values ('0123456789ab', '0123456789abcdef', '2026-01-01 00:00:00', 'm', 'c', 'mini', 'plain', 1, true,
                        0, '{"model": "m", "circuit": "c"}', '{}', '{}')
                """
            )


def test_migrations_are_numbered_without_gaps() -> None:
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.parametrize("version", range(1, len(migrations()) + 1))
def test_a_file_of_every_older_version_is_brought_up_to_date_with_its_runs(db: Path, version: int) -> None:
    old_file(db, version)
    store = Store(db)
    assert store.schema_version() == len(migrations())
    assert store.runs()["run_id"].tolist() == ["0123456789ab"]
    assert store.run("0123456789ab").request == ProbeRequest(model="m", circuit="c")
    assert store.jobs() == []
    store.save_run(result_by_hand())
    store.close()


def test_a_file_with_no_migration_applied_is_brought_up_to_date(db: Path) -> None:
    old_file(db, 0)
    store = Store(db)
    store.save_run(result_by_hand())
    assert len(store.runs()) == 1
    store.close()


def test_a_migration_that_fails_leaves_the_old_version(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_file(db, len(migrations()))
    bad = [*migrations(), (len(migrations()) + 1, "create table extra (x integer); select * from missing_table")]
    monkeypatch.setattr("pprobe_core.store.database.migrations", lambda: bad)
    with pytest.raises(StoreUnavailable):
        Store(db)
    monkeypatch.undo()
    store = Store(db)
    assert store.schema_version() == len(migrations())
    assert store._rows("select count(*) from duckdb_tables() where table_name = 'extra'") == [(0,)]
    assert len(store.runs()) == 1
    store.close()


def test_a_newer_file_is_refused_and_left_alone(db: Path) -> None:
    old_file(db, len(migrations()))
    with duckdb.connect(str(db)) as connection:
        connection.execute("insert into schema_version values (99, now()::timestamp)")
    before = db.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"newer pprobe \(layout 99.*update pprobe"):
        Store(db)
    assert db.read_bytes() == before


# -- files that can only be read --


@pytest.fixture
def locked(db: Path, tmp_path: Path) -> Iterator[Path]:
    """A results file on a medium that cannot be written, with a run that its program left in the log."""
    code = (
        "import os, sys\nfrom pprobe_core.store import Store\nfrom tests.results_by_hand import result_by_hand\n"
        "Store(sys.argv[1]).save_run(result_by_hand())\nos._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(db)], cwd=ROOT, check=True)
    place = tmp_path / "medium"
    place.mkdir()
    may_mount = sys.platform == "linux" and shutil.which("mount") and os.geteuid() == 0
    bind = ["mount", "--bind", str(db.parent), str(place)]
    if not may_mount or subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("a read-only medium can be made by root only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield place / db.name
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_file_that_cannot_be_written_can_be_read(locked: Path) -> None:
    assert locked.with_name(f"{locked.name}.wal").exists()
    with pytest.raises(NotWritable):
        Store(locked)
    with Store(locked, reading=True) as store, Store(locked, reading=True) as again:
        (run_id,) = store.runs()["run_id"]
        assert len(again.pairs(run_id)) == len(result_by_hand().pairs)
        with pytest.raises(NotWritable):
            store.delete_run(run_id)
        with pytest.raises(NotWritable, match="open for reading only"):
            Store(locked)
        assert store.runs()["run_id"].tolist() == [run_id]


def test_a_reader_of_a_file_that_can_be_written_shares_it_with_a_writer(db: Path) -> None:
    with Store(db, reading=True) as reader, Store(db) as writer:
        writer.save_run(result_by_hand())
        assert len(reader.runs()) == 1


@pytest.mark.parametrize("version", range(len(migrations()) + 1))
def test_an_older_file_that_cannot_be_written_says_that_it_must_be_once(
    db: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    old_file(db, version)
    connect = duckdb.connect

    def refuse(name: str, *, read_only: bool = False, **options: Any) -> duckdb.DuckDBPyConnection:
        if not read_only:
            raise duckdb.IOException(f'IO Error: Cannot open file "{name}": Read-only file system')
        return connect(name, read_only=True, **options)

    monkeypatch.setattr(duckdb, "connect", refuse)
    before = db.read_bytes()
    if version == len(migrations()):
        with Store(db, reading=True) as store:
            assert store.runs()["run_id"].tolist() == ["0123456789ab"]
    else:
        with pytest.raises(NotWritable, match=rf"older layout \({version}, .*where it can be written"):
            Store(db, reading=True)
    with pytest.raises(NotWritable, match="cannot be written"):  # no state of the reader is left behind
        Store(db)
    assert db.read_bytes() == before


# -- bad files --


def damaged_files(folder: Path) -> Iterator[tuple[str, Path]]:
    empty = folder / "empty.duckdb"
    empty.write_bytes(b"")
    yield "not a results file", empty
    text = folder / "text.duckdb"
    text.write_text("model,circuit\n" * 1000, encoding="utf-8")
    yield "not a results file", text
    whole = folder / "whole.duckdb"
    store = Store(whole)
    store.save_run(result_by_hand(n_layers=10, d_mlp=4000))
    store.close()
    header = folder / "header.duckdb"
    header.write_bytes(b"\0" * 8192 + whole.read_bytes()[8192:])
    yield "not a results file", header
    truncated = folder / "truncated.duckdb"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    yield "damaged", truncated
    block = folder / "block.duckdb"
    content = bytearray(whole.read_bytes())
    for place in range(3 * 4096 + 500, len(content), 20_000):
        content[place : place + 64] = b"\xff" * 64
    block.write_bytes(bytes(content))
    yield "damaged", block


def read_everything(path: Path) -> None:
    store = Store(path)
    run_id = result_by_hand(n_layers=10, d_mlp=4000).run_id
    try:
        store.runs()
        store.pairs(run_id)
        store.neurons(run_id)
    finally:
        store.close()


def test_damaged_files_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    seen = 0
    for expected, path in damaged_files(tmp_path):
        before = path.read_bytes()
        with pytest.raises(StoreUnavailable, match=expected) as caught:
            read_everything(path)
        assert path.name in str(caught.value)
        assert "--db FILE" in str(caught.value)
        assert path.read_bytes() == before
        seen += 1
    assert seen == 5


def killed_writer(db: Path) -> None:
    """A results file whose last run is in its log only, as a kill leaves it."""
    code = (
        "import os, sys; from pprobe_core.store import Store; from tests.results_by_hand import result_by_hand\n"
        "Store(sys.argv[1]).save_run(result_by_hand(seed=1, d_mlp=500)); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(db)], cwd=ROOT, check=False).returncode == 9
    assert db.with_name(f"{db.name}.wal").exists()


def test_a_damaged_log_is_named_and_left_as_it_is(db: Path) -> None:
    killed_writer(db)
    log = db.with_name(f"{db.name}.wal")
    content = bytearray(log.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = b"\xff" * 100
    log.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"damaged .*\.wal"):
        Store(db)
    assert log.read_bytes() == content


def test_a_log_without_its_file_is_not_thrown_away(db: Path) -> None:
    killed_writer(db)
    moved = db.with_name("moved.duckdb")
    db.rename(moved)
    with pytest.raises(StoreUnavailable, match="may hold runs"):
        Store(db)
    moved.rename(db)
    with Store(db) as store:
        assert len(store.runs()) == 1


def test_a_duckdb_file_of_something_else_is_refused_and_left_alone(db: Path) -> None:
    db.parent.mkdir()
    with duckdb.connect(str(db)) as connection:
        connection.execute("create table customers (name varchar)")
    before = db.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"something else \(it holds customers\)"):
        Store(db)
    assert db.read_bytes() == before


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is a folder"):
        Store(tmp_path)


def test_a_path_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        Store(tmp_path / "file" / "sub" / "pprobe.duckdb")


@pytest.mark.skipif(sys.platform == "win32", reason="folder permissions work differently on Windows")
def test_a_read_only_folder_gets_a_plain_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    code = (
        "import os, sys\nfrom pprobe_core.store import Store\nfrom pprobe_core.errors import StoreUnavailable\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"  # root may write anywhere
        "try: Store(sys.argv[1])\nexcept StoreUnavailable as error: print(error)"
    )
    for parent in [folder, *folder.parents][:-2]:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    folder.chmod(0o555)
    try:
        for name in ("pprobe.duckdb", "sub/pprobe.duckdb"):
            said = subprocess.run(
                [sys.executable, "-c", code, str(folder / name)], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            assert "cannot be" in said
            assert "ermission" in said
            assert "--db FILE" in said
    finally:
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_space_again(db: Path) -> None:
    # A file size limit makes writes fail exactly where a full disk does, without needing a small disk.
    code = """
import resource, sys
from pprobe_core.store import Store
from pprobe_core.errors import StoreUnavailable
from tests.results_by_hand import result_by_hand
store = Store(sys.argv[1])
store.save_run(result_by_hand(seed=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
for seed in range(2, 6):
    try:
        store.save_run(result_by_hand(seed=seed, n_layers=20, d_mlp=20_000))
        print("saved")
    except StoreUnavailable as error:
        print(error)
assert store.runs()["run_id"].tolist() == [result_by_hand(seed=1).run_id]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save_run(result_by_hand(seed=7))
store.close()
"""
    done = subprocess.run([sys.executable, "-c", code, str(db)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all("is full, so this was not saved" in line for line in said)
    store = Store(db)
    assert len(store.runs()) == 2
    store.close()


def test_a_store_in_memory_works_and_is_its_own() -> None:
    one, two = Store(":memory:"), Store(":memory:")
    one.save_run(result_by_hand())
    assert len(one.runs()) == 1
    assert two.runs().empty
    assert not Path(":memory:").exists()
    one.close()
    two.close()


# -- jobs --


REQUEST = ProbeRequest(model="mini", circuit="safety_refusal", limit=3)


def test_the_same_request_is_the_same_job(store: Store) -> None:
    first = store.add_job(REQUEST)
    assert first.state == "queued"
    assert store.add_job(dataclasses.replace(REQUEST)).job_id == first.job_id == job_id_of(REQUEST)
    assert store.add_job(dataclasses.replace(REQUEST, limit=4)).job_id != first.job_id
    assert len(store.jobs()) == 2
    assert store.jobs()[0].request == dataclasses.replace(REQUEST, limit=4)


def test_asking_again_restarts_an_ended_job_and_leaves_a_running_one_alone(store: Store) -> None:
    job_id = store.add_job(REQUEST).job_id
    store.set_job_state(job_id, "running")
    assert store.add_job(REQUEST).state == "running"
    store.set_job_state(job_id, "failed", error="It broke.")
    again = store.add_job(REQUEST)
    assert (again.state, again.error) == ("queued", None)


def test_blocks_come_back_byte_for_byte_up_to_the_first_gap(store: Store) -> None:
    job_id = store.add_job(REQUEST).job_id
    payloads = [bytes(range(256)) * 5, b"", b"three"]
    for number, payload in enumerate(payloads):
        store.add_block(job_id, "capture", number, payload)
    store.add_block(job_id, "capture", 1, b"a second time")
    store.add_block(job_id, "capture", 7, b"beyond a gap")
    assert store.blocks(job_id, "capture") == payloads
    assert store.blocks(job_id, "generation") == []


def test_blocks_of_other_weights_or_prompts_are_dropped(store: Store) -> None:
    job_id = store.add_job(REQUEST).job_id
    store.start_job(job_id, "key of the old weights")
    store.add_block(job_id, "capture", 0, b"old")
    store.start_job(job_id, "key of the old weights")
    assert store.blocks(job_id, "capture") == [b"old"]
    store.start_job(job_id, "key of the new weights")
    assert store.blocks(job_id, "capture") == []


def test_saving_the_run_of_a_job_ends_the_job_and_drops_its_blocks(store: Store) -> None:
    job_id = store.add_job(REQUEST).job_id
    store.add_block(job_id, "capture", 0, b"x")
    result = result_by_hand()
    store.save_run(result, job_id)
    job = store.job(job_id)
    assert job is not None
    assert (job.state, job.run_id) == ("done", result.run_id)
    assert store.blocks(job_id, "capture") == []


def test_running_jobs_of_a_process_that_is_gone_are_interrupted(store: Store) -> None:
    running = store.add_job(REQUEST).job_id
    queued = store.add_job(dataclasses.replace(REQUEST, limit=4)).job_id
    store.set_job_state(running, "running")
    store.mark_interrupted()
    states = {job.job_id: job.state for job in store.unfinished_jobs()}
    assert states == {running: "interrupted", queued: "queued"}


def test_only_old_jobs_without_a_run_are_cleaned_away(store: Store) -> None:
    for limit, state in ((1, "cancelled"), (2, "failed"), (3, "queued"), (4, "interrupted")):
        job_id = store.add_job(dataclasses.replace(REQUEST, limit=limit)).job_id
        store.set_job_state(job_id, state)  # type: ignore[arg-type]
        store.add_block(job_id, "capture", 0, b"x")
    store.clean_jobs(days=14)
    assert len(store.jobs()) == 4
    store.clean_jobs(days=-1)
    assert sorted(job.state for job in store.jobs()) == ["interrupted", "queued"]
    assert store._rows("select count(*) from job_blocks") == [(2,)]


def test_a_copy_of_the_file_opens_elsewhere(store: Store, tmp_path: Path) -> None:
    run_id = store.save_run(result_by_hand())
    store.close()
    copy = tmp_path / "copy.duckdb"
    shutil.copy(store.path, copy)
    other = Store(copy)
    assert other.run(run_id).run_id == run_id
    other.close()


def test_plain_values_are_json_and_undefined_is_null() -> None:
    values = {
        "nan": float("nan"),
        "infinity": np.float32("inf"),
        "numpy": [np.int64(3), np.bool_(True), np.array([1.5, np.nan])],
        "missing": (pd.NA, pd.NaT, None),
        "time": pd.Timestamp("2026-01-02T03:04:05", tz="UTC"),
        "request": ProbeRequest(model="m", circuit="c"),
        3: {"b", "a"},
    }
    shown = json.loads(json.dumps(plain(values), allow_nan=False))
    assert shown["nan"] is shown["infinity"] is None
    assert shown["numpy"] == [3, True, [1.5, None]]
    assert shown["missing"] == [None, None, None]
    assert shown["time"] == "2026-01-02T03:04:05+00:00"
    assert shown["request"]["circuit"] == "c"
    assert shown["3"] == ["a", "b"]
    with pytest.raises(TypeError, match="no JSON form for object"):
        plain(object())
    assert records(pd.DataFrame({"a": [1, 2], "b": ["x", None]})) == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert records(pd.DataFrame()) == []


def test_ctrl_c_during_a_query_is_a_ctrl_c_and_no_error_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB passes a Ctrl-C on as a RuntimeError of this text."""

    class Interrupted:
        def cursor(self) -> "Interrupted":
            return self

        def execute(self, *_: Any) -> None:
            raise RuntimeError("Query interrupted")

        def close(self) -> None:
            pass

    with Store(tmp_path / "x.duckdb") as store:
        monkeypatch.setattr(store, "_connection", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.runs()


def test_the_edition_is_another_one_whenever_finished_results_go_or_give_way(store: Store, db: Path) -> None:
    first, second = result_by_hand(n_pairs=7), result_by_hand(n_pairs=5)
    store.save_run(first)
    edition = store.edition
    store.save_run(second)  # a new result changes nothing that somebody may have read
    store.save_run(first)  # is there already
    with Store(db) as another:
        assert another.edition == edition == store.edition
        another.delete_run(second.run_id)
        assert store.edition == another.edition != edition
    store.close()
    db.unlink()
    with Store(db) as afresh:
        assert afresh.edition not in (edition, store.edition)


def test_a_finished_result_is_read_once_and_never_outlives_its_deletion(
    store: Store, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = result_by_hand(n_pairs=7), result_by_hand(n_pairs=5)
    store.save_run(first)
    with Store(db) as another:  # of the same file: what one has read the other need not
        assert another.run(first.run_id).summary is store.run(first.run_id).summary
        another.delete_run(first.run_id)
        assert not store.has_run(first.run_id)
        with pytest.raises(BadRequest, match="There is no run"):
            store.run(first.run_id)
        assert store.runs_like("somewhere", "x", "y", "z") == []
    store.save_run(first)
    assert store.has_run(first.run_id)  # that it was not there is not remembered
    monkeypatch.setattr(database, "KEPT", 1)  # of two runs the older one is read anew
    store.save_run(second)
    of_first = store.run(first.run_id).summary
    store.run(second.run_id)
    assert store.run(first.run_id).summary is not of_first
    assert store.run(first.run_id).summary == of_first
    store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.run(first.run_id)
