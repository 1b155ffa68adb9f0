"""The loss of motion estimation alone: how well its flow predicts one source frame from another."""

from __future__ import annotations

import torch
from torch import Tensor

from cmfr.models.cmfr.motion_estimation import MotionEstimation, pyramid
from cmfr.nn.layers import half_samples, resize_flow, warp


def flow_loss(
    estimation: MotionEstimation, x: Tensor, reference: Tensor, smoothness: float
) -> tuple[Tensor, Tensor]:
    """Scalar loss, and the reference warped with the finest flow [B, 3, H, W].

    Every level is measured on pictures of its own resolution, the last on the frames: 10 log10 of
    the mean squared error of the prediction (dB, so that still clips do not vanish beside moving
    ones), plus `smoothness` times the mean difference of neighboring vectors in pixels. Levels
    but the last count half.
    """
    strides = [*estimation.strides[:-1], 1]
    loss = x.new_zeros(())
    for flow, target, source in zip(
        estimation.all_levels(x, reference),
        pyramid(x, strides),
        pyramid(reference, strides),
        strict=True,
    ):
        flow_there = resize_flow(flow, target.shape[3] / flow.shape[3])
        prediction = warp(half_samples(source), flow_there, 2)
        error = (prediction - target).square().mean((1, 2, 3))
        roughness = flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()
        level = 10 * torch.log10(error + 1e-5).mean() + smoothness * roughness
        loss = loss + (1.0 if target is x else 0.5) * level
    return loss, prediction
