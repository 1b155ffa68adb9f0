"""The command `cmfr report`: results files to a page, tables and plots."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cmfr.cli.options import ListAction, add_list, add_stated, existing_paths, stated
from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="page, tables and plots that compare results files with an anchor"
    )
    report.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="results of codecs: JSON of cmfr or DCVC, or a CSV table",
    )
    report.add_argument(
        "--anchor",
        required=True,
        metavar="NAME",
        help="what BD-rates are against: a codec of the results, a results file, or a published "
        "codec",
    )
    add_list(
        report,
        "--published",
        str,
        "names",
        default=[],
        metavar="NAME",
        help="also show published curves, such as hm, vtm, dcvc-dc (a wrong name lists them all)",
    )
    report.add_argument(
        "--paper-table",
        action="store_true",
        help="also print the BD-rates that the CMFR authors published (MS-SSIM only)",
    )
    add_list(
        report,
        "--metric",
        str,
        "metrics",
        default=[],
        metavar="METRIC",
        help="psnr_yuv, psnr_rgb, ms_ssim_rgb, ...; ms_ssim_rgb_db for dB (default: those that all "
        "codecs have)",
    )
    report.add_argument(
        "--method",
        choices=("pchip", "akima", "cubic"),
        default="pchip",
        help="interpolation for BD-rate (pchip)",
    )
    report.add_argument(
        "--force",
        action="store_true",
        help="compare what was measured under different conditions, and make class curves of parts "
        "of data sets; page, tables and plots say so",
    )
    report.add_argument(
        "--bench",
        nargs="+",
        type=existing_paths,
        action=ListAction,
        default=[],
        metavar="FILE",
        help="show speeds: files of cmfr bench --json (the times of evaluations are not shown)",
    )
    add_stated(report)
    report.add_argument("--title", default="", help="of the page")
    report.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder to write; an earlier report in it is replaced",
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence for bad input."""
    from pathlib import Path

    from cmfr.report.collect import choose_metrics, collect
    from cmfr.report.comparison import build
    from cmfr.report.speed import read_bench
    from cmfr.report.tables import markdown
    from cmfr.report.write import check_output, write_report

    check_output(Path(args.output))  # before seconds are spent on curves
    benches = [read_bench(path) for path in args.bench]
    codecs = collect(args.results, args.anchor, args.published, {"conditions": stated(args)})
    if not args.results and not args.published:
        raise UserError("nothing to compare: give results files or --published")
    metrics = choose_metrics(args.metric, codecs)
    report = build(codecs, metrics, args.method, args.title, args.force, args.paper_table, benches)
    files = write_report(report, args.output)
    print(markdown(report))
    print(f"{Path(args.output) / 'index.html'} and {len(files) - 1} files beside it")
