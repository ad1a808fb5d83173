"""A comparison as other programs and people read it: one JSON object, a short text."""

from dataclasses import asdict
from itertools import combinations
from typing import Any

import pandas as pd

from pprobe_core import compare_frames, compare_stats, compare_words, paper
from pprobe_core.compare_frames import Compared
from pprobe_core.store import Store
from pprobe_core.store.plain import plain, records
from pprobe_core.sweep_report import aligned
from pprobe_core.wording import plural


def differences(found: Compared, store: Store) -> dict[compare_words.PairKey, compare_stats.Difference | None]:
    """FFN/Skip of every two models on every circuit, pair by pair where they share prompts."""
    out: dict[compare_words.PairKey, compare_stats.Difference | None] = {}
    pairs = {place: store.pairs(run.run_id) for place, run in found.runs.items()}
    for circuit in found.request.circuits:
        for a, b in combinations(found.request.models, 2):
            if (a, circuit) in pairs and (b, circuit) in pairs:
                key = (circuit, found.label(a), found.label(b))
                out[key] = compare_stats.paired_difference(pairs[a, circuit], pairs[b, circuit], found.request.seed)
    return out


def compare_json(store: Store, found: Compared) -> dict[str, Any]:
    """Everything a comparison shows as one JSON-able object; null where nothing can be said.

    `parts` says where each piece stands; the other lists are the frames of compare_frames, and the sentences. Shares
    are fractions, F and its changes logits, `relative` and `effect` in units of the unedited F.
    """
    ratios, points = compare_frames.ratios(found), compare_frames.fit_points(found)
    topology, layers = compare_frames.topology(found, store), compare_frames.top_layers(found, store)
    rates = {s.sweep_id: compare_frames.outcome_table(store, s.sweep_id) for s in found.sweeps.values()}
    twins = compare_stats.opposition_tests(compare_frames.twins(found, store), found.request.seed)
    overlaps = [compare_frames.overlaps(found, store, model) for model in found.request.models]
    fit = compare_stats.fit(points, seed=found.request.seed)
    document = {
        "request": asdict(found.request),
        "models": [
            {"model": model, "label": found.label(model), "base": found.bases.get(model)}
            for model in found.request.models
        ],
        "parts": records(compare_frames.matrix(found)),
        "ratios": records(ratios),
        "pairs_of_models": records(pair_sentences(found, store)),
        "profiles": {
            quantity: records(compare_frames.profiles(found, store, quantity))
            for quantity in compare_frames.PROFILE_QUANTITIES
        },
        "topology": records(topology),
        "layers_of_top_neurons": records(layers),
        "doses": records(compare_frames.doses(found, store, rates.__getitem__)),
        "windows": records(compare_frames.windows(found, store, rates.__getitem__)),
        "opposition": [
            asdict(test) | {"sentence": compare_words.opposition_sentence(test, _title(ratios, test.circuit))}
            for test in twins
        ],
        "overlaps": [row | {"sentence": compare_words.overlap_sentence(row)} for t in overlaps for row in records(t)],
        "fit_points": records(points),
        "fit": None if fit is None else asdict(fit),
        "fit_sentence": compare_words.fit_sentence(fit, len(points)),
        "paper": [asdict(number) | {"cited": paper.cited(number)} for number in paper.NUMBERS],
    }
    return dict(plain(document))


def compare_text(store: Store, found: Compared) -> str:
    """A comparison in plain words: what is there, the FFN/Skip table, a sentence per pair of models, the tests."""
    ratios, points = compare_frames.ratios(found), compare_frames.fit_points(found)
    sentences = pair_sentences(found, store)
    twins = compare_stats.opposition_tests(compare_frames.twins(found, store), found.request.seed)
    fit = compare_stats.fit(points, seed=found.request.seed)
    done = sum(part.state == "done" for part in found.parts)
    lines = [
        f"{plural(len(found.request.models), 'model')}, {plural(len(found.request.circuits), 'circuit')}: {done} of "
        f"{len(found.parts)} parts are there",
        *_failures(found),
        "",
        "FFN/Skip of the last layer, mean [95 % interval over pairs]",
        *_ratio_table(found, ratios),
        "",
        *[f"- {sentence}" for sentence in sentences["sentence"]],
        *filter(None, [compare_words.many_words(int(sentences["clear"].notna().sum()))]),
    ]
    if twins:
        lines += ["", "Before and after alignment"]
        lines += [f"- {compare_words.opposition_sentence(t, _title(ratios, t.circuit))}" for t in twins]
    if len(points):
        lines += ["", compare_words.fit_sentence(fit, len(points))]
    return "\n".join(lines)


def pair_sentences(found: Compared, store: Store) -> pd.DataFrame:
    """A sentence for every two models and circuit: compare_words.pair_sentences of what is there."""
    ratios, points = compare_frames.ratios(found), compare_frames.fit_points(found)
    names = [found.label(model) for model in found.request.models]
    return compare_words.pair_sentences(ratios, names, differences(found, store), points)


def _title(ratios: pd.DataFrame, circuit: str) -> str:
    titles = ratios[ratios["circuit"] == circuit]["circuit_title"]
    return str(titles.iloc[0]) if len(titles) else circuit


def _failures(found: Compared) -> list[str]:
    """What could not be made, each reason once with what it kept from being made."""
    reasons = compare_frames.failures(
        found, lambda part: f"{found.label(part.unit.model)}, {part.unit.circuit}, {part.unit.kind}"
    )
    return [f"{'; '.join(names[:3])}{' and more' if len(names) > 3 else ''}: {why}" for why, names in reasons.items()]


def _ratio_table(found: Compared, ratios: pd.DataFrame) -> list[str]:
    names = list(dict.fromkeys(ratios["label"]))
    rows = [["circuit", *names]]
    for circuit in found.request.circuits:
        cells = {row["label"]: row for row in ratios[ratios["circuit"] == circuit].to_dict("records")}
        rows.append([circuit, *(_ratio_cell(cells.get(name)) for name in names)])
    return aligned(rows, indent="")


def _ratio_cell(row: dict[Any, Any] | None) -> str:
    if row is None:
        return ""
    if row["note"]:
        return "failed" if str(row["note"]).startswith("cannot") else str(row["note"])
    if row["mean"] != row["mean"]:
        return "undefined"
    return f"{row['mean']:.2f} {compare_words.interval_words(row['low'], row['high'])}"
