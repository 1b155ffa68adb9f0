"""Motion: estimation, codec and refiner. Flows are [B, 2, h, w] in pixels of their resolution."""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.config import EstimationLevel, ModelConfig
from cmfr.entropy import EntropyCoder
from cmfr.latent import PriorLatentCoder
from cmfr.layers import QualityScaler, block, conv, resize_flow, upsample, warp


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


class MotionEstimation(nn.Module):
    """Coarse-to-fine optical flow (SpyNet, CVPR 2017), encoder only.

    Each level sees the target, the reference warped with the flow so far, and that flow. The
    finest level need not be full resolution: the result is resized to `output_stride`.
    """

    def __init__(self, levels: tuple[EstimationLevel, ...], output_stride: int = 1) -> None:
        super().__init__()
        self.strides = [level.stride for level in levels]
        self.levels = nn.ModuleList(EstimationNetwork(level) for level in levels)
        self.output_stride = output_stride

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """x, reference [B, 3, H, W] -> flow [B, 2, H/s, W/s] that warps the reference to x."""
        first = self.strides[0]
        flow = x.new_zeros(len(x), 2, x.shape[2] // first, x.shape[3] // first)
        previous = first
        pictures = zip(self._pyramid(x), self._pyramid(reference), strict=True)
        for stride, level, (target, source) in zip(
            self.strides, self.levels, pictures, strict=True
        ):
            flow = resize_flow(flow, previous / stride)
            correction = level(torch.cat([target, warp(source, flow), flow], 1))
            flow, previous = flow + correction.float(), stride
        return resize_flow(flow, previous / self.output_stride)

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """The frame at every level's resolution, coarse to fine."""
        pictures, stride = [], 1
        for wanted in reversed(self.strides):
            while stride < wanted:
                x, stride = F.avg_pool2d(x, 2), 2 * stride
            pictures.append(x)
        return pictures[::-1]


class MotionCodec(nn.Module):
    """Codes the flow given the previous motion latent and feature.

    Both transforms meet the motion feature at 1/4 resolution; the latent is at 1/16.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        width, latent = cfg.motion.channels, cfg.motion.latent
        levels = int(log2(4 // cfg.feature_stride))  # between the flow's resolution and 1/4
        self.analysis_head = nn.Sequential(
            conv(2, width), *(conv(width, width, stride=2) for _ in range(levels))
        )
        self.analysis = nn.Sequential(
            conv(2 * width, width, 1), block(cfg, width),
            conv(width, width, stride=2), block(cfg, width),
            conv(width, latent, stride=2, gain=4.0),
        )  # fmt: skip
        self.encoder_scale = QualityScaler(latent, (0.35, 3.5))
        self.latent = PriorLatentCoder(
            cfg, "motion", latent, cfg.motion.hyper, latent, cfg.motion.spatial_steps
        )
        self.decoder_scale = QualityScaler(latent, (1 / 0.35, 1 / 3.5))
        self.synthesis = nn.Sequential(
            conv(latent, width, 1), block(cfg, width), upsample(width, width),
            block(cfg, width), upsample(width, width), block(cfg, width),
        )  # fmt: skip
        ups = [upsample(width, width) for _ in range(levels)]
        self.synthesis_tail = nn.Sequential(*ups, conv(width, 2))

    def forward(
        self,
        coder: EntropyCoder,
        flow: Tensor | None,
        quality: Tensor,
        previous_latent: Tensor,
        previous_feature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Code a flow (None when decoding): decoded flow, motion latent, motion feature."""
        y = None
        if flow is not None:
            h = torch.cat([self.analysis_head(flow), previous_feature], 1)
            y = self.encoder_scale(self.analysis(h), quality)
        size = (previous_latent.shape[2], previous_latent.shape[3])
        y_hat = self.latent(coder, y, [previous_latent], size)
        feature = self.synthesis(self.decoder_scale(y_hat, quality))
        return self.synthesis_tail(feature).float(), y_hat, feature


class MotionRefiner(nn.Module):
    """Improves the decoded flow at the decoder, at no bits (paper: claim 4; the network is ours).

    refined = decoded + correction, from the decoded flow, the reference frame, the reference
    warped with that flow, and the reference feature. Works at half the flow's resolution; the
    last layer starts at zero, so that training starts from the decoded flow.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        width, stride = cfg.motion.refiner, cfg.feature_stride
        self.stride = stride
        self.head = conv(2 + 6 * stride * stride + cfg.context_channels[0], width, stride=2)
        self.body = nn.Sequential(block(cfg, width), block(cfg, width), block(cfg, width))
        self.tail = upsample(width, 2)
        nn.init.zeros_(self.tail[0].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.tail[0].bias)  # type: ignore[arg-type]

    def forward(self, flow: Tensor, reference: Tensor, warped: Tensor, feature: Tensor) -> Tensor:
        """flow [B, 2, h, w]; reference, warped [B, 3, H, W]; feature [B, C0, h, w] -> flow."""
        frames = torch.cat([reference, warped], 1)
        if self.stride > 1:
            frames = F.pixel_unshuffle(frames, self.stride)
        h = self.head(torch.cat([flow, frames, feature], 1))
        correction = self.tail(self.body(h)).float()
        return flow + correction
