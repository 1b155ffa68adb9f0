"""Training data sets: Vimeo-90k septuplets, folders of clips, folders of images.

All give `Clip`s: uint8 frames as they are stored (4:2:0 planes of a video, RGB of pictures), so
that nothing is converted twice and a whole set fits into memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmfr.training.data.config import (
    DataConfig,
    GeneratedConfig,
    ImagesConfig,
    SelectionConfig,
    SeptupletsConfig,
)
from cmfr.training.data.generated import generated_clip
from cmfr.utils.errors import UserError
from cmfr.utils.files import inner_name, inside
from cmfr.video.containers import count_shown
from cmfr.video.pictures import (
    PICTURE_SUFFIXES,
    numbered_pictures,
    picture_size,
    read_picture,
    with_suffix,
)
from cmfr.video.reader import VIDEO_SUFFIXES, open_video

SEPTUPLET = 7


@dataclass(frozen=True)
class Clip:
    """Frames as uint8: luma [T, 1, H, W] and chroma [T, 2, H/2, W/2], or RGB [T, 3, H, W] in
    `first` with no chroma."""

    first: Tensor
    chroma: Tensor | None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def size(self) -> tuple[int, int]:
        return self.first.shape[2], self.first.shape[3]

    def to(self, device: torch.device) -> Clip:
        return Clip(self.first.to(device), None if self.chroma is None else self.chroma.to(device))


class ClipSet(ABC):
    """A sequence of clips with names. `read` may be told which frames are wanted."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def shape(self, index: int) -> tuple[int, int, int]:
        """(frames, height, width) of a clip, without decoding it."""

    @abstractmethod
    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        """The clip, or of it `frames` (rising numbers). Raises ValueError naming a bad file."""


def _stack_pictures(paths: list[Path]) -> Clip:
    pictures = [read_picture(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}, "
                f"{paths[0].name} is {pictures[0].shape[1]}x{pictures[0].shape[0]}"
            )
    return Clip(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), None)


class Vimeo90kSeptuplet(ClipSet):
    """Vimeo-90k as distributed: ``sequences/00001/0001/im1.png .. im7.png`` and a list file of
    ``00001/0001`` lines (``sep_trainlist.txt``, ``sep_testlist.txt``)."""

    def __init__(self, root: Path, list_file: str) -> None:
        self.root = root
        path = inside(root, list_file)
        if not path.is_file():
            raise FileNotFoundError(f"Vimeo-90k: no list {path}")
        self.names = [inner_name(name) for name in path.read_text().split()]

    def shape(self, index: int) -> tuple[int, int, int]:
        return (SEPTUPLET, *self._size)

    @cached_property
    def _size(self) -> tuple[int, int]:
        """All septuplets are of one size; `read` checks it."""
        return picture_size(self._paths(0, [0])[0])

    def _paths(self, index: int, frames: Sequence[int]) -> list[Path]:
        folder = inside(self.root / "sequences", self.names[index])
        return [folder / f"im{i + 1}.png" for i in frames]

    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        clip = _stack_pictures(self._paths(index, range(SEPTUPLET) if frames is None else frames))
        if clip.size != self._size:
            raise UserError(
                f"{self.root / 'sequences' / self.names[index]}: frames are "
                f"{clip.size[1]}x{clip.size[0]}, others {self._size[1]}x{self._size[0]}"
            )
        return clip


class ClipFolder(ClipSet):
    """A folder of 8-bit 4:2:0 video files, or of folders of numbered frames (pictures)."""

    def __init__(self, root: Path, selection: SelectionConfig) -> None:
        self.root = root
        folders = {
            path.name
            for path in root.iterdir()
            if path.is_dir() and with_suffix(path.iterdir(), PICTURE_SUFFIXES)
        }
        videos = {path.name for path in with_suffix(root.iterdir(), VIDEO_SUFFIXES)}
        self.names = _selected(sorted(videos | folders), selection)
        self._pictures = {n: numbered_pictures(root / n) for n in self.names if n in folders}
        kinds = {name in self._pictures for name in self.names}
        if len(kinds) > 1:
            raise UserError(f"{root} holds both videos and folders of frames; make two data sets")
        self._shapes: dict[int, tuple[int, int, int]] = {}

    def shape(self, index: int) -> tuple[int, int, int]:
        if index not in self._shapes:
            if pictures := self._pictures.get(self.names[index]):
                self._shapes[index] = (len(pictures), *picture_size(pictures[0]))
            else:
                path = self.root / self.names[index]
                with open_video(path) as reader:
                    info = reader.info
                # The container does not always know.
                count = info.frame_count or count_shown(path)
                self._shapes[index] = (count, info.height, info.width)
        return self._shapes[index]

    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        if pictures := self._pictures.get(self.names[index]):
            return _stack_pictures(pictures if frames is None else [pictures[i] for i in frames])
        return read_video_clip(self.root / self.names[index], frames)


def read_video_clip(path: Path, frames: Sequence[int] | None = None) -> Clip:
    """A video file, or of it `frames`. Raises ValueError when it is not 8-bit 4:2:0, and when it
    ends before them."""
    wanted = None if frames is None else set(frames)
    planes = []
    with open_video(path, frames=None if frames is None else frames[-1] + 1) as reader:
        if reader.info.chroma != "420" or reader.info.bit_depth != 8:
            raise UserError(f"{path}: training clips are 8-bit 4:2:0 video")
        for number, frame in enumerate(reader):
            if wanted is None or number in wanted:
                planes.append(frame.planes)
    if wanted is not None and len(planes) < len(wanted):
        raise UserError(f"{path} ends before frame {max(wanted)}, which it says that it has")
    luma = torch.from_numpy(np.stack([p[0] for p in planes]))[:, None]
    chroma = torch.from_numpy(np.stack([np.stack(p[1:]) for p in planes]))
    return Clip(luma, chroma)


class ImageFolder(ClipSet):
    """A folder of pictures, folders within it too: clips of one frame, for the intra codec."""

    def __init__(self, root: Path, selection: SelectionConfig) -> None:
        self.root = root
        found = with_suffix(root.rglob("*"), PICTURE_SUFFIXES)
        names = sorted(path.relative_to(root).as_posix() for path in found)
        self.names = _selected(names, selection)

    def shape(self, index: int) -> tuple[int, int, int]:
        return (1, *picture_size(self.root / self.names[index]))

    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        return _stack_pictures([self.root / self.names[index]])


class GeneratedClips(ClipSet):
    """Rendered moving scenes (`generated_clip`) of one length and size."""

    def __init__(self, cfg: GeneratedConfig) -> None:
        self.cfg = cfg
        self.names = _selected([f"scene{i:04d}" for i in range(cfg.count)], cfg)

    def shape(self, index: int) -> tuple[int, int, int]:
        return (self.cfg.frames, self.cfg.size[1], self.cfg.size[0])

    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        scene = int(self.names[index].removeprefix("scene"))
        pictures = (generated_clip(scene, self.cfg.frames, self.cfg.size) * 255).round().byte()
        return Clip(pictures if frames is None else pictures[list(frames)], None)


class Preloaded(ClipSet):
    """Another set, decoded once and kept on a device."""

    def __init__(self, source: ClipSet, device: torch.device) -> None:
        self.names = source.names
        self.clips = [source.read(index).to(device) for index in range(len(source))]

    def shape(self, index: int) -> tuple[int, int, int]:
        clip = self.clips[index]
        return (len(clip), *clip.size)

    def read(self, index: int, frames: Sequence[int] | None = None) -> Clip:
        clip = self.clips[index]
        if frames is None:
            return clip
        # Slices are views; an index list would be copied to the device first, and waited for.
        step = frames[1] - frames[0] if len(frames) > 1 else 1
        chosen = slice(frames[0], frames[-1] + 1, step)
        return Clip(clip.first[chosen], None if clip.chroma is None else clip.chroma[chosen])


def open_data(cfg: DataConfig) -> ClipSet:
    """The data set of a configuration, nothing decoded yet.

    Raises FileNotFoundError or ValueError that names the missing folder, list or file.
    """
    root = None if isinstance(cfg, GeneratedConfig) else cfg.root
    if root and not root.is_dir():
        raise FileNotFoundError(f"data: {root} is no folder")
    data: ClipSet
    if isinstance(cfg, GeneratedConfig):
        data = GeneratedClips(cfg)
    elif isinstance(cfg, SeptupletsConfig):
        data = Vimeo90kSeptuplet(cfg.root, cfg.list_file)
    elif isinstance(cfg, ImagesConfig):
        data = ImageFolder(cfg.root, cfg)
    else:
        data = ClipFolder(cfg.root, cfg)
    if not data.names:
        beside = " beside those held out" if getattr(cfg, "hold_out", 0) else ""
        where = root or "the generated set"
        raise UserError(f"data: {where} holds no {cfg.kind} to train on{beside}")
    return data


def _selected(names: list[str], cfg: SelectionConfig) -> list[str]:
    """Names that match a pattern of `include` and none of `exclude`, less those held out, or those
    alone."""

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    fit = [n for n in names if matches(n, cfg.include) and not matches(n, cfg.exclude)]
    kept = len(fit) - math.ceil(len(fit) * cfg.hold_out)
    return fit[kept:] if cfg.held_out else fit[:kept]
