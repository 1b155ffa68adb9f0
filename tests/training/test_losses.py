import math

import pytest
import torch
from conftest import moving_clip
from pytorch_msssim import ms_ssim

from cmfr.models.state import FrameOutput, MotionPictures, ReferenceState
from cmfr.training.config import DistortionConfig, LossConfig, StageConfig
from cmfr.training.losses import Distortion, FrameLoss, FrameNumbers, residual_bits
from cmfr.video.color import ycbcr_to_rgb

STAGE = StageConfig(name="s", objective="inter", trainable=("inter",), frames=2, steps=1, lr=1)
CLIP = moving_clip(2, 192, 192)[0]
X, X_HAT = CLIP[:1], CLIP[1:]


def d_of(color="ycbcr", x_hat=X_HAT, x=X, **weights):
    cfg = LossConfig(distortion=DistortionConfig(**weights))
    return Distortion(cfg, color)(x_hat, x)


def numbers(terms, bits, pixels):
    return FrameNumbers.means([FrameNumbers.of(terms, bits)], pixels)


def rgb(x):
    return ycbcr_to_rgb(x, "bt709", "full")


def test_lambda_and_loss_have_the_stated_units():
    cfg = LossConfig(lambda_min=16, lambda_max=2048, yuv_weights=(6, 1, 1))
    assert cfg.lambda_of(0) == 16 and cfg.lambda_of(63) == pytest.approx(2048)
    assert cfg.lambda_of(31.5) == pytest.approx((16 * 2048) ** 0.5)
    x = torch.zeros(1, 3, 16, 16)
    x_hat = x + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    output = FrameOutput(x_hat, ReferenceState(x_hat), {"y": torch.tensor([64.0])})
    terms = FrameLoss(cfg, STAGE, "ycbcr")(output, x, torch.tensor([0]), weight=0.5)
    mse = (6 * 0.01 + 0.04 + 0.09) / 8
    assert float(terms.distortion.value) == pytest.approx(mse, rel=1e-5)
    assert float(terms.total) == pytest.approx(16 * 0.5 * mse + 64 / 256, rel=1e-5)
    scalars = numbers(terms, output.bits, 256)
    assert float(scalars["bpp_y"]) == pytest.approx(64 / 256)
    assert float(scalars["lambda_d"]) == pytest.approx(16 * 0.5 * mse, rel=1e-5)
    assert float(scalars["bpp"]) == pytest.approx(64 / 256)
    assert float(scalars["psnr"]) == pytest.approx(-10 * math.log10(mse), rel=1e-4)


def test_distortions_are_what_their_names_say():
    planes = (X_HAT - X).square().mean((2, 3))[0]
    assert float(d_of(mse_yuv=1).value) == pytest.approx(
        float(planes @ torch.tensor([6, 1, 1.0]) / 8)
    )
    mse_rgb = (rgb(X_HAT) - rgb(X)).square().mean()
    assert float(d_of(mse_rgb=1).value) == pytest.approx(float(mse_rgb), rel=1e-5)
    luma = 1 - ms_ssim(X_HAT[:, :1], X[:, :1], data_range=1.0)
    assert float(d_of(ms_ssim_y=1).value) == pytest.approx(float(luma), rel=1e-4)
    color = 1 - ms_ssim(rgb(X_HAT).clamp(0, 1), rgb(X).clamp(0, 1), data_range=1.0)
    assert float(d_of(ms_ssim_rgb=1).value) == pytest.approx(float(color), rel=1e-4)
    mixed = 0.8 * d_of(mse_yuv=1).value + 0.2 * d_of(mse_rgb=1).value
    assert torch.allclose(d_of(mse_yuv=0.8, mse_rgb=0.2).value, mixed)


def test_a_network_in_rgb_is_measured_the_same():
    for weights in ({"mse_yuv": 1}, {"mse_rgb": 1}, {"mse_yuv": 0.8, "mse_rgb": 0.2}):
        inside = d_of("rgb", rgb(X_HAT), rgb(X), **weights)
        assert torch.allclose(inside.value, d_of(**weights).value, rtol=1e-4)
        assert torch.allclose(inside.psnr, d_of(**weights).psnr, rtol=1e-4)


def test_ms_ssim_has_finite_gradients_from_a_bad_start():
    x_hat = torch.full_like(X, -0.3).requires_grad_()
    loss = Distortion(LossConfig(distortion=DistortionConfig(ms_ssim_rgb=1)), "ycbcr")(x_hat, X)
    loss.value.sum().backward()
    assert torch.isfinite(x_hat.grad).all()


def test_predictions_count_where_the_stage_asks():
    output = FrameOutput(
        X_HAT, ReferenceState(X_HAT), {"y": torch.zeros(1)},
        motion=MotionPictures(X, X, warped=X + 0.1, prediction=X + 0.2),
    )  # fmt: skip
    cfg = LossConfig(lambda_min=10, lambda_max=10)
    quality = torch.tensor([5])
    plain = FrameLoss(cfg, STAGE, "ycbcr")(output, X, quality)
    assert not plain.predictions and "warp_psnr" not in numbers(plain, output.bits, 1)
    stage = STAGE.model_copy(update={"warp_weight": 0.5, "prediction_weight": 2.0})
    both = FrameLoss(cfg, stage, "ycbcr")(output, X, quality)
    extra = 10 * (0.5 * 0.01 + 2 * 0.04)
    assert float(both.total) == pytest.approx(float(plain.total) + extra, rel=1e-4)
    assert float(numbers(both, output.bits, 1)["warp_psnr"]) == pytest.approx(20, rel=1e-4)


def test_predictions_cost_what_their_residual_would_take():
    """White noise of variance v at a high rate: half a bit a pixel for every 6 dB over what
    quantization leaves."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    noise = 0.05 * torch.randn_like(x)
    lambda_, weights = torch.tensor([1000.0, 4000.0]), torch.tensor([1.0, 0, 0])
    bits = residual_bits(x + noise, x, lambda_, weights)
    expected = 0.5 * torch.log2(1 + 0.05**2 * lambda_ / 0.62)
    assert torch.allclose(bits, expected, rtol=0.05)
    assert not residual_bits(x, x, lambda_, weights).any()
    # in the motion stage they are all that counts beside the rate
    output = FrameOutput(
        x + noise, ReferenceState(x), {"y": torch.zeros(2)},
        motion=MotionPictures(x, x, warped=x, prediction=x + noise),
    )  # fmt: skip
    cfg = LossConfig(lambda_min=1000, lambda_max=1000, yuv_weights=(1, 0, 0))
    changes = {"objective": "motion", "prediction_weight": 2.0, "prediction_loss": "bits"}
    terms = FrameLoss(cfg, STAGE.model_copy(update=changes), "ycbcr")(
        output, x, torch.tensor([0, 0])
    )
    assert float(terms.total) == pytest.approx(2 * float(bits[0]), rel=0.05)


def test_balance_evens_the_qualities_out():
    output = FrameOutput(X_HAT.expand(2, -1, -1, -1), ReferenceState(X_HAT), {"y": torch.zeros(2)})
    cfg = LossConfig(lambda_min=1, lambda_max=100, balance=1.0)
    terms = FrameLoss(cfg, STAGE, "ycbcr")(output, X.expand(2, -1, -1, -1), torch.tensor([0, 63]))
    weighed = terms.importance * terms.lambda_
    assert float(weighed[0]) == pytest.approx(float(weighed[1]), rel=1e-5)
