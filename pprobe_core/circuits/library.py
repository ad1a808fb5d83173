"""Reads the circuits: every *.yaml file in the circuits folder is one circuit."""

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import yaml

from pprobe_core import settings
from pprobe_core.circuits.responses import RULES
from pprobe_core.circuits.schema import Circuit, Outcome, ResponseClass, SetStrings, Side, Structure, SweepDefaults
from pprobe_core.errors import BadRequest

PERTURBATIONS = ("bpe_swap", "given")

_TEXT_FIELDS = (
    "title",
    "description",
    "question",
    "perturbation_text",
    "target_meaning",
    "control_meaning",
    "expected_note",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "perturbation": PERTURBATIONS,
    "expected_structure": get_args(Structure),
    "response_rule": tuple(RULES),
}
_OPTIONAL = ("target_fallback", "per_pair_observable", "same_content", "set_strings", "outcomes", "sweep")
_SWEEP_CHOICES: dict[str, tuple[str, ...]] = {
    "condition": ("original", "perturbed"),
    "position": ("decision", "all"),
    "ranking": ("shared", "magnitude", "ablation", "measured"),
}
_KNOWN = tuple(f.name for f in fields(Circuit) if f.name != "sha256")


def load_circuits(folder: Path | None = None) -> dict[str, Circuit]:
    """All circuits of a folder (default: the ones that come with the product), by id, in the order of their file names.

    Raises BadRequest naming the file and the field when a file does not hold a valid circuit.
    """
    folder = settings.CIRCUITS if folder is None else folder
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise BadRequest(f"No circuit was found in {folder}: a circuit is a .yaml file there (see docs/circuits.md).")
    return {path.stem: read_circuit(path) for path in files}


def load_circuit(circuit_id: str, folder: Path | None = None) -> Circuit:
    """One circuit by its id; BadRequest names the known ones."""
    folder = settings.CIRCUITS if folder is None else folder
    # Compared with the listing, never joined to the folder: an id must not be able to name a file elsewhere.
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if circuit_id not in known:
        raise BadRequest(
            f"There is no circuit called {circuit_id!r}. Choose one of: {', '.join(known) or 'none found'}."
        )
    return read_circuit(known[circuit_id])


def read_circuit(path: Path) -> Circuit:
    """The circuit in one YAML file; `sha256` is over the file's bytes.

    Raises BadRequest with the file, the field and what is accepted.
    """
    try:
        raw = path.read_bytes()
        document = yaml.safe_load(raw.decode("utf-8-sig"))
    except OSError as error:
        raise BadRequest(f"{path.name}: the file cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path.name}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise BadRequest(f"{path.name}: {where}not valid YAML ({problem}).") from None
    if not isinstance(document, dict):
        raise BadRequest(f"{path.name}: expected a mapping of fields such as 'title: ...', found {_kind(document)}.")
    return _validated(path, document, hashlib.sha256(raw).hexdigest())


def _validated(path: Path, document: dict[Any, Any], sha256: str) -> Circuit:
    def wrong(name: str, message: str) -> BadRequest:
        return BadRequest(f"{path.name}: field '{name}' {message}.")

    def text(name: str) -> str:
        value = document[name]
        if not isinstance(value, str) or not value.strip():
            raise wrong(name, f"must be a text that is not empty, found {_kind(value)}")
        return " ".join(value.split())

    def strings(name: str) -> tuple[str, ...]:
        value = document.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise wrong(name, "must be a list of texts that are not empty; put quotes around numbers, yes and no")
        if len(set(value)) != len(value):
            twice = next(item for item in value if value.count(item) > 1)
            raise wrong(name, f"lists {twice!r} twice; each string may stand once")
        return tuple(value)

    unknown = [str(key) for key in document if key not in _KNOWN]
    if unknown:
        raise wrong(unknown[0], f"is not known; accepted are {', '.join(_KNOWN)}")
    missing = [name for name in _KNOWN if name not in document and name not in _OPTIONAL]
    if missing:
        raise wrong(missing[0], "is missing")
    if document["circuit_id"] != path.stem:
        raise wrong(
            "circuit_id", f"must equal the file's name without .yaml ({path.stem!r}), found {document['circuit_id']!r}"
        )
    for name, accepted in _CHOICES.items():
        if document[name] not in accepted:
            raise wrong(name, f"must be one of {', '.join(accepted)}, found {document[name]!r}")
    flags: dict[str, Any] = {name: document.get(name, False) for name in ("per_pair_observable", "same_content")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise wrong(name, f"must be true or false, found {value!r}")
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
        circuit_id=path.stem,
        **texts,
        perturbation=document["perturbation"],
        target=target,
        control=control,
        **flags,
        expected_structure=document["expected_structure"],
        response_rule=document["response_rule"],
        response_classes=_response_classes(document, wrong),
        set_strings=_set_strings(document, per_pair, wrong),
        outcomes=_outcomes(document, wrong),
        sweep=_sweep_defaults(document, wrong),
        target_fallback=fallback,
        sha256=sha256,
    )


def _response_classes(document: dict[Any, Any], wrong: Any) -> tuple[ResponseClass, ...]:
    """The circuit's classes: exactly those its rule can return, each with a title and the side it stands for."""
    rows = document["response_classes"]
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and set(row) == {"name", "title", "side"} for row in rows
    ):
        raise wrong("response_classes", "must be a list of entries with the three keys name, title and side")
    sides: tuple[Side, ...] = get_args(Side)
    for row in rows:
        if row["side"] not in sides:
            raise wrong(
                "response_classes",
                f"has a class {row['name']!r} with side {row['side']!r}; accepted: {', '.join(sides)}",
            )
        if not isinstance(row["title"], str) or not row["title"].strip():
            raise wrong("response_classes", f"has a class {row['name']!r} without a title")
    rule = document["response_rule"]
    names, accepted = [row["name"] for row in rows], RULES[rule].classes
    if sorted(map(str, names)) != sorted(accepted):
        raise wrong(
            "response_classes",
            f"must name each class of the rule {rule!r} once ({', '.join(accepted)}), "
            f"found {', '.join(map(str, names))}",
        )
    return tuple(ResponseClass(row["name"], row["title"], row["side"]) for row in rows)


def _set_strings(document: dict[Any, Any], per_pair: bool, wrong: Any) -> tuple[SetStrings, ...]:
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


def _outcomes(document: dict[Any, Any], wrong: Any) -> tuple[Outcome, ...]:
    """The rates a sweep reports beside the classes: each names classes of the circuit's rule."""
    rows = document.get("outcomes") or []
    known = RULES[document["response_rule"]].classes
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


def _sweep_defaults(document: dict[Any, Any], wrong: Any) -> SweepDefaults:
    values = document.get("sweep") or {}
    if not isinstance(values, dict) or any(key not in _SWEEP_CHOICES for key in values):
        raise wrong("sweep", f"must be a mapping with some of the keys {', '.join(_SWEEP_CHOICES)}")
    for key, value in values.items():
        if value not in _SWEEP_CHOICES[key]:
            raise wrong("sweep", f"has {key} {value!r}; accepted: {', '.join(_SWEEP_CHOICES[key])}")
    return SweepDefaults(**values)


def _kind(value: object) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return names.get(type(value), f"a {type(value).__name__}")
