"""Test sets as data: which sequences, of what shape, where to get them; and whether they are there.

A set is one YAML file, `configs/test/NAME.yaml` here, or one of the reader's own. Its sequences
lie in one folder, each as a raw .yuv file, a folder of numbered PNGs or a video file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from cmfr.config import Strict
from cmfr.evaluation.clip_lists import ClipLists, Inner, Positive, Track, check_clips
from cmfr.utils.config_files import find_config
from cmfr.utils.errors import UserError, unknown
from cmfr.utils.files import inner_name, inside
from cmfr.utils.yaml_config import faults, read_tree
from cmfr.video.containers import count_shown
from cmfr.video.info import RAW_FORMATS, ColorInfo, VideoInfo, parse_frame_rate, parse_raw_name
from cmfr.video.reader import VideoReader, open_video

NAMED_SUFFIXES = (".mkv", ".mp4", ".y4m")  # of a sequence's file, in this order
FrameRate = Annotated[
    Fraction, PlainValidator(parse_frame_rate), PlainSerializer(str, return_type=str)
]


class TestSequence(Strict):
    """One sequence.

    width, height: pixels.
    frame_rate: frames per second.
    frames: their number.
    chroma: "rgb" says that it is known as PNGs (or RGB video) only.
    file: a glob pattern relative to the set's folder, for a sequence whose file is not called after
    its name.
    may_be_longer: the file may hold more frames, of which the first `frames` are the sequence.
    """

    __test__ = False  # its name looks like a test's to pytest

    name: Annotated[str, Field(pattern=r"^[^/]+$"), AfterValidator(inner_name)]
    width: Positive
    height: Positive
    frame_rate: FrameRate
    frames: Positive
    bit_depth: Literal[8, 10] = 8
    chroma: Literal["420", "444", "rgb"] = "420"
    file: Inner | None = None
    may_be_longer: bool = False

    @property
    def info(self) -> VideoInfo:
        """The video's shape; its color matrix and range are not known here."""
        return VideoInfo(
            self.width,
            self.height,
            self.frame_rate,
            ColorInfo(),
            self.chroma,
            self.bit_depth,
            self.frames,
        )

    @property
    def pixel_format(self) -> str | None:
        """The layout of a raw file, one of info.RAW_FORMATS; None for RGB, which has none."""
        layout = (self.chroma, self.bit_depth)
        return next((name for name, value in RAW_FORMATS.items() if value == layout), None)


class TestSet(Strict):
    """A test set. It has either sequences or lists of clips.

    source: where to get it.
    """

    __test__ = False

    name: str
    title: str
    source: str
    notes: str = ""
    sequences: tuple[TestSequence, ...] = ()
    clips: ClipLists | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> TestSet:
        if bool(self.sequences) == (self.clips is not None):
            raise UserError("a test set has either sequences or clips")
        names = [sequence.name for sequence in self.sequences]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"a sequence is there twice: {', '.join(twice)}")
        return self

    def chosen(self, names: Sequence[str] | None) -> tuple[TestSequence, ...]:
        """Its sequences of these names, in the set's order; all without names. Raises ValueError
        for a name that it has not, and where it has only lists of clips."""
        known = [sequence.name for sequence in self.sequences]
        for name in names or ():
            if name not in known:
                raise UserError(unknown(f"{self.name} has no sequence called", name, known))
        if not known:
            raise UserError(f"{self.name} has no sequences")
        return tuple(s for s in self.sequences if not names or s.name in names)


def load_test_set(name_or_path: str | Path) -> TestSet:
    """A shipped set by its name ("hevc_d"), or one from a YAML file.

    Raises FileNotFoundError or ValueError, each with one sentence that says what is wrong.
    """
    path = find_config("test", name_or_path)
    try:
        return TestSet.model_validate(read_tree(path, []))
    except ValidationError as error:
        raise UserError(f"{path}: {faults(error, TestSet)}") from error


def find_sequence(root: Path, sequence: TestSequence) -> Path:
    """The file or folder that holds a sequence: its `file` pattern, NAME.yuv, a folder NAME with
    PNGs, or NAME.mkv, .mp4 or .y4m, whichever is there first.

    Raises FileNotFoundError if there is none, ValueError if several files fit the pattern, or one
    is a link that leads out of `root`.
    """
    path = _find(root, sequence)
    return inside(root, path.relative_to(root).as_posix())


def _find(root: Path, sequence: TestSequence) -> Path:
    name = sequence.name
    if sequence.file is not None:
        found = sorted(root.glob(sequence.file))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{root}: {name} is to be one file {sequence.file}, found {names}")
        if found:
            return found[0]
    raw = root / f"{name}.yuv"
    if sequence.pixel_format is not None and raw.is_file():
        return raw
    if (root / name).is_dir():
        return root / name
    videos = [root / f"{name}{suffix}" for suffix in NAMED_SUFFIXES]
    for path in videos:
        if path.is_file():
            return path
    first = f"{raw} is" if sequence.pixel_format else f"{root / name}/ (a folder of PNGs) is"
    others = [f"a folder {name}/ of PNGs"] if sequence.pixel_format else []
    others += [path.name for path in videos]
    raise FileNotFoundError(f"{first} missing, and so are {', '.join(others)}")


def open_sequence(path: Path, sequence: TestSequence) -> VideoReader:
    """A reader of what `find_sequence` found, with the sequence's shape and frame rate."""
    if path.is_file() and path.suffix.lower() == ".yuv":
        return open_video(
            path,
            size=(sequence.width, sequence.height),
            pixel_format=sequence.pixel_format,
            frame_rate=sequence.frame_rate,
        )
    return open_video(path, frame_rate=sequence.frame_rate)


# --- checks


def check_test_set(
    test_set: TestSet, root: Path, *, full: bool = False, track: Track = iter
) -> list[str]:
    """One sentence for every fault of the set in the folder `root`; empty if there is none.

    Looks at presence, sizes and counts.

    full: decode every frame as well.
    track: is given the names of the sequences or clips to go through.
    """
    if not root.is_dir():
        return [f"{root} is not a folder"]
    if test_set.clips is not None:
        return check_clips(test_set.clips, root, full, track)
    sequences = {sequence.name: sequence for sequence in test_set.sequences}
    faults: list[str] = []
    for name in track(list(sequences)):
        faults += check_sequence(root, sequences[name], full=full).faults
    return faults


@dataclass(frozen=True)
class SequenceCheck:
    """A sequence held against its entry.

    path: its file, None where there is none.
    found: what is in it, in a few words.
    faults: a sentence each.
    """

    sequence: TestSequence
    path: Path | None
    found: str = ""
    faults: tuple[str, ...] = ()


def check_sequence(
    root: Path, sequence: TestSequence, *, wanted: int | None = None, full: bool = False
) -> SequenceCheck:
    """Size, samples, number of frames and frame rate of a sequence's file.

    wanted: as many frames will do, where there are fewer than listed.
    full: decode every frame as well.
    """
    path: Path | None = None
    faults: list[str] = []
    try:
        path = find_sequence(root, sequence)
        if path.is_file() and path.suffix.lower() == ".yuv":
            if sequence.pixel_format is None:
                raise UserError(f"{path} is a .yuv file, which {sequence.name} (RGB) cannot be in")
            info = sequence.info
            frames, faults = _check_raw(path, sequence, wanted)
        else:
            with open_sequence(path, sequence) as reader:
                info = reader.info
            frames, faults = _check_video(path, sequence, info, wanted)
        faults += _check_rate(path, sequence)
        if full and not faults:
            with open_sequence(path, sequence) as reader:
                for _ in islice(reader, sequence.frames):
                    pass
    except (ValueError, OSError) as error:
        return SequenceCheck(sequence, path, faults=(str(error),))
    layout = "RGB" if info.chroma == "rgb" else f"4:{info.chroma[1]}:{info.chroma[2]}"
    found = f"{path}: {info.width}x{info.height}, {layout}, {info.bit_depth} bit, "
    found += f"{float(sequence.frame_rate):g} frames per second, {frames} frames"
    if frames < sequence.frames:
        found += f" of {sequence.frames}"
    if (count := wanted or sequence.frames) != frames:
        found += f", the first {count} are coded"
    return SequenceCheck(sequence, path, found, tuple(faults))


def _check_raw(path: Path, sequence: TestSequence, wanted: int | None) -> tuple[int, list[str]]:
    """Frames and faults. The size of a raw file tells its number of frames, and often its bit
    depth."""
    unit, found = sequence.info.frame_bytes, path.stat().st_size
    frames, rest = divmod(found, unit)
    expected = (
        f"expected {sequence.frames * unit} bytes ({sequence.frames} frames of "
        f"{sequence.width}x{sequence.height} {sequence.pixel_format}), found {found}"
    )
    if sequence.bit_depth == 8 and found == 2 * sequence.frames * unit:
        return frames, [f"{path}: {expected}, twice as many, as a 10-bit file has"]
    if sequence.bit_depth == 10 and 2 * found == sequence.frames * unit:
        return frames, [f"{path}: {expected}, half as many, as an 8-bit file has"]
    if rest:
        kind = "truncated" if frames < sequence.frames else "of another size or format"
        said = f"{path}: {expected}, which is {frames} frames and {rest} bytes: it looks {kind}"
        return frames, [said]
    fits = _count_fits(frames, sequence, wanted)
    return frames, [] if fits else [f"{path}: {expected}, which is {frames} frames"]


def _check_video(
    path: Path, sequence: TestSequence, info: VideoInfo, wanted: int | None
) -> tuple[int, list[str]]:
    """Frames and faults in size, count and sample layout, of a folder of PNGs or a video file."""
    pictures = path.is_dir()
    faults: list[str] = []
    if (info.width, info.height) != (sequence.width, sequence.height):
        faults.append(
            f"{path}: expected {sequence.width}x{sequence.height}, found {info.width}x{info.height}"
        )
    found, expected = (info.chroma, info.bit_depth), (sequence.chroma, sequence.bit_depth)
    if not pictures and found != expected:  # PNGs are always 8-bit RGB, from whatever source
        faults.append(
            f"{path}: expected {expected[0]} samples of {expected[1]} bit, "
            f"found {found[0]} of {found[1]} bit"
        )
    frames = count_frames(path, info)
    if not _count_fits(frames, sequence, wanted):
        faults.append(f"{path}: expected {sequence.frames} frames, found {frames}")
    return frames, faults


def _check_rate(path: Path, sequence: TestSequence) -> list[str]:
    """Against the rate that a video file states, or that the name of a raw file says."""
    if path.is_dir():
        return []
    if path.suffix.lower() == ".yuv":
        said = parse_raw_name(path.stem).rate
        rate = parse_frame_rate(said) if said else sequence.frame_rate
    else:
        with open_video(path) as reader:
            rate = reader.info.frame_rate
    if abs(rate / sequence.frame_rate - 1) < 1e-3:
        return []
    expected, found = (f"{float(r):.6g}" for r in (sequence.frame_rate, rate))
    return [f"{path}: expected {expected} frames per second, found {found}"]


def _count_fits(frames: int, sequence: TestSequence, wanted: int | None) -> bool:
    least, most = wanted or sequence.frames, sequence.frames
    return least <= frames and (frames <= most or sequence.may_be_longer)


def count_frames(path: Path, info: VideoInfo) -> int:
    """Frames that are really there, without decoding: headers of cut files say too many."""
    if info.frame_count is not None and (path.is_dir() or path.suffix.lower() == ".yuv"):
        return info.frame_count
    return count_shown(path)
