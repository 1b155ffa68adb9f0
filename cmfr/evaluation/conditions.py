"""How a sequence was coded and measured, and whether two were alike. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.evaluation.records import Record
    from cmfr.video.info import VideoInfo

Color = Literal["rgb", "yuv420"]
MATRICES, RANGES = ("bt709", "bt601", "bt2020"), ("full", "limited")


class DifferentConditions(UserError):
    """Two results that were not measured alike; the message says what differs."""


@dataclass(frozen=True)
class Conditions:
    """How a sequence was coded and measured; None: not known.

    color: what quality was measured on. matrix, range: of the conversion between YUV and RGB
    ("bt709", "full"; matrix "rgb": the source is RGB). intra_period: frames from one I-frame to
    the next, -1: only the first. frames: coded. rounding: of the decoded samples before they were
    measured, "float" (none), "8bit" or "10bit". note: what else is to be known. source: SHA-256 of
    the samples that were coded (frames.samples_hash). chroma: how 4:2:0 chroma was spread where RGB
    was made of it, "linear" (color.yuv_to_rgb) or "repeated". publication: who published it, where
    it was not measured here; what one publication does not state is the same for all it compares.
    """

    color: Color
    matrix: str | None = None
    range: str | None = None
    intra_period: int | None = None
    frames: int | None = None
    rounding: str | None = None
    note: str = ""
    source: str | None = None
    chroma: str | None = None
    publication: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What the quality of a decoded video is measured on.

    color "yuv420": the stored samples. "rgb": 8-bit RGB pictures that are made of the source by
    `matrix` and `range` as DCVC makes its PNGs (color.yuv_to_rgb), against what a codec gives for
    them, clamped and not rounded, or with `round_8bit` rounded. Raises ValueError.
    """

    color: Color = "yuv420"
    matrix: str = "bt709"
    range: str = "full"
    round_8bit: bool = False

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise UserError(f"color matrix {self.matrix!r} is not one of {', '.join(MATRICES)}")
        if self.range not in RANGES:
            raise UserError(f"color range {self.range!r} is not one of {', '.join(RANGES)}")
        chosen = (self.matrix, self.range, self.round_8bit)
        if self.color == "yuv420" and chosen != ("bt709", "full", False):
            raise UserError("--matrix, --range and --round-8bit are for --color rgb")

    def conditions(
        self, info: VideoInfo, intra_period: int, frames: int, source: str, note: str = ""
    ) -> Conditions:
        """As results state them; info: of the source."""
        if self.color == "yuv420":
            rounding = f"{info.bit_depth}bit"
            return Conditions("yuv420", None, None, intra_period, frames, rounding, note, source)
        rounding = "8bit" if self.round_8bit else "float"
        native = info.chroma == "rgb"
        matrix, range = ("rgb", "full") if native else (self.matrix, self.range)
        chroma = None if native else "linear"
        return Conditions(
            "rgb", matrix, range, intra_period, frames, rounding, note, source, chroma
        )


# --- alike or not


def differences(a: Record, b: Record) -> list[str]:
    """What forbids comparing two sequences, in words.

    Color, matrix and range (of RGB), intra period and frames, where they differ or where one side
    does not state them; rounding, frame rate, size, source and chroma, where both state them and
    differ.
    What neither of two figures of one publication states counts as equal.
    """
    one, two = _required(a), _required(b)
    found = {
        what: (one[what], two[what])
        for what in one
        if what in two and (one[what] != two[what] or (one[what] is None and not _together(a, b)))
    }
    one, two = _optional(a), _optional(b)
    found |= {
        what: (one[what], two[what])
        for what in one
        if what in two and None not in (one[what], two[what]) and one[what] != two[what]
    }
    if "number of frames" in found:
        found.pop("source", None)  # other frames are other samples
    if "color of the measurement" in found:
        found.pop("rounding", None)
    return [
        f"the {what} is {_said(x)} for {a.codec} and {_said(y)} for {b.codec}"
        for what, (x, y) in found.items()
    ]


def not_stated(a: Record, b: Record) -> list[str]:
    """What is to be known of a comparison that is allowed: what of it a side does not state."""
    if _together(a, b):
        return []
    return [
        f"not stated for {record.codec}: {', '.join(unknown)}"
        for record in (a, b)
        if (unknown := [n for n in ("rounding", "chroma") if _optional(record).get(n, "") is None])
    ]


def _together(a: Record, b: Record) -> bool:
    """Whether two figures are of one publication."""
    return a.conditions.publication is not None and (
        a.conditions.publication == b.conditions.publication
    )


def check_comparable(a: Record, b: Record, force: bool = False) -> list[str]:
    """`differences`. Raises DifferentConditions if there are any, unless `force`; the message says
    by which options a published figure's conditions are met."""
    found = differences(a, b)
    if found and not force:
        raise DifferentConditions(f"{a.sequence}: {'; '.join(found)}{advice(a, b)}")
    return found


def advice(a: Record, b: Record) -> str:
    """Where one side is published and states what differs: the options that give the same, as the
    end of a sentence; else nothing."""
    sides = sorted((a, b), key=lambda r: r.conditions.publication is None)
    there, here = (side.conditions for side in sides)
    if there.publication is None or here.publication is not None:
        return ""
    options: dict[str, Any] = {"color": there.color}
    if there.color == "rgb" and "rgb" not in (there.matrix, here.matrix):
        options |= {"matrix": there.matrix, "range": there.range}
    options |= {"frames": there.frames, "intra-period": there.intra_period}
    same = [
        f"--{name} {value}"
        for name, value in options.items()
        if value is not None and value != getattr(here, name.replace("-", "_"))
    ]
    if there.rounding in ("float", "8bit") and there.color == "rgb" == here.color:
        same += ["--round-8bit"] * ((there.rounding, here.rounding) == ("8bit", "float"))
    return f" (measure with {' '.join(same)} to match {sides[0].codec})" if same else ""


def _required(record: Record) -> dict[str, object]:
    said, rgb = record.conditions, record.conditions.color == "rgb"
    known: dict[str, object] = {"color of the measurement": said.color}
    if rgb:
        known |= {"color matrix": said.matrix, "color range": said.range}
    return known | {"intra period": said.intra_period, "number of frames": said.frames}


def _optional(record: Record) -> dict[str, object]:
    said = record.conditions
    known: dict[str, object] = {
        "rounding": said.rounding,
        "size": f"{record.width}x{record.height}" if record.width else None,
        "frame rate": record.frame_rate,
        "source": said.source,
    }
    if said.color == "rgb" and said.matrix != "rgb":
        known["chroma"] = said.chroma
    return known


def _said(value: object) -> str:
    text = "not stated" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # a hash
