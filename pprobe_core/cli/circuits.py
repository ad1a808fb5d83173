"""The commands about one circuit: show it, check it by a real run, bring it in, hand it on, delete it."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pprobe_core.circuits import editor, own_sets
from pprobe_core.circuits.library import MAX_FILE_BYTES, load_circuit
from pprobe_core.circuits.prompt_sets import built_in, load_prompt_set
from pprobe_core.circuits.schema import Circuit
from pprobe_core.cli.following import finished, worker
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest

if TYPE_CHECKING:
    from pprobe_core.jobs import Jobs
    from pprobe_core.probing.validity import Validity

_MARKS = {"good": "ok  ", "weak": "note", "bad": "BAD "}


def show(options: argparse.Namespace) -> int:
    """`circuits show`: everything a circuit is made of."""
    circuit = load_circuit(options.circuit)
    sets = [*built_in(circuit), *(s.name for s in own_sets.list_sets(circuit.circuit_id))]
    if options.json:
        write_answer(
            {"id": circuit.circuit_id, "address": circuit.address} | asdict(circuit) | {"sets": sets}, options.json
        )
        return 0
    rows = [
        ("id", circuit.circuit_id),
        ("from", f"your own, version {circuit.address.partition('@')[2]}" if circuit.own else "comes with pprobe"),
        ("description", circuit.description),
        ("question", circuit.question),
        ("pairs", circuit.perturbation_text),
        ("target", f"{circuit.target_meaning}: {_strings(circuit.target)}"),
        ("control", f"{circuit.control_meaning}: {_strings(circuit.control)}"),
        ("expected", circuit.expected_structure or "nothing"),
        ("prompt sets", ", ".join(sets) or "none yet (`prompts add`)"),
        ("answers by", circuit.response_rule),
    ]
    say(circuit.title)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        say(f"  {name.ljust(width)}  {text}")
    classes = [(c.name, c.title, c.side, " / ".join(c.examples)) for c in circuit.response_classes]
    say(table(classes, ("class", "title", "stands for", "examples")))
    return 0


def _strings(strings: tuple[str, ...]) -> str:
    return ", ".join(map(repr, strings)) or "each pair brings its own"


def check(options: argparse.Namespace) -> int:
    """`circuits check`: a real run of a circuit, and whether it measures what it says; exit code 2 where not."""
    from pprobe_core.jobs import checked

    circuit = _named(options.circuit)
    load_prompt_set(circuit, options.prompts)
    request = checked(ProbeRequest(model=options.model, circuit=circuit.address, prompts=options.prompts))
    with worker(options) as jobs:
        run_id = str(finished(jobs, request).run_id)
        found = _validity(jobs, circuit, run_id)
    if options.json:
        write_answer(_document(circuit, found, run_id), options.json)
    else:
        _report(circuit, found, run_id, options)
    return 0 if found.passes else BadRequest.exit_code


def _named(circuit: str) -> Circuit:
    """The circuit in a file, else the one of this id. The file's exact version is kept, so that a run can name it."""
    path = Path(circuit).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return editor.keep_file(path.name, _read(path))
    return load_circuit(circuit)


def _validity(jobs: "Jobs", circuit: Circuit, run_id: str) -> "Validity":
    from pprobe_core.probing.validity import validity

    store = jobs.store
    return validity(circuit, store.run(run_id).summary, store.pairs(run_id), store.first_tokens(run_id))


def _report(circuit: Circuit, found: "Validity", run_id: str, options: argparse.Namespace) -> None:
    from pprobe_core.probing.validity import confusion

    say(f"{circuit.title} on {options.model} (run {run_id})")
    for finding in found.findings:
        say(f"  {_MARKS[finding.level]} {finding.name}: {finding.text}")
        if finding.advice:
            say(f"       {finding.advice}")
    examples = confusion(circuit)
    if examples.n:
        say(f"  Examples sorted by all the others: {examples.n_right} of {examples.n} find their class.")
    say("It holds." if found.passes else "It does not hold yet: what it measures would not be the behaviour.")


def _document(circuit: Circuit, found: "Validity", run_id: str) -> dict[str, Any]:
    from pprobe_core.probing.validity import confusion

    examples = confusion(circuit)
    return {
        "circuit": circuit.circuit_id,
        "address": circuit.address,
        "run_id": run_id,
        "passes": found.passes,
        "findings": [asdict(finding) for finding in found.findings],
        "examples": {"n": examples.n, "n_right": examples.n_right, "counts": examples.counts.to_dict("index")},
    }


def import_file(options: argparse.Namespace) -> int:
    """`circuits import`: a file becomes one of the user's own circuits."""
    path = options.file.expanduser()
    circuit = editor.import_circuit(path.name, _read(path))
    say(
        f"{circuit.title} is imported as {circuit.circuit_id}. It was not checked here: "
        f"`circuits check {circuit.circuit_id} --model MODEL --prompts SET` runs it."
    )
    return 0


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(f"The file {str(path)[:200]!r} cannot be read ({reason}).") from None


def export(options: argparse.Namespace) -> int:
    """`circuits export`: a circuit as a file for another computer; of a circuit of pprobe a copy to change."""
    raw, path = editor.export_bytes(options.circuit), options.out.expanduser()
    try:
        if path.is_dir():
            raise BadRequest(f"{path} is a folder. Name the file to write, for example {path / 'circuit.yaml'}.")
        path.write_bytes(raw)
    except OSError as error:
        raise BadRequest(f"The file {path} cannot be written ({error.strerror}). Name another one.") from error
    say(f"{options.circuit}: written to {path}.")
    return 0


def delete(options: argparse.Namespace) -> int:
    """`circuits delete`: take an own circuit off every list; runs made with it stay."""
    if not options.yes:
        raise BadRequest(f"Deleting {options.circuit!r} is for good. Add --yes when you mean it; its runs stay.")
    editor.delete(options.circuit)
    say(f"{options.circuit} is deleted. Runs made with it and its prompt sets stay.")
    return 0
