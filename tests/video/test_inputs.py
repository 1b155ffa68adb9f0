"""Odd inputs, each made here: the right pictures, or one sentence and nothing written."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import lively
from PIL import Image

from cmfr.cli.main import main
from cmfr.codec.checkpoint import save_weights
from cmfr.evaluation.found_sets import set_of_files
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of
from cmfr.training.data.config import ClipsConfig
from cmfr.training.data.datasets import open_data
from cmfr.video.reader import open_video

WIDTH, HEIGHT = 64, 48


def picture(pixel_format: str, number: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Any:
    """Noise in every plane, as large as the format allows."""
    made, rng = av.VideoFrame(*size, pixel_format), np.random.default_rng(number)
    for plane, part in zip(made.planes, made.format.components, strict=False):
        deep = part.bits > 8
        samples = np.frombuffer(memoryview(plane), "<u2" if deep else "u1")
        samples[:] = rng.integers(0, 2**part.bits, samples.size)
    made.pts = number
    return made


def written(path: Path, codec: str, pictures: list[Any], **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        first = pictures[0]
        stream: Any = container.add_stream(codec, rate=25, options={"g": "4"})
        stream.width, stream.height = first.width, first.height
        stream.pix_fmt, stream.time_base = first.format.name, Fraction(1, 25)
        for one in pictures:
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


def samples(made: Any, index: int) -> np.ndarray:
    plane, deep = made.planes[index], made.format.components[index].bits > 8
    found = np.frombuffer(memoryview(plane), "<u2" if deep else "u1")
    return found.reshape(plane.height, -1)[:, : plane.width]


# --- layouts


def test_palettes(tmp_path: Path) -> None:
    pictures = [Image.new("P", (WIDTH, HEIGHT)) for _ in range(3)]
    for number, one in enumerate(pictures):
        one.putpalette([10, 20, 30, 200, 150, 100, 7, 7, 7])
        one.putdata([(i + number) % 3 for i in range(WIDTH * HEIGHT)])
        one.save(tmp_path / f"{number}.png", transparency=2)
    pictures[0].save(tmp_path / "all.gif", save_all=True, append_images=pictures[1:], duration=40)
    expected = [np.asarray(one.convert("RGB")) for one in pictures]
    for path in (tmp_path, tmp_path / "all.gif"):
        frames = list(open_video(path))
        assert len(frames) == 3
        for frame, right in zip(frames, expected, strict=True):
            np.testing.assert_array_equal(np.stack(frame.planes, -1), right)


def test_chroma_of_411(tmp_path: Path) -> None:
    made = picture("yuv411p")
    for index, value in ((1, 90), (2, 170)):
        np.frombuffer(memoryview(made.planes[index]), np.uint8)[:] = value
    with open_video(written(tmp_path / "a.mkv", "ffv1", [made])) as reader:
        (frame,) = reader
        assert (reader.info.chroma, reader.info.bit_depth) == ("444", 8)
    np.testing.assert_array_equal(frame.planes[0], samples(made, 0))
    assert (frame.planes[1] == 90).all() and (frame.planes[2] == 170).all()


@pytest.mark.parametrize("chroma", ["420", "444"])
def test_12_bit_becomes_10_and_keeps_its_chroma_layout(tmp_path: Path, chroma: str) -> None:
    """FFmpeg dithers."""
    made = picture(f"yuv{chroma}p12le")
    with open_video(written(tmp_path / "a.mkv", "ffv1", [made])) as reader:
        (frame,) = reader
        assert (reader.info.chroma, reader.info.bit_depth) == (chroma, 10)
    for index, plane in enumerate(frame.planes):
        difference = plane - samples(made, index) / 4
        assert np.abs(difference).max() < 2 and abs(difference.mean()) < 0.5


@pytest.mark.parametrize("pixel_format", ["yuva420p", "yuva444p10le", "bgra"])
def test_alpha_is_dropped(tmp_path: Path, pixel_format: str) -> None:
    made = picture(pixel_format)
    (frame,) = open_video(written(tmp_path / "a.mkv", "ffv1", [made]))
    if pixel_format == "bgra":
        lines = np.frombuffer(memoryview(made.planes[0]), np.uint8).reshape(HEIGHT, -1, 4)
        right = lines[:, :WIDTH, 2::-1]
        np.testing.assert_array_equal(np.stack(frame.planes, -1), right)
    else:
        for index, plane in enumerate(frame.planes):
            np.testing.assert_array_equal(plane, samples(made, index))


# --- containers


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """An .mp4 whose header says this display matrix (a, b, c, d)."""
    a, b, c, d = (value * 2**16 for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[at : at + 36]) == (2**16, 0, 0, 0, 2**16, 0, 0, 0, 2**30)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "left"),
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_pictures_are_turned_as_the_file_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], left: int
) -> None:
    path = written(tmp_path / "a.mp4", "libx264rgb", [picture("rgb24", n) for n in range(2)])
    upright = [frame.planes for frame in open_video(path)]
    with open_video(turned(path, matrix)) as reader:
        found = list(reader)
        size = (WIDTH, HEIGHT)[:: -1 if left % 2 else 1]
        assert (reader.info.width, reader.info.height) == size
    for frame, planes in zip(found, upright, strict=True):
        for plane, right in zip(frame.planes, planes, strict=True):
            np.testing.assert_array_equal(plane, np.rot90(right, left))


def test_varying_frame_times_keep_all_frames_and_the_average_rate(tmp_path: Path) -> None:
    pictures = [picture("yuv420p", n) for n in range(6)]
    for one, time in zip(pictures, (0, 1, 2, 5, 6, 9), strict=True):
        one.pts = time
    path = written(tmp_path / "a.mkv", "ffv1", pictures)
    with open_video(path) as reader:
        found = list(reader)
        assert 5 < reader.info.frame_rate <= 25
    assert len(found) == 6
    for frame, made in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(frame.planes[0], samples(made, 0))


# --- what is refused


def mirrored(folder: Path) -> Path:
    path = written(folder / "a.mp4", "libx264", [picture("yuv420p", n) for n in range(2)])
    return turned(path, (-1, 0, 0, 1))


def changing(folder: Path) -> Path:
    path = folder / "a.mjpeg"
    with path.open("wb") as file:
        for size in ((64, 48), (64, 48), (48, 64)):
            Image.new("RGB", size).save(file, "JPEG")
    return path


def sound(folder: Path) -> Path:
    path = folder / "a.m4a"
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=8000)
        one = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        one.sample_rate = 8000
        container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


def song_with_a_cover(folder: Path) -> Path:
    path = folder / "a.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=44100)
        cover: Any = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(picture("rgb24")))
        one = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        one.sample_rate = 44100
        container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


def mp4(folder: Path, **options: str) -> tuple[Path, bytearray]:
    path = written(
        folder / "a.mp4", "libx264", [picture("yuv420p", n) for n in range(12)], **options
    )
    return path, bytearray(path.read_bytes())


def test_frames_that_a_cut_file_does_not_show_are_not_counted(tmp_path):
    """Cut by `-c copy`: the frames before the first that is shown are there for the decoder alone.
    By any name."""
    path, cut = mp4(tmp_path, g="100")[0], tmp_path / "a:b.mp4"
    with av.open(str(path)) as source, av.open(f"file:{cut}", "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                early = round(3 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - early,
                    packet.dts - early,
                    stream,
                )
                target.mux(packet)
    with open_video(cut) as reader:
        shown = sum(1 for _ in reader)
        assert shown == reader.info.frame_count == 9
    ((sequence, _),) = set_of_files([cut]).sequences
    assert sequence.frames == shown
    assert open_data(ClipsConfig(root=tmp_path, include=("a:b*",))).shape(0)[0] == shown


def cut_before_its_index(folder: Path) -> Path:
    path, data = mp4(folder)
    path.write_bytes(data[: len(data) // 2])
    return path


def cut_behind_its_index(folder: Path) -> Path:
    path, data = mp4(folder, movflags="faststart")
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def cut_between_two_frames(folder: Path) -> Path:
    path, data = mp4(folder, movflags="faststart")
    with av.open(str(path)) as container:
        seventh = container.streams.video[0].index_entries[6]
    path.write_bytes(data[: seventh.pos])
    return path


def damaged(folder: Path) -> Path:
    path, data = mp4(folder)
    for at in range(data.index(b"mdat") + 1000, len(data) - 3000, 97):
        data[at] ^= 255
    path.write_bytes(data)
    return path


def pictures_with_a_gap(folder: Path) -> Path:
    for number in (1, 2, 3, 7, 8, 10):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"im{number:03d}.png")
    return folder


def pictures_of_two_sizes(folder: Path) -> Path:
    for number in (1, 2, 3):
        Image.new("RGB", (WIDTH + number // 3, HEIGHT)).save(folder / f"im{number:03d}.png")
    return folder


def deep_pictures(folder: Path) -> Path:
    Image.new("I;16", (WIDTH, HEIGHT)).save(folder / "im1.png")
    return folder


def deep_colors(folder: Path) -> Path:
    """RGB of 16 bit, of which Pillow reads 8."""
    row = b"\0" + bytes(6 * WIDTH)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)),
              (b"IDAT", zlib.compress(row * HEIGHT)), (b"IEND", b"")]  # fmt: skip
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (folder / "im1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    save_weights(path, weights_of(lively(PRESETS["cmfr-nano"])), PRESETS["cmfr-nano"])
    return str(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (mirrored, "a.mp4 says that its pictures are to be mirrored"),
        (changing, "a.mjpeg changes from 64x48 .* to 48x64"),
        (sound, "a.m4a has no video stream"),
        (song_with_a_cover, "a.mp3 has no video stream"),
        (cut_before_its_index, "a.mp4 is not a video that can be opened"),
        (cut_behind_its_index, r"a.mp4 is damaged after \d+ frames"),
        (cut_between_two_frames, "a.mp4 is damaged after 6 frames: it is cut off"),
        (damaged, r"a.mp4 is damaged: frame \d+ is incomplete|a.mp4 is damaged after \d+ frames"),
        (pictures_with_a_gap, "the numbered pictures have gaps: 4-6, 9 missing"),
        (pictures_of_two_sizes, "im003.png is 65x48, the pictures before are 64x48"),
        (deep_pictures, "im1.png is not an 8-bit picture"),
        (deep_colors, "im1.png is not an 8-bit picture: it has 16 bits"),
    ],
)
def test_one_sentence_and_nothing_written(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], Path], says: str,
) -> None:  # fmt: skip
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = make(tmp_path / "in")
    command = ["encode", str(source), str(tmp_path / "out" / "a.cmfr"), "--model", weights]
    assert main([*command, "--reconstruction", str(tmp_path / "out" / "b.mkv")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmfr")]
    assert len(lines) == 1 and lines[0].startswith(f"cmfr encode: {tmp_path / 'in'}")
    assert re.search(says, lines[0]), lines[0]
    assert not list((tmp_path / "out").iterdir())
