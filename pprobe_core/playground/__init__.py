"""Questions to an edited model, answered within a second: values, the fair queue, and what answers them."""

from pprobe_core.playground.rooms import Playground, close, is_small, shared
from pprobe_core.playground.types import (
    DEFAULT_NEW_TOKENS,
    MAX_FACTOR,
    MAX_NEURONS,
    MAX_NEW_TOKENS,
    MAX_STRENGTH,
    Ask,
    Change,
    Reply,
    Standing,
    TokenChance,
    Written,
    checked_ask,
)

__all__ = [
    "DEFAULT_NEW_TOKENS",
    "MAX_FACTOR",
    "MAX_NEURONS",
    "MAX_NEW_TOKENS",
    "MAX_STRENGTH",
    "Ask",
    "Change",
    "Playground",
    "Reply",
    "Standing",
    "TokenChance",
    "Written",
    "checked_ask",
    "close",
    "is_small",
    "shared",
]
