"""Freed memory is kept for the next tensor by programs, not by the library."""

import os
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch

def fill():
    torch.empty(10_000_000).fill_(1)  # 40 MB, more than glibc keeps by itself

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
COMMAND = "from cmfr.cli.main import main\nmain(['info', 'no_such_file'])\n"
POOL = "from cmfr.utils import parallel\nparallel._begin(1, None)\n"
LIBRARY = "import cmfr.codec.codec, cmfr.training.trainer, cmfr.cli.main\n"


def pages(begin, **variables):
    """New pages that fifty tensors needed which were freed one after the other."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    command = [sys.executable, "-c", begin + COUNT]
    done = subprocess.run(
        command, env=environment | variables, stdout=subprocess.PIPE, check=True, text=True
    )
    return int(done.stdout.split()[-1])


def glibc():
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):
        return False


@pytest.mark.skipif(not glibc(), reason="needs glibc")
def test_programs_keep_what_was_freed():
    anew = pages(LIBRARY)
    assert anew > 500
    assert pages(COMMAND) < anew / 3
    assert pages(POOL) < anew / 3


@pytest.mark.skipif(not glibc(), reason="needs glibc")
@pytest.mark.parametrize(
    "variables", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_what_the_user_has_set_comes_first(variables):
    assert pages(COMMAND, **variables) > 500
