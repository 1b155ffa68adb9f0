"""Rate and distortion of a model on video files, from real bytes: encode, decode, compare.

    scripts/measure_rd.py VIDEO... [--model cmfr-s] [--qualities 0 21 42 63] [--out rd.json]
                          [--anchors anchors.json --anchor x264-medium-ldp]

Prints a Markdown table: one row per video and quality. Bits are those of the whole file; PSNR is
of the decoded frames, per plane and (6Y+U+V)/8, mean over frames. With `--anchors` (a JSON file
{"curves": {NAME: {VIDEO: [{"bpp", "psnr_yuv"}, ...]}}}) the BD-rate against that anchor by PCHIP
is printed, with the overlap of the two curves.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from cmfr.coding import Codec, load_codec
from cmfr.metrics import compare
from cmfr.video_in import open_video
from cmfr.video_out import lossless_suffix


def measure(codec: Codec, video: Path, quality: int, intra_period: int) -> dict[str, float]:
    """One point: file size over pixels, distortion of what the file decodes to, speed."""
    with tempfile.TemporaryDirectory() as folder:
        with open_video(video) as reader:
            kind = lossless_suffix(reader.info)
        stream, decoded = Path(folder) / "a.cmfr", Path(folder) / f"a{kind}"
        encoded = codec.encode_video(video, stream, quality=quality, intra_period=intra_period)
        report = codec.decode_video(stream, decoded)
        with open_video(video) as source, open_video(decoded) as result:
            frames = [compare(a, b, source.info) for a, b in zip(source, result, strict=True)]
    planes = np.mean([f.psnr for f in frames], axis=0)
    ssim = [f.ms_ssim for f in frames if f.ms_ssim is not None]
    return {
        "q": quality,
        "frames": encoded.frames,
        "bytes": encoded.bytes,
        "bpp": encoded.bpp,
        "psnr_y": float(planes[0]),
        "psnr_u": float(planes[1]),
        "psnr_v": float(planes[2]),
        "psnr_yuv": float(np.mean([f.combined for f in frames])),
        "ms_ssim_y": float(np.mean(ssim)) if ssim else float("nan"),
        "encode_fps": encoded.fps,
        "decode_fps": report.fps,
    }


def bd_rate(anchor: list[dict[str, float]], points: list[dict[str, float]]) -> str:
    """BD-rate in percent and the part of the curves' joint PSNR range that they share."""
    from bjontegaard import bd_rate as library

    curves = [sorted((p["bpp"], p["psnr_yuv"]) for p in side) for side in (anchor, points)]
    for curve in curves:
        quality = [d for _, d in curve]
        if len(curve) < 4 or quality != sorted(quality):
            return "not computed (fewer than 4 points, or a curve that is not monotone)"
    low, high = (f(c[i][1] for c in curves) for f, i in ((max, 0), (min, -1)))
    union = max(c[-1][1] for c in curves) - min(c[0][1] for c in curves)
    if high <= low:
        return "no overlap"
    (rate_a, psnr_a), (rate_b, psnr_b) = (zip(*c, strict=True) for c in curves)
    value = library(
        rate_a, psnr_a, rate_b, psnr_b, method="pchip", min_overlap=0, require_matching_points=False
    )
    return f"{value:+.1f} % (overlap {low:.1f} to {high:.1f} dB, {(high - low) / union:.0%})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", default="cmfr-s")
    parser.add_argument("--qualities", nargs="+", type=int, default=[0, 21, 42, 63])
    parser.add_argument("--intra-period", type=int, default=-1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--anchor", nargs="+", default=["x264-medium-ldp"])
    parser.add_argument("--out", type=Path, help="also write the points as JSON")
    args = parser.parse_args()
    codec = load_codec(args.model, args.device)
    curves: dict[str, list[dict[str, float]]] = {}
    print("| sequence | quality | bpp | PSNR Y | U | V | YUV | MS-SSIM Y | enc fps | dec fps |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for video in args.videos:
        curves[video.stem] = []
        for quality in args.qualities:
            p = measure(codec, video, quality, args.intra_period)
            curves[video.stem].append(p)
            print(
                f"| {video.stem} | {quality} | {p['bpp']:.4f} | {p['psnr_y']:.2f} | "
                f"{p['psnr_u']:.2f} | {p['psnr_v']:.2f} | {p['psnr_yuv']:.2f} | "
                f"{p['ms_ssim_y']:.4f} | {p['encode_fps']:.2f} | {p['decode_fps']:.2f} |",
                flush=True,
            )
    if args.anchors:
        anchors = json.loads(args.anchors.read_text())["curves"]
        for name in args.anchor:
            for video, points in curves.items():
                print(f"BD-rate against {name}, {video}: {bd_rate(anchors[name][video], points)}")
    if args.out:
        args.out.write_text(json.dumps({"curves": {codec.name: curves}}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ValueError, OSError) as error:
        print(f"measure_rd: {error}", file=sys.stderr)
        raise SystemExit(1) from None
