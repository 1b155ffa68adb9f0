"""The command `cmfr convert`: published DCVC checkpoints -> one weights file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct, check_target

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Add the command to the parser's subparsers."""
    convert = commands.add_parser(
        "convert", help="published checkpoints of DCVC-DC or DCVC-FM to a weights file"
    )
    convert.add_argument("--model", required=True, help="dcvc-dc or dcvc-fm")
    convert.add_argument(
        "--weights",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="the published image and video checkpoint",
    )
    convert.add_argument(
        "--color",
        choices=("rgb", "ycbcr"),
        help="what the checkpoints were trained on (dcvc-dc: by their names; dcvc-fm: ycbcr)",
    )
    convert.add_argument(
        "--quality-gains",
        choices=("ends", "anchors"),
        help="dcvc-dc: 64 qualities between the ends (default), or through its four rate points, "
        "which are then exactly qualities 0, 21, 42 and 63",
    )
    convert.add_argument(
        "-o", "--output", type=Path, required=True, help="the .safetensors to write"
    )
    convert.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.codec.model_files import convert_files

    if args.output.suffix != ".safetensors":
        raise UserError(f"{args.output}: a weights file is called .safetensors")
    check_distinct(args.output, *args.weights)
    check_target(args.output)
    changes = {"color": args.color, "quality_gains": args.quality_gains}
    changes = {key: value for key, value in changes.items() if value is not None}
    cfg, count = convert_files(args.weights, args.model, args.output, **changes)
    print(f"{args.output}: {cfg.name}, {cfg.color}, {count / 1e6:.2f} M parameters")
