"""Jobs in this process and side by side: results, errors, progress, the end of everything."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from cmfr.utils import parallel
from cmfr.utils.parallel import outcomes
from cmfr.utils.signals import end_with_parent


def work(job, count):
    if job == 0:
        raise ValueError("nothing to do")
    count(job)
    return job * job, os.getpid(), torch.get_num_threads()


def too_large(job, count):
    return torch.empty(2**62 if job else 1, dtype=torch.uint8).numel()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_too_large_for_memory_ends_alone(processes):
    found = dict(outcomes(too_large, [1, 0], processes))
    assert found[0] == 1 and isinstance(found[1], RuntimeError)


def wait(job, count):
    time.sleep(job)
    return job


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_errors_and_progress(processes):
    threads, seen = torch.get_num_threads(), []
    found = dict(outcomes(work, [1, 0, 2, 3], processes, 1, seen.append))
    assert str(found.pop(0)) == "nothing to do"
    assert {job: result[0] for job, result in found.items()} == {1: 1, 2: 4, 3: 9}
    assert sum(seen) == 6
    here = {result[1] == os.getpid() for result in found.values()}
    assert here == {processes == 1}
    assert {result[2] for result in found.values()} == {1} and torch.get_num_threads() == threads
    assert list(outcomes(work, [], processes)) == []


def count_to(job, count):
    for _ in range(job):
        time.sleep(0.01)
        count(1)


def test_what_is_counted_while_progress_is_told_is_not_lost():
    seen = []

    def slow(amount):
        time.sleep(0.05)
        seen.append(amount)

    assert dict(outcomes(count_to, [1, 30, 60], 2, 1, slow)) == {1: None, 30: None, 60: None}
    assert sum(seen) == 91


def test_what_is_under_way_is_dropped():
    """When the iterator is closed, as an error or Ctrl-C in the loop over it does."""
    before, began = set(multiprocessing.active_children()), time.monotonic()
    with closing(outcomes(wait, [0, 600, 600], 2)) as results:
        assert next(results) == (0, 0)
    assert time.monotonic() - began < 300
    assert not set(multiprocessing.active_children()) - before


def until_gone(process):
    """Wait for a process that is no child of this one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # nobody takes note of its end
            return True
        time.sleep(0.02)
    return False


def start_and_be_killed(start):
    """Call `start`, which returns the number of a process, in a process that is then killed."""
    reading, writing = os.pipe()
    between = os.fork()
    if not between:
        os.write(writing, str(start()).encode())
        time.sleep(600)
    child = int(os.read(reading, 20))
    os.kill(between, signal.SIGKILL)
    os.waitpid(between, 0)
    return child


def serve():
    parallel._begin(None, None)
    time.sleep(600)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_processes_end_with_a_parent_that_is_killed():
    """Those of a pool, and the training of an ablation."""

    def of_the_pool():
        process = multiprocessing.get_context("fork").Process(target=serve)
        process.start()
        return process.pid

    def training():
        return subprocess.Popen(["sleep", "600"], preexec_fn=end_with_parent).pid

    for start in (of_the_pool, training):
        assert until_gone(start_and_be_killed(start)), start
