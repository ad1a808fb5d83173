"""Tiny random models, ready to be edited, with made-up prompts: what the tests of the interventions share."""

import functools

import torch
from torch import nn

from pprobe_core.interventions.edits import (
    AddVector,
    Edits,
    HoldOutput,
    Neuron,
    Patch,
    PatchOutput,
    Scale,
    ScaleOutput,
)
from pprobe_core.interventions.evaluator import EvalPrompt
from pprobe_core.models.catalogue import ModelEntry
from pprobe_core.models.loading import LoadedModel
from pprobe_core.models.structure import discover
from tests.tiny_models import D_MLP, HIDDEN, LAYERS, random_model, tiny_config, tiny_tokenizer

__all__ = ["D_MLP", "HIDDEN", "LAYERS", "loaded_tiny", "n_hooks", "random_prompts", "some_edits", "vector"]


@functools.cache
def loaded_tiny(family: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A tiny random model with its proved structure; tests leave it as they found it."""
    config, tokenizer = tiny_config(family), tiny_tokenizer()
    # Fused attention leaves out soft-caps, as the loader knows.
    if getattr(config, "attn_logit_softcapping", None):
        config._attn_implementation = "eager"
    model = random_model(config, dtype=dtype)
    model.requires_grad_(False)
    structure = discover(model, tokenizer)
    entry = ModelEntry(family, "", family, LAYERS, structure.d_mlp, HIDDEN, 0, False, family, None)
    return LoadedModel(
        id=family,
        path="",
        family=family,
        revision=None,
        weights_sha256="0" * 64,
        config_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
        model=model,
        tokenizer=tokenizer,
        structure=structure,
        entry=entry,
    )


def random_prompts(lengths: tuple[int, ...], seed: int = 0) -> tuple[EvalPrompt, ...]:
    """Made-up token ids: every third pair is held out; observables differ between prompts."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 480, (n,), generator=generator).tolist())

    return tuple(
        EvalPrompt(
            pair_id=f"p{i}",
            split="heldout" if i % 3 == 2 else "discovery",
            input_ids=ids(length),
            other_ids=ids(length + i % 2),
            target_ids=(10 + i, 11, 12),
            control_ids=(20, 21 + i),
        )
        for i, length in enumerate(lengths)
    )


def n_hooks(model: nn.Module) -> int:
    """Hooks of any kind on the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def vector(seed: int) -> torch.Tensor:
    """A made-up direction in the residual stream."""
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


def some_edits() -> list[Edits]:
    """One edit of every kind, at the decision position, and compounds of them."""
    some = (Neuron(0, 3), Neuron(1, 7), Neuron(2, 50))
    return [
        (Scale(some, 0.0),),
        (Scale(some, 1.0),),
        (),
        (Scale((Neuron(2, 1),), -2.0),),
        (Patch(some),),
        (ScaleOutput((1,), "ffn"),),
        (ScaleOutput((0, 2), "attention"),),
        (PatchOutput((1,), "residual"),),
        (PatchOutput((0,), "residual"), HoldOutput((1, 2), "attention")),
        (PatchOutput((0, 1), "attention"),),
        (AddVector.along(1, vector(0), 5.0),),
        (AddVector.along(1, vector(0), -0.5, relative=True),),
        (AddVector.along(0, vector(1), 2.0), AddVector.along(1, vector(2), 3.0), Scale((Neuron(1, 0),), 3.0)),
    ]
