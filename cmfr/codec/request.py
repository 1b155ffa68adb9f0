"""What is asked of an encoder, checked before anything is opened."""

from __future__ import annotations

from pathlib import Path

from cmfr.codec.header import check_periods, check_refine
from cmfr.codec.rate_control import Target
from cmfr.config import QUALITIES
from cmfr.utils.errors import UserError
from cmfr.utils.files import check_distinct, check_target, is_stream
from cmfr.video.reader import VIDEO_SUFFIXES


def check_request(
    source: str | Path,
    target: str | Path,
    quality: int,
    intra_period: int,
    refresh_period: int | None,
    refine: int = 0,
) -> None:
    """What `Codec.encode_video` checks before it opens anything. Raises UserError or OSError."""
    target = Path(target)
    if not 0 <= quality < QUALITIES:
        raise UserError(f"quality {quality} is not in 0..{QUALITIES - 1}")
    check_refine(refine)
    check_periods(intra_period, refresh_period)
    if target.suffix.lower() in VIDEO_SUFFIXES or target.suffix.lower() == ".png":
        raise UserError(f"{target}: what is written is a .cmfr file, not a video; name it so")
    check_target(target)
    is_stream(target)
    check_distinct(target, source)


def check_resume(
    target: str | Path, aim: Target | None, resume: bool, varies: bool = False
) -> None:
    """Raises UserError for what cannot be gone on with.

    varies: refined motion is not the same each time (backward passes on a GPU add in any order).
    """
    if resume and varies:
        raise UserError(
            "resuming does not go with refined motion on a GPU, where that is not the same each "
            "time; use the CPU, or one of the two alone"
        )
    if resume and is_stream(Path(target)):
        raise UserError(f"{target} is a pipe or a device: nothing can go on there; give a file")
    if resume and aim is not None and aim.psnr is not None:
        raise UserError(
            "a target PSNR does not go with resuming: a stream does not say what PSNR its frames "
            "have; give a quality or a target bit rate"
        )
