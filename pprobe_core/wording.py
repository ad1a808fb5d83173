"""Numbers beside their nouns, in the sentences of reports, errors and pages."""


def plural(n: int, noun: str, verb: tuple[str, str] | None = None, *, suffix: str = "s") -> str:
    """ "1 pair", "1,200 pairs"; with both forms of a verb "1 pair is", "2 pairs are"."""
    text = f"{n:,} {noun}{'' if n == 1 else suffix}"
    return text if verb is None else f"{text} {verb[n != 1]}"
