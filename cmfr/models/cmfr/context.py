"""Temporal context mining (after DCVC-TCM/-DC): multi-scale contexts from the reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmfr.config import CMFRConfig, CodecConfig
from cmfr.models.cmfr.motion import BlendedMotion
from cmfr.models.state import ReferenceState
from cmfr.nn.init import SMALL_GAIN, identity_start
from cmfr.nn.layers import block, conv, resize_flow, upsample, warp


class FeatureAdaptor(nn.Module):
    """Reads the reference: the propagated feature, or the frame alone.

    The frame alone is read where there is no feature, after an I-frame and at a temporal feature
    refresh (`VideoModel.refreshed`), and always where none propagates. Otherwise one of several
    1x1 convolutions reads the feature, chosen by the position in the hierarchical quality pattern.
    CMFR's and DCVC's are the same, but for `of_frame`, which reads the frame.
    """

    def __init__(
        self, cfg: CodecConfig, of_frame: nn.Module, width: int, propagates: bool = True
    ) -> None:
        super().__init__()
        self.of_frame = of_frame
        self.choice = cfg.hierarchy.adaptors
        count = max(self.choice) + 1 if propagates else 0
        self.of_feature = nn.ModuleList(conv(width, width, 1) for _ in range(count))
        for layer in self.of_feature:
            assert isinstance(layer, nn.Conv2d)
            identity_start(layer, width)

    def forward(self, state: ReferenceState, position: int) -> Tensor:
        """Reference state and the position of the frame to code -> feature [B, C0, H/s, W/s]."""
        if state.feature is None or not self.of_feature:
            return self.of_frame(state.frame)
        adaptor = self.choice[position % len(self.choice)]
        return self.of_feature[adaptor](state.feature)


class TemporalContext(nn.Module):
    """C_0, C_1, C_2 at s, 2s, 4s: a feature pyramid, warped with the motion, fused coarse to fine.

    The finest features follow all hypotheses of the motion, the others their mean.
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        c0, c1, c2 = cfg.context_channels
        self.extract1 = nn.Sequential(conv(c0, c1, stride=2), block(cfg, c1))
        self.extract2 = nn.Sequential(conv(c1, c2, stride=2), block(cfg, c2))
        self.up2 = upsample(c2, c1)
        self.up1 = nn.Sequential(upsample(2 * c1, c0), block(cfg, c0))
        self.out2 = conv(c2, c2, gain=SMALL_GAIN)
        self.out1 = conv(2 * c1, c1, 1, gain=SMALL_GAIN)
        self.out0 = conv(2 * c0, c0, 1, gain=SMALL_GAIN)

    def forward(self, feature: Tensor, motion: BlendedMotion) -> tuple[Tensor, Tensor, Tensor]:
        """feature [B, C0, h, w] -> contexts at (h, w), (h/2, w/2), (h/4, w/4)."""
        f1 = self.extract1(feature)
        f2 = self.extract2(f1)
        flow1 = resize_flow(motion.mean, 0.5)
        flow2 = resize_flow(flow1, 0.5)
        w0, w1, w2 = motion.warp(feature), warp(f1, flow1), warp(f2, flow2)
        u1 = torch.cat([self.up2(w2), w1], 1)
        u0 = torch.cat([self.up1(u1), w0], 1)
        return w0 + self.out0(u0), w1 + self.out1(u1), w2 + self.out2(w2)
