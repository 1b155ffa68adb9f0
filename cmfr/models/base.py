"""The contract of a frame codec: three symmetric methods over one network path.

    forward(x, quality, past)        -> FrameOutput             estimated bits; trains
    encode(x, quality, past)         -> bytes, FrameOutput      begin(...).finish()
    decode(payload, quality, past)   -> FrameOutput             never sees the source

`begin` is `encode` up to the entropy coding, which another thread may do beside the next frame.
Here `quality` is the frame's own; `VideoModel` makes it of the stream's.

All three run `_code`; only the entropy coder handed to it differs. In eval mode they give the
same reconstruction bit for bit, on one machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from cmfr.models.state import (
    FrameOutput,
    FrameSize,
    LatentReference,
    MotionPictures,
    ReferenceState,
)
from cmfr.nn.bit_estimator import BitEstimator, TimedEstimator
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.entropy_coder import BitReader, BitWriter
from cmfr.nn.latent_coder import LatentCoder
from cmfr.nn.moved_latents import MovedLatents

Past = TypeVar("Past", FrameSize, ReferenceState)
PictureBytes = Callable[[Tensor], bytes]


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
        """Upper bound on the coded symbols of a frame (see BitReader).

        A codec that codes anything but by a `LatentCoder` says its own.
        """
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
        picture_bytes: PictureBytes | None = None,
        estimate: bool = False,
    ) -> tuple[bytes, FrameOutput]:
        """x [1, 3, H, W], quality [1] -> payload and what the decoder will have; see `begin`."""
        return self.begin(x, quality, past, picture_bytes, estimate).finish()

    @torch.no_grad()
    def begin(
        self,
        x: Tensor,
        quality: Tensor,
        past: Past,
        picture_bytes: PictureBytes | None = None,
        estimate: bool = False,
        moves: list[Tensor] | None = None,
    ) -> BegunFrame:
        """x [1, 3, H, W], quality [1] -> what the decoder will have, and the rest of the encoding.

        picture_bytes: makes the picture of x_hat, as bytes; the payload's checksum covers it.
        estimate: estimate the bits too, beside the bytes.
        moves: of the motion latents, see `MovedLatents`.
        """
        assert not self.training, "encode needs eval()"
        estimator = TimedEstimator(x.device) if estimate else None
        coder = BitWriter(estimator)
        output = self._code(_moving(coder, moves), x, quality, past)
        most = self.symbols(past.size)
        assert coder.symbols <= most, f"{type(self).__name__}.symbols says {most}: too few"
        if estimator:
            output.bits.update(estimator.bits)
            output.bit_maps.update(estimator.maps)
            output = replace(output, estimate_seconds=estimator.seconds)
        coder.fetch()
        return BegunFrame(output, coder, picture_bytes(output.x_hat) if picture_bytes else b"")

    @torch.no_grad()
    def decode(
        self, payload: bytes, quality: Tensor, past: Past, picture_bytes: PictureBytes | None = None
    ) -> FrameOutput:
        """Payload -> frame and next state.

        picture_bytes: as of `begin`.

        Raises BadPayload where they are not the encoder's.
        """
        assert not self.training, "decode needs eval()"
        coder = BitReader(payload, self.symbols(past.size), quality.device)
        output = self._code(coder, None, quality, past)
        coder.finish(picture_bytes(output.x_hat) if picture_bytes else b"")
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
    motion_feature [B, C, H/4, W/4], see `LatentReference`.
    reference_feature: what contexts are mined from, [B, C0, H/s, W/s].
    older_samples: the reference as the next frame looks back at it, see `LatentReference`.
    """

    pictures: MotionPictures
    latent: Tensor
    motion_feature: Tensor
    reference_feature: Tensor
    older_samples: Tensor | None = None


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

    def _previous(self, past: ReferenceState) -> LatentReference:
        """What the previous P-frame left, or zeros."""
        return past.latents or self._no_latents(past.frame)

    def estimate_motion(
        self, x: Tensor, quality: Tensor, past: ReferenceState, coder: BitEstimator | None = None
    ) -> FrameOutput:
        """The motion half alone, for training stages: x_hat is the prediction, bits the motion's.

        The state holds what the next frame's motion needs, with the prediction as the frame.
        coder: as of `forward`.
        """
        coder = coder or BitEstimator(self.training)
        previous = self._previous(past)
        motion = self._code_motion(coder, x, quality, past)
        pictures = motion.pictures
        latents = LatentReference(
            previous.residual,
            motion.latent,
            motion.motion_feature,
            pictures.refined,
            older_samples=motion.older_samples,
        )
        state = ReferenceState(pictures.prediction, None, latents, past.position + 1)
        return FrameOutput(pictures.prediction, state, coder.bits, coder.maps, pictures)
