"""Curves and BD-rates of a report: by sequence, of whole data sets, and their averages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import Any

from cmfr.evaluation.bd_rate import (
    SMALL_OVERLAP,
    BDResult,
    Method,
    NotComparable,
    bd_quality,
    bd_rate,
    mean_bd_rate,
)
from cmfr.evaluation.conditions import DifferentConditions, check_comparable, not_stated
from cmfr.evaluation.published import published_ms_ssim_table
from cmfr.evaluation.records import DATASET_MEAN, Json, Point, Record, class_curve
from cmfr.evaluation.whole_sets import part_of, whole_set
from cmfr.report.collect import (
    CodecResults,
    differences,
    refuse,
    scope,
    some,
    split_metric,
    unstated,
)
from cmfr.utils.errors import UserError

FEW_SHARED = f"over less than {SMALL_OVERLAP:.0%} of the shorter curve's quality range"
WHOLE = ""  # in place of a sequence: the curve of the whole data set


@dataclass(frozen=True)
class Cell:
    """A BD-rate.

    value: percent, or None.
    note: why there is none, or what to know of the number.
    over: of a mean, how many places it is over ("4 of 5 sequences").
    quality: the difference of quality at equal rate, in the metric's unit.
    conditions: where they differ (by force) or are not stated.
    """

    value: float | None
    note: str = ""
    result: BDResult | None = None
    over: str = ""
    quality: float | None = None
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class BDTable:
    """BD-rates of one metric.

    sequences: by (codec, data set, sequence), WHOLE for the class curve.
    means: of the sequences, by (codec, data set).
    averages: over the data sets, by (codec, of what), where "whole" is of the class curves and
    "mean" of the means of sequences.
    """

    metric: str
    sequences: Mapping[tuple[str, str, str], Cell]
    means: Mapping[tuple[str, str], Cell]
    averages: Mapping[tuple[str, str], Cell]


@dataclass(frozen=True)
class Report:
    """All that the files of a report are made of.

    codecs: the anchor first.
    sets: sequences by data set, all that are in the report.
    whole: sequences by data set, all that the set has.
    force: as of `build`.
    differences: of conditions, which were overridden by `force`.
    unstated: conditions that someone leaves open.
    printed: a published table of BD-rates to show beside the measured ones.
    benches: what `cmfr bench` wrote.
    notes: what else is to be known.
    detailed: the tables have BD-rates by sequence and complexity too.
    tables: by metric.
    """

    title: str
    codecs: Sequence[CodecResults]
    sets: Mapping[str, Sequence[str]]
    metrics: Sequence[str]
    method: Method
    whole: Mapping[str, Sequence[str]] = field(default_factory=dict)
    force: bool = False
    differences: Sequence[str] = ()
    unstated: Sequence[str] = ()
    printed: Mapping[str, Any] | None = None
    benches: Sequence[Json] = ()
    notes: Sequence[str] = ()
    detailed: bool = False
    tables: Mapping[str, BDTable] = field(default_factory=dict)

    @property
    def anchor(self) -> CodecResults:
        return self.codecs[0]

    def part(self, dataset: str) -> str:
        """ "1 of 4 sequences of hevc_d"; empty where the report has all of the set."""
        sequences = self.sets[dataset]
        return part_of(dataset, sequences, self.whole.get(dataset, ())) if sequences else ""

    def head(self, dataset: str) -> str:
        """A data set's name, with how much of it there is: "hevc_d (1 of 4 sequences)"."""
        part = self.part(dataset)
        return f"{dataset} ({part.removesuffix(f' of {dataset}')})" if part else dataset


def build(
    codecs: Sequence[CodecResults],
    metrics: Sequence[str],
    method: Method = "pchip",
    title: str = "",
    force: bool = False,
    paper_table: bool = False,
    benches: Sequence[Json] = (),
    notes: Sequence[str] = (),
    detailed: bool = False,
    partial: bool = False,
) -> Report:
    """The report of codecs of which the first is the anchor.

    force: compare across different conditions, and make class curves of parts of data sets.
    paper_table: show the published table of BD-rates too.
    benches, notes, detailed: as of `Report`.
    partial: where conditions differ there is no number, and the rest is compared.

    Raises DifferentConditions unless `force` or `partial`, and ValueError for a table of MS-SSIM
    where that is no metric.
    """
    sets = scope(codecs)
    if not (force or partial):
        refuse(codecs, sets)
    if paper_table and not any(m.startswith("ms_ssim") for m in metrics):
        raise UserError("the published table is of MS-SSIM, which is none of the metrics")
    title = title or f"Rate-distortion against {codecs[0].name}"
    records = [record for codec in codecs for record in codec.records]
    report = Report(
        title,
        codecs,
        sets,
        metrics,
        method,
        {name: whole_set(name, records) for name in sets},
        force,
        differences(codecs, sets),
        unstated(codecs, sets),
        published_ms_ssim_table() if paper_table else None,
        benches,
        notes,
        detailed,
    )
    tables = {metric: _table(report, metric) for metric in metrics}
    return Report(**{**vars(report), "tables": tables})


# --- curves


def records_of(
    report: Report,
    codec: CodecResults,
    dataset: str,
    sequence: str,
    only: Sequence[str] | None = None,
) -> list[Record]:
    """The records a curve is made of.

    only: a class curve of these sequences.

    Raises NotComparable if a sequence is not measured, and for the curve of a set of which the
    report has a part, unless forced; where no sequence is measured, the mean of the whole data set
    stands for it, if it is known.
    """
    sets = report.sets[dataset] if only is None else only
    if sequence != WHOLE:
        if found := codec.places.get((dataset, sequence)):
            return list(found)
        raise NotComparable(f"{codec.name} is not measured on {sequence}")
    if (part := report.part(dataset)) and not report.force:
        raise NotComparable(f"only {part}: a class curve needs all of them (--force takes those)")
    missing = [name for name in sets if (dataset, name) not in codec.places]
    if sets and not missing:
        return [r for name in sets for r in codec.places[dataset, name]]
    if (dataset, DATASET_MEAN) in codec.places:
        return list(codec.places[dataset, DATASET_MEAN])
    if len(missing) == len(sets):
        raise NotComparable(f"{codec.name} is not measured on {dataset}")
    raise NotComparable(f"{codec.name} is not measured on {some(missing)} of {dataset}")


def records_in(codec: CodecResults, report: Report, dataset: str | None = None) -> list[Record]:
    """A codec's records on the data sets of the report, or on one of them."""
    return [
        record
        for (name, sequence), found in codec.places.items()
        for record in found
        if name in report.sets
        and dataset in (None, name)
        and (sequence in report.sets[name] or sequence == DATASET_MEAN)
    ]


def curve(
    report: Report, codec: CodecResults, dataset: str, sequence: str, metric: str
) -> list[Point]:
    """The points of a codec, by rate index. Raises NotComparable where there are none."""
    return points(records_of(report, codec, dataset, sequence), metric)


def points(records: Sequence[Record], metric: str) -> list[Point]:
    """Of one sequence or the class curve of several. Raises NotComparable."""
    try:
        return class_curve(records, *split_metric(metric))
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
        records = records_of(report, codec, dataset, sequence)
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
                all_names = [s for s in report.whole[dataset] if s not in sequences]
                means[codec.name, dataset] = _mean(
                    {s: cells[codec.name, dataset, s] for s in sequences}
                    | {s: Cell(None) for s in all_names},
                    "sequences",
                )
            else:
                means[codec.name, dataset] = Cell(None, f"{dataset} is not known by sequence")
        for kind in ("whole", "mean"):
            row = {
                d: cells[codec.name, d, WHOLE] if kind == "whole" else means[codec.name, d]
                for d in report.sets
            }
            averages[codec.name, kind] = _mean(row, "data sets", row)
    return BDTable(metric, cells, means, averages)


def _mean(cells: Mapping[str, Cell], what: str, parts: Mapping[str, Cell] | None = None) -> Cell:
    """The mean over the places that have a BD-rate; the note says which have none, and which of
    `parts` have a note themselves."""
    mean = mean_bd_rate({name: cell.value for name, cell in cells.items()})
    over = f"{mean.over} {what}"
    if mean.percent is None:
        return Cell(None, f"no BD-rate on {some(mean.left_out)}", over=over)
    notes = [f"over {over}, without {some(mean.left_out)}"] if mean.left_out else []
    if noted := [name for name, c in (parts or {}).items() if c.value is not None and c.note]:
        notes.append(f"see what is noted on {some(noted)}")
    qualities = [cell.quality for cell in cells.values() if cell.value is not None]
    known = [quality for quality in qualities if quality is not None]
    gain = fmean(known) if len(known) == len(qualities) else None
    return Cell(mean.percent, "; ".join(notes), over=over, quality=gain)


def _cell(report: Report, codec: CodecResults, dataset: str, sequence: str, metric: str) -> Cell:
    place, both = sequence or f"{dataset} as a whole", (report.anchor, codec)
    names = (f"{report.anchor.name} on {place}", f"{codec.name} on {place}")
    try:
        only = _common(report, codec, dataset) if sequence == WHOLE else None
        one, two = (records_of(report, c, dataset, sequence, only) for c in both)
        said: dict[str, None] = {}
        for a, b in product(one, two):
            if a.sequence == b.sequence or DATASET_MEAN in (a.sequence, b.sequence):
                said |= dict.fromkeys(check_comparable(a, b, report.force))
                said |= dict.fromkeys(not_stated(a, b))
        base, test = (points(records, metric) for records in (one, two))
        result = bd_rate(base, test, report.method, names)
    except (NotComparable, DifferentConditions) as reason:
        return Cell(None, str(reason))
    notes = [FEW_SHARED] if result.overlap < SMALL_OVERLAP else []
    means = [c.name for c, r in zip(both, (one, two), strict=True) if r[0].sequence == DATASET_MEAN]
    if sequence == WHOLE:
        measured = report.sets[dataset] if only is None else only
        if part := part_of(dataset, measured, report.whole[dataset]) if measured else "":
            notes.insert(0, part)
    if means and report.sets[dataset]:
        notes.append(
            f"{' and '.join(dict.fromkeys(means))} on {dataset}: known as a mean only; that it is "
            "of the same sequences is not checked"
        )
    quality = bd_quality(base, test, report.method)
    return Cell(result.percent, "; ".join(notes), result, quality=quality, conditions=tuple(said))


def _common(report: Report, codec: CodecResults, dataset: str) -> list[str] | None:
    """Where a class curve of a part is forced: the sequences that the anchor has, too."""
    both = (report.anchor, codec)
    if not report.force or any((dataset, DATASET_MEAN) in c.places for c in both):
        return None
    return [s for s in report.sets[dataset] if all((dataset, s) in c.places for c in both)] or None
