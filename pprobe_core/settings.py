"""Where things live, and the few settings read from the environment."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(__file__).resolve().parent
SHIPPED_MODELS = PACKAGE / "models" / "shipped"
CIRCUITS = PACKAGE / "circuits"
RECORDED = PACKAGE / "recorded"  # results that come with the program

SEED = 20260427  # default seed of every random draw; stored with each run


def cache_dir() -> Path:
    """Folder of the results file and of downloads: $PPROBE_CACHE, else cache/ beside the code."""
    return Path(os.environ.get("PPROBE_CACHE") or ROOT / "cache")


def default_db() -> Path:
    """The results file: $PPROBE_DB, else pprobe.duckdb in the cache folder."""
    return Path(os.environ.get("PPROBE_DB") or cache_dir() / "pprobe.duckdb")
