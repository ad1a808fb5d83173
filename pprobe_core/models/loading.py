"""A model by name, ready to be measured: files checked, weights and tokeniser loaded, structure proved."""

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models import devices, hub, pace, transfer
from pprobe_core.models.catalogue import ModelEntry, entry_of_hub_folder, find_model, split_hub_id
from pprobe_core.models.checkpoint import (
    config_sha256,
    header,
    read_json,
    weight_files,
    weights_sha256,
    weights_sha256_meanwhile,
)
from pprobe_core.models.devices import Placement
from pprobe_core.models.preflight import Preflight, hub_values, preflight
from pprobe_core.models.structure import Structure, discover
from pprobe_core.models.watching import Watch
from pprobe_core.wording import plural

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# transformers changes settings and classes of the whole process while it loads and puts them back afterwards: two loads
# at once would put back what the other one had changed.
_one_at_a_time = threading.Lock()

# Used when a tokeniser brings no chat template: the plainest form a base model can continue.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'User: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode with its tokeniser (left padding) and its proved structure."""

    id: str
    path: str  # the folder it was read from
    family: str
    revision: str | None  # commit hash of a hub model, None for a folder
    weights_sha256: str
    config_sha256: str  # of config.json: the same weights compute something else under another configuration
    tokenizer_sha256: str  # over vocabulary, rules, special tokens and chat template
    dtype: str  # "float32", "bfloat16" or "float16"
    device: str  # "cpu", "cuda", "cuda:1", "mps"
    model: Any
    tokenizer: Any
    structure: Structure
    entry: ModelEntry
    notes: tuple[str, ...] = ()  # what a reader of the results should know, in sentences

    @property
    def n_bytes(self) -> int:
        """Bytes that the parameters and buffers take."""
        tensors = {t.data_ptr(): t.nbytes for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(tensors.values())


@dataclass(frozen=True)
class Fingerprint:
    """What decides a model's numbers, without the model: its files' hashes, and in what dtype and where it computes."""

    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    dtype: str
    device: str


def fingerprint(model: str, dtype: str = "float32", device: str = "cpu") -> Fingerprint:
    """The fingerprint of a model whose files are here, as loading it would give; no weights are loaded.

    Raises ModelUnavailable for a hub id and for damaged or missing files.
    """
    entry = find_model(model)
    if entry.on_hub:
        raise ModelUnavailable(f"{model} is a model of the hub: its files are known when it is loaded. Load it first.")
    folder = Path(entry.path)
    with _one_at_a_time, _quiet():
        tokenizer, _ = _load_tokenizer(folder)
    return Fingerprint(
        weights_sha256(folder), config_sha256(folder), tokenizer_sha256(tokenizer), dtype=dtype, device=device
    )


def load_model(
    model: str, *, device: str | None = None, dtype: str | None = None, watch: Watch | None = None
) -> LoadedModel:
    """Load a shipped id, a local folder or a hub id, on the device and in the dtype that `devices.place` chooses.

    What speaks against the model is found before anything is fetched, then missing files of a hub model are fetched at
    one commit. Only safetensors are read and no code of the checkpoint runs. `watch` is told of every phase and may
    stop it between two pieces. Raises ModelUnavailable with one plain sentence when files are missing or damaged,
    memory is short, the network is gone, or the structure cannot be proved; BadRequest for an unknown device or dtype;
    Cancelled when `watch` says stop.
    """
    watch = watch or Watch()
    flight = preflight(model, device, dtype)
    flight.require()
    entry, folder = _files(flight, watch)
    placement = flight.placement
    if placement is None:
        raise ModelUnavailable(f"{entry.id} cannot be placed: its weights are not known. Download it again.")
    watch.enter("loading")
    started = time.monotonic()
    weights_hash = weights_sha256_meanwhile(folder)
    with _one_at_a_time, _quiet():
        config = _load_config(folder)
        tokenizer, notes = _load_tokenizer(folder)
        network = _load_network(folder, config, placement, entry.id)
        _require_fit(folder, tokenizer, network)
        watch.check()
        watch.enter("proving")
        structure = discover(network, tokenizer)
    watch.check()
    pace.remember("load", flight.load_bytes, time.monotonic() - started)
    if placement.reduced:
        notes.append(f"Weights are in {placement.dtype}: {placement.reason}")
    return LoadedModel(
        id=entry.id,
        path=str(folder),
        family=entry.family,
        revision=flight.revision,
        weights_sha256=weights_hash(),
        config_sha256=config_sha256(folder),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        dtype=placement.dtype,
        device=placement.device,
        model=network,
        tokenizer=tokenizer,
        structure=structure,
        entry=entry,
        notes=tuple(notes),
    )


def load_tokenizer(model: str) -> Any:
    """The tokeniser of a model without its weights, as `load_model` would read it.

    Of a hub model that is not here only the small files are fetched, at one commit. Raises ModelUnavailable as
    load_model does.
    """
    entry = find_model(model)
    folder = Path(entry.path)
    if entry.on_hub:
        repo_id, revision = split_hub_id(entry.id)
        here = hub.local_snapshot(repo_id, revision)
        folder = here[0] if here else hub.fetch_without_weights(hub.ask(repo_id, revision))
    with _one_at_a_time, _quiet():
        return _load_tokenizer(folder)[0]


def estimated_bytes(model: str, *, device: str | None = None, dtype: str | None = None, reclaimable: int = 0) -> int:
    """Bytes that a model will take once loaded; 0 where that is not known before loading, which then says why.

    From its safetensors headers where it is here, else the catalogue, else what the hub says.
    """
    entry = find_model(model)
    try:
        values = _stored_values(entry)
        return devices.place(entry.id, values, devices.detect(reclaimable), device, dtype).needed - devices.OVERHEAD
    except ModelUnavailable:
        return 4 * entry.parameters


def _stored_values(entry: ModelEntry) -> dict[str, int]:
    """Numbers in the checkpoint by dtype. Raises ModelUnavailable where that is not known."""
    if entry.on_hub:
        repo_id, revision = split_hub_id(entry.id)
        here = hub.local_snapshot(repo_id, revision)
        if here is None:
            return {"BF16": entry.parameters} if entry.parameters else hub_values(hub.ask(repo_id, revision))
        folder = here[0]
    else:
        folder = Path(entry.path)
    values: dict[str, int] = {}
    for file in weight_files(folder):
        for name, n in header(file).values.items():
            values[name] = values.get(name, 0) + n
    return values


def _files(flight: Preflight, watch: Watch) -> tuple[ModelEntry, Path]:
    """The model's entry and its folder, once all its files are there."""
    entry = find_model(flight.model)
    if not entry.on_hub:
        return entry, Path(entry.path)
    repo_id, revision = split_hub_id(entry.id)
    folder = flight.here or transfer.fetch(hub.ask(repo_id, revision), watch)
    return entry_of_hub_folder(entry.id, folder), folder


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 over what decides token ids: vocabulary, merge and normalising rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    if isinstance(rules, dict):  # set by each call that pads or truncates, not by the model
        rules |= {"padding": None, "truncation": None}
    special = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    text = json.dumps([rules, special, str(tokenizer.chat_template)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _load_tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """The tokeniser with left padding, a pad token and a chat template; notes on what had to be filled in."""
    wanted = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in wanted):
        raise ModelUnavailable(
            f"{folder} has no tokeniser. Copy tokenizer.json and tokenizer_config.json of the same model there."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except BaseException as e:  # any library may be behind it, each with errors of its own
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":  # tokenizers' own way to fail
            raise
        raise ModelUnavailable(
            f"The tokeniser in {folder} cannot be read ({_one_line(e)}). Copy tokenizer.json and tokenizer_config.json "
            "of the same model into the folder."
        ) from e
    notes = []
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelUnavailable(
                f"The tokeniser in {folder} has neither a padding nor an end token. Name one in tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
        notes.append(
            "The tokeniser has no chat template; prompts were written as “User: ...” and “Assistant:”. "
            "The model may not have been trained on chats."
        )
    return tokenizer, notes


def _load_config(folder: Path) -> Any:
    """The configuration of a decoder that transformers knows without code of the checkpoint's own."""
    for name in ("generation_config.json", "tokenizer_config.json"):  # damaged ones would be passed over in silence
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as e:  # every architecture checks its own fields
        raise ModelUnavailable(
            f"{folder / 'config.json'} is not a valid configuration ({_one_line(e)}). "
            "Take config.json from the model's own page or folder."
        ) from e
    return config


def _load_network(folder: Path, config: Any, placement: Placement, name: str) -> Any:
    """The network in eval mode on its device or devices, every parameter taken from the checkpoint, no gradients."""
    try:
        network, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[placement.dtype],
            device_map=_device_map(placement),
            max_memory=dict(placement.max_memory) or None,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the tensor's name
        )
    except (MemoryError, torch.OutOfMemoryError) as e:
        raise ModelUnavailable(
            f"{name} does not fit into the memory of {placement.device}. Close other programs, choose a smaller model, "
            "or run it on another device."
        ) from e
    except ImportError as e:  # of a library: the model's files are not at fault
        raise ModelUnavailable(
            f"A package that the model in {folder} needs could not be loaded ({_one_line(e)}). Start the program "
            "again; if it stays so, remove the folder .venv and start it with run.py."
        ) from e
    except Exception as e:  # every architecture raises what it likes; its first line says what it was
        raise ModelUnavailable(
            f"The model in {folder} cannot be loaded ({_one_line(e)}). Download it again, or choose another model."
        ) from e
    wrong = (
        (("has another size", "have another size"), [key[0] for key in info["mismatched_keys"]]),
        (("is missing", "are missing"), info["missing_keys"]),
    )
    for what, keys in wrong:
        if keys:
            raise ModelUnavailable(
                f"The weights in {folder} do not belong to its configuration: {plural(len(keys), 'tensor', what)} "
                f"({min(keys)}{' and others' if len(keys) > 1 else ''}). Use the files of one and the same model."
            )
    if any(tensor.device.type == "meta" for tensor in (*network.parameters(), *network.buffers())):
        raise ModelUnavailable(
            f"{name} did not fit on {placement.title}, and a part of it would wait elsewhere, out of reach for reading "
            "its neurons' output weights. Close other programs, or use a larger GPU or a smaller model."
        )
    return network.eval().requires_grad_(False)


def _device_map(placement: Placement) -> str | dict[str, str] | None:
    """What transformers calls the placement: layers shared out in order, or everything in one place."""
    if placement.device == "cpu":
        return None
    return "auto" if placement.spread else {"": placement.device}


def _require_fit(folder: Path, tokenizer: Any, network: Any) -> None:
    """Every token of the tokeniser's own vocabulary must have a row; an added one beyond (Gemma 3 has one) may not."""
    rows = network.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelUnavailable(
            f"The tokeniser in {folder} has {tokenizer.vocab_size:,} tokens and the model only {rows:,}, so they do "
            "not belong together. Copy the tokeniser files of the same model into the folder."
        )
    if tokenizer.pad_token_id >= rows and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def _one_line(error: BaseException) -> str:
    """What an error of another library says, without line breaks and class names."""
    text = re.sub(r"\b\w+(Error|Exception): ", "", " ".join(str(error).split()))
    return text[:200].rstrip(" .") or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines from transformers while loading; the settings from before come back."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
