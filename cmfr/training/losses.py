"""Rate-distortion losses: lambda(quality) * weight * D + R, per sample, mean over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from cmfr.models.state import FrameOutput
from cmfr.training.config import LossConfig, StageConfig
from cmfr.video.color import rgb_to_ycbcr, ycbcr_to_rgb


@dataclass(frozen=True)
class Distortions:
    """What a picture is compared in, per sample [B]: `value` is D, `mse` the weighted MSE on
    [0, 1] that PSNR is shown of, whatever D is."""

    value: Tensor
    mse: Tensor

    @property
    def psnr(self) -> Tensor:
        """dB [B]."""
        return decibels(self.mse.detach())


def decibels(mse: Tensor) -> Tensor:
    """PSNR of a mean squared error on [0, 1], same shape."""
    return -10 * torch.log10(mse.clamp(min=1e-10))


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


def residual_bits(prediction: Tensor, x: Tensor, lambda_: Tensor, weights: Tensor) -> Tensor:
    """What coding the residual of a prediction would take, roughly: bits per pixel [B].

    High-rate theory on blocks of 8x8: 1/2 log2(1 + variance / distortion), the distortion being
    what uniform quantization leaves at the step that is best for lambda (`LATENT_GAINS`). Unlike
    lambda * D it does not overrate what the residual codec will mend anyway.

    prediction, x [B, 3, H, W] in YCbCr; lambda_ [B]; weights [3] of the planes, sum 1.
    """
    with torch.autocast(x.device.type, enabled=False):
        error = (prediction.float() - x.float()).square() * weights[:, None, None]
        variance = nn.functional.avg_pool2d(error.sum(1), 8)
        return 0.5 * torch.log2(1 + variance * lambda_[:, None, None] / 0.62).mean((1, 2))


@dataclass(frozen=True)
class LossTerms:
    """Loss of one frame.

    rate: bits per pixel [B].
    distortion: of the reconstruction.
    predictions: cost of the predictions before and after the Motion Refiner [B], each with its
    weight, in bits per pixel.
    shown: the same predictions by name, for the log.
    lambda_: with the frame's weight in it [B]; 0 where the distortion does not count.
    importance: of each sample in the batch [B] (`LossConfig.balance`).
    """

    rate: Tensor
    distortion: Distortions
    predictions: tuple[tuple[float, Tensor], ...]
    shown: dict[str, Distortions]
    lambda_: Tensor
    importance: Tensor
    rate_weight: float | Tensor = 1.0

    @cached_property
    def lambda_d(self) -> Tensor:
        """lambda * D [B]."""
        return self.lambda_ * self.distortion.value

    @property
    def total(self) -> Tensor:
        """Scalar: mean over the batch."""
        cost = self.lambda_d + self.rate_weight * self.rate
        for weight, bits in self.predictions:
            cost = cost + weight * bits
        return (self.importance * cost).mean()


@dataclass(frozen=True)
class FrameNumbers:
    """What the log shows of one frame, per sample [B] and by name: mean squared errors (shown as
    PSNR), bits (shown per pixel), and what is shown as it is."""

    errors: dict[str, Tensor]
    bits: dict[str, Tensor]
    others: dict[str, Tensor]

    @classmethod
    def of(cls, terms: LossTerms, bits: dict[str, Tensor]) -> FrameNumbers:
        """bits: of the frame, by latent."""
        return cls(
            {
                "psnr": terms.distortion.mse,
                **{f"{name}_psnr": seen.mse for name, seen in terms.shown.items()},
            },
            {f"bpp_{name}": value for name, value in bits.items()},
            {"bpp": terms.rate, "distortion": terms.distortion.value, "lambda_d": terms.lambda_d},
        )

    @staticmethod
    @torch.no_grad()
    def means(frames: list[FrameNumbers], pixels: int) -> dict[str, Tensor]:
        """Of frames that show the same, means over them and the batch, still on the device: a few
        kernels for all numbers together."""

        def table(columns: list[dict[str, Tensor]]) -> Tensor:
            rows = [column[name] for name in columns[0] for column in columns]
            return torch.stack(rows).reshape(len(columns[0]), -1)

        parts = [
            decibels(table([f.errors for f in frames])),
            table([f.bits for f in frames]) / pixels,
            table([f.others for f in frames]),
        ]
        names = [*frames[0].errors, *frames[0].bits, *frames[0].others]
        return dict(zip(names, torch.cat(parts).mean(1).unbind(), strict=True))


class FrameLoss:
    """The loss of coded frames in one stage."""

    def __init__(self, cfg: LossConfig, stage: StageConfig, color: str) -> None:
        self.cfg, self.stage, self.color = cfg, stage, color
        self.distortion = Distortion(cfg, color)
        self.plane_weights = torch.tensor(cfg.yuv_weights) / sum(cfg.yuv_weights)

    def __call__(
        self,
        output: FrameOutput,
        x: Tensor,
        quality: Tensor,
        weight: float = 1.0,
        intra: bool = False,
        rate_weight: float | Tensor = 1.0,
    ) -> LossTerms:
        """One coded frame against its source x [B, 3, H, W]; quality [B] is the stream's."""
        stage, motion = self.stage, output.motion
        lambda_ = self.cfg.lambda_of(quality.float(), intra)
        importance = (lambda_ / self.cfg.lambda_of(0, intra)) ** -self.cfg.balance
        lambda_ = weight * lambda_
        predictions, shown = [], {}
        if motion is not None:
            for name, picture, factor in (
                ("warp", motion.warped, stage.warp_weight),
                ("prediction", motion.prediction, stage.prediction_weight),
            ):
                if not factor:
                    continue
                shown[name] = self.distortion(picture, x)
                cost = lambda_ * shown[name].value
                if stage.prediction_loss == "bits":
                    cost = self._residual_bits(picture, x, lambda_)
                predictions.append((factor, cost))
        # Where only motion is learnt, the reconstruction is the prediction.
        counts = stage.objective != "motion" or stage.prediction_loss == "distortion"
        return LossTerms(
            rate=output.total_bits / (x.shape[2] * x.shape[3]),
            distortion=self.distortion(output.x_hat, x),
            predictions=tuple(predictions),
            shown=shown,
            lambda_=lambda_ if counts else 0 * lambda_,
            importance=importance,
            rate_weight=rate_weight,
        )

    def _residual_bits(self, picture: Tensor, x: Tensor, lambda_: Tensor) -> Tensor:
        if self.color == "rgb":
            picture, x = (rgb_to_ycbcr(p, "bt709", "full") for p in (picture, x))
        self.plane_weights = self.plane_weights.to(x.device)  # once: a GPU is waited for
        return residual_bits(picture, x, lambda_, self.plane_weights)
