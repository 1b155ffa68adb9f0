"""DCVC-DC and DCVC-FM compute what the published networks compute.

tests/data/dcvc_*.npz hold outputs of the published code with weights and frames made by formula
(tests/data/formulas.py).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, published

from cmfr.analysis.complexity import count
from cmfr.codec.bitstream import BitstreamReader
from cmfr.codec.checkpoint import load_weights
from cmfr.codec.codec import Codec, CodingReport
from cmfr.models.base import FrameSize
from cmfr.models.dcvc.published import convert_state_dicts
from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.nn.layers import pad_to_multiple

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module", params=["dc", "fm"])
def network(request):
    """Network by formula, the formulas, what is known of the published one, its outputs."""
    formulas, told, states = published(request.param)
    cfg = PRESETS[f"dcvc-{request.param}"]
    model = VideoModel(cfg).eval()
    weights = convert_state_dicts(states["image"], states["video"], cfg, weights_of(model))
    load_weights(model, weights, "formula")
    return model, formulas, told, np.load(DATA / f"dcvc_{request.param}.npz")


def test_every_frame_is_the_published_networks(network):
    model, formulas, told, outputs = network
    quality, past = torch.tensor([told["q_index"]]), None
    for t, figures in enumerate(told["frames"]):
        x = torch.from_numpy(formulas.frame(t, told["height"], told["width"], told["seed"]))
        if t == 4 and model.cfg.generation == "fm":  # a refresh, as the reference was made
            past = replace(past, feature=None)
        with torch.inference_mode():
            out = model.code_inter(x, quality, past) if past else model.code_intra(x, quality)
        past = out.state
        ours = {"x_hat": out.x_hat}
        if t:
            ours |= {
                "y_hat": past.latents.residual, "mv_y_hat": past.latents.motion,
                "feature": past.feature[:, :4],
            }  # fmt: skip
        for name, value in ours.items():
            error = np.abs(value.numpy() - outputs[f"{name}_{t}"]).max()
            assert error < 1e-3, (t, name, error)
        assert float(out.total_bits) == pytest.approx(figures["bits"], rel=1e-4)
        for ours_name, name in (
            ("motion_y", "mv_y"), ("motion_z", "mv_z"), ("residual_y", "y"), ("residual_z", "z"),
        ):  # fmt: skip
            if f"bpp_{name}" in figures:  # told of DCVC-DC alone
                bpp = float(out.bits[ours_name]) / (told["height"] * told["width"])
                assert bpp == pytest.approx(figures[f"bpp_{name}"], rel=1e-4), (t, name)


def test_complexity_is_the_published_one(network):
    model, _, _, _ = network
    parameters, macs = {
        "dc": ((31.00, 19.78), ((549, 393), (1336, 910))),
        "fm": ((26.59, 18.34), ((521, 367), (1129, 859))),
    }[model.cfg.generation]
    for row, millions, (encode, decode) in zip(
        count(model, 64, 128), parameters, macs, strict=True
    ):
        assert row.parameters_m == pytest.approx(millions, rel=0.01)
        assert row.encode_kmac_per_pixel == pytest.approx(encode, rel=0.01)
        assert row.decode_kmac_per_pixel == pytest.approx(decode, rel=0.01)


def test_real_video_survives_the_file_bit_for_bit(network, tmp_path):
    """Three frames of a real clip through encode, file and decode."""
    model, _, _, _ = network
    source = SHARED / "data/devtest/carphone_qcif_176x144.mp4"
    if not source.is_file():
        pytest.skip("no development sequences here")
    codec, sent = Codec(model, bytes(8), torch.device("cpu")), []
    stream = tmp_path / "a.cmfr"
    codec.encode_video(source, stream, quality=21, frames=3, on_frame=sent.append)
    with stream.open("rb") as file:
        reader = BitstreamReader(file)
        info = reader.header.info()
        received = list(codec.decode_frames(reader, info, CodingReport(info), False))
    assert len(sent) == len(received) == 3
    for a, b in zip(sent, received, strict=True):
        assert torch.equal(a.output.x_hat, b.output.x_hat)
        planes = zip(a.reconstruction.planes, b.reconstruction.planes, strict=True)
        assert all(np.array_equal(p, q) for p, q in planes)


def test_frames_of_any_size_agree_in_encoder_and_decoder(network):
    """Latents that are no multiple of 4, and other qualities."""
    model, formulas, _, _ = network
    for height, width, quality in ((48, 80, 0), (20, 37, 63)):
        past = None
        for t in range(2):
            x = torch.from_numpy(formulas.frame(t, height, width, 3))
            x = pad_to_multiple(x, 16)
            payload, frame_quality_index, out = model.encode_frame(x, quality, past)
            assert frame_quality_index == quality
            back = model.decode_frame(payload, quality, past or FrameSize(*x.shape[2:]))
            assert torch.equal(out.x_hat, back.x_hat)
            past = out.state
