"""Videos out: lossless (or CRF) x264 in mp4/mkv/mov, .y4m, .yuv and folders of numbered PNGs.

Everything is written under a temporary name next to the target, which appears only when it
is complete (utils/files.py). Devices and pipes take .y4m and .yuv, as they come.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from PIL import Image
from torch import Tensor

from cmfr.utils.errors import UserError
from cmfr.utils.files import Part, is_stream
from cmfr.video.color import planes_to_tensor, tensor_to_planes
from cmfr.video.info import (
    MATRIX_CODES,
    RANGE_CODES,
    RGB_COLOR,
    ColorInfo,
    Frame,
    VideoInfo,
    check_frame,
    matrix_code,
    require_known_color,
)
from cmfr.video.y4m import FRAME_HEAD, y4m_header

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
_LOSSLESS = {
    "libx264": {"qp": "0", "preset": "veryfast"},
    "libx265": {"x265-params": "lossless=1:log-level=error", "preset": "veryfast"},
}


class VideoWriter:
    """Writes frames to a temporary, which becomes `path` on close; or into a device or pipe.

    As a context manager it closes at the end of the block, or removes the temporary if the
    block raises. write and close raise ValueError for a frame that does not fit or a video
    without frames, OSError (with the path) if the disk does not take the data; either way
    nothing is left behind.
    """

    def __init__(self, path: Path, info: VideoInfo, part: Part, sink: _Sink) -> None:
        self.path = path
        self.info = info
        self.frames_written = 0
        self._part = part
        self._sink: _Sink | None = sink

    def write(self, frame: Frame) -> None:
        """Append a frame with the planes that `info` says."""
        assert self._sink is not None, "the writer is closed"
        with _undone_on_error(self.path, self.abort):
            check_frame(frame, self.info)
            self._sink.write(frame, self.frames_written)
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file and give it its name; later calls do nothing."""
        if self._sink is None:
            return
        with _undone_on_error(self.path, self.abort):
            if self.frames_written == 0:
                raise UserError(f"no frames came for {self.path}, so it is not written")
            self._sink.finish()
            self._part.commit()
        self._sink = None

    def abort(self) -> None:
        """Drop what has been written; later calls do nothing."""
        if self._sink is None:
            return
        self._sink.discard()
        self._sink = None
        self._part.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def lossless_suffix(info: VideoInfo) -> str:
    """Extension of a file that holds `info` bit-true: .y4m takes odd sizes, .mkv takes RGB."""
    return ".mkv" if info.chroma == "rgb" else ".y4m"


def open_writer(
    path: str | Path, info: VideoInfo, *, crf: int | None = None, codec: str | None = None
) -> VideoWriter:
    """A writer for .mp4, .mkv, .mov, .y4m, .yuv, or a folder of PNGs (no extension, or a "/").

    The three containers hold lossless H.264 unless `crf` (0..51) is given; codec "libx265"
    writes H.265 instead of "libx264". PNGs are 8-bit RGB, which YUV frames are converted to.
    Color tags are kept but for these: H.264 and H.265 read back as limited if the range is
    unspecified and something else is known; .y4m keeps only the range, .yuv nothing.

    Raises ValueError for a target that cannot hold this video (RGB in .yuv or .y4m, odd sizes
    of 4:2:0 in H.264, a folder that is not empty, unknown color for PNGs, an unknown
    extension, a pipe for anything but .y4m and .yuv), FileNotFoundError if the parent folder
    does not exist, OSError if the temporary cannot be made.
    """
    folder = str(path).endswith(("/", os.sep))
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")
    extension = path.suffix.lower()
    if is_stream(path) and extension not in (".y4m", ".yuv"):
        raise UserError(f"{path} is a pipe or a device: only one called .y4m or .yuv takes a video")
    folder = folder or path.is_dir() or not extension
    if (crf is not None or codec is not None) and (folder or extension not in CONTAINERS):
        raise UserError(f"crf and codec are for {', '.join(CONTAINERS)}; {path} is none of them")
    if folder:
        make = _png_maker(path, info)
    elif extension in CONTAINERS:
        make = _container_maker(path, info, crf, codec or "libx264")
    elif extension in (".y4m", ".yuv"):
        make = _raw_maker(path, info, extension)
    else:
        known = ", ".join([*CONTAINERS, ".y4m", ".yuv"])
        raise UserError(f"{path} is not one of {known} or a folder for PNGs")
    part = Part(path, folder=folder)
    with _undone_on_error(path, part.discard):
        return VideoWriter(path, info, part, make(part.temporary))
    raise AssertionError("the block above returns or raises")


@contextmanager
def _undone_on_error(path: Path, undo: Callable[[], None]) -> Iterator[None]:
    """On any error call `undo`; failures of the system or FFmpeg then name `path` as OSError."""
    try:
        yield
    except BaseException as error:
        undo()
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if isinstance(error, (OSError, av.error.FFmpegError)):
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"{path} cannot be written: {reason}") from error
        raise


class _Sink(ABC):
    """Where one kind of output goes; made on the temporary's path."""

    @abstractmethod
    def write(self, frame: Frame, number: int) -> None:
        """Take frame `number`, counted from 0."""

    @abstractmethod
    def finish(self) -> None:
        """Write all that is pending and close; an error must surface here."""

    @abstractmethod
    def discard(self) -> None:
        """Close without raising."""


_Maker = Callable[[Path], _Sink]  # from the temporary's path


# --- folders of PNGs


def _png_maker(path: Path, info: VideoInfo) -> _Maker:
    require_known_color(info)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder for PNGs")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"the folder {path} is not empty")
    return lambda temporary: _PngSink(temporary, info)


class _PngSink(_Sink):
    def __init__(self, temporary: Path, info: VideoInfo) -> None:
        self.folder = temporary
        self.info = info
        self.rgb_info = replace(info, chroma="rgb", bit_depth=8, color=RGB_COLOR)

    def write(self, frame: Frame, number: int) -> None:
        if self.info.chroma != "rgb":
            x = planes_to_tensor(frame, self.info, "rgb")
            frame = tensor_to_planes(x, self.rgb_info, "rgb")
        pixels = np.stack(frame.planes, axis=-1)
        Image.fromarray(pixels).save(self.folder / f"im{number + 1:05d}.png", compress_level=3)

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass


# --- .yuv and .y4m


def _raw_maker(path: Path, info: VideoInfo, extension: str) -> _Maker:
    if info.chroma == "rgb":
        raise UserError(f"{path} cannot hold RGB: write an .mkv or a folder of PNGs")
    if extension == ".yuv":
        return lambda temporary: _RawSink(temporary)
    return lambda temporary: _RawSink(temporary, y4m_header(info), FRAME_HEAD)


class _RawSink(_Sink):
    """Planes one after the other, with a header for the file and one for each frame."""

    def __init__(self, temporary: Path, header: bytes = b"", frame_header: bytes = b"") -> None:
        self.file = temporary.open("wb")
        self.frame_header = frame_header
        self.file.write(header)

    def write(self, frame: Frame, number: int) -> None:
        self.file.write(self.frame_header)
        for plane in frame.planes:
            self.file.write(plane.tobytes())

    def finish(self) -> None:
        self.file.close()

    def discard(self) -> None:
        try:
            self.file.close()
        except OSError:  # what is still buffered does not fit on the disk either
            pass


# --- containers


def _container_maker(path: Path, info: VideoInfo, crf: int | None, codec: str) -> _Maker:
    if codec not in _LOSSLESS:
        raise UserError(f"codec {codec!r} is not one of {', '.join(_LOSSLESS)}")
    if crf is not None and not 0 <= crf <= 51:
        raise UserError(f"crf must be in 0..51, not {crf}")
    if info.chroma == "420" and (info.width % 2 or info.height % 2):
        raise UserError(
            f"{path} cannot hold 4:2:0 video of the odd size {info.width}x{info.height}: "
            "write .y4m, .yuv or a folder of PNGs"
        )
    if max(info.frame_rate.numerator, info.frame_rate.denominator) >= 2**31:
        raise UserError(f"{path} cannot hold {info.frame_rate} frames per second: write .y4m")
    options = dict(_LOSSLESS[codec])
    if crf is not None:
        options = {"crf": str(crf), "preset": "medium"}
        if codec == "libx265":
            options["x265-params"] = "log-level=error"
    elif codec == "libx264" and info.color.range == "limited":
        # x264 leaves "limited" out of the stream unless something else of its group is known
        options["x264-params"] = "videoformat=component"
    return lambda temporary: _ContainerSink(temporary, info, codec, options)


class _ContainerSink(_Sink):
    def __init__(
        self, temporary: Path, info: VideoInfo, codec: str, options: dict[str, str]
    ) -> None:
        self.info = info
        rgb = info.chroma == "rgb"
        deep = "10le" if info.bit_depth == 10 else ""
        rgb_format = "rgb24" if codec == "libx264" else "gbrp"
        self.pix_fmt = rgb_format if rgb else f"yuv{info.chroma}p{deep}"
        encoder = "libx264rgb" if rgb and codec == "libx264" else codec
        format = CONTAINERS[temporary.suffix.lower()]
        # "file:", or FFmpeg takes what is before a colon for a protocol.
        self.container = av.open(f"file:{temporary}", "w", format=format)
        try:
            self.stream: Any = self.container.add_stream(
                encoder, rate=info.frame_rate, options=options
            )
            self._describe(self.stream.codec_context)
        except BaseException:
            self.discard()
            raise

    def _describe(self, context: Any) -> None:
        color = self.info.color
        context.width, context.height = self.info.width, self.info.height
        context.pix_fmt = self.pix_fmt
        context.time_base = self.stream.time_base = 1 / self.info.frame_rate
        self.tags = {
            "colorspace": matrix_code(color),
            "color_range": RANGE_CODES[color.range],
            "color_primaries": color.primaries,
            "color_trc": color.transfer,
        }
        for name, value in self.tags.items():
            setattr(context, name, value)

    def write(self, frame: Frame, number: int) -> None:
        picture = av_picture(frame, self.pix_fmt)
        picture.pts = number
        picture.time_base = 1 / self.info.frame_rate
        for name, value in self.tags.items():  # the encoder must see no difference to convert
            setattr(picture, name, value)
        self.container.mux(self.stream.encode(picture))

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def discard(self) -> None:
        try:
            self.container.close()
        except (OSError, ValueError, av.error.FFmpegError):  # the trailer may find no place
            pass


def av_picture(frame: Frame, pixels: str) -> av.VideoFrame:
    """FFmpeg's picture of a frame. Without time and colors.

    pixels: its format, of the frame's layout.
    """
    if pixels == "rgb24":
        return av.VideoFrame.from_ndarray(np.stack(frame.planes, axis=-1), format=pixels)
    height, width = frame.planes[0].shape
    picture = av.VideoFrame(width, height, pixels)
    order = (1, 2, 0) if pixels == "gbrp" else (0, 1, 2)
    for plane, index in zip(picture.planes, order, strict=True):
        samples = frame.planes[index]
        height, width = samples.shape
        lines = np.frombuffer(memoryview(plane), samples.dtype)
        lines = lines.reshape(-1, plane.line_size // samples.itemsize)
        lines[:height, :width] = samples
    return picture


def write_clip(path: Path, pictures: Sequence[Tensor] | Tensor, frame_rate: int = 25) -> None:
    """RGB pictures [3, H, W] in [0, 1] as an 8-bit 4:2:0 .y4m (BT.709, full range)."""
    height, width = pictures[0].shape[1:]
    color = ColorInfo("bt709", "full", matrix_code=MATRIX_CODES["bt709"])
    info = VideoInfo(width, height, Fraction(frame_rate), color, "420", 8)
    with open_writer(path, info) as writer:
        for picture in pictures:
            writer.write(tensor_to_planes(picture[None], info, "rgb"))
