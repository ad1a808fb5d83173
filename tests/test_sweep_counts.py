"""Answers counted in the results file are the answers counted one by one."""

import operator

import pytest

from pprobe_core.circuits.library import load_circuit
from pprobe_core.interventions.outcomes import KEPT, OF_CLASSES, outcome_rates
from pprobe_core.interventions.types import BASELINE_KEY
from pprobe_core.store import Store
from pprobe_core.sweep_report import _responses, outcomes_of, references


@pytest.mark.parametrize("use_labels", [False, True])
def test_counting_in_the_store_gives_what_counting_every_answer_gives(recorded_store: Store, use_labels: bool) -> None:
    runs, sweeps = recorded_store.runs().set_index("run_id"), recorded_store.sweeps()
    circuit_of = sweeps["run_id"].map(runs["circuit"])
    sweep_id = str(sweeps[(sweeps["kind"] == "window") & (circuit_of == "language")]["sweep_id"].iloc[0])
    sweep = recorded_store.sweep(sweep_id)
    run, circuit = recorded_store.run(sweep.run_id), load_circuit("language")
    if use_labels:
        answers = recorded_store.sweep_responses(sweep_id)
        for row in answers[answers["key"] != BASELINE_KEY].iloc[::97].to_dict("records"):
            recorded_store.add_label(sweep_id, row["key"], row["pair_id"], row["seed"], "english")
    known = references(run, recorded_store.pairs(run.run_id), circuit, sweep.request.condition)
    answers = _responses(recorded_store.sweep_responses(sweep_id), use_labels)
    counted = outcomes_of(recorded_store, sweep_id, use_labels)
    assert counted == outcome_rates(circuit, sweep.request.condition, answers, known)
    assert any(rate.outcome == KEPT and rate.n_yes for rate in counted)


@pytest.mark.parametrize(("kind", "circuit"), [("window", "language"), ("dose", "safety_refusal")])
def test_what_classes_alone_decide_is_the_same_without_reading_the_texts(
    recorded_store: Store, kind: str, circuit: str
) -> None:
    runs, sweeps = recorded_store.runs().set_index("run_id"), recorded_store.sweeps()
    mine = sweeps[(sweeps["kind"] == kind) & (sweeps["run_id"].map(runs["circuit"]) == circuit)]
    assert len(mine)
    for sweep_id in mine["sweep_id"]:
        everything = outcomes_of(recorded_store, sweep_id)
        assert {rate.outcome for rate in everything} > set(OF_CLASSES)
        found = outcomes_of(recorded_store, sweep_id, of_classes=True)
        key = operator.attrgetter("key", "split", "outcome")
        assert sorted(found, key=key) == sorted((r for r in everything if r.outcome in OF_CLASSES), key=key)


def test_the_state_of_labels_changes_with_every_label(recorded_store: Store) -> None:
    sweep_id = str(recorded_store.sweeps().query("kind == 'dose'")["sweep_id"].iloc[0])
    row = recorded_store.sweep_responses(sweep_id).iloc[0]
    place = (sweep_id, row["key"], row["pair_id"], int(row["seed"]))
    states = [recorded_store.label_state(sweep_id)]
    for name in ("refusal", "compliance", None):
        recorded_store.add_label(*place, name)
        states.append(recorded_store.label_state(sweep_id))
    assert states[0] == states[3] == ""
    assert len(set(states)) == 3


def test_answers_at_a_point_are_those_of_all_answers(recorded_store: Store) -> None:
    sweep_id = str(recorded_store.sweeps().query("kind == 'dose'")["sweep_id"].iloc[0])
    every = recorded_store.sweep_responses(sweep_id)
    keys = list(every["key"].unique()[:3])
    found = recorded_store.answers_at(sweep_id, keys)
    assert found.equals(every[every["key"].isin(keys)].reset_index(drop=True))


def test_points_without_their_prompts_have_the_same_means(recorded_store: Store) -> None:
    sweep_id = str(recorded_store.sweeps().query("kind == 'dose'")["sweep_id"].iloc[0])
    full, means = recorded_store.sweep_points(sweep_id), recorded_store.sweep_points(sweep_id, per_prompt=False)
    assert full.drop(columns=["pair_ids", "logit_diffs", "deltas"]).equals(means)
    assert all(point.deltas == () for point in recorded_store.points(sweep_id, per_prompt=False))
