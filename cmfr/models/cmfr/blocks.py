"""CMFR's residual block."""

from __future__ import annotations

from torch import nn

from cmfr.models.cmfr.config import CMFRConfig
from cmfr.nn.layers import DepthwiseBlock, ResidualBlock


def block(cfg: CMFRConfig, channels: int) -> nn.Module:
    """The residual block that the config asks for, C -> C."""
    if cfg.block == "residual":
        return ResidualBlock(channels, cfg.bottleneck)
    return DepthwiseBlock(channels, hidden=max(8, int(2 * channels * cfg.bottleneck)))
