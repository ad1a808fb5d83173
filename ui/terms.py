"""Terms of the glossary in running text: a dotted underline, the definition on hover, and a link to the glossary.

A term becomes a Markdown link whose title is the definition. A link can be reached with the Tab key, a screen reader
reads its title, Enter opens the Glossary page at the term; `ui/style/base.css` shows the title to keyboard users too.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from ui.glossary import ENTRIES

ADDRESS = "glossary"  # of the Glossary page, from every other page


def escaped(text: str) -> str:
    """Text as it is, with Markdown's own signs made harmless."""
    for sign in "\\`*_{}[]<>#$|~:":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else html.escape(sign))
    return text


def slug(term: str) -> str:
    """A term as an address names it: "Cohen's kappa" -> "cohen-s-kappa"."""
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def plain(definition: str) -> str:
    """A definition without Markdown's signs, for places that show text as it is."""
    return re.sub(r"[*`]", "", definition)


def link(term: str, shown: str) -> str:
    """A word of running text as a link that tells what it means."""
    title = plain(ENTRIES[term].text).replace("\\", "\\\\").replace('"', '\\"')
    return f'[{escaped(shown)}]({ADDRESS}#{slug(term)} "{title}")'


def marked(text: str, own: Iterable[str] = (), seen: set[str] | None = None) -> str:
    """Plain text as Markdown, with the first occurrence of every glossary term explained.

    `own`: what other people wrote and the text quotes (model names, prompts, file names); nothing in it is marked.
    `seen`: terms that were explained before; those explained here are added. All of the text is shown as it is.
    """
    seen = set() if seen is None else seen
    parts = []
    for quoted, piece in _pieces(text, own):
        parts.append(escaped(piece) if quoted else _marked(piece, seen))
    return "".join(parts)


def search(query: str) -> list[str]:
    """Terms whose name, forms or definition hold all words of a query; all of them for an empty one, in their order.

    Terms that are named by the query come before those that only mention it.
    """
    wanted = query.casefold().split()
    named, mentioned = [], []
    for term, entry in ENTRIES.items():
        name = " ".join((term, *entry.forms)).casefold()
        if all(word in name for word in wanted):
            named.append(term)
        elif all(word in f"{name} {plain(entry.text).casefold()}" for word in wanted):
            mentioned.append(term)
    return named + mentioned


def _marked(text: str, seen: set[str]) -> str:
    out, at = [], 0
    for match in PATTERN.finditer(text):
        term = _TERM_OF.get(match[0]) or _TERM_OF.get(match[0].lower())
        if term is None or term in seen:
            continue
        seen.add(term)
        out += [escaped(text[at : match.start()]), link(term, match[0])]
        at = match.end()
    return "".join([*out, escaped(text[at:])])


def _pieces(text: str, own: Iterable[str]) -> list[tuple[bool, str]]:
    """The text cut at what others wrote: (is it theirs, the piece)."""
    quotes = sorted({quote for quote in own if quote.strip()}, key=len, reverse=True)
    if not quotes:
        return [(False, text)]
    cut = re.split(f"({'|'.join(map(re.escape, quotes))})", text)
    return [(place % 2 == 1, piece) for place, piece in enumerate(cut) if piece]


def _forms() -> Mapping[str, str]:
    """Form as text writes it -> term. Short forms in capitals (F, FFN) count only as they are."""
    return {(form if form.isupper() else form.lower()): term for term, entry in ENTRIES.items() for form in entry.forms}


def _pattern(forms: Sequence[str]) -> re.Pattern[str]:
    """Whole words, the longest form first; not inside names, paths or numbers (`L3.N12`, `x/layer`, `p-1`)."""
    ordered = sorted(forms, key=len, reverse=True)
    either = "|".join(
        re.escape(form) if form.isupper() or len(form) == 1 else f"(?i:{re.escape(form)})" for form in ordered
    )
    return re.compile(rf"(?<![\w/.'’-])(?:{either})(?![\w/'’-])")


_TERM_OF = _forms()
PATTERN = _pattern(list(_TERM_OF))
