"""`python -m pprobe_core`: the headless command line."""

import signal
import sys
from types import FrameType

from pprobe_core.cli import main


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leave through the `finally` blocks, so that a probe under way is marked interrupted."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())
