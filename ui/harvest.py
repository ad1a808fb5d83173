"""First tokens from the model's own answers: offered with a run whose tokens miss most of them."""

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits.schema import Circuit
from pprobe_core.probing.harvest import Coverage, Harvest, harvest, harvested_request, misses_answers, own_pairs
from pprobe_core.probing.strings import written_strings
from pprobe_core.stats import wilson
from pprobe_core.store import Run, job_id_of
from ui import backend, exports, job_panel, selection, shell, terms, words

KEPT = {"target": "Target", "control": "Control", "both": "Starts both", "rare": "Rare", "unwritable": "Part of one"}


def tokens_card(run: Run, circuit: Circuit | None) -> None:
    """What the answers start with, where the run's tokens miss most of them, and a button to run again with those."""
    if circuit is None or not misses_answers(run.summary):
        return
    found = _found(run, circuit)
    with st.container(border=True, key="harvest"):
        st.markdown("### :material/grass: This model starts its answers with other words", help=words.HELP["harvest"])
        before = run.summary.get("coverage") or {}
        seen: set[str] = set()
        st.markdown(
            terms.marked(
                f"The watched tokens hold the likeliest first token on {_percent(before.get('original'))} of the "
                f"original and {_percent(before.get('perturbed'))} of the perturbed prompts. Elsewhere the logit "
                "difference does not describe what the model would say.",
                seen=seen,
            )
        )
        if not found.usable:
            st.caption(f":material/info: {terms.marked(found.note, seen=seen)}")
            return
        _table(found)
        st.markdown(
            terms.said(
                f"**On the pairs that did not suggest them** these tokens cover {_covered(found.coverage_after)}; the "
                f"run's own cover {_covered(found.coverage_before)}.",
                seen=seen,
            )
        )
        st.caption(terms.marked(f"{found.note} Pairs with strings of their own keep them.", seen=seen))
        if run.request.strings_from == "harvested":
            st.caption(
                terms.said(
                    ":material/info: This run's tokens are harvested already; harvesting again may not help.", seen=seen
                )
            )
        _button(run, found)


def start_line(run: Run, circuit: Circuit) -> None:
    """One line on the Start page where the card on the Probe page has something to say."""
    if misses_answers(run.summary):
        st.caption(
            ":material/grass: This model starts most of its answers with other words. The Probe page "
            + ("offers to run again with those." if _found(run, circuit).usable else "says what is known of them.")
        )


def asked_for(run: Run) -> None:
    """How thinking was set and which strings stood in place of the circuit's, where that is to be told."""
    state = words.THINKING_STATES.get(str(run.summary.get("thinking_state")))
    if state:
        st.caption(terms.marked(f"Thinking: {state}."), help=words.HELP["thinking"])
    if run.request.strings_from != "circuit":
        source = words.STRINGS_FROM[run.request.strings_from]
        target, control = (written_strings(s) for s in (run.request.target, run.request.control))
        source = terms.marked(source)
        st.caption(f":material/edit: {source}: {shell.escaped(target)} against {shell.escaped(control)}.")
    for note in run.summary.get("notes") or []:
        st.caption(f":material/info: {terms.marked(str(note))}")


def _found(run: Run, circuit: Circuit) -> Harvest:
    pairs, first = shell.read("pairs", run.run_id), shell.read("first_tokens", run.run_id)
    return harvest(circuit, pairs, first, own_pairs(run.summary))


def _table(found: Harvest) -> None:
    rows = pd.DataFrame(
        {
            "First token": [charts.visible(count.token) for count in found.counts],
            "Target answers": [count.n_target for count in found.counts],
            "Control answers": [count.n_control for count in found.counts],
            "Becomes": [KEPT[count.kept] for count in found.counts],
        }
    )
    exports.table(
        rows,
        key="harvest_tokens",
        hide_index=True,
        height="content" if len(rows) < 9 else 320,
        alt="First tokens of the model's answers with their counts",
        column_config={
            "First token": st.column_config.TextColumn(help="What an answer starts with; ␣ is a space."),
            "Target answers": st.column_config.NumberColumn(
                help="Discovery answers it starts whose class stands for the target."
            ),
            "Control answers": st.column_config.NumberColumn(help="The same for the control."),
            "Becomes": st.column_config.TextColumn(
                help="The side it is proposed for. Starts both: it tells nothing. Rare: too few answers. Part of one: "
                "a piece of a character, which no string can name."
            ),
        },
    )


def _button(run: Run, found: Harvest) -> None:
    """Run again with the proposed tokens; where that is under way or done, its progress or its result instead."""
    request = harvested_request(run.request, run.run_id, found)
    job = backend.find_job(job_id_of(request))
    if job is not None and job.state in job_panel.ACTIVE:
        job_panel.watch_job(job.job_id)
    elif job is not None and job.state == "done" and job.run_id:
        st.page_link(
            shell.PROBE,
            label="Open the run with these tokens",
            icon=":material/arrow_forward:",
            query_params={"run": job.run_id}
            | {key: text for key, text in selection.request_in_words(request).items() if key == "request"},
        )
    elif st.button(
        "Run again with these", key="run_harvested", icon=":material/replay:", help=words.HELP["run_harvested"]
    ):
        job_panel.submit(request)
        st.rerun()
    if job is not None and job.state == "failed":
        st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    if refused := st.session_state.pop("refused", None):
        st.error(shell.escaped(refused), icon=":material/error:")


def _covered(coverage: Coverage) -> str:
    n = coverage.n_pairs
    if not n:
        return "no pair, as none is left to count"
    spans = []
    for name, covered in (("original", coverage.n_original), ("perturbed", coverage.n_perturbed)):
        interval = wilson(covered, n)
        ends = "" if interval is None else f" ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"
        spans.append(f"{covered} of {n} {name}{ends}")
    return " and ".join(spans) + f" {'prompt' if n == 1 else 'prompts'}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
