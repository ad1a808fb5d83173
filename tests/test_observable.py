"""Strings become the ids an answer really starts with, whatever the tokeniser does with spaces."""

import re

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.schema import Prompt, PromptPair
from pprobe_core.errors import BadRequest
from pprobe_core.probing.observable import PREVIEW_COLUMNS, first_token_ids, resolve, resolve_circuit, resolve_pair
from pprobe_core.probing.tokens import piece, pieces

_STRINGS = [
    string for c in load_circuits().values() for string in (*c.target, *c.control) if not string.startswith("<")
]
WORDS = ["Sorry", "Sure", "I", "Yes", "No", "Paris", "London", "help", "here", "answer", *_STRINGS]
TEXT = [f"{word}\n it is {word} [INST] ? [/INST] {word}\n" for word in WORDS] * 10
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"]
UNK, BOS, EOS = "<unk>", "<s>", "</s>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
PREFILLED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


def byte_level(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """As in Qwen and Llama 3: no invented spaces; the template puts a line break before the answer."""
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL[1], chat_template=template)


def sentencepiece_like(template: str = INST) -> PreTrainedTokenizerFast:
    """As in Llama 2 and Mistral: a text gets a space in front, and answers stand behind a space in the template."""
    core = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=False))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁[^▁]*|\n"), behavior="isolated")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = [UNK, AddedToken(BOS, special=True), AddedToken(EOS, special=True)]
    core.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, unk_token=UNK, chat_template=template
    )


MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<inst>{{ m.content }}</inst>"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def mistral() -> PreTrainedTokenizerFast:
    """As in later Mistral vocabularies: the instruction ends in a special token, and a text after one gets a space."""
    tokenizer = sentencepiece_like(MARKED)
    tokenizer.add_tokens([AddedToken("<inst>", special=True), AddedToken("</inst>", special=True)])
    return tokenizer


@pytest.fixture(scope="module")
def qwen() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="module")
def llama2() -> PreTrainedTokenizerFast:
    return sentencepiece_like()


def answer_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """What an answer's first ids are in a whole chat, the way the model saw it in training."""
    question = {"role": "user", "content": "?"}
    prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([question, {"role": "assistant", "content": answer}], tokenize=False)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert after[: len(before)] == before
    return after[len(before) :]


@pytest.mark.parametrize("kind", ["qwen", "llama2", "mistral"])
@pytest.mark.parametrize("string", ["Sorry", "Sure", "I", "Yes", "Paris"])
def test_the_id_is_the_one_a_chat_holds_at_the_answers_start(kind, string, request):
    tokenizer = request.getfixturevalue(kind)
    ids = first_token_ids(tokenizer, string)
    assert list(ids) == answer_ids(tokenizer, string + " it")[: len(ids)]
    assert len(ids) == 1


def test_a_leading_space_is_neither_invented_nor_lost(qwen, llama2):
    assert qwen.convert_ids_to_tokens(list(first_token_ids(qwen, "Sorry"))) == ["Sorry"]
    assert llama2.convert_ids_to_tokens(list(first_token_ids(llama2, "Sorry"))) == ["▁Sorry"]


def test_special_tokens_resolve_to_their_single_id(qwen):
    for token in ("<think>", "<tool_call>"):
        assert first_token_ids(qwen, token) == (qwen.convert_tokens_to_ids(token),)


def test_a_special_token_stays_single_behind_a_template_that_writes_a_space(llama2):
    assert first_token_ids(llama2, "</s>") == (llama2.convert_tokens_to_ids("</s>"),)


def test_without_a_chat_template_strings_are_read_after_a_line_break():
    tokenizer = byte_level(template=None)
    assert tokenizer.convert_ids_to_tokens(list(first_token_ids(tokenizer, "Sure"))) == ["Sure"]


def test_a_template_that_closes_an_empty_thought_does_not_change_the_ids(qwen):
    assert first_token_ids(byte_level(PREFILLED), "Sure") == first_token_ids(qwen, "Sure")


def test_a_template_that_fails_falls_back_to_a_line_break(qwen):
    assert first_token_ids(byte_level("{{ raise_exception('no') }}"), "Sure") == first_token_ids(qwen, "Sure")


def test_strings_of_several_tokens_are_flagged_and_left_out(qwen):
    observable = resolve(qwen, ["Sorry", "Extraordinary"], ["Sure"])
    rows = observable.preview.set_index("string")
    assert list(observable.preview.columns) == PREVIEW_COLUMNS
    assert not rows.loc["Extraordinary", "used"]
    assert "only single tokens count" in rows.loc["Extraordinary", "note"]
    assert "".join(rows.loc["Extraordinary", "pieces"]) == "Extraordinary"
    assert observable.target_ids == (qwen.convert_tokens_to_ids("Sorry"),)
    assert rows.loc["Sorry", "ids"] == [qwen.convert_tokens_to_ids("Sorry")]


def test_an_id_on_both_sides_is_dropped_from_both(qwen):
    observable = resolve(qwen, ["Sorry", "I"], ["Sure", "I"])
    assert len(observable.target_ids) == len(observable.control_ids) == 1
    dropped = observable.preview[observable.preview["string"] == "I"]
    assert not dropped["used"].any()
    assert dropped["note"].str.contains("both sides").all()


def test_duplicates_collapse_into_one_id(llama2):
    observable = resolve(llama2, ["Sorry", "Sorry"], ["Sure"])
    assert len(observable.target_ids) == 1
    assert list(observable.preview["used"]) == [True, False, True]


def test_a_spaced_variant_counts_only_where_the_plain_string_does_not(qwen):
    observable = resolve(qwen, ["Sorry", " Sorry"], [" Sure"])
    notes = observable.preview.set_index("string")["note"]
    assert "not needed" in notes[" Sorry"]
    assert observable.control_ids == (qwen.convert_tokens_to_ids("ĠSure"),)


def test_fallback_strings_are_read_only_where_no_target_is_one_token(qwen, llama2):
    assert list(resolve(qwen, ["<think>"], ["Sure"], target_fallback=["I"]).preview["string"]) == ["<think>", "Sure"]
    observable = resolve(llama2, ["<think>"], ["Sure"], target_fallback=["I"])
    assert observable.target_ids == (llama2.convert_tokens_to_ids("▁I"),)
    assert not observable.preview.set_index("string").loc["<think>", "used"]


def test_unknown_strings_are_not_used(llama2):
    row = resolve(llama2, ["Sorry", "ж"], ["Sure"]).preview.set_index("string").loc["ж"]
    assert not row["used"]
    assert "unknown" in row["note"]


def test_a_side_without_a_token_is_refused_with_the_strings_and_a_way_out(qwen):
    with pytest.raises(BadRequest, match="Extraordinary") as error:
        resolve(qwen, ["Extraordinary"], ["Sure"])
    assert "Choose other target strings" in str(error.value)
    with pytest.raises(BadRequest, match="no control strings"):
        resolve(qwen, ["Sure"], [])
    with pytest.raises(BadRequest, match="both sides"):
        resolve(qwen, ["Sure"], ["Sure"])


def test_an_answer_of_a_pair_is_read_by_its_first_piece(qwen):
    pair = PromptPair(
        "p", "discovery", Prompt(({"role": "user", "content": "?"},)), None, None, ("Vladivostok",), ("Paris",)
    )
    observable = resolve_pair(qwen, pair)
    row = observable.preview.set_index("string").loc["Vladivostok"]
    assert row["used"]
    assert "first piece" in row["note"]
    assert observable.target_ids == (row["ids"][0],)


def test_order_of_ids_follows_the_order_of_strings(qwen):
    first, second = resolve(qwen, ["I", "Yes"], ["No"]), resolve(qwen, ["Yes", "I"], ["No"])
    assert first.target_ids == second.target_ids[::-1]


def test_every_shipped_circuit_has_strings_for_a_chat_tokeniser(qwen):
    for circuit in load_circuits().values():
        if not circuit.per_pair_observable:
            observable = resolve_circuit(qwen, circuit)
            assert observable.target_ids
            assert observable.control_ids
            assert not set(observable.target_ids) & set(observable.control_ids)


def test_bytes_that_are_no_whole_character_read_as_bytes(qwen):
    for tokenizer in (qwen, byte_level(None)):
        ids = tokenizer(" 这é", add_special_tokens=False)["input_ids"]
        read = pieces(tokenizer, ids)
        assert "è" not in "".join(read)
        raw = b"".join(
            bytes.fromhex("".join(part[3:5] if part.startswith("<0x") else part.encode().hex() for part in parts))
            for parts in (re.findall(r"<0x[0-9A-F]{2}>|.", text) for text in read)
        )
        assert raw.decode() == " 这é"
    assert pieces(qwen, qwen.convert_tokens_to_ids(["è", "¿", "Ļ", "ĠSure", "<think>"])) == (
        "<0xE8>",
        "<0xBF>",
        "<0x99>",
        " Sure",
        "<think>",
    )


class Spelt:
    """A vocabulary of one token whose bytes are no character."""

    def __init__(self, spelling: str) -> None:
        self.spelling = spelling

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "\ufffd"

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return self.spelling


@pytest.mark.parametrize(
    ("spelling", "read"),
    [
        ("è¿", "<0xE8><0xBF>"),
        ("Ġè¿", " <0xE8><0xBF>"),
        ("è¿Ļè", "这<0xE8>"),
        ("<0xE8>", "<0xE8>"),  # SentencePiece
        ("▁�", "▁�"),  # no byte-level spelling: left alone
    ],
)
def test_a_piece_keeps_what_can_be_read(spelling, read):
    assert piece(Spelt(spelling), 0) == read
