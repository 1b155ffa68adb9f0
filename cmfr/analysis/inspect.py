"""What a codec does to one frame, as pictures: flow, mask, residual, bits; PSNR along the video.
What the mask and SFF do to each channel, as numbers (gates.py)."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cmfr.analysis.gates import Gate, fusion_gates, write_gates
from cmfr.analysis.visualize import (
    color_bar,
    enlarge,
    flow_to_color,
    grey,
    heat,
    tile,
    titled,
    to_image,
)
from cmfr.codec.codec import Codec
from cmfr.codec.coded import CodedFrame
from cmfr.models.cmfr.features import ScaledFeatureFusion
from cmfr.models.state import MotionPictures
from cmfr.utils.errors import UserError
from cmfr.video.color import planes_to_tensor, ycbcr_to_rgb
from cmfr.video.info import VideoInfo
from cmfr.video.metrics import compare
from cmfr.video.reader import open_video

# Of a P-frame codec: the target's and the prediction's.
FEATURES = ("feature_extractor", "residual_mode.predicted_features")
Paint = Callable[[Tensor, float, float], Tensor]


@dataclass(frozen=True)
class FrameRow:
    """One line of frames.csv.

    type: "I" or "P".
    bits: of the packet.
    bpp: bits per pixel.
    psnr: dB per plane (Y, U, V or R, G, B).
    combined: see `psnr_name`.
    """

    number: int
    type: str
    quality: int
    bits: int
    bpp: float
    psnr: tuple[float, float, float]
    combined: float


@dataclass(frozen=True)
class Panel:
    """A picture and what it shows.

    picture: [3, H, W] in [0, 1], of the frame's size.
    bar: what its colors mean, as high as the picture.
    """

    name: str
    title: str
    picture: Tensor
    bar: Image.Image | None = None


@dataclass
class Watched:
    """What went through a P-frame codec, by the names of its modules.

    features: [1, C, h, w], what the feature extractors gave.
    fused: features and conditions [1, C, h, w] that SFF was given.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    fused: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One frame as the encoder coded it."""

    coded: CodedFrame
    watched: Watched


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
    """Code a video and look at the encoder while it codes frame `number`.

    Writes into `folder`: a PNG per panel, `sheet.png` with all of them, `frames.csv`, `psnr.png`,
    and `gates.csv` where the frame has a mask or SFF. Returns the rows of frames.csv. Raises
    ValueError when the video has no such frame.
    """
    with open_video(video, frames=frames, **source_options) as reader:
        info = reader.info
    if info.frame_count is not None and not 0 <= number < info.frame_count:
        raise UserError(f"{video} has frames 0..{info.frame_count - 1}, not {number}")
    rows: list[FrameRow] = []
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory() as scratch, watched(codec) as now:

        def on_frame(coded: CodedFrame) -> None:
            assert coded.source is not None
            measured = compare(coded.source, coded.reconstruction, info)
            rows.append(
                FrameRow(
                    coded.number,
                    "I" if coded.intra else "P",
                    coded.quality,
                    coded.bits,
                    coded.bits / (info.width * info.height),
                    measured.psnr,
                    measured.combined,
                )
            )
            if coded.number == number:
                seen.append(Seen(coded, replace(now)))
            now.features, now.fused = {}, {}

        codec.encode_video(
            video,
            Path(scratch) / "a.cmfr",
            quality=quality,
            intra_period=intra_period,
            frames=frames,
            on_frame=on_frame,
            estimate=True,
            **source_options,
        )
    if not seen:
        raise UserError(f"{video} has frames 0..{len(rows) - 1}, not {number}")
    folder.mkdir(parents=True, exist_ok=True)
    panels = frame_panels(codec, info, seen[0])
    if gates := frame_gates(codec, info, seen[0]):
        write_gates(gates, folder / "gates.csv")
    for panel in panels:
        to_image(panel.picture).save(folder / f"{panel.name}.png")
    title = f"{codec.name}, quality {quality}; {describe(rows[number], info)}"
    sheet(panels, title).save(folder / "sheet.png")
    write_rows(rows, info, folder / "frames.csv")
    plot_rows(rows, number, psnr_name(info), folder / "psnr.png")
    return rows


def psnr_name(info: VideoInfo) -> str:
    """Which PSNR `FrameRow.combined` is."""
    return "PSNR-RGB" if info.chroma == "rgb" else "PSNR-YUV (6:1:1)"


def describe(row: FrameRow, info: VideoInfo) -> str:
    """One line on a frame."""
    return (
        f"frame {row.number}: {row.type}, at quality {row.quality}, {psnr_name(info)} "
        f"{row.combined:.2f} dB, {row.bits} bits ({row.bpp:.4f} bpp)"
    )


@contextmanager
def watched(codec: Codec) -> Iterator[Watched]:
    """While the codec encodes within, what went through it for the last frame is there."""
    now, hooks = Watched(), []
    for name, module in codec.model.inter.named_modules():
        if name in FEATURES:  # DCVC codes no residual

            def keep(*call: Any, name: str = name) -> None:
                now.features[name] = call[2]

            hooks.append(module.register_forward_hook(keep))
        if isinstance(module, ScaledFeatureFusion):

            def keep_inputs(*call: Any, name: str = name) -> None:
                now.fused[name] = call[1]

            hooks.append(module.register_forward_hook(keep_inputs))
    try:
        yield now
    finally:
        for hook in hooks:
            hook.remove()


def frame_panels(codec: Codec, info: VideoInfo, seen: Seen) -> list[Panel]:
    """Pictures of a coded frame."""
    assert seen.coded.source is not None and seen.coded.output is not None
    x = planes_to_tensor(seen.coded.source, info, codec.model.cfg.color, codec.device)
    output, (height, width) = seen.coded.output, x.shape[-2:]
    size = (output.x_hat.shape[2], output.x_hat.shape[3])

    def rgb(picture: Tensor) -> Tensor:
        """For the eye only: the planes' own matrix would change the tint a little."""
        picture = picture[0, :, :height, :width]
        return (
            ycbcr_to_rgb(picture, "bt709", "full") if codec.model.cfg.color == "ycbcr" else picture
        )

    def fit(picture: Tensor) -> Tensor:
        return enlarge(picture, size)[:, :height, :width]

    def scaled(name: str, title: str, values: Tensor, top: float, paint: Paint, unit: str) -> Panel:
        """A map [h, w] of 0..top."""
        picture, bar = fit(paint(values, 0, top)), color_bar(paint, 0, top, height, unit)
        return Panel(name, title, picture, bar)

    panels = [
        Panel("source", "source", rgb(x)),
        Panel("reconstruction", "reconstruction", rgb(output.x_hat)),
    ]
    motion = output.motion
    if motion is not None:
        panels.append(Panel("prediction", "prediction", rgb(motion.prediction)))
        panels += [Panel(n, t, fit(p)) for n, t, p in _flows(motion, size[0])]
        if motion.mask is not None:
            mean = motion.mask[0].mean(0)
            panels.append(scaled("mask", "mask, mean of channels", mean, 1.0, grey, ""))
        energies = _residuals(motion, seen.watched.features)
        top = max([float(e.quantile(0.999)) for _, _, e in energies], default=1.0)
        panels += [scaled(n, t, e, top, heat, "") for n, t, e in energies]
    bits = _bits([part[0] for name, part in output.bit_maps.items() if name.endswith("_y")])
    block = size[0] // bits.shape[0]
    title = f"bits per {block}x{block} block"
    panels.append(scaled("bits", title, bits, float(bits.max()), heat, "bits"))
    return panels


def _bits(maps: list[Tensor]) -> Tensor:
    """The sum of maps of bits [h, w] at the finest of their resolutions; the bits of a coarser
    map's position are spread evenly."""
    height, width = max(part.shape for part in maps)
    spread = []
    for part in maps:
        down, right = height // part.shape[0], width // part.shape[1]
        fine = part.repeat_interleave(down, 0).repeat_interleave(right, 1)
        spread.append(fine / (down * right))
    return torch.stack(spread).sum(0)


def _flows(motion: MotionPictures, height: int) -> list[tuple[str, str, Tensor]]:
    """Flow before and after the refiner in one scale, that of pixels of a frame of `height`."""
    unit = height / motion.refined.shape[2]
    limit = max(unit * float(motion.refined.square().sum(1).sqrt().quantile(0.99)), 0.5)
    title = f"flow: hue is direction, full color at {limit:.1f} pixels per frame"
    return [
        ("flow_decoded", f"decoded {title}", flow_to_color(unit * motion.decoded[0], limit)),
        ("flow_refined", f"refined {title}", flow_to_color(unit * motion.refined[0], limit)),
    ]


def _residuals(
    motion: MotionPictures, features: dict[str, Tensor]
) -> list[tuple[str, str, Tensor]]:
    """Energy [h, w] of what is left of the target features without and with a mask of features."""
    target, predicted = (features.get(name) for name in FEATURES)
    if target is None or predicted is None:
        return []
    if motion.mask is not None and motion.mask.shape != predicted.shape:  # one of pixels
        return []
    left = {"residual_unmasked": ("residual features without mask", target - predicted)}
    if motion.mask is not None:
        masked = target - motion.mask * predicted
        left["residual_masked"] = ("residual features with mask", masked)
    found = []
    for name, (title, part) in left.items():
        energy = part[0].square().mean(0).sqrt()
        mean = float(energy.square().mean().sqrt())
        found.append((name, f"{title}: RMS over channels, {mean:.4f} in all", energy))
    return found


def frame_gates(codec: Codec, info: VideoInfo, seen: Seen) -> list[Gate]:
    """The mask of a coded frame, or one of ones where its features are subtracted without a mask
    ("unmasked"), and the scales of its SFF modules, where it has them."""
    assert seen.coded.output is not None
    height = seen.coded.output.x_hat.shape[2]
    gates = fusion_gates(codec.model.inter, seen.watched.fused)
    motion = seen.coded.output.motion
    if motion is not None and all(name in seen.watched.features for name in FEATURES):
        other, gated = (seen.watched.features[name] for name in FEATURES)
        mask = torch.ones_like(gated) if motion.mask is None else motion.mask
        if mask.shape != gated.shape:  # of pixels, counted from mid-gray
            source, color = seen.coded.source, codec.model.cfg.color
            assert source is not None
            other = planes_to_tensor(source, info, color, codec.device) - 0.5
            gated = motion.prediction - 0.5
        name = "unmasked" if motion.mask is None else "mask"
        gates.insert(0, Gate(name, mask[0], gated[0].float(), other[0].float(), sign=-1))

    def cropped(gate: Gate) -> Gate:
        """Without the padding."""
        stride = height // gate.gated.shape[1]
        picture = slice(None), slice(-(-info.height // stride)), slice(-(-info.width // stride))
        parts = {name: getattr(gate, name)[picture] for name in ("gate", "gated", "other")}
        return replace(gate, **parts)

    return [cropped(gate) for gate in gates]


def sheet(panels: list[Panel], title: str) -> Image.Image:
    """All panels on one picture, with their titles."""
    images = []
    for panel in panels:
        parts = [to_image(panel.picture), *([panel.bar] if panel.bar else [])]
        images.append(titled(tile(parts), panel.title))
    return titled(tile(images), title, 15)


def write_rows(rows: list[FrameRow], info: VideoInfo, path: Path) -> None:
    """A line per frame."""
    planes = "rgb" if info.chroma == "rgb" else "yuv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"psnr_{part}" for part in (*planes, planes)]
        writer.writerow(["frame", "type", "quality", "bits", "bpp", *names])
        for row in rows:
            values = [f"{value:.4f}" for value in (*row.psnr, row.combined)]
            writer.writerow(
                [row.number, row.type, row.quality, row.bits, f"{row.bpp:.6f}", *values]
            )


def plot_rows(rows: list[FrameRow], marked: int, name: str, path: Path) -> None:
    """PSNR, which is called `name`, and bits along the sequence.

    marked: the frame looked at.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    numbers = [row.number for row in rows]
    above.plot(numbers, [row.combined for row in rows], ".-")
    above.set_ylabel(f"{name}, dB")
    below.bar(numbers, [row.bits / 1000 for row in rows])
    below.set(ylabel="kbit", xlabel="frame", yscale="log")
    for axes in (above, below):
        axes.axvline(marked, color="gray", lw=0.7)
        axes.grid(alpha=0.3)
    figure.savefig(path)
