"""Jobs in this process and side by side: results, errors, progress, the end of everything."""

import multiprocessing
import os
import time
from contextlib import closing

import pytest
import torch

from cmfr.utils.parallel import outcomes


def work(job, count):
    if job == 0:
        raise ValueError("nothing to do")
    count(job)
    return job * job, os.getpid(), torch.get_num_threads()


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


def test_what_is_under_way_is_dropped():
    """When the iterator is closed, as an error or Ctrl-C in the loop over it does."""
    before, began = set(multiprocessing.active_children()), time.monotonic()
    with closing(outcomes(wait, [0, 600, 600], 2)) as results:
        assert next(results) == (0, 0)
    assert time.monotonic() - began < 300
    assert not set(multiprocessing.active_children()) - before
