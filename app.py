"""Entry point of the dashboard: `streamlit run app.py`, or `python3 run.py`, which also sets everything up."""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))


@contextlib.asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    """Start the worker before any browser connects, so that interrupted jobs go on and a first run is there to see."""
    from ui import backend, drawing

    drawing.quickly()
    backend.open_dashboard()
    yield
    backend.close_dashboard()


app = st.App(ROOT / "ui" / "main.py", lifespan=lifespan)
