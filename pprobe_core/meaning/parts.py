"""What a paragraph is made of: its parts, the tested sweeps it tells of, and whether a run tells anything."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pprobe_core.interventions.outcomes import OutcomeRate
from pprobe_core.interventions.statistics import Comparison
from pprobe_core.interventions.types import SweepPoint
from pprobe_core.probing.verdict import MIN_FLIP_RATE
from pprobe_core.store import Sweep

Page = Literal["start", "probe", "dose", "window", "controls", "compare"]


@dataclass(frozen=True)
class Part:
    """One part of a paragraph: what it is about, in a word or two, and its sentences."""

    topic: str
    text: str


@dataclass(frozen=True)
class Meaning:
    """The finding in one sentence, a paragraph, part by part, and what to do next with the page to do it on."""

    headline: str
    parts: tuple[Part, ...]
    next_step: str
    page: Page

    @property
    def text(self) -> str:
        """Everything below the headline as one paragraph of plain text."""
        return " ".join((*(part.text for part in self.parts), self.next_step))

    def lines(self, width: int = 110) -> list[str]:
        """The same for a terminal: a heading, then part by part."""
        told = [self.headline, *(f"{part.topic}: {part.text}" for part in self.parts), self.next_step]
        wrapped = (textwrap.wrap(text, width - 2, initial_indent="  ", subsequent_indent="    ") for text in told)
        return ["What this means", *(line for lines in wrapped for line in lines)]


@dataclass(frozen=True)
class Tested:
    """A finished sweep with its points and what its answers say; no rates where no answers were written."""

    sweep: Sweep
    points: tuple[SweepPoint, ...] = ()
    rates: tuple[OutcomeRate, ...] = ()

    @property
    def kind(self) -> str:
        """What kind of sweep it is."""
        return self.sweep.request.kind

    @property
    def comparisons(self) -> list[Comparison]:
        """Every point against its random controls; empty where the sweep has none."""
        return [Comparison(**row) for row in (self.sweep.summary.get("controls") or {}).get("comparisons") or ()]


def meaning(headline: str, parts: Sequence[tuple[str, str]], step: str, page: Page) -> Meaning:
    """A paragraph of topics with their texts; a part without text is left out."""
    return Meaning(headline, tuple(Part(topic, text) for topic, text in parts if text), step, page)


def flips(s: Mapping[str, Any]) -> bool:
    """Whether enough pairs change sides for a run to tell something."""
    return (s.get("flip_rate") or 0.0) >= MIN_FLIP_RATE
