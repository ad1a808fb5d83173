"""The answers of a sweep: classes and rates at one point, the same prompts before and after, a person's labels."""

from typing import Any

import pandas as pd
import streamlit as st

from pprobe_core import charts, sweep_report
from pprobe_core.circuits.responses import side_of
from pprobe_core.circuits.schema import Circuit
from pprobe_core.difference import answers_difference
from pprobe_core.interventions.types import BASELINE_KEY, without_split
from pprobe_core.store import Run, Sweep
from pprobe_core.wording import plural
from ui import cards, exports, shell, sweeps, tables, terms, words


def class_rows(sweep: Sweep, circuit: Circuit | None, key: str) -> pd.DataFrame:
    """Answers per class at one point: the unedited model's, the edited one's, and those of its random draws."""
    frame = sweeps.points(sweep)
    ranked = frame[frame["key"] == key].iloc[0]
    group = without_split(str(ranked["group"]))
    draws = frame[(frame["arm"] == "random") & frame["group"].str.startswith(f"{group}/")]["key"].unique()
    found = sweeps.answers(sweep, [BASELINE_KEY, key, *draws])
    titles = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    parts = []
    for when, keys in (("unedited", [BASELINE_KEY]), ("edited", [key]), ("random", list(draws))):
        counts = found[found["key"].isin(keys)]["class_name"].value_counts()
        for name, n in counts.items():
            side = side_of(circuit, str(name), sweep.request.condition) if circuit else "other"
            parts.append({"when": when, "class_title": titles.get(str(name), str(name)), "side": side, "n": int(n)})
    return pd.DataFrame(parts, columns=["when", "class_title", "side", "n"])


def outcome_table(sweep: Sweep, key: str) -> None:
    """Every rate at one point: before, after, interval and McNemar's test, per split; by labels too, once there are."""
    at_point = sweeps.rates(sweep)
    at_point = at_point[at_point["key"] == key]
    has_labels = bool(shell.store().label_state(sweep.sweep_id))
    if has_labels:
        mine = sweeps.rates(sweep, use_labels=True)
        mine = mine[mine["key"] == key].rename(columns={"share": "labelled"})[["outcome", "split", "labelled"]]
        at_point = at_point.merge(mine, on=["outcome", "split"], how="left")
    order = {split: place for place, split in enumerate(sweeps.EMPTY_SPLITS)}
    at_point = at_point.sort_values("split", key=lambda splits: splits.map(order), kind="stable")
    rows = at_point.assign(
        split=at_point["split"].map(words.SPLITS).fillna(at_point["split"]),
        before=100 * at_point["n_before"] / at_point["n"],
        after=100 * at_point["share"],
        interval=[
            "–" if pd.isna(low) or pd.isna(high) else f"{100 * low:.0f} to {100 * high:.0f} %"
            for low, high in zip(at_point["low"], at_point["high"], strict=True)
        ],
        labelled=100 * at_point["labelled"] if has_labels else None,
    )
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    columns = ["title", "split", "n", "before", "after", "interval", "labelled", "p_holm"]
    exports.table(
        rows[[name for name in columns if name != "labelled" or has_labels]],
        hide_index=True,
        height=230,
        key="outcome_table",
        alt="Rates of the answers at this point",
        column_config={
            "title": text("What is counted", help=words.HELP["outcome"]),
            "split": text("Split", help=words.HELP["split"], width=86),
            "n": number("n", help="Answers.", width=44),
            "before": number("Before", format="%.0f %%", help="Share without the edit.", width=64),
            "after": number("After", format="%.0f %%", help="Share with the edit.", width=60),
            "interval": text("95 %", help="Interval of the share after (Wilson; over prompts with seeds).", width=90),
            "labelled": number("By labels", format="%.0f %%", help="Share after, with your labels.", width=70),
            "p_holm": number("p, Holm", format="%.3f", help=words.GLOSSARY["McNemar's test"]),
        },
    )


def before_after(run: Run, sweep: Sweep, circuit: Circuit | None, key: str, place: str) -> None:
    """The same prompts before and after one edit, changed classes first; one row in full, with room for a label."""
    found = sweeps.answers(sweep, [BASELINE_KEY, key])
    if found.empty:
        st.info("This sweep holds no answers. Tick *Read the answers too* and run it again.", icon=":material/info:")
        return
    seed = int(found["seed"].min())
    found = found[found["seed"] == seed]
    old = found[found["key"] == BASELINE_KEY].set_index("pair_id")
    new = found[found["key"] == key].set_index("pair_id")
    rows = old.add_suffix("_before").join(new.add_suffix("_after"), how="inner").reset_index()
    if rows.empty:
        st.info("There are no answers at this point.", icon=":material/info:")
        return
    classes = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    prompts = shell.read("pairs", run.run_id).set_index("pair_id")[f"{sweep.request.condition}_text"]
    for when in ("before", "after"):
        rows[f"shown_{when}"] = rows[f"label_{when}"].fillna(rows[f"class_name_{when}"])
    rows["changed"] = rows["shown_before"] != rows["shown_after"]
    rows["prompt"] = rows["pair_id"].map(prompts)
    rows["split"] = rows["split_before"].map(words.SPLITS).fillna(rows["split_before"])
    rows = rows.sort_values(["changed", "split_before", "pair_id"], ascending=[False, False, True]).reset_index(
        drop=True
    )
    text = st.column_config.TextColumn
    ids = [str(pair_id) for pair_id in rows["pair_id"]]
    exports.table(
        rows.assign(
            shown_before=rows["shown_before"].map(lambda c: classes.get(c, c)),
            shown_after=rows["shown_after"].map(lambda c: classes.get(c, c)),
        )[["changed", "prompt", "shown_before", "shown_after", "split"]],
        hide_index=True,
        height=300,
        key=f"answers_{place}",
        on_select=lambda: tables.take_over_tick(f"answers_{place}", ids),
        selection_mode="single-row",
        alt="Prompts with the class of the answer before and after the edit",
        column_config={
            "changed": st.column_config.CheckboxColumn("Changed", help="The class of the answer is another.", width=80),
            "prompt": text("Prompt", help="Last user turn of the edited prompt.", width="large"),
            "shown_before": text("Before", help="Class of the unedited model's answer."),
            "shown_after": text("After", help="Class of the edited model's answer."),
            "split": text("Split", help=words.HELP["split"]),
        },
    )
    n_changed = int(rows["changed"].sum())
    st.caption(
        f"{n_changed} of {len(rows)} answers change class (all splits). Tick a row to read both answers in full; where "
        "they share words, those that the other one lacks are underlined."
    )
    row = rows.iloc[tables.pair_picker(ids, [str(prompt) for prompt in rows["prompt"]])]
    _in_full(sweep, circuit, key, seed, row, place)


def _in_full(sweep: Sweep, circuit: Circuit | None, key: str, seed: int, row: pd.Series, place: str) -> None:
    with st.container(border=True, key=f"in_full_{place}"):
        st.markdown("**Prompt**")
        st.text(str(row["prompt"]))
        sides = answers_difference(row["text_before"], row["text_after"])
        for column, when, answer_key, pieces in zip(
            st.columns(2, gap="large"), ("before", "after"), (BASELINE_KEY, key), sides, strict=True
        ):
            with column:
                cards.response(
                    circuit,
                    row[f"text_{when}"],
                    row[f"class_name_{when}"],
                    "Unedited" if when == "before" else "Edited",
                    pieces=pieces,
                    changed=when == "after",
                )
                _label(sweep, circuit, answer_key, str(row["pair_id"]), seed, row[f"label_{when}"], f"{place}_{when}")


def _label(sweep: Sweep, circuit: Circuit | None, key: str, pair_id: str, seed: int, label: Any, place: str) -> None:
    """A person's word on one answer."""
    classes = {c.name: c.title for c in circuit.response_classes} if circuit else {}
    options = ["", *classes]
    widget = f"label_{place}_{sweep.sweep_id}_{key}_{pair_id}"
    current = label if isinstance(label, str) and label in classes else ""

    def store_it() -> None:
        chosen = st.session_state[widget] or None
        shell.store().add_label(sweep.sweep_id, key, pair_id, seed, chosen)

    st.selectbox(
        "Your label",
        options,
        index=options.index(current),
        key=widget,
        format_func=lambda name: classes.get(name, "as the rules say"),
        help=words.HELP["label"],
        on_change=store_it,
        width=260,
    )


def agreement(sweep: Sweep) -> None:
    """How far rules and labels agree, once there are labels."""
    found = sweep_report.kappa(shell.store(), sweep.sweep_id)
    if found is None:
        st.caption("No answer was labelled by hand yet; the classes are those of the rules.", help=words.HELP["label"])
        return
    st.caption(
        terms.said(
            f"Labelled by hand: {plural(found.n, 'answer')}; rules and labels agree on {found.n_agree} of them "
            f"(95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %), Cohen's kappa "
            f"{charts.number(found.kappa)} ({shell.interval((found.kappa_low, found.kappa_high))}). "
            "The rates use the rules unless *Use my labels* is ticked."
        ),
        help=words.GLOSSARY["Cohen's kappa"],
    )
