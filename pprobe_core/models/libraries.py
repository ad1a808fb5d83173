"""The large libraries, imported by one thread at a time. Importing this module imports none of them."""

import threading

_lock = threading.Lock()


def import_libraries() -> None:
    """Import torch and transformers' registry of models, or wait until another thread has.

    transformers hands out its names one by one as they are imported; while one thread is at it, another one finds some
    of them missing. So the worker and the pages both come here before they use it.
    """
    with _lock:
        import torch  # noqa: F401
        from transformers import (  # noqa: F401
            CONFIG_MAPPING,
            MODEL_FOR_CAUSAL_LM_MAPPING,
            AutoConfig,
            AutoModelForCausalLM,
            AutoTokenizer,
        )
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES  # noqa: F401
