"""What the parts of a variant do: the numbers of `cmfr diagnose` that explain a BD-rate.

Predictions before and after the Motion Refiner, the mask by region, the bits of each latent; means
of the sequences. Measured once a variant, kept in run_dir/parts/NAME.json.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from cmfr.analysis.diagnosis import MIDDLE, bits, code, masks, motion
from cmfr.analysis.diagnosis_table import Table
from cmfr.codec.codec import load_codec
from cmfr.evaluation.diagnosed import read_sequence
from cmfr.evaluation.measure import weights_identity
from cmfr.evaluation.sequences import TestSequence
from cmfr.models.cmfr.inter import CMFR
from cmfr.utils.files import atomic_write_text
from cmfr.utils.parallel import Count

Parts = dict[str, float]


@dataclass(frozen=True)
class PartsTask:
    """The parts of one variant.

    frames: of each sequence, the first so many or all.
    output: the file.
    """

    weights: Path
    device: str
    sequences: tuple[tuple[TestSequence, Path], ...]
    frames: int
    output: Path

    def finished(self) -> Parts:
        """What was measured of these weights on these frames; empty where nothing was."""
        parts, conditions = read_parts(self.output)
        return parts if conditions == self._conditions() else {}

    def measure(self) -> Parts:
        """The parts, measured unless they are there; of another family than CMFR there are none."""
        if parts := self.finished():
            return parts
        codec = load_codec(self.weights, self.device)
        if not isinstance(codec.model.inter, CMFR):
            return {}
        sequences = [
            read_sequence(codec, sequence, path, min(self.frames, sequence.frames))
            for sequence, path in self.sequences
        ]
        coded = code(codec.model, sequences, MIDDLE)
        # The motion's bits are not taken from its table: they come by latent, below.
        parts = {
            f"PSNR-Y {name}": value
            for name, value in _means(motion(sequences, coded)).items()
            if "bpp" not in name
        }
        parts |= {f"mask {name}": v for name, v in _means(masks(sequences, coded)).items()}
        rate = bits(sequences, coded)
        for name, column in zip(rate.columns, zip(*rate.rows.values(), strict=True), strict=True):
            parts |= {f"{name} bpp {q}": value for q, value in zip(rate.rows, column, strict=True)}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._conditions() | {"parts": parts}, indent=1)
        atomic_write_text(self.output, text + "\n")
        return parts

    def _conditions(self) -> dict[str, object]:
        names = [sequence.name for sequence, _ in self.sequences]
        identity = weights_identity(self.weights)
        return {"weights": identity, "sequences": names, "frames": self.frames}


def read_parts(file: Path) -> tuple[Parts, dict[str, object]]:
    """The parts in a file, and what they were measured of; both empty where it holds none."""
    try:
        read = json.loads(file.read_text())
        return dict(read.pop("parts")), dict(read)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, {}


def measure_parts(task: PartsTask, count: Count) -> Parts:
    """For a pool of processes."""
    parts = task.measure()
    count(1)
    return parts


def _means(table: Table) -> Parts:
    """The means of the columns that have a number."""
    named = zip(table.columns, table.means(), strict=True)
    return {name: mean for name, mean in named if not math.isnan(mean)}
