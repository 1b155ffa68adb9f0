"""Every shipped test set: its figures, and that each kind of fault is found and named."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import write_yuv
from PIL import Image
from pydantic import ValidationError
from training.data.test_prepare_clips import scene

from cmfr.evaluation.clip_lists import ClipLists
from cmfr.evaluation.found_sets import set_of_files
from cmfr.evaluation.sequences import (
    TestSequence,
    TestSet,
    check_test_set,
    find_sequence,
    load_test_set,
    open_sequence,
)
from cmfr.utils.config_files import shipped
from cmfr.utils.errors import UserError
from cmfr.video.info import RGB_COLOR, ColorInfo, Frame, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

NAMES = sorted(path.stem for path in shipped("test").glob("*.yaml"))


def sequence(**changes: object) -> TestSequence:
    values = {"name": "Pan_80x48_25", "width": 80, "height": 48, "frame_rate": 25, "frames": 6}
    return TestSequence.model_validate({**values, **changes})


def one(*sequences: TestSequence) -> TestSet:
    return TestSet(name="own", title="Own set", source="nowhere", sequences=sequences)


def sparse(path: Path, size: int) -> None:
    """A file of that size which takes no place on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def write_pngs(folder: Path, width: int, height: int, frames: int) -> None:
    folder.mkdir(parents=True)
    Image.new("RGB", (width, height)).save(folder / "im00001.png")
    data = (folder / "im00001.png").read_bytes()
    for number in range(2, frames + 1):
        (folder / f"im{number:05d}.png").write_bytes(data)


def stand_in(test_set: TestSet, root: Path) -> Path:
    """A tree of the set's layout, with files of the true sizes; the first sequence's path."""
    for sequence in test_set.sequences:
        if sequence.chroma == "rgb":
            write_pngs(root / sequence.name, sequence.width, sequence.height, sequence.frames)
        else:
            sparse(root / f"{sequence.name}.yuv", sequence.info.frame_bytes * sequence.frames)
    return find_sequence(root, test_set.sequences[0])


# --- the shipped sets


def test_all_are_there():
    assert NAMES == [
        "devtest",
        *(f"hevc_{c}" for c in ("a", "b", "c", "d", "e", "rgb")),
        "mcl_jcv",
        "uvg",
        "vimeo90k",
    ]


@pytest.mark.parametrize(
    ("name", "count", "size", "frames"),
    [
        ("hevc_a", 2, (2560, 1600), 300),
        ("hevc_b", 5, (1920, 1080), 2080),
        ("hevc_c", 4, (832, 480), 1900),
        ("hevc_d", 4, (416, 240), 1900),
        ("hevc_e", 3, (1280, 720), 1800),
        ("hevc_rgb", 6, (1920, 1080), 576),
        ("uvg", 7, (1920, 1080), 3900),
        ("mcl_jcv", 30, (1920, 1080), 16 * 150 + 7 * 125 + 7 * 120),
    ],
)
def test_figures(name, count, size, frames):
    test_set = load_test_set(name)
    assert test_set.name == name
    assert len(test_set.sequences) == count
    assert {(s.width, s.height) for s in test_set.sequences} == {size}
    assert {s.bit_depth for s in test_set.sequences} == {8}
    assert sum(s.frames for s in test_set.sequences) == frames
    for s in test_set.sequences:
        assert f"_{s.width}x{s.height}_{s.frame_rate}" in s.name


def test_vimeo_figures():
    clips = load_test_set("vimeo90k").clips
    assert clips is not None
    assert clips.lists == {"sep_trainlist.txt": 64612, "sep_testlist.txt": 7824}
    assert (clips.width, clips.height, clips.frames) == (448, 256, 7)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vimeo90k"])
def test_a_complete_set_passes_and_each_fault_is_named(name, tmp_path):
    test_set = load_test_set(name)
    if test_set.sequences[0].chroma == "rgb":  # PNGs cannot be sparse
        small = [s.model_copy(update={"width": 64, "height": 32}) for s in test_set.sequences]
        test_set = test_set.model_copy(update={"sequences": tuple(small)})
    first = stand_in(test_set, tmp_path)
    s = test_set.sequences[0]
    assert check_test_set(test_set, tmp_path) == []

    if first.is_dir():
        (first / "im00096.png").unlink()
        assert check_test_set(test_set, tmp_path) == [f"{first}: expected 96 frames, found 95"]
        return
    unit = s.width * s.height * 3 // 2
    head = f"{first}: expected {unit * s.frames} bytes ({s.frames} frames of {s.width}x{s.height}"
    for size, end in (
        (unit * s.frames - 1, f"{s.frames - 1} frames and {unit - 1} bytes: it looks truncated"),
        (unit * 96, f"found {unit * 96}, which is 96 frames"),
        (unit * s.frames * 2, "twice as many, as a 10-bit file has"),
        (unit * s.frames + 5, f"{s.frames} frames and 5 bytes: it looks of another size or format"),
    ):
        sparse(first, size)
        (fault,) = check_test_set(test_set, tmp_path)
        assert fault.startswith(head) and fault.endswith(end), fault
    first.rename(tmp_path / "other.yuv")
    (fault,) = check_test_set(test_set, tmp_path)
    assert fault.startswith(f"{first} is missing, and so are a folder {s.name}/ of PNGs, {s.name}")


def test_all_faults_are_listed(tmp_path):
    test_set = load_test_set("mcl_jcv")
    assert len(check_test_set(test_set, tmp_path)) == 30
    assert check_test_set(test_set, tmp_path / "no") == [f"{tmp_path / 'no'} is not a folder"]


# --- finding, and the other kinds of files


def test_what_is_found_first(tmp_path):
    s = sequence()
    for suffix in (".y4m", ".mp4", ".mkv"):
        sparse(tmp_path / f"{s.name}{suffix}", 10)
        assert find_sequence(tmp_path, s) == tmp_path / f"{s.name}{suffix}"
    (tmp_path / s.name).mkdir()
    assert find_sequence(tmp_path, s) == tmp_path / s.name
    sparse(tmp_path / f"{s.name}.yuv", 10)
    assert find_sequence(tmp_path, s) == tmp_path / f"{s.name}.yuv"


def test_a_file_pattern(tmp_path):
    s = sequence(file="raw/pan_*.yuv")
    sparse(tmp_path / "raw" / "pan_a.yuv", 6 * 5760)
    assert check_test_set(one(s), tmp_path) == []
    sparse(tmp_path / "raw" / "pan_b.yuv", 6 * 5760)
    (fault,) = check_test_set(one(s), tmp_path)
    assert "is to be one file raw/pan_*.yuv, found pan_a.yuv, pan_b.yuv" in fault


def test_an_8_bit_file_for_a_10_bit_sequence(tmp_path):
    s = sequence(bit_depth=10)
    sparse(tmp_path / f"{s.name}.yuv", 6 * 5760 * 2)
    assert check_test_set(one(s), tmp_path) == []
    sparse(tmp_path / f"{s.name}.yuv", 6 * 5760)
    (fault,) = check_test_set(one(s), tmp_path)
    assert fault.endswith("found 34560, half as many, as an 8-bit file has")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".y4m"])
def test_a_video_file(tmp_path, suffix):
    path = tmp_path / f"Pan_80x48_25{suffix}"
    info = VideoInfo(80, 48, Fraction(25), ColorInfo(), "420", 8)
    with open_writer(path, info) as writer:
        for frame in scene(6, 1):
            writer.write(frame)
    assert check_test_set(one(sequence()), tmp_path, full=True) == []
    wrong = sequence(width=160, frames=7, bit_depth=10)
    assert check_test_set(one(wrong), tmp_path) == [
        f"{path}: expected 160x48, found 80x48",
        f"{path}: expected 420 samples of 10 bit, found 420 of 8 bit",
        f"{path}: expected 7 frames, found 6",
    ]


def test_a_folder_of_pictures(tmp_path):
    folder = tmp_path / "Pan_80x48_25"
    write_pngs(folder, 80, 48, 7)
    assert check_test_set(one(sequence()), tmp_path) == [f"{folder}: expected 6 frames, found 7"]
    assert check_test_set(one(sequence(may_be_longer=True)), tmp_path) == []
    (folder / "im00003.png").unlink()
    (fault,) = check_test_set(one(sequence()), tmp_path)
    assert fault == f"{folder}: the numbered pictures have gaps: 3 missing"
    (folder / "im00007.png").rename(folder / "im00003.png")
    assert check_test_set(one(sequence()), tmp_path, full=True) == []
    data = (folder / "im00002.png").read_bytes()
    (folder / "im00002.png").write_bytes(data[: len(data) // 2])
    assert check_test_set(one(sequence()), tmp_path) == []
    (fault,) = check_test_set(one(sequence()), tmp_path, full=True)
    assert f"{folder / 'im00002.png'} is not a picture that can be read" in fault


def test_a_yuv_file_is_no_rgb_sequence(tmp_path):
    s = sequence(chroma="rgb")
    sparse(tmp_path / f"{s.name}.yuv", 6 * 5760)
    (fault,) = check_test_set(one(s), tmp_path)
    assert fault.startswith(f"{tmp_path / s.name}/ (a folder of PNGs) is missing")
    with open_writer(
        tmp_path / f"{s.name}.mkv", VideoInfo(80, 48, Fraction(25), RGB_COLOR, "rgb", 8)
    ) as writer:
        for _ in range(6):
            writer.write(Frame((np.zeros((48, 80), np.uint8),) * 3))
    assert check_test_set(one(s), tmp_path) == []


def test_reading_needs_nothing_from_the_name(tmp_path):
    s = sequence(name="plain", frame_rate="30000/1001", bit_depth=10)
    sparse(tmp_path / "plain.yuv", 6 * 5760 * 2)
    with open_sequence(find_sequence(tmp_path, s), s) as reader:
        assert reader.info == s.info
        assert reader.info.frame_rate == Fraction(30000, 1001)
        assert len(list(reader)) == 6


# --- lists of clips


@pytest.fixture
def septuplets(tmp_path):
    clips = ClipLists(
        lists={"sep_trainlist.txt": 2, "sep_testlist.txt": 1},
        folder="sequences",
        picture="im{}.png",
        frames=7,
        width=44,
        height=26,
    )
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        folder = tmp_path / "sequences" / name
        folder.mkdir(parents=True)
        for n in range(1, 8):
            Image.new("RGB", (44, 26)).save(folder / f"im{n}.png")
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n")
    (tmp_path / "sep_testlist.txt").write_text("00002/0001\n\n")
    return TestSet(name="own", title="Own", source="nowhere", clips=clips), tmp_path


def test_complete_septuplets(septuplets):
    assert check_test_set(*septuplets) == []
    assert check_test_set(*septuplets, full=True) == []


def test_faults_of_septuplets(septuplets):
    test_set, root = septuplets
    sequences = root / "sequences"
    (root / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n00009/0001\n")
    (sequences / "00001/0001/im3.png").unlink()
    (sequences / "00001/0001/im7.png").unlink()
    Image.new("RGB", (26, 44)).save(sequences / "00001/0002/im1.png")
    Image.new("RGB", (44, 26)).save(sequences / "00002/0001/im1.png", "JPEG")
    (sequences / "00002/0001/im2.png").write_bytes(b"no picture")
    faults = [
        f"{root / 'sep_trainlist.txt'}: expected 2 lines, found 3",
        f"{sequences / '00001/0001'}: im3.png, im7.png missing",
        f"{sequences / '00001/0002/im1.png'}: expected 44x26, found 26x44",
        f"{sequences / '00009/0001'} is missing",
        f"{sequences / '00002/0001/im1.png'}: expected a PNG, found JPEG",
    ]
    assert check_test_set(test_set, root) == faults
    full = check_test_set(test_set, root, full=True)
    assert full[:-1] == faults and "im2.png is not a picture that can be read" in full[-1]


def test_missing_lists_and_folder(septuplets):
    test_set, root = septuplets
    (root / "sep_testlist.txt").unlink()
    (root / "sequences").rename(root / "else")
    assert check_test_set(test_set, root) == [
        f"{root / 'sep_testlist.txt'} is missing (a list of 1 clips)",
        f"{root / 'sequences'} is missing",
    ]


# --- files of test sets


GOOD = "name: own\ntitle: Own\nsource: here\nsequences:\n"
LINE = "  - {name: A, width: 16, height: 16, frame_rate: 25, frames: 2}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + LINE + LINE, "a sequence is there twice: A"),
        (GOOD + LINE.replace("frames: 2", "frames: 0"), "sequences.0.frames"),
        (GOOD + LINE.replace("frame_rate: 25", "frame_rate: x"), "'x' is not a frame rate"),
        (
            GOOD + LINE.replace("width", "widht"),
            "sequences.0.widht: no key is called 'widht'; there",
        ),
        ("name: own\ntitle: Own\nsource: here\n", "either sequences or clips"),
        ("- 1\n", "holds no mapping of keys to values"),
        ("name: [\n", "not valid YAML"),
        ("name: \udcff\n", "not valid YAML"),  # no UTF-8
    ],
)
def test_a_wrong_file_is_said_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as caught:
        load_test_set(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(ValueError, match="'hevc_x'; there are devtest, hevc_a, hevc_b"):
        load_test_set("hevc_x")
    with pytest.raises(FileNotFoundError, match="no configuration file no/such.yaml"):
        load_test_set("no/such.yaml")


def test_a_set_survives_json(tmp_path):
    test_set = one(sequence(frame_rate="30000/1001"))
    assert TestSet.model_validate_json(test_set.model_dump_json()) == test_set


def test_files_are_a_test_set(tmp_path, yuv_file):
    """Files, folders of videos, folders of PNGs: by name, with the shape and frames they have."""
    folder, pictures = tmp_path / "set", tmp_path / "pictures.v2"
    folder.mkdir()
    write_yuv(folder / "b_32x16_50.yuv", 3, 16, 32)
    (folder / "notes.txt").touch()
    with open_video(yuv_file, frames=4) as source:
        with open_writer(folder / "a.mkv", source.info) as writer:
            for frame in source:
                writer.write(frame)
    with open_video(yuv_file, frames=2, matrix="bt709", range="full") as source:
        with open_writer(f"{pictures}/", source.info) as writer:
            for frame in source:
                writer.write(frame)
    found = set_of_files([yuv_file, folder, pictures])
    shapes = {
        s.name: (path, s.width, s.height, float(s.frame_rate), s.frames, s.chroma)
        for s, path in found.sequences
    }
    assert shapes == {
        "moving_80x48_25": (yuv_file, 80, 48, 25, 6, "420"),
        "a": (folder / "a.mkv", 80, 48, 25, 4, "420"),
        "b_32x16_50": (folder / "b_32x16_50.yuv", 32, 16, 50, 3, "420"),
        "pictures.v2": (pictures, 80, 48, 30, 2, "rgb"),
    }
    assert found.names == tuple(shapes) and found.dataset == "videos"
    for sequence, path in found.sequences:
        with open_sequence(path, sequence) as reader:
            assert sum(1 for _ in reader) == sequence.frames
    limited = set_of_files([folder], frames=3).sequences
    assert [sequence.frames for sequence, _ in limited] == [3, 3]
    with pytest.raises(ValueError, match="b_32x16_50.yuv has 3 frames, not 4"):
        set_of_files([folder], frames=4)


def test_files_that_are_no_test_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "set").mkdir()
    write_yuv(tmp_path / "set" / "a_32x16.yuv", 2, 16, 32)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "still.y4m").write_bytes(b"YUV4MPEG2 W32 H16 F25:1 C420jpeg\n")
    for paths, reason in (
        (["x.mp4"], "x.mp4 does not exist"),
        (["empty"], "empty holds no videos"),
        (["set/a_32x16.yuv", "set"], "two videos are called a_32x16"),
        (["bad.mp4"], "bad.mp4"),
        (["still.y4m"], "still.y4m holds no frames"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            set_of_files([tmp_path / path for path in paths])


# --- names from files lead nowhere but into their folder


@pytest.mark.parametrize("name", ["/etc/passwd", "../other", "a/../../other", "a/b", ""])
def test_names_of_sequences_are_names(name):
    with pytest.raises(ValidationError, match="name"):
        sequence(name=name)


@pytest.mark.parametrize("file", ["/etc/*", "../*.yuv", "a/../../*.yuv"])
def test_patterns_of_files_stay_in_the_folder(file):
    with pytest.raises(ValidationError, match="no name of something inside a folder"):
        sequence(file=file)


@pytest.mark.parametrize("pattern", [None, "Pan*.yuv"])
def test_links_out_of_a_set_are_refused_links_inside_are_not(tmp_path, pattern):
    root, wanted = tmp_path / "set", sequence(file=pattern)
    root.mkdir()
    write_yuv(tmp_path / "other.yuv", 6, 48, 80)
    (root / "Pan_80x48_25.yuv").symlink_to(tmp_path / "other.yuv")
    with pytest.raises(UserError, match=f"Pan_80x48_25.yuv leads out of {root}, by a link"):
        find_sequence(root, wanted)
    (tmp_path / "other.yuv").rename(root / "other.yuv")
    (root / "Pan_80x48_25.yuv").unlink()
    (root / "Pan_80x48_25.yuv").symlink_to("other.yuv")
    (tmp_path / "set too").symlink_to(root)
    for folder in (root, tmp_path / "set too"):
        assert find_sequence(folder, wanted) == folder / "Pan_80x48_25.yuv"


@pytest.mark.parametrize(
    "changes",
    [{"lists": {"../a.txt": 1}}, {"lists": {"/a.txt": 1}}, {"folder": ".."}, {"folder": "/"}]
    + [{"picture": name} for name in ("/im{}.png", "../{}", "{:9}.png", "{0.real}", "im.png")],
)
def test_lists_of_clips_stay_in_the_folder(changes):
    good = {"lists": {"a.txt": 1}, "folder": "sequences", "picture": "im{}.png"}
    shape = {"frames": 7, "width": 448, "height": 256}
    ClipLists.model_validate({**good, **shape})
    with pytest.raises(ValidationError):
        ClipLists.model_validate({**good, **shape, **changes})


def test_lines_of_lists_that_lead_elsewhere_are_faults(septuplets):
    test_set, root = septuplets
    name = next(iter(test_set.clips.lists))
    (root / "elsewhere").mkdir()
    (root / "sequences" / "linked").symlink_to(root / "elsewhere")
    for line, says in (
        ("../elsewhere", "no name of something inside"),
        (str(root), "no name of something inside"),
        ("linked", "linked leads out of .*sequences, by a link"),
    ):
        lines = (root / name).read_text().split()
        (root / name).write_text("\n".join([line, *lines[1:]]))
        (fault,) = check_test_set(test_set, root)
        assert re.search(says, fault)
