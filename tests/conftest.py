"""What every test shares: quiet libraries, one thread, no network, models built once."""

import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and busy cores lose

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

# The shapes in the annotations are checked at every call; before anything of these packages is imported.
install_import_hook(["pprobe_core.models", "pprobe_core.probing", "pprobe_core.interventions"], "beartype.beartype")

from tests.tiny_models import write_tiny_model  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pprobe_core.store import Store


@pytest.fixture(scope="session")
def tiny_qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-format folder of a tiny random Qwen3; read it, do not change it."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen3", "qwen3")


@pytest.fixture(scope="session")
def recorded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed results file that holds the recorded runs and nothing else; copy it, do not change it."""
    from pprobe_core.recording import load_recorded
    from pprobe_core.store import Store

    path = tmp_path_factory.mktemp("recorded") / "pprobe.duckdb"
    with Store(path) as store:
        load_recorded(store)
    return path


@pytest.fixture
def recorded_store(recorded_file: Path, tmp_path: Path) -> Iterator["Store"]:
    """A results file of its own, filled with the recorded runs; `recorded_store.path` is the file."""
    from pprobe_core.store import Store

    path = tmp_path / "recorded.duckdb"
    shutil.copy(recorded_file, path)
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's browser or Playwright's own; without either the test is skipped, or fails where it must run."""
    from playwright.sync_api import sync_playwright

    from tests.browsing import launch

    with sync_playwright() as playwright:
        found = launch(playwright)
        if found is None:
            reason = (
                "there is no Chromium or Chrome, and Playwright has not downloaded one (playwright install chromium)"
            )
            if os.environ.get("PPROBE_REQUIRE_BROWSER") == "1":
                pytest.fail(f"PPROBE_REQUIRE_BROWSER=1, but {reason}")
            pytest.skip(reason)
        yield found
        found.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that drive a browser come first: they wait a lot, and as the last ones they would leave cores idle."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)
