"""What records say besides quality: speed, memory, complexity, conditions, versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cmfr.evaluation.records import Json, load_json, malformed
from cmfr.report.collect import CodecResults, period
from cmfr.report.comparison import Report, records_in
from cmfr.utils.errors import UserError

COMPLEXITY_WORDS = ("kmac", "gmac", "flop", "parameters_m", "params")

UNITS = {
    "parameters_m": "parameters, M",
    "encode_kmac_per_pixel": "encode, kMAC/pixel",
    "decode_kmac_per_pixel": "decode, kMAC/pixel",
}

Line = list[str]


# --- speed: of `cmfr bench` alone, where all is measured in one run


def read_bench(path: Path) -> Json:
    """A file of `cmfr bench --json`. Raises FileNotFoundError, ValueError."""
    bench: Json = load_json(path)
    with malformed(path, "no file of cmfr bench --json"):
        bench_table(bench)
        bench_conditions(bench)
        if not bench["speed"]:
            raise UserError("it has complexity only")
    return bench


def bench_table(bench: Json) -> tuple[Line, list[Line]]:
    """Head and lines: a model's I- and P-frames each."""
    head = ["model", "frame", "encode, frames/s", "decode, frames/s", "peak memory, MiB"]
    lines = []
    for row in bench["speed"]:
        numbers = [f"{row[n]:.3g}" for n in ("encode_fps", "decode_fps")]
        numbers.append("-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        lines.append([str(row["model"]), f"{row['frame']} {row['size']}", *numbers])
    return head, lines


def bench_conditions(bench: Json) -> str:
    made, used = bench["versions"], bench["run"]
    where = made["machine"] if made["gpu"] == "none" else made["gpu"]
    return (
        f"{used['frames']} frames at quality {used['quality']} on {used['device']} ({where}), "
        f"{used['threads']} threads, torch {made['torch']}, git {made['git']}"
    )


# --- complexity, memory


def complexity_table(report: Report) -> tuple[Line, list[Line]]:
    """Head and lines of the numbers on parameters and operations (the codec's, or those in the
    metadata), and the highest peak memory of the records."""
    found = {
        codec.name: codec.complexity
        or {
            path: value
            for record in records_in(codec, report)[:1]
            for path, value in _leaves(record.metadata)
            if isinstance(value, (int, float))
            and not isinstance(value, bool)
            and any(word in path.lower() for word in COMPLEXITY_WORDS)
        }
        for codec in report.codecs
    }
    names = list(dict.fromkeys(path for values in found.values() for path in values))
    lines = []
    for codec in report.codecs:
        values, records = found[codec.name], records_in(codec, report)
        memory = max((r.peak_memory or 0 for r in records), default=0)
        if values or memory:
            device = dict.fromkeys(str(r.metadata.get("device", "not stated")) for r in records)
            shown = [f"{values[n]:.5g}" if n in values else "-" for n in names]
            last = [f"{memory / 2**20:.0f} ({', '.join(device)})" if memory else "-"]
            lines.append([codec.name, *shown, *last])
    titles = [UNITS.get(n.split(".")[-1], n.replace("_", " ")) for n in names]
    head = ["codec", *titles, "peak memory of evaluation, MiB"]
    return _without_empty(head, lines) if lines else ([], [])


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
            "chroma of 4:2:0 in RGB": (
                "-" if c.color == "yuv420" or c.matrix == "rgb" else c.chroma for c in said
            ),
            "size": (f"{r.width}x{r.height}" if r.width else None for r in records),
            "rates per sequence": Counter((r.dataset, r.sequence) for r in records).values(),
            "note": (c.note or "-" for c in said),
        }.items():
            properties.setdefault(name, []).append(_distinct(values))
    head = ["condition", *(codec.name for codec in report.codecs)]
    return head, [[name, *values] for name, values in properties.items()]


def metadata_of(codec: CodecResults, report: Report) -> list[tuple[str, str]]:
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
