"""Networks that only the encoder has, which may run in half precision.

No decoder repeats them: what they make is quantized and sent. So their arithmetic needs to be
neither the decoder's nor exact. Measured: docs/performance.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from cmfr.nn.portable import encoder_only
from cmfr.utils.device import exact_arithmetic

_halved: list[str] = []  # device types of the `half_encoder`s that are open


@contextlib.contextmanager
def half_encoder(device: torch.device, wanted: bool | None = None) -> Iterator[None]:
    """Every `encoder_network` in it runs in float16.

    wanted: default: on a GPU.
    """
    if not (device.type == "cuda" if wanted is None else wanted):
        yield
        return
    _halved.append(device.type)
    try:
        yield
    finally:
        _halved.pop()


@contextlib.contextmanager
def coding_arithmetic(device: torch.device) -> Iterator[None]:
    """`exact_arithmetic` for what encoder and decoder share, `half_encoder` for the rest."""
    with exact_arithmetic(), half_encoder(device):
        yield


@contextlib.contextmanager
def encoder_network() -> Iterator[None]:
    """`encoder_only`, for a network's layers: in half precision inside `half_encoder`. A decorator
    too."""
    half = torch.autocast(_halved[-1], torch.float16) if _halved else contextlib.nullcontext()
    with encoder_only(), half:
        yield
