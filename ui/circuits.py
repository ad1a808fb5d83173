"""The page of behaviours: looking at them, and what is being edited of one's own."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits import editor, own_sets
from pprobe_core.circuits.prompt_sets import built_in
from pprobe_core.circuits.responses import ALWAYS_THERE, BY_EXAMPLE
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.probing.validity import Validity, validity
from pprobe_core.store import Run
from pprobe_core.wording import plural
from ui import exports, library, shell, terms, words

TABLE = "table"  # in the picker of pairs: the ones typed on the page
PAIR_COLUMNS = ("original", "perturbed", "keyword", "target", "control")  # of that table
# Fields of a circuit that the page has a widget for; the others of a copied or imported one stay as they are.
_TEXTS = ("title", "description", "question", "perturbation_text", "target_meaning", "control_meaning", "expected_note")
_CHOICES = ("perturbation", "expected_structure", "response_rule", "per_pair_observable", "same_content")
STRINGS = ("target", "control")

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
    name: str = field(default_factory=lambda: secrets.token_hex(8))  # under which it is kept while it is unfinished
    seen: str | None = None  # what stood in the editor when it was kept last, or at first; None before


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
    seen: set[str] = set()
    told = {
        name: shell.of_circuit(circuit, getattr(circuit, name), seen)
        for name in ("description", "question", "perturbation_text", "expected_note")
    }
    st.markdown(f"{told['description']} **{told['question']}**")
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**The two prompts of a pair**")
        st.markdown(told["perturbation_text"])
        st.caption(_sets_line(circuit))
        if told["expected_note"]:
            st.caption(told["expected_note"])
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
    exports.table(
        table,
        key="response_classes",
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
    if not names:
        return terms.marked("It has no prompt set yet.")
    return f"{terms.marked('Prompt sets')}: {shell.escaped(', '.join(names))}"


def last_check(circuit: Circuit) -> tuple[Run, Validity] | None:
    """The newest run of exactly this circuit with its own first words, and what it says; None without any."""
    runs = shell.runs()
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
    stop_editing()
    state = st.session_state
    shown = (*_TEXTS, *_CHOICES, *STRINGS, "response_classes", "circuit_id")
    edit = Editing({k: v for k, v in document.items() if k not in shown}, circuit_id, base)
    for name in _TEXTS:
        state[f"edit_{name}"] = str(document.get(name) or "")
    for name in _CHOICES:
        state[f"edit_{name}"] = document.get(name, False if name in ("per_pair_observable", "same_content") else None)
    for name in STRINGS:
        state[f"edit_{name}"] = list(document.get(name) or [])
    made = document.get("response_rule") == BY_EXAMPLE
    for row in document["response_classes"]:
        if made or row["side"] != "other":  # classes of a rule, to begin with where examples take its place
            add_class(edit, row if made else {**row, "name": ""})
    open_editor(edit, {}, [])


def open_editor(edit: Editing, typed: Mapping[str, Any], pairs: Sequence[Mapping[str, str]]) -> None:
    """Show the editor with what `typed` says in its widgets, by their keys, and with these pairs in its table."""
    state = st.session_state
    state.update(typed)
    blank = [dict.fromkeys(PAIR_COLUMNS, "")] * max(0, 6 - len(pairs))
    state["edit_pairs_now"] = pd.DataFrame([*pairs, *blank], columns=list(PAIR_COLUMNS))
    state["_editing"] = edit


def can_show(edit: Editing, typed: Mapping[str, Any]) -> bool:
    """Whether these are values that the widgets of this editor can hold."""
    of_classes = {f"edit_class_{part}_{uid}" for uid in edit.names for part in ("title", "side", "examples")}
    fields = {f"edit_{name}" for name in (*_TEXTS, *_CHOICES, *STRINGS)}
    structures = (None, *words.STRUCTURES)
    return (
        fields | of_classes <= set(typed)
        and typed["edit_perturbation"] in words.PERTURBATIONS
        and typed["edit_response_rule"] in words.RESPONSE_RULES
        and typed["edit_expected_structure"] in structures
        and all(typed[f"edit_class_side_{uid}"] in words.SIDES for uid in edit.names)
        and all(isinstance(typed[f"edit_{name}"], list) for name in STRINGS)
    )


def add_class(edit: Editing, row: Mapping[str, Any]) -> None:
    """Widgets for one more class of answers, filled in with what `row` says."""
    uid = max(edit.names, default=0) + 1
    edit.names[uid] = str(row["name"])
    st.session_state[f"edit_class_title_{uid}"] = str(row["title"])
    st.session_state[f"edit_class_side_{uid}"] = row["side"]
    st.session_state[f"edit_class_examples_{uid}"] = "\n".join(row.get("examples") or [])


def stop_editing() -> None:
    """Close the editor; what stands in it is gone from this browser."""
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
    fields |= {name: [] if per_pair else list(state[f"edit_{name}"]) for name in STRINGS}
    fields["response_classes"] = rows = classes(edit)
    names = [row["name"] for row in rows]
    kept = {**edit.kept}
    if per_pair:
        kept.pop("target_fallback", None)
    if "outcomes" in kept:
        kept["outcomes"] = [o for o in kept["outcomes"] if set(o["classes"]) <= {*names, *ALWAYS_THERE}]
    optional = ("expected_structure", "expected_note", "same_content")
    return {name: value for name, value in (fields | kept).items() if value or name not in optional}


def classes(edit: Editing) -> list[dict[str, Any]]:
    """The response classes as the widgets say."""
    state, rule = st.session_state, st.session_state["edit_response_rule"]
    if rule != BY_EXAMPLE:
        return [
            {"name": c.name, "title": c.title, "side": state.get(f"edit_side_{rule}_{c.name}", c.side)}
            for c in classes_of_rule(rule)
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


def classes_of_rule(rule: str) -> Sequence[Any]:
    """The classes of a rule of the product, titled as the circuit that uses it does."""
    return next(c.response_classes for c in library.circuits().values() if c.response_rule == rule and not c.own)


def missing(edit: Editing) -> str:
    """What is still to be filled in, in the page's words; "" when the fields may give a circuit."""
    state = st.session_state
    lacking = [label for name, label in words.EDITOR_TEXTS.items() if not state[f"edit_{name}"].strip()]
    if not state["edit_per_pair_observable"]:
        lacking += [f"{side} first words" for side in STRINGS if not state[f"edit_{side}"]]
    if state["edit_response_rule"] == BY_EXAMPLE:
        for row in classes(edit):
            if not row["title"]:
                lacking.append("a name for every class of answers")
            if not row["examples"]:
                lacking.append("example answers for every class")
    return f"Still to fill in: {', '.join(dict.fromkeys(lacking))}." if lacking else ""
