"""Prepare data: training clips from videos, a check of a data set's files, a video as PNGs.

    scripts/prepare_data.py clips IN_DIR OUT_DIR [--frames 16..32] [--height 256] [--workers 4]
    scripts/prepare_data.py check hevc_d ROOT
    scripts/prepare_data.py yuv2png IN.yuv OUT_DIR --matrix bt709 --range limited

`clips` leaves out cuts, still stretches and repeated frames, and writes manifest.csv (a line per
clip) and sources.csv (a line per finished video) beside the clips; the same command goes on where
it was interrupted. `check` names everything that is missing or wrong in a test set, or in
Vimeo-90k. `yuv2png` writes im00001.png, im00002.png, ... and conversion.txt. Exit code 1: something
is wrong, and said.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from cmfr.clip_folder import prepare_clips
from cmfr.clip_preparation import ClipSettings
from cmfr.frames import RAW_FORMATS
from cmfr.test_sets import check_test_set, load_test_set
from cmfr.video_in import open_video
from cmfr.video_out import open_writer

MOST_FAULTS = 20  # that are printed; the rest is counted


# --- clips


def clips(args: argparse.Namespace) -> int:
    settings = ClipSettings(
        min_frames=args.frames[0],
        max_frames=args.frames[1],
        height=args.height,
        scene_threshold=args.scene_threshold,
        min_motion=args.min_motion,
        max_clips_per_scene=args.max_clips_per_scene,
        crf=args.crf,
    )
    skipped, written, failures = prepare_clips(args.in_dir, args.out_dir, settings, args.workers)
    print(f"{written} clips written to {args.out_dir}; {skipped} videos were done before")
    for source, fault in failures.items():
        print(fault if source in fault else f"{source}: {fault}")
    if failures:
        raise ValueError(f"clips of {len(failures)} videos could not be made, see above")
    return 0


def frame_counts(text: str) -> tuple[int, int]:
    """ "16..32", or "16" for exactly 16."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN..MAX")
    return int(match[1]), int(match[2] or match[1])


# --- check


def check(args: argparse.Namespace) -> int:
    test_set = load_test_set(args.what)

    def track(names: list[str]) -> Iterator[str]:
        return iter(tqdm(names, disable=None))

    faults = check_test_set(test_set, args.root, full=args.full, track=track)
    for fault in faults[:MOST_FAULTS]:
        print(fault)
    if len(faults) > MOST_FAULTS:
        print(f"... and {len(faults) - MOST_FAULTS} more")
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        where = f"{test_set.title} is available from {test_set.source}"
        print(f"prepare_data: {test_set.name}: {count} in {args.root}; {where}", file=sys.stderr)
        return 1
    if test_set.clips is not None:
        what = f"{sum(test_set.clips.lists.values())} clips"
    else:
        frames = sum(sequence.frames for sequence in test_set.sequences)
        what = f"{len(test_set.sequences)} sequences, {frames} frames"
    print(f"{test_set.name}: complete in {args.root} ({what})")
    return 0


# --- yuv2png


def yuv2png(args: argparse.Namespace) -> int:
    with open_video(
        args.input,
        size=args.size,
        pixel_format=args.pixel_format,
        frame_rate=args.frame_rate,
        matrix=args.matrix,
        range=args.range,
    ) as reader:
        info = reader.info
        args.out_dir.parent.mkdir(parents=True, exist_ok=True)
        with open_writer(f"{args.out_dir}/", info) as writer:
            for frame in tqdm(reader, total=info.frame_count, unit="frame", disable=None):
                writer.write(frame)
    upsampling = {
        "420": "linear, from corner to corner (as DCVC's conversion)",
        "444": "none (4:4:4)",
        "rgb": "none (RGB)",
    }[info.chroma]
    (args.out_dir / "conversion.txt").write_text(
        f"source: {args.input.name}\n"
        f"source samples: {info.width}x{info.height}, {info.chroma}, {info.bit_depth} bit\n"
        f"frames: {writer.frames_written}\n"
        f"matrix: {info.color.matrix}\n"
        f"range: {info.color.range}\n"
        f"chroma upsampling: {upsampling}\n",
        encoding="utf-8",
    )
    print(f"{writer.frames_written} pictures in {args.out_dir}")
    return 0


def picture_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


_DEFAULT = " (default %(default)s)"
_THRESHOLD_HELP = "change at a cut over that of the frames around it; lower finds more" + _DEFAULT
_MOTION_HELP = "mean luma difference (0..255) under which a frame repeats the last one" + _DEFAULT


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    default = ClipSettings()

    p = commands.add_parser("clips", help="training clips from a folder of videos")
    p.set_defaults(run=clips)
    p.add_argument("in_dir", type=Path, help="videos, in folders of any depth")
    p.add_argument("out_dir", type=Path)
    p.add_argument(
        "--frames",
        type=frame_counts,
        default=(default.min_frames, default.max_frames),
        metavar="MIN..MAX",
        help=f"frames of a clip (default {default.min_frames}..{default.max_frames})",
    )
    add = p.add_argument
    add(
        "--height",
        type=int,
        default=default.height,
        help=f"most pixels of the shorter side{_DEFAULT}",
    )
    add("--scene-threshold", type=float, default=default.scene_threshold, help=_THRESHOLD_HELP)
    add("--min-motion", type=float, default=default.min_motion, help=_MOTION_HELP)
    add("--max-clips-per-scene", type=int, metavar="N", help="default: as many as there are")
    add("--crf", type=int, default=default.crf, help=f"of x264, 0..51{_DEFAULT}")
    add("--workers", type=int, default=1, help=f"processes, a video each{_DEFAULT}")

    p = commands.add_parser("check", help="is a data set complete?")
    p.set_defaults(run=check)
    p.add_argument("what", help="hevc_a..e, hevc_rgb, uvg, mcl_jcv, vimeo90k or a YAML file")
    p.add_argument("root", type=Path, help="the folder that holds its sequences")
    p.add_argument("--full", action="store_true", help="also decode every frame (slow)")

    p = commands.add_parser("yuv2png", help="a video as a folder of RGB PNGs")
    p.set_defaults(run=yuv2png)
    p.add_argument("input", type=Path, help=".yuv file or any video")
    p.add_argument("out_dir", type=Path, help="a folder that is not there yet, or empty")
    p.add_argument("--matrix", choices=("bt709", "bt601", "bt2020"), help="if the file has no tag")
    p.add_argument("--range", choices=("full", "limited"), help="if the file has no tag")
    p.add_argument("--size", type=picture_size, metavar="WxH", help="of a .yuv file")
    p.add_argument("--pixel-format", choices=tuple(RAW_FORMATS), help="of a .yuv file")
    p.add_argument("--frame-rate", help="frames per second")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    return int(args.run(args))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ValueError, OSError, ImportError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("prepare_data: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
