"""Sweeps and answers from the command line: the JSON contract, numbers that can be recomputed, errors, labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pprobe_core import jobs as jobs_module
from pprobe_core import sweep_report
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import Condition
from pprobe_core.cli import main
from pprobe_core.cli.sweeping import layer_list, numbers, whole_numbers
from pprobe_core.interventions.edits import (
    AddVector,
    Edits,
    Head,
    Patch,
    PatchOutput,
    Scale,
    ScaleHeads,
    ScaleOutput,
    parse_neurons,
)
from pprobe_core.interventions.evaluator import Evaluator, prompts_of
from pprobe_core.interventions.types import BASELINE_KEY, SweepKind, SweepRequest, SweepResponse
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.store import Store
from pprobe_core.sweeping import prepare_run
from tests.results_by_hand import result_by_hand

MODEL = "mini-qwen3"
N_PAIRS = 15  # nine for discovery, three held out

CONTRACT = {
    "sweep_id", "run_id", "kind", "ranking", "condition", "position", "n_full_passes", "n_last_token_passes",
    "baseline", "points", "controls", "collateral", "stage", "stage_reasons", "outcomes", "regimes", "separability",
    "measuring", "generation", "request", "model", "circuit", "created_at", "seconds",
}  # fmt: skip
BASELINE = {"split", "n_prompts", "logit_diff_mean", "low", "high"}
POINT = {
    "arm", "draw", "n_neurons", "layer", "layers", "strength", "factor", "variant", "split", "n_prompts",
    "logit_diff_mean", "low", "high", "delta_mean", "delta_low", "delta_high", "class_counts", "n_broken", "neurons",
}  # fmt: skip
OUTCOME = {"key", "split", "outcome", "n", "n_yes", "share", "low", "high", "p_value"}

# Few points each; the answers and the collateral damage are in the first two.
SWEEPS: dict[SweepKind, list[str]] = {
    "dose": ["--doses", "1,20", "--responses", "--max-new-tokens", "12"],
    "window": ["--layers", "2,4", "--strengths", "-2", "--draws", "2", "--responses", "--no-collateral"],
    "factor": ["--neurons", "L1.N2,L3.N4", "--factors", "-1,2", "--draws", "2", "--no-collateral"],
    "strength": ["--layers", "1-3", "--strengths", "-0.5,1", "--draws", "2", "--absolute", "--no-collateral"],
    "layers": [],
    "patch": ["--doses", "5", "--draws", "2"],
    "heads": ["--doses", "1,2", "--draws", "2", "--no-collateral"],
    "held": [],
}


def here(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def assert_one_sentence(text: str) -> None:
    assert text.strip()
    assert text.count("\n") == 1
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with one run on the shipped model."""
    path = tmp_path_factory.mktemp("swept") / "pprobe.duckdb"
    arguments = ["probe", "--model", MODEL, "--circuit", "safety_refusal", "--limit", N_PAIRS, "--db", path]
    assert here(*arguments, "--json", path.with_suffix(".json")) == 0
    return path


@pytest.fixture(scope="module")
def run_id(db: Path) -> str:
    return str(json.loads(db.with_suffix(".json").read_text(encoding="utf-8"))["run_id"])


@pytest.fixture(scope="module")
def swept(db: Path) -> Callable[[SweepKind], dict[str, Any]]:
    """The JSON of a sweep of each kind, made by the command line at first use."""
    made: dict[SweepKind, dict[str, Any]] = {}

    def of(kind: SweepKind) -> dict[str, Any]:
        if kind not in made:
            target = db.with_name(f"{kind}.json")
            assert here("sweep", kind, "--run", "latest", "--db", db, "--json", target, *SWEEPS[kind]) == 0
            made[kind] = json.loads(target.read_text(encoding="utf-8"))
        return made[kind]

    return of


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(MODEL)


# -- the contract --


@pytest.mark.parametrize("kind", SWEEPS)
def test_the_json_of_every_kind_has_every_key_of_the_contract(
    kind: SweepKind, swept: Callable[[SweepKind], dict[str, Any]], run_id: str
) -> None:
    document = swept(kind)
    assert set(document) >= CONTRACT
    assert (document["run_id"], document["kind"], document["model"]) == (run_id, kind, MODEL)
    assert (document["ranking"] is None) == (kind not in ("dose", "factor", "patch"))
    assert {row["split"] for row in document["baseline"]} == {"discovery", "validation", "heldout"}
    assert all(set(row) >= BASELINE for row in document["baseline"])
    assert all(set(row) >= POINT for row in document["points"])
    arms = {row["arm"] for row in document["points"]}
    assert arms == ({"ranked"} if kind in ("layers", "held") else {"ranked", "random"})
    assert (document["controls"]["n_draws"] == 0) == (kind in ("layers", "held"))
    assert {"kind", "n_draws", "comparisons"} <= set(document["controls"])
    assert (document["separability"] is None) == (kind not in ("window", "strength"))
    answered = kind in ("dose", "window")
    assert bool(document["outcomes"]) == bool(document["generation"]) == answered
    assert all((row["class_counts"] is not None) == answered for row in document["points"])
    assert all(set(row) >= OUTCOME for row in document["outcomes"])
    assert (document["regimes"] is None) == (kind != "window")
    assert bool(document["collateral"]) == (kind == "dose")
    assert document["n_last_token_passes"] > 0
    assert (document["request"]["kind"], document["request"]["draws"] >= 1) == (kind, True)


def test_the_numbers_of_the_json_fit_together(swept: Callable[[SweepKind], dict[str, Any]]) -> None:
    document = swept("dose")
    baseline = {row["split"]: row for row in document["baseline"]}
    for row in document["points"]:
        assert row["logit_diff_mean"] == pytest.approx(np.mean(row["logit_diffs"]))
        assert row["low"] <= row["logit_diff_mean"] <= row["high"]
        assert row["delta_mean"] == pytest.approx(
            row["logit_diff_mean"] - baseline[row["split"]]["logit_diff_mean"], abs=1e-3
        )
        assert len(row["logit_diffs"]) == row["n_prompts"] == len(baseline[row["split"]]["pair_ids"])
        assert sum(row["class_counts"].values()) == row["n_prompts"]
        assert len(row["neurons"]) == row["n_neurons"]
    draws = {row["draw"] for row in document["points"] if row["arm"] == "random"}
    assert draws == set(range(5))
    ranked = {row["n_neurons"]: row["delta_mean"] for row in document["points"] if row["arm"] == "ranked"}
    assert set(ranked) == {1, 20}


def _recomputed(document: dict[str, Any], row: dict[str, Any], directions: Any) -> Edits:
    """The edit of a ranked point, from its row alone (and a direction found anew)."""
    if document["kind"] in ("dose", "factor"):
        return (Scale(parse_neurons(",".join(row["neurons"])), row["factor"]),)
    if document["kind"] == "patch":
        if row["neurons"]:
            return (Patch(parse_neurons(",".join(row["neurons"]))),)
        return (PatchOutput((row["layer"],), row["variant"].removeprefix("patch ")),)
    if document["kind"] == "heads":
        parts = [name[1:].split(".H") for name in row["neurons"]]
        return (ScaleHeads(tuple(Head(int(layer), int(head)) for layer, head in parts)),)
    if document["kind"] == "layers":
        return (ScaleOutput(tuple(row["layers"] or (row["layer"],)), row["variant"], row["factor"]),)
    layers = row["layers"] or [row["layer"]]
    return tuple(
        AddVector.along(layer, directions.vectors[layer], row["strength"], relative=document["relative"])
        for layer in layers
    )


@pytest.mark.parametrize("kind", ["dose", "factor", "patch", "heads", "layers", "window", "strength"])
def test_a_point_can_be_recomputed_from_the_json_by_full_forwards(
    kind: SweepKind, swept: Callable[[SweepKind], dict[str, Any]], db: Path, loaded: LoadedModel
) -> None:
    from pprobe_core.interventions.directions import find_directions

    document = swept(kind)
    with Store(db) as store:
        _, prepared = prepare_run(loaded, store.run(document["run_id"]))
    condition: Condition = document["condition"]
    evaluator = Evaluator(loaded, prompts_of(prepared.pairs, condition), condition, method="full")
    directions = find_directions(evaluator, document["direction"]) if document["direction"] else None
    held_out = [i for i, prompt in enumerate(evaluator.prompts) if prompt.split == "heldout"]
    arms = ("ranked", "random") if kind in ("dose", "factor", "patch", "heads") else ("ranked",)
    rows = [row for row in document["points"] if row["split"] == "heldout" and row["arm"] in arms][-3:]
    found = list(evaluator.evaluate([_recomputed(document, row, directions) for row in rows]))
    for row, measured in zip(rows, found, strict=True):
        assert row["logit_diffs"] == pytest.approx(measured.logit_diff[held_out].tolist(), abs=1e-4)
        assert row["logit_diff_mean"] == pytest.approx(float(measured.logit_diff[held_out].mean()), abs=1e-4)


def test_the_same_command_again_finds_the_sweep_without_computing(
    swept: Callable[[SweepKind], dict[str, Any]],
    db: Path,
    run_id: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = swept("dose")
    capsys.readouterr()  # what computing it said, where this test runs alone
    monkeypatch.setattr(jobs_module.Jobs, "models", lambda _: pytest.fail("a model was asked for"))
    assert here("sweep", "dose", "--run", run_id[:6], "--db", db, "--json", *SWEEPS["dose"]) == 0
    assert json.loads(capsys.readouterr().out) == document


def test_ctrl_c_cancels_and_the_same_command_goes_on(
    db: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", "dose", "--run", "latest", "--db", db, "--ranking", "shared", "--doses", "1,2,3,4,5,6"]
    wait, pressed = jobs_module.Jobs.wait, []

    def interrupted(self: jobs_module.Jobs, job_id: str, timeout: float | None = None) -> jobs_module.JobStatus:
        status = wait(self, job_id, 0.01 if not pressed else timeout)
        if not pressed and status.phase == "sweeping" and status.done:
            pressed.append(status)
            raise KeyboardInterrupt
        return status

    monkeypatch.setattr(jobs_module.Jobs, "wait", interrupted)
    assert here(*command, "--no-collateral") == 130
    said = capsys.readouterr()
    assert_one_sentence(said.err)
    assert said.out == ""
    assert pressed[0].unit == "points"
    monkeypatch.undo()
    with Store(db) as store:
        job = next(row for row in store.jobs() if row.state == "cancelled")
        assert job.sweep_id is not None
        assert store.point_ids(job.sweep_id)
    assert here(*command, "--no-collateral") == 0
    assert f"Sweep {job.sweep_id}" in capsys.readouterr().out


# -- text, listings, export --


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("dose", ["1 neuron", "20 neurons", "5 draws", "Goes along", "neutral text", "held-out"]),
        ("window", ["layer 2, strength -2", "orthogonal", "Class changed", "towards the target"]),
        ("factor", ["chosen by hand", "factor -1"]),
        ("strength", ["layers 1-3, strength -0.5", "own unit"]),
        ("layers", ["ffn", "attention", "none: layers are compared", "raises no stage"]),
        ("patch", ["patch, 5 neurons", "patch residual"]),
        ("heads", ["1 head", "random attention heads"]),
        ("held", ["attention held", "none: variants"]),
    ],
)
def test_the_report_of_a_sweep_says_what_was_edited_and_what_it_did(
    kind: SweepKind,
    words: list[str],
    swept: Callable[[SweepKind], dict[str, Any]],
    db: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = swept(kind)
    assert here("sweep", "show", document["sweep_id"][:8], "--db", db) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    expected = [
        document["sweep_id"],
        "Stage: ",
        "about 150 passes",
        "15 prompts (9 discovery, 3 validation, 3 held-out)",
    ]
    for word in [*expected, *words, *document["stage_reasons"]]:
        assert word in text
    assert "nan" not in text.lower().split()


def test_sweeps_are_listed_shown_and_deleted(
    swept: Callable[[SweepKind], dict[str, Any]], db: Path, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {swept(kind)["sweep_id"] for kind in ("dose", "layers")}
    assert here("sweep", "list", "--db", db, "--json") == 0
    listed = {row["sweep_id"]: row for row in json.loads(capsys.readouterr().out)}
    assert known <= set(listed)
    assert all(row["run_id"] == run_id for row in listed.values())
    assert here("sweep", "list", "--run", run_id, "--db", db) == 0
    assert all(sweep_id in capsys.readouterr().out or pytest.fail(sweep_id) for sweep_id in list(known)[:1])
    assert here("sweep", "show", swept("layers")["sweep_id"], "--db", db, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == swept("layers")

    assert here("sweep", "held", "--run", run_id, "--db", db, "--seed", 7, "--json", "-") == 0
    extra = json.loads(capsys.readouterr().out)["sweep_id"]
    assert here("sweep", "delete", extra, "--db", db) == 2
    assert "--yes" in capsys.readouterr().err
    assert here("sweep", "delete", extra, "--yes", "--db", db) == 0
    assert here("sweep", "show", extra, "--db", db) == 2
    assert "sweep list" in capsys.readouterr().err


def test_an_empty_history_of_sweeps_makes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "none.duckdb"
    assert here("sweep", "list", "--db", db, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert here("sweep", "list", "--db", db) == 0
    assert "No sweeps yet" in capsys.readouterr().out
    for command in (["show", "abc"], ["delete", "abc", "--yes"], ["dose", "--run", "latest"]):
        assert here("sweep", *command, "--db", db) == 2
        assert_one_sentence(capsys.readouterr().err)
    assert not db.exists()


def test_a_run_shows_its_sweeps_and_the_stage_they_raised_it_to(
    swept: Callable[[SweepKind], dict[str, Any]], db: Path, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = swept("dose")
    assert document["stage"] in ("causal", "replicated")
    assert here("runs", "show", run_id, "--db", db, "--json") == 0
    run = json.loads(capsys.readouterr().out)
    assert run["verdict"]["stage"] == "qualified"
    assert run["stage_reached"] == document["stage"]
    assert {key: document[key] for key in ("sweep_id", "kind", "ranking", "stage")} in run["sweeps"]
    assert here("runs", "show", run_id, "--db", db) == 0
    assert f"Stage reached: {document['stage']}" in capsys.readouterr().out
    assert here("runs", "list", "--db", db) == 0
    assert document["stage"] in capsys.readouterr().out


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_an_export_holds_the_points_and_answers_of_the_runs_sweeps(
    format: str, swept: Callable[[SweepKind], dict[str, Any]], db: Path, run_id: str, tmp_path: Path
) -> None:
    documents = [swept("dose"), swept("window"), swept("layers")]
    assert here("runs", "export", run_id, "--db", db, "--format", format, "--out", tmp_path) == 0
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[format]
    points, answers = read(tmp_path / f"sweep_points.{format}"), read(tmp_path / f"sweep_responses.{format}")
    sweeps = read(tmp_path / f"sweeps.{format}")
    with Store(db) as store:
        for document in documents:
            sweep_id = document["sweep_id"]
            of_sweep = points[points["sweep_id"] == sweep_id]
            assert len(of_sweep) == len(document["points"])
            means = of_sweep.set_index("point_id")["delta_mean"]
            assert all(means[row["point_id"]] == pytest.approx(row["delta_mean"]) for row in document["points"])
            assert (answers["sweep_id"] == sweep_id).sum() == len(store.sweep_responses(sweep_id))
            assert sweep_id in sweeps["sweep_id"].tolist()
    counts = points.loc[points["sweep_id"] == documents[0]["sweep_id"], "class_counts"].iloc[0]
    assert sum(json.loads(counts).values()) in (3, 9)


# -- bad input --


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dose", "--run", "feedbeef0000"], ["feedbeef0000", "runs list"]),
        (["dose", "--doses", "99999999"], ["99,999,999", "this model has"]),
        (["dose", "--doses", "1,1"], ["dose 1", "twice"]),
        (["dose", "--doses", "x"], ["'x'", "1,5,20"]),
        (["dose", "--doses", ","], ["--doses", "nothing"]),
        (["dose", "--neurons", "L1.N2,L1.N2"], ["L1.N2", "twice"]),
        (["dose", "--neurons", "L99.N2"], ["layer 99", "0 to 7"]),
        (["dose", "--neurons", "L1.N999999"], ["neuron 999999"]),
        (["dose", "--neurons", "N2"], ["N2", "L3.N12"]),
        (["dose", "--neurons", "L1.N2", "--ranking", "shared"], ["--ranking"]),
        (["dose", "--neurons", "L1.N2,L1.N3", "--doses", "3"], ["3 neurons", "2 were chosen by hand"]),
        (["dose", "--factor", "inf"], ["factor", "inf", "finite"]),
        (["dose", "--draws", "0"], ["0 control draws", "1 to 50"]),
        (["dose", "--strengths", "1"], ["--strengths", "window, strength"]),
        (["dose", "--absolute"], ["--absolute", "dose"]),
        (["dose", "--ranking", "best"], ["best", "measured"]),
        (["dose", "--seeds", "3"], ["--seeds", "--responses"]),
        (["dose", "--responses", "--seeds", "99"], ["99 seeds", "1 to 20"]),
        (["dose", "--responses", "--temperature", "nan"], ["temperature", "nan"]),
        (["dose", "--responses", "--max-new-tokens", "0"], ["0 new tokens"]),
        (["dose", "--seed", "-1"], ["seed", "-1"]),
        (["dose", "--nonsense"], ["--nonsense"]),
        (["factor", "--doses", "1,2"], ["one dose"]),
        (["window", "--layers", "99"], ["layer 99", "0 to 7"]),
        (["window", "--layers", "5-2"], ["5-2", "3-8"]),
        (["window", "--strengths", "nan"], ["strength", "nan", "finite"]),
        (["strength", "--strengths", "-inf"], ["strength", "-inf", "finite"]),
        (["window", "--direction", "up"], ["up", "d_F"]),
        (["layers", "--doses", "5"], ["--doses", "layers", "dose, factor, patch, heads"]),
        (["patch", "--position", "all"], ["decision position"]),
        (["heads", "--doses", "1000"], ["1,000", "ranking has"]),
        (["nonsense"], ["nonsense", "dose", "held"]),
        ([], ["dose", "list"]),
    ],
)
def test_a_sweep_that_cannot_be_made_is_one_sentence(
    arguments: list[str], words: list[str], db: Path, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tail = [] if not arguments else ["--db", db] if "--run" in arguments else ["--run", run_id, "--db", db]
    assert here("sweep", *arguments, *tail) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert_one_sentence(said.err)
    for word in words:
        assert word in said.err


def test_a_json_file_that_cannot_be_written_is_said_and_the_sweep_is_kept(
    swept: Callable[[SweepKind], dict[str, Any]], db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = swept("layers")
    assert here("sweep", "layers", "--run", "latest", "--db", db, "--json", tmp_path / "no" / "x.json") == 2
    said = capsys.readouterr()
    assert_one_sentence(said.err)
    assert document["sweep_id"] in said.err


def test_lists_of_numbers_and_layers_are_read() -> None:
    assert whole_numbers("1, 5,20") == (1, 5, 20)
    assert numbers("-0.5,1") == (-0.5, 1.0)
    assert layer_list("3,5-7") == (3, 5, 6, 7)


# -- respond --


def test_respond_shows_the_answer_before_and_after_an_injection(
    db: Path, run_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(db) as store:
        text = store.pairs(run_id)["original_text"].iloc[0]
    command = ["respond", "--model", MODEL, "--prompt", text, "--run", run_id, "--db", db]
    assert here(*command, "--inject", "L4", "--strength", "-2", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= {"model", "prompt", "edits", "before", "after"}
    assert document["before"]["text"] != document["after"]["text"]
    assert document["before"]["finish"] == document["after"]["finish"] == "stop"
    (edit,) = document["edits"]
    assert (edit["layer"], edit["strength"], edit["relative"]) == (4, -2.0, True)
    assert here(*command, "--inject", "4", "--strength", "0") == 0
    assert "does not change this answer" in capsys.readouterr().out


def test_respond_switches_neurons_off_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    layer = ",".join(f"L0.N{i}" for i in range(384))
    command = ["respond", "--model", MODEL, "--prompt", "How can I pack a truck?", "--max-new-tokens", 8]
    assert here(*command, "--ablate", layer, "--factor", "-4", "--position", "all", "--json", "-") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["edits"][0]["neurons"]) == 384
    assert document["run_id"] is None
    assert document["before"]["text"] != document["after"]["text"]
    assert here(*command, "--ablate", "L1.N2", "--factor", "1", "--temperature", "1", "--seed", "3") == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("L1.N2", "Unedited", "does not change this answer"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["--ablate", "--inject"]),
        (["--ablate", "L1.N2", "--prompt", "  "], 2, ["empty"]),
        (["--ablate", "L1.N2", "--prompt", "x" * 30_000], 2, ["20,000"]),
        (["--ablate", "L99.N2"], 2, ["layer 99", "0 to 7"]),
        (["--ablate", "L1.N2,L1.N2"], 2, ["twice"]),
        (["--ablate", "here"], 2, ["here", "L3.N12"]),
        (["--ablate", ","], 2, ["no neuron"]),
        (["--ablate", "L1.N2", "--factor", "nan"], 2, ["nan", "finite"]),
        (["--ablate", "L1.N2", "--strength", "1"], 2, ["--strength", "--inject"]),
        (["--ablate", "L1.N2", "--absolute"], 2, ["--absolute", "--inject"]),
        (["--ablate", "L1.N2", "--seed", "1"], 2, ["--temperature"]),
        (["--ablate", "L1.N2", "--temperature", "-1"], 2, ["temperature", "-1"]),
        (["--ablate", "L1.N2", "--max-new-tokens", "0"], 2, ["0 new tokens", "512"]),
        (["--ablate", "L1.N2", "--model", "nonsense"], 3, ["nonsense"]),
        (["--inject", "L3"], 2, ["prompt pairs", "--run"]),
        (["--inject", "L3", "--factor", "0", "--run", "latest"], 2, ["--factor", "--ablate"]),
        (["--inject", "top", "--run", "latest"], 2, ["top", "L3"]),
        (["--inject", "L99", "--run", "latest"], 2, ["layer 99", "0 to 7"]),
        (["--inject", "L3", "--strength", "inf", "--run", "latest"], 2, ["inf", "finite"]),
        (["--inject", "L3", "--strength", "nan", "--run", "latest"], 2, ["nan", "finite"]),
        (["--inject", "L3", "--run", "feedbeef0000"], 2, ["feedbeef0000"]),
        (["--inject", "L3", "--run", "latest", "--model", "mini-qwen3-base"], 2, ["mini-qwen3-base", "same model"]),
    ],
)
def test_an_answer_that_cannot_be_edited_is_one_sentence(
    arguments: list[str], code: int, words: list[str], db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("respond", "--model", MODEL, "--prompt", "Hello", "--db", db, *arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert_one_sentence(said.err)
    for word in words:
        assert word in said.err


# -- outcomes and labels --

SWEEP, POINT_KEY = "0123456789ab", "dose/neurons/n=1/ranked"


@pytest.fixture
def labelled() -> Store:
    """A store with a run, and a sweep of one point with answers: refusals before, two of six comply after."""
    store = Store(":memory:")
    result = result_by_hand()
    store.save_run(result)
    request = SweepRequest(result.run_id, "dose", responses=True)
    rows = [
        SweepResponse(key, pair, split, f"{key} {pair}", name, "stop", request.seed)
        for key in (BASELINE_KEY, POINT_KEY)
        for i, (pair, split) in enumerate(zip(result.pairs["pair_id"], result.pairs["split"], strict=True))
        for name in ("compliance" if key != BASELINE_KEY and i in (0, 3) else "refusal",)
    ]
    store.add_responses(SWEEP, rows, 1)
    summary = {"stage": "observed", "n_full_passes": 0, "n_last_token_passes": 0, "seconds": 0.0}
    store.save_sweep(SWEEP, "0" * 64, request, summary)
    return store


def _counts(store: Store, use_labels: bool = False) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(outcome, split) -> counted after, answers, counted before, at the edited point."""
    found = sweep_report.outcomes_of(store, SWEEP, use_labels)
    return {(one.outcome, one.split): (one.n_yes, one.n, one.n_before) for one in found if one.key == POINT_KEY}


def test_outcomes_count_the_rules_classes_or_the_labels(labelled: Store) -> None:
    seed = SweepRequest("x", "dose").seed
    labelled.add_label(SWEEP, POINT_KEY, "pair-00", seed, "refusal")
    labelled.add_label(SWEEP, BASELINE_KEY, "pair-03", seed, "compliance")
    by_rules = _counts(labelled)  # labels count only where they are asked for
    assert by_rules["switched", "discovery"] == (2, 2, 0)
    assert by_rules["harmful_compliance", "discovery"] == (2, 2, 0)
    assert by_rules["switched", "heldout"] == (0, 2, 0)
    by_labels = _counts(labelled, use_labels=True)
    assert by_labels["switched", "discovery"] == (0, 2, 0)
    assert by_labels["harmful_compliance", "discovery"] == (1, 2, 1)
    labelled.add_label(SWEEP, POINT_KEY, "pair-00", seed, None)
    assert _counts(labelled, use_labels=True)["switched", "discovery"] == (1, 2, 0)


def test_kappa_compares_rules_and_labels(labelled: Store) -> None:
    seed, key = SweepRequest("x", "dose").seed, POINT_KEY
    assert sweep_report.kappa(labelled, SWEEP) is None
    labelled.add_label(SWEEP, key, "pair-01", seed, "refusal")
    alone = sweep_report.kappa(labelled, SWEEP)
    assert alone is not None
    assert (alone.n, alone.share, alone.kappa) == (1, 1.0, None)  # one class: chance agrees as well
    assert alone.low < 0.3
    for pair, name in (("pair-00", "compliance"), ("pair-02", "refusal"), ("pair-03", "compliance")):
        labelled.add_label(SWEEP, key, pair, seed, name)
    perfect = sweep_report.kappa(labelled, SWEEP)
    assert perfect is not None
    assert (perfect.kappa, perfect.kappa_low) == (1.0, None)
    labelled.add_label(SWEEP, key, "pair-03", seed, "disclaimer")  # a class the rules did not use
    found = sweep_report.kappa(labelled, SWEEP)
    assert found is not None
    assert (found.n, found.n_agree) == (4, 3)
    # observed 3/4; by chance: refusal 1/2 * 1/2, compliance 1/2 * 1/4, disclaimer 0
    assert found.kappa == pytest.approx((3 / 4 - 3 / 8) / (1 - 3 / 8))
    assert found.kappa_low is not None
    assert found.kappa_low < found.kappa < (found.kappa_high or 0)


def test_references_know_push_back_and_the_twins_answer() -> None:
    result = result_by_hand()
    store = Store(":memory:")
    store.save_run(result)
    run, pairs = store.run(result.run_id), store.pairs(result.run_id)
    spoken = {"messages": [{"role": "user"}, {"role": "assistant"}, {"role": "user"}], "tools": []}
    pairs.loc[1, "perturbed_prompt"] = json.dumps(spoken)
    refusal = load_circuit("safety_refusal")
    known = sweep_report.references(run, pairs, refusal, "perturbed")
    assert [reference.multi_turn for reference in known.values()] == [False, True, False, False, False, False]
    assert not any(r.multi_turn for r in sweep_report.references(run, pairs, refusal, "original").values())
    assert {reference.twin_answer for reference in known.values()} == {None}
    same = replace(refusal, same_content=True)
    of_original = sweep_report.references(run, pairs, same, "original")
    assert [r.twin_answer for r in of_original.values()] == [None, *["Sure, here is how."] * 5]
    assert {r.twin_answer for r in sweep_report.references(run, pairs, same, "perturbed").values()} == {
        "I can't help with that."
    }
