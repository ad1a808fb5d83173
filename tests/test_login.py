"""A dashboard that serves a team lets in whom its login and its list allow, and nobody else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pprobe_core import jobs as core_jobs
from pprobe_core.errors import BadRequest
from ui import login

MAIN = Path(__file__).resolve().parent.parent / "ui" / "main.py"
AUTH = """
[auth]
redirect_uri = "http://localhost:8501/oauth2callback"
cookie_secret = "only-for-this-test-0123456789"
"""
ANN = {"is_logged_in": True, "email": "Ann@Example.org", "name": "Ann", "email_verified": True}
Open = Callable[..., AppTest]


@pytest.fixture
def open_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Opens the Start page of a server with this secrets file, as this user."""
    monkeypatch.setenv("PPROBE_DB", str(tmp_path / "pprobe.duckdb"))
    st.cache_data.clear()
    st.cache_resource.clear()
    before = st.config.get_option("secrets.files")

    def opened(secrets: str, user: dict[str, Any] | None = None) -> AppTest:
        file = tmp_path / "secrets.toml"
        if secrets:
            file.write_text(secrets, encoding="utf-8")
        st.config.set_option("secrets.files", [str(file)])
        st.secrets._reset()
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        if user is not None:
            app.user = user
        return app.run()

    yield opened
    core_jobs.close()
    st.config.set_option("secrets.files", before)
    st.secrets._reset()


def text_of(app: AppTest) -> str:
    return "\n".join(str(e.value) for group in (app.title, app.markdown, app.text, app.caption) for e in group)


def test_without_a_configured_login_nobody_is_asked(open_start: Open) -> None:
    app = open_start("")
    assert not app.exception
    assert app.title


@pytest.mark.parametrize("user", [{}, {"is_logged_in": False, "email": "ann@example.org"}])
def test_a_visitor_who_is_not_logged_in_sees_the_login_and_nothing_else(open_start: Open, user: dict[str, Any]) -> None:
    app = open_start(AUTH, user)
    assert not app.exception
    assert "Please log in" in text_of(app)
    assert not app.title
    assert not app.selectbox
    assert [button.key for button in app.button] == ["login_button"]


def test_a_member_comes_in_and_can_leave(open_start: Open) -> None:
    app = open_start(AUTH + '[pprobe]\nallowed_emails = ["@example.org"]', ANN)
    assert not app.exception
    assert app.title
    assert "Logged in as Ann@Example.org" in text_of(app).replace("\\", "")
    assert "log_out" in [button.key for button in app.button]


def test_an_account_that_is_not_on_the_list_stays_out(open_start: Open) -> None:
    members = '[pprobe]\nallowed_emails = ["ann@example.org", "@example.org"]'
    app = open_start(AUTH + members, ANN | {"email": "<b>eve</b>@example.com"})
    assert not app.exception
    assert "may not come in" in text_of(app)
    assert not app.title


def test_a_list_that_is_none_lets_nobody_in(open_start: Open) -> None:
    app = open_start(AUTH + '[pprobe]\nallowed_emails = "ann@example.org"', ANN)
    assert not app.exception
    assert "must be a list of addresses" in text_of(app)
    assert not app.title


@pytest.mark.parametrize(
    ("address", "verified", "enters"),
    [
        ("ann@example.org", True, True),
        ("ANN@EXAMPLE.ORG ", True, True),
        ("bob@team.example", True, True),
        ("bob@sub.team.example", True, False),
        ("ann@example.org", False, False),
        ("bob@team.example@evil.example", True, False),
        ("", True, False),
    ],
)
def test_addresses_and_domains_are_compared_whole(address: str, verified: bool, enters: bool) -> None:
    allowed = login.allowed_addresses({"allowed_emails": ["Ann@example.org", "@team.example"]})
    assert login.may_enter({"email": address, "email_verified": verified}, allowed) is enters


def test_an_empty_list_means_everybody_who_can_log_in() -> None:
    assert login.may_enter({"email": "x@y.example"}, login.allowed_addresses({}))


@pytest.mark.parametrize("listed", ["ann@example.org", [1], ["no address"], {"a@b": 1}, 7])
def test_other_values_are_refused_in_words(listed: Any) -> None:
    with pytest.raises(BadRequest, match="allowed_emails"):
        login.allowed_addresses({"allowed_emails": listed})
