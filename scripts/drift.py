"""Does a codec drift, or do the frames get harder? Changes of PSNR along sequences, side by side.

    python scripts/drift.py ours.json x265.json ... [--metric psnr_yuv]

Results files as of `cmfr evaluate` and `cmfr anchor`. The change is the mean of the last quarter of
the frames less that of the second, in dB; of the other files it is interpolated to the mean PSNR of
the first one's points, and n/a outside of their range.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmfr.analysis.diagnosis import drift_of
from cmfr.cli.main import guarded
from cmfr.evaluation.records import Record, read_results
from cmfr.utils.errors import UserError

Curve = list[tuple[float, float]]  # mean and change of the PSNR, from the lowest mean on


def curves(path: Path, metric: str) -> dict[str, Curve]:
    """By sequence. Raises UserError for a file whose frames are not there one by one."""
    found: dict[str, Curve] = {}
    for record in read_results(path):
        psnr = _psnr(path, record, metric)
        found.setdefault(record.sequence, []).append((sum(psnr) / len(psnr), drift_of(psnr)))
    return {name: sorted(curve) for name, curve in found.items()}


def _psnr(path: Path, record: Record, metric: str) -> list[float]:
    psnr = [frame.quality[metric] for frame in record.frames if metric in frame.quality]
    if len(psnr) < 4 or len(psnr) < len(record.frames):
        raise UserError(f"{path}: {record.sequence} has no {metric} of four frames and more")
    return psnr


def at(curve: Curve, mean: float) -> float:
    """The change where the mean is `mean`; nan outside of the curve."""
    if not curve:
        return float("nan")
    means, changes = zip(*curve, strict=True)
    return float(np.interp(mean, means, changes, left=np.nan, right=np.nan))


def table(paths: Sequence[Path], metric: str) -> int:
    first, *others = (curves(path, metric) for path in paths)
    print(f"| sequence | {metric} | " + " | ".join(path.stem for path in paths) + " |")
    print("|---" * (2 + len(paths)) + "|")
    for name, curve in first.items():
        for mean, change in curve:
            changes = [change, *(at(other.get(name, []), mean) for other in others)]
            cells = ["n/a" if value != value else f"{value:+.2f}" for value in changes]
            print(f"| {name} | {mean:.2f} | " + " | ".join(cells) + " |")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--metric", default="psnr_yuv")
    args = parser.parse_args()
    return guarded("drift", lambda: table(args.files, args.metric))


if __name__ == "__main__":
    sys.exit(main())
