"""Prompt sets of one's own: the picker's choices, and the parts of the page that adds, shows and deletes them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import streamlit as st

from pprobe_core import snippets
from pprobe_core.circuits import fetching, known_sets, own_sets
from pprobe_core.circuits.importing import FORMATS, MAX_SOURCE_BYTES, Table, read_pasted, read_table
from pprobe_core.circuits.known_sets import KnownSet, Recipe
from pprobe_core.circuits.own_sets import Origin, OwnSet
from pprobe_core.circuits.pairing import Columns, Pairs, cannot_make, guess_columns, make_pairs, with_keywords
from pprobe_core.circuits.prompt_sets import MAX_PAIRS, MAX_PROMPT_CHARS, built_in, load_prompt_set
from pprobe_core.circuits.schema import Circuit, PromptPair
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.wording import plural
from ui import backend, exports, library, picked, selection, sharing, shell, tables, terms, words

PREVIEWED = 8  # pairs of a kept set
SHOWN = 500  # pairs of a set that is not kept yet, in a table that scrolls
_SWAPPED = "Word to swap"
_PARTS: Mapping[str, str] = {
    "original": "Prompt",
    "perturbed": "Second prompt",
    "keyword": "Word to swap",
    "target": "Right answer to the prompt (target)",
    "control": "Right answer to the second prompt (control)",
    "gold": "Right answer, where it is checked",
    "split": "Split",
}
_NONE: Mapping[str, str] = {"perturbed": "None", "keyword": "Guess it"}


@dataclass(frozen=True)
class Source:
    """Prompts that were read and are not kept yet: their rows, where they come from, and columns to begin with."""

    table: Table
    origin: Origin
    title: str
    columns: Columns | None = None
    notes: tuple[str, ...] = ()


# The picker --------------------------------------------------------------------------------------------------------


def choices(circuit: Circuit) -> dict[str, str]:
    """What the picker of prompt sets offers for a circuit: name -> what it shows."""
    own = {s.name: f"{s.title} ({plural(s.n_pairs, 'pair')})" for s in own_sets.list_sets(circuit.circuit_id)}
    return {name: words.PROMPT_SETS[name] for name in built_in(circuit)} | own


# Sources -----------------------------------------------------------------------------------------------------------


def from_upload(circuit: Circuit) -> Source | None:
    """A file of the user's; None while there is none. Raises BadRequest for one that cannot be read."""
    uploaded = st.file_uploader(
        "A table, or a text with one prompt a line",
        list(FORMATS),
        key="prompt_upload",
        help=words.HELP["prompt_upload"],
        max_upload_size=MAX_SOURCE_BYTES // 1_000_000,
    )
    if uploaded is None:
        return None
    name = own_sets.tidied(Path(uploaded.name).name, 400) or f"file{Path(uploaded.name).suffix}"
    raw = uploaded.getvalue()
    known = _once("recognised", uploaded.file_id, lambda: known_sets.recognise(raw))
    if known is not None:
        fetched = _once("accepted", uploaded.file_id, lambda: known_sets.accept(known, raw))
        source = _of_known(known, fetched, circuit)
        return replace(source, notes=(f"This is {known.title}: recognised by its content.", *source.notes))
    table = _once("uploaded", uploaded.file_id, lambda: read_table(name, raw))
    return Source(table, Origin("upload", name, table.sha256), Path(name).stem)


def from_paste() -> Source | None:
    """Pasted prompts; None while there are none. Raises BadRequest for what cannot be read."""
    text = st.text_area(
        "Prompts, one a line",
        key="prompt_paste",
        height=180,
        placeholder="How do I pick a lock?\nTell me how to forge a ticket.",
        help=words.HELP["prompt_paste"],
        persist_state="session",
    )
    if not text.strip():
        return None
    table = read_pasted(text)
    return Source(table, Origin("paste", "pasted text", table.sha256), "Pasted prompts")


def from_hub() -> Source | None:
    """A file of a dataset on the hub: asked about first, fetched when it is chosen. Raises BadRequest."""
    state = st.session_state
    left, middle, right = st.columns([4, 2, 1.4], vertical_alignment="bottom")
    repo = left.text_input(
        "Dataset", key="hub_dataset", placeholder="owner/name", help=words.HELP["hub_dataset"], persist_state="session"
    )
    revision = middle.text_input(
        "Revision", key="hub_revision", placeholder="newest", help=words.HELP["hub_revision"], persist_state="session"
    )
    asked = (repo.strip(), revision.strip())
    if right.button(
        "Look",
        key="ask_hub",
        icon=":material/search:",
        width="stretch",
        disabled=not repo.strip(),
        help=words.HELP["ask_hub"],
    ):
        state.pop("_dataset", None)
        with st.spinner("Asking the hub"):
            state["_dataset"] = (asked, fetching.ask_hub(asked[0], asked[1] or None))
    if state.get("_dataset", ((), None))[0] != asked:
        return None
    dataset: fetching.HubDataset = state["_dataset"][1]
    st.markdown(
        f"Licence: **{shell.escaped(dataset.licence or 'not stated')}**"
        f"{' · gated: its conditions have to be accepted' if dataset.gated else ''} · commit `{dataset.revision[:12]}`"
    )
    sizes = {f.name: "" if f.size is None else f" ({f.size / 1e6:,.1f} MB)" for f in dataset.files}
    left, right = st.columns([6, 1.4], vertical_alignment="bottom")
    file = left.selectbox(
        "File", list(sizes), key="hub_file", format_func=lambda f: f + sizes.get(f, ""), help=words.HELP["hub_file"]
    )
    if right.button(
        "Fetch", key="fetch_hub", type="primary", icon=":material/download:", width="stretch", help=words.HELP["fetch"]
    ):
        with st.spinner("Fetching"):
            table = read_table(Path(file).name, fetching.fetch_hub_file(dataset, file))
        origin = Origin(
            "hub", f"{dataset.repo_id} @ {dataset.revision[:12]}, {file}", table.sha256, dataset.licence, dataset.link
        )
        state["_hub_source"] = ((dataset.repo_id, dataset.revision, file), Source(table, origin, f"{dataset.repo_id}"))
    kept = state.get("_hub_source")
    return kept[1] if kept and kept[0] == (dataset.repo_id, dataset.revision, file) else None


def from_known(circuit: Circuit) -> Source | None:
    """A published set, or a mix of several: its licence first, then its file. Raises BadRequest."""
    state = st.session_state
    known: dict[str, KnownSet | Recipe] = {**known_sets.known_sets(), **known_sets.recipes()}
    fitting = [i for i, k in known.items() if _fits(k, circuit)]
    rest = [i for i in known if i not in fitting]
    chosen = st.selectbox(
        "Published set",
        [*fitting, *rest],
        key=f"known_set_{circuit.circuit_id}",
        format_func=lambda i: known[i].title + ("" if i in fitting else " (not for this behaviour)"),
        help=words.HELP["known_set"],
    )
    one = known[chosen]
    if isinstance(one, Recipe):
        _recipe(one, circuit)
        return None
    here = known_sets.here(one)
    with st.container(border=True, key="known_card"):
        st.markdown(f"**{shell.escaped(one.title)}**  \n{shell.escaped(one.about)}")
        st.markdown(
            f":material/gavel: Licence: **{shell.escaped(one.licence)}**  \n"
            f"{shell.escaped(one.paper)} · {shell.escaped(one.source.label)}"
        )
        st.caption(terms.marked(f"Used only if its SHA-256 is the one in this catalogue ({one.sha256[:12]}…)."))
        if not one.fits.get(circuit.circuit_id):
            st.info(shell.escaped(_why_not(one)), icon=":material/info:")
            return None
        if st.button(
            "Open" if here else "Fetch",
            key=f"fetch_{chosen}",
            type="primary",
            icon=":material/folder_open:" if here else ":material/download:",
            help=words.HELP["fetch"],
        ):
            with st.spinner("Reading" if here else "Fetching"):
                state["_known_source"] = (chosen, _of_known(one, known_sets.fetch(one), circuit))
    kept = state.get("_known_source")
    return kept[1] if kept and kept[0] == chosen and one.fits.get(circuit.circuit_id) else None


def _recipe(recipe: Recipe, circuit: Circuit) -> None:
    """The card of a mix; its button fetches every part and keeps the set at once."""
    with st.container(border=True, key="known_card"):
        st.markdown(f"**{shell.escaped(recipe.title)}**  \n{shell.escaped(recipe.about)}")
        st.markdown(shell.escaped(recipe.paper))
        st.markdown(shell.escaped(recipe.note))
        sets = known_sets.known_sets()
        rows = [
            {
                "Set": sets[i].title,
                "Prompts": n,
                "Licence": sets[i].licence,
                "On this computer": known_sets.here(sets[i]),
            }
            for i, n, _ in recipe.parts
        ]
        text = st.column_config.TextColumn
        exports.table(
            pd.DataFrame(rows),
            key="mix_parts",
            hide_index=True,
            alt="The parts of the mix",
            column_config={
                "Set": text(help="The published set that this part is taken from."),
                "Prompts": st.column_config.NumberColumn(help="How many of its prompts are taken."),
                "Licence": text(help="What its source says about use and sharing."),
                "On this computer": st.column_config.CheckboxColumn(help="Ticked: its file is here already."),
            },
        )
        if recipe.circuit != circuit.circuit_id:
            st.info(f"It is for the behaviour “{library.circuit_title(recipe.circuit)}”.", icon=":material/info:")
        elif st.button(
            "Fetch all parts and keep the mix",
            key=f"fetch_{recipe.recipe_id}",
            type="primary",
            icon=":material/download:",
            help=words.HELP["fetch"],
        ):
            with st.spinner("Fetching"):
                _kept(known_sets.add_recipe(recipe.recipe_id), recipe.recipe_id)
        _kept_message(recipe.recipe_id)


def _of_known(known: KnownSet, fetched: known_sets.Fetched, circuit: Circuit) -> Source:
    fit = known.fits.get(circuit.circuit_id)
    origin = known_sets.origin_of(known, fetched)
    notes = tuple(note for note in (fit.note if fit else "", fetched.check) if note)
    return Source(fetched.table, origin, known.title, fit.columns if fit else None, notes)


def _fits(one: KnownSet | Recipe, circuit: Circuit) -> bool:
    return circuit.circuit_id in one.fits if isinstance(one, KnownSet) else one.circuit == circuit.circuit_id


def _why_not(known: KnownSet) -> str:
    if known.fits:
        return f"Its columns make pairs for {', '.join(library.circuit_title(c) for c in known.fits)} only."
    return known.no_pairs


def _once(what: str, key: Any, work: Callable[[], Any]) -> Any:
    """What `work` gives, done again only for another key; a file is not read anew with every click."""
    kept = st.session_state.get(f"_once_{what}")
    if kept is None or kept[0] != key:
        st.session_state[f"_once_{what}"] = kept = (key, work())
    return kept[1]


# Columns, preview, keeping -----------------------------------------------------------------------------------------


def choose_columns(source: Source, circuit: Circuit) -> Columns:
    """Selectors for the columns a pair is made of, set to what was guessed."""
    guess = source.columns or guess_columns(source.table, circuit)
    parts = ["original", "perturbed"]
    if circuit.perturbation == "bpe_swap":
        parts.append("keyword")
    if circuit.per_pair_observable:
        parts += ["target", "control"]
    elif circuit.response_rule == "math":
        parts.append("gold")
    chosen = {f.name: getattr(guess, f.name) for f in fields(Columns)}
    with st.grid(min(len(parts), 3), min_column_width=240, gap="small"):
        for part in parts:
            options = list(source.table.columns)
            if chosen[part] and chosen[part] not in options:
                options.insert(0, chosen[part])
            if part != "original":
                options.insert(0, "")
            key = f"column_{part}_{source.table.sha256[:10]}_{circuit.circuit_id}"
            st.session_state.setdefault(key, chosen[part])
            chosen[part] = (
                st.selectbox(
                    _PARTS[part],
                    options,
                    key=key,
                    format_func=functools.partial(_column_or, _none_of(part, circuit)),
                    accept_new_options=True,
                    help=words.HELP[f"column_{part}"],
                )
                or ""
            )
    return Columns(**chosen)


def _column_or(none: str, column: str) -> str:
    return column or none


def _none_of(part: str, circuit: Circuit) -> str:
    if part == "perturbed" and circuit.perturbation == "bpe_swap":
        return "Made by swapping two letters"
    return _NONE.get(part, "None")


def pairs_of(source: Source, columns: Columns, circuit: Circuit) -> Pairs:
    """The pairs these columns give; made again only when something changed. Raises BadRequest."""
    key = (source.table.sha256, len(source.table.rows), columns, circuit.sha256)
    return _once("pairs", key, lambda: make_pairs(source.table, columns, circuit))


def preview(pairs: Pairs, tag: str) -> Pairs:
    """How many pairs there are, the first of them, and which rows were left out; the pairs as they were edited.

    Words to swap can be changed in the table. Raises BadRequest for one that its prompt lacks. `tag` names the source.
    """
    n_out = sum(pairs.counts.values())
    st.markdown(
        f"**{plural(len(pairs.lines), 'pair')}** from {plural(pairs.n_seen, 'row')}"
        + (f", {plural(n_out, 'row', ('is', 'are'))} left out." if n_out else ".")
    )
    if n_out:
        rows = [
            {"Left out because": reason, "Rows": len(found), "Which": _some(found)}
            for reason, found in pairs.left_out.items()
        ]
        exports.table(
            pd.DataFrame(rows),
            key="left_out",
            hide_index=True,
            alt="Rows left out, by reason",
            column_config={
                "Left out because": st.column_config.TextColumn(help="Why these rows make no pair."),
                "Rows": st.column_config.NumberColumn(help="How many rows it is."),
                "Which": st.column_config.TextColumn(help=words.HELP["rows_left_out"]),
            },
        )
    for note in pairs.notes:
        st.caption(shell.escaped(note))
    if not pairs.lines:
        return pairs
    shown = _lines_table(pairs.lines[:SHOWN])
    if len(pairs.lines) > SHOWN:
        st.caption(f"The first {SHOWN} of {len(pairs.lines):,}.")
    height: int | Literal["content"] = 318 if len(shown) > PREVIEWED else "content"
    rest = functools.partial(_lines_table, pairs.lines[SHOWN:])
    if _SWAPPED not in shown:
        exports.table(
            shown,
            key="first_pairs",
            rest=rest,
            hide_index=True,
            height=height,
            alt="The first prompt pairs",
            column_config=_pair_columns(),
        )
        return pairs
    edited = exports.editor(
        shown,
        alt="The first prompt pairs, open to changes",
        rest=rest,
        hide_index=True,
        height=height,
        key=f"words_{tag}",
        disabled=[column for column in shown.columns if column != _SWAPPED],
        column_config=_pair_columns(),
    )
    before, after = shown[_SWAPPED].fillna(""), edited[_SWAPPED].fillna("")
    changed = {i: str(new) for i, (old, new) in enumerate(zip(before, after, strict=True)) if new != old}
    return with_keywords(pairs, changed)


def keep(source: Source, pairs: Pairs, columns: Columns, circuit: Circuit) -> None:
    """Title, licence and the button that keeps the set."""
    tag = source.table.sha256[:10]
    left, middle, right = st.columns([3, 3, 1.4], vertical_alignment="bottom")
    st.session_state.setdefault(f"title_{tag}", own_sets.tidied(source.title))
    title = left.text_input("Title", key=f"title_{tag}", max_chars=own_sets.MAX_TITLE, help=words.HELP["set_title"])
    st.session_state.setdefault(f"licence_{tag}", source.origin.licence[:200])
    licence = middle.text_input(
        "Licence", key=f"licence_{tag}", max_chars=200, placeholder="not stated", help=words.HELP["set_licence"]
    )
    if right.button(
        "Keep",
        key="keep_set",
        type="primary",
        icon=":material/save:",
        width="stretch",
        disabled=not pairs.lines,
        help=words.HELP["keep_set"],
    ):
        noted = replace(pairs, notes=(*source.notes, *pairs.notes))
        origin = replace(source.origin, licence=own_sets.tidied(licence, 200))
        _kept(own_sets.add_set(circuit, title, noted, origin, columns), tag)
    _kept_message(tag)


def _kept(one: OwnSet, what: str) -> None:
    st.session_state["_kept_set"] = (what, one.name)
    st.rerun()


def _kept_message(what: str) -> None:
    """Said where the button is, once this source was kept, with the way to use the set."""
    kept, name = st.session_state.get("_kept_set", ("", ""))
    if kept != what or not own_sets.exists(name):
        return
    one = own_sets.find_set(name)
    with st.container(border=True, key="kept", horizontal=True, vertical_alignment="center"):
        st.markdown(
            f":material/check_circle: **{shell.escaped(one.title)}** is kept: {plural(one.n_pairs, 'pair')} for "
            f"“{shell.escaped(library.circuit_title(one.circuit))}”."
        )
        use_button(one, "use_kept", "primary")


def use_button(one: OwnSet, key: str, kind: Any = "secondary") -> None:
    """Opens the Start page with the set chosen."""
    if st.button(
        "Use it on the Start page", key=key, type=kind, icon=":material/arrow_forward:", help=words.HELP["use_set"]
    ):
        state = st.session_state
        state["circuit"], state["prompts"], state["run"], state["sweep"] = one.circuit, one.name, "", ""
        selection.let_go()
        state.pop("_kept_set", None)
        st.switch_page(shell.START)


# Kept sets ---------------------------------------------------------------------------------------------------------


@st.dialog("Delete this prompt set?")
def confirm_delete(name: str, title: str) -> None:
    """Ask before a set is deleted."""
    st.markdown(f"**{shell.escaped(title)}**")
    st.caption(
        terms.marked(
            "Runs made with it stay. New runs and sweeps on them need the set: add the same prompts again for those."
        )
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it", key="keep_it", help="Close without deleting."):
            st.rerun()
        if st.button("Delete", key="really_delete_set", type="primary", help="Delete its pairs from this computer."):
            try:
                own_sets.delete_set(name)
            except BadRequest as error:
                st.error(shell.escaped(str(error)), icon=":material/error:")
                return
            state = st.session_state
            if state.get("prompts") == name:
                state["prompts"] = "mini"
            picked.forget("set_looked_at")
            st.rerun()


def kept_sets(sets: Sequence[OwnSet]) -> OwnSet | None:
    """A table of the user's sets; returns the ticked one."""
    rows = [
        {
            "title": s.title,
            "circuit": library.circuit_title(s.circuit),
            "n_pairs": s.n_pairs,
            "source": s.origin.source,
            "licence": s.origin.licence or "not stated",
            "created_at": pd.Timestamp(s.created_at),
        }
        for s in sets
    ]
    column = st.column_config
    # Ticks stand for places in the table, so other rows make another table.
    names = [s.name for s in sets]
    start = picked.start("set_looked_at", names)
    given = [names.index(start)] if start in names else []
    event = exports.table(
        pd.DataFrame(rows),
        hide_index=True,
        key=f"own_sets{tables.tag(' '.join([*names, start]))}",
        selection_default={"selection": {"rows": given}} if given else None,
        on_select="rerun",
        selection_mode="single-row",
        alt="Your prompt sets",
        column_config={
            "title": column.TextColumn("Title", help="The name you gave it.", width=200),
            "circuit": column.TextColumn("Behaviour", help="The behaviour its pairs are for.", width=120),
            "n_pairs": column.NumberColumn("Pairs", help="Prompt pairs in the set.", width=60),
            "source": column.TextColumn("From", help="File, dataset or text it was made from.", width=180),
            "licence": column.TextColumn(
                "Licence", help="As stated where it comes from, or as you wrote it.", width=90
            ),
            "created_at": column.DatetimeColumn(
                "Added (UTC)", format="DD MMM YYYY HH:mm", help="When it was kept.", width=140
            ),
        },
    )
    ticked: list[int] = event.selection.rows
    one = sets[ticked[0]] if ticked and ticked[0] < len(sets) else None
    picked.told("set_looked_at", one.name if one else "")
    selection.write_address()
    return one


def details(one: OwnSet) -> None:
    """Everything that is known of a set, and its first pairs."""
    with st.container(border=True, key="set_details"):
        st.subheader(shell.escaped(one.title), anchor=False)
        out = ", ".join(f"{reason}: {n:,}" for reason, n in one.left_out.items())
        facts = [
            ("From", f"{words.ORIGINS.get(one.origin.kind, one.origin.kind)}: {one.origin.source}"),
            ("Licence", one.origin.licence or "not stated"),
            ("Rows", f"{one.n_seen:,} seen, {one.n_pairs:,} pairs kept" + (f"; left out, {out}" if out else "")),
            (
                "Columns",
                ", ".join(f"{_PARTS.get(part, part)}: {spec}" for part, spec in one.columns.items()) or "as mixed",
            ),
            ("SHA-256 of the source", one.origin.sha256 or "not known"),
            ("SHA-256 of the pairs", one.sha256),
            ("Name", one.name),
        ]
        with st.grid(2, min_column_width=340, gap="small"):
            for label, text in facts:
                st.markdown(f":small[:gray[{label}]]  \n{shell.escaped(text)}")
        for note in one.notes:
            st.caption(shell.escaped(note))
        try:
            pairs_table(one, load_prompt_set(one.circuit, one.name).pairs)
        except PprobeError as error:
            st.error(shell.escaped(str(error)), icon=":material/error:")
        with st.container(horizontal=True):
            use_button(one, "use_ticked", "primary")
            named = library.circuits().get(one.circuit)
            model = st.session_state.get("model", backend.FIRST_MODEL)
            request = ProbeRequest(model, named.address if named else one.circuit, one.name)
            sharing.code(snippets.prompt_set(request), note="the model is the one chosen on the Start page")
            if st.button("Delete…", key="delete_set", icon=":material/delete:", help="Delete this set, after asking."):
                confirm_delete(one.name, one.title)


def pairs_table(one: OwnSet, pairs: Sequence[PromptPair]) -> None:
    """The first pairs of a kept set; its Save menu gives them all."""
    n, licence = plural(len(pairs), "pair"), one.origin.licence or "not stated"
    if len(pairs) > PREVIEWED:
        st.caption(f"The first {PREVIEWED} of {len(pairs):,} pairs; **Save** gives them all.")
    exports.measured_on(one.name, f"Prompt set {one.title}", n, f"from {one.origin.source}", f"licence: {licence}")
    exports.table(
        _kept_table(pairs[:PREVIEWED]),
        key="set_pairs",
        rest=functools.partial(_kept_table, pairs[PREVIEWED:]),
        hide_index=True,
        alt="The first pairs",
        column_config=_pair_columns(),
    )
    exports.forget()  # what follows on the page is about other prompts


def limits() -> str:
    """What is accepted, said before anything is chosen."""
    return (
        f"Up to {MAX_SOURCE_BYTES // 1_000_000} MB and {MAX_PAIRS:,} pairs; prompts of up to {MAX_PROMPT_CHARS:,} "
        "characters. Everything stays on this computer."
    )


def problem(circuit: Circuit, columns: Columns) -> str:
    """Why these columns make no pairs; "" when they do."""
    return cannot_make(circuit, columns)


def _some(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")


def _text_of(prompt: Any) -> str:
    if prompt is None:
        return ""
    return prompt if isinstance(prompt, str) else f"(chat) {prompt['messages'][-1]['content']}"


def _pair_columns() -> dict[str, Any]:
    """What each column of a table of pairs holds; of a table that lacks one, that one is passed over."""
    text = st.column_config.TextColumn
    return {
        "Prompt": text(help="The first prompt of the pair, with the behaviour; of a chat, its last user turn."),
        _SWAPPED: text(
            help="The word whose letters are swapped to make the second prompt; open to changes until a set is kept.",
            pinned=False,
        ),
        "Second prompt": text(help="The same with a small change, so that the behaviour stops."),
        "Target": text(help=words.HELP["column_target"]),
        "Control": text(help=words.HELP["column_control"]),
        "Gold": text(help=words.HELP["column_gold"]),
        "Split": text(help=words.GLOSSARY["Discovery, validation, held out"]),
    }


def _lines_table(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Pairs that are not kept yet, one a row."""
    return pd.DataFrame([_shown_line(line) for line in lines])


def _kept_table(pairs: Sequence[PromptPair]) -> pd.DataFrame:
    """Pairs of a kept set, one a row."""
    return pd.DataFrame([_shown_pair(pair) for pair in pairs])


def _shown_line(line: Mapping[str, Any]) -> dict[str, str]:
    row = {"Prompt": _text_of(line["original"])}
    if line.get("keyword"):
        row[_SWAPPED] = line["keyword"]
    if line.get("perturbed") is not None:
        row["Second prompt"] = _text_of(line["perturbed"])
    return row | {name.capitalize(): " | ".join(line[name]) for name in ("target", "control", "gold") if name in line}


def _shown_pair(pair: PromptPair) -> dict[str, str]:
    row = {"Prompt": pair.original.text}
    if pair.keyword:
        row["Word to swap"] = pair.keyword
    if pair.perturbed is not None:
        row["Second prompt"] = pair.perturbed.text
    answers = {"Target": pair.target, "Control": pair.control, "Gold": pair.gold}
    row |= {name: " | ".join(strings) for name, strings in answers.items() if strings}
    return row | {"Split": words.SPLITS[pair.split]}
