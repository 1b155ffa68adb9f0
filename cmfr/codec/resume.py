"""Going on with a stream that was not completed, from its last intra frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmfr.codec.bitstream import BitstreamError, BitstreamReader, BitstreamWriter
from cmfr.codec.header import StreamHeader
from cmfr.codec.rate_control import RateControl
from cmfr.utils.errors import UserError
from cmfr.video.info import Frame


@dataclass
class Unfinished:
    """A stream without its end.

    count: frames before the last intra frame, which are kept.
    intra: quality and payload of the first frame and of the last intra frame, by number.
    """

    path: Path
    header: StreamHeader
    count: int = 0
    intra: dict[int, tuple[int, bytes]] = field(default_factory=dict)


def read_unfinished(path: Path) -> Unfinished | None:
    """What is intact of it; None where not even the header is."""
    with path.open("rb") as file:
        try:
            reader = BitstreamReader(file)
        except BitstreamError:
            return None
        found = Unfinished(path, replace(reader.header, frame_count=None))
        with suppress(BitstreamError):  # the end, in one way or another
            for packet in reader:
                if packet.intra:
                    found.count = packet.number
                    first = {0: found.intra[0]} if packet.number else {}
                    found.intra = first | {packet.number: (packet.quality, packet.payload)}
    return found


def nothing_kept(target: Path, found: Unfinished | None) -> str:
    """A sentence: why encoding starts anew."""
    if found is None:
        return f"there is no unfinished output to go on from; {target} is encoded from the start"
    return (
        f"the unfinished {target} has no intra frame but its first (--intra-period puts them in), "
        "so it is encoded from the start"
    )


def check_same(
    found: Unfinished,
    header: StreamHeader,
    frames: Iterator[Frame],
    code: Callable[[Frame, int], bytes],
) -> Frame:
    """Raise UserError unless encoding from the start on would give what there is: by the header,
    the first frame and the last intra frame.

    frames: all of the source.
    code: codes an intra frame at a quality.

    Returns the last intra frame's picture; `frames` goes on behind it.
    """
    there, here = found.header.describe(), header.describe()
    for name, value in here.items():
        if there[name] != value:
            raise _other(found, f"its {name} is {there[name]!r}, this is {value!r}")
    if found.header != header:
        raise _other(found, "its header is another one")
    for number, frame in enumerate(frames):
        if number in found.intra:
            quality, payload = found.intra[number]
            if code(frame, quality) != payload:
                raise _other(found, f"frame {number} of this source gives other bytes")
        if number == found.count:
            return frame
    raise _other(found, f"it has {found.count + 1} frames or more, this source has fewer")


def _other(found: Unfinished, why: str) -> UserError:
    return UserError(
        f"the unfinished output {found.path} was made with other settings or of another source: "
        f"{why}; leave out --resume to encode from the start"
    )


def copy_kept(found: Unfinished, writer: BitstreamWriter, control: RateControl | None) -> None:
    """Write the packets before the last intra frame; the control goes on as if it had chosen their
    qualities. Raises UserError where it would have chosen others."""
    with found.path.open("rb") as file:
        last = 0
        for packet in BitstreamReader(file):
            if packet.number == found.count:
                return
            if packet.intra:
                last = packet.number
            if control is not None:
                asked = replace(found.header, quality=control.quality())
                _, quality = asked.expected(packet.number, packet.number - last)
                if quality != packet.quality:
                    raise _other(found, "its target is another one")
                control.coded(8 * packet.size)
            writer.write_frame(packet.intra, packet.quality, packet.payload)
