"""Pictures for the eye: flow as color, maps as heat. All return float [3, H, W] in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def flow_to_color(flow: Tensor, limit: float | None = None) -> Tensor:
    """flow [2, H, W] in pixels -> hue = direction, saturation = length up to `limit`.

    `limit` defaults to the 99th percentile of the lengths. No motion is white.
    """
    flow = flow.detach().float()
    length = flow.square().sum(0).sqrt()
    limit = limit or max(float(length.flatten().quantile(0.99)), 1e-3)
    hue = torch.atan2(flow[1], flow[0]) / (2 * math.pi) % 1
    saturation = (length / limit).clamp(max=1)
    channel = torch.tensor([5.0, 3.0, 1.0], device=flow.device)[:, None, None]
    k = (channel + hue * 6) % 6
    return 1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def heat(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Map [H, W] -> black, red, yellow, white between `low` and `high` (its own range)."""
    x = x.detach().float()
    low = float(x.min()) if low is None else low
    high = float(x.max()) if high is None else high
    t = ((x - low) / max(high - low, 1e-9)).clamp(0, 1) * 3
    return torch.stack([t, t - 1, t - 2]).clamp(0, 1)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] -> [C, H, W] by nearest neighbor, so that positions stay visible."""
    return F.interpolate(x[None].float(), size=size, mode="nearest")[0]
