"""Numbers agree with their nouns."""

import pytest

from pprobe_core.wording import duration, gigabytes, parts_of_bytes, plural, verified, with_minus


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 pairs are"), (1, "1 pair is"), (2, "2 pairs are"), (1200, "1,200 pairs are")]
)
def test_a_number_agrees_with_its_noun_and_verb(n: int, said: str) -> None:
    assert plural(n, "pair", ("is", "are")) == said
    assert plural(n, "pair") == said.rsplit(" ", 1)[0]


def test_a_noun_may_have_another_ending() -> None:
    assert [plural(n, "pass", suffix="es") for n in (1, 2)] == ["1 pass", "2 passes"]


def test_sizes_and_times_are_said_as_people_say_them() -> None:
    assert [gigabytes(n) for n in (0, 5 * 2**20, 2**30, 1.55 * 2**30)] == ["0 MB", "5 MB", "1.0 GB", "1.6 GB"]
    assert parts_of_bytes(2**30, 3 * 2**30) == "1.0 of 3.0 GB"
    assert parts_of_bytes(2**19, 5 * 2**20) == "0.5 of 5.0 MB"
    spans = [duration(s) for s in (0, 0.4, 42.4, 99, 100, 3600, 4800, 7200)]
    assert spans == ["1 s", "1 s", "42 s", "99 s", "2 min", "60 min", "80 min", "2 h"]
    assert duration(7320) == "2 h 2 min"


def test_a_self_check_is_told_by_its_largest_error() -> None:
    check = {"ffn_error": 1e-7, "layer_error": 3.2e-7, "head_error": 2e-7, "norm_error": 0.0, "tolerance": 1e-4}
    assert verified(check) == "structure verified: error 3e-07"
    assert verified({"ffn_error": 0.0, "layer_error": 0.0}) == "structure verified: no error"
    assert verified(None) == ""


def test_a_stored_hyphen_becomes_a_minus_only_before_a_number() -> None:
    assert with_minus("from -10.94 to +2.10, [-1, 2], (-3)") == "from −10.94 to +2.10, [−1, 2], (−3)"
    assert (
        with_minus("norm-aware, mini-qwen3, 3-5, 1e-07, 2026-11-26") == "norm-aware, mini-qwen3, 3-5, 1e-07, 2026-11-26"
    )
