"""Building blocks that know nothing of codecs. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.nn.init import SMALL_GAIN


class ResidualBlock(nn.Module):
    """x + conv3(act(conv3(act(x)))), middle width ``channels * bottleneck``.

    slope: of the leaky activations.
    last: there is one after the second convolution too (DCVC-DC's context codec).

    Dense 3x3 convolutions: measured on a CPU with matrix units they train 3 to 4 times faster
    than a depthwise-separable block of the same width (docs/architecture.md).
    """

    def __init__(
        self, channels: int, bottleneck: float = 1.0, slope: float = 0.1, last: bool = False
    ) -> None:
        super().__init__()
        middle = max(8, int(channels * bottleneck))
        self.slope, self.last = slope, last
        self.conv1 = conv(channels, middle)
        self.conv2 = conv(middle, channels, gain=0.0)  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        h = self.conv1(F.leaky_relu(x, self.slope))
        h = self.conv2(F.leaky_relu(h, self.slope))
        return x + (F.leaky_relu(h, self.slope) if self.last else h)


class DepthwiseBlock(nn.Module):
    """Depthwise-separable convolution and feed-forward, each with a skip (after DCVC-DC).

    outputs: channels after the convolution (default: the inputs; else the skip is a 1x1
    convolution).
    feed_forward: ``plain`` = 1x1, activation, 1x1, activation, `hidden` wide; ``gated`` and
    ``sum`` = 1x1 to twice `hidden`, whose halves (a, b) become a act(b) or act(a) + act(b), 1x1.
    hidden: channels; default: twice the outputs.
    product: the depthwise branch is multiplied with a second 1x1 branch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int | None = None,
        feed_forward: Literal["plain", "gated", "sum"] = "plain",
        hidden: int | None = None,
        product: bool = False,
    ) -> None:
        super().__init__()
        outputs = outputs or inputs
        hidden = hidden or 2 * outputs
        middle = outputs if product else inputs
        self.feed_forward = feed_forward
        self.point1 = conv(inputs, middle, 1)
        self.depth = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.point2 = conv(inputs if product else middle, outputs, 1, gain=SMALL_GAIN)
        self.merge = conv(outputs, outputs, 1) if product else None
        self.skip = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.expand = conv(outputs, hidden if feed_forward == "plain" else 2 * hidden, 1)
        self.reduce = conv(hidden, outputs, 1, gain=SMALL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] -> [B, outputs, H, W]."""
        h = self.depth(F.leaky_relu(self.point1(x), 0.01))
        h = self.point2(h) if self.merge is None else self.merge(h * self.point2(x))
        x = self.skip(x) + h
        h = self.expand(x)
        if self.feed_forward == "plain":
            return x + F.leaky_relu(self.reduce(F.leaky_relu(h, 0.1)), 0.1)
        a, b = h.chunk(2, 1)
        if self.feed_forward == "gated":
            return x + self.reduce(a * F.leaky_relu(b, 0.1))
        return x + self.reduce(F.leaky_relu(a, 0.1) + F.leaky_relu(b, 0.01))


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, gain: float = 1.0
) -> nn.Conv2d:
    """Convolution that keeps the size (or divides it by `stride`).

    Starts with the variance of its input times gain^2 and zero bias; see init.py for others.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=gain / (inputs * kernel * kernel) ** 0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def upsample(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    """Sub-pixel convolution: [B, inputs, H, W] -> [B, outputs, 2H, 2W]."""
    return nn.Sequential(conv(inputs, 4 * outputs, kernel), nn.PixelShuffle(2))


def warp(x: Tensor, flow: Tensor, finer: int = 1, cubic: bool = False) -> Tensor:
    """Backward warping: output(p) = x(p + flow(p)), borders replicated.

    x [B, C, finer H, finer W], flow [B, 2, H, W] in pixels of its resolution (horizontal,
    vertical) -> [B, C, H, W] of x's type. Positions are always float32: half precision has no room
    for sub-pixel positions.
    cubic: between 4x4 samples instead of 2x2: several times in a row, bilinear warps blur.
    """
    given = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        x, flow = x.float(), flow.float()
        height, width = flow.shape[-2:]
        column = torch.arange(width, device=flow.device, dtype=torch.float32)
        row = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
        # Clamped here: the last samples of a finer picture lie outside of the coarser one.
        grid_x = (column + flow[:, 0]).clamp(0, width - 1) * (2 * finer / max(finer * width - 1, 1))
        grid_y = (row + flow[:, 1]).clamp(0, height - 1) * (2 * finer / max(finer * height - 1, 1))
        grid = torch.stack((grid_x, grid_y), -1) - 1
        mode = "bicubic" if cubic else "bilinear"
        moved = F.grid_sample(x, grid, mode, padding_mode="border", align_corners=True)
        return moved.to(given)


# Half of the half-sample interpolation filter of HEVC (luma, 8 taps), from its middle outwards; the
# other half is its mirror image. Over 64.
_HALF_SAMPLE = (40, -11, 4, -1)


def half_samples(x: Tensor) -> Tensor:
    """[B, C, H, W] with the samples halfway between its own, [B, C, 2H, 2W]: sample p is at 2p.

    Frames are warped from this: bilinear interpolation between half samples predicts better than
    bicubic between whole ones (docs/architecture.md), and costs less where several flows are used.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float().contiguous()
        for dim, padding in ((3, (3, 4, 0, 0)), (2, (0, 0, 3, 4))):
            x = torch.stack((x, _between(x, dim, padding)), dim + 1).flatten(dim, dim + 1)
        return x


def _between(x: Tensor, dim: int, padding: tuple[int, ...]) -> Tensor:
    """Half-way from each sample to the next one along `dim`. Sums of shifted pictures: there are no
    taps to be sent to a GPU, and a convolution of one channel is slower and takes more memory."""
    padded, size = F.pad(x, padding, mode="replicate"), x.shape[dim]
    between: Tensor | None = None
    for k, weight in enumerate(_HALF_SAMPLE):
        pair = padded.narrow(dim, 3 - k, size) + padded.narrow(dim, 4 + k, size)
        part = pair * (weight / 64)
        between = part if between is None else between + part
    assert between is not None
    return between


def resize_flow(flow: Tensor, factor: float) -> Tensor:
    """Flow [B, 2, H, W] at `factor` times its resolution, its vectors scaled alike."""
    if factor == 1:
        return flow
    with torch.autocast(flow.device.type, enabled=False):
        flow = flow.float()
        if factor < 1:
            return F.avg_pool2d(flow, round(1 / factor)) * factor
        scaled = F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)
        return scaled * factor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom by replication to a multiple of `multiple`, any size from 1x1."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def round_ste(x: Tensor) -> Tensor:
    """Rounding whose gradient is the identity (straight-through estimator)."""
    return x + (x.round() - x).detach()
