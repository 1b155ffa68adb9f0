"""A codec on the sequences of a test set, as records: real bytes, decoded again, frame by frame.

A measurement is a (sequence, quality) pair; `measure_side_by_side` spreads them over processes and
GPUs. Finished ones are kept under a hash of everything they depend on and are not measured again.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cmfr.bitstream import BitstreamReader, BitstreamWriter
from cmfr.checkpoint import read_weights, weights_hash
from cmfr.coding import Codec, CodingReport, load_codec
from cmfr.color import planes_to_tensor, ycbcr_to_rgb
from cmfr.complexity import count
from cmfr.frames import UNSPECIFIED, Frame, VideoInfo, resolve_color
from cmfr.metrics import rgb_quality, stored_quality
from cmfr.results import Conditions, FrameResult, Record, Times, read_results, write_results
from cmfr.test_sets import TestSequence, open_sequence
from cmfr.versions import versions
from cmfr.video_in import VideoReader

Color = Literal["rgb", "yuv420"]


@dataclass(frozen=True)
class SequenceTask:
    """One measurement. color: what quality is measured on; rgb: BT.709 full range, on what the
    network gives, clamped and not rounded, or with `round_8bit` rounded; yuv420: the stored samples
    of the decoded video. rate_index: 0 for the lowest quality of the run."""

    weights: Path
    device: str
    dataset: str
    sequence: TestSequence
    source: Path
    quality: int
    rate_index: int
    frames: int | None = None
    intra_period: int = -1
    refresh_period: int | None = None  # None: the model's
    color: Color = "yuv420"
    round_8bit: bool = False
    parts: Path | None = None  # folder of finished measurements

    def key(self) -> str:
        """Hash of weights, source and conditions: the same key, the same record."""
        told = asdict(self) | {
            "weights": _weights_identity(self.weights), "source": content_hash(self.source),
            "device": torch.device(self.device).type, "parts": None,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def part(self) -> Path | None:
        """The file of the finished measurement."""
        return self.parts / f"{self.key()[:24]}.json" if self.parts else None

    def finished(self) -> Record | None:
        """The record, if it was measured before."""
        path = self.part()
        return read_results(path)[0] if path and path.is_file() else None

    def measure(self) -> Record:
        """Code, decode, compare; the record is kept. Raises ValueError or OSError."""
        record = self.finished()
        if record is None:
            record = evaluate_sequence(_codec(self.weights, self.device), self)
            if path := self.part():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_results(path, [record])
        return record


@lru_cache(maxsize=1)
def _codec(weights: Path, device: str) -> Codec:
    """One codec per process; the tasks of a run share it."""
    return load_codec(weights, device)


@lru_cache(maxsize=16)
def _weights_identity(path: Path) -> str:
    """Hash of what a weights file says, however its bytes are ordered."""
    cfg, weights, _ = read_weights(path)
    return weights_hash(weights).hex() + hashlib.sha256(cfg.model_dump_json().encode()).hexdigest()


@lru_cache(maxsize=256)
def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.name.encode() if path.is_dir() else b"")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def evaluate_sequence(codec: Codec, task: SequenceTask) -> Record:
    """Code a sequence into a file, decode the file, compare frame by frame."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "a.cmfr"
        coded, encode = _encode(codec, task, stream)
        quality, decode, info = _decode(codec, task, stream)
        overhead = 8 * stream.stat().st_size - sum(bits for _, bits, _ in coded)
    kind, bits, estimate = coded[0]
    coded[0] = (kind, bits + overhead, estimate)  # header and index count to the first frame
    count = len(coded)
    rgb = task.color == "rgb"
    is_rgb = info.chroma == "rgb"
    rounding = "8bit" if not rgb or task.round_8bit else "float"
    if info.bit_depth == 10 and not rgb:
        rounding = "10bit"
    return Record(
        dataset=task.dataset, sequence=task.sequence.name, codec=_codec_name(codec, task),
        rate_index=task.rate_index, label=task.quality, width=info.width, height=info.height,
        frame_rate=info.frame_rate,
        conditions=Conditions(
            color=task.color, matrix=("rgb" if is_rgb else "bt709") if rgb else None,
            range="full" if rgb else None, intra_period=task.intra_period, frames=count,
            rounding=rounding,
        ),
        frames=[
            FrameResult(kind, bits, values, estimate)  # type: ignore[arg-type]
            for (kind, bits, estimate), values in zip(coded, quality, strict=True)
        ],
        metadata=_metadata(codec, task),
        times=Times(
            encode.pop("total") / count, decode.pop("total") / count,
            {name: seconds / count for name, seconds in encode.items()},
            {name: seconds / count for name, seconds in decode.items()},
            time.perf_counter() - began,
        ),
        peak_memory=_peak_bytes(codec.device),
    )  # fmt: skip


def _coded_as(info: VideoInfo, codec: Codec, task: SequenceTask) -> VideoInfo:
    """The sequence as an RGB network takes it: BT.709, full range, as the field converts its test
    sets, where RGB is measured or the file says nothing."""
    if codec.model.cfg.color != "rgb" or info.chroma == "rgb":
        return info
    told = UNSPECIFIED not in (info.color.matrix, info.color.range)
    return info if told and task.color != "rgb" else resolve_color(info, "bt709", "full")


def _codec_name(codec: Codec, task: SequenceTask) -> str:
    """The model's name, and the refresh period where it is not the model's."""
    period = task.refresh_period
    if period is None or period == codec.model.cfg.refresh_period:
        return codec.name
    return f"{codec.name}-refresh{period}"


def _encode(
    codec: Codec, task: SequenceTask, stream: Path
) -> tuple[list[tuple[str, float, float]], dict[str, float]]:
    """(type, bits, estimated bits) of each frame; seconds by kind of work."""
    clock = _Clock()
    coded = []
    model = codec.model
    model.intra.estimates = model.inter.estimates = True
    try:
        with open_sequence(task.source, task.sequence) as reader, stream.open("w+b") as file:
            info = _coded_as(reader.info, codec, task)
            header = codec.header(info, task.quality, task.intra_period, task.refresh_period)
            writer = BitstreamWriter(file, header)
            frames = clock.reading(_first(reader, task.frames))
            for frame in codec.encode_frames(frames, info, header, writer):
                assert frame.output is not None
                clock.entropy += frame.output.coder_seconds
                estimate = float(frame.output.total_bits)
                coded.append(("I" if frame.intra else "P", float(frame.bits), estimate))
            writer.close()
    finally:
        model.intra.estimates = model.inter.estimates = False
    if not coded:
        raise ValueError(f"{task.source} holds no frames")
    if task.frames is not None and len(coded) < task.frames:
        raise ValueError(f"{task.source} has {len(coded)} frames, not {task.frames}")
    return coded, clock.seconds()


def _decode(
    codec: Codec, task: SequenceTask, stream: Path
) -> tuple[list[dict[str, float]], dict[str, float], VideoInfo]:
    """Quality of each decoded frame; seconds by kind of work, without the comparison."""
    clock, measured = _Clock(), []
    with open_sequence(task.source, task.sequence) as source, stream.open("rb") as file:
        info = _coded_as(source.info, codec, task)
        packets = BitstreamReader(file)
        decoded = codec.decode_frames(packets, info, CodingReport(info), keep_going=False)
        for original in _first(source, task.frames):
            clock.go_on()
            frame = next(decoded)
            clock.hold()
            assert frame.output is not None
            clock.entropy += frame.output.coder_seconds
            x_hat = frame.output.x_hat[..., : info.height, : info.width]
            measured.append(frame_quality(original, frame.reconstruction, x_hat, info, codec, task))
    return measured, clock.seconds(), info


def frame_quality(
    original: Frame, decoded: Frame, x_hat: Tensor, info: VideoInfo, codec: Codec,
    task: SequenceTask,
) -> dict[str, float]:  # fmt: skip
    """Metrics of one frame by name; x_hat [1, 3, H, W] is what the network gave, clamped."""
    is_rgb = info.chroma == "rgb"
    if task.color == "yuv420":
        if is_rgb:
            raise ValueError(f"{task.source} is RGB; measure it with --color rgb")
        return stored_quality(original, decoded, info)
    x = planes_to_tensor(original, info, "rgb" if is_rgb else "ycbcr", codec.device)
    x = x if is_rgb else ycbcr_to_rgb(x, "bt709", "full")
    if codec.model.cfg.color == "ycbcr":
        x_hat = ycbcr_to_rgb(x_hat, "bt709", "full")
    x, x_hat = x.clamp(0, 1), x_hat.float().clamp(0, 1)
    if task.round_8bit:
        x_hat = (x_hat * 255).round() / 255
    values = {} if is_rgb else stored_quality(original, decoded, info)
    return values | rgb_quality(x, x_hat)


def _first(frames: VideoReader, count: int | None) -> Iterator[Frame]:
    for number, frame in enumerate(frames):
        if count is not None and number >= count:
            return
        yield frame


class _Clock:
    """Seconds of coding, apart: reading files ("io"), the rANS coder ("entropy"), the rest."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.held = 0.0
        self.io = self.entropy = 0.0
        self._since = self.began

    def reading(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames, with the time to get them counted."""
        iterator = iter(frames)
        while True:
            began = time.perf_counter()
            frame = next(iterator, None)
            self.io += time.perf_counter() - began
            if frame is None:
                return
            yield frame

    def go_on(self) -> None:
        self.held += time.perf_counter() - self._since

    def hold(self) -> None:
        self._since = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """The parts and their total."""
        held = self.held + (time.perf_counter() - self._since if self.held else 0.0)
        total = time.perf_counter() - self.began - held
        network = total - self.io - self.entropy
        return {"total": total, "network": network, "entropy": self.entropy, "io": self.io}


@lru_cache(maxsize=1)
def _complexity(codec: Codec) -> dict[str, float]:
    """Millions of parameters of both codecs, kMAC per pixel of a P-frame."""
    intra, inter = count(codec.model)
    return {
        "parameters_m": round(intra.parameters_m + inter.parameters_m, 3),
        "encode_kmac_per_pixel": inter.encode_kmac_per_pixel,
        "decode_kmac_per_pixel": inter.decode_kmac_per_pixel,
    }


def _metadata(codec: Codec, task: SequenceTask) -> dict[str, object]:
    return {
        "weights_sha256": content_hash(task.weights),
        "weights_id": codec.weights_id.hex(),
        "source_sha256": content_hash(task.source),
        "model": codec.model.cfg.model_dump(mode="json"),
        "device": str(codec.device),
        **_complexity(codec),
        **versions(),
    }


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
