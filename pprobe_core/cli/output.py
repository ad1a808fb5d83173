"""What the command line prints: reports and JSON on stdout, progress (on a terminal only) and errors on stderr."""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pprobe_core.errors import BadRequest
from pprobe_core.store.plain import plain

STDOUT = "-"


def quiet_libraries() -> None:
    """No progress bars, notices or warnings of libraries: stdout carries the answer, stderr our own sentences."""
    warnings.filterwarnings("ignore")
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "critical",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows "?"


def say(text: str = "") -> None:
    """One piece of the answer, on stdout."""
    sys.stdout.write(text + "\n")


def fail(sentence: str, code: int) -> int:
    """An error as one line on stderr; returns the exit code."""
    progress("")
    sys.stderr.write(" ".join(sentence.split()) + "\n")
    sys.stderr.flush()
    return code


def progress(text: str) -> None:
    """Overwrite the progress line; silent unless stderr is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


def write_answer(value: Any, target: str) -> None:
    """A value as JSON to stdout ("-") or to a file. Raises BadRequest when the file cannot be written."""
    if target == STDOUT:
        # ASCII only, so that no terminal or pipe encoding can break it.
        say(json.dumps(plain(value), ensure_ascii=True, allow_nan=False, indent=1))
        return
    from pprobe_core.report import write_json

    try:
        write_json(value, Path(target).expanduser())
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(
            f"The JSON cannot be written to {target} ({reason}). Name another file, or - for stdout."
        ) from error


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Rows as aligned columns, numbers to the right; empty where a value is None."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(header))
    ]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), *(line(row) for row in cells)])


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def discard_stdout() -> None:
    """Point stdout to nowhere, so that the interpreter's last flush finds no broken pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
