"""The commands `cmfr evaluate`, `inspect` and `bench`; what they use is imported when they run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmfr.cli.options import (
    add_conditions,
    add_list,
    add_sources,
    check_sources,
    conditions,
    tell,
)
from cmfr.cli.parser import (
    add_color,
    add_device,
    add_intra_period,
    add_refine,
    add_refresh_period,
    add_weights,
    frame_size,
)
from cmfr.config import QUALITIES
from cmfr.models.presets import PRESETS
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text, check_distinct, check_target

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser's subparsers; each sets `run`."""
    _add_evaluate(commands)
    _add_inspect(commands)
    _add_bench(commands)


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="rate and distortion on a test set; the same command resumes"
    )
    evaluate.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    add_weights(evaluate)
    add_sources(evaluate)
    add_list(evaluate, "--sequences", str, "names", help="only these of the test set")
    add_list(
        evaluate,
        "--qualities",
        quality_index,
        f"qualities 0..{QUALITIES - 1}",
        default=[0, 21, 42, 63],
        metavar="Q",
        help="e.g. 0,21,42,63 (default)",
    )
    add_conditions(evaluate)
    add_refresh_period(evaluate)
    add_refine(evaluate)
    evaluate.add_argument("--processes", type=int, default=1, help="side by side (1)")
    evaluate.add_argument("--threads", type=int, help="CPU threads of each process")
    add_device(evaluate)
    evaluate.add_argument("-o", "--output", type=Path, required=True, help="results file (JSON)")
    evaluate.add_argument(
        "--compressai", type=Path, metavar="FILE", help="also write CompressAI's video JSON there"
    )
    evaluate.set_defaults(run=run_evaluate)


def _add_inspect(commands: Commands) -> None:
    inspect = commands.add_parser(
        "inspect", help="pictures of what the codec does to a frame: flow, mask, residual, bits"
    )
    inspect.add_argument("input", help="a video, as for encode")
    inspect.add_argument("--frame", type=int, default=2, help="which frame, from 0 (2)")
    inspect.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    inspect.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    add_weights(inspect)
    inspect.add_argument("--quality", type=int, default=32, help=f"0..{QUALITIES - 1} (32)")
    add_intra_period(inspect)
    inspect.add_argument("--frames", type=int, help="code only so many frames")
    inspect.add_argument("--size", type=frame_size, help="WIDTHxHEIGHT of a .yuv")
    inspect.add_argument("--pixel-format", help="of a .yuv")
    add_color(inspect, "of the input")
    add_device(inspect)
    inspect.set_defaults(run=run_inspect)


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="parameters, kMACs per pixel by part, frames per second, time by stage, memory",
    )
    add_list(
        bench,
        "--model",
        str,
        "models",
        default=list(PRESETS),
        metavar="MODEL",
        help="presets or weights files (default: all presets)",
    )
    bench.add_argument("--complexity", action="store_true", help="parameters and kMACs only")
    bench.add_argument("--size", type=frame_size, default=(416, 240), help="frame size (416x240)")
    bench.add_argument("--frames", type=int, default=8, help="frames to time (8)")
    bench.add_argument("--json", type=Path, help="also write everything there")
    bench.add_argument("--profile", type=Path, help="folder for torch profiler traces of a P-frame")
    add_device(bench)
    bench.set_defaults(run=run_bench)


def quality_index(text: str) -> int:
    """A quality index, 0..63. Raises ValueError."""
    if not 0 <= int(text) < QUALITIES:
        raise UserError(f"{text} is not in 0..{QUALITIES - 1}")
    return int(text)


def run_evaluate(args: argparse.Namespace) -> int:
    """Raises UserError or OSError with one sentence; 1 when a measurement failed."""
    from cmfr.codec.model_files import weights_files
    from cmfr.evaluation.found_sets import find_set, set_of_files
    from cmfr.evaluation.run import Run, evaluate
    from cmfr.utils.device import all_devices

    check_sources(args)
    if args.videos and args.sequences:
        raise UserError("--sequences is for --test")
    for name in ("processes", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)} is less than 1")
    asked, devices = conditions(args), all_devices(args.device)
    if args.videos:
        found = set_of_files(args.videos, args.frames)
    else:
        found = find_set(args.test, args.root, args.sequences, args.frames, tell)
    outputs = [path for path in (args.output, args.compressai) if path]
    read = [*weights_files(args.model, args.weights), *(path for _, path in found.sequences)]
    for path in outputs:
        check_target(path)
        check_distinct(path, *read, *filter(None, [args.test]))
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError(f"--compressai {args.compressai} would overwrite the output")
    with _weights_file(args.model, args.weights) as weights:
        run = Run(weights, found, sorted(set(args.qualities)), asked)
        failures = evaluate(run, args.output, devices, args.processes, args.threads)
    for where, reason in failures.items():
        print(f"{where}: {reason}", file=sys.stderr)
    if failures:
        raise UserError(
            f"{len(failures)} measurements failed, see above; {args.output} is not written, the "
            "same command goes on"
        )
    _print_results(args.output)
    if args.compressai:
        from cmfr.evaluation.published import export_compressai
        from cmfr.evaluation.records import read_results

        export_compressai(args.compressai, read_results(args.output))
    return 0


@contextmanager
def _weights_file(model: str, weights: list[str] | None) -> Iterator[Path]:
    """The weights file to measure with; published checkpoints are converted for the time being."""
    from cmfr.codec.checkpoint import save_weights
    from cmfr.codec.model_files import find_weights, read_model

    if not weights:
        yield find_weights(model)
        return
    cfg, tensors, weights_id, _ = read_model(model, weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        dtype = next(iter(tensors.values())).dtype
        save_weights(path, tensors, cfg, dtype=dtype, weights_id=weights_id)
        yield path


def _print_results(path: Path) -> None:
    from cmfr.evaluation.records import read_results

    print("sequence  quality  frames  bpp (file)  bpp (estimate)  metrics")
    for r in read_results(path):
        mean = r.average()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in mean.quality.items())
        bits = f"{mean.bpp:.5f}  {mean.estimated_bpp:.5f}"
        print(f"{r.sequence}  {r.label}  {mean.frames}  {bits}  {shown}")
    print(f"written to {path}")


def run_inspect(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.analysis.inspect import describe, inspect_video
    from cmfr.codec.codec import load_codec
    from cmfr.video.reader import open_video

    check_distinct(args.output, args.input)
    codec = load_codec(args.model, args.device, args.weights)
    rows = inspect_video(
        codec,
        args.input,
        args.frame,
        args.output,
        quality=args.quality,
        intra_period=args.intra_period,
        frames=args.frames,
        size=args.size,
        pixel_format=args.pixel_format,
        matrix=args.matrix,
        range=args.range,
    )
    source = {"size": args.size, "pixel_format": args.pixel_format}
    with open_video(args.input, **source) as reader:
        print(f"{describe(rows[args.frame], reader.info)}; pictures in {args.output}")


def run_bench(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    import torch

    from cmfr.analysis.benchmark import profile_frames, time_files, time_frames
    from cmfr.analysis.complexity import count, count_parts, table
    from cmfr.codec.checkpoint import read_weights
    from cmfr.codec.model_files import find_weights
    from cmfr.utils.device import pick_device

    if args.frames < 2 or min(args.size) < 16:
        raise UserError("bench needs at least 2 frames of at least 16x16 pixels")
    if args.json:
        check_target(args.json)
        check_distinct(args.json, *args.model)
    for name in args.model:  # before the first is timed
        if name not in PRESETS:
            read_weights(find_weights(name))
    device, complexity, parts, speed = pick_device(args.device), [], [], []
    files: dict[str, float] = {}
    for name in args.model:
        model = _model(name).eval().to(device, memory_format=torch.channels_last)
        complexity += count(model)
        parts += count_parts(model)
        if not args.complexity:
            width, height = args.size
            clip = [torch.rand(1, 3, height, width, device=device) for _ in range(args.frames)]
            padded = [model.padded(x) for x in clip]
            speed += time_frames(model, padded)
            files = files or time_files(clip, model.cfg.color)
            if args.profile:
                args.profile.mkdir(parents=True, exist_ok=True)
                trace = args.profile / f"{Path(name).stem}.json"
                profile_frames(model, padded[:3], 32, trace)
    print(table(complexity), table(parts), sep="\n\n")
    if speed:
        threads = torch.get_num_threads()
        print(
            f"\n{device}, {threads} threads, torch {torch.__version__}; random frames, quality 32"
        )
        print(_speed_table(speed))
        print(f"\nlossless video file: read {files['read']}, write {files['write']} ms per frame")
    if args.json:
        run = {
            "device": str(device),
            "threads": torch.get_num_threads(),
            "quality": 32,
            "frames": args.frames,
        }
        _write_json(args.json, run, complexity, parts, speed, files)


def _model(name: str) -> Any:
    import torch

    from cmfr.codec.checkpoint import read_weights
    from cmfr.codec.model_files import build_model, find_weights
    from cmfr.models.video_model import VideoModel

    torch.manual_seed(0)
    try:
        cfg, weights, _ = read_weights(find_weights(name))
    except FileNotFoundError:
        if name not in PRESETS:
            raise
        print(f"{name}: no weights, timed with random ones", file=sys.stderr)
        return VideoModel(PRESETS[name])
    return build_model(cfg, weights, name)


def _speed_table(rows: list[Any]) -> str:
    """A line per model and frame type, times by stage; ratios to the first model."""
    stages = list(dict.fromkeys(n for r in rows for n in (*r.encode_ms, *r.decode_ms)))
    first = {row.frame: row for row in reversed(rows)}
    lines = []
    for row in rows:
        other = first[row.frame]
        lines.append(
            f"{row.model} {row.frame} {row.size}: encode {row.encode_fps} fps "
            f"(x{row.encode_fps / other.encode_fps:.2f}), decode {row.decode_fps} fps "
            f"(x{row.decode_fps / other.decode_fps:.2f}), peak {_mib(row.peak_mib)}"
        )
        for side, times in (("encode", row.encode_ms), ("decode", row.decode_ms)):
            shown = ", ".join(f"{n} {times[n]:.1f}" for n in stages if n in times)
            lines.append(f"  {side} ms: {shown}")
    return "\n".join(lines)


def _mib(peak: float | None) -> str:
    return "memory unknown" if peak is None else f"{peak:.0f} MiB"


def _write_json(
    path: Path,
    run: dict[str, Any],
    complexity: list[Any],
    parts: list[Any],
    speed: list[Any],
    files: dict[str, float],
) -> None:
    from dataclasses import asdict

    from cmfr.utils.versions import versions

    tree = {
        "versions": versions(),
        "run": run,
        "complexity": [asdict(row) for row in complexity],
        "parts": [asdict(row) for row in parts],
        "speed": [asdict(row) for row in speed],
        "files_ms": files,
    }
    atomic_write_text(path, json.dumps(tree, indent=1) + "\n")
