"""Raw pictures and what a video stream says about them; plain data, no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from cmfr.utils.errors import UserError

RAW_FORMATS = {
    "yuv420p": ("420", 8),
    "yuv444p": ("444", 8),
    "yuv420p10le": ("420", 10),
    "yuv444p10le": ("444", 10),
}
Rate = Fraction | float | str

UNSPECIFIED = "unspecified"
MATRIX_CODES = {"rgb": 0, "bt709": 1, UNSPECIFIED: 2, "bt601": 6, "bt2020": 9}
RANGE_CODES = {"full": 2, "limited": 1, UNSPECIFIED: 0}  # FFmpeg's

# H.273 matrix coefficients by name; 5 (bt470bg) and 6 (smpte170m) have the same numbers.
# Codes that are absent (FCC, SMPTE 240M, YCgCo, ...) are kept as codes, under no name.
_MATRIX_NAMES = {0: "rgb", 1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}


@dataclass(frozen=True)
class ColorInfo:
    """What a stream says of its color; kept as it is, never guessed.

    matrix: "bt709", "bt601" (smpte170m and bt470bg), "bt2020", "rgb" or "unspecified".
    range: "full", "limited" or "unspecified".
    primaries, transfer, matrix_code: H.273 code points, 2 = unspecified, so that an output
    file can be tagged exactly like the input.
    """

    matrix: str = UNSPECIFIED
    range: str = UNSPECIFIED
    primaries: int = 2
    transfer: int = 2
    matrix_code: int = 2


RGB_COLOR = ColorInfo("rgb", "full", matrix_code=0)


@dataclass(frozen=True)
class VideoInfo:
    """A video's shape: size, frame rate, color, sample layout.

    width, height: pixels.
    frame_rate: frames per second.
    chroma: "420", "444" or "rgb".
    bit_depth: 8 or 10.
    frame_count: None when only reading to the end tells.
    """

    width: int
    height: int
    frame_rate: Fraction
    color: ColorInfo
    chroma: str
    bit_depth: int
    frame_count: int | None = None

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UserError(f"a picture of {self.width}x{self.height} pixels is not possible")
        if self.frame_rate <= 0:
            raise UserError(f"the frame rate must be positive, not {self.frame_rate}")
        if self.chroma not in ("420", "444", "rgb"):
            raise UserError(f"chroma must be '420', '444' or 'rgb', not {self.chroma!r}")
        if self.bit_depth not in (8, 10):
            raise UserError(f"the bit depth must be 8 or 10, not {self.bit_depth}")

    @property
    def dtype(self) -> np.dtype:
        """The type of a stored sample: uint8, or little-endian uint16."""
        return np.dtype(np.uint8 if self.bit_depth == 8 else "<u2")

    @property
    def plane_shapes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(height, width) of the three planes; "420" halves chroma sizes, rounding up."""
        luma = (self.height, self.width)
        chroma = luma if self.chroma != "420" else ((luma[0] + 1) // 2, (luma[1] + 1) // 2)
        return luma, chroma, chroma

    @property
    def frame_bytes(self) -> int:
        """Size of one raw planar frame in bytes."""
        return sum(h * w for h, w in self.plane_shapes) * self.dtype.itemsize


@dataclass(frozen=True)
class Frame:
    """One picture as stored: planes (Y, U, V) or (R, G, B), each a 2-D array.

    uint8 for 8 bit, uint16 for 10 bit (0..1023); chroma planes of "420" are
    ceil(H/2) x ceil(W/2).
    """

    planes: tuple[np.ndarray, np.ndarray, np.ndarray]


def samples_hash(frames: Iterable[Frame]) -> str:
    """SHA-256 of the samples of pictures, in hexadecimal; it does not depend on their file."""
    digest = hashlib.sha256()
    for frame in frames:
        for plane in frame.planes:
            digest.update(f"{plane.shape} {plane.dtype.str};".encode())
            digest.update(np.ascontiguousarray(plane).tobytes())
    return digest.hexdigest()


def check_frame(frame: Frame, info: VideoInfo) -> None:
    """Raise ValueError unless the planes have the shapes and the type that `info` says."""
    shapes = tuple(plane.shape for plane in frame.planes)
    if shapes != info.plane_shapes:
        raise UserError(f"a frame has planes of {shapes}, the video needs {info.plane_shapes}")
    for plane in frame.planes:
        if plane.dtype != info.dtype:
            raise UserError(f"a frame has {plane.dtype} samples, the video needs {info.dtype}")


def color_from_codes(matrix: int, range_code: int, primaries: int, transfer: int) -> ColorInfo:
    """ColorInfo from H.273 code points and FFmpeg's range (1 limited, 2 full, else unknown)."""
    name = _MATRIX_NAMES.get(matrix, UNSPECIFIED)
    ranges = {code: text for text, code in RANGE_CODES.items()}
    return ColorInfo(name, ranges.get(range_code, UNSPECIFIED), primaries, transfer, matrix)


def matrix_code(color: ColorInfo) -> int:
    """The H.273 code to tag a file with: the one kept from the source if it fits the name."""
    if color.matrix_code == 2 or (color.matrix == "rgb") != (color.matrix_code == 0):
        return MATRIX_CODES[color.matrix]
    return color.matrix_code


def resolve_color(
    info: VideoInfo, matrix: str | None = None, range: str | None = None
) -> VideoInfo:
    """`info` with the color matrix and range replaced by the words given (None keeps).

    Raises ValueError for an unknown name, or a matrix that does not fit the samples (a YUV
    matrix for RGB planes, or "rgb" for YUV planes).
    """
    color = info.color
    if matrix is not None:
        if matrix not in MATRIX_CODES:
            raise UserError(f"color matrix {matrix!r} is not one of {', '.join(MATRIX_CODES)}")
        if (matrix == "rgb") != (info.chroma == "rgb"):
            kind = "RGB" if info.chroma == "rgb" else "YUV"
            raise UserError(f"color matrix {matrix!r} does not fit a video of {kind} samples")
        if matrix != color.matrix or matrix == UNSPECIFIED:  # bt601 may stay code 5
            color = replace(color, matrix=matrix, matrix_code=MATRIX_CODES[matrix])
    if range is not None:
        if range not in RANGE_CODES:
            raise UserError(f"color range {range!r} is not one of {', '.join(RANGE_CODES)}")
        color = replace(color, range=range)
    return replace(info, color=color)


_EXAMPLES = {"matrix": "bt709, bt601 or bt2020", "range": "limited or full"}


def require_known_color(info: VideoInfo) -> None:
    """Raise ValueError saying what is unknown if YUV samples cannot be turned into RGB."""
    values = {"matrix": info.color.matrix, "range": info.color.range}
    unknown = [name for name, value in values.items() if value == UNSPECIFIED]
    if unknown and info.chroma != "rgb":
        missing = " and ".join(unknown)
        options = " and ".join(f"--{name} ({_EXAMPLES[name]})" for name in unknown)
        raise UserError(
            f"the video does not say its color {missing}, which RGB needs: give {options}"
        )


def parse_frame_rate(rate: Rate) -> Fraction:
    """A positive frame rate from a number or a text such as "25", "29.97" or "30000/1001".

    Decimals near N*1000/1001 mean that fraction. Raises ValueError for anything else.
    """
    try:
        value = Fraction(str(rate))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{rate!r} is not a frame rate") from None
    if value <= 0:
        raise UserError(f"the frame rate must be positive, not {rate}")
    return value if isinstance(rate, Fraction) else snap_ntsc(value, 2e-6)


def snap_ntsc(rate: Fraction, tolerance: float) -> Fraction:
    """N*1000/1001 (23.976, 29.97, 59.94, ...) if `rate` is that close to one, relatively."""
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc / rate - 1) < tolerance else rate


@dataclass(frozen=True)
class RawName:
    """What the name of a .yuv file says; None where it says nothing."""

    size: tuple[int, int] | None = None
    rate: str | None = None
    chroma: str | None = None
    bit_depth: int | None = None


def parse_raw_name(stem: str) -> RawName:
    """Read `NAME_1920x1080_120fps_420_8bit_YUV` and the like; what is before WxH is free."""
    sizes = list(re.finditer(r"(?<![0-9])(\d{1,5})x(\d{1,5})(?![0-9])", stem))
    if not sizes:
        return RawName()
    rate = chroma = depth = None
    for word in re.split(r"[_\- ]+", stem[sizes[-1].end() :].lower()):
        if match := re.fullmatch(r"(?:yuv)?(400|420|422|440|444)p?(?:(\d\d?)(?:le|bit|b)?)?", word):
            chroma, depth = match[1], match[2] or depth
        elif match := re.fullmatch(r"p?(\d+)(?:bits?|b|le)|p(\d+)le", word):
            depth = match[1] or match[2]
        elif match := re.fullmatch(r"(\d+(?:\.\d+)?)(?:fps|hz|p)?", word):
            rate = rate or match[1]
    size = (int(sizes[-1][1]), int(sizes[-1][2]))
    return RawName(size, rate, chroma, int(depth) if depth else None)
