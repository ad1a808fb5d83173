"""What a circuit, a prompt, a prompt pair and a prompt set are. Plain values, no behaviour."""

from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["discovery", "validation", "heldout"]
Side = Literal["target", "control", "other"]
Structure = Literal["opposition", "routing", "read_out"]


@dataclass(frozen=True)
class Prompt:
    """One prompt as chat messages (`{"role", "content"}`), ending with a user turn, with the tools offered."""

    messages: tuple[dict[str, str], ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The last user turn, for display."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class PromptPair:
    """An original prompt and its perturbed twin.

    `perturbed` is None when the circuit's perturbation makes it at run time from `keyword` and the model's tokeniser.
    `target` / `control` are set when the observable belongs to the pair (factual recall: its answer, the other answer).
    `gold` holds right answers to the original prompt where they are not the observable (math: the sum's result).
    """

    pair_id: str
    split: Split
    original: Prompt
    perturbed: Prompt | None
    keyword: str | None = None
    target: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompt pairs of one circuit. `sha256` is over the file's bytes; `origin` says who wrote them."""

    prompt_set_id: str  # "mini", "general" or the file's name
    circuit: str
    pairs: tuple[PromptPair, ...]
    sha256: str
    origin: str


@dataclass(frozen=True)
class ResponseClass:
    """One class a generated answer can fall into, and which side of the observable it stands for."""

    name: str
    title: str
    side: Side


@dataclass(frozen=True)
class Circuit:
    """One behaviour, read from circuits/<id>.yaml."""

    circuit_id: str
    title: str
    description: str  # plain words, two or three sentences
    question: str  # what a run answers, one sentence
    perturbation: str  # name of the rule in circuits/perturbations.py: "bpe_swap" or "given"
    perturbation_text: str  # plain words: how X becomes X~
    target_meaning: str  # e.g. "starts of a refusal"
    control_meaning: str
    target: tuple[str, ...]  # first-token strings with their variants
    control: tuple[str, ...]
    per_pair_observable: bool  # True: each pair brings its own target and control strings
    expected_structure: Structure  # in the paper
    expected_note: str  # what the paper found, one sentence
    response_rule: str  # name of the rule in circuits/responses.py
    response_classes: tuple[ResponseClass, ...] = field(default=())
    target_fallback: tuple[str, ...] = ()  # used only with tokenisers for which no string of `target` is one token
    sha256: str = ""
