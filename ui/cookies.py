"""Small notes that the visitor's browser keeps: its place in the tour, the link it came with."""

import streamlit as st

KEEP = """
export default function({ data }) {
  document.cookie = `${data.name}=${data.value}; path=/; max-age=${data.seconds}; SameSite=Lax`;
}
"""
YEAR = 31_536_000
_keep = st.components.v2.component("pprobe.cookie", js=KEEP)


def keep(name: str, value: str, seconds: int = YEAR) -> None:
    """Let the browser keep a value, of letters, digits and %-codes only, or forget it at once with 0 seconds."""
    _keep(data={"name": name, "value": value, "seconds": seconds}, key=f"cookie_{name}")


def kept(name: str) -> str:
    """What the browser kept under a name when it connected; "" for nothing."""
    return str(st.context.cookies.get(name, ""))
