"""A stored run as other programs and people read it: the JSON contract, a short text, files to take away."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest, Ranking
from pprobe_core.store import Store
from pprobe_core.store.plain import plain, records
from pprobe_core.wording import plural, verified

ExportFormat = Literal["csv", "parquet", "json"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
RECORDED_MARK = "; recorded, not computed on this computer"
TOP_NEURONS = 500  # in the JSON of a run

_PAIR_FIELDS = (
    "pair_id", "split", "input_ids_original", "input_ids_perturbed", "logit_diff_original", "logit_diff_perturbed",
    "predicted_delta", "ffn_skip_original", "ffn_skip_perturbed",
    "target_ids", "control_ids",  # the pair's own: with observable.per_pair they differ between pairs
    "flipped", "original_text", "perturbed_text", "tokens_original", "tokens_perturbed",
    "covered_original", "covered_perturbed", "response_original", "response_perturbed",
    "class_original", "class_perturbed", "note",
)  # fmt: skip
# A spreadsheet runs a cell that begins like this as a formula, unless it is a plain number.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
STRUCTURES = {
    "opposition": "opposition circuit: training for alignment overrides an older tendency",
    "routing": "routing circuit: attention carries the behaviour, single neurons do little",
    "read_out": "read-out: neurons respond, but switching them off changes nothing",
    "undetermined": "undetermined: two passes cannot tell the structures apart here",
    "uninformative": "uninformative: the perturbation changes the decision on too few pairs",
}
_RANKING_QUESTIONS: dict[str, str] = {
    "shared": "which neurons carry the change, the same way on every pair (the paper's |mean I|)",
    "magnitude": "which neurons change the decision most, in whichever direction (RMS of I)",
    "ablation": "which neurons should matter when they are switched off (min(-I, c * a) and its mirror)",
}


def run_json(store: Store, run_id: str, ranking: Ranking = "shared", top: int = TOP_NEURONS) -> dict[str, Any]:
    """A run as one JSON-able object: summary, `layers`, `pairs`, the first `top` `neurons` of a ranking, `sweeps`.

    The verdict's stage is that of the two passes, `stage_reached` that with the sweeps. Values in logits, ratios and
    shares as fractions, null where undefined, times ISO 8601 in UTC.
    Raises BadRequest for an unknown run or ranking.
    """
    run = store.run(run_id)
    neurons = store.top_neurons(run_id, ranking, top)
    document: dict[str, Any] = {"run_id": run_id, "created_at": run.created_at}
    document |= run.summary
    document |= {
        "ranking": ranking,
        "pairs": records(store.pairs(run_id)[list(_PAIR_FIELDS)]),
        "neurons": records(neurons),
        "token_preview": records(store.token_preview(run_id)),
        "stage_reached": run.stage,
        "sweeps": records(store.sweeps(run_id)[["sweep_id", "kind", "ranking", "stage"]]),
        "recorded": run.recorded,
        "request": run.request,
        "environment": run.environment,
    }
    return dict(plain(document))


def run_text(store: Store, run_id: str, ranking: Ranking = "shared", top: int = 10) -> str:
    """A run in about forty lines of plain words: meaning, verdict, reasons, measurements, top neurons, checks."""
    from pprobe_core.meaning import meaning_of_run  # brings statsmodels and altair, which listings need not wait for

    run = store.run(run_id)
    s = run.summary
    lines = [
        f"Run {run_id}: {s.get('circuit', run.request.circuit)} on {s.get('model', run.request.model)}, "
        f"prompts {s.get('prompts', run.request.prompts)}, coupling {run.request.coupling}",
        f"{plural(s['n_pairs'], 'prompt pair')}, {plural(s['n_forward_passes'], 'forward pass', suffix='es')}, "
        f"{s['seconds']:.1f} s, "
        f"{run.created_at:%Y-%m-%d %H:%M} UTC{RECORDED_MARK if run.recorded else ''}",
        *_asked_lines(run.request, s),
        "",
        *meaning_of_run(store, run_id).lines(),
        "",
        *_verdict_lines(s.get("verdict") or {}),
        _stage_line(run.stage, store.sweeps(run_id)),
        "",
        "Measured",
        *_measured_lines(s),
        "",
        f"Top neurons ({ranking}: {_RANKING_QUESTIONS[ranking]})",
        *_neuron_lines(store.top_neurons(run_id, ranking, top), s),
        "",
        "Checks",
        *_check_lines(s),
    ]
    return "\n".join(lines)


def neuron_name(layer: int, neuron: int) -> str:
    """The name a neuron has everywhere, such as L12.N3405."""
    return f"L{layer}.N{neuron}"


def export_run(store: Store, run_id: str, format: str, out: Path) -> list[Path]:
    """Write a run into the folder `out`, one file per table and run.json; returns the files written.

    With sweeps: the tables sweeps (their summaries as JSON text), sweep_points and sweep_responses. csv: lists as JSON
    text, text that a spreadsheet would run as a formula gets a leading apostrophe. parquet: lists and types kept. json:
    one list of objects per table. Raises BadRequest when the format is unknown, the folder cannot be written or already
    holds another run.
    """
    if format not in EXPORT_FORMATS:
        raise BadRequest(f"There is no export format {format!r}. The formats are {', '.join(EXPORT_FORMATS)}.")
    document = run_json(store, run_id)
    tables = {
        "pairs": store.pairs(run_id),
        "layers": store.layers(run_id),
        "neurons": store.neurons(run_id),
        "first_tokens": store.first_tokens(run_id),
        "token_preview": store.token_preview(run_id),
        **_sweep_tables(store, run_id),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_other_run(out / "run.json", run_id)
        written = [out / "run.json"]
        write_json(document, written[0])
        for name, frame in tables.items():
            path = out / f"{name}.{format}"
            if format == "csv":
                safe_for_spreadsheets(frame).to_csv(path, index=False, encoding="utf-8")
            elif format == "parquet":
                frame.to_parquet(path, index=False)
            else:
                write_json(records(frame), path)
            written.append(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(f"The run cannot be written to {out} ({reason}). Name another folder with --out.") from error
    return written


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON (UTF-8, null for what is undefined). Raises OSError when the file cannot be written."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def safe_for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy in which no text cell and no heading can be run as a formula, and lists are JSON text."""
    return pd.DataFrame({_safe_cell(name): _safe_column(frame[name]) for name in frame.columns})


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as a CSV file for spreadsheets: UTF-8 with its mark, no formulas, lists as JSON text."""
    return safe_for_spreadsheets(frame).to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig")


def parquet_bytes(frame: pd.DataFrame, about: Mapping[str, str] | None = None) -> bytes:
    """A table as a Parquet file: types and lists kept, `about` in its metadata. Mixed columns become text."""
    whole = frame.reset_index(drop=True)
    for name in whole.columns:
        if whole[name].dtype == object and whole[name].dropna().map(type).nunique() > 1:
            whole[name] = [None if value is None or value != value else str(value) for value in whole[name]]
    table = pa.Table.from_pandas(whole, preserve_index=False)
    described = {key.encode(): value.encode() for key, value in (about or {}).items()}
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **described}), out)
    return out.getvalue()


def file_name(*parts: str, suffix: str) -> str:
    """A file name from its parts, whatever they hold: letters, digits, dots, dashes and underlines, 80 at most."""
    words = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in parts)
    return f"{words.strip('-')[:80].strip('-.') or 'pprobe'}.{suffix}"


def _sweep_tables(store: Store, run_id: str) -> dict[str, pd.DataFrame]:
    """The run's sweeps, and their points and answers below each other; nothing where there are none."""
    sweeps = store.sweeps(run_id)
    tables = {"sweeps": sweeps}
    for name, read in (("sweep_points", store.sweep_points), ("sweep_responses", store.sweep_responses)):
        frames = [read(sweep_id).assign(sweep_id=sweep_id) for sweep_id in sweeps["sweep_id"]]
        filled = [frame[["sweep_id", *frame.columns.drop("sweep_id")]] for frame in frames if not frame.empty]
        if filled:
            rows = [row for frame in filled for row in records(frame)]
            whole = [column for column in ("draw", "n_neurons", "layer") if column in filled[0]]
            tables[name] = pd.DataFrame(rows, columns=filled[0].columns).astype(dict.fromkeys(whole, "Int64"))
    for frame in tables.values():
        if "class_counts" in frame:  # classes differ between circuits, so they are no columns
            frame["class_counts"] = [None if c is None else json.dumps(c) for c in frame["class_counts"]]
    return {} if sweeps.empty else tables


def _safe_column(column: pd.Series) -> Any:
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return column
    return [_safe_cell(value) for value in column.tolist()]


def _safe_cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS) and not _PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _refuse_other_run(path: Path, run_id: str) -> None:
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        other = there.get("run_id") if isinstance(there, dict) else None
    except ValueError:
        other = None
    if other != run_id:
        what = f"the run {other}" if other else "a run.json of something else"
        raise BadRequest(f"{path.parent} already holds {what}. Name another folder with --out.")


# -- the short text --


def _asked_lines(request: ProbeRequest, s: dict[str, Any]) -> list[str]:
    """What thinking came to, where the run says so, and the strings that stood in place of the circuit's."""
    states = {
        "on": "on",
        "off": "off",
        "no_switch": "not a switch of this model's chat template",
        "own": "as the chat template has it by itself",
    }
    lines = [f"Thinking: {states[s['thinking_state']]}"] if s.get("thinking_state") in states else []
    if request.strings_from == "circuit":
        return lines
    source = f"harvested from run {request.harvested_from}" if request.harvested_from else "given"
    target, control = (", ".join(map(repr, strings)) for strings in (request.target, request.control))
    return [*lines, f"First tokens ({source}): target {target}; control {control}"]


def _verdict_lines(verdict: dict[str, Any]) -> list[str]:
    structure = str(verdict.get("structure", "undetermined"))
    return [
        f"Verdict: {STRUCTURES.get(structure, structure)}",
        *(f"  - {reason}" for reason in verdict.get("reasons") or ()),
        f"  What fits: {verdict.get('recommendation', 'nothing yet')}",
    ]


def _stage_line(stage: str, sweeps: pd.DataFrame) -> str:
    if sweeps.empty:
        return f"  Stage reached: {stage} (no sweep has tested a cause yet)"
    n = len(sweeps)
    return f"  Stage reached: {stage} ({plural(n, 'sweep')}; `sweep list --run` shows them)"


def _measured_lines(s: dict[str, Any]) -> list[str]:
    diff, skip = s["logit_diff"], s["ffn_skip"]
    flipped = s.get("n_flipped")
    count = f"{flipped} of {s['n_pairs']}, " if flipped is not None else ""
    lines = [
        f"  Pairs that change sides (flip rate): {_number(s['flip_rate'], '.2f')} "
        f"({count}{_interval(s.get('flip_interval'), '.2f')})",
        f"  Logit difference: {_number(diff['original_mean'])} on the original prompts, "
        f"{_number(diff['perturbed_mean'])} on the perturbed ones",
        f"  Change: {_number(diff['delta_mean'])} logits ({_interval(diff.get('delta_interval'))}); "
        f"the neurons' importances add up to {_number(diff['predicted_delta_mean'])}",
        f"  FFN/Skip of the last layer: {_number(skip['mean'], '.2f')} ({_interval(skip.get('interval'), '.2f')}); "
        f"original {_number(skip['original_mean'], '.2f')}, perturbed {_number(skip['perturbed_mean'], '.2f')}",
    ]
    generation = s.get("generation")
    if generation:
        lines.append(
            f"  Generated answers on the side the logit difference predicts: {generation['n_agree']} of "
            f"{generation['n_answers']} ({_interval(generation.get('agreement_interval'), '.2f')})"
        )
    return lines


def _neuron_lines(top: pd.DataFrame, s: dict[str, Any]) -> list[str]:
    splits = ", ".join(s.get("ranking_splits") or ()) or "all"
    n = s.get("n_ranking_pairs")
    lines = [f"  ranked on the split {splits} (n = {plural(n, 'pair')})"] if n is not None else []
    for row in top.to_dict("records"):
        name = neuron_name(int(row["layer"]), int(row["neuron"]))
        lines.append(
            f"  {int(row['rank']):>3}  {name:<12} mean importance {_number(row['importance_mean'], '+.3f'):>8}, "
            f"RMS {_number(row['importance_rms'], '.3f'):>6}, "
            f"same sign on {_number(row['sign_consistency'], '.0%')} of pairs"
        )
    return lines


def _check_lines(s: dict[str, Any]) -> list[str]:
    lines = []
    null, additive = s.get("null"), s.get("additive")
    if null:
        above = plural(null["n_above"], "neuron", ("lies", "lie"))
        lines.append(
            f"  {above} above |mean importance| {_number(null['importance_threshold'], '.3f')}, the height that random "
            f"signs reach ({plural(null['draws'], 'draw')})"
        )
    if additive:
        lines.append(
            f"  Measured against predicted change per pair: correlation {_number(additive['correlation'], '.2f')} "
            f"(random pairing reaches {_number(additive['null_correlation_95'], '.2f')} in 5 % of draws)"
        )
    lines += _coupling_lines(s.get("couplings"))
    if proved := verified(s.get("structure_check")):
        accepted = f"{s['structure_check']['tolerance']:.0e}"
        lines.append(
            f"  {proved[:1].upper()}{proved[1:]}, accepted {accepted} (weights against the model's own numbers)"
        )
    if s.get("decomposition_error") is not None:
        lines.append(f"  Parts sum to the logit difference within {s['decomposition_error']:.1e} logits")
    if s.get("skipped"):
        first = s["skipped"][0]
        n_left_out = plural(len(s["skipped"]), "pair", ("was", "were"))
        lines.append(f"  {n_left_out} left out; the first, {first['pair_id']}: {first['reason']}")
    lines += [f"  Token note: {warning}" for warning in (s.get("token_warnings") or ())[:3]]
    lines += [f"  Note: {note}" for note in s.get("notes") or ()]
    lines += [f"  Model note: {note}" for note in s.get("model_notes") or ()]
    return lines or ["  none recorded"]


def _coupling_lines(couplings: dict[str, Any] | None) -> list[str]:
    """What either coupling misses of the FFNs' exact change; nothing for runs that did not compare them."""
    if not couplings:
        return []
    exact = _number(couplings["exact"]["sum"])
    plain, aware = (_number(couplings[name]["missed"], ".0%") for name in ("plain", "norm_aware"))
    return [
        f"  Of the FFNs' exact change ({exact} logits) the sums of I per layer miss {plain} with plain coupling and "
        f"{aware} with norm-aware coupling"
    ]


def _number(value: Any, spec: str = "+.2f") -> str:
    value = plain(value)
    return "undefined" if value is None else format(value, spec)


def _interval(interval: Sequence[float] | None, spec: str = "+.2f") -> str:
    if not interval or any(plain(end) is None for end in interval):
        return "no interval"
    return f"95 % interval {interval[0]:{spec}} to {interval[1]:{spec}}"
