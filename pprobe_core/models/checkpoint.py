"""The files of a model folder in hub format: what must be there, whether it is whole, how large. Imports no torch."""

import hashlib
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pprobe_core import settings
from pprobe_core.errors import ModelUnavailable

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_HASH_CACHE_FROM = 64 * 2**20  # bytes; smaller files are hashed each time


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself: values by dtype name, without reading them."""

    values: dict[str, int]

    @property
    def n_values(self) -> int:
        """Number of stored values."""
        return sum(self.values.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of the stored values."""
        return sum(n * _BYTES.get(dtype, 1) for dtype, n in self.values.items())


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json. Raises ModelUnavailable when folder or file is missing or the file is no JSON object."""
    if not folder.is_dir():
        raise ModelUnavailable(f"The folder {folder} does not exist. Give the folder that holds config.json.")
    return read_json(folder / "config.json", "A model folder in hub format has a config.json beside its weights.")


def read_json(file: Path, help_: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises ModelUnavailable when it is missing (adding `help_`) or holds none."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as e:
        raise ModelUnavailable(f"{file.parent} has no {file.name}. {help_}".strip()) from e
    except OSError as e:
        raise ModelUnavailable(f"{file} cannot be read ({e.strerror or e}).") from e
    except ValueError as e:
        raise ModelUnavailable(f"{file} is not valid JSON ({e}). Download the model again or repair the file.") from e
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{file} holds no JSON object. Download the model again or repair the file.")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all present. Raises ModelUnavailable when none or not all are there."""
    if (folder / "model.safetensors").is_file():  # before an index, as transformers does
        return [folder / "model.safetensors"]
    index = folder / INDEX
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelUnavailable(f"{index} lists no weights. Download the model again.")
        elsewhere = sorted({str(n) for n in names.values() if not _is_plain(n)})
        if elsewhere:  # transformers would open them, and other bytes would be hashed than those that are loaded
            raise ModelUnavailable(
                f"{index} names a file that is not in its folder ({elsewhere[0][:80]}). Weight files have to lie "
                "beside it, by their plain names. Download the model again, from a place you trust."
            )
        files = [folder / n for n in sorted(set(names.values()))]
        missing = [f.name for f in files if not f.is_file()]
        if missing:
            raise ModelUnavailable(
                f"{folder} is incomplete: {len(missing)} of {len(files)} weight files are missing "
                f"({', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}). Download the model again."
            )
        return files
    pickles = sorted(f.name for pattern in PICKLES for f in folder.glob(pattern))
    if pickles:
        raise ModelUnavailable(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run any code when it is opened. "
            "Only safetensors are read: load it where you trust it; model.save_pretrained(folder) writes safetensors."
        )
    other = sorted(f.name for f in folder.glob("*.safetensors"))
    seen = f" (seen: {', '.join(other[:3])})" if other else ""
    raise ModelUnavailable(
        f"{folder} has no weights: model.safetensors or {INDEX} is expected{seen}. "
        "Copy or download them into the folder."
    )


def _is_plain(name: object) -> bool:
    """Whether this names a file of the folder itself, under any system's rules: no separator, no drive, no dots."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def header(file: Path) -> Header:
    """One file's header, checked against the file's size. Raises ModelUnavailable for truncated or other files."""
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 8 or length > min(size - 8, 100 * 2**20):
                raise _damaged(file, size, None if size < 8 or length > 100 * 2**20 else 8 + length)
            tensors = json.loads(f.read(length))
        tensors.pop("__metadata__", None)
        expected = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
        values: dict[str, int] = {}
        for t in tensors.values():
            values[t["dtype"]] = values.get(t["dtype"], 0) + math.prod(t["shape"])
    except OSError as e:
        raise ModelUnavailable(f"{file} cannot be read ({e.strerror or e}).") from e
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise _damaged(file, size, None) from e
    if size != expected:
        raise _damaged(file, size, expected)
    return Header(values)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weight file, as `sha256sum` prints it; of several files, over their hashes in name order."""
    digests = [file_sha256(file) for file in weight_files(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def weights_sha256_meanwhile(folder: Path) -> Callable[[], str]:
    """Start weights_sha256 beside other work, and return what waits for it."""
    digest: Future[str] = Future()

    def work() -> None:
        try:
            digest.set_result(weights_sha256(folder))
        except Exception as e:  # raised where it is waited for
            digest.set_exception(e)

    threading.Thread(target=work, daemon=True).start()
    return digest.result


def config_sha256(folder: Path) -> str:
    """SHA-256 of what config.json says, whatever its layout; the library version that wrote it does not count."""
    config = {k: v for k, v in read_config(folder).items() if k not in ("transformers_version", "_name_or_path")}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _damaged(file: Path, size: int, expected: int | None) -> ModelUnavailable:
    found = f"{size:,} bytes where {expected:,} are expected" if expected else "its header is not readable"
    return ModelUnavailable(f"{file} is truncated or damaged: {found}. Download or copy the file again.")


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes; remembered for large files by path, size and modification time."""
    stat = file.stat()
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = settings.cache_dir() / "weights_sha256.json"
    known: dict[str, str] = {}
    if stat.st_size >= _HASH_CACHE_FROM:
        try:
            known = json.loads(memory.read_text("utf-8"))
        except (OSError, ValueError):
            known = {}
        if isinstance(known, dict) and isinstance(known.get(key), str):
            return known[key]
    with file.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    if stat.st_size >= _HASH_CACHE_FROM and isinstance(known, dict):
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(known | {key: digest}), "utf-8")
        except OSError:
            pass  # a read-only cache only costs time
    return digest
