"""The circuits that come with the product are whole, and a circuit of one's own is one file away."""

import hashlib

import pytest
import yaml

from pprobe_core import settings
from pprobe_core.circuits.library import PERTURBATIONS, load_circuit, load_circuits, read_circuit
from pprobe_core.circuits.prompt_sets import COLUMNS, load_prompt_set
from pprobe_core.circuits.responses import RULES
from pprobe_core.errors import BadRequest

EIGHT = {"safety_refusal", "sycophancy", "language", "factual_recall", "code", "math", "chain_of_thought", "tool_use"}


@pytest.fixture
def folder(tmp_path):
    """A circuits folder that holds a copy of one circuit."""
    (tmp_path / "code.yaml").write_bytes((settings.CIRCUITS / "code.yaml").read_bytes())
    return tmp_path


def write(folder, name, **changes):
    """A circuit file made from code.yaml with fields changed; None takes a field out."""
    document = yaml.safe_load((settings.CIRCUITS / "code.yaml").read_text(encoding="utf-8"))
    document = {key: value for key, value in {**document, "circuit_id": name, **changes}.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")


def test_the_eight_circuits_of_the_paper_are_there():
    assert set(load_circuits(settings.CIRCUITS)) == EIGHT


@pytest.mark.parametrize("circuit_id", sorted(EIGHT))
def test_a_circuit_is_whole(circuit_id):
    circuit = load_circuit(circuit_id)
    assert circuit.sha256 == hashlib.sha256((settings.CIRCUITS / f"{circuit_id}.yaml").read_bytes()).hexdigest()
    assert circuit.perturbation in PERTURBATIONS
    assert bool(circuit.target) == bool(circuit.control) == (not circuit.per_pair_observable)
    assert not set(circuit.target) & set(circuit.control)
    assert {c.name for c in circuit.response_classes} == set(RULES[circuit.response_rule].classes)
    assert {c.side for c in circuit.response_classes} == {"target", "control", "other"}
    assert circuit.question.endswith("?")


def test_the_papers_structures_are_recorded():
    structures = {name: circuit.expected_structure for name, circuit in load_circuits(settings.CIRCUITS).items()}
    assert {name for name, kind in structures.items() if kind == "opposition"} == {"safety_refusal", "sycophancy"}
    assert {name for name, kind in structures.items() if kind == "routing"} == {"language"}


@pytest.mark.parametrize("prompts", ["mini", "general"])
@pytest.mark.parametrize("circuit_id", sorted(EIGHT))
def test_each_circuit_has_both_prompt_sets_with_fixed_splits(circuit_id, prompts):
    pairs = load_prompt_set(circuit_id, prompts).pairs
    assert len(pairs) >= (60 if prompts == "general" else 48)
    share = {
        split: sum(pair.split == split for pair in pairs) / len(pairs)
        for split in ("discovery", "validation", "heldout")
    }
    assert share["discovery"] == pytest.approx(0.6, abs=0.02)
    assert share["validation"] == pytest.approx(0.2, abs=0.02)
    assert {pair.split for pair in pairs[:5]} == {"discovery", "validation", "heldout"}
    assert all(pair.pair_id == f"{circuit_id}-{prompts}-{i:03d}" for i, pair in enumerate(pairs, start=1))


@pytest.mark.parametrize("prompts", ["mini", "general"])
@pytest.mark.parametrize("circuit_id", sorted(EIGHT))
def test_no_pair_repeats_another_and_none_equals_its_twin(circuit_id, prompts):
    pairs = load_prompt_set(circuit_id, prompts).pairs
    assert len({(repr(pair.original), repr(pair.perturbed)) for pair in pairs}) == len(pairs)
    assert all(pair.original != pair.perturbed for pair in pairs)


def test_language_twins_are_english_and_chinese():
    for pair in load_prompt_set("language", "general").pairs:
        assert pair.original.text.isascii()
        assert any("\u4e00" <= char <= "\u9fff" for char in pair.perturbed.text)


def test_sycophancy_has_push_back_in_which_only_the_last_turn_differs():
    multi = [pair for pair in load_prompt_set("sycophancy", "general").pairs if len(pair.original.messages) == 3]
    assert len(multi) >= 16
    for pair in multi:
        assert pair.original.messages[:2] == pair.perturbed.messages[:2]
        assert pair.original.messages[1]["role"] == "assistant"


def test_tool_pairs_offer_the_same_tools_on_both_sides():
    pairs = load_prompt_set("tool_use", "general").pairs
    assert all(pair.original.tools and pair.original.tools == pair.perturbed.tools for pair in pairs)
    names = {tool["function"]["name"] for pair in pairs for tool in pair.original.tools}
    assert len(names) >= 10


def test_sums_carry_the_right_answer():
    for pair in load_prompt_set("math", "general").pairs:
        assert len(pair.gold) == 1
        assert pair.gold[0].isdigit()


def test_adding_a_circuit_is_adding_a_file(folder):
    write(folder, "poetry", title="Verse or prose", target=["Roses"], control=["The"])
    assert list(load_circuits(folder)) == ["code", "poetry"]
    assert load_circuit("poetry", folder).target == ("Roses",)


def test_an_unknown_circuit_names_the_known_ones(folder):
    with pytest.raises(BadRequest, match=r"'poetry'.*code"):
        load_circuit("poetry", folder)
    with pytest.raises(BadRequest, match="no circuit called"):
        load_circuit("../code", folder)


def test_an_empty_folder_says_what_a_circuit_is(tmp_path):
    with pytest.raises(BadRequest, match=r"\.yaml"):
        load_circuits(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title": None}, "'title' is missing"),
        ({"title": "   "}, "'title' must be a text"),
        ({"titel": "x"}, "'titel' is not known; accepted are circuit_id"),
        ({"perturbation": "swap"}, "'perturbation' must be one of bpe_swap, given, found 'swap'"),
        ({"expected_structure": "unknown"}, "opposition, routing, read_out"),
        ({"response_rule": "none"}, "'response_rule' must be one of"),
        ({"per_pair_observable": "maybe"}, "'per_pair_observable' must be true or false"),
        ({"target": "Yes"}, "'target' must be a list of texts"),
        ({"target": [1, 2]}, "put quotes around numbers"),
        ({"target": [True]}, "put quotes around numbers"),
        ({"target": []}, "'target' must list at least one string"),
        ({"target": ["a", "a"]}, "'target' lists 'a' twice"),
        ({"target": ["It"]}, "'control' lists 'It', which stands in target too"),
        ({"per_pair_observable": True}, "must be an empty list"),
        ({"response_classes": []}, "'response_classes' must name each class"),
        ({"response_classes": ["code"]}, "three keys name, title and side"),
        ({"response_classes": [{"name": "code", "title": "Code", "side": "left"}]}, "accepted: target, control, other"),
        ({"circuit_id": "other"}, "must equal the file's name"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_accepted(folder, changes, said):
    write(folder, "poetry", **changes)
    with pytest.raises(BadRequest) as error:
        load_circuits(folder)
    assert str(error.value).startswith("poetry.yaml: ")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"title: [", "not valid YAML"),
        (b"", "found nothing"),
        (b"- a\n- b\n", "found a list"),
        (b"title: caf\xe9\n", "not UTF-8"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_damaged_file_is_refused_in_words(folder, raw, said):
    (folder / "poetry.yaml").write_bytes(raw)
    with pytest.raises(BadRequest, match=said):
        load_circuits(folder)


def test_the_circuit_in_the_documentation_loads_as_it_stands_there(tmp_path):
    text = (settings.ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "verse.yaml").write_text(example, encoding="utf-8")
    assert load_circuit("verse", tmp_path).target_fallback == ("In",)


def test_the_prompt_files_in_the_documentation_load_as_they_stand_there(tmp_path):
    text = (settings.ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
    for kind, ending, circuit in (("csv", "csv", "code"), ("json", "jsonl", "sycophancy")):
        path = tmp_path / f"example.{ending}"
        path.write_text(text.split(f"```{kind}\n", 1)[1].split("```", 1)[0], encoding="utf-8")
        assert len(load_prompt_set(circuit, str(path)).pairs) == 1


def test_the_documentation_names_every_circuit_rule_and_column():
    text = (settings.ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
    for name in (*EIGHT, *RULES, *COLUMNS, *(c for rule in RULES.values() for c in rule.classes)):
        assert name in text


# -- what sweeps read --


def test_strings_of_a_prompt_set_take_the_place_of_the_circuits_own():
    circuit = load_circuit("safety_refusal")
    mini = circuit.for_set("mini")
    assert (mini.target, mini.control) == (("Sorry",), ("Sure",))
    assert circuit.for_set("general") is circuit
    assert mini.sha256 == circuit.sha256


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("set_strings: {mini: {target: [A]}}", "target and control"),
        ("set_strings: {mini: {target: [A], control: [A]}}", "both sides"),
        ("set_strings: {mini: {target: [], control: [B]}}", "no list of texts"),
        ("outcomes: [{name: x, title: y, classes: [nothing]}]", "accepted"),
        ("outcomes: [{name: x, title: y, classes: [code], prompts: some}]", "multi_turn"),
        ("outcomes: [{name: x}]", "name, title, classes"),
        ("sweep: {condition: both}", "accepted: original, perturbed"),
        ("sweep: {colour: red}", "condition, position, ranking"),
        ("same_content: maybe", "true or false"),
    ],
)
def test_what_a_sweep_reads_is_checked_with_the_file_and_the_field(tmp_path, extra, words):
    path = tmp_path / "code.yaml"
    own = (settings.CIRCUITS / "code.yaml").read_text(encoding="utf-8")
    name = extra.split(":")[0]
    kept, skipping = [], False
    for line in own.splitlines():
        skipping = line.startswith(f"{name}:") or (skipping and line.startswith(" "))
        if not skipping:
            kept.append(line)
    path.write_text("\n".join([*kept, extra]), encoding="utf-8")
    with pytest.raises(BadRequest, match=name) as error:
        read_circuit(path)
    assert words in str(error.value)
