"""Prompt sets of one's own: tables from any file, pairs from their columns, kept whole or not at all."""

import errno
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pprobe_core.circuits import importing, own_sets, pairing
from pprobe_core.circuits.importing import Table, read_pasted, read_table
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.own_sets import Origin, add_set, delete_set, find_set, list_sets
from pprobe_core.circuits.pairing import Columns, Pairs, guess_columns, make_pairs
from pprobe_core.circuits.prompt_sets import load_prompt_set, whole_name
from pprobe_core.cli import main
from pprobe_core.errors import BadRequest

ROOT = Path(__file__).resolve().parent.parent
SAFETY, LANGUAGE, FACTS = (load_circuit(name) for name in ("safety_refusal", "language", "factual_recall"))
CSV = "original,perturbed\n" + "".join(f"Name {n} colours.,说出{n}种颜色。\n" for n in range(2, 7))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pairs_of(text: str, circuit: Any = LANGUAGE, name: str = "a.csv") -> Pairs:
    table = read_table(name, text.encode())
    return make_pairs(table, guess_columns(table, circuit), circuit)


def kept(text: str = CSV, title: str = "Colours") -> own_sets.OwnSet:
    return add_set(LANGUAGE, title, pairs_of(text), Origin("upload", "colours.csv", licence="CC0"))


def as_parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


# Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.csv", b'goal,x\nOne.,1\n"Two, three.",2\n'),
        ("a.csv", b"\xef\xbb\xbfgoal;x\nOne.;1\nTwo, three.;2\n"),
        ("a.tsv", b"goal\tx\nOne.\t1\nTwo, three.\t2\n"),
        ("a.jsonl", b'{"goal": "One."}\n\n{"goal": "Two, three."}\n'),
        ("a.JSON", b'[{"goal": "One."}, {"goal": "Two, three."}]'),
        ("a.json", b'{"version": 1, "data": [{"goal": "One."}, {"goal": "Two, three."}]}'),
        ("a.parquet", as_parquet(goal=["One.", "Two, three."], picture=[b"1", b"2"])),
    ],
)
def test_every_kind_of_file_gives_the_same_prompts(name: str, raw: bytes) -> None:
    table = read_table(name, raw)
    assert [row["goal"] for row in table.rows] == ["One.", "Two, three."]
    assert guess_columns(table, SAFETY).original == "goal"
    assert "picture" not in table.columns


def test_a_text_file_and_pasted_lines_are_one_prompt_a_line() -> None:
    assert read_table("a.txt", b"One.\r\n\n Two, three. \n").rows == ({"text": "One."}, {"text": "Two, three."})
    assert read_pasted("One.\nTwo, three.").rows == ({"text": "One."}, {"text": "Two, three."})


def test_pasted_cells_of_a_spreadsheet_keep_their_header_and_pasted_json_is_read() -> None:
    assert read_pasted("Prompt\tKeyword\nHow to forge?\tforge\n").rows == (
        {"Prompt": "How to forge?", "Keyword": "forge"},
    )
    assert read_pasted('["One.", {"prompt": "Two."}]').rows == ({"text": "One."}, {"prompt": "Two."})
    assert len(read_pasted("Well, what now?\nNo, not that, please.").rows) == 2


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.exe", b"x", "must end in .csv"),
        ("a.csv", b"  \n", "empty"),
        ("a.csv", b"x" * 20_000_001, "20.0 MB, at most 20 MB"),
        ("a.csv", "goal\nx\n".encode("utf-16"), "UTF-16"),
        ("a.txt", b"a\nb\x00c", "line 2: there is a NUL byte"),
        ("a.csv", b"goal\n\xff\xfe\n", "not UTF-8"),
        ("a.json", b"[" * 100_000, "too deeply nested"),
        ("a.json", b'{"a": [1], "b": [2]}', "one such list"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: expected an object"),
        ("a.jsonl", b'{"a": "\\ud800"}', "half of a pair"),
        ("a.parquet", b"PAR1 no PAR1", "not a Parquet file"),
        ("a.csv", b"goal\n", "no row"),
        ("a.csv", b",,,\n", "no row"),
        ("a.csv", b'""\n', "no row"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(name: str, raw: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_table(name, raw)
    assert said in str(refused.value)


def test_a_packed_file_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MAX_DECODED_BYTES", 1_000)
    raw = as_parquet(goal=[f"{i} {'x' * 500}" for i in range(50)])
    with pytest.raises(BadRequest, match="when unpacked"):
        read_table("a.parquet", raw)


def test_rows_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MAX_ROWS", 3)
    table = read_table("a.txt", b"a\nb\nc\nd\ne\n")
    assert (len(table.rows), table.n_more) == (3, 2)
    table = read_table("a.txt", b"a\n\nc\nd\n\ne\n\n")
    assert (len(table.rows), table.empty, table.n_more, table.n_blank) == (2, (2,), 2, 1)
    table = read_table("a.parquet", as_parquet(goal=[str(i) for i in range(2500)]))
    assert (len(table.rows), table.n_more) == (3, 2497)


def test_rows_with_too_few_cells_are_counted_and_columns_get_names_of_their_own() -> None:
    table = read_table("a.csv", b"goal,goal,\na,b,c\nonly one\n")
    assert (table.columns, table.damaged) == (("goal", "goal (2)", "column 3"), (2,))
    with pytest.raises(BadRequest, match=r"another number of cells than the header\. Quote cells"):
        read_table("a.csv", b"goal\nHello, you\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\n\ngoal\nOne.\n\nThree.\n,too many\nFive.\n\n \n"),
        ("a.csv", "\r\n\r\ngoal\r\nOne.\r\n\r\nThree.\r\n,too many\r\nFive.\r\n\r\n\r\n"),
        ("a.csv", '\n\ngoal\n"One\n.\n"\n""\n"Three\n."\n,too many\nFive.\n\n\n'),
    ],
)
def test_a_row_of_a_spreadsheet_keeps_its_number_whatever_stands_before_it(name: str, text: str) -> None:
    table = read_table(name, text.encode())
    assert [number for number, _ in table.numbered()] == [1, 3, 5]
    assert (table.empty, table.damaged, table.n_blank) == ((2,), (4,), 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", "\nTwo.\n \nFour.\n\n\n"), ("a.jsonl", '\n{"goal": "Two."}\n\n{"goal": "Four."}\n\n \n')],
)
def test_a_line_keeps_its_number_whatever_stands_before_it(name: str, text: str) -> None:
    table = read_table(name, text.encode())
    assert [number for number, _ in table.numbered()] == [2, 4]
    assert (table.empty, table.n_blank) == ((1, 3), 2)


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["red", "blue"], "answer": 1},
        {"choices": ["red", "blue"], "answer": "B"},
        {"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
)
def test_choices_give_a_right_and_a_wrong_column(row: dict[str, Any]) -> None:
    table = read_table("a.jsonl", json.dumps(row).encode())
    assert (table.rows[0]["right choice"], table.rows[0]["wrong choice"]) == ("blue", "red")


# Columns and pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "guess"),
    [
        ("Index,Goal,Behavior", "Goal"),
        ("BehaviorID,Behavior", "Behavior"),
        ("category,forbidden prompt", "forbidden prompt"),
        ("id,Question,answer", "Question"),
        ("instruction,output", "instruction"),
        ("one,two", "two"),
    ],
)
def test_the_prompts_are_found_by_the_usual_names_else_by_length(columns: str, guess: str) -> None:
    cells = ",".join("a long text" if name == "two" else "x" for name in columns.split(","))
    table = read_table("a.csv", f"{columns}\n{cells}\n".encode())
    assert guess_columns(table, SAFETY).original == guess


def test_an_answer_an_attack_wants_is_no_target() -> None:
    table = read_table("a.csv", b"goal,target\nForge it.,Sure\n")
    assert guess_columns(table, SAFETY).target == ""
    assert guess_columns(table, FACTS).target == "target"


def test_a_conversation_gives_its_first_turn_or_the_chat_up_to_the_users_last() -> None:
    rows: list[dict[str, Any]] = [
        {"turns": ["First?", "Second?"]},
        {
            "turns": [
                {"from": "human", "value": "Hi."},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "Go."},
            ]
        },
        {"turns": [{"role": "user", "content": "Only."}, {"role": "assistant", "content": "Yes."}]},
        {"turns": [{"role": "nobody", "content": "x"}]},
    ]
    table = read_table("a.json", json.dumps(rows).encode())
    made = make_pairs(table, Columns("turns", "{turns.0}"), LANGUAGE)
    assert [line["original"] for line in made.lines[:1]] == ["First?"]
    assert made.lines[1]["original"]["messages"][-1] == {"role": "user", "content": "Go."}
    assert made.lines[2]["original"] == "Only."
    assert made.left_out == {pairing.NO_TEXT: (4,)}


def test_rows_left_out_are_named_with_the_reason() -> None:
    long = "x" * 20_001
    text = f"original,perturbed\na,b\na,b\n a ,b\n,b\nc,\n{long},d\ne,e\n"
    made = pairs_of(text)
    assert [line["original"] for line in made.lines] == ["a", "e"]
    assert made.left_out == {
        pairing.DUPLICATE: (2, 3),
        pairing.NO_PROMPT: (4,),
        pairing.NO_TWIN: (5,),
        pairing.TOO_LONG: (6,),
    }
    assert made.n_seen == 7
    assert "In 1 pair both prompts are the same" in made.notes[0]


def test_empty_and_damaged_rows_are_counted_with_their_numbers_in_the_file() -> None:
    made = pairs_of("\noriginal,perturbed\na,b\n\na,b,\n,\nc,d\na,b\n,e\n\n\n")
    assert [line["id"] for line in made.lines] == ["row-0001", "row-0005"]
    assert made.left_out == {
        pairing.DUPLICATE: (6,),
        pairing.NO_PROMPT: (7,),
        pairing.DAMAGED: (3,),
        pairing.EMPTY: (2, 4),
    }
    assert made.n_seen == len(made.lines) + sum(made.counts.values()) == 7
    assert made.notes == ("3 blank lines stand before or after the rows.",)
    assert pairs_of("original,perturbed\na,b\nc,d\n").notes == ()


def test_only_so_many_pairs_are_kept_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_table("a.csv", CSV.encode())
    made = make_pairs(table, guess_columns(table, LANGUAGE), LANGUAGE, n=3)
    assert (len(made.lines), made.left_out) == (3, {pairing.OVER: (4, 5)})
    monkeypatch.setattr(pairing, "MAX_FILE_BYTES", 150)
    assert len(pairs_of(CSV).lines) == 1


def test_a_circuit_without_a_rule_says_why_it_needs_a_second_prompt() -> None:
    with pytest.raises(BadRequest, match="no rule that makes the second prompt"):
        pairs_of("prompt\nHello.\n")
    with pytest.raises(BadRequest, match="brings its own right answers"):
        pairs_of("original,perturbed\na,b\n", FACTS)
    made = pairs_of("original,perturbed,target,control\na,b,Paris|paris,Rome\nc,d,,Rome\n", FACTS)
    assert (made.lines[0]["target"], made.left_out) == (["Paris", "paris"], {pairing.NO_ANSWERS: (2,)})


def test_a_text_with_columns_in_it_makes_the_second_prompt() -> None:
    table = read_table("a.csv", b"question,lang\nWho?,Chinese\nWhat?,\n")
    made = make_pairs(table, Columns("question", "{question} Answer in {lang}."), LANGUAGE)
    assert made.lines[0]["perturbed"] == "Who? Answer in Chinese."
    assert made.left_out == {pairing.NO_TWIN: (2,)}
    with pytest.raises(BadRequest, match="no column 'nothing'"):
        make_pairs(table, Columns("question", "{nothing}"), LANGUAGE)


def test_the_word_to_swap_is_guessed_taken_from_its_column_or_missed() -> None:
    table = read_table(
        "a.csv", b"prompt,keyword\nTell me how to shoplift quickly,\nHow to bake a cake,bake\nHow to sing,dance\nab,\n"
    )
    made = make_pairs(table, guess_columns(table, SAFETY), SAFETY)
    assert [line["keyword"] for line in made.lines] == ["shoplift", "bake"]
    assert made.left_out == {pairing.NOT_IN_PROMPT: (3,), pairing.NO_KEYWORD: (4,)}
    assert made.notes == ("In 1 pair the word to swap was guessed.",)


def test_a_guessed_word_can_be_changed_to_one_that_stands_in_the_prompt() -> None:
    made = pairs_of("goal\nGrow a poisonous garden\nPaint a fence\n", SAFETY)
    changed = pairing.with_keywords(made, {0: " garden "})
    assert [line["keyword"] for line in changed.lines] == ["garden", made.lines[1]["keyword"]]
    with pytest.raises(BadRequest, match="Pair 2: the word 'pain' does not stand"):
        pairing.with_keywords(made, {1: "pain"})


def test_the_rarest_word_is_the_one_to_swap() -> None:
    made = pairs_of("goal\nGrow a poisonous garden\nPaint a garden fence\nPaint a garden chair\n", SAFETY)
    assert made.lines[0]["keyword"] == "poisonous"
    made = pairs_of("goal\nWhat is covid19abc to you\nusername_x is broken\n", SAFETY)
    assert [line["keyword"] for line in made.lines] == ["broken"], "a part of a longer word is none"


# Keeping -----------------------------------------------------------------------------------------------------------


def test_a_kept_set_is_read_by_its_name_and_says_where_it_comes_from() -> None:
    made = kept()
    prompt_set = load_prompt_set(LANGUAGE, made.name)
    assert (prompt_set.prompt_set_id, prompt_set.sha256, len(prompt_set.pairs)) == (made.name, made.sha256, 5)
    assert {pair.split for pair in prompt_set.pairs} == {"discovery", "validation", "heldout"}
    assert whole_name(made.name) == made.name
    assert (list_sets("language"), list_sets("code")) == ([made], [])
    assert (made.origin.licence, made.n_seen, own_sets.title_of(made.name)) == ("CC0", 5, "Colours")


def test_adding_the_same_again_is_the_same_set_and_another_title_another_one() -> None:
    first = kept()
    assert kept() == first
    assert kept(title="Colours again").name != first.name
    assert len(list_sets()) == 2


def test_a_deleted_set_is_gone_and_a_run_that_names_it_is_told_so(cache: Path) -> None:
    made = kept()
    delete_set(made.name)
    assert list((cache / "prompt_sets").iterdir()) == []
    assert own_sets.title_of(made.name) == "colours"
    with pytest.raises(BadRequest, match="no prompt set"):
        delete_set(made.name)
    with pytest.raises(BadRequest, match="on this computer: it was deleted"):
        load_prompt_set(LANGUAGE, made.name)


@pytest.mark.parametrize(
    ("title", "shown", "slug"),
    [
        ("<script>alert(1)</script>", "<script>alert(1)</script>", "script-alert-1-script-"),
        ("../../etc/passwd", "../../etc/passwd", "etc-passwd-"),
        ("😀 Größe\n2", "😀 Größe 2", "groe-2-"),
        ("\u202eevil\u200b", "evil", "evil-"),
        ("أسئلة", "أسئلة", "prompts-"),
        ("n" * 300, "n" * 80, "n" * 40 + "-"),
    ],
)
def test_a_title_may_be_anything_and_its_file_stays_in_the_folder(
    cache: Path, title: str, shown: str, slug: str
) -> None:
    made = kept(title=title)
    assert (made.title, made.name[:-12]) == (shown, slug)
    assert {path.parent for path in cache.rglob("*.json*")} == {cache / "prompt_sets"}
    assert find_set(made.name).title == shown


@pytest.mark.parametrize("name", ["../x-0123456789ab", "x", "", "/etc/passwd", "x-0123456789AB", "a" * 500])
def test_a_name_that_is_none_finds_nothing(name: str) -> None:
    with pytest.raises(BadRequest, match="no prompt set"):
        find_set(name)


def test_without_a_title_or_a_pair_nothing_is_kept(cache: Path) -> None:
    with pytest.raises(BadRequest, match="title"):
        kept(title="\u200b ")
    with pytest.raises(BadRequest, match="No row gives a prompt pair"):
        kept("original,perturbed\n,\n,x\n")
    assert not cache.exists()


def test_a_full_disk_says_so_and_leaves_nothing_half(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadRequest, match=r"No space left on device.*Free some space"):
        kept()
    assert list((cache / "prompt_sets").iterdir()) == []


def test_a_kill_while_writing_leaves_no_set_and_no_harm(cache: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pprobe_core.circuits import importing, library, own_sets, pairing\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "table = importing.read_table('a.csv', sys.argv[1].encode())\n"
        "circuit = library.load_circuit('language')\n"
        "pairs = pairing.make_pairs(table, pairing.guess_columns(table, circuit), circuit)\n"
        "own_sets.add_set(circuit, 'Colours', pairs, own_sets.Origin('upload', 'a.csv'))"
    )
    done = subprocess.run([sys.executable, "-c", code, CSV], cwd=ROOT, check=False)
    assert done.returncode == -9
    left = list((cache / "prompt_sets").iterdir())
    assert [path.suffix for path in left] == [".part"]
    assert list_sets() == []
    os.utime(left[0], (time.time() - 7200,) * 2)
    made = kept()
    assert list_sets() == [made]
    assert not left[0].exists()


def test_two_browsers_may_keep_the_same_set_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: kept(), range(16)))
    assert len({s.name for s in made}) == 1
    assert [s.name for s in list_sets()] == [made[0].name]
    assert len(load_prompt_set(LANGUAGE, made[0].name).pairs) == 5


def test_a_damaged_card_hides_its_set_and_no_other(cache: Path) -> None:
    made, other = kept(), kept(title="Other")
    (cache / "prompt_sets" / f"{made.name}.json").write_text('{"name": 1', encoding="utf-8")
    assert list_sets() == [other]


def test_a_folder_that_cannot_be_made_is_told(cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file in the way")
    with pytest.raises(BadRequest, match="cannot be kept in"):
        kept()


# Commands ----------------------------------------------------------------------------------------------------------


def test_the_commands_add_list_show_and_delete(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "my pairs.csv"
    file.write_text(CSV, encoding="utf-8")
    assert main(["prompts", "add", str(file), "--circuit", "language", "--licence", "CC0"]) == 0
    name = list_sets()[0].name
    assert f"--prompts {name}" in capsys.readouterr().out
    assert main(["prompts", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["origin"]["licence"] == "CC0"
    assert main(["prompts", "show", name]) == 0
    assert "Name 2 colours." in capsys.readouterr().out
    assert main(["prompts", "delete", name]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["prompts", "delete", name, "--yes"]) == 0
    assert list_sets() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "where the prompts come from"),
        (["x.csv", "--hub", "a/b"], "and once"),
        (["nowhere.csv", "--circuit", "code"], "cannot be read"),
        (["--hub", "../..", "--circuit", "code"], "no dataset id"),
    ],
)
def test_a_command_that_cannot_be_met_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["prompts", "add", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_table_may_lack_a_row_of_every_column() -> None:
    table = Table("a.jsonl", ("original", "perturbed"), ({"original": "a"}, {"original": "b", "perturbed": "c"}), "")
    assert [line["original"] for line in make_pairs(table, Columns("original", "perturbed"), LANGUAGE).lines] == ["b"]
