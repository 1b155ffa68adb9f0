"""The entropy model of one latent: hyperprior, temporal prior and stepwise spatial prior.

    z = hyper_encoder(y) -> code z -> hyper_decoder(z) = h
    (step, scale, mean) = predict(h, temporal priors)          all positions at once
    for k in the spatial steps:                                1, 2 (checkerboard) or 4 (quadtree)
        code the k-th part of y/step; refine (scale, mean) of the rest from what is known

`LatentCoder` is this order of things, for CMFR and DCVC alike; models/cmfr/latent.py and
models/dcvc/latent.py have their networks for it.

The four-step split is DCVC-DC's: channels in four groups, each taking the four positions of a 2x2
cell in another order, so that every step sees some channels at every position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from cmfr.nn.coder import EntropyCoder
from cmfr.nn.densities import GAUSSIAN, Density, HyperDensity
from cmfr.nn.layers import pad_to_multiple
from cmfr.nn.portable import encoder_only

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
    `gain` where there is one (both broadcastable).
    scale, mean: of the symbols of the first spatial step.
    shared: what the later steps see besides the known values.
    """

    step: Tensor
    scale: Tensor
    mean: Tensor
    shared: Tensor
    gain: Tensor | None = None


class LatentCoder(nn.Module, ABC):
    """Codes one latent y [B, C, H, W] in `steps` spatial steps.

    hyper: channels of its hyper-latent.
    skip: below it a predicted scale means that the value is not coded.
    stride: pixels per position.
    rdoq: how symbols are chosen, see `coder.quantized`.
    """

    density: Density = GAUSSIAN

    def __init__(
        self,
        name: str,
        channels: int,
        hyper: int,
        steps: int,
        skip: float,
        stride: int,
        rdoq: float = 0.0,
    ) -> None:
        super().__init__()
        self.name, self.channels, self.hyper_channels = name, channels, hyper
        self.steps, self.skip, self.stride, self.rdoq = steps, skip, stride, rdoq

    # What a codec's networks answer; see `_code` for when they are asked.

    @abstractmethod
    def encode_hyper(self, y: Tensor, quality: Tensor | None) -> Tensor:
        """y, padded to multiples of 4 -> hyper-latent z at a quarter of its size."""

    @abstractmethod
    def hyper_density(self, quality: Tensor | None) -> HyperDensity:
        """The density of z."""

    @abstractmethod
    def predict(
        self,
        z_hat: Tensor | None,
        priors: list[Tensor],
        size: tuple[int, int],
        quality: Tensor | None,
    ) -> Prediction:
        """Decoded z (of the padded size), temporal priors -> the prediction, of `size`."""

    @abstractmethod
    def refine(self, k: int, known: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """(scale, mean) of the symbols of step k >= 1.

        known: decoded values so far [B, C, H, W], in quantization steps (mean + symbol; the mean
        where nothing is coded), 0 elsewhere.
        """

    def scale_activation(self, scale: Tensor) -> Tensor:
        """Predicted scales as the density takes them."""
        return scale

    def symbols(self, height: int, width: int) -> int:
        """Symbols of a frame of this size, hyper-latent and skipped ones among them."""
        height, width = height // self.stride, width // self.stride
        hyper = -(-height // 4) * -(-width // 4) * self.hyper_channels
        return height * width * self.channels + hyper

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
        quality: indices [B], for entropy models that know it.
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
        z_hat = self._code_hyper(coder, y, size, quality) if self.hyper_channels else None
        prediction = self.predict(z_hat, priors, size, quality)
        scale, mean = prediction.scale, prediction.mean
        scaled = None
        if y is not None:
            scaled = y / prediction.step if prediction.gain is None else y * prediction.gain
        masks = step_masks(self.steps, height, width, mean.device)
        known = torch.zeros_like(mean)
        for k in range(self.steps):
            if k:
                scale, mean = self.refine(k, known, prediction)
            mask = masks[k]
            coded = coder.code_latent(
                f"{self.name}_y",
                None if scaled is None else self._gather(scaled, mask),
                self._gather(mean, mask),
                self.scale_activation(self._gather(scale, mask)),
                self.density,
                self.skip,
                self.rdoq,
            )
            known = known + self._scatter(coded, mask)
        return known * prediction.step

    def _code_hyper(
        self, coder: EntropyCoder, y: Tensor | None, size: tuple[int, int], quality: Tensor | None
    ) -> Tensor:
        with encoder_only():
            z = None if y is None else self.encode_hyper(pad_to_multiple(y, 4), quality)
        shape = (1, self.hyper_channels, -(-size[0] // 4), -(-size[1] // 4))
        return coder.code_factorized(f"{self.name}_z", z, self.hyper_density(quality), shape)

    def _gather(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C/groups, H, W]: at each position the group that this step codes."""
        groups = x.unflatten(1, (self.steps, -1))
        return torch.where(mask, groups, 0.0).sum(1)

    def _scatter(self, x: Tensor, mask: Tensor) -> Tensor:
        """Inverse of `_gather`, zeros elsewhere: [B, C/groups, H, W] -> [B, C, H, W]."""
        return torch.where(mask, x[:, None], 0.0).flatten(1, 2)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
