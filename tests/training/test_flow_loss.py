import torch
from conftest import moving_clip

from cmfr.models.cmfr.config import MatchingLevel
from cmfr.models.cmfr.motion_estimation import MotionEstimation
from cmfr.nn.layers import warp
from cmfr.training.flow_loss import flow_loss

LEVELS = (
    MatchingLevel(stride=2, radius=2, widths=(8,)),
    MatchingLevel(stride=1, radius=0, widths=(8,)),
)


def test_loss_is_the_error_of_the_prediction_in_db():
    torch.manual_seed(0)
    estimation = MotionEstimation(LEVELS, 2)
    reference, x = moving_clip(2, 64, 64).unbind(1)
    loss, prediction = flow_loss(estimation, x, reference, 0.0)
    finest = 10 * torch.log10((prediction - x).square().mean() + 1e-5)
    assert finest < loss * 0.6  # negative decibels: the coarser level adds less
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for n, p in estimation.named_parameters()
               if n.endswith("2.weight"))  # fmt: skip


def test_smoothness_counts_rough_flows():
    torch.manual_seed(0)
    estimation = MotionEstimation(LEVELS, 2)
    reference, x = moving_clip(2, 64, 64).unbind(1)
    (smooth, _), (rough, _) = (flow_loss(estimation, x, reference, s) for s in (0.0, 10.0))
    flow = estimation(x, reference)
    roughness = flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()
    assert rough - smooth >= 10 * roughness


def test_an_untrained_search_finds_motion():
    """The pan of the clip is (2, 1) pixels a frame."""
    estimation = MotionEstimation(LEVELS, 2)
    reference, x = moving_clip(2, 64, 96).unbind(1)
    with torch.no_grad():
        flow = estimation(x, reference)
        full = torch.nn.functional.interpolate(flow, scale_factor=2) * 2
    still, moved = ((p - x).square().mean() for p in (reference, warp(reference, full)))
    assert moved < still / 4
    assert (full[..., 16:-16, 16:-16].mean((2, 3)) - torch.tensor([2.0, 1.0])).abs().max() < 0.5
