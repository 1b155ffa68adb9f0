"""The configuration of DCVC-DC and DCVC-FM."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cmfr.config import CodecConfig, Strict, Stride, Width, check_strides
from cmfr.utils.errors import UserError

LATENT_STRIDE = 16  # of all of DCVC's latents
_LAMBDAS = {"dc": (85.0, 840.0), "fm": (1.0, 768.0)}  # as published, of the P-frames


class EstimationLevel(Strict):
    """One level of motion estimation (SpyNet). The defaults are SpyNet's.

    stride: the level works on frames reduced by this factor.
    kernel: size of its convolutions.
    widths: of its convolutions, ``len(widths) + 1`` of them, the last giving the two flow
    components.
    """

    stride: Stride
    kernel: int = Field(7, ge=1, le=15)
    widths: tuple[Width, ...] = Field((32, 64, 32, 16), max_length=16)


class DCVCConfig(CodecConfig):
    """DCVC-DC (CVPR 2023) or DCVC-FM (CVPR 2024); the defaults are the published widths.

    generation: whose blocks, quality gains and I-frame parameters.
    quality_gains: what lies between the stored gains of DCVC-DC's four rate points at the other 60
    qualities: ``ends`` draws a geometric line from the first to the last, as the published code
    does when it codes 64 qualities; ``anchors`` goes through all four, which are then exactly
    qualities 0, 21, 42 and 63 (the published rate points), and is what trains all of them. DCVC-FM
    has no such choice.
    estimation: levels of SpyNet.
    context_channels: at 1, 1/2 and 1/4.
    motion_channels: width of the motion codec, its latent and its hyper-latent.
    hyper, intra_hyper: of the hyper-latents.
    unet: widths of a U-Net's three levels.
    """

    family: Literal["dcvc"]
    generation: Literal["dc", "fm"]
    quality_gains: Literal["ends", "anchors"] = "ends"
    estimation: tuple[EstimationLevel, ...] = Field(max_length=16)
    context_channels: tuple[Width, Width, Width] = (48, 64, 96)
    motion_channels: Width = 64
    latent: Width = 128
    hyper: Width
    decoder_channels: Width = 32
    unet: tuple[Width, Width, Width] = (32, 64, 128)
    intra_channels: tuple[Width, Width, Width] = (128, 192, 256)
    intra_hyper: Width
    intra_refine: Width = 16

    @model_validator(mode="before")
    @classmethod
    def _published_lambdas(cls, values: Any) -> Any:
        """Also of weights files that do not say them yet."""
        if isinstance(values, dict) and (given := _LAMBDAS.get(values.get("generation", ""))):
            values = {"lambda_range": given, **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DCVCConfig:
        strides = [level.stride for level in self.estimation]
        check_strides("estimation", strides, self.frame_multiple)
        if strides[-1] != 1:
            raise UserError("estimation: the last level must work at stride 1")
        for name in ("motion_channels", "latent"):
            if getattr(self, name) % 4:
                raise UserError(f"{name} = {getattr(self, name)} is no multiple of 4")
        if self.intra_channels[2] % 4:
            raise UserError(f"intra_channels: {self.intra_channels[2]} is no multiple of 4")
        if self.generation == "fm" and self.quality_gains != "ends":
            raise UserError("quality_gains: DCVC-FM has only two stored gains, its ends")
        return self
