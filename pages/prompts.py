"""Prompt sets: add prompts of one's own for a behaviour, look at kept sets, delete them."""

import streamlit as st

from pprobe_core.circuits import own_sets
from pprobe_core.errors import BadRequest
from ui import exports, library, prompts, selection, shell, terms, words

st.title("Prompt sets")
st.markdown(terms.marked(words.ABOUT_PROMPTS))

kept = own_sets.list_sets()
selection.keep_offered("set_looked_at", [one.name for one in kept])
for name in selection.not_here("set_looked_at").values():
    st.info(
        f"The prompt set {shell.escaped(name)} is not on this computer. Ask for its file and add it below.",
        icon=":material/info:",
    )
if kept:
    st.header("Your sets", anchor=False)
    st.caption("Tick a set to see where it comes from, to use it, or to delete it.")
    ticked = prompts.kept_sets(kept)
    if ticked is not None:
        prompts.details(ticked)

st.header("Add prompts", anchor=False)
if not kept:
    st.caption("You have no prompt set of your own yet.")
left, right = st.columns([2, 3], vertical_alignment="top")
if st.session_state.get("new_circuit") not in library.circuits():
    st.session_state["new_circuit"] = st.session_state["circuit"]
circuit_id = left.selectbox(
    "For the behaviour",
    list(library.circuits()),
    key="new_circuit",
    format_func=library.circuit_title,
    help=words.HELP["new_circuit"],
    persist_state="session",
)
way = right.segmented_control(
    "From",
    list(words.PROMPT_SOURCES),
    key="prompt_source",
    format_func=lambda w: words.PROMPT_SOURCES[w],
    default="upload",
    wrap=True,
    required=True,
    help=words.HELP["prompt_source"],
    persist_state="session",
)
circuit = library.circuits()[circuit_id]
st.caption(f"{shell.of_circuit(circuit, circuit.perturbation_text)} {prompts.limits()}")

try:
    if way == "upload":
        source = prompts.from_upload(circuit)
    elif way == "paste":
        source = prompts.from_paste()
    elif way == "hub":
        source = prompts.from_hub()
    else:
        source = prompts.from_known(circuit)
    if source is not None:
        exports.measured_on(source.title, f"Prompts from {source.origin.source}, not kept as a set")
        st.subheader("Which column holds what", anchor=False)
        for note in source.notes:
            st.caption(shell.escaped(note))
        columns = prompts.choose_columns(source, circuit)
        if reason := prompts.problem(circuit, columns):
            st.info(shell.escaped(reason), icon=":material/info:")
        else:
            pairs = prompts.pairs_of(source, columns, circuit)
            pairs = prompts.preview(pairs, f"{source.table.sha256[:10]}_{circuit_id}_{columns.keyword}")
            prompts.keep(source, pairs, columns, circuit)
except BadRequest as error:
    st.error(shell.escaped(str(error)), icon=":material/error:")
