"""Whether a model's parameters are ones that can be measured and edited: plain, in memory, finite, not shared."""

import torch
from torch import Tensor, nn

from pprobe_core.errors import ModelUnavailable

PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_weights(model: nn.Module, name: str) -> None:
    """Raise ModelUnavailable for quantised, offloaded or non-finite weights, naming the tensor and what would help."""
    config = getattr(model, "config", None)
    if getattr(config, "quantization_config", None) is not None or getattr(model, "is_quantized", False):
        raise ModelUnavailable(
            f"{name} is quantised, so its weights cannot be read exactly. Use the unquantised bfloat16 checkpoint."
        )
    for key, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ModelUnavailable(
                f"{name} does not fit in memory: {key} was left on disk, or is fetched anew for each pass. "
                "Use a smaller model or a machine with more memory."
            )
        if parameter.dtype not in PLAIN_DTYPES:
            raise ModelUnavailable(
                f"{name} holds {key} as {str(parameter.dtype).removeprefix('torch.')}; accepted are float32, float16 "
                "and bfloat16. Use the unquantised checkpoint."
            )
        if not _is_finite(parameter.detach()):
            n_bad = int((~torch.isfinite(parameter)).sum())
            raise ModelUnavailable(
                f"{name} has weights that are not numbers (NaN or infinite): {n_bad:,} of {parameter.numel():,} values "
                f"in {key}. The checkpoint is damaged; download or train it again."
            )


def _is_finite(tensor: Tensor) -> bool:
    """True when every element is a number: smallest and largest say it, in one reading and without a second copy."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def has_experts(module: nn.Module) -> bool:
    """True when a layer holds a mixture of experts: a list of experts or one parameter with an axis for them."""
    return any(
        key.rsplit(".", 1)[-1] in ("experts", "local_experts") or type(child).__name__.endswith("Experts")
        for key, child in module.named_modules()
    )
