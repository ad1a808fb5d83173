"""Edits as values: what is accepted, what is refused in plain words, how they are written."""

import math

import pytest
import torch

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import (
    AddVector,
    Edits,
    ModelShape,
    Neuron,
    Patch,
    Scale,
    ScaleOutput,
    check_edits,
    is_decision_only,
    parse_neurons,
)

SHAPE = ModelShape(n_layers=3, d_mlp=10, d_model=4)


def test_edits_are_values() -> None:
    assert Scale((Neuron(0, 1),), 0.0) == Scale((Neuron(0, 1),), 0.0)
    assert len({Scale((Neuron(0, 1),)), Scale((Neuron(0, 1),)), Patch((Neuron(0, 1),))}) == 2
    direction = torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert AddVector.along(1, direction, 2.0) == AddVector(1, (1.0, 0.0, 2.0, 0.0), 2.0)


def test_neurons_are_written_and_read_as_the_dashboard_shows_them() -> None:
    neurons = (Neuron(12, 3405), Neuron(0, 7))
    assert ", ".join(map(str, neurons)) == "L12.N3405, L0.N7"
    assert parse_neurons("L12.N3405, L0.N7") == neurons
    assert parse_neurons(" l12.n3405 L0.N7\n") == neurons
    assert parse_neurons("") == ()
    assert sorted(neurons) == [Neuron(0, 7), Neuron(12, 3405)]


@pytest.mark.parametrize("text", ["L1", "N3", "L1.N", "L1.N2.N3", "L-1.N3", "1.2", "L1;N2", "L1.N2, L1.N2"])
def test_text_that_is_no_neuron_list_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_neurons(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_factors_and_strengths_must_be_finite(value: float) -> None:
    with pytest.raises(BadRequest, match="finite"):
        Scale((Neuron(0, 0),), value)
    with pytest.raises(BadRequest, match="finite"):
        ScaleOutput((0,), "ffn", value)
    with pytest.raises(BadRequest, match="finite"):
        AddVector(0, (1.0,), value)
    with pytest.raises(BadRequest, match="finite"):
        AddVector(0, (1.0, value), 1.0)


def test_a_direction_of_length_zero_is_refused() -> None:
    with pytest.raises(BadRequest, match="length zero"):
        AddVector(0, (0.0, 0.0), 1.0)


def test_duplicates_are_refused_within_and_across_the_edits_of_one_row() -> None:
    twice = Neuron(1, 2)
    with pytest.raises(BadRequest, match=r"L1\.N2 is named twice"):
        Scale((twice, twice))
    with pytest.raises(BadRequest, match=r"L1\.N2 is named twice"):
        check_edits((Scale((twice,)), Patch((twice,))), SHAPE)
    with pytest.raises(BadRequest, match="twice"):
        check_edits((ScaleOutput((1,), "ffn"), ScaleOutput((1, 2), "ffn")), SHAPE)
    check_edits((ScaleOutput((1,), "ffn"), ScaleOutput((1,), "attention")), SHAPE)


def test_more_neurons_than_exist_are_refused_with_both_numbers() -> None:
    with pytest.raises(BadRequest, match="31 neurons were asked for; this model has 30"):
        check_edits((Scale(tuple(Neuron(0, n) for n in range(31))),), SHAPE)


@pytest.mark.parametrize(
    ("edits", "cached"),
    [
        ((), True),
        ((Scale((Neuron(0, 0),)),), True),
        ((Scale((Neuron(0, 0),), 0.0, "all"),), False),
        ((Scale((Neuron(0, 0),)), AddVector(0, (1.0,), 1.0, position="all")), False),
    ],
)
def test_only_edits_at_the_decision_position_may_use_a_cached_prompt(edits: Edits, cached: bool) -> None:
    assert is_decision_only(edits) is cached
