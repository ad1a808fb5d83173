"""First tokens taken from the model's own answers, where a circuit's strings miss them. Pure: stored rows in, sets out.

Which tokens count is suggested by discovery pairs alone; how much they cover is counted on the other pairs.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from pprobe_core.circuits.responses import side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.probing.verdict import MIN_COVERAGE
from pprobe_core.wording import plural

MIN_PURITY = 0.9  # ours: a token belongs to a side that at least this share of the answers it starts stand for
MIN_ANSWERS = 2  # ours: a token that starts one answer only may be an accident; taken where a side has nothing else
MAX_STRINGS = 10  # ours, per side: F is a mean, and rare starts dilute it

Kept = Literal["target", "control", "both", "rare", "unwritable"]


@dataclass(frozen=True)
class TokenCount:
    """How many discovery answers of each side a first token starts, and what becomes of it.

    `kept`: the side it is proposed for; "both" (it starts answers of both sides), "rare" (too few answers, or beyond
    MAX_STRINGS), "unwritable" (a piece of a character, which no string can name).
    """

    token_id: int
    token: str
    n_target: int
    n_control: int
    kept: Kept


@dataclass(frozen=True)
class Coverage:
    """On how many prompts the likeliest first token lies in either token set; `n_pairs` prompts of each kind."""

    n_original: int
    n_perturbed: int
    n_pairs: int

    @property
    def lowest(self) -> float | None:
        """The smaller of the two shares, None without pairs."""
        return min(self.n_original, self.n_perturbed) / self.n_pairs if self.n_pairs else None


@dataclass(frozen=True)
class Harvest:
    """Token sets that the model's own first answers suggest. Both are empty where they suggest none: `note` says why.

    Coverages are over the pairs that did not suggest the tokens, before with the sets of the run.
    """

    target: tuple[str, ...]
    control: tuple[str, ...]
    coverage_before: Coverage
    coverage_after: Coverage
    counts: tuple[TokenCount, ...]  # most frequent first
    note: str

    @property
    def usable(self) -> bool:
        """Whether there is a set for both sides."""
        return bool(self.target and self.control)

    def as_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**asdict(self), "usable": self.usable}


def misses_answers(summary: Mapping[str, Any]) -> bool:
    """Whether a run's token sets hold the likeliest first token on fewer than MIN_COVERAGE of its prompts of a kind."""
    coverage = summary.get("coverage") or {}
    shares = [coverage.get(condition) for condition in ("original", "perturbed")]
    return any(share is not None and share < MIN_COVERAGE for share in shares)


def own_pairs(summary: Mapping[str, Any]) -> list[str] | None:
    """Ids of the pairs measured on strings of their own; None where a run has such pairs and does not say which."""
    observable = summary.get("observable") or {}
    if not observable.get("per_pair"):
        return []
    named = observable.get("own_pairs")
    return None if named is None else [str(pair_id) for pair_id in named]


def harvest(
    circuit: Circuit, pairs: pd.DataFrame, first_tokens: pd.DataFrame, own: Collection[str] | None = ()
) -> Harvest:
    """The token sets that the answers of one run suggest; `pairs` and `first_tokens` as in ProbeResult.

    A first token belongs to the side that the classes of the discovery answers it starts stand for, if MIN_PURITY of
    them do; one that starts both kinds is left out. `own` are the pairs with strings of their own (None: all of them):
    they keep those and take no part.
    """
    answers = _answers(circuit, pairs, first_tokens, own)
    suggesting, others = answers[answers["split"] == "discovery"], answers[answers["split"] != "discovery"]
    counts = _counts(suggesting[suggesting["side"] != "other"])
    chosen: dict[str, list[TokenCount]] = {side: [c for c in counts if c.kept == side] for side in _SIDES}
    note = _note(answers, suggesting, chosen)
    usable = all(chosen.values())
    ids = {c.token_id for side in _SIDES for c in chosen[side]} if usable else set()
    return Harvest(
        target=tuple(c.token for c in chosen["target"]) if usable else (),
        control=tuple(c.token for c in chosen["control"]) if usable else (),
        coverage_before=_coverage(others, others["covered"]),
        coverage_after=_coverage(others, others["token_id"].isin(ids)),
        counts=counts,
        note=note,
    )


def harvested_request(request: ProbeRequest, run_id: str, found: Harvest) -> ProbeRequest:
    """The request of a run, asked again with the token sets that its answers suggest."""
    return replace(request, target=found.target, control=found.control, harvested_from=run_id)


_SIDES: tuple[Literal["target", "control"], ...] = ("target", "control")
_CONDITIONS: tuple[Literal["original", "perturbed"], ...] = ("original", "perturbed")


def _answers(
    circuit: Circuit, pairs: pd.DataFrame, first_tokens: pd.DataFrame, own: Collection[str] | None
) -> pd.DataFrame:
    """One row per prompt of the pairs that take part, with its first token and the side its answer stands for."""
    taking_part = pairs[~pairs["pair_id"].isin(set(own))] if own is not None else pairs.iloc[:0]
    first = first_tokens[first_tokens["rank"] == 1]
    parts = []
    for condition in _CONDITIONS:
        mine = first.loc[first["condition"] == condition, ["pair_id", "token_id", "token", "side"]]
        rows = taking_part[["pair_id", "split", f"class_{condition}"]].merge(mine, on="pair_id", validate="one_to_one")
        parts.append(
            pd.DataFrame(
                {
                    "pair_id": rows["pair_id"],
                    "split": rows["split"],
                    "condition": condition,
                    "token_id": rows["token_id"],
                    "token": rows["token"],
                    "covered": rows["side"] != "other",
                    "side": [
                        side_of(circuit, name, condition) if isinstance(name, str) else "other"
                        for name in rows[f"class_{condition}"]
                    ],
                    "answered": [isinstance(name, str) for name in rows[f"class_{condition}"]],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _counts(answers: pd.DataFrame) -> tuple[TokenCount, ...]:
    """First tokens of answers that stand for a side, most frequent first; ties by token id."""
    tally: Counter[tuple[int, str, str]] = Counter(
        (int(token_id), str(token), str(side))
        for token_id, token, side in zip(answers["token_id"], answers["token"], answers["side"], strict=True)
    )
    tokens = {(token_id, token) for token_id, token, _ in tally}
    found = [(*token, tally[*token, "target"], tally[*token, "control"]) for token in tokens]
    found.sort(key=lambda row: (-(row[2] + row[3]), row[0]))
    kept = [_side(token, n_target, n_control) for _, token, n_target, n_control in found]
    for side in _SIDES:
        mine = [i for i, name in enumerate(kept) if name == side]  # in order of their counts
        frequent = [i for i in mine if found[i][2] + found[i][3] >= MIN_ANSWERS]
        for i in set(mine) - set((frequent or mine)[:MAX_STRINGS]):
            kept[i] = "rare"
    return tuple(TokenCount(*row, name) for row, name in zip(found, kept, strict=True))


def _side(token: str, n_target: int, n_control: int) -> Kept:
    if not _writable(token):
        return "unwritable"
    share = n_target / (n_target + n_control)
    return "target" if share >= MIN_PURITY else "control" if 1 - share >= MIN_PURITY else "both"


def _writable(token: str) -> bool:
    """Whether the token's text stands for it: tokens that are a part of a character are shown by their bytes."""
    return bool(token) and "<0x" not in token


def _coverage(answers: pd.DataFrame, covered: pd.Series) -> Coverage:
    n = {c: int((covered & (answers["condition"] == c)).sum()) for c in _CONDITIONS}
    return Coverage(n["original"], n["perturbed"], int(answers["pair_id"].nunique()))


def _note(answers: pd.DataFrame, suggesting: pd.DataFrame, chosen: Mapping[str, Collection[TokenCount]]) -> str:
    """Why nothing can be proposed, or what the proposal rests on."""
    if answers.empty:
        return "Every pair brings target and control strings of its own, which stay as they are."
    if not answers["answered"].any():
        return "This run has no answers to take first tokens from. Run the probe with its answers."
    if suggesting.empty:
        return "No pair of this run belongs to the discovery split, so there is none to take first tokens from."
    missing = [side for side in _SIDES if not chosen[side]]
    if missing:
        n = {side: int((suggesting["side"] == side).sum()) for side in missing}
        seen = " and ".join(f"{plural(n[side], 'answer', ('stands', 'stand'))} for the {side}" for side in missing)
        return (
            f"The answers to the discovery prompts suggest no {' and no '.join(missing)} token: {seen}, and no first "
            "token belongs to such answers alone. Choose other prompts, or give the strings yourself."
        )
    n_pairs = suggesting["pair_id"].nunique()
    return f"Suggested by the answers to {plural(n_pairs, 'discovery pair')}; coverage is counted on the other pairs."
