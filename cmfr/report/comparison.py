"""Curves and BD-rates of a report: by sequence, of whole data sets, and their averages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cmfr.bd_rate import SMALL_OVERLAP, BDResult, Method, NotComparable, bd_rate
from cmfr.published import published_ms_ssim_table
from cmfr.report.collect import Codec, differences, refuse, scope, some, split_metric
from cmfr.results import DATASET_MEAN, Point, Record, class_curve, curves

FEW_SHARED = f"less than {SMALL_OVERLAP:.0%} of the joint quality range is shared with the anchor"
WHOLE = ""  # in place of a sequence: the curve of the whole data set


@dataclass(frozen=True)
class Cell:
    """A BD-rate in percent, or None. note: why there is none, or what to know of the number."""

    value: float | None
    note: str = ""
    result: BDResult | None = None


@dataclass(frozen=True)
class BDTable:
    """BD-rates of one metric. sequences: by (codec, data set, sequence), WHOLE for the class curve;
    means: of the sequences, by (codec, data set); averages over the data sets, by (codec, of what),
    where "whole" is of the class curves and "mean" of the means of sequences."""

    metric: str
    sequences: Mapping[tuple[str, str, str], Cell]
    means: Mapping[tuple[str, str], Cell]
    averages: Mapping[tuple[str, str], Cell]


@dataclass(frozen=True)
class Report:
    """All that the files of a report are made of. codecs: the anchor first. sets: sequences by data
    set. differences: of conditions, which were overridden. printed: a published table of BD-rates
    to show beside the measured ones."""

    title: str
    codecs: Sequence[Codec]
    sets: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    method: Method
    differences: Sequence[str] = ()
    printed: Mapping[str, Any] | None = None
    tables: Mapping[str, BDTable] = field(default_factory=dict)

    @property
    def anchor(self) -> Codec:
        return self.codecs[0]


def build(
    codecs: Sequence[Codec],
    metrics: Sequence[str],
    method: Method = "pchip",
    title: str = "",
    force: bool = False,
    paper_table: bool = False,
) -> Report:
    """The report of codecs of which the first is the anchor.

    Raises DifferentConditions unless `force`, and ValueError for a table of MS-SSIM where that is
    no metric.
    """
    sets = scope(codecs)
    found = differences(codecs, sets)
    if not force:
        refuse(found)
    if paper_table and not any(m.startswith("ms_ssim") for m in metrics):
        raise ValueError("the published table is of MS-SSIM, which is none of the metrics")
    title = title or f"Rate-distortion against {codecs[0].name}"
    report = Report(
        title, codecs, sets, metrics, method, found,
        published_ms_ssim_table() if paper_table else None,
    )  # fmt: skip
    tables = {metric: _table(report, metric) for metric in metrics}
    return Report(**{**vars(report), "tables": tables})


# --- curves


def records_of(codec: Codec, dataset: str, sequence: str, sets: Sequence[str]) -> list[Record]:
    """The records a curve is made of. Raises NotComparable if a sequence is not measured; where no
    sequence is, the mean of the whole data set stands for it, if it is known."""
    if sequence != WHOLE:
        if found := codec.places.get((dataset, sequence)):
            return list(found)
        raise NotComparable(f"{codec.name} is not measured on {sequence}")
    missing = [name for name in sets if (dataset, name) not in codec.places]
    if sets and not missing:
        return [r for name in sets for r in codec.places[dataset, name]]
    if (dataset, DATASET_MEAN) in codec.places:
        return list(codec.places[dataset, DATASET_MEAN])
    if len(missing) == len(sets):
        raise NotComparable(f"{codec.name} is not measured on {dataset}")
    raise NotComparable(f"{codec.name} is not measured on {some(missing)} of {dataset}")


def records_in(codec: Codec, report: Report, dataset: str | None = None) -> list[Record]:
    """A codec's records on the data sets of the report, or on one of them."""
    return [
        record
        for (name, sequence), found in codec.places.items()
        for record in found
        if name in report.sets
        and dataset in (None, name)
        and (sequence in report.sets[name] or sequence == DATASET_MEAN)
    ]


def curve(report: Report, codec: Codec, dataset: str, sequence: str, metric: str) -> list[Point]:
    """The points of a codec, by rate index. Raises NotComparable where there are none."""
    records = records_of(codec, dataset, sequence, report.sets[dataset])
    name, db = split_metric(metric)
    try:
        if sequence == WHOLE:
            return class_curve(records, name, db)
        return next(iter(curves(records, name, db).values()))
    except ValueError as error:  # the metric is not known, or not all rates are
        raise NotComparable(str(error)) from error


def drawable(
    report: Report, dataset: str, sequence: str, metric: str
) -> dict[str, list[tuple[Point, Record]]]:
    """The curves that there are, by codec: finite points with a record each that says its label."""
    found = {}
    for codec in report.codecs:
        try:
            points = curve(report, codec, dataset, sequence, metric)
        except NotComparable:
            continue
        records = records_of(codec, dataset, sequence, report.sets[dataset])
        first = {r.rate_index: r for r in reversed(records)}
        paired = zip(points, (first[i] for i in sorted(first)), strict=True)
        shown = [(p, r) for p, r in paired if all(map(math.isfinite, p))]
        if shown:
            found[codec.name] = shown
    return found


# --- BD-rates


def _table(report: Report, metric: str) -> BDTable:
    cells: dict[tuple[str, str, str], Cell] = {}
    means: dict[tuple[str, str], Cell] = {}
    averages: dict[tuple[str, str], Cell] = {}
    for codec in report.codecs:
        for dataset, sequences in report.sets.items():
            for sequence in (*sequences, WHOLE):
                cells[codec.name, dataset, sequence] = _cell(
                    report, codec, dataset, sequence, metric
                )
            if sequences:
                means[codec.name, dataset] = _mean(
                    {s: cells[codec.name, dataset, s] for s in sequences},
                    {s: cells[report.anchor.name, dataset, s] for s in sequences},
                )
            else:
                means[codec.name, dataset] = Cell(None, f"{dataset} is not known by sequence")
        for kind in ("whole", "mean"):
            row, base = (
                {d: cells[c, d, WHOLE] if kind == "whole" else means[c, d] for d in report.sets}
                for c in (codec.name, report.anchor.name)
            )
            averages[codec.name, kind] = _mean(row, base)
    return BDTable(metric, cells, means, averages)


def _mean(cells: Mapping[str, Cell], anchor: Mapping[str, Cell]) -> Cell:
    """The mean over all places where the anchor has a BD-rate (of 0) itself.

    There is none where the codec misses one of them: it would not compare with those of others.
    """
    usable = {name: cell for name, cell in cells.items() if anchor[name].value is not None}
    missing = [name for name, cell in usable.items() if cell.value is None]
    without = [name for name in cells if name not in usable]
    if not usable:
        return Cell(None, "the anchor has no usable curve there")
    if missing:
        return Cell(None, f"no BD-rate on {some(missing)}, so no mean")
    note = f"without {some(without)}, where the anchor has no usable curve" if without else ""
    return Cell(fmean(cell.value for cell in usable.values() if cell.value is not None), note)


def _cell(report: Report, codec: Codec, dataset: str, sequence: str, metric: str) -> Cell:
    place = sequence or f"{dataset} as a whole"
    names = (f"{report.anchor.name} on {place}", f"{codec.name} on {place}")
    try:
        base, test = (curve(report, c, dataset, sequence, metric) for c in (report.anchor, codec))
        result = bd_rate(base, test, report.method, names)
    except NotComparable as reason:
        return Cell(None, str(reason))
    notes = [FEW_SHARED] if result.overlap < SMALL_OVERLAP else []
    means = [
        c.name
        for c in (report.anchor, codec)
        if sequence == WHOLE
        and records_of(c, dataset, WHOLE, report.sets[dataset])[0].sequence == DATASET_MEAN
    ]
    if means and report.sets[dataset]:
        notes.append(
            f"{' and '.join(dict.fromkeys(means))} on {dataset}: known as a mean only; that it is "
            "of the same sequences is not checked"
        )
    return Cell(result.percent, "; ".join(notes), result)
