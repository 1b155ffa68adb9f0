"""Video files through FFmpeg (PyAV): which stream, what it says of itself, its pictures as planes.

YUV samples are handed over as they are stored; only layouts that the codec does not know are
converted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error
import av.sidedata.sidedata
import numpy as np
from av.video.stream import VideoStream

from cmfr.utils.errors import UserError
from cmfr.video.info import (
    RAW_FORMATS,
    UNSPECIFIED,
    ColorInfo,
    Frame,
    VideoInfo,
    color_from_codes,
    snap_ntsc,
)
from cmfr.video.y4m import check_whole_y4m

Frames = Generator[Frame, None, None]
Planes = tuple[np.ndarray, np.ndarray, np.ndarray]

_COVER = 0x400  # FFmpeg's mark of an attached picture
_ONE = 2**16
# The upper left of a display matrix for 0 to 3 quarter turns to the left.
_TURNS = [(_ONE, 0, 0, _ONE), (0, -_ONE, _ONE, 0), (-_ONE, 0, 0, -_ONE), (0, _ONE, -_ONE, 0)]


@dataclass(frozen=True)
class Source:
    """One kind of input: its info over all frames, and a way to read from frame `start` on."""

    info: VideoInfo
    frames_from: Callable[[int], Frames]


def rgb_planes(pixels: np.ndarray) -> Planes:
    """[H, W, 3] to planes."""
    r, g, b = (np.ascontiguousarray(pixels[..., i]) for i in (0, 1, 2))
    return r, g, b


def av_source(path: Path, rate: Fraction | None) -> Source:
    """Of a file that FFmpeg opens: `info` is told by a first look, `frames_from` opens it anew."""
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
                # Not by frames: FFmpeg then loses frames that cannot be decoded without a word.
                stream.thread_type = "SLICE"
                for picture in islice(container.decode(stream), start, None):
                    if picture.is_corrupt:  # FFmpeg fills in what is lost, and goes on
                        raise UserError(f"{path} is damaged: frame {start + count} is incomplete")
                    yield _av_frame(picture, info, path, turns)
                    count += 1
                if _ends_before_its_index(stream, path):
                    raise UserError(
                        f"{path} is damaged after {start + count} frames: it is cut off"
                    )
            if y4m and pixels:  # FFmpeg says nothing
                check_whole_y4m(path, pixels)
        except av.error.FFmpegError as error:
            where = f"after {start + count} frames"
            raise UserError(f"{path} is damaged {where}: {error.strerror}") from error

    return Source(info, frames_from)


def count_shown(path: Path) -> int:
    """Frames of a video file that a reader gives, without decoding them. What an edit list leaves
    out of a cut .mp4 is there, but not shown. Raises UserError."""
    try:
        with av.open(f"file:{path}") as container:
            packets = container.demux(_video_stream(container, path))
            return sum(packet.size > 0 and not packet.is_discard for packet in packets)
    except av.error.FFmpegError as error:
        raise UserError(f"{path} is damaged: {error.strerror}") from error


def _video_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    """The first that is no picture on the cover of a song."""
    for stream in container.streams.video:
        if not int(getattr(stream, "disposition", 0)) & _COVER:
            return stream
    raise UserError(f"{path} has no video stream")


def _ends_before_its_index(stream: VideoStream, path: Path) -> bool:
    """Whether the index of an .mp4 names bytes behind the end of the file. FFmpeg takes a file that
    is cut between two frames for a whole one."""
    size = path.stat().st_size
    return "mp4" in stream.container.format.name and any(
        entry.pos + entry.size > size for entry in stream.index_entries
    )


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
    return VideoInfo(
        context.width, context.height, rate, color, chroma, depth, _frame_count(stream)
    )


def _frame_count(stream: VideoStream) -> int | None:
    """Frames as the headers say, less what an edit list leaves out of a cut .mp4."""
    if not stream.frames or "mp4" not in stream.container.format.name:
        return stream.frames or None
    return sum(not entry.is_discard for entry in stream.index_entries) or None


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
        return rgb_planes(picture.to_ndarray())
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
