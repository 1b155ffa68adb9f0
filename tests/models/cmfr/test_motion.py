import pytest
import torch

from cmfr.models.cmfr.motion import (
    USUAL_SHARE,
    BlendedMotion,
    MotionRefiner,
    best_older_share,
)
from cmfr.models.presets import PRESETS
from cmfr.models.state import LatentReference
from cmfr.nn.layers import half_samples, warp


def test_one_flow_is_a_plain_warp():
    x, flow = torch.rand(2, 3, 8, 10), torch.randn(2, 2, 8, 10)
    motion = BlendedMotion(flow[:, None])
    assert torch.equal(motion.mean, flow)
    assert torch.equal(motion.warp(x), warp(x, flow))


def test_hypotheses_are_blended_by_their_weights():
    torch.manual_seed(0)
    x, flows = torch.rand(2, 3, 8, 10), torch.randn(2, 4, 2, 8, 10)
    logits = torch.randn(2, 4, 8, 10)
    motion = BlendedMotion(flows, logits)
    weights = logits.softmax(1)
    expected = sum(warp(x, flows[:, k]) * weights[:, k : k + 1] for k in range(4))
    assert torch.allclose(motion.warp(x), expected, atol=1e-6)
    mean = sum(flows[:, k] * weights[:, k : k + 1] for k in range(4))
    assert torch.allclose(motion.mean, mean, atol=1e-6)


def test_the_last_flows_move_the_older_frame():
    torch.manual_seed(0)
    x, older, flows = torch.rand(2, 3, 8, 10), torch.rand(2, 3, 8, 10), torch.randn(2, 3, 2, 8, 10)
    logits = torch.randn(2, 3, 8, 10)
    motion = BlendedMotion(flows, logits, older_flows=1)
    weights = logits.softmax(1)
    sources = (x, x, older)
    expected = sum(warp(sources[k], flows[:, k]) * weights[:, k : k + 1] for k in range(3))
    share = motion.older_share
    blended = torch.lerp(motion.to_reference.warp(x), motion.to_older.warp(older), share)
    assert torch.allclose(blended, expected, atol=1e-6)
    assert motion.resized(2).older_flows == 1
    nearer = motion.to_reference
    alone = BlendedMotion(flows[:, :2], logits[:, :2])
    assert torch.equal(nearer.warp(x), alone.warp(x))
    assert torch.equal(nearer.mean, alone.mean)


def test_the_refiner_leads_on_to_the_older_frame():
    """Right of an edge things moved by 2 pixels a frame to the left, elsewhere by 1."""
    torch.manual_seed(0)
    cfg = PRESETS["cmfr-nano"]
    refiner, stride = MotionRefiner(cfg), cfg.feature_stride
    carried = torch.zeros(1, 2, 16, 24)
    carried[:, 0] = 1.0
    carried[:, 0, :, 12:] = 2.0
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0] = 3.0
    frame = torch.rand(1, 3, 16 * stride, 24 * stride)
    feature = torch.zeros(1, cfg.context_channels[0], 16, 24)
    previous = LatentReference(*[torch.empty(0)] * 3, carried)
    with torch.no_grad():
        motion = refiner(flow, previous, (frame, frame), half_samples(frame), feature)
    assert motion.older_flows == cfg.motion.refiner.older == 1
    assert torch.allclose(motion.flows[:, :-1, 0], torch.tensor(3.0), atol=0.3)
    # at column 8 the flow leads to column 11, at column 9 across the edge
    assert torch.allclose(motion.flows[:, -1, 0, :, :9], torch.tensor(4.0), atol=0.3)
    assert torch.allclose(motion.flows[:, -1, 0, :, 9:], torch.tensor(5.0), atol=0.3)
    # and counts as much as it usually does
    assert torch.allclose(motion.older_share, torch.tensor(USUAL_SHARE), atol=0.01)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_older_frames_weight_starts_from_what_was_best_before(share):
    torch.manual_seed(0)
    cfg = PRESETS["cmfr-nano"]
    refiner, stride = MotionRefiner(cfg), cfg.feature_stride
    flow, feature = torch.zeros(1, 2, 16, 24), torch.zeros(1, cfg.context_channels[0], 16, 24)
    frame = torch.rand(1, 3, 16 * stride, 24 * stride)
    before = torch.full((1, 1, 2 * stride, 3 * stride), share)
    previous = LatentReference(*[torch.empty(0)] * 3, flow, before)
    with torch.no_grad():
        motion = refiner(flow, previous, (frame, frame), half_samples(frame), feature)
    expected = min(max(share, 0.02), 0.98)
    assert torch.allclose(motion.older_share, torch.tensor(expected), atol=0.01)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_best_share_is_that_of_least_squares(share):
    torch.manual_seed(0)
    nearer, older = torch.rand(2, 2, 3, 48, 64)
    x = torch.lerp(nearer, older, share)
    assert torch.allclose(best_older_share(x, nearer, older), torch.tensor(share), atol=1e-3)
    # windows: the left half is of one, the right half of the other
    x = torch.cat([nearer[..., :32], older[..., 32:]], 3)
    found = best_older_share(x, nearer, older)
    assert (
        found.shape == (2, 1, 6, 8) and found[..., :2].max() < 1e-3 < 0.999 < found[..., 6:].min()
    )
    # two equal predictions say nothing
    assert torch.allclose(best_older_share(x, nearer, nearer), torch.tensor(USUAL_SHARE))


def test_resized_motion_points_to_the_same_places():
    flows = torch.full((1, 2, 2, 4, 4), 1.5)
    motion = BlendedMotion(flows, torch.zeros(1, 2, 4, 4)).resized(2)
    assert motion.flows.shape == (1, 2, 2, 8, 8)
    assert torch.allclose(motion.flows, torch.tensor(3.0))
    x = torch.rand(1, 3, 8, 8)
    shifted = motion.warp(half_samples(x), 2)[..., :5, :5]
    assert torch.allclose(shifted, x[..., 3:, 3:], atol=1e-5)


@pytest.mark.parametrize("finer", [1, 2])
def test_flows_one_by_one_are_the_same_as_together(finer):
    torch.manual_seed(0)
    motion = BlendedMotion(torch.randn(2, 4, 2, 24, 40) * 3, torch.randn(2, 4, 24, 40))
    x = torch.rand(2, 3, 24 * finer, 40 * finer)
    repeated = x[:, None].expand(-1, 4, -1, -1, -1).flatten(0, 1)
    warped = warp(repeated, motion.flows.flatten(0, 1), finer).unflatten(0, (-1, 4))
    assert torch.equal(motion.warp(x, finer), (warped * motion.weights[:, :, None]).sum(1))
