"""What the gates of a P-frame do, channel by channel: the mask, and the scales of SFF.

A mean of the mask over all channels says little: most of a picture's energy is in few of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmfr.models.cmfr.features import ScaledFeatureFusion

FusionInputs = Mapping[str, tuple[Tensor, Tensor]]  # feature and condition, by the module's name


@dataclass(frozen=True)
class Gate:
    """One gate of a frame. The codec goes on with: other + sign * gate * gated.

    name: "mask", "unmasked" (features are subtracted as they are), or that of the SFF module.
    gate, gated, other: [C, h, w]; a gate of one channel is that of all.
    sign: -1 where it is subtracted.
    """

    name: str
    gate: Tensor
    gated: Tensor
    other: Tensor
    sign: int

    def row(self, channels: slice) -> list[float]:
        """Numbers of some channels, in the order of `COLUMNS`."""
        gate = self.gate.expand_as(self.gated)[channels].double()
        gated, other = self.gated[channels].double(), self.other[channels].double()
        energy = gated.square()
        numbers = (
            gate.mean(),
            gate.std(unbiased=False),
            (gate * energy).sum() / energy.sum().clamp(min=1e-30),
            _rms(gated),
            _rms(other),
            _rms(other + self.sign * gated),
            _rms(other + self.sign * gate * gated),
        )
        return [float(number) for number in numbers]


COLUMNS = (
    "gate_mean",  # over positions
    "gate_sd",
    "gate_weighted",  # mean, weighted by the energy of what is gated
    "gated_rms",
    "other_rms",
    "ungated_rms",  # of the sum or difference with a gate of 1
    "result_rms",  # with the gate
)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


@torch.inference_mode()
def fusion_gates(network: nn.Module, inputs: FusionInputs) -> list[Gate]:
    """The scales of all SFF modules of a frame.

    network: the P-frame codec.
    inputs: what they were given [1, C, h, w].
    """
    gates = []
    for name, (feature, condition) in inputs.items():
        module = network.get_submodule(name)
        assert isinstance(module, ScaledFeatureFusion)
        feature, condition = feature.float(), condition.float()
        gate = module.gate(feature, condition)
        gated, other = module.condition(condition), module.feature(feature)
        gates.append(Gate(name, gate[0], gated[0], other[0], module.sign))
    return gates


def write_gates(gates: Iterable[Gate], path: Path) -> None:
    """A line per gate and channel, and one per gate for all of its channels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["gate", "channel", *COLUMNS])
        for gate in gates:
            channels = len(gate.gated)
            parts = {"all": slice(None)} | {str(c): slice(c, c + 1) for c in range(channels)}
            for label, part in parts.items():
                numbers = [f"{number:.5g}" for number in gate.row(part)]
                writer.writerow([gate.name, label, *numbers])
