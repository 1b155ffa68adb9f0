"""What a frame's payload is made of: one of two forms, told apart by its length.

From `SMALL` bytes on it is what CompressAI's rANS coder writes (entropy_coder.py), which spends 8
bytes on its state and 2 on the checksum of the symbols. A shorter payload would hardly be longer
than that, so it is coded here, by asymmetric numeral systems too but in Python: the state starts as
the checksum, and ends as the first bytes of the payload. Nothing else is constant in it.

Both coders have CompressAI's methods and read the same tables (`densities.CdfTables`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import log2

SMALL = 1024  # bytes; a longer payload takes too long in Python, and 8 bytes are under 1 % of it

_PRECISION = 16  # bits of a probability, as in the tables
_LOW = 1 << 40  # the state stays in _LOW .. 256 * _LOW - 1 once it is there
_LENGTH_BITS = 5  # of the length in bits of what an escape stands for


def padded(payload: bytes) -> bytes:
    """A payload of CompressAI's coder, with zeros behind it so that it is not taken for a small
    one: that coder may read on, and does not care."""
    return payload + bytes(max(0, -(-(SMALL - len(payload)) // 4) * 4))


def least_bits(cdf: Sequence[int]) -> float:
    """What a symbol of a table costs at least, in bits: its likeliest one."""
    return _PRECISION - log2(max(high - low for low, high in pairwise(cdf)))


class SmallEncoder:
    """Collects symbols; `flush` codes them, the last one first."""

    def __init__(self) -> None:
        self._slots: list[tuple[int, int]] = []  # first slot and number of slots of each symbol

    def encode_with_indexes(
        self,
        symbols: Sequence[int],
        indexes: Sequence[int],
        cdfs: Sequence[Sequence[int]],
        sizes: Sequence[int],
        offsets: Sequence[int],
    ) -> None:
        """Symbols, and for each the number of its table."""
        add = self._slots.append
        for symbol, index in zip(symbols, indexes, strict=True):
            cdf, escape, value = cdfs[index], sizes[index] - 2, symbol - offsets[index]
            if 0 <= value < escape:
                add((cdf[value], cdf[value + 1] - cdf[value]))
                continue
            add((cdf[escape], cdf[escape + 1] - cdf[escape]))
            rest = 2 * (value - escape) if value >= escape else -2 * value - 1
            length = rest.bit_length()
            self._add_bits(length, _LENGTH_BITS)
            self._add_bits(rest & 0xFFFF, min(length, 16))
            self._add_bits(rest >> 16, max(length - 16, 0))

    def _add_bits(self, value: int, bits: int) -> None:
        """`bits` bits (at most 16) as they are."""
        shift = _PRECISION - bits
        self._slots.append((value << shift, 1 << shift))

    def flush(self, checksum: int) -> bytes:
        """The payload.

        checksum: 16 bits.
        """
        state, tail = checksum, bytearray()
        for first, count in reversed(self._slots):
            while state >= count << 32:  # or it would leave its range
                tail.append(state & 0xFF)
                state >>= 8
            state = (state // count << _PRECISION) + state % count + first
        tail.reverse()
        return state.to_bytes(-(-state.bit_length() // 8), "big") + bytes(tail)


class SmallDecoder:
    """Gives back the symbols of a `SmallEncoder`, from any bytes some symbols."""

    def __init__(self, payload: bytes) -> None:
        self._payload, self._at, self._state = payload, 0, 0
        self._fill()

    @property
    def checksum(self) -> int | None:
        """What the encoder began with, after the last symbol; None where bytes are left over."""
        return self._state if self._at == len(self._payload) else None

    def decode_stream(
        self,
        indexes: Sequence[int],
        cdfs: Sequence[Sequence[int]],
        sizes: Sequence[int],
        offsets: Sequence[int],
    ) -> list[int]:
        """The next symbols, given the numbers of their tables."""
        symbols = []
        for index in indexes:
            cdf, escape = cdfs[index], sizes[index] - 2
            slot = self._state & 0xFFFF
            value = bisect_right(cdf, slot) - 1
            first = cdf[value]
            self._state = (cdf[value + 1] - first) * (self._state >> _PRECISION) + slot - first
            if self._state < _LOW:
                self._fill()
            if value == escape:
                length = self._bits(_LENGTH_BITS)
                rest = self._bits(min(length, 16)) | self._bits(max(length - 16, 0)) << 16
                value = -(rest + 1) // 2 if rest & 1 else escape + rest // 2
            symbols.append(value + offsets[index])
        return symbols

    def _bits(self, bits: int) -> int:
        slot, shift = self._state & 0xFFFF, _PRECISION - bits
        self._state = (self._state >> _PRECISION << shift) + slot % (1 << shift)
        self._fill()
        return slot >> shift

    def _fill(self) -> None:
        while self._state < _LOW and self._at < len(self._payload):
            self._state = self._state << 8 | self._payload[self._at]
            self._at += 1
