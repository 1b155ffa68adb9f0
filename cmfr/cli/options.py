"""Options that the measuring commands share: lists, and what quality is measured on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cmfr.cli.parser import add_color, add_intra_period
from cmfr.evaluation.conditions import CodingConditions
from cmfr.utils.errors import UserError


class ListAction(argparse.Action):
    """For `nargs="+"` with a type of `list_of`: one flat list; an option that is repeated adds."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        started = before if before is not self.default else []
        setattr(namespace, self.dest, [*started, *(one for part in values for one in part)])


def list_of(kind: Callable[[str], Any], what: str) -> Callable[[str], list[Any]]:
    """The type of such an option: "0,21" -> [0, 21]; `what` is what its error calls an entry."""

    def parse(text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        try:
            return [kind(part) for part in parts]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {what}") from None

    return parse


def existing_paths(text: str) -> list[Path]:
    """The type of an option that takes files: one whose name has commas is not cut at them."""
    if Path(text).exists() or "," not in text:
        return [Path(text)]
    return [Path(part.strip()) for part in text.split(",") if part.strip()]


def add_list(
    parser: argparse._ActionsContainer,
    name: str,
    kind: Callable[[str], Any],
    what: str,
    **options: Any,
) -> None:
    """An option that takes such a list."""
    parser.add_argument(name, nargs="+", type=list_of(kind, what), action=ListAction, **options)


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """How sequences are coded and what quality is measured on."""
    parser.add_argument("--frames", type=int, help="the first so many (default: all listed)")
    add_intra_period(parser)
    parser.add_argument(
        "--color",
        choices=("yuv420", "rgb"),
        default="yuv420",
        help="measure the decoded samples (default), or RGB made of the source as DCVC does",
    )
    add_color(parser, "of that conversion to RGB (bt709, full, as DCVC suggests)")
    parser.add_argument("--round-8bit", action="store_true", help="round RGB before measuring")


def conditions(args: argparse.Namespace) -> CodingConditions:
    """What these options ask for, and --refresh-period and --refine where they are. Raises
    UserError."""
    measured = ("color", "matrix", "range", "round_8bit")
    coded = ("frames", "intra_period", "refresh_period", "refine")
    return CodingConditions.asked(**{n: getattr(args, n) for n in measured + coded if n in args})


def add_stated(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options that say what a file of others does not."""
    group = parser.add_argument_group("what a DCVC, CompressAI or CSV file does not say")
    add_color(group, "of its conversion to RGB")
    group.add_argument("--intra-period", type=int, help="-1: only the first frame was intra")
    group.add_argument(
        "--rounding", choices=("float", "8bit"), help="of decoded samples before they were measured"
    )
    group.add_argument(
        "--chroma", choices=("linear", "repeated"), help="of 4:2:0, in its conversion to RGB"
    )
    return group


def stated(args: argparse.Namespace) -> dict[str, Any]:
    """The conditions that those options give."""
    names = ("matrix", "range", "intra_period", "rounding", "chroma")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def tell(line: str) -> None:
    """A line beside the results."""
    print(line, file=sys.stderr, flush=True)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """What to code: a test set, or any videos."""
    parser.add_argument("--test", help="test set: a name or a YAML file, see configs/test")
    parser.add_argument("--root", type=Path, help="folder of the test set's sequences")
    parser.add_argument(
        "--videos",
        nargs="+",
        type=existing_paths,
        action=ListAction,
        help="videos, folders of PNGs or folders of videos, instead of a test set",
    )


def check_sources(args: argparse.Namespace) -> None:
    """Raises ValueError where those options do not fit together."""
    if bool(args.test) == bool(args.videos) or bool(args.test) != bool(args.root):
        raise UserError("give either --test with --root, or --videos")
