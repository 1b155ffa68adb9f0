"""What symbols cost: densities of latents given a scale, and of hyper-latents.

A density answers twice: in bits, for estimates and for training, and as quantized cumulative
tables, for the rANS coder. CMFR's are CompressAI's Gaussian and factorized density; DCVC's are a
Laplacian (P-frames), a Gaussian (I-frames) and a factorized density of its own, with the bit
estimate as published (dcvc_bits). The only module that imports CompressAI's entropy models.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cmfr.nn import portable
from cmfr.nn.dcvc_density import CumulativeStage, dcvc_bits
from cmfr.nn.halving import first_outside

import cmfr.nn.compressai_alone  # noqa: F401 isort: skip
from compressai.entropy_models import EntropyBottleneck, GaussianConditional  # isort: skip

_LIKELIHOOD_FLOOR = 1e-9


@dataclass(frozen=True)
class CdfTables:
    """Quantized cumulative distributions as the rANS coder takes them, converted once.

    cdfs: one list per table, each as long as its entry in `sizes`.
    offsets: the smallest symbol of each. Symbols beyond a table cost an escape code.
    """

    cdfs: list[list[int]]
    sizes: list[int]
    offsets: list[int]

    @classmethod
    def of_probabilities(
        cls, mass: Tensor, first: Tensor, length: Tensor, tail: Tensor | None = None
    ) -> CdfTables:
        """mass [n, L]: of symbols first, first + 1, ... of each of n tables, `length` of them;
        tail [n, 1]: of all others (default: what is left)."""
        if tail is None:
            kept = torch.arange(mass.shape[1]) < length[:, None]
            tail = (1 - (mass * kept).sum(1, keepdim=True)).clamp(min=0)
        rows = GaussianConditional(None)._pmf_to_cdf(mass, tail, length, int(length.max())).tolist()
        # Rows are padded to the longest; the coder would convert the padding on every call.
        sizes = (length + 2).tolist()
        cdfs = [row[:size] for row, size in zip(rows, sizes, strict=True)]
        return cls(cdfs, sizes, first.tolist())


class Density(ABC):
    """A zero-mean density of whole symbols with a scale; its tables cover `levels` scales between
    `low` and `high`, evenly in the log domain."""

    # Tables end where so little is left on both sides together, or at `reach` symbols.
    tail_mass, reach = 1e-9, math.inf

    def __init__(self, low: float, high: float, levels: int) -> None:
        self.low, self.levels = low, levels
        self._log_step = math.log(high / low) / (levels - 1)
        self._tables: dict[bool, CdfTables] = {}

    @abstractmethod
    def cumulative(self, x: Tensor) -> Tensor:
        """Mass below x of the density of scale 1, accurate for x <= 0."""

    @abstractmethod
    def half_width(self, mass: float) -> float:
        """How far from 0, at scale 1, all but `mass` lies."""

    @abstractmethod
    def training_bits(
        self, distance: Tensor, symbols: Tensor, noise: Tensor, scale: Tensor
    ) -> Tensor:
        """Bits of real distances from the mean, with gradients; same shape.

        symbols: what they are quantized to.
        noise: in [-0.5, 0.5), stands for that.
        """

    @abstractmethod
    def coded_bits(self, symbols: Tensor, scale: Tensor) -> Tensor:
        """Bits of whole symbols as they are coded; same shape."""

    def index(self, scale: Tensor) -> Tensor:
        """Nearest table in the log domain, int32, same shape."""
        index = torch.log(scale / self.low).div(self._log_step).round()
        return index.clamp(0, self.levels - 1).int()

    def table_scale(self, index: Tensor) -> Tensor:
        """The scale of a table."""
        return self.low * torch.exp(self._log_step * index)

    def mass(self, values: Tensor, scale: Tensor) -> Tensor:
        """Mass of [value - 1/2, value + 1/2]."""
        magnitude = values.abs()
        upper = self.cumulative((0.5 - magnitude) / scale)
        return upper - self.cumulative((-0.5 - magnitude) / scale)

    @property
    def tables(self) -> CdfTables:
        """Made once; those of portable arithmetic are others."""
        if (key := portable.active()) not in self._tables:
            self._tables[key] = self._make_tables()
        return self._tables[key]

    def _make_tables(self) -> CdfTables:
        scales = self.table_scale(torch.arange(self.levels))
        wanted = scales * self.half_width(self.tail_mass)
        center = wanted.clamp(max=self.reach).ceil().int()
        # One row per scale: symbols -center .. center, then whatever fills the row.
        symbols = torch.arange(2 * int(center.max()) + 1) - center[:, None]
        mass = self.mass(symbols.float(), scales[:, None])
        return CdfTables.of_probabilities(mass, -center, 2 * center + 1)


class Gaussian(Density):
    """CMFR's Gaussian: what the coder really spends."""

    def cumulative(self, x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-math.sqrt(0.5) * x)

    def half_width(self, mass: float) -> float:
        with portable.encoder_only():  # of which whole symbols are made
            exact = torch.tensor(1 - mass, dtype=torch.float64)
            return math.sqrt(2) * float(torch.special.erfinv(exact))

    def training_bits(
        self, distance: Tensor, symbols: Tensor, noise: Tensor, scale: Tensor
    ) -> Tensor:
        """The bits of the symbols. The scale gets their gradient; the distance, which they do not
        change smoothly, that of the bits with noise: those alone are too many by half and more
        where most symbols are 0 (25 % of the payload at the top, 250 % at the bottom)."""
        scale = scale.clamp(min=self.low)
        both = (torch.cat((symbols, distance + noise)), torch.cat((scale, scale.detach())))
        coded, noisy = self._bits(*both).chunk(2)
        return coded + (noisy - noisy.detach())

    def _bits(self, values: Tensor, scale: Tensor) -> Tensor:
        """Of real values; a straight line where the mass is too small for a gradient."""
        mass = self.mass(values, scale)
        bits = -torch.log2(mass.clamp(min=_LIKELIHOOD_FLOOR))
        return bits + (mass < _LIKELIHOOD_FLOOR) * (values.abs() / (scale * math.sqrt(2)))

    def coded_bits(self, symbols: Tensor, scale: Tensor) -> Tensor:
        # The coder's 16-bit tables know no smaller probability, and a symbol beyond them costs
        # about another byte of escape code.
        mass = self.mass(symbols, self.table_scale(self.index(scale)))
        bits = -torch.log2(mass.clamp(min=_LIKELIHOOD_FLOOR))
        return bits.clamp(max=16) + 8 * (mass < _LIKELIHOOD_FLOOR)


class DCVCGaussian(Gaussian):
    """DCVC's Gaussian, of its I-frames: the same estimate in training and coding."""

    reach = 128

    def training_bits(
        self, distance: Tensor, symbols: Tensor, noise: Tensor, scale: Tensor
    ) -> Tensor:
        return self.coded_bits(distance + noise, scale)

    def coded_bits(self, symbols: Tensor, scale: Tensor) -> Tensor:
        return dcvc_bits(self.mass(symbols, scale.clamp(min=1e-5)))


class DCVCLaplacian(DCVCGaussian):
    """DCVC's Laplacian, of its P-frames; the scale is b in exp(-|x| / b) / 2b."""

    def cumulative(self, x: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-x.abs())
        return torch.where(x < 0, tail, 1 - tail)

    def half_width(self, mass: float) -> float:
        return -math.log(mass)


GAUSSIAN = Gaussian(0.11, 64.0, 64)
DCVC_GAUSSIAN = DCVCGaussian(0.11, 64.0, 256)
DCVC_LAPLACIAN = DCVCLaplacian(0.01, 64.0, 256)


class HyperDensity(Protocol):
    """A density per channel of hyper-latents that are rounded to whole numbers."""

    @property
    def tables(self) -> CdfTables | None:
        """What `make_tables` built last, if anything."""
        ...

    def bits(self, z: Tensor) -> Tensor:
        """-log2 likelihood of z [B, C, H, W], any real values; same shape."""
        ...

    def make_tables(self) -> CdfTables:
        """Build (and keep) the tables, one per channel."""
        ...


class FactorizedDensity(EntropyBottleneck):
    """CMFR's factorized density: CompressAI's, rounded to whole numbers (no median offset).

    CompressAI learns the tails of its tables with an auxiliary loss; here they are found when the
    tables are made, so that there is no second optimizer and no stale table.
    It starts narrow: at CompressAI's scale of 10 a hyper-latent costs 6.5 bits a symbol.
    """

    REACH = 4096  # tables cover -REACH .. REACH at most
    # What CompressAI computes from the weights: no part of a weights file.
    DERIVED = ("quantiles", "target", "_quantized_cdf", "_cdf_length", "_offset")

    def __init__(self, channels: int) -> None:
        super().__init__(channels, tail_mass=1e-6, init_scale=0.5)
        self.quantiles.requires_grad_(False)
        self._made: dict[bool, CdfTables] = {}

    @property
    def tables(self) -> CdfTables | None:
        return self._made.get(portable.active())

    def drop_tables(self) -> None:
        self._made.clear()

    def bits(self, z: Tensor) -> Tensor:
        """-log2 likelihood of z [B, C, H, W], any real values; same shape."""
        values = z.transpose(0, 1)
        flat = values.reshape(z.shape[1], 1, -1)
        both = self._logits_cumulative(torch.cat((flat - 0.5, flat + 0.5), 2), stop_gradient=False)
        lower, upper = both.sigmoid().chunk(2, 2)
        likelihood = (upper - lower).clamp(min=_LIKELIHOOD_FLOOR)
        return -torch.log2(likelihood).reshape(values.shape).transpose(0, 1)

    @torch.no_grad()
    def make_tables(self) -> CdfTables:
        """Find the tails and build (and keep) the CDF tables, in float64 on the CPU: all devices
        must agree. Those of portable arithmetic are others."""
        with portable.encoder_only():
            exact = copy.deepcopy(self).cpu().double()
        signs, tail = torch.tensor([-1.0, 1.0]).double(), math.log(2 / self.tail_mass - 1)

        def inside(count: Tensor) -> Tensor:  # within the tails, down and up: [C, 1, 2]
            return exact._logits_cumulative(count * signs, stop_gradient=True) * signs < tail

        ends = first_outside(inside, (self.channels, 1, 2), self.REACH)
        first, length = -ends[:, 0, 0], ends[:, 0].sum(1).int() + 1
        symbols = torch.arange(int(length.max())) + first[:, None, None]
        mass, lower, upper = exact._likelihood(symbols.double(), stop_gradient=True)
        rest = lower[:, 0, :1].sigmoid() + (-upper[:, 0, -1:]).sigmoid()
        made = CdfTables.of_probabilities(mass[:, 0].float(), first, length, rest.float())
        self._made[portable.active()] = made
        return made


class FactorizedBitEstimator(nn.Module):
    """DCVC's factorized density: a cumulative of four stages. With several `sets` of parameters
    the quality index chooses one (DCVC-FM's I-frames have 64)."""

    REACH = 128  # tables cover -REACH .. REACH at most

    def __init__(self, channels: int, sets: int = 1) -> None:
        super().__init__()
        self.channels, self.sets = channels, sets
        self.stages = nn.ModuleList(CumulativeStage(sets, channels, i == 3) for i in range(4))
        self._made: dict[tuple[bool, int], CdfTables] = {}

    def at(self, quality: Tensor) -> HyperDensity:
        """The density of a batch of qualities [B]."""
        return _BitEstimatorAt(self, quality)

    def logits(self, x: Tensor, chosen: Tensor | int) -> Tensor:
        """x [B, C, H, W]; `chosen`: a set for each sample [B], or for all of them."""
        if isinstance(chosen, int):
            chosen = torch.tensor([chosen], device=x.device)
        for stage in self.stages:
            x = stage(x, chosen)
        return x

    def tables(self, chosen: int) -> CdfTables | None:
        return self._made.get((portable.active(), chosen))

    def drop_tables(self) -> None:
        self._made.clear()

    @torch.no_grad()
    def make_tables(self, chosen: int) -> CdfTables:
        """Tables of one set, from float64 on the CPU (kept; portable ones are others)."""
        with portable.encoder_only():
            on_cpu = FactorizedBitEstimator(self.channels, self.sets).double()
            on_cpu.load_state_dict(self.state_dict())
        edges = torch.arange(-self.REACH, self.REACH + 2).double() - 0.5
        cumulative = on_cpu.logits(edges[None, None, None], chosen).sigmoid()[0, :, 0]
        mass = cumulative.diff().clamp(min=0)
        # Each channel's table goes from its first to its last symbol that ever happens.
        happens = mass > 1e-7
        happens[:, self.REACH] = True
        first = happens.int().argmax(1)
        length = mass.shape[1] - first - happens.flip(1).int().argmax(1)
        position = (first[:, None] + torch.arange(int(length.max()))).clamp(max=mass.shape[1] - 1)
        rows = mass.gather(1, position).float()
        first = (first - self.REACH).int()
        made = CdfTables.of_probabilities(rows, first, length.int())
        return self._made.setdefault((portable.active(), chosen), made)


class _BitEstimatorAt:
    """A `FactorizedBitEstimator` for the qualities of one batch."""

    def __init__(self, estimator: FactorizedBitEstimator, quality: Tensor) -> None:
        self.estimator = estimator
        self.chosen = quality if estimator.sets > 1 else torch.zeros_like(quality)

    def bits(self, z: Tensor) -> Tensor:
        both = self.estimator.logits(torch.cat((z - 0.5, z + 0.5), 3), self.chosen)
        lower, upper = both.sigmoid().chunk(2, 3)
        return dcvc_bits(upper - lower)

    @property
    def tables(self) -> CdfTables | None:
        return self.estimator.tables(self._set())

    def make_tables(self) -> CdfTables:
        return self.estimator.make_tables(self._set())

    def _set(self) -> int:
        """The set of a batch of one. Only where there is a choice is the device waited for."""
        return int(self.chosen[0]) if self.estimator.sets > 1 else 0


def make_tables(module: nn.Module) -> None:
    """Build the entropy tables of every factorized density in `module` (after loading or
    training)."""
    drop_tables(module)
    for part in module.modules():
        if isinstance(part, FactorizedDensity):
            part.make_tables()
        elif isinstance(part, FactorizedBitEstimator) and part.sets == 1:
            part.make_tables(0)  # of many sets only those are built that are used


def drop_tables(module: nn.Module) -> None:
    """Forget all tables: the weights have changed."""
    for part in module.modules():
        if isinstance(part, FactorizedDensity | FactorizedBitEstimator):
            part.drop_tables()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without what the entropy tables derive from it."""
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.rpartition(".")[2] not in FactorizedDensity.DERIVED
    }
