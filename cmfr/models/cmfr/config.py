"""CMFR's configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cmfr.config import CodecConfig, Depth, LatentConfig, Strict, Stride, Width, check_strides
from cmfr.utils.errors import UserError
from cmfr.utils.yaml_config import with_present_keys


class MatchingLevel(Strict):
    """One level of CMFR's motion estimation.

    stride: the level works on frames reduced by this factor.
    radius: of its search, in pixels of its resolution; 0 = none.
    widths: of its 3x3 convolutions; one more gives the two flow components.
    """

    stride: Stride
    radius: int = Field(2, ge=0, le=8)
    widths: tuple[Width, ...] = Field((48, 48, 48), max_length=16)


class IntraConfig(LatentConfig):
    """I-frame codec: widths at 1/2, 1/4, 1/8 resolution and blocks per level.

    hyper: at least 1: an I-frame has no other prior.
    """

    hyper: int = Field(ge=1, le=4096)
    channels: tuple[Width, Width, Width]
    blocks: tuple[Depth, Depth, Depth]


class RefinerConfig(Strict):
    """Motion Refiner.

    width, blocks: of its network, at half the flow's resolution.
    hypotheses: flows that it makes of the decoded one, whose predictions are blended; with 1 it
    corrects the decoded flow.
    older: as many more that point to the frame before the reference.
    """

    width: int = Field(ge=8, le=4096)
    blocks: int = Field(3, ge=1, le=64)
    hypotheses: int = Field(4, ge=1, le=64)
    older: int = Field(0, ge=0, le=64)


class MotionConfig(LatentConfig):
    """Motion estimation, motion codec (of width `channels`) and Motion Refiner.

    accumulated: frames are predicted from what all before the reference add to its samples.
    """

    estimation: tuple[MatchingLevel, ...] = Field(max_length=16)
    channels: Width
    refiner: RefinerConfig
    accumulated: bool = False


class ResidualConfig(LatentConfig):
    """Conditional residual codec."""

    generator_blocks: Depth = 2


RENAMED_KEYS = {"inter": "residual_codec"}  # what keys were called in files from before, and are


class CMFRConfig(CodecConfig):
    """CMFR: everything that decides the network. The four ablation switches come first.

    residual: what is subtracted before the context encoder: a name of `RESIDUAL_MODES` in
    models/cmfr/residual_modes.py (design: CMFR is ``masked_feature``).
    fusion: how contexts enter the context encoder and decoder.
    reference: what the next frame's context is mined from.
    feature_stride: resolution of the features (1 = full, 2 = half, 4).
    block: residual block type.
    bottleneck: middle width of a residual block over its width.
    skip_scale: symbols of a smaller scale are not coded.
    """

    family: Literal["cmfr"] = "cmfr"
    residual: str = "masked_feature"
    fusion: Literal["sff", "concat"] = "sff"
    motion_refiner: bool = True
    reference: Literal["reconstructed_feature", "frame"] = "reconstructed_feature"

    feature_stride: Literal[1, 2, 4]
    context_channels: tuple[Width, Width, Width]
    block: Literal["residual", "depthwise"] = "residual"
    bottleneck: float = Field(1.0, gt=0, le=1)
    intra: IntraConfig
    motion: MotionConfig
    residual_codec: ResidualConfig
    skip_scale: float = Field(0.15, ge=0, le=64)

    @model_validator(mode="before")
    @classmethod
    def _with_present_keys(cls, values: Any) -> Any:
        return with_present_keys(values, RENAMED_KEYS) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self) -> CMFRConfig:
        if 4 * self.feature_stride > self.residual_codec.latent_stride:
            raise UserError(
                f"residual_codec.latent_stride = {self.residual_codec.latent_stride} is finer than "
                f"the coarsest context, at {4 * self.feature_stride}"
            )
        strides = [level.stride for level in self.motion.estimation]
        check_strides("motion.estimation", strides, self.frame_multiple)
        return self

    @property
    def accumulates(self) -> bool:
        """`motion.accumulated`, where frames are predicted at all."""
        return self.motion.accumulated and (self.motion_refiner or self.residual != "none")

    @property
    def frame_multiple(self) -> int:
        return max(part.latent_stride for part in (self.intra, self.motion, self.residual_codec))
