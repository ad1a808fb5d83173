"""Recorded results: what is in the set, that it still matches, how it comes into a results file and gives way."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from pprobe_core import recording, settings
from pprobe_core.cli import main
from pprobe_core.comparison import CompareRequest, checked_comparison
from pprobe_core.errors import BadRequest, PprobeError, StoreUnavailable
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.jobs import Jobs, JobStatus
from pprobe_core.probing.types import ProbeRequest, ProbeResult
from pprobe_core.recording import RecordedSet, load_recorded, recorded_set
from pprobe_core.store import Request, Store
from pprobe_core.store.recorded import BY_RUN
from tests.results_by_hand import result_by_hand

SAFETY = ProbeRequest(model="mini-qwen3", circuit="safety_refusal")


@pytest.fixture(scope="module")
def shipped() -> RecordedSet:
    there = recorded_set()
    assert there is not None
    return there


@pytest.fixture(scope="module")
def small(shipped: RecordedSet, tmp_path_factory: pytest.TempPathFactory) -> RecordedSet:
    """Three runs of the shipped set with their smaller sweeps, as a set of its own."""
    folder = Path(shutil.copytree(shipped.folder, tmp_path_factory.mktemp("small") / "recorded"))
    chosen = {("mini-qwen3", "safety_refusal"), ("mini-qwen3", "math"), ("mini-llama", "math")}
    runs = [r for r in shipped.runs if (r["request"]["model"], r["request"]["circuit"]) in chosen]
    ids = [r["run_id"] for r in runs]
    sweeps = [s for s in shipped.sweeps if s["run_id"] in ids and s["request"]["kind"] in ("layers", "dose")]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8")) | {"runs": runs, "sweeps": sweeps}
    kept = {"run_id": ids, "sweep_id": [s["sweep_id"] for s in sweeps]}
    for table, described in manifest["files"].items():
        key = "run_id" if table in BY_RUN else "sweep_id"
        file = folder / described["file"]
        parquet.write_table(parquet.read_table(file, filters=[(key, "in", kept[key])]), file)
        described["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"set_id": "small-set"}), "utf-8")
    there = recorded_set(folder)
    assert there is not None
    assert len(there.runs) == 3
    return there


@pytest.fixture
def small_store(small: RecordedSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A results file with the small set, which stands for the one that comes with the program."""
    monkeypatch.setattr(settings, "RECORDED", small.folder)
    with Store(tmp_path / "small.duckdb") as store:
        load_recorded(store)
        yield store


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "new.duckdb") as store:
        yield store


def follow(jobs: Jobs) -> recording.Follow:
    def wait(request: Request) -> JobStatus:
        status = jobs.wait(jobs.submit(request), timeout=300)
        assert status.state == "done", status.error
        return status

    return wait


# ------------------------------------------------------------------------------------------------ what is recorded


def test_todays_models_circuits_prompts_and_settings_give_every_recorded_id(shipped: RecordedSet) -> None:
    found = recording.check_identities(shipped)
    assert len(found) == len(shipped.runs) + len(shipped.sweeps) > 20
    assert found.loc[~found["agrees"], "what"].tolist() == []


def test_all_that_the_plan_names_is_recorded_under_the_ids_that_pages_ask_for(recorded_store: Store) -> None:
    assert recording.missing(recorded_store) == []


def test_a_probe_and_a_sweep_computed_again_agree_number_by_number(shipped: RecordedSet) -> None:
    run = next(r for r in shipped.runs if ProbeRequest.from_json(r["request"]) == SAFETY)
    sweep = next(s for s in shipped.sweeps if s["run_id"] == run["run_id"] and s["request"]["kind"] == "layers")
    jobs = Jobs(Store(":memory:"))
    try:
        found = list(recording.recompute(shipped, jobs, follow(jobs), [run["run_id"], sweep["sweep_id"]]))
    finally:
        jobs.close()
    assert len(found) == 2
    for agreement in found:
        assert agreement.agrees, agreement.rows[~agreement.rows["agrees"]].to_string()
    assert {"F on the original", "change of F"} <= {what for a in found for what in a.rows["what"]}


def test_where_a_run_has_another_id_here_its_sweep_is_asked_of_that_run(
    shipped: RecordedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pprobe_core.probing.probe.ENGINE_VERSION", "another")  # as another kind of device does
    run = next(r for r in shipped.runs if ProbeRequest.from_json(r["request"]) == SAFETY)
    sweep = next(s for s in shipped.sweeps if s["run_id"] == run["run_id"] and s["request"]["kind"] == "layers")
    jobs = Jobs(Store(":memory:"))
    try:
        (found,) = recording.recompute(shipped, jobs, follow(jobs), [sweep["sweep_id"]])
        assert jobs.store.runs()["run_id"].tolist() != [run["run_id"]]
    finally:
        jobs.close()
    assert found.agrees, found.rows[~found.rows["agrees"]].to_string()


def test_the_comparison_that_the_page_opens_with_is_recorded(recorded_store: Store) -> None:
    from pprobe_core import compare_frames
    from pprobe_core.circuits.library import load_circuits

    request = checked_comparison(
        CompareRequest(
            models=("mini-qwen3", "mini-llama", "mini-gemma3"), circuits=tuple(load_circuits(settings.CIRCUITS))
        )
    )
    found = compare_frames.compared(recorded_store, request)
    states = pd.Series([(p.unit.kind, p.state) for p in found.parts]).value_counts()
    assert states["probe", "done"] == 48
    assert states["dose", "done"] == 24
    assert states["window", "done"] == 24


def test_nothing_recorded_names_a_folder_of_the_computer_it_was_made_on(recorded_store: Store) -> None:
    for run_id in recorded_store.runs()["run_id"]:
        assert "model_path" not in recorded_store.run(run_id).summary
    text = json.dumps([dict(recorded_store.run(i).summary) for i in recorded_store.runs()["run_id"][:3]])
    assert str(settings.ROOT) not in text


def test_the_files_are_small_and_no_database(shipped: RecordedSet) -> None:
    files = {path.name for path in shipped.folder.iterdir()}
    assert files == {f["file"] for f in shipped.files.values()} | {"manifest.json", "plan.yaml"}
    assert shipped.n_bytes < 12e6


# ------------------------------------------------------------------------------------------- bringing it in and out


def test_loading_marks_every_run_and_sweep_and_does_nothing_the_second_time(empty: Store, shipped: RecordedSet) -> None:
    assert load_recorded(empty) == (len(shipped.runs), len(shipped.sweeps))
    assert empty.runs()["recorded"].all()
    assert empty.sweeps()["recorded"].all()
    assert set(empty.runs()["run_id"]) == {r["run_id"] for r in shipped.runs}
    assert set(empty.sweeps()["sweep_id"]) == {s["sweep_id"] for s in shipped.sweeps}
    run_id = empty.run_of(SAFETY)
    assert run_id is not None
    assert empty.run(run_id).recorded
    assert len(empty.neurons(run_id)) == 3072
    assert load_recorded(empty) == (0, 0)


def test_recorded_results_can_live_in_memory(small: RecordedSet) -> None:
    with Store(":memory:") as store:
        assert load_recorded(store, folder=small.folder) == (len(small.runs), len(small.sweeps))


def test_a_run_that_was_computed_here_is_never_overwritten(small_store: Store, small: RecordedSet) -> None:
    run_id = str(small_store.run_of(SAFETY))
    computed = result_of(small_store, run_id)
    assert small_store.save_run(computed) == run_id
    assert not small_store.run(run_id).recorded
    assert load_recorded(small_store, again=True)[0] == len(small.runs) - 1
    assert not small_store.run(run_id).recorded
    assert small_store.remove_recorded() == (0, 0)
    assert small_store.runs()["run_id"].tolist() == [run_id]


def test_a_recorded_run_gives_way_to_the_computed_one_and_keeps_its_sweeps(small_store: Store) -> None:
    run_id = str(small_store.run_of(SAFETY))
    before, edition = small_store.sweeps(run_id), small_store.edition
    small_store.save_run(result_of(small_store, run_id))
    assert small_store.edition != edition
    assert small_store.sweeps(run_id)["sweep_id"].tolist() == before["sweep_id"].tolist()
    assert len(small_store.pairs(run_id)) == 60
    assert len(small_store.neurons(run_id)) == 3072


def test_what_a_user_deleted_stays_deleted_until_it_is_asked_for(
    small_store: Store, small: RecordedSet, tmp_path: Path
) -> None:
    run_id = str(small_store.run_of(SAFETY))
    sweeps = small_store.sweeps()
    sweep_id = str(sweeps.loc[sweeps["run_id"] != run_id, "sweep_id"].iloc[0])
    small_store.delete_run(run_id)
    small_store.delete_sweep(sweep_id)
    newer = another_set(small, tmp_path)
    load_recorded(small_store, folder=newer)
    assert not small_store.has_run(run_id)
    assert not small_store.has_sweep(sweep_id)
    load_recorded(small_store, again=True, folder=newer)
    assert small_store.run(run_id).recorded
    assert small_store.sweep(sweep_id).recorded


def test_a_newer_set_takes_the_place_of_the_older_one(small_store: Store, small: RecordedSet, tmp_path: Path) -> None:
    newer = another_set(small, tmp_path)
    assert load_recorded(small_store, folder=newer) == (len(small.runs), len(small.sweeps))
    assert small_store.recorded_set() == "another-set"
    assert small_store.n_recorded() == (len(small.runs), len(small.sweeps))


def test_labels_outlive_a_newer_set(small_store: Store, small: RecordedSet, tmp_path: Path) -> None:
    sweep_id, answers = next(
        (i, a) for i in small_store.sweeps()["sweep_id"] if len(a := small_store.sweep_responses(str(i)))
    )
    first = answers.iloc[0]
    small_store.add_label(sweep_id, first["key"], first["pair_id"], int(first["seed"]), "other")
    load_recorded(small_store, folder=another_set(small, tmp_path))
    assert small_store.sweep_responses(sweep_id)["label"].notna().sum() == 1


def test_taken_out_they_stay_out_at_the_next_start(small_store: Store, small: RecordedSet) -> None:
    assert small_store.remove_recorded() == (0, 0)
    assert small_store.runs().empty
    assert small_store.sweeps().empty
    assert load_recorded(small_store) == (0, 0)
    assert load_recorded(small_store, again=True) == (len(small.runs), len(small.sweeps))


def test_a_recorded_run_with_a_sweep_of_ones_own_stays_when_they_are_taken_out(small_store: Store) -> None:
    run_id = str(small_store.run_of(SAFETY))
    summary = {"stage": "causal", "n_full_passes": 1, "n_last_token_passes": 1, "seconds": 1.0}
    small_store.save_sweep("0" * 12, "0" * 64, SweepRequest(run_id, "layers", seed=5), summary)
    assert small_store.remove_recorded() == (1, 0)
    assert small_store.runs()["run_id"].tolist() == [run_id]
    assert not small_store.sweep("0" * 12).recorded


def test_runs_of_ones_own_are_left_alone_by_all_of_it(small_store: Store, small: RecordedSet) -> None:
    mine = small_store.save_run(result_by_hand())
    small_store.remove_recorded()
    load_recorded(small_store, again=True)
    assert not small_store.run(mine).recorded
    assert len(small_store.runs()) == len(small.runs) + 1


def test_the_environment_can_leave_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recording.wanted()
    monkeypatch.setenv("PPROBE_RECORDED", "0")
    assert not recording.wanted()


# ---------------------------------------------------------------------------------------------- computing them here


def test_asking_for_a_recorded_request_ends_at_once_and_here_computes_it(small_store: Store) -> None:
    """The whole way: the recorded run answers, "here" computes, the computed one takes its place and agrees."""
    request = ProbeRequest(model="mini-qwen3", circuit="math")
    run_id = str(small_store.run_of(request))
    jobs = Jobs(Store(small_store.path))
    try:
        assert follow(jobs)(request).run_id == run_id
        assert small_store.run(run_id).recorded
        status = jobs.wait(jobs.submit(request, here=True), timeout=300)
        assert (status.state, status.run_id) == ("done", run_id)
        assert not small_store.run(run_id).recorded
        found = recording.agreement_with_recording(small_store, run_id)
    finally:
        jobs.close()
    assert found is not None
    assert found.agrees, found.rows[~found.rows["agrees"]].to_string()


def test_a_cancelled_computation_leaves_the_recorded_run(small_store: Store) -> None:
    run_id = str(small_store.run_of(SAFETY))
    small_store.add_job(SAFETY, here=True)
    job = small_store.job(small_store.add_job(SAFETY, here=True).job_id)
    assert job is not None
    assert job.here
    small_store.set_job_state(job.job_id, "cancelled")
    assert small_store.add_job(SAFETY).here  # asked again, it goes on
    small_store.set_job_state(job.job_id, "done")
    assert not small_store.add_job(SAFETY).here
    assert small_store.run(run_id).recorded
    assert small_store.find(small_store.run(run_id).request_key, here=True) is None
    assert small_store.find(small_store.run(run_id).request_key) == run_id


def test_a_sweep_computed_here_takes_the_place_of_the_recorded_one_when_it_is_complete(small_store: Store) -> None:
    run_id = str(small_store.run_of(SAFETY))
    sweeps = small_store.sweeps(run_id)
    sweep_id = str(sweeps.loc[sweeps["kind"] == "layers", "sweep_id"].iloc[0])
    recorded = small_store.points(sweep_id)
    place = small_store.place_of(sweep_id)
    assert place != sweep_id
    small_store.add_points(place, recorded[:2])
    assert small_store.sweep(sweep_id).recorded
    assert len(small_store.points(sweep_id)) == len(recorded)
    shown = small_store.sweep(sweep_id)
    key = recording.sweep_key(small_store.run(run_id).request_key, shown.request)
    edition = small_store.edition
    small_store.save_sweep(sweep_id, key, shown.request, shown.summary, measured_as=place)
    assert small_store.edition != edition
    assert not small_store.sweep(sweep_id).recorded
    assert small_store.points(sweep_id) == tuple(p for p in recorded if p in recorded[:2])
    assert small_store.point_ids(place) == set()
    load_recorded(small_store, again=True)
    assert not small_store.sweep(sweep_id).recorded


def test_a_recorded_sweep_stays_when_its_computation_is_given_up(small_store: Store) -> None:
    sweep_id = str(small_store.sweeps()["sweep_id"].iloc[0])
    points = small_store.points(sweep_id)
    small_store.add_points(small_store.place_of(sweep_id), points[:1])
    assert small_store.points(sweep_id) == points
    assert small_store.has_sweep(sweep_id)
    assert not small_store.has_sweep(sweep_id, here=True)
    small_store.delete_sweep(sweep_id)
    assert small_store.point_ids(f"{sweep_id}+") == set()


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_damaged_file_is_named_and_nothing_is_changed(empty: Store, small: RecordedSet, tmp_path: Path) -> None:
    folder = shutil.copytree(small.folder, tmp_path / "damaged")
    file = folder / "pairs.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(StoreUnavailable, match=r"damaged: .*pairs\.parquet"):
        load_recorded(empty, folder=folder)
    file.unlink()
    with pytest.raises(StoreUnavailable, match=r"incomplete: .*pairs\.parquet"):
        load_recorded(empty, folder=folder)
    (folder / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(StoreUnavailable, match=r"list of recorded results .* cannot be read"):
        load_recorded(empty, folder=folder)
    assert empty.runs().empty


def test_without_a_set_nothing_happens(empty: Store, tmp_path: Path) -> None:
    assert recorded_set(tmp_path) is None
    assert load_recorded(empty, folder=tmp_path) == (0, 0)


def test_only_runs_of_shipped_models_that_were_computed_here_can_be_recorded(
    small_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="only runs of shipped models that were computed here"):
        recording.write(small_store, tmp_path / "out", [str(small_store.run_of(SAFETY))], [])
    mine = small_store.save_run(result_by_hand())
    with pytest.raises(PprobeError):
        recording.write(small_store, tmp_path / "out", [mine], [])
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("- {models: [a], circuit: x}", "utf-8")
    with pytest.raises(BadRequest, match="holds no plan"):
        recording.plan(tmp_path)


def another_set(small: RecordedSet, tmp_path: Path) -> Path:
    """The shipped files under another set's name."""
    folder = Path(shutil.copytree(small.folder, tmp_path / "newer"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"set_id": "another-set"}), "utf-8")
    return folder


def result_of(store: Store, run_id: str) -> ProbeResult:
    """A stored run as the engine hands it to the store."""
    run = store.run(run_id)
    return ProbeResult(
        request=run.request,
        request_key=run.request_key,
        run_id=run_id,
        summary=run.summary,
        pairs=store.pairs(run_id),
        first_tokens=store.first_tokens(run_id),
        layers=store.layers(run_id),
        neurons=store.neurons(run_id),
        token_preview=store.token_preview(run_id),
        environment=run.environment,
    )


# ------------------------------------------------------------------------------------------------ the command line


def test_the_commands_list_check_bring_in_and_take_out(
    small: RecordedSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "RECORDED", small.folder)
    db = str(tmp_path / "mine.duckdb")
    assert main(["recorded", "list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == len(small.runs) + len(small.sweeps)
    assert main(["recorded", "remove", "--db", db]) == 2
    assert main(["recorded", "load", "--db", db]) == 0
    assert main(["runs", "list", "--json", "--db", db]) == 0
    said = capsys.readouterr().out
    assert {row["recorded"] for row in json.loads(said[said.index("[\n") :])} == {True}
    run_id = str(small.runs[0]["run_id"])
    assert main(["runs", "show", run_id, "--db", db]) == 0
    assert "recorded, not computed on this computer" in capsys.readouterr().out
    assert main(["recorded", "remove", "--db", db]) == 0
    assert main(["runs", "list", "--json", "--db", db]) == 0
    assert capsys.readouterr().out.endswith("[]\n")


def test_the_check_says_what_changed_and_ends_with_1(
    small: RecordedSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(small.folder, tmp_path / "recorded")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["runs"] = manifest["runs"][:2]
    manifest["runs"][0]["request_key"] = "0" * 64
    manifest["sweeps"] = []
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr(settings, "RECORDED", folder)
    assert main(["recorded", "check"]) == 1  # and computes nothing again while ids differ
    said = capsys.readouterr().out
    assert "1 of 2 ids" in said
    assert manifest["runs"][0]["run_id"] in said
