"""The code shown on the pages runs as it stands and gives the numbers of the page."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pprobe_core
from pprobe_core import snippets
from pprobe_core.comparison import CompareRequest
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store

SMALL = ProbeRequest("mini-qwen3", "safety_refusal", limit=4, generate=False)


def ran(code: str) -> dict[str, Any]:
    """What a notebook holds after these lines; the lab is closed."""
    names: dict[str, Any] = {}
    try:
        exec(compile(code, "notebook", "exec"), names)  # noqa: S102  (the code under test)
    finally:
        if "lab" in names:
            names["lab"].close()
    return names


@pytest.fixture(scope="module")
def lab() -> Iterator[Any]:
    with pprobe_core.Lab() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(lab: Any) -> Any:
    return lab.probe("mini-qwen3", "safety_refusal", limit=4, generate=False)


def test_the_lines_of_a_probe_give_the_same_run(run: Any) -> None:
    code = snippets.probe(SMALL)
    assert 'lab.probe("mini-qwen3", "safety_refusal", limit=4, generate=False)' in code
    assert ran(code)["run"].run_id == run.run_id


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SweepRequest("x", "dose", doses=(1, 5), draws=2, collateral=False), "doses=(1, 5)"),
        (SweepRequest("x", "window", layers=(2,), strengths=(1.0,), draws=2, collateral=False), "layers=(2,)"),
        (SweepRequest("x", "layers", layers=(1,)), '"layers"'),
    ],
)
def test_the_lines_of_a_sweep_give_its_points(request_: SweepRequest, said: str) -> None:
    code = snippets.sweep(SMALL, request_)
    assert said in code
    names = ran(code)
    assert names["sweep"].request.kind == request_.kind
    assert len(names["points"])


def test_the_lines_of_a_behaviour_and_of_a_prompt_set_probe_it(capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(SMALL, limit=3)
    for code in (snippets.circuit(few), snippets.prompt_set(few)):
        assert ran(code)["run"].summary["n_pairs"] == 3
    shown = capsys.readouterr().out
    assert "'refusal'" in shown
    assert "pairs; the first one: " in shown


def test_the_lines_of_a_comparison_give_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    request = CompareRequest(("mini-qwen3", "mini-qwen3-base"), ("language",), sweeps=(), bases=False, limit=3)
    names = ran(snippets.comparison(request))
    assert {part.state for part in names["found"].parts} == {"done"}
    assert "FFN/Skip of the last layer" in capsys.readouterr().out


def test_the_lines_of_the_playground_give_three_answers(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = 'How do I "hack"\n a lock? \u202e'
    code = snippets.playground(SMALL, prompt, {"n_neurons": 10, "ranking": "shared"})
    assert "\u202e" not in code  # written as an escape: code reads as it runs
    reply = ran(code)["reply"]
    assert reply.ask.prompt.text == prompt
    assert [reply.unedited.text, reply.edited.text, reply.random.text] == [
        text.text for text in (reply.unedited, reply.edited, reply.random)
    ]
    assert capsys.readouterr().out.count("\n") == 3


def test_a_stored_run_is_read_without_computing(recorded_store: Store) -> None:
    path, runs = str(recorded_store.path), recorded_store.runs()
    swept = str(runs[runs["n_sweeps"] > 0].iloc[0]["run_id"])
    sweep_id = str(recorded_store.sweeps(swept).iloc[0]["sweep_id"])
    recorded_store.close()
    code = snippets.stored_run(path, swept, sweep_id)
    assert ran(code)["run"].run_id == swept
    assert sweep_id in code


def test_own_strings_and_names_are_written_as_python_reads_them() -> None:
    request = ProbeRequest('/a b/it\'s "x"', "safety_refusal", target=("No", 'a"b'), control=("Sure",), seed=3)
    code = snippets.probe(request)
    compile(code, "notebook", "exec")
    assert 'control=("Sure",)' in code
    assert "seed=3" in code


def test_a_lab_says_what_is_wrong(lab: Any, run: Any) -> None:
    with pytest.raises(BadRequest, match="no circuit"):
        lab.probe("mini-qwen3", "nonsense")
    with pytest.raises(PprobeError):
        lab.probe("no such model", "language")
    with pytest.raises(BadRequest, match="empty"):
        lab.ask(run, " ")


def test_the_package_names_its_lab_and_nothing_else() -> None:
    assert pprobe_core.Lab.__name__ == "Lab"
    with pytest.raises(AttributeError):
        _ = pprobe_core.Nonsense  # type: ignore[attr-defined]


def test_a_results_file_keeps_what_a_lab_computed(tmp_path: Path, run: Any) -> None:
    with pprobe_core.Lab(tmp_path / "mine.duckdb") as first:
        run_id = first.probe("mini-qwen3", "safety_refusal", limit=4, generate=False).run_id
    with pprobe_core.Lab(tmp_path / "mine.duckdb") as again:
        assert again.run(run_id).run_id == run_id == run.run_id
