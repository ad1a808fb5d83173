"""Reads the circuits: every *.yaml file in the circuits folder is one, and so is every one in the user's own folder.

An own circuit is named in requests by `id@version`, version being the first digits of the SHA-256 of its file: a user
may change it, and what was measured with the former version must keep its meaning. `versions/` keeps the bytes of every
version that was saved or checked; `drafts/` what is not good enough yet. Neither stands in a picker.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml

from pprobe_core import settings
from pprobe_core.circuits import by_example
from pprobe_core.circuits.responses import ALWAYS_THERE, BY_EXAMPLE, RULES
from pprobe_core.circuits.schema import (
    VERSION_DIGITS,
    Circuit,
    Outcome,
    ResponseClass,
    SetStrings,
    Side,
    Structure,
    SweepDefaults,
)
from pprobe_core.errors import BadRequest

PERTURBATIONS = ("bpe_swap", "given")
RESPONSE_RULES = (*RULES, BY_EXAMPLE)
MAX_FILE_BYTES = 200_000
MAX_TITLE_CHARS, MAX_TEXT_CHARS, MAX_STRING_CHARS, MAX_STRINGS = 80, 1_500, 100, 50
OWN_ID = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)

_TEXT_FIELDS = (
    "title",
    "description",
    "question",
    "perturbation_text",
    "target_meaning",
    "control_meaning",
)
_CHOICES: dict[str, tuple[str, ...]] = {"perturbation": PERTURBATIONS, "response_rule": RESPONSE_RULES}
_OPTIONAL = (
    "target_fallback",
    "per_pair_observable",
    "same_content",
    "set_strings",
    "outcomes",
    "sweep",
    "expected_structure",
    "expected_note",
)
_SWEEP_CHOICES: dict[str, tuple[str, ...]] = {
    "condition": ("original", "perturbed"),
    "position": ("decision", "all"),
    "ranking": ("shared", "magnitude", "ablation", "measured"),
}
FIELDS = tuple(f.name for f in fields(Circuit) if f.name not in ("sha256", "own"))
_ALWAYS_THERE_TITLES = {by_example.OTHER: "Like none of the examples", "broken": "Empty or broken"}

Wrong = Callable[[str, str], BadRequest]


def own_folder() -> Path:
    """Where the user's own circuits lie; it may not exist yet."""
    return settings.cache_dir() / "circuits"


def load_circuits(folder: Path | None = None) -> dict[str, Circuit]:
    """All circuits of a folder, by id, in the order of their file names.

    Default: the ones that come with the product, then the user's own (`own` is True). An own file that cannot be read
    is left out (`unreadable` says why); it must not keep the others from being used. Raises BadRequest naming the file
    and the field when another file does not hold a valid circuit.
    """
    if folder is None:
        return load_circuits(settings.CIRCUITS) | _own_circuits()[0]
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise BadRequest(f"No circuit was found in {folder}: a circuit is a .yaml file there (see docs/circuits.md).")
    return {path.stem: read_circuit(path) for path in files}


def unreadable() -> dict[str, str]:
    """Own circuit files that are left out: name of the file -> what is wrong with it."""
    return _own_circuits()[1]


def _own_circuits() -> tuple[dict[str, Circuit], dict[str, str]]:
    found: dict[str, Circuit] = {}
    wrong: dict[str, str] = {}
    for path in sorted(own_folder().glob("*.yaml")):
        try:
            found[path.stem] = read_circuit(path, own=True)
        except BadRequest as error:
            wrong[path.name] = str(error)
    return found, wrong


def load_circuit(circuit_id: str, folder: Path | None = None) -> Circuit:
    """One circuit by its id, or an own one by `id@version`; BadRequest names the known ones."""
    # Compared with the listing, never joined to the folder: an id must not be able to name a file elsewhere.
    known = {path.stem: path for path in sorted((settings.CIRCUITS if folder is None else folder).glob("*.yaml"))}
    if circuit_id in known:
        return read_circuit(known[circuit_id])
    own = {path.stem: path for path in sorted(own_folder().glob("*.yaml"))} if folder is None else {}
    name, _, version = circuit_id.partition("@")
    if name in own:
        circuit = read_circuit(own[name], own=True)
        if not version or circuit.sha256[:VERSION_DIGITS] == version:
            return circuit
    if version and folder is None:
        kept = {path.stem: path for path in (own_folder() / "versions").glob("*.yaml")}
        if circuit_id in kept:
            return read_circuit(kept[circuit_id], own=True, circuit_id=name)
        raise BadRequest(
            f"The version {version[:VERSION_DIGITS]} of the circuit {name[:60]!r} is not on this computer any more, or "
            "never was. Import its file, or use the circuit as it is now."
        )
    raise BadRequest(
        f"There is no circuit called {circuit_id[:60]!r}. Choose one of: {', '.join((*known, *own)) or 'none found'}."
    )


def read_circuit(path: Path, *, own: bool = False, circuit_id: str | None = None) -> Circuit:
    """The circuit in one YAML file; `circuit_id` is the id it must name, default the file's name without .yaml.

    Raises BadRequest with the file, the field and what is accepted.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadRequest(_too_large(path.name))
        raw = path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path.name}: the file cannot be read ({error.strerror}).") from None
    return parse_circuit(raw, path.name, own=own, circuit_id=path.stem if circuit_id is None else circuit_id)


@lru_cache(maxsize=64)  # by its bytes: a comparison asks for the same few files hundreds of times
def parse_circuit(raw: bytes, name: str, *, own: bool, circuit_id: str | None) -> Circuit:
    """The circuit that the bytes of a YAML file hold; `sha256` is over them. `name` stands in messages.

    `circuit_id`: the id the file must name, None for whatever it names. An own id is made of small letters, digits and
    _, and is none of the product's. Raises BadRequest with the field and what is accepted.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise BadRequest(_too_large(name))
    try:
        document = yaml.load(raw.decode("utf-8-sig"), _Loader)  # noqa: S506  (a SafeLoader that accepts less)
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    except RecursionError:
        raise BadRequest(f"{name}: it is nested too deeply. A circuit is a short list of fields.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise BadRequest(f"{name}: {where}not valid YAML ({problem}).") from None
    if not isinstance(document, dict):
        raise BadRequest(f"{name}: expected a mapping of fields such as 'title: ...', found {_kind(document)}.")
    return _validated(name, document, hashlib.sha256(raw).hexdigest(), own, circuit_id)


def _too_large(name: str) -> str:
    return f"{name}: the file is too large; a circuit has at most {MAX_FILE_BYTES // 1000} kB."


class _Loader(yaml.SafeLoader):
    """Plain values only, without references: they let a short file stand for a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "references (*name) are not accepted", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the field {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _validated(file: str, document: dict[Any, Any], sha256: str, own: bool, circuit_id: str | None) -> Circuit:
    def wrong(name: str, message: str) -> BadRequest:
        return BadRequest(f"{file}: field '{name[:40]}' {message}.")

    def text(name: str) -> str:
        value = document[name]
        if not isinstance(value, str) or not value.strip():
            raise wrong(name, f"must be a text that is not empty, found {_kind(value)}")
        longest = MAX_TITLE_CHARS if name == "title" else MAX_TEXT_CHARS
        if len(value) > longest:
            raise wrong(name, f"has {len(value):,} characters, at most {longest:,} are accepted")
        check_characters(name, value)
        return " ".join(value.split())

    def check_characters(name: str, *values: str) -> None:
        if any(_is_control(c) for value in values for c in value):
            raise wrong(name, "holds a control character, which no text needs; remove it")

    def strings(name: str) -> tuple[str, ...]:
        value = document.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise wrong(name, "must be a list of texts that are not empty; put quotes around numbers, yes and no")
        if len(set(value)) != len(value):
            twice = next(item for item in value if value.count(item) > 1)
            raise wrong(name, f"lists {twice!r} twice; each string may stand once")
        if len(value) > MAX_STRINGS or any(len(item) > MAX_STRING_CHARS for item in value):
            raise wrong(name, f"may list {MAX_STRINGS} strings of {MAX_STRING_CHARS} characters at most")
        check_characters(name, *value)
        return tuple(value)

    unknown = [str(key) for key in document if key not in FIELDS]
    if unknown:
        raise wrong(unknown[0], f"is not known; accepted are {', '.join(FIELDS)}")
    missing = [name for name in FIELDS if name not in document and name not in _OPTIONAL]
    if missing:
        raise wrong(missing[0], "is missing")
    named = _own_id(document["circuit_id"], wrong) if own else document["circuit_id"]
    if circuit_id is not None and named != circuit_id:
        raise wrong("circuit_id", f"must equal the file's name without .yaml ({circuit_id!r}), found {_shown(named)}")
    for name, accepted in _CHOICES.items():
        if document[name] not in accepted:
            raise wrong(name, f"must be one of {', '.join(accepted)}, found {_shown(document[name])}")
    structures = (*get_args(Structure), None)
    if document.get("expected_structure") not in structures:
        found = _shown(document["expected_structure"])
        raise wrong("expected_structure", f"must be one of {', '.join(structures[:-1])}, or left out, found {found}")
    note = text("expected_note") if document.get("expected_note") else ""
    flags: dict[str, Any] = {name: document.get(name, False) for name in ("per_pair_observable", "same_content")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise wrong(name, f"must be true or false, found {_shown(value)}")
    per_pair = flags["per_pair_observable"]
    target, control, fallback = strings("target"), strings("control"), strings("target_fallback")
    if per_pair and (target or control or fallback):
        raise wrong(
            "target", "must be an empty list where per_pair_observable is true: each pair brings its own strings"
        )
    if not per_pair:
        for name, side in (("target", target), ("control", control)):
            if not side:
                raise wrong(name, "must list at least one string where per_pair_observable is false")
        both = [item for item in (*target, *fallback) if item in control]
        if both:
            raise wrong("control", f"lists {both[0]!r}, which stands in target too; a string belongs to one side")
    texts: dict[str, Any] = {name: text(name) for name in _TEXT_FIELDS}
    return Circuit(
        circuit_id=named,
        **texts,
        perturbation=document["perturbation"],
        target=target,
        control=control,
        **flags,
        expected_structure=document.get("expected_structure"),
        expected_note=note,
        response_rule=document["response_rule"],
        response_classes=(classes := _response_classes(document, wrong)),
        set_strings=_set_strings(document, per_pair, wrong),
        outcomes=_outcomes(document, classes, wrong),
        sweep=_sweep_defaults(document, wrong),
        target_fallback=fallback,
        sha256=sha256,
        own=own,
    )


def _own_id(value: object, wrong: Wrong) -> str:
    """The id of an own circuit: a name that is a file's on every system and none of the product's."""
    if not isinstance(value, str) or not OWN_ID.fullmatch(value):
        raise wrong(
            "circuit_id", f"must be 1 to 40 small letters, digits and _, beginning with a letter, found {_shown(value)}"
        )
    if (settings.CIRCUITS / f"{value}.yaml").exists():
        raise wrong("circuit_id", f"is {value!r}, a circuit that comes with pprobe; choose another id")
    return value


def _response_classes(document: dict[Any, Any], wrong: Wrong) -> tuple[ResponseClass, ...]:
    """The circuit's classes: exactly those its rule can return, each with a title and the side it stands for."""
    rows, made = document["response_classes"], document["response_rule"] == BY_EXAMPLE
    keys = {"name", "title", "side", "examples"} if made else {"name", "title", "side"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) == keys for row in rows):
        named = "four keys name, title, side and examples" if made else "three keys name, title and side"
        raise wrong("response_classes", f"must be a list of entries with the {named}")
    sides: tuple[Side, ...] = get_args(Side)
    for row in rows:
        if row["side"] not in sides:
            raise wrong(
                "response_classes",
                f"has a class {_shown(row['name'])} with side {_shown(row['side'])}; accepted: {', '.join(sides)}",
            )
        if not isinstance(row["title"], str) or not row["title"].strip() or len(row["title"]) > MAX_TITLE_CHARS:
            raise wrong(
                "response_classes",
                f"has a class {_shown(row['name'])} without a title of 1 to {MAX_TITLE_CHARS} letters",
            )
    rule = document["response_rule"]
    if made:
        return _made_classes(rows, wrong)
    names, accepted = [row["name"] for row in rows], RULES[rule].classes
    if sorted(map(str, names)) != sorted(accepted):
        raise wrong(
            "response_classes",
            f"must name each class of the rule {rule!r} once ({', '.join(accepted)}), "
            f"found {', '.join(map(str, names))}",
        )
    return tuple(ResponseClass(row["name"], row["title"], row["side"]) for row in rows)


def _made_classes(rows: list[dict[str, Any]], wrong: Wrong) -> tuple[ResponseClass, ...]:
    """Classes made by example, and the three that an answer can always fall into."""
    classes: list[ResponseClass] = []
    owner: dict[tuple[str, ...], str] = {}
    for row in rows:
        name, examples = row["name"], row["examples"]
        if not isinstance(name, str) or not OWN_ID.fullmatch(name) or name in ALWAYS_THERE:
            raise wrong(
                "response_classes",
                f"has a class named {_shown(name)}; a name is 1 to 40 small letters, digits and _, and none of "
                f"{', '.join(ALWAYS_THERE)}, which are always there",
            )
        if any(name == known.name for known in classes):
            raise wrong("response_classes", f"names the class {name!r} twice")
        if (
            not isinstance(examples, list)
            or not 1 <= len(examples) <= by_example.MAX_EXAMPLES
            or not all(isinstance(e, str) and 0 < len(e) <= by_example.MAX_EXAMPLE_CHARS for e in examples)
        ):
            raise wrong(
                "response_classes",
                f"needs 1 to {by_example.MAX_EXAMPLES} examples of the class {name!r}, each a text of at most "
                f"{by_example.MAX_EXAMPLE_CHARS:,} characters; quote numbers, yes and no",
            )
        for example in examples:
            read = by_example.opening(example)
            if not read or any(_is_control(c) for c in example):
                raise wrong(
                    "response_classes", f"has an example of {name!r} without a letter or with a control character"
                )
            if owner.setdefault(read, name) != name:
                raise wrong(
                    "response_classes",
                    f"has the example {_shown(example)} in {owner[read]!r} and in {name!r}; it can stand for one class",
                )
        classes.append(ResponseClass(name, row["title"].strip(), row["side"], tuple(examples)))
    for side in ("target", "control"):
        if not any(c.side == side for c in classes):
            raise wrong("response_classes", f"needs a class that stands for the {side} side")
    return (
        *classes,
        *(ResponseClass(name, _ALWAYS_THERE_TITLES.get(name, "Still thinking"), "other") for name in ALWAYS_THERE),
    )


def _set_strings(document: dict[Any, Any], per_pair: bool, wrong: Wrong) -> tuple[SetStrings, ...]:
    """First-token strings of single prompt sets, checked as the circuit's own are."""
    sets = document.get("set_strings") or {}
    if not isinstance(sets, dict) or not all(
        isinstance(value, dict) and set(value) == {"target", "control"} for value in sets.values()
    ):
        raise wrong("set_strings", "must map names of prompt sets to the two keys target and control")
    if sets and per_pair:
        raise wrong("set_strings", "must be left out where per_pair_observable is true")
    found = []
    for name, value in sets.items():
        for side, strings in value.items():
            if not isinstance(strings, list) or not strings or not all(isinstance(s, str) and s for s in strings):
                raise wrong("set_strings", f"of {name!r} has a {side} that is no list of texts; quote numbers")
            if len(set(strings)) != len(strings):
                raise wrong("set_strings", f"of {name!r} lists a string twice in {side}")
        if set(value["target"]) & set(value["control"]):
            raise wrong("set_strings", f"of {name!r} has a string on both sides; a string belongs to one side")
        found.append(SetStrings(str(name), tuple(value["target"]), tuple(value["control"])))
    return tuple(found)


def _outcomes(document: dict[Any, Any], of_circuit: tuple[ResponseClass, ...], wrong: Wrong) -> tuple[Outcome, ...]:
    """The rates a sweep reports beside the classes: each names classes of the circuit."""
    rows = document.get("outcomes") or []
    known = [c.name for c in of_circuit]
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"name", "title", "classes"} <= set(row) <= {"name", "title", "classes", "prompts"}
        for row in rows
    ):
        raise wrong("outcomes", "must be a list of entries with the keys name, title, classes and optionally prompts")
    found = []
    for row in rows:
        if not all(isinstance(row[key], str) and row[key].strip() for key in ("name", "title")):
            raise wrong("outcomes", "has an entry whose name or title is no text")
        classes = row["classes"]
        if not isinstance(classes, list) or not classes or any(item not in known for item in classes):
            raise wrong("outcomes", f"has {row['name']!r} with classes {classes!r}; accepted: {', '.join(known)}")
        prompts = row.get("prompts", "all")
        if prompts not in ("all", "multi_turn"):
            raise wrong("outcomes", f"has {row['name']!r} with prompts {prompts!r}; accepted: all, multi_turn")
        found.append(Outcome(row["name"], row["title"], tuple(classes), prompts))
    return tuple(found)


def _sweep_defaults(document: dict[Any, Any], wrong: Wrong) -> SweepDefaults:
    values = document.get("sweep") or {}
    if not isinstance(values, dict) or any(key not in _SWEEP_CHOICES for key in values):
        raise wrong("sweep", f"must be a mapping with some of the keys {', '.join(_SWEEP_CHOICES)}")
    for key, value in values.items():
        if value not in _SWEEP_CHOICES[key]:
            raise wrong("sweep", f"has {key} {value!r}; accepted: {', '.join(_SWEEP_CHOICES[key])}")
    return SweepDefaults(**values)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"


def _shown(value: object) -> str:
    """A value as it can stand in a sentence."""
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else _kind(value)


def _kind(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return names.get(type(value), f"a {type(value).__name__}")
