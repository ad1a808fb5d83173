"""Tables in memory: one for all visitors, safe from what one of them does with it, no trace of its readers."""

import pandas as pd

from ui import kept


def test_readers_share_a_table_and_cannot_spoil_it() -> None:
    made = []

    @kept.frames(2)
    def table(name: str) -> pd.DataFrame:
        made.append(name)
        return pd.DataFrame({"layer": [0, 1], "share": [0.25, 0.75], "words": ["a", "b"]})

    first, second = table("layers"), table("layers")
    assert made == ["layers"]
    assert first["share"].to_numpy().base is second["share"].to_numpy().base  # the same memory
    first["share"] = 0.0
    first.loc[0, "words"] = "spoilt"
    pd.testing.assert_frame_equal(
        table("layers"), pd.DataFrame({"layer": [0, 1], "share": [0.25, 0.75], "words": ["a", "b"]})
    )


def test_a_thousand_readers_leave_no_trace_at_the_table() -> None:
    held = pd.DataFrame({"layer": [0, 1], "share": [0.25, 0.75], "words": ["a", "b"]})

    @kept.frames(2)
    def table() -> pd.DataFrame:
        return held

    for _ in range(1000):
        read = table()
        assert read[read["share"] > 0.5]["words"].tolist() == ["b"]
    del read
    noted = [block.refs for block in held._mgr.blocks] + [axis._references for axis in held.axes]
    assert max(len(one.referenced_blocks) for one in noted if one is not None) < 20
