import pytest
import torch
from conftest import moving_clip
from torch import nn

from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.init import (
    analysis_start,
    haar_bands,
    pixel_start,
    pixel_synthesis_start,
    pyramid_bands,
    synthesis_start,
)
from cmfr.nn.layers import conv, upsample


@pytest.fixture
def no_leak(monkeypatch):
    monkeypatch.setattr("cmfr.nn.init.SMALL_GAIN", 0.0)


@pytest.mark.parametrize("outputs", [20, 30, 9])
def test_synthesis_is_the_transpose_of_analysis(no_leak, outputs):
    """Inverse when no band is dropped, otherwise the projection on what is kept."""
    down, up = conv(5, outputs, stride=2), upsample(outputs, 5)
    bands = haar_bands(5, outputs)
    analysis_start(down, bands)
    synthesis_start(up, bands)
    x = torch.randn(2, 5, 8, 12)
    with torch.no_grad():
        y = down(x)
        back = up(y)
        kept = slice(len(bands))
        assert torch.allclose(down(back)[:, kept], y[:, kept], atol=1e-5)
        if outputs >= 20:
            assert torch.allclose(back, x, atol=1e-5)
            assert float(y.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_pixels_go_through_and_back(no_leak, stride):
    first, last = conv(3 * stride**2, 16), conv(16, 3 * stride**2)
    assert pixel_start(first, stride, False) == 3 * stride**2
    pixel_synthesis_start(last, stride, False)
    x = torch.rand(1, 3, 8, 8)
    unshuffled = nn.functional.pixel_unshuffle(x, stride)
    assert torch.allclose(last(first(unshuffled)), unshuffled, atol=1e-5)


def test_half_resolution_chroma_needs_half_the_channels(no_leak):
    first, last = conv(12, 8), conv(8, 12)
    assert pixel_start(first, 2, True) == 6
    pixel_synthesis_start(last, 2, True)
    x = torch.cat([torch.rand(1, 1, 8, 8), torch.rand(1, 2, 4, 4).repeat_interleave(2, 2)
                   .repeat_interleave(2, 3)], 1)  # fmt: skip
    unshuffled = nn.functional.pixel_unshuffle(x, 2)
    assert torch.allclose(last(first(unshuffled)), unshuffled, atol=1e-5)


@pytest.mark.parametrize(("stride", "width"), [(1, 48), (2, 24)])
def test_96_channels_at_an_eighth_are_a_complete_transform_of_420(stride, width):
    halvings = (64, 96, 96)[: 3 if stride == 1 else 2]
    assert len(pyramid_bands(stride, width, halvings, flat_chroma=True)[-1]) == 96


def test_too_few_channels_start_at_random():
    layer = conv(12, 8)
    before = layer.weight.clone()
    assert pixel_start(layer, 2, False) == 0 and torch.equal(layer.weight, before)
    analysis_start(layer, [])
    assert torch.equal(layer.weight, before)
    assert pyramid_bands(4, 64, (64, 96), True) == [[], []]


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return VideoModel(PRESETS["cmfr-s"]).eval()


def test_an_untrained_codec_shows_the_picture(untrained):
    """The whole chain of starts at work: a block transform codec before any training."""
    clip = moving_clip(3, 64, 64)
    chroma = nn.functional.avg_pool2d(clip[0, :, 1:], 2)
    clip[0, :, 1:] = chroma.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        outputs = untrained(clip, torch.tensor([63]))
    for t, output in enumerate(outputs):
        psnr = -10 * (output.x_hat - clip[:, t]).square().mean().log10()
        assert psnr > 35, (t, psnr)


def test_features_of_equal_frames_cancel(untrained):
    inter, x = untrained.inter, moving_clip(1, 64, 64)[:, 0]
    with torch.no_grad():
        feature = inter.adaptor.of_frame(x)
        target = inter.feature_extractor(x)
        predicted = inter.residual_mode.predicted_features(x, feature)
    assert (target - predicted).square().mean() < 1e-4 * target.square().mean()
