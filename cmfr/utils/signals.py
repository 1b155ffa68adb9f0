"""SIGTERM (clusters), closed terminals and Ctrl-C, handled while something runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Terminated(BaseException):
    """SIGTERM or a closed terminal; not an `Exception`, so that it passes through to the end."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` within, where they would end the process as it is: what
    is half done is undone. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(kind: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(kind).name)

    kinds = (signal.SIGTERM, signal.SIGHUP)
    ours = [kind for kind in kinds if signal.getsignal(kind) is signal.SIG_DFL]
    for kind in ours:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind in ours:
            signal.signal(kind, signal.SIG_DFL)


def end_with_parent() -> None:
    """In a process just forked (`preexec_fn`): it gets SIGTERM where its parent is killed. Linux
    only; elsewhere it goes on to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def heed_parent_alone(*_: object) -> None:
    """In a process that works for another: SIGTERM from anyone but its parent, and Ctrl-C, are not
    heard. Clusters, `timeout` and terminals signal all processes of a command; what its helpers
    are to do then is the command's to say. Elsewhere than on Linux only Ctrl-C is not heard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C call `handler` within; no effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(kind, handler) for kind in kinds]
    try:
        yield
    finally:
        for kind, former in zip(kinds, previous, strict=True):
            signal.signal(kind, former)
