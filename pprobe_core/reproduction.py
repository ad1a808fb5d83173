"""A run, a sweep or a comparison as a file that another computer can check: what was asked, on what, what came out.

`reproduce_json` writes it from a results file, `reproduce` computes the same again and `agreement` compares number by
number. Nothing is widened in silence: the tolerances stand in the file, and another processor, device or library is
named beside the result.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pprobe_core import settings
from pprobe_core.circuits.library import load_circuit, own_folder, parse_circuit
from pprobe_core.circuits.prompt_sets import BUILT_IN, is_own, own_file
from pprobe_core.circuits.responses import RULES_VERSION
from pprobe_core.compare_frames import Compared
from pprobe_core.errors import BadRequest, ModelUnavailable
from pprobe_core.interventions.types import SWEEP_VERSION, SweepRequest
from pprobe_core.jobs import Jobs, JobStatus
from pprobe_core.models.catalogue import find_model, split_hub_id
from pprobe_core.models.preflight import downloaded
from pprobe_core.probing.types import ENGINE_VERSION, ProbeRequest, tupled
from pprobe_core.store import Request, Run, Store
from pprobe_core.store.plain import plain
from pprobe_core.wording import plural

FORMAT = "pprobe-reproduce"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 50_000_000
TOP = 50  # neurons of the shared ranking that a file names
# Absolute and relative part of what two computers may differ by: rounding of float32 in another order. Logits of one
# run on two kinds of CPU differ by some 1e-5; a wrong neuron or prompt moves them by tenths.
TOLERANCE: Mapping[str, Any] = {
    "logits": [0.002, 0.001],
    "ratio": [0.002, 0.001],
    "answers": 0.02,  # share of the answers that a near tie may turn; at least one
    "neurons": 2,  # of the first 50
    "rho": 0.01,
}
COLUMNS = ("what", "place", "recorded", "now", "difference", "tolerance", "agrees")
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "python", "platform")


@dataclass(frozen=True)
class Agreement:
    """A result beside the same one computed again.

    rows: what, place (pair, point; "" for the whole), recorded, now, difference (None where they are words), tolerance,
    agrees. `notes` are sentences about what else differs: versions, device.
    """

    title: str
    rows: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every row does."""
        return bool(len(self.rows)) and bool(self.rows["agrees"].all())

    def by_what(self) -> pd.DataFrame:
        """One row per quantity: what, n, n_agree, largest (absolute difference, None for words), tolerance."""
        rows = []
        for what, group in self.rows.groupby("what", sort=False):
            differences = [abs(d) for d in group["difference"] if d is not None]
            tolerances = [t for t in group["tolerance"] if t is not None]
            rows.append(
                (
                    what,
                    len(group),
                    int(group["agrees"].sum()),
                    max(differences) if differences else None,
                    max(tolerances) if tolerances else None,
                )
            )
        columns = ["what", "n", "n_agree", "largest", "tolerance"]
        return pd.DataFrame(
            {name: pd.Series(c, dtype=object) for name, c in zip(columns, zip(*rows, strict=True), strict=True)}
        )

    @property
    def sentence(self) -> str:
        """The result in a sentence."""
        n, agreeing = len(self.rows), int(self.rows["agrees"].sum()) if len(self.rows) else 0
        if self.agrees:
            return f"All {plural(n, 'number')} agree within their tolerance."
        others = "1 does" if n - agreeing == 1 else f"{n - agreeing:,} do"
        return f"{agreeing:,} of {plural(n, 'number')} agree within their tolerance; {others} not."


# ------------------------------------------------------------------------------------------------------- the file


def reproduce_json(store: Store, run_id: str, sweep_id: str | None = None) -> dict[str, Any]:
    """All that is needed to compute a run, or a sweep of it, again elsewhere, with the numbers to meet.

    Holds the circuit's file and the prompt pairs themselves where they do not come with the program. `sha256` is over
    the rest of the document. Raises BadRequest for an unknown run or sweep, or a sweep of another run.
    """
    run = store.run(run_id)
    s = run.summary
    prompts = _prompts(store, run)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "about": "python -m pprobe_core reproduce FILE computes this again and compares it number by number.",
        "what": "run" if sweep_id is None else "sweep",
        "run_id": run_id,
        "request_key": run.request_key,
        "created_at": run.created_at,
        "request": run.request.as_json() | {"prompts": prompts["set"]},  # no folder of this computer
        "model": {
            "id": s.get("model") or run.request.model,
            "revision": s.get("revision"),
            "weights_sha256": s.get("weights_sha256"),
            "config_sha256": s.get("config_sha256"),
            "tokenizer_sha256": s.get("tokenizer_sha256"),
            "dtype": s.get("dtype"),
            "device": s.get("device"),
        },
        "circuit": _circuit(run),
        "prompts": prompts,
        "seed": run.request.seed,
        "versions": {
            "engine": s.get("engine_version", ENGINE_VERSION),
            "sweeps": SWEEP_VERSION,
            "rules": RULES_VERSION,
            **run.environment,
        },
        "tolerance": dict(TOLERANCE),
        "numbers": _run_numbers(store, run),
    }
    if sweep_id is not None:
        sweep = store.sweep(sweep_id)
        if sweep.run_id != run_id:
            raise BadRequest(f"The sweep {sweep_id} belongs to the run {sweep.run_id}, not to {run_id}.")
        document |= {
            "sweep_id": sweep_id,
            "sweep_request": {k: v for k, v in plain(sweep.request).items() if k != "run_id"},
            "sweep_numbers": _sweep_numbers(store, sweep_id),
        }
    document = dict(plain(document))
    return document | {"sha256": document_sha256(document)}


def comparison_json(store: Store, found: Compared) -> dict[str, Any]:
    """Every run and sweep that a comparison has, each as a document of its own, in the comparison's order."""
    parts = [
        reproduce_json(store, str(part.run_id), part.sweep_id)
        for part in found.parts
        if part.state == "done" and part.run_id is not None
    ]
    document = dict(
        plain(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "about": "python -m pprobe_core reproduce FILE computes every part, a run or a sweep, again.",
                "what": "comparison",
                "comparison": found.request,
                "parts": parts,
            }
        )
    )
    return document | {"sha256": document_sha256(document)}


def document_text(document: Mapping[str, Any]) -> str:
    """A document as the text of a file: JSON with one line per entry."""
    lines = (f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """Write a document as a file, its folder too where it is missing. Raises BadRequest when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document_text(document), encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"The file {path} cannot be written ({error.strerror or error}). Name another one.") from error


def document_sha256(document: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a document but its own hash, whatever its layout."""
    values = {name: value for name, value in document.items() if name != "sha256"}
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _circuit(run: Run) -> dict[str, Any]:
    """Which circuit, and its file's text where it is a user's own and still here as the run had it."""
    circuit_id, sha256 = run.request.circuit, run.summary.get("circuit_sha256")
    described: dict[str, Any] = {"id": circuit_id, "sha256": sha256, "yaml": None}
    if (settings.CIRCUITS / f"{circuit_id}.yaml").is_file():
        return described
    for file in (own_folder() / "versions" / f"{circuit_id}.yaml", own_folder() / f"{circuit_id.split('@')[0]}.yaml"):
        if file.is_file() and hashlib.sha256(raw := file.read_bytes()).hexdigest() == sha256:
            return described | {"yaml": raw.decode("utf-8")}
    return described


def _prompts(store: Store, run: Run) -> dict[str, Any]:
    """Which prompt set; the file itself where it is a user's, and the pairs as they were used where it is gone."""
    name, sha256 = run.request.prompts, run.summary.get("prompt_set_sha256")
    file_name = own_file(name).name if is_own(name) else Path(name).name
    described: dict[str, Any] = {
        "set": file_name,
        "sha256": sha256,
        "n_pairs": run.summary.get("n_pairs"),
        "file": None,
    }
    if name in BUILT_IN:
        return described
    try:
        raw = (own_file(name) if is_own(name) else Path(name).expanduser()).read_bytes()
        if hashlib.sha256(raw).hexdigest() == sha256:
            return described | {"file": raw.decode("utf-8")}
    except (OSError, ValueError):
        pass
    pairs = store.pairs(run.run_id)
    rows = (
        {
            "id": pair["pair_id"],
            "split": pair["split"],
            "original": _as_in_a_file(pair["original_prompt"], pair["original_text"]),
            "perturbed": _as_in_a_file(pair["perturbed_prompt"], pair["perturbed_text"]),
        }
        for pair in pairs.to_dict("records")
    )
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return described | {"file": text + "\n", "rebuilt": True, "set": f"{Path(name).stem}.jsonl"}


def _as_in_a_file(prompt: str | None, text: str | None) -> Any:
    try:
        whole = json.loads(prompt or "")
    except ValueError:
        return text
    return whole if isinstance(whole, dict) and whole.get("messages") else text


def _run_numbers(store: Store, run: Run) -> dict[str, Any]:
    pairs = store.pairs(run.run_id)
    top = store.top_neurons(run.run_id, "shared", TOP)
    s = run.summary
    verdict = s.get("verdict") or {}
    columns = (
        "pair_id", "logit_diff_original", "logit_diff_perturbed", "predicted_delta", "class_original",
        "class_perturbed",
    )  # fmt: skip
    return {
        "pairs": {name: plain(pairs[name]) for name in columns},
        "flip_rate": s.get("flip_rate"),
        "ffn_skip": {k: (s.get("ffn_skip") or {}).get(k) for k in ("mean", "median")},
        "structure": verdict.get("structure"),
        "stage": verdict.get("stage"),
        "neurons": {
            "layer": plain(top["layer"]),
            "neuron": plain(top["neuron"]),
            "importance": plain(top["importance_mean"].astype(float)),
        },
    }


def _sweep_numbers(store: Store, sweep_id: str) -> dict[str, Any]:
    sweep = store.sweep(sweep_id)
    points = store.points(sweep_id)
    answers = store.sweep_responses(sweep_id)
    classes = sorted(set(answers["class_name"]))
    place = {name: i for i, name in enumerate(classes)}
    return {
        "stage": sweep.summary.get("stage"),
        "baseline": {b["split"]: b["logit_diff_mean"] for b in sweep.summary.get("baseline") or ()},
        "points": {
            "point_id": [p.point_id for p in points],
            "delta_mean": [p.delta_mean for p in points],
            "n_broken": [p.n_broken for p in points],
        },
        # Classes of the answers of each point, in the order of pair and seed, as numbers of `classes`.
        "classes": classes,
        "answers": {key: [place[name] for name in group["class_name"]] for key, group in answers.groupby("key")},
    }


# ------------------------------------------------------------------------------------------------------ reading it


def read_document(path: Path) -> dict[str, Any]:
    """A reproduce.json, checked. Raises BadRequest in plain words for anything else."""
    name = path.name
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BadRequest(f"{name} is no file. Give a reproduce.json that pprobe wrote.")
        if size > MAX_FILE_BYTES:
            raise BadRequest(
                f"{name} has {size / 1e6:.0f} MB; a reproduce.json has at most {MAX_FILE_BYTES / 1e6:.0f}. "
                "Give the file that pprobe wrote."
            )
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror or error}). Give a reproduce.json.") from None
    except (ValueError, RecursionError):
        raise BadRequest(
            f"{name} is no whole JSON file: it may be cut off or something else. Export it again with "
            "`runs export RUN --format reproduce`."
        ) from None
    return checked_document(document, name)


def checked_document(document: Any, name: str = "The document") -> dict[str, Any]:
    """The document, if it is one this version can reproduce. Raises BadRequest: seen, accepted, what to do."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadRequest(
            f"{name} is JSON, but no reproduce.json of pprobe (its format is not {FORMAT!r}). Export one with "
            "`runs export RUN --format reproduce`."
        )
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadRequest(f"{name} does not say which version of the format it has. Export it again.")
    if version > FORMAT_VERSION:
        raise BadRequest(
            f"{name} was written by a newer pprobe (format {version}; this one reads {FORMAT_VERSION}). Update pprobe."
        )
    if document.get("sha256") != document_sha256(document):
        raise BadRequest(
            f"{name} was changed after it was written: its hash does not fit its contents. Take the file as it was "
            "exported, or export it again."
        )
    try:
        if document["what"] == "comparison":
            if not document["parts"]:
                raise KeyError("parts")
            for part in document["parts"]:
                if checked_document(part, name)["what"] == "comparison":
                    raise KeyError("what")
            return document
        probe_request(document)
        if document["what"] == "sweep":
            _sweep_request(document, "")
            parts = (document["sweep_numbers"]["points"]["point_id"], document["sweep_numbers"]["answers"])
        else:
            parts = (document["numbers"]["pairs"]["pair_id"], document["numbers"]["neurons"]["layer"])
        if not all(parts[:1]):
            raise KeyError("numbers")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadRequest(
            f"{name} lacks or holds something that this version does not know ({error}). Update pprobe, or export the "
            "file again."
        ) from None
    return document


def probe_request(document: Mapping[str, Any]) -> ProbeRequest:
    """The request of a document's run. Raises TypeError for fields that this version does not know."""
    return ProbeRequest.from_json(document["request"])


def _sweep_request(document: Mapping[str, Any], run_id: str) -> SweepRequest:
    return SweepRequest(run_id=run_id, **tupled(document["sweep_request"]))


# ------------------------------------------------------------------------------------------------- computing it again


Follow = Callable[[Request], JobStatus]  # asks for a job and waits until it is done; raises how it failed


def reproduce(
    document: Mapping[str, Any],
    jobs: Jobs,
    follow: Follow,
    folder: Path,
    *,
    model: str | None = None,
    download: bool = False,
) -> Agreement:
    """Compute a document's run or sweep again through `jobs`, whose results file should be a fresh one, and compare.

    `folder` takes the prompt file that the document brings; `model` says where its model lies on this computer, and
    `download` that a model of the hub may be fetched.
    A comparison's parts are computed one after the other. Raises BadRequest for a circuit that is not here,
    ModelUnavailable for a model that is not, Cancelled.
    """
    if document["what"] == "comparison":
        parts = document["parts"]
        return together([reproduce(p, jobs, follow, folder, model=model, download=download) for p in parts])
    request = probe_request(document)
    request = replace(request, model=_placed_model(document, model or request.model, download))
    request = replace(request, prompts=_placed_prompts(document, request, folder))
    _place_circuit(document)
    run_id = follow(request).run_id
    assert run_id is not None  # noqa: S101  (a probe that is done has one)
    sweep_id = None
    if document["what"] == "sweep":
        sweep_id = follow(_sweep_request(document, run_id)).sweep_id
    return agreement(document, reproduce_json(jobs.store, run_id, sweep_id))


def _placed_model(document: Mapping[str, Any], model: str, download: bool) -> str:
    """The model to use: of a hub model the very commit. Raises ModelUnavailable for what is not here and may not be."""
    entry = find_model(model)
    if not entry.on_hub:
        return entry.id
    repo_id, revision = split_hub_id(entry.id)
    revision = revision or document["model"].get("revision")
    model = f"{repo_id}@{revision}" if revision else repo_id
    if not download and downloaded(model) is None:
        raise ModelUnavailable(
            f"The model {model} of the hub is not on this computer. Allow fetching it with --download "
            f"(`models check {model}` says how large it is), or name its folder with --model."
        )
    return model


def _placed_prompts(document: Mapping[str, Any], request: ProbeRequest, folder: Path) -> str:
    """The prompt set's name, or the path of the file that was written from the document."""
    described = document["prompts"]
    if described.get("file") is None:
        if request.prompts in BUILT_IN:
            return request.prompts
        raise BadRequest("The file names prompts of its own but does not hold them. Export it again.")
    suffix = Path(str(described["set"])).suffix.lower()
    path = folder / f"prompts{suffix if suffix in ('.csv', '.jsonl', '.ndjson') else '.jsonl'}"
    path.write_bytes(str(described["file"]).encode("utf-8"))
    return str(path)


def _place_circuit(document: Mapping[str, Any]) -> None:
    """Make sure that the circuit is here: a user's own, which the document brings, is kept as one of its versions."""
    circuit_id, text = document["circuit"]["id"], document["circuit"].get("yaml")
    try:
        load_circuit(circuit_id)
        return
    except BadRequest:
        if not text:
            raise
    raw = str(text).encode("utf-8")
    circuit = parse_circuit(raw, "the circuit in the file", own=True, circuit_id=None)
    if circuit.address != circuit_id:
        raise BadRequest(
            f"The file names the circuit {circuit_id!r} but holds {circuit.address!r}. Take it as it was exported."
        )
    folder = own_folder() / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / f".{circuit.address}.part"
    waiting.write_bytes(raw)
    waiting.replace(folder / f"{circuit.address}.yaml")


# ---------------------------------------------------------------------------------------------------- comparing


def agreement(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Agreement:
    """Two documents of the same run or sweep, number by number, within the tolerances of the first."""
    rows = _Rows(recorded["tolerance"])
    rows.words(
        "model's weights", "", _short(recorded["model"], "weights_sha256"), _short(now["model"], "weights_sha256")
    )
    rows.words("tokeniser", "", _short(recorded["model"], "tokenizer_sha256"), _short(now["model"], "tokenizer_sha256"))
    rows.words("circuit", "", _short(recorded["circuit"], "sha256"), _short(now["circuit"], "sha256"))
    if not recorded["prompts"].get("rebuilt"):
        rows.words("prompts", "", _short(recorded["prompts"], "sha256"), _short(now["prompts"], "sha256"))
    if recorded["what"] == "sweep":
        _compare_sweeps(rows, recorded["sweep_numbers"], now["sweep_numbers"])
        title = f"sweep {recorded['sweep_id']} ({recorded['sweep_request']['kind']}) of run {recorded['run_id']}"
    else:
        _compare_runs(rows, recorded["numbers"], now["numbers"])
        title = f"run {recorded['run_id']}"
    title += f": {recorded['circuit']['id']} on {recorded['model']['id']}"
    return Agreement(title, rows.frame(), _notes(recorded, now))


def together(parts: Sequence[Agreement]) -> Agreement:
    """The agreements of a comparison's parts as one; each row's place begins with its part."""
    rows = [
        found.rows.assign(place=[f"{found.title}{': ' if place else ''}{place}" for place in found.rows["place"]])
        for found in parts
    ]
    notes = dict.fromkeys(note for found in parts for note in found.notes)
    return Agreement(f"comparison of {plural(len(parts), 'part')}", pd.concat(rows, ignore_index=True), tuple(notes))


class _Rows:
    """Rows of an agreement, as they are compared."""

    def __init__(self, tolerance: Mapping[str, Any]) -> None:
        self.tolerance = tolerance
        self.rows: list[tuple[Any, ...]] = []

    def number(self, what: str, place: str, recorded: float | None, now: float | None, kind: str) -> None:
        """A number with an absolute and a relative tolerance; undefined agrees with undefined only."""
        if recorded is None or now is None:
            self.rows.append((what, place, recorded, now, None, None, recorded is None and now is None))
            return
        absolute, relative = self.tolerance[kind]
        allowed = absolute + relative * abs(recorded)
        self.rows.append((what, place, recorded, now, now - recorded, allowed, abs(now - recorded) <= allowed))

    def count(self, what: str, place: str, recorded: float, now: float, allowed: float) -> None:
        """A count or share that may differ by `allowed`."""
        difference = now - recorded
        self.rows.append((what, place, recorded, now, difference, allowed, abs(difference) <= allowed))

    def words(self, what: str, place: str, recorded: str | None, now: str | None) -> None:
        """Words or hashes that must be the same."""
        self.rows.append((what, place, recorded, now, None, None, recorded == now))

    def frame(self) -> pd.DataFrame:
        columns = zip(COLUMNS, zip(*self.rows, strict=True), strict=True)
        return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns}).astype(
            {"agrees": bool}
        )


def _compare_runs(rows: _Rows, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    rows.number("flip rate", "", recorded["flip_rate"], now["flip_rate"], "ratio")
    for name in ("mean", "median"):
        rows.number("FFN/Skip", name, recorded["ffn_skip"][name], now["ffn_skip"][name], "ratio")
    rows.words("verdict", "", recorded["structure"], now["structure"])
    rows.words("stage of the two passes", "", recorded["stage"], now["stage"])
    then, again = recorded["pairs"], now["pairs"]
    place = {pair: i for i, pair in enumerate(again["pair_id"])}
    for what, name in (
        ("F on the original", "logit_diff_original"),
        ("F on the perturbed", "logit_diff_perturbed"),
        ("predicted change", "predicted_delta"),
    ):
        for i, pair in enumerate(then["pair_id"]):
            rows.number(what, pair, then[name][i], again[name][place[pair]] if pair in place else None, "logits")
    for what, name in (("answers to the original", "class_original"), ("answers to the perturbed", "class_perturbed")):
        same = sum(
            pair in place and then[name][i] == again[name][place[pair]] for i, pair in enumerate(then["pair_id"])
        )
        n = len(then["pair_id"])
        rows.count(f"{what} in the same class", "", n, same, max(1.0, rows.tolerance["answers"] * n))
    first, second = (dict(zip(_names(d["neurons"]), d["neurons"]["importance"], strict=True)) for d in (recorded, now))
    both = [name for name in first if name in second]
    rows.count(f"first {len(first)} neurons shared", "", len(first), len(both), rows.tolerance["neurons"])
    rho = _rank_correlation([first[n] for n in both], [second[n] for n in both])
    rows.count("their rank correlation", "", 1.0, rho, rows.tolerance["rho"])


def _compare_sweeps(rows: _Rows, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    rows.words("stage", "", recorded["stage"], now["stage"])
    for split, value in recorded["baseline"].items():
        rows.number("F unedited", split, value, now["baseline"].get(split), "logits")
    then, again = recorded["points"], now["points"]
    place = {point: i for i, point in enumerate(again["point_id"])}
    for i, point in enumerate(then["point_id"]):
        delta = again["delta_mean"][place[point]] if point in place else None
        rows.number("change of F", point, then["delta_mean"][i], delta, "logits")
    broken = sum(
        n != again["n_broken"][place[p]] for p, n in zip(then["point_id"], then["n_broken"], strict=True) if p in place
    )
    rows.count("points with another number of broken prompts", "", 0, broken, 0)
    for key, classes in recorded["answers"].items():
        names = [recorded["classes"][i] for i in classes]
        others = [now["classes"][i] for i in now["answers"].get(key, [])]
        same = sum(a == b for a, b in zip(names, others, strict=False))
        rows.count("answers in the same class", key, len(names), same, max(1.0, rows.tolerance["answers"] * len(names)))


def _notes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What else is not the same: engine, device, dtype, libraries, processor."""
    notes = []
    then, here = recorded["versions"], now["versions"]
    for name, title in (
        ("engine", "The probe"),
        ("sweeps", "The sweeps"),
        ("rules", "The rules that classify answers"),
    ):
        if then.get(name) != here.get(name):
            notes.append(
                f"{title} had version {then.get(name)} then and {here.get(name)} now: numbers may differ by it."
            )
    for name in ("dtype", "device"):
        if recorded["model"].get(name) != now["model"].get(name):
            notes.append(
                f"The {name} was {recorded['model'].get(name)} then and is {now['model'].get(name)} now: differences "
                "beyond the tolerances can come from that alone."
            )
    others = [f"{n} {then.get(n)} then, {here.get(n)} now" for n in _LIBRARIES if then.get(n) != here.get(n)]
    if others:
        notes.append(f"Other versions: {'; '.join(others)}.")
    if recorded["prompts"].get("rebuilt"):
        notes.append("The prompt file was gone when this was exported: its pairs were taken from the stored run.")
    return tuple(notes)


def _short(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    return str(value)[:12] if value else None


def _names(neurons: Mapping[str, Sequence[int]]) -> list[str]:
    return [f"L{layer}.N{n}" for layer, n in zip(neurons["layer"], neurons["neuron"], strict=True)]


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho of two lists; 0 with fewer than three values, 1 where both are constant and equal."""
    if len(a) < 3:
        return 0.0
    first, second = (pd.Series(values, dtype=float).rank() for values in (a, b))
    if first.nunique() == 1 or second.nunique() == 1:
        return float(first.equals(second))
    return float(first.corr(second))
