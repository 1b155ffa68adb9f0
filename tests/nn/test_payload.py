import random
import zlib
from math import log2

import pytest

from cmfr.nn.payload import SMALL, SmallDecoder, SmallEncoder, padded


def tables(seed=0):
    """Random distributions of 16 bits as CompressAI has them: the last symbol is the escape."""
    rng = random.Random(seed)
    cdfs, sizes, offsets = [], [], []
    for symbols in (1, 2, 3, 17, 200):
        cuts = sorted(rng.sample(range(1, 65536), symbols))
        cdfs.append([0, *cuts, 65536])
        sizes.append(symbols + 2)
        offsets.append(rng.randrange(-symbols, 1))
    return cdfs, sizes, offsets


def symbols_of(count, seed=0, spread=5):
    rng = random.Random(seed)
    return [round(rng.gauss(0, spread)) for _ in range(count)], [
        rng.randrange(5) for _ in range(count)
    ]


def coded(symbols, indexes, checksum):
    encoder = SmallEncoder()
    half = len(symbols) // 2
    for part in (slice(half), slice(half, None)):
        encoder.encode_with_indexes(symbols[part], indexes[part], *tables())
    return encoder.flush(checksum)


@pytest.mark.parametrize("checksum", [0, 1, 0x1234, 0xFFFF])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 50, 700])
def test_symbols_and_checksum_come_back(count, checksum):
    symbols, indexes = symbols_of(count)
    payload = coded(symbols, indexes, checksum)
    decoder = SmallDecoder(payload)
    third = count // 3
    decoded = decoder.decode_stream(indexes[:third], *tables())
    decoded += decoder.decode_stream(indexes[third:], *tables())
    assert decoded == symbols and decoder.checksum == checksum


@pytest.mark.parametrize("symbol", [2**26, -(2**26), 40000, -1, 300, -300, 2**16 + 99, 0])
def test_escapes_have_no_bounds(symbol):
    for index in range(5):
        payload = coded([symbol, 0, symbol], [index] * 3, 7)
        decoder = SmallDecoder(payload)
        assert decoder.decode_stream([index] * 3, *tables()) == [symbol, 0, symbol]
        assert decoder.checksum == 7


def test_nothing_is_constant_but_the_checksum():
    """The symbols' information, 16 bits, and the rest of a byte."""
    cdf = [0, 64000, 64500, 65000, 65535, 65536]  # 0 nearly always
    table = ([cdf], [6], [0])
    for seed in range(20):
        rng = random.Random(seed)
        symbols = rng.choices(range(4), weights=[64000, 500, 500, 535], k=rng.randrange(2000))
        encoder = SmallEncoder()
        encoder.encode_with_indexes(symbols, [0] * len(symbols), *table)
        bits = sum(16 - log2(cdf[s + 1] - cdf[s]) for s in symbols)
        assert 8 * len(encoder.flush(0xFFFF)) - bits < 16 + 8 + 0.01 * bits
    assert len(SmallEncoder().flush(0)) == 0 and len(SmallEncoder().flush(0xFFFF)) == 2


def checksum_of(symbols):
    return zlib.crc32(repr(symbols).encode()) & 0xFFFF


def test_other_tables_at_the_decoder_are_noticed():
    """At any one symbol; and another number of symbols."""
    symbols, indexes = symbols_of(60, spread=1)
    payload = coded(symbols, indexes, checksum_of(symbols))
    wrong = [[*indexes[:at], (indexes[at] + 1) % 5, *indexes[at + 1 :]] for at in range(60)]
    for others in (*wrong, indexes[:-1], [*indexes, 0]):
        decoder = SmallDecoder(payload)
        decoded = decoder.decode_stream(others, *tables())
        assert decoded == symbols or decoder.checksum != checksum_of(decoded)


def test_any_bytes_decode_to_something():
    rng = random.Random(3)
    _, indexes = symbols_of(200)
    for size in range(60):
        decoder = SmallDecoder(rng.randbytes(size))
        decoded = decoder.decode_stream(indexes, *tables())
        assert len(decoded) == 200 and all(abs(symbol) < 2**31 for symbol in decoded)


@pytest.mark.parametrize("size", [6, 10, SMALL - 2, SMALL - 1, SMALL, SMALL + 2])
def test_padding_makes_a_long_payload_of_whole_words(size):
    payload = padded(b"x" * size)
    assert payload.startswith(b"x" * size) and not any(payload[size:])
    assert len(payload) >= SMALL and (len(payload) - size) % 4 == 0
    assert len(payload) < max(SMALL + 4, size + 1)
