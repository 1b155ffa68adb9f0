"""`cmfr evaluate`: all sequences and qualities of a test, over processes and GPUs, in one file."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cmfr.evaluation.conditions import Measurement
from cmfr.evaluation.measure import SequenceTask
from cmfr.evaluation.records import Record, write_results
from cmfr.evaluation.sequences import TestSequence
from cmfr.evaluation.videos import begin_measuring
from cmfr.utils.signals import on_signals

Progress = Callable[[int], None]  # takes the pixels that were coded or decoded since the last call
Outcome = tuple[SequenceTask, "Record | Exception"]


@dataclass(frozen=True)
class Run:
    """What to measure and how; see `SequenceTask`. qualities: in rising order; frames: the first so
    many of every sequence (None: all that its entry lists)."""

    weights: Path
    dataset: str
    sequences: Sequence[tuple[TestSequence, Path]]
    qualities: Sequence[int]
    frames: int | None = None
    intra_period: int = -1
    refresh_period: int | None = None
    measurement: Measurement = Measurement()
    set_sequences: tuple[str, ...] = ()

    def tasks(self, devices: Sequence[str], parts: Path) -> list[SequenceTask]:
        """A task for each sequence and quality, the devices in turn, slow ones first."""
        pairs = [
            (sequence, source, index, quality)
            for sequence, source in self.sequences
            for index, quality in enumerate(sorted(self.qualities))
        ]
        pairs.sort(key=lambda p: -p[0].width * p[0].height * (self.frames or p[0].frames))
        return [
            SequenceTask(
                self.weights, devices[i % len(devices)], self.dataset, sequence, source, quality,
                index, self.frames or sequence.frames, self.intra_period, self.refresh_period,
                self.measurement, self.set_sequences, parts,
            )
            for i, (sequence, source, index, quality) in enumerate(pairs)
        ]  # fmt: skip


def evaluate(
    run: Run, output: Path, devices: Sequence[str], processes: int, threads: int | None = None
) -> dict[str, str]:
    """Measure what is not there yet and write `output`, in DCVC's shape (cmfr.evaluation.records).

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
    done = len(records)
    shown = {"unit": "pixel", "unit_scale": True, "disable": None, "dynamic_ncols": True}
    total, points = sum(map(_pixels, waiting)), len(tasks)
    bar = tqdm(total=total, desc=f"{done} of {points} points", **shown)
    with bar, on_signals(signal.default_int_handler):
        for task, result in _measured(waiting, processes, threads, bar.update):
            done += 1
            bar.set_description(f"{done} of {points} points")
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


def _pixels(task: SequenceTask) -> int:
    """How much work a task is: the pixels that are coded, and those that are decoded."""
    return 2 * task.frames * task.sequence.width * task.sequence.height


def _measured(
    tasks: list[SequenceTask], processes: int, threads: int | None, progress: Progress
) -> Iterator[Outcome]:
    """(task, its record or the error that prevented it), as they are done; `progress` is told
    frame by frame."""
    if processes > 1:
        yield from _side_by_side(tasks, processes, threads, progress)
        return
    for task in tasks:
        pixels = task.sequence.width * task.sequence.height
        try:
            yield task, task.measure(lambda pixels=pixels: progress(pixels))  # type: ignore[misc]
        except (ValueError, OSError) as error:
            yield task, error


def _side_by_side(
    tasks: list[SequenceTask], processes: int, threads: int | None, progress: Progress
) -> Iterator[Outcome]:
    spawn = multiprocessing.get_context("spawn")
    counter, told = spawn.Value("Q", 0), 0
    pool = ProcessPoolExecutor(processes, spawn, _begin, (threads, counter))
    try:
        futures = {pool.submit(_measure_here, task): task for task in tasks}
        while futures:
            finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            progress(counter.value - told)
            told = counter.value
            for future in finished:
                task = futures.pop(future)
                try:
                    yield task, future.result()
                except (ValueError, OSError, RuntimeError) as error:
                    yield task, error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None  # in a measuring process: the pixels of all of them, shared


def _begin(threads: int | None, counter: Any) -> None:
    global _counter
    begin_measuring(threads)
    _counter = counter


def _measure_here(task: SequenceTask) -> Record:
    pixels = task.sequence.width * task.sequence.height

    def on_frame() -> None:
        with _counter.get_lock():
            _counter.value += pixels

    return task.measure(on_frame)
