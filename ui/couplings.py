"""The section of the Probe page about normalisation: what either coupling makes of the FFNs' change."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from pprobe_core import charts
from pprobe_core.coupling_charts import FOLD, coupling_sums, coupling_title, couplings_agree, has_couplings
from pprobe_core.store import Run
from pprobe_core.wording import plural
from ui import shell, terms, words


def normalisation(run: Run) -> None:
    """A chart where the two couplings tell different stories, a sentence where they agree or nothing is known."""
    couplings = run.summary.get("couplings") or {}
    if not has_couplings(run.summary):
        st.caption(
            terms.marked(
                "This run was stored before the two couplings were compared. To see them, delete the run on the Runs "
                "page and run it again."
            )
        )
        return
    ranks = couplings["ranks"]
    if couplings_agree(couplings):
        st.markdown(
            terms.marked(
                f"Hardly. {coupling_title(couplings)}, and {ranks['overlap']} of the first {ranks['top']} neurons are "
                "the same with either."
            ),
            help=words.GLOSSARY["Normalisation"],
        )
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        shell.figure(lambda: coupling_sums(run.summary["layers"], couplings), key="couplings", of=run.run_id)
    with right:
        seen: set[str] = set()
        for sentence in _sentences(couplings):
            st.markdown(terms.marked(sentence, seen=seen))
        st.caption(terms.said(words.GLOSSARY["Normalisation"], seen=seen | {"Normalisation"}))


def _sentences(couplings: Mapping[str, Any]) -> list[str]:
    """What the chart means, in plain words, with what the ranking of neurons makes of it."""
    plain, aware, ranks = couplings["plain"], couplings["norm_aware"], couplings["ranks"]
    n_norms, n_layers = couplings["n_post_norms"], couplings["n_layers"]
    where = (
        f"This model rescales each FFN's output before it is added to the stream ({n_norms} of {n_layers} layers), and "
        "the stream itself before the output."
        if n_norms
        else "This model rescales the stream before the output; what an FFN adds to the stream is not rescaled."
    )
    return [where, *_about_size(plain["size"]), *_about_original(plain, aware), *_about_ranks(ranks)]


def _about_size(size: float | None) -> list[str]:
    if size is None:
        return []
    times = charts.number(size, 1 if size < 10 else 0)
    if size >= FOLD:
        return [
            f"By their weights alone the neurons would move the decision {times} times as much as the FFNs do: "
            "normalisation takes the rest away. The paper calls such a circuit normalisation-shielded."
        ]
    if size <= 1 / FOLD:
        return [
            f"By their weights alone the neurons would move the decision only {times} times as much as the FFNs do: "
            "normalisation makes them stronger, and plain coupling hides that."
        ]
    return ["In size the plain sums are off by less than a factor of two."]


def _about_original(plain: Mapping[str, Any], aware: Mapping[str, Any]) -> list[str]:
    missed = [values["missed_original"] for values in (aware, plain) if values.get("missed_original") is not None]
    if len(missed) < 2:
        return []
    exact, off = (f"{100 * share:.1f} %" for share in missed)
    return [
        f"On the original prompts alone, where no scale changes, the norm-aware neurons miss {exact} of what the FFNs "
        f"write, the plain ones {off}."
    ]


def _about_ranks(ranks: Mapping[str, Any]) -> list[str]:
    if ranks["overlap"] is None:
        return []
    return [
        f"{ranks['overlap']} of the first {ranks['top']} neurons are the same with either coupling (chance: "
        f"{charts.number(ranks['chance'], 1)}); over all {ranks['n_neurons']:,} neurons the two orders agree with "
        f"Spearman's rho {charts.number(ranks['spearman'])} ({plural(ranks['n_pairs'], 'ranking pair')})."
    ]
