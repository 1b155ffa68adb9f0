"""Videos in and out: round trips are bit-true, tags survive, failures leave nothing behind."""

from __future__ import annotations

import resource
import shutil
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cmfr.utils.errors import UserError
from cmfr.video.info import RGB_COLOR, ColorInfo, Frame, VideoInfo
from cmfr.video.reader import VideoReader, open_video
from cmfr.video.writer import open_writer

Size = tuple[int, int]
DEVTEST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "devtest"
RATE = Fraction(30000, 1001)


def make_info(
    chroma: str = "420", depth: int = 8, size: Size = (48, 32), color: ColorInfo | None = None
) -> VideoInfo:
    color = color or (RGB_COLOR if chroma == "rgb" else ColorInfo("bt601", "limited", 6, 6, 6))
    return VideoInfo(*size, RATE, color, chroma, depth)


def make_frames(info: VideoInfo, count: int = 4) -> list[Frame]:
    """A ramp that moves, under noise."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        planes = []
        for height, width in info.plane_shapes:
            ramp = np.add.outer(np.arange(height), np.arange(width)) * 3 + 5 * number
            noisy = ramp + rng.integers(0, 2 ** (info.bit_depth - 2), ramp.shape)
            planes.append((noisy % 2**info.bit_depth).astype(info.dtype))
        frames.append(Frame((planes[0], planes[1], planes[2])))
    return frames


def write(path: Path, info: VideoInfo, frames: list[Frame], **options: int | str) -> Path:
    with open_writer(path, info, **options) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write(frame)
    return path


def assert_same(got: list[Frame], expected: list[Frame]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        for left, right in zip(a.planes, b.planes, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov", "y4m", "yuv"])
@pytest.mark.parametrize("size", [(48, 32), (47, 33)])
def test_yuv_round_trip(tmp_path: Path, kind: str, chroma: str, depth: int, size: Size) -> None:
    info = make_info(chroma, depth, size)
    if kind not in ("y4m", "yuv") and chroma == "420" and size[0] % 2:
        pytest.skip("H.264 has no odd sizes of 4:2:0")
    frames = make_frames(info)
    name = f"clip_{size[0]}x{size[1]}_29.97_{chroma}_{depth}bit.{kind}"
    with open_video(write(tmp_path / name, info, frames)) as reader:
        assert_same(list(reader), frames)
        assert_same(list(reader), frames)  # again from the start
        found = reader.info
    assert found.frame_count in (None, 4)
    lost = {"yuv": ColorInfo(), "y4m": ColorInfo(range="limited")}
    color = lost.get(kind, info.color)
    assert replace(found, frame_count=None) == replace(info, color=color)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("size", [(48, 32), (47, 33)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "folder"])
def test_rgb_round_trip(tmp_path: Path, name: str, size: Size) -> None:
    info = make_info("rgb", size=size)
    frames = make_frames(info)
    with open_video(write(tmp_path / name, info, frames), frame_rate="30000/1001") as reader:
        assert_same(list(reader), frames)
        assert replace(reader.info, frame_count=None) == info
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_x265(tmp_path: Path) -> None:
    for chroma in ("420", "rgb"):
        info = make_info(chroma)
        frames = make_frames(info)
        path = write(tmp_path / f"{chroma}.mkv", info, frames, codec="libx265")
        with open_video(path) as reader:
            assert_same(list(reader), frames)
            assert reader.info.color == info.color


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize(
    "color",
    [
        ColorInfo("bt709", "limited", 1, 1, 1),
        ColorInfo("bt709", "full", 1, 13, 1),
        ColorInfo("bt601", "limited", 5, 6, 5),
        ColorInfo("bt601", "full", 2, 2, 6),
        ColorInfo("bt2020", "limited", 9, 16, 9),
        ColorInfo("unspecified", "limited"),
        ColorInfo("unspecified", "full"),
        ColorInfo(),
        ColorInfo("unspecified", "limited", 2, 2, 7),
    ],
)
def test_color_tags_survive(tmp_path: Path, kind: str, color: ColorInfo) -> None:
    info = make_info(color=color)
    with open_video(write(tmp_path / f"a.{kind}", info, make_frames(info, 1))) as reader:
        assert reader.info.color == color


@pytest.mark.parametrize("kind", ["mp4", "mkv", "y4m"])
@pytest.mark.parametrize("rate", ["24", "24000/1001", "60000/1001", "120", "25/2"])
def test_frame_rates_survive(tmp_path: Path, kind: str, rate: str) -> None:
    info = replace(make_info(), frame_rate=Fraction(rate))
    with open_video(write(tmp_path / f"a.{kind}", info, make_frames(info, 3))) as reader:
        assert reader.info.frame_rate == Fraction(rate)
    with av.open(str(tmp_path / f"a.{kind}")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(3) / float(Fraction(rate)), atol=6e-4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a_48x32.yuv", "a.y4m", "folder"])
def test_start_and_frames(tmp_path: Path, name: str) -> None:
    info = make_info("rgb" if name == "folder" else "420")
    frames = make_frames(info, 5)
    path = write(tmp_path / name, info, frames)
    reader = open_video(path, start=1, frames=3)
    assert_same(list(reader), frames[1:4])
    assert reader.info.frame_count in (None, 3)
    reader = open_video(path, start=3, frames=9)
    assert_same(list(reader), frames[3:])
    assert reader.info.frame_count in (None, 2)
    with pytest.raises(ValueError, match="no frame 5"):
        list(open_video(path, start=5))
    with pytest.raises(ValueError, match="start"):
        open_video(path, start=-1)
    with pytest.raises(ValueError, match="frames must be"):
        open_video(path, frames=0)


def test_close_ends_an_iteration(tmp_path: Path) -> None:
    info = make_info()
    with open_video(write(tmp_path / "a.mkv", info, make_frames(info))) as reader:
        frames = iter(reader)
        next(frames)
    assert list(frames) == []


def test_the_users_words_override(tmp_path: Path) -> None:
    info = make_info()
    path = write(tmp_path / "a.mkv", info, make_frames(info, 1))
    found = open_video(path, matrix="bt709", range="full", frame_rate=12.5).info
    assert found.color == ColorInfo("bt709", "full", 6, 6, 1)
    assert found.frame_rate == Fraction(25, 2)
    with pytest.raises(ValueError, match="matrix"):
        open_video(path, matrix="bt1")
    with pytest.raises(ValueError, match="for .yuv files"):
        open_video(path, size=(48, 32))


def encode(path: Path, codec: str, picture: av.VideoFrame) -> VideoReader:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height = picture.width, picture.height
        stream.pix_fmt = picture.format.name
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return open_video(path)


@pytest.mark.parametrize(
    ("pix_fmt", "chroma", "depth"),
    [("yuv422p", "444", 8), ("yuv422p10le", "444", 10), ("yuva420p", "420", 8)]
    + [("gray", "444", 8), ("gray10le", "444", 10), ("bgra", "rgb", 8)],
)
def test_other_layouts(tmp_path: Path, pix_fmt: str, chroma: str, depth: int) -> None:
    dtype = np.dtype("u1" if depth == 8 else "<u2")
    picture = av.VideoFrame(48, 32, pix_fmt)
    for plane in picture.planes:
        samples = np.frombuffer(memoryview(plane), dtype)
        samples[:] = np.arange(samples.size) % 2**depth
    luma = np.frombuffer(memoryview(picture.planes[0]), dtype).reshape(32, -1)[:, :48].copy()
    reader = encode(tmp_path / "a.mkv", "ffv1", picture)
    (frame,) = reader
    assert (reader.info.chroma, reader.info.bit_depth) == (chroma, depth)
    if chroma == "rgb":
        assert frame.planes[0][0, :3].tolist() == [2, 6, 10]
    else:
        np.testing.assert_array_equal(frame.planes[0], luma)
    if pix_fmt.startswith("gray"):
        assert (frame.planes[2] == 2 ** (depth - 1)).all()


def test_full_range_jpeg_samples_keep_their_range(tmp_path: Path) -> None:
    picture = av.VideoFrame(48, 32, "yuvj422p")
    for plane, value in zip(picture.planes, (255, 128, 128), strict=True):
        np.frombuffer(memoryview(plane), np.uint8)[:] = value
    reader = encode(tmp_path / "a.mkv", "mjpeg", picture)
    assert reader.info.color.range == "full"
    assert next(iter(reader)).planes[0].min() == 255


def test_png_folders(tmp_path: Path) -> None:
    for number in (10, 9, 8):
        Image.new("L" if number == 9 else "RGBA", (8, 6), number).save(tmp_path / f"x{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    reader = open_video(tmp_path)
    assert reader.info.frame_rate == 30 and reader.info.frame_count == 3
    assert [int(frame.planes[0][0, 0]) for frame in reader] == [8, 9, 10]
    Image.new("RGB", (8, 7)).save(tmp_path / "x11.png")
    with pytest.raises(ValueError, match="x11.png is 8x7"):
        list(open_video(tmp_path))
    Image.new("RGB", (8, 6)).save(tmp_path / "y_11.png")
    with pytest.raises(ValueError, match="two pictures 11"):
        open_video(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no numbered pictures \(\.png\)"):
        open_video(tmp_path / "empty")


def test_raw_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.yuv"
    path.write_bytes(b"\xff" * 1200)
    with pytest.raises(ValueError, match="does not say its size"):
        open_video(path)
    with pytest.raises(ValueError, match=r"a\.yuv has 1200 bytes.* of 216 bytes"):
        open_video(path, size=(12, 12))
    with pytest.raises(ValueError, match="yuv422p"):
        open_video(path, size=(8, 8), pixel_format="yuv422p")
    with pytest.raises(ValueError, match="above 1023"):
        list(open_video(path, size=(10, 20), pixel_format="yuv444p10le", frames=1))


def test_input_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        open_video(tmp_path / "none.mp4")
    for name in ("a.mp4", "b.mkv", "c.y4m", "d.txt"):
        (tmp_path / name).write_bytes(b"this is no video\n" * 50)
        with pytest.raises(ValueError, match=f"{name} is not a video that can be opened"):
            open_video(tmp_path / name)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match="no video stream"):
        open_video(tmp_path / "sound.wav")


def test_size_changes_midway(tmp_path: Path) -> None:
    path = tmp_path / "a.mjpeg"
    with path.open("wb") as file:
        for size in ((48, 32), (48, 32), (64, 48)):
            Image.new("RGB", size).save(file, "JPEG")
    with pytest.raises(ValueError, match="changes from 48x32 .* to 64x48"):
        list(open_video(path))


def test_output_errors(tmp_path: Path) -> None:
    yuv, rgb, odd = make_info(), make_info("rgb"), make_info(size=(47, 32))
    for name, info, words, options in (
        ("a.y4m", rgb, "cannot hold RGB", {}),
        ("a.yuv", rgb, "mkv or a folder", {}),
        ("a.mp4", odd, r"odd size 47x32: write \.y4m", {}),
        ("a.avi", yuv, "not one of", {}),
        ("a.mp4", yuv, "codec 'vp9'", {"codec": "vp9"}),
        ("a.mp4", yuv, "crf", {"crf": 99}),
        ("a.y4m", yuv, "crf and codec", {"crf": 9}),
    ):
        with pytest.raises(ValueError, match=words):
            open_writer(tmp_path / name, info, **options)
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_writer(tmp_path / "none" / "a.mp4", yuv)
    with pytest.raises(ValueError, match="planes of"):
        write(tmp_path / "a.mkv", yuv, make_frames(make_info("444")))
    with pytest.raises(ValueError, match="uint8"):
        write(tmp_path / "a.mkv", make_info("420", 10), make_frames(yuv))
    with pytest.raises(ValueError, match="no frames"):
        write(tmp_path / "a.mkv", yuv, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.y4m", "a.yuv", "folder"])
def test_an_exception_leaves_nothing(tmp_path: Path, name: str) -> None:
    info = make_info("rgb" if name == "folder" else "420")
    with pytest.raises(KeyError), open_writer(tmp_path / name, info) as writer:
        writer.write(make_frames(info, 1)[0])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.y4m", "a.yuv", "folder"])
def test_a_full_disk_is_an_error(tmp_path: Path, name: str, late: bool) -> None:
    """A limit on the size of files stands in for a full disk: write() fails in the same way."""
    info = make_info("rgb" if name == "folder" else "420")
    frames = make_frames(info, 4)
    whole = write(tmp_path / name, info, frames)
    files = sorted(whole.iterdir()) if whole.is_dir() else [whole]
    limit = max(file.stat().st_size for file in files) - 1 if late else 1500
    shutil.rmtree(whole) if whole.is_dir() else whole.unlink()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OSError, match=name):
            write(tmp_path / name, info, frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a:b.mkv", "file:a.mp4", "-a%03d.mkv", "a b'\"#?&.y4m", "ä\n.mov"]
)
def test_names_are_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    info = make_info("420")
    frames = make_frames(info, 2)
    write(Path(name), info, frames)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(open_video(name))) == 2


@pytest.mark.parametrize(("chroma", "depth"), [("420", 8), ("444", 8), ("420", 10), ("444", 10)])
def test_a_cut_y4m_is_an_error(tmp_path: Path, chroma: str, depth: int) -> None:
    info = make_info(chroma, depth, (37, 21))
    path = write(tmp_path / "a.y4m", info, make_frames(info, 3))
    data = path.read_bytes()
    assert len(list(open_video(path))) == 3
    for cut, reason in ((1, "cut off"), (info.frame_bytes + 3, "no frame begins")):
        path.write_bytes(data[:-cut])
        with pytest.raises(UserError, match=f"damaged after 2 frames: .*{reason}"):
            list(open_video(path))
        assert len(list(open_video(path, frames=2))) == 2


def test_crf_is_smaller(tmp_path: Path) -> None:
    for chroma in ("420", "rgb"):
        info = make_info(chroma)
        frames = make_frames(info)
        exact = write(tmp_path / f"exact_{chroma}.mkv", info, frames)
        lossy = write(tmp_path / f"lossy_{chroma}.mkv", info, frames, crf=40)
        assert lossy.stat().st_size < exact.stat().st_size / 2
        assert len(list(open_video(lossy))) == 4


@pytest.mark.skipif(not DEVTEST.is_dir(), reason="the devtest clips are not here")
def test_a_real_clip() -> None:
    with open_video(DEVTEST / "davis_parkour_416x240.mp4") as reader:
        info = reader.info
        assert (info.width, info.height, info.frame_rate, info.frame_count) == (416, 240, 24, 96)
        assert (info.color.matrix, info.color.range) == ("bt601", "limited")
        frames = iter(reader)
        for frame in (next(frames), next(frames)):
            assert [p.shape for p in frame.planes] == [(240, 416), (120, 208), (120, 208)]
            assert 16 < frame.planes[0].mean() < 235
