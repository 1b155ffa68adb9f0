"""Rate-distortion plots for papers, as .png and .svg."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from cmfr.report.collect import SHOWN, metric_title
from cmfr.report.comparison import WHOLE, Report, drawable
from cmfr.report.tables import warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

# Okabe and Ito's colors, told apart by color-blind readers too, without their yellow, which
# white paper swallows, with a gray. Eight colors and seven markers: the first 56 codecs differ.
COLORS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "X", "P")
MANY = 6  # legend entries; more go beside the plot


def file_names(report: Report) -> dict[tuple[str, str], str]:
    """The plots' names without suffix, by data set and sequence; safe and all different."""
    names: dict[tuple[str, str], str] = {}
    for dataset, sequences in report.sets.items():
        for sequence in (WHOLE, *sequences):
            name = _safe("_".join(filter(None, ("rd", dataset, sequence))))
            taken = {other.lower() for other in names.values()}
            number, start = 2, name
            while name.lower() in taken:
                name, number = f"{start}_{number}", number + 1
            names[dataset, sequence] = name
    return names


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")[:120]


def write_plots(report: Report, folder: Path) -> Iterable[Path]:
    """Write the plots of every data set and sequence that has curves; yields the .png files."""
    for (dataset, sequence), name in file_names(report).items():
        found = {m: drawable(report, dataset, sequence, m) for m in report.metrics}
        curves = {
            metric: {codec: [p for p, _ in points] for codec, points in drawn.items()}
            for metric, drawn in found.items()
        }
        if not any(curves.values()):
            continue
        number = len(report.sets[dataset])
        of = f"{number} sequence{'s' * (number > 1)}" if number else "mean"
        title = report.head(dataset) if report.part(dataset) else f"{dataset} ({of})"
        figure = draw(sequence or title, curves, report)
        path = folder / f"{name}.png"
        save(figure, path)
        yield path


def draw(
    title: str,
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    report: Report,
) -> Figure:
    """One panel per metric; curves by metric and codec. A codec looks the same in all plots."""
    from matplotlib.figure import Figure  # without pyplot: no window system, the Agg renderer

    beside = len(report.codecs) > MANY
    panels = [metric for metric in report.metrics if curves[metric]]
    width = 4.8 * len(panels) + (2.6 if beside else 0.4)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    shown: dict[str, Line2D] = {}
    for number, metric in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for place, codec in enumerate(report.codecs):
            if points := curves[metric].get(codec.name):
                (line,) = axes.plot(
                    *zip(*points, strict=True),
                    "--" if codec.published else "-",
                    color=COLORS[place % len(COLORS)],
                    marker=MARKERS[place % len(MARKERS)],
                    markersize=5,
                    linewidth=1.4,
                )
                shown.setdefault(codec.name, line)
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(metric_title(metric))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles, labels = list(shown.values()), _labels(shown)
    if beside:
        legend = figure.legend(handles, labels, loc="outside right center", fontsize=8)
    else:
        legend = figure.axes[0].legend(handles, labels, fontsize=8)
    _plain(legend.get_texts())
    _plain([figure.suptitle(title, fontsize=11)])
    if report.differences:
        lines = [line for text in warnings(report)[:SHOWN] for line in wrap(text, int(14 * width))]
        more = len(report.differences) - SHOWN
        lines += [f"and {more} more differences"] * (more > 0)
        _plain([figure.supxlabel("\n".join(lines), fontsize=7, color="#B00020")])
    return figure


def _labels(names: Iterable[str]) -> list[str]:
    """matplotlib leaves out what begins with an underscore."""
    return [f" {name}" if name.startswith("_") else name for name in names]


def _plain(texts: Iterable[Text]) -> None:
    """No formulas: a name may hold dollar signs."""
    for text in texts:
        text.set_parse_math(False)


def save(figure: Figure, path: Path) -> None:
    """As .png and .svg; the files are the same when the curves are."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "cmfr"}):
        figure.savefig(path, dpi=150)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
