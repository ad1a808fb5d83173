"""An answer on a page, with the words that another answer lacks marked."""

import html
import unicodedata
from collections.abc import Iterable

import streamlit as st

from pprobe_core.difference import Piece

# Seen by nobody and harmless: ends of lines, tabs, and what joins or parts the letters of a word or parts of an emoji.
KEPT = "\n\r\t\u200c\u200d"


def answer(pieces: Iterable[Piece], *, changed: bool, more: str = "", note: str = "", size: float = 1.0) -> None:
    """Draw an answer: words that the other one lacks are underlined, in a changed model's answer bold, too.

    `more` goes on with the text (an ellipsis), `note` is said about it; `size` is that of the type, in rem. A line runs
    from the right where its first letter does, and breaks wherever it must.
    """
    body = marked(pieces, changed) + html.escape(more) + (f" <i>{html.escape(note)}</i>" if note else "")
    st.html(
        f'<div dir="auto" style="font-size:{size:g}rem;line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere;'
        f'unicode-bidi:plaintext">{body or "<i>(empty)</i>"}</div>'
    )


def marked(pieces: Iterable[Piece], changed: bool) -> str:
    """Pieces of an answer as HTML, the differing ones in tags."""
    opening, closing = ("<b><u>", "</u></b>") if changed else ("<u>", "</u>")
    return "".join(f"{opening}{readable(p.text)}{closing}" if p.differs else readable(p.text) for p in pieces)


def readable(text: str) -> str:
    """Text as HTML: its own signs escaped, characters that cannot be seen or that turn the line replaced."""
    return html.escape("".join(c if _shown(c) else "\ufffd" for c in text))


def _shown(sign: str) -> bool:
    return sign.isprintable() or sign in KEPT or unicodedata.category(sign) == "Zs"  # Zs: spaces of any width
