"""Devices and arithmetic that encoder and decoder must share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def pick_device(wanted: str) -> torch.device:
    """ "auto" takes the GPU if there is one. Raises ValueError when "cuda" is not to be had."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch sees no GPU")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 and deterministic algorithms: entropy parameters must come out the same in
    encoder and decoder. Also inference mode. Settings are put back afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    saved = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    try:
        with torch.inference_mode():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = saved
