"""The Compare page's parts: what is compared, where it stands, and its frames, read once for every state of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from pprobe_core import compare_frames, compare_report, compare_stats
from pprobe_core.circuits import own_sets
from pprobe_core.compare_frames import Compared
from pprobe_core.comparison import (
    AUTO,
    MAX_MODELS,
    MIN_MODELS,
    SWEEP_PARTS,
    CompareRequest,
    checked_comparison,
)
from pprobe_core.errors import PprobeError
from pprobe_core.jobs import JobStatus
from pprobe_core.probing.types import ProbeRequest
from pprobe_core.store import Store, job_id_of
from pprobe_core.wording import plural
from ui import backend, exports, job_panel, kept, library, models, selection, shell, terms, words

FIRST_MODELS = ("mini-qwen3", "mini-llama", "mini-gemma3")
MARKS = {
    "done": "✓", "missing": "–", "queued": "…", "running": "…", "failed": "✗", "cancelled": "–", "blocked": "✗",
}  # fmt: skip
KIND_NAMES = {"probe": "P", "dose": "D", "window": "W"}


# ------------------------------------------------------------------------------------------------ what is compared


def take_over_address(known: Sequence[str]) -> None:
    """Let a link choose models and, of the known ones, behaviours; they stand in the address as one word each."""
    state = st.session_state
    named = [m for m in state["models"].split(",") if m] or list(default_models())
    shipped = library.shipped_circuits()
    circuits = [c for c in state["circuits"].split(",") if c in known] or shipped
    if state.get("_compare_address") != (state["models"], state["circuits"]):
        state["_compare_address"] = (state["models"], state["circuits"])
        state["compare_models"], state["compare_circuits"] = named[:MAX_MODELS], circuits
    state.setdefault("compare_models", named)
    chosen = state.setdefault("compare_circuits", circuits)
    # An own one may be gone by now, or its prompts.
    selection.put("compare_circuits", [c for c in chosen if c in known])


def _lacking(known: Sequence[str]) -> list[str]:
    """Behaviours and own prompt sets that a link names and that cannot be used here: ids and names."""
    state = st.session_state
    if sets := [name for name in state.get("compare_own") or () if not own_sets.exists(name)]:
        state["_lacking_sets"] = sets  # the picker, which cannot offer them, forgets them
    circuits = [c for c in state["circuits"].split(",") if c and c not in known]
    return [*circuits, *state.get("_lacking_sets", ())]


def _into_address() -> None:
    state = st.session_state
    state.pop("_lacking_sets", None)
    chosen = [str(m).strip() for m in state["compare_models"]]
    state["models"] = "" if chosen == list(default_models()) else ",".join(chosen)
    all_of_them = list(state["compare_circuits"]) == library.shipped_circuits()
    state["circuits"] = "" if all_of_them else ",".join(state["compare_circuits"])
    state["_compare_address"] = (state["models"], state["circuits"])


def default_models() -> tuple[str, ...]:
    """The aligned models that come with the product, of different families; two of them at least."""
    shipped = list(library.model_titles())
    first = [m for m in FIRST_MODELS if m in shipped]
    return tuple(first if len(first) >= MIN_MODELS else shipped[:MIN_MODELS])


def known_models() -> list[str]:
    """Shipped models, then those that have a run, then the catalogue."""
    runs = shell.runs()
    return list(dict.fromkeys([*library.model_titles(), *sorted(runs["model"].unique()), *models.choices()]))


def pickers() -> CompareRequest | None:
    """The choices; None, with what is wrong said, while they make no comparison."""
    state, known = st.session_state, library.comparable_circuits()
    take_over_address(known)
    if lacking := _lacking(known):
        st.info(
            "The link also names what is not on this computer, or has no prompts yet: "
            f"{shell.escaped(', '.join(lacking))}. Ask for the files, import them on Behaviours and on "
            "Prompt sets, and open the link again.",
            icon=":material/info:",
        )
    with st.container(border=True, key="compare_pickers"):
        st.multiselect(
            "Models",
            list(dict.fromkeys([*known_models(), *state["compare_models"]])),
            key="compare_models",
            max_selections=MAX_MODELS,
            accept_new_options=True,
            help=words.HELP["compare_models"],
            on_change=_into_address,
            persist_state="session",
        )
        st.multiselect(
            "Behaviours",
            known,
            key="compare_circuits",
            format_func=library.circuit_title,
            help=words.HELP["compare_circuits"],
            on_change=_into_address,
            persist_state="session",
        )
        state.setdefault("compare_sweeps", list(SWEEP_PARTS))
        state.setdefault("compare_bases", True)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.pills(
                "With sweeps",
                SWEEP_PARTS,
                key="compare_sweeps",
                selection_mode="multi",
                format_func=lambda part: words.COMPARE_VIEWS[part],
                help=words.HELP["compare_sweeps"],
                persist_state="session",
            )
            st.toggle(
                "With base models", key="compare_bases", help=words.HELP["compare_bases"], persist_state="session"
            )
        with st.expander("Advanced", icon=":material/tune:"):
            _advanced()
    try:
        return checked_comparison(
            CompareRequest(
                models=tuple(str(m) for m in state["compare_models"]),
                circuits=tuple(state["compare_circuits"]),
                sweeps=tuple(state["compare_sweeps"] or ()),
                bases=bool(state["compare_bases"]),
                prompts=state["compare_prompts"],
                own_sets=tuple(state["compare_own"]),
                coupling=state["compare_coupling"],
                limit=int(state["compare_limit"] or 0) or None,
                seed=int(state["compare_seed"]),
            )
        )
    except PprobeError as error:
        st.info(shell.escaped(str(error)), icon=":material/info:")
        return None


def _advanced() -> None:
    state = st.session_state
    for key, default in (
        ("compare_prompts", AUTO),
        ("compare_coupling", "plain"),
        ("compare_limit", 0),
        ("compare_seed", ProbeRequest.seed),
    ):
        state.setdefault(key, default)
    sets = {s.name: s for s in own_sets.list_sets() if s.circuit in state["compare_circuits"]}
    state["compare_own"] = [name for name in state.get("compare_own") or () if name in sets]
    if sets:
        st.multiselect(
            "Prompt sets of your own",
            list(sets),
            key="compare_own",
            format_func=lambda name: f"{library.circuit_title(sets[name].circuit)}: {sets[name].title}",
            help=words.HELP["compare_own"],
            persist_state="session",
        )
    prompts, coupling, limit, seed = st.columns(4)
    prompts.selectbox(
        "Prompt set",
        [AUTO, *words.PROMPT_SETS],
        key="compare_prompts",
        format_func=lambda p: words.PROMPT_SETS.get(p, "What fits each model"),
        help=words.HELP["compare_prompts"],
        persist_state="session",
    )
    coupling.selectbox(
        "Coupling",
        list(words.COUPLINGS),
        key="compare_coupling",
        format_func=lambda c: words.COUPLINGS[c],
        help=words.HELP["coupling"],
        persist_state="session",
    )
    limit.number_input(
        "Pairs at most", 0, 10_000, key="compare_limit", help=words.HELP["limit"], persist_state="session"
    )
    seed.number_input("Seed", 0, 2**31 - 1, key="compare_seed", help=words.HELP["seed"], persist_state="session")


# -------------------------------------------------------------------------------------------------- where it stands


def state_of(request: CompareRequest, found: Compared) -> None:
    """The matrix of what is there, the button that asks for the rest, and its one progress view."""
    job = backend.find_job(job_id_of(request))
    active = job is not None and job.state in job_panel.ACTIVE
    with st.container(border=True, key="compare_state"):
        done = sum(part.state == "done" for part in found.parts)
        st.markdown(f"**{done} of {len(found.parts)} parts are there**", help=words.HELP["compare_matrix"])
        exports.table(
            _matrix_table(found).rename_axis("Behaviour"),
            height="content",
            key="compare_matrix",
            alt="Which parts of the comparison are there, by behaviour and model",
            column_config={
                "Behaviour": st.column_config.TextColumn(width=176, help=words.HELP["circuit"]),
                **{
                    found.label(model): st.column_config.TextColumn(help=words.HELP["compare_matrix"])
                    for model in dict.fromkeys(part.unit.model for part in found.parts)
                },
            },
        )
        st.caption(
            terms.marked(
                "P probe, D dose response, W injection window. ✓ there, … waiting or running, – not run yet, ✗ cannot "
                "be run (the reason stands below)."
            )
        )
        failed = compare_frames.failures(
            found, lambda p: f"{found.label(p.unit.model)}, {library.circuit_title(p.unit.circuit).lower()}"
        )
        for reason, places in failed.items():
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            st.error(shell.escaped(f"{'; '.join(places[:3])}{more}: {reason}"), icon=":material/error:")
        if refused := st.session_state.pop("refused", None):
            st.error(shell.escaped(refused), icon=":material/error:")
        watched = job is not None and (active or st.session_state.get("_watched") == job.job_id)
        with st.container(key="watched_comparison" if watched else None):
            _way_on(request, found, job)


def _way_on(request: CompareRequest, found: Compared, job: JobStatus | None) -> None:
    """Progress while the comparison runs, else the button that starts what is missing."""
    if job is not None and job.state in job_panel.ACTIVE:
        st.session_state["_watched"] = job.job_id
        st.fragment(_progress, run_every=job_panel.BUSY_SECONDS)(job.job_id, job.n_units_done)
        return
    if job is not None and job.state == "failed":
        st.error(f"It stopped: {shell.escaped(str(job.error))}", icon=":material/error:")
    elif job is not None and job.state == "cancelled" and found.n_missing:
        st.caption(":material/stop_circle: It was cancelled. What was finished is kept: it goes on from there.")
    unchecked = _cards(found)
    if st.button(
        f"Run what is missing ({plural(found.n_missing, 'part')})" if found.n_missing else "Everything is there",
        key="compare_button",
        type="primary",
        icon=":material/play_arrow:" if found.n_missing else ":material/check:",
        disabled=not found.n_missing or bool(unchecked),
        help=words.HELP["compare_button"],
    ):
        job_panel.submit(request)
        st.rerun()
    if unchecked:
        st.caption(f":material/info: Check {shell.escaped(', '.join(unchecked))} first: nothing is fetched unseen.")


def _cards(found: Compared) -> list[str]:
    """A card for every model that does not come with the product and has no run yet; those not yet looked at."""
    there = {model for model, _ in found.runs}
    new = [m for m in dict.fromkeys(p.unit.model for p in found.parts) if m not in library.model_titles()]
    new = [m for m in new if m not in there]
    for place, model in enumerate(new):
        if model not in found.request.models:
            st.caption(terms.said("The model before alignment; turn **With base models** off to leave it out."))
        models.show_card(model, f"_{place}")
    return [found.label(model) for model in new if models.looked_at(model) is None]


@shell.calm_errors()
def _progress(job_id: str, n_units_done: int) -> None:
    """Progress of the whole; the page is drawn again when a part is finished, so that its numbers appear."""
    job = backend.jobs().status(job_id)
    if job.state not in job_panel.ACTIVE or job.n_units_done != n_units_done:
        st.rerun()
    job_panel.job_progress(job, "page")
    st.caption("Parts that are there can be looked at below while the others are computed.")


def _matrix_table(found: Compared) -> pd.DataFrame:
    frame = compare_frames.matrix(found)
    frame["cell"] = [f"{KIND_NAMES[k]} {MARKS[s]}" for s, k in zip(frame["state"], frame["kind"], strict=True)]
    cells = frame.groupby(["circuit", "label"], sort=False)["cell"].agg("  ".join).unstack().fillna("")
    order = list(dict.fromkeys(frame["label"]))
    table = cells.reindex(index=list(found.request.circuits), columns=order)
    table.index = [library.circuit_title(c) for c in table.index]
    return table


# ------------------------------------------------------------------------------------------------------ its frames


@dataclass(frozen=True)
class Frames:
    """The frames of a comparison, each read when it is first asked for and kept as long as its runs are the same."""

    found: Compared

    @property
    def key(self) -> tuple[str, ...]:
        """What decides the frames: the results file, the finished runs and sweeps, the models' order."""
        f = self.found
        runs, sweeps = [r.run_id + r.stage for r in f.runs.values()], [s.sweep_id for s in f.sweeps.values()]
        return (shell.store().edition, *f.request.models, "runs", *runs, "sweeps", *sweeps, *_states(f))

    @property
    def models(self) -> list[str]:
        """Labels of the chosen models, in their order, then of their bases: what gives them their colours."""
        f = self.found
        names = [f.label(model) for model in (*f.request.models, *f.bases.values())]
        return list(dict.fromkeys(names))[:MAX_MODELS]

    def read(self, name: str, what: str = "") -> pd.DataFrame:
        """The frame of this name in _BUILDERS; `what` says which, where there are several."""
        return _frame(name, self.key, what, _found=self.found)


_BUILDERS: Mapping[str, Callable[[Compared, Store, str], pd.DataFrame]] = {
    "ratios": lambda found, store, what: compare_frames.ratios(found),
    "profile": compare_frames.profiles,  # what: the quantity
    "topology": lambda found, store, what: compare_frames.topology(found, store),
    "top_layers": lambda found, store, what: compare_frames.top_layers(found, store),
    "doses": lambda found, store, what: compare_frames.doses(found, store, _outcomes, what),  # what: the behaviour
    "windows": lambda found, store, what: compare_frames.windows(found, store, _outcomes, what),  # what: the behaviour
    "twins": lambda found, store, what: compare_frames.twins(found, store),
    "overlaps": compare_frames.overlaps,  # what: the model
    "fit_points": lambda found, store, what: compare_frames.fit_points(found),
    "sentences": lambda found, store, what: compare_report.pair_sentences(found, store),
}


def _states(found: Compared) -> list[str]:
    return [f"{part.state}{part.error or ''}" for part in found.parts]


@kept.frames(48, "Reading the runs")
def _frame(name: str, key: tuple[str, ...], what: str, _found: Compared) -> pd.DataFrame:
    """One frame; `key` and `what` decide it, `_found` holds what it is made from."""
    return _BUILDERS[name](_found, shell.store(), what)


def _outcomes(sweep_id: str) -> pd.DataFrame:
    return _outcome_table(sweep_id, shell.store().edition)


@kept.frames(60, "Counting the answers")
def _outcome_table(sweep_id: str, edition: str) -> pd.DataFrame:
    return compare_frames.outcome_table(shell.store(), sweep_id)


def compared(request: CompareRequest) -> Compared:
    """Where the comparison stands in the results file in use."""
    return compare_frames.compared(shell.store(), request)


def twin_tests(frames: Frames) -> Sequence[compare_stats.Opposition]:
    """Base against aligned, a test per behaviour."""
    return compare_stats.opposition_tests(frames.read("twins"), frames.found.request.seed)


def model_of(found: Compared, label: str) -> str:
    """The model that a label stands for."""
    return next((model for model, name in found.labels.items() if name == label), label)


def other_prompt_sets(found: Compared) -> bool:
    """Whether the models were probed on different prompt sets, so that their numbers are not on the same prompts."""
    sets = {(circuit, run.request.prompts) for (_, circuit), run in found.runs.items()}
    return len(sets) > len({circuit for circuit, _ in sets})


def ratio_table(ratios: pd.DataFrame) -> None:
    """The FFN/Skip table of every model and behaviour, failing ones included."""
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    rows = ratios.assign(flip_rate=100 * ratios["flip_rate"])
    rows["structure"] = rows["structure"].map(words.STRUCTURES).fillna("")
    columns = [
        "label",
        "circuit_title",
        "mean",
        "low",
        "high",
        "median",
        "n",
        "flip_rate",
        "structure",
        "stage",
        "note",
    ]
    exports.table(
        rows[columns],
        hide_index=True,
        height="content" if len(rows) < 12 else 420,
        key="ratio_table",
        alt="FFN/Skip of every model and behaviour",
        column_config={
            "label": text("Model", help="The model, with what tells it from the others."),
            "circuit_title": text("Behaviour", help=words.HELP["circuit"]),
            "mean": number("FFN/Skip", format="%.2f", help=words.GLOSSARY["FFN/Skip ratio"]),
            "low": number("95 % from", format="%.2f", help=words.GLOSSARY["Interval"]),
            "high": number("95 % to", format="%.2f", help=words.GLOSSARY["Interval"]),
            "median": number("Median", format="%.2f", help="Far from the mean where a few prompts carry it."),
            "n": number("n", help="Prompts on which the ratio is defined."),
            "flip_rate": number("Pairs that flip", format="%.0f %%", help=words.HELP["flip_rate"]),
            "structure": text("Reading", help="What kind of circuit the two passes point to."),
            "stage": text("Stage", help=words.HELP["stage"]),
            "note": text("Note", help="Why there is no number."),
        },
    )


def sentences(told: Sequence[str], quoted: Sequence[str]) -> None:
    """A list of sentences, a term explained in the first that has it. `quoted`: the models' names, own behaviours."""
    seen: set[str] = set()
    for sentence in told:
        st.markdown(f"- {terms.marked(sentence, quoted, seen)}")


def no_sweep(kind: str) -> None:
    """What a view shows while its sweeps are not there."""
    st.info(
        f"No sweep of this kind is there yet ({words.SWEEP_KINDS[kind].lower()}). Choose it under **With sweeps** and "
        "press **Run what is missing**.",
        icon=":material/hourglass_empty:",
    )
