"""DCVC's motion estimation, in the encoder only: optical flow from coarse to fine.

Flows are [B, 2, h, w] in pixels of their resolution and warp the reference to the target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmfr.models.cmfr.motion_estimation import pyramid
from cmfr.models.dcvc.config import EstimationLevel
from cmfr.nn.layers import conv, resize_flow, warp
from cmfr.nn.portable import encoder_only


class EstimationNetwork(nn.Sequential):
    """Plain convolutions of one pyramid level: [B, 8, h, w] -> flow correction [B, 2, h, w]."""

    def __init__(self, level: EstimationLevel) -> None:
        widths = (8, *level.widths, 2)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [conv(inputs, outputs, level.kernel), nn.ReLU()]
        super().__init__(*layers[:-1])
        with torch.no_grad():
            layers[-2].weight.mul_(0.1)  # type: ignore[operator]  # near no motion


class SpyNet(nn.Module):
    """SpyNet (CVPR 2017): DCVC's motion estimation.

    Each level sees the target, the reference warped with the flow so far, and that flow.
    """

    def __init__(self, levels: tuple[EstimationLevel, ...]) -> None:
        super().__init__()
        self.strides = [level.stride for level in levels]
        self.levels = nn.ModuleList(EstimationNetwork(level) for level in levels)

    @encoder_only()
    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """x, reference [B, 3, H, W] -> flow [B, 2, H, W] that warps the reference to x."""
        first = self.strides[0]
        flow = x.new_zeros(len(x), 2, x.shape[2] // first, x.shape[3] // first)
        previous = first
        pictures = zip(pyramid(x, self.strides), pyramid(reference, self.strides), strict=True)
        for stride, level, (target, source) in zip(
            self.strides, self.levels, pictures, strict=True
        ):
            flow = resize_flow(flow, previous / stride)
            correction = level(torch.cat([target, warp(source, flow), flow], 1))
            flow, previous = flow + correction.float(), stride
        return flow
