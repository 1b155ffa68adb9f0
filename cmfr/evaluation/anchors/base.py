"""What all anchors share: what they code, the loop over it, and how quality is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import av

from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.found_sets import find_set, set_of_files
from cmfr.evaluation.kept import identity_hash, keep, kept_beside, kept_file, read_kept
from cmfr.evaluation.records import Record, read_results, write_results
from cmfr.evaluation.sequences import open_sequence
from cmfr.utils.errors import UserError
from cmfr.utils.versions import code_hash
from cmfr.video.color import planes_to_tensor, yuv_to_rgb
from cmfr.video.info import Frame, VideoInfo, resolve_color, samples_hash
from cmfr.video.metrics import rgb_quality, stored_quality
from cmfr.video.reader import VideoReader, open_video


@dataclass(frozen=True)
class Source:
    """A sequence to code: names for the results, how to open it, how many frames it has (None: all
    of the file), and the names of all sequences of its set, where it is of one."""

    dataset: str
    name: str
    open: Callable[[], VideoReader]
    frames: int | None = None
    set_sequences: tuple[str, ...] = ()


def test_sources(
    name_or_yaml: str, root: Path, frames: int | None, tell: Callable[[str], None]
) -> list[Source]:
    """All sequences of a test set in a folder, of which `frames` are wanted; see
    sequences.find_set. Raises ValueError, FileNotFoundError."""
    found = find_set(name_or_yaml, root, None, frames, tell)
    return [
        Source(
            found.dataset, s.name, partial(open_sequence, path, s), frames or s.frames, found.names
        )
        for s, path in found.sequences
    ]


def video_sources(videos: Sequence[Path], frames: int | None = None) -> list[Source]:
    """Video files by their names, of which `frames` (None: all) are wanted; see
    found_sets.set_of_files."""
    found = set_of_files(videos, frames)
    return [Source(found.dataset, s.name, partial(open_video, path)) for s, path in found.sequences]


def require_420(info: VideoInfo, name: str) -> None:
    """Raise ValueError for what the anchors are not run on: not 4:2:0, or odd sizes."""
    if info.chroma != "420":
        raise UserError(f"{name} is {info.chroma}, anchors take 4:2:0 video only")
    if info.width % 2 or info.height % 2:
        raise UserError(f"{name} has the odd size {info.width}x{info.height}")


@lru_cache(maxsize=256)
def source_hash(source: Source, frames: int | None) -> str:
    """Of the samples of its first `frames` frames (None: all). Raises ValueError where there are
    fewer."""
    count = 0

    def counted(frame: Frame) -> Frame:
        nonlocal count
        count += 1
        return frame

    with source.open() as reader:
        digest = samples_hash(map(counted, islice(reader, frames)))
    if frames is not None and count < frames:
        raise UserError(f"{source.name} has {count} frames, not {frames}")
    return digest


Code = Callable[[float, int], Record]  # a rate and its index


def code_all(
    sources: Sequence[Source],
    settings: Any,
    output: Path,
    coder: Callable[[Source], AbstractContextManager[Code]],
    module: str,
) -> list[Record]:
    """Code all sequences at all rates, by what `coder` of `module` gives for a sequence, and write
    the records to `output`. What is done is kept as by `run.evaluate`.

    settings: see `ffmpeg.Settings`.

    Raises ValueError for an encoder that is not there, for videos that it cannot take and for an
    `output` with another codec's results, which would be lost; OSError.
    """
    _check_same_codec(output, settings.name)
    records: list[Record] = []
    for source in sources:
        wanted = request(settings, source, module)
        with coder(source) as code:
            for index, rate in enumerate(sorted(settings.rates, reverse=True)):
                path = kept_file(kept_beside(output), identity_hash(wanted | {"rate": rate}))
                record = read_kept(path, index, source.set_sequences)
                if record is None:
                    record = code(rate, index)
                    keep(path, record)
                    print(describe(record), flush=True)
                records.append(record)
    write_results(output, records)
    return records


def _check_same_codec(output: Path, codec: str) -> None:
    if output.is_file():
        others = sorted({r.codec for r in read_results(output)} - {codec})
        if others:
            raise UserError(f"{output} holds results of {others[0]}; give another file")


def request(settings: Any, source: Source, module: str) -> dict[str, Any]:
    """What decides a record besides its rate, as JSON values: settings without their `rates`, what
    is coded, and the code of the module that does it."""

    def described(value: object) -> str:
        """Files by name and content: where they lie is nobody's business."""
        if not isinstance(value, Path):
            return str(value)
        return f"{value.name}, SHA-256 {hashlib.sha256(value.read_bytes()).hexdigest()}"

    samples = source_hash(source, settings.conditions.frames or source.frames)
    values = asdict(settings).items()
    decisive = {name: described(value) for name, value in values if name != "rates"}
    return decisive | {
        "dataset": source.dataset,
        "sequence": source.name,
        "source": samples,
        "code": code_hash(module),
        "pyav": av.__version__,
    }


def describe(record: Record) -> str:
    """One line for the terminal."""
    mean = record.average()
    shown = [f"{mean.bpp:.5f} bpp"]
    shown += [f"{k} {v:.4f}" for k, v in mean.quality.items() if k.endswith(("_yuv", "_rgb", "_y"))]
    return f"{record.sequence} {record.codec} {record.label}: {', '.join(shown)}"


def check_rates(rates: Sequence[float]) -> None:
    """Raises ValueError for what no encoder can take."""
    if not rates or len(set(rates)) < len(rates) or min(rates) < 0:
        raise UserError(f"rates {[f'{r:g}' for r in rates]} are to be different, not negative")


# --- quality


def frame_metrics(
    source: Frame, decoded: Frame, info: VideoInfo, asked: CodingConditions
) -> dict[str, float]:
    """Metrics by name: of the stored samples, and where RGB is measured of what both become in RGB.

    The source then is the 8-bit picture that RGB networks are fed and judged against too; the
    decoded samples are not rounded unless it is asked for.
    """
    quality = stored_quality(source, decoded, info)
    if asked.color == "rgb":
        info = resolve_color(info, asked.matrix, asked.range)
        x = planes_to_tensor(source, info, "rgb")
        rounded = asked.rounds_rgb
        y = planes_to_tensor(decoded, info, "rgb") if rounded else yuv_to_rgb(decoded, info)
        quality |= rgb_quality(x, y)
    return quality


def conditions_met(
    source: Source, info: VideoInfo, asked: CodingConditions, frames: int
) -> CodingConditions:
    """As results state them, of a program that codes 4:2:0 samples as they are stored."""
    note = "coded as stored, in 4:2:0" if asked.color == "rgb" else ""
    return asked.met(info, frames, source_hash(source, asked.frames or source.frames), note)


def compare_videos(
    source: VideoReader, decoded: VideoReader, frames: int, asked: CodingConditions
) -> list[dict[str, float]]:
    """Quality of the first `frames` frames. Raises ValueError if `decoded` is another video."""
    info, coded = source.info, decoded.info
    if (info.plane_shapes, info.bit_depth) != (coded.plane_shapes, coded.bit_depth):
        raise UserError(f"{source.path} was coded, but {coded.width}x{coded.height} decoded")
    pairs = zip(islice(source, frames), decoded, strict=True)
    return [frame_metrics(a, b, info, asked) for a, b in pairs]
