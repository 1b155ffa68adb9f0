import pytest
import torch
from conftest import lively

from cmfr.codec.codec import Codec
from cmfr.models.presets import PRESETS
from cmfr.nn.encoder_network import encoder_network, half_encoder
from cmfr.nn.layers import conv
from cmfr.video.reader import open_video

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "wanted", "expected"),
    [
        (CPU, None, torch.float32),
        (CPU, True, torch.float16),
        (torch.device("cuda"), False, torch.float32),
    ],
)
def test_networks_are_in_half_precision_where_that_is_wanted(device, wanted, expected):
    layer, x = conv(3, 4), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        with half_encoder(device, wanted):
            assert layer(x).dtype == torch.float32
            with encoder_network():
                assert layer(x).dtype == expected
        with encoder_network():
            assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("name", ["cmfr-nano", "cmfr-xs"])
def test_what_an_encoder_in_half_precision_writes_any_decoder_reads(name, yuv_file, tmp_path):
    codec = Codec(lively(PRESETS[name]), bytes(8), CPU)
    exact, half = tmp_path / "exact.cmfr", tmp_path / "half.cmfr"
    codec.encode_video(yuv_file, exact, frames=3)
    shown = []
    with half_encoder(CPU, True):
        codec.encode_video(
            yuv_file, half, frames=3, on_frame=lambda coded: shown.append(coded.reconstruction)
        )
    sizes = exact.stat().st_size, half.stat().st_size
    assert exact.read_bytes() != half.read_bytes()  # it did something
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    codec.decode_video(half, tmp_path / "half.y4m")
    with open_video(tmp_path / "half.y4m") as decoded:
        for frame, reconstruction in zip(decoded, shown, strict=True):
            for plane, expected in zip(frame.planes, reconstruction.planes, strict=True):
                assert (plane == expected).all()


def test_what_decoders_repeat_stays_in_float32():
    model = lively(PRESETS["cmfr-nano"])
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([30])
    seen = {}
    for part in ("motion_estimation", "feature_extractor", "motion_codec", "frame_generator"):
        getattr(model.inter, part).register_forward_hook(
            lambda module, given, made, part=part: seen.update({part: made})
        )
    with torch.no_grad(), half_encoder(CPU, True):
        past = model.code_intra(x, quality).state
        output = model.code_inter(x, quality, past)
    assert seen["feature_extractor"].dtype == torch.float16
    assert seen["motion_estimation"].dtype == torch.float32
    assert {made.dtype for made in seen["motion_codec"]} == {torch.float32}
    assert seen["frame_generator"].dtype == output.total_bits.dtype == torch.float32
