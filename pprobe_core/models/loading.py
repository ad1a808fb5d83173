"""A model by name, ready to be measured: files checked, weights and tokeniser loaded, structure proved."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.models import hub
from pprobe_core.models.catalogue import ModelEntry, entry_of_hub_folder, find_model
from pprobe_core.models.checkpoint import config_sha256, header, read_config, read_json, weight_files, weights_sha256
from pprobe_core.models.memory import free_memory, require_memory
from pprobe_core.models.structure import Structure, discover
from pprobe_core.wording import plural

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"BF16": "bfloat16", "F16": "float16"}

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


def load_model(model: str, *, device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load a shipped id, a local folder or a hub id; float32 on the CPU, the checkpoint's own dtype elsewhere.

    Only safetensors are read and no code of the checkpoint runs. Raises ModelUnavailable with one plain sentence when
    files are missing or damaged, memory is short, or the structure cannot be proved; BadRequest for an unknown device
    or dtype.
    """
    entry = find_model(model)
    place = choose_device(device)
    if entry.on_hub:
        folder, revision = hub.download(entry.id, lambda n_values: _require(entry.id, n_values, dtype, place))
        entry = entry_of_hub_folder(entry.id, folder)
    else:
        folder, revision = Path(entry.path), None
    stored = [header(file).values for file in weight_files(folder)]
    chosen = _choose_dtype(dtype, place, stored)
    _require(entry.id, sum(sum(values.values()) for values in stored), chosen, place)
    with _quiet():
        config = _load_config(folder)
        tokenizer, notes = _load_tokenizer(folder)
        network = _place(_load_network(folder, config, DTYPES[chosen]), place, entry.id)
        _require_fit(folder, tokenizer, network)
        structure = discover(network, tokenizer)
    return LoadedModel(
        id=entry.id,
        path=str(folder),
        family=entry.family,
        revision=revision,
        weights_sha256=weights_sha256(folder),
        config_sha256=config_sha256(folder),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        dtype=chosen,
        device=place,
        model=network,
        tokenizer=tokenizer,
        structure=structure,
        entry=entry,
        notes=tuple(notes),
    )


def estimated_bytes(model: str, *, device: str | None = None, dtype: str | None = None) -> int:
    """Bytes a model's weights will take once loaded, from its safetensors headers; 0 for a hub model."""
    entry = find_model(model)
    return entry.parameters * _bytes_per_value(dtype, choose_device(device))


def choose_device(device: str | None) -> str:
    """The named device, else CUDA, else Apple's MPS, else the CPU. Raises BadRequest when it is not there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = device.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False) or (index and not (kind == "cuda" and index.isdigit())):
        usable = ", ".join(name for name, ok in there.items() if ok)
        raise BadRequest(f"The device “{device}” is not available here. Usable are: {usable}.")
    if index and int(index) >= torch.cuda.device_count():
        raise BadRequest(f"The device “{device}” is not available here: {torch.cuda.device_count()} GPUs are present.")
    return device


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 over what decides token ids: vocabulary, merge and normalising rules, special tokens, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    if isinstance(rules, dict):  # set by each call that pads or truncates, not by the model
        rules |= {"padding": None, "truncation": None}
    special = {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}
    text = json.dumps([rules, special, str(tokenizer.chat_template)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _choose_dtype(dtype: str | None, device: str, stored: list[dict[str, int]]) -> str:
    """The asked dtype, else float32 on the CPU and the one most values are stored in elsewhere."""
    if dtype is not None:
        if dtype not in DTYPES:
            raise BadRequest(f"The dtype “{dtype}” is not known. Accepted are {', '.join(DTYPES)}.")
        return dtype
    if device == "cpu":
        return "float32"
    counts: dict[str, int] = {}
    for values in stored:
        for name, n in values.items():
            counts[name] = counts.get(name, 0) + n
    return _STORED.get(max(counts, key=lambda name: counts[name], default=""), "float32")


def _require(name: str, n_values: int, dtype: str | None, device: str) -> None:
    """Refuse a model whose weights cannot fit: in the GPU's free memory, else in the free RAM."""
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_memory()
    require_memory(name, n_values * _bytes_per_value(dtype, device), free)


def _bytes_per_value(dtype: str | None, device: str) -> int:
    return 4 if device == "cpu" and dtype is None else DTYPES[dtype or "bfloat16"].itemsize


def _load_tokenizer(folder: Path) -> tuple[Any, list[str]]:
    """The tokeniser with left padding, a pad token and a chat template; notes on what had to be filled in."""
    wanted = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in wanted):
        raise ModelUnavailable(
            f"{folder} has no tokeniser. Copy tokenizer.json and tokenizer_config.json of the same model there."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as e:  # any library may be behind it, each with errors of its own
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
    raw = read_config(folder)
    for name in ("generation_config.json", "tokenizer_config.json"):  # damaged ones would be passed over in silence
        if (folder / name).is_file():
            read_json(folder / name)
    family = raw.get("model_type")
    if not isinstance(family, str) or not family:
        raise ModelUnavailable(
            f"{folder / 'config.json'} does not say what kind of model it is (model_type). "
            "Take config.json from the model's own page or folder."
        )
    if family not in transformers.CONFIG_MAPPING:
        code = " without running code from its folder, which is never done" if raw.get("auto_map") else ""
        raise ModelUnavailable(
            f"The model in {folder} is of the kind “{family}”, which transformers {transformers.__version__} does not "
            f"know{code}. Choose a model of a known family, such as Llama, Qwen, Gemma, Mistral or Phi."
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as e:  # every architecture checks its own fields
        raise ModelUnavailable(
            f"{folder / 'config.json'} is not a valid configuration of a {family} model ({_one_line(e)}). "
            "Take config.json from the model's own page or folder."
        ) from e
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise ModelUnavailable(
            f"The model in {folder} is of the kind “{family}”, which is not loaded as one that continues a text. "
            "Choose a decoder, such as a Llama, Qwen, Gemma, Mistral or Phi chat model."
        )
    return config


def _load_network(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The network with every parameter taken from the checkpoint, on the CPU."""
    try:
        network, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the tensor's name
        )
    except (MemoryError, torch.OutOfMemoryError) as e:
        raise ModelUnavailable(
            f"{folder.name} does not fit in memory. Close other programs or choose a smaller model."
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
    return network


def _place(network: Any, device: str, name: str) -> Any:
    """The network on its device, in eval mode, its parameters without gradients."""
    try:
        return network.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as e:
        raise ModelUnavailable(
            f"{name} does not fit into the memory of {device}. Close other programs, choose a smaller model, or run "
            "it on the CPU."
        ) from e


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
