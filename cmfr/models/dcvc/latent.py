"""DCVC's entropy models: the networks that `LatentCoder` asks, for P-frames and I-frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmfr.models.dcvc.blocks import Kind, block_hyper, depth_block, plain_hyper
from cmfr.models.dcvc.config import LATENT_STRIDE, DCVCConfig
from cmfr.nn.densities import (
    DCVC_GAUSSIAN,
    DCVC_LAPLACIAN,
    FactorizedBitEstimator,
    HyperDensity,
)
from cmfr.nn.latent_coder import LatentCoder, Prediction
from cmfr.nn.layers import conv

SMALLEST_STEP = 0.5


class DCVCLatentCoder(LatentCoder):
    """What all of DCVC's latents share: four spatial steps, nothing skipped, DCVC's densities.

    The later steps see the known values beside `shared`, each step through an adaptor of its own.
    """

    hyper_encoder: nn.Module
    adaptors: nn.ModuleList
    spatial: nn.Module

    def __init__(self, name: str, channels: int, hyper: int, sets: int = 1) -> None:
        super().__init__(name, channels, hyper, steps=4, skip=0.0, stride=LATENT_STRIDE)
        self.bottleneck = FactorizedBitEstimator(hyper, sets)

    def encode_hyper(self, y: Tensor, quality: Tensor | None) -> Tensor:
        return self.hyper_encoder(y)

    def hyper_density(self, quality: Tensor | None) -> HyperDensity:
        assert quality is not None
        return self.bottleneck.at(quality)

    def refine(self, k: int, known: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
        h = self.adaptors[k - 1](torch.cat([known, prediction.shared], 1))
        scale, mean = self.spatial(h).chunk(2, 1)
        return scale, mean

    def scale_activation(self, scale: Tensor) -> Tensor:
        return scale.clamp(min=1e-5)


class InterLatentCoder(DCVCLatentCoder):
    """A latent of P-frames (motion or contextual), under a Laplacian.

    The first P-frame after an I-frame has no previous latent and an adaptor of its own. DCVC-DC
    and -FM differ in the hyper codec alone.

    context: channels of the temporal prior, 0 for motion.
    """

    density = DCVC_LAPLACIAN

    def __init__(self, cfg: DCVCConfig, name: str, channels: int, hyper: int, context: int) -> None:
        super().__init__(name, channels, hyper)
        # The motion latent's prior is at first twice as wide as the latent, the other's thrice.
        first = 3 * channels if context else 2 * channels
        if cfg.generation == "fm":
            coder = block_hyper(channels, hyper, "sum")
        else:
            coder = plain_hyper(channels, hyper, 1 if context else 2)
        self.hyper_encoder, self.hyper_decoder = coder
        self.without_previous = depth_block("plain", channels + context, first)
        self.with_previous = depth_block("plain", 2 * channels + context, first)
        self.fusion = nn.Sequential(
            depth_block("plain", first, 3 * channels), depth_block("plain", 3 * channels)
        )
        self.adaptors = nn.ModuleList(conv(4 * channels, 3 * channels, 1) for _ in range(3))
        self.spatial = nn.Sequential(
            depth_block("plain", 3 * channels),
            depth_block("plain", 3 * channels),
            depth_block("plain", 3 * channels, 2 * channels),
        )
        self.temporal, self.inverts = bool(context), cfg.generation == "fm"

    def predict(
        self,
        z_hat: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None,
    ) -> Prediction:
        """priors: [temporal prior (contextual latent only)] [+ previous latent]."""
        hyper = self.hyper_decoder(z_hat)[..., : size[0], : size[1]]
        before, previous = priors[: int(self.temporal)], priors[int(self.temporal) :]
        adaptor = self.with_previous if previous else self.without_previous
        shared = self.fusion(adaptor(torch.cat([*before, hyper, *previous], 1)))
        step, scale, mean = shared.chunk(3, 1)
        step = step.clamp(min=SMALLEST_STEP)
        # Rounded as published: DCVC-FM multiplies with the inverse, DCVC-DC divides.
        return Prediction(step, scale, mean, shared, gain=1 / step if self.inverts else None)


class IntraLatentCoder(DCVCLatentCoder):
    """The latent of I-frames, under a Gaussian.

    DCVC-DC predicts a quantization step per element, as for P-frames. DCVC-FM predicts two maps
    of one channel, a factor before quantization and one after, and reduces what the later steps
    see; its hyper-latent has a density of its own at every quality.
    """

    density = DCVC_GAUSSIAN

    def __init__(self, cfg: DCVCConfig, name: str) -> None:
        n, hyper, fm = cfg.intra_channels[2], cfg.intra_hyper, cfg.generation == "fm"
        super().__init__(name, n, hyper, sets=64 if fm else 1)
        kind: Kind = "sum" if fm else "gated"
        predicted = 2 * n + 2 if fm else 3 * n
        self.hyper_encoder, self.hyper_decoder = block_hyper(n, hyper, kind)
        self.fusion = nn.Sequential(
            depth_block(kind, n, 2 * n), depth_block(kind, 2 * n, predicted)
        )
        self.reduction = conv(predicted, n, 1) if fm else None
        if fm:
            self.adaptors = nn.ModuleList(depth_block("gated", 2 * n) for _ in range(3))
            widths = (2 * n, 2 * n, 2 * n, 2 * n)
        else:
            self.adaptors = nn.ModuleList(conv(4 * n, 3 * n, 1) for _ in range(3))
            widths = (3 * n, 3 * n, 2 * n, 2 * n)
        self.spatial = nn.Sequential(
            *(depth_block("gated", a, b) for a, b in zip(widths, widths[1:], strict=False))
        )

    def predict(
        self,
        z_hat: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None,
    ) -> Prediction:
        shared = self.fusion(self.hyper_decoder(z_hat))[..., : size[0], : size[1]]
        if self.reduction is None:
            step, scale, mean = shared.chunk(3, 1)
            return Prediction(step.clamp(min=SMALLEST_STEP), scale, mean, shared)
        factors = torch.sigmoid(shared[:, :2]) * 1.5 + 0.5
        scale, mean = shared[:, 2:].chunk(2, 1)
        return Prediction(factors[:, 1:], scale, mean, self.reduction(shared), gain=factors[:, :1])
