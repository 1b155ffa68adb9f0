"""The command `cmfr diagnose`; what it uses is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr.cli.options import add_list, tell
from cmfr.cli.parser import add_device
from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Add the command to the parser's subparsers."""
    diagnose = commands.add_parser(
        "diagnose", help="what each part of a CMFR contributes, in tables: motion, mask, drift, ..."
    )
    diagnose.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    diagnose.add_argument(
        "--test", required=True, help="test set: a name or a YAML file, see configs/test"
    )
    diagnose.add_argument("--root", type=Path, required=True, help="folder of its sequences")
    add_list(diagnose, "--sequences", str, "names", help="only these (default: all)")
    diagnose.add_argument(
        "--frames", type=int, help="the first so many, all in memory (default: all listed)"
    )
    add_device(diagnose)
    diagnose.set_defaults(run=run_diagnose)


def run_diagnose(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.analysis.diagnosis import diagnose
    from cmfr.codec.codec import load_codec
    from cmfr.evaluation.diagnosed import read_sequence
    from cmfr.evaluation.found_sets import find_set

    if args.frames is not None and args.frames < 8:
        raise UserError(f"--frames {args.frames}: 8 are needed at least")
    found = find_set(args.test, args.root, args.sequences, args.frames, tell)
    codec = load_codec(args.model, args.device)
    read = [read_sequence(codec, sequence, path, args.frames) for sequence, path in found.sequences]
    for table in diagnose(codec.model, read):
        print(table, end="\n\n", flush=True)
