"""Injection window: after which layers, and how strongly, an added direction changes the decision."""

import pandas as pd
import streamlit as st

from pprobe_core import charts, response_charts, sweep_charts, window_charts
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.types import INJECTION_KINDS, SweepKind
from pprobe_core.store import Run, Sweep
from ui import answers, asking, library, meaning, recorded, selection, sharing, shell, sweeps, terms, words

EXCESS = "excess"
MAPS = {"": "Change of the logit difference", EXCESS: "Change beyond the random directions"}
ICONS = {True: ":material/check_circle:", False: ":material/cancel:", None: ":material/help:"}


def pickers(run: Run) -> None:
    """What is added, where and how strongly, with the button."""
    circuit = library.circuit_of(run.request.circuit)
    with st.container(border=True, key="sweep_pickers"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.segmented_control(
                "What changes",
                INJECTION_KINDS,
                key="window_kind",
                default="window",
                format_func=lambda kind: {"window": "Layer by layer", "strength": "A band of layers at once"}[kind],
                required=True,
                help="After each layer alone, as a map; or after all the named layers together, as a curve.",
                persist_state="session",
            )
            st.checkbox(
                "Read the answers too", key="sweep_answers", help=words.HELP["answers"], persist_state="session"
            )
        kind: SweepKind = st.session_state["window_kind"] or "window"
        columns = [*st.columns(3), *st.columns(3, vertical_alignment="bottom")]
        with columns[0]:
            st.selectbox(
                "Direction", list(words.DIRECTIONS), key="sweep_direction", help=words.HELP["direction"],
                format_func=lambda d: words.DIRECTIONS[d], persist_state="session",
            )  # fmt: skip
        with columns[1]:
            st.selectbox(
                "Strength counts", list(words.SCALES), key="sweep_scale", help=words.HELP["scale"],
                format_func=lambda s: words.SCALES[s], persist_state="session",
            )  # fmt: skip
        with columns[2]:
            asking.condition_picker()
        with columns[3]:
            asking.position_picker()
        with st.expander("Advanced", icon=":material/tune:"):
            left, right = st.columns(2)
            with left:
                asking.text_option("Layers", "sweep_layers", "layers", "all" if kind == "window" else "the middle one")
            with right:
                asking.text_option("Strengths", "sweep_strengths", "strengths")
            asking.common_options()
        try:
            request = asking.request_of(run, circuit, kind)
        except BadRequest as error:
            request = None
            st.error(shell.escaped(str(error)), icon=":material/error:")
        with columns[5]:
            asking.run_button(request)
    asking.state_of(request)
    st.session_state["_window_request"] = request


def map_section(run: Run, sweep: Sweep, points: pd.DataFrame, rates: pd.DataFrame) -> None:
    """The map, its slice at one strength, and the answers at one cell."""
    splits = sweeps.splits_of(points)
    strengths = sorted(points["strength"].dropna().unique())
    titles = sweeps.outcome_titles(rates)
    asking.keep_known("window_split", splits)
    asking.keep_known("window_value", ["", EXCESS, *titles])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Prompts", splits, key="window_split", format_func=lambda s: words.SPLITS[s], help=words.HELP["split"],
            width=200, persist_state="session",
        )  # fmt: skip
        st.selectbox(
            "The map shows", ["", EXCESS, *titles], key="window_value", width=320, persist_state="session",
            format_func=lambda o: titles.get(o, MAPS.get(o, o)),
            help="The change of F, or the share of answers that count for an outcome.",
        )  # fmt: skip
        selection.start_at("window_strength", strengths, min(strengths, key=lambda s: (abs(abs(s) - 1), s)))
        st.select_slider(
            "Strength of the slice", strengths, key="window_strength", format_func=lambda v: f"{v:g}",
            help="The row of the map that the layer curve and the answers below are about.", width=320,
            persist_state="session",
        )  # fmt: skip
    selection.write_address()
    split, strength = st.session_state["window_split"], st.session_state["window_strength"]
    value = st.session_state["window_value"]
    left, right = st.columns(2, gap="large")
    with left:
        chart_key = f"map_{sweep.sweep_id}_{value}_{split}"
        shell.figure(
            lambda: drawn_map(sweep, points, rates, split, value),
            key=chart_key,
            of=chart_key,
            on_select=lambda: take_over_cell(chart_key),
        )
    with right:
        if rates.empty:
            st.info(
                terms.said(
                    "The regimes and the switch rate need answers. Tick *Read the answers too* and run it again: the "
                    "points are kept."
                ),
                icon=":material/info:",
            )
        else:
            shell.figure(
                lambda: window_charts.switch_by_layer(rates, strength, sweeps.regimes(sweep), split),
                key=f"switch_{split}_{strength}",
                of=sweep.sweep_id,
            )
    if rates.empty:
        return
    ranked = points[(points["arm"] == "ranked") & (points["strength"] == strength)]
    layers = sorted(int(layer) for layer in ranked["layer"].dropna().unique())
    if not layers:
        return
    best = best_layer(rates, split, strength)
    selection.start_at("window_layer", layers, layers[0] if best is None else best)
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.subheader(f"Answers after layer {st.session_state['window_layer']} at strength {strength:g}", anchor=False)
        st.selectbox(
            "Layer", layers, key="window_layer", width=180, persist_state="session",
            help="The layer whose answers are shown; a click on a cell of the map chooses layer and strength.",
        )  # fmt: skip
    selection.write_address()
    at_cell = ranked[ranked["layer"] == st.session_state["window_layer"]]
    if len(at_cell):
        key = str(at_cell["key"].iloc[0])
        circuit = library.circuit_of(run.request.circuit)
        left, right = st.columns([2, 3], gap="large")
        with left:
            shell.figure(
                lambda: response_charts.class_bars(answers.class_rows(sweep, circuit, key)), key=f"classes_{key}"
            )
        with right:
            answers.outcome_table(sweep, key)
        answers.agreement(sweep)
        answers.before_after(run, sweep, circuit, key, "window")


def drawn_map(sweep: Sweep, points: pd.DataFrame, rates: pd.DataFrame, split: str, value: str) -> charts.Figure:
    """The map of an outcome of the answers, or of the change of F."""
    if value and value != EXCESS:
        return window_charts.outcome_map(rates, split, value, sweeps.regimes(sweep))
    return window_charts.window_map(points, sweep.summary, split, "excess" if value else "delta_mean")


def take_over_cell(chart_key: str) -> None:
    """A click on a cell of the map chooses its layer and its strength."""
    selection = (st.session_state.get(chart_key) or {}).get("selection") or {}
    cell = (selection.get("cell") or [{}])[0]
    if cell.get("layer") is not None and cell.get("strength") is not None:
        selection.choose("window_layer", int(cell["layer"]))
        selection.choose("window_strength", float(cell["strength"]))


def best_layer(rates: pd.DataFrame, split: str, strength: float) -> int | None:
    """The layer at which most answers switch (and are right, where that is known) at one strength, else the first."""
    for outcome in ("switched_and_right", "switched"):
        rows = rates[
            (rates["outcome"] == outcome)
            & (rates["split"] == split)
            & (rates["strength"] == strength)
            & (rates["arm"] == "ranked")
        ]
        if len(rows) and rows["share"].max() > 0:
            return int(rows.sort_values(["share", "layer"], ascending=[False, True]).iloc[0]["layer"])
    edited = rates[(rates["strength"] == strength) & (rates["arm"] == "ranked")]
    return int(edited["layer"].min()) if len(edited) else None


def conditions_card(run: Run, sweep: Sweep) -> None:
    """The paper's three conditions for steering, with this model's numbers, and whether steering did work."""
    circuit = library.circuit_of(run.request.circuit)
    if circuit is None:
        st.info("The file of this circuit is gone, so its conditions cannot be stated.", icon=":material/info:")
        return
    found = sweeps.steering_of(run, sweep, circuit)
    own, seen = [c.title for c in circuit.response_classes], set[str]()
    with st.container(border=True, key="conditions"):
        st.markdown(terms.said("**Is steering expected to work here?**", seen=seen))
        for condition in found.conditions:
            icon = ICONS[condition.met]
            title, text = (terms.marked(words_of, own, seen) for words_of in (condition.title, condition.text))
            st.markdown(f"{icon} **{title}.** {text}")
        st.markdown(f"**{terms.marked(found.sentence, own, seen)}**")
        st.caption(
            terms.marked("The three conditions are observations of the paper on 19 models (3 met them), not a theory.")
        )


run = shell.chosen_run()
if run is None:
    st.title("Injection window")
    shell.no_run_yet()
    st.stop()

asking.use_defaults_of(run, library.circuit_of(run.request.circuit))
with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.title("Can a push in one direction switch it?", anchor=False, width="content")
    shell.run_picker(run.run_id)
st.caption(f"{shell.run_heading(run)}. {shell.run_facts(run)}")
pickers(run)

sweep = sweeps.chosen_sweep(run, INJECTION_KINDS, st.session_state["_window_request"])
sharing.missing_sweep(run, sweep)
if sweep is None:
    recorded.run_notice(run)
    st.info(
        terms.said(
            "Nothing was injected yet in this run. Press **Run sweep**; on the shipped models it takes about a minute."
        ),
        icon=":material/hourglass_empty:",
    )
    st.stop()

shell.measured_on(run, sweep)
points = sweeps.points(sweep)
rates = sweeps.rates(sweep)
with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.header(
        words.SWEEP_KINDS[sweep.request.kind],
        anchor="map",
        width="content",
        help=words.SWEEP_KIND_HELP[sweep.request.kind],
    )
    sweeps.sweep_picker(run, INJECTION_KINDS, sweep)
sharing.share(run, sweep)
sweeps.say_if_another(sweep, st.session_state["_window_request"])
explained = set[str]()
scale = words.SCALES["relative" if sweep.request.relative else "absolute"]
pushed = f"{words.DIRECTIONS[sweep.request.direction]}, {scale} · above zero pushes towards the target"
st.caption(f"{terms.marked(pushed, seen=explained)} · {sweeps.facts(sweep, explained)}")
recorded.sweep_notice(run, sweep)
recorded.agreement(run, sweep)
meaning.sweep_card(run, sweep)
left, right = st.columns(2, gap="large")
with left:
    conditions_card(run, sweep)
with right:
    sweeps.stage_card(run, sweep)


@st.fragment
@shell.calm_errors()
def answers_section() -> None:
    """Everything that hangs on the pickers of the map."""
    if sweep.request.kind == "window":
        map_section(run, sweep, points, rates)
        return
    left, right = st.columns(2, gap="large")
    with left:
        shell.figure(
            lambda: sweep_charts.dose_curve(points, sweep.summary["baseline"], "strength"),
            key="strength_curve",
            of=sweep.sweep_id,
        )
    with right:
        if rates.empty:
            st.info(
                "This sweep holds no answers. Tick *Read the answers too* above and run it again: the points are kept.",
                icon=":material/info:",
            )
        else:
            shell.figure(
                lambda: response_charts.outcome_curve(rates, "switched", "strength"),
                key="strength_switched",
                of=sweep.sweep_id,
            )


answers_section()

st.header("Where are the two prompts apart?", anchor="separability", help=words.GLOSSARY["Linear separability"])
left, right = st.columns(2, gap="large")
with left:
    shell.figure(
        lambda: window_charts.separability(pd.DataFrame(sweep.summary["separability"])),
        key="separability",
        of=sweep.sweep_id,
    )
with right:
    others = pd.DataFrame(sweep.summary["collateral"])
    if len(others):
        layers = sorted({int(layer) for layer in others["layer"].dropna()})
        if len(layers) > 1:
            asking.keep_known("collateral_layer", layers)
            st.select_slider(
                "Collateral after layer", layers, key="collateral_layer", help=words.GLOSSARY["Collateral"],
                persist_state="session",
            )  # fmt: skip
            others = others[others["layer"] == st.session_state["collateral_layer"]]
        group = str(others["group"].iloc[0])
        shell.figure(
            lambda: sweep_charts.collateral(others, group, points, run.request.circuit, sweeps.splits_of(points)[0]),
            key=f"collateral_{group}",
            of=sweep.sweep_id,
        )
        strength = others["strength"].iloc[0]
        st.caption(terms.marked(f"At strength {charts.number(strength)}."))

st.header("Is it more than chance?", anchor="proof", help=words.GLOSSARY["Random draws"])
sweeps.proof_table(sweep)
