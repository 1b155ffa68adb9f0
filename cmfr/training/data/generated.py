"""Rendered moving scenes, for smoke tests where there is no real video."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def generated_clip(index: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Scene number `index`: RGB [T, 3, H, W] in [0, 1]; size is (width, height).

    A textured plane pans, turns and zooms; two textured disks move before it. The same index
    gives the same scene everywhere.
    """
    width, height = size
    generator = torch.Generator().manual_seed(index)

    def draw(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def texture() -> Tensor:
        """Noise of several scales, [1, 3, 256, 256]: coarse patches, fine grain on top."""
        layers = [
            F.interpolate(draw(1, 3, side, side), size=(256, 256), mode="bicubic") * weight
            for side, weight in ((4, 0.45), (16, 0.3), (64, 0.2), (256, 0.05))
        ]
        return torch.stack(layers).sum(0).clamp(0, 1)

    background, foreground = texture(), texture()
    pan, turn, zoom = draw(2, low=-0.02, high=0.02), draw(1, low=-0.01, high=0.01), draw(1) * 0.006
    centers, speeds = draw(2, 2, low=-0.6, high=0.6), draw(2, 2, low=-0.04, high=0.04)
    radii = draw(2, low=0.15, high=0.35)
    aspect = width / height
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width) * aspect, indexing="ij"
    )

    def view(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
        grid = torch.stack([x, y], -1)[None]
        return F.grid_sample(picture, grid, "bilinear", "reflection", align_corners=False)[0]

    pictures = []
    for t in range(frames):
        angle, scale = float(turn) * t, 0.5 * (1 + float(zoom) * t)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        picture = view(background, cos * x - sin * y + pan[0] * t, sin * x + cos * y + pan[1] * t)
        for center, speed, radius in zip(centers, speeds, radii, strict=True):
            dx, dy = x - center[0] * aspect - speed[0] * t, y - center[1] - speed[1] * t
            cover = ((radius - (dx**2 + dy**2).sqrt()) * height / 2).clamp(0, 1)
            picture = torch.lerp(picture, view(foreground, dx, dy), cover)
        pictures.append(picture)
    return torch.stack(pictures).clamp(0, 1)
