"""The paper's feature modules: feature extractors, mask predictor, scaled feature fusion.

Features are [B, C0, H/s, W/s], s the feature stride; frames are [B, 3, H, W].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.blocks import block
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.nn.encoder_network import encoder_network
from cmfr.nn.init import SMALL_GAIN, identity_start, pixel_start
from cmfr.nn.layers import conv

MASK_SLOPE = 8.0


class FrameStem(nn.Module):
    """Frame -> features at the feature stride: pixel-unshuffle, then a 3x3 convolution.

    Starts as a Haar transform of the pixels less `center`, and `FrameGenerator` as its inverse.

    extra: channels that come beside the frame.
    flat_chroma: see nn/init.py.
    """

    def __init__(
        self,
        stride: int,
        channels: int,
        extra: int = 0,
        flat_chroma: bool = False,
        center: float = 0.5,
    ) -> None:
        super().__init__()
        self.stride, self.center = stride, center
        self.conv = conv(3 * stride * stride + extra, channels)
        pixel_start(self.conv, stride, flat_chroma)

    def forward(self, frame: Tensor, *extra: Tensor) -> Tensor:
        """frame [B, 3, H, W], extra [B, ., H/s, W/s] -> [B, C, H/s, W/s]."""
        x = frame - self.center
        x = F.pixel_unshuffle(x, self.stride) if self.stride > 1 else x
        return self.conv(torch.cat([x, *extra], 1) if extra else x)


class FeatureExtractor(nn.Module):
    """Features f_x of the target frame (paper: claim 2; layers are ours), or of its residual.

    center: as `FrameStem`'s.
    """

    def __init__(self, cfg: CMFRConfig, center: float) -> None:
        super().__init__()
        width, stride = cfg.context_channels[0], cfg.feature_stride
        self.stem = FrameStem(stride, width, flat_chroma=cfg.flat_chroma, center=center)
        self.body = block(cfg, width)

    @encoder_network()
    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> f_x [B, C0, H/s, W/s]."""
        return self.body(self.stem(x))


class PredictedFeatureExtractor(nn.Module):
    """Features f_p of the predicted frame and the finest context (layers are ours)."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        width = cfg.context_channels[0]
        self.stem = FrameStem(cfg.feature_stride, width, width, cfg.flat_chroma)
        self.body = block(cfg, width)

    def forward(self, prediction: Tensor, context: Tensor) -> Tensor:
        """prediction [B, 3, H, W], context [B, C0, H/s, W/s] -> f_p [B, C0, H/s, W/s]."""
        return self.body(self.stem(prediction, context))


class MaskPredictor(nn.Module):
    """Mask in (0, 1) from what the decoder has too (that no bits are spent on it is ours).

    `outputs` channels at the feature stride; starts near 0.98 everywhere, so that training
    begins close to plain residual coding and learns where the prediction fails. The last layer
    is linear before a steep sigmoid: the whole range is reachable, and within some hundred steps.
    """

    def __init__(self, cfg: CMFRConfig, outputs: int) -> None:
        super().__init__()
        width = cfg.context_channels[0]
        self.head = conv(2 * width, width, 1)
        self.body = block(cfg, width)
        self.tail = conv(width, outputs, 1)
        nn.init.zeros_(self.tail.weight)
        nn.init.constant_(self.tail.bias, 4 / MASK_SLOPE)  # type: ignore[arg-type]

    def forward(self, predicted: Tensor, context: Tensor) -> Tensor:
        """predicted (f_p), context [B, C0, h, w] -> mask [B, outputs, h, w] in (0, 1)."""
        h = self.body(self.head(torch.cat([predicted, context], 1)))
        return torch.sigmoid(MASK_SLOPE * self.tail(h))


class ScaledFeatureFusion(nn.Module):
    """SFF: features minus (encoder) or plus (decoder) the scaled condition.

        SFF(h, c) = block(W_h h -/+ s * W_c c),   s = 2 sigmoid(S[h, c])

    Scaled subtraction and addition are the paper's (claim 3); that the scale is per channel and
    position, and in (0, 2), is ours.

    sign: -1 in the context encoder, +1 in the decoder.
    predicts: start with s W_c c = c, where nothing but this subtracts a prediction. Elsewhere W_c
        starts near zero: what is coded first is the residual, not a copy of the condition.
    """

    def __init__(self, cfg: CMFRConfig, channels: int, sign: int, predicts: bool) -> None:
        super().__init__()
        self.sign = sign
        self.feature = conv(channels, channels, 1)
        identity_start(self.feature, channels)
        self.condition = conv(channels, channels, 1, gain=SMALL_GAIN)
        self.scale = conv(2 * channels, channels, 1)
        if predicts:
            identity_start(self.condition, channels)
            nn.init.zeros_(self.scale.weight)
        self.body = block(cfg, channels)

    def forward(self, feature: Tensor, condition: Tensor) -> Tensor:
        """feature, condition [B, C, h, w] -> [B, C, h, w]."""
        scaled = self.gate(feature, condition) * self.condition(condition)
        return self.body(self.feature(feature) + self.sign * scaled)

    def gate(self, feature: Tensor, condition: Tensor) -> Tensor:
        """s in (0, 2), of the same shape [B, C, h, w] as feature and condition."""
        return 2 * torch.sigmoid(self.scale(torch.cat([feature, condition], 1)))


class ConcatFusion(nn.Module):
    """The plain alternative to SFF: concatenate, convolve."""

    def __init__(self, cfg: CMFRConfig, channels: int) -> None:
        super().__init__()
        self.merge = conv(2 * channels, channels, 1)
        identity_start(self.merge, channels)
        self.body = block(cfg, channels)

    def forward(self, feature: Tensor, condition: Tensor) -> Tensor:
        """feature, condition [B, C, h, w] -> [B, C, h, w]."""
        return self.body(self.merge(torch.cat([feature, condition], 1)))


def fusion(cfg: CMFRConfig, channels: int, sign: int, finest: bool = False) -> nn.Module:
    """The fusion that the config's `fusion` switch asks for, at the `finest` or another scale."""
    if cfg.fusion == "sff":
        predicts = finest and cfg.residual == "none"
        return ScaledFeatureFusion(cfg, channels, sign, predicts)
    return ConcatFusion(cfg, channels)
