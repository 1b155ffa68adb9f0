import pytest
import torch

from cmfr.config import LatentConfig
from cmfr.models.cmfr.latent import CMFRLatentCoder, calibrate
from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.latent_coder import step_masks


def coder_of(config, steps):
    torch.manual_seed(0)
    section = LatentConfig(latent=8, hyper=4, prior=8, spatial_steps=steps)
    return CMFRLatentCoder(config, "y", section, 3).eval()


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


def test_calibration_measures_the_spread_of_every_channel(nano_config):
    coder = coder_of(nano_config, 4)
    spread = torch.logspace(-2, 1, 8)
    y = torch.randn(2, 8, 32, 32) * spread[:, None, None]
    quality = torch.tensor([30, 50])

    def run():
        coder(BitEstimator(False), y, [torch.zeros(2, 3, 32, 32)], (32, 32), quality)

    calibrate([coder], run)
    assert torch.allclose(coder.log_spread.exp(), spread, rtol=0.1)
    assert not coder._forward_pre_hooks  # nothing is measured any more


def test_one_prediction_serves_all_qualities(nano_config):
    """Twice the gain: symbols and scale are twice as large, a bit more each, half the error."""
    coder = coder_of(nano_config, 1)
    with torch.no_grad():
        coder.gain.log_gain.copy_(torch.linspace(2, 2 + 7 * 0.6931, 8)[:, None].expand(-1, 8))
    torch.manual_seed(0)
    y = torch.randn(1, 8, 32, 32)
    prior = [torch.zeros(1, 3, 32, 32)]
    bits, errors = [], []
    for quality in (0, 9, 18):  # anchors
        estimator = BitEstimator(False)
        with torch.no_grad():
            y_hat = coder(estimator, y, prior, (32, 32), torch.tensor([quality]))
        bits.append(float(estimator.bits["y_y"]) / y.numel())
        errors.append(float((y_hat - y).square().mean().sqrt()))
    assert bits[1] - bits[0] == pytest.approx(1, abs=0.1)
    assert bits[2] - bits[1] == pytest.approx(1, abs=0.05)
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
