"""The optimiser of pre-training: Muon for the matrices inside the blocks, Adam for embeddings and norms.

Muon (K. Jordan, 2024) takes the momentum's nearest orthogonal matrix as the step. At this size it learns the
comparison of a claim with a known fact in far fewer tokens than Adam alone.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration, from the same source


def orthogonalise(matrices: Tensor, n_iterations: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearly orthogonal matrices with the same row and column spaces, for a stack `[n, rows, columns]`.

    `dtype` is that of the products: bfloat16 is enough, and slow on processors that do not know it.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(n_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; equal shapes are stepped as one stack."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape].append((parameter, parameter.grad))
            for shape, members in stacks.items():
                updates = []
                for parameter, gradient in members:
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(gradient, 1 - group["momentum"])
                    updates.append(torch.lerp(gradient, momentum, group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                steps = orthogonalise(torch.stack(updates), dtype=self.dtype)
                for (parameter, _), update in zip(members, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)


def pretraining_optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, dtype: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon over the block matrices and Adam over all other parameters."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, lr=muon_lr, weight_decay=0.05, dtype=dtype),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
