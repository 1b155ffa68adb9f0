"""The model's configuration: sizes and ablation switches as data, and the three presets.

Unknown keys are errors. A weights file carries one `ModelConfig` in its metadata, and that is all
that is needed to build the model again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

QUALITIES = 64  # quality indices 0 (smallest file) .. 63 (best), in one set of weights
LATENT_STRIDE = 16  # pixels per latent position; frames are padded to a multiple of it


class Strict(BaseModel):
    """Base of every config section: frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EstimationLevel(Strict):
    """One level of the motion estimation pyramid (SpyNet-type).

    stride: the level works on frames reduced by this factor; kernel, widths: its convolutions,
    ``len(widths) + 1`` of them, the last giving the two flow components.
    """

    stride: int
    kernel: int = 7
    widths: tuple[int, ...] = (32, 64, 32, 16)


class HierarchyConfig(Strict):
    """Hierarchical quality, indexed by ``frame position % period`` with the I-frame at 0.

    weights: factors on the distortion in training; quality_offsets: added to the quality index
    when a P-frame is coded; adaptors: which of the feature adaptors reads the reference feature.
    The published DCVC-DC weights are (0.5, 1.2, 0.5, 0.9) in this indexing. The offsets are
    ours: lambda(q + offset) / lambda(q) is about the weight where lambda grows by 10 % a step.
    """

    weights: tuple[float, ...] = (0.5, 1.2, 0.5, 0.9)
    quality_offsets: tuple[int, ...] = (-7, 2, -7, -1)
    adaptors: tuple[int, ...] = (0, 1, 0, 2)

    @model_validator(mode="after")
    def _same_length(self) -> HierarchyConfig:
        if not len(self.weights) == len(self.quality_offsets) == len(self.adaptors) > 0:
            raise ValueError("hierarchy: weights, quality_offsets and adaptors differ in length")
        return self

    @property
    def period(self) -> int:
        return len(self.weights)


class IntraConfig(Strict):
    """I-frame codec: widths at 1/2, 1/4, 1/8 resolution, latent channels, blocks per level."""

    channels: tuple[int, int, int]
    latent: int
    hyper: int = Field(ge=4)
    blocks: tuple[int, int, int]
    spatial_steps: Literal[1, 2, 4] = 4


class MotionConfig(Strict):
    """Motion estimation, motion codec and Motion Refiner."""

    estimation: tuple[EstimationLevel, ...]
    channels: int  # width of the motion codec
    latent: int
    hyper: int = Field(ge=4)
    refiner: int  # width of the Motion Refiner
    spatial_steps: Literal[1, 2, 4] = 4


class ResidualConfig(Strict):
    """Conditional residual codec."""

    latent: int
    hyper: int = Field(ge=4)
    spatial_steps: Literal[1, 2, 4] = 4
    generator_blocks: int = 2


class ModelConfig(Strict):
    """Everything that decides the network. The four ablation switches come first.

    residual: what is subtracted before the context encoder (design: CMFR is ``masked_feature``).
    fusion: how contexts enter the context encoder and decoder. reference: what the next frame's
    context is mined from. feature_stride: resolution of the features (1 = full, 2 = half, 4).
    block: residual block type. bottleneck: middle width of a residual block over its width.
    color: what the network sees, YCbCr 4:4:4 or RGB.
    """

    name: str
    residual: Literal["masked_feature", "feature", "masked_pixel", "pixel", "none"] = (
        "masked_feature"
    )
    fusion: Literal["sff", "concat"] = "sff"
    motion_refiner: bool = True
    reference: Literal["reconstructed_feature", "frame"] = "reconstructed_feature"

    color: Literal["ycbcr", "rgb"] = "ycbcr"
    feature_stride: Literal[1, 2, 4]
    context_channels: tuple[int, int, int]
    block: Literal["residual", "depthwise"] = "residual"
    bottleneck: float = Field(1.0, gt=0, le=1)
    intra: IntraConfig
    motion: MotionConfig
    inter: ResidualConfig
    hierarchy: HierarchyConfig = HierarchyConfig()
    refresh_period: int = Field(32, ge=0)  # frames between temporal feature refreshes; 0 = never
    skip_scale: float = Field(0.15, ge=0)  # latents of a smaller predicted scale are not coded

    @model_validator(mode="after")
    def _divisible(self) -> ModelConfig:
        for part in ("intra", "motion", "inter"):
            section = getattr(self, part)
            if section.latent % section.spatial_steps:
                raise ValueError(
                    f"{part}.latent = {section.latent} is no multiple of "
                    f"{part}.spatial_steps = {section.spatial_steps}"
                )
        strides = [level.stride for level in self.motion.estimation]
        halving = all(a % b == 0 for a, b in zip(strides, strides[1:], strict=False))
        if not strides or LATENT_STRIDE % strides[0] or not halving:
            raise ValueError(
                f"motion.estimation: strides {strides} must divide {LATENT_STRIDE}, coarse to "
                "fine, each a divisor of the one before"
            )
        return self


def _levels(*strides: int) -> tuple[EstimationLevel, ...]:
    return tuple(EstimationLevel(stride=s) for s in strides)


# One line of numbers a model; the same classes build all three.
PRESETS: dict[str, ModelConfig] = {
    "cmfr": ModelConfig(
        name="cmfr",
        feature_stride=1,
        context_channels=(48, 64, 96),
        intra=IntraConfig(channels=(128, 192, 256), latent=256, hyper=128, blocks=(1, 2, 2)),
        motion=MotionConfig(
            estimation=_levels(8, 4, 2, 1), channels=64, latent=64, hyper=64, refiner=48
        ),
        inter=ResidualConfig(latent=128, hyper=128, generator_blocks=3),
    ),
    "cmfr-s": ModelConfig(
        name="cmfr-s",
        feature_stride=2,
        context_channels=(32, 64, 96),
        bottleneck=0.5,
        intra=IntraConfig(channels=(32, 64, 128), latent=128, hyper=64, blocks=(2, 3, 3)),
        motion=MotionConfig(
            estimation=(
                *_levels(16, 8, 4),
                EstimationLevel(stride=2, kernel=3, widths=(24, 24)),
            ),
            channels=48,
            latent=48,
            hyper=32,
            refiner=32,
            spatial_steps=2,
        ),
        inter=ResidualConfig(latent=96, hyper=64),
    ),
    "cmfr-nano": ModelConfig(
        name="cmfr-nano",
        feature_stride=4,
        context_channels=(8, 8, 16),
        intra=IntraConfig(channels=(8, 8, 16), latent=16, hyper=8, blocks=(1, 1, 1)),
        motion=MotionConfig(
            estimation=(EstimationLevel(stride=8, kernel=3, widths=(8,)),),
            channels=8,
            latent=8,
            hyper=4,
            refiner=8,
            spatial_steps=2,
        ),
        inter=ResidualConfig(latent=16, hyper=8, generator_blocks=1),
    ),
}
