"""The commands `cmfr anchor` and `cmfr bdrate`; what they use is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr.cli.options import (
    add_conditions,
    add_list,
    add_sources,
    add_stated,
    check_sources,
    conditions,
    stated,
    tell,
)
from cmfr.cli.parser import frame_size
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text, check_distinct, check_target

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands

FFMPEG_CODECS = ("x264", "x265", "svt-av1", "vp9")
REFERENCE_CODECS = ("hm", "vtm")


def add_commands(commands: Commands) -> None:
    """Add both commands to the parser's subparsers; each sets `run`."""
    anchor = commands.add_parser(
        "anchor", help="code sequences with x264, x265, SVT-AV1, VP9, HM or VTM, low delay"
    )
    anchor.add_argument(
        "--codec", required=True, choices=FFMPEG_CODECS + REFERENCE_CODECS, help="which encoder"
    )
    anchor.add_argument("--preset", help="of x264, x265 (medium), svt-av1 (6), vp9 (cpu-used 1)")
    add_sources(anchor)
    for name, of in (("--crfs", "CRF"), ("--qps", "QP")):
        help = "one point each, as 22 27 32 37 or 22,27,32,37"
        add_list(anchor, name, float, f"{of}s", metavar=of, help=help)
    add_conditions(anchor)
    anchor.add_argument("--threads", type=int, default=1, help="(1; x264 makes slices of more)")
    anchor.add_argument("--binary", type=Path, help="encoder of hm or vtm")
    anchor.add_argument("--cfg", type=Path, help="low-delay configuration of hm or vtm")
    anchor.add_argument("-o", "--output", type=Path, required=True, help="results file (JSON)")
    anchor.set_defaults(run=run_anchor)

    bdrate = commands.add_parser("bdrate", help="BD-rates between results files, against an anchor")
    bdrate.add_argument(
        "files", nargs="+", type=Path, help="results of cmfr, DCVC or CompressAI (JSON), or CSV"
    )
    bdrate.add_argument(
        "--anchor",
        required=True,
        metavar="NAME_OR_FILE",
        help="a codec of the files, a published one (vtm, dcvc-dc, ...), or another file",
    )
    add_list(
        bdrate,
        "--metric",
        str,
        "metrics",
        default=[],
        metavar="METRIC",
        help="psnr_rgb, psnr_yuv, ms_ssim_rgb, ms_ssim_y; several give a table each (default: "
        "psnr_rgb, or psnr_yuv where the anchor has no RGB)",
    )
    bdrate.add_argument(
        "--ms-ssim-db", action="store_true", help="MS-SSIM as -10 log10(1 - x) instead of linear"
    )
    bdrate.add_argument(
        "--method", choices=("pchip", "akima", "cubic"), default="pchip", help="(pchip)"
    )
    bdrate.add_argument(
        "--force",
        action="store_true",
        help="compare across unequal conditions, and class curves of parts of data sets",
    )
    bdrate.add_argument("--csv", type=Path, help="also write the table there")
    foreign = add_stated(bdrate)
    foreign.add_argument("--dataset", help="name of the data set")
    foreign.add_argument("--size", type=frame_size, help="WIDTHxHEIGHT")
    foreign.add_argument("--frame-rate", help="frames per second, e.g. 120 or 30000/1001")
    bdrate.set_defaults(run=run_bdrate)


def run_anchor(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    check_sources(args)
    if bool(args.crfs) == bool(args.qps):
        raise UserError("give either --crfs or --qps")
    check_target(args.output)
    reference = args.codec in REFERENCE_CODECS
    if reference and not (args.binary and args.cfg and args.qps):
        raise UserError(f"{args.codec} needs --binary, --cfg and --qps")
    if reference and args.preset or not reference and (args.binary or args.cfg):
        raise UserError("--preset is not for hm and vtm, --binary and --cfg are for them only")
    asked = conditions(args)
    read = (args.test, args.binary, args.cfg, *(args.videos or ()))
    check_distinct(args.output, *filter(None, read))
    from cmfr.evaluation.anchors import base, ffmpeg
    from cmfr.evaluation.anchors import reference as reference_software

    sources = (
        base.test_sources(args.test, args.root, args.frames, tell)
        if args.test
        else base.video_sources(args.videos, args.frames)
    )
    if reference:
        qps = tuple(int(qp) for qp in args.qps)
        if list(qps) != args.qps:
            raise UserError(f"the QPs of {args.codec} are whole numbers")
        program = reference_software.ReferenceSettings(
            args.codec, args.binary, args.cfg, qps, asked
        )
        reference_software.run(sources, program, args.output)
        return
    rates, mode = tuple(args.crfs or args.qps), "crf" if args.crfs else "qp"
    settings = ffmpeg.Settings(args.codec, rates, args.preset, mode, asked, args.threads)
    ffmpeg.run(sources, settings, args.output)


def run_bdrate(args: argparse.Namespace) -> int:
    """Raises UserError or OSError; returns 1 if not one BD-rate could be computed."""
    from cmfr.report.text import as_csv, as_text, bd_tables
    from cmfr.video.info import parse_frame_rate

    if args.csv:
        check_distinct(args.csv, args.anchor, *args.files)
    rate = None if args.frame_rate is None else parse_frame_rate(args.frame_rate)
    options = {"dataset": args.dataset, "size": args.size, "frame_rate": rate}
    options |= {"conditions": stated(args)}
    tables = bd_tables(
        args.files, args.anchor, args.metric, args.ms_ssim_db, args.method, args.force, options
    )
    print("\n".join(map(as_text, tables)))
    if args.csv:
        atomic_write_text(args.csv, as_csv(tables))
    return 0 if any(line.bd_rate is not None for t in tables for line in t.lines) else 1
