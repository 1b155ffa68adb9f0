"""Work spread over processes: counted as it goes on, ended by SIGTERM and Ctrl-C at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import torch

from cmfr.utils.memory import keep_freed_memory
from cmfr.utils.signals import on_signals

Job = TypeVar("Job")
Result = TypeVar("Result")
Count = Callable[[int], None]


def outcomes(
    work: Callable[[Job, Count], Result],
    jobs: Sequence[Job],
    processes: int = 1,
    threads: int | None = None,
    progress: Count = lambda amount: None,
) -> Generator[tuple[Job, Result | Exception], None, None]:
    """(job, what `work(job, count)` returns or the error that it ends with), as they are done.

    work: a function of a module, since other processes import it; it tells `count` how much it has
    done, and `progress` gets to know.
    processes: side by side; one is this process.
    threads: of PyTorch in each.

    Errors of input, of files and a full GPU end one job, and the others go on; a process that is
    killed ends all that are not done. SIGTERM and Ctrl-C, which raise KeyboardInterrupt, and
    closing the iterator drop the jobs under way.
    """
    with on_signals(signal.default_int_handler):
        run = _side_by_side if processes > 1 and jobs else _one_by_one
        yield from run(work, jobs, processes, threads, progress)


def _one_by_one(
    work: Callable[[Job, Count], Result],
    jobs: Sequence[Job],
    processes: int,
    threads: int | None,
    progress: Count,
) -> Generator[tuple[Job, Result | Exception], None, None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        for job in jobs:
            result: Result | Exception
            try:
                result = work(job, progress)
            except (ValueError, OSError, MemoryError, torch.cuda.OutOfMemoryError) as error:
                result = error
            except RuntimeError as error:
                if "allocate memory" not in str(error):  # PyTorch's words where a CPU has no more
                    raise
                result = error
            yield job, result
    finally:
        torch.set_num_threads(before)


def _side_by_side(
    work: Callable[[Job, Count], Result],
    jobs: Sequence[Job],
    processes: int,
    threads: int | None,
    progress: Count,
) -> Generator[tuple[Job, Result | Exception], None, None]:
    spawn = multiprocessing.get_context("spawn")
    counter, told = spawn.Value("Q", 0), 0
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(processes, len(jobs)), spawn, _begin, (threads, counter))
    try:
        futures = {pool.submit(_work_here, work, job): job for job in jobs}
        while futures:
            finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            done = counter.value  # once: the others go on counting
            progress(done - told)
            told = done
            for future in finished:
                result: Result | Exception
                job = futures.pop(future)
                try:
                    result = future.result()
                except (ValueError, OSError, MemoryError, RuntimeError) as error:
                    result = error
                yield job, result
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None  # in a process of the pool: what all of them have done, shared


def _begin(threads: int | None, counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    """A parent that is killed cannot: the queues of jobs would be waited for for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_here(work: Callable[[Job, Count], Result], job: Job) -> Result:
    return work(job, _count)


def _count(amount: int) -> None:
    with _counter.get_lock():
        _counter.value += amount
