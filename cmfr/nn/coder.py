"""What a codec hands its latents to, and how their symbols are chosen.

A codec's network code is the same in training, encoding and decoding: only the `EntropyCoder` that
it is given differs (bit_estimator.py counts bits, entropy_coder.py writes and reads them,
moved_latents.py stands before another one). Everything is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cmfr.nn.densities import Density, HyperDensity
from cmfr.nn.portable import encoder_only


class EntropyCoder:
    """What all coders share: `code_latent` and `code_factorized`.

    In both, `values` is the latent (None when decoding) and the result is its quantized form.
    `name` says under which heading the bits are counted.
    """

    def code_latent(
        self, name: str, values: Tensor | None, mean: Tensor, scale: Tensor,
        density: Density, skip: float, rdoq: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Latent values [B, C, H, W] under a density of `mean` and `scale` -> quantized values.

        The whole-numbered symbol is the distance from the mean as `quantized` chooses it; where the
        scale is below `skip` nothing is coded and the value is the mean.
        """
        raise NotImplementedError

    def code_factorized(
        self,
        name: str,
        values: Tensor | None,
        model: HyperDensity,
        shape: tuple[int, int, int, int],
    ) -> Tensor:
        """Hyper-latent [B, C, H, W] under its factorized density -> whole numbers."""
        raise NotImplementedError


@torch.no_grad()
@encoder_only()
def quantized(distance: Tensor, scale: Tensor, density: Density, rdoq: float) -> Tensor:
    """Whole symbols for distances from the mean, same shape.

    rdoq: 0 = rounding. Otherwise rate-distortion optimized quantization, which decoders need not
    know of: a symbol is one nearer to 0 where that costs less, in bits + rdoq * squared error.
    """
    symbols = distance.round()
    if rdoq:
        lower = symbols - symbols.sign()
        saved = density.coded_bits(symbols, scale) - density.coded_bits(lower, scale)
        added = (distance - lower).square() - (distance - symbols).square()
        symbols = torch.where(rdoq * added < saved, lower, symbols)
    return symbols
