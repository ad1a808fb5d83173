"""The commands that list what comes with the product."""

import argparse
import dataclasses

from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.prompt_sets import BUILT_IN, load_prompt_set
from pprobe_core.circuits.schema import Circuit
from pprobe_core.cli.output import say, table, write_answer
from pprobe_core.errors import BadRequest
from pprobe_core.models.catalogue import shipped_models


def models(options: argparse.Namespace) -> int:
    """`models`: the shipped models."""
    entries = shipped_models()
    if options.json:
        write_answer(entries, options.json)
        return 0
    rows = [(e.id, e.family, e.n_layers, e.d_mlp, e.parameters, e.title) for e in entries]
    if rows:
        say(table(rows, ("id", "family", "layers", "d_mlp", "parameters", "title")))
    say("A probe also takes a local folder in hub format, or a hub id such as Qwen/Qwen3-0.6B.")
    return 0


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
        lines.append((circuit.circuit_id, circuit.title, circuit.expected_structure, sizes))
    say(table(lines, ("id", "title", "in the paper", "prompt pairs")))
    return 0


def _n_pairs(circuit: Circuit) -> dict[str, int]:
    """Pairs of each prompt set that comes with a circuit."""
    sizes = {}
    for name in BUILT_IN:
        try:
            sizes[name] = len(load_prompt_set(circuit, name).pairs)
        except BadRequest:
            continue  # a circuit may come without one of them
    return sizes
