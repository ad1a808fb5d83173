"""Which models can be picked: the shipped ones, any local folder in hub format, any hub id. Imports no torch."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pprobe_core import settings
from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.checkpoint import header, read_config, weight_files
from pprobe_core.models.known import known_model

# owner/name, or owner/name@revision with a branch, a tag or a commit hash
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]{0,99})?", re.ASCII)


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be named in a request. Counts are 0 and texts empty where a download has to tell them first."""

    id: str  # shipped id, absolute path of a local folder, or hub id: `find_model(entry.id)` gives the entry again
    path: str  # folder, or the hub id again
    family: str  # model_type of its configuration
    n_layers: int
    d_mlp: int
    d_model: int
    parameters: int
    shipped: bool
    title: str
    base_id: str | None  # the same model before alignment, where one is shipped or the catalogue names it

    @property
    def on_hub(self) -> bool:
        """True when the model is not on this computer's disk as a folder of its own."""
        return self.path == self.id and not Path(self.path).is_absolute()


@dataclass(frozen=True)
class ConfigShape:
    """What a config.json says about the size of the network; 0 where it does not."""

    n_layers: int
    d_mlp: int
    d_model: int


def shape_of_config(config: dict[str, Any]) -> ConfigShape:
    """Layers and widths of the language model that a configuration describes, under the names of any family."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    d_model = _number(text, "hidden_size", "n_embd", "d_model")
    return ConfigShape(
        n_layers=_number(text, "num_hidden_layers", "n_layer", "num_layers"),
        d_mlp=_number(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * d_model,
        d_model=d_model,
    )


def shipped_models() -> list[ModelEntry]:
    """The models that come with the product, by id."""
    folders = sorted(p.parent for p in settings.SHIPPED_MODELS.glob("*/config.json"))
    return [_entry(folder, shipped=True) for folder in folders]


def find_model(model: str) -> ModelEntry:
    """The entry for a shipped id, else a local folder (absolute, relative or with ~), else a hub id `owner/name`.

    A hub id is passed on without asking the hub, with the catalogue's facts where it is there. Raises ModelUnavailable
    for anything else, naming what is accepted.
    """
    model = model.strip()
    ids = [p.parent.name for p in sorted(settings.SHIPPED_MODELS.glob("*/config.json"))]
    if model in ids:
        return _entry(settings.SHIPPED_MODELS / model, shipped=True)
    folder = _existing(model)
    if folder is not None:
        if not folder.is_dir():
            raise ModelUnavailable(
                f"{model} is a file. Give the folder that holds config.json and the safetensors weights."
            )
        return _entry(folder, shipped=folder.parent == settings.SHIPPED_MODELS.resolve())
    if _HUB_ID.fullmatch(model):
        return _hub_entry(model)
    shown = " ".join(model.split())[:200]
    seen = f"There is no model or folder called “{shown}”." if shown else "No model was named."
    raise ModelUnavailable(
        f"{seen} Accepted are a shipped model ({', '.join(ids) or 'none'}), a folder with config.json and safetensors "
        "weights, or a hub id such as Qwen/Qwen3-0.6B."
    )


def entry_of_hub_folder(hub_id: str, folder: Path) -> ModelEntry:
    """The entry of a hub model once its files are in `folder`, with its counts."""
    asked = _hub_entry(hub_id)
    return dataclasses.replace(_entry(folder, shipped=False), id=hub_id, title=asked.title, base_id=asked.base_id)


def split_hub_id(hub_id: str) -> tuple[str, str | None]:
    """Repository and revision of `owner/name@revision`; None without one."""
    repo_id, _, revision = hub_id.partition("@")
    return repo_id, revision or None


def _hub_entry(hub_id: str) -> ModelEntry:
    """A hub model as far as it is known without the hub."""
    repo_id, revision = split_hub_id(hub_id)
    owner, name = repo_id.split("/")
    title = f"{name} ({owner}, from the hub{f', {revision[:12]}' if revision else ''})"
    known = known_model(repo_id)
    if known is None:
        return ModelEntry(hub_id, hub_id, "", 0, 0, 0, 0, False, title, None)
    return ModelEntry(
        id=hub_id,
        path=hub_id,
        family=known.family,
        n_layers=known.n_layers,
        d_mlp=known.d_mlp,
        d_model=known.d_model,
        parameters=known.parameters,
        shipped=False,
        title=title,
        base_id=known.base_id,
    )


def _existing(model: str) -> Path | None:
    """The absolute path that a text names, or None when it names nothing that is there."""
    try:
        path = Path(model).expanduser()
        return path.resolve() if model and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, no such user, a character no path can hold
        return None


def _entry(folder: Path, shipped: bool) -> ModelEntry:
    config = read_config(folder)
    shape = shape_of_config(config)
    base = folder.name + "-base"
    has_base = shipped and (folder.parent / base / "config.json").is_file()
    return ModelEntry(
        id=folder.name if shipped else str(folder),
        path=str(folder),
        family=str(config.get("model_type", "")),
        n_layers=shape.n_layers,
        d_mlp=shape.d_mlp,
        d_model=shape.d_model,
        parameters=_count_parameters(folder),
        shipped=shipped,
        title=_title(folder) if shipped else folder.name,
        base_id=base if has_base else None,
    )


def _count_parameters(folder: Path) -> int:
    """Number of stored values, from the safetensors headers; 0 when the weights cannot be read (loading says why)."""
    try:
        return sum(header(file).n_values for file in weight_files(folder))
    except ModelUnavailable:
        return 0


def _number(config: Any, *names: str) -> int:
    return next((v for n in names if isinstance(v := config.get(n), int)), 0)


def licence_of_folder(folder: Path) -> str | None:
    """The licence that the head of a model card names, None without one."""
    head = re.match(r"---\n(.*?)\n---\n", _card(folder), flags=re.S)
    named = re.search(r"^licen[cs]e(?:_name)?: *(\S+) *$", head.group(1), flags=re.M) if head else None
    return named.group(1) if named else None


def _title(folder: Path) -> str:
    """First heading of the model card, else the folder's name."""
    heading = re.search(r"^# +(.+?) *$", re.sub(r"\A---\n.*?\n---\n", "", _card(folder), flags=re.S), flags=re.M)
    return heading.group(1) if heading else folder.name


def _card(folder: Path) -> str:
    """The model card's text, "" without one."""
    try:
        return (folder / "README.md").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
