"""Terms of the glossary in running text: a dotted underline, the definition on hover, and a link to the glossary.

A term becomes a Markdown link whose title is the definition. A link can be reached with the Tab key, a screen reader
reads its title, Enter opens the Glossary page at the term; `ui/style/base.css` shows the title to keyboard users too.

A term is explained once in each text, such as the words of one chart or one card. Once on a page would not do: parts
of a page are drawn again by themselves, and the only explanation could lie folded away.
"""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from ui.glossary import ENTRIES

ADDRESS = "glossary"  # of the Glossary page, from every other page
QUOTED = r"“[^“”]*”"  # what is quoted in running text: answers, tokens, prompts
MARKUP = r'`[^`]*`|!?\[(?:[^\[\]\\]|\\.)*\]\((?:[^()"]|"(?:[^"\\]|\\.)*")*\)'  # code and links in Markdown


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
    return _marked(text, _cut(own), set() if seen is None else seen, escaped)


def said(markdown: str, own: Iterable[str] = (), seen: set[str] | None = None) -> str:
    """Markdown of ours with the first occurrence of every glossary term explained; code and links stay as they are.

    `own`: what other people wrote, as it stands in the text: escaped. `seen` as in `marked`.
    """
    return _marked(markdown, _cut(own, MARKUP), set() if seen is None else seen, str)


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


def _marked(text: str, cut: re.Pattern[str], seen: set[str], shown: Callable[[str], str]) -> str:
    """The text with its terms explained where `cut` finds nothing; `shown` makes Markdown of the rest."""
    out, at = [], 0
    for start, end, term in _found(text, cut):
        if term not in seen:
            seen.add(term)
            out += [shown(text[at:start]), link(term, text[start:end])]
            at = end
    return "".join([*out, shown(text[at:])])


@lru_cache(2048)
def _found(text: str, cut: re.Pattern[str]) -> tuple[tuple[int, int, str], ...]:
    """Where a text writes which term, outside what `cut` finds. Kept: a page asks for the same ones again and again."""
    left_alone = [match.span() for match in cut.finditer(text)]
    found = []
    for match in PATTERN.finditer(text):
        term = _TERM_OF.get(match[0]) or _TERM_OF.get(match[0].lower())
        if term is not None and not any(start < match.end() and match.start() < end for start, end in left_alone):
            found.append((match.start(), match.end(), term))
    return tuple(found)


def _cut(own: Iterable[str], *more: str) -> re.Pattern[str]:
    """What is left alone in a text: what others wrote, what stands in quotation marks, and `more`."""
    quotes = sorted({quote.strip() for quote in own if quote.strip()}, key=len, reverse=True)
    return re.compile("|".join([*map(_whole, quotes), QUOTED, *more]))


def _whole(quote: str) -> str:
    """A pattern for a quote that is no part of a longer word."""
    before, after = (r"(?<!\w)" if quote[0].isalnum() else ""), (r"(?!\w)" if quote[-1].isalnum() else "")
    return f"{before}{re.escape(quote)}{after}"


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
