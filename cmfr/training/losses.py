"""Rate-distortion losses: lambda(quality) * weight * D + R, per sample, mean over the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from cmfr.color import rgb_to_ycbcr, ycbcr_to_rgb
from cmfr.state import FrameOutput
from cmfr.training.config import LossConfig, StageConfig


@dataclass(frozen=True)
class Distortions:
    """What a picture is compared in, per sample [B]: `value` is D, `mse` the weighted MSE on
    [0, 1] that PSNR is shown of, whatever D is."""

    value: Tensor
    mse: Tensor

    @property
    def psnr(self) -> Tensor:
        """dB [B]."""
        return -10 * torch.log10(self.mse.detach().clamp(min=1e-10))


class Distortion:
    """D between two pictures [B, 3, H, W] in the network's color space.

    Computed in float32. Training reconstructions may leave [0, 1]; MS-SSIM sees them clamped.
    """

    def __init__(self, cfg: LossConfig, color: str) -> None:
        self.cfg, self.color = cfg, color

    def __call__(self, x_hat: Tensor, x: Tensor) -> Distortions:
        with torch.autocast(x.device.type, enabled=False):
            return self._measure(x_hat.float(), x.float())

    def _measure(self, x_hat: Tensor, x: Tensor) -> Distortions:
        weights = self.cfg.distortion
        yuv = rgb = (x_hat, x)
        if self.color == "rgb":
            yuv = (rgb_to_ycbcr(x_hat, "bt709", "full"), rgb_to_ycbcr(x, "bt709", "full"))
        elif weights.mse_rgb or weights.ms_ssim_rgb:
            rgb = (ycbcr_to_rgb(x_hat, "bt709", "full"), ycbcr_to_rgb(x, "bt709", "full"))
        y, cb, cr = (yuv[0] - yuv[1]).square().mean((2, 3)).unbind(1)
        wy, wb, wr = (weight / sum(self.cfg.yuv_weights) for weight in self.cfg.yuv_weights)
        mse = wy * y + wb * cb + wr * cr
        value = weights.mse_yuv * mse
        if weights.mse_rgb:
            value = value + weights.mse_rgb * (rgb[0] - rgb[1]).square().mean((1, 2, 3))
        if weights.ms_ssim_y:
            value = value + weights.ms_ssim_y * _ms_ssim_loss(yuv[0][:, :1], yuv[1][:, :1])
        if weights.ms_ssim_rgb:
            value = value + weights.ms_ssim_rgb * _ms_ssim_loss(*rgb)
        return Distortions(value, mse)


def _ms_ssim_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - MS-SSIM of pictures in [0, 1]: [B, C, H, W] twice -> [B]."""
    return 1 - ms_ssim(a.clamp(0, 1), b.clamp(0, 1), data_range=1.0, size_average=False)


@dataclass(frozen=True)
class LossTerms:
    """Loss of one frame. All [B]: rate in bits per pixel; distortion; before, after: of the
    predictions before and after the Motion Refiner (None where not asked for); lambda_ with the
    frame's weight in it; importance of each sample in the batch (`LossConfig.balance`)."""

    rate: Tensor
    distortion: Distortions
    before: Distortions | None
    after: Distortions | None
    lambda_: Tensor
    importance: Tensor
    warp_weight: float = 0.0
    prediction_weight: float = 0.0
    rate_weight: float = 1.0

    @property
    def total(self) -> Tensor:
        """Scalar: mean over the batch."""
        distortion = self.distortion.value
        if self.before is not None:
            distortion = distortion + self.warp_weight * self.before.value
        if self.after is not None:
            distortion = distortion + self.prediction_weight * self.after.value
        return (self.importance * (self.lambda_ * distortion + self.rate_weight * self.rate)).mean()

    def scalars(self) -> dict[str, Tensor]:
        """For the log, detached, still on the device: mean PSNR in dB, bpp, lambda * D."""
        values = {
            "psnr": self.distortion.psnr.mean(),
            "bpp": self.rate.detach().mean(),
            "distortion": self.distortion.value.detach().mean(),
            "lambda_d": (self.lambda_ * self.distortion.value).detach().mean(),
        }
        if self.before is not None:
            values["warp_psnr"] = self.before.psnr.mean()
        if self.after is not None:
            values["prediction_psnr"] = self.after.psnr.mean()
        return values


class FrameLoss:
    """The loss of coded frames in one stage."""

    def __init__(self, cfg: LossConfig, stage: StageConfig, color: str) -> None:
        self.cfg, self.stage = cfg, stage
        self.distortion = Distortion(cfg, color)

    def __call__(
        self, output: FrameOutput, x: Tensor, quality: Tensor, weight: float = 1.0,
        intra: bool = False, rate_weight: float = 1.0,
    ) -> LossTerms:  # fmt: skip
        """One coded frame against its source x [B, 3, H, W]; quality [B] is the stream's."""
        before = after = None
        if output.motion is not None and self.stage.warp_weight:
            before = self.distortion(output.motion.warped, x)
        if output.motion is not None and self.stage.prediction_weight:
            after = self.distortion(output.motion.prediction, x)
        lambda_ = self.cfg.lambda_of(quality.float(), intra)
        lowest = self.cfg.lambda_of(0, intra)
        return LossTerms(
            rate=output.total_bits / (x.shape[2] * x.shape[3]),
            distortion=self.distortion(output.x_hat, x),
            before=before,
            after=after,
            lambda_=weight * lambda_,
            importance=(lambda_ / lowest) ** -self.cfg.balance,
            warp_weight=self.stage.warp_weight,
            prediction_weight=self.stage.prediction_weight,
            rate_weight=rate_weight,
        )
