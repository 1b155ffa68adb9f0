"""Devices and arithmetic that encoder and decoder must share."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmfr.utils.errors import UserError
from cmfr.utils.memory import return_freed_memory


def to_host(x: Tensor) -> np.ndarray:
    """The numbers of x in the memory of the host: of a CPU tensor its own; from a GPU they come
    through pinned memory, and the host waits for them."""
    if x.device.type != "cuda":
        return x.numpy()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return host.numpy()


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The opposite of `to_host`; nobody waits."""
    x = torch.from_numpy(array)
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def pick_device(wanted: str) -> torch.device:
    """ "auto" takes the GPU if there is one. Raises ValueError when "cuda" is not to be had."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but PyTorch sees no GPU")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def arithmetic(device: torch.device) -> str:
    """What the last bits of a result depend on, in short: PyTorch, processor, threads."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    threads, kind = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {platform.machine()} {kind}, threads {threads}"


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Inference with full float32 and deterministic algorithms: entropy parameters must come out
    the same in encoder and decoder. Settings are put back afterwards."""
    with full_precision(), torch.inference_mode():
        yield


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """TF32 off, deterministic convolutions; puts the settings back afterwards."""
    cuda: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    wanted: list[tuple[Any, str, Any]] = [
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
    ]
    # PyTorch 2.9 has new names for these switches, and refuses to mix them with the old ones.
    if hasattr(cuda, "fp32_precision"):
        wanted += [(cuda, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    else:
        wanted += [(cuda, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    saved = [getattr(place, name) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(wanted, saved, strict=True):
            setattr(place, name, value)


def all_devices(wanted: str) -> list[str]:
    """Where work can be done side by side: every GPU, or the CPU. See `pick_device`."""
    if pick_device(wanted).type == "cpu":
        return ["cpu"]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """For training on a GPU, where sizes repeat: cuDNN tries its algorithms on each size once and
    takes the fastest. `full_precision` inside of it (validation) turns that off."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        cudnn.benchmark = before


# --- memory


def reset_peak_memory(device: torch.device) -> None:
    """From here on `peak_memory` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_freed_memory()  # of what the process did before
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not Linux, or not allowed: then `peak_memory` knows nothing


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that PyTorch had allocated on a GPU, or that the process had in memory on a
    CPU, since `reset_peak_memory`. None where the system cannot tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status, resettable = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.is_file() and os.access(resettable, os.W_OK)):
        return None
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
