"""The entropy model of one latent: hyperprior, temporal prior and stepwise spatial prior.

    z = hyper_encoder(y) -> code z -> hyper_decoder(z) = h
    (step, scale, mean) = predict(h, temporal priors)          all positions at once
    for k in the spatial steps:                                1, 2 (checkerboard) or 4 (quadtree)
        code the k-th part of y/step; refine (scale, mean) of the rest from what is known

`LatentCoder` is this order of things, for CMFR and DCVC alike; `PriorLatentCoder` has CMFR's
networks for it.

The four-step split is DCVC-DC's: channels in four groups, each taking the four positions of a 2x2
cell in another order, so that every step sees some channels at every position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.config import ModelConfig
from cmfr.densities import GAUSSIAN, Density, FactorizedDensity, HyperBottleneck
from cmfr.entropy import EntropyCoder
from cmfr.layers import block, conv, pad_to_multiple, upsample

# _CELL_ORDER[steps][step][group] = which cell position (row-major 2x2) the group codes then;
# with 2 steps a "position" is a color of the checkerboard.
_CELL_ORDER: dict[int, list[list[int]]] = {
    1: [[0]],
    2: [[0, 1], [1, 0]],
    4: [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2]],
}


@lru_cache(maxsize=32)
def step_masks(steps: int, height: int, width: int, device: torch.device) -> Tensor:
    """Which (group, position) each step codes: bool [steps, groups, 1, H, W], groups = steps.

    Kept per size and device; not to be changed in place.
    """
    with torch.inference_mode(False):  # what is kept must be usable in training too
        row = torch.arange(height, device=device)[:, None]
        column = torch.arange(width, device=device)
        cell = {
            1: torch.zeros_like(row + column),
            2: (row + column) % 2,
            4: (row % 2) * 2 + column % 2,
        }[steps]
        order = torch.tensor(_CELL_ORDER[steps], device=device)
        return (cell == order[:, :, None, None])[:, :, None]


@dataclass(frozen=True)
class Prediction:
    """What the hyperprior and the temporal priors say of a latent [B, C, H, W].

    step: what quantized values are multiplied with; y is divided by it before, or multiplied with
    `gain` where there is one (both broadcastable); scale, mean of the first spatial step; shared:
    what the later steps see besides the known values.
    """

    step: Tensor
    scale: Tensor
    mean: Tensor
    shared: Tensor
    gain: Tensor | None = None


class LatentCoder(nn.Module, ABC):
    """Codes one latent y [B, C, H, W] in `steps` spatial steps.

    Below `skip` a predicted scale means that the value is not coded.
    """

    density: Density = GAUSSIAN

    def __init__(self, name: str, channels: int, hyper: int, steps: int, skip: float) -> None:
        super().__init__()
        self.name, self.channels, self.hyper_channels = name, channels, hyper
        self.steps, self.skip = steps, skip

    # What a codec's networks answer; see `_code` for when they are asked.

    @abstractmethod
    def encode_hyper(self, y: Tensor) -> Tensor:
        """y, padded to multiples of 4 -> hyper-latent z at a quarter of its size."""

    @abstractmethod
    def hyper_density(self, quality: Tensor | None) -> FactorizedDensity:
        """The density of z."""

    @abstractmethod
    def predict(self, z_hat: Tensor, priors: list[Tensor], size: tuple[int, int]) -> Prediction:
        """Decoded z (of the padded size), temporal priors -> the prediction, of `size`."""

    @abstractmethod
    def refine(self, k: int, known: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, mean) for step k >= 1; known: quantized y/step so far, 0 elsewhere."""

    def positive(self, scale: Tensor) -> Tensor:
        """Predicted scales as the density takes them."""
        return scale

    def forward(
        self,
        coder: EntropyCoder,
        y: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None = None,
    ) -> Tensor:
        """Code y (None when decoding) of spatial `size`; returns quantized y [B, C, H, W].

        priors: tensors [B, ., H, W] that the decoder has too; with none (intra) the batch is y's.
        quality: indices [B], for densities that depend on them.
        """
        # Entropy parameters are float32 in every mode: encoder and decoder must agree on them.
        with torch.autocast(_device(self).type, enabled=False):
            y = None if y is None else y.float()
            priors = [p.float() for p in priors]
            return self._code(coder, y, priors, size, quality)

    def _code(
        self,
        coder: EntropyCoder,
        y: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None,
    ) -> Tensor:
        height, width = size
        hyper_size = (-(-height // 4), -(-width // 4))
        z = None if y is None else self.encode_hyper(pad_to_multiple(y, 4))
        z_hat = coder.code_factorized(
            f"{self.name}_z", z, self.hyper_density(quality), (1, self.hyper_channels, *hyper_size)
        )
        told = self.predict(z_hat, priors, size)
        scale, mean = told.scale, told.mean
        scaled = None
        if y is not None:
            scaled = y / told.step if told.gain is None else y * told.gain
        masks = step_masks(self.steps, height, width, mean.device)
        known = torch.zeros_like(mean)
        for k in range(self.steps):
            if k:
                scale, mean = self.refine(k, known, told.shared)
            mask = masks[k]
            coded = coder.code_latent(
                f"{self.name}_y",
                None if scaled is None else self._gather(scaled, mask),
                self._gather(mean, mask),
                self.positive(self._gather(scale, mask)),
                self.density,
                self.skip,
            )
            known = known + self._scatter(coded, mask)
        return known * told.step

    def _gather(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C/groups, H, W]: at each position the group that this step codes."""
        groups = x.unflatten(1, (self.steps, -1))
        return torch.where(mask, groups, 0.0).sum(1)

    def _scatter(self, x: Tensor, mask: Tensor) -> Tensor:
        """Inverse of `_gather`, zeros elsewhere: [B, C/groups, H, W] -> [B, C, H, W]."""
        return torch.where(mask, x[:, None], 0.0).flatten(1, 2)


class PriorLatentCoder(LatentCoder):
    """CMFR's entropy model, of intra, motion and residual latents (its layers are ours).

    hyper: channels of the hyper-latent z (two strided convolutions below y); prior_channels: of
    all temporal priors together.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        name: str,
        channels: int,
        hyper: int,
        prior_channels: int,
        steps: int,
    ) -> None:
        super().__init__(name, channels, hyper, steps, cfg.skip_scale)
        width = -(-4 * channels // 3 // 8) * 8
        self.hyper_encoder = nn.Sequential(
            conv(channels, channels), nn.LeakyReLU(0.1),
            conv(channels, hyper, stride=2), nn.LeakyReLU(0.1),
            conv(hyper, hyper, stride=2),
        )  # fmt: skip
        self.bottleneck = HyperBottleneck(hyper)
        self.hyper_decoder = nn.Sequential(
            upsample(hyper, channels), nn.LeakyReLU(0.1),
            upsample(channels, channels), nn.LeakyReLU(0.1),
        )  # fmt: skip
        self.fusion = nn.Sequential(
            conv(channels + prior_channels, width, 1), block(cfg, width),
            nn.LeakyReLU(0.1), conv(width, 3 * channels, 1, gain=0.1),
        )  # fmt: skip
        self.adaptors = nn.ModuleList(conv(3 * channels, width, 1) for _ in range(steps - 1))
        self.spatial = nn.Sequential(
            block(cfg, width), nn.LeakyReLU(0.1), conv(width, 2 * channels, 1, gain=0.1)
        ) if steps > 1 else nn.Identity()  # fmt: skip

    def encode_hyper(self, y: Tensor) -> Tensor:
        return self.hyper_encoder(y)

    def hyper_density(self, quality: Tensor | None) -> FactorizedDensity:
        return self.bottleneck

    def predict(self, z_hat: Tensor, priors: list[Tensor], size: tuple[int, int]) -> Prediction:
        hyper = self.hyper_decoder(z_hat)[..., : size[0], : size[1]]
        step, scale, mean = self.fusion(torch.cat([hyper, *priors], 1)).chunk(3, 1)
        # Spatially adaptive quantization step, bounded to [1/2, 2].
        step = torch.exp2(torch.tanh(step))
        return Prediction(step, scale, mean, torch.cat([scale, mean], 1))

    def refine(self, k: int, known: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        context = self.adaptors[k - 1](torch.cat([known, shared], 1))
        scale, mean = self.spatial(context).chunk(2, 1)
        return scale, mean

    def positive(self, scale: Tensor) -> Tensor:
        return F.softplus(scale) + 0.04


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
