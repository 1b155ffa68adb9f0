"""Sums in float64 that are exact, so that their order does not matter (see portable.py)."""

from __future__ import annotations

import torch
from torch import Tensor

# Values that enter a sum are multiples of 2^-20 of the power of two above the largest of them.
_BITS = 20
# Products of two such have 2 * _BITS bits; so many of them may be added exactly in float64.
MOST_TERMS = 2 ** (52 - 2 * _BITS)
# Float64 numbers that a convolution works on at once: they stay in the cache of a core.
_BAND = {"cpu": 2**17, "cuda": 2**26}


def convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    out: Tensor,
) -> None:
    """x [C, H, W] float32 -> out [O, h, w] float32; bias [O, 1, 1]; taps
    [k, l, groups, O/groups, C/groups].

    The padded picture is taken apart into stride x stride pictures, their rows one behind the
    other; then each tap is one product of matrices, with a piece of a picture that starts at the
    tap's shift. In bands of rows, so that float64 stays within the cache.
    """
    channels, height, width = x.shape
    kernel_h, kernel_w, groups, outputs, inputs = taps.shape
    (step_y, step_x), (pad_y, pad_x) = stride, padding
    parts_y, parts_x = min(step_y, kernel_h), min(step_x, kernel_w)
    more_y, more_x = (kernel_h - 1) // step_y, (kernel_w - 1) // step_x
    rows, columns = out.shape[1:]
    pitch = columns + more_x
    room = _BAND.get(x.device.type, _BAND["cpu"])
    band = min(rows, max(room // (parts_y * parts_x * channels * pitch) - more_y, 4))

    def span(part: int, step: int, pad: int, side: int, first: int, last: int) -> slice:
        """Which of the places first .. last - 1 of a part lie within the picture."""
        low = max(-(-(pad - part) // step), first)
        high = min((side - 1 + pad - part) // step + 1, last)
        return slice(low, max(low, high))

    pieces = x.new_zeros(parts_y, parts_x, channels, (band + more_y) * pitch, dtype=torch.float64)
    total = x.new_empty(groups, outputs, band * pitch, dtype=torch.float64)
    for top in range(0, rows, band):
        count = min(band, rows - top)
        for a in range(parts_y):
            down = span(a, step_y, pad_y, height, top, top + count + more_y)
            first = down.start * step_y + a - pad_y
            for b in range(parts_x):
                piece = pieces[a, b].view(channels, -1, pitch)
                across = span(b, step_x, pad_x, width, 0, pitch)
                left = across.start * step_x + b - pad_x
                piece[:, : down.start - top] = 0
                piece[:, down.stop - top :] = 0
                piece[:, down.start - top : down.stop - top, across] = x[
                    :,
                    first : first + (down.stop - down.start) * step_y : step_y,
                    left : left + (across.stop - across.start) * step_x : step_x,
                ]
        length = count * pitch - more_x
        sums = total[..., :length]
        for i in range(kernel_h):
            for j in range(kernel_w):
                at = i // step_y * pitch + j // step_x
                seen = pieces[i % step_y, j % step_x, :, at : at + length]
                _add_products(sums, taps[i, j], seen.unflatten(0, (groups, inputs)), i + j == 0)
        shown = total.flatten(0, 1)[:, : count * pitch].view(-1, count, pitch)[..., :columns]
        target = out[:, top : top + count]
        if bias is None:
            target.copy_(shown)
        else:
            torch.add(shown, bias, out=target)


def _add_products(sums: Tensor, tap: Tensor, seen: Tensor, first: bool) -> None:
    """sums [G, O, N] += tap [G, O, C] @ seen [G, C, N], or = where it is the first."""
    if tap.shape[1] == tap.shape[2] == 1:  # depthwise
        if first:
            torch.mul(tap, seen, out=sums)
        else:
            sums.addcmul_(tap, seen)  # exact: fused or not
    elif len(tap) == 1:
        if first:
            torch.mm(tap[0], seen[0], out=sums[0])
        else:
            sums[0].addmm_(tap[0], seen[0])
    elif first:
        torch.bmm(tap, seen, out=sums)
    else:
        sums.baddbmm_(tap, seen)


def on_grid(x: Tensor) -> Tensor:
    """x float32, any shape, rounded to multiples of 2^-20 of the power of two above its largest
    magnitude: every value then has 20 bits and a sign. NaN where a value is not finite."""
    # Near 24 times a power of two p, float32 numbers are p 2^-19 apart.
    coarse = 24 * power_of_two(x)
    return (x + coarse).sub_(coarse)


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two that is not above the largest magnitude of x float32: a number on
    its device. No host waits for it."""
    low, high = x.aminmax()
    peak = torch.maximum(-low, high).clamp(min=2.0**-100)
    return peak.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)


def exact(x: Tensor) -> Tensor:
    """x as float64 multiples of 2^-40 of the power of two above its largest magnitude: 4096 of
    them, or products of one of them with a number of 12 bits, are added exactly."""
    coarse = power_of_two(x.float()).double() * (1.5 * 2**13)
    return (x.double() + coarse).sub_(coarse)
