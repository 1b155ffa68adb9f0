"""The I-frame codec of DCVC-DC and DCVC-FM."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from cmfr.models.base import FrameCodec, FrameSize
from cmfr.models.dcvc.blocks import (
    DECODER_GAINS,
    ENCODER_GAINS,
    PatchDown,
    ResidualDown,
    ResidualUp,
    UNet,
    depth_block,
    intra_gain,
)
from cmfr.models.dcvc.config import LATENT_STRIDE, DCVCConfig
from cmfr.models.dcvc.latent import IntraLatentCoder
from cmfr.models.state import FrameOutput, ReferenceState
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.layers import conv
from cmfr.nn.portable import encoder_only


class DCVCIntra(FrameCodec[FrameSize]):
    """Transform coder with quality gains at 1/2 of the resolution and a latent at 1/16."""

    def __init__(self, cfg: DCVCConfig) -> None:
        super().__init__()
        (a, b, n), refined = cfg.intra_channels, cfg.intra_refine
        fm = cfg.generation == "fm"
        down = PatchDown if fm else ResidualDown
        block = partial(depth_block, "product" if fm else "gated")

        self.encoder_head = nn.Sequential(down(3, a), block(a))
        self.encoder_tail = nn.Sequential(
            down(a, b), block(b), down(b, n), block(n), conv(n, n, stride=2)
        )
        self.latent = IntraLatentCoder(cfg, "intra")
        self.decoder_head = nn.Sequential(
            block(n), ResidualUp(n, n), block(n), ResidualUp(n, b), block(b), ResidualUp(b, a)
        )
        self.decoder_tail = nn.Sequential(block(a), ResidualUp(a, refined))
        self.refine = nn.Sequential(
            UNet(refined, refined, cfg.unet, "gated", "conv" if fm else "max"), conv(refined, 3)
        )
        self.encoder_gain = intra_gain(cfg, a, ENCODER_GAINS)
        self.decoder_gain = intra_gain(cfg, a, DECODER_GAINS)

    def _code(
        self, coder: EntropyCoder, x: Tensor | None, quality: Tensor, past: FrameSize
    ) -> FrameOutput:
        y = None
        if x is not None:
            with encoder_only():
                y = self.encoder_tail(self.encoder_gain(self.encoder_head(x), quality))
        size = (past.height // LATENT_STRIDE, past.width // LATENT_STRIDE)
        y_hat = self.latent(coder, y, [], size, quality)
        h = self.decoder_tail(self.decoder_gain(self.decoder_head(y_hat), quality))
        x_hat = self._clamped(self.refine(h))
        return FrameOutput(x_hat, ReferenceState(x_hat))
