"""A comparison of models: what is asked for, and the runs and sweeps it consists of. Plain values; no torch here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, get_args

from pprobe_core.circuits.library import load_circuit, load_circuits
from pprobe_core.circuits.own_sets import find_set, list_sets
from pprobe_core.circuits.prompt_sets import BUILT_IN, built_in, default_prompts
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
    one of `models`. `own_sets` names a user's prompt sets, at most one for each circuit, which take the place of
    `prompts` there; of a user's own circuit without one the newest set is taken. A checked request names them all, as
    "circuit:set".
    """

    models: tuple[str, ...]  # shipped ids, local folders, hub ids; in the order of the columns
    circuits: tuple[str, ...]  # ids; of a user's own id@version once checked
    sweeps: tuple[SweepPart, ...] = SWEEP_PARTS
    bases: bool = True
    prompts: str = AUTO
    own_sets: tuple[str, ...] = ()
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
    circuits = {circuit.address: circuit for circuit in map(load_circuit, request.circuits)}
    if not circuits:
        raise BadRequest(f"No circuit was named. Name at least one of {', '.join(load_circuits())}.")
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
    own_sets = _own_sets(request.own_sets, list(circuits.values()))
    return replace(request, models=models, circuits=tuple(circuits), sweeps=sweeps, own_sets=own_sets)


def _own_sets(named: Sequence[str], circuits: Sequence[Circuit]) -> tuple[str, ...]:
    """The user's set of every circuit that is probed on one, as "circuit:set", in the order of the circuits."""
    sets: dict[str, str] = {}
    for found in (find_set(name.rpartition(":")[2]) for name in named):
        if found.circuit not in {circuit.circuit_id for circuit in circuits}:
            raise BadRequest(
                f"The prompt set {found.title!r} is of the circuit {found.circuit!r}, which is not compared here. Name "
                "that circuit too, or leave the set out."
            )
        if sets.setdefault(found.circuit, found.name) != found.name:
            raise BadRequest(f"Two prompt sets of the circuit {found.circuit!r} were named; choose one of them.")
    for circuit in circuits:
        if circuit.circuit_id not in sets and not built_in(circuit):
            newest = next(iter(list_sets(circuit.circuit_id)), None)
            if newest is None:
                raise BadRequest(
                    f"The circuit {circuit.circuit_id!r} has no prompts yet. Add a prompt set for it, or leave it out."
                )
            sets[circuit.circuit_id] = newest.name
    return tuple(f"{c.circuit_id}:{sets[c.circuit_id]}" for c in circuits if c.circuit_id in sets)


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
    own: Mapping[str, str] = {of: name for of, _, name in (one.partition(":") for one in request.own_sets)}
    prompts = own.get(circuit.partition("@")[0]) or request.prompts
    if prompts == AUTO:
        prompts = default_prompts(find_model(model).shipped)
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
