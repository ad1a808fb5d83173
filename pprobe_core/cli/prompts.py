"""The commands that add, list, show and delete prompt sets of one's own, and list the published ones."""

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path

from pprobe_core.circuits import fetching, known_sets, own_sets
from pprobe_core.circuits.importing import MAX_SOURCE_BYTES, Table, read_table
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.own_sets import Origin, OwnSet
from pprobe_core.circuits.pairing import Columns, guess_columns, make_pairs
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.errors import BadRequest
from pprobe_core.wording import plural

PARTS = tuple(f.name for f in fields(Columns))


def list_sets(options: argparse.Namespace) -> int:
    """`prompts list`: the user's own sets, newest first."""
    sets = own_sets.list_sets(options.circuit)
    if options.json:
        write_answer([asdict(s) for s in sets], options.json)
    elif not sets:
        say("No prompt set of your own yet. `python -m pprobe_core prompts add FILE --circuit ...` makes one.")
    else:
        rows = [
            (s.name, s.circuit, s.n_pairs, s.title, s.origin.source, s.origin.licence or "not stated") for s in sets
        ]
        say(table(rows, ("name", "circuit", "pairs", "title", "from", "licence")))
    return 0


def list_known(options: argparse.Namespace) -> int:
    """`prompts known`: published sets that can be fetched, and mixes of them."""
    sets, recipes = known_sets.known_sets(), known_sets.recipes()
    if options.json:
        rows = [asdict(k) | {"on_this_computer": known_sets.here(k)} for k in sets.values()]
        write_answer({"sets": rows, "recipes": [asdict(r) for r in recipes.values()]}, options.json)
        return 0
    lines = [
        (k.set_id, k.n_rows, ", ".join(k.fits) or "(part of a mix)", k.licence, known_sets.here(k), k.source.label)
        for k in sets.values()
    ]
    lines += [(r.recipe_id, r.n_pairs, r.circuit, "of its parts", False, r.title) for r in recipes.values()]
    say(table(lines, ("id", "rows", "makes pairs for", "licence", "here", "from")))
    say("`prompts add --known ID` fetches one and keeps it as a set of your own; nothing is fetched before.")
    return 0


def add(options: argparse.Namespace) -> int:
    """`prompts add`: a set from a file, a dataset of the hub, or a published set."""
    given = [name for name in ("source", "hub", "known") if getattr(options, name)]
    if len(given) != 1:
        raise BadRequest("Say where the prompts come from, and once: a FILE, --hub OWNER/NAME, or --known ID.")
    made = _known(options) if options.known else _from_hub(options) if options.hub else _from_file(options)
    if made is None:
        return 0
    if options.json:
        write_answer(asdict(made), options.json)
    else:
        say(_text(made))
        say(f"Use it with: probe --circuit {made.circuit} --prompts {made.name}")
    return 0


def show(options: argparse.Namespace) -> int:
    """`prompts show NAME`: what a set is, where it comes from, and its first pairs."""
    one = own_sets.find_set(options.name)
    pairs = load_prompt_set(one.circuit, one.name).pairs
    if options.json:
        write_answer(asdict(one) | {"pairs": [asdict(pair) for pair in pairs]}, options.json)
        return 0
    say(_text(one))
    for pair in pairs[:5]:
        second = pair.perturbed.text if pair.perturbed else f"(letters of {pair.keyword!r} swapped)"
        say(f"  {pair.pair_id}  {_short(pair.original.text)}  |  {_short(second)}")
    return 0


def delete(options: argparse.Namespace) -> int:
    """`prompts delete NAME --yes`: a set is gone for good; runs made with it stay."""
    one = own_sets.find_set(options.name)
    if not options.yes:
        raise BadRequest(f"The prompt set {one.title!r} would be deleted. Add --yes to do it.")
    own_sets.delete_set(one.name)
    say(f"The prompt set {one.title!r} was deleted.")
    return 0


def _known(options: argparse.Namespace) -> OwnSet:
    if options.known in known_sets.recipes():
        return known_sets.add_recipe(options.known)
    known = known_sets.find_known(options.known)
    if not options.json:
        say(f"{known.title}: licence {known.licence}; {known.source.label}")
    return known_sets.add_known(options.known, options.circuit)


def _from_file(options: argparse.Namespace) -> OwnSet | None:
    """A set from a file; None for a file of a published set that is only a part of mixes, which is kept for those."""
    path = options.source.expanduser()
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            raise BadRequest(
                f"{path.name}: at most {MAX_SOURCE_BYTES // 1_000_000} MB are accepted. Give a part of it."
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(f"The file {str(path)!r} cannot be read ({reason}).") from None
    known = known_sets.recognise(raw)
    if known is not None:
        fetched = known_sets.accept(known, raw)
        if options.circuit in known.fits or (options.circuit is None and known.fits):
            return known_sets.keep(known, fetched, options.circuit)
        if options.circuit is None:
            say(f"{path.name} is {known.title} and is kept for the mixes. {known.no_pairs}")
            return None
    read = read_table(path.name, raw)
    return _made(options, read, Origin("file", own_sets.tidied(path.name), read.sha256))


def _from_hub(options: argparse.Namespace) -> OwnSet:
    dataset = fetching.ask_hub(options.hub, options.revision)
    names = [f.name for f in dataset.files]
    file = options.file or (names[0] if len(names) == 1 else None)
    if file is None:
        raise BadRequest(f"{dataset.repo_id} has {len(names)} files. Choose one with --file: {', '.join(names[:20])}.")
    read = read_table(Path(file).name, fetching.fetch_hub_file(dataset, file))
    source = f"{dataset.repo_id} @ {dataset.revision[:12]}, {file}"
    return _made(options, read, Origin("hub", source, read.sha256, dataset.licence, dataset.link))


def _made(options: argparse.Namespace, read: Table, origin: Origin) -> OwnSet:
    if not options.circuit:
        raise BadRequest("Say which circuit the prompts are for: --circuit (see `circuits`).")
    circuit = load_circuit(options.circuit)
    wanted = {part: getattr(options, part) for part in PARTS if getattr(options, part) is not None}
    columns = replace(guess_columns(read, circuit), **wanted)
    if options.licence:
        origin = replace(origin, licence=own_sets.tidied(options.licence, 200))
    return own_sets.add_set(
        circuit, options.title or Path(read.name).stem, make_pairs(read, columns, circuit), origin, columns
    )


def _text(one: OwnSet) -> str:
    left_out = "".join(f"\n  left out, {reason}: {n}" for reason, n in one.left_out.items())
    notes = "".join(f"\n  {note}" for note in one.notes)
    return (
        f"{one.title}: {plural(one.n_pairs, 'pair')} for {one.circuit} from {plural(one.n_seen, 'row')}{left_out}\n"
        f"  from {one.origin.source}, licence {one.origin.licence or 'not stated'}\n"
        f"  name {one.name}, SHA-256 {one.sha256}{notes}"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else line[:69] + "…"
