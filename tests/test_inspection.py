import csv
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import lively, moving_clip
from PIL import Image

from cmfr.coding import Codec
from cmfr.frames import ColorInfo, Frame, VideoInfo
from cmfr.inspection import inspect_video
from cmfr.metrics import compare
from cmfr.presets import PRESETS
from cmfr.video_in import open_video
from cmfr.video_out import open_writer


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mkv"
    info = VideoInfo(90, 70, Fraction(25), ColorInfo("bt709", "limited"), "420", 8)
    with open_writer(path, info) as writer:
        for x in (moving_clip(5, 70, 90)[0] * 255).byte().numpy():
            writer.write(Frame((x[0], x[1, ::2, ::2].copy(), x[2, ::2, ::2].copy())))
    return path


@pytest.fixture(scope="module")
def codec():
    return Codec(lively(PRESETS["cmfr-nano"]), bytes(8), torch.device("cpu"))


def test_a_p_frame_from_every_side(tmp_path, codec, video):
    rows = inspect_video(codec, video, 2, tmp_path, quality=40)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {
        "source", "reconstruction", "prediction", "flow_decoded", "flow_refined", "mask",
        "residual_unmasked", "residual_masked", "bits", "sheet", "psnr",
    }  # fmt: skip
    for name in names - {"sheet", "psnr"}:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == (90, 70), name
    assert [row.type for row in rows] == ["I", "P", "P", "P", "P"]
    with (tmp_path / "frames.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["bits"]) for line in lines] == [row.bits for row in rows]
    # The pictures are those of the coded frame.
    with open_video(video) as reader:
        source = list(reader)[2]
    luma = np.asarray(Image.open(tmp_path / "source.png").convert("L")).astype(float)
    assert np.abs(luma - source.planes[0]).mean() < 40


def test_rows_are_measured_on_what_is_coded(tmp_path, codec, video):
    rows = inspect_video(codec, video, 1, tmp_path / "a", quality=40, frames=3, intra_period=2)
    assert [row.type for row in rows] == ["I", "P", "I"]
    with open_video(video) as reader:
        info = reader.info
    measured = []
    codec.encode_video(
        video, tmp_path / "a.cmfr", quality=40, frames=3, intra_period=2,
        on_frame=lambda c: measured.append(compare(c.source, c.reconstruction, info)),
    )  # fmt: skip
    assert [row.combined for row in rows] == [m.combined for m in measured]


def test_an_i_frame_has_no_motion(tmp_path, codec, video):
    inspect_video(codec, video, 0, tmp_path, frames=1)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"source", "reconstruction", "bits", "sheet", "psnr"}


@pytest.mark.parametrize("number", [-1, 5])
def test_a_frame_that_is_not_there(tmp_path, codec, video, number):
    with pytest.raises(ValueError, match=rf"has frames 0\.\.4, not {number}"):
        inspect_video(codec, video, number, tmp_path / "out")
    assert not (tmp_path / "out").exists()
