"""The tables of the result pages: neurons, pairs, history, comparison, provenance."""

import shlex
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits.schema import Circuit
from pprobe_core.probing.strings import written_strings
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Run
from pprobe_core.wording import plural, verified
from ui import cards, exports, library, picked, selection, shell, terms, words

NUMBER = st.column_config.NumberColumn
TEXT = st.column_config.TextColumn


def neuron_table(neurons: pd.DataFrame, brushed: bool) -> list[str]:
    """Neurons in the order of a ranking, with what each column means on its header; returns the ticked ones' names."""
    heading = f"{plural(len(neurons), 'neuron')}{' inside the selection' if brushed else ''}"
    if brushed and len(neurons) == shell.BRUSHED:
        heading = f"The first {heading}"
    st.markdown(f"**{heading}, in the ranking's order**")
    rows = neurons.assign(
        sign_consistency=100 * neurons["sign_consistency"],
        name=[charts.neuron_name(a, b) for a, b in zip(neurons["layer"], neurons["neuron"], strict=True)],
    )
    columns = [
        "rank", "name", "importance_mean", "importance_rms", "sign_consistency", "ablation_score", "coherence",
        "coupling", "act_original_mean", "act_perturbed_mean",
    ]  # fmt: skip
    # Ticks stand for places in the table, so other rows make another table.
    names = rows["name"].tolist()
    rows_id = zlib.crc32(" ".join(names).encode())
    start = picked.start("ticked", rows_id)
    given = [names.index(name) for name in start.split(",") if name in names]
    if start and not given:  # a link names neurons that are not listed here
        picked.forget("ticked")
        start = picked.start("ticked", rows_id)
    event = exports.table(
        rows[columns],
        hide_index=True,
        height=430,
        key=f"neuron_table_{rows_id:08x}{tag(start)}",
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": given}} if given else None,
        alt="Neurons by rank with their scores; arrow keys move, Shift and Space tick a row",
        column_config={
            "rank": NUMBER("Rank", help="Place in the chosen ranking, over all neurons.", width=48),
            "name": TEXT("Neuron", help=words.GLOSSARY["Neuron"], width=74),
            "importance_mean": NUMBER("Mean I", format="%+.2f", help=words.GLOSSARY["Importance I"], width=66),
            "importance_rms": NUMBER(
                "RMS I", format="%.2f", help="Typical size of I over pairs, whatever its sign (logits).", width=56
            ),
            "sign_consistency": NUMBER(
                "Same sign", format="%.0f %%", help=words.GLOSSARY["Sign consistency"], width=76
            ),
            "ablation_score": NUMBER(
                "Ablation",
                format="%+.2f",
                help="Ablation score: what switching the neuron off would do to the original answer on the direct "
                "path, as far as it also responds to the perturbation (logits).",
                width=74,
            ),
            "coherence": NUMBER("Coherence", format="%.2f", help=words.GLOSSARY["Coherence"]),
            "coupling": NUMBER("Coupling", format="%+.3f", help=words.GLOSSARY["Coupling"]),
            "act_original_mean": NUMBER(
                "Act. original", format="%+.3f", help="Mean activation on the original prompts."
            ),
            "act_perturbed_mean": NUMBER(
                "Act. perturbed", format="%+.3f", help="Mean activation on the perturbed prompts."
            ),
        },
    )
    ticked = names_at(names, event.selection.rows)
    picked.told("ticked", ",".join(ticked))
    return ticked


def tag(start: str) -> str:
    """What tells a widget that begins with something from one that begins with nothing."""
    return f"_{zlib.crc32(start.encode()):08x}" if start else ""


def names_at(names: Sequence[str], places: Sequence[int]) -> list[str]:
    """The names at the ticked places, in the table's order; places that are no longer there are left out."""
    return [names[place] for place in sorted(set(places)) if 0 <= place < len(names)]


def pairs_table(pairs: pd.DataFrame, circuit: Circuit | None) -> int:
    """All pairs with their margins; returns the place of the chosen pair (the first one when none is chosen)."""
    ids = [str(pair_id) for pair_id in pairs["pair_id"]]
    classes = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    rows = pairs.assign(
        pair_id=short_ids(list(pairs["pair_id"])),
        delta=pairs["logit_diff_perturbed"] - pairs["logit_diff_original"],
        split=pairs["split"].map(words.SPLITS).fillna(pairs["split"]),
        class_original=pairs["class_original"].map(lambda c: classes.get(c, c)),
        class_perturbed=pairs["class_perturbed"].map(lambda c: classes.get(c, c)),
    )
    margin = "Logit difference F on this prompt; above zero leans to the target."
    exports.table(
        rows[
            [
                "pair_id",
                *(["note"] if (pairs["note"] != "").any() else []),
                "original_text",
                "perturbed_text",
                "logit_diff_original",
                "logit_diff_perturbed",
                "delta",
                "flipped",
                "class_original",
                "class_perturbed",
                "split",
                "predicted_delta",
            ]
        ],
        hide_index=True,
        height=300,
        key="pairs_table",
        on_select=lambda: take_over_tick("pairs_table", ids),
        selection_mode="single-row",
        alt="Prompt pairs with their logit differences; arrow keys move, Shift and Space tick a row",
        column_config={
            "pair_id": TEXT("Pair", help=words.HELP["pair"], width=48),
            "note": TEXT("What differs", help="The word that was changed, or what to know about this pair.", width=116),
            "original_text": TEXT("Original", help="Last user turn of the original prompt.", width=130),
            "perturbed_text": TEXT("Perturbed", help="Last user turn of its perturbed twin.", width=130),
            "logit_diff_original": NUMBER("F original", format="%+.2f", help=margin, width=76),
            "logit_diff_perturbed": NUMBER("F perturbed", format="%+.2f", help=margin, width=86),
            "delta": NUMBER("Change", format="%+.2f", help="Perturbed minus original, measured (logits).", width=62),
            "predicted_delta": NUMBER("Predicted", format="%+.2f", help="Sum of all neurons' importance I (logits)."),
            "flipped": st.column_config.CheckboxColumn("Flips", help=words.GLOSSARY["Flip rate"], width=54),
            "class_original": TEXT(
                "Answer orig.", help="Class of the answer the model wrote to the original prompt.", width=92
            ),
            "class_perturbed": TEXT(
                "Answer pert.", help="Class of the answer the model wrote to the perturbed prompt.", width=92
            ),
            "split": TEXT("Split", help=words.GLOSSARY["Discovery, validation, held out"]),
        },
    )
    return pair_picker(ids, [str(text) for text in pairs["original_text"]])


def pair_picker(ids: Sequence[str], prompts: Sequence[str]) -> int:
    """The pair that is shown in full: chosen here, or ticked in the table above; returns its place."""
    selection.start_at("pair", ids, ids[0])
    short = dict(zip(ids, short_ids(ids), strict=True))
    shown = dict(zip(ids, prompts, strict=True))
    st.selectbox(
        "Shown in full",
        ids,
        key="pair",
        format_func=lambda i: f"{short.get(i, i)} · {shell.readable_name(shown.get(i, ''), 90)}",
        help="The pair below. Ticking a row of the table chooses it too.",
        persist_state="session",
    )
    selection.write_address()
    return list(ids).index(st.session_state["pair"])


def take_over_tick(table_key: str, ids: Sequence[str]) -> None:
    """A ticked row of a table of pairs chooses that pair."""
    ticked = ((st.session_state.get(table_key) or {}).get("selection") or {}).get("rows") or []
    if ticked and ticked[0] < len(ids):
        selection.choose("pair", ids[ticked[0]])


def short_ids(ids: Sequence[str]) -> list[str]:
    """Pair ids without the beginning they share, where that keeps them apart."""
    short = [str(pair_id).rsplit("-", 1)[-1] for pair_id in ids]
    return short if len(set(short)) == len(short) else [str(pair_id) for pair_id in ids]


def pair_in_full(run: Run, pair: pd.Series, circuit: Circuit | None) -> None:
    """One pair of a run: both conversations and answers; folded away, its tokens and first tokens."""
    with st.container(border=True, key="pair_in_full"):
        st.markdown(f"### Pair {shell.escaped(str(pair['pair_id']))}")
        if pair["note"]:
            st.caption(f":material/info: {shell.escaped(str(pair['note']))}")
        for column, name in zip(st.columns(2, gap="large"), ("original", "perturbed"), strict=True):
            with column:
                margin = charts.number(pair[f"logit_diff_{name}"], signed=True)
                st.markdown(f"**{name.capitalize()} prompt**, logit difference {margin}")
                cards.conversation(pair[f"{name}_prompt"], pair[f"{name}_text"])
                cards.response(circuit, pair[f"response_{name}"], pair[f"class_{name}"], "Answer")
        shell.folded(
            "The same prompts as the model reads them, and its likeliest first words",
            ":material/token:",
            "pair_as_read",
            lambda: _as_read(run, pair),
        )


def _as_read(run: Run, pair: pd.Series) -> None:
    """Tokens of both prompts of a pair with the changed pieces marked, and the first tokens of both passes."""
    left, right = st.columns(2, gap="large")
    with left:
        cards.token_rows(pair["tokens_original"], pair["tokens_perturbed"])
        st.caption(
            terms.marked(
                "Marked: pieces that differ. ␣ is a space, ⏎ a line break. The rest is the model's chat format."
            )
        )
    tokens = shell.read("first_tokens", run.run_id)
    mine = tokens[tokens["pair_id"] == pair["pair_id"]]
    with right:
        if len(mine):
            of = run.run_id, pair["pair_id"]
            shell.figure(lambda: charts.first_tokens(mine), key="first_tokens", of=of)


def history(runs: pd.DataFrame) -> list[str]:
    """The list of runs; returns the ids of the chosen rows."""
    rows = runs.assign(
        flip_rate=100 * runs["flip_rate"],
        circuit=library.circuit_titles(runs["circuit"]),
        prompts=library.set_titles(runs["prompts"]),
        structure=runs["structure"].map(words.STRUCTURES).fillna(runs["structure"]),
        coupling=runs["coupling"].map(words.COUPLINGS).fillna(runs["coupling"]),
        thinking=runs["thinking"].map(words.THINKING).fillna(runs["thinking"]),
        strings_from=runs["strings_from"].map(words.STRINGS_FROM).fillna(runs["strings_from"]),
        source=sources(runs),
    )
    columns = [
        "created_at", "source", "circuit", "model", "prompts", "structure", "stage", "ffn_skip_mean", "flip_rate",
        "n_pairs", "strings_from", "run_id", "coupling", "thinking", "seconds", "n_forward_passes",
    ]  # fmt: skip
    event = exports.table(
        rows[columns],
        hide_index=True,
        height="content" if len(rows) <= 10 else 400,
        key=f"history_{st.session_state.get('_deleted', 0)}",  # a tick must not pass to the row that moves up
        on_select="rerun",
        selection_mode="multi-row",
        alt="Finished runs, newest first",
        column_config={
            "created_at": st.column_config.DatetimeColumn(
                "When (UTC)", format="D MMM YYYY, HH:mm", help="When it finished."
            ),
            "circuit": TEXT("Behaviour", help=words.HELP["circuit"]),
            "model": TEXT("Model", help=words.HELP["model"]),
            "prompts": TEXT("Prompts", help=words.HELP["prompts"]),
            "structure": TEXT("Verdict", help="What kind of circuit the run points to."),
            "stage": TEXT("Stage", help=words.HELP["stage"]),
            "ffn_skip_mean": NUMBER("FFN/Skip", format="%.2f", help=words.HELP["ffn_skip"]),
            "flip_rate": NUMBER("Flips", format="%.0f %%", help=words.HELP["flip_rate"]),
            "n_pairs": NUMBER("Pairs", help="Prompt pairs measured."),
            "source": TEXT("Source", help=words.HELP["recorded"]),
            "coupling": TEXT("Coupling", help=words.HELP["coupling"]),
            "strings_from": TEXT("Tokens", help=words.HELP["strings_from"]),
            "thinking": TEXT("Thinking", help=words.HELP["thinking"]),
            "seconds": NUMBER("Seconds", format="%.1f", help="Time the computation took."),
            "n_forward_passes": NUMBER("Passes", help="Forward passes spent on the pairs: two for each."),
            "run_id": TEXT("Run", help="First digits of the fingerprint of everything the run depends on."),
        },
    )
    return [str(runs.iloc[i]["run_id"]) for i in event.selection.rows if i < len(runs)]


def sources(runs: pd.DataFrame) -> list[str]:
    """Of each run, whether it came with the program or was computed here."""
    return ["Recorded" if recorded else "Here" for recorded in runs["recorded"]]


def side_by_side(run_a: Run, run_b: Run) -> None:
    """Headline numbers of two runs, one row per number."""
    rows = []
    for label, key, digits in (
        ("Pairs", ("n_pairs",), 0),
        ("Pairs that flip", ("flip_rate",), None),
        ("FFN/Skip", ("ffn_skip", "mean"), 2),
        ("F on original", ("logit_diff", "original_mean"), 2),
        ("F on perturbed", ("logit_diff", "perturbed_mean"), 2),
        ("Change of F, measured", ("logit_diff", "delta_mean"), 2),
        ("Change of F, predicted", ("logit_diff", "predicted_delta_mean"), 2),
        ("Verdict", ("verdict", "structure"), 0),
        ("Seconds", ("seconds",), 1),
    ):
        rows.append({"What": label, "A": _shown(run_a, key, digits), "B": _shown(run_b, key, digits)})
    rows.append({"What": "Stage", "A": run_a.stage, "B": run_b.stage})
    for label, key in (
        ("FFN/Skip, 95 %", ("ffn_skip", "interval")),
        ("Change of F, 95 %", ("logit_diff", "delta_interval")),
    ):
        rows.append({"What": label, "A": shell.interval(_value(run_a, key)), "B": shell.interval(_value(run_b, key))})
    settings = (
        ("Model", "model"),
        ("Behaviour", "circuit"),
        ("Prompts", "prompts"),
        ("Coupling", "coupling"),
        ("Thinking", "thinking"),
        ("Tokens", "strings_from"),
        ("Seed", "seed"),
    )
    for label, name in settings:
        rows.append({"What": label, "A": _setting(run_a, name), "B": _setting(run_b, name)})
    table = pd.DataFrame(rows).set_index("What")
    exports.table(
        table,
        height="content",
        key="two_runs",
        alt="Numbers and settings of the two runs side by side",
        column_config={
            "What": TEXT("What", width=150, help="Which number or setting is compared. F is the logit difference."),
            "A": TEXT("A", width=128, help="Of the run chosen as Run A."),
            "B": TEXT("B", width=128, help="Of the run chosen as Run B."),
        },
    )


def shared_neurons(run_a: Run, run_b: Run, k: int = 50) -> str:
    """How many of the first k neurons two runs of equally shaped models share, and how many chance would give."""
    shapes = [[int(run.summary.get(name) or 0) for name in ("n_layers", "d_mlp")] for run in (run_a, run_b)]
    if not all(shapes[0]) or shapes[0] != shapes[1]:
        return "The two models have other numbers of neurons, so single neurons cannot be compared."
    rows = shell.store().compare_neurons(run_a.run_id, run_b.run_id, "shared", k)
    both = int(((rows["rank_a"] <= k) & (rows["rank_b"] <= k)).sum())
    chance = k * k / (shapes[0][0] * shapes[0][1])
    return (
        f"{both} of the first {k} neurons (shared ranking) {'stands' if both == 1 else 'stand'} in both lists; "
        f"two random lists would share about {charts.number(chance, 1)}."
    )


def _value(run: Run, path: tuple[str, ...]) -> Any:
    value: Any = run.summary
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _setting(run: Run, name: str) -> str:
    """What was asked for, in the words the pages use."""
    value = str(getattr(run.request, name))
    if name == "circuit":
        return library.circuit_title(value)
    named = {"coupling": words.COUPLINGS, "thinking": words.THINKING, "strings_from": words.STRINGS_FROM}
    return named[name].get(value, value) if name in named else value


def _shown(run: Run, path: tuple[str, ...], digits: int | None) -> str:
    value = _value(run, path)
    if isinstance(value, str):
        return words.STRUCTURES.get(value, value)
    if digits is None:  # a share
        return "–" if value is None else f"{100 * value:.0f} %"
    return charts.number(value, digits)


def provenance(run: Run) -> None:
    """Everything a run depends on, so that it can be repeated."""
    s = run.summary
    facts = {
        "Run": run.run_id,
        "Request key": run.request_key,
        "Model": s.get("model") or run.request.model,
        "Weights (SHA-256)": s.get("weights_sha256"),
        "Tokeniser (SHA-256)": s.get("tokenizer_sha256"),
        "Circuit (SHA-256)": s.get("circuit_sha256"),
        "Prompt set (SHA-256)": s.get("prompt_set_sha256"),
        "Revision": s.get("revision"),
        "Coupling": words.COUPLINGS.get(run.request.coupling, run.request.coupling),
        "Thinking": words.THINKING_STATES.get(str(s.get("thinking_state"))),
        "Tokens": words.STRINGS_FROM[run.request.strings_from],
        "Harvested from run": run.request.harvested_from,
        "Seed": run.request.seed,
        "Forward passes": s.get("n_forward_passes"),
        "Largest error of the exact parts (logits)": s.get("decomposition_error"),
        "Structure, proved when it was loaded": verified(s.get("structure_check")),
        "Answer rules": (s.get("generation") or {}).get("rules_version"),
        "Engine": s.get("engine_version"),
        "Seconds": charts.number(s.get("seconds"), 1),
        **run.environment,
    }
    rows = [{"": name, "Value": str(value)} for name, value in facts.items() if value not in (None, "")]
    exports.table(
        pd.DataFrame(rows).set_index(""),
        height="content",
        key="provenance",
        alt="What this run depends on",
        column_config={
            "": TEXT("", width=320, help="What the run depends on, or what was measured on the way."),
            "Value": TEXT("Value", width=640, help="SHA-256 values tell whether two runs used the very same files."),
        },
    )
    st.caption(terms.marked("The same request on the same weights gives the same run."))
    st.code(command_line(run.request), language="bash", wrap_lines=True)


def command_line(request: ProbeRequest) -> str:
    """The command that asks for the same run."""
    parts = ["python", "-m", "pprobe_core", "probe", "--model", request.model, "--circuit", request.circuit]
    parts += ["--prompts", request.prompts, "--coupling", request.coupling]
    if request.limit:
        parts += ["--limit", str(request.limit)]
    if request.seed != ProbeRequest.seed:
        parts += ["--seed", str(request.seed)]
    if not request.generate:
        parts += ["--no-generate"]
    if request.thinking != "auto":
        parts += ["--thinking", request.thinking]
    if request.strings_from == "harvested":  # the first run suggests the same tokens again
        parts += ["--harvest"]
    elif request.strings_from == "given":
        parts += [f"--target={written_strings(request.target)}", f"--control={written_strings(request.control)}"]
    return shlex.join(parts)
