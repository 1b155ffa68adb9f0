"""Finer detail for training than the clips at hand have (ours).

Clips that were compressed or scaled down before are softer than the test sequences, and codecs
trained on them spend too many bits on detail. Half the resolution and sharpening mend that.
Test sequences often alias, having been scaled down with little filtering; clips do not, until rows
and columns are left out.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def halved(planes: Tensor) -> Tensor:
    """uint8 [..., H, W] -> [..., H/2, W/2]: means of 2x2 samples, rounded."""
    return F.avg_pool2d(planes.float(), 2).round().byte()


def decimated(planes: Tensor) -> Tensor:
    """[..., H, W] -> [..., H/2, W/2]: every other row and column."""
    return planes[..., ::2, ::2]


def sharpened(planes: Tensor, amount: float) -> Tensor:
    """uint8 [N, C, H, W] with `amount` times the difference from a 3x3 binomial blur added:
    the highest frequencies become 1 + amount times as strong."""
    x = planes.float()
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 2, 1), 2, 1)
    return (x + amount * (x - blurred)).round().clamp(0, 255).byte()
