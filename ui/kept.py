"""Tables that pages read again and again, kept in memory."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import pandas as pd
import streamlit as st

Args = ParamSpec("Args")


def frames(
    max_entries: int, show_spinner: str | bool = False
) -> Callable[[Callable[Args, pd.DataFrame]], Callable[Args, pd.DataFrame]]:
    """Keep what a function returns, one frame per arguments, for all visitors; arguments are as for st.cache_data.

    All of them get the same memory: pandas copies what somebody writes to. `st.cache_data` would write every frame out
    and read it back each time it is asked for, which for a large run takes longer than to draw it.
    """

    def decorate(function: Callable[Args, pd.DataFrame]) -> Callable[Args, pd.DataFrame]:
        keep = st.cache_resource(max_entries=max_entries, show_spinner=show_spinner)(function)

        @functools.wraps(function)
        def kept(*args: Args.args, **kwargs: Args.kwargs) -> pd.DataFrame:
            frame = keep(*args, **kwargs)
            _forget_copies(frame)
            return frame.copy(deep=False)

        return kept

    return decorate


def _forget_copies(frame: pd.DataFrame) -> None:
    """Let go of what pandas notes about copies that are gone.

    At memory that is shared it notes every copy, up to 500 of them a column and index before it looks which are still
    there: tens of megabytes after some hours of visitors. Asking whether there are any makes it look.
    """
    blocks = [block.refs for block in frame._mgr.blocks]
    for noted in (*blocks, *(axis._references for axis in frame.axes)):  # type: ignore[attr-defined]
        if noted is not None:
            noted.has_reference()
