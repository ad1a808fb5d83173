"""Controls: what a referee would ask about the shown run, answered by sweeps of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from pprobe_core import charts, response_charts, sweep_charts, window_charts
from pprobe_core.interventions.requests import default_request
from pprobe_core.interventions.types import NEURON_KINDS, SweepKind, SweepRequest
from pprobe_core.store import Run, Sweep
from ui import asking, exports, job_panel, library, meaning, recorded, sharing, shell, sweeps, tables, terms, words


@dataclass(frozen=True)
class Question:
    """One thing a referee asks, the kinds of sweeps that answer it, and how the answer is shown."""

    name: str
    title: str
    text: str
    kinds: tuple[SweepKind, ...]
    show: Callable[[Run, dict[str, Sweep]], None]


def newest(run: Run, wanted: Mapping[SweepKind, SweepRequest]) -> dict[str, Sweep]:
    """The newest finished sweep of each kind with the circuit's own ranking and prompts, as far as there are some."""
    known = shell.sweeps(run.run_id)
    found = {}
    for kind, request in wanted.items():
        of_kind = known[(known["kind"] == kind) & (known["condition"] == request.condition)]
        if kind in NEURON_KINDS:
            of_kind = of_kind[of_kind["ranking"] == request.ranking]
        if len(of_kind):
            found[kind] = shell.store().sweep(str(of_kind["sweep_id"].iloc[0]))
    return found


def requests_for(run: Run, kinds: Sequence[SweepKind]) -> list[SweepRequest]:
    """What to ask for so that a question is answered: the circuit's own defaults."""
    circuit = library.circuit_of(run.request.circuit)
    return [default_request(circuit, run.run_id, kind) for kind in kinds]


def split_of(points: pd.DataFrame) -> str:
    """Held-out prompts where there are some."""
    return sweeps.splits_of(points)[0]


def show_attention(run: Run, found: dict[str, Sweep]) -> None:
    """Heads against neurons, and the residual stream patched with attention held."""
    left, right = st.columns(2, gap="large")
    heads, neurons = sweeps.points(found["heads"]), sweeps.points(found["dose"])
    with left:
        shell.figure(
            lambda: sweep_charts.heads_against_neurons(heads, neurons, split_of(heads)),
            key="heads_against_neurons",
            of=(found["heads"].sweep_id, found["dose"].sweep_id),
        )
    with right:
        held = sweeps.points(found["held"])
        shell.figure(lambda: window_charts.held(held, split_of(held)), key="held", of=found["held"].sweep_id)
    meaning.sweep_card(run, found["held"])


def show_layers(run: Run, found: dict[str, Sweep]) -> None:
    """Every layer's FFN and attention output switched off."""
    points = sweeps.points(found["layers"])
    shell.figure(
        lambda: window_charts.layer_ablation(points, split_of(points)),
        key="layer_ablation",
        of=found["layers"].sweep_id,
    )
    meaning.sweep_card(run, found["layers"])


def show_threshold(run: Run, found: dict[str, Sweep]) -> None:
    """How the effect depends on where the list of neurons is cut."""
    sweep = found["dose"]
    shell.figure(
        lambda: sweep_charts.threshold_curve(sweeps.points(sweep), sweeps.n_neurons(sweep)),
        key="threshold",
        of=sweep.sweep_id,
    )


def show_held_out(run: Run, found: dict[str, Sweep]) -> None:
    """Discovery against held-out, and the correction for many tests."""
    sweep = found["dose"]
    counts = run.summary.get("splits") or {}
    shown = ", ".join(f"{words.SPLITS.get(s, s).lower()} {n}" for s, n in counts.items())
    st.markdown(terms.marked(f"Pairs of this run: {shown}. Neurons were ranked on the discovery pairs only."))
    sweeps.stage_card(run, sweep)
    sweeps.proof_table(sweep)


def show_seeds(run: Run, found: dict[str, Sweep]) -> None:
    """Range over seeds, of answers drawn at random."""
    known = shell.sweeps(run.run_id)
    for sweep_id in known["sweep_id"]:
        sweep = shell.store().sweep(str(sweep_id))
        generation = sweep.summary.get("generation") or {}
        if sweep.request.kind == "dose" and generation.get("n_seeds", 1) >= 5:
            rates = sweeps.rates(sweep)
            titles = sweeps.outcome_titles(rates)
            outcome = next((o for o in titles if o not in ("format_change", "broken")), next(iter(titles)))
            shell.figure(partial(response_charts.seeds, rates, outcome), key="seeds", of=(sweep.sweep_id, outcome))
            return
    st.info(
        terms.marked(
            "Answers were not drawn at random with five seeds yet. The likeliest word each time (greedy) has no seed "
            "to vary: its error bars are those over prompts."
        ),
        icon=":material/info:",
    )
    circuit = library.circuit_of(run.request.circuit)
    request = default_request(circuit, run.run_id, "dose", responses=True, n_seeds=5, temperature=0.7)
    asking.run_button(request, "Draw answers with five seeds", key="seeds_button", width="content")


def ratio_table() -> None:
    """FFN/Skip of every run there is, the ones that fit no pattern included."""
    runs, intervals = shell.runs(), shell.store().ffn_skip_intervals()
    rows = runs[["ffn_skip_mean", "model", "stage", "n_pairs"]].assign(
        circuit=library.circuit_titles(runs["circuit"]),
        prompts=library.set_titles(runs["prompts"]),
        source=tables.sources(runs),
        flip_rate=100 * runs["flip_rate"],
        structure=runs["structure"].map(words.STRUCTURES).fillna(runs["structure"]),
        interval=[shell.interval(intervals.get(run_id)) for run_id in runs["run_id"]],
    )
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    exports.table(
        rows[
            [
                *("circuit", "model", "prompts", "ffn_skip_mean", "interval", "flip_rate", "structure", "stage"),
                *("n_pairs", "source"),
            ]
        ],
        hide_index=True,
        height="content" if len(rows) <= 10 else 380,
        key="ratio_table",
        alt="FFN/Skip of every run",
        column_config={
            "circuit": text("Behaviour", help=words.HELP["circuit"]),
            "model": text("Model", help=words.HELP["model"]),
            "prompts": text("Prompts", help=words.HELP["prompts"]),
            "ffn_skip_mean": number("FFN/Skip", format="%.2f", help=words.HELP["ffn_skip"]),
            "interval": text("95 %", help=words.GLOSSARY["Interval"]),
            "flip_rate": number("Flips", format="%.0f %%", help=words.HELP["flip_rate"]),
            "structure": text("Verdict", help="What kind of circuit the run points to."),
            "stage": text("Stage", help=words.HELP["stage"]),
            "n_pairs": number("Pairs", help="Prompt pairs measured."),
            "source": text("Source", help=words.HELP["recorded"]),
        },
    )


QUESTIONS = (
    Question(
        "attention",
        "Is it the FFN at all, or attention?",
        "Attention heads are ranked by the same two passes as the neurons, and as many are switched off. Beside it the "
        "other prompt's residual stream is put in after each layer, with later layers free, with their attention held "
        "at what it gives unedited, and with their FFNs held.",
        ("heads", "dose", "held"),
        show_attention,
    ),
    Question(
        "layers",
        "Which layers matter when a whole layer is switched off?",
        "The FFN output, and the attention output, of each layer is removed where the answer starts.",
        ("layers",),
        show_layers,
    ),
    Question(
        "threshold",
        "Does it hang on where the list of neurons is cut?",
        "The same curve by the share of all neurons; the paper's sets lie between 0.005 % and 0.1 %.",
        ("dose",),
        show_threshold,
    ),
    Question(
        "held_out",
        "Does it hold on prompts that took no part, and after correcting for many tests?",
        "A fifth of the prompts selects nothing. Every dose is tested against its random draws, and the p values are "
        "corrected over all doses.",
        ("dose",),
        show_held_out,
    ),
    Question(
        "seeds",
        "Does it hold when answers are drawn at random?",
        "Five seeds or more, with the smallest and the largest share as a band.",
        (),
        show_seeds,
    ),
)

run = shell.chosen_run()
if run is None:
    st.title("Controls")
    shell.no_run_yet()
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.title("What would a referee ask?", anchor=False, width="content")
    shell.run_picker(run.run_id)
sharing.share(run)
st.caption(f"{shell.run_heading(run)}. {shell.run_facts(run)}")

shell.measured_on(run)
recorded.run_notice(run)
meaning.run_card(run)
wanted = {kind: request for q in QUESTIONS for kind, request in zip(q.kinds, requests_for(run, q.kinds), strict=True)}
there = newest(run, wanted)
missing = [kind for kind in wanted if kind not in there]
answered = sum(all(kind in there for kind in q.kinds) for q in QUESTIONS if q.kinds)
with st.container(border=True, key="referee", horizontal=True, vertical_alignment="center"):
    st.markdown(
        terms.said(
            f"**{answered} of {sum(bool(q.kinds) for q in QUESTIONS)} questions about this run are answered by a "
            "finished sweep.** "
            + ("" if not missing else f"Missing: {', '.join(words.SWEEP_KINDS[k].lower() for k in missing)}.")
        )
    )
    if missing and st.button(
        "Run what is missing",
        key="run_missing",
        type="primary",
        icon=":material/play_arrow:",
        help="Queue the missing sweeps with this circuit's defaults; the worker does one after the other.",
        disabled=all((job := asking.job_of(wanted[k])) is not None and job.state in job_panel.ACTIVE for k in missing),
    ):
        for kind in missing:
            job_panel.submit(wanted[kind])
        st.rerun()
if refused := st.session_state.pop("refused", None):
    st.error(shell.escaped(refused), icon=":material/error:")
for kind in missing:
    job = asking.job_of(wanted[kind])
    if job is not None and job.state in job_panel.ACTIVE:
        job_panel.watch_job(job.job_id)
        break
    if job is not None and job.state == "failed":
        st.error(
            f"{words.SWEEP_KINDS[kind]}: the last try failed. {shell.escaped(str(job.error))}",
            icon=":material/error:",
        )
else:
    for request in wanted.values():
        job_panel.finished_job(asking.job_of(request))

for question in QUESTIONS:
    st.header(question.title, anchor=question.name)
    st.markdown(terms.marked(question.text))
    lacking = [kind for kind in question.kinds if kind not in there]
    if lacking:
        st.info(
            terms.said(
                f"Not measured yet: {', '.join(words.SWEEP_KINDS[kind].lower() for kind in lacking)}. Press **Run what "
                "is missing** above."
            ),
            icon=":material/hourglass_empty:",
        )
    else:
        question.show(run, there)

st.header(
    "What is the FFN/Skip ratio of everything that was run?", anchor="ratios", help=words.GLOSSARY["FFN/Skip ratio"]
)
st.markdown(
    terms.marked(
        "All runs in this results file, those included that fit no pattern. In the paper FFN/Skip explains 81 % of the "
        "variance of the ablation effect over 13 models; two or three models here can neither confirm nor deny that."
    )
)
ratio_table()
cost = [sweep.summary for sweep in there.values()]
if cost:
    st.caption(
        terms.marked(
            f"The sweeps shown here took {sum(c['n_full_passes'] for c in cost):,} full and "
            f"{sum(c['n_last_token_passes'] for c in cost):,} last-token forward passes in "
            f"{charts.number(sum(c['seconds'] for c in cost), 1)} s."
        )
    )
