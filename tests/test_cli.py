"""The command line keeps its contract: keys, exit codes, one sentence per error, stdout for the answer only."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from pprobe_core import report
from pprobe_core.circuits.library import load_circuits
from pprobe_core.cli import main
from pprobe_core.models.catalogue import shipped_models
from pprobe_core.models.known import known_models
from pprobe_core.store import Store
from tests.results_by_hand import result_by_hand
from tests.tiny_models import edit_json, write_tiny_model

ROOT = Path(__file__).resolve().parent.parent

CONTRACT = {
    "run_id", "model", "circuit", "prompts", "coupling", "n_pairs", "n_forward_passes", "seconds", "flip_rate",
    "observable", "logit_diff", "ffn_skip", "verdict", "layers", "pairs", "neurons", "ranking_splits",
}  # fmt: skip
PARTS = {
    "observable": {"target_ids", "control_ids"},
    "logit_diff": {"original_mean", "perturbed_mean", "delta_mean", "predicted_delta_mean"},
    "ffn_skip": {"original_mean", "perturbed_mean", "mean"},
    "verdict": {"structure", "stage", "recommendation", "reasons"},
}
ROWS = {
    "layers": {"layer", "ffn", "attention", "skip", "ffn_skip", "mass"},
    "pairs": {
        "pair_id", "split", "input_ids_original", "input_ids_perturbed", "logit_diff_original", "logit_diff_perturbed",
        "predicted_delta", "ffn_skip_original", "ffn_skip_perturbed", "target_ids", "control_ids",
    },
    "neurons": {"rank", "layer", "neuron", "importance_mean", "importance_rms", "sign_consistency", "coupling"},
}  # fmt: skip


def run_cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [sys.executable, "-m", "pprobe_core", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def here(*arguments: object) -> int:
    """The same in this process, where torch is loaded already."""
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "pairs.csv"
    rows = [f"How do I bake bread {i}?,How do I bkae bread {i}?,Paris,Sorry" for i in range(12)]
    path.write_text("\n".join(["original,perturbed,target,control", *rows]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def probed(
    tiny_qwen3_folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], subprocess.CompletedProcess[str]]:
    """A results file with one probe made by the command line, its JSON, and what the process said."""
    db = tmp_path_factory.mktemp("probed") / "pprobe.duckdb"
    done = run_cli(*probe_arguments(tiny_qwen3_folder, prompts, db), "--json", "-")
    return db, json.loads(done.stdout), done


def probe_arguments(model: Path, prompts: Path, db: Path) -> list[object]:
    return ["probe", "--model", model, "--circuit", "factual_recall", "--prompts", prompts, "--db", db]


def assert_one_sentence(text: str) -> None:
    assert text.strip()
    assert text.count("\n") == 1
    assert "Traceback" not in text


# -- probe --


def test_the_json_of_a_probe_has_every_key_of_the_contract(probed: tuple[Path, dict[str, Any], Any]) -> None:
    _, document, done = probed
    assert done.returncode == 0
    assert done.stderr == ""
    assert set(document) >= CONTRACT
    for name, keys in PARTS.items():
        assert set(document[name]) >= keys
    for name, keys in ROWS.items():
        assert document[name]
        assert all(set(row) >= keys for row in document[name])


def test_the_numbers_of_the_json_fit_together(probed: tuple[Path, dict[str, Any], Any]) -> None:
    _, document, _ = probed
    pairs, neurons = pd.DataFrame(document["pairs"]), pd.DataFrame(document["neurons"])
    assert document["n_pairs"] == len(pairs) == 12
    assert document["n_forward_passes"] == 24
    diff = document["logit_diff"]
    assert diff["delta_mean"] == pytest.approx(diff["perturbed_mean"] - diff["original_mean"], abs=1e-6)
    assert diff["original_mean"] == pytest.approx(pairs["logit_diff_original"].mean(), abs=1e-6)
    assert diff["predicted_delta_mean"] == pytest.approx(pairs["predicted_delta"].mean(), abs=1e-6)
    flips = (pairs["logit_diff_original"] * pairs["logit_diff_perturbed"] < 0).mean()
    assert document["flip_rate"] == pytest.approx(flips)
    assert sum(layer["mass"] for layer in document["layers"]) == pytest.approx(1, abs=1e-5)
    assert neurons["rank"].tolist() == list(range(1, len(neurons) + 1))
    assert len(neurons) == min(500, document["n_layers"] * document["d_mlp"])
    assert neurons["importance_mean"].abs().is_monotonic_decreasing
    assert document["ranking_splits"] == ["discovery"]


def test_the_same_command_again_prints_the_run_that_exists(
    probed: tuple[Path, dict[str, Any], Any],
    tiny_qwen3_folder: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    db, document, _ = probed
    target = tmp_path / "run.json"
    assert here(*probe_arguments(tiny_qwen3_folder, prompts, db), "--json", target) == 0
    assert document["run_id"] in capsys.readouterr().out
    assert json.loads(target.read_text(encoding="utf-8")) == document  # the very same run, time and seconds included


def test_a_json_file_that_cannot_be_written_is_said_and_the_run_is_kept(
    probed: tuple[Path, dict[str, Any], Any],
    tiny_qwen3_folder: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    db, document, _ = probed
    target = tmp_path / "no" / "such" / "run.json"
    assert here(*probe_arguments(tiny_qwen3_folder, prompts, db), "--json", target) == 2
    said = capsys.readouterr()
    assert_one_sentence(said.err)
    assert document["run_id"] in said.err
    assert said.out == ""


def test_the_report_of_a_run_is_short_and_says_what_was_measured(
    probed: tuple[Path, dict[str, Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    db, document, _ = probed
    assert main(["runs", "show", document["run_id"], "--db", str(db)]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 60
    first = document["neurons"][0]
    for words in (
        document["run_id"],
        "Verdict",
        "flip rate",
        "95 % interval",
        "12 prompt pairs, 24 forward passes",
        report.neuron_name(first["layer"], first["neuron"]),
        "random signs",
        *document["verdict"]["reasons"],
    ):
        assert words in text


def test_each_ranking_orders_the_neurons_its_own_way(
    probed: tuple[Path, dict[str, Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    db, document, _ = probed
    orders = {}
    for ranking, key in (("magnitude", "importance_rms"), ("ablation", "ablation_score")):
        assert main(["runs", "show", document["run_id"], "--db", str(db), "--json", "--ranking", ranking]) == 0
        shown = json.loads(capsys.readouterr().out)
        scores = [row[key] for row in shown["neurons"]]
        assert scores == sorted(scores, reverse=True)
        assert shown["ranking"] == ranking
        orders[ranking] = [(row["layer"], row["neuron"]) for row in shown["neurons"]]
    assert orders["magnitude"] != orders["ablation"]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_ends_with_130_and_the_same_command_then_finishes(
    tiny_qwen3_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    db = tmp_path / "pprobe.duckdb"
    arguments = probe_arguments(tiny_qwen3_folder, prompts, db)
    process = subprocess.Popen(
        [sys.executable, "-m", "pprobe_core", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hears_ctrl_c,
    )
    while not db.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)  # the model is being loaded now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert_one_sentence(err)
    with Store(db) as store:
        assert {row.state for row in store.jobs()} <= {"cancelled"}
        assert store.runs().empty
    assert json.loads(run_cli(*arguments, "--json", "-").stdout)["n_pairs"] == 12


def _hears_ctrl_c() -> None:
    """What a shell starts in the background does not hear it, nor does what that starts, these tests among it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# -- errors --


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"--circuit": "nonsense"}, 2, ["nonsense", *load_circuits()]),
        ({"--model": "nonsense"}, 3, ["nonsense", "folder"]),
        ({"--prompts": "/no/such/file.csv"}, 2, ["file.csv"]),
        ({"--coupling": "loose"}, 2, ["loose", "plain", "norm_aware"]),
        ({"--ranking": "best"}, 2, ["best", "shared", "magnitude", "ablation"]),
        ({"--limit": "0"}, 2, ["0", "1 or more"]),
        ({"--limit": "-3"}, 2, ["-3"]),
        ({"--limit": "many"}, 2, ["many"]),
        ({"--seed": "x"}, 2, ["seed"]),
    ],
)
def test_a_bad_request_is_one_sentence_that_says_what_is_accepted(
    change: dict[str, str],
    code: int,
    words: list[str],
    tiny_qwen3_folder: Path,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    db = tmp_path / "pprobe.duckdb"
    values = {
        "--model": str(tiny_qwen3_folder),
        "--circuit": "factual_recall",
        "--prompts": str(prompts),
        "--db": str(db),
    }
    arguments = [f"{name}={value}" for name, value in (values | change).items()]
    assert main(["probe", *arguments]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert_one_sentence(said.err)
    assert all(word in said.err for word in words)
    assert not db.exists()  # nothing is made for a request that cannot be met


def test_a_truncated_model_ends_with_3_and_one_sentence(
    tiny_qwen3_folder: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in tiny_qwen3_folder.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    assert here(*probe_arguments(folder, prompts, tmp_path / "pprobe.duckdb"), "--json", "-") == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert_one_sentence(said.err)


def test_a_results_file_in_use_is_said_with_the_ways_out(
    tiny_qwen3_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    db = tmp_path / "pprobe.duckdb"
    holder = Store(db)
    for arguments in (probe_arguments(tiny_qwen3_folder, prompts, db), ["runs", "list", "--db", db]):
        done = run_cli(*arguments)  # another process
        assert done.returncode == 2
        assert_one_sentence(done.stderr)
        assert f"process {os.getpid()}" in done.stderr
        assert "--db FILE" in done.stderr
    holder.close()


def test_a_newer_or_damaged_results_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer, damaged = tmp_path / "newer.duckdb", tmp_path / "damaged.duckdb"
    Store(newer).close()
    with duckdb.connect(str(newer)) as connection:
        connection.execute("insert into schema_version values (99, now()::timestamp)")
    damaged.write_text("not a database", encoding="utf-8")
    for path, words in ((newer, "newer pprobe"), (damaged, "not a results file")):
        assert main(["runs", "list", "--db", str(path)]) == 2
        said = capsys.readouterr().err
        assert_one_sentence(said)
        assert words in said


@pytest.mark.parametrize("arguments", [[], ["runs"], ["nonsense"], ["probe"], ["models", "--nonsense"], ["train"]])
def test_a_command_line_that_cannot_be_read_is_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert_one_sentence(said.err)


def test_training_of_an_unknown_family_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--family", "nonsense", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert "qwen3" in said
    assert not (tmp_path / "out").exists()


# -- listings --


def test_models_lists_the_shipped_models_with_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    shipped = [entry.id for entry in shipped_models()]
    assert [row["id"] for row in listed] == [*shipped, *known_models()]
    assert all({"id", "path", "family", "n_layers", "d_mlp", "shipped"} <= set(row) for row in listed)
    assert all(set(row) == set(listed[0]) for row in listed)
    assert [row["id"] for row in listed if row["tried"] == "run here"] == shipped
    assert all(row["bf16_bytes"] == 2 * row["parameters"] for row in listed)
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "hub id" in text
    row = next(line for line in text.splitlines() if line.startswith("Qwen/Qwen3-4B "))
    assert row.endswith("  structure checked")
    assert "7.5 GB" in row


def test_a_model_is_looked_at_before_it_is_used(
    tiny_qwen3_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "check", str(tiny_qwen3_folder)]) == 0
    text = capsys.readouterr().out
    for words in ("qwen3, 3 layers, 56 neurons in each", "needed in float32", "Loading about 3 s", "Ready to be"):
        assert words in text
    assert main(["models", "check", str(tiny_qwen3_folder), "--dtype", "bfloat16", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["ready"], card["placement"]["dtype"], card["family"]) == (True, "bfloat16", "qwen3")
    assert main(["models", "check", str(tiny_qwen3_folder), "--device", "tpu"]) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_a_model_that_cannot_be_used_is_said_with_its_reason_and_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_model(tmp_path / "quantised", "qwen3")
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    capsys.readouterr()
    assert main(["models", "check", str(folder)]) == 3
    said = capsys.readouterr()
    assert_one_sentence(said.err)
    assert "quantised (4 bits, gptq)" in said.err
    assert "qwen3, 3 layers" in said.out, "what is known is told all the same"
    assert main(["models", "check", str(folder), "--json"]) == 3
    assert "4 bits" in json.loads(capsys.readouterr().out)["refusal"]
    assert main(["models", "check", "no such model"]) == 3
    assert_one_sentence(capsys.readouterr().err)


def test_circuits_lists_every_circuit_with_its_prompt_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["circuits", "--json", "-"]) == 0
    listed = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(load_circuits())
    assert all(row["title"] and row["description"] and row["target_meaning"] for row in listed.values())
    assert main(["circuits"]) == 0
    text = capsys.readouterr().out
    assert all(circuit_id in text for circuit_id in listed)


def test_listings_start_without_torch() -> None:
    code = (
        "import sys; from pprobe_core.cli import main\n"
        "for words in (['models'], ['circuits'], ['runs', 'list', '--db', 'no-such.duckdb']): assert main(words) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (ROOT / "no-such.duckdb").exists()


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    db = tmp_path / "pprobe.duckdb"
    store = Store(db)
    run_id = store.save_run(result_by_hand(n_pairs=40, d_mlp=300))
    store.close()
    command = [sys.executable, "-m", "pprobe_core", "runs", "show", run_id, "--json", "--db", str(db)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(300) == 0


# -- stored runs --


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, str]:
    db = tmp_path / "pprobe.duckdb"
    store = Store(db)
    run_id = store.save_run(result_by_hand(note="=HYPERLINK(1)"))
    store.save_run(result_by_hand(seed=1, note="@risky"))
    store.close()
    return db, run_id


def test_runs_are_listed_newest_first(stored: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    db, run_id = stored
    assert main(["runs", "list", "--db", str(db), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[-1]["run_id"] == run_id
    assert listed[0]["created_at"] >= listed[1]["created_at"]
    assert listed[0]["created_at"].endswith("+00:00")
    assert main(["runs", "list", "--db", str(db)]) == 0
    assert run_id in capsys.readouterr().out


def test_an_empty_history_lists_nothing_and_makes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "none.duckdb"
    assert main(["runs", "list", "--db", str(db), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "list", "--db", str(db)]) == 0
    assert "No runs yet" in capsys.readouterr().out
    assert not db.exists()


@pytest.mark.parametrize("action", [["show"], ["export", "--out", "x"], ["delete", "--yes"]])
def test_a_run_that_is_not_there_says_how_to_list(
    action: list[str], stored: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    db, _ = stored
    assert main(["runs", action[0], "feedbeef0000", *action[1:], "--db", str(db)]) == 2
    said = capsys.readouterr().err
    assert_one_sentence(said)
    assert "runs list" in said


def test_undefined_ratios_are_null(stored: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    db, run_id = stored
    assert main(["runs", "show", run_id, "--db", str(db), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert shown["pairs"][0]["ffn_skip_original"] is None
    assert shown["pairs"][0]["response_perturbed"] is None
    assert shown["pairs"][1]["ffn_skip_original"] > 0


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_an_export_holds_every_table_of_the_run(format: str, stored: tuple[Path, str], tmp_path: Path) -> None:
    db, run_id = stored
    out = tmp_path / "out"
    assert main(["runs", "export", run_id, "--db", str(db), "--format", format, "--out", str(out)]) == 0
    store = Store(db)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[format]
    for name in ("pairs", "layers", "neurons", "first_tokens", "token_preview"):
        there, expected = read(out / f"{name}.{format}"), getattr(store, name)(run_id)
        assert list(there.columns) == list(expected.columns)
        assert len(there) == len(expected)
        numbers = expected.select_dtypes("number").columns
        pd.testing.assert_frame_equal(there[numbers], expected[numbers], check_dtype=False, rtol=1e-6)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["run_id"] == run_id
    store.close()


def test_a_csv_cannot_run_a_formula_in_a_spreadsheet(stored: tuple[Path, str], tmp_path: Path) -> None:
    db, run_id = stored
    assert main(["runs", "export", run_id, "--db", str(db), "--out", str(tmp_path / "out")]) == 0
    seen = 0
    for path in (tmp_path / "out").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for cell in row.values():
                    if cell[:1] in ("=", "+", "-", "@"):
                        float(cell)  # only numbers may begin like this
                    seen += cell in ("'=HYPERLINK(1)", "'=SUM(1) is text")
    assert seen == 7  # six notes of pairs, one of a token
    assert "锁" in (tmp_path / "out" / "pairs.csv").read_text(encoding="utf-8")


def test_an_export_does_not_overwrite_another_run(
    stored: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db, run_id = stored
    other = result_by_hand(seed=1).run_id
    out = tmp_path / "out"
    assert main(["runs", "export", run_id, "--db", str(db), "--out", str(out)]) == 0
    assert main(["runs", "export", run_id, "--db", str(db), "--out", str(out)]) == 0  # the same run again is fine
    capsys.readouterr()
    assert main(["runs", "export", other, "--db", str(db), "--out", str(out)]) == 2
    assert run_id in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert main(["runs", "export", run_id, "--db", str(db), "--out", str(tmp_path / "file")]) == 2
    assert_one_sentence(capsys.readouterr().err)


def test_deleting_needs_a_yes(stored: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    db, run_id = stored
    assert main(["runs", "delete", run_id, "--db", str(db)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["runs", "delete", run_id, "--db", str(db), "--yes"]) == 0
    store = Store(db)
    assert store.runs()["run_id"].tolist() == [result_by_hand(seed=1).run_id]
    store.close()
