"""Distortion between 8/10-bit pictures: PSNR per plane and MS-SSIM.

PSNR is 10 log10(peak^2 / MSE) of one frame with peak = 2^bits - 1; a sequence's value is the mean
over frames. PSNR-YUV is (6 Y + U + V) / 8 of the planes' dB. MS-SSIM is pytorch-msssim's, on luma
(or on RGB), linear, not dB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from cmfr.utils.errors import UserError
from cmfr.video.info import Frame, VideoInfo

PSNR_CAP = 100.0  # of identical planes, in dB
MS_SSIM_MIN_SIDE = 161  # pytorch-msssim: five scales of an 11-tap window


@dataclass(frozen=True)
class FrameMetrics:
    """dB per plane (Y, U, V or R, G, B), their combination, MS-SSIM (None: frame too small)."""

    psnr: tuple[float, float, float]
    combined: float
    ms_ssim: float | None


def plane_psnr(a: np.ndarray, b: np.ndarray, peak: int) -> float:
    """dB of one plane; integer arrays of the same shape; PSNR_CAP where they are equal."""
    if a.shape != b.shape:
        raise UserError(f"pictures of different sizes, {a.shape} and {b.shape}, are not comparable")
    difference = a.astype(np.int32) - b.astype(np.int32)
    mse = float(np.mean(difference.astype(np.float64) ** 2))
    return min(PSNR_CAP, 10 * float(np.log10(peak * peak / mse))) if mse else PSNR_CAP


def compare(a: Frame, b: Frame, info: VideoInfo) -> FrameMetrics:
    """Quality of `b` against `a`. RGB pictures: MSE over the three planes instead of 6:1:1."""
    peak = 2**info.bit_depth - 1
    first, second, third = (plane_psnr(p, q, peak) for p, q in zip(a.planes, b.planes, strict=True))
    if info.chroma == "rgb":
        combined = plane_psnr(np.stack(a.planes), np.stack(b.planes), peak)
    else:
        combined = (6 * first + second + third) / 8
    return FrameMetrics((first, second, third), combined, frame_ms_ssim(a, b, info))


def frame_ms_ssim(a: Frame, b: Frame, info: VideoInfo) -> float | None:
    """MS-SSIM of luma (RGB pictures: of RGB); None when a side is under 161 pixels."""
    if min(info.width, info.height) < MS_SSIM_MIN_SIDE:
        return None
    peak = 2**info.bit_depth - 1
    count = 3 if info.chroma == "rgb" else 1
    x, y = (
        torch.from_numpy(np.stack(frame.planes[:count]).astype(np.float32))[None]
        for frame in (a, b)
    )
    return float(ms_ssim(x, y, data_range=peak))


def stored_quality(a: Frame, b: Frame, info: VideoInfo) -> dict[str, float]:
    """`compare` of YUV pictures by the names of results: psnr_y, _u, _v, _yuv and ms_ssim_y."""
    result = compare(a, b, info)
    values = dict(zip(("psnr_y", "psnr_u", "psnr_v"), result.psnr, strict=True))
    values["psnr_yuv"] = result.combined
    return values | ({} if result.ms_ssim is None else {"ms_ssim_y": result.ms_ssim})


def rgb_quality(x: Tensor, y: Tensor) -> dict[str, float]:
    """psnr_rgb and ms_ssim_rgb of RGB pictures [1, 3, H, W] in [0, 1], not rounded here.

    Without ms_ssim_rgb where a side is under 161 pixels. Raises ValueError for pictures of
    different sizes or outside [0, 1], where MS-SSIM would come out too good.
    """
    if x.shape != y.shape:
        raise UserError(f"pictures of different sizes, {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > 1:
        raise UserError("RGB pictures are measured in [0, 1]; these go beyond it")
    mse = float((x.double() - y.double()).square().mean())
    values = {"psnr_rgb": min(PSNR_CAP, -10 * float(np.log10(mse))) if mse else PSNR_CAP}
    if min(x.shape[2:]) >= MS_SSIM_MIN_SIDE:
        values["ms_ssim_rgb"] = float(ms_ssim(x, y, data_range=1))
    return values
