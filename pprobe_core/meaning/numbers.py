"""Numbers in the words of a paragraph: logits, percents, intervals."""

from collections.abc import Sequence

from pprobe_core.charts import number


def logits(value: float | None) -> str:
    """A signed number of logits with two digits; what rounds to nothing is 0.00."""
    return "0.00" if value is not None and abs(value) < 0.005 else number(value, signed=True)


def percent(share: float | None) -> str:
    """A share as `12 %`; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def percents(low: float | None, high: float | None) -> str:
    """Two shares as `12 to 34 %`; `unknown` where one is missing."""
    return "unknown" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def percent_span(interval: Sequence[float | None] | None) -> str:
    """`, 95 % interval 12 to 34 %`, to follow a share; empty where it is not known."""
    if not interval or interval[0] is None or interval[1] is None:
        return ""
    return f", 95 % interval {percents(interval[0], interval[1])}"
