"""A search for many whole numbers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def first_outside(inside: Callable[[Tensor], Tensor], shape: Sequence[int], most: int) -> Tensor:
    """The smallest number that is not inside, of 0 .. `most`; most + 1 where all are. By halving.

    inside: int32 [*shape] -> bool [*shape], True for all numbers below one, False from there on.
    """
    low = torch.zeros(shape, dtype=torch.int32)
    high = low + most + 1
    while bool((low < high).any()):
        middle = (low + high) >> 1
        up = inside(middle) & (low < high)
        low, high = torch.where(up, middle + 1, low), torch.where(up, high, middle)
    return low
