"""The command `cmfr diagnose`; what it uses is imported when it runs."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr.cli.options import add_list, tell
from cmfr.cli.parser import add_device
from cmfr.utils.errors import UserError

if TYPE_CHECKING:
    from cmfr.analysis.diagnosis_table import DiagnosedSequence
    from cmfr.cli.parser import Commands
    from cmfr.codec.codec import Codec
    from cmfr.evaluation.sequences import TestSequence


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
    diagnose.add_argument("--frames", type=int, help="the first so many (default: all listed)")
    add_device(diagnose)
    diagnose.set_defaults(run=run_diagnose)


def run_diagnose(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.analysis.diagnosis import diagnose
    from cmfr.codec.codec import load_codec
    from cmfr.evaluation.found_sets import find_set

    if args.frames is not None and args.frames < 8:
        raise UserError(f"--frames {args.frames}: 8 are needed at least")
    found = find_set(args.test, args.root, args.sequences, args.frames, tell)
    codec = load_codec(args.model, args.device)
    read = [_read(codec, sequence, path, args.frames) for sequence, path in found.sequences]
    for table in diagnose(codec.model, read):
        print(table, end="\n\n", flush=True)


def _read(
    codec: Codec, sequence: TestSequence, path: Path, frames: int | None
) -> DiagnosedSequence:
    from cmfr.analysis.diagnosis_table import DiagnosedSequence
    from cmfr.evaluation.sequences import open_sequence
    from cmfr.video.color import planes_to_tensor
    from cmfr.video.info import resolve_color

    color = codec.model.cfg.color
    with open_sequence(path, sequence) as reader:
        info = resolve_color(reader.info, "bt709", "full") if color == "rgb" else reader.info
        read = islice(reader, sequence.frames if frames is None else frames)
        tensors = (planes_to_tensor(frame, info, color, codec.device) for frame in read)
        return DiagnosedSequence.of(sequence.name, tensors, codec.model)
