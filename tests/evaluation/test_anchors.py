"""Anchors by FFmpeg's encoders and by reference software; the commands `anchor` and `bdrate`."""

import csv
import json
import math
import os
import sys
import textwrap
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.ndimage
from conftest import SHARED, write_yuv
from test_published import command

import cmfr.evaluation.anchors.ffmpeg as anchors
from cmfr.evaluation.anchors.base import Source, frame_metrics, video_sources
from cmfr.evaluation.anchors.ffmpeg import ENCODERS, Settings, code
from cmfr.evaluation.conditions import CodingConditions, DifferentConditions, check_comparable
from cmfr.evaluation.records import read_results
from cmfr.report.text import CLASS, MEAN
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.metrics import plane_psnr
from cmfr.video.reader import VideoReader, open_video

DEVTEST = SHARED / "data" / "devtest"
RGB = CodingConditions.asked("rgb")


@pytest.fixture
def video(tmp_path) -> Path:
    """Twelve frames of 96x64."""
    path = tmp_path / "pan_96x64_25.yuv"
    write_yuv(path, 12, 64, 96)
    return path


def settings(codec="x264", rates=(30.0,), **changes):
    return Settings(codec, rates, **changes)


# --- FFmpeg's encoders


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize(("period", "intra"), [(-1, [0]), (5, [0, 5, 10]), (1, list(range(12)))])
def test_intra_frames_are_where_they_are_asked_for(video, codec, period, intra):
    [source] = video_sources([video])
    r = code(
        source, settings(codec, conditions=CodingConditions.asked(intra_period=period)), 30.0, 0
    )
    assert [n for n, f in enumerate(r.frames) if f.type == "I"] == intra
    assert {f.type for f in r.frames} <= {"I", "P"}
    assert (r.conditions.intra_period, r.conditions.frames) == (period, 12)
    assert (r.conditions.color, r.conditions.rounding) == ("yuv420", "8bit")
    assert (r.dataset, r.sequence, r.label, r.width, r.frame_rate) == (
        "videos", "pan_96x64_25", 30, 96, 25,
    )  # fmt: skip
    assert 25 < r.mean("psnr_y") < 60 and r.bpp > 0.01
    assert r.metadata["encoder"] == ENCODERS[codec].library and r.metadata["pyav"] == av.__version__


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("mode", ["crf", "qp"])
def test_rate_and_quality_rise_together_and_runs_repeat(video, codec, mode):
    [source] = video_sources([video])
    chosen = settings(codec, (45.0, 20.0), mode=mode)
    low, high = (code(source, chosen, rate, i) for i, rate in enumerate(chosen.rates))
    assert low.bpp < high.bpp and low.mean("psnr_yuv") < high.mean("psnr_yuv")
    again = code(source, chosen, 45.0, 0)
    assert again.frames == low.frames
    assert low.codec == chosen.name == f"{codec}-{chosen.preset}" + ("-qp" if mode == "qp" else "")


@pytest.mark.parametrize("codec", ENCODERS)
def test_bits_and_pictures_are_those_of_the_stream(video, codec, monkeypatch):
    """Seen from outside: the stream file's size, and its frames decoded by PyAV alone."""
    sizes, pictures = [], []
    compare = anchors.compare_videos

    def spy(source, decoded, frames, color):
        sizes.append(decoded.path.stat().st_size)
        with av.open(str(decoded.path)) as container:
            pictures.extend(f.to_ndarray(format="yuv420p") for f in container.decode(video=0))
        return compare(source, decoded, frames, color)

    monkeypatch.setattr(anchors, "compare_videos", spy)
    r = code(video_sources([video])[0], settings(codec), 30.0, 0)
    container_bytes = 32 + 12 * len(r.frames) if ENCODERS[codec].format == "ivf" else 0
    extra = sizes[0] - container_bytes - sum(f.bits for f in r.frames) / 8
    assert 0 <= extra <= 2 * len(r.frames)  # .ivf of AV1 has a delimiter of two bytes a frame
    original = np.fromfile(video, np.uint8).reshape(12, -1)
    for frame, picture, stored in zip(r.frames, pictures, original, strict=True):
        luma = stored[: 64 * 96].reshape(64, 96)
        assert frame.quality["psnr_y"] == plane_psnr(luma, picture[:64], 255)


def test_text_about_settings_is_not_counted(video, monkeypatch):
    [source] = video_sources([video])
    with_filter = code(source, settings(), 30.0, 0)
    plain = replace(ENCODERS["x264"], filter="")
    monkeypatch.setitem(anchors.ENCODERS, "x264", plain)
    without = code(source, settings(), 30.0, 0)
    saved = [(a.bits - b.bits) / 8 for a, b in zip(without.frames, with_filter.frames, strict=True)]
    assert 500 < saved[0] < 900 and set(saved[1:]) == {0}
    qualities = [[f.quality for f in r.frames] for r in (with_filter, without)]
    assert qualities[0] == qualities[1]


@pytest.mark.parametrize("codec", ENCODERS)
def test_10_bit(tmp_path, codec):
    path = tmp_path / "pan_64x48_25_10bit_420.yuv"
    rng = np.random.default_rng(0)
    base = np.cumsum(rng.integers(0, 12, (4, 64 * 48 * 3 // 2)), axis=1) % 1000
    base.astype("<u2").tofile(path)
    [source] = video_sources([path])
    if codec == "vp9" and "yuv420p10le" not in anchors.encoder_formats("libvpx-vp9"):
        with pytest.raises(ValueError, match="libvpx-vp9 of this PyAV has no yuv420p10le, only"):
            code(source, settings(codec), 20.0, 0)
        return
    r = code(source, settings(codec), 20.0, 0)
    assert r.metadata["bit_depth"] == 10 and r.conditions.rounding == "10bit"
    assert r.mean("psnr_y") > 25


def test_rgb_is_measured_against_the_pictures_that_networks_get():
    """The source as DCVC's 8-bit PNG; what was decoded by the same conversion, not rounded."""
    info = VideoInfo(8, 6, Fraction(25), ColorInfo("bt601", "limited"), "420", 8)
    rng = np.random.default_rng(1)
    pictures = []
    for _ in range(2):
        shapes = ((6, 8), (3, 4), (3, 4))
        pictures.append(Frame(tuple(rng.integers(60, 200, s).astype(np.uint8) for s in shapes)))

    def rgb(frame):
        y, u, v = (plane / 255 for plane in frame.planes)
        u, v = (scipy.ndimage.zoom(c, 2, order=1) - 0.5 for c in (u, v))
        r, b = y + 1.5748 * v, y + 1.8556 * u
        return np.clip([r, (y - 0.2126 * r - 0.0722 * b) / 0.7152, b], 0, 1)

    source, decoded = map(rgb, pictures)
    reference = np.rint(source * 255) / 255
    mse = np.mean((reference - decoded) ** 2)
    found = frame_metrics(*pictures, info, RGB)
    assert found["psnr_rgb"] == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    assert found["psnr_y"] == plane_psnr(pictures[0].planes[0], pictures[1].planes[0], 255)
    rounded = frame_metrics(*pictures, info, replace(RGB, rounding="8bit"))["psnr_rgb"]
    mse = np.mean((reference - np.rint(decoded * 255) / 255) ** 2)
    assert rounded == pytest.approx(-10 * math.log10(mse), abs=1e-4) != found["psnr_rgb"]
    limited = CodingConditions.asked("rgb", "bt601", "limited")
    assert abs(frame_metrics(*pictures, info, limited)["psnr_rgb"] - found["psnr_rgb"]) > 0.5
    yuv = frame_metrics(*pictures, info, CodingConditions.asked())
    assert "ms_ssim_rgb" not in found and "psnr_rgb" not in yuv


def test_ms_ssim_of_equal_pictures_that_are_large_enough():
    info = VideoInfo(176, 162, Fraction(25), ColorInfo(), "420", 8)
    planes = tuple(np.full(s, 90, np.uint8) for s in info.plane_shapes)
    same = (Frame(planes), Frame(planes), info)
    found = frame_metrics(*same, replace(RGB, rounding="8bit"))
    assert found["ms_ssim_y"] == found["ms_ssim_rgb"] == 1
    assert found["psnr_rgb"] == found["psnr_yuv"] == 100
    # Not rounded, they differ from the reference by what its rounding left.
    assert 50 < frame_metrics(*same, RGB)["psnr_rgb"] < 65


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such system calls here")
@pytest.mark.parametrize("codec", ENCODERS)
def test_no_encoder_makes_this_process_more_urgent(video, tmp_path, codec):
    """As SVT-AV1 does as root, to real-time threads that starve the machine for good."""

    def policies():
        found = {int(task.name) for task in Path("/proc/self/task").iterdir()}
        return {os.sched_getscheduler(thread) for thread in found}

    before, chosen = policies(), settings(codec)
    with open_video(video) as reader:
        packets = anchors._encode(reader, None, chosen, chosen.options(30.0), tmp_path / "stream")
        assert [policies() for _ in packets] == [before] * 12
    assert policies() == before


@pytest.mark.parametrize("codec", ENCODERS)
def test_every_frame_comes_out_before_the_next_goes_in(video, tmp_path, codec):
    read, chosen = [], settings(codec)
    with open_video(video) as reader:
        counted = VideoReader(video, reader.info, lambda: (read.append(f) or f for f in reader))
        packets = anchors._encode(counted, None, chosen, chosen.options(30.0), tmp_path / "stream")
        assert [len(read) for _ in packets] == list(range(1, 13))


def test_memory_does_not_grow_with_the_video():
    info = VideoInfo(64, 48, Fraction(25), ColorInfo(), "420", 8)
    made: list[weakref.ref[Frame]] = []
    most = 0

    def frames():
        nonlocal most
        for number in range(200):
            frame = Frame(tuple(np.full(s, number, np.uint8) for s in info.plane_shapes))
            made.append(weakref.ref(frame))
            most = max(most, sum(reference() is not None for reference in made))
            yield frame

    source = Source("set", "long", lambda: VideoReader(Path("long"), info, frames))
    r = code(source, settings(), 40.0, 0)
    assert len(r.frames) == 200 and len(made) == 600 and most <= 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"codec": "h264"}, "codec 'h264' is not one of x264, x265"),
        ({"preset": "quick"}, "preset 'quick' of x264 is not one of .*veryslow"),
        ({"rates": (52.0,)}, "crf 52 is above 51, the highest of x264"),
        ({"rates": (30.0, 30.0)}, "are to be different"),
        ({"rates": (30.5,), "mode": "qp"}, "the QPs of x264 are whole numbers"),
        ({"rates": (30.5,), "codec": "svt-av1"}, "the CRFs of svt-av1 are whole numbers"),
        ({"rates": ()}, "are to be different"),
    ],
)
def test_settings_that_no_encoder_takes(changes, reason):
    with pytest.raises(ValueError, match=reason):
        settings(**changes)


def test_videos_that_are_refused(tmp_path, video):
    write_yuv(tmp_path / "odd_33x32_25.yuv", 2, 32, 33)
    (tmp_path / "full_32x32_25_444.yuv").write_bytes(bytes(32 * 32 * 3))
    reasons = {"odd_33x32_25": "odd size 33x32", "full_32x32_25_444": "4:2:0 video only"}
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"{name} .*{reason}"):
            code(video_sources([tmp_path / f"{name}.yuv"])[0], settings(), 30.0, 0)
    with pytest.raises(FileNotFoundError, match="absent.mp4 does not exist"):
        video_sources([tmp_path / "absent.mp4"])
    with pytest.raises(ValueError, match="two videos are called pan_96x64_25"):
        video_sources([video, video])
    with pytest.raises(ValueError, match="pan_96x64_25.* has 12 frames, not 13"):
        video_sources([video], 13)


def test_an_encoder_that_is_not_there_or_does_not_obey_is_said(video, monkeypatch):
    [source] = video_sources([video])
    monkeypatch.setitem(anchors.ENCODERS, "x264", replace(ENCODERS["x264"], library="libabsent"))
    with pytest.raises(ValueError, match="this PyAV .* has no encoder libabsent"):
        code(source, settings(), 30.0, 0)
    monkeypatch.undo()
    monkeypatch.setattr(Settings, "options", lambda *_: {"x264-params": "keyint=4:min-keyint=4"})
    with pytest.raises(ValueError, match=r"libx264 coded frames \[0, 4, 8\] of pan.* as intra"):
        code(source, settings(), 30.0, 0)


@pytest.mark.skipif(not DEVTEST.is_dir(), reason="the development sequences are not there")
@pytest.mark.parametrize(
    ("codec", "curve", "threads", "difference"),
    [
        # bytes of a file, ours - theirs: they count x264's text and leave out parameter sets
        ("x264", "x264-medium-ldp", 2, (-700, 0)),
        ("x265", "x265-medium-ldp", 1, (0, 150)),
        ("svt-av1", "svtav1-p6-ldp", 1, (0, 20)),
    ],
)
def test_equal_settings_give_the_known_figures(codec, curve, threads, difference):
    """x264 with 2 threads, as those figures were made with: it then codes two slices a frame."""
    name = "carphone_qcif_176x144"
    known = json.loads((DEVTEST / "anchors.json").read_text())["curves"][curve][name]
    [source] = video_sources([DEVTEST / f"{name}.mp4"])
    for point in known:
        rate = float(point["q"])
        r = code(source, settings(codec, (rate,), threads=threads), rate, 0)
        for metric in ("psnr_y", "psnr_u", "psnr_v", "psnr_yuv"):
            assert r.mean(metric) == pytest.approx(point[metric], abs=1e-3), (rate, metric)
        nbytes = (r.bpp - point["bpp"]) * 176 * 144 * 96 / 8
        assert difference[0] <= nbytes <= difference[1], rate


# --- reference software

STUB = """
    import sys
    given = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--"))
    config = sys.argv[sys.argv.index("-c") + 1]
    frames, qp = int(given["FramesToBeEncoded"]), int(given["QP"])
    open(given["BitstreamFile"], "wb").write(bytes(100 * frames * (60 - qp)))
    data = bytearray(open(given["InputFile"], "rb").read())
    assert len(data) == frames * int(given["SourceWidth"]) * int(given["SourceHeight"]) * 3 // 2
    for i in range(0, len(data), 3):
        data[i] = min(255, data[i] + qp // 10)
    open(given["ReconFile"], "wb").write(data)
    print("VVCSoftware: VTM Encoder Version 17.0 [Linux][GCC 12.2.0][64 bit]")
    for n in range(frames):
        kind = "IDR_N_LP, I-SLICE" if n % 4 == 0 else "TRAIL, B-SLICE"
        bits = 800 * (60 - qp) - (200 if n else 0)
        print(f"POC {n % 4:4} LId:  0 TId: 0 ( {kind}, QP {qp} ) {bits:10} bits [Y 30.0 dB]")
    print("Total Time: 1.0 sec.")
"""


def stub(folder: Path, script: str = STUB) -> Path:
    path = folder / "EncoderAppStatic"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(script)}")
    path.chmod(0o755)
    (folder / "encoder_lowdelay_vtm.cfg").touch()
    return path


def vtm(folder, binary, video, *more):
    config = folder / "encoder_lowdelay_vtm.cfg"
    return command(
        "anchor", "--codec", "vtm", "--binary", binary, "--cfg", config, "--videos", video,
        "--qps", 22, 37, "--intra-period", 4, "-o", folder / "vtm.json", *more,
    )  # fmt: skip


def test_reference_software_gives_records(tmp_path, video, capsys):
    vtm(tmp_path, stub(tmp_path), video, "--frames", 8)
    low, high = sorted(read_results(tmp_path / "vtm.json"), key=lambda r: r.rate_index)
    assert (low.label, high.label, low.codec, high.rate_index) == (37, 22, "vtm", 1)
    assert [f.type for f in low.frames] == ["I", "B", "B", "B"] * 2
    assert sum(f.bits for f in low.frames) == 8 * 100 * 8 * (60 - 37)  # the file's, all of them
    assert low.frames[1].bits == 800 * 23 - 200
    source = np.fromfile(video, np.uint8)[: 8 * 96 * 64 * 3 // 2].reshape(8, -1)
    changed = source.copy().reshape(-1)
    changed[::3] = np.minimum(255, changed[::3].astype(int) + 3)
    luma = [plane[: 96 * 64].reshape(64, 96) for plane in (source[2], changed.reshape(8, -1)[2])]
    assert low.frames[2].quality["psnr_y"] == plane_psnr(*luma, 255)
    assert low.conditions.frames == 8 and low.conditions.intra_period == 4
    assert "--IntraPeriod=4" in low.metadata["parameters"]
    assert low.metadata["version"] == "17.0"
    assert low.metadata["configuration"] == "encoder_lowdelay_vtm.cfg"
    assert str(tmp_path) not in json.dumps(low.metadata)
    assert capsys.readouterr().out.count("bpp") == 2


def test_without_a_log_of_pictures_there_are_averages_only(tmp_path, video):
    vtm(tmp_path, stub(tmp_path, STUB.replace("POC {n", "Picture {n")), video)
    record = read_results(tmp_path / "vtm.json")[0]
    assert record.frames == () and record.average().frames == 12
    assert record.bpp == pytest.approx(8 * 100 * (60 - 37) / (96 * 64), rel=1e-12)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('a')\nprint('GOP size is wrong')\nraise SystemExit(3)",
         r"EncoderAppStatic failed on pan_96x64_25 \(exit code 3\): GOP size is wrong$"),
        ("pass", "EncoderAppStatic wrote no stream.bin for pan_96x64_25"),
        (STUB.replace("write(data)", "write(data[:-1])"), "the reconstruction .* has 110591 bytes"),
    ],
)  # fmt: skip
def test_reference_software_that_fails_is_reported(tmp_path, video, script, reason):
    binary = stub(tmp_path, script)
    with pytest.raises(ValueError, match=reason):
        vtm(tmp_path, binary, video)
    assert not (tmp_path / "vtm.json").exists()


def test_reference_software_that_is_not_there(tmp_path, video):
    binary = stub(tmp_path)
    with pytest.raises(FileNotFoundError, match="the encoder .*absent of vtm does not exist"):
        vtm(tmp_path, tmp_path / "absent", video)
    binary.chmod(0o644)
    with pytest.raises(ValueError, match="EncoderAppStatic cannot be run: Permission denied"):
        vtm(tmp_path, binary, video)


def test_another_configuration_of_the_same_size_is_measured_anew(tmp_path, video, monkeypatch):
    """And an encoder in the present folder is that one, not one of its name on the PATH."""
    stub(tmp_path, STUB.replace("bytes(100", "bytes(int(open(config).read())"))
    config = tmp_path / "encoder_lowdelay_vtm.cfg"
    monkeypatch.chdir(tmp_path)
    rates = []
    for size in ("100", "200"):
        config.write_text(size)
        vtm(tmp_path, Path("EncoderAppStatic"), video)
        rates.append(read_results(tmp_path / "vtm.json")[0].bpp)
    assert rates[1] == pytest.approx(2 * rates[0])


# --- commands


def test_anchor_and_bdrate_commands(tmp_path, video, capsys):
    """A test set of one sequence, from files to the table and the CSV."""
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\ntitle: tiny\nsource: none\nsequences:\n"
        "  - {name: pan_96x64_25, width: 96, height: 64, frame_rate: 25, frames: 12}\n"
    )
    for codec, preset in (("x264", "medium"), ("x264", "ultrafast")):
        command(
            "anchor", "--codec", codec, "--preset", preset, "--test", tmp_path / "tiny.yaml",
            "--root", tmp_path, "--crfs", 20, 25, 30, 35.5, "--frames", 8, "--color", "rgb",
            "-o", tmp_path / f"{preset}.json",
        )  # fmt: skip
    medium = read_results(tmp_path / "medium.json")
    assert [(r.rate_index, r.label) for r in medium] == [(0, 35.5), (1, 30), (2, 25), (3, 20)]
    known = {(r.dataset, len(r.frames), r.conditions.matrix) for r in medium}
    assert known == {("tiny", 8, "bt709")}
    capsys.readouterr()
    files = [tmp_path / "medium.json", tmp_path / "ultrafast.json"]
    words = ["bdrate", *files, "--anchor", "x264-medium", "--csv", tmp_path / "t.csv"]
    assert command(*words) == 0
    shown = capsys.readouterr().out
    assert "BD-rate against x264-medium, psnr_rgb (dB), pchip" in shown
    with (tmp_path / "t.csv").open() as file:
        rows = {row["sequence"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["pan_96x64_25", MEAN, CLASS]
    assert float(rows["pan_96x64_25"]["bd_rate"]) > 0 > float(rows[MEAN]["bd_quality"])
    assert rows[MEAN]["note"] == "over 1 of 1 sequences"
    assert f"{float(rows[CLASS]['bd_rate']):+.2f}" in shown
    # the other way round it is the reciprocal; an anchor can be a file that is not listed
    again = ["bdrate", files[0], "--anchor", files[1], "--csv", tmp_path / "u.csv"]
    assert command(*again) == 0
    with (tmp_path / "u.csv").open() as file:
        back = {row["sequence"]: float(row["bd_rate"]) for row in csv.DictReader(file)}
    there = float(rows[CLASS]["bd_rate"])
    assert (1 + there / 100) * (1 + back[CLASS] / 100) == pytest.approx(1, abs=1e-9)


def test_bdrate_takes_what_the_anchor_has(tmp_path, video, capsys):
    """Of YUV measurements, PSNR-YUV without being told."""
    files = []
    for codec in ("x264", "x265"):
        files.append(tmp_path / f"{codec}.json")
        command(
            "anchor", "--codec", codec, "--videos", video, "--crfs", "20,26,32,38", "--frames", 2,
            "-o", files[-1],
        )  # fmt: skip
    capsys.readouterr()
    assert command("bdrate", *files, "--anchor", "x264-medium") == 0
    assert "BD-rate against x264-medium, psnr_yuv (dB), pchip" in capsys.readouterr().out


def test_matrix_and_range_of_rgb_are_recorded_and_matter(tmp_path, video):
    found = {}
    for name, words in (
        ("default", []),
        ("limited", ["--matrix", "bt601", "--range", "limited"]),
        ("rounded", ["--round-8bit"]),
    ):
        command(
            "anchor", "--codec", "x264", "--videos", video, "--crfs", "30", "--frames", 2,
            "--color", "rgb", *words, "-o", tmp_path / f"{name}.json",
        )  # fmt: skip
        [found[name]] = read_results(tmp_path / f"{name}.json")
    said = {n: (r.conditions.matrix, r.conditions.range, r.conditions.rounding)
            for n, r in found.items()}  # fmt: skip
    assert said == {
        "default": ("bt709", "full", "float"), "limited": ("bt601", "limited", "float"),
        "rounded": ("bt709", "full", "8bit"),
    }  # fmt: skip
    assert len({r.mean("psnr_rgb") for r in found.values()}) == 3
    assert len({r.bpp for r in found.values()}) == 1
    with pytest.raises(DifferentConditions, match="matrix is bt709 .* the color range is full"):
        check_comparable(found["default"], replace(found["limited"], codec="other"))
    with pytest.raises(DifferentConditions, match="the rounding is float .* and 8bit"):
        check_comparable(found["default"], replace(found["rounded"], codec="other"))


def test_an_interrupted_run_goes_on(video, tmp_path, monkeypatch, capsys):
    output, coded = tmp_path / "out.json", []
    one_point = anchors.code

    def counted(source, settings, rate, index):
        coded.append(rate)
        if coded == [40, 35, 30]:
            raise KeyboardInterrupt
        return one_point(source, settings, rate, index)

    monkeypatch.setattr(anchors, "code", counted)
    sources, chosen = video_sources([video]), settings("x264", rates=(25.0, 30.0, 35.0, 40.0))
    with pytest.raises(KeyboardInterrupt):
        anchors.run(sources, chosen, output)
    assert not output.exists()
    records = anchors.run(sources, chosen, output)
    assert coded == [40, 35, 30, 30, 25]
    assert [(r.label, r.rate_index) for r in records] == [(40, 0), (35, 1), (30, 2), (25, 3)]
    monkeypatch.setattr(anchors, "code", one_point)
    written = output.read_bytes()
    assert anchors.run(sources, chosen, output) == records and output.read_bytes() == written
    shorter = anchors.run(
        sources, replace(chosen, conditions=CodingConditions.asked(frames=2)), output
    )  # coded anew
    assert [len(r.frames) for r in shorter] == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="holds results of x264-"):
        anchors.run(sources, settings("x265"), output)
