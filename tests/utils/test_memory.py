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
