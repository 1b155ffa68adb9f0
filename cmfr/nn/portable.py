"""Arithmetic that gives the same bits everywhere: any number of threads, any processor, oneDNN or
not, any memory layout, CPU or GPU, any version of PyTorch.

What a float32 network computes depends on the order of its sums, and on whose `exp` it calls.
Networks know nothing of it: `PortableArithmetic` is a mode in which every function of PyTorch that
they call is one of these, and any other is refused.

- `ALIKE` moves values, or makes each result of one addition, multiplication, division, comparison
  or rounding. IEEE 754 says what those give, and PyTorch runs them one by one.
- A sum (convolution, mean of a window, interpolation, sum over a dimension) is *exact*, so that its
  order does not matter: its terms are put on a grid first, whole multiples of a power of two, so
  coarse that products and sums of them fit the 53 bits of a float64. Then it is rounded to float32
  once. Sums of few terms are written out in their order instead.
- Exponentials, logarithms and sigmoids are read from tables, on grids.

The encoder runs all that in the mode which the decoder runs too, and no more: `encoder_only` marks
what only chooses symbols. The idea that integer networks make streams portable is Ballé, Johnston,
Minnen: "Integer Networks for Data Compression with Latent-Variable Models", ICLR 2019; that whole
numbers in float64 do it with the layers as they are, after training, and the grids, are ours.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cmfr.nn.exact_sums import MOST_TERMS, convolve, exact, on_grid
from cmfr.nn.function_tables import erfc, exp, exp2, log, look_up, softplus
from cmfr.utils.errors import UserError

# Where something is warped, flows are rounded to 1/256 sample; between 4x4 samples, where weights
# are products of cubes, to 1/16: that makes 28 bits, and samples have 20.
_SUBSAMPLES = {"bilinear": 256.0, "bicubic": 16.0}
_FEW = 8  # up to so many terms a sum is written out
# Functions of PyTorch that are the same everywhere, by name. Moves:
_MOVES = """
    __get__ size dim numel stride is_contiguous is_floating_point get_device __len__ __bool__
    __int__ __float__ __index__ item tolist numpy cpu to type float double int short long bool
    view pin_memory reshape flatten unflatten permute transpose unsqueeze squeeze contiguous
    clone detach expand repeat repeat_interleave cat stack chunk split unbind narrow
    __getitem__ __setitem__ gather index_select flip pad pixel_shuffle pixel_unshuffle where
    nonzero meshgrid new_zeros new_empty zeros_like empty_like ones_like zeros ones empty full
    arange tensor _set_grad_enabled
""".split()
# One operation for each result:
_OPERATIONS = """
    add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ rsub mul mul_ __mul__
    __rmul__ __imul__ neg __neg__ abs sign round round_ floor ceil clamp clamp_ clamp_min minimum
    maximum max min amax amin aminmax argmax argmin relu leaky_relu square nan_to_num max_pool2d eq
    ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_and logical_or logical_not
    __and__ __or__ __invert__ __rshift__ any all isfinite isnan remainder equal
""".split()
ALIKE = frozenset(_MOVES + _OPERATIONS)

_modes: list[PortableArithmetic] = []


def active() -> bool:
    """Whether what runs now must be portable."""
    return bool(_modes) and not _modes[-1].free


@contextlib.contextmanager
def encoder_only() -> Iterator[None]:
    """What runs in it only chooses symbols: decoders need not repeat it, any arithmetic will do.
    A decorator too."""
    before = [mode.free for mode in _modes]
    for mode in _modes:
        mode.free = True
    try:
        yield
    finally:
        for mode, free in zip(_modes, before, strict=True):
            mode.free = free


class PortableArithmetic(TorchFunctionMode):
    """The mode; see above. It keeps the weights that it has rounded, so use one for a model.

    A function that it does not know raises UserError.
    """

    def __init__(self) -> None:
        super().__init__()
        self.free = False
        self._taps: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> PortableArithmetic:
        _modes.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _modes.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.free:
            return func(*args, **kwargs)
        name = func.__name__
        if name in ALIKE:
            if kwargs.get("alpha", 1) != 1 or kwargs.get("decimals"):
                raise _unknown(f"{name} with a factor")
            return func(*args, **kwargs)
        if name == "conv2d":
            return self._conv2d(*args, **kwargs)
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*args, **kwargs)
        raise _unknown(name)

    def _conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        if _pair(dilation) != (1, 1) or isinstance(padding, str):
            raise _unknown("conv2d with dilation or a named padding")
        if weight[0].numel() > MOST_TERMS:
            raise _unknown(f"conv2d of {weight[0].numel()} terms")
        x, taps = on_grid(x.float()), self._kernel(weight, groups)
        if bias is not None:
            bias = bias.double()[:, None, None]
        size = [
            (side + 2 * pad - kernel) // step + 1
            for side, pad, kernel, step in zip(
                x.shape[2:], _pair(padding), weight.shape[2:], _pair(stride), strict=True
            )
        ]
        out = x.new_empty(len(x), len(weight), *size)
        for picture, result in zip(x, out, strict=True):
            convolve(picture, taps, bias, _pair(stride), _pair(padding), result)
        return out

    def _kernel(self, weight: Tensor, groups: int) -> Tensor:
        """weight [O, C/groups, k, l] on a grid, as float64 [k, l, groups, O/groups, C/groups];
        kept for parameters."""
        kept = self._taps.get(id(weight))
        if kept is not None and kept[0] is weight:
            return kept[1]
        taps = on_grid(weight.detach().float()).double().unflatten(0, (groups, -1))
        taps = taps.permute(3, 4, 0, 1, 2).contiguous()
        if isinstance(weight, torch.nn.Parameter):
            self._taps[id(weight)] = weight, taps
        return taps


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _unknown(what: str) -> UserError:
    return UserError(f"portable arithmetic does not know {what}; see cmfr/nn/portable.py")


# --- sums


def _sum(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    if not x.is_floating_point():
        return x.sum() if dim is None else x.sum(dim, keepdim=keepdim)
    if isinstance(dim, int) and x.shape[dim] <= _FEW:
        total = _in_order(x.unbind(dim))
        return total.unsqueeze(dim) if keepdim else total
    terms = x.numel() if dim is None else x.shape[dim]
    if terms > 4096:
        raise _unknown(f"a sum of {terms} terms")
    whole = exact(x)
    return (whole.sum() if dim is None else whole.sum(dim, keepdim=keepdim)).to(x.dtype)


def _in_order(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-1] > _FEW:
        raise _unknown(f"a matrix product of {a.shape[-1]} terms")
    return _in_order([a[..., k, None] * b[..., k, None, :] for k in range(a.shape[-1])])


def _softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    powers = exp(x - x.amax(dim, keepdim=True))
    return powers / _sum(powers, dim, keepdim=True)


def _avg_pool2d(x: Tensor, kernel_size: int | Sequence[int], *more: Any, **options: Any) -> Tensor:
    if math.log2(math.prod(_pair(kernel_size))) % 1 or more or options:
        raise _unknown("avg_pool2d of a window that has no power of two samples")
    return F.avg_pool2d(exact(x), _pair(kernel_size)).to(x.dtype)


def _interpolate(
    x: Tensor,
    size: Any = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Linear by a power of two: positions and weights are fractions of few bits."""
    linear = mode == "bilinear" and align_corners is False and size is None and not antialias
    if not linear or scale_factor not in (2, 4, 8):
        raise _unknown("interpolate but for bilinear to 2, 4 or 8 times the size")
    larger = F.interpolate(
        exact(x), scale_factor=scale_factor, mode="bilinear", align_corners=False
    )
    return larger.to(x.dtype)


def _grid_sample(
    x: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Positions are rounded (`_SUBSAMPLES`). In a picture of 2^n + 1 samples they are then exact in
    the units of `grid` too, so that PyTorch's own sampling is."""
    if mode not in _SUBSAMPLES or (padding_mode, align_corners) != ("border", True):
        raise _unknown("grid_sample but for bilinear or bicubic, border, align_corners")
    fraction = _SUBSAMPLES[mode]
    positions, whole = [], []
    for side, place in zip(x.shape[:1:-1], grid.unbind(-1), strict=True):
        # From here on exact, so that it does not matter how the caller got there.
        sample = ((place + 1) * ((side - 1) / 2)).clamp(0, side - 1)
        power = max(side - 2, 1).bit_length()
        positions.append((sample * fraction).round().double() * (2.0 ** (1 - power) / fraction) - 1)
        whole.append(2**power + 1)
    source = x[:1] if x.stride(0) == 0 else x  # one picture, sampled several times
    height, width = x.shape[2:]
    # No position reaches further than two samples outside: the rest is never read, nor written.
    padded = x.new_empty(*source.shape[:2], whole[1], whole[0], dtype=torch.float64)
    padded[..., :height, :width] = on_grid(source) if mode == "bicubic" else exact(source)
    padded[..., :height, width : width + 2] = padded[..., :height, width - 1 : width]
    padded[..., height : height + 2, : width + 2] = padded[..., height - 1 : height, : width + 2]
    moved = F.grid_sample(
        padded.expand(len(x), -1, -1, -1),
        torch.stack(positions, -1),
        mode,
        padding_mode="border",
        align_corners=True,
    )
    return moved.to(x.dtype)


# --- one value for each value


def _divided(x: Tensor | float, by: Tensor | float) -> Tensor:
    """A GPU multiplies with the inverse of a plain number, but divides by a tensor."""
    like = x if isinstance(x, Tensor) else by
    assert isinstance(like, Tensor)
    dtype = like.dtype if like.is_floating_point() else torch.float32
    a, b = (
        v if isinstance(v, Tensor) else torch.full((), v, dtype=dtype, device=like.device)
        for v in (x, by)
    )
    return torch.true_divide(a, b)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "sum": _sum,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "softmax": _softmax,
    "avg_pool2d": _avg_pool2d,
    "interpolate": _interpolate,
    "grid_sample": _grid_sample,
    "div": _divided,
    "__truediv__": _divided,
    "true_divide": _divided,
    "__rtruediv__": lambda x, by: _divided(by, x),
    "__rdiv__": lambda x, by: _divided(by, x),
    "reciprocal": lambda x: _divided(1, x),
    "diff": lambda x: x[..., 1:] - x[..., :-1],
    "sigmoid": lambda x: look_up(x, "sigmoid"),
    "tanh": lambda x: look_up(x, "tanh"),
    "exp": exp,
    "exp2": exp2,
    "log": log,
    "softplus": softplus,
    "erfc": erfc,
}
