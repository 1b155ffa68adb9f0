"""Do streams decode alike in other arithmetic, and what does it cost to have them do so?

    make portability [VIDEO=PATH]
    .venv/bin/python scripts/portability.py [VIDEO ...] [--quality 32] [--frames 96] ...

Every video is encoded twice, as `cmfr encode` does and with --portable, by one thread on the CPU;
each stream is then decoded by processes whose arithmetic is another one. Prints how many frames had
the encoder's pictures in a row from the first one on (decoders stop at a mismatch), and bytes, PSNR
and seconds of both. Exits with 1 where a portable stream was not decoded to its end. Without VIDEO,
the clip of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmfr.cli.main import guarded
from cmfr.codec.bitstream import BitstreamReader, DamagedFrame
from cmfr.codec.codec import load_codec
from cmfr.codec.coded import CodedFrame, CodingReport
from cmfr.video.info import Frame
from cmfr.video.metrics import compare
from cmfr.video.reader import open_video
from demo import render_clip

MODES = ("default", "portable")


@dataclass(frozen=True)
class Setting:
    """Arithmetic of a process. environment: what is read when PyTorch is loaded."""

    threads: int = 1
    onednn: bool = True
    channels_last: bool = True
    device: str = "cpu"
    environment: dict[str, str] = field(default_factory=dict)


_PLAIN = {"ATEN_CPU_CAPABILITY": "default"}  # no SIMD in PyTorch's own functions
_OLD_MKL = {"MKL_CBWR": "COMPATIBLE"}  # MKL's matrix products as on its oldest processors
SETTINGS = {
    "as encoded": Setting(),
    "2 threads": Setting(threads=2),
    "oneDNN off": Setting(onednn=False),
    "not channels_last": Setting(channels_last=False),
    "ATEN_CPU_CAPABILITY=default": Setting(environment=_PLAIN),
    "MKL_CBWR=COMPATIBLE": Setting(environment=_OLD_MKL),
    "all of these": Setting(2, False, False, "cpu", _PLAIN | _OLD_MKL),
}
if "avx512" in torch.backends.cpu.get_cpu_capability().lower():
    SETTINGS["ATEN_CPU_CAPABILITY=avx2"] = Setting(environment={"ATEN_CPU_CAPABILITY": "avx2"})
if torch.cuda.is_available():
    SETTINGS["cuda"] = Setting(device="cuda")


def digest(frame: Frame) -> int:
    """Of a picture's samples."""
    return zlib.crc32(b"".join(plane.tobytes() for plane in frame.planes))


def encode(
    video: str, stream: str, model: str, quality: int, frames: int, portable: bool
) -> dict[str, Any]:
    """Bytes, PSNR, seconds of the CPU, and the digests of the reconstruction."""
    torch.set_num_threads(1)
    codec, digests, psnr = load_codec(model, "cpu"), [], []
    spent = 0.0
    with open_video(video) as reader:
        info = reader.info

    def on_frame(coded: CodedFrame) -> None:
        nonlocal spent
        began = time.process_time()
        assert coded.source is not None
        digests.append(digest(coded.reconstruction))
        psnr.append(compare(coded.source, coded.reconstruction, info).combined)
        spent += time.process_time() - began

    began = time.process_time()
    report = codec.encode_video(
        video, stream, quality=quality, frames=frames, portable=portable, on_frame=on_frame
    )
    seconds = time.process_time() - began - spent
    return {"bytes": report.bytes, "psnr": float(np.mean(psnr)), "seconds": seconds,
            "digests": digests}  # fmt: skip


def decode(stream: str, model: str, digests: list[int], setting: dict[str, Any]) -> dict[str, Any]:
    """How many frames in a row were the encoder's, and seconds of the CPU."""
    chosen = Setting(**setting)
    torch.set_num_threads(chosen.threads)
    codec = load_codec(model, chosen.device)
    if not chosen.channels_last:
        codec.model.to(memory_format=torch.contiguous_format)
    exact = 0
    began = time.process_time()
    flags = nullcontext() if chosen.onednn else torch.backends.mkldnn.flags(enabled=False)
    with open(stream, "rb") as file, flags:
        reader = BitstreamReader(file)
        info = reader.header.info()
        try:
            for coded in codec.decode_frames(reader, info, CodingReport(info), False):
                if digest(coded.reconstruction) != digests[exact]:
                    break
                exact += 1
        except DamagedFrame:
            pass
    return {"exact": exact, "seconds": time.process_time() - began}


def in_process(arithmetic: Setting, function: str, **arguments: Any) -> dict[str, Any]:
    """What a function of this file gives in a process with this arithmetic."""
    environment = os.environ | arithmetic.environment
    environment["OMP_NUM_THREADS"] = str(arithmetic.threads)
    call = [sys.executable, __file__, "--call", json.dumps([function, arguments])]
    done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(
    videos: list[str], model: str, qualities: list[int], frames: int, settings: dict[str, Setting]
) -> tuple[list[str], dict[str, dict[str, list[tuple[int, int]]]]]:
    """Rows of the table of costs; by setting and mode, (frames decoded exactly, frames) of every
    stream."""
    costs: list[str] = []
    counts: dict[str, dict[str, list[tuple[int, int]]]] = {
        name: {mode: [] for mode in MODES} for name in settings
    }
    with tempfile.TemporaryDirectory() as folder:
        for video in videos:
            for quality in qualities:
                made: dict[str, Any] = {}
                decoded: dict[str, Any] = {}
                for mode in MODES:
                    stream = f"{folder}/{mode}.cmfr"
                    made[mode] = in_process(
                        Setting(), "encode", video=video, stream=stream, model=model,
                        quality=quality, frames=frames, portable=mode == "portable",
                    )  # fmt: skip
                    digests = made[mode]["digests"]
                    for name, setting in settings.items():
                        result = in_process(
                            setting, "decode", stream=stream, model=model, digests=digests,
                            setting=asdict(setting),
                        )  # fmt: skip
                        counts[name][mode].append((result["exact"], len(digests)))
                        decoded.setdefault(mode, result)
                        print(f"{video} {quality} {mode}, {name}: {result['exact']} of "
                              f"{len(digests)} frames", file=sys.stderr)  # fmt: skip
                costs.append(_cost(Path(video).stem, quality, made, decoded))
    return costs, counts


def _cost(video: str, quality: int, made: dict[str, Any], decoded: dict[str, Any]) -> str:
    plain, portable = (made[mode] for mode in MODES)
    slower = decoded["portable"]["seconds"] / decoded["default"]["seconds"]
    complete = all(decoded[mode]["exact"] == len(plain["digests"]) for mode in MODES)
    change = 100 * (portable["bytes"] / plain["bytes"] - 1)
    return (
        f"| {video}, {len(plain['digests'])} frames | {quality} | {plain['bytes']} | "
        f"{portable['bytes']} | {change:+.2f} % | {portable['psnr'] - plain['psnr']:+.3f} dB | "
        f"{portable['seconds'] / plain['seconds']:.2f} | "
        f"{format(slower, '.2f') if complete else 'not decoded'} |"
    )


def _count(streams: list[tuple[int, int]]) -> str:
    exact, frames = (sum(column) for column in zip(*streams, strict=True))
    whole = sum(good == count for good, count in streams)
    return f"{exact} of {frames} frames, {whole} of {len(streams)} streams"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="(default: a rendered clip)")
    parser.add_argument("--model", default="cmfr-s", help="model name or weights file (cmfr-s)")
    parser.add_argument("--quality", type=int, nargs="+", default=[32])
    parser.add_argument("--frames", type=int, default=96, help="frames in a chain (96)")
    parser.add_argument(
        "--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, metavar="NAME",
        help=f"arithmetic of decoders (all): {', '.join(SETTINGS)}",
    )  # fmt: skip
    parser.add_argument("--call", help=argparse.SUPPRESS)  # what `in_process` asks for
    args = parser.parse_args()
    if args.call:
        function, arguments = json.loads(args.call)
        print(json.dumps((encode if function == "encode" else decode)(**arguments)))
        return 0
    settings = {name: SETTINGS[name] for name in SETTINGS if name in args.settings}
    with tempfile.TemporaryDirectory() as folder:
        videos = args.videos
        if not videos:
            videos = [f"{folder}/rendered.mkv"]
            render_clip(Path(videos[0]), args.frames)
        costs, counts = measure(videos, args.model, args.quality, args.frames, settings)
    print("| decoded with | default | portable |\n|---|---|---|")
    for name, count in counts.items():
        print(f"| {name} | {_count(count['default'])} | {_count(count['portable'])} |")
    print("\n| video | quality | bytes | portable | change | PSNR-YUV | encode, times | "
          "decode, times |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    print("\n".join(costs))
    wrong = any(a != b for count in counts.values() for a, b in count["portable"])
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(guarded("portability", main))
