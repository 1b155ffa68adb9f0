"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from cmfr.utils.errors import UserError

SAVING = 60  # seconds that a run that was told to end may take to save


def _never(lock: TextIO) -> bool:
    return False


def lock_folder(
    folder: Path,
    waiting: str,
    refused: str,
    hopeless: Callable[[TextIO], bool] = _never,
) -> TextIO:
    """Make the folder and take its lock, the file ``.lock``, which is held until what is returned
    (and what child processes inherited of it) is closed.

    waiting, refused: what is printed where another process has it, and what a UserError then says.
    hopeless: whether there is no use in waiting, by what the lock file holds.

    A file system that knows no locks gives it to everybody.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a+")
    began = time.monotonic()
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if hopeless(file) or time.monotonic() - began > SAVING:
                file.close()
                raise UserError(refused) from None
        except OSError:
            return file
        if not told:
            print(waiting, file=sys.stderr)
            told = True
        time.sleep(0.1)
