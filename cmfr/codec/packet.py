"""What stands in front of a payload in a `.cmfr` file: kind, length and checksum."""

from __future__ import annotations

import binascii
import struct
import zlib

from cmfr.codec.header import CRC, VERSION, check_number

MAX_PAYLOAD = 2**31 - 1  # bytes
INTRA, INDEX, QUALITY = 0x80, 0x40, 0x3F  # bits of a packet's kind
SAID = 0  # first byte of a packet that says its kind
_CRC_16 = struct.Struct("<H")
MIN_PACKET = 1 + _CRC_16.size + 1  # one without a payload has two bytes more


def kind_of(intra: bool, quality: int) -> int:
    """The kind of a frame's packet; quality 0..63."""
    return quality | (INTRA if intra else 0)


def pack(number: int, kind: int, expected: int | None, payload: bytes) -> bytes:
    """A packet; it says its kind where that is not the one expected. (An empty payload does too:
    its length looks like that.)"""
    check_number("payload size", len(payload), 0, MAX_PAYLOAD)
    said = bytes([SAID, kind]) if kind != expected or not payload else b""
    return said + _pack_length(len(payload)) + checksum(number, kind, payload) + payload


def checksum(number: int, kind: int, payload: bytes, version: int = VERSION) -> bytes:
    """As stored, of frame number, kind, length and payload: a moved packet is noticed too.

    16 bits find every error of up to two bytes in a row, and all but one in 65536 of others. Behind
    them stand the 16 bits of what is decoded (payload.py).
    """
    head = CRC.pack(number) + bytes([kind]) + _pack_length(len(payload))
    if version < 5:
        return CRC.pack(zlib.crc32(payload, zlib.crc32(head)))
    return _CRC_16.pack(binascii.crc_hqx(payload, binascii.crc_hqx(head, 0xFFFF)))


def checksum_size(version: int) -> int:
    """Bytes of a packet's checksum in this version of the format."""
    return CRC.size if version < 5 else _CRC_16.size


def _pack_length(length: int) -> bytes:
    """LEB128: 7 bits per byte, the lowest first; bit 7 is set where another byte follows."""
    out = bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length])


def unpack_length(data: bytes) -> tuple[int, int] | None:
    """The number at the start of 5 bytes and how many of them it takes; None for what `pack` never
    writes."""
    length = 0
    for i, byte in enumerate(data):
        length |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and length <= MAX_PAYLOAD and (byte or not i):  # one spelling per number
            return length, i + 1
        if byte < 0x80:
            break
    return None
