"""Memory of the process: what the C library does with that which was freed."""

from __future__ import annotations

import ctypes
import os

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor.

    By default it returns large blocks to the system at once, and a network's tensors come from
    there anew in each layer, page by page. For programs that code or train, not for a library:
    what was taken stays taken until the process ends. What the user has set in the environment
    (`MALLOC_...`, `GLIBC_TUNABLES`) comes first, and other C libraries stay as they are.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    library = _glibc()
    if library is None:
        return
    wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 * 2**20}
    for name, value in wanted.items():
        library.mallopt(name, value)


def return_freed_memory() -> None:
    """Give glibc's freed memory back to the system once; other C libraries keep what they have."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return None
        return ctypes.CDLL(None)
    except (AttributeError, OSError, ValueError):  # no such name or library
        return None
