"""I-frame codec: variable-rate transform coder with the same entropy model as the P-frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.config import LATENT_STRIDE, ModelConfig
from cmfr.entropy import EntropyCoder
from cmfr.frame_codec import FrameCodec, FrameSize
from cmfr.latent import LatentCoder
from cmfr.layers import QualityScaler, block, conv, latent_conv, upsample
from cmfr.state import FrameOutput, ReferenceState


class IntraCodec(FrameCodec[FrameSize]):
    """Codes a frame alone. Three levels (1/2, 1/4, 1/8) and a latent at 1/16 (ours)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        intra = cfg.intra
        a, b, c = intra.channels
        blocks = [
            [block(cfg, width) for _ in range(count)]
            for width, count in zip(
                (a, b, c, c, b, a), (*intra.blocks, *intra.blocks[::-1]), strict=True
            )
        ]
        self.analysis = nn.Sequential(
            conv(12, a), *blocks[0], conv(a, b, stride=2), *blocks[1],
            conv(b, c, stride=2), *blocks[2], latent_conv(c, intra.latent),
        )  # fmt: skip
        self.encoder_scale = QualityScaler(intra.latent, 0.35, 3.5)
        self.latent = LatentCoder(cfg, "intra", intra.latent, intra.hyper, 0, intra.spatial_steps)
        self.decoder_scale = QualityScaler(intra.latent, 1 / 0.35, 1 / 3.5)
        self.synthesis = nn.Sequential(
            upsample(intra.latent, c), *blocks[3], upsample(c, b), *blocks[4],
            upsample(b, a), *blocks[5], conv(a, 12),
        )  # fmt: skip

    @staticmethod
    def _pixels(past: FrameSize) -> int:
        return past.height * past.width

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: FrameSize
    ) -> FrameOutput:
        y = None
        if x is not None:
            y = self.encoder_scale(self.analysis(F.pixel_unshuffle(x, 2)), quality)
        latent_size = (past.height // LATENT_STRIDE, past.width // LATENT_STRIDE)
        y_hat = self.latent(coder, y, [], latent_size)
        h = self.synthesis(self.decoder_scale(y_hat, quality))
        x_hat = self._shown(F.pixel_shuffle(h, 2))
        return FrameOutput(x_hat, ReferenceState(x_hat))
