"""Fetching a model's files from the hub at one commit: progress in bytes, stopped at once, continued where it stopped.

The hub's library (its session, headers, locks and cache layout) does the talking. Only the reading loop is ours: the
library's own drops what it has when it is interrupted, and looks up only every ten megabytes.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants, errors, hf_hub_url
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status, http_stream_backoff

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models import hub, pace
from pprobe_core.models.checkpoint import INDEX, file_sha256, read_json
from pprobe_core.models.hub import HubFile, HubModel
from pprobe_core.models.watching import Watch, interruptible
from pprobe_core.wording import gigabytes

_TRIES = 5  # broken connections in a row, without a new byte between them, before the network counts as gone
_PAUSE = 1.0  # seconds before a broken connection is tried again


def fetch(model: HubModel, watch: Watch) -> Path:
    """The folder with all files of the model, fetched unless they are there; a part that is there is continued.

    What was fetched stays when it is stopped or fails, so that the next call goes on from there. Every large file is
    checked against the hub's SHA-256. Raises ModelUnavailable; Cancelled when `watch` says stop.
    """
    with hub.quiet():
        return interruptible(lambda: _fetch(model, watch), watch)


def _fetch(model: HubModel, watch: Watch) -> Path:
    folder = hub.repo_folder(model.repo_id) / "snapshots" / model.revision
    try:
        weights = model.weights
        for file in (f for f in model.files if f not in weights):
            watch.check()
            hub.fetch_small(model, file.name)
        _require_all_shards(model, folder)
        before = sum(f.size for f in model.files) - sum(f.size for f in weights)
        for file in weights:
            before += file.size if hub.is_here(model, file) else _kept(hub.partial_path(model, file), file.size)
        watch.enter("downloading", model.n_bytes, before)
        started, moved = time.monotonic(), 0
        for file in weights:
            moved += _fetch_weights(model, file, watch)
        pace.remember("download", moved, time.monotonic() - started)
        _note_revision(model)
    except (errors.HfHubHTTPError, OSError) as error:
        raise hub.explain(model.repo_id, error) from error
    except Exception as error:
        if hub.of_the_network(error):
            raise _interrupted(model) from error
        raise
    return folder


def _fetch_weights(model: HubModel, file: HubFile, watch: Watch) -> int:
    """One large file, into the hub's cache; bytes that came over the network."""
    moved = 0
    if file.blob and not hub.is_here(model, file):  # a mirror may not tell it: then the library fetches it in one piece
        blob, partial = hub.blob_path(model, file), hub.partial_path(model, file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _locked(model, file, watch):
            if not blob.is_file():  # another process may have fetched it meanwhile
                moved = _stream_all(model, file, partial, watch)
                partial.replace(blob)
                _require_whole(model, file, blob)
    hub.fetch_small(model, file.name)  # only links it into the snapshot
    return moved


def _stream_all(model: HubModel, file: HubFile, partial: Path, watch: Watch) -> int:
    """Read the rest of a file into `partial`, over as many connections as it takes; bytes read."""
    moved, failures = 0, 0
    while (have := _kept(partial, file.size)) < file.size or not partial.exists():
        watch.check()
        try:
            for n in _stream(model, file, partial, have):
                moved, failures = moved + n, 0
                watch.advance(n)
                watch.check()
        except Exception as error:
            if isinstance(error, errors.HfHubHTTPError) or not hub.of_the_network(error):
                raise
            failures += 1
        else:
            failures += _kept(partial, file.size) < file.size  # it ended early without saying so
        if failures >= _TRIES:
            raise _interrupted(model)
        if failures:
            time.sleep(_PAUSE)
    return moved


def _stream(model: HubModel, file: HubFile, partial: Path, have: int) -> Iterator[int]:
    """Append one connection's bytes to `partial`, yielding how many after each piece (below 0: some were dropped)."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    url = hf_hub_url(model.repo_id, file.name, revision=model.revision)
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        retry_on_exceptions=(),
        retry_on_status_codes=(408, 429),
    ) as response:
        hf_raise_for_status(response)
        goes_on = have > 0 and response.status_code == 206
        if have and not goes_on:  # the server sends it from the start again
            yield -have
        with partial.open("ab" if goes_on else "wb") as out:
            for chunk in response.iter_bytes():  # as they come in: a slow line is stopped as fast as a quick one
                out.write(chunk)
                yield len(chunk)


def _kept(partial: Path, size: int) -> int:
    """Bytes of a partial file that can be continued; one that is too long is of no use and is dropped."""
    try:
        have = partial.stat().st_size
    except OSError:
        return 0
    if have > size:
        partial.unlink()
        return 0
    return have


def _require_whole(model: HubModel, file: HubFile, blob: Path) -> None:
    """Compare a file with the hub's SHA-256; the loader, which needs the hash as well, finds it remembered."""
    if file.sha256 is not None and file_sha256(blob) != file.sha256:
        blob.unlink()
        raise ModelUnavailable(
            f"{file.name} of {model.repo_id} did not arrive as the hub describes it (another SHA-256) and was deleted. "
            "Try again; if it stays so, something on the network changes downloads."
        )


def _require_all_shards(model: HubModel, folder: Path) -> None:
    """Refuse before any weight is fetched when the index names files that the hub does not have."""
    there = {f.name for f in model.weights}
    if "model.safetensors" in there or not (folder / INDEX).is_file():
        return
    named = read_json(folder / INDEX).get("weight_map")
    wanted = {str(name) for name in named.values()} if isinstance(named, dict) else set()
    if missing := sorted(wanted - there):
        raise ModelUnavailable(
            f"{model.repo_id} on the hub is incomplete: {len(missing)} of {len(wanted)} weight files are missing "
            f"({', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}). Choose another model or revision."
        )


def _note_revision(model: HubModel) -> None:
    """Remember which commit a branch or tag stood for, as the hub's cache does, for the time without a network."""
    if model.asked != model.revision:
        ref = hub.repo_folder(model.repo_id) / "refs" / model.asked
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(model.revision, "utf-8")


def _interrupted(model: HubModel) -> ModelUnavailable:
    here = model.present_bytes()
    return ModelUnavailable(
        f"The connection to the hub was lost while {model.repo_id} was being downloaded; {gigabytes(here)} of "
        f"{gigabytes(model.n_bytes)} are here. Ask for it again: the download goes on from there."
    )


@contextlib.contextmanager
def _locked(model: HubModel, file: HubFile, watch: Watch) -> Iterator[None]:
    """Hold the hub's own lock of a file, so that two processes never write the same part."""
    lock = hub.cache_folder() / ".locks" / hub.repo_folder(model.repo_id).name / f"{file.blob}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            watch.check()
            try:
                stack.enter_context(WeakFileLock(lock, timeout=1.0))
                break
            except TimeoutError:  # held elsewhere
                continue
        yield
