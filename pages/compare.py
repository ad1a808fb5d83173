"""Compare: several models side by side, on any behaviours. What is there, what is missing, what differs, how sure."""

import streamlit as st

from pprobe_core import charts, compare_charts, compare_stats, compare_words, paper
from pprobe_core.store import job_id_of
from pprobe_core.wording import plural
from ui import comparing, exports, library, recorded, selection, sharing, shell, terms, words

QUANTITIES = ("lens_after_ffn", "ffn", "attention", "skip", "ffn_skip")

st.title("How do models differ?")
st.markdown(
    terms.marked(
        "Choose two to six models and any behaviours. The same probe and the same tests run on each of them, one model "
        "after the other; what was run before is used again."
    )
)
request = comparing.pickers()
if request is None:
    st.stop()
found = comparing.compared(request)
comparing.state_of(request, found)
if not found.runs:
    st.info(
        "Nothing of this comparison has been run yet. Press **Run what is missing**; results appear as they are made.",
        icon=":material/hourglass_empty:",
    )
    st.stop()
recorded.comparison_line(found)
if comparing.other_prompt_sets(found):
    st.caption(
        terms.said(
            ":material/warning: These models were probed on different prompt sets, so their numbers do not rest on the "
            "same prompts."
        )
    )

frames = comparing.Frames(found)
exports.measured_on(
    f"compare-{job_id_of(request)[:12]}",
    f"Comparison of {', '.join(found.label(model) for model in request.models)}",
    plural(len(found.runs), "run"),
)
models = frames.models
circuits = [c for c in request.circuits if any(c == of for _, of in found.runs)]
quoted = [*found.labels.values(), *shell.own_words()]  # in the sentences below

sharing.share_comparison(request)

st.session_state.setdefault("view", "overview")
view = st.segmented_control(
    "Look at",
    list(words.COMPARE_VIEWS),
    key="view",
    format_func=lambda v: words.COMPARE_VIEWS[v],
    required=True,
    help=words.HELP["compare_view"],
    persist_state="session",
)


def in_words(test: compare_stats.Opposition) -> str:
    """Whether alignment creates a circuit."""
    return compare_words.opposition_sentence(test, library.circuit_title(test.circuit))


PER_CIRCUIT = ("layers", "neurons", "dose", "window", "alignment", "words")
if view in PER_CIRCUIT:
    selection.start_at("shown_circuit", circuits, circuits[0])
    circuit = st.selectbox(
        "Behaviour",
        circuits,
        key="shown_circuit",
        format_func=library.circuit_title,
        help=words.HELP["circuit"],
        width=420,
        persist_state="session",
    )
with_paper = view in ("overview", "dose", "window", "fit") and st.toggle(
    "Show the paper's numbers", key="with_paper", help=words.HELP["with_paper"], persist_state="session"
)

if view == "overview":
    ratios = frames.read("ratios")
    shell.figure(lambda: compare_charts.ratio_matrix(ratios, models, circuits), key="ratio_matrix")
    shell.figure(
        lambda: compare_charts.ratio_intervals(ratios, models, circuits, with_paper=with_paper),
        key=f"ratios_{with_paper}",
    )
    shell.folded("The numbers as a table", ":material/table:", "ratios_as_table", lambda: comparing.ratio_table(ratios))
elif view == "layers":
    quantity = st.segmented_control(
        "Quantity",
        QUANTITIES,
        key="compare_quantity",
        format_func=lambda q: words.QUANTITIES[q],
        required=True,
        help=words.HELP["quantity"],
    )
    scaled = quantity != "ffn_skip" and st.toggle(
        "In units of each model's own change", key="compare_scaled", help=words.HELP["scaled"]
    )
    profile = frames.read("profile", quantity)
    chosen = profile[profile["label"].isin(found.label(m) for m in request.models)]  # lines of six models are too many
    shell.figure(
        lambda: compare_charts.depth_profile(chosen, models, circuit, quantity, scaled=scaled),
        key=f"profile_{quantity}_{circuit}_{scaled}",
    )
elif view == "neurons":
    shell.figure(
        lambda: compare_charts.topology_bars(frames.read("topology"), models, circuit), key=f"topology_{circuit}"
    )
    shell.figure(lambda: compare_charts.layer_heat(frames.read("top_layers"), models, circuit), key=f"heat_{circuit}")
elif view == "dose":
    doses = frames.read("doses", circuit)
    if doses.empty:
        comparing.no_sweep("dose")
    else:
        left, right = st.columns(2)
        value = left.segmented_control(
            "Measured by",
            ["relative", "changed"],
            key="dose_value",
            format_func=lambda v: words.EFFECTS[v],
            required=True,
            help=words.HELP["dose_value"],
        )
        axis = right.segmented_control(
            "Dose as",
            ["n_neurons", "fraction"],
            key="dose_axis",
            format_func=lambda a: words.DOSE_AXES[a],
            required=True,
            help=words.HELP["dose_axis"],
        )
        shell.figure(
            lambda: compare_charts.dose_overlay(doses, models, circuit, axis, value, with_paper=with_paper),
            key=f"doses_{circuit}_{axis}_{value}_{with_paper}",
        )
elif view == "window":
    windows = frames.read("windows", circuit)
    if windows.empty:
        comparing.no_sweep("window")
    else:
        towards = windows["toward_other"].fillna(1).astype(float)
        strengths = sorted((windows["strength"] * towards).dropna().unique())
        selection.start_at("compare_strength", strengths, min(strengths, key=lambda s: abs(s - 1)))
        strength = st.select_slider(
            "Strength, towards the other prompts",
            strengths,
            key="compare_strength",
            format_func=lambda s: charts.number(s),
            help=words.HELP["compare_strength"],
        )
        shell.figure(
            lambda: compare_charts.window_overlay(windows, models, circuit, strength, with_paper=with_paper),
            key=f"windows_{circuit}_{strength}_{with_paper}",
        )
elif view == "alignment":
    twins = frames.read("twins")
    if twins.empty:
        st.info(
            "None of these models has its model before alignment probed. Turn **With base models** on and press **Run "
            "what is missing**; of hub models those of the catalogue with a known base have one.",
            icon=":material/info:",
        )
    else:
        for test in comparing.twin_tests(frames):
            if test.circuit == circuit:
                st.markdown(f"- {terms.marked(in_words(test), quoted)}")
        shell.figure(lambda: compare_charts.opposition_pairs(twins, models, circuit), key=f"twins_{circuit}")
        with st.expander("All behaviours in words", icon=":material/list:"):
            comparing.sentences([in_words(test) for test in comparing.twin_tests(frames)], quoted)
elif view == "overlap":
    labels = [found.label(m) for m in dict.fromkeys(model for model, _ in found.runs)]
    selection.start_at("overlap_model", labels, labels[0])
    label = st.selectbox("Model", labels, key="overlap_model", help=words.HELP["overlap_model"], width=420)
    overlap = frames.read("overlaps", comparing.model_of(found, label))
    if overlap.empty:
        st.info("Two behaviours of this model must have been run to see what they share.", icon=":material/info:")
    else:
        shell.figure(lambda: compare_charts.overlap_matrix(overlap, label), key=f"overlap_{label}")
        with st.expander("In words", icon=":material/list:"):
            rows = overlap.sort_values("n_shared", ascending=False).to_dict("records")
            comparing.sentences([compare_words.overlap_sentence(row) for row in rows], quoted)
elif view == "fit":
    points = frames.read("fit_points")
    if points.empty:
        comparing.no_sweep("dose")
    else:
        log_x = st.toggle("Logarithm of the ratio", key="fit_log", help=words.HELP["fit_log"])
        fit = compare_stats.fit(points, log_x=log_x, seed=request.seed)
        st.markdown(terms.marked(compare_words.fit_sentence(fit, len(points)), quoted))
        shell.figure(
            lambda: compare_charts.fit_scatter(points, models, fit, circuits, with_paper=with_paper),
            key=f"fit_{log_x}_{with_paper}",
        )
else:
    sentences = frames.read("sentences")
    shown = sentences[sentences["circuit"] == circuit]
    comparing.sentences(list(shown["sentence"]), quoted)
    if many := compare_words.many_words(int(sentences["clear"].notna().sum())):
        st.caption(terms.marked(many))

if with_paper:
    st.caption(
        f"Grey marks named “paper” are numbers of {paper.PAPER}, measured on other models; none was computed here."
    )
