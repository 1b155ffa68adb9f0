"""A group of pictures: I-frame, P-frames, hierarchical quality. Network only, no files."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cmfr.config import QUALITIES, CodecConfig
from cmfr.models.base import BegunFrame, FrameCodec, FrameSize, InterCodec, PictureBytes
from cmfr.models.refinement import refined_motion
from cmfr.models.registry import FAMILIES
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.layers import pad_to_multiple


def refreshes(position: int, period: int) -> bool:
    """Whether the frame after the one at `position` is a temporal feature refresh. The only place
    that knows; the first P-frame after an I-frame reads the frame anyway.

    period: frames between refreshes, 0 = never.
    """
    return period > 0 and position % period == 0


class VideoModel(nn.Module):
    """Intra codec and P-frame codec of one configuration, for all 64 qualities."""

    intra: FrameCodec[FrameSize]
    inter: InterCodec

    def __init__(self, cfg: CodecConfig) -> None:
        super().__init__()
        self.cfg = cfg
        family = FAMILIES[cfg.family]
        self.intra, self.inter = family.intra(cfg), family.inter(cfg)

    def frame_quality_index(self, quality: Tensor, position: int) -> Tensor:
        """Quality index [B] of the frame `position` frames after its I-frame.

        The only place that applies the hierarchical pattern; training and coding both call it.
        """
        if position == 0:
            return quality
        offsets = self.cfg.hierarchy.quality_offsets
        return (quality + offsets[position % len(offsets)]).clamp(0, QUALITIES - 1)

    def refreshed(self, past: ReferenceState, period: int | None = None) -> ReferenceState:
        """`past`, without its feature where the next frame is a temporal feature refresh: its
        contexts then come from the frame alone (design: DCVC-FM's). All else stays.

        period: frames between refreshes, 0 = never; by default the model's. Training and coding
        both call it.
        """
        period = self.cfg.refresh_period if period is None else period
        return replace(past, feature=None) if refreshes(past.position, period) else past

    def padded_size(self, height: int, width: int) -> FrameSize:
        """What a frame of this size is coded as: the next multiples that the latents need."""
        multiple = self.cfg.frame_multiple
        return FrameSize(-(-height // multiple) * multiple, -(-width // multiple) * multiple)

    def padded(self, x: Tensor) -> Tensor:
        """x [B, 3, h, w] of any size, its right and bottom border repeated -> [B, 3, H, W]."""
        return pad_to_multiple(x, self.cfg.frame_multiple)

    def code_intra(
        self, x: Tensor, quality: Tensor, coder: BitEstimator | None = None
    ) -> FrameOutput:
        """Estimate an I-frame: x [B, 3, H, W] in [0, 1], padded; quality [B].

        coder: counts the bits; by default as training does, or coding in eval mode.
        """
        return self.intra(x, quality, FrameSize(x.shape[2], x.shape[3]), coder)

    def code_inter(
        self, x: Tensor, quality: Tensor, past: ReferenceState, coder: BitEstimator | None = None
    ) -> FrameOutput:
        """Estimate the P-frame after `past`; `quality` [B] is the stream's, not the frame's."""
        quality = self.frame_quality_index(quality, past.position + 1)
        return self.inter(x, quality, self.refreshed(past), coder)

    def forward(self, clip: Tensor, quality: Tensor) -> list[FrameOutput]:
        """Estimate a whole clip [B, T, 3, H, W], first frame intra, gradients through all."""
        outputs = [self.code_intra(clip[:, 0], quality)]
        for t in range(1, clip.shape[1]):
            outputs.append(self.code_inter(clip[:, t], quality, outputs[-1].state))
        return outputs

    def encode_frame(
        self,
        x: Tensor,
        quality: int,
        past: ReferenceState | None,
        refresh_period: int | None = None,
        picture_bytes: PictureBytes | None = None,
        estimate: bool = False,
    ) -> tuple[bytes, int, FrameOutput]:
        """x [1, 3, h, w] of any size, stream quality -> payload, the frame's own quality, output;
        see `begin_frame`."""
        begun, frame_quality_index = self.begin_frame(
            x, quality, past, refresh_period, picture_bytes, estimate
        )
        payload, output = begun.finish()
        return payload, frame_quality_index, output

    def begin_frame(
        self,
        x: Tensor,
        quality: int,
        past: ReferenceState | None,
        refresh_period: int | None = None,
        picture_bytes: PictureBytes | None = None,
        estimate: bool = False,
        refine: int = 0,
    ) -> tuple[BegunFrame, int]:
        """x [1, 3, h, w] of any size, stream quality -> the frame but for its entropy coding, and
        the frame's own quality.

        past: None makes an I-frame (`decode_frame`, which has no x, needs its size instead).
        refresh_period: as of `refreshed`.
        picture_bytes, estimate: as of `FrameCodec.begin`.
        refine: gradient steps on the motion latents of a P-frame, see refinement.py.
        """
        x, index = self.padded(x), torch.tensor([quality])
        if past is None:
            size = FrameSize(x.shape[2], x.shape[3])
            return self.intra.begin(x, index.to(x.device), size, picture_bytes, estimate), quality
        index = self.frame_quality_index(index, past.position + 1)
        past = self.refreshed(past, refresh_period)
        moves = None
        if refine:
            moves = refined_motion(self.inter, x, index, past, self.cfg, refine)
        begun = self.inter.begin(x, index.to(x.device), past, picture_bytes, estimate, moves)
        return begun, int(index)  # of a tensor on the host: nobody waits

    def decode_frame(
        self,
        payload: bytes,
        frame_quality: int,
        past: ReferenceState | FrameSize,
        refresh_period: int | None = None,
        picture_bytes: PictureBytes | None = None,
    ) -> FrameOutput:
        """Payload and the frame's own quality -> output, padded.

        past: the frame's size, padded or not, makes an I-frame.
        refresh_period: as of `refreshed`.
        picture_bytes: as of `FrameCodec.begin`.
        """
        device = next(self.parameters()).device
        index = torch.tensor([frame_quality], device=device)
        if isinstance(past, FrameSize):
            return self.intra.decode(payload, index, self.padded_size(*past), picture_bytes)
        return self.inter.decode(
            payload, index, self.refreshed(past, refresh_period), picture_bytes
        )
