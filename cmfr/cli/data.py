"""The commands `cmfr data clips`, `check`, `yuv2png`; what they use is imported when they run."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr.cli.parser import add_source, source_options
from cmfr.training.data.clip_settings import ClipSettings
from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands

MOST_FAULTS = 20  # that are printed; the rest is counted

_DEFAULT = " (default %(default)s)"
_UPSAMPLING = {
    "420": "linear, from corner to corner (as DCVC's conversion)",
    "444": "none (4:4:4)",
    "rgb": "none (RGB)",
}


def add_commands(commands: Commands) -> None:
    """Add the command `data` with its three to the parser's subparsers."""
    data = commands.add_parser(
        "data", help="training clips from videos, a check of a data set's files, a video as PNGs"
    )
    parts = data.add_subparsers(
        dest="part", required=True, metavar="COMMAND", help="what to do; each has --help"
    )
    _add_clips(parts)
    _add_check(parts)
    _add_yuv2png(parts)


def _add_clips(commands: Commands) -> None:
    default = ClipSettings()
    clips = commands.add_parser(
        "clips",
        help="training clips from a folder of videos; the same command goes on",
        description="Leaves out cuts, still stretches and repeated frames. Writes manifest.csv (a "
        "line per clip) and sources.csv (a line per finished video) beside the clips; the same "
        "command goes on where it was interrupted.",
    )
    clips.add_argument("in_dir", type=Path, help="videos, in folders of any depth")
    clips.add_argument("out_dir", type=Path, help="folder for the clips")
    clips.add_argument(
        "--frames",
        type=_frame_counts,
        default=(default.min_frames, default.max_frames),
        metavar="MIN..MAX",
        help=f"frames of a clip (default {default.min_frames}..{default.max_frames})",
    )
    add = clips.add_argument
    add(
        "--height",
        type=int,
        default=default.height,
        help="most pixels of the shorter side" + _DEFAULT,
    )
    add(
        "--scene-threshold",
        type=float,
        default=default.scene_threshold,
        help="change at a cut over that of the frames around it; lower finds more" + _DEFAULT,
    )
    add(
        "--min-motion",
        type=float,
        default=default.min_motion,
        help="mean luma difference (0..255) under which a frame repeats the last one" + _DEFAULT,
    )
    add("--max-clips-per-scene", type=int, metavar="N", help="default: as many as there are")
    add("--crf", type=int, default=default.crf, help=f"of x264, 0..51{_DEFAULT}")
    add("--workers", type=int, default=1, help=f"processes, a video each{_DEFAULT}")
    clips.set_defaults(run=run_clips)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check", help="is a data set complete? names everything that is missing or wrong"
    )
    check.add_argument("what", help="hevc_a..e, hevc_rgb, uvg, mcl_jcv, vimeo90k or a YAML file")
    check.add_argument("root", type=Path, help="the folder that holds its sequences")
    check.add_argument("--full", action="store_true", help="also decode every frame (slow)")
    check.set_defaults(run=run_check)


def _add_yuv2png(commands: Commands) -> None:
    yuv2png = commands.add_parser(
        "yuv2png", help="a video as im00001.png, im00002.png, ... (RGB) and conversion.txt"
    )
    yuv2png.add_argument("input", type=Path, help=".yuv file or any video")
    yuv2png.add_argument("out_dir", type=Path, help="a folder that is not there yet, or empty")
    add_source(yuv2png)
    yuv2png.set_defaults(run=run_yuv2png)


def _frame_counts(text: str) -> tuple[int, int]:
    """ "16..32", or "16" for exactly 16."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN..MAX")
    return int(match[1]), int(match[2] or match[1])


def run_clips(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.training.data.prepare_folder import prepare_clips

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
        raise UserError(f"clips of {len(failures)} videos could not be made, see above")


def run_check(args: argparse.Namespace) -> int:
    """1 where the data set is not complete. Raises UserError or OSError with one sentence."""
    from tqdm import tqdm

    from cmfr.evaluation.sequences import check_test_set, load_test_set

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
        print(f"cmfr data: {test_set.name}: {count} in {args.root}; {where}", file=sys.stderr)
        return 1
    if test_set.clips is not None:
        what = f"{sum(test_set.clips.lists.values())} clips"
    else:
        frames = sum(sequence.frames for sequence in test_set.sequences)
        what = f"{len(test_set.sequences)} sequences, {frames} frames"
    print(f"{test_set.name}: complete in {args.root} ({what})")
    return 0


def run_yuv2png(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from tqdm import tqdm

    from cmfr.video.reader import open_video
    from cmfr.video.writer import open_writer

    with open_video(args.input, **source_options(args)) as reader:
        info = reader.info
        args.out_dir.parent.mkdir(parents=True, exist_ok=True)
        with open_writer(f"{args.out_dir}/", info) as writer:
            for frame in tqdm(reader, total=info.frame_count, unit="frame", disable=None):
                writer.write(frame)
    (args.out_dir / "conversion.txt").write_text(
        f"source: {args.input.name}\n"
        f"source samples: {info.width}x{info.height}, {info.chroma}, {info.bit_depth} bit\n"
        f"frames: {writer.frames_written}\n"
        f"matrix: {info.color.matrix}\n"
        f"range: {info.color.range}\n"
        f"chroma upsampling: {_UPSAMPLING[info.chroma]}\n",
        encoding="utf-8",
    )
    print(f"{writer.frames_written} pictures in {args.out_dir}")
