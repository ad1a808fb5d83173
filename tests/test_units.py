"""The units of a probe are pure functions from a specification to a table: any order, any place, the same result."""

import random

import pandas as pd
import pytest

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.errors import BadRequest
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.probing import probe, units
from pprobe_core.probing.types import ProbeRequest

REQUEST = ProbeRequest("mini-qwen3", "safety_refusal", limit=10)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("mini-qwen3", device="cpu")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BLOCK_PAIRS", 4)


def tables_of(loaded: LoadedModel, order: int) -> pd.DataFrame:
    """All units from their JSON, in some order."""
    texts = [unit.as_json() for unit in units.plan_units(units.prepared_of(loaded, REQUEST), REQUEST)]
    random.Random(order).shuffle(texts)
    return pd.concat([units.measure(loaded, units.BlockUnit.from_json(text)) for text in texts])


def test_a_specification_is_its_json(loaded: LoadedModel, small_blocks: None) -> None:
    planned = units.plan_units(units.prepared_of(loaded, REQUEST), REQUEST)
    assert [unit.block for unit in planned] == [0, 1, 2, 0, 1, 2]
    assert [units.BlockUnit.from_json(unit.as_json()) for unit in planned] == list(planned)


def test_units_in_any_order_and_another_copy_of_the_model_give_the_probe(
    loaded: LoadedModel, small_blocks: None
) -> None:
    circuit = load_circuit("safety_refusal")
    whole = probe.run(loaded, circuit, load_prompt_set(circuit, "mini"), REQUEST)
    elsewhere = tables_of(load_model("mini-qwen3", device="cpu"), order=3)
    result = units.result_of(loaded, REQUEST, elsewhere)
    assert result.run_id == whole.run_id
    for name in ("pairs", "layers", "neurons", "first_tokens"):
        pd.testing.assert_frame_equal(getattr(result, name), getattr(whole, name))


def test_a_unit_asked_for_twice_gives_the_same_table(loaded: LoadedModel, small_blocks: None) -> None:
    unit = units.BlockUnit(REQUEST, "capture", 1)
    one, two = (units.measure(loaded, unit) for _ in range(2))
    key = ["request_key", "kind", "block"]
    pd.testing.assert_frame_equal(one[key], two[key])


def test_missing_and_foreign_tables_are_named(loaded: LoadedModel, small_blocks: None) -> None:
    tables = tables_of(loaded, order=0)
    with pytest.raises(BadRequest, match="1 of 6 units are missing"):
        units.result_of(loaded, REQUEST, tables.iloc[1:])
    with pytest.raises(BadRequest, match="belong to another probe"):
        units.result_of(loaded, REQUEST, tables.assign(request_key="other"))
    with pytest.raises(BadRequest, match="blocks 0 to 2; block 3"):
        units.measure(loaded, units.BlockUnit(REQUEST, "capture", 3))
