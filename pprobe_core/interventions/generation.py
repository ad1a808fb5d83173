"""Answers of the edited model: prompts x edits in batches, greedy or sampled, handed out as they are made."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.interventions.edits import Edits
from pprobe_core.interventions.evaluator import Evaluator, is_out_of_memory
from pprobe_core.interventions.hooks import applying
from pprobe_core.probing.generation import MAX_NEW_TOKENS, end_ids
from pprobe_core.probing.tokens import left_pad, pad_id
from pprobe_core.settings import SEED

MAX_BATCH_TOKENS = 32_768  # padded tokens of one batch, the new ones included
MAX_BATCH_TOKENS_CPU = 8_192  # more is no faster there, and takes hundreds of MB even with the smallest models
MAX_CACHE_BYTES = 2**30  # keys and values of one batch

Finish = Literal["stop", "limit", "broken"]  # a stop token, the token limit, logits that are not numbers


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are made. Temperature 0 is greedy decoding; above it tokens are drawn with the seed."""

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = SEED
    stop_ids: tuple[int, ...] = ()  # beside the model's own end tokens

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise BadRequest(f"{self.max_new_tokens} new tokens were asked for; at least 1 is needed.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise BadRequest(f"The temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")
        if not 0 < self.top_p <= 1:
            raise BadRequest(f"top-p is {self.top_p}; it must lie above 0 and at most 1.")


@dataclass(frozen=True)
class Token:
    """One generated token, as soon as it is there. `text` is the answer so far."""

    prompt: int  # index into the evaluator's prompts
    edit: int  # index into the rows of edits
    step: int
    token_id: int
    text: str


@dataclass(frozen=True)
class Response:
    """One finished answer. `text` ends before the stop token; markers such as <think> stay."""

    prompt: int
    edit: int
    pair_id: str
    token_ids: tuple[int, ...]  # without the stop token
    text: str
    finish: Finish


def respond(
    evaluator: Evaluator,
    rows: Sequence[Edits],
    settings: GenerationSettings | None = None,
    prompts: Sequence[int] | None = None,
) -> Iterator[Response]:
    """Yield the answer of every prompt under every edit as each is finished; () gives the unedited model's answer.

    Edits at the decision position act while the prompt is read, those at "all" positions on every generated token too.
    What is drawn for a prompt depends on the seed and the pair alone, so edits are compared with the same random
    numbers. The model is unedited whenever the caller holds the turn. Raises BadRequest, Cancelled and ModelUnavailable
    as the evaluator does.
    """
    for event in stream(evaluator, rows, settings, prompts):
        if isinstance(event, Response):
            yield event


def stream(
    evaluator: Evaluator,
    rows: Sequence[Edits],
    settings: GenerationSettings | None = None,
    prompts: Sequence[int] | None = None,
) -> Iterator[Token | Response]:
    """As `respond`, with every token on the way. When memory runs out an unfinished answer starts again at step 0."""
    settings = settings or GenerationSettings()
    for edits in dict.fromkeys(rows):
        evaluator.check(edits)
    chosen = list(range(len(evaluator.prompts))) if prompts is None else list(prompts)
    chosen.sort(key=lambda i: (len(evaluator.prompts[i].input_ids), i))
    waiting = [(i, e) for i in chosen for e in range(len(rows))]
    budget = _batch_tokens(evaluator)
    while waiting:
        longest, n = 0, 0
        for i, _ in waiting:
            longest = max(longest, len(evaluator.prompts[i].input_ids) + settings.max_new_tokens)
            if n and (n + 1) * longest > budget:
                break
            n += 1
        batch, waiting = waiting[:n], waiting[n:]
        done: set[tuple[int, int]] = set()
        try:
            for event in _batch(evaluator, rows, batch, settings):
                if isinstance(event, Response):
                    done.add((event.prompt, event.edit))
                yield event
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if n == 1:
                raise ModelUnavailable(
                    "Not even one answer fits in memory. Ask for fewer new tokens or choose a smaller model."
                ) from error
            budget = n * longest // 2
            waiting = [pair for pair in batch if pair not in done] + waiting


def decision_logits(evaluator: Evaluator, rows: Sequence[Edits], prompt: int = 0) -> Float[Tensor, "edit vocab"]:
    """Logits of the answer's first token under each of `rows`, on one prompt; float32, on the CPU.

    What `respond` chooses its first token from. Raises BadRequest and Cancelled as it does.
    """
    for edits in dict.fromkeys(rows):
        evaluator.check(edits)
    _limit(evaluator, [(prompt, 0)], GenerationSettings())
    n = max(1, _batch_tokens(evaluator) // len(evaluator.prompts[prompt].input_ids))
    parts = []
    for start in range(0, len(rows), n):
        evaluator.stop_if_cancelled()
        of_part = [(prompt, e) for e in range(start, min(start + n, len(rows)))]
        parts.append(_Run(evaluator, rows, of_part).prefill().cpu())
    return torch.cat(parts)


def _batch_tokens(evaluator: Evaluator) -> int:
    """Padded tokens of one batch that suit the device, and whose keys and values stay within MAX_CACHE_BYTES."""
    config = evaluator.loaded.model.config.get_text_config()
    n_heads = getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or evaluator.structure.d_model // n_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    weight = evaluator.structure.blocks[0].weight
    per_token = 2 * evaluator.structure.n_layers * n_kv * width * weight.element_size()
    most = MAX_BATCH_TOKENS_CPU if weight.device.type == "cpu" else MAX_BATCH_TOKENS
    return min(most, max(1, MAX_CACHE_BYTES // per_token))


def _batch(
    evaluator: Evaluator, rows: Sequence[Edits], batch: list[tuple[int, int]], settings: GenerationSettings
) -> Iterator[Token | Response]:
    """Answers of some (prompt, edit) pairs, all in one batch that shrinks as answers end."""
    tokenizer = evaluator.loaded.tokenizer
    ends = set(end_ids(evaluator.loaded)) | set(settings.stop_ids)
    new: list[list[int]] = [[] for _ in batch]
    draws = [_generator(settings.seed, evaluator.prompts[i].pair_id) for i, _ in batch]
    alive = list(range(len(batch)))
    run = _Run(evaluator, rows, batch)
    for step in range(_limit(evaluator, batch, settings)):
        evaluator.stop_if_cancelled()
        logits = run.prefill() if step == 0 else run.step([new[k][-1] for k in alive], alive)
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        tokens = _choose(logits, [draws[k] for k in alive], settings)
        events: list[Token | Response] = []
        kept = []
        for place, k in enumerate(alive):
            i, e = batch[k]
            if not finite[place] or tokens[place] in ends:
                events.append(_response(evaluator, batch[k], new[k], "stop" if finite[place] else "broken"))
                continue
            new[k].append(tokens[place])
            text = str(tokenizer.decode(new[k], skip_special_tokens=False))
            events.append(Token(i, e, step, tokens[place], text))
            kept.append(place)
        run.keep(kept)
        alive = [alive[place] for place in kept]
        # All of the step's results are handed out after its computation: between yields no hook is on the model.
        yield from events
        if not alive:
            return
    for k in alive:
        yield _response(evaluator, batch[k], new[k], "limit")


class _Run:
    """The cache of one batch, and forward passes over it with the rows' edits applied for each pass alone."""

    def __init__(self, evaluator: Evaluator, rows: Sequence[Edits], batch: list[tuple[int, int]]) -> None:
        self.evaluator = evaluator
        self.batch = batch
        self.edits = [rows[e] for _, e in batch]
        prompts = evaluator.prompts
        self.tokens = left_pad(
            [prompts[i].input_ids for i, _ in batch], pad_id(evaluator.loaded.tokenizer), evaluator.loaded.device
        )
        self.cache = DynamicCache(config=evaluator.loaded.model.config.get_text_config())
        self.mask = self.tokens.attention_mask
        self.next_position = self.tokens.position_ids[:, -1:] + 1

    def prefill(self) -> Float[Tensor, "row vocab"]:
        """Logits after the prompts. Every row counts as a prompt of its own, so that patched values are its own."""
        self.evaluator.passes.full += len(self.batch)
        evaluator = self.evaluator
        context = evaluator.context([i for i, _ in self.batch], self.edits)
        with (
            torch.inference_mode(),
            applying(evaluator.structure, self.edits, context=context, one_prompt_per_row=True),
        ):
            return evaluator.last_logits(self.tokens.input_ids, self.mask, self.tokens.position_ids, self.cache)

    def step(self, tokens: list[int], alive: list[int]) -> Float[Tensor, "row vocab"]:
        """Logits after one more token of the rows that are left."""
        self.evaluator.passes.last_token += len(tokens)
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        positions, self.next_position = self.next_position, self.next_position + 1
        edits = [self.edits[k] for k in alive]
        with torch.inference_mode(), applying(self.evaluator.structure, edits, at_decision=False):
            return self.evaluator.last_logits(ids, self.mask, positions, self.cache)

    def keep(self, places: list[int]) -> None:
        """Drop the rows that are finished."""
        if len(places) == len(self.mask) or not places:
            return
        index = torch.tensor(places, device=self.mask.device)
        with torch.inference_mode():
            self.cache.reorder_cache(index)
        self.mask, self.next_position = self.mask[index], self.next_position[index]


def _limit(evaluator: Evaluator, batch: list[tuple[int, int]], settings: GenerationSettings) -> int:
    """New tokens that fit behind the batch's longest prompt."""
    longest = max(len(evaluator.prompts[i].input_ids) for i, _ in batch)
    room = getattr(evaluator.loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(room, int):
        return settings.max_new_tokens
    if room <= longest:
        raise BadRequest(f"A prompt of {longest} tokens leaves no room: the model reads at most {room}. Shorten it.")
    return min(settings.max_new_tokens, room - longest)


def _choose(logits: Float[Tensor, "row vocab"], draws: list[Any], settings: GenerationSettings) -> list[int]:
    """The next token of each row; ties go to the lower id."""
    if settings.temperature == 0:
        return [int(i) for i in torch.nan_to_num(logits, nan=-math.inf).argmax(dim=-1)]
    out = []
    for row, draw in zip(torch.nan_to_num(logits.double(), nan=-math.inf).cpu(), draws, strict=True):
        u = float(torch.rand((), generator=draw, dtype=torch.float64))
        probabilities, order = torch.softmax(row / settings.temperature, dim=-1).sort(descending=True, stable=True)
        cumulative = probabilities.cumsum(-1)
        # The smallest set of tokens that holds top_p of the probability, and the one at the drawn place within it.
        n = int((cumulative < settings.top_p).sum()) + 1
        place = int(torch.searchsorted(cumulative[:n], u * float(cumulative[:n][-1])))
        out.append(int(order[min(place, n - 1)]))
    return out


def _generator(seed: int, pair_id: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{pair_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _response(evaluator: Evaluator, pair: tuple[int, int], ids: list[int], finish: Finish) -> Response:
    text = str(evaluator.loaded.tokenizer.decode(ids, skip_special_tokens=False)) if ids else ""
    return Response(pair[0], pair[1], evaluator.prompts[pair[0]].pair_id, tuple(ids), text, finish)
