"""How a model's tokeniser reads the first words of an answer, without loading the model."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from pprobe_core.models.catalogue import find_model
from pprobe_core.models.loading import load_tokenizer
from pprobe_core.probing.observable import preview

MAX_TOKENIZERS = 4  # kept in memory: tens of megabytes each for large vocabularies


def first_words(model: str, target: Sequence[str], control: Sequence[str]) -> pd.DataFrame:
    """One row per string: side, string, ids, pieces, used, note, as a run of this model would read it.

    Raises ModelUnavailable when the model has no tokeniser that can be read.
    """
    return preview(_tokenizer(find_model(model).id, _changed(model)), target, control)


@lru_cache(maxsize=MAX_TOKENIZERS)
def _tokenizer(model_id: str, changed: float) -> Any:
    return load_tokenizer(model_id)


def _changed(model: str) -> float:
    """When the tokeniser's files were changed last: a folder's may be. 0 for a model of the hub, whose are not."""
    entry = find_model(model)
    if entry.on_hub:
        return 0.0
    return max((path.stat().st_mtime for path in Path(entry.path).glob("*token*")), default=0.0)
