"""How a sequence was coded and measured, and whether two were alike. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from cmfr.codec.header import check_periods, check_refine
from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.evaluation.records import Record
    from cmfr.video.info import VideoInfo

Color = Literal["rgb", "yuv420"]
MATRICES, RANGES = ("bt709", "bt601", "bt2020"), ("full", "limited")


class DifferentConditions(UserError):
    """Two results that were not measured alike; the message says what differs."""


def _condition(
    what: str,
    title: str = "",
    required: bool = False,
    default: Any = None,
    applies: Callable[[CodingConditions], bool] = lambda conditions: True,
) -> Any:
    """A condition that comparisons look at; None where it is not known.

    what: its name in sentences.
    title: of its line in a report; "" for none.
    required: it must be known of both sides, unless one publication states both; otherwise it
    counts where both state it.
    applies: whether it means something under the other conditions.
    """
    rule = {"what": what, "title": title, "required": required, "applies": applies}
    return field(default=default, metadata=rule)


@dataclass(frozen=True)
class CodingConditions:
    """How a sequence is to be coded and measured (`asked`), or how it was (`met`, and what others
    publish); None: not known, or, where it is asked for, as the source or the model has it.

    color: what quality is measured on: "yuv420", the stored samples; "rgb", RGB pictures that are
    made of the source by `matrix` and `range` as DCVC makes its PNGs (color.yuv_to_rgb), against
    what a codec gives for them, clamped.
    matrix, range: of that conversion ("bt709", "full"; matrix "rgb": the source is RGB).
    intra_period: frames from one I-frame to the next, -1: only the first.
    frames: coded.
    rounding: of the decoded samples before they are measured, "float" (none), "8bit" or "10bit".
    note: what else is to be known.
    source: SHA-256 of the samples that were coded (video.info.samples_hash).
    chroma: how 4:2:0 chroma was spread where RGB was made of it, "linear" (color.yuv_to_rgb) or
    "repeated".
    publication: who published it, where it was not measured here; what one publication does not
    state is the same for all it compares.
    refresh_period: frames between temporal feature refreshes, 0: never. It is a codec's own affair,
    and not compared.
    refine: steps by which motion latents were refined. Not compared either.
    """

    color: Color = _condition("color of the measurement", "quality measured on", True, "yuv420")
    matrix: str | None = _condition(
        "color matrix", "color matrix of RGB", True, applies=lambda c: c.color == "rgb"
    )
    range: str | None = _condition(
        "color range", "color range of RGB", True, applies=lambda c: c.color == "rgb"
    )
    intra_period: int | None = _condition("intra period", "intra period", True)
    frames: int | None = _condition("number of frames", "frames", True)
    rounding: str | None = _condition("rounding", "rounding before measuring")
    note: str = ""
    source: str | None = _condition("source")
    chroma: str | None = _condition(
        "chroma", "chroma of 4:2:0 in RGB", applies=lambda c: c.color == "rgb" != c.matrix
    )
    publication: str | None = None
    refresh_period: int | None = None
    refine: int = 0

    @classmethod
    def asked(
        cls,
        color: Color = "yuv420",
        matrix: str | None = None,
        range: str | None = None,
        round_8bit: bool = False,
        frames: int | None = None,
        intra_period: int = -1,
        refresh_period: int | None = None,
        refine: int = 0,
    ) -> CodingConditions:
        """Conditions to code and measure under, as commands and configurations take them: matrix
        and range bt709 and full unless given, RGB rounded only with `round_8bit`. Raises UserError.
        """
        if matrix not in (None, *MATRICES):
            raise UserError(f"color matrix {matrix!r} is not one of {', '.join(MATRICES)}")
        if range not in (None, *RANGES):
            raise UserError(f"color range {range!r} is not one of {', '.join(RANGES)}")
        if frames is not None and frames < 1:
            raise UserError(f"frames must be 1 or more, not {frames}")
        check_periods(intra_period, refresh_period)
        check_refine(refine)
        matrix, range = matrix or "bt709", range or "full"
        if color != "rgb" and (matrix, range, round_8bit) != ("bt709", "full", False):
            raise UserError("--matrix, --range and --round-8bit are for --color rgb")
        asked = cls(
            color,
            frames=frames,
            intra_period=intra_period,
            refresh_period=refresh_period,
            refine=refine,
        )
        if color != "rgb":
            return asked
        rounding = "8bit" if round_8bit else "float"
        return replace(asked, matrix=matrix, range=range, rounding=rounding)

    @property
    def rounds_rgb(self) -> bool:
        """Whether RGB is rounded to 8 bit before it is measured."""
        return self.color == "rgb" and self.rounding == "8bit"

    def met(self, info: VideoInfo, frames: int, source: str, note: str = "") -> CodingConditions:
        """What was asked for, as results state it.

        info: of the source.
        frames, source: what was coded of it.
        """
        was = replace(self, frames=frames, source=source, note=note)
        if self.color == "yuv420":
            return replace(was, rounding=f"{info.bit_depth}bit")
        if info.chroma == "rgb":
            return replace(was, matrix="rgb", range="full")
        return replace(was, chroma="linear")

    def stated(self) -> Iterator[tuple[str, str, bool, Any]]:
        """The conditions that comparisons look at, where they apply: name, what it is in words,
        whether it is required, value."""
        for condition in fields(self):
            rule = condition.metadata
            if rule and rule["applies"](self):
                value = getattr(self, condition.name)
                yield condition.name, rule["what"], rule["required"], value

    def lines(self) -> Iterator[tuple[str, str]]:
        """Titles and values of a report: "-" for what does not apply."""
        for condition in fields(self):
            rule, value = condition.metadata, getattr(self, condition.name)
            if rule and rule["title"]:
                shown = period(value) if condition.name == "intra_period" else said(value)
                yield rule["title"], shown if rule["applies"](self) else "-"


def period(intra_period: int | None) -> str:
    """An intra period for people."""
    return "-1 (only the first frame)" if intra_period == -1 else said(intra_period)


def said(value: object) -> str:
    """A condition's value for people."""
    text = "not stated" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # a hash


# --- alike or not


def differences(a: Record, b: Record) -> list[str]:
    """What forbids comparing two sequences, in words.

    Color, matrix and range (of RGB), intra period and frames, where they differ or where one side
    does not state them; rounding, frame rate, size, source and chroma, where both state them and
    differ. What neither of two figures of one publication states counts as equal.
    """
    sides, together = (_compared(a), _compared(b)), _together(a, b)
    differing = {}
    for what, (required, value) in sides[0].items():
        if what in sides[1]:
            other = sides[1][what][1]
            known = None not in (value, other)
            if (known or required) and (value != other or not (known or together)):
                differing[what] = (value, other)
    if "number of frames" in differing:
        differing.pop("source", None)  # other frames are other samples
    if "color of the measurement" in differing:
        differing.pop("rounding", None)
    return [
        f"the {what} is {said(x)} for {a.codec} and {said(y)} for {b.codec}"
        for what, (x, y) in differing.items()
    ]


def not_stated(a: Record, b: Record) -> list[str]:
    """What is to be known of a comparison that is allowed: what of it a side does not state."""
    if _together(a, b):
        return []
    return [
        f"not stated for {record.codec}: {', '.join(unknown)}"
        for record in (a, b)
        if (unknown := [n for n in ("rounding", "chroma") if _compared(record).get(n) == _UNKNOWN])
    ]


def _together(a: Record, b: Record) -> bool:
    """Whether two figures are of one publication."""
    return a.conditions.publication is not None and (
        a.conditions.publication == b.conditions.publication
    )


def check_comparable(a: Record, b: Record, force: bool = False) -> list[str]:
    """`differences`. Raises DifferentConditions if there are any, unless `force`; the message says
    by which options a published figure's conditions are met."""
    differing = differences(a, b)
    if differing and not force:
        raise DifferentConditions(f"{a.sequence}: {'; '.join(differing)}{advice(a, b)}")
    return differing


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


_UNKNOWN = (False, None)


def _compared(record: Record) -> dict[str, tuple[bool, object]]:
    """All that comparisons look at, in words: whether it is required, and its value."""
    compared = {what: (req, value) for _, what, req, value in record.conditions.stated()}
    size = f"{record.width}x{record.height}" if record.width else None
    return compared | {"size": (False, size), "frame rate": (False, record.frame_rate)}
