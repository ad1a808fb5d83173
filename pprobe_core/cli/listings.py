"""The commands that list what can be chosen, and look at a model before it is used."""

import argparse
import dataclasses

from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.own_sets import list_sets
from pprobe_core.circuits.prompt_sets import BUILT_IN, load_prompt_set
from pprobe_core.circuits.schema import Circuit
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models.catalogue import find_model, shipped_models
from pprobe_core.models.known import known_models
from pprobe_core.wording import gigabytes

RUN_HERE = "run here"  # of the shipped models: the tests and this product's own results used them


def models(options: argparse.Namespace) -> int:
    """`models`: the shipped models, then the ones of the hub that are known without asking it."""
    from pprobe_core.models import card

    if options.json:
        write_answer(_model_rows(), options.json)
        return 0
    header = ("id", "family", "layers", "d_mlp", "parameters", "in bfloat16", "licence", "gated", "what was tried")
    rows: list[tuple[object, ...]] = [
        (e.id, e.family, e.n_layers, e.d_mlp, card.parameters(e.parameters), "", "", "no", RUN_HERE)
        for e in shipped_models()
    ]
    for m in known_models().values():
        gated = {True: "yes", False: "no", None: ""}[m.gated]
        size, memory = card.parameters(m.parameters), gigabytes(m.bf16_bytes)
        rows.append((m.id, m.family, m.n_layers, m.d_mlp, size, memory, m.licence, gated, card.mark(m)))
    say(table(rows, header))
    say(
        "A probe takes one of these, any other hub id, a local folder in hub format, or owner/name@revision. "
        "`models check ID` looks at a model before anything is fetched."
    )
    return 0


def check_model(options: argparse.Namespace) -> int:
    """`models check`: can this model be used here, and what would it cost. Nothing but config.json is fetched."""
    from pprobe_core.models import card
    from pprobe_core.models.preflight import preflight

    flight = preflight(options.model, options.device, options.dtype)
    if options.json:
        write_answer(card.as_json(flight), options.json)
        return 0 if flight.ready else ModelUnavailable.exit_code
    rows = card.facts(flight)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        say(f"{label.ljust(width)}  {text}")
    for note in flight.notes:
        say(note)
    flight.require()
    say(card.headline(flight))
    return 0


def _model_rows() -> list[dict[str, object]]:
    """Shipped and known models with the same keys; None where a fact is not known."""
    from pprobe_core.models import card

    rows: list[dict[str, object]] = [
        dataclasses.asdict(e)
        | {"tried": RUN_HERE, "languages": None, "licence": None, "gated": False, "bf16_bytes": 2 * e.parameters}
        for e in shipped_models()
    ]
    for m in known_models().values():
        entry = dataclasses.asdict(find_model(m.id))
        extra = {"languages": m.languages, "licence": m.licence, "gated": m.gated, "bf16_bytes": m.bf16_bytes}
        rows.append(entry | {"tried": card.mark(m)} | extra)
    return rows


def circuits(options: argparse.Namespace) -> int:
    """`circuits`: the behaviours that can be probed, and how many pairs their prompt sets have."""
    known = load_circuits()
    if options.json:
        rows = [
            {"id": circuit.circuit_id} | dataclasses.asdict(circuit) | {"prompts": _n_pairs(circuit)}
            for circuit in known.values()
        ]
        write_answer(rows, options.json)
        return 0
    lines = []
    for circuit in known.values():
        sizes = ", ".join(f"{name} {n}" for name, n in _n_pairs(circuit).items())
        lines.append((circuit.circuit_id, circuit.title, circuit.expected_structure or "", sizes))
    say(table(lines, ("id", "title", "in the paper", "prompt pairs")))
    return 0


def _n_pairs(circuit: Circuit) -> dict[str, int]:
    """Pairs of each prompt set of a circuit: the ones that come with it, then the user's."""
    sizes = {}
    for name in BUILT_IN:
        try:
            sizes[name] = len(load_prompt_set(circuit, name).pairs)
        except BadRequest:
            continue  # a circuit may come without one of them
    return sizes | {s.name: s.n_pairs for s in list_sets(circuit.circuit_id)}
