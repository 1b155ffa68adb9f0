import csv
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import lively, moving_clip
from PIL import Image

from cmfr.analysis.inspect import FEATURES, Seen, _bits, inspect_video, watched
from cmfr.codec.codec import Codec
from cmfr.models.presets import PRESETS
from cmfr.video.color import ycbcr_to_rgb
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.metrics import compare
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer


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
    assert list(lines[0])[5:] == ["psnr_y", "psnr_u", "psnr_v", "psnr_yuv"]
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


@pytest.mark.parametrize("period", [0, 2])
def test_what_is_shown_is_what_was_coded(tmp_path, video, period):
    """Also of a temporal feature refresh, as every other frame is here."""
    cfg = PRESETS["cmfr-nano"].model_copy(update={"refresh_period": period})
    codec = Codec(lively(cfg), bytes(8), torch.device("cpu"))
    coded = []
    codec.encode_video(video, tmp_path / "a.cmfr", quality=40, on_frame=coded.append)
    for frame in coded[1:]:
        folder = tmp_path / str(frame.number)
        inspect_video(codec, video, frame.number, folder, quality=40)
        for name, picture in (
            ("reconstruction", frame.output.x_hat), ("prediction", frame.output.motion.prediction),
        ):  # fmt: skip
            expected = ycbcr_to_rgb(picture[0, :, :70, :90], "bt709", "full").clamp(0, 1)
            with Image.open(folder / f"{name}.png") as image:
                shown = np.asarray(image).transpose(2, 0, 1) / 255
            assert np.abs(shown - expected.numpy()).max() < 0.51 / 255, (frame.number, name)
        with Image.open(folder / "mask.png") as image:
            mask = np.asarray(image)
        assert (mask == mask[..., :1]).all()  # grey
        mean = frame.output.motion.mask[0].mean(0)[: 70 // 4, : 90 // 4].numpy()
        assert np.abs(mask[::4, ::4, 0][: 70 // 4, : 90 // 4] / 255 - mean).max() < 0.51 / 255
    assert not codec.model.inter._forward_hooks


def test_bits_by_block_are_those_of_the_frame(codec, video, tmp_path):
    """The sum of what is shown is the latents' part of the packet."""
    seen = []
    with watched(codec) as now:
        codec.encode_video(
            video, tmp_path / "a.cmfr", quality=40, frames=2, estimate=True,
            on_frame=lambda c: seen.append(Seen(c, replace(now))),
        )  # fmt: skip
    [_, shown] = seen
    output = shown.coded.output
    latents = sum(float(part.sum()) for part in output.bit_maps.values())
    assert latents == pytest.approx(float(output.total_bits), rel=1e-5)
    assert 0 < shown.coded.bits - latents < 0.03 * latents + 200
    target, predicted = (shown.watched.features[name] for name in FEATURES)
    assert target.shape == predicted.shape == output.state.feature.shape


def test_titles_say_what_it_is(codec, video, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("cmfr.analysis.inspect.titled", lambda image, title, *_: (
        titles.append(title), image)[1])  # fmt: skip
    rows = inspect_video(codec, video, 2, tmp_path, quality=40)
    row = rows[2]
    assert titles[-1] == (
        f"cmfr-nano, quality 40; frame 2: P, at quality {row.quality}, PSNR-YUV (6:1:1) "
        f"{row.combined:.2f} dB, {row.bits} bits ({row.bpp:.4f} bpp)"
    )
    [flow] = [title for title in titles if title.startswith("decoded flow")]
    limit = float(flow.split(" at ")[1].split(" pixels per frame")[0])
    coded = []
    codec.encode_video(video, tmp_path / "a.cmfr", quality=40, frames=3, on_frame=coded.append)
    refined = coded[2].output.motion.refined
    longest = float(refined.square().sum(1).sqrt().quantile(0.99))
    stride = coded[2].output.x_hat.shape[2] / refined.shape[2]
    assert stride == 4 and limit == pytest.approx(max(0.5, 4 * longest), abs=0.051)


def test_latents_of_different_strides(tmp_path, video):
    """cmfr-s codes motion at 1/16 and residuals at 1/8: no bit is lost where the maps are added."""
    codec = Codec(lively(PRESETS["cmfr-s"]), bytes(8), torch.device("cpu"))
    shown = inspect_video(codec, video, 2, tmp_path, quality=40, frames=3)
    assert shown[2].type == "P" and (tmp_path / "bits.png").is_file()
    coarse, fine = torch.rand(3, 5), torch.rand(6, 10)
    total = _bits([coarse, fine])
    assert total.shape == (6, 10)
    assert torch.allclose(total.sum(), coarse.sum() + fine.sum())
