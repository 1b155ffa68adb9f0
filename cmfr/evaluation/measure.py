"""A codec on the sequences of a test set, as records: real bytes, decoded again, frame by frame.

A measurement is a (sequence, quality) pair; `run.measure` spreads them over processes and GPUs.
Finished ones are kept under a hash of everything they depend on and are not measured again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from cmfr.analysis.complexity import count, facts
from cmfr.codec.bitstream import BitstreamReader, BitstreamWriter
from cmfr.codec.checkpoint import read_weights, weights_hash
from cmfr.codec.codec import Codec, load_codec
from cmfr.codec.coded import CodingReport
from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.kept import identity_hash, keep, kept_file, read_kept
from cmfr.evaluation.records import FrameResult, Record, Times
from cmfr.evaluation.sequences import TestSequence, open_sequence
from cmfr.utils.device import peak_memory, reset_peak_memory
from cmfr.utils.errors import UserError
from cmfr.utils.versions import code_hash, versions
from cmfr.video.color import planes_to_tensor, rgb_picture, ycbcr_to_rgb
from cmfr.video.info import RGB_COLOR, UNSPECIFIED, Frame, VideoInfo, resolve_color, samples_hash
from cmfr.video.metrics import rgb_quality, stored_quality
from cmfr.video.reader import VideoReader

OnFrame = Callable[[], None]


@dataclass(frozen=True)
class SequenceTask:
    """One measurement: a sequence at a quality.

    rate_index: 0 for the lowest quality of the run.
    conditions: as asked for.
    set_sequences: names of all sequences of the set.
    parts: folder of finished measurements.
    """

    weights: Path
    device: str
    dataset: str
    sequence: TestSequence
    source: Path
    quality: int
    rate_index: int
    conditions: CodingConditions
    set_sequences: tuple[str, ...] = ()
    parts: Path | None = None

    @property
    def frames(self) -> int:
        """How many are coded: all that the sequence's entry lists, unless fewer are asked for."""
        return min(self.conditions.frames or self.sequence.frames, self.sequence.frames)

    def key(self) -> str:
        """Hash of weights, source, conditions and the code that measures: the same key, the same
        record, whatever other rates and sequences are measured beside it."""
        identity = asdict(self) | {
            "weights": weights_identity(self.weights),
            "source": _samples_hash(self),
            "device": torch.device(self.device).type,
            "code": code_hash(__name__),
            "frames": self.frames,
        }
        for name in ("parts", "rate_index", "set_sequences"):
            del identity[name]
        return identity_hash(identity)

    def part(self) -> Path | None:
        """The file of the finished measurement."""
        return kept_file(self.parts, self.key()) if self.parts else None

    def finished(self) -> Record | None:
        """The record, if it was measured before."""
        path = self.part()
        return read_kept(path, self.rate_index, self.set_sequences) if path else None

    def measure(self, on_frame: OnFrame | None = None) -> Record:
        """Code, decode, compare; the record is kept.

        on_frame: called after each frame, once when it is coded and once when it is decoded.

        Raises ValueError or OSError.
        """
        record = self.finished()
        if record is None:
            key = self.key()
            codec = _codec(self.weights, _changed(self.weights), self.device)
            record = evaluate_sequence(codec, self, on_frame)
            if self.key() != key:
                raise UserError(f"{self.weights} changed while this was measured")
            if path := self.part():
                keep(path, record)
        return record


def _changed(file: Path) -> int:
    """When: what is known of a file is kept until then."""
    return file.stat().st_mtime_ns


@lru_cache(maxsize=1)
def _codec(weights: Path, changed: int, device: str) -> Codec:
    """One codec per process; the tasks of a run share it."""
    return load_codec(weights, device)


def weights_identity(path: Path) -> str:
    """Hash of what a weights file says, however its bytes are ordered."""
    return _weights_identity(path, _changed(path))


@lru_cache(maxsize=64)
def _weights_identity(path: Path, changed: int) -> str:
    cfg, weights, _ = read_weights(path)
    return weights_hash(weights).hex() + hashlib.sha256(cfg.model_dump_json().encode()).hexdigest()


def _samples_hash(task: SequenceTask) -> str:
    return _file_samples_hash(task.source, task.sequence.model_dump_json(), task.frames)


@lru_cache(maxsize=256)
def _file_samples_hash(path: Path, sequence: str, frames: int) -> str:
    """Of the stored samples that are coded; `sequence` as JSON, which can be kept under."""
    with open_sequence(path, TestSequence.model_validate_json(sequence)) as reader:
        return samples_hash(islice(reader, frames))


@lru_cache(maxsize=16)
def _file_hash(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate_sequence(codec: Codec, task: SequenceTask, on_frame: OnFrame | None = None) -> Record:
    """Code a sequence into a file, decode the file, compare frame by frame."""
    began = time.perf_counter()
    reset_peak_memory(codec.device)
    with tempfile.TemporaryFile() as stream:  # without a name: nothing stays of a killed process
        coded, encode = _encode(codec, task, stream, on_frame)
        overhead = 8 * stream.seek(0, os.SEEK_END) - sum(bits for _, bits, _ in coded)
        stream.seek(0)
        quality, decode = _decode(codec, task, stream, on_frame)
    kind, bits, estimate = coded[0]
    coded[0] = (kind, bits + overhead, estimate)  # header and index count to the first frame
    count = len(coded)
    with open_sequence(task.source, task.sequence) as reader:
        stored = reader.info
    return Record(
        dataset=task.dataset,
        sequence=task.sequence.name,
        codec=_codec_name(codec, task),
        rate_index=task.rate_index,
        label=task.quality,
        width=stored.width,
        height=stored.height,
        frame_rate=stored.frame_rate,
        conditions=replace(
            task.conditions.met(stored, count, _samples_hash(task)),
            refresh_period=_refresh_period(codec, task),
        ),
        frames=[
            FrameResult(kind, bits, values, estimate)  # type: ignore[arg-type]
            for (kind, bits, estimate), values in zip(coded, quality, strict=True)
        ],
        metadata=_metadata(codec, task),
        times=Times(
            encode.pop("total") / count,
            decode.pop("total") / count,
            {name: seconds / count for name, seconds in encode.items()},
            {name: seconds / count for name, seconds in decode.items()},
            time.perf_counter() - began,
        ),
        peak_memory=peak_memory(codec.device),
        set_sequences=task.set_sequences,
    )


def open_pictures(codec: Codec, task: SequenceTask) -> VideoReader:
    """The sequence as it is coded and measured: as it is stored, or as 8-bit RGB pictures where RGB
    is measured. An RGB network takes YUV that does not say its colors as BT.709, full range."""
    reader, measured = open_sequence(task.source, task.sequence), task.conditions
    if reader.info.chroma == "rgb":
        if measured.color != "rgb":
            reader.close()
            raise UserError(f"{task.source} is RGB; measure it with --color rgb")
        return reader
    if measured.color == "rgb":
        return _as_rgb(reader, resolve_color(reader.info, measured.matrix, measured.range))
    color = reader.info.color
    if codec.model.cfg.color == "rgb" and UNSPECIFIED in (color.matrix, color.range):
        reader.info = resolve_color(reader.info, "bt709", "full")
    return reader


def _as_rgb(reader: VideoReader, info: VideoInfo) -> VideoReader:
    """`reader`, of YUV with the colors of `info`, as a reader of RGB pictures."""
    target = replace(info, chroma="rgb", bit_depth=8, color=RGB_COLOR)
    return VideoReader(reader.path, target, lambda: (rgb_picture(f, info) for f in reader))


def _refresh_period(codec: Codec, task: SequenceTask) -> int:
    asked = task.conditions.refresh_period
    return codec.model.cfg.refresh_period if asked is None else asked


def _codec_name(codec: Codec, task: SequenceTask) -> str:
    """The model's name, the refresh period where it is not the model's, steps of refinement."""
    period = _refresh_period(codec, task)
    same = period == codec.model.cfg.refresh_period
    name = codec.name if same else f"{codec.name}-refresh{period}"
    return f"{name}-refine{steps}" if (steps := task.conditions.refine) else name


def _encode(
    codec: Codec, task: SequenceTask, stream: BinaryIO, on_frame: OnFrame | None
) -> tuple[list[tuple[str, float, float]], dict[str, float]]:
    """(type, bits, estimated bits) of each frame; seconds by kind of work."""
    clock = _Clock()
    coded = []
    with open_pictures(codec, task) as reader:
        intra_period, refresh_period = task.conditions.intra_period, _refresh_period(codec, task)
        refine = task.conditions.refine
        header = codec.header(
            reader.info, task.quality, intra_period or -1, refresh_period, refine=refine
        )
        writer = BitstreamWriter(stream, header)
        frames = clock.reading(islice(reader, task.frames))
        coding = codec.encode_frames(
            frames, reader.info, header, writer, estimate=True, refine=refine
        )
        for frame in coding:
            clock.hold()
            assert frame.output is not None
            clock.entropy += frame.output.coder_seconds
            clock.held += frame.output.estimate_seconds
            estimate = float(frame.output.total_bits)
            coded.append(("I" if frame.intra else "P", float(frame.bits), estimate))
            if on_frame is not None:
                on_frame()
            clock.go_on()
        writer.close()
    if not coded:
        raise UserError(f"{task.source} holds no frames")
    if len(coded) < task.frames:
        raise UserError(f"{task.source} has {len(coded)} frames, not {task.frames}")
    return coded, clock.seconds()


def _decode(
    codec: Codec, task: SequenceTask, stream: BinaryIO, on_frame: OnFrame | None
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Quality of each decoded frame; seconds by kind of work, without the comparison."""
    clock, measured = _Clock(), []
    with open_pictures(codec, task) as source:
        info = source.info
        decoded = codec.decode_frames(BitstreamReader(stream), info, CodingReport(info), False)
        clock.hold()
        for original in islice(source, task.frames):
            clock.go_on()
            frame = next(decoded)
            clock.hold()
            assert frame.output is not None
            clock.entropy += frame.output.coder_seconds
            x_hat = frame.output.x_hat[..., : info.height, : info.width]
            measured.append(frame_metrics(original, frame.reconstruction, x_hat, info, codec, task))
            if on_frame is not None:
                on_frame()
        clock.go_on()
    return measured, clock.seconds()


def frame_metrics(
    original: Frame,
    decoded: Frame,
    x_hat: Tensor,
    info: VideoInfo,
    codec: Codec,
    task: SequenceTask,
) -> dict[str, float]:
    """Metrics of one frame of `open_pictures` by name; x_hat [1, 3, H, W] is what the network gave,
    clamped."""
    if task.conditions.color == "yuv420":
        return stored_quality(original, decoded, info)
    if codec.model.cfg.color == "ycbcr":
        x_hat = ycbcr_to_rgb(x_hat, "bt709", "full")
    x_hat = x_hat.float().clamp(0, 1)
    if task.conditions.rounds_rgb:
        x_hat = (x_hat * 255).round() / 255
    return rgb_quality(planes_to_tensor(original, info, "rgb", codec.device), x_hat)


class _Clock:
    """Seconds of coding, apart: reading files ("io"), the rANS coder ("entropy"), the rest. What is
    done between `hold` and `go_on` does not count, nor does what is added to `held`."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.held = self.io = self.entropy = 0.0
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

    def hold(self) -> None:
        self._since = time.perf_counter()

    def go_on(self) -> None:
        self.held += time.perf_counter() - self._since

    def seconds(self) -> dict[str, float]:
        """The parts and their total."""
        total = time.perf_counter() - self.began - self.held
        network = total - self.io - self.entropy
        return {"total": total, "network": network, "entropy": self.entropy, "io": self.io}


@lru_cache(maxsize=1)
def _complexity(codec: Codec) -> dict[str, float]:
    return facts(*count(codec.model))


def _metadata(codec: Codec, task: SequenceTask) -> dict[str, object]:
    complexity = dict(_complexity(codec))
    if task.conditions.refine:  # which no count of ours has
        complexity.pop("encode_kmac_per_pixel", None)
    return {
        "weights_sha256": _file_hash(task.weights, _changed(task.weights)),
        "weights_id": codec.weights_id.hex(),
        "model": codec.model.cfg.model_dump(mode="json"),
        "device": str(codec.device),
        **complexity,
        **versions(),
    }
