"""What all anchors share: what they code, the loop over it, and how quality is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import av

from cmfr.evaluation.conditions import Conditions, Measurement
from cmfr.evaluation.found_sets import find_set, set_of_files
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


def video_sources(videos: Sequence[Path]) -> list[Source]:
    """Video files by their names; see sequences.set_of_files."""
    found = set_of_files(videos)
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
        found = samples_hash(map(counted, islice(reader, frames)))
    if frames is not None and count < frames:
        raise UserError(f"{source.name} has {count} frames, not {frames}")
    return found


Code = Callable[[float, int], Record]  # a rate and its index


def code_all(
    sources: Sequence[Source],
    settings: Any,
    output: Path,
    coder: Callable[[Source], AbstractContextManager[Code]],
    module: str,
) -> list[Record]:
    """Code all sequences at all rates, by what `coder` of `module` gives for a sequence. The
    results file grows by each record that is done, and what it holds already, from the same
    command, is not coded again. settings: see `ffmpeg.Settings`.

    Raises ValueError for an encoder that is not there, for videos that it cannot take and for an
    `output` with other results; OSError.
    """
    before = finished(output, settings.name)
    records: list[Record] = []
    for source in sources:
        told = request(settings, source, module)
        with coder(source) as code:
            for index, rate in enumerate(sorted(settings.rates, reverse=True)):
                known = before.get((source.dataset, source.name, rate))
                if known is None or known.metadata.get("request") != told:
                    known = code(rate, index)
                    known.metadata["request"] = told
                    print(describe(known), flush=True)
                records.append(replace(known, rate_index=index))
                write_results(output, records + unreached(before, records))
    return records


def request(settings: Any, source: Source, module: str) -> dict[str, Any]:
    """What decides a record besides its rate, as JSON values: settings without their `rates`, the
    samples that are coded, and the code of the module that does it."""

    def told(value: object) -> str:
        """Files by name and size: where they lie is nobody's business."""
        if not isinstance(value, Path):
            return str(value)
        return f"{value.name}, {value.stat().st_size} bytes"

    samples = source_hash(source, settings.frames or source.frames)
    values = asdict(settings).items()
    found = {name: told(value) for name, value in values if name != "rates"}
    return found | {"source": samples, "code": code_hash(module), "pyav": av.__version__}


def finished(output: Path, codec: str) -> dict[tuple[str, str, float], Record]:
    """The records that a results file holds, by data set, sequence and rate.

    Raises ValueError for a file that holds another codec's, which would be lost."""
    if not output.is_file():
        return {}
    records = read_results(output)
    if others := sorted({r.codec for r in records} - {codec}):
        raise UserError(f"{output} holds results of {others[0]}; give another file")
    return {(r.dataset, r.sequence, float(r.label or 0)): r for r in records}


def unreached(before: dict[tuple[str, str, float], Record], records: list[Record]) -> list[Record]:
    """Records of an interrupted run whose place has not come up again; they must not be lost."""
    places = {(r.dataset, r.sequence) for r in records}
    return [r for key, r in before.items() if key[:2] not in places]


def describe(record: Record) -> str:
    """One line for the terminal."""
    mean = record.average()
    shown = [f"{mean.bpp:.5f} bpp"]
    shown += [f"{k} {v:.4f}" for k, v in mean.quality.items() if k.endswith(("_yuv", "_rgb", "_y"))]
    return f"{record.sequence} {record.codec} {record.label}: {', '.join(shown)}"


def check_rates(rates: Sequence[float], intra_period: int, frames: int | None) -> None:
    """Raises ValueError for what no encoder can take."""
    if not rates or len(set(rates)) < len(rates) or min(rates) < 0:
        raise UserError(f"rates {[f'{r:g}' for r in rates]} are to be different, not negative")
    if intra_period != -1 and intra_period < 1:
        raise UserError(f"the intra period {intra_period} is neither -1 nor at least 1")
    if frames is not None and frames < 1:
        raise UserError(f"frames must be 1 or more, not {frames}")


# --- quality


def frame_metrics(
    source: Frame, decoded: Frame, info: VideoInfo, measurement: Measurement
) -> dict[str, float]:
    """Metrics by name: of the stored samples, and where RGB is measured of what both become in RGB.

    The source then is the 8-bit picture that RGB networks are fed and judged against too; the
    decoded samples are not rounded unless `measurement` says so.
    """
    quality = stored_quality(source, decoded, info)
    if measurement.color == "rgb":
        info = resolve_color(info, measurement.matrix, measurement.range)
        x = planes_to_tensor(source, info, "rgb")
        rounded = measurement.round_8bit
        y = planes_to_tensor(decoded, info, "rgb") if rounded else yuv_to_rgb(decoded, info)
        quality |= rgb_quality(x, y)
    return quality


def conditions(source: Source, info: VideoInfo, settings: Any, frames: int) -> Conditions:
    """As results state them; settings: of a program that codes 4:2:0 samples as they are stored."""
    measured, period = settings.measurement, settings.intra_period
    note = "coded as stored, in 4:2:0" if measured.color == "rgb" else ""
    samples = source_hash(source, settings.frames or source.frames)
    return measured.conditions(info, period, frames, samples, note)


def compare_videos(
    source: VideoReader, decoded: VideoReader, frames: int, measurement: Measurement
) -> list[dict[str, float]]:
    """Quality of the first `frames` frames. Raises ValueError if `decoded` is another video."""
    one, other = source.info, decoded.info
    if (one.plane_shapes, one.bit_depth) != (other.plane_shapes, other.bit_depth):
        raise UserError(f"{source.path} was coded, but {other.width}x{other.height} decoded")
    pairs = zip(islice(source, frames), decoded, strict=True)
    return [frame_metrics(a, b, one, measurement) for a, b in pairs]
