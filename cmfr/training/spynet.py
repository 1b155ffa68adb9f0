"""Initialize motion estimation from SpyNet weights given as a folder of .npy arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cmfr.models.dcvc.spynet import SpyNet
from cmfr.models.video_model import VideoModel
from cmfr.utils.errors import UserError
from cmfr.video.color import ycbcr_to_rgb


def load_spynet(model: VideoModel, folder: Path) -> None:
    """Initialize the coarsest estimation levels, three at most, from SpyNet arrays
    (`modelL1_F-1-weight.npy` ...). The arrays are for RGB: with YCbCr inside, the conversion is
    folded into the first layer.
    """
    color = torch.eye(3)
    shift = torch.zeros(3)
    if model.cfg.color == "ycbcr":
        basis = torch.cat([torch.eye(3), torch.zeros(1, 3)])[:, :, None, None]
        rgb = ycbcr_to_rgb(basis, "bt709", "full")[:, :, 0, 0]
        shift = rgb[3]
        color = (rgb[:3] - shift).T  # rgb = color @ ycbcr + shift
    with torch.no_grad():
        estimation = model.inter.motion_estimation
        if not isinstance(estimation, SpyNet):
            raise UserError(f"spynet: {model.cfg.name} has no SpyNet")
        for number, level in enumerate(list(estimation.levels)[:3], 1):
            layers = [layer for layer in level.children() if isinstance(layer, torch.nn.Conv2d)]
            if layers[0].kernel_size != (7, 7):  # DCVC-FM's finer levels are not SpyNet's
                break
            for position, layer in enumerate(layers, 1):
                arrays = {}
                for kind in ("weight", "bias"):
                    path = folder / f"modelL{number}_F-{position}-{kind}.npy"
                    if not path.is_file():
                        raise FileNotFoundError(f"spynet: no file {path}")
                    arrays[kind] = torch.from_numpy(np.load(path, allow_pickle=False)).float()
                weight, bias = arrays["weight"], arrays["bias"]
                if weight.shape != layer.weight.shape:
                    raise UserError(
                        f"spynet: {folder} level {number} layer {position} has shape "
                        f"{tuple(weight.shape)}, the model {tuple(layer.weight.shape)}"
                    )
                if position == 1:
                    for start in (0, 3):
                        part = weight[:, start : start + 3].clone()
                        bias = bias + torch.einsum("oihw,i->o", part, shift)
                        weight[:, start : start + 3] = torch.einsum("oihw,ij->ojhw", part, color)
                layer.weight.copy_(weight)
                assert layer.bias is not None
                layer.bias.copy_(bias)
