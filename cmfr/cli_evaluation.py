"""The commands `cmfr anchor` and `cmfr bdrate`; what they use is imported when they run."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from cmfr.cli_options import add_list, add_measurement, measurement, tell
from cmfr.cli_parser import add_intra_period, frame_size

if TYPE_CHECKING:
    from cmfr.bd_rate import Method
    from cmfr.cli_parser import Commands
    from cmfr.results import Point, Record

FFMPEG_CODECS = ("x264", "x265", "svt-av1", "vp9")
REFERENCE_CODECS = ("hm", "vtm")
MEAN, CLASS = "mean of sequences", "class curve"


def add_commands(commands: Commands) -> None:
    """Add both commands to the parser's subparsers; each sets `run`."""
    anchor = commands.add_parser(
        "anchor", help="code sequences with x264, x265, SVT-AV1, VP9, HM or VTM, low delay"
    )
    anchor.add_argument(
        "--codec", required=True, choices=FFMPEG_CODECS + REFERENCE_CODECS, help="which encoder"
    )
    anchor.add_argument("--preset", help="of x264, x265 (medium), svt-av1 (6), vp9 (cpu-used 1)")
    anchor.add_argument("--test", help="test set: a name or a YAML file, see configs/test")
    anchor.add_argument("--root", type=Path, help="folder of the test set's sequences")
    anchor.add_argument("--videos", nargs="+", type=Path, help="video files, instead of a test set")
    for name, of in (("--crfs", "CRF"), ("--qps", "QP")):
        help = "one point each, as 22 27 32 37 or 22,27,32,37"
        add_list(anchor, name, float, f"{of}s", metavar=of, help=help)
    anchor.add_argument("--frames", type=int, help="the first so many (default: all listed)")
    add_intra_period(anchor)
    add_measurement(anchor)
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
        "--anchor", required=True, metavar="NAME_OR_FILE",
        help="a codec of the files, a published one (vtm, dcvc-dc, ...), or another file",
    )  # fmt: skip
    bdrate.add_argument(
        "--metric", default="psnr_rgb", help="psnr_rgb (default), psnr_yuv, ms_ssim_rgb, ms_ssim_y"
    )
    bdrate.add_argument(
        "--ms-ssim-db", action="store_true", help="MS-SSIM as -10 log10(1 - x) instead of linear"
    )
    bdrate.add_argument(
        "--method", choices=("pchip", "akima", "cubic"), default="pchip", help="(pchip)"
    )
    bdrate.add_argument("--force", action="store_true", help="compare across unequal conditions")
    bdrate.add_argument("--csv", type=Path, help="also write the table there")
    foreign = bdrate.add_argument_group("what a CompressAI or CSV file does not say")
    foreign.add_argument("--dataset", help="name of the data set")
    foreign.add_argument("--size", type=frame_size, help="WIDTHxHEIGHT")
    foreign.add_argument("--frame-rate", help="frames per second, e.g. 120 or 30000/1001")
    bdrate.set_defaults(run=run_bdrate)


def run_anchor(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError with one sentence."""
    if bool(args.test) == bool(args.videos) or bool(args.test) != bool(args.root):
        raise ValueError("give either --test with --root, or --videos")
    if bool(args.crfs) == bool(args.qps):
        raise ValueError("give either --crfs or --qps")
    if not args.output.parent.is_dir():
        raise FileNotFoundError(f"no folder {args.output.parent} to write {args.output.name} to")
    reference = args.codec in REFERENCE_CODECS
    if reference and not (args.binary and args.cfg and args.qps):
        raise ValueError(f"{args.codec} needs --binary, --cfg and --qps")
    if reference and args.preset or not reference and (args.binary or args.cfg):
        raise ValueError("--preset is not for hm and vtm, --binary and --cfg are for them only")
    measured = measurement(args)
    if args.frames is not None and args.frames < 1:
        raise ValueError(f"frames must be 1 or more, not {args.frames}")
    from cmfr import anchor_sources, anchors, reference_software

    sources = (
        anchor_sources.test_sources(args.test, args.root, args.frames, tell)
        if args.test
        else anchor_sources.video_sources(args.videos)
    )
    common = {"frames": args.frames, "intra_period": args.intra_period, "measurement": measured}
    if reference:
        qps = tuple(int(qp) for qp in args.qps)
        if list(qps) != args.qps:
            raise ValueError(f"the QPs of {args.codec} are whole numbers")
        program = reference_software.ReferenceSettings(
            args.codec, args.binary, args.cfg, qps, **common
        )
        reference_software.run(sources, program, args.output)
        return
    rates, mode = tuple(args.crfs or args.qps), "crf" if args.crfs else "qp"
    settings = anchors.Settings(
        args.codec, rates, args.preset, mode, threads=args.threads, **common
    )
    anchors.run(sources, settings, args.output)


# --- BD-rate


@dataclass(frozen=True)
class Row:
    """One BD-rate or the reason why there is none. sequence: its name, MEAN or CLASS.

    bd_rate: percent of bits; bd_quality: in the metric's unit; overlap: the common part (0..1) of
    the quality range that both curves span.
    """

    dataset: str
    codec: str
    sequence: str
    bd_rate: float | None = None
    bd_quality: float | None = None
    overlap: float | None = None
    note: str = ""


def run_bdrate(args: argparse.Namespace) -> int:
    """Raises ValueError or OSError; returns 1 if not one BD-rate could be computed."""
    from cmfr.frames import parse_frame_rate
    from cmfr.results import write_text

    if args.ms_ssim_db and not args.metric.startswith("ms_ssim"):
        raise ValueError(f"--ms-ssim-db is not for {args.metric}")
    rate = None if args.frame_rate is None else parse_frame_rate(args.frame_rate)
    options = {"dataset": args.dataset, "size": args.size, "frame_rate": rate}
    codecs = _read(args.files, options)
    anchor = find_anchor(args.anchor, codecs, options)
    tested = [records for records in codecs.values() if records is not anchor]
    if not tested:
        raise ValueError(f"the files hold nothing but the anchor {args.anchor}")
    rows: list[Row] = []
    for records in tested:
        rows += bd_rates(anchor, records, args.metric, args.ms_ssim_db, args.method, args.force)
    domain = " (dB)" if args.ms_ssim_db or args.metric.startswith("psnr") else " (linear)"
    print(f"BD-rate against {anchor[0].codec}, {args.metric}{domain}, {args.method}")
    print(format_rows(rows))
    if args.csv:
        write_text(args.csv, _csv(rows, anchor[0].codec, args))
    return 0 if any(row.bd_rate is not None for row in rows) else 1


def _read(files: Sequence[Path], options: dict) -> dict[str, list[Record]]:
    """Records by codec; a codec that several files have gets the file's name behind its own."""
    from cmfr.published import read_any

    found: dict[tuple[str, Path], list[Record]] = {}
    for path in files:
        for record in read_any(path, **options):
            found.setdefault((record.codec, path), []).append(record)
    names = [codec for codec, _ in found]
    codecs: dict[str, list[Record]] = {}
    for (codec, path), records in found.items():
        name = f"{codec} ({path.stem})" if names.count(codec) > 1 else codec
        if name in codecs:
            raise ValueError(f"two files give results of {name}: give files of different names")
        codecs[name] = [replace(record, codec=name) for record in records]
    return codecs


def find_anchor(name: str, codecs: dict[str, list[Record]], options: dict) -> list[Record]:
    """The records of a codec of the files, of a published one, or of a file of one codec.

    Raises ValueError with the names that there are.
    """
    from cmfr.published import published, published_names, read_any

    if name in codecs:
        return codecs[name]
    if name in published_names():
        return published(name)
    if Path(name).is_file():
        records = read_any(name, **options)
        if len(held := sorted({record.codec for record in records})) > 1:
            raise ValueError(f"{name} has several codecs ({', '.join(held)}), so name one")
        return records
    raise ValueError(
        f"no anchor {name!r}: it is no file, none of the codecs {', '.join(codecs)}, and not "
        f"published ({', '.join(published_names())})"
    )


def bd_rates(
    anchor: Sequence[Record],
    tested: Sequence[Record],
    metric: str,
    db: bool = False,
    method: Method = "pchip",
    force: bool = False,
) -> list[Row]:
    """Of one codec against another: every sequence that both have, the mean of those, and the curve
    of the class, by data set. Reasons stand in place of what is refused.

    A published figure of a whole set is compared with the class curve alone. Raises ValueError if
    no data set is common to the two.
    """
    from cmfr.results import DATASET_MEAN

    codec, rows = tested[0].codec, []
    for dataset in dict.fromkeys(record.dataset for record in tested):
        bases, others = (_by_sequence(side, dataset) for side in (anchor, tested))
        whole = DATASET_MEAN in bases or DATASET_MEAN in others
        common = [name for name in others if name in bases and name != DATASET_MEAN]
        if not bases or not (common or whole):
            continue
        here = [
            _row(Row(dataset, codec, n), bases[n], others[n], metric, db, method, force)
            for n in common
        ]
        rows += [*here, *_mean(here)]
        one = _flat(bases[name] for name in (bases if whole else common))
        two = _flat(others[name] for name in (others if whole else common))
        rows.append(_row(Row(dataset, codec, CLASS), one, two, metric, db, method, force))
    if not rows:
        there, here_ = (", ".join(dict.fromkeys(r.dataset for r in s)) for s in (anchor, tested))
        raise ValueError(
            f"{codec} ({here_}) and {anchor[0].codec} ({there}) have no sequence in common"
        )
    return rows


def _by_sequence(records: Sequence[Record], dataset: str) -> dict[str, list[Record]]:
    from cmfr.published import dataset_name

    found: dict[str, list[Record]] = {}
    for record in records:
        if dataset_name(record.dataset) == dataset_name(dataset):
            found.setdefault(record.sequence, []).append(record)
    return found


def _mean(rows: Sequence[Row]) -> list[Row]:
    """Of the sequences that have a number; nothing where none has."""
    numbers = [row.bd_rate for row in rows if row.bd_rate is not None]
    gains = [row.bd_quality for row in rows if row.bd_quality is not None]
    if not numbers:
        return []
    quality = fmean(gains) if len(gains) == len(numbers) else None
    note = f"{len(numbers)} of {len(rows)} sequences"
    return [Row(rows[0].dataset, rows[0].codec, MEAN, fmean(numbers), quality, note=note)]


def _flat(lists: Iterable[list[Record]]) -> list[Record]:
    return [record for records in lists for record in records]


def _row(
    row: Row,
    anchor: list[Record],
    tested: list[Record],
    metric: str,
    db: bool,
    method: Method,
    force: bool,
) -> Row:
    """With numbers, or with the reason why there are none."""
    from cmfr.bd_rate import SMALL_OVERLAP, bd_rate
    from cmfr.conditions import check_comparable
    from cmfr.results import DATASET_MEAN, class_curve

    try:
        said: list[str] = []
        for base, other in product(anchor, tested):
            if base.sequence == other.sequence or DATASET_MEAN in (base.sequence, other.sequence):
                said += check_comparable(base, other, force)
        one, two = (class_curve(side, metric, db) for side in (anchor, tested))
        names = (f"{anchor[0].codec} on {row.sequence}", f"{row.codec} on {row.sequence}")
        result = bd_rate(one, two, method, names)
    except ValueError as reason:  # NotComparable, DifferentConditions, a metric that is not there
        return replace(row, note=str(reason))
    notes = list(dict.fromkeys(said))
    if result.overlap < SMALL_OVERLAP:
        notes.append(f"only {result.low:.4g}..{result.high:.4g} is common")
    return replace(
        row, bd_rate=result.percent, bd_quality=_bd_quality(one, two, method),
        overlap=result.overlap, note="; ".join(notes),
    )  # fmt: skip


def _bd_quality(anchor: list[Point], tested: list[Point], method: Method) -> float | None:
    """Mean difference of quality at equal rate (BD-PSNR in dB); None where no rate is common."""
    from bjontegaard import bd_psnr

    one, two = sorted(anchor), sorted(tested)
    if max(one[0][0], two[0][0]) >= min(one[-1][0], two[-1][0]):
        return None
    columns = [list(column) for side in (one, two) for column in zip(*side, strict=True)]
    return float(bd_psnr(*columns, method=method, require_matching_points=False, min_overlap=0))


def format_rows(rows: Sequence[Row]) -> str:
    """The table for the terminal."""
    lines = [f"{'':40}{'BD-rate %':>10}{'BD-quality':>12}{'overlap %':>11}"]
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is None or (previous.dataset, previous.codec) != (row.dataset, row.codec):
            lines.append(f"{row.codec} on {row.dataset}")
        cells = [
            "-" if row.bd_rate is None else f"{row.bd_rate:+.2f}",
            "-" if row.bd_quality is None else f"{row.bd_quality:+.4f}",
            "-" if row.overlap is None else f"{100 * row.overlap:.0f}",
        ]
        line = f"  {row.sequence:38}{cells[0]:>10}{cells[1]:>12}{cells[2]:>11}  {row.note}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _csv(rows: Sequence[Row], anchor: str, args: argparse.Namespace) -> str:
    text = io.StringIO()
    domain = "dB" if args.ms_ssim_db or args.metric.startswith("psnr") else "linear"
    same = {"anchor": anchor, "metric": args.metric, "domain": domain, "method": args.method}
    writer = csv.DictWriter(text, [*same, *asdict(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**same, **asdict(row)} for row in rows)
    return text.getvalue()
