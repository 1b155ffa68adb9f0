"""The models' configurations: sizes and switches as data (models/presets.py has the numbers).

Unknown keys are errors. A weights file carries one of these in its metadata, and that is all that
is needed to build the model again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmfr.utils.errors import UserError

QUALITIES = 64  # quality indices 0 (smallest file) .. 63 (best), in one set of weights
# Of a picture to decode, unless more are allowed: what a stream says of itself is easily forged.
MAX_PIXELS = 8192 * 4320
LATENT_STRIDE = 16  # frames are padded to a multiple of it, the coarsest latent's stride


# A configuration may come from a weights file of anyone: no number in it makes a model that cannot
# be built in a moment.
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=0, le=64)]
Stride = Annotated[int, Field(ge=1, le=LATENT_STRIDE)]


class Strict(BaseModel):
    """Base of every config section: frozen, and an unknown key is an error that names it. A list
    may be given as one text, its entries apart by commas or spaces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        lists = {name for name, kind in kinds.items() if _is_list(kind)}
        return {
            key: value.replace(",", " ").split()
            if key in lists and isinstance(value, str)
            else value
            for key, value in values.items()
        }


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))


class EstimationLevel(Strict):
    """One level of DCVC's motion estimation (SpyNet).

    stride: the level works on frames reduced by this factor.
    kernel, widths: its convolutions, ``len(widths) + 1`` of them, the last giving the two flow
    components. The defaults are SpyNet's.
    """

    stride: Stride
    kernel: int = Field(7, ge=1, le=15)
    widths: tuple[Width, ...] = Field((32, 64, 32, 16), max_length=16)


class MatchingLevel(Strict):
    """One level of CMFR's motion estimation.

    stride: the level works on frames reduced by this factor.
    radius: of its search, in pixels of its resolution; 0 = none.
    widths: of its 3x3 convolutions; one more gives the two flow components.
    """

    stride: Stride
    radius: int = Field(2, ge=0, le=8)
    widths: tuple[Width, ...] = Field((48, 48, 48), max_length=16)


_Offset = Annotated[int, Field(gt=-QUALITIES, lt=QUALITIES)]
_Adaptor = Annotated[int, Field(ge=0, lt=16)]


class HierarchyConfig(Strict):
    """Hierarchical quality, indexed by ``frame position % period`` with the I-frame at 0.

    weights: factors on the distortion in training; quality_offsets: added to the quality index
    when a P-frame is coded; adaptors: which of the feature adaptors reads the reference feature.
    The published DCVC-DC weights are (0.5, 1.2, 0.5, 0.9) in this indexing. The offsets are
    ours: lambda(q + offset) / lambda(q) is about the weight where lambda grows by 10 % a step.
    """

    weights: tuple[float, ...] = (0.5, 1.2, 0.5, 0.9)
    quality_offsets: tuple[_Offset, ...] = (-7, 2, -7, -1)
    adaptors: tuple[_Adaptor, ...] = (0, 1, 0, 2)

    @model_validator(mode="after")
    def _same_length(self) -> HierarchyConfig:
        if not len(self.weights) == len(self.quality_offsets) == len(self.adaptors) > 0:
            raise UserError("hierarchy: weights, quality_offsets and adaptors differ in length")
        if len(self.weights) > 255:  # what a stream's header has place for
            raise UserError(f"hierarchy: a period of {len(self.weights)} frames is above 255")
        return self

    @property
    def period(self) -> int:
        return len(self.weights)


class LatentConfig(Strict):
    """A latent and its entropy model.

    latent: channels; latent_stride: pixels per position.
    hyper: channels of the hyper-latent, at a quarter of the latent's resolution; 0 = none.
    prior: width of the networks that predict its symbols.
    spatial_steps: parts in which it is coded, each knowing those before.
    rdoq: rate-distortion optimized quantization in encoder and training: what an error of one
    quantization step is worth in bits; 0 = rounding.
    """

    latent: int = Field(ge=4, le=4096)
    latent_stride: Literal[8, 16] = 16
    hyper: int = Field(ge=0, le=4096)
    prior: int = Field(ge=8, le=4096)
    spatial_steps: Literal[1, 2, 4] = 4
    rdoq: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _divisible(self) -> LatentConfig:
        if self.latent % self.spatial_steps:
            raise UserError(
                f"latent = {self.latent} is no multiple of spatial_steps = {self.spatial_steps}"
            )
        return self


class IntraConfig(LatentConfig):
    """I-frame codec: widths at 1/2, 1/4, 1/8 resolution and blocks per level."""

    channels: tuple[Width, Width, Width]
    blocks: tuple[Depth, Depth, Depth]


class RefinerConfig(Strict):
    """Motion Refiner. hypotheses: flows that it makes of the decoded one, whose predictions are
    blended; with 1 it corrects the decoded flow. width, blocks: of its network, at half the
    flow's resolution."""

    width: int = Field(ge=8, le=4096)
    blocks: int = Field(3, ge=1, le=64)
    hypotheses: int = Field(4, ge=1, le=64)


class MotionConfig(LatentConfig):
    """Motion estimation, motion codec (of width `channels`) and Motion Refiner."""

    estimation: tuple[MatchingLevel, ...] = Field(max_length=16)
    channels: Width
    refiner: RefinerConfig


class ResidualConfig(LatentConfig):
    """Conditional residual codec."""

    generator_blocks: Depth = 2


class CodecConfig(Strict):
    """What every model has, whatever its network.

    color: what the network sees, YCbCr 4:4:4 or RGB. refresh_period: frames between temporal
    feature refreshes; 0 = never.
    """

    name: str = Field(min_length=1, max_length=63)
    family: str
    color: Literal["ycbcr", "rgb"] = "ycbcr"
    hierarchy: HierarchyConfig = HierarchyConfig()
    refresh_period: int = Field(32, ge=0, le=65535)

    @property
    def frame_multiple(self) -> int:
        """Frames are padded to a multiple of so many pixels, the coarsest latent's stride."""
        return LATENT_STRIDE

    @property
    def flat_chroma(self) -> bool:
        """Whether networks start as if chroma had half the resolution of luma."""
        return self.color == "ycbcr"


class CMFRConfig(CodecConfig):
    """CMFR: everything that decides the network. The four ablation switches come first.

    residual: what is subtracted before the context encoder: a name of `RESIDUAL_MODES` in
    models/cmfr/residual_modes.py (design: CMFR is ``masked_feature``).
    fusion: how contexts enter the context encoder and decoder. reference: what the next frame's
    context is mined from. feature_stride: resolution of the features (1 = full, 2 = half, 4).
    block: residual block type. bottleneck: middle width of a residual block over its width.
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
    skip_scale: float = Field(0.15, ge=0, le=64)  # latents of a smaller scale are not coded

    @model_validator(mode="after")
    def _consistent(self) -> CMFRConfig:
        if self.motion.latent_stride != 16:
            raise UserError("motion.latent_stride must be 16")
        if 4 * self.feature_stride > self.residual_codec.latent_stride:
            raise UserError(
                f"residual_codec.latent_stride = {self.residual_codec.latent_stride} is finer than the coarsest "
                f"context, at {4 * self.feature_stride}"
            )
        _check_strides("motion.estimation", self.motion.estimation)
        return self


def _check_strides(
    where: str, levels: tuple[EstimationLevel, ...] | tuple[MatchingLevel, ...]
) -> None:
    strides = [level.stride for level in levels]
    halving = all(a % b == 0 for a, b in zip(strides, strides[1:], strict=False))
    if not strides or LATENT_STRIDE % strides[0] or not halving:
        raise UserError(
            f"{where}: strides {strides} must divide {LATENT_STRIDE}, coarse to fine, each a "
            "divisor of the one before"
        )


class DCVCConfig(CodecConfig):
    """DCVC-DC (CVPR 2023) or DCVC-FM (CVPR 2024); the defaults are the published widths.

    generation: whose blocks, quality gains and I-frame parameters. quality_gains: what lies
    between the stored gains of DCVC-DC's four rate points at the other 60 qualities: ``ends``
    draws a geometric line from the first to the last, as the published code does when it codes
    64 qualities; ``anchors`` goes through all four, which are then exactly qualities 0, 21, 42 and
    63 (the published rate points), and is what trains all of them. DCVC-FM has no such choice.

    context_channels at 1, 1/2 and 1/4; unet: widths of a U-Net's three levels; hyper,
    intra_hyper: of the hyper-latents; motion_channels: width of the motion codec, its latent and
    its hyper-latent.
    """

    family: Literal["dcvc"]
    generation: Literal["dc", "fm"]
    quality_gains: Literal["ends", "anchors"] = "ends"
    estimation: tuple[EstimationLevel, ...] = Field(max_length=16)
    context_channels: tuple[Width, Width, Width] = (48, 64, 96)
    motion_channels: Width = 64
    latent: Width = 128
    hyper: Width
    decoder_channels: Width = 32
    unet: tuple[Width, Width, Width] = (32, 64, 128)
    intra_channels: tuple[Width, Width, Width] = (128, 192, 256)
    intra_hyper: Width
    intra_refine: Width = 16

    @model_validator(mode="after")
    def _consistent(self) -> DCVCConfig:
        _check_strides("estimation", self.estimation)
        if self.estimation[-1].stride != 1:
            raise UserError("estimation: the last level must work at stride 1")
        for name in ("motion_channels", "latent"):
            if getattr(self, name) % 4:
                raise UserError(f"{name} = {getattr(self, name)} is no multiple of 4")
        if self.intra_channels[2] % 4:
            raise UserError(f"intra_channels: {self.intra_channels[2]} is no multiple of 4")
        if self.generation == "fm" and self.quality_gains != "ends":
            raise UserError("quality_gains: DCVC-FM has only two stored gains, its ends")
        return self
