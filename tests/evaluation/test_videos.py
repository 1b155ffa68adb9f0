"""A measured point is what the files say."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from cmfr.codec.checkpoint import save_weights
from cmfr.codec.codec import Codec, load_codec
from cmfr.evaluation.videos import (
    CurveTask,
    RatePoint,
    find_videos,
    measure_curve,
    measure_curves,
    measure_point,
    read_curve,
    write_clip,
)
from cmfr.nn.densities import weights_of
from cmfr.video.metrics import compare
from cmfr.video.reader import open_video


@pytest.fixture(scope="module")
def codec(nano):
    return Codec(nano, b"weights!", next(nano.parameters()).device)


@pytest.mark.parametrize(("intra_period", "frames"), [(-1, None), (3, 5)])
def test_a_point_equals_what_the_files_say(codec, yuv_file, tmp_path, intra_period, frames):
    point = measure_point(codec, yuv_file, 40, intra_period, frames)
    stream, decoded = tmp_path / "a.cmfr", tmp_path / "a_80x48_25.yuv"
    codec.encode_video(yuv_file, stream, quality=40, intra_period=intra_period, frames=frames)
    codec.decode_video(stream, decoded)
    with open_video(yuv_file, frames=frames) as a, open_video(decoded) as b:
        compared = [compare(x, y, a.info) for x, y in zip(a, b, strict=True)]
    assert point.frames == len(compared) == (frames or 6)
    assert point.bytes == stream.stat().st_size
    assert point.bpp == 8 * point.bytes / (point.frames * 80 * 48)
    assert point.psnr == pytest.approx(np.mean([c.psnr for c in compared], axis=0), abs=1e-9)
    y, u, v = point.psnr
    assert point.psnr_yuv == pytest.approx((6 * y + u + v) / 8, abs=1e-9)
    assert point.ms_ssim is None and point.quality == 40
    assert point.encode_fps > 0 and point.decode_fps > 0


def test_curve_and_json(codec, yuv_file):
    points = measure_curve(codec, yuv_file, (10, 50), frames=2)
    assert [p.quality for p in points] == [10, 50]
    assert points[0].bytes < points[1].bytes
    assert [RatePoint.of(x) for x in json.loads(json.dumps([asdict(p) for p in points]))] == points
    again = measure_point(codec, yuv_file, 10, frames=2)
    speeds = {"encode_fps": 1.0, "decode_fps": 1.0}
    assert replace(again, **speeds) == replace(points[0], **speeds)


def test_bad_input_is_named(codec, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.mp4 does not exist"):
        measure_point(codec, tmp_path / "nothing.mp4", 40)


def test_videos_are_found_by_name(tmp_path, yuv_file):
    folder, pictures = tmp_path / "set", tmp_path / "pictures.v2"
    folder.mkdir()
    pictures.mkdir()
    for path in (folder / "b_16x16.yuv", folder / "a.mp4", folder / "notes.txt"):
        path.touch()
    (pictures / "im001.png").touch()
    found = find_videos([yuv_file, folder, pictures])
    assert list(found) == ["moving_80x48_25", "a", "b_16x16", "pictures.v2"]
    assert found["a"] == folder / "a.mp4" and found["pictures.v2"] == pictures
    (tmp_path / "empty").mkdir()
    for paths, reason in (
        ([tmp_path / "x.mp4"], "no video .*x.mp4"),
        ([tmp_path / "empty"], "empty holds no videos"),
        ([folder / "a.mp4", folder], "two videos are called a"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            find_videos(paths)


def test_curves_side_by_side(nano, tmp_path, yuv_file, capsys, monkeypatch):
    """One file per curve, a bad video does not stop the others, nothing is measured twice."""
    weights, bad = tmp_path / "w.safetensors", tmp_path / "bad.mp4"
    save_weights(weights, weights_of(nano), nano.cfg)
    bad.write_bytes(b"no video")
    tasks = {
        tmp_path / "nano" / f"{video.stem}.json": CurveTask(weights, "cpu", video, (10, 50), -1, 2)
        for video in (bad, yuv_file)
    }
    failed, good = tasks
    failures = measure_curves(tasks, 2, 1, {"git": "abc"})
    assert list(failures) == ["nano on bad"] and "bad.mp4" in failures["nano on bad"]
    assert not failed.exists()
    curve = read_curve(good, tasks[good])
    assert curve is not None and curve.versions == {"git": "abc"}
    expected = measure_curve(load_codec(weights, "cpu"), yuv_file, (10, 50), frames=2)
    assert [p.bytes for p in curve.points] == [p.bytes for p in expected]
    capsys.readouterr()
    assert measure_curves({good: tasks[good]}, 2, 1, {}) == {} and not capsys.readouterr().out
    for other in (
        replace(tasks[good], frames=3),
        replace(tasks[good], qualities=(10, 40)),
        replace(tasks[good], weights=tmp_path / "gone.safetensors"),
    ):
        assert read_curve(good, other) is None
    monkeypatch.setattr("cmfr.evaluation.videos.code_hash", lambda module: "corrected")
    assert read_curve(good, tasks[good]) is None
    monkeypatch.undo()
    assert read_curve(good, tasks[good]) is not None
    save_weights(weights, {k: v * 1.01 for k, v in weights_of(nano).items()}, nano.cfg)
    assert read_curve(good, tasks[good]) is None
    good.write_text("{")
    assert read_curve(good, tasks[good]) is None


def test_a_clip_becomes_a_video_of_its_colors(tmp_path):
    clip = torch.zeros(3, 3, 32, 48)
    clip[:, 0] = 1  # red
    write_clip(tmp_path / "red.y4m", clip)
    with open_video(tmp_path / "red.y4m") as reader:
        frames = list(reader)
    assert len(frames) == 3 and (reader.info.width, reader.info.height) == (48, 32)
    assert [int(plane[0, 0]) for plane in frames[2].planes] == [54, 98, 255]  # BT.709, full range
