"""Published prompt sets that can be fetched on request, each at one commit and checked by its SHA-256."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pprobe_core import settings
from pprobe_core.circuits import fetching
from pprobe_core.circuits.importing import Table, read_table
from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.own_sets import Origin, OwnSet, add_set, write_whole
from pprobe_core.circuits.pairing import Columns, Pairs, interleaved, make_pairs
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest


@dataclass(frozen=True)
class Source:
    """Where a set's file is published: at one commit."""

    file: str
    revision: str
    github: str = ""
    hub: str = ""

    @property
    def label(self) -> str:
        """The source as a person reads it."""
        place = f"github.com/{self.github}" if self.github else f"{self.hub} on the hub"
        return f"{place} @ {self.revision[:12]}, {self.file}"


@dataclass(frozen=True)
class Fit:
    """How a set's columns make pairs of one circuit, and what to know about it."""

    columns: Columns
    note: str = ""


@dataclass(frozen=True)
class KnownSet:
    """A published set; `sha256` is that of its file."""

    set_id: str
    title: str
    about: str
    licence: str
    paper: str
    source: Source
    sha256: str
    n_rows: int
    columns: tuple[str, ...]
    fits: Mapping[str, Fit]  # by circuit
    no_pairs: str = ""  # why it makes no pairs by itself
    only: Mapping[str, str] = field(default_factory=dict)
    extract: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # new column: (from column, pattern)


@dataclass(frozen=True)
class Recipe:
    """One set mixed from several: parts are (set, number of prompts, column with the prompt)."""

    recipe_id: str
    title: str
    circuit: str
    about: str
    paper: str
    note: str
    perturbed: str
    parts: tuple[tuple[str, int, str], ...]

    @property
    def n_pairs(self) -> int:
        """Pairs of the whole mix."""
        return sum(n for _, n, _ in self.parts)


@dataclass(frozen=True)
class Fetched:
    """A known set's file on this computer: its table with the rows and columns in use; `url` "" when it was given."""

    table: Table
    url: str
    check: str  # one sentence


def known_sets() -> dict[str, KnownSet]:
    """All known sets by id."""
    return _catalogue()[0]


def recipes() -> dict[str, Recipe]:
    """All recipes by id."""
    return _catalogue()[1]


def find_known(set_id: str) -> KnownSet:
    """A known set by its id; BadRequest names the known ones."""
    if set_id not in known_sets():
        raise BadRequest(f"There is no known set {set_id!r}. Known are {', '.join(known_sets())}.")
    return known_sets()[set_id]


@cache
def _catalogue() -> tuple[dict[str, KnownSet], dict[str, Recipe]]:
    document = yaml.safe_load((Path(__file__).with_name("published") / "known_sets.yaml").read_text("utf-8"))
    sets = {}
    for row in document["sets"]:
        fits = {
            c: Fit(Columns(**fit["columns"]), " ".join(fit.get("note", "").split()))
            for c, fit in row.get("fits", {}).items()
        }
        sets[row["id"]] = KnownSet(
            set_id=row["id"],
            **{name: " ".join(row[name].split()) for name in ("title", "about", "licence", "paper")},
            source=Source(**row["source"]),
            sha256=row["sha256"],
            n_rows=row["rows"],
            columns=tuple(row["columns"]),
            fits=fits,
            no_pairs=" ".join(row.get("no_pairs", "").split()),
            only=row.get("only", {}),
            extract={name: (made["from"], made["pattern"]) for name, made in row.get("extract", {}).items()},
        )
    mixes = {
        row["id"]: Recipe(
            recipe_id=row["id"],
            circuit=row["circuit"],
            **{name: " ".join(row[name].split()) for name in ("title", "about", "paper", "note")},
            perturbed=row["perturbed"],
            parts=tuple((part["set"], part["n"], part["prompt"]) for part in row["parts"]),
        )
        for row in document["recipes"]
    }
    return sets, mixes


# The file ----------------------------------------------------------------------------------------------------------


def here(known: KnownSet) -> bool:
    """Whether the set's file was fetched or uploaded before, so that no network is needed."""
    return _file(known).is_file()


def fetch(known: KnownSet, *, github: str = fetching.GITHUB, hub: str | None = None) -> Fetched:
    """The set's table, from this computer when it is here whole, else downloaded at its commit.

    Raises BadRequest when it cannot be reached, when its bytes are not those of the catalogue, or are no such table.
    """
    source = known.source
    if source.github:
        url = fetching.github_url(source.github, source.revision, source.file, github)
    else:
        url = fetching.hub_url(source.hub, source.revision, source.file, hub)
    if here(known):
        raw = _file(known).read_bytes()
        if _sha256(raw) == known.sha256:
            return _checked(known, raw, url)
    return accept(known, fetching.download(url, with_hub_token=bool(source.hub)), url)


def accept(known: KnownSet, raw: bytes, url: str = "") -> Fetched:
    """Check that a file's bytes are the set's, keep them, and return the table. Raises BadRequest."""
    fetched = _checked(known, raw, url)
    write_whole(_file(known), raw)
    return fetched


def recognise(raw: bytes) -> KnownSet | None:
    """The known set whose file these bytes are, if any."""
    return next((known for known in known_sets().values() if known.sha256 == _sha256(raw)), None)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _checked(known: KnownSet, raw: bytes, url: str) -> Fetched:
    if (sha256 := _sha256(raw)) != known.sha256:
        raise BadRequest(
            f"{known.title}: the file's SHA-256 is {sha256[:12]}…, but {known.sha256[:12]}… is in this catalogue. "
            "It was not used. Try again later; or look at the file, and add it as prompts of your own."
        )
    table = read_table(Path(known.source.file).name, raw)
    missing = [name for name in known.columns if name not in table.columns]
    if missing:
        raise BadRequest(
            f"{known.title}: the file has no column {missing[0]!r}, so it is not the one of this catalogue. Found: "
            f"{', '.join(table.columns[:12])}."
        )
    check = f"The file's SHA-256 is the one in this catalogue ({known.sha256[:12]}…)."
    n_rows = len(table.rows) + table.n_more
    if n_rows != known.n_rows:
        check += f" It has {n_rows:,} rows; {known.n_rows:,} were expected."
    return Fetched(_used(known, table), url, check)


def _used(known: KnownSet, table: Table) -> Table:
    """The rows in use, with the columns that are made from others."""
    used = [(n, r) for n, r in table.numbered() if all(r.get(name) == value for name, value in known.only.items())]
    rows = [row for _, row in used]
    columns = table.columns
    for name, (column, pattern) in known.extract.items():
        found = [re.search(pattern, str(row.get(column) or ""), re.MULTILINE) for row in rows]
        rows = [{**row, name: match[1] if match else None} for row, match in zip(rows, found, strict=True)]
        columns = (*columns, name)
    return replace(table, rows=tuple(rows), columns=columns, numbers=tuple(number for number, _ in used))


def _file(known: KnownSet) -> Path:
    return settings.cache_dir() / "known_sets" / known.set_id / Path(known.source.file).name


# Sets of one's own from them ---------------------------------------------------------------------------------------


def fit_of(known: KnownSet, circuit_id: str | None) -> tuple[Circuit, Fit]:
    """The circuit (default: the first one it fits) and how the set makes its pairs. Raises BadRequest with why not."""
    if circuit_id is None and known.fits:
        circuit_id = next(iter(known.fits))
    if circuit_id is None or circuit_id not in known.fits:
        fitting = f"It fits {', '.join(known.fits)}." if known.fits else known.no_pairs
        raise BadRequest(
            f"{known.title} makes no pairs {f'for {circuit_id}' if circuit_id else 'by itself'}. {fitting}"
        )
    return load_circuit(circuit_id), known.fits[circuit_id]


def origin_of(known: KnownSet, fetched: Fetched) -> Origin:
    """Where a fetched set comes from."""
    return Origin("known", known.source.label, known.sha256, known.licence, fetched.url)


def add_known(set_id: str, circuit_id: str | None = None, **bases: Any) -> OwnSet:
    """Fetch a known set and store its pairs for a circuit as one of the user's own sets.

    Raises BadRequest: before anything is fetched for a circuit it does not fit, else what `fetch` raises.
    """
    known = find_known(set_id)
    fit_of(known, circuit_id)
    return keep(known, fetch(known, **bases), circuit_id)


def keep(known: KnownSet, fetched: Fetched, circuit_id: str | None = None) -> OwnSet:
    """Store a known set that is here as one of the user's own sets. Raises BadRequest."""
    circuit, fit = fit_of(known, circuit_id)
    pairs = make_pairs(fetched.table, fit.columns, circuit, prefix=known.set_id)
    pairs = replace(pairs, notes=(*pairs.notes, *filter(None, (fit.note, fetched.check))))
    return add_set(circuit, known.title, pairs, origin_of(known, fetched), fit.columns)


def add_recipe(recipe_id: str, **bases: Any) -> OwnSet:
    """Fetch every part of a recipe and store the mix as one set; a pair's id names the part and its row.

    Raises BadRequest when a part cannot be fetched or has too few prompts.
    """
    recipe = recipes().get(recipe_id)
    if recipe is None:
        raise BadRequest(f"There is no recipe {recipe_id!r}. Known are {', '.join(recipes())}.")
    circuit = load_circuit(recipe.circuit)
    parts, hashes, licences = [], [], []
    for set_id, n, prompt in recipe.parts:
        known = find_known(set_id)
        fetched = fetch(known, **bases)
        columns = Columns(original=f"{{{prompt}}}", perturbed=recipe.perturbed.replace("{prompt}", f"{{{prompt}}}"))
        made = make_pairs(fetched.table, columns, circuit, prefix=set_id, n=n)
        if len(made.lines) < n:
            raise BadRequest(f"{known.title} gives {len(made.lines)} prompts, the recipe needs {n}.")
        parts.append(made)
        hashes.append(f"{set_id} {known.sha256}")
        licences.append(f"{known.title}: {known.licence}")
    left_out: dict[str, tuple[int, ...]] = {}
    for part in parts:
        for reason, rows in part.left_out.items():
            left_out[reason] = left_out.get(reason, ()) + rows
    mixed = Pairs(interleaved(parts), sum(p.n_seen for p in parts), left_out, (recipe.paper, recipe.note))
    digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    source = "recipe: " + ", ".join(f"{n} of {set_id}" for set_id, n, _ in recipe.parts)
    return add_set(circuit, recipe.title, mixed, Origin("recipe", source, digest, "; ".join(licences)))
