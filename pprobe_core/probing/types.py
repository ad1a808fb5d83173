"""What moves between the rooms of the probe: request, prepared prompts, captured blocks, result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

from pprobe_core.circuits.schema import Circuit, Prompt, Split

Coupling = Literal["plain", "norm_aware"]
COUPLINGS: tuple[Coupling, ...] = get_args(Coupling)
Thinking = Literal["auto", "on", "off"]
THINKING: tuple[Thinking, ...] = get_args(Thinking)
ThinkingState = Literal["on", "off", "no_switch", "own"]  # how prompts were written; own: like neither
StringSource = Literal["circuit", "given", "harvested"]  # where the target and control strings of a run come from
Ranking = Literal["shared", "magnitude", "ablation"]
RANKINGS: tuple[Ranking, ...] = ("shared", "magnitude", "ablation")
ENGINE_VERSION = 1  # raise when the numbers of an identical request would change; part of the request key


@dataclass(frozen=True)
class ProbeRequest:
    """What a user asks for. The same request on the same weights gives the same run."""

    model: str  # shipped id, local folder or hub id
    circuit: str
    prompts: str = "mini"  # "mini", "general" or a path to a CSV / JSONL file
    coupling: Coupling = "plain"
    limit: int | None = None
    seed: int = 20260427
    generate: bool = True  # also generate the first responses, so that the run can reach the stage "qualified"
    thinking: Thinking = "auto"  # auto: room for <think> only where the circuit's own strings name it
    target: tuple[str, ...] = ()  # in place of the circuit's strings; both or none
    control: tuple[str, ...] = ()
    harvested_from: str = ""  # run whose answers suggested target and control; "" when a person gave them

    @property
    def strings_from(self) -> StringSource:
        """Where the target and control strings come from."""
        if not (self.target or self.control):
            return "circuit"
        return "harvested" if self.harvested_from else "given"

    def as_json(self) -> dict[str, Any]:
        """The request as JSON-able values: what its identity is made of.

        Fields that were added later stand in it only where they are not at their default, so that an older request
        keeps its identity.
        """
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in LATER_FIELDS or value != getattr(ProbeRequest, name)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ProbeRequest":
        """The request that as_json wrote; fields that an older one lacks are at their default."""
        return cls(**tupled(values))


def tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as frozen dataclasses hold them: lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


LATER_FIELDS = ("thinking", "target", "control", "harvested_from")  # absent from requests stored before there were any


@dataclass(frozen=True)
class Observable:
    """Token sets T and C of the logit difference F = mean(logits[T]) - mean(logits[C]), at the last prompt position.

    `preview` has one row per string: side, string, ids (list[int]), pieces (list[str]), used (bool), note (str, "" when
    fine).
    """

    target_ids: tuple[int, ...]
    control_ids: tuple[int, ...]
    preview: pd.DataFrame


@dataclass(frozen=True)
class PreparedPair:
    """A prompt pair with both prompts as token ids, ending where the assistant's first token comes next."""

    pair_id: str
    split: Split
    original: Prompt
    perturbed: Prompt
    input_ids_original: tuple[int, ...]
    input_ids_perturbed: tuple[int, ...]
    tokens_original: tuple[str, ...]  # readable pieces, for display
    tokens_perturbed: tuple[str, ...]
    target_ids: tuple[int, ...]
    control_ids: tuple[int, ...]
    gold_original: tuple[str, ...] = ()  # right answers where the circuit has them
    gold_perturbed: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Prepared:
    """All pairs of a run, ready for the two passes."""

    pairs: tuple[PreparedPair, ...]
    observable: Observable  # of the run; with per-pair observables the union of all pairs
    per_pair_observable: bool
    skipped: pd.DataFrame  # pair_id, reason: pairs that could not be used
    block_size: int  # pairs per block
    circuit: Circuit
    prompt_set_id: str
    prompt_set_sha256: str
    thinking: bool  # whether the chat template was asked to leave room for <think>
    thinking_state: ThinkingState = "no_switch"  # what came of it, found by writing the first prompt both ways
    own_strings: tuple[str, ...] = ()  # ids of the pairs that are measured on strings of their own
    notes: tuple[str, ...] = ()  # what a reader should know about how this request was met, in sentences

    @property
    def n_blocks(self) -> int:
        """Blocks of the two passes; generation has as many."""
        return -(-len(self.pairs) // self.block_size)


@dataclass(frozen=True)
class ProbeResult:
    """A finished probe: one summary and long DataFrames, ready for the store.

    pairs (one row per pair, prompt order): idx, pair_id, split, original_text, perturbed_text, original_prompt (JSON
      text), perturbed_prompt (JSON text), input_ids_original, input_ids_perturbed (list[int]), tokens_original,
      tokens_perturbed (list[str]), target_ids, control_ids (list[int]), logit_diff_original, logit_diff_perturbed,
      predicted_delta (sum of I over all neurons), constant_original, constant_perturbed (norm and head biases; soft-cap
      remainder), ffn_skip_original, ffn_skip_perturbed (null where undefined), flipped (bool), covered_original,
      covered_perturbed (bool: argmax in T or C), response_original, response_perturbed (text or null), class_original,
      class_perturbed (or null), note.
    first_tokens: pair_id, condition ("original" | "perturbed"), rank (1..5), token_id, token, probability, side.
    layers (one row per pair, condition and layer): pair_id, condition, layer, attention, ffn, skip (logits, direct
      logit attribution with the final norm folded in: skip of layer 0 + sum of attention and ffn + constant = F),
      ffn_skip, attention_skip (|d_F . out| / |d_F . h|, plain; null where undefined), lens_after_attention,
      lens_after_ffn (logit lens: final norm applied there, no soft-cap).
    neurons (all neurons, over the ranking splits): layer, neuron, coupling, importance_mean, importance_rms,
      sign_consistency, coherence, act_original_mean, act_perturbed_mean, zeroing_effect (mean of -c * a(X)),
      ablation_score.
    token_preview: side, string, ids, pieces, used, note.
    summary: JSON-able dict; keys of the command line's contract plus intervals, nulls and counts (see probe.summarise).
      couplings and three keys of each row of layers: what either coupling makes of the change (couplings.py).
    """

    request: ProbeRequest
    request_key: str
    run_id: str
    summary: dict[str, Any]
    pairs: pd.DataFrame
    first_tokens: pd.DataFrame
    layers: pd.DataFrame
    neurons: pd.DataFrame
    token_preview: pd.DataFrame
    environment: dict[str, str] = field(default_factory=dict)  # library versions, device, dtype, threads
