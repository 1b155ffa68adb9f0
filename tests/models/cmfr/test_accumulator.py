import pytest
import torch
from conftest import moving_clip

from cmfr.models.cmfr.accumulator import ReferenceAccumulator
from cmfr.models.presets import PRESETS
from cmfr.nn.layers import half_samples


@pytest.fixture
def accumulator():
    return ReferenceAccumulator(PRESETS["cmfr-nano"])


def still(samples):
    return samples.new_zeros(len(samples), 2, samples.shape[2] // 8, samples.shape[3] // 8)


def test_noise_of_still_pictures_averages_out(accumulator):
    clean = half_samples(moving_clip(1, 64, 64)[:, 0])
    generator = torch.Generator().manual_seed(0)
    gathered, errors = clean, []
    with torch.no_grad():
        for position in range(1, 9):
            samples = clean + 0.02 * torch.randn(clean.shape, generator=generator)
            gathered = accumulator(samples, gathered, still(samples), position)
            errors.append(float((gathered - clean).square().mean().sqrt()))
    assert max(errors) < 0.75 * 0.02


def test_what_was_gathered_moves_with_the_motion(accumulator):
    x = moving_clip(1, 64, 64)[:, 0]
    moved = torch.roll(x, (4, 8), (2, 3))  # rows down, columns to the right
    flow = still(half_samples(x))
    flow[:, 0], flow[:, 1] = -8 / accumulator.stride, -4 / accumulator.stride
    with torch.no_grad():
        samples = half_samples(moved)
        found = accumulator(samples, half_samples(x), flow, 1)
    inside = (..., slice(16, -16), slice(24, -16))
    assert torch.allclose(found[inside], samples[inside], atol=1e-3)


def test_what_disagrees_counts_less(accumulator):
    samples = half_samples(moving_clip(1, 64, 64)[:, 0])
    with torch.no_grad():
        near, far = (
            (accumulator(samples, samples + by, still(samples), 1) - samples).mean() / by
            for by in (0.01, 0.3)
        )
    assert near > 0.3 and far < 0.1 * near


def test_it_counts_more_after_frames_of_low_quality(accumulator):
    offsets = PRESETS["cmfr-nano"].hierarchy.quality_offsets
    samples = half_samples(moving_clip(1, 64, 64)[:, 0])
    with torch.no_grad():
        changes = [
            float((accumulator(samples, samples + 0.01, still(samples), p) - samples).mean())
            for p in range(len(offsets))
        ]
    assert changes[offsets.index(min(offsets))] > 1.2 * changes[offsets.index(max(offsets))]


def test_where_nothing_is_predicted_there_is_none():
    cfg = PRESETS["cmfr-nano"]
    assert cfg.accumulates
    assert not cfg.model_copy(update={"residual": "none", "motion_refiner": False}).accumulates
    motion = cfg.motion.model_copy(update={"accumulated": False})
    assert not cfg.model_copy(update={"motion": motion}).accumulates
