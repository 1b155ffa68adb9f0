"""The main job, "my model against DCVC-DC on HEVC class D", by the very commands of
docs/evaluation.md, on generated video under the names of the set."""

import csv
import json
import re
import shlex
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import bd_rates, lively, lively_dcvc

from cmfr.cli.main import main
from cmfr.codec.checkpoint import save_weights
from cmfr.evaluation import published as published_module
from cmfr.evaluation.bd_rate import bd_rate
from cmfr.evaluation.published import published
from cmfr.evaluation.records import class_curve, read_results
from cmfr.evaluation.sequences import load_test_set
from cmfr.models.base import FrameSize
from cmfr.models.presets import PRESETS
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.report.text import Table, as_text
from cmfr.training.data.generated import generated_clip
from cmfr.video.color import tensor_to_planes
from cmfr.video.info import ColorInfo, VideoInfo

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "evaluation.md").read_text()
FRAMES = 2
sys.path.insert(0, str(ROOT / "scripts"))


def commands(heading: str) -> list[list[str]]:
    """The words of the commands in the block of shell below a heading of the guide."""
    section = GUIDE.split(f"\n### {heading}\n")[1]
    block = re.search(r"```sh\n(.*?)```", section, re.S)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix(".venv/bin/"), comments=True) for line in lines]


class Rounder:
    """In place of the networks of the nano models, whose untrained quality does not rise with the
    rate: samples rounded by a step that the quality index chooses, packed by zlib."""

    def __init__(self, extra: float) -> None:
        self.extra = extra  # of the bytes, added to them

    def step(self, quality: int) -> float:
        return 2 ** (1 + (63 - quality) / 16)

    def begin_frame(self, x, quality, past, *options):
        levels = (x * 255 / self.step(quality)).round()
        packed = zlib.compress(levels.to(torch.uint8).numpy().tobytes())
        size = len(packed).to_bytes(4, "little")
        x_hat = (levels * self.step(quality) / 255).clamp(0, 1)
        filling = bytes(round(self.extra * len(packed)))
        payload, output = size + packed + filling, FrameOutput(x_hat, ReferenceState(x_hat))
        return SimpleNamespace(output=output, finish=lambda: (payload, output)), quality

    def decode_frame(self, payload, quality, past, *options):
        size = past if isinstance(past, FrameSize) else FrameSize(*past.frame.shape[2:])
        data = zlib.decompress(payload[4 : 4 + int.from_bytes(payload[:4], "little")])
        levels = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(1, 3, *size)
        x_hat = (levels * self.step(quality) / 255).clamp(0, 1)
        return FrameOutput(x_hat, ReferenceState(x_hat))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The set's files, of the true sizes, of which the first frames are rendered; weights."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "root").mkdir()
    for number, s in enumerate(load_test_set("hevc_d").sequences):
        info = VideoInfo(416, 240, s.frame_rate, ColorInfo("bt709", "full"), "420", 8)
        clip = generated_clip(1000 + number, FRAMES, (416, 240))
        with (folder / "root" / f"{s.name}.yuv").open("wb") as file:
            for picture in clip:
                for plane in tensor_to_planes(picture[None], info, "rgb").planes:
                    file.write(np.ascontiguousarray(plane).tobytes())
            file.truncate(s.frames * info.frame_bytes)
    nano, dcvc = PRESETS["cmfr-nano"], PRESETS["dcvc-dc-nano"]
    dcvc = dcvc.model_copy(update={"color": "rgb", "name": "dcvc-dc"})
    save_weights(folder / "nano.safetensors", weights_of(lively(nano)), nano)
    save_weights(folder / "dcvc.safetensors", weights_of(lively_dcvc(dcvc)), dcvc)
    return folder


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory):
    """Runs a command of the guide on the tree, with the small weights and few frames."""
    folder = tmp_path_factory.mktemp("published_rd")  # points of as few frames
    content = json.loads((published_module.FOLDER / "ustc_td.json").read_text())
    content["conditions"]["frames"], content["i_frames"] = FRAMES, 1
    (folder / "ustc_td.json").write_text(json.dumps(content))

    def command(words: list[str]) -> int:
        text = shlex.join(words).replace("PATH/TO/HEVC_D", "root")
        text = text.replace("--frames 96", f"--frames {FRAMES}")
        text = text.replace("--model cmfr-s", "--model nano.safetensors")
        weights = "--weights cvpr2023_image_psnr.pth.tar cvpr2023_video_psnr.pth.tar"
        text = text.replace(weights, "--weights dcvc.safetensors")
        words = shlex.split(text)
        assert words[0] == "cmfr"
        return main([*words[1:], *["--device", "cpu"] * (words[1] == "evaluate")])

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        patch.setattr(published_module, "FOLDER", folder)
        for side in ("begin_frame", "decode_frame"):

            def code(model, *arguments, side=side):
                rounder = Rounder(0.25 if model.cfg.name == "dcvc-dc" else 0.0)
                return getattr(rounder, side)(*arguments)

            patch.setattr(VideoModel, side, code)
        yield command


def numbers(path: Path) -> dict[str, str]:
    """Of the reader's model, by column of a report's table of class curves."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["bd_rate_of"] == "class curve"]
    return next(r for r in rows if r["codec"] == "cmfr-nano")


def test_against_its_own_weights(tree, run, capsys):
    theirs, evaluate, bdrate, report = commands("Against DCVC-DC's own weights")
    assert run(theirs) == run(evaluate) == 0
    capsys.readouterr()
    assert run(bdrate) == 0
    table = capsys.readouterr().out
    lines = [line.split() for line in table.splitlines() if "class curve" in line]
    assert len(lines) == 2 and "not stated" not in table  # a table for each metric
    sides = [read_results(tree / f"{n}.json") for n in ("dcvc-dc", "ours-bt709")]
    expected = bd_rate(*(class_curve(side, "psnr_rgb") for side in sides)).percent
    assert float(lines[0][2]) == pytest.approx(expected, abs=0.006)
    assert run(report) == 0
    row = numbers(tree / "report-weights" / "bd_rate.csv")
    assert float(row["hevc_d"]) == pytest.approx(expected, abs=1e-3) and row["anchor"] == "dcvc-dc"


def test_against_the_published_curve(tree, run, capsys):
    check, evaluate, bdrate, report = commands("Against its published curve")
    assert run(check) == 0
    assert "hevc_d: complete in root (4 sequences, 1900 frames)" in capsys.readouterr().out
    # Without the matrix and range that the guide gives, the next step says them.
    plain = [word.replace("ours.json", "ours-bt709.json") for word in bdrate]
    assert run(plain) == 1
    refusal = capsys.readouterr().out
    assert "the color matrix is bt601 for dcvc-dc and bt709 for cmfr-nano" in refusal
    assert refusal.count("(measure with --matrix bt601 --range limited to match dcvc-dc)") == 5
    assert run([word.replace("ours.json", "ours-bt709.json") for word in report]) == 1
    assert "measure with --matrix bt601 --range limited" in capsys.readouterr().err

    assert run(evaluate) == 0
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 4 and "300 frames, the first 2 are coded" in shown.err
    assert shown.out.count("psnr_rgb") == shown.out.count("ms_ssim_rgb") == 4 * 4
    ours = read_results(tree / "ours.json")
    assert {(r.conditions.matrix, r.conditions.range) for r in ours} == {("bt601", "limited")}

    assert run(bdrate) == 0
    table = capsys.readouterr().out
    there = [r for r in published("dcvc-dc") if r.dataset == "hevc_d"]
    expected = bd_rate(class_curve(there, "psnr_rgb"), class_curve(ours, "psnr_rgb")).percent
    assert f"{expected:+.2f}" in next(x for x in table.splitlines() if "class curve" in x)
    assert "over 4 of 4 sequences" in table
    assert run(report) == 0
    assert (tree / "report" / "index.html").is_file()
    row = numbers(tree / "report" / "bd_rate.csv")
    assert float(row["hevc_d"]) == pytest.approx(expected, abs=1e-3)
    markdown = (tree / "report" / "bd_rate.md").read_text()
    for codec in ("vtm (published) †", "hm (published) †", "dcvc-dc (published) †"):
        assert f"| {codec} |" in markdown


def test_the_table_in_the_guide_is_what_is_printed():
    """Of HM's published points."""
    measured_here = {"publication": None, "rounding": "float", "chroma": "linear"}
    hm = [
        replace(r, codec="hm", conditions=replace(r.conditions, **measured_here))
        for r in published("hm")
        if r.dataset == "hevc_d"
    ]
    lines = bd_rates(published("dcvc-dc"), hm, "psnr_rgb")
    for line in as_text(Table("dcvc-dc", "psnr_rgb", "dB", "pchip", lines)).splitlines():
        assert line in GUIDE, line
