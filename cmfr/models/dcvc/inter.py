"""DCVC-DC and DCVC-FM: the P-frame codec. One frame, top to bottom, in `DCVC._code`.

Li, Li, Lu: "Neural Video Compression with Diverse Contexts", CVPR 2023, and "Neural Video
Compression with Feature Modulation", CVPR 2024. With weights converted from the published
checkpoints (published.py) it computes what the published code computes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmfr.models.base import CodedMotion, MotionInterCodec
from cmfr.models.cmfr.context import FeatureAdaptor
from cmfr.models.cmfr.features import FrameStem
from cmfr.models.dcvc.blocks import (
    DECODER_GAINS,
    ENCODER_GAINS,
    UNet,
    depth_block,
    inter_gain,
    inter_kind,
)
from cmfr.models.dcvc.config import LATENT_STRIDE, DCVCConfig
from cmfr.models.dcvc.latent import InterLatentCoder
from cmfr.models.dcvc.motion import AlignedContext, Contexts, DCVCMotionCodec
from cmfr.models.dcvc.spynet import SpyNet
from cmfr.models.state import FrameOutput, LatentReference, MotionPictures, ReferenceState
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.layers import ResidualBlock, conv, upsample, warp
from cmfr.nn.portable import encoder_only


def _context_block(cfg: DCVCConfig, channels: int) -> nn.Module:
    """The block that mixes a feature with a context."""
    if cfg.generation == "fm":
        return depth_block("sum", channels)
    return ResidualBlock(channels, bottleneck=0.5, slope=0.1, last=True)


class ContextualEncoder(nn.Module):
    """y = ContextualEncoder(x | C_0, C_1, C_2): contexts are concatenated; gain at 1/2."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c0, c1, c2 = cfg.context_channels
        self.down0 = conv(3 + c0, c1, stride=2)
        self.mix1 = _context_block(cfg, 2 * c1)
        self.gain = inter_gain(cfg, 2 * c1, ENCODER_GAINS)
        self.down1 = conv(2 * c1, c2, stride=2)
        self.mix2 = _context_block(cfg, 2 * c2)
        self.down2 = conv(2 * c2, c2, stride=2)
        self.down3 = conv(c2, cfg.latent, stride=2)

    @encoder_only()
    def forward(self, x: Tensor, contexts: Contexts, quality: Tensor) -> Tensor:
        """x [B, 3, H, W], contexts at 1, 1/2, 1/4, quality [B] -> y [B, latent, H/16, W/16]."""
        h = self.down0(torch.cat([x, contexts[0]], 1))
        h = self.gain(self.mix1(torch.cat([h, contexts[1]], 1)), quality)
        h = self.mix2(torch.cat([self.down1(h), contexts[2]], 1))
        return self.down3(self.down2(h))


class ContextualDecoder(nn.Module):
    """y_hat -> feature [B, decoder channels, H, W]; meets C_2 and C_1, gain at 1/2."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        _, c1, c2 = cfg.context_channels
        self.up3, self.up2 = upsample(cfg.latent, c2, 3), upsample(c2, c2, 3)
        self.mix2 = _context_block(cfg, 2 * c2)
        self.up1 = upsample(2 * c2, c1, 3)
        self.gain = inter_gain(cfg, c1, DECODER_GAINS)
        self.mix1 = _context_block(cfg, 2 * c1)
        self.up0 = upsample(2 * c1, cfg.decoder_channels, 3)

    def forward(self, y_hat: Tensor, contexts: Contexts, quality: Tensor) -> Tensor:
        """y_hat [B, latent, H/16, W/16], contexts at 1, 1/2, 1/4, quality [B] -> feature."""
        h = self.up2(self.up3(y_hat))
        h = self.mix2(torch.cat([h, contexts[2]], 1))
        h = self.gain(self.up1(h), quality)
        return self.up0(self.mix1(torch.cat([h, contexts[1]], 1)))


class ContextualCodec(nn.Module):
    """Codes the frame under its contexts."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c2, latent = cfg.context_channels[2], cfg.latent
        self.encoder = ContextualEncoder(cfg)
        self.temporal_prior = nn.Sequential(
            conv(c2, c2, stride=2), nn.LeakyReLU(0.1), conv(c2, latent, stride=2)
        )
        self.latent = InterLatentCoder(cfg, "residual", latent, cfg.hyper, context=latent)
        self.decoder = ContextualDecoder(cfg)

    def forward(
        self,
        coder: EntropyCoder,
        x: Tensor | None,
        contexts: Contexts,
        quality: Tensor,
        previous: LatentReference | None,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Code a frame (None when decoding): decoded feature, its quantized latent.

        x: [B, 3, H, W].
        contexts: at 1, 1/2, 1/4.
        quality: indices [B].
        previous: what the P-frame before left, if there was one.
        size: of the latent, (H/16, W/16).
        """
        y = None if x is None else self.encoder(x, contexts, quality)
        # The prior feeds entropy parameters: float32, like everything in LatentCoder.
        with torch.autocast(contexts[2].device.type, enabled=False):
            priors = [self.temporal_prior(contexts[2].float())]
        if previous is not None:
            priors.append(previous.residual)
        y_hat = self.latent(coder, y, priors, size, quality)
        return self.decoder(y_hat, contexts, quality), y_hat


class FrameGenerator(nn.Module):
    """Decoded feature and C_0 -> the next reference feature [B, C0, H, W] and the frame."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        c0, kind = cfg.context_channels[0], inter_kind(cfg)
        self.head = conv(cfg.decoder_channels + c0, c0)
        self.body = nn.Sequential(*(UNet(c0, c0, cfg.unet, kind) for _ in range(2)))
        self.tail = conv(c0, 3)

    def forward(self, decoded: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """decoded [B, decoder channels, H, W], context [B, C0, H, W] -> feature, frame."""
        feature = self.body(self.head(torch.cat([decoded, context], 1)))
        return feature, self.tail(feature)


class DCVC(MotionInterCodec):
    """Conditional coding under temporal contexts; the frame itself, not a residual, is coded."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.motion_estimation = SpyNet(cfg.estimation)
        self.motion_codec = DCVCMotionCodec(cfg)
        width = cfg.context_channels[0]
        self.adaptor = FeatureAdaptor(cfg, FrameStem(1, width, center=0.0), width)
        self.temporal_context = AlignedContext(cfg)
        self.residual_codec = ContextualCodec(cfg)
        self.frame_generator = FrameGenerator(cfg)

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> FrameOutput:
        motion = self._code_motion(coder, x, quality, past)
        pictures = motion.pictures
        contexts = self.temporal_context(
            motion.reference_feature, pictures.warped, pictures.decoded
        )
        decoded, latent = self.residual_codec(
            coder, x, contexts, quality, past.latents, self._latent_size(past.frame)
        )
        feature, frame = self.frame_generator(decoded, contexts[0])
        x_hat = self._clamped(frame)
        latents = LatentReference(latent, motion.latent, motion.motion_feature, pictures.refined)
        state = ReferenceState(x_hat, feature, latents, past.position + 1)
        return FrameOutput(x_hat, state, motion=pictures)

    def _code_motion(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> CodedMotion:
        flow = None if x is None else self.motion_estimation(x, past.frame)
        decoded, latent, feature = self.motion_codec(
            coder, flow, quality, past.latents, self._latent_size(past.frame)
        )
        warped = warp(past.frame, decoded)
        pictures = MotionPictures(decoded, decoded, warped, warped)
        return CodedMotion(pictures, latent, feature, self.adaptor(past, past.position + 1))

    @staticmethod
    def _latent_size(frame: Tensor) -> tuple[int, int]:
        return frame.shape[2] // LATENT_STRIDE, frame.shape[3] // LATENT_STRIDE

    def _no_latents(self, frame: Tensor) -> LatentReference:
        h, w = self._latent_size(frame)
        batch, c = len(frame), self.cfg.motion_channels
        return LatentReference(
            frame.new_zeros(batch, self.cfg.latent, h, w),
            frame.new_zeros(batch, c, h, w),
            frame.new_zeros(batch, c, 4 * h, 4 * w),
            frame.new_zeros(batch, 2, *frame.shape[2:]),
        )
