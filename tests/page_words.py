"""What a reader reads on a page, without the marks that stand around its words."""

import re

# A term with its definition as the link's title; see ui/terms.py.
TERM = re.compile(r'(?<!\\)\[((?:[^\[\]\\]|\\.)*)\]\(glossary#[a-z0-9-]+ "(?:[^"\\]|\\.)*"\)')


def without_terms(text: str) -> str:
    """Markdown text with the explained terms as they are read."""
    return TERM.sub(r"\1", text)
