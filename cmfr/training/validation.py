"""Validation: RD curves with real rounding, on clips that are not trained on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cmfr.config import CodecConfig
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.training.config import LossConfig, ValidationConfig
from cmfr.training.data.datasets import Clip, ClipSet
from cmfr.training.data.sampler import to_network
from cmfr.training.distributed import Team
from cmfr.training.losses import Distortion
from cmfr.utils.device import full_precision
from cmfr.utils.errors import UserError
from cmfr.video.color import rgb_to_ycbcr


@dataclass(frozen=True)
class RDPoint:
    """Mean over clips of the means over frames: bits per pixel (estimated as in coding), PSNR in
    dB, (6 Y + U + V) / 8 of the planes', at 4:4:4, and D of the loss."""

    quality: int
    bpp: float
    psnr_yuv: float
    distortion: float


class Validation:
    """Fixed clips, coded at fixed qualities; the work is split over the team.

    Raises UserError where one is too small for the codec, or for MS-SSIM in the loss.
    """

    def __init__(
        self,
        cfg: ValidationConfig,
        clips: ClipSet,
        loss: LossConfig,
        model: CodecConfig,
        team: Team,
    ) -> None:
        self.cfg, self.loss, self.color, self.team = cfg, loss, model.color, team
        self.distortion = Distortion(loss, model.color)
        count = min(cfg.clips, len(clips))
        chosen = [round(i * (len(clips) - 1) / max(1, count - 1)) for i in range(count)]
        least = max(model.frame_multiple, loss.distortion.least_side)
        self.clips = [_start(clips, i, cfg.frames, model.frame_multiple, least) for i in chosen]

    @torch.no_grad()
    def run(self, model: VideoModel, intra: bool) -> list[RDPoint]:
        """A point per quality.

        intra: code the first frames alone, as I-frames.
        """
        jobs = [(clip, quality) for quality in self.cfg.qualities for clip in self.clips]
        training, intra_training = model.training, model.intra.training
        model.eval()
        with full_precision():
            mine = [
                self._code(model, *job, intra) for job in jobs[self.team.rank :: self.team.size]
            ]
        model.train(training)
        model.intra.train(intra_training)
        parts = self.team.gather(mine)
        results = [parts[i % self.team.size][i // self.team.size] for i in range(len(jobs))]
        count = len(self.clips)
        curve = []
        for i, quality in enumerate(self.cfg.qualities):
            rows = results[i * count : (i + 1) * count]
            curve.append(
                RDPoint(quality, *(sum(column) / count for column in zip(*rows, strict=True)))
            )
        return curve

    def score(self, curve: list[RDPoint], intra: bool) -> float:
        """Geometric mean over the qualities of lambda * D + R: one percent less counts the same
        at every rate. Smaller is better."""
        costs = [self.loss.lambda_of(p.quality, intra) * p.distortion + p.bpp for p in curve]
        return math.exp(sum(map(math.log, costs)) / len(costs))

    def _code(
        self, model: VideoModel, clip: Clip, quality: int, intra: bool
    ) -> tuple[float, float, float]:
        """(bpp, PSNR-YUV, D) of one clip."""
        device = self.team.device
        chroma = None if clip.chroma is None else clip.chroma.to(device)
        x = to_network(clip.first.to(device), chroma, self.color)  # [T, 3, H, W]
        index = torch.tensor([quality], device=device)
        frames = x[:1] if intra else x
        outputs = model(frames[None], index)
        bits = torch.stack([output.total_bits[0] for output in outputs]).sum()
        x_hat = torch.cat([output.x_hat for output in outputs])
        distortion = self.distortion(x_hat, frames).value.mean()
        yuv = [
            rgb_to_ycbcr(p, "bt709", "full") if self.color == "rgb" else p for p in (x_hat, frames)
        ]
        mse = (yuv[0] - yuv[1]).square().mean((2, 3)).clamp(min=1e-10)
        y, u, v = (-10 * torch.log10(mse)).mean(0).tolist()
        pixels = frames.shape[0] * frames.shape[2] * frames.shape[3]
        return float(bits) / pixels, (6 * y + u + v) / 8, float(distortion)


def _start(clips: ClipSet, index: int, frames: int, multiple: int, least: int) -> Clip:
    """The first frames of a clip, their size cut to a multiple of so many pixels, `least` of them
    at least."""
    length, height, width = clips.shape(index)
    clip = clips.read(index, range(min(frames, length)))
    height, width = (side // multiple * multiple for side in (height, width))
    if min(height, width) < least:
        needed = math.ceil(least / multiple) * multiple
        raise UserError(
            f"validation: {clips.names[index]} is smaller than {needed}x{needed} pixels"
        )
    chroma = None if clip.chroma is None else clip.chroma[..., : height // 2, : width // 2]
    return Clip(clip.first[..., :height, :width], chroma)


@contextlib.contextmanager
def averaged(model: VideoModel, ema: dict[str, Tensor]) -> Iterator[None]:
    """The model with the averaged weights; afterwards its own are back."""
    live = weights_of(model)
    own = {name: value.clone() for name, value in live.items()}
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(ema[name])
        try:
            yield
        finally:
            for name, value in live.items():
                value.copy_(own[name])
