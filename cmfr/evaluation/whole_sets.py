"""Which sequences a data set has, so that a part of it is never taken for the whole."""

from __future__ import annotations

from collections.abc import Iterable

from cmfr.evaluation.published import dataset_name
from cmfr.evaluation.records import DATASET_MEAN, Record


def whole_set(dataset: str, records: Iterable[Record]) -> tuple[str, ...]:
    """Names of all sequences of a data set, in its order: what the records state; else those of the
    shipped test set of that name, where it has all that are measured; else all that are measured.
    """
    here = [r for r in records if dataset_name(r.dataset) == dataset_name(dataset)]
    stated = [name for record in here for name in record.set_sequences]
    measured = [r.sequence for r in here if r.sequence != DATASET_MEAN]
    if not stated:
        shipped = _shipped(dataset_name(dataset))
        stated = shipped if set(measured) <= set(shipped) else []
    return tuple(dict.fromkeys([*stated, *measured]))


def part_of(dataset: str, names: Iterable[str], whole: Iterable[str]) -> str:
    """ "1 of 4 sequences of hevc_d"; empty where all are there."""
    there, all_names = set(names), list(whole)
    if there >= set(all_names):
        return ""
    return f"{len(there & set(all_names))} of {len(all_names)} sequences of {dataset}"


def _shipped(dataset: str) -> list[str]:
    from cmfr.evaluation.sequences import load_test_set  # it imports the video libraries

    try:
        return [sequence.name for sequence in load_test_set(dataset).sequences]
    except (ValueError, OSError):
        return []
