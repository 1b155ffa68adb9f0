import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from pytorch_msssim import ms_ssim

from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.metrics import compare, frame_ms_ssim, plane_psnr, rgb_quality


def info(width, height, chroma="420", depth=8):
    return VideoInfo(width, height, Fraction(25), ColorInfo(), chroma, depth)


def noisy(shapes, noise, peak=255, seed=0):
    rng = np.random.default_rng(seed)
    a = [np.clip(rng.normal(peak / 2, peak / 6, s), 0, peak) for s in shapes]
    b = [np.clip(p + rng.normal(0, noise, p.shape), 0, peak) for p in a]
    kind = np.uint8 if peak == 255 else np.uint16
    return tuple(Frame(tuple(p.round().astype(kind) for p in f)) for f in (a, b))


def test_psnr_is_that_of_the_definition():
    a, b = noisy(info(64, 48).plane_shapes, 5)
    quality = compare(a, b, info(64, 48))
    for value, p, q in zip(quality.psnr, a.planes, b.planes, strict=True):
        mse = ((p.astype(float) - q.astype(float)) ** 2).mean()
        assert value == pytest.approx(10 * np.log10(255**2 / mse))
    y, u, v = quality.psnr
    assert quality.combined == pytest.approx((6 * y + u + v) / 8)
    assert quality.ms_ssim is None  # too small


def test_peak_follows_the_bit_depth():
    a = np.full((4, 4), 500, np.uint16)
    assert plane_psnr(a, a + 1, 1023) == pytest.approx(20 * np.log10(1023))
    assert plane_psnr(a, a, 1023) == 100
    with pytest.raises(ValueError, match="different sizes"):
        plane_psnr(a, a[:2], 1023)


def test_rgb_is_one_mse_over_three_planes():
    layout = info(16, 16, "rgb")
    a, b = noisy(layout.plane_shapes, 9)
    pairs = zip(a.planes, b.planes, strict=True)
    stacked = np.mean([((p.astype(float) - q) ** 2).mean() for p, q in pairs])
    assert compare(a, b, layout).combined == pytest.approx(10 * np.log10(255**2 / stacked))


def test_ms_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    layout = info(176, 176)
    values = []
    for noise in (0, 5, 20):
        a, b = noisy(layout.plane_shapes, noise)
        values.append(frame_ms_ssim(a, b, layout))
    assert values[0] == pytest.approx(1) and values[0] > values[1] > values[2] > 0


def test_rgb_quality_has_the_stated_range_and_limits():
    x = torch.rand(1, 3, 170, 176, generator=torch.Generator().manual_seed(0))
    y = (x + 0.05).clamp(0, 1)
    values = rgb_quality(x, y)
    mse = float((x - y).square().mean())
    assert values["psnr_rgb"] == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    assert values["ms_ssim_rgb"] == pytest.approx(float(ms_ssim(x, y, data_range=1)))
    assert rgb_quality(x, x)["psnr_rgb"] == 100
    assert "ms_ssim_rgb" not in rgb_quality(x[..., :160, :], y[..., :160, :])
    with pytest.raises(ValueError, match="measured in"):
        rgb_quality(255 * x, 255 * y)
    with pytest.raises(ValueError, match="different sizes"):
        rgb_quality(x, y[..., :100])
