"""Gains that the quality index chooses: one set of weights for all 64 qualities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cmfr.config import QUALITIES

# Initial gains (inverse quantization steps) of latents at quality 0 and 63. Latents start as
# orthonormal transform coefficients of samples in [0, 1]. The steps that classical encoders find
# best for a distortion D on [0, 1] and a rate in bits per pixel make the gain 10 sqrt(lambda / 756)
# at a weight of 1; luma's is 3/4. Here for lambda 32 and 16384, for I-frames 3 times as much.
LATENT_GAINS = (1.8, 40.0)
INTRA_GAINS = (3.1, 70.0)


class QualityScaler(nn.Module):
    """Learned per-channel gain of the quality index (feature modulation).

    Gains are kept as logarithms at a few anchors and interpolated linearly between them, so that
    all 64 indices learn from every sample. The mechanism is DCVC-DC's and -FM's; eight anchors per
    channel are ours.

    channels: 1 = one gain for all of them.
    ends: the initial gains at quality 0 and 63.
    anchors: how many, evenly from quality 0 to 63.
    factors: so many channels have a factor of their own beside the gain.
    through: which anchors count, all or only the two ends (`DCVCConfig`).
    """

    def __init__(
        self,
        channels: int,
        ends: tuple[float, float] = (1.0, 1.0),
        anchors: int = 8,
        factors: int = 0,
        through: Literal["anchors", "ends"] = "anchors",
    ) -> None:
        super().__init__()
        first, last = torch.tensor(ends).log()
        line = torch.lerp(first, last, torch.linspace(0, 1, anchors))
        self.log_gain = nn.Parameter(line[:, None].repeat(1, channels))
        self.factor = nn.Parameter(torch.ones(factors)) if factors else None
        self.stride = anchors - 1 if through == "ends" else 1

    def gain(self, quality: Tensor) -> Tensor:
        """quality [B] integers 0..63 -> gain [B, C, 1, 1]."""
        line = self.log_gain[:: self.stride]
        position = quality.to(line.dtype) * ((len(line) - 1) / (QUALITIES - 1))
        # Weights of the two nearest anchors, as a product: its gradient needs no sorting.
        anchors = torch.arange(len(line), device=quality.device)
        weights = (1 - (position[:, None] - anchors).abs()).clamp(min=0)
        # Half precision has steps of a third of a quality index.
        with torch.autocast(quality.device.type, enabled=False):
            gain = (weights @ line).exp()
        if self.factor is not None:
            gain = gain * self.factor
        return gain[:, :, None, None]

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, C, H, W], quality [B] integers 0..63 -> x times the gain."""
        return x * self.gain(quality).to(x.dtype)


class QualityTable(nn.Module):
    """A gain per channel and quality index, none shared (DCVC-FM's I-frames)."""

    def __init__(self, channels: int, ends: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        first, last = torch.tensor(ends).log()
        line = torch.lerp(first, last, torch.linspace(0, 1, QUALITIES)).exp()
        self.gain = nn.Parameter(line[:, None].repeat(1, channels))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, C, H, W], quality [B] integers 0..63 -> x times the gain."""
        return x * self.gain[quality][:, :, None, None].to(x.dtype)
