"""The check of a behaviour being edited: a real run of it, what that found, and saving what holds."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits import editor, own_sets
from pprobe_core.circuits.prompt_sets import load_prompt_set
from pprobe_core.circuits.responses import BY_EXAMPLE
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest
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
from ui import backend, circuits, exports, job_panel, library, shell, terms, words

N_OFFERED = 4  # missed tokens and answers without a class that a button takes over


def ask_for_check(edit: circuits.Editing, fields: Mapping[str, Any]) -> None:
    """Store the circuit's exact version and its pairs, and ask the worker for a real run with them."""
    edit.circuit_id = str(fields["circuit_id"])
    circuit = editor.keep_version(fields)
    prompts = _stored_pairs(edit, circuit)
    load_prompt_set(circuit, prompts)
    edit.request = ProbeRequest(model=st.session_state["model"].strip(), circuit=circuit.address, prompts=prompts)
    edit.pairs_checked = pairs_now(edit)
    job_panel.submit(edit.request)


def _stored_pairs(edit: circuits.Editing, circuit: Circuit) -> str:
    """Name of the prompt set that holds the chosen pairs; pairs from elsewhere are stored as a set of this circuit."""
    source = st.session_state["edit_pairs_from"]
    if source == circuits.TABLE:
        rows = st.session_state["edit_pairs_now"].to_dict("records")
        second = "perturbed" if circuit.perturbation == "given" else "keyword"
        used = ["original", second, *(circuits.STRINGS if circuit.per_pair_observable else ())]
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
    here = {one.name for one in own_sets.list_sets(circuit.circuit_id)}
    stored = own_sets.add_set(circuit, title[:80], pairs, origin)
    if stored.name not in {*here, *edit.made_sets}:  # one that was here before is not ours to delete
        edit.made_sets.append(stored.name)
    return stored.name


def pairs_now(edit: circuits.Editing) -> str:
    """What the chosen pairs are, to tell whether they changed since a check."""
    source = st.session_state["edit_pairs_from"]
    return f"{source}|{st.session_state['edit_pairs_now'].to_json() if source == circuits.TABLE else ''}"


def checked_run(edit: circuits.Editing, circuit: Circuit) -> Run | None:
    """The run of the last check where it is of exactly what stands on the page; None when anything changed since."""
    request = edit.request
    if request is None or not is_current(edit, circuit):
        return None
    run_id = shell.store().run_of(request)
    return None if run_id is None else shell.store().run(run_id)


def is_current(edit: circuits.Editing, circuit: Circuit) -> bool:
    """Whether the last check was of the circuit, the pairs and the model that stand on the page now."""
    request = edit.request
    return (
        request is not None
        and request.circuit == circuit.address
        and request.model == st.session_state["model"].strip()
        and edit.pairs_checked == pairs_now(edit)
    )


def progress(edit: circuits.Editing) -> bool:
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


def findings(edit: circuits.Editing, circuit: Circuit, run: Run) -> Validity:
    """What the check found, with buttons for what can be mended by one press; returns it."""
    pairs, first = shell.read("pairs", run.run_id), shell.read("first_tokens", run.run_id)
    checked = validity(circuit, run.summary, pairs, first)
    icons = {
        "good": ":green[:material/check_circle:]",
        "weak": ":orange[:material/info:]",
        "bad": ":red[:material/error:]",
    }
    own, seen = [circuit.target_meaning, circuit.control_meaning], set[str]()
    for found in checked.findings:
        name, text, more = (terms.marked(said, own, seen) for said in (found.name, found.text, found.advice))
        st.markdown(f"{icons[found.level]} **{name}.** {text}" + (f"  \n:small[{more}]" if more else ""))
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
    st.markdown(terms.said("**First tokens that no side has yet**"))
    for place, token in enumerate(offered):
        with st.container(horizontal=True, vertical_alignment="center", key=f"missed_{place}"):
            st.markdown(f"“{shell.escaped(charts.visible(token))}” starts {plural(counts[token], 'answer')}", width=260)
            for side in circuits.STRINGS:
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


def _offer_answers(edit: circuits.Editing, circuit: Circuit, pairs: pd.DataFrame) -> None:
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
        exports.table(
            table.reset_index(),
            key="confusion",
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


def save(edit: circuits.Editing, fields: Mapping[str, Any], prompts: str) -> Circuit:
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
