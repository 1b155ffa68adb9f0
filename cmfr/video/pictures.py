"""Pictures in files, and folders of numbered pictures that stand for a video."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import DecompressionBombError

from cmfr.utils.errors import UserError

PICTURE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp".split())


def with_suffix(paths: Iterable[Path], suffixes: Collection[str]) -> list[Path]:
    """Those with one of the suffixes (in small letters), sorted. Hidden files are left out: parts
    that are being written, and what macOS leaves beside files."""
    return sorted(p for p in paths if p.suffix.lower() in suffixes and p.name[0] != ".")


def numbered_pictures(folder: Path, suffixes: Collection[str] = PICTURE_SUFFIXES) -> list[Path]:
    """Pictures with a number in the name, in the order of the last number; others are left out.

    Raises UserError where there are none, for two of one number, and where numbers are missing.
    """
    numbered: dict[int, Path] = {}
    for file in with_suffix(folder.iterdir(), suffixes):
        if digits := re.findall(r"\d+", file.stem):
            number = int(digits[-1])
            if number in numbered:
                other = numbered[number].name
                raise UserError(f"{folder} has two pictures {number}: {other} and {file.name}")
            numbered[number] = file
    if not numbered:
        kinds = ", ".join(sorted(suffixes))
        raise UserError(f"{folder} holds no numbered pictures ({kinds})")
    if gaps := _gaps(sorted(numbered)):
        raise UserError(f"{folder}: the numbered pictures have gaps: {gaps} missing")
    return [numbered[number] for number in sorted(numbered)]


def _gaps(numbers: list[int]) -> str:
    """Which of rising numbers are missing, "2, 5-7"; any equal step will do."""
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    if not steps or min(steps) == max(steps):
        return ""
    step = min(steps)
    runs = [
        (n + step, n + way - step) for n, way in zip(numbers, steps, strict=False) if way > step
    ]
    told = [f"{first}-{last}" if first < last else f"{first}" for first, last in runs[:8]]
    return ", ".join(told) + (f" and {len(runs) - 8} more runs" if len(runs) > 8 else "")


@contextmanager
def open_picture(file: Path) -> Iterator[Image.Image]:
    """The header is read, samples when they are asked for. Raises UserError for what is no picture,
    also where that shows later, inside the block."""
    try:
        with Image.open(file) as image:
            yield image
    except UserError:
        raise
    except (DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file} is not a picture that can be read: {error}") from error


def read_picture(file: Path) -> np.ndarray:
    """uint8 [H, W, 3]; gray and palettes become RGB, transparency is dropped. Raises UserError for
    what is no picture of 8 bits."""
    with open_picture(file) as image:
        if image.format == "PNG" and _png_depth(file) > 8:  # Pillow drops bits without a word
            raise UserError(f"{file} is not an 8-bit picture: it has {_png_depth(file)} bits")
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise UserError(f"{file} is not an 8-bit picture (its mode is {image.mode})")
        return np.array(image.convert("RGB"))


def picture_size(file: Path) -> tuple[int, int]:
    """(height, width) from the header. Raises UserError."""
    with open_picture(file) as image:
        return image.height, image.width


def _png_depth(file: Path) -> int:
    """Bits of a sample of a PNG, from its header."""
    with file.open("rb") as opened:
        return opened.read(25)[24]
