"""Prompts -> token ids, and token ids -> left-padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pprobe_core.circuits.schema import Prompt
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.probing.types import ThinkingState

AUTO_SWITCH = "enable_thinking"  # the name most templates have for it (Qwen3, SmolLM3, GLM)
SWITCHES = (AUTO_SWITCH, "thinking")  # and Granite's, handed over where thinking was asked for


@dataclass(frozen=True)
class TokenBatch:
    """Left-padded prompts: the last position of every row is the prompt's last token.

    Position ids count the prompt's own tokens from 0: with the mask alone, learned positions would be read shifted.
    """

    input_ids: Int[Tensor, "sequence position"]
    attention_mask: Int[Tensor, "sequence position"]
    position_ids: Int[Tensor, "sequence position"]


def encode_prompt(tokenizer: Any, prompt: Prompt, *, thinking: bool, asked: bool = False) -> tuple[int, ...]:
    """Token ids of a prompt through the model's own chat template, ending where the assistant's first token comes next.

    `thinking` is handed to templates that know the switch (Qwen3 and others); the rest ignore it. `asked`: a person
    chose it, so it goes under every name the switch has; the automatic rule knows one name only.
    Raises ModelUnavailable when the tokeniser has no chat template, BadRequest when the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelUnavailable(
            "This model's tokeniser has no chat template, so a prompt cannot be put to it as a chat message. "
            "Pick a model that was tuned for chat (often named '-Instruct' or '-it')."
        )
    try:
        encoded = tokenizer.apply_chat_template(
            [dict(message) for message in prompt.messages],
            tools=[dict(tool) for tool in prompt.tools] or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            tokenizer_kwargs={"verbose": False},  # prompts that are too long are dealt with by the caller
            **dict.fromkeys(SWITCHES if asked else (AUTO_SWITCH,), thinking),
        )
    except Exception as error:  # a template is a program of the model's author and may raise anything
        raise BadRequest(f"The model's chat template does not accept this prompt ({_one_line(error)}).") from error
    return tuple(int(i) for i in encoded["input_ids"])


def thinking_state(tokenizer: Any, prompt: Prompt, ids: Sequence[int]) -> ThinkingState:
    """Whether a prompt written as `ids` has thinking on or off, or the chat template has no switch for it.

    Found, not looked up: the prompt is written both ways and compared. "own" where it is like neither of them.
    """
    try:
        on, off = (encode_prompt(tokenizer, prompt, thinking=state, asked=True) for state in (True, False))
    except BadRequest:  # of a template that accepts one state only
        return "own"
    if on == off:
        return "no_switch"
    return "on" if tuple(ids) == on else "off" if tuple(ids) == off else "own"


def encode_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[tuple[int, ...], int]:
    """Token ids of a conversation with its last answer, and where that answer starts. Raises as encode_prompt does."""
    prompt = encode_prompt(tokenizer, Prompt(tuple(messages[:-1])), thinking=False)
    answer = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
    return (*prompt, *(int(i) for i in answer)), len(prompt)


def piece(tokenizer: Any, token_id: int) -> str:
    """Readable text of one token alone; bytes that are no whole character read as <0xE8><0xBF>."""
    text = str(tokenizer.decode([token_id], skip_special_tokens=False))
    if text and "\ufffd" not in text:
        return text
    spelling = str(tokenizer.convert_ids_to_tokens(token_id))
    byte_of = _byte_of()
    if not all(character in byte_of for character in spelling):
        return spelling
    read = bytes(byte_of[character] for character in spelling).decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in read)


def pieces(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """`piece` of each token."""
    return tuple(piece(tokenizer, i) for i in ids)


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level BPE vocabulary stands for ("Ġ" is the space).

    SentencePiece spells such bytes <0xE8> itself: these characters stand for themselves here, so they stay as they are.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


def pad_id(tokenizer: Any) -> int:
    """An id that may stand in masked positions; which one makes no difference to the result."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if isinstance(candidate, int):
            return candidate
    return 0


def left_pad(sequences: Sequence[Sequence[int]], padding: int, device: torch.device | str) -> TokenBatch:
    """The sequences as one batch, aligned at their last tokens."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), padding, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    return TokenBatch(ids.to(device), mask.to(device), positions.to(device))


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of at most `max_tokens` padded tokens (a longer sequence stands alone), shortest first."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def plan_blocks(lengths: Sequence[int], block_size: int) -> list[list[int]]:
    """Indices of pairs sorted by length and cut into blocks, so that a block needs little padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[start : start + block_size] for start in range(0, len(order), block_size)]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
