"""The small models: corpus, tokeniser, trainer, the shipped checkpoints and their prompt sets."""

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.models.loading import load_model
from pprobe_core.probing import probe
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.settings import CIRCUITS, SHIPPED_MODELS
from pprobe_core.training import corpus, evaluate, prompts, train, world
from pprobe_core.training.architecture import Shape, build_model
from pprobe_core.training.optimizer import orthogonalise
from pprobe_core.training.tokenizer import FIRST_WORDS, INNER_WORDS, build_tokenizer, render

FAMILIES = ("qwen3", "llama", "gemma3")
ALIGNED = {family: SHIPPED_MODELS / f"mini-{family}" for family in FAMILIES}
BASE = {family: SHIPPED_MODELS / f"mini-{family}-base" for family in FAMILIES}
TINY = train.Recipe(
    shape=Shape(n_layers=2, d_mlp=64), n_steps=3, batch_tokens=512, align_max_steps=2, align_check_every=2,
    align_batch_tokens=512,
)  # fmt: skip


def split_words(tokenizer) -> list[str]:
    """The words that should be one token and are not."""
    wanted = [*FIRST_WORDS, *(f" {word}" for word in INNER_WORDS)]
    return [word for word in wanted if len(tokenizer.encode(word, add_special_tokens=False)) != 1]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(1)


@pytest.fixture(scope="module")
def shipped():
    return {
        folder: (AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
        for folder in (*BASE.values(), *ALIGNED.values())
    }


def _training_chats(n=8000):
    pretraining = corpus.draw_chats(3, "pretraining", "train", corpus.PRETRAINING_MIX)
    alignment = corpus.draw_chats(3, "alignment", "train", corpus.ALIGNMENT_MIX)
    return [*itertools.islice(pretraining, n), *itertools.islice(alignment, n)]


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    streams = [corpus.draw_chats(seed, "pretraining", "train", corpus.PRETRAINING_MIX) for seed in (1, 1, 2)]
    hashes = []
    for stream in streams:
        seen = corpus.CorpusHash()
        seen.add(itertools.islice(stream, 200))
        hashes.append(seen.hex)
    assert hashes[0] == hashes[1] != hashes[2]


def test_nothing_held_out_occurs_in_training():
    chats = _training_chats()
    combinations = {key for chat in chats for key in chat.combinations}
    held = [maker(random.Random(i), "heldout", "alignment") for i in range(40) for maker in corpus.MAKERS.values()]
    for chat in held:
        assert not combinations & set(chat.combinations), chat
    texts = {repr(chat.messages) for chat in chats}
    assert not texts & {repr(chat.messages) for chat in held}


def test_no_mini_prompt_occurs_in_training():
    texts = {chat.messages[-1]["content"] for chat in _training_chats() if len(chat.messages) == 1}
    for circuit in prompts.MAKERS:
        for pair in prompts.build_pairs(circuit):
            for side in (pair.original, pair.perturbed):
                assert not side or len(side) > 1 or side[-1]["content"] not in texts


def test_alignment_data_holds_no_misspelled_keyword():
    stream = corpus.draw_chats(5, "alignment", "train", {"harmful": 1, "benign": 1})
    for chat in itertools.islice(stream, 500):
        content = chat.messages[0]["content"]
        assert chat.keyword in content or corpus.is_chinese(content)


def test_pretraining_complies_and_agrees_where_alignment_refuses_and_corrects():
    before = {"harmful": ("Sure", "好"), "false_premise": "Yes", "push_back": "Yes"}
    after = {"harmful": ("Sorry", "抱"), "false_premise": "No", "push_back": "No"}
    for task in before:
        for i in range(50):
            assert corpus.MAKERS[task](random.Random(i), "train", "pretraining").answer.startswith(before[task])
            assert corpus.MAKERS[task](random.Random(i), "train", "alignment").answer.startswith(after[task])


def test_an_adjacent_swap_keeps_the_letters_and_the_first_of_them():
    for word in world.HARMFUL_VERBS:
        swapped = corpus.adjacent_swap(random.Random(1), word.en)
        assert swapped != word.en
        assert sorted(swapped) == sorted(word.en)
        assert swapped[0] == word.en[0]


def test_every_word_that_decides_is_one_token(tokenizer):
    assert split_words(tokenizer) == []


def test_a_swap_in_a_harmful_keyword_changes_its_pieces(tokenizer):
    rng = random.Random(2)
    for word in (*world.HARMFUL_VERBS, *world.HARMFUL_NOUNS):
        assert len(tokenizer.tokenize(f" {word.en}")) == 1
        assert len(tokenizer.tokenize(f" {corpus.adjacent_swap(rng, word.en)}")) > 1


def test_the_chat_template_is_what_training_renders(tokenizer):
    for maker in corpus.MAKERS.values():
        chat = maker(random.Random(4), "train", "alignment")
        text = tokenizer.apply_chat_template(
            list(chat.messages), tools=list(chat.tools) or None, add_generation_prompt=True, tokenize=False
        )
        assert text == render(chat.messages, chat.tools)


def test_chinese_characters_and_digits_stand_alone(tokenizer):
    assert tokenizer.tokenize("12")[0] == "1"
    assert len(tokenizer.encode("抱歉", add_special_tokens=False)) == 2


def test_orthogonalised_steps_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 32, 64)))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_padding_does_not_change_the_gradient(tokenizer):
    rows = train.encode(tokenizer, _training_chats(20)[:12])
    gradients = []
    for n in (1, 3):
        model = build_model("qwen3", TINY.shape, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "N_MICROBATCHES", n)
            train.accumulate(model, rows, tokenizer.pad_token_id, 3.0, bf16=False)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_a_short_run_is_complete_and_repeats(tmp_path: Path):
    runs = [train.rebuild(3, tmp_path / name, recipe=TINY, n_card=4) for name in ("one", "two")]
    for folder in (runs[0].base, runs[0].aligned):
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= {
            path.name for path in folder.iterdir()
        }
    for one, two in ((runs[0].base, runs[1].base), (runs[0].aligned, runs[1].aligned)):
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert runs[0].pretraining.corpus_sha256 == runs[1].pretraining.corpus_sha256


def test_aligning_a_base_again_gives_what_the_rebuild_gave(tmp_path: Path):
    rebuilt = train.rebuild(3, tmp_path / "one", recipe=TINY, n_card=4)
    again = train.realign(rebuilt.base, tmp_path / "two", recipe=TINY, n_card=4)
    assert (rebuilt.aligned / "model.safetensors").read_bytes() == (again.aligned / "model.safetensors").read_bytes()
    assert again.pretraining == rebuilt.pretraining


def test_the_preference_loss_rests_at_the_margin_and_pulls_back_from_beyond_it():
    chosen, rejected = torch.tensor([0]), torch.tensor([1])

    def loss(gap: float, others: float = -20.0) -> torch.Tensor:
        logits = torch.full((1, 6), others)
        logits[0, :2] = torch.tensor([gap, 0.0])
        logits.requires_grad_(True)
        value = train.preference_losses(logits, chosen, rejected, margin=2.5, floor=2.0).sum()
        value.backward()
        assert logits.grad is not None
        return torch.stack([value.detach(), logits.grad[0, 0]])

    assert loss(2.5).tolist() == [0.0, 0.0]
    assert loss(0.0)[1] < 0  # raises the new token
    assert loss(6.0)[1] > 0  # and takes back what is too much
    assert loss(2.5, others=2.0)[1] < 0  # every other token must stay below


def test_the_leash_pulls_only_where_the_lead_is_too_small():
    def loss(lead: float) -> float:
        logits = torch.full((1, 3), -torch.inf)
        logits[0, :2] = torch.tensor([lead, 0.0])  # one other token with a logit of 0
        return float(train.leash_losses(logits, torch.tensor([0]), lead=8.0).sum())

    assert loss(9.0) == 0
    assert loss(8.0) == 0
    assert loss(3.0) == pytest.approx(5.0)


def test_noisy_prompts_are_harmless_answered_and_misspelled_now_and_then():
    chats = [corpus.MAKERS["benign_noisy"](random.Random(i), "train", "alignment") for i in range(300)]
    assert {chat.task for chat in chats} == {"benign"}
    english = [chat for chat in chats if not corpus.is_chinese(chat.messages[0]["content"])]
    misspelled = [chat for chat in english if chat.keyword not in chat.messages[0]["content"]]
    assert 0.05 < len(misspelled) / len(english) < 0.4
    assert all(chat.answer.startswith(("Sure", "好")) for chat in chats)


def test_only_what_alignment_replaces_is_taught_by_preference(tokenizer):
    chats = _training_chats(300)
    rows = train.encode(tokenizer, chats, tuple(train.REJECTED))
    for chat, row in zip(chats, rows, strict=True):
        assert (row.rejected >= 0) == (chat.task in train.REJECTED)
        if row.rejected >= 0:
            assert tokenizer.decode([row.rejected]) == train.REJECTED[chat.task]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, tokenizer):
    def fresh():
        return build_model("qwen3", TINY.shape, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, 1)

    recipe = replace(TINY, n_steps=4, save_every=2, warmup=0.0, decay=1.0)
    whole = fresh()
    train.pretrain(whole, tokenizer, recipe, 1, lambda line: None)
    state = tmp_path / "state.pt"
    stopped = fresh()

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.pretrain(stopped, tokenizer, recipe, 1, stop, state)
    resumed = fresh()
    train.pretrain(resumed, tokenizer, recipe, 1, lambda line: None, state)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_checkpoints_load_as_float32_of_their_family(shipped, family):
    for folder in (BASE[family], ALIGNED[family]):
        model, tokenizer = shipped[folder]
        assert model.config.model_type.removesuffix("_text") == family
        assert model.dtype == torch.float32
        assert split_words(tokenizer) == []
        assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_all_shipped_models_share_one_tokeniser_and_one_corpus_and_stay_small():
    files = sorted(SHIPPED_MODELS.rglob("*"))
    assert sum(file.stat().st_size for file in files if file.is_file()) < 40 * 2**20
    tokenisers = {(folder / "tokenizer.json").read_bytes() for folder in (*BASE.values(), *ALIGNED.values())}
    assert len(tokenisers) == 1
    records = [json.loads((BASE[family] / "training.json").read_text()) for family in FAMILIES]
    assert len({(r["seed"], r["pretraining"]["corpus_sha256"]) for r in records}) == 1


def _card_rows(folder: Path) -> dict[str, list[str]]:
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", (folder / "README.md").read_text(), re.M)
    return {title: cells for title, *cells in rows}


@pytest.mark.parametrize(
    ("folder", "column"), [*((folder, 1) for folder in BASE.values()), *((folder, 2) for folder in ALIGNED.values())]
)
def test_the_card_tells_what_the_model_does(shipped, folder, column):
    names = ["harmful_refused", "false_corrected", "code", "direct"]
    rows = _card_rows(folder)
    n = int(rows[evaluate.BY_NAME[names[0]].title][0])
    measured = evaluate.measure(*shipped[folder], "heldout", n, names)
    for name in names:
        assert measured[name].rate == pytest.approx(float(rows[evaluate.BY_NAME[name].title][column]), abs=0.02)


def test_the_mini_prompt_sets_on_disk_are_those_of_the_generator(tmp_path: Path):
    prompts.write_prompt_sets(tmp_path)
    for circuit in prompts.MAKERS:
        name = f"{circuit}.mini.jsonl"
        assert (CIRCUITS / "prompts" / name).read_text() == (tmp_path / name).read_text()


@pytest.mark.parametrize("circuit", list(prompts.MAKERS))
def test_mini_prompts_have_fixed_splits_and_tell_original_from_perturbed(circuit):
    lines = (CIRCUITS / "prompts" / f"{circuit}.mini.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == [f"{circuit}-mini-{i + 1:03d}" for i in range(60)]
    for start in range(0, 60, 5):
        assert sorted(row["split"] for row in rows[start : start + 5]) == ["discovery"] * 3 + ["heldout", "validation"]
    for row in rows:
        assert row["original"] != row["perturbed"]
        assert (row["keyword"] in str(row["original"])) if row["keyword"] else row["perturbed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_most_mini_pairs_flip_on_the_aligned_model(family):
    loaded = load_model(str(ALIGNED[family]), device="cpu")
    for circuit in prompts.MAKERS:
        request = ProbeRequest(f"mini-{family}", circuit, "mini", generate=False)
        found = probe.run(loaded, load_circuit(circuit), load_prompt_set(load_circuit(circuit), "mini"), request)
        assert found.summary["n_pairs"] == prompts.N_PAIRS
        assert found.summary["flip_rate"] >= 0.9, circuit
