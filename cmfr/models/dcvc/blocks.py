"""Blocks that both generations of DCVC are made of (DCVC-DC, CVPR 2023; DCVC-FM, CVPR 2024)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.dcvc.config import DCVCConfig
from cmfr.nn.layers import DepthwiseBlock, conv, upsample
from cmfr.nn.quality import QualityScaler, QualityTable

Kind = Literal["plain", "gated", "sum", "product"]


def depth_block(kind: Kind, inputs: int, outputs: int | None = None) -> DepthwiseBlock:
    """The depthwise block of a kind.

    kind: DCVC-DC's P-frames have ``plain`` ones, its I-frames and DCVC-FM's spatial priors
    ``gated`` ones, DCVC-FM elsewhere ``sum`` ones, and ``product`` ones (gated, two branches) in
    its I-frame transforms.
    """
    outputs = outputs or inputs
    if kind == "plain":
        hidden = max(min(4 * outputs, 1024), 2 * outputs)
        return DepthwiseBlock(inputs, outputs, "plain", hidden)
    if kind == "product":
        return DepthwiseBlock(inputs, outputs, "gated", product=True)
    return DepthwiseBlock(inputs, outputs, kind)


def inter_kind(cfg: DCVCConfig) -> Kind:
    """Blocks of the P-frame codec, but for its priors, which are ``plain`` in both."""
    return "plain" if cfg.generation == "dc" else "sum"


# Gains at quality 0 and 63 of a model that is trained from scratch (ours).
ENCODER_GAINS, DECODER_GAINS = (1.0, 8.0), (1.0, 1 / 8)


def intra_gain(cfg: DCVCConfig, channels: int, ends: tuple[float, float]) -> nn.Module:
    """Gain of an I-frame feature. DCVC-DC's is one number at each of four rates, and a factor for
    each channel; DCVC-FM's a number for each quality and channel."""
    if cfg.generation == "fm":
        return QualityTable(channels, ends)
    return QualityScaler(1, ends, anchors=4, factors=channels, through=cfg.quality_gains)


def inter_gain(cfg: DCVCConfig, channels: int, ends: tuple[float, float]) -> nn.Module:
    """Gain of a P-frame feature: DCVC-DC's as of its I-frames, DCVC-FM's one number between two."""
    if cfg.generation == "fm":
        return QualityScaler(1, ends, anchors=2)
    return intra_gain(cfg, channels, ends)


class ResidualDown(nn.Module):
    """Half the resolution: two 3x3 convolutions, the first of stride 2, beside a 1x1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=2)
        self.conv2 = conv(outputs, outputs)
        self.skip = conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        h = self.conv2(F.leaky_relu(self.conv1(x), 0.01))
        # Taking every second sample first is the 1x1 convolution of stride 2 that was published.
        # PyTorch's own (2.11 to 2.15, CPU, channels_last, few channels) corrupts memory in the
        # backward pass.
        return self.skip(x[..., ::2, ::2]) + F.leaky_relu(h, 0.1)


class PatchDown(nn.Module):
    """Half the resolution by a 2x2 convolution of stride 2, then a residual (DCVC-FM I-frames)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 2, stride=2)
        self.conv1, self.conv2 = conv(outputs, outputs), conv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        x = self.down(x)
        h = self.conv2(F.leaky_relu(self.conv1(x), 0.01))
        return x + F.leaky_relu(h, 0.01)


class ResidualUp(nn.Module):
    """Twice the resolution: sub-pixel convolution and a 3x3 one, beside a sub-pixel one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up, self.conv = upsample(inputs, outputs), conv(outputs, outputs)
        self.skip = upsample(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W] -> [B, outputs, 2H, 2W]."""
        h = self.conv(F.leaky_relu(self.up(x), 0.01))
        return self.skip(x) + F.leaky_relu(h, 0.1)


class UNet(nn.Module):
    """Three levels of depthwise blocks: [B, inputs, H, W] -> [B, outputs, H, W].

    pooling: how levels halve the resolution, ``max`` or a 2x2 convolution of stride 2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: tuple[int, int, int],
        kind: Kind,
        pooling: Literal["max", "conv"] = "max",
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.down1 = depth_block(kind, inputs, a)
        self.down2 = depth_block(kind, a, b)
        self.down3 = depth_block(kind, b, c)
        convolves = pooling == "conv"
        self.pool1 = nn.Conv2d(a, a, 2, stride=2) if convolves else nn.MaxPool2d(2)
        self.pool2 = nn.Conv2d(b, b, 2, stride=2) if convolves else nn.MaxPool2d(2)
        self.middle = nn.Sequential(*(depth_block(kind, c) for _ in range(4)))
        self.up3, self.join3 = upsample(c, b), depth_block(kind, 2 * b, b)
        self.up2, self.join2 = upsample(b, a), depth_block(kind, 2 * a, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, H, W], H and W multiples of 4 -> [B, outputs, H, W]."""
        x1 = self.down1(x)
        x2 = self.down2(self.pool1(x1))
        h = self.middle(self.down3(self.pool2(x2)))
        h = self.join3(torch.cat([x2, self.up3(h)], 1))
        return self.join2(torch.cat([x1, self.up2(h)], 1))


def plain_hyper(channels: int, hyper: int, before: int) -> tuple[nn.Sequential, nn.Sequential]:
    """DCVC-DC's hyper encoder and decoder of P-frame latents.

    before: convolutions of the encoder at the latent's own resolution and, from 2 on, one more
    between its halvings.
    """
    layers: list[nn.Module] = [conv(channels, hyper), nn.LeakyReLU(0.01)]
    if before > 1:
        layers += [conv(hyper, hyper), nn.LeakyReLU(0.01)]
    layers += [conv(hyper, hyper, stride=2), nn.LeakyReLU(0.01)]
    if before > 1:
        layers += [conv(hyper, hyper), nn.LeakyReLU(0.01)]
    encoder = nn.Sequential(*layers, conv(hyper, hyper, stride=2))
    decoder = nn.Sequential(
        conv(hyper, channels),
        nn.LeakyReLU(0.01),
        upsample(channels, channels),
        nn.LeakyReLU(0.01),
        conv(channels, channels),
        nn.LeakyReLU(0.01),
        upsample(channels, channels),
        nn.LeakyReLU(0.01),
        conv(channels, channels),
    )
    return encoder, decoder


def block_hyper(channels: int, hyper: int, kind: Kind) -> tuple[nn.Sequential, nn.Sequential]:
    """Hyper encoder and decoder with a depthwise block at the latent's resolution."""
    encoder = nn.Sequential(
        depth_block(kind, channels, hyper),
        conv(hyper, hyper, stride=2),
        nn.LeakyReLU(0.01),
        conv(hyper, hyper, stride=2),
    )
    decoder = nn.Sequential(
        ResidualUp(hyper, hyper), ResidualUp(hyper, hyper), depth_block(kind, hyper, channels)
    )
    return encoder, decoder
