"""The picture that is shown of a frame, from the network's output."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cmfr.video.color import tensor_to_planes
from cmfr.video.info import Frame, VideoInfo


class Picture:
    """Of a frame of a video; made once.

    color: what the network sees, "ycbcr" or "rgb".
    """

    def __init__(self, info: VideoInfo, color: Literal["ycbcr", "rgb"]) -> None:
        self.info, self.color = info, color
        self._made: Frame | None = None

    def of(self, x_hat: Tensor) -> Frame:
        """Network output [1, 3, H, W], padded -> picture of the video's size and format."""
        if self._made is None:
            cropped = x_hat[..., : self.info.height, : self.info.width]
            self._made = tensor_to_planes(cropped, self.info, self.color)
        return self._made

    def __call__(self, x_hat: Tensor) -> bytes:
        """The same as a payload's checksum covers it: plane by plane, samples of more than 8 bit
        little-endian."""
        return b"".join(p.astype(self.info.dtype).tobytes() for p in self.of(x_hat).planes)
