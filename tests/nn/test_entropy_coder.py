import math
import os
import random
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from cmfr.nn.bit_estimator import BitEstimator
from cmfr.nn.densities import (
    DCVC_GAUSSIAN,
    DCVC_LAPLACIAN,
    GAUSSIAN,
    FactorizedBitEstimator,
    FactorizedDensity,
)
from cmfr.nn.entropy_coder import BadPayload, BitReader, BitWriter, DecodeMismatch
from cmfr.nn.payload import SMALL

SHAPE, LARGE = (1, 6, 9, 7), (1, 96, 9, 7)  # payloads in either form


def latents(seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(torch.rand(shape, generator=generator) * 6 - 2.5)
    mean = torch.randn(shape, generator=generator)
    values = mean + scale * torch.randn(shape, generator=generator)
    return values, mean, scale


def coded_by(coder, values, mean, scale, z, model, skip=0.15, density=GAUSSIAN):
    z_hat = coder.code_factorized("z", z, model, (1, 4, 3, 5))
    return z_hat, coder.code_latent("y", values, mean, scale, density, skip)


def trained_bottleneck():
    torch.manual_seed(1)
    model = FactorizedDensity(4)
    with torch.no_grad():
        for bias in model.biases:
            bias.mul_(2)
    return model


def published_bottleneck(sets=1):
    torch.manual_seed(1)
    model = FactorizedBitEstimator(4, sets)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model.at(torch.tensor([sets - 1]))


@pytest.mark.parametrize("density", [GAUSSIAN, DCVC_GAUSSIAN, DCVC_LAPLACIAN])
@pytest.mark.parametrize("kind", ["cmfr", "dcvc", "dcvc of 64 qualities"])
@pytest.mark.parametrize("shape", [SHAPE, LARGE])
def test_written_symbols_come_back_and_cost_what_was_estimated(density, kind, shape):
    values, mean, scale = latents(shape=shape)
    z = torch.randn(1, 4, 3, 5) * 4
    if kind == "cmfr":
        model = trained_bottleneck()
    else:
        model = published_bottleneck(64 if "64" in kind else 1)
    coded = partial(coded_by, density=density)
    estimator, writer = BitEstimator(training=False), BitWriter()
    with torch.no_grad():
        estimated = coded(estimator, values, mean, scale, z, model)
        written = coded(writer, values, mean, scale, z, model)
        payload = writer.finish()
        reader = BitReader(payload, 10000, torch.device("cpu"))
        read = coded(reader, None, mean, scale, None, model)
    reader.finish()
    for a, b, c in zip(estimated, written, read, strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)
    bits = float(sum(estimator.bits.values()))
    assert (len(payload) < SMALL) == (shape == SHAPE)
    # Of small payloads the checksum and the rest of a byte, of others the coder's state and words
    # too; the published estimate caps what a symbol costs.
    assert -50 < 8 * len(payload) - bits < (30 if shape == SHAPE else 150) + 0.004 * bits


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


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_latents_out_of_all_proportion_are_an_error(value):
    values, mean, scale = latents()
    values[0, 0, 0, 0] = value
    writer = BitWriter()
    with torch.no_grad():
        coded_by(writer, values, mean, scale, torch.zeros(1, 4, 3, 5), trained_bottleneck())
    with pytest.raises(ValueError, match="cannot code it"):
        writer.finish()


@pytest.mark.parametrize("shape", [SHAPE, LARGE])
def test_other_numbers_at_the_decoder_are_an_error_not_noise(shape):
    values, mean, scale = latents(shape=shape)
    z, model = torch.randn(1, 4, 3, 5) * 4, trained_bottleneck()
    writer = BitWriter()
    with torch.no_grad():
        coded_by(writer, values, mean, scale, z, model)
        reader = BitReader(writer.finish(), 10000, torch.device("cpu"))
        coded_by(reader, None, mean, scale * 1.5, None, model)
    with pytest.raises(DecodeMismatch):
        reader.finish()


def test_garbage_payload_is_refused():
    for payload in (bytes(SMALL), bytes(SMALL + 3)):
        with pytest.raises(ValueError, match="no entropy-coded frame"):
            BitReader(payload, 10, torch.device("cpu"))
    with pytest.raises(ValueError, match="6000002 bytes is no entropy-coded frame"):
        BitReader(bytes(6000002), 10000, torch.device("cpu"))
    for payload in (b"", b"abc", bytes(range(200)), b"abcdef" * 171):  # not seen at first
        with pytest.raises(BadPayload):
            read_payload(payload, 10000)


def read_payload(payload, limit):
    reader = BitReader(payload, limit, torch.device("cpu"))
    with torch.no_grad():
        _, mean, scale = latents()
        coded_by(reader, None, mean, scale, None, trained_bottleneck())
        reader.finish()


def cheap(coder, values, steps=12):
    """Many more symbols than a payload of their size usually has, in several steps."""
    scale = torch.full((1, 16, 64, 64), 0.2)
    given = values.chunk(steps) if values is not None else [None] * steps
    return [coder.code_latent("y", v, torch.zeros(1), scale, GAUSSIAN, 0.15) for v in given]


def test_cheap_symbols_take_more_zeros_behind_the_payload_and_come_back():
    writer = BitWriter()
    values = torch.randn(12, 16, 64, 64, generator=torch.Generator().manual_seed(3)) * 0.2
    with torch.no_grad():
        written = cheap(writer, values)
        payload = writer.finish()
        assert len(payload) > SMALL and values.numel() > 40 * len(payload)
        reader = BitReader(payload, values.numel(), torch.device("cpu"))
        read = cheap(reader, None)
    reader.finish()
    assert all(torch.equal(a, b) for a, b in zip(read, written, strict=True))
    assert reader._decoder._most >= values.numel()


def attack():
    """Payloads that make CompressAI's decoder read many times their length."""
    limit, rng = 400, random.Random(0)  # a reader of 380 symbols
    sizes = [size for size in (1026, 1502, 2402, 4402) for _ in range(8)]
    sizes += [200002, 600002, 1000002]
    for size in sizes:
        ones = b"\xff" * size
        mixed = bytes(rng.choice((255, 255, 255, rng.randrange(256))) for _ in range(size))
        for payload in (ones, bytes(9) + ones[9:], rng.randbytes(20) + ones[20:], mixed):
            with pytest.raises(BadPayload):
                read_payload(payload, max(limit, size // 6))
    for payload in (b"\xff" * 1026, rng.randbytes(1026), bytes(1026)):
        with suppress(BadPayload), torch.no_grad():
            cheap(BitReader(payload, 10**6, torch.device("cpu")), None)


def test_hostile_payloads_are_refused_and_end_nothing():
    """In a process of its own: what reads outside of its memory ends the process."""
    code = "import test_entropy_coder; test_entropy_coder.attack()"
    where = [str(Path(__file__).parents[1]), str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=1500,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(where)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("count", [0, 1])
def test_a_frame_of_hardly_any_symbol(count):
    """CompressAI's encoder writes outside of its memory there."""
    values = torch.full((1, 1, 1, 2), 3.0)
    mean, scale = torch.zeros_like(values), torch.tensor([float(count), 0.0]).view_as(values)
    writer = BitWriter()
    with torch.no_grad():
        written = writer.code_latent("y", values, mean, scale, GAUSSIAN, 0.15)
        payload = writer.finish()
        reader = BitReader(payload, 2, torch.device("cpu"))
        assert torch.equal(reader.code_latent("y", None, mean, scale, GAUSSIAN, 0.15), written)
    reader.finish()
    assert len(payload) <= 2 + 3 * count


def test_a_payload_on_the_border_of_the_two_forms():
    """Whatever its size, it is read in the form that it was written in."""
    model, lengths = trained_bottleneck(), set()
    z, mean = torch.zeros(1, 4, 3, 5), torch.zeros(1, 1, 1, 1)
    for count in range(960, 1040, 2):  # symbols of about 8 bits
        generator = torch.Generator().manual_seed(0)
        values = (torch.randn(1, 1, 1, count, generator=generator) * 60).round()
        scale = torch.full_like(values, 60)
        writer = BitWriter()
        with torch.no_grad():
            coded_by(writer, values, mean, scale, z, model)
            payload = writer.finish()
            reader = BitReader(payload, 10000, torch.device("cpu"))
            _, y = coded_by(reader, None, mean.expand_as(values), scale, None, model)
        reader.finish()
        assert torch.equal(y, values)
        lengths.add(len(payload))
    assert min(lengths) < SMALL <= max(lengths)


def test_scale_table_is_the_nearest_in_the_log_domain():
    for density, low, levels in (
        (GAUSSIAN, 0.11, 64), (DCVC_GAUSSIAN, 0.11, 256), (DCVC_LAPLACIAN, 0.01, 256),
    ):  # fmt: skip
        table = low * (64 / low) ** (torch.arange(levels) / (levels - 1))
        assert torch.equal(density.index(table), torch.arange(levels).int())
        assert density.index(torch.tensor([1e-9, 1e9])).tolist() == [0, levels - 1]
        assert len(density.tables.cdfs) == levels


def test_gaussian_bits_are_the_mass_of_the_unit_interval():
    scale = torch.tensor([0.3, 1.0, 7.0])
    for symbol in (0.0, 1.0, -3.0):
        normal = torch.distributions.Normal(0.0, scale.double())
        mass = normal.cdf(torch.tensor(symbol + 0.5)) - normal.cdf(torch.tensor(symbol - 0.5))
        bits = GAUSSIAN.training_bits(*2 * [torch.full((3,), symbol)], torch.zeros(3), scale)
        shown = mass > 2**-16
        assert torch.allclose(bits[shown].double(), -mass.log2()[shown], atol=1e-3)
    total = torch.pow(2.0, -GAUSSIAN.coded_bits(torch.arange(-60.0, 61), torch.tensor(7.0))).sum()
    assert math.isclose(total, 1, abs_tol=1e-3)


def test_published_bits_are_the_mass_and_a_floor():
    values = torch.tensor([0.0, 1.0, -3.0, 0.4, 40.0])
    scale = torch.tensor([0.3, 1.0, 7.0, 1e-7, 0.5])
    for density, kind in (
        (DCVC_GAUSSIAN, torch.distributions.Normal), (DCVC_LAPLACIAN, torch.distributions.Laplace),
    ):  # fmt: skip
        reference = kind(0.0, scale.double().clamp(min=1e-5))
        mass = reference.cdf(values.double() + 0.5) - reference.cdf(values.double() - 0.5)
        expected = (-torch.log2(mass + 1e-5)).clamp(min=0).float()
        assert torch.allclose(density.coded_bits(values, scale), expected, atol=1e-4)
        noise = torch.rand(5) - 0.5
        noisy = density.training_bits(values - noise, values, noise, scale)
        assert torch.allclose(noisy, expected, atol=1e-4)


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4, 1.0, 5.0])
def test_training_counts_what_coding_spends(spread):
    """With noise alone, latents that are mostly 0 would cost up to several times as much."""
    torch.manual_seed(0)
    values = spread * torch.randn(1, 8, 64, 64)
    mean, scale = torch.zeros_like(values), torch.full_like(values, spread)
    bits = []
    for training in (True, False):
        coder = BitEstimator(training)
        y_hat = coder.code_latent("y", values, mean, scale, GAUSSIAN, 0.15)
        bits.append(float(coder.bits["y"]))
    assert bits[0] == pytest.approx(bits[1], rel=0.03, abs=1e-6)
    assert torch.equal(y_hat, values.round() if spread >= 0.15 else mean)


def test_a_quality_has_its_own_density():
    torch.manual_seed(0)
    estimator = FactorizedBitEstimator(4, 64)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.normal_(0, 0.3)
    z = torch.randn(2, 4, 3, 3)
    together = estimator.at(torch.tensor([5, 40])).bits(z)
    for i, quality in enumerate((5, 40)):
        alone = estimator.at(torch.tensor([quality])).bits(z[i : i + 1])
        assert torch.allclose(together[i], alone[0])
    assert not torch.allclose(together[0], estimator.at(torch.tensor([40])).bits(z[:1])[0])


def test_training_estimate_has_gradients_even_for_outliers():
    values = torch.tensor([[[[200.0]]], [[[0.3]]]], requires_grad=True)
    scale = torch.full_like(values, 0.2).detach().requires_grad_()
    coder = BitEstimator(training=True)
    y_hat = coder.code_latent("y", values, torch.zeros_like(values), scale, GAUSSIAN, 0.15)
    coder.bits["y"].sum().backward()
    assert values.grad.isfinite().all() and values.grad[0] != 0
    assert scale.grad.isfinite().all() and scale.grad[0] != 0
    assert coder.bits["y"].shape == (2,)
    assert torch.equal(y_hat.detach(), values.detach().round())
