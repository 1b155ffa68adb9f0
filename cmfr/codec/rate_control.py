"""Which quality each frame gets, so that a whole stream has a bit rate or a PSNR. Ours.

One pass, a closed loop: what a frame of each kind gives at a quality is predicted by a line (log2
of its bits, or dB, over the quality), which every coded frame corrects; the quality is the one at
which the frames of a window are predicted to give what is left for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cmfr.codec.header import StreamHeader
from cmfr.config import QUALITIES
from cmfr.utils.errors import UserError

WINDOW = 32  # frames over which a deviation is made up for
LAST = 4  # the fewest, at the end of a video
TRIALS = 4  # of the first two frames, at most
UP, DOWN = 4, 12  # steps by which the quality changes from frame to frame, at most
TOLERANCE_BITS, TOLERANCE_DB = 0.05, 0.2  # beyond it the target counts as missed

_INTRA = -1  # kind of a frame; P-frames' are their places in the hierarchical pattern
_BITS_SLOPE = {True: 0.06, False: 0.09}  # log2 of the bits of I- and P-frames per quality step
_DB_SLOPE = 0.25
# A typical video of 0.14 bits per pixel has quality 32. A first picture that takes far less (black,
# a title) says nothing of what comes: quality may be above the typical by 12, and 1 more a frame.
_TYPICAL, _ABOVE = (32, 0.14, 0.09), 12
_ENTRY, _ENDS = 96, 8 * 34  # bits of the index: for each intra frame; the rest, with the trailer


@dataclass(frozen=True)
class Target:
    """What a stream shall have; one of the two.

    bitrate: bits per second of the whole file.
    psnr: dB, the mean over frames of PSNR 6:1:1 (RGB video: of PSNR over the three planes).

    Raises UserError for what cannot be.
    """

    bitrate: float | None = None
    psnr: float | None = None

    def __post_init__(self) -> None:
        if (self.bitrate is None) == (self.psnr is None):
            raise UserError("give either a target bit rate or a target PSNR")
        if self.bitrate is not None and not 0 < self.bitrate < math.inf:
            raise UserError(f"the target bit rate must be positive, not {self.bitrate:g}")
        if self.psnr is not None and not 0 < self.psnr < 100:
            raise UserError(f"the target PSNR must be between 0 and 100 dB, not {self.psnr:g}")


class RateControl:
    """Chooses the quality of one frame after the other: `quality`, then `coded`.

    header: of the stream, its quality left aside.
    frames: of the video, None if not known.
    """

    def __init__(self, target: Target, header: StreamHeader, frames: int | None) -> None:
        self.target, self._frames, self._period = target, frames, header.intra_period
        self._offsets, self._rate = header.quality_offsets or (0,), float(header.frame_rate)
        self._typical, self.of_bits = QUALITIES - 1.0, target.bitrate is not None
        if target.bitrate is not None:
            self._goal = target.bitrate / self._rate
            at, bpp, slope = _TYPICAL
            bpp *= header.width * header.height
            self._typical = at + math.log2(self._goal / bpp) / slope
        else:
            self._goal = float(target.psnr or 0)
        self._spent = 8.0 * len(header.to_bytes()) + _ENDS if self.of_bits else 0.0
        self._count = self._last = 0
        self._level: dict[int, float] = {}  # of a kind: what it gives at quality 0
        self._seen: Counter[int] = Counter()
        self._used: Counter[int] = Counter()  # qualities
        self._slopes = {intra: self._usual(intra) for intra in (True, False)}

    # -- before the first frame ----------------------------------------------------------------

    def start(self, code: Callable[[int], list[tuple[int, float]]]) -> int:
        """Find the first quality by trials. Returns the quality.

        code: codes the first two frames (or the only one) at a quality, and says (bits, dB) of
        each.
        """
        tried: list[tuple[int, list[float]]] = []
        quality = self._within(self._typical if self.of_bits else QUALITIES / 2)
        while True:
            values = [self._measured(i, *each) for i, each in enumerate(code(quality))]
            if len(values) > 1 and self.of_bits:  # all but still: so cheap a frame is no rule
                values[1] = max(values[1], values[0] - 5)
            tried.append((quality, values))
            self._learn(tried)
            chosen = self._planned()
            if abs(chosen - quality) <= 2 or len(tried) == TRIALS:
                self._last = chosen
                return chosen
            quality = chosen

    def _learn(self, tried: list[tuple[int, list[float]]]) -> None:
        quality, values = tried[-1]
        for number, value in enumerate(values):
            intra = self._kind(number) == _INTRA
            for before, those in tried[:-1]:
                if abs(quality - before) >= 4:
                    slope, usual = (value - those[number]) / (quality - before), self._usual(intra)
                    self._slopes[intra] = min(max(slope, usual / 2), 2 * usual)
            self._level[self._kind(number)] = value - self._slopes[intra] * quality
        first = self._kind(1)
        if first in self._level and first != _INTRA:
            for kind in range(len(self._offsets)):
                other = self._offsets[kind] - self._offsets[first]
                self._level[kind] = self._level[first] + self._slopes[False] * other

    # -- frame by frame ------------------------------------------------------------------------

    def quality(self) -> int:
        """The stream's quality for the next frame, 0..63."""
        if self._count:
            self._last = min(max(self._planned(), self._last - DOWN), self._last + UP)
        return self._last

    def coded(self, bits: int, psnr: float = 0.0) -> None:
        """What the frame has become: bits of its packet, dB (needed for a target PSNR)."""
        kind, value = self._kind(self._count), self._measured(self._count, bits, psnr)
        slope = self._slopes[kind == _INTRA]
        off = value - self._expected(kind, self._last)
        # What changes much may stay so, and P-frames of all kinds follow; not all the way: a cut
        # is over with one frame.
        share = 0.3 if abs(off) < 6 * slope else 0.8
        off = min(max(off, -12 * slope), 12 * slope)
        self._seen[kind] += 1
        for other in self._level:
            if other == kind:
                self._level[other] += off * max(share, 1 / self._seen[kind])
            elif kind != _INTRA and other != _INTRA:
                self._level[other] += off * share
        self._spent += self._amount(value)
        self._used[self._last] += 1
        self._count += 1

    def missed(self, bytes: int) -> str | None:
        """A sentence where the stream, of so many bytes, has not what was asked for."""
        if not self._count:
            return None
        if self.target.bitrate is not None:
            rate = 8 * bytes * self._rate / self._count
            off = rate / self.target.bitrate - 1
            said = f"{self.target.bitrate / 1000:.6g} kbit/s were asked for"
            said += f", the stream has {rate / 1000:.6g} ({off:+.1%})"
            fine = abs(off) <= TOLERANCE_BITS
        else:
            mean = self._spent / self._count
            off = mean - self._goal
            said = f"{self._goal:g} dB were asked for, the stream has {mean:.2f}"
            fine = abs(off) <= TOLERANCE_DB
        why = "one pass could not make up for how much the pictures change"
        for end, name in ((0, "lowest"), (QUALITIES - 1, "highest")):
            if 2 * self._used[end] > self._count:
                why = f"{end} is the {name} quality there is"
        return None if fine else f"{said}: {why}"

    # -- the plan ------------------------------------------------------------------------------

    def _usual(self, intra: bool) -> float:
        return _BITS_SLOPE[intra] if self.of_bits else _DB_SLOPE

    def _kind(self, number: int) -> int:
        position = number % self._period if self._period > 0 else number
        return position % len(self._offsets) if position else _INTRA

    def _measured(self, number: int, bits: int, psnr: float) -> float:
        """What is predicted: log2 of the bits, or dB."""
        entry = _ENTRY if self._kind(number) == _INTRA else 0
        return math.log2(bits + entry) if self.of_bits else psnr

    def _amount(self, measured: float) -> float:
        """What adds up over frames: bits or dB."""
        return 2.0**measured if self.of_bits else measured

    def _expected(self, kind: int, quality: float) -> float:
        return self._level[kind] + self._slopes[kind == _INTRA] * quality

    def _window(self) -> int:
        """Frames to plan for: whole groups of pictures, or up to the end of the video."""
        left = None if self._frames is None else max(self._frames - self._count, 0)
        window = WINDOW
        if self._period > 0:
            window = self._period - self._count % self._period
            window += self._period * max(0, -(-(WINDOW - window) // self._period))
        if left is not None and left <= max(window, 3 * WINDOW):
            window = max(left, min(LAST, self._count))
        return window

    def _planned(self) -> int:
        """The quality at which the window is predicted to give what is left for it."""
        window = self._window()
        kinds = Counter(self._kind(self._count + i) for i in range(window))
        due = self._goal * (self._count + window) - self._spent
        if self.of_bits:  # not all that was saved at once; and never nothing
            due = min(max(due, 0.1 * self._goal * window), self._goal * (window + WINDOW))
        known = {kind: count for kind, count in kinds.items() if kind in self._level}
        low, high = 0.0, QUALITIES - 1.0
        due *= sum(known.values()) / window
        for _ in range(16):
            middle = (low + high) / 2
            total = sum(n * self._amount(self._expected(k, middle)) for k, n in known.items())
            low, high = (middle, high) if total < due else (low, middle)
        if abs(low - self._last) < 0.75 and self._count:  # not back and forth between two
            return self._last
        return self._within(low)

    def _within(self, quality: float) -> int:
        if self.of_bits:
            quality = min(quality, self._typical + _ABOVE + self._count)
        return min(max(round(quality), 0), QUALITIES - 1)
