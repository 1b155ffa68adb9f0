"""The optimizer of a stage: AdamW, or Muon for convolutions and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cmfr.training.config import OptimizerConfig

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al., Muon, 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized (Jordan et al. 2024), for weights of convolutions.

    A weight [out, in, k, k] is taken as a matrix [out, in k k]. The update's root mean square is
    0.2, which is what AdamW's settle at (Liu et al. 2025), so that learning rates fit both.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """`found_inf`, set as for fused optimizers: 1 leaves the step out."""
        skip = getattr(self, "found_inf", None)
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
            for same in shapes.values():
                self._update(same, group["lr"], group["momentum"], skip)

    def _update(
        self, parameters: list[nn.Parameter], lr: float, momentum: float, skip: Tensor | None
    ) -> None:
        """Parameters of one shape, at once."""
        gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            buffers.append(state["momentum"])
        if skip is not None:  # a gradient that is the momentum leaves it as it is
            gradients = torch.where(skip > 0, torch.stack(buffers), gradients)
        torch._foreach_lerp_(buffers, list(gradients.unbind()), 1 - momentum)
        nesterov = torch.lerp(gradients, torch.stack(buffers), momentum)
        update = orthogonal(nesterov.flatten(2)).reshape(gradients.shape)
        size = 0.2 * max(update.shape[1], update[0, 0].numel()) ** 0.5
        if skip is not None:
            update.masked_fill_(skip > 0, 0)
        torch._foreach_add_(list[Tensor](parameters), list(update.unbind()), alpha=-lr * size)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices [n, rows, columns] with their singular values brought near 1."""
    a, b, c = _QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class StageOptimizer:
    """All optimizers of a stage as one. `state_dict` and `load_state_dict` as of any.

    lr: the learning rate of the last step.
    """

    def __init__(
        self, cfg: OptimizerConfig, named: Iterable[tuple[str, nn.Parameter]], lr: float
    ) -> None:
        self.lr = lr
        self.parameters: list[nn.Parameter] = []
        adamw: dict[float, list[nn.Parameter]] = {}
        muon: dict[float, list[nn.Parameter]] = {}
        for name, parameter in named:
            self.parameters.append(parameter)
            factor = 1.0
            for key, value in cfg.factors.items():
                factor *= value if key in name else 1
            is_matrix = (  # by name: the parameters of DCVC's densities have four dimensions too
                name.endswith("weight")
                and parameter.dim() == 4
                and min(len(parameter), parameter[0].numel()) >= 16
            )
            groups = muon if cfg.kind == "muon" and is_matrix else adamw
            groups.setdefault(factor, []).append(parameter)
        # Fused: one kernel, and steps with a gradient that is not finite are left out without
        # waiting for the device to say so.
        self.parts: list[torch.optim.Optimizer] = []
        if adamw:
            self.parts.append(
                torch.optim.AdamW(
                    _groups(adamw),
                    lr=lr,
                    betas=cfg.betas,
                    weight_decay=cfg.weight_decay,
                    fused=True,
                )
            )
        if muon:
            self.parts.append(Muon(_groups(muon), lr, cfg.momentum))

    def step(self, lr: float, found_inf: Tensor) -> None:
        """found_inf: 1 leaves the step out."""
        self.lr = lr
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["factor"]
            # How torch.amp tells a fused optimizer to leave a step out.
            part.found_inf = found_inf  # type: ignore[attr-defined]
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def _groups(by_factor: dict[float, list[nn.Parameter]]) -> list[dict[str, Any]]:
    return [{"params": params, "factor": factor} for factor, params in by_factor.items()]
