import json

import numpy as np
import pytest
import torch
import yaml
from conftest import lively, write_yuv
from PIL import Image
from pytorch_msssim import ms_ssim

from cmfr.checkpoint import save_weights, weights_of
from cmfr.cli import main
from cmfr.coding import load_codec
from cmfr.color import planes_to_tensor, ycbcr_to_rgb
from cmfr.metrics import compare
from cmfr.presets import PRESETS
from cmfr.results import read_results
from cmfr.video_in import open_video


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights, a test set of two small raw sequences, and their folder."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_weights(folder / "nano.safetensors", weights_of(lively(PRESETS["cmfr-nano"])),
                 PRESETS["cmfr-nano"])  # fmt: skip
    sequences = []
    for name, height, width in (("small", 48, 80), ("large", 168, 176)):
        write_yuv(folder / f"{name}.yuv", 5, height, width)
        sequences.append(
            {"name": name, "width": width, "height": height, "frame_rate": 25, "frames": 5}
        )
    tree = {"name": "made", "title": "Made", "source": "here", "sequences": sequences}
    (folder / "made.yaml").write_text(yaml.safe_dump(tree))
    return folder


def evaluate(place, output, *options):
    return main(
        ["evaluate", "--model", str(place / "nano.safetensors"), "--test",
         str(place / "made.yaml"), "--root", str(place), "--qualities", "40,5", "--frames", "4",
         "--intra-period", "3", "--device", "cpu", "-o", str(output), *options]
    )  # fmt: skip


def test_records_are_of_the_bytes_and_of_what_they_decode_to(place, tmp_path):
    output = tmp_path / "out.json"
    assert evaluate(place, output, "--compressai", str(tmp_path / "theirs.json")) == 0
    records = read_results(output)
    columns = json.loads((tmp_path / "theirs.json").read_text())["results"]
    assert columns["q"] == [5, 40] and len(columns["psnr-y"]) == len(columns["bitrate"]) == 2
    assert [(r.sequence, r.rate_index, r.label) for r in records] == [
        ("small", 0, 5), ("small", 1, 40), ("large", 0, 5), ("large", 1, 40),
    ]  # fmt: skip
    codec = load_codec(place / "nano.safetensors", "cpu")
    for record in records:
        source = place / f"{record.sequence}.yuv"
        size = {"size": (record.width, record.height), "frame_rate": 25}
        stream, decoded = tmp_path / "a.cmfr", tmp_path / "a.y4m"
        codec.encode_video(source, stream, quality=record.label, frames=4, intra_period=3, **size)
        codec.decode_video(stream, decoded)
        pixels = record.width * record.height
        assert record.bpp == pytest.approx(8 * stream.stat().st_size / pixels / 4)
        assert [f.type for f in record.frames] == ["I", "P", "P", "I"]
        with open_video(source, frames=4, **size) as a, open_video(decoded) as b:
            frames = [compare(x, y, a.info) for x, y in zip(a, b, strict=True)]
        assert record.mean("psnr_yuv") == pytest.approx(np.mean([f.combined for f in frames]))
        assert record.mean("psnr_u") == pytest.approx(np.mean([f.psnr[1] for f in frames]))
        # The estimate counts symbols; the file also has headers, an index and a checksum a frame.
        estimate = record.average().estimated_bpp * pixels * 4 / 8
        assert 0 < stream.stat().st_size - estimate < 0.03 * estimate + 250
        assert record.peak_memory > 0 and record.times.encode > 0
        assert set(record.times.decode_parts) == {"network", "entropy", "io"}
        assert record.metadata["weights_id"] == codec.weights_id.hex()
    large = next(r for r in records if r.sequence == "large")
    assert 0 < large.mean("ms_ssim_y") < 1
    with pytest.raises(ValueError, match="has no ms_ssim_y"):
        records[0].mean("ms_ssim_y")  # too small


@pytest.mark.parametrize("rounding", ["float", "8bit"])
def test_rgb_is_measured_on_what_the_network_gives(place, tmp_path, rounding):
    output = tmp_path / "out.json"
    options = ["--color", "rgb", "--sequences", "large"]
    options += ["--round-8bit"] if rounding == "8bit" else []
    assert evaluate(place, output, *options) == 0
    record = read_results(output)[1]
    assert (record.conditions.color, record.conditions.matrix) == ("rgb", "bt709")
    assert record.conditions.rounding == rounding
    codec = load_codec(place / "nano.safetensors", "cpu")
    measured = []

    def on_frame(coded):
        x = ycbcr_to_rgb(planes_to_tensor(coded.source, info, "ycbcr"), "bt709", "full")
        y = ycbcr_to_rgb(coded.output.x_hat[..., :168, :176], "bt709", "full")
        x, y = x.clamp(0, 1), y.clamp(0, 1)
        y = (y * 255).round() / 255 if rounding == "8bit" else y
        psnr = -10 * float((x - y).square().mean().log10())
        measured.append((psnr, float(ms_ssim(y, x, data_range=1.0))))

    size = {"size": (176, 168), "frame_rate": 25}
    with open_video(place / "large.yuv", **size) as reader:
        info = reader.info
    codec.encode_video(
        place / "large.yuv", tmp_path / "a.cmfr", quality=40, frames=4, intra_period=3,
        on_frame=on_frame, **size,
    )  # fmt: skip
    psnr, similarity = np.mean(measured, axis=0)
    assert record.mean("psnr_rgb") == pytest.approx(psnr, abs=1e-4)
    assert record.mean("ms_ssim_rgb") == pytest.approx(similarity, abs=1e-5)


def test_it_resumes_and_notices_other_weights(place, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert evaluate(place, output) == 0
    parts = sorted((tmp_path / "out.json.parts").iterdir())
    assert len(parts) == 4
    times = [p.stat().st_mtime_ns for p in parts]
    first = output.read_bytes()
    output.unlink()
    parts[2].unlink()
    assert evaluate(place, output) == 0
    again = sorted((tmp_path / "out.json.parts").iterdir())
    assert again == parts
    kept = [p.stat().st_mtime_ns for p in again]
    assert [a == b for a, b in zip(times, kept, strict=True)] == [True, True, False, True]
    strip = [
        [(r.sequence, r.label, [f.bits for f in r.frames]) for r in records]
        for records in (read_results(output), read_results(output))
    ]
    assert strip[0] == strip[1] and len(first) > 0
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_weights(other, weights_of(lively(PRESETS["cmfr-nano"], seed=3)), PRESETS["cmfr-nano"])
    assert evaluate(place, output, "--model", str(other)) == 0
    assert len(list((tmp_path / "out.json.parts").iterdir())) == 8


def test_side_by_side_gives_the_same(place, tmp_path):
    assert evaluate(place, tmp_path / "one.json") == 0
    assert evaluate(place, tmp_path / "two.json", "--processes", "2", "--threads", "1") == 0
    one, two = (read_results(tmp_path / f"{n}.json") for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert (a.sequence, a.label) == (b.sequence, b.label)
        assert [f.bits for f in a.frames] == [f.bits for f in b.frames]
        assert a.mean("psnr_yuv") == pytest.approx(b.mean("psnr_yuv"), abs=1e-6)


def test_a_failure_leaves_no_hole_in_a_table(place, tmp_path, capsys):
    root = tmp_path / "root"
    root.mkdir()
    (root / "small.yuv").write_bytes((place / "small.yuv").read_bytes())
    (root / "large.yuv").write_bytes((place / "large.yuv").read_bytes()[: 3 * 168 * 176 * 3 // 2])
    assert evaluate(place, tmp_path / "out.json", "--root", str(root)) == 1
    error = capsys.readouterr().err
    assert "large at quality 5: " in error and "2 measurements failed" in error
    assert not (tmp_path / "out.json").exists()
    assert len(list((tmp_path / "out.json.parts").iterdir())) == 2
    (root / "large.yuv").write_bytes((place / "large.yuv").read_bytes())
    assert evaluate(place, tmp_path / "out.json", "--root", str(root)) == 0
    assert len(read_results(tmp_path / "out.json")) == 4


def test_mistakes_are_named_before_anything_is_measured(place, tmp_path, capsys):
    for options, expected in (
        (["--root", str(tmp_path)], "small.yuv is missing"),
        (["--sequences", "tiny"], "made has no sequence tiny"),
        (["--test", "nowhere"], "no test set 'nowhere'"),
        (["--processes", "0"], "--processes 0 is less than 1"),
        (["-o", str(tmp_path / "absent" / "x.json")], "no folder"),
    ):
        assert evaluate(place, tmp_path / "out.json", *options) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(place, tmp_path / "out.json", "--qualities", "5,64")
    assert not list(tmp_path.glob("out.json*"))


def test_bench_prints_parts_stages_and_ratios(place, tmp_path, capsys):
    report = tmp_path / "bench.json"
    assert main(
        ["bench", "--model", str(place / "nano.safetensors"), "cmfr-nano", "--size", "64x64",
         "--frames", "3", "--device", "cpu", "--json", str(report), "--profile",
         str(tmp_path / "traces")]
    ) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "residual_codec.decoder" in shown and "rANS" in shown and "(x1.00)" in shown
    tree = json.loads(report.read_text())
    assert {"versions", "complexity", "parts", "speed", "files_ms"} == set(tree)
    assert len(tree["speed"]) == 4 and {p.name for p in (tmp_path / "traces").iterdir()} == {
        "nano.json", "cmfr-nano.json",
    }  # fmt: skip


def test_inspect_writes_pictures(place, tmp_path, capsys):
    arguments = ["inspect", str(place / "small.yuv"), "--size", "80x48", "--model",
                 str(place / "nano.safetensors"), "-o", str(tmp_path / "out"), "--frame", "1",
                 "--frames", "3", "--matrix", "bt709", "--range", "full"]  # fmt: skip
    assert main(arguments) == 0
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert "frame 1: P" in capsys.readouterr().out


def test_pictures_are_measured_in_rgb(place, tmp_path, capsys):
    """An RGB sequence, a folder of PNGs; the decoded samples of YUV are not to be had."""
    folder = tmp_path / "root" / "pictures"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for i in range(3):
        Image.fromarray(np.roll(scene, 2 * i, 1)).save(folder / f"im{i + 1:05d}.png")
    sequence = {"name": "pictures", "width": 64, "height": 64, "frame_rate": 30, "frames": 3,
                "chroma": "rgb"}  # fmt: skip
    test = tmp_path / "rgb.yaml"
    tree = {"name": "rgb", "title": "RGB", "source": "here", "sequences": [sequence]}
    test.write_text(yaml.safe_dump(tree))
    options = ["--test", str(test), "--root", str(tmp_path / "root"), "--frames", "3"]
    output = tmp_path / "out.json"
    assert evaluate(place, output, *options, "--color", "rgb") == 0
    record = read_results(output)[1]
    assert record.conditions.matrix == "rgb" and 5 < record.mean("psnr_rgb") < 60
    assert evaluate(place, tmp_path / "yuv.json", *options) == 1
    assert "is RGB; measure it with --color rgb" in capsys.readouterr().err
