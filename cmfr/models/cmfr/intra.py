"""I-frame codec: variable-rate transform coder with the same entropy model as the P-frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.base import FrameCodec, FrameSize
from cmfr.models.cmfr.blocks import block
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.latent import CMFRLatentCoder
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.init import (
    analysis_start,
    identity_start,
    pixel_start,
    pixel_synthesis_start,
    pyramid_bands,
    synthesis_start,
)
from cmfr.nn.layers import conv, upsample
from cmfr.nn.portable import encoder_only
from cmfr.nn.quality import INTRA_GAINS


class IntraCodec(FrameCodec[FrameSize]):
    """Codes a frame alone. Three levels (1/2, 1/4, 1/8) and a latent at 1/8 or 1/16 (ours).

    Starts as a Haar transform of the pixels less 1/2 and its inverse.
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        intra = cfg.intra
        a, b, c = intra.channels
        blocks = [
            [block(cfg, width) for _ in range(count)]
            for width, count in zip(
                (a, b, c, c, b, a), (*intra.blocks, *intra.blocks[::-1]), strict=True
            )
        ]
        downs = [conv(12, a), *(conv(i, o, stride=2) for i, o in ((a, b), (b, c)))]
        below = intra.latent_stride == 16  # 1/8
        downs.append(conv(c, intra.latent, stride=2 if below else 1))
        head = upsample(intra.latent, c) if below else nn.Sequential(conv(intra.latent, c))
        ups = [head, upsample(c, b), upsample(b, a)]
        last = conv(a, 12)
        self.analysis = nn.Sequential(
            downs[0], *blocks[0], downs[1], *blocks[1], downs[2], *blocks[2], downs[3]
        )
        self.latent = CMFRLatentCoder(cfg, "intra", intra, 0, INTRA_GAINS)
        self.synthesis = nn.Sequential(
            ups[0], *blocks[3], ups[1], *blocks[4], ups[2], *blocks[5], last
        )
        pixel_start(downs[0], 2, cfg.flat_chroma)
        pixel_synthesis_start(last, 2, cfg.flat_chroma)
        halvings = (b, c, intra.latent) if below else (b, c)
        bands = pyramid_bands(2, a, halvings, cfg.flat_chroma)
        for down, up, transform in zip(downs[1:], ups[::-1], bands, strict=False):
            analysis_start(down, transform)
            synthesis_start(up, transform)
        if not below:
            identity_start(downs[-1], len(bands[-1]))
            identity_start(head[0], len(bands[-1]))  # type: ignore[arg-type]

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: FrameSize
    ) -> FrameOutput:
        with encoder_only():
            y = None if x is None else self.analysis(F.pixel_unshuffle(x - 0.5, 2))
        stride = self.latent.stride
        size = (past.height // stride, past.width // stride)
        y_hat = self.latent(coder, y, [], size, quality)
        x_hat = self._clamped(F.pixel_shuffle(self.synthesis(y_hat), 2) + 0.5)
        return FrameOutput(x_hat, ReferenceState(x_hat))
