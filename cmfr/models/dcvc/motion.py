"""DCVC's motion codec and motion compensation (contexts)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.dcvc.blocks import (
    DECODER_GAINS,
    ENCODER_GAINS,
    ResidualDown,
    ResidualUp,
    depth_block,
    inter_gain,
    inter_kind,
)
from cmfr.models.dcvc.config import DCVCConfig
from cmfr.models.dcvc.latent import InterLatentCoder
from cmfr.models.state import LatentReference
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.layers import ResidualBlock, conv, resize_flow, upsample, warp
from cmfr.nn.portable import encoder_only

Contexts = tuple[Tensor, Tensor, Tensor]


class MotionEncoder(nn.Module):
    """Flow [B, 2, H, W] -> motion latent [B, C, H/16, W/16], gain at 1/2; meets the previous
    frame's motion feature at 1/4."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c, kind = cfg.motion_channels, inter_kind(cfg)
        self.head = nn.Sequential(ResidualDown(2, c), depth_block(kind, c))
        self.gain = inter_gain(cfg, c, ENCODER_GAINS)
        self.down = ResidualDown(c, c)
        self.without_previous = depth_block(kind, c)
        self.with_previous = depth_block(kind, 2 * c, c)
        self.tail = nn.Sequential(ResidualDown(c, c), depth_block(kind, c), conv(c, c, stride=2))

    @encoder_only()
    def forward(self, flow: Tensor, previous: Tensor | None, quality: Tensor) -> Tensor:
        """flow [B, 2, H, W], previous feature [B, C, H/4, W/4], quality [B] -> latent."""
        h = self.down(self.gain(self.head(flow), quality))
        if previous is None:
            return self.tail(self.without_previous(h))
        return self.tail(self.with_previous(torch.cat([h, previous], 1)))


class MotionDecoder(nn.Module):
    """Motion latent -> decoded flow [B, 2, H, W] and motion feature [B, C, H/4, W/4]."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c, kind = cfg.motion_channels, inter_kind(cfg)
        self.head = nn.Sequential(
            depth_block(kind, c),
            ResidualUp(c, c),
            depth_block(kind, c),
            ResidualUp(c, c),
            depth_block(kind, c),
        )
        self.up = ResidualUp(c, c)
        self.gain = inter_gain(cfg, c, DECODER_GAINS)
        self.tail = nn.Sequential(depth_block(kind, c), upsample(c, 2))

    def forward(self, latent: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """latent [B, C, H/16, W/16], quality [B] -> flow, motion feature."""
        feature = self.head(latent)
        return self.tail(self.gain(self.up(feature), quality)), feature


class DCVCMotionCodec(nn.Module):
    """Codes the flow given the previous motion latent and feature, if there are any."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c = cfg.motion_channels
        self.encoder = MotionEncoder(cfg)
        self.latent = InterLatentCoder(cfg, "motion", c, c, context=0)
        self.decoder = MotionDecoder(cfg)

    def forward(
        self,
        coder: EntropyCoder,
        flow: Tensor | None,
        quality: Tensor,
        previous: LatentReference | None,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Code a flow (None when decoding): decoded flow, motion latent, motion feature.

        flow: [B, 2, H, W], in pixels.
        quality: indices [B].
        previous: what the P-frame before left, if there was one.
        size: of the latent, (H/16, W/16).
        """
        y, priors = None, []
        if previous is not None:
            priors = [previous.motion]
        if flow is not None:
            y = self.encoder(flow, previous.motion_feature if previous else None, quality)
        latent = self.latent(coder, y, priors, size, quality)
        decoded, feature = self.decoder(latent, quality)
        return decoded.float(), latent, feature


class OffsetDiversity(nn.Module):
    """Warps groups of channels with offsets of their own around the decoded flow (DCVC-DC)."""

    GROUPS, OFFSETS, REACH = 16, 2, 40.0

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c0, c1, _ = cfg.context_channels
        # A group has at least one channel, in small models too.
        self.groups = min(self.GROUPS, c0)
        self.offsets = nn.Sequential(
            conv(c0 + 5, c1, stride=2),
            nn.LeakyReLU(0.1),
            conv(c1, c1),
            nn.LeakyReLU(0.1),
            conv(c1, 3 * self.groups * self.OFFSETS),
        )
        self.fusion = nn.Conv2d(c0 * self.OFFSETS, c0, 1, groups=self.groups)

    def forward(self, feature: Tensor, warped: Tensor, prediction: Tensor, flow: Tensor) -> Tensor:
        """feature [B, C0, H, W] -> the same, aligned.

        warped: the feature moved by the flow alone.
        prediction: the warped frame, [B, 3, H, W].
        flow: [B, 2, H, W].
        """
        batch, channels, height, width = feature.shape
        planes = self.groups * self.OFFSETS
        hints = self.offsets(torch.cat([warped, prediction, flow], 1)).float()
        hints = F.interpolate(hints, scale_factor=2, mode="bilinear", align_corners=False)
        offsets, mask = hints[:, : 2 * planes], hints[:, 2 * planes :].sigmoid()
        flows = (self.REACH * offsets.tanh()).view(batch, planes, 2, height, width)
        flows = (flows + flow[:, None]).flatten(0, 1)
        copies = feature.repeat(1, self.OFFSETS, 1, 1)
        moved = warp(copies.reshape(batch * planes, -1, height, width), flows)
        moved = moved * mask.reshape(batch * planes, 1, height, width)
        return self.fusion(moved.reshape(batch, channels * self.OFFSETS, height, width))


class AlignedContext(nn.Module):
    """C_0, C_1, C_2 at 1, 1/2, 1/4: a feature pyramid, moved with the flow, fused from coarse."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c0, c1, c2 = cfg.context_channels

        def refined(layer: nn.Module, channels: int) -> nn.Sequential:
            return nn.Sequential(layer, ResidualBlock(channels, slope=0.01))

        self.extract0 = refined(conv(c0, c0), c0)
        self.extract1 = refined(conv(c0, c1, stride=2), c1)
        self.extract2 = refined(conv(c1, c2, stride=2), c2)
        self.align = OffsetDiversity(cfg)
        self.up2 = refined(upsample(c2, c1, 3), c1)
        self.up1 = refined(upsample(2 * c1, c0, 3), c0)
        self.out2 = refined(conv(c2, c2), c2)
        self.out1 = refined(conv(2 * c1, c1), c1)
        self.out0 = refined(conv(2 * c0, c0), c0)

    def forward(self, feature: Tensor, prediction: Tensor, flow: Tensor) -> Contexts:
        """feature [B, C0, H, W], warped frame [B, 3, H, W], flow [B, 2, H, W] -> contexts."""
        f0 = self.extract0(feature)
        f1 = self.extract1(f0)
        f2 = self.extract2(f1)
        flow1 = resize_flow(flow, 0.5)
        flow2 = resize_flow(flow1, 0.5)
        w0 = self.align(f0, warp(f0, flow), prediction, flow)
        w1, w2 = warp(f1, flow1), warp(f2, flow2)
        u1 = torch.cat([self.up2(w2), w1], 1)
        u0 = torch.cat([self.up1(u1), w0], 1)
        return w0 + self.out0(u0), w1 + self.out1(u1), w2 + self.out2(w2)
