"""What a sweep is compared with: random neurons of the same layers, random directions orthogonal to the real one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Head, ModelShape, Neuron, check_neurons
from pprobe_core.interventions.types import N_DRAWS


@dataclass(frozen=True)
class NeuronDraw:
    """One random stand-in for a ranking: its k-th neuron lies in the layer of the ranking's k-th neuron.

    So the first n of a draw are the control of the first n of the ranking, for every n. `n_overlap` counts drawn
    neurons that are of the ranking itself, which happens where a layer has too few others and makes the control more
    cautious.
    """

    draw: int
    neurons: tuple[Neuron, ...]
    n_overlap: int


def matched_neurons(
    ranked: Sequence[Neuron], shape: ModelShape, seed: int, n_draws: int = N_DRAWS
) -> tuple[NeuronDraw, ...]:
    """`n_draws` layer-matched random draws for a ranking, seeded; a draw does not depend on how many there are.

    Raises BadRequest for fewer than one draw or neurons the model does not have.
    """
    if n_draws < 1:
        raise BadRequest(f"{n_draws} control draws were asked for; at least 1 is needed, and {N_DRAWS} are shown.")
    check_neurons(ranked, shape)
    places: dict[int, list[int]] = defaultdict(list)  # layer -> ranks
    for rank, neuron in enumerate(ranked):
        places[neuron.layer].append(rank)
    draws = []
    for draw in range(n_draws):
        drawn: list[Neuron] = [Neuron(0, 0)] * len(ranked)
        for layer, ranks in places.items():
            generator = np.random.default_rng([seed, draw, layer])
            taken = np.array([ranked[rank].neuron for rank in ranks])
            others = np.setdiff1d(np.arange(shape.d_mlp), taken)
            pool = others if len(others) >= len(ranks) else np.arange(shape.d_mlp)
            chosen = generator.permutation(pool)[: len(ranks)]
            for rank, neuron in zip(ranks, chosen, strict=True):
                drawn[rank] = Neuron(layer, int(neuron))
        draws.append(NeuronDraw(draw, tuple(drawn), len(set(drawn) & set(ranked))))
    return tuple(draws)


def random_heads(n: int, shape: ModelShape, seed: int, n_draws: int = N_DRAWS) -> tuple[tuple[Head, ...], ...]:
    """`n_draws` random sets of `n` different heads of any layer. Raises BadRequest when there are not as many."""
    if shape.n_heads is None:
        raise BadRequest(
            "This model's attention heads cannot be told apart, so none can be edited. Edit neurons instead."
        )
    total = shape.n_layers * shape.n_heads
    if n > total:
        raise BadRequest(f"{n:,} attention heads were asked for; this model has {total:,}. Ask for fewer.")
    n_heads = shape.n_heads
    return tuple(
        tuple(
            Head(int(k) // n_heads, int(k) % n_heads)
            for k in np.random.default_rng([seed, draw]).permutation(total)[:n]
        )
        for draw in range(n_draws)
    )


def orthogonal_directions(
    direction: Float[Tensor, "d_model"], seed: int, n_draws: int = N_DRAWS
) -> Float[Tensor, "draw d_model"]:
    """Random directions orthogonal to `direction` and as long as it. Raises BadRequest when it has length zero."""
    exact = direction.detach().double().cpu()
    norm = exact.norm()
    if not bool(torch.isfinite(exact).all()) or norm == 0:
        raise BadRequest("The direction has length zero or is not finite, so there is none to compare it with.")
    if len(exact) < 2:
        raise BadRequest("A direction in a single dimension has no other orthogonal to it.")
    unit = exact / norm
    out = []
    for draw in range(n_draws):
        generator = np.random.default_rng([seed, draw])
        random = torch.from_numpy(generator.standard_normal(len(exact)))
        random -= (random @ unit) * unit
        random -= (random @ unit) * unit  # again, for what rounding left over
        out.append(random / random.norm() * norm)
    return torch.stack(out).float()
