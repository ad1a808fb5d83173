"""A user's own circuits on disk: made from plain fields, checked, saved, copied, imported, exported, deleted.

A circuit is a YAML file in the cache folder's `circuits`. What is written is read back before it stands there, so
nothing that cannot be used is ever listed. `drafts` are circuits whose check did not pass; no picker lists them.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pprobe_core import settings
from pprobe_core.circuits import by_example
from pprobe_core.circuits.importing import Table
from pprobe_core.circuits.library import FIELDS, OWN_ID, load_circuit, load_circuits, own_folder, parse_circuit
from pprobe_core.circuits.own_sets import write_whole
from pprobe_core.circuits.pairing import Columns, Pairs, make_pairs, require_some
from pprobe_core.circuits.prompt_sets import MAX_PAIRS, load_prompt_set
from pprobe_core.circuits.responses import ALWAYS_THERE, BY_EXAMPLE
from pprobe_core.circuits.schema import Circuit, Prompt, PromptPair, SweepDefaults
from pprobe_core.errors import BadRequest

MAX_CIRCUITS = 200

Document = Mapping[str, Any]  # the fields of a circuit's YAML file


def document_of(circuit: Circuit) -> dict[str, Any]:
    """A circuit as the fields of its file; what is at its default is left out, and so are the classes always there."""
    made = circuit.response_rule == BY_EXAMPLE
    values: dict[str, Any] = {
        name: list(value) if isinstance(value := getattr(circuit, name), tuple) else value for name in FIELDS
    }
    values["response_classes"] = [
        {"name": c.name, "title": c.title, "side": c.side} | ({"examples": list(c.examples)} if made else {})
        for c in circuit.response_classes
        if not (made and c.name in ALWAYS_THERE)
    ]
    values["outcomes"] = [
        {"name": o.name, "title": o.title, "classes": list(o.classes), "prompts": o.prompts} for o in circuit.outcomes
    ]
    values["set_strings"] = {
        s.prompt_set: {"target": list(s.target), "control": list(s.control)} for s in circuit.set_strings
    }
    sweep = circuit.sweep
    values["sweep"] = {"condition": sweep.condition, "position": sweep.position, "ranking": sweep.ranking}
    optional = ("same_content", "target_fallback", "set_strings", "outcomes", "expected_structure", "expected_note")
    for name in optional:
        if not values[name]:
            del values[name]
    if sweep == SweepDefaults():
        del values["sweep"]
    return values


def copy_of(circuit: Circuit, prompts: str) -> dict[str, Any]:
    """The fields of a copy to change: the circuit with the strings it has for a prompt set, under an id of its own."""
    document = document_of(circuit.for_set(prompts))
    for name in ("set_strings", "expected_structure", "expected_note"):  # about the product's sets, and the paper's
        document.pop(name, None)
    title = f"{circuit.title} (copy)"
    return document | {"circuit_id": new_id(title), "title": title}


def new_id(title: str, taken: Iterable[str] | None = None) -> str:
    """An id from the letters of a title that no circuit and no draft has yet."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:36].strip("_")
    stem = stem if OWN_ID.fullmatch(stem) else f"own_{stem}".rstrip("_")[:36]
    known = set(load_circuits()) | set(drafts()) if taken is None else set(taken)
    numbered = (stem if n == 1 else f"{stem}_{n}" for n in range(1, len(known) + 2))
    return next(name for name in numbered if name not in known)


def class_name(title: str, taken: Iterable[str]) -> str:
    """A name for a response class from its title, other than those taken and those that are always there."""
    return new_id(title, {*taken, *ALWAYS_THERE})


def written(document: Document) -> bytes:
    """The bytes of a circuit's file: the same fields always give the same bytes."""
    ordered = {name: document[name] for name in FIELDS if name in document}
    unknown = {name: value for name, value in document.items() if name not in FIELDS}  # for the reader to refuse
    return yaml.dump(ordered | unknown, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110).encode()


class _Dumper(yaml.SafeDumper):
    """Writes a list in full wherever it stands: the reader takes no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def made(document: Document) -> Circuit:
    """The circuit that these fields give. Raises BadRequest naming the field and what is accepted."""
    return parse_circuit(written(document), "behaviour", own=True, circuit_id=None)


def keep_version(document: Document) -> Circuit:
    """Keep the exact bytes of a circuit, so that requests can name it (`Circuit.address`) though no picker lists it.

    Raises BadRequest for fields that give no circuit, and where nothing can be written.
    """
    return keep_file("behaviour", written(document))


def keep_file(name: str, raw: bytes) -> Circuit:
    """The same for the bytes of a file called `name`."""
    circuit = parse_circuit(raw, readable(name), own=True, circuit_id=None)
    write_whole(_version_file(circuit), raw, "behaviour")
    return circuit


def save(document: Document) -> Circuit:
    """Put a circuit into the pickers, in place of a former version of the same id; its draft goes.

    Whether it passed its check is the caller's question (probing.validity). Raises as keep_version does.
    """
    circuit = made(document)
    _require_room(circuit)
    _keep_former(circuit.circuit_id)
    write_whole(_version_file(circuit), written(document), "behaviour")
    write_whole(own_folder() / f"{circuit.circuit_id}.yaml", written(document), "behaviour")
    _drafts_folder().joinpath(f"{circuit.circuit_id}.yaml").unlink(missing_ok=True)
    return load_circuit(circuit.address)


def save_draft(document: Document) -> Circuit:
    """Keep a circuit as a draft: it stands on the page Behaviours and in no picker. Raises as keep_version does."""
    circuit = made(document)
    _require_room(circuit)
    write_whole(_drafts_folder() / f"{circuit.circuit_id}.yaml", written(document), "behaviour")
    return circuit


def drafts() -> dict[str, Circuit]:
    """The drafts by id; files that cannot be read are left out."""
    found = {}
    for path in sorted(_drafts_folder().glob("*.yaml")):
        try:
            found[path.stem] = parse_circuit(path.read_bytes(), path.name, own=True, circuit_id=path.stem)
        except (BadRequest, OSError):
            continue
    return found


def import_circuit(name: str, raw: bytes) -> Circuit:
    """The circuit in a file that somebody exported or wrote, saved under the id it names.

    Raises BadRequest for a file that is no circuit and for an id that is there already with other contents.
    """
    circuit = parse_circuit(raw, readable(name), own=True, circuit_id=None)
    here = load_circuits().get(circuit.circuit_id)
    if here is not None and here.sha256 != circuit.sha256:
        raise BadRequest(
            f"There is another behaviour with the id {circuit.circuit_id!r} here ({here.title}). Delete it first, "
            "or change circuit_id in the file."
        )
    _require_room(circuit)
    write_whole(_version_file(circuit), raw, "behaviour")
    write_whole(own_folder() / f"{circuit.circuit_id}.yaml", raw, "behaviour")
    return load_circuit(circuit.address)


def export_bytes(circuit_id: str, *, draft: bool = False) -> bytes:
    """The file of a circuit as it is: its own bytes, so that a copy has the same identity. BadRequest when unknown.

    Of a circuit that is saved and has a draft, the draft only with `draft`; of one that is a draft only, that.
    One that comes with the product is written as a copy with an id of its own: an import refuses the product's ids.
    """
    if circuit_id in drafts() and (draft or circuit_id not in load_circuits()):
        return (_drafts_folder() / f"{circuit_id}.yaml").read_bytes()
    circuit = load_circuit(circuit_id)
    if not circuit.own:
        return written(copy_of(circuit, "general"))
    listed = own_folder() / f"{circuit.circuit_id}.yaml"
    version = _version_file(circuit)
    return (version if version.is_file() else listed).read_bytes()


def delete(circuit_id: str) -> None:
    """Take an own circuit and its draft away from the pages.

    The versions that were checked or saved stay in `versions`, and its prompt sets where they are, so that runs made
    with them can still be read and swept. Raises BadRequest for a circuit that is not the user's own.
    """
    if circuit_id in {path.stem for path in settings.CIRCUITS.glob("*.yaml")}:
        raise BadRequest(f"{circuit_id!r} comes with pprobe and cannot be deleted. Only own behaviours can.")
    folder = own_folder()
    gone = [path for path in (*folder.glob("*.yaml"), *_drafts_folder().glob("*.yaml")) if path.stem == circuit_id]
    if not gone:
        raise BadRequest(f"There is no own behaviour {circuit_id[:60]!r}. `circuits` lists them.")
    _keep_former(circuit_id)
    try:
        for path in gone:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"The behaviour cannot be deleted ({error.strerror}). Allow writing in {folder}.") from error


def delete_draft(circuit_id: str) -> None:
    """Delete a draft alone; a saved circuit of the same id stays."""
    for path in _drafts_folder().glob("*.yaml"):
        if path.stem == circuit_id:
            path.unlink(missing_ok=True)


def folder_state() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of every file of the user's circuits: changes whenever one of them does."""
    found = []
    for folder in (own_folder(), _drafts_folder()):
        for path in sorted(folder.glob("*.yaml")):
            try:
                seen = path.stat()
            except OSError:  # deleted meanwhile
                continue
            found.append((f"{folder.name}/{path.name}", seen.st_mtime_ns, seen.st_size))
    return tuple(found)


def readable(name: str) -> str:
    """A file's name as it can stand in a sentence."""
    return " ".join("".join(c if c.isprintable() else " " for c in Path(name).name).split())[:60] or "the file"


def pairs_of(circuit: Circuit, prompts: str) -> Pairs:
    """The pairs of a circuit's prompt set as lines of a prompt file, to start a set of another circuit with.

    Raises BadRequest when there is no such set.
    """
    lines = tuple(_line(pair) for pair in load_prompt_set(circuit, prompts).pairs)
    return Pairs(lines, len(lines), {})


def typed_pairs(rows: Sequence[Mapping[str, Any]], circuit: Circuit) -> Pairs:
    """The pairs in rows that somebody typed: each with `original`, and `perturbed` or `keyword` as the circuit needs.

    Empty rows are left out. Raises BadRequest when no row gives a pair.
    """
    filled = [{k: str(v).strip() for k, v in row.items() if isinstance(v, str) and v.strip()} for row in rows]
    filled = [row for row in filled if row]
    if not filled:
        raise BadRequest("There is no pair yet. Fill in the table, one pair a row.")
    columns = tuple(dict.fromkeys(name for row in filled for name in row))
    digest = hashlib.sha256(json.dumps(filled, sort_keys=True).encode()).hexdigest()
    named = {name: name for name in ("original", "perturbed", "keyword", "target", "control") if name in columns}
    if "original" not in named:
        raise BadRequest("No row has an original prompt. Fill in the first column.")
    pairs = make_pairs(Table("the table", columns, tuple(filled), digest), Columns(**named), circuit)
    require_some(pairs)
    return pairs


def pasted_rows(text: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a pasted list, a pair a line: cells as a spreadsheet copies them (tabs), else with | between them."""
    rows = []
    for line in text.splitlines():
        if line.strip():
            cells = line.split("\t") if "\t" in line else line.split("|", len(columns) - 1)
            rows.append(dict(zip(columns, (cell.strip().strip('"') for cell in cells), strict=False)))
    return rows[:MAX_PAIRS]


def _line(pair: PromptPair) -> dict[str, Any]:
    """A pair as a line of a prompt file."""

    def prompt(one: Prompt | None) -> Any:
        if one is None:
            return None
        if len(one.messages) == 1 and not one.tools:
            return one.text
        return {"messages": list(one.messages)} | ({"tools": list(one.tools)} if one.tools else {})

    line = {
        "id": pair.pair_id,
        "split": pair.split,
        "original": prompt(pair.original),
        "perturbed": prompt(pair.perturbed),
        "keyword": pair.keyword,
        "target": list(pair.target),
        "control": list(pair.control),
        "gold": list(pair.gold),
    }
    return {name: value for name, value in line.items() if value or name == "perturbed"}


def examples_in(text: str) -> list[str]:
    """Example answers from a text with one a line: empty lines and repetitions left out."""
    lines = (line.strip()[: by_example.MAX_EXAMPLE_CHARS] for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _keep_former(circuit_id: str) -> None:
    """Keep the version that is about to be replaced: runs made with it are swept with it."""
    path = own_folder() / f"{circuit_id}.yaml"
    if not path.is_file():
        return
    raw = path.read_bytes()
    try:
        former = parse_circuit(raw, path.name, own=True, circuit_id=circuit_id)
    except BadRequest:
        return
    if not _version_file(former).exists():
        write_whole(_version_file(former), raw, "behaviour")


def _require_room(circuit: Circuit) -> None:
    known = {name for name, c in load_circuits().items() if c.own} | set(drafts())
    if circuit.circuit_id not in known and len(known) >= MAX_CIRCUITS:
        raise BadRequest(f"There are {len(known)} own behaviours already, which is the most. Delete some first.")


def _versions_folder() -> Path:
    return own_folder() / "versions"


def _drafts_folder() -> Path:
    return own_folder() / "drafts"


def _version_file(circuit: Circuit) -> Path:
    return _versions_folder() / f"{circuit.address}.yaml"
