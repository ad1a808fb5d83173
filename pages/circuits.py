"""Behaviours: look at the ones there are; make, check, save, import, export and delete one's own."""

import streamlit as st

from pprobe_core import snippets
from pprobe_core.circuits import editor
from pprobe_core.circuits import unfinished as core_unfinished
from pprobe_core.circuits.library import MAX_FILE_BYTES, unreadable
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.wording import plural
from ui import (
    backend,
    circuit_check,
    circuit_steps,
    circuits,
    exports,
    library,
    models,
    prompts,
    selection,
    sharing,
    shell,
    terms,
    unfinished,
    words,
)


@st.dialog("Delete this behaviour?")
def confirm_delete(named: str, title: str) -> None:
    """Ask before an own behaviour or a draft is deleted."""
    st.markdown(f"**{shell.escaped(title)}**")
    st.caption(words.DELETE_CIRCUIT if not named.startswith("draft:") else "The draft cannot be brought back.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep", key="keep_circuit", help="Close without deleting."):
            st.rerun()
        if st.button("Delete", key="really_delete_circuit", type="primary", help="Take it off this list for good."):
            if named.startswith("draft:"):
                editor.delete_draft(named.removeprefix("draft:"))
            else:
                editor.delete(named)
            selection.choose("circuit_looked_at", None)
            st.rerun()


def say(text: str) -> None:
    """A message that outlives the rerun after a press."""
    st.session_state["_circuits_said"] = text


def import_popover() -> None:
    """A file that somebody exported becomes one of the user's own behaviours."""
    with st.popover("Import", icon=":material/upload_file:", help=words.HELP["import_circuit"]):
        uploaded = st.file_uploader(
            "A behaviour's file", ["yaml", "yml"], key="circuit_upload", help=words.HELP["import_circuit"]
        )
        if uploaded is None:
            return
        if uploaded.size > MAX_FILE_BYTES:
            st.error(f"The file is too large; a behaviour has at most {MAX_FILE_BYTES // 1000} kB.")
            return
        if st.session_state.get("_imported") == uploaded.file_id:
            st.caption("This file is imported. Close this, or choose another one.")
            return
        try:
            circuit = editor.import_circuit(uploaded.name, uploaded.getvalue())
        except BadRequest as error:
            st.error(shell.escaped(str(error)), icon=":material/error:")
            return
        st.session_state["_imported"] = uploaded.file_id
        selection.choose("circuit_looked_at", circuit.circuit_id)
        say(f"“{circuit.title}” is imported. Its prompts are not part of the file: add some, then check it.")
        st.rerun()


def buttons(named: str, circuit: Circuit) -> None:
    """What can be done with the behaviour that is looked at."""
    draft, own = named.startswith("draft:"), circuit.own
    with st.container(horizontal=True):
        if (own or draft) and st.button(
            "Change", key="change_circuit", type="primary", icon=":material/edit:", help=words.HELP["change_circuit"]
        ):
            circuits.begin(editor.document_of(circuit), circuit_id=circuit.circuit_id, base=circuit.circuit_id)
            st.rerun()
        if st.button(
            "Copy and change",
            key="copy_circuit",
            type="secondary" if own or draft else "primary",
            icon=":material/content_copy:",
            help=words.HELP["copy_circuit"],
        ):
            small = st.session_state["model"] in library.model_titles()
            circuits.begin(editor.copy_of(circuit, "mini" if small else "general"), base=circuit.circuit_id)
            st.rerun()
        st.download_button(
            "Export",
            data=editor.export_bytes(circuit.circuit_id, draft=draft),
            file_name=f"{circuit.circuit_id if own or draft else editor.new_id(circuit.title + ' copy')}.yaml",
            mime="application/yaml",
            key="export_circuit",
            icon=":material/download:",
            help=words.HELP["export_circuit"],
            on_click="ignore",
        )
        sets = {} if draft else prompts.choices(circuit)  # a draft cannot be asked for
        if sets:
            request = ProbeRequest(st.session_state["model"], circuit.address, next(iter(sets)))
            sharing.code(snippets.circuit(request), note="the model is the one chosen on the Start page")
        if (own or draft) and st.button(
            "Delete…", key="delete_circuit", icon=":material/delete:", help="Delete it, after asking."
        ):
            confirm_delete(named, circuit.title)


def looking() -> None:
    """The list, and the behaviour chosen in it."""
    st.title("Behaviours")
    st.markdown(terms.marked(words.ABOUT_CIRCUITS))
    if said := st.session_state.pop("_circuits_said", None):
        st.success(shell.escaped(said), icon=":material/check_circle:")
    with st.container(horizontal=True):
        if st.button(
            "New behaviour",
            key="new_behaviour",
            type="primary",
            icon=":material/add:",
            help=words.HELP["new_behaviour"],
        ):
            circuits.begin(circuits.NEW)
            st.rerun()
        import_popover()
    unfinished.offers()
    for reason in unreadable().values():
        st.warning(f"This file is left out. {shell.escaped(reason)}", icon=":material/warning:")
    kinds = circuits.kinds()
    own = [name for name, kind in kinds.items() if kind != "Comes with pprobe"]
    if not own:
        st.caption("You have none of your own yet. Start with a new one, or copy one below and change it.")
    selection.keep_offered("circuit_looked_at", kinds)
    for text in selection.not_here("circuit_looked_at").values():
        st.info(
            f"“{shell.escaped(text)}” is not on this computer. Ask for its YAML file and press **Import**; another "
            "behaviour is shown below.",
            icon=":material/info:",
        )
    selection.start_at("circuit_looked_at", list(kinds), own[0] if own else st.session_state["circuit"])
    named = st.selectbox(
        "Behaviour to look at",
        list(kinds),
        key="circuit_looked_at",
        format_func=lambda name: f"{circuits.look_up(name).title} · {kinds[name].lower()}",
        help=words.HELP["circuit_looked_at"],
        on_change=selection.let_go,
        args=("circuit_looked_at",),
        width=480,
        persist_state="session",
    )
    circuit = circuits.look_up(named)
    with st.container(border=True, key="circuit_details"):
        st.header(shell.escaped(circuit.title), anchor=False)
        if named.startswith("draft:"):
            st.warning(words.A_DRAFT, icon=":material/draft:")
        elif circuit.own:
            circuits.check_line(circuit)
        exports.measured_on(circuit.circuit_id, f"Behaviour {circuit.title}")
        circuits.details(circuit)
        buttons(named, circuit)
    if circuit.own and not named.startswith("draft:"):
        st.page_link(
            shell.PROMPTS, label="Add prompts for it", icon=":material/playlist_add:", help=words.HELP["add_prompts"]
        )


def editing(edit: circuits.Editing) -> None:
    """The editor, step by step."""
    title = st.session_state["edit_title"].strip()
    exports.measured_on(edit.circuit_id or title or "behaviour", f"Behaviour {title or 'without a name'}, being edited")
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        st.title(shell.escaped(title) or "New behaviour", anchor=False, width="content")
        if st.button("Close", key="close_editor", icon=":material/close:", help=words.HELP["close_editor"]):
            circuits.stop_editing()
            st.rerun()
    st.header("1. Name it", anchor=False)
    circuit_steps.step_name()
    st.header("2. What does the answer start with?", anchor=False)
    st.caption(terms.marked(words.STEP_FIRST_WORDS))
    circuit_steps.step_first_words()
    st.header("3. Prompt pairs", anchor=False)
    st.caption(terms.marked(words.STEP_PAIRS))
    circuit_steps.step_pairs(edit)
    st.header("4. What can a written answer be?", anchor=False)
    st.caption(terms.marked(words.STEP_ANSWERS))
    circuit_steps.step_answers(edit)
    circuit_steps.step_more()
    st.header("5. Check it", anchor=False)
    st.caption(terms.marked(words.STEP_CHECK))
    check_and_save(edit)
    unfinished.keep(edit)


def check_and_save(edit: circuits.Editing) -> None:
    """A real run with exactly what stands above; saving is for what holds, a draft for the rest."""
    fields, circuit, lacking = circuits.document(edit), None, circuits.missing(edit)
    try:
        circuit = None if lacking else editor.made(fields)
    except BadRequest as error:
        lacking = str(error)
    if lacking:
        st.info(terms.marked(lacking), icon=":material/edit_note:")
    model = st.session_state["model"].strip()
    usable = models.usable(model)
    if not usable:
        models.show_card(model)
    current = circuit is not None and circuit_check.is_current(edit, circuit)
    if st.button(
        "Check",
        key="check_circuit",
        type="secondary" if current else "primary",
        icon=":material/fact_check:",
        disabled=circuit is None or not usable,
        help=words.HELP["check_circuit"],
    ):
        try:
            circuit_check.ask_for_check(edit, fields)
            st.rerun()
        except BadRequest as error:
            st.error(shell.escaped(str(error)), icon=":material/error:")
    if refused := st.session_state.pop("refused", None):
        st.error(shell.escaped(refused), icon=":material/error:")
    run = checked = None
    if current and not circuit_check.progress(edit) and circuit is not None:
        run = circuit_check.checked_run(edit, circuit)
        if run is not None:
            n = plural(int(run.summary["n_pairs"]), "pair")
            st.markdown(f"**Checked on {shell.escaped(run.request.model)} with {n}**")
            checked = circuit_check.findings(edit, circuit, run)
    elif edit.request is not None and circuit is not None and not current:
        st.info("Something changed since the last check. Check again before saving.", icon=":material/history:")
    st.header("6. Save it", anchor=False)
    if checked is not None and not checked.passes:
        st.error(words.NOT_GOOD_ENOUGH, icon=":material/block:")
    elif checked is None:
        st.caption("It can be saved once it has been checked as it stands above.")
    with st.container(horizontal=True):
        good = checked is not None and checked.passes
        if (
            st.button(
                "Save",
                key="save_circuit",
                type="primary" if good else "secondary",
                icon=":material/save:",
                disabled=not good,
                help=words.HELP["save_circuit"],
            )
            and run is not None
        ):
            try:
                saved = circuit_check.save(edit, fields, run.request.prompts)
            except BadRequest as error:
                st.error(shell.escaped(str(error)), icon=":material/error:")
                return
            finish(saved, f"“{saved.title}” is saved. It stands with the others on the Start page.")
        if st.button(
            "Keep as a draft",
            key="draft_circuit",
            icon=":material/draft:",
            disabled=circuit is None,
            help=words.HELP["draft_circuit"],
        ):
            edit.circuit_id = str(fields["circuit_id"])
            try:
                draft = editor.save_draft(fields)
            except BadRequest as error:
                st.error(shell.escaped(str(error)), icon=":material/error:")
                return
            finish(
                draft, f"“{draft.title}” is kept as a draft. It is not among the behaviours that can be run.", "draft:"
            )


def finish(circuit: Circuit, text: str, prefix: str = "") -> None:
    """Close the editor and look at what was saved."""
    if (edit := circuits.editing()) is not None:
        core_unfinished.forget(edit.name)
    circuits.stop_editing()
    selection.choose("circuit_looked_at", prefix + circuit.circuit_id)
    say(text)
    st.rerun()


backend.jobs()  # where the results file cannot be used, this says so before anything is filled in
now = circuits.editing()
if now is None:
    looking()
else:
    editing(now)
