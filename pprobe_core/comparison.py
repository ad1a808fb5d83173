"""A comparison of models: what is asked for, and the runs and sweeps it consists of. Plain values; no torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, get_args

from pprobe_core.circuits.library import load_circuits
from pprobe_core.circuits.prompt_sets import BUILT_IN, default_prompts
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.types import Coupling, ProbeRequest
from pprobe_core.settings import SEED

SweepPart = Literal["dose", "window"]
UnitKind = Literal["probe", "dose", "window"]
SWEEP_PARTS: tuple[SweepPart, ...] = get_args(SweepPart)
MIN_MODELS, MAX_MODELS = 2, 6
AUTO = "auto"  # prompts: for each model the set that fits it


@dataclass(frozen=True)
class CompareRequest:
    """Which models and circuits to lay side by side. Asking for the same again computes only what is missing.

    `bases` also probes the model before alignment of every model that has one; no sweeps are run on it unless it is
    one of `models`.
    """

    models: tuple[str, ...]  # shipped ids, local folders, hub ids; in the order of the columns
    circuits: tuple[str, ...]
    sweeps: tuple[SweepPart, ...] = SWEEP_PARTS
    bases: bool = True
    prompts: str = AUTO
    coupling: Coupling = "plain"
    limit: int | None = None
    seed: int = SEED


@dataclass(frozen=True)
class Unit:
    """One piece of a comparison: a probe of one circuit in one model, or a sweep of that probe's run."""

    kind: UnitKind
    probe: ProbeRequest  # the probe, or the one whose run is swept

    @property
    def model(self) -> str:
        """Id of the model."""
        return self.probe.model

    @property
    def circuit(self) -> str:
        """Id of the circuit."""
        return self.probe.circuit

    def sweep(self, run_id: str, circuit: Circuit | None) -> SweepRequest:
        """What a sweep unit asks of its run: the circuit's own defaults, with answers, as the pages do."""
        if self.kind == "probe":
            raise ValueError("a probe is no sweep")
        return default_request(circuit, run_id, self.kind, responses=True)


def checked_comparison(request: CompareRequest) -> CompareRequest:
    """The request with ids that mean the same everywhere and nothing twice.

    Raises BadRequest or ModelUnavailable for what cannot be met: seen, accepted, what to do.
    """
    models = tuple(dict.fromkeys(find_model(model).id for model in request.models))
    if not MIN_MODELS <= len(models) <= MAX_MODELS:
        named = f"{len(models)} different model{'s were' if len(models) != 1 else ' was'} named"
        raise BadRequest(f"{named}; a comparison takes {MIN_MODELS} to {MAX_MODELS}. Choose other models.")
    everything = load_circuits()
    known = [name for name, circuit in everything.items() if not circuit.own]
    circuits = tuple(dict.fromkeys(request.circuits))
    for circuit in circuits:
        if circuit in everything and circuit not in known:
            raise BadRequest(
                f"The circuit {circuit!r} is your own, and a comparison runs the sets mini and general, which only the "
                f"circuits that come with pprobe have: {', '.join(known)}. Probe it in one model after another."
            )
        if circuit not in known:
            raise BadRequest(f"There is no circuit {circuit!r}. The circuits are {', '.join(known)}.")
    if not circuits:
        raise BadRequest(f"No circuit was named. Name at least one of {', '.join(known)}.")
    for part in request.sweeps:
        if part not in SWEEP_PARTS:
            raise BadRequest(f"A comparison has no sweep {part!r}. It can hold {' and '.join(SWEEP_PARTS)}.")
    if request.prompts not in (AUTO, *BUILT_IN):
        raise BadRequest(f"There is no prompt set {request.prompts!r} here. Choose {', '.join((AUTO, *BUILT_IN))}.")
    if request.coupling not in get_args(Coupling):
        raise BadRequest(f"There is no coupling {request.coupling!r}. Choose {' or '.join(get_args(Coupling))}.")
    if request.limit is not None and request.limit < 1:
        raise BadRequest(f"At most {request.limit} pairs were asked for. Ask for 1 or more, or leave it out.")
    sweeps = tuple(part for part in SWEEP_PARTS if part in request.sweeps)
    return replace(request, models=models, circuits=circuits, sweeps=sweeps)


def bases_of(models: Sequence[str]) -> dict[str, str]:
    """Model -> the same model before alignment, for those that have one."""
    bases = {model: find_model(model).base_id for model in models}
    return {model: base for model, base in bases.items() if base}


def units(request: CompareRequest) -> tuple[Unit, ...]:
    """Every piece of a checked comparison, model by model, so that each model's weights are loaded once."""
    return tuple(_units(request))


def _units(request: CompareRequest) -> Iterator[Unit]:
    bases = bases_of(request.models) if request.bases else {}
    for model in request.models:
        for circuit in request.circuits:
            probe = _probe(request, model, circuit)
            yield Unit("probe", probe)
            yield from (Unit(kind, probe) for kind in request.sweeps)
        base = bases.get(model)
        if base and base not in request.models:
            for circuit in request.circuits:
                yield Unit("probe", _probe(request, base, circuit))


def _probe(request: CompareRequest, model: str, circuit: str) -> ProbeRequest:
    prompts = default_prompts(find_model(model).shipped) if request.prompts == AUTO else request.prompts
    return ProbeRequest(
        model=model,
        circuit=circuit,
        prompts=prompts,
        coupling=request.coupling,
        limit=request.limit,
        seed=request.seed,
    )


def labels(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model, no two the same: the last part of its id, with what tells namesakes apart."""
    short = {model: PurePath(model).name or model for model in models}
    names = list(short.values())
    return {model: name if names.count(name) == 1 else model for model, name in short.items()}
