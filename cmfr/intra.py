"""I-frame codec: variable-rate transform coder with the same entropy model as the P-frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.config import LATENT_STRIDE, ModelConfig
from cmfr.entropy import EntropyCoder
from cmfr.frame_codec import FrameCodec, FrameSize
from cmfr.latent import PriorLatentCoder
from cmfr.layers import INVERSE_GAINS, LATENT_GAINS, QualityScaler, block, conv, upsample
from cmfr.starts import analysis_start, pixel_start, pixel_synthesis_start, synthesis_start
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
        downs = [conv(12, a), *(conv(i, o, stride=2) for i, o in ((a, b), (b, c)))]
        downs.append(conv(c, intra.latent, stride=2))
        ups = [upsample(intra.latent, c), upsample(c, b), upsample(b, a)]
        last = conv(a, 12)
        self.analysis = nn.Sequential(
            downs[0], *blocks[0], downs[1], *blocks[1], downs[2], *blocks[2], downs[3]
        )
        self.encoder_scale = QualityScaler(intra.latent, LATENT_GAINS)
        self.latent = PriorLatentCoder(
            cfg, "intra", intra.latent, intra.hyper, 0, intra.spatial_steps
        )
        self.decoder_scale = QualityScaler(intra.latent, INVERSE_GAINS)
        self.synthesis = nn.Sequential(
            ups[0], *blocks[3], ups[1], *blocks[4], ups[2], *blocks[5], last
        )
        channels = pixel_start(downs[0], 2)
        for down, up in zip(downs[1:], ups[::-1], strict=True):
            synthesis_start(up, channels)
            channels = analysis_start(down, channels)
        pixel_synthesis_start(last, 2)

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
