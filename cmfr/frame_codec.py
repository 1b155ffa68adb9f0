"""The contract of a frame codec: three symmetric methods over one network path.

    forward(x, quality, past)        -> FrameOutput             estimated bits; trains
    encode(x, quality, past)         -> bytes, FrameOutput
    decode(payload, quality, past)   -> FrameOutput             never sees the source

All three run `_code`; only the entropy coder handed to it differs. In eval mode they give the
same reconstruction bit for bit, on one machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cmfr.entropy import BitEstimator, BitReader, BitWriter, EntropyCoder, TrainingNoise
from cmfr.state import FrameOutput, ReferenceState


class FrameSize(NamedTuple):
    """Padded size in pixels, multiples of 16: all the past that an I-frame has."""

    height: int
    width: int


Past = TypeVar("Past", FrameSize, ReferenceState)


class FrameCodec(nn.Module, ABC, Generic[Past]):
    """Base of `IntraCodec` (past: the frame size) and `CMFR` (past: the reference state)."""

    # Upper bound on coded symbols per pixel, over all latents (see BitReader).
    symbols_per_pixel: int = 4
    # Training only: how noise stands for rounding.
    noise: TrainingNoise = TrainingNoise()
    # `encode` estimates bits too, beside the bytes.
    estimates: bool = False

    @abstractmethod
    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: Past
    ) -> FrameOutput:
        """One frame through the codec; `x` is None when decoding."""

    @staticmethod
    @abstractmethod
    def _pixels(past: Past) -> int:
        """Pixels of one frame."""

    def forward(self, x: Tensor, quality: Tensor, past: Past) -> FrameOutput:
        """x [B, 3, H, W] in [0, 1], quality [B] integers -> output with bits per sample."""
        coder = BitEstimator(self.training, self.noise)
        output = self._code(coder, x, quality, past)
        output.bits.update(coder.bits)
        output.bit_maps.update(coder.maps)
        return output

    @torch.no_grad()
    def encode(self, x: Tensor, quality: Tensor, past: Past) -> tuple[bytes, FrameOutput]:
        """x [1, 3, H, W], quality [1] -> payload and what the decoder will have."""
        assert not self.training, "encode needs eval()"
        coder = BitWriter(BitEstimator(False) if self.estimates else None)
        output = self._code(coder, x, quality, past)
        payload = coder.finish()
        if coder.estimator:
            output.bits.update(coder.estimator.bits)
            output.bit_maps.update(coder.estimator.maps)
        return payload, replace(output, coder_seconds=coder.seconds)

    @torch.no_grad()
    def decode(self, payload: bytes, quality: Tensor, past: Past) -> FrameOutput:
        """Payload -> frame and next state. Raises DecodeMismatch, or ValueError on garbage."""
        assert not self.training, "decode needs eval()"
        limit = self.symbols_per_pixel * self._pixels(past)
        coder = BitReader(payload, limit, quality.device)
        output = self._code(coder, None, quality, past)
        coder.finish()
        return replace(output, coder_seconds=coder.seconds)

    def _shown(self, x: Tensor) -> Tensor:
        """Reconstruction in range; left alone in training, where clamping would stop gradients."""
        x = x.float()
        return x if self.training else x.clamp(0, 1)
