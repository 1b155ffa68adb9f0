"""Test sets as data: which sequences, of what shape, where to get them; and whether they are there.

A set is one YAML file, `configs/test/NAME.yaml` here, or one of the reader's own. Its sequences
lie in one folder, each as a raw .yuv file, a folder of numbered PNGs or a video file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import av
import av.error
import yaml
from PIL import Image
from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from cmfr.config import Strict
from cmfr.frames import RAW_FORMATS, ColorInfo, VideoInfo, parse_frame_rate
from cmfr.video_in import VideoReader, open_video

VIDEO_SUFFIXES = (".mkv", ".mp4", ".y4m")
Positive = Annotated[int, Field(ge=1)]
FrameRate = Annotated[
    Fraction, PlainValidator(parse_frame_rate), PlainSerializer(str, return_type=str)
]
Track = Callable[[list[str]], Iterable[str]]  # iterates over names, e.g. with a progress bar


class TestSequence(Strict):
    """One sequence: its name, width x height in pixels, frames per second, number of frames.

    chroma "rgb" says that it is known as PNGs (or RGB video) only. file: a glob pattern relative
    to the set's folder, for a sequence whose file is not called after its name. may_be_longer:
    the file may hold more frames, of which the first `frames` are the sequence.
    """

    __test__ = False  # its name looks like a test's to pytest

    name: str = Field(min_length=1)
    width: Positive
    height: Positive
    frame_rate: FrameRate
    frames: Positive
    bit_depth: Literal[8, 10] = 8
    chroma: Literal["420", "444", "rgb"] = "420"
    file: str | None = None
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
        """The layout of a raw file, one of frames.RAW_FORMATS; None for RGB, which has none."""
        layout = (self.chroma, self.bit_depth)
        return next((name for name, value in RAW_FORMATS.items() if value == layout), None)


class ClipLists(Strict):
    """A set of many short clips of one size, as Vimeo-90k septuplets.

    lists: list file -> number of its lines, each a folder below `folder`; picture: name of a
    frame in it, numbered from 1; width x height in pixels.
    """

    lists: dict[str, Positive] = Field(min_length=1)
    folder: str
    picture: str
    frames: Positive
    width: Positive
    height: Positive


class TestSet(Strict):
    """A test set; source: where to get it. It has either sequences or lists of clips."""

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
            raise ValueError("a test set has either sequences or clips")
        names = [sequence.name for sequence in self.sequences]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"a sequence is there twice: {', '.join(twice)}")
        return self


def shipped_sets() -> Path:
    """Where the shipped sets are: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs" / "test"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs" / "test"


def load_test_set(name_or_path: str | Path) -> TestSet:
    """A shipped set by its name ("hevc_d"), or one from a YAML file.

    Raises FileNotFoundError or ValueError, each with one sentence that says what is wrong.
    """
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        folder = shipped_sets()
        path = folder / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise ValueError(f"no test set {str(name_or_path)!r}: it is none of {known}")
    if not path.is_file():
        raise FileNotFoundError(f"no test set file {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a YAML file that can be read: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not describe a test set")
    try:
        return TestSet.model_validate(content)
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, e['loc'])) or 'the set'}: {e['msg']}" for e in error.errors()
        )
        raise ValueError(f"{path}: {'; '.join(faults)}") from error


def find_sequence(root: Path, sequence: TestSequence) -> Path:
    """The file or folder that holds a sequence: its `file` pattern, NAME.yuv, a folder NAME with
    PNGs, or NAME.mkv, .mp4 or .y4m, whichever is there first.

    Raises FileNotFoundError if there is none, ValueError if several files fit the pattern.
    """
    name = sequence.name
    if sequence.file is not None:
        found = sorted(root.glob(sequence.file))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{root}: {name} is to be one file {sequence.file}, found {names}")
        if found:
            return found[0]
    raw = root / f"{name}.yuv"
    if sequence.pixel_format is not None and raw.is_file():
        return raw
    if (root / name).is_dir():
        return root / name
    videos = [root / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES]
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

    Looks at presence, sizes and counts; `full` decodes every frame as well. `track` is given the
    names of the sequences or clips to go through.
    """
    if not root.is_dir():
        return [f"{root} is not a folder"]
    if test_set.clips is not None:
        return _check_clips(test_set.clips, root, full, track)
    sequences = {sequence.name: sequence for sequence in test_set.sequences}
    faults = []
    for name in track(list(sequences)):
        faults += _check_sequence(root, sequences[name], full)
    return faults


def _check_sequence(root: Path, sequence: TestSequence, full: bool) -> list[str]:
    try:
        path = find_sequence(root, sequence)
        if path.is_file() and path.suffix.lower() == ".yuv":
            faults = _check_raw(path, sequence)
        else:
            faults = _check_video(path, sequence)
        if full and not faults:
            with open_sequence(path, sequence) as reader:
                for _ in islice(reader, sequence.frames):
                    pass
    except (ValueError, OSError) as error:
        return [str(error)]
    return faults


def _check_raw(path: Path, sequence: TestSequence) -> list[str]:
    """The size of a raw file tells its number of frames, and often its bit depth."""
    if sequence.pixel_format is None:
        return [f"{path} is a .yuv file, which {sequence.name} (RGB) cannot be in"]
    unit, found = sequence.info.frame_bytes, path.stat().st_size
    frames, rest = divmod(found, unit)
    expected = (
        f"expected {sequence.frames * unit} bytes ({sequence.frames} frames of "
        f"{sequence.width}x{sequence.height} {sequence.pixel_format}), found {found}"
    )
    if not rest and _count_fits(frames, sequence):
        return []
    if sequence.bit_depth == 8 and found == 2 * sequence.frames * unit:
        return [f"{path}: {expected}, twice as many, as a 10-bit file has"]
    if sequence.bit_depth == 10 and 2 * found == sequence.frames * unit:
        return [f"{path}: {expected}, half as many, as an 8-bit file has"]
    if rest:
        kind = "truncated" if frames < sequence.frames else "of another size or format"
        return [f"{path}: {expected}, which is {frames} frames and {rest} bytes: it looks {kind}"]
    return [f"{path}: {expected}, which is {frames} frames"]


def _check_video(path: Path, sequence: TestSequence) -> list[str]:
    """Size, count and sample layout of a folder of PNGs or of a video file."""
    pictures = path.is_dir()
    with open_sequence(path, sequence) as reader:
        info = reader.info
    faults = []
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
    frames = _count_packets(path) if info.frame_count is None or not pictures else info.frame_count
    if not _count_fits(frames, sequence):
        faults.append(f"{path}: expected {sequence.frames} frames, found {frames}")
    if pictures and (gaps := _missing_numbers(path)):
        faults.append(f"{path}: the numbered pictures have gaps: {_shortened(gaps)} missing")
    return faults


def _count_fits(frames: int, sequence: TestSequence) -> bool:
    return frames == sequence.frames or (sequence.may_be_longer and frames > sequence.frames)


def _count_packets(path: Path) -> int:
    """Frames that are really in a file, without decoding: headers of cut files say too many."""
    try:
        with av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is damaged: {error.strerror}") from error


def _missing_numbers(folder: Path) -> list[str]:
    digits = (re.findall(r"\d+", file.stem) for file in folder.glob("*.[pP][nN][gG]"))
    numbers = {int(found[-1]) for found in digits if found}
    return [str(n) for n in range(min(numbers), max(numbers)) if n not in numbers]


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _check_clips(clips: ClipLists, root: Path, full: bool, track: Track) -> list[str]:
    """Lists, files of every clip, and the size of its first picture (of all, if `full`)."""
    folder = root / clips.folder
    names, faults = _read_lists(clips, root)
    if not folder.is_dir():
        return [*faults, f"{folder} is missing"]
    pictures = [clips.picture.format(n) for n in range(1, clips.frames + 1)]
    for name in track(names):
        clip = folder / name
        if not clip.is_dir():
            faults.append(f"{clip} is missing")
            continue
        present = {file.name for file in clip.iterdir()}
        if missing := [picture for picture in pictures if picture not in present]:
            faults.append(f"{clip}: {', '.join(missing)} missing")
        there = [picture for picture in pictures if picture in present]
        for picture in there if full else there[:1]:
            fault = _picture_fault(clip / picture, (clips.width, clips.height), full)
            if fault:
                faults.append(fault)
    return faults


def _read_lists(clips: ClipLists, root: Path) -> tuple[list[str], list[str]]:
    """(names of clips, faults) of the list files."""
    names, faults = [], []
    for list_file, expected in clips.lists.items():
        path = root / list_file
        if not path.is_file():
            faults.append(f"{path} is missing (a list of {expected} clips)")
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").split()
        if len(lines) != expected:
            faults.append(f"{path}: expected {expected} lines, found {len(lines)}")
        names += lines
    return list(dict.fromkeys(names)), faults


def _picture_fault(path: Path, size: tuple[int, int], full: bool) -> str | None:
    try:
        with Image.open(path) as image:  # reads the header only
            if image.format != "PNG":
                return f"{path}: expected a PNG, found {image.format}"
            if image.size != size:
                found = f"{image.width}x{image.height}"
                return f"{path}: expected {size[0]}x{size[1]}, found {found}"
            if full:
                image.load()
    except (OSError, SyntaxError) as error:
        return f"{path} is not a picture that can be read: {error}"
    return None
