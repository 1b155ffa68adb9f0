"""Tables of what the parts of a model do: they must show what is there, and what is not."""

import pytest
import torch
import yaml
from conftest import lively, lively_dcvc, moving_clip, write_yuv
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from cmfr.analysis.diagnosis import code, diagnose, transforms, untrained
from cmfr.analysis.diagnosis_table import DiagnosedSequence, Table
from cmfr.cli.main import main
from cmfr.codec.checkpoint import save_weights
from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of

NANO = PRESETS["cmfr-nano"]
SIZE = 48, 80


@pytest.fixture(scope="module")
def sequence():
    return DiagnosedSequence.of("moving", moving_clip(8, *SIZE).unbind(1), VideoModel(NANO))


def tables(model, *sequences):
    return {table.title.split(":")[0]: table for table in diagnose(model, sequences)}


def row(table, name="moving"):
    return dict(zip(table.columns, table.rows[name], strict=True))


def test_means_are_of_what_there_is():
    nan = float("nan")
    table = Table("t", ("a", "b", "c"), {"x": (1.0, nan, nan), "y": (3.0, 4.0, nan)})
    assert table.means()[:2] == (2.0, 4.0)
    assert str(table).splitlines()[-1].split() == ["mean", "2.00", "4.00", "nan"]


def test_a_whole_model(sequence):
    shown = tables(lively(NANO), sequence)
    assert list(shown) == [
        "motion estimation", "transforms", "motion", "mask", "qualities", "drift",
        "bits per pixel of P-frames by latent", "training's estimate against the payload, percent",
        "untrained, calibrated",
    ]  # fmt: skip
    refined = row(shown["motion"])
    assert refined["refined q42"] != refined["decoded q42"]
    mask = row(shown["mask"])
    assert all(0 < mask[name] < 1 for name in ("moving q21", "uncovered q42"))
    by_latent = shown["bits per pixel of P-frames by latent"]
    assert by_latent.columns == ("motion_y", "motion_z", "residual_y", "residual_z")
    assert sum(by_latent.rows["q63"]) > sum(by_latent.rows["q0"]) > 0


def test_what_a_fresh_model_is(sequence):
    """Equal features cancel, the motion codec hands on what was estimated (but what rate-distortion
    optimized quantization drops), and little is spent before any training."""
    torch.manual_seed(0)
    fresh = row(untrained(VideoModel(PRESETS["cmfr-s"]).eval(), [sequence]))
    assert fresh["equal features"] > 50 and fresh["bpp q42"] < 5
    assert fresh["est. flow"] == pytest.approx(fresh["decoded flow"], abs=2.5)


def test_a_part_that_does_nothing_shows(sequence):
    cfg = NANO.model_copy(update={"motion_refiner": False, "residual": "none"})
    shown = tables(lively(cfg), sequence)
    refined = row(shown["motion"])
    assert refined["refined q42"] == refined["decoded q42"]
    assert all(value != value for value in row(shown["mask"]).values())  # there is none


def test_what_cannot_be_diagnosed(sequence):
    with pytest.raises(ValueError, match="dcvc-dc-nano is no CMFR"):
        tables(lively_dcvc(PRESETS["dcvc-dc-nano"]), sequence)
    short = DiagnosedSequence.of("short", moving_clip(7, *SIZE).unbind(1), VideoModel(NANO))
    with pytest.raises(ValueError, match="short: 8 frames are needed, 7 given"):
        tables(lively(NANO), short)


def test_the_command(tmp_path, capsys):
    write_yuv(tmp_path / "a_80x48_25.yuv", 9, *SIZE)
    entry = {"name": "a_80x48_25", "width": 80, "height": 48, "frame_rate": 25, "frames": 9}
    tree = {"name": "made", "title": "made", "source": "here", "sequences": [entry]}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(tree))
    weights = tmp_path / "nano.safetensors"
    save_weights(weights, weights_of(lively(NANO)), NANO)
    command = ["diagnose", "--model", str(weights), "--test", str(tmp_path / "made.yaml")]
    command += ["--root", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--frames", "8"]) == 0
    assert "a_80x48_25" in capsys.readouterr().out
    assert main([*command, "--frames", "7"]) == 1
    assert "--frames 7: 8 are needed at least" in capsys.readouterr().err
    assert main([*command, "--sequences", "b"]) == 1
    assert "made has no sequence called 'b'; there are a_80x48_25" in capsys.readouterr().err


def test_qualities_are_where_the_frames_are(monkeypatch):
    """As on a GPU: operators of fake tensors refuse to mix devices."""
    monkeypatch.setattr(DiagnosedSequence, "psnr", lambda *_: (0.0, 0.0))
    model = VideoModel(NANO).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.zeros(1, device="cuda").add(1)
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"this PyTorch cannot pretend to have a GPU: {error}")
        model = model.to("cuda")
        frames = [torch.rand(1, 3, *SIZE, device="cuda") for _ in range(3)]
        sequence = DiagnosedSequence("moving", frames, SIZE)
        assert transforms(model, [sequence]).rows == {"moving": (0.0, 0.0)}
        with pytest.raises(DataDependentOutputException):  # where a number leaves the GPU
            code(model, [sequence], (42,))
