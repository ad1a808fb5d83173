"""The editor of a behaviour, step by step: its name, first words, pairs, classes of answers."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits import by_example, editor, own_sets
from pprobe_core.circuits.prompt_sets import built_in
from pprobe_core.circuits.responses import BY_EXAMPLE
from pprobe_core.errors import PprobeError
from pprobe_core.wording import plural
from ui import backend, cards, circuits, exports, library, models, selection, shell, words

SIDES = ("target", "control", "other")


def step_name() -> None:
    """Name, description, question."""
    st.text_input(
        "Name",
        key="edit_title",
        max_chars=80,
        placeholder="Polite greeting",
        help=words.HELP["edit_title"],
        persist_state="session",
    )
    left, right = st.columns(2)
    left.text_area(
        "What is this behaviour?",
        key="edit_description",
        height=100,
        max_chars=1500,
        placeholder="Whether the model greets back before it answers.",
        help=words.HELP["edit_description"],
        persist_state="session",
    )
    right.text_area(
        "Which question should a run answer?",
        key="edit_question",
        height=100,
        max_chars=1500,
        placeholder="Which neurons make the model greet back?",
        help=words.HELP["edit_question"],
        persist_state="session",
    )


def step_first_words() -> None:
    """Target and control strings, with what the chosen model makes of them."""
    state = st.session_state
    models.picker("Model to try it on", words.HELP["edit_model"])
    st.checkbox(
        "Every pair has right answers of its own",
        key="edit_per_pair_observable",
        help=words.HELP["edit_per_pair"],
        persist_state="session",
    )
    left, right = st.columns(2, gap="large")
    per_pair = state["edit_per_pair_observable"]
    for side, column in (("target", left), ("control", right)):
        with column:
            st.markdown("**When it shows** (target)" if side == "target" else "**When it does not** (control)")
            st.text_input(
                f"What {side} words stand for",
                key=f"edit_{side}_meaning",
                max_chars=200,
                placeholder="starts of a greeting" if side == "target" else "starts of the bare answer",
                help=words.HELP["edit_meaning"],
                persist_state="session",
            )
            if not per_pair:
                st.multiselect(
                    f"First words of the {side}",
                    list(state[f"edit_{side}"]),
                    key=f"edit_{side}",
                    format_func=charts.visible,
                    accept_new_options=True,
                    placeholder="Type a first word, press Enter",
                    help=words.HELP["edit_strings"],
                    persist_state="session",
                )
    if per_pair:
        st.caption(words.PER_PAIR)
    elif state["edit_target"] or state["edit_control"]:
        _token_preview(state["model"].strip(), state["edit_target"], state["edit_control"])


def _token_preview(model: str, target: Sequence[str], control: Sequence[str]) -> None:
    """Which strings are which first token of the model, which collide or take no part."""
    if backend.tokenizer_is_far(model) and model not in st.session_state.get("_tokenizers", ()):
        st.caption("How this model reads these words is known once its tokeniser is here (a few MB, not the weights).")
        if st.button("Fetch its tokeniser", icon=":material/download:", help=words.HELP["edit_tokenizer"]):
            st.session_state["_tokenizers"] = {*st.session_state.get("_tokenizers", ()), model}
            st.rerun()
        return
    try:
        with st.spinner("Reading the model's tokeniser", show_time=True):
            preview = backend.first_words(model, target, control)
    except PprobeError as error:
        st.warning(shell.escaped(str(error)), icon=":material/warning:")
        return
    st.markdown("**How this model reads them**")
    cards.preview_table(preview)
    for side in circuits.STRINGS:
        mine = preview[preview["side"] == side]
        if len(mine) and not mine["used"].any():
            st.warning(
                f"No {side} word takes part, for the reason in its note, so nothing can be measured. "
                "Choose other words: each must be one token of this model, on one side only.",
                icon=":material/warning:",
            )
    cards.preview_flag(preview)


def step_pairs(edit: circuits.Editing) -> None:
    """How the second prompt comes about, and the pairs to check with."""
    state = st.session_state
    st.radio(
        "The second prompt of a pair",
        list(words.PERTURBATIONS),
        key="edit_perturbation",
        format_func=lambda p: words.PERTURBATIONS[p],
        horizontal=True,
        help=words.HELP["edit_perturbation"],
        persist_state="session",
    )
    st.text_input(
        "What changes between the two, in words",
        key="edit_perturbation_text",
        max_chars=400,
        placeholder="The greeting at the start is left out.",
        help=words.HELP["edit_perturbation_text"],
        persist_state="session",
    )
    offered = pair_sources(edit)
    selection.start_at("edit_pairs_from", list(offered), next(iter(offered)))
    st.selectbox(
        "Pairs to check it with",
        list(offered),
        key="edit_pairs_from",
        format_func=lambda name: offered.get(name, name),
        help=words.HELP["edit_pairs_from"],
        persist_state="session",
    )
    if state["edit_pairs_from"] == circuits.TABLE:
        _pairs_table()


def pair_sources(edit: circuits.Editing) -> dict[str, str]:
    """Where the pairs can come from: sets of this circuit, those of the one it was copied from, the table."""
    own = own_sets.list_sets(edit.circuit_id) if edit.circuit_id else []
    shown = [s for s in own if s.name not in edit.made_sets]
    found = {s.name: f"{s.title} ({plural(s.n_pairs, 'pair')})" for s in shown}
    base = library.circuit_of(edit.base) if edit.base else None
    if base is not None:
        found |= {f"base:{name}": f"{base.title}: {words.PROMPT_SETS[name]}" for name in built_in(base)}
        found |= {
            f"base:{s.name}": f"{base.title}: {s.title}"
            for s in own_sets.list_sets(base.circuit_id)
            if s.name not in found
        }
    return found | {circuits.TABLE: "Pairs typed or pasted here"}


def _pairs_table() -> None:
    """A table to fill in; what stands in it outlives a visit to another page."""
    state = st.session_state
    columns = ["original", "perturbed"] if state["edit_perturbation"] == "given" else ["original", "keyword"]
    if state["edit_per_pair_observable"]:
        columns += ["target", "control"]
    key = f"edit_grid_{'_'.join(columns)}"
    if key not in state:  # drawn for the first time, or again after another page
        state["edit_pairs_start"] = state["edit_pairs_now"]
    text = st.column_config.TextColumn
    edited = exports.editor(
        state["edit_pairs_start"][columns],
        key=key,
        num_rows="dynamic",
        hide_index=True,
        width="stretch",
        alt="Prompt pairs",
        column_config={
            "original": text("Original prompt", help=words.HELP["edit_original"], width="large"),
            "perturbed": text("Second prompt", help=words.HELP["edit_perturbed"], width="large"),
            "keyword": text("Word to swap", help=words.HELP["column_keyword"]),
            "target": text("Right answer (target)", help=words.HELP["column_target"]),
            "control": text("Other answer (control)", help=words.HELP["column_control"]),
        },
    )
    state["edit_pairs_now"] = edited.reindex(columns=list(circuits.PAIR_COLUMNS), fill_value="").fillna("")
    st.caption(words.PAIRS_TABLE)
    with st.popover("Paste a list", icon=":material/content_paste:", help=words.HELP["edit_paste"]):
        st.text_area(
            f"One pair a line: {', '.join(columns)}",
            key="edit_pasted",
            height=200,
            placeholder=words.PASTE_EXAMPLE[columns[1]],
            help=words.HELP["edit_paste"],
        )
        st.button(
            "Put into the table",
            key="edit_put_pasted",
            icon=":material/table_rows:",
            help="Adds these lines below the rows that are filled in.",
            on_click=_take_pasted,
            args=(key, columns),
        )


def _take_pasted(key: str, columns: Sequence[str]) -> None:
    """Rows from a pasted list, behind those that are filled in; the table starts anew with them."""
    state = st.session_state
    now = state["edit_pairs_now"]
    filled = now[(now != "").any(axis=1)]
    pasted = pd.DataFrame(
        editor.pasted_rows(state["edit_pasted"], columns), columns=list(circuits.PAIR_COLUMNS), dtype=object
    ).fillna("")
    state["edit_pairs_now"] = pd.concat([filled, pasted], ignore_index=True)
    state["edit_pasted"] = ""
    state.pop(key, None)


def step_answers(edit: circuits.Editing) -> None:
    """Response classes: by example, or by one of the product's rules; and a sentence to try."""
    state = st.session_state
    st.selectbox(
        "How written answers are sorted",
        list(words.RESPONSE_RULES),
        key="edit_response_rule",
        format_func=lambda rule: words.RESPONSE_RULES[rule],
        help=words.HELP["edit_rule"],
        persist_state="session",
    )
    rule = state["edit_response_rule"]
    if rule != BY_EXAMPLE:
        _classes_of_the_rule(rule)
        return
    st.caption(words.BY_EXAMPLE)
    uids = list(edit.names)
    for pair in (uids[i : i + 2] for i in range(0, len(uids), 2)):
        for uid, column in zip(pair, st.columns(2, gap="medium"), strict=False):
            with column.container(border=True, key=f"class_card_{uid}"):
                _class_widgets(edit, uid)
    if st.button("Add a class", key="add_class", icon=":material/add:", help=words.HELP["edit_add_class"]):
        circuits.add_class(edit, {"name": "", "title": "", "side": "other"})
        st.rerun()
    _try_a_sentence(edit)


def _class_widgets(edit: circuits.Editing, uid: int) -> None:
    title, side = st.columns([3, 2.4], vertical_alignment="bottom")
    title.text_input(
        "Class",
        key=f"edit_class_title_{uid}",
        max_chars=80,
        placeholder="Greets back",
        help=words.HELP["edit_class"],
        persist_state="session",
    )
    side.selectbox(
        "Stands for",
        SIDES,
        key=f"edit_class_side_{uid}",
        format_func=lambda s: words.SIDES[s],
        help=words.HELP["edit_side"],
        persist_state="session",
    )
    st.text_area(
        "Example answers, one a line",
        key=f"edit_class_examples_{uid}",
        height=130,
        placeholder="Hello! The capital is Rome.\nHi there",
        help=words.HELP["edit_examples"],
        persist_state="session",
    )
    if len(edit.names) > 2 and st.button(
        "Take this class out",
        key=f"drop_class_{uid}",
        type="tertiary",
        icon=":material/delete:",
        help="Removes the class with its examples.",
    ):
        del edit.names[uid]
        st.rerun()


def _classes_of_the_rule(rule: str) -> None:
    """Which side each class of a rule stands for."""
    with st.grid(3, min_column_width=200, gap="small"):
        for c in circuits.classes_of_rule(rule):
            key = f"edit_side_{rule}_{c.name}"
            st.session_state.setdefault(key, c.side)
            st.selectbox(
                f"{c.title} stands for",
                SIDES,
                key=key,
                format_func=lambda s: words.SIDES[s],
                help=words.HELP["edit_side"],
                persist_state="session",
            )


def _try_a_sentence(edit: circuits.Editing) -> None:
    """What the examples make of a sentence, and what they make of each other."""
    rows = [row for row in circuits.classes(edit) if row["examples"]]
    if not rows:
        return
    titles = {row["name"]: row["title"] or "a class without a name" for row in rows}
    titles[by_example.OTHER] = "like none of the examples"
    sentence = st.text_input(
        "Try an answer",
        key="edit_try",
        max_chars=1000,
        placeholder="Write what a model could answer",
        help=words.HELP["edit_try"],
        persist_state="session",
    )
    if sentence.strip():
        guess = by_example.decide({row["name"]: row["examples"] for row in rows}, sentence)
        why = (
            f"it begins with “{guess.example}”"
            if guess.begins
            else f"nearest example: “{guess.example}”, likeness {guess.similarity:.2f} of 1"
            + (f", lead over “{titles[guess.runner_up]}” {guess.margin:.2f}" if guess.runner_up else "")
        )
        found = titles[guess.class_name]
        st.markdown(f"**{shell.escaped(found[:1].upper() + found[1:])}** ({shell.escaped(why)})")


def step_more() -> None:
    """What most people leave as it is."""
    with st.expander("More", icon=":material/tune:"):
        st.checkbox(
            "Both prompts of a pair ask for the same",
            key="edit_same_content",
            help=words.HELP["edit_same_content"],
            persist_state="session",
        )
        left, right = st.columns([1, 2])
        left.selectbox(
            "Kind of circuit you expect",
            [None, "opposition", "routing", "read_out"],
            key="edit_expected_structure",
            format_func=lambda s: words.STRUCTURES[s] if s else "No expectation",
            help=words.HELP["edit_expected"],
            persist_state="session",
        )
        right.text_input(
            "Why",
            key="edit_expected_note",
            max_chars=400,
            help=words.HELP["edit_expected_note"],
            persist_state="session",
        )
