"""Logit differences of many edits on many prompts: each prompt computed once, each edit as one more last token.

Edits at the decision position leave everything before it as it is, so the prompt without its last token is run once
and kept; then edits x prompts are evaluated as batches of last tokens over that cache, the unedited row among them.
Three ways, each proved on the model against the full forward before it is used: "shared" (all last tokens over one
cache, shared_prefix.py), "copied" (the cache copied per row; any kind of layer), "full" (whole prompts; also for edits
at all positions).
"""

import contextlib
import copy
import functools
import inspect
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from pprobe_core.circuits.schema import Condition, Split
from pprobe_core.errors import BadRequest, Cancelled, ModelUnavailable
from pprobe_core.interventions.edits import (
    Edits,
    HoldOutput,
    ModelShape,
    Patch,
    PatchOutput,
    Restore,
    ScaleHeads,
    check_edits,
    is_decision_only,
)
from pprobe_core.interventions.heads import HeadOutputs, find_heads
from pprobe_core.interventions.hooks import EditContext, SiteValues, applying
from pprobe_core.interventions.shared_prefix import NotShareable, Prefix, prefix_of, sharing
from pprobe_core.models.loading import LoadedModel
from pprobe_core.models.structure import Structure
from pprobe_core.probing.capture import last_logits, reading_last_position
from pprobe_core.probing.tokens import TokenBatch, left_pad, pad_id, plan_batches
from pprobe_core.probing.types import PreparedPair

Method = Literal["shared", "copied", "full"]

MAX_ROWS = 1024  # last tokens of one batch: enough to read the weights rarely, few enough to stay in fast memory
MAX_GROUP = 32  # prompts that share one cache
MAX_FULL_TOKENS = 4096  # padded tokens of one batch of whole prompts
MAX_CACHE_BYTES = 2**31  # caches kept at a time; beyond it the oldest are computed again when needed
MAX_COPY_BYTES = 2**29  # of one copied cache
_NOTHING = slice(0, 0)
PROOF_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # relative, at the final norm


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt an effect is measured on, the pair's other prompt (for patching), and its observable."""

    pair_id: str
    split: Split
    input_ids: tuple[int, ...]
    other_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    control_ids: tuple[int, ...]
    gold: tuple[str, ...] = ()  # right answers to this prompt, where the circuit has them


def prompts_of(pairs: Sequence[PreparedPair], condition: Condition) -> tuple[EvalPrompt, ...]:
    """The original or the perturbed prompts of some pairs."""
    out = []
    for p in pairs:
        own, other, gold = p.input_ids_original, p.input_ids_perturbed, p.gold_original
        if condition == "perturbed":
            own, other, gold = other, own, p.gold_perturbed
        out.append(EvalPrompt(p.pair_id, p.split, own, other, p.target_ids, p.control_ids, gold))
    return tuple(out)


@dataclass
class Passes:
    """Forward passes made, counted per prompt: whole prompts, and single last tokens over a cached prompt."""

    full: int = 0
    last_token: int = 0


@dataclass(frozen=True)
class Evaluated:
    """What one edit does on every prompt, in logits. NaN or infinite where the model's output broke."""

    logit_diff: Float[np.ndarray, "prompt"]
    delta: Float[np.ndarray, "prompt"]  # against the unedited row of the same batch

    @property
    def broken(self) -> bool:
        """Whether some prompt gave logits that are not numbers."""
        return not bool(np.isfinite(self.logit_diff).all())


@dataclass
class _Group:
    """Some prompts with everything but their last token run and kept."""

    prompts: tuple[int, ...]
    batch: TokenBatch
    cache: Any  # DynamicCache (copied) or Prefix (shared)

    @property
    def n_bytes(self) -> int:
        if isinstance(self.cache, Prefix):
            return self.cache.n_bytes
        return sum(t.nbytes for layer in self.cache.layers for t in _tensors(layer))


@dataclass
class Evaluator:
    """Applies edits to a fixed set of prompts of one loaded model. Not for two threads at once.

    `method`: None lets the evaluator choose the fastest way that the model passes the proof for.
    """

    loaded: LoadedModel
    prompts: tuple[EvalPrompt, ...]
    condition: Condition = "original"
    method: Method | None = None
    max_rows: int = MAX_ROWS
    cancelled: threading.Event | None = None
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise BadRequest("There is no prompt to measure on. Choose a prompt set with at least one usable pair.")
        self._max_group = MAX_GROUP
        self._max_full_tokens = MAX_FULL_TOKENS
        self._groups: OrderedDict[tuple[int, ...], _Group] = OrderedDict()
        self._values: dict[str, SiteValues] = {}
        self._baseline: np.ndarray | None = None
        self._readout = _Readout.of(self.loaded.structure, self.prompts)
        if min(len(p.input_ids) for p in self.prompts) < 2:
            self.method = "full"  # nothing stands before the last token

    # What a caller asks for ---------------------------------------------------------------------------------------

    @property
    def structure(self) -> Structure:
        """The model's proved structure."""
        return self.loaded.structure

    @functools.cached_property
    def heads(self) -> HeadOutputs | None:
        """The attention heads, found at first use (one short pass that is not counted: it is no prompt's)."""
        return find_heads(self.loaded)

    def shape_for(self, edits: Edits) -> ModelShape:
        """What there is to edit; heads are looked for only when an edit names one."""
        s = self.structure
        heads = self.heads if any(isinstance(e, ScaleHeads) for e in edits) else None
        return ModelShape(s.n_layers, s.d_mlp, s.d_model, None if heads is None else heads.n_heads)

    def baseline(self) -> Float[np.ndarray, "prompt"]:
        """The unedited logit difference of every prompt, in logits."""
        if self._baseline is None:
            self._baseline = self._run([()], cached=True)[0]
        return self._baseline

    def other_baseline(self) -> Float[np.ndarray, "prompt"]:
        """The unedited logit difference of every pair's other prompt, with this prompt's observable, in logits."""
        last = self.values("other").residual[:, -1].to(self.structure.final_norm.gain.device)
        normed = self.structure.final_norm.normed(last)[:, None]
        diff = self._readout.logit_diff(normed, range(len(self.prompts)))
        return diff[:, 0].cpu().numpy().astype(np.float64)

    def evaluate(self, rows: Sequence[Edits]) -> Iterator[Evaluated]:
        """Yield, in order, what each of `rows` does on all prompts; the unedited prompt () gives the baseline exactly.

        Raises BadRequest for an edit the model has no parts for (before anything is run), Cancelled when asked to stop,
        ModelUnavailable when even one row does not fit in memory.
        """
        for edits in dict.fromkeys(rows):
            self.check(edits)
        baseline = self.baseline()
        for cached, of_kind in itertools.groupby(rows, key=is_decision_only):
            waiting = list(of_kind)
            while waiting:
                # Asked anew each time, because memory may have made the batches smaller.
                n = self._edits_per_batch(cached)
                chunk, waiting = waiting[:n], waiting[n:]
                edited = [edits for edits in chunk if edits]
                values = self._run([(), *edited], cached) if edited else baseline[None]
                found = iter(values[1:])
                for edits in chunk:
                    row = next(found) if edits else baseline
                    with np.errstate(invalid="ignore"):  # broken rows stay visible as NaN
                        yield Evaluated(row, row - (values[0] if edits else baseline))

    def check(self, edits: Edits) -> None:
        """Raise BadRequest when these edits cannot be applied to this model and these prompts."""
        check_edits(edits, self.shape_for(edits))
        if self.condition != "original" and any(isinstance(e, Patch) for e in edits):
            raise BadRequest("Patching runs on the original prompts; on the perturbed ones use restoring instead.")
        if self.condition != "perturbed" and any(isinstance(e, Restore) for e in edits):
            raise BadRequest("Restoring runs on the perturbed prompts; on the original ones use patching instead.")

    def values(self, whose: Literal["own", "other"]) -> SiteValues:
        """Activations and layer outputs at the decision position, unedited, of these or the pairs' other prompts."""
        if whose not in self._values:
            ids = [p.input_ids if whose == "own" else p.other_ids for p in self.prompts]
            self._values[whose] = self._read(ids)
        return self._values[whose]

    # How it is computed -------------------------------------------------------------------------------------------

    def _edits_per_batch(self, cached: bool) -> int:
        return max(1, self.max_rows // min(self._max_group, len(self.prompts)) - 1) if cached else 16

    def _run(self, rows: Sequence[Edits], cached: bool) -> Float[np.ndarray, "edit prompt"]:
        """Logit differences of the rows on all prompts, one group of prompts after the other."""
        out = np.full((len(rows), len(self.prompts)), np.nan)
        method = self._chosen() if cached else "full"
        lengths = [len(p.input_ids) for p in self.prompts]
        with torch.inference_mode():
            for batch in plan_batches(lengths, self._max_full_tokens):
                for group in _batched(batch, self._max_group):
                    self.stop_if_cancelled()
                    out[:, group] = self._run_group(method, group, rows)
        return out

    def _run_group(
        self, method: Method, group: tuple[int, ...], rows: Sequence[Edits]
    ) -> Float[np.ndarray, "edit group"]:
        """One group; when memory runs out the batch is halved, by edits and then by prompts, for good."""
        try:
            if method == "full":
                return self._full(group, rows)
            return self._cached(method, group, rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        self._groups.clear()
        _free_memory()
        longest = max(len(self.prompts[i].input_ids) for i in group)
        if method == "full" and self._max_full_tokens > longest:
            self._max_full_tokens = max(longest, self._max_full_tokens // 2)
            return self._run_group(method, group, rows)
        if (
            method != "full" and len(rows) > 2
        ):  # the unedited row stays in each half, so that differences are taken within one batch
            half = 1 + len(rows[1:]) // 2
            self.max_rows = max(2, half * len(group))
            first = self._run_group(method, group, rows[:half])
            second = self._run_group(method, group, [rows[0], *rows[half:]])
            return np.concatenate([first, second[1:]])
        if method != "full" and len(group) > 1:
            half = len(group) // 2
            self._max_group = max(1, half)
            parts = [self._run_group(method, part, rows) for part in (group[:half], group[half:])]
            return np.concatenate(parts, axis=1)
        raise ModelUnavailable(
            "Not even one prompt with one edit fits in memory. Close other programs or choose a smaller model."
        )

    def _cached(self, method: Method, group: tuple[int, ...], rows: Sequence[Edits]) -> Float[np.ndarray, "edit group"]:
        held = self._prefilled(method, group)
        context = self.context(group, rows)
        run = self._shared if method == "shared" else self._copied
        normed = run(held, rows, context)
        self.passes.last_token += len(group) * len(rows)
        return self._readout.logit_diff(normed, group).T.cpu().numpy().astype(np.float64)

    def _shared(
        self, held: _Group, rows: Sequence[Edits], context: EditContext
    ) -> Float[Tensor, "prompt edit d_model"]:
        n, shape = len(held.prompts), (len(held.prompts), len(rows))
        ids = held.batch.input_ids[:, -1:].expand(shape)
        positions = held.batch.position_ids[:, -1:].expand(shape)
        with (
            sharing(self.loaded.model, held.cache) as cache,
            applying(self.structure, rows, n_prompts=n, context=context),
            self._final() as final,
        ):
            self._forward(ids, None, positions, cache)
        return final[0].reshape(*shape, -1)

    def _copied(
        self, held: _Group, rows: Sequence[Edits], context: EditContext
    ) -> Float[Tensor, "prompt edit d_model"]:
        n = len(held.prompts)
        per_prompt = max(1, held.n_bytes // n)
        step = max(1, MAX_COPY_BYTES // (per_prompt * n))
        out = []
        # Slices of the rows share a cache copy small enough for memory.
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            index = torch.arange(n, device=held.batch.input_ids.device).repeat_interleave(len(part))
            cache = copy.deepcopy(held.cache)
            cache.reorder_cache(index)
            with applying(self.structure, part, n_prompts=n, context=context), self._final() as final:
                self._forward(
                    held.batch.input_ids[index, -1:],
                    held.batch.attention_mask[index],
                    held.batch.position_ids[index, -1:],
                    cache,
                )
            out.append(final[0].reshape(n, len(part), -1))
        return torch.cat(out, dim=1)

    def _full(self, group: tuple[int, ...], rows: Sequence[Edits]) -> Float[np.ndarray, "edit group"]:
        out = np.empty((len(rows), len(group)))
        longest = max(len(self.prompts[i].input_ids) for i in group)
        width = max(1, self._max_full_tokens // longest)  # rows of one batch
        for part in _batched(range(len(group)), max(1, width // len(rows))):
            prompts = tuple(group[i] for i in part)
            step = max(1, min(len(rows), width // len(prompts)))
            for start in range(0, len(rows), step):
                edits = rows[start : start + step]
                batch = self._pad([self.prompts[i].input_ids for i in prompts for _ in edits])
                context = self.context(prompts, edits)
                with applying(self.structure, edits, n_prompts=len(prompts), context=context), self._final() as final:
                    self._forward(batch.input_ids, batch.attention_mask, batch.position_ids, None)
                self.passes.full += len(batch.input_ids)
                last = final[0].reshape(*batch.input_ids.shape, -1)[:, -1].reshape(len(prompts), len(edits), -1)
                diff = self._readout.logit_diff(last, prompts).T.cpu().numpy()
                out[start : start + step, list(part)] = diff
        return out

    def _prefilled(self, method: Method, group: tuple[int, ...]) -> _Group:
        """The group's prompts without their last tokens, run once and kept while there is room."""
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        batch = self._pad([self.prompts[i].input_ids for i in group])
        cache = DynamicCache(config=self.loaded.model.config.get_text_config())
        self._forward(batch.input_ids[:, :-1], batch.attention_mask[:, :-1], batch.position_ids[:, :-1], cache)
        self.passes.full += len(group)
        kept = prefix_of(cache, batch.attention_mask[:, :-1].bool()) if method == "shared" else cache
        self._groups[group] = _Group(group, batch, kept)
        while len(self._groups) > 1 and sum(g.n_bytes for g in self._groups.values()) > MAX_CACHE_BYTES:
            self._groups.popitem(last=False)
        return self._groups[group]

    def last_logits(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any
    ) -> Float[Tensor, "row vocab"]:
        """Logits of the last position in float32; `cache` takes up the new tokens' keys and values."""
        return self._forward(ids, mask, positions, cache, slice(-1, None))[:, -1].float()

    def all_logits(self, batch: TokenBatch) -> Float[Tensor, "row position vocab"]:
        """Logits of every position of whole prompts."""
        return self._forward(batch.input_ids, batch.attention_mask, batch.position_ids, None, slice(None))

    def _forward(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any, unembedded: slice = _NOTHING
    ) -> Tensor:
        """One forward pass. By default the unembedding reads no position: the readout needs only a few rows of it."""
        model = self.loaded.model
        accepted = inspect.signature(model.forward).parameters
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = cache
        if "position_ids" in accepted:
            inputs["position_ids"] = positions
        handle = self.structure.head.register_forward_pre_hook(
            lambda module, args: (args[0][..., unembedded, :], *args[1:])
        )
        try:
            return model(**inputs).logits
        finally:
            handle.remove()

    @contextlib.contextmanager
    def _final(self) -> Iterator[list[Tensor]]:
        """A list that holds what the final norm returned last: some families use the same module at the embedding."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            found[:] = [(output[0] if isinstance(output, tuple) else output).detach()]

        handle = self.structure.final_norm.module.register_forward_hook(keep)
        try:
            yield found
        finally:
            handle.remove()

    def context(self, prompts: Sequence[int], rows: Sequence[Edits]) -> EditContext:
        """The values that these edits need, read once for all prompts."""
        kinds = {type(edit) for edits in rows for edit in edits}
        return EditContext(
            own=self.values("own").of(prompts) if HoldOutput in kinds else None,
            other=self.values("other").of(prompts) if kinds & {Patch, Restore, PatchOutput} else None,
            heads=self.heads if ScaleHeads in kinds else None,
        )

    @torch.inference_mode()
    def _read(self, sequences: Sequence[tuple[int, ...]]) -> SiteValues:
        parts, order = [], []
        for rows in plan_batches([len(s) for s in sequences], self._max_full_tokens):
            self.stop_if_cancelled()
            batch = self._pad([sequences[r] for r in rows])
            with reading_last_position(self.structure, batch) as reading:
                last_logits(self.loaded.model, batch)
            self.passes.full += len(rows)
            stream = reading.parts
            sites = (reading.acts, stream.attention, stream.ffn, stream.resid_post)
            parts.append([site.transpose(0, 1).cpu() for site in sites])
            order += rows
        back = torch.tensor(order).argsort()
        return SiteValues(*(torch.cat([part[k] for part in parts])[back] for k in range(4)))

    def _pad(self, sequences: Sequence[tuple[int, ...]]) -> TokenBatch:
        return left_pad(sequences, pad_id(self.loaded.tokenizer), self.loaded.device)

    def stop_if_cancelled(self) -> None:
        if self.cancelled is not None and self.cancelled.is_set():
            raise Cancelled("The sweep was stopped; the points finished before are kept.")

    # Which way is right for this model ------------------------------------------------------------------------------

    def _chosen(self) -> Method:
        """The asked way, else the fastest that gives what full forwards give on this model (proved once per model)."""
        if self.method is None:
            proved = _PROVED.get(self.loaded.model)
            if proved is None:
                proved = _PROVED[self.loaded.model] = self._prove()
            self.method = proved
        return self.method

    def _prove(self) -> Method:
        """Compare each cached way with the full forward on the shortest and the longest prompt: padding counts."""
        by_length = sorted(range(len(self.prompts)), key=lambda i: (len(self.prompts[i].input_ids), i))
        pair = tuple(dict.fromkeys((by_length[0], by_length[-1])))
        tolerance = PROOF_TOLERANCE[self.structure.blocks[0].weight.dtype]
        with torch.inference_mode():
            batch = self._pad([self.prompts[i].input_ids for i in pair])
            with self._final() as final:
                self._forward(batch.input_ids, batch.attention_mask, batch.position_ids, None)
            self.passes.full += len(pair)
            expected = final[0].reshape(*batch.input_ids.shape, -1)[:, -1].float()
            ways: tuple[Method, ...] = ("shared", "copied")
            for method in ways:
                try:
                    held = self._prefilled(method, pair)
                    way = self._shared if method == "shared" else self._copied
                    found = way(held, [(), ()], EditContext()).float()
                    self.passes.last_token += 2 * len(pair)
                except (NotShareable, NotImplementedError, ValueError, TypeError, AttributeError, KeyError, IndexError):
                    continue  # the way is not for this architecture; the next one is tried
                except RuntimeError as error:  # tensors of shapes it did not expect
                    if is_out_of_memory(error):
                        raise
                    continue
                finally:
                    self._groups.clear()
                difference = (found - expected[:, None]).norm(dim=-1)
                if float((difference / expected.norm(dim=-1)[:, None].clamp_min(1e-30)).max()) <= tolerance:
                    return method
        return "full"


_PROVED: weakref.WeakKeyDictionary[Any, Method] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Readout:
    """From the final norm's output to F of each prompt: the few rows of W_U that its observable needs."""

    rows: Float[Tensor, "token d_model"]
    bias: Float[Tensor, "token"] | None
    weights: Float[Tensor, "prompt token"]  # +1/|T| on target tokens, -1/|C| on control tokens
    softcap: float | None

    @classmethod
    def of(cls, structure: Structure, prompts: Sequence[EvalPrompt]) -> "_Readout":
        ids = sorted({i for p in prompts for i in (*p.target_ids, *p.control_ids)})
        place = {token: k for k, token in enumerate(ids)}
        with torch.inference_mode():
            rows, bias = structure.unembed_rows(ids), structure.unembed_bias(ids)
            weights = torch.zeros(len(prompts), len(ids), dtype=torch.float32, device=rows.device)
            for i, prompt in enumerate(prompts):
                for side, sign in ((prompt.target_ids, 1.0), (prompt.control_ids, -1.0)):
                    for token in side:
                        weights[i, place[token]] += sign / len(side)
        return cls(rows, bias, weights, structure.softcap)

    def logit_diff(
        self, normed: Float[Tensor, "prompt edit d_model"], prompts: Sequence[int]
    ) -> Float[Tensor, "prompt edit"]:
        """F = mean(logits[T]) - mean(logits[C]), in logits, float32."""
        logits = normed.float() @ self.rows.T
        if self.bias is not None:
            logits = logits + self.bias
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return torch.einsum("pet,pt->pe", logits, self.weights[list(prompts)])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's, Python's, or the CPU allocator's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _batched(items: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(items), n):
        yield tuple(items[start : start + n])


def _tensors(layer: Any) -> Iterator[Tensor]:
    for value in vars(layer).values():
        values = value.values() if isinstance(value, dict) else [value]
        yield from (v for v in values if isinstance(v, Tensor))
