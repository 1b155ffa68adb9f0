"""Anchors: x264, x265, SVT-AV1 and VP9 in a low-delay configuration, measured like our own codec.

The encoders are those in PyAV's FFmpeg. A sequence is coded to a raw stream, whose packets count
the bits and which is then decoded and compared with the source frame by frame, so memory does not
grow with its length. One thread codes unless more are asked for: with several, x264 cuts frames
into slices, which costs rate. Bits are those that a decoder needs: the text that x264 and x265 put
into a stream about their settings (some 0.7 and 2 kB) is left out.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from cmfr.evaluation.anchors.base import (
    Code,
    Source,
    check_rates,
    code_all,
    compare_videos,
    conditions_met,
    require_420,
)
from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.records import FrameResult, Record, Times
from cmfr.utils.errors import UserError
from cmfr.video.info import RANGE_CODES, Frame, VideoInfo, matrix_code
from cmfr.video.reader import VideoReader, open_video
from cmfr.video.writer import av_picture

_SPEEDS = tuple("ultrafast superfast veryfast faster fast medium slow slower veryslow".split())
_NEVER = 2**30  # an intra period that no video reaches


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg.

    library: its name there.
    format: of its raw stream.
    presets: the first is the default.
    highest: CRF or QP.
    filter: of FFmpeg, for its packets.
    """

    library: str
    format: str
    presets: tuple[str, ...]
    highest: int
    filter: str = ""


ENCODERS = {
    "x264": Encoder("libx264", "h264", ("medium", *_SPEEDS), 51, "filter_units=remove_types=6"),
    "x265": Encoder("libx265", "hevc", ("medium", *_SPEEDS), 51),
    "svt-av1": Encoder("libsvtav1", "ivf", ("6", *map(str, range(14))), 63),
    "vp9": Encoder("libvpx-vp9", "ivf", ("1", *map(str, range(9))), 63),
}


@dataclass(frozen=True)
class Settings:
    """How to code. Raises UserError.

    rates: CRFs or QPs, by `mode` ("crf", "qp").
    preset: None: the first of the encoder.
    conditions: as asked for; frames None: all that the source has.
    """

    codec: str
    rates: tuple[float, ...]
    preset: str | None = None
    mode: str = "crf"
    conditions: CodingConditions = CodingConditions.asked()
    threads: int = 1

    def __post_init__(self) -> None:
        check_rates(self.rates)
        if self.codec not in ENCODERS:
            raise UserError(f"codec {self.codec!r} is not one of {', '.join(ENCODERS)}")
        if self.mode not in ("crf", "qp"):
            raise UserError(f"mode {self.mode!r} is neither crf nor qp")
        encoder = ENCODERS[self.codec]
        if self.preset is None:
            object.__setattr__(self, "preset", encoder.presets[0])
        if self.preset not in encoder.presets:
            known = ", ".join(encoder.presets[1:])
            raise UserError(f"preset {self.preset!r} of {self.codec} is not one of {known}")
        fractions = self.mode == "crf" and self.codec in ("x264", "x265")
        if not fractions and any(rate % 1 for rate in self.rates):
            raise UserError(f"the {self.mode.upper()}s of {self.codec} are whole numbers")
        if max(self.rates) > encoder.highest:
            raise UserError(
                f"{self.mode} {max(self.rates):g} is above {encoder.highest}, the highest of "
                f"{self.codec}"
            )

    @property
    def name(self) -> str:
        """Of the codec in results: "x264-medium", "x264-medium-qp"."""
        return f"{self.codec}-{self.preset}" + ("-qp" if self.mode == "qp" else "")

    def options(self, rate: float) -> dict[str, str]:
        """FFmpeg's options for one rate."""
        value, preset = f"{rate:g}", str(self.preset)
        intra_period = self.conditions.intra_period
        keyint = "infinite" if intra_period == -1 else str(intra_period)
        last = "1" if intra_period == 1 else keyint.replace("infinite", "9999")
        if self.codec == "x264":
            parameters = f"keyint={keyint}:min-keyint={last}:scenecut=0:bframes=0"
            options = {"preset": preset, "tune": "zerolatency", "x264-params": parameters}
            return {**options, self.mode: value}
        if self.codec == "x265":
            keyint = keyint.replace("infinite", "-1")
            parameters = (
                f"keyint={keyint}:min-keyint={last}:scenecut=0:bframes=0:frame-threads=1:info=0"
                f":pools={self.threads}:log-level=error:{self.mode}={value}"
            )
            # At a constant QP its weighted prediction comes out differently from run to run.
            parameters += ":weightp=0" if self.mode == "qp" else ""
            return {"preset": preset, "tune": "zerolatency", "x265-params": parameters}
        if self.codec == "svt-av1":
            keyint = keyint.replace("infinite", "-1")
            fixed = ":aq-mode=0" if self.mode == "qp" else ""
            parameters = f"pred-struct=1:keyint={keyint}:scd=0:lp={self.threads}{fixed}"
            return {"preset": preset, self.mode: value, "svtav1-params": parameters}
        period = str(_NEVER if intra_period == -1 else intra_period)
        options = {
            "deadline": "good",
            "cpu-used": preset,
            "lag-in-frames": "0",
            "auto-alt-ref": "0",
            "row-mt": "0",
            "b": "0",
            "crf": value,
            "g": period,
            "keyint_min": period,
        }
        return {**options, "qmin": value, "qmax": value} if self.mode == "qp" else options


# --- coding


def run(sources: Sequence[Source], settings: Settings, output: Path) -> list[Record]:
    """Code all sequences at all rates: see base.code_all."""

    @contextmanager
    def coder(source: Source) -> Iterator[Code]:
        yield lambda rate, index: code(source, settings, rate, index)

    return code_all(sources, settings, output, coder, __name__)


def code(source: Source, settings: Settings, rate: float, rate_index: int) -> Record:
    """Code one sequence at one rate, decode what was written, compare."""
    encoder, options, began = ENCODERS[settings.codec], settings.options(rate), time.perf_counter()
    count = settings.conditions.frames or source.frames
    with source.open() as reader, tempfile.TemporaryDirectory() as folder:
        info = reader.info
        require_420(info, source.name)
        stream = Path(folder) / f"stream.{encoder.format}"
        try:
            packets = list(_encode(reader, count, settings, options, stream))
        except av.error.FFmpegError as error:
            reason = f"{encoder.library} fails on {source.name}: {error.strerror}"
            raise UserError(reason) from error
        encoded = time.perf_counter()
        keys = [number for number, (_, intra) in enumerate(packets) if intra]
        asked = settings.conditions.intra_period
        period = asked if asked and asked > 0 else _NEVER
        if keys != list(range(0, len(packets), period)):
            raise UserError(f"{encoder.library} coded frames {keys} of {source.name} as intra")
        with open_video(stream, frame_rate=info.frame_rate) as decoded:
            quality = compare_videos(reader, decoded, len(packets), settings.conditions)
    frames = tuple(
        FrameResult("I" if intra else "P", 8 * size, values)
        for (size, intra), values in zip(packets, quality, strict=True)
    )
    done = time.perf_counter()
    return Record(
        source.dataset,
        source.name,
        settings.name,
        rate_index,
        int(rate) if rate == int(rate) else rate,
        info.width,
        info.height,
        info.frame_rate,
        conditions_met(source, info, settings.conditions, len(frames)),
        frames,
        metadata={
            "encoder": encoder.library,
            "parameters": options,
            "threads": settings.threads,
            "bit_depth": info.bit_depth,
            **library_versions(encoder.library),
        },
        times=Times(encode=(encoded - began) / len(frames), total=done - began),
        set_sequences=source.set_sequences,
    )


def _encode(
    reader: VideoReader, count: int | None, settings: Settings, options: dict[str, str], path: Path
) -> Iterator[tuple[int, bool]]:
    """Write the raw stream; yields bytes and whether it is an intra frame of every packet."""
    encoder, info = ENCODERS[settings.codec], reader.info
    pixels = "yuv420p10le" if info.bit_depth == 10 else "yuv420p"
    formats = encoder_formats(encoder.library)
    if pixels not in formats:
        known = ", ".join(formats)
        raise UserError(f"{encoder.library} of this PyAV has no {pixels}, only {known}")
    os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 prints its settings otherwise
    with same_scheduling() as restore, av.open(str(path), "w", format=encoder.format) as container:
        stream: Any = container.add_stream(encoder.library, rate=info.frame_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, pixels
        context = stream.codec_context
        context.time_base, context.thread_count = 1 / info.frame_rate, settings.threads
        context.colorspace = matrix_code(info.color)
        context.color_range = RANGE_CODES[info.color.range]
        tidy = BitStreamFilterContext(encoder.filter, stream) if encoder.filter else None
        frames = enumerate(islice(reader, count))
        pictures = (_picture(frame, info, pixels, number) for number, frame in frames)
        for picture in chain(pictures, (None,)):
            coded = stream.encode(picture)
            restore()
            for packet in coded:
                for part in [packet] if tidy is None else tidy.filter(packet):
                    yield part.size, part.is_keyframe
                    container.mux(part)


@contextmanager
def same_scheduling() -> Iterator[Callable[[], None]]:
    """Keeps the threads of this process as urgent as they are: within, whenever what it yields is
    called, and afterwards.

    SVT-AV1, where it may (as root), makes its threads and the one that calls it real-time ones of
    the highest priority. They starve everything else on their cores, and all that this process
    does or starts afterwards would do so too.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield lambda: None
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)

    def restore() -> None:
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # a thread that has just ended
                if os.sched_getscheduler(int(task.name)) != policy:
                    os.sched_setscheduler(int(task.name), policy, parameters)

    try:
        yield restore
    finally:
        restore()


def _picture(frame: Frame, info: VideoInfo, pixels: str, number: int) -> av.VideoFrame:
    picture = av_picture(frame, pixels)
    picture.pts, picture.time_base = number, 1 / info.frame_rate
    picture.colorspace = matrix_code(info.color)
    picture.color_range = RANGE_CODES[info.color.range]
    return picture


def encoder_formats(library: str) -> list[str]:
    """Sample formats of an encoder. Raises ValueError where PyAV comes without it."""
    try:
        formats = av.codec.Codec(library, "w").video_formats
    except ValueError as error:  # UnknownCodecError
        raise UserError(f"this PyAV ({av.__version__}) has no encoder {library}") from error
    return [format.name for format in formats or ()]


def library_versions(library: str) -> dict[str, str]:
    """Versions of PyAV, FFmpeg and, where the system tells which file is loaded, the encoder."""
    ffmpeg = str(getattr(av, "ffmpeg_version_info", "unknown"))
    stem = {"libsvtav1": "libsvtav1enc", "libvpx-vp9": "libvpx"}.get(library, library)
    maps = Path("/proc/self/maps")
    loaded = maps.read_text() if maps.exists() else ""
    match = re.search(rf"/{stem}[-.][^/\n]*\.so\.([\d.]+)$", loaded, re.IGNORECASE | re.MULTILINE)
    known = {"library": f"{library} {match[1]}"} if match else {}
    return {"pyav": av.__version__, "ffmpeg": ffmpeg, **known}
