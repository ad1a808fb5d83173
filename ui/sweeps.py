"""A finished sweep as the pages see it: choosing one, its data, what it found, its stage and its proof."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts, sweep_report
from pprobe_core.circuits.editor import folder_state
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions import outcomes
from pprobe_core.interventions.edits import parse_neurons
from pprobe_core.interventions.outcomes import OutcomeRate
from pprobe_core.interventions.steering import Steering, percent_range, steering
from pprobe_core.interventions.types import SweepPoint, SweepRequest
from pprobe_core.meaning import Tested
from pprobe_core.store import Run, Sweep
from pprobe_core.wording import with_minus
from ui import backend, cards, exports, kept, library, selection, shell, terms, words

KEPT = 8  # sweeps whose points and rates stay in memory: tens of megabytes each where the model is large
EMPTY_SPLITS = ("heldout", "validation", "discovery")


# -------------------------------------------------------------------------------------------- choosing a finished


def chosen_sweep(run: Run, kinds: Sequence[str], request: SweepRequest | None) -> Sweep | None:
    """The sweep to show: the one in the address, else the one the pickers ask for, else the newest of their kind.

    Without one of that kind it is the newest of the page's kinds.
    """
    known = shell.sweeps(run.run_id)
    known = known[known["kind"].isin(kinds)]
    ids = [str(i) for i in known["sweep_id"]]
    wanted = st.session_state["sweep"]
    if wanted in ids:
        return shell.store().sweep(wanted)
    asked = backend.sweep_id(request) if request is not None else None
    if asked in ids:
        return shell.store().sweep(str(asked))
    alike = [str(i) for i in known[known["kind"] == request.kind]["sweep_id"]] if request is not None else []
    newest = (alike or ids)[:1]
    return shell.store().sweep(newest[0]) if newest else None


def say_if_another(sweep: Sweep, request: SweepRequest | None) -> None:
    """A word where the shown sweep is not the one that the pickers ask for."""
    if request is not None and backend.sweep_id(request) != sweep.sweep_id:
        st.caption(terms.said(":material/info: This is another sweep of the run than the choices above ask for."))


def sweep_picker(run: Run, kinds: Sequence[str], sweep: Sweep) -> None:
    """Chooser of a finished sweep; the choice goes into the address."""
    known = shell.sweeps(run.run_id)
    titles = {str(row["sweep_id"]): sweep_title(row) for row in known[known["kind"].isin(kinds)].to_dict("records")}
    selection.put("sweep_picker", sweep.sweep_id)

    def choose() -> None:
        st.session_state["sweep"] = st.session_state["sweep_picker"]

    st.selectbox(
        "Shown sweep",
        list(titles),
        key="sweep_picker",
        format_func=lambda i: titles.get(i, i),
        help=words.HELP["sweep"],
        width=340,
        on_change=choose,
    )


def sweep_title(row: dict[Any, Any]) -> str:
    """One line that tells a sweep from its neighbours."""
    parts = [words.SWEEP_KINDS[row["kind"]]]
    if isinstance(row["ranking"], str):
        parts.append(words.SWEEP_RANKINGS[row["ranking"]][0].lower())
    parts.append(words.CONDITIONS[row["condition"]].lower())
    if row["position"] == "all":
        parts.append("everywhere")
    made = f"{'recorded ' if row['recorded'] else ''}{pd.Timestamp(row['created_at']):%d %b %H:%M} UTC"
    return f"{' · '.join(parts)} · {made}"


def facts(sweep: Sweep, seen: set[str] | None = None) -> str:
    """One line: what it cost, where, and how to ask for it again. `seen`: terms that are explained before it."""
    s = sweep.summary
    passes = (
        f"{s['n_full_passes']:,} full and {s['n_last_token_passes']:,} last-token forward passes in "
        f"{charts.number(s['seconds'], 1)} s (the paper spends about 150 full ones on a whole circuit)"
    )
    if s.get("measuring"):
        m = s["measuring"]
        passes += (
            f"; measuring {m['n_neurons']:,} single neurons once took {m['n_last_token_passes']:,} last-token passes"
        )
    where = words.CONDITIONS[s["condition"]].lower()
    return terms.said(
        f"Edited on the {where}, {words.POSITIONS[s['position']].lower()} · {passes} · sweep `{sweep.sweep_id}`",
        seen=seen,
    )


# ----------------------------------------------------------------------------------------------------------- data


@kept.frames(KEPT)
def _points(sweep_id: str, edition: str) -> pd.DataFrame:
    return shell.store().sweep_points(sweep_id, per_prompt=False, points=_point_values(sweep_id, edition))


def points(sweep: Sweep) -> pd.DataFrame:
    """The points of a finished sweep."""
    return _points(sweep.sweep_id, shell.store().edition)


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _point_values(sweep_id: str, edition: str) -> tuple[SweepPoint, ...]:
    return shell.store().points(sweep_id, per_prompt=False)


def answers(sweep: Sweep, keys: Sequence[str]) -> pd.DataFrame:
    """The answers at some points of a sweep with the labels given so far."""
    return shell.store().answers_at(sweep.sweep_id, keys)


@st.cache_resource(max_entries=KEPT, show_spinner="Counting the answers")
def _labelled_outcomes(sweep_id: str, edition: str, use_labels: bool, labels: str) -> tuple[OutcomeRate, ...]:
    return sweep_report.outcomes_of(shell.store(), sweep_id, use_labels=use_labels)


def _outcomes(sweep_id: str, edition: str, use_labels: bool = False, labels: str = "") -> tuple[OutcomeRate, ...]:
    # Arguments that are left out would be another key: the answers would be counted twice.
    return _labelled_outcomes(sweep_id, edition, use_labels, labels)


@kept.frames(KEPT)
def _rates(sweep_id: str, edition: str, use_labels: bool, labels: str) -> pd.DataFrame:
    return sweep_report.with_places(_outcomes(sweep_id, edition, use_labels, labels), _points(sweep_id, edition))


def rates(sweep: Sweep, use_labels: bool = False) -> pd.DataFrame:
    """Outcome rates of every point with the point's coordinates; the unedited model's have none."""
    labels = shell.store().label_state(sweep.sweep_id) if use_labels else ""
    return _rates(sweep.sweep_id, shell.store().edition, use_labels, labels)


@kept.frames(KEPT)
def _regimes(sweep_id: str, edition: str) -> pd.DataFrame:
    return sweep_report.with_places(outcomes.regimes(_outcomes(sweep_id, edition)), _points(sweep_id, edition))


def regimes(sweep: Sweep) -> pd.DataFrame:
    """The regime of every point that has answers, with the point's coordinates."""
    return _regimes(sweep.sweep_id, shell.store().edition)


def steering_of(run: Run, sweep: Sweep, circuit: Circuit) -> Steering:
    """The paper's three conditions with this run's numbers, and whether steering did work."""
    store = shell.store()
    rates = _outcomes(sweep.sweep_id, store.edition)
    return steering(circuit, run.summary, sweep.summary, _point_values(sweep.sweep_id, store.edition), rates)


def tested_with(sweep: Sweep) -> Tested:
    """A sweep with its points and outcome rates, as the words about it need them; no rates where its behaviour's file
    is gone."""
    store = shell.store()
    try:
        rates = _outcomes(sweep.sweep_id, store.edition)
    except BadRequest:
        rates = ()
    return Tested(sweep, _point_values(sweep.sweep_id, store.edition), rates)


def n_neurons(sweep: Sweep) -> int:
    """All neurons of the model."""
    return int(sweep.summary["n_layers"]) * int(sweep.summary["d_mlp"])


def outcome_titles(frame: pd.DataFrame) -> dict[str, str]:
    """Outcome -> title, in the order they come."""
    return dict(zip(frame["outcome"], frame["title"], strict=True)) if len(frame) else {}


def splits_of(frame: pd.DataFrame) -> list[str]:
    """The splits there are, held-out first."""
    there = set(frame["split"])
    return [split for split in EMPTY_SPLITS if split in there]


def predicted_patch(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Sum of the mean importance I of the neurons of every ranked point: n_neurons, predicted (logits)."""
    ranked = frame[(frame["arm"] == "ranked") & frame["n_neurons"].notna()].drop_duplicates("key")
    named = {neuron for chosen in ranked["neurons"] for neuron in parse_neurons(", ".join(chosen))}
    found = shell.store().importance_of(run.run_id, sorted(named))
    importance = {charts.neuron_name(*neuron): value for neuron, value in found.items()}
    sign = {"patch": 1.0, "restore": -1.0}
    return pd.DataFrame(
        {
            "n_neurons": ranked["n_neurons"],
            "predicted": [
                sign.get(variant, 1.0) * sum(importance.get(name, 0.0) for name in chosen)
                for variant, chosen in zip(ranked["variant"], ranked["neurons"], strict=True)
            ],
        }
    )


def finding(sweep: Sweep, rates: pd.DataFrame) -> str:
    """One sentence: what the largest dose did to the answers, beside the random draws; "" where there is none."""
    if rates.empty or sweep.request.kind not in ("dose", "patch"):
        return ""
    split = splits_of(rates)[0]
    changed = rates[(rates["outcome"] == "format_change") & (rates["split"] == split)]
    ranked = changed[(changed["arm"] == "ranked") & changed["n_neurons"].notna()].sort_values("n_neurons")
    if ranked.empty:
        return ""
    last = ranked.iloc[-1]
    random = changed[(changed["arm"] == "random") & (changed["group"] == last["group"])]["share"]
    beside = f"; random neurons {percent_range(random.min(), random.max())}" if len(random) else ""
    n = int(last["n_neurons"])
    what = "switched off" if sweep.request.kind == "dose" else "given the other prompt's values"
    return (
        f"With {n} of {n_neurons(sweep):,} neurons {what} ({words.SWEEP_RANKINGS[sweep.request.ranking][0].lower()} "
        f"ranking), {100 * last['share']:.0f} % of the {int(last['n'])} {words.SPLITS[split].lower()} answers change "
        f"class (95 % interval {100 * last['low']:.0f} to {100 * last['high']:.0f} %{beside})."
    )


def _against_the_verdict(run: Run, known: pd.DataFrame) -> str:
    """A sentence where the test of the neurons says otherwise than the reading of the two passes; else ""."""
    structure = str((run.summary.get("verdict") or {}).get("structure"))
    found = []
    for sweep_id in known[known["kind"] == "dose"]["sweep_id"]:
        sweep = shell.store().sweep(str(sweep_id))
        table = rates(sweep) if sweep.summary.get("generation") else pd.DataFrame()
        if table.empty:
            continue
        at = table[(table["outcome"] == "switched") & (table["split"] == splits_of(table)[0])]
        found.append((at[at["arm"] == "ranked"]["low"].max(), at[at["arm"] == "random"]["share"].max()))
    if not found:
        return ""
    moves = any(low > (0.0 if pd.isna(random) else random) for low, random in found)
    if structure == "routing" and moves:
        return (
            "That is more than the reading above expects of a routing circuit: FFN/Skip alone proves nothing, and the "
            "test counts."
        )
    if structure == "opposition" and not moves:
        return (
            "That is less than the reading above expects of an opposition circuit: these neurons, as ranked, change no "
            "more answers than random ones."
        )
    return ""


@st.cache_resource(max_entries=64, show_spinner=False)
def _findings(run_id: str, listing: str, circuits: object) -> tuple[str, ...]:
    """What dose and window sweeps of a run found, a sentence each, and a remark where that is not what was expected."""
    store, known = shell.store(), shell.sweeps(run_id)
    run = store.run(run_id)
    circuit = library.circuit_of(run.request.circuit)
    sentences = []
    for kind in ("dose", "window"):
        for sweep_id in known[known["kind"] == kind]["sweep_id"]:
            sweep = store.sweep(str(sweep_id))
            if not sweep.summary.get("generation"):
                continue
            text = finding(sweep, rates(sweep)) if kind == "dose" else ""
            if kind == "window" and circuit is not None:
                text = f"Injection: {steering_of(run, sweep, circuit).sentence}"
            if text:
                sentences.append(text)
                break
    remark = _against_the_verdict(run, known)
    return (*sentences, remark) if remark else tuple(sentences)


def tested(run: Run) -> None:
    """Below a verdict: what interventions on this run found so far, or where to start one."""
    sentences = _findings(run.run_id, shell.store().listing, folder_state())
    with st.container(border=True, key="tested"):
        st.markdown("**What happened when it was tested.**" if sentences else "**Nothing was tested in this run yet.**")
        seen: set[str] = set()
        for sentence in sentences:
            st.markdown(f"- {terms.marked(sentence, seen=seen)}")
        with st.container(horizontal=True):
            query = {"run": run.run_id}
            for page, label in ((shell.DOSE, "Switch neurons off"), (shell.WINDOW, "Inject a direction")):
                st.page_link(page, label=label, icon=":material/arrow_forward:", query_params=query)


# ----------------------------------------------------------------------------------------------- stage and proof


def stage_card(run: Run, sweep: Sweep) -> None:
    """How far this sweep takes the evidence, and why."""
    with st.container(border=True, key="stage_card"):
        cards.stage_ladder(str(sweep.summary["stage"]))
        seen: set[str] = set()
        reasons = (terms.marked(with_minus(str(text)), seen=seen) for text in sweep.summary["stage_reasons"])
        st.markdown("\n".join(f"- {reason}" for reason in reasons))
        if run.stage != sweep.summary["stage"]:
            st.caption(terms.said(f"With all its sweeps the run has reached the stage *{run.stage}*.", seen=seen))


def proof_table(sweep: Sweep) -> None:
    """Every point against its random controls: excess, interval, permutation test and Holm's correction."""
    rows = pd.DataFrame(sweep.summary["controls"]["comparisons"])
    if rows.empty:
        st.caption(terms.said("This sweep has no random controls."))
        return
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rows["split"] = rows["split"].map(words.SPLITS).fillna(rows["split"])
    rows["group"] = [sweep_report.point_words(group) for group in rows["group"]]
    exports.table(
        rows[
            [
                "group",
                "split",
                "n_prompts",
                "delta_mean",
                "random_low",
                "random_high",
                "excess",
                "excess_low",
                "excess_high",
                "p_value",
                "p_holm",
                "beats_every_draw",
                "n_draws",
            ]
        ],
        hide_index=True,
        height="content" if len(rows) <= 9 else 340,
        key="proof_table",
        alt="Every point against its random controls",
        column_config={
            "group": text("Point", help="Where, or how many, and how much is edited.", width="medium"),
            "split": text("Split", help=words.HELP["split"]),
            "n_prompts": number("n", help="Prompts measured."),
            "delta_mean": number("Change", format="%+.2f", help="Mean change of F by the edit (logits)."),
            "random_low": number("Random from", format="%+.2f", help="Smallest mean change of the random draws."),
            "random_high": number("Random to", format="%+.2f", help="Largest mean change of the random draws."),
            "excess": number("Excess", format="%+.2f", help="Change beyond the mean of the draws (logits)."),
            "excess_low": number("95 % from", format="%+.2f", help="Bootstrap interval of the excess over prompts."),
            "excess_high": number("95 % to", format="%+.2f", help="Bootstrap interval of the excess over prompts."),
            "p_value": number("p", format="%.4f", help="Permutation test: edit and draws exchanged within prompts."),
            "p_holm": number("p, Holm", format="%.4f", help="Corrected over all points of this split."),
            "beats_every_draw": st.column_config.CheckboxColumn(
                "Beyond all draws", help="Further out than every single random draw."
            ),
            "n_draws": number("Draws", help="Random draws that stand beside the point."),
        },
    )
    st.caption(
        terms.marked(
            f"Controls: {sweep.summary['controls']['kind']}. A point shows more than chance when it lies beyond every "
            "draw, the interval of its excess is clear of zero and its corrected p is below 0.05."
        )
    )
