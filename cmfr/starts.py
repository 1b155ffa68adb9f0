"""Initial weights: an untrained transform starts as an orthonormal block transform (ours).

Random encoders and decoders first have to find each other through quantization noise, and a
residual is too weak a signal for that: the rate term switches the latents off before they are of
use. So analysis convolutions start as Haar transforms of the pixels, keeping the lowest
frequencies, and synthesis convolutions as their transposes. Everything else starts small.

Channel order of a Haar transform of n channels to at most m: the low-pass channels first, then
the three high-pass bands of the first channels. Where not everything fits, an eighth of the
outputs is given to each high-pass band: the first channels are the lowest frequencies, and their
details matter more than the averages of the last.
"""

from __future__ import annotations

import torch
from torch import nn

LEAK = 0.02  # size of all other weights, relative to a usual start

# Rows: low-pass, horizontal, vertical, diagonal; columns: the four pixels of a cell, row by row.
_HAAR = torch.tensor(
    [[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]],
).div(2)  # fmt: skip


def haar_bands(channels: int, outputs: int) -> list[tuple[int, int]]:
    """(band, channel) of each output of a Haar transform of `channels` to at most `outputs`."""
    details = min(channels, outputs // 8 if outputs < 4 * channels else channels)
    kept = min(channels, outputs - 3 * details)
    details = min(channels, (outputs - kept) // 3)
    return [(0, c) for c in range(kept)] + [(b, c) for b in (1, 2, 3) for c in range(details)]


def pixel_channels(stride: int, width: int) -> int:
    """Channels that hold a frame pixel-unshuffled by `stride` in features of `width` channels.

    0 where there is no such start: too few channels, or a stride of 4.
    """
    pixels = 3 * stride * stride
    return pixels if stride <= 2 and pixels <= width else 0


@torch.no_grad()
def identity_start(layer: nn.Conv2d, channels: int) -> int:
    """Copy the first `channels` inputs; returns how many outputs mean something."""
    if channels == 0:
        return 0
    layer.weight.mul_(LEAK)
    kept = min(channels, layer.out_channels, layer.in_channels)
    middle = layer.kernel_size[0] // 2
    for channel in range(kept):
        layer.weight[channel, channel, middle, middle] = 1
    return kept


@torch.no_grad()
def pixel_start(layer: nn.Conv2d, stride: int) -> int:
    """Haar transform of a frame that was pixel-unshuffled by `stride`, if `pixel_channels` allows.

    Returns the number of channels that mean something.
    """
    pixels = pixel_channels(stride, layer.out_channels)
    if pixels < 12:  # one value a plane needs no transform, none leaves the random start
        return identity_start(layer, pixels)
    layer.weight.mul_(LEAK)
    middle = layer.kernel_size[0] // 2
    for output, (band, plane) in enumerate(haar_bands(3, pixels)):
        layer.weight[output, 4 * plane : 4 * plane + 4, middle, middle] = _HAAR[band]
    return pixels


@torch.no_grad()
def pixel_synthesis_start(layer: nn.Conv2d, stride: int) -> None:
    """Transpose of `pixel_start`: features -> 3 s^2 channels to be pixel-shuffled."""
    pixels = pixel_channels(stride, layer.in_channels)
    if pixels < 12:
        identity_start(layer, pixels)
        return
    layer.weight.mul_(LEAK)
    middle = layer.kernel_size[0] // 2
    for source, (band, plane) in enumerate(haar_bands(3, pixels)):
        layer.weight[4 * plane : 4 * plane + 4, source, middle, middle] = _HAAR[band]


@torch.no_grad()
def analysis_start(layer: nn.Conv2d, channels: int) -> int:
    """Haar transform in a 3x3 convolution of stride 2; its 2x2 cell is the lower right of the
    kernel. Returns how many outputs mean something."""
    if channels == 0:
        return 0
    if layer.stride[0] == 1:
        return identity_start(layer, channels)
    layer.weight.mul_(LEAK)
    bands = haar_bands(channels, layer.out_channels)
    for output, (band, channel) in enumerate(bands):
        layer.weight[output, channel, 1:, 1:] = _HAAR[band].reshape(2, 2)
    return len(bands)


@torch.no_grad()
def synthesis_start(up: nn.Sequential, channels: int) -> None:
    """Transpose of `analysis_start` of `channels` in a sub-pixel convolution (`upsample`)."""
    if channels == 0:
        return
    layer = up[0]
    assert isinstance(layer, nn.Conv2d)
    layer.weight.mul_(LEAK)
    middle = layer.kernel_size[0] // 2
    outputs = layer.out_channels // 4
    for source, (band, channel) in enumerate(haar_bands(channels, layer.in_channels)):
        if channel < outputs:
            rows = slice(4 * channel, 4 * channel + 4)
            layer.weight[rows, source, middle, middle] = _HAAR[band]
