"""Pictures for the eye.

Paints (`flow_to_color`, `heat`, `grey`, `enlarge`) return float [3, H, W] in [0, 1]; `to_image`
makes a Pillow image of one, and what carries text (`color_bar`, `titled`) or puts images together
(`tile`) takes and returns images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN = 4  # pixels around text


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


def grey(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Map [H, W] -> black at `low` to white at `high` (its own range)."""
    x = x.detach().float()
    low = float(x.min()) if low is None else low
    high = float(x.max()) if high is None else high
    return ((x - low) / max(high - low, 1e-9)).clamp(0, 1).expand(3, *x.shape)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] -> [C, H, W] by nearest neighbor, so that positions stay visible."""
    return F.interpolate(x[None].float(), size=size, mode="nearest")[0]


def to_image(picture: Tensor) -> Image.Image:
    """[3, H, W] in [0, 1] -> 8-bit RGB."""
    array = picture.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def color_bar(
    paint: Callable[[Tensor, float, float], Tensor],
    low: float,
    high: float,
    height: int,
    unit: str = "",
) -> Image.Image:
    """What the colors of a map mean: a vertical strip with its two ends and its middle labelled.

    paint: `grey` or `heat`, as the map was painted between `low` and `high`.
    height: pixels, the map's.
    unit: written after each number.
    """
    font, width = _font(11), 10
    labels = [f"{value:.3g} {unit}".strip() for value in (high, (low + high) / 2, low)]
    text = [font.getbbox(label) for label in labels]
    right = width + 2 * _MARGIN
    page = Image.new("RGB", (math.ceil(right + max(t[2] for t in text)) + 1, height), "white")
    ramp = paint(torch.linspace(high, low, height)[:, None].expand(height, width), low, high)
    page.paste(to_image(ramp), (_MARGIN, 0))
    pen = ImageDraw.Draw(page)
    line = max(t[3] for t in text)
    for i, label in enumerate(labels):
        if i == 1 and height < 4 * line:  # no room between the ends
            continue
        pen.text((right, i * (height - line - 1) / 2), label, fill="black", font=font)
    return page


def titled(image: Image.Image, title: str, size: int = 12) -> Image.Image:
    """`image` under a line of text of `size` pixels; wider, with white, where the text is."""
    font = _font(size)
    line = 2 * _MARGIN + size
    width = max(image.width, math.ceil(font.getlength(title)) + 2 * _MARGIN)
    page = Image.new("RGB", (width, line + image.height), "white")
    ImageDraw.Draw(page).text((_MARGIN, _MARGIN - 1), title, fill="black", font=font)
    page.paste(image, (0, line))
    return page


def tile(images: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Images row by row on white; a column is as wide, a row as high, as its largest image."""
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(len(rows[0]))]
    heights = [max(image.height for image in row) for row in rows]
    page = Image.new("RGB", (sum(widths), sum(heights)), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            page.paste(image, (sum(widths[:c]), sum(heights[:r])))
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
