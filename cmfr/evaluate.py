"""`cmfr evaluate`: all sequences and qualities of a test, over processes and GPUs, in one file."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cmfr.evaluation import begin_measuring
from cmfr.results import Record, write_results
from cmfr.sequence_evaluation import Color, SequenceTask
from cmfr.signals import on_signals
from cmfr.test_sets import TestSequence, find_sequence


@dataclass(frozen=True)
class Run:
    """What to measure and how; see `SequenceTask`. qualities: in rising order."""

    weights: Path
    dataset: str
    sequences: Sequence[tuple[TestSequence, Path]]
    qualities: Sequence[int]
    frames: int | None = None
    intra_period: int = -1
    refresh_period: int | None = None
    color: Color = "yuv420"
    round_8bit: bool = False

    def tasks(self, devices: Sequence[str], parts: Path) -> list[SequenceTask]:
        """A task for each sequence and quality, the devices in turn, slow ones first."""
        pairs = [
            (sequence, source, index, quality)
            for sequence, source in self.sequences
            for index, quality in enumerate(sorted(self.qualities))
        ]
        pairs.sort(key=lambda p: -p[0].width * p[0].height * min(p[0].frames, self.frames or 10**9))
        return [
            SequenceTask(
                self.weights, devices[i % len(devices)], self.dataset, sequence, source, quality,
                index, self.frames, self.intra_period, self.refresh_period, self.color,
                self.round_8bit, parts,
            )
            for i, (sequence, source, index, quality) in enumerate(pairs)
        ]  # fmt: skip


def find_sequences(
    sequences: Sequence[TestSequence], root: Path
) -> list[tuple[TestSequence, Path]]:
    """Each sequence with its file. Raises FileNotFoundError that names all that are missing."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    found, missing = [], []
    for sequence in sequences:
        try:
            found.append((sequence, find_sequence(root, sequence)))
        except (FileNotFoundError, ValueError) as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError("; ".join(missing))
    return found


def evaluate(
    run: Run, output: Path, devices: Sequence[str], processes: int, threads: int | None = None
) -> dict[str, str]:
    """Measure what is not there yet and write `output`, in DCVC's shape (cmfr.results).

    Finished measurements lie in OUTPUT.parts; the same command goes on. Returns why measurements
    failed, by name; `output` is written only when none did, so that no table has holes.
    """
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    tasks = run.tasks(devices, output.with_name(output.name + ".parts"))
    records: list[Record] = []
    failures: dict[str, str] = {}
    waiting = []
    for task in tasks:
        record = task.finished()
        waiting.append(task) if record is None else records.append(record)
    bar = tqdm(total=len(tasks), initial=len(records), unit="point", disable=None)
    with bar, on_signals(signal.default_int_handler):
        for task, result in _side_by_side(waiting, processes, threads):
            bar.update()
            if isinstance(result, Record):
                records.append(result)
            else:
                where = f"{task.sequence.name} at quality {task.quality}"
                failures[where] = " ".join(str(result).split())
    if not failures:
        order = {sequence.name: i for i, (sequence, _) in enumerate(run.sequences)}
        records.sort(key=lambda r: (order[r.sequence], r.rate_index))
        write_results(output, records)
    return failures


def _side_by_side(tasks: list[SequenceTask], processes: int, threads: int | None):  # type: ignore[no-untyped-def]
    """(task, its record or the error that prevented it), as they are done."""
    if processes == 1:
        for task in tasks:
            try:
                yield task, task.measure()
            except (ValueError, OSError) as error:
                yield task, error
        return
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), begin_measuring, (threads,)
    )
    try:
        futures = {pool.submit(task.measure): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except (ValueError, OSError, RuntimeError) as error:
                yield futures[future], error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
