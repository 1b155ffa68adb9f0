"""What an ablation found, as a report: its records, and what is to be known of them.

Nothing is trained or measured here: a variant without weights, or a sequence whose records do not
belong to the present weights and conditions, is shown as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from cmfr.ablation.config import AblationConfig, common_run, resolve
from cmfr.ablation.parts import Parts
from cmfr.ablation.run import parts_of, standing, tasks_of, weights_of
from cmfr.ablation.thinned import parts_left, records_left, thinned
from cmfr.analysis.complexity import count, facts
from cmfr.codec.checkpoint import read_weights
from cmfr.evaluation.measure import SequenceTask
from cmfr.evaluation.records import FrameResult, Record
from cmfr.models.video_model import VideoModel
from cmfr.report.collect import CodecResults, choose_metrics
from cmfr.report.comparison import Report, build
from cmfr.report.tables import markdown, percent
from cmfr.report.write import write_report as write
from cmfr.training.config import TrainConfig
from cmfr.training.run_dir import read_versions
from cmfr.utils.yaml_config import differences, plain

SWITCHES = ("residual", "fusion", "motion_refiner", "reference")  # shown of the anchor


def write_report(cfg: AblationConfig) -> str:
    """Write the report on all variants to run_dir/report; returns its tables as Markdown.

    Raises ValueError or OSError where the configuration, or a variant's own weights, is wrong.
    """
    runs = resolve(cfg)
    left = thinned(cfg, runs)
    # Where no weights are there to be measured, the sequences need not be either.
    present = {
        name: run
        for name, run in runs.items()
        if name not in left and weights_of(cfg, name, run) is not None
    }
    tasks = tasks_of(cfg, present) if present else {}
    found = {name: _whole_curves(tasks.get(name, [])) for name in runs}
    found |= {name: records_left(cfg, name) for name in left}
    parts = {name: task.finished() for name, task in parts_of(cfg, tasks).items()}
    parts |= {name: parts_left(cfg, name) for name in left if found[name]}
    codecs = [
        _codec(cfg.variants[name].title, found[name], runs[name], parts.get(name, {}))
        for name in runs
    ]
    codecs.sort(key=lambda codec: codec.name != cfg.variants[cfg.anchor].title)
    notes = [*_measuring(cfg, found), *_training(cfg, runs, left, found)]
    notes += [f"{cfg.variants[n].title} ({n}): {changes}." for n, changes in _changes(cfg, runs)]
    if any(parts.values()):
        notes.append(
            f"Parts: first {cfg.evaluation.part_frames} frames of each sequence, estimated bits; "
            "PSNR-Y is of the frame predicted by the estimated, decoded, refined flow, in dB; mask "
            "is its mean where the picture rests, moves, is uncovered."
        )
    measured = [codec for codec in codecs if codec.records]
    if measured and codecs[0].records:  # others would be rows without a number
        codecs = measured
    report = build(
        codecs,
        choose_metrics([], measured) if measured else ["psnr_yuv"],
        notes=notes,
        title=f"Ablation against {codecs[0].name}",
        detailed=True,
    )
    report = replace(report, notes=[*notes, *_spread(cfg, runs, report)])
    cfg.run_dir.mkdir(parents=True, exist_ok=True)
    write(report, cfg.run_dir / "report")
    return markdown(report)


def _codec(title: str, records: Sequence[Record], run: TrainConfig, parts: Parts) -> CodecResults:
    torch.manual_seed(0)
    named = [replace(record, codec=title) for record in records]
    return replace(CodecResults.of(title, named, facts(*count(VideoModel(run.model)))), parts=parts)


def _spread(cfg: AblationConfig, runs: Mapping[str, TrainConfig], report: Report) -> list[str]:
    """How far apart variants are that differ by their seed alone, in words."""
    table, notes = report.tables[report.metrics[0]], []
    seeds: dict[str, list[str]] = {}  # names by the first of the same model
    for name, run in runs.items():
        first = next(other for other, theirs in runs.items() if theirs.model == run.model)
        seeds.setdefault(first, []).append(cfg.variants[name].title)
    for titles in seeds.values():
        found = [table.averages.get((title, "mean")) for title in titles]
        means = [cell.value for cell in found if cell is not None]
        values = [value for value in means if value is not None]
        if len(titles) > 1 and len(values) == len(titles):
            said = ", ".join(f"{percent(value)} %" for value in values)
            notes.append(
                f"Chance: {', '.join(titles)} differ by their seed alone; mean BD-rates {said}, "
                f"{max(values) - min(values):.1f} points apart. Smaller differences mean nothing."
            )
    return notes


def _whole_curves(tasks: Sequence[SequenceTask]) -> list[Record]:
    """The records of the sequences that are measured at all qualities."""
    curves: dict[tuple[str, str], list[Record | None]] = {}
    for task in tasks:
        record = task.finished() if task.source.exists() else None
        curves.setdefault((task.dataset, task.sequence.name), []).append(record)
    whole = [curve for curve in curves.values() if None not in curve]
    return [record for curve in whole for record in curve if record is not None]


def _measuring(cfg: AblationConfig, found: Mapping[str, Sequence[Record]]) -> list[str]:
    records = [record for curves in found.values() for record in curves]
    lengths = {r.sequence: r.average().frames for r in records}
    frames = ", ".join(f"{name} {count}" for name, count in lengths.items()) or "none measured yet"
    if len(set(lengths.values())) == 1:
        frames = f"{next(iter(lengths.values()))} each"
    return [
        f"Qualities {', '.join(map(str, cfg.evaluation.qualities))}; frames: {frames}; bits of "
        "whole files, quality of the frames decoded from them, mean over frames.",
        "Parameters of the P- and I-frame codecs; kMAC/pixel of a P-frame (1 MAC = 2 FLOP; warping "
        "and entropy coding not counted; encode includes what the decoder runs too).",
        f"Measured with: {_made_with([record.metadata for record in records])}.",
    ]


def _training(
    cfg: AblationConfig,
    runs: Mapping[str, TrainConfig],
    left: set[str],
    found: Mapping[str, Sequence[Record]],
) -> list[str]:
    trained: list[TrainConfig] = []
    notes, versions = [], list[dict[str, Any]]()
    for name, run in runs.items():
        given, weights = cfg.variants[name].weights, weights_of(cfg, name, run)
        if given is not None:
            steps = read_weights(given)[2].get("steps", "an unknown number of")
            notes.append(f"{name}: weights taken from {given.name}, trained for {steps} steps.")
            continue
        trained.append(run)
        if name in left:
            unlike = "" if found[name] else ", and it was measured otherwise than `evaluation` says"
            notes.append(f"{name}: its weights were not kept{unlike}.")
        elif weights is None:
            notes.append(f"{name}: training is not finished ({standing(run)}).")
        versions += read_versions(run.run_dir)
    if trained:
        last = {text.partition("=")[0]: text for text in cfg.overrides}  # of each key
        changed = f" with {', '.join(last.values())}" if last else ""
        notes.insert(
            0,
            f"Training: {cfg.base.name}{changed}; seed {trained[0].seed}; every variant "
            f"{_steps(trained[0])}, on the same data. Trained with: {_made_with(versions)}.",
        )
    return [*notes, *_intra_codec(common_run(cfg), trained, found)]


def _intra_codec(
    common: TrainConfig | None,
    trained: Sequence[TrainConfig],
    found: Mapping[str, Sequence[Record]],
) -> list[str]:
    """Which intra codec the variants have, and whether their first frames are the same."""
    first: dict[tuple[str, str, Any], FrameResult] = {}
    others = set()
    for name, records in found.items():
        for record in records:
            place = record.dataset, record.sequence, record.label
            if record.frames and not _same(
                record.frames[0], first.setdefault(place, record.frames[0])
            ):
                others.add(name)
    if others:
        names = ", ".join(name for name in found if name in others)
        return [f"The intra codecs DIFFER: the first frames of {names} are not those of the rest."]
    same = "the same in all variants, " if sum(map(bool, found.values())) > 1 else ""
    if common:
        return [f"Intra codec: {same}trained once for {_steps(common)}."]
    if trained:
        source = "from the base configuration's init" if trained[0].init else "UNTRAINED"
        return [f"Intra codec: {same}{source}."]
    return []


def _same(a: FrameResult, b: FrameResult) -> bool:
    """Whether one codec made both, on whatever processor."""
    return math.isclose(a.bits, b.bits, rel_tol=1e-3) and all(
        math.isclose(value, b.quality.get(name, value), rel_tol=1e-4)
        for name, value in a.quality.items()
    )


def _changes(cfg: AblationConfig, runs: dict[str, TrainConfig]) -> list[tuple[str, str]]:
    """Each variant's model keys that differ from the anchor's; of the anchor, the switches."""
    anchor = plain(runs[cfg.anchor].model)
    rows = []
    for name, run in runs.items():
        found = [(key, value) for key, _, value in differences(anchor, plain(run.model))]
        if name == cfg.anchor:
            found = [(key, anchor[key]) for key in SWITCHES]
        if run.seed != runs[cfg.anchor].seed:
            found.append(("seed", run.seed))
        text = ", ".join(f"{key} = {str(value).lower()}" for key, value in found)
        rows.append((name, text + (" (the anchor)" if name == cfg.anchor else "")))
    return rows


def _steps(run: TrainConfig) -> str:
    total = sum(stage.steps for stage in run.stages)
    return f"{total} steps ({', '.join(f'{s.name} {s.steps}' for s in run.stages)})"


def _made_with(versions: Sequence[Mapping[str, Any]]) -> str:
    """Revision, PyTorch and hardware, every combination that occurs."""
    combinations = {
        f"git {v['git']}, torch {v['torch']}, {v['machine'] if v['gpu'] == 'none' else v['gpu']}"
        for v in versions
    }
    return "; ".join(sorted(combinations)) or "nothing yet"


def describe(cfg: AblationConfig) -> str:
    """What `cmfr ablate` would do: variants, runs, measurements."""
    runs, common = resolve(cfg), common_run(cfg)
    left = thinned(cfg, runs)
    lines = ["variants"]
    lines += [f"  {name:<20} {changes}" for name, changes in _changes(cfg, runs)]
    lines.append(f"training runs in {cfg.run_dir}")
    if common:
        lines.append(f"  {'common':<20} {_steps(common)}: {standing(common)}")
    for name, run in runs.items():
        given = cfg.variants[name].weights
        stands = "finished, weights not kept" if name in left else standing(run)
        what = f"weights from {given}" if given else f"{_steps(run)}: {stands}"
        lines.append(f"  {name:<20} {what}")
    try:
        tasks = tasks_of(cfg, runs)
        sets = cfg.evaluation.found(cfg.run_dir / "sequences")
    except FileNotFoundError as missing:
        return "\n".join([*lines, f"curves: cannot be measured: {missing}"])
    names = [sequence.name for found in sets for sequence, _ in found.sequences]
    number = len(cfg.evaluation.qualities)
    done = sum(len(_whole_curves(found)) for found in tasks.values()) // number
    done += sum(len(records_left(cfg, name)) for name in left) // number
    lines.append(
        f"curves: {len(runs)} variants x {len(names)} sequences ({', '.join(names)}), "
        f"{number} qualities each; {done} of {len(runs) * len(names)} are measured"
    )
    return "\n".join(lines)
