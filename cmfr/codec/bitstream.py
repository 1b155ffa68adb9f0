"""The `.cmfr` file: header, one packet per frame, index, trailer. docs/bitstream.md has the bytes.

Only this module, header.py and packet.py know the format. Numbers are little-endian. Every byte is
covered by a checksum or compared with what it must be, and no length is believed before it is
compared with the size of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from cmfr.codec.header import CRC, MAGIC, PREFIX, VERSION, VERSIONS, StreamHeader, check_number
from cmfr.codec.packet import (
    INDEX,
    INTRA,
    MIN_PACKET,
    QUALITY,
    SAID,
    checksum,
    checksum_size,
    kind_of,
    pack,
    unpack_length,
)
from cmfr.nn.payload import padded
from cmfr.utils.errors import UserError

TRAILER_MAGIC = b"CMFX"

_U32 = 0xFFFFFFFF
_INDEX_NUMBER = _U32  # stands for the frame number in the index packet's checksum
_ENTRY = struct.Struct("<IQ")
_TRAILER = struct.Struct("<Q4s")


class BitstreamError(UserError):
    """Damaged or foreign data; the message says what and where."""


class DamagedFrame(BitstreamError):
    """A frame that cannot be read or decoded, or is missing; `number` counts from 0."""

    def __init__(self, number: int, reason: str, state: str = "damaged") -> None:
        super().__init__(f"frame {number} is {state}: {reason}")
        self.number = number


@dataclass(frozen=True)
class FramePacket:
    """One coded frame.

    quality: 0..63.
    offset: bytes from the start of the stream.
    size: bytes of the whole packet, its 3 to 9 bytes of overhead (2 more up to version 4)
    included.
    """

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
        self._last_intra = 0
        self._write(self._header.to_bytes())

    def write_frame(self, intra: bool, quality: int, payload: bytes) -> int:
        """Append a frame, quality 0..63; returns the size of the packet in bytes. Raises ValueError
        if the writer is closed, the first frame is not intra, or a value is out of range; nothing
        is written then."""
        check_number("quality", quality, 0, QUALITY)
        check_number("number of frames", self._count + 1, 1, _U32 - 1)
        if self._closed or not (intra or self._count):
            raise UserError("the stream is closed" if self._closed else "frame 0 must be intra")
        if intra:
            self._last_intra = self._count
        expected = kind_of(*self._header.expected(self._count, self._count - self._last_intra))
        at, packet = self._at, pack(self._count, kind_of(intra, quality), expected, payload)
        self._write(packet)
        if intra:
            self._intra.append((self._count, at))
        self._count += 1
        return len(packet)

    def close(self) -> int:
        """Write index and trailer and fill in the frame count; the size of the stream in bytes.
        Leaves the file open, at its end. Without it the file counts as cut off."""
        if self._closed:
            return self._at
        self._closed = True
        at = self._at
        entries = b"".join(_ENTRY.pack(*entry) for entry in self._intra)
        self._write(pack(_INDEX_NUMBER, INDEX, None, CRC.pack(len(self._intra)) + entries))
        self._write(_TRAILER.pack(at, TRAILER_MAGIC))
        if self._base is not None:
            self._file.seek(self._base)
            self._file.write(replace(self._header, frame_count=self._count).to_bytes())
            self._file.seek(self._base + self._at)
            self._file.flush()
        return self._at

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()  # what a killed process has coded is there
        self._at += len(data)


class BitstreamReader:
    """Reads the stream that starts at the current position of `file` and ends with the file.

    `header` is the header, `version` that of the format; `frame_count` is the header's, or None
    where that is not known or more than the file has place for; `index` holds (frame number,
    offset) of every intra frame, or is None where index or trailer are missing or damaged.
    Iteration gives the frames in order and raises `DamagedFrame` at damage (again and again, until
    `seek_intra` or `resume_after_damage`) and `BitstreamError` for anything else. Its end means
    that index and trailer were intact as well. Raises ValueError for a file that cannot seek.
    """

    _number: int  # of the frame to read next, `_at` its offset
    _at: int
    _last_intra: int
    _need_intra: bool
    _failed: bool  # reading that frame was tried, in vain
    _done: bool

    def __init__(self, file: BinaryIO) -> None:
        if not file.seekable():
            raise UserError("a stream can only be read from a file, not from a pipe")
        self._file, self._base = file, file.tell()
        self._size = file.seek(0, 2) - self._base
        self.header, self.version, self._first = self._read_header()
        count, room = self.header.frame_count, (self._size - self._first) // MIN_PACKET
        self.frame_count = count if count is not None and count <= room else None
        self._move(0, self._first)
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
            kind, payload, crc, end = self._read_packet(at, number)
            if crc != checksum(number, kind, payload, self.version):
                raise BitstreamError("checksum does not match")
            if kind & INDEX or (self._need_intra and not kind & INTRA):
                raise BitstreamError(f"a packet of kind {kind:#04x} cannot be here")
        except BitstreamError as error:
            raise DamagedFrame(number, str(error)) from None
        if kind & INTRA:
            self._seen.append((number, at))
            self._last_intra = number
        self._at, self._number = end, number + 1
        self._need_intra = self._failed = False
        if self.version == 1:  # has no small payloads
            payload = padded(payload)
        return FramePacket(number, bool(kind & INTRA), kind & QUALITY, payload, at, end - at)

    def seek_intra(self, frame_number: int) -> int:
        """Go to the last intra frame at or before `frame_number` (from 0); returns its number.

        Without an index the packets before it are read. Raises ValueError for a number that is
        not in the stream, BitstreamError if no such frame is found.
        """
        count = self.header.frame_count
        check_number("frame number", frame_number, 0, _U32 if count is None else count - 1)
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

    def count(self) -> int | None:
        """How many frames the stream has. Where the header does not say: by the lengths of the
        packets from the next one on, None where these do not lead to the index."""
        if self.frame_count is not None or self._index_at is None:
            return self.frame_count
        number, at = self._number, self._at
        while at < self._index_at:
            try:
                *_, at = self._read_packet(at, number)
            except BitstreamError:
                return None
            number += 1
        return number if at == self._index_at else None

    def _move(self, number: int, at: int) -> None:
        self._number, self._at = number, at
        self._last_intra = number
        self._need_intra, self._failed, self._done = True, False, False

    def _at_index(self) -> bool:
        """Is the index next? A damaged frame may look like it: trust what else is known first."""
        count = self.header.frame_count
        if self._index_at is not None:
            return self._at == self._index_at
        if self._at == self._size or count is not None:
            return self._number == count and self._at < self._size
        start = bytes([INDEX]) if self.version == 1 else bytes([SAID, INDEX])
        return self._read(self._at, len(start), "the stream") == start

    def _intra_frames(self, number: int, at: int, last: int) -> Iterator[tuple[int, int]]:
        """(number, offset) of intra frames from frame `number` at `at` on, up to frame `last`."""
        if self.index is not None:
            yield from (entry for entry in self.index if number <= entry[0] <= last)
            return
        while number <= last and at < self._size:
            try:
                kind, payload, crc, end = self._read_packet(at, number)
            except BitstreamError:
                return
            if kind & INTRA and crc == checksum(number, kind, payload, self.version):
                yield number, at
            number, at = number + 1, end

    def _read(self, at: int, size: int, what: str) -> bytes:
        if 0 <= at <= self._size - size:
            self._file.seek(self._base + at)
            data = self._file.read(size)
            if len(data) == size:  # the file may have become shorter meanwhile
                return data
        raise BitstreamError(f"file ends within {what}")

    def _read_header(self) -> tuple[StreamHeader, int, int]:
        """The header, the version of the format and the header's size in bytes."""
        if self._size < 4 or self._read(0, 4, "") != MAGIC:
            raise BitstreamError("not a .cmfr file")
        prefix = self._read(0, PREFIX.size, "the header")
        _, version, length = PREFIX.unpack(prefix)
        if version not in VERSIONS:
            reason = "newer than this program reads" if version > VERSION else "not known"
            raise BitstreamError(f"version {version} is {reason}")
        data = self._read(0, PREFIX.size + length + CRC.size, "the header")
        (crc,) = CRC.unpack(data[-CRC.size :])
        if crc != zlib.crc32(data[: -CRC.size]):
            raise BitstreamError("the header is damaged: checksum does not match")
        try:
            header = StreamHeader.from_fields(data[PREFIX.size : -CRC.size], version)
        except ValueError as error:
            raise BitstreamError(f"the header is damaged: {error}") from None
        return header, version, len(data)

    def _read_packet(self, at: int, number: int) -> tuple[int, bytes, bytes, int]:
        """Kind, payload, checksum as stored, offset of what follows."""
        what = "the index" if number == _INDEX_NUMBER else f"frame {number}"
        # A trailer follows, so the longest head can be read even where the packet is shorter.
        check = checksum_size(self.version)
        head = self._read(at, 2 + 5 + check, what)
        if self.version == 1:
            kind, used = head[0], 1
        elif head[0] == SAID:
            kind, used = head[1], 2
        else:
            kind, used = kind_of(*self.header.expected(number, number - self._last_intra)), 0
        found = unpack_length(head[used : used + 5])
        if found is None:
            raise BitstreamError("the length of the packet is not possible")
        length, size = found
        crc = head[used + size : used + size + check]
        start = at + used + size + check
        return kind, self._read(start, length, what), crc, start + length

    def _read_index(self, at: int) -> tuple[tuple[tuple[int, int], ...], int]:
        """The index at `at` and the offset of what follows."""
        kind, payload, crc, end = self._read_packet(at, _INDEX_NUMBER)
        if kind != INDEX or crc != checksum(_INDEX_NUMBER, kind, payload, self.version):
            raise BitstreamError("the index is damaged: checksum does not match")
        if payload[: CRC.size] != CRC.pack(len(payload) // _ENTRY.size) or (
            len(payload) % _ENTRY.size != CRC.size
        ):
            raise BitstreamError("the index is damaged: its length does not match its count")
        index = tuple(_ENTRY.iter_unpack(payload[CRC.size :]))
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
