"""The `residual` switch: what is subtracted from the target frame, one class a mode.

A mode says what is subtracted before the context encoder and added back after the decoder: of the
target's pixels, of its features, or nothing. A new one is a class here and an entry of
`RESIDUAL_MODES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.features import FrameStem, MaskPredictor, PredictedFeatureExtractor


@dataclass(frozen=True)
class Subtrahend:
    """What is subtracted in the encoder and added back in the decoder.

    features: [B, C0, h, w], subtracted from the target's features; or None.
    pixels: [B, 3, H, W], subtracted from the target before its features are extracted; or None.
    pixel_features: [B, C0, h, w], features of `pixels`: the next frame's contexts are mined of
        features of a whole frame, and what is decoded is of the difference only.
    mask: what was multiplied with the prediction, for the eye; or None.
    """

    features: Tensor | None = None
    pixels: Tensor | None = None
    pixel_features: Tensor | None = None
    mask: Tensor | None = None


class ResidualMode(nn.Module, ABC):
    """Makes the subtrahend from decoded data alone, as both ends must.

    center: mean value of the pixels that the feature extractor is given.
    """

    center = 0.5

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """The subtrahend of a P-frame.

        prediction: frame [B, 3, H, W].
        context: the finest, [B, C0, h, w].
        """


class NoResidual(ResidualMode):
    """Conditional coding: the contexts alone carry the prediction."""

    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """Nothing, whatever the prediction [B, 3, H, W] and the context [B, C0, h, w] are."""
        return Subtrahend()


class PixelResidual(ResidualMode):
    """x - prediction."""

    center = 0.0

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__(cfg)
        width = cfg.context_channels[0]
        self.stem = FrameStem(cfg.feature_stride, width, flat_chroma=cfg.flat_chroma)

    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """pixels: the prediction [B, 3, H, W]; pixel_features: [B, C0, h, w]."""
        return Subtrahend(pixels=prediction, pixel_features=self.stem(prediction))


class FeatureResidual(ResidualMode):
    """f_x - f_p."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__(cfg)
        self.predicted_features = PredictedFeatureExtractor(cfg)

    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """features: f_p [B, C0, h, w]."""
        return Subtrahend(features=self.predicted_features(prediction, context))


class MaskedFeatureResidual(FeatureResidual):
    """f_x - m * f_p (paper: claim 2)."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__(cfg)
        self.mask_predictor = MaskPredictor(cfg, cfg.context_channels[0])

    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """features: m * f_p; mask: m, both [B, C0, h, w]."""
        predicted = self.predicted_features(prediction, context)
        mask = self.mask_predictor(predicted, context)
        return Subtrahend(features=mask * predicted, mask=mask)


class MaskedPixelResidual(PixelResidual):
    """x - m * prediction, a mask value a pixel; pixels are counted from mid-gray."""

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__(cfg)
        self.stride = cfg.feature_stride
        self.predicted_features = PredictedFeatureExtractor(cfg)
        self.mask_predictor = MaskPredictor(cfg, self.stride**2)

    def forward(self, prediction: Tensor, context: Tensor) -> Subtrahend:
        """pixels: m * prediction [B, 3, H, W]; pixel_features: [B, C0, h, w]; mask: m
        [B, 1, H, W]."""
        predicted = self.predicted_features(prediction, context)
        mask = self.mask_predictor(predicted, context)
        mask = F.pixel_shuffle(mask, self.stride) if self.stride > 1 else mask
        pixels = 0.5 + mask * (prediction - 0.5)
        return Subtrahend(pixels=pixels, pixel_features=self.stem(pixels), mask=mask)


RESIDUAL_MODES: dict[str, type[ResidualMode]] = {
    "masked_feature": MaskedFeatureResidual,
    "feature": FeatureResidual,
    "masked_pixel": MaskedPixelResidual,
    "pixel": PixelResidual,
    "none": NoResidual,
}
