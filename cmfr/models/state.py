"""What passes from frame to frame, and what coding one frame yields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


def detached(value: T) -> T:
    """The same value without gradient history: tensors, dataclasses and dicts of them."""
    return _changed(value, Tensor.detach)


def without_history(value: T) -> T:
    """A copy that gradients can go through, of what inference made too."""
    return _changed(value, lambda tensor: tensor.detach().clone())


def _changed(value: T, change: Callable[[Tensor], Tensor]) -> T:
    result: Any = value
    if isinstance(value, Tensor):
        result = change(value)
    elif isinstance(value, dict):
        result = {key: _changed(item, change) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: _changed(getattr(value, part.name), change) for part in fields(value)}
        result = type(value)(**parts)
    return result


class FrameSize(NamedTuple):
    """Padded size in pixels, multiples of the model's `frame_multiple`: all the past that an
    I-frame has."""

    height: int
    width: int

    @property
    def size(self) -> FrameSize:
        """Of the frame to code, as a `ReferenceState` says it."""
        return self


@dataclass(frozen=True)
class LatentReference:
    """What the previous P-frame left for the entropy models, the motion codec and the refiner, and
    the pictures that frames are predicted from.

    residual [B, Cy, H/S, W/S], motion [B, Cm, H/S, W/S]: quantized latents, S the stride of each.
    motion_feature [B, C, H/4, W/4]: decoder-side feature of the motion codec.
    flow [B, 2, H/s, W/s]: the flow that was used, s the feature stride.
    older_share [B, 1, H/8, W/8] in [0, 1]: how much the frame before its reference should have
    counted in its prediction; None where that is not known.
    samples [B, 3, 2H, 2W]: the frame at half samples with what earlier ones add to them; None where
    they add nothing.
    older_samples: the same of the frame before; None where that is not looked at.
    """

    residual: Tensor
    motion: Tensor
    motion_feature: Tensor
    flow: Tensor
    older_share: Tensor | None = None
    samples: Tensor | None = None
    older_samples: Tensor | None = None


@dataclass(frozen=True)
class ReferenceState:
    """The decoded past: all that a P-frame is coded from, equal in encoder and decoder.

    frame: [B, 3, H, W] in [0, 1], H and W padded.
    feature: [B, C0, H/s, W/s], or None after an I-frame.
    latents: None before the first P-frame after an I-frame.
    position: how many frames after the I-frame `frame` is (the I-frame has position 0).
    """

    frame: Tensor
    feature: Tensor | None = None
    latents: LatentReference | None = None
    position: int = 0

    @property
    def size(self) -> FrameSize:
        """Of the frame, padded."""
        return FrameSize(self.frame.shape[2], self.frame.shape[3])


@dataclass(frozen=True)
class MotionPictures:
    """Flows and predictions of a P-frame, for its residual codec, for the next frame, and for
    losses and `inspect`.

    decoded, refined [B, 2, h, w]: flow before and after the Motion Refiner (the mean of its
    hypotheses), in pixels of its own resolution.
    warped, prediction [B, 3, H, W]: what the motion before and after makes of the reference (after:
    of the frame before it too, where the refiner looks at that).
    mask: what the prediction is multiplied with before it is subtracted, [B, C, h, w], or None.
    """

    decoded: Tensor
    refined: Tensor
    warped: Tensor
    prediction: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class FrameOutput:
    """One coded frame.

    x_hat: [B, 3, H, W], clamped to [0, 1] in eval mode.
    state: the reference of the next frame.
    bits: name ("motion_y", "motion_z", "residual_y", "residual_z", "intra_y", "intra_z") ->
    bits per sample [B], empty when real bytes were written or read (unless the codec `estimates`).
    bit_maps: the same per latent position [B, h, w], outside training.
    motion: of a P-frame that codes motion.
    coder_seconds: spent in the rANS coder.
    estimate_seconds: spent on estimates beside real bytes.
    """

    x_hat: Tensor
    state: ReferenceState
    bits: dict[str, Tensor] = field(default_factory=dict)
    bit_maps: dict[str, Tensor] = field(default_factory=dict)
    motion: MotionPictures | None = None
    coder_seconds: float = 0.0
    estimate_seconds: float = 0.0

    @property
    def total_bits(self) -> Tensor:
        """Estimated bits per sample [B]."""
        return sum(self.bits.values(), start=self.x_hat.new_zeros(len(self.x_hat)))
