"""CMFR's entropy model: the networks that `LatentCoder` asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cmfr.config import LatentConfig
from cmfr.models.cmfr.blocks import block
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.nn.densities import FactorizedDensity, HyperDensity
from cmfr.nn.init import SMALL_GAIN
from cmfr.nn.latent_coder import LatentCoder, Prediction
from cmfr.nn.layers import conv, upsample
from cmfr.nn.quality import LATENT_GAINS, QualityScaler


class CMFRLatentCoder(LatentCoder):
    """CMFR's entropy model, of intra, motion and residual latents (its layers are ours).

    Latents are in the units of the signal, and so are the predictions of the networks: a gain that
    the quality index chooses turns both into symbols, so that one prediction serves all qualities.

        symbol = round((y - mean) * gain(quality) / s), s = 2^tanh(.)     its scale alike

    `spread` [C] is what a latent's values are like before anything is known of them; networks see
    and predict values relative to it, and `calibrate` measures it before training.

    gains: initial gains at quality 0 and 63.
    prior_channels: of all temporal priors together.
    """

    def __init__(
        self,
        cfg: CMFRConfig,
        name: str,
        section: LatentConfig,
        prior_channels: int,
        gains: tuple[float, float] = LATENT_GAINS,
    ) -> None:
        channels, hyper, steps = section.latent, section.hyper, section.spatial_steps
        skip, stride = cfg.skip_scale, section.latent_stride
        super().__init__(name, channels, hyper, steps, skip, stride, section.rdoq)
        width = section.prior
        self.gain = QualityScaler(channels, gains)
        self.log_spread = nn.Parameter(torch.zeros(channels))
        if hyper:
            self.hyper_encoder = nn.Sequential(
                conv(channels, hyper, 1),
                nn.LeakyReLU(0.1),
                conv(hyper, hyper, stride=2),
                nn.LeakyReLU(0.1),
                conv(hyper, hyper, stride=2, gain=0.3),
            )
            self.bottleneck = FactorizedDensity(hyper)
            self.hyper_decoder = nn.Sequential(
                upsample(hyper, hyper),
                nn.LeakyReLU(0.1),
                upsample(hyper, hyper),
                nn.LeakyReLU(0.1),
            )
        self.head = conv(hyper + prior_channels, width, 1)
        self.quality = QualityScaler(width)
        self.body = nn.Sequential(
            block(cfg, width), nn.LeakyReLU(0.1), conv(width, 3 * channels, 1, gain=SMALL_GAIN)
        )
        if steps > 1:
            self.adaptors = nn.ModuleList(conv(3 * channels, width, 1) for _ in range(steps - 1))
            self.spatial = nn.Sequential(
                block(cfg, width), nn.LeakyReLU(0.1), conv(width, 2 * channels, 1, gain=SMALL_GAIN)
            )

    def encode_hyper(self, y: Tensor, quality: Tensor | None) -> Tensor:
        assert quality is not None
        return self.hyper_encoder(self.gain(y, quality))

    def hyper_density(self, quality: Tensor | None) -> HyperDensity:
        return self.bottleneck

    def predict(
        self,
        z_hat: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None,
    ) -> Prediction:
        assert quality is not None
        if z_hat is not None:
            priors = [self.hyper_decoder(z_hat)[..., : size[0], : size[1]], *priors]
        h = self.quality(self.head(torch.cat(priors, 1)), quality)
        step, log_scale, mean = self.body(h).chunk(3, 1)
        # Spatially adaptive quantization step, bounded to [1/2, 2].
        step = torch.exp2(torch.tanh(step)) / self.gain.gain(quality)
        return Prediction(
            step, *self._symbols(log_scale, mean, step), torch.cat([log_scale, mean], 1)
        )

    def refine(self, k: int, known: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
        known = known * prediction.step / self._spread()
        h = self.adaptors[k - 1](torch.cat([known, prediction.shared], 1))
        log_scale, mean = self.spatial(h).chunk(2, 1)
        return self._symbols(log_scale, mean, prediction.step)

    def _symbols(self, log_scale: Tensor, mean: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and mean relative to the spread -> of symbols."""
        unit = self._spread() / step
        return torch.exp(log_scale.clamp(-8, 8)) * unit, mean * unit

    def _spread(self) -> Tensor:
        return self.log_spread.exp()[:, None, None]


@torch.no_grad()
def calibrate(coders: Sequence[CMFRLatentCoder], run: Callable[[], None]) -> None:
    """Set the spreads of latents to what `run` codes with them, the root mean square of every
    channel: entropy models then start at what the data has.
    """
    squares: dict[nn.Module, list[Tensor]] = {coder: [] for coder in coders}  # means [C]

    def measure(coder: nn.Module, inputs: tuple[Any, ...]) -> None:
        y = inputs[1]
        if y is not None:
            squares[coder].append(y.detach().float().square().mean((0, 2, 3)))

    hooks = [coder.register_forward_pre_hook(measure) for coder in coders]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for coder in coders:
        if squares[coder]:
            square = torch.stack(squares[coder]).mean(0)
            coder.log_spread.copy_(0.5 * square.clamp(min=1e-8).log())
