"""The contract of a frame codec: three symmetric methods over one network path.

    forward(x, quality, past)        -> FrameOutput             estimated bits; trains
    encode(x, quality, past)         -> bytes, FrameOutput
    decode(payload, quality, past)   -> FrameOutput             never sees the source

All three run `_code`; only the entropy coder handed to it differs. In eval mode they give the
same reconstruction bit for bit, on one machine.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cmfr.models.state import (
    FrameOutput,
    FrameSize,
    LatentReference,
    MotionPictures,
    ReferenceState,
)
from cmfr.nn.bit_estimator import BitEstimator, EntropyCoder
from cmfr.nn.entropy_coder import BitReader, BitWriter
from cmfr.nn.latent_coder import LatentCoder
from cmfr.nn.moved_latents import MovedLatents

Past = TypeVar("Past", FrameSize, ReferenceState)
Shown = Callable[[Tensor], bytes]


class TimedEstimator(BitEstimator):
    """Counts bits beside a `BitWriter`; seconds: that took, which is no part of encoding."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(training=False)
        self.device, self.seconds = device, 0.0

    def code_latent(self, *latent: Any) -> Tensor:
        began = self._now()
        coded = super().code_latent(*latent)
        self.seconds += self._now() - began
        return coded

    def code_factorized(self, *latent: Any) -> Tensor:
        began = self._now()
        coded = super().code_factorized(*latent)
        self.seconds += self._now() - began
        return coded

    def _now(self) -> float:
        """When all that was asked of the device before is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class BegunFrame:
    """A frame whose networks have run. What is left, the entropy coding, needs neither them nor the
    device, and may be done by another thread beside the next frame."""

    output: FrameOutput
    coder: BitWriter
    picture: bytes

    def finish(self) -> tuple[bytes, FrameOutput]:
        """Payload, and the output with the time that this took. Once."""
        payload = self.coder.finish(self.picture)
        return payload, replace(self.output, coder_seconds=self.coder.seconds)


class FrameCodec(nn.Module, ABC, Generic[Past]):
    """Base of the I-frame codecs (past: the frame size) and of `InterCodec`."""

    @abstractmethod
    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: Past
    ) -> FrameOutput:
        """One frame through the codec; `x` is None when decoding."""

    def symbols(self, size: FrameSize) -> int:
        """Upper bound on the coded symbols of a frame (see BitReader)."""
        latents = (part for part in self.modules() if isinstance(part, LatentCoder))
        return sum(latent.symbols(*size) for latent in latents)

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        past: Past,
        coder: BitEstimator | None = None,
        moves: list[Tensor] | None = None,
    ) -> FrameOutput:
        """x [B, 3, H, W] in [0, 1], quality [B] integers -> output with bits per sample.

        coder: counts the bits; by default as training does, or coding in eval mode.
        moves: of the motion latents, see `MovedLatents`.
        """
        coder = coder or BitEstimator(self.training)
        output = self._code(_moving(coder, moves), x, quality, past)
        output.bits.update(coder.bits)
        output.bit_maps.update(coder.maps)
        return output

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        quality: Tensor,
        past: Past,
        shown: Shown | None = None,
        estimate: bool = False,
    ) -> tuple[bytes, FrameOutput]:
        """x [1, 3, H, W], quality [1] -> payload and what the decoder will have; see `begin`."""
        return self.begin(x, quality, past, shown, estimate).finish()

    @torch.no_grad()
    def begin(
        self,
        x: Tensor,
        quality: Tensor,
        past: Past,
        shown: Shown | None = None,
        estimate: bool = False,
        moves: list[Tensor] | None = None,
    ) -> BegunFrame:
        """x [1, 3, H, W], quality [1] -> what the decoder will have, and the rest of the encoding.

        shown: the picture that is made of x_hat, as bytes; the payload's checksum covers it.
        estimate: estimate the bits too, beside the bytes.
        moves: of the motion latents, see `MovedLatents`.
        """
        assert not self.training, "encode needs eval()"
        estimator = TimedEstimator(x.device) if estimate else None
        coder = BitWriter(estimator)
        output = self._code(_moving(coder, moves), x, quality, past)
        if estimator:
            output.bits.update(estimator.bits)
            output.bit_maps.update(estimator.maps)
            output = replace(output, estimate_seconds=estimator.seconds)
        coder.fetch()
        return BegunFrame(output, coder, shown(output.x_hat) if shown else b"")

    @torch.no_grad()
    def decode(
        self, payload: bytes, quality: Tensor, past: Past, shown: Shown | None = None
    ) -> FrameOutput:
        """Payload -> frame and next state.

        shown: as of `begin`.

        Raises BadPayload where they are not the encoder's.
        """
        assert not self.training, "decode needs eval()"
        coder = BitReader(payload, self.symbols(past.size), quality.device)
        output = self._code(coder, None, quality, past)
        coder.finish(shown(output.x_hat) if shown else b"")
        return replace(output, coder_seconds=coder.seconds)

    def _clamped(self, x: Tensor) -> Tensor:
        """Reconstruction in range; left alone in training, where clamping would stop gradients.

        A sample that overflowed is 0, so that it does not spread through all later frames.
        """
        x = x.float()
        return x if self.training else x.clamp(0, 1).nan_to_num(0)


def _moving(coder: EntropyCoder, moves: list[Tensor] | None) -> EntropyCoder:
    return coder if moves is None else MovedLatents(coder, "motion", moves)


@dataclass(frozen=True)
class CodedMotion:
    """The motion half of a P-frame: its pictures, and what it leaves for the next one.

    latent [B, Cm, H/S, W/S], S its stride.
    feature [B, C, H/4, W/4].
    reference: the feature that contexts are mined from, [B, C0, H/s, W/s].
    older: the reference as the next frame looks back at it, see `LatentReference`.
    """

    pictures: MotionPictures
    latent: Tensor
    feature: Tensor
    reference: Tensor
    older: Tensor | None = None


class InterCodec(FrameCodec[ReferenceState]):
    """Base of the P-frame codecs."""


class MotionInterCodec(InterCodec):
    """Base of the P-frame codecs that code motion, `CMFR` and `DCVC`."""

    @abstractmethod
    def _code_motion(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: ReferenceState
    ) -> CodedMotion:
        """Estimate (from x, when encoding), code and use the motion."""

    @abstractmethod
    def _no_latents(self, frame: Tensor) -> LatentReference:
        """Zeros where there was no P-frame yet."""

    def estimate_motion(
        self, x: Tensor, quality: Tensor, past: ReferenceState, coder: BitEstimator | None = None
    ) -> FrameOutput:
        """The motion half alone, for training stages: x_hat is the prediction, bits the motion's.

        The state holds what the next frame's motion needs, with the prediction as the frame.
        coder: as of `forward`.
        """
        coder = coder or BitEstimator(self.training)
        previous = past.latents or self._no_latents(past.frame)
        motion = self._code_motion(coder, x, quality, past)
        pictures = motion.pictures
        latents = LatentReference(
            previous.residual,
            motion.latent,
            motion.feature,
            pictures.refined,
            older=motion.older,
        )
        state = ReferenceState(pictures.prediction, None, latents, past.position + 1)
        return FrameOutput(pictures.prediction, state, coder.bits, coder.maps, pictures)
