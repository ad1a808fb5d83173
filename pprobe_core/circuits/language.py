"""Whether a text is language at all, and which: what every response rule asks before it reads an answer.

A wrecked model writes loops, words or characters without grammar, or noise of symbols. Each check has one threshold,
named below with what lies on either side of it; a text too short for a check passes it. Random text that keeps the
share of everyday words of real text passes too: no check here knows grammar.
"""

import functools
import itertools
import logging
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

# Repetition
MIN_WORDS = 8  # below this a text is too short to call it repetitive, or no language, by shares of its words
MIN_DISTINCT_SHARE = 0.34  # share of different words under which a stretch of text repeats itself
MIN_ENTROPY = 0.55  # of a stretch's words, as a share of the largest possible; code and tables have 0.56 and more
MIN_ENTROPY_PROSE = 0.7  # ... where few marks stand between the words; sentences have 0.76 and more
STRETCH = 60  # words a share is taken over: in a long text the share of different words falls by itself
MAX_RUN = 4  # one to three neighbouring words this often in a row are repetition
MAX_LONG_RUN = 3  # ... and four or more words (a verse may say them twice)
MAX_LOOP_WORDS = 32  # longest loop looked for; longer ones are found by compression
MIN_COMPRESSED_BYTES = 240  # shorter texts do not compress, whatever they say
MIN_COMPRESSED_SHARE = 0.25  # sentences keep more than 0.4 of their bytes, code 0.3

# Words without grammar
MIN_EVERYDAY_SHARE = 0.1  # share of everyday words; of 2,400 English sentences all but two have 0.12 and more
MIN_EVERYDAY_SHARE_HAN = 0.2  # ... of everyday characters; Chinese sentences have 0.25 and more, random ones 0.1
MAX_MARKS_SHARE = 0.2  # marks and line ends for each word: above it a text is a list or code, which needs no grammar
MAX_DOUBLED_SHARE = 0.2  # of a text's words, said twice at once ("but but I I"); two such words may be meant
MAX_STRANDED = 2  # single Chinese characters between Latin words; "the character 好 means" explains one or two
MAX_GLUED_SHARE = 0.2  # words glued to the next one ("hereOslo", "one一") for each word ...
MAX_GLUED_EVERYDAY_SHARE = 0.25  # ... in a text with fewer everyday words than this, and no code
MAX_IMPOSSIBLE_PAIRS = 1  # pairs such as "the of"; one may be a quotation
MAX_WRECKAGE = 1  # marks of a wreck that writing does not leave ("isVienna", "one., of"); none in a short text ...
MAX_WRECKAGE_SHARE = 0.06  # ... and so many for each word of a long one

# Symbols
MAX_OPENING_SYMBOLS = 6  # a text may be cut off behind "```", "{" or "[{": so many symbols and no word are an opening
MIN_SYMBOLS = 16  # visible characters from which their kinds are counted
MAX_SYMBOL_SHARE = 0.8  # share of characters that are no letter or digit; formulas and JSON have up to 0.75
MAX_STRAY_BRACKETS = 1  # closing ] and } that nothing opened
MAX_UNKNOWN_SHARE = 0.1  # share of replacement characters

# Which language. On 3,700 English questions, answers and sentence openings the library never reached the probability
# asked for with another language first; of 36 short sentences in 15 other languages it missed four, under 12 letters or
# split between more than three relatives.
MIN_LANGUAGE_LETTERS = 12  # shorter texts ("A hotel.", "Bangkok.") look alike in many languages
MIN_LANGUAGE_PROBABILITY = 0.8  # of the three likeliest languages together: relatives (Spanish, Galician) share it
ENGLISH = frozenset({"en", "pcm"})  # with Nigerian Pidgin, which short English questions are taken for
CHINESE = frozenset({"zh", "yue", "wuu"})

_HAN = r"\u3400-\u9fff"
_LATIN = r"a-zA-Z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_WORD = re.compile(rf"[\u3040-\u30ff{_HAN}]|\d|[^\W\d_\u3040-\u30ff{_HAN}]+(?:'[^\W\d_]+)?")
_OTHER_SCRIPTS = re.compile(r"[\u0370-\u03ff\u0400-\u04ff\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff]+")
MIN_SCRIPT_SHARE = 0.6  # share of a text's words that makes a script dominant


def words_of(text: str) -> list[str]:
    """Words of spaced scripts, single characters of Chinese and Japanese, digits one by one; lower case."""
    return _WORD.findall(text.casefold())


# Broken ------------------------------------------------------------------------------------------------------------


def is_broken(text: str) -> bool:
    """Whether a text is empty, repeats itself, or is made of symbols or words that are no language, code or number."""
    if not any(char.isalnum() for char in text):
        visible = "".join(text.split())
        return not (visible.startswith(("```", "<", "{", "[")) and len(visible) <= MAX_OPENING_SYMBOLS)
    words = words_of(text)
    return _is_symbol_noise(text) or repeats_itself(text, words) or _lacks_grammar(text, words)


def repeats_itself(text: str, words: Sequence[str]) -> bool:
    """Whether a text is caught in a loop: a run of the same words, few different ones, or too regular to be written."""
    for size in range(1, min(MAX_LOOP_WORDS, len(words) // 2) + 1):
        if _longest_run(words, size) >= (MAX_RUN if size < 4 else MAX_LONG_RUN):
            return True
    lettered = [word for word in words if not word.isdigit()]
    least = MIN_ENTROPY_PROSE if _marks_share(text, words) < MAX_MARKS_SHARE else MIN_ENTROPY
    for start in range(0, max(1, len(lettered) - STRETCH + 1), STRETCH // 2):
        stretch = lettered[start : start + STRETCH]
        if len(stretch) < MIN_WORDS:
            break
        counts = Counter(stretch)
        if len(counts) / len(stretch) < MIN_DISTINCT_SHARE or _entropy(counts) < least:
            return True
    data = text.encode("utf-8", errors="replace")[: 4 * MIN_COMPRESSED_BYTES]
    return len(data) >= MIN_COMPRESSED_BYTES and len(zlib.compress(data, 9)) < MIN_COMPRESSED_SHARE * len(data)


def _longest_run(words: Sequence[str], size: int) -> int:
    """How often the same `size` neighbouring words follow one another, at most. Numbers may repeat (sums, tables)."""
    best = matches = 0
    lettered = False
    for i in range(size, len(words)):
        if words[i] == words[i - size]:
            matches += 1
            lettered = lettered or not words[i].isdigit()
            if lettered:
                best = max(best, matches)
        else:
            matches, lettered = 0, False
    return 1 + best // size


def _entropy(counts: Counter[str]) -> float:
    """Shannon entropy of word counts, as a share of the entropy of as many different words."""
    n = counts.total()
    return -sum(count / n * math.log2(count / n) for count in counts.values()) / math.log2(n)


# One character eight times (underlines apart), a comma four times, a piece of a word four times without a space, and a
# few marks four times (table rules apart).
_GLUED = re.compile(
    r"([^\s\d=*#_.~^\-])\1{7}|([,;，；、])\2{3}|([^\W\d_]{2,12})\3{3}|([^\w\s\-|=:*#.+/\\~^]{2,4})\4{3}"
)


def _marks_share(text: str, words: Sequence[str]) -> float:
    """Marks and line ends for each word: few in sentences, many in lists and code."""
    return len(re.findall(r"[^\w\s'\"]|[\n_]", text.strip())) / max(1, len(words))


def _is_symbol_noise(text: str) -> bool:
    visible = "".join(text.split())
    if visible.count("\ufffd") > MAX_UNKNOWN_SHARE * len(visible):
        return True
    if _GLUED.search(text):
        return True
    ruled = re.sub(r"([-=*#_.~^|])\1+", r"\1", visible)  # lines under headings and in tables
    symbols = sum(not char.isalnum() for char in ruled)
    if len(ruled) >= MIN_SYMBOLS and symbols > MAX_SYMBOL_SHARE * len(ruled):
        return True
    depth = Counter[str]()
    stray = 0
    for char in visible:
        if char in "[{":
            depth[char] += 1
        elif char in "]}":
            opener = "[" if char == "]" else "{"
            stray += depth[opener] == 0
            depth[opener] -= depth[opener] > 0
    return stray > MAX_STRAY_BRACKETS


# Openers of an answer ("sure", "here", "sorry") are left out: a wrecked model may still start with one.
_EVERYDAY_WORDS = frozenset(
    re.findall(
        r"[a-z']+",
        "the a an of to in is are was were be been am it its it's that that's this these those and or but not no "
        "nor for with on as by at from into than then so if when while where who whom which what why how there you "
        "your i i'm my me we our us they their them he his him she her do does did done doing have has had having "
        "can can't could will would should may might must shall don't doesn't about up out over under after before "
        "between through during because also just only very more most some any all each every both one other such "
        "like let let's get make made use used go see need too still even around without within per ",
    )
)
_EVERYDAY_CHARACTERS = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
    "多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情"
    "明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给"
    "世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太"
    "量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象"
    "完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运您吧吗呢请啊每"
    "這個們來時說會對國為學過還後開無與見問間體頭實點經動發現當樣種關於進從讓請"
)


def everyday_share(words: Sequence[str]) -> float:
    """Share of words that hardly any text goes without, in the script most of the words are in."""
    everyday = _EVERYDAY_CHARACTERS if _mostly_han(words) else _EVERYDAY_WORDS
    return sum(word in everyday for word in words) / max(1, len(words))


def _is_han(word: str) -> bool:
    return "\u3400" <= word <= "\u9fff"


def _mostly_han(words: Sequence[str]) -> bool:
    return 2 * sum(map(_is_han, words)) > len(words)


def _impossible(*rows: tuple[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((a, b) for first, second in rows for a in first.split() for b in second.split())


_IMPOSSIBLE_PAIRS = _impossible(
    ("the an", "the an of and or to in is are was for with that it at from"),
    ("of", "of and or is are to"),
    ("to and or is are for with", "of"),
    ("and or", "and or"),
    ("to", "to is are and"),
    ("in", "in of and is are"),
    ("is are was", "is are was"),
    ("i you it they we", "i"),
    ("the", "i you"),
)


_CODE_MARKS = re.compile(r"[(){}\[\]=;<>`]")
_CODE_START = re.compile(r"^\s*(?:from|import|class|def)\s", re.MULTILINE)
_SEAM = re.compile(r"[a-z][.。]?(?=[A-Z][a-z])|[a-z][,，。](?=[a-zA-Z])")
_STRANDED = re.compile(rf"(?<=[{_LATIN}] )[{_HAN}](?= [{_LATIN}])")
_SCRIPT_SEAM = re.compile(rf"[{_LATIN}](?=[{_HAN}])|[{_HAN}](?=[{_LATIN}])")


_EVERYDAY_SEAM = re.compile(r"\b([a-z]+)(?=[A-Z][a-z])")  # an everyday word glued to a capital: "isVienna"
_DIGIT_SEAM = re.compile(r"[A-Za-z]{3,}\d(?=[A-Za-z]{2})")  # "Sure8Vienna"
_MARK_SEAM = re.compile(
    r"(?<![.\s])[.,;:!?][,;](?=\s|$)|[.。,，][，。](?!\S*[.,])|\w[\"']?[})\]]{2}(?=\w)"
)  # "kitten., of"
_ODD_SPACE = re.compile(r"(?<=[a-z,])  +(?=[a-z])")  # two spaces inside a sentence
_LATIN_STOP = re.compile(rf"[{_LATIN}][。，、；]")
_EMPTY_LINES = re.compile(r"\n(?:[ \t]*\n){3}")
_LATE_TAG = re.compile(r"(?<=\w)\s*<(?:think|tool_call)>")
_CLOSING_TAG = re.compile(r"</(think|tool_call)>")
_ABBREVIATION = re.compile(r"\b(?:etc|e\.g|i\.e|vs|approx|Mr|Dr|St|Jr|Inc|Ltd|Co|No|a\.m|p\.m)\.[,;]", re.I)


def wreckage(text: str) -> int:
    """How many marks of a wreck a text bears: words glued together, marks in a row, scripts mixed inside a word."""
    prose = _ABBREVIATION.sub(" ", text)
    glued = sum(match[1] in _EVERYDAY_WORDS and len(match[1]) > 1 for match in _EVERYDAY_SEAM.finditer(prose))
    latin, han = len(re.findall(rf"[{_LATIN}]{{2,}}", prose)), len(re.findall(rf"[{_HAN}]", prose))
    # A Chinese sentence may name things in Latin letters; an English one has no Chinese glued to its words.
    scripts = len(_SCRIPT_SEAM.findall(prose)) + len(_LATIN_STOP.findall(prose)) if han < 2 * latin else 0
    return glued + scripts + sum(len(p.findall(prose)) for p in (_DIGIT_SEAM, _MARK_SEAM, _ODD_SPACE, _EMPTY_LINES))


def _lacks_grammar(text: str, words: Sequence[str]) -> bool:
    """Whether a text is words or characters side by side that make no sentence, list or code."""
    closing = _CLOSING_TAG.search(text)
    if _LATE_TAG.search(text) or (closing and f"<{closing[1]}>" not in text[: closing.start()]):
        return True
    if "```" not in text:
        most = 0 if len(words) < MIN_WORDS else max(MAX_WRECKAGE, MAX_WRECKAGE_SHARE * len(words))
        if wreckage(text) > most and not _looks_like_code(text, words):
            return True
    if sum(pair in _IMPOSSIBLE_PAIRS for pair in itertools.pairwise(words)) > MAX_IMPOSSIBLE_PAIRS:
        return not _is_foreign(text, ENGLISH)
    doubled = sum(a == b and not a.isdigit() and not _is_han(a) for a, b in itertools.pairwise(words))
    if doubled > max(2, MAX_DOUBLED_SHARE * len(words)) or len(_STRANDED.findall(text)) > MAX_STRANDED:
        return True
    whole = [word for word in words if len(word) > 1 or _is_han(word)]  # no digits and names of variables
    chinese = _mostly_han(whole)
    share = everyday_share(whole)
    if not chinese and share < MAX_GLUED_EVERYDAY_SHARE and not _looks_like_code(text, whole):
        seams = len(_SEAM.findall(text)) + len(_SCRIPT_SEAM.findall(text))
        if len(whole) + seams >= MIN_WORDS and seams > MAX_GLUED_SHARE * len(whole):
            return True
    if len(whole) < MIN_WORDS:
        return False
    if "```" in text or _marks_share(text, whole) >= MAX_MARKS_SHARE:
        return False
    if chinese:
        return share < MIN_EVERYDAY_SHARE_HAN
    # Without the library no other language is known, so few English words prove nothing.
    return share < MIN_EVERYDAY_SHARE and _identifier() is not None and not _is_foreign(text, ENGLISH)


def _looks_like_code(text: str, words: Sequence[str]) -> bool:
    marks = len(_CODE_MARKS.findall(text))
    return marks > MAX_GLUED_SHARE * len(words) or _CODE_START.search(text) is not None


# Which language ----------------------------------------------------------------------------------------------------


def dominant_language(text: str) -> str:
    """Which of english, chinese or other a text is: by its dominant script, then by its language if it is long enough.

    Two Chinese characters count as much as one word of a spaced script.
    """
    kana = len(re.findall(r"[\u3040-\u30ff\uac00-\ud7af]", text))
    han = len(re.findall(rf"[{_HAN}]", text)) / 2
    latin = len(re.findall(rf"[{_LATIN}]+(?:'[{_LATIN}]+)?", text))
    total = kana + han + latin + len(_OTHER_SCRIPTS.findall(text))
    if total == 0 or kana > 0.15 * total:
        return "other"
    if han >= MIN_SCRIPT_SHARE * total:
        return "other" if _is_foreign(text, CHINESE) else "chinese"
    if latin >= MIN_SCRIPT_SHARE * total:
        return "other" if _is_foreign(text, ENGLISH) else "english"
    return "other"


def _is_foreign(text: str, home: frozenset[str]) -> bool:
    """Whether a text is surely in none of the languages of `home`. Blocks of code are left out."""
    prose = re.sub(r"```.*?(?:```|$)", " ", text, flags=re.DOTALL)
    rank = _identifier()
    if rank is None or sum(char.isalpha() for char in prose) < MIN_LANGUAGE_LETTERS:
        return False
    ranking = rank(prose)
    likeliest = [probability for language, probability in ranking if language not in home][:3]
    return ranking[0][0] not in home and sum(likeliest) >= MIN_LANGUAGE_PROBABILITY


def prepare() -> None:
    """Unpack the language model now: for a server, where nobody should wait for it and memory should not jump later."""
    _identifier()


@functools.cache
def _identifier() -> Callable[[str], list[tuple[str, float]]] | None:
    """py3langid's ranking of languages with probabilities; its model is unpacked once, at the first use (1 s, 80 MB).

    None where the library cannot be loaded: scripts alone are told apart then, and the log says so.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    except (ImportError, OSError) as error:
        logger.warning("py3langid cannot be loaded (%s): answers are told apart by script, not by language", error)
        return None
    rank: Callable[[str], list[tuple[str, float]]] = identifier.rank
    return rank
