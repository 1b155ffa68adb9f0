"""What an ablation found: one table (Markdown, CSV, LaTeX) and rate-distortion plots.

Nothing is trained or measured here: a variant without weights, or a sequence whose result does not
belong to the present weights and conditions, is shown as missing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from cmfr.ablation.run import (
    AblationConfig,
    common_run,
    curve_tasks,
    resolve,
    standing,
    weights_of,
)
from cmfr.analysis.complexity import count
from cmfr.codec.checkpoint import read_weights, weights_hash
from cmfr.evaluation.bd_rate import Point, Table, compare
from cmfr.evaluation.videos import Measured, RatePoint, read_curve
from cmfr.models.video_model import VideoCodec
from cmfr.training.config import TrainConfig
from cmfr.utils.yaml_config import differences, plain

SWITCHES = ("residual", "fusion", "motion_refiner", "reference")  # shown of the anchor


@dataclass(frozen=True)
class Row:
    """A variant: parameters of P- and I-frames (millions), thousands of MACs per pixel of a
    P-frame, measured curves by sequence."""

    name: str
    title: str
    parameters: float
    encode: float
    decode: float
    curves: Mapping[str, Sequence[RatePoint]]

    def points(self, sequence: str) -> list[Point]:
        return [(point.bpp, point.psnr_yuv) for point in self.curves[sequence]]


# --- the table as text


def markdown(rows: Sequence[Row], table: Table, sequences: Sequence[str]) -> str:
    head = ["variant", "parameters, M", "P-frame encode / decode, kMAC/pixel"]
    lines = [[*head, *sequences, "mean"], ["---"] * (len(sequences) + 4)]
    for row in rows:
        cells = [f"{v}{f' ({n})' if n else ''}" for v, n in _cells(row, table, sequences)]
        size = [f"{row.parameters:.3f}", f"{row.encode:.2f} / {row.decode:.2f}"]
        lines.append([row.title, *size, *cells])
    text = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
    return text + "".join(f"\n({i}) {note}.\n" for i, note in enumerate(table.notes, 1))


def comma_separated(rows: Sequence[Row], table: Table, sequences: Sequence[str]) -> str:
    """The table with full precision; `n/a` where there is no number."""
    head = ["variant", "title", "parameters_m", "encode_kmac_per_pixel", "decode_kmac_per_pixel"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [f"bd_rate_{name}" for name in sequences]
    writer.writerow([*head, *names, "bd_rate_mean", "mean_over_sequences"])
    for row in rows:
        mean = table.means[row.name]
        found = [table.values.get((row.name, s)) for s in sequences] + [mean.percent]
        cells = ["n/a" if value is None else f"{value:.4f}" for value in found] + [mean.over]
        writer.writerow([row.name, row.title, row.parameters, row.encode, row.decode, *cells])
    return file.getvalue()


def latex(
    rows: Sequence[Row], table: Table, sequences: Sequence[str], conditions: Sequence[str]
) -> str:
    """A `tabular` for the booktabs package, with the footnotes below; conditions as comments."""
    head = ["Variant", "Param. (M)", "Enc.", "Dec.", *sequences, "mean"]
    lines = [f"% {text}\n" for text in conditions]
    lines.append(f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n")
    lines.append(" & ".join(_escaped(name) for name in head) + " \\\\\n\\midrule\n")
    for row in rows:
        cells = [
            _escaped(text).replace("-", "$-$") + (f"\\textsuperscript{{{n}}}" if n else "")
            for text, n in _cells(row, table, sequences)
        ]
        size = [f"{row.parameters:.3f}", f"{row.encode:.2f}", f"{row.decode:.2f}"]
        lines.append(" & ".join([_escaped(row.title), *size, *cells]) + " \\\\\n")
    lines.append("\\bottomrule\n\\end{tabular}\n")
    for number, note in enumerate(table.notes, 1):
        lines.append(f"\n{{\\footnotesize\\textsuperscript{{{number}}}~{_escaped(note)}.}}\n")
    return "".join(lines)


def _cells(row: Row, table: Table, sequences: Sequence[str]) -> list[tuple[str, int | None]]:
    """BD-rate and footnote by sequence, then the mean and over how many of them it is."""
    places = [(row.name, sequence) for sequence in sequences]
    cells = [(_percent(table.values.get(place)), table.footnotes.get(place)) for place in places]
    mean = table.means[row.name]
    return [*cells, (f"{_percent(mean.percent)} over {mean.over}", None)]


def _percent(value: float | None) -> str:
    text = "n/a" if value is None else f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _escaped(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


# --- plots


def plot(path: Path, title: str, curves: Mapping[str, Sequence[Point]]) -> None:
    """One curve per variant, as .png and .svg; the files are the same when the curves are."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no window system, the Agg renderer

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="bits per pixel", ylabel="PSNR-YUV (6:1:1), dB")
    for number, (name, points) in enumerate(curves.items()):
        rates, qualities = zip(*points, strict=True)
        style = ("-", "--", ":")[number // 10 % 3]  # ten colors
        axes.plot(rates, qualities, style, marker="o", markersize=4, label=name)
    axes.grid(alpha=0.3)
    axes.legend()
    with rc_context({"svg.hashsalt": "cmfr"}):
        figure.savefig(path.with_suffix(".png"), dpi=150)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _plots(folder: Path, rows: Sequence[Row], sequences: Sequence[str]) -> None:
    for sequence in sequences:
        drawn = {r.title: r.points(sequence) for r in rows if sequence in r.curves}
        if drawn:
            plot(folder / f"rd_{sequence}.png", sequence, drawn)
    complete = [row for row in rows if row.curves.keys() >= set(sequences)]
    if complete and len(sequences) > 1:
        means = {row.title: _mean([row.points(s) for s in sequences]) for row in complete}
        plot(folder / "rd_mean.png", f"mean of {len(sequences)} sequences", means)


def _mean(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Mean rate and mean PSNR over sequences at each quality."""
    columns = [list(zip(*points, strict=True)) for points in zip(*curves, strict=True)]
    return [(fmean(rates), fmean(qualities)) for rates, qualities in columns]


# --- from the files of an ablation


def write_report(cfg: AblationConfig) -> str:
    """Write ablation.md, .csv, .tex and rd_*.png, .svg to the run_dir; returns the Markdown.

    Raises ValueError or OSError where the configuration, or a variant's own weights, is wrong.
    """
    runs = resolve(cfg)
    sequences = list(cfg.evaluation.sequences(cfg.run_dir / "sequences"))
    tasks = curve_tasks(cfg, runs)
    found = {path: curve for path, task in tasks.items() if (curve := read_curve(path, task))}
    rows = []
    for name, run in runs.items():
        torch.manual_seed(0)
        intra, inter = count(VideoCodec(run.model))
        measured = {p.stem: c.points for p, c in found.items() if p.parent.name == name}
        rows.append(
            Row(
                name, cfg.variants[name].title, intra.parameters_m + inter.parameters_m,
                inter.encode_kmac_per_pixel, inter.decode_kmac_per_pixel, measured,
            )
        )  # fmt: skip
    curves = {row.name: {s: row.points(s) for s in row.curves} for row in rows}
    table = compare(curves, cfg.anchor, sequences)
    notes = [*_measuring(cfg, found), *_training(cfg, runs)]
    notes += [f"{cfg.variants[n].title} ({n}): {changes}." for n, changes in _changes(cfg, runs)]
    text = markdown(rows, table, sequences) + "\n" + "".join(f"- {note}\n" for note in notes)
    cfg.run_dir.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("ablation.md", text),
        ("ablation.csv", comma_separated(rows, table, sequences)),
        ("ablation.tex", latex(rows, table, sequences, notes)),
    ):
        (cfg.run_dir / name).write_text(content)
    _plots(cfg.run_dir, rows, sequences)
    return text


def _measuring(cfg: AblationConfig, found: Mapping[Path, Measured]) -> list[str]:
    lengths = {path.stem: curve.points[0].frames for path, curve in found.items()}
    frames = ", ".join(f"{name} {count}" for name, count in lengths.items()) or "none measured yet"
    if len(set(lengths.values())) == 1:
        frames = f"{next(iter(lengths.values()))} each"
    period = cfg.evaluation.intra_period
    return [
        f"BD-rate: percent of bits against '{cfg.variants[cfg.anchor].title}', negative where "
        "fewer; PCHIP over log rate and PSNR-YUV (6:1:1); bits of whole files, PSNR of the frames "
        "decoded from them, mean over frames.",
        f"Qualities {', '.join(map(str, cfg.evaluation.qualities))}; frames: {frames}; "
        f"intra period: {'only the first frame is intra' if period == -1 else period}.",
        "Parameters of the P- and I-frame codecs; kMAC/pixel of a P-frame (1 MAC = 2 FLOP; warping "
        "and entropy coding not counted; encode includes what the decoder runs too).",
        f"Measured with: {_made_with([curve.versions for curve in found.values()])}.",
    ]


def _training(cfg: AblationConfig, runs: dict[str, TrainConfig]) -> list[str]:
    common, trained, versions, intra = common_run(cfg), [], [], {}
    notes = []
    for name, run in runs.items():
        given, weights = cfg.variants[name].weights, weights_of(cfg, name, run)
        if weights is not None:
            intra[name] = _intra_codec(weights)
        if given is not None:
            steps = read_weights(given)[2].get("steps", "an unknown number of")
            notes.append(f"{name}: weights taken from {given.name}, trained for {steps} steps.")
            continue
        trained.append(run)
        if weights is None:
            notes.append(f"{name}: training is not finished ({standing(run)}).")
        if (file := run.run_dir / "versions.json").is_file():
            versions.append(json.loads(file.read_text()))
    if trained:
        last = {text.partition("=")[0]: text for text in cfg.overrides}  # of each key
        changed = f" with {', '.join(last.values())}" if last else ""
        notes.insert(
            0,
            f"Training: {cfg.base.name}{changed}; seed {trained[0].seed}; every variant "
            f"{_steps(trained[0])}, on the same data. Trained with: {_made_with(versions)}.",
        )
    if len(set(intra.values())) > 1:
        groups = ", ".join(f"{name} {digest}" for name, digest in intra.items())
        notes.append(f"The intra codecs DIFFER between the variants: {groups}.")
    elif common:
        notes.append(f"Intra codec: the same in all variants, trained once for {_steps(common)}.")
    elif trained:
        source = "from the base configuration's init" if trained[0].init else "UNTRAINED"
        notes.append(f"Intra codec: the same in all variants, {source}.")
    return notes


def _changes(cfg: AblationConfig, runs: dict[str, TrainConfig]) -> list[tuple[str, str]]:
    """Each variant's model keys that differ from the anchor's; of the anchor, the switches."""
    anchor = plain(runs[cfg.anchor].model)
    rows = []
    for name, run in runs.items():
        found = [(key, value) for key, _, value in differences(anchor, plain(run.model))]
        if name == cfg.anchor:
            found = [(key, anchor[key]) for key in SWITCHES]
        text = ", ".join(f"{key} = {str(value).lower()}" for key, value in found)
        rows.append((name, text + (" (the anchor)" if name == cfg.anchor else "")))
    return rows


def _steps(run: TrainConfig) -> str:
    total = sum(stage.steps for stage in run.stages)
    return f"{total} steps ({', '.join(f'{s.name} {s.steps}' for s in run.stages)})"


def _made_with(versions: Sequence[Mapping[str, str]]) -> str:
    """Revision, PyTorch and hardware, every combination that occurs."""
    combinations = {
        f"git {v['git']}, torch {v['torch']}, {v['machine'] if v['gpu'] == 'none' else v['gpu']}"
        for v in versions
    }
    return "; ".join(sorted(combinations)) or "nothing yet"


def _intra_codec(weights: Path) -> str:
    """A short hash of the intra codec in a weights file."""
    try:
        tensors = read_weights(weights)[1]
    except (ValueError, OSError):
        return "unreadable"
    return weights_hash({k: v for k, v in tensors.items() if k.startswith("intra.")}).hex()


def describe(cfg: AblationConfig) -> str:
    """What `cmfr ablate` would do: variants, runs, measurements."""
    runs, common = resolve(cfg), common_run(cfg)
    lines = ["variants"]
    lines += [f"  {name:<20} {changes}" for name, changes in _changes(cfg, runs)]
    lines.append(f"training runs in {cfg.run_dir}")
    if common:
        lines.append(f"  {'common':<20} {_steps(common)}: {standing(common)}")
    for name, run in runs.items():
        given = cfg.variants[name].weights
        what = f"weights from {given}" if given else f"{_steps(run)}: {standing(run)}"
        lines.append(f"  {name:<20} {what}")
    try:
        sequences, tasks = cfg.evaluation.sequences(cfg.run_dir), curve_tasks(cfg, runs)
    except FileNotFoundError as missing:
        return "\n".join([*lines, f"curves: cannot be measured, there is {missing}"])
    done = sum(read_curve(path, task) is not None for path, task in tasks.items())
    lines.append(
        f"curves: {len(runs)} variants x {len(sequences)} sequences ({', '.join(sequences)}), "
        f"{len(cfg.evaluation.qualities)} qualities each; {done} of "
        f"{len(runs) * len(sequences)} are measured"
    )
    return "\n".join(lines)
