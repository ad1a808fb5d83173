"""Start: what this is, what to look at, and the result of the last such run."""

import streamlit as st

from pprobe_core import charts
from pprobe_core.store import job_id_of
from ui import (
    backend,
    cards,
    harvest,
    job_panel,
    library,
    meaning,
    models,
    prompts,
    recorded,
    selection,
    sharing,
    shell,
    terms,
    words,
)


def forget_run() -> None:
    """A new choice: the Probe page follows the pickers again."""
    st.session_state["run"] = st.session_state["sweep"] = ""
    selection.let_go()


def new_model() -> None:
    """Another model was chosen."""
    forget_run()
    if st.session_state["prompts"] in words.PROMPT_SETS:  # a set of one's own is for any model
        selection.pick_prompts_for_model()


st.title("What happens inside a chat model when it decides?")
st.markdown(terms.marked(words.ABOUT))

with st.container(border=True, key="pickers"):
    model_column, circuit_column, prompts_column, button_column = st.columns(
        [3, 3, 3, 1.4], vertical_alignment="bottom"
    )
    with model_column:
        models.picker("Model", words.HELP["model"], on_change=new_model)
    circuit_column.selectbox(
        "Behaviour",
        list(library.circuits()),
        key="circuit",
        format_func=library.circuit_title,
        help=words.HELP["circuit"],
        on_change=forget_run,
        persist_state="session",
    )
    circuit = library.circuits()[st.session_state["circuit"]]
    sets = prompts.choices(circuit)
    if sets and st.session_state["prompts"] not in sets:  # of another behaviour, or deleted
        selection.pick_prompts_for_model()
        if st.session_state["prompts"] not in sets:
            st.session_state["prompts"] = next(iter(sets))
    ready = bool(sets)
    prompts_column.selectbox(
        "Prompt set",
        list(sets),
        key="prompts",
        format_func=lambda p: sets.get(p, p),
        help=words.HELP["prompts"],
        placeholder="None yet",
        on_change=forget_run,
        persist_state="session",
    )
    if not ready:
        st.info("This behaviour has no prompts yet. Add some, then press Run.", icon=":material/playlist_add:")
    with st.container(horizontal=True, vertical_alignment="center"):
        told = set[str]()
        st.caption(
            f"**{shell.of_circuit(circuit, circuit.question, told)}** "
            f"{shell.of_circuit(circuit, circuit.perturbation_text, told)}",
            width="stretch",
            help=shell.escaped(circuit.description),
        )
        st.page_link(
            shell.PROMPTS,
            label="Add prompts of your own",
            icon=":material/playlist_add:",
            help=words.HELP["add_prompts"],
        )
    with st.expander("Advanced", icon=":material/tune:"):
        coupling_column, limit_column, seed_column = st.columns(3)
        coupling_column.selectbox(
            "Coupling",
            list(words.COUPLINGS),
            key="coupling",
            format_func=lambda c: words.COUPLINGS[c],
            help=words.HELP["coupling"],
            on_change=forget_run,
            persist_state="session",
        )
        limit_column.number_input(
            "Pairs at most",
            0,
            10_000,
            key="limit",
            help=words.HELP["limit"],
            on_change=forget_run,
            persist_state="session",
        )
        st.session_state.setdefault("seed", shell.ProbeRequest.seed)
        seed_column.number_input(
            "Seed", 0, 2**31 - 1, key="seed", help=words.HELP["seed"], on_change=forget_run, persist_state="session"
        )
        thinking_column, target_column, control_column = st.columns(3)
        thinking_column.selectbox(
            "Thinking",
            list(words.THINKING),
            key="thinking",
            format_func=lambda t: words.THINKING[t],
            help=words.HELP["thinking"],
            on_change=forget_run,
            persist_state="session",
        )
        for side, column in (("target", target_column), ("control", control_column)):
            column.text_input(
                f"{side.capitalize()} tokens",
                key=f"{side}_strings",
                placeholder="The behaviour's own",
                help=words.HELP["strings"],
                on_change=forget_run,
                persist_state="session",
            )
    request = shell.request_from_pickers()
    job = backend.find_job(job_id_of(request))
    under_way = job is not None and job.state in job_panel.ACTIVE
    if button_column.button(
        "Run",
        key="run_button",
        type="primary",
        icon=":material/play_arrow:",
        width="stretch",
        help=words.HELP["run_button"],
        disabled=under_way or not ready or not models.usable(request.model),
    ):
        forget_run()
        job_panel.submit(request)
        st.rerun()

if refused := st.session_state.pop("refused", None):
    st.error(shell.escaped(refused), icon=":material/error:")

run_id = shell.store().run_of(request) if ready else None
if run_id is None:
    models.show_card(request.model)
if under_way:
    job_panel.watch_job(job.job_id)
elif job is not None and job.state == "failed":
    st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
elif job is not None and job.state == "cancelled" and run_id is None:
    st.info("This run was cancelled. What was finished is kept: Run goes on from there.", icon=":material/stop_circle:")
else:
    job_panel.finished_job(job)

if run_id is None:
    ended_badly = job is not None and job.state in ("failed", "cancelled")  # said above
    if ready and not under_way and not ended_badly and models.usable(request.model):
        st.info(
            terms.said("This combination has not been run yet. Press **Run**: it takes seconds for the shipped models.")
            if request.model in library.model_titles()
            else "This combination has not been run yet. Press **Run**.",
            icon=":material/hourglass_empty:",
        )
    st.stop()

run = shell.store().run(run_id)
shell.measured_on(run)
recorded.run_notice(run, watched=True)
with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
    st.header(shell.run_heading(run), anchor=False)
    with st.container(horizontal=True, width="content"):
        for page, label in (
            (shell.PROBE, "Open the full result"),
            (shell.DOSE, "Switch neurons off"),
            (shell.WINDOW, "Inject a direction"),
        ):
            st.page_link(page, label=label, icon=":material/arrow_forward:", query_params={"run": run_id})
sharing.share(run, page="probe")
left, right = st.columns([11, 9], gap="medium")
with left:
    meaning.run_card(run, opened=True)
with right:
    cards.verdict_card(run, n_reasons=2, level=3)
cards.headline_numbers(run)

st.header("Can these prompts tell something?", anchor=False, help=words.GLOSSARY["Flip rate"])
left, right = st.columns([3, 2], gap="large")
with left:
    shell.figure(lambda: charts.margins(shell.read("pairs", run_id)), key="start_margins", of=run_id)
with right:
    st.markdown("**The first tokens that are watched**")
    preview = shell.read("token_preview", run_id)
    cards.preview_table(preview)
    cards.preview_flag(preview)
    st.caption(
        terms.marked(
            f"Target: {circuit.target_meaning}. Control: {circuit.control_meaning}. The logit difference compares the "
            "two groups.",
            shell.own_words(),
        )
    )
    harvest.asked_for(run)
    harvest.start_line(run, circuit)
    cards.left_out(run)

st.header("Where the two prompts part", anchor=False, help=words.GLOSSARY["Logit lens"])
shell.figure(
    lambda: charts.trajectory(shell.read("layers", run_id), circuit.target_meaning, circuit.control_meaning),
    key="start_trajectory",
    of=(run_id, circuit.sha256),
)
