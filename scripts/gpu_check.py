"""Does everything run on this GPU, and how fast? One table, meant to take under four minutes.

    make gpu-check
    .venv/bin/python scripts/gpu_check.py [--device cuda] [--model cmfr-s] [--minutes 4]

All training stages (`smoke`), ten frames encoded and decoded, portable streams from GPU to CPU and
back, training samples per second at three batch sizes and with CUDA graphs, 1080p frames per second
and milliseconds by stage, peak memory.
Without a GPU the first three alone, and it says what it leaves out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cmfr.analysis.benchmark import time_frames
from cmfr.cli.main import guarded
from cmfr.codec.codec import load_codec
from cmfr.models.video_model import VideoModel
from cmfr.training.config import StageConfig, TrainConfig, load_train_config
from cmfr.training.data.config import GeneratedConfig
from cmfr.training.run_dir import read_versions
from cmfr.training.trainer import train
from cmfr.utils.device import peak_memory, pick_device, reset_peak_memory
from cmfr.utils.versions import versions
from demo import render_clip
from measure_training import record_of

BATCHES = (16, 32, 64)
Row = tuple[str, str]
ON_A_GPU = "samples per second of training, 1080p frames per second"


def smoke(device: torch.device) -> Iterator[Row]:
    """Every kind of training stage with the smallest model."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"run_dir={folder}/run", f"device={device.type}", "bf16=auto"]
        cfg, began = load_train_config("smoke", overrides), time.monotonic()
        train(cfg)
        seconds, run = time.monotonic() - began, Path(folder) / "run"
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        arithmetic = read_versions(run)[-1]["arithmetic"]
    stages = list(dict.fromkeys(record["stage"] for record in log))
    skipped = sum(record["skipped"] > 0 for record in log)
    yield "arithmetic", arithmetic
    yield (
        f"training stages {', '.join(stages)}",
        f"{log[-1]['total']} steps in {seconds:.0f} s, {skipped} log records with skipped steps",
    )


def coding(model: str, device: torch.device, frames: int = 10) -> Iterator[Row]:
    """A rendered clip through files; the decoder compares every frame's checksum."""
    codec = load_codec(model, device.type)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_clip(folder / "a.mkv", frames)
        encoded = codec.encode_video(folder / "a.mkv", folder / "a.cmfr")
        decoded = codec.decode_video(folder / "a.cmfr", folder / "b.mkv")
    assert encoded.frames == decoded.frames == frames
    yield (
        f"{codec.name}, {frames} frames of 416x240 by file",
        f"encode {encoded.fps:.2f} fps, decode {decoded.fps:.2f} fps, {encoded.bytes} bytes; "
        "the first frames among them",
    )


def portable(model: str, device: torch.device, frames: int = 4) -> Iterator[Row]:
    """Streams of `encode --portable`: one made on the device and decoded on the CPU, and back."""
    there = torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_clip(folder / "a.mkv", frames)
        for made_on, shown_on in ((device, there), (there, device)):
            stream = folder / "a.cmfr"
            load_codec(model, made_on.type).encode_video(folder / "a.mkv", stream, portable=True)
            # Raises DamagedFrame at the first sample or symbol that is not the encoder's.
            decoded = load_codec(model, shown_on.type).decode_video(stream, folder / "b.mkv")
            yield (
                f"portable stream made on {made_on.type}, decoded on {shown_on.type}",
                f"{decoded.frames} of {frames} frames are the encoder's",
            )


def training() -> tuple[TrainConfig, StageConfig]:
    """What training speed is measured on: the last stage of cmfr_s_gpu without its lead, which
    CUDA graphs do not take, on generated scenes."""
    cfg = load_train_config("cmfr_s_gpu")
    data = GeneratedConfig(count=4, frames=8, size=(320, 288), preload=True)
    cfg = cfg.model_copy(update={"data": {"scenes": data}})
    return cfg, cfg.stages[-1].model_copy(update={"lead": (0,)})


def training_speed(
    cfg: TrainConfig, stage: StageConfig, device: torch.device, out_of_time: Callable[[], bool],
    batches: tuple[int, ...] = BATCHES, steps: int = 6,
) -> Iterator[Row]:  # fmt: skip
    """Samples per second of a stage by batch size, at the smallest with CUDA graphs too."""
    what = f"{cfg.model.name} {stage.name}, {stage.frames} frames of {stage.crop}x{stage.crop}"
    runs = [(batch, False) for batch in batches]
    runs.insert(1, (batches[0], True))
    for batch, graphs in runs:
        name = f"{what}, batch {batch}{', CUDA graphs' if graphs else ''}"
        if out_of_time():
            yield name, "left out: the time is up"
            continue
        reset_peak_memory(device)
        try:
            changed = cfg.model_copy(update={"cuda_graphs": graphs})
            record = record_of(changed, stage.model_copy(update={"batch": batch}), steps)
        except torch.cuda.OutOfMemoryError:
            yield name, "out of memory"
            continue
        yield name, f"{record['samples_per_second']:.1f} samples/s, peak {_gib(device)}"


def coding_speed(
    model: VideoModel, device: torch.device, size: tuple[int, int] = (1920, 1080), count: int = 6
) -> Iterator[Row]:
    """Frames per second with real bitstreams, without files, and where the time goes; of noise,
    which has more symbols than video."""
    width, height = size
    noise = [torch.rand(1, 3, height, width, device=device) for _ in range(count)]
    frames = [model.padded(x) for x in noise]
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for speed in time_frames(model, frames):
        for side, fps, stages in (
            ("encode", speed.encode_fps, speed.encode_ms),
            ("decode", speed.decode_fps, speed.decode_ms),
        ):
            parts = ", ".join(f"{name} {ms:.1f}" for name, ms in stages.items())
            yield (
                f"{speed.model} {speed.frame}, {side} {width}x{height} of noise",
                f"{fps:.2f} fps; ms: {parts}; peak {_gib(device)}",
            )


def _gib(device: torch.device) -> str:
    peak = peak_memory(device)
    return "not known" if peak is None else f"{peak / 2**30:.2f} GiB"


def checks(model: str, device: torch.device, minutes: float) -> Iterator[Row]:
    """All rows of the table, as they are measured."""
    ends = time.monotonic() + 60 * minutes
    yield from smoke(device)
    yield from coding(model, device)
    yield from portable(model, device)
    if device.type != "cuda":
        return
    # Before training speed: that may be left out where time is short.
    yield from coding_speed(load_codec(model, device.type).model, device)
    # Half a minute is what a batch size may take.
    yield from training_speed(*training(), device, lambda: time.monotonic() > ends - 30)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    parser.add_argument("--minutes", type=float, default=4, help="no new batch size after them (4)")
    args = parser.parse_args()
    device = pick_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU, no GPU"
    print(f"| check | result |\n|---|---|\n| device | {name}; torch {versions()['torch']} |")
    for check, result in checks(args.model, device, args.minutes):  # each as it is measured
        print(f"| {check} | {result} |", flush=True)
    if device.type != "cuda":
        print(f"no GPU, so left out: {ON_A_GPU}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded("gpu_check", main))
