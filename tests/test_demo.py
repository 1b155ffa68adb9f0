"""scripts/demo.py, and the table in the README that it prints."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import lively
from PIL import Image

from cmfr.codec.checkpoint import save_weights
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo(monkeypatch, capsys):
    """Runs the script in this process; what it prints, by row."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
        assert exit.value.code == 0
        return rows(capsys.readouterr().out.splitlines())

    return call


def rows(lines):
    return {line[:18].strip(): line[18:].strip() for line in lines}


def readme():
    lines = (ROOT / "README.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    clip   "))
    return rows(line.removeprefix("    ") for line in lines[first : lines.index("", first)])


def test_any_video_any_weights(demo, tmp_path, yuv_file):
    weights = tmp_path / "nano.safetensors"
    save_weights(weights, weights_of(lively(PRESETS["cmfr-nano"])), PRESETS["cmfr-nano"])
    told = demo(yuv_file, "--model", weights, "--out", tmp_path / "out", "--quality", "40")
    assert told.keys() == readme().keys()
    assert told["clip"] == f"{yuv_file}, 6 frames of 80x48"
    assert told["model, quality"] == "cmfr-nano, 40"
    assert told["decoded file"] == "bit-identical to the encoder's reconstruction"
    assert int(told["bytes"]) == (tmp_path / "out" / "clip.cmfr").stat().st_size
    assert told["picture"] == f"{tmp_path / 'out' / 'frame.png'} (frame 5)"
    with Image.open(tmp_path / "out" / "frame.png") as picture:
        assert picture.width >= 2 * 80 and picture.height >= 4 * 48


@pytest.mark.slow
def test_the_readme_has_what_it_prints(demo, tmp_path, monkeypatch):
    """But for speeds; another processor or PyTorch may round a little differently."""
    monkeypatch.chdir(tmp_path)
    told, there = demo(), readme()
    for name in ("clip", "model, quality", "decoded file", "picture"):
        assert told[name] == there[name]
    assert int(told["bytes"]) == pytest.approx(int(there["bytes"]), rel=0.005)
    for name, tolerance in (("PSNR-YUV (6:1:1)", 0.02), ("MS-SSIM", 0.001), ("bpp", 0.0005)):
        values = [float(table[name].removesuffix(" dB")) for table in (told, there)]
        assert values[0] == pytest.approx(values[1], abs=tolerance)
