"""What records say besides quality: speed, memory, complexity, conditions, versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from cmfr.report.collect import Codec, period
from cmfr.report.comparison import Report, records_in

COMPLEXITY_WORDS = ("kmac", "gmac", "flop", "parameters_m", "params")

UNITS = {
    "parameters_m": "parameters, M",
    "encode_kmac_per_pixel": "encode, kMAC/pixel",
    "decode_kmac_per_pixel": "decode, kMAC/pixel",
}

Line = list[str]


# --- speed, memory, complexity


def speed_table(report: Report) -> tuple[Line, list[Line]]:
    """Head and lines: means over the records of each codec on each data set, the highest memory;
    empty where nothing was measured."""
    parts = list(
        dict.fromkeys(
            (work, part)
            for codec in report.codecs
            for record in records_in(codec, report)
            for work in ("encode", "decode")
            for part in getattr(record.times, f"{work}_parts")
        )
    )
    head = ["codec", "data set", "size", "device", "encode, ms/frame", "encode, frames/s"]
    head += [f"encode {part}, ms/frame" for work, part in parts if work == "encode"]
    head += ["decode, ms/frame", "decode, frames/s"]
    head += [f"decode {part}, ms/frame" for work, part in parts if work == "decode"]
    head += ["peak memory, MiB"]
    lines = []
    for codec in report.codecs:
        for dataset in report.sets:
            records = records_in(codec, report, dataset)
            if not any(r.times.encode or r.times.decode or r.peak_memory for r in records):
                continue
            cells = []
            for work in ("encode", "decode"):
                seconds = _mean(getattr(r.times, work) for r in records)
                cells += [_milliseconds(seconds), f"{1 / seconds:.3g}" if seconds else "-"]
                cells += [
                    _milliseconds(_mean(getattr(r.times, f"{work}_parts").get(p) for r in records))
                    for of, p in parts
                    if of == work
                ]
            memory = max((r.peak_memory or 0 for r in records), default=0)
            sizes = dict.fromkeys(f"{r.width}x{r.height}" for r in records if r.width)
            device = dict.fromkeys(str(r.metadata.get("device", "not stated")) for r in records)
            start = [codec.name, dataset, ", ".join(sizes) or "-", ", ".join(device)]
            lines.append([*start, *cells, f"{memory / 2**20:.0f}" if memory else "-"])
    return _without_empty(head, lines)


def complexity_table(report: Report) -> tuple[Line, list[Line]]:
    """Head and lines of the numbers on parameters and operations in the metadata."""
    found = {
        codec.name: {
            path: value
            for record in records_in(codec, report)[:1]
            for path, value in _leaves(record.metadata)
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            and any(word in path.lower() for word in COMPLEXITY_WORDS)
        }
        for codec in report.codecs
    }  # fmt: skip
    names = list(dict.fromkeys(path for values in found.values() for path in values))
    lines = [
        [codec, *(f"{values[n]:.5g}" if n in values else "-" for n in names)]
        for codec, values in found.items()
        if values
    ]
    titles = [UNITS.get(n.split(".")[-1], n.replace("_", " ")) for n in names]
    return (["codec", *titles], lines) if lines else ([], [])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.4g}"


def _without_empty(head: Line, lines: list[Line]) -> tuple[Line, list[Line]]:
    kept = [i for i in range(len(head)) if any(line[i] != "-" for line in lines)]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def _leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Metadata without its nesting: {"a": {"b": 1}} -> ("a.b", 1)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


# --- conditions and versions


def conditions_table(report: Report) -> tuple[Line, list[Line]]:
    """How each codec was coded and measured: a line per property, a column per codec."""
    properties: dict[str, list[str]] = {}
    for codec in report.codecs:
        records = records_in(codec, report)
        said = [r.conditions for r in records]
        for name, values in {
            "quality measured on": (c.color for c in said),
            "color matrix of RGB": ("-" if c.color == "yuv420" else c.matrix for c in said),
            "color range of RGB": ("-" if c.color == "yuv420" else c.range for c in said),
            "intra period": (period(c.intra_period) for c in said),
            "frames": (c.frames for c in said),
            "rounding before measuring": (c.rounding for c in said),
            "size": (f"{r.width}x{r.height}" if r.width else None for r in records),
            "rates per sequence": Counter((r.dataset, r.sequence) for r in records).values(),
            "note": (c.note or "-" for c in said),
        }.items():
            properties.setdefault(name, []).append(_distinct(values))
    head = ["condition", *(codec.name for codec in report.codecs)]
    return head, [[name, *values] for name, values in properties.items()]


def metadata_of(codec: Codec, report: Report) -> list[tuple[str, str]]:
    """Names and values of the metadata; values that differ between records are listed."""
    found: dict[str, list[Any]] = {}
    for record in records_in(codec, report):
        for key, value in record.metadata.items():
            found.setdefault(key, []).append(value)
    return [(key, _distinct(values)) for key, values in found.items()]


def _distinct(values: Iterable[Any]) -> str:
    texts = list(dict.fromkeys(map(_text, values)))
    shown = ", ".join(texts[:4])
    return (shown if len(texts) <= 4 else f"{shown} and {len(texts) - 4} more") or "-"


def _text(value: Any) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, (Mapping, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
