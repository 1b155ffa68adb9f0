import torch

from cmfr.nn.coder import quantized
from cmfr.nn.densities import GAUSSIAN


def test_rate_distortion_optimized_quantization_costs_least():
    """In bits + weight * squared error, of rounding and of one nearer to 0; 0 is rounding."""
    torch.manual_seed(0)
    distance, scale = 3 * torch.randn(4000), torch.rand(4000) * 3 + 0.2
    assert torch.equal(quantized(distance, scale, GAUSSIAN, 0.0), distance.round())
    sums = []
    for rdoq in (2.0, 12.0, 1e4):
        chosen, rounded = quantized(distance, scale, GAUSSIAN, rdoq), distance.round()

        def cost(symbols, rdoq=rdoq):
            bits = GAUSSIAN.coded_bits(symbols, scale)
            return bits + rdoq * (distance - symbols).square()

        lower = rounded - rounded.sign()
        assert torch.all(cost(chosen) <= torch.minimum(cost(rounded), cost(lower)) + 1e-4)
        sums.append(chosen.abs().sum())
    assert sums[0] < sums[1] < sums[2] == rounded.abs().sum()
