"""Candidates for a decoder's parts, by shape and lists of usual names; structure.py trusts none and proves all."""

from dataclasses import dataclass

from torch import nn

from pprobe_core.models.trace import refusal

FFN_NAMES = ("mlp", "feed_forward", "ffn", "ff")
DOWN_NAMES = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2", "wo", "proj_out")
MIXER_NAMES = ("self_attn", "linear_attn", "attn", "attention", "self_attention", "conv", "short_conv", "mixer")
_OTHER_TOWERS = ("vision", "visual", "audio", "image", "encoder.")


@dataclass(frozen=True)
class Parts:
    """Named candidates inside one decoder layer."""

    module: nn.Module
    ffn: nn.Module
    down_proj: nn.Module
    mixers: tuple[nn.Module, ...]  # usually one


def find_layers(model: nn.Module, n_layers: int, name: str) -> nn.ModuleList:
    """The list of `n_layers` decoder layers. Raises ModelUnavailable when there is none."""
    if n_layers < 1:
        raise refusal(name, "its configuration states no number of layers")
    lists = [
        m
        for path, m in model.named_modules()
        if isinstance(m, nn.ModuleList) and len(m) == n_layers and not any(t in path for t in _OTHER_TOWERS)
    ]
    for candidate in lists:
        if all(find_parts(layer) is not None for layer in candidate):
            return candidate
    if lists:
        children = sorted({child for layer in lists[0] for child, _ in layer.named_children()})
        raise refusal(
            name, f"its layers have no attention and feed-forward part each (they hold {', '.join(children)})"
        )
    raise refusal(name, f"it has no list of {n_layers} decoder layers")


def find_parts(layer: nn.Module) -> Parts | None:
    """Feed-forward child, down projection and token mixers of one layer by their usual names, or None."""
    children = dict(layer.named_children())
    ffn = next((children[n] for n in FFN_NAMES if n in children), None)
    holder = dict((ffn if ffn is not None else layer).named_children())
    down = next((holder[n] for n in DOWN_NAMES if n in holder and hasattr(holder[n], "weight")), None)
    mixers = tuple(children[n] for n in MIXER_NAMES if n in children)
    if down is None or not mixers:
        return None
    return Parts(layer, down if ffn is None else ffn, down, mixers)
