"""Which codecs a report has, on which sequences, and whether they were measured alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cmfr.evaluation.conditions import DifferentConditions, advice, not_stated, period, said
from cmfr.evaluation.conditions import differences as differences_of
from cmfr.evaluation.published import dataset_name, published, published_names, read_any
from cmfr.evaluation.records import DATASET_MEAN, Record
from cmfr.utils.errors import UserError

PUBLISHED = " (published)"  # behind the name of a codec whose curves come with this package
# Unless others are asked for.
MAIN_METRICS = ("psnr_yuv", "psnr_rgb", "ms_ssim_yuv", "ms_ssim_rgb", "ms_ssim_y")
SHOWN = 3  # of many names or differences in one sentence


@dataclass(frozen=True)
class CodecResults:
    """All records of one codec by (data set, sequence), by rising rate index.

    published: not measured by the reader, but shipped with this package.
    complexity: numbers on parameters and operations, where the records' metadata are not to say
    them.
    parts: numbers on what its parts do, by name.
    """

    name: str
    places: Mapping[tuple[str, str], tuple[Record, ...]]
    published: bool = False
    complexity: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, records: Iterable[Record], complexity: Mapping[str, float] | None = None
    ) -> CodecResults:
        """Of records in any order."""
        places: dict[tuple[str, str], tuple[Record, ...]] = {}
        for record in records:
            place = (record.dataset, record.sequence)
            both = (*places.get(place, ()), record)
            places[place] = tuple(sorted(both, key=lambda r: r.rate_index))
        return cls(name, places, name.endswith(PUBLISHED), complexity or {})

    @property
    def records(self) -> list[Record]:
        return [record for records in self.places.values() for record in records]

    @property
    def provenance(self) -> str:
        """Of published curves: what they are, their source, their condition."""
        if not self.published:
            return ""
        metadata = self.records[0].metadata
        conditions = "; ".join(dict.fromkeys(map(describe, self.records)))
        return f"{metadata['title']}. Source: {metadata['source']}. Condition: {conditions}"


def describe(record: Record) -> str:
    """The conditions of a record in a few words, without its number of frames."""
    conditions = record.conditions
    color = {"rgb": "RGB", "yuv420": "YUV 4:2:0"}[conditions.color]
    if conditions.color == "rgb":
        color += f" (matrix {said(conditions.matrix)}, range {said(conditions.range)})"
    return f"{color}, intra period {period(conditions.intra_period)}"


def some(names: Iterable[str]) -> str:
    """The first few of many names."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


# --- reading


def collect(
    results: Sequence[str | Path],
    anchor: str,
    published_codecs: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> list[CodecResults]:
    """All codecs, the anchor first, the others in the order given. A codec of which two files have
    one point, or are of different weights, gets the files' names behind its own; data sets keep
    their first spelling.

    anchor: a codec of the results, a results file of one codec, or a published codec.
    options: see published.read_any.

    Raises FileNotFoundError, ValueError.
    """
    by_file: dict[Path, list[Record]] = {}
    for path in map(Path, results):
        if path.resolve() not in by_file:
            by_file[path.resolve()] = _read(path, options)
    alone = Path(anchor)
    if alone.is_file() and anchor not in {r.codec for read in by_file.values() for r in read}:
        by_file.setdefault(alone.resolve(), _read(alone, options))
        names = list(dict.fromkeys(r.codec for r in by_file[alone.resolve()]))
        if len(names) != 1:
            raise UserError(f"{alone} holds several codecs, {some(names)}: name one as the anchor")
    _tell_apart(by_file)
    records_of: dict[str, list[Record]] = {}
    spelled: dict[str, str] = {}
    for record in (record for read in by_file.values() for record in read):
        name = spelled.setdefault(dataset_name(record.dataset), record.dataset)
        records_of.setdefault(record.codec, []).append(replace(record, dataset=name))
    for name in published_codecs:
        _add_published(records_of, name)
    if anchor not in records_of:
        if alone.resolve() in by_file:
            anchor = by_file[alone.resolve()][0].codec
        elif anchor in published_names():
            anchor = _add_published(records_of, anchor)
        else:
            known = some(records_of) if records_of else "none"
            raise UserError(
                f"the anchor {anchor!r} is no codec of the results (they have {known}), no file "
                f"and no published codec (those are {', '.join(published_names())})"
            )
    order = sorted(records_of, key=lambda name: name != anchor)
    return [CodecResults.of(name, records_of[name]) for name in order]


def _read(path: Path, options: Mapping[str, Any] | None) -> list[Record]:
    """The records of a file. Raises FileNotFoundError, ValueError."""
    records = read_any(path, **(options or {}))
    if not records:
        raise UserError(f"{path} holds no results")
    held = Counter(map(_place, records))
    for r in records:
        if r.codec.endswith(PUBLISHED):
            raise UserError(f"{path}: a codec called {r.codec!r} would be taken for others'")
        if held[_place(r)] > 1:
            raise UserError(
                f"{path}: {r.codec} on {r.dataset}/{r.sequence} is there twice at rate index "
                f"{r.rate_index}"
            )
    return records


def _place(record: Record) -> tuple[str, str, str, int]:
    return record.codec, dataset_name(record.dataset), record.sequence, record.rate_index


def _tell_apart(by_file: dict[Path, list[Record]]) -> None:
    """Rename codecs of which two files have one point, or are of different weights. Raises
    ValueError where the files' names do not tell them apart."""
    every = [r for records in by_file.values() for r in records]
    twice = {place[0] for place, number in Counter(map(_place, every)).items() if number > 1}
    weights = {(r.codec, r.metadata["weights_id"]) for r in every if "weights_id" in r.metadata}
    twice |= {codec for codec, number in Counter(c for c, _ in weights).items() if number > 1}
    named: dict[str, Path] = {}
    for path, records in by_file.items():
        for i, r in enumerate(records):
            if r.codec in twice:
                name = f"{r.codec} ({path.stem})"
                if named.setdefault(name, path) != path:
                    raise UserError(f"two files give results of {name}: give them different names")
                records[i] = replace(r, codec=name)


def _add_published(found: dict[str, list[Record]], name: str) -> str:
    shown = f"{name}{PUBLISHED}"
    if shown not in found:
        spelled = {
            dataset_name(r.dataset): r.dataset for records in found.values() for r in records
        }
        found[shown] = [
            replace(r, codec=shown, dataset=spelled.get(r.dataset, r.dataset))
            for r in published(name)
        ]
    return shown


# --- what is compared


def scope(codecs: Sequence[CodecResults]) -> dict[str, tuple[str, ...]]:
    """The data sets of the report and their sequences; none where only the mean is known.

    They are those of the reader's own codecs: the anchor, which is the first, and published curves
    are restricted to them, so that all numbers of a column are over the same sequences.
    """
    others = [codec for codec in codecs[1:] if codec.places]
    own = [codec for codec in others if not codec.published]
    known = {dataset for dataset, _ in codecs[0].places}
    sets: dict[str, dict[str, None]] = {}
    for codec in own or others or codecs:
        for dataset, sequence in codec.places:
            if not own and dataset not in known:
                continue
            names = sets.setdefault(dataset, {})
            if sequence != DATASET_MEAN:
                names[sequence] = None
    return {dataset: tuple(names) for dataset, names in sets.items()}


def differences(codecs: Sequence[CodecResults], sets: Mapping[str, Sequence[str]]) -> list[str]:
    """Every difference of conditions from the first codec, the anchor, with where it is.

    Where the anchor is not measured the next codec stands in for it.
    """
    places_of: dict[str, dict[str, None]] = {}
    for place, reference, record in _pairs(codecs, sets):
        for difference in differences_of(reference, record):
            places_of.setdefault(difference, {})[place] = None
    return [f"{difference} on {some(places)}" for difference, places in places_of.items()]


def unstated(codecs: Sequence[CodecResults], sets: Mapping[str, Sequence[str]]) -> list[str]:
    """What is to be known of comparisons that are allowed: conditions that someone leaves open."""
    pairs = _pairs(codecs, sets)
    return list(dict.fromkeys(note for _, a, b in pairs for note in not_stated(a, b)))


def _pairs(
    codecs: Sequence[CodecResults], sets: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Record, Record]]:
    """A place in words, what is compared with there, and each record that is."""
    for dataset, sequences in sets.items():
        for codec in codecs:
            have = [s for s in sequences if (dataset, s) in codec.places]
            for sequence in have or [DATASET_MEAN]:
                for record in codec.places.get((dataset, sequence), ()):
                    reference = _reference(codecs, dataset, sequence)
                    yield f"{dataset}/{sequence}", reference, record


def _reference(codecs: Sequence[CodecResults], dataset: str, sequence: str) -> Record:
    """What a sequence is compared with: the same, or the mean of the set; for a mean anything."""
    for codec in codecs:
        for place, records in codec.places.items():
            if place in ((dataset, sequence), (dataset, DATASET_MEAN)) or (
                sequence == DATASET_MEAN and place[0] == dataset
            ):
                return records[0]
    raise LookupError(f"nothing on {dataset}/{sequence}")


def refuse(codecs: Sequence[CodecResults], sets: Mapping[str, Sequence[str]]) -> None:
    """Raises DifferentConditions if there are differences."""
    if differing := differences(codecs, sets):
        more = f"; and {len(differing) - SHOWN} more differences" if len(differing) > SHOWN else ""
        hints = (advice(a, b) for _, a, b in _pairs(codecs, sets) if differences_of(a, b))
        raise DifferentConditions(
            f"the results were not measured alike: {'; '.join(differing[:SHOWN])}{more}"
            f"{next(filter(None, hints), '')} (--force compares them all the same)"
        )


# --- metrics


def split_metric(metric: str) -> tuple[str, bool]:
    """The metric's name in the records, and whether it is shown in dB: "ms_ssim_rgb_db"."""
    name = metric.removesuffix("_db")
    if name != metric and not name.startswith("ms_ssim"):
        raise UserError(f"{metric}: only MS-SSIM can be asked for in dB")
    return name, name != metric


def metric_title(metric: str) -> str:
    """ "psnr_yuv" -> "PSNR-YUV (6:1:1), dB"."""
    name, db = split_metric(metric)
    parts = {"yuv": "YUV (6:1:1)", "yuv_411": "YUV (4:1:1)"}
    for kind, shown, unit in (("psnr_", "PSNR", "dB"), ("ms_ssim_", "MS-SSIM", "linear")):
        if name.startswith(kind):
            part = name.removeprefix(kind)
            unit = "dB, -10 log10(1 - x)" if db else unit
            return f"{shown}-{parts.get(part, part.upper())}, {unit}"
    return metric


def choose_metrics(asked: Sequence[str], codecs: Sequence[CodecResults]) -> list[str]:
    """What was asked for, or what all codecs have. Raises ValueError for what no codec has."""
    known = {c.name: _metrics(c) for c in codecs}
    anywhere = list(dict.fromkeys(name for names in known.values() for name in names))
    for metric in asked:
        if split_metric(metric)[0] not in anywhere:
            raise UserError(f"no codec has {metric}, only {', '.join(anywhere)}")
    if asked:
        return list(dict.fromkeys(asked))
    common = [m for m in anywhere if all(m in names for names in known.values())]
    if not common:
        each = "; ".join(f"{name} has {', '.join(names)}" for name, names in known.items())
        raise UserError(f"no metric is known for all codecs, so give --metric: {each}")
    return [m for m in MAIN_METRICS if m in common] or common[:1]


def _metrics(codec: CodecResults) -> list[str]:
    """The metrics that a codec has somewhere: MS-SSIM is not known of small pictures."""
    return list(dict.fromkeys(name for r in codec.records for name in r.average().quality))
