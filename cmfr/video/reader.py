"""Videos in: files through FFmpeg (PyAV), raw .yuv files and folders of numbered PNGs.

Frames stream one by one, so memory does not grow with the length of a video. YUV samples are
handed over as they are stored; only layouts that the codec does not know are converted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from cmfr.utils.errors import UserError
from cmfr.video.containers import Frames, Source, av_source, rgb_planes
from cmfr.video.info import (
    RAW_FORMATS,
    RGB_COLOR,
    ColorInfo,
    Frame,
    Rate,
    VideoInfo,
    parse_frame_rate,
    parse_raw_name,
    resolve_color,
)
from cmfr.video.pictures import numbered_pictures, read_picture

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mkv .mov .webm .avi .y4m .yuv .mpg .mpeg .ts .mts .m2ts .wmv .flv .ogv .3gp".split()
)
DEFAULT_FRAME_RATE = Fraction(30)  # for PNGs and .yuv files, which have nowhere to say theirs


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

    size: (width, height), for .yuv files whose names do not say it, as `NAME_416x240_50.yuv` or
    `NAME_832x480_30_10bit_444.yuv` do.
    pixel_format: one of RAW_FORMATS, for the same files.
    frame_rate: frames per second, overrides what the file says; PNGs and .yuv files without a rate
    are taken as 30 fps.
    matrix, range: override what the file says, see frames.ColorInfo.
    start: frames to skip.
    frames: how many to read at most.

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
        source = av_source(path, rate)

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


def _png_source(folder: Path, rate: Fraction | None) -> Source:
    files = numbered_pictures(folder, (".png",))
    height, width = read_picture(files[0]).shape[:2]
    info = VideoInfo(
        width, height, rate or DEFAULT_FRAME_RATE, RGB_COLOR, "rgb", 8, frame_count=len(files)
    )

    def frames_from(start: int) -> Frames:
        for file in files[start:]:
            pixels = read_picture(file)
            if pixels.shape[:2] != (height, width):
                found = f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise UserError(f"{file} is {found}, the pictures before are {width}x{height}")
            yield Frame(rgb_planes(pixels))

    return Source(info, frames_from)


# --- raw .yuv files


def _raw_source(
    path: Path, size: tuple[int, int] | None, pixel_format: str | None, rate: Fraction | None
) -> Source:
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

    return Source(info, frames_from)


def _raw_frame(data: bytes, info: VideoInfo, path: Path) -> Frame:
    samples = np.frombuffer(data, info.dtype)
    if info.bit_depth == 10 and int(samples.max()) > 1023:
        raise UserError(f"{path} holds samples above 1023, so it is not 10-bit video")
    sizes = [h * w for h, w in info.plane_shapes]
    parts = np.split(samples, np.cumsum(sizes)[:-1])
    y, u, v = (part.reshape(s) for part, s in zip(parts, info.plane_shapes, strict=True))
    return Frame((y, u, v))
