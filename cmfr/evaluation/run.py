"""`cmfr evaluate`: all sequences and qualities of a test, over processes and GPUs, in one file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.found_sets import FoundSet
from cmfr.evaluation.kept import kept_beside
from cmfr.evaluation.measure import SequenceTask, weights_identity
from cmfr.evaluation.records import Record, write_results
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_target
from cmfr.utils.parallel import Count, outcomes

Outcome = Record | Exception  # of a task: its record, or the error that prevented it


@dataclass(frozen=True)
class Run:
    """What to measure and how; see `SequenceTask`.

    qualities: in rising order.
    conditions: of every sequence; frames None: all that its entry lists.
    """

    weights: Path
    found: FoundSet
    qualities: Sequence[int]
    conditions: CodingConditions

    def tasks(self, devices: Sequence[str], output: Path) -> list[SequenceTask]:
        """A task for each sequence and quality in the order of the results file `output`, the
        devices in turn."""
        pairs = [
            (sequence, source, index, quality)
            for sequence, source in self.found.sequences
            for index, quality in enumerate(sorted(self.qualities))
        ]
        return [
            SequenceTask(
                self.weights,
                devices[i % len(devices)],
                self.found.dataset,
                sequence,
                source,
                quality,
                index,
                self.conditions,
                self.found.names,
                kept_beside(output),
            )
            for i, (sequence, source, index, quality) in enumerate(pairs)
        ]


def evaluate(
    run: Run, output: Path, devices: Sequence[str], processes: int, threads: int | None = None
) -> dict[str, str]:
    """Measure what is not there yet and write `output`, in DCVC's shape (cmfr.evaluation.records).

    Finished measurements lie in OUTPUT.parts; the same command goes on. Returns why measurements
    failed, by name; `output` is written only when none did, so that no table has holes.
    """
    check_target(output)
    tasks, identity = run.tasks(devices, output), weights_identity(run.weights)
    measured = measure(tasks, processes, threads)
    if weights_identity(run.weights) != identity:
        raise UserError(
            f"{run.weights} changed while it was measured; the same command measures what the "
            "present weights lack"
        )
    records = [outcome for outcome in measured if isinstance(outcome, Record)]
    if len(records) == len(tasks):
        write_results(output, records)
    return {
        f"{task.sequence.name} at quality {task.quality}": " ".join(str(outcome).split())
        for task, outcome in zip(tasks, measured, strict=True)
        if not isinstance(outcome, Record)
    }


def measure(
    tasks: Sequence[SequenceTask],
    processes: int,
    threads: int | None = None,
    tell: Callable[[SequenceTask, Outcome], None] = lambda task, outcome: None,
) -> list[Outcome]:
    """The outcomes of tasks, in their order; what is measured already is not measured again. A bar
    goes on frame by frame; `tell` gets what is done anew."""
    known: dict[SequenceTask, Outcome] = {
        task: record for task in tasks if (record := task.finished()) is not None
    }
    waiting = sorted((task for task in tasks if task not in known), key=_pixels, reverse=True)
    shown = {"unit": "pixel", "unit_scale": True, "disable": None, "dynamic_ncols": True}
    total, desc = sum(map(_pixels, waiting)), f"{len(known)} of {len(tasks)} points"
    with tqdm(total=total, desc=desc, **shown) as bar:
        with closing(outcomes(_measure, waiting, processes, threads, bar.update)) as results:
            for task, outcome in results:
                known[task] = outcome
                bar.set_description(f"{len(known)} of {len(tasks)} points")
                tell(task, outcome)
    return [known[task] for task in tasks]


def _pixels(task: SequenceTask) -> int:
    """How much work a task is: the pixels that are coded, and those that are decoded."""
    return 2 * task.frames * task.sequence.width * task.sequence.height


def _measure(task: SequenceTask, count: Count) -> Record:
    pixels = task.sequence.width * task.sequence.height
    return task.measure(lambda: count(pixels))
