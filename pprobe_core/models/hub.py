"""What the Hugging Face hub says about a model, and what of it is on this computer already. Fetches no weights.

Imports no torch. Access tokens are taken from where the hub's own tools keep them (HF_TOKEN, `hf auth login`) and are
never stored or shown.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, hf_hub_download, utils
from huggingface_hub.utils import logging

from pprobe_core import settings
from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.checkpoint import read_config, weight_files

# Weights in the one format that is read, configuration, tokeniser, chat template. No pickles and no code.
PATTERNS = [
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.json",
    "chat_template.jinja",
]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATIENCE = 10.0  # seconds the hub has for an answer
_REMEMBERED = 600.0  # seconds an answer is used again, so that a model is loaded as it was looked at

_answers: dict[tuple[str, str, str], tuple[float, "HubModel"]] = {}


@dataclass(frozen=True)
class HubFile:
    """One file of a model: bytes, and the name under which the hub's cache keeps its content."""

    name: str
    size: int
    blob: str  # SHA-256 of the content for large files, Git's hash for small ones
    sha256: str | None  # None where the hub does not tell one


@dataclass(frozen=True)
class HubModel:
    """A model as the hub describes it, at one commit. `files` are the ones that would be fetched, small ones first."""

    repo_id: str
    revision: str  # commit hash
    asked: str  # branch, tag or commit that was asked for
    files: tuple[HubFile, ...]
    licence: str | None
    licence_link: str | None
    gated: bool
    values: dict[str, int]  # stored values by dtype ("BF16"), empty where the hub has not counted them

    @property
    def weights(self) -> tuple[HubFile, ...]:
        """The safetensors files."""
        return tuple(f for f in self.files if f.name.endswith(".safetensors"))

    @property
    def n_bytes(self) -> int:
        """Bytes of all files that would be fetched."""
        return sum(f.size for f in self.files)

    @property
    def link(self) -> str:
        """The model's page."""
        return f"{constants.ENDPOINT}/{self.repo_id}"

    def present_bytes(self) -> int:
        """Bytes of these files that are here already, parts of interrupted downloads included."""
        return sum(f.size if is_here(self, f) else _partial_bytes(self, f) for f in self.files)


def hub_cache() -> Path | None:
    """Where downloads lie: None (the hub's own place) if HF_HOME or HF_HUB_CACHE names one, else our cache folder."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME")
    return None if named else settings.cache_dir() / "hub"


def cache_folder() -> Path:
    """`hub_cache()`, or the hub's own place itself."""
    return hub_cache() or Path(constants.HF_HUB_CACHE)


def ask(repo_id: str, revision: str | None = None) -> HubModel:
    """What the hub holds of a model: one question, nothing is fetched. An answer is used again for ten minutes.

    Raises ModelUnavailable when the hub cannot be reached or has no such model or revision.
    """
    key = (constants.ENDPOINT, repo_id, revision or "")
    known = _answers.get(key)
    if known is not None and time.monotonic() - known[0] < _REMEMBERED:
        return known[1]
    try:
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=_PATIENCE)
    except Exception as error:  # the HTTP library's own errors pass through, and it may change
        raise explain(repo_id, error, revision) from error
    found = _described(repo_id, revision or "main", info)
    _answers[key] = (time.monotonic(), found)
    return found


def config_of(model: HubModel) -> dict[str, Any]:
    """The parsed config.json, fetched at the commit of `model`. Raises ModelUnavailable, for a gated model as well."""
    if all(f.name != "config.json" for f in model.files):
        raise ModelUnavailable(f"{model.repo_id} on the hub has no config.json, so it is not a model for transformers.")
    try:
        return read_config(fetch_small(model, "config.json").parent)
    except (OSError, errors.HfHubHTTPError) as error:
        raise explain(model.repo_id, error) from error
    except Exception as error:
        if of_the_network(error):
            raise explain(model.repo_id, error) from error
        raise


def fetch_small(model: HubModel, name: str) -> Path:
    """A file that needs no progress, through the hub's own cache; the errors are the hub library's."""
    path = hf_hub_download(model.repo_id, name, revision=model.revision, cache_dir=hub_cache(), tqdm_class=_Silent)
    return Path(path)


def fetch_without_weights(model: HubModel) -> Path:
    """The folder with every file of a model but its weights. Raises ModelUnavailable when one cannot be fetched."""
    folder = None
    try:
        for file in model.files:
            if file not in model.weights:
                folder = fetch_small(model, file.name).parent
    except Exception as error:
        if of_the_network(error) or isinstance(error, OSError | errors.HfHubHTTPError):
            raise explain(model.repo_id, error) from error
        raise
    if folder is None:
        raise ModelUnavailable(f"{model.repo_id} on the hub has no tokeniser, so no prompt can be put to it.")
    return folder


def repo_folder(repo_id: str) -> Path:
    """The folder of a model inside the hub's cache."""
    return cache_folder() / ("models--" + repo_id.replace("/", "--"))


def blob_path(model: HubModel, file: HubFile) -> Path:
    """Where the hub's cache keeps a file's content."""
    return repo_folder(model.repo_id) / "blobs" / file.blob


def is_here(model: HubModel, file: HubFile) -> bool:
    """True when the file is on this computer, whole."""
    snapshot = repo_folder(model.repo_id) / "snapshots" / model.revision / file.name
    return snapshot.is_file() or blob_path(model, file).is_file()


def partial_path(model: HubModel, file: HubFile) -> Path:
    """Where the part of a file lies that an interrupted download has left."""
    blob = blob_path(model, file)
    return blob.with_name(blob.name + ".incomplete")


def local_snapshot(repo_id: str, revision: str | None = None) -> tuple[Path, str] | None:
    """Folder and commit of a model that was fetched whole, without asking the hub; None when there is none.

    Without a revision it is the commit fetched last.
    """
    snapshots = repo_folder(repo_id) / "snapshots"
    if revision and _COMMIT.fullmatch(revision):
        commits = [revision]
    else:
        try:
            commits = [(repo_folder(repo_id) / "refs" / (revision or "main")).read_text("utf-8").strip()]
        except OSError:
            if revision:
                return None
            found = sorted(snapshots.glob("*"), key=lambda p: p.stat().st_mtime, reverse=True)
            commits = [folder.name for folder in found]
    for commit in commits:
        folder = snapshots / commit
        with contextlib.suppress(ModelUnavailable):
            read_config(folder)
            weight_files(folder)
            return folder, commit
    return None


def explain(repo_id: str, error: BaseException, revision: str | None = None) -> ModelUnavailable:
    """One plain sentence for whatever went wrong between here and the hub."""
    if isinstance(error, errors.GatedRepoError):
        return ModelUnavailable(
            f"{repo_id} is gated: accept its licence on {constants.ENDPOINT}/{repo_id}, then log in with "
            "`hf auth login` or set HF_TOKEN, and try again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelUnavailable(
            f"There is no folder {repo_id} here and no public model of that name on the hub. Check the spelling; "
            "for a private model log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelUnavailable(
            f"{repo_id} has no revision “{revision}” on the hub. Give a branch, tag or commit, or leave it out."
        )
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == 28):
        return ModelUnavailable(
            f"{repo_id} cannot be stored ({error.strerror}). "
            "Free some space, or set PPROBE_CACHE to a folder that can be written."
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "unknown")
        return ModelUnavailable(f"The hub answered with status {status} for {repo_id}. Try again later.")
    return ModelUnavailable(
        f"{repo_id} is not on this computer and the hub cannot be reached. Check the network connection, or download "
        "the model elsewhere and give its folder; the shipped models need no network."
    )


def of_the_network(error: BaseException) -> bool:
    """True for errors of the HTTP library's transport: a connection that broke, was refused or took too long.

    By the name of its package, since the hub's library may use another one.
    """
    return any(kind.__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore") for kind in type(error).__mro__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no retry warnings on the terminal; the settings from before come back."""
    bars, level = not utils.are_progress_bars_disabled(), logging.get_verbosity()
    utils.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            utils.enable_progress_bars()


class _Silent:
    """A progress bar that shows nothing, whatever the terminal is."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: Any = 1) -> None: ...

    def close(self) -> None: ...


def _described(repo_id: str, asked: str, info: Any) -> HubModel:
    """The answer of the hub, with only the files that would be fetched."""
    files = []
    for sibling in info.siblings or []:
        name = str(sibling.rfilename)
        if "/" in name or not any(Path(name).match(pattern) for pattern in PATTERNS):
            continue
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        files.append(HubFile(name, int(sibling.size or 0), str(sha256 or sibling.blob_id or ""), sha256))
    card = info.card_data
    licence = card.get("license_name") or card.get("license") if card else None
    return HubModel(
        repo_id=str(info.id or repo_id),
        revision=str(info.sha),
        asked=asked,
        files=tuple(sorted(files, key=lambda f: (f.name.endswith(".safetensors"), f.name))),
        licence=str(licence) if licence else None,
        licence_link=str(card.get("license_link")) if card and card.get("license_link") else None,
        gated=bool(info.gated),
        values=dict(info.safetensors.parameters) if info.safetensors else {},
    )


def _partial_bytes(model: HubModel, file: HubFile) -> int:
    try:
        return min(partial_path(model, file).stat().st_size, file.size)
    except OSError:
        return 0
