"""Muon, an optimizer whose step moves every direction of a weight matrix alike, for the miniature's trainings."""

import math

import torch


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum 0.95 for weight matrices (Jordan et al. 2024), steps scaled as AdamW's.

    `torch.optim.Muon` orthogonalises in bfloat16: 0.8 s a step on a processor without it, where float32 takes 0.05 s.
    In 500 steps it gains more than twice what AdamW gains (docs/LOG.md).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 0.05)
                update = orthogonalised(matrix.grad.lerp(momentum, 0.95))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix` `[rows, columns]` with its singular values moved near 1: five Newton-Schulz steps (quintic of Muon)."""
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
