"""The file format: round trips, and that no damage goes unnoticed or raises anything else."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from cmfr.codec.bitstream import (
    BitstreamError,
    BitstreamReader,
    BitstreamWriter,
    DamagedFrame,
    StreamHeader,
)
from cmfr.video.info import ColorInfo, VideoInfo

HEADER = StreamHeader(
    width=1920, height=1080, frame_rate=Fraction(30000, 1001), chroma="420", bit_depth=10,
    quality=32, model="cmfr-s", weights=bytes(range(8)), intra_period=3, refresh_period=32,
    quality_offsets=(-40, 2, 60), matrix_code=1, primaries=1, transfer=1, range="limited",
    producer="torch 2.4, Gerät",
)  # fmt: skip
VERSION_1 = Path(__file__).parents[1] / "data" / "version1.cmfr"
INFO = VideoInfo(64, 48, Fraction(25), ColorInfo("bt601", "full", 5, 6, matrix_code=5), "444", 8)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    tell = seek


def payload(number: int, size: int = 12) -> bytes:
    return random.Random(number).randbytes(size)


def stream(
    frames: int, period: int = 3, pipe: bool = False, size: int = 12, regular: bool = True
) -> bytes:
    """regular: the qualities are those that the header lets expect."""
    file = Pipe() if pipe else io.BytesIO()
    writer = BitstreamWriter(file, replace(HEADER, intra_period=period))
    for i in range(frames):
        writer.write_frame(i % period == 0, quality(i, period, regular), payload(i, size))
    writer.close()
    return file.getvalue()


def quality(number: int, period: int = 3, regular: bool = True) -> int:
    if not regular:
        return number % 64
    return (32, 34, 63, 0)[0 if number % period == 0 else (number % period - 1) % 3 + 1]


def read_all(data: bytes) -> list[tuple[int, bytes]]:
    return [(p.number, p.payload) for p in BitstreamReader(io.BytesIO(data))]


def offsets(data: bytes) -> list[int]:
    return [p.offset for p in BitstreamReader(io.BytesIO(data))]


def flip(data: bytes, at: int, mask: int = 0x01) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("frames", [0, 1, 8])
def test_round_trip(frames: int, pipe: bool, regular: bool) -> None:
    data = stream(frames, pipe=pipe, regular=regular)
    reader = BitstreamReader(io.BytesIO(data))
    assert reader.header == replace(HEADER, frame_count=None if pipe else frames)
    packets = list(reader)
    assert [p.payload for p in packets] == [payload(i) for i in range(frames)]
    assert [(p.number, p.intra, p.quality) for p in packets] == [
        (i, i % 3 == 0, quality(i, regular=regular)) for i in range(frames)
    ]
    assert reader.index == tuple((p.number, p.offset) for p in packets if p.intra)
    assert list(reader) == []


def test_stream_at_an_offset_of_the_file_and_closing_twice() -> None:
    file = io.BytesIO()
    file.write(b"before")
    writer = BitstreamWriter(file, HEADER)
    assert writer.write_frame(True, 0, b"abc") == 8
    writer.close()
    writer.close()
    assert file.tell() == len(file.getvalue()) and file.getvalue().startswith(b"beforeCMFR")
    file.seek(6)
    assert [p.payload for p in BitstreamReader(file)] == [b"abc"]
    with pytest.raises(ValueError, match="closed"):
        writer.write_frame(True, 0, b"")


@pytest.mark.parametrize("size,overhead", [(1, 3), (127, 3), (128, 4), (1000, 4), (20000, 5)])
def test_a_packet_has_its_length_and_its_checksum_besides(size: int, overhead: int) -> None:
    """And where its kind is not the one that the header lets expect, two bytes for that."""
    file = io.BytesIO()
    writer = BitstreamWriter(file, HEADER)  # intra period 3
    written = [(True, 32, 0), (False, 34, 0), (False, 33, 2), (True, 32, 0), (True, 32, 2)]
    written += [(False, 34, 0), (True, 32, 0)]  # the pattern begins anew at every intra frame
    for intra, of_frame, said in written:
        assert writer.write_frame(intra, of_frame, bytes(size)) == size + overhead + said
    assert writer.write_frame(False, 34, b"") == 5  # an empty one as well
    writer.close()
    file.seek(0)
    *packets, empty = BitstreamReader(file)
    assert [(p.intra, p.quality) for p in packets] == [(i, q) for i, q, _ in written]
    assert [p.size for p in packets] == [size + overhead + said for _, _, said in written]
    assert all(p.payload == bytes(size) for p in packets)
    assert (empty.payload, empty.quality) == (b"", 34)


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_every_flip_of_bits_is_noticed(pipe: bool, regular: bool) -> None:
    data = stream(3, pipe=pipe, regular=regular)
    for at in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            with pytest.raises(BitstreamError):
                read_all(flip(data, at, mask))


@pytest.mark.parametrize("regular", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_every_truncation_is_noticed(pipe: bool, regular: bool) -> None:
    data = stream(5, pipe=pipe, regular=regular)
    starts = offsets(data)
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            read_all(data[:length])
        if length >= starts[0]:  # what is there is read
            good = []
            with pytest.raises(BitstreamError):
                for packet in BitstreamReader(io.BytesIO(data[:length])):
                    good.append(packet.payload)
            complete = sum(
                end <= length for end in [*starts[1:], starts[-1] + (15 if regular else 17)]
            )
            assert good == [payload(i) for i in range(complete)]


def test_messages() -> None:
    data = stream(5)
    starts = offsets(data)
    cases = [
        (b"", "not a .cmfr file"),
        (b"RIFF" + data, "not a .cmfr file"),
        (data[:30], "file ends within the header"),
        (flip(data, 4, 8), "version 13 is newer than this program reads"),
        (flip(data, 9), "the header is damaged: checksum"),
        (flip(data, starts[2] + 8), "frame 2 is damaged: checksum does not match"),
        (data[: starts[2] + 8], "file ends within frame 2"),
        (data[: starts[3]], r"frame 3 is missing: file ends after frame 2 \(3 of 5 frames\)"),
        (data[: starts[0]], r"file ends after the header \(0 of 5 frames\)"),
        (stream(5, pipe=True)[: starts[3]], "file ends after frame 2: it was cut off"),
        (flip(data, len(data) - 9), "the trailer is damaged"),
        (flip(data, len(data) - 20), "the index is damaged: checksum"),
        (data + b"abc", "3 bytes follow the end of the stream"),
    ]
    for damaged, message in cases:
        with pytest.raises(BitstreamError, match=message):
            read_all(damaged)


def test_version_3_is_read_as_before() -> None:
    """It does not say its arithmetic."""
    reader = BitstreamReader(io.BytesIO((VERSION_1.parent / "version3.cmfr").read_bytes()))
    assert reader.version == 3 and not reader.header.portable
    assert reader.header.producer.startswith("torch 2.15") and len(list(reader)) == 6


def test_version_4_is_read_as_before() -> None:
    """The checksums of its packets have 32 bits."""
    data = (VERSION_1.parent / "version4.cmfr").read_bytes()
    reader = BitstreamReader(io.BytesIO(data))
    packets = list(reader)
    assert reader.version == 4 and reader.header.portable and reader.header.quality == 40
    assert [p.intra for p in packets] == [True, False, False, False, True, False]
    starts = [p.offset for p in packets]
    assert all(p.size == len(p.payload) + 5 for p in packets)  # lengths of one byte
    for at in range(starts[0], len(data)):
        with pytest.raises(BitstreamError):
            read_all(flip(data, at))


@pytest.mark.parametrize("portable", [False, True])
def test_the_arithmetic_is_kept(portable: bool) -> None:
    fields = replace(HEADER, portable=portable).to_bytes()[7:-4]
    assert StreamHeader.from_fields(fields).portable is portable
    with pytest.raises(ValueError, match="not possible"):
        StreamHeader.from_fields(fields[:-1] + b"\x02")


def test_version_1_is_read_as_before() -> None:
    data = VERSION_1.read_bytes()
    reader = BitstreamReader(io.BytesIO(data))
    packets = list(reader)
    assert reader.version == 1 and reader.header.quality == 40 and reader.header.intra_period == 4
    assert [(p.intra, p.quality, p.size) for p in packets] == [
        (True, 40, 112), (False, 42, 132), (False, 33, 116), (False, 39, 116), (True, 40, 108),
        (False, 42, 120),
    ]  # fmt: skip
    for at in range(len(data)):
        for damaged in (flip(data, at), flip(data, at, 255), data[:at]):
            with pytest.raises(BitstreamError):
                read_all(damaged)
    damaged = flip(data, packets[1].offset + 30)[:-1]  # no index either
    reader = BitstreamReader(io.BytesIO(damaged))
    with pytest.raises(DamagedFrame):
        list(reader)
    assert reader.resume_after_damage() == 4 and next(reader).payload == packets[4].payload


def test_swapped_lost_and_repeated_packets() -> None:
    data = stream(5, period=1, pipe=True)
    a, b, c = offsets(data)[1:4]
    for damaged in (
        data[:a] + data[b:c] + data[a:b] + data[c:],
        data[:a] + data[b:],
        data[:b] + data[a:],
    ):
        with pytest.raises(DamagedFrame) as error:
            read_all(damaged)
        assert error.value.number in (1, 2)


def header_with(at: int, form: str, value: int) -> bytes:
    """A stream whose header has one field replaced and a checksum that is right."""
    data = bytearray(stream(1))
    struct.pack_into(form, data, at, value)
    end = 7 + struct.unpack_from("<H", data, 5)[0]
    struct.pack_into("<I", data, end, zlib.crc32(data[:end]))
    return bytes(data)


@pytest.mark.parametrize(
    "at,form,value",
    [
        (7, "<I", 0), (7, "<I", 65536), (11, "<I", 0), (15, "<I", 0), (19, "<I", 0), (27, "B", 3),
        (28, "B", 7), (32, "B", 3), (33, "B", 64), (34, "<i", 0), (34, "<i", -2), (40, "B", 0),
        (40, "B", 255), (41, "B", 0xFF), (41, "B", 10), (55, "B", 0), (55, "B", 255),
        (56, "b", 64), (59, "B", 0), (59, "B", 255),
    ],
)  # fmt: skip
def test_header_values_from_a_file_are_checked(at: int, form: str, value: int) -> None:
    with pytest.raises(BitstreamError, match="the header is damaged"):
        read_all(header_with(at, form, value))


def test_wrong_frame_counts_are_noticed() -> None:
    assert read_all(header_with(23, "<I", 1))
    for count in (0, 2, 2**32 - 2):
        with pytest.raises(BitstreamError):
            read_all(header_with(23, "<I", count))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"height": 65536}, {"quality": 64}, {"frame_rate": Fraction(0)},
        {"intra_period": 0}, {"chroma": "422"}, {"range": "video"}, {"weights": b""},
        {"model": ""}, {"model": "x" * 256}, {"quality_offsets": (64,)},
        {"quality_offsets": (0,) * 256}, {"bit_depth": 7}, {"frame_count": -1}, {"width": 2.5},
    ],
)  # fmt: skip
def test_header_refuses(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(HEADER, **change)


def test_writer_refuses() -> None:
    writer = BitstreamWriter(io.BytesIO(), HEADER)
    with pytest.raises(ValueError, match="must be intra"):
        writer.write_frame(False, 0, b"")
    with pytest.raises(ValueError, match="quality"):
        writer.write_frame(True, 64, b"")
    with pytest.raises(ValueError, match="pipe"):
        BitstreamReader(Pipe(stream(1)))


def test_fuzz() -> None:
    """Random bytes in every place raise BitstreamError only, and allocate little."""
    rng, data = random.Random(1), stream(8)
    start = offsets(data)[0]
    for _ in range(4000):
        size = rng.randrange(64)
        noise = rng.randbytes(size)
        at = rng.randrange(start, len(data))
        for damaged in (
            b"CMFR" + noise,
            b"CMFR\x01" + noise,
            data[:start] + noise,
            data[:at] + noise + data[at + size :] + b"!",
            data[:start] + noise + struct.pack("<Q4s", rng.randrange(200), b"CMFX"),
        ):
            reader = None
            try:
                reader = BitstreamReader(io.BytesIO(damaged))
                list(reader)
                raise AssertionError("damage was not noticed")
            except BitstreamError:
                pass
            if reader is not None:
                reader.resume_after_damage()


def test_a_huge_length_is_not_believed() -> None:
    data = stream(2)
    at = offsets(data)[1]
    for length in (b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 5, b"\x8c\x00"):
        with pytest.raises(DamagedFrame):
            read_all(data[:at] + length + data[at + 1 :])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("regular,at", [(True, 2), (True, 9), (False, 1), (False, 4), (False, 9)])
def test_resume(indexed: bool, regular: bool, at: int) -> None:
    """After damage of a kind, a checksum, a payload."""
    data = stream(9, regular=regular)
    data = flip(data, offsets(data)[1] + at)
    reader = BitstreamReader(io.BytesIO(data if indexed else data[:-1]))
    assert (reader.index is not None) == indexed
    assert next(reader).number == 0
    for _ in range(2):  # it does not move on by itself
        with pytest.raises(DamagedFrame) as error:
            next(reader)
        assert error.value.number == 1
    assert reader.resume_after_damage() == 3
    assert [next(reader).payload for _ in range(6)] == [payload(i) for i in range(3, 9)]
    if indexed:
        assert list(reader) == []
    else:
        with pytest.raises(BitstreamError, match="within the trailer"):
            next(reader)


def test_resume_after_a_damaged_length() -> None:
    data = stream(9)
    data = flip(data, offsets(data)[1])
    for end, number in ((len(data), 3), (-1, None)):
        reader = BitstreamReader(io.BytesIO(data[:end]))
        with pytest.raises(DamagedFrame):
            list(reader)
        assert reader.resume_after_damage() == number


def test_resume_over_a_damaged_intra_frame_and_at_the_end() -> None:
    data = stream(9)
    starts = offsets(data)
    for start in (starts[3], starts[8]):
        data = flip(data, start + 8)
    reader = BitstreamReader(io.BytesIO(data))
    read: list[int] = []
    lost: list[int] = []
    resumed: list[int | None] = []
    while not resumed or resumed[-1] is not None:
        try:
            read += [next(reader).number]
        except DamagedFrame as error:
            lost.append(error.number)
            resumed.append(reader.resume_after_damage())
    assert (read, lost, resumed) == ([0, 1, 2, 6, 7], [3, 8], [6, None])


def test_resume_when_the_decoder_rejects_a_frame() -> None:
    reader = BitstreamReader(io.BytesIO(stream(7)))
    assert [next(reader).number for _ in range(2)] == [0, 1]  # 1 cannot be decoded, say
    assert reader.resume_after_damage() == 3
    assert next(reader).number == 3  # and neither can 3
    assert reader.resume_after_damage() == 6
    assert [p.number for p in reader] == [6]


@pytest.mark.parametrize("indexed", [True, False])
def test_seek(indexed: bool) -> None:
    data = stream(8)
    reader = BitstreamReader(io.BytesIO(data if indexed else data[:-1]))
    for number, intra in ((7, 6), (5, 3), (3, 3), (2, 0), (0, 0)):
        assert reader.seek_intra(number) == intra
        packet = next(reader)
        assert (packet.number, packet.payload, packet.intra) == (intra, payload(intra), True)
    reader.seek_intra(4)
    if indexed:
        assert [p.number for p in reader] == [3, 4, 5, 6, 7]
        reader.seek_intra(7)
        assert [p.number for p in reader] == [6, 7]
    for number in (-1, 8):
        with pytest.raises(ValueError, match="frame number"):
            reader.seek_intra(number)


def test_header_of_a_video() -> None:
    header = StreamHeader.of(
        INFO, quality=3, intra_period=-1, refresh_period=0, model="m", weights=bytes(8),
        producer="é\n" * 200,
    )  # fmt: skip
    assert StreamHeader.from_fields(header.to_bytes()[7:-4]) == header
    assert header.info() == INFO
    renamed = replace(INFO, color=ColorInfo("bt2020", "limited"))  # a name without its code
    again = StreamHeader.of(
        renamed, quality=3, intra_period=-1, refresh_period=0, model="m", weights=bytes(8)
    )
    assert again.matrix_code == 9 and again.info().color.matrix == "bt2020"
    assert header.describe()["size"] == "64x48" and "first" in header.describe()["intra period"]
    assert replace(HEADER, frame_count=7).describe()["frames"] == "7"


def test_the_example_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "bitstream.md").read_text()
    _, code, _, listing, _ = text[text.index("## Example") :].split("```")
    exec(code.removeprefix("python"))
    told = bytearray()
    for line in listing.strip("\n").splitlines():
        assert int(line[:3]) == len(told), line
        told += bytes(200) if "200 times" in line else bytes.fromhex(line[5:29])
    assert told == bytes.fromhex(capsys.readouterr().out)
    assert f"{len(told)} bytes in all" in text


def test_needs_neither_torch_nor_numpy() -> None:
    loaded = "'torch' in sys.modules or 'numpy' in sys.modules"
    code = f"import sys, cmfr.codec.bitstream; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ten_thousand_frames(tmp_path: Path) -> None:
    """Complete, any intra frame is found by the index, and memory grows with intra frames alone."""
    path, frames, period = tmp_path / "a.cmfr", 10_000, 100
    used = []
    tracemalloc.start()
    with path.open("w+b") as file:
        writer = BitstreamWriter(file, replace(HEADER, intra_period=period))
        for i in range(frames):
            writer.write_frame(i % period == 0, quality(i, period, True), payload(i))
            if i in (999, frames - 1):
                used.append(tracemalloc.get_traced_memory()[0])
        assert writer.close() == path.stat().st_size
    with path.open("rb") as file:
        reader = BitstreamReader(file)
        assert reader.frame_count == frames and reader.index is not None
        assert [number for number, _ in reader.index] == list(range(0, frames, period))
        for wanted in (9_999, 0, 5_050):
            assert reader.seek_intra(wanted) == wanted // period * period
            packet = next(reader)
            assert packet.intra and packet.payload == payload(packet.number)
        reader.seek_intra(0)
        for i, packet in enumerate(reader):
            assert packet.number == i and packet.payload == payload(i)
            if i in (999, frames - 1):
                used.append(tracemalloc.get_traced_memory()[0])
        assert i == frames - 1
    tracemalloc.stop()
    assert used[1] - used[0] < 50_000 and used[3] - used[2] < 50_000
