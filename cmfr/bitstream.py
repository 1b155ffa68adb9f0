"""The `.cmfr` file: header, one packet per frame, index, trailer. docs/bitstream.md has the bytes.

The only module that knows the format. Numbers are little-endian. Every byte is covered by a
checksum or compared with what it must be, and no length is believed before it is compared with
the size of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from cmfr.frames import VideoInfo

MAGIC, VERSION = b"CMFR", 1
TRAILER_MAGIC = b"CMFX"
CHROMA = ("420", "444", "rgb")  # the position is the number in the file, here and below
RANGES = ("unspecified", "limited", "full")
MAX_PAYLOAD = 2**31 - 1  # bytes

_U8, _U32 = 0xFF, 0xFFFFFFFF
_UNKNOWN = _U32  # frame count while streaming
_INTRA, _INDEX, _QUALITY = 0x80, 0x40, 0x3F  # bits of a packet's first byte
_INDEX_NUMBER = _U32  # stands for the frame number in the index packet's checksum
_PREFIX = struct.Struct("<4sBH")  # magic, version, length of the fields
_FIELDS = struct.Struct("<5I7BiH")  # up to the model's name
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<IQ")
_TRAILER = struct.Struct("<Q4s")
_MAX_HEAD = 1 + 5 + _CRC.size  # bytes in front of a payload, at most


class BitstreamError(ValueError):
    """Damaged or foreign data; the message says what and where."""


class DamagedFrame(BitstreamError):
    """A frame that cannot be read or decoded, or is missing; `number` counts from 0."""

    def __init__(self, number: int, reason: str, state: str = "damaged") -> None:
        super().__init__(f"frame {number} is {state}: {reason}")
        self.number = number


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says about itself. Values outside of their ranges raise ValueError.

    width, height: pixels, 1..65535; frame_rate: frames per second; chroma: "420", "444" or "rgb";
    bit_depth: 8..16; matrix_code, primaries, transfer: H.273 code points, 2 = unspecified;
    range: "unspecified", "limited" or "full"; quality: 0..63; intra_period: frames, -1 = only the
    first frame is intra; refresh_period: frames, 0 = never; model: name of the network; weights:
    first 8 bytes of the SHA-256 of its weights; producer: versions and device of the encoder;
    frame_count: None = not known (the stream was written to a pipe or cut off).
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
    matrix_code: int = 2
    primaries: int = 2
    transfer: int = 2
    range: str = "unspecified"
    producer: str = ""
    frame_count: int | None = None

    def __post_init__(self) -> None:
        _check("width", self.width, 1, 65535)
        _check("height", self.height, 1, 65535)
        _check("frame rate numerator", self.frame_rate.numerator, 1, _U32)
        _check("frame rate denominator", self.frame_rate.denominator, 1, _U32)
        if self.chroma not in CHROMA or self.range not in RANGES:
            raise ValueError(f"chroma {self.chroma!r} or range {self.range!r} is not known")
        _check("bit depth", self.bit_depth, 8, 16)
        _check("quality", self.quality, 0, _QUALITY)
        for name in ("matrix_code", "primaries", "transfer"):
            _check(name, getattr(self, name), 0, _U8)
        if self.intra_period != -1:
            _check("intra period", self.intra_period, 1, 2**31 - 1)
        _check("refresh period", self.refresh_period, 0, 65535)
        if self.frame_count is not None:
            _check("frame count", self.frame_count, 0, _UNKNOWN - 1)
        if len(self.weights) != 8:
            raise ValueError(f"a weights hash has 8 bytes, not {len(self.weights)}")
        _check("length of the model's name", len(self.model.encode()), 1, _U8)
        _check("length of the producer's name", len(self.producer.encode()), 0, _U8)
        if not (self.model + self.producer).isprintable():  # they are shown on terminals
            raise ValueError("a name has characters that cannot be printed")

    @classmethod
    def of(
        cls, info: VideoInfo, *, quality: int, intra_period: int, refresh_period: int, model: str,
        weights: bytes, producer: str = "",
    ) -> StreamHeader:  # fmt: skip
        """The header for a video; the frame count stays open. ValueError as for the class."""
        from cmfr.frames import MATRIX_CODES, color_from_codes  # here: it imports numpy

        color, code = info.color, info.color.matrix_code
        if color_from_codes(code, 0, 2, 2).matrix != color.matrix:  # the name decides
            code = MATRIX_CODES[color.matrix]
        encoded = producer.encode(errors="replace")[:_U8].decode(errors="ignore")
        return cls(
            info.width, info.height, info.frame_rate, info.chroma, info.bit_depth, quality, model,
            weights, intra_period, refresh_period, code, color.primaries, color.transfer,
            color.range, "".join(c if c.isprintable() else "?" for c in encoded),
        )  # fmt: skip

    def info(self) -> VideoInfo:
        """The video that the stream holds. ValueError for a bit depth that cannot be written."""
        from cmfr.frames import VideoInfo, color_from_codes

        color = color_from_codes(
            self.matrix_code, RANGES.index(self.range), self.primaries, self.transfer
        )
        return VideoInfo(
            self.width, self.height, self.frame_rate, color, self.chroma, self.bit_depth,
            self.frame_count,
        )  # fmt: skip

    def describe(self) -> dict[str, str]:
        """Names and values for people, in the order to show them."""
        period, refresh = self.intra_period, self.refresh_period
        return {
            "size": f"{self.width}x{self.height}",
            "frame rate": f"{self.frame_rate} ({float(self.frame_rate):.6g} fps)",
            "frames": "not known" if self.frame_count is None else str(self.frame_count),
            "samples": f"{self.chroma}, {self.bit_depth} bit",
            "color": f"matrix {self.matrix_code}, primaries {self.primaries}, "
            f"transfer {self.transfer} (H.273), range {self.range}",
            "quality": str(self.quality),
            "intra period": "only the first frame" if period == -1 else f"{period} frames",
            "refresh period": f"{refresh} frames" if refresh else "never",
            "model": self.model,
            "weights": self.weights.hex(),
            "producer": self.producer or "not known",
        }

    def to_bytes(self) -> bytes:
        """The header as it is stored: prefix, fields and checksum, at most 564 bytes."""
        model, producer = self.model.encode(), self.producer.encode()
        fields = _FIELDS.pack(
            self.width, self.height, self.frame_rate.numerator, self.frame_rate.denominator,
            _UNKNOWN if self.frame_count is None else self.frame_count,
            CHROMA.index(self.chroma), self.bit_depth, self.matrix_code, self.primaries,
            self.transfer, RANGES.index(self.range), self.quality, self.intra_period,
            self.refresh_period,
        )  # fmt: skip
        fields += bytes([len(model)]) + model + self.weights + bytes([len(producer)]) + producer
        data = _PREFIX.pack(MAGIC, VERSION, len(fields)) + fields
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def from_fields(cls, data: bytes) -> StreamHeader:
        """The fields between prefix and checksum; any nonsense raises ValueError."""
        try:
            width, height, num, den, count, chroma, depth, *rest = _FIELDS.unpack_from(data)
            matrix, primaries, transfer, range_, quality, period, refresh = rest
            at = _FIELDS.size + 1 + data[_FIELDS.size]
            end = at + 9 + data[at + 8]
            model, producer = data[_FIELDS.size + 1 : at].decode(), data[at + 9 : end].decode()
            chroma_name, range_name = CHROMA[chroma], RANGES[range_]
            rate = Fraction(num, den)
        except (struct.error, IndexError, ZeroDivisionError):
            raise ValueError("the fields are not possible") from None
        if end != len(data):
            raise ValueError("the length does not match the fields")
        return cls(
            width, height, rate, chroma_name, depth, quality, model, data[at : at + 8], period,
            refresh, matrix, primaries, transfer, range_name, producer,
            None if count == _UNKNOWN else count,
        )  # fmt: skip


@dataclass(frozen=True)
class FramePacket:
    """One coded frame. quality: 0..63; offset: bytes from the start of the stream; size: bytes of
    the whole packet, its 6 to 10 bytes of overhead included."""

    number: int
    intra: bool
    quality: int
    payload: bytes = field(repr=False)
    offset: int
    size: int


class BitstreamWriter:
    """Writes a stream to `file` from its current position on; `close` completes it.

    A file that can seek gets its frame count at the end; in others (pipes) it stays unknown.
    `file` must be buffered or write everything at once, and must not be in append mode.
    """

    def __init__(self, file: BinaryIO, header: StreamHeader) -> None:
        self._file, self._header = file, replace(header, frame_count=None)
        self._base = file.tell() if file.seekable() else None
        self._at, self._count, self._closed = 0, 0, False
        self._intra: list[tuple[int, int]] = []
        self._write(self._header.to_bytes())

    def write_frame(self, intra: bool, quality: int, payload: bytes) -> int:
        """Append a frame, quality 0..63; returns the size of the packet in bytes.

        Raises ValueError if the writer is closed, the first frame is not intra, or a value is out
        of range; nothing is written then.
        """
        _check("quality", quality, 0, _QUALITY)
        _check("number of frames", self._count + 1, 1, _UNKNOWN - 1)
        if self._closed or not (intra or self._count):
            raise ValueError("the stream is closed" if self._closed else "frame 0 must be intra")
        at, packet = self._at, _pack(self._count, quality | (_INTRA if intra else 0), payload)
        self._write(packet)
        if intra:
            self._intra.append((self._count, at))
        self._count += 1
        return len(packet)

    def close(self) -> None:
        """Write index and trailer and fill in the frame count. Leaves the file open, at its end.

        Without it the file counts as cut off.
        """
        if self._closed:
            return
        self._closed = True
        at = self._at
        entries = b"".join(_ENTRY.pack(*entry) for entry in self._intra)
        self._write(_pack(_INDEX_NUMBER, _INDEX, _CRC.pack(len(self._intra)) + entries))
        self._write(_TRAILER.pack(at, TRAILER_MAGIC))
        if self._base is not None:
            self._file.seek(self._base)
            self._file.write(replace(self._header, frame_count=self._count).to_bytes())
            self._file.seek(self._base + self._at)
        self._file.flush()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)


class BitstreamReader:
    """Reads the stream that starts at the current position of `file` and ends with the file.

    `header` is the header; `index` holds (frame number, offset) of every intra frame, or is None
    where index or trailer are missing or damaged. Iteration gives the frames in order and raises
    `DamagedFrame` at damage (again and again, until `seek_intra` or `resume_after_damage`) and
    `BitstreamError` for anything else. Its end means that index and trailer were intact as well.
    Raises ValueError for a file that cannot seek.
    """

    _number: int  # of the frame to read next, `_at` its offset
    _at: int
    _need_intra: bool
    _failed: bool  # reading that frame was tried, in vain
    _done: bool

    def __init__(self, file: BinaryIO) -> None:
        if not file.seekable():
            raise ValueError("a stream can only be read from a file, not from a pipe")
        self._file, self._base = file, file.tell()
        self._size = file.seek(0, 2) - self._base
        self.header, self._first = self._read_header()
        self.index: tuple[tuple[int, int], ...] | None = None
        self._index_at: int | None = None
        try:
            at, magic = _TRAILER.unpack(self._read(self._size - _TRAILER.size, _TRAILER.size, ""))
            if magic == TRAILER_MAGIC and self._first <= at < self._size:
                self.index, _ = self._read_index(at)
                self._index_at = at
        except BitstreamError:
            pass  # the frames are readable without; whoever reads to the end hears of it
        self._seen: list[tuple[int, int]] = []
        self._in_order = True  # no frame was skipped or read twice
        self._move(0, self._first)

    def __iter__(self) -> Iterator[FramePacket]:
        return self

    def __next__(self) -> FramePacket:
        if self._done:
            raise StopIteration
        at, number, count = self._at, self._number, self.header.frame_count
        self._failed = True  # until the frame is known to be good
        at_index = self._at_index()
        after = f"file ends after {f'frame {number - 1}' if number else 'the header'}"
        if count is not None and number < count and (at_index or at == self._size):
            raise DamagedFrame(number, f"{after} ({number} of {count} frames)", "missing")
        if at_index:
            self._check_end(at)
            self._done = True
            raise StopIteration
        if at == self._size:
            raise BitstreamError(f"{after}: it was cut off, the index is missing")
        try:
            kind, payload, crc, end = self._read_packet(at, f"frame {number}")
            if crc != _checksum(number, kind, payload):
                raise BitstreamError("checksum does not match")
            if kind & _INDEX or (self._need_intra and not kind & _INTRA):
                raise BitstreamError(f"a packet of kind {kind:#04x} cannot be here")
        except BitstreamError as error:
            raise DamagedFrame(number, str(error)) from None
        if kind & _INTRA:
            self._seen.append((number, at))
        self._at, self._number = end, number + 1
        self._need_intra = self._failed = False
        return FramePacket(number, bool(kind & _INTRA), kind & _QUALITY, payload, at, end - at)

    def seek_intra(self, frame_number: int) -> int:
        """Go to the last intra frame at or before `frame_number` (from 0); returns its number.

        Without an index the packets before it are read. Raises ValueError for a number that is
        not in the stream, BitstreamError if no such frame is found.
        """
        count = self.header.frame_count
        _check("frame number", frame_number, 0, _U32 if count is None else count - 1)
        found = list(self._intra_frames(0, self._first, frame_number))
        if not found:
            raise BitstreamError(f"no intra frame at or before frame {frame_number} is intact")
        self._in_order = False
        self._move(*found[-1])
        return found[-1][0]

    def resume_after_damage(self) -> int | None:
        """Go to the next intra frame after the frame read last, or that could not be read.

        Returns its number, or None (and does not move) if there is none. With an index, that
        says where it is. Without, packets are followed by their lengths, from the damaged one on,
        up to an intra frame with the right checksum for its number: if the length itself is
        damaged, nothing is found. There is no search byte by byte.
        """
        first = self._number + (1 if self._failed else 0)
        for number, at in self._intra_frames(self._number, self._at, _U32):
            if number >= first:
                self._in_order = False
                self._move(number, at)
                return number
        return None

    def _move(self, number: int, at: int) -> None:
        self._number, self._at = number, at
        self._need_intra, self._failed, self._done = True, False, False

    def _at_index(self) -> bool:
        """Is the index next? A damaged frame may look like it: trust what else is known first."""
        count = self.header.frame_count
        if self._index_at is not None:
            return self._at == self._index_at
        if self._at == self._size or count is not None:
            return self._number == count and self._at < self._size
        return self._read(self._at, 1, "the stream")[0] == _INDEX

    def _intra_frames(self, number: int, at: int, last: int) -> Iterator[tuple[int, int]]:
        """(number, offset) of intra frames from frame `number` at `at` on, up to frame `last`."""
        if self.index is not None:
            yield from (entry for entry in self.index if number <= entry[0] <= last)
            return
        while number <= last and at < self._size:
            try:
                kind, payload, crc, end = self._read_packet(at, f"frame {number}")
            except BitstreamError:
                return
            if kind & _INTRA and crc == _checksum(number, kind, payload):
                yield number, at
            number, at = number + 1, end

    def _read(self, at: int, size: int, what: str) -> bytes:
        if 0 <= at <= self._size - size:
            self._file.seek(self._base + at)
            data = self._file.read(size)
            if len(data) == size:  # the file may have become shorter meanwhile
                return data
        raise BitstreamError(f"file ends within {what}")

    def _read_header(self) -> tuple[StreamHeader, int]:
        """The header and its size in bytes."""
        if self._size < 4 or self._read(0, 4, "") != MAGIC:
            raise BitstreamError("not a .cmfr file")
        prefix = self._read(0, _PREFIX.size, "the header")
        _, version, length = _PREFIX.unpack(prefix)
        if version != VERSION:
            reason = "newer than this program reads" if version > VERSION else "not known"
            raise BitstreamError(f"version {version} is {reason}")
        data = self._read(0, _PREFIX.size + length + _CRC.size, "the header")
        (crc,) = _CRC.unpack(data[-_CRC.size :])
        if crc != zlib.crc32(data[: -_CRC.size]):
            raise BitstreamError("the header is damaged: checksum does not match")
        try:
            return StreamHeader.from_fields(data[_PREFIX.size : -_CRC.size]), len(data)
        except ValueError as error:
            raise BitstreamError(f"the header is damaged: {error}") from None

    def _read_packet(self, at: int, what: str) -> tuple[int, bytes, int, int]:
        """First byte, payload, checksum as stored, offset of what follows."""
        # A trailer follows, so the longest head can be read even where the packet is shorter.
        head = self._read(at, _MAX_HEAD, what)
        length, used = _unpack_length(head[1:6])
        (crc,) = _CRC.unpack_from(head, 1 + used)
        start = at + 1 + used + _CRC.size
        return head[0], self._read(start, length, what), crc, start + length

    def _read_index(self, at: int) -> tuple[tuple[tuple[int, int], ...], int]:
        """The index at `at` and the offset of what follows."""
        kind, payload, crc, end = self._read_packet(at, "the index")
        if kind != _INDEX or crc != _checksum(_INDEX_NUMBER, kind, payload):
            raise BitstreamError("the index is damaged: checksum does not match")
        if payload[: _CRC.size] != _CRC.pack(len(payload) // _ENTRY.size) or (
            len(payload) % _ENTRY.size != _CRC.size
        ):
            raise BitstreamError("the index is damaged: its length does not match its count")
        index = tuple(_ENTRY.iter_unpack(payload[_CRC.size :]))
        ends = [(-1, self._first - 1), *index, (_U32, at)]
        if not all(a[0] < b[0] and a[1] < b[1] for a, b in zip(ends, ends[1:], strict=False)):
            raise BitstreamError("the index is damaged: frames are not in order")
        return index, end

    def _check_end(self, at: int) -> None:
        index, end = self._read_index(at)
        if self._read(end, _TRAILER.size, "the trailer") != _TRAILER.pack(at, TRAILER_MAGIC):
            raise BitstreamError("the trailer is damaged")
        rest = self._size - end - _TRAILER.size
        if rest:
            raise BitstreamError(f"{rest} bytes follow the end of the stream")
        if self.header.frame_count not in (None, self._number):
            raise BitstreamError(f"more frames than the header says, {self.header.frame_count}")
        if not set(self._seen) <= set(index) or (self._in_order and tuple(self._seen) != index):
            raise BitstreamError("the index does not match the frames")


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {value!r} is not in {low}..{high}")


def _pack_length(length: int) -> bytes:
    """LEB128: 7 bits per byte, the lowest first; bit 7 is set where another byte follows."""
    out = bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length])


def _unpack_length(data: bytes) -> tuple[int, int]:
    """The number at the start of 5 bytes and how many of them it takes."""
    length = 0
    for i, byte in enumerate(data):
        length |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and length <= MAX_PAYLOAD and (byte or not i):  # one spelling per number
            return length, i + 1
        if byte < 0x80:
            break
    raise BitstreamError("the length of the packet is not possible")


def _checksum(number: int, kind: int, payload: bytes) -> int:
    """CRC-32 over frame number, first byte, length and payload: a moved packet is noticed too."""
    start = zlib.crc32(_CRC.pack(number) + bytes([kind]) + _pack_length(len(payload)))
    return zlib.crc32(payload, start)


def _pack(number: int, kind: int, payload: bytes) -> bytes:
    _check("payload size", len(payload), 0, MAX_PAYLOAD)
    crc = _CRC.pack(_checksum(number, kind, payload))
    return bytes([kind]) + _pack_length(len(payload)) + crc + payload
