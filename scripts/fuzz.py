"""Damaged and forged streams and weights: each is decoded, or refused in a sentence, soon.

    python scripts/fuzz.py [CASES] [FIRST]

Case n is the same on every machine. Cases run in a process of their own, a thousand at a time, so
that one that ends it is found. Prints a table of outcomes by kind of case; exits with 1 where a
case ended in another way than it may.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from cmfr.codec.bitstream import BitstreamReader, BitstreamWriter, DamagedFrame, FramePacket
from cmfr.codec.checkpoint import read_weights
from cmfr.codec.codec import Codec, load_codec
from cmfr.codec.header import CRC, PREFIX, StreamHeader
from cmfr.codec.picture import Picture
from cmfr.models.state import FrameOutput, FrameSize, ReferenceState
from cmfr.nn.entropy_coder import BadPayload
from cmfr.utils.errors import UserError

DATA = Path(__file__).parents[1] / "tests" / "data"
WEIGHTS = DATA / "version1.safetensors"
TOGETHER = 1000  # cases in one process
SECONDS = 60  # that a case may take
MEMORY = 3 * 2**30  # bytes that a process may take beside what it has at the start
REMEMBERED, SMALL = 256, 2**16  # frames that are not decoded again, and pixels of one
FINE = ("same pictures", "other pictures", "refused", "frames named")


@dataclass(frozen=True)
class Seed:
    """A good stream, its parts, and what it decodes to."""

    data: bytes
    header: StreamHeader
    packets: list[FramePacket]
    pictures: bytes


@lru_cache(maxsize=1)
def codec() -> Codec:
    """Decodes a frame that follows the same frames once, good or not: cases share most of them, and
    each is decoded in two ways."""
    made = load_codec(WEIGHTS, "cpu")
    made.model.decode_frame = remembered(made.model.decode_frame)
    return made


def remembered(decode: Callable[..., FrameOutput]) -> Callable[..., FrameOutput]:
    """`VideoModel.decode_frame`, with what it gave or raised for arguments of before."""
    known: dict[Any, tuple[Any, FrameOutput | BadPayload]] = {}

    def decode_frame(
        payload: bytes,
        quality: int,
        past: ReferenceState | FrameSize,
        refresh_period: int | None,
        picture: Picture | None,
    ) -> FrameOutput:
        place = past if isinstance(past, FrameSize) else id(past)  # `known` keeps it alive
        key = (payload, quality, place, refresh_period, picture and picture.info)
        if key not in known:
            found: FrameOutput | BadPayload
            try:
                found = decode(payload, quality, past, refresh_period, picture)
            except BadPayload as error:
                found = error
            if len(known) >= REMEMBERED or past.size.height * past.size.width > SMALL:
                known.clear()
            known[key] = (past, found)
        _, found = known[key]
        if isinstance(found, BadPayload):
            raise found.with_traceback(None)
        return found

    return decode_frame


@lru_cache(maxsize=1)
def seeds() -> list[Seed]:
    """Streams of all versions of the format; those of now with and without intra frames inside."""
    found = [DATA / f"version{number}.cmfr" for number in (1, 2, 3, 4)]
    with tempfile.TemporaryDirectory() as folder:
        for quality, period in ((10, -1), (40, 2), (63, 3)):
            path = Path(folder) / f"{quality}.cmfr"
            source = DATA / "version1_64x48_25.yuv"
            codec().encode_video(source, path, quality=quality, intra_period=period, frames=3)
            found.append(path)
        return [_seed(path.read_bytes()) for path in found]


def _seed(data: bytes) -> Seed:
    reader = BitstreamReader(io.BytesIO(data))
    return Seed(data, reader.header, list(reader), _decoded(data, False)[0])


# --- kinds of cases: a random generator -> bytes of a stream


def damaged(rng: random.Random) -> bytes:
    """Accidents anywhere: bits, bytes, pieces that are lost, doubled or moved, ends cut off."""
    data = bytearray(rng.choice(seeds()).data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 11, 100))
        piece = data[at : at + size]
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + size] = rng.randbytes(len(piece))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = piece
            case 4:
                data[at:at] = rng.randbytes(size)
            case 5:
                del data[at:]
            case 6:
                del data[at : at + size]
                place = rng.randrange(len(data) + 1)
                data[place:place] = piece
        if not data:
            return b""
    return bytes(data)


def forged_payload(rng: random.Random) -> bytes:
    """Right checksums around payloads that no encoder wrote."""
    seed, file = rng.choice(seeds()[2:]), io.BytesIO()
    writer, chosen = BitstreamWriter(file, seed.header), rng.randrange(len(seed.packets))
    for packet in seed.packets:
        payload, intra, quality = packet.payload, packet.intra, packet.quality
        if packet.number == chosen:
            payload = _payload(rng, payload)
            if rng.random() < 0.2:
                intra, quality = packet.number == 0 or rng.random() < 0.5, rng.randrange(64)
        writer.write_frame(intra, quality, payload)
    writer.close()
    return file.getvalue()


def _payload(rng: random.Random, payload: bytes) -> bytes:
    large = 4 * rng.randrange(256, 2000) + 2
    match rng.randrange(7):
        case 0:
            at = rng.randrange(len(payload))
            return payload[:at] + bytes([payload[at] ^ 1 << rng.randrange(8)]) + payload[at + 1 :]
        case 1:
            return rng.randbytes(rng.randrange(1024))
        case 2:
            return rng.randbytes(large)
        case 3:
            return bytes([rng.choice((0, 255, 254, 15))]) * rng.choice((rng.randrange(1024), large))
        case 4:
            start = rng.randrange(64)
            return rng.randbytes(start) + b"\xff" * (large - start)
        case 5:
            return bytes(rng.choice((255, 255, 255, rng.randrange(256))) for _ in range(large))
        case _:
            return payload[: rng.randrange(len(payload))]


def forged_header(rng: random.Random) -> bytes:
    """A header that says something else, with the right checksum."""
    seed = rng.choice(seeds())
    prefix = PREFIX.unpack_from(seed.data)
    end = PREFIX.size + prefix[2]
    fields, rest = bytearray(seed.data[:end]), seed.data[end + CRC.size :]
    odd = (0, 1, 2, 15, 16, 63, 255, 4097, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.6:  # one of the five numbers of four bytes at the start
            struct.pack_into("<I", fields, PREFIX.size + 4 * rng.randrange(5), rng.choice(odd))
        else:
            fields[rng.randrange(4, len(fields))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    return bytes(fields) + CRC.pack(zlib.crc32(fields)) + rest


def forged_order(rng: random.Random) -> bytes:
    """Good packets in another order, doubled or left out; with a header that fits or does not."""
    seed, file = rng.choice(seeds()[2:]), io.BytesIO()
    packets = [p for p in seed.packets for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    rng.shuffle(packets)
    header = seed.header
    if rng.random() < 0.5:
        header = replace(header, width=rng.choice((16, 64, 65)), height=rng.choice((16, 48, 200)))
    if rng.random() < 0.3:
        header = replace(header, frame_rate=Fraction(rng.choice((1, 10**9)), rng.choice((1, 7))))
    writer = BitstreamWriter(file, header)
    for number, packet in enumerate(packets):
        writer.write_frame(packet.intra or not number, packet.quality, packet.payload)
    writer.close()
    return file.getvalue()


def weights(rng: random.Random) -> bytes:
    """A weights file with another configuration, other tensors, or damage."""
    tensors, (_, _, metadata) = load_file(WEIGHTS), read_weights(WEIGHTS)
    tree = json.loads(metadata["config"])
    if rng.random() < 0.7:
        _change(rng, tree)
        metadata["config"] = json.dumps(tree)
    else:
        name = rng.choice(sorted(tensors))
        tensor = tensors.pop(name)
        match rng.randrange(5):
            case 0:
                tensors["x" + name] = tensor
            case 1:
                tensors[name] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)]
            case 2:
                tensors[name] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"))))
            case 3:
                tensors[name] = tensor.to(rng.choice((torch.int8, torch.bool, torch.float64)))
            case 4:
                tensors[name] = tensor * rng.choice((0, -1, 100, 6e4))
    data = bytearray(save(tensors, metadata))
    if rng.random() < 0.2:
        data[rng.randrange(min(4000, len(data)))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.05:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def _change(rng: random.Random, tree: Any) -> None:
    """One value somewhere in nested dicts and lists."""
    key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    value = tree[key]
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        _change(rng, value)
        return
    numbers: list[Any] = [0, -1, 1, 3, 17, 64, 4096, 10**9, 2**80, 0.5, 1e300]
    tree[key] = rng.choice([*numbers, None, True, "x", [], {}, [1] * 99])


KINDS: dict[str, tuple[int, Callable[[random.Random], bytes]]] = {  # how many of 100, and how
    "damaged": (40, damaged),
    "forged payload": (30, forged_payload),
    "forged header": (18, forged_header),
    "forged order": (10, forged_order),
    "weights": (2, weights),
}


# --- outcomes


def outcome(number: int) -> tuple[str, str]:
    """Kind and outcome of a case; one that is not in `FINE` is a fault."""
    rng = random.Random(number)
    kind = rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    data = KINDS[kind][1](rng)
    began = time.monotonic()
    signal.alarm(SECONDS)
    try:
        ended = _load(data) if kind == "weights" else _decode(data)
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"[:100]
    finally:
        signal.alarm(0)
    took = time.monotonic() - began
    return kind, ended if took < SECONDS else f"took {took:.0f} s"


def _load(data: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        path.write_bytes(data)
        try:
            changed = load_codec(path, "cpu")
            frame, source = Path(folder) / "a.cmfr", DATA / "version1_64x48_25.yuv"
            changed.encode_video(source, frame, frames=2)
            changed.decode_video(frame, Path(folder) / "a.yuv")
        except UserError:
            return "refused"
    return "other pictures"


def _decode(data: bytes) -> str:
    """Strictly, and going on after damage: that must give every frame, or name it."""
    known = {seed.pictures for seed in seeds()}
    try:
        pictures, _ = _decoded(data, False)
        return "same pictures" if pictures in known else "other pictures"
    except DamagedFrame:
        ended = "frames named"
    except UserError:
        ended = "refused"
    try:
        _, named = _decoded(data, True)
    except UserError:
        return ended
    return ended if named else "damage that only one of both ways of decoding tells"


def _decoded(data: bytes, keep_going: bool) -> tuple[bytes, bool]:
    """The samples of all pictures, and whether damage was named."""
    with tempfile.TemporaryDirectory() as folder:
        stream, shown = Path(folder) / "a.cmfr", Path(folder) / "a.yuv"
        stream.write_bytes(data)
        with stream.open("rb") as file:
            reader = BitstreamReader(file)
            info = reader.header.info()
        shown = shown.with_suffix(".mkv") if info.chroma == "rgb" else shown
        report = codec().decode_video(stream, shown, keep_going=keep_going)
        return shown.read_bytes(), bool(report.damaged or report.fault)


# --- processes


def _work(first: int, last: int, told: Any) -> None:
    torch.set_num_threads(1)
    seeds()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, -1))
    signal.signal(signal.SIGALRM, _slow)
    for number in range(first, last):
        told.send((number, None))
        told.send((number, outcome(number)))


def _slow(*_: object) -> None:
    raise TimeoutError(f"not done after {SECONDS} s")


def run(cases: int, first: int = 0) -> tuple[Counter[tuple[str, str]], dict[int, str]]:
    """How often each kind of case had each outcome; the numbers of the cases that are faults."""
    counts: Counter[tuple[str, str]] = Counter()
    faults: dict[int, str] = {}
    number, end = first, first + cases
    context = multiprocessing.get_context("spawn")
    while number < end:
        here, there = context.Pipe(False)
        last = min(number + TOGETHER, end)
        process = context.Process(target=_work, args=(number, last, there))
        process.start()
        there.close()
        try:
            while True:
                at, told = here.recv()
                if told is not None:
                    number = at + 1
                    counts[told] += 1
                    if told[1] not in FINE:
                        faults[at] = ": ".join(told)
        except EOFError:
            process.join()
        if number < last:
            faults[number] = f"the process ended: {process.exitcode}"
            counts["any", "the process ended"] += 1
            number += 1
    return counts, faults


def table(counts: Counter[tuple[str, str]]) -> str:
    """Markdown: a row a kind, a column an outcome."""
    ends = [*FINE, *sorted({end for _, end in counts} - set(FINE))]
    kinds = [*KINDS, *({kind for kind, _ in counts} - KINDS.keys())]
    rows = [["kind", *ends], ["---"] * (len(ends) + 1)]
    rows += [[kind, *(str(counts[kind, end]) for end in ends)] for kind in kinds]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    cases, first = (*map(int, sys.argv[1:]), *(20000, 0)[len(sys.argv) - 1 :])
    began = time.monotonic()
    counts, faults = run(cases, first)
    print(table(counts))
    print(f"{cases} cases from {first} on, {time.monotonic() - began:.0f} s, {len(faults)} faults")
    for number, fault in faults.items():
        print(f"case {number}: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
