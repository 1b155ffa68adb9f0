"""BD-rates as papers print them: rows are codecs, columns data sets; Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cmfr.report.collect import CodecResults, describe, metric_title, some
from cmfr.report.comparison import WHOLE, Cell, Report, records_in
from cmfr.report.speed import complexity_table

KINDS = {"whole": "class curve", "mean": "mean of sequences"}
KIND_MEANING = {
    "whole": "one curve per data set: rate and quality averaged over all frames of its sequences",
    "mean": "the mean of the BD-rates of the sequences that have one",
}
TABLE_MARK, PUBLISHED_MARK = "‡", "†"


@dataclass(frozen=True)
class Entry:
    """A cell as text.

    note: the number of its footnote.
    hint: what it was averaged over.
    """

    text: str
    note: int | None = None
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """mark: TABLE_MARK or PUBLISHED_MARK of what was not measured here."""

    name: str
    entries: Sequence[Entry]
    mark: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table ready to be written.

    notes: the footnotes, from 1.
    marks: of TABLE_MARK, ...
    warnings: what must stand beside the numbers wherever they go.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]
    marks: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()

    def narrow(self, corner: str) -> Sheet:
        """The same with what are the fewer as columns; `corner`: the head of the names of today's
        columns."""
        if len(self.head) - 1 <= len(self.rows):
            return self
        rows = [
            Row(name, [row.entries[i] for row in self.rows]) for i, name in enumerate(self.head[1:])
        ]
        return replace(self, head=[corner, *(row.name for row in self.rows)], rows=rows)


class _Notes:
    """Footnotes, each said once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def entry(self, cell: Cell) -> Entry:
        hint, number = "", None
        if cell.result is not None:
            low, high = cell.result.low, cell.result.high
            hint = f"quality {low:.4g}..{high:.4g}, overlap {cell.result.overlap:.0%}"
        elif cell.over:
            hint = f"over {cell.over}"
        if cell.note:
            if cell.note not in self.texts:
                self.texts.append(cell.note)
            number = self.texts.index(cell.note) + 1
            hint = f"{cell.note}; {hint}" if cell.result is not None else cell.note
        return Entry(percent(cell.value), number, hint)


def percent(value: float | None) -> str:
    text = "n/a" if value is None else f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


# --- what stands in the tables


def summary(report: Report, metric: str, kind: str) -> Sheet:
    """Codecs by data sets.

    kind: of KINDS.
    """
    notes, table, rows = _Notes(), report.tables[metric], []
    for codec in report.codecs:
        cells = [
            table.sequences[codec.name, d, WHOLE] if kind == "whole" else table.means[codec.name, d]
            for d in report.sets
        ]
        entries = [notes.entry(cell) for cell in (*cells, table.averages[codec.name, kind])]
        rows.append(Row(codec.name, entries, PUBLISHED_MARK * codec.published))
    marks = [(PUBLISHED_MARK, f"{c.name}: {c.provenance}") for c in report.codecs if c.published]
    if kind == "whole" and metric.startswith("ms_ssim") and report.printed:
        printed = printed_values(report)
        for name, values in printed.items():
            texts = [Entry("-" if v is None else percent(v)) for v in (*values, None)]
            rows.append(Row(name, texts, TABLE_MARK))
        marks.append((TABLE_MARK, f"published BD-rates, {printed_source(report)}"))
    caption = f"BD-rate in percent of bits against {report.anchor.name}; {metric_title(metric)}; "
    head = ["codec", *map(report.head, report.sets), "average"]
    return Sheet(caption + KINDS[kind], head, rows, notes.texts, marks, warnings(report))


def by_sequence(report: Report, metric: str, dataset: str) -> Sheet:
    """The sequences of a data set by codecs, then their mean and the class curve; the other way
    round where there are more codecs."""
    notes, table = _Notes(), report.tables[metric]
    rows = [
        Row(name, [notes.entry(table.sequences[c.name, dataset, name]) for c in report.codecs])
        for name in report.sets[dataset]
    ]
    means = [notes.entry(table.means[c.name, dataset]) for c in report.codecs]
    whole = [notes.entry(table.sequences[c.name, dataset, WHOLE]) for c in report.codecs]
    rows += [Row(KINDS["mean"], means)] * bool(rows) + [Row(KINDS["whole"], whole)]
    caption = f"{report.head(dataset)}: BD-rate in percent of bits against {report.anchor.name}"
    head = ["sequence", *(codec.name for codec in report.codecs)]
    caption = f"{caption}; {metric_title(metric)}"
    return Sheet(caption, head, rows, notes.texts, warnings=warnings(report)).narrow("codec")


def warnings(report: Report) -> list[str]:
    """What every table and plot of the report has to say."""
    return [f"COMPARED IN SPITE OF A DIFFERENCE: {found}" for found in report.differences]


def printed_values(report: Report) -> dict[str, list[float | None]]:
    """The published table's BD-rates by codec, for each data set of the report."""
    if report.printed is None:
        return {}
    columns = report.printed["datasets"]
    return {
        name: [values[columns.index(d)] if d in columns else None for d in report.sets]
        for name, values in report.printed["bd_rate_percent"].items()
    }


def printed_source(report: Report) -> str:
    table = report.printed or {}
    return (
        f"against that source's own {table['anchor']}. Source: {table['source']}. {table['note']}"
    )


def statements(report: Report) -> list[str]:
    """What is to be known of all numbers, a sentence each."""
    sizes = [
        report.head(name)
        if report.part(name)
        else f"{name} ({len(found)} sequence{'s' * (len(found) > 1)})"
        if found
        else f"{name} (mean)"
        for name, found in report.sets.items()
    ]
    said = [
        f"BD-rate: percent of bits against {report.anchor.name} at equal quality, negative where "
        f"fewer; {report.method} interpolation of log rate over quality, never extrapolated.",
        *(f"{KINDS[kind].capitalize()}: {meaning}." for kind, meaning in KIND_MEANING.items()),
        f"Data sets: {', '.join(sizes)}. All codecs are restricted to these sequences.",
    ]
    said += [f"{codec.name}: {measured_on(codec, report)}." for codec in report.codecs]
    said += [f"{text[0].upper()}{text[1:]}." for text in report.unstated]
    said += report.notes
    return said + [f"{text}." for text in warnings(report)]


def measured_on(codec: CodecResults, report: Report) -> str:
    """The conditions of the records of a codec that are in the report."""
    records = records_in(codec, report)
    if not records:
        return "not measured on these data sets"
    frames = sorted({r.conditions.frames or r.average().frames for r in records})
    said = "; ".join(dict.fromkeys(map(describe, records)))
    return f"{said}; frames: {some(map(str, frames))}"


# --- as text


def markdown(report: Report) -> str:
    parts = [f"# {_plain(report.title)}\n"]
    parts.append("".join(f"- {_plain(text)}\n" for text in statements(report)))
    parts += [_markdown_sheet(sheet) for sheet in _sheets(report)]
    notes = {c.name: c.records[0].metadata["note"] for c in report.codecs if c.published}
    if notes:
        lines = (f"- {_plain(f'{name}: {note}')}\n" for name, note in notes.items())
        parts.append(f"## Published curves\n\n{''.join(lines)}")
    return "\n".join(parts)


def _sheets(report: Report) -> Iterable[Sheet]:
    """The summaries; of a detailed report all tables."""
    for metric in report.metrics:
        yield from (summary(report, metric, kind) for kind in KINDS)
        if report.detailed:
            yield from (by_sequence(report, metric, dataset) for dataset in report.sets)
    head, lines = complexity_table(report)
    if report.detailed and lines:
        rows = [Row(name, [Entry(text) for text in texts]) for name, *texts in lines]
        yield Sheet("Complexity", head, rows, ())
    if (parts := parts_sheet(report)).rows:
        yield parts


def parts_sheet(report: Report) -> Sheet:
    """What the parts of every codec do, where that was measured: a number a line."""
    codecs = [codec for codec in report.codecs if codec.parts]
    rows = [
        Row(name, [Entry(_rounded(codec.parts.get(name))) for codec in codecs])
        for name in dict.fromkeys(name for codec in codecs for name in codec.parts)
    ]
    return Sheet("What the parts do", ["", *(codec.name for codec in codecs)], rows, ())


def _rounded(value: float | None) -> str:
    """With the digits that mean something, of decibels and of bits per pixel."""
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _markdown_sheet(sheet: Sheet) -> str:
    lines = [list(sheet.head), ["---", *["---:"] * (len(sheet.head) - 1)]]
    for row in sheet.rows:
        cells = [e.text + (f" ({e.note})" if e.note else "") for e in row.entries]
        lines.append([f"{row.name} {row.mark}".strip(), *cells])
    for line in (lines[0], *lines[2:]):
        line[:] = map(_plain, line)
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = [f"({number}) {note}." for number, note in enumerate(sheet.notes, 1)]
    notes += [f"{mark} {text}" for mark, text in sheet.marks]
    notes += [f"{text}." for text in sheet.warnings]
    return f"## {_plain(sheet.caption)}\n\n{text}" + "".join(f"\n{_plain(n)}\n" for n in notes)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#~" else c for c in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


# --- LaTeX


def latex(report: Report) -> str:
    """A `tabular` for the booktabs package for each summary; what is to be known as comments."""
    lines = [f"% {_one_line(text)}\n" for text in (report.title, *statements(report))]
    for sheet in _sheets(report):
        lines.append(f"\n% {_one_line(sheet.caption)}\n")
        lines.append(f"\\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}\n\\toprule\n")
        lines.append(" & ".join(map(escape_latex, sheet.head)) + " \\\\\n\\midrule\n")
        for row in sheet.rows:
            cells = [escape_latex(row.name) + _superscript(row.mark)]
            cells += [
                escape_latex(e.text).replace("-", "$-$") + _superscript(e.note or "")
                for e in row.entries
            ]
            lines.append(" & ".join(cells) + " \\\\\n")
        lines.append("\\bottomrule\n\\end{tabular}\n")
        notes: list[tuple[str | int, str]] = [(n, f"{t}.") for n, t in enumerate(sheet.notes, 1)]
        for mark, text in (*notes, *sheet.marks):
            lines.append(f"\n{{\\footnotesize{_superscript(mark)}~{escape_latex(text)}}}\n")
        for text in sheet.warnings:
            lines.append(f"\n{{\\footnotesize {escape_latex(text)}.}}\n")
    return "".join(lines)


def _superscript(mark: str | int) -> str:
    known: Mapping[str | int, str] = {PUBLISHED_MARK: "\\dag", TABLE_MARK: "\\ddag"}
    return f"\\textsuperscript{{{known.get(mark, mark)}}}" if mark else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def escape_latex(text: str) -> str:
    """Text for the body of a LaTeX document."""
    special = {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",
        "[": "{[}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
    }
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in _one_line(text))
