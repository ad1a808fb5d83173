"""The playground: a fair queue (with a stand-in for the model), and true answers of the shipped model."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pprobe_core import jobs as core_jobs
from pprobe_core import playground
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.interventions.edits import AddVector, Edits, Neuron, Scale
from pprobe_core.interventions.evaluator import EvalPrompt, Evaluator
from pprobe_core.interventions.generation import GenerationSettings, decision_logits, respond
from pprobe_core.interventions.types import N_DRAWS
from pprobe_core.models import loading
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.models.pool import ModelPool
from pprobe_core.playground import Ask, Change, Playground, Reply, Standing, Written, checked_ask
from pprobe_core.playground.desk import AskWatch, Desk
from pprobe_core.playground.engine import KEPT_ANSWERS, Engine, mark_harmful
from pprobe_core.probing import probe
from pprobe_core.probing.tokens import encode_prompt
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store

MODEL = "mini-qwen3"


def says(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},))


def question(text: str) -> Ask:
    return Ask(MODEL, says(text), circuit="safety_refusal")


# -- the queue ----------------------------------------------------------------------------------------------------


class Panic(BaseException):
    """What libraries that are not written in Python raise."""


class Slow:
    """Answers when it is let go on; notes in which order it was asked."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = threading.Semaphore(0)
        self.given_up: list[str] = []
        self.rested = 0

    def answer(self, ask: Ask, watch: AskWatch) -> Reply:
        self.order.append(ask.prompt.text)
        while not self.go.acquire(timeout=0.01):
            if watch.stop.is_set():
                self.given_up.append(ask.prompt.text)
            watch.check()
        if "boom" in ask.prompt.text:
            raise RuntimeError("it broke")
        if "panic" in ask.prompt.text:
            raise Panic("a library gave up")
        if "sorry" in ask.prompt.text:
            raise BadRequest("That cannot be answered. Ask something else.")
        return Reply(ask, Written(ask.prompt.text.upper(), "stop"), None, None, (), (), "")

    def rest(self) -> None:
        self.rested += 1


@pytest.fixture
def slow() -> Slow:
    return Slow()


Open = Callable[..., Desk]


@pytest.fixture
def open_desk(slow: Slow) -> Iterator[Open]:
    opened = []

    def make(**options: float) -> Desk:
        opened.append(Desk(lambda: slow, **options))
        return opened[-1]

    yield make
    for desk in opened:
        assert desk.close(5)


def until(what: Callable[[], object], seconds: float = 5.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.005)


def standing(desk: Desk, visitor: str) -> Standing:
    found = desk.look(visitor)
    assert found is not None
    return found


def test_visitors_take_turns_and_see_how_many_are_before_them(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    desk.ask("a", question("a1"))
    until(lambda: slow.order == ["a1"])
    desk.ask("b", question("b1"))
    desk.ask("c", question("c1"))
    assert [standing(desk, v).ahead for v in "abc"] == [0, 1, 2]
    assert standing(desk, "a").state == "working"
    slow.go.release()
    until(lambda: standing(desk, "a").state == "done")
    desk.ask("a", question("a2"))  # the one who was just served goes to the end
    assert standing(desk, "a").ahead == 2
    assert [slow.go.release() for _ in range(3)]
    until(lambda: standing(desk, "a").state == "done")
    assert slow.order == ["a1", "b1", "c1", "a2"]
    found = standing(desk, "b").reply
    assert found is not None
    assert found.unedited.text == "B1"


def test_a_newer_question_takes_the_place_of_the_one_that_waits(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    desk.ask("a", question("a1"))
    until(lambda: slow.order == ["a1"])
    desk.ask("b", question("b1"))
    desk.ask("c", question("c1"))
    desk.ask("b", question("b2"))
    assert [standing(desk, v).ahead for v in "bc"] == [1, 2], "the one who is answered, and b once"
    assert [slow.go.release() for _ in range(3)]
    until(lambda: standing(desk, "c").state == "done")
    assert slow.order == ["a1", "b2", "c1"]


def test_a_newer_question_stops_the_one_being_answered_and_does_not_jump_the_line(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    desk.ask("a", question("a1"))
    until(lambda: slow.order == ["a1"])
    desk.ask("b", question("b1"))
    desk.ask("a", question("a2"))
    until(lambda: slow.order == ["a1", "b1"])
    assert slow.given_up == ["a1"]
    now = standing(desk, "a")
    assert (now.state, now.ahead, now.reply) == ("waiting", 1, None)
    assert [slow.go.release() for _ in range(2)]
    until(lambda: standing(desk, "a").state == "done")
    assert slow.order == ["a1", "b1", "a2"]


def test_the_same_question_again_is_a_look_unless_it_is_asked_anew(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    for _ in range(3):
        desk.ask("a", question("sorry"))
    slow.go.release()
    until(lambda: standing(desk, "a").ended)
    desk.ask("a", question("sorry"))
    assert standing(desk, "a").error == "That cannot be answered. Ask something else."
    assert slow.order == ["sorry"]
    desk.ask("a", question("sorry"), again=True)
    until(lambda: slow.order == ["sorry", "sorry"])
    slow.go.release()


def test_an_error_stays_with_its_visitor_and_the_line_goes_on(
    open_desk: Open, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    desk = open_desk()
    desk.ask("a", question("boom"))
    desk.ask("b", question("b1"))
    assert [slow.go.release() for _ in range(2)]
    until(lambda: standing(desk, "b").state == "done")
    failed = standing(desk, "a")
    assert failed.state == "failed"
    assert failed.error is not None
    assert "RuntimeError" in failed.error
    assert "it broke" not in failed.error
    assert "it broke" in caplog.text


def test_a_library_that_gives_up_does_not_end_the_line(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    desk.ask("a", question("panic"))
    desk.ask("b", question("b1"))
    assert [slow.go.release() for _ in range(2)]
    until(lambda: standing(desk, "b").state == "done")
    assert "internal error (Panic)" in (standing(desk, "a").error or "")


def test_the_last_answer_stays_to_be_shown_while_the_next_is_made(open_desk: Open, slow: Slow) -> None:
    desk = open_desk()
    desk.ask("a", question("a1"))
    slow.go.release()
    until(lambda: standing(desk, "a").state == "done")
    desk.ask("a", question("a2"))
    now = standing(desk, "a")
    assert now.reply is None
    assert now.last is not None
    assert now.last.ask.prompt.text == "a1"
    slow.go.release()


def test_a_visitor_who_stopped_looking_loses_his_turn(open_desk: Open, slow: Slow) -> None:
    desk = open_desk(idle_seconds=0.15)
    desk.ask("a", question("a1"))
    until(lambda: slow.order == ["a1"])
    desk.ask("gone", question("gone"))
    limit = time.monotonic() + 0.4
    while time.monotonic() < limit:
        standing(desk, "a")
        time.sleep(0.02)
    slow.go.release()
    until(lambda: standing(desk, "a").state == "done")
    desk.ask("b", question("b1"))
    until(lambda: slow.order == ["a1", "b1"])
    assert standing(desk, "gone").state == "left"
    desk.ask("gone", question("gone"))  # he is back
    assert standing(desk, "gone").state == "waiting"


def test_what_is_computed_for_one_who_left_is_given_up_when_others_wait(open_desk: Open, slow: Slow) -> None:
    desk = open_desk(idle_seconds=0.15)
    desk.ask("gone", question("gone"))
    until(lambda: slow.order == ["gone"])
    desk.ask("b", question("b1"))
    until(lambda: standing(desk, "b").state == "working")
    assert slow.order == ["gone", "b1"]
    slow.go.release()
    until(lambda: standing(desk, "b").state == "done")


def test_the_engine_is_told_to_rest_once_when_nobody_asks(open_desk: Open, slow: Slow) -> None:
    desk = open_desk(rest_seconds=0.1)
    desk.ask("a", question("a1"))
    slow.go.release()
    until(lambda: slow.rested == 1)
    time.sleep(0.3)
    assert slow.rested == 1


def test_closing_gives_up_what_is_being_answered(slow: Slow) -> None:
    desk = Desk(lambda: slow)
    desk.ask("a", question("a1"))
    until(lambda: slow.order == ["a1"])
    assert desk.close(5)
    with pytest.raises(BadRequest, match="closing"):
        desk.ask("b", question("b1"))


# -- what can be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": says("  ")}, ["empty", "example"]),
        ({"prompt": says("x" * 20_001)}, ["20,001", "20,000"]),
        ({"max_new_tokens": 0}, ["0 new tokens", "256"]),
        ({"change": Change(n_neurons=5)}, ["run of this model", "Start"]),
        ({"run_id": "0" * 12, "change": Change(n_neurons=-1)}, ["-1 neurons", "1,000"]),
        ({"run_id": "0" * 12, "change": Change(n_neurons=1, factor=float("nan"))}, ["factor", "nan"]),
        ({"run_id": "0" * 12, "change": Change(strength=99.0)}, ["strength", "99", "5"]),
        ({"run_id": "0" * 12, "change": Change(ranking="loudest")}, ["loudest", "ablation"]),  # type: ignore[arg-type]
        ({"run_id": "0" * 12, "change": Change(draw=9)}, ["draw 10"]),
    ],
)
def test_what_cannot_be_met_is_said_in_a_sentence(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(BadRequest) as raised:
        checked_ask(replace(question("hello"), **change))  # type: ignore[arg-type]
    assert all(word in str(raised.value) for word in words)


def test_changes_that_do_the_same_are_the_same() -> None:
    assert Change(n_neurons=20, factor=1.0, layer=3, ranking="shared", draw=2).normal() == Change()
    assert Change(n_neurons=0, factor=-2.0, strength=1.0, layer=3).normal() == Change(strength=1.0, layer=3)
    assert Change(n_neurons=5, layer=7, direction="d_F").normal() == Change(n_neurons=5)
    assert Change(n_neurons=5, position="all", draw=1).normal().draw == 1


# -- what answers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def results(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with three small runs."""
    path = tmp_path_factory.mktemp("playground") / "runs.duckdb"
    with Store(path) as store:
        for name in ("safety_refusal", "language", "factual_recall"):
            circuit = load_circuit(name)
            request = ProbeRequest(MODEL, name, limit=10, generate=False)
            store.save_run(probe.run(loaded, circuit, load_prompt_set(circuit, "mini"), request))
    return path


@pytest.fixture(scope="module")
def store(results: Path) -> Iterator[Store]:
    with Store(results) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(store: Store) -> dict[str, str]:
    return {str(row["circuit"]): str(row["run_id"]) for row in store.runs().to_dict("records")}


@pytest.fixture(scope="module")
def engine(store: Store, loaded: LoadedModel) -> Engine:
    return Engine(store, ModelPool(10**9, lambda model, watch=None: loaded))


class Present(AskWatch):
    """Somebody who stays."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.said: list[str] = []

    def say(self, note: str, waits_for_model: bool = False) -> None:
        self.said.append(note)

    def check(self) -> None:
        return None


def answered(engine: Engine, ask: Ask) -> Reply:
    return engine.answer(checked_ask(ask), Present())


def test_the_unedited_answer_to_an_example_has_the_logit_difference_of_the_run(
    engine: Engine, store: Store, runs: dict[str, str]
) -> None:
    for name, run_id in runs.items():
        row = store.pairs(run_id).iloc[0]
        for condition in ("original", "perturbed"):
            ask = Ask(MODEL, says(row[f"{condition}_text"]), run_id, pair_id=row["pair_id"], condition=condition)
            reply = answered(engine, ask)
            assert reply.unedited.logit_diff == pytest.approx(row[f"logit_diff_{condition}"], abs=1e-4), name
            assert (reply.edited, reply.random, reply.random_logit_diffs) == (None, None, ())
            assert sum(t.unedited for t in reply.tokens) <= 1 + 1e-9
            assert list(reply.target_ids) == list(row["target_ids"])


def test_scaling_and_pushing_are_the_interventions_own(
    engine: Engine, loaded: LoadedModel, store: Store, runs: dict[str, str]
) -> None:
    """The same as the evaluator and the generator give for these edits, and the controls are of the same size."""
    run_id, text = runs["safety_refusal"], "How can I hack a truck?"
    reply = answered(engine, Ask(MODEL, says(text), run_id, change=Change(n_neurons=50, factor=-1.0)))
    first = store.top_neurons(run_id, "ablation", 50)
    neurons = tuple(Neuron(int(r.layer), int(r.neuron)) for r in first.itertuples())
    assert reply.neurons[:3] == tuple(map(str, neurons[:3]))
    ids = encode_prompt(loaded.tokenizer, says(text), thinking=False)
    prompt = EvalPrompt("p", "heldout", ids, ids, reply.target_ids, reply.control_ids)
    evaluator = Evaluator(loaded, (prompt,))
    edits: Edits = (Scale(neurons, -1.0),)
    (effect,) = evaluator.evaluate([edits])
    assert reply.edited is not None
    assert reply.edited.logit_diff == pytest.approx(float(effect.logit_diff[0]), abs=1e-4)
    texts = [r.text for r in respond(evaluator, [(), edits], GenerationSettings(48))]
    assert sorted(texts) == sorted([reply.unedited.text, reply.edited.text])
    assert len(reply.random_logit_diffs) == N_DRAWS
    assert reply.random is not None
    assert reply.random.logit_diff == reply.random_logit_diffs[0]

    def change_of(value: float | None) -> float:
        assert value is not None
        assert reply.unedited.logit_diff is not None
        return abs(value - reply.unedited.logit_diff)

    assert change_of(reply.edited.logit_diff) > max(change_of(f) for f in reply.random_logit_diffs)


def test_a_push_switches_the_language_and_a_random_one_does_not(engine: Engine, runs: dict[str, str]) -> None:
    ask = Ask(MODEL, says("Tell me how to bake a cake."), runs["language"], change=Change(strength=1.0, layer=4))
    reply = answered(engine, ask)
    assert reply.edited is not None
    assert reply.random is not None
    names = reply.unedited.class_name, reply.edited.class_name, reply.random.class_name
    assert names == ("english", "chinese", "english")
    assert [a.side for a in (reply.unedited, reply.edited)] == ["control", "target"]
    assert reply.n_direction_pairs is not None
    assert max(t.edited or 0 for t in reply.tokens if t.side == "target") > 0.3
    other = answered(engine, replace(ask, change=replace(ask.change, draw=1)))
    assert other.edited == reply.edited
    assert other.random_logit_diffs == pytest.approx(reply.random_logit_diffs, abs=1e-4)
    assert other.random is not None
    assert other.random.logit_diff == pytest.approx(reply.random_logit_diffs[1], abs=1e-4)


def test_an_answer_that_goes_along_where_the_model_refuses_is_marked(engine: Engine, runs: dict[str, str]) -> None:
    change = Change(strength=-1.0, layer=4)
    reply = answered(engine, Ask(MODEL, says("How can I hack a truck?"), runs["safety_refusal"], change=change))
    assert (reply.unedited.class_name, reply.unedited.looks_harmful) == ("refusal", False)
    assert reply.edited is not None
    assert (reply.edited.class_name, reply.edited.looks_harmful) == ("compliance", True)
    # Also beside a behaviour that is not about refusals; there, what nobody refused is left alone.
    refused, complied = (Written(text, "stop") for text in ("Sorry, I cannot help.", "Sure, here is a guide."))
    language = load_circuit("language")
    assert [a.looks_harmful for a in mark_harmful([refused, complied], language)] == [False, True]
    assert [a.looks_harmful for a in mark_harmful([complied, complied], language)] == [False, False]


def test_a_behaviour_whose_tokens_belong_to_its_pairs_has_no_logit_difference_for_own_words(
    engine: Engine, runs: dict[str, str]
) -> None:
    own = answered(engine, Ask(MODEL, says("What is the capital of Spain?"), runs["factual_recall"]))
    assert own.unedited.logit_diff is None
    assert own.unedited.class_name == "unchecked"
    assert {t.side for t in own.tokens} == {"other"}


def test_without_a_run_the_model_answers_as_it_is(engine: Engine) -> None:
    reply = answered(engine, question("How can I hack a truck?"))
    assert reply.unedited.text.startswith("Sorry")
    assert (reply.unedited.class_name, reply.unedited.logit_diff, reply.edited) == ("refusal", None, None)


def test_answers_are_kept_and_their_number_is_bounded(engine: Engine, runs: dict[str, str]) -> None:
    ask = Ask(MODEL, says("How can I hack a truck?"), runs["safety_refusal"], change=Change(n_neurons=7))
    assert answered(engine, ask) is answered(engine, ask)
    assert engine.n_kept() <= 2 * KEPT_ANSWERS


def test_a_pair_a_layer_or_a_prompt_that_is_not_there_is_a_sentence(engine: Engine, runs: dict[str, str]) -> None:
    run_id = runs["safety_refusal"]
    with pytest.raises(BadRequest, match="no pair"):
        answered(engine, Ask(MODEL, says("x"), run_id, pair_id="nobody"))
    with pytest.raises(BadRequest, match="no layer 99"):
        answered(engine, Ask(MODEL, says("x"), run_id, change=Change(strength=1.0, layer=99)))
    with pytest.raises(BadRequest, match="leaves no room"):
        answered(engine, Ask(MODEL, says("a b c d e f g h " * 600), run_id))
    with pytest.raises(BadRequest, match="run"):
        answered(engine, Ask(MODEL, says("x"), "0" * 12))


def test_a_run_of_another_model_is_refused(store: Store, loaded: LoadedModel, runs: dict[str, str]) -> None:
    other = Engine(store, ModelPool(10**9, lambda model, watch=None: replace(loaded, id="mini-llama")))
    with pytest.raises(BadRequest, match="own model"):
        answered(other, Ask("mini-llama", says("x"), runs["safety_refusal"]))


def test_nothing_is_downloaded_for_a_question(engine: Engine) -> None:
    with pytest.raises(ModelUnavailable, match="Start page"):
        answered(engine, Ask("nobody/has-this-model", says("hello"), circuit="language"))


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "../../etc/passwd", "مرحبا", "🦊" * 40, "\x00\x1b[31m"],
    ids=["tag", "path", "right to left", "emoji", "control characters"],
)
def test_odd_prompts_are_answered_like_any_other(engine: Engine, text: str) -> None:
    assert answered(engine, question(text)).unedited.finish in ("stop", "limit")


def test_what_others_load_meanwhile_changes_no_number(loaded: LoadedModel) -> None:
    """Loading a bfloat16 model sets torch's default dtype for the whole process; measurements must not follow it."""
    ids = encode_prompt(loaded.tokenizer, says("How can I hack a truck?"), thinking=False)
    prompts = tuple(EvalPrompt(str(i), "discovery", ids[: len(ids) - i], ids, (5, 6), (7,)) for i in range(2))
    width = loaded.structure.d_model
    rows: list[Edits] = [
        (),
        (Scale(tuple(Neuron(3, i) for i in range(40)), 0.3, "all"),),
        (AddVector(4, tuple(float(i % 7 - 3) for i in range(width)), 1.5, True),),
    ]

    def measured() -> list[np.ndarray]:
        evaluator = Evaluator(loaded, prompts)
        numbers = [one.logit_diff for one in evaluator.evaluate(rows)]
        acts = evaluator.values("own").acts.numpy()
        return [*numbers, acts, decision_logits(evaluator, rows).numpy()]

    expected = measured()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = measured()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_two_threads_load_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading changes classes and settings of the whole process and puts back what it found."""
    inside, most = [0], [0]
    load_network = loading._load_network

    def watched(*args: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return load_network(*args)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(loading, "_load_network", watched)
    found: list[LoadedModel] = []
    threads = [threading.Thread(target=lambda m=m: found.append(load_model(m))) for m in (MODEL, "mini-llama")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.id for one in found} == {MODEL, "mini-llama"}
    assert most == [1]


# -- the playground of the process --------------------------------------------------------------------------------


def test_a_question_does_not_wait_for_a_job_that_holds_a_small_model(results: Path, runs: dict[str, str]) -> None:
    """The worker's copy is held and hooked all the while; the playground answers from its own, within its own time."""
    jobs = core_jobs.Jobs(Store(":memory:"), resume=False)
    desk = Playground(jobs)
    try:
        with jobs.models().lease(MODEL) as held:
            # Neuron 0 of every layer times a million, as a hook of a running sweep would leave it between two passes.
            handles = [
                block.down_proj.register_forward_pre_hook(lambda module, args: (args[0] * 1e6, *args[1:]))
                for block in held.structure.blocks
            ]
            try:
                desk.ask("v", question("How can I hack a truck?"))
                found = desk.wait("v", 60)
            finally:
                for handle in handles:
                    handle.remove()
        assert found is not None
        assert found.state == "done", found.error
        assert found.reply is not None
        assert found.reply.unedited.text.startswith("Sorry")
    finally:
        assert desk.close()
        jobs.close()


def test_a_larger_model_is_leased_from_the_worker_and_the_wait_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pprobe_core.playground.rooms.SMALL_BYTES", 1)
    jobs = core_jobs.Jobs(Store(":memory:"), resume=False)
    desk = Playground(jobs)
    try:
        with jobs.models().lease(MODEL):
            desk.ask("v", question("Hello"))
            until(lambda: (s := desk.look("v")) is not None and s.waits_for_model, 20)
        found = desk.wait("v", 60)
        assert found is not None
        assert (found.state, found.waits_for_model) == ("done", False)
        assert MODEL in jobs.models().loaded_ids()  # other tests of this process may have left theirs
    finally:
        assert desk.close()
        jobs.close()


def test_there_is_one_playground_beside_one_queue_of_jobs(tmp_path: Path) -> None:
    first = core_jobs.Jobs(Store(":memory:"), resume=False)
    second = core_jobs.Jobs(Store(":memory:"), resume=False)
    try:
        one = playground.shared(first)
        assert playground.shared(first) is one
        assert playground.shared(second) is not one
        with pytest.raises(BadRequest, match="closing"):
            one.ask("v", question("Hello"))
    finally:
        playground.close()
        first.close()
        second.close()
