"""Clips keep to one scene, hold no repeats, and are the samples of the source."""

import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmfr.training.data.clip_settings import ClipSettings
from cmfr.training.data.prepare_clips import (
    MovingFrame,
    clip_info,
    cut_clips,
    mark_cuts,
    moving_frames,
    prepare_source,
    shrink,
)
from cmfr.video.info import RGB_COLOR, ColorInfo, Frame, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

WIDTH, HEIGHT = 80, 48
BT601 = ColorInfo("bt601", "limited", 6, 6, 6)
INFO = VideoInfo(WIDTH, HEIGHT, Fraction(25), BT601, "420", 8)


def scene(frames: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> list[Frame]:
    """Smooth 4:2:0 noise that pans, there and back every 15 frames."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16 + 3, width // 16 + 3, generator=generator)
    wide = F.interpolate(coarse, scale_factor=16, mode="bicubic")[0].clamp(0, 1) * 219 + 16
    samples = wide.round().byte().numpy()
    half = np.s_[: (height + 1) // 2 * 2 : 2, : (width + 1) // 2 * 2 : 2]
    result = []
    for t in range(frames):
        shift = t % 30 if t % 30 <= 15 else 30 - t % 30
        y, u, v = samples[:, shift : shift + height, shift : shift + width]
        result.append(Frame((y.copy(), u[half].copy(), v[half].copy())))
    return result


def write_video(path: Path, frames: list[Frame], info: VideoInfo = INFO) -> Path:
    with open_writer(path, info) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def difference(a: Frame, b: Frame) -> float:
    return float(np.abs(a.planes[0].astype(int) - b.planes[0]).mean())


def marked(frames: Iterable[Frame]) -> Iterator[tuple[MovingFrame, bool]]:
    settings = ClipSettings()
    moving = moving_frames(frames, INFO, INFO, settings.min_motion)
    return mark_cuts(moving, INFO, settings.scene_threshold)


def test_clips_of_a_video_with_a_cut_a_still_stretch_and_repeats(tmp_path):
    first, second = scene(18, 1), scene(24, 2)
    first = [frame for i, frame in enumerate(first) for _ in range(2 if i % 5 == 4 else 1)]
    frames = first + second[:12] + [second[11]] * 9 + second[12:]  # 21 + 12 + 9 + 12
    write_video(tmp_path / "in.mkv", frames)
    out = tmp_path / "out"
    out.mkdir()
    settings = ClipSettings(min_frames=6, max_frames=10)
    rows = prepare_source(tmp_path, "in.mkv", out, settings)

    assert [(int(r[2]), int(r[3]), int(r[4])) for r in rows] == [
        (0, 10, 1),  # first frame, frames, repeats
        (12, 8, 1),  # a repeat between two clips is in neither
        (21, 10, 0),
        (42, 10, 0),
    ]
    assert sorted(p.name for p in out.iterdir()) == sorted(r[0] for r in rows)
    for row in rows:
        with open_video(out / row[0]) as reader:
            assert reader.info.color == BT601
            assert (reader.info.chroma, reader.info.bit_depth) == ("420", 8)
            assert (reader.info.width, reader.info.height) == (WIDTH, HEIGHT) == (80, 48)
            clip = list(reader)
        assert len(clip) == int(row[3])
        assert difference(clip[0], frames[int(row[2])]) < 3  # CRF 12, the frame that is named
        motion = [difference(a, b) for a, b in zip(clip, clip[1:], strict=False)]
        assert min(motion) > 1
        assert float(row[8]) == pytest.approx(np.mean(motion), rel=0.1)
        assert row[5:8] == ["80", "48", "25"]


@pytest.mark.parametrize("position", [1, 2, 3, 10, 17, 18, 19])
def test_a_cut_is_found_wherever_it_is(position):
    frames = scene(position, 1) + scene(20 - position, 2)
    assert [m.number for m, cut in marked(frames) if cut and m.number] == [position]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20])
def test_motion_alone_is_no_cut_and_no_frame_is_lost(count):
    found = list(marked(scene(count, 3)))
    assert [m.number for m, _ in found] == list(range(count))
    assert not any(cut for m, cut in found if m.number)


def test_a_scene_shown_with_every_frame_three_times_has_no_cuts():
    """Among repeats each new frame looks like a cut."""
    frames = [frame for frame in scene(12, 4) for _ in range(3)]
    found = list(marked(frames))
    assert [m.number for m, _ in found] == list(range(0, 36, 3))
    assert not any(cut for m, cut in found if m.number)


def test_clips_per_scene_are_limited_scene_by_scene():
    frames = scene(20, 1) + scene(20, 2)
    settings = ClipSettings(min_frames=4, max_frames=6, max_clips_per_scene=2)
    clips = list(cut_clips(marked(frames), settings))
    assert [(clip[0].number, len(clip)) for clip in clips] == [(0, 6), (6, 6), (20, 6), (26, 6)]


def test_a_still_video_gives_no_clip(tmp_path):
    write_video(tmp_path / "still.mkv", scene(1, 1) * 40)
    assert prepare_source(tmp_path, "still.mkv", tmp_path, ClipSettings(min_frames=2)) == []


def test_frames_are_read_only_as_clips_are_taken():
    """Memory must not grow: reading is ahead of a clip by the detector's window only."""
    read = []

    def endless():
        while True:
            for frame in scene(30, 1):
                read.append(1)
                yield frame

    settings = ClipSettings(min_frames=5, max_frames=5)
    clips = cut_clips(marked(endless()), settings)
    next(clips)
    next(clips)
    assert len(read) == 10 + 2


# --- sizes and layouts


@pytest.mark.parametrize(
    ("size", "height", "expected"),
    [
        ((1920, 1080), 256, (456, 256)),
        ((1080, 1920), 256, (256, 456)),
        ((416, 240), 256, (416, 240)),
        ((417, 241), 256, (416, 240)),
        ((720, 576), 256, (320, 256)),
    ],
)
def test_the_shorter_side_decides_and_nothing_grows(size, height, expected):
    info = clip_info(VideoInfo(*size, Fraction(25), BT601, "420", 10), height)
    assert (info.width, info.height) == expected
    assert (info.chroma, info.bit_depth, info.color) == ("420", 8, BT601)


def test_samples_of_the_right_layout_are_left_alone():
    frame = scene(1, 1, 49, 81)[0]
    info = VideoInfo(81, 49, Fraction(25), BT601, "420", 8)
    small = shrink(frame, info, clip_info(info, 48))
    for plane, source in zip(small.planes, frame.planes, strict=True):
        assert np.array_equal(plane, source[: plane.shape[0], : plane.shape[1]])


@pytest.mark.parametrize(
    ("range", "codes", "expected"),
    [("limited", (64, 512, 940), (16, 128, 235)), ("full", (0, 512, 1023), (0, 128, 255))],
)
def test_10_bit_levels_become_the_8_bit_levels(range, codes, expected):
    info = VideoInfo(32, 32, Fraction(25), ColorInfo("bt709", range), "444", 10)
    frame = Frame(tuple(np.full((32, 32), code, np.uint16) for code in codes))
    small = shrink(frame, info, clip_info(info, 16))
    assert [p.shape for p in small.planes] == [(16, 16), (8, 8), (8, 8)]
    assert [set(p.ravel().tolist()) for p in small.planes] == [{code} for code in expected]


def test_shrinking_averages():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[::2] = 200
    chroma = np.full((32, 32), 90, np.uint8)
    info = VideoInfo(64, 64, Fraction(25), BT601, "420", 8)
    small = shrink(Frame((stripes, chroma, chroma)), info, clip_info(info, 16))
    assert np.abs(small.planes[0].astype(int) - 100)[1:-1].max() <= 3
    assert (small.planes[1] == 90).all()


def test_rgb_becomes_bt709_and_says_so():
    info = VideoInfo(32, 32, Fraction(25), RGB_COLOR, "rgb", 8)
    target = clip_info(info, 32)
    assert (target.color.matrix, target.color.range, target.color.matrix_code) == (
        "bt709",
        "full",
        1,
    )
    white = Frame((np.full((32, 32), 255, np.uint8),) * 3)
    assert [int(p.mean()) for p in shrink(white, info, target).planes] == [255, 128, 128]


def test_too_small_a_video_is_refused():
    with pytest.raises(ValueError, match="40x8 is too small"):
        clip_info(VideoInfo(40, 8, Fraction(25), BT601, "420", 8), 256)


# --- faults


def test_a_video_that_is_damaged_midway_leaves_nothing(tmp_path):
    path = write_video(tmp_path / "in.y4m", scene(40, 1))
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + data[half:].replace(b"FRAME", b"BROKE"))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="in.y4m is damaged after 2. frames"):
        prepare_source(tmp_path, "in.y4m", out, ClipSettings(min_frames=4, max_frames=8))
    assert not list(out.iterdir())


def test_clips_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    write_video(tmp_path / "in.mkv", scene(40, 1))
    out = tmp_path / "out"
    out.mkdir()
    written = []

    def failing(*args, **kwargs):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(args[0])
        return open_writer(*args, **kwargs)

    monkeypatch.setattr("cmfr.training.data.prepare_clips.open_writer", failing)
    with pytest.raises(OSError, match="No space left"):
        prepare_source(tmp_path, "in.mkv", out, ClipSettings(min_frames=4, max_frames=8))
    assert len(written) == 2
    assert not list(out.iterdir())


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ValueError, match=r"pip install cmfr\[prepare\]"):
        list(marked(scene(3, 1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_frames": 9, "max_frames": 8}, "9..8"),
        ({"height": 255}, "even"),
        ({"scene_threshold": 0}, "threshold"),
        ({"min_motion": -1}, "motion"),
        ({"max_clips_per_scene": 0}, "clips per scene"),
        ({"crf": 52}, "crf"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(**wrong)
