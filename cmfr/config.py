"""What the configurations of all models share; each family has its own (models/cmfr/config.py,
models/dcvc/config.py), and models/presets.py has the numbers.

Unknown keys are errors. A weights file carries a model's configuration in its metadata, and that is
all that is needed to build the model again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmfr.utils.errors import UserError

QUALITIES = 64  # quality indices 0 (smallest file) .. 63 (best), in one set of weights
# Of a picture to decode, unless more are allowed: what a stream says of itself is easily forged.
MAX_PIXELS = 8192 * 4320
MAX_STRIDE = 16  # of any latent and level of a model


# A configuration may come from a weights file of anyone: no number in it makes a model that cannot
# be built in a moment.
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=0, le=64)]
Stride = Annotated[int, Field(ge=1, le=MAX_STRIDE)]


def by_quality(low: float, high: float, quality: Any) -> Any:
    """What is `low` at quality 0 and `high` at 63 and runs geometrically between; quality: a number
    or a tensor."""
    return low * (high / low) ** (quality / (QUALITIES - 1))


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


Positive = Annotated[float, Field(gt=0)]
_Offset = Annotated[int, Field(gt=-QUALITIES, lt=QUALITIES)]
_Adaptor = Annotated[int, Field(ge=0, lt=16)]


class HierarchyConfig(Strict):
    """Hierarchical quality, indexed by ``frame position % period`` with the I-frame at 0.

    weights: factors on the distortion in training.
    quality_offsets: added to the quality index when a P-frame is coded.
    adaptors: which of the feature adaptors reads the reference feature.

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

    latent: channels.
    latent_stride: pixels per position.
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


class CodecConfig(Strict):
    """What every model has, whatever its network.

    color: what the network sees, YCbCr 4:4:4 or RGB.
    refresh_period: frames between temporal feature refreshes; 0 = never.
    lambda_range: what a squared error (samples in [0, 1]) weighs against a bit per pixel at quality
    0 and 63 of P-frames, for encoders that search. Training goes by its loss, and writes its own
    here where D is a squared error.
    """

    name: str = Field(min_length=1, max_length=63)
    family: str
    color: Literal["ycbcr", "rgb"] = "ycbcr"
    hierarchy: HierarchyConfig = HierarchyConfig()
    refresh_period: int = Field(32, ge=0, le=65535)
    lambda_range: tuple[Positive, Positive] = (48.0, 24576.0)

    @property
    def frame_multiple(self) -> int:
        """Frames are padded to a multiple of so many pixels: the stride of the coarsest latent, or
        the coarsest that there may be."""
        return MAX_STRIDE

    @property
    def flat_chroma(self) -> bool:
        """Whether networks start as if chroma had half the resolution of luma."""
        return self.color == "ycbcr"


def check_strides(where: str, strides: list[int], multiple: int) -> None:
    """Raise UserError unless frames whose sides are multiples of `multiple` can have a pyramid of
    these strides, coarse to fine."""
    halving = all(a % b == 0 for a, b in zip(strides, strides[1:], strict=False))
    if not strides or multiple % strides[0] or not halving:
        raise UserError(
            f"{where}: strides {strides} must divide {multiple}, coarse to fine, each a "
            "divisor of the one before"
        )
