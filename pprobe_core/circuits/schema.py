"""What a circuit, a prompt, a prompt pair and a prompt set are. Plain values, no behaviour."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Split = Literal["discovery", "validation", "heldout"]
Side = Literal["target", "control", "other"]
Structure = Literal["opposition", "routing", "read_out"]
Condition = Literal["original", "perturbed"]  # which prompt of a pair

VERSION_DIGITS = 12  # of the SHA-256 that tells versions of an own circuit apart


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
    """One class a generated answer can fall into, and which side of the observable it stands for.

    `examples`: answers or their opening phrases, where the circuit's classes are made by example.
    """

    name: str
    title: str
    side: Side
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A rate that a sweep reports beside the classes themselves: answers of some classes, on some of the prompts."""

    name: str
    title: str
    classes: tuple[str, ...]
    prompts: Literal["all", "multi_turn"] = "all"  # multi_turn: prompts with an earlier answer in them (push-back)


@dataclass(frozen=True)
class SetStrings:
    """First-token strings that belong to one prompt set: the models it is for start their answers with these."""

    prompt_set: str
    target: tuple[str, ...]
    control: tuple[str, ...]


@dataclass(frozen=True)
class SweepDefaults:
    """What a sweep of this circuit edits unless asked otherwise: where its behaviour shows."""

    condition: Condition = "original"
    position: Literal["decision", "all"] = "decision"
    ranking: Literal["shared", "magnitude", "ablation", "measured"] = "ablation"


@dataclass(frozen=True)
class Circuit:
    """One behaviour, read from circuits/<id>.yaml: one that comes with the product, or a user's own."""

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
    expected_structure: Structure | None  # in the paper; of an own circuit what its author expects, None for nothing
    expected_note: str  # what the paper found, one sentence; may be empty in an own circuit
    response_rule: str  # name of the rule in circuits/responses.py
    response_classes: tuple[ResponseClass, ...] = field(default=())
    outcomes: tuple[Outcome, ...] = ()
    sweep: SweepDefaults = SweepDefaults()
    set_strings: tuple[SetStrings, ...] = ()
    same_content: bool = False  # both prompts of a pair ask for the same, so a switched answer should say the same
    target_fallback: tuple[str, ...] = ()  # used only with tokenisers for which no string of `target` is one token
    sha256: str = ""  # over the file's bytes
    own: bool = False  # a user's, not one that comes with the product

    @property
    def address(self) -> str:
        """What a request names the circuit by: its id, and for an own one the version, since a user may change it."""
        return f"{self.circuit_id}@{self.sha256[:VERSION_DIGITS]}" if self.own else self.circuit_id

    def for_set(self, prompt_set_id: str) -> "Circuit":
        """The circuit with the strings of a prompt set where it has its own, else as it is."""
        own = next((strings for strings in self.set_strings if strings.prompt_set == prompt_set_id), None)
        return self if own is None else replace(self, target=own.target, control=own.control, target_fallback=())
