"""Parameters and kMACs per pixel, counted by torch's flop counter.

1 MAC = 2 FLOP of convolutions and matrix products; grid_sample, activations and entropy coding
count nothing. The divisor is the pixels of the coded frame. Encode includes the decoder's part
that the encoder runs to keep its reference.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cmfr.device import exact_arithmetic
from cmfr.entropy import make_tables
from cmfr.frame_codec import FrameSize
from cmfr.video_codec import VideoCodec


@dataclass(frozen=True)
class Complexity:
    """One frame type of one model. Millions of parameters; thousands of MACs per pixel."""

    model: str
    frame: str  # "intra" or "inter"
    parameters_m: float
    encode_kmac_per_pixel: float
    decode_kmac_per_pixel: float


@dataclass(frozen=True)
class Speed:
    """Frames per second with a real bitstream, median of the timed frames."""

    model: str
    frame: str
    size: str
    encode_fps: float
    decode_fps: float


def _inputs(model: VideoCodec, height: int, width: int) -> Tensor:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, height, width, generator=generator).to(device)


def count(model: VideoCodec, height: int = 256, width: int = 256) -> list[Complexity]:
    """Complexity of an I-frame and of a steady-state P-frame, sides multiples of 64.

    Resolution independent where the sides are multiples of 64.
    """
    model.eval()
    make_tables(model)
    x, pixels = _inputs(model, height, width), height * width

    def kmacs(function: Any) -> tuple[float, Any]:
        with FlopCounterMode(display=False) as counter:
            result = function()
        return counter.get_total_flops() / 2 / pixels / 1e3, result

    with exact_arithmetic():
        intra_encode, (payload, quality, first) = kmacs(lambda: model.encode_frame(x, 32, None))
        intra_decode, _ = kmacs(
            lambda: model.decode_frame(payload, quality, FrameSize(height, width))
        )
        _, _, second = model.encode_frame(x, 32, first.state)
        encode, (payload, quality, _) = kmacs(lambda: model.encode_frame(x, 32, second.state))
        decode, _ = kmacs(lambda: model.decode_frame(payload, quality, second.state))
        rows: list[tuple[str, torch.nn.Module, float, float]] = [
            ("intra", model.intra, intra_encode, intra_decode),
            ("inter", model.inter, encode, decode),
        ]
    return [
        Complexity(
            model.cfg.name, kind, round(sum(p.numel() for p in part.parameters()) / 1e6, 3),
            round(enc, 2), round(dec, 2),
        )
        for kind, part, enc, dec in rows
    ]  # fmt: skip


def time_frames(
    model: VideoCodec, frames: list[Tensor], quality: int = 32, warmup: int = 2
) -> list[Speed]:
    """Time encode and decode of `frames` ([1, 3, H, W] each): the first intra, the rest inter.

    The first `warmup` P-frames are not counted.
    """
    model.eval()
    make_tables(model)
    device = frames[0].device
    times: dict[str, list[tuple[float, float]]] = {"intra": [], "inter": []}
    past = None
    size = FrameSize(frames[0].shape[2], frames[0].shape[3])
    with exact_arithmetic():
        for number, x in enumerate(frames):
            began = _now(device)
            payload, frame_quality, output = model.encode_frame(x, quality, past)
            encoded = _now(device)
            model.decode_frame(payload, frame_quality, size if past is None else past)
            decoded = _now(device)
            if number == 0 or number > warmup:
                kind = "intra" if past is None else "inter"
                times[kind].append((encoded - began, decoded - encoded))
            past = output.state
    rows = []
    for kind, pairs in times.items():
        if pairs:
            encode, decode = (
                sorted(column)[len(pairs) // 2] for column in zip(*pairs, strict=True)
            )
            rows.append(
                Speed(
                    model.cfg.name, kind, f"{size.width}x{size.height}",
                    round(1 / encode, 2), round(1 / decode, 2),
                )
            )  # fmt: skip
    return rows


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table(rows: list[Any]) -> str:
    """Dataclass rows as an aligned text table."""
    names = list(asdict(rows[0]))
    cells = [names, *([str(value) for value in asdict(row).values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
