"""Options of the commands that code videos, and options that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cmfr.config import MAX_PIXELS, QUALITIES
from cmfr.evaluation.conditions import MATRICES, RANGES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
Run = Callable[[argparse.Namespace], "int | None"]


def add_encode(commands: Commands, run: Run) -> None:
    encode = commands.add_parser("encode", help="compress a video to a .cmfr file")
    encode.add_argument(
        "input", help="a video (mp4, mkv, mov, webm, y4m, ...), a raw planar .yuv, a PNG folder"
    )
    encode.add_argument("output", help="the .cmfr file to write")
    encode.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    add_weights(encode)
    wanted = encode.add_mutually_exclusive_group()
    wanted.add_argument(
        "--quality",
        type=int,
        default=32,
        help=f"0 (smallest file) .. {QUALITIES - 1} (best picture), default 32",
    )
    wanted.add_argument(
        "--target-bitrate",
        type=bit_rate,
        metavar="RATE",
        help="bits per second of the file, e.g. 800k or 1.5M; qualities are chosen for it",
    )
    wanted.add_argument(
        "--target-psnr",
        type=float,
        metavar="DB",
        help="mean PSNR over frames, 6:1:1 (RGB: over R, G, B); qualities are chosen for it",
    )
    add_intra_period(encode)
    add_refresh_period(encode)
    encode.add_argument("--frames", type=int, help="code only so many frames")
    encode.add_argument("--start", type=int, default=0, help="first frame to code (0)")
    encode.add_argument(
        "--portable",
        action="store_true",
        help="the stream decodes alike on every machine, CPU or GPU; slower on both sides",
    )
    add_refine(encode)
    add_source(encode)
    encode.add_argument(
        "--reconstruction",
        metavar="VIDEO",
        help="also write what the decoder will show (lossless video, .y4m, .yuv or PNG folder)",
    )
    encode.add_argument(
        "--resume",
        action="store_true",
        help="go on with an unfinished output from its last intra frame (--intra-period); and keep "
        "this one, if it is interrupted",
    )
    add_device(encode)
    add_quiet(encode)
    encode.set_defaults(run=run)


def add_decode(commands: Commands, run: Run) -> None:
    decode = commands.add_parser("decode", help="decompress a .cmfr file")
    decode.add_argument("input", help="a .cmfr file")
    decode.add_argument(
        "output", help="mp4, mkv, mov (lossless H.264), y4m, yuv, or a folder for PNGs"
    )
    decode.add_argument("--model", help="model name or weights file (default: the stream's name)")
    add_weights(decode)
    decode.add_argument("--crf", type=int, help="x264 with this CRF instead of lossless")
    add_color(decode, "of the stream, where it does not say (PNGs need them)")
    decode.add_argument(
        "--keep-going",
        action="store_true",
        help="damaged file: repeat the last good frame until the next intra frame",
    )
    decode.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help="refuse a stream that says that its pictures have more (default 8192x4320)",
    )
    add_device(decode)
    add_quiet(decode)
    decode.set_defaults(run=run)


def add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("what the input does not say itself")
    source.add_argument("--size", type=frame_size, metavar="WxH", help="WIDTHxHEIGHT of a .yuv")
    source.add_argument(
        "--pixel-format",
        choices=("yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"),
        help="of a .yuv",
    )
    source.add_argument("--frame-rate", help="frames per second, e.g. 25 or 30000/1001")
    add_color(source, "of the input")


def source_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_source` asked for, as `reader.open_video` takes it."""
    names = ("size", "pixel_format", "frame_rate", "matrix", "range")
    return {name: getattr(args, name) for name in names}


def add_info(commands: Commands, run: Run) -> None:
    info = commands.add_parser(
        "info", help="header, frame table and rate of a .cmfr file; model and id of weights"
    )
    info.add_argument("input", help="a .cmfr file, or a weights file (.safetensors)")
    info.add_argument("--no-frames", action="store_true", help="leave out the frame table")
    info.set_defaults(run=run)


def add_color(parser: argparse._ActionsContainer, whose: str) -> None:
    parser.add_argument("--matrix", choices=MATRICES, help=f"color matrix {whose}")
    parser.add_argument("--range", choices=RANGES, help=f"sample range {whose}")


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="FILE",
        help="weights of --model: a .safetensors, or the published checkpoints of dcvc-dc or "
        "dcvc-fm (image and video)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto (default) takes the GPU if there is one",
    )


def add_intra_period(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--intra-period",
        type=int,
        default=-1,
        help="frames from one intra frame to the next; -1 (default): only the first is intra",
    )


def add_refresh_period(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refresh-period",
        type=int,
        help="frames between temporal feature refreshes, 0 = never (default: the model's)",
    )


def add_refine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="STEPS",
        help="refine each P-frame's motion by so many gradient steps: fewer bits, encoding about "
        "ten times as slow with three of them; decoding stays as it is (0)",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")


def bit_rate(text: str) -> float:
    """ "800k" -> 800000.0 bits per second; k and M are decimal."""
    unit = {"k": 1e3, "m": 1e6}.get(text[-1:].lower())
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no bit rate, as 800k or 1.5M") from None


def frame_size(text: str) -> tuple[int, int]:
    """ "416x240" -> (416, 240)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)
