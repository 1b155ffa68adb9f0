"""Rate-distortion losses: lambda(quality) * weight * D + R, per sample, mean over the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmfr.state import FrameOutput
from cmfr.train_config import LossConfig


@dataclass(frozen=True)
class LossTerms:
    """Loss of one frame. All [B]: rate in bits per pixel, distortion as MSE on [0, 1] (plane
    weighted), warp likewise for the prediction (zero when not asked for), lambda_ with the
    frame's weight in it; importance of each sample in the batch (`LossConfig.balance`)."""

    rate: Tensor
    distortion: Tensor
    warp: Tensor
    lambda_: Tensor
    warp_weight: float
    importance: Tensor
    rate_weight: float = 1.0

    @property
    def total(self) -> Tensor:
        """Scalar: mean over the batch."""
        distortion = self.distortion + self.warp_weight * self.warp
        return (self.importance * (self.lambda_ * distortion + self.rate_weight * self.rate)).mean()

    @property
    def psnr(self) -> Tensor:
        """dB of the mean distortion of each sample, averaged."""
        return (-10 * torch.log10(self.distortion.detach().clamp(min=1e-10))).mean()


def weighted_mse(a: Tensor, b: Tensor, plane_weights: tuple[float, float, float]) -> Tensor:
    """Plane-weighted mean squared error per sample: [B, 3, H, W] twice -> [B]."""
    planes = (a.float() - b.float()).square().mean((2, 3))
    return sum(w * planes[:, i] for i, w in enumerate(plane_weights))  # type: ignore[return-value]


def frame_loss(
    cfg: LossConfig, output: FrameOutput, x: Tensor, quality: Tensor,
    weight: float = 1.0, warp_weight: float = 0.0, intra: bool = False, rate_weight: float = 1.0,
) -> LossTerms:  # fmt: skip
    """Loss of one coded frame against its source x [B, 3, H, W]; quality [B] is the stream's."""
    pixels = x.shape[2] * x.shape[3]
    warp = torch.zeros(len(x), device=x.device)
    if warp_weight and output.motion is not None:
        motion = output.motion
        warp = weighted_mse(motion.warped, x, cfg.plane_weights)
        if motion.prediction is not motion.warped:
            warp = (warp + weighted_mse(motion.prediction, x, cfg.plane_weights)) / 2
    lambda_ = cfg.lambda_of(quality.float(), intra)
    lowest = cfg.lambda_of(0, intra)
    return LossTerms(
        rate=output.total_bits / pixels,
        distortion=weighted_mse(output.x_hat, x, cfg.plane_weights),
        warp=warp,
        lambda_=weight * lambda_,
        warp_weight=warp_weight,
        importance=(lambda_ / lowest) ** -cfg.balance,
        rate_weight=rate_weight,
    )
