"""Whether a model can be measured at all, from its config.json alone: before any weight is fetched or loaded."""

from typing import Any

from pprobe_core.errors import ModelUnavailable
from pprobe_core.models.libraries import import_libraries

# Names under which configurations count their experts.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_KNOWN_KINDS = "such as a Llama, Qwen, Gemma, Mistral or Phi chat model"


def require_supported(config: dict[str, Any], name: str) -> None:
    """Raise ModelUnavailable with the reason and what would help when the model is known not to work.

    Refused are quantised weights, mixtures of experts, encoders, and kinds that transformers cannot load as a decoder.
    What passes is still proved after loading, by its structure. Imports transformers, for the kinds it knows.
    """
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise ModelUnavailable(
            f"The config.json of {name} does not say what kind of model it is (model_type). "
            "Take config.json from the model's own page or folder."
        )
    _refuse_quantised(config, name)
    import_libraries()
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if family not in transformers.CONFIG_MAPPING:
        code = " without running code from its folder, which is never done" if config.get("auto_map") else ""
        raise ModelUnavailable(
            f"The model in {name} is of the kind “{family}”, which transformers {transformers.__version__} does not "
            f"know{code}. Choose a model of a known family, such as Llama, Qwen, Gemma, Mistral or Phi."
        )
    encoder_decoder = bool(config.get("is_encoder_decoder"))
    decodes = transformers.CONFIG_MAPPING[family] in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if encoder_decoder or not decodes:
        raise ModelUnavailable(
            f"The model in {name} is of the kind “{family}”, which is not loaded as one that continues a text. "
            f"Choose a decoder, {_KNOWN_KINDS}."
        )
    if family in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        raise ModelUnavailable(
            f"{name} is an encoder (“{family}”): its tokens see the words after them, so it cannot continue a text. "
            f"Choose a decoder, {_KNOWN_KINDS}."
        )
    if any(isinstance(n := part.get(key), int) and n > 1 for part in (config, text or {}) for key in _EXPERTS):
        raise ModelUnavailable(
            f"{name} is a mixture of experts: which neurons work depends on the token, so a ranking of all neurons "
            f"does not describe it. Choose a dense model, {_KNOWN_KINDS}."
        )


def _refuse_quantised(config: dict[str, Any], name: str) -> None:
    parts = [config, config.get("text_config")]
    for part in parts:
        found = part.get("quantization_config") or part.get("quantization") if isinstance(part, dict) else None
        if not isinstance(found, dict):
            continue
        bits = found.get("bits") or found.get("w_bit")
        bits = bits or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
        how = ", ".join(filter(None, (f"{bits} bits" if bits else "", str(found.get("quant_method") or ""))))
        raise ModelUnavailable(
            f"The weights of {name} are quantised{f' ({how})' if how else ''}, so the neurons' output weights cannot "
            "be read exactly. Choose the unquantised checkpoint of the same model."
        )
