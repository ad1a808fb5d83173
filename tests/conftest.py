"""What every test shares: quiet libraries, one thread, no network, models built once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and busy cores lose

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The shapes in the annotations are checked at every call; before anything of these packages is imported.
install_import_hook(["pprobe_core.models", "pprobe_core.probing", "pprobe_core.interventions"], "beartype.beartype")

from tests.tiny_models import write_tiny_model  # noqa: E402


@pytest.fixture(scope="session")
def tiny_qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-format folder of a tiny random Qwen3; read it, do not change it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen3", "qwen3")
