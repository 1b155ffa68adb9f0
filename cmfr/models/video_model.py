"""A group of pictures: I-frame, P-frames, hierarchical quality. Network only, no files."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cmfr.config import QUALITIES, DCVCConfig, ModelConfig
from cmfr.models.base import FrameCodec, FrameSize, InterCodec, Shown
from cmfr.models.cmfr.inter import CMFR
from cmfr.models.cmfr.intra import IntraCodec
from cmfr.models.dcvc.inter import DCVC
from cmfr.models.dcvc.intra import DCVCIntra
from cmfr.models.state import FrameOutput, ReferenceState


class VideoCodec(nn.Module):
    """Intra codec and P-frame codec of one configuration, for all 64 qualities."""

    intra: FrameCodec[FrameSize]
    inter: InterCodec

    def __init__(self, cfg: ModelConfig | DCVCConfig) -> None:
        super().__init__()
        self.cfg = cfg
        if isinstance(cfg, DCVCConfig):
            self.intra, self.inter = DCVCIntra(cfg), DCVC(cfg)
        else:
            self.intra, self.inter = IntraCodec(cfg), CMFR(cfg)

    def frame_quality(self, quality: Tensor, position: int) -> Tensor:
        """Quality index [B] of the frame `position` frames after its I-frame.

        The only place that applies the hierarchical pattern; training and coding both call it.
        """
        if position == 0:
            return quality
        offsets = self.cfg.hierarchy.quality_offsets
        return (quality + offsets[position % len(offsets)]).clamp(0, QUALITIES - 1)

    def refreshed(self, past: ReferenceState, period: int | None = None) -> ReferenceState:
        """`past`, without its feature where the next frame is a temporal feature refresh: its
        contexts then come from the frame alone (design: DCVC-FM's). The latents stay.

        period: frames between refreshes, 0 = never; by default the model's. The only place that
        knows when a refresh is; training and coding both call it.
        """
        period = self.cfg.refresh_period if period is None else period
        # The first P-frame has position 1; it reads the frame anyway.
        if period and past.position % period == 0:
            return replace(past, feature=None)
        return past

    def code_intra(self, x: Tensor, quality: Tensor) -> FrameOutput:
        """Estimate an I-frame: x [B, 3, H, W] in [0, 1], quality [B]."""
        return self.intra(x, quality, FrameSize(x.shape[2], x.shape[3]))

    def code_inter(self, x: Tensor, quality: Tensor, past: ReferenceState) -> FrameOutput:
        """Estimate the P-frame after `past`; `quality` [B] is the stream's, not the frame's."""
        quality = self.frame_quality(quality, past.position + 1)
        return self.inter(x, quality, self.refreshed(past))

    def forward(self, clip: Tensor, quality: Tensor) -> list[FrameOutput]:
        """Estimate a whole clip [B, T, 3, H, W], first frame intra, gradients through all."""
        outputs = [self.code_intra(clip[:, 0], quality)]
        for t in range(1, clip.shape[1]):
            outputs.append(self.code_inter(clip[:, t], quality, outputs[-1].state))
        return outputs

    def encode_frame(
        self, x: Tensor, quality: int, past: ReferenceState | None,
        refresh_period: int | None = None, shown: Shown | None = None,
    ) -> tuple[bytes, int, FrameOutput]:  # fmt: skip
        """x [1, 3, H, W], stream quality -> payload, the frame's own quality, output.

        `past` None makes an I-frame; refresh_period as of `refreshed`, shown as of
        `FrameCodec.encode`.
        """
        base = torch.tensor([quality], device=x.device)
        if past is None:
            payload, output = self.intra.encode(x, base, FrameSize(x.shape[2], x.shape[3]), shown)
            return payload, quality, output
        frame_quality = self.frame_quality(base, past.position + 1)
        past = self.refreshed(past, refresh_period)
        payload, output = self.inter.encode(x, frame_quality, past, shown)
        return payload, int(frame_quality), output

    def decode_frame(
        self, payload: bytes, quality: int, past: ReferenceState | FrameSize,
        refresh_period: int | None = None, shown: Shown | None = None,
    ) -> FrameOutput:  # fmt: skip
        """Payload and the frame's own quality -> output. A `FrameSize` as past: an I-frame."""
        device = next(self.parameters()).device
        index = torch.tensor([quality], device=device)
        if isinstance(past, FrameSize):
            return self.intra.decode(payload, index, past, shown)
        return self.inter.decode(payload, index, self.refreshed(past, refresh_period), shown)
