"""Freed memory is kept for the next tensor by programs, not by the library."""

import os
import subprocess
import sys

import pytest

BEGIN = """
import resource

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        b"1" * 40_000_000  # more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

"""
LIBRARY = "import cmfr.codec.codec, cmfr.cli.main\nprint(pages())\n"
COMMAND = "from cmfr.cli.main import main\nmain(['info', 'no_such_file'])\nprint(pages())\n"
POOL = "from cmfr.utils import parallel\nparallel._begin(1, None)\nprint(pages())\n"


def pages(code, **variables):
    """New pages that fifty blocks needed which were freed one after the other; a number for each
    place in `code` that counts them."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        env=environment | variables,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return [int(line) for line in done.stdout.split()]


def glibc():
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):
        return False


@pytest.mark.skipif(not glibc(), reason="needs glibc")
def test_programs_keep_what_was_freed():
    anew, kept = pages(LIBRARY + COMMAND)
    assert anew > 500 and kept < anew / 3
    [kept] = pages(POOL)
    assert kept < anew / 3


@pytest.mark.skipif(not glibc(), reason="needs glibc")
@pytest.mark.parametrize(
    "variables", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_what_the_user_has_set_comes_first(variables):
    [anew] = pages(COMMAND, **variables)
    assert anew > 500


@pytest.mark.skipif(not glibc(), reason="needs glibc")
def test_what_a_program_keeps_does_not_count_as_the_peak_of_later_work():
    code = """
import torch
from cmfr.utils import parallel
from cmfr.utils.device import peak_memory, reset_peak_memory

parallel._begin(1, None)
cpu = torch.device("cpu")
large = torch.ones(2**26)
later = torch.ones(1000)  # so that what is freed is not at the end
print(peak_memory(cpu) or 0)
del large
reset_peak_memory(cpu)
print(peak_memory(cpu) or 0)
"""
    before, after = pages(code)
    if not before:
        pytest.skip("this system does not tell the peak memory of a while")
    assert after < before - 2**27
