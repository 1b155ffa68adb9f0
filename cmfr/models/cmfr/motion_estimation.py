"""Motion estimation, in the encoder only: optical flow from coarse to fine.

Flows are [B, 2, h, w] in pixels of their resolution and warp the reference to the target.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.config import MatchingLevel
from cmfr.nn.encoder_network import encoder_network
from cmfr.nn.layers import conv, resize_flow, warp


def pyramid(x: Tensor, strides: list[int]) -> list[Tensor]:
    """The frame reduced by every stride, coarse to fine."""
    pictures, stride = [], 1
    for wanted in reversed(strides):
        while stride < wanted:
            x, stride = F.avg_pool2d(x, 2), 2 * stride
        pictures.append(x)
    return pictures[::-1]


class MatchingNetwork(nn.Module):
    """One level of `MotionEstimation`: a search around the flow so far, corrected by a network.

    The search needs no training: the target is compared with the reference, warped with the flow so
    far and moved by up to `radius`, in windows of 5x5; the mean of the displacements, weighted with
    a softmax of how well they match, is added to the flow. The network sees the costs and both
    pictures and adds what is left. It starts at zero.

    fold: the level's pictures are so many times finer than the flow.
    """

    displacements: Tensor

    def __init__(self, level: MatchingLevel, fold: int) -> None:
        super().__init__()
        self.radius, self.fold = level.radius, fold
        side = torch.arange(-level.radius, level.radius + 1.0)
        rows, columns = torch.meshgrid(side, side, indexing="ij")
        displacements = torch.stack([columns.flatten(), rows.flatten()], 1)
        self.register_buffer("displacements", displacements, persistent=False)
        inputs, costs = 6 * fold * fold + 2, len(displacements) if level.radius else 0
        if level.radius:
            self.log_sharpness = nn.Parameter(torch.tensor(9.0))
            self.log_reluctance = nn.Parameter(torch.tensor(-1.5))
        layers: list[nn.Module] = []
        for width, outputs in zip((inputs + costs, *level.widths), (*level.widths, 2), strict=True):
            layers += [conv(width, outputs), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers[:-1])
        nn.init.zeros_(layers[-2].weight)  # type: ignore[arg-type]

    def forward(self, target: Tensor, reference: Tensor, flow: Tensor) -> Tensor:
        """target, reference [B, 3, H, W]; flow [B, 2, H/fold, W/fold] -> better flow."""
        # Every level learns from its own error: gradients through all warps explode.
        flow = flow.detach()
        warped = warp(reference, resize_flow(flow, self.fold))
        pictures = torch.cat([target, warped], 1) - 0.5
        if self.fold > 1:
            pictures = F.pixel_unshuffle(pictures, self.fold)
        seen = [pictures, flow / 10]
        if self.radius:
            cost = self._costs(target[:, :1], warped[:, :1])
            distance = self.displacements.square().sum(1)[:, None, None]
            logits = -cost * self.log_sharpness.exp() - distance * self.log_reluctance.exp()
            flow = flow + torch.einsum("bnhw,nd->bdhw", logits.softmax(1), self.displacements)
            seen.append(cost / (cost.mean(1, keepdim=True) + 1e-4) - 1)
        return flow + self.net(torch.cat(seen, 1)).float()

    def _costs(self, target: Tensor, warped: Tensor) -> Tensor:
        """Mean squared differences in windows of 5x5: luma [B, 1, h, w] -> [B, n, h, w]."""
        radius, (height, width) = self.radius, target.shape[2:]
        padded = F.pad(warped, (radius,) * 4, mode="replicate")
        moved = F.unfold(padded, 2 * radius + 1).unflatten(2, (height, width))
        return F.avg_pool2d(F.pad((moved - target).square(), (2,) * 4, mode="replicate"), 5, 1)


class MotionEstimation(nn.Module):
    """Coarse-to-fine search and correction (ours; SpyNet's pyramid with cost volumes).

    Levels finer than `output_stride` only refine the flow at that stride, from finer pictures.
    """

    def __init__(self, levels: tuple[MatchingLevel, ...], output_stride: int) -> None:
        super().__init__()
        self.strides = [level.stride for level in levels]
        self.output_stride = output_stride
        folds = [max(1, output_stride // stride) for stride in self.strides]
        self.levels = nn.ModuleList(map(MatchingNetwork, levels, folds))

    @encoder_network()
    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """x, reference [B, 3, H, W] -> flow [B, 2, H/s, W/s] that warps the reference to x."""
        return self.all_levels(x, reference)[-1]

    def all_levels(self, x: Tensor, reference: Tensor) -> list[Tensor]:
        """What every level makes of the flow, for training."""
        first = self.strides[0]
        flow = x.new_zeros(len(x), 2, x.shape[2] // first, x.shape[3] // first)
        previous, flows = first, []
        pictures = zip(pyramid(x, self.strides), pyramid(reference, self.strides), strict=True)
        for stride, level, (target, source) in zip(
            self.strides, self.levels, pictures, strict=True
        ):
            stride = max(stride, self.output_stride)
            flow = level(target, source, resize_flow(flow, previous / stride))
            flows.append(flow)
            previous = stride
        flows[-1] = resize_flow(flow, previous / self.output_stride)
        return flows
