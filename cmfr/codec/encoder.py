"""Whole videos to `.cmfr` files."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from cmfr.codec.bitstream import BitstreamWriter
from cmfr.codec.coded import CodedFrame, CodingReport, FrameCallback
from cmfr.codec.header import StreamHeader
from cmfr.codec.loaded import LoadedModel
from cmfr.codec.picture import Picture
from cmfr.codec.rate_control import RateControl, Target
from cmfr.codec.request import check_request, check_resume
from cmfr.codec.resume import Unfinished, check_same, copy_kept, nothing_kept, read_unfinished
from cmfr.models.base import BegunFrame
from cmfr.models.state import ReferenceState
from cmfr.utils.device import arithmetic
from cmfr.utils.errors import UserError
from cmfr.utils.files import output_file, remove_unfinished, unfinished
from cmfr.utils.threads import Behind, ahead
from cmfr.video.color import planes_to_tensor
from cmfr.video.info import Frame, VideoInfo
from cmfr.video.metrics import frame_psnr
from cmfr.video.reader import open_video

MIN_SIDE, MAX_SIDE = 16, 65535


class Encoder(LoadedModel):
    """Codes videos with a loaded model."""

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
        refine: int = 0,
        **source_options: Any,
    ) -> CodingReport:
        """Code a video file, raw .yuv or folder of PNGs into a `.cmfr` file.

        quality: 0 (smallest) .. 63 (best).
        intra_period: frames from one intra frame to the next; -1 codes only the first as intra.
        refresh_period: frames between temporal feature refreshes, 0 = never (default: the model's).
        start, frames: choose a part, as for `reader.open_video`.
        on_frame: called after each frame.
        estimate: bits are estimated too, for `on_frame`.
        aim: what the quality is chosen for, frame by frame, instead of `quality`.
        resume: what is interrupted is kept, and gone on with from its last intra frame; the file is
        that of an uninterrupted call, byte by byte.
        portable: the stream decodes alike on every machine (slower).
        refine: gradient steps on the motion latents of every P-frame: fewer bits, slower encoding.
        source_options: as for `reader.open_video`.

        The file appears under its name when it is complete; devices and pipes are written into.

        Raises ValueError or OSError with one sentence.
        """
        target = Path(target)
        check_request(source, target, quality, intra_period, refresh_period, refine)
        check_resume(target, aim, resume, bool(refine) and self.device.type != "cpu")
        with open_video(source, start=start, frames=frames, **source_options) as reader:
            info = reader.info
            if not all(MIN_SIDE <= side <= MAX_SIDE for side in (info.width, info.height)):
                raise UserError(
                    f"{source} is {info.width}x{info.height}; sides of {MIN_SIDE} to "
                    f"{MAX_SIDE} pixels can be coded"
                )
            report, began = CodingReport(info), time.perf_counter()
            header = self.header(info, quality, intra_period, refresh_period, portable, refine)
            control = None
            if aim is not None:
                control = RateControl(aim, header, info.frame_count)
                quality = control.start(
                    lambda tried: self._first_two(reader, header, tried, refine)
                )
                header = replace(header, quality=quality)
            with self._going_on(target, reader, header, report, resume) as (old, left):
                with output_file(target, kept=resume) as file:
                    writer = BitstreamWriter(file, header)
                    if old is not None:
                        copy_kept(old, writer, control)
                    beside = self.device.type == "cuda" and control is None
                    with closing(ahead(left)) as pictures:
                        for coded in self.encode_frames(
                            pictures,
                            info,
                            header,
                            writer,
                            estimate,
                            control,
                            report.kept,
                            beside,
                            refine,
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
        self, frames: Iterable[Frame], header: StreamHeader, quality: int, refine: int
    ) -> list[tuple[int, float]]:
        """Bits and PSNR of the first two frames at a quality, written nowhere."""
        info, header = header.info(), replace(header, quality=quality)
        writer = BitstreamWriter(io.BytesIO(), header)
        both = self.encode_frames(islice(frames, 2), info, header, writer, refine=refine)
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
                begun, _, _ = self._begin(frame, info, replace(header, quality=quality), None)
                return begun.finish()[0]

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
        refine: int = 0,
    ) -> StreamHeader:
        """The header of a stream that this codec writes; refresh_period None: the model's. It says
        how motion is refined: nothing else of a stream does, and `--resume` must know."""
        period = self.model.cfg.refresh_period if refresh_period is None else refresh_period
        return StreamHeader.of(
            info,
            quality=quality,
            intra_period=intra_period,
            refresh_period=period,
            model=self.name,
            weights=self.weights_id,
            quality_offsets=self.model.cfg.hierarchy.quality_offsets,
            producer=arithmetic(self.device) + (f", refine {refine}" if refine else ""),
            portable=portable,
        )

    def encode_frames(
        self,
        frames: Iterable[Frame],
        info: VideoInfo,
        header: StreamHeader,
        writer: BitstreamWriter,
        estimate: bool = False,
        control: RateControl | None = None,
        first: int = 0,
        beside: bool = False,
        refine: int = 0,
    ) -> Iterator[CodedFrame]:
        """Code `frames` of a video one by one into an open stream, as its header says; see
        `encode_video`.

        control: chooses qualities.
        first: number of the first, an intra frame.
        beside: entropy coding and writing of a frame go on beside the networks of the next one,
        after which it is given out; otherwise all of a frame is done before the next is asked for.
        """
        past: ReferenceState | None = None
        with Behind[CodedFrame]() as behind:
            for number, frame in enumerate(frames, first):
                if header.expected(number, 1)[0]:
                    past = None
                asked = header
                if control is not None:
                    asked = replace(header, quality=control.quality())
                begun, quality, shown = self._begin(frame, info, asked, past, estimate, refine)
                intra, past = past is None, begun.output.state
                coded = CodedFrame(number, intra, quality, 0, shown, source=frame)
                finish = partial(_finish, begun, writer, coded)
                del begun, coded
                if beside:
                    yield from behind(finish)
                    continue
                done = finish()
                del finish
                if control is not None:
                    control.coded(done.bits, 0 if control.of_bits else _psnr(done, info))
                yield done
                del done
            yield from behind.last()

    def _begin(
        self,
        frame: Frame,
        info: VideoInfo,
        header: StreamHeader,
        past: ReferenceState | None,
        estimate: bool = False,
        refine: int = 0,
    ) -> tuple[BegunFrame, int, Frame]:
        """A frame but for its entropy coding, its own quality, its picture."""
        x = planes_to_tensor(frame, info, self.model.cfg.color, self.device)
        with self._arithmetic(header):
            picture = Picture(info, self.model.cfg.color)
            begun, quality = self.model.begin_frame(
                x, header.quality, past, header.refresh_period, picture, estimate, refine
            )
            return begun, quality, picture.of(begun.output.x_hat)


def _finish(begun: BegunFrame, writer: BitstreamWriter, coded: CodedFrame) -> CodedFrame:
    """Code the symbols of a frame and write it: the same, complete."""
    payload, output = begun.finish()
    size = writer.write_frame(coded.intra, coded.quality, payload)
    return replace(coded, bits=8 * size, output=output)


def _psnr(coded: CodedFrame, info: VideoInfo) -> float:
    """dB of an encoded frame, 6:1:1 (RGB: over the planes)."""
    assert coded.source is not None
    return frame_psnr(coded.source, coded.reconstruction, info)[1]
