"""What the pages of interventions share: asking for a sweep, choosing a finished one, answers before and after."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import pandas as pd
import streamlit as st

from pprobe_core import charts, sweep_report
from pprobe_core.circuits.responses import side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.interventions import outcomes
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.steering import Steering, percent_range, steering
from pprobe_core.interventions.types import BASELINE_KEY, SWEEP_RANKINGS, SweepKind, SweepRequest
from pprobe_core.store import Run, Sweep
from pprobe_core.wording import plural
from ui import backend, cards, shell, words

COORDINATES = ("kind", "arm", "draw", "n_neurons", "layer", "layers", "strength", "factor", "variant", "group")
EMPTY_SPLITS = ("heldout", "validation", "discovery")


# ------------------------------------------------------------------------------------------------ asking for one


def numbers_of(text: str, what: str) -> tuple[float, ...]:
    """Numbers separated by commas or spaces. Raises BadRequest naming the first that is none."""
    found = []
    for item in re.split(r"[\s,;]+", text.replace("−", "-").strip()):
        if not item:
            continue
        try:
            found.append(float(item))
        except ValueError:
            raise BadRequest(
                f"“{item}” in {what} is no number. Write numbers separated by commas, such as 1, 5, 20."
            ) from None
    return tuple(found)


def whole_numbers_of(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers and ranges such as 5-8. Raises BadRequest naming the first that is none."""
    found: list[int] = []
    for item in re.split(r"[\s,;]+", text.strip()):
        if not item:
            continue
        match = re.fullmatch(r"(\d{1,9})(?:[-–](\d{1,9}))?", item)
        if match is None or (match[2] and int(match[2]) < int(match[1])) or (match[2] and int(match[2]) > 100_000):
            raise BadRequest(f"“{item}” in {what} is no whole number. Write numbers such as 1, 5, 20 or ranges as 5-8.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))


def use_defaults_of(run: Run, circuit: Circuit | None) -> None:
    """When another run is shown, the pickers go back to what its circuit states."""
    state = st.session_state
    if state.get("_sweep_run") == run.run_id:
        return
    state["_sweep_run"] = run.run_id
    base = default_request(circuit, run.run_id, "dose")
    for key, value in (
        ("sweep_condition", base.condition),
        ("sweep_position", base.position),
        ("sweep_draws", base.draws),
        ("sweep_answers", True),
        ("sweep_seeds", 1),
        ("sweep_doses", ""),
        ("sweep_factors", ""),
        ("sweep_layers", ""),
        ("sweep_strengths", ""),
        ("sweep_direction", base.direction),
        ("sweep_scale", "relative"),
    ):
        state[key] = value
    if state.get("_chosen_in") != run.run_id:
        state["sweep_ranking"] = base.ranking


def switch_off(run_id: str, names: Sequence[str]) -> None:
    """Make these neurons of a run the ones that the Dose response page switches off."""
    state = st.session_state
    state["run"], state["sweep"] = run_id, ""
    state["chosen_neurons"], state["sweep_ranking"], state["dose_kind"] = ", ".join(names), "chosen", "dose"
    state["sweep_doses"] = ""
    state["_chosen_in"] = run_id


def condition_picker() -> None:
    """Which prompts are edited."""
    st.selectbox(
        "Edited on",
        list(words.CONDITIONS),
        key="sweep_condition",
        format_func=lambda c: words.CONDITIONS[c],
        help=words.HELP["condition"],
        persist_state="session",
    )


def position_picker() -> None:
    """At which positions."""
    st.selectbox(
        "Position",
        list(words.POSITIONS),
        key="sweep_position",
        format_func=lambda p: words.POSITIONS[p],
        help=words.HELP["position"],
        persist_state="session",
    )


def ranking_picker() -> None:
    """Which neurons come first, with the question that order answers."""
    st.selectbox(
        "Neurons by",
        SWEEP_RANKINGS,
        key="sweep_ranking",
        format_func=lambda r: words.SWEEP_RANKINGS[r][0],
        help=words.HELP["sweep_ranking"],
        persist_state="session",
    )


def keep_known(key: str, options: Sequence[Any]) -> None:
    """Let a picker whose kept choice is not there in this sweep start at its first option."""
    if st.session_state.get(key) not in options:
        st.session_state[key] = options[0]


def text_option(label: str, key: str, help_key: str, placeholder: str = "default") -> None:
    """A list of numbers as text."""
    st.text_input(label, key=key, help=words.HELP[help_key], placeholder=placeholder, persist_state="session")


def common_options() -> None:
    """Draws and sampling, in the fold for the few who change them."""
    columns = st.columns(2)
    with columns[0]:
        st.number_input("Random draws", 1, 50, key="sweep_draws", help=words.HELP["draws"], persist_state="session")
    with columns[1]:
        st.number_input("Answer seeds", 1, 20, key="sweep_seeds", help=words.HELP["n_seeds"], persist_state="session")


def request_of(run: Run, circuit: Circuit | None, kind: SweepKind) -> SweepRequest:
    """What the pickers ask for. Raises BadRequest for a list of numbers that is none."""
    state = st.session_state
    request = replace(
        default_request(circuit, run.run_id, kind),
        condition=state["sweep_condition"],
        draws=int(state["sweep_draws"]),
        responses=bool(state["sweep_answers"]) and kind not in ("layers", "held"),
        n_seeds=int(state["sweep_seeds"]),
    )
    if kind not in ("patch", "held"):
        request = replace(request, position=state["sweep_position"])
    if kind in ("window", "strength"):
        return replace(
            request,
            direction=state["sweep_direction"],
            relative=state["sweep_scale"] == "relative",
            layers=whole_numbers_of(state["sweep_layers"], "the layers"),
            strengths=numbers_of(state["sweep_strengths"], "the strengths"),
        )
    if kind in ("dose", "factor", "patch"):
        chosen = state["sweep_ranking"] == "chosen"
        names = re.split(r"[\s,;]+", str(state.get("chosen_neurons") or "").strip()) if chosen else []
        request = replace(
            request,
            ranking=state["sweep_ranking"],
            neurons=tuple(name for name in names if name),
            doses=whole_numbers_of(state["sweep_doses"], "the numbers of neurons"),
        )
    if kind == "factor":
        request = replace(request, factors=numbers_of(state["sweep_factors"], "the factors"))
    return request


def run_button(
    request: SweepRequest | None,
    label: str = "Run sweep",
    key: str = "sweep_button",
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """The button that asks for a sweep; what stands in its way is said below it."""
    job = job_of(request) if request is not None else None
    busy = job is not None and job.state in shell.ACTIVE
    if st.button(
        label,
        key=key,
        type="primary",
        icon=":material/play_arrow:",
        help=words.HELP["sweep_button"],
        disabled=request is None or busy,
        width=width,
    ):
        assert request is not None  # noqa: S101  (the button is disabled without)
        st.session_state["sweep"] = ""
        shell.submit(request)
        st.rerun()


def job_of(request: SweepRequest) -> Any:
    """The job of this request, None when it was never asked for (or cannot be)."""
    try:
        return backend.find_job(backend.sweep_job_id(request))
    except BadRequest:
        return None


def state_of(request: SweepRequest | None) -> None:
    """What is going on with the request of the pickers: progress, failure, cancelled, refused."""
    if refused := st.session_state.pop("refused", None):
        st.error(shell.escaped(refused), icon=":material/error:")
    job = job_of(request) if request is not None else None
    if job is None:
        return
    if job.state in shell.ACTIVE:
        shell.watch_job(job.job_id)
    elif job.state == "failed":
        st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    elif job.state == "cancelled":
        st.info("This sweep was cancelled. The points it measured are kept: Run goes on from there.")


# -------------------------------------------------------------------------------------------- choosing a finished


def chosen_sweep(run: Run, kinds: Sequence[str], request: SweepRequest | None) -> Sweep | None:
    """The sweep to show: the one in the address, else the one the pickers ask for, else the newest of their kind.

    Without one of that kind it is the newest of the page's kinds.
    """
    known = shell.store().sweeps(run.run_id)
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
        st.caption(":material/info: This is another sweep of the run than the choices above ask for.")


def sweep_picker(run: Run, kinds: Sequence[str], sweep: Sweep) -> None:
    """Chooser of a finished sweep; the choice goes into the address."""
    known = shell.store().sweeps(run.run_id)
    titles = {str(row["sweep_id"]): sweep_title(row) for row in known[known["kind"].isin(kinds)].to_dict("records")}
    st.session_state["sweep_picker"] = sweep.sweep_id

    def choose() -> None:
        st.session_state["sweep"] = st.session_state["sweep_picker"]

    st.selectbox(
        "Shown sweep",
        list(titles),
        key="sweep_picker",
        format_func=lambda i: titles.get(i, i),
        help=words.HELP["sweep"],
        width=420,
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
    return f"{' · '.join(parts)} · {pd.Timestamp(row['created_at']):%d %b %H:%M} UTC"


def facts(sweep: Sweep) -> str:
    """One line: what it cost, where, and how to ask for it again."""
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
    return f"Edited on the {where}, {words.POSITIONS[s['position']].lower()} · {passes} · sweep `{sweep.sweep_id}`"


# ----------------------------------------------------------------------------------------------------------- data


@st.cache_data(max_entries=24, show_spinner=False)
def _points(sweep_id: str, where: str) -> pd.DataFrame:
    return shell.store().sweep_points(sweep_id)


def points(sweep: Sweep) -> pd.DataFrame:
    """The points of a finished sweep."""
    return _points(sweep.sweep_id, str(shell.store().path))


def answers(sweep: Sweep) -> pd.DataFrame:
    """The answers of a sweep with the labels given so far."""
    return shell.store().sweep_responses(sweep.sweep_id)


@st.cache_data(max_entries=24, show_spinner="Counting the answers")
def _rates(sweep_id: str, where: str, use_labels: bool, n_labels: int) -> pd.DataFrame:
    store = shell.store()
    rows = pd.DataFrame(outcomes.as_rows(sweep_report.outcomes_of(store, sweep_id, use_labels=use_labels)))
    if rows.empty:
        return rows
    coordinates = store.sweep_points(sweep_id).drop_duplicates("key")[["key", *COORDINATES]]
    return rows.merge(coordinates, on="key", how="left")


def rates(sweep: Sweep, use_labels: bool = False) -> pd.DataFrame:
    """Outcome rates of every point with the point's coordinates; the unedited model's have none."""
    n_labels = int(answers(sweep)["label"].notna().sum()) if use_labels else 0
    return _rates(sweep.sweep_id, str(shell.store().path), use_labels, n_labels)


@st.cache_data(max_entries=24, show_spinner=False)
def _regimes(sweep_id: str, where: str) -> pd.DataFrame:
    store = shell.store()
    rows = pd.DataFrame([asdict(r) for r in outcomes.regimes(sweep_report.outcomes_of(store, sweep_id))])
    if rows.empty:
        return rows
    coordinates = store.sweep_points(sweep_id).drop_duplicates("key")[["key", *COORDINATES]]
    return rows.merge(coordinates, on="key", how="left")


def regimes(sweep: Sweep) -> pd.DataFrame:
    """The regime of every point that has answers, with the point's coordinates."""
    return _regimes(sweep.sweep_id, str(shell.store().path))


def steering_of(run: Run, sweep: Sweep, circuit: Circuit) -> Steering:
    """The paper's three conditions with this run's numbers, and whether steering did work."""
    store = shell.store()
    rates = sweep_report.outcomes_of(store, sweep.sweep_id)
    return steering(circuit, run.summary, sweep.summary, store.points(sweep.sweep_id), rates)


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


def class_rows(sweep: Sweep, circuit: Circuit | None, key: str) -> pd.DataFrame:
    """Answers per class at one point: the unedited model's, the edited one's, and those of its random draws."""
    frame = points(sweep)
    ranked = frame[frame["key"] == key].iloc[0]
    group = str(ranked["group"]).rsplit("/", 1)[0]
    draws = frame[(frame["arm"] == "random") & frame["group"].str.startswith(f"{group}/")]["key"].unique()
    found = answers(sweep)
    titles = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    parts = []
    for when, keys in (("unedited", [BASELINE_KEY]), ("edited", [key]), ("random", list(draws))):
        counts = found[found["key"].isin(keys)]["class_name"].value_counts()
        for name, n in counts.items():
            side = side_of(circuit, str(name), sweep.request.condition) if circuit else "other"
            parts.append({"when": when, "class_title": titles.get(str(name), str(name)), "side": side, "n": int(n)})
    return pd.DataFrame(parts, columns=["when", "class_title", "side", "n"])


def outcome_table(sweep: Sweep, key: str) -> None:
    """Every rate at one point: before, after, interval and McNemar's test, per split; by labels too, once there are."""
    at_point = rates(sweep)
    at_point = at_point[at_point["key"] == key]
    has_labels = bool(answers(sweep)["label"].notna().any())
    if has_labels:
        mine = rates(sweep, use_labels=True)
        mine = mine[mine["key"] == key].rename(columns={"share": "labelled"})[["outcome", "split", "labelled"]]
        at_point = at_point.merge(mine, on=["outcome", "split"], how="left")
    order = {split: place for place, split in enumerate(EMPTY_SPLITS)}
    at_point = at_point.sort_values("split", key=lambda splits: splits.map(order), kind="stable")
    rows = at_point.assign(
        split=at_point["split"].map(words.SPLITS).fillna(at_point["split"]),
        before=100 * at_point["n_before"] / at_point["n"],
        after=100 * at_point["share"],
        interval=[
            "–" if pd.isna(low) or pd.isna(high) else f"{100 * low:.0f} to {100 * high:.0f} %"
            for low, high in zip(at_point["low"], at_point["high"], strict=True)
        ],
        labelled=100 * at_point["labelled"] if has_labels else None,
    )
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    columns = ["title", "split", "n", "before", "after", "interval", "labelled", "p_holm"]
    st.dataframe(
        rows[[name for name in columns if name != "labelled" or has_labels]],
        hide_index=True,
        height=230,
        key="outcome_table",
        alt="Rates of the answers at this point",
        column_config={
            "title": text("What is counted", help=words.HELP["outcome"]),
            "split": text("Split", help=words.HELP["split"], width=86),
            "n": number("n", help="Answers.", width=44),
            "before": number("Before", format="%.0f %%", help="Share without the edit.", width=64),
            "after": number("After", format="%.0f %%", help="Share with the edit.", width=60),
            "interval": text("95 %", help="Interval of the share after (Wilson; over prompts with seeds).", width=90),
            "labelled": number("By labels", format="%.0f %%", help="Share after, with your labels.", width=70),
            "p_holm": number("p, Holm", format="%.3f", help=words.GLOSSARY["McNemar's test"]),
        },
    )


def predicted_patch(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Sum of the mean importance I of the neurons of every ranked point: n_neurons, predicted (logits)."""
    table = shell.read("neurons", run.run_id)
    names = [charts.neuron_name(a, b) for a, b in zip(table["layer"], table["neuron"], strict=True)]
    importance = dict(zip(names, table["importance_mean"], strict=True))
    ranked = frame[(frame["arm"] == "ranked") & frame["n_neurons"].notna()].drop_duplicates("key")
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


def tested(run: Run) -> None:
    """Below a verdict: what interventions on this run found so far, or where to start one."""
    store, circuit = shell.store(), shell.circuits().get(run.request.circuit)
    known = store.sweeps(run.run_id)
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
    if remark := _against_the_verdict(run, known):
        sentences.append(remark)
    with st.container(border=True, key="tested"):
        st.markdown("**What happened when it was tested.**" if sentences else "**Nothing was tested in this run yet.**")
        for sentence in sentences:
            st.markdown(f"- {shell.escaped(sentence)}")
        with st.container(horizontal=True):
            query = {"run": run.run_id}
            for page, label in ((shell.DOSE, "Switch neurons off"), (shell.WINDOW, "Inject a direction")):
                st.page_link(page, label=label, icon=":material/arrow_forward:", query_params=query)


# ----------------------------------------------------------------------------------------------- stage and proof


def stage_card(run: Run, sweep: Sweep) -> None:
    """How far this sweep takes the evidence, and why."""
    with st.container(border=True, key="stage_card"):
        cards.stage_ladder(str(sweep.summary["stage"]))
        st.markdown("\n".join(f"- {shell.escaped(str(reason))}" for reason in sweep.summary["stage_reasons"]))
        if run.stage != sweep.summary["stage"]:
            st.caption(f"With all its sweeps the run has reached the stage *{run.stage}*.")


def point_name(group: str) -> str:
    """A stored group in words: "layer 3, strength 0.5" for "window/difference_of_means/layer=3/strength=0.5"."""
    kind, variant = [*group.split("/"), ""][:2]
    names = []
    for part in group.split("/")[2:]:
        name, _, value = part.partition("=")
        if name == "n" and value.isdigit():
            names.append(plural(int(value), "head" if variant == "heads" else "neuron"))
        elif part != "factor=0" or kind == "factor":
            names.append(f"{name} {value}")
    return ", ".join(names) or group


def proof_table(sweep: Sweep) -> None:
    """Every point against its random controls: excess, interval, permutation test and Holm's correction."""
    rows = pd.DataFrame(sweep.summary["controls"]["comparisons"])
    if rows.empty:
        st.caption("This sweep has no random controls.")
        return
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rows["split"] = rows["split"].map(words.SPLITS).fillna(rows["split"])
    rows["group"] = [point_name(group) for group in rows["group"]]
    st.dataframe(
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
        f"Controls: {sweep.summary['controls']['kind']}. A point proves something when it lies beyond every draw, the "
        "interval of its excess is clear of zero and its corrected p is below 0.05."
    )


# ------------------------------------------------------------------------------------------------ before and after


def before_after(run: Run, sweep: Sweep, circuit: Circuit | None, key: str, place: str) -> None:
    """The same prompts before and after one edit, changed classes first; one row in full, with room for a label."""
    found = answers(sweep)
    if found.empty:
        st.info("This sweep holds no answers. Tick *Read the answers too* and run it again.", icon=":material/info:")
        return
    seed = int(found["seed"].min())
    found = found[found["seed"] == seed]
    old = found[found["key"] == BASELINE_KEY].set_index("pair_id")
    new = found[found["key"] == key].set_index("pair_id")
    rows = old.add_suffix("_before").join(new.add_suffix("_after"), how="inner").reset_index()
    if rows.empty:
        st.info("There are no answers at this point.", icon=":material/info:")
        return
    classes = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    prompts = shell.read("pairs", run.run_id).set_index("pair_id")[f"{sweep.request.condition}_text"]
    for when in ("before", "after"):
        rows[f"shown_{when}"] = rows[f"label_{when}"].fillna(rows[f"class_name_{when}"])
    rows["changed"] = rows["shown_before"] != rows["shown_after"]
    rows["prompt"] = rows["pair_id"].map(prompts)
    rows["split"] = rows["split_before"].map(words.SPLITS).fillna(rows["split_before"])
    rows = rows.sort_values(["changed", "split_before", "pair_id"], ascending=[False, False, True]).reset_index(
        drop=True
    )
    text = st.column_config.TextColumn
    event = st.dataframe(
        rows.assign(
            shown_before=rows["shown_before"].map(classes).fillna(rows["shown_before"]),
            shown_after=rows["shown_after"].map(classes).fillna(rows["shown_after"]),
        )[["changed", "prompt", "shown_before", "shown_after", "split"]],
        hide_index=True,
        height=300,
        key=f"answers_{place}",
        on_select="rerun",
        selection_mode="single-row",
        alt="Prompts with the class of the answer before and after the edit",
        column_config={
            "changed": st.column_config.CheckboxColumn("Changed", help="The class of the answer is another.", width=80),
            "prompt": text("Prompt", help="Last user turn of the edited prompt.", width="large"),
            "shown_before": text("Before", help="Class of the unedited model's answer."),
            "shown_after": text("After", help="Class of the edited model's answer."),
            "split": text("Split", help=words.HELP["split"]),
        },
    )
    n_changed = int(rows["changed"].sum())
    st.caption(
        f"{n_changed} of {len(rows)} answers change class (all splits). Tick a row to read both answers in full."
    )
    chosen = event.selection.rows
    row = rows.iloc[chosen[0] if chosen and chosen[0] < len(rows) else 0]
    _in_full(sweep, circuit, key, seed, row, place)


def _in_full(sweep: Sweep, circuit: Circuit | None, key: str, seed: int, row: pd.Series, place: str) -> None:
    with st.container(border=True, key=f"in_full_{place}"):
        st.markdown("**Prompt**")
        st.text(str(row["prompt"]))
        for column, when, answer_key in zip(
            st.columns(2, gap="large"), ("before", "after"), (BASELINE_KEY, key), strict=True
        ):
            with column:
                cards.response(
                    circuit,
                    row[f"text_{when}"],
                    row[f"class_name_{when}"],
                    "Unedited" if when == "before" else "Edited",
                )
                _label(sweep, circuit, answer_key, str(row["pair_id"]), seed, row[f"label_{when}"], f"{place}_{when}")


def _label(sweep: Sweep, circuit: Circuit | None, key: str, pair_id: str, seed: int, label: Any, place: str) -> None:
    """A person's word on one answer."""
    classes = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    options = ["", *classes]
    widget = f"label_{place}_{sweep.sweep_id}_{key}_{pair_id}"
    current = label if isinstance(label, str) and label in classes else ""

    def store_it() -> None:
        chosen = st.session_state[widget] or None
        shell.store().add_label(sweep.sweep_id, key, pair_id, seed, chosen)

    st.selectbox(
        "Your label",
        options,
        index=options.index(current),
        key=widget,
        format_func=lambda name: classes.get(name, "as the rules say"),
        help=words.HELP["label"],
        on_change=store_it,
        width=260,
    )


def agreement(sweep: Sweep) -> None:
    """How far rules and labels agree, once there are labels."""
    found = sweep_report.kappa(shell.store(), sweep.sweep_id)
    if found is None:
        st.caption("No answer was labelled by hand yet; the classes are those of the rules.", help=words.HELP["label"])
        return
    st.caption(
        f"Labelled by hand: {plural(found.n, 'answer')}; rules and labels agree on {found.n_agree} of them "
        f"(95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %), Cohen's kappa "
        f"{charts.number(found.kappa)} ({shell.interval((found.kappa_low, found.kappa_high))}). "
        "The rates use the rules unless *Use my labels* is "
        "ticked.",
        help=words.GLOSSARY["Cohen's kappa"],
    )
