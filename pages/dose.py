"""Dose response: what happens when a run's neurons are switched off, scaled or patched."""

import pandas as pd
import streamlit as st

from pprobe_core import response_charts, sweep_charts, window_charts
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.types import NEURON_KINDS, SweepKind, without_split
from pprobe_core.store import Run, Sweep
from ui import answers, asking, library, meaning, recorded, selection, sharing, shell, sweeps, terms, words

AXES = {"dose": "n_neurons", "factor": "factor", "patch": "n_neurons"}


def pickers(run: Run) -> None:
    """What to switch off and where, with the button."""
    circuit = library.circuit_of(run.request.circuit)
    with st.container(border=True, key="sweep_pickers"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.segmented_control(
                "What changes",
                NEURON_KINDS,
                key="dose_kind",
                default="dose",
                format_func=lambda kind: words.SWEEP_KINDS[kind],
                required=True,
                help="How many neurons are switched off; how far a fixed set is turned up or down; or how many get "
                "their values from the pair's other prompt.",
                persist_state="session",
            )
            st.checkbox(
                "Read the answers too", key="sweep_answers", help=words.HELP["answers"], persist_state="session"
            )
        kind: SweepKind = st.session_state["dose_kind"] or "dose"
        columns = st.columns([2, 2, 2, 1.4], vertical_alignment="bottom")
        with columns[0]:
            asking.ranking_picker()
        with columns[1]:
            asking.condition_picker()
        with columns[2]:
            asking.position_picker()
        st.caption(terms.marked(words.SWEEP_RANKINGS[st.session_state["sweep_ranking"]][1]))
        if st.session_state["sweep_ranking"] == "chosen":
            st.text_input(
                "Neurons", key="chosen_neurons", help=words.HELP["chosen"], placeholder="L3.N12, L4.N7",
                persist_state="session",
            )  # fmt: skip
        with st.expander("Advanced", icon=":material/tune:"):
            left, right = st.columns(2)
            with left:
                asking.text_option("Numbers of neurons", "sweep_doses", "doses")
            with right:
                asking.text_option("Factors", "sweep_factors", "factors")
            asking.common_options()
        try:
            request = asking.request_of(run, circuit, kind)
        except BadRequest as error:
            request = None
            st.error(shell.escaped(str(error)), icon=":material/error:")
        with columns[3]:
            asking.run_button(request)
    asking.state_of(request)
    st.session_state["_dose_request"] = request


def curves(run: Run, sweep: Sweep, points: pd.DataFrame, rates: pd.DataFrame) -> None:
    """The curve with its controls, and what else the same edit changes."""
    axis = AXES[sweep.request.kind]
    counted = points[points[axis].notna() & (points["arm"] == "ranked")]
    steps = sorted(counted[axis].unique())
    label = {"n_neurons": "Neurons edited", "factor": "Factor"}[axis]
    selection.start_at("dose", steps, steps[-1])
    if len(steps) > 1:
        st.select_slider(
            label, steps, key="dose", help=words.HELP["dose"], width=520, persist_state="session",
            format_func=lambda v: f"{v:g}",
        )  # fmt: skip
    step = st.session_state["dose"]
    selection.write_address()
    at_step = counted[counted[axis] == step]
    left, right = st.columns([3, 2], gap="large")
    with left:
        shell.figure(
            lambda: sweep_charts.dose_curve(
                points, sweep.summary["baseline"], axis, highlight=step, n_total=sweeps.n_neurons(sweep)
            ),
            key=f"curve_{sweep.sweep_id}",
            of=step,
        )
    with right:
        group = without_split(str(at_step["group"].iloc[0]))
        others = pd.DataFrame(sweep.summary["collateral"])
        if others.empty:
            st.info("What else this edit changes was not measured.", icon=":material/info:")
        else:
            shell.figure(
                lambda: sweep_charts.collateral(
                    others, group, points, run.request.circuit, sweeps.splits_of(points)[0]
                ),
                key=f"collateral_{sweep.sweep_id}",
                of=group,
            )
    key = str(at_step["key"].iloc[0])
    st.header("What the answers do", anchor="answers", help=words.GLOSSARY["Class of an answer"])
    if rates.empty:
        st.info(
            "This sweep holds no answers. Tick *Read the answers too* above and run it again: the points are kept.",
            icon=":material/info:",
        )
        return
    answers_section(run, sweep, rates, axis, key, step)


def answers_section(run: Run, sweep: Sweep, rates: pd.DataFrame, axis: str, key: str, step: float) -> None:
    """Rates over the curve, classes at the chosen point, the same prompts before and after."""
    circuit = library.circuit_of(run.request.circuit)
    titles = sweeps.outcome_titles(rates)
    asking.keep_known("outcome", list(titles))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "What is counted", list(titles), key="outcome", format_func=lambda o: titles.get(o, o),
            help=words.HELP["outcome"], width=320, persist_state="session",
        )  # fmt: skip
        st.checkbox(
            "Use my labels", key="use_labels", persist_state="session",
            help="Count an answer as what you labelled it, where you did; else as the rules say.",
        )  # fmt: skip
    outcome = st.session_state["outcome"]
    selection.write_address()
    left, right = st.columns([3, 2], gap="large")
    with left:
        shell.figure(
            lambda: response_charts.outcome_curve(rates, outcome, axis, float(step)),
            key=f"outcome_{outcome}",
            of=None if st.session_state["use_labels"] else (sweep.sweep_id, step),
        )
        if rates["by_seed"].map(len).max() > 1:
            shell.figure(lambda: response_charts.seeds(rates, outcome, axis), key=f"seeds_{outcome}")
    with right:
        shell.figure(lambda: response_charts.class_bars(answers.class_rows(sweep, circuit, key)), key=f"classes_{key}")
    answers.outcome_table(sweep, key)
    answers.agreement(sweep)
    answers.before_after(run, sweep, circuit, key, "dose")


run = shell.chosen_run()
if run is None:
    st.title("Dose response")
    shell.no_run_yet()
    st.stop()

asking.use_defaults_of(run, library.circuit_of(run.request.circuit))
with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.title("What happens without its neurons?", anchor=False, width="content")
    shell.run_picker(run.run_id)
st.caption(f"{shell.run_heading(run)}. {shell.run_facts(run)}")
pickers(run)

sweep = sweeps.chosen_sweep(run, NEURON_KINDS, st.session_state["_dose_request"])
sharing.missing_sweep(run, sweep)
if sweep is None:
    recorded.run_notice(run)
    st.info(
        terms.said(
            "Nothing was switched off yet in this run. Press **Run sweep**: on the shipped models it takes seconds."
        ),
        icon=":material/hourglass_empty:",
    )
    st.stop()

shell.measured_on(run, sweep)
points = sweeps.points(sweep)
rates = sweeps.rates(sweep, use_labels=bool(st.session_state.get("use_labels")))
with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.header(
        words.SWEEP_KINDS[sweep.request.kind],
        anchor="curve",
        width="content",
        help=words.SWEEP_KIND_HELP[sweep.request.kind],
    )
    sweeps.sweep_picker(run, NEURON_KINDS, sweep)
sharing.share(run, sweep)
sweeps.say_if_another(sweep, st.session_state["_dose_request"])
st.caption(sweeps.facts(sweep))
recorded.sweep_notice(run, sweep)
recorded.agreement(run, sweep)
if sentence := sweeps.finding(sweep, rates):
    st.markdown(f"**{terms.marked(sentence)}**")
meaning.sweep_card(run, sweep)
sweeps.stage_card(run, sweep)


@st.fragment
@shell.calm_errors()
def curves_section() -> None:
    """Everything that hangs on the slider."""
    curves(run, sweep, points, rates)


curves_section()

if sweep.request.kind == "patch":
    st.header("Layer by layer", anchor="layers", help=words.GLOSSARY["Patching"])
    left, right = st.columns(2, gap="large")
    means = run.summary["logit_diff"]
    with left:
        shell.figure(
            lambda: window_charts.patch_by_layer(
                points,
                sweep.summary["baseline"],
                means["perturbed_mean"] if sweep.request.condition == "original" else means["original_mean"],
            ),
            key="patch_layers",
            of=sweep.sweep_id,
        )
    with right:
        shell.figure(
            lambda: sweep_charts.patch_by_count(points, sweeps.predicted_patch(run, points)),
            key="patch_count",
            of=sweep.sweep_id,
        )

st.header("Is it more than chance?", anchor="proof", help=words.GLOSSARY["Random draws"])
sweeps.proof_table(sweep)
