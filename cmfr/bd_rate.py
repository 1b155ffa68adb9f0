"""BD-rate: how many percent of bits one rate-distortion curve needs more than another.

The mean difference of log rate over the quality range that both curves cover, by the `bjontegaard`
library. What has no meaningful answer is refused with the reason, never extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

Point = tuple[float, float]  # rate (bits per pixel, kbit/s, ...), quality (dB, ...)
Method = Literal["pchip", "akima", "cubic"]
MIN_POINTS = 4
SMALL_OVERLAP = 0.5  # a BD-rate over less of the joint quality range gets a footnote


class NotComparable(ValueError):
    """Two curves that have no BD-rate; the message is the reason."""


@dataclass(frozen=True)
class BDResult:
    """percent: of bits; negative where the tested curve needs fewer than the anchor.

    low, high: the quality range averaged over, in the unit of the curves; overlap: its part (0..1)
    of the range that the two curves span together.
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
    quality ranges of the two do not overlap.
    """
    from bjontegaard import bd_rate as library  # it imports pyplot, which takes a second

    anchor, test = _rising(anchor, names[0]), _rising(test, names[1])
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    if low >= high:
        raise NotComparable(
            f"the quality ranges of {names[0]}, {_range(anchor)}, and {names[1]}, {_range(test)}, "
            "do not overlap"
        )
    span = max(anchor[-1][1], test[-1][1]) - min(anchor[0][1], test[0][1])
    (anchor_rate, anchor_quality), (rate, quality) = (
        zip(*curve, strict=True) for curve in (anchor, test)
    )
    percent = library(
        anchor_rate, anchor_quality, rate, quality,
        method=method, require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return BDResult(float(percent), low, high, (high - low) / span)


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
    return f"{curve[0][1]:.2f}..{curve[-1][1]:.2f}"


# --- many curves against one


@dataclass(frozen=True)
class Table:
    """BD-rates in percent by (variant, sequence), as far as there are any.

    means: by variant, over `compared`, the sequences where all variants that have curves have a
    BD-rate. footnotes: by (variant, sequence), why there is no number, or what to know of it: a
    number into `notes`, from 1.
    """

    values: dict[tuple[str, str], float]
    compared: tuple[str, ...]
    means: dict[str, float]
    footnotes: dict[tuple[str, str], int]
    notes: tuple[str, ...]


def compare(
    variants: Mapping[str, Mapping[str, Sequence[Point]]], anchor: str, sequences: Sequence[str]
) -> Table:
    """BD-rates of all variants (their curves by sequence) against one of them."""
    values: dict[tuple[str, str], float] = {}
    texts: dict[tuple[str, str], str] = {}
    for sequence in sequences:
        base = variants[anchor].get(sequence)
        for name, curves in variants.items():
            place, names = (name, sequence), (f"{anchor} on {sequence}", f"{name} on {sequence}")
            try:
                for curve, whose in zip((base, curves.get(sequence)), names, strict=True):
                    if curve is None:
                        raise NotComparable(f"{whose} is not measured")
                result = bd_rate(base or [], curves[sequence], names=names)
            except NotComparable as reason:
                texts[place] = str(reason)
                continue
            values[place] = result.percent
            if result.overlap < SMALL_OVERLAP:
                texts[place] = (
                    f"{names[1]} shares only {result.overlap:.0%} of the quality range "
                    f"({result.low:.2f}..{result.high:.2f}) with {anchor}"
                )
    notes = list(dict.fromkeys(texts.values()))
    measured = [name for name, curves in variants.items() if curves]
    compared = tuple(s for s in sequences if all((name, s) in values for name in measured))
    means = {n: fmean(values[n, s] for s in compared) for n in measured if compared}
    footnotes = {place: notes.index(text) + 1 for place, text in texts.items()}
    return Table(values, compared, means, footnotes, tuple(notes))
