"""`cmfr data`: clips that resume, checks that fail with reasons, PNGs to the pixel."""

import csv
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from training.data.test_prepare_clips import difference, scene, write_video

from cmfr.cli.main import main
from cmfr.evaluation.sequences import load_test_set
from cmfr.video.color import planes_to_tensor
from cmfr.video.info import resolve_color
from cmfr.video.reader import open_video


@pytest.fixture
def run(capsys):
    """Run the command in this process; (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return main(["data", *map(str, arguments)]), *capsys.readouterr()

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


@pytest.fixture
def videos(tmp_path):
    root = tmp_path / "videos"
    (root / "deep" / "er").mkdir(parents=True)
    write_video(root / "a.mkv", scene(20, 1) + scene(20, 2))
    write_video(root / "deep" / "er" / "a.mkv", scene(12, 3))
    write_video(root / "still.mkv", scene(1, 3) * 30)
    (root / "notes.txt").write_text("no video")
    return root


OPTIONS = ("--frames", "5..10", "--height", 32)


# --- clips


def test_clips_and_manifest(run, videos, tmp_path):
    out = tmp_path / "out" / "clips"
    code, said, _ = run("clips", videos, out, *OPTIONS)
    assert (code, said) == (0, f"5 clips written to {out}; 0 videos were done before\n")
    manifest = rows(out / "manifest.csv")
    assert [(r["source"], r["first_frame"], r["frames"]) for r in manifest] == [
        ("a.mkv", "0", "10"),
        ("a.mkv", "10", "10"),
        ("a.mkv", "20", "10"),
        ("a.mkv", "30", "10"),
        ("deep/er/a.mkv", "0", "10"),
    ]
    assert {(r["width"], r["height"], r["fps"]) for r in manifest} == {("54", "32", "25")}
    files = {p.name for p in out.iterdir()} - {"manifest.csv", "sources.csv"}
    assert files == {r["file"] for r in manifest} and len(files) == 5
    for row in manifest:
        with open_video(out / row["file"]) as reader:
            assert (reader.info.width, reader.info.height) == (54, 32)
            assert len(list(reader)) == 10


def test_a_second_run_does_nothing_and_a_lost_clip_is_made_again(run, videos, tmp_path):
    out = tmp_path / "out"
    assert run("clips", videos, out, *OPTIONS)[0] == 0
    before = state(out)
    code, said, _ = run("clips", videos, out, *OPTIONS)
    assert (code, said) == (0, f"0 clips written to {out}; 3 videos were done before\n")
    assert state(out) == before

    lost = rows(out / "manifest.csv")[1]["file"]
    (out / lost).unlink()
    assert "4 clips written" in run("clips", videos, out, *OPTIONS)[1]
    after = state(out)
    assert after.keys() == before.keys()
    other = rows(out / "manifest.csv")[0]["file"]
    assert other.startswith("a_") and after[other] == before[other]
    assert len(rows(out / "manifest.csv")) == 5


def test_an_interrupted_run_leaves_no_junk_behind(run, videos, tmp_path):
    out = tmp_path / "out"
    assert run("clips", videos, out, *OPTIONS)[0] == 0
    complete = sorted(map(tuple, (r.values() for r in rows(out / "manifest.csv"))))
    names = state(out).keys()
    sources = (out / "sources.csv").read_text().splitlines()
    kept = [line for line in sources if not line.startswith("a.mkv")]
    (out / "sources.csv").write_text("\n".join(kept))  # and no end of the last line
    clip = next(name for name in names if name.endswith("_000010.mp4"))
    stem = clip.removesuffix("_000010.mp4")
    (out / f"{stem}_000011.mp4").write_bytes(b"clip of other settings")
    (out / f".{stem}_000030.123.part.mp4").write_bytes(b"half a clip")
    code, said, _ = run("clips", videos, out, *OPTIONS)
    assert (code, said) == (0, f"4 clips written to {out}; 2 videos were done before\n")
    assert state(out).keys() == names
    assert sorted(map(tuple, (r.values() for r in rows(out / "manifest.csv")))) == complete


def test_a_changed_video_is_done_again(run, videos, tmp_path):
    out = tmp_path / "out"
    assert run("clips", videos, out, *OPTIONS)[0] == 0
    write_video(videos / "still.mkv", scene(8, 5))
    assert "1 clips written" in run("clips", videos, out, *OPTIONS)[1]
    assert [r["clips"] for r in rows(out / "sources.csv") if r["source"] == "still.mkv"] == ["1"]


def test_broken_videos_are_reported_and_the_others_done(run, videos, tmp_path):
    out = tmp_path / "out"
    (videos / "broken.mp4").write_bytes(b"this is no video" * 100)
    (videos / "unnamed.yuv").write_bytes(bytes(100))
    code, said, error = run("clips", videos, out, *OPTIONS)
    assert code == 1
    assert "5 clips written" in said
    assert f"{videos / 'broken.mp4'} is not a video that can be opened" in said
    assert f"{videos / 'unnamed.yuv'} does not say its size" in said
    assert error == "cmfr data: clips of 2 videos could not be made, see above\n"
    assert "0 clips written" in run("clips", videos, out, *OPTIONS)[1]
    (videos / "broken.mp4").unlink()
    (videos / "unnamed.yuv").unlink()
    assert run("clips", videos, out, *OPTIONS)[0] == 0


def test_two_processes_make_the_same_clips(run, videos, tmp_path):
    (videos / "broken.mp4").write_bytes(b"this is no video" * 100)
    one, two = tmp_path / "one", tmp_path / "two"
    run("clips", videos, one, *OPTIONS)
    command = [
        sys.executable,
        "-m",
        "cmfr",
        "data",
        "clips",
        videos,
        two,
        *map(str, OPTIONS),
        "--workers",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert "5 clips written" in done.stdout and "broken.mp4" in done.stdout
    assert done.stderr.endswith("cmfr data: clips of 1 videos could not be made, see above\n")
    first, second = (sorted(map(str, rows(out / "manifest.csv"))) for out in (one, two))
    assert first == second
    for path in one.glob("*.mp4"):  # x264 does not always write the same bytes for the same frames
        with open_video(path) as a, open_video(two / path.name) as b:
            assert all(difference(*pair) < 1 for pair in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "out"), "no folder nowhere"),
        (("videos", "videos/out"), "videos/out lies in videos"),
        (("empty", "out"), "empty holds no video files"),
        (("videos", "out", "--height", "31"), "the height must be even"),
        (("videos", "out", "--workers", "0"), "workers must be 1 or more"),
    ],
)
def test_wrong_requests(run, videos, monkeypatch, arguments, message):
    monkeypatch.chdir(videos.parent)
    Path("empty").mkdir()
    code, _, error = run("clips", *arguments)
    assert code == 1
    assert error.startswith(f"cmfr data: {message}") and error.count("\n") == 1


def test_other_settings_need_another_folder(run, videos, tmp_path):
    assert run("clips", videos, tmp_path / "out", *OPTIONS)[0] == 0
    code, _, error = run("clips", videos, tmp_path / "out", *OPTIONS, "--crf", "20")
    assert code == 1 and "holds clips made with min_frames=5" in error


def test_a_missing_library_is_said_at_once(run, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    code, _, error = run("clips", videos, tmp_path / "out")
    assert code == 1 and "pip install cmfr[prepare]" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (SHARED / "data" / "devtest").is_dir(), reason="no shared videos")
def test_real_videos_have_no_cuts_and_no_repeats(run, tmp_path):
    code, _, _ = run("clips", SHARED / "data" / "devtest", tmp_path / "out", "--frames", "8..16")
    assert code == 0
    manifest = rows(tmp_path / "out" / "manifest.csv")
    frames: dict[str, int] = {}
    for row in manifest:
        frames[row["source"]] = frames.get(row["source"], 0) + int(row["frames"])
        assert row["repeats"] == "0"
        assert min(int(row["width"]), int(row["height"])) <= 256
    assert sum(frames.values()) == 96 + 48 + 96 + 41 + 48  # all but remainders under 8 frames


# --- check


def test_check(run, tmp_path):
    for s in load_test_set("hevc_d").sequences:
        with (tmp_path / f"{s.name}.yuv").open("wb") as file:
            file.truncate(s.info.frame_bytes * s.frames)
    code, said, error = run("check", "hevc_d", tmp_path)
    assert (code, error) == (0, "")
    assert said == f"hevc_d: complete in {tmp_path} (4 sequences, 1900 frames)\n"
    (tmp_path / "BQSquare_416x240_60.yuv").unlink()
    code, said, error = run("check", "hevc_d", tmp_path)
    assert code == 1
    assert said.startswith(f"{tmp_path / 'BQSquare_416x240_60.yuv'} is missing")
    assert error.startswith(f"cmfr data: hevc_d: 1 fault in {tmp_path}; HEVC class D")
    assert "ftp://hevc@mpeg.tnt.uni-hannover.de" in error and error.count("\n") == 1


def test_many_faults_are_cut_and_counted(run, tmp_path):
    code, said, error = run("check", "mcl_jcv", tmp_path)
    assert code == 1
    assert len(said.splitlines()) == 21 and said.endswith("... and 10 more\n")
    assert "30 faults" in error and "mcl.usc.edu" in error


def test_check_of_septuplets(run, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: tiny\ntitle: Tiny\nsource: nowhere\nclips:\n  lists: {list.txt: 1}\n"
        "  folder: sequences\n  picture: im{}.png\n  frames: 2\n  width: 20\n  height: 10\n"
    )
    folder = tmp_path / "sequences" / "1" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "list.txt").write_text("1/1\n")
    for n in (1, 2):
        Image.new("RGB", (20, 10)).save(folder / f"im{n}.png")
    code, said, _ = run("check", own, tmp_path, "--full")
    assert (code, said) == (0, f"tiny: complete in {tmp_path} (1 clips)\n")


def test_check_of_an_unknown_set(run, tmp_path):
    code, _, error = run("check", "hevc_x", tmp_path)
    assert code == 1 and error.startswith("cmfr data: no test configuration is called 'hevc_x'")


# --- yuv2png


@pytest.mark.parametrize("range", ["full", "limited"])
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
def test_pngs_are_the_color_modules_pixels(run, yuv_file, tmp_path, matrix, range):
    out = tmp_path / "pngs_29.97"  # a dot is no extension here
    code, said, _ = run("yuv2png", yuv_file, out, "--matrix", matrix, "--range", range)
    assert (code, said) == (0, f"6 pictures in {out}\n")
    with open_video(yuv_file) as reader:
        info = resolve_color(reader.info, matrix, range)
        for number, frame in enumerate(reader, 1):
            rgb = planes_to_tensor(frame, info, "rgb")[0].clamp(0, 1).mul(255).round()
            pixels = np.asarray(Image.open(out / f"im{number:05d}.png"))
            assert np.array_equal(pixels, rgb.byte().permute(1, 2, 0).numpy())
    text = (out / "conversion.txt").read_text()
    assert f"source: {yuv_file.name}\n" in text
    assert f"matrix: {matrix}\nrange: {range}\n" in text
    assert "chroma upsampling: linear, from corner to corner" in text and "frames: 6\n" in text
    with open_video(out) as reader:
        assert reader.info.frame_count == 6


def test_the_color_is_asked_for_unless_the_file_says_it(run, yuv_file, tmp_path):
    code, _, error = run("yuv2png", yuv_file, tmp_path / "a", "--matrix", "bt709")
    assert code == 1 and "give --range" in error and not (tmp_path / "a").exists()
    tagged = write_video(tmp_path / "tagged.mkv", scene(2, 1))
    assert run("yuv2png", tagged, tmp_path / "b")[0] == 0
    assert "matrix: bt601\nrange: limited\n" in (tmp_path / "b" / "conversion.txt").read_text()


def test_a_raw_file_with_a_name_that_says_nothing(run, yuv_file, tmp_path):
    plain = yuv_file.rename(tmp_path / "plain.yuv")
    color = ("--matrix", "bt709", "--range", "full")
    code, _, error = run("yuv2png", plain, tmp_path / "a", *color)
    assert code == 1 and "does not say its size" in error
    size = ("--size", "80x48", "--pixel-format", "yuv420p", "--frame-rate", "30000/1001")
    assert run("yuv2png", plain, tmp_path / "new" / "b", *color, *size)[0] == 0
    with open_video(tmp_path / "new" / "b", frame_rate=Fraction(25)) as reader:
        assert (reader.info.width, reader.info.height) == (80, 48)
    code, _, error = run("yuv2png", plain, tmp_path / "new" / "b", *color, *size)
    assert code == 1 and "is not empty" in error
