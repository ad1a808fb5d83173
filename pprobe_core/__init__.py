"""pprobe_core: two-pass perturbation probing of chat language models. Never imports streamlit.

For notebooks: `import pprobe_core as pp`, then `pp.Lab()` (see api.py). It is loaded when it is first named.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from pprobe_core.api import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
