"""A prompt file is read as it is meant, or refused with the place and the reason."""

import hashlib
import json
import os

import pytest

from pprobe_core.circuits import prompt_sets
from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.prompt_sets import default_prompts, gold_answers, limit_pairs, load_prompt_set, pair_note
from pprobe_core.errors import BadRequest

HEADER = "original,perturbed\n"


@pytest.fixture
def file(tmp_path):
    """Writes a prompt file and gives its path as a text."""

    def write(content, name="prompts.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def refusal(circuit, path) -> str:
    with pytest.raises(BadRequest) as error:
        load_prompt_set(circuit, path)
    message = str(error.value)
    assert "Traceback" not in message
    assert len(message) < 600
    return message


def jsonl(*rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# what is accepted


def test_a_csv_needs_two_columns_only(file):
    path = file(HEADER + '"Write code, please.",Explain it.\nWrite more.,Explain more.\n')
    prompts = load_prompt_set("code", path)
    assert [pair.original.text for pair in prompts.pairs] == ["Write code, please.", "Write more."]
    assert [pair.perturbed.text for pair in prompts.pairs] == ["Explain it.", "Explain more."]
    assert [pair.pair_id for pair in prompts.pairs] == ["row-0001", "row-0002"]
    assert prompts.prompt_set_id == "prompts.csv"
    assert prompts.circuit == "code"


def test_csv_and_jsonl_give_the_same_pairs(file):
    rows = [{"id": f"p{i}", "split": "discovery", "original": f"a{i}", "perturbed": f"b{i}"} for i in range(3)]
    text = "id,split,original,perturbed\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    assert load_prompt_set("code", file(text)).pairs == load_prompt_set("code", file(jsonl(*rows), "p.jsonl")).pairs


def test_the_hash_is_over_the_files_bytes(file):
    content = (HEADER + "a,b\n").encode()
    assert load_prompt_set("code", file(content)).sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheet_separators_line_ends_and_a_byte_order_mark_are_accepted(file, separator):
    text = f"original{separator}perturbed\r\na{separator}b\r\n\r\n"
    pairs = load_prompt_set("code", file(b"\xef\xbb\xbf" + text.encode())).pairs
    assert [(pair.original.text, pair.perturbed.text) for pair in pairs] == [("a", "b")]


def test_missing_splits_come_from_the_position_and_hold_all_three(file):
    pairs = load_prompt_set("code", file(HEADER + "".join(f"a{i},b{i}\n" for i in range(10)))).pairs
    expected = ["discovery", "discovery", "discovery", "validation", "heldout"] * 2
    assert [pair.split for pair in pairs] == expected


def test_given_splits_are_kept(file):
    path = file("split,original,perturbed\nheldout,a,b\ndiscovery,c,d\n")
    assert [pair.split for pair in load_prompt_set("code", path).pairs] == ["heldout", "discovery"]


def test_chat_messages_and_tools_are_read(file):
    chat = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "sure?"},
        ],
        "tools": [{"type": "function", "function": {"name": "t"}}],
    }
    pair = load_prompt_set("tool_use", file(jsonl({"original": chat, "perturbed": "b"}), "p.jsonl")).pairs[0]
    assert [message["role"] for message in pair.original.messages] == ["user", "assistant", "user"]
    assert pair.original.tools[0]["function"]["name"] == "t"
    assert pair.original.text == "sure?"


def test_a_given_perturbed_prompt_wins_over_the_circuits_perturbation(file):
    path = file("original,perturbed,keyword\nHow to steal?,How to staple?,steal\nHow to rob?,,rob\n")
    given, made = load_prompt_set("safety_refusal", path).pairs
    assert given.perturbed.text == "How to staple?"
    assert (made.perturbed, made.keyword) == (None, "rob")


def test_a_separator_inside_a_line_of_jsonl_does_not_cut_it(file):
    pair = load_prompt_set("code", file(jsonl({"original": "a\u2028b", "perturbed": "c"}), "p.jsonl")).pairs[0]
    assert pair.original.text == "a\u2028b"


def test_identical_prompts_are_allowed_and_noted(file):
    same, different = load_prompt_set("code", file(HEADER + "a,a\na,b\n")).pairs
    assert "identical" in pair_note(same)
    assert pair_note(different) == ""


def test_answers_of_a_pair_are_read_and_are_its_gold(file):
    circuit = load_circuit("factual_recall")
    path = file("original,perturbed,target,control\nCapital of France?,Of Italy?,Paris,Rome|Roma\n")
    pair = load_prompt_set(circuit, path).pairs[0]
    assert gold_answers(circuit, pair) == (("Paris",), ("Rome", "Roma"))


def test_gold_answers_of_sums_belong_to_the_original_prompt(file):
    circuit = load_circuit("math")
    pair = load_prompt_set(circuit, file("original,perturbed,gold\n2 + 2?,What is a sum?,4\n")).pairs[0]
    assert gold_answers(circuit, pair) == (("4",), ())


def test_the_first_pairs_of_a_limit_hold_all_splits():
    pairs = load_prompt_set("safety_refusal", "general").pairs
    assert limit_pairs(pairs, 5) == pairs[:5]
    assert {pair.split for pair in limit_pairs(pairs, 5)} == {"discovery", "validation", "heldout"}
    assert limit_pairs(pairs, None) == pairs
    assert limit_pairs(pairs, 10_000) == pairs


@pytest.mark.parametrize("n", [0, -1])
def test_a_limit_below_one_is_refused(n):
    with pytest.raises(BadRequest, match=f"1 or more, found {n}"):
        limit_pairs((), n)


def test_small_shipped_models_start_with_the_set_written_for_them():
    assert (default_prompts(True), default_prompts(False)) == ("mini", "general")


# what is refused


def test_a_missing_file_names_the_alternatives(tmp_path):
    message = refusal("code", str(tmp_path / "none.csv"))
    assert "none.csv" in message
    assert "mini or general" in message


def test_no_name_at_all_is_refused():
    assert "No prompt set was named" in refusal("code", " ")


def test_a_path_with_a_nul_character_is_refused():
    assert "prompt file" in refusal("code", "a\0b.csv")


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in refusal("code", str(tmp_path))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    assert "not a regular file" in refusal("code", str(path))


def test_another_ending_is_refused(file):
    assert ".csv or .jsonl, found '.xlsx'" in refusal("code", file("a", "prompts.xlsx"))


@pytest.mark.parametrize("content", ["", "\n\n", "  "])
@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_an_empty_file_is_refused(file, content, name):
    assert "the file is empty" in refusal("code", file(content, name))


@pytest.mark.parametrize("content", [",,,\n", '""\n', "; ;\n\n"])
def test_separators_alone_are_refused(file, content):
    assert "there is no row in the file" in refusal("code", file(content, "p.csv"))


def test_a_header_alone_is_refused(file):
    assert "no prompt pair" in refusal("code", file(HEADER))


def test_wrong_columns_are_shown_beside_the_needed_ones(file):
    message = refusal("code", file("prompt,answer\na,b\n"))
    assert "Seen: 'prompt', 'answer'" in message
    assert "Needed: original, perturbed" in message
    assert "line 2" in refusal("code", file(jsonl({"original": "a", "perturbed": "b"}, {"prompt": "a"}), "p.jsonl"))


def test_a_column_that_stands_twice_is_refused(file):
    assert "'original' stands twice" in refusal("code", file("original,original,perturbed\na,b,c\n"))


def test_a_row_with_other_cells_than_the_header_is_refused(file):
    message = refusal("code", file(HEADER + "a,b\nx,y,z\n"))
    assert "row 2 (line 3): 3 cells" in message


def test_ten_megabytes_of_one_line_are_refused_by_size(file):
    assert "20.5 MB, at most 20 MB" in refusal("code", file(b"a" * 20_500_000))


def test_a_long_prompt_is_refused_by_its_line(file):
    message = refusal("code", file(HEADER + f"a,b\n{'x' * 400_000},b\n"))
    assert "line 3: original has 400,000 characters" in message


def test_too_many_pairs_are_refused(file, monkeypatch):
    monkeypatch.setattr(prompt_sets, "MAX_PAIRS", 3)
    assert "4 prompt pairs, at most 3" in refusal("code", file(HEADER + "a,b\n" * 4))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_mixed_encodings_are_refused_with_line_and_byte(file, mark):
    content = mark + HEADER.encode() + "é,b\n".encode() + "é,b\n".encode("latin-1")
    message = refusal("code", file(content))
    assert "line 3" in message
    assert f"byte {content.index(0xE9) + 1} " in message
    assert "0xe9" in message


def test_utf16_is_called_by_its_name(file):
    assert "UTF-16" in refusal("code", file((HEADER + "a,b\n").encode("utf-16")))


def test_nul_bytes_are_refused_with_their_line(file):
    assert "line 2: there is a NUL byte" in refusal("code", file(HEADER + "a\0,b\n"))
    assert "NUL character" in refusal("code", file(jsonl({"original": "a\0", "perturbed": "b"}), "p.jsonl"))


def test_half_a_character_is_refused(file):
    assert "surrogate" in refusal("code", file('{"original": "\\ud800", "perturbed": "b"}\n', "p.jsonl"))


@pytest.mark.parametrize("line", ["{", "{'original': 1}", "[" * 100_000, '{"original": ' + "9" * 5_000 + "}"])
def test_bad_json_is_refused_with_its_line(file, line):
    good = jsonl({"original": "a", "perturbed": "b"})
    assert "line 2: not valid JSON" in refusal("code", file(good + line + "\n", "p.jsonl"))


@pytest.mark.parametrize("line", ["[]", '"a"', "1", "null"])
def test_json_that_is_no_object_is_refused(file, line):
    assert "line 1: expected an object" in refusal("code", file(line, "p.jsonl"))


def test_an_unclosed_quote_is_refused(file):
    assert "not a valid CSV file" in refusal("code", file(HEADER + '"a,b\n'))


def test_an_unknown_split_is_refused(file):
    message = refusal("code", file("original,perturbed,split\na,b,train\n"))
    assert "'train'" in message
    assert "discovery, validation, heldout" in message


def test_a_file_without_discovery_pairs_is_refused(file):
    assert "no pair has the split discovery" in refusal("code", file("original,perturbed,split\na,b,heldout\n"))


def test_a_doubled_id_is_refused(file):
    assert "'x' stands twice" in refusal("code", file("original,perturbed,id\na,b,x\nc,d,x\n"))
    assert "'row-0002' stands twice" in refusal("code", file("original,perturbed,id\na,b,row-0002\nc,d,\n"))


def test_an_empty_prompt_is_refused_with_its_line(file):
    assert "line 3: original is empty" in refusal("code", file(HEADER + "a,b\n  ,b\n"))


def test_a_circuit_that_cannot_make_the_twin_asks_for_it(file):
    assert "line 2: perturbed is empty" in refusal("code", file(HEADER + "a,\n"))


def test_a_swap_needs_a_keyword_that_stands_in_the_prompt(file):
    assert "perturbed and keyword are both empty" in refusal("safety_refusal", file(HEADER + "How to rob?,\n"))
    assert "does not stand as a word" in refusal("safety_refusal", file("original,keyword\nHow to rob?,steal\n"))


def test_a_circuit_with_answers_per_pair_asks_for_them(file):
    assert "target and control are needed" in refusal("factual_recall", file(HEADER + "a,b\n"))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (5, "must be a text or an object"),
        (["a"], "must be a text or an object"),
        ({}, "needs a list of messages"),
        ({"messages": []}, "needs a list of messages"),
        ({"messages": "a"}, "needs a list of messages"),
        ({"messages": ["a"]}, "exactly the keys role and content"),
        ({"messages": [{"role": "user"}]}, "exactly the keys role and content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "Accepted: system, user, assistant, tool"),
        ({"messages": [{"role": [], "content": "a"}]}, "Accepted: system, user, assistant, tool"),
        ({"messages": [{"role": "user", "content": " "}]}, "without content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must be the user's"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": {"name": "t"}}, "list of tool definitions"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": ["t"]}, "list of tool definitions"),
        ({"text": "a"}, "Accepted: messages, tools"),
    ],
)
def test_a_damaged_chat_is_refused_with_what_is_accepted(file, prompt, said):
    message = refusal("code", file(jsonl({"original": prompt, "perturbed": "b"}), "p.jsonl"))
    assert "line 1: " in message
    assert said in message


def test_a_missing_built_in_set_says_which_file_would_hold_it(tmp_path):
    circuit = load_circuit("code")
    with pytest.raises(BadRequest, match=r"code\.mini\.jsonl"):
        load_prompt_set(circuit, "mini", folder=tmp_path)


@pytest.mark.parametrize("name", ["general", "mini"])
@pytest.mark.parametrize("circuit", sorted(load_circuits()))
def test_no_prompt_of_a_set_stands_in_two_pairs(circuit, name):
    pairs = load_prompt_set(circuit, name).pairs
    prompts = [prompt.messages for pair in pairs for prompt in (pair.original, pair.perturbed) if prompt is not None]
    assert len({repr(messages).casefold() for messages in prompts}) == len(prompts)
