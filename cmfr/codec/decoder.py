"""`.cmfr` files back to videos."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cmfr.codec.bitstream import BitstreamError, BitstreamReader, DamagedFrame, FramePacket
from cmfr.codec.coded import CodedFrame, CodingReport, FrameCallback
from cmfr.codec.header import StreamHeader
from cmfr.codec.loaded import LoadedModel
from cmfr.codec.picture import Picture
from cmfr.config import MAX_PIXELS
from cmfr.models.base import FrameSize
from cmfr.models.state import ReferenceState
from cmfr.nn.entropy_coder import BadPayload, DecodeMismatch
from cmfr.utils.device import arithmetic
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct
from cmfr.utils.threads import Behind
from cmfr.video.info import VideoInfo, resolve_color
from cmfr.video.writer import open_writer


class Decoder(LoadedModel):
    """Decodes what was coded with a loaded model."""

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
            with open_writer(target, info, **target_options) as writer, Behind[None]() as behind:
                for coded in self.decode_frames(reader, info, report, keep_going):
                    behind(partial(writer.write, coded.reconstruction))
                    report.frames += 1
                    if on_frame is not None:
                        on_frame(coded)
                    del coded
                behind.last()
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
                end = resumed if resumed is not None else reader.count()
                if end is None and report.fault is None:
                    report.fault = f"how many frames follow frame {damage.number} is not known"
                lost = range(damage.number, max(damage.number + 1, end or 0))
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
