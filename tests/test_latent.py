import pytest
import torch

from cmfr.config import LatentConfig
from cmfr.entropy import BitEstimator
from cmfr.latent import PriorLatentCoder, step_masks


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_each_channel_group_is_coded_once_at_every_position(steps, size):
    masks = step_masks(steps, *size, torch.device("cpu"))
    assert masks.shape == (steps, steps, 1, *size)
    assert (masks.sum(0) == 1).all()  # over the steps: each (group, position) once
    assert (masks.sum(1) == 1).all()  # over the groups: one group at each position in a step


def coder_of(config, steps):
    torch.manual_seed(0)
    section = LatentConfig(latent=8, hyper=4, prior=8, spatial_steps=steps)
    return PriorLatentCoder(config, "y", section, 3).eval()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_gather_and_scatter_are_inverse(nano_config, steps):
    coder = coder_of(nano_config, steps)
    y = torch.randn(2, 8, 5, 6)
    parts = [
        coder._scatter(coder._gather(y, mask), mask)
        for mask in step_masks(steps, 5, 6, torch.device("cpu"))
    ]
    assert torch.equal(sum(parts), y)


def test_a_step_depends_only_on_earlier_steps(nano_config):
    """Changing what the last step codes changes nothing that was coded before it."""
    coder = coder_of(nano_config, 4)
    prior = torch.randn(1, 3, 8, 8)
    last = step_masks(4, 8, 8, torch.device("cpu"))[3].reshape(4, 1, 8, 8)
    last = last.expand(4, 2, 8, 8).reshape(1, 8, 8, 8)
    y = torch.randn(1, 8, 8, 8) * 5
    with torch.no_grad():
        coder.hyper_encoder[4].weight.zero_()  # the hyperprior would see the change
        quality = torch.tensor([40])
        a = coder(BitEstimator(False), y, [prior], (8, 8), quality)
        b = coder(BitEstimator(False), torch.where(last, y + 9, y), [prior], (8, 8), quality)
    assert torch.equal(a[~last], b[~last])
    assert not torch.equal(a[last], b[last])
