"""Data sets as configured: one class a kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cmfr.config import Strict
from cmfr.utils.yaml_config import one_of

Gap = Annotated[int, Field(ge=1)]


class AugmentationConfig(Strict):
    """Detail that the clips lack (see data/augment.py).

    halved: probability that a sample is cut from frames of half the resolution, where they are
    large enough.
    decimated: probability that such a sample keeps every other row and column, aliasing and all;
    otherwise it is means of them.
    sharpening: luma (or RGB) of every sample is sharpened by an amount between 0 and this.
    """

    halved: float = Field(0.0, ge=0, le=1)
    decimated: float = Field(0.0, ge=0, le=1)
    sharpening: float = Field(0.0, ge=0)


class _DataSet(Strict):
    """What all kinds of data sets have.

    preload: keep the whole set as uint8 in the memory of the training device and crop there (all
    of Vimeo-90k are 150 GB); otherwise `workers` processes per rank read ahead.
    augmentation: for clips that are softer than what will be coded.
    """

    kind: str
    preload: bool = False
    workers: int = Field(2, ge=0)
    augmentation: AugmentationConfig = AugmentationConfig()


class _Moving(_DataSet):
    """A data set of moving pictures.

    gaps: temporal distances drawn from.
    reversal: half of the samples run backwards.
    """

    gaps: tuple[Gap, ...] = Field((1,), min_length=1)
    reversal: bool = True


class _Chosen(_DataSet):
    """include, exclude: glob patterns of names (relative to the root), so that training and
    validation can share one set."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


class ClipsConfig(_Moving, _Chosen):
    """A folder of video files, or of folders of numbered frames."""

    kind: Literal["clips"] = "clips"
    root: Path


class SeptupletsConfig(_Moving):
    """Vimeo-90k as distributed.

    root: the folder that holds ``sequences/`` and the lists.
    list_file: one of the lists, relative to the root.
    """

    kind: Literal["septuplets"] = "septuplets"
    root: Path
    list_file: str = "sep_trainlist.txt"


class ImagesConfig(_Chosen):
    """A folder of pictures, for the intra codec: clips of one frame."""

    kind: Literal["images"] = "images"
    root: Path
    gaps: ClassVar[tuple[int, ...]] = (1,)
    reversal: ClassVar[bool] = True  # draws as the others do


class GeneratedConfig(_Moving, _Chosen):
    """Rendered moving scenes, for smoke tests: `count` of so many frames.

    size: width, height.
    """

    kind: Literal["generated"] = "generated"
    count: int = Field(8, ge=1)
    frames: int = Field(16, ge=1)
    size: tuple[int, int] = (192, 128)


DATA_KINDS: dict[str, type[_DataSet]] = {
    "clips": ClipsConfig,
    "septuplets": SeptupletsConfig,
    "images": ImagesConfig,
    "generated": GeneratedConfig,
}
if TYPE_CHECKING:
    DataConfig = ClipsConfig | SeptupletsConfig | ImagesConfig | GeneratedConfig
else:
    DataConfig = one_of(DATA_KINDS, "kind", default="clips")
