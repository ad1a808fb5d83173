"""pprobe_core: two-pass perturbation probing of chat language models. Never imports streamlit."""

__version__ = "0.1.0"
