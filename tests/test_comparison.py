"""Comparisons on the real small models: what is made, what is left alone, what a failing model does to the others."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pprobe_core import compare_frames, compare_report
from pprobe_core.cli import main
from pprobe_core.comparison import CompareRequest, checked_comparison, labels, units
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.interventions import plans
from pprobe_core.jobs import Jobs
from pprobe_core.models.pool import ModelPool
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store, job_id_of
from tests.tiny_models import REFUSED, random_model, tiny_config, tiny_tokenizer, write_tiny_model

MODELS = ("mini-qwen3", "mini-qwen3-base")
REQUEST = checked_comparison(CompareRequest(MODELS, ("safety_refusal",), limit=5))
TWO = checked_comparison(CompareRequest(MODELS, ("safety_refusal", "language"), sweeps=(), limit=4))


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pool: ModelPool) -> Path:
    """A results file with one whole comparison, sweeps included; few strengths and doses, which are enough here."""
    path = tmp_path_factory.mktemp("compared") / "runs.duckdb"
    jobs = Jobs(Store(path), pool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "RELATIVE_STRENGTHS", (1.0,))
        patch.setattr(plans, "DOSES", (1, 50))
        patch.setattr(plans, "threshold_doses", lambda _: ())
        status = jobs.wait(jobs.submit(REQUEST), 300)
    jobs.close()
    assert (status.state, status.error) == ("done", None)
    return path


@pytest.fixture
def store(finished: Path) -> Iterator[Store]:
    with Store(finished) as opened:
        yield opened


@pytest.fixture
def jobs(tmp_path: Path, pool: ModelPool) -> Iterator[Jobs]:
    opened = Jobs(Store(tmp_path / "own.duckdb"), pool)
    yield opened
    opened.close()


# -- what is asked for --


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ("mini-qwen3",)}, "1 different model was named; a comparison takes 2 to 6"),
        ({"models": ("mini-qwen3", "mini-qwen3")}, "1 different model was named"),
        ({"circuits": ()}, "No circuit was named"),
        ({"circuits": ("no_such",)}, "no circuit called 'no_such'"),
        ({"sweeps": ("heads",)}, "no sweep 'heads'"),
        ({"prompts": "huge"}, "no prompt set 'huge'"),
        ({"limit": 0}, "At most 0 pairs"),
        ({"coupling": "odd"}, "no coupling 'odd'"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(change: dict[str, object], said: str) -> None:
    values = {"models": MODELS, "circuits": ("language",)} | change
    with pytest.raises(BadRequest, match=said):
        checked_comparison(CompareRequest(**values))  # type: ignore[arg-type]


def test_an_unknown_model_is_refused_before_anything_runs() -> None:
    with pytest.raises(ModelUnavailable, match="no model or folder"):
        checked_comparison(CompareRequest(("mini-qwen3", "no such"), ("language",)))


def test_parts_come_model_by_model_and_a_sweep_after_its_probe() -> None:
    request = checked_comparison(CompareRequest(MODELS, ("language", "code")))
    parts = units(request)
    order = [part.model for part in parts]
    assert order == sorted(order, key=MODELS.index)
    assert [part.kind for part in parts[:6]] == ["probe", "dose", "window"] * 2
    assert len(parts) == 2 * 2 * 3


def test_the_model_before_alignment_is_probed_beside_its_twin_and_not_twice(tmp_path: Path) -> None:
    other = str(write_tiny_model(tmp_path / "other"))
    request = checked_comparison(CompareRequest(("mini-qwen3", other), ("language",), sweeps=()))
    assert [p.model for p in units(request)] == ["mini-qwen3", "mini-qwen3-base", other]
    both = checked_comparison(CompareRequest(MODELS, ("language",), sweeps=()))
    assert [p.model for p in units(both)] == list(MODELS)
    alone = checked_comparison(CompareRequest(("mini-qwen3", other), ("language",), sweeps=(), bases=False))
    assert [p.model for p in units(alone)] == ["mini-qwen3", other]


def test_labels_are_short_and_never_the_same() -> None:
    names = labels(["Qwen/Qwen3-0.6B", "/a/tiny", "/b/tiny", "mini-qwen3"])
    assert names["Qwen/Qwen3-0.6B"] == "Qwen3-0.6B"
    assert names["mini-qwen3"] == "mini-qwen3"
    assert len(set(names.values())) == 4


def test_a_stored_comparison_is_read_back_as_it_was(tmp_path: Path) -> None:
    with Store(tmp_path / "a.duckdb") as store:
        job = store.add_job(REQUEST)
        assert job.job_id == job_id_of(REQUEST)
        assert job.request == REQUEST


# -- what the worker makes of it --


def test_every_part_is_a_run_or_sweep_of_its_own_and_is_made_once(finished: Path, pool: ModelPool) -> None:
    jobs = Jobs(Store(finished), pool)
    found = compare_frames.compared(jobs.store, REQUEST)
    assert {part.state for part in found.parts} == {"done"}
    runs, sweeps = set(jobs.store.runs()["run_id"]), set(jobs.store.sweeps()["sweep_id"])
    assert (len(runs), len(sweeps)) == (2, 4)
    status = jobs.wait(jobs.submit(REQUEST), 60)
    alone = jobs.wait(jobs.submit(ProbeRequest("mini-qwen3", "safety_refusal", limit=5)), 60)
    after = set(jobs.store.runs()["run_id"]), set(jobs.store.sweeps()["sweep_id"])
    jobs.close()
    assert status.state == "done"
    assert alone.run_id == found.runs["mini-qwen3", "safety_refusal"].run_id
    assert after == (runs, sweeps)


def test_a_cancelled_comparison_keeps_what_it_made_and_goes_on(jobs: Jobs) -> None:
    job_id = jobs.submit(TWO)
    while jobs.store.runs().empty:
        jobs.wait(job_id, 0.05)
    jobs.cancel(job_id)
    assert jobs.wait(job_id, 60).state == "cancelled"
    made = set(jobs.store.runs()["run_id"])
    assert 0 < len(made) < 4
    assert jobs.wait(jobs.submit(TWO), 120).state == "done"
    assert made < set(jobs.store.runs()["run_id"])
    assert {p.state for p in compare_frames.compared(jobs.store, TWO).parts} == {"done"}


def test_a_comparison_cancelled_as_it_gives_way_is_cancelled(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The press comes after the worker has looked for it the last time and before the comparison lets go."""

    def waits() -> bool:
        jobs.cancel(job_id)
        return True

    with jobs._changed:  # the worker cannot begin before it is in place
        monkeypatch.setattr(jobs, "_others_wait", waits)
        job_id = jobs.submit(TWO)
    assert jobs.wait(job_id, 60).state == "cancelled"
    assert not jobs.busy
    monkeypatch.undo()
    assert jobs.wait(jobs.submit(TWO), 120).state == "done"


def test_a_comparison_that_was_interrupted_goes_on_at_the_next_start(tmp_path: Path, pool: ModelPool) -> None:
    path = tmp_path / "a.duckdb"
    first = Jobs(Store(path), pool)
    job_id = first.submit(TWO)
    while first.store.runs().empty:
        first.wait(job_id, 0.05)
    first.close()
    again = Jobs(Store(path), pool)
    assert again.wait(job_id, 120).state == "done"
    assert len(again.store.runs()) == 4
    again.close()


def test_progress_names_the_part_in_hand(jobs: Jobs) -> None:
    job_id = jobs.submit(TWO)
    seen = set()
    while not (status := jobs.wait(job_id, 0.02)).ended:
        if status.unit_at is not None:
            seen.add((status.unit_at.model, status.unit_at.circuit))
            assert 0 <= status.n_units_done < status.n_units == 4
    assert status.state == "done"
    assert seen <= {(m, c) for m in MODELS for c in TWO.circuits}
    assert seen


def test_a_short_job_does_not_wait_for_a_whole_comparison(jobs: Jobs) -> None:
    comparison = jobs.submit(TWO)
    while jobs.status(comparison).state == "queued":
        jobs.wait(comparison, 0.02)
    short = jobs.submit(ProbeRequest("mini-qwen3", "code", limit=4))
    assert jobs.wait(short, 120).state == "done"
    assert jobs.status(comparison).state in ("queued", "running")
    assert jobs.wait(comparison, 120).state == "done"


def test_a_model_that_cannot_be_run_is_named_and_the_others_go_on(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "DOSES", (1, 50))
    monkeypatch.setattr(plans, "threshold_doses", lambda _: ())
    folder = tmp_path / "experts"
    random_model(tiny_config("mixtral")).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    request = checked_comparison(
        CompareRequest((str(folder), "mini-qwen3"), ("language", "code"), ("dose",), bases=False, limit=4)
    )
    status = jobs.wait(jobs.submit(request), 200)
    assert status.state == "done"
    assert REFUSED["mixtral"][2] in (status.error or "")
    found = compare_frames.compared(jobs.store, request)
    states = {(p.unit.model, p.unit.kind): p.state for p in found.parts}
    assert states[str(folder), "probe"] == "failed"
    assert states[str(folder), "dose"] == "blocked"
    assert states["mini-qwen3", "dose"] == "done"
    ratios = compare_frames.ratios(found).set_index(["label", "circuit"])
    for circuit in request.circuits:
        row = ratios.loc[("experts", circuit)]
        assert pd.isna(row["mean"])
        assert row["note"].startswith("cannot be run: ")
        assert REFUSED["mixtral"][2] in row["note"]
        assert ratios.loc[("mini-qwen3", circuit), "mean"] > 0


def test_a_comparison_of_nothing_but_broken_models_fails_with_the_reason(jobs: Jobs, tmp_path: Path) -> None:
    folders = []
    for name in ("one", "two"):
        random_model(tiny_config("mixtral")).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    status = jobs.wait(jobs.submit(CompareRequest(tuple(folders), ("language",), sweeps=())), 60)
    assert status.state == "failed"
    assert "mixture of experts" in (status.error or "")
    assert status.exit_code == ModelUnavailable.exit_code


# -- the frames --


def test_ratios_are_those_of_the_runs(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    frame = compare_frames.ratios(found).set_index("label")
    for model in MODELS:
        ratio = found.runs[model, "safety_refusal"].summary["ffn_skip"]
        row = frame.loc[model]
        assert (row["mean"], row["low"], row["high"], row["n"]) == (ratio["mean"], *ratio["interval"], 10)
        assert row["note"] == ""


def test_dose_curves_are_in_units_of_each_models_own_baseline(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    doses = compare_frames.doses(found, store, lambda i: compare_frames.outcome_table(store, i))
    assert set(doses["label"]) == set(MODELS)
    for model in MODELS:
        sweep = found.sweeps["dose", model, "safety_refusal"]
        before = {row["split"]: row["logit_diff_mean"] for row in sweep.summary["baseline"]}
        mine = doses[(doses["label"] == model) & (doses["arm"] == "ranked")]
        for point in store.points(sweep.sweep_id):
            if point.arm != "ranked":
                continue
            row = mine[(mine["n_neurons"] == point.n_neurons) & (mine["split"] == point.split)].iloc[0]
            assert row["relative"] == pytest.approx(point.delta_mean / before[point.split])
            if point.n_prompts > 1:  # one prompt has no interval
                assert row["low"] <= row["relative"] <= row["high"]
            assert 0 <= row["changed"] <= 1
    none = doses[doses["n_neurons"] == 0]
    assert (none["relative"].abs() < 1e-5).all()


def test_windows_and_profiles_lie_on_relative_depth(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    windows = compare_frames.windows(found, store, lambda i: compare_frames.outcome_table(store, i))
    profile = compare_frames.profiles(found, store, "ffn")
    for frame in (windows, profile):
        assert set(frame["label"]) == set(MODELS)
        assert frame["depth"].min() == 0
        assert frame["depth"].max() == 1
    assert windows["switched"].dropna().between(0, 1).all()
    assert set(windows["regime"].dropna()) <= {"destructive", "causal", "committed", "mixed"}


def test_topology_counts_each_neuron_once(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    whole, layers = compare_frames.topology(found, store), compare_frames.top_layers(found, store)
    assert (whole["n_neurons"] == 8 * 384).all()
    assert ((whole["share_top10"] < whole["share_top50"]) & (whole["share_top50"] < 1)).all()
    assert whole["ffn_share"].between(0, 1).all()
    for _, own in layers.groupby("label"):
        assert own["share_top50"].sum() == pytest.approx(1)
        assert own["mass"].sum() == pytest.approx(1)


def test_twins_meet_on_the_same_prompts(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    twins = compare_frames.twins(found, store)
    pairs = store.pairs(found.runs["mini-qwen3", "safety_refusal"].run_id).set_index("pair_id")
    assert len(twins) == len(pairs)
    for row in twins.to_dict("records"):
        assert row["f_aligned"] == pairs.loc[row["pair_id"], "logit_diff_original"]
        assert (row["side_base"], row["side_aligned"]) == ("control", "target")
        assert row["f_base"] < 0 < row["f_aligned"]


def test_the_fit_takes_the_excess_over_random_neurons(store: Store) -> None:
    found = compare_frames.compared(store, REQUEST)
    points = compare_frames.fit_points(found).set_index("label")
    for model in MODELS:
        sweep = found.sweeps["dose", model, "safety_refusal"]
        row = points.loc[model]
        before = {r["split"]: r["logit_diff_mean"] for r in sweep.summary["baseline"]}[row["split"]]
        point = next(
            c
            for c in sweep.summary["controls"]["comparisons"]
            if c["split"] == row["split"] and c["n_neurons"] == row["n_neurons"]
        )
        assert row["split"] == "heldout"
        assert row["n_neurons"] == 50
        assert row["effect"] == pytest.approx(point["excess"] / before)
    assert points.loc["mini-qwen3", "effect"] < -0.5 < points.loc["mini-qwen3-base", "effect"]


# -- the command line --


def test_the_command_line_writes_the_same_as_json(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compare.json"
    command = ["compare", "--models", ",".join(MODELS), "--circuits", "safety_refusal", "--limit", "5"]
    assert main([*command, "--db", str(finished), "--json", str(out)]) == 0
    document = json.loads(out.read_text("utf-8"))
    assert {part["state"] for part in document["parts"]} == {"done"}
    assert [row["label"] for row in document["ratios"]] == list(MODELS)
    assert document["opposition"][0]["reading"] in ("created", "unclear")  # five pairs are few
    assert document["fit"] is None  # two runs are too few for a line
    assert document["pairs_of_models"][0]["sentence"].startswith("FFN/Skip of safety refusal is ")
    capsys.readouterr()
    assert main([*command, "--db", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "6 of 6 parts are there" in text
    assert document["pairs_of_models"][0]["sentence"] in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--models", "mini-qwen3"], 2),
        (["--models", "mini-qwen3,nothing here"], 3),
        (["--models", "mini-qwen3,mini-qwen3-base", "--circuits", "x"], 2),
        (["--models", "mini-qwen3,mini-qwen3-base", "--sweeps", "heads"], 2),
    ],
)
def test_bad_requests_end_with_their_exit_code(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "--db", str(tmp_path / "a.duckdb")]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_report_of_an_unfinished_comparison_says_what_is_missing(tmp_path: Path) -> None:
    with Store(tmp_path / "a.duckdb") as store:
        found = compare_frames.compared(store, REQUEST)
        assert found.n_missing == len(found.parts)
        text = compare_report.compare_text(store, found)
        json.dumps(compare_report.compare_json(store, found))
    assert "0 of 6 parts are there" in text
    assert "not run yet" in text
