"""What is known about a model before anything of it is fetched or loaded: can it be used, where, at what cost.

Imports no torch itself; looking at devices and at the kinds of model that are known may.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models import devices, hub
from pprobe_core.models.catalogue import (
    ModelEntry,
    entry_of_hub_folder,
    find_model,
    licence_of_folder,
    shape_of_config,
    split_hub_id,
)
from pprobe_core.models.checkpoint import header, read_config, weight_files
from pprobe_core.models.devices import Placement
from pprobe_core.models.hub import HubModel
from pprobe_core.models.known import checked_families, known_model
from pprobe_core.models.pace import Pace, pace
from pprobe_core.models.support import require_supported
from pprobe_core.wording import gigabytes

START_SECONDS = 3.0  # of every load, beside reading the weights: tokeniser, proof of the structure
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Preflight:
    """The facts a person wants to see before a model is fetched and loaded. Bytes, seconds; None where not known.

    `refusal` says in a sentence or two why the model cannot be used, None when it can.
    """

    model: str
    source: str  # "shipped", "folder", "hub", or "hub, downloaded"
    family: str
    n_layers: int
    d_mlp: int
    d_model: int
    parameters: int
    checked: str  # what is known about its structure, in words
    languages: str | None = None
    base_id: str | None = None
    revision: str | None = None  # commit hash of a hub model
    here: Path | None = None  # the folder of a hub model's files, where all of them are here
    licence: str | None = None
    gated: bool = False
    link: str | None = None  # the model's page: where a licence is accepted
    download_bytes: int = 0  # of all files, whether here or not
    present_bytes: int = 0  # of these, here already
    disk_free: int | None = None
    placement: Placement | None = None  # None when nothing holds the model, or nothing is known about its size
    load_bytes: int = 0  # of the checkpoint's weights
    download_pace: Pace | None = None
    load_pace: Pace | None = None
    refusal: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """True when nothing known speaks against using the model."""
        return self.refusal is None

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched."""
        return self.download_bytes - self.present_bytes

    @property
    def download_seconds(self) -> float:
        """Time the download will take at the pace of the last one, or an assumed one."""
        return self.download_pace.seconds(self.missing_bytes) if self.download_pace else 0.0

    @property
    def load_seconds(self) -> float:
        """Time from the files on disk to a model that can be measured."""
        return START_SECONDS + self.load_pace.seconds(self.load_bytes) if self.load_pace else START_SECONDS

    def require(self) -> None:
        """Raise ModelUnavailable with the reason when the model cannot be used."""
        if self.refusal is not None:
            raise ModelUnavailable(self.refusal)


def preflight(model: str, device: str | None = None, dtype: str | None = None, *, reclaimable: int = 0) -> Preflight:
    """The card of a shipped id, a local folder or a hub id; of a hub id, the hub is asked and config.json fetched.

    `reclaimable` bytes would be freed by dropping idle models. Raises ModelUnavailable when the model is not found or
    the hub cannot be reached and nothing is known, BadRequest for an unknown device or dtype; whatever else speaks
    against the model is told in `refusal`.
    """
    entry = find_model(model)
    if not entry.on_hub:
        return _of_folder(entry, Path(entry.path), device, dtype, reclaimable)
    repo_id, revision = split_hub_id(entry.id)
    try:
        return _of_hub(entry, hub.ask(repo_id, revision), device, dtype, reclaimable)
    except ModelUnavailable as error:
        copy = downloaded(entry.id, device, dtype, reclaimable=reclaimable)
        if copy is not None:
            return replace(copy, notes=(*copy.notes, "The hub cannot be reached: this is the copy fetched before."))
        if entry.parameters:  # what the catalogue knows is worth showing
            return _of_catalogue(entry, str(error))
        raise


def downloaded(
    model: str, device: str | None = None, dtype: str | None = None, *, reclaimable: int = 0
) -> Preflight | None:
    """The card of a hub id whose files were fetched before, without asking the hub; None where they are not here."""
    entry = find_model(model)
    here = hub.local_snapshot(*split_hub_id(entry.id)) if entry.on_hub else None
    if here is None:
        return None
    folder, commit = here
    flight = _of_folder(entry_of_hub_folder(entry.id, folder), folder, device, dtype, reclaimable)
    return replace(flight, source="hub, downloaded", revision=commit, here=folder)


def _of_folder(entry: ModelEntry, folder: Path, device: str | None, dtype: str | None, reclaimable: int) -> Preflight:
    """The card of a model whose files are here."""
    known = known_model(entry.id)
    flight = Preflight(
        model=entry.id,
        source="shipped" if entry.shipped else "folder",
        family=entry.family,
        n_layers=entry.n_layers,
        d_mlp=entry.d_mlp,
        d_model=entry.d_model,
        parameters=entry.parameters,
        checked="run here" if entry.shipped else _checked(entry.family),
        languages=known.languages if known else None,
        base_id=entry.base_id,
        licence=known.licence if known else licence_of_folder(folder),
        load_pace=pace("load"),
    )
    try:
        if not entry.shipped:  # their structure is proved by the tests: no need to wait for transformers
            require_supported(read_config(folder), str(folder))
        files = weight_files(folder)
        values = _total(header(file).values for file in files)
        size = sum(file.stat().st_size for file in files)
        flight = replace(flight, load_bytes=size, download_bytes=size, present_bytes=size)
        _require_tokenizer({f.name for f in folder.iterdir()}, str(folder))
        placement = devices.place(entry.id, values, devices.detect(reclaimable), device, dtype)
    except ModelUnavailable as error:
        return replace(flight, refusal=str(error))
    return replace(flight, placement=placement)


def _of_catalogue(entry: ModelEntry, refusal: str) -> Preflight:
    """The card of a model that cannot be asked about now, from the catalogue alone."""
    known = known_model(entry.id)
    return Preflight(
        model=entry.id,
        source="hub",
        family=entry.family,
        n_layers=entry.n_layers,
        d_mlp=entry.d_mlp,
        d_model=entry.d_model,
        parameters=entry.parameters,
        checked=_checked(entry.family),
        languages=known.languages if known else None,
        base_id=entry.base_id,
        licence=known.licence if known else None,
        refusal=refusal,
    )


def _of_hub(entry: ModelEntry, model: HubModel, device: str | None, dtype: str | None, reclaimable: int) -> Preflight:
    """The card of a model on the hub."""
    known = known_model(entry.id)
    present = model.present_bytes()
    flight = Preflight(
        model=entry.id,
        source="hub, downloaded" if present == model.n_bytes else "hub",
        family=entry.family,
        n_layers=entry.n_layers,
        d_mlp=entry.d_mlp,
        d_model=entry.d_model,
        parameters=entry.parameters or sum(model.values.values()),
        checked=_checked(entry.family),
        languages=known.languages if known else None,
        base_id=entry.base_id,
        revision=model.revision,
        licence=model.licence or (known.licence if known else None),
        gated=model.gated,
        link=model.link,
        download_bytes=model.n_bytes,
        present_bytes=present,
        disk_free=_disk_free(),
        load_bytes=sum(f.size for f in model.weights),
        download_pace=pace("download"),
        load_pace=pace("load"),
    )
    try:
        if not model.weights:
            raise ModelUnavailable(
                f"{model.repo_id} on the hub has no model.safetensors. Only safetensors are read; choose a model that "
                "has them."
            )
        config = hub.config_of(model)
        family = str(config.get("model_type") or "")
        shape = shape_of_config(config)
        values = model.values or _counted(model, config)
        flight = replace(
            flight,
            present_bytes=model.present_bytes(),
            family=family,
            n_layers=shape.n_layers,
            d_mlp=shape.d_mlp,
            d_model=shape.d_model,
            parameters=entry.parameters or sum(values.values()),
            checked=_checked(family),
        )
        require_supported(config, entry.id)
        _require_tokenizer({f.name for f in model.files}, f"{model.repo_id} on the hub")
        flight = replace(flight, placement=devices.place(entry.id, values, devices.detect(reclaimable), device, dtype))
        _require_disk(model, flight.missing_bytes, flight.disk_free)
    except ModelUnavailable as error:
        return replace(flight, refusal=str(error))
    return flight


def hub_values(model: HubModel) -> dict[str, int]:
    """Stored values by dtype: as the hub counts them, else guessed from the files' sizes as bfloat16."""
    return model.values or {"BF16": sum(f.size for f in model.weights) // 2}


def _counted(model: HubModel, config: dict[str, Any]) -> dict[str, int]:
    """Stored values by dtype, from the files' sizes and the dtype that the configuration names."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    width = _DTYPE_BYTES.get(dtype, 2)
    return {_STORED_AS.get(dtype, "BF16"): sum(f.size for f in model.weights) // width}


def _total(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for values in counts:
        for name, n in values.items():
            total[name] = total.get(name, 0) + n
    return total


def _checked(family: str) -> str:
    """What is known about the structure, in words. Whatever it is, loading proves it again on the real weights."""
    if family in checked_families():
        return "checked on a tiny model of the same family; proved again on the real weights at load"
    return "not checked before; proved on the real weights at load, or refused"


def _require_tokenizer(names: set[str], where: str) -> None:
    if not names & {*hub.TOKENIZER_FILES, "tokenizer_config.json"}:
        raise ModelUnavailable(
            f"{where} has no tokeniser. Copy tokenizer.json and tokenizer_config.json of the same model there."
            if not where.endswith("hub")
            else f"{where} has no tokeniser, so its prompts cannot be written. Choose a model that brings one."
        )


def _disk_free() -> int:
    """Free bytes where downloads go."""
    place = hub.cache_folder()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _require_disk(model: HubModel, missing: int, free: int | None) -> None:
    if free is not None and missing > free:
        raise ModelUnavailable(
            f"{model.repo_id} takes {gigabytes(missing)} more on disk and {gigabytes(free)} are free in "
            f"{hub.cache_folder()}. Free some space, or set PPROBE_CACHE to a folder on a larger disk."
        )
