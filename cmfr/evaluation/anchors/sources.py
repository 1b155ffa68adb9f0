"""What anchors code, and what an interrupted run of them has coded already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import av

from cmfr.evaluation.records import Record, read_results
from cmfr.evaluation.sequences import find_all, load_test_set, open_sequence
from cmfr.utils.errors import UserError
from cmfr.utils.versions import code_hash
from cmfr.video.info import Frame, VideoInfo, samples_hash
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
    sequences.find_all. Raises ValueError, FileNotFoundError."""
    test_set = load_test_set(name_or_yaml)
    if not test_set.sequences:
        raise UserError(f"the test set {test_set.name} has no sequences to code")
    names = tuple(s.name for s in test_set.sequences)
    return [
        Source(test_set.name, s.name, partial(open_sequence, path, s), frames or s.frames, names)
        for s, path in find_all(test_set.sequences, root, frames, tell)
    ]


def video_sources(videos: Sequence[Path], dataset: str = "videos") -> list[Source]:
    """Video files by their names. Raises ValueError for two of one name, FileNotFoundError."""
    names = [path.stem for path in videos]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two videos are called {', '.join(twice)}")
    for path in videos:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    return [Source(dataset, path.stem, partial(open_video, path)) for path in videos]


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


def request(settings: Any, source: Source, rates: str, module: str) -> dict[str, Any]:
    """What decides a record besides its rate, as JSON values: settings without their `rates`, the
    samples that are coded, and the code of the module that does it."""

    def told(value: object) -> str:
        """Files by name and size: where they lie is nobody's business."""
        if not isinstance(value, Path):
            return str(value)
        return f"{value.name}, {value.stat().st_size} bytes"

    samples = source_hash(source, settings.frames or source.frames)
    found = {name: told(value) for name, value in asdict(settings).items() if name != rates}
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
