"""What the benches share: their options and how they hand in their numbers."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser named by the first line of the bench, with --json; a bench adds its own options."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", nargs="?", const="-", help="file for the numbers, or - (or nothing) for the output")
    return parser


def handed_in(numbers: Mapping[str, Any], where: str | None) -> bool:
    """Write the numbers as one JSON object where --json says; True when that was the output, which then is done."""
    text = json.dumps(numbers)
    if where == "-":
        print(text)
    elif where:
        Path(where).write_text(text, "utf-8")
    return where == "-"


def table(
    rows: Sequence[Mapping[str, Any]], first: str, columns: Mapping[str, tuple[str, str]], width: int = 11
) -> str:
    """Rows as aligned text: the column `first` at the left, then title -> (key, format); "–" where a row lacks it."""
    left = max(len(first), *(len(str(row[first])) for row in rows)) + 2
    lines = [f"{first:{left}}" + "".join(f"{title:>11}" for title in columns)]
    for row in rows:
        cells = ("–" if row.get(key) is None else format(row[key], form) for key, form in columns.values())
        lines.append(f"{row[first]!s:{left}}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)
