"""Every function gives the same bits in another order of sums, with other threads and libraries,
and about what PyTorch gives."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmfr.nn import densities, exact_sums, function_tables, portable
from cmfr.nn.layers import half_samples, resize_flow, warp
from cmfr.utils.errors import UserError


@pytest.fixture
def mode():
    return portable.PortableArithmetic()


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(inputs, outputs, kernel, stride=1, groups=1, bias=True):
    conv = torch.nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2 if kernel % 2 else 0, groups=groups, bias=bias
    )
    for value in conv.parameters():
        value.data = random(*value.shape, seed=value.numel())
    return conv.requires_grad_(False)


X = random(1, 24, 38, 54)
FLOW = random(1, 2, 38, 54, seed=1, scale=3)
# What the networks call; how far from PyTorch's own, relative to the largest result.
OPERATIONS = {
    "3x3": (layer(24, 12, 3), 1e-5),
    "3x3, stride 2": (layer(24, 12, 3, 2), 1e-5),
    "1x1": (layer(24, 40, 1), 1e-5),
    "1x1, stride 2": (layer(24, 12, 1, 2), 1e-5),
    "2x2, stride 2": (layer(24, 12, 2, 2, bias=False), 1e-5),
    "7x7": (layer(24, 8, 7), 1e-5),
    "depthwise": (layer(24, 24, 3, groups=24), 1e-5),
    "groups": (layer(24, 12, 1, groups=4), 1e-5),
    "half samples": (half_samples, 1e-5),
    "warp": (lambda x: warp(x, FLOW.to(x.device)), 1e-2),  # positions are rounded to 1/256
    "warp from a finer picture": (lambda x: warp(half_samples(x), FLOW.to(x.device), 2), 1e-2),
    # here positions are rounded to 1/16: these are there already
    "cubic warp": (lambda x: warp(x, (16 * FLOW).round().to(x.device) / 16, cubic=True), 1e-5),
    "half the size": (lambda x: resize_flow(x, 0.5), 1e-6),
    "twice the size": (lambda x: resize_flow(x, 2), 1e-6),
    "softmax": (lambda x: x.softmax(1), 1e-4),
    "sum": (lambda x: x.sum(1), 1e-6),
    "sum of few": (lambda x: x[:, :4].sum(1), 1e-6),
    "product of matrices": (lambda x: x[..., :8] @ x[:, :, :8, :9], 1e-6),
    "sigmoid": (lambda x: torch.sigmoid(8 * x), 2e-4),
    "tanh": (lambda x: torch.tanh(4 * x), 2e-4),
    "exp": (lambda x: torch.exp(3 * x), 1e-4),
    "exp2": (torch.exp2, 1e-4),
    "log": (lambda x: torch.log(x.abs() + 1e-3), 1e-4),
    "softplus": (F.softplus, 1e-4),
    "erfc": (torch.erfc, 1e-6),
    "division": (lambda x: 1 / (x / 3), 1e-6),
    "leaky ReLU": (lambda x: F.leaky_relu(x, 0.1), 0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bits_do_not_depend_on_threads_libraries_or_layout(mode, name):
    function, tolerance = OPERATIONS[name]
    with torch.inference_mode():
        plain = function(X)
        with mode:
            first = function(X)
            others = [function(X.to(memory_format=torch.channels_last))]
        if isinstance(function, torch.nn.Module):
            function = copy.deepcopy(function).to(memory_format=torch.channels_last)
            with mode:
                others.append(function(X))
        threads = torch.get_num_threads()
        try:
            for count in (1, 3):
                torch.set_num_threads(count)
                with torch.backends.mkldnn.flags(enabled=False), mode:
                    others.append(function(X))
        finally:
            torch.set_num_threads(threads)
        if torch.cuda.is_available():
            there = function.cuda() if isinstance(function, torch.nn.Module) else function
            with mode:
                others.append(there(X.cuda()).cpu())
    assert (first - plain).abs().max() <= tolerance * plain.abs().max()
    assert all(torch.equal(first, other) for other in others)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("name", ["3x3", "3x3, stride 2", "1x1", "7x7", "sum"])
def test_bits_do_not_depend_on_the_order_of_sums(mode, name):
    """Channels in another order; without the mode that does change bits."""
    function, _ = OPERATIONS[name]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))

    def turned():
        if name == "sum":
            return function(X[:, order])
        return F.conv2d(X[:, order], function.weight[:, order], function.bias, function.stride,
                        function.padding)  # fmt: skip

    assert not torch.equal(function(X), turned())
    with mode:
        assert torch.equal(function(X), turned())


def test_bands_do_not_show(mode, monkeypatch):
    """A convolution works on bands of rows: of any height, and at both ends of the picture."""
    for name in ("3x3", "3x3, stride 2", "2x2, stride 2", "7x7"):
        with mode:
            whole = OPERATIONS[name][0](X)
            for room in (1, 2**14):
                monkeypatch.setattr(exact_sums, "_BAND", {"cpu": room})
                assert torch.equal(OPERATIONS[name][0](X), whole)
            monkeypatch.undo()


def test_values_on_the_grid(mode):
    """20 bits below the largest, whatever its size; sums of the most terms are exact."""
    for scale in (1e-20, 1e-3, 1.0, 3e5):
        x = X * scale
        unit = 2.0 ** (math.floor(math.log2(x.abs().max())) + 1 - 20)
        snapped = exact_sums.on_grid(x)
        assert torch.equal((snapped.double() / unit).round(), snapped.double() / unit)
        assert (snapped - x).abs().max() <= unit / 2
    assert not exact_sums.on_grid(torch.zeros(3)).any()
    terms = exact_sums.MOST_TERMS
    one = torch.full((1, terms, 1, 1), 1 - 2.0**-20)
    with mode:
        total = F.conv2d(one, one)
        with pytest.raises(UserError, match=f"conv2d of {terms + 1} terms"):
            F.conv2d(one, torch.ones(1, terms + 1, 1, 1))
    assert float(total) == float(torch.tensor(terms * (1 - 2.0**-20) ** 2))


@pytest.mark.parametrize("function", ["exp2", "log2", "sigmoid", "tanh"])
def test_tables_are_the_same_with_any_c_library(function):
    """Values are rounded to multiples of 2^-23, and none is so near to the middle between two that
    the last bits of float64 decide."""
    from_middle = [abs(v * 2**23 % 1 - 0.5) for v in function_tables.exact_values(function)]
    assert min(from_middle) > 2**-24  # float64 is right to 2^-28 here
    table = function_tables.table(function, torch.device("cpu"))
    assert table.dtype == torch.float32 and len(table) == 65536


@pytest.mark.parametrize("name", ["GAUSSIAN", "DCVC_GAUSSIAN", "DCVC_LAPLACIAN"])
def test_tables_of_densities_are_the_same_with_any_c_library(mode, monkeypatch, name):
    density = getattr(densities, name)
    with mode:
        first = density._make_tables()
        exact, width = math.erfc, density.half_width
        monkeypatch.setattr(portable.math, "erfc", lambda v: exact(v) * (1 - 2**-50))
        monkeypatch.setattr(density, "half_width", lambda mass: width(mass) * (1 - 1e-7))
        assert density._make_tables() == first
        monkeypatch.undo()
        assert density.tables == first
    # Nearly those of the default arithmetic: to use one for the other costs no bits.
    assert density.tables.sizes == first.sizes and density.tables is not first
    for ours, theirs in zip(first.cdfs, density.tables.cdfs, strict=True):
        p, q = (np.diff(cdf)[:-1] / 65536 for cdf in (theirs, ours))  # but for the escape
        assert abs((p * np.log2(p / q)).sum()) < 0.01


def test_chosen_tables_are_those_of_the_default_arithmetic_or_neighbors(mode):
    scale = torch.logspace(-3, 3, 5000)
    with mode:
        index = densities.GAUSSIAN.index(scale)
    difference = (index - densities.GAUSSIAN.index(scale)).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.01


def test_what_is_not_known_is_refused(mode):
    with mode:
        for call in (
            lambda: X.cumsum(1),
            lambda: torch.add(X, X, alpha=2),
            lambda: X.mean(),
            lambda: X.flatten().sum(),
            lambda: F.avg_pool2d(X, 3),
            lambda: F.interpolate(X, scale_factor=3, mode="bilinear", align_corners=False),
            lambda: F.conv2d(X, torch.ones(1, 24, 3, 3), dilation=2),
            lambda: X[..., :24] @ X[:, :, :24],
        ):
            with pytest.raises(UserError, match="portable arithmetic does not know"):
                call()


def test_what_only_the_encoder_does_is_free(mode):
    assert not portable.active()
    with mode:
        assert portable.active()
        with portable.encoder_only():
            assert not portable.active()
            assert torch.equal(X.cumsum(1).sigmoid(), X.cumsum(1).sigmoid())
            with portable.encoder_only():
                pass
            assert not portable.active()
        assert portable.active()
        with pytest.raises(RuntimeError), portable.encoder_only():
            raise RuntimeError
        assert portable.active()
    assert not portable.active()
