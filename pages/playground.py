"""Playground: one prompt, and the model's answer as it is and while sliders change the model."""

import streamlit as st

from pprobe_core.playground import Ask, Change
from ui import library, playground, presenter, recorded, selection, sharing, shell

run = playground.chosen_run()
model = run.request.model if run else st.session_state["model"].strip()
circuit = library.circuit_of(run.request.circuit) if run else library.circuits().get(st.session_state["circuit"])
playground.use_run(run)
playground.begin()

with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
    st.title("Turn a dial, read the answer", anchor=False, width="content")
    if run is not None:
        shell.run_picker(run.run_id)
if run is not None:
    if not presenter.on():
        st.caption(playground.what_is_shown(run))
        recorded.run_notice(run)
    shell.measured_on(run)
else:
    playground.without_run(model)


@st.fragment
@shell.calm_errors()
def dials() -> None:
    """Prompt, sliders and answers: a slider draws only this again."""
    left, right = playground.places()
    with left:
        prompt, pair_id, condition = playground.prompt_of(run, circuit)
        change = playground.change_of(run, circuit) if run is not None else Change()
    ask = Ask(
        model,
        prompt,
        run_id=run.run_id if run else "",
        circuit=circuit.address if circuit else "",
        pair_id=pair_id,
        condition=condition,
        change=change,
    )
    with right:
        playground.answer(ask, circuit)
    if run is not None and not presenter.on():
        sharing.share_playground(run, prompt.text, change.normal())
    # Last: a run that waits behind this one would take the address it was sent with for a step back.
    selection.write_address()


dials()
if run is not None and presenter.on():
    recorded.run_notice(run)  # below what is presented; the picker above says it, too
