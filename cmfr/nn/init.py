"""Initial weights: an untrained transform starts as an orthonormal block transform (ours).

Random encoders and decoders first have to find each other through quantization noise, and a
residual is too weak a signal for that: the rate term switches the latents off before they are of
use. So analysis convolutions start as Haar transforms of the pixels, and synthesis convolutions as
their transposes. Everything else starts near zero, so that nothing leaks into what the transforms
keep: features of equal pictures then cancel.

Channel order of a Haar transform of n channels to at most m: the low-pass channels first, then
the three high-pass bands of the first channels. Where not everything fits, an eighth of the
outputs is given to each high-pass band: the first channels are the lowest frequencies, and their
details matter more than the averages of the last.

The first transform of a frame, from pixels to 1/2, keeps luma's details before those of chroma:
of a 4:2:0 picture, whose chroma is repeated 2x2, the latter are zero. With `flat_chroma` they are
left out, and 6 channels at 1/2, 24 at 1/4 and 96 at 1/8 are a complete transform.
"""

from __future__ import annotations

import torch
from torch import nn

SMALL_GAIN = 0.001  # size of all other weights, relative to a usual start

# Rows: low-pass, horizontal, vertical, diagonal; columns: the four pixels of a cell, row by row.
_HAAR = torch.tensor(
    [[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]],
).div(2)
Bands = list[tuple[int, int]]  # (band, input channel) of each output of a transform
_FRAME_BANDS = [
    (0, 0),
    (0, 1),
    (0, 2),
    *((band, plane) for plane in range(3) for band in (1, 2, 3)),
]


def haar_bands(channels: int, outputs: int) -> Bands:
    """The outputs of a Haar transform of `channels` to at most `outputs`."""
    details = min(channels, outputs // 8 if outputs < 4 * channels else channels)
    kept = min(channels, outputs - 3 * details)
    details = min(channels, (outputs - kept) // 3)
    return [(0, c) for c in range(kept)] + [(b, c) for b in (1, 2, 3) for c in range(details)]


def frame_bands(flat_chroma: bool) -> Bands:
    """The outputs of a frame's first transform; the channels are its planes."""
    return _FRAME_BANDS[:6] if flat_chroma else _FRAME_BANDS


def pixel_channels(stride: int, width: int, flat_chroma: bool) -> int:
    """Channels that hold a frame pixel-unshuffled by `stride` in features of `width` channels.

    0 where there is no such start: too few channels, or a stride of 4.
    """
    pixels = {1: 3, 2: len(frame_bands(flat_chroma))}.get(stride, 0)
    return pixels if pixels <= width else 0


def pyramid_bands(
    stride: int, width: int, halvings: tuple[int, ...], flat_chroma: bool
) -> list[Bands]:
    """The Haar transforms below features of `width` channels at `stride`, one a halving.

    halvings: output channels of each. Empty where the features have no such start.
    """
    count = pixel_channels(stride, width, flat_chroma)
    result: list[Bands] = []
    for outputs in halvings:
        first = stride == 1 and not result and outputs >= len(frame_bands(flat_chroma))
        result.append(frame_bands(flat_chroma) if first and count else haar_bands(count, outputs))
        count = len(result[-1])
    return result


@torch.no_grad()
def identity_start(layer: nn.Conv2d, channels: int) -> int:
    """Copy the first `channels` inputs; returns how many outputs mean something."""
    if channels == 0:
        return 0
    layer.weight.mul_(SMALL_GAIN)
    kept = min(channels, layer.out_channels, layer.in_channels)
    middle = layer.kernel_size[0] // 2
    for channel in range(kept):
        layer.weight[channel, channel, middle, middle] = 1
    return kept


@torch.no_grad()
def pixel_start(layer: nn.Conv2d, stride: int, flat_chroma: bool) -> int:
    """Haar transform of a frame that was pixel-unshuffled by `stride`, if `pixel_channels` allows.

    Returns the number of channels that mean something.
    """
    pixels = pixel_channels(stride, layer.out_channels, flat_chroma)
    if stride != 2 or not pixels:  # one value a plane needs no transform, none: random start
        return identity_start(layer, pixels)
    layer.weight.mul_(SMALL_GAIN)
    middle = layer.kernel_size[0] // 2
    for output, (band, plane) in enumerate(frame_bands(flat_chroma)):
        layer.weight[output, 4 * plane : 4 * plane + 4, middle, middle] = _HAAR[band]
    return pixels


@torch.no_grad()
def pixel_synthesis_start(layer: nn.Conv2d, stride: int, flat_chroma: bool) -> None:
    """Transpose of `pixel_start`: features -> 3 s^2 channels to be pixel-shuffled."""
    pixels = pixel_channels(stride, layer.in_channels, flat_chroma)
    if stride != 2 or not pixels:
        identity_start(layer, pixels)
        return
    layer.weight.mul_(SMALL_GAIN)
    middle = layer.kernel_size[0] // 2
    for source, (band, plane) in enumerate(frame_bands(flat_chroma)):
        layer.weight[4 * plane : 4 * plane + 4, source, middle, middle] = _HAAR[band]


@torch.no_grad()
def analysis_start(layer: nn.Conv2d, bands: Bands) -> None:
    """Haar transform in a 3x3 convolution of stride 2; its 2x2 cell is the lower right of the
    kernel."""
    if not bands:
        return
    layer.weight.mul_(SMALL_GAIN)
    for output, (band, channel) in enumerate(bands):
        layer.weight[output, channel, 1:, 1:] = _HAAR[band].reshape(2, 2)


@torch.no_grad()
def synthesis_start(up: nn.Sequential, bands: Bands) -> None:
    """Transpose of `analysis_start` in a sub-pixel convolution (`upsample`)."""
    if not bands:
        return
    layer = up[0]
    assert isinstance(layer, nn.Conv2d)
    layer.weight.mul_(SMALL_GAIN)
    middle = layer.kernel_size[0] // 2
    outputs = layer.out_channels // 4
    for source, (band, channel) in enumerate(bands):
        if channel < outputs:
            rows = slice(4 * channel, 4 * channel + 4)
            layer.weight[rows, source, middle, middle] = _HAAR[band]
