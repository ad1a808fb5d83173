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
            return keep(*args, **kwargs).copy(deep=False)

        return kept

    return decorate
