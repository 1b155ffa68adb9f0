"""BD-rate: how many percent of bits one rate-distortion curve needs more than another.

The mean difference of log rate over the quality range that both curves cover, by the `bjontegaard`
library. What has no meaningful answer is refused with the reason, never extrapolated. The rule and
the mean (`mean_bd_rate`) are those of all commands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from cmfr.utils.errors import UserError

Point = tuple[float, float]  # rate (bits per pixel, kbit/s, ...), quality (dB, ...)
Method = Literal["pchip", "akima", "cubic"]
MIN_POINTS = 4
# How much of the quality range of the shorter of two curves both have to cover: below the first
# there is no BD-rate (a sliver at the end of a curve says nothing of it), below the second it gets
# a footnote.
MIN_OVERLAP, SMALL_OVERLAP = 0.25, 0.5


class NotComparable(UserError):
    """Two curves that have no BD-rate; the message is the reason."""


@dataclass(frozen=True)
class BDResult:
    """A BD-rate and what it is averaged over.

    percent: of bits; negative where the tested curve needs fewer than the anchor.
    low, high: the quality range averaged over, in the unit of the curves.
    overlap: its part (0..1) of the range of the shorter curve, MIN_OVERLAP or more.
    """

    percent: float
    low: float
    high: float
    overlap: float


def bd_rate(
    anchor: Sequence[Point],
    test: Sequence[Point],
    method: Method = "pchip",
    names: tuple[str, str] = ("the anchor", "the tested curve"),
) -> BDResult:
    """BD-rate of `test` against `anchor`, points in any order; `names` are what errors call them.

    Raises NotComparable when a curve has fewer than 4 points, values that are not finite or rates
    that are not positive, when its quality does not rise strictly with its rate, and when the
    quality ranges of the two overlap by less than MIN_OVERLAP of the shorter one.
    """
    from bjontegaard import bd_rate as library  # it imports pyplot, which takes a second

    anchor, test = _rising(anchor, names[0]), _rising(test, names[1])
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    overlap = (high - low) / min(curve[-1][1] - curve[0][1] for curve in (anchor, test))
    if overlap < MIN_OVERLAP:
        shared = f"overlap by {overlap:.1%} of the shorter one only" if overlap > 0 else ""
        raise NotComparable(
            f"the quality ranges of {names[0]}, {_range(anchor)}, and {names[1]}, {_range(test)}, "
            f"{shared or 'do not overlap'}; BD-rate needs {MIN_OVERLAP:.0%}"
        )
    (anchor_rate, anchor_quality), (rate, quality) = (
        zip(*curve, strict=True) for curve in (anchor, test)
    )
    percent = library(
        anchor_rate,
        anchor_quality,
        rate,
        quality,
        method=method,
        require_matching_points=False,
        min_overlap=0,
    )
    return BDResult(float(percent), low, high, overlap)


def bd_quality(
    anchor: Sequence[Point], test: Sequence[Point], method: Method = "pchip"
) -> float | None:
    """Mean difference of quality at equal rate (BD-PSNR in dB) of two curves that have a BD-rate;
    None where less than `MIN_OVERLAP` of the shorter one's rates, as logarithms, are common."""
    from bjontegaard import bd_psnr

    one, two = sorted(anchor), sorted(test)
    low, high = max(one[0][0], two[0][0]), min(one[-1][0], two[-1][0])
    shorter = min(math.log(curve[-1][0] / curve[0][0]) for curve in (one, two))
    if math.log(high / low) < MIN_OVERLAP * shorter:
        return None
    columns = [list(column) for side in (one, two) for column in zip(*side, strict=True)]
    return float(bd_psnr(*columns, method=method, require_matching_points=False, min_overlap=0))


def _rising(curve: Sequence[Point], whose: str) -> list[Point]:
    """The points by rising rate. Raises NotComparable."""
    if len(curve) < MIN_POINTS:
        raise NotComparable(f"{whose} has {len(curve)} points, and BD-rate needs {MIN_POINTS}")
    if not all(math.isfinite(x) for point in curve for x in point):
        raise NotComparable(f"{whose} has a value that is not finite")
    points = sorted(curve)
    if points[0][0] <= 0:
        raise NotComparable(f"{whose} has a rate of {points[0][0]:g}, which has no logarithm")
    for (rate, quality), (next_rate, next_quality) in pairwise(points):
        if next_rate == rate or next_quality <= quality:
            raise NotComparable(
                f"{whose} does not rise strictly: quality {quality:.6g} at rate {rate:.6g}, then "
                f"{next_quality:.6g} at {next_rate:.6g}"
            )
    return points


def _range(curve: Sequence[Point]) -> str:
    return f"{curve[0][1]:.4g}..{curve[-1][1]:.4g}"


# --- many of them


@dataclass(frozen=True)
class Mean:
    """A mean BD-rate.

    percent: the mean over those of `total` places that have one, None where none has.
    total: number of places (sequences, data sets).
    left_out: the names of the others.
    """

    percent: float | None
    total: int
    left_out: tuple[str, ...] = ()

    @property
    def over(self) -> str:
        """ "4 of 5", which goes with the number wherever it stands."""
        return f"{self.total - len(self.left_out)} of {self.total}"


def mean_bd_rate(found: Mapping[str, float | None]) -> Mean:
    """The mean over the places where there is a BD-rate: where both curves are usable and overlap
    by MIN_OVERLAP.

    found: percent by name, None where there is none.
    """
    values = [value for value in found.values() if value is not None]
    left_out = tuple(name for name, value in found.items() if value is None)
    return Mean(fmean(values) if values else None, len(found), left_out)


def small_overlap(result: BDResult) -> str:
    """What is said of a BD-rate below SMALL_OVERLAP."""
    return (
        f"over {result.overlap:.0%} of the shorter curve's quality range only "
        f"({result.low:.4g}..{result.high:.4g})"
    )
