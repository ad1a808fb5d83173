"""The frame around every page: page settings, navigation, selections from the address, sidebar."""

from pathlib import Path

import streamlit as st

from ui import exports, job_panel, login, presenter, selection, sharing, shell, tour

HERE = Path(__file__).parent
# The icon is a file of ours: for a named one the browser would ask another server.
st.set_page_config(page_title="pprobe", page_icon=HERE / "icon.svg", layout="wide", initial_sidebar_state="auto")

st.logo(str(HERE / "logo.svg"), size="large")
page = st.navigation(
    sections := {
        "Explore": [
            st.Page("../pages/start.py", title="Start", icon=":material/home:", default=True),
            st.Page("../pages/playground.py", title="Playground", icon=":material/tune:", url_path="playground"),
        ],
        "Results": [
            st.Page("../pages/probe.py", title="Probe", icon=":material/query_stats:", url_path="probe"),
            st.Page("../pages/dose.py", title="Dose response", icon=":material/show_chart:", url_path="dose"),
            st.Page("../pages/window.py", title="Injection window", icon=":material/grid_on:", url_path="window"),
            st.Page("../pages/controls.py", title="Controls", icon=":material/fact_check:", url_path="controls"),
            st.Page("../pages/compare.py", title="Compare", icon=":material/compare:", url_path="compare"),
        ],
        "Your own": [
            st.Page("../pages/circuits.py", title="Behaviours", icon=":material/category:", url_path="circuits"),
            st.Page("../pages/prompts.py", title="Prompt sets", icon=":material/playlist_add:", url_path="prompts"),
        ],
        "Library": [
            st.Page("../pages/runs.py", title="Runs", icon=":material/history:", url_path="runs"),
            st.Page("../pages/glossary.py", title="Glossary", icon=":material/menu_book:", url_path="glossary"),
        ],
    }
)
pages = [one for section in sections.values() for one in section]
with shell.calm_errors():
    login.require_login(page, pages)
    selection.sync(page.url_path)
    exports.forget()
    presenter.style()
    tour.begin(page)
    job_panel.turn_to(page.url_path)
    with st.sidebar, st.container(key="ways", gap=None):
        tour.button()
        presenter.button()
        tour.remember()
    job_panel.sidebar()
    if presenter.on():
        presenter.bar(page, pages)
    else:
        tour.card(page)
    if sharing.is_here(page):
        page.run()
