"""Runs: the history. Filter, open, compare two, delete."""

import streamlit as st

from pprobe_core import charts
from ui import exports, library, recorded, selection, sharing, shell, tables, terms, words


@st.dialog("Delete for good?")
def confirm_delete(run_ids: list[str]) -> None:
    """Ask before runs are deleted."""
    runs = shell.runs().set_index("run_id")
    for run_id in run_ids:
        if run_id in runs.index:
            st.markdown(f"- {shell.escaped(shell.run_title(runs.loc[run_id]))}")
    st.caption("The numbers cannot be brought back, but the same request computes them again.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep", key="keep", help="Close without deleting."):
            st.rerun()
        if st.button("Delete", key="really_delete", type="primary", help="Delete these runs from the results file."):
            for run_id in run_ids:
                shell.delete_run(run_id)
                for key in ("run_a", "run_b"):
                    if st.session_state.get(key) == run_id:
                        selection.choose(key, "")
            st.rerun()


st.title("Runs")
everything = shell.runs()
sharing.missing_runs(list(everything["run_id"]))
if everything.empty:
    shell.no_run_yet()
    recorded.set_controls()
    st.stop()

FILTERS = {"filter_circuit": "behaviour", "filter_model": "model"}
for key, column in (("filter_circuit", "circuit"), ("filter_model", "model")):
    selection.keep_offered(key, set(everything[column]))
if lacking := selection.not_here(*FILTERS):
    named = "; ".join(f"{FILTERS[key]} {text}" for key, text in lacking.items())
    st.info(
        f"The filter names what no run of this results file has: {shell.escaped(named)}. The rest of it is used.",
        icon=":material/filter_alt_off:",
    )
with st.container(horizontal=True, vertical_alignment="bottom"):
    circuits = st.multiselect(
        "Behaviour",
        sorted(everything["circuit"].unique()),
        key="filter_circuit",
        format_func=library.circuit_title,
        placeholder="All behaviours",
        help="Show only runs of these behaviours.",
        on_change=selection.let_go,
        args=("filter_circuit",),
        persist_state="session",
    )
    models = st.multiselect(
        "Model",
        sorted(everything["model"].unique()),
        key="filter_model",
        placeholder="All models",
        help="Show only runs of these models.",
        on_change=selection.let_go,
        args=("filter_model",),
        persist_state="session",
    )
shown = everything[
    (everything["circuit"].isin(circuits) | (not circuits)) & (everything["model"].isin(models) | (not models))
].reset_index(drop=True)
st.caption(
    f"{len(shown)} of {len(everything)} runs. Tick one to open it, two to compare them, any number to delete them "
    "(by keyboard: arrow keys, then Shift+Space)."
)
chosen = tables.history(shown)

with st.container(horizontal=True):
    if st.button(
        "Open",
        key="open",
        icon=":material/open_in_new:",
        disabled=len(chosen) != 1,
        help="Show the ticked run on the Probe page.",
    ):
        selection.show_run(chosen[0])
        st.switch_page(shell.PROBE)
    if st.button(
        "Delete…",
        key="delete",
        icon=":material/delete:",
        disabled=not chosen,
        help="Delete the ticked runs, after asking.",
    ):
        confirm_delete(chosen)
    if len(chosen) == 1:
        sharing.share(shell.store().run(chosen[0]), page="probe")

recorded.set_controls()

st.header("Compare two runs", anchor="compare")
if len(everything) < 2:
    st.info(
        "Two finished runs are needed to compare. Run another behaviour or model on the Start page.",
        icon=":material/info:",
    )
    st.stop()

titles = shell.run_titles(everything)
ids = list(titles)
if len(chosen) == 2 and st.session_state.get("_compared") != chosen:
    st.session_state["_compared"] = chosen
    for key, run_id in zip(("run_a", "run_b"), chosen, strict=True):
        selection.choose(key, run_id)
for key, default in (("run_a", ids[0]), ("run_b", ids[1])):
    selection.start_at(key, ids, default)
left, right = st.columns(2, gap="large")
for column, key, name in ((left, "run_a", "Run A"), (right, "run_b", "Run B")):
    column.selectbox(
        name,
        ids,
        key=key,
        format_func=lambda i: titles[i],
        help=words.HELP["run"],
        on_change=selection.let_go,
        args=(key,),
        persist_state="session",
    )
a, b = st.session_state["run_a"], st.session_state["run_b"]
if a == b:
    st.info("Choose two different runs.", icon=":material/info:")
    st.stop()

run_a, run_b = shell.store().run(a), shell.store().run(b)
exports.measured_on(f"{a}-{b}", f"A: {titles[a]} (run {a})", f"B: {titles[b]} (run {b})")
names = [f"{library.circuit_title(r.request.circuit)}, {r.request.model}" for r in (run_a, run_b)]
left, right = st.columns(2, gap="medium")
with left:
    tables.side_by_side(run_a, run_b)
    st.caption(terms.marked(tables.shared_neurons(run_a, run_b)))
with right:
    quantity = st.segmented_control(
        "Overlay",
        ["ffn", "attention", "skip", "ffn_skip", "lens_after_ffn"],
        key="overlay",
        format_func=lambda q: words.QUANTITIES[q],
        required=True,
        help="Which layer-wise number of the two runs to lay over each other.",
    )
    shell.figure(
        lambda: charts.compare_layers(shell.read("layers", a), shell.read("layers", b), *names, quantity),
        key=f"compare_{quantity}",
    )
