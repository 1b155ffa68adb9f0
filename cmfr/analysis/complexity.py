"""Parameters and kMACs per pixel, counted by torch's flop counter.

1 MAC = 2 FLOP of convolutions and matrix products; grid_sample, activations and entropy coding
count nothing. The divisor is the pixels of the coded frame. Encode includes the decoder's part
that the encoder runs to keep its reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cmfr.models.base import FrameSize
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import make_tables
from cmfr.utils.device import exact_arithmetic


@dataclass(frozen=True)
class Complexity:
    """One frame type of one model. Millions of parameters; thousands of MACs per pixel."""

    model: str
    frame: str  # "intra" or "inter"
    parameters_m: float
    encode_kmac_per_pixel: float
    decode_kmac_per_pixel: float


@dataclass(frozen=True)
class PartComplexity:
    """One part of a P-frame codec."""

    model: str
    part: str
    parameters_m: float
    encode_kmac_per_pixel: float
    decode_kmac_per_pixel: float


def facts(intra: Complexity, inter: Complexity) -> dict[str, float]:
    """Of a codec as results state it: parameters of both, kMAC per pixel of a P-frame."""
    return {
        "parameters_m": round(intra.parameters_m + inter.parameters_m, 3),
        "encode_kmac_per_pixel": inter.encode_kmac_per_pixel,
        "decode_kmac_per_pixel": inter.decode_kmac_per_pixel,
    }


def _inputs(model: VideoModel, height: int, width: int) -> Tensor:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    # Flat enough for weights that were never trained, whose products of features can overflow.
    return (0.5 + 0.1 * torch.rand(1, 3, height, width, generator=generator)).to(device)


def count(model: VideoModel, height: int = 256, width: int = 256) -> list[Complexity]:
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
            model.cfg.name,
            kind,
            round(sum(p.numel() for p in part.parameters()) / 1e6, 3),
            round(enc, 2),
            round(dec, 2),
        )
        for kind, part, enc, dec in rows
    ]


def count_parts(model: VideoModel, height: int = 256, width: int = 256) -> list[PartComplexity]:
    """Complexity of a steady-state P-frame by part, the parts of a codec adding up to it."""
    model.eval()
    make_tables(model)
    x, pixels = _inputs(model, height, width), height * width
    names: dict[nn.Module, str] = {}
    for name, part in model.inter.named_children():
        inner = part.named_children() if name == "residual_codec" else ()
        names |= {p: f"{name}.{n}" for n, p in inner} or {part: name}

    def kmacs(function: Any) -> dict[str, float]:
        with FlopCounterMode(display=False) as counter:
            with attributed(names, lambda: counter.get_total_flops() / 2 / pixels / 1e3) as parts:
                function()
        return parts

    with exact_arithmetic():
        past = model.encode_frame(x, 32, model.encode_frame(x, 32, None)[2].state)[2].state
        payload, quality, _ = model.encode_frame(x, 32, past)
        encode = kmacs(lambda: model.encode_frame(x, 32, past))
        decode = kmacs(lambda: model.decode_frame(payload, quality, past))
    return [
        PartComplexity(
            model.cfg.name,
            name,
            round(sum(p.numel() for p in part.parameters()) / 1e6, 3),
            round(encode.get(name, 0.0), 2),
            round(decode.get(name, 0.0), 2),
        )
        for part, name in names.items()
    ]


@contextmanager
def attributed(
    parts: dict[nn.Module, str], read: Callable[[], float]
) -> Iterator[dict[str, float]]:
    """How much a reading grows inside each part, without the parts within it. Yields the sums by
    name; `read` is a clock or a counter."""
    totals: dict[str, float] = {}
    open_parts: list[tuple[float, float]] = []  # (reading at entry, of parts within)

    def enter(*_: Any) -> None:
        open_parts.append((read(), 0.0))

    def leave(module: nn.Module, *_: Any) -> None:
        began, within = open_parts.pop()
        whole = read() - began
        totals[parts[module]] = totals.get(parts[module], 0.0) + whole - within
        if open_parts:
            outer, inner = open_parts[-1]
            open_parts[-1] = (outer, inner + whole)

    hooks = [module.register_forward_pre_hook(enter) for module in parts]
    hooks += [module.register_forward_hook(leave) for module in parts]
    try:
        yield totals
    finally:
        for hook in hooks:
            hook.remove()


def table(rows: list[Any]) -> str:
    """Dataclass rows as an aligned text table."""
    names = list(asdict(rows[0]))
    cells = [names, *([str(value) for value in asdict(row).values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
