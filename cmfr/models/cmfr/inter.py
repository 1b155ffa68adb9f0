"""CMFR: the P-frame codec. One frame, top to bottom, in `CMFR._code` (design of the paper's
Section 3 as far as its abstract tells; docs/architecture.md keeps the paper's and ours apart)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from cmfr.models.base import CodedMotion, MotionInterCodec
from cmfr.models.cmfr.accumulator import ReferenceAccumulator
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.context import FeatureAdaptor, TemporalContext
from cmfr.models.cmfr.features import FeatureExtractor, FrameStem
from cmfr.models.cmfr.motion import BlendedMotion, MotionCodec, MotionRefiner, best_older_share
from cmfr.models.cmfr.motion_estimation import MotionEstimation
from cmfr.models.cmfr.residual import FrameGenerator, ResidualCodec
from cmfr.models.cmfr.residual_modes import RESIDUAL_MODES
from cmfr.models.state import FrameOutput, LatentReference, MotionPictures, ReferenceState
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.layers import half_samples
from cmfr.utils.errors import UserError, unknown

# What the beginnings of weights' names were in earlier versions, and are.
RENAMED = (
    ("inter.predicted_features.", "inter.residual_mode.predicted_features."),
    ("inter.mask_predictor.", "inter.residual_mode.mask_predictor."),
)


def checked_switches(cfg: CMFRConfig) -> CMFRConfig:
    """The same, or UserError for a switch that there is not."""
    if cfg.residual not in RESIDUAL_MODES:
        raise UserError(unknown("residual: there is no", cfg.residual, RESIDUAL_MODES))
    return cfg


@dataclass(frozen=True, kw_only=True)
class CMFRMotion(CodedMotion):
    """blended: the refined motion to the reference, which contexts follow.

    samples: of the reference, what it was predicted from, [B, 3, 2H, 2W].
    sources: what was predicted from the reference, and from the frame before it, [B, 3, H, W] each;
    None where that one is not looked at.
    """

    blended: BlendedMotion
    samples: Tensor
    sources: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class CMFRResidual:
    """What the residual makes of the prediction.

    frame: not yet clamped, [B, 3, H, W].
    feature: f_r + m * f_p, [B, C0, H/s, W/s].
    latent: decoded, of the residual.
    mask: m, where there is one.
    """

    frame: Tensor
    feature: Tensor
    latent: Tensor
    mask: Tensor | None


class CMFR(MotionInterCodec):
    """Conditional masked feature residual codec.

    Of the modules below only those exist that the config's switches use.
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.stride = cfg.feature_stride
        self.motion_estimation = MotionEstimation(cfg.motion.estimation, cfg.feature_stride)
        self.motion_codec = MotionCodec(cfg)
        self.motion_refiner = MotionRefiner(cfg) if cfg.motion_refiner else None
        self.accumulator = ReferenceAccumulator(cfg) if cfg.accumulates else None
        width = cfg.context_channels[0]
        self.adaptor = FeatureAdaptor(
            cfg,
            FrameStem(self.stride, width, flat_chroma=cfg.flat_chroma),
            width,
            cfg.reference == "reconstructed_feature",
        )
        self.temporal_context = TemporalContext(cfg)
        mode = RESIDUAL_MODES[checked_switches(cfg).residual]
        self.feature_extractor = FeatureExtractor(cfg, mode.center)
        self.residual_mode = mode(cfg)
        self.residual_codec = ResidualCodec(cfg)
        self.frame_generator = FrameGenerator(cfg, mode.center)

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> FrameOutput:
        motion = self._code_motion(coder, x, quality, past)
        residual = self._code_residual(coder, x, quality, past, motion)
        x_hat, position = self._clamped(residual.frame), past.position + 1
        flow, samples, older_share = motion.pictures.refined, None, None
        if self.accumulator is not None:
            samples = self.accumulator(half_samples(x_hat), motion.samples, flow, position)
        if motion.sources is not None:
            older_share = best_older_share(x_hat, *motion.sources)
        latents = LatentReference(
            residual.latent,
            motion.latent,
            motion.motion_feature,
            flow,
            older_share,
            samples,
            motion.older_samples,
        )
        state = ReferenceState(x_hat, residual.feature, latents, position)
        return FrameOutput(x_hat, state, motion=replace(motion.pictures, mask=residual.mask))

    def _code_motion(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> CMFRMotion:
        """Estimated, decoded and refined motion (v, v_hat, v_bar), and the prediction."""
        previous, reference = self._previous(past), past.frame
        flow = None if x is None else self.motion_estimation(x, reference)
        decoded, latent, motion_feature = self.motion_codec(
            coder, flow, quality, previous.motion, previous.motion_feature
        )
        reference_feature = self.adaptor(past, past.position + 1)
        samples = half_samples(reference) if previous.samples is None else previous.samples
        refined = BlendedMotion(decoded[:, None])
        warped = prediction = refined.resized(self.stride).warp(samples, 2)
        older_samples = sources = None
        if self.motion_refiner is not None:
            if self.motion_refiner.older_flows:  # the first P-frame has only its reference
                older_samples = (
                    samples if previous.older_samples is None else previous.older_samples
                )
            refined = self.motion_refiner(
                decoded, previous, (reference, warped), older_samples, reference_feature
            )
            prediction, sources = refined.resized(self.stride).predict(samples, older_samples)
        blended = refined.to_reference
        return CMFRMotion(
            pictures=MotionPictures(decoded, blended.mean, warped, prediction),
            latent=latent,
            motion_feature=motion_feature,
            reference_feature=reference_feature,
            older_samples=None if older_samples is None else samples,
            blended=blended,
            samples=samples,
            sources=sources,
        )

    def _code_residual(
        self,
        coder: EntropyCoder,
        x: Tensor | None,
        quality: Tensor,
        past: ReferenceState,
        motion: CMFRMotion,
    ) -> CMFRResidual:
        """Contexts, prediction in features and its mask, residual, and the frame they make."""
        contexts = self.temporal_context(motion.reference_feature, motion.blended)
        # f_p with its mask, or what the `residual` switch puts in its place
        subtrahend = self.residual_mode(motion.pictures.prediction, contexts[0])
        features, pixels = subtrahend.features, subtrahend.pixels

        residual = None  # r = f_x - m * f_p
        if x is not None:
            residual = self.feature_extractor(x if pixels is None else x - pixels)
            residual = residual if features is None else residual - features
        decoded, latent = self.residual_codec(
            coder, residual, contexts, quality, self._previous(past).residual
        )
        feature = decoded if features is None else decoded + features
        frame = self.frame_generator(feature, contexts[0])
        if pixels is not None:
            frame, feature = frame + pixels, feature + subtrahend.pixel_features
        return CMFRResidual(frame, feature, latent, subtrahend.mask)

    def _no_latents(self, frame: Tensor) -> LatentReference:
        motion, residual = self.cfg.motion, self.cfg.residual_codec

        def zeros(channels: int, stride: int) -> Tensor:
            batch, _, height, width = frame.shape
            return frame.new_zeros(batch, channels, height // stride, width // stride)

        return LatentReference(
            zeros(residual.latent, residual.latent_stride),
            zeros(motion.latent, motion.latent_stride),
            zeros(motion.channels, 4),
            zeros(2, self.stride),
        )
