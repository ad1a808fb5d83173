"""Published sets: fetched at their commit, checked by their SHA-256, mixed by recipe; all from a server of our own."""

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pyarrow as pa
import pytest
from pyarrow import parquet

from pprobe_core.circuits import fetching, known_sets
from pprobe_core.circuits.importing import read_table
from pprobe_core.circuits.known_sets import KnownSet, add_known, add_recipe, fetch, find_known, recipes, recognise
from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.own_sets import list_sets
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.cli import main
from pprobe_core.errors import BadRequest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KNOWN = known_sets.known_sets()


class Web(ThreadingHTTPServer):
    """GitHub's raw files and the hub's datasets: `files` by path; `asked` lists the paths, `tokens` what came along."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.sets = dict(KNOWN)
        self.cut = False  # breaks a file off half way

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def holds(self, known: KnownSet, raw: bytes) -> KnownSet:
        """Publish a file under the set's address; the set as a catalogue has it in which that is the file."""
        source = known.source
        head = f"/{source.github}" if source.github else f"/datasets/{source.hub}/resolve"
        self.files[f"{head}/{source.revision}/{source.file}"] = raw
        return self.catalogue(known, raw)

    def catalogue(self, known: KnownSet, raw: bytes) -> KnownSet:
        """The set as a catalogue has it in which these bytes are its file; from now on it is the one in use."""
        self.sets[known.set_id] = replace(known, sha256=hashlib.sha256(raw).hexdigest())
        return self.sets[known.set_id]


class _Answer(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        web, path = self.server, unquote(urlsplit(self.path).path)
        web.asked.append(path)
        web.tokens.append(self.headers.get("Authorization", ""))
        if path in web.redirects:
            self.send_response(302)
            self.send_header("Location", web.redirects[path])
            self.end_headers()
            return
        if path.startswith("/api/datasets/own/prompts"):
            siblings = [
                {"rfilename": n.rsplit("/", 1)[-1], "size": len(d)} for n, d in web.files.items() if "own/prompts" in n
            ]
            card = {"license": "cc-by-4.0"}
            raw = json.dumps(
                {"_id": "1", "id": "own/prompts", "sha": COMMIT, "siblings": siblings, "cardData": card}
            ).encode()
        elif path.startswith("/api/"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            return
        elif path in web.files:
            raw = web.files[path]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if web.cut else raw)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    monkeypatch.setenv("PPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = Web()
    monkeypatch.setattr(known_sets, "known_sets", lambda: server.sets)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def bases(web: Web) -> dict[str, str]:
    return {"github": web.address, "hub": web.address}


def stand_in(known: KnownSet, n: int = 120) -> bytes:
    """A file with the set's columns and harmless rows of ours."""
    rows = [{name: _cell(known, name, i) for name in known.columns} for i in range(n)]
    suffix = Path(known.source.file).suffix
    if suffix == ".parquet":
        file = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), file)
        return file.getvalue()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    lines = [",".join(known.columns)] + [",".join(f'"{row[name]}"' for name in known.columns) for row in rows]
    return "\n".join(lines).encode()


def _cell(known: KnownSet, name: str, i: int) -> Any:
    if name in known.only:
        return known.only[name] if i % 2 == 0 else "another kind"
    if known.set_id == "mbpp" and name == "text":
        return f"Write a python function to count to {i}." if i else "Count, in Python."
    if known.set_id == "gsm8k" and name == "answer":
        return f"It is easy.\n#### {i}"
    if name == "choices":
        texts = [f"wrong {i}", f"right {i}"]
        return {"text": texts, "label": ["A", "B"]} if known.set_id == "arc" else texts
    return {
        "answer": 1, "answerKey": "B", "turns": [f"Tell me about the number {i}, please.", "More."],
        "incorrect_answers": [f"wrong {i}"], "correct_answers": [f"right {i}"],
    }.get(name, f"{name} describes umbrellas {i}")  # fmt: skip


# The catalogue -----------------------------------------------------------------------------------------------------


def test_every_set_is_pinned_has_a_licence_and_fits_circuits_that_exist() -> None:
    circuits = load_circuits()
    assert len(KNOWN) == 12
    for known in KNOWN.values():
        source = known.source
        assert bool(source.github) != bool(source.hub)
        assert re.fullmatch(r"[0-9a-f]{40}", source.revision)
        assert re.fullmatch(r"[0-9a-f]{64}", known.sha256)
        assert known.licence
        assert bool(known.fits) != bool(known.no_pairs)
        assert set(known.fits) <= set(circuits)
        assert set(known.only) <= set(known.columns)
        assert Path(source.file).suffix.lstrip(".") in ("csv", "jsonl", "parquet")


def test_the_language_mix_is_the_papers_580_and_says_what_is_ours() -> None:
    mix = recipes()["language_mix"]
    assert mix.n_pairs == 580
    assert all(n <= KNOWN[set_id].n_rows for set_id, n, _ in mix.parts)
    assert "shares below are ours" in mix.paper
    assert "stand-in" in mix.note


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda known: known.set_id)
def test_the_columns_of_a_set_make_pairs_of_every_circuit_it_fits(web: Web, known: KnownSet) -> None:
    web.holds(known, stand_in(known))
    if not known.fits:
        with pytest.raises(BadRequest, match="makes no pairs by itself"):
            add_known(known.set_id, **bases(web))
        assert web.asked == []
    for circuit_id in known.fits:
        made = add_known(known.set_id, circuit_id, **bases(web))
        pairs = load_prompt_set(circuit_id, made.name).pairs
        expected = {"mbpp": 119} | dict.fromkeys(("harmbench", "xstest"), 60)
        assert len(pairs) == expected.get(known.set_id, 120)
        assert made.origin.licence == known.licence
        assert known.source.revision in made.origin.url
        assert pairs[0].pair_id.startswith(f"{known.set_id}-")


def test_templates_put_the_sets_own_answers_into_the_claims(web: Web) -> None:
    for set_id in ("mmlu", "arc", "gsm8k", "mbpp"):
        web.holds(KNOWN[set_id], stand_in(KNOWN[set_id]))
    first = {s: load_prompt_set(c, add_known(s, c, **bases(web)).name).pairs[0] for s, c in (
        ("mmlu", "sycophancy"), ("arc", "sycophancy"), ("gsm8k", "math"), ("mbpp", "code"))}  # fmt: skip
    for set_id in ("mmlu", "arc"):
        assert "the answer is: right 0. Right?" in first[set_id].original.text
        assert first[set_id].perturbed is not None
        assert "the answer is: wrong 0. Right?" in first[set_id].perturbed.text
    assert first["gsm8k"].gold == ("0",)
    assert first["mbpp"].original.text == "Write a Python function to count to 1. Reply with the code block only."


# Checksums ---------------------------------------------------------------------------------------------------------


def test_only_the_catalogues_file_is_used_and_it_is_fetched_once(web: Web) -> None:
    known = web.holds(KNOWN["advbench"], stand_in(KNOWN["advbench"]))
    first = fetch(known, **bases(web))
    assert known.sha256[:12] in first.check
    assert "120 rows; 520 were expected" in first.check
    assert fetch(known, **bases(web)).check == first.check
    assert len(web.asked) == 1, "what is here is not fetched again"
    with pytest.raises(BadRequest, match=rf"but {KNOWN['advbench'].sha256[:12]}… is in this catalogue"):
        fetch(KNOWN["advbench"], **bases(web))
    assert known_sets.here(known), "what was here before is still there"


def test_a_damaged_copy_is_fetched_anew(web: Web, tmp_path: Path) -> None:
    known = web.holds(KNOWN["advbench"], stand_in(KNOWN["advbench"]))
    fetch(known, **bases(web))
    (tmp_path / "cache" / "known_sets" / "advbench" / "harmful_behaviors.csv").write_text("goal,target\nx,y\n")
    assert len(fetch(known, **bases(web)).table.rows) == 120
    assert len(web.asked) == 2


def test_another_table_under_the_name_is_refused(web: Web) -> None:
    known = web.holds(KNOWN["xstest"], b"a,b\n1,2\n")
    with pytest.raises(BadRequest, match="no column 'id'"):
        fetch(known, **bases(web))
    assert not known_sets.here(known)


def test_an_uploaded_file_is_recognised_and_serves_without_a_network(web: Web) -> None:
    raw = stand_in(KNOWN["jailbreakbench"], 100)
    assert recognise(raw) is None
    known = web.catalogue(KNOWN["jailbreakbench"], raw)
    assert recognise(raw) is known
    known_sets.accept(known, raw)
    assert len(load_prompt_set("safety_refusal", add_known("jailbreakbench", **bases(web)).name).pairs) == 100
    assert web.asked == []


# The mix -----------------------------------------------------------------------------------------------------------


def test_the_mix_is_made_of_its_parts_and_every_pair_names_its_row(web: Web) -> None:
    for set_id, _, _ in recipes()["language_mix"].parts:
        web.holds(KNOWN[set_id], stand_in(KNOWN[set_id], 80 if set_id == "mt_bench" else 120))
    made = add_recipe("language_mix", **bases(web))
    pairs = load_prompt_set("language", made.name).pairs
    assert len(pairs) == 580
    parts = [pair.pair_id.rsplit("-", 1)[0] for pair in pairs]
    assert {name: parts.count(name) for name in parts} == {s: n for s, n, _ in recipes()["language_mix"].parts}
    assert len(set(parts[:58])) == 6, "any first pairs hold every part"
    assert all(pair.perturbed and pair.perturbed.text.endswith("请用中文回答。") for pair in pairs)
    assert "MT-Bench: Apache-2.0" in made.origin.licence
    assert any("does not say how they are made up" in note for note in made.notes)


def test_a_mix_with_a_part_missing_says_which_and_keeps_nothing(web: Web) -> None:
    web.holds(KNOWN["mt_bench"], stand_in(KNOWN["mt_bench"], 79))
    with pytest.raises(BadRequest, match="MT-Bench gives 79 prompts, the recipe needs 80"):
        add_recipe("language_mix", **bases(web))
    assert list_sets() == []


# The network -------------------------------------------------------------------------------------------------------


def test_without_a_network_the_address_and_the_other_way_are_said(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadRequest, match=r"http://127.0.0.1:1/llm-attacks.*Download the file on a computer"):
        add_known("advbench", github="http://127.0.0.1:1")
    with pytest.raises(BadRequest, match="status 404"):
        add_known("advbench", **bases(web))
    assert main(["prompts", "known"]) == 0
    assert "MIT" in capsys.readouterr().out


def test_only_https_is_fetched_wherever_it_leads(web: Web) -> None:
    for url in ("http://example.org/a.csv", "file:///etc/passwd", "ftp://example.org/a.csv"):
        with pytest.raises(BadRequest, match="only fetched over https"):
            fetching.download(url)
    web.redirects["/a.csv"] = "http://example.org/a.csv"
    with pytest.raises(BadRequest, match="only fetched over https"):
        fetching.download(f"{web.address}/a.csv")


def test_the_hubs_token_stays_with_the_hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    web.files["/b.csv"] = b"goal\nx\n"
    web.redirects["/a.csv"] = f"http://localhost:{web.server_port}/b.csv"
    assert fetching.download(f"{web.address}/a.csv", with_hub_token=True) == b"goal\nx\n"
    assert web.tokens == ["Bearer secret", ""]
    fetching.download(f"{web.address}/b.csv")
    assert web.tokens[-1] == ""


def test_files_that_are_too_large_or_cut_off_are_not_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/a.csv"] = b"goal\n" + b"x" * 100_000
    with pytest.raises(BadRequest, match=r"0\.1 MB"):
        fetching.download(f"{web.address}/a.csv", limit=50_000)
    web.cut = True
    with pytest.raises(BadRequest, match="connection was lost"):
        fetching.download(f"{web.address}/a.csv")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadRequest, match="HF_HUB_OFFLINE"):
        fetching.download(f"{web.address}/a.csv", with_hub_token=True)


def test_a_dataset_of_the_hub_is_asked_about_then_one_file_is_fetched(web: Web) -> None:
    web.files[f"/datasets/own/prompts/resolve/{COMMIT}/train.csv"] = b"Question\nWho?\n"
    web.files[f"/datasets/own/prompts/resolve/{COMMIT}/README.md"] = b"# Prompts\n"
    dataset = fetching.ask_hub("https://huggingface.co/datasets/own/prompts?row=1", hub=web.address)
    assert (dataset.repo_id, dataset.revision, dataset.licence) == ("own/prompts", COMMIT, "cc-by-4.0")
    assert [f.name for f in dataset.files] == ["train.csv"]
    assert not any("/resolve/" in path for path in web.asked)
    raw = fetching.fetch_hub_file(dataset, "train.csv", hub=web.address)
    assert read_table("train.csv", raw).rows == ({"Question": "Who?"},)
    with pytest.raises(BadRequest, match=r"no file 'secret\.csv'"):
        fetching.fetch_hub_file(dataset, "secret.csv", hub=web.address)
    with pytest.raises(BadRequest, match="no public dataset own/nothing"):
        fetching.ask_hub("own/nothing", hub=web.address)
    with pytest.raises(BadRequest, match="hub cannot be reached"):
        fetching.ask_hub("own/prompts", hub="http://127.0.0.1:1")


def test_an_unknown_set_names_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="advbench, harmbench"):
        find_known("x")
    with pytest.raises(BadRequest, match="language_mix"):
        add_recipe("x")
