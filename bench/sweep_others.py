"""The points of a sweep one by one with other interpretability libraries, where they are installed.

None is a dependency, and nothing is fetched: each wraps the loaded model, in a copy of its modules that shares the
weights, because both change the modules they wrap. As in `one by one`, nothing is kept for later tokens and only the
last position is unembedded.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pprobe_core.interventions.edits import Edits, Scale
from pprobe_core.interventions.evaluator import EvalPrompt
from pprobe_core.models.loading import LoadedModel
from pprobe_core.probing.decomposition import logit_diff

ByLayer = dict[int, list[int]]  # the neurons set to zero at the last position
LastLogits = Callable[[ByLayer, Tensor], Tensor]  # of one prompt's ids [1, token]: logits [1, vocab]
Way = Callable[[Sequence[Edits], Sequence[EvalPrompt]], np.ndarray]  # logit differences [edit, prompt]


def with_nnsight(model: Any, down_projections: Sequence[str]) -> LastLogits:
    """A trace per point that writes the inputs of the down projections, given by their paths in the model."""
    from nnsight import NNsight

    wrapped = NNsight(model)
    downs = [wrapped.get(path) for path in down_projections]

    def run(neurons: ByLayer, ids: Tensor) -> Tensor:
        with wrapped.trace(input_ids=ids, use_cache=False, logits_to_keep=1):
            for layer, chosen in neurons.items():
                downs[layer].input[0, -1, chosen] = 0.0
            logits = wrapped.output.logits.save()
        return logits[:, -1]

    return run


def with_transformer_lens(model: Any, down_projections: Sequence[str]) -> LastLogits:
    """Hooks on hook_post, which is what a down projection reads, of TransformerLens's bridge to a model."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=copy.deepcopy(model.config))

    def zero(chosen: list[int]) -> Callable[..., Tensor]:
        def hook(acts: Tensor, hook: Any) -> Tensor:
            acts[0, -1, chosen] = 0.0
            return acts

        return hook

    def run(neurons: ByLayer, ids: Tensor) -> Tensor:
        hooks = [(f"blocks.{layer}.mlp.hook_post", zero(chosen)) for layer, chosen in neurons.items()]
        return bridge.run_with_hooks(ids, fwd_hooks=hooks, use_cache=False, logits_to_keep=1)[:, -1]

    return run


# Name: package, whose module is called the same with underscores, and how to wrap a model.
LIBRARIES = {"nnsight": ("nnsight", with_nnsight), "TransformerLens": ("transformer-lens", with_transformer_lens)}


def other_ways(loaded: LoadedModel, edits: Edits, prompt: EvalPrompt) -> tuple[dict[str, Way], dict[str, str]]:
    """Ways by name, of the libraries that can be imported, and the reasons of those that do not work.

    Each is tried on one point first, so that a failure shows here and nothing is started inside a measurement.
    """
    ways: dict[str, Way] = {}
    skipped: dict[str, str] = {}
    paths = {module: path for path, module in loaded.model.named_modules()}
    down_projections = [paths[block.down_proj] for block in loaded.structure.blocks]
    for name, (_, wrap) in _installed().items():
        try:
            shared = {id(p): p for p in loaded.model.parameters()}
            way = _one_by_one(wrap(copy.deepcopy(loaded.model, shared), down_projections), loaded.device)
            way([edits], [prompt])
        except Exception as error:  # each library raises what it likes for a model that it does not know
            reason = str(error).strip().partition("\n")[0][:200]
            skipped[f"{name}, one by one"] = f"{name} cannot run this model ({type(error).__name__}: {reason})."
        else:
            ways[f"{name}, one by one"] = way
    return ways, skipped


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on most: torch, transformers and the libraries that can be imported."""
    packages = {"torch": "torch", "transformers": "transformers"} | {n: p for n, (p, _) in _installed().items()}
    found = {}
    for name, package in packages.items():
        with suppress(PackageNotFoundError):  # a bare folder on the path has no version
            found[name] = version(package)
    return found


def _installed() -> dict[str, tuple[str, Callable[[Any, Sequence[str]], LastLogits]]]:
    return {name: entry for name, entry in LIBRARIES.items() if find_spec(entry[0].replace("-", "_")) is not None}


def _one_by_one(run: LastLogits, device: str) -> Way:
    @torch.inference_mode()
    def way(edits: Sequence[Edits], prompts: Sequence[EvalPrompt]) -> np.ndarray:
        out = np.empty((len(edits), len(prompts)))
        for i, prompt in enumerate(prompts):
            ids = torch.tensor([prompt.input_ids], device=device)
            for e, edit in enumerate(edits):
                logits = run(_by_layer(edit), ids)
                out[e, i] = float(logit_diff(logits, [prompt.target_ids], [prompt.control_ids])[0])
        return out

    return way


def _by_layer(edits: Edits) -> ByLayer:
    """Neurons by layer, in the order of the layers, in which a trace must name them."""
    neurons: ByLayer = {}
    for edit in edits:
        if not isinstance(edit, Scale) or edit.factor or edit.position != "decision":
            raise ValueError("Only neurons set to zero at the last position are compared.")
        for layer, neuron in sorted(edit.neurons):
            neurons.setdefault(layer, []).append(neuron)
    return neurons
