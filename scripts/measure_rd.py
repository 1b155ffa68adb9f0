"""Rate and distortion of a model on video files, from real bytes: encode, decode, compare.

    .venv/bin/python scripts/measure_rd.py VIDEO... [--model cmfr-s] [--qualities 0 21 42 63]
        [--out rd.json] [--anchors anchors.json --anchor x264-medium-ldp]

Prints a Markdown table: one row per video and quality. Bits are those of the whole file; PSNR is
of the decoded frames, per plane and (6Y+U+V)/8, mean over frames. With `--anchors` (a JSON file
{"curves": {NAME: {VIDEO: [{"bpp", "psnr_yuv"}, ...]}}}) the BD-rate against that anchor by PCHIP
is printed, with the overlap of the two curves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from cmfr.cli.main import guarded
from cmfr.codec.codec import load_codec
from cmfr.evaluation.bd_rate import NotComparable, Point, bd_rate
from cmfr.evaluation.videos import RatePoint, measure_point


def row(name: str, point: RatePoint) -> str:
    """A line of the table."""
    ssim = "" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
    psnr = " | ".join(f"{value:.2f}" for value in (*point.psnr, point.psnr_yuv))
    return (
        f"| {name} | {point.quality} | {point.bpp:.4f} | {psnr} | {ssim} | "
        f"{point.encode_fps:.2f} | {point.decode_fps:.2f} |"
    )


def against(anchor: list[Point], points: list[RatePoint]) -> str:
    """BD-rate in percent and the part of the curves' joint PSNR range that they share."""
    try:
        result = bd_rate(anchor, [(p.bpp, p.psnr_yuv) for p in points])
    except NotComparable as reason:
        return f"not computed: {reason}"
    return (
        f"{result.percent:+.1f} % "
        f"(overlap {result.low:.1f} to {result.high:.1f} dB, {result.overlap:.0%})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", default="cmfr-s")
    parser.add_argument("--qualities", nargs="+", type=int, default=[0, 21, 42, 63])
    parser.add_argument("--intra-period", type=int, default=-1)
    parser.add_argument("--frames", type=int, help="code only so many frames of each video")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--anchor", nargs="+", default=["x264-medium-ldp"])
    parser.add_argument("--out", type=Path, help="also write the points as JSON")
    args = parser.parse_args()
    codec = load_codec(args.model, args.device)
    curves: dict[str, list[RatePoint]] = {}
    print("| sequence | quality | bpp | PSNR Y | U | V | YUV | MS-SSIM Y | enc fps | dec fps |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for video in args.videos:
        curves[video.stem] = []
        for quality in args.qualities:
            point = measure_point(codec, video, quality, args.intra_period, args.frames)
            curves[video.stem].append(point)
            print(row(video.stem, point), flush=True)
    if args.anchors:
        anchors = json.loads(args.anchors.read_text())["curves"]
        for name in args.anchor:
            for video, points in curves.items():
                anchor = [(p["bpp"], p["psnr_yuv"]) for p in anchors[name][video]]
                print(f"BD-rate against {name}, {video}: {against(anchor, points)}")
    if args.out:
        plain = {video: [asdict(p) for p in points] for video, points in curves.items()}
        args.out.write_text(json.dumps({"curves": {codec.name: plain}}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded("measure_rd", main))
