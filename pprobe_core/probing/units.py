"""The smallest pieces of a probe: each a pure function from a specification to a table.

A specification is JSON; a table's row holds the finished block as bytes. The worker of this program runs the units one
after the other; any other engine may run them in any order, anywhere the model is, and put the tables together.
"""

import json
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.errors import BadRequest
from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing import probe
from pprobe_core.probing.capture import CaptureBlock
from pprobe_core.probing.generation import GenerationBlock
from pprobe_core.probing.types import Prepared, ProbeRequest, ProbeResult

UnitKind = Literal["capture", "generation"]
COLUMNS = ("request_key", "kind", "block", "payload")


@dataclass(frozen=True)
class BlockUnit:
    """One block of prompt pairs of one circuit in one model: the two passes, or the first words of the answers."""

    request: ProbeRequest
    kind: UnitKind
    block: int

    def as_json(self) -> str:
        """The specification as one line of JSON."""
        return json.dumps({"request": self.request.as_json(), "kind": self.kind, "block": self.block})

    @classmethod
    def from_json(cls, text: str) -> "BlockUnit":
        """The specification back from `as_json`."""
        values = json.loads(text)
        return cls(ProbeRequest.from_json(values["request"]), values["kind"], int(values["block"]))


def prepared_of(loaded: LoadedModel, request: ProbeRequest) -> Prepared:
    """All pairs of a request as token ids: decided by the request and the model alone, no forward pass."""
    circuit = load_circuit(request.circuit)
    return probe.prepare(loaded, circuit, load_prompt_set(circuit, request.prompts), request)


def plan_units(prepared: Prepared, request: ProbeRequest) -> tuple[BlockUnit, ...]:
    """Every unit of a probe, the two passes first."""
    kinds: tuple[UnitKind, ...] = ("capture", "generation") if request.generate else ("capture",)
    return tuple(BlockUnit(request, kind, block) for kind in kinds for block in range(prepared.n_blocks))


def measure(loaded: LoadedModel, unit: BlockUnit, prepared: Prepared | None = None) -> pd.DataFrame:
    """The unit's table: one row with COLUMNS. `prepared` only saves making it again (`prepared_of`).

    Raises BadRequest for a block that the probe does not have.
    """
    made = prepared_of(loaded, unit.request) if prepared is None else prepared
    if not 0 <= unit.block < made.n_blocks:
        raise BadRequest(f"This probe has blocks 0 to {made.n_blocks - 1}; block {unit.block} was asked for.")
    if unit.kind == "capture":
        payload = next(probe.capture_blocks(loaded, made, unit.block)).to_bytes()
    else:
        payload = next(probe.generation_blocks(loaded, made, unit.block)).to_bytes()
    return table(loaded, made, unit, payload)


def table(loaded: LoadedModel, prepared: Prepared, unit: BlockUnit, payload: bytes) -> pd.DataFrame:
    """The row of a finished unit, from the bytes it gave."""
    key = probe.key_of(loaded, prepared, unit.request)
    return pd.DataFrame([(key, unit.kind, unit.block, payload)], columns=list(COLUMNS))


def n_pairs(prepared: Prepared) -> list[int]:
    """Prompt pairs of each block."""
    return [len(indices) for _, indices in probe.blocks_of(prepared)]


def result_of(
    loaded: LoadedModel, request: ProbeRequest, tables: pd.DataFrame, prepared: Prepared | None = None
) -> ProbeResult:
    """The finished probe from the tables of all its units, in any order. `prepared` only saves making it again.

    Raises BadRequest when a unit is missing or a table belongs to another request or model.
    """
    prepared = prepared_of(loaded, request) if prepared is None else prepared
    key = probe.key_of(loaded, prepared, request)
    wanted = {(unit.kind, unit.block) for unit in plan_units(prepared, request)}
    have = {(row["kind"], int(row["block"])): row for row in tables.to_dict("records")}
    if others := set(tables["request_key"]) - {key}:
        raise BadRequest(f"{len(others)} of the tables belong to another probe. Collect those of one request.")
    if missing := sorted(wanted - set(have)):
        raise BadRequest(f"{len(missing)} of {len(wanted)} units are missing, the first is {missing[0]}. Run them.")
    payloads = {place: bytes(row["payload"]) for place, row in have.items()}
    captured = [CaptureBlock.from_bytes(payloads["capture", i]) for i in range(prepared.n_blocks)]
    answers = [
        GenerationBlock.from_bytes(payloads["generation", i]) for i in range(prepared.n_blocks) if request.generate
    ]
    return probe.summarise(loaded, prepared, captured, answers, request)
