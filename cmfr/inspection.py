"""What a codec does to one frame, as pictures: flow, mask, residual, bits; PSNR along the video."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from cmfr.coding import Codec, CodedFrame
from cmfr.color import planes_to_tensor, ycbcr_to_rgb
from cmfr.config import LATENT_STRIDE
from cmfr.device import exact_arithmetic
from cmfr.frame_codec import FrameSize
from cmfr.frames import VideoInfo
from cmfr.layers import pad_to_multiple
from cmfr.metrics import compare
from cmfr.state import FrameOutput
from cmfr.video_in import open_video
from cmfr.visualize import enlarge, flow_to_color, heat


@dataclass(frozen=True)
class FrameRow:
    """One line of frames.csv. bits: of the packet; dB per plane (Y, U, V or R, G, B), combined."""

    number: int
    type: str
    quality: int
    bits: int
    bpp: float
    psnr: tuple[float, float, float]
    combined: float


@dataclass(frozen=True)
class Panel:
    """A picture [3, H, W] in [0, 1] of the frame's size, and what it shows."""

    name: str
    title: str
    picture: Tensor


def inspect_video(
    codec: Codec,
    video: str | Path,
    number: int,
    folder: Path,
    *,
    quality: int = 32,
    intra_period: int = -1,
    frames: int | None = None,
    **source_options: Any,
) -> list[FrameRow]:
    """Code a video and look at frame `number`.

    Writes into `folder`: a PNG per panel, `sheet.png` with all of them, `frames.csv` and
    `psnr.png`. Returns the rows of frames.csv. Raises ValueError when the video has no such frame.
    """
    with open_video(video, frames=frames, **source_options) as reader:
        info = reader.info
    if info.frame_count is not None and not 0 <= number < info.frame_count:
        raise ValueError(f"{video} has frames 0..{info.frame_count - 1}, not {number}")
    rows: list[FrameRow] = []
    kept: dict[int, CodedFrame] = {}

    def on_frame(coded: CodedFrame) -> None:
        assert coded.source is not None
        measured = compare(coded.source, coded.reconstruction, info)
        rows.append(
            FrameRow(
                coded.number, "I" if coded.intra else "P", coded.quality, coded.bits,
                coded.bits / (info.width * info.height), measured.psnr, measured.combined,
            )
        )  # fmt: skip
        if coded.number in (number - 1, number):
            kept[coded.number] = coded

    with tempfile.TemporaryDirectory() as scratch:
        codec.encode_video(
            video, Path(scratch) / "a.cmfr", quality=quality, intra_period=intra_period,
            frames=frames, on_frame=on_frame, **source_options,
        )  # fmt: skip
    if number not in kept:
        raise ValueError(f"{video} has frames 0..{len(rows) - 1}, not {number}")
    folder.mkdir(parents=True, exist_ok=True)
    panels = frame_panels(codec, info, kept.get(number - 1), kept[number])
    for panel in panels:
        _image(panel.picture).save(folder / f"{panel.name}.png")
    sheet(panels).save(folder / "sheet.png")
    write_rows(rows, folder / "frames.csv")
    plot_rows(rows, number, folder / "psnr.png")
    return rows


def frame_panels(
    codec: Codec, info: VideoInfo, before: CodedFrame | None, shown: CodedFrame
) -> list[Panel]:
    """Pictures of a coded frame; of a P-frame `before` is the frame that it refers to."""
    assert shown.source is not None
    x = planes_to_tensor(shown.source, info, codec.model.cfg.color, codec.device)
    height, width = x.shape[-2:]
    padded = pad_to_multiple(x, LATENT_STRIDE)
    quality = torch.tensor([shown.quality], device=codec.device)
    size = (padded.shape[2], padded.shape[3])

    def rgb(picture: Tensor) -> Tensor:
        """For the eye only: the planes' own matrix would change the tint a little."""
        picture = picture[0, :, :height, :width]
        return (
            ycbcr_to_rgb(picture, "bt709", "full") if codec.model.cfg.color == "ycbcr" else picture
        )

    def fit(picture: Tensor) -> Tensor:
        return enlarge(picture, size)[:, :height, :width]

    with exact_arithmetic(), _recorded(codec.model.inter) as features:
        if shown.intra:
            estimate = codec.model.intra(padded, quality, FrameSize(*size))
        else:
            assert before is not None and before.output is not None
            estimate = codec.model.inter(padded, quality, before.output.state)
    panels = [
        Panel("source", "source", rgb(padded)),
        Panel("reconstruction", "reconstruction", rgb(estimate.x_hat)),
    ]
    if estimate.motion is not None:
        panels.append(Panel("prediction", "prediction", rgb(estimate.motion.prediction)))
        panels += [Panel(n, t, fit(p)) for n, t, p in _motion(estimate)]
        panels += [Panel(n, t, fit(p)) for n, t, p in _residuals(estimate, features)]
    bits = sum(part[0] for name, part in estimate.bit_maps.items() if name.endswith("_y"))
    title = f"bits per 16x16 block (white = {float(bits.max()):.0f})"
    panels.append(Panel("bits", title, fit(heat(bits, 0))))
    return panels


def _motion(estimate: FrameOutput) -> list[tuple[str, str, Tensor]]:
    """Flow before and after the refiner in one scale, and the mask."""
    motion = estimate.motion
    assert motion is not None
    limit = max(float(motion.refined.square().sum(1).sqrt().quantile(0.99)), 0.5)
    pictures = [
        ("flow_decoded", f"decoded flow (hue = direction, up to {limit:.1f})",
         flow_to_color(motion.decoded[0], limit)),
        ("flow_refined", "refined flow", flow_to_color(motion.refined[0], limit)),
    ]  # fmt: skip
    if motion.mask is not None:
        mask = heat(motion.mask[0].mean(0), 0, 1)
        pictures.append(("mask", "mask, mean of channels (black 0, white 1)", mask))
    return pictures


def _residuals(estimate: FrameOutput, features: dict[str, Tensor]) -> list[tuple[str, str, Tensor]]:
    """Energy of target features, and of what is left without and with the mask, in one scale."""
    target, predicted = features.get("feature_extractor"), features.get("predicted_features")
    motion = estimate.motion
    if target is None or predicted is None or motion is None:
        return []
    left = {"residual_unmasked": ("residual features without mask", target - predicted)}
    if motion.mask is not None and motion.mask.shape == predicted.shape:
        masked = target - motion.mask * predicted
        left["residual_masked"] = ("residual features with mask", masked)
    energies = {name: part[0].square().mean(0).sqrt() for name, (_, part) in left.items()}
    top = max(float(e.quantile(0.999)) for e in energies.values())
    return [
        (name, f"{left[name][0]}, RMS {float(e.square().mean().sqrt()):.4f}", heat(e, 0, top))
        for name, e in energies.items()
    ]


@contextmanager
def _recorded(inter: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Outputs of the feature extractors while they run."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name in ("feature_extractor", "predicted_features"):
        module = getattr(inter, name, None)  # DCVC codes no residual
        if module is not None:
            hooks.append(
                module.register_forward_hook(
                    lambda *call, name=name: outputs.__setitem__(name, call[2])
                )
            )
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def sheet(panels: list[Panel], columns: int = 2) -> Image.Image:
    """All panels on one picture, with their titles."""
    margin = 18
    height, width = panels[0].picture.shape[1:]
    rows = -(-len(panels) // columns)
    page = Image.new("RGB", (columns * width, rows * (height + margin)), "white")
    pen = ImageDraw.Draw(page)
    for i, panel in enumerate(panels):
        left, top = i % columns * width, i // columns * (height + margin)
        pen.text((left + 4, top + 3), panel.title, fill="black")
        page.paste(_image(panel.picture), (left, top + margin))
    return page


def _image(picture: Tensor) -> Image.Image:
    array = picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def write_rows(rows: list[FrameRow], path: Path) -> None:
    """A line per frame."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow("frame type quality bits bpp psnr_1 psnr_2 psnr_3 psnr".split())
        for row in rows:
            values = [f"{value:.4f}" for value in (*row.psnr, row.combined)]
            writer.writerow(
                [row.number, row.type, row.quality, row.bits, f"{row.bpp:.6f}", *values]
            )


def plot_rows(rows: list[FrameRow], marked: int, path: Path) -> None:
    """PSNR and bits along the sequence; `marked` is the frame that was looked at."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    numbers = [row.number for row in rows]
    above.plot(numbers, [row.combined for row in rows], ".-")
    above.set_ylabel("PSNR, dB")
    below.bar(numbers, [row.bits / 1000 for row in rows])
    below.set(ylabel="kbit", xlabel="frame", yscale="log")
    for axes in (above, below):
        axes.axvline(marked, color="gray", lw=0.7)
        axes.grid(alpha=0.3)
    figure.savefig(path)
