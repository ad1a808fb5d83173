"""The page of behaviours: looking at them, and making, checking and saving one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits import by_example, editor, own_sets
from pprobe_core.circuits.prompt_sets import built_in, load_prompt_set
from pprobe_core.circuits.responses import ALWAYS_THERE, BY_EXAMPLE
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.probing.validity import (
    Validity,
    confusion,
    missed_tokens,
    unsorted_answers,
    validity,
    wasted_examples,
)
from pprobe_core.store import Run, job_id_of
from pprobe_core.wording import plural
from ui import backend, cards, job_panel, library, models, selection, shell, words

TABLE = "table"  # in the picker of pairs: the ones typed on the page
SIDES = ("target", "control", "other")
N_OFFERED = 4  # missed tokens and answers without a class that a button takes over
# Fields of a circuit that the page has a widget for; the others of a copied or imported one stay as they are.
_TEXTS = ("title", "description", "question", "perturbation_text", "target_meaning", "control_meaning", "expected_note")
_CHOICES = ("perturbation", "expected_structure", "response_rule", "per_pair_observable", "same_content")
_STRINGS = ("target", "control")

NEW: Mapping[str, Any] = {
    "title": "",
    "description": "",
    "question": "",
    "perturbation": "given",
    "perturbation_text": "",
    "target_meaning": "",
    "control_meaning": "",
    "target": [],
    "control": [],
    "response_rule": BY_EXAMPLE,
    "response_classes": [
        {"name": "", "title": "", "side": "target", "examples": []},
        {"name": "", "title": "", "side": "control", "examples": []},
    ],
}


@dataclass
class Editing:
    """The behaviour being edited, as far as its widgets do not hold it."""

    kept: dict[str, Any]  # fields without a widget
    circuit_id: str = ""  # "" until it is checked or kept for the first time
    base: str = ""  # the circuit it was copied from, whose prompt sets can be taken along
    names: dict[int, str] = field(default_factory=dict)  # of the response classes, by the number of their widgets
    made_sets: list[str] = field(default_factory=list)  # prompt sets that checks stored
    request: ProbeRequest | None = None  # of the last check
    pairs_checked: str = ""  # what stood in the table then


# ------------------------------------------------------------------------------------------- looking at them


def kinds() -> dict[str, str]:
    """Every circuit that can be looked at, as the picker names it -> whose it is; drafts as `draft:id`."""
    listed = {name: "Yours" if circuit.own else "Comes with pprobe" for name, circuit in library.circuits().items()}
    return listed | {f"draft:{name}": "Draft" for name in editor.drafts()}


def look_up(named: str) -> Circuit:
    """The circuit that the picker names. Raises BadRequest when it is gone."""
    if named.startswith("draft:"):
        found = editor.drafts().get(named.removeprefix("draft:"))
        if found is None:
            raise BadRequest("This draft is gone. Reload the page.")
        return found
    return library.circuits()[named]


def details(circuit: Circuit) -> None:
    """What a behaviour is made of, for reading."""
    st.markdown(f"{shell.escaped(circuit.description)} **{shell.escaped(circuit.question)}**")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**The two prompts of a pair**")
        st.markdown(shell.escaped(circuit.perturbation_text))
        st.caption(_sets_line(circuit))
        if circuit.expected_note:
            st.caption(shell.escaped(circuit.expected_note))
    with right:
        st.markdown("**What the answer starts with**", help=words.GLOSSARY["Target and control"])
        for side, meaning in (("target", circuit.target_meaning), ("control", circuit.control_meaning)):
            strings = getattr(circuit, side)
            shown = " · ".join(f"“{charts.visible(s)}”" for s in strings) or "each pair brings its own"
            st.markdown(f"{side.capitalize()}, {shell.escaped(meaning)}: {shell.escaped(shown)}")
    rows = [
        {
            "Class": c.title,
            "Stands for": words.SIDES[c.side],
            "Examples": " · ".join(c.examples) if c.examples else "",
        }
        for c in circuit.response_classes
    ]
    st.markdown("**How written answers are sorted**")
    st.caption(words.RESPONSE_RULES[circuit.response_rule])
    table = pd.DataFrame(rows)
    if not any(row["Examples"] for row in rows):
        table = table.drop(columns="Examples")
    st.dataframe(
        table,
        hide_index=True,
        alt="Response classes",
        column_config={
            "Class": st.column_config.TextColumn(help="What an answer can turn out to be."),
            "Stands for": st.column_config.TextColumn(help=words.GLOSSARY["Target and control"]),
            "Examples": st.column_config.TextColumn(help="Answers or opening phrases that make the class."),
        },
    )


def _sets_line(circuit: Circuit) -> str:
    own = own_sets.list_sets(circuit.circuit_id)
    names = [*built_in(circuit), *(s.title for s in own)]
    return f"Prompt sets: {shell.escaped(', '.join(names))}" if names else "It has no prompt set yet."


def last_check(circuit: Circuit) -> tuple[Run, Validity] | None:
    """The newest run of exactly this circuit with its own first words, and what it says; None without any."""
    runs = shell.store().runs()
    mine = runs[(runs["circuit"] == circuit.address) & (runs["strings_from"] == "circuit")]
    for run_id in map(str, mine["run_id"]):
        run = shell.store().run(run_id)
        if run.summary.get("circuit_sha256") == circuit.sha256:
            return run, _validity(circuit, run_id)
    return None


def _validity(circuit: Circuit, run_id: str) -> Validity:
    run = shell.store().run(run_id)
    return validity(circuit, run.summary, shell.read("pairs", run_id), shell.read("first_tokens", run_id))


def check_line(circuit: Circuit) -> None:
    """Whether an own circuit was checked here, and with what result."""
    found = last_check(circuit)
    if found is None:
        st.info(words.NOT_CHECKED, icon=":material/help:")
        return
    run, checked = found
    title = own_sets.title_of(run.request.prompts)
    where = f"on {run.request.model} with {plural(int(run.summary['n_pairs']), 'pair')} of “{title}”"
    if checked.passes:
        st.success(shell.escaped(f"Checked {where}: it holds."), icon=":material/check_circle:")
    else:
        bad = ", ".join(f.name.lower() for f in checked.findings if f.level == "bad")
        st.warning(shell.escaped(f"Checked {where}: it does not hold yet ({bad})."), icon=":material/warning:")
    st.page_link(shell.PROBE, label="Open that run", icon=":material/arrow_forward:", query_params={"run": run.run_id})


# ------------------------------------------------------------------------------------- what is being edited


def editing() -> Editing | None:
    """What is being edited in this browser, None when nothing is."""
    found = st.session_state.get("_editing")
    return found if isinstance(found, Editing) else None


def begin(document: Mapping[str, Any], *, circuit_id: str = "", base: str = "") -> None:
    """Fill the editor with the fields of a circuit. `circuit_id`: the own one that is changed, "" for a new one."""
    state = st.session_state
    for key in [key for key in state if str(key).startswith("edit_")]:
        del state[key]
    shown = (*_TEXTS, *_CHOICES, *_STRINGS, "response_classes", "circuit_id")
    edit = Editing({k: v for k, v in document.items() if k not in shown}, circuit_id, base)
    for name in _TEXTS:
        state[f"edit_{name}"] = str(document.get(name) or "")
    for name in _CHOICES:
        state[f"edit_{name}"] = document.get(name, False if name in ("per_pair_observable", "same_content") else None)
    for name in _STRINGS:
        state[f"edit_{name}"] = list(document.get(name) or [])
    made = document.get("response_rule") == BY_EXAMPLE
    for row in document["response_classes"]:
        if made or row["side"] != "other":  # classes of a rule, to begin with where examples take its place
            _add_class(edit, row if made else {**row, "name": ""})
    state["edit_pairs_now"] = pd.DataFrame([dict.fromkeys(_PAIR_COLUMNS, "")] * 6)
    state["_editing"] = edit


def _add_class(edit: Editing, row: Mapping[str, Any]) -> None:
    uid = max(edit.names, default=0) + 1
    edit.names[uid] = str(row["name"])
    st.session_state[f"edit_class_title_{uid}"] = str(row["title"])
    st.session_state[f"edit_class_side_{uid}"] = row["side"]
    st.session_state[f"edit_class_examples_{uid}"] = "\n".join(row.get("examples") or [])


def stop_editing() -> None:
    """Close the editor; what was not saved is gone."""
    for key in [key for key in st.session_state if str(key).startswith("edit_")]:
        del st.session_state[key]
    st.session_state.pop("_editing", None)


def document(edit: Editing) -> dict[str, Any]:
    """The fields of the circuit as the widgets say."""
    state = st.session_state
    fields: dict[str, Any] = {"circuit_id": edit.circuit_id or editor.new_id(state["edit_title"])}
    fields |= {name: state[f"edit_{name}"].strip() for name in _TEXTS}
    fields |= {name: state[f"edit_{name}"] for name in _CHOICES}
    per_pair = fields["per_pair_observable"]
    fields |= {name: [] if per_pair else list(state[f"edit_{name}"]) for name in _STRINGS}
    fields["response_classes"] = classes = _classes(edit)
    names = [row["name"] for row in classes]
    kept = {**edit.kept}
    if per_pair:
        kept.pop("target_fallback", None)
    if "outcomes" in kept:
        kept["outcomes"] = [o for o in kept["outcomes"] if set(o["classes"]) <= {*names, *ALWAYS_THERE}]
    optional = ("expected_structure", "expected_note", "same_content")
    return {name: value for name, value in (fields | kept).items() if value or name not in optional}


def _classes(edit: Editing) -> list[dict[str, Any]]:
    state, rule = st.session_state, st.session_state["edit_response_rule"]
    if rule != BY_EXAMPLE:
        return [
            {"name": c.name, "title": c.title, "side": state.get(f"edit_side_{rule}_{c.name}", c.side)}
            for c in _classes_of_rule(rule)
        ]
    rows: list[dict[str, Any]] = []
    for uid, name in edit.names.items():
        title = state[f"edit_class_title_{uid}"].strip()
        taken = {row["name"] for row in rows} | {n for u, n in edit.names.items() if n and u != uid}
        rows.append(
            {
                "name": name or editor.class_name(title or "class", taken),
                "title": title,
                "side": state[f"edit_class_side_{uid}"],
                "examples": editor.examples_in(state[f"edit_class_examples_{uid}"]),
            }
        )
    return rows


def _classes_of_rule(rule: str) -> Sequence[Any]:
    """The classes of a rule of the product, titled as the circuit that uses it does."""
    return next(c.response_classes for c in library.circuits().values() if c.response_rule == rule and not c.own)


def missing(edit: Editing) -> str:
    """What is still to be filled in, in the page's words; "" when the fields may give a circuit."""
    state = st.session_state
    lacking = [label for name, label in words.EDITOR_TEXTS.items() if not state[f"edit_{name}"].strip()]
    if not state["edit_per_pair_observable"]:
        lacking += [f"{side} first words" for side in _STRINGS if not state[f"edit_{side}"]]
    if state["edit_response_rule"] == BY_EXAMPLE:
        for row in _classes(edit):
            if not row["title"]:
                lacking.append("a name for every class of answers")
            if not row["examples"]:
                lacking.append("example answers for every class")
    return f"Still to fill in: {', '.join(dict.fromkeys(lacking))}." if lacking else ""


# ------------------------------------------------------------------------------------------ steps of the editor


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
    for side in _STRINGS:
        mine = preview[preview["side"] == side]
        if len(mine) and not mine["used"].any():
            st.warning(
                f"No {side} word takes part, for the reason in its note, so nothing can be measured. "
                "Choose other words: each must be one token of this model, on one side only.",
                icon=":material/warning:",
            )
    cards.preview_flag(preview)


_PAIR_COLUMNS = ("original", "perturbed", "keyword", "target", "control")


def step_pairs(edit: Editing) -> None:
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
    if state["edit_pairs_from"] == TABLE:
        _pairs_table()


def pair_sources(edit: Editing) -> dict[str, str]:
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
    return found | {TABLE: "Pairs typed or pasted here"}


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
    edited = st.data_editor(
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
    state["edit_pairs_now"] = edited.reindex(columns=list(_PAIR_COLUMNS), fill_value="").fillna("")
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
    pasted = pd.DataFrame(editor.pasted_rows(state["edit_pasted"], columns), columns=list(_PAIR_COLUMNS)).fillna("")
    state["edit_pairs_now"] = pd.concat([filled, pasted], ignore_index=True)
    state["edit_pasted"] = ""
    state.pop(key, None)


def step_answers(edit: Editing) -> None:
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
        _add_class(edit, {"name": "", "title": "", "side": "other"})
        st.rerun()
    _try_a_sentence(edit)


def _class_widgets(edit: Editing, uid: int) -> None:
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
        for c in _classes_of_rule(rule):
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


def _try_a_sentence(edit: Editing) -> None:
    """What the examples make of a sentence, and what they make of each other."""
    rows = [row for row in _classes(edit) if row["examples"]]
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


# --------------------------------------------------------------------------------------------------- the check


def ask_for_check(edit: Editing, fields: Mapping[str, Any]) -> None:
    """Store the circuit's exact version and its pairs, and ask the worker for a real run with them."""
    edit.circuit_id = str(fields["circuit_id"])
    circuit = editor.keep_version(fields)
    prompts = _stored_pairs(edit, circuit)
    load_prompt_set(circuit, prompts)
    edit.request = ProbeRequest(model=st.session_state["model"].strip(), circuit=circuit.address, prompts=prompts)
    edit.pairs_checked = pairs_now(edit)
    job_panel.submit(edit.request)


def _stored_pairs(edit: Editing, circuit: Circuit) -> str:
    """Name of the prompt set that holds the chosen pairs; pairs from elsewhere are stored as a set of this circuit."""
    source = st.session_state["edit_pairs_from"]
    if source == TABLE:
        rows = st.session_state["edit_pairs_now"].to_dict("records")
        second = "perturbed" if circuit.perturbation == "given" else "keyword"
        used = ["original", second, *(_STRINGS if circuit.per_pair_observable else ())]
        pairs = editor.typed_pairs([{k: row[k] for k in used} for row in rows], circuit)
        origin, title = own_sets.Origin("paste", "typed on the page Behaviours"), f"Pairs of {circuit.title}"
    elif source.startswith("base:"):
        base, name = library.circuit_of(edit.base), source.removeprefix("base:")
        if base is None:
            raise BadRequest("The behaviour it was copied from is gone. Choose other pairs.")
        pairs = editor.pairs_of(base, name)
        shown = words.PROMPT_SETS.get(name) or own_sets.title_of(name)
        origin = own_sets.Origin("file", f"the set “{shown}” of {base.title}")
        title = f"{base.title}: {shown}"
    else:
        return str(source)
    stored = own_sets.add_set(circuit, title[:80], pairs, origin)
    if stored.name not in edit.made_sets:
        edit.made_sets.append(stored.name)
    return stored.name


def pairs_now(edit: Editing) -> str:
    """What the chosen pairs are, to tell whether they changed since a check."""
    source = st.session_state["edit_pairs_from"]
    return f"{source}|{st.session_state['edit_pairs_now'].to_json() if source == TABLE else ''}"


def checked_run(edit: Editing, circuit: Circuit) -> Run | None:
    """The run of the last check where it is of exactly what stands on the page; None when anything changed since."""
    request = edit.request
    if request is None or not is_current(edit, circuit):
        return None
    run_id = shell.store().run_of(request)
    return None if run_id is None else shell.store().run(run_id)


def is_current(edit: Editing, circuit: Circuit) -> bool:
    """Whether the last check was of the circuit, the pairs and the model that stand on the page now."""
    request = edit.request
    return (
        request is not None
        and request.circuit == circuit.address
        and request.model == st.session_state["model"].strip()
        and edit.pairs_checked == pairs_now(edit)
    )


def progress(edit: Editing) -> bool:
    """The check under way, or how it failed; True while it runs."""
    job = backend.find_job(job_id_of(edit.request)) if edit.request is not None else None
    if job is None:
        return False
    if job.state in job_panel.ACTIVE:
        job_panel.watch_job(job.job_id)
        return True
    if job.state == "failed":
        st.error(f"The check failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    elif job.state == "cancelled":
        st.info("The check was cancelled. Check again to go on from there.", icon=":material/stop_circle:")
    return False


def findings(edit: Editing, circuit: Circuit, run: Run) -> Validity:
    """What the check found, with buttons for what can be mended by one press; returns it."""
    pairs, first = shell.read("pairs", run.run_id), shell.read("first_tokens", run.run_id)
    checked = validity(circuit, run.summary, pairs, first)
    icons = {
        "good": ":green[:material/check_circle:]",
        "weak": ":orange[:material/info:]",
        "bad": ":red[:material/error:]",
    }
    for found in checked.findings:
        advice = f"  \n:small[{shell.escaped(found.advice)}]" if found.advice else ""
        st.markdown(f"{icons[found.level]} **{found.name}.** {shell.escaped(found.text)}{advice}")
    if not circuit.per_pair_observable:
        _offer_tokens(pairs, first)
    if circuit.response_rule == BY_EXAMPLE:
        _offer_answers(edit, circuit, pairs)
        _confusion(circuit)
    with st.expander("Pair by pair", icon=":material/insights:"):
        shell.figure(lambda: charts.margins(pairs), key="check_margins")
        st.page_link(
            shell.PROBE, label="Open this run", icon=":material/arrow_forward:", query_params={"run": run.run_id}
        )
    return checked


def _offer_tokens(pairs: pd.DataFrame, first: pd.DataFrame) -> None:
    """Buttons that add a first token which the sides miss."""
    counts: dict[str, int] = {}
    for condition in ("original", "perturbed"):
        for token, n in missed_tokens(pairs, first, condition):
            counts[token] = counts.get(token, 0) + n
    offered = sorted(counts, key=lambda t: -counts[t])[:N_OFFERED]
    if not offered:
        return
    st.markdown("**First tokens that no side has yet**")
    for place, token in enumerate(offered):
        with st.container(horizontal=True, vertical_alignment="center", key=f"missed_{place}"):
            st.markdown(f"“{shell.escaped(charts.visible(token))}” starts {plural(counts[token], 'answer')}", width=260)
            for side in _STRINGS:
                st.button(
                    f"Add to {side}",
                    key=f"take_{side}_{place}",
                    icon=":material/add:",
                    help="Add this first token, then check again.",
                    on_click=_take_token,
                    args=(side, token),
                )


def _take_token(side: str, token: str) -> None:
    key = f"edit_{side}"
    st.session_state[key] = (
        [*st.session_state[key], token] if token not in st.session_state[key] else st.session_state[key]
    )


def _offer_answers(edit: Editing, circuit: Circuit, pairs: pd.DataFrame) -> None:
    """Buttons that put an answer without a class among the examples of one."""
    unsorted = unsorted_answers(circuit, pairs)[:N_OFFERED]
    if not unsorted:
        return
    st.markdown("**Answers like none of your examples**")
    titles = {uid: st.session_state[f"edit_class_title_{uid}"] for uid in edit.names}
    for place, (answer, n) in enumerate(unsorted):
        with st.container(horizontal=True, vertical_alignment="center", key=f"unsorted_{place}"):
            st.markdown(f"“{shell.escaped(answer)}” ({n})", width=420)
            for uid, title in titles.items():
                st.button(
                    f"Is “{shell.escaped(title)}”",
                    key=f"sort_{place}_{uid}",
                    help="Add this answer to the examples of that class, then check again.",
                    on_click=_take_answer,
                    args=(uid, answer),
                )


def _take_answer(uid: int, answer: str) -> None:
    key = f"edit_class_examples_{uid}"
    st.session_state[key] = "\n".join([*editor.examples_in(st.session_state[key]), answer])


def _confusion(circuit: Circuit) -> None:
    """What the examples make of each other: each one sorted by all the others."""
    found = confusion(circuit)
    titles = {c.name: c.title for c in circuit.response_classes}
    st.markdown("**How well the examples tell the classes apart**", help=words.HELP["edit_confusion"])
    if found.n:
        table = found.counts.rename(index=titles, columns=titles)
        table.index.name = "Given as"
        number, text = st.column_config.NumberColumn, st.column_config.TextColumn
        st.dataframe(
            table.reset_index(),
            hide_index=True,
            alt="Examples sorted by all other examples: given class against found class",
            column_config={"Given as": text(help="The class you gave the example for.")}
            | {name: number(help="Examples that all the others put here.", width="small") for name in table.columns},
        )
        said = f"Each example sorted by all the others: {found.n_right} of {found.n} find their class"
        if found.mistaken:
            example, _, got = found.mistaken[0]
            said += f"; for instance “{shell.escaped(example[:60])}” becomes “{shell.escaped(titles[got])}”"
        st.caption(f"{said}. An answer worded unlike any example is sorted as “Like none of the examples”.")
    if found.n_openings:
        phrases = plural(found.n_openings, "opening phrase", ("takes", "take"))
        st.caption(f"{phrases} no part here: they count for answers that begin with them, and for no others.")
    for example, got in wasted_examples(circuit)[:3]:
        st.caption(
            f":material/flag: Even with itself among the examples, “{shell.escaped(example[:60])}” is sorted as "
            f"“{shell.escaped(titles.get(got, got))}”."
        )


def save(edit: Editing, fields: Mapping[str, Any], prompts: str) -> Circuit:
    """Save the circuit, drop sets of earlier checks, and let the Start page begin with it."""
    circuit = editor.save(fields)
    for name in edit.made_sets:
        if name != prompts:
            try:
                own_sets.delete_set(name)
            except BadRequest:
                continue
    state = st.session_state
    state["circuit"], state["prompts"], state["run"], state["sweep"] = circuit.circuit_id, prompts, "", ""
    return circuit
