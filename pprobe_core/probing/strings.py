"""Target and control strings as a person writes them in one line, and what is accepted of a request's."""

import re
from collections.abc import Sequence

from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest

SEPARATOR = "|"
MAX_STRINGS = 50  # per side
MAX_CHARS = 100  # of one string; a token is shorter
_ESCAPES = {"\\": "\\\\", "|": "\\|", "\n": "\\n"}
_WRITTEN = {written: character for character, written in _ESCAPES.items()}


def parse_strings(text: str) -> tuple[str, ...]:
    """The strings of a line such as "Sure|Here": spaces count, empty ones do not; \\| is a bar, \\n a line break."""
    pieces = re.split(r"(\\\\|\\\||\\n|\|)", text)
    strings = [""]
    for piece in pieces:
        if piece == SEPARATOR:
            strings.append("")
        else:
            strings[-1] += _WRITTEN.get(piece, piece)
    return tuple(string for string in strings if string)


def written_strings(strings: Sequence[str]) -> str:
    """The line that parse_strings reads as these strings."""
    return SEPARATOR.join("".join(_ESCAPES.get(c, c) for c in string) for string in strings)


def check_strings(circuit: Circuit, target: Sequence[str], control: Sequence[str]) -> None:
    """Raises BadRequest when strings in place of the circuit's cannot be used, as far as that shows without a model."""
    if not target and not control:
        return
    if circuit.per_pair_observable:
        raise BadRequest(
            f"In the circuit {circuit.circuit_id!r} every prompt pair brings target and control strings of its own. "
            "Leave target and control out, or put other strings into a prompt file."
        )
    if not target or not control:
        missing, given = ("target", "control") if not target else ("control", "target")
        raise BadRequest(f"There are {given} strings and no {missing} strings. Give both, or neither.")
    for side, strings in (("target", target), ("control", control)):
        if len(strings) > MAX_STRINGS:
            raise BadRequest(f"There are {len(strings)} {side} strings; at most {MAX_STRINGS} are accepted.")
        for string in strings:
            if not string or len(string) > MAX_CHARS:
                raise BadRequest(
                    f"A {side} string has {len(string)} characters; from 1 to {MAX_CHARS} are accepted. Give single "
                    f"tokens, with {SEPARATOR} between them."
                )
            if strings.count(string) > 1:
                raise BadRequest(f"The {side} string {string!r} stands there twice. Give each string once.")
    both = [string for string in target if string in control]
    if both:
        raise BadRequest(f"The string {both[0]!r} is given for both sides. A string belongs to one side.")
