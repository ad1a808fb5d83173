"""The playground's parts: what is asked (prompt and sliders), the answers side by side, the place in the line."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts, playground_charts
from pprobe_core.circuits.prompt_sets import MAX_PROMPT_CHARS
from pprobe_core.circuits.schema import Circuit, Condition, Prompt
from pprobe_core.difference import Piece, word_difference
from pprobe_core.errors import PprobeError
from pprobe_core.interventions.types import N_DRAWS
from pprobe_core.playground import MAX_FACTOR, MAX_NEURONS, MAX_STRENGTH, Ask, Change, Reply, Standing, Written
from pprobe_core.playground.finding import headline, logit_sentence
from pprobe_core.probing.types import RANKINGS
from pprobe_core.store import Run
from pprobe_core.wording import plural
from ui import backend, job_panel, marked, presenter, selection, shell, terms, words

STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # neurons, of which a model may have fewer
FIRST_STEP = 100  # where the slider stands at first
OWN_WORDS = "own"  # in the list of examples
PATIENCE = 0.5  # seconds within which an answer comes without a word about waiting
POLL = 0.3
ANSWER_HEIGHT, ANSWER_TYPE = 200, 1.2  # pixels of a card with an answer, and its type in rem
# A presentation has dials, answers and bars on one screen of 1280 by 720: all of it less high.
PRESENTED_HEIGHT, PRESENTED_TYPE = 210, 1.05
FINISHES = {"limit": " …", "stop": "", "broken": ""}
SIDE_BADGE = {"target": "violet", "control": "yellow", "other": "gray"}
ARM_TITLES = {"unedited": "As it is", "edited": "Changed", "random": "Random change"}


# ------------------------------------------------------------------------------------------------ what is asked


def chosen_run() -> Run | None:
    """The run that the edits come from: as on every page, but never one of another model than the one picked."""
    run = shell.chosen_run()
    state = st.session_state
    if run is None or state["run"] or state["sweep"] or run.request.model == state["model"]:
        return run
    runs = shell.runs()
    of_model = runs[runs["model"] == state["model"]]
    return shell.store().run(str(of_model.iloc[0]["run_id"])) if len(of_model) else None


def what_is_shown(run: Run) -> str:
    """The line under the title."""
    n = int(run.summary.get("n_ranking_pairs") or run.summary.get("n_pairs") or 0)
    source = f"Neurons and direction come from {plural(n, 'discovery pair')} of run `{run.run_id}`"
    return f"{shell.run_heading(run)}. {terms.said(source)}; beside every change stands a random one."


def without_run(model: str) -> None:
    """Say that the sliders need a run, and where it is made."""
    with st.container(border=True, key="play_no_run", horizontal=True, vertical_alignment="center"):
        named = shell.escaped(model)
        st.markdown(
            terms.said(
                f":material/info: There is no run of **{named}** yet. It answers as it is; which neurons to change, "
                "and where to push, comes from a run.",
                [named],
            )
        )
        st.page_link(shell.START, label="Run a behaviour on Start", icon=":material/arrow_forward:")


def use_run(run: Run | None) -> None:
    """When another run is shown, example, layer and the example's text start anew; words of one's own stay."""
    state, run_id = st.session_state, run.run_id if run else ""
    if state.get("_play_run", run_id) != run_id:
        if state.get("play_pair") != OWN_WORDS:
            state["play_text"] = state["play_pair"] = state["play_condition"] = None
        state["play_layer"] = state["play_n"] = state["play_strength"] = None
    state["_play_run"] = run_id


def begin() -> None:
    """At the start of a full run: the browser has dropped its timers."""
    st.session_state["_play_timer"] = False


def places() -> tuple[Any, Any]:
    """Where the dials and where the answers stand: below each other, or side by side for a presentation."""
    if presenter.on():
        left, right = st.columns([2, 3], gap="large")
        return left, right
    return st.container(), st.container()


def prompt_of(run: Run | None, circuit: Circuit | None) -> tuple[Prompt, str, Condition]:
    """The pickers of the prompt, and what they say: the prompt, the pair it is of word for word ("" for own words),
    and that pair's condition.
    """
    state = st.session_state
    if run is None:
        selection.start_at("play_text", [state.get("play_text")], "")
        _text_area()
        _ask_button()
        return Prompt(({"role": "user", "content": state["play_text"] or ""},)), "", "original"
    usual = circuit.sweep.condition if circuit else "original"
    pairs = examples(run.run_id, usual)
    ids = [*pairs.index, OWN_WORDS]
    selection.start_at("play_pair", ids, ids[0])
    selection.start_at("play_condition", list(words.CONDITIONS), usual)
    left, right = (st.container(), st.container()) if presenter.on() else st.columns([2, 3], gap="medium")
    with left:
        st.selectbox(
            "Prompt", ids, key="play_pair", help=words.HELP["play_pair"], persist_state="session",
            format_func=lambda i: "My own words" if i == OWN_WORDS else _first_words(pairs.loc[i, f"{usual}_text"]),
            on_change=_take_example, label_visibility=presenter.label_visibility(),
        )  # fmt: skip
        own = state["play_pair"] == OWN_WORDS
        with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
            st.segmented_control(
                "Which of the pair", list(words.CONDITIONS), key="play_condition", disabled=own, required=True,
                format_func=lambda c: {"original": "Original", "perturbed": "Its twin"}[c],
                help=words.HELP["play_condition"], on_change=_take_example, label_visibility="collapsed",
                persist_state="session",
            )  # fmt: skip
            _ask_button()
    condition = state["play_condition"]
    example = None if own else pairs.loc[state["play_pair"]]
    text = "" if example is None else str(example[f"{condition}_text"])
    selection.start_at("play_text", [state.get("play_text")], text)
    with right:
        _text_area()
    written = str(state["play_text"] or "")
    if example is None:
        return Prompt(({"role": "user", "content": written},)), "", usual
    before, tools = conversation(str(example[f"{condition}_prompt"]))
    prompt = Prompt((*before, {"role": "user", "content": written}), tools)
    if before or tools:
        parts = [plural(len(before), "earlier message")] if before else []
        parts += [f"{plural(len(tools), 'tool')} on offer"] if tools else []
        st.caption(f":material/forum: With {' and '.join(parts)}, as in the example.")
    return prompt, "" if written != text else str(state["play_pair"]), condition


def examples(run_id: str, condition: Condition) -> pd.DataFrame:
    """The run's pairs by id, held-out ones first (they took no part in choosing neurons or directions), short ones
    first among them.
    """
    pairs = shell.read("pairs", run_id).set_index("pair_id")
    order = pd.DataFrame({"used": pairs["split"] != "heldout", "length": pairs[f"{condition}_text"].str.len()})
    return pairs.loc[order.sort_values(["used", "length"], kind="stable").index]


def conversation(stored: str) -> tuple[tuple[dict[str, str], ...], tuple[dict[str, Any], ...]]:
    """A stored prompt (JSON text) without its last turn: the messages before it, and the tools on offer."""
    try:
        value = json.loads(stored)
    except ValueError:
        return (), ()
    messages, tools = value.get("messages") or [], value.get("tools") or []
    return tuple(dict(message) for message in messages[:-1]), tuple(tools)


def _text_area() -> None:
    st.text_area(
        "What the model is asked", key="play_text", height=84 if presenter.on() else 118, max_chars=MAX_PROMPT_CHARS,
        label_visibility=presenter.label_visibility(),
        help=words.HELP["play_text"], placeholder="Write a prompt", persist_state="session",
    )  # fmt: skip


def _ask_button() -> None:
    """For those who look for one: what is written counts as soon as the text field is left."""
    st.button("Ask", key="play_ask", type="primary", icon=":material/send:", help=words.HELP["play_ask"])


def _take_example() -> None:
    """Another example was picked: its text takes the place of what is written."""
    st.session_state["play_text"] = None


def _first_words(text: Any, n: int = 70) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= n else f"{line[: n - 1]}…"


def change_of(run: Run, circuit: Circuit | None) -> Change:
    """The sliders, and the change they stand for. A presentation leaves the rarer ones out."""
    state, n_layers = st.session_state, int(run.summary["n_layers"])
    _start_sliders(run, circuit, n_layers)
    with st.container(border=True, key="play_sliders"):
        neurons, push = _beside(2, gap="large")
        with neurons:
            st.select_slider(
                "Neurons changed", _steps(run, state["play_n"]), key="play_n", help=words.HELP["play_n"],
                persist_state="session",
            )  # fmt: skip
            left, right = _beside(2)
            left.slider(
                "Multiplied by", *_span(state["play_factor"], 3.0, MAX_FACTOR), key="play_factor", step=0.25,
                format="%g", help=words.HELP["play_factor"], persist_state="session",
            )  # fmt: skip
            if not presenter.on():
                right.selectbox(
                    "Neurons by", RANKINGS, key="play_ranking", help=words.HELP["sweep_ranking"],
                    format_func=lambda r: words.SWEEP_RANKINGS[r][0], persist_state="session",
                )  # fmt: skip
        with push:
            st.slider(
                "Push", *_span(state["play_strength"], 3.0, MAX_STRENGTH), key="play_strength", step=0.25, format="%g",
                help=words.HELP["play_strength"], persist_state="session",
            )  # fmt: skip
            left, right = _beside(2)
            if n_layers > 1:
                left.slider(
                    "After layer", 0, n_layers - 1, key="play_layer", help=words.HELP["play_layer"],
                    persist_state="session",
                )  # fmt: skip
            if not presenter.on():
                right.selectbox(
                    "Position", list(words.POSITIONS), key="play_position", help=words.HELP["position"],
                    format_func=lambda p: words.POSITIONS[p], persist_state="session",
                )  # fmt: skip
        if circuit is not None and not presenter.on():
            sides = [circuit.target_meaning, circuit.control_meaning]
            st.caption(
                terms.marked(
                    f"Push above zero: towards {sides[0]}; below: towards {sides[1]}. "
                    f"{words.SWEEP_RANKINGS[state['play_ranking']][1]}",
                    sides,
                )
            )
    return Change(
        n_neurons=int(state["play_n"]),
        factor=float(state["play_factor"]),
        ranking=state["play_ranking"],
        strength=float(state["play_strength"]),
        layer=int(state["play_layer"]),
        position=state["play_position"],
        draw=int(state.get("play_draw") or 0) % N_DRAWS,
    )


def _start_sliders(run: Run, circuit: Circuit | None, n_layers: int) -> None:
    """Where the sliders stand at first: at an edit that the paper expects to work, so that the first look shows one.

    A behaviour that attention is expected to route is pushed towards what its other prompts do; elsewhere neurons are
    switched off.
    """
    state = st.session_state
    routing = circuit is not None and circuit.expected_structure == "routing"
    moves = float((run.summary.get("logit_diff") or {}).get("delta_mean") or 0.0)  # from the original to its twin
    towards = 1.0 if (moves > 0) == (circuit is None or circuit.sweep.condition == "original") else -1.0
    steps = _steps(run, state.get("play_n"))
    selection.start_at("play_n", steps, 0 if routing else max(s for s in steps if s <= FIRST_STEP))
    selection.start_at("play_layer", range(n_layers), n_layers // 2)
    selection.start_at("play_strength", [state.get("play_strength")], towards if routing else 0.0)
    for key, limit in (("play_factor", MAX_FACTOR), ("play_strength", MAX_STRENGTH)):
        selection.put(key, min(max(float(state[key] or 0.0), -limit), limit))


def _steps(run: Run, given: Any) -> list[int]:
    """Numbers of neurons to choose from, among them the one that an address asked for."""
    total = int(run.summary["n_layers"]) * int(run.summary["d_mlp"])
    asked = {given} if isinstance(given, int) and 0 <= given <= min(total, MAX_NEURONS) else set()
    return sorted({s for s in STEPS if s <= total} | asked)


def _beside(n: int, gap: Any = "small") -> Sequence[Any]:
    """Columns; those inside of columns stand one below the other in the narrower place of the presenter view."""
    if presenter.on() and gap == "small":
        return [st.container() for _ in range(n)]
    return st.columns(n, gap=gap, vertical_alignment="bottom" if gap == "small" else "top")


def _span(value: float, usual: float, limit: float) -> tuple[float, float]:
    """The ends of a slider: the usual ones, wider where an address asks for more."""
    end = usual if abs(value) <= usual else limit
    return -end, end


# --------------------------------------------------------------------------------------------- the line at the desk


def visitor() -> str:
    """This browser tab, for the line."""
    return str(st.session_state.setdefault("_visitor", uuid.uuid4().hex))


def answer(ask: Ask, circuit: Circuit | None) -> None:
    """Put the question, and show its answers; or the place in the line with the last answers dimmed, looked at again
    until they are there. What cannot be met is said in their place.
    """
    state, refused, timer = st.session_state, "", None
    try:
        desk = backend.playground()
        desk.ask(visitor(), ask, again=bool(state.pop("_play_again", False)))
        standing = desk.wait(visitor(), PATIENCE)
        if standing is not None and not standing.ended and not state["_play_timer"]:
            timer, state["_play_timer"] = POLL, True
    except PprobeError as error:
        refused = str(error)
    # One part of the page in every state, so that what stood there is replaced.
    st.fragment(_board, run_every=timer)(circuit, refused)


@shell.calm_errors()
def _board(circuit: Circuit | None, refused: str) -> None:
    """The answers or the place in the line, as things stand now. A timer that looked while waiting ends with a full
    run of the page.
    """
    standing = None if refused else backend.playground().look(visitor())
    if st.session_state["_play_timer"] and (standing is None or standing.ended):
        st.rerun()
    _drawn(standing, refused, circuit)


def _drawn(standing: Standing | None, refused: str, circuit: Circuit | None) -> None:
    with st.container(key="play_head"):
        _head(standing, refused, circuit)
    reply = (standing.reply or standing.last) if standing is not None else None
    dimmed = standing is None or standing.reply is None
    with st.container(key="play_dimmed" if dimmed else "play_now"):
        if reply is None:
            _empty_board()
            return
        _answers(reply, circuit)
        _figures(reply, circuit)


def _head(standing: Standing | None, refused: str, circuit: Circuit | None) -> None:
    """What the answers show, or what is going on."""
    if standing is None:
        st.error(shell.escaped(refused or "The question was lost. Ask again."), icon=":material/error:")
    elif standing.reply is not None:
        titles, seen = titles_of(circuit), set[str]()
        st.markdown(f"## {terms.marked(headline(standing.reply, titles), titles.values(), seen)}")
        if not presenter.on():  # there the chart of F below says it
            st.caption(terms.marked(logit_sentence(standing.reply), seen=seen))
    elif standing.ended:
        with st.container(horizontal=True, vertical_alignment="center"):
            if standing.state == "failed":
                st.error(shell.escaped(str(standing.error)), icon=":material/error:")
            else:
                st.markdown(":material/pause_circle: Nobody was looking, so the question was put aside.")
            st.button("Ask again", key="play_again", icon=":material/refresh:", on_click=_again)
    else:
        st.markdown(f"## :material/hourglass_top: {shell.escaped(place_in_words(standing))}")
        st.caption("Answers below, where there are any, are to an earlier question." if standing.last else "")


def _again() -> None:
    st.session_state["_play_again"] = True


def place_in_words(standing: Standing) -> str:
    """What a visitor who waits is told."""
    if standing.waits_for_model:
        busy = [job for job in backend.jobs().list() if job.state == "running"]
        job = f" with “{job_panel.job_title(busy[0].request)}”" if busy else ""
        return f"The model is busy{job}. Your question is next, place 1: when that pauses or ends."
    if standing.state == "waiting" and standing.ahead:
        return f"{standing.ahead} before you"
    return standing.note or "Computing"


def answer_height() -> int:
    """Pixels of a card with an answer, the same whatever the answer: nothing jumps when it comes."""
    return PRESENTED_HEIGHT if presenter.on() else ANSWER_HEIGHT


def _empty_board() -> None:
    for column, (arm, title) in zip(st.columns(3), ARM_TITLES.items(), strict=True):
        with column, st.container(border=True, height=answer_height(), key=f"play_{arm}"):
            st.markdown(f"**{title}**")
            st.skeleton(height=90)


# ------------------------------------------------------------------------------------------------------ the answers


def titles_of(circuit: Circuit | None) -> Mapping[str, str]:
    """Class name -> how it reads."""
    return {c.name: c.title for c in circuit.response_classes} if circuit else {}


def _answers(reply: Reply, circuit: Circuit | None) -> None:
    before, after = reply.unedited, reply.edited
    own, _ = word_difference(before.text, after.text if after else before.text)
    sides: list[tuple[str, Written | None, Sequence[Piece]]] = [("unedited", before, own)]
    for arm, answer in (("edited", after), ("random", reply.random)):
        sides.append((arm, answer, word_difference(before.text, answer.text)[1] if answer else ()))
    for column, (arm, answer, pieces) in zip(st.columns(3), sides, strict=True):
        with column, st.container(border=True, height=answer_height(), key=f"play_{arm}"):
            if answer is None:
                st.markdown(f"**{ARM_TITLES[arm]}**")
                st.caption("Move a slider above: the answer of the changed model stands here then.")
                continue
            badge = ""
            if answer.class_name is not None:
                title = titles_of(circuit).get(answer.class_name, answer.class_name)
                badge = f" :{SIDE_BADGE[answer.side]}-badge[{shell.escaped(title)}]"
            f = (
                ""
                if answer.logit_diff is None
                else f" :small[:gray[F {charts.number(answer.logit_diff, signed=True)}]]"
            )
            st.markdown(f"**{ARM_TITLES[arm]}**{badge}{f}", help=words.HELP[f"play_{arm}"])
            if answer.looks_harmful:
                with st.expander("Show the compliant answer", icon=":material/visibility_off:"):
                    _text(answer, pieces, arm)
            else:
                _text(answer, pieces, arm)
            if arm == "random":
                st.button(
                    f"Another one ({reply.ask.change.draw + 1} of {N_DRAWS})", key="play_redraw", type="tertiary",
                    icon=":material/casino:", on_click=_redraw, help=words.HELP["play_redraw"],
                )  # fmt: skip


def _redraw() -> None:
    st.session_state["play_draw"] = (int(st.session_state.get("play_draw") or 0) + 1) % N_DRAWS


def _text(answer: Written, pieces: Sequence[Piece], arm: str) -> None:
    """An answer in large type, its differing words marked."""
    note = "The model broke: its output is no number." if answer.finish == "broken" else ""
    marked.answer(pieces, changed=arm != "unedited", more=FINISHES[answer.finish], note=note, size=_type_size())


def _type_size() -> float:
    return PRESENTED_TYPE if presenter.on() else ANSWER_TYPE


def _figures(reply: Reply, circuit: Circuit | None) -> None:
    """First-token probabilities, and F beside that of the random draws."""
    arms = ["unedited"] if reply.edited is None else list(ARM_TITLES)
    compact = presenter.on()
    left, right = st.container(key="play_figures").columns([3, 2], gap="medium" if compact else "large")
    with left:
        shell.figure(lambda: playground_charts.first_tokens(token_rows(reply, arms), compact), key="play_tokens")
    with right:
        if reply.unedited.logit_diff is None:
            own = [circuit.title.lower()] if circuit else []
            st.info(terms.marked(no_logit_diff(reply, circuit), own), icon=":material/info:")
            return
        meanings = (circuit.target_meaning, circuit.control_meaning) if circuit else ("target", "control")
        shell.figure(lambda: playground_charts.logit_diffs(logit_rows(reply), *meanings, compact), key="play_f")


def no_logit_diff(reply: Reply, circuit: Circuit | None) -> str:
    """Why a reply has no F."""
    if not reply.ask.run_id:
        return "The logit difference F needs a run: it says which first tokens are compared."
    if circuit is not None and not reply.ask.pair_id:
        return (
            f"In {circuit.title.lower()} the tokens that are compared belong to each example, so words of your own "
            "have no logit difference F. Pick an example to see it."
        )
    return "The model's output is no number here, so there is no logit difference F."


def token_rows(reply: Reply, arms: Sequence[str]) -> pd.DataFrame:
    """A row per first token and answer: token_id, token, side, arm, probability."""
    return pd.DataFrame(
        [
            {"token_id": t.token_id, "token": t.token, "side": t.side, "arm": arm, "probability": getattr(t, arm)}
            for t in reply.tokens
            for arm in arms
        ],
        columns=["token_id", "token", "side", "arm", "probability"],
    )


def logit_rows(reply: Reply) -> pd.DataFrame:
    """A row per answer and random draw: arm, draw, logit_diff."""
    rows: list[dict[str, Any]] = [{"arm": "unedited", "draw": None, "logit_diff": reply.unedited.logit_diff}]
    if reply.edited is not None:
        rows.append({"arm": "edited", "draw": None, "logit_diff": reply.edited.logit_diff})
    rows += [
        {"arm": "random", "draw": draw + 1, "logit_diff": value} for draw, value in enumerate(reply.random_logit_diffs)
    ]
    return pd.DataFrame(rows, columns=["arm", "draw", "logit_diff"]).astype({"logit_diff": "float64"})
