"""Functions that portable arithmetic reads from tables, on grids (see portable.py)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def table(function: str, device: torch.device) -> Tensor:
    """65536 values of a function, float32, multiples of 2^-23. So coarse that every C library gets
    the same from float64 (tests/nn/test_portable.py)."""
    with torch.inference_mode(False):
        return torch.tensor([round(v * 2**23) / 2**23 for v in exact_values(function)]).to(device)


def exact_values(function: str) -> list[float]:
    """What `table` rounds. exp2: at k / 65536. log2: at 1 + (k + 1/2) / 65536. sigmoid, tanh: at k
    (k - 65536 from 32768 on) times `_STEPS`."""
    if function == "exp2":
        return [2 ** (k / 65536) for k in range(65536)]
    if function == "log2":
        return [math.log2(1 + (k + 0.5) / 65536) for k in range(65536)]
    step, signed = _STEPS[function], [*range(32768), *range(-32768, 0)]
    if function == "tanh":
        return [math.tanh(step * k) for k in signed]
    return [0.5 + 0.5 * math.tanh(step * k / 2) for k in signed]


_STEPS = {"sigmoid": 2.0**-11, "tanh": 2.0**-12}


def look_up(x: Tensor, function: str) -> Tensor:
    place = (x.float() * (1 / _STEPS[function])).round_().clamp_(-32768, 32767).int()
    return _taken(table(function, x.device), place).to(x.dtype)


def _taken(values: Tensor, place: Tensor) -> Tensor:
    """values at place modulo 65536, whatever it is (NaN is no number)."""
    place = place.bitwise_and_(0xFFFF)
    return values.index_select(0, place.flatten()).view(place.shape)


def exp2(x: Tensor) -> Tensor:
    """2^x to 2^-17 of it, from 2^-126 to 2^126."""
    place = (x.float() * 65536).round_().clamp_(-126 * 65536, 126 * 65536).int()
    power = (place >> 16).clamp_(-126, 127).add_(127).bitwise_left_shift_(23).view(torch.float32)
    return _taken(table("exp2", x.device), place).mul_(power).to(x.dtype)


def exp(x: Tensor) -> Tensor:
    return exp2(x.float() * math.log2(math.e)).to(x.dtype)


def log(x: Tensor) -> Tensor:
    """Of positive numbers, to 2^-17."""
    bits = x.float().view(torch.int32)
    fraction = _taken(table("log2", x.device), bits >> 7)
    return ((bits >> 23) - 127 + fraction).mul_(math.log(2)).to(x.dtype)


def softplus(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return log(1 + exp(-x.abs())) + x.clamp(min=0)


def erfc(x: Tensor) -> Tensor:
    """For tables: one by one, multiples of 2^-30."""
    values = [round(math.erfc(v) * 2**30) / 2**30 for v in x.flatten().tolist()]
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(x.shape)
