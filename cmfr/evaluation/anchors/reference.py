"""HM and VTM: their encoders run on a sequence, measured like our own codec.

The binary gets the frames as raw planar YUV and its low-delay configuration file; its bitstream
file gives the bits, its reconstruction file the pictures. The stream is not decoded once more.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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
from cmfr.evaluation.records import Average, FrameResult, Record, Times
from cmfr.utils.errors import UserError
from cmfr.video.info import RAW_FORMATS, VideoInfo
from cmfr.video.reader import VideoReader, open_video

CODECS = ("hm", "vtm")
# A line of the log for each picture, HM's and VTM's:
#   POC    0 TId: 0 ( I-SLICE, nQP 22 QP 22 )      12345 bits [Y ...
#   POC    0 LId:  0 TId: 0 ( IDR_N_LP, I-SLICE, QP 22 )      12345 bits [Y ...
_PICTURE = re.compile(r"^POC\s+(\d+)\b.*?\b([IPB])-SLICE[^)]*\)\s+(\d+) bits", re.M | re.I)


@dataclass(frozen=True)
class ReferenceSettings:
    """What to run. Raises UserError and FileNotFoundError.

    codec: "hm" or "vtm", the name in results.
    binary: its encoder.
    config: its low-delay configuration file.
    rates: QPs.
    conditions: as in `ffmpeg.Settings`.
    """

    codec: str
    binary: Path
    config: Path
    rates: tuple[int, ...]
    conditions: CodingConditions = CodingConditions.asked()

    def __post_init__(self) -> None:
        check_rates(self.rates)
        if self.codec not in CODECS:
            raise UserError(f"codec {self.codec!r} is not one of {', '.join(CODECS)}")
        for what, path in (("encoder", self.binary), ("configuration", self.config)):
            if not path.is_file():
                raise FileNotFoundError(f"the {what} {path} of {self.codec} does not exist")

    @property
    def name(self) -> str:
        """Of the codec in results."""
        return self.codec

    def parameters(self, info: VideoInfo, frames: int, qp: int) -> list[str]:
        """All of the command line but the paths. Both programs know these words."""
        values = {
            "SourceWidth": info.width,
            "SourceHeight": info.height,
            "InputBitDepth": info.bit_depth,
            "OutputBitDepth": info.bit_depth,
            "InputChromaFormat": 420,
            "ConformanceWindowMode": 1,  # pads sizes that are no multiple of the smallest block
            "FrameRate": round(info.frame_rate),  # older versions take whole numbers only
            "FramesToBeEncoded": frames,
            "IntraPeriod": self.conditions.intra_period,
            "DecodingRefreshType": 0 if self.conditions.intra_period == -1 else 2,
            "QP": qp,
        }
        return [f"--{name}={value}" for name, value in values.items()]


def run(sources: Sequence[Source], settings: ReferenceSettings, output: Path) -> list[Record]:
    """Code all sequences at all QPs: see base.code_all.

    Raises ValueError too where the encoder fails (with the last line that it says) or its files
    do not fit."""

    @contextmanager
    def coder(source: Source) -> Iterator[Code]:
        with tempfile.TemporaryDirectory() as folder, source.open() as reader:
            require_420(reader.info, source.name)
            raw = Path(folder) / "source.yuv"

            def code(qp: float, index: int) -> Record:
                frames = _write_raw(source, raw, settings.conditions.frames or source.frames)
                return _code(source, reader, raw, frames, settings, int(qp), index)

            yield code

    return code_all(sources, settings, output, coder, __name__)


def _write_raw(source: Source, path: Path, frames: int | None) -> int:
    """The first frames as a raw file, unless it is there; returns how many."""
    with source.open() as reader:
        size = reader.info.frame_bytes
        if not path.is_file():
            with path.open("wb") as file:
                for frame in islice(reader, frames):
                    for plane in frame.planes:
                        file.write(plane.tobytes())
    return path.stat().st_size // size


def _code(
    source: Source,
    reader: VideoReader,
    raw: Path,
    frames: int,
    settings: ReferenceSettings,
    qp: int,
    rate_index: int,
) -> Record:
    info, began = reader.info, time.perf_counter()
    stream, result = raw.with_name("stream.bin"), raw.with_name("result.yuv")
    parameters = settings.parameters(info, frames, qp)
    files = [f"--InputFile={raw}", f"--BitstreamFile={stream}", f"--ReconFile={result}"]
    log = _call(
        [str(settings.binary.absolute()), "-c", str(settings.config), *files, *parameters], source
    )
    encoded = time.perf_counter()
    for path in (stream, result):
        if not path.is_file() or not path.stat().st_size:
            raise UserError(f"{settings.binary.name} wrote no {path.name} for {source.name}")
    layout = next(k for k, v in RAW_FORMATS.items() if v == (info.chroma, info.bit_depth))
    if (found := result.stat().st_size) != frames * info.frame_bytes:
        raise UserError(
            f"{settings.binary.name}: the reconstruction of {source.name} has {found} bytes, "
            f"but {frames} frames of {layout} are {frames * info.frame_bytes}"
        )
    size = (info.width, info.height)
    with open_video(result, size=size, pixel_format=layout, frame_rate=info.frame_rate) as decoded:
        quality = compare_videos(reader, decoded, frames, settings.conditions)
    bits, pictures = 8 * stream.stat().st_size, _pictures(log, frames)
    known: dict[str, Any] = {}
    if pictures:
        pictures[0] = (pictures[0][0], pictures[0][1] + bits - sum(n for _, n in pictures))
        rows = zip(pictures, quality, strict=True)
        known["frames"] = tuple(FrameResult(kind, n, values) for (kind, n), values in rows)
    else:
        means = {name: sum(q[name] for q in quality) / frames for name in quality[0]}
        bpp = bits / (frames * info.width * info.height)
        known["averages"] = {"all": Average(frames, bpp, means)}
    version = re.search(r"\b(?:HM|VTM)[^\n]*?version[^\n]*?([\d.]+)", log, re.IGNORECASE)
    stream.unlink()
    result.unlink()
    done = time.perf_counter()
    return Record(
        source.dataset,
        source.name,
        settings.codec,
        rate_index,
        qp,
        *size,
        info.frame_rate,
        conditions_met(source, info, settings.conditions, frames),
        metadata={
            "encoder": settings.binary.name,
            "configuration": settings.config.name,
            "parameters": parameters,
            "version": version[1] if version else None,
        },
        times=Times(encode=(encoded - began) / frames, total=done - began),
        set_sequences=source.set_sequences,
        **known,
    )


def _call(command: list[str], source: Source) -> str:
    """What the encoder prints."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        last = lines[-1] if lines else "it said nothing"
        raise UserError(f"{name} failed on {source.name} (exit code {done.returncode}): {last}")
    return done.stdout


def _pictures(log: str, frames: int) -> list[tuple[Any, int]]:
    """Type and bits of every frame; empty unless the log has all of them in display order."""
    pictures = _PICTURE.findall(log)
    numbers = [int(number) for number, _, _ in pictures]  # from 0 again at each IDR picture
    in_order = all(b in (0, a + 1) for a, b in zip([-1, *numbers], numbers, strict=False))
    if len(pictures) != frames or not in_order:
        return []
    return [(kind.upper(), int(bits)) for _, kind, bits in pictures]
