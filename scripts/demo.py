"""Encode and decode a clip, check the result bit for bit, print a table and draw one frame.

    make demo [VIDEO=PATH]
    .venv/bin/python scripts/demo.py [VIDEO] [--model cmfr-s] [--quality 32] [--frames 32] ...

Without VIDEO a clip is rendered from a photograph that matplotlib carries: it pans and zooms,
and a disk moves across.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cmfr.analysis.inspect import inspect_video
from cmfr.cli.main import guarded
from cmfr.codec.codec import CodedFrame, load_codec
from cmfr.video.color import rgb_to_ycbcr, tensor_to_planes
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.metrics import FrameMetrics, compare
from cmfr.video.reader import open_video
from cmfr.video.writer import lossless_suffix, open_writer

WIDTH, HEIGHT = 416, 240
SHOWN = 8  # the frame that is drawn, if there are so many


def render_clip(path: Path, frames: int) -> None:
    """A moving view of matplotlib's sample photograph with an occluding disk, lossless 4:2:0."""
    from matplotlib.cbook import get_sample_data

    path_of_photo = get_sample_data("grace_hopper.jpg", asfileobj=False)
    photo = np.array(Image.open(str(path_of_photo)).convert("RGB"))
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    info = VideoInfo(
        WIDTH, HEIGHT, Fraction(25), ColorInfo("bt709", "full", 1, 1, 1), "420", 8, frames
    )
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij"
    )
    aspect = (WIDTH / HEIGHT) * (image.shape[2] / image.shape[3])
    with open_writer(path, info) as writer:
        for t in range(frames):
            zoom = 0.62 - 0.004 * t
            center = (0.25 * np.sin(t / 17), -0.25 + 0.008 * t)
            grid = torch.stack([x * zoom + center[0], y * zoom / aspect + center[1]], -1)
            view = F.grid_sample(image, grid[None], "bicubic", "reflection", align_corners=False)
            disk = ((x * WIDTH / HEIGHT + 1.6 - 0.09 * t) ** 2 + (y - 0.3) ** 2).sqrt()
            cover = ((0.35 - disk) * HEIGHT / 2).clamp(0, 1)
            stripes = 0.5 + 0.4 * torch.sin(40 * (x + y - 0.05 * t))
            paint = torch.stack([stripes, 0.3 + 0 * stripes, 1 - stripes])
            view = (1 - cover) * view.clamp(0, 1) + cover * paint
            writer.write(tensor_to_planes(rgb_to_ycbcr(view, "bt709", "full"), info, "ycbcr"))


def same(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("video", nargs="?", help="a video file (default: a rendered clip)")
    parser.add_argument("--model", default="cmfr-s")
    parser.add_argument("--quality", type=int, default=32)
    parser.add_argument("--frames", type=int, default=32, help="frames to code (32)")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    video = args.video
    if video is None:
        video = args.out / "source.mkv"
        render_clip(video, args.frames)

    codec = load_codec(args.model)
    with open_video(video) as reader:
        info = reader.info
    kind = lossless_suffix(info)
    stream, decoded = args.out / "clip.cmfr", args.out / f"decoded{kind}"
    reconstruction = args.out / f"encoder{kind}"
    qualities: list[FrameMetrics] = []
    with open_writer(reconstruction, info) as writer:

        def on_frame(coded: CodedFrame) -> None:
            writer.write(coded.reconstruction)
            assert coded.source is not None
            qualities.append(compare(coded.source, coded.reconstruction, info))

        codec.encode_video(
            video, stream, quality=args.quality, frames=args.frames, on_frame=on_frame
        )
    # Timed without metrics and without writing the reconstruction.
    encoded = codec.encode_video(video, stream, quality=args.quality, frames=args.frames)
    report = codec.decode_video(stream, decoded)

    with open_video(decoded) as ours, open_video(reconstruction) as theirs:
        identical = all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    ssim = [q.ms_ssim for q in qualities if q.ms_ssim is not None]
    rows = {
        "clip": f"{video}, {encoded.frames} frames of {info.width}x{info.height}",
        "model, quality": f"{codec.name}, {args.quality}",
        "bytes": f"{encoded.bytes}",
        "bpp": f"{encoded.bpp:.4f}",
        "PSNR-YUV (6:1:1)" if info.chroma != "rgb" else "PSNR-RGB":
            f"{np.mean([q.combined for q in qualities]):.2f} dB",
        "MS-SSIM": f"{np.mean(ssim):.4f}" if ssim else "not computed (a side is under 161)",
        "encode": f"{encoded.fps:.2f} fps on {codec.device}",
        "decode": f"{report.fps:.2f} fps on {codec.device}",
        "decoded file": "bit-identical to the encoder's reconstruction"
        if identical else "DIFFERS from the encoder's reconstruction",
    }  # fmt: skip
    shown = min(SHOWN, encoded.frames - 1)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder)
        inspect_video(codec, video, shown, pictures, quality=args.quality, frames=shown + 1)
        (args.out / "frame.png").write_bytes((pictures / "sheet.png").read_bytes())
    rows["picture"] = f"{args.out / 'frame.png'} (frame {shown})"
    for name, value in rows.items():
        print(f"{name:<18}{value}")
    return 0 if identical else 1


if __name__ == "__main__":
    raise SystemExit(guarded("demo", main))
