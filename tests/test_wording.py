"""Numbers agree with their nouns."""

import pytest

from pprobe_core.wording import plural


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 pairs are"), (1, "1 pair is"), (2, "2 pairs are"), (1200, "1,200 pairs are")]
)
def test_a_number_agrees_with_its_noun_and_verb(n: int, said: str) -> None:
    assert plural(n, "pair", ("is", "are")) == said
    assert plural(n, "pair") == said.rsplit(" ", 1)[0]


def test_a_noun_may_have_another_ending() -> None:
    assert [plural(n, "pass", suffix="es") for n in (1, 2)] == ["1 pass", "2 passes"]
