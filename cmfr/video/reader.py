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

import av
import av.error
import numpy as np
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
DEFAULT_FRAME_RATE = Fraction(30)  # for PNGs and .yuv files, which have nowhere to say theirs
Frames = Generator[Frame, None, None]


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
            yield _rgb_frame(pixels)

    return _Source(info, frames_from)


def _read_png(file: Path) -> np.ndarray:
    """uint8 [H, W, 3]; gray and palettes become RGB, transparency is dropped."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise UserError(f"{file} is not an 8-bit picture (its mode is {image.mode})")
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, DecompressionBombError, OSError, SyntaxError) as error:
        raise UserError(f"{file} is not a picture that can be read: {error}") from error


def _rgb_frame(pixels: np.ndarray) -> Frame:
    """[H, W, 3] to planes."""
    r, g, b = (np.ascontiguousarray(pixels[..., i]) for i in (0, 1, 2))
    return Frame((r, g, b))


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
            if not container.streams.video:
                raise UserError(f"{path} has no video stream")
            info = _stream_info(path, container.streams.video[0], rate)
            y4m = container.format.name == "yuv4mpegpipe"
            pixels = container.streams.video[0].codec_context.format
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is not a video that can be opened: {reason}") from error

    def frames_from(start: int) -> Frames:
        count = 0
        try:
            with av.open(f"file:{path}") as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for picture in islice(container.decode(stream), start, None):
                    yield _av_frame(picture, info, path)
                    count += 1
            if y4m and pixels:  # FFmpeg says nothing
                check_whole_y4m(path, pixels)
        except av.error.FFmpegError as error:
            where = f"after {start + count} frames"
            raise UserError(f"{path} is damaged {where}: {error.strerror}") from error

    return _Source(info, frames_from)


def _stream_info(
    path: Path, stream: av.video.stream.VideoStream, rate: Fraction | None
) -> VideoInfo:
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
    plain = {"nv12": "yuv420p", "p010le": "yuv420p10le"}.get(plain, plain)
    if plain in RAW_FORMATS:
        return (pix_fmt if pix_fmt.startswith("yuv") else plain, *RAW_FORMATS[plain])
    pixel = av.VideoFormat(pix_fmt)
    if pixel.is_rgb or pixel.has_palette:
        return "rgb24", "rgb", 8
    deep = pixel.components[0].bits > 8
    if len(pixel.components) < 3:
        return ("gray10le" if deep else "gray"), "444", 10 if deep else 8
    return ("yuv444p10le" if deep else "yuv444p"), "444", 10 if deep else 8


def _av_frame(picture: av.VideoFrame, info: VideoInfo, path: Path) -> Frame:
    target, chroma, depth = _layout(picture.format.name)
    found = (picture.width, picture.height, chroma, depth)
    if found != (info.width, info.height, info.chroma, info.bit_depth):
        raise UserError(
            f"{path} changes from {info.width}x{info.height} {info.chroma} {info.bit_depth} bit "
            f"to {found[0]}x{found[1]} {chroma} {depth} bit midway"
        )
    if picture.format.name != target:  # equal ranges, so that swscale only moves samples
        picture = picture.reformat(format=target, src_color_range=2, dst_color_range=2)
    if chroma == "rgb":
        return _rgb_frame(picture.to_ndarray())
    luma = _av_plane(picture, 0, info)
    if target.startswith("gray"):
        neutral = np.full_like(luma, 2 ** (depth - 1))
        return Frame((luma, neutral, neutral))
    return Frame((luma, _av_plane(picture, 1, info), _av_plane(picture, 2, info)))


def _av_plane(picture: av.VideoFrame, index: int, info: VideoInfo) -> np.ndarray:
    """A copy of a plane without the padding at the end of its lines."""
    plane = picture.planes[index]
    height, width = info.plane_shapes[index]
    samples = np.frombuffer(memoryview(plane), info.dtype)
    return samples.reshape(-1, plane.line_size // info.dtype.itemsize)[:height, :width].copy()
