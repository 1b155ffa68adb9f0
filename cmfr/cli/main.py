"""The command line: `cmfr --help` lists the commands. Errors of the user are one sentence."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from cmfr import __version__
from cmfr.cli import coding, convert, data, diagnose, evaluation, measure, report, train
from cmfr.utils.errors import UserError
from cmfr.utils.memory import keep_freed_memory
from cmfr.utils.signals import Terminated, ended_by_signals

# Torch and the codecs are imported inside the commands: `cmfr --help` and argument errors are
# instant that way.


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="cmfr",
        description="Neural video codec: conditional masked feature residual coding.",
        epilog="CMFR_TRACEBACK=1 in the environment shows where an error comes from.",
    )
    parser.add_argument("--version", action="version", version=f"cmfr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (coding, train, data, convert, measure, diagnose, evaluation, report):
        module.add_commands(commands)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Like `parse_args`, but `key=value` may stand behind options too."""
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    if hasattr(args, "overrides"):
        args.overrides += [text for text in rest if "=" in text and not text.startswith("-")]
        rest = [text for text in rest if text not in args.overrides]
    if rest:
        parser.error(f"{args.command}: unrecognized arguments: {' '.join(rest)}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Bad input prints one sentence and returns 1."""
    # Spinning OpenMP threads make a busy machine many times slower than waiting ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    args = parse(arguments)
    run: Callable[[argparse.Namespace], int | None] = args.run
    return guarded(f"cmfr {args.command}", lambda: run(args), getattr(args, "input", None))


def guarded(name: str, run: Callable[[], int | None], file: str | None = None) -> int:
    """The exit code of `run`. What goes wrong is told in a sentence; and where, if it is a mistake
    of ours or CMFR_TRACEBACK is set.

    name: of the command.
    file: its input, for errors that know places in it but not its name.
    """
    try:
        with ended_by_signals():
            return run() or 0
    except Terminated as ended:
        print(f"{name}: ended by {ended}", file=sys.stderr)
        return 128 + signal.Signals[str(ended)]
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        expected = _expected(error)
        if not expected or os.environ.get("CMFR_TRACEBACK", "0") != "0":
            traceback.print_exc()
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "allocate memory" in message:
            message = f"not enough memory ({message.rpartition('] ')[2] or 'for the pictures'})"
        if type(error).__module__ == "cmfr.codec.bitstream":
            message = f"{file}: {message}"
        if not expected:
            message = (
                f"{type(error).__name__}: {message} (a mistake of cmfr {__version__}, not of its "
                "input; please report it with the lines above)"
            )
        print(f"{name}: {message}", file=sys.stderr)
        return 1


def _expected(error: Exception) -> bool:
    """Whether it is something about the input or the machine, which the message tells."""
    memory = "OutOfMemory" in type(error).__name__ or "t allocate memory" in str(error)
    return memory or isinstance(error, (UserError, OSError, MemoryError))
