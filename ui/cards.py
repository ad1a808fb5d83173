"""The result of a run in words and numbers: verdict card, stage ladder, headline numbers, prompt tokens."""

import difflib
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts
from pprobe_core.circuits.schema import Circuit
from pprobe_core.difference import Piece
from pprobe_core.probing.verdict import OPPOSITION_MIN_FFN_SKIP, ROUTING_MAX_FFN_SKIP
from pprobe_core.store import Run
from pprobe_core.wording import plural, with_minus
from ui import exports, library, marked, shell, terms, words

STRUCTURE_LOOK: Mapping[str, tuple[str, Any]] = {
    "opposition": (":material/compare_arrows:", "orange"),
    "routing": (":material/alt_route:", "blue"),
    "read_out": (":material/visibility:", "violet"),
    "undetermined": (":material/help:", "gray"),
    "uninformative": (":material/do_not_disturb_on:", "gray"),
}
CHIP = (
    "display:inline-block;margin:1px;padding:0 4px;border-radius:4px;border:1px solid rgba(125,133,144,.4);"
    "white-space:pre"
)
FOLDED = ("compliance", "disclaimer")  # answers to a harmful request that stay folded until asked for
AVATARS = {"user": ":material/person:", "assistant": ":material/smart_toy:"}
MARKED = f"background:rgba(196,95,181,.28);border-color:{charts.PERTURBED}"


def verdict_card(run: Run, n_reasons: int | None = None, level: int = 2) -> None:
    """Structure, stage ladder, recommendation and reasons of a run (all of them, or the first few).

    `level` is that of its heading: one below the one it stands under.
    """
    verdict = run.summary.get("verdict") or {}
    structure = str(verdict.get("structure") or "undetermined")
    icon, colour = STRUCTURE_LOOK.get(structure, STRUCTURE_LOOK["undetermined"])
    with st.container(border=True, key="verdict"):
        title = words.STRUCTURES.get(structure, structure)
        st.markdown(
            f"{'#' * level} {icon} :{colour}[{title}]", help=words.STRUCTURE_HELP.get(structure, words.HELP["stage"])
        )
        stage_ladder(run.stage)
        seen: set[str] = set()
        advice = terms.marked(str(verdict.get("recommendation") or "Nothing yet."), seen=seen)
        st.markdown(f"**What to do with it.** {advice}")
        reasons = list(verdict.get("reasons") or [])[:n_reasons]
        if reasons:
            st.markdown(
                "**Why.**\n" + "\n".join(f"- {terms.marked(with_minus(str(reason)), seen=seen)}" for reason in reasons)
            )
        circuit = library.circuit_of(run.request.circuit)
        if circuit and circuit.expected_note:
            st.caption(shell.of_circuit(circuit, f"For comparison: {circuit.expected_note}"))


def stage_ladder(stage: str) -> None:
    """The four stages of evidence, with the ones reached marked."""
    names = [name for name, _ in words.STAGES]
    reached = names.index(stage) if stage in names else 0
    st.caption("How far the evidence goes", help=words.HELP["stage"])
    with st.grid(4, min_column_width=130, gap="xsmall"):
        for place, (name, meaning) in enumerate(words.STAGES):
            icon = ":material/check_circle:" if place <= reached else ":material/radio_button_unchecked:"
            look = f"**{icon} {name}**" if place <= reached else f":gray[{icon} {name}]"
            st.markdown(f"{look}  \n:small[:gray[{terms.marked(meaning)}]]")


def headline_numbers(run: Run) -> None:
    """FFN/Skip, flip rate, coverage and change of the logit difference: each with interval and n."""
    s = run.summary
    n = int(s.get("n_pairs") or 0)
    ratio, gap = s.get("ffn_skip") or {}, s.get("logit_diff") or {}
    with st.grid(5, min_column_width=150, gap="small"):
        _number(
            "FFN/Skip, last layer",
            charts.number(ratio.get("mean")),
            f"{shell.interval(ratio.get('interval'))} · n = {plural(ratio.get('n_defined', 2 * n), 'prompt')} · "
            f"routing < {ROUTING_MAX_FFN_SKIP:g}, opposition > {OPPOSITION_MIN_FFN_SKIP:g}",
            words.HELP["ffn_skip"],
        )
        _number(
            "Pairs that flip",
            _percent(s.get("flip_rate")),
            f"{_percent_interval(s.get('flip_interval'))} · n = {plural(n, 'pair')}",
            words.HELP["flip_rate"],
        )
        coverage = s.get("coverage") or {}
        _number(
            "Coverage",
            _percent(min((v for v in coverage.values() if isinstance(v, float)), default=None)),
            f"original {_percent(coverage.get('original'))}, perturbed {_percent(coverage.get('perturbed'))} · n = "
            f"{n} each",
            words.HELP["coverage"],
        )
        _number(
            "Change in logits",
            charts.number(gap.get("delta_mean"), signed=True),
            f"{shell.interval(gap.get('delta_interval'))} · neurons predict "
            f"{charts.number(gap.get('predicted_delta_mean'), signed=True)}",
            words.HELP["logit_diff"],
        )
        _answers(s.get("generation"))


def _answers(generation: Mapping[str, Any] | None) -> None:
    """Whether the answers the model really writes agree with the logit difference."""
    if not generation:
        _number("Answers that agree", "–", "no answers were generated", words.HELP["agreement"])
        return
    answers = plural(int(generation.get("n_answers") or 0), "answer")
    _number(
        "Answers that agree",
        _percent(generation.get("agreement")),
        f"{_percent_interval(generation.get('agreement_interval'))} · n = {answers}",
        words.HELP["agreement"],
    )


def _number(label: str, value: str, beside: str, help_text: str) -> None:
    with st.container(border=True, height="stretch", gap=None):
        st.metric(label, value, help=help_text)
        st.caption(terms.marked(beside))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _percent_interval(values: Sequence[float | None] | None) -> str:
    if not values or values[0] is None or values[1] is None:
        return "no interval"
    return f"[{100 * values[0]:.0f}, {100 * values[1]:.0f}] %"


def concentration(run: Run) -> str:
    """How few neurons hold how much of the total importance, and on how many pairs that rests."""
    shares = run.summary.get("topk_share") or {}
    listed = ", ".join(f"first {k}: {_percent(share)}" for k, share in shares.items())
    pairs = plural(int(run.summary.get("n_ranking_pairs") or 0), "pair")
    splits = ", ".join(words.SPLITS.get(s, s).lower() for s in run.summary.get("ranking_splits") or [])
    return (
        f"Ranked on {pairs} ({splits}). Share of the total importance |I|: {listed}."
        if listed
        else f"Ranked on {pairs} ({splits})."
    )


def preview_table(preview: pd.DataFrame) -> None:
    """Target and control strings as token ids, with the ones that are not one token flagged."""
    shown = preview.assign(
        ids=[", ".join(map(str, ids or [])) for ids in preview["ids"]],
        string=[charts.visible(str(text)) for text in preview["string"]],
    )
    rows = shown[["side", "string", "used", *(["note"] if shown["note"].fillna("").ne("").any() else []), "ids"]]
    exports.table(
        rows,
        key="watched_tokens",
        hide_index=True,
        height="content" if len(rows) < 9 else 320,
        alt="Target and control strings with their token ids",
        column_config={
            "side": st.column_config.TextColumn("Side", help=words.GLOSSARY["Target and control"], width=62),
            "string": st.column_config.TextColumn(
                "String", help="What the circuit's file asks for; ␣ is a space.", width=92
            ),
            "ids": st.column_config.TextColumn("Token ids", help="The ids this model's tokeniser gives the string."),
            "used": st.column_config.CheckboxColumn(
                "Used", help="Whether it takes part in the logit difference; only single tokens do.", width=50
            ),
            "note": st.column_config.TextColumn("Note", width=150, help="What to know about this string."),
        },
    )


def preview_flag(preview: pd.DataFrame) -> None:
    """A sentence when strings are not one token or are left out."""
    n = len(preview)
    strings = [(len(ids or []) > 1, bool(used)) for ids, used in zip(preview["ids"], preview["used"], strict=True)]
    split, by_first_piece = strings.count((True, False)), strings.count((True, True))
    otherwise = strings.count((False, False))
    parts = []
    if split:
        parts.append(f"{split} of {n} strings are more than one token and take no part")
    if by_first_piece:
        parts.append(f"{by_first_piece} of {n} strings are more than one token and stand for their first piece")
    if otherwise:
        parts.append(f"{otherwise} of {n} strings take no part for the reason in their note")
    if parts:
        st.caption(terms.said(f":material/flag: In this model {'; '.join(parts)}."))


def left_out(run: Run) -> None:
    """Pairs that could not be used, with the reason, and what is to be known about the model."""
    for note in run.summary.get("model_notes") or []:
        st.caption(f":material/info: {terms.marked(str(note))}")
    skipped = run.summary.get("skipped") or []
    if skipped:
        with st.expander(f"{plural(len(skipped), 'pair')} could not be used", icon=":material/info:"):
            text = st.column_config.TextColumn
            exports.table(
                pd.DataFrame(skipped)[["pair_id", "reason"]],
                key="pairs_left_out",
                hide_index=True,
                height="content" if len(skipped) < 6 else 320,
                row_height=64,  # three lines of a reason
                alt="Pairs that could not be used, with the reason",
                column_config={
                    "pair_id": text("Pair", help="The pair's name in the prompt set.", width=130),
                    "reason": text("Reason", help="Why nothing could be measured on it with this model."),
                },
            )


def token_rows(original: Sequence[str], perturbed: Sequence[str]) -> None:
    """The tokens of both prompts below each other, with the pieces that differ marked."""
    marks = difflib.SequenceMatcher(a=list(original), b=list(perturbed), autojunk=False).get_opcodes()
    changes = [mark for mark in marks if mark[0] != "equal"]
    in_original = {i for _, start, end, _, _ in changes for i in range(start, end)}
    in_perturbed = {i for _, _, _, start, end in changes for i in range(start, end)}
    for name, tokens, changed in (("Original", original, in_original), ("Perturbed", perturbed, in_perturbed)):
        chips = "".join(
            f'<span style="{CHIP};{MARKED if i in changed else ""}">{html.escape(charts.visible(token))}</span>'
            for i, token in enumerate(tokens)
        )
        st.caption(f"{name}: {plural(len(tokens), 'token')}, {len(changed)} of them different")
        st.html(f'<div style="line-height:1.9;font-family:monospace;font-size:.85rem">{chips}</div>')


def conversation(prompt: str, fallback: str) -> None:
    """A stored prompt (JSON text) as its chat turns; tools are named."""
    try:
        value = json.loads(prompt) if prompt else {}
    except (ValueError, TypeError):
        value = {}
    messages = value.get("messages") if isinstance(value, dict) else None
    for message in messages or [{"role": "user", "content": fallback}]:
        with st.chat_message("user", avatar=AVATARS.get(str(message.get("role")), ":material/settings:")):
            st.text(str(message.get("content", "")))
    tools = value.get("tools") if isinstance(value, dict) else None
    if tools:
        names = [str((tool.get("function") or tool).get("name", "?")) for tool in tools]
        st.caption(f"Tools offered: {', '.join(names)}")


def response(
    circuit: Circuit | None,
    text: Any,
    response_class: Any,
    title: str,
    *,
    pieces: Sequence[Piece] = (),
    changed: bool = False,
) -> None:
    """A generated answer with its class. Answers that go along with a harmful request stay folded until asked for.

    `pieces` are the answer's where it stands beside another, `changed` is that of a changed model's.
    """
    if text is None or pd.isna(text):
        st.caption(f"{title}: none was generated.")
        return
    known = {c.name: c for c in circuit.response_classes} if circuit else {}
    found = known.get(str(response_class))
    st.markdown(f"**{title}** :gray-badge[{found.title if found else response_class}]")
    fold = circuit is not None and circuit.response_rule == "refusal" and str(response_class) in FOLDED
    folded = st.expander("Show the compliant answer", icon=":material/visibility_off:") if fold else st.container()
    with folded:
        if pieces:
            marked.answer(pieces, changed=changed)
        else:
            st.text(str(text) or "(empty)")
