"""Stored planes <-> the network's tensor; the only module that knows color matrices.

The network works on float32 tensors [B, 3, H, W], nominally in [0, 1], in the space "ycbcr"
or "rgb". A YUV video in the space "ycbcr" is taken as it is stored: its matrix and range are
then only metadata, and planes -> tensor -> planes is the identity.

Where a YUV video becomes RGB there is one conversion, the one by which DCVC makes the PNGs that
the field measures on (`yuv_to_rgb`), and the picture has 8 bit as those have (`rgb_picture`):
networks, anchors, metrics and PNG files all take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmfr.utils.device import to_host
from cmfr.utils.errors import UserError
from cmfr.video.info import RGB_COLOR, Frame, VideoInfo, require_known_color

__all__ = [
    "downsample_chroma",
    "planes_to_tensor",
    "rgb_picture",
    "rgb_to_ycbcr",
    "tensor_to_planes",
    "upsample_chroma",
    "ycbcr_to_rgb",
    "yuv_to_rgb",
]

SPACES = ("ycbcr", "rgb")
_WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}


def _weights(matrix: str) -> tuple[float, float]:
    """(Kr, Kb) of a matrix; ValueError for one that has none ("rgb", "unspecified", ...)."""
    if matrix not in _WEIGHTS:
        raise UserError(f"color matrix {matrix!r} is not one of {', '.join(_WEIGHTS)}")
    return _WEIGHTS[matrix]


def _levels(range: str, bit_depth: int | None) -> tuple[float, float, float, float]:
    """(luma offset, luma span, chroma center, chroma span) as fractions of the largest code.

    The chroma center of "full" is exactly 1/2 for all bit depths: DCVC's, and with it that of all
    published RGB figures (H.273 has the code 2^(bits-1), half a code above). "limited" has the
    levels of the bit depth, by default of 8 bit.
    """
    if range not in ("full", "limited"):
        raise UserError(f"color range {range!r} is not one of full, limited")
    if range == "full":
        return 0.0, 1.0, 0.5, 1.0
    bits = bit_depth or 8
    top, unit = float(2**bits - 1), float(2 ** (bits - 8))
    return 16 * unit / top, 219 * unit / top, 128 * unit / top, 224 * unit / top


def rgb_to_ycbcr(x: Tensor, matrix: str, range: str, bit_depth: int | None = None) -> Tensor:
    """RGB [..., 3, H, W] in [0, 1] to Y'CbCr of the same shape, as codes / largest code.

    range "limited" is 16..235 and 16..240 of 255 (or the levels of `bit_depth`). Not clamped.
    Raises ValueError for an unknown matrix or range.
    """
    kr, kb = _weights(matrix)
    y_offset, y_span, c_center, c_span = _levels(range, bit_depth)
    r, g, b = x.unbind(-3)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb = (b - y) / (2 * (1 - kb))
    cr = (r - y) / (2 * (1 - kr))
    return torch.stack(
        (y * y_span + y_offset, cb * c_span + c_center, cr * c_span + c_center), dim=-3
    )


def ycbcr_to_rgb(x: Tensor, matrix: str, range: str, bit_depth: int | None = None) -> Tensor:
    """The inverse of rgb_to_ycbcr, same arguments and errors. Not clamped."""
    kr, kb = _weights(matrix)
    y_offset, y_span, c_center, c_span = _levels(range, bit_depth)
    y, cb, cr = x.unbind(-3)
    y = (y - y_offset) / y_span
    b = y + (2 * (1 - kb) / c_span) * (cb - c_center)
    r = y + (2 * (1 - kr) / c_span) * (cr - c_center)
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return torch.stack((r, g, b), dim=-3)


def upsample_chroma(chroma: Tensor, height: int, width: int) -> Tensor:
    """[B, C, ceil(H/2), ceil(W/2)] to [B, C, H, W]: each value repeated 2x2, odd sizes cropped."""
    expected = ((height + 1) // 2, (width + 1) // 2)
    assert tuple(chroma.shape[-2:]) == expected, (chroma.shape, height, width)
    doubled = chroma.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return doubled[..., :height, :width]


def downsample_chroma(chroma: Tensor) -> Tensor:
    """[B, C, H, W] to [B, C, ceil(H/2), ceil(W/2)]: 2x2 means, odd edges repeated first.

    Undoes upsample_chroma exactly: a cropped copy is what the repeated edge restores.
    """
    height, width = chroma.shape[-2:]
    if height % 2 or width % 2:
        chroma = F.pad(chroma, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(chroma, 2)


def yuv_to_rgb(frame: Frame, info: VideoInfo) -> Tensor:
    """A YUV picture as float32 RGB [1, 3, H, W] in [0, 1] on the CPU: clamped, not rounded.

    DCVC's conversion by the matrix and range of `info`: the samples of 4:2:0 chroma are spread
    over the picture from corner to corner and interpolated linearly between. The arithmetic is
    DCVC's down to the order of float32 operations, so that `rgb_picture` gives its very PNGs.
    Raises ValueError where the video does not say its matrix or range (frames.resolve_color).
    """
    require_known_color(info)
    top = float(2**info.bit_depth - 1)
    y, u, v = (_plane_to_device(plane, "cpu") / top for plane in frame.planes)
    if info.chroma == "420":
        # Twice the stored size, cropped where the picture's is odd. In float64, as scipy's zoom.
        size = [2 * side for side in u.shape[-2:]]
        chroma = torch.cat((u, v), 1).double()
        chroma = F.interpolate(chroma, size, mode="bilinear", align_corners=True).float()
        u, v = chroma[..., : info.height, : info.width].chunk(2, 1)
    x = torch.cat((y, u, v), dim=1)
    return ycbcr_to_rgb(x, info.color.matrix, info.color.range, info.bit_depth).clamp(0, 1)


def rgb_picture(frame: Frame, info: VideoInfo) -> Frame:
    """A YUV picture as one of 8-bit RGB planes, by `yuv_to_rgb`, same errors."""
    r, g, b = (yuv_to_rgb(frame, info)[0] * 255).round().to(torch.uint8).numpy()
    return Frame((r, g, b))


def planes_to_tensor(
    frame: Frame, info: VideoInfo, space: str, device: str | torch.device = "cpu"
) -> Tensor:
    """One stored picture as a float32 tensor [1, 3, H, W], nominally in [0, 1], on `device`.

    YUV in the space "rgb" is `rgb_picture`'s. Raises ValueError for an unknown space, or if YUV is
    to become RGB and the video does not say its matrix or range (see frames.resolve_color).
    """
    _check_space(info, space)
    if info.chroma != "rgb" and space == "rgb":
        frame = rgb_picture(frame, info)
        info = replace(info, chroma="rgb", bit_depth=8, color=RGB_COLOR)
    top = float(2**info.bit_depth - 1)
    planes = [_plane_to_device(plane, device) / top for plane in frame.planes]
    if info.chroma == "420":
        chroma = torch.cat(planes[1:], dim=1)
        x = torch.cat((planes[0], upsample_chroma(chroma, info.height, info.width)), dim=1)
    else:
        x = torch.cat(planes, dim=1)
    if info.chroma == "rgb" and space == "ycbcr":
        return rgb_to_ycbcr(x, "bt709", "full")
    return x


def tensor_to_planes(x: Tensor, info: VideoInfo, space: str) -> Frame:
    """x [1, 3, H, W] as a picture of `info`: clamped, rounded to whole codes.

    The inverse of planes_to_tensor, but where it made RGB of YUV: that has fewer codes and smoother
    chroma, so it does not come back exactly. Raises the same ValueErrors.
    """
    _check_space(info, space)
    assert tuple(x.shape) == (1, 3, info.height, info.width), (x.shape, info)
    x = x.detach().float()
    if info.chroma == "rgb" and space == "ycbcr":
        x = ycbcr_to_rgb(x, "bt709", "full")
    elif info.chroma != "rgb" and space == "rgb":
        x = rgb_to_ycbcr(x, info.color.matrix, info.color.range, info.bit_depth)
    x = x.clamp(0, 1)
    first, second, third = x[:, :1], x[:, 1:2], x[:, 2:]
    if info.chroma == "420":
        second, third = downsample_chroma(x[:, 1:]).chunk(2, dim=1)
    return _to_codes((first, second, third), info)


def _check_space(info: VideoInfo, space: str) -> None:
    if space not in SPACES:
        raise UserError(f"the network's color space {space!r} is not one of {', '.join(SPACES)}")
    if space == "rgb":
        require_known_color(info)


def _plane_to_device(plane: np.ndarray, device: str | torch.device) -> Tensor:
    """Integer plane [H, W] to float32 [1, 1, H, W]; integers cross to the device, being smaller."""
    plane = np.require(plane, requirements=["C", "W"])
    if plane.dtype == np.uint16:
        plane = plane.view(np.int16)  # few torch kernels know uint16; 10 bit codes fit int16
    return torch.from_numpy(plane).to(device).float()[None, None]


def _to_codes(planes: Sequence[Tensor], info: VideoInfo) -> Frame:
    """Each [1, 1, H, W] in [0, 1] to whole codes [H, W] of the video's sample type; they leave the
    device together."""
    whole = torch.uint8 if info.bit_depth == 8 else torch.int16
    codes = [(plane[0, 0] * (2**info.bit_depth - 1)).round().to(whole) for plane in planes]
    together = to_host(torch.cat([code.flatten() for code in codes])).view(info.dtype)
    parts = np.split(together, np.cumsum([code.numel() for code in codes])[:-1])
    y, u, v = (part.reshape(code.shape) for part, code in zip(parts, codes, strict=True))
    return Frame((y, u, v))
