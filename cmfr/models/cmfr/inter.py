"""CMFR: the P-frame codec. One frame, top to bottom, in `CMFR._code` (design of the paper's
Section 3 as far as its abstract tells; docs/architecture.md keeps the paper's and ours apart)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from cmfr.config import ModelConfig
from cmfr.models.base import CodedMotion, InterCodec
from cmfr.models.cmfr.context import FeatureAdaptor, TemporalContext
from cmfr.models.cmfr.features import (
    FeatureExtractor,
    FrameStem,
    MaskPredictor,
    PredictedFeatureExtractor,
)
from cmfr.models.cmfr.motion import BlendedMotion, MotionCodec, MotionRefiner
from cmfr.models.cmfr.motion_estimation import MotionEstimation
from cmfr.models.cmfr.residual import FrameGenerator, ResidualCodec
from cmfr.models.state import FrameOutput, LatentReference, MotionPictures, ReferenceState
from cmfr.nn.entropy_coder import EntropyCoder
from cmfr.nn.layers import half_samples


@dataclass(frozen=True)
class CMFRMotion(CodedMotion):
    """blended: the refined motion, which contexts follow."""

    blended: BlendedMotion


class CMFR(InterCodec):
    """Conditional masked feature residual codec.

    Of the modules below only those exist that the config's switches use.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.stride = cfg.feature_stride
        self.motion_estimation = MotionEstimation(cfg.motion.estimation, cfg.feature_stride)
        self.motion_codec = MotionCodec(cfg)
        self.motion_refiner = MotionRefiner(cfg) if cfg.motion_refiner else None
        width = cfg.context_channels[0]
        self.adaptor = FeatureAdaptor(
            cfg,
            FrameStem(self.stride, width, flat_chroma=cfg.flat_chroma),
            width,
            cfg.reference == "reconstructed_feature",
        )
        self.temporal_context = TemporalContext(cfg)
        self.feature_extractor = FeatureExtractor(cfg)
        masked = cfg.residual.startswith("masked")
        self.predicted_features = (
            PredictedFeatureExtractor(cfg) if masked or cfg.residual == "feature" else None
        )
        in_pixels = cfg.residual == "masked_pixel"
        outputs = self.stride**2 if in_pixels else cfg.context_channels[0]
        self.mask_predictor = MaskPredictor(cfg, outputs) if masked else None
        self.residual_codec = ResidualCodec(cfg)
        self.frame_generator = FrameGenerator(cfg)

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> FrameOutput:
        previous = past.latents or self._no_latents(past.frame)
        motion = self._code_motion(coder, x, quality, past)
        contexts = self.temporal_context(motion.reference, motion.blended)
        in_features, in_pixels, mask = self._subtrahends(motion.pictures.prediction, contexts[0])

        # r = f_x - m * f_p, or what the `residual` switch puts in its place
        residual = None
        if x is not None:
            residual = self.feature_extractor(x if in_pixels is None else x - in_pixels)
            if in_features is not None:
                residual = residual - in_features
        reconstructed, residual_latent = self.residual_codec(
            coder, residual, contexts, quality, previous.residual
        )
        if in_features is not None:
            reconstructed = reconstructed + in_features
        frame = self.frame_generator(reconstructed, contexts[0])
        if in_pixels is not None:
            frame = frame + in_pixels

        x_hat = self._shown(frame)
        latents = LatentReference(
            residual_latent, motion.latent, motion.feature, motion.pictures.refined
        )
        state = ReferenceState(x_hat, reconstructed, latents, past.position + 1)
        return FrameOutput(x_hat, state, motion=replace(motion.pictures, mask=mask))

    def _code_motion(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> CMFRMotion:
        """Estimated, decoded and refined motion (v, v_hat, v_bar)."""
        previous = past.latents or self._no_latents(past.frame)
        reference, feature = past.frame, self.adaptor(past, past.position + 1)
        flow = None if x is None else self.motion_estimation(x, reference)
        decoded, latent, motion_feature = self.motion_codec(
            coder, flow, quality, previous.motion, previous.motion_feature
        )
        samples = half_samples(reference)
        blended = BlendedMotion(decoded[:, None])
        warped = prediction = blended.resized(self.stride).warp(samples, 2)
        if self.motion_refiner is not None:
            blended = self.motion_refiner(decoded, previous.flow, reference, warped, feature)
            prediction = blended.resized(self.stride).warp(samples, 2)
        pictures = MotionPictures(decoded, blended.mean, warped, prediction)
        return CMFRMotion(pictures, latent, motion_feature, feature, blended)

    def _subtrahends(
        self, prediction: Tensor, context: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What is subtracted in the encoder and added back in the decoder.

        Returns (in features [B, C0, h, w], in pixels [B, 3, H, W], mask): at most one of the
        first two. Both ends compute it from decoded data alone.
        """
        rule = self.cfg.residual
        if rule == "none":
            return None, None, None
        if rule == "pixel":
            return None, prediction, None
        assert self.predicted_features is not None
        predicted = self.predicted_features(prediction, context)
        if self.mask_predictor is None:
            return predicted, None, None
        mask = self.mask_predictor(predicted, context)
        if rule == "masked_feature":
            return mask * predicted, None, mask
        mask = F.pixel_shuffle(mask, self.stride) if self.stride > 1 else mask
        return None, mask * prediction, mask

    def _no_latents(self, frame: Tensor) -> LatentReference:
        motion, residual = self.cfg.motion, self.cfg.inter

        def zeros(channels: int, stride: int) -> Tensor:
            batch, _, height, width = frame.shape
            return frame.new_zeros(batch, channels, height // stride, width // stride)

        return LatentReference(
            zeros(residual.latent, residual.latent_stride),
            zeros(motion.latent, motion.latent_stride),
            zeros(motion.channels, 4),
            zeros(2, self.stride),
        )
