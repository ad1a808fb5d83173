"""A run or a comparison as one HTML file that opens anywhere: words, numbers, charts, examples, how to repeat it.

No script, nothing loaded from outside; light or dark as the reader's computer is, and fit to print. Texts of prompts,
answers, models and files are escaped, and answers that go along with a harmful request stay folded.
"""

import base64
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from pprobe_core import (
    __version__,
    charts,
    compare_charts,
    compare_frames,
    compare_report,
    compare_stats,
    compare_words,
    coupling_charts,
    meaning,
    neuron_charts,
    pictures,
    response_charts,
    sweep_charts,
    sweep_report,
    window_charts,
)
from pprobe_core.charts import Figure, number
from pprobe_core.circuits.schema import Circuit
from pprobe_core.compare_frames import Compared
from pprobe_core.difference import Piece, answers_difference
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.outcomes import regimes
from pprobe_core.interventions.types import BASELINE_KEY, INJECTION_KINDS, SweepKind, without_split
from pprobe_core.meaning import Meaning
from pprobe_core.meaning.points import SPLIT_NAMES, split_of
from pprobe_core.probing.verdict import OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from pprobe_core.report import STRUCTURES
from pprobe_core.reproduction import comparison_json, document_text, reproduce_json
from pprobe_core.store import Run, Store, Sweep
from pprobe_core.store.sweeps import STAGES
from pprobe_core.wording import plural, verified, with_minus

TOP = 50  # neurons marked in the map
N_LISTED = 20  # neurons and pairs that are listed openly; more are folded or left out, and the words say so
N_EXAMPLES = 8  # prompts whose answers are shown in full
N_PROOFS = 12  # points of a sweep whose tests are listed
ORDER: tuple[SweepKind, ...] = ("dose", "factor", "patch", "window", "strength", "heads", "layers", "held")
FOLDED = ("compliance", "disclaimer")  # answers to a harmful request that stay folded


# -------------------------------------------------------------------------------------------------------- the page


@dataclass
class _Page:
    """The parts of a page as they are written; drawings are numbered so that their inner names do not meet."""

    parts: list[str] = field(default_factory=list)
    n_drawings: int = 0

    def add(self, *parts: str) -> None:
        self.parts += [part for part in parts if part]

    def heading(self, words: str, level: int = 2) -> None:
        self.add(f"<h{level}>{_h(words)}</h{level}>")

    def figure(self, figure: Figure) -> None:
        self.n_drawings += 1
        drawn = pictures.drawing(figure, name=f"d{self.n_drawings}", ink=pictures.PAGE_INK)
        omits = f' <span class="omits">{_h(figure.omits)}</span>' if figure.omits else ""
        self.add(
            f'<figure><p class="finding">{_h(figure.title)}</p><div class="wide">{drawn}</div>'
            f"<figcaption>{_h(figure.reading)}{omits}</figcaption></figure>"
        )


def _h(text: object) -> str:
    """Text as HTML shows it; characters that turn the direction of what follows are kept inside."""
    return f"{html.escape(str(text))}"


def _user(text: object, tag: str = "span") -> str:
    """Somebody's own words: escaped, and with a direction of their own."""
    return f'<{tag} dir="auto" class="words">{_h(text)}</{tag}>'


def _marked(pieces: Iterable[Piece]) -> str:
    """An answer's words like `_user`, those that the answer beside it lacks marked."""
    inside = "".join(f"<mark>{_h(piece.text)}</mark>" if piece.differs else _h(piece.text) for piece in pieces)
    return f'<span dir="auto" class="words">{inside}</span>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{_h(name)}</th>' for name in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    said = f"<caption>{_h(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(sentences: Iterable[object]) -> str:
    items = "".join(f"<li>{_h(with_minus(str(sentence)))}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _fold(title: str, inside: str, kind: str = "") -> str:
    if not inside:
        return ""
    return f"<details{f' class={kind}' if kind else ''}><summary>{_h(title)}</summary>{inside}</details>"


def _document(title: str, page: _Page) -> str:
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<meta name="generator" content="pprobe {__version__}"><title>{_h(title)}</title><style>{STYLE}</style></head>'
        f"<body><main>{''.join(page.parts)}</main><footer>Written by pprobe {__version__} on {made}. Every number "
        "stands in the results file it was written from.</footer></body></html>\n"
    )


def write(text: str, path: Path) -> None:
    """Write a report as a file, its folder too where it is missing. Raises BadRequest when that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"The file {path} cannot be written ({error.strerror or error}). Name another one.") from error


# ------------------------------------------------------------------------------------------------------------- a run


def run_html(store: Store, run_id: str) -> str:
    """The report of a run with all its sweeps. Raises BadRequest for an unknown run."""
    run = store.run(run_id)
    circuit = meaning.circuit_of(run)
    title = circuit.title if circuit else run.request.circuit.partition("@")[0]
    known = [store.sweep(str(sweep_id)) for sweep_id in store.sweeps(run_id)["sweep_id"]]
    sweeps = sorted(known, key=lambda sweep: ORDER.index(sweep.request.kind))  # newest first within a kind
    page = _Page()
    page.add(f"<h1>{_h(title)} in {_user(run.request.model)}</h1>", _facts(run))
    if circuit:
        page.add(f"<p>{_h(circuit.description)} <em>{_h(circuit.question)}</em></p>")
    page.add(_meaning("What this means", meaning.meaning_of_run(store, run_id)))
    page.add(_verdict(run))
    _numbers(page, run)
    _charts_of_run(page, store, run, circuit)
    _neurons(page, store, run)
    _pairs(page, store, run, circuit)
    for sweep in sweeps:
        _sweep(page, store, run, sweep, sweeps, circuit)
    _provenance(page, store, run, sweeps)
    return _document(f"{title} in {run.request.model}: run {run_id}", page)


def _facts(run: Run) -> str:
    s, made = run.summary, run.created_at
    facts = [
        f"Run <code>{run.run_id}</code>",
        f"prompt set {_user(PurePath(run.request.prompts).name)}",
        _h(plural(int(s.get("n_pairs") or 0), "pair")),
        _h(f"{run.request.coupling.replace('_', '-')} coupling"),
        _h(f"seed {run.request.seed}"),
        _h(f"{made:%Y-%m-%d %H:%M} UTC{', recorded: not computed where this was written' if run.recorded else ''}"),
    ]
    return f'<p class="facts">{" · ".join(facts)}</p>'


def _meaning(title: str, found: Meaning) -> str:
    parts = "".join(f"<p><strong>{_h(part.topic)}.</strong> {_h(part.text)}</p>" for part in found.parts if part.text)
    return (
        f'<section class="card"><h2>{_h(title)}</h2><p class="finding">{_h(found.headline)}</p>{parts}'
        f"<p><strong>{_h(found.next_step)}</strong></p></section>"
    )


def _verdict(run: Run) -> str:
    verdict = run.summary.get("verdict") or {}
    structure = str(verdict.get("structure") or "undetermined")
    return (
        f'<section class="card"><h2>Verdict: {_h(STRUCTURES.get(structure, structure))}</h2>{_ladder(run.stage)}'
        f"{_list(verdict.get('reasons') or ())}"
        f"<p><strong>What fits.</strong> {_h(verdict.get('recommendation') or 'Nothing yet.')}</p></section>"
    )


def _ladder(stage: str) -> str:
    reached = STAGES.index(stage) if stage in STAGES else 0
    steps = "".join(
        f'<li class="{"reached" if place <= reached else ""}">{name}</li>' for place, name in enumerate(STAGES)
    )
    return f'<p>How far the evidence goes: <strong>{_h(stage)}</strong></p><ol class="ladder">{steps}</ol>'


def _numbers(page: _Page, run: Run) -> None:
    s = run.summary
    n, ratio, gap = int(s.get("n_pairs") or 0), s.get("ffn_skip") or {}, s.get("logit_diff") or {}
    coverage, written = s.get("coverage") or {}, s.get("generation") or {}
    null, additive = s.get("null") or {}, s.get("additive") or {}
    least = min((v for v in coverage.values() if isinstance(v, float)), default=None)
    limits = (
        f"routing below {ROUTING_MAX_FFN_SKIP:g}, opposition above {OPPOSITION_MIN_FFN_SKIP:g} (limits of the paper)"
    )
    prompts = plural(2 * n if ratio.get("n_defined") is None else int(ratio["n_defined"]), "prompt")
    rows = [
        ("FFN/Skip of the last layer", number(ratio.get("mean")), _interval(ratio.get("interval")), prompts, limits),
        ("Pairs that flip", _percent(s.get("flip_rate")), _percents(s.get("flip_interval")), plural(n, "pair"), ""),
        (
            "Coverage: likeliest first token in a group",
            _percent(least),
            "",
            f"{plural(n, 'prompt')} each",
            f"original {_percent(coverage.get('original'))}, perturbed {_percent(coverage.get('perturbed'))}",
        ),
        (
            "Change of the logit difference F (logits)",
            number(gap.get("delta_mean"), signed=True),
            _interval(gap.get("delta_interval")),
            plural(n, "pair"),
            f"the neurons' importances add up to {number(gap.get('predicted_delta_mean'), signed=True)}",
        ),
        (
            "Answers on the side that F predicts",
            _percent(written.get("agreement")),
            _percents(written.get("agreement_interval")),
            plural(int(written.get("n_answers") or 0), "answer"),
            "",
        ),
        (
            "Measured against predicted change, correlation",
            number(additive.get("correlation")),
            "",
            plural(n, "pair"),
            f"random pairing reaches {number(additive.get('null_correlation_95'))} in 5 % of draws" if additive else "",
        ),
        (
            "Neurons above the random-sign control",
            f"{null['n_above']:,}" if null else "–",
            "",
            plural(int(s.get("n_ranking_pairs") or 0), "pair"),
            f"control: |mean I| {number(null.get('importance_threshold'), 3)}, {plural(int(null['draws']), 'draw')}"
            if null
            else "",
        ),
    ]
    page.heading("The numbers")
    page.add(_table(("What", "Value", "95 % interval", "n", "Beside it"), [[_h(cell) for cell in row] for row in rows]))


def _charts_of_run(page: _Page, store: Store, run: Run, circuit: Circuit | None) -> None:
    run_id, s = run.run_id, run.summary
    target = circuit.target_meaning if circuit else "the target tokens"
    control = circuit.control_meaning if circuit else "the control tokens"
    pairs, layers = store.pairs(run_id), store.layers(run_id)
    additive = s.get("additive") or {}
    page.heading("Can these prompts tell something?")
    page.figure(charts.margins(pairs))
    preview = store.token_preview(run_id)
    used = preview[preview["used"].astype(bool)]
    for side, meant in (("target", target), ("control", control)):
        strings = " ".join(f"<code>{_h(charts.visible(str(t)))}</code>" for t in used[used["side"] == side]["string"])
        page.add(f"<p>{side.capitalize()} tokens, {_h(meant)}: {strings or 'each pair has its own'}</p>")
    page.heading("Where in the network")
    page.figure(charts.trajectory(layers, target, control))
    page.figure(charts.layer_change(layers))
    page.figure(charts.layer_ratio(layers, ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP))
    page.figure(charts.layer_signals(layers))
    page.heading("Do the neurons explain the change?")
    page.figure(charts.predicted_change(pairs, additive.get("correlation"), additive.get("null_correlation_95")))
    page.figure(charts.carriers(additive))
    if coupling_charts.has_couplings(s):
        page.figure(coupling_charts.coupling_sums(s["layers"], s["couplings"]))


def _neurons(page: _Page, store: Store, run: Run) -> None:
    top = store.top_neurons(run.run_id, "shared", TOP)
    threshold = (run.summary.get("null") or {}).get("importance_threshold")
    page.heading("Which neurons")
    few = store.n_neurons(run.run_id) <= neuron_charts.SCATTER_LIMIT
    crowd = store.neurons(run.run_id) if few else store.neuron_map(run.run_id, "shared", neuron_charts.BINS)
    beyond = (run.summary.get("null") or {}).get("n_above")
    page.figure(neuron_charts.neuron_map(crowd, top, "shared", threshold, beyond, selectable=False))
    rows = [
        [
            str(int(row["rank"])),
            charts.neuron_name(row["layer"], row["neuron"]),
            number(row["importance_mean"], 3, signed=True),
            number(row["importance_rms"], 3),
            _percent(row["sign_consistency"]),
        ]
        for row in top.head(N_LISTED).to_dict("records")
    ]
    n = plural(int(run.summary.get("n_ranking_pairs") or 0), "pair")
    caption = (
        f"The first {len(rows)} by |mean importance I| over {n}; direct effect in logits, nothing was switched off."
    )
    page.add(_table(("Rank", "Neuron", "Mean I", "RMS I", "Same sign"), rows, caption))


def _pairs(page: _Page, store: Store, run: Run, circuit: Circuit | None) -> None:
    pairs = store.pairs(run.run_id)
    page.heading("Pairs in full")
    page.add(
        f"<p>The first {min(N_EXAMPLES, len(pairs))} of {plural(len(pairs), 'pair')} with the answers written.</p>"
    )
    for row in pairs.head(N_EXAMPLES).to_dict("records"):
        cells = []
        for side in ("original", "perturbed"):
            margin = number(row[f"logit_diff_{side}"], signed=True)
            answer = _answer(circuit, row[f"response_{side}"], row[f"class_{side}"])
            said = _user(row[f"{side}_text"], "p")
            cells.append(f"<div><h4>{side.capitalize()}, F {margin}</h4>{said}{answer}</div>")
        name = _user(row["pair_id"])
        page.add(f'<article class="pair"><h3>{name}</h3><div class="two">{"".join(cells)}</div></article>')
    rows = [
        [
            _user(row["pair_id"]),
            _h(SPLIT_NAMES.get(row["split"], row["split"])),
            number(row["logit_diff_original"], signed=True),
            number(row["logit_diff_perturbed"], signed=True),
            "yes" if row["flipped"] else "no",
            _h(_class(circuit, row["class_original"])),
            _h(_class(circuit, row["class_perturbed"])),
        ]
        for row in pairs.to_dict("records")
    ]
    headings = ("Pair", "Split", "F original", "F perturbed", "Flips", "Answer to original", "Answer to perturbed")
    page.add(_fold(f"All {plural(len(pairs), 'pair')} as a table", _table(headings, rows)))


def _answer(circuit: Circuit | None, text: Any, name: Any, pieces: Sequence[Piece] = ()) -> str:
    """An answer with its class, folded where it goes along with a harmful request; `pieces` say what to mark in it."""
    if not isinstance(text, str):
        return '<p class="quiet">No answer was generated.</p>'
    said = _marked(pieces) if pieces else _user(text or "(empty)")
    shown = f'<p class="answer"><span class="badge">{_h(_class(circuit, name))}</span> {said}</p>'
    if circuit is not None and circuit.response_rule == "refusal" and str(name) in FOLDED:
        return _fold("Show the compliant answer", shown, "folded")
    return shown


def _class(circuit: Circuit | None, name: Any) -> str:
    titles = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    return titles.get(str(name), str(name)) if isinstance(name, str) else "–"


# ----------------------------------------------------------------------------------------------------------- a sweep


def _sweep(page: _Page, store: Store, run: Run, sweep: Sweep, sweeps: Sequence[Sweep], circuit: Circuit | None) -> None:
    s, points = sweep.summary, store.sweep_points(sweep.sweep_id)
    page.heading(f"Tested: {sweep_report.heading(sweep)}")
    recorded = " · recorded, not computed where this was written" if sweep.recorded else ""
    page.add(
        f'<p class="facts">Sweep <code>{sweep.sweep_id}</code> · {_h(sweep.request.condition)} prompts · '
        f"{s['n_full_passes']:,} full and {s['n_last_token_passes']:,} last-token forward passes in "
        f"{number(s['seconds'], 1)} s{recorded}</p>"
    )
    page.add(_meaning("What this test means", meaning.meaning_of_sweep(store, sweep.sweep_id)))
    page.add(_ladder(str(s["stage"])), _list(s.get("stage_reasons") or ()))
    rates, found = _rates(store, sweep.sweep_id, points)
    for figure in _charts_of_sweep(store, run, sweep, sweeps, points, rates, found):
        page.figure(figure)
    page.add(_proof(sweep), _before_after(store, run, sweep, points, circuit))


def _rates(store: Store, sweep_id: str, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcome rates and regimes of the points that have answers, with the points' coordinates."""
    try:
        rates = sweep_report.outcomes_of(store, sweep_id)
    except BadRequest:  # the behaviour's file is gone, and with it what its classes stand for
        rates = ()
    return sweep_report.with_places(rates, points), sweep_report.with_places(regimes(rates), points)


def _charts_of_sweep(
    store: Store,
    run: Run,
    sweep: Sweep,
    sweeps: Sequence[Sweep],
    points: pd.DataFrame,
    rates: pd.DataFrame,
    found: pd.DataFrame,
) -> Iterator[Figure]:
    kind, s = sweep.request.kind, sweep.summary
    split = split_of(points["split"])
    if kind in ("dose", "factor", "strength"):
        axis: Any = {"dose": "n_neurons", "factor": "factor", "strength": "strength"}[kind]
        total = int(s["n_layers"]) * int(s["d_mlp"])
        yield sweep_charts.dose_curve(points, s["baseline"], axis, n_total=total)
        if not rates.empty:
            names = list(dict.fromkeys(rates["outcome"]))
            outcome = "switched" if "switched" in names else names[0]
            yield response_charts.outcome_curve(rates, outcome, axis)
        others = pd.DataFrame(s.get("collateral") or [])
        if not others.empty and kind == "dose":
            ranked = points[(points["arm"] == "ranked") & points["n_neurons"].notna()].sort_values("n_neurons")
            group = without_split(str(ranked["group"].iloc[-1]))
            yield sweep_charts.collateral(others, group, points, run.request.circuit, split)
    elif kind == "patch":
        means = run.summary["logit_diff"]
        other = means["perturbed_mean"] if sweep.request.condition == "original" else means["original_mean"]
        yield window_charts.patch_by_layer(points, s["baseline"], other)
        yield sweep_charts.patch_by_count(points)
    elif kind == "window":
        yield window_charts.window_map(points, s, split, "delta_mean")
        if not rates.empty:
            strengths = sorted(points["strength"].dropna().unique(), key=lambda x: (abs(abs(x) - 1), x))
            yield window_charts.switch_by_layer(rates, strengths[0], found, split)
    elif kind == "layers":
        yield window_charts.layer_ablation(points, split)
    elif kind == "held":
        yield window_charts.held(points, split)
    elif kind == "heads":
        dose = next((one for one in sweeps if one.request.kind == "dose"), None)
        if dose is not None:
            yield sweep_charts.heads_against_neurons(points, store.sweep_points(dose.sweep_id), split)
    if kind in INJECTION_KINDS and s.get("separability"):
        yield window_charts.separability(pd.DataFrame(s["separability"]))


def _proof(sweep: Sweep) -> str:
    """The points that moved most, each against its random controls."""
    controls = sweep.summary["controls"]
    tests = sorted(controls["comparisons"], key=lambda c: -abs(c["delta_mean"] or 0.0))
    if not tests:
        return f'<p class="quiet">Controls: {_h(controls["kind"])}.</p>'
    rows = [
        [
            _h(sweep_report.point_words(test["group"])),
            _h(SPLIT_NAMES.get(test["split"], test["split"])),
            str(test["n_prompts"]),
            number(test["delta_mean"], signed=True),
            f"{number(test['random_low'], signed=True)} to {number(test['random_high'], signed=True)}",
            _interval((test["excess_low"], test["excess_high"])),
            _p(test["p_holm"]),
            "yes" if test["beats_every_draw"] else "no",
        ]
        for test in tests[:N_PROOFS]
    ]
    some = f"the {len(rows)} largest of {len(tests)} tests" if len(tests) > len(rows) else f"{len(tests)} tests"
    caption = (
        f"Change of F (logits) at {some}, beside {plural(int(controls['n_draws']), 'draw')} of {controls['kind']}; "
        "excess: beyond the mean draw; p by permutation, corrected over all points (Holm)."
    )
    headings = ("Point", "Split", "n", "Change", "Random", "Excess, 95 %", "p", "Beyond all draws")
    return _table(headings, rows, caption)


def _before_after(store: Store, run: Run, sweep: Sweep, points: pd.DataFrame, circuit: Circuit | None) -> str:
    """A few prompts before and after the edit at the end of the curve, changed classes first."""
    answers = store.sweep_responses(sweep.sweep_id)
    ranked = points[(points["arm"] == "ranked") & points["key"].isin(answers["key"])]
    if answers.empty or ranked.empty:
        return ""
    split = split_of(ranked["split"])
    ranked, answers = ranked[ranked["split"] == split], answers[answers["split"] == split]
    moved = ranked.reindex(ranked["delta_mean"].abs().sort_values(kind="stable", na_position="first").index)
    far = moved.iloc[-1]  # moves F furthest, the last such point; any where F broke everywhere
    first = answers[answers["seed"] == answers["seed"].min()].set_index("pair_id")
    old, new = first[first["key"] == BASELINE_KEY], first[first["key"] == far["key"]]
    both = old.reset_index().merge(new.reset_index(), on="pair_id", suffixes=("_before", "_after"))
    both["changed"] = both["class_name_before"] != both["class_name_after"]
    both = both.sort_values(["changed", "pair_id"], ascending=[False, True])
    prompts = store.pairs(run.run_id).set_index("pair_id")[f"{sweep.request.condition}_text"]
    place, n_changed = sweep_report.point_words(without_split(str(far["group"]))), int(both["changed"].sum())
    told = [
        f"<p>{n_changed} of {len(both)} {_h(SPLIT_NAMES[split])} answers change class at {_h(place)}.</p>",
        '<p class="quiet">Marked: words that the answer beside lacks, where the two share some.</p>',
    ]
    for row in both.head(N_EXAMPLES).to_dict("records"):
        sides = answers_difference(row["text_before"], row["text_after"])
        cells = "".join(
            f"<div><h4>{name}</h4>{_answer(circuit, row[f'text_{when}'], row[f'class_name_{when}'], pieces)}</div>"
            for (when, name), pieces in zip((("before", "Unedited"), ("after", "Edited")), sides, strict=True)
        )
        prompt = _user(prompts.get(row["pair_id"], row["pair_id"]), "p")
        told.append(f'<article class="pair">{prompt}<div class="two">{cells}</div></article>')
    return _fold(f"Before and after, {min(N_EXAMPLES, len(both))} prompts", "".join(told))


# ------------------------------------------------------------------------------------------------ how to repeat it


def _provenance(page: _Page, store: Store, run: Run, sweeps: Sequence[Sweep]) -> None:
    s = run.summary
    facts = {
        "Run": run.run_id,
        "Request key": run.request_key,
        "Model": s.get("model") or run.request.model,
        "Revision": s.get("revision"),
        "Weights (SHA-256)": s.get("weights_sha256"),
        "Tokeniser (SHA-256)": s.get("tokenizer_sha256"),
        "Behaviour": run.request.circuit,
        "Behaviour's file (SHA-256)": s.get("circuit_sha256"),
        "Prompt set": PurePath(run.request.prompts).name,
        "Prompt set (SHA-256)": s.get("prompt_set_sha256"),
        "Pairs left out": len(s.get("skipped") or ()),
        "Largest error of the exact parts (logits)": s.get("decomposition_error"),
        "Structure, proved when it was loaded": verified(s.get("structure_check")),
        "Engine": s.get("engine_version"),
        **run.environment,
    }
    rows = [[_h(name), _user(value)] for name, value in facts.items() if value not in (None, "")]
    page.heading("How this was made")
    page.add(_table(("What", "Value"), rows))
    page.add("<p>The same request on the same weights gives the same run. To compute it again and compare:</p>")
    links = [_file_link("reproduce.json", f"{run.run_id}-reproduce.json", reproduce_json(store, run.run_id))]
    page.add(f"<p>{' '.join(links)} holds all it takes: <code>python -m pprobe_core reproduce FILE</code></p>")
    notes = [*(s.get("notes") or ()), *(s.get("model_notes") or ())]
    page.add(_list(notes))
    if not sweeps:
        page.add('<p class="quiet">No sweep has tested a cause in this run yet.</p>')


def _file_link(label: str, name: str, document: Mapping[str, Any]) -> str:
    data = base64.b64encode(document_text(document).encode()).decode()
    return f'<a download="{_h(name)}" href="data:application/json;base64,{data}">{_h(label)}</a>'


# ------------------------------------------------------------------------------------------------------ a comparison


def comparison_html(store: Store, found: Compared) -> str:
    """The report of a comparison as far as its runs and sweeps are there."""
    request = found.request
    names = [found.label(model) for model in request.models]
    page = _Page()
    page.add(f"<h1>{_h(compare_words.joined(names))} side by side</h1>")
    done = sum(part.state == "done" for part in found.parts)
    page.add(
        f'<p class="facts">{_h(plural(len(names), "model"))} · {_h(plural(len(request.circuits), "behaviour"))} · '
        f"{done} of {len(found.parts)} parts are there · seed {request.seed}</p>"
    )
    for reason, places in compare_frames.failures(
        found, lambda part: f"{found.label(part.unit.model)}, {part.unit.circuit}, {part.unit.kind}"
    ).items():
        page.add(f"<p><strong>Could not be made:</strong> {_h('; '.join(places[:3]))}: {_user(reason)}</p>")
    if not found.runs:
        page.add("<p>Nothing of it has been run yet.</p>")
        return _document("Comparison", page)
    colours = list(dict.fromkeys([*names, *(found.label(base) for base in found.bases.values())]))[:6]
    circuits = [c for c in request.circuits if any(c == of for _, of in found.runs)]
    titles = {c: found.circuits[c].title if c in found.circuits else c for c in circuits}
    _overview(page, store, found, colours, circuits)
    for circuit in circuits:
        _circuit(page, store, found, colours, circuit, titles[circuit])
    _fit(page, found, colours, circuits)
    _parts(page, store, found)
    return _document(f"Comparison of {', '.join(names)}", page)


def _overview(page: _Page, store: Store, found: Compared, models: Sequence[str], circuits: Sequence[str]) -> None:
    ratios = compare_frames.ratios(found)
    page.heading("FFN/Skip of every model and behaviour")
    page.figure(compare_charts.ratio_matrix(ratios, models, circuits))
    page.figure(compare_charts.ratio_intervals(ratios, models, circuits))
    sentences = compare_report.pair_sentences(found, store)
    page.heading("In words")
    page.add(_list(sentences["sentence"]))
    many = compare_words.many_words(int(sentences["clear"].notna().sum()))
    page.add(f'<p class="quiet">{_h(many)}</p>' if many else "")


def _circuit(page: _Page, store: Store, found: Compared, models: Sequence[str], circuit: str, title: str) -> None:
    labels = {found.label(model) for model in found.request.models}
    page.heading(title)
    profile = compare_frames.profiles(found, store, "lens_after_ffn")
    page.figure(compare_charts.depth_profile(profile[profile["label"].isin(labels)], models, circuit, "lens_after_ffn"))

    def rates(sweep_id: str) -> pd.DataFrame:
        return compare_frames.outcome_table(store, sweep_id)

    doses = compare_frames.doses(found, store, rates)
    if not doses[doses["circuit"] == circuit].empty:
        page.figure(compare_charts.dose_overlay(doses, models, circuit))
    windows = compare_frames.windows(found, store, rates)
    mine = windows[windows["circuit"] == circuit]
    if not mine.empty:
        strengths = (mine["strength"] * mine["toward_other"].fillna(1).astype(float)).dropna().unique()
        strength = min(sorted(strengths), key=lambda value: abs(value - 1))
        page.figure(compare_charts.window_overlay(windows, models, circuit, float(strength)))
    twins = compare_frames.twins(found, store)
    if not twins.empty and (twins["circuit"] == circuit).any():
        tests = compare_stats.opposition_tests(twins, found.request.seed)
        page.add(_list(compare_words.opposition_sentence(t, title) for t in tests if t.circuit == circuit))
        page.figure(compare_charts.opposition_pairs(twins, models, circuit))


def _fit(page: _Page, found: Compared, models: Sequence[str], circuits: Sequence[str]) -> None:
    points = compare_frames.fit_points(found)
    if points.empty:
        return
    fit = compare_stats.fit(points, seed=found.request.seed)
    page.heading("Does FFN/Skip foretell what switching neurons off does?")
    page.add(f"<p>{_h(compare_words.fit_sentence(fit, len(points)))}</p>")
    page.figure(compare_charts.fit_scatter(points, models, fit, circuits, with_paper=False))


def _parts(page: _Page, store: Store, found: Compared) -> None:
    rows = []
    for part in found.parts:
        run = found.runs.get((part.unit.model, part.unit.circuit))
        weights = str((run.summary if run else {}).get("weights_sha256") or "")[:16]
        n = str((run.summary if run else {}).get("n_pairs") or "")
        ids = f"<code>{part.sweep_id or part.run_id or ''}</code>"
        rows.append(
            [
                _user(found.label(part.unit.model)), _h(part.unit.circuit), part.unit.kind, part.state, ids, n,
                _user(PurePath(part.unit.probe.prompts).name), f"<code>{_h(weights)}</code>",
            ]
        )  # fmt: skip
    page.heading("What it was made from")
    headings = ("Model", "Behaviour", "Part", "State", "Run or sweep", "Pairs", "Prompt set", "Weights")
    page.add(_fold(plural(len(rows), "part"), _table(headings, rows)))
    link = _file_link("reproduce.json", "compare-reproduce.json", comparison_json(store, found))
    page.add(
        f"<p>{link} holds what it takes to compute it again: <code>python -m pprobe_core reproduce FILE</code></p>"
    )


# ------------------------------------------------------------------------------------------------------- the pieces


def _interval(values: Sequence[float | None] | None, digits: int = 2) -> str:
    if not values or values[0] is None or values[1] is None:
        return "no interval"
    return f"[{number(values[0], digits)}, {number(values[1], digits)}]"


def _percent(share: Any) -> str:
    return "–" if share is None or share != share else f"{100 * share:.0f} %"


def _percents(values: Sequence[float | None] | None) -> str:
    if not values or values[0] is None or values[1] is None:
        return "no interval"
    return f"[{100 * values[0]:.0f}, {100 * values[1]:.0f}] %"


def _p(value: float | None) -> str:
    return "–" if value is None or value != value else "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


STYLE = """
:root{color-scheme:light dark;--ink:#1e262c;--quiet:#59636b;--paper:#fff;--card:#f3f5f6;--line:#dce1e4;--accent:#1b6b86}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8eb;--quiet:#a3adb5;--paper:#12171b;--card:#1b2228;--line:#323b43;
--accent:#6dbbd6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 "Source Sans 3","Source Sans Pro",system-ui,
"Segoe UI",Roboto,"Noto Sans CJK SC",sans-serif}
main,footer{max-width:880px;margin:0 auto;padding:1.2rem 1.2rem 2rem}
h1{font-size:1.9rem;line-height:1.2;margin:.6rem 0 .3rem}
h2{font-size:1.35rem;margin:2.2rem 0 .6rem}
h3,h4{font-size:1rem;margin:.8rem 0 .2rem}
h4{color:var(--quiet)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.2rem 1.2rem .8rem;margin:1.2rem 0}
.card h2{margin-top:.8rem}
.facts,.quiet,figcaption,caption,footer{color:var(--quiet);font-size:.9rem}
.finding{font-weight:600}
figure{margin:1.4rem 0 2rem}
figure svg{display:block;width:100%;min-width:540px;max-width:812px;height:auto}
.omits{font-style:italic}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;margin:.6rem 0}
caption{caption-side:bottom;text-align:left;padding-top:.4rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
code{font-size:.88em;overflow-wrap:anywhere;background:var(--card);padding:0 .2em;border-radius:4px}
.words{unicode-bidi:isolate;overflow-wrap:anywhere;white-space:pre-wrap}
mark{background:none;color:inherit;font-weight:600;text-decoration:underline;text-underline-offset:.18em}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:.4rem 1.6rem}
.pair{border-top:1px solid var(--line);padding:.4rem 0 .8rem}
.badge{border:1px solid var(--line);border-radius:99px;padding:0 .6em;font-size:.85em;color:var(--quiet)}
.ladder{display:flex;flex-wrap:wrap;gap:.4rem;padding:0;list-style:none;font-size:.9rem}
.ladder li{border:1px solid var(--line);border-radius:99px;padding:.05rem .8rem;color:var(--quiet)}
.ladder .reached{border-color:var(--accent);color:var(--accent);font-weight:600}
summary{cursor:pointer;color:var(--accent);padding:.3rem 0}
a{color:var(--accent)}
@media print{:root{--ink:#000;--quiet:#444;--paper:#fff;--card:#fff;--line:#bbb;--accent:#1b6b86}
main,footer{max-width:none;padding:0}figure,.card,.pair,tr{break-inside:avoid}h2,h3{break-after:avoid}
details:not(.folded)::details-content{content-visibility:visible;block-size:auto}}
"""
