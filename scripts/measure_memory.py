"""How much memory coding takes: peak resident memory of `cmfr encode` and `cmfr decode`.

    python scripts/measure_memory.py [--model cmfr-s] [--quality 32] SIZE:FRAMES ...

for instance 416x240:10 416x240:200 1920x1080:3. Each command is a process of its own, on the CPU;
what it takes before the first frame (Python, PyTorch, weights) is a row of its own, measured on
frames of 16x16. Pictures are rendered scenes; a row with more frames than SCENE repeats them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cmfr.cli.main import guarded
from cmfr.cli.parser import frame_size
from cmfr.training.data.generated import generated_clip
from cmfr.video.writer import write_clip

SCENE = 4  # frames that are rendered
# The peak of this process image alone: getrusage counts what was there before it, too.
COMMAND = """
import sys
from pathlib import Path
from cmfr.cli.main import main
code = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
sys.exit(code)
"""


def peak(*arguments: object) -> float:
    """MiB that a command had in memory at most. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments), "--quiet", "--device", "cpu"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1]) / 1024


def write_source(path: Path, size: tuple[int, int], frames: int) -> None:
    """A rendered scene, forth and back as often as it takes, as .y4m."""
    scene = list(generated_clip(0, min(frames, SCENE), size))
    scene += scene[-2:0:-1]
    write_clip(path, [scene[number % len(scene)] for number in range(frames)])


def measure(size: tuple[int, int], frames: int, model: str, quality: int) -> tuple[float, float]:
    """Peaks of encoding and decoding in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        source, stream, back = (Path(folder) / name for name in ("a.y4m", "a.cmfr", "b.y4m"))
        write_source(source, size, frames)
        encode = peak("encode", source, stream, "--model", model, "--quality", quality)
        return encode, peak("decode", stream, back, "--model", model)


def table(cases: Sequence[str], model: str, quality: int) -> int:
    print(
        "| size | frames | encode, MiB | decode, MiB | MiB per megapixel, above 16x16 | seconds |"
    )
    print("|---|---|---|---|---|---|")
    least: tuple[float, float] | None = None
    for case in ("16x16:1", *cases):
        size, _, frames = case.partition(":")
        width, height = frame_size(size)
        began = time.monotonic()
        found = measure((width, height), int(frames or 3), model, quality)
        above = [a - b for a, b in zip(found, least or found, strict=True)]
        each = " and ".join(f"{value / (width * height / 1e6):.0f}" for value in above)
        peaks = " | ".join(f"{value:.0f}" for value in found)
        seconds = time.monotonic() - began
        print(f"| {size} | {frames} | {peaks} | {each} | {seconds:.0f} |", flush=True)
        least = least or found
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", metavar="SIZE:FRAMES")
    parser.add_argument("--model", default="cmfr-s")
    parser.add_argument("--quality", type=int, default=32)
    args = parser.parse_args()
    return guarded("measure_memory", lambda: table(args.cases, args.model, args.quality))


if __name__ == "__main__":
    sys.exit(main())
