"""Training batches: random crops, flips, temporal reversal and frame gaps.

Which clip, frames, window and quality a sample takes is decided by (seed, stage, sample number)
alone, and sample `k` of step `n` is number `n * batch + k` of the stage. So a resumed run sees the
same data, and so do any number of processes that share a batch. An epoch visits every clip in
proportion to its length, in a new order each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmfr.training.config import StageConfig
from cmfr.training.data.augment import decimated, halved, sharpened
from cmfr.training.data.config import DataConfig
from cmfr.training.data.datasets import Clip, ClipSet, Preloaded
from cmfr.training.distributed import Team
from cmfr.utils.errors import UserError
from cmfr.utils.signals import heed_parent_alone
from cmfr.video.color import rgb_to_ycbcr, upsample_chroma, ycbcr_to_rgb


@dataclass(frozen=True)
class Sample:
    """Where one training sample comes from: frames, window (even corner), flips, quality; the
    window is of twice the size where it will be halved, by means or decimated."""

    clip: int
    frames: tuple[int, ...]
    top: int
    left: int
    flip: tuple[bool, bool]  # horizontally, vertically
    quality: int
    halved: bool = False
    decimated: bool = False
    sharpening: float = 0.0


class Sampler:
    """Draws the samples of a stage. Raises ValueError when no clip is large and long enough."""

    def __init__(
        self,
        shapes: list[tuple[int, int, int]],
        data: DataConfig,
        stage: StageConfig,
        seed: tuple[int, ...],
    ) -> None:
        self.shapes, self.data, self.stage, self.seed = shapes, data, stage, seed
        self.orders = {lead: self._order(stage.frames + lead) for lead in sorted(set(stage.lead))}
        self._shuffled = {lead: (-1, order) for lead, order in self.orders.items()}  # and epochs

    def _order(self, frames: int) -> np.ndarray:
        """Clips of so many frames at least, each as often as it has so many times those."""
        stage = self.stage
        turns = [
            length // frames if min(height, width) >= stage.crop else 0
            for length, height, width in self.shapes
        ]
        if not any(turns):
            raise UserError(
                f"stage {stage.name}: no clip has {frames} frames of "
                f"{stage.crop}x{stage.crop} pixels"
            )
        return np.repeat(np.arange(len(self.shapes)), turns)

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps, of all clips that are used."""
        return step * self.stage.batch / len(self.orders[min(self.orders)])

    def lead(self, step: int) -> int:
        """How many frames more than the stage's the samples of a step have, before these."""
        return int(np.random.default_rng((*self.seed, 2, step)).choice(self.stage.lead))

    def batch(self, step: int, share: slice = slice(None)) -> list[Sample]:
        """The samples of a step, or of them a share."""
        first = step * self.stage.batch
        return [self._sample(first + k) for k in range(self.stage.batch)[share]]

    def _clip(self, number: int, lead: int) -> int:
        epoch, place = divmod(number, len(self.orders[lead]))
        if self._shuffled[lead][0] != epoch:
            rng = np.random.default_rng((*self.seed, 1, epoch))
            self._shuffled[lead] = (epoch, rng.permutation(self.orders[lead]))
        return int(self._shuffled[lead][1][place])

    def _sample(self, number: int) -> Sample:
        lead = self.lead(number // self.stage.batch)
        clip = self._clip(number, lead)
        rng = np.random.default_rng((*self.seed, 0, number))
        length, height, width = self.shapes[clip]
        count, crop = self.stage.frames + lead, self.stage.crop
        gaps = [g for g in self.data.gaps if (count - 1) * g < length] or [1]
        gap = int(rng.choice(gaps))
        start = int(rng.integers(length - (count - 1) * gap))
        frames = tuple(range(start, start + (count - 1) * gap + 1, gap))
        if self.data.reversal and rng.random() < 0.5:
            frames = frames[::-1]
        augmentation = self.data.augmentation
        halved = 2 * crop <= min(height, width) and _chance(rng, augmentation.halved)
        window = 2 * crop if halved else crop
        top, left = (2 * int(rng.integers((side - window) // 2 + 1)) for side in (height, width))
        flip = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
        low, high = self.stage.qualities
        quality = int(rng.integers(low, high + 1))
        sharpening = 0.0
        if augmentation.sharpening:
            sharpening = augmentation.sharpening * float(rng.random())
        decimated = halved and _chance(rng, augmentation.decimated)
        return Sample(clip, frames, top, left, flip, quality, halved, decimated, sharpening)


def _chance(rng: np.random.Generator, probability: float) -> bool:
    """Draws nothing where there is nothing to draw, so that a seed means what it meant."""
    return bool(probability) and bool(rng.random() < probability)


def sample_window(clips: ClipSet, sample: Sample, crop: int) -> Clip:
    """The sample's frames and window [T, C, crop, crop], augmented, still uint8."""
    backwards = sample.frames[-1] < sample.frames[0]
    clip = clips.read(sample.clip, sample.frames[::-1] if backwards else sample.frames)
    dims = [
        dim for dim, wanted in ((3, sample.flip[0]), (2, sample.flip[1]), (0, backwards)) if wanted
    ]

    def window(planes: Tensor, top: int, left: int, side: int) -> Tensor:
        part = planes[:, :, top : top + side, left : left + side]
        if sample.halved:
            part = decimated(part) if sample.decimated else halved(part)
        return part.flip(dims) if dims else part

    side = 2 * crop if sample.halved else crop
    first = window(clip.first, sample.top, sample.left, side)
    if sample.sharpening:
        first = sharpened(first, sample.sharpening)
    if clip.chroma is None:
        return Clip(first, None)
    return Clip(first, window(clip.chroma, sample.top // 2, sample.left // 2, side // 2))


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


_Windows = tuple[Tensor, Tensor | None, Tensor]


class _Batches(Dataset[_Windows | Exception]):
    """This process's share of a step as uint8 windows and qualities (read in workers), or what is
    wrong with a file: raised in a worker, it would come out wrapped in that process's traceback."""

    def __init__(self, clips: ClipSet, sampler: Sampler, first: int, share: slice) -> None:
        self.clips, self.sampler, self.first, self.share = clips, sampler, first, share

    def __len__(self) -> int:
        return self.sampler.stage.steps - self.first

    def __getitem__(self, index: int) -> _Windows | Exception:
        try:
            return self._windows(index)
        except (UserError, OSError) as error:
            return error

    def _windows(self, index: int) -> _Windows:
        samples = self.sampler.batch(self.first + index, self.share)
        windows = [sample_window(self.clips, sample, self.sampler.stage.crop) for sample in samples]
        chroma = [w.chroma for w in windows if w.chroma is not None]
        return (
            torch.stack([w.first for w in windows]),
            torch.stack(chroma) if chroma else None,
            torch.tensor([sample.quality for sample in samples]),
        )


def batches(
    clips: ClipSet, sampler: Sampler, first_step: int, team: Team, color: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (clip [b, T, 3, c, c] float, quality [b]) on the team's device, from `first_step` on;
    b is this process's share of the global batch. Raises UserError or OSError that names a file
    that cannot be read."""
    dataset = _Batches(clips, sampler, first_step, team.share(sampler.stage.batch))
    workers = 0 if isinstance(clips, Preloaded) else sampler.data.workers
    on_gpu = team.device.type == "cuda"
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=on_gpu and workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=heed_parent_alone,
    )
    for windows in loader:
        if isinstance(windows, Exception):
            raise windows
        first, chroma, quality = windows
        if on_gpu and not workers:
            quality = quality.pin_memory()
        first, quality = (x.to(team.device, non_blocking=True) for x in (first, quality))
        chroma = None if chroma is None else chroma.to(team.device, non_blocking=True)
        yield to_network(first, chroma, color), quality
