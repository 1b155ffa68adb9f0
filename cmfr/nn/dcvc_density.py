"""Formulas of DCVC's published densities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# DCVC adds this to every probability: no symbol costs more than 16.6 bits in an estimate.
_DCVC_FLOOR = 1e-5


def dcvc_bits(mass: Tensor) -> Tensor:
    """-log2(mass + 1e-5), at least 0: the estimate of DCVC-DC and -FM."""
    return -torch.log2(mass + _DCVC_FLOOR).clamp(max=0)


class CumulativeStage(nn.Module):
    """One stage of DCVC's factorized density: x softplus(h) + b, then + tanh(.) tanh(a) but in
    the last. Parameters [sets, C, 1, 1]."""

    def __init__(self, sets: int, channels: int, last: bool) -> None:
        super().__init__()
        shape = (sets, channels, 1, 1)
        self.h, self.b = (nn.Parameter(torch.empty(shape).normal_(0, 0.01)) for _ in range(2))
        self.a = None if last else nn.Parameter(torch.empty(shape).normal_(0, 0.01))

    def forward(self, x: Tensor, chosen: Tensor | int) -> Tensor:
        x = x * nn.functional.softplus(self.h[chosen]) + self.b[chosen]
        return x if self.a is None else x + torch.tanh(x) * torch.tanh(self.a[chosen])
