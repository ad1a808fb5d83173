"""Requests for sweeps: checked before a model is loaded, and named by everything that decides their numbers."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from pprobe_core.circuits.responses import RULES_VERSION
from pprobe_core.circuits.schema import Circuit, Condition
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import ModelShape, Position, check_neurons, parse_neurons
from pprobe_core.interventions.types import (
    INJECTION_KINDS,
    KINDS,
    MAX_DRAWS,
    MAX_SEEDS,
    NEURON_KINDS,
    SWEEP_RANKINGS,
    SWEEP_VERSION,
    DirectionKind,
    Side,
    SweepKind,
    SweepRequest,
)

SWEEP_ID_DIGITS = 12  # of the request key
MAX_POINTS = 20_000  # planned points of one sweep, controls included
MAX_NEW_TOKENS = 512
MAX_STRENGTH = 1e4
DEFAULT_TEMPERATURE = 0.7  # of sampled answers, where several seeds are asked for


def default_request(circuit: Circuit | None, run_id: str, kind: SweepKind, **change: Any) -> SweepRequest:
    """A request with the circuit's own condition, position and ranking (its YAML), and what `change` names."""
    defaults: dict[str, Any] = {}
    if circuit is not None:
        defaults = {"condition": circuit.sweep.condition, "ranking": circuit.sweep.ranking}
        if kind not in ("patch", "held"):
            defaults["position"] = circuit.sweep.position
    return SweepRequest(run_id, kind, **(defaults | {k: v for k, v in change.items() if v is not None}))


def checked_sweep(request: SweepRequest, shape: ModelShape) -> SweepRequest:
    """The request in its normal form. Raises BadRequest for what cannot be met: seen, accepted, what to do."""
    _check_choices(request)
    if request.neurons:
        request = replace(request, ranking="chosen")
    if request.n_seeds > 1 and request.temperature == 0:
        request = replace(request, temperature=DEFAULT_TEMPERATURE)
    _check_numbers(request)
    request = replace(request, **_ignored(request))
    if request.ranking == "chosen" and request.kind in NEURON_KINDS:
        if not request.neurons:
            raise BadRequest("No neuron was chosen by hand. Name some as L3.N12, or choose another ranking.")
        neurons = parse_neurons(", ".join(request.neurons))
        check_neurons(neurons, shape)
        request = replace(request, neurons=tuple(map(str, neurons)))
    total = len(request.neurons) or shape.n_layers * shape.d_mlp
    for n in request.doses if request.kind != "heads" else ():  # heads are counted when the model is there
        if not 0 <= n <= total:
            what = "were chosen by hand" if request.neurons else "this model has"
            raise BadRequest(f"A dose of {n:,} neurons was asked for; {total:,} {what}. Ask for 0 to {total:,}.")
    for layer in request.layers:
        if not 0 <= layer < shape.n_layers:
            raise BadRequest(f"There is no layer {layer}: this model's layers are numbered 0 to {shape.n_layers - 1}.")
    if request.position == "all" and request.kind in ("patch", "held"):
        raise BadRequest("Values of the other prompt belong to the decision position. Choose position decision.")
    if request.kind == "factor" and len(request.doses) > 1:
        raise BadRequest("A factor sweep changes one fixed set of neurons. Give one dose, for example 20.")
    n_points = _n_points(request, shape)
    if n_points > MAX_POINTS:
        raise BadRequest(
            f"This sweep would have {n_points:,} points; at most {MAX_POINTS:,} are measured. Choose fewer layers, "
            "strengths, doses or draws."
        )
    return request


def _ignored(request: SweepRequest) -> dict[str, Any]:
    """What this kind of sweep does not read, at its default: the same sweep must have one identity."""
    kind, plain = request.kind, SweepRequest("", request.kind)
    names: list[str] = []
    if kind not in NEURON_KINDS:
        names += ["ranking", "side", "neurons"]
    if kind not in INJECTION_KINDS:
        names += ["direction", "relative", "layers", "strengths"]
    if kind not in (*NEURON_KINDS, "heads"):
        names += ["doses"]
    if kind not in ("dose", "factor"):
        names += ["factors"]
    if kind in ("layers", "held"):
        names += ["draws"]
    if kind in ("layers", "patch", "held"):
        names += ["collateral"]
    if not request.responses:
        names += ["n_seeds", "temperature", "max_new_tokens"]
    changed = {name: getattr(plain, name) for name in names}
    return changed | ({"collateral": False} if "collateral" in names else {})


def _check_choices(request: SweepRequest) -> None:
    for what, value, accepted in (
        ("kind of sweep", request.kind, KINDS),
        ("condition", request.condition, get_args(Condition)),
        ("position", request.position, get_args(Position)),
        ("ranking", request.ranking, SWEEP_RANKINGS),
        ("side", request.side, get_args(Side)),
        ("direction", request.direction, get_args(DirectionKind)),
    ):
        if value not in accepted:
            raise BadRequest(f"There is no {what} {value!r}. Choose one of {', '.join(map(str, accepted))}.")


def _check_numbers(request: SweepRequest) -> None:
    _within("control draws", request.draws, 1, MAX_DRAWS)
    _within("seeds", request.n_seeds, 1, MAX_SEEDS)
    _within("new tokens", request.max_new_tokens, 1, MAX_NEW_TOKENS)
    _finite("factor", request.factors)
    _finite("strength", request.strengths)
    for name, values in (("dose", request.doses), ("layer", request.layers)):
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise BadRequest(f"The {name} {twice} was given twice. Give each once.")
    if not (math.isfinite(request.temperature) and 0 <= request.temperature <= 5):
        raise BadRequest(f"The temperature is {request.temperature}; it must lie between 0 (greedy) and 5.")
    if not 0 <= request.seed < 2**31:
        raise BadRequest(f"The seed is {request.seed}; it must be a whole number from 0 to {2**31 - 1}.")


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BadRequest(f"{value} {what} were asked for; {low} to {high} are accepted.")


def _finite(what: str, values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value) or abs(value) > MAX_STRENGTH:
            raise BadRequest(
                f"The {what} is {value}; it must be a finite number such as 0, 0.5 or -2, at most {MAX_STRENGTH:,.0f}."
            )


def _n_points(request: SweepRequest, shape: ModelShape) -> int:
    arms = 1 + request.draws
    if request.kind == "window":
        return arms * (len(request.layers) or shape.n_layers) * max(4, len(request.strengths))
    return arms * max(10, len(request.doses), len(request.factors), len(request.strengths))


def sweep_key(run_request_key: str, request: SweepRequest) -> str:
    """SHA-256 over everything that decides a sweep's numbers, as 64 hex digits; the first 12 are its id.

    The run's own key stands for weights, prompts and the run's settings.
    """
    values = asdict(request) | {
        "version": SWEEP_VERSION,
        "run": run_request_key,
        "rules": RULES_VERSION if request.responses else None,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sweep_id_of(run_request_key: str, request: SweepRequest) -> str:
    """Identity of a sweep: asking for the same thing again meets the same one."""
    return sweep_key(run_request_key, request)[:SWEEP_ID_DIGITS]
