"""What coding gives: frames one by one, and the totals of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cmfr.models.state import FrameOutput
from cmfr.video.info import Frame, VideoInfo


@dataclass(frozen=True)
class CodedFrame:
    """One frame that has been encoded or decoded: for progress bars, tables and pictures.

    bits: of its packet, header included (0 for a frame filled in after damage).
    reconstruction: the picture as it is written to a file.
    output: the network's view, padded to multiples of the model's `frame_multiple`.
    """

    number: int
    intra: bool
    quality: int
    bits: int
    reconstruction: Frame
    output: FrameOutput | None = None
    source: Frame | None = None


FrameCallback = Callable[[CodedFrame], None]


@dataclass
class CodingReport:
    """Totals of a run. bpp counts the whole file over the pixels of the frames.

    damaged: numbers of the frames that were lost.
    fault: what else of the stream is damaged (its index), or None.
    kept: frames that were taken over from an unfinished output.
    notes: sentences for the user.
    """

    info: VideoInfo
    frames: int = 0
    bytes: int = 0
    seconds: float = 0.0
    damaged: list[int] = field(default_factory=list)
    fault: str | None = None
    kept: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def bpp(self) -> float:
        pixels = self.frames * self.info.width * self.info.height
        return 8 * self.bytes / pixels if pixels else 0.0

    @property
    def fps(self) -> float:
        return (self.frames - self.kept) / self.seconds if self.seconds else 0.0
