"""Numbers beside their nouns, in the sentences of reports, errors and pages."""

import re
from collections.abc import Mapping


def plural(n: int, noun: str, verb: tuple[str, str] | None = None, *, suffix: str = "s") -> str:
    """ "1 pair", "1,200 pairs"; with both forms of a verb "1 pair is", "2 pairs are"."""
    text = f"{n:,} {noun}{'' if n == 1 else suffix}"
    return text if verb is None else f"{text} {verb[n != 1]}"


def with_minus(text: str) -> str:
    """The minus sign before negative numbers of a sentence, where a hyphen was stored: `from −10.94 to +2.10`."""
    return re.sub(r"(?<![\w.−-])-(?=\d)", "−", text)


def gigabytes(n_bytes: float) -> str:
    """A size for people: 1.5 GB, 87 MB."""
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 / 10 else f"{n_bytes / 2**20:.0f} MB"


def parts_of_bytes(done: int, total: int) -> str:
    """How far something has come, in one unit: 1.2 of 3.4 GB."""
    unit, size = ("GB", 2**30) if total >= 2**30 / 10 else ("MB", 2**20)
    return f"{done / size:.1f} of {total / size:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time span for people, never 0: 5 s, 12 min, 1 h 20 min."""
    whole = max(round(seconds), 1)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def verified(check: Mapping[str, float] | None) -> str:
    """ "structure verified: error 3e-07" from the self-check stored with a run; "" where a run has none.

    The largest relative error of all parts that were recomputed when the model was loaded: feed-forward, layers, norms,
    logits.
    """
    errors = [value for name, value in (check or {}).items() if name.endswith("_error") and value is not None]
    if not errors:
        return ""
    return f"structure verified: error {max(errors):.0e}" if max(errors) else "structure verified: no error"
