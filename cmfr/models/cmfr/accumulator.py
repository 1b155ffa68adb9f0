"""What the frames before the reference say of its samples, and of those between them (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.config import CMFRConfig
from cmfr.nn.layers import resize_flow, warp

# What training starts from: how far apart (root mean square of luma in [0, 1]) the new frame and
# what was gathered before are where the latter loses half of its weight; the log odds of that
# weight where they agree, after a frame of mean quality; and by how much one more quality index
# lowers them.
TOLERANCE, LOG_ODDS, PER_INDEX = 0.05, 0.2, 0.1


class ReferenceAccumulator(nn.Module):
    """Adds what earlier frames showed to the half samples that frames are predicted from.

    Every frame samples the scene at other places and is quantized anew. What was gathered so far is
    moved along with the motion and averaged with the half samples of the new frame: a recursive
    filter, which takes noise off and, where the video is aliased, finds what lies between the
    samples. It counts less where it disagrees with the new frame, and after frames of high quality.
    It takes no bits, and has one parameter for each place in the hierarchical pattern and one for
    the tolerance (measured: docs/architecture.md).
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        self.stride = cfg.feature_stride
        offsets = torch.tensor(cfg.hierarchy.quality_offsets, dtype=torch.float32)
        self.log_odds = nn.Parameter(LOG_ODDS - PER_INDEX * (offsets - offsets.mean()))
        self.log_tolerance = nn.Parameter(torch.tensor(TOLERANCE).log())

    def forward(self, samples: Tensor, gathered: Tensor, flow: Tensor, position: int) -> Tensor:
        """What the next frame is predicted from, [B, 3, 2H, 2W].

        samples: `half_samples` of the decoded frame, [B, 3, 2H, 2W].
        gathered: what that frame was predicted from, [B, 3, 2H, 2W].
        flow: that it was predicted with, [B, 2, H/s, W/s], s the feature stride.
        position: of the frame, see `ReferenceState`.
        """
        with torch.no_grad():  # how to move it is learned from predictions
            moved = warp(gathered, resize_flow(flow, 2 * self.stride), cubic=True)
        change = moved.sub_(samples)  # in place: these pictures are the largest there are
        difference = F.avg_pool2d(change.detach()[:, :1].square(), 4)
        tolerance = (2 * self.log_tolerance).exp()
        odds = self.log_odds[position % len(self.log_odds)]
        share = odds.sigmoid() * tolerance / (tolerance + difference)
        share = F.interpolate(share, scale_factor=4, mode="bilinear", align_corners=False)
        return (share * change).add_(samples)
