import pytest
import torch

from cmfr.models.cmfr.motion import BlendedMotion, MotionRefiner
from cmfr.models.presets import PRESETS
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
    motion = BlendedMotion(flows, logits, older=1)
    weights = logits.softmax(1)
    sources = (x, x, older)
    expected = sum(warp(sources[k], flows[:, k]) * weights[:, k : k + 1] for k in range(3))
    assert torch.allclose(motion.warp(x, older=older), expected, atol=1e-6)
    assert motion.resized(2).older == 1
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
    with torch.no_grad():
        motion = refiner(flow, carried, (frame, frame), half_samples(frame), feature)
    assert motion.older == cfg.motion.refiner.older == 1
    assert torch.allclose(motion.flows[:, :-1, 0], torch.tensor(3.0), atol=0.3)
    # at column 8 the flow leads to column 11, at column 9 across the edge
    assert torch.allclose(motion.flows[:, -1, 0, :, :9], torch.tensor(4.0), atol=0.3)
    assert torch.allclose(motion.flows[:, -1, 0, :, 9:], torch.tensor(5.0), atol=0.3)
    assert float(motion.weights[:, -1:].max()) < 0.2  # and count less at first


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
