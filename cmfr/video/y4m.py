"""The .y4m file: its header, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import av

from cmfr.utils.errors import UserError
from cmfr.video.info import UNSPECIFIED, VideoInfo

FRAME_HEAD = b"FRAME\n"


def y4m_header(info: VideoInfo) -> bytes:
    """The stream header line of a .y4m file; it has no place for the color matrix."""
    sampling = "420jpeg" if (info.chroma, info.bit_depth) == ("420", 8) else info.chroma
    depth = "p10" if info.bit_depth == 10 else ""
    rate = f"{info.frame_rate.numerator}:{info.frame_rate.denominator}"
    line = f"YUV4MPEG2 W{info.width} H{info.height} F{rate} Ip C{sampling}{depth}"
    if info.color.range != UNSPECIFIED:
        line += f" XCOLORRANGE={info.color.range.upper()}"
    return f"{line}\n".encode()


def check_whole_y4m(path: Path, pixels: av.VideoFormat) -> None:
    """Raise UserError for a .y4m file that does not end with a whole frame."""
    sizes = (c.width * c.height * -(-c.bits // 8) for c in pixels.components)
    frame_bytes, size, count = sum(sizes), path.stat().st_size, 0
    with path.open("rb") as file:
        file.readline()
        while file.tell() < size:
            head = file.readline(1024)
            if not head.startswith(FRAME_HEAD[:-1]) or not head.endswith(b"\n"):
                raise UserError(f"{path} is damaged after {count} frames: no frame begins there")
            if file.seek(frame_bytes, 1) > size:
                raise UserError(f"{path} is damaged after {count} frames: it was cut off")
            count += 1
