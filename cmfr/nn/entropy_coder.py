"""Entropy coding: the only module that imports CompressAI's rANS coder.

A latent reaches its bits through one of three coders with the same two methods, so that training
estimate, encoder and decoder run the very same network code (`LatentCoder` in latent_coder.py):

    BitEstimator   forward: counts bits (noise for the rate, straight-through rounding for values)
    BitWriter      encode:  collects symbols, `finish()` gives the bytes
    BitReader      decode:  gives symbols back from the bytes

What a symbol costs is the densities' matter (densities.py). The rANS coder is called once per
frame to encode and once per latent step to decode. Everything here is float32 whatever autocast
says.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmfr.nn.densities import CdfTables, Density, HyperDensity, make_tables
from cmfr.nn.layers import round_ste
from cmfr.nn.payload import SMALL, SmallDecoder, SmallEncoder, least_bits, padded
from cmfr.nn.portable import encoder_only
from cmfr.utils.errors import UserError

# densities.py goes first: it silences the warnings of CompressAI's import.
from compressai.ans import BufferedRansEncoder, RansDecoder  # isort: skip

_CHECKSUM_BYTES = 2
# The rANS coder never returns from larger ones, nor from what NaN is as an integer.
_LARGEST_SYMBOL = 2**26
_MISMATCH = "what was decoded is not what was encoded: the arithmetic is not the encoder's"


class BadPayload(UserError):
    """Bytes that no encoder has made of a frame of this size."""


class DecodeMismatch(BadPayload):
    """The decoder's networks do not reproduce the encoder's numbers (other device or build)."""


@torch.no_grad()
@encoder_only()
def quantized(distance: Tensor, scale: Tensor, density: Density, rdoq: float) -> Tensor:
    """Whole symbols for distances from the mean, same shape.

    rdoq: 0 = rounding. Otherwise rate-distortion optimized quantization, which decoders need not
    know of: a symbol is one nearer to 0 where that costs less, in bits + rdoq * squared error.
    """
    symbols = distance.round()
    if rdoq:
        lower = symbols - symbols.sign()
        saved = density.coded_bits(symbols, scale) - density.coded_bits(lower, scale)
        added = (distance - lower).square() - (distance - symbols).square()
        symbols = torch.where(rdoq * added < saved, lower, symbols)
    return symbols


class EntropyCoder:
    """What the three coders share: `code_latent` and `code_factorized`.

    In both, `values` is the latent (None when decoding) and the result is its quantized form.
    `name` says under which heading the bits are counted.
    """

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Latent values [B, C, H, W] under a density of `mean` and `scale` -> quantized values.

        The whole-numbered symbol is the distance from the mean as `quantized` chooses it; where the
        scale is below `skip` nothing is coded and the value is the mean.
        """
        raise NotImplementedError

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
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


class BitWriter(EntropyCoder):
    """Collects the symbols of one frame; batch size 1.

    estimator: counts their bits on the way, for those who compare estimate and file. seconds:
    spent in the rANS coder, its lists included.
    """

    def __init__(self, estimator: BitEstimator | None = None) -> None:
        self._chunks: list[tuple[Tensor, Tensor, CdfTables]] = []
        self.estimator = estimator
        self.seconds = 0.0

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        assert values is not None and len(values) == 1
        if self.estimator:
            with encoder_only():
                self.estimator.code_latent(name, values, mean, scale, density, skip, rdoq)
        coded = scale >= skip
        symbols = torch.where(coded, quantized(values - mean, scale, density, rdoq), 0.0)
        self._chunks.append((symbols[coded].int(), density.index(scale)[coded], density.tables))
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        assert values is not None and len(values) == 1
        if self.estimator:
            with encoder_only():
                self.estimator.code_factorized(name, values, model, shape)
        symbols = values.round()
        tables = model.tables or model.make_tables()
        self._chunks.append((symbols.int().flatten(), _channel_index(shape, symbols), tables))
        return symbols

    def finish(self, picture: bytes = b"") -> bytes:
        """The frame's payload: a 2-byte checksum of all symbols and then of `picture`, which stands
        for what the decoder will show; then one rANS stream; or the form that small frames have
        (payload.py)."""
        encoder, checksum, written = BufferedRansEncoder(), 0, 0
        chunks = [(s.cpu().numpy(), i.cpu().numpy(), tables) for s, i, tables in self._chunks]
        began = time.perf_counter()
        for array, indexes, tables in chunks:
            if np.abs(array.astype(np.int64)).max(initial=0) > _LARGEST_SYMBOL:
                raise UserError(
                    "a latent of this frame is not finite or out of all proportion: these weights "
                    "cannot code it"
                )
            checksum = zlib.crc32(array.tobytes(), checksum)
            written += len(array)
            if len(array):
                encoder.encode_with_indexes(
                    array.tolist(), indexes.tolist(), tables.cdfs, tables.sizes, tables.offsets
                )
        # CompressAI 1.2.8 corrupts the heap on a flush of fewer than two symbols.
        stream = encoder.flush() if written >= 2 else b""
        checksum = zlib.crc32(picture, checksum)
        payload = (checksum & 0xFFFF).to_bytes(_CHECKSUM_BYTES, "little") + stream
        if len(payload) < SMALL + 16:  # the form of small frames saves less than that
            small = SmallEncoder()
            for array, indexes, tables in chunks:
                small.encode_with_indexes(
                    array.tolist(), indexes.tolist(), tables.cdfs, tables.sizes, tables.offsets
                )
            shorter = small.flush(checksum & 0xFFFF)
            payload = shorter if len(shorter) < SMALL else padded(payload)
        self.seconds = time.perf_counter() - began
        return payload


class BitReader(EntropyCoder):
    """Gives the symbols of one frame back; batch size 1.

    `limit`: an upper bound on the symbols of the frame. seconds: spent in the rANS coder. Raises
    BadPayload, here and when symbols are read, for what no encoder writes.

    CompressAI's decoder checks no bounds; what it may read behind a payload are zeros of ours. How
    many, of a payload of P bytes: a step of it reads one word of 4 bytes at most. After an
    escape it takes 4 bits as long as they are 1111, and then up to 15 times as often 4 bits, so
    that P bytes of ones make it read 16 P. Of zeros a symbol is one step, or two (each symbol an
    escape, of no bits), where the table has nothing else.
    """

    def __init__(self, payload: bytes, limit: int, device: torch.device) -> None:
        size = len(payload)
        # A symbol takes 16 bits at most, and 4 + 28 more where it is an escape.
        if size >= SMALL and ((size - _CHECKSUM_BYTES) % 4 or size > 2 * SMALL + 6 * limit):
            raise BadPayload(f"a payload of {size} bytes is no entropy-coded frame of this size")
        self._decoder: RansDecoder | SmallDecoder
        if size < SMALL:
            self._decoder = SmallDecoder(payload)
        else:
            self._decoder = RansDecoder()
            behind = 16 * size + 8 * limit + 1024
            self._decoder.set_stream(payload[_CHECKSUM_BYTES:] + bytes(behind))
        self._stored = int.from_bytes(payload[:_CHECKSUM_BYTES], "little")
        self._checksum = 0
        self._device, self._size = device, size
        self.seconds = 0.0

    def _decode(self, indexes: list[int], tables: CdfTables) -> Tensor:
        began = time.perf_counter()
        symbols = (
            self._decoder.decode_stream(indexes, tables.cdfs, tables.sizes, tables.offsets)
            if indexes
            else []
        )
        array = np.asarray(symbols, dtype=np.int64)
        if np.abs(array).max(initial=0) > _LARGEST_SYMBOL:
            raise DecodeMismatch(_MISMATCH)
        array = array.astype(np.int32)
        self._checksum = zlib.crc32(array.tobytes(), self._checksum)
        self.seconds += time.perf_counter() - began
        return torch.from_numpy(array).to(self._device, torch.float32)

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        coded = scale >= skip
        symbols = torch.zeros_like(mean)
        symbols[coded] = self._decode(density.index(scale)[coded].tolist(), density.tables)
        return mean + symbols

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        tables = model.tables or model.make_tables()
        # Before anything of that size is made: no payload is shorter than its likeliest symbols.
        positions = shape[2] * shape[3]
        if positions * sum(map(least_bits, tables.cdfs)) > 8 * self._size + 64:
            raise BadPayload(f"a payload of {self._size} bytes cannot hold a frame of this size")
        indexes = _channel_index(shape, torch.empty(0, device=self._device)).tolist()
        return self._decode(indexes, tables).reshape(shape)

    def finish(self, picture: bytes = b"") -> None:
        """Compare the checksum. Raises DecodeMismatch when symbols or `picture`, as of
        `BitWriter.finish`, are not the encoder's."""
        small = isinstance(self._decoder, SmallDecoder)
        expected = self._decoder.checksum if small else self._stored
        if zlib.crc32(picture, self._checksum) & 0xFFFF != expected:
            raise DecodeMismatch(_MISMATCH)


def _channel_index(shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """Table index of each hyper-latent: its channel. int32 [C * H * W]."""
    _, channels, height, width = shape
    index = torch.arange(channels, dtype=torch.int32, device=like.device)
    return index.repeat_interleave(height * width)


__all__ = [
    "BadPayload", "BitEstimator", "BitReader", "BitWriter", "DecodeMismatch", "EntropyCoder",
    "TrainingNoise", "make_tables",
]  # fmt: skip
