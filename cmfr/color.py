"""Stored planes <-> the network's tensor; the only module that knows color matrices.

The network works on float32 tensors [B, 3, H, W], nominally in [0, 1], in the space "ycbcr"
or "rgb". A YUV video in the space "ycbcr" is taken as it is stored: its matrix and range are
then only metadata, and planes -> tensor -> planes is the identity.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmfr.frames import Frame, VideoInfo, require_known_color

__all__ = [
    "downsample_chroma",
    "planes_to_tensor",
    "rgb_to_ycbcr",
    "tensor_to_planes",
    "upsample_chroma",
    "ycbcr_to_rgb",
]

SPACES = ("ycbcr", "rgb")
_WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}


def _weights(matrix: str) -> tuple[float, float]:
    """(Kr, Kb) of a matrix; ValueError for one that has none ("rgb", "unspecified", ...)."""
    if matrix not in _WEIGHTS:
        raise ValueError(f"color matrix {matrix!r} is not one of {', '.join(_WEIGHTS)}")
    return _WEIGHTS[matrix]


def _levels(range: str, bit_depth: int | None) -> tuple[float, float, float, float]:
    """(luma offset, luma span, chroma center, chroma span) as fractions of the largest code.

    Without a bit depth, "full" is continuous (chroma center exactly 1/2) and "limited" has the
    levels of 8 bit. With one, the center is the code 2^(bits-1), as H.273 says.
    """
    if range not in ("full", "limited"):
        raise ValueError(f"color range {range!r} is not one of full, limited")
    bits = bit_depth or 8
    top, unit = float(2**bits - 1), float(2 ** (bits - 8))
    if range == "limited":
        return 16 * unit / top, 219 * unit / top, 128 * unit / top, 224 * unit / top
    return 0.0, 1.0, 0.5 if bit_depth is None else 128 * unit / top, 1.0


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


def planes_to_tensor(
    frame: Frame, info: VideoInfo, space: str, device: str | torch.device = "cpu"
) -> Tensor:
    """One stored picture as a float32 tensor [1, 3, H, W], nominally in [0, 1], on `device`.

    Raises ValueError for an unknown space, or if YUV is to become RGB and the video does not
    say its matrix or range (see frames.resolve_color).
    """
    _check_space(info, space)
    top = float(2**info.bit_depth - 1)
    planes = [_plane_to_device(plane, device) / top for plane in frame.planes]
    if info.chroma == "420":
        chroma = torch.cat(planes[1:], dim=1)
        x = torch.cat((planes[0], upsample_chroma(chroma, info.height, info.width)), dim=1)
    else:
        x = torch.cat(planes, dim=1)
    if info.chroma == "rgb" and space == "ycbcr":
        return rgb_to_ycbcr(x, "bt709", "full")
    if info.chroma != "rgb" and space == "rgb":
        return ycbcr_to_rgb(x, info.color.matrix, info.color.range, info.bit_depth)
    return x


def tensor_to_planes(x: Tensor, info: VideoInfo, space: str) -> Frame:
    """The inverse of planes_to_tensor for x [1, 3, H, W]: clamped, rounded to whole codes.

    Raises the same ValueErrors as planes_to_tensor.
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
    return Frame((_to_codes(first, info), _to_codes(second, info), _to_codes(third, info)))


def _check_space(info: VideoInfo, space: str) -> None:
    if space not in SPACES:
        raise ValueError(f"the network's color space {space!r} is not one of {', '.join(SPACES)}")
    if space == "rgb":
        require_known_color(info)


def _plane_to_device(plane: np.ndarray, device: str | torch.device) -> Tensor:
    """Integer plane [H, W] to float32 [1, 1, H, W]; integers cross to the device, being smaller."""
    plane = np.require(plane, requirements=["C", "W"])
    if plane.dtype == np.uint16:
        plane = plane.view(np.int16)  # few torch kernels know uint16; 10 bit codes fit int16
    return torch.from_numpy(plane).to(device).float()[None, None]


def _to_codes(plane: Tensor, info: VideoInfo) -> np.ndarray:
    """[1, 1, H, W] in [0, 1] to whole codes [H, W] of the video's sample type."""
    codes = (plane[0, 0] * (2**info.bit_depth - 1)).round()
    if info.bit_depth == 8:
        return codes.to(torch.uint8).cpu().numpy()
    return codes.to(torch.int16).cpu().numpy().view(info.dtype)
