"""Entropy coding: the only module that imports CompressAI's rANS coder.

A latent reaches its bits through an `EntropyCoder` (coder.py), so that training estimate, encoder
and decoder run the very same network code (`LatentCoder` in latent_coder.py):

    BitEstimator   forward: counts bits (bit_estimator.py)
    BitWriter      encode:  collects symbols, `finish()` gives the bytes
    BitReader      decode:  gives symbols back from the bytes

What a symbol costs is the densities' matter (densities.py). The rANS coder is called once per
frame to encode and once per latent step to decode. Everything here is float32 whatever autocast
says.
"""

from __future__ import annotations

import time
import zlib

import numpy as np
import torch
from torch import Tensor

from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.coder import EntropyCoder, quantized
from cmfr.nn.densities import CdfTables, Density, HyperDensity
from cmfr.nn.payload import SMALL, SmallDecoder, SmallEncoder, least_bits, padded
from cmfr.nn.portable import encoder_only
from cmfr.utils.device import to_device, to_host
from cmfr.utils.errors import UserError

# densities.py goes first: it silences the warnings of CompressAI's import.
from compressai.ans import BufferedRansEncoder, RansDecoder  # isort: skip

_CHECKSUM_BYTES = 2
# Symbols and the numbers of their tables cross from the device as one int32 each: the symbol above
# so many bits, below it the number + 1, or 0 where nothing is coded. Tables are 256 at most.
_INDEX_BITS = 9
_BEYOND = 2**22 - 1  # stands for larger symbols, and for NaN
# The rANS coder never returns from larger ones, nor from what NaN is as an integer.
_LARGEST_SYMBOL = 2**26
_USUAL_SYMBOLS = 16  # a byte of payload; 3 to 20 of I-frames and P-frames at most qualities
_MISMATCH = "what was decoded is not what was encoded: the arithmetic is not the encoder's"


class BadPayload(UserError):
    """Bytes that no encoder has made of a frame of this size."""


class DecodeMismatch(BadPayload):
    """The decoder's networks do not reproduce the encoder's numbers (other device or build)."""


class BitWriter(EntropyCoder):
    """Collects the symbols of one frame; batch size 1.

    estimator: counts their bits on the way, for those who compare estimate and file. seconds:
    spent in the rANS coder, its lists included.
    """

    def __init__(self, estimator: BitEstimator | None = None) -> None:
        # Packed symbols on the device; the numbers of their tables, if not packed; the tables.
        self._chunks: list[tuple[Tensor, np.ndarray | None, CdfTables]] = []
        self._fetched: np.ndarray | None = None
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
        index = torch.where(coded, density.index(scale), -1)
        self._chunks.append((_packed(symbols, index), None, density.tables))
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
        self._chunks.append((_packed(symbols, 0), _channel_index(shape), tables))
        return symbols

    @property
    def symbols(self) -> int:
        """How many there are so far, those that are not coded among them."""
        return sum(len(packed) for packed, _, _ in self._chunks)

    def fetch(self) -> None:
        """Wait for the symbols; `finish` then asks nothing of the device."""
        self._fetched = to_host(torch.cat([symbols for symbols, _, _ in self._chunks]))

    def finish(self, picture: bytes = b"") -> bytes:
        """The frame's payload: a 2-byte checksum of all symbols and then of `picture`, which stands
        for what the decoder will show; then one rANS stream; or the form that small frames have
        (payload.py)."""
        encoder, checksum, written = BufferedRansEncoder(), 0, 0
        if self._fetched is None:
            self.fetch()
        packed = self._fetched
        assert packed is not None
        began = time.perf_counter()
        chunks, end = [], 0
        for symbols, given, tables in self._chunks:
            here = packed[end : end + len(symbols)]
            end += len(here)
            here = here[here & (2**_INDEX_BITS - 1) != 0]
            indexes = (here & (2**_INDEX_BITS - 1)) - 1 if given is None else given
            chunks.append((here >> _INDEX_BITS, indexes, tables))
        for array, indexes, tables in chunks:
            if np.abs(array).max(initial=0) >= _BEYOND:
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


class BoundedDecoder:
    """CompressAI's decoder, which checks no bounds, with as many zeros behind a stream as it may
    read.

    How many, of a stream of P bytes: a step of it reads one word of 4 bytes at most. After an
    escape it takes 4 bits as long as they are 1111, and then up to 15 times as often 4 bits, so
    that P bytes of ones make it read 16 P. Of zeros a symbol is one step, or two (each symbol an
    escape, of no bits), where the table has nothing else: 8 bytes.

    The coder copies its stream for some 2 ms a MB, so there are zeros for the usual number of
    symbols first. When more are asked for, it starts again with more, and reads what it has read.

    limit: an upper bound on the symbols.
    """

    def __init__(self, stream: bytes, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._read: list[tuple[list[int], list[list[int]], list[int], list[int]]] = []
        self._count = 0
        self._start(min(_USUAL_SYMBOLS * len(stream) + 4096, limit))

    def _start(self, symbols: int) -> None:
        self._most = symbols
        self._decoder = RansDecoder()
        self._decoder.set_stream(self._stream + bytes(16 * len(self._stream) + 8 * symbols + 1024))

    def decode_stream(
        self,
        indexes: list[int],
        cdfs: list[list[int]],
        sizes: list[int],
        offsets: list[int],
    ) -> list[int]:
        """The next symbols; as of RansDecoder."""
        self._count += len(indexes)
        if self._count > self._most:
            self._start(max(self._count, min(4 * self._count, self._limit)))
            for before in self._read:
                self._decoder.decode_stream(*before)
        self._read.append((indexes, cdfs, sizes, offsets))
        return self._decoder.decode_stream(indexes, cdfs, sizes, offsets)


class BitReader(EntropyCoder):
    """Gives the symbols of one frame back; batch size 1.

    `limit`: an upper bound on the symbols of the frame. seconds: spent in the rANS coder. Raises
    BadPayload, here and when symbols are read, for what no encoder writes.
    """

    def __init__(self, payload: bytes, limit: int, device: torch.device) -> None:
        size = len(payload)
        # A symbol takes 16 bits at most, and 4 + 28 more where it is an escape.
        if size >= SMALL and ((size - _CHECKSUM_BYTES) % 4 or size > 2 * SMALL + 6 * limit):
            raise BadPayload(f"a payload of {size} bytes is no entropy-coded frame of this size")
        self._decoder: BoundedDecoder | SmallDecoder
        if size < SMALL:
            self._decoder = SmallDecoder(payload)
        else:
            self._decoder = BoundedDecoder(payload[_CHECKSUM_BYTES:], limit)
        self._stored = int.from_bytes(payload[:_CHECKSUM_BYTES], "little")
        self._checksum = 0
        self._device, self._size = device, size
        self.seconds = 0.0

    def _decode(self, indexes: np.ndarray, tables: CdfTables) -> np.ndarray:
        """The next symbols, int32, given the numbers of their tables."""
        began = time.perf_counter()
        symbols = (
            self._decoder.decode_stream(indexes.tolist(), tables.cdfs, tables.sizes, tables.offsets)
            if len(indexes)
            else []
        )
        array = np.asarray(symbols, dtype=np.int64)
        if np.abs(array).max(initial=0) > _LARGEST_SYMBOL:
            raise DecodeMismatch(_MISMATCH)
        array = array.astype(np.int32)
        self._checksum = zlib.crc32(array.tobytes(), self._checksum)
        self.seconds += time.perf_counter() - began
        return array

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        # int16: half of what crosses from the device, the only wait of this step.
        index = to_host(torch.where(scale >= skip, density.index(scale), -1).short())
        coded = index >= 0
        symbols = np.zeros(index.shape, np.float32)
        symbols[coded] = self._decode(index[coded], density.tables)
        return mean + to_device(symbols, self._device)

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
        symbols = self._decode(_channel_index(shape), tables).astype(np.float32)
        return to_device(symbols.reshape(shape), self._device)

    def finish(self, picture: bytes = b"") -> None:
        """Compare the checksum. Raises DecodeMismatch when symbols or `picture`, as of
        `BitWriter.finish`, are not the encoder's."""
        small = self._decoder if isinstance(self._decoder, SmallDecoder) else None
        expected = small.checksum if small else self._stored
        if zlib.crc32(picture, self._checksum) & 0xFFFF != expected:
            raise DecodeMismatch(_MISMATCH)


@encoder_only()
def _packed(symbols: Tensor, index: Tensor | int) -> Tensor:
    """Whole symbols (float) and the numbers of their tables, -1 where nothing is coded -> int32 [N]
    (see _INDEX_BITS)."""
    whole = symbols.nan_to_num(_BEYOND, _BEYOND, -_BEYOND).clamp(-_BEYOND, _BEYOND).int()
    return (whole * 2**_INDEX_BITS + (index + 1)).flatten()


def _channel_index(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Table index of each hyper-latent: its channel. [C * H * W]."""
    _, channels, height, width = shape
    return np.arange(channels).repeat(height * width)
