"""The command line: `cmfr --help` lists the commands. Errors are one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmfr import __version__, cli_convert, cli_evaluation, cli_measure, cli_report
from cmfr.cli_parser import add_decode, add_encode
from cmfr.config import QUALITIES

if TYPE_CHECKING:
    from cmfr.coding import CodedFrame, CodingReport

# Torch and the codecs are imported inside the commands: `cmfr --help` and argument errors are
# instant that way.


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(
        prog="cmfr", description="Neural video codec: conditional masked feature residual coding."
    )
    parser.add_argument("--version", action="version", version=f"cmfr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_encode(commands, _encode)
    add_decode(commands, _decode)

    info = commands.add_parser(
        "info", help="header, frame table and rate of a .cmfr file; model and id of weights"
    )
    info.add_argument("input", help="a .cmfr file, or a weights file (.safetensors)")
    info.add_argument("--no-frames", action="store_true", help="leave out the frame table")
    info.set_defaults(run=_info)

    train = commands.add_parser(
        "train", help="train from a YAML configuration; the same command resumes"
    )
    train.add_argument("config", help="YAML file, see configs/train")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. stages.0.steps=100")
    train.add_argument("--dry-run", action="store_true", help="print the resolved configuration")
    train.set_defaults(run=_train)

    ablate = commands.add_parser(
        "ablate", help="train and compare variants of a model; the same command resumes"
    )
    ablate.add_argument("config", help="YAML file, see configs/ablation")
    ablate.add_argument(
        "overrides", nargs="*", metavar="key=value",
        help="e.g. parallel=4; base.KEY=value changes the training configuration",
    )  # fmt: skip
    ablate.add_argument("--dry-run", action="store_true", help="print variants, runs, what is done")
    ablate.add_argument(
        "--report-only", action="store_true", help="table and plots of what is done"
    )
    ablate.set_defaults(run=_ablate)

    cli_convert.add_commands(commands)
    cli_measure.add_commands(commands)
    cli_evaluation.add_commands(commands)
    cli_report.add_commands(commands)
    return parser


def _encode(args: argparse.Namespace) -> None:
    if not 0 <= args.quality < QUALITIES:  # before seconds are spent on loading
        raise ValueError(f"quality {args.quality} is not in 0..{QUALITIES - 1}")
    from cmfr.coding import load_codec
    from cmfr.video_in import open_video
    from cmfr.video_out import open_writer

    options = {
        "size": args.size, "pixel_format": args.pixel_format, "frame_rate": args.frame_rate,
        "matrix": args.matrix, "range": args.range,
    }  # fmt: skip
    with open_video(args.input, start=args.start, frames=args.frames, **options) as reader:
        info = reader.info
    for path in (args.input, args.output):
        if args.reconstruction and Path(path).resolve() == Path(args.reconstruction).resolve():
            raise ValueError(f"--reconstruction {path} would overwrite the input or the output")
    codec = load_codec(args.model, args.device, args.weights)
    common = {
        "quality": args.quality, "intra_period": args.intra_period,
        "refresh_period": args.refresh_period, "start": args.start, "frames": args.frames,
        **options,
    }  # fmt: skip
    with _Progress("encode", info.frame_count, info.width * info.height, args.quiet) as progress:
        if args.reconstruction:
            with open_writer(args.reconstruction, info) as writer:

                def on_frame(coded: CodedFrame) -> None:
                    writer.write(coded.reconstruction)
                    progress(coded)

                report = codec.encode_video(args.input, args.output, on_frame=on_frame, **common)
        else:
            report = codec.encode_video(args.input, args.output, on_frame=progress, **common)
    _summary(args, report)


def _decode(args: argparse.Namespace) -> int:
    from cmfr.bitstream import BitstreamReader
    from cmfr.coding import load_codec

    with _open_stream(args.input) as file:
        header = BitstreamReader(file).header
    codec = load_codec(args.model or header.model, args.device, args.weights)
    pixels = header.width * header.height
    with _Progress("decode", header.frame_count, pixels, args.quiet) as progress:
        report = codec.decode_video(
            args.input, args.output, keep_going=args.keep_going, on_frame=progress, crf=args.crf,
            matrix=args.matrix, range=args.range,
        )  # fmt: skip
    _summary(args, report)
    if report.damaged:
        shown = ", ".join(map(str, report.damaged[:10])) + (", ..." if report.damaged[10:] else "")
        print(f"cmfr: {len(report.damaged)} damaged or lost frames: {shown}", file=sys.stderr)
    return 1 if report.damaged else 0


def _open_stream(path: str):  # type: ignore[no-untyped-def]
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    return Path(path).open("rb")


def _info(args: argparse.Namespace) -> None:
    if Path(args.input).suffix == ".safetensors":
        _describe_weights(Path(args.input))
    else:
        _describe_stream(args)


def _describe_weights(path: Path) -> None:
    from cmfr.checkpoint import read_weights, weights_id_of

    cfg, weights, metadata = read_weights(path)
    print(f"{path}: {path.stat().st_size} bytes")
    for name, value in {
        "model": cfg.name,
        "weights id": weights_id_of(metadata).hex(),
        "parameters": f"{sum(value.numel() for value in weights.values()) / 1e6:.2f} M",
        "color": {"ycbcr": "YCbCr", "rgb": "RGB"}[cfg.color],
        "training steps": metadata.get("steps", "not known"),
    }.items():
        print(f"  {name:<15}{value}")


def _describe_stream(args: argparse.Namespace) -> None:
    from cmfr.bitstream import BitstreamReader

    with _open_stream(args.input) as file:
        reader = BitstreamReader(file)
        header = reader.header
        packets = [(p.number, p.intra, p.quality, p.size) for p in reader]
    size, pixels = Path(args.input).stat().st_size, header.width * header.height
    rate = header.frame_rate
    print(f"{args.input}: {size} bytes")
    for name, value in header.describe().items():
        print(f"  {name:<15}{value}")
    if packets:
        print(f"  {'bpp':<15}{8 * size / pixels / len(packets):.5f}")
        print(f"  {'kbit/s':<15}{8 * size * float(rate) / len(packets) / 1000:.2f}")
    for kind, intra in (("I", True), ("P", False)):
        sizes = [packet[3] for packet in packets if packet[1] == intra]
        if sizes:
            print(
                f"  {kind}-frames       {len(sizes)}, {sum(sizes)} bytes, "
                f"{8 * sum(sizes) / len(sizes) / pixels:.5f} bpp each"
            )
    if not args.no_frames:
        print(f"{'frame':>7} type quality {'bytes':>9} {'bpp':>9}")
        for number, intra, quality, nbytes in packets:
            kind = "I" if intra else "P"
            print(f"{number:>7} {kind:>4} {quality:>7} {nbytes:>9} {8 * nbytes / pixels:>9.5f}")


def _train(args: argparse.Namespace) -> None:
    from cmfr.training.config import load_train_config

    cfg = load_train_config(args.config, args.overrides)
    if args.dry_run:
        print(cfg.model_dump_json(indent=1))
        return
    from cmfr.training.trainer import train

    train(cfg)


def _ablate(args: argparse.Namespace) -> int:
    from cmfr.ablation import load_ablation, run
    from cmfr.ablation_report import describe, write_report

    cfg = load_ablation(args.config, args.overrides)
    if args.dry_run:
        print(describe(cfg))
        return 0
    failures = {} if args.report_only else run(cfg)
    print(write_report(cfg))
    for name, reason in failures.items():
        print(f"cmfr ablate: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


class _Progress:
    """Progress bar over frames with fps, bpp and time left."""

    def __init__(self, verb: str, total: int | None, pixels: int, quiet: bool) -> None:
        from tqdm import tqdm

        self._pixels, self._bits, self._frames = pixels, 0, 0
        self._bar = tqdm(total=total, desc=verb, unit="frame", disable=quiet, dynamic_ncols=True)

    def __call__(self, coded: CodedFrame) -> None:
        self._bits += coded.bits
        self._frames += 1
        self._bar.set_postfix(bpp=f"{self._bits / self._pixels / self._frames:.4f}", refresh=False)
        self._bar.update()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _summary(args: argparse.Namespace, report: CodingReport) -> None:
    if not args.quiet:
        print(
            f"{args.output}: {report.frames} frames of {report.info.width}x{report.info.height}, "
            f"{report.bytes} bytes in the stream, {report.bpp:.5f} bpp, {report.fps:.2f} fps"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Bad input prints one sentence and returns 1."""
    # Spinning OpenMP threads make a busy machine many times slower than waiting ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int | None] = args.run
    try:
        return run(args) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "OutOfMemory" not in type(error).__name__:
            raise  # a mistake of ours: show where
        message = " ".join(str(error).split())
        if type(error).__module__ == "cmfr.bitstream":  # its errors know frames, not file names
            message = f"{args.input}: {message}"
        print(f"cmfr {args.command}: {message}", file=sys.stderr)
        return 1
