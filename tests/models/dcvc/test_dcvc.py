from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import lively_dcvc, moving_clip, write_yuv

from cmfr.codec.codec import Codec
from cmfr.models.base import FrameSize
from cmfr.models.dcvc.config import DCVCConfig
from cmfr.models.presets import PRESETS
from cmfr.video.reader import open_video

HEIGHT, WIDTH = 208, 240  # 13 x 15 latent positions: odd, so that every crop is exercised

VARIANTS = {
    "dc": PRESETS["dcvc-dc-nano"],
    "dc-anchors": PRESETS["dcvc-dc-nano"].model_copy(update={"quality_gains": "anchors"}),
    "dc-ycbcr": PRESETS["dcvc-dc-nano"].model_copy(update={"color": "ycbcr"}),
    "fm": PRESETS["dcvc-fm-nano"],
    "fm-refresh": PRESETS["dcvc-fm-nano"].model_copy(update={"refresh_period": 2}),
}
variants = pytest.mark.parametrize("name", VARIANTS)


@variants
def test_forward_encode_and_decode_agree_bit_for_bit(name):
    model = lively_dcvc(VARIANTS[name])
    clip = moving_clip(4, HEIGHT, WIDTH)
    encoder_past = decoder_past = None
    with torch.no_grad():
        estimates = model(clip, torch.tensor([10]))
    for t, estimate in enumerate(estimates):
        payload, quality, sent = model.encode_frame(clip[:, t], 10, encoder_past)
        received = model.decode_frame(payload, quality, decoder_past or FrameSize(HEIGHT, WIDTH))
        assert quality == 10
        assert torch.equal(sent.x_hat, received.x_hat)
        assert torch.equal(sent.x_hat, estimate.x_hat)
        if t:
            assert torch.equal(sent.state.feature, received.state.feature)
        assert len(payload) > 1000
        assert float(estimate.total_bits) == pytest.approx(8 * len(payload), rel=0.01, abs=150)
        encoder_past, decoder_past = sent.state, received.state


@pytest.mark.parametrize("name", ["dc-anchors", "fm"])
def test_gradients_reach_every_parameter(name):
    model = lively_dcvc(VARIANTS[name]).train()
    clip, quality = moving_clip(4, 64, 64), torch.tensor([0])
    loss = 0
    for q in (0, 15, 33, 50, 63):
        outputs = model(clip, quality + q)
        loss = loss + sum(
            (o.x_hat - clip[:, t]).square().mean() + o.total_bits.mean() / 1e4
            for t, o in enumerate(outputs)
        )
    loss.backward()
    silent = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # adaptors of positions that four frames do not reach: the refresh's twin is the I-frame's
    assert silent <= {"inter.adaptor.of_feature.1.weight", "inter.adaptor.of_feature.1.bias"}


def test_stored_gains_of_the_four_rates_are_met_by_anchors_alone():
    """The published code draws one line from the first to the last."""
    torch.manual_seed(0)
    anchors = lively_dcvc(VARIANTS["dc-anchors"]).inter.residual_codec.encoder.gain
    ends = lively_dcvc(VARIANTS["dc"]).inter.residual_codec.encoder.gain
    stored = torch.tensor([1.0, 3.0, 4.0, 8.0])[:, None]
    factor = torch.linspace(0.5, 2, len(anchors.factor))
    for gain in (anchors, ends):
        with torch.no_grad():
            gain.log_gain.copy_(stored.log())
            gain.factor.copy_(factor)
    x = torch.ones(64, len(factor), 1, 1)
    with torch.no_grad():
        of_anchors = anchors(x, torch.arange(64))[:, :, 0, 0]
        of_ends = ends(x, torch.arange(64))[:, :, 0, 0]
    assert torch.allclose(of_anchors[[0, 21, 42, 63]], stored * factor)
    line = torch.exp(torch.linspace(0, np.log(8), 64))[:, None] * factor
    assert torch.allclose(of_ends, line, rtol=1e-5)
    assert not torch.allclose(of_ends[21], of_anchors[21])


def test_refresh_drops_the_feature_and_keeps_the_latents():
    model = lively_dcvc(VARIANTS["fm-refresh"])
    clip, q = moving_clip(4, 64, 64), torch.tensor([30])
    with torch.no_grad():
        states = [output.state for output in model(clip, q)]
        # with a period of 2 the frame at position 3 is a refresh
        refreshed = model.code_inter(clip[:, 3], q, states[2])
        blind = model.inter(clip[:, 3], q, replace(states[2], feature=None))
        forgetful = model.inter(clip[:, 3], q, replace(states[2], feature=None, latents=None))
    assert torch.equal(refreshed.x_hat, blind.x_hat)
    assert not torch.equal(refreshed.x_hat, forgetful.x_hat)


@variants
def test_a_file_is_decoded_as_it_was_shown(name, tmp_path):
    codec = Codec(lively_dcvc(VARIANTS[name]), bytes(8), torch.device("cpu"))
    source = tmp_path / "clip_37x51_25.yuv"
    write_yuv(source, 5, 51, 37)
    shown = []
    options = {"matrix": "bt709", "range": "full"}
    codec.encode_video(
        source, tmp_path / "a.cmfr", quality=20, intra_period=3, **options,
        on_frame=lambda coded: shown.append(coded.reconstruction.planes),
    )  # fmt: skip
    back = tmp_path / "back_37x51_25.yuv"
    codec.decode_video(tmp_path / "a.cmfr", back)
    with open_video(back) as reader:
        for sent, frame in zip(shown, reader, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(sent, frame.planes, strict=True))


@pytest.mark.parametrize(("name", "lambdas"), [("dcvc-dc", (85, 840)), ("dcvc-fm", (1, 768))])
def test_weights_files_of_before_have_the_published_lambdas(name, lambdas):
    tree = PRESETS[name].model_dump()
    del tree["lambda_range"]
    assert DCVCConfig.model_validate(tree) == PRESETS[name]
    assert PRESETS[name].lambda_range == lambdas
    own = DCVCConfig.model_validate({**tree, "lambda_range": (2, 3)})
    assert own.lambda_range == (2, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generation": "fm", "quality_gains": "anchors"}, "only two stored gains"),
        ({"latent": 18}, "latent = 18 is no multiple of 4"),
        ({"estimation": [{"stride": 8}]}, "stride 1"),
        ({"widths": 3}, "widths"),
    ],
)
def test_impossible_configurations_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        DCVCConfig.model_validate({**PRESETS["dcvc-dc"].model_dump(), **change})
