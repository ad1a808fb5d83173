"""The catalogue: chat models of the hub whose facts are known without asking it. Imports no torch."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
_COUNTS = ("parameters", "layers", "d_mlp", "d_model")
_FIELDS = {"id", "family", *_COUNTS, "languages", "licence", "gated", "base"}


@dataclass(frozen=True)
class KnownModel:
    """One model of the catalogue. None where a fact is not known."""

    id: str  # on the hub
    family: str  # model_type of its configuration
    parameters: int
    n_layers: int
    d_mlp: int
    d_model: int
    languages: str | None
    licence: str | None
    gated: bool | None
    base_id: str | None  # the same model before it was taught to chat
    structure_checked: bool  # the tests prove the structure of a tiny random model of this family

    @property
    def bf16_bytes(self) -> int:
        """Bytes of the weights in bfloat16."""
        return 2 * self.parameters


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """The catalogue by hub id, in its order."""
    document = yaml.safe_load(CATALOGUE.read_text("utf-8"))
    return {row["id"]: _model(row, checked_families()) for row in document["models"]}


@functools.cache
def checked_families() -> frozenset[str]:
    """Families (model_type) whose structure the tests prove on tiny random models."""
    return frozenset(yaml.safe_load(CATALOGUE.read_text("utf-8"))["structure_checked"])


def known_model(model_id: str) -> KnownModel | None:
    """The catalogue's facts about a hub id, with or without `@revision`; None when it is not there."""
    return known_models().get(model_id.partition("@")[0])


def _model(row: dict[str, Any], checked: frozenset[str]) -> KnownModel:
    """A row of the file. Raises ValueError for a wrong one: it is our own data, and a test reads it."""
    if set(row) != _FIELDS or not all(isinstance(row[name], int) and row[name] > 0 for name in _COUNTS):
        raise ValueError(f"{CATALOGUE.name}: the entry {row.get('id')!r} lacks a field or a count, or has another.")
    return KnownModel(
        id=str(row["id"]),
        family=str(row["family"]),
        parameters=row["parameters"],
        n_layers=row["layers"],
        d_mlp=row["d_mlp"],
        d_model=row["d_model"],
        languages=row["languages"],
        licence=row["licence"],
        gated=row["gated"],
        base_id=row["base"],
        structure_checked=row["family"] in checked,
    )
