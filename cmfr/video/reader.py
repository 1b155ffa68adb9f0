"""Videos in: files through FFmpeg (PyAV), raw .yuv files and folders of numbered PNGs.

Frames stream one by one, so memory does not grow with the length of a video. YUV samples are
handed over as they are stored; only layouts that the codec does not know are converted.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import av.sidedata.sidedata
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError

from cmfr.utils.errors import UserError
from cmfr.video.info import (
    RAW_FORMATS,
    RGB_COLOR,
    UNSPECIFIED,
    ColorInfo,
    Frame,
    Rate,
    VideoInfo,
    color_from_codes,
    parse_frame_rate,
    parse_raw_name,
    resolve_color,
    snap_ntsc,
)
from cmfr.video.y4m import check_whole_y4m

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mkv .mov .webm .avi .y4m .yuv .mpg .mpeg .ts .mts .m2ts .wmv .flv .ogv .3gp".split()
)
_COVER = 0x400  # FFmpeg's mark of an attached picture
_ONE = 2**16
# The upper left of a display matrix for 0 to 3 quarter turns to the left.
_TURNS = [(_ONE, 0, 0, _ONE), (0, -_ONE, _ONE, 0), (-_ONE, 0, 0, -_ONE), (0, _ONE, -_ONE, 0)]
DEFAULT_FRAME_RATE = Fraction(30)  # for PNGs and .yuv files, which have nowhere to say theirs
Frames = Generator[Frame, None, None]
Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


class VideoReader:
    """An iterable of Frame; `info` describes them. Each iteration starts at the first frame.

    Iterating raises ValueError for a damaged file, frames that change their size, or when
    there is no frame at the start asked for.
    """

    def __init__(self, path: Path, info: VideoInfo, decode: Callable[[], Frames]) -> None:
        self.path = path
        self.info = info
        self._decode = decode
        self._running: weakref.WeakSet[Frames] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Frame]:
        frames = self._decode()
        self._running.add(frames)
        return frames

    def close(self) -> None:
        """Close the file; iterations that are under way end."""
        for frames in list(self._running):
            frames.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Source:
    """One kind of input: its info over all frames, and a way to read from frame `start` on."""

    info: VideoInfo
    frames_from: Callable[[int], Frames]


def open_video(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    frame_rate: Rate | None = None,
    matrix: str | None = None,
    range: str | None = None,
    start: int = 0,
    frames: int | None = None,
) -> VideoReader:
    """Open a folder of PNGs, a .yuv file, or any file that FFmpeg reads.

    size: (width, height) and pixel_format: one of RAW_FORMATS, for .yuv files whose names do
    not say them, as `NAME_416x240_50.yuv` or `NAME_832x480_30_10bit_444.yuv` do. frame_rate
    (frames per second), matrix and range (see frames.ColorInfo) override what the file says;
    PNGs and .yuv files without a rate are taken as 30 fps. start: frames to skip; frames: how
    many to read at most.

    Raises FileNotFoundError, or ValueError with what is wrong with the file or an argument.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not (path.is_file() or path.is_dir()):  # it is read more than once
        raise UserError(f"{path} is a pipe or a device; a video is read from a file")
    if start < 0:
        raise UserError(f"start must be 0 or more, not {start}")
    if frames is not None and frames < 1:
        raise UserError(f"frames must be 1 or more, not {frames}")
    rate = None if frame_rate is None else parse_frame_rate(frame_rate)
    raw = path.is_file() and path.suffix.lower() == ".yuv"
    if not raw and (size is not None or pixel_format is not None):
        raise UserError(f"size and pixel_format are for .yuv files; {path} says its own")
    if raw:
        source = _raw_source(path, size, pixel_format, rate)
    elif path.is_dir():
        source = _png_source(path, rate)
    else:
        source = _av_source(path, rate)

    count = source.info.frame_count
    if count is not None:
        count = max(count - start, 0) if frames is None else min(max(count - start, 0), frames)
    info = resolve_color(replace(source.info, frame_count=count), matrix, range)

    def decode() -> Frames:
        empty = True
        inner = source.frames_from(start)
        try:
            for frame in islice(inner, frames):
                empty = False
                yield frame
        finally:
            inner.close()
        if empty:
            raise UserError(f"{path} has no frame {start}: it ends before the start asked for")

    return VideoReader(path, info, decode)


# --- folders of PNGs


def _png_source(folder: Path, rate: Fraction | None) -> _Source:
    """PNGs with a number in the name, in the order of the last number; others are left out."""
    numbered: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        digits = re.findall(r"\d+", file.stem)
        if file.suffix.lower() == ".png" and digits:
            number = int(digits[-1])
            if number in numbered:
                other = numbered[number].name
                raise UserError(f"{folder} has two pictures {number}: {other} and {file.name}")
            numbered[number] = file
    if not numbered:
        raise UserError(f"{folder} holds no numbered PNG pictures")
    if gaps := _gaps(sorted(numbered)):
        raise UserError(f"{folder}: the numbered pictures have gaps: {gaps} missing")
    files = [numbered[number] for number in sorted(numbered)]
    height, width = _read_png(files[0]).shape[:2]
    info = VideoInfo(
        width, height, rate or DEFAULT_FRAME_RATE, RGB_COLOR, "rgb", 8, frame_count=len(files)
    )

    def frames_from(start: int) -> Frames:
        for file in files[start:]:
            pixels = _read_png(file)
            if pixels.shape[:2] != (height, width):
                found = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise UserError(f"{file} is {found}, the pictures before are {width}x{height}")
            yield Frame(_rgb_planes(pixels))

    return _Source(info, frames_from)


def _gaps(numbers: list[int]) -> str:
    """Which of rising numbers are missing, "2, 5-7"; any equal step will do."""
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    if not steps or min(steps) == max(steps):
        return ""
    step = min(steps)
    runs = [
        (n + step, n + way - step) for n, way in zip(numbers, steps, strict=False) if way > step
    ]
    told = [f"{first}-{last}" if first < last else f"{first}" for first, last in runs[:8]]
    return ", ".join(told) + (f" and {len(runs) - 8} more runs" if len(runs) > 8 else "")


def _read_png(file: Path) -> np.ndarray:
    """uint8 [H, W, 3]; gray and palettes become RGB, transparency is dropped."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise UserError(f"{file} is not an 8-bit picture (its mode is {image.mode})")
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, DecompressionBombError, OSError, SyntaxError) as error:
        raise UserError(f"{file} is not a picture that can be read: {error}") from error


def _rgb_planes(pixels: np.ndarray) -> Planes:
    """[H, W, 3] to planes."""
    r, g, b = (np.ascontiguousarray(pixels[..., i]) for i in (0, 1, 2))
    return r, g, b


# --- raw .yuv files


def _raw_source(
    path: Path, size: tuple[int, int] | None, pixel_format: str | None, rate: Fraction | None
) -> _Source:
    name = parse_raw_name(path.stem)
    size = size or name.size
    if size is None:
        raise UserError(f"{path} does not say its size: give it, or name the file NAME_WxH.yuv")
    if pixel_format is None:
        tail = "" if name.bit_depth in (None, 8) else f"{name.bit_depth}le"
        pixel_format = f"yuv{name.chroma or '420'}p{tail}"
    if pixel_format not in RAW_FORMATS:
        known = ", ".join(RAW_FORMATS)
        raise UserError(f"{path} cannot be read as {pixel_format}, only as one of {known}")
    if rate is None:
        rate = parse_frame_rate(name.rate) if name.rate else DEFAULT_FRAME_RATE
    info = VideoInfo(*size, rate, ColorInfo(), *RAW_FORMATS[pixel_format])
    total = path.stat().st_size
    if total == 0 or total % info.frame_bytes:
        raise UserError(
            f"{path} has {total} bytes, which is no whole number of {size[0]}x{size[1]} "
            f"{pixel_format} frames of {info.frame_bytes} bytes"
        )
    info = replace(info, frame_count=total // info.frame_bytes)

    def frames_from(start: int) -> Frames:
        with path.open("rb") as file:
            file.seek(start * info.frame_bytes)
            while len(data := file.read(info.frame_bytes)) == info.frame_bytes:
                yield _raw_frame(data, info, path)

    return _Source(info, frames_from)


def _raw_frame(data: bytes, info: VideoInfo, path: Path) -> Frame:
    samples = np.frombuffer(data, info.dtype)
    if info.bit_depth == 10 and int(samples.max()) > 1023:
        raise UserError(f"{path} holds samples above 1023, so it is not 10-bit video")
    sizes = [h * w for h, w in info.plane_shapes]
    parts = np.split(samples, np.cumsum(sizes)[:-1])
    y, u, v = (part.reshape(s) for part, s in zip(parts, info.plane_shapes, strict=True))
    return Frame((y, u, v))


# --- everything else, through FFmpeg


def _av_source(path: Path, rate: Fraction | None) -> _Source:
    """Probe the file; frames_from opens it anew, so that a reader can be iterated again."""
    try:
        # "file:", or FFmpeg takes what is before a colon for a protocol.
        with av.open(f"file:{path}") as container:
            if container.format.name == "tty":  # FFmpeg takes any text for a terminal's picture
                raise UserError(f"{path} is not a video that can be opened: it is a text")
            stream = _video_stream(container, path)
            info = _stream_info(path, stream, rate)
            y4m = container.format.name == "yuv4mpegpipe"
            pixels = stream.codec_context.format
            turns = 0 if y4m else _quarter_turns(container, stream, path)
            if turns % 2:
                info = replace(info, width=info.height, height=info.width)
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a video that can be opened: {reason}") from error

    def frames_from(start: int) -> Frames:
        count = 0
        try:
            with av.open(f"file:{path}") as container:
                stream = _video_stream(container, path)
                stream.thread_type = "AUTO"
                for picture in islice(container.decode(stream), start, None):
                    if picture.is_corrupt:  # FFmpeg fills in what is lost, and goes on
                        raise UserError(f"{path} is damaged: frame {start + count} is incomplete")
                    yield _av_frame(picture, info, path, turns)
                    count += 1
            if y4m and pixels:  # FFmpeg says nothing
                check_whole_y4m(path, pixels)
        except av.error.FFmpegError as error:
            where = f"after {start + count} frames"
            raise UserError(f"{path} is damaged {where}: {error.strerror}") from error

    return _Source(info, frames_from)


def _video_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    """The first that is no picture on the cover of a song."""
    for stream in container.streams.video:
        if not int(getattr(stream, "disposition", 0)) & _COVER:
            return stream
    raise UserError(f"{path} has no video stream")


def _quarter_turns(container: av.container.InputContainer, stream: VideoStream, path: Path) -> int:
    """How often the pictures are to be turned to the left by 90 degrees, as the file says; frames
    carry it. Raises UserError where they are to be mirrored, or turned otherwise."""
    try:
        picture: Any = next(container.decode(stream), None)
    except av.error.FFmpegError:  # whoever reads the frames hears of it
        return 0
    said = picture.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX) if picture else None
    if said is None:
        return 0
    a, b, _, c, d = np.frombuffer(bytes(said), np.int32)[:5].tolist()
    if (turn := (a, b, c, d)) not in _TURNS:
        raise UserError(
            f"{path} says that its pictures are to be mirrored, scaled or turned by no multiple of "
            "90 degrees; convert it first"
        )
    return _TURNS.index(turn)


def _stream_info(path: Path, stream: VideoStream, rate: Fraction | None) -> VideoInfo:
    context = stream.codec_context
    if context.pix_fmt is None or not context.width or not context.height:
        raise UserError(f"{path} is not a video that can be opened: its pictures are unknown")
    if rate is None:
        said = stream.average_rate or stream.guessed_rate
        if not said:
            raise UserError(f"{path} does not say its frame rate: give it")
        rate = snap_ntsc(said, 2e-7)  # Matroska's come back rounded, 60000/1001 as 19001/317
    _, chroma, depth = _layout(context.pix_fmt)
    color = _stream_color(context, chroma)
    count = stream.frames or None
    return VideoInfo(context.width, context.height, rate, color, chroma, depth, count)


def _stream_color(context: av.video.codeccontext.VideoCodecContext, chroma: str) -> ColorInfo:
    color = color_from_codes(
        int(context.colorspace),
        int(context.color_range),
        int(context.color_primaries),
        int(context.color_trc),
    )
    if (context.pix_fmt or "").startswith("yuvj"):
        color = replace(color, range="full")
    if chroma == "rgb":  # RGB is full range unless a stream says otherwise
        range = "full" if color.range == UNSPECIFIED else color.range
        return replace(color, matrix="rgb", matrix_code=0, range=range)
    if color.matrix == "rgb":  # a contradiction, of YUV samples: nothing is known then
        return replace(color, matrix=UNSPECIFIED, matrix_code=2)
    return color


def _layout(pix_fmt: str) -> tuple[str, str, int]:
    """(FFmpeg format that frames are converted to, chroma, bit depth) for a stream's format."""
    plain = re.sub(r"^yuv[ja]", "yuv", pix_fmt)  # full range is a tag; alpha is a 4th plane
    if plain in RAW_FORMATS:
        return (pix_fmt, *RAW_FORMATS[plain])
    pixel = av.VideoFormat(pix_fmt, 4, 4)
    if pixel.is_rgb or pixel.has_palette:
        return "rgb24", "rgb", 8
    luma, *others = pixel.components
    depth, tail = (10, "10le") if luma.bits > 8 else (8, "")
    if len(others) < 2:
        return f"gray{tail}", "444", depth
    # Other subsamplings than 4:2:0 (4:2:2, 4:1:1, 4:4:0) keep all samples in 4:4:4.
    chroma = "420" if (others[0].width, others[0].height) == (2, 2) else "444"
    return f"yuv{chroma}p{tail}", chroma, depth


def _av_frame(picture: av.VideoFrame, info: VideoInfo, path: Path, turns: int) -> Frame:
    """turns: to the left, by 90 degrees, after which it is to be of `info`."""
    target, chroma, depth = _layout(picture.format.name)
    size = (info.width, info.height)[:: -1 if turns % 2 else 1]
    found = (picture.width, picture.height, chroma, depth)
    if found != (*size, info.chroma, info.bit_depth):
        raise UserError(
            f"{path} changes from {size[0]}x{size[1]} {info.chroma} {info.bit_depth} bit "
            f"to {found[0]}x{found[1]} {chroma} {depth} bit midway"
        )
    planes = _av_planes(picture, target, info)
    y, u, v = (np.ascontiguousarray(np.rot90(plane, turns)) for plane in planes)
    return Frame((y, u, v))


def _av_planes(picture: av.VideoFrame, target: str, info: VideoInfo) -> Planes:
    """As they are stored, but for layouts that are converted to the format `target`."""
    if picture.format.name != target:  # equal ranges, so that swscale only moves samples
        picture = picture.reformat(format=target, src_color_range=2, dst_color_range=2)
    if info.chroma == "rgb":
        return _rgb_planes(picture.to_ndarray())
    luma = _av_plane(picture, 0, info)
    if target.startswith("gray"):
        neutral = np.full_like(luma, 2 ** (info.bit_depth - 1))
        return luma, neutral, neutral
    return luma, _av_plane(picture, 1, info), _av_plane(picture, 2, info)


def _av_plane(picture: av.VideoFrame, index: int, info: VideoInfo) -> np.ndarray:
    """A copy of a plane without the padding at the end of its lines."""
    plane = picture.planes[index]
    samples = np.frombuffer(memoryview(plane), info.dtype)
    lines = samples.reshape(-1, plane.line_size // info.dtype.itemsize)
    return lines[: plane.height, : plane.width].copy()
