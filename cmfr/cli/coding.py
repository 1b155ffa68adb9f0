"""What `cmfr encode`, `decode` and `info` do; what they use is imported when they run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cmfr.cli.parser import add_decode, add_encode, add_info, source_options
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands
    from cmfr.codec.coded import CodedFrame, CodingReport


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser's subparsers."""
    add_encode(commands, run_encode)
    add_decode(commands, run_decode)
    add_info(commands, run_info)


def run_encode(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.codec.codec import load_codec
    from cmfr.codec.model_files import weights_files
    from cmfr.codec.rate_control import Target
    from cmfr.codec.request import check_request, check_resume
    from cmfr.video.reader import open_video
    from cmfr.video.writer import open_writer

    options = source_options(args)
    with open_video(args.input, start=args.start, frames=args.frames, **options) as reader:
        info = reader.info
    # Before seconds are spent on loading.
    read = (args.input, *weights_files(args.model, args.weights))
    check_distinct(args.output, *read)
    periods = args.intra_period, args.refresh_period
    check_request(args.input, args.output, args.quality, *periods, args.refine)
    targets = (args.target_bitrate, args.target_psnr)
    aim = Target(*targets) if any(target is not None for target in targets) else None
    check_resume(args.output, aim, args.resume)
    if args.reconstruction:
        if args.resume:
            raise UserError("--reconstruction does not go with --resume: decode the output")
        check_distinct(args.reconstruction, *read)
        if Path(args.output).resolve() == Path(args.reconstruction).resolve():
            raise UserError(f"--reconstruction {args.output} would overwrite the output")
    codec = load_codec(args.model, args.device, args.weights)
    common = {
        "quality": args.quality,
        "intra_period": args.intra_period,
        "refresh_period": args.refresh_period,
        "start": args.start,
        "frames": args.frames,
        "aim": aim,
        "resume": args.resume,
        "portable": args.portable,
        "refine": args.refine,
        **options,
    }
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
    for note in report.notes:
        print(f"cmfr encode: {note}", file=sys.stderr)


def run_decode(args: argparse.Namespace) -> int:
    """1 where the stream is damaged. Raises UserError or OSError with one sentence."""
    from cmfr.codec.bitstream import BitstreamReader
    from cmfr.codec.codec import load_codec
    from cmfr.codec.model_files import shipped_weights, weights_files

    with _open_stream(args.input) as file:
        header = BitstreamReader(file).header
    # What a stream says is a name, whatever it looks like.
    said = bool(args.model or args.weights)
    model = args.model or (header.model if said else shipped_weights(header.model))
    check_distinct(args.output, args.input, *weights_files(model, args.weights))
    codec = load_codec(model, args.device, args.weights)
    pixels = header.width * header.height
    with _Progress("decode", header.frame_count, pixels, args.quiet) as progress:
        report = codec.decode_video(
            args.input,
            args.output,
            keep_going=args.keep_going,
            max_pixels=args.max_pixels,
            on_frame=progress,
            crf=args.crf,
            matrix=args.matrix,
            range=args.range,
        )
    _summary(args, report)
    if report.damaged:
        shown = _ranges(report.damaged)
        print(f"cmfr: {len(report.damaged)} damaged or lost frames: {shown}", file=sys.stderr)
    if report.fault:
        print(f"cmfr: {args.input}: {report.fault}", file=sys.stderr)
    return 1 if report.damaged or report.fault else 0


def _ranges(numbers: list[int]) -> str:
    """All of rising numbers: "1, 4-7, 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _open_stream(path: str) -> BinaryIO:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    return Path(path).open("rb")


def run_info(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    if Path(args.input).suffix == ".safetensors":
        _describe_weights(Path(args.input))
    else:
        _describe_stream(args)


def _describe_weights(path: Path) -> None:
    from cmfr.codec.checkpoint import read_weights, weights_id_of

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
    from cmfr.codec.bitstream import BitstreamReader

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


class _Progress:
    """Progress bar over frames with fps, bpp and time left; none in a pipe. It appears with the
    first frame: what is wrong with a request is found before."""

    def __init__(self, verb: str, total: int | None, pixels: int, quiet: bool) -> None:
        self._pixels, self._bits, self._frames = pixels, 0, 0
        self._options: dict[str, Any] = {
            "total": total,
            "desc": verb,
            "unit": "frame",
            "dynamic_ncols": True,
            "disable": True if quiet else None,
        }
        self._bar: Any = None

    def __call__(self, coded: CodedFrame) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(**self._options)
        self._bits += coded.bits
        self._frames += 1
        self._bar.set_postfix(bpp=f"{self._bits / self._pixels / self._frames:.4f}", refresh=False)
        self._bar.update(coded.number + 1 - self._bar.n)  # those of a resumed output count too

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _summary(args: argparse.Namespace, report: CodingReport) -> None:
    if not args.quiet:
        print(
            f"{args.output}: {report.frames} frames of {report.info.width}x{report.info.height}, "
            f"{report.bytes} bytes in the stream, {report.bpp:.5f} bpp, {report.fps:.2f} fps"
        )
