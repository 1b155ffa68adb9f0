"""Test sets with their files: in a folder of a set, or made of any videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cmfr.evaluation.sequences import TestSequence, check_sequence, count_frames, load_test_set
from cmfr.utils.errors import UserError
from cmfr.video.pictures import with_suffix
from cmfr.video.reader import VIDEO_SUFFIXES, open_video


@dataclass(frozen=True)
class FoundSet:
    """Sequences of a test set, each with its file.

    names: of all sequences of the set.
    """

    dataset: str
    sequences: tuple[tuple[TestSequence, Path], ...]
    names: tuple[str, ...]


def find_set(
    name_or_path: str | Path,
    root: Path,
    names: Sequence[str] | None,
    frames: int | None,
    tell: Callable[[str], None],
) -> FoundSet:
    """The sequences of these names (None: all) of a test set in a folder, held against their
    entries; see `load_test_set` and `find_all`, which raise FileNotFoundError, ValueError."""
    test = load_test_set(name_or_path)
    found = find_all(test.chosen(names), root, frames, tell)
    return FoundSet(test.name, tuple(found), tuple(s.name for s in test.sequences))


def find_all(
    sequences: Sequence[TestSequence], root: Path, frames: int | None, tell: Callable[[str], None]
) -> list[tuple[TestSequence, Path]]:
    """Each sequence with its file, of which the first `frames` (None: all that are listed) are
    wanted. All are held against their entries first, and `tell` gets a line for each.

    Raises FileNotFoundError for a folder that is not there, ValueError where a sequence has not so
    many frames, is missing, or is not what its entry says.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    for sequence in sequences:
        if frames is not None and frames > sequence.frames:
            raise UserError(f"{sequence.name} has {sequence.frames} frames, not {frames}")
    checks = [check_sequence(root, s, wanted=frames) for s in sequences]
    for check in checks:
        tell("; ".join(check.faults) or check.found)
    if bad := [check.sequence.name for check in checks if check.faults]:
        raise UserError(
            f"{', '.join(bad)}: not what the test set says, see above; nothing was coded"
        )
    return [(check.sequence, check.path) for check in checks if check.path is not None]


def set_of_files(paths: Sequence[Path], frames: int | None = None) -> FoundSet:
    """A test set "videos" made of files: videos, folders of PNGs, and all videos of other folders.

    A sequence is called as its file without suffix, and has all the file's frames, or the first
    `frames`. Raises FileNotFoundError for a path that is not there, ValueError for a folder without
    videos, for what is no video or too short, and for two of one name.
    """
    found: dict[str, tuple[TestSequence, Path]] = {}
    for path in chain.from_iterable(map(_videos_of, paths)):
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise UserError(f"two videos are called {name}: {found[name][1]} and {path}")
        with open_video(path) as reader:
            info = reader.info
        count = count_frames(path, info)
        if not count:
            raise UserError(f"{path} holds no frames")
        if count < (frames or count):
            raise UserError(f"{path} has {count} frames, not {frames}")
        sequence = TestSequence(
            name=name,
            width=info.width,
            height=info.height,
            frame_rate=info.frame_rate,
            frames=frames or count,
            bit_depth=info.bit_depth,
            chroma=info.chroma,
            may_be_longer=True,
        )
        found[name] = (sequence, path)
    return FoundSet("videos", tuple(found.values()), tuple(found))


def _videos_of(path: Path) -> list[Path]:
    """A video, a folder of PNGs, or the video files of another folder."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    videos = with_suffix(path.iterdir(), VIDEO_SUFFIXES)
    if not videos and not with_suffix(path.iterdir(), (".png",)):
        raise UserError(f"{path} holds no videos")
    return videos or [path]
