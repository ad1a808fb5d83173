"""Sharing what is on screen: its full link, its files, its code; and links whose result is not here."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from pprobe_core import report, snippets
from pprobe_core.comparison import CompareRequest
from pprobe_core.errors import BadRequest, PprobeError
from pprobe_core.interventions.requests import checked_sweep
from pprobe_core.interventions.types import SweepRequest
from pprobe_core.jobs import shape_of
from pprobe_core.models import catalogue
from pprobe_core.playground import Change
from pprobe_core.probing.types import ProbeRequest, tupled
from pprobe_core.store import Run, Store, Sweep, job_id_of
from ui import backend, job_panel, library, selection, shell, words

WHAT = {"circuit": "the behaviour", "prompts": "the prompt set"}
WAYS = {  # what an address may name in vain -> how it gets here, on which page, what leads there
    "circuit": ("Ask for its YAML file and import it on the Behaviours page.", shell.CIRCUITS, "Go to Behaviours"),
    "prompts": ("Ask for its file and add it on the Prompt sets page.", shell.PROMPTS, "Go to Prompt sets"),
}

# ---------------------------------------------------------------------------------------------------------- the link


def link(run: Run | None = None, sweep: Sweep | None = None, page: str | None = None) -> str:
    """The full address of what is on screen, with everything that another installation needs to make the same.

    It names the choices of the page, also those that the page made. `page` is another page to open it on.
    """
    state = st.session_state
    here = str(state.get("_page", ""))
    page = here if page is None else page
    address: dict[str, str] = {}
    if run is not None:
        address = {"run": run.run_id, **selection.request_in_words(run.request)}
    if sweep is not None:
        address |= {"sweep": sweep.sweep_id, "ask": _asked(sweep.request)}
    general = {"probe": ("ranking",), "compare": ("models", "circuits", "view")}.get(page, ())
    for key, choice in selection.known().items():
        text = selection.as_text(state.get(key))
        if key in address or key in selection.ABOUT or not (page in choice.pages or key in general):
            continue
        if choice.accepts(text) and text != selection.as_text(choice.default):
            address[key] = text
    root = str(st.context.url or "").partition("?")[0].rstrip("/").removesuffix(f"/{here}" if here else "")
    base = f"{root}/{page}"
    return f"{base}?{urlencode(address)}" if address else base


def _asked(request: SweepRequest) -> str:
    """A sweep's request as short JSON: its kind and what differs from the defaults."""
    values = {name: value for name, value in asdict(request).items() if value != getattr(SweepRequest, name, None)}
    return json.dumps({name: value for name, value in values.items() if name != "run_id"}, separators=(",", ":"))


def asked_probe() -> ProbeRequest:
    """The probe that the address asks for: its plain words, and what stands beyond them under `request`."""
    return replace(shell.request_from_pickers(), **_probe_wishes())


def _probe_wishes() -> Mapping[str, Any]:
    return selection.probe_wishes(str(st.session_state.get("request") or ""))


def asked_sweep(run: Run) -> SweepRequest | None:
    """The sweep that a link asks of a run; None where it names none that can be met here."""
    wishes = selection.sweep_wishes(str(st.session_state.get("ask") or ""))
    try:
        return checked_sweep(SweepRequest(run_id=run.run_id, **tupled(wishes)), shape_of(run)) if wishes else None
    except (TypeError, ValueError, AttributeError, BadRequest):
        return None


# --------------------------------------------------------------------------------------- the Share menu, the code


@st.fragment
@shell.calm_errors()
def share(run: Run, sweep: Sweep | None = None, page: str | None = None) -> None:
    """The Share menu of a run, or of one of its sweeps, and the code that makes the same; `page`: where to open it.

    Drawn again when the menu is opened, so that the link says what is on screen by then.
    """
    with st.container(horizontal=True, gap="small"):
        _share_menu(run, sweep, page)
        path = str(shell.store().path)
        code(
            snippets.sweep(run.request, sweep.request) if sweep else snippets.probe(run.request),
            "" if path == ":memory:" else snippets.stored_run(path, run.run_id, sweep.sweep_id if sweep else None),
        )


@st.fragment
@shell.calm_errors()
def share_playground(run: Run, prompt: str, change: Change) -> None:
    """The Share menu of the playground, and the code that asks the same."""
    with st.container(horizontal=True, gap="small"):
        _share_menu(run, None, None)
        plain = asdict(Change())
        code(
            snippets.playground(
                run.request, prompt, {name: v for name, v in asdict(change).items() if v != plain[name]}
            )
        )


def _share_menu(run: Run, sweep: Sweep | None, page: str | None) -> None:
    key = f"share_{sweep.sweep_id if sweep else run.run_id}"
    with _popover(key) as menu:
        if not menu.open:
            return
        _show_link(link(run, sweep, page))
        for lost in _not_in_the_link(run):
            st.caption(f":material/content_cut: {lost}")
        store, run_id, sweep_id = shell.store(), run.run_id, sweep.sweep_id if sweep else None
        names = (run_id, *([sweep_id] if sweep_id else []))
        _download(
            "Report (HTML)",
            lambda: run_report(store, run_id),
            report.file_name(run_id, suffix="html"),
            key,
            "The whole run with its sweeps as one file that opens in any browser, with no link to outside.",
        )
        _download(
            "reproduce.json",
            lambda: reproduce_file(store, run_id, sweep_id),
            report.file_name(*names, "reproduce", suffix="json"),
            key,
            "What it takes to compute this again elsewhere and to compare number by number: "
            "python -m pprobe_core reproduce FILE.",
        )


@st.fragment
@shell.calm_errors()
def share_comparison(request: CompareRequest) -> None:
    """The Share menu of a comparison, and the code that makes the same."""
    with st.container(horizontal=True, gap="small"):
        _share_comparison_menu(request)
        code(snippets.comparison(request))


def _share_comparison_menu(request: CompareRequest) -> None:
    key = f"share_{job_id_of(request)[:12]}"
    with _popover(key) as menu:
        if not menu.open:
            return
        _show_link(link())
        store = shell.store()
        name = report.file_name("compare", job_id_of(request)[:12], suffix="html")
        _download(
            "Report (HTML)",
            lambda: comparison_report(store, request),
            name,
            key,
            "The whole comparison as one file that opens in any browser, with no link to outside.",
        )
        _download(
            "reproduce.json",
            lambda: reproduce_comparison(store, request),
            report.file_name("compare", job_id_of(request)[:12], "reproduce", suffix="json"),
            key,
            "What it takes to compute every part again elsewhere: python -m pprobe_core reproduce FILE.",
        )


def _popover(key: str) -> Any:
    return st.popover(
        "Share", icon=":material/share:", help="Copy the link to what is on screen, or save a report of it.",
        key=key, on_change="rerun",
    )  # fmt: skip


def _show_link(address: str) -> None:
    st.markdown("**Link to what is on screen**")
    st.code(address, language=None, wrap_lines=True)
    st.caption(
        "It opens on this computer. On another one with pprobe change the first part to its own address: where the "
        "result is not there, the page says what is missing and can compute it."
    )


def _not_in_the_link(run: Run) -> list[str]:
    """What is on screen and too long for an address, and how it can be passed on."""
    lost = []
    if not selection.request_in_words(run.request):
        lost.append(
            "The tokens that this run was asked with are too long for a link: it opens the run where it is, and cannot "
            "ask for it elsewhere. Send `reproduce.json` with it."
        )
    if st.session_state.get("_page") == "playground" and selection.too_long("play_text"):
        n = len(selection.as_text(st.session_state["play_text"]))
        lost.append(
            f"The text that the model is asked has {n:,} characters. A link holds {selection.MAX_TEXT_CHARS:,}, so it "
            "is not in this one: copy it by hand and send it along."
        )
    return lost


def _download(label: str, data: Callable[[], str], name: str, key: str, help_text: str) -> None:
    st.download_button(
        label, data, file_name=name, mime="text/html" if name.endswith("html") else "application/json",
        key=f"{key}_{label}", help=help_text, on_click="ignore", icon=":material/download:", width="stretch",
    )  # fmt: skip


def run_report(store: Store, run_id: str) -> str:
    """The HTML report of a run."""
    from pprobe_core import html_report

    return html_report.run_html(store, run_id)


def comparison_report(store: Store, request: CompareRequest) -> str:
    """The HTML report of a comparison as far as it is there."""
    from pprobe_core import compare_frames, html_report

    return html_report.comparison_html(store, compare_frames.compared(store, request))


def reproduce_file(store: Store, run_id: str, sweep_id: str | None) -> str:
    """The text of a reproduce.json."""
    from pprobe_core.reproduction import document_text, reproduce_json

    return document_text(reproduce_json(store, run_id, sweep_id))


def reproduce_comparison(store: Store, request: CompareRequest) -> str:
    """The text of a comparison's reproduce.json, as far as it is there."""
    from pprobe_core import compare_frames
    from pprobe_core.reproduction import comparison_json, document_text

    return document_text(comparison_json(store, compare_frames.compared(store, request)))


def code(lines: str, reading: str = "", note: str = "the numbers are those of this page") -> None:
    """The few lines that do this step in a notebook, and those that read its result from the results file."""
    with st.popover("Code", icon=":material/code:", help="The lines that do this step in Python, without this page."):
        st.markdown("**The same in a notebook**")
        st.code(lines, language="python")
        st.caption(f"Run it in the project's folder with its environment; {note}.")
        if reading:
            st.markdown("**Reading this result instead of computing it**")
            st.code(reading, language="python")


# ------------------------------------------------------------------------------------------- links to what is not here


def is_here(page: Any) -> bool:
    """Whether the run that the address names is in the results file; if not, say what is missing, what can be done.

    A behaviour or prompt set that is named without a run is said above the page, which then shows what is here.
    """
    run_id, of_run = str(st.session_state.get("run") or ""), page.url_path in selection.RESULT_PAGES
    if page.url_path == "" or (of_run and not run_id):
        _missing_choices()
    if not of_run or not run_id or shell.store().has_run(run_id):
        return True
    _missing_run(run_id)
    return False


def _missing_choices() -> None:
    """The behaviour and the prompt set that the address names and this computer lacks, and how they get here."""
    for key, text in selection.not_here("circuit", "prompts").items():
        name, (how, page, label) = shell.escaped(shell.readable_name(text)), WAYS[key]
        with st.container(border=True, key=f"missing_{key}"):
            st.markdown(
                f":material/info: The link names {WHAT[key]} **{name}**, which is not on this computer. {how} Until "
                "then the page shows what is here."
            )
            with st.container(horizontal=True, vertical_alignment="center"):
                st.page_link(page, label=label, icon=":material/arrow_forward:")
                st.button(
                    "Go on without it",
                    key=f"without_{key}",
                    on_click=selection.let_go,
                    args=(key,),
                    help="Takes it out of the address.",
                )


def missing_runs(ids: Collection[str]) -> None:
    """Where the address names runs to compare that are not among `ids`: say so, and what can be done."""
    for key in ("run_a", "run_b"):
        selection.keep_offered(key, ids)
    if lacking := selection.not_here("run_a", "run_b"):
        named = " and ".join(f"`{run_id}`" for run_id in dict.fromkeys(lacking.values()))
        st.info(
            f"The comparison names what is not in this results file: run {named}, made on another computer or deleted. "
            "Runs that are here stand in its place. A link from the **Share** menu of the run itself, or its "
            "`reproduce.json`, lets it be computed here.",
            icon=":material/info:",
        )


def _missing_run(run_id: str) -> None:
    state = st.session_state
    st.title("This result is not here", anchor=False)
    with st.container(border=True, key="missing_run"):
        st.markdown(
            f"The link shows run `{run_id}`, which is not in this results file. It was made on another computer, or "
            "it has been deleted."
        )
        if all(st.query_params.get(key) for key in ("model", "circuit", "prompts")):
            _what_it_takes(run_id)
        else:
            st.markdown(
                "The link does not say what was asked for. A link from the **Share** menu does; so does a "
                "`reproduce.json` from there, which `python -m pprobe_core reproduce FILE` computes again."
            )
    with st.container(horizontal=True):
        if not shell.runs().empty and st.button(
            "Look at a run that is here",
            key="forget_link",
            icon=":material/arrow_forward:",
            help="Leave the link and show the newest run of this results file.",
        ):
            state["run"] = state["sweep"] = state["ask"] = state["request"] = ""
            selection.let_go()
            st.rerun()
        st.page_link(shell.START, label="Go to Start", icon=":material/home:")


def _what_it_takes(run_id: str) -> None:
    """Which of model, behaviour and prompts are here; the button that computes the run where all three are."""
    elsewhere = selection.not_here("circuit", "prompts")
    request = asked_probe()
    version = str(_probe_wishes().get("circuit") or "")  # of an own behaviour, which its owner may change
    behaviour = version or elsewhere.get("circuit") or request.circuit
    as_now = library.circuits().get(version.partition("@")[0]) if library.circuit_of(behaviour) is None else None
    lacking, differing = dict[str, str](), dict[str, str]()
    if as_now is not None:
        request, behaviour = replace(request, circuit=as_now.address), as_now.address
        differing["Behaviour"] = (
            f"is here in another version than the link's ({version.partition('@')[2]}), so the run will be another. "
            "For the same one ask for the YAML file of that version and import it on the Behaviours page."
        )
    elif library.circuit_of(behaviour) is None:
        lacking["Behaviour"] = f"it is not here. {WAYS['circuit'][0]}"
    if "prompts" in elsewhere:
        lacking["Prompt set"] = f"it is not here. {WAYS['prompts'][0]}"
    try:
        catalogue.find_model(request.model)
    except PprobeError as error:
        lacking["Model"] = str(error)
    named = {
        "Model": request.model,
        "Behaviour": library.circuit_title(behaviour),
        "Prompt set": elsewhere.get("prompts") or words.PROMPT_SETS.get(request.prompts, request.prompts),
    }
    for name, value in named.items():
        value = shell.escaped(shell.readable_name(value))
        if name in lacking:
            st.markdown(f":material/cancel: **{name}** {value}: {shell.escaped(lacking[name])}")
        elif name in differing:
            st.markdown(f":material/info: **{name}** {value} {shell.escaped(differing[name])}")
        else:
            st.markdown(f":material/check_circle: **{name}** {value} is here.")
    if lacking:
        with st.container(horizontal=True):
            for name, key in (("Behaviour", "circuit"), ("Prompt set", "prompts")):
                if name in lacking:
                    st.page_link(WAYS[key][1], label=WAYS[key][2], icon=":material/arrow_forward:")
        st.caption("When it is here, open the link again: then the run can be computed on this computer.")
    else:
        _compute(request, run_id)


def _compute(request: ProbeRequest, run_id: str) -> None:
    """The button that asks for the same run, its progress, and where it went when other weights gave another run."""
    found = shell.store().run_of(request)
    if found is not None and shell.store().run(found).request.generate != request.generate:
        found = None  # with answers where the link's has none, or the other way round
    job = backend.find_job(job_id_of(request))
    if job is not None and job.state in job_panel.ACTIVE:
        job_panel.watch_job(job.job_id)
        return
    if job is not None and job.state == "failed":
        st.error(f"The last try failed: {shell.escaped(str(job.error))}", icon=":material/error:")
    if found is not None and found != run_id:
        st.info(
            f"The same request has been computed here as run {found}. The number is another because the weights, the "
            "prompts, the version of the behaviour or of the engine are not the same, or the kind of device.",
            icon=":material/info:",
        )
        if st.button("Show that run", key="show_other", type="primary", help="Show the run of this computer."):
            selection.show_run(found)
            st.rerun()
        return
    if st.button(
        "Compute it here",
        key="compute_link",
        type="primary",
        icon=":material/play_arrow:",
        help="Run the same request on this computer. With the same weights, prompts and behaviour it gives the run of "
        "the link.",
    ):
        job_panel.submit(request)
        st.rerun()
    if refused := st.session_state.pop("refused", None):
        st.error(shell.escaped(refused), icon=":material/error:")


def missing_sweep(run: Run, shown: Sweep | None) -> None:
    """Where the sweep that the address names is not in the results file: say so, and offer to compute it."""
    wanted = str(st.session_state.get("sweep") or "")
    if not wanted or (shown is not None and shown.sweep_id == wanted):
        return
    request = asked_sweep(run)
    with st.container(border=True, key="missing_sweep"):
        st.markdown(
            f":material/info: The link shows sweep `{wanted}` of this run, which is not here."
            + (" Another sweep of the run is shown below." if shown is not None else "")
        )
        if request is None:
            return
        kind = words.SWEEP_KINDS[request.kind]
        job = backend.find_job(job_id_of(request))
        if job is not None and job.state in job_panel.ACTIVE:
            job_panel.watch_job(job.job_id)
        elif st.button(
            f"Compute it here ({kind.lower()})",
            key="compute_sweep",
            icon=":material/play_arrow:",
            help="Run the same sweep on this computer.",
        ):
            job_panel.submit(request)
            st.rerun()
