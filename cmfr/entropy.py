"""Entropy coding: the only module that imports CompressAI.

A latent reaches its bits through one of three coders with the same two methods, so that training
estimate, encoder and decoder run the very same network code (`LatentCoder` in latent.py):

    BitEstimator   forward: counts bits (noise for the rate, straight-through rounding for values)
    BitWriter      encode:  collects symbols, `finish()` gives the bytes
    BitReader      decode:  gives symbols back from the bytes

Gaussian tables and the factorized density are CompressAI's (`GaussianConditional`,
`EntropyBottleneck`); its rANS coder is called once per frame to encode and once per latent step
to decode. Everything here is float32 whatever autocast says.
"""

from __future__ import annotations

import math
import time
import warnings
import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from cmfr.layers import round_ste

with warnings.catch_warnings():  # of torch.jit, which CompressAI's dependencies still use
    warnings.simplefilter("ignore")
    from compressai.ans import BufferedRansEncoder, RansDecoder
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 64.0, 64
_LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
_LIKELIHOOD_FLOOR = 1e-9
_CHECKSUM_BYTES = 2


class DecodeMismatch(ValueError):
    """The decoder's networks do not reproduce the encoder's numbers (other device or build)."""


@dataclass(frozen=True)
class CdfTables:
    """Quantized cumulative distributions as the rANS coder takes them, converted once."""

    cdfs: list[list[int]]
    sizes: list[int]
    offsets: list[int]

    @classmethod
    def of(cls, model: EntropyBottleneck | GaussianConditional) -> CdfTables:
        return cls(
            cast(Tensor, model._quantized_cdf).tolist(),
            cast(Tensor, model._cdf_length).reshape(-1).int().tolist(),
            cast(Tensor, model._offset).reshape(-1).int().tolist(),
        )


def _gaussian_tables() -> CdfTables:
    levels = SCALE_MIN * np.exp(_LOG_STEP * np.arange(SCALE_LEVELS))
    model = GaussianConditional(levels.tolist())
    model.update_scale_table(levels.tolist(), force=True)
    return CdfTables.of(model)


GAUSSIAN_TABLES = _gaussian_tables()


def scale_index(scale: Tensor) -> Tensor:
    """Nearest entry of the scale table in the log domain, int32, same shape."""
    index = torch.log(scale / SCALE_MIN).div(_LOG_STEP).round()
    return index.clamp(0, SCALE_LEVELS - 1).int()


def gaussian_bits(symbols: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the mass a zero-mean Gaussian gives to [symbol - 1/2, symbol + 1/2].

    Without gradients, what the coder really spends on whole symbols: its 16-bit tables know no
    smaller probability, and a symbol beyond them costs about another byte of escape code.
    """
    magnitude, inverse = symbols.abs(), 1 / (scale * math.sqrt(2))
    upper = torch.erfc((magnitude - 0.5) * inverse)
    lower = torch.erfc((magnitude + 0.5) * inverse)
    mass = 0.5 * (upper - lower)
    bits = -torch.log2(mass.clamp(min=_LIKELIHOOD_FLOOR))
    if not bits.requires_grad:
        return bits.clamp(max=16) + 8 * (mass < _LIKELIHOOD_FLOOR)
    # In training a straight line in the magnitude keeps a gradient where the mass is 0.
    return bits + (mass < _LIKELIHOOD_FLOOR) * (magnitude * inverse)


class HyperBottleneck(EntropyBottleneck):
    """Factorized density of hyper-latents, rounded to whole numbers (no median offset).

    CompressAI learns the tails of its tables with an auxiliary loss; here they are solved for by
    bisection when the tables are made, so that there is no second optimizer and no stale table.
    """

    # What `make_tables` computes from the weights: no part of a weights file.
    DERIVED = ("quantiles", "target", "_quantized_cdf", "_cdf_length", "_offset")

    def __init__(self, channels: int) -> None:
        super().__init__(channels, tail_mass=1e-6)
        self.quantiles.requires_grad_(False)
        self.tables: CdfTables | None = None

    def bits(self, z: Tensor) -> Tensor:
        """-log2 likelihood of z [B, C, H, W], any real values; same shape."""
        values = z.transpose(0, 1)
        flat = values.reshape(z.shape[1], 1, -1)
        likelihood, _, _ = self._likelihood(flat)
        likelihood = likelihood.clamp(min=_LIKELIHOOD_FLOOR)
        return -torch.log2(likelihood).reshape(values.shape).transpose(0, 1)

    @torch.no_grad()
    def make_tables(self) -> CdfTables:
        """Solve for the tails and build the CDF tables (kept; `tables = None` drops them)."""
        self._update_quantiles(search_radius=4096.0)
        self.quantiles[:, 0, 1] = 0
        self.update(force=True)
        self.tables = CdfTables.of(self)
        return self.tables


class EntropyCoder:
    """What the three coders share: `code_gaussian` and `code_factorized`.

    In both, `values` is the latent (None when decoding) and the result is its quantized form.
    `name` says under which heading the bits are counted.
    """

    def code_gaussian(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor, skip: float
    ) -> Tensor:
        """Latent values [B, C, H, W] under N(mean, scale) -> quantized values.

        The whole-numbered symbol is the rounded distance from the mean; where the scale is below
        `skip` nothing is coded and the value is the mean.
        """
        raise NotImplementedError

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperBottleneck,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        """Hyper-latent [B, C, H, W] under its factorized density -> whole numbers."""
        raise NotImplementedError


@dataclass(frozen=True)
class TrainingNoise:
    """Uniform noise in place of rounding, in training.

    in_values: the decoder sees the noise too (which lets it find latents that are still smaller
    than a quantization step), not straight-through rounding. first, total: this process codes
    samples `first`, `first + 1`, ... of a batch of `total`; noise is drawn for all of them, so
    that a sample's noise does not depend on how the batch is split (None: the batch is whole).
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
    """Counts bits. `training`: additive noise for the rate, and for the values straight-through
    rounding or the same noise (`TrainingNoise`). Otherwise exactly the symbols and the scale
    table that a `BitWriter` uses."""

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

    def code_gaussian(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor, skip: float
    ) -> Tensor:
        assert values is not None
        distance = values - mean
        if self.training:
            noisy = distance + self.noise.like(distance)
            self._count(name, gaussian_bits(noisy, scale.clamp(min=SCALE_MIN)))
            return mean + (noisy if self.noise.in_values else round_ste(distance))
        coded = scale >= skip
        symbols = torch.where(coded, distance.round(), 0.0)
        table_scale = SCALE_MIN * torch.exp(_LOG_STEP * scale_index(scale))
        self._count(name, gaussian_bits(symbols, table_scale) * coded)
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperBottleneck,
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


class BitWriter(EntropyCoder):
    """Collects the symbols of one frame; batch size 1.

    estimator: counts their bits on the way, for those who compare estimate and file. seconds:
    spent in the rANS coder, its lists included.
    """

    def __init__(self, estimator: BitEstimator | None = None) -> None:
        self._chunks: list[tuple[Tensor, Tensor, CdfTables]] = []
        self.estimator = estimator
        self.seconds = 0.0

    def code_gaussian(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor, skip: float
    ) -> Tensor:
        assert values is not None and len(values) == 1
        if self.estimator:
            self.estimator.code_gaussian(name, values, mean, scale, skip)
        coded = scale >= skip
        symbols = torch.where(coded, (values - mean).round(), 0.0)
        self._chunks.append((symbols[coded].int(), scale_index(scale)[coded], GAUSSIAN_TABLES))
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperBottleneck,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        assert values is not None and len(values) == 1
        if self.estimator:
            self.estimator.code_factorized(name, values, model, shape)
        symbols = values.round()
        tables = model.tables or model.make_tables()
        self._chunks.append((symbols.int().flatten(), _channel_index(shape, symbols), tables))
        return symbols

    def finish(self) -> bytes:
        """The frame's payload: a 2-byte checksum of all symbols, then one rANS stream."""
        encoder, checksum, written = BufferedRansEncoder(), 0, 0
        chunks = [(s.cpu().numpy(), i.cpu().numpy(), tables) for s, i, tables in self._chunks]
        began = time.perf_counter()
        for array, indexes, tables in chunks:
            checksum = zlib.crc32(array.tobytes(), checksum)
            written += len(array)
            if len(array):
                encoder.encode_with_indexes(
                    array.tolist(), indexes.tolist(), tables.cdfs, tables.sizes, tables.offsets
                )
        # CompressAI 1.2.8 corrupts the heap on a flush of fewer than two symbols. A hyper-latent
        # always has as many symbols as channels, so this cannot happen with a valid model.
        assert written >= 2
        payload = (checksum & 0xFFFF).to_bytes(_CHECKSUM_BYTES, "little") + encoder.flush()
        self.seconds = time.perf_counter() - began
        return payload


class BitReader(EntropyCoder):
    """Gives the symbols of one frame back; batch size 1.

    `limit`: an upper bound on the symbols of the frame. The rANS decoder checks no bounds, and
    numbers that differ from the encoder's make it read on: zeros behind the payload keep it
    inside memory of ours until the checksum is compared. seconds: spent in the rANS coder.
    """

    def __init__(self, payload: bytes, limit: int, device: torch.device) -> None:
        if len(payload) < _CHECKSUM_BYTES + 4 or (len(payload) - _CHECKSUM_BYTES) % 4:
            raise ValueError(f"a payload of {len(payload)} bytes is no entropy-coded frame")
        self._decoder = RansDecoder()
        self._decoder.set_stream(payload[_CHECKSUM_BYTES:] + bytes(4 * limit + 64))
        self._expected = int.from_bytes(payload[:_CHECKSUM_BYTES], "little")
        self._checksum = 0
        self._device = device
        self.seconds = 0.0

    def _decode(self, indexes: list[int], tables: CdfTables) -> Tensor:
        began = time.perf_counter()
        symbols = (
            self._decoder.decode_stream(indexes, tables.cdfs, tables.sizes, tables.offsets)
            if indexes
            else []
        )
        array = np.asarray(symbols, dtype=np.int32)
        self._checksum = zlib.crc32(array.tobytes(), self._checksum)
        self.seconds += time.perf_counter() - began
        return torch.from_numpy(array).to(self._device, torch.float32)

    def code_gaussian(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor, skip: float
    ) -> Tensor:
        coded = scale >= skip
        symbols = torch.zeros_like(mean)
        symbols[coded] = self._decode(scale_index(scale)[coded].tolist(), GAUSSIAN_TABLES)
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperBottleneck,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        tables = model.tables or model.make_tables()
        indexes = _channel_index(shape, torch.empty(0, device=self._device)).tolist()
        return self._decode(indexes, tables).reshape(shape)

    def finish(self) -> None:
        """Compare the checksum. Raises DecodeMismatch when the symbols are not the encoder's."""
        if self._checksum & 0xFFFF != self._expected:
            raise DecodeMismatch(
                "the decoded symbols are not the encoder's: the stream was probably made on "
                "another device or with another build of PyTorch"
            )


def _channel_index(shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """Table index of each hyper-latent: its channel. int32 [C * H * W]."""
    _, channels, height, width = shape
    index = torch.arange(channels, dtype=torch.int32, device=like.device)
    return index.repeat_interleave(height * width)


def make_tables(module: nn.Module) -> None:
    """Build the entropy tables of every bottleneck in `module` (after loading or training)."""
    for part in module.modules():
        if isinstance(part, HyperBottleneck):
            part.make_tables()
