"""Charts of one reply of the playground: DataFrames in, a `Figure` out."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from pprobe_core.charts import (
    AS_IT_IS,
    MUTED,
    RANDOM,
    RANKED,
    Figure,
    as_figure,
    colour_legend,
    number,
    visible,
)

ARMS: Mapping[str, str] = {"unedited": "As it is", "edited": "Changed", "random": "Random change"}
ARM_COLOURS: Mapping[str, str] = {"unedited": AS_IT_IS, "edited": RANKED, "random": RANDOM}
SIDE_MARKS = {"target": "▲ ", "control": "▼ ", "other": ""}
LABEL_CHARS = 18
MOST_TOKENS, COMPACT_TOKENS = 10, 4
COMPACT_HEIGHT = 170
TOKENS_HEIGHT, LOGITS_HEIGHT = 330, 250  # whatever is drawn: nothing below moves when the next answer comes
SHOWN_FROM, SHOWN_AT_LEAST = (
    0.005,
    3,
)  # probability under some answer from which a token has bars; tokens that always do


def first_tokens(rows: pd.DataFrame, compact: bool = False) -> Figure:
    """Probabilities of the likeliest first tokens under each arm, those of target and control marked.

    `compact`: fewer of them, less high, for one screen with everything else.
    `rows`: token_id, token, side, arm (unedited, edited, random), probability (a fraction; missing where it broke).
    """
    best = rows.groupby("token_id", sort=False)["probability"].max()
    best = best.sort_values(ascending=False, kind="stable")
    at_most = COMPACT_TOKENS if compact else MOST_TOKENS
    kept = best.index[: min(at_most, max(SHOWN_AT_LEAST, int((best >= SHOWN_FROM).sum())))]
    table = rows[rows["token_id"].isin(kept)]
    labels = _labels(table)
    table = table.assign(label=table["token_id"].map(labels), answer=table["arm"].map(ARMS))
    arms = [arm for arm in ARMS if arm in set(rows["arm"])]
    names = [ARMS[arm] for arm in arms]
    places = [labels[token_id] for token_id in kept]
    base = alt.Chart(table).encode(
        y=alt.Y("label:N", sort=places, title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False)),
        yOffset=alt.YOffset("answer:N", scale=alt.Scale(domain=names, paddingInner=0.1)),
    )
    legend = colour_legend(names)
    if compact:
        legend.columns, legend.offset, legend.padding = len(names), 4, 0
    bars = base.mark_bar().encode(
        x=alt.X(
            "probability:Q",
            title=None if compact else "Probability of the first token",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
        ),
        color=alt.Color(
            "answer:N",
            scale=alt.Scale(domain=names, range=[ARM_COLOURS[arm] for arm in arms]),
            legend=legend,
        ),
        tooltip=[
            alt.Tooltip("label:N", title="Token"),
            alt.Tooltip("answer:N", title="Answer"),
            alt.Tooltip("probability:Q", title="Probability", format=".1%"),
            alt.Tooltip("side:N", title="Side"),
            alt.Tooltip("token_id:Q", title="Id"),
        ],
    )
    return as_figure(
        bars,
        _likeliest(table, arms),
        f"First tokens that reach {SHOWN_FROM:.1%} under some answer (the {at_most} likeliest at most); ▲ marks target "
        "tokens, ▼ control tokens, ␣ a space.",
        f"Bars of first-token probabilities: {', '.join(names).lower()}.",
        height=COMPACT_HEIGHT if compact else TOKENS_HEIGHT,
        omits="Does not show what follows the first token: read the answers.",
    )


def logit_diffs(rows: pd.DataFrame, target: str, control: str, compact: bool = False) -> Figure:
    """F as it is, changed, and under every random draw, on one line with zero marked.

    `rows`: arm, draw (missing but for random), logit_diff (logits; missing where the model broke).
    """
    table = rows.dropna(subset=["logit_diff"]).assign(answer=lambda r: r["arm"].map(ARMS))
    names = [ARMS[arm] for arm in ARMS if arm in set(rows["arm"])]
    y = alt.Y(
        "answer:N",
        scale=alt.Scale(domain=names),
        title=None,
        axis=alt.Axis(ticks=False, domain=False, grid=True, labelLimit=150),
    )
    x = alt.X("logit_diff:Q", title="Logit difference F (logits)", scale=alt.Scale(zero=True, nice=True))
    base = alt.Chart(table).encode(y=y, x=x)
    tooltip = [
        alt.Tooltip("answer:N", title="Answer"),
        alt.Tooltip("draw:Q", title="Random draw"),
        alt.Tooltip("logit_diff:Q", title="F", format="+.3f"),
    ]
    points = base.mark_point(filled=True, size=130, opacity=0.85).encode(
        color=alt.Color(
            "answer:N",
            legend=None,
            scale=alt.Scale(domain=names, range=[ARM_COLOURS[a] for a in ARMS if ARMS[a] in names]),
        ),
        shape=alt.Shape(
            "answer:N", legend=None, scale=alt.Scale(domain=names, range=["circle", "diamond", "square"][: len(names)])
        ),
        tooltip=tooltip,
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x=alt.X("zero:Q"))
    single = table[table["arm"] != "random"]
    text = (
        alt.Chart(single.assign(text=[number(v, signed=True) for v in single["logit_diff"]]))
        .mark_text(dy=-15, fontSize=13, color=MUTED)
        .encode(y=y, x=x, text=alt.Text("text:N"))
    )
    n = int((table["arm"] == "random").sum())
    beside = f"; the {n} grey marks are random changes of the same size" if n else ""
    return as_figure(
        alt.layer(zero, points, text),
        _moved(table),
        f"Right of zero the target tokens ({target}) are ahead, left of it the control tokens ({control}){beside}.",
        f"Points on one axis: {', '.join(names).lower()}.",
        height=COMPACT_HEIGHT if compact else LOGITS_HEIGHT,
        omits="Does not show what the change does to other prompts: Dose response and Injection window do.",
    )


def _labels(table: pd.DataFrame) -> dict[int, str]:
    """What every token reads as, its side marked; those that would read the same are told apart by their id."""
    first = table.drop_duplicates("token_id")
    read = {
        int(i): f"{SIDE_MARKS.get(side, '')}{_short(visible(str(token)))}"
        for i, token, side in zip(first["token_id"], first["token"], first["side"], strict=True)
    }
    twice = [label for label in read.values() if list(read.values()).count(label) > 1]
    return {i: f"{label} ({i})" if label in twice else label for i, label in read.items()}


def _short(text: str) -> str:
    return text if len(text) <= LABEL_CHARS else f"{text[: LABEL_CHARS - 1]}…"


def _likeliest(table: pd.DataFrame, arms: list[str]) -> str:
    """The likeliest first token under each arm."""
    best = {}
    for arm in arms:
        rows = table[(table["arm"] == arm) & table["probability"].notna()]
        if len(rows):
            row = rows.iloc[int(rows["probability"].to_numpy().argmax())]
            best[arm] = f"“{visible(str(row['token']))}” ({row['probability']:.0%})"
    if not best:
        return "There are no probabilities: the model's output is no number"
    parts = [best.get("unedited", "no number")]
    if "edited" in arms:
        parts.append(f"changed {best.get('edited', 'no number')}")
    if "random" in arms:
        parts.append(f"under a random change {best.get('random', 'no number')}")
    return f"Likeliest first token: {', '.join(parts)}"


def _moved(table: pd.DataFrame) -> str:
    """F before and after, and what the random draws give."""
    values = {arm: table[table["arm"] == arm]["logit_diff"] for arm in ARMS}
    if not len(values["unedited"]):
        return "The logit difference is no number here"
    before = float(values["unedited"].iloc[0])
    if not len(values["edited"]):
        return f"The logit difference F is {number(before, signed=True)}"
    title = f"F goes from {number(before, signed=True)} to {number(float(values['edited'].iloc[0]), signed=True)}"
    if not len(values["random"]):
        return title
    low, high = (number(float(v), signed=True) for v in (values["random"].min(), values["random"].max()))
    return f"{title}; random changes give {low if low == high else f'{low} to {high}'}"
