"""Results as records, their JSON files, and rate-distortion curves of them.

The only module that knows the keys of our results files (published.py reads other people's).
They have the shape of DCVC's `output.json`, {dataset: {sequence: {"000": record}}}, so that DCVC's
comparison script reads them; what it has no key for lies inside the record under "cmfr".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cmfr.evaluation.conditions import CodingConditions
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text

Quality = Mapping[str, float]
Kind = Literal["all", "I", "P"]
Point = tuple[float, float]  # bits per pixel, quality
Json = dict[str, Any]

DATASET_MEAN = "(mean)"  # in place of a sequence's name: a figure of the whole data set


@dataclass(frozen=True)
class FrameResult:
    """One coded frame.

    bits: of the written stream, where a header counts to the frame behind it.
    quality: by name, `psnr_rgb`, `psnr_y`, `psnr_u`, `psnr_v`, `psnr_yuv` (6:1:1) in dB;
    `ms_ssim_rgb`, `ms_ssim_y`, ... linear.
    estimated_bits: the entropy model's count.
    """

    type: Literal["I", "P", "B"]
    bits: int | float
    quality: Quality
    estimated_bits: int | float | None = None


@dataclass(frozen=True)
class Average:
    """Means over a number of frames.

    bpp: bits per pixel of the source.
    quality: as of `FrameResult`.
    estimated_bpp: the same as the entropy model counts it.
    """

    frames: int
    bpp: float
    quality: Quality
    estimated_bpp: float | None = None


@dataclass(frozen=True)
class Times:
    """Mean seconds per frame to encode and decode, and their parts ("network", "entropy", "io");
    total: seconds for the sequence with everything. None: not measured."""

    encode: float | None = None
    decode: float | None = None
    encode_parts: Mapping[str, float] = field(default_factory=dict)
    decode_parts: Mapping[str, float] = field(default_factory=dict)
    total: float | None = None


@dataclass(frozen=True)
class Record:
    """A sequence coded at one rate.

    rate_index: 0 is the lowest rate.
    label: quality index, QP or CRF.
    width, height: of the source, 0 where unknown.
    frame_rate: per second.
    frames: one by one; where only means are known they are in `averages`, by kind.
    metadata: commit, weights_sha256, model, device, torch, encoder parameters and the like, as JSON
    values.
    peak_memory: bytes.
    set_sequences: names of all sequences of the data set, measured or not; empty where unknown.
    """

    dataset: str
    sequence: str
    codec: str
    rate_index: int
    label: int | float | None
    width: int
    height: int
    frame_rate: Fraction | None
    conditions: CodingConditions
    frames: Sequence[FrameResult] = ()
    averages: Mapping[str, Average] = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    peak_memory: int | None = None
    set_sequences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))
        where, said = f"{self.codec} on {self.sequence}", self.conditions.frames
        if self.frames and self.width * self.height <= 0:
            raise UserError(f"{where}: the size {self.width}x{self.height} has no pixels")
        if self.frames and said != len(self.frames):
            raise UserError(f"{where}: {len(self.frames)} frames, the conditions say {said}")
        if not self.frames and "all" not in self.averages:
            raise UserError(f"{where}: neither frames nor averages")

    def average(self, kind: Kind = "all") -> Average:
        """Over all frames, the I-frames, or those that are not ("P"); 0 frames if none is known."""
        if not self.frames:
            known = self.averages.get(kind, Average(0, 0.0, {}))
            return replace(known, quality=_with_combined(known.quality))
        frames = [f for f in self.frames if kind == "all" or (f.type == "I") == (kind == "I")]
        if not frames:
            return Average(0, 0.0, {})
        pixels = self.width * self.height * len(frames)
        names = [n for n in frames[0].quality if all(n in f.quality for f in frames)]
        quality = {name: fmean(f.quality[name] for f in frames) for name in names}
        estimates = [f.estimated_bits for f in frames if f.estimated_bits is not None]
        estimated = sum(estimates) / pixels if len(estimates) == len(frames) else None
        bpp = sum(f.bits for f in frames) / pixels
        return Average(len(frames), bpp, _with_combined(quality), estimated)

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole sequence."""
        return self.average().bpp

    def mean(self, metric: str, kind: Kind = "all") -> float:
        """Mean of a metric over the frames. Raises ValueError where it was not measured."""
        quality = self.average(kind).quality
        if metric not in quality:
            known = ", ".join(quality) or "nothing"
            raise UserError(f"{self.codec} on {self.sequence} has no {metric}, only {known}")
        return quality[metric]


def _with_combined(quality: Quality) -> dict[str, float]:
    """With the 6:1:1 means of the planes where they are absent; means over frames commute."""
    combined = dict(quality)
    for name in ("psnr", "ms_ssim"):
        planes = [quality[key] for p in "yuv" if (key := f"{name}_{p}") in quality]
        if len(planes) == 3:
            combined.setdefault(f"{name}_yuv", (6 * planes[0] + planes[1] + planes[2]) / 8)
    return combined


# --- files

_ADAPTER = TypeAdapter(Record)
_PLACE = {"dataset", "sequence", "rate_index"}  # of a record: what its place in the file says
DCVC_KEYS = {
    "rgb": {"psnr": "psnr_rgb", "msssim": "ms_ssim_rgb"},
    "yuv420": {"psnr": "psnr_yuv", "msssim": "ms_ssim_yuv"}
    | {f"{k}_{p}": f"{n}_{p}" for k, n in (("psnr", "psnr"), ("msssim", "ms_ssim")) for p in "yuv"},
}


def write_results(path: str | Path, records: Iterable[Record]) -> None:
    """Write the records of one codec; the file appears complete or not at all. Raises
    ValueError for two codecs, two records of one place, values that are not finite and metadata
    that is not JSON; OSError where the file cannot be written.
    """
    path = Path(path)
    tree: Json = {}
    records = sorted(records, key=lambda r: r.rate_index)
    if len(codecs := sorted({record.codec for record in records})) != 1:
        raise UserError(f"{path} is to hold one codec, not {' and '.join(codecs) or 'none'}")
    for record in records:
        rates = tree.setdefault(record.dataset, {}).setdefault(record.sequence, {})
        key = f"{record.rate_index:03d}"
        if key in rates:
            raise UserError(f"{path}: {record.sequence} is there twice at rate index {key}")
        rates[key] = {**_dcvc_record(record), "cmfr": record}
    with malformed(path, "not written"):
        text = _dump(tree)
    atomic_write_text(path, text)


def _dump(value: Any, depth: int = 1) -> str:
    """JSON with a line for each key of a record, so that lists of frames do not fill pages."""
    if isinstance(value, Record):
        value = _ADAPTER.dump_python(value, mode="json", exclude=_PLACE)
    if depth > 4:
        return json.dumps(value, allow_nan=False)
    lines = (f"{' ' * depth}{json.dumps(k)}: {_dump(v, depth + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(lines) + f"\n{' ' * (depth - 1)}}}" + "\n" * (depth == 1)


def _dcvc_record(record: Record) -> Json:
    """As DCVC's test script writes it: 6 decimals, 0 for what was not computed. Where I and P are
    not known apart all frames are booked as I, which is how DCVC's own VTM file does it."""
    names = DCVC_KEYS[record.conditions.color]
    means = {"i": record.average("I"), "p": record.average("P"), "all": record.average()}
    if not means["i"].frames and not means["p"].frames:
        means["i"] = means["all"]
    pixels = record.width * record.height
    out: Json = {"frame_pixel_num": pixels}
    out |= {f"{kind}_frame_num": means[kind].frames for kind in "ip"}
    for kind, mean in means.items():
        out[f"ave_{kind}_frame_bpp"] = round(mean.bpp, 6)
        for key, name in names.items():
            out[f"ave_{kind}_frame_{key}"] = round(mean.quality.get(name, 0), 6)
    if record.frames:
        quality = [_with_combined(frame.quality) for frame in record.frames]
        out["frame_bpp"] = [round(frame.bits / pixels, 6) for frame in record.frames]
        for key, name in names.items():
            out[f"frame_{key}"] = [round(values.get(name, 0), 6) for values in quality]
        out["frame_type"] = [int(frame.type != "I") for frame in record.frames]
    out["test_time"] = round(record.times.total or 0, 6)
    for work, seconds in (("encoding", record.times.encode), ("decoding", record.times.decode)):
        if seconds is not None:
            out[f"avg_frame_{work}_time"] = round(seconds, 6)
    place = {"ds_name": record.dataset, "video_path": record.sequence}
    return {**out, **place, "rate_idx": record.rate_index}


def read_results(path: str | Path) -> list[Record]:
    """The records of a file of `write_results`. Raises FileNotFoundError, ValueError."""
    path = Path(path)
    content = load_json(path)
    with malformed(path, "no results file of cmfr"):
        return [
            _ADAPTER.validate_python(
                {**value["cmfr"], "dataset": dataset, "sequence": name, "rate_index": int(key)}
            )
            for dataset, sequences in content.items()
            for name, rates in sequences.items()
            for key, value in rates.items()
        ]


def load_json(path: Path) -> Any:
    """Raises FileNotFoundError, or ValueError for a file that is not JSON."""
    if not path.is_file():
        raise FileNotFoundError(f"no results file {path}")
    with malformed(path, "no JSON file"):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def malformed(path: Path, what: str) -> Iterator[None]:
    """Makes a ValueError that names the file of what wrong contents raise."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is {what}: {where}: {first['msg']}") from error
    except RecursionError:
        raise UserError(f"{path} is {what}: it is nested too deeply") from None
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is {what}: {type(error).__name__} {error}") from error


# --- curves


def class_curve(records: Iterable[Record], metric: str, db: bool = False) -> list[Point]:
    """The curve of one codec on a sequence, or on a data set as a whole, as DCVC's comparison makes
    it: rate and quality of each rate index are means over all frames of all sequences.

    db: MS-SSIM as -10 log10(1 - x).

    Raises ValueError unless all sequences have the same rate indices, once each, and the metric.
    """
    rates: dict[int, dict[str, Record]] = {}
    for record in records:
        place = rates.setdefault(record.rate_index, {})
        if record.sequence in place:
            where = f"{record.codec} on {record.sequence}"
            raise UserError(f"{where} is there twice at rate {record.rate_index}")
        place[record.sequence] = record
    sequences = set().union(*rates.values())
    points = []
    for index in sorted(rates):
        present = rates[index].values()
        if len(present) < len(sequences):
            raise UserError(
                f"{record.codec} on {record.dataset}: only {len(present)} of {len(sequences)} "
                f"sequences have a rate index {index}, so there is no curve of the whole set"
            )
        values = [(r.bpp, r.mean(metric)) for r in present]
        bpp, value = np.average(values, axis=0, weights=[r.average().frames for r in present])
        points.append((float(bpp), _scaled(float(value), db)))
    return points


def _scaled(value: float, db: bool) -> float:
    return value if not db else -10 * math.log10(1 - value) if value < 1 else math.inf
