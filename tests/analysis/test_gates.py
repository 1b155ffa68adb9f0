import csv
import math

import pytest
import torch
from conftest import lively, write_yuv

from cmfr.analysis.gates import COLUMNS, Gate, write_gates
from cmfr.analysis.inspect import inspect_video
from cmfr.codec.codec import Codec
from cmfr.models.presets import PRESETS

SFF = [f"residual_codec.encoder.fuse{i}" for i in (0, 1, 2)]
SFF += [f"residual_codec.decoder.fuse{i}" for i in (2, 1, 0)]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "moving_90x70_25.yuv"
    write_yuv(path, 3, 70, 90)
    return path


def read(path):
    with path.open() as file:
        lines = list(csv.DictReader(file))
    return {
        (line["gate"], line["channel"]): [float(line[name]) for name in COLUMNS] for line in lines
    }


def test_numbers_of_a_gate(tmp_path):
    """Two channels: one passes and holds all the energy, one is closed."""
    gate = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
    gated = torch.stack([torch.full((4, 4), 3.0), torch.full((4, 4), 1e-6)])
    write_gates([Gate("mask", gate, gated, gated.clone(), sign=-1)], tmp_path / "gates.csv")
    found = read(tmp_path / "gates.csv")
    rms = math.sqrt(4.5)
    assert found["mask", "all"] == pytest.approx([0.5, 0.5, 1, rms, rms, 0, 0], abs=1e-4)
    assert found["mask", "0"] == pytest.approx([1, 0, 1, 3, 3, 0, 0])
    assert found["mask", "1"] == pytest.approx([0, 0, 0, 1e-6, 1e-6, 0, 1e-6])
    assert set(found) == {("mask", "all"), ("mask", "0"), ("mask", "1")}


@pytest.mark.parametrize(
    ("switches", "names"),
    [
        ({}, ["mask", *SFF]),
        ({"fusion": "concat"}, ["mask"]),
        ({"residual": "masked_pixel", "fusion": "concat"}, ["mask"]),
        ({"residual": "none"}, SFF),
        ({"residual": "feature", "fusion": "concat"}, ["unmasked"]),
        ({"residual": "pixel", "fusion": "concat"}, []),
    ],
)
def test_gates_of_a_frame(tmp_path, video, switches, names):
    cfg = PRESETS["cmfr-nano"].model_copy(update=switches)
    codec = Codec(lively(cfg), bytes(8), torch.device("cpu"))
    coded = []
    codec.encode_video(video, tmp_path / "a.cmfr", quality=40, on_frame=coded.append)
    inspect_video(codec, video, 2, tmp_path / "look", quality=40)
    file = tmp_path / "look" / "gates.csv"
    assert file.is_file() == bool(names)
    if not names:
        return
    found = read(file)
    assert list(dict.fromkeys(name for name, _ in found)) == names
    assert all(0 < row[0] < (1 if name == "mask" else 2) for (name, _), row in found.items())
    if "unmasked" in names:
        assert all(row[0] == 1 and row[-1] == row[-2] > 0 for row in found.values())
    if "mask" in names:  # of the picture, without what it was padded with
        mask = coded[2].output.motion.mask[0]
        stride = 1 if switches.get("residual") == "masked_pixel" else 4
        mask = mask[:, : -(-70 // stride), : -(-90 // stride)]
        assert found["mask", "all"][0] == pytest.approx(float(mask.mean()), rel=1e-4)
        channels = 3 if stride == 1 else len(mask)
        assert sum(name == "mask" for name, _ in found) == 1 + channels


def test_an_i_frame_has_no_gates(tmp_path, video):
    codec = Codec(lively(PRESETS["cmfr-nano"]), bytes(8), torch.device("cpu"))
    inspect_video(codec, video, 0, tmp_path / "look", frames=1)
    assert not (tmp_path / "look" / "gates.csv").exists()
