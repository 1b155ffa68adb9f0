"""Building blocks that know nothing of codecs. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.config import QUALITIES, ModelConfig
from cmfr.starts import LEAK


class ResidualBlock(nn.Module):
    """x + conv3(act(conv3(act(x)))), middle width ``channels * bottleneck``.

    Dense 3x3 convolutions: measured on a CPU with matrix units they train 3 to 4 times faster
    than a depthwise-separable block of the same width (docs/architecture.md).
    """

    def __init__(self, channels: int, bottleneck: float = 1.0) -> None:
        super().__init__()
        middle = max(8, int(channels * bottleneck))
        self.conv1 = conv(channels, middle)
        self.conv2 = conv(middle, channels, gain=LEAK)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.1))
        return x + self.conv2(F.leaky_relu(h, 0.1))


class DepthwiseBlock(nn.Module):
    """Depthwise-separable convolution and feed-forward, each with a skip (as in DCVC-DC)."""

    def __init__(self, channels: int, bottleneck: float = 1.0) -> None:
        super().__init__()
        self.point1 = conv(channels, channels, 1)
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.point2 = conv(channels, channels, 1, gain=LEAK)
        hidden = max(8, int(2 * channels * bottleneck))
        self.expand = conv(channels, hidden, 1)
        self.reduce = conv(hidden, channels, 1, gain=LEAK)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.point2(self.depth(F.leaky_relu(self.point1(x), 0.01)))
        return x + self.reduce(F.leaky_relu(self.expand(x), 0.1))


def block(cfg: ModelConfig, channels: int) -> nn.Module:
    """The residual block that the config asks for, C -> C."""
    kind = ResidualBlock if cfg.block == "residual" else DepthwiseBlock
    return kind(channels, cfg.bottleneck)


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, gain: float = 1.0
) -> nn.Conv2d:
    """Convolution that keeps the size (or divides it by `stride`).

    Starts with the variance of its input times gain^2 and zero bias; see starts.py for others.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=gain / (inputs * kernel * kernel) ** 0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def upsample(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    """Sub-pixel convolution: [B, inputs, H, W] -> [B, outputs, 2H, 2W]."""
    return nn.Sequential(conv(inputs, 4 * outputs, kernel), nn.PixelShuffle(2))


# Initial gains of latents at quality 0 and 63. Latents start as orthonormal transform
# coefficients of samples in [0, 1], so these are the inverse quantization steps: about 27 dB and
# 41 dB of uniform quantization noise.
LATENT_GAINS = (5.0, 40.0)
INVERSE_GAINS = (1 / 5.0, 1 / 40.0)


class QualityScaler(nn.Module):
    """Learned per-channel gain of the quality index (feature modulation).

    Gains are kept as logarithms at a few anchors and interpolated linearly between them, so that
    all 64 indices learn from every sample. `ends` are the initial gains at quality 0 and 63. The
    mechanism is DCVC-DC's and -FM's; the per-channel anchors are ours.
    """

    ANCHORS = 8

    def __init__(self, channels: int, ends: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        first, last = torch.tensor(ends).log()
        line = torch.lerp(first, last, torch.linspace(0, 1, self.ANCHORS))
        self.log_gain = nn.Parameter(line[:, None].repeat(1, channels))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, C, H, W], quality [B] integers 0..63 -> x times the gain."""
        position = quality.to(self.log_gain.dtype) * ((self.ANCHORS - 1) / (QUALITIES - 1))
        low = position.floor().clamp(max=self.ANCHORS - 2).long()
        fraction = (position - low)[:, None]
        log_gain = torch.lerp(self.log_gain[low], self.log_gain[low + 1], fraction)
        return x * log_gain.exp()[:, :, None, None].to(x.dtype)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Backward warping: output(p) = x(p + flow(p)), bilinear, borders replicated.

    x [B, C, H, W], flow [B, 2, H, W] in pixels (horizontal, vertical). Always in float32: half
    precision has no room for sub-pixel positions.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, flow = x.float(), flow.float()
        height, width = flow.shape[-2:]
        column = torch.arange(width, device=flow.device, dtype=torch.float32)
        row = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
        grid_x = (flow[:, 0] + column) * (2 / max(width - 1, 1)) - 1
        grid_y = (flow[:, 1] + row) * (2 / max(height - 1, 1)) - 1
        grid = torch.stack((grid_x, grid_y), -1)
        return F.grid_sample(x, grid, "bilinear", padding_mode="border", align_corners=True)


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
