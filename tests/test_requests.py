"""What a request can ask for beside model, circuit and prompts, and that requests of before stay what they were."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.schema import PromptPair
from pprobe_core.errors import BadRequest
from pprobe_core.jobs import checked
from pprobe_core.models.loading import LoadedModel, load_model
from pprobe_core.probing import probe
from pprobe_core.probing.observable import resolve_given
from pprobe_core.probing.strings import check_strings, parse_strings, written_strings
from pprobe_core.probing.tokens import thinking_state
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store, job_id_of
from tests.probing_models import circuit, fresh_tiny, loaded_tiny, prompt, prompt_set, request
from tests.results_by_hand import result_by_hand
from tests.tiny_models import edit_json, write_tiny_model

SWITCH = "{% if NAME is defined and not NAME %}<think></think>{% endif %}"


def _with_switch(name: str = "enable_thinking") -> LoadedModel:
    """A tiny model whose chat template closes the thinking itself where it is told not to think."""
    loaded = fresh_tiny()
    loaded.tokenizer.chat_template += SWITCH.replace("NAME", name)
    return loaded


# Identity ----------------------------------------------------------------------------------------------------------


def test_requests_from_before_there_was_a_choice_keep_their_ids() -> None:
    """Written down when requests had seven fields: a stored run must be found again by the request that made it."""
    assert job_id_of(ProbeRequest(model="mini", circuit="safety_refusal", limit=3)) == "773ba37a7ed3"
    assert job_id_of(ProbeRequest(model="mini-qwen3", circuit="safety_refusal")) == "2109708f4194"
    loaded = replace(loaded_tiny(), weights_sha256="w", config_sha256="c", tokenizer_sha256="t")
    keys = [
        probe.request_key(loaded, circuit(sha256="0" * 64), prompt_set(), request(generate=g)) for g in (False, True)
    ]
    assert keys == [
        "73584e88719d19b62bf8ef1681e18ea063d00abe924795fe03be02a0bedc12b4",
        "c6f483966b33642d72fc14706b540f4bbc8b9a5d6f0902dc72a08d6d84713a5b",
    ]


def test_each_new_choice_is_another_run_and_another_job() -> None:
    base = request()
    changes = (
        {"thinking": "on"},
        {"thinking": "off"},
        {"target": ("S",), "control": ("Y",)},
        {"target": ("Y",), "control": ("S",)},
        {"target": ("S",), "control": ("Y",), "harvested_from": "0123456789ab"},
    )
    asked = [base, *(replace(base, **change) for change in changes)]  # type: ignore[arg-type]
    assert len({job_id_of(r) for r in asked}) == len(asked)
    assert len({probe.request_key(loaded_tiny(), circuit(), prompt_set(), r) for r in asked}) == len(asked)


def test_a_request_reads_what_it_wrote_and_what_older_ones_wrote() -> None:
    new = replace(request(), thinking="off", target=("a", " b"), control=("c",), harvested_from="0123456789ab")
    assert ProbeRequest.from_json(json.loads(json.dumps(new.as_json()))) == new
    old = {"model": "m", "circuit": "c", "prompts": "mini", "coupling": "plain", "limit": None, "seed": 1}
    read = ProbeRequest.from_json(old)
    assert (read.thinking, read.target, read.control, read.strings_from) == ("auto", (), (), "circuit")
    assert set(read.as_json()) == {*old, "generate"}


def test_the_store_gives_requests_back_and_lists_where_their_strings_come_from(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.duckdb") as store:
        made = {
            "circuit": {},
            "given": {"target": ("Sorry", "a | b"), "control": ("Sure",), "thinking": "off"},
            "harvested": {"target": ("No",), "control": ("Yes",), "harvested_from": "0123456789ab"},
        }
        for seed, (source, change) in enumerate(made.items()):
            result = result_by_hand(seed=seed)
            run_id = store.save_run(replace(result, request=replace(result.request, **change)))  # type: ignore[arg-type]
            row = store.runs().set_index("run_id").loc[run_id]
            assert store.run(run_id).request == replace(result.request, **change)  # type: ignore[arg-type]
            assert row["strings_from"] == source
            assert row["thinking"] == change.get("thinking", "auto")
            assert tuple(row["target"]) == change.get("target", ())
            job = store.add_job(replace(result.request, **change))  # type: ignore[arg-type]
            assert job.request == store.run(run_id).request


def test_a_request_that_cannot_be_met_is_refused_before_it_is_queued() -> None:
    base = ProbeRequest(model="mini-qwen3", circuit="safety_refusal")
    for change, said in (
        ({"target": ("Sorry",)}, "target strings and no control strings"),
        ({"target": ("Sorry",), "control": ("Sorry",)}, "'Sorry' is given for both sides"),
        ({"target": ("a", "a"), "control": ("b",)}, "'a' stands there twice"),
        ({"target": ("x" * 200,), "control": ("b",)}, "has 200 characters"),
        ({"target": tuple(map(str, range(60))), "control": ("b",)}, "60 target strings; at most 50"),
    ):
        with pytest.raises(BadRequest, match=said):
            checked(replace(base, **change))  # type: ignore[arg-type]
    unknown = replace(base)
    object.__setattr__(unknown, "thinking", "maybe")  # as a file or another program may say it
    with pytest.raises(BadRequest, match=r"no state of thinking 'maybe'\. Choose auto, on or off"):
        checked(unknown)
    with pytest.raises(BadRequest, match="every prompt pair brings target and control strings of its own"):
        checked(replace(base, circuit="factual_recall", target=("a",), control=("b",)))
    asked = replace(base, thinking="off", target=("Sorry",), control=("Sure",))
    assert checked(asked) == asked


# Thinking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_thinking_is_handed_to_the_switch_and_what_came_of_it_is_found(name: str) -> None:
    loaded = _with_switch(name)
    closed = loaded.tokenizer.convert_tokens_to_ids("</think>")
    for asked in ("on", "off"):
        prepared = probe.prepare(loaded, circuit(), prompt_set(), replace(request(), thinking=asked))  # type: ignore[arg-type]
        assert prepared.thinking == (asked == "on")
        assert prepared.thinking_state == asked
        for pair in prepared.pairs:
            assert (
                (pair.input_ids_original[-1] == closed) == (pair.input_ids_perturbed[-1] == closed) == (asked == "off")
            )
        assert prepared.notes == ()


def test_asked_for_without_a_switch_thinking_is_a_note_and_not_an_error() -> None:
    asked = probe.run(loaded_tiny(), circuit(), prompt_set(), replace(request(), thinking="on"))
    auto = probe.run(loaded_tiny(), circuit(), prompt_set(), request())
    assert (asked.summary["thinking_asked"], asked.summary["thinking_state"]) == ("on", "no_switch")
    assert asked.pairs.input_ids_original.tolist() == auto.pairs.input_ids_original.tolist()
    assert any("no switch" in note for note in asked.summary["notes"])
    assert auto.summary["notes"] == []


def test_the_automatic_rule_stays_as_it_was() -> None:
    loaded = _with_switch()
    plain = probe.prepare(loaded, circuit(), prompt_set(), request())
    names_it = replace(circuit(), target=("<think>",))
    thinks = probe.prepare(loaded, names_it, prompt_set(), request())
    given = probe.prepare(loaded, names_it, prompt_set(), replace(request(), target=("S",), control=("Y",)))
    assert (plain.thinking_state, thinks.thinking_state, given.thinking_state) == ("off", "on", "on")
    assert given.pairs[0].input_ids_original == thinks.pairs[0].input_ids_original


def test_a_template_with_a_state_of_its_own_is_told_apart() -> None:
    tokenizer = fresh_tiny().tokenizer
    tokenizer.chat_template += "{% if thinking is defined %}{{ '<think>' if thinking else '</think>' }}{% endif %}"
    bare = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    assert thinking_state(tokenizer, prompt("Hi"), bare) == "own"
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert thinking_state(tokenizer, prompt("Hi"), [*bare, think]) == "on"


def test_a_model_without_a_chat_template_says_how_its_prompts_were_written(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "bare")
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    result = probe.run(load_model(str(folder), device="cpu"), circuit(), prompt_set(), request())
    assert result.summary["thinking_state"] == "no_switch"
    assert any("no chat template" in note and "User:" in note for note in result.summary["model_notes"])
    assert "User: How do I build a bomb?\nAssistant:" in "".join(result.pairs.tokens_original[0])


# Strings -----------------------------------------------------------------------------------------------------------


def test_given_strings_stand_in_place_of_the_circuits_and_the_verdict_says_so() -> None:
    loaded = loaded_tiny()
    result = probe.run(loaded, circuit(), prompt_set(), replace(request(), target=("C",), control=("W", "P")))
    ids = {s: tuple(loaded.tokenizer.convert_tokens_to_ids(list(t))) for s, t in (("target", "C"), ("control", "WP"))}
    assert tuple(result.summary["observable"]["target_ids"]) == ids["target"]
    assert tuple(result.summary["observable"]["control_ids"]) == ids["control"]
    assert result.summary["observable"]["strings_from"] == "given"
    assert any("were given with this run" in reason for reason in result.summary["verdict"]["reasons"])
    assert list(result.token_preview.string) == ["C", "W", "P"]
    own = probe.run(loaded, circuit(), prompt_set(), request()).summary
    assert own["observable"]["strings_from"] == "circuit"
    assert not any("given" in reason or "harvested" in reason for reason in own["verdict"]["reasons"])


def test_a_given_string_that_is_not_one_token_is_refused_with_its_pieces() -> None:
    tokenizer = loaded_tiny().tokenizer
    with pytest.raises(BadRequest, match=r"target string 'xyzzy' is not one token of this model \(\d tokens \(.*\)"):
        resolve_given(tokenizer, ["S", "xyzzy"], ["Y"], strict=True)
    harvested = resolve_given(tokenizer, ["S", "xyzzy"], ["Y"], strict=False)
    assert list(harvested.preview.used) == [True, False, True]


def test_given_tokens_of_both_sides_are_refused() -> None:
    with pytest.raises(BadRequest, match="same token of this model as one of the other side"):
        resolve_given(loaded_tiny().tokenizer, ["S"], ["Y", "S"], strict=True)


def test_every_given_variant_counts() -> None:
    """A circuit's spaced variants are spares; these were asked for one by one."""
    tokenizer = loaded_tiny().tokenizer
    spaced = next(t for t in (" S", " a", " t") if len(tokenizer(t, add_special_tokens=False)["input_ids"]) == 1)
    found = resolve_given(tokenizer, [spaced, spaced.strip()], ["Y"], strict=True)
    assert len(set(found.target_ids)) == 2


def test_pairs_with_strings_of_their_own_keep_them_and_it_is_said() -> None:
    own = PromptPair("own", "discovery", prompt("Hi"), prompt("Hello"), target=("No",), control=("Yes",))
    pairs = replace(prompt_set(), pairs=(*prompt_set().pairs, own))
    asked = replace(request(), target=("C",), control=("W",))
    prepared = probe.prepare(loaded_tiny(), circuit(), pairs, asked)
    assert prepared.own_strings == ("own",)
    assert len({pair.target_ids for pair in prepared.pairs[:-1]}) == 1
    assert prepared.pairs[-1].target_ids != prepared.pairs[0].target_ids
    assert "keep them (1 of 6 here)" in prepared.notes[0]
    with pytest.raises(BadRequest, match="would change nothing"):
        probe.prepare(loaded_tiny(), circuit(), replace(pairs, pairs=(own,)), asked)


@pytest.mark.parametrize(
    ("line", "strings"),
    [
        ("Sure|Here", ("Sure", "Here")),
        ("Sure| Here", ("Sure", " Here")),
        ("||a|", ("a",)),
        ("", ()),
        (r"<\|x\|>|\n", ("<|x|>", "\n")),
        (r"a\\|b", ("a\\", "b")),
        ("好|抱歉", ("好", "抱歉")),
    ],
)
def test_strings_are_written_in_one_line_and_read_back(line: str, strings: tuple[str, ...]) -> None:
    assert parse_strings(line) == strings
    assert parse_strings(written_strings(strings)) == strings


def test_no_strings_are_accepted_for_every_circuit() -> None:
    for name in ("safety_refusal", "factual_recall"):
        check_strings(load_circuit(name), (), ())
