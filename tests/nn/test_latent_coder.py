import pytest
import torch

from cmfr.nn.latent_coder import step_masks


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_each_channel_group_is_coded_once_at_every_position(steps, size):
    masks = step_masks(steps, *size, torch.device("cpu"))
    assert masks.shape == (steps, steps, 1, *size)
    assert (masks.sum(0) == 1).all()  # over the steps: each (group, position) once
    assert (masks.sum(1) == 1).all()  # over the groups: one group at each position in a step
