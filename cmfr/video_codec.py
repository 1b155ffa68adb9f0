"""A group of pictures: I-frame, P-frames, hierarchical quality. Network only, no files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmfr.config import QUALITIES, ModelConfig
from cmfr.frame_codec import FrameSize
from cmfr.intra import IntraCodec
from cmfr.model import CMFR
from cmfr.state import FrameOutput, ReferenceState


class VideoCodec(nn.Module):
    """Intra codec and P-frame codec of one `ModelConfig`, for all 64 qualities."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.intra = IntraCodec(cfg)
        self.inter = CMFR(cfg)

    def frame_quality(self, quality: Tensor, position: int) -> Tensor:
        """Quality index [B] of the frame `position` frames after its I-frame.

        The only place that applies the hierarchical pattern; training and coding both call it.
        """
        if position == 0:
            return quality
        offsets = self.cfg.hierarchy.quality_offsets
        return (quality + offsets[position % len(offsets)]).clamp(0, QUALITIES - 1)

    def code_intra(self, x: Tensor, quality: Tensor) -> FrameOutput:
        """Estimate an I-frame: x [B, 3, H, W] in [0, 1], quality [B]."""
        return self.intra(x, quality, FrameSize(x.shape[2], x.shape[3]))

    def code_inter(self, x: Tensor, quality: Tensor, past: ReferenceState) -> FrameOutput:
        """Estimate the P-frame after `past`; `quality` [B] is the stream's, not the frame's."""
        return self.inter(x, self.frame_quality(quality, past.position + 1), past)

    def forward(self, clip: Tensor, quality: Tensor) -> list[FrameOutput]:
        """Estimate a whole clip [B, T, 3, H, W], first frame intra, gradients through all."""
        outputs = [self.code_intra(clip[:, 0], quality)]
        for t in range(1, clip.shape[1]):
            outputs.append(self.code_inter(clip[:, t], quality, outputs[-1].state))
        return outputs

    def encode_frame(
        self, x: Tensor, quality: int, past: ReferenceState | None
    ) -> tuple[bytes, int, FrameOutput]:
        """x [1, 3, H, W], stream quality -> payload, the frame's own quality, output.

        `past` None makes an I-frame.
        """
        base = torch.tensor([quality], device=x.device)
        if past is None:
            payload, output = self.intra.encode(x, base, FrameSize(x.shape[2], x.shape[3]))
            return payload, quality, output
        frame_quality = self.frame_quality(base, past.position + 1)
        payload, output = self.inter.encode(x, frame_quality, past)
        return payload, int(frame_quality), output

    def decode_frame(
        self, payload: bytes, quality: int, past: ReferenceState | FrameSize
    ) -> FrameOutput:
        """Payload and the frame's own quality -> output. A `FrameSize` as past: an I-frame."""
        device = next(self.parameters()).device
        index = torch.tensor([quality], device=device)
        if isinstance(past, FrameSize):
            return self.intra.decode(payload, index, past)
        return self.inter.decode(payload, index, past)
