"""Fetches single files of prompts over https: from GitHub and from datasets of the hub. Nothing is asked unbidden."""

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pprobe_core.circuits.importing import FORMATS, MAX_SOURCE_BYTES
from pprobe_core.errors import BadRequest

GITHUB = "https://raw.githubusercontent.com"
_PATIENCE = 20.0  # seconds without an answer
_PIECE = 2**16
_REPO = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_ELSEWHERE = (
    "Download the file on a computer that can reach it and upload it here; it is the same file wherever it comes from."
)


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset that can be read here; `size` in bytes, None where the hub does not say."""

    name: str
    size: int | None


@dataclass(frozen=True)
class HubDataset:
    """A dataset of the hub at one commit, with the files of prompts it may hold."""

    repo_id: str
    revision: str
    files: tuple[HubFile, ...]
    licence: str
    gated: bool

    @property
    def link(self) -> str:
        """Its page at this commit."""
        return f"{hub_address()}/datasets/{self.repo_id}/tree/{self.revision}"


def hub_address() -> str:
    """Where the hub is: huggingface.co, or the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def hub_url(repo_id: str, revision: str, file: str, hub: str | None = None) -> str:
    """The address of a dataset's file at a commit."""
    return f"{hub or hub_address()}/datasets/{repo_id}/resolve/{revision}/{urllib.parse.quote(file)}"


def github_url(repo: str, revision: str, file: str, github: str = GITHUB) -> str:
    """The address of a repository's file at a commit."""
    return f"{github}/{repo}/{revision}/{urllib.parse.quote(file)}"


def ask_hub(repo_id: str, revision: str | None = None, hub: str | None = None) -> HubDataset:
    """The files of a dataset at the commit that `revision` (default: the newest) stands for; fetches none of them.

    `repo_id` is owner/name or the address of its page. Raises BadRequest.
    """
    from huggingface_hub import HfApi, errors

    repo_id = _repo_id(repo_id)
    page = f"{hub or hub_address()}/datasets/{repo_id}"
    try:
        info = HfApi(endpoint=hub).dataset_info(repo_id, revision=revision, files_metadata=True, timeout=_PATIENCE)
    except errors.GatedRepoError:
        raise BadRequest(_gated(repo_id, page)) from None
    except errors.RepositoryNotFoundError:
        raise BadRequest(
            f"There is no public dataset {repo_id} on the hub. Check the spelling (owner/name); for a private one log "
            "in with `hf auth login` or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadRequest(f"{repo_id} has no revision {revision!r}. Give a branch, tag or commit, or none.") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        raise BadRequest(f"The hub answered with status {status} for {repo_id}. Try again later.") from None
    except Exception as error:  # the HTTP library's own errors pass through, and it may change
        raise BadRequest(
            f"The hub cannot be reached ({type(error).__name__}). {_ELSEWHERE} Its page is {page}."
        ) from error
    card: Mapping[str, Any] = info.card_data or {}
    licence = card.get("license_name") or card.get("license") or ""
    files = [
        HubFile(str(s.rfilename), None if s.size is None else int(s.size))
        for s in info.siblings or []
        if Path(s.rfilename).suffix.lower().lstrip(".") in FORMATS and not _is_description(s.rfilename)
    ]
    if not files:
        raise BadRequest(
            f"{repo_id} holds no file that can be read here ({', '.join('.' + f for f in FORMATS)}). Look at {page}, "
            "save its rows as one of these, and upload the file."
        )
    return HubDataset(
        repo_id=str(info.id or repo_id),
        revision=str(info.sha),
        files=tuple(sorted(files, key=lambda f: f.name)),
        licence=", ".join(map(str, licence)) if isinstance(licence, list) else str(licence),
        gated=bool(info.gated),
    )


def fetch_hub_file(dataset: HubDataset, file: str, hub: str | None = None) -> bytes:
    """One file of a dataset. Raises BadRequest for one that is too large, that is not there, or cannot be reached."""
    known = next((f for f in dataset.files if f.name == file), None)
    if known is None:
        raise BadRequest(f"{dataset.repo_id} has no file {file!r} that can be read here.")
    if known.size is not None:
        _require_size(file, known.size)
    return download(hub_url(dataset.repo_id, dataset.revision, file, hub), with_hub_token=True)


def download(url: str, *, with_hub_token: bool = False, limit: int = MAX_SOURCE_BYTES) -> bytes:
    """The bytes at an https address (http on this computer only), at most `limit` of them.

    The hub's access token is sent to the hub alone, never to where it redirects. Raises BadRequest.
    """
    file = urllib.parse.unquote(url.rsplit("/", 1)[-1])
    _require_safe(url)
    if with_hub_token and _offline():
        raise BadRequest(f"HF_HUB_OFFLINE is set, so the hub is not asked for {file}. Unset it, or: {_ELSEWHERE}")
    headers = {"User-Agent": "pprobe"} | (_token() if with_hub_token else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (_require_safe has looked)
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=_PATIENCE) as answer:
            said = answer.headers.get("Content-Length") or ""
            if said.isdigit():
                _require_size(file, int(said), limit)
            data = bytearray()
            while piece := answer.read(_PIECE):
                data += piece
                _require_size(file, len(data), limit)
            if said.isdigit() and len(data) < int(said):
                raise BadRequest(f"The connection was lost while {file} was being fetched. Try again.")
            return bytes(data)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise BadRequest(_gated(file, url)) from None
        raise BadRequest(f"{url} answered with status {error.code}. Try again later. {_ELSEWHERE}") from None
    except (OSError, ValueError, HTTPException) as error:  # URLError, time-outs and broken connections are OSErrors
        raise BadRequest(f"{file} cannot be reached at {url}. {_ELSEWHERE}") from error


def _repo_id(text: str) -> str:
    """owner/name from what a person writes: the id itself, or the address of the dataset's page."""
    text = re.sub(r"^(https?://[^/]+/)?(datasets/)?", "", text.strip()).split("?")[0].strip("/")
    text = "/".join(text.split("/")[:2])
    if not _REPO.fullmatch(text) or ".." in text:
        raise BadRequest(
            f"{text[:80]!r} is no dataset id. It looks like owner/name, as at the top of the dataset's page."
        )
    return text


def _is_description(name: str) -> bool:
    """Files that say something about a dataset and hold no prompts."""
    return name.lower() in ("dataset_infos.json", "requirements.txt", "license.txt", "dataset_info.json")


def _require_size(file: str, size: int, limit: int = MAX_SOURCE_BYTES) -> None:
    if size > limit:
        raise BadRequest(
            f"{file} has {size / 1e6:,.1f} MB or more, at most {limit / 1e6:.0f} MB are fetched. Choose a smaller "
            "file, or upload a part of it."
        )


def _require_safe(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise BadRequest(f"Prompts are only fetched over https, found {url[:80]!r}.")


def _gated(what: str, page: str) -> str:
    return (
        f"{what} is gated: accept its conditions on {page}, then log in with `hf auth login` or set HF_TOKEN, and try "
        "again."
    )


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _token() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https only, and takes the token off when it leads to another host."""

    def redirect_request(self, request: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_safe(newurl)
        new = super().redirect_request(request, fp, code, msg, headers, newurl)
        if new is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(request.full_url).netloc:
            new.remove_header("Authorization")
        return new
