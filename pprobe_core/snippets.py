"""The few lines that do a step of the dashboard in a notebook, built from what is on screen."""

import keyword
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pprobe_core.circuits.library import load_circuit
from pprobe_core.comparison import CompareRequest
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.types import INJECTION_KINDS, SweepRequest
from pprobe_core.probing.types import ProbeRequest

START = 'import pprobe_core as pp\n\nlab = pp.Lab()  # in memory; pp.Lab("mine.duckdb") keeps the results'
WIDTH = 88


def probe(request: ProbeRequest) -> str:
    """A probe, its headline numbers with their intervals and n, its first neurons."""
    return "\n".join(
        [
            START,
            *_probe(request),
            "",
            "s = run.summary",
            'print(s["verdict"]["structure"], s["ffn_skip"]["mean"], s["ffn_skip"]["interval"], s["n_pairs"])',
            "lab.store.top_neurons(run.run_id)  # also: pairs, layers, neurons, first_tokens",
        ]
    )


def prompt_set(request: ProbeRequest) -> str:
    """A kept prompt set: its pairs, and a probe with them."""
    return _before_a_probe(
        request,
        "from pprobe_core.circuits.prompt_sets import load_prompt_set",
        f"pairs = load_prompt_set({_written(request.circuit)}, {_written(request.prompts)}).pairs",
        'print(len(pairs), "pairs; the first one:", pairs[0].original.text)',
    )


def circuit(request: ProbeRequest) -> str:
    """A circuit: its target and control strings and its response classes, and a probe of it."""
    return _before_a_probe(
        request,
        "from pprobe_core.circuits.library import load_circuit",
        f"circuit = load_circuit({_written(request.circuit)})",
        "print(circuit.target, circuit.control, [c.name for c in circuit.response_classes])",
    )


def sweep(of_probe: ProbeRequest, request: SweepRequest) -> str:
    """A sweep of a probe's run with its points beside their random controls."""
    last = {
        "window": 'points.pivot_table(index=["split", "strength"], columns="layer", values="delta_mean")',
        "strength": 'points[["strength", "arm", "split", "n_prompts", "delta_mean", "delta_low", "delta_high"]]',
    }.get(request.kind, 'points[["group", "arm", "split", "n_prompts", "delta_mean", "delta_low", "delta_high"]]')
    points = "points = lab.store.sweep_points(sweep.sweep_id)"
    if request.kind == "window":
        points += '\npoints = points[points["arm"] == "ranked"]  # the random directions are the others'
    return "\n".join(
        [
            START,
            *_probe(of_probe),
            _call("sweep = lab.sweep", ["run", _written(request.kind)], _sweep_options(of_probe, request)),
            "",
            'print(sweep.summary["stage"], sweep.summary["stage_reasons"])',
            points,
            last,
        ]
    )


def stored_run(path: str, run_id: str, sweep_id: str | None = None) -> str:
    """Reading a run, or one of its sweeps, from a results file that nobody else holds open."""
    read = f"lab.store.sweep_points({_written(sweep_id)})" if sweep_id else "lab.store.pairs(run.run_id)"
    return "\n".join(
        [
            "import pprobe_core as pp",
            "",
            f"lab = pp.Lab({_written(path)})  # one process at a time: close the dashboard first",
            f"run = lab.run({_written(run_id)})",
            'print(run.request, run.summary["verdict"])',
            read,
        ]
    )


def comparison(request: CompareRequest) -> str:
    """A comparison, its FFN/Skip table and what it says in words."""
    values = {name: value for name, value in asdict(request).items() if name not in ("models", "circuits")}
    options = {name: value for name, value in values.items() if value != getattr(CompareRequest, name)}
    return "\n".join(
        [
            START,
            _call("found = lab.compare", [_written(list(request.models)), _written(list(request.circuits))], options),
            "",
            "from pprobe_core import compare_frames, compare_report",
            "",
            "print(compare_report.compare_text(lab.store, found))",
            "compare_frames.ratios(found)",
        ]
    )


def playground(request: ProbeRequest, prompt: str, change: Mapping[str, Any]) -> str:
    """An answer before and after an edit, with its random control. `change` holds fields of playground.Change."""
    return "\n".join(
        [
            START,
            *_probe(request),
            _call("reply = lab.ask", ["run", _written(prompt)], change),
            "",
            'for name in ("unedited", "edited", "random"):',
            "    answer = getattr(reply, name)",
            "    if answer is not None:",
            "        print(name, answer.logit_diff, answer.class_name, repr(answer.text))",
        ]
    )


def _before_a_probe(request: ProbeRequest, needs: str, *lines: str) -> str:
    """Lines about what a probe is made of, with what they import, and the probe."""
    return "\n".join([START, "", needs, "", *lines, *_probe(request)])


def _probe(request: ProbeRequest) -> list[str]:
    values = {name: value for name, value in request.as_json().items() if name not in ("model", "circuit")}
    options = {name: value for name, value in values.items() if value != getattr(ProbeRequest, name)}
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return [_call("run = lab.probe", [_written(request.model), _written(request.circuit)], options)]


def _sweep_options(of_probe: ProbeRequest, request: SweepRequest) -> dict[str, Any]:
    """What differs from the circuit's own sweep of this kind."""
    try:
        base = default_request(load_circuit(of_probe.circuit), request.run_id, request.kind)
    except BadRequest:  # the file of an own circuit is gone
        base = SweepRequest(request.run_id, request.kind)
    plain = asdict(base)
    unused = ("ranking",) if request.kind in INJECTION_KINDS else ()
    return {name: value for name, value in asdict(request).items() if value != plain[name] and name not in unused}


def _call(name: str, arguments: Sequence[str], options: Mapping[str, Any]) -> str:
    """A call on one line where it fits, else one argument a line."""
    named = [
        f"{key}={_written(value)}"
        for key, value in options.items()
        if key.isidentifier() and not keyword.iskeyword(key)
    ]
    whole = f"{name}({', '.join([*arguments, *named])})"
    if len(whole) <= WIDTH:
        return whole
    return "\n".join([f"{name}(", *(f"    {part}," for part in [*arguments, *named]), ")"])


def _written(value: Any) -> str:
    """A value as Python writes it, texts between double quotes."""
    if isinstance(value, list | tuple):
        items = ", ".join(map(_written, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
    text = repr(value)
    if isinstance(value, str) and '"' not in value and "\\'" not in text:
        return f'"{text[1:-1]}"'
    return text
