"""BD-rates as `cmfr bdrate` shows them: a line per sequence, for the terminal and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cmfr.evaluation.bd_rate import Method, small_overlap
from cmfr.report.collect import PUBLISHED, CodecResults, collect, split_metric
from cmfr.report.comparison import FEW_SHARED, WHOLE, Cell, Report, build
from cmfr.report.tables import KINDS
from cmfr.utils.errors import UserError

MEAN, CLASS = KINDS["mean"], KINDS["whole"]


@dataclass(frozen=True)
class Line:
    """One BD-rate or the reason why there is none.

    sequence: its name, MEAN or CLASS.
    bd_rate: percent of bits.
    bd_quality: in the metric's unit.
    overlap: the common part (0..1) of the shorter curve's quality range.
    note: the reason, or what to know of the number.
    """

    dataset: str
    codec: str
    sequence: str
    bd_rate: float | None = None
    bd_quality: float | None = None
    overlap: float | None = None
    note: str = ""

    @classmethod
    def of(cls, dataset: str, codec: str, sequence: str, cell: Cell) -> Line:
        overlap = cell.result.overlap if cell.result else None
        note = cell.note
        if cell.result:
            note = note.replace(FEW_SHARED, small_overlap(cell.result))
        note = "; ".join(filter(None, (note, *cell.conditions)))
        return cls(dataset, codec, sequence, cell.value, cell.quality, overlap, note)


@dataclass(frozen=True)
class Table:
    """BD-rates of one metric, of all codecs.

    domain: "dB" or "linear".
    """

    anchor: str
    metric: str
    domain: str
    method: Method
    lines: Sequence[Line]


def bd_tables(
    files: Sequence[Path],
    anchor: str,
    metrics: Sequence[str],
    db: bool,
    method: Method,
    force: bool,
    options: Mapping[str, Any],
) -> list[Table]:
    """A table for each metric, by `collect` and `build`. Every codec is compared with the anchor by
    itself.

    metrics: by default PSNR of RGB, or of YUV where the anchor has no RGB.
    db: MS-SSIM in dB.
    force: as of `build`.
    options: see published.read_any.

    Raises FileNotFoundError, or ValueError where there is nothing to compare.
    """
    base, *tested = collect(files, anchor, (), options)
    if not tested:
        raise UserError(f"the files hold nothing but the anchor {anchor}")
    if base.published:  # no codec of the files has its name
        name = base.name.removesuffix(PUBLISHED)
        base = replace(
            CodecResults.of(name, [replace(r, codec=name) for r in base.records]), published=True
        )
    known = base.records[0].average().quality
    metrics = metrics or ["psnr_rgb" if "psnr_rgb" in known else "psnr_yuv"]
    for metric in metrics:
        if db and not metric.startswith("ms_ssim"):
            raise UserError(f"--ms-ssim-db is not for {metric}")
    metrics = [f"{metric.removesuffix('_db')}_db" if db else metric for metric in metrics]
    reports = [build([base, c], metrics, method, force=force, partial=True) for c in tested]
    tables = []
    for metric in metrics:
        name, decibel = split_metric(metric)
        domain = "dB" if decibel or name.startswith("psnr") else "linear"
        found = [line for report in reports for line in bd_lines(report, metric)]
        tables.append(Table(base.name, name, domain, method, found))
    return tables


def bd_lines(report: Report, metric: str) -> list[Line]:
    """Of the second codec against the first, by data set: every sequence of the set, the mean of
    those that have a number, and the class curve. Reasons stand in place of what is refused. A
    figure of a whole set is compared with the class curve alone.

    Raises ValueError if the two have no data set in common.
    """
    table, (anchor, codec), lines = report.tables[metric], report.codecs, []
    for dataset in report.sets:
        measured = {sequence for name, sequence in anchor.places if name == dataset}
        if not measured:
            continue
        if measured & set(report.sets[dataset]):
            for name in report.whole[dataset]:
                missing = Cell(None, f"{codec.name} is not measured on {name}")
                cell = table.sequences.get((codec.name, dataset, name), missing)
                lines.append(Line.of(dataset, codec.name, name, cell))
            if (mean := table.means[codec.name, dataset]).value is not None:
                mean = replace(mean, note=f"over {mean.over}")
                lines.append(Line.of(dataset, codec.name, MEAN, mean))
        whole = table.sequences[codec.name, dataset, WHOLE]
        lines.append(Line.of(dataset, codec.name, CLASS, whole))
    if not lines:
        here, there = (", ".join(dict.fromkeys(d for d, _ in c.places)) for c in (codec, anchor))
        raise UserError(
            f"{codec.name} ({here}) and {anchor.name} ({there}) have no sequence in common"
        )
    return lines


def as_text(table: Table) -> str:
    """The table for the terminal."""
    width = max(38, *(len(line.sequence) for line in table.lines)) + 2
    shown = [
        f"BD-rate against {table.anchor}, {table.metric} ({table.domain}), {table.method}",
        f"{'':{width}}{'BD-rate %':>10}{'BD-quality':>12}{'overlap %':>11}",
    ]
    before = None
    for line in table.lines:
        if before != (before := (line.codec, line.dataset)):
            shown.append(f"{line.codec} on {line.dataset}")
        cells = [
            "-" if line.bd_rate is None else f"{line.bd_rate:+.2f}",
            "-" if line.bd_quality is None else f"{line.bd_quality:+.4f}",
            "-" if line.overlap is None else f"{100 * line.overlap:.0f}",
        ]
        text = f"  {line.sequence:{width - 2}}{cells[0]:>10}{cells[1]:>12}{cells[2]:>11}"
        shown.append(f"{text}  {line.note}".rstrip())
    return "\n".join(shown)


def as_csv(tables: Sequence[Table]) -> str:
    """Tables with full precision."""
    file = io.StringIO()
    same = ("anchor", "metric", "domain", "method")
    writer = csv.DictWriter(file, [*same, *asdict(tables[0].lines[0])], lineterminator="\n")
    writer.writeheader()
    for table in tables:
        first = {name: getattr(table, name) for name in same}
        writer.writerows({**first, **asdict(line)} for line in table.lines)
    return file.getvalue()
