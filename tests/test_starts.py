import pytest
import torch
from conftest import moving_clip
from torch import nn

from cmfr.layers import conv, upsample
from cmfr.presets import PRESETS
from cmfr.starts import (
    analysis_start,
    haar_bands,
    pixel_start,
    pixel_synthesis_start,
    synthesis_start,
)
from cmfr.video_codec import VideoCodec


@pytest.fixture
def no_leak(monkeypatch):
    monkeypatch.setattr("cmfr.starts.LEAK", 0.0)


@pytest.mark.parametrize("outputs", [20, 30, 9])
def test_synthesis_is_the_transpose_of_analysis(no_leak, outputs):
    """Inverse when no band is dropped, otherwise the projection on what is kept."""
    down, up = conv(5, outputs, stride=2), upsample(outputs, 5)
    assert analysis_start(down, 5) == len(haar_bands(5, outputs))
    synthesis_start(up, 5)
    x = torch.randn(2, 5, 8, 12)
    with torch.no_grad():
        y = down(x)
        back = up(y)
        assert torch.allclose(down(back)[:, : len(haar_bands(5, outputs))],
                              y[:, : len(haar_bands(5, outputs))], atol=1e-5)  # fmt: skip
        if outputs >= 20:
            assert torch.allclose(back, x, atol=1e-5)
            assert float(y.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_pixels_go_through_and_back(no_leak, stride):
    first, last = conv(3 * stride**2, 16), conv(16, 3 * stride**2)
    assert pixel_start(first, stride) == 3 * stride**2
    pixel_synthesis_start(last, stride)
    x = torch.rand(1, 3, 8, 8)
    unshuffled = nn.functional.pixel_unshuffle(x, stride)
    assert torch.allclose(last(first(unshuffled)), unshuffled, atol=1e-5)


def test_too_few_channels_start_at_random():
    layer = conv(12, 8)
    before = layer.weight.clone()
    assert pixel_start(layer, 2) == 0 and torch.equal(layer.weight, before)
    assert analysis_start(layer, 0) == 0 and torch.equal(layer.weight, before)


def test_an_untrained_codec_shows_the_picture():
    """The whole chain of starts at work: a block transform codec before any training."""
    torch.manual_seed(0)
    model = VideoCodec(PRESETS["cmfr-s"]).eval()
    noise = moving_clip(3, 64, 64)[0]
    coarse = nn.functional.avg_pool2d(noise, 16)
    clip = nn.functional.interpolate(coarse, scale_factor=16, mode="bilinear")[None]
    with torch.no_grad():
        outputs = model(clip, torch.tensor([63]))
    for t, output in enumerate(outputs):
        psnr = -10 * (output.x_hat - clip[:, t]).square().mean().log10()
        assert psnr > 20, (t, psnr)
