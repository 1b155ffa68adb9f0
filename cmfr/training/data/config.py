"""Data sets as configured: one class a kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cmfr.config import Strict
from cmfr.utils.errors import UserError, unknown
from cmfr.utils.yaml_config import merged, one_of

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


class SelectionConfig(_DataSet):
    """A data set of which a part is chosen, so that training and validation can share a folder.

    include, exclude: glob patterns of names (relative to the root).
    hold_out: share of these, 0..1, that is left out: the last in the order of names, at least one
    (pieces of one video are neighbours, so few scenes are in both parts).
    held_out: take what `hold_out` leaves out, and nothing else.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    hold_out: float = Field(0.0, ge=0, lt=1)
    held_out: bool = False

    @model_validator(mode="after")
    def _something_held_out(self) -> SelectionConfig:
        if self.held_out and not self.hold_out:
            raise UserError("held_out: true needs hold_out, the share that is left out")
        return self


class ClipsConfig(_Moving, SelectionConfig):
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


class ImagesConfig(SelectionConfig):
    """A folder of pictures, for the intra codec: clips of one frame."""

    kind: Literal["images"] = "images"
    root: Path
    gaps: ClassVar[tuple[int, ...]] = (1,)
    reversal: ClassVar[bool] = True  # draws as the others do


class GeneratedConfig(_Moving, SelectionConfig):
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


def with_likenesses(sets: dict[str, Any]) -> dict[str, Any]:
    """Data sets as they are written -> in full: one that is `like` another has its keys, but for
    those that it has itself. Raises UserError where there is no such other."""
    return {name: _in_full(name, keys, sets) for name, keys in sets.items()}


def _in_full(name: str, keys: Any, sets: dict[str, Any]) -> Any:
    if not isinstance(keys, dict) or "like" not in keys:
        return keys
    other, own = keys["like"], {key: value for key, value in keys.items() if key != "like"}
    full = {n: v for n, v in sets.items() if isinstance(v, dict) and "like" not in v}
    if not isinstance(other, str) or other not in full:
        raise UserError(unknown(f"data.{name}.like: no data set is called", str(other), full))
    return merged(full[other], own)
