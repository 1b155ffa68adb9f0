"""Whole videos: file in, `.cmfr` out, and back. Frames stream; memory does not grow with them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain, islice
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
from cmfr.codec.coded import CodedFrame, CodingReport
from cmfr.codec.header import StreamHeader
from cmfr.codec.model_files import build_model, read_model
from cmfr.codec.picture import Picture
from cmfr.codec.rate_control import RateControl, Target
from cmfr.codec.request import check_request, check_resume
from cmfr.codec.resume import Unfinished, check_same, copy_kept, nothing_kept, read_unfinished
from cmfr.config import MAX_PIXELS
from cmfr.models.base import FrameSize
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.entropy_coder import BadPayload, DecodeMismatch, make_tables
from cmfr.nn.portable import PortableArithmetic
from cmfr.utils.device import arithmetic, exact_arithmetic, full_precision, pick_device
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct, output_file, remove_unfinished, unfinished
from cmfr.video.color import planes_to_tensor
from cmfr.video.info import Frame, VideoInfo, resolve_color
from cmfr.video.metrics import frame_psnr
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

MIN_SIDE, MAX_SIDE = 16, 65535


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

    @contextmanager
    def _arithmetic(self, header: StreamHeader) -> Iterator[None]:
        """That in which frames of a stream are coded."""
        with exact_arithmetic(), self._portable if header.portable else nullcontext():
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
        aim: Target | None = None,
        resume: bool = False,
        portable: bool = False,
        **source_options: Any,
    ) -> CodingReport:
        """Code a video file, raw .yuv or folder of PNGs into a `.cmfr` file.

        quality 0 (smallest) .. 63 (best), or aim: what it is chosen for, frame by frame;
        intra_period -1 codes only the first frame as intra; refresh_period: frames between temporal
        feature refreshes, 0 = never (default: the model's); `start` and `frames` choose a part;
        estimate: bits are estimated too, for `on_frame`; portable: the stream decodes alike on
        every machine (slower); `source_options` as for `reader.open_video`. The file appears under
        its name when it is complete; devices and pipes are written into. resume: what is
        interrupted is kept, and gone on with from its last intra frame; the file is that of an
        uninterrupted call, byte by byte. Raises ValueError or OSError with one sentence.
        """
        target = Path(target)
        check_request(source, target, quality, intra_period, refresh_period)
        check_resume(target, aim, resume)
        with open_video(source, start=start, frames=frames, **source_options) as reader:
            info = reader.info
            if not all(MIN_SIDE <= side <= MAX_SIDE for side in (info.width, info.height)):
                raise UserError(
                    f"{source} is {info.width}x{info.height}; sides of {MIN_SIDE} to "
                    f"{MAX_SIDE} pixels can be coded"
                )
            report, began = CodingReport(info), time.perf_counter()
            header = self.header(info, quality, intra_period, refresh_period, portable)
            control = None
            if aim is not None:
                control = RateControl(aim, header, info.frame_count)
                quality = control.start(lambda tried: self._first_two(reader, header, tried))
                header = replace(header, quality=quality)
            with self._going_on(target, reader, header, report, resume) as (old, left):
                with output_file(target, kept=resume) as file:
                    writer = BitstreamWriter(file, header)
                    if old is not None:
                        copy_kept(old, writer, control)
                    for coded in self.encode_frames(
                        left, info, header, writer, estimate, control, report.kept
                    ):
                        report.frames = coded.number + 1
                        if on_frame is not None:
                            on_frame(coded)
                        del coded  # or its pictures stay while the next frame is coded
                    report.bytes = writer.close()
            remove_unfinished(target)
            report.seconds = time.perf_counter() - began
        if control is not None and (missed := control.missed(report.bytes)):
            report.notes.append(missed)
        return report

    def _first_two(
        self, frames: Iterable[Frame], header: StreamHeader, quality: int
    ) -> list[tuple[int, float]]:
        """Bits and PSNR of the first two frames at a quality, written nowhere."""
        info, header = header.info(), replace(header, quality=quality)
        writer = BitstreamWriter(io.BytesIO(), header)
        both = self.encode_frames(islice(frames, 2), info, header, writer)
        return [(coded.bits, _psnr(coded, info)) for coded in both]

    @contextmanager
    def _going_on(
        self,
        target: Path,
        frames: Iterable[Frame],
        header: StreamHeader,
        report: CodingReport,
        resume: bool,
    ) -> Iterator[tuple[Unfinished | None, Iterable[Frame]]]:
        """What there is of an unfinished output and the frames from its last intra frame on, or
        None and all frames."""
        if not resume:
            yield None, frames
            return
        with unfinished(target) as path:
            found = read_unfinished(path) if path else None
            if found is None or not found.count:
                report.notes.append(nothing_kept(target, found))
                yield None, frames
                return
            info, rest = header.info(), iter(frames)

            def code(frame: Frame, quality: int) -> bytes:
                return self._code(frame, info, replace(header, quality=quality), None)[0]

            intra = check_same(found, header, rest, code)
            report.kept = found.count
            report.notes.append(f"went on from frame {found.count} of the unfinished output")
            yield found, chain([intra], rest)

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
        control: RateControl | None = None,
        first: int = 0,
    ) -> Iterator[CodedFrame]:
        """Code `frames` of a video one by one into an open stream, as its header says; see
        `encode_video`. control: chooses qualities; first: number of the first, an intra frame."""
        past: ReferenceState | None = None
        for number, frame in enumerate(frames, first):
            if header.expected(number, 1)[0]:
                past = None
            intra, asked = past is None, header
            if control is not None:
                asked = replace(header, quality=control.quality())
            payload, frame_quality_index, output, shown = self._code(
                frame, info, asked, past, estimate
            )
            size = writer.write_frame(intra, frame_quality_index, payload)
            past = output.state
            coded = CodedFrame(number, intra, frame_quality_index, 8 * size, shown, output, frame)
            if control is not None:
                control.coded(coded.bits, 0 if control.of_bits else _psnr(coded, info))
            yield coded
            del coded, output

    def _code(
        self,
        frame: Frame,
        info: VideoInfo,
        header: StreamHeader,
        past: ReferenceState | None,
        estimate: bool = False,
    ) -> tuple[bytes, int, FrameOutput, Frame]:
        """Payload, the frame's own quality, output and picture."""
        x = planes_to_tensor(frame, info, self.model.cfg.color, self.device)
        with self._arithmetic(header):
            picture = Picture(info, self.model.cfg.color)
            payload, quality, output = self.model.encode_frame(
                x, header.quality, past, header.refresh_period, picture, estimate
            )
        return payload, quality, output, picture.of(output.x_hat)

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
                    del coded
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
            last = replace(last, output=None)

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
            advice = ""
            if isinstance(error, DecodeMismatch) and not header.portable:
                advice = "; to decode a stream anywhere, encode with --portable"
            raise DamagedFrame(packet.number, f"{error} ({by}){advice}") from error
        return CodedFrame(
            packet.number, packet.intra, packet.quality, 8 * packet.size, shown, output
        )

    def _check_model(self, source: str, header: StreamHeader) -> None:
        if header.weights != self.weights_id:
            raise UserError(
                f"{source} was coded with weights {header.weights.hex()} of model "
                f"{header.model}; these are weights {self.weights_id.hex()} of {self.name}"
            )


def _psnr(coded: CodedFrame, info: VideoInfo) -> float:
    """dB of an encoded frame, 6:1:1 (RGB: over the planes)."""
    assert coded.source is not None
    return frame_psnr(coded.source, coded.reconstruction, info)[1]


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
