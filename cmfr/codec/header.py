"""The header of a `.cmfr` file: what a stream says about itself. See docs/bitstream.md."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from cmfr.utils.errors import UserError
from cmfr.video import h273

if TYPE_CHECKING:
    from cmfr.video.info import VideoInfo

MAGIC, VERSION = b"CMFR", 5
VERSIONS = (1, 2, 3, 4, 5)  # that are read
CHROMA = ("420", "444", "rgb")  # the position is the number in the file, here and below
RANGES = ("unspecified", "limited", "full")
ARITHMETICS = ("the encoder's own", "portable")
UNKNOWN = 0xFFFFFFFF  # frame count while streaming
MAX_QUALITY = 63
PREFIX = struct.Struct("<4sBH")  # magic, version, length of the fields
CRC = struct.Struct("<I")

_FIELDS = struct.Struct("<5I7BiH")  # up to the model's name
_LAYOUTS = {"420": "YUV 4:2:0", "444": "YUV 4:4:4", "rgb": "RGB"}
_U8, _U32 = 0xFF, 0xFFFFFFFF


def check_number(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless `value` is a whole number in low..high."""
    if not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name} {value!r} is not in {low}..{high}")


def check_periods(intra_period: int, refresh_period: int | None) -> None:
    """Raise UserError for what no stream can say; refresh_period None: the model's."""
    if intra_period != -1 and intra_period < 1:
        raise UserError(f"the intra period {intra_period} is neither -1 nor at least 1")
    if refresh_period is not None:
        check_number("the refresh period", refresh_period, 0, 65535)


def check_refine(steps: int) -> None:
    """Raise UserError for steps on a frame's motion that no encoder takes."""
    check_number("the number of refining steps", steps, 0, 10_000)


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says about itself. Values outside of their ranges raise ValueError.

    width, height: pixels, 1..65535.
    frame_rate: frames per second.
    chroma: "420", "444" or "rgb".
    bit_depth: 8..16.
    quality: 0..63.
    model: name of the network.
    weights: the id of its weights, 8 bytes.
    intra_period: frames, -1 = only the first frame is intra.
    refresh_period: frames, 0 = never.
    quality_offsets: what P-frames add to the quality, in turn, from position 0 (the I-frame's) on.
    matrix_code, primaries, transfer: H.273 code points, 2 = unspecified.
    range: "unspecified", "limited" or "full".
    producer: versions and device of the encoder, how it refined motion.
    frame_count: None = not known (the stream was written to a pipe or cut off).
    portable: in the arithmetic that is the same everywhere (cmfr/nn/portable.py).
    """

    width: int
    height: int
    frame_rate: Fraction
    chroma: str
    bit_depth: int
    quality: int
    model: str
    weights: bytes
    intra_period: int = -1
    refresh_period: int = 0
    quality_offsets: tuple[int, ...] = ()
    matrix_code: int = 2
    primaries: int = 2
    transfer: int = 2
    range: str = "unspecified"
    producer: str = ""
    frame_count: int | None = None
    portable: bool = False

    def __post_init__(self) -> None:
        check_number("width", self.width, 1, 65535)
        check_number("height", self.height, 1, 65535)
        check_number("frame rate numerator", self.frame_rate.numerator, 1, _U32)
        check_number("frame rate denominator", self.frame_rate.denominator, 1, _U32)
        if self.chroma not in CHROMA or self.range not in RANGES:
            raise UserError(f"chroma {self.chroma!r} or range {self.range!r} is not known")
        check_number("bit depth", self.bit_depth, 8, 16)
        check_number("quality", self.quality, 0, MAX_QUALITY)
        for name in ("matrix_code", "primaries", "transfer"):
            check_number(name, getattr(self, name), 0, _U8)
        if self.intra_period != -1:
            check_number("intra period", self.intra_period, 1, 2**31 - 1)
        check_number("refresh period", self.refresh_period, 0, 65535)
        check_number("number of quality offsets", len(self.quality_offsets), 0, _U8)
        for offset in self.quality_offsets:
            check_number("quality offset", offset, -MAX_QUALITY, MAX_QUALITY)
        if self.frame_count is not None:
            check_number("frame count", self.frame_count, 0, UNKNOWN - 1)
        if len(self.weights) != 8:
            raise UserError(f"a weights id has 8 bytes, not {len(self.weights)}")
        check_number("length of the model's name", len(self.model.encode()), 1, _U8)
        check_number("length of the producer's name", len(self.producer.encode()), 0, _U8)
        if not (self.model + self.producer).isprintable():  # they are shown on terminals
            raise UserError("a name has characters that cannot be printed")

    @classmethod
    def of(
        cls,
        info: VideoInfo,
        *,
        quality: int,
        intra_period: int,
        refresh_period: int,
        model: str,
        weights: bytes,
        quality_offsets: tuple[int, ...] = (),
        producer: str = "",
        portable: bool = False,
    ) -> StreamHeader:
        """The header for a video; the frame count stays open. ValueError as for the class."""
        from cmfr.video.info import MATRIX_CODES, color_from_codes  # here: it imports numpy

        color, code = info.color, info.color.matrix_code
        if color_from_codes(code, 0, 2, 2).matrix != color.matrix:  # the name decides
            code = MATRIX_CODES[color.matrix]
        encoded = producer.encode(errors="replace")[:_U8].decode(errors="ignore")
        return cls(
            info.width,
            info.height,
            info.frame_rate,
            info.chroma,
            info.bit_depth,
            quality,
            model,
            weights,
            intra_period,
            refresh_period,
            quality_offsets,
            code,
            color.primaries,
            color.transfer,
            color.range,
            "".join(c if c.isprintable() else "?" for c in encoded),
            portable=portable,
        )

    def info(self) -> VideoInfo:
        """The video that the stream holds. ValueError for a bit depth that cannot be written."""
        from cmfr.video.info import VideoInfo, color_from_codes

        color = color_from_codes(
            self.matrix_code, RANGES.index(self.range), self.primaries, self.transfer
        )
        return VideoInfo(
            self.width,
            self.height,
            self.frame_rate,
            color,
            self.chroma,
            self.bit_depth,
            self.frame_count,
        )

    def expected(self, number: int, position: int) -> tuple[bool, int]:
        """Whether frame `number` is intra, and the quality of a frame `position` frames after its
        intra frame: what a stream does not store where it is so."""
        if number == 0 or (self.intra_period > 0 and number % self.intra_period == 0):
            return True, self.quality
        offsets = self.quality_offsets or (0,)
        quality = self.quality + offsets[position % len(offsets)]
        return False, min(max(quality, 0), MAX_QUALITY)

    def describe(self) -> dict[str, str]:
        """Names and values for people, in the order to show them."""
        period, refresh = self.intra_period, self.refresh_period
        return {
            "size": f"{self.width}x{self.height}",
            "frame rate": f"{self.frame_rate} ({float(self.frame_rate):.6g} fps)",
            "frames": "not known" if self.frame_count is None else str(self.frame_count),
            "samples": f"{_LAYOUTS[self.chroma]}, {self.bit_depth} bit",
            "color": self._color(),
            "quality": f"{self.quality}{self._pattern()}",
            "intra period": "only the first frame" if period == -1 else f"{period} frames",
            "refresh period": f"{refresh} frames" if refresh else "never",
            "model": self.model,
            "weights id": self.weights.hex(),
            "arithmetic": ARITHMETICS[self.portable],
            "producer": self.producer or "not known",
        }

    def _color(self) -> str:
        parts = {
            "matrix": h273.name(h273.MATRIX, self.matrix_code),
            "range": self.range,
            "primaries": h273.name(h273.PRIMARIES, self.primaries),
            "transfer": h273.name(h273.TRANSFER, self.transfer),
        }
        return ", ".join(f"{name} {value}" for name, value in parts.items())

    def _pattern(self) -> str:
        offsets = self.quality_offsets[1:] + self.quality_offsets[:1]  # from the first P-frame on
        shown = ", ".join(f"{offset:+d}" for offset in offsets)
        return f"; P-frames {shown} in turn" if any(offsets) else ""

    def to_bytes(self) -> bytes:
        """The header as it is stored: prefix, fields and checksum, at most 821 bytes."""
        model, producer = self.model.encode(), self.producer.encode()
        fields = _FIELDS.pack(
            self.width,
            self.height,
            self.frame_rate.numerator,
            self.frame_rate.denominator,
            UNKNOWN if self.frame_count is None else self.frame_count,
            CHROMA.index(self.chroma),
            self.bit_depth,
            self.matrix_code,
            self.primaries,
            self.transfer,
            RANGES.index(self.range),
            self.quality,
            self.intra_period,
            self.refresh_period,
        )
        fields += bytes([len(model)]) + model + self.weights
        fields += struct.pack(
            f"B{len(self.quality_offsets)}b", len(self.quality_offsets), *self.quality_offsets
        )
        fields += bytes([len(producer)]) + producer + bytes([self.portable])
        data = PREFIX.pack(MAGIC, VERSION, len(fields)) + fields
        return data + CRC.pack(zlib.crc32(data))

    @classmethod
    def from_fields(cls, data: bytes, version: int = VERSION) -> StreamHeader:
        """The fields between prefix and checksum; any nonsense raises ValueError."""
        try:
            width, height, num, den, count, chroma, depth, *rest = _FIELDS.unpack_from(data)
            matrix, primaries, transfer, range_, quality, period, refresh = rest
            model, at = _counted(data, _FIELDS.size)
            weights, at = data[at : at + 8], at + 8
            pattern, at = _counted(data, at) if version > 1 else (b"", at)
            producer, end = _counted(data, at)
            arithmetic, end = (data[end], end + 1) if version > 3 else (0, end)
            portable = bool(range(len(ARITHMETICS))[arithmetic])
            chroma_name, range_name = CHROMA[chroma], RANGES[range_]
            rate = Fraction(num, den)
        except (struct.error, IndexError, ZeroDivisionError):
            raise UserError("the fields are not possible") from None
        if end != len(data):
            raise UserError("the length does not match the fields")
        return cls(
            width,
            height,
            rate,
            chroma_name,
            depth,
            quality,
            model.decode(),
            weights,
            period,
            refresh,
            struct.unpack(f"{len(pattern)}b", pattern),
            matrix,
            primaries,
            transfer,
            range_name,
            producer.decode(),
            None if count == UNKNOWN else count,
            portable,
        )


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes with their number before them, and where they end."""
    end = at + 1 + data[at]
    return data[at + 1 : end], end
