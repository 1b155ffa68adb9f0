"""The numbers of a report as CSV, with full precision."""

from __future__ import annotations

import csv
import io

from cmfr.report.comparison import WHOLE, Report
from cmfr.report.speed import complexity_table
from cmfr.report.tables import KINDS, printed_source, printed_values, warnings


def comma_separated(report: Report) -> str:
    """The summaries with full precision; `n/a` where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    sets = list(report.sets)
    writer.writerow(["metric", "bd_rate_of", "codec", "kind", "anchor", *sets, "average", "notes"])
    for metric, table in report.tables.items():
        for kind, shown in KINDS.items():
            for codec in report.codecs:
                cells = [
                    table.sequences[codec.name, d, WHOLE]
                    if kind == "whole"
                    else table.means[codec.name, d]
                    for d in sets
                ] + [table.averages[codec.name, kind]]
                parts = [part for d in sets if (part := report.part(d))]
                said = [*parts, *(cell.note for cell in cells if cell.note), *warnings(report)]
                notes = "; ".join(dict.fromkeys(said))
                start = [metric, shown, codec.name, "published" if codec.published else "measured"]
                values = [_number(cell.value) for cell in cells]
                writer.writerow([*start, report.anchor.name, *values, notes])
        if metric.startswith("ms_ssim") and report.printed:
            for name, found in printed_values(report).items():
                start = [metric, "not stated", name, "published BD-rate", report.printed["anchor"]]
                values = [_number(v) for v in (*found, None)]
                writer.writerow([*start, *values, printed_source(report)])
    return file.getvalue()


def complexity_csv(report: Report) -> str:
    """Parameters and operations of every codec."""
    file = io.StringIO()
    head, lines = complexity_table(report)
    csv.writer(file, lineterminator="\n").writerows([head, *lines])
    return file.getvalue()


def sequences_csv(report: Report) -> str:
    """A line per codec, data set, sequence and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["bd_rate_percent", "quality_low", "quality_high", "overlap", "note"]
    writer.writerow(["metric", "dataset", "sequence", "codec", "anchor", *head])
    for metric, table in report.tables.items():
        for (codec, dataset, sequence), cell in table.sequences.items():
            found = cell.result
            over = (
                [_number(v) for v in (found.low, found.high, found.overlap)] if found else [""] * 3
            )
            place = [metric, dataset, sequence or f"({KINDS['whole']})", codec, report.anchor.name]
            note = "; ".join(filter(None, (cell.note, *warnings(report))))
            writer.writerow([*place, _number(cell.value), *over, note])
    return file.getvalue()


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
