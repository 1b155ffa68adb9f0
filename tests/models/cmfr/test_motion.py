import pytest
import torch

from cmfr.models.cmfr.motion import BlendedMotion
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
