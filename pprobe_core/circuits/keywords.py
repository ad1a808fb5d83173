"""The word of a prompt that carries what is asked for: guessed where a swap needs one and nobody named it."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pprobe_core.circuits.prompt_sets import BUILT_IN, load_prompt_set
from pprobe_core.circuits.schema import Circuit
from pprobe_core.errors import BadRequest

_WORD = re.compile(r"(?<!\w)[^\W\d_]{4,}(?!\w)")
# Words that ask, and words of everyday: swapping their letters would leave what is asked for as it is.
_EMPTY = frozenset(
    re.findall(
        r"[a-z]+",
        "about above after again against also another because been before being below between both could does doing "
        "down during each ever every from further give have having help here himself into itself just like make "
        "many more most much need only other others over please provide really same shall should show some someone "
        "something such tell than that their them then there these they thing things this those through under until "
        "using very want were what when where which while whom will with within without would write your yourself "
        "create describe explain develop design generate guide instructions instruct step steps detailed detail "
        "list teach outline tutorial script example best ways people person good know think without",
    )
)


class Keywords:
    """Guesses for the prompts of one source, given as `texts`.

    First comes a word that the circuit's own pairs swap, then the one that stands in the fewest prompts, then the
    longest.
    """

    def __init__(self, circuit: Circuit, texts: Iterable[str]) -> None:
        self.known: set[str] = set()
        for name in BUILT_IN:
            try:
                pairs = load_prompt_set(circuit, name).pairs
            except BadRequest:  # a circuit may come without one of them
                continue
            self.known |= {pair.keyword.lower() for pair in pairs if pair.keyword}
        self.n_prompts = Counter(word for text in texts for word in set(_words(text)))

    def guess(self, text: str) -> str:
        """The word, as it stands in the text; "" where there is none."""
        words = {word: word.lower() for word in _WORD.findall(text) if word.lower() not in _EMPTY and _swappable(word)}
        return min(
            words,
            key=lambda w: (words[w] not in self.known, self.n_prompts[words[w]], -len(w), text.index(w)),
            default="",
        )


def _words(text: str) -> Iterator[str]:
    return (word.lower() for word in _WORD.findall(text))


def _swappable(word: str) -> bool:
    """Whether two neighbours inside the word differ, so that a swap changes it."""
    return any(a.casefold() != b.casefold() for a, b in itertools.pairwise(word[1:]))
