import math

import pytest
import torch

from cmfr.entropy import (
    GAUSSIAN_TABLES,
    SCALE_LEVELS,
    SCALE_MAX,
    SCALE_MIN,
    BitEstimator,
    BitReader,
    BitWriter,
    DecodeMismatch,
    HyperBottleneck,
    gaussian_bits,
    scale_index,
)

SHAPE = (1, 6, 9, 7)


def latents(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(torch.rand(SHAPE, generator=generator) * 6 - 2.5)
    mean = torch.randn(SHAPE, generator=generator)
    values = mean + scale * torch.randn(SHAPE, generator=generator)
    return values, mean, scale


def coded_by(coder, values, mean, scale, z, model, skip=0.15):
    z_hat = coder.code_factorized("z", z, model, (1, 4, 3, 5))
    return z_hat, coder.code_gaussian("y", values, mean, scale, skip)


def trained_bottleneck():
    torch.manual_seed(1)
    model = HyperBottleneck(4)
    with torch.no_grad():
        for bias in model.biases:
            bias.mul_(2)
    return model


def test_written_symbols_come_back_and_cost_what_was_estimated():
    values, mean, scale = latents()
    z, model = torch.randn(1, 4, 3, 5) * 4, trained_bottleneck()
    estimator, writer = BitEstimator(training=False), BitWriter()
    with torch.no_grad():
        estimated = coded_by(estimator, values, mean, scale, z, model)
        written = coded_by(writer, values, mean, scale, z, model)
        payload = writer.finish()
        reader = BitReader(payload, 1000, torch.device("cpu"))
        read = coded_by(reader, None, mean, scale, None, model)
    reader.finish()
    for a, b, c in zip(estimated, written, read, strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)
    bits = float(sum(estimator.bits.values()))
    assert 0 <= 8 * len(payload) - bits < 100  # checksum, coder state, word alignment


def test_values_of_negligible_scale_cost_nothing():
    values, mean, scale = latents()
    low = torch.full_like(scale, 0.1)
    writer = BitWriter()
    z, model = torch.zeros(1, 4, 3, 5), trained_bottleneck()
    with torch.no_grad():
        _, y_hat = coded_by(writer, values, mean, low, z, model)
    assert torch.equal(y_hat, mean)
    reader = BitReader(writer.finish(), 1000, torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(coded_by(reader, None, mean, low, None, model)[1], mean)
    reader.finish()


def test_outliers_far_beyond_the_table_survive():
    mean = torch.zeros(1, 2, 2, 2)
    values = torch.tensor([1000.0, -5000, 3, 0, 70000, -1, 2, 9]).reshape(1, 2, 2, 2)
    scale = torch.full_like(mean, 0.5)
    model, z = trained_bottleneck(), torch.zeros(1, 4, 3, 5)
    writer = BitWriter()
    with torch.no_grad():
        coded_by(writer, values, mean, scale, z, model)
        reader = BitReader(writer.finish(), 1000, torch.device("cpu"))
        assert torch.equal(coded_by(reader, None, mean, scale, None, model)[1], values)


def test_other_numbers_at_the_decoder_are_an_error_not_noise():
    values, mean, scale = latents()
    z, model = torch.randn(1, 4, 3, 5) * 4, trained_bottleneck()
    writer = BitWriter()
    with torch.no_grad():
        coded_by(writer, values, mean, scale, z, model)
        reader = BitReader(writer.finish(), 1000, torch.device("cpu"))
        coded_by(reader, None, mean, scale * 1.5, None, model)
    with pytest.raises(DecodeMismatch):
        reader.finish()


def test_garbage_payload_is_refused():
    for payload in (b"", b"abc", b"abcdefg"):
        with pytest.raises(ValueError, match="no entropy-coded frame"):
            BitReader(payload, 10, torch.device("cpu"))


def test_scale_table_is_the_nearest_in_the_log_domain():
    table = SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (torch.arange(SCALE_LEVELS) / (SCALE_LEVELS - 1))
    assert torch.equal(scale_index(table), torch.arange(SCALE_LEVELS).int())
    assert scale_index(torch.tensor([1e-9, 1e9])).tolist() == [0, SCALE_LEVELS - 1]
    assert len(GAUSSIAN_TABLES.cdfs) == SCALE_LEVELS


def test_gaussian_bits_are_the_mass_of_the_unit_interval():
    scale = torch.tensor([0.3, 1.0, 7.0])
    for symbol in (0.0, 1.0, -3.0):
        normal = torch.distributions.Normal(0.0, scale.double())
        mass = normal.cdf(torch.tensor(symbol + 0.5)) - normal.cdf(torch.tensor(symbol - 0.5))
        bits = gaussian_bits(torch.full((3,), symbol), scale)
        shown = mass > 2**-16
        assert torch.allclose(bits[shown].double(), -mass.log2()[shown], atol=1e-3)
    total = torch.pow(2.0, -gaussian_bits(torch.arange(-60.0, 61), torch.tensor(7.0))).sum()
    assert math.isclose(total, 1, abs_tol=1e-3)


def test_training_estimate_has_gradients_even_for_outliers():
    values = torch.tensor([[[[200.0]]], [[[0.3]]]], requires_grad=True)
    scale = torch.full_like(values, 0.2).detach().requires_grad_()
    coder = BitEstimator(training=True)
    y_hat = coder.code_gaussian("y", values, torch.zeros_like(values), scale, 0.15)
    coder.bits["y"].sum().backward()
    assert values.grad.isfinite().all() and values.grad[0] != 0
    assert scale.grad.isfinite().all() and scale.grad[0] != 0
    assert coder.bits["y"].shape == (2,)
    assert torch.equal(y_hat.detach(), values.detach().round())
