"""Training clips: random crops, flips, temporal reversal and gaps, deterministic given the seed.

A batch is decided by (seed, stage, step) alone, so that a resumed run sees the same data.
Pictures stay uint8 until they are cropped; with `preload` all of them lie on the training device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmfr.color import rgb_to_ycbcr, upsample_chroma, ycbcr_to_rgb
from cmfr.config import QUALITIES
from cmfr.train_config import DataConfig, StageConfig
from cmfr.video_in import open_video

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".y4m")


@dataclass(frozen=True)
class Clip:
    """Consecutive frames as uint8: luma [T, 1, H, W] and chroma [T, 2, H/2, W/2], or RGB
    [T, 3, H, W] in `first` with no chroma."""

    first: Tensor
    chroma: Tensor | None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def size(self) -> tuple[int, int]:
        return self.first.shape[2], self.first.shape[3]

    def to(self, device: torch.device) -> Clip:
        return Clip(self.first.to(device), None if self.chroma is None else self.chroma.to(device))


@dataclass(frozen=True)
class Cut:
    """Where one training sample comes from: frames, window (even corner), flips, quality."""

    clip: int
    frames: tuple[int, ...]
    top: int
    left: int
    flip: tuple[bool, bool]  # horizontally, vertically
    quality: int


def read_video_clip(path: Path) -> Clip:
    """A whole video file as a 4:2:0 clip. Raises ValueError on another chroma format."""
    with open_video(path) as reader:
        if reader.info.chroma != "420" or reader.info.bit_depth != 8:
            raise ValueError(f"{path}: training clips are 8-bit 4:2:0 video")
        planes = [frame.planes for frame in reader]
    luma = torch.from_numpy(np.stack([p[0] for p in planes]))[:, None]
    chroma = torch.from_numpy(np.stack([np.stack(p[1:]) for p in planes]))
    return Clip(luma, chroma)


def read_septuplet(folder: Path) -> Clip:
    """im1.png .. im7.png of one Vimeo-90k sequence as an RGB clip."""
    frames = [np.asarray(Image.open(folder / f"im{i}.png").convert("RGB")) for i in range(1, 8)]
    return Clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), None)


class ClipSource:
    """The training clips of a `DataConfig`: how many, and one of them.

    Raises FileNotFoundError / ValueError that name the missing folder, list or file.
    """

    def __init__(self, cfg: DataConfig) -> None:
        self.paths: list[Path]
        self.read: Callable[[Path], Clip]
        if not cfg.root.is_dir():
            raise FileNotFoundError(f"data.root {cfg.root} is no folder")
        if cfg.kind == "clips":
            self.paths = sorted(p for p in cfg.root.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
            self.read = read_video_clip
        else:
            names = (cfg.root / cfg.list_file).read_text().split()
            self.paths = [cfg.root / "sequences" / name for name in names]
            self.read = read_septuplet
        if not self.paths:
            raise ValueError(f"data.root {cfg.root} holds no {cfg.kind}")
        self._loaded: list[Clip] | None = None

    def preload(self, device: torch.device) -> None:
        self._loaded = [self.read(path).to(device) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Clip:
        return self._loaded[index] if self._loaded else self.read(self.paths[index])


class CutPlan:
    """Draws the cuts of a batch. A clip is chosen with a chance proportional to its length."""

    def __init__(
        self, lengths: list[int], sizes: list[tuple[int, int]], data: DataConfig,
        stage: StageConfig, seed: tuple[int, ...],
    ) -> None:  # fmt: skip
        self.data, self.stage, self.seed = data, stage, seed
        self.lengths, self.sizes = lengths, sizes
        usable = [
            length >= stage.frames and min(size) >= stage.crop
            for length, size in zip(lengths, sizes, strict=True)
        ]
        weights = np.array(lengths) * np.array(usable)
        if not weights.any():
            raise ValueError(
                f"stage {stage.name}: no clip has {stage.frames} frames of "
                f"{stage.crop}x{stage.crop} pixels"
            )
        self.chances = weights / weights.sum()

    def batch(self, step: int) -> list[Cut]:
        rng = np.random.default_rng((*self.seed, step))
        return [self._cut(rng) for _ in range(self.stage.batch)]

    def _cut(self, rng: np.random.Generator) -> Cut:
        clip = int(rng.choice(len(self.lengths), p=self.chances))
        length, (height, width) = self.lengths[clip], self.sizes[clip]
        count, crop = self.stage.frames, self.stage.crop
        gaps = [g for g in self.data.gaps if (count - 1) * g < length] or [1]
        gap = int(rng.choice(gaps))
        start = int(rng.integers(length - (count - 1) * gap))
        frames = tuple(range(start, start + (count - 1) * gap + 1, gap))
        if self.data.reversal and rng.random() < 0.5:
            frames = frames[::-1]
        top, left = (2 * int(rng.integers((side - crop) // 2 + 1)) for side in (height, width))
        flip = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
        return Cut(clip, frames, top, left, flip, int(rng.integers(QUALITIES)))


def cut_window(clip: Clip, cut: Cut, crop: int) -> tuple[Tensor, Tensor | None]:
    """The cut's window, still uint8: [T, 1 or 3, c, c] and chroma [T, 2, c/2, c/2] or None."""

    def window(planes: Tensor, top: int, left: int, side: int) -> Tensor:
        part = planes[list(cut.frames), :, top : top + side, left : left + side]
        dims = [dim for dim, wanted in zip((3, 2), cut.flip, strict=True) if wanted]
        return part.flip(dims) if dims else part

    first = window(clip.first, cut.top, cut.left, crop)
    if clip.chroma is None:
        return first, None
    return first, window(clip.chroma, cut.top // 2, cut.left // 2, crop // 2)


def to_network(first: Tensor, chroma: Tensor | None, color: str) -> Tensor:
    """uint8 windows [..., H, W] -> float [..., 3, H, W] in [0, 1] in the network's color space.

    4:2:0 clips are taken as BT.709 full range when the network sees RGB.
    """
    x = first.float() / 255
    if chroma is None:
        return rgb_to_ycbcr(x, "bt709", "full") if color == "ycbcr" else x
    height, width = x.shape[-2:]
    full = upsample_chroma(chroma.flatten(0, -4).float() / 255, height, width)
    x = torch.cat([x, full.reshape(*x.shape[:-3], 2, height, width)], -3)
    return x if color == "ycbcr" else ycbcr_to_rgb(x, "bt709", "full")


class _Batches(Dataset[tuple[Tensor, Tensor | None, Tensor]]):
    """Batch number `step` as uint8 windows and qualities (read in worker processes)."""

    def __init__(self, source: ClipSource, plan: CutPlan, first: int, count: int) -> None:
        self.source, self.plan, self.first, self.count = source, plan, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, Tensor]:
        cuts = self.plan.batch(self.first + index)
        crop = self.plan.stage.crop
        windows = [cut_window(self.source[cut.clip], cut, crop) for cut in cuts]
        chroma = [c for _, c in windows if c is not None]
        return (
            torch.stack([first for first, _ in windows]),
            torch.stack(chroma) if chroma else None,
            torch.tensor([cut.quality for cut in cuts]),
        )


def batches(
    source: ClipSource, plan: CutPlan, first_step: int, cfg: DataConfig, device: torch.device,
    color: str,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Yields (clip [B, T, 3, c, c] float on `device`, quality [B]) from `first_step` on."""
    dataset = _Batches(source, plan, first_step, plan.stage.steps - first_step)
    workers = 0 if cfg.preloads else cfg.workers
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda" and workers > 0,
    )
    for first, chroma, quality in loader:
        moved = None if chroma is None else chroma.to(device, non_blocking=True)
        yield to_network(first.to(device, non_blocking=True), moved, color), quality.to(device)
