"""The coders that only count: in training, and where bits are estimated.

In training noise for the rate, straight-through rounding for values. Everything is float32.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmfr.nn.coder import EntropyCoder, quantized
from cmfr.nn.densities import Density, HyperDensity
from cmfr.nn.layers import round_ste


@dataclass(frozen=True)
class TrainingNoise:
    """Uniform noise in place of rounding, in training.

    in_values: the decoder sees the noise too (which lets it find latents that are still smaller
    than a quantization step), not straight-through rounding.
    first, total: this process codes samples `first`, `first + 1`, ... of a batch of `total`; noise
    is drawn for all of them, so that a sample's noise does not depend on how the batch is split
    (None: the batch is whole).
    """

    in_values: bool = False
    first: int = 0
    total: int | None = None

    def like(self, x: Tensor) -> Tensor:
        """Noise in [-0.5, 0.5) for x [B, ...]."""
        if self.total is None:
            return torch.rand_like(x) - 0.5
        noise = torch.rand((self.total, *x.shape[1:]), device=x.device, dtype=x.dtype) - 0.5
        return noise[self.first : self.first + len(x)]


class BitEstimator(EntropyCoder):
    """Counts bits.

    training: additive noise for the rate, and for the values straight-through rounding or the same
    noise (`TrainingNoise`). Otherwise exactly the symbols and the scale table that a `BitWriter`
    uses.
    """

    def __init__(self, training: bool, noise: TrainingNoise = TrainingNoise()) -> None:
        self.training, self.noise = training, noise
        self.bits: dict[str, Tensor] = {}  # name -> bits per sample [B]
        self.maps: dict[str, Tensor] = {}  # name -> bits per position [B, H, W], detached

    def _count(self, name: str, bits: Tensor) -> None:
        total = bits.sum((1, 2, 3))
        self.bits[name] = self.bits[name] + total if name in self.bits else total
        if not self.training:
            per_position = bits.detach().sum(1)
            self.maps[name] = self.maps[name] + per_position if name in self.maps else per_position

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        assert values is not None
        distance, coded = values - mean, scale >= skip
        symbols = torch.where(coded, quantized(distance, scale, density, rdoq), 0.0)
        if self.training:
            noise = self.noise.like(distance)
            self._count(name, density.training_bits(distance, symbols, noise, scale) * coded)
            straight = distance + (noise if self.noise.in_values else (symbols - distance).detach())
            return mean + torch.where(coded, straight, 0.0)
        self._count(name, density.coded_bits(symbols, scale) * coded)
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        assert values is not None
        if self.training:
            noisy = values + self.noise.like(values)
            self._count(name, model.bits(noisy))
            return noisy if self.noise.in_values else round_ste(values)
        symbols = values.round()
        self._count(name, model.bits(symbols))
        return symbols


class TimedEstimator(BitEstimator):
    """Counts bits beside a `BitWriter`; seconds: that took, which is no part of encoding."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(training=False)
        self.device, self.seconds = device, 0.0

    def code_latent(self, *latent: Any) -> Tensor:
        began = self._now()
        coded = super().code_latent(*latent)
        self.seconds += self._now() - began
        return coded

    def code_factorized(self, *latent: Any) -> Tensor:
        began = self._now()
        coded = super().code_factorized(*latent)
        self.seconds += self._now() - began
        return coded

    def _now(self) -> float:
        """When all that was asked of the device before is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Unquantized(BitEstimator):
    """Codes nothing and returns latents as they are: what transforms alone can do."""

    def __init__(self) -> None:
        super().__init__(training=False)

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        assert values is not None
        return values

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        assert values is not None
        return values
