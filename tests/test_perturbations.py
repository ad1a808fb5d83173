"""The BPE swap changes one word's letters, its token pieces, and nothing else."""

import re

import pytest

from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.perturbations import NoSwap, Swap, bpe_swap, contains_keyword, perturb_prompt
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import BadRequest, PprobeError

WORDS = ("poison", "posion", "counterfeit", "steal", "how", "to", "a", "well")
VOCABULARY: dict[str, int] = {}


def encode(text: str) -> list[int]:
    """A tokeniser of known words; anything else falls into single characters."""
    pieces = re.findall("|".join(rf"\b{word}\b" for word in WORDS) + "|.", text.lower(), flags=re.DOTALL)
    return [VOCABULARY.setdefault(piece, len(VOCABULARY)) for piece in pieces]


def swaps_of(word: str) -> set[str]:
    return {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)} - {word}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keyword", ["poison", "counterfeit", "steal"])
def test_the_result_is_one_adjacent_swap_inside_the_keyword(keyword, seed):
    swap = bpe_swap(f"How to {keyword} a well?", keyword, encode, seed)
    assert swap.swapped_keyword in swaps_of(keyword)
    assert swap.text == f"How to {swap.swapped_keyword} a well?"


@pytest.mark.parametrize("seed", range(8))
def test_the_token_pieces_change_and_are_the_differing_part(seed):
    text = "How to poison a well?"
    swap = bpe_swap(text, "poison", encode, seed)
    before, after = encode(text), encode(swap.text)
    assert before != after
    start = len(re.match(r"How to ", text).group().split()) * 2  # "how", " ", "to", " "
    assert tuple(before[start : start + len(swap.pieces_before)]) == swap.pieces_before
    assert len(after) - len(before) == len(swap.pieces_after) - len(swap.pieces_before)


@pytest.mark.parametrize("seed", range(20))
def test_first_and_last_letters_stay_and_no_other_word_is_made(seed):
    swapped = bpe_swap("How to poison a well?", "poison", encode, seed).swapped_keyword
    assert (swapped[0], swapped[-1]) == ("p", "n")
    assert swapped != "posion"  # a single piece of this vocabulary: it would read as another word


def test_the_first_letter_moves_only_where_nothing_else_helps():
    assert bpe_swap("go at it", "at", encode, 0).swapped_keyword == "ta"


def test_the_same_seed_gives_the_same_swap_and_seeds_differ():
    text = "How to counterfeit a well?"
    assert bpe_swap(text, "counterfeit", encode, 3) == bpe_swap(text, "counterfeit", encode, 3)
    assert len({bpe_swap(text, "counterfeit", encode, seed).swapped_keyword for seed in range(30)}) > 3


def test_a_prompts_draw_does_not_depend_on_other_prompts():
    texts = [f"How to counterfeit a {thing}?" for thing in ("coin", "car", "ring", "door", "map", "key")]
    assert len({bpe_swap(text, "counterfeit", encode, 1).swapped_keyword for text in texts}) > 1


def test_every_occurrence_changes_alike_and_keeps_its_case():
    swap = bpe_swap("Steal! How to steal? STEAL", "steal", encode, 0)
    changed = re.findall(r"\w+", swap.text)
    assert changed[0].lower() == changed[3] == changed[4].lower() == swap.swapped_keyword
    assert changed[0][0].isupper()
    assert changed[4].isupper()


@pytest.mark.parametrize("keyword", ["aa", "a", "好", "AA", "aA"])
def test_it_says_when_no_swap_exists(keyword):
    with pytest.raises(NoSwap, match="longer keyword"):
        bpe_swap(f"take {keyword} now", keyword, encode, 0)


def test_it_says_so_when_no_swap_changes_the_tokens():
    with pytest.raises(NoSwap, match="poison"):
        bpe_swap("How to poison", "poison", lambda text: [len(text)], 0)
    assert issubclass(NoSwap, PprobeError)


@pytest.mark.parametrize("text", ["How to poisonous?", "antipoison", "nothing here", ""])
def test_the_keyword_must_stand_in_the_text_as_a_word(text):
    assert not contains_keyword(text, "poison")
    with pytest.raises(BadRequest, match="does not stand as a word"):
        bpe_swap(text, "poison", encode, 0)


def test_an_empty_keyword_is_refused():
    with pytest.raises(BadRequest):
        bpe_swap("How to poison?", "  ", encode, 0)


def test_chinese_keywords_need_no_spaces_around_them():
    swap = bpe_swap("我想黑进网站。", "黑进", encode, 0)
    assert swap == Swap("我想进黑网站。", "进黑", swap.pieces_before, swap.pieces_after)
    assert bpe_swap("请steal它", "steal", encode, 0).text != "请steal它"


def test_a_swap_never_crosses_a_space_and_keeps_each_words_first_letter():
    for seed in range(10):
        first, second = bpe_swap("make fake money", "fake money", encode, seed).swapped_keyword.split(" ")
        assert (first[0], second[0]) == ("f", "m")
        assert sorted(first) == sorted("fake")
        assert sorted(second) == sorted("money")


def test_only_the_last_user_turn_changes():
    prompt = Prompt(
        (
            {"role": "user", "content": "I steal."},
            {"role": "assistant", "content": "steal?"},
            {"role": "user", "content": "Yes, steal."},
        ),
        ({"name": "steal"},),
    )
    changed, swap = perturb_prompt(prompt, "steal", encode, 0)
    assert changed.messages[:2] == prompt.messages[:2]
    assert changed.tools == prompt.tools
    assert changed.text == swap.text != prompt.text
    assert prompt.text == "Yes, steal."


def test_every_shipped_keyword_has_a_swap_that_keeps_its_first_letter():
    for circuit in load_circuits().values():
        for pair in load_prompt_set(circuit, "general").pairs:
            if pair.perturbed is None:
                swap = bpe_swap(pair.original.text, pair.keyword, encode, 0)
                assert swap.swapped_keyword[0] == pair.keyword[0]
