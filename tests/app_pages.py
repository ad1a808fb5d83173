"""A page of the dashboard without a browser, as a visitor with this address gets it."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

MAIN = Path(__file__).resolve().parent.parent / "ui" / "main.py"


def open_app(page: str = "start", **address: str) -> AppTest:
    """The page of this file name, drawn once; `address` are the choices that the address carries."""
    app = AppTest.from_file(str(MAIN), default_timeout=90)
    for key, value in address.items():
        app.query_params[key] = value
    if page != "start":
        app.switch_page(f"../pages/{page}.py")
    return app.run()
