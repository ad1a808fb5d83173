"""Fetching a model from the Hugging Face hub: safetensors, JSON and tokeniser files only, errors in plain sentences."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import HfApi, errors, snapshot_download, utils
from huggingface_hub.utils import logging

from pprobe_core import settings
from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.memory import gigabytes

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


def hub_cache() -> Path | None:
    """Where downloads lie: None (the hub's own place) if HF_HOME or HF_HUB_CACHE names one, else our cache folder."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME")
    return None if named else settings.cache_dir() / "hub"


def download(repo_id: str, fits: Callable[[int], None]) -> tuple[Path, str]:
    """The model's folder and commit hash, from the hub or, when that cannot be reached, from an earlier whole download.

    `fits(n_values)` is called with the number of weights before anything is fetched and may refuse. An access token is
    taken from where the hub's own tools keep it (HF_TOKEN, `hf auth login`) and never stored. Raises ModelUnavailable.
    """
    cache = hub_cache()
    with _quiet():
        try:
            _look_before(repo_id, cache, fits)
            return _snapshot(repo_id, cache)
        except ModelUnavailable:
            raise
        except Exception as first:  # the HTTP library's own errors pass through, and it may change
            try:
                return _snapshot(repo_id, cache, local_files_only=True)
            except Exception:
                raise explain(repo_id, first) from first


def _snapshot(repo_id: str, cache: Path | None, local_files_only: bool = False) -> tuple[Path, str]:
    """Folder and commit hash of the model's files, fetched unless they are there."""
    folder = snapshot_download(
        repo_id,
        allow_patterns=PATTERNS,
        cache_dir=cache,
        local_files_only=local_files_only,
    )
    return Path(folder), Path(folder).name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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


def _look_before(repo_id: str, cache: Path | None, fits: Callable[[int], None]) -> None:
    """Ask the hub what the model holds; refuse before a download what cannot be read, held in memory or stored."""
    info = HfApi().model_info(repo_id, files_metadata=True)
    files = {f.rfilename: f.size or 0 for f in info.siblings or []}
    wanted = {
        name: size for name, size in files.items() if any(Path(name).match(p) for p in PATTERNS) and "/" not in name
    }
    weights = {name: size for name, size in wanted.items() if name.endswith(".safetensors")}
    if not weights:
        raise ModelUnavailable(
            f"{repo_id} on the hub has no model.safetensors. Only safetensors are read; choose a model that has them."
        )
    if "config.json" not in files:
        raise ModelUnavailable(f"{repo_id} on the hub has no config.json, so it is not a model for transformers.")
    fits(info.safetensors.total if info.safetensors else sum(weights.values()) // 2)
    place = cache or Path.home()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, sum(wanted.values())
    if needed > free:
        raise ModelUnavailable(
            f"{repo_id} takes {gigabytes(needed)} on disk and {gigabytes(free)} are free in {place}. "
            "Free some space, or set PPROBE_CACHE to a folder on a larger disk."
        )


def explain(repo_id: str, error: BaseException) -> ModelUnavailable:
    """One plain sentence for whatever went wrong between here and the hub."""
    if isinstance(error, errors.GatedRepoError):
        return ModelUnavailable(
            f"{repo_id} is gated: accept its licence on https://huggingface.co/{repo_id}, then log in with "
            "`hf auth login` or set HF_TOKEN, and try again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelUnavailable(
            f"There is no folder {repo_id} here and no public model of that name on the hub. Check the spelling; "
            "for a private model log in with `hf auth login` or set HF_TOKEN."
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
