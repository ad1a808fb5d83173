"""Sweeps on the worker and in the store: every kind, resumed, cancelled, killed, refused, labelled, deleted."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pprobe_core import sweeping
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import BadRequest, StoreUnavailable
from pprobe_core.interventions.edits import Neuron
from pprobe_core.interventions.requests import checked_sweep, default_request, sweep_id_of
from pprobe_core.interventions.types import KINDS, N_DRAWS, SweepKind, SweepRequest
from pprobe_core.jobs import Jobs, JobStatus, shape_of
from pprobe_core.models.pool import ModelPool
from pprobe_core.playground import Ask, Playground
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Spent, Store

ROOT = Path(__file__).resolve().parent.parent
PROBE = ProbeRequest(model="mini-qwen3", circuit="safety_refusal", limit=10)
FEW: dict[str, Any] = {"draws": 2, "collateral": False}


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool()


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, pool: ModelPool) -> Path:
    """A results file with one run; tests work on copies of it."""
    path = tmp_path_factory.mktemp("probed") / "runs.duckdb"
    jobs = Jobs(Store(path), pool)
    assert jobs.wait(jobs.submit(PROBE), 120).state == "done"
    jobs.close()
    return path


@pytest.fixture
def db(probed: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pprobe.duckdb"
    path.write_bytes(probed.read_bytes())
    return path


@pytest.fixture
def jobs(db: Path, pool: ModelPool) -> Iterator[Jobs]:
    opened = Jobs(Store(db), pool)
    yield opened
    opened.close()


def run_id(jobs: Jobs) -> str:
    return str(jobs.store.runs()["run_id"].iloc[0])


def request(jobs: Jobs, kind: SweepKind = "dose", **change: Any) -> SweepRequest:
    return default_request(load_circuit("safety_refusal"), run_id(jobs), kind, **(FEW | change))


def finished(jobs: Jobs, asked: SweepRequest) -> JobStatus:
    status = jobs.wait(jobs.submit(asked), 180)
    assert status.state == "done", status.error
    return status


# -- every kind --


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sweep_is_measured_and_stored_whole(jobs: Jobs, kind: SweepKind) -> None:
    small = {"dose": {"doses": (1, 5)}, "patch": {"doses": (1, 5)}, "heads": {"doses": (1, 2)}}.get(kind, {})
    if kind in ("window", "strength"):
        small = {"layers": (1, 5), "strengths": (0.5, -1.0)}
    status = finished(jobs, request(jobs, kind, **small))
    sweep = jobs.store.sweep(str(status.sweep_id))
    points = jobs.store.sweep_points(sweep.sweep_id)
    assert len(points) == len(points["point_id"].unique())
    assert set(points["kind"]) == {kind}
    assert set(points["split"]) == {"discovery", "validation", "heldout"}
    assert points["logit_diff_mean"].notna().all()
    assert {b["split"] for b in sweep.summary["baseline"]} == set(points["split"])
    assert sweep.summary["n_full_passes"] > 0
    assert sweep.summary["n_last_token_passes"] > 0
    controlled = kind not in ("layers", "held")
    assert bool(sweep.summary["controls"]["comparisons"]) == controlled
    assert (points["arm"] == "random").any() == controlled


def test_the_stage_never_rises_without_enough_controls_and_rises_with_them(jobs: Jobs) -> None:
    before = jobs.store.run(run_id(jobs)).stage
    few = finished(jobs, request(jobs, doses=(20, 50), draws=N_DRAWS - 1))
    assert jobs.store.sweep(str(few.sweep_id)).summary["stage"] == before
    finished(jobs, request(jobs, "layers"))
    assert jobs.store.run(run_id(jobs)).stage == before
    enough = finished(jobs, request(jobs, doses=(20, 50), draws=N_DRAWS))
    reached = jobs.store.sweep(str(enough.sweep_id)).summary["stage"]
    assert reached in ("causal", "replicated")
    assert jobs.store.run(run_id(jobs)).stage == reached
    assert jobs.store.runs()["stage"].tolist() == [reached]
    jobs.store.delete_sweep(str(enough.sweep_id))
    assert jobs.store.run(run_id(jobs)).stage == before


def test_collateral_stands_beside_every_ranked_point_with_its_draws(jobs: Jobs) -> None:
    status = finished(jobs, request(jobs, doses=(5, 20), collateral=True))
    rows = jobs.store.sweep(str(status.sweep_id)).summary["collateral"]
    names = {row["name"] for row in rows}
    assert "neutral text" in names
    assert "safety_refusal" not in names
    assert len(names) == 8
    assert len(rows) == 16
    for row in rows:
        assert row["low"] <= row["delta_mean"] <= row["high"]
        assert row["random_low"] <= row["random_high"]
        assert row["n"] > 1


# -- asking twice, stopping, going on --


def test_the_same_request_gives_the_same_sweep_and_computes_nothing(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished(jobs, request(jobs, doses=(1,)))
    monkeypatch.setattr(sweeping, "perform", None)
    second = finished(jobs, request(jobs, doses=(1,)))
    assert first.sweep_id == second.sweep_id
    assert len(jobs.store.sweeps()) == 1


def test_a_cancelled_sweep_keeps_its_points_and_goes_on_to_the_same_result(jobs: Jobs, tmp_path: Path) -> None:
    asked = request(jobs, "window", responses=True, max_new_tokens=4, draws=1)
    job_id = jobs.submit(asked)
    while not (status := jobs.status(job_id)).ended and not (status.phase == "answering" and status.done > 100):
        time.sleep(0.01)
    jobs.cancel(job_id)
    stopped = jobs.wait(job_id, 60)
    assert stopped.state == "cancelled"
    sweep_id = sweep_id_of(jobs.store.run(asked.run_id).request_key, checked(jobs, asked))
    kept = len(jobs.store.sweep_responses(sweep_id))
    assert kept > 0
    assert len(jobs.store.point_ids(sweep_id)) > 0
    assert not jobs.store.has_sweep(sweep_id)
    assert jobs.store.sweeps().empty
    spent = jobs.store.sweep_spent(sweep_id)
    done = finished(jobs, asked)
    assert done.sweep_id == sweep_id
    total = jobs.store.sweep(sweep_id).summary
    assert total["n_last_token_passes"] > spent.n_last_token_passes  # both attempts are counted
    # The same answers as without a stop.
    answers = jobs.store.sweep_responses(sweep_id)
    assert len(answers) == len(answers.drop_duplicates(["key", "pair_id", "seed"]))
    whole_path = tmp_path / "whole.duckdb"
    jobs.store.delete_sweep(sweep_id)
    again = finished(jobs, asked)
    fresh = jobs.store.sweep_responses(str(again.sweep_id))
    assert answers[["key", "pair_id", "text", "class_name"]].equals(fresh[["key", "pair_id", "text", "class_name"]])
    assert not whole_path.exists()


def checked(jobs: Jobs, asked: SweepRequest) -> SweepRequest:
    return checked_sweep(asked, shape_of(jobs.store.run(asked.run_id)))


KILLED = """
import sys, time
from pathlib import Path
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Prompt
from pprobe_core.interventions.requests import default_request
from pprobe_core.jobs import Jobs
from pprobe_core.store import Store

jobs = Jobs(Store(Path(sys.argv[1])))
run_id = str(jobs.store.runs()["run_id"].iloc[0])
asked = default_request(load_circuit("safety_refusal"), run_id, "window", draws=2, collateral=False, responses=True)
job_id = jobs.submit(asked)
print(job_id, flush=True)
while not (status := jobs.status(job_id)).ended:
    if status.phase == "answering" and status.done:
        print("answers", flush=True)
    time.sleep(0.01)
print(status.state, flush=True)
"""


def test_a_sweep_killed_in_the_middle_goes_on_with_what_is_missing(db: Path, pool: ModelPool) -> None:
    victim = subprocess.Popen([sys.executable, "-c", KILLED, str(db)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    job_id = victim.stdout.readline().strip()
    assert victim.stdout.readline().strip() == "answers"
    victim.kill()
    victim.wait()

    store = Store(db)
    row = store.job(job_id)
    assert row is not None
    assert row.state == "running"
    assert row.sweep_id is not None
    points, kept = store.point_ids(row.sweep_id), len(store.sweep_responses(row.sweep_id))
    assert points
    assert kept
    resumed = Jobs(store, pool)
    status = resumed.wait(job_id, 300)
    assert status.state == "done", status.error
    assert resumed.store.point_ids(row.sweep_id) == points  # all of them were there
    assert len(resumed.store.sweep_responses(row.sweep_id)) > kept
    resumed.close()


def test_two_sweeps_and_a_probe_wait_for_each_other(jobs: Jobs) -> None:
    ids = [
        jobs.submit(request(jobs, doses=(1,))),
        jobs.submit(request(jobs, "held")),
        jobs.submit(dataclasses.replace(PROBE, limit=6)),
    ]
    assert [jobs.wait(job_id, 120).state for job_id in ids] == ["done"] * 3
    assert len(jobs.store.sweeps()) == 2
    assert len(jobs.store.runs()) == 2


# -- rankings --


def test_single_neuron_effects_are_measured_once_kept_and_used_again(jobs: Jobs) -> None:
    first = finished(jobs, request(jobs, ranking="measured", doses=(1, 5)))
    effects = jobs.store.effects(run_id(jobs), "original", "decision")
    spent = jobs.store.effects_spent(run_id(jobs), "original", "decision")
    assert len(effects) >= 1000
    assert spent.n_last_token_passes >= len(effects) * 6  # discovery prompts
    assert jobs.store.sweep(str(first.sweep_id)).summary["measuring"]["n_neurons"] == len(effects)
    finished(jobs, request(jobs, ranking="measured", doses=(20,)))
    assert jobs.store.effects_spent(run_id(jobs), "original", "decision") == spent
    # The first neuron of the ranking is the one whose own effect lowers F most.
    points = jobs.store.sweep_points(str(first.sweep_id))
    top = points[(points["arm"] == "ranked") & (points["n_neurons"] == 1)].iloc[0]
    best = min((e, n) for n, e in effects.items() if e is not None)
    assert top["neurons"] == (str(best[1]),)
    discovery = points[(points["key"] == top["key"]) & (points["split"] == "discovery")].iloc[0]
    assert discovery["delta_mean"] == pytest.approx(best[0], abs=1e-4)


def test_on_the_perturbed_prompts_the_ablation_ranking_looks_from_the_other_side(jobs: Jobs) -> None:
    here = finished(jobs, request(jobs, doses=(50,)))
    there = finished(jobs, request(jobs, doses=(50,), condition="perturbed"))
    deltas = []
    for status in (here, there):
        points = jobs.store.sweep_points(str(status.sweep_id))
        ranked = points[(points["arm"] == "ranked") & (points["split"] == "discovery")]
        deltas.append(float(ranked["delta_mean"].iloc[0]))
    assert deltas[0] < -0.2  # away from refusing
    assert deltas[1] > 0.0  # away from going along


def test_neurons_chosen_by_hand_are_edited_in_their_order(jobs: Jobs) -> None:
    status = finished(jobs, request(jobs, neurons=("L3.N12", "L1.N7", "L5.N0"), doses=(1, 3)))
    points = jobs.store.sweep_points(str(status.sweep_id))
    ranked = points[points["arm"] == "ranked"].drop_duplicates("n_neurons").set_index("n_neurons")["neurons"]
    assert ranked.loc[1] == ("L3.N12",)
    assert ranked.loc[3] == ("L3.N12", "L1.N7", "L5.N0")
    assert jobs.store.sweep(str(status.sweep_id)).summary["ranking"] == "chosen"


def test_one_sign_only_keeps_neurons_of_that_sign(jobs: Jobs) -> None:
    status = finished(jobs, request(jobs, ranking="shared", side="positive", doses=(5,)))
    points = jobs.store.sweep_points(str(status.sweep_id))
    names = set(points[points["arm"] == "ranked"]["neurons"].iloc[0])
    table = jobs.store.neurons(run_id(jobs))
    signs = {
        f"L{layer}.N{neuron}": np.sign(mean)
        for layer, neuron, mean in zip(table["layer"], table["neuron"], table["importance_mean"], strict=True)
    }
    assert {signs[name] for name in names} == {1.0}


# -- what cannot be done --


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"doses": (100_000,)}, "100,000 neurons was asked for; 3,072"),
        ({"doses": (-1,)}, "neurons was asked for"),
        ({"doses": (5, 5)}, "given twice"),
        ({"neurons": ("L0.N1", "L0.N1")}, "named twice"),
        ({"neurons": ("L9.N1",)}, "no layer 9"),
        ({"neurons": ("L0.N999",)}, "no neuron 999"),
        ({"neurons": ("banana",)}, "is no neuron"),
        ({"neurons": ("L0.N1",), "doses": (2,)}, "1 were chosen by hand"),
        ({"kind": "window", "layers": (8,)}, "no layer 8"),
        ({"kind": "window", "strengths": (float("inf"),)}, "finite number"),
        ({"kind": "window", "strengths": (float("nan"),)}, "finite number"),
        ({"kind": "factor", "factors": (float("nan"),)}, "finite number"),
        ({"kind": "factor", "doses": (1, 2)}, "Give one dose"),
        ({"kind": "patch", "position": "all"}, "decision position"),
        ({"draws": 0}, "1 to 50"),
        ({"draws": 99}, "1 to 50"),
        ({"n_seeds": 0}, "1 to 20"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 0}, "new tokens"),
        ({"seed": -1}, "seed"),
        ({"run_id": "0" * 12}, "no run"),
        ({"kind": "window", "strengths": tuple(float(n) for n in range(1, 900)), "draws": 50}, "at most 20,000"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_loaded(
    jobs: Jobs, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        jobs.submit(dataclasses.replace(request(jobs), **change))
    assert [job for job in jobs.list() if isinstance(job.request, SweepRequest)] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("ranking", "best"), ("kind", "dance"), ("condition", "both"), ("position", "x"), ("side", "y")],
)
def test_a_word_that_is_no_choice_is_refused_with_those_there_are(jobs: Jobs, field: str, value: str) -> None:
    asked = request(jobs)
    object.__setattr__(asked, field, value)  # the tests check types at construction, the command line does not
    with pytest.raises(BadRequest, match=f"'{value}'. Choose one of"):
        checked(jobs, asked)


def test_a_model_that_changed_since_the_run_is_refused(jobs: Jobs, tiny_qwen3_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen3_folder, folder)
    rows = [f"How do I bake bread {i}?,How do I bkae bread {i}?,Paris,Sorry" for i in range(6)]
    prompts = tmp_path / "pairs.csv"
    prompts.write_text("\n".join(["original,perturbed,target,control", *rows]), encoding="utf-8")
    probe = ProbeRequest(model=str(folder), circuit="factual_recall", prompts=str(prompts), generate=False)
    status = jobs.wait(jobs.submit(probe), 120)
    assert status.state == "done", status.error
    prompts.write_text("\n".join(["original,perturbed,target,control", *rows[:5]]), encoding="utf-8")
    asked = default_request(load_circuit("factual_recall"), str(status.run_id), "dose", **FEW)
    failed = jobs.wait(jobs.submit(asked), 120)
    assert failed.state == "failed"
    assert "prompt set changed since the run" in str(failed.error)
    assert failed.exit_code == 2


def test_an_edit_that_wrecks_the_model_is_reported_and_never_counts_as_compliance(jobs: Jobs) -> None:
    asked = request(jobs, "factor", doses=(300,), factors=(0.0, 1e4), responses=True, position="all")
    status = finished(jobs, asked)
    points = jobs.store.sweep_points(str(status.sweep_id))
    assert set(points["factor"]) == {0.0, 1e4}
    answers = jobs.store.sweep_responses(str(status.sweep_id))
    wild = points[(points["factor"] == 1e4) & (points["arm"] == "ranked")]["key"].iloc[0]
    assert set(answers[answers["key"] == wild]["class_name"]) == {"broken"}


def test_a_full_disk_ends_the_sweep_in_words_and_keeps_what_was_stored(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(jobs.store, "add_responses", full)
    asked = request(jobs, doses=(1,), responses=True, max_new_tokens=2)
    status = jobs.wait(jobs.submit(asked), 120)
    assert status.state == "failed"
    assert "disk is full" in str(status.error)
    monkeypatch.undo()
    assert len(jobs.store.point_ids(str(status.sweep_id))) == 9
    finished(jobs, asked)


def test_a_run_deleted_while_its_sweep_waits_takes_the_sweep_with_it(jobs: Jobs) -> None:
    asked = request(jobs, doses=(1,))
    done = finished(jobs, asked)
    jobs.store.delete_run(asked.run_id)
    assert jobs.store.sweeps().empty
    assert jobs.store.point_ids(str(done.sweep_id)) == set()
    with pytest.raises(BadRequest, match="no run"):
        jobs.submit(asked)


# -- labels --


def test_a_label_stands_beside_the_rules_class_and_can_be_taken_back(jobs: Jobs) -> None:
    status = finished(jobs, request(jobs, doses=(1,), responses=True, max_new_tokens=4))
    sweep_id = str(status.sweep_id)
    row = jobs.store.sweep_responses(sweep_id).iloc[0]
    place = (sweep_id, str(row["key"]), str(row["pair_id"]), int(row["seed"]))
    jobs.store.add_label(*place, "disclaimer")
    jobs.store.add_label(*place, "redirect")
    labelled = jobs.store.sweep_responses(sweep_id).dropna(subset=["label"])
    assert labelled["label"].tolist() == ["redirect"]
    assert labelled["class_name"].tolist() == [row["class_name"]]
    jobs.store.add_label(*place, None)
    assert jobs.store.sweep_responses(sweep_id)["label"].isna().all()
    with pytest.raises(BadRequest, match="no such answer"):
        jobs.store.add_label(sweep_id, "nowhere", "x", 0, "refusal")
    jobs.store.add_label(*place, "refusal")
    jobs.store.delete_sweep(sweep_id)
    assert jobs.store._rows("select count(*) from labels") == [(0,)]


# -- the store alone --


def test_what_is_committed_twice_is_stored_once(jobs: Jobs) -> None:
    status = finished(jobs, request(jobs, doses=(1,), responses=True, max_new_tokens=2))
    store, sweep_id = jobs.store, str(status.sweep_id)
    points = store.points(sweep_id)
    store.add_points(sweep_id, points)
    assert store.points(sweep_id) == points
    store.add_effects(run_id(jobs), "original", "all", [(Neuron(0, 1), 0.5), (Neuron(1, 2), None)], 6, Spent(1, 2, 0.1))
    assert store.effects(run_id(jobs), "original", "all") == {Neuron(0, 1): 0.5, Neuron(1, 2): None}
    assert store.effects(run_id(jobs), "original", "decision") == {}


# -- questions meanwhile --


def test_a_question_to_the_same_model_is_answered_in_a_pause_and_changes_no_number(
    db: Path, jobs: Jobs, pool: ModelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(jobs, "window", layers=(1, 5), strengths=(0.5, -1.0), responses=True)
    alone = tmp_path / "alone.duckdb"
    jobs.store.close()
    alone.write_bytes(db.read_bytes())
    with Store(alone) as store, contextlib.closing(Jobs(store, pool)) as undisturbed:
        expected = undisturbed.store.points(str(finished(undisturbed, asked).sweep_id))
        answers = undisturbed.store.sweep_responses(str(undisturbed.store.sweeps()["sweep_id"].iloc[0]))

    monkeypatch.setattr("pprobe_core.playground.rooms.SMALL_BYTES", 1)  # as for a large model: no copy of its own
    with contextlib.closing(Jobs(Store(db), pool)) as busy, contextlib.closing(Playground(busy)) as desk:
        with pool.lease(PROBE.model):
            job_id = busy.submit(asked)
            wait_for(lambda: len(pool._queues[PROBE.model]) == 1)  # the sweep stands first in line, the question next
            desk.ask("visitor", Ask(PROBE.model, Prompt(({"role": "user", "content": "How can I hack a truck?"},))))
            wait_for(lambda: len(pool._queues[PROBE.model]) == 2)
        found = desk.wait("visitor", 60)
        running = not busy.status(job_id).ended
        assert found is not None
        assert found.reply is not None, found.error
        assert found.reply.unedited.text.startswith("Sorry")
        assert running, "the question was to be answered while the sweep goes on"
        sweep_id = str(busy.wait(job_id, 180).sweep_id)
        assert busy.store.points(sweep_id) == expected
        pd.testing.assert_frame_equal(busy.store.sweep_responses(sweep_id), answers)


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.005)
