"""What a finished variant leaves: its results, and what its parts do. Of a variant that is thinned
there is nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cmfr.ablation.config import AblationConfig, EvaluationConfig
from cmfr.ablation.parts import Parts, read_parts
from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.records import Record, read_results
from cmfr.evaluation.sequences import load_test_set
from cmfr.training.config import TrainConfig
from cmfr.training.run_dir import RunDir

Lengths = Mapping[tuple[str, str], int]  # frames by data set and sequence


def results_file(cfg: AblationConfig, name: str) -> Path:
    """The records of a variant; finished measurements lie beside it, see `SequenceTask.parts`."""
    return cfg.run_dir / "results" / f"{name}.json"


def parts_file(cfg: AblationConfig, name: str) -> Path:
    """What the parts of a variant do."""
    return cfg.run_dir / "parts" / f"{name}.json"


def thinned(cfg: AblationConfig, runs: Mapping[str, TrainConfig]) -> set[str]:
    """The trained and measured variants of which only configuration, logs and results are left.
    Raises ValueError where the folder of one holds another run."""
    found = set()
    for name, run in runs.items():
        folder = RunDir(run, writes=False)
        trained = not cfg.variants[name].weights and folder.config_file.is_file()
        if trained and results_file(cfg, name).is_file() and not folder.state_file.exists():
            folder.check()
            found.add(name)
    return found


def records_left(cfg: AblationConfig, name: str) -> list[Record]:
    """Of a thinned variant's records the curves that `evaluation` asks for."""
    qualities, lengths = cfg.evaluation.qualities, _lengths(cfg.evaluation)
    asked = cfg.evaluation.conditions()
    records = [
        replace(record, rate_index=qualities.index(record.label))
        for record in read_results(results_file(cfg, name))
        if record.label in qualities and _as_asked(record, asked, lengths)
    ]
    points = Counter((record.dataset, record.sequence) for record in records)
    return [r for r in records if points[r.dataset, r.sequence] == len(qualities)]


def parts_left(cfg: AblationConfig, name: str) -> Parts:
    """What a thinned variant's parts do, where it was measured on what `evaluation` asks for."""
    parts, conditions = read_parts(parts_file(cfg, name))
    lengths = _lengths(cfg.evaluation)
    if conditions.get("frames") != cfg.evaluation.part_frames:
        return {}
    if lengths is not None and conditions.get("sequences") != [name for _, name in lengths]:
        return {}
    return parts


def _lengths(evaluation: EvaluationConfig) -> Lengths | None:
    """The sequences to measure, with their lengths; their files may be gone. None for videos, of
    which only the files would tell."""
    if evaluation.videos:
        return None
    if evaluation.generated is not None:
        found = evaluation.generated.found(Path())
        return {(found.dataset, sequence.name): sequence.frames for sequence, _ in found.sequences}
    sets = [load_test_set(name) for name in evaluation.sets]
    return {(s.name, sequence.name): sequence.frames for s in sets for sequence in s.sequences}


def _as_asked(record: Record, asked: CodingConditions, lengths: Lengths | None) -> bool:
    """Whether a record is of a sequence to measure, under the conditions asked for."""
    met, place = record.conditions, (record.dataset, record.sequence)
    if lengths is not None and place not in lengths:
        return False
    length = lengths[place] if lengths is not None else met.frames or 0
    wanted = replace(asked, frames=min(asked.frames or length, length))
    if met.matrix == "rgb":  # the source was RGB, and no conversion is chosen
        wanted = replace(wanted, matrix=met.matrix, range=met.range)
    return all(value in (None, getattr(met, name)) for name, _, _, value in wanted.stated())
