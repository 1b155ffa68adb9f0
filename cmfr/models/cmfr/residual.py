"""The conditional residual codec: context encoder, latent, context decoder, frame generator."""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.blocks import block
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.features import fusion
from cmfr.models.cmfr.latent import CMFRLatentCoder
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.encoder_network import encoder_network
from cmfr.nn.init import (
    Bands,
    analysis_start,
    identity_start,
    pixel_synthesis_start,
    pyramid_bands,
    synthesis_start,
)
from cmfr.nn.layers import conv, upsample
from cmfr.nn.quality import QualityScaler

Contexts = tuple[Tensor, Tensor, Tensor]


def _levels_below_contexts(cfg: CMFRConfig) -> int:
    """Halvings between the coarsest context (4s) and the latent."""
    return int(log2(cfg.residual_codec.latent_stride // (4 * cfg.feature_stride)))


def _bands(cfg: CMFRConfig) -> list[Bands]:
    """The Haar transforms that the context encoder starts as, one a halving."""
    c0, c1, c2 = cfg.context_channels
    levels = _levels_below_contexts(cfg)
    halvings = (c1, c2, *[c2] * (levels - 1), *[cfg.residual_codec.latent] * min(levels, 1))
    return pyramid_bands(cfg.feature_stride, c0, halvings, cfg.flat_chroma)


class ContextEncoder(nn.Module):
    """y = ContextEncoder(r | C_0, C_1, C_2): fusion (SFF: subtract) at every scale."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        c0, c1, c2 = cfg.context_channels
        self.fuse0 = fusion(cfg, c0, -1, finest=True)
        self.fuse1, self.fuse2 = fusion(cfg, c1, -1), fusion(cfg, c2, -1)
        self.down0 = conv(c0, c1, stride=2)
        self.down1 = conv(c1, c2, stride=2)
        self.scale = QualityScaler(c1)
        levels = _levels_below_contexts(cfg)
        self.tail = nn.Sequential(
            *(conv(c2, c2, stride=2) for _ in range(levels - 1)),
            conv(c2, cfg.residual_codec.latent, stride=2 if levels else 1),
        )
        bands = _bands(cfg)
        if not levels:
            identity_start(self.tail[0], len(bands[-1]))  # type: ignore[arg-type]
        for layer, transform in zip(
            [self.down0, self.down1, *self.tail][: len(bands)], bands, strict=True
        ):
            assert isinstance(layer, nn.Conv2d)
            analysis_start(layer, transform)

    @encoder_network()
    def forward(self, residual: Tensor, contexts: Contexts, quality: Tensor) -> Tensor:
        """residual [B, C0, h, w], contexts at (h, w), (h/2, w/2), (h/4, w/4) -> latent."""
        h = self.down0(self.fuse0(residual, contexts[0]))
        h = self.scale(self.fuse1(h, contexts[1]), quality)
        h = self.fuse2(self.down1(h), contexts[2])
        return self.tail(h)


class ContextDecoder(nn.Module):
    """r_hat = ContextDecoder(y_hat | C_2, C_1, C_0): fusion (SFF: add) at every scale."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        c0, c1, c2 = cfg.context_channels
        levels = _levels_below_contexts(cfg)
        self.head = nn.Sequential(
            conv(cfg.residual_codec.latent, c2), *(upsample(c2, c2) for _ in range(levels))
        )
        self.fuse2, self.fuse1 = fusion(cfg, c2, +1), fusion(cfg, c1, +1)
        self.fuse0 = fusion(cfg, c0, +1, finest=True)
        self.up2, self.up1 = upsample(c2, c1), upsample(c1, c0)
        self.scale = QualityScaler(c1)
        head, *ups = self.head
        bands = _bands(cfg)
        identity_start(head, len(bands[-1]))  # type: ignore[arg-type]
        for up, transform in zip([self.up1, self.up2, *ups[::-1]], bands, strict=True):
            synthesis_start(up, transform)  # type: ignore[arg-type]

    def forward(self, y_hat: Tensor, contexts: Contexts, quality: Tensor) -> Tensor:
        """y_hat [B, Cy, H/S, W/S] -> decoded residual [B, C0, h, w]."""
        h = self.head(y_hat)
        h = self.fuse1(self.up2(self.fuse2(h, contexts[2])), contexts[1])
        return self.fuse0(self.up1(self.scale(h, quality)), contexts[0])


class TemporalPrior(nn.Module):
    """Coarsest context [B, C2, H/4s, W/4s] -> prior of the residual latent [B, Cy, H/S, W/S]."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        c2, latent = cfg.context_channels[2], cfg.residual_codec.latent
        levels = _levels_below_contexts(cfg)
        layers: list[nn.Module] = []
        for _ in range(levels):
            layers += [conv(c2, c2, stride=2), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers, conv(c2, latent, 1 if levels else 3))

    def forward(self, context: Tensor) -> Tensor:
        """context [B, C2, H/4s, W/4s] -> [B, Cy, H/S, W/S], float32."""
        # Feeds entropy parameters: float32, like everything in CMFRLatentCoder.
        with torch.autocast(context.device.type, enabled=False):
            return self.net(context.float())


class ResidualCodec(nn.Module):
    """Codes the (masked feature) residual under the contexts."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        latent = cfg.residual_codec.latent
        self.encoder = ContextEncoder(cfg)
        self.temporal_prior = TemporalPrior(cfg)
        self.latent = CMFRLatentCoder(cfg, "residual", cfg.residual_codec, 2 * latent)
        self.decoder = ContextDecoder(cfg)

    def forward(
        self,
        coder: EntropyCoder,
        residual: Tensor | None,
        contexts: Contexts,
        quality: Tensor,
        previous_latent: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Code a residual (None when decoding): decoded residual, its quantized latent.

        residual: [B, C0, h, w].
        contexts: at (h, w), (h/2, w/2), (h/4, w/4).
        quality: indices [B].
        previous_latent: [B, Cy, H/S, W/S], and so is the one that is returned.
        """
        y = None if residual is None else self.encoder(residual, contexts, quality)
        size = (previous_latent.shape[2], previous_latent.shape[3])
        priors = [self.temporal_prior(contexts[2]), previous_latent]
        y_hat = self.latent(coder, y, priors, size, quality)
        return self.decoder(y_hat, contexts, quality), y_hat


class FrameGenerator(nn.Module):
    """x_hat = FrameGenerator(f_hat, C_0): features -> frame [B, 3, H, W], not clamped.

    center: added to the pixels, as `FrameStem` subtracts it.
    """

    def __init__(self, cfg: CMFRConfig, center: float) -> None:
        super().__init__()
        width, stride = cfg.context_channels[0], cfg.feature_stride
        self.stride, self.center = stride, center
        self.head = conv(2 * width, width)
        self.body = nn.Sequential(
            *(block(cfg, width) for _ in range(cfg.residual_codec.generator_blocks))
        )
        self.tail = conv(width, 3 * stride * stride)
        identity_start(self.head, width)
        pixel_synthesis_start(self.tail, stride, cfg.flat_chroma)

    def forward(self, feature: Tensor, context: Tensor) -> Tensor:
        """feature, context [B, C0, H/s, W/s] -> [B, 3, H, W]."""
        x = self.tail(self.body(self.head(torch.cat([feature, context], 1))))
        return (F.pixel_shuffle(x, self.stride) if self.stride > 1 else x) + self.center
