"""Whole videos: file in, `.cmfr` out, and back. Frames stream; memory does not grow with them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmfr.codec.bitstream import (
    BitstreamError,
    BitstreamReader,
    BitstreamWriter,
    DamagedFrame,
    FramePacket,
)
from cmfr.codec.header import StreamHeader
from cmfr.codec.model_files import build_model, read_model
from cmfr.codec.picture import Picture
from cmfr.config import MAX_PIXELS, QUALITIES
from cmfr.models.base import FrameSize
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.entropy_coder import BadPayload, DecodeMismatch, make_tables
from cmfr.nn.portable import PortableArithmetic
from cmfr.utils.device import arithmetic, exact_arithmetic, full_precision, pick_device
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct, is_stream, output_file
from cmfr.video.color import planes_to_tensor
from cmfr.video.info import Frame, VideoInfo, resolve_color
from cmfr.video.reader import VIDEO_SUFFIXES, open_video
from cmfr.video.writer import open_writer

MIN_SIDE, MAX_SIDE = 16, 65535


@dataclass(frozen=True)
class CodedFrame:
    """One frame that has been encoded or decoded: for progress bars, tables and pictures.

    bits: of its packet, header included (0 for a frame filled in after damage); reconstruction:
    the picture as it is written to a file; output: the network's view, padded to multiples of 16.
    """

    number: int
    intra: bool
    quality: int
    bits: int
    reconstruction: Frame
    output: FrameOutput | None = None
    source: Frame | None = None


@dataclass
class CodingReport:
    """Totals of a run. bpp counts the whole file over the pixels of the frames; damaged: numbers of
    the frames that were lost; fault: what else of the stream is damaged (its index), or None."""

    info: VideoInfo
    frames: int = 0
    bytes: int = 0
    seconds: float = 0.0
    damaged: list[int] = field(default_factory=list)
    fault: str | None = None

    @property
    def bpp(self) -> float:
        pixels = self.frames * self.info.width * self.info.height
        return 8 * self.bytes / pixels if pixels else 0.0

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


FrameCallback = Callable[[CodedFrame], None]


class Codec:
    """A model with weights, on a device, that codes videos. Made by `load_codec`."""

    def __init__(self, model: VideoModel, weights_id: bytes, device: torch.device) -> None:
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.requires_grad_(False)
        with full_precision():
            make_tables(self.model)
        self.name, self.weights_id, self.device = model.cfg.name, weights_id, device
        self._portable = PortableArithmetic()

    @contextlib.contextmanager
    def _arithmetic(self, header: StreamHeader) -> Iterator[None]:
        with exact_arithmetic(), self._portable if header.portable else contextlib.nullcontext():
            yield

    # -- encoding ------------------------------------------------------------------------------

    def encode_video(
        self,
        source: str | Path,
        target: str | Path,
        *,
        quality: int = 32,
        intra_period: int = -1,
        refresh_period: int | None = None,
        start: int = 0,
        frames: int | None = None,
        on_frame: FrameCallback | None = None,
        estimate: bool = False,
        portable: bool = False,
        **source_options: Any,
    ) -> CodingReport:
        """Code a video file, raw .yuv or folder of PNGs into a `.cmfr` file.

        quality 0 (smallest) .. 63 (best); intra_period -1 codes only the first frame as intra;
        refresh_period: frames between temporal feature refreshes, 0 = never (default: the model's);
        `start` and `frames` choose a part; estimate: bits are estimated too, for `on_frame`;
        portable: it decodes alike on every machine; `source_options` as for `reader.open_video`.
        The file appears under its name when it is complete; devices and pipes are written into.
        Raises ValueError or OSError with one sentence.
        """
        target = Path(target)
        check_request(source, target, quality, intra_period, refresh_period)
        with open_video(source, start=start, frames=frames, **source_options) as reader:
            info = reader.info
            if not all(MIN_SIDE <= side <= MAX_SIDE for side in (info.width, info.height)):
                raise UserError(
                    f"{source} is {info.width}x{info.height}; sides of {MIN_SIDE} to "
                    f"{MAX_SIDE} pixels can be coded"
                )
            report = CodingReport(info)
            header = self.header(info, quality, intra_period, refresh_period, portable)

            began = time.perf_counter()
            with output_file(target) as file:
                writer = BitstreamWriter(file, header)
                for coded in self.encode_frames(reader, info, header, writer, estimate):
                    report.frames += 1
                    if on_frame is not None:
                        on_frame(coded)
                report.bytes = writer.close()
            report.seconds = time.perf_counter() - began
        return report

    def header(
        self,
        info: VideoInfo,
        quality: int,
        intra_period: int,
        refresh_period: int | None = None,
        portable: bool = False,
    ) -> StreamHeader:
        """The header of a stream that this codec writes; refresh_period None: the model's."""
        period = self.model.cfg.refresh_period if refresh_period is None else refresh_period
        return StreamHeader.of(
            info,
            quality=quality,
            intra_period=intra_period,
            refresh_period=period,
            model=self.name,
            weights=self.weights_id,
            quality_offsets=self.model.cfg.hierarchy.quality_offsets,
            producer=arithmetic(self.device),
            portable=portable,
        )

    def encode_frames(
        self,
        frames: Any,
        info: VideoInfo,
        header: StreamHeader,
        writer: BitstreamWriter,
        estimate: bool = False,
    ) -> Iterator[CodedFrame]:
        """Code `frames` of a video one by one into an open stream, as its header says; see
        `encode_video`."""
        past: ReferenceState | None = None
        intra_period = header.intra_period
        for number, frame in enumerate(frames):
            if number == 0 or (intra_period > 0 and number % intra_period == 0):
                past = None
            intra = past is None
            x = planes_to_tensor(frame, info, self.model.cfg.color, self.device)
            with self._arithmetic(header):
                picture = Picture(info, self.model.cfg.color)
                payload, frame_quality_index, output = self.model.encode_frame(
                    x, header.quality, past, header.refresh_period, picture, estimate
                )
            size = writer.write_frame(intra, frame_quality_index, payload)
            past = output.state
            shown = picture.of(output.x_hat)
            yield CodedFrame(number, intra, frame_quality_index, 8 * size, shown, output, frame)

    # -- decoding ------------------------------------------------------------------------------

    def decode_video(
        self,
        source: str | Path,
        target: str | Path,
        *,
        keep_going: bool = False,
        max_pixels: int = MAX_PIXELS,
        on_frame: FrameCallback | None = None,
        matrix: str | None = None,
        range: str | None = None,
        **target_options: Any,
    ) -> CodingReport:
        """Decode a `.cmfr` file into a video file, .yuv, .y4m or folder of PNGs.

        Damage raises `DamagedFrame` and leaves no output. With `keep_going` the frames before it
        are kept, the last good frame (the first one, if there is none before) stands in for what
        is lost, and decoding resumes at the next intra frame; the report lists the damaged frames
        and says what else is damaged.
        A stream that says that its pictures have more than `max_pixels` pixels is refused.
        `matrix` and `range` override what the stream says of its color; `target_options` as for
        `writer.open_writer`.
        """
        check_distinct(target, source)
        with Path(source).open("rb") as file:
            reader = BitstreamReader(file)
            info = resolve_color(reader.header.info(), matrix, range)
            if (pixels := info.width * info.height) > max_pixels:
                raise UserError(
                    f"{source} says that its pictures have {info.width}x{info.height} pixels, more "
                    f"than {max_pixels}; if that is so, give --max-pixels {pixels}"
                )
            self._check_model(str(source), reader.header)
            report = CodingReport(info, bytes=Path(source).stat().st_size)
            began = time.perf_counter()
            with open_writer(target, info, **target_options) as writer:
                for coded in self.decode_frames(reader, info, report, keep_going):
                    writer.write(coded.reconstruction)
                    report.frames += 1
                    if on_frame is not None:
                        on_frame(coded)
            report.seconds = time.perf_counter() - began
        return report

    def decode_frames(
        self, reader: BitstreamReader, info: VideoInfo, report: CodingReport, keep_going: bool
    ) -> Iterator[CodedFrame]:
        """Frames of an open stream in order; see `decode_video`."""
        if reader.index is None:
            report.fault = "the index or the trailer behind the frames is damaged or missing"
        past: ReferenceState | None = None
        last: CodedFrame | None = None
        waiting: list[int] = []  # lost frames before the first good one
        while True:
            try:
                packet = next(reader, None)
                if packet is None:
                    return
                size = FrameSize(info.height, info.width)
                last = self._decode_packet(packet, size, past, info, reader)
            except DamagedFrame as damage:
                if not keep_going:
                    raise
                past = None
                resumed = reader.resume_after_damage()
                end = resumed if resumed is not None else reader.frame_count
                lost = range(damage.number, damage.number + 1 if end is None else end)
                report.damaged += lost
                if last is None:
                    waiting += lost
                else:
                    for number in lost:
                        yield CodedFrame(number, False, 0, 0, last.reconstruction)
                if resumed is None:
                    return
                continue
            except BitstreamError as damage:
                # Every frame was read; what is damaged or missing is the index behind them.
                if keep_going and last is not None:
                    report.fault = str(damage)
                    return
                raise
            assert last.output is not None
            past = last.output.state
            for number in waiting:
                yield CodedFrame(number, False, 0, 0, last.reconstruction)
            waiting = []
            yield last

    def _decode_packet(
        self,
        packet: FramePacket,
        size: FrameSize,
        past: ReferenceState | None,
        info: VideoInfo,
        reader: BitstreamReader,
    ) -> CodedFrame:
        if past is None and not packet.intra:
            raise DamagedFrame(packet.number, "it refers to a frame that is lost")
        reference = size if packet.intra or past is None else past
        header = reader.header
        # What was encoded does not depend on what is said of its color now.
        picture = Picture(header.info(), self.model.cfg.color)
        try:
            with self._arithmetic(header):
                output = self.model.decode_frame(
                    packet.payload,
                    packet.quality,
                    reference,
                    header.refresh_period,
                    picture if reader.version > 2 else None,
                )
                if info.color != picture.info.color:
                    picture = Picture(info, self.model.cfg.color)
                shown = picture.of(output.x_hat)
        except BadPayload as error:
            by = f"made by: {header.producer}; this is: {arithmetic(self.device)}"
            if isinstance(error, DecodeMismatch) and not header.portable:
                by += "; to decode a stream anywhere, encode with --portable"
            raise DamagedFrame(packet.number, f"{error} ({by})") from error
        return CodedFrame(
            packet.number, packet.intra, packet.quality, 8 * packet.size, shown, output
        )

    def _check_model(self, source: str, header: StreamHeader) -> None:
        if header.weights != self.weights_id:
            raise UserError(
                f"{source} was coded with weights {header.weights.hex()} of model "
                f"{header.model}; these are weights {self.weights_id.hex()} of {self.name}"
            )


def check_request(
    source: str | Path,
    target: str | Path,
    quality: int,
    intra_period: int,
    refresh_period: int | None,
) -> None:
    """What `Codec.encode_video` checks before it opens anything. Raises UserError or OSError."""
    target = Path(target)
    if not 0 <= quality < QUALITIES:
        raise UserError(f"quality {quality} is not in 0..{QUALITIES - 1}")
    if intra_period != -1 and intra_period < 1:
        raise UserError(f"intra period {intra_period} is neither -1 nor at least 1")
    if refresh_period is not None and not 0 <= refresh_period <= 65535:
        raise UserError(f"refresh period {refresh_period} is not in 0..65535")
    if target.suffix.lower() in VIDEO_SUFFIXES or target.suffix.lower() == ".png":
        raise UserError(f"{target}: what is written is a .cmfr file, not a video; name it so")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} to")
    if target.is_dir():
        raise UserError(f"{target} is a folder; give a file")
    is_stream(target)
    check_distinct(target, source)


def load_codec(
    model: str | Path = "cmfr-s",
    device: str = "auto",
    weights: Sequence[str | Path] | None = None,
) -> Codec:
    """Load a codec by the name of shipped weights or from a weights file.

    weights: a weights file, or the published checkpoints of the `model` dcvc-dc or dcvc-fm
    (I-frame and P-frame). Raises FileNotFoundError or ValueError with one sentence.
    """
    cfg, tensors, weights_id, where = read_model(model, weights)
    return Codec(build_model(cfg, tensors, where), weights_id, pick_device(device))
