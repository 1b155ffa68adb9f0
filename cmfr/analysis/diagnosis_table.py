"""What `diagnosis.py` takes and gives: sequences as tensors, tables of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from cmfr.models.video_model import VideoModel


@dataclass(frozen=True)
class DiagnosedSequence:
    """A sequence in the network's color space.

    frames: [1, 3, H, W], padded.
    size: height and width, unpadded.
    """

    name: str
    frames: list[Tensor]
    size: tuple[int, int]

    @classmethod
    def of(cls, name: str, frames: Iterable[Tensor], model: VideoModel) -> DiagnosedSequence:
        unpadded = list(frames)
        height, width = unpadded[0].shape[2:]
        padded = [model.padded(frame) for frame in unpadded]
        return cls(name, padded, (height, width))

    def psnr(self, a: Tensor, b: Tensor) -> tuple[float, float]:
        """(Y, YUV 6:1:1) of the visible part, dB."""
        height, width = self.size
        error = (a - b)[..., :height, :width].square().mean((0, 2, 3)).clamp(min=1e-10)
        y, u, v = (-10 * error.log10()).tolist()
        return y, (6 * y + u + v) / 8

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Table:
    """title, header of the columns, rows by name (a mean as the last where it makes sense). NaN
    where there is nothing to measure."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    digits: int = 2

    def means(self) -> tuple[float, ...]:
        """Of each column over the rows that have a number; NaN where none has."""
        columns = zip(*self.rows.values(), strict=True)
        numbers = [[value for value in column if not math.isnan(value)] for column in columns]
        return tuple(fmean(found) if found else math.nan for found in numbers)

    def __str__(self) -> str:
        width = max(map(len, [*self.rows, "mean"]))
        cells = [[f"{value:.{self.digits}f}" for value in row] for row in self.rows.values()]
        names = list(self.rows)
        if len(names) > 1:
            cells.append([f"{mean:.{self.digits}f}" for mean in self.means()])
            names.append("mean")
        widths = [
            max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(self.columns)
        ]
        lines = [self.title]
        for name, row in zip(["", *names], [list(self.columns), *cells], strict=True):
            aligned = [cell.rjust(size) for cell, size in zip(row, widths, strict=True)]
            lines.append("  ".join(["", name.ljust(width), *aligned]).rstrip())
        return "\n".join(lines)
