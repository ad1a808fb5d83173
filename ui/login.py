"""Who may come in where the dashboard serves a team: Streamlit's own OpenID Connect login, if one is set up.

On one's own computer there is none and nobody is asked. docs/serving.md says how to set it up.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

import streamlit as st

from pprobe_core.errors import BadRequest
from ui import cookies, shell

WANTED = "pprobe_wanted"  # the link that a visitor came with; every login ends on the first page
WAIT_SECONDS = 900  # for somebody to log in
MAX_LINK_CHARS = 3000


def require_login(page: Any, pages: Sequence[Any]) -> None:
    """Stop `page` for a visitor who has to log in or is not on the list; return for everybody else.

    Who came with a link to another one of `pages` is brought there after logging in. Raises BadRequest, which names the
    file and the setting, when the list is not one of texts.
    """
    if not (st.secrets.load_if_toml_exists() and "auth" in st.secrets):
        return
    user = st.user.to_dict()
    if not user.get("is_logged_in"):
        _remember_link(page)
        _card("Please log in", "This dashboard is for a team. Your organisation's login opens it.", "Log in", st.login)
    if not may_enter(user, allowed_addresses(st.secrets.get("pprobe", {}))):
        _card(
            "This account may not come in",
            f"{user.get('email') or 'This account'} is not on the list of this dashboard. Ask whoever runs it, or use "
            "another account.",
            "Log out",
            st.logout,
        )
    _follow_link(page, pages)
    with st.sidebar:
        st.caption(f"Logged in as {shell.escaped(str(user.get('email') or user.get('name') or 'somebody'))}")
        st.button("Log out", key="log_out", on_click=st.logout, help="End the session of this account in this browser.")


def _remember_link(page: Any) -> None:
    """Let the browser keep the page and the choices of the address, unless it is the bare first page."""
    link = f"{page.url_path}?{urlencode(st.query_params.to_dict())}"
    if link != "?" and len(link) <= MAX_LINK_CHARS:
        cookies.keep(WANTED, quote(link, safe=""), WAIT_SECONDS)


def _follow_link(page: Any, pages: Sequence[Any]) -> None:
    """On the bare first page after a login: go where the visitor wanted to, once."""
    wanted = unquote(cookies.kept(WANTED))
    if not wanted:
        return
    with st.sidebar:
        cookies.keep(WANTED, "", 0)  # at every run: what is sent before a switch of pages does not arrive
    if st.session_state.get("_followed"):
        return
    path, _, query = wanted[:MAX_LINK_CHARS].partition("?")
    there = next((one for one in pages if one.url_path == path), None)
    st.session_state["_followed"] = True
    if page.url_path == "" and not st.query_params and there is not None:
        st.switch_page(there, query_params={name: values[-1] for name, values in parse_qs(query).items()})


def allowed_addresses(section: Mapping[str, Any]) -> tuple[str, ...]:
    """Addresses ("ann@example.org") and domains ("@example.org") that may enter; empty: everybody who can log in.

    Raises BadRequest for anything but a list of texts with an @.
    """
    listed = section.get("allowed_emails", ())
    if (
        isinstance(listed, str)
        or not isinstance(listed, Sequence)
        or not all(isinstance(item, str) and "@" in item for item in listed)
    ):
        raise BadRequest(
            "In .streamlit/secrets.toml, allowed_emails of [pprobe] must be a list of addresses such as "
            '["ann@example.org"] or domains such as ["@example.org"]. Nobody is let in until it is.'
        )
    return tuple(item.strip().lower() for item in listed)


def may_enter(user: Mapping[str, Any], allowed: Sequence[str]) -> bool:
    """Whether a logged-in account is on the list; an address that its provider calls unverified never is."""
    if not allowed:
        return True
    address = str(user.get("email") or "").strip().lower()
    if address.count("@") != 1 or user.get("email_verified") is False:
        return False
    return address in allowed or address[address.index("@") :] in allowed


def _card(title: str, text: str, label: str, action: Any) -> None:
    with st.container(border=True, key="login"):
        st.markdown(f"## :material/lock: {title}")
        st.text(text)
        st.button(label, key="login_button", type="primary", on_click=action, help="Goes to your organisation's login.")
    st.stop()
