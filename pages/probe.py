"""Probe: what one run found. Verdict, layers, neurons, pairs."""

import streamlit as st

from pprobe_core import charts, neuron_charts
from pprobe_core.probing.types import RANKINGS
from pprobe_core.probing.verdict import OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from ui import (
    asking,
    cards,
    couplings,
    harvest,
    library,
    meaning,
    picked,
    recorded,
    selection,
    sharing,
    shell,
    sweeps,
    tables,
    terms,
    words,
)

run = shell.chosen_run()
if run is None:
    st.title("Probe")
    shell.no_run_yet()
    st.stop()

circuit = library.circuit_of(run.request.circuit)
target = circuit.target_meaning if circuit else "the target tokens"
control = circuit.control_meaning if circuit else "the control tokens"
pairs, layers = shell.read("pairs", run.run_id), shell.read("layers", run.run_id)

with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.title(shell.run_heading(run), anchor=False, width="content")
    shell.run_picker(run.run_id)
sharing.share(run)
st.caption(shell.run_facts(run))
shell.measured_on(run)
recorded.run_notice(run)
recorded.agreement(run)

meaning.run_card(run)
cards.verdict_card(run)
sweeps.tested(run)
cards.headline_numbers(run)

st.header("Can these prompts tell something?", anchor="prompts", help=words.GLOSSARY["Flip rate"])
left, right = st.columns([3, 2], gap="large")
with left:
    shell.figure(lambda: charts.margins(pairs), key="margins", of=run.run_id)
with right:
    st.markdown("**The first tokens that are watched**")
    preview = shell.read("token_preview", run.run_id)
    cards.preview_table(preview)
    cards.preview_flag(preview)
    st.caption(terms.marked(f"Target: {target}. Control: {control}.", shell.own_words()))
    harvest.asked_for(run)
    cards.left_out(run)
harvest.tokens_card(run, circuit)

st.header("Where in the network", anchor="layers", help=words.GLOSSARY["Layer"])
left, right = st.columns(2, gap="large")
with left:
    shell.figure(lambda: charts.trajectory(layers, target, control), key="trajectory", of=(run.run_id, target, control))
with right:
    shell.figure(lambda: charts.layer_change(layers), key="change", of=run.run_id)
shell.figure(
    lambda: charts.layer_ratio(layers, ROUTING_MAX_FFN_SKIP, OPPOSITION_MIN_FFN_SKIP), key="ratio", of=run.run_id
)
shell.folded(
    "What the ratio is made of: FFN, attention and skip path at each layer",
    ":material/stacked_line_chart:",
    "parts_of_layers",
    lambda: shell.figure(lambda: charts.layer_signals(layers), key="signals", of=run.run_id),
)


def region_by_numbers(ranking: str) -> None:
    """The rectangle of the map without a mouse: layers and scores from and to."""
    state, last = st.session_state, charts.n_layers(layers) - 1
    low, high = neuron_charts.score_range(shell.neuron_crowd(run.run_id, ranking), ranking)

    def take() -> None:
        first, final = state["region_layers"]
        beyond = 0.01 * (high - low)  # an address holds rounded numbers: nothing at the ends may fall out
        scores = [
            furthest if state[f"region_{end}_{ranking}"] is None else state[f"region_{end}_{ranking}"]
            for end, furthest in (("low", low - beyond), ("high", high + beyond))
        ]
        picked.forget("region")
        state["region"] = neuron_charts.region_text(neuron_charts.around(first, final, scores, ranking), ranking)

    with st.popover("Choose by numbers", icon=":material/keyboard:", help=words.HELP["region"]):
        st.slider("Layers", 0, max(last, 1), (0, last), key="region_layers", help=words.HELP["region_layers"])
        ends = (("low", "Score from", low), ("high", "Score to", high))
        for (end, label, furthest), column in zip(ends, st.columns(2), strict=True):
            column.number_input(
                label,
                value=None,
                format="%.4f",
                placeholder=f"{furthest:.3f}",
                key=f"region_{end}_{ranking}",
                help=words.HELP["region_score"],
            )
        st.button("List these neurons", key="take_region", help=words.HELP["region"], on_click=take)


@st.fragment
@shell.calm_errors()
def neurons_section() -> None:
    """Ranking chooser, map and table; a region drawn in the map filters the table."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Ranking",
            RANKINGS,
            key="ranking",
            format_func=str.capitalize,
            help=words.HELP["ranking"],
            required=True,
            persist_state="session",
        )
        st.select_slider(
            "Neurons marked",
            words.TOP_K,
            key="top_k",
            help=words.HELP["top_k"],
            width=260,
            persist_state="session",
        )
    ranking = st.session_state["ranking"]
    selection.write_address()
    st.markdown(terms.marked(words.RANKING_QUESTION[ranking]))
    st.caption(terms.marked(cards.concentration(run)))
    top = shell.top_neurons(run.run_id, ranking, st.session_state["top_k"])
    left, right = st.columns([5, 4], gap="medium")
    with left:
        start = picked.start("region", (run.run_id, ranking))
        event = shell.figure(
            lambda: neuron_charts.neuron_map(
                shell.neuron_crowd(run.run_id, ranking),
                top,
                ranking,
                shell.null_threshold(run, ranking),
                shell.n_beyond(run),
                brush=neuron_charts.region_of(start, ranking),
            ),
            key=f"map_{ranking}{tables.tag(start)}",
            of=(run.run_id, st.session_state["top_k"], start),
            on_select="rerun",
            selection_mode="brush",
        )
        region = picked.told("region", neuron_charts.region_text((event.selection.get("brush") or {}), ranking))
        st.caption("Drag a rectangle in the map to list the neurons inside it; double-click to list all again.")
        with st.container(horizontal=True):
            region_by_numbers(ranking)
            if picked.is_of_link("region"):
                st.button(
                    "List all neurons again",
                    key="forget_region",
                    icon=":material/deselect:",
                    help="Take the rectangle away that came with the link or was given by numbers.",
                    on_click=lambda: picked.forget("region"),
                )
    with right:
        brush = neuron_charts.region_of(region, ranking)
        ranked = shell.ranked_neurons(run.run_id, ranking, brush, st.session_state["top_k"])
        ticked = tables.neuron_table(ranked, bool(brush))
        selection.write_address()
        if st.button(
            "Switch these off" if ticked else "Tick neurons to switch them off",
            key="switch_off",
            icon=":material/power_settings_new:",
            disabled=not ticked,
            help="Open the Dose response page with the ticked neurons, in the table's order.",
        ):
            asking.switch_off(run.run_id, ticked)
            st.switch_page(shell.DOSE)


st.header("Which neurons", anchor="neurons", help=words.GLOSSARY["Ranking"])
neurons_section()


st.header("Do the neurons explain the change?", anchor="explained", help=words.GLOSSARY["Importance I"])
check = run.summary.get("additive") or {}
left, right = st.columns(2, gap="large")
with left:
    shell.figure(
        lambda: charts.predicted_change(pairs, check.get("correlation"), check.get("null_correlation_95")),
        key="predicted",
        of=run.run_id,
    )
with right:
    shell.figure(lambda: charts.carriers(check), key="carriers", of=run.run_id)

st.header(
    "Does normalisation hide or inflate this circuit?", anchor="normalisation", help=words.GLOSSARY["Normalisation"]
)
couplings.normalisation(run)


@st.fragment
@shell.calm_errors()
def pairs_section() -> None:
    """Table of pairs; the chosen pair below it in full."""
    place = tables.pairs_table(pairs, circuit)
    tables.pair_in_full(run, pairs.iloc[place], circuit)


st.header("Pair by pair", anchor="pairs", help=words.GLOSSARY["Original and perturbed prompt"])
st.caption("Tick a row to see that pair in full below the table.")
pairs_section()

shell.folded("How this run was made", ":material/receipt_long:", "provenance_of", lambda: tables.provenance(run))
