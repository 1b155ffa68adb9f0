"""`cmfr bdrate`: BD-rates of codecs against an anchor, by sequence and of whole data sets, as text.

Imports no torch: results of others are compared on any machine.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from cmfr.evaluation.bd_rate import (
    SMALL_OVERLAP,
    Method,
    bd_rate,
    mean_bd_rate,
    small_overlap,
)
from cmfr.evaluation.conditions import check_comparable, not_stated
from cmfr.evaluation.published import dataset_name, published, published_names, read_any
from cmfr.evaluation.records import DATASET_MEAN, Point, Record, class_curve
from cmfr.evaluation.whole_sets import part_of, whole_set
from cmfr.utils.errors import UserError

MEAN, CLASS = "mean of sequences", "class curve"


@dataclass(frozen=True)
class Row:
    """One BD-rate or the reason why there is none. sequence: its name, MEAN or CLASS.

    bd_rate: percent of bits; bd_quality: in the metric's unit; overlap: the common part (0..1) of
    the shorter curve's quality range.
    """

    dataset: str
    codec: str
    sequence: str
    bd_rate: float | None = None
    bd_quality: float | None = None
    overlap: float | None = None
    note: str = ""


def read_codecs(files: Sequence[Path], options: dict) -> dict[str, list[Record]]:
    """Records by codec; a codec that several files have gets the file's name behind its own."""
    found: dict[tuple[str, Path], list[Record]] = {}
    for path in files:
        for record in read_any(path, **options):
            found.setdefault((record.codec, path), []).append(record)
    names = [codec for codec, _ in found]
    codecs: dict[str, list[Record]] = {}
    for (codec, path), records in found.items():
        name = f"{codec} ({path.stem})" if names.count(codec) > 1 else codec
        if name in codecs:
            raise UserError(f"two files give results of {name}: give files of different names")
        codecs[name] = [replace(record, codec=name) for record in records]
    return codecs


def find_anchor(name: str, codecs: dict[str, list[Record]], options: dict) -> list[Record]:
    """The records of a codec of the files, of a published one, or of a file of one codec.

    Raises ValueError with the names that there are.
    """
    if name in codecs:
        return codecs[name]
    if name in published_names():
        return published(name)
    if Path(name).is_file():
        records = read_any(name, **options)
        if len(held := sorted({record.codec for record in records})) > 1:
            raise UserError(f"{name} has several codecs ({', '.join(held)}), so name one")
        return records
    raise UserError(
        f"no anchor {name!r}: it is no file, none of the codecs {', '.join(codecs)}, and not "
        f"published ({', '.join(published_names())})"
    )


@dataclass(frozen=True)
class Rule:
    """How BD-rates are computed: of `metric` (db: MS-SSIM in dB), by `method`; force: across
    unequal conditions too, and of parts of data sets."""

    metric: str
    db: bool = False
    method: Method = "pchip"
    force: bool = False


def bd_rates(anchor: Sequence[Record], tested: Sequence[Record], rule: Rule) -> list[Row]:
    """Of one codec against another, by data set: every sequence of the set, the mean of those that
    have a number, and the curve of the class. Reasons stand in place of what is refused.

    A class curve needs all sequences of the set on both sides, unless forced: then it is of those
    that both have. A published figure of a whole set is compared with the class curve alone.
    Raises ValueError if no data set is common to the two.
    """
    codec, rows = tested[0].codec, []
    for dataset in dict.fromkeys(record.dataset for record in tested):
        bases, others = (_by_sequence(side, dataset) for side in (anchor, tested))
        mean_only = DATASET_MEAN in bases or DATASET_MEAN in others
        common = [name for name in others if name in bases and name != DATASET_MEAN]
        if not bases or not (common or mean_only):
            continue
        names = whole_set(dataset, [*anchor, *tested])
        sides = {anchor[0].codec: bases, codec: others}
        here = [_sequence_row(Row(dataset, codec, n), sides, rule) for n in names if common]
        rows += [*here, *_mean(here), _class_row(Row(dataset, codec, CLASS), sides, names, rule)]
    if not rows:
        there, here_ = (", ".join(dict.fromkeys(r.dataset for r in s)) for s in (anchor, tested))
        raise UserError(
            f"{codec} ({here_}) and {anchor[0].codec} ({there}) have no sequence in common"
        )
    return rows


Sides = Mapping[str, Mapping[str, list[Record]]]  # by codec (the anchor first) and sequence


def _by_sequence(records: Sequence[Record], dataset: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        if dataset_name(record.dataset) == dataset_name(dataset):
            found.setdefault(record.sequence, []).append(record)
    return found


def _sequence_row(row: Row, sides: Sides, rule: Rule) -> Row:
    missing = [codec for codec, found in sides.items() if row.sequence not in found]
    if missing:
        return replace(row, note=f"not measured for {' and '.join(missing)}")
    one, two = (found[row.sequence] for found in sides.values())
    return _row(row, one, two, rule)


def _mean(rows: Sequence[Row]) -> list[Row]:
    """Of the sequences that have a number; nothing where none has."""
    mean = mean_bd_rate({row.sequence: row.bd_rate for row in rows})
    if mean.percent is None:
        return []
    quality = mean_bd_rate({r.sequence: r.bd_quality for r in rows if r.bd_rate is not None})
    gain = quality.percent if not quality.left_out else None
    note = f"over {mean.over} sequences"
    return [Row(rows[0].dataset, rows[0].codec, MEAN, mean.percent, gain, note=note)]


def _class_row(row: Row, sides: Sides, names: Sequence[str], rule: Rule) -> Row:
    """Over the whole set. A side that is known as a mean only stands for all of it."""
    measured = {
        codec: [name for name in names if name in found or DATASET_MEAN in found]
        for codec, found in sides.items()
    }
    common = [name for name in names if all(name in found for found in measured.values())]
    parts = [
        f"{codec} has {part}"
        for codec, found in measured.items()
        if (part := part_of(row.dataset, found, names))
    ]
    if parts and not rule.force:
        note = f"{' and '.join(parts)}; a class curve needs all of them (--force takes those)"
        return replace(row, note=note)
    one, two = (
        list(found[DATASET_MEAN]) if DATASET_MEAN in found
        else [record for name in common for record in found.get(name, [])]
        for found in sides.values()
    )  # fmt: skip
    done = _row(row, one, two, rule)
    said = [part for part in (part_of(row.dataset, common, names), done.note) if part]
    return replace(done, note="; ".join(said))


def _row(row: Row, anchor: list[Record], tested: list[Record], rule: Rule) -> Row:
    """With numbers, or with the reason why there are none."""
    try:
        said: dict[str, None] = {}
        for base, other in product(anchor, tested):
            if base.sequence == other.sequence or DATASET_MEAN in (base.sequence, other.sequence):
                said |= dict.fromkeys(check_comparable(base, other, rule.force))
                said |= dict.fromkeys(not_stated(base, other))
        one, two = (class_curve(side, rule.metric, rule.db) for side in (anchor, tested))
        place = row.dataset if row.sequence == CLASS else row.sequence
        names = (f"{anchor[0].codec} on {place}", f"{row.codec} on {place}")
        result = bd_rate(one, two, rule.method, names)
    except ValueError as reason:  # NotComparable, DifferentConditions, a metric that is not there
        return replace(row, note=str(reason))
    if result.overlap < SMALL_OVERLAP:
        said[small_overlap(result)] = None
    return replace(
        row, bd_rate=result.percent, bd_quality=_bd_quality(one, two, rule.method),
        overlap=result.overlap, note="; ".join(said),
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
    width = max(38, *(len(row.sequence) for row in rows)) + 2
    lines = [f"{'':{width}}{'BD-rate %':>10}{'BD-quality':>12}{'overlap %':>11}"]
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is None or (previous.dataset, previous.codec) != (row.dataset, row.codec):
            lines.append(f"{row.codec} on {row.dataset}")
        cells = [
            "-" if row.bd_rate is None else f"{row.bd_rate:+.2f}",
            "-" if row.bd_quality is None else f"{row.bd_quality:+.4f}",
            "-" if row.overlap is None else f"{100 * row.overlap:.0f}",
        ]
        line = f"  {row.sequence:{width - 2}}{cells[0]:>10}{cells[1]:>12}{cells[2]:>11}  {row.note}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def comma_separated(tables: Sequence[tuple[Mapping[str, str], Sequence[Row]]]) -> str:
    """Tables with full precision; before the rows of each, columns whose value is that of all."""
    text = io.StringIO()
    same, rows = tables[0]
    writer = csv.DictWriter(text, [*same, *asdict(rows[0])], lineterminator="\n")
    writer.writeheader()
    for same, rows in tables:
        writer.writerows({**same, **asdict(row)} for row in rows)
    return text.getvalue()
