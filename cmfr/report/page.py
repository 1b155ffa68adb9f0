"""The page: tables as HTML, curves as data for the script beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cmfr import __version__
from cmfr.evaluation.records import Record
from cmfr.report.collect import CodecResults, metric_title, split_metric
from cmfr.report.comparison import WHOLE, Report, drawable
from cmfr.report.speed import (
    bench_conditions,
    bench_table,
    complexity_table,
    conditions_table,
    metadata_of,
)
from cmfr.report.tables import (
    KIND_MEANING,
    KINDS,
    Entry,
    Sheet,
    by_sequence,
    measured_on,
    parts_sheet,
    summary,
)

HERE = Path(__file__).parent
LONG = 100  # characters; longer metadata is folded


def page(report: Report, files: Sequence[str]) -> str:
    """The whole page.

    files: the names beside it to link to.
    """
    data = _data(report)
    sections = {"frames": _frames(data), "speed": _speed(report)}
    names = {"curves": "Curves", "bd": "BD-rate"}
    names |= {"drift-section": "Frame by frame"} if sections["frames"] else {}
    names |= {"speed": "Complexity and speed"} if sections["speed"] else {}
    names |= {"conditions": "Conditions", "files": "Files"}
    parts = {
        "title": escape(report.title),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "script": (HERE / "page.js").read_text(encoding="utf-8"),
        "anchor": escape(report.anchor.name),
        "subtitle": escape(_subtitle(report)),
        "warning": _warning(report),
        "nav": "".join(f'<a href="#{place}">{name}</a>' for place, name in names.items()),
        "metrics": "".join(
            f'<option value="{escape(m)}">{escape(metric_title(m))}</option>'
            for m in report.metrics
        ),
        "bd": _bd(report),
        "conditions": _conditions(report),
        "files": _files(files),
        "version": escape(__version__),
        "data": _script_json(data),
        **sections,
    }
    text = (HERE / "page.html").read_text(encoding="utf-8")
    pieces = text.split("{{")  # one pass: what is filled in is never searched for marks
    return pieces[0] + "".join(
        parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:])
    )


def _subtitle(report: Report) -> str:
    count = sum(max(1, len(sequences)) for sequences in report.sets.values())
    parts = [part for dataset in report.sets if (part := report.part(dataset))]
    only = f" (only {' and '.join(parts)})" if parts else ""
    return (
        f"{len(report.codecs)} codecs, {len(report.sets)} data set{'s' * (len(report.sets) > 1)}, "
        f"{count} sequence{'s' * (count > 1)}{only}; BD-rate by {report.method} interpolation, "
        f"negative where fewer bits than the anchor's are needed."
    )


def _warning(report: Report) -> str:
    if not report.differences:
        return ""
    found = "".join(f"<li>{escape(text)}</li>" for text in report.differences)
    return (
        '<div class="warning" role="alert"><b>These results were not measured alike; they are '
        f"compared because --force was given.</b><ul>{found}</ul></div>"
    )


# --- BD-rates


def _bd(report: Report) -> str:
    parts = [
        "<p>"
        + " ".join(
            f"<b>{escape(KINDS[k].capitalize())}</b>: {escape(KIND_MEANING[k])}." for k in KINDS
        ),
        "Point at a number for the quality range it was averaged over, at a mean for how many "
        "numbers it is over. n/a: see the note below the table.</p>",
    ]
    for metric in report.metrics:
        parts.append(f'<div data-metric="{escape(metric)}"{_hidden(metric, report)}>')
        parts += [_sheet(summary(report, metric, kind)) for kind in KINDS]
        for dataset in report.sets:
            sheet = _sheet(by_sequence(report, metric, dataset))
            parts.append(
                f"<details><summary>{escape(report.head(dataset))} by sequence</summary>{sheet}"
                "</details>"
            )
        parts.append("</div>")
    return "\n".join(parts)


def _hidden(metric: str, report: Report) -> str:
    return "" if metric == report.metrics[0] else " hidden"


def _sheet(sheet: Sheet) -> str:
    lines = [
        f'<tr><th scope="row">{escape(row.name)}{_sup(row.mark)}</th>'
        + "".join(f"<td>{_entry(entry)}</td>" for entry in row.entries)
        + "</tr>"
        for row in sheet.rows
    ]
    notes = [f"<li>({number}) {escape(text)}.</li>" for number, text in enumerate(sheet.notes, 1)]
    notes += [
        f"<li>{mark} published, not measured here: see "
        '<a href="#conditions">test conditions</a></li>'
        for mark in dict.fromkeys(mark for mark, _ in sheet.marks)
    ]
    notes += [f"<li><b>{escape(text)}.</b></li>" for text in sheet.warnings]
    below = f'<ul class="notes">{"".join(notes)}</ul>' if notes else ""
    return _table(sheet.head, lines, sheet.caption) + below


def _entry(entry: Entry) -> str:
    text = escape(entry.text.replace("-", "\N{MINUS SIGN}"))
    if entry.hint:
        hint = escape(entry.hint)
        text = f'<span tabindex="0" data-tip="{hint}" aria-label="{text}: {hint}">{text}</span>'
    return text + (_sup(str(entry.note)) if entry.note else "")


def _sup(mark: str) -> str:
    return f"<sup>{escape(mark)}</sup>" if mark else ""


def _table(head: Sequence[str], lines: Iterable[str], caption: str, kind: str = "") -> str:
    """lines: rows as HTML."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    text = escape(caption)
    return (
        f'<p class="caption">{text}</p><div class="scroll" tabindex="0" role="group" '
        f'aria-label="{text}"><table{kind}><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _text_rows(lines: Iterable[Sequence[str]]) -> Iterator[str]:
    for first, *rest in lines:
        cells = "".join(f"<td>{escape(text)}</td>" for text in rest)
        yield f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'


# --- the other sections


def _frames(data: dict[str, Any]) -> str:
    if not data["frames"]:
        return ""
    return (
        '<section id="drift-section"><h2>Quality frame by frame</h2><p class="hint">One rate of '
        "each codec; rate indices count from the lowest rate and need not be alike. Markers: "
        'I-frames.</p><div id="drift"></div></section>'
    )


def _speed(report: Report) -> str:
    parts = []
    for bench in report.benches:
        head, lines = bench_table(bench)
        parts.append(_table(head, _text_rows(lines), f"Speed: {bench_conditions(bench)}"))
    if parts:
        parts.append(
            '<p class="hint">By <code>cmfr bench</code>, real bitstreams, no files; the rows of a '
            "table were measured in one run, those of different machines do not compare.</p>"
        )
    head, lines = complexity_table(report)
    if lines:
        parts.append(_table(head, _text_rows(lines), "Complexity, as the records state it"))
    if (sheet := parts_sheet(report)).rows:
        parts.append(_sheet(sheet))
    if not parts:
        return ""
    return f'<section id="speed"><h2>Complexity and speed</h2>{"".join(parts)}</section>'


def _conditions(report: Report) -> str:
    head, lines = conditions_table(report)
    parts = [_table(head, _text_rows(lines), "Conditions", ' class="words"')]
    if report.notes:
        parts.append(f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in report.notes)}</ul>")
    for codec in report.codecs:
        here = " Not measured here, but taken from its source." if codec.published else ""
        parts.append(f"<h3>{escape(codec.name)}</h3>")
        parts.append(f"<p>{escape(measured_on(codec, report))}.{here}</p>")
        parts.append(_metadata(codec, report))
    if report.printed:
        parts.append(
            f"<h3>Published table of BD-rates</h3><p>Against its own "
            f"{escape(report.printed['anchor'])}. {escape(report.printed['source'])}. "
            f"{escape(report.printed['note'])}</p>"
        )
    return "\n".join(parts)


def _metadata(codec: CodecResults, report: Report) -> str:
    found = metadata_of(codec, report)
    if not found:
        return '<p class="hint">The records have no metadata.</p>'
    items = []
    for key, value in found:
        text = escape(value)
        if len(value) > LONG and not codec.published:
            text = f"<details><summary>{escape(value[:40])}…</summary>{text}</details>"
        items.append(f"<dt>{escape(key)}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _files(files: Sequence[str]) -> str:
    plots = [name for name in files if name.endswith(".png")]
    others = [name for name in files if not name.endswith((".png", ".svg"))]
    items = [f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in others]
    drawn = [
        f'<li>{escape(name[:-4])}: <a href="{escape(name)}">png</a> '
        f'<a href="{escape(name[:-4])}.svg">svg</a></li>'
        for name in plots
    ]
    return (
        f"<ul>{''.join(items)}</ul><details><summary>{len(plots)} plots</summary>"
        f"<ul>{''.join(drawn)}</ul></details>"
    )


# --- data for the script


def _script_json(data: dict[str, Any]) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(report: Report) -> dict[str, Any]:
    return {
        "metrics": [{"name": m, "title": metric_title(m)} for m in report.metrics],
        "codecs": [{"name": c.name, "published": c.published} for c in report.codecs],
        "sets": [
            {"name": dataset, "title": report.head(dataset), "views": _views(report, dataset)}
            for dataset in report.sets
        ],
        "frames": [
            view
            for dataset, sequences in report.sets.items()
            for sequence in sequences
            if (view := _frame_view(report, dataset, sequence))["rates"]
        ],
    }


def _views(report: Report, dataset: str) -> list[dict[str, Any]]:
    """The class curve, where there is one, and the sequences."""
    views = [_view(report, dataset, s) for s in (WHOLE, *report.sets[dataset])]
    drawn = any(curve for curves in views[0]["curves"].values() for curve in curves)
    return views if drawn or not views[1:] else views[1:]


def _view(report: Report, dataset: str, sequence: str) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for metric in report.metrics:
        curves = drawable(report, dataset, sequence, metric)
        found[metric] = [
            [[round(x, 6), round(y, 6), r.label, r.rate_index] for (x, y), r in curves[c.name]]
            if c.name in curves
            else None
            for c in report.codecs
        ]
    whole = f"{report.part(dataset) or 'whole data set'} (class curve)"
    return {"title": sequence or whole, "curves": found}


def _frame_view(report: Report, dataset: str, sequence: str) -> dict[str, Any]:
    """Quality by frame of each codec and rate, where a record has its frames one by one."""
    lines: dict[str, list[Any]] = {}
    rates: set[int] = set()
    for metric in report.metrics:
        name, db = split_metric(metric)
        for codec in report.codecs:
            found = []
            for record in codec.places.get((dataset, sequence), ()):
                if not db and record.frames and all(name in f.quality for f in record.frames):
                    found.append(_frame_line(record, name))
                    rates.add(record.rate_index)
            lines.setdefault(metric, []).append(found or None)
    return {"set": dataset, "sequence": sequence, "rates": sorted(rates), "curves": lines}


def _frame_line(record: Record, name: str) -> dict[str, Any]:
    return {
        "index": record.rate_index,
        "label": record.label,
        "bpp": round(record.bpp, 6),
        "types": "".join(frame.type for frame in record.frames),
        "values": [round(frame.quality[name], 5) for frame in record.frames],
    }
