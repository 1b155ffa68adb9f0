"""Sequences of test sets as `cmfr diagnose` and ablations look at them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from cmfr.analysis.diagnosis_table import DiagnosedSequence
from cmfr.codec.codec import Codec
from cmfr.evaluation.sequences import TestSequence, open_sequence
from cmfr.video.color import planes_to_tensor
from cmfr.video.info import resolve_color


def read_sequence(
    codec: Codec, sequence: TestSequence, path: Path, frames: int | None
) -> DiagnosedSequence:
    """The first `frames` (None: all listed) as the codec's network takes them."""
    color = codec.model.cfg.color
    with open_sequence(path, sequence) as reader:
        info = resolve_color(reader.info, "bt709", "full") if color == "rgb" else reader.info
        read = islice(reader, sequence.frames if frames is None else frames)
        tensors = (planes_to_tensor(frame, info, color, codec.device) for frame in read)
        return DiagnosedSequence.of(sequence.name, tensors, codec.model)
